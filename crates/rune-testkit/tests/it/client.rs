//! A raw client of each protocol: builds requests by hand and reads the bytes.

use reqwest::Response;
use rune_testkit::{ModelServer, Protocol};
use serde_json::{Value, json};

pub(crate) const TOOLS: [&str; 2] = ["weather", "time"];

/// A conversation in the words of one protocol.
pub(crate) struct Client<'a> {
    pub(crate) server: &'a ModelServer,
    pub(crate) protocol: Protocol,
    pub(crate) stream: bool,
    pub(crate) history: Vec<Value>,
}

/// What an answer says, the same for every protocol.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Said {
    pub(crate) text: String,
    pub(crate) reasoning: String,
    pub(crate) calls: Vec<(String, Value)>,
    pub(crate) stop: String,
    /// input, output
    pub(crate) usage: (u64, u64),
    pub(crate) finished: bool,
    /// The model's message, to be sent back.
    pub(crate) echo: Value,
}

impl<'a> Client<'a> {
    pub(crate) fn new(server: &'a ModelServer, protocol: Protocol, stream: bool) -> Self {
        Self {
            server,
            protocol,
            stream,
            history: Vec::new(),
        }
    }

    pub(crate) fn user(mut self, text: &str) -> Self {
        self.history.push(match self.protocol {
            Protocol::Anthropic | Protocol::Openai | Protocol::Responses => {
                json!({"role": "user", "content": text})
            }
            Protocol::Gemini => json!({"role": "user", "parts": [{"text": text}]}),
        });
        self
    }

    /// Appends the model's message and a result for every call in it.
    pub(crate) fn results(&mut self, said: &Said) {
        if self.protocol == Protocol::Responses {
            self.history.extend(said.echo.as_array().cloned().unwrap());
        } else {
            self.history.push(said.echo.clone());
        }
        let part = |call: &Value| match self.protocol {
            Protocol::Anthropic => {
                json!({"type": "tool_result", "tool_use_id": call["id"], "content": "ok"})
            }
            Protocol::Openai => {
                json!({"role": "tool", "tool_call_id": call["id"], "content": "ok"})
            }
            Protocol::Responses => {
                json!({"type": "function_call_output", "call_id": call["call_id"], "output": "ok"})
            }
            Protocol::Gemini => {
                let mut response = call["functionCall"].clone();
                response.as_object_mut().unwrap().remove("args");
                response["response"] = json!({"output": "ok"});
                json!({"functionResponse": response})
            }
        };
        match self.protocol {
            Protocol::Openai | Protocol::Responses => self
                .history
                .extend(calls_in(&said.echo).into_iter().map(part)),
            Protocol::Anthropic => {
                let results: Vec<Value> = calls_in(&said.echo).into_iter().map(part).collect();
                self.history
                    .push(json!({"role": "user", "content": results}));
            }
            Protocol::Gemini => {
                let results: Vec<Value> = calls_in(&said.echo).into_iter().map(part).collect();
                self.history.push(json!({"role": "user", "parts": results}));
            }
        }
    }

    pub(crate) fn body(&self) -> Value {
        let history = &self.history;
        let schema = json!({"type": "object"});
        match self.protocol {
            Protocol::Anthropic => {
                let tools = TOOLS.map(|name| json!({"name": name, "input_schema": schema}));
                json!({"model": "m", "max_tokens": 100, "messages": history, "tools": tools, "stream": self.stream})
            }
            Protocol::Openai => {
                let tools =
                    TOOLS.map(|name| json!({"type": "function", "function": {"name": name, "parameters": schema}}));
                let mut body = json!({"model": "m", "messages": history, "tools": tools, "stream": self.stream});
                if self.stream {
                    body["stream_options"] = json!({"include_usage": true});
                }
                body
            }
            Protocol::Responses => {
                let tools = TOOLS
                    .map(|name| json!({"type": "function", "name": name, "parameters": schema}));
                json!({"model": "m", "input": history, "tools": tools, "stream": self.stream, "store": false,
                    "include": ["reasoning.encrypted_content"]})
            }
            Protocol::Gemini => {
                let tools = TOOLS.map(|name| json!({"name": name, "parametersJsonSchema": schema}));
                json!({"contents": history, "tools": [{"functionDeclarations": tools}]})
            }
        }
    }

    pub(crate) fn request(&self, body: &Value) -> reqwest::RequestBuilder {
        let base = self.server.base_url(self.protocol);
        let http = reqwest::Client::new();
        match self.protocol {
            Protocol::Anthropic => http
                .post(format!("{base}/v1/messages?beta=true"))
                .header("x-api-key", "k")
                .header("anthropic-version", "2026-10-21"),
            Protocol::Openai => http
                .post(format!("{base}/chat/completions"))
                .bearer_auth("k"),
            Protocol::Responses => http.post(format!("{base}/responses")).bearer_auth("k"),
            Protocol::Gemini if self.stream => http
                .post(format!(
                    "{base}/v1beta/models/m:streamGenerateContent?alt=sse"
                ))
                .header("x-goog-api-key", "k"),
            Protocol::Gemini => http
                .post(format!("{base}/v1/models/m:generateContent"))
                .header("x-goog-api-key", "k"),
        }
        .json(body)
    }

    pub(crate) async fn send(&self) -> Response {
        self.try_send().await.unwrap()
    }

    pub(crate) async fn try_send(&self) -> reqwest::Result<Response> {
        self.request(&self.body()).send().await
    }

    /// The answer, which must be a good one.
    pub(crate) async fn ask(&self) -> Said {
        let response = self.send().await;
        let status = response.status();
        let (bytes, whole) = read(response).await;
        let text = String::from_utf8(bytes).unwrap();
        assert_eq!(status, 200, "{text}");
        assert!(whole, "the connection broke after {text}");
        self.understand(&text)
    }

    pub(crate) fn understand(&self, text: &str) -> Said {
        let values = if self.stream {
            events(text)
        } else {
            vec![serde_json::from_str(text).unwrap()]
        };
        match self.protocol {
            Protocol::Anthropic if self.stream => anthropic_stream(&values),
            Protocol::Anthropic => anthropic(&values[0]),
            Protocol::Openai if self.stream => {
                openai_stream(&values, text.ends_with("data: [DONE]\n\n"))
            }
            Protocol::Openai => openai(&values[0]),
            Protocol::Responses if self.stream => {
                let done = |event: &&Value| event["type"] == "response.output_item.done";
                let items: Vec<&Value> = values
                    .iter()
                    .filter(done)
                    .map(|event| &event["item"])
                    .collect();
                let mut response = json!({"output": items});
                let end = values.last().map_or(&Value::Null, |last| &last["response"]);
                for key in ["status", "incomplete_details", "usage"] {
                    response[key] = end[key].clone();
                }
                responses(&response)
            }
            Protocol::Responses => responses(&values[0]),
            Protocol::Gemini => gemini(&values),
        }
    }
}

fn calls_in(echo: &Value) -> Vec<&Value> {
    let list = ["content", "parts", "tool_calls"]
        .iter()
        .filter_map(|key| echo.get(key)?.as_array())
        .chain(echo.as_array())
        .flatten();
    list.filter(|item| {
        item["type"] == "tool_use"
            || item["type"] == "function_call"
            || item["type"] == "function"
            || !item["functionCall"].is_null()
    })
    .collect()
}

/// The bytes until the end or the break, and whether it was the end.
pub(crate) async fn read(mut response: Response) -> (Vec<u8>, bool) {
    let mut bytes = Vec::new();
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) => bytes.extend_from_slice(&chunk),
            Ok(None) => return (bytes, true),
            Err(_) => return (bytes, false),
        }
    }
}

/// The JSON of the `data:` lines; an `event:` line must agree with its `type`.
pub(crate) fn events(text: &str) -> Vec<Value> {
    let mut values = Vec::new();
    for event in text
        .replace("\r\n", "\n")
        .split("\n\n")
        .filter(|event| !event.is_empty())
    {
        let name = event.lines().find_map(|line| line.strip_prefix("event: "));
        let data: String = event
            .lines()
            .filter_map(|line| line.strip_prefix("data: "))
            .collect();
        let Ok(value) = serde_json::from_str::<Value>(&data) else {
            continue;
        };
        assert!(name.is_none_or(|name| value["type"] == name), "{event}");
        values.push(value);
    }
    values
}

fn anthropic_stream(events: &[Value]) -> Said {
    let mut message = Value::Null;
    let mut arguments = String::new();
    for event in events {
        let block = event["index"]
            .as_u64()
            .map_or(0, |index| usize::try_from(index).unwrap());
        match event["type"].as_str().unwrap() {
            "message_start" => message = event["message"].clone(),
            "content_block_start" => {
                message["content"]
                    .as_array_mut()
                    .unwrap()
                    .push(event["content_block"].clone());
                arguments.clear();
            }
            "content_block_delta" => {
                let block = &mut message["content"][block];
                let delta = &event["delta"];
                for key in ["text", "thinking", "signature"] {
                    if let Some(piece) = delta[key].as_str() {
                        block[key] = json!(format!(
                            "{}{piece}",
                            block[key].as_str().unwrap_or_default()
                        ));
                    }
                }
                arguments.push_str(delta["partial_json"].as_str().unwrap_or_default());
            }
            "content_block_stop" if !arguments.is_empty() => {
                message["content"][block]["input"] = serde_json::from_str(&arguments).unwrap();
            }
            "message_delta" => {
                message["stop_reason"] = event["delta"]["stop_reason"].clone();
                message["usage"] = event["usage"].clone();
            }
            "message_stop" => message["stopped"] = json!(true),
            _ => {}
        }
    }
    let finished = message["stopped"] == true;
    Said {
        finished,
        ..anthropic(&message)
    }
}

fn anthropic(message: &Value) -> Said {
    let blocks: Vec<Value> = message["content"].as_array().cloned().unwrap_or_default();
    let texts = |kind: &str| -> String {
        blocks
            .iter()
            .filter(|block| block["type"] == kind)
            .map(|block| block[kind].as_str().unwrap())
            .collect()
    };
    let usage = &message["usage"];
    let count = |key: &str| usage[key].as_u64().unwrap_or_default();
    Said {
        text: texts("text"),
        reasoning: texts("thinking"),
        calls: blocks
            .iter()
            .filter(|block| block["type"] == "tool_use")
            .map(|block| {
                (
                    block["name"].as_str().unwrap().to_owned(),
                    block["input"].clone(),
                )
            })
            .collect(),
        stop: message["stop_reason"]
            .as_str()
            .unwrap_or_default()
            .to_owned(),
        usage: (
            count("input_tokens")
                + count("cache_creation_input_tokens")
                + count("cache_read_input_tokens"),
            count("output_tokens"),
        ),
        finished: !message["stop_reason"].is_null(),
        echo: json!({"role": "assistant", "content": blocks}),
    }
}

fn openai_stream(chunks: &[Value], done: bool) -> Said {
    let mut message = json!({"role": "assistant", "content": null});
    let mut whole = json!({"choices": [{"finish_reason": null}]});
    let mut calls: Vec<Value> = Vec::new();
    for chunk in chunks {
        if !chunk["usage"].is_null() {
            whole["usage"] = chunk["usage"].clone();
        }
        let choice = &chunk["choices"][0];
        if !choice["finish_reason"].is_null() {
            whole["choices"][0]["finish_reason"] = choice["finish_reason"].clone();
        }
        for key in ["content", "reasoning_content"] {
            if let Some(piece) = choice["delta"][key].as_str() {
                message[key] = json!(format!(
                    "{}{piece}",
                    message[key].as_str().unwrap_or_default()
                ));
            }
        }
        for piece in choice["delta"]["tool_calls"]
            .as_array()
            .into_iter()
            .flatten()
        {
            let index = usize::try_from(piece["index"].as_u64().unwrap()).unwrap();
            if index == calls.len() {
                let mut call = piece.clone();
                call.as_object_mut().unwrap().remove("index");
                calls.push(call);
            } else {
                let arguments = &mut calls[index]["function"]["arguments"];
                let more = piece["function"]["arguments"].as_str().unwrap();
                *arguments = json!(format!("{}{more}", arguments.as_str().unwrap()));
            }
        }
    }
    if !calls.is_empty() {
        message["tool_calls"] = json!(calls);
    }
    whole["choices"][0]["message"] = message;
    Said {
        finished: done,
        ..openai(&whole)
    }
}

fn openai(whole: &Value) -> Said {
    let message = &whole["choices"][0]["message"];
    let count = |key: &str| whole["usage"][key].as_u64().unwrap_or_default();
    let string = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let call = |call: &Value| {
        let arguments =
            serde_json::from_str(call["function"]["arguments"].as_str().unwrap()).unwrap();
        (string(&call["function"]["name"]), arguments)
    };
    Said {
        text: string(&message["content"]),
        reasoning: string(&message["reasoning_content"]),
        calls: message["tool_calls"]
            .as_array()
            .into_iter()
            .flatten()
            .map(call)
            .collect(),
        stop: string(&whole["choices"][0]["finish_reason"]),
        usage: (count("prompt_tokens"), count("completion_tokens")),
        finished: !whole["choices"][0]["finish_reason"].is_null(),
        echo: message.clone(),
    }
}

fn responses(response: &Value) -> Said {
    let items = response["output"].as_array().cloned().unwrap_or_default();
    let of = |kind: &'static str| items.iter().filter(move |item| item["type"] == kind);
    let string = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let count = |key: &str| response["usage"][key].as_u64().unwrap_or_default();
    let calls = of("function_call").map(|call| {
        let arguments = serde_json::from_str(call["arguments"].as_str().unwrap()).unwrap();
        (string(&call["name"]), arguments)
    });
    let reason = string(&response["incomplete_details"]["reason"]);
    Said {
        text: of("message")
            .map(|item| string(&item["content"][0]["text"]))
            .collect(),
        reasoning: of("reasoning")
            .map(|item| string(&item["summary"][0]["text"]))
            .collect(),
        calls: calls.collect(),
        finished: response["status"] != "in_progress" && !response["status"].is_null(),
        stop: if reason.is_empty() {
            string(&response["status"])
        } else {
            reason
        },
        usage: (count("input_tokens"), count("output_tokens")),
        echo: json!(items),
    }
}

fn gemini(chunks: &[Value]) -> Said {
    let mut said = Said::default();
    let mut parts = Vec::new();
    for chunk in chunks {
        let candidate = &chunk["candidates"][0];
        for part in candidate["content"]["parts"]
            .as_array()
            .into_iter()
            .flatten()
        {
            let text = part["text"].as_str().unwrap_or_default();
            if part["thought"] == true {
                &mut said.reasoning
            } else {
                &mut said.text
            }
            .push_str(text);
            if let Some(name) = part["functionCall"]["name"].as_str() {
                said.calls
                    .push((name.to_owned(), part["functionCall"]["args"].clone()));
            }
            parts.push(part.clone());
        }
        let count = |key: &str| chunk["usageMetadata"][key].as_u64().unwrap_or_default();
        said.usage = (
            count("promptTokenCount"),
            count("candidatesTokenCount") + count("thoughtsTokenCount"),
        );
        if let Some(finish) = candidate["finishReason"].as_str() {
            said.stop = finish.to_owned();
            said.finished = true;
        }
    }
    said.echo = json!({"role": "model", "parts": parts});
    said
}
