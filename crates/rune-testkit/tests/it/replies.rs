use rune_testkit::{ModelScript, ModelServer, Otherwise, Protocol, Reply, Stop, ToolCall, Usage};
use serde_json::json;

use crate::client::Client;

const WAYS: [(Protocol, bool); 8] = [
    (Protocol::Anthropic, true),
    (Protocol::Anthropic, false),
    (Protocol::Openai, true),
    (Protocol::Openai, false),
    (Protocol::Responses, true),
    (Protocol::Responses, false),
    (Protocol::Gemini, true),
    (Protocol::Gemini, false),
];

fn trip() -> ModelScript {
    let calls = [
        ToolCall::new("weather", json!({"city": "Zürich", "days": [1, 2, 3]})),
        ToolCall::new("time", json!({"zone": "Europe/Zurich"})),
    ];
    ModelScript::new()
        .on_text("trip")
        .reply(
            Reply::calls(calls)
                .saying("Let me look.")
                .reasoning("The user travels."),
        )
        .then(Reply::text(["It ", "rains", "."]))
}

#[tokio::test]
async fn echoes_without_a_script() {
    let server = ModelServer::start(ModelScript::new().echo_chunks(4))
        .await
        .unwrap();
    for (protocol, stream) in WAYS {
        let said = Client::new(&server, protocol, stream)
            .user("how are you?")
            .ask()
            .await;
        assert_eq!(said.text, "Echo: how are you?", "{protocol:?} {stream}");
        assert!(said.finished, "{protocol:?} {stream}");
        assert_eq!(said.usage, (10, 5), "{protocol:?} {stream}");
    }
}

#[tokio::test]
async fn says_the_same_on_every_protocol() {
    let usage = Usage {
        input: 100,
        output: 50,
        cached: 40,
        cache_write: 20,
        reasoning: 30,
    };
    let reply = Reply::text(["Grü", "ezi"])
        .reasoning("Swiss.")
        .usage(usage)
        .stop(Stop::MaxTokens);
    let server = ModelServer::start(ModelScript::new().reply(reply))
        .await
        .unwrap();
    for (protocol, stream) in WAYS {
        let said = Client::new(&server, protocol, stream)
            .user("hello")
            .ask()
            .await;
        assert_eq!(
            (said.text.as_str(), said.reasoning.as_str()),
            ("Grüezi", "Swiss."),
            "{protocol:?} {stream}"
        );
        assert_eq!(said.usage, (100, 50), "{protocol:?} {stream}");
        let stop = match protocol {
            Protocol::Anthropic => "max_tokens",
            Protocol::Openai => "length",
            Protocol::Responses => "max_output_tokens",
            Protocol::Gemini => "MAX_TOKENS",
        };
        assert_eq!(said.stop, stop);
    }
}

#[tokio::test]
async fn parallel_calls_and_their_results_make_a_conversation() {
    for script in [trip(), trip().without_gemini_call_ids()] {
        let server = ModelServer::start(script).await.unwrap();
        for (protocol, stream) in WAYS {
            let mut client = Client::new(&server, protocol, stream).user("plan my trip");
            let said = client.ask().await;
            assert_eq!(said.text, "Let me look.");
            assert_eq!(
                said.calls,
                [
                    (
                        "weather".to_owned(),
                        json!({"city": "Zürich", "days": [1, 2, 3]})
                    ),
                    ("time".to_owned(), json!({"zone": "Europe/Zurich"})),
                ],
                "{protocol:?} {stream}"
            );
            client.results(&said);
            assert_eq!(
                client.ask().await.text,
                "It rains.",
                "{protocol:?} {stream}"
            );
        }
    }
}

#[tokio::test]
async fn tears_events_and_characters_apart() {
    let server =
        ModelServer::start(ModelScript::new().reply(Reply::text("Zürich ✓").in_pieces_of(1)))
            .await
            .unwrap();
    for protocol in Protocol::ALL {
        assert_eq!(
            Client::new(&server, protocol, true)
                .user("hi")
                .ask()
                .await
                .text,
            "Zürich ✓"
        );
    }
}

#[tokio::test]
async fn plays_turns_in_order_and_then_refuses() {
    let server = ModelServer::start(ModelScript::turns([Reply::text("one"), Reply::text("two")]))
        .await
        .unwrap();
    let client = Client::new(&server, Protocol::Openai, true).user("hi");
    assert_eq!(client.ask().await.text, "one");
    assert_eq!(client.ask().await.text, "two");
    assert_eq!(client.send().await.status(), 400);
}

#[tokio::test]
async fn rules_match_on_model_and_results() {
    let script = ModelScript::new()
        .on_model("other")
        .reply(Reply::text("wrong"))
        .on_results(0)
        .reply(Reply::text("first"))
        .otherwise(Otherwise::Refuse);
    let server = ModelServer::start(script).await.unwrap();
    for protocol in Protocol::ALL {
        assert_eq!(
            Client::new(&server, protocol, true)
                .user("hi")
                .ask()
                .await
                .text,
            "first"
        );
    }
}

#[tokio::test]
async fn gemini_streams_an_array_without_alt_sse() {
    let server = ModelServer::start(ModelScript::new()).await.unwrap();
    let body = json!({"contents": [{"role": "user", "parts": [{"text": "hi"}]}]});
    let url = format!(
        "{}/v1/models/m:streamGenerateContent?key=k",
        server.base_url(Protocol::Gemini)
    );
    let answer = reqwest::Client::new()
        .post(url)
        .json(&body)
        .send()
        .await
        .unwrap();
    let chunks: Vec<serde_json::Value> = answer.json().await.unwrap();
    assert_eq!(
        chunks[0]["candidates"][0]["content"]["parts"][0]["text"],
        "Echo: hi"
    );
}
