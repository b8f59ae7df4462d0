//! Where a request comes from: what led to it outside of this process, as its metadata says.

use std::collections::BTreeMap;

use rune_store_runtime::TraceContext;
use serde_json::Value;

/// Names, in the metadata of a request, how many agents stand between it and the outermost one that another
/// installation runs.
const CALL_DEPTH: &str = "call_depth";
/// Name the trace of a request in its metadata.
const TRACEPARENT: &str = "traceparent";
const TRACESTATE: &str = "tracestate";

/// What led to a request that no request of this installation made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origin {
    /// How many agents of other installations stand above it.
    pub depth: u32,
    /// The trace that it belongs to.
    pub trace: Option<TraceContext>,
}

impl Origin {
    /// What the metadata of a request says.
    #[must_use]
    pub fn of(metadata: &BTreeMap<String, Value>) -> Self {
        let text = |name| metadata.get(name).and_then(Value::as_str);
        let depth = metadata.get(CALL_DEPTH).and_then(Value::as_u64);
        Self {
            depth: depth.map_or(0, |depth| u32::try_from(depth).unwrap_or(u32::MAX)),
            trace: text(TRACEPARENT)
                .and_then(|parent| TraceContext::parse(parent, text(TRACESTATE))),
        }
    }

    /// Writes it into the metadata of a request. What is not known leaves them as they are.
    pub fn keep(&self, metadata: &mut BTreeMap<String, Value>) {
        if self.depth > 0 {
            metadata.insert(CALL_DEPTH.to_owned(), Value::from(self.depth));
        }
        let Some(trace) = &self.trace else { return };
        metadata.insert(TRACEPARENT.to_owned(), Value::from(trace.traceparent()));
        match trace.tracestate() {
            Some(state) => metadata.insert(TRACESTATE.to_owned(), Value::from(state)),
            None => metadata.remove(TRACESTATE),
        };
    }
}
