//! What every backend does.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::rig::{Rig, platform};
use crate::wire::{Event, Events, LIMIT, POLL, answer, assert_no_panic};

/// The promise of a cancel.
const CANCEL_BOUND: Duration = Duration::from_secs(1);
/// Requests at a time, over two replicas.
const LOAD: usize = 8;

pub(super) async fn answers(backend: &'static str) {
    let rig = Rig::start(backend, "").await;
    let body = json!({"input": "hello", "session_id": "s", "stream": true});
    let response = rig.api.invoke("worker", &body).send().await.unwrap();
    let events = Events::of(response).rest().await;
    let text: String = events
        .iter()
        .filter(|event| event.name == "token")
        .map(|event| event.data["text"].as_str().unwrap())
        .collect();
    let last = events.last().unwrap();
    assert_eq!(last.name, "done", "{events:?}");
    assert_eq!(last.data["output"], json!(text), "{events:?}");
    assert!(text.contains("Echo: hello"), "{text}");
    let ids: Vec<u64> = events.iter().filter_map(|event| event.id).collect();
    let is_ordered = ids.windows(2).all(|pair| pair[0] < pair[1]);
    assert!(is_ordered, "each entry once and in order: {events:?}");
    // Who comes later sees the same.
    let id = events[0].data["request_id"].as_str().unwrap();
    let again = rig.api.events(id, 0).await.rest().await;
    let entries = |events: &[Event]| {
        let events = events.iter().filter(|event| event.id.is_some());
        events.cloned().collect::<Vec<_>>()
    };
    assert_eq!(entries(&events), entries(&again));
    rig.api
        .ask("worker", &json!({"input": "second", "session_id": "s"}))
        .await;
    let path = "/v1/sessions/s/messages";
    let (_, messages) = answer(rig.api.get(path)).await.unwrap();
    assert_eq!(messages["items"].as_array().unwrap().len(), 4, "{messages}");
    for replica in rig.replicas().await {
        assert_eq!(replica["backend"], platform(backend), "{replica}");
        assert_eq!(replica["state"], "ready", "{replica}");
    }
}

pub(super) async fn tools(backend: &'static str) {
    let rig = Rig::start(backend, "").await;
    assert_eq!(rig.output("mark", json!({})).await, "marked");
    assert_eq!(rig.lines("marks").len(), 1);
    let revealed = rig.output("reveal", json!({})).await;
    assert_eq!(revealed, json!({"length": "a-long-secret".len()}));
    assert!(!rig.served.0.log().contains("a-long-secret"));
}

pub(super) async fn engine_access(backend: &'static str) {
    let rig = Rig::start(backend, "").await;
    let stored = json!({"key": "k", "value": {"n": 7}});
    rig.output("rune@memory-store", stored).await;
    let recalled = rig.output("rune@memory-recall", json!({"key": "k"})).await;
    assert!(recalled.to_string().contains("\"n\":7"), "{recalled}");
    let listed = rig.output("rune@agent-list", json!({})).await;
    assert!(listed.to_string().contains("dev/worker"), "{listed}");
    // It calls itself: its one place is free for the call while it waits.
    let told = json!({"agent": "worker", "message": "ping"});
    let said = rig.output("rune@agent-send", told).await;
    assert!(said.to_string().contains("Echo: ping"), "{said}");
    let event = json!({"topic": "t", "payload": {}});
    rig.output("rune@event-publish", event).await;
    let schedule = json!({"name": "later", "every_ms": 3_600_000, "input": "ping"});
    rig.output("rune@schedule-create", schedule).await;
    let listed = rig.served.rune(&["schedule", "ls", "-o", "json"]).json();
    assert_eq!(listed[0]["created_by"], "dev/worker", "{listed}");
    let task = json!({"title": "look it up"});
    rig.output("rune@task-post", task).await;
    let (_, listed) = answer(rig.api.get("/v1/tasks")).await.unwrap();
    assert_eq!(listed["items"][0]["title"], "look it up", "{listed}");
    let page = json!({"title": "page", "format": "markdown", "content": "# Shown"});
    let shown = rig.output("rune@canvas-present", page).await;
    let path = shown["path"].as_str().unwrap();
    let page = rig.api.get(path).send().await.unwrap().text().await;
    assert!(page.unwrap().contains("Shown"), "{shown}");
}

pub(super) async fn limit(backend: &'static str) {
    let more = "runtime: {concurrency_limit: 1}\n";
    let rig = Rig::start(backend, more).await;
    let first = rig.slow().await;
    rig.begun(1).await;
    let second = rig.slow().await;
    // The second waits for the place of the first, and a call of the agent by itself would too.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(rig.lines("started").len(), 1);
    rig.go();
    for id in [first, second] {
        assert_eq!(rig.api.ended(&id).await["status"], "completed");
    }
    let told = json!({"agent": "worker", "message": "ping"});
    let answer = rig.output("rune@agent-send", told).await;
    assert!(answer.to_string().contains("Echo: ping"), "{answer}");
}

pub(super) async fn cancel(backend: &'static str) {
    let rig = Rig::start(backend, "").await;
    let id = rig.slow().await;
    rig.begun(1).await;
    let started = Instant::now();
    let request = rig
        .api
        .post(&format!("/v1/requests/{id}/cancel"), &json!({}));
    let (status, row) = answer(request).await.unwrap();
    assert_eq!(
        (status, &row["status"]),
        (200, &json!("cancelled")),
        "{row}"
    );
    let took = started.elapsed();
    assert!(took < CANCEL_BOUND + Duration::from_millis(500), "{took:?}");
    let left = crate::cancel::processes_of(&id);
    assert!(left.is_empty(), "{left:?}");
}

pub(super) async fn approval(backend: &'static str) {
    let rig = Rig::start(backend, "").await;
    let (status, body) = rig
        .api
        .ask("worker", &json!({"input": "/tool ask {}"}))
        .await;
    assert_eq!(
        (status, &body["status"]),
        (202, &json!("input-required")),
        "{body}"
    );
    let id = body["request_id"].as_str().unwrap().to_owned();
    let (_, page) = answer(rig.api.get("/v1/approvals")).await.unwrap();
    let approval = page["items"][0]["approval_id"].as_str().unwrap();
    let path = format!("/v1/requests/{id}/approvals/{approval}");
    let decided = rig.api.post(&path, &json!({"decision": "approve"}));
    assert_eq!(answer(decided).await.unwrap().0, 200);
    let row = rig.api.ended(&id).await;
    assert_eq!(row["status"], "completed", "{row}");
    assert_eq!(rig.lines("asked"), [id]);
}

pub(super) async fn unkept(backend: &'static str) {
    let more = "runtime: {checkpoint_policy: never}\nbudget: {tokens_per_day: 100000}\n";
    let rig = Rig::start(backend, more).await;
    for body in [
        json!({"input": "hello"}),
        json!({"input": "hello", "session_id": "s"}),
    ] {
        let (status, told) = rig.api.ask("worker", &body).await;
        let output = told["output"].as_str().unwrap_or_default();
        assert!(
            status == 200 && output.contains("Echo: hello"),
            "{status} {told}\n{}",
            rig.served.0.log()
        );
    }
    assert_eq!(rig.output("mark", json!({})).await, "marked");
    let ping = json!({"agent": "worker", "message": "ping"});
    let told = rig.output("rune@agent-send", ping).await;
    assert!(told.to_string().contains("Echo: ping"), "{told}");
    let (_, page) = answer(rig.api.get("/v1/requests")).await.unwrap();
    assert_eq!(page["items"], json!([]), "{page}");
    let ran = rig.served.rune(&["usage", "--budgets", "-o", "json"]).ok();
    let budgets: Value = serde_json::from_str(&ran).unwrap();
    assert!(budgets[0]["spent"].as_u64() > Some(0), "{budgets}");
    assert_eq!(budgets[0]["reserved"], 0, "{budgets}");
}

pub(super) async fn stop(backend: &'static str) {
    let rig = Rig::start(backend, "").await;
    let id = rig.slow().await;
    rig.begun(1).await;
    rig.served.rune(&["agent", "stop", "worker"]).ok();
    rig.go();
    assert_eq!(rig.api.ended(&id).await["status"], "completed");
    let gone = async {
        while !rig.replicas().await.is_empty() {
            tokio::time::sleep(POLL).await;
        }
    };
    tokio::time::timeout(LIMIT, gone).await.unwrap();
    let refused = rig.api.ask("worker", &json!({"input": "x"})).await;
    assert_eq!(refused.0, 503, "{refused:?}");
}

pub(super) async fn delete(backend: &'static str) {
    let rig = Rig::start(backend, "").await;
    let command = "/tool slow {\"then\": \"publish\"}";
    let id = rig.api.start("worker", command).await;
    rig.begun(1).await;
    rig.served.rune(&["agent", "rm", "worker", "--force"]).ok();
    let refused = rig.api.ask("worker", &json!({"input": "x"})).await;
    assert_eq!(refused.0, 404, "{refused:?}");
    assert_eq!(rig.replicas().await[0]["state"], "draining");
    rig.go();
    let row = rig.api.ended(&id).await;
    assert_eq!(
        (&row["status"], &row["attempts"]),
        (&json!("completed"), &json!(1)),
        "{row}\n{}",
        rig.served.0.log()
    );
    // What it had the daemon do after that was done.
    let events = rig.api.events(&id, 0).await.rest().await;
    let done = events.iter().filter(|event| event.name == "tool_done");
    let done: Vec<&Value> = done.map(|event| &event.data).collect();
    assert_eq!(done.len(), 2, "{done:?}");
    assert_eq!(done[1]["name"], "rune@event-publish", "{done:?}");
    assert!(done[1]["error"].is_null(), "{done:?}");
    rig.until("its replicas have ended", async || {
        rig.replicas().await.is_empty()
    })
    .await;
}

pub(super) async fn sticky(backend: &'static str) {
    let rig = Rig::with_replicas(backend, "", 2).await;
    // While one session is at work the other one begins, so that each has a replica of its own.
    let begin = |session: &str| {
        let body = json!({"input": "/tool slow {}", "session_id": session, "background": true});
        let ask = rig.api.invoke("worker", &body);
        async {
            answer(ask).await.unwrap().1["request_id"]
                .as_str()
                .unwrap()
                .to_owned()
        }
    };
    let first = [begin("a").await, begin("b").await];
    rig.begun(2).await;
    rig.go();
    let mut of = Vec::new();
    for id in &first {
        let row = rig.api.ended(id).await;
        assert_eq!(row["status"], "completed", "{row}");
        of.push(row["replica_id"].clone());
    }
    assert_ne!(of[0], of[1]);
    for round in 0..6 {
        // With either turn first.
        for at in [round % 2, (round + 1) % 2] {
            let session = ["a", "b"][at];
            let body = json!({"input": "hello", "session_id": session});
            let (_, said) = rig.api.ask("worker", &body).await;
            let row = rig.api.request(said["request_id"].as_str().unwrap()).await;
            assert_eq!(row["replica_id"], of[at], "{row}");
        }
    }
}

pub(super) async fn killed_under_load(backend: &'static str) {
    let mut rig = Rig::settled(backend, 2).await;
    let mut ids = Vec::new();
    for _ in 0..LOAD {
        ids.push(rig.slow().await);
    }
    rig.begun(LOAD).await;
    // A replica in the daemon is a part of its process: it ends with that, and nothing else can kill it.
    let is_inside = backend == "wasm";
    if is_inside {
        rig.served.0.kill9().unwrap();
        rig.restart().await;
    } else {
        let running = rig.running();
        assert_eq!(running.len(), 2, "{running:?}");
        rig.kill(&running[0]);
    }
    // Those of the other one go on meanwhile.
    rig.begun(LOAD + 1).await;
    rig.go();
    let mut again = 0;
    for id in &ids {
        let row = rig.api.ended(id).await;
        assert_eq!(row["status"], "completed", "{row}\n{}", rig.served.0.log());
        let attempts = row["attempts"].as_u64().unwrap();
        assert!((1..=2).contains(&attempts), "{row}");
        again += usize::from(attempts == 2);
    }
    // The load was shared: some had to go on elsewhere, and some had not.
    let expected = if is_inside { LOAD..=LOAD } else { 1..=LOAD - 1 };
    assert!(expected.contains(&again), "{again} of {LOAD}");
    let started = rig.lines("started").len();
    assert_eq!(started, LOAD + again);
    rig.until("there are two again", async || {
        let replicas = rig.replicas().await;
        replicas.len() == 2 && replicas.iter().all(|it| it["state"] == "ready")
    })
    .await;
    assert_no_panic(&rig.served);
}

pub(super) async fn logs_and_stats(backend: &'static str) {
    let rig = Rig::start(backend, "").await;
    rig.output("mark", json!({})).await;
    let replica = rig.replicas().await[0]["id"].as_str().unwrap().to_owned();
    let logged = rig.served.rune(&["agent", "logs", "worker"]).ok();
    let own = logged.lines().filter(|line| line.starts_with(&replica));
    let own: Vec<&str> = own.collect();
    // Its requests are told in any case.
    assert!(logged.contains("tool_done"), "{logged}");
    let control_plane = rig.served.0.control_plane();
    let url = format!("{control_plane}/v1/replicas/{replica}/logs?lines=1");
    let log: Value = reqwest::get(url).await.unwrap().json().await.unwrap();
    let health = format!("/v1/replicas/{replica}/health");
    let inspected = rig.served.rune(&["agent", "inspect", "worker"]).ok();
    assert!(inspected.contains(&replica), "{inspected}");
    if backend == "wasm" {
        // It is a part of the daemon, whose log says what it does.
        assert!(
            own.is_empty() && log.get("lines").is_none(),
            "{own:?} {log}"
        );
        let (_, health) = answer(rig.api.get(&health)).await.unwrap();
        assert!(health.get("memory_bytes").is_none(), "{health}");
        return;
    }
    let says = |line: &&str| line.contains("ready") && line.contains(&replica[4..]);
    assert!(own.iter().any(says), "{logged}");
    assert_eq!(log["lines"].as_array().unwrap().len(), 1, "{log}");
    // What it uses is looked at again and again.
    let cpu = async || {
        let (_, health) = answer(rig.api.get(&health)).await.unwrap();
        assert!(
            health["memory_bytes"].as_u64().unwrap() > 4 << 20,
            "{health}"
        );
        health["cpu_ms"].as_u64().unwrap()
    };
    let before = cpu().await;
    rig.until("it has worked", async || {
        rig.output("mark", json!({})).await;
        cpu().await > before
    })
    .await;
    let inspected = rig.served.rune(&["agent", "inspect", "worker"]).ok();
    let line = inspected.lines().find(|line| line.starts_with(&replica));
    let cells: Vec<&str> = line.unwrap().split_whitespace().collect();
    let expected = ("ready", platform(backend));
    assert_eq!((cells[1], cells[2]), expected, "{inspected}");
    let numbers = cells[4..6].iter().map(|cell| cell.parse::<u64>().unwrap());
    assert!(numbers.min().unwrap() > 0, "{inspected}");
}
