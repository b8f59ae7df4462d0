use rune_testkit::{ModelScript, ModelServer, Protocol, Reply, ToolCall};
use serde_json::{Value, json};

use crate::client::Client;

async fn server() -> ModelServer {
    let calls = [
        ToolCall::new("weather", json!({"city": "Oslo"})),
        ToolCall::new("time", json!({})),
    ];
    let script = ModelScript::new()
        .on_text("trip")
        .reply(Reply::calls(calls).reasoning("Hm."))
        .then(Reply::text("ok"));
    ModelServer::start(script).await.unwrap()
}

/// Sends `body` and returns status and error message.
async fn refused(client: &Client<'_>, body: &Value) -> (u16, String) {
    let response = client.request(body).send().await.unwrap();
    let status = response.status().as_u16();
    let body: Value = response.json().await.unwrap();
    (
        status,
        body["error"]["message"]
            .as_str()
            .unwrap_or_default()
            .to_owned(),
    )
}

/// After two parallel calls and their results, `spoil` the history: the answer must be 400 with `expected`.
async fn spoiled(protocol: Protocol, expected: &str, spoil: impl Fn(&mut Vec<Value>)) {
    let server = server().await;
    let mut client = Client::new(&server, protocol, true).user("trip");
    let said = client.ask().await;
    client.results(&said);
    spoil(&mut client.history);
    let (status, message) = refused(&client, &client.body()).await;
    assert_eq!(status, 400, "{protocol:?} {message}");
    assert!(message.contains(expected), "{protocol:?} {message}");
}

#[tokio::test]
async fn wants_a_key() {
    let server = ModelServer::start(ModelScript::new().api_key("right"))
        .await
        .unwrap();
    for protocol in Protocol::ALL {
        let client = Client::new(&server, protocol, true).user("hi");
        let (status, _) = refused(&client, &client.body()).await;
        assert_eq!(
            status,
            if protocol == Protocol::Gemini {
                400
            } else {
                401
            },
            "{protocol:?}"
        );
        let mut request = client.request(&client.body()).build().unwrap();
        for name in ["x-api-key", "authorization", "x-goog-api-key"] {
            request.headers_mut().remove(name);
        }
        assert_eq!(
            reqwest::Client::new()
                .execute(request)
                .await
                .unwrap()
                .status(),
            401,
            "{protocol:?}"
        );
    }
}

#[tokio::test]
async fn anthropic_wants_version_and_max_tokens_and_no_sampling() {
    let server = server().await;
    let client = Client::new(&server, Protocol::Anthropic, true).user("hi");
    let mut request = client.request(&client.body()).build().unwrap();
    request.headers_mut().remove("anthropic-version");
    assert_eq!(
        reqwest::Client::new()
            .execute(request)
            .await
            .unwrap()
            .status(),
        400
    );
    for (change, expected) in [
        (json!({"max_tokens": null}), "max_tokens"),
        (
            json!({"temperature": 1.0}),
            "temperature: Extra inputs are not permitted",
        ),
        (
            json!({"tempreature": 1.0}),
            "tempreature: Extra inputs are not permitted",
        ),
        (
            json!({"tools": [{"name": "a.b", "input_schema": {"type": "object"}}]}),
            "tools.0.custom.name",
        ),
        (
            json!({"messages": [{"role": "tool", "content": "x"}]}),
            "role",
        ),
        (
            json!({"messages": [{"role": "user", "content": ""}]}),
            "non-empty content",
        ),
        (
            json!({"messages": [{"role": "user", "content": [{"type": "text", "text": ""}]}]}),
            "must be non-empty",
        ),
    ] {
        let mut body = client.body();
        body.as_object_mut()
            .unwrap()
            .extend(change.as_object().unwrap().clone());
        let (status, message) = refused(&client, &body).await;
        assert!(
            status == 400 && message.contains(expected),
            "{change}: {status} {message}"
        );
    }
}

#[tokio::test]
async fn bad_tool_names_and_empty_contents_are_refused() {
    let server = server().await;
    let bad_tool = |protocol| match protocol {
        Protocol::Anthropic => json!([{"name": "rune@x", "input_schema": {"type": "object"}}]),
        Protocol::Openai => json!([{"type": "function", "function": {"name": "rune@x"}}]),
        Protocol::Responses => json!([{"type": "function", "name": "rune@x"}]),
        Protocol::Gemini => json!([{"functionDeclarations": [{"name": "rune@x"}]}]),
    };
    for protocol in Protocol::ALL {
        let mut client = Client::new(&server, protocol, true).user("hi");
        let mut body = client.body();
        body["tools"] = bad_tool(protocol);
        assert_eq!(refused(&client, &body).await.0, 400, "{protocol:?}");
        client.history = vec![json!({"role": "user", "content": [], "parts": []})];
        assert_eq!(
            refused(&client, &client.body()).await.0,
            400,
            "{protocol:?}"
        );
        client.history.clear();
        assert_eq!(
            refused(&client, &client.body()).await.0,
            400,
            "{protocol:?}"
        );
    }
}

#[tokio::test]
async fn a_call_without_result_is_refused() {
    for (protocol, expected) in [
        (
            Protocol::Anthropic,
            "without `tool_result` blocks immediately after",
        ),
        (Protocol::Openai, "did not have response messages"),
        (Protocol::Responses, "No tool output found"),
        (Protocol::Gemini, "number of function response parts"),
    ] {
        spoiled(protocol, expected, |history| {
            let model = |item: &Value| item["role"] == "user" || item["type"] == "function_call";
            let end = history.iter().rposition(model).unwrap_or(1);
            history.truncate(if protocol == Protocol::Responses {
                end + 1
            } else {
                2
            });
        })
        .await;
        spoiled(protocol, expected, |history| {
            let last = history.last_mut().unwrap();
            match protocol {
                Protocol::Anthropic => drop(last["content"].as_array_mut().unwrap().pop()),
                Protocol::Openai | Protocol::Responses => drop(history.pop()),
                Protocol::Gemini => drop(last["parts"].as_array_mut().unwrap().pop()),
            }
        })
        .await;
    }
}

#[tokio::test]
async fn a_result_without_call_is_refused() {
    for (protocol, expected) in [
        (Protocol::Anthropic, "unexpected `tool_use_id`"),
        (
            Protocol::Openai,
            "must be a response to a preceeding message",
        ),
        (Protocol::Responses, "No tool call found"),
        (Protocol::Gemini, "immediately after a function call turn"),
    ] {
        spoiled(protocol, expected, |history| {
            history.retain(|item| item["type"] != "function_call");
            if protocol != Protocol::Responses {
                history.remove(1);
            }
        })
        .await;
    }
}

#[tokio::test]
async fn results_have_their_role() {
    for (protocol, expected) in [
        (Protocol::Anthropic, "can only be in `user` messages"),
        (Protocol::Openai, "Supported values are"),
        (Protocol::Gemini, "cannot hold this part"),
    ] {
        let role = match protocol {
            Protocol::Anthropic => "assistant",
            Protocol::Openai | Protocol::Responses => "results",
            Protocol::Gemini => "model",
        };
        spoiled(protocol, expected, |history| {
            history.last_mut().unwrap()["role"] = json!(role);
        })
        .await;
    }
}

#[tokio::test]
async fn text_before_the_results_is_refused_by_anthropic() {
    spoiled(Protocol::Anthropic, "immediately after", |history| {
        let content = history[2]["content"].as_array_mut().unwrap();
        content.insert(0, json!({"type": "text", "text": "here"}));
    })
    .await;
}

#[tokio::test]
async fn signatures_come_back_unchanged() {
    spoiled(Protocol::Anthropic, "Invalid `signature`", |history| {
        history[1]["content"][0]["thinking"] = json!("Something else.");
    })
    .await;
    spoiled(Protocol::Anthropic, "Expected `thinking`", |history| {
        history[1]["content"].as_array_mut().unwrap().remove(0);
    })
    .await;
    spoiled(Protocol::Responses, "could not be verified", |history| {
        history[1]["summary"][0]["text"] = json!("Something else.");
    })
    .await;
    spoiled(
        Protocol::Responses,
        "required 'reasoning' item",
        |history| {
            history.remove(1);
        },
    )
    .await;
    spoiled(Protocol::Responses, "required following item", |history| {
        let reasoning = history[1].clone();
        history.push(reasoning);
    })
    .await;
    let part = |history: &mut Vec<Value>, change: &dyn Fn(&mut serde_json::Map<String, Value>)| {
        let parts = history[1]["parts"].as_array_mut().unwrap();
        let call = parts
            .iter_mut()
            .find(|part| part["functionCall"].is_object())
            .unwrap();
        change(call.as_object_mut().unwrap());
    };
    spoiled(Protocol::Gemini, "missing a thought_signature", |history| {
        part(history, &|call| drop(call.remove("thoughtSignature")));
    })
    .await;
    spoiled(Protocol::Gemini, "Corrupted thought signature", |history| {
        part(history, &|call| {
            drop(call.insert("thoughtSignature".to_owned(), json!("AAAA")));
        });
    })
    .await;
}

#[tokio::test]
async fn duplicate_ids_are_refused() {
    spoiled(Protocol::Anthropic, "ids must be unique", |history| {
        let (calls, results) = (history[1].clone(), history[2].clone());
        history.extend([calls, results]);
    })
    .await;
    spoiled(Protocol::Openai, "Duplicate value", |history| {
        let again = history[1..].to_vec();
        history.extend(again);
    })
    .await;
    spoiled(Protocol::Responses, "Duplicate value", |history| {
        let again = history[1..].to_vec();
        history.extend(again);
    })
    .await;
    spoiled(Protocol::Gemini, "Duplicate function call id", |history| {
        let again = history[1..].to_vec();
        history.extend(again);
    })
    .await;
}

#[tokio::test]
async fn responses_forgets_what_is_not_encrypted() {
    let server = server().await;
    let mut client = Client::new(&server, Protocol::Responses, true).user("trip");
    let mut body = client.body();
    body["include"] = json!([]);
    let answer = client.request(&body).send().await.unwrap();
    let said = client.understand(&answer.text().await.unwrap());
    assert_eq!(said.reasoning, "Hm.");
    client.results(&said);
    let (status, message) = refused(&client, &client.body()).await;
    assert_eq!(status, 404, "{message}");
    assert!(message.contains("not persisted"), "{message}");
}

#[tokio::test]
async fn responses_refuses_what_the_vendor_refuses() {
    let server = server().await;
    let client = Client::new(&server, Protocol::Responses, true).user("hi");
    for (change, expected) in [
        (json!({"messages": []}), "Unknown parameter: 'messages'"),
        (json!({"stop": ["x"]}), "Unknown parameter: 'stop'"),
        (json!({"max_output_tokens": 3}), ">= 16"),
        (json!({"input": []}), "'input'"),
        (
            json!({"tools": [{"type": "function", "function": {"name": "a"}}]}),
            "tools[0].name",
        ),
        (
            json!({"input": [{"role": "tool", "content": "x"}]}),
            "Supported values",
        ),
        (
            json!({"input": [{"role": "user", "content": [{"type": "text", "text": "x"}]}]}),
            "input_text",
        ),
    ] {
        let mut body = client.body();
        let fields = change.as_object().unwrap().clone();
        body.as_object_mut().unwrap().extend(fields);
        let (status, message) = refused(&client, &body).await;
        assert!(
            status == 400 && message.contains(expected),
            "{change}: {status} {message}"
        );
    }
}

#[tokio::test]
async fn schemas_and_images_are_checked_as_the_vendor_does() {
    let server = server().await;
    let open = json!({"type": "object", "properties": {"a": {"type": "integer", "minimum": 1}}});
    let format = json!({"type": "json_schema", "name": "o", "strict": true, "schema": open});
    for (protocol, key, value) in [
        (
            Protocol::Anthropic,
            "output_config",
            json!({"format": {"type": "json_schema", "schema": open}}),
        ),
        (
            Protocol::Openai,
            "response_format",
            json!({"type": "json_schema", "json_schema": format}),
        ),
        (Protocol::Responses, "text", json!({"format": format})),
        (
            Protocol::Anthropic,
            "messages",
            json!([{"role": "user", "content": [{"type": "image", "source":
                {"type": "base64", "media_type": "image/tiff", "data": "AAAA"}}]}]),
        ),
        (
            Protocol::Openai,
            "messages",
            json!([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "AAAA"}}]}]),
        ),
        (
            Protocol::Responses,
            "input",
            json!([{"role": "user", "content": [{"type": "input_image", "image_url": "data:image/png;base64,???"}]}]),
        ),
        (
            Protocol::Gemini,
            "contents",
            json!([{"role": "user", "parts": [{"inlineData": {"mimeType": "image/png", "data": "x"}}]}]),
        ),
    ] {
        let client = Client::new(&server, protocol, true).user("hi");
        let mut body = client.body();
        body[key] = value;
        assert_eq!(refused(&client, &body).await.0, 400, "{protocol:?} {key}");
    }
}
