//! Every way in which a provider fails ends in a retry or a clear error and never in a
//! hang.

use std::time::Duration;

use futures_util::StreamExt;
use rune_runtime::model::{ModelError, ModelErrorKind, ModelEvent, RetryPolicy};
use rune_testkit::{CutAt, Fault, Garbage, ModelScript, ModelServer, Reply, ToolCall};
use serde_json::json;

use super::super::{Shown, ask};
use super::{Gap, KEY, Subject, Tune};

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
    subject: &dyn Subject,
    script: ModelScript,
    edit: impl Fn(&mut Tune),
) -> Outcome {
    let server = ModelServer::start(script).await.unwrap();
    let mut tune = Tune::default();
    edit(&mut tune);
    let client = subject.client(&server, &tune).await;
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

/// What the client makes of a provider that always fails like this. Answers that have
/// something to show come before `expected`; `requests` are made.
async fn always(subject: &dyn Subject, fault: Fault, expected: ModelErrorKind, requests: usize) {
    let script = ModelScript::new()
        .fault_first(fault.always())
        .reply(reply());
    let outcome = outcome_of(subject, script, |_| ()).await;
    assert_eq!(outcome.kind(), Some(expected), "{:?}", outcome.error);
    subject.sent(outcome.requests, requests);
}

/// One failure before anything is shown is made good by a retry.
async fn once(subject: &dyn Subject, fault: Fault) {
    let script = ModelScript::new().fault_first(fault).reply(reply());
    let outcome = outcome_of(subject, script, |_| ()).await;
    assert_eq!(outcome.kind(), None, "{:?}", outcome.error);
    assert_eq!(outcome.text, "Zürich is fine");
    subject.sent(outcome.requests, 2);
}

pub(crate) async fn a_rate_limit_is_waited_for(subject: &dyn Subject) {
    once(subject, Fault::status(429).retry_after(0.01)).await;
    once(subject, Fault::status(429).retry_after_ms(10)).await;
}

pub(crate) async fn a_lasting_rate_limit_is_an_error_with_its_wait(subject: &dyn Subject) {
    let fault = Fault::status(429).retry_after(0.01);
    always(subject, fault.clone(), ModelErrorKind::RateLimited, 3).await;
    let script = ModelScript::new().fault_first(fault.always());
    let outcome = outcome_of(subject, script, |_| ()).await;
    let wait = outcome.error.unwrap().retry_after;
    assert_eq!(wait, Some(Duration::from_millis(10)));
}

pub(crate) async fn a_wait_that_is_too_long_is_not_waited_for(subject: &dyn Subject) {
    let fault = Fault::status(429).retry_after(500.0);
    always(subject, fault, ModelErrorKind::RateLimited, 1).await;
}

pub(crate) async fn server_errors_and_lost_connections_are_retried(subject: &dyn Subject) {
    for status in [500, 503, 529] {
        once(subject, Fault::status(status).retry_after(0.0)).await;
    }
    once(subject, Fault::close()).await;
}

pub(crate) async fn lasting_server_errors_are_errors(subject: &dyn Subject) {
    for status in [500, 529] {
        let fault = Fault::status(status).retry_after(0.0);
        always(subject, fault, ModelErrorKind::Overloaded, 3).await;
    }
}

pub(crate) async fn what_a_retry_cannot_help_is_not_retried(subject: &dyn Subject) {
    for (status, kind) in [
        (400, ModelErrorKind::InvalidRequest),
        (401, ModelErrorKind::Unauthenticated),
        (402, ModelErrorKind::QuotaExhausted),
        (403, ModelErrorKind::Unauthenticated),
        (404, ModelErrorKind::ModelNotFound),
    ] {
        always(subject, Fault::status(status), kind, 1).await;
    }
    always(
        subject,
        Fault::context_overflow(),
        ModelErrorKind::ContextOverflow,
        1,
    )
    .await;
}

pub(crate) async fn a_provider_may_forbid_a_retry(subject: &dyn Subject) {
    if subject.lacks(Gap::RetryHeaders) {
        return;
    }
    let fault = Fault::status(503).should_retry(false);
    always(subject, fault, ModelErrorKind::Overloaded, 1).await;
}

pub(crate) async fn a_limit_of_money_is_not_waited_for(subject: &dyn Subject) {
    if subject.lacks(Gap::ErrorCodes) {
        return;
    }
    for code in [
        "enforced_spend_limit_reached",
        "insufficient_quota",
        "credit_balance_exhausted",
    ] {
        let fault = Fault::status(429).retry_after(0.0).error_code(code);
        always(subject, fault, ModelErrorKind::QuotaExhausted, 1).await;
    }
}

pub(crate) async fn a_slow_first_byte_is_a_timeout(subject: &dyn Subject) {
    let fault = Fault::slow_first_byte(Duration::from_secs(60)).always();
    let outcome = outcome_of(subject, ModelScript::new().fault_first(fault), |config| {
        config.timeouts.first_byte = Duration::from_millis(100);
        config.retry = RetryPolicy::default().jitter(|| 1.0);
        config.retry.max_retries = 1;
    })
    .await;
    assert_eq!(outcome.kind(), Some(ModelErrorKind::Timeout));
    assert_eq!(outcome.requests, 2);
}

/// A provider that stops in the middle, with these limits.
async fn stalls(subject: &dyn Subject, fault: Fault, idle: Duration, progress: Duration) {
    let script = ModelScript::new()
        .fault_first(fault.always())
        .reply(reply());
    let outcome = outcome_of(subject, script, |config| {
        config.timeouts.idle = idle;
        config.timeouts.progress = progress;
    })
    .await;
    assert_eq!(outcome.kind(), Some(ModelErrorKind::Timeout));
    assert_eq!((outcome.text.as_str(), outcome.requests), ("Zürich", 1));
}

pub(crate) async fn silence_in_the_middle_is_a_timeout(subject: &dyn Subject) {
    let (short, long) = (Duration::from_millis(400), Duration::from_secs(20));
    stalls(subject, Fault::stall_after(1), short, long).await;
}

pub(crate) async fn pings_alone_are_a_timeout_in_the_end(subject: &dyn Subject) {
    let (short, long) = (Duration::from_millis(400), Duration::from_secs(20));
    let fault = Fault::stall_with_pings(1, Duration::from_millis(20));
    stalls(subject, fault, long, short).await;
}

pub(crate) async fn a_reply_that_breaks_off_is_truncated_and_not_repeated(subject: &dyn Subject) {
    for at in [CutAt::AfterText, CutAt::InToolCall] {
        always(subject, Fault::cut(at), ModelErrorKind::Truncated, 1).await;
    }
    always(subject, Fault::no_terminal(), ModelErrorKind::Truncated, 1).await;
}

pub(crate) async fn a_reply_that_breaks_off_before_it_shows_anything_is_retried(
    subject: &dyn Subject,
) {
    once(subject, Fault::cut(CutAt::InUtf8)).await;
}

pub(crate) async fn garbage_between_events_is_malformed(subject: &dyn Subject) {
    always(
        subject,
        Fault::garbage(Garbage::DataLine),
        ModelErrorKind::Malformed,
        1,
    )
    .await;
}

pub(crate) async fn a_web_page_is_malformed_and_tried_twice(subject: &dyn Subject) {
    always(
        subject,
        Fault::garbage(Garbage::Html),
        ModelErrorKind::Malformed,
        2,
    )
    .await;
    once(subject, Fault::garbage(Garbage::Html)).await;
}

pub(crate) async fn an_error_event_after_text_is_an_error(subject: &dyn Subject) {
    always(subject, Fault::error_event(), ModelErrorKind::Overloaded, 1).await;
}

pub(crate) async fn an_error_event_before_anything_is_shown_is_retried(subject: &dyn Subject) {
    let script = ModelScript::new()
        .fault_first(Fault::error_event())
        .reply(Reply::calls([ToolCall::new("weather", json!({}))]));
    let outcome = outcome_of(subject, script, |_| ()).await;
    assert_eq!((outcome.kind(), outcome.requests), (None, 2));
}

pub(crate) async fn an_empty_reply_is_a_reply(subject: &dyn Subject) {
    let script = ModelScript::new()
        .fault_first(Fault::empty())
        .reply(reply());
    let outcome = outcome_of(subject, script, |_| ()).await;
    assert_eq!((outcome.kind(), outcome.requests), (None, 1));
}

pub(crate) async fn a_provider_that_is_not_there_is_a_transport_error(subject: &dyn Subject) {
    let server = ModelServer::start(ModelScript::new()).await.unwrap();
    let mut tune = Tune {
        base_url: Some("http://user:hunter2@127.0.0.1:1".to_owned()),
        ..Tune::default()
    };
    tune.retry.max_retries = 0;
    let client = subject.client(&server, &tune).await;
    let error = client.stream(&ask("hi")).await.err().unwrap();
    assert_eq!(error.kind, ModelErrorKind::Transport);
    assert!(!error.to_string().contains("hunter2"), "{error}");
}

pub(crate) async fn the_key_is_never_in_a_message(subject: &dyn Subject) {
    let said = json!({"error": {"message": format!("bad key {KEY}!"), "type": "x"}});
    let fault = Fault::status(401).body(said);
    let outcome = outcome_of(subject, ModelScript::new().fault_first(fault), |_| ()).await;
    let message = outcome.error.unwrap().to_string();
    assert!(message.contains("bad key [key]!"), "{message}");
}

pub(crate) async fn dropping_the_stream_closes_the_connection(subject: &dyn Subject) {
    let reply = Reply::text("a long answer")
        .chunks(13)
        .chunk_every(Duration::from_millis(200));
    let server = ModelServer::start(ModelScript::new().reply(reply))
        .await
        .unwrap();
    let mut stream = subject
        .client(&server, &Tune::default())
        .await
        .stream(&ask("hi"))
        .await
        .unwrap();
    assert!(matches!(stream.next().await, Some(Ok(ModelEvent::Text(_)))));
    drop(stream);
    server.wait_for_open_streams(0).await.unwrap();
    assert!(server.requests()[0].client_closed_ms.is_some());
}
