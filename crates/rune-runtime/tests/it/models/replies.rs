//! What a provider says is what the engine gets, on every protocol.

use rune_runtime::model::{LlmClient, ModelOutput, ModelRequest, Protocol};
use rune_store_runtime::{Message, Role, StopReason, Usage};
use rune_testkit::{ModelScript, ModelServer, Reply, Stop, ToolCall};
use serde_json::json;

use super::{Shown, ask, calls, client, message, request, result};

async fn serve(script: ModelScript) -> ModelServer {
    ModelServer::start(script).await.unwrap()
}

#[tokio::test]
async fn streams_text_as_it_comes() {
    for protocol in Protocol::ALL {
        let server = serve(ModelScript::new().reply(Reply::text(["Hello", ", ", "you"]))).await;
        let (shown, output) = Shown::output(&*client(&server, protocol), &ask("hi")).await;
        assert_eq!(shown.text, "Hello, you", "{protocol}");
        let text = message(Role::Assistant, output.blocks).text();
        assert_eq!(
            (text.as_str(), output.stop),
            ("Hello, you", StopReason::EndTurn)
        );
    }
}

#[tokio::test]
async fn multi_byte_text_survives_any_cut() {
    for protocol in Protocol::ALL {
        for piece in 1..=4 {
            let reply = Reply::text(["Zürich ✓", " 東京 🎉"]).in_pieces_of(piece);
            let server = serve(ModelScript::new().reply(reply)).await;
            let (shown, _) = Shown::output(&*client(&server, protocol), &ask("hi")).await;
            assert_eq!(shown.text, "Zürich ✓ 東京 🎉", "{protocol}");
        }
    }
}

#[tokio::test]
async fn counts_every_kind_of_token() {
    let usage = rune_testkit::Usage {
        input: 100,
        output: 50,
        cached: 40,
        cache_write: 0,
        reasoning: 20,
    };
    for protocol in Protocol::ALL {
        let reply = Reply::text("x").reasoning("hm").usage(usage);
        let server = serve(ModelScript::new().reply(reply)).await;
        let (shown, output) = Shown::output(&*client(&server, protocol), &ask("hi")).await;
        let expected = Usage {
            input_tokens: 100,
            output_tokens: 50,
            cached_tokens: 40,
            cache_write_tokens: 0,
            reasoning_tokens: 20,
        };
        assert_eq!(output.usage, expected, "{protocol}");
        assert_eq!(shown.reasoning, "hm", "{protocol}");
    }
}

/// Appends a reply and answers to its calls.
fn answer(request: &mut ModelRequest, output: ModelOutput) {
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
async fn tool_loop(client: &dyn LlmClient, request: &mut ModelRequest) {
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

fn tool_script() -> ModelScript {
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

#[tokio::test]
async fn carries_a_tool_loop_with_parallel_calls() {
    for protocol in Protocol::ALL {
        for script in [tool_script(), tool_script().without_gemini_call_ids()] {
            let server = serve(script).await;
            let mut request = ask("weather?");
            tool_loop(&*client(&server, protocol), &mut request).await;
            let seen = server.requests();
            assert_eq!(seen.len(), 3, "{protocol}: {seen:?}");
        }
    }
}

#[tokio::test]
async fn a_history_of_one_protocol_is_accepted_by_the_others() {
    for from in Protocol::ALL {
        let server = serve(tool_script()).await;
        let mut request = ask("weather?");
        tool_loop(&*client(&server, from), &mut request).await;
        request.messages.push(Message::user("thanks"));
        for to in Protocol::ALL {
            let (shown, _) = Shown::output(&*client(&server, to), &request).await;
            assert_eq!(shown.text, "Echo: thanks", "{from} to {to}");
        }
    }
}

#[tokio::test]
async fn the_next_provider_takes_over_within_a_tool_loop() {
    for from in Protocol::ALL {
        for to in Protocol::ALL {
            // Two vendors: what one has signed the other does not know.
            let (one, other) = (serve(tool_script()).await, serve(tool_script()).await);
            let mut request = ask("weather?");
            let (_, first) = Shown::output(&*client(&one, from), &request).await;
            answer(&mut request, first);
            let (_, second) = Shown::output(&*client(&other, to), &request).await;
            assert_eq!(calls(&second.blocks).len(), 1, "{from} to {to}");
        }
    }
}

#[tokio::test]
async fn reports_why_the_model_stopped() {
    for protocol in Protocol::ALL {
        for (stop, expected) in [
            (Stop::MaxTokens, StopReason::MaxTokens),
            (Stop::Refusal, StopReason::Refusal),
        ] {
            let server = serve(ModelScript::new().reply(Reply::text("x").stop(stop))).await;
            let (_, output) = Shown::output(&*client(&server, protocol), &ask("hi")).await;
            assert_eq!(output.stop, expected, "{protocol}");
        }
    }
}

#[tokio::test]
async fn hands_over_broken_arguments_as_text() {
    for protocol in [Protocol::Anthropic, Protocol::OpenAi] {
        let reply = Reply::calls([ToolCall::malformed("weather", "{\"city\":")]);
        let server = serve(
            ModelScript::new()
                .on_text("hi")
                .reply(reply)
                .then(Reply::text("ok")),
        )
        .await;
        let client = client(&server, protocol);
        let mut request = request(vec![Message::user("hi")]);
        let (_, output) = Shown::output(&*client, &request).await;
        assert_eq!(
            calls(&output.blocks)[0].2,
            json!("{\"city\":"),
            "{protocol}"
        );
        answer(&mut request, output);
        let (shown, _) = Shown::output(&*client, &request).await;
        assert_eq!(shown.text, "ok");
    }
}
