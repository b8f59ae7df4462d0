//! What goes over the wire, word for word.

use rune_runtime::model::{ModelRequest, Protocol};
use rune_store_runtime::{Block, ImageSource, Message, NativeBlock, Role};
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
        images: Vec::new(),
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
fn images_of_a_tool_are_where_each_protocol_takes_them() {
    let image = ImageSource::Data {
        media_type: "image/png".to_owned(),
        data: "iVBO".to_owned(),
    };
    let shown = Block::ToolResult {
        call_id: "c1".to_owned(),
        name: "look".to_owned(),
        content: "a page".to_owned(),
        images: vec![image],
        is_error: false,
    };
    let asked = request(vec![
        Message::user("Look"),
        message(Role::Assistant, vec![call("c1", "look", json!({}), None)]),
        message(Role::Tool, vec![shown]),
    ]);
    let url = "data:image/png;base64,iVBO";
    let inline = json!({"inlineData": {"mimeType": "image/png", "data": "iVBO"}});
    let name = "[images of the result of look]";
    for (protocol, model, pointer, expected) in [
        (
            Protocol::Anthropic,
            "m",
            "/messages/2/content/0/content",
            json!([
                {"type": "text", "text": "a page"},
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBO"}},
            ]),
        ),
        (
            Protocol::OpenAi,
            "m",
            "/messages/4",
            json!({"role": "user", "content": [
                {"type": "text", "text": name},
                {"type": "image_url", "image_url": {"url": url}},
            ]}),
        ),
        (
            Protocol::Responses,
            "m",
            "/input/2/output",
            json!([
                {"type": "input_text", "text": "a page"},
                {"type": "input_image", "image_url": url},
            ]),
        ),
        (
            Protocol::Gemini,
            "gemini-3-pro",
            "/contents/2/parts/0/functionResponse/parts/0",
            inline.clone(),
        ),
        (
            Protocol::Gemini,
            "gemini-2.5-pro",
            "/contents/3",
            json!({"role": "user", "parts": [{"text": name}, inline]}),
        ),
    ] {
        let model = model.to_owned();
        let request = ModelRequest {
            model,
            ..asked.clone()
        };
        let body = protocol.request_body(&request);
        assert_eq!(body.pointer(pointer), Some(&expected), "{body:#}");
    }
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
