//! What the token of a replica opens is its own deployment's, on every route that there is.

use std::collections::BTreeSet;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use reqwest::Method;
use rune_remote_store::InternalApi;
use rune_replica::DaemonApi;
use rune_store_runtime::{Command, RequestCancel, Timestamp};
use serde_json::{Value, json};

use super::{Rig, builder};
use crate::home::Ran;
use crate::wire::answer;

const KEY: &str = "LOOKUP_KEY";
const VALUE: &str = "of-the-other-agent";

/// An agent with a tool that is granted a secret.
fn write(dir: &Path, name: &str, secret: &str) {
    std::fs::create_dir_all(dir.join("tools")).unwrap();
    let runefile = format!(
        "name: {name}\nversion: 0.1.0\ninstructions: Answer.\ndefault_model: m\ntoolset: [look]\n\
         models: {{providers: [offline], model_mapping: {{m: offline}}}}\n"
    );
    std::fs::write(dir.join("Runefile"), runefile).unwrap();
    let yaml = format!(
        "name: look\ndescription: A tool.\nmodule: tools/look.sh\ncapabilities: [\"secret:{secret}\"]\n"
    );
    std::fs::write(dir.join("tools/look.yaml"), yaml).unwrap();
    std::fs::write(dir.join("tools/look.sh"), "echo '{}'\n").unwrap();
}

/// Who a token is for, as it says.
fn subject(token: &str) -> Value {
    let claims = token.split('.').nth(1).unwrap();
    let claims = URL_SAFE_NO_PAD.decode(claims).unwrap();
    serde_json::from_slice::<Value>(&claims).unwrap()["sub"].take()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_internal_route_gives_a_replica_what_is_another_deployments() {
    let rig = Rig::start(builder()).await;
    for (agent, secret) in [("mine", "MY_KEY"), ("theirs", KEY)] {
        Ran::with_input(rig.served.command(&["secret", "set", secret]), VALUE).ends(0);
        write(&rig.served.0.home().join(agent), agent, secret);
    }
    rig.served.rune(&["run", "mine"]).ok();
    let mine = rig.process();
    rig.served.rune(&["run", "theirs"]).ok();
    let theirs = rig.processes().into_values();
    let mut theirs = theirs.filter(|process| process.pid != mine.pid);
    let theirs = theirs.next().unwrap();
    let (status, asked) = rig.api.ask("theirs", &json!({"input": "private"})).await;
    assert_eq!(status, 200, "{asked}");
    let request = &asked["request_id"];

    let cancel = RequestCancel {
        request_id: request.as_str().unwrap().parse().unwrap(),
        reason: "none".to_owned(),
    };
    let command = Command::new(Timestamp::from_millis(2_000_000_000_000), cancel);
    let read = json!({"read": "request", "args": {"id": request}});
    let boot = json!({"fingerprint": theirs.env["RUNE_REPLICA_FINGERPRINT"]});
    let act = json!({"request_id": request, "op": {"op": "agents"}});
    let unknown = format!("sha256:{}", "0".repeat(64));
    // The route, where it is asked, with what, how it is answered to the one and to the other, and what it says then.
    #[rustfmt::skip]
    let tries = [
        (InternalApi::ROUTES[0], Method::POST, "store/commands".to_owned(), json!([command]), 403, None, "is none of this deployment"),
        (InternalApi::ROUTES[1], Method::POST, "store/read".to_owned(), read, 403, Some(200), "is none of this deployment"),
        // Bytes have no owner: who gives them has them, and who names their digest was shown it.
        (InternalApi::ROUTES[2], Method::PUT, "store/blobs".to_owned(), json!("bytes"), 200, Some(200), "sha256:"),
        (InternalApi::ROUTES[3], Method::GET, format!("store/blobs/{unknown}"), json!(null), 200, Some(200), "NotFound"),
        (InternalApi::ROUTES[4], Method::POST, "token".to_owned(), json!({}), 200, Some(200), "token"),
        (DaemonApi::ROUTES[0], Method::POST, "replica".to_owned(), boot, 409, Some(200), "not deployed any more"),
        (DaemonApi::ROUTES[1], Method::POST, "engine".to_owned(), act, 403, None, "was taken from this replica"),
        (DaemonApi::ROUTES[2], Method::POST, "secrets".to_owned(), json!({"name": KEY}), 200, Some(200), "is granted"),
        // Where the gateway is a process of its own there is this route, and opens for nobody else: `split::processes`.
        (InternalApi::FORWARDED, Method::POST, "gateway/v1/agents/theirs/invoke".to_owned(), json!({"input": "x"}), 404, Some(404), "there is no such path"),
    ];
    let tried: BTreeSet<&str> = tries.iter().map(|it| it.0).collect();
    let routes = InternalApi::ROUTES.iter().chain(DaemonApi::ROUTES);
    let routes = routes.chain([&InternalApi::FORWARDED]).copied();
    assert_eq!(tried, routes.collect(), "every internal route is tried");

    let client = reqwest::Client::new();
    for (route, method, path, body, refused, own, says) in tries {
        let url = format!("{}/internal/v1/{path}", rig.served.0.control_plane());
        let call = |token: &str| {
            let call = client.request(method.clone(), &url).bearer_auth(token);
            answer(call.json(&body))
        };
        let (status, said) = call(&mine.env["RUNE_REPLICA_TOKEN"]).await.unwrap();
        let text = said.to_string();
        assert_eq!(status, refused, "{route}: {text}");
        assert!(text.contains(says), "{route}: {text}");
        assert!(
            !text.contains(VALUE) && !text.contains("private"),
            "{route}: {text}"
        );
        if let Some(token) = said["token"].as_str() {
            assert_eq!(subject(token), subject(&mine.env["RUNE_REPLICA_TOKEN"]));
        }
        // The same call is the other's to make: it is not refused for what it is.
        if let Some(own) = own {
            let (status, said) = call(&theirs.env["RUNE_REPLICA_TOKEN"]).await.unwrap();
            assert_eq!(status, own, "{route}: {said}");
            let is_given = said.to_string().contains(VALUE);
            assert_eq!(is_given, path == "secrets", "{route}: {said}");
        }
    }
    assert_eq!(
        rig.api.request(request.as_str().unwrap()).await["status"],
        "completed"
    );
}
