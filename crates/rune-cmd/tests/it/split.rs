//! A control plane and gateways apart from it, as processes of their own.

mod failures;
mod processes;
mod tls;

use std::path::Path;

use reqwest::{Client, Method};
use rune_testkit::openapi::ApiDocument;
use rune_testkit::{Fault, ModelScript, ModelServer, Protocol, TestDaemon, TestDaemonBuilder};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::callers::{SECRET, token};
use crate::home::{Home, RUNE, Ran, Served, write_plain};
use crate::refusals::refuses_bad_input;
use crate::streams::{Seen, TOOL, script};
use crate::wire::{Api, Events, LIMIT, POLL, answer, assert_no_panic, deploy};

/// A control plane and two gateways.
struct Split {
    control_plane: Served,
    west: Served,
    east: Served,
    /// The token of both gateways.
    token: String,
}

/// A control plane that is where it was after a restart.
async fn control_plane() -> Served {
    control_plane_with(&[]).await
}

async fn control_plane_with(env: &[(&str, &str)]) -> Served {
    let builder = TestDaemon::builder(RUNE).settled();
    let builder = builder.arg("--role").arg("control-plane");
    let env = env.iter();
    let builder = env.fold(builder, |builder, (name, value)| builder.env(name, value));
    Served(builder.start().await.unwrap())
}

fn gateway_token(control_plane: &Served) -> String {
    let args = ["token", "create", "--for", "gateway", "--subject", "test"];
    control_plane.rune(&args).ok().trim().to_owned()
}

fn gateway(control_plane: &Served, token: &str) -> TestDaemonBuilder {
    TestDaemon::builder(RUNE)
        .env("RUNE_CONTROL_PLANE_URL", control_plane.0.control_plane())
        .env("RUNE_INTERNAL_TOKEN", token)
        .arg("--role")
        .arg("gateway")
}

impl Split {
    async fn start() -> Self {
        Self::start_with(&[], &[]).await
    }

    /// With this in the environment of the control plane, and this in that of the gateways.
    async fn start_with(behind: &[(&str, &str)], env: &[(&str, &str)]) -> Self {
        let control_plane = control_plane_with(behind).await;
        let token = gateway_token(&control_plane);
        let start = async || {
            let mut builder = gateway(&control_plane, &token);
            for (name, value) in env {
                builder = builder.env(name, value);
            }
            Served(builder.start().await.unwrap())
        };
        let (west, east) = (start().await, start().await);
        Self {
            control_plane,
            west,
            east,
            token,
        }
    }

    /// The agent `plain`, deployed.
    fn with_plain(self) -> Self {
        let served = &self.control_plane;
        write_plain(&served.0.home().join("plain"));
        served.rune(&["run", "plain"]).ok();
        self
    }

    fn apis(&self) -> [Api; 2] {
        [Api::of(&self.west.0), Api::of(&self.east.0)]
    }
}

/// Every file below a directory.
fn files(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path.file_name().unwrap().to_str().unwrap().to_owned());
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_plane_without_a_gateway_shows_its_status() {
    let served = control_plane().await;
    write_plain(&served.0.home().join("plain"));
    served.rune(&["run", "plain"]).ok();
    // Nobody listens there.
    let gateway = ["--gateway", "http://127.0.0.1:1", "status"];
    let ran = served.rune(&gateway).ends(0);
    assert!(ran.stdout.contains("plain"), "{}", ran.stdout);
    assert!(ran.stderr.contains("are not counted"), "{}", ran.stderr);
    let mut machine = gateway.to_vec();
    machine.extend(["-o", "json"]);
    let status = served.rune(&machine).json();
    assert_eq!(status["running_requests"], Value::Null);
    assert_eq!(status["deployments"][0]["agent"], "plain");
}

#[tokio::test(flavor = "multi_thread")]
async fn gateways_are_the_same_api_and_keep_nothing() {
    let split = Split::start().await.with_plain();
    let [west, east] = split.apis();

    // What was asked at one is followed at the other.
    let (status, asked) = west.ask("plain", &json!({"input": "hi"})).await;
    assert_eq!((status, &asked["output"]), (200, &json!("Echo: hi")));
    let id = asked["request_id"].as_str().unwrap();
    let row = east.request(id).await;
    assert_eq!(row["output"], "Echo: hi");
    let body = json!({"input": "again", "stream": true, "session_id": asked["session_id"]});
    let streamed = east.invoke("plain", &body).send().await.unwrap();
    assert_eq!(streamed.headers()["content-type"], "text/event-stream");
    let streamed = Events::of(streamed).rest().await;
    let said: Vec<&str> = streamed.iter().map(|event| event.name.as_str()).collect();
    assert!(said.contains(&"token"), "{said:?}");
    let other = streamed[0].data["request_id"].as_str().unwrap();
    let followed = west.events(other, 0).await.rest().await;
    let entries = |events: &[crate::wire::Event]| {
        let entries = events.iter().filter(|event| event.id.is_some());
        entries.cloned().collect::<Vec<_>>()
    };
    assert_eq!(entries(&followed), entries(&streamed));
    assert!(streamed.last().unwrap().is_last());

    // An idempotency key is known at both.
    let body = json!({"input": "once"});
    let once = |api: &Api| answer(api.invoke("plain", &body).header("idempotency-key", "k-1"));
    let (first, again) = (once(&west).await.unwrap(), once(&east).await.unwrap());
    assert_eq!(first.0, 200);
    assert_eq!(first.1["request_id"], again.1["request_id"]);

    // Other protocols and the command line.
    let chat = json!({"model": "plain", "messages": [{"role": "user", "content": "hi"}]});
    let (status, said) = answer(east.post("/v1/chat/completions", &chat))
        .await
        .unwrap();
    assert_eq!(status, 200, "{said}");
    assert_eq!(said["choices"][0]["message"]["content"], "Echo: hi");
    let (_, card) = answer(west.get("/a2a/plain/agent-card")).await.unwrap();
    let url = card["supportedInterfaces"][0]["url"].as_str().unwrap();
    assert!(url.starts_with(split.west.0.gateway()), "{card}");
    let ran = split.east.rune(&["run", "--agent", "plain", "Hello"]).ok();
    assert!(ran.contains("Echo: Hello"), "{ran}");
    let status = split.west.rune(&["daemon", "status", "-o", "json"]).json();
    assert_eq!(status["ready"], true, "{status}");
    assert_eq!(
        status["control_plane"],
        split.control_plane.0.control_plane()
    );
    let status = split
        .control_plane
        .rune(&["daemon", "status", "-o", "json"])
        .json();
    assert_eq!(
        (&status["ready"], &status["gateway"]),
        (&json!(true), &Value::Null)
    );

    // One id names an error in the answer and in both logs.
    let refused = west.get("/v1/requests/req_0").send().await.unwrap();
    let id = refused.headers()["x-request-id"]
        .to_str()
        .unwrap()
        .to_owned();
    let body: Value = refused.json().await.unwrap();
    assert_eq!(body["error"]["request_id"], id);

    refuses_bad_input(&split.control_plane, &[split.east.0.gateway()]).await;
    for served in [&split.west, &split.east, &split.control_plane] {
        assert_no_panic(served);
        assert!(!served.0.log().contains(&split.token));
    }
    for served in [&split.west, &split.east] {
        let mut found = files(&served.0.data_dir());
        found.sort();
        assert_eq!(found, ["daemon.json", "daemon.pid", "rune.lock"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_goes_on_at_the_other_gateway_when_its_own_is_killed() {
    let server = ModelServer::start(script()).await.unwrap();
    let mut split = Split::start().await;
    let models = [(&server, Protocol::Anthropic)];
    deploy(&split.control_plane, "streamer", &models, &[TOOL], "");
    for kill_after in [1, 4, 9] {
        let [west, east] = split.apis();
        let body = json!({"input": "go", "stream": true});
        let mut seen = Seen::default();
        let stream = Events::of(west.invoke("streamer", &body).send().await.unwrap());
        seen.read(stream, kill_after).await;
        split.west.0.kill9().unwrap();
        assert!(!seen.ended());
        let id = seen.events[0].data["request_id"]
            .as_str()
            .unwrap()
            .to_owned();
        seen.read(east.events(&id, seen.last).await, u64::MAX).await;
        assert!(seen.ended(), "{:?}", seen.events.last());
        let whole = east.events(&id, 0).await.rest().await;
        let whole: Vec<_> = whole.into_iter().filter(|e| e.id.is_some()).collect();
        assert_eq!(seen.events, whole, "kill after {kill_after}");
        assert_eq!(whole.last().unwrap().data["output"], "The end.");
        let row = east.request(&id).await;
        assert_eq!(row["status"], "completed", "{row}");
        split.west.0.restart().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_go_on_behind_a_kill_of_the_control_plane() {
    let server = ModelServer::start(script()).await.unwrap();
    let mut split = Split::start().await;
    let models = [(&server, Protocol::Anthropic)];
    deploy(&split.control_plane, "streamer", &models, &[TOOL], "");
    let [west, east] = split.apis();
    let body = json!({"input": "go", "stream": true});
    let mut seen = Seen::default();
    let stream = Events::of(west.invoke("streamer", &body).send().await.unwrap());
    seen.read(stream, 5).await;
    let id = seen.events[0].data["request_id"]
        .as_str()
        .unwrap()
        .to_owned();
    // One that breaks off is no end.
    let broken = west.events(&id, seen.last).await;
    split.control_plane.0.kill9().unwrap();
    let rest = broken.rest().await;
    assert!(!rest.iter().any(crate::wire::Event::is_last), "{rest:?}");

    for api in [&west, &east] {
        for request in [
            api.get(&format!("/v1/requests/{id}/events")),
            api.get("/v1/agents"),
            api.invoke("streamer", &json!({"input": "go"})),
        ] {
            let refused = request.send().await.unwrap();
            assert_eq!(refused.status(), 503);
            assert!(refused.headers().contains_key("retry-after"));
            let body: Value = refused.json().await.unwrap();
            assert_eq!(body["error"]["code"], "unavailable", "{body}");
        }
        let ready = api.get("/ready").send().await.unwrap();
        assert_eq!(ready.status(), 503);
        assert_eq!(api.get("/health").send().await.unwrap().status(), 200);
    }

    split.control_plane.0.restart().await.unwrap();
    seen.read(east.events(&id, seen.last).await, u64::MAX).await;
    assert!(seen.ended(), "{:?}", seen.events.last());
    let whole = west.events(&id, 0).await.rest().await;
    let whole: Vec<_> = whole.into_iter().filter(|e| e.id.is_some()).collect();
    assert_eq!(seen.events, whole);
    assert_eq!(whole.last().unwrap().data["output"], "The end.");
    for api in [&west, &east] {
        wait_ready(api, 200).await;
    }
}

/// Waits until a gateway says this of its readiness.
async fn wait_ready(api: &Api, status: u16) {
    let deadline = Instant::now() + LIMIT;
    loop {
        let found = api.get("/ready").send().await.unwrap().status();
        if found == status {
            return;
        }
        assert!(Instant::now() < deadline, "{found}");
        tokio::time::sleep(POLL).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_is_stopped_lets_answers_end() {
    let slow = Fault::slow_first_byte(std::time::Duration::from_millis(500));
    let script = ModelScript::new().on_text("slow").fault_first(slow);
    let server = ModelServer::start(script).await.unwrap();
    let mut split = Split::start().await;
    let models = [(&server, Protocol::Anthropic)];
    deploy(&split.control_plane, "slow", &models, &[], "");
    let [west, east] = split.apis();
    let asked = {
        let west = west.clone();
        crate::wire::spawn(async move { west.ask("slow", &json!({"input": "slow"})).await })
    };
    let deadline = Instant::now() + LIMIT;
    while answer(east.get("/v1/requests")).await.unwrap().1["items"]
        .as_array()
        .unwrap()
        .is_empty()
    {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(POLL).await;
    }
    let status = split.west.0.terminate().await.unwrap();
    assert!(status.success(), "{status}");
    let (status, body) = asked.await.unwrap();
    assert_eq!((status, &body["output"]), (200, &json!("Echo: slow")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_names_its_callers_and_nobody_else_does() {
    let split = Split::start_with(&[], &[("RUNE_JWT_SECRET", SECRET)])
        .await
        .with_plain();
    let [west, _] = split.apis();
    let body = json!({"input": "hi"});
    let ask = || {
        west.invoke("plain", &body)
            .header("x-rune-caller", "api-key")
    };
    assert_eq!(answer(ask()).await.unwrap().0, 401);
    let (status, asked) = answer(ask().bearer_auth(token("Ada Ünal"))).await.unwrap();
    assert_eq!(status, 200, "{asked}");
    let id = asked["request_id"].as_str().unwrap();
    let row = west.get(&format!("/v1/requests/{id}"));
    let (_, row) = answer(row.bearer_auth(token("bob"))).await.unwrap();
    assert_eq!(row["caller"], "jwt:Ada Ünal");
    // Two who differ in a blank only are two: their keys are apart.
    let keyed = |subject| {
        ask()
            .header("idempotency-key", "k")
            .bearer_auth(token(subject))
    };
    let (status, one) = answer(keyed("ada ")).await.unwrap();
    assert_eq!(status, 200, "{one}");
    let (_, other) = answer(keyed("ada")).await.unwrap();
    assert_ne!(one["request_id"], other["request_id"]);
    assert_eq!(
        answer(keyed("ada ")).await.unwrap().1["request_id"],
        one["request_id"]
    );

    // Who is no gateway is not believed.
    let inside = format!(
        "{}/internal/v1/gateway/v1/agents",
        split.control_plane.0.control_plane()
    );
    let client = Client::new();
    let inside = |bearer: Option<&str>| {
        let request = client.get(&inside).header("x-rune-caller", "jwt:eve");
        match bearer {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    };
    let user = token("eve");
    for bearer in [None, Some(user.as_str()), Some("key")] {
        let refused = inside(bearer).send().await.unwrap();
        assert_eq!(refused.status(), 401, "{bearer:?}");
    }
    assert_eq!(
        inside(Some(&split.token)).send().await.unwrap().status(),
        200
    );
    // The token of a gateway opens what is for gateways, and nothing else.
    let public = west.get("/v1/agents").bearer_auth(&split.token);
    assert_eq!(public.send().await.unwrap().status(), 401);
    let base = split.control_plane.0.control_plane();
    for (method, path) in [
        (Method::POST, "/internal/v1/store/read"),
        (Method::POST, "/internal/v1/store/commands"),
        (Method::PUT, "/internal/v1/store/blobs"),
        (Method::POST, "/internal/v1/token"),
    ] {
        let request = client.request(method, format!("{base}{path}"));
        let refused = request.bearer_auth(&split.token).send().await.unwrap();
        assert_eq!(refused.status(), 403, "{path}");
    }
    // Neither does a gateway send anywhere else what it is asked.
    for path in [
        "/v1/agents/..%2f..%2fstore/invoke",
        "/v1/agents/%2e%2e/invoke",
    ] {
        let url = reqwest::Url::parse(split.west.0.gateway()).unwrap();
        let sent = raw(&url, path, &token("eve")).await;
        let status = sent.split(' ').nth(1).unwrap_or_default();
        assert!(["400", "404"].contains(&status), "{path}: {sent}");
    }
}

/// Sends a `POST` whose path no client changes, and answers what came.
async fn raw(url: &reqwest::Url, path: &str, token: &str) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let addr = (url.host_str().unwrap(), url.port().unwrap());
    let mut stream = tokio::net::TcpStream::connect(addr).await.unwrap();
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\n\
         content-type: application/json\r\ncontent-length: 14\r\nconnection: close\r\n\r\n{{\"input\":\"hi\"}}"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let read = stream.read_to_string(&mut answer);
    tokio::time::timeout(LIMIT, read).await.unwrap().unwrap();
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_without_its_token_serves_nothing() {
    let control_plane = control_plane().await;
    let url = control_plane.0.control_plane();

    // None is refused at once.
    let home = Home::new();
    let start = |env: &[(&str, &str)], args: &[&str]| {
        let args = [&["daemon", "start", "--role", "gateway"], args].concat();
        let mut command = home.command(&args);
        command.envs(env.iter().copied());
        Ran::new(command).ends(2)
    };
    let ran = start(&[("RUNE_CONTROL_PLANE_URL", url)], &[]);
    assert!(ran.stderr.contains("RUNE_INTERNAL_TOKEN"), "{}", ran.stderr);
    assert!(ran.stderr.contains("rune token create"), "{}", ran.stderr);
    let both = [
        ("RUNE_CONTROL_PLANE_URL", url),
        ("RUNE_INTERNAL_TOKEN", "x"),
    ];
    for unfit in [["--backend", "process"], ["--k8s-namespace", "agents"]] {
        let ran = start(&both, &unfit);
        assert!(ran.stderr.contains("runs no replicas"), "{}", ran.stderr);
        assert!(ran.stderr.contains(unfit[0]), "{}", ran.stderr);
    }
    let ran = start(&both, &["--gateway-addr", "0.0.0.0:0"]);
    assert!(ran.stderr.contains("RUNE_API_KEY"), "{}", ran.stderr);

    // One that the control plane does not take is a gateway that is not ready.
    let strange = "not-a-token-of-this-control-plane";
    let mut command = home.command(&["daemon", "start", "--role", "gateway"]);
    command
        .args(["--gateway-addr", "127.0.0.1:0"])
        .env("RUNE_CONTROL_PLANE_URL", url)
        .env("RUNE_INTERNAL_TOKEN", strange);
    Ran::new(command).ok();
    let base = home.gateway();
    let client = Client::new();
    assert_eq!(
        client
            .get(format!("{base}/ready"))
            .send()
            .await
            .unwrap()
            .status(),
        503
    );
    let refused = client
        .get(format!("{base}/v1/agents"))
        .send()
        .await
        .unwrap();
    assert_eq!(refused.status(), 503);
    assert!(!refused.text().await.unwrap().contains(strange));
    let document = ApiDocument::fetch(&client, &base).await.unwrap();
    assert!(document.operations().len() > 20);
    home.rune(&["daemon", "stop"]).ok();
    let log = std::fs::read_to_string(home.path().join(".rune/daemon.log")).unwrap();
    assert!(log.contains("RUNE_INTERNAL_TOKEN"), "{log}");
    assert!(!log.contains(strange), "{log}");
}
