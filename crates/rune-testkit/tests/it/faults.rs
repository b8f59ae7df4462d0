use std::time::{Duration, Instant};

use rune_testkit::{CutAt, Fault, Garbage, ModelScript, ModelServer, Protocol, Reply, ToolCall};
use serde_json::{Value, json};

use crate::client::{Client, events, read};

const REPLY: &str = "Zürich is fine";

/// The server, and the first answer (spoiled by `fault`) on each protocol; the second must be good.
async fn each(
    fault: Fault,
    stream: bool,
    check: impl AsyncFn(Protocol, reqwest::Result<reqwest::Response>),
) {
    for protocol in Protocol::ALL {
        let call = ToolCall::new("weather", json!({"city": "a rather long name of a city"}));
        let reply = Reply {
            tool_calls: vec![call],
            ..Reply::text(["Zürich", " is fine"])
        };
        let server = ModelServer::start(ModelScript::new().fault_first(fault.clone()).reply(reply))
            .await
            .unwrap();
        let client = Client::new(&server, protocol, stream).user("hi");
        check(protocol, client.try_send().await).await;
        let said = client.ask().await;
        assert_eq!(
            (said.text.as_str(), said.calls.len(), said.finished),
            (REPLY, 1, true),
            "{protocol:?}"
        );
    }
}

async fn broken(fault: Fault, stream: bool, check: impl Fn(Protocol, &[u8], bool)) {
    each(fault, stream, async |protocol, response| {
        let (bytes, whole) = read(response.unwrap()).await;
        check(protocol, &bytes, whole);
    })
    .await;
}

#[tokio::test]
async fn status_tells_when_to_come_back() {
    each(
        Fault::status(429).retry_after(0.0),
        true,
        async |protocol, response| {
            let response = response.unwrap();
            assert_eq!(response.status(), 429);
            let header = response
                .headers()
                .get("retry-after")
                .map(|value| value.to_str().unwrap().to_owned());
            let body: Value = response.json().await.unwrap();
            match protocol {
                Protocol::Anthropic => assert_eq!(body["error"]["type"], "rate_limit_error"),
                Protocol::Openai | Protocol::Responses => {
                    assert_eq!(body["error"]["code"], "rate_limit_exceeded");
                }
                Protocol::Gemini => assert_eq!(body["error"]["details"][0]["retryDelay"], "0s"),
            }
            assert_eq!(
                header.as_deref(),
                (protocol != Protocol::Gemini).then_some("0")
            );
        },
    )
    .await;
}

#[tokio::test]
async fn overloaded_and_context_overflow_have_the_vendors_words() {
    each(Fault::overloaded(), true, async |protocol, response| {
        let response = response.unwrap();
        assert_eq!(response.status(), 529);
        let body: Value = response.json().await.unwrap();
        assert!(
            protocol != Protocol::Anthropic || body["error"]["type"] == "overloaded_error",
            "{body}"
        );
    })
    .await;
    each(
        Fault::context_overflow(),
        true,
        async |protocol, response| {
            let response = response.unwrap();
            assert_eq!(response.status(), 400);
            let body: Value = response.json().await.unwrap();
            assert!(
                protocol != Protocol::Openai || body["error"]["code"] == "context_length_exceeded",
                "{body}"
            );
        },
    )
    .await;
}

#[tokio::test]
async fn a_body_of_ones_own_keeps_the_headers() {
    each(
        Fault::status(503)
            .retry_after_ms(5)
            .should_retry(false)
            .body("upstream down"),
        true,
        async |protocol, got| {
            let response = got.unwrap();
            let headers = response.headers().clone();
            assert_eq!(response.text().await.unwrap(), "upstream down");
            if protocol != Protocol::Gemini {
                assert_eq!(
                    (&headers["retry-after-ms"], &headers["x-should-retry"]),
                    (&"5".parse().unwrap(), &"false".parse().unwrap())
                );
            }
        },
    )
    .await;
}

#[tokio::test]
async fn close_gives_no_answer() {
    each(Fault::close(), true, async |_, response| {
        assert!(response.is_err());
    })
    .await;
}

#[tokio::test]
async fn slow_first_byte_comes_late() {
    let server = ModelServer::start(
        ModelScript::new().fault_first(Fault::slow_first_byte(Duration::from_millis(80))),
    );
    let server = server.await.unwrap();
    let began = Instant::now();
    let said = Client::new(&server, Protocol::Openai, true)
        .user("hi")
        .ask()
        .await;
    assert!(began.elapsed() >= Duration::from_millis(80));
    assert_eq!(said.text, "Echo: hi");
}

#[tokio::test]
async fn stalls_until_the_client_closes() {
    for protocol in Protocol::ALL {
        for (stream, fault) in [
            (true, Fault::stall_after(1)),
            (true, Fault::stall_with_pings(1, Duration::from_millis(1))),
            (false, Fault::stall_after(1)),
        ] {
            let script = ModelScript::new()
                .fault_first(fault)
                .reply(Reply::text(["one ", "two"]));
            let server = ModelServer::start(script).await.unwrap();
            let client = Client::new(&server, protocol, stream).user("hi");
            let mut response = client.send().await;
            let mut seen = String::new();
            while !stream || !seen.contains("one") {
                seen.push_str(
                    std::str::from_utf8(&response.chunk().await.unwrap().unwrap()).unwrap(),
                );
                if !stream {
                    break;
                }
            }
            assert!(!stream || !seen.contains("two"));
            assert_eq!(server.open_streams(), 1);
            drop(response);
            server.wait_for_open_streams(0).await.unwrap();
            let request = &server.requests()[0];
            assert!(
                request.client_closed_ms.is_some() && request.answered_ms.is_none(),
                "{request:?}"
            );
        }
    }
}

#[tokio::test]
async fn cuts_after_the_text() {
    broken(
        Fault::cut(CutAt::AfterText),
        true,
        |protocol, bytes, whole| {
            let text = std::str::from_utf8(bytes).unwrap();
            assert!(
                !whole && text.contains(" is fine") && !text.contains("weather"),
                "{protocol:?} {text}"
            );
        },
    )
    .await;
}

#[tokio::test]
async fn cuts_in_the_json_of_a_call() {
    broken(
        Fault::cut(CutAt::InToolCall),
        true,
        |protocol, bytes, whole| {
            let text = std::str::from_utf8(bytes).unwrap();
            assert!(
                !whole && !text.ends_with('\n') && text.contains("weather"),
                "{protocol:?} {text}"
            );
        },
    )
    .await;
}

#[tokio::test]
async fn cuts_inside_a_character() {
    for stream in [true, false] {
        broken(
            Fault::cut(CutAt::InUtf8),
            stream,
            |protocol, bytes, whole| {
                let error = std::str::from_utf8(bytes).unwrap_err();
                assert!(
                    !whole && error.error_len().is_none(),
                    "{protocol:?} {error}"
                );
            },
        )
        .await;
    }
}

#[tokio::test]
async fn cuts_a_whole_body_in_half() {
    for at in [CutAt::AfterText, CutAt::InToolCall] {
        broken(Fault::cut(at), false, |protocol, bytes, whole| {
            assert!(
                !whole && !bytes.is_empty() && serde_json::from_slice::<Value>(bytes).is_err(),
                "{protocol:?}"
            );
        })
        .await;
    }
}

#[tokio::test]
async fn garbage_is_not_json() {
    broken(
        Fault::garbage(Garbage::DataLine),
        true,
        |protocol, bytes, whole| {
            let text = std::str::from_utf8(bytes).unwrap();
            assert!(
                whole && text.contains("data: {this is not JSON") && text.contains(" is fine"),
                "{protocol:?} {text}"
            );
        },
    )
    .await;
    for stream in [true, false] {
        broken(Fault::garbage(Garbage::Html), stream, |_, bytes, whole| {
            assert!(whole && bytes.starts_with(b"<!DOCTYPE html>"));
        })
        .await;
    }
}

#[tokio::test]
async fn an_error_event_follows_the_text() {
    broken(Fault::error_event(), true, |protocol, bytes, whole| {
        let text = std::str::from_utf8(bytes).unwrap();
        let last = events(text).pop().unwrap();
        assert!(
            whole
                && text.contains(" is fine")
                && (last["error"].is_object() || last["type"] == "error"),
            "{protocol:?} {text}"
        );
        assert!(
            !text.contains("weather") && !text.contains("[DONE]"),
            "{protocol:?} {text}"
        );
    })
    .await;
}

#[tokio::test]
async fn ends_without_its_end() {
    for stream in [true, false] {
        for protocol in Protocol::ALL {
            let script = ModelScript::new()
                .fault_first(Fault::no_terminal())
                .reply(Reply::text(REPLY));
            let server = ModelServer::start(script).await.unwrap();
            let said = Client::new(&server, protocol, stream)
                .user("hi")
                .ask()
                .await;
            assert_eq!(
                (said.text.as_str(), said.finished),
                (REPLY, false),
                "{protocol:?} {stream}"
            );
        }
    }
}

#[tokio::test]
async fn an_empty_answer_is_finished() {
    for protocol in Protocol::ALL {
        let script = ModelScript::new()
            .fault_first(Fault::empty().times(2))
            .reply(Reply::text(REPLY));
        let server = ModelServer::start(script).await.unwrap();
        for expected in ["", "", REPLY] {
            let said = Client::new(&server, protocol, true).user("hi").ask().await;
            assert_eq!(
                (said.text.as_str(), said.finished),
                (expected, true),
                "{protocol:?}"
            );
        }
    }
}

#[tokio::test]
async fn malformed_arguments_come_as_written() {
    let script = ModelScript::new().reply(Reply::calls([ToolCall::malformed(
        "weather",
        "{\"city\": ",
    )]));
    let server = ModelServer::start(script).await.unwrap();
    let text = |protocol| {
        let client = Client::new(&server, protocol, true).user("hi");
        async move { client.send().await.text().await.unwrap() }
    };
    let joined: String = events(&text(Protocol::Openai).await)
        .iter()
        .filter_map(|chunk| {
            chunk["choices"][0]["delta"]["tool_calls"][0]["function"]["arguments"]
                .as_str()
                .map(str::to_owned)
        })
        .collect();
    assert_eq!(joined, "{\"city\": ");
    assert!(
        text(Protocol::Gemini)
            .await
            .contains("MALFORMED_FUNCTION_CALL")
    );
}
