use rune_testkit::TestDaemon;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::Rig;
use crate::home::{RUNE, Served};
use crate::wire::{Api, spawn};

/// A service that answers these, one for each connection, and says what it was asked.
async fn service(answers: Vec<String>) -> (String, mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/json", listener.local_addr().unwrap());
    let (told, asked) = mpsc::unbounded_channel();
    drop(spawn(async move {
        for answer in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut buffer = vec![0; 4096];
            let count = stream.read(&mut buffer).await.unwrap();
            let head = String::from_utf8_lossy(&buffer[..count]).into_owned();
            told.send(head).unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    }));
    (url, asked)
}

fn http(status: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
}

#[tokio::test]
async fn the_place_is_looked_up_where_the_operator_wants_it_and_kept() {
    let place = json!({"ip": "203.0.113.7", "city": "Oslo", "region": "Oslo", "country": "Norway"});
    let answers = vec![
        http("429 Too Many Requests", "{}"),
        http("200 OK", &place.to_string()),
    ];
    let (url, mut asked) = service(answers).await;
    let daemon =
        TestDaemon::builder(RUNE).env("RUNE_LOCATION_LOOKUP", format!("{url}?key=s3cret-k3y"));
    let served = Served(daemon.start().await.unwrap());
    let api = Api::of(&served.0);
    let rig = Rig { served, api };
    rig.deploy("lost", &["location-get"], "");
    let refused = rig.try_call("lost", "location-get", json!({})).await;
    let refused = refused.unwrap_err();
    assert!(refused.contains("it answered with status 429"), "{refused}");
    for (detail, expected) in [("full", "Oslo, Norway"), ("region", "Norway")] {
        let input = json!({ "detail": detail });
        let place = rig.call("lost", "location-get", input).await;
        assert_eq!(place, json!({"location": expected, "source": "lookup"}));
    }
    // What is known is not told to whom policy does not let ask for it.
    let dir = rig.served.0.home().join("tame");
    std::fs::create_dir_all(&dir).unwrap();
    let cedar =
        "@reason(\"no places\")\nforbid(principal, action == Action::\"egress\", resource);\n";
    std::fs::write(dir.join("policy.cedar"), cedar).unwrap();
    rig.deploy("tame", &["location-get"], "policy: {file: policy.cedar}\n");
    let denied = rig.try_call("tame", "location-get", json!({})).await;
    let denied = denied.unwrap_err();
    assert!(denied.contains("policy denies connecting"), "{denied}");
    // The failure and the first success; the second call asks nobody.
    let first = asked.recv().await.unwrap();
    assert!(first.starts_with("GET /json?key=s3cret-k3y"), "{first}");
    asked.recv().await.unwrap();
    assert!(asked.recv().await.is_none());
    let shown = rig.served.rune(&["config", "show"]).ok();
    assert!(shown.contains("tools.location_lookup"), "{shown}");
    for text in [shown, refused, rig.served.0.log()] {
        assert!(!text.contains("s3cret-k3y"), "{text}");
    }
}

#[tokio::test]
async fn nothing_is_looked_up_unless_it_is_configured() {
    let rig = Rig::start().await;
    rig.deploy("lost", &["location-get"], "");
    let refused = rig.try_call("lost", "location-get", json!({})).await;
    let refused = refused.unwrap_err();
    assert!(refused.contains("`tools.location_lookup`"), "{refused}");
}
