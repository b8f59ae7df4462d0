//! What is taken from a server, and how long it may take.

use std::time::Duration;

/// Bytes of one message of a server.
pub(crate) const MESSAGE_BYTES: usize = 16 * 1024 * 1024;
/// Bytes of a body that is an error that are read.
pub(crate) const ERROR_BODY_BYTES: usize = 4 * 1024;
/// Tools of one server.
pub(crate) const TOOLS: usize = 512;
/// Pages of its list.
pub(crate) const PAGES: usize = 64;
/// Characters of a tool's name.
pub(crate) const NAME_CHARS: usize = 128;
/// Characters of a description that a model is shown.
pub(crate) const DESCRIPTION_CHARS: usize = 4096;
/// Bytes of a schema.
pub(crate) const SCHEMA_BYTES: usize = 64 * 1024;
/// Bytes of all schemas of a server.
pub(crate) const SCHEMAS_BYTES: usize = 1024 * 1024;
/// Tools that were left out of which is told.
pub(crate) const SKIPPED: usize = 64;
/// Refused connections of a process of which is told, from its start on.
pub(crate) const REFUSALS: usize = 64;
/// Characters of an error that are passed on.
pub(crate) const ERROR_CHARS: usize = 2000;
/// Characters of a message that comes with progress.
pub(crate) const PROGRESS_CHARS: usize = 300;
/// Reports of progress of one call that are passed on.
pub(crate) const PROGRESS_REPORTS: u32 = 1000;
/// The least time between two of them.
pub(crate) const PROGRESS_EVERY: Duration = Duration::from_millis(100);
/// Times that a server may ask for something before it answers a call.
pub(crate) const ROUNDS: usize = 8;

/// The longest that a connection may take to be made: twice the time that the newer handshake is waited for before the
/// older one is tried.
pub(crate) const CONNECT: Duration = Duration::from_secs(25);
/// The longest that a list of tools may take.
pub(crate) const LIST: Duration = Duration::from_secs(20);
/// How often a server is asked for its tools without a reason.
pub(crate) const LOOK_EVERY: Duration = Duration::from_secs(60);
/// The least time between two lists.
pub(crate) const LIST_EVERY: Duration = Duration::from_secs(1);
/// How long a call waits for a connection.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
/// How long a process may take to end after it was asked to.
pub(crate) const END: Duration = Duration::from_secs(1);
/// How long a connection may take to be closed in good order.
pub(crate) const CLOSE: Duration = Duration::from_secs(2);
/// The first wait before a connection is tried again; doubles with every failure.
pub(crate) const BACKOFF: Duration = Duration::from_millis(250);
/// The longest.
pub(crate) const MAX_BACKOFF: Duration = Duration::from_secs(60);
/// The longest where a call waits for the connection.
pub(crate) const WANTED_BACKOFF: Duration = Duration::from_secs(1);
/// A connection that has held for so long was a good one: the next wait is the first one again.
pub(crate) const STABLE: Duration = Duration::from_secs(30);
