//! What policies say of models, agents and hosts while a request runs.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use rune_runtime::{AgentLoader, Cassette, Ending, EngineError, Forking};
use rune_store_runtime::{
    ApprovalDecision, ApprovalFilter, AuditFilter, AuditVerdict, DecideApproval, Entry, EntryBody,
    ErrorCode, ForkChanges, ForkPolicy, PageRequest, PolicyVerdict, Remember, RequestStatus,
};
use rune_testkit::{ModelScript, ModelServer, Protocol, Reply, ToolCall};
use rune_tools::{Builtins, BuiltinsConfig, EgressPolicy};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::harness::{Bot, Ended, Rig, soon};
use super::recovery::recovered;

const NO_FIRST: &str = "@id(\"no-first\") @reason(\"not that one\")\n\
    forbid(principal, action == Action::\"model\", resource == Model::\"p0/test-model\");";

fn verdicts(journal: &[Entry], action: &str) -> Vec<PolicyVerdict> {
    let verdicts = journal.iter().filter_map(|entry| match &entry.body {
        EntryBody::PolicyVerdict(verdict) if verdict.action == action => Some(verdict.clone()),
        _ => None,
    });
    verdicts.collect()
}

fn shown(journal: &[Entry], action: &str) -> Vec<(String, &'static str)> {
    let verdicts = verdicts(journal, action).into_iter();
    verdicts
        .map(|verdict| (verdict.resource, verdict.verdict.as_str()))
        .collect()
}

fn notices(ended: &Ended) -> Vec<(&str, &str)> {
    let notices = ended.journal.iter().filter_map(|entry| match &entry.body {
        EntryBody::Notice { code, message } => Some((code.as_str(), message.as_str())),
        _ => None,
    });
    notices.collect()
}

async fn assert_replays(rig: &Rig, ended: &Ended) {
    let replayed = rig.engine.replay(ended.row.id).await.unwrap();
    assert!(replayed.equal, "{:?}", replayed.divergence);
    let recorded = rig.engine.record(ended.row.id).await.unwrap();
    let text = serde_json::to_string(&recorded).unwrap();
    let cassette = Cassette::parse(Path::new("recorded.json"), &text).unwrap();
    let played = rig.engine.play(&cassette, Arc::clone(&rig.agent), false);
    let played = played.await.unwrap();
    assert!(played.passed, "{played:?}");
}

/// A provider that calls a tool first.
async fn with_tool() -> ModelServer {
    let script = ModelScript::new()
        .on_results(0)
        .reply(Reply::calls([ToolCall::new("t", json!({}))]))
        .on_results(1)
        .reply(Reply::text("well"));
    ModelServer::start(script).await.unwrap()
}

/// Two providers; the second one calls a tool first.
async fn two_models() -> (ModelServer, ModelServer) {
    let first = ModelServer::start(ModelScript::new()).await.unwrap();
    (first, with_tool().await)
}

fn bot_on(first: &ModelServer, second: &ModelServer) -> Bot {
    let (one, two) = (Protocol::Anthropic, Protocol::Openai);
    Bot::on(&[(first, one), (second, two)]).tool("t", &json!({}), "cat >/dev/null; echo '\"ok\"'\n")
}

#[tokio::test]
async fn a_denied_model_is_passed_over_and_decided_about_once() {
    let (first, second) = two_models().await;
    let rig = Rig::new(bot_on(&first, &second).cedar(NO_FIRST)).await;
    let ended = rig.ask("please").await;
    assert_eq!(ended.output(), "well");
    assert!(first.requests().is_empty());
    assert_eq!(second.requests().len(), 2);
    assert_eq!(
        shown(&ended.journal, "model"),
        [
            ("p0/test-model".to_owned(), "denied"),
            ("p1/test-model".to_owned(), "allowed")
        ]
    );
    let [denied, _] = verdicts(&ended.journal, "model").try_into().unwrap();
    assert_eq!(denied.policies, ["policy.cedar:1 no-first"]);
    assert_eq!(
        notices(&ended),
        [(
            "model_denied",
            "policy denies the model `p0/test-model`: not that one; `p1/test-model` is next"
        )]
    );
    let filter = AuditFilter {
        request_id: Some(ended.row.id),
        kind: Some("model".to_owned()),
        ..AuditFilter::default()
    };
    let rows = rig.store.audit(&filter, &PageRequest::first(10)).await;
    let rows = rows.unwrap().items;
    assert_eq!(rows.len(), 2);
    assert!(rows.iter().any(|row| row.verdict == AuditVerdict::Denied
        && row.resource == "p0/test-model"
        && row.reason == "not that one [policy.cedar:1 no-first]"));
    assert_replays(&rig, &ended).await;
}

#[tokio::test]
async fn verdicts_of_models_cost_no_commit_and_where_no_policy_speaks_there_are_none() {
    for (cedar, verdicts) in [
        ("", 0),
        ("forbid(principal, action, resource == Tool::\"t\");", 0),
        ("forbid(principal, action, resource is Host);", 0),
        (
            "permit(principal, action == Action::\"model\", resource);",
            1,
        ),
        (
            "forbid(principal, action, resource) when { resource has port };",
            1,
        ),
    ] {
        let server = ModelServer::start(ModelScript::new()).await.unwrap();
        let bot = Bot::on(&[(&server, Protocol::Openai)]);
        let bot = bot.tool("t", &json!({}), "true").cedar(cedar);
        let rig = Rig::new(bot).await;
        let ended = rig.ask("hello").await;
        assert_eq!(ended.row.status, RequestStatus::Completed, "{cedar}");
        assert_eq!(shown(&ended.journal, "model").len(), verdicts, "{cedar}");
        let slow = ended.kinds().contains(&"notice");
        assert!(
            slow || rig.spy.commands().len() <= 3,
            "{:?}",
            rig.spy.commands()
        );
    }
}

#[tokio::test]
async fn without_a_model_that_may_be_asked_the_request_is_denied() {
    let ask = NO_FIRST.replace("@id", "@ask(\"costly\") @id");
    for (cedar, fallback, by_policy, reason) in [
        (NO_FIRST, "fail", None, "not that one"),
        (
            ask.as_str(),
            "fail",
            Some(AuditVerdict::Asked),
            "not that one; a request does not wait for a person to ask a model",
        ),
        (
            "forbid(principal, action == Action::\"model\", resource);",
            "next_provider",
            None,
            "denied by `policy.cedar:1`",
        ),
    ] {
        let (first, second) = two_models().await;
        let bot = bot_on(&first, &second).cedar(cedar);
        let rig = Rig::new(bot.set_in("models", "fallback_policy", json!(fallback))).await;
        let ended = rig.ask("please").await;
        let failure = ended.row.failure.clone().unwrap();
        assert_eq!(failure.code, ErrorCode::Denied);
        assert!(
            failure.message.starts_with("policy denies the model `p"),
            "{failure}"
        );
        assert!(failure.message.ends_with(reason), "{failure}");
        assert_eq!(verdicts(&ended.journal, "model")[0].by_policy, by_policy);
        assert!(first.requests().is_empty() && second.requests().is_empty());
        assert_replays(&rig, &ended).await;
    }
}

#[tokio::test]
async fn what_the_journal_says_of_a_model_holds_when_a_request_is_taken_up_again() {
    let (first, second) = two_models().await;
    let rig = Rig::new(bot_on(&first, &second).cedar(NO_FIRST)).await;
    let ended = rig.ask("please").await;
    let kind = |kind: &str| ended.kinds().iter().position(|one| *one == kind).unwrap();
    let mut journal = ended.journal.clone();
    // As if another version of the policy had decided.
    for entry in &mut journal {
        if let EntryBody::PolicyVerdict(verdict) = &mut entry.body
            && verdict.resource == "p0/test-model"
        {
            verdict.verdict = AuditVerdict::Allowed;
        }
    }
    let next = rig.cut(&ended.row, &journal, kind("tool_intent")).await;
    let again = recovered(&next, &ended).await;
    assert_eq!(again.row.status, RequestStatus::Completed);
    assert_eq!(first.requests().len(), 1);
    assert_eq!(shown(&again.journal, "model").len(), 2);
}

#[tokio::test]
async fn a_fork_decides_about_its_models_anew() {
    let (first, second) = (with_tool().await, with_tool().await);
    let allowed = "permit(principal, action == Action::\"model\", resource);";
    let rig = Rig::new(bot_on(&first, &second).cedar(allowed)).await;
    let ended = rig.ask("please").await;
    let seq = |kind: &str| {
        let mut journal = ended.journal.iter();
        journal.find(|entry| entry.body.kind() == kind).unwrap().seq
    };
    let fork = |at| {
        rig.engine.fork(Forking {
            origin: ended.row.id,
            at,
            changes: ForkChanges {
                policy: Some(ForkPolicy::Cedar(NO_FIRST.to_owned())),
                ..ForkChanges::default()
            },
            metadata: BTreeMap::new(),
            caller: "test".to_owned(),
            idempotency: None,
        })
    };
    // What is decided about a model is committed with its reply.
    let refused = fork(seq("policy_verdict")).await;
    assert!(matches!(refused, Err(EngineError::ForkPosition { .. })));
    let forked = fork(seq("tool_result")).await.unwrap();
    let forked = rig.end(forked).await;
    assert_eq!(forked.output(), "well");
    assert_eq!((first.requests().len(), second.requests().len()), (2, 1));
    assert_eq!(
        shown(&forked.journal, "model"),
        [("p0", "allowed"), ("p0", "denied"), ("p1", "allowed")]
            .map(|(provider, verdict)| (format!("{provider}/test-model"), verdict))
    );
}

/// Asks the helper once and reports what it said.
fn caller(cedar: &str) -> Bot {
    Bot::new()
        .agent_tool("ask", "local://helper", &json!({}))
        .cedar(cedar)
        .script(&json!([
            {"match": {"step": 1}, "tool_calls": [{"name": "ask", "input": {"input": "{{ input }}"}}]},
            {"match": {"after_tool": "ask"}, "respond": "helper: {{ result }}"},
        ]))
}

async fn with_helper(bot: Bot) -> Rig {
    let mut rig = Rig::new(bot).await;
    rig.deploy("helper", Bot::new()).await;
    rig
}

#[tokio::test]
async fn an_agent_is_called_only_where_policy_allows_the_tool_and_the_agent() {
    let rig = with_helper(caller(
        "forbid(principal == Agent::\"dev/bot\", action == Action::\"agent_call\", resource == Agent::\"dev/helper\")\n\
         when { resource.version == \"0.1.0\" && resource.networks.contains(\"bridge\") };",
    ))
    .await;
    let ended = rig.ask("hello").await;
    assert!(
        ended
            .output()
            .contains("policy denies this call: denied by `policy.cedar:1`"),
        "{}",
        ended.output()
    );
    assert!(rig.engine.tree(ended.row.id).await.unwrap().is_empty());
    assert_eq!(
        shown(&ended.journal, "agent_call"),
        [("dev/helper".to_owned(), "denied")]
    );
    assert!(verdicts(&ended.journal, "tool").is_empty());
    assert_replays(&rig, &ended).await;

    let allowed = "forbid(principal, action == Action::\"agent_call\", resource) when { resource.name == \"x\" };";
    let rig = with_helper(caller(allowed)).await;
    let ended = rig.ask("hello").await;
    assert_eq!(ended.output(), "helper: Echo: hello");
    assert_eq!(
        shown(&ended.journal, "agent_call"),
        [("dev/helper".to_owned(), "allowed")]
    );
    assert_eq!(shown(&ended.journal, "tool").len(), 1);
}

#[tokio::test]
async fn a_question_about_an_agent_parks_the_call_and_is_asked_once() {
    let both = "@ask(\"is it wise?\") forbid(principal, action == Action::\"agent_call\", resource);\n\
                @ask(\"really?\") forbid(principal, action == Action::\"tool\", resource == Tool::\"ask\");";
    let rig = with_helper(caller(both)).await;
    let invoked = rig.invoke("hello").await;
    let (id, session) = (invoked.request_id, invoked.session_id.clone());
    let ending = soon("parking", invoked.events.ending()).await.unwrap();
    assert!(matches!(ending, Ending::Parked), "{ending:?}");
    let filter = ApprovalFilter {
        request_id: Some(id),
        ..ApprovalFilter::default()
    };
    let page = PageRequest::first(10);
    let rows = rig.store.approvals(&filter, &page).await.unwrap().items;
    let [row] = rows.try_into().unwrap();
    assert_eq!(row.question.reason, "really?");
    assert_eq!(row.question.policies, ["policy.cedar:2", "policy.cedar:1"]);
    let decision = DecideApproval {
        approval_id: row.question.approval_id,
        decision: ApprovalDecision::Approve,
        by: "alice".to_owned(),
        remember: Some(Remember::Agent),
        note: None,
    };
    rig.engine.decide(decision).await.unwrap();
    let events = rig.engine.events(id, 0).await.unwrap();
    soon("the end", events.ending()).await.unwrap();
    let row = rig.engine.request(id).await.unwrap();
    assert_eq!(row.output, Some(json!("helper: Echo: hello")));
    rig.idle().await;
    // Remembered for both.
    let ended = rig.ask_in(&session, "again").await;
    assert_eq!(ended.row.status, RequestStatus::Completed);
    for action in ["tool", "agent_call"] {
        let [verdict] = verdicts(&ended.journal, action).try_into().unwrap();
        assert_eq!(verdict.verdict, AuditVerdict::Allowed);
        assert_eq!(verdict.by_policy, Some(AuditVerdict::Asked));
    }
}

#[tokio::test]
async fn a_refused_question_about_tool_and_agent_replays() {
    let both = "@ask(\"\") forbid(principal, action, resource) unless { resource has provider };";
    let rig = with_helper(caller(both)).await;
    let invoked = rig.invoke("hello").await;
    let id = invoked.request_id;
    soon("parking", invoked.events.ending()).await.unwrap();
    let filter = ApprovalFilter {
        request_id: Some(id),
        ..ApprovalFilter::default()
    };
    let page = PageRequest::first(10);
    let rows = rig.store.approvals(&filter, &page).await.unwrap().items;
    let decision = DecideApproval {
        approval_id: rows[0].question.approval_id,
        decision: ApprovalDecision::Deny,
        by: "alice".to_owned(),
        remember: Some(Remember::Agent),
        note: None,
    };
    rig.engine.decide(decision).await.unwrap();
    let events = rig.engine.events(id, 0).await.unwrap();
    soon("the end", events.ending()).await.unwrap();
    rig.idle().await;
    let again = rig.ask("again").await;
    assert_eq!(shown(&again.journal, "agent_call")[0].1, "denied");
    assert_replays(&rig, &again).await;
    let replayed = rig.engine.replay(id).await.unwrap();
    assert!(replayed.equal, "{:?}", replayed.divergence);
}

#[tokio::test]
async fn a_step_of_a_workflow_is_denied_before_it_starts() {
    for (effect, reason) in [
        ("forbid", "denied by `policy.cedar:1`"),
        (
            "@ask(\"?\") forbid",
            "?; a step of a workflow does not wait for a person",
        ),
    ] {
        let steps = json!([
            {"id": "one", "agent_ref": "local://helper", "input_template": "{{ input }}"},
            {"id": "two", "agent_ref": "local://other", "input_template": "x", "depends_on": ["one"], "retry": {"max_attempts": 3}},
        ]);
        let bot = Bot::new()
            .workflow(&json!({"name": "w", "version": "1.0.0", "steps": steps}))
            .cedar(&format!(
                "{effect}(principal, action == Action::\"agent_call\", resource == Agent::\"dev/other\");"
            ));
        let mut rig = with_helper(bot).await;
        rig.deploy("other", Bot::new()).await;
        let ended = rig.ask("hello").await;
        let failure = ended.row.failure.clone().unwrap();
        assert_eq!(failure.code, ErrorCode::Denied);
        assert_eq!(
            failure.message,
            format!("step `two` failed: policy denies this call: {reason}")
        );
        assert_eq!(
            shown(&ended.journal, "agent_call"),
            [
                ("dev/helper".to_owned(), "allowed"),
                ("dev/other".to_owned(), "denied")
            ]
        );
        assert_eq!(rig.engine.tree(ended.row.id).await.unwrap().len(), 1);
    }
}

/// A server that redirects to what stands behind `?`, or answers `page`.
#[expect(clippy::disallowed_methods, reason = "the task ends with the test")]
async fn web() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(stream.read_u8().await.unwrap());
            }
            let request = String::from_utf8(request).unwrap();
            let path = request.split(' ').nth(1).unwrap();
            let head = match path.split_once('?') {
                Some((_, target)) => format!("302 Found\r\nLocation: {target}"),
                None => "200 OK\r\nContent-Type: text/plain".to_owned(),
            };
            let answer =
                format!("HTTP/1.1 {head}\r\nContent-Length: 4\r\nConnection: close\r\n\r\npage");
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    port
}

fn with_loopback(loader: &mut AgentLoader) {
    let config = BuiltinsConfig {
        egress: EgressPolicy {
            allow_private: vec!["127.0.0.0/8".parse().unwrap(), "localhost".parse().unwrap()],
            ports: Vec::new(),
        },
        ..BuiltinsConfig::default()
    };
    loader.builtins = Builtins::new(config);
}

fn fetcher(cedar: &str, url: &str) -> Bot {
    Bot::new().builtin("rune@web-fetch").cedar(cedar).script(&json!([
        {"match": {"step": 1}, "tool_calls": [{"name": "rune__web-fetch", "input": {"url": url}}]},
        {"respond": "{{ result }}"},
    ]))
}

fn failure(ended: &Ended) -> Option<(ErrorCode, String)> {
    ended.journal.iter().find_map(|entry| match &entry.body {
        EntryBody::ToolResult(outcome) => {
            let failure = outcome.failure.clone()?;
            Some((failure.code, failure.message))
        }
        _ => None,
    })
}

#[tokio::test]
async fn every_hop_of_a_fetch_is_decided_about() {
    let (one, two) = (web().await, web().await);
    let cedar = format!(
        "forbid(principal, action == Action::\"egress\", resource) unless {{ resource.port == {one} }};"
    );
    let there = format!("http://127.0.0.1:{one}/");
    let rig = Rig::with_loader(fetcher(&cedar, &there), with_loopback).await;
    let ended = rig.ask("go").await;
    assert_eq!(failure(&ended), None);
    assert_eq!(
        shown(&ended.journal, "egress"),
        [(format!("127.0.0.1:{one}"), "allowed")]
    );
    assert_replays(&rig, &ended).await;

    // Another way to write the address, and back to it twice.
    let back = format!("http://0x7f000001:{one}/?http://127.1:{one}/?http://127.0.0.1:{two}/");
    let rig = Rig::with_loader(fetcher(&cedar, &back), with_loopback).await;
    let ended = rig.ask("go").await;
    let (code, message) = failure(&ended).unwrap();
    assert_eq!(code, ErrorCode::Denied);
    assert_eq!(
        message,
        format!("policy denies connecting to `127.0.0.1:{two}`: denied by `policy.cedar:1`")
    );
    assert_eq!(
        shown(&ended.journal, "egress"),
        [
            (format!("127.0.0.1:{one}"), "allowed"),
            (format!("127.0.0.1:{two}"), "denied")
        ]
    );
    let call = |body: &EntryBody| match body {
        EntryBody::PolicyVerdict(verdict) => verdict.call_id.clone(),
        EntryBody::ToolResult(outcome) => Some(outcome.call_id.clone()),
        _ => None,
    };
    let calls: Vec<_> = ended
        .journal
        .iter()
        .filter_map(|entry| call(&entry.body))
        .collect();
    assert!(calls.len() == 4 && calls.iter().all(|id| *id == calls[0]));
    assert_replays(&rig, &ended).await;
}

#[tokio::test]
async fn a_host_is_the_same_however_it_is_written() {
    let port = web().await;
    for (host, url) in [
        ("localhost", "LOCALHOST"),
        ("localhost", "localhost."),
        ("127.0.0.1", "2130706433"),
        ("127.0.0.1", "[::ffff:127.0.0.1]"),
    ] {
        let cedar = format!(
            "forbid(principal, action == Action::\"egress\", resource == Host::\"{host}\");"
        );
        let bot = fetcher(&cedar, &format!("http://{url}:{port}/"));
        let rig = Rig::with_loader(bot, with_loopback).await;
        let ended = rig.ask("go").await;
        assert_eq!(
            shown(&ended.journal, "egress"),
            [(format!("{host}:{port}"), "denied")],
            "{url}: {:?}",
            failure(&ended)
        );
    }
}

#[tokio::test]
async fn a_host_that_would_need_a_person_is_denied() {
    let port = web().await;
    let cedar = "@ask(\"outside\") forbid(principal, action == Action::\"egress\", resource);";
    let bot = fetcher(cedar, &format!("http://127.0.0.1:{port}/"));
    let rig = Rig::with_loader(bot, with_loopback).await;
    let ended = rig.ask("go").await;
    let (code, message) = failure(&ended).unwrap();
    assert_eq!(code, ErrorCode::Denied);
    assert!(
        message.ends_with("outside; a tool that runs does not wait for a person"),
        "{message}"
    );
    let [verdict] = verdicts(&ended.journal, "egress").try_into().unwrap();
    assert_eq!(verdict.by_policy, Some(AuditVerdict::Asked));
    assert_eq!(
        verdict.attributes,
        json!({"name": "127.0.0.1", "port": port})
    );
    assert_replays(&rig, &ended).await;
}
