//! Models: one request and reply shape for every provider, one streaming client
//! per wire protocol.
//!
//! * [`LlmClient`] is a provider; a call answers a [`ModelStream`] of live deltas
//!   that ends with the whole reply.
//! * The wire clients are [`AnthropicClient`], [`OpenAiClient`] (Chat Completions),
//!   [`ResponsesClient`] (OpenAI Responses) and [`GeminiClient`]; [`OfflineClient`] needs no network.
//! * Pictures and sound have endpoints of their own: `media` asks them for the tools.
//! * [`Providers`] are the clients of an agent in order, with fallback.
//! * A client asks once. [`GuardedClient`] around it retries, only before anything was
//!   shown, keeps to the pace that the provider allows and leaves a provider alone that
//!   keeps failing. Pace and circuit belong to the provider, not to the agent: they are in
//!   the [`ProviderPool`] that every agent shares.
//! * What a provider wants back unchanged is kept beside each block as
//!   [`NativeBlock`](rune_store_runtime::NativeBlock) and never shown to another.

mod anthropic;
mod claude_code;
mod client;
mod copilot;
mod gemini;
mod guard;
mod guarded;
mod http;
pub(crate) mod media;
pub(crate) mod metrics;
mod offline;
mod openai;
mod pool;
mod prices;
mod providers;
mod request;
mod responses;
mod retry;
pub mod wire;

pub use anthropic::AnthropicClient;
pub use claude_code::{CLAUDE_CODE_PROVIDER, ClaudeCli, ClaudeCodeClient, ClaudeCodeConfig};
pub use client::{LlmClient, ModelError, ModelErrorKind, ModelEvent, ModelOutput, ModelStream};
pub use copilot::{COPILOT_PROVIDER, CopilotClient, CopilotTokens};
pub use gemini::GeminiClient;
pub use guard::{CircuitState, ProviderGuard, ProviderWait, WaitReason};
pub use guarded::{CallStep, GuardedClient};
pub use http::HttpClient;
pub use media::read_media_answers;
pub use offline::{OFFLINE_NOTICE, OFFLINE_PROVIDER, OfflineClient};
pub use openai::OpenAiClient;
pub use pool::ProviderPool;
pub use prices::{Price, Prices, PricesError};
pub use providers::{
    Account, Candidate, Endpoint, FallbackPolicy, ModelIds, Providers, ProvidersConfig,
    ProvidersError,
};
pub use request::{ModelRequest, SUMMARY_INSTRUCTIONS, ToolDefinition};
pub use responses::ResponsesClient;
pub use retry::RetryPolicy;
pub use wire::{ClientConfig, Protocol, Timeouts};
