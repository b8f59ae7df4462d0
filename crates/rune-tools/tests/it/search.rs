use std::sync::{Arc, Mutex};

use rune_tools::{
    BuiltinsConfig, SearchBackend, SearchConfig, ToolError, ToolErrorKind, parse_duckduckgo,
};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::support::Sandbox;

/// As the HTML page answers, shortened.
const PAGE: &str = r#"<!DOCTYPE html><html><body><div class="serp__results"><div id="links" class="results">
<div class="result results_links results_links_deep result--ad"><h2 class="result__title">
  <a rel="nofollow" class="result__a" href="//duckduckgo.com/y.js?ad_domain=shop.example">Buy Rust</a></h2></div>
<div class="result results_links results_links_deep web-result"><div class="links_main links_deep result__body">
  <h2 class="result__title"><a rel="nofollow" class="result__a"
    href="//duckduckgo.com/l/?uddg=https%3A%2F%2Fwww.rust%2Dlang.org%2F&amp;rut=0a">Rust <b>Programming</b> Language</a></h2>
  <a class="result__url" href="//duckduckgo.com/l/?uddg=https%3A%2F%2Fwww.rust%2Dlang.org%2F">www.rust-lang.org</a>
  <a class="result__snippet" href="x">A language &amp; its <b>tools</b>.</a></div></div>
<div class="result results_links web-result"><h2 class="result__title"><a class="result__a"
    href="//duckduckgo.com/l/?uddg=https%3A%2F%2Fdoc.example%2Fbook">The Book</a></h2></div>
</div></div></body></html>"#;

/// A server that answers everything in one way, and what it was asked.
async fn server(status: u16, kind: &str, body: &str) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let answer = format!(
        "HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let asked = Arc::clone(&seen);
    #[expect(clippy::disallowed_methods, reason = "the task ends with the test")]
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = Vec::new();
            let mut buffer = [0; 4096];
            loop {
                let count = stream.read(&mut buffer).await.unwrap_or(0);
                request.extend_from_slice(&buffer[..count]);
                let text = String::from_utf8_lossy(&request);
                let length = text
                    .to_lowercase()
                    .split("content-length: ")
                    .nth(1)
                    .map_or(0, |rest| {
                        rest.split("\r\n").next().unwrap().parse::<usize>().unwrap()
                    });
                let end = text.find("\r\n\r\n").map(|at| at + 4 + length);
                if count == 0 || end.is_some_and(|end| request.len() >= end) {
                    break;
                }
            }
            let text = String::from_utf8_lossy(&request).into_owned();
            asked.lock().unwrap().push(text);
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    (url, seen)
}

async fn search(config: SearchConfig) -> Result<Value, ToolError> {
    let sandbox = Sandbox::with(BuiltinsConfig {
        search: config,
        ..BuiltinsConfig::default()
    });
    let input = json!({"query": "rust & tools", "limit": 2});
    sandbox.call("web-search", input).await
}

fn config(backend: SearchBackend, url: String, key: Option<&str>) -> SearchConfig {
    SearchConfig {
        backend,
        url: Some(url),
        key: key.map(|key| key.to_owned().into()),
    }
}

#[tokio::test]
async fn duckduckgo_is_read_from_its_page() {
    let (url, seen) = server(200, "text/html", PAGE).await;
    let found = search(config(SearchBackend::DuckDuckGo, url, None))
        .await
        .unwrap();
    assert_eq!(
        found["results"],
        json!([
            {"title": "Rust Programming Language", "url": "https://www.rust-lang.org/", "snippet": "A language & its tools."},
            {"title": "The Book", "url": "https://doc.example/book", "snippet": ""},
        ])
    );
    let asked = seen.lock().unwrap()[0].clone();
    assert!(
        asked.starts_with("GET /html/?q=rust+%26+tools HTTP/1.1"),
        "{asked}"
    );
    assert!(parse_duckduckgo("<div class=result><a class=result__a>x").is_empty());
}

#[tokio::test]
async fn the_other_backends_are_asked_as_they_want_it() {
    let results = |snippet: &str| json!([{"title": "T", "url": "https://a.example/", snippet: "S <strong>x</strong>"}]);
    let cases = [
        (
            SearchBackend::SearXng,
            None,
            json!({"query": "q", "results": results("content")}),
            vec!["get /search?q=rust+%26+tools&format=json"],
        ),
        (
            SearchBackend::Brave,
            Some("secret"),
            json!({"type": "search", "web": {"results": results("description")}}),
            vec![
                "get /res/v1/web/search?q=rust+%26+tools&count=2",
                "x-subscription-token: secret",
            ],
        ),
        (
            SearchBackend::Tavily,
            Some("secret"),
            json!({"query": "q", "results": results("content")}),
            vec![
                "post /search",
                "authorization: bearer secret",
                "\"max_results\":2",
            ],
        ),
    ];
    for (backend, key, body, expected) in cases {
        let (url, seen) = server(200, "application/json", &body.to_string()).await;
        let found = search(config(backend, url, key)).await.unwrap();
        assert_eq!(
            found["results"],
            json!([{"title": "T", "url": "https://a.example/", "snippet": "S x"}]),
            "{backend:?}"
        );
        let asked = seen.lock().unwrap()[0].to_lowercase();
        for part in expected {
            assert!(asked.contains(part), "{part}: {asked}");
        }
    }
}

#[tokio::test]
async fn what_is_in_the_way_is_said_and_no_key_is() {
    use SearchBackend::{Brave, DuckDuckGo, SearXng, Tavily};
    for (backend, key, status, body, said) in [
        (SearXng, None, 403, "", "search.formats"),
        (Brave, Some("secret"), 401, "", "does not take the key"),
        (Tavily, Some("secret"), 429, "", "try again later"),
        (DuckDuckGo, None, 202, "", "asks whether a person searches"),
        (Brave, None, 200, "{}", "needs a key"),
    ] {
        let (url, _) = server(status, "text/plain", body).await;
        let error = search(config(backend, url, key)).await.unwrap_err();
        assert_eq!(error.kind, ToolErrorKind::Unavailable, "{error}");
        assert!(error.message.contains(said), "{error}");
        assert!(!error.message.contains("secret"), "{error}");
    }
    let nowhere = config(Tavily, "http://127.0.0.1:9".to_owned(), Some("secret"));
    let error = search(nowhere).await.unwrap_err();
    assert!(error.message.contains("cannot fetch"), "{error}");
    let unset = SearchConfig {
        backend: SearXng,
        ..SearchConfig::default()
    };
    let error = search(unset).await.unwrap_err();
    assert!(error.message.contains("tools.web_search_url"), "{error}");
}
