//! Readiness: true only while every part says so.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use crate::Json;

/// The parts of a process and whether each is ready. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Readiness {
    parts: Arc<Mutex<Vec<Part>>>,
}

type Part = (&'static str, ReadyPart);

/// Says whether one part is ready.
#[derive(Debug, Clone, Default)]
pub struct ReadyPart(Arc<State>);

#[derive(Debug, Default)]
struct State {
    ready: AtomicBool,
    /// Why not, where that is known.
    reason: Mutex<Option<String>>,
}

/// One part, as reported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct PartStatus {
    /// Its name.
    pub name: &'static str,
    /// Whether it is ready.
    pub ready: bool,
    /// Why it is not, where it says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Readiness {
    /// Adds a part that is not ready yet.
    #[must_use]
    pub fn part(&self, name: &'static str) -> ReadyPart {
        let part = ReadyPart::default();
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        parts.push((name, part.clone()));
        part
    }

    /// Every part, in the order they were added.
    #[must_use]
    pub fn report(&self) -> Vec<PartStatus> {
        let parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        parts.iter().map(|(name, part)| part.status(name)).collect()
    }
}

impl ReadyPart {
    /// Says that the part is ready, or no longer.
    pub fn set(&self, ready: bool) {
        *self.reason() = None;
        self.0.ready.store(ready, Ordering::Release);
    }

    /// Says that the part is ready, or why it is not.
    pub fn tell(&self, state: Result<(), String>) {
        let mut reason = self.reason();
        self.0.ready.store(state.is_ok(), Ordering::Release);
        *reason = state.err();
    }

    fn status(&self, name: &'static str) -> PartStatus {
        let reason = self.reason();
        PartStatus {
            name,
            ready: self.0.ready.load(Ordering::Acquire),
            reason: reason.clone(),
        }
    }

    fn reason(&self) -> MutexGuard<'_, Option<String>> {
        self.0.reason.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The answer of `/ready`: 200 while every part is ready, 503 otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct ReadyReport {
    /// Whether every part is.
    pub ready: bool,
    /// The parts.
    pub parts: Vec<PartStatus>,
}

impl ReadyReport {
    /// What the parts say now.
    #[must_use]
    pub fn new(readiness: &Readiness) -> Self {
        let parts = readiness.report();
        Self {
            ready: parts.iter().all(|part| part.ready),
            parts,
        }
    }
}

impl IntoResponse for ReadyReport {
    fn into_response(self) -> Response {
        let status = if self.ready {
            StatusCode::OK
        } else {
            StatusCode::SERVICE_UNAVAILABLE
        };
        (status, Json(self)).into_response()
    }
}

/// The answer of `/health`: the process lives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Health {
    /// `ok`.
    pub status: &'static str,
    /// Version of Rune.
    pub version: &'static str,
}

impl Health {
    /// A process of this version lives.
    #[must_use]
    pub const fn new(version: &'static str) -> Self {
        Self {
            status: "ok",
            version,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_part_that_is_not_ready_says_why_for_all() {
        let readiness = Readiness::default();
        let (engine, cluster) = (readiness.part("engine"), readiness.part("cluster"));
        engine.set(true);
        cluster.tell(Err("no majority".to_owned()));
        let report = ReadyReport::new(&readiness);
        assert!(!report.ready);
        assert_eq!(report.parts[0].reason, None);
        assert_eq!(report.parts[1].reason.as_deref(), Some("no majority"));
        cluster.tell(Ok(()));
        let report = ReadyReport::new(&readiness);
        assert!(report.ready && report.parts[1].reason.is_none());
    }
}
