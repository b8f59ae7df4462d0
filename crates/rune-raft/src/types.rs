//! What the protocol is used with.

use std::cmp::Ordering;
use std::fmt;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use openraft::impls::leader_id_adv::LeaderId;
use openraft::{AsyncRuntime, BasicNode, EntryPayload, OptionalSend, RaftTypeConfig};
use rune_store_runtime::{Command, Leadership, Reject, Reply, StoreError, Timestamp};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

/// The largest command of a cluster, in bytes of its JSON: what is sent to another node at once. It
/// is room for the largest entry of a journal beside everything else that a command carries.
pub const MAX_PROPOSAL_BYTES: usize = 4 << 20;

/// The number of a node. It is never used again, not even for the same machine with an empty disk.
pub type NodeId = u64;
/// Who leads, and since when: several nodes may try it in one term, the greatest number of them
/// has it.
pub type Leader = LeaderId<u64, NodeId>;
/// A place in the log, with who put the entry there.
pub type LogId = openraft::LogId<Leader>;
/// The same for commands.
pub(crate) const fn leadership(leader: &Leader) -> Leadership {
    Leadership {
        term: leader.term,
        node: leader.node_id,
    }
}

/// A vote.
pub type Vote = openraft::Vote<Leader>;
/// What an entry holds.
pub type Payload = EntryPayload<Proposal, NodeId, BasicNode>;
/// An entry of the log.
pub type LogEntry = openraft::Entry<Leader, Payload>;
/// A membership, with its place in the log.
pub type Members = openraft::StoredMembership<Leader, NodeId, BasicNode>;
/// The answer to a command; nothing for entries that are the protocol's own.
pub type Outcome = Option<Result<Reply, Reject>>;

/// The types of the protocol on a runtime.
pub struct Types<R>(PhantomData<fn() -> R>);

impl<R: AsyncRuntime> RaftTypeConfig for Types<R> {
    type D = Proposal;
    type R = Outcome;
    type NodeId = NodeId;
    type Node = BasicNode;
    type Term = u64;
    type LeaderId = Leader;
    type Vote = Vote;
    type Payload = Payload;
    type Entry = LogEntry;
    type AsyncRuntime = R;
    type Responder<T>
        = openraft::impls::ProgressResponder<Self, T>
    where
        T: OptionalSend + 'static;
    type Batch<T>
        = openraft::impls::InlineBatch<T>
    where
        T: OptionalSend + 'static;
    type ErrorSource = openraft::impls::BoxedErrorSource;
}

// By hand, because deriving them would ask the same of the runtime.
impl<R> fmt::Debug for Types<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Types")
    }
}

impl<R> Clone for Types<R> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<R> Copy for Types<R> {}

impl<R> Default for Types<R> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<R> PartialEq for Types<R> {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl<R> Eq for Types<R> {}

impl<R> PartialOrd for Types<R> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<R> Ord for Types<R> {
    fn cmp(&self, _: &Self) -> Ordering {
        Ordering::Equal
    }
}

/// A command as its JSON: made once by whoever submits it, kept and sent as it is, and read by
/// every node that applies it. A node that cannot read one stops there, and does not skip it.
///
/// What was read of it is kept until it is applied, so that the node that looked at it need not
/// read it twice. It is never the command that the JSON was made of: every node applies what the
/// JSON says.
#[derive(Clone)]
pub struct Proposal(Arc<Text>);

struct Text {
    json: Arc<str>,
    read: Mutex<Option<Box<Command>>>,
}

impl Proposal {
    /// The proposal of a command.
    ///
    /// # Errors
    /// Where it cannot be written as JSON.
    pub fn of(command: &Command) -> Result<Self, serde_json::Error> {
        serde_json::to_string(command).map(Self::from)
    }

    /// The proposal of a command that can stand in the log of this node.
    ///
    /// # Errors
    /// [`StoreError::Rejected`] where it is of a newer version, too large, or could not be read
    /// again, as what nests too deep: once in the log it would stop every node.
    pub fn checked(command: &Command) -> Result<Self, StoreError> {
        let proposal = Self::of(command)
            .map_err(|error| Reject::invalid(format!("cannot be written as JSON: {error}")))?;
        let any_time = Timestamp::from_millis(i64::MAX);
        proposal.check((0, Command::VERSION), any_time)?;
        Ok(proposal)
    }

    /// Whether it can stand in a log whose member that understands the least is this one, with this
    /// version of commands, as one that was made no later than `latest`.
    ///
    /// # Errors
    /// As of [`Proposal::checked`].
    pub fn check(&self, (node, known): (NodeId, u16), latest: Timestamp) -> Result<(), Reject> {
        if self.bytes() > MAX_PROPOSAL_BYTES {
            return Err(Reject::invalid(format!(
                "a command has {} bytes of JSON, the limit of a cluster is {MAX_PROPOSAL_BYTES}",
                self.bytes()
            )));
        }
        let command = self
            .command()
            .map_err(|error| Reject::invalid(format!("cannot be read again: {error}")))?;
        if !command.is_known() {
            let known = Command::VERSION;
            return Err(Reject::invalid(format!(
                "command version {} is not known, this rune knows {known}",
                command.v
            )));
        }
        if command.v > known {
            return Err(Reject::conflict(format!(
                "this needs version {} of commands, and node {node} is not known to understand more than {known}: \
                 start it with the version of the others",
                command.v
            )));
        }
        if command.at > latest {
            return Err(Reject::invalid(format!(
                "the command is of {}, which is too far ahead of the clock of the node that leads; set the clocks of \
                 both nodes",
                command.at
            )));
        }
        *self.read() = Some(command);
        Ok(())
    }

    /// The command, which is not kept any longer.
    ///
    /// # Errors
    /// Where it is not one that this version knows.
    pub fn command(&self) -> Result<Box<Command>, serde_json::Error> {
        match self.read().take() {
            Some(command) => Ok(command),
            None => serde_json::from_str(&self.0.json),
        }
    }

    /// The JSON.
    #[must_use]
    pub fn text(&self) -> &Arc<str> {
        &self.0.json
    }

    /// Its size.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.0.json.len()
    }

    fn read(&self) -> MutexGuard<'_, Option<Box<Command>>> {
        self.0.read.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl From<String> for Proposal {
    fn from(text: String) -> Self {
        Self::from(Arc::from(text))
    }
}

impl From<Arc<str>> for Proposal {
    fn from(json: Arc<str>) -> Self {
        let read = Mutex::default();
        Self(Arc::new(Text { json, read }))
    }
}

impl PartialEq for Proposal {
    fn eq(&self, other: &Self) -> bool {
        self.0.json == other.0.json
    }
}

impl Eq for Proposal {}

/// Within other JSON it is a value of it, and not a text that every quotation mark is escaped in.
impl Serialize for Proposal {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let value: &RawValue =
            serde_json::from_str(&self.0.json).map_err(serde::ser::Error::custom)?;
        value.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Proposal {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Box::<RawValue>::deserialize(deserializer).map(|value| Self::from(Arc::from(value.get())))
    }
}

/// Says how large it is: what is in a command is nobody's business in a log line.
impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "command of {} bytes", self.bytes())
    }
}

impl fmt::Debug for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
