//! The JSON that the commands of the hot path store, made once by whoever submits
//! the command and not by the one thread that writes.

use std::collections::BTreeMap;

use rune_store_runtime::limits::MAX_ENTRY_BYTES;
use rune_store_runtime::{
    AcceptRequest, AppendEntries, BudgetCap, EntryBody, ForkOrigin, Op, Reject,
};
use serde::Serialize;
use serde_json::Value;

use super::encode_within;
use crate::size::json_size;

/// What a change stores as JSON, as far as it is made in advance.
pub(crate) enum Encoded {
    /// Of [`AcceptRequest`].
    Accept(EncodedAccept),
    /// Of [`AppendEntries`], one text for each entry. Whether an entry that has none is
    /// the reason to reject the command depends on the state it meets.
    Entries(Vec<Result<String, Reject>>),
    /// Every other change encodes while it is applied.
    None,
}

/// What [`AcceptRequest`] stores as JSON.
pub(crate) struct EncodedAccept {
    /// The `accepted` entry.
    pub(super) entry: String,
    /// The caller's notes.
    pub(super) metadata: String,
    /// The shared budgets, where there are some.
    pub(super) budgets: Option<String>,
}

/// [`EntryBody::Accepted`] without a copy of the input.
#[derive(Serialize)]
struct AcceptedBody<'a> {
    kind: &'static str,
    input: &'a Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    forked_from: Option<&'a ForkOrigin>,
}

impl Encoded {
    /// The JSON of a change, rejected where a part of it is too large or could not be
    /// read back.
    pub(crate) fn of(op: &Op) -> Result<Self, Reject> {
        match op {
            Op::AcceptRequest(op) => EncodedAccept::of(op).map(Self::Accept),
            Op::AppendEntries(op) => Ok(Self::Entries(entries(op))),
            _ => Ok(Self::None),
        }
    }

    /// The bytes of the change, near enough for the limits of a command and a batch.
    pub(crate) fn bytes(&self, op: &Op) -> usize {
        match self {
            Self::Accept(accept) => accept.entry.len() + accept.metadata.len(),
            Self::Entries(entries) => entries.iter().flatten().map(String::len).sum(),
            Self::None => json_size(op),
        }
    }
}

impl EncodedAccept {
    /// The JSON of an acceptance.
    pub(super) fn of(op: &AcceptRequest) -> Result<Self, Reject> {
        let entry = AcceptedBody {
            kind: "accepted",
            input: &op.input,
            forked_from: op.fork.as_ref().map(|fork| &fork.origin),
        };
        Ok(Self {
            entry: encode_within(&entry, "the input", MAX_ENTRY_BYTES)?,
            metadata: metadata(&op.metadata)?,
            budgets: budgets(&op.budgets)?,
        })
    }
}

/// The JSON of a caller's notes.
pub(super) fn metadata(notes: &BTreeMap<String, Value>) -> Result<String, Reject> {
    if notes.is_empty() {
        return Ok("{}".to_owned());
    }
    encode_within(notes, "the metadata", MAX_ENTRY_BYTES)
}

fn budgets(caps: &[BudgetCap]) -> Result<Option<String>, Reject> {
    if caps.is_empty() {
        return Ok(None);
    }
    encode_within(&caps, "the budgets", MAX_ENTRY_BYTES).map(Some)
}

/// The JSON of every entry.
pub(super) fn entries(op: &AppendEntries) -> Vec<Result<String, Reject>> {
    op.entries.iter().map(entry).collect()
}

/// An entry as it is stored, rejected where it is too large.
pub(super) fn entry(entry: &EntryBody) -> Result<String, Reject> {
    encode_within(entry, entry.kind(), MAX_ENTRY_BYTES)
}
