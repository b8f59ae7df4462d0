//! What a provider says is what the engine gets, and what it wants back it gets back.

use rune_runtime::model::{LlmClient, ModelOutput, ModelRequest};
use rune_store_runtime::{Block, ImageSource, Message, Role, StopReason, Usage};
use rune_testkit::{Fault, ModelScript, ModelServer, Protocol, Reply, Stop, ToolCall};
use serde_json::{Value, json};

use super::super::{Shown, ask, calls, message, request, result};
use super::{Gap, Subject, Tune};

async fn client(subject: &dyn Subject, server: &ModelServer) -> Box<dyn LlmClient> {
    subject.client(server, &Tune::default()).await
}

pub(crate) async fn serve(script: ModelScript) -> ModelServer {
    ModelServer::start(script).await.unwrap()
}

pub(crate) async fn streams_text_as_it_comes(subject: &dyn Subject) {
    let server = serve(ModelScript::new().reply(Reply::text(["Hello", ", ", "you"]))).await;
    let (shown, output) = Shown::output(&*client(subject, &server).await, &ask("hi")).await;
    assert_eq!(shown.text, "Hello, you");
    let text = message(Role::Assistant, output.blocks).text();
    assert_eq!(
        (text.as_str(), output.stop),
        ("Hello, you", StopReason::EndTurn)
    );
}

pub(crate) async fn multi_byte_text_survives_any_cut(subject: &dyn Subject) {
    for piece in 1..=4 {
        let reply = Reply::text(["Zürich ✓", " 東京 🎉"]).in_pieces_of(piece);
        let server = serve(ModelScript::new().reply(reply)).await;
        let (shown, _) = Shown::output(&*client(subject, &server).await, &ask("hi")).await;
        assert_eq!(shown.text, "Zürich ✓ 東京 🎉");
    }
}

pub(crate) async fn counts_every_kind_of_token(subject: &dyn Subject) {
    let usage = rune_testkit::Usage {
        input: 100,
        output: 50,
        cached: 40,
        cache_write: 0,
        reasoning: 20,
    };
    let reply = Reply::text("x").reasoning("hm").usage(usage);
    let server = serve(ModelScript::new().reply(reply)).await;
    let (shown, output) = Shown::output(&*client(subject, &server).await, &ask("hi")).await;
    let expected = Usage {
        input_tokens: 100,
        output_tokens: 50,
        cached_tokens: 40,
        cache_write_tokens: 0,
        reasoning_tokens: 20,
    };
    assert_eq!(output.usage, expected);
    assert_eq!(shown.reasoning, "hm");
}

/// Appends a reply and answers to its calls.
pub(crate) fn answer(request: &mut ModelRequest, output: ModelOutput) {
    let results = calls(&output.blocks)
        .into_iter()
        .map(|(id, name, _)| result(&id, &name, "fine"));
    // In the wrong order, as they may finish.
    let results = results.rev().collect();
    request
        .messages
        .push(message(Role::Assistant, output.blocks));
    request.messages.push(message(Role::Tool, results));
}

/// Two parallel calls, another step with a call, then the answer; everything is checked
/// by the server as the vendor does.
pub(crate) async fn tool_loop(client: &dyn LlmClient, request: &mut ModelRequest) {
    let (_, first) = Shown::output(client, request).await;
    assert_eq!(first.stop, StopReason::ToolUse);
    let made: Vec<_> = calls(&first.blocks)
        .into_iter()
        .map(|(_, name, input)| (name, input))
        .collect();
    let expected = [
        ("weather".to_owned(), json!({"city": "Oslo"})),
        ("time".to_owned(), json!({"city": "Zürich"})),
    ];
    assert_eq!(made, expected);
    answer(request, first);
    let (_, second) = Shown::output(client, request).await;
    assert_eq!(calls(&second.blocks).len(), 1);
    answer(request, second);
    let (shown, last) = Shown::output(client, request).await;
    assert_eq!(shown.text, "It rains.");
    request.messages.push(message(Role::Assistant, last.blocks));
}

pub(crate) fn tool_script() -> ModelScript {
    let weather = ToolCall::new("weather", json!({"city": "Oslo"}));
    let time = ToolCall::new("time", json!({"city": "Zürich"}));
    let again = ToolCall::new("time", json!({"city": "Bergen"}));
    ModelScript::new()
        .on_text("weather")
        .reply(
            Reply::calls([weather, time])
                .reasoning("two things")
                .saying("Let me see."),
        )
        .then(Reply::calls([again]).reasoning("once more"))
        .then(Reply::text("It rains.").reasoning("so"))
}

pub(crate) async fn carries_a_tool_loop_with_parallel_calls(subject: &dyn Subject) {
    for script in [tool_script(), tool_script().without_gemini_call_ids()] {
        let server = serve(script).await;
        let mut request = ask("weather?");
        tool_loop(&*client(subject, &server).await, &mut request).await;
        let seen = server.requests();
        assert_eq!(seen.len(), 3, "{seen:?}");
    }
}

pub(crate) async fn reports_why_the_model_stopped(subject: &dyn Subject) {
    for (stop, expected) in [
        (Stop::MaxTokens, StopReason::MaxTokens),
        (Stop::Refusal, StopReason::Refusal),
    ] {
        let server = serve(ModelScript::new().reply(Reply::text("x").stop(stop))).await;
        let (_, output) = Shown::output(&*client(subject, &server).await, &ask("hi")).await;
        assert_eq!(output.stop, expected);
    }
}

pub(crate) async fn hands_over_broken_arguments_as_text(subject: &dyn Subject) {
    if subject.lacks(Gap::BrokenArguments) {
        return;
    }
    let reply = Reply::calls([ToolCall::malformed("weather", "{\"city\":")]);
    let server = serve(
        ModelScript::new()
            .on_text("hi")
            .reply(reply)
            .then(Reply::text("ok")),
    )
    .await;
    let client = client(subject, &server).await;
    let mut request = request(vec![Message::user("hi")]);
    let (_, output) = Shown::output(&*client, &request).await;
    assert_eq!(calls(&output.blocks)[0].2, json!("{\"city\":"));
    answer(&mut request, output);
    let (shown, _) = Shown::output(&*client, &request).await;
    assert_eq!(shown.text, "ok");
}

pub(crate) async fn calls_one_tool(subject: &dyn Subject) {
    let call = ToolCall::new(
        "weather",
        json!({"city": "Zürich", "days": [1, {"a": null}]}),
    );
    let script = ModelScript::new()
        .on_text("weather")
        .reply(Reply::calls([call.clone()]))
        .then(Reply::text("It rains."));
    let server = serve(script).await;
    let client = client(subject, &server).await;
    let mut request = ask("weather?");
    let (_, output) = Shown::output(&*client, &request).await;
    let made = calls(&output.blocks);
    assert_eq!((made.len(), output.stop), (1, StopReason::ToolUse));
    assert_eq!((made[0].1.as_str(), &made[0].2), ("weather", &call.input));
    answer(&mut request, output);
    let (shown, output) = Shown::output(&*client, &request).await;
    assert_eq!(
        (shown.text.as_str(), output.stop),
        ("It rains.", StopReason::EndTurn)
    );
}

/// The server checks that it comes back unchanged; here that it comes back at all, in a
/// conversation that was stored in between.
pub(crate) async fn sends_reasoning_back_as_it_came(subject: &dyn Subject) {
    let server = serve(tool_script()).await;
    let client = client(subject, &server).await;
    let mut request = ask("weather?");
    let (_, output) = Shown::output(&*client, &request).await;
    let natives: Vec<Value> = output
        .blocks
        .iter()
        .filter_map(|block| match block {
            Block::Reasoning { native, .. } | Block::ToolCall { native, .. } => native.clone(),
            _ => None,
        })
        .map(|native| native.json)
        .collect();
    assert!(!natives.is_empty());
    let stored = serde_json::to_string(&output.blocks).unwrap();
    let blocks = serde_json::from_str(&stored).unwrap();
    answer(&mut request, ModelOutput { blocks, ..output });
    Shown::output(&*client, &request).await;
    let sent = server.requests().pop().unwrap().body;
    for native in natives {
        assert!(holds(&sent, &native), "{native} is not in {sent}");
    }
}

/// Whether `wanted` is somewhere in `value`; objects may have more fields there.
fn holds(value: &Value, wanted: &Value) -> bool {
    let here = match (value, wanted) {
        (Value::Object(fields), Value::Object(wanted)) => wanted
            .iter()
            .all(|(key, value)| fields.get(key) == Some(value)),
        _ => value == wanted,
    };
    here || match value {
        Value::Object(fields) => fields.values().any(|value| holds(value, wanted)),
        Value::Array(items) => items.iter().any(|value| holds(value, wanted)),
        _ => false,
    }
}

/// One pixel.
const PNG: &str = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";

pub(crate) async fn shows_images(subject: &dyn Subject) {
    if subject.lacks(Gap::Images) {
        return;
    }
    let url = "https://example.org/cat.png";
    let png = ImageSource::Data {
        media_type: "image/png".to_owned(),
        data: PNG.to_owned(),
    };
    let linked = ImageSource::Url {
        url: url.to_owned(),
    };
    let blocks = vec![
        Block::text("What is "),
        Block::Image { source: png },
        Block::Image { source: linked },
    ];
    let server = serve(ModelScript::new()).await;
    let request = request(vec![message(Role::User, blocks)]);
    let (shown, _) = Shown::output(&*client(subject, &server).await, &request).await;
    assert_eq!(shown.text, "Echo: What is ");
    let sent = server.requests()[0].body.to_string();
    assert!(sent.contains(PNG) && sent.contains(url), "{sent}");
}

fn person() -> Value {
    json!({
        "type": "object",
        "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0}},
        "required": ["name", "age"],
    })
}

/// With a schema of its answer and without tools.
fn schema_request(schema: Value) -> ModelRequest {
    ModelRequest {
        tools: Vec::new(),
        output_schema: Some(schema.into()),
        ..ask("who?")
    }
}

pub(crate) async fn holds_the_answer_to_a_schema(subject: &dyn Subject) {
    let server =
        serve(ModelScript::new().reply(Reply::text("{\"name\":\"Ada\",\"age\":36}"))).await;
    let client = client(subject, &server).await;
    let (shown, _) = Shown::output(&*client, &schema_request(person())).await;
    assert_eq!(shown.text, "{\"name\":\"Ada\",\"age\":36}");
    let body = server.requests()[0].body.clone();
    let place = match subject.wire() {
        _ if subject.lacks(Gap::Schemas) => return assert!(in_words(&body), "{body}"),
        Protocol::Anthropic => "/output_config/format/schema",
        Protocol::Openai => "/response_format/json_schema/schema",
        Protocol::Responses => "/text/format/schema",
        Protocol::Gemini => "/generationConfig/responseJsonSchema",
    };
    let sent = body.pointer(&format!("{place}/required"));
    assert_eq!(sent, Some(&json!(["name", "age"])), "{body}");
    assert!(!in_words(&body), "{body}");
}

/// Whether the model is told of the schema in the system prompt.
fn in_words(body: &Value) -> bool {
    body.to_string().contains("valid against this JSON Schema")
}

pub(crate) async fn a_schema_that_cannot_be_sent_is_said_in_words(subject: &dyn Subject) {
    if subject.lacks(Gap::Schemas) {
        return;
    }
    let refusal = json!({"error": {"message": "json_schema: not supported", "type": "x"}});
    let refused = Fault::status(400).body(refusal);
    let script = ModelScript::new()
        .fault_first(refused)
        .reply(Reply::text("{}"));
    let server = serve(script).await;
    let client = client(subject, &server).await;
    // The provider is asked once whether it knows schemas, not every time.
    for _ in 0..2 {
        Shown::output(&*client, &schema_request(person())).await;
    }
    let told: Vec<bool> = server
        .requests()
        .iter()
        .map(|seen| in_words(&seen.body))
        .collect();
    assert_eq!(told, [false, true, true]);
}

/// Two calls of a tool loop: what the second sends begins with what the first sent, so
/// that the provider finds it in its cache.
pub(crate) async fn repeats_the_prefix_byte_for_byte(subject: &dyn Subject) {
    let server = serve(tool_script()).await;
    let client = client(subject, &server).await;
    let mut request = ask("weather?");
    tool_loop(&*client, &mut request).await;
    let bodies: Vec<Value> = server
        .requests()
        .into_iter()
        .map(|seen| without_marks(seen.body))
        .collect();
    for pair in bodies.windows(2) {
        let [first, second] = pair else { continue };
        for (key, value) in first.as_object().unwrap() {
            match (value, &second[key]) {
                (Value::Array(said), Value::Array(more)) if more.len() > said.len() => {
                    let (said, more) = (json!(said).to_string(), json!(more).to_string());
                    assert!(more.starts_with(said.trim_end_matches(']')), "{more}");
                }
                (value, again) => assert_eq!(value.to_string(), again.to_string(), "{key}"),
            }
        }
    }
}

/// The marks of what is to be cached move on and are no part of the prompt.
fn without_marks(mut value: Value) -> Value {
    match &mut value {
        Value::Object(fields) => {
            fields.remove("cache_control");
            fields
                .values_mut()
                .for_each(|value| *value = without_marks(value.take()));
        }
        Value::Array(items) => items
            .iter_mut()
            .for_each(|item| *item = without_marks(item.take())),
        _ => {}
    }
    value
}
