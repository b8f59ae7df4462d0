//! Every error has the documented body, and no input makes one of ours.

use proptest::prelude::*;
use rune_http::{Auth, MAX_BODY_BYTES, MAX_URI_BYTES};

use crate::toy::{Answer, send, start};

fn check(answer: &Answer, status: u16, code: &str, message: &str) {
    assert_eq!(answer.status, status, "{}", answer.text);
    let (found, text, request_id) = answer.error();
    assert_eq!(found, code, "{text}");
    assert!(text.contains(message), "{text}");
    assert_eq!(request_id, answer.http_id);
}

#[tokio::test]
async fn bad_bodies_are_explained() {
    let toy = start(Auth::Anonymous).await;
    let client = reqwest::Client::new();
    let post = |body: &str| {
        let request = client
            .post(toy.url("/notes"))
            .header("content-type", "application/json");
        send(request.body(body.to_owned()))
    };
    check(
        &post(r#"{"text": "a", "cuont": 1}"#).await,
        400,
        "invalid_input",
        "`cuont`",
    );
    check(
        &post("{\"text\": \"a\",\n \"count\": x}").await,
        400,
        "invalid_input",
        "line 2 column",
    );
    check(
        &post("{}").await,
        400,
        "invalid_input",
        "missing field `text`",
    );
    check(&post("").await, 400, "invalid_input", "EOF");
    check(
        &post(&"[".repeat(10_000)).await,
        400,
        "invalid_input",
        "invalid type",
    );
    let plain = client.post(toy.url("/notes")).body(r#"{"text": "a"}"#);
    check(
        &send(plain).await,
        400,
        "invalid_input",
        "content-type: application/json",
    );

    let good = post(r#"{"text": "a"}"#).await;
    assert_eq!(
        (good.status, good.text.as_str()),
        (200, r#"{"text":"a","count":0}"#)
    );
}

#[tokio::test]
async fn limits_are_enforced_before_the_body_is_read() {
    let toy = start(Auth::Anonymous).await;
    let head = format!(
        "POST /notes HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n",
        MAX_BODY_BYTES + 1
    );
    let answer = toy.raw(head.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    assert!(answer.contains("\"too_large\""), "{answer}");

    let chunked = "POST /notes HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
                   transfer-encoding: chunked\r\nconnection: close\r\n\r\n";
    let mut bytes = chunked.as_bytes().to_vec();
    for _ in 0..=(MAX_BODY_BYTES / 0x10000) {
        bytes.extend_from_slice(b"10000\r\n");
        bytes.extend(std::iter::repeat_n(b' ', 0x10000));
        bytes.extend_from_slice(b"\r\n");
    }
    let answer = toy.raw(&bytes).await;
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 413"),
        "{answer}"
    );

    let client = reqwest::Client::new();
    let long = toy.url(&format!("/limit?x={}", "a".repeat(MAX_URI_BYTES)));
    check(
        &send(client.get(long)).await,
        413,
        "too_large",
        "path and query",
    );
    let headers = client
        .get(toy.url("/health"))
        .header("x-long", "a".repeat(40_000));
    check(&send(headers).await, 413, "too_large", "headers");
}

#[tokio::test]
async fn paths_queries_and_methods_are_checked() {
    let toy = start(Auth::Anonymous).await;
    let client = reqwest::Client::new();
    let get = |path: &str| send(client.get(toy.url(path)));
    check(&get("/nowhere").await, 404, "not_found", "no such path");
    check(&get("/limit?limti=3").await, 400, "invalid_input", "limti");
    check(
        &get("/limit?limit=x").await,
        400,
        "invalid_input",
        "invalid digit",
    );
    let wrong_id = get("/requests/req_1").await;
    check(&wrong_id, 400, "invalid_input", "is not a request id");
    assert!(wrong_id.error().1.starts_with("`req_1`"));
    check(&get("/requests/%ff").await, 400, "invalid_input", "UTF-8");
    let wrong = send(client.put(toy.url("/notes"))).await;
    assert_eq!(wrong.allow.as_deref(), Some("POST"));
    check(&wrong, 405, "invalid_input", "method");
}

#[tokio::test]
async fn what_went_wrong_inside_stays_inside() {
    let toy = start(Auth::Anonymous).await;
    let client = reqwest::Client::new();
    for path in ["/panic", "/corrupt"] {
        let answer = send(client.get(toy.url(path))).await;
        assert!(!answer.text.contains("secret"), "{}", answer.text);
        check(&answer, 500, "internal", "");
    }
    assert_eq!(send(client.get(toy.url("/who"))).await.text, "anonymous");
}

#[tokio::test]
async fn codes_carry_their_headers_and_ids() {
    let toy = start(Auth::Anonymous).await;
    let client = reqwest::Client::new();
    let full = send(client.get(toy.url("/full"))).await;
    assert_eq!(full.retry_after.as_deref(), Some("1"));
    check(&full, 429, "limit_exceeded", "too many");
    let cancelled = send(client.get(toy.url("/cancelled"))).await;
    assert_eq!(cancelled.status, 499);
    let (code, _, request_id) = cancelled.error();
    assert_eq!(code, "cancelled");
    assert_eq!(request_id, format!("req_{}", "07".repeat(16)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_bytes_give_a_server_error(
        path in "/(notes|limit|requests/)[ -~]{0,40}",
        body in proptest::collection::vec(any::<u8>(), 0..200),
        method in "(GET|POST|PUT|X)",
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let toy = start(Auth::Anonymous).await;
            let mut bytes = format!(
                "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
                 content-type: application/json\r\ncontent-length: {}\r\n\r\n",
                body.len()
            )
            .into_bytes();
            bytes.extend(&body);
            let answer = toy.raw(&bytes).await;
            prop_assert!(!answer.starts_with("HTTP/1.1 5"), "{answer}");
            Ok(())
        })?;
    }
}
