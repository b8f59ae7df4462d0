//! Every way in which a provider fails ends in a retry or a clear error, on every
//! protocol, and never in a hang.

use std::time::Duration;

use futures_util::StreamExt;
use rune_runtime::model::{
    ClientConfig, ModelError, ModelErrorKind, ModelEvent, Protocol, RetryPolicy,
};
use rune_testkit::{CutAt, Fault, Garbage, ModelScript, ModelServer, Reply, ToolCall};
use serde_json::json;

use super::{Shown, ask, client, client_of, config};

/// The outcome of one call.
struct Outcome {
    error: Option<ModelError>,
    text: String,
    requests: usize,
}

impl Outcome {
    fn kind(&self) -> Option<ModelErrorKind> {
        self.error.as_ref().map(|error| error.kind)
    }
}

fn reply() -> Reply {
    let call = ToolCall::new("weather", json!({"city": "a rather long name of a city"}));
    Reply {
        tool_calls: vec![call],
        ..Reply::text(["Zürich", " is fine"])
    }
}

async fn outcome_of(
    protocol: Protocol,
    script: ModelScript,
    edit: impl Fn(&mut ClientConfig),
) -> Outcome {
    let server = ModelServer::start(script).await.unwrap();
    let mut config = config(&server, protocol);
    edit(&mut config);
    let client = client_of(protocol, config);
    let shown = match client.stream(&ask("hi")).await {
        Ok(stream) => Shown::of(stream).await,
        Err(error) => Shown {
            error: Some(error),
            ..Shown::default()
        },
    };
    assert_eq!(shown.error.is_none(), shown.output.is_some());
    Outcome {
        error: shown.error,
        text: shown.text,
        requests: server.requests().len(),
    }
}

/// What each protocol makes of a provider that always fails like this. Answers that have
/// something to show come before `expected`; `requests` are made.
async fn always(fault: Fault, expected: ModelErrorKind, requests: usize) {
    for protocol in Protocol::ALL {
        let script = ModelScript::new()
            .fault_first(fault.clone().always())
            .reply(reply());
        let outcome = outcome_of(protocol, script, |_| ()).await;
        assert_eq!(
            outcome.kind(),
            Some(expected),
            "{protocol}: {:?}",
            outcome.error
        );
        assert_eq!(outcome.requests, requests, "{protocol}");
    }
}

/// One failure before anything is shown is made good by a retry.
async fn once(fault: Fault) {
    for protocol in Protocol::ALL {
        let script = ModelScript::new().fault_first(fault.clone()).reply(reply());
        let outcome = outcome_of(protocol, script, |_| ()).await;
        assert_eq!(outcome.kind(), None, "{protocol}: {:?}", outcome.error);
        assert_eq!(
            (outcome.text.as_str(), outcome.requests),
            ("Zürich is fine", 2)
        );
    }
}

#[tokio::test]
async fn a_rate_limit_is_waited_for() {
    once(Fault::status(429).retry_after(0.01)).await;
    once(Fault::status(429).retry_after_ms(10)).await;
}

#[tokio::test]
async fn a_lasting_rate_limit_is_an_error_with_its_wait() {
    let fault = Fault::status(429).retry_after(0.01);
    always(fault.clone(), ModelErrorKind::RateLimited, 3).await;
    let script = ModelScript::new().fault_first(fault.always());
    let outcome = outcome_of(Protocol::Gemini, script, |_| ()).await;
    let wait = outcome.error.unwrap().retry_after;
    assert_eq!(wait, Some(Duration::from_millis(10)));
}

#[tokio::test]
async fn a_wait_that_is_too_long_is_not_waited_for() {
    let fault = Fault::status(429).retry_after(500.0);
    always(fault, ModelErrorKind::RateLimited, 1).await;
}

#[tokio::test]
async fn server_errors_and_lost_connections_are_retried() {
    for status in [500, 503, 529] {
        once(Fault::status(status).retry_after(0.0)).await;
    }
    once(Fault::close()).await;
}

#[tokio::test]
async fn lasting_server_errors_are_errors() {
    for status in [500, 529] {
        let fault = Fault::status(status).retry_after(0.0);
        always(fault, ModelErrorKind::Overloaded, 3).await;
    }
}

#[tokio::test]
async fn what_a_retry_cannot_help_is_not_retried() {
    for (status, kind) in [
        (400, ModelErrorKind::InvalidRequest),
        (401, ModelErrorKind::Unauthenticated),
        (402, ModelErrorKind::QuotaExhausted),
        (403, ModelErrorKind::Unauthenticated),
        (404, ModelErrorKind::ModelNotFound),
    ] {
        always(Fault::status(status), kind, 1).await;
    }
    always(
        Fault::context_overflow(),
        ModelErrorKind::ContextOverflow,
        1,
    )
    .await;
}

#[tokio::test]
async fn a_provider_may_forbid_a_retry() {
    for protocol in [Protocol::Anthropic, Protocol::OpenAi] {
        let fault = Fault::status(503).should_retry(false).always();
        let outcome = outcome_of(protocol, ModelScript::new().fault_first(fault), |_| ()).await;
        assert_eq!(outcome.kind(), Some(ModelErrorKind::Overloaded));
        assert_eq!(outcome.requests, 1, "{protocol}");
    }
}

#[tokio::test]
async fn a_limit_of_money_is_not_waited_for() {
    for (protocol, code) in [
        (Protocol::Anthropic, "enforced_spend_limit_reached"),
        (Protocol::OpenAi, "insufficient_quota"),
        (Protocol::OpenAi, "credit_balance_exhausted"),
    ] {
        let fault = Fault::status(429)
            .retry_after(0.0)
            .error_code(code)
            .always();
        let outcome = outcome_of(protocol, ModelScript::new().fault_first(fault), |_| ()).await;
        assert_eq!(
            outcome.kind(),
            Some(ModelErrorKind::QuotaExhausted),
            "{code}"
        );
        assert_eq!(outcome.requests, 1, "{code}");
    }
}

#[tokio::test]
async fn a_slow_first_byte_is_a_timeout() {
    for protocol in Protocol::ALL {
        let fault = Fault::slow_first_byte(Duration::from_secs(60)).always();
        let outcome = outcome_of(protocol, ModelScript::new().fault_first(fault), |config| {
            config.timeouts.first_byte = Duration::from_millis(100);
            config.retry = RetryPolicy::default().jitter(|| 1.0);
            config.retry.max_retries = 1;
        })
        .await;
        assert_eq!(outcome.kind(), Some(ModelErrorKind::Timeout), "{protocol}");
        assert_eq!(outcome.requests, 2, "{protocol}");
    }
}

/// A provider that stops in the middle, with these limits.
async fn stalls(fault: Fault, idle: Duration, progress: Duration) {
    for protocol in Protocol::ALL {
        let script = ModelScript::new()
            .fault_first(fault.clone().always())
            .reply(reply());
        let outcome = outcome_of(protocol, script, |config| {
            config.timeouts.idle = idle;
            config.timeouts.progress = progress;
        })
        .await;
        assert_eq!(outcome.kind(), Some(ModelErrorKind::Timeout), "{protocol}");
        assert_eq!((outcome.text.as_str(), outcome.requests), ("Zürich", 1));
    }
}

#[tokio::test]
async fn silence_in_the_middle_is_a_timeout() {
    let (short, long) = (Duration::from_millis(400), Duration::from_secs(20));
    stalls(Fault::stall_after(1), short, long).await;
}

#[tokio::test]
async fn pings_alone_are_a_timeout_in_the_end() {
    let (short, long) = (Duration::from_millis(400), Duration::from_secs(20));
    let fault = Fault::stall_with_pings(1, Duration::from_millis(20));
    stalls(fault, long, short).await;
}

#[tokio::test]
async fn a_reply_that_breaks_off_is_truncated_and_not_repeated() {
    for at in [CutAt::AfterText, CutAt::InToolCall] {
        always(Fault::cut(at), ModelErrorKind::Truncated, 1).await;
    }
    always(Fault::no_terminal(), ModelErrorKind::Truncated, 1).await;
}

#[tokio::test]
async fn a_reply_that_breaks_off_before_it_shows_anything_is_retried() {
    once(Fault::cut(CutAt::InUtf8)).await;
}

#[tokio::test]
async fn garbage_between_events_is_malformed() {
    always(
        Fault::garbage(Garbage::DataLine),
        ModelErrorKind::Malformed,
        1,
    )
    .await;
}

#[tokio::test]
async fn a_web_page_is_malformed_and_tried_twice() {
    always(Fault::garbage(Garbage::Html), ModelErrorKind::Malformed, 2).await;
    once(Fault::garbage(Garbage::Html)).await;
}

#[tokio::test]
async fn an_error_event_after_text_is_an_error() {
    always(Fault::error_event(), ModelErrorKind::Overloaded, 1).await;
}

#[tokio::test]
async fn an_error_event_before_anything_is_shown_is_retried() {
    for protocol in Protocol::ALL {
        let script = ModelScript::new()
            .fault_first(Fault::error_event())
            .reply(Reply::calls([ToolCall::new("weather", json!({}))]));
        let outcome = outcome_of(protocol, script, |_| ()).await;
        assert_eq!((outcome.kind(), outcome.requests), (None, 2), "{protocol}");
    }
}

#[tokio::test]
async fn an_empty_reply_is_a_reply() {
    for protocol in Protocol::ALL {
        let script = ModelScript::new()
            .fault_first(Fault::empty())
            .reply(reply());
        let outcome = outcome_of(protocol, script, |_| ()).await;
        assert_eq!((outcome.kind(), outcome.requests), (None, 1), "{protocol}");
    }
}

#[tokio::test]
async fn a_provider_that_is_not_there_is_a_transport_error() {
    for protocol in Protocol::ALL {
        let server = ModelServer::start(ModelScript::new()).await.unwrap();
        let mut config = config(&server, protocol);
        drop(server);
        config.base_url = Some("http://user:hunter2@127.0.0.1:1".to_owned());
        config.retry.max_retries = 0;
        let error = client_of(protocol, config)
            .stream(&ask("hi"))
            .await
            .err()
            .unwrap();
        assert_eq!(error.kind, ModelErrorKind::Transport, "{protocol}");
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
}

#[tokio::test]
async fn a_vendor_without_a_key_is_not_even_called() {
    for protocol in Protocol::ALL {
        let config = ClientConfig::new(protocol.name());
        let error = client_of(protocol, config)
            .stream(&ask("hi"))
            .await
            .err()
            .unwrap();
        assert_eq!(error.kind, ModelErrorKind::Unauthenticated);
    }
}

#[tokio::test]
async fn the_key_is_never_in_a_message() {
    for protocol in Protocol::ALL {
        let said = json!({"error": {"message": "bad key test-key!", "type": "x"}});
        let fault = Fault::status(401).body(said);
        let outcome = outcome_of(protocol, ModelScript::new().fault_first(fault), |_| ()).await;
        let message = outcome.error.unwrap().to_string();
        assert!(message.contains("bad key [key]!"), "{message}");
    }
}

#[tokio::test]
async fn dropping_the_stream_closes_the_connection() {
    for protocol in Protocol::ALL {
        let reply = Reply::text("a long answer")
            .chunks(13)
            .chunk_every(Duration::from_millis(200));
        let server = ModelServer::start(ModelScript::new().reply(reply))
            .await
            .unwrap();
        let mut stream = client(&server, protocol).stream(&ask("hi")).await.unwrap();
        assert!(matches!(stream.next().await, Some(Ok(ModelEvent::Text(_)))));
        drop(stream);
        server.wait_for_open_streams(0).await.unwrap();
        assert!(
            server.requests()[0].client_closed_ms.is_some(),
            "{protocol}"
        );
    }
}
