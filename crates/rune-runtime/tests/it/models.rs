//! The provider clients, against the scripted model server and on bytes.

#[macro_use]
mod suite;

mod claude_code;
mod connections;
mod copilot;
mod decoding;
mod handover;
mod offline;
mod providers;
mod requests;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt;
use rune_env::ProviderLimits;
use rune_runtime::model::{
    AnthropicClient, ClientConfig, GeminiClient, GuardedClient, HttpClient, LlmClient, ModelError,
    ModelEvent, ModelOutput, ModelRequest, ModelStream, OpenAiClient, Protocol, ProviderGuard,
    ResponsesClient, Timeouts, ToolDefinition,
};
use rune_store_runtime::{Block, Message, Role};
use rune_testkit::ModelServer;
use serde_json::json;

use suite::{Gap, KEY, Subject, Tune};

provider_suite!(anthropic, Protocol::Anthropic);
provider_suite!(openai, Protocol::OpenAi);
provider_suite!(responses, Protocol::Responses);
provider_suite!(gemini, Protocol::Gemini);
provider_suite!(copilot_suite, copilot::Copilot);
provider_suite!(claude_code_key, claude_code::WithKey);

/// Long enough for a busy machine; a test that waits for one sets it shorter.
const LIMITS: Timeouts = Timeouts {
    first_byte: Duration::from_secs(20),
    idle: Duration::from_secs(20),
    progress: Duration::from_secs(20),
};

/// The same protocol as the server calls it.
const fn on_server(protocol: Protocol) -> rune_testkit::Protocol {
    match protocol {
        Protocol::Anthropic => rune_testkit::Protocol::Anthropic,
        Protocol::OpenAi => rune_testkit::Protocol::Openai,
        Protocol::Responses => rune_testkit::Protocol::Responses,
        Protocol::Gemini => rune_testkit::Protocol::Gemini,
    }
}

/// The clients that are nothing but a wire protocol.
#[async_trait]
impl Subject for Protocol {
    fn wire(&self) -> rune_testkit::Protocol {
        on_server(*self)
    }

    async fn client(&self, server: &ModelServer, tune: &Tune) -> Box<dyn LlmClient> {
        let mut config = config(server, *self);
        config.timeouts = tune.timeouts;
        if let Some(url) = &tune.base_url {
            config.base_url = Some(url.clone());
        }
        Box::new(guarded(*self, config).retry(tune.retry.clone()))
    }

    fn gaps(&self) -> &[Gap] {
        match self {
            Self::Gemini => &[Gap::BrokenArguments, Gap::RetryHeaders, Gap::ErrorCodes],
            Self::Anthropic | Self::OpenAi | Self::Responses => &[],
        }
    }
}

fn config(server: &ModelServer, protocol: Protocol) -> ClientConfig {
    let base = server.base_url(on_server(protocol));
    let mut config = ClientConfig::new(protocol.name())
        .base_url(base)
        .api_key(KEY);
    config.timeouts = LIMITS;
    config
}

fn client_of(protocol: Protocol, config: ClientConfig) -> Box<dyn LlmClient> {
    Box::new(guarded(protocol, config))
}

/// Behind a guard of its own.
fn guard(client: Arc<dyn LlmClient>) -> GuardedClient {
    let guard = ProviderGuard::new(client.provider(), &ProviderLimits::default());
    GuardedClient::new(client, Arc::new(guard))
}

/// As the engine has it: with retries.
fn guarded(protocol: Protocol, config: ClientConfig) -> GuardedClient {
    let http = HttpClient::new();
    guard(match protocol {
        Protocol::Anthropic => Arc::new(AnthropicClient::new(config, http)),
        Protocol::OpenAi => Arc::new(OpenAiClient::new(config, http)),
        Protocol::Responses => Arc::new(ResponsesClient::new(config, http)),
        Protocol::Gemini => Arc::new(GeminiClient::new(config, http)),
    })
}

fn client(server: &ModelServer, protocol: Protocol) -> Box<dyn LlmClient> {
    client_of(protocol, config(server, protocol))
}

fn tool(name: &str) -> ToolDefinition {
    ToolDefinition {
        name: name.to_owned(),
        description: format!("The tool {name}."),
        input_schema: json!({"type": "object", "properties": {"city": {"type": "string"}}}),
    }
}

fn request(messages: Vec<Message>) -> ModelRequest {
    ModelRequest {
        model: "test-model".to_owned(),
        system: "Be brief.".to_owned(),
        messages,
        tools: vec![tool("time"), tool("weather")],
        max_output_tokens: None,
        temperature: None,
        reasoning_effort: None,
        output_schema: None,
    }
}

fn ask(text: &str) -> ModelRequest {
    request(vec![Message::user(text)])
}

fn message(role: Role, blocks: Vec<Block>) -> Message {
    Message { role, blocks }
}

fn result(call_id: &str, name: &str, content: &str) -> Block {
    Block::ToolResult {
        call_id: call_id.to_owned(),
        name: name.to_owned(),
        content: content.to_owned(),
        images: Vec::new(),
        is_error: false,
    }
}

/// A reply as it was shown.
#[derive(Debug, Default)]
struct Shown {
    text: String,
    reasoning: String,
    output: Option<ModelOutput>,
    error: Option<ModelError>,
}

impl Shown {
    async fn of(mut stream: ModelStream) -> Self {
        let mut shown = Self::default();
        while let Some(event) = stream.next().await {
            assert!(shown.output.is_none(), "an event after the last one");
            match event {
                Ok(ModelEvent::Text(text)) => shown.text.push_str(&text),
                Ok(ModelEvent::Reasoning(text)) => shown.reasoning.push_str(&text),
                Ok(ModelEvent::Done(output)) => shown.output = Some(output),
                Err(error) => shown.error = Some(error),
            }
        }
        shown
    }

    /// The whole reply of a call that succeeds.
    async fn output(client: &dyn LlmClient, request: &ModelRequest) -> (Self, ModelOutput) {
        let stream = client.stream(request).await.unwrap();
        let mut shown = Self::of(stream).await;
        assert_eq!(shown.error, None);
        let output = shown.output.take().unwrap();
        (shown, output)
    }
}

/// The calls among `blocks` as (id, name, input).
fn calls(blocks: &[Block]) -> Vec<(String, String, serde_json::Value)> {
    let calls = blocks.iter().filter_map(|block| match block {
        Block::ToolCall {
            id, name, input, ..
        } => Some((id.clone(), name.clone(), input.clone())),
        _ => None,
    });
    calls.collect()
}
