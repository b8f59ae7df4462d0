//! The store over HTTP, for processes that have no database: replicas.
//!
//! * [`RemoteStore`] is a [`rune_store_runtime::RuntimeStore`] and a
//!   [`rune_store_runtime::BlobStore`] whose rows are elsewhere.
//! * [`StoreServer`] makes the routes that it calls, over any store.
//! * [`Scope`] is what a caller of these routes may touch: a replica what is its deployment's.
//! * [`InternalTokens`] says who calls: a replica, or a gateway of a split Rune, which has routes of its own.
//! * [`InternalApi`] is the routes with that authentication, for a control plane to mount.
//!
//! Invariants:
//! * both sides take a call from one definition, so that they cannot drift apart;
//! * a [`rune_store_runtime::StoreError`] arrives as the store gave it;
//! * a command is sent again, under its id, until it is answered or patience ends: a restart of
//!   the other side is a pause and not a failure;
//! * no two commands that write one journal are under way at once, because a store knows only the
//!   last one again.
//!
//! What is not here: any store of its own, and who starts replicas and hands them their token.

mod call;
mod client;
mod scope;
mod server;
mod token;

pub use call::Read;
pub use client::{RemoteStore, RemoteStoreConfig, RemoteStoreError};
pub use scope::{DeploymentScope, Scope};
pub use server::{StoreServer, decode_commands, decode_read};
pub use token::{InternalApi, InternalCaller, InternalTokens, IssuedToken};
