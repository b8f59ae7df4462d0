//! Reads an output pipe and keeps a bounded part of it.

use std::collections::VecDeque;
use std::io;

use tokio::io::{AsyncRead, AsyncReadExt};

use crate::text;

/// How much of an output is kept, in bytes.
#[derive(Debug, Clone, Copy)]
pub struct Keep {
    /// From the beginning.
    pub head: usize,
    /// From the end.
    pub tail: usize,
    /// More output than this stops the program.
    pub total: u64,
}

/// Bytes of diagnostics kept: their end, where errors are.
const DIAGNOSTICS_BYTES: usize = 8 * 1024;

/// More diagnostics than this stop the program.
const DIAGNOSTICS_TOTAL_BYTES: u64 = 64 * 1024 * 1024;

impl Keep {
    /// What is kept of a tool's answer.
    #[must_use]
    pub const fn answer(limit: usize) -> Self {
        Self {
            head: limit,
            tail: 0,
            total: limit as u64,
        }
    }

    /// What is kept of a tool's diagnostics.
    #[must_use]
    pub const fn diagnostics() -> Self {
        Self {
            head: 0,
            tail: DIAGNOSTICS_BYTES,
            total: DIAGNOSTICS_TOTAL_BYTES,
        }
    }
}

/// What was kept of an output.
#[derive(Debug)]
pub struct Captured {
    keep: Keep,
    head: Vec<u8>,
    tail: VecDeque<u8>,
    total: u64,
}

impl Captured {
    /// Nothing yet.
    #[must_use]
    pub const fn new(keep: Keep) -> Self {
        Self {
            keep,
            head: Vec::new(),
            tail: VecDeque::new(),
            total: 0,
        }
    }

    /// Reads to the end. Returns early, with `true`, once there is more output than
    /// allowed in total.
    pub(crate) async fn fill(&mut self, pipe: Option<impl AsyncRead + Unpin>) -> io::Result<bool> {
        let Some(mut pipe) = pipe else {
            return Ok(false);
        };
        let mut buffer = vec![0; 16 * 1024];
        loop {
            let count = pipe.read(&mut buffer).await?;
            if count == 0 {
                return Ok(false);
            }
            if self.push(&buffer[..count]) {
                return Ok(true);
            }
        }
    }

    /// Takes more output; `true` once there is more than allowed in total.
    pub fn push(&mut self, bytes: &[u8]) -> bool {
        self.total += bytes.len() as u64;
        let room = self.keep.head.saturating_sub(self.head.len());
        let (first, rest) = bytes.split_at(room.min(bytes.len()));
        self.head.extend_from_slice(first);
        self.tail.extend(rest);
        let excess = self.tail.len().saturating_sub(self.keep.tail);
        self.tail.drain(..excess);
        self.total > self.keep.total
    }

    /// The kept beginning.
    #[must_use]
    pub fn head(&self) -> &[u8] {
        &self.head
    }

    /// The kept end as text.
    #[must_use]
    pub fn diagnostics(&self) -> String {
        self.to_text(DIAGNOSTICS_BYTES).0.trim().to_owned()
    }

    /// The output as text that takes at most `budget` bytes as JSON; `true` where
    /// something was left out, which the text says too.
    #[must_use]
    pub fn to_text(&self, budget: usize) -> (String, bool) {
        let kept = (self.head.len() + self.tail.len()) as u64;
        let tail: Vec<u8> = self.tail.iter().copied().collect();
        if kept == self.total {
            let whole = [self.head.as_slice(), &tail].concat();
            let whole = String::from_utf8_lossy(&whole);
            text::elide(&whole, &whole, None, budget)
        } else {
            let head = text::decode_cut(&self.head);
            let tail = text::decode_cut(&tail);
            text::elide(&head, &tail, Some(self.total), budget)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn keeps_both_ends_and_says_what_is_missing() {
        let keep = Keep {
            head: 4,
            tail: 4,
            total: 100,
        };
        let mut captured = Captured::new(keep);
        let over = captured.fill(Some(&b"abcd--------wxyz"[..])).await.unwrap();
        assert!(!over);
        let (text, cut) = captured.to_text(1000);
        assert!(cut);
        assert_eq!(text, "abcd\n[… 8 bytes left out …]\nwxyz");
    }

    #[tokio::test]
    async fn never_cuts_a_character_in_two() {
        let keep = Keep {
            head: 4,
            tail: 4,
            total: 100,
        };
        let mut captured = Captured::new(keep);
        let text = "äöü€€€äöü";
        captured.fill(Some(text.as_bytes())).await.unwrap();
        let (shown, _) = captured.to_text(1000);
        assert!(shown.starts_with("äö\n["), "{shown}");
        assert!(shown.ends_with("]\nöü"), "{shown}");
        assert!(!shown.contains('\u{fffd}'), "{shown}");
    }

    #[tokio::test]
    async fn stops_at_the_total() {
        let keep = Keep {
            head: 10,
            tail: 0,
            total: 10,
        };
        let mut captured = Captured::new(keep);
        assert!(captured.fill(Some(tokio::io::repeat(b'x'))).await.unwrap());
        assert_eq!(captured.head(), b"xxxxxxxxxx");
    }
}
