//! Programmable agents through the daemon: components that ask models and call tools, take up what they did after a
//! restart, and end in a clear way whatever they do.

mod edges;

use std::path::{Path, PathBuf};

use rune_testkit::{ModelScript, ModelServer, Otherwise, Protocol, Reply, TestDaemon, ToolCall};
use serde_json::{Value, json};

use crate::component::{Guest, LOOP, component, write};
use crate::home::{Home, RUNE, Served};
use crate::wire::{Api, LIMIT, Tool, answer, assert_no_panic, deploy, lines_of};

/// Writes down that it ran.
const TOUCH: Tool<'static> = Tool {
    name: "touch",
    script: "cat >> log\necho >> log\necho '{\"touched\": true}'\n",
    yaml: "",
};
const STORE: Tool<'static> = Tool {
    name: "rune@memory-store",
    script: "",
    yaml: "",
};

async fn served() -> Served {
    let builder = TestDaemon::builder(RUNE).env("RUST_LOG", "warn");
    Served(builder.start().await.unwrap())
}

/// Deploys an agent that is a component, with the tool `touch`, whose model is `server`.
fn deploy_component(served: &Served, name: &str, server: &ModelServer, wat: &str, extra: &str) {
    let dir = served.0.home().join(name);
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("agent.wat"), wat).unwrap();
    let extra = format!("entrypoint: agent.wat\n{extra}");
    let models = [(server, Protocol::Openai)];
    deploy(served, name, &models, &[TOUCH, STORE], &extra);
}

/// The model calls the tool and then answers.
fn script() -> ModelScript {
    ModelScript::new()
        .on_text("go")
        .reply(Reply::calls([ToolCall::new("touch", json!({"n": 1}))]))
        .then(Reply::text("all is done"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_component_asks_calls_tools_and_is_followed_live() {
    let served = served().await;
    let server = ModelServer::start(script()).await.unwrap();
    deploy_component(&served, "bot", &server, &component(LOOP), "");
    let api = Api::of(&served.0);
    let body = json!({"input": "go", "session_id": "s", "stream": true});
    let response = api.invoke("bot", &body).send().await.unwrap();
    let events = crate::wire::Events::of(response).rest().await;
    let names: Vec<&str> = events.iter().map(|event| event.name.as_str()).collect();
    let text: String = events
        .iter()
        .filter(|event| event.name == "token")
        .map(|event| event.data["text"].as_str().unwrap())
        .collect();
    assert_eq!(text, "all is done");
    let is_told = |name: &&str| !matches!(*name, "token" | "notice");
    let told: Vec<&str> = names.into_iter().filter(is_told).collect();
    let expected = [
        "accepted",
        "started",
        "usage",
        "component_turn",
        "policy_verdict",
        "tool_start",
        "tool_done",
        "usage",
        "component_turn",
        "done",
    ];
    assert_eq!(told, expected);
    let last = &events.last().unwrap().data;
    assert_eq!(last["output"], "all is done");
    assert!(last["usage"]["input_tokens"].as_u64() > Some(0), "{last}");
    assert_eq!(lines_of(&served, "bot", "log"), ["{\"n\":1}"]);

    // The next request of the session is shown what was said, and what was done.
    let (status, body) = api
        .ask("bot", &json!({"input": "and now?", "session_id": "s"}))
        .await;
    assert_eq!((status, &body["output"]), (200, &json!("Echo: and now?")));
    let requests = server.requests();
    let prompt = requests.last().unwrap().body.to_string();
    for part in ["go", "touched", "all is done", "and now?"] {
        assert!(prompt.contains(part), "{part}: {prompt}");
    }

    // The same component over the journal writes the same journal.
    let id = last["request_id"].as_str().unwrap();
    let replayed = served
        .rune(&["requests", "replay", id, "-o", "json"])
        .json();
    assert_eq!(replayed["equal"], true, "{replayed}");
    assert_eq!(server.requests().len(), 3);
    assert_no_panic(&served);
}

/// Has everything done that can be, and traps where it is not as it should be.
fn everything() -> String {
    let mut guest = Guest::default();
    let (system, alias, more) = (
        guest.text("You are somebody else."),
        guest.text("strong"),
        guest.text("What else?"),
    );
    let schema = guest.text("{\"type\":\"object\"}");
    let (own, why) = (guest.text("mine"), guest.text("A tool of the component."));
    let (key, value, no_json) = (
        guest.text("notes/one"),
        guest.text("{\"a\":1}"),
        guest.text("{"),
    );
    let (prefix, answer) = (guest.text("notes/"), guest.text("{\"ok\":true}"));
    guest.run(&format!(
        r"(call $history (i32.const 1240))
      (if (i32.and (i32.ne (i32.load (i32.const 1244)) (i32.const 0))
                   (i32.ne (i32.load (i32.const 1244)) (i32.const 2))) (then (unreachable)))
      (call $list (i32.const 1240))
      (if (i32.ne (i32.load (i32.const 1244)) (i32.const 4)) (then (unreachable)))
      ;; What is no JSON is not remembered.
      (call $put {key} {no_json} (i32.const 1240))
      (if (i32.eqz (i32.load8_u (i32.const 1240))) (then (unreachable)))
      (call $put {key} {value} (i32.const 1240))
      (if (i32.load8_u (i32.const 1240)) (then (unreachable)))
      (call $get {prefix} (i32.const 1240))
      (if (i32.or (i32.load8_u (i32.const 1240)) (i32.load8_u (i32.const 1244))) (then (unreachable)))
      (call $keys {prefix} (i32.const 1240))
      (if (i32.or (i32.load8_u (i32.const 1240)) (i32.ne (i32.load (i32.const 1248)) (i32.const 1)))
        (then (unreachable)))
      ;; A message that cannot be is told.
      (call $say (i32.const 4) (i32.const 9) (i32.const 0))
      (if (call $question (i32.const 1)) (then (unreachable)))
      (global.set $messages (i32.const 0))
      (call $say (i32.const 1) (i32.const 0) (i32.const 0))
      (call $say (i32.const 0) (i32.const 0) (i32.const 0))
      (call $say (i32.const 3) {more})
      (call $say (i32.const 2) {more})
      (i32.store8 (i32.const 1024) (i32.const 1))
      (call $pair (i32.const 1028) {system})
      (call $pair (i32.const 1056) (i32.const 1400) (i32.const 1))
      (call $pair (i32.const 1400) {own})
      (call $pair (i32.const 1408) {why})
      (call $pair (i32.const 1416) {schema})
      (i32.store8 (i32.const 1064) (i32.const 1))
      (call $pair (i32.const 1068) {alias})
      (i32.store8 (i32.const 1076) (i32.const 1))
      (i32.store (i32.const 1080) (i32.const 77))
      (i32.store8 (i32.const 1084) (i32.const 1))
      (call $pair (i32.const 1088) {schema})
      (if (i32.eqz (call $question (i32.const 0))) (then (return (call $reply))))
      (i32.store8 (i32.const 1176) (i32.const 0))
      (i32.store8 (i32.const 1180) (i32.const 1))
      (call $pair (i32.const 1184) {answer})
      (i32.const 1176))
    (func $pair (param $to i32) (param $at i32) (param $length i32)
      (i32.store (local.get $to) (local.get $at)) (i32.store offset=4 (local.get $to) (local.get $length))"
    ))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_import_does_what_the_world_says() {
    let served = served().await;
    let server = ModelServer::start(ModelScript::new()).await.unwrap();
    let models = json!({
        "providers": ["here"],
        "endpoints": {"here": {
            "protocol": "openai", "base_url": server.base_url(Protocol::Openai), "api_key": "test",
        }},
        "model_mapping": {"default": "scripted", "strong": "stronger"},
    });
    let extra = format!("models: {models}\noutput_schema: {{type: object}}\n");
    let toolset = ["rune@memory-list"];
    write(served.0.home(), "bot", &everything(), &toolset, &extra);
    served.rune(&["run", "bot"]).ok();
    let api = Api::of(&served.0);
    for n in 1..3 {
        let body = json!({"input": "hello", "session_id": "s"});
        let (status, body) = api.ask("bot", &body).await;
        assert_eq!(
            (status, &body["output"]),
            (200, &json!({"ok": true})),
            "{body}"
        );
        let requests = server.requests();
        assert_eq!(requests.len(), n);
        let prompt = &requests[n - 1].body;
        let text = prompt.to_string();
        assert_eq!(prompt["model"], "stronger");
        for part in [
            "You are somebody else.",
            "A tool of the component.",
            "rune__memory-store",
            "What else?",
            "77",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!text.contains("Answer."), "{text}");
        // The answer of the first request, and its calls, are part of the second.
        assert_eq!(text.contains("{\\\"ok\\\":true}"), n == 2, "{text}");
        let id = body["request_id"].as_str().unwrap();
        let replayed = served.rune(&["requests", "replay", id, "-o", "json"]);
        assert_eq!(replayed.json()["equal"], true);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_does_not_answer_is_told_to_the_component() {
    let served = served().await;
    let refuses = ModelScript::new().otherwise(Otherwise::Refuse);
    let server = ModelServer::start(refuses).await.unwrap();
    deploy_component(&served, "bot", &server, &component(LOOP), "");
    let mut calm = Guest::default();
    let text = calm.text("nobody answers");
    let calm = calm.run(&format!(
        "(call $say (i32.const 0) (i32.const 0) (i32.const 0)) (drop (call $question (i32.const 1)))
         (drop (call $question (i32.const 1))) (call $text {text})"
    ));
    deploy_component(&served, "calm", &server, &calm, "");
    let api = Api::of(&served.0);
    for (agent, last, unanswered) in [("bot", "error", 1), ("calm", "done", 2)] {
        let id = api.start(agent, "go").await;
        let events = api.events(&id, 0).await.rest().await;
        assert_eq!(events.last().unwrap().name, last, "{events:?}");
        let told = events.iter().filter(|e| e.name == "model_unanswered");
        let told: Vec<&Value> = told.map(|event| &event.data["error"]["code"]).collect();
        assert_eq!(told, vec![&json!("invalid_input"); unanswered]);
        let replayed = served.rune(&["requests", "replay", &id, "-o", "json"]);
        assert_eq!(replayed.json()["equal"], true);
    }
    let wrong = "output_schema: {type: object}\n";
    deploy_component(&served, "wrong", &server, &calm, wrong);
    let id = api.start("wrong", "go").await;
    let events = api.events(&id, 0).await.rest().await;
    let last = events.last().unwrap();
    assert_eq!(last.name, "error");
    let why = last.data["message"].as_str().unwrap();
    assert!(
        why.contains("the component's answer does not match `output_schema`"),
        "{why}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fork_goes_on_with_another_model_and_repeats_nothing() {
    let served = served().await;
    let script = ModelScript::new()
        .on_model("other")
        .reply(Reply::text("in other words"))
        .on_results(0)
        .reply(Reply::calls([ToolCall::new("touch", json!({"n": 1}))]))
        .on_results(1)
        .reply(Reply::text("all is done"));
    let server = ModelServer::start(script).await.unwrap();
    deploy_component(&served, "bot", &server, &component(LOOP), "");
    let api = Api::of(&served.0);
    let (_, first) = api.ask("bot", &json!({"input": "go"})).await;
    assert_eq!(first["output"], "all is done", "{first}");
    let id = first["request_id"].as_str().unwrap();
    let events = api.events(id, 0).await.rest().await;
    let done = events.iter().find(|event| event.name == "tool_done");
    let at = format!("{id}@{}", done.unwrap().id.unwrap());
    let forked = served
        .rune(&["requests", "fork", &at, "--model", "other", "-o", "json"])
        .json();
    let row = api.ended(forked["request_id"].as_str().unwrap()).await;
    assert_eq!(
        (&row["status"], &row["output"]),
        (&json!("completed"), &json!("in other words")),
        "{row}"
    );
    assert_eq!(lines_of(&served, "bot", "log").len(), 1);
}

/// Remembers something under the id of its session, then of its request, then under what follows from chance and time,
/// and asks.
fn personal() -> String {
    let mut guest = Guest::default();
    let one = guest.text("1");
    guest.run(&format!(
        r"(local $letters i64)
      (call $put (local.get $session) (local.get $session_length) {one} (i32.const 1240))
      (if (i32.load8_u (i32.const 1240)) (then (unreachable)))
      (call $put (local.get $id) (local.get $id_length) {one} (i32.const 1240))
      (if (i32.load8_u (i32.const 1240)) (then (unreachable)))
      (call $now (i32.const 1240))
      (local.set $letters (i64.add (call $random) (i64.load (i32.const 1240))))
      (i64.store (i32.const 1300) (i64.add (i64.and (local.get $letters) (i64.const 0x0f0f0f0f0f0f0f0f))
        (i64.const 0x6161616161616161)))
      (call $put (i32.const 1300) (i32.const 8) {one} (i32.const 1240))
      (if (i32.load8_u (i32.const 1240)) (then (unreachable)))
      (call $say (i32.const 0) (i32.const 0) (i32.const 0))
      (drop (call $question (i32.const 1)))
      (call $reply)"
    ))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fork_and_a_fork_of_that_take_themselves_for_the_request_their_journal_began_with() {
    let served = served().await;
    let script = ModelScript::new().on_text("go").reply(Reply::text("well"));
    let server = ModelServer::start(script).await.unwrap();
    deploy_component(&served, "bot", &server, &personal(), "");
    let api = Api::of(&served.0);
    let (_, first) = api
        .ask("bot", &json!({"input": "go", "session_id": "mine"}))
        .await;
    assert_eq!(first["output"], "well", "{first}");
    let mut id = first["request_id"].as_str().unwrap().to_owned();
    let events = api.events(&id, 0).await.rest().await;
    let done = events.iter().rfind(|event| event.name == "tool_done");
    let seq = done.unwrap().id.unwrap();
    for _ in 0..2 {
        let at = format!("{id}@{seq}");
        let forked = served.rune(&["requests", "fork", &at, "-o", "json"]).json();
        id = forked["request_id"].as_str().unwrap().to_owned();
        let row = api.ended(&id).await;
        assert_eq!(
            (&row["status"], &row["output"]),
            (&json!("completed"), &json!("well")),
            "{row}"
        );
        let replayed = served.rune(&["requests", "replay", &id, "-o", "json"]);
        assert_eq!(replayed.json()["equal"], true);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_a_person_approves_parks_the_request_over_a_restart() {
    let mut served = served().await;
    let server = ModelServer::start(script()).await.unwrap();
    let policy = "policy: {ask: [touch]}\n";
    deploy_component(&served, "bot", &server, &component(LOOP), policy);
    for (decision, expected) in [("approve", 1), ("deny", 1)] {
        let api = Api::of(&served.0);
        let (status, body) = api.ask("bot", &json!({"input": "go"})).await;
        assert_eq!(
            (status, &body["status"]),
            (202, &json!("input-required")),
            "{body}"
        );
        let id = body["request_id"].as_str().unwrap();
        let idle = async {
            while metric(&api, "rune_requests_active").await > 0 {
                tokio::time::sleep(crate::wire::POLL).await;
            }
        };
        tokio::time::timeout(LIMIT, idle).await.unwrap();
        served.0.kill9().unwrap();
        served.0.restart().await.unwrap();
        let api = Api::of(&served.0);
        let (_, page) = answer(api.get("/v1/approvals")).await.unwrap();
        let approval = page["items"][0]["approval_id"].as_str().unwrap().to_owned();
        let path = format!("/v1/requests/{id}/approvals/{approval}");
        let (status, _) = answer(api.post(&path, &json!({ "decision": decision })))
            .await
            .unwrap();
        assert_eq!(status, 200);
        let row = api.ended(id).await;
        assert_eq!(
            (&row["status"], &row["output"]),
            (&json!("completed"), &json!("all is done")),
            "{row}"
        );
        assert_eq!(lines_of(&served, "bot", "log").len(), expected);
    }
    assert_eq!(server.requests().len(), 4);
}

/// The value of a metric without labels.
async fn metric(api: &Api, name: &str) -> u64 {
    let text = api.get("/metrics").send().await.unwrap();
    let text = text.text().await.unwrap();
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.unwrap().parse().unwrap()
}

/// Calls itself for ever.
const SPIN: &str = "(loop $on (br $on)) (unreachable)";

#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_component_does_ends_and_says_why() {
    let served = served().await;
    let home = served.0.home().to_owned();
    let mut endless = Guest::default();
    let (name, input) = (endless.text("rune@memory-store"), endless.text("{}"));
    let endless = endless.run(&format!(
        "(loop $on (call $call {name} {input} (i32.const 1200)) (br $on)) (unreachable)"
    ));
    let mut flood = Guest::default();
    let line = flood.text(&"0123456789abcdef".repeat(64));
    let flood = flood.run(&format!(
        "(loop $on (call $emit {line}) (br $on)) (unreachable)"
    ));
    let mut refuses = Guest::default();
    let (code, why) = (refuses.text("denied"), refuses.text("not on a Sunday"));
    let own = format!(
        "(call $text {why}) (drop) (i32.store8 (i32.const 1176) (i32.const 1))
         (call $pair (i32.const 1180) {code}) (call $pair (i32.const 1188) {why}) (i32.const 1176))
       (func $pair (param $to i32) (param $at i32) (param $length i32)
         (i32.store (local.get $to) (local.get $at)) (i32.store offset=4 (local.get $to) (local.get $length))"
    );
    let guest = |code: &str| Guest::default().run(code);
    let agents = [
        (
            "spin",
            guest(SPIN),
            "timeout_ms: 500\n",
            "timeout",
            "did not end within 500 ms",
        ),
        (
            "toil",
            guest(SPIN),
            "runtime: {component_cpu_ms: 200}\n",
            "limit_exceeded",
            "the component used more than 200 ms of CPU time (`runtime.component_cpu_ms`)",
        ),
        (
            "hoard",
            guest(
                "(loop $more (br_if $more (i32.ne (memory.grow (i32.const 16)) (i32.const -1)))) (unreachable)",
            ),
            "",
            "limit_exceeded",
            "the component ran out of memory",
        ),
        (
            "trap",
            guest("(unreachable)"),
            "",
            "internal",
            "the component trapped: wasm trap: wasm `unreachable` instruction executed",
        ),
        (
            "refuses",
            refuses.run(&own),
            "",
            "denied",
            "not on a Sunday",
        ),
        (
            "asks",
            guest(
                "(call $say (i32.const 0) (i32.const 0) (i32.const 0))
                 (loop $on (drop (call $question (i32.const 1))) (br $on)) (unreachable)",
            ),
            "max_steps: 3\n",
            "limit_exceeded",
            "`max_steps`",
        ),
        (
            "endless",
            endless,
            "budget: {tool_calls: 7}\n",
            "limit_exceeded",
            "`budget.tool_calls`",
        ),
        (
            "huge",
            guest(
                "(drop (memory.grow (i32.const 64)))
                 (call $put (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 2097152) (i32.const 1240)) (unreachable)",
            ),
            "",
            "too_large",
            "of 2097152 bytes",
        ),
        (
            "flood",
            flood,
            "",
            "limit_exceeded",
            "the component shows more than",
        ),
    ];
    for (name, wat, extra, ..) in &agents {
        write(&home, name, wat, &[], extra);
        served.rune(&["run", name]).ok();
    }
    let api = Api::of(&served.0);
    for (name, _, _, code, message) in &agents {
        let id = api.start(name, "go").await;
        let events = api.events(&id, 0).await.rest().await;
        let last = events.last().unwrap();
        assert_eq!(
            (last.name.as_str(), last.data["code"].as_str()),
            ("error", Some(*code)),
            "{name}: {last:?}"
        );
        let said = last.data["message"].as_str().unwrap();
        assert!(said.contains(message), "{name}: {said}");
        let open = events.iter().filter(|e| e.name == "tool_start").count();
        let done = events.iter().filter(|e| e.name == "tool_done").count();
        assert!(open <= done, "{name}: {open} of {done}");
    }
    let (status, health) = answer(api.get("/ready")).await.unwrap();
    assert_eq!(status, 200, "{health}");
    assert_no_panic(&served);
}

#[tokio::test(flavor = "multi_thread")]
async fn cancel_ends_a_component_wherever_it_is() {
    let served = served().await;
    write(
        served.0.home(),
        "spin",
        &Guest::default().run(SPIN),
        &[],
        "timeout_ms: 600000\n",
    );
    served.rune(&["run", "spin"]).ok();
    let server = ModelServer::start(script()).await.unwrap();
    server.hold();
    deploy_component(&served, "waits", &server, &component(LOOP), "");
    let api = Api::of(&served.0);
    let mut ids = Vec::new();
    // More than there are threads.
    for agent in ["waits", "spin", "spin", "spin", "spin"] {
        let id = api.start(agent, "go").await;
        let mut events = api.events(&id, 0).await;
        while events.next().await.is_none_or(|e| e.name != "started") {}
        ids.push(id);
    }
    tokio::time::timeout(LIMIT, server.wait_for_held(1))
        .await
        .unwrap()
        .unwrap();
    for id in ids {
        let request = api.post(&format!("/v1/requests/{id}/cancel"), &json!({}));
        let (status, row) = answer(request).await.unwrap();
        assert_eq!(
            (status, row["status"].as_str()),
            (200, Some("cancelled")),
            "{row}"
        );
    }
    server.release_all();
    assert_no_panic(&served);
}

/// The unpacked component of the only agent that has one.
fn unpacked(served: &Served) -> PathBuf {
    fn find(dir: &Path) -> Option<PathBuf> {
        let entries = std::fs::read_dir(dir).ok()?.map(Result::unwrap);
        entries.map(|entry| entry.path()).find_map(|path| {
            if path.is_dir() {
                find(&path)
            } else {
                path.ends_with("agent.wat").then_some(path)
            }
        })
    }
    find(&served.0.data_dir()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_component_that_does_something_else_than_before_is_stopped_at_the_entry() {
    let mut served = served().await;
    let server = ModelServer::start(script()).await.unwrap();
    let policy = "policy: {ask: [touch]}\n";
    deploy_component(&served, "bot", &server, &component(LOOP), policy);
    let mut others = Guest::default();
    let (name, input) = (others.text("touch"), others.text("{\"n\":2}"));
    let calls = others.run(&format!(
        "(call $call {name} {input} (i32.const 1200)) (call $text (i32.const 0) (i32.const 0))"
    ));
    let question = Guest::default().run(
        "(call $say (i32.const 0) (i32.const 0) (i32.const 0)) (drop (call $question (i32.const 1))) (call $reply)",
    );
    let ends = Guest::default().run("(call $text (i32.const 0) (i32.const 0))");
    for (other, message) in [
        (
            calls,
            "it asks a model, and run again it calls tools instead",
        ),
        (
            question,
            "it asks a model, and run again it asks a model with something else",
        ),
        (ends, "it asks a model, and run again it ends instead"),
    ] {
        let api = Api::of(&served.0);
        let (status, body) = api.ask("bot", &json!({"input": "go"})).await;
        assert_eq!(status, 202, "{body}");
        let id = body["request_id"].as_str().unwrap();
        served.0.kill9().unwrap();
        let path = unpacked(&served);
        let before = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, other).unwrap();
        served.0.restart().await.unwrap();
        let api = Api::of(&served.0);
        let (_, page) = answer(api.get("/v1/approvals")).await.unwrap();
        let approval = page["items"][0]["approval_id"].as_str().unwrap().to_owned();
        let path_of = format!("/v1/requests/{id}/approvals/{approval}");
        let decided = answer(api.post(&path_of, &json!({"decision": "deny"}))).await;
        assert_eq!(decided.unwrap().0, 200);
        let row = api.ended(id).await;
        assert_eq!(row["status"], "failed", "{row}");
        let events = api.events(id, 0).await.rest().await;
        let last = &events.last().unwrap().data;
        assert_eq!(last["code"], "conflict", "{last}");
        let said = last["message"].as_str().unwrap();
        let asked = events.iter().find(|event| event.name == "usage");
        let entry = format!("in entry {} {message}", asked.unwrap().id.unwrap());
        assert!(said.contains(&entry), "{entry}: {said}");
        served.0.kill9().unwrap();
        std::fs::write(&path, before).unwrap();
        served.0.restart().await.unwrap();
    }
    assert!(!served.0.home().join("log").exists());
}

#[tokio::test]
async fn a_component_that_cannot_be_an_agent_is_found_before_anything_runs() {
    let home = Home::new();
    let good = component(LOOP);
    let http = good.replacen(
        "(import \"rune:agent/output@0.1.0\" (instance $output",
        "(import \"wasi:http/types@0.2.0\" (instance $http))\n  (import \"rune:agent/output@0.1.0\" (instance $output",
        1,
    );
    let newer = good.replace("rune:agent/tools@0.1.0", "rune:agent/tools@0.9.0");
    let no_run = good.replace(
        "(export \"run\" (func $run))",
        "(export \"walk\" (func $run))",
    );
    let typed = good.replace(
        "\"debug\" \"info\" \"warn\" \"error\"",
        "\"debug\" \"info\" \"warn\" \"fatal\"",
    );
    for (wat, toolset, expected) in [
        (
            "(module (func (export \"_start\")))".to_owned(),
            "rune@memory-list",
            "it is a core module; that takes a component that exports `rune:agent/handler@0.1.0`",
        ),
        (
            "(component)".to_owned(),
            "rune@memory-list",
            "it exports nothing; that takes a component",
        ),
        (no_run, "rune@memory-list", "has no `run`"),
        (
            good.clone(),
            "rune@system-time",
            "imports `rune:agent/memory@0.1.0`, which is not granted; add `rune@memory-recall`",
        ),
        (
            http,
            "rune@memory-list",
            "imports `wasi:http/types@0.2.0`, which Rune does not offer: an agent reaches hosts through its tools",
        ),
        (
            newer,
            "rune@memory-list",
            "imports `rune:agent/tools@0.9.0`, which Rune does not offer",
        ),
        (
            "(component".to_owned(),
            "rune@memory-list",
            "is not a valid WebAssembly module",
        ),
    ] {
        write(home.path(), "bad", &wat, &[], "");
        let path = home.path().join("bad/Runefile");
        let text = std::fs::read_to_string(&path).unwrap();
        let text = text.replace(
            "[\"rune@memory-store\",\"rune@memory-recall\"]",
            &format!("[\"{toolset}\"]"),
        );
        std::fs::write(&path, text).unwrap();
        for command in [["validate", "bad"], ["run", "bad"]] {
            let ran = home.rune(&command).ends(2);
            for part in [expected, "bad/Runefile:5:1"] {
                assert!(ran.stderr.contains(part), "{part}: {}", ran.stderr);
            }
        }
        let ran = home.rune(&["run", "bad", "hello"]).ends(2);
        assert!(ran.stderr.contains(expected), "{}", ran.stderr);
    }
    write(home.path(), "bad", &typed, &[], "");
    let ran = home.rune(&["validate", "bad"]).ends(2);
    assert!(ran.stderr.contains("rune:agent/log"), "{}", ran.stderr);

    std::fs::remove_file(home.path().join("bad/agent.wat")).unwrap();
    let ran = home.rune(&["validate", "bad"]).ends(2);
    assert!(ran.stderr.contains("agent.wat"), "{}", ran.stderr);

    write(home.path(), "bad", &good, &[], "");
    home.rune(&["validate", "bad"]).ok();
    let audit = |more: &[&str], code: i32| {
        let args = [&["tool", "audit", "bad/agent.wat"], more].concat();
        home.rune(&args).ends(code).stdout
    };
    let value: Value = serde_json::from_str(&audit(&["-o", "json"], 0)).unwrap();
    assert_eq!(value["kind"], "agent-component", "{value}");
    assert!(
        value["description"]
            .as_str()
            .unwrap()
            .ends_with("bad/Runefile")
    );
    assert!(audit(&[], 0).contains("rune:agent/memory@0.1.0"));

    let workflow = "name: bad\nversion: 0.1.0\nsteps: [{id: a, agent_ref: \"local://other\"}]\noutput_step: a\n";
    std::fs::write(home.path().join("bad/workflow.yaml"), workflow).unwrap();
    let ran = home.rune(&["validate", "bad"]).ends(2);
    assert!(
        ran.stderr.contains("a package has one of them"),
        "{}",
        ran.stderr
    );
}
