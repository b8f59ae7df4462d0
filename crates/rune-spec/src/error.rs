//! Errors that point at the place in a file.

use std::fmt;
use std::path::{Path, PathBuf};

/// One thing wrong with one file.
///
/// `Display` prints it the way a compiler does: message, `file:line:column`, the line with a caret, and help.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpecError {
    file: PathBuf,
    message: String,
    help: Option<String>,
    place: Option<Place>,
}

/// Where in the file, and the text that stands there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) line: usize,
    pub(crate) column: usize,
    pub(crate) width: usize,
    pub(crate) snippet: String,
}

impl SpecError {
    /// An error about the file as a whole.
    pub(crate) fn file(file: &Path, message: impl Into<String>) -> Self {
        Self {
            file: file.to_owned(),
            message: message.into(),
            help: None,
            place: None,
        }
    }

    /// An error at a range of bytes of `text`, the content of the file: for formats that are parsed elsewhere.
    pub fn in_text(
        file: &Path,
        text: &str,
        range: std::ops::Range<usize>,
        message: impl Into<String>,
    ) -> Self {
        Self::at(file, crate::document::place_of(text, range), message)
    }

    /// An error at a place in the file.
    pub(crate) fn at(file: &Path, place: Place, message: impl Into<String>) -> Self {
        Self {
            file: file.to_owned(),
            message: message.into(),
            help: None,
            place: Some(place),
        }
    }

    /// The same error with a hint how to repair it.
    #[must_use]
    pub fn with_help(mut self, help: Option<String>) -> Self {
        self.help = help;
        self
    }

    /// The file, as it was named by the caller.
    pub fn path(&self) -> &Path {
        &self.file
    }

    /// The line, counted from 1; `None` when the error concerns the file as a whole.
    pub fn line(&self) -> Option<usize> {
        self.place.as_ref().map(|place| place.line)
    }

    /// The column in characters, counted from 1.
    pub fn column(&self) -> Option<usize> {
        self.place.as_ref().map(|place| place.column)
    }

    /// The offending line of the file.
    pub fn snippet(&self) -> Option<&str> {
        self.place.as_ref().map(|place| place.snippet.as_str())
    }

    /// What is wrong, without the place.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// How to repair it, when there is a good guess.
    pub fn help(&self) -> Option<&str> {
        self.help.as_deref()
    }
}

impl fmt::Display for SpecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "error: {}", printable(&self.message))?;
        let Some(place) = &self.place else {
            write!(f, " --> {}", self.file.display())?;
            if let Some(help) = &self.help {
                write!(f, "\n  = help: {}", printable(help))?;
            }
            return Ok(());
        };
        let number = place.line.to_string();
        let gutter = " ".repeat(number.len());
        writeln!(
            f,
            "{gutter}--> {}:{}:{}",
            self.file.display(),
            place.line,
            place.column
        )?;
        writeln!(f, "{gutter} |")?;
        writeln!(f, "{number} | {}", printable(&place.snippet))?;
        write!(
            f,
            "{gutter} | {}{}",
            " ".repeat(place.column.saturating_sub(1)),
            "^".repeat(place.width.max(1))
        )?;
        if let Some(help) = &self.help {
            write!(f, "\n{gutter} = help: {}", printable(help))?;
        }
        Ok(())
    }
}

impl std::error::Error for SpecError {}

/// Text with control characters made visible, so that a file cannot steer a terminal. Keeps the number of characters.
fn printable(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\n' => c,
            '\t' => ' ',
            c if c.is_control() => '\u{fffd}',
            c => c,
        })
        .collect()
}

/// Everything wrong with a file or a package; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpecErrors(Vec<SpecError>);

impl SpecErrors {
    pub(crate) fn new(errors: Vec<SpecError>) -> Self {
        debug_assert!(!errors.is_empty(), "an error list holds at least one error");
        Self(errors)
    }

    /// All of these together.
    ///
    /// # Errors
    /// When there is one at all.
    pub fn check(errors: Vec<SpecError>) -> Result<(), Self> {
        if errors.is_empty() {
            Ok(())
        } else {
            Err(Self(errors))
        }
    }

    /// The errors, in the order of the file.
    pub fn iter(&self) -> std::slice::Iter<'_, SpecError> {
        self.0.iter()
    }

    /// How many there are.
    #[expect(clippy::len_without_is_empty, reason = "never empty")]
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

impl From<SpecError> for SpecErrors {
    fn from(error: SpecError) -> Self {
        Self(vec![error])
    }
}

impl IntoIterator for SpecErrors {
    type Item = SpecError;
    type IntoIter = std::vec::IntoIter<SpecError>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a> IntoIterator for &'a SpecErrors {
    type Item = &'a SpecError;
    type IntoIter = std::slice::Iter<'a, SpecError>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for SpecErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n\n")?;
            }
            error.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for SpecErrors {}

/// Why a single value (a name, a capability, a tool reference…) was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct InvalidValue {
    message: String,
    help: Option<String>,
}

impl InvalidValue {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            help: None,
        }
    }

    #[must_use]
    pub(crate) fn with_help(mut self, help: Option<String>) -> Self {
        self.help = help;
        self
    }

    /// What is wrong.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// How to repair it, when there is a good guess.
    pub fn help(&self) -> Option<&str> {
        self.help.as_deref()
    }
}
