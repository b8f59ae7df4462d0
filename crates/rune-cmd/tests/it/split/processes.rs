//! A control plane whose replicas are processes, behind gateways.

use rune_testkit::TestDaemon;
use rustix::process::{Signal, kill_process};
use serde_json::{Value, json};

use super::{gateway, gateway_token};
use crate::home::{RUNE, Served, replica_pids, write_plain};
use crate::wire::{Api, LIMIT, POLL, answer};

#[tokio::test(flavor = "multi_thread")]
async fn replicas_in_processes_serve_what_gateways_take() {
    let builder = TestDaemon::builder(RUNE).settled();
    let builder = builder.arg("--role").arg("control-plane");
    let builder = builder.arg("--backend").arg("process");
    let behind = Served(builder.start().await.unwrap());
    let token = gateway_token(&behind);
    let west = Served(gateway(&behind, &token).start().await.unwrap());
    let east = Served(gateway(&behind, &token).start().await.unwrap());
    let [at_west, at_east] = [Api::of(&west.0), Api::of(&east.0)];
    write_plain(&behind.0.home().join("plain"));
    behind.rune(&["run", "plain"]).ok();
    let replicas = || replica_pids(&behind.0.data_dir());
    let first = replicas();
    assert_eq!(first.len(), 1);
    // The token of a replica is none of a gateway's, also not for who says who called.
    let environ = format!("/proc/{}/environ", first[0].as_raw_nonzero());
    let environ = String::from_utf8(std::fs::read(environ).unwrap()).unwrap();
    let variable = |pair: &str| pair.strip_prefix("RUNE_REPLICA_TOKEN=").map(str::to_owned);
    let of_replica = environ.split('\0').find_map(variable).unwrap();
    let base = behind.0.control_plane();
    for (bearer, status) in [(&of_replica, 403), (&token, 200)] {
        let asked = reqwest::Client::new().get(format!("{base}/internal/v1/gateway/v1/agents"));
        let asked = asked.header("x-rune-caller", "jwt:eve").bearer_auth(bearer);
        assert_eq!(asked.send().await.unwrap().status(), status);
    }

    // What is asked at one is followed at the other, with a tool that the replica runs.
    let (status, asked) = at_west
        .ask("plain", &json!({"input": "/tool rune@system-time {}"}))
        .await;
    assert_eq!(
        (status, &asked["status"]),
        (200, &json!("completed")),
        "{asked}"
    );
    let row = at_east.request(asked["request_id"].as_str().unwrap()).await;
    assert_eq!(row["tools"][0]["state"], "succeeded", "{row}");
    let (_, page) = answer(at_east.get("/v1/agents/plain")).await.unwrap();
    assert_eq!(page["replicas"][0]["backend"], "process", "{page}");
    let body = json!({"input": "hi", "stream": true});
    let streamed = at_east.invoke("plain", &body).send().await.unwrap();
    let streamed = crate::wire::Events::of(streamed).rest().await;
    assert!(streamed.last().unwrap().is_last());

    // A replica that is killed in the middle of a request is replaced, and the request ends; each gateway sees it.
    let id = at_west.start("plain", "/tool wait {}").await;
    let began = async {
        loop {
            let row = at_west.request(&id).await;
            if row["tools"][0]["state"] == "intended" {
                return;
            }
            tokio::time::sleep(POLL).await;
        }
    };
    tokio::time::timeout(LIMIT, began).await.unwrap();
    kill_process(first[0], Signal::KILL).unwrap();
    let ended: Value = at_east.ended(&id).await;
    assert_eq!(ended["status"], "completed", "{ended}");
    let other = replicas();
    assert!(other.len() == 1 && other != first, "{other:?}");
    let (status, said) = at_west.ask("plain", &json!({"input": "again"})).await;
    assert_eq!((status, &said["output"]), (200, &json!("Echo: again")));
}
