//! Composed integer keys. They keep the rows of one request, and of one session,
//! next to each other in one b-tree without a secondary index, which makes an
//! insert several times cheaper than a rowid with a unique index.

use rune_store_runtime::limits::{MAX_ENTRIES, MAX_SESSION_MESSAGES};

const ENTRY_BITS: u32 = (MAX_ENTRIES + 1).trailing_zeros();
const MESSAGE_BITS: u32 = (MAX_SESSION_MESSAGES + 1).trailing_zeros();

/// Key of the journal entry `seq` of the request with this row id.
pub(crate) const fn entry(request: i64, seq: u64) -> i64 {
    compose(request, seq, ENTRY_BITS)
}

/// The request row and the seq of a journal key.
pub(crate) const fn split_entry(key: i64) -> (i64, u64) {
    split(key, ENTRY_BITS)
}

/// First and last key that the journal of a request can have.
pub(crate) const fn entries(request: i64) -> (i64, i64) {
    (entry(request, 0), entry(request, MAX_ENTRIES))
}

/// Key of the `n`th message, from 1, of the session with this row id.
pub(crate) const fn message(session: i64, n: u64) -> i64 {
    compose(session, n, MESSAGE_BITS)
}

/// The session row and the number of a message key.
pub(crate) const fn split_message(key: i64) -> (i64, u64) {
    split(key, MESSAGE_BITS)
}

/// First and last key that the messages of a session can have.
pub(crate) const fn messages(session: i64) -> (i64, i64) {
    (message(session, 0), message(session, MAX_SESSION_MESSAGES))
}

/// The key `n` behind the first of a range, at the most the last. Callers pass on whatever number a client has sent.
pub(crate) fn position((first, last): (i64, i64), n: u64) -> i64 {
    i64::try_from(n).map_or(last, |n| first.saturating_add(n).min(last))
}

const fn compose(row: i64, n: u64, bits: u32) -> i64 {
    (row << bits) | n.cast_signed()
}

const fn split(key: i64, bits: u32) -> (i64, u64) {
    let mask = (1i64 << bits) - 1;
    (key >> bits, (key & mask).cast_unsigned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_split_into_what_they_were_made_of() {
        assert_eq!(split_entry(entry(7, 3)), (7, 3));
        assert_eq!(split_entry(entry(7, MAX_ENTRIES)), (7, MAX_ENTRIES));
        assert_eq!(split_message(message(9, 1)), (9, 1));
        assert!(entries(7).1 < entries(8).0);
        assert_eq!(position(entries(7), 3), entry(7, 3));
        for far in [MAX_ENTRIES + 1, i64::MAX as u64, u64::MAX] {
            assert_eq!(position(entries(7), far), entries(7).1, "{far}");
        }
        assert!(messages(7).1 < messages(8).0);
    }
}
