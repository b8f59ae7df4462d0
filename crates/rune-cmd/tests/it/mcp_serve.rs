//! `rune mcp serve` where the daemon, or the way to it, is not as it should be.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use rune_testkit::TestDaemon;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::home::{RUNE, Served};
use crate::mcp_server::stdio::Stdio;
use crate::mcp_server::{deploy, request_of};
use crate::wire::{Api, answer, spawn};

/// Hands everything on to a daemon, and breaks off the first call of an agent as soon as it is accepted.
async fn breaking(daemon: &str) -> String {
    let upstream = daemon.strip_prefix("http://").unwrap().to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    spawn(async move {
        let broken = Arc::new(AtomicBool::new(false));
        let mut connections = FuturesUnordered::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => {
                    let (client, _) = accepted.unwrap();
                    let server = TcpStream::connect(&upstream).await.unwrap();
                    connections.push(pass(client, server, Arc::clone(&broken)));
                }
                Some(()) = connections.next() => {}
            }
        }
    });
    url
}

/// Passes one connection on, until one side closes or it is broken off.
async fn pass(mut client: TcpStream, mut server: TcpStream, broken: Arc<AtomicBool>) {
    let (mut asked, mut answered) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
    let mut breaks = false;
    loop {
        tokio::select! {
            read = client.read(&mut asked) => match read {
                Ok(n) if n > 0 => {
                    let text = String::from_utf8_lossy(&asked[..n]);
                    breaks |= text.contains("/invoke") && !broken.swap(true, Ordering::SeqCst);
                    server.write_all(&asked[..n]).await.unwrap();
                }
                _ => return,
            },
            read = server.read(&mut answered) => match read {
                Ok(n) if n > 0 => {
                    let text = String::from_utf8_lossy(&answered[..n]);
                    if breaks && text.contains("200 OK") {
                        return;
                    }
                    client.write_all(&answered[..n]).await.unwrap();
                }
                _ => return,
            },
        }
    }
}

async fn requests(served: &Served, agent: &str) -> Vec<Value> {
    let api = Api::of(&served.0);
    let (_, page) = answer(api.get(&format!("/v1/requests?agent={agent}")))
        .await
        .unwrap();
    page["items"].as_array().unwrap().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_whose_connection_breaks_is_sent_again_and_is_the_same_request() {
    let served = Served(TestDaemon::builder(RUNE).start().await.unwrap());
    let script = "rules:\n  - respond: \"You said: {{ input }}\"\n";
    deploy(&served, "echoes", "", script, &[]);
    deploy(
        &served,
        "forgets",
        "runtime: {checkpoint_policy: never}\n",
        script,
        &[],
    );
    let url = breaking(served.0.gateway()).await;
    let mut stdio = Stdio::start(served.command(&["--gateway", &url, "mcp", "serve"]));
    stdio.initialize();
    let called = stdio.ask(
        2,
        "tools/call",
        &json!({"name": "echoes", "arguments": {"input": "hi"}}),
    );
    let result = &called["result"];
    assert_eq!(result["content"][0]["text"], "You said: hi", "{called}");
    let rows = requests(&served, "echoes").await;
    assert_eq!(rows.len(), 1, "{rows:?}");
    assert_eq!(rows[0]["id"], request_of(result));

    // An agent that keeps nothing takes no keys, and is called without one.
    let called = stdio.ask(
        3,
        "tools/call",
        &json!({"name": "forgets", "arguments": {"input": "hi"}}),
    );
    assert_eq!(
        called["result"]["content"][0]["text"], "You said: hi",
        "{called}"
    );
    stdio.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_being_started_is_waited_for() {
    let mut served = Served(TestDaemon::builder(RUNE).start().await.unwrap());
    // A server that never speaks keeps the agent from its start for a while.
    let more = "toolset: [mute/*]\ninput_schema: {type: object}\n\
                mcp_servers:\n  - {name: mute, command: sleep, args: [\"600\"]}\n";
    deploy(&served, "late", more, "rules:\n  - respond: here\n", &[]);
    served.0.kill9().unwrap();
    served.0.restart().await.unwrap();
    let api = Api::of(&served.0);
    let mut stdio = Stdio::start(served.command(&["mcp", "serve"]));
    stdio.initialize();
    let (_, row) = answer(api.get("/v1/agents/late")).await.unwrap();
    assert!(row["tools"].is_null(), "it is there already: {row}");
    // Its schema says that nothing has to be said.
    let called = stdio.ask(2, "tools/call", &json!({"name": "late", "arguments": {}}));
    assert_eq!(called["result"]["content"][0]["text"], "here", "{called}");
    stdio.end();
}
