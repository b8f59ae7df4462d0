//! `kubectl`, the outside judge.

use std::io;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use tempfile::TempDir;

use crate::{ApiServer, KubernetesError};

/// The directories where programs are.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// `kubectl` with a home and a kubeconfig of its own.
#[derive(Debug)]
pub struct Kubectl {
    home: TempDir,
    kubeconfig: PathBuf,
}

impl Kubectl {
    /// The program, with a kubeconfig, where it is installed. Says on standard error where it is not.
    ///
    /// # Errors
    /// [`KubernetesError::File`] where there can be no home.
    pub fn find(kubeconfig: PathBuf) -> Result<Option<Self>, KubernetesError> {
        let path = std::env::temp_dir();
        let home = TempDir::with_prefix("rune-test-kubectl-")
            .map_err(|source| KubernetesError::File { path, source })?;
        let kubectl = Self { home, kubeconfig };
        let version = kubectl.command(&["version", "--client"]).output();
        if version.is_ok_and(|output| output.status.success()) {
            return Ok(Some(kubectl));
        }
        rune_testkit::skip("kubectl is not there (Debian's kubernetes-client)");
        Ok(None)
    }

    /// The program for the administrator of a server.
    ///
    /// # Errors
    /// [`KubernetesError::File`].
    pub fn admin(server: &ApiServer, namespace: &str) -> Result<Option<Self>, KubernetesError> {
        Self::find(server.kubeconfig(namespace)?)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("kubectl");
        command
            .args(args)
            .env_clear()
            .env("PATH", PATH)
            .env("HOME", self.home.path())
            .env("KUBECONFIG", &self.kubeconfig)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Runs it to its end, off the reactor.
    ///
    /// # Errors
    /// Where it cannot be run.
    pub async fn run(&self, args: &[&str]) -> io::Result<Output> {
        let mut command = self.command(args);
        let ran = tokio::task::spawn_blocking(move || command.output());
        ran.await.map_err(io::Error::other)?
    }

    /// Starts it; its output is piped.
    ///
    /// # Errors
    /// Where it cannot be run.
    pub fn start(&self, args: &[&str]) -> io::Result<Child> {
        self.command(args).spawn()
    }
}
