use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::watch;

use super::{protocol::Protocol, reply::millis};

/// Requests kept; older ones are forgotten.
const MAX_RECORDED: usize = 10_000;

/// A request the server got. Times are milliseconds since the server started.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RecordedRequest {
    /// Its number, from 0.
    pub seq: usize,
    /// The protocol of its path; none for a path that belongs to none.
    pub protocol: Option<Protocol>,
    /// The method.
    pub method: String,
    /// The path without the query.
    pub path: String,
    /// The query, empty if there is none.
    pub query: String,
    /// The headers, names in lower case; repeated ones joined by `, `.
    pub headers: BTreeMap<String, String>,
    /// The body; what is not JSON is kept as a string.
    pub body: Value,
    /// When it came.
    pub arrived_ms: u64,
    /// The status it was answered with; none as long as there is no answer.
    pub status: Option<u16>,
    /// When the last byte of the answer was handed out, if it came to that.
    pub answered_ms: Option<u64>,
    /// When the client closed the connection before the answer was complete.
    pub client_closed_ms: Option<u64>,
}

/// How many requests came, and how many are being answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Counts {
    pub(crate) total: usize,
    pub(crate) open: usize,
}

#[derive(Debug)]
pub(crate) struct Recorder {
    started: Instant,
    requests: Mutex<VecDeque<RecordedRequest>>,
    counts: watch::Sender<Counts>,
}

impl Recorder {
    pub(crate) fn new() -> Self {
        Self {
            started: Instant::now(),
            requests: Mutex::default(),
            counts: watch::Sender::new(Counts::default()),
        }
    }

    /// Records a request (its `seq` and times are set here); the exchange ends when the result is dropped.
    pub(crate) fn begin(self: &Arc<Self>, mut request: RecordedRequest) -> Exchange {
        request.arrived_ms = self.now();
        let mut requests = self.lock();
        let seq = self.counts.borrow().total;
        request.seq = seq;
        if requests.len() == MAX_RECORDED {
            requests.pop_front();
        }
        requests.push_back(request);
        self.counts.send_modify(|counts| {
            counts.total += 1;
            counts.open += 1;
        });
        drop(requests);
        Exchange {
            recorder: Arc::clone(self),
            seq,
            complete: false,
        }
    }

    pub(crate) fn all(&self) -> Vec<RecordedRequest> {
        self.lock().iter().cloned().collect()
    }

    pub(crate) fn open(&self) -> usize {
        self.counts.borrow().open
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Counts> {
        self.counts.subscribe()
    }

    fn now(&self) -> u64 {
        millis(self.started.elapsed())
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<RecordedRequest>> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn edit(&self, seq: usize, change: impl FnOnce(&mut RecordedRequest)) {
        let mut requests = self.lock();
        let first = requests.front().map_or(0, |request| request.seq);
        if let Some(request) = seq
            .checked_sub(first)
            .and_then(|index| requests.get_mut(index))
        {
            change(request);
        }
    }
}

/// One request being answered. Dropped before [`Exchange::complete`], the client went away.
#[derive(Debug)]
pub(crate) struct Exchange {
    recorder: Arc<Recorder>,
    seq: usize,
    complete: bool,
}

impl Exchange {
    pub(crate) fn status(&self, status: u16) {
        self.recorder
            .edit(self.seq, |request| request.status = Some(status));
    }

    /// The server has done its part, whatever the client does now.
    pub(crate) fn complete(&mut self) {
        if !self.complete {
            self.complete = true;
            let now = self.recorder.now();
            self.recorder
                .edit(self.seq, |request| request.answered_ms = Some(now));
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if !self.complete {
            let now = self.recorder.now();
            self.recorder
                .edit(self.seq, |request| request.client_closed_ms = Some(now));
        }
        self.recorder.counts.send_modify(|counts| counts.open -= 1);
    }
}
