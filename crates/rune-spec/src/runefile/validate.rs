//! From what was written to what holds.

use super::document::{BudgetDocument, PolicyDocument, RunefileDocument, ToolSearchDocument};
use super::{Budget, Instructions, McpServer, Runefile, SessionBudget, ToolSearch, mcp_servers};
use crate::checker::Checker;
use crate::document::{At, Document};
use crate::error::SpecErrors;
use crate::name::label;
use crate::policy::{Approval, Policy, PolicyRule};
use crate::suggest::{help_for, nearest};
use crate::tool_ref::ToolRef;

/// Most entries of `toolset`.
const MAX_TOOLS: usize = 1000;
/// Most rules of each kind.
const MAX_RULES: usize = 1000;

pub(super) fn validate(
    document: RunefileDocument,
    source: &Document,
) -> Result<Runefile, SpecErrors> {
    let mut checker = Checker::new(source);
    let name = checker.take(&At::top("name"), document.name.parse());
    let version = checker.version(&At::top("version"), &document.version);
    let instructions = instructions(
        &mut checker,
        document.instructions,
        document.instructions_file.as_deref(),
    );
    checker.filled(
        &At::top("default_model"),
        "`default_model`",
        &document.default_model,
    );
    let models = document
        .models
        .validate(&mut checker, &document.default_model);
    let runtime = document.runtime.validate(&mut checker);
    let mcp_servers = mcp_servers::validate(&mut checker, document.mcp_servers);
    let toolset = toolset(&mut checker, &document.toolset, &mcp_servers);
    let tool_search = tool_search(&mut checker, &document.tool_search, &toolset);
    let policy = policy(&mut checker, &document.policy, &toolset);
    let budget = budget(&mut checker, &document.budget);
    checker.at_least_one(&At::top("max_steps"), document.max_steps);
    let timeout = checker.millis(&At::top("timeout_ms"), document.timeout_ms);
    for (index, network) in document.networks.iter().enumerate() {
        checker.take(&At::top("networks").index(index), label(network, "network"));
    }
    for (name, schema) in [
        ("input_schema", &document.input_schema),
        ("output_schema", &document.output_schema),
    ] {
        if let Some(schema) = schema {
            checker.json_schema(&At::top(name), schema);
        }
    }
    let entrypoint = document
        .entrypoint
        .as_deref()
        .and_then(|path| checker.inner_path(&At::top("entrypoint"), path));

    let (Some(name), Some(version), Some(instructions)) = (name, version, instructions) else {
        return Err(checker.into_errors());
    };
    checker.finish(Runefile {
        name,
        version,
        description: document.description,
        instructions,
        default_model: document.default_model,
        toolset,
        tool_search,
        memory_profile: document.memory_profile,
        max_steps: document.max_steps,
        timeout,
        routing_hints: document.routing_hints,
        networks: document.networks,
        mcp_servers,
        input_schema: document.input_schema,
        output_schema: document.output_schema,
        policy,
        budget,
        entrypoint,
        runtime,
        models,
    })
}

fn instructions(
    checker: &mut Checker<'_>,
    text: Option<String>,
    file: Option<&str>,
) -> Option<Instructions> {
    match (text, file) {
        (Some(text), None) => {
            checker.filled(&At::top("instructions"), "`instructions`", &text);
            Some(Instructions::Text(text))
        }
        (None, Some(file)) => checker
            .inner_path(&At::top("instructions_file"), file)
            .map(Instructions::File),
        (Some(_), Some(_)) => {
            checker.error(
                &At::top("instructions_file").key(),
                "`instructions` and `instructions_file` exclude each other",
            );
            None
        }
        (None, None) => {
            checker.error_with_help(
                &At::default(),
                "missing required key `instructions`",
                Some(
                    "add `instructions: …`, or `instructions_file:` with the name of a file"
                        .to_owned(),
                ),
            );
            None
        }
    }
}

fn toolset(checker: &mut Checker<'_>, toolset: &[String], servers: &[McpServer]) -> Vec<ToolRef> {
    let mut refs: Vec<ToolRef> = Vec::new();
    if !checker.at_most(&At::top("toolset"), toolset.len(), MAX_TOOLS) {
        return refs;
    }
    for (index, text) in toolset.iter().enumerate() {
        let at = At::top("toolset").index(index);
        let Some(tool) = checker.take(&at, text.parse::<ToolRef>()) else {
            continue;
        };
        match &tool {
            ToolRef::Builtin(name) if crate::builtin(name).is_none() => {
                let names: Vec<String> = crate::builtin_names()
                    .map(|name| format!("rune@{name}"))
                    .collect();
                checker.error_with_help(
                    &at,
                    format!("unknown built-in tool `{text}`"),
                    help_for(text, names.iter().map(String::as_str)),
                );
            }
            // A server may also come from RUNE_MCP_{SERVER}_URL, so only a likely slip is an error.
            ToolRef::Mcp { server, .. } | ToolRef::McpAll(server)
                if servers.iter().all(|declared| declared.name != *server) =>
            {
                if let Some(near) = nearest(
                    server,
                    servers.iter().map(|declared| declared.name.as_str()),
                ) {
                    checker.error_with_help(
                        &at,
                        format!("no MCP server `{server}` in `mcp_servers`"),
                        Some(format!("did you mean `{near}`?")),
                    );
                }
            }
            _ => {}
        }
        let clash = refs.iter().find(|other| {
            **other == tool
                || (tool.visible_name().is_some() && other.visible_name() == tool.visible_name())
        });
        match clash {
            Some(other) if *other == tool => {
                checker.error(&at, format!("tool `{tool}` is listed twice"));
            }
            Some(other) => checker.error(
                &at,
                format!(
                    "tools `{other}` and `{tool}` have the same name for the model, `{}`",
                    tool.visible_name().unwrap_or_default()
                ),
            ),
            None => refs.push(tool),
        }
    }
    refs
}

fn tool_search(
    checker: &mut Checker<'_>,
    document: &ToolSearchDocument,
    toolset: &[ToolRef],
) -> ToolSearch {
    let at = At::top("tool_search");
    let mut pinned = Vec::new();
    if checker.at_most(&at.field("pinned"), document.pinned.len(), MAX_TOOLS) {
        for (index, text) in document.pinned.iter().enumerate() {
            let at = at.field("pinned").index(index);
            let Some(tool) = checker.take(&at, text.parse::<ToolRef>()) else {
                continue;
            };
            if !toolset.iter().any(|listed| takes(listed, &tool)) {
                let names: Vec<String> = toolset.iter().map(ToString::to_string).collect();
                checker.error_with_help(
                    &at,
                    format!("`{tool}` is pinned, and not in the toolset"),
                    help_for(text, names.iter().map(String::as_str)),
                );
            }
            pinned.push(tool);
        }
    }
    ToolSearch {
        enabled: document.enabled,
        max_tools: checker.at_least_one(&at.field("max_tools"), document.max_tools),
        max_tokens: checker.at_least_one(&at.field("max_tokens"), document.max_tokens),
        pinned,
    }
}

/// Whether an entry of the toolset and one that is pinned may be about the same tool.
fn takes(listed: &ToolRef, pinned: &ToolRef) -> bool {
    match (listed, pinned) {
        (ToolRef::McpAll(of), ToolRef::Mcp { server, .. })
        | (ToolRef::Mcp { server: of, .. }, ToolRef::McpAll(server)) => of == server,
        (listed, pinned) => listed == pinned,
    }
}

/// The policy of a document whose key `policy` holds it.
pub(crate) fn policy(
    checker: &mut Checker<'_>,
    document: &PolicyDocument,
    toolset: &[ToolRef],
) -> Policy {
    let at = At::top("policy");
    let mut rules = |name: &str, texts: &[String]| -> Vec<PolicyRule> {
        let mut rules = Vec::new();
        if !checker.at_most(&at.field(name), texts.len(), MAX_RULES) {
            return rules;
        }
        for (index, text) in texts.iter().enumerate() {
            let at = at.field(name).index(index);
            let Some(rule) = checker.take(&at, text.parse::<PolicyRule>()) else {
                continue;
            };
            check_rule(checker, &at, &rule, toolset);
            let line = checker.line(&at);
            rules.push(rule.at_line(line));
        }
        rules
    };
    let (allow, ask, deny) = (
        rules("allow", &document.allow),
        rules("ask", &document.ask),
        rules("deny", &document.deny),
    );
    let wait = document.approval.timeout_ms;
    let approval = Approval {
        timeout: (wait > 0)
            .then(|| checker.millis(&at.field("approval").field("timeout_ms"), wait)),
        default: document.approval.default,
    };
    Policy {
        approval,
        mode: document.mode,
        allow,
        ask,
        deny,
        file: document
            .file
            .as_deref()
            .and_then(|file| checker.inner_path(&at.field("file"), file)),
    }
}

/// Whether a tool of this entry of the toolset may fit the rule's pattern.
fn may_match(rule: &PolicyRule, tool: &ToolRef) -> bool {
    match tool {
        // Its tools are not known; `server/create_*` and `*_issue` both may fit one.
        ToolRef::McpAll(server) => rule.tool().may_begin_with(&format!("{server}/")),
        other => rule.tool().is_match(&other.to_string()),
    }
}

/// A rule that names a tool the agent does not have protects nothing, so it is a mistake.
fn check_rule(checker: &mut Checker<'_>, at: &At, rule: &PolicyRule, toolset: &[ToolRef]) {
    let name = rule.tool().as_str();
    let known = |tool: &ToolRef| match tool {
        ToolRef::McpAll(server) => name
            .split_once('/')
            .is_some_and(|(prefix, _)| prefix == server),
        other => other.to_string() == name,
    };
    if rule.tool().literal().is_some() {
        if toolset.iter().any(known) {
            return;
        }
    } else if toolset.iter().any(|tool| may_match(rule, tool)) {
        return;
    }
    let names: Vec<String> = toolset.iter().map(ToString::to_string).collect();
    checker.error_with_help(
        at,
        format!("the rule names `{name}`, which is not in the toolset"),
        help_for(name, names.iter().map(String::as_str)),
    );
}

fn budget(checker: &mut Checker<'_>, document: &BudgetDocument) -> Budget {
    let at = At::top("budget");
    if let Some(wall) = document.wall_ms {
        checker.millis(&at.field("wall_ms"), wall);
    }
    Budget {
        tokens: document.tokens,
        cost_usd: checker.amount(&at.field("cost_usd"), document.cost_usd),
        tool_calls: document.tool_calls,
        wall_ms: document.wall_ms,
        cost_usd_per_day: checker.amount(&at.field("cost_usd_per_day"), document.cost_usd_per_day),
        tokens_per_day: document.tokens_per_day,
        session: SessionBudget {
            tokens: document.session.tokens,
            cost_usd: checker.amount(
                &at.field("session").field("cost_usd"),
                document.session.cost_usd,
            ),
        },
    }
}
