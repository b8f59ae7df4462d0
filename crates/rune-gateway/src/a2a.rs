//! Agents as servers of the Agent2Agent protocol: a task is a request, a context is a session.
//!
//! A task is read from the journal of its request ([`task`]), a stream is the tail of that
//! ([`stream`]). [`operations`] does what a call asks for, whichever binding it came over;
//! [`answer`] writes what comes of it. `docs/a2a.md` says what users see.

pub(crate) mod access;
pub(crate) mod answer;
pub(crate) mod card;
pub(crate) mod find;
pub(crate) mod list;
pub(crate) mod news;
pub(crate) mod notes;
pub(crate) mod operations;
pub(crate) mod parts;
pub(crate) mod push;
pub(crate) mod question;
pub(crate) mod stream;
pub(crate) mod target;
pub(crate) mod task;
pub(crate) mod webhooks;

pub use access::A2aAccess;
