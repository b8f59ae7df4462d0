//! A call that goes on to the next provider.

use std::pin::Pin;

use futures_util::{Stream, StreamExt};

use super::{Candidate, Providers};
use crate::model::{ModelError, ModelEvent, ModelRequest};

/// A call failed for good.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{error}")]
pub struct CallError {
    /// The failure of the last provider asked.
    pub error: ModelError,
    /// Whether a part of the reply has been shown: asking again would show it twice.
    pub shown: bool,
}

/// The reply of the provider that answered, as [`ModelStream`](crate::model::ModelStream).
pub type ReplyStream = Pin<Box<dyn Stream<Item = Result<ModelEvent, CallError>> + Send>>;

impl Providers {
    /// Asks the first provider; when it fails before anything was shown and the policy
    /// allows it, the next one, and so on. Answers who replies, and the reply.
    ///
    /// [`Providers::goes_on`] says after which failures the next one is asked. `request` makes the request for a candidate; histories carry over as they are,
    /// since each protocol leaves out what is not its own. `on_failure` is told of every
    /// failure, with the candidate that is asked next, if any.
    ///
    /// # Errors
    /// The failure of the last provider asked. The stream yields one with `shown` where
    /// the reply breaks off.
    pub async fn call(
        &self,
        request: impl Fn(&Candidate) -> ModelRequest,
        mut on_failure: impl FnMut(&ModelError, Option<&Candidate>),
    ) -> Result<(&Candidate, ReplyStream), CallError> {
        let mut candidate = &self.first;
        let mut rest = self.rest.iter();
        loop {
            let request = request(candidate);
            let error = match candidate.client.stream(&request).await {
                Ok(events) => return Ok((candidate, reply(events))),
                Err(error) => error,
            };
            let next = if self.goes_on(&error) {
                rest.next()
            } else {
                None
            };
            on_failure(&error, next);
            candidate = match next {
                Some(next) => next,
                None => {
                    return Err(CallError {
                        error,
                        shown: false,
                    });
                }
            };
        }
    }
}

/// A stream begins with something to show or with the whole reply, so that an error in it
/// always comes after something was shown.
fn reply(events: crate::model::ModelStream) -> ReplyStream {
    let shown = |error| CallError { error, shown: true };
    events.map(move |event| event.map_err(shown)).boxed()
}
