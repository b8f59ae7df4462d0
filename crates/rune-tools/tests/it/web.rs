use std::io::Write;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rune_tools::{BuiltinsConfig, EgressPolicy, ToolErrorKind};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::Sandbox;

/// An HTTP server on loopback that answers by path.
struct Server {
    address: SocketAddr,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    #[expect(clippy::disallowed_methods, reason = "the task ends with the test")]
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let _ = answer(stream).await;
                });
            }
        });
        Self { address, task }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

async fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        request.push(stream.read_u8().await?);
    }
    let request = String::from_utf8(request).unwrap();
    let path = request.split(' ').nth(1).unwrap();
    let ok = |kind: &str, body: &[u8]| {
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            body.len()
        );
        [head.as_bytes(), body].concat()
    };
    let endless = |kind: &str, more: &str| {
        format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\n{more}Connection: close\r\n\r\n")
    };
    match path.split_once('?').unwrap_or((path, "")) {
        ("/page", _) => {
            let html = "<html><head><title>T</title><style>x{}</style></head><body><h1>Title</h1>\
                        <script>evil()</script><p>Some <b>bold</b> \
                        <a href=\"https://example.com/\">link</a></p></body></html>";
            stream.write_all(&ok("text/html; charset=utf-8", html.as_bytes())).await
        }
        ("/latin", _) => {
            stream.write_all(&ok("text/plain; charset=ISO-8859-1", b"caf\xe9")).await
        }
        ("/json", _) => stream.write_all(&ok("application/json", b"{\"a\": 1}")).await,
        ("/image", _) => stream.write_all(&ok("image/png", b"\x89PNG")).await,
        ("/missing", _) => {
            stream
                .write_all(b"HTTP/1.1 404 Not Found\r\nContent-Type: text/plain\r\nContent-Length: 4\r\nConnection: close\r\n\r\ngone")
                .await
        }
        ("/to", target) => {
            let head = format!(
                "HTTP/1.1 302 Found\r\nLocation: {target}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            );
            stream.write_all(head.as_bytes()).await
        }
        ("/loop", _) => {
            stream
                .write_all(b"HTTP/1.1 301 Moved\r\nLocation: /loop\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                .await
        }
        ("/huge", _) => {
            stream.write_all(endless("text/plain", "").as_bytes()).await?;
            loop {
                stream.write_all(&[b'x'; 65536]).await?;
                tokio::task::yield_now().await;
            }
        }
        ("/bomb", _) => {
            stream
                .write_all(endless("text/plain", "Content-Encoding: gzip\r\n").as_bytes())
                .await?;
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
            let zeros = vec![b'0'; 1 << 16];
            loop {
                encoder.write_all(&zeros)?;
                encoder.flush()?;
                stream
                    .write_all(&std::mem::take(encoder.get_mut()))
                    .await?;
                tokio::task::yield_now().await;
            }
        }
        ("/slow", _) => {
            stream.write_all(endless("text/plain", "").as_bytes()).await?;
            let mut ticks = tokio::time::interval(Duration::from_millis(50));
            loop {
                ticks.tick().await;
                stream.write_all(b".").await?;
            }
        }
        ("/deep", _) => {
            stream.write_all(&ok("text/html", "<div>".repeat(100_000).as_bytes())).await
        }
        ("/headers", _) => stream.write_all(&ok("text/plain", request.as_bytes())).await,
        _ => stream.write_all(&ok("text/plain", path.as_bytes())).await,
    }
}

/// Tools that may reach 127.0.0.1 and nothing else that is private.
fn sandbox() -> Sandbox {
    Sandbox::with(BuiltinsConfig {
        egress: EgressPolicy {
            allow_private: vec!["127.0.0.1".parse().unwrap()],
            ports: Vec::new(),
        },
        ..BuiltinsConfig::default()
    })
}

#[tokio::test]
async fn html_becomes_markdown_or_text() {
    let (server, sandbox) = (Server::start().await, sandbox());
    let fetch = async |format: &str| {
        let input = json!({"url": server.url("/page#part"), "format": format});
        sandbox.call("web-fetch", input).await.unwrap()
    };
    let markdown = fetch("markdown").await;
    assert_eq!(
        markdown,
        json!({"url": server.url("/page"), "status": 200, "content_type": "text/html; charset=utf-8",
               "content": "# Title\n\nSome **bold** [link](https://example.com/)", "truncated": false})
    );
    let text = fetch("text").await;
    assert_eq!(text["content"], "# Title\n\nSome **bold** link");
    let raw = fetch("raw").await;
    assert!(raw["content"].as_str().unwrap().contains("<script>"));
}

#[tokio::test]
async fn other_text_comes_as_it_is_and_other_types_not_at_all() {
    let (server, sandbox) = (Server::start().await, sandbox());
    let content = async |path: &str| {
        let answer = sandbox
            .call("web-fetch", json!({"url": server.url(path)}))
            .await;
        answer.map(|answer| (answer["status"].clone(), answer["content"].clone()))
    };
    assert_eq!(
        content("/json").await.unwrap(),
        (json!(200), json!("{\"a\": 1}"))
    );
    assert_eq!(content("/latin").await.unwrap().1, "café");
    assert_eq!(
        content("/missing").await.unwrap(),
        (json!(404), json!("gone"))
    );
    let error = content("/image").await.unwrap_err();
    assert!(error.message.contains("image/png"), "{error}");
    let headers = content("/headers")
        .await
        .unwrap()
        .1
        .as_str()
        .unwrap()
        .to_lowercase();
    assert!(headers.contains("user-agent: rune/"), "{headers}");
    assert!(
        !headers.contains("cookie") && !headers.contains("referer"),
        "{headers}"
    );
}

#[tokio::test]
async fn redirects_are_followed_and_each_is_checked() {
    let (server, sandbox) = (Server::start().await, sandbox());
    let answer = sandbox
        .call("web-fetch", json!({"url": server.url("/to?/to?/end")}))
        .await
        .unwrap();
    assert_eq!(
        (&answer["content"], &answer["url"]),
        (&json!("/end"), &json!(server.url("/end")))
    );
    for target in [
        "http://169.254.169.254/latest/meta-data",
        "http://[::ffff:169.254.169.254]/",
        "//10.0.0.1/",
        "http://2852039166/",
        "http://127.0.0.2/",
        "http://user:pass@127.0.0.1/",
    ] {
        let url = server.url(&format!("/to?{target}"));
        let start = Instant::now();
        sandbox
            .refused("web-fetch", json!({"url": url}), ToolErrorKind::Denied)
            .await;
        assert!(
            start.elapsed() < Duration::from_secs(2),
            "{target} was tried"
        );
    }
    for target in ["file:///etc/passwd", "ftp://127.0.0.1/"] {
        let url = server.url(&format!("/to?{target}"));
        sandbox
            .refused(
                "web-fetch",
                json!({"url": url}),
                ToolErrorKind::InvalidInput,
            )
            .await;
    }
    let url = server.url("/loop");
    let message = sandbox
        .refused("web-fetch", json!({"url": url}), ToolErrorKind::Failed)
        .await;
    assert!(message.contains("more than 5 redirects"), "{message}");
}

#[tokio::test]
async fn a_name_that_resolves_to_loopback_is_refused_unless_it_is_opened() {
    let server = Server::start().await;
    let closed = Sandbox::new();
    let url = format!("http://localhost:{}/x", server.address.port());
    for url in [url.clone(), url.replace("localhost", "LOCALHOST")] {
        let message = closed
            .refused("web-fetch", json!({"url": url}), ToolErrorKind::Denied)
            .await;
        assert!(message.contains("loopback"), "{message}");
    }
    closed
        .refused(
            "web-fetch",
            json!({"url": server.url("/x")}),
            ToolErrorKind::Denied,
        )
        .await;
    let open = Sandbox::with(BuiltinsConfig {
        egress: EgressPolicy {
            allow_private: vec!["localhost".parse().unwrap()],
            ports: Vec::new(),
        },
        ..BuiltinsConfig::default()
    });
    let answer = open.call("web-fetch", json!({"url": url})).await.unwrap();
    assert_eq!(answer["content"], "/x");
}

#[tokio::test]
async fn a_huge_body_and_a_bomb_are_cut() {
    let (server, sandbox) = (Server::start().await, sandbox());
    for path in ["/huge", "/bomb"] {
        for format in ["raw", "markdown"] {
            let input = json!({"url": server.url(path), "format": format, "max_bytes": 1000});
            let answer = sandbox.call("web-fetch", input).await.unwrap();
            assert_eq!(answer["content"].as_str().unwrap().len(), 1000, "{path}");
            assert_eq!(answer["truncated"], true);
        }
    }
    let url = server.url("/deep");
    let message = sandbox
        .refused("web-fetch", json!({"url": url}), ToolErrorKind::Failed)
        .await;
    assert!(message.contains("nested deeper"), "{message}");
}

#[tokio::test]
async fn a_slow_body_ends_with_the_time_limit_or_with_cancel() {
    let server = Server::start().await;
    let mut sandbox = sandbox();
    sandbox.context.timeout = Duration::from_millis(300);
    let input = json!({"url": server.url("/slow")});
    let start = Instant::now();
    sandbox
        .refused("web-fetch", input.clone(), ToolErrorKind::Timeout)
        .await;
    assert!(start.elapsed() < Duration::from_secs(1));
    sandbox.context.timeout = Duration::from_secs(60);
    let cancel = sandbox.context.cancel.clone();
    let start = Instant::now();
    let (error, ()) = tokio::join!(
        sandbox.refused("web-fetch", input, ToolErrorKind::Cancelled),
        async { cancel.cancel() }
    );
    assert!(start.elapsed() < Duration::from_secs(1), "{error}");
}

#[tokio::test]
async fn says_what_is_wrong_with_a_url_or_a_server() {
    let sandbox = sandbox();
    sandbox
        .refused(
            "web-fetch",
            json!({"url": "not a url"}),
            ToolErrorKind::InvalidInput,
        )
        .await;
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", closed.local_addr().unwrap());
    drop(closed);
    let message = sandbox
        .refused("web-fetch", json!({"url": url}), ToolErrorKind::Unavailable)
        .await;
    assert!(message.to_lowercase().contains("refused"), "{message}");
}
