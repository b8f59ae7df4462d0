//! The end of an output, by offsets.

use std::collections::VecDeque;

/// Bytes that are kept.
const KEPT_BYTES: usize = 256 * 1024;

/// What a process has written, as far as it is kept.
#[derive(Debug, Default)]
pub(super) struct Output {
    kept: VecDeque<u8>,
    total: u64,
}

/// A part of an output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Part {
    /// Where it begins: the offset that was asked for, or the first that is kept.
    pub(crate) offset: u64,
    /// The bytes.
    pub(crate) bytes: Vec<u8>,
    /// Where the next part begins.
    pub(crate) next: u64,
    /// Bytes that were written in all.
    pub(crate) total: u64,
}

impl Output {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.kept.extend(bytes);
        self.total += bytes.len() as u64;
        let excess = self.kept.len().saturating_sub(KEPT_BYTES);
        self.kept.drain(..excess);
    }

    pub(super) const fn total(&self) -> u64 {
        self.total
    }

    /// At the most `max` bytes from an offset on; a character at the end is not cut while more follows.
    pub(super) fn read(&self, offset: u64, max: usize) -> Part {
        let first = self.total - self.kept.len() as u64;
        let offset = offset.clamp(first, self.total);
        let skip = usize::try_from(offset - first).unwrap_or(usize::MAX);
        let mut bytes: Vec<u8> = self.kept.iter().skip(skip).take(max).copied().collect();
        if offset + (bytes.len() as u64) < self.total {
            let whole = match std::str::from_utf8(&bytes) {
                Err(error) if error.error_len().is_none() && error.valid_up_to() > 0 => {
                    error.valid_up_to()
                }
                _ => bytes.len(),
            };
            bytes.truncate(whole);
        }
        Part {
            offset,
            next: offset + bytes.len() as u64,
            bytes,
            total: self.total,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_on_gives_everything_once() {
        let mut output = Output::default();
        output.push("aé€😀\n".repeat(50).as_bytes());
        let (mut read, mut offset) = (String::new(), 0);
        loop {
            let part = output.read(offset, 7);
            assert_eq!(part.offset, offset);
            if part.bytes.is_empty() {
                break;
            }
            read.push_str(std::str::from_utf8(&part.bytes).unwrap());
            offset = part.next;
        }
        assert_eq!(read, "aé€😀\n".repeat(50));
    }

    #[test]
    fn what_is_not_kept_is_skipped() {
        let mut output = Output::default();
        output.push(&vec![b'a'; KEPT_BYTES]);
        output.push(b"bcd");
        let part = output.read(0, 10);
        assert_eq!((part.offset, part.next), (3, 13));
        let part = output.read(KEPT_BYTES as u64, 10);
        assert_eq!(part.bytes, b"bcd");
        assert_eq!(output.read(u64::MAX, 10).bytes, b"");
    }
}
