//! What a call of the model becomes before anything happens: its intent, a question to a person, or its refusal.

use rune_network::AgentAddress;
use rune_spec::{AgentRef, ApprovalDefault, TOOL_SEARCH};
use rune_store_runtime::{
    ApprovalAnswer, ApprovalDecision, ApprovalId, ApprovalQuestion, AuditVerdict, Block, EntryBody,
    ErrorCode, Failure, GrantQuery, GrantRow, PolicyVerdict, StoreError, ToolIntent,
};
use serde_json::Value;

use super::{ToolDispatcher, refusal};
use crate::agent::{AGENT_SPAWN, AgentTool, Tool, ToolRunner, named_agent, visible};
use crate::planner::{Approval, OpenCall};
use crate::policy::{self, PolicyCallee, PolicyResource};

impl ToolDispatcher<'_> {
    /// What a call of the model becomes: the entries that are committed before anything
    /// happens. The last one is its intent, its question to a person, or its refusal.
    ///
    /// # Errors
    /// A [`StoreError`] where what a person said earlier cannot be read.
    pub(crate) async fn plan(&self, call: &OpenCall) -> Result<Vec<EntryBody>, StoreError> {
        let step = call.step;
        let Block::ToolCall {
            id, name, input, ..
        } = &call.block
        else {
            return Ok(Vec::new());
        };
        let refuse = |tool: &str, code, message: String| {
            EntryBody::ToolResult(refusal(step, id, tool, Failure::new(code, message)))
        };
        let Some(tool) = self.agent.tool(name) else {
            if let Some(trouble) = self.agent.mcp_trouble(name) {
                return Ok(vec![refuse(name, ErrorCode::Unavailable, trouble)]);
            }
            let known = self.agent.definitions().iter();
            let known: Vec<&str> = known.map(|tool| tool.name.as_str()).collect();
            let message = match known.as_slice() {
                [] => format!("there is no tool `{name}`; this agent has no tools"),
                known if self.agent.defers() => format!(
                    "there is no tool `{name}`; `{}` finds those that are not shown, and these are: {}",
                    visible(TOOL_SEARCH),
                    known.join(", ")
                ),
                known => format!(
                    "there is no tool `{name}`; the tools are: {}",
                    known.join(", ")
                ),
            };
            return Ok(vec![refuse(name, ErrorCode::NotFound, message)]);
        };
        if let Value::String(text) = input {
            let head: String = text.chars().take(200).collect();
            let message = format!("the arguments are not a JSON object: {head}");
            return Ok(vec![refuse(&tool.name, ErrorCode::InvalidInput, message)]);
        }
        if let Err(mismatch) = tool.check_input(input) {
            let message = format!("the input does not match the tool's schema: {mismatch}");
            return Ok(vec![refuse(&tool.name, ErrorCode::InvalidInput, message)]);
        }
        let callee = match &tool.runner {
            ToolRunner::Agent(agent) => match self.callee(agent, input, step, id).await {
                Ok(callee) => callee,
                Err(failure) => {
                    let denied = self.denied(agent, input, (step, id), &failure);
                    let refused = refuse(&tool.name, failure.code, failure.message);
                    return Ok(denied.into_iter().chain([refused]).collect());
                }
            },
            ToolRunner::Builtin(_) if tool.name == AGENT_SPAWN => match self.spawned(input).await {
                Ok(callee) => Some(callee),
                Err(failure) => {
                    return Ok(vec![refuse(&tool.name, failure.code, failure.message)]);
                }
            },
            ToolRunner::Builtin(_)
            | ToolRunner::Process(_)
            | ToolRunner::Wasm(_)
            | ToolRunner::Container(_)
            | ToolRunner::Mcp(_) => None,
        };
        let is_agent = matches!(tool.runner, ToolRunner::Agent(_));
        let intent = ToolIntent {
            step,
            call_id: id.clone(),
            tool: tool.name.clone(),
            input: input.clone(),
            // The same call finds the same request of the callee again; one of an agent elsewhere finds out whether it may.
            idempotent: is_agent
                || callee.is_some()
                || tool.descriptor.idempotent
                || tool.descriptor.read_only,
            idempotency_key: format!("{}-{id}", self.request_id),
        };
        // Who approved another tool under this name, of a server whose list has changed since, is asked again.
        let given = call.approval.as_ref().and_then(Approval::given);
        let counts = |answer: &ApprovalAnswer, asked: &str| {
            answer.decision == ApprovalDecision::Deny || asked == tool.name
        };
        if let Some((answer, asked)) = given
            && counts(answer, asked)
        {
            return Ok(match answer.decision {
                ApprovalDecision::Approve => self.intended(tool, intent),
                ApprovalDecision::Deny => {
                    let note = answer.note.as_deref().unwrap_or("no reason was given");
                    let message = format!("`{}` denied this call: {note}", answer.by);
                    vec![refuse(&tool.name, ErrorCode::Denied, message)]
                }
            });
        }
        let verdicts = self.verdicts(tool, &intent, callee.as_ref()).await?;
        let mut all = verdicts.iter();
        let denied = all.find(|verdict| verdict.verdict == AuditVerdict::Denied);
        let decided = if let Some(verdict) = denied {
            let message = format!("policy denies this call: {}", verdict.reason);
            vec![refuse(&tool.name, ErrorCode::Denied, message)]
        } else if asking(&verdicts).next().is_some() {
            vec![EntryBody::ApprovalAsked(self.question(intent, &verdicts))]
        } else {
            self.intended(tool, intent)
        };
        let verdicts = verdicts.into_iter().map(EntryBody::PolicyVerdict);
        Ok(verdicts.chain(decided).collect())
    }

    fn question(&self, intent: ToolIntent, verdicts: &[PolicyVerdict]) -> ApprovalQuestion {
        let asking = asking(verdicts);
        let reason = asking.clone().next().map(|verdict| verdict.reason.clone());
        let approval = &self.agent.spec().policy.approval;
        ApprovalQuestion {
            approval_id: ApprovalId::generate(),
            step: intent.step,
            call_id: intent.call_id,
            tool: intent.tool,
            input: intent.input,
            reason: reason.unwrap_or_default(),
            policies: policies(asking),
            deadline: approval.timeout.map(|time| self.store.now().plus(time)),
            default: match approval.default {
                ApprovalDefault::Approve => ApprovalDecision::Approve,
                ApprovalDefault::Deny => ApprovalDecision::Deny,
            },
        }
    }

    /// The agent that a tool calls.
    ///
    /// # Errors
    /// A failure that says why it may not be called.
    async fn callee(
        &self,
        agent: &AgentTool,
        input: &Value,
        step: u32,
        call_id: &str,
    ) -> Result<Option<PolicyCallee>, Failure> {
        let target = match agent.target(input)? {
            AgentRef::Local(local) => local,
            AgentRef::Url(url) => {
                // Policies see the hosts that it connects to.
                if self.tape.is_none_or(|tape| !tape.intended(step, call_id)) {
                    self.agents.admit_remote(&url, agent.max_depth)?;
                }
                return Ok(None);
            }
        };
        // In a replay, whoever was called then can be called, and was what policy saw then.
        let known = self.tape.and_then(|tape| tape.callee(step, call_id));
        let address = match self.tape {
            Some(tape) if known.is_some() || tape.intended(step, call_id) => {
                AgentAddress::resolve(&target, self.namespace)
            }
            _ => self.agents.admit(&target, agent.max_depth).await?,
        };
        Ok(Some(match known {
            Some(known) => known,
            None => self.agents.callee(&address).await?,
        }))
    }

    /// What the audit trail keeps of an agent that may not be called, where a rule of the network says so.
    fn denied(
        &self,
        agent: &AgentTool,
        input: &Value,
        (step, call_id): (u32, &str),
        failure: &Failure,
    ) -> Option<EntryBody> {
        let target = agent.target(input).ok()?;
        (failure.code == ErrorCode::Denied).then(|| {
            EntryBody::PolicyVerdict(self.agents.network_verdict(
                step,
                call_id,
                &target,
                &failure.message,
            ))
        })
    }

    /// The agent that a call starts a request of, as policy sees it; the rules of calling are kept when it is started.
    async fn spawned(&self, input: &Value) -> Result<PolicyCallee, Failure> {
        let address = AgentAddress::resolve(&named_agent(input)?, self.namespace);
        self.agents.callee(&address).await
    }

    /// The intent of a call and, where the tool is an agent, the entry that names the
    /// agent's request.
    fn intended(&self, tool: &Tool, intent: ToolIntent) -> Vec<EntryBody> {
        let called = match &tool.runner {
            ToolRunner::Agent(agent) => match agent.target(&intent.input) {
                Ok(AgentRef::Local(local)) => {
                    let address = AgentAddress::resolve(&local, self.namespace);
                    vec![self.agents.called(&intent.call_id, &address)]
                }
                Ok(AgentRef::Url(url)) => self.agents.called_remote(&intent.call_id, &url),
                Err(_) => Vec::new(),
            },
            ToolRunner::Builtin(_)
            | ToolRunner::Process(_)
            | ToolRunner::Wasm(_)
            | ToolRunner::Container(_)
            | ToolRunner::Mcp(_) => Vec::new(),
        };
        let mut entries = vec![EntryBody::ToolIntent(intent)];
        entries.extend(called);
        entries
    }

    /// What policy says of a call, as the journal keeps it: of the tool, and of the agent that it leads to. Where one
    /// denies, the other does not count. Where one asks and somebody has said what counts for later calls too, that counts.
    async fn verdicts(
        &self,
        tool: &Tool,
        intent: &ToolIntent,
        callee: Option<&PolicyCallee>,
    ) -> Result<Vec<PolicyVerdict>, StoreError> {
        let policy = self.agent.policy();
        let of_tool = PolicyResource::Tool {
            name: &tool.name,
            descriptor: &tool.descriptor,
            arguments: &intent.input,
        };
        let of_agent = callee.map(PolicyResource::Agent);
        let of_agent = of_agent.filter(|resource| policy.asks(resource));
        let mut verdicts = Vec::new();
        for resource in [of_tool].into_iter().chain(of_agent) {
            let decision = policy.decide(self.caller, resource);
            let call_id = Some(intent.call_id.as_str());
            verdicts.push(policy::verdict(intent.step, call_id, &resource, &decision));
        }
        let is_denied = |one: &PolicyVerdict| one.verdict == AuditVerdict::Denied;
        if verdicts.iter().any(is_denied) {
            verdicts.retain(is_denied);
        }
        let asking = policies(asking(&verdicts));
        if verdicts
            .iter()
            .all(|one| one.verdict != AuditVerdict::Asked)
        {
            return Ok(verdicts);
        }
        let grant = self.grant(tool, asking).await?;
        for verdict in &mut verdicts {
            if verdict.verdict != AuditVerdict::Asked {
                continue;
            }
            if let Some(grant) = &grant {
                verdict.by_policy = Some(AuditVerdict::Asked);
                verdict.verdict = match grant.decision {
                    ApprovalDecision::Approve => AuditVerdict::Allowed,
                    ApprovalDecision::Deny => AuditVerdict::Denied,
                };
                verdict.reason = format!("`{}` decided so for this and later calls", grant.by);
            } else if !self.can_park {
                let why = "a person has to approve it, and a request with `checkpoint_policy: never` cannot wait";
                *verdict = policy::without_a_person(verdict.clone(), why);
            }
        }
        Ok(verdicts)
    }

    /// What somebody has said for later calls of the tool about which these policies ask.
    async fn grant(
        &self,
        tool: &Tool,
        policies: Vec<String>,
    ) -> Result<Option<GrantRow>, StoreError> {
        let query = GrantQuery {
            namespace: self.namespace.to_owned(),
            agent: self.agent.spec().name.to_string(),
            session_id: self.session_id.clone(),
            tool: tool.name.clone(),
            policies,
        };
        self.store.grant(&query).await
    }
}

/// The verdicts that ask a person.
fn asking(verdicts: &[PolicyVerdict]) -> impl Iterator<Item = &PolicyVerdict> + Clone {
    let asked = |one: &&PolicyVerdict| one.verdict == AuditVerdict::Asked;
    verdicts.iter().filter(asked)
}

/// The policies behind verdicts, each once.
fn policies<'a>(verdicts: impl Iterator<Item = &'a PolicyVerdict>) -> Vec<String> {
    let mut policies: Vec<String> = Vec::new();
    for policy in verdicts.flat_map(|verdict| &verdict.policies) {
        if !policies.contains(policy) {
            policies.push(policy.clone());
        }
    }
    policies
}
