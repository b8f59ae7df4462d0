//! The replica's side: it has the daemon run a tool, and waits.

use std::sync::Arc;
use std::time::Duration;

use rune_store_runtime::{RequestId, StoreError, ToolIntent};
use rune_tools::{ToolError, ToolErrorKind};
use serde_json::Value;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{SAME_TIME, ToolAnswer, ToolOp, ToolRun};
use crate::dispatch::cancelled;
use crate::engine::child::SubAgents;
use crate::engine::link::{EngineAnswer, EngineLink, EngineOp, unexpected};
use crate::planner::UNKNOWN_OUTCOME;

/// Pause before a tool that was cut off runs again: what cuts it off may do so again.
const REPEAT_PAUSE: Duration = Duration::from_secs(1);

/// What came of a run in the daemon.
enum Came {
    Ended(Result<Value, ToolError>),
    /// It may have begun, and was cut off.
    CutOff,
    /// The daemon does not say, however often it is asked.
    Unanswered(StoreError),
}

impl SubAgents {
    /// The daemon's engine, where this request runs in a replica outside it.
    pub(crate) fn daemon(&self) -> Option<&Arc<dyn EngineLink>> {
        self.engine.link()
    }
}

/// The tools of a request, in the daemon.
pub(crate) struct LinkedTools<'a> {
    pub(crate) link: &'a dyn EngineLink,
    pub(crate) request_id: RequestId,
}

impl LinkedTools<'_> {
    /// Has the daemon run a tool. What was cut off with the daemon runs again where the tool is idempotent, as long as its time is not up.
    ///
    /// # Errors
    /// That of the tool; [`ToolErrorKind::UnknownOutcome`] where nobody knows what came of it, and it was not repeated.
    pub(crate) async fn run(
        &self,
        intent: &ToolIntent,
        timeout: Duration,
        cancel: &CancellationToken,
    ) -> Result<Value, ToolError> {
        let deadline = Instant::now() + timeout;
        loop {
            let run = ToolRun {
                run_id: Uuid::new_v4(),
                boot_id: self.boot_id().await?,
                call_id: intent.call_id.clone(),
                idempotency_key: intent.idempotency_key.clone(),
                tool: intent.tool.clone(),
                input: intent.input.clone(),
            };
            match self.run_once(run, deadline, cancel).await {
                Came::Ended(ended) => return ended,
                _ if cancel.is_cancelled() => return Err(cancelled()),
                Came::CutOff if intent.idempotent => {}
                // Whether that helps is a matter of the tool's `retry_policy`.
                Came::Unanswered(error) if intent.idempotent => return Err(error.into()),
                Came::CutOff | Came::Unanswered(_) => {
                    let kind = ToolErrorKind::UnknownOutcome;
                    return Err(ToolError::new(kind, UNKNOWN_OUTCOME));
                }
            }
            tokio::select! {
                () = tokio::time::sleep(REPEAT_PAUSE) => {}
                () = cancel.cancelled() => return Err(cancelled()),
            }
        }
    }

    async fn boot_id(&self) -> Result<Uuid, ToolError> {
        match self.ask(ToolOp::BootId).await? {
            ToolAnswer::BootId(id) => Ok(id),
            _ => Err(ToolError::new(ToolErrorKind::Failed, unexpected().message)),
        }
    }

    async fn run_once(&self, run: ToolRun, deadline: Instant, cancel: &CancellationToken) -> Came {
        let stop = ToolOp::Stop {
            run_id: run.run_id,
            call_id: run.call_id.clone(),
        };
        let ended = async {
            loop {
                match self.ask(ToolOp::Run(run.clone())).await {
                    Ok(ToolAnswer::Pending) => {}
                    Ok(ToolAnswer::Ended(ended)) => return Came::Ended(ended),
                    Ok(ToolAnswer::Unknown) => return Came::CutOff,
                    Ok(ToolAnswer::BootId(_) | ToolAnswer::Stopped) => {
                        let kind = ToolErrorKind::Failed;
                        return Came::Ended(Err(ToolError::new(kind, unexpected().message)));
                    }
                    Err(error @ StoreError::Unavailable(_)) => return Came::Unanswered(error),
                    Err(error) => return Came::Ended(Err(error.into())),
                }
            }
        };
        tokio::pin!(ended);
        tokio::select! {
            biased;
            ended = &mut ended => return ended,
            () = cancel.cancelled() => {}
        }
        // At the tool's timeout the daemon stops it by itself, and can say what it had written.
        if Instant::now() + SAME_TIME < deadline {
            tokio::select! {
                biased;
                ended = &mut ended => return ended,
                stopped = self.ask(stop) => {
                    if let Err(error) = stopped {
                        // With the request what it runs ends, too.
                        tracing::debug!(request = %self.request_id, %error, "the daemon was not told to stop a tool");
                    }
                }
            }
        }
        ended.await
    }

    async fn ask(&self, op: ToolOp) -> Result<ToolAnswer, StoreError> {
        match self.link.act(self.request_id, EngineOp::Tool(op)).await? {
            EngineAnswer::Tool(answer) => Ok(answer),
            _ => Err(StoreError::Unavailable(unexpected().message)),
        }
    }
}
