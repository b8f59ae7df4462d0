//! Watches, and what goes wrong with them.

use std::io::{BufRead, BufReader};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::client::{Client, Judged, Next, config_map, pod};
use rune_testkit_kubernetes::ApiServer;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

async fn create(client: &Client, name: &str, label: &str) -> Value {
    let mut map = config_map(name, &json!({}));
    map["metadata"]["labels"] = json!({"of": label});
    let (status, created) = client.call("POST", MAPS, &map).await;
    assert_eq!(status, 201, "{created}");
    created
}

fn change(kind: &str, name: &str) -> (String, String) {
    (kind.to_owned(), name.to_owned())
}

#[tokio::test]
async fn kubectl_follows_what_happens() {
    let Some(judged) = Judged::start().await else {
        return;
    };
    judged.apply(&pod("one")).await;
    let mut child = judged
        .kubectl
        .start(&["get", "pods", "--watch", "-o", "name"])
        .unwrap();
    let out = BufReader::new(child.stdout.take().unwrap());
    let (lines, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let reader = tokio::task::spawn_blocking(move || {
        for line in out.lines().map_while(Result::ok) {
            if lines.send(line).is_err() {
                return;
            }
        }
    });
    assert_eq!(seen.recv().await.unwrap(), "pod/one");
    judged.apply(&pod("two")).await;
    assert_eq!(seen.recv().await.unwrap(), "pod/two");
    judged.ok(&["label", "pod", "two", "a=b"]).await;
    assert_eq!(seen.recv().await.unwrap(), "pod/two");
    child.kill().unwrap();
    child.wait().unwrap();
    reader.await.unwrap();
}

#[tokio::test]
async fn kubectl_waits_for_a_condition_and_a_deletion() {
    let Some(judged) = Judged::start().await else {
        return;
    };
    let mut placed = pod("one");
    placed["spec"]["nodeName"] = json!("somewhere");
    judged.apply(&placed).await;
    let client = Client::new(&judged.server);
    let args = ["wait", "--for=condition=Ready", "pod/one", "--timeout=30s"];
    let ready = async {
        let status = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        let path = "/api/v1/namespaces/default/pods/one/status";
        assert_eq!(client.call("PATCH", path, &status).await.0, 200);
    };
    let (said, ()) = tokio::join!(judged.ok(&args), ready);
    assert!(said.contains("condition met"), "{said}");
    let gone = async {
        judged.ok(&["delete", "pod", "one", "--wait=false"]).await;
        judged
            .ok(&["delete", "pod", "one", "--grace-period=0", "--force"])
            .await;
    };
    let args = ["wait", "--for=delete", "pod/one", "--timeout=30s"];
    let (_, ()) = tokio::join!(judged.ok(&args), gone);
}

#[tokio::test]
async fn a_watch_goes_on_from_a_revision() {
    let server = ApiServer::start().await.unwrap();
    let client = Client::new(&server);
    let first = create(&client, "a", "x").await;
    create(&client, "b", "y").await;
    let version = first["metadata"]["resourceVersion"].as_str().unwrap();
    let mut from = client
        .watch(&format!("{MAPS}?watch=1&resourceVersion={version}"))
        .await;
    assert_eq!(from.change().await, change("ADDED", "b"));
    client
        .call("DELETE", &format!("{MAPS}/a"), &Value::Null)
        .await;
    assert_eq!(from.change().await, change("DELETED", "a"));
    let mut anew = client.watch(&format!("{MAPS}?watch=1")).await;
    assert_eq!(anew.change().await, change("ADDED", "b"));
}

#[tokio::test]
async fn a_selector_makes_what_enters_and_leaves() {
    let server = ApiServer::start().await.unwrap();
    let client = Client::new(&server);
    create(&client, "a", "x").await;
    let mut events = client
        .watch(&format!("{MAPS}?watch=1&labelSelector=of%3Dy"))
        .await;
    for (label, expected) in [("y", "ADDED"), ("x", "DELETED"), ("y", "ADDED")] {
        let patch = json!({"metadata": {"labels": {"of": label}}});
        client.call("PATCH", &format!("{MAPS}/a"), &patch).await;
        assert_eq!(events.change().await, change(expected, "a"));
    }
}

#[tokio::test]
async fn a_past_that_is_gone_is_said_to_be() {
    let server = ApiServer::start().await.unwrap();
    let client = Client::new(&server);
    let first = create(&client, "a", "x").await;
    let version = first["metadata"]["resourceVersion"].as_str().unwrap();
    let path = format!("{MAPS}?watch=1&resourceVersion={version}");
    let mut open = client.watch(&path).await;
    server.forget_the_past();
    let mut late = client.watch(&path).await;
    for events in [&mut open, &mut late] {
        let Next::Event(kind, status) = events.next().await else {
            panic!()
        };
        assert_eq!((kind.as_str(), &status["code"]), ("ERROR", &json!(410)));
        assert_eq!(events.next().await, Next::End);
    }
    let (_, listed) = client.get(MAPS).await;
    assert_eq!(listed["items"].as_array().unwrap().len(), 1);
    let version = listed["metadata"]["resourceVersion"].as_str().unwrap();
    let mut again = client
        .watch(&format!("{MAPS}?watch=1&resourceVersion={version}"))
        .await;
    create(&client, "b", "x").await;
    assert_eq!(again.change().await, change("ADDED", "b"));
}

#[tokio::test]
async fn bookmarks_come_where_they_are_asked_for() {
    let server = ApiServer::start().await.unwrap();
    let client = Client::new(&server);
    create(&client, "a", "x").await;
    let path = format!(
        "{MAPS}?watch=1&allowWatchBookmarks=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan"
    );
    let mut events = client.watch(&path).await;
    assert!(matches!(events.next().await, Next::Event(kind, _) if kind == "ADDED"));
    let Next::Event(kind, end) = events.next().await else {
        panic!()
    };
    assert_eq!(kind, "BOOKMARK");
    assert_eq!(
        end["metadata"]["annotations"]["k8s.io/initial-events-end"],
        "true"
    );
    assert!(matches!(events.next().await, Next::Event(kind, _) if kind == "BOOKMARK"));
    let mut short = client
        .watch(&format!("{MAPS}?watch=1&timeoutSeconds=1"))
        .await;
    short.change().await;
    assert_eq!(short.next().await, Next::End);
}

#[tokio::test]
async fn faults_come_on_demand() {
    let server = ApiServer::start().await.unwrap();
    let client = Client::new(&server);
    let mut events = client.watch(&format!("{MAPS}?watch=1")).await;
    server.duplicate_events(true);
    create(&client, "a", "x").await;
    assert_eq!(events.change().await, change("ADDED", "a"));
    assert_eq!(events.change().await, change("ADDED", "a"));
    server.duplicate_events(false);
    let delay = Duration::from_millis(300);
    server.delay_events(delay);
    let before = Instant::now();
    create(&client, "b", "x").await;
    assert_eq!(events.change().await, change("ADDED", "b"));
    assert!(before.elapsed() >= delay, "{:?}", before.elapsed());
    server.break_watches();
    assert_eq!(events.next().await, Next::Broken);
}

#[tokio::test]
async fn a_server_that_was_away_has_what_it_had() {
    let server = ApiServer::start().await.unwrap();
    let client = Client::new(&server);
    create(&client, "a", "x").await;
    let mut events = client.watch(&format!("{MAPS}?watch=1")).await;
    events.change().await;
    server.down();
    assert_eq!(events.next().await, Next::Broken);
    assert!(client.request("GET", MAPS).send().await.is_err());
    server.up().await.unwrap();
    let (status, listed) = client.get(MAPS).await;
    assert_eq!(
        (status, listed["items"][0]["metadata"]["name"].as_str()),
        (200, Some("a"))
    );
}
