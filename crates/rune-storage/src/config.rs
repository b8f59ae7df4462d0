//! How a store is opened.

use std::path::PathBuf;

/// Configuration of [`crate::SqliteStore::open`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StorageConfig {
    /// The database file. Its directory is the data directory: created where it
    /// is missing, locked while the store is open.
    pub path: PathBuf,
    /// What a power loss may take.
    pub durability: Durability,
    /// Threads that read, at least 1.
    pub readers: usize,
    /// Commands that may wait for the writer; further callers wait to enqueue.
    pub queue: usize,
}

impl StorageConfig {
    /// Reader threads where nothing else is said.
    pub const DEFAULT_READERS: usize = 2;
    /// Waiting commands where nothing else is said.
    pub const DEFAULT_QUEUE: usize = 1024;

    /// The defaults: full durability.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            durability: Durability::Full,
            readers: Self::DEFAULT_READERS,
            queue: Self::DEFAULT_QUEUE,
        }
    }
}

/// What a power loss or a crash of the operating system may take. A crash of the
/// process alone takes nothing in either mode, and neither can damage the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// Nothing that was answered.
    #[default]
    Full,
    /// The commits since the last checkpoint: seconds under load, more when idle.
    Normal,
}

impl Durability {
    pub(crate) const fn pragma(self) -> &'static str {
        match self {
            Self::Full => "FULL",
            Self::Normal => "NORMAL",
        }
    }
}
