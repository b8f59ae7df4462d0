//! Agents that may not be called, and such that answer what they like.

use rune_testkit::TestDaemon;
use serde_json::json;

use super::server::{Reply, Scripted, result};
use super::{ask, deploy, deploy_asker, open_daemon, outcome, ran, tool};
use crate::home::{RUNE, Served};
use crate::wire::{Api, answer, assert_no_panic};

const JSON: &str = "application/json";

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_at_a_private_address_is_not_called_and_the_audit_trail_says_so() {
    let agent = Scripted::agent(json!({}), |_| Reply::Hang).await;
    let closed = Served(TestDaemon::builder(RUNE).start().await.unwrap());
    let barred = open_daemon(&[("RUNE_A2A_REMOTE_HOSTS", "agents.example.org")]).await;
    for (served, says) in [
        (&closed, "tools.allow_private"),
        (&barred, "a2a.remote_hosts"),
    ] {
        deploy_asker(served, &agent.base, "");
        let api = Api::of(&served.0);
        let events = ran(&api, "asker", &ask("x")).await;
        let (code, message) = outcome(&events).unwrap_err();
        assert_eq!(code, "denied");
        assert!(message.contains(says), "{message}");
        let audit = served.0.control_plane().to_owned() + "/v1/audit?kind=network";
        let client = reqwest::Client::new();
        let (status, page) = answer(client.get(audit)).await.unwrap();
        assert_eq!(status, 200, "{page}");
        let row = &page["items"][0];
        assert_eq!(
            (&row["verdict"], &row["resource"]),
            (&json!("denied"), &json!(agent.base)),
            "{page}"
        );
        assert!(row["reason"].as_str().unwrap().contains(says), "{row}");
    }
    assert!(agent.seen().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_decide_about_the_hosts_of_remote_agents() {
    let agent = Scripted::agent(json!({}), |_| Reply::Hang).await;
    let served = open_daemon(&[]).await;
    super::write_ask(&served, "asker", &agent.base, "");
    let policy = "policy: {file: policy.cedar}\n";
    let cedar = "permit(principal, action, resource);\nforbid(principal, action == Action::\"egress\", resource);\n";
    std::fs::write(served.0.home().join("asker/policy.cedar"), cedar).unwrap();
    deploy(&served, "asker", &["ask"], "", policy);
    let events = ran(&Api::of(&served.0), "asker", &ask("x")).await;
    let (code, message) = outcome(&events).unwrap_err();
    assert_eq!(code, "denied");
    assert!(message.contains("policy denies connecting"), "{message}");
    let verdicts = super::named(&events, "policy_verdict");
    let denied = verdicts
        .iter()
        .find(|verdict| verdict["action"] == "egress")
        .unwrap();
    assert_eq!(denied["verdict"], "denied");
    assert!(agent.seen().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_of_the_protocol_fails_and_says_why() {
    let task =
        json!({"task": {"id": "t", "contextId": "c", "status": {"state": "TASK_STATE_WORKING"}}});
    let huge = format!(r#"{{"name":"x","description":"{}"}}"#, "x".repeat(1 << 20));
    let cards = Scripted::start(move |seen, base| {
        let endpoint = |url: String| {
            let one = json!({"url": url, "protocolBinding": "JSONRPC", "protocolVersion": "1.0"});
            Reply::Json(json!({"name": "x", "supportedInterfaces": [one]}))
        };
        let kind = seen.path.split('/').nth(1).unwrap_or_default();
        match (kind, seen.body.is_null()) {
            ("page", _) => Reply::Whole(200, "text/html", b"<html>".to_vec()),
            ("huge", _) => Reply::Whole(200, JSON, huge.clone().into_bytes()),
            ("bare", _) => Reply::Json(json!({"name": "x"})),
            ("gone", _) => Reply::Whole(404, JSON, Vec::new()),
            ("inside", _) => endpoint("http://10.1.2.3/a2a".to_owned()),
            ("metadata", _) => {
                let kind = "text/plain\r\nlocation: http://169.254.169.254/latest";
                Reply::Whole(302, kind, Vec::new())
            }
            ("circle", _) => Reply::Whole(302, "text/plain\r\nlocation: /circle/again", Vec::new()),
            (kind, true) => endpoint(format!("{base}/{kind}")),
            ("garbage", _) => Reply::Whole(200, JSON, b"what".to_vec()),
            ("flood", _) => Reply::Whole(200, JSON, vec![b' '; 20 << 20]),
            ("moved", _) => {
                let kind = "text/plain\r\nlocation: http://169.254.169.254/latest";
                Reply::Whole(307, kind, Vec::new())
            }
            ("broken", _) => Reply::Whole(502, "text/html", b"<html>bad gateway".to_vec()),
            // It takes a message and forgets it.
            ("forgets", _) if seen.body["method"] == "SendMessage" => result(&task),
            ("forgets", _) => Reply::Json(json!({"jsonrpc": "2.0", "id": "1", "error": {
                "code": -32001, "message": "never heard of it",
            }})),
            _ => Reply::Hang,
        }
    })
    .await;
    let served = open_daemon(&[]).await;
    let api = Api::of(&served.0);
    for (kind, code, says) in [
        ("page", "unavailable", "card is not of the protocol"),
        ("huge", "too_large", "card has more than"),
        ("bare", "unavailable", "no interface that is spoken"),
        ("gone", "not_found", "no agent card"),
        ("inside", "denied", "10.1.2.3 is a private address"),
        ("metadata", "denied", "cloud metadata"),
        ("circle", "not_found", "redirects more than"),
        ("garbage", "unavailable", "it is not JSON"),
        ("flood", "too_large", "answer has more than"),
        ("moved", "unavailable", "it is a redirect"),
        ("broken", "unavailable", "HTTP status 502"),
        ("forgets", "not_found", "never heard of it"),
        ("silent", "timeout", "within 1500 ms"),
    ] {
        deploy_asker(
            &served,
            &format!("{}/{kind}", cards.base),
            "timeout_ms: 1500\n",
        );
        let events = ran(&api, "asker", &ask("x")).await;
        let (told, message) = outcome(&events).unwrap_err();
        assert_eq!(told, code, "{kind}: {message}");
        assert!(message.contains(says), "{kind}: {message}");
        assert_eq!(events.last().unwrap().name, "done", "{kind}");
    }
    assert_no_panic(&served);
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_go_to_their_origin_alone() {
    let callee = open_daemon(&[("RUNE_API_KEY", "key-of-the-callee")]).await;
    let other = Scripted::agent(json!({}), |_| {
        result(&json!({"message": {"messageId": "a", "role": "ROLE_AGENT", "parts": [{"text": "hi"}]}}))
    })
    .await;
    deploy(&callee, "helper", &[], "", "");
    let url = format!("{}/a2a/helper", callee.0.gateway());
    for (credential, works) in [
        (String::new(), false),
        (
            format!("{} Bearer key-of-the-callee", callee.0.gateway()),
            true,
        ),
        (
            format!("{} X-API-Key: key-of-the-callee", callee.0.gateway()),
            true,
        ),
    ] {
        let caller = open_daemon(&[("RUNE_A2A_REMOTE_CREDENTIALS", &credential)]).await;
        deploy_asker(&caller, &url, "");
        let api = Api::of(&caller.0);
        let told = outcome(&ran(&api, "asker", &ask("x")).await);
        match works {
            true => assert_eq!(told, Ok(json!("Echo: x"))),
            false => assert_eq!(told.unwrap_err().0, "unauthenticated"),
        }
        let send = tool("rune@a2a-send", &json!({"url": other.base, "message": "x"}));
        deploy(&caller, "sender", &["rune@a2a-send"], "", "");
        assert_eq!(
            outcome(&ran(&api, "sender", &send).await).unwrap()["text"],
            "hi"
        );
        let shown = caller.rune(&["config", "show"]).ok();
        assert!(!shown.contains("key-of-the-callee"), "{shown}");
        assert!(!caller.0.log().contains("key-of-the-callee"));
    }
    for seen in other.seen() {
        assert!(!seen.head.contains("key-of-the-callee"), "{seen:?}");
    }
}
