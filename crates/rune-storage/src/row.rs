//! Stored columns to typed values. A value that does not convert is an error of
//! the row, never a default.

use std::error::Error;

use rune_store_runtime::{CheckpointPolicy, RequestId, SessionId, Timestamp};
use rusqlite::Row;
use rusqlite::types::{FromSql, Type, ValueRef};
use serde::de::DeserializeOwned;

/// A column by position.
pub(crate) fn get<T: FromSql>(row: &Row<'_>, index: usize) -> rusqlite::Result<T> {
    row.get(index)
}

/// An id of sixteen bytes.
pub(crate) fn id<T>(row: &Row<'_>, index: usize, make: fn([u8; 16]) -> T) -> rusqlite::Result<T> {
    get(row, index).map(make)
}

/// An id of sixteen bytes, or nothing.
pub(crate) fn maybe_id<T>(
    row: &Row<'_>,
    index: usize,
    make: fn([u8; 16]) -> T,
) -> rusqlite::Result<Option<T>> {
    Ok(get::<Option<[u8; 16]>>(row, index)?.map(make))
}

/// A time.
pub(crate) fn time(row: &Row<'_>, index: usize) -> rusqlite::Result<Timestamp> {
    get(row, index).map(Timestamp::from_millis)
}

/// A time, or nothing.
pub(crate) fn maybe_time(row: &Row<'_>, index: usize) -> rusqlite::Result<Option<Timestamp>> {
    Ok(get::<Option<i64>>(row, index)?.map(Timestamp::from_millis))
}

/// A value stored as JSON text.
pub(crate) fn json<T: DeserializeOwned>(row: &Row<'_>, index: usize) -> rusqlite::Result<T> {
    let text = row.get_ref(index)?.as_str()?;
    serde_json::from_str(text).map_err(|error| bad(index, error))
}

/// A value stored as JSON text, or nothing.
pub(crate) fn maybe_json<T: DeserializeOwned>(
    row: &Row<'_>,
    index: usize,
) -> rusqlite::Result<Option<T>> {
    match row.get_ref(index)? {
        ValueRef::Null => Ok(None),
        _ => json(row, index).map(Some),
    }
}

/// A state stored as a word.
pub(crate) fn word<T>(
    row: &Row<'_>,
    index: usize,
    parse: fn(&str) -> Option<T>,
) -> rusqlite::Result<T> {
    let text = row.get_ref(index)?.as_str()?;
    parse(text).ok_or_else(|| bad(index, format!("unknown word `{text}`")))
}

/// A session id.
pub(crate) fn session_id(row: &Row<'_>, index: usize) -> rusqlite::Result<SessionId> {
    let text = row.get_ref(index)?.as_str()?;
    text.parse().map_err(|error| bad(index, error))
}

/// A request id.
pub(crate) fn request_id(row: &Row<'_>, index: usize) -> rusqlite::Result<RequestId> {
    id(row, index, RequestId::from_bytes)
}

/// The stored word of a checkpoint policy.
pub(crate) const fn checkpoint_word(policy: CheckpointPolicy) -> &'static str {
    match policy {
        CheckpointPolicy::EachStep => "each_step",
        CheckpointPolicy::OnFinish => "on_finish",
        CheckpointPolicy::Never => "never",
    }
}

/// The checkpoint policy with this stored word.
pub(crate) fn parse_checkpoint(text: &str) -> Option<CheckpointPolicy> {
    use CheckpointPolicy::{EachStep, Never, OnFinish};
    [EachStep, OnFinish, Never]
        .into_iter()
        .find(|policy| checkpoint_word(*policy) == text)
}

/// The error of a column that does not convert.
pub(crate) fn bad(index: usize, error: impl Into<Box<dyn Error + Send + Sync>>) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(index, Type::Text, error.into())
}
