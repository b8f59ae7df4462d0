//! Who may talk to whom, and where an agent is found.
//!
//! An agent is a member of the networks its Runefile lists, `bridge` where it lists none;
//! [`may_call`] lets one agent call another only where they share a network. Networks
//! span namespaces. The [`PeerRegistry`] knows the members that run, by their
//! [`AgentAddress`], and which deployment serves each.
//!
//! What is not here: choosing a replica (the router of the engine), policy (who may call
//! what with which arguments), and any transport.
//!
//! Invariant: a member that left is not found, and the rule sees the networks of the
//! version that joined last.

mod address;
mod membership;
mod peer;

pub use address::AgentAddress;
pub use membership::{Member, NotConnected, may_call};
pub use peer::{Peer, PeerRegistry};
