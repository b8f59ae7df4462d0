//! Models: one request and reply shape for every provider, one streaming client
//! per wire protocol.
//!
//! * [`LlmClient`] is a provider; a call answers a [`ModelStream`] of live deltas
//!   that ends with the whole reply.
//! * The wire clients are [`AnthropicClient`], [`OpenAiClient`] (Chat Completions),
//!   [`ResponsesClient`] (OpenAI Responses) and [`GeminiClient`]; [`OfflineClient`] needs no network.
//! * [`Providers`] are the clients of an agent in order, with fallback.
//! * A client retries only before it has shown anything; from the first delta on a
//!   failure is the caller's to judge.
//! * What a provider wants back unchanged is kept beside each block as
//!   [`NativeBlock`](rune_store_runtime::NativeBlock) and never shown to another.

mod anthropic;
mod client;
mod gemini;
mod http;
pub(crate) mod metrics;
mod offline;
mod openai;
mod providers;
mod request;
mod responses;
mod retry;
pub mod wire;

pub use anthropic::AnthropicClient;
pub use client::{LlmClient, ModelError, ModelErrorKind, ModelEvent, ModelOutput, ModelStream};
pub use gemini::GeminiClient;
pub use http::HttpClient;
pub use offline::{OFFLINE_NOTICE, OFFLINE_PROVIDER, OfflineClient};
pub use openai::OpenAiClient;
pub use providers::{
    Account, Candidate, Endpoint, FallbackPolicy, ModelIds, Providers, ProvidersConfig,
    ProvidersError,
};
pub use request::{ModelRequest, ToolDefinition};
pub use responses::ResponsesClient;
pub use retry::RetryPolicy;
pub use wire::{ClientConfig, Protocol, Timeouts};
