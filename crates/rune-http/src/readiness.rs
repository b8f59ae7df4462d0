//! Readiness: true only while every part says so.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

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

type Part = (&'static str, Arc<AtomicBool>);

/// Says whether one part is ready.
#[derive(Debug, Clone)]
pub struct ReadyPart(Arc<AtomicBool>);

/// One part, as reported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct PartStatus {
    /// Its name.
    pub name: &'static str,
    /// Whether it is ready.
    pub ready: bool,
}

impl Readiness {
    /// Adds a part that is not ready yet.
    #[must_use]
    pub fn part(&self, name: &'static str) -> ReadyPart {
        let ready = Arc::new(AtomicBool::new(false));
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        parts.push((name, Arc::clone(&ready)));
        ReadyPart(ready)
    }

    /// Every part, in the order they were added.
    #[must_use]
    pub fn report(&self) -> Vec<PartStatus> {
        let parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        let status = |(name, ready): &Part| PartStatus {
            name,
            ready: ready.load(Ordering::Acquire),
        };
        parts.iter().map(status).collect()
    }
}

impl ReadyPart {
    /// Says that the part is ready, or no longer.
    pub fn set(&self, ready: bool) {
        self.0.store(ready, Ordering::Release);
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
