//! Models: one request and reply shape for every provider, one streaming client
//! per wire protocol.
//!
//! * [`LlmClient`] is a provider; a call answers a [`ModelStream`] of live deltas
//!   that ends with the whole reply.
//! * The wire clients are [`AnthropicClient`], [`OpenAiClient`] (Chat Completions)
//!   and [`GeminiClient`]; [`OfflineClient`] needs no network.
//! * A client retries only before it has shown anything; from the first delta on a
//!   failure is the caller's to judge.

mod client;
mod request;

pub use client::{LlmClient, ModelError, ModelErrorKind, ModelEvent, ModelOutput, ModelStream};
pub use request::{ModelRequest, ToolDefinition};
