//! What a log knows in memory: where it begins and ends, the vote, and its last entries. They are
//! what replication reads, and an entry can be read from here before it is on disk.

use std::collections::VecDeque;

use openraft::LogIndexOptionExt as _;

use crate::entry::size;
use crate::{LogEntry, LogId, Vote};

/// Bytes of entries that are kept in memory although they are on disk.
const KEPT_BYTES: usize = 8 << 20;

#[derive(Debug, Default)]
pub(crate) struct Tail {
    pub(crate) vote: Option<Vote>,
    pub(crate) committed: Option<LogId>,
    pub(crate) purged: Option<LogId>,
    pub(crate) last: Option<LogId>,
    /// The last entries, without a gap.
    entries: VecDeque<LogEntry>,
    bytes: usize,
    /// The first index that is not on disk.
    flushed: u64,
}

impl Tail {
    /// A log as it was found on disk.
    pub(crate) fn new(
        vote: Option<Vote>,
        committed: Option<LogId>,
        purged: Option<LogId>,
        last: Option<LogId>,
    ) -> Self {
        let last = last.max(purged);
        Self {
            vote,
            committed,
            purged,
            last,
            flushed: last.map(|id| id.index).next_index(),
            ..Self::default()
        }
    }

    /// Whether it is the log of a node that has not done anything yet.
    pub(crate) const fn is_pristine(&self) -> bool {
        self.vote.is_none() && self.last.is_none()
    }

    /// The first index that is in memory, or the next one that will be.
    pub(crate) fn first(&self) -> u64 {
        let next = || self.last.map(|id| id.index).next_index();
        self.entries
            .front()
            .map_or_else(next, |entry| entry.log_id.index)
    }

    pub(crate) fn append(&mut self, entries: Vec<LogEntry>) {
        for entry in entries {
            self.last = Some(entry.log_id);
            self.bytes += size(&entry);
            self.entries.push_back(entry);
        }
    }

    /// Everything before `next` is on disk.
    pub(crate) fn flushed(&mut self, next: u64) {
        self.flushed = next;
        while self.bytes > KEPT_BYTES {
            match self.entries.front() {
                Some(entry) if entry.log_id.index < self.flushed => self.pop_front(),
                _ => break,
            }
        }
    }

    /// Forgets what is behind `last`.
    pub(crate) fn truncate(&mut self, last: Option<LogId>) {
        let next = last.map(|id| id.index).next_index();
        while let Some(entry) = self.entries.back()
            && entry.log_id.index >= next
        {
            self.bytes -= size(entry);
            self.entries.pop_back();
        }
        self.flushed = self.flushed.min(next);
        self.last = self.last.min(last);
    }

    /// Forgets what is before `purged`, and itself.
    pub(crate) fn purge(&mut self, purged: LogId) {
        while let Some(entry) = self.entries.front()
            && entry.log_id.index <= purged.index
        {
            self.pop_front();
        }
        self.purged = self.purged.max(Some(purged));
        self.last = self.last.max(Some(purged));
    }

    /// The entries in memory from `from` to before `to`: as many as take `max_bytes`, and one at
    /// the least.
    pub(crate) fn read(&self, from: u64, to: u64, max_bytes: usize) -> Vec<LogEntry> {
        let skip = usize::try_from(from.saturating_sub(self.first())).unwrap_or(usize::MAX);
        let mut bytes = 0usize;
        let mut read = Vec::new();
        for entry in self.entries.iter().skip(skip) {
            bytes = bytes.saturating_add(size(entry));
            if entry.log_id.index >= to || (bytes > max_bytes && !read.is_empty()) {
                break;
            }
            read.push(entry.clone());
        }
        read
    }

    fn pop_front(&mut self) {
        if let Some(entry) = self.entries.pop_front() {
            self.bytes -= size(&entry);
        }
    }
}
