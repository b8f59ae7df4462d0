//! What goes over the wire, word for word.

use rune_runtime::model::{ModelRequest, Protocol};
use rune_store_runtime::{Block, Message, NativeBlock, Role};
use rune_testkit::{ModelScript, ModelServer};
use serde_json::{Value, json};

use super::{Shown, ask, client, message, request, result};

fn call(id: &str, name: &str, input: Value, native: Option<NativeBlock>) -> Block {
    Block::ToolCall {
        id: id.to_owned(),
        name: name.to_owned(),
        input,
        native,
    }
}

fn native(protocol: Protocol, json: Value) -> Option<NativeBlock> {
    Some(NativeBlock {
        protocol: protocol.name().to_owned(),
        json,
    })
}

/// System, tools, reasoning, two parallel calls of which one failed, and their results in
/// the wrong order. Each protocol sent one of the blocks.
fn conversation() -> ModelRequest {
    let thought = json!({"type": "thinking", "thinking": "hm", "signature": "sig"});
    let signed = json!({"functionCall": {"name": "weather", "args": {"city": "Oslo"}, "id": "g1"},
        "thoughtSignature": "c2ln"});
    let assistant = vec![
        Block::Reasoning {
            text: "hm".to_owned(),
            native: native(Protocol::Anthropic, thought),
        },
        Block::Reasoning {
            text: "so".to_owned(),
            native: native(Protocol::OpenAi, json!({"reasoning_content": "so"})),
        },
        Block::Reasoning {
            text: "then".to_owned(),
            native: native(
                Protocol::Responses,
                json!({"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "enc"}),
            ),
        },
        Block::text("Let me see."),
        call(
            "g1",
            "weather",
            json!({"city": "Oslo"}),
            native(Protocol::Gemini, signed),
        ),
        call("functions.time:1", "time", json!("{\"city\":"), None),
    ];
    let failed = Block::ToolResult {
        call_id: "functions.time:1".to_owned(),
        name: "time".to_owned(),
        content: "the input is not JSON".to_owned(),
        is_error: true,
    };
    let messages = vec![
        Message::user("Weather and time?"),
        message(Role::Assistant, assistant),
        message(Role::Tool, vec![failed, result("g1", "weather", "rain")]),
    ];
    ModelRequest {
        max_output_tokens: Some(1000),
        temperature: Some(0.5),
        reasoning_effort: Some("low".to_owned()),
        ..request(messages)
    }
}

#[test]
fn anthropic_request() {
    insta::assert_json_snapshot!(Protocol::Anthropic.request_body(&conversation()));
}

#[test]
fn openai_request() {
    insta::assert_json_snapshot!(Protocol::OpenAi.request_body(&conversation()));
}

#[test]
fn responses_request() {
    insta::assert_json_snapshot!(Protocol::Responses.request_body(&conversation()));
}

#[test]
fn gemini_request() {
    insta::assert_json_snapshot!(Protocol::Gemini.request_body(&conversation()));
}

#[test]
fn a_plain_request_says_no_more_than_it_must() {
    let bodies = Protocol::ALL.map(|protocol| {
        let request = ModelRequest {
            system: String::new(),
            tools: Vec::new(),
            ..ask("hi")
        };
        protocol.request_body(&request)
    });
    insta::assert_json_snapshot!(bodies);
}

#[tokio::test]
async fn goes_to_the_right_place_with_the_right_headers() {
    for (protocol, path, query, header, value) in [
        (
            Protocol::Anthropic,
            "/v1/messages",
            "",
            "x-api-key",
            "test-key",
        ),
        (
            Protocol::OpenAi,
            "/v1/chat/completions",
            "",
            "authorization",
            "Bearer test-key",
        ),
        (
            Protocol::Responses,
            "/v1/responses",
            "",
            "authorization",
            "Bearer test-key",
        ),
        (
            Protocol::Gemini,
            "/v1beta/models/test-model:streamGenerateContent",
            "alt=sse",
            "x-goog-api-key",
            "test-key",
        ),
    ] {
        let server = ModelServer::start(ModelScript::new()).await.unwrap();
        Shown::output(&*client(&server, protocol), &ask("hi")).await;
        let seen = &server.requests()[0];
        assert_eq!((seen.path.as_str(), seen.query.as_str()), (path, query));
        assert_eq!(seen.headers[header], value);
        assert_eq!(seen.headers["content-type"], "application/json");
    }
}
