//! What a webhook is told of a task: its changes, read from the journal, so that they are the same after a restart.

use rune_a2a::{A2aError, ProtocolVersion, StreamEvent};
use rune_runtime::{Engine, Followed, RequestEvent};
use rune_store_runtime::{RequestRow, RequestStatus};
use serde_json::Value;

use super::answer::failure;
use super::find::view_of;
use super::task::TaskView;

/// One thing that a webhook is told.
pub(crate) struct News {
    /// The entry that it is of.
    pub(crate) seq: u64,
    /// What is posted.
    pub(crate) body: Value,
}

/// What happened behind the entry `told`, in order: in 1.0 the events of a stream, an answer told whole; in 0.3 the task
/// after each change of its state.
///
/// # Errors
/// The journal cannot be read.
pub(crate) async fn news(
    engine: &Engine,
    base: &str,
    request: &RequestRow,
    told: u64,
    version: ProtocolVersion,
) -> Result<Vec<News>, A2aError> {
    let (view, mut events) = view_of(engine, base, request).await?;
    let mut view = view.untold();
    let mut news = Vec::new();
    let mut asks = false;
    while view.at() < request.last_seq {
        let event = match events.step().await {
            Ok(Followed::Event(event)) => event,
            Ok(Followed::Parked | Followed::End) => break,
            Err(error) => return Err(failure(&error.into())),
        };
        let updates = view.apply(&event);
        if view.at() > told {
            asks |= matches!(event.event, RequestEvent::ApprovalRequired { .. });
            news.extend(updates.iter().filter_map(|it| one(&view, version, it)));
        }
    }
    // A question that has an answer already is none any more.
    if asks && request.status == RequestStatus::InputRequired {
        let update = view.park();
        news.extend(one(&view, version, &update));
    }
    Ok(news)
}

fn one(view: &TaskView, version: ProtocolVersion, update: &StreamEvent) -> Option<News> {
    let body = match (version, update) {
        (ProtocolVersion::V1, update) => update.encode(version),
        (ProtocolVersion::V03, StreamEvent::Status(_)) => view.task(Some(0)).encode(version),
        (ProtocolVersion::V03, _) => return None,
    };
    let seq = view.at();
    Some(News { seq, body })
}
