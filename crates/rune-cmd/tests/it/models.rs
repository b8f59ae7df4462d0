//! The three wire protocols, and every way a provider fails (the table of docs/models.md), through the daemon.

use std::time::Duration;

use futures_util::future::join_all;
use rune_testkit::{
    CutAt, Fault, Garbage, ModelScript, ModelServer, Otherwise, Protocol, Reply, TestDaemon,
    ToolCall,
};
use serde_json::{Value, json};

use crate::home::{RUNE, Served};
use crate::wire::{Api, PROTOCOLS, Tool, assert_no_panic, deploy};

/// Each waits for the other: they end only where they run at the same time.
const MEET: [Tool<'static>; 2] = [
    Tool {
        name: "left",
        script: "touch left\nuntil [ -e right ]; do sleep 0.02; done\necho '{\"side\": \"left\"}'\n",
        yaml: "timeout_ms: 20000\n",
    },
    Tool {
        name: "right",
        script: "touch right\nuntil [ -e left ]; do sleep 0.02; done\necho '{\"side\": \"right\"}'\n",
        yaml: "timeout_ms: 20000\n",
    },
];

fn both() -> Reply {
    Reply::calls([
        ToolCall::new("left", json!({})),
        ToolCall::new("right", json!({})),
    ])
}

#[tokio::test]
async fn two_parallel_calls_complete_on_every_protocol() {
    let served = Served(TestDaemon::builder(RUNE).start().await.unwrap());
    for (protocol, name) in PROTOCOLS {
        let script = ModelScript::new()
            .on_text("both")
            .reply(both())
            .then(Reply::text("met"))
            .otherwise(Otherwise::Refuse);
        let server = ModelServer::start(script).await.unwrap();
        deploy(&served, name, &[(&server, protocol)], &MEET, "");
        let api = Api::of(&served.0);
        let (status, body) = api.ask(name, &json!({"input": "both"})).await;
        assert_eq!(
            (status, &body["output"]),
            (200, &json!("met")),
            "{name}: {body}"
        );
        let detail = api.request(body["request_id"].as_str().unwrap()).await;
        let states: Vec<_> = detail["tools"]
            .as_array()
            .unwrap()
            .iter()
            .map(|t| &t["state"])
            .collect();
        assert_eq!(states, ["succeeded", "succeeded"], "{name}");
        assert_eq!(server.requests().len(), 2, "{name}");
        let second = server.requests()[1].body.to_string();
        for side in ["left", "right"] {
            assert!(
                second.contains(&format!("\\\"side\\\":\\\"{side}\\\""))
                    || second.contains(&format!("\"side\":\"{side}\"")),
                "{name}: {second}"
            );
        }
    }
}

#[tokio::test]
async fn the_next_provider_goes_on_in_the_middle_of_a_tool_loop() {
    let served = Served(TestDaemon::builder(RUNE).start().await.unwrap());
    for (n, (protocol, name)) in PROTOCOLS.into_iter().enumerate() {
        let (other, _) = PROTOCOLS[(n + 1) % PROTOCOLS.len()];
        let broken = ModelScript::new().on_results(0).reply(both()).on_results(2);
        let broken = broken.fault_first(Fault::status(401).always());
        let broken = ModelServer::start(broken).await.unwrap();
        let healthy =
            ModelServer::start(ModelScript::new().on_results(2).reply(Reply::text("met")));
        let healthy = healthy.await.unwrap();
        let servers = [(&broken, protocol), (&healthy, other)];
        deploy(&served, name, &servers, &MEET, "");
        let (status, body) = Api::of(&served.0).ask(name, &json!({"input": "go"})).await;
        assert_eq!(
            (status, &body["output"]),
            (200, &json!("met")),
            "{name}: {body}"
        );
        assert_eq!(healthy.requests().len(), 1, "{name}");
    }
}

/// A fault, the code it ends in (none: the request completes), and how often the model is asked.
struct Case {
    name: &'static str,
    fault: Fault,
    code: Option<&'static str>,
    asked: usize,
}

fn case(name: &'static str, fault: Fault, code: Option<&'static str>, asked: usize) -> Case {
    Case {
        name,
        fault,
        code,
        asked,
    }
}

const GONE: Option<&str> = Some("model_unavailable");
const INVALID: Option<&str> = Some("invalid_input");

fn cases() -> Vec<Case> {
    let mut cases = vec![
        case(
            "<429 with time>",
            Fault::status(429).retry_after_ms(10).times(2),
            None,
            3,
        ),
        case("<500 passes>", Fault::status(500).times(2), None, 3),
        case("<400>", Fault::status(400), INVALID, 1),
        case(
            "<overflow>",
            Fault::context_overflow(),
            Some("too_large"),
            1,
        ),
        case(
            "<late>",
            Fault::slow_first_byte(Duration::from_millis(300)),
            None,
            1,
        ),
        case("<close passes>", Fault::close(), None, 2),
        case("<close>", Fault::close().times(3), GONE, 3),
    ];
    let html = || Fault::garbage(Garbage::Html);
    cases.push(case("<html passes>", html(), None, 2));
    cases.push(case("<html>", html().times(2), GONE, 2));
    let late = Fault::status(408).times(3);
    cases.push(case("<408>", late, Some("timeout"), 3));
    let retried = [
        ("<409>", 409),
        ("<500>", 500),
        ("<503>", 503),
        ("<529>", 529),
    ];
    for (name, code) in retried {
        cases.push(case(name, Fault::status(code).times(3), GONE, 3));
    }
    for (name, code) in [("<401>", 401), ("<403>", 403), ("<404>", 404)] {
        cases.push(case(name, Fault::status(code), GONE, 1));
    }
    let broken = [
        (
            "<cut text>",
            "<cut text twice>",
            Fault::cut(CutAt::AfterText),
        ),
        (
            "<cut call>",
            "<cut call twice>",
            Fault::cut(CutAt::InToolCall),
        ),
        ("<cut char>", "<cut char twice>", Fault::cut(CutAt::InUtf8)),
        (
            "<garbage>",
            "<garbage twice>",
            Fault::garbage(Garbage::DataLine),
        ),
        ("<no end>", "<no end twice>", Fault::no_terminal()),
    ];
    for (once, twice, fault) in broken {
        cases.push(case(once, fault.clone(), None, 2));
        cases.push(case(twice, fault.times(2), GONE, 2));
    }
    cases
}

async fn check(api: Api, agent: String, server: ModelServer, case: Case) -> Option<String> {
    let Case {
        name, code, asked, ..
    } = case;
    let name_part = name.replace(|c: char| !c.is_ascii_alphanumeric(), "-");
    let session = json!(format!("{agent}{name_part}"));
    let body = json!({"input": name, "session_id": session});
    let (status, body) = api.ask(&agent, &body).await;
    let asks = server.requests();
    let asks = asks
        .iter()
        .filter(|request| request.body.to_string().contains(name))
        .count();
    let got = (status == 200, body["error"]["code"].as_str(), asks);
    let next = json!({"input": "next", "session_id": session});
    let (next, after) = api.ask(&agent, &next).await;
    let as_documented = got == (code.is_none(), code, asked) && next == 200;
    (!as_documented).then(|| format!("{agent} {name}: {got:?} {body}, then {next} {after}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_fault_ends_as_documented() {
    let served = Served(TestDaemon::builder(RUNE).start().await.unwrap());
    // Each has a provider of its own: the failures of one open no circuit for the others.
    let mut served_cases = Vec::new();
    for (protocol, name) in PROTOCOLS {
        for (n, case) in cases().into_iter().enumerate() {
            let script = ModelScript::new()
                .on_text(case.name)
                .fault_first(case.fault.clone())
                .reply(Reply::text("It works."));
            let server = ModelServer::start(script).await.unwrap();
            let agent = format!("{name}-{n}");
            deploy(&served, &agent, &[(&server, protocol)], &[], "");
            served_cases.push((agent, server, case));
        }
    }
    let api = Api::of(&served.0);
    let checks = served_cases
        .into_iter()
        .map(|(agent, server, case)| check(api.clone(), agent, server, case));
    let wrong: Vec<String> = join_all(checks).await.into_iter().flatten().collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_no_panic(&served);
}

#[tokio::test]
async fn a_model_that_falls_silent_is_ended_by_the_time_limit() {
    let script = ModelScript::new()
        .on_text("stall")
        .fault_first(Fault::stall_with_pings(1, Duration::from_millis(50)))
        .reply(Reply::text(["one ", "two"]));
    let server = ModelServer::start(script).await.unwrap();
    let served = Served(TestDaemon::builder(RUNE).start().await.unwrap());
    let servers = [(&server, Protocol::Anthropic)];
    deploy(&served, "silent", &servers, &[], "timeout_ms: 1000\n");
    let api = Api::of(&served.0);
    let ask = |input: &str| json!({"input": input, "session_id": "s"});
    let (status, body): (u16, Value) = api.ask("silent", &ask("stall")).await;
    assert_eq!(
        (status, &body["error"]["code"]),
        (504, &json!("timeout")),
        "{body}"
    );
    server.wait_for_open_streams(0).await.unwrap();
    assert_eq!(api.ask("silent", &ask("next")).await.0, 200);
}
