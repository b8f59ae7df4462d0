//! The installed program.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rune_env::MACHINE_VARIABLES;
use rune_tools::{ProcessGroup, find_program};
use tokio::io::AsyncReadExt;
use tokio::process::Command;
use tokio::sync::OnceCell;
use tokio::time::timeout;

/// Its name.
const PROGRAM: &str = "claude";
/// The oldest version whose options are known here.
const OLDEST: (u64, u64) = (2, 1);
/// How long it may take to say its version.
const VERSION_LIMIT: Duration = Duration::from_secs(20);
/// Bytes of what it says that are read.
const VERSION_BYTES: u64 = 1024;

/// The `claude` program of this machine.
#[derive(Debug)]
pub struct ClaudeCli {
    program: PathBuf,
    environment: Vec<(String, String)>,
    /// Set once it has said a version that is known here.
    known: OnceCell<()>,
}

impl ClaudeCli {
    /// The program in the `PATH` of the daemon's environment, if it is there. A package
    /// has no say in it.
    #[must_use]
    pub fn find(environment: impl Fn(&str) -> Option<String>) -> Option<Self> {
        let program = find_program(PROGRAM, &environment("PATH")?)?;
        let environment = MACHINE_VARIABLES
            .iter()
            .filter_map(|name| Some(((*name).to_owned(), environment(name)?)));
        Some(Self {
            program,
            environment: environment.collect(),
            known: OnceCell::new(),
        })
    }

    /// Where it is.
    #[must_use]
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Whether it can be used; asked once. Otherwise why not.
    pub(super) async fn check(&self) -> Result<(), String> {
        let check = self.known.get_or_try_init(|| async {
            let said = timeout(VERSION_LIMIT, self.version()).await;
            let said = said
                .map_err(|_| "it does not answer".to_owned())
                .and_then(|said| said.map_err(|error| error.to_string()))
                .map_err(|why| format!("`{} --version` failed: {why}", self.program.display()))?;
            match parse_version(&said) {
                Some(version) if version >= OLDEST => Ok(()),
                Some((major, minor)) => Err(format!(
                    "the `claude` program is version {major}.{minor}; {}.{} is the oldest that is known here",
                    OLDEST.0, OLDEST.1
                )),
                None => Err(format!(
                    "`{} --version` does not say a version",
                    self.program.display()
                )),
            }
        });
        check.await.copied()
    }

    /// A command of the program, with its environment and nothing else of the daemon's.
    pub(super) fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command
            .env_clear()
            .envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    async fn version(&self) -> std::io::Result<String> {
        let mut command = self.command();
        command
            .arg("--version")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut group = ProcessGroup::spawn(&mut command)?;
        let (_, output, _) = group.pipes();
        let mut said = String::new();
        if let Some(output) = output {
            output.take(VERSION_BYTES).read_to_string(&mut said).await?;
        }
        group.wait().await?;
        Ok(said)
    }
}

/// Major and minor of `2.1.197 (Claude Code)`.
fn parse_version(said: &str) -> Option<(u64, u64)> {
    let mut parts = said.split_whitespace().next()?.split('.');
    let major = parts.next()?.parse().ok()?;
    let minor = parts.next()?.parse().ok()?;
    parts.next().map(|_| (major, minor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_version() {
        assert_eq!(parse_version("2.1.197 (Claude Code)\n"), Some((2, 1)));
        assert_eq!(parse_version("2.10.0"), Some((2, 10)));
        for said in ["", "claude 2.1.0", "2", "2.1"] {
            assert_eq!(parse_version(said), None, "{said}");
        }
    }
}
