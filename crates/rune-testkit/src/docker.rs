//! Docker Engine for tests: images that are made here, because none can be pulled, and a look at what is left.

use std::fs::File;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use rustix::fs::{FlockOperation, flock};
use tempfile::TempDir;

use crate::TestkitError;

/// Debian's `busybox-static`.
const BUSYBOX: &str = "/bin/busybox";
/// Held while images are made, since several test programs run at the same time.
const LOCK: &str = "rune-test-docker.lock";
/// What an image with its own program answers: its input, and who it is.
const ANSWER: &str = "#!/bin/sh\nprintf '{\"input\": %s, \"user\": %s}' \"$(cat)\" \"$(id -u)\"\n";

/// The engine of this machine, reached by its command line.
#[derive(Debug, Clone, Copy)]
pub struct TestDocker(());

impl TestDocker {
    /// The engine, where one answers and Busybox is there to make images of. Says on standard error what is missing.
    #[must_use]
    pub fn find() -> Option<Self> {
        let docker = Self(());
        let missing = if !Path::new(BUSYBOX).is_file() {
            format!("{BUSYBOX} is not there (Debian's busybox-static)")
        } else if docker.run(&["version"]).is_err() {
            "Docker Engine does not answer".to_owned()
        } else {
            return Some(docker);
        };
        crate::skip(&missing);
        None
    }

    /// Runs `docker` with these arguments; answers what it printed.
    ///
    /// # Errors
    /// [`TestkitError::Docker`] with what it said.
    pub fn run(self, args: &[&str]) -> Result<String, TestkitError> {
        let output = Command::new("docker").args(args).output();
        printed(args, output)
    }

    /// Makes an image of Busybox under this name, where there is none; `changes` are instructions of a Dockerfile. Its
    /// `/bin/answer` is a tool.
    ///
    /// # Errors
    /// [`TestkitError::Docker`] or [`TestkitError::File`].
    pub fn image(self, name: &str, changes: &[&str]) -> Result<(), TestkitError> {
        let lock = std::env::temp_dir().join(LOCK);
        let lock = File::create(&lock).map_err(file(&lock))?;
        flock(&lock, FlockOperation::LockExclusive)
            .map_err(|error| TestkitError::Process(error.into()))?;
        if self.run(&["image", "inspect", name]).is_ok() {
            return Ok(());
        }
        let root = root()?;
        let mut tar = Command::new("tar")
            .arg("-C")
            .arg(root.path())
            .args(["--owner=0", "--group=0", "-cf", "-", "."])
            .stdout(Stdio::piped())
            .spawn()
            .map_err(TestkitError::Process)?;
        let mut args = vec!["import", "--change", "ENV PATH=/bin"];
        args.extend(changes.iter().flat_map(|change| ["--change", change]));
        args.extend(["-", name]);
        let archive = tar.stdout.take().map_or_else(Stdio::null, Stdio::from);
        let output = Command::new("docker").args(&args).stdin(archive).output();
        tar.wait().map_err(TestkitError::Process)?;
        printed(&args, output).map(|_| ())
    }

    /// The containers with a label, also those that have ended.
    ///
    /// # Errors
    /// [`TestkitError::Docker`].
    pub fn containers(self, label: &str) -> Result<Vec<String>, TestkitError> {
        let filter = format!("label={label}");
        let listed = self.run(&["ps", "--all", "--quiet", "--filter", &filter])?;
        Ok(listed.lines().map(str::to_owned).collect())
    }
}

/// The files of an image.
fn root() -> Result<TempDir, TestkitError> {
    let dir = TempDir::with_prefix("rune-test-image-")
        .map_err(file(Path::new("the temporary directory")))?;
    let bin = dir.path().join("bin");
    let tmp = dir.path().join("tmp");
    for made in [&bin, &tmp] {
        std::fs::create_dir(made).map_err(file(made))?;
    }
    let all = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(dir.path(), all.clone()).map_err(file(dir.path()))?;
    std::fs::copy(BUSYBOX, bin.join("busybox")).map_err(file(&bin))?;
    let listed = Command::new(BUSYBOX).arg("--list").output();
    for applet in printed(&["busybox", "--list"], listed)?.lines() {
        let link = bin.join(applet);
        if applet != "busybox" {
            symlink("busybox", &link).map_err(file(&link))?;
        }
    }
    let answer = bin.join("answer");
    std::fs::write(&answer, ANSWER).map_err(file(&answer))?;
    std::fs::set_permissions(&answer, all).map_err(file(&answer))?;
    Ok(dir)
}

fn file(path: &Path) -> impl FnOnce(std::io::Error) -> TestkitError + use<> {
    let path = path.to_owned();
    move |source| TestkitError::File { path, source }
}

fn printed(args: &[&str], output: std::io::Result<Output>) -> Result<String, TestkitError> {
    let output = output.map_err(TestkitError::Process)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(TestkitError::Docker {
        command: args.join(" "),
        said: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}
