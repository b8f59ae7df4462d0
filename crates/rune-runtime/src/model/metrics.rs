//! What model calls count.

use metrics::counter;
use rune_store_runtime::Usage;

use super::{Candidate, LlmClient, ModelErrorKind};

/// A model has answered.
pub(crate) fn answered(candidate: &Candidate, usage: &Usage) {
    called(candidate, "ok");
    let provider = candidate.client.provider();
    for (kind, tokens) in [
        ("input", usage.input_tokens),
        ("cached_read", usage.cached_tokens),
        ("cached_write", usage.cache_write_tokens),
        ("output", usage.output_tokens),
        ("reasoning", usage.reasoning_tokens),
    ] {
        if tokens > 0 {
            counter!(
                "rune_model_tokens_total",
                "provider" => provider.to_owned(), "model" => candidate.model.clone(), "kind" => kind
            )
            .increment(tokens);
        }
    }
}

/// A call has failed, retries included.
pub(crate) fn failed(candidate: &Candidate, kind: ModelErrorKind) {
    called(candidate, kind.as_str());
}

fn called(candidate: &Candidate, outcome: &'static str) {
    counter!(
        "rune_model_calls_total",
        "provider" => candidate.client.provider().to_owned(), "model" => candidate.model.clone(),
        "outcome" => outcome
    )
    .increment(1);
}
