//! What a value that comes in may have at the most.

/// The longest id (of a message, a task, a context, a configuration) in bytes.
pub const MAX_ID_BYTES: usize = 256;
/// The most parts of a message or an artifact.
pub const MAX_PARTS: usize = 256;
/// The most tasks or messages that a message refers to, and extensions that it names.
pub const MAX_REFERENCES: usize = 64;
/// The longest URL in bytes.
pub const MAX_URL_BYTES: usize = 2048;
/// The longest token or credential of a webhook in bytes.
pub const MAX_CREDENTIAL_BYTES: usize = 4096;
/// The most tasks of one page.
pub const MAX_PAGE_SIZE: u32 = 100;
/// The tasks of a page where nobody says how many.
pub const DEFAULT_PAGE_SIZE: u32 = 50;
/// The longest media type or file name in bytes.
pub const MAX_NAME_BYTES: usize = 256;
