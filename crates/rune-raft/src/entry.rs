//! Entries as rows, and back.

use std::io;
use std::sync::Arc;

use openraft::EntryPayload;
use openraft::vote::RaftLeaderId as _;
use rune_storage::LogRow;

use crate::{Leader, LogEntry, LogId, Payload, Proposal};

/// The kinds of payloads, as they are stored.
const BLANK: u8 = 0;
const COMMAND: u8 = 1;
const MEMBERSHIP: u8 = 2;

/// What an entry costs beside its payload, near enough for the limits of memory.
const OVERHEAD: usize = 128;

/// The row of an entry.
pub(crate) fn to_row(entry: &LogEntry) -> io::Result<LogRow> {
    let (kind, payload) = match &entry.payload {
        EntryPayload::Blank => (BLANK, Arc::from("")),
        EntryPayload::Normal(proposal) => (COMMAND, Arc::clone(proposal.text())),
        EntryPayload::Membership(members) => {
            (MEMBERSHIP, Arc::from(serde_json::to_string(members)?))
        }
    };
    Ok(LogRow {
        index: entry.log_id.index,
        term: entry.log_id.leader_id.term,
        leader: entry.log_id.leader_id.node_id,
        kind,
        payload,
    })
}

/// The entry of a row.
pub(crate) fn from_row(row: LogRow) -> io::Result<LogEntry> {
    let log_id = id_of(&row);
    let payload = match row.kind {
        BLANK => Payload::Blank,
        COMMAND => Payload::Normal(Proposal::from(row.payload)),
        MEMBERSHIP => Payload::Membership(serde_json::from_str(&row.payload)?),
        kind => {
            return Err(io::Error::other(format!(
                "entry {log_id} of the log is of kind {kind}, which this rune does not know; use the newer one"
            )));
        }
    };
    Ok(LogEntry { log_id, payload })
}

/// The place of a row.
pub(crate) fn id_of(row: &LogRow) -> LogId {
    LogId::new(Leader::new(row.term, row.leader), row.index)
}

/// What an entry takes in memory, near enough.
pub(crate) fn size(entry: &LogEntry) -> usize {
    OVERHEAD
        + match &entry.payload {
            EntryPayload::Normal(proposal) => proposal.bytes(),
            EntryPayload::Blank | EntryPayload::Membership(_) => 0,
        }
}
