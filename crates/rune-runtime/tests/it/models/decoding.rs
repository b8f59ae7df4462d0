//! Bytes to events, without a server.

use proptest::prelude::*;
use rune_runtime::model::wire::decode_chunks;
use rune_runtime::model::{ModelError, ModelErrorKind, ModelEvent, ModelOutput, Protocol};
use rune_store_runtime::{Block, StopReason};
use serde_json::{Value, json};

use super::calls;

type Events = Vec<Result<ModelEvent, ModelError>>;

fn decode(protocol: Protocol, bytes: &[u8]) -> Events {
    decode_chunks(protocol, [bytes])
}

/// The reply to `events`, each a data line.
#[track_caller]
fn reply(protocol: Protocol, events: &[Value]) -> ModelOutput {
    let body: String = events
        .iter()
        .map(|event| format!("data: {event}\n\n"))
        .collect();
    match decode(protocol, body.as_bytes()).pop() {
        Some(Ok(ModelEvent::Done(output))) => output,
        other => panic!("no reply: {other:?}"),
    }
}

#[track_caller]
fn fails(protocol: Protocol, body: &str, kind: ModelErrorKind) {
    let last = decode(protocol, body.as_bytes()).pop();
    let error = last.and_then(Result::err);
    assert_eq!(error.map(|error| error.kind), Some(kind), "{body}");
}

const ANTHROPIC: &str = concat!(
    "event: message_start\r\ndata: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":5,\"cache_read_input_tokens\":2,\"output_tokens\":1}}}\r\n\r\n",
    ": comment\r\n\r\nevent: ping\r\ndata: {\"type\":\"ping\"}\r\n\r\n",
    "event: content_block_start\r\ndata: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"thinking\",\"thinking\":\"\",\"signature\":\"\"}}\r\n\r\n",
    "event: content_block_delta\r\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"thinking_delta\",\"thinking\":\"hm ü\"}}\r\n\r\n",
    "event: content_block_delta\r\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"signature_delta\",\"signature\":\"sig\"}}\r\n\r\n",
    "event: content_block_start\r\ndata: {\"type\":\"content_block_start\",\"index\":1,\"content_block\":{\"type\":\"redacted_thinking\",\"data\":\"xyz\"}}\r\n\r\n",
    "event: content_block_start\r\ndata: {\"type\":\"content_block_start\",\"index\":2,\"content_block\":{\"type\":\"text\",\"text\":\"\"}}\r\n\r\n",
    "event: content_block_delta\r\ndata: {\"type\":\"content_block_delta\",\"index\":2,\"delta\":{\"type\":\"text_delta\",\"text\":\"Zürich 🎉\"}}\r\n\r\n",
    "event: content_block_start\r\ndata: {\"type\":\"content_block_start\",\"index\":3,\"content_block\":{\"type\":\"tool_use\",\"id\":\"t1\",\"name\":\"f\",\"input\":{}}}\r\n\r\n",
    "event: content_block_delta\r\ndata: {\"type\":\"content_block_delta\",\"index\":3,\"delta\":{\"type\":\"input_json_delta\",\"partial_json\":\"{\\\"a\\\"\"}}\r\n\r\n",
    "event: content_block_delta\r\ndata: {\"type\":\"content_block_delta\",\"index\":3,\"delta\":{\"type\":\"input_json_delta\",\"partial_json\":\":1}\"}}\r\n\r\n",
    "event: message_delta\r\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"tool_use\"},\"usage\":{\"output_tokens\":9}}\r\n\r\n",
    "event: message_stop\r\ndata: {\"type\":\"message_stop\"}\r\n\r\n",
);

const OPENAI: &str = concat!(
    ": PROCESSING\n\n",
    "data:{\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"Zü\"},\"finish_reason\":null}],\"usage\":null}\n\n",
    "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"rich 🎉\",\"tool_calls\":[{\"index\":0,\"id\":\"c1\",\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":\"\"}}]}}]}\r\n\r\n",
    "data: {\"choices\":[{\"index\":0,\"delta\":{\"tool_calls\":[{\"index\":0,\"function\":{\"arguments\":\"{\\\"a\\\":1}\"}}]}}]}\r\r",
    "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"tool_calls\"}]}\n\n",
    "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":9}}\n\n",
    "data: [DONE]\n\n",
);

const GEMINI: &str = concat!(
    "data: {\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"hm\",\"thought\":true}]}}]}\r\n\r\n",
    "data: {\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"Zü\"}]}}]}\r\n\r\n",
    "data: {\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"rich 🎉\"},{\"functionCall\":{\"name\":\"f\",\"args\":{\"a\":1}},\"thoughtSignature\":\"c2ln\"},{\"functionCall\":{\"name\":\"f\",\"args\":{}}}]},\"finishReason\":\"STOP\"}],\"usageMetadata\":{\"promptTokenCount\":5,\"candidatesTokenCount\":2,\"thoughtsTokenCount\":1}}\r\n\r\n",
);

const RESPONSES: &str = concat!(
    "event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"status\":\"in_progress\",\"error\":null}}\n\n",
    ": comment\n\nevent: response.reasoning_summary_text.delta\ndata: {\"type\":\"response.reasoning_summary_text.delta\",\"delta\":\"hm ü\"}\n\n",
    "event: response.output_item.done\ndata: {\"type\":\"response.output_item.done\",\"output_index\":0,\"item\":{\"type\":\"reasoning\",\"id\":\"rs\",\"encrypted_content\":\"enc\",\"summary\":[{\"type\":\"summary_text\",\"text\":\"hm ü\"}]}}\n\n",
    "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"output_index\":1,\"delta\":\"Zürich 🎉\"}\n\n",
    "event: response.output_item.done\ndata: {\"type\":\"response.output_item.done\",\"output_index\":1,\"item\":{\"type\":\"message\",\"id\":\"msg\",\"role\":\"assistant\",\"phase\":\"commentary\",\"content\":[{\"type\":\"output_text\",\"text\":\"Zürich 🎉\"}]}}\n\n",
    "event: response.function_call_arguments.delta\ndata: {\"type\":\"response.function_call_arguments.delta\",\"output_index\":2,\"delta\":\"{\"}\n\n",
    "event: response.output_item.done\ndata: {\"type\":\"response.output_item.done\",\"output_index\":2,\"item\":{\"type\":\"function_call\",\"id\":\"fc\",\"call_id\":\"c1\",\"name\":\"f\",\"arguments\":\"{\\\"a\\\":1}\"}}\n\n",
    "event: response.completed\ndata: {\"type\":\"response.completed\",\"response\":{\"status\":\"completed\",\"output\":[],\"usage\":{\"input_tokens\":5,\"input_tokens_details\":{\"cached_tokens\":2},\"output_tokens\":9,\"output_tokens_details\":{\"reasoning_tokens\":3}}}}\n\n",
);

const SAMPLES: [(Protocol, &str); 4] = [
    (Protocol::Anthropic, ANTHROPIC),
    (Protocol::OpenAi, OPENAI),
    (Protocol::Responses, RESPONSES),
    (Protocol::Gemini, GEMINI),
];

#[test]
fn reads_a_reply_of_each_protocol() {
    for (protocol, body) in SAMPLES {
        insta::assert_debug_snapshot!(protocol.name(), decode(protocol, body.as_bytes()));
    }
}

#[test]
fn a_cut_at_any_byte_changes_nothing() {
    for (protocol, body) in SAMPLES {
        let body = body.as_bytes();
        let whole = decode(protocol, body);
        for at in 0..=body.len() {
            let (head, tail) = body.split_at(at);
            assert_eq!(
                decode_chunks(protocol, [head, tail]),
                whole,
                "{protocol} at {at}"
            );
        }
        assert_eq!(decode_chunks(protocol, body.chunks(1)), whole, "{protocol}");
    }
}

#[test]
fn an_end_at_any_byte_is_an_error_or_the_whole_reply() {
    for (protocol, body) in SAMPLES {
        let body = body.as_bytes();
        let whole = decode(protocol, body);
        for end in 0..body.len() {
            match decode(protocol, &body[..end]).pop() {
                Some(Ok(ModelEvent::Done(output))) => {
                    let Some(Ok(ModelEvent::Done(full))) = whole.last() else {
                        panic!("no reply");
                    };
                    assert_eq!(output.blocks, full.blocks, "{protocol} at {end}");
                }
                Some(Err(error)) => assert_eq!(error.kind, ModelErrorKind::Truncated),
                other => panic!("{protocol} at {end}: {other:?}"),
            }
        }
    }
}

#[test]
fn bare_json_and_pages_are_no_silent_end() {
    for protocol in Protocol::ALL {
        let error = "\n{\"error\": {\"code\": 503,\n \"message\": \"busy\"}}";
        fails(protocol, error, ModelErrorKind::Overloaded);
        fails(
            protocol,
            "[{\"error\":{\"code\":429}}]",
            ModelErrorKind::RateLimited,
        );
        fails(protocol, "<html></html>", ModelErrorKind::Malformed);
        fails(protocol, "{\"choices\":[]}", ModelErrorKind::Malformed);
        fails(protocol, "", ModelErrorKind::Truncated);
        fails(protocol, "data: {oops\n\n", ModelErrorKind::Malformed);
        fails(protocol, "data: 5\n\n", ModelErrorKind::Malformed);
        fails(protocol, "data: [DONE]\n\n", ModelErrorKind::Truncated);
        fails(
            protocol,
            "data: {\"error\":\"boom\"}\n\n",
            ModelErrorKind::Overloaded,
        );
    }
}

fn openai(delta: &Value, finish: &str) -> ModelOutput {
    let choice = json!({"delta": delta, "finish_reason": finish});
    reply(
        Protocol::OpenAi,
        &[json!({ "choices": [choice] }), json!({})],
    )
}

#[test]
fn calls_mean_tool_use_whatever_the_finish_reason() {
    let delta = json!({"tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}]});
    let output = openai(&delta, "stop");
    assert_eq!(output.stop, StopReason::ToolUse);
    assert_eq!(
        calls(&output.blocks),
        [("call_0".into(), "f".into(), json!({"a": 1}))]
    );
    let output = openai(&json!({"content": "x"}), "tool_calls");
    assert_eq!(output.stop, StopReason::EndTurn);
}

#[test]
fn a_reply_without_usage_is_estimated() {
    let output = openai(
        &json!({"content": [{"type": "text", "text": "12345"}]}),
        "stop",
    );
    assert_eq!(output.usage.output_tokens, 2);
}

#[test]
fn a_refusal_is_one() {
    let output = openai(&json!({"refusal": "no"}), "stop");
    assert_eq!(
        (output.stop, output.blocks),
        (StopReason::Refusal, vec![Block::text("no")])
    );
    let blocked = json!({"promptFeedback": {"blockReason": "SAFETY"}});
    let output = reply(Protocol::Gemini, &[blocked]);
    assert_eq!((output.stop, output.blocks.len()), (StopReason::Refusal, 0));
    let refused = json!({"type": "message_delta", "delta": {"stop_reason": "refusal",
        "stop_details": {"explanation": "no"}}});
    let output = reply(
        Protocol::Anthropic,
        &[refused, json!({"type": "message_stop"})],
    );
    assert_eq!(
        (output.stop, output.blocks),
        (StopReason::Refusal, vec![Block::text("no")])
    );
}

#[test]
fn a_paused_turn_is_to_be_continued() {
    let paused = json!({"type": "message_delta", "delta": {"stop_reason": "pause_turn"}});
    let output = reply(
        Protocol::Anthropic,
        &[paused, json!({"type": "message_stop"})],
    );
    assert_eq!(output.stop, StopReason::Pause);
}

#[test]
fn both_names_of_the_reasoning_are_read_once() {
    let output = openai(
        &json!({"reasoning": "a", "reasoning_content": "a", "content": "x"}),
        "stop",
    );
    let Block::Reasoning { text, native } = &output.blocks[0] else {
        panic!("{output:?}");
    };
    assert_eq!(text, "a");
    let native = native.as_ref().unwrap();
    assert_eq!(native.json, json!({"reasoning_content": "a"}));
}

#[test]
fn what_is_sent_back_with_a_call_is_kept() {
    let call = json!({"index": 0, "id": "c", "type": "function",
        "function": {"name": "f", "arguments": "{ }"}, "extra_content": {"s": 1}});
    let output = openai(&json!({ "tool_calls": [call] }), "tool_calls");
    let Block::ToolCall { native, .. } = &output.blocks[0] else {
        panic!("{output:?}");
    };
    let expected = json!({"type": "function", "function": {"name": "f", "arguments": "{ }"},
        "extra_content": {"s": 1}});
    assert_eq!(native.as_ref().unwrap().json, expected);
}

#[test]
fn a_malformed_call_of_gemini_is_malformed() {
    let body = "data: {\"candidates\":[{\"finishReason\":\"MALFORMED_FUNCTION_CALL\"}]}\n\n";
    fails(Protocol::Gemini, body, ModelErrorKind::Malformed);
}

/// The reply to a stream of nothing but its end.
fn responses(kind: &str, response: Value) -> ModelOutput {
    let mut event = json!({ "type": kind });
    event["response"] = response;
    reply(Protocol::Responses, &[event])
}

#[test]
fn the_last_event_of_responses_holds_what_came_without_one() {
    let item =
        |kind: &str| json!({"type": kind, "content": [{"type": "output_text", "text": "x"}]});
    let output = responses(
        "response.completed",
        json!({"output": [item("message"), item("web_search_call")]}),
    );
    assert!(matches!(&output.blocks[0], Block::Text { text, .. } if text == "x"));
    assert!(matches!(&output.blocks[1], Block::Opaque { .. }));
    assert_eq!(output.stop, StopReason::EndTurn);
}

#[test]
fn responses_says_why_it_is_incomplete() {
    for (reason, stop) in [
        ("max_output_tokens", StopReason::MaxTokens),
        ("content_filter", StopReason::Refusal),
    ] {
        let details = json!({"status": "incomplete", "incomplete_details": {"reason": reason}});
        assert_eq!(responses("response.incomplete", details).stop, stop);
    }
    let refusal = json!({"type": "message", "content": [{"type": "refusal", "refusal": "no"}]});
    let output = responses("response.completed", json!({ "output": [refusal] }));
    assert_eq!(output.stop, StopReason::Refusal);
}

#[test]
fn a_failed_response_says_what_to_do() {
    for (error, kind) in [
        (json!({"code": "server_error"}), ModelErrorKind::Overloaded),
        (
            json!({"code": "rate_limit_exceeded", "message": "slow"}),
            ModelErrorKind::RateLimited,
        ),
        (
            json!({"code": "invalid_prompt", "message": "bad"}),
            ModelErrorKind::InvalidRequest,
        ),
        (json!(null), ModelErrorKind::Overloaded),
    ] {
        let failed =
            json!({"type": "response.failed", "response": {"status": "failed", "error": error}});
        fails(Protocol::Responses, &format!("data: {failed}\n\n"), kind);
        if error.is_object() {
            let mut flat = error.clone();
            flat["type"] = "error".into();
            fails(Protocol::Responses, &format!("data: {flat}\n\n"), kind);
        }
    }
}

/// Pieces of real streams and noise, so that the decoders get beyond the first line.
fn bodies() -> impl Strategy<Value = Vec<u8>> {
    let lines: Vec<Vec<u8>> = SAMPLES
        .iter()
        .flat_map(|(_, body)| body.split_inclusive('\n'))
        .map(|line| line.as_bytes().to_vec())
        .collect();
    let piece = prop_oneof![
        8 => prop::sample::select(lines),
        1 => prop::collection::vec(any::<u8>(), 0..20),
        1 => Just(b"\r\n\r\n".to_vec()),
    ];
    prop::collection::vec(piece, 0..20).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn any_bytes_in_any_chunks_give_one_result(body in bodies(), size in 1usize..50) {
        for protocol in Protocol::ALL {
            let whole = decode(protocol, &body);
            let done = |event: &Result<ModelEvent, ModelError>| {
                !matches!(event, Ok(ModelEvent::Text(_) | ModelEvent::Reasoning(_)))
            };
            prop_assert_eq!(whole.iter().filter(|event| done(event)).count(), 1);
            prop_assert!(whole.last().is_some_and(done));
            prop_assert_eq!(decode_chunks(protocol, body.chunks(size)), whole);
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(body in prop::collection::vec(any::<u8>(), 0..300)) {
        for protocol in Protocol::ALL {
            prop_assert!(!decode(protocol, &body).is_empty());
        }
    }
}
