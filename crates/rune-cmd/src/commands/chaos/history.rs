//! What was seen of a run: all that the invariants are about.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use clap::ValueEnum;
use serde::Serialize;
use serde_json::Value;

/// What a request has the agent do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Work {
    /// Answer.
    Plain,
    /// Call a tool that may be called again under its key.
    Again,
    /// Call a tool that may not.
    Once,
}

impl Work {
    /// The tool that it has be called, and the file with its effects.
    pub(super) const fn tool(self) -> Option<&'static str> {
        match self {
            Self::Plain => None,
            Self::Again => Some("again"),
            Self::Once => Some("once"),
        }
    }
}

/// What a client asked under one key, until it was answered, and what it was told.
#[derive(Debug, Clone)]
pub(super) struct Operation {
    pub(super) key: String,
    pub(super) work: Work,
    /// When the attempt began that was accepted, and when that was said, since the run began.
    pub(super) accepted: Option<(Duration, Duration)>,
    /// The requests that it was told of: one.
    pub(super) ids: BTreeSet<String>,
    /// What was said to be the answer.
    pub(super) outputs: Vec<Value>,
    /// The entries of the journal that it was sent, where it followed the request to its end.
    pub(super) events: Option<Vec<u64>>,
    /// How often it was told to come back.
    pub(super) refused: u64,
    /// Connections that ended without an answer.
    pub(super) broken: u64,
    /// Answers that are none of those.
    pub(super) strange: Vec<String>,
    /// Reads of the newest state, after it was accepted, that did not find it.
    pub(super) unseen: u64,
    /// Whether the client has everything that it asked for.
    pub(super) is_done: bool,
}

impl Operation {
    pub(super) const fn new(key: String, work: Work) -> Self {
        Self {
            key,
            work,
            accepted: None,
            ids: BTreeSet::new(),
            outputs: Vec::new(),
            events: None,
            refused: 0,
            broken: 0,
            strange: Vec::new(),
            unseen: 0,
            is_done: false,
        }
    }

    /// What it asks.
    pub(super) fn input(&self) -> String {
        match self.work.tool() {
            None => format!("plain {}", self.key),
            Some(tool) => format!("/tool {tool}"),
        }
    }
}

/// A request, as a node has it in the end.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Found {
    pub(super) status: String,
    pub(super) output: Value,
}

/// A line that a tool left: for which request it was called, and under which key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Effect {
    pub(super) request: String,
    pub(super) key: String,
}

/// What can happen to a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum FaultKind {
    /// A node is killed, and started again after a while
    Kill,
    /// A node stands still for a while
    Pause,
    /// A node reaches others no more, or is not reached, or both
    Partition,
    /// What a node sends, and what is sent to it, comes later
    Slow,
    /// Another node is to lead
    Transfer,
    /// A node is told to end, and started again
    Restart,
}

/// Something that was done.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Injected {
    pub(super) kind: FaultKind,
    /// The number of the node.
    pub(super) node: usize,
    /// Whether it led then.
    pub(super) led: bool,
    /// In words.
    pub(super) what: String,
    /// Since the run began.
    pub(super) at_ms: u64,
    /// Until it was undone.
    pub(super) lasted_ms: u64,
}

/// All of it.
#[derive(Debug, Default)]
pub(super) struct History {
    pub(super) operations: Vec<Operation>,
    pub(super) injected: Vec<Injected>,
    /// Why a node was not ready once everything was as before.
    pub(super) unready: Option<String>,
    /// The requests, as each node has them.
    pub(super) found: Vec<BTreeMap<String, Found>>,
    /// The entries of the journals of requests that were followed.
    pub(super) journals: BTreeMap<String, Vec<u64>>,
    /// What the tools left.
    pub(super) effects: BTreeMap<&'static str, Vec<Effect>>,
    /// What the tables of each node come to, by their names.
    pub(super) rows: Vec<BTreeMap<String, String>>,
    /// Lines of the logs that say that something went wrong inside.
    pub(super) panics: Vec<String>,
}
