//! Cassettes: recorded runs that the agent as it is now is tried on, with nothing from outside.
//!
//! A [`Cassette`] is made from the journal of a request ([`Engine::record`](crate::Engine::record)) or read from a file.
//! Playing it ([`Engine::play`](crate::Engine::play)) is a [replay](crate::replay) with the agent at hand: the planner is
//! the real one, the models are answered from the cassette, the tools, too, unless they are to run for real.
//!
//! Invariants:
//! * no model is asked and nothing is written but to the tape;
//! * what a cassette holds of a run is what the journal holds of it, without ids, times and durations.

mod entries;
mod outcome;
mod prompt;

use std::path::Path;

use rune_spec::{
    CASSETTE_VERSION, CassetteFile, CassettePrompt, Expectations, MeasuredPrompt, SpecErrors,
};
use rune_store_runtime::{
    Entry, EntryBody, Message, MessageRow, PromptMeasure, RequestId, RequestRow, SessionId,
    Timestamp,
};
use serde_json::Value;

use crate::history;

pub(crate) use outcome::unmet;
pub use outcome::{Played, Unmet};
pub(crate) use prompt::{difference, of as prompt_of};

/// What the `caller` of the fields that are left out is called.
const SESSION: &str = "cassette";

/// A recorded run.
#[derive(Debug, Clone, PartialEq)]
pub struct Cassette {
    file: CassetteFile,
    request_id: RequestId,
    history: Vec<MessageRow>,
    journal: Vec<Entry>,
}

impl Cassette {
    /// Reads the text of a cassette, YAML or JSON. `path` only serves the messages.
    ///
    /// # Errors
    /// Everything wrong with it, with its place.
    pub fn parse(path: &Path, text: &str) -> Result<Self, SpecErrors> {
        let (file, places) = CassetteFile::parse(path, text)?;
        let mut errors = Vec::new();
        let request_id = match file.request.as_deref().map(str::parse) {
            None => RequestId::from_bytes([0; 16]),
            Some(Ok(id)) => id,
            Some(Err(error)) => {
                errors.push(places.key("request", format!("{error}")));
                RequestId::from_bytes([0; 16])
            }
        };
        let mut journal = vec![Entry {
            request_id,
            seq: 1,
            at: Timestamp::default(),
            body: EntryBody::Accepted {
                input: file.input.clone(),
                forked_from: None,
            },
        }];
        for (index, value) in file.journal.iter().enumerate() {
            match entries::read(value, request_id) {
                Ok(body) => journal.push(Entry {
                    request_id,
                    seq: journal.len() as u64 + 1,
                    at: Timestamp::default(),
                    body,
                }),
                Err(message) => errors.push(places.entry(index, message)),
            }
        }
        if errors.is_empty()
            && let Some(obstacle) = crate::replay::obstacle(&journal)
        {
            errors.push(places.key("journal", format!("it cannot be played: {obstacle}")));
        }
        let mut history = Vec::new();
        for (turn, messages) in file.history.iter().enumerate() {
            for (index, message) in messages.iter().enumerate() {
                match serde_json::from_value::<Message>(message.clone()) {
                    Ok(message) => history.push(earlier(turn, index as u64 + 1, message)),
                    Err(error) => errors.push(places.message(turn, index, error.to_string())),
                }
            }
        }
        if let Some(newest) = history.last_mut() {
            newest.measure = file.measured.map(|prompt| PromptMeasure {
                estimated: prompt.estimated,
                reported: prompt.reported,
            });
        }
        SpecErrors::check(errors)?;
        Ok(Self {
            file,
            request_id,
            history,
            journal,
        })
    }

    /// The recorded run of a request.
    pub(crate) fn record(
        row: &RequestRow,
        prompt: CassettePrompt,
        history: Vec<MessageRow>,
        journal: &[Entry],
    ) -> CassetteFile {
        let input = match journal.first().map(|entry| &entry.body) {
            Some(EntryBody::Accepted { input, .. }) => input.clone(),
            _ => Value::Null,
        };
        let measured = history::measure(history.iter().rev()).map(|prompt| MeasuredPrompt {
            estimated: prompt.estimated,
            reported: prompt.reported,
        });
        let mut turns: Vec<(RequestId, Vec<Value>)> = Vec::new();
        for row in history {
            let message = serde_json::to_value(&row.message).unwrap_or_default();
            match turns.iter_mut().find(|(id, _)| *id == row.request_id) {
                Some((_, turn)) => turn.push(message),
                None if row.seq == 1 => turns.push((row.request_id, vec![message])),
                // Its beginning was not shown, so nothing of it was.
                None => {}
            }
        }
        CassetteFile {
            cassette: CASSETTE_VERSION,
            agent: row.agent.clone(),
            request: Some(row.id.to_string()),
            recorded_at: Some(row.created_at.to_string()),
            namespace: row.namespace.clone(),
            caller: row.caller.clone(),
            prompt,
            expect: None,
            mcp_tools: Vec::new(),
            input,
            history: turns.into_iter().map(|(_, turn)| turn).collect(),
            measured,
            journal: journal
                .iter()
                .skip(1)
                .filter_map(|entry| entries::write(&entry.body))
                .collect(),
        }
    }

    /// The same run, of which nothing is asked: behind a difference models and tools go on answering.
    #[must_use]
    pub fn expecting_nothing(mut self) -> Self {
        self.file.expect = Some(Expectations::default());
        self
    }

    /// What the file says.
    #[must_use]
    pub const fn file(&self) -> &CassetteFile {
        &self.file
    }

    pub(crate) const fn request_id(&self) -> RequestId {
        self.request_id
    }

    pub(crate) fn history(&self) -> &[MessageRow] {
        &self.history
    }

    pub(crate) fn journal(&self) -> &[Entry] {
        &self.journal
    }
}

/// A message of the `turn`th earlier request.
fn earlier(turn: usize, seq: u64, message: Message) -> MessageRow {
    let mut id = [0xff; 16];
    id[8..].copy_from_slice(&(turn as u64).to_be_bytes());
    MessageRow {
        session_id: session(),
        request_id: RequestId::from_bytes(id),
        seq,
        created_at: Timestamp::default(),
        message,
        measure: None,
        compaction: None,
    }
}

/// The session of a run that is played.
pub(crate) fn session() -> SessionId {
    SESSION.parse().unwrap_or_else(|_| SessionId::generate())
}
