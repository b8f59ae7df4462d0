//! A node of a cluster: how the nodes of `rune-raft` reach each other, and the store on them.
//!
//! * [`Member`] is a node with its files, its socket and its store.
//! * [`Cluster`] is what operators do with a cluster, from any of its nodes.
//! * [`ClusterSecret`] is what the nodes of a cluster have in common, and nobody else has. A node
//!   makes its certificate from it when it starts: there are no files to hand out.
//! * [`Identity`] is a node with its certificate.
//! * [`PeerTransport`] carries messages to other nodes over HTTP/2 with mutual TLS, and
//!   [`PeerServer`] answers theirs.
//! * [`ClusterObjects`] keeps the objects of the cluster on its nodes, or in the bucket that they share.
//!
//! What must hold:
//!
//! * Nothing is said to, or taken from, who has not shown to be a node of this cluster; an answer
//!   comes from the node that was asked.
//! * Heartbeats do not wait behind entries, nor entries behind a snapshot: each has a connection of
//!   its own.
//! * Commands of a node are applied in the order in which they were submitted there, and read there
//!   once they are answered.
//! * Who has not shown to be a node takes no place of one.
//! * What a node began to do for another one is done to its end, also where that one has hung up.

mod client;
mod handshakes;
mod identity;
mod log;
mod member;
mod membership;
mod metrics;
mod objects;
mod server;
mod wire;

pub use client::PeerTransport;
pub use identity::{ClusterSecret, Identity, IdentityError};
pub use member::{Member, MemberConfig, MemberError, Term};
pub use membership::{Cluster, ClusterStatus, MemberStatus, Role, SnapshotAsked};
pub use objects::{ClusterObjects, ObjectsStatus};
pub use rune_raft::About;
pub use server::{Clients, PeerServer};
pub use wire::{BodyError, FORWARDED, PeerBody, PeerMessage, PeerReply, WireError, decode, encode};
