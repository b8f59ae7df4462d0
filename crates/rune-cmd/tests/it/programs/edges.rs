//! Components at the edges: as much as they may hand over, tools that do not exist or change, agents that are components
//! and call others that are.

use std::path::Path;

use rune_testkit::{ModelScript, ModelServer, Protocol, TestDaemon};
use serde_json::{Value, json};

use super::{deploy_component, script, served};
use crate::component::{Guest, LOOP, component, write};
use crate::home::{RUNE, Served};
use crate::mcp::{python, stdio};
use crate::wire::{Api, Event, LIMIT, assert_no_panic};

/// Another function, behind the one that runs: stores two words. What closes that one closes this.
const PAIR: &str = ")
       (func $pair (param $to i32) (param $at i32) (param $length i32)
         (i32.store (local.get $to) (local.get $at)) (i32.store offset=4 (local.get $to) (local.get $length))";

/// The `models` of a Runefile whose only model is this server.
fn models(server: &ModelServer) -> String {
    let models = json!({
        "providers": ["here"],
        "endpoints": {"here": {
            "protocol": "openai", "base_url": server.base_url(Protocol::Openai), "api_key": "test",
        }},
        "model_mapping": {"default": "scripted"},
    });
    format!("models: {models}\n")
}

/// Deploys a component with the offline model and has it run; answers what was told.
async fn run(served: &Served, name: &str, wat: &str, extra: &str) -> Vec<Event> {
    write(served.0.home(), name, wat, &["rune@memory-list"], extra);
    served.rune(&["run", name]).ok();
    let api = Api::of(&served.0);
    let id = api.start(name, "go").await;
    api.events(&id, 0).await.rest().await
}

fn count(events: &[Event], name: &str) -> usize {
    events.iter().filter(|event| event.name == name).count()
}

fn assert_replays(served: &Served, events: &[Event]) {
    let id = events[0].data["request_id"].as_str().unwrap();
    let replayed = served.rune(&["requests", "replay", id, "-o", "json"]);
    assert_eq!(replayed.json()["equal"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_component_hands_over_is_bounded() {
    let served = served().await;
    // Many inputs that are the same megabyte.
    let aliases = "(local $n i32)
      (drop (memory.grow (i32.const 64)))
      (loop $fill
        (i32.store offset=20 (i32.add (i32.const 131072) (i32.mul (local.get $n) (i32.const 24))) (i32.const 1048576))
        (local.set $n (i32.add (local.get $n) (i32.const 1)))
        (br_if $fill (i32.lt_u (local.get $n) (i32.const 64))))
      (call $call_all (i32.const 131072) (i32.const 64) (i32.const 1160)) (unreachable)";
    let question = "(drop (memory.grow (i32.const 300)))
      (call $say (i32.const 2) (i32.const 0) (i32.const 17825792))
      (drop (call $question (i32.const 1))) (unreachable)";
    let many = "(drop (memory.grow (i32.const 1)))
      (call $call_all (i32.const 131072) (i32.const 65) (i32.const 1160)) (unreachable)";
    // A tool `a`, with an input that takes six times as much as JSON.
    let calls = "(drop (memory.grow (i32.const 64)))
      (i32.store8 (i32.const 0) (i32.const 97))
      (call $call (i32.const 0) (i32.const 1) (i32.const 131072) (i32.const 1000000) (i32.const 1200))
      (call $text (i32.const 0) (i32.const 0))";
    for (name, code, expected, message) in [
        ("aliases", aliases, "too_large", "in one call"),
        ("question", question, "too_large", "a question of"),
        ("many", many, "limit_exceeded", "makes 65 calls at once"),
        (
            "calls",
            calls,
            "too_large",
            "what the component calls at once has",
        ),
    ] {
        let events = run(&served, name, &Guest::default().run(code), "").await;
        let last = &events.last().unwrap().data;
        assert_eq!(last["code"], expected, "{name}: {last}");
        let said = last["message"].as_str().unwrap();
        assert!(said.contains(message), "{name}: {said}");
    }
    assert_no_panic(&served);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_cannot_be_kept_fails_and_what_was_paid_for_is_counted() {
    let served = served().await;
    let asks = "(drop (memory.grow (i32.const 64)))
      (call $say (i32.const 0) (i32.const 0) (i32.const 0))
      (drop (call $question (i32.const 1)))";
    let mut refuses = Guest::default();
    let code = refuses.text("denied");
    let own = format!(
        "{asks} (call $pair (i32.const 1180) {code}) (call $pair (i32.const 1188) (i32.const 131072) (i32.const 2097152))
         (i32.store8 (i32.const 1176) (i32.const 1)) (i32.const 1176){PAIR}"
    );
    let text = format!("{asks} (call $text (i32.const 131072) (i32.const 2097152))");
    for (name, wat, expected) in [
        ("text", Guest::default().run(&text), "too_large"),
        ("refuses", refuses.run(&own), "denied"),
    ] {
        let events = run(&served, name, &wat, "").await;
        let last = &events.last().unwrap().data;
        assert_eq!(last["code"], expected, "{name}: {last}");
        assert!(last["message"].as_str().unwrap().len() <= 16 * 1024);
        assert_eq!(count(&events, "usage"), 1, "{name}: {events:?}");
        let used = last["usage"]["output_tokens"].as_u64();
        assert!(used > Some(0), "{name}: {last}");
        let ledger = served
            .rune(&["usage", "--agent", name, "-o", "json"])
            .stdout;
        assert!(ledger.contains("offline"), "{ledger}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_that_cannot_be_asked_is_told_kept_and_counted() {
    let served = served().await;
    let again = "(call $say (i32.const 0) (i32.const 0) (i32.const 0))
      (call $say (i32.const 0) (i32.const 0) (i32.const 0)) (drop (call $question (i32.const 1))) (call $reply)";
    let events = run(&served, "again", &Guest::default().run(again), "").await;
    let last = &events.last().unwrap().data;
    assert_eq!(
        (&last["code"], &last["message"]),
        (
            &json!("invalid_input"),
            &json!("message 1: it is there already")
        ),
        "{last}"
    );
    assert_eq!(count(&events, "model_unanswered"), 1, "{events:?}");
    assert_replays(&served, &events);

    let endless = "(loop $on (drop (call $question (i32.const 1))) (br $on)) (unreachable)";
    let endless = Guest::default().run(endless);
    let events = run(&served, "endless", &endless, "max_steps: 3\n").await;
    let last = &events.last().unwrap().data;
    assert_eq!(last["code"], "limit_exceeded", "{last}");
    assert_eq!(count(&events, "model_unanswered"), 3, "{events:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_it_remembers_is_found_also_where_it_is_much() {
    let mut guest = Guest::default();
    let value = format!("\"{}\"", "v".repeat(40_000));
    let (big, value) = (guest.text("big"), guest.text(&value));
    let (key, one) = (guest.text(&"k".repeat(200)), guest.text("1"));
    let (prefix, done) = (guest.text("k"), guest.text("found"));
    let at = key
        .split(' ')
        .nth(1)
        .unwrap()
        .trim_end_matches(')')
        .to_owned();
    let code = format!(
        r"(local $n i32)
      (call $put {big} {value} (i32.const 1240))
      (if (i32.load8_u (i32.const 1240)) (then (unreachable)))
      (call $get {big} (i32.const 1240))
      (if (i32.load8_u (i32.const 1240)) (then (unreachable)))
      (if (i32.ne (i32.load (i32.const 1252)) (i32.const 40002)) (then (unreachable)))
      (loop $more
        (i32.store8 (i32.const {at}) (i32.const 107))
        (i32.store8 offset=1 (i32.const {at}) (i32.add (i32.const 97) (i32.rem_u (local.get $n) (i32.const 26))))
        (i32.store8 offset=2 (i32.const {at}) (i32.add (i32.const 97) (i32.div_u (local.get $n) (i32.const 26))))
        (call $put {key} {one} (i32.const 1240))
        (if (i32.load8_u (i32.const 1240)) (then (unreachable)))
        (local.set $n (i32.add (local.get $n) (i32.const 1)))
        (br_if $more (i32.lt_u (local.get $n) (i32.const 150))))
      (call $keys {prefix} (i32.const 1240))
      (if (i32.load8_u (i32.const 1240)) (then (unreachable)))
      (if (i32.ne (i32.load (i32.const 1248)) (i32.const 150)) (then (unreachable)))
      (call $text {done})"
    );
    let served = served().await;
    let events = run(&served, "bot", &guest.run(&code), "").await;
    assert_eq!(
        events.last().unwrap().data["output"],
        "found",
        "{:?}",
        events.last()
    );
    let is_spilled = |event: &&Event| event.data["spilled"].is_object();
    assert_eq!(events.iter().filter(is_spilled).count(), 2);
    assert_replays(&served, &events);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tool_that_does_not_exist_is_told_and_the_session_goes_on() {
    let served = served().await;
    let server = ModelServer::start(ModelScript::new()).await.unwrap();
    let mut guest = Guest::default();
    let (wrong, typo, input) = (
        guest.text("no such tool!"),
        guest.text("touhc"),
        guest.text("{}"),
    );
    let both = guest.calls(&[("no such tool!", "{}"), ("touhc", "{}")]);
    let code = format!(
        "(call $call {wrong} {input} (i32.const 1200))
      (if (i32.eqz (i32.load8_u (i32.const 1216))) (then (unreachable)))
      (call $call {typo} {input} (i32.const 1200))
      (if (i32.eqz (i32.load8_u (i32.const 1216))) (then (unreachable)))
      (call $call_all {both} (i32.const 1160))
      (if (i32.ne (i32.load (i32.const 1164)) (i32.const 2)) (then (unreachable)))
      (call $say (i32.const 1) (i32.const 0) (i32.const 0))
      (call $say (i32.const 0) (i32.const 0) (i32.const 0))
      (drop (call $question (i32.const 1))) (call $reply)"
    );
    write(
        served.0.home(),
        "bot",
        &guest.run(&code),
        &[],
        &models(&server),
    );
    served.rune(&["run", "bot"]).ok();
    let api = Api::of(&served.0);
    for n in 1..3 {
        let body = json!({"input": "go", "session_id": "s"});
        let (status, body) = api.ask("bot", &body).await;
        assert_eq!(
            (status, &body["output"]),
            (200, &json!("Echo: go")),
            "{body}"
        );
        let id = body["request_id"].as_str().unwrap();
        let events = api.events(id, 0).await.rest().await;
        // Two of the calls are there, and no name that a provider refuses.
        assert_eq!(count(&events, "tool_done"), 2, "{events:?}");
        let prompt = server.requests()[n - 1].body.to_string();
        assert_eq!(prompt.contains("touhc"), n == 2, "{prompt}");
        assert!(!prompt.contains("no such tool!"), "{prompt}");
        assert_replays(&served, &events);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_in_every_question_that_the_input_or_the_history_is_in() {
    let served = served().await;
    let server = ModelServer::start(script()).await.unwrap();
    deploy_component(&served, "bot", &server, &component(LOOP), "");
    let api = Api::of(&served.0);
    // So large that it is kept outside the journal.
    let data = "iVBO".repeat(1 << 18);
    let image = json!({"type": "image", "media_type": "image/png", "data": data});
    let input = json!([{"type": "text", "text": "go"}, image]);
    let (status, body) = api
        .ask("bot", &json!({"input": input, "session_id": "s"}))
        .await;
    assert_eq!(
        (status, &body["output"]),
        (200, &json!("all is done")),
        "{body}"
    );
    let later = json!({"input": "and now?", "session_id": "s"});
    assert_eq!(api.ask("bot", &later).await.0, 200);
    let requests = server.requests();
    assert_eq!(requests.len(), 3);
    for request in requests {
        assert!(request.body.to_string().contains(&data));
    }
    let events = api.events(body["request_id"].as_str().unwrap(), 0).await;
    assert_replays(&served, &events.rest().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_is_half_of_what_the_profile_stands_for() {
    let mut guest = Guest::default();
    let (less, more) = (guest.text("less"), guest.text("more"));
    // 300 MiB.
    let code = format!(
        "(if (i32.eq (memory.grow (i32.const 4800)) (i32.const -1)) (then (return (call $text {less}))))
         (call $text {more})"
    );
    let wat = guest.run(&code);
    let served = served().await;
    for (profile, expected) in [("small", "less"), ("medium", "more")] {
        let extra = format!("runtime: {{resource_profile: {profile}}}\n");
        let events = run(&served, profile, &wat, &extra).await;
        assert_eq!(events.last().unwrap().data["output"], expected);
    }
}

/// Adds a tool to an agent that calls another one.
fn add_call(home: &Path, agent: &str, callee: &str) {
    let yaml = format!(
        "name: {callee}\ndescription: Calls it.\nruntime: agent\nagent_ref: local://{callee}\n\
         input_schema: {{type: object, properties: {{input: {{type: string}}}}}}\n"
    );
    std::fs::write(home.join(format!("{agent}/tools/{callee}.yaml")), yaml).unwrap();
}

/// Starts a request and follows it until `told` says so of an event.
async fn start_until(api: &Api, agent: &str, told: impl Fn(&Event) -> bool) -> String {
    let id = api.start(agent, "go").await;
    let mut events = api.events(&id, 0).await;
    loop {
        let event = events.next().await.unwrap();
        if told(&event) {
            return id;
        }
        assert!(!event.is_last(), "{event:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn components_that_call_components_all_get_their_turn() {
    let served = served().await;
    let server = ModelServer::start(ModelScript::new()).await.unwrap();
    let inner = "(call $say (i32.const 0) (i32.const 0) (i32.const 0)) (drop (call $question (i32.const 1))) (call $reply)";
    let mut outer = Guest::default();
    let (name, input) = (outer.text("inner"), outer.text("{\"input\":\"go\"}"));
    let outer = outer.run(&format!(
        "(call $call {name} {input} (i32.const 1200))
         (if (i32.load8_u (i32.const 1216)) (then (unreachable)))
         (call $text (i32.load (i32.const 1208)) (i32.load (i32.const 1212)))"
    ));
    let home = served.0.home().to_owned();
    let extra = format!("{}runtime: {{concurrency_limit: 200}}\n", models(&server));
    write(&home, "inner", &Guest::default().run(inner), &[], &extra);
    let few = "runtime: {concurrency_limit: 4}\n";
    write(&home, "outer", &outer, &["inner"], few);
    add_call(&home, "outer", "inner");
    served.rune(&["run", "inner"]).ok();
    served.rune(&["run", "outer"]).ok();
    server.hold();
    let api = Api::of(&served.0);
    let mut ids = Vec::new();
    // Those that call have all the places there are, and half as many as they are answer them.
    for _ in 0..64 {
        ids.push(start_until(&api, "outer", |event| event.name == "agent_call").await);
    }
    let held = tokio::time::timeout(LIMIT, server.wait_for_held(32));
    held.await.unwrap().unwrap();
    for _ in 0..4 {
        let waits = |event: &Event| event.data["code"] == "component_wait";
        ids.push(start_until(&api, "outer", waits).await);
    }
    server.release_all();
    for id in &ids {
        let row = api.ended(id).await;
        assert_eq!(
            (&row["status"], &row["output"]),
            (&json!("completed"), &json!("Echo: go")),
            "{row}"
        );
    }
    assert_no_panic(&served);
}

#[tokio::test(flavor = "multi_thread")]
async fn tools_that_change_are_those_of_the_first_look() {
    let Some(python) = python() else { return };
    let builder = TestDaemon::builder(RUNE).env("TOKEN", "of the server");
    let served = Served(builder.start().await.unwrap());
    let mut guest = Guest::default();
    let (learn, none) = (guest.text("sdk/learn"), guest.text("{}"));
    let (own, why, schema) = (
        guest.text("sdk__multiply"),
        guest.text("A tool of the component."),
        guest.text("{\"type\":\"object\"}"),
    );
    let done = guest.text("learned");
    // A tool of its own has the name of one that the server has only later.
    let code = format!(
        "(local $tools i32)
      (call $list (i32.const 1240))
      (local.set $tools (i32.load (i32.const 1244)))
      (call $pair (i32.const 1056) (i32.const 1400) (i32.const 1))
      (call $pair (i32.const 1400) {own})
      (call $pair (i32.const 1408) {why})
      (call $pair (i32.const 1416) {schema})
      (call $say (i32.const 0) (i32.const 0) (i32.const 0))
      (if (i32.eqz (call $question (i32.const 1))) (then (return (call $reply))))
      (call $call {learn} {none} (i32.const 1200))
      (if (i32.load8_u (i32.const 1216)) (then (unreachable)))
      (call $list (i32.const 1240))
      (if (i32.ne (i32.load (i32.const 1244)) (local.get $tools)) (then (unreachable)))
      (call $text {done}){PAIR}"
    );
    let servers: Value = json!([stdio(&python)]);
    let extra = format!("mcp_servers: {servers}\n");
    write(
        served.0.home(),
        "bot",
        &guest.run(&code),
        &["sdk/*"],
        &extra,
    );
    served.rune(&["run", "bot"]).ok();
    let api = Api::of(&served.0);
    let id = api.start("bot", "go").await;
    let events = api.events(&id, 0).await.rest().await;
    let last = events.last().unwrap();
    assert_eq!(last.data["output"], "learned", "{events:?}");
    assert_eq!(count(&events, "tools_listed"), 1, "{events:?}");
    let listed = events.iter().find(|event| event.name == "tools_listed");
    let names = listed.unwrap().data["tools"].as_array().unwrap();
    assert!(names.contains(&json!("sdk__learn")), "{names:?}");
    assert!(!names.contains(&json!("sdk__multiply")), "{names:?}");

    // Run again, where the server has one more tool, it is told what it was told.
    let done = events.iter().find(|event| event.name == "tool_done");
    let at = format!("{id}@{}", done.unwrap().id.unwrap());
    let forked = served.rune(&["requests", "fork", &at, "-o", "json"]).json();
    let row = api.ended(forked["request_id"].as_str().unwrap()).await;
    assert_eq!(row["output"], "learned", "{row}");
}
