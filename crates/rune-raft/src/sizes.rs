//! How many bytes of entries a log holds, and behind which place.
//!
//! It is counted in steps, which is as well as anybody who shortens a log needs to know.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes of entries between two places that are remembered.
const STEP: u64 = 256 << 10;

/// Places in a log that was there before this node was started, of which only the whole is known.
const OLD_STEPS: u64 = 64;

/// The sizes of a log, for whoever shortens it. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Sizes(Arc<Mutex<Places>>);

#[derive(Debug)]
struct Places {
    /// Entries, and how many bytes were put into the log before each.
    marks: VecDeque<(u64, u64)>,
    written: u64,
}

impl Sizes {
    /// Of a log that holds the entries from `first` to before `next`, in so many bytes.
    pub(crate) fn new(first: u64, next: u64, bytes: u64) -> Self {
        let entries = next.saturating_sub(first);
        let steps = OLD_STEPS.min(entries);
        let part = |whole: u64, step: u64| {
            let part = u128::from(whole) * u128::from(step) / u128::from(steps.max(1));
            u64::try_from(part).unwrap_or(u64::MAX)
        };
        let marks = (0..steps).map(|step| (first + part(entries, step), part(bytes, step)));
        Self(Arc::new(Mutex::new(Places {
            marks: marks.collect(),
            written: if entries > 0 { bytes } else { 0 },
        })))
    }

    pub(crate) fn append(&self, index: u64, bytes: usize) {
        let mut places = self.lock();
        let last = places.marks.back().map(|(_, written)| *written);
        if last.is_none_or(|last| places.written - last >= STEP) {
            let written = places.written;
            places.marks.push_back((index, written));
        }
        places.written += bytes as u64;
    }

    /// The entry at `next` is dropped, and all behind it.
    pub(crate) fn truncate(&self, next: u64) {
        let mut places = self.lock();
        while let Some((index, written)) = places.marks.back().copied()
            && index >= next
        {
            places.marks.pop_back();
            places.written = written;
        }
    }

    /// The entry at `last` is dropped, and all before it.
    pub(crate) fn purge(&self, last: u64) {
        let mut places = self.lock();
        while places
            .marks
            .get(1)
            .is_some_and(|(index, _)| *index <= last + 1)
        {
            places.marks.pop_front();
        }
    }

    /// The bytes of the entries behind this one, and perhaps of some before it.
    pub(crate) fn behind(&self, index: Option<u64>) -> u64 {
        let places = self.lock();
        let from = index.map_or(0, |index| index + 1);
        let known = places.marks.iter().rev().find(|(mark, _)| *mark <= from);
        let before = known.or(places.marks.front());
        before.map_or(0, |(_, before)| places.written - before)
    }

    /// The first entry from which on the log has no more than so many bytes.
    pub(crate) fn first_within(&self, bytes: u64) -> u64 {
        let places = self.lock();
        let mut marks = places.marks.iter();
        let first = marks.find(|(_, before)| places.written - before <= bytes);
        first.map_or(u64::MAX, |(index, _)| *index)
    }

    fn lock(&self) -> MutexGuard<'_, Places> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_says_where_its_last_bytes_begin() {
        let sizes = Sizes::new(1, 1, 0);
        let mebibyte = 1 << 20;
        for index in 1..=20 {
            sizes.append(index, mebibyte);
        }
        let mebibytes = |count: u64| count << 20;
        assert_eq!(sizes.first_within(mebibytes(5)), 16);
        assert_eq!(sizes.first_within(mebibytes(100)), 1);
        assert_eq!(sizes.first_within(10), u64::MAX);
        assert_eq!(sizes.behind(Some(15)), mebibytes(5));
        assert_eq!(sizes.behind(None), mebibytes(20));
        sizes.truncate(11);
        assert_eq!(sizes.first_within(mebibytes(5)), 6);
        sizes.purge(8);
        assert_eq!(sizes.first_within(mebibytes(5)), 9);
        assert_eq!(sizes.behind(Some(8)), mebibytes(2));
    }

    #[test]
    fn a_log_that_was_there_is_taken_for_even() {
        let sizes = Sizes::new(100, 1100, 1 << 30);
        let half = sizes.first_within(1 << 29);
        assert!((580..=620).contains(&half), "{half}");
        sizes.append(1100, 1);
        assert_eq!(sizes.first_within(1), 1100);
        assert_eq!(Sizes::new(7, 7, 4096).behind(None), 0);
    }
}
