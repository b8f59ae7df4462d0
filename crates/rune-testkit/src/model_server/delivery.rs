use std::{collections::VecDeque, io, time::Duration};

use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;

use super::{
    fault::{CutAt, FaultKind, Garbage},
    frame::{Frame, FrameKind},
    record::Exchange,
};

/// How an answer ends.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Ending {
    Finish,
    /// The connection breaks.
    Cut,
    /// Nothing more comes but, maybe, this every so often.
    Stall(Option<(Duration, Bytes)>),
}

/// What only the protocol knows about spoiling a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Spoilers {
    pub(crate) error_event: Bytes,
    pub(crate) garbage: Bytes,
    pub(crate) ping: Bytes,
}

/// How fast the pieces come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pace {
    pub(crate) between_content: Duration,
    /// 0: a piece per frame.
    pub(crate) piece_bytes: usize,
}

/// The body of an answer: the frames, spoiled by the fault, at their pace. It marks the exchange.
pub(crate) fn body(
    frames: Vec<Frame>,
    fault: Option<&FaultKind>,
    spoilers: &Spoilers,
    pace: Pace,
    exchange: Exchange,
) -> Body {
    let (frames, ending) = spoil(frames, fault, spoilers);
    let delivery = Delivery {
        pieces: pieces(frames, pace),
        ending: Some(ending),
        exchange,
    };
    Body::from_stream(stream::unfold(delivery, Delivery::next))
}

fn pieces(frames: Vec<Frame>, pace: Pace) -> VecDeque<(Duration, Bytes)> {
    if pace.piece_bytes > 0 {
        let all: Vec<u8> = frames
            .iter()
            .flat_map(|frame| frame.bytes.iter().copied())
            .collect();
        let piece = |bytes: &[u8]| (pace.between_content, Bytes::copy_from_slice(bytes));
        return all.chunks(pace.piece_bytes).map(piece).collect();
    }
    let mut seen_content = false;
    let mut pieces = VecDeque::with_capacity(frames.len());
    for frame in frames {
        let wait = if frame.is_content() && seen_content {
            pace.between_content
        } else {
            Duration::ZERO
        };
        seen_content |= frame.is_content();
        pieces.push_back((wait, frame.bytes));
    }
    pieces
}

struct Delivery {
    pieces: VecDeque<(Duration, Bytes)>,
    ending: Option<Ending>,
    exchange: Exchange,
}

impl Delivery {
    async fn next(mut self) -> Option<(io::Result<Bytes>, Self)> {
        if let Some((wait, bytes)) = self.pieces.pop_front() {
            if !wait.is_zero() {
                tokio::time::sleep(wait).await;
            }
            if self.pieces.is_empty() && self.ending == Some(Ending::Finish) {
                // Many clients close on the terminal event: with it the answer is complete.
                self.exchange.complete();
            }
            return Some((Ok(bytes), self));
        }
        match self.ending.take()? {
            Ending::Finish => None,
            Ending::Cut => {
                self.exchange.complete();
                // Let the connection write out what it has before it breaks.
                tokio::task::yield_now().await;
                Some((Err(io::Error::from(io::ErrorKind::ConnectionReset)), self))
            }
            Ending::Stall(None) => std::future::pending().await,
            Ending::Stall(Some((every, ping))) => {
                tokio::time::sleep(every).await;
                self.ending = Some(Ending::Stall(Some((every, ping.clone()))));
                Some((Ok(ping), self))
            }
        }
    }
}

fn spoil(
    mut frames: Vec<Frame>,
    fault: Option<&FaultKind>,
    spoilers: &Spoilers,
) -> (Vec<Frame>, Ending) {
    match fault {
        Some(FaultKind::Stall {
            after_chunks,
            ping_ms,
        }) => {
            frames.truncate(end_of_content(&frames, *after_chunks));
            let ping = ping_ms.map(|ms| (Duration::from_millis(ms.max(1)), spoilers.ping.clone()));
            (frames, Ending::Stall(ping))
        }
        Some(FaultKind::Cut(at)) => {
            let (index, byte) = match at {
                CutAt::AfterText => (end_of_text(&frames), 0),
                CutAt::InToolCall => in_last_call(&frames),
                CutAt::InUtf8 => in_character(&frames),
            };
            let torn = frames.get(index).map(|frame| frame.bytes.slice(..byte));
            frames.truncate(index);
            frames.extend(
                torn.filter(|bytes| !bytes.is_empty())
                    .map(|bytes| Frame::new(FrameKind::Frame, bytes)),
            );
            (frames, Ending::Cut)
        }
        Some(FaultKind::Garbage(Garbage::DataLine)) => {
            let index = end_of_content(&frames, 1);
            frames.insert(
                index,
                Frame::new(FrameKind::Frame, spoilers.garbage.clone()),
            );
            (frames, Ending::Finish)
        }
        Some(FaultKind::ErrorEvent) => {
            frames.truncate(end_of_text(&frames));
            frames.push(Frame::new(FrameKind::Finish, spoilers.error_event.clone()));
            (frames, Ending::Finish)
        }
        Some(FaultKind::NoTerminal) => {
            frames.retain(|frame| frame.kind != FrameKind::Finish);
            (frames, Ending::Finish)
        }
        Some(
            FaultKind::Status { .. }
            | FaultKind::ContextOverflow
            | FaultKind::Close
            | FaultKind::SlowFirstByte { .. }
            | FaultKind::Garbage(Garbage::Html)
            | FaultKind::Empty,
        )
        | None => (frames, Ending::Finish),
    }
}

/// The index after the `n`-th frame of content; with 0 that of the first.
fn end_of_content(frames: &[Frame], n: usize) -> usize {
    let mut content = frames
        .iter()
        .enumerate()
        .filter(|(_, frame)| frame.is_content())
        .map(|(index, _)| index);
    let end = match n.checked_sub(1) {
        None => content.next(),
        Some(skip) => content.nth(skip).map(|index| index + 1),
    };
    end.unwrap_or(frames.len())
}

/// The index after the last frame of text; with no text that of the first content.
fn end_of_text(frames: &[Frame]) -> usize {
    frames
        .iter()
        .rposition(|frame| frame.kind == FrameKind::Text)
        .map_or_else(|| end_of_content(frames, 0), |index| index + 1)
}

/// The frame and the byte in the middle of the last call.
fn in_last_call(frames: &[Frame]) -> (usize, usize) {
    let index = frames
        .iter()
        .rposition(|frame| frame.kind == FrameKind::Call);
    index.map_or((frames.len(), 0), |index| {
        (index, frames[index].bytes.len() / 2)
    })
}

/// The frame and the byte inside the first character that has more than one.
fn in_character(frames: &[Frame]) -> (usize, usize) {
    let torn = |frame: &Frame| frame.bytes.iter().position(|byte| !byte.is_ascii());
    let place = frames
        .iter()
        .enumerate()
        .find_map(|(index, frame)| torn(frame).map(|byte| (index, byte + 1)));
    place.unwrap_or((frames.len(), 0))
}
