//! Why a patch is refused.

/// A patch that cannot be read or does not fit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// The text is not a unified diff.
    #[error("line {line} of the patch: {problem}")]
    Syntax {
        /// Line of the patch, counted from 1.
        line: usize,
        /// What is wrong.
        problem: String,
    },
    /// There is nothing to apply in the text.
    #[error(
        "the patch has no file header; it needs `--- a/path` and `+++ b/path` before the `@@` hunks"
    )]
    Empty,
    /// A hunk does not match the file.
    #[error("hunk {hunk} (`{header}`): {problem}")]
    Mismatch {
        /// The hunk, counted from 1.
        hunk: usize,
        /// Its header.
        header: String,
        /// What is there instead.
        problem: String,
    },
}
