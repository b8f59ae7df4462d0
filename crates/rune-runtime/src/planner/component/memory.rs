//! What a component remembers, through the tools of the memory.

use rune_store_runtime::limits::MAX_ENTRY_BYTES;
use rune_store_runtime::{ErrorCode, Failure, StoreError, ToolOutcome};
use rune_wasm::{AgentFailure, ToolCall};
use serde_json::{Value, json};

use super::{Run, check_size, failure, invalid};
use crate::planner::{Ended, Planner};

impl Planner {
    /// The value of a key, as JSON.
    pub(super) async fn recall(
        &mut self,
        run: &mut Run,
        key: &str,
    ) -> Result<Result<Option<String>, AgentFailure>, Ended> {
        let found = self.remembered(run, "memory-recall", json!({ "key": key }));
        Ok(found.await?.map(|found| {
            let value = &found["memories"][0]["value"];
            let is_there = found["memories"].get(0).is_some();
            is_there.then(|| value.to_string())
        }))
    }

    /// Remembers a value.
    pub(super) async fn remember(
        &mut self,
        run: &mut Run,
        key: &str,
        value: &str,
    ) -> Result<Result<(), AgentFailure>, Ended> {
        check_size("a value to remember", value.len(), MAX_ENTRY_BYTES)?;
        let value = match serde_json::from_str::<Value>(value) {
            Ok(value) => value,
            Err(error) => {
                let problem = invalid(&format!("the value is not JSON: {error}"));
                return Ok(Err(failure(&problem)));
            }
        };
        let input = json!({ "key": key, "value": value });
        let stored = self.remembered(run, "memory-store", input).await?;
        Ok(stored.map(|_| ()))
    }

    /// The keys that begin with a prefix.
    pub(super) async fn memories(
        &mut self,
        run: &mut Run,
        prefix: &str,
    ) -> Result<Result<Vec<String>, AgentFailure>, Ended> {
        let input = json!({ "prefix": prefix, "limit": 1000 });
        let found = self.remembered(run, "memory-list", input).await?;
        Ok(found.map(|found| keys(&found)))
    }

    /// What a tool of the memory answers.
    async fn remembered(
        &mut self,
        run: &mut Run,
        tool: &str,
        input: Value,
    ) -> Result<Result<Value, AgentFailure>, Ended> {
        let call = ToolCall {
            id: String::new(),
            name: format!("rune@{tool}"),
            input: input.to_string(),
        };
        let turn = run.script.turns() + 1;
        self.call_tools(run, vec![call]).await?;
        let outcome = self.state.component.outcome(&format!("c{turn}-1"));
        let (spilled, output) = match outcome {
            Some(ToolOutcome {
                failure: Some(why), ..
            }) => return Ok(Err(failure(why))),
            Some(outcome) => (outcome.spilled.as_ref(), outcome.output.as_ref()),
            None => (None, None),
        };
        if let Some(output) = output {
            return Ok(Ok(output.clone()));
        }
        // What is too large to be shown to a model is kept apart, and no less the answer.
        let found = match (spilled, &self.blobs) {
            (Some(spilled), Some(blobs)) => match blobs.get(&spilled.digest).await {
                Ok(bytes) => serde_json::from_slice(&bytes).ok(),
                Err(error @ StoreError::Unavailable(_)) => return Err(error.into()),
                Err(error) => {
                    tracing::warn!(%error, "what a component remembers is lost");
                    None
                }
            },
            _ => None,
        };
        Ok(found.ok_or_else(|| {
            let message = format!("what `rune@{tool}` found is not stored any more");
            failure(&Failure::new(ErrorCode::NotFound, message))
        }))
    }
}

fn keys(found: &Value) -> Vec<String> {
    let rows = found["memories"].as_array().into_iter().flatten();
    let keys = rows.filter_map(|row| row["key"].as_str());
    keys.map(str::to_owned).collect()
}
