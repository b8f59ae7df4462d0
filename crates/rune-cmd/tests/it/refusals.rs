//! Bad input on every route, and who may use them: clear errors, no 5xx, no panic, nothing leaked.

use reqwest::{Client, Method};
use rune_testkit::TestDaemon;
use rune_testkit::openapi::{ApiDocument, Operation};
use serde_json::{Value, json};

use crate::home::{RUNE, Ran, Served, write_plain};
use crate::wire::assert_no_panic;

const KEY: &str = "key-that-must-not-be-seen";
const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// Bodies that fit no route.
const BODIES: [&str; 8] = [
    "",
    "{",
    "null",
    "[]",
    "\"text\"",
    "{\"input\": 1, \"nonsense\": true}",
    "{\"input\": \"a\", \"session_id\": \"../../etc/passwd\"}",
    "\u{0}\u{1}",
];

/// Values for the parameters of a path.
const PARAMETERS: [&str; 6] = [
    "nobody",
    "%00",
    "..%2f..%2fetc%2fpasswd",
    "%F0%9F%92%A9",
    "req_0",
    "'%20OR%201=1--",
];

const QUERIES: [&str; 5] = [
    "?limit=0",
    "?limit=-1",
    "?cursor=nonsense",
    "?unknown=1",
    "?after=x",
];

fn fill(path: &str, value: &str) -> String {
    let parts = path.split('/');
    let filled = parts.map(|part| if part.starts_with('{') { value } else { part });
    filled.collect::<Vec<_>>().join("/")
}

/// Sends it and says what is wrong with the answer.
async fn send(
    client: &Client,
    method: &Method,
    url: String,
    body: Option<&str>,
    (document, path): (&ApiDocument, &str),
    home: &str,
) -> Option<String> {
    let mut request = client.request(method.clone(), &url);
    if let Some(body) = body {
        request = request
            .header("content-type", "application/json")
            .body(body.to_owned());
    }
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    let content_type = response.headers().get("content-type");
    let content_type = content_type.map(|it| it.to_str().unwrap());
    let undocumented = document.objection(method.as_str(), path, status, content_type);
    if undocumented.is_some() || status < 400 {
        return undocumented;
    }
    let text = response.text().await.unwrap();
    let error: Value = serde_json::from_str(&text).unwrap_or_default();
    // MCP answers in JSON-RPC, and in text where no message of it was read.
    let is_mcp = url
        .split('?')
        .next()
        .is_some_and(|url| url.ends_with("/mcp"));
    // So does A2A over JSON-RPC, and over HTTP its codes are statuses.
    let is_numbered = is_mcp || url.contains("/a2a/");
    let has_code =
        error["error"]["code"].is_string() || is_numbered && error["error"]["code"].is_i64();
    let has_message = error["error"]["message"]
        .as_str()
        .is_some_and(|message| !message.is_empty());
    let clear = has_code && has_message || is_mcp && error.is_null() && !text.trim().is_empty();
    let leaks = ["panicked", "sqlite", "SELECT ", ".rs:", home]
        .iter()
        .any(|word| text.contains(word));
    (status >= 500 || !clear || leaks).then(|| format!("{method} {url} {body:?}: {status} {text}"))
}

#[tokio::test]
async fn bad_input_on_every_route_is_a_clear_error() {
    let served = Served::with_plain().await;
    let apis = [served.0.gateway(), served.0.control_plane()];
    refuses_bad_input(&served, &apis).await;
    assert_no_panic(&served);
    served.rune(&["run", "--agent", "plain", "Hello"]).ok();
}

/// Every route of these APIs answers bad input with a clear error. The agent `plain` is deployed.
pub(crate) async fn refuses_bad_input(served: &Served, apis: &[&str]) {
    let client = Client::new();
    let home = served.0.home().to_str().unwrap().to_owned();
    let mut wrong = Vec::new();
    let mut sent = 0;
    for base in apis {
        let document = ApiDocument::fetch(&client, base).await.unwrap();
        let operations = document.operations();
        assert!(operations.len() > 8, "{operations:?}");
        for Operation { method, path, .. } in operations {
            let method: Method = method.parse().unwrap();
            let of = (&document, path.as_str());
            for value in PARAMETERS {
                let url = format!("{base}{}", fill(&path, value));
                wrong.extend(send(&client, &method, url, None, of, &home).await);
                sent += 1;
            }
            for query in QUERIES {
                let url = format!("{base}{}{query}", fill(&path, "plain"));
                wrong.extend(send(&client, &method, url, None, of, &home).await);
                sent += 1;
            }
            if method != Method::GET {
                for body in BODIES {
                    let url = format!("{base}{}", fill(&path, "plain"));
                    wrong.extend(send(&client, &method, url, Some(body), of, &home).await);
                    sent += 1;
                }
            }
        }
        for (method, path, expected) in [
            (Method::GET, "/nowhere", 404),
            (Method::DELETE, "/health", 405),
        ] {
            let request = client.request(method, format!("{base}{path}"));
            let answer = request.send().await.unwrap();
            assert_eq!(answer.status(), expected, "{path}");
            let body: Value = answer.json().await.unwrap();
            assert!(body["error"]["code"].is_string(), "{path}: {body}");
        }
        let large = format!("{{\"input\": \"{}\"}}", "x".repeat(64 << 20));
        let url = format!("{base}/v1/agents/plain/invoke");
        let refused = client
            .post(url)
            .header("content-type", "application/json")
            .body(large)
            .send()
            .await;
        // It may be refused before all of it is sent.
        assert!(refused.is_err() || refused.is_ok_and(|answer| answer.status().is_client_error()));
    }
    assert!(wrong.is_empty(), "{} of {sent}: {wrong:#?}", wrong.len());
}

/// A daemon with these variables, and the agent `plain`.
async fn guarded(env: &[(&str, &str)]) -> Served {
    let builder = TestDaemon::builder(RUNE);
    let builder = env
        .iter()
        .fold(builder, |builder, (name, value)| builder.env(name, value));
    let served = Served(builder.start().await.unwrap());
    write_plain(&served.0.home().join("plain"));
    served.rune(&["run", "plain"]).ok();
    served
}

#[tokio::test]
async fn credentials_guard_both_apis_and_the_command_line_has_them() {
    let cases: [&[(&str, &str)]; 3] = [
        &[("RUNE_API_KEY", KEY)],
        &[("RUNE_JWT_SECRET", SECRET)],
        &[("RUNE_API_KEY", KEY), ("RUNE_JWT_SECRET", SECRET)],
    ];
    for env in cases {
        let served = guarded(env).await;
        let client = Client::new();
        let has_key = env.iter().any(|(name, _)| *name == "RUNE_API_KEY");
        for url in [
            format!("{}/v1/agents", served.0.gateway()),
            format!("{}/v1/deployments", served.0.control_plane()),
        ] {
            let with = |header: Option<(&str, String)>| {
                let request = client.get(&url);
                let request = match header {
                    Some((name, value)) => request.header(name, value),
                    None => request,
                };
                async { request.send().await.unwrap().status().as_u16() }
            };
            assert_eq!(with(None).await, 401, "{env:?} {url}");
            assert_eq!(
                with(Some(("authorization", "Bearer wrong".to_owned()))).await,
                401
            );
            assert_eq!(
                with(Some(("authorization", "Basic eDp5".to_owned()))).await,
                401
            );
            assert_eq!(with(Some(("x-api-key", format!("{KEY}x")))).await, 401);
            let expected = if has_key { 200 } else { 401 };
            assert_eq!(
                with(Some(("authorization", format!("Bearer {KEY}")))).await,
                expected
            );
            assert_eq!(with(Some(("x-api-key", KEY.to_owned()))).await, expected);
        }
        let health = client.get(format!("{}/health", served.0.gateway())).send();
        assert_eq!(health.await.unwrap().status(), 200);
        // The commands take it from the same variables, and are refused without.
        served.rune(&["run", "--agent", "plain", "Hello"]).ok();
        let mut bare = served.command(&["agent", "ls"]);
        bare.env_remove("RUNE_API_KEY")
            .env_remove("RUNE_JWT_SECRET");
        let ran = Ran::new(bare).ends(3);
        assert!(ran.stderr.contains("RUNE_API_KEY"), "{}", ran.stderr);
        let config = served.rune(&["config", "show"]).ok();
        for text in [served.0.log(), config, ran.stderr] {
            assert!(!text.contains(KEY) && !text.contains(SECRET), "{text}");
        }
    }
}

#[tokio::test]
async fn new_work_for_a_deployment_that_failed_is_refused_at_once_with_its_reason() {
    let served = Served::with_plain().await;
    let path = served.0.home().join("plain/Runefile");
    let text = std::fs::read_to_string(&path).unwrap();
    let text = text
        .replace("name: plain", "name: broken")
        .replace("Answer.", "\"Answer ${WHO}.\"");
    std::fs::write(&path, text).unwrap();
    served.rune(&["run", "plain"]).ends(1);
    let started = std::time::Instant::now();
    let url = format!("{}/v1/agents/broken/invoke", served.0.gateway());
    let answer = Client::new()
        .post(url)
        .json(&json!({"input": "hi"}))
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 503);
    let body: Value = answer.json().await.unwrap();
    assert!(
        body["error"]["message"].as_str().unwrap().contains("WHO"),
        "{body}"
    );
    assert!(started.elapsed() < std::time::Duration::from_secs(5));
}
