//! What a fork takes over from the request it comes from.

use std::collections::BTreeMap;

use rune_store_runtime::{Block, EntryBody, Fork, OUTPUT_REPAIR, Reject};
use rusqlite::{Connection, params};

use super::plan::Call;
use super::{RequestState, insert_message, write_call};
use crate::ApplyError;
use crate::key;
use crate::row::{self, get};

/// The entries that a fork begins with, the messages that its session shows, and its tool calls. Nothing
/// else is projected from them: usage, decisions and questions are those of the origin.
pub(in crate::apply) struct Inherited {
    /// The row of the origin.
    pub(in crate::apply) origin: i64,
    /// The session of it.
    session: i64,
    /// The journal keys of the messages before its own, with the tool of a result.
    shown: Vec<(i64, Option<String>)>,
    /// Time and JSON of the entries behind `accepted`.
    entries: Vec<(i64, String)>,
    /// Entries that are messages, with the model's name of the tool for results.
    messages: Vec<(u64, Option<String>)>,
    calls: BTreeMap<String, Call>,
}

impl Inherited {
    /// Reads and checks it.
    pub(in crate::apply) fn plan(
        db: &Connection,
        fork: &Fork,
        agent: (&str, &str),
    ) -> Result<Self, ApplyError> {
        let origin = RequestState::load(db, fork.origin.request_id)?;
        if (origin.namespace.as_str(), origin.agent.as_str()) != agent {
            return Err(Reject::invalid("a fork is a request of the same agent").into());
        }
        let last = fork.origin.seq;
        if !(1..=origin.last_seq).contains(&last) {
            return Err(Reject::invalid(format!("the journal has no entry {last}")).into());
        }
        let mut inherited = Self {
            origin: origin.row,
            session: origin.session,
            shown: shown(db, &origin, fork)?,
            entries: Vec::new(),
            messages: Vec::new(),
            calls: BTreeMap::new(),
        };
        let mut statement = db.prepare_cached(
            "SELECT at, body FROM journal WHERE id BETWEEN ?1 AND ?2 ORDER BY id",
        )?;
        let range = [key::entry(origin.row, 2), key::entry(origin.row, last)];
        let mut rows = statement.query(range)?;
        let mut seq = 1;
        while let Some(found) = rows.next()? {
            seq += 1;
            inherited.take(seq, &row::json(found, 1)?)?;
            inherited.entries.push((get(found, 0)?, get(found, 1)?));
        }
        Ok(inherited)
    }

    fn take(&mut self, seq: u64, body: &EntryBody) -> Result<(), Reject> {
        if let Some(blocks) = body.said() {
            self.said(seq, blocks);
        }
        match body {
            EntryBody::Finished { .. } | EntryBody::CancelRequested { .. } => {
                return Err(Reject::invalid(
                    "a fork begins before the end of its origin",
                ));
            }
            EntryBody::ToolIntent(intent) => {
                if let Some(call) = self.calls.get_mut(&intent.call_id) {
                    call.intent = Some(seq);
                }
            }
            EntryBody::ToolResult(outcome) => {
                if let Some(call) = self.calls.get_mut(&outcome.call_id) {
                    call.result = Some(seq);
                    self.messages.push((seq, Some(call.name.clone())));
                }
            }
            EntryBody::Compacted(_) => self.messages.push((seq, None)),
            EntryBody::Notice { code, .. } if code == OUTPUT_REPAIR => {
                self.messages.push((seq, None));
            }
            _ => {}
        }
        Ok(())
    }

    /// A message of the assistant, with the calls in it.
    fn said(&mut self, seq: u64, blocks: &[Block]) {
        self.messages.push((seq, None));
        for block in blocks {
            if let Block::ToolCall { id, name, .. } = block {
                let call = Call {
                    row: None,
                    name: name.clone(),
                    intent: None,
                    result: None,
                };
                self.calls.insert(id.clone(), call);
            }
        }
    }

    /// How many messages it has.
    pub(in crate::apply) fn messages(&self) -> u64 {
        (self.shown.len() + self.messages.len()) as u64
    }

    /// Writes what stands before the request's own first message and answers the number of that.
    pub(in crate::apply) fn write_shown(
        &self,
        db: &Connection,
        session: i64,
        first: u64,
    ) -> rusqlite::Result<u64> {
        let mut next = first;
        for (entry, tool) in &self.shown {
            insert_message(db, key::message(session, next), *entry, tool.as_deref())?;
            next += 1;
        }
        Ok(next)
    }

    /// Writes what stands behind it.
    pub(in crate::apply) fn write(
        &self,
        db: &Connection,
        request: i64,
        session: i64,
        next_message: u64,
    ) -> rusqlite::Result<()> {
        let mut insert =
            db.prepare_cached("INSERT INTO journal (id, at, body) VALUES (?1, ?2, ?3)")?;
        for (seq, (at, body)) in (2..).zip(&self.entries) {
            insert.execute(params![key::entry(request, seq), at, body])?;
        }
        for (n, (seq, tool)) in (next_message..).zip(&self.messages) {
            let entry = key::entry(request, *seq);
            insert_message(db, key::message(session, n), entry, tool.as_deref())?;
        }
        for (call_id, call) in &self.calls {
            write_call(db, request, call_id, call)?;
        }
        // What its model is shown may name them.
        db.prepare_cached(
            "INSERT INTO spilled_outputs (session, handle, digest, bytes)
             SELECT ?1, handle, digest, bytes FROM spilled_outputs WHERE session = ?2",
        )?
        .execute([session, self.session])?;
        Ok(())
    }
}

/// The messages that the session of the origin showed it: newest first in the query, oldest first in the answer.
fn shown(
    db: &Connection,
    origin: &RequestState,
    fork: &Fork,
) -> rusqlite::Result<Vec<(i64, Option<String>)>> {
    let (first, last) = key::messages(origin.session);
    let mut shown: Vec<_> = db
        .prepare_cached(
            "SELECT m.journal, m.tool FROM messages m JOIN requests r ON r.id = m.journal >> 20
             WHERE m.id BETWEEN ?1 AND ?2 AND r.status IN ('completed', 'failed', 'cancelled')
                 AND r.updated_at <= ?3 AND r.id <> ?4
             ORDER BY m.id DESC LIMIT ?5",
        )?
        .query_map(
            params![
                first,
                last,
                fork.shown_until.as_millis(),
                origin.row,
                fork.shown
            ],
            |found| Ok((get(found, 0)?, get(found, 1)?)),
        )?
        .collect::<rusqlite::Result<_>>()?;
    shown.reverse();
    Ok(shown)
}
