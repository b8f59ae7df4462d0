//! What each protocol looks like on the way out.

pub(crate) mod anthropic;
pub(crate) mod gemini;
pub(crate) mod openai;
pub(crate) mod responses;

use bytes::Bytes;
use serde_json::Value;

use super::{
    answer::Answer, check::Rejection, delivery::Spoilers, fault::FaultKind, frame::Frame,
    protocol::Protocol,
};

/// The events of a streamed answer.
pub(crate) fn stream(protocol: Protocol, answer: &Answer) -> Vec<Frame> {
    match protocol {
        Protocol::Anthropic => anthropic::stream(answer),
        Protocol::Openai => openai::stream(answer),
        Protocol::Responses => responses::stream(answer),
        Protocol::Gemini => gemini::stream(answer),
    }
}

/// The body of an answer that is not streamed.
pub(crate) fn whole(protocol: Protocol, answer: &Answer) -> Value {
    match protocol {
        Protocol::Anthropic => anthropic::whole(answer),
        Protocol::Openai => openai::whole(answer),
        Protocol::Responses => responses::whole(answer),
        Protocol::Gemini => gemini::whole(answer),
    }
}

/// The body of an error.
pub(crate) fn error(protocol: Protocol, rejection: &Rejection) -> Value {
    match protocol {
        Protocol::Anthropic => anthropic::error(rejection),
        // One vendor, one form of error.
        Protocol::Openai | Protocol::Responses => openai::error(rejection),
        Protocol::Gemini => gemini::error(rejection),
    }
}

/// What spoils a stream.
pub(crate) fn spoilers(protocol: Protocol) -> Spoilers {
    let overloaded = |status| error(protocol, &Rejection::new(status, "Overloaded"));
    let (error_event, garbage, ping) = match protocol {
        Protocol::Anthropic => (
            sse("error", &overloaded(529)),
            "event: content_block_delta\ndata: {this is not JSON\n\n",
            "event: ping\ndata: {\"type\": \"ping\"}\n\n",
        ),
        Protocol::Openai => (
            data(&overloaded(500)),
            "data: {this is not JSON\n\n",
            ": keep-alive\n\n",
        ),
        Protocol::Responses => (
            responses::error_event(),
            "event: response.output_text.delta\ndata: {this is not JSON\n\n",
            ": keep-alive\n\n",
        ),
        Protocol::Gemini => (
            gemini::data(&overloaded(503)),
            "data: {this is not JSON\r\n\r\n",
            ": keep-alive\r\n\r\n",
        ),
    };
    Spoilers {
        error_event,
        garbage: Bytes::from_static(garbage.as_bytes()),
        ping: Bytes::from_static(ping.as_bytes()),
    }
}

/// A scripted HTTP error as the vendor would send it; the context overflow in the vendor's words.
pub(crate) fn scripted_error(protocol: Protocol, fault: &FaultKind) -> Option<Rejection> {
    match fault {
        FaultKind::Status {
            code,
            error_code,
            retry_after,
            retry_after_ms,
            ..
        } => {
            let mut rejection = Rejection::new(*code, format!("scripted error {code}"));
            rejection.code.clone_from(error_code);
            let from_ms =
                retry_after_ms.map(|ms| std::time::Duration::from_millis(ms).as_secs_f64());
            rejection.retry_seconds = from_ms.or(*retry_after);
            Some(rejection)
        }
        FaultKind::ContextOverflow => Some(match protocol {
            Protocol::Anthropic => {
                Rejection::bad("prompt is too long: 1000001 tokens > 1000000 maximum")
            }
            Protocol::Openai | Protocol::Responses => {
                let message = "This model's maximum context length is 922000 tokens. However, your messages resulted \
                               in 922001 tokens. Please reduce the length of the messages.";
                Rejection::bad(message)
                    .param(if protocol == Protocol::Openai {
                        "messages"
                    } else {
                        "input"
                    })
                    .code("context_length_exceeded")
            }
            Protocol::Gemini => Rejection::bad(
                "The input token count (1048577) exceeds the maximum number of tokens allowed (1048576).",
            ),
        }),
        _ => None,
    }
}

/// A named event.
fn sse(event: &str, value: &Value) -> Bytes {
    Bytes::from(format!("event: {event}\ndata: {value}\n\n"))
}

/// An event without a name.
fn data(value: &Value) -> Bytes {
    Bytes::from(format!("data: {value}\n\n"))
}
