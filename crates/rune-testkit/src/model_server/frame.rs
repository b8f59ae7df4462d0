use bytes::Bytes;

/// A piece of an answer on the wire: usually one event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: FrameKind,
    pub(crate) bytes: Bytes,
}

/// What a frame carries; faults look for their place by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FrameKind {
    /// Structure around the content.
    Frame,
    /// A piece of thinking.
    Reasoning,
    /// A piece of text.
    Text,
    /// A piece of a call's arguments.
    Call,
    /// Finish reason, usage, terminal event: what [`super::FaultKind::NoTerminal`] leaves out.
    Finish,
}

impl Frame {
    pub(crate) fn new(kind: FrameKind, bytes: impl Into<Bytes>) -> Self {
        Self {
            kind,
            bytes: bytes.into(),
        }
    }

    pub(crate) fn is_content(&self) -> bool {
        match self.kind {
            FrameKind::Reasoning | FrameKind::Text | FrameKind::Call => true,
            FrameKind::Frame | FrameKind::Finish => false,
        }
    }
}
