//! What containers have said.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::watch;

/// The output of containers, by the pod's uid and the container's name.
#[derive(Debug, Default)]
pub(crate) struct Logs(Mutex<HashMap<(String, String), Arc<ContainerLog>>>);

impl Logs {
    /// The log of a container, made where there is none.
    pub(crate) fn container(&self, uid: &str, container: &str) -> Arc<ContainerLog> {
        let mut logs = lock(&self.0);
        let key = (uid.to_owned(), container.to_owned());
        Arc::clone(logs.entry(key).or_default())
    }
}

/// The output of one container. Several runs of it follow each other.
#[derive(Debug)]
pub(crate) struct ContainerLog {
    text: Mutex<Vec<u8>>,
    /// How long it is, and whether nothing more comes.
    state: watch::Sender<(usize, bool)>,
}

impl Default for ContainerLog {
    fn default() -> Self {
        Self {
            text: Mutex::default(),
            state: watch::Sender::new((0, false)),
        }
    }
}

impl ContainerLog {
    pub(crate) fn append(&self, bytes: &[u8]) {
        let mut text = lock(&self.text);
        text.extend_from_slice(bytes);
        self.state.send_replace((text.len(), false));
    }

    /// Nothing more comes until it runs again.
    pub(crate) fn end(&self) {
        self.state.send_modify(|(_, ended)| *ended = true);
    }

    /// The last lines, and where they end.
    pub(crate) fn tail(&self, lines: Option<usize>) -> (Bytes, usize) {
        let text = lock(&self.text);
        let start = lines.map_or(0, |lines| {
            let body = text.strip_suffix(b"\n").unwrap_or(&text);
            let breaks = body.iter().enumerate().filter(|(_, b)| **b == b'\n');
            let breaks: Vec<usize> = breaks.map(|(at, _)| at + 1).collect();
            match lines {
                0 => text.len(),
                lines => breaks
                    .len()
                    .checked_sub(lines)
                    .and_then(|at| breaks.get(at).copied())
                    .unwrap_or(0),
            }
        });
        let tail = text.get(start..).unwrap_or_default();
        (Bytes::copy_from_slice(tail), text.len())
    }

    /// What comes after a place, once there is some; `None` at the end.
    pub(crate) async fn after(&self, place: usize) -> Option<(Bytes, usize)> {
        let mut state = self.state.subscribe();
        // The sender lives as long as `self`.
        let _ = state
            .wait_for(|(length, ended)| *length > place || *ended)
            .await;
        let text = lock(&self.text);
        let more = text.get(place..).filter(|more| !more.is_empty())?;
        Some((Bytes::copy_from_slice(more), text.len()))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
