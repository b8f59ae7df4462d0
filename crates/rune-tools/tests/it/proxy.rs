//! The proxy that programs connect through.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use rune_tools::{
    EgressException, EgressGate, EgressPolicy, EgressProxy, Hosts, LoopbackProxy, ToolError,
    ToolErrorKind,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Lets everything through but what it is told to refuse, and remembers who was asked for.
#[derive(Default)]
struct Gate {
    refuses: Option<&'static str>,
    asked: Mutex<Vec<(String, u16)>>,
}

impl EgressGate for Gate {
    fn connect(&self, host: &str, port: u16) -> Result<(), ToolError> {
        self.asked.lock().unwrap().push((host.to_owned(), port));
        if self.refuses == Some(host) {
            return Err(ToolError::new(ToolErrorKind::Denied, "not this one"));
        }
        Ok(())
    }
}

/// Answers every request with its own head.
#[expect(clippy::disallowed_methods, reason = "the task ends with the test")]
async fn mirror() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                match stream.read_u8().await {
                    Ok(byte) => head.push(byte),
                    Err(_) => break,
                }
            }
            let answer = format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close, x-hop\r\nX-Hop: 1\r\nX-Site: {address}\r\n\r\n",
                head.len()
            );
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = stream.write_all(&head).await;
        }
    });
    address
}

fn open() -> Arc<EgressPolicy> {
    Arc::new(EgressPolicy {
        allow_private: vec!["127.0.0.0/8".parse::<EgressException>().unwrap()],
        ..EgressPolicy::default()
    })
}

async fn started(policy: Arc<EgressPolicy>, gate: Arc<Gate>) -> LoopbackProxy {
    let proxy = EgressProxy::new(Hosts::every(), policy, Some(gate));
    LoopbackProxy::start(proxy).await.unwrap()
}

/// What a proxy answers to bytes, until it has said enough or closes.
async fn ask(proxy: SocketAddr, request: &str, enough: &str) -> String {
    let mut stream = TcpStream::connect(proxy).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let mut buffer = [0; 4096];
    while !answer.contains(enough) {
        match stream.read(&mut buffer).await {
            Ok(count @ 1..) => answer.push_str(std::str::from_utf8(&buffer[..count]).unwrap()),
            _ => break,
        }
    }
    answer
}

fn get(url: &str) -> String {
    format!(
        "GET {url} HTTP/1.1\r\nHost: elsewhere.test\r\nProxy-Authorization: Basic c2VjcmV0\r\n\
         X-Own: kept\r\nConnection: close, x-own-hop\r\nX-Own-Hop: 1\r\n\r\n"
    )
}

#[tokio::test]
async fn what_is_allowed_is_reached_by_request_and_by_tunnel() {
    let site = mirror().await;
    let gate = Arc::new(Gate::default());
    let proxy = started(open(), gate.clone()).await;
    let answer = ask(
        proxy.address(),
        &get(&format!("http://{site}/a?b=c")),
        "GET",
    )
    .await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains("GET /a?b=c HTTP/1.1"), "{answer}");
    assert!(answer.contains("X-Own: kept"), "{answer}");
    assert!(answer.contains(&format!("{site}")), "{answer}");
    for hop in ["Proxy-Authorization", "X-Own-Hop", "X-Hop", "elsewhere"] {
        assert!(!answer.contains(hop), "{hop}: {answer}");
    }
    let tunnel = format!("CONNECT {site} HTTP/1.1\r\nHost: {site}\r\n\r\nGET /t HTTP/1.1\r\n\r\n");
    let answer = ask(proxy.address(), &tunnel, "GET /t").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains("GET /t HTTP/1.1"), "{answer}");
    let asked = gate.asked.lock().unwrap().clone();
    let own = (site.ip().to_string(), site.port());
    assert_eq!(asked, [own.clone(), own]);
    assert_eq!(proxy.take_refusals(), []);
}

#[tokio::test]
async fn each_request_of_one_connection_is_decided_and_goes_to_its_own_host() {
    let (one, other) = (mirror().await, mirror().await);
    let gate = Arc::new(Gate {
        refuses: Some("localhost"),
        ..Gate::default()
    });
    let proxy = started(open(), gate).await;
    let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
    let mut ask = async |authority: String| {
        let request = format!("GET http://{authority}/ HTTP/1.1\r\nHost: {one}\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        let mut buffer = [0; 4096];
        // The head, and the head in the body or the reason of a refusal.
        while answer.matches("\r\n\r\n").count() < 2 && !answer.contains("not this one") {
            let count = stream.read(&mut buffer).await.unwrap();
            assert_ne!(count, 0, "{answer}");
            answer.push_str(std::str::from_utf8(&buffer[..count]).unwrap());
        }
        answer
    };
    for site in [one, other, one] {
        let answer = ask(site.to_string()).await;
        assert!(answer.contains(&format!("X-Site: {site}\r\n")), "{answer}");
        assert!(answer.contains(&format!(": {site}\r\n\r\n")), "{answer}");
    }
    let answer = ask(format!("localhost:{}", other.port())).await;
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    let answer = ask(other.to_string()).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test]
async fn what_is_not_allowed_is_refused_with_the_reason() {
    let site = mirror().await;
    let port = site.port();
    let gate = Arc::new(Gate::default());
    let proxy = started(Arc::default(), gate).await;
    for request in [
        get(&format!("http://{site}/")),
        get(&format!("http://localhost:{port}/")),
        get(&format!("http://[::ffff:127.0.0.1]:{port}/")),
        get(&format!("http://2130706433:{port}/")),
        format!("CONNECT {site} HTTP/1.1\r\n\r\n"),
        format!("CONNECT localhost:{port} HTTP/1.1\r\n\r\n"),
        "CONNECT 169.254.169.254:80 HTTP/1.1\r\n\r\n".to_owned(),
    ] {
        let answer = ask(proxy.address(), &request, "an operator can allow it").await;
        assert!(answer.starts_with("HTTP/1.1 403"), "{request}: {answer}");
        assert!(answer.contains("is not allowed"), "{request}: {answer}");
    }
    let refused = proxy.take_refusals();
    let hosts: Vec<&str> = refused.iter().map(|one| one.host.as_str()).collect();
    // Each once: the other ways to write an address are the address.
    assert!(hosts.contains(&"169.254.169.254"), "{hosts:?}");
    assert!(
        hosts.iter().filter(|host| **host == "127.0.0.1").count() <= 2,
        "{hosts:?}"
    );
    assert_eq!(proxy.take_refusals(), []);
}

#[tokio::test]
async fn a_gate_refuses_what_the_policy_allows() {
    let site = mirror().await;
    let gate = Arc::new(Gate {
        refuses: Some("127.0.0.1"),
        ..Gate::default()
    });
    let proxy = started(open(), gate).await;
    let answer = ask(
        proxy.address(),
        &get(&format!("http://{site}/")),
        "not this one",
    )
    .await;
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    assert_eq!(proxy.take_refusals()[0].reason, "not this one");
}

#[tokio::test]
async fn a_request_that_is_none_is_answered_and_nothing_is_connected() {
    let gate = Arc::new(Gate::default());
    let proxy = started(open(), gate.clone()).await;
    for request in [
        "GET / HTTP/1.1\r\nHost: example.org\r\n\r\n",
        "GET https://example.org/ HTTP/1.1\r\n\r\n",
        "GET ftp://example.org/ HTTP/1.1\r\n\r\n",
        "CONNECT example.org HTTP/1.1\r\n\r\n",
    ] {
        let answer = ask(proxy.address(), request, "\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{request}: {answer}");
    }
    assert!(gate.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_dropped_proxy_ends_its_tunnels_and_listens_no_more() {
    let site = mirror().await;
    let proxy = started(open(), Arc::new(Gate::default())).await;
    let address = proxy.address();
    let mut stream = TcpStream::connect(address).await.unwrap();
    let connect = format!("CONNECT {site} HTTP/1.1\r\n\r\n");
    stream.write_all(connect.as_bytes()).await.unwrap();
    let mut head = [0; 12];
    stream.read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 200");
    drop(proxy);
    let mut rest = Vec::new();
    // To its end, or to its reset.
    let _ = stream.read_to_end(&mut rest).await;
    while TcpStream::connect(address).await.is_ok() {
        tokio::task::yield_now().await;
    }
}
