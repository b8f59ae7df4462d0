//! From a pending fire to its request.

use std::collections::BTreeMap;
use std::time::Duration;

use rune_store_runtime::{
    ErrorCode, EventRow, FireState, Reject, RequestId, ScheduleFireRow, ScheduleRow, SessionId,
    StoreError,
};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::ScheduleError;
use super::scheduler::Inner;
use crate::engine::{EVENT_DEPTH, EngineError, Invocation};
use crate::workflow::render_event;

/// How long a fire tries to get a replica before it fails.
const PATIENCE: Duration = Duration::from_secs(5 * 60);
/// Pause after the first try; doubles with every further one.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Longest pause between two tries.
const MAX_PAUSE: Duration = Duration::from_secs(30);

impl Inner {
    /// Has the request of a fire accepted, unless it exists already, and settles the fire.
    /// Answers the fire as it is then. A fire by hand is tried once: somebody waits for it.
    ///
    /// # Errors
    /// [`ScheduleError::ShuttingDown`] and [`ScheduleError::Store`]; the fire is pending then.
    pub(super) async fn complete(
        &self,
        row: &ScheduleRow,
        fire: ScheduleFireRow,
    ) -> Result<ScheduleFireRow, ScheduleError> {
        let patience = if fire.manual {
            Duration::ZERO
        } else {
            PATIENCE
        };
        let give_up = Instant::now() + patience;
        let shutdown = self.shutdown();
        let mut pause = FIRST_PAUSE;
        let (state, reason) = loop {
            let error = match self.invoke(row, &fire).await {
                Ok(()) => break (FireState::Fired, String::new()),
                Err(EngineError::ShuttingDown) => return Err(ScheduleError::ShuttingDown),
                Err(error) => error,
            };
            let passes = matches!(
                error.code(),
                ErrorCode::Unavailable | ErrorCode::LimitExceeded
            );
            if !passes || Instant::now() >= give_up {
                break (FireState::Failed, error.to_string());
            }
            tracing::info!(schedule = %row.id, planned_at = %fire.planned_at, %error, "fire is tried again");
            tokio::select! {
                () = shutdown.cancelled() => return Err(ScheduleError::ShuttingDown),
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(MAX_PAUSE);
        };
        if state == FireState::Failed {
            tracing::warn!(schedule = %row.id, planned_at = %fire.planned_at, reason, "fire failed");
        }
        self.settle(&fire, state, &reason).await?;
        Ok(ScheduleFireRow {
            state,
            reason,
            ..fire
        })
    }

    async fn invoke(&self, row: &ScheduleRow, fire: &ScheduleFireRow) -> Result<(), EngineError> {
        // A pending fire is recorded with one.
        let Some(request_id) = fire.request_id else {
            return Ok(());
        };
        match self.engine.request(request_id).await {
            // Accepted before a crash.
            Ok(_) => return Ok(()),
            Err(EngineError::NotFound(_)) => {}
            Err(error) => return Err(error),
        }
        let spec = &row.spec;
        let mut metadata: BTreeMap<String, Value> = [
            ("schedule".to_owned(), Value::from(row.id.to_string())),
            (
                "planned_at".to_owned(),
                Value::from(fire.planned_at.to_string()),
            ),
        ]
        .into();
        let input = match fire.event_id {
            None => spec.input.clone(),
            Some(id) => {
                let event = self.store().event(id).await?;
                let event = event.ok_or_else(|| Reject::not_found("event", &id));
                let event = event.map_err(StoreError::from)?;
                metadata.insert("event".to_owned(), id.to_string().into());
                metadata.insert(EVENT_DEPTH.to_owned(), event.depth.into());
                told(&spec.input, &event)?
            }
        };
        let invocation = Invocation {
            namespace: spec.namespace.clone(),
            agent: spec.agent.clone(),
            alias: spec.alias.clone(),
            input,
            session_id: Some(spec.session_id.clone().unwrap_or_else(SessionId::generate)),
            follows: None,
            metadata,
            caller: format!("schedule:{}", spec.name),
            idempotency: None,
        };
        self.engine.invoke_as(request_id, invocation).await?;
        Ok(())
    }

    /// Returns once a request has ended, or nobody knows whether it will.
    pub(super) async fn ended(&self, id: RequestId) {
        let ended = async {
            if let Ok(events) = self.engine.events(id, 0).await {
                // The loop asks again whether it has ended.
                let _ = events.ending().await;
            }
        };
        let shutdown = self.shutdown();
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = ended => {}
        }
    }
}

/// What an agent is told of an event: the input of the schedule, in which `{{ event.topic }}`, `{{ event.payload }}` and so on
/// stand for what the event says; the event itself where the input is `null`.
fn told(input: &Value, event: &EventRow) -> Result<Value, EngineError> {
    let shown = json!({
        "id": event.id,
        "topic": event.topic,
        "payload": event.payload,
        "publisher": event.publisher,
        "at": event.at,
    });
    match input {
        Value::Null => Ok(shown),
        Value::String(text) => match render_event(text, &shown) {
            Ok(text) => Ok(text.into()),
            Err(problem) => {
                let message = format!("the input of the schedule cannot be filled in: {problem}");
                Err(StoreError::from(Reject::invalid(message)).into())
            }
        },
        other => Ok(other.clone()),
    }
}
