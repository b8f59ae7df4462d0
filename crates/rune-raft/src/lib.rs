//! The store of a cluster: a replicated log of commands, applied on every node by the same code
//! that a single node uses.
//!
//! * [`LogStore`] keeps the log of this node in a file of its own: one order for every write, one
//!   fsync for many of them.
//! * [`StateMachine`] applies what is committed to the node's database, with the place in the log
//!   and the membership in the same transaction.
//! * [`SnapshotDir`] holds the snapshot that replaces the beginning of the log.
//! * [`Transport`] is how nodes reach each other; what is said is a [`Message`].
//! * [`Node`] puts them together: writes from any node, linearizable reads.
//! * [`Change`] is how nodes join, get a vote and leave; [`About`] is what one says of itself.
//!
//! OpenRaft is the protocol. Everything here is generic over its runtime and over where blocking
//! work is done ([`Disk`]), so that tests run whole clusters in a simulated one.
//!
//! What must hold:
//!
//! * Nothing is said to another node before it is on disk here: neither a vote nor an entry.
//! * Whatever the log holds is applied: a command that the state forbids has an answer like any
//!   other, and only a log that cannot be read or a disk that fails stops a node.
//! * A command is applied once, however often it is in the log.
//! * A command that is fenced is applied only where the node that made it led when the command came
//!   into the log.
//! * The log is shortened only by what a snapshot on disk holds.
//! * What a member does not understand is not put into the log, as far as it was ever heard.
//!
//! What is not here: SQL, which is rune-storage's, and HTTP.

mod disk;
mod entry;
mod found;
mod log_store;
mod membership;
mod network;
mod node;
mod receive;
mod sizes;
mod snapshot;
mod state_machine;
mod survey;
mod tail;
mod types;

pub use disk::{Disk, Threads};
pub use found::{FoundError, found};
pub use log_store::{LogStatus, LogStore};
pub use membership::{Change, FIRST_JOINED, MAX_VOTER_LAG};
pub use network::{CallError, Chunk, Message, Network, Reply, Transport};
pub use node::{Lead, MAX_WRITE_BYTES, MAX_WRITE_COMMANDS, Node, NodeConfig, Status, Written};
pub use openraft::BasicNode;
pub use receive::{Received, Receiver};
pub use snapshot::{Manifest, SnapshotDir, SnapshotFile};
pub use state_machine::{ApplyObserver, Builder, StateMachine};
pub use survey::{About, Progress};
pub use types::{
    Leader, LogEntry, LogId, MAX_PROPOSAL_BYTES, Members, NodeId, Outcome, Payload, Proposal,
    Types, Vote,
};
