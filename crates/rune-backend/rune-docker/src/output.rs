//! What a program in a container writes, bounded.

use std::pin::Pin;

use bollard::container::LogOutput;
use bollard::errors::Error;
use futures_util::{Stream, StreamExt};
use rune_tools::{Captured, Keep};

/// The two streams as the engine sends them.
pub(crate) type Output = Pin<Box<dyn Stream<Item = Result<LogOutput, Error>> + Send>>;

/// A standard output and a standard error.
pub(crate) struct Ends {
    pub(crate) stdout: Captured,
    pub(crate) stderr: Captured,
}

impl Ends {
    pub(crate) const fn new(stdout: Keep, stderr: Keep) -> Self {
        Self {
            stdout: Captured::new(stdout),
            stderr: Captured::new(stderr),
        }
    }

    /// Reads to the end; early, with `true`, once there is more than allowed. A stream that breaks has ended.
    pub(crate) async fn fill(&mut self, mut output: Output) -> bool {
        while let Some(Ok(chunk)) = output.next().await {
            let over = match chunk {
                LogOutput::StdErr { message } => self.stderr.push(&message),
                LogOutput::StdOut { message }
                | LogOutput::Console { message }
                | LogOutput::StdIn { message } => self.stdout.push(&message),
            };
            if over {
                return true;
            }
        }
        false
    }
}
