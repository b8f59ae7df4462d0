//! Where a guest can connect.

use std::sync::{Arc, Mutex};

use rune_tools::{EgressGate, EgressPolicy, ToolError, ToolErrorKind};
use rune_wasm::WasmConfig;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::sandbox::{SECRET, Sandbox, guest};

/// A server for one request, which it sends back; answers what it was sent.
async fn served(listener: TcpListener) -> String {
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    let length = head.len();
    let answer = format!("HTTP/1.1 203 OK\r\ncontent-length: {length}\r\n\r\n{head}");
    stream.write_all(answer.as_bytes()).await.unwrap();
    head
}

fn with_loopback() -> Sandbox {
    Sandbox::with(WasmConfig {
        egress: EgressPolicy {
            allow_private: vec!["127.0.0.0/8".parse().unwrap()],
            ..EgressPolicy::default()
        },
        ..WasmConfig::default()
    })
}

async fn listener() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let authority = listener.local_addr().unwrap().to_string();
    (listener, authority)
}

#[derive(Default)]
struct Gate {
    asked: Mutex<Vec<String>>,
    denies: bool,
}

impl EgressGate for Gate {
    fn connect(&self, host: &str, port: u16) -> Result<(), ToolError> {
        self.asked.lock().unwrap().push(format!("{host}:{port}"));
        if self.denies {
            Err(ToolError::new(ToolErrorKind::Denied, "policy says no"))
        } else {
            Ok(())
        }
    }
}

#[tokio::test]
async fn a_granted_host_is_reached_with_the_secret_that_the_guest_never_saw() {
    let mut sandbox = with_loopback();
    let gate = Arc::new(Gate::default());
    sandbox.context.egress = Some(gate.clone());
    let (listener, authority) = listener().await;
    let granted = format!("capabilities: [\"network:{authority}\", \"secret:TOKEN\"]\n");
    let tool = sandbox.guest("fetch", &granted);
    let call = sandbox.call(&tool, json!({"authority": authority}));
    let (answer, request) = tokio::join!(call, served(listener));
    assert_eq!(answer.unwrap(), json!(203));
    assert!(
        request.starts_with("GET /hello?key=hunter2hunter2 HTTP/1.1\r\n"),
        "{request}"
    );
    assert!(
        request.contains(&format!("host: {authority}\r\n")),
        "{request}"
    );
    assert_eq!(*gate.asked.lock().unwrap(), [authority]);
}

#[tokio::test]
async fn the_memory_of_a_guest_never_holds_the_secret_that_it_sent_and_got_back() {
    let sandbox = with_loopback();
    let (listener, authority) = listener().await;
    let granted =
        format!("capabilities: [filesystem, \"network:{authority}\", \"secret:TOKEN\"]\n");
    let tool = sandbox.guest("remember", &granted);
    let call = sandbox.call(&tool, json!({"authority": authority}));
    let (answer, request) = tokio::join!(call, served(listener));
    assert_eq!(answer.unwrap(), json!(203));
    assert!(request.contains(SECRET), "{request}");
    let memory = std::fs::read(sandbox.path("memory")).unwrap();
    assert_eq!(memory.len(), 2 * 65536);
    let holds = |text: &str| memory.windows(text.len()).any(|at| at == text.as_bytes());
    // What it had for the secret, and what came back.
    assert!(holds("rune-secret-"));
    assert!(holds("GET /hello?key=[redacted] HTTP/1.1"));
    assert!(!holds(SECRET));
}

#[tokio::test]
async fn what_is_not_granted_is_refused_before_anything_is_sent() {
    let sandbox = with_loopback();
    let (listener, authority) = listener().await;
    for granted in ["network:127.0.0.1:1", "network:example.org"] {
        let tool = sandbox.guest("fetch", &format!("capabilities: [\"{granted}\"]\n"));
        let error = sandbox.fails(&tool, json!({"authority": authority})).await;
        assert_eq!(error.kind, ToolErrorKind::Denied, "{error}");
        // HTTP-request-denied, and why.
        let expected = format!(
            "request failed with case 15; refused to it: `{authority}` is not granted; \
             `network:{authority}` in `capabilities` would grant it"
        );
        assert_eq!(error.message, expected);
    }
    // Nobody connected.
    assert!(futures_ready(listener.accept()).await.is_none());
}

/// What a future answers at once.
async fn futures_ready<T>(future: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        value = future => Some(value),
        () = std::future::ready(()) => None,
    }
}

#[tokio::test]
async fn an_address_that_is_not_public_is_refused_whatever_its_name() {
    let sandbox = Sandbox::new();
    let (_listener, authority) = listener().await;
    let port = authority.rsplit(':').next().unwrap();
    for host in [
        "127.0.0.1",
        "localhost",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "0x7f.1",
    ] {
        let tool = sandbox.guest("fetch", "capabilities: [network]\n");
        let authority = format!("{host}:{port}");
        let error = sandbox.fails(&tool, json!({"authority": authority})).await;
        assert_eq!(error.kind, ToolErrorKind::Denied, "{host}: {error}");
        assert!(
            error.message.contains("loopback address"),
            "{host}: {error}"
        );
    }
}

#[tokio::test]
async fn policy_is_asked_and_heard() {
    let mut sandbox = with_loopback();
    let (_listener, authority) = listener().await;
    sandbox.context.egress = Some(Arc::new(Gate {
        denies: true,
        ..Gate::default()
    }));
    let tool = sandbox.guest("fetch", "capabilities: [network]\n");
    let error = sandbox.fails(&tool, json!({"authority": authority})).await;
    assert_eq!(error.kind, ToolErrorKind::Denied);
    assert!(error.message.ends_with("policy says no"), "{error}");
}

#[tokio::test]
async fn a_host_that_does_not_answer_is_an_error_of_the_guest() {
    let sandbox = with_loopback();
    let (listener, authority) = listener().await;
    drop(listener);
    let tool = sandbox.guest("fetch", "capabilities: [network]\n");
    let error = sandbox.fails(&tool, json!({"authority": authority})).await;
    // connection-refused
    assert_eq!(error.message, "request failed with case 06");
    assert_eq!(error.kind, ToolErrorKind::Failed);
}

#[tokio::test]
async fn a_raw_socket_reaches_only_an_address_that_is_granted_and_allowed() {
    let (listener, authority) = listener().await;
    let port: u16 = authority.rsplit(':').next().unwrap().parse().unwrap();
    let input = json!({ "port": port });
    let granted = format!("capabilities: [\"network:{authority}\"]\n");

    let sandbox = with_loopback();
    let tool = sandbox.guest("connect", &granted);
    assert_eq!(
        sandbox.call(&tool, input.clone()).await.unwrap(),
        json!("connected")
    );
    listener.accept().await.unwrap();
    let other = "capabilities: [\"network:127.0.0.1:1\"]\n";
    let error = sandbox
        .fails(&sandbox.guest("connect", other), input.clone())
        .await;
    assert_eq!(error.kind, ToolErrorKind::Denied);
    // access-denied, and why.
    let expected =
        format!("connect failed with case 01; refused to it: `{authority}` is not granted");
    assert!(error.message.starts_with(&expected), "{error}");

    // Granted by its author, but not to be reached from here.
    let sandbox = Sandbox::new();
    let error = sandbox
        .fails(&sandbox.guest("connect", &granted), input)
        .await;
    assert_eq!(error.kind, ToolErrorKind::Denied);
    assert!(error.message.contains("is a loopback address"), "{error}");
    assert!(futures_ready(listener.accept()).await.is_none());
}

#[test]
fn an_import_without_its_grant_is_refused_when_it_is_loaded() {
    let sandbox = Sandbox::new();
    for (name, more, import, capability) in [
        ("fetch", "", "wasi:http/types@0.2.0", "network:HOST"),
        ("connect", "", "wasi:sockets/network@0.2.0", "network"),
        ("lookup", "", "wasi:sockets/network@0.2.0", "network"),
        (
            "connect",
            "capabilities: [\"network:example.org\"]\n",
            "wasi:sockets/network@0.2.0",
            "network",
        ),
    ] {
        let error = sandbox.load(&guest(name), more).err().unwrap().to_string();
        let expected = format!(
            "imports `{import}`, which is not granted; add `{capability}` to the tool's `capabilities`"
        );
        assert!(error.ends_with(&expected), "{error}");
    }
    for granted in ["network", "\"network:127.0.0.1:80\""] {
        sandbox.guest("connect", &format!("capabilities: [{granted}]\n"));
    }
}

#[tokio::test]
async fn a_name_is_looked_up_only_where_every_host_is_granted_and_policy_agrees() {
    let input = || json!({"name": "secret.example.org"});
    let mut sandbox = Sandbox::new();
    let address = "capabilities: [\"network:127.0.0.1:80\"]\n";
    let tool = sandbox.guest("lookup", address);
    let error = sandbox.fails(&tool, input()).await;
    assert_eq!(error.kind, ToolErrorKind::Denied, "{error}");
    // access-denied, and why.
    assert_eq!(
        error.message,
        "lookup failed with case 01; refused to it: looking up `secret.example.org` is not granted; \
         `network` in `capabilities` would grant it"
    );
    let every = "capabilities: [network]\n";
    let tool = sandbox.guest("lookup", every);
    assert_eq!(sandbox.call(&tool, input()).await.unwrap(), "looking");
    let gate = Arc::new(Gate {
        denies: true,
        ..Gate::default()
    });
    sandbox.context.egress = Some(gate.clone());
    let error = sandbox.fails(&tool, input()).await;
    assert_eq!(error.kind, ToolErrorKind::Denied, "{error}");
    assert!(error.message.ends_with("policy says no"), "{error}");
    assert_eq!(*gate.asked.lock().unwrap(), ["secret.example.org:53"]);
}
