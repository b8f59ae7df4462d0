//! What a tool that is a program answers: one JSON value on its standard output.

use serde_json::Value;

use crate::{ToolError, text};

/// Bytes of a text that is not JSON shown in the error.
const SHOWN_BYTES: usize = 300;

/// The answer of a program that has ended well. `redact` takes secrets out of what an error shows.
///
/// # Errors
/// [`ToolErrorKind::Failed`](crate::ToolErrorKind::Failed) where it is not one JSON value.
pub fn parse_answer(
    stdout: &[u8],
    diagnostics: &str,
    redact: impl FnOnce(String) -> String,
) -> Result<Value, ToolError> {
    if stdout.trim_ascii().is_empty() {
        return Err(ToolError::failed(format!(
            "the tool wrote nothing to standard output; it must write one JSON value, such as \
             `null`{}",
            said(diagnostics)
        )));
    }
    serde_json::from_slice(stdout).map_err(|error| {
        let shown = redact(text::decode_cut(stdout).into_owned());
        let head = text::prefix(&shown, SHOWN_BYTES);
        let more = if head.len() < shown.len() { "…" } else { "" };
        ToolError::failed(format!(
            "the tool's standard output is not one JSON value ({error}); it begins with: \
             {head}{more}\ndiagnostics belong on standard error"
        ))
    })
}

/// Whether a program says that it could not start another process or thread. Every system library has the same words for
/// the number of the error; some shells and languages have their own.
#[must_use]
pub fn says_crowded(diagnostics: &str) -> bool {
    const WORDS: [&str; 4] = [
        "resource temporarily unavailable",
        "eagain",
        "cannot fork",
        "can't start new thread",
    ];
    says_one_of(diagnostics, &WORDS)
}

/// Whether a program says that it got no more memory.
pub(crate) fn says_out_of_memory(diagnostics: &str) -> bool {
    const WORDS: [&str; 4] = [
        "cannot allocate memory",
        "out of memory",
        "memoryerror",
        "memory allocation of",
    ];
    says_one_of(diagnostics, &WORDS)
}

fn says_one_of(diagnostics: &str, words: &[&str]) -> bool {
    let text = diagnostics.to_ascii_lowercase();
    words.iter().any(|words| text.contains(words))
}

/// The end of an error message that shows diagnostics, where there are any.
#[must_use]
pub fn said(diagnostics: &str) -> String {
    if diagnostics.is_empty() {
        String::new()
    } else {
        format!("; standard error ends with:\n{diagnostics}")
    }
}
