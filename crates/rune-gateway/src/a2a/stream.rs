//! The events of a request as the stream of its task.

use bytes::BytesMut;
use rune_a2a::{A2aError, ErrorKind, ProtocolVersion, RpcId, StreamEvent, rpc_error, rpc_result};
use rune_runtime::SequencedEvent;
use rune_store_runtime::ErrorCode;

use super::task::TaskView;
use crate::event_body::{Encode, write_data};

/// How what is told stands on the wire.
#[derive(Debug, Clone)]
pub(crate) enum Envelope {
    /// As the results of a call of JSON-RPC.
    Rpc(RpcId),
    /// Bare.
    Http,
}

/// The stream of a task: the task first, then what happens to it.
pub(crate) struct TaskStream {
    view: TaskView,
    /// What lies behind this entry is told; what comes before is in the task.
    known: u64,
    began: bool,
    /// Whether it goes on behind a task that it finds waiting.
    stays: bool,
    history_length: Option<u32>,
    version: ProtocolVersion,
    envelope: Envelope,
}

impl TaskStream {
    /// A stream that begins with the task as it is at an entry.
    pub(crate) const fn new(
        view: TaskView,
        known: u64,
        history_length: Option<u32>,
        version: ProtocolVersion,
        envelope: Envelope,
    ) -> Self {
        Self {
            view,
            known,
            began: false,
            stays: false,
            history_length,
            version,
            envelope,
        }
    }

    /// Whether it goes on behind a task that it finds waiting: its client wants to be told what comes of that.
    pub(crate) const fn staying(mut self, stays: bool) -> Self {
        self.stays = stays;
        self
    }

    fn tell(&self, event: &StreamEvent, out: &mut BytesMut) {
        let event = event.encode(self.version);
        match &self.envelope {
            Envelope::Rpc(id) => write_data(out, &rpc_result(id, &event)),
            Envelope::Http => write_data(out, &event),
        }
    }

    fn begin(&mut self, out: &mut BytesMut) {
        self.began = true;
        let task = self.view.task(self.history_length);
        self.tell(&StreamEvent::Task(task), out);
    }
}

impl Encode for TaskStream {
    /// The client says something, and follows what comes of that.
    const ENDS_PARKED: bool = true;

    fn event(&mut self, event: &SequencedEvent, out: &mut BytesMut) {
        let told = self.view.apply(event);
        if self.began {
            for event in told {
                self.tell(&event, out);
            }
        } else if self.view.at() >= self.known {
            self.begin(out);
        }
    }

    fn parked(&mut self, out: &mut BytesMut) -> bool {
        let event = self.view.park();
        if self.began {
            self.tell(&event, out);
            return true;
        }
        self.begin(out);
        !self.stays
    }

    fn cut_off(&mut self, out: &mut BytesMut) {
        let error = A2aError::new(
            ErrorKind::Other(ErrorCode::Unavailable),
            "the daemon ends before the task does; the next start takes it up again, and it can be subscribed to",
        );
        let answer = match &self.envelope {
            Envelope::Rpc(id) => rpc_error(id, self.version, &error),
            Envelope::Http => error.to_http(error.kind().http_status()),
        };
        write_data(out, &answer);
    }
}
