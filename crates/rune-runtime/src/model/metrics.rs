//! What model calls count.

use metrics::counter;
use rune_store_runtime::Usage;

use super::ModelErrorKind;

/// A model has answered.
pub(crate) fn answered(provider: &str, model: &str, usage: &Usage) {
    called(provider, model, "ok");
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
                "provider" => provider.to_owned(), "model" => model.to_owned(), "kind" => kind
            )
            .increment(tokens);
        }
    }
}

/// A call has failed, retries included.
pub(crate) fn failed(provider: &str, model: &str, kind: ModelErrorKind) {
    called(provider, model, kind.as_str());
}

fn called(provider: &str, model: &str, outcome: &'static str) {
    counter!(
        "rune_model_calls_total",
        "provider" => provider.to_owned(), "model" => model.to_owned(),
        "outcome" => outcome
    )
    .increment(1);
}
