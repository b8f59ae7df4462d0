//! What the policies of a package decide.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use rune_runtime::{
    JournaledCall, JournaledResource, MAX_CACHED_VERDICTS, PolicyCallee, PolicyDecision,
    PolicyEngine, PolicyPrincipal, PolicyQuery, PolicyResource, PolicySet, Verdict,
    policy_verdicts, undecided,
};
use rune_spec::{AgentPackage, PolicyRule, RuleArguments};
use rune_store_runtime::{
    AuditId, Block, Entry, EntryBody, ModelReply, PolicyVerdict, PromptParts, RequestId,
    StopReason, Timestamp, Usage,
};
use serde_json::{Value, json};

const HEAD: &str = "name: guard\nversion: 1.2.3\ninstructions: x\ndefault_model: m\nnetworks: [bridge, \
    internal]\ntoolset: [rune@shell-exec, rune@file-read, rune@file-write, rune@memory-store, \
    rune@memory-recall, pay]\n";
const PAY: &str = "name: pay\nmodule: pay.sh\ncapabilities: ['network:bank.example']\ninput_schema:\n  \
    properties:\n    to: {type: string, default: nobody}\n    amount: {type: number}\n    count: \
    {type: integer}\n    tags: {type: array, items: {type: string}}\n    note: {type: [string, 'null']}\n  \
    required: [amount]\n";

fn package(policy: &str, cedar: Option<&str>) -> AgentPackage {
    let dir = tempfile::tempdir().unwrap();
    let policy = if policy.is_empty() {
        String::new()
    } else {
        format!("policy:\n{policy}")
    };
    fs::write(dir.path().join("Runefile"), format!("{HEAD}{policy}")).unwrap();
    fs::create_dir(dir.path().join("tools")).unwrap();
    fs::write(dir.path().join("tools/pay.yaml"), PAY).unwrap();
    fs::write(dir.path().join("pay.sh"), "").unwrap();
    if let Some(cedar) = cedar {
        fs::write(dir.path().join("policy.cedar"), cedar).unwrap();
    }
    AgentPackage::load(dir.path()).unwrap()
}

struct Guard {
    package: AgentPackage,
    policies: PolicySet,
    principal: PolicyPrincipal,
}

impl Guard {
    fn new(policy: &str, cedar: Option<&str>) -> Self {
        let package = package(policy, cedar);
        let policies = PolicySet::compile(&package).unwrap();
        let principal = PolicyPrincipal::of(&package, "dev");
        Self {
            package,
            policies,
            principal,
        }
    }

    fn resource<'a>(&'a self, tool: &'a str, arguments: &'a Value) -> PolicyResource<'a> {
        let found = self
            .package
            .tools
            .iter()
            .find(|known| known.reference.to_string() == tool);
        PolicyResource::Tool {
            name: tool,
            descriptor: &found.unwrap().descriptor,
            arguments,
        }
    }

    fn ask(&self, caller: &str, resource: PolicyResource<'_>) -> PolicyDecision {
        self.policies.decide(&PolicyQuery {
            principal: &self.principal,
            caller,
            resource,
        })
    }

    fn decide(&self, tool: &str, arguments: &Value) -> PolicyDecision {
        self.ask("alice", self.resource(tool, arguments))
    }

    #[track_caller]
    fn check(&self, tool: &str, arguments: &Value, expected: Verdict) {
        let decision = self.decide(tool, arguments);
        assert_eq!(
            decision.verdict, expected,
            "{tool}({arguments}): {decision:?}"
        );
    }
}

use Verdict::{Allowed, Asked, Denied};

fn shell(command: &str) -> Value {
    json!({ "command": command })
}

#[test]
fn what_the_toolset_lists_is_allowed_unless_a_rule_says_otherwise() {
    let guard = Guard::new(
        "  ask: ['rune@shell-exec(rm *)']\n  deny: ['rune@shell-exec(*sudo*)', 'rune@memory-*']\n",
        None,
    );
    guard.check("rune@shell-exec", &shell("ls"), Allowed);
    guard.check("rune@shell-exec", &shell("rm -r x"), Asked);
    guard.check("rune@shell-exec", &shell("rm -r x; sudo y"), Denied);
    guard.check(
        "rune@memory-store",
        &json!({"key": "a", "value": "b"}),
        Denied,
    );
    let decision = guard.decide("rune@shell-exec", &shell("rm x"));
    assert_eq!(
        decision.policy_ids,
        ["Runefile:8 ask rune@shell-exec(rm *)"]
    );
    assert_eq!(
        decision.reason,
        "`Runefile:8 ask rune@shell-exec(rm *)` asks a person first"
    );
}

#[test]
fn strict_asks_for_what_is_not_declared_read_only() {
    let guard = Guard::new(
        "  mode: strict\n  allow: ['rune@shell-exec(git *)']\n  ask: ['rune@shell-exec(git push*)']\n",
        None,
    );
    guard.check("rune@file-read", &json!({"path": "a"}), Allowed);
    guard.check(
        "rune@file-write",
        &json!({"path": "a", "content": ""}),
        Asked,
    );
    guard.check("rune@shell-exec", &shell("git status"), Allowed);
    guard.check("rune@shell-exec", &shell("git push"), Asked);
    let model = PolicyResource::Model {
        provider: "anthropic",
        model: "claude",
    };
    assert_eq!(guard.ask("alice", model).verdict, Allowed);
}

#[test]
fn rules_name_arguments_and_see_their_defaults() {
    let guard = Guard::new(
        "  deny: ['pay(to=nobody)', 'pay(count=7, tags=[*\"big\"*])']\n",
        None,
    );
    guard.check("pay", &json!({"amount": 1}), Denied);
    guard.check("pay", &json!({"amount": 1, "to": "me"}), Allowed);
    let both = json!({"amount": 1, "to": "me", "count": 7, "tags": ["big"]});
    guard.check("pay", &both, Denied);
    let one = json!({"amount": 1, "to": "me", "count": 7});
    guard.check("pay", &one, Allowed);
}

#[test]
fn cedar_sees_agent_caller_tool_and_arguments() {
    let guard = Guard::new(
        "",
        Some(
            "@id(\"no-ci\") @reason(\"the pipeline pays nobody\")\n\
             forbid(principal in Caller::\"ci\", action == Action::\"tool\", resource == Tool::\"pay\");\n\
             @ask(\"large amounts need a person\")\n\
             forbid(principal, action == Action::\"tool\", resource == Tool::\"pay\")\n\
             when { context.arguments has amount && context.arguments.amount.greaterThan(decimal(\"100.5\")) };\n\
             forbid(principal, action == Action::\"tool\", resource)\n\
             when { resource.capabilities.contains(\"network:bank.example\") && principal.version != \"1.2.3\" };\n\
             forbid(principal == Agent::\"dev/guard\", action == Action::\"egress\", resource)\n\
             unless { resource.port == 443 && principal.networks.contains(\"bridge\") };\n\
             forbid(principal, action == Action::\"model\", resource == Model::\"openai/gpt\");\n\
             forbid(principal, action == Action::\"agent_call\", resource == Agent::\"prod/guard\")\n\
             when { resource.version == \"2.0.0\" };",
        ),
    );
    guard.check("pay", &json!({"amount": 100, "note": null}), Allowed);
    guard.check("pay", &json!({"amount": 100.5}), Allowed);
    guard.check("pay", &json!({"amount": 101}), Asked);
    let arguments = json!({"amount": 101});
    let asked = guard.decide("pay", &arguments);
    assert_eq!(asked.reason, "large amounts need a person");
    assert_eq!(asked.policy_ids, ["policy.cedar:3"]);
    let denied = guard.ask("ci", guard.resource("pay", &arguments));
    assert_eq!(denied.verdict, Denied);
    assert_eq!(denied.reason, "the pipeline pays nobody");
    assert_eq!(denied.policy_ids, ["policy.cedar:1 no-ci"]);

    let verdict = |resource: PolicyResource<'_>| guard.ask("alice", resource).verdict;
    let host = |port| PolicyResource::Host {
        host: "example.org",
        port,
    };
    assert_eq!(verdict(host(443)), Allowed);
    assert_eq!(verdict(host(80)), Denied);
    let model = |model| PolicyResource::Model {
        provider: "openai",
        model,
    };
    assert_eq!(verdict(model("gpt")), Denied);
    assert_eq!(verdict(model("gpt-mini")), Allowed);
    let callee = |namespace: &str, version: Option<&str>| PolicyCallee {
        namespace: namespace.to_owned(),
        name: "guard".to_owned(),
        version: version.map(str::to_owned),
        networks: None,
    };
    for (callee, expected) in [
        (callee("dev", None), Allowed),
        (callee("prod", Some("1.0.0")), Allowed),
        (callee("prod", Some("2.0.0")), Denied),
        // What is not known cannot be evaluated.
        (callee("prod", None), Denied),
    ] {
        assert_eq!(
            verdict(PolicyResource::Agent(&callee)),
            expected,
            "{callee:?}"
        );
    }
}

/// The first block of `docs/policy.md` in this language.
fn documented(language: &str) -> String {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/policy.md");
    let page = fs::read_to_string(page).unwrap();
    let (_, rest) = page.split_once(&format!("```{language}\n")).unwrap();
    rest.split_once("```").unwrap().0.to_owned()
}

#[test]
fn the_documented_examples_hold() {
    let yaml = documented("yaml").replace("  file: policy.cedar ", "  # ");
    let rules = yaml.split_once("policy:\n").unwrap().1;
    let guard = Guard::new(rules, None);
    guard.check("rune@shell-exec", &shell("git push origin"), Asked);
    guard.check("rune@shell-exec", &shell("git status"), Allowed);
    guard.check("rune@shell-exec", &shell("git push; sudo x"), Denied);
    let key = json!({"path": ".ssh/id", "content": ""});
    guard.check("rune@file-write", &key, Denied);

    let guard = Guard::new("", Some(&documented("cedar")));
    guard.check("pay", &json!({"amount": 100.5}), Asked);
    let pay = json!({"amount": 1});
    let denied = guard.ask("ci", guard.resource("pay", &pay));
    assert_eq!(denied.policy_ids, ["policy.cedar:1 no-ci"]);
    assert_eq!(denied.reason, "the pipeline pays nobody");
}

#[test]
fn what_cannot_be_evaluated_is_denied() {
    let cedar = "forbid(principal, action == Action::\"tool\", resource == Tool::\"pay\")\n\
        when { context.arguments has amount && context.arguments.amount.lessThan(decimal(\"0.5\")) };";
    let guard = Guard::new("  allow: [pay]\n", Some(cedar));
    guard.check("pay", &json!({"amount": 1}), Allowed);
    // More digits than a Cedar decimal has: text, which has no order.
    let decision = guard.decide("pay", &json!({"amount": 0.123_456_7}));
    assert_eq!(decision.verdict, Denied);
    assert!(
        decision
            .reason
            .starts_with("the policy cannot be evaluated: "),
        "{decision:?}"
    );
}

#[test]
fn a_policy_file_without_a_name_in_the_runefile_counts() {
    let guard = Guard::new(
        "",
        Some("forbid(principal, action, resource == Tool::\"rune@file-write\");"),
    );
    guard.check(
        "rune@file-write",
        &json!({"path": "a", "content": ""}),
        Denied,
    );
    guard.check("rune@file-read", &json!({"path": "a"}), Allowed);
}

#[test]
fn an_mcp_tool_may_be_named_though_its_arguments_are_not_known() {
    let dir = tempfile::tempdir().unwrap();
    let head = HEAD.replace(", pay]", ", 'jira/*']");
    fs::write(dir.path().join("Runefile"), head).unwrap();
    fs::write(
        dir.path().join("policy.cedar"),
        "forbid(principal, action, resource == Tool::\"jira/delete\")\n\
         when { context.text has project && context.text.project == \"X\" };",
    )
    .unwrap();
    let package = AgentPackage::load(dir.path()).unwrap();
    PolicySet::compile(&package).unwrap();
}

#[test]
fn the_cache_is_bounded_and_says_what_the_policies_say() {
    let guard = Guard::new("  deny: ['rune@shell-exec(rm *)']\n", None);
    let engine = PolicyEngine::new(
        PolicySet::compile(&guard.package).unwrap(),
        guard.principal.clone(),
    );
    for round in 0..2 {
        for number in 0..MAX_CACHED_VERDICTS {
            let arguments = shell(&format!(
                "{} {number}",
                if number % 3 == 0 { "rm" } else { "ls" }
            ));
            let resource = guard.resource("rune@shell-exec", &arguments);
            if number % 64 == 0 {
                assert_eq!(
                    *engine.decide("alice", resource),
                    guard.ask("alice", resource),
                    "round {round}"
                );
            } else {
                let _ = engine.decide("alice", resource);
            }
        }
        assert!(engine.cached() <= MAX_CACHED_VERDICTS);
    }
}

#[test]
fn the_cache_tells_callers_actions_resources_and_arguments_apart() {
    let guard = Guard::new(
        "",
        Some(
            "forbid(principal in Caller::\"a\", action, resource);\n\
             forbid(principal, action == Action::\"egress\", resource) when { resource.port == 80 };\n\
             forbid(principal, action == Action::\"agent_call\", resource) when { resource.version == \"2\" };\n\
             forbid(principal, action == Action::\"model\", resource) when { resource.provider == \"a/b\" };",
        ),
    );
    let engine = PolicyEngine::new(
        PolicySet::compile(&guard.package).unwrap(),
        guard.principal.clone(),
    );
    let callee = |version: &str| PolicyCallee {
        namespace: "dev".to_owned(),
        name: "x".to_owned(),
        version: Some(version.to_owned()),
        networks: None,
    };
    let (one, two) = (callee("1"), callee("2"));
    let arguments = [shell("a"), shell("b")];
    let resources = [
        guard.resource("rune@shell-exec", &arguments[0]),
        guard.resource("rune@shell-exec", &arguments[1]),
        PolicyResource::Host {
            host: "x",
            port: 80,
        },
        PolicyResource::Host {
            host: "x",
            port: 443,
        },
        PolicyResource::Agent(&one),
        PolicyResource::Agent(&two),
        PolicyResource::Model {
            provider: "a",
            model: "b/c",
        },
        PolicyResource::Model {
            provider: "a/b",
            model: "c",
        },
    ];
    for _ in 0..2 {
        for resource in resources {
            for caller in ["a", "b", ""] {
                assert_eq!(
                    *engine.decide(caller, resource),
                    guard.ask(caller, resource)
                );
            }
        }
    }
    assert_eq!(engine.cached(), resources.len() * 3);
}

#[test]
fn a_new_policy_is_tried_on_what_was_called() {
    let old = Guard::new("  ask: ['rune@shell-exec(git push*)']\n", None);
    let calls: Vec<JournaledCall> = ["ls", "rm x", "git push"]
        .into_iter()
        .enumerate()
        .map(|(index, command)| JournaledCall {
            request_id: RequestId::from_bytes([0; 16]),
            call_id: Some(index.to_string()),
            caller: "alice".to_owned(),
            resource: JournaledResource::Tool {
                name: "rune@shell-exec".to_owned(),
                arguments: shell(command),
            },
            verdict: Some(old.decide("rune@shell-exec", &shell(command)).verdict),
        })
        .collect();
    let same = old.policies.compare(&old.package, "dev", calls.clone());
    assert!(same.is_unchanged(), "{same:?}");
    let new = Guard::new(
        "  deny: ['rune@shell-exec(rm *)']\n  ask: ['rune@shell-exec(ls)']\n",
        None,
    );
    let changed = new.policies.compare(&new.package, "dev", calls);
    let commands = |changes: &[rune_runtime::PolicyChange]| -> Vec<String> {
        let commands = changes
            .iter()
            .map(|change| change.arguments["command"].to_string());
        commands.collect()
    };
    assert_eq!(changed.calls, 3);
    assert_eq!(commands(&changed.newly_denied), ["\"rm x\""]);
    assert_eq!(commands(&changed.newly_asked), ["\"ls\""]);
    assert_eq!(commands(&changed.newly_allowed), ["\"git push\""]);
}

/// `tests/golden/policy/invalid/*.cedar` fail with the `.err` beside them. A missing `.err` is written, and the test
/// fails so that somebody looks.
#[test]
fn errors_of_a_cedar_file_point_at_the_text() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/policy/invalid");
    let mut files: Vec<PathBuf> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|kind| kind == "cedar"))
        .collect();
    files.sort();
    assert!(files.len() >= 8);
    let mut failures = Vec::new();
    for path in files {
        let mut package = package("", Some(&fs::read_to_string(&path).unwrap()));
        if let Some(file) = &mut package.policy {
            file.path = PathBuf::from("policy.cedar");
        }
        let actual = match PolicySet::compile(&package) {
            Ok(_) => {
                failures.push(format!("{} must be refused", path.display()));
                continue;
            }
            Err(errors) => format!("{errors}\n"),
        };
        let expected = path.with_extension("err");
        match fs::read_to_string(&expected) {
            Ok(text) if text == actual => {}
            Ok(text) => failures.push(format!(
                "{}\n-- expected\n{text}\n-- actual\n{actual}",
                path.display()
            )),
            Err(_) => {
                fs::write(&expected, actual).unwrap();
                failures.push(format!(
                    "{} has been written: review it",
                    expected.display()
                ));
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

/// The short form as its documentation says it, with nothing shared with the engine but the patterns.
fn reference(
    rules: &BTreeMap<&str, Vec<PolicyRule>>,
    strict: bool,
    call: &(usize, String, String),
) -> Verdict {
    let (tool, first, second) = call;
    let (name, primary, other, read_only) = TOOLS[*tool];
    let fits = |rule: &PolicyRule| {
        let text = |argument: &str| match argument {
            name if name == primary => Some(first.as_str()),
            name if name == other => Some(second.as_str()),
            _ => None,
        };
        rule.tool().is_match(name)
            && match rule.arguments() {
                RuleArguments::Any => true,
                RuleArguments::Primary(glob) => glob.is_match(first),
                RuleArguments::Named(named) => named
                    .iter()
                    .all(|(argument, glob)| text(argument).is_some_and(|text| glob.is_match(text))),
            }
    };
    let any = |list: &str| rules[list].iter().any(fits);
    if any("deny") {
        Denied
    } else if any("ask") {
        Asked
    } else if !strict || any("allow") || read_only {
        Allowed
    } else {
        Asked
    }
}

/// Name, primary argument, another argument of text, read-only.
const TOOLS: [(&str, &str, &str, bool); 3] = [
    ("rune@file-read", "path", "-", true),
    ("rune@file-write", "path", "content", false),
    ("rune@memory-store", "key", "value", false),
];

fn rule() -> impl Strategy<Value = String> {
    let tool = prop::sample::select(vec![
        "rune@file-read",
        "rune@file-write",
        "rune@memory-store",
        "rune@*",
        "*",
        "*write",
        "rune@file-*",
    ]);
    let glob = "[ab*\\\\\"'é\u{301}🦀.]{1,4}";
    (tool, 0..4, glob, glob).prop_map(|(tool, form, one, two)| match form {
        0 => tool.to_owned(),
        1 => format!("{tool}({one})"),
        2 if !tool.contains("memory") => format!("{tool}(path={one})"),
        2 => format!("{tool}(key={one})"),
        _ if tool == "rune@memory-store" => format!("{tool}(value={two}, key={one})"),
        _ if tool == "rune@file-read" => format!("{tool}(path={two})"),
        _ => format!("{tool}(content={two}, path={one})"),
    })
}

fn rules() -> impl Strategy<Value = [Vec<String>; 3]> {
    let list = || prop::collection::vec(rule(), 0..4);
    [list(), list(), list()]
}

fn call() -> impl Strategy<Value = (usize, String, String)> {
    let text = "[ab*\\\\\"'é\u{301}🦀.\n]{0,4}";
    (0..TOOLS.len(), text, text)
}

fn runefile(strict: bool, lists: &[Vec<String>; 3]) -> String {
    let mode = if strict { "strict" } else { "listed" };
    let list = |name: &str, rules: &[String]| format!("  {name}: {}\n", json!(rules));
    format!(
        "  mode: {mode}\n{}{}{}",
        list("allow", &lists[0]),
        list("ask", &lists[1]),
        list("deny", &lists[2])
    )
}

fn input(call: &(usize, String, String)) -> Value {
    let (_, primary, other, _) = TOOLS[call.0];
    let mut input = json!({ primary: call.1 });
    if other != "-" {
        input[other] = json!(call.2);
    }
    input
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn the_short_form_means_what_its_documentation_says(
        strict: bool, lists in rules(), calls in prop::collection::vec(call(), 1..12),
    ) {
        let guard = Guard::new(&runefile(strict, &lists), None);
        // With a Cedar file every form of the arguments is built; the verdicts are the same.
        let with_cedar = Guard::new(&runefile(strict, &lists), Some(""));
        let engine = PolicyEngine::new(PolicySet::compile(&guard.package).unwrap(), guard.principal.clone());
        let names = ["allow", "ask", "deny"];
        let parsed = names.iter().zip(&lists).map(|(name, rules)| {
            (*name, rules.iter().map(|rule| rule.parse().unwrap()).collect())
        });
        let parsed: BTreeMap<&str, Vec<PolicyRule>> = parsed.collect();
        for call in &calls {
            let (name, input) = (TOOLS[call.0].0, input(call));
            let decision = guard.decide(name, &input);
            prop_assert_eq!(decision.verdict, reference(&parsed, strict, call), "{:?} {}", decision, input);
            prop_assert_eq!(&with_cedar.decide(name, &input), &decision);
            let resource = guard.resource(name, &input);
            prop_assert_eq!(&*engine.decide("alice", resource), &decision);
            prop_assert_eq!(&*engine.decide("alice", resource), &decision);
        }
    }

    #[test]
    fn a_policy_changes_nothing_about_its_own_journal(
        strict: bool, lists in rules(), calls in prop::collection::vec(call(), 0..12), with_cedar: bool,
    ) {
        let cedar = "@ask(\"?\") forbid(principal in Caller::\"1\", action == Action::\"tool\", resource);\n\
            forbid(principal, action == Action::\"model\", resource) when { resource.name like \"*a*\" };\n\
            @ask(\"?\") forbid(principal, action == Action::\"egress\", resource) unless { resource.port == 443 };\n\
            forbid(principal in Caller::\"0\", action, resource is Agent) when { resource.version == \"2\" };";
        let guard = Guard::new(&runefile(strict, &lists), with_cedar.then_some(cedar));
        let mut entries = Vec::new();
        let mut callers = Vec::new();
        for (index, call) in calls.iter().enumerate() {
            let (name, input, id) = (TOOLS[call.0].0, input(call), index.to_string());
            let caller = (index % 2).to_string();
            let decision = guard.ask(&caller, guard.resource(name, &input));
            // A remembered answer may have counted instead.
            let answered = index % 3 == 0 && decision.verdict == Asked;
            entries.push(EntryBody::ModelReply(ModelReply {
                step: 1,
                provider: "p".to_owned(),
                model: "m".to_owned(),
                blocks: vec![Block::ToolCall { id: id.clone(), name: name.to_owned(), input, native: None }],
                stop: StopReason::ToolUse,
                usage: Usage::default(),
                prompt: PromptParts::default(),
                duration_ms: 0,
                cost_micro_usd: None,
            }));
            entries.push(EntryBody::PolicyVerdict(PolicyVerdict {
                audit_id: AuditId::from_bytes([0; 16]),
                step: 1,
                call_id: Some(id),
                action: "tool".to_owned(),
                resource: name.to_owned(),
                attributes: Value::Null,
                verdict: if answered { Allowed } else { decision.verdict },
                by_policy: answered.then_some(decision.verdict),
                reason: decision.reason,
                policies: decision.policy_ids,
            }));
            callers.push(caller.clone());
            let callee = PolicyCallee {
                namespace: "dev".to_owned(),
                name: "guard".to_owned(),
                version: (index % 3 > 0).then(|| (index % 3).to_string()),
                networks: None,
            };
            let others = [
                PolicyResource::Model { provider: "p", model: &call.1 },
                PolicyResource::Host { host: "::1", port: if index % 2 == 0 { 443 } else { 80 } },
                PolicyResource::Agent(&callee),
            ];
            for resource in others {
                let decision = guard.ask(&caller, resource);
                entries.push(EntryBody::PolicyVerdict(PolicyVerdict {
                    audit_id: AuditId::from_bytes([0; 16]),
                    step: 1,
                    call_id: None,
                    action: resource.kind().to_owned(),
                    resource: resource.id(),
                    attributes: resource.attributes(),
                    verdict: if decision.verdict == Asked { Denied } else { decision.verdict },
                    by_policy: (decision.verdict == Asked).then_some(Asked),
                    reason: decision.reason,
                    policies: decision.policy_ids,
                }));
                callers.push(caller.clone());
            }
        }
        let request_id = RequestId::from_bytes([0; 16]);
        let at = Timestamp::from_millis(0);
        let entries = (1..).zip(entries).map(|(seq, body)| Entry { request_id, seq, at, body });
        let journaled = policy_verdicts(entries).into_iter().zip(callers).map(|(found, caller)| JournaledCall {
            request_id,
            call_id: found.verdict.call_id.clone(),
            caller,
            verdict: Some(found.by_policy()),
            resource: JournaledResource::of(
                &found.verdict.action,
                &found.verdict.resource,
                &found.verdict.attributes,
                &found.arguments.unwrap_or_default(),
            ).unwrap(),
        });
        let compared = guard.policies.compare(&guard.package, "dev", journaled);
        prop_assert!(compared.is_unchanged(), "{:?}", compared);
        prop_assert_eq!(compared.calls, 4 * calls.len() as u64);
    }

    #[test]
    fn deny_wins_over_everything_and_order_does_not_matter(
        lists in rules(), call in call(), deny_by_cedar: bool,
    ) {
        let cedar = "permit(principal, action, resource);";
        let forward = Guard::new(&runefile(false, &lists), Some(cedar));
        let mut reversed = lists.clone();
        for list in &mut reversed {
            list.reverse();
        }
        let backward = Guard::new(&runefile(false, &reversed), Some(cedar));
        let (name, input) = (TOOLS[call.0].0, input(&call));
        prop_assert_eq!(forward.decide(name, &input).verdict, backward.decide(name, &input).verdict);

        let forbid = format!("{cedar} forbid(principal, action, resource == Tool::\"{name}\");");
        let mut denying = lists;
        if !deny_by_cedar {
            denying[2].push(name.to_owned());
        }
        let cedar = if deny_by_cedar { &forbid } else { cedar };
        let guard = Guard::new(&runefile(true, &denying), Some(cedar));
        prop_assert_eq!(guard.decide(name, &input).verdict, Denied);
    }
}

#[test]
fn deep_nesting_in_a_cedar_file_is_an_error_and_no_crash() {
    let open = |text: &str, close: &str, count: usize| {
        let (text, close) = (text.repeat(count), close.repeat(count));
        format!("permit(principal, action, resource) when {{ {text}true{close} }};")
    };
    for text in [
        open("(", ")", 20_000),
        open("[", "]", 20_000),
        open("{a: ", "}", 20_000),
        open("if true then true else ", "", 20_000),
        open("!", "", 20_000),
        open("true && ", "", 20_000),
        open("context.arguments.", "x", 20_000),
        // As much as is let through.
        open("(", ")", 29),
        open("if true then true else ", "", 250),
        open("true || ", "", 250),
        open("1 + ", "", 250),
        open("context.", "x", 250),
        // As much as is decided without Cedar.
        open("(", ")", 14),
        open("[", "]", 14),
        open("if true then true else ", "", 100),
        open("true || ", "", 100),
        open("!", "", 100),
        open("context.", "x", 100),
    ] {
        let package = package("", Some(&text));
        let worker = std::thread::Builder::new().stack_size(2 * 1024 * 1024);
        let compiled = worker.spawn(move || PolicySet::compile(&package).map(drop));
        let _ = compiled.unwrap().join().unwrap();
    }
}

#[test]
fn many_policies_that_decide_are_named_shortly_and_not_alike() {
    let rules: Vec<String> = (0..40)
        .map(|n| format!("    - rune@shell-exec(*{n}*)\n"))
        .collect();
    let guard = Guard::new(&format!("  ask:\n{}", rules.concat()), None);
    let all: String = (0..40).map(|n| format!("{n} ")).collect();
    let some: String = (0..30).map(|n| format!("{n} ")).collect();
    let (all, some) = (
        guard.decide("rune@shell-exec", &shell(&all)),
        guard.decide("rune@shell-exec", &shell(&some)),
    );
    assert_eq!((all.verdict, all.policy_ids.len()), (Asked, 16));
    assert_ne!(all.policy_ids, some.policy_ids);
}

#[test]
fn models_and_agents_that_nobody_decided_about_are_tried_too() {
    let reply = |model: &str| {
        EntryBody::ModelReply(ModelReply {
            step: 1,
            provider: "p".to_owned(),
            model: model.to_owned(),
            blocks: Vec::new(),
            stop: StopReason::EndTurn,
            usage: Usage::default(),
            duration_ms: 0,
            prompt: PromptParts::default(),
            cost_micro_usd: None,
        })
    };
    let called = EntryBody::AgentCalled {
        call_id: "c".to_owned(),
        agent: "dev/helper:canary".to_owned(),
        request_id: None,
        depth: 1,
    };
    let bodies = [reply("m"), called, reply("m"), reply("n")];
    let request_id = RequestId::from_bytes([0; 16]);
    let at = Timestamp::from_millis(0);
    let entries = (1..).zip(bodies).map(|(seq, body)| Entry {
        request_id,
        seq,
        at,
        body,
    });
    let entries: Vec<Entry> = entries.collect();
    let found = undecided(&entries);
    let names: Vec<&str> = found
        .iter()
        .map(|one| one.verdict.resource.as_str())
        .collect();
    assert_eq!(names, ["p/m", "dev/helper", "p/n"]);
    let resources = found.iter().map(|one| {
        let verdict = &one.verdict;
        JournaledResource::of(
            &verdict.action,
            &verdict.resource,
            &verdict.attributes,
            &Value::Null,
        )
    });
    let resources: Option<Vec<_>> = resources.collect();
    assert_eq!(resources.unwrap().len(), 3);
}
