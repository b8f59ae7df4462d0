//! How a command ends.

use std::io::Write;
use std::process::ExitCode;

use rune_store_runtime::{ErrorCode, RequestStatus};

use crate::output::Style;

/// The exit codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// It worked.
    Ok,
    /// It did not.
    Failed,
    /// The command line or a file is wrong.
    Usage,
    /// Not allowed.
    Denied,
    /// A budget or a limit was reached.
    Limit,
    /// A person has to decide first.
    Approval,
    /// The daemon or something it needs does not answer.
    Unavailable,
    /// Ended by Ctrl-C.
    Interrupted,
}

impl Exit {
    /// The number the shell sees.
    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Denied => 3,
            Self::Limit => 4,
            Self::Approval => 5,
            Self::Unavailable => 6,
            Self::Interrupted => 130,
        }
    }

    /// The exit for an error code of the API.
    pub(crate) const fn of(code: ErrorCode) -> Self {
        match code {
            ErrorCode::InvalidInput => Self::Usage,
            ErrorCode::Unauthenticated | ErrorCode::Denied => Self::Denied,
            ErrorCode::LimitExceeded | ErrorCode::TooLarge | ErrorCode::Timeout => Self::Limit,
            ErrorCode::ModelUnavailable | ErrorCode::Unavailable => Self::Unavailable,
            ErrorCode::NotFound
            | ErrorCode::Conflict
            | ErrorCode::Cancelled
            | ErrorCode::Internal => Self::Failed,
        }
    }

    /// The exit for the state in which a request was left.
    pub(crate) const fn of_status(status: RequestStatus) -> Self {
        match status {
            RequestStatus::InputRequired => Self::Approval,
            RequestStatus::Failed | RequestStatus::Cancelled => Self::Failed,
            RequestStatus::Accepted | RequestStatus::Running | RequestStatus::Completed => Self::Ok,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// A command that did not succeed.
#[derive(Debug)]
pub(crate) struct Failure {
    /// How the process ends.
    pub(crate) exit: Exit,
    message: Option<String>,
    help: Option<String>,
    code: Option<ErrorCode>,
}

/// What a command answers.
pub(crate) type Outcome<T = Exit> = Result<T, Failure>;

impl Failure {
    /// A failure with this exit. The message says what failed and where.
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            exit,
            message: Some(message.into()),
            help: None,
            code: None,
        }
    }

    /// A failure whose message has been printed already.
    pub(crate) const fn silent(exit: Exit) -> Self {
        Self {
            exit,
            message: None,
            help: None,
            code: None,
        }
    }

    /// The command line or a file is wrong.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// Something failed; `error` is printed with everything that caused it.
    pub(crate) fn because(what: impl Into<String>, error: &dyn std::error::Error) -> Self {
        Self::new(Exit::Failed, format!("{}: {}", what.into(), chain(error)))
    }

    /// The same failure with a hint what to do.
    #[must_use]
    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// The same failure with what it belongs to in front.
    #[must_use]
    pub(crate) fn within(mut self, what: &str) -> Self {
        self.message = self.message.map(|message| format!("{what}: {message}"));
        self
    }

    /// The same failure with the code that the API has given it.
    #[must_use]
    pub(crate) fn coded(mut self, code: ErrorCode) -> Self {
        self.code = Some(code);
        self
    }

    /// The code that the API has given it, where it is from there.
    pub(crate) const fn code(&self) -> Option<ErrorCode> {
        self.code
    }

    /// The message, for those who hand it on.
    pub(crate) fn message(&self) -> &str {
        self.message.as_deref().unwrap_or_default()
    }

    /// The hint, for those who hand it on.
    pub(crate) fn hint(&self) -> Option<&str> {
        self.help.as_deref()
    }

    /// Prints it to stderr.
    pub(crate) fn print(&self, style: Style) {
        let Some(message) = &self.message else { return };
        let mut text = format!("{} {message}\n", style.error("error:"));
        if let Some(help) = &self.help {
            text.push_str(&format!("  {} {help}\n", style.dim("help:")));
        }
        // Without a stderr nobody is left to tell.
        let _ = std::io::stderr().lock().write_all(text.as_bytes());
    }
}

impl From<std::io::Error> for Failure {
    /// Writing to stdout failed. A reader that went away (`rune … | head`) is not an error.
    fn from(error: std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            Self::silent(Exit::Ok)
        } else {
            Self::new(Exit::Failed, format!("cannot write the output: {error}"))
        }
    }
}

/// An error and its causes in one line, without saying anything twice.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}
