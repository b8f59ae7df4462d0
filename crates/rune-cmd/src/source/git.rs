//! Cloning through the installed `git`.
//!
//! What is cloned is not trusted: no hook runs, no submodule is followed, no transport is used but those named here, and
//! the URL cannot be taken for an option. The user's own configuration holds, so credential helpers work; a password that
//! is part of the URL is in no message.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tempfile::TempDir;
use tokio::process::Command;

use crate::failure::{Exit, Failure, Outcome};
use crate::output::{printable, shortened};

/// The transports that may be used.
const PROTOCOLS: [&str; 5] = ["https", "http", "ssh", "git", "file"];
/// Longest time for a clone.
const TIMEOUT: Duration = Duration::from_secs(300);
/// Longest part of git's own words that is shown.
const SHOWN_CHARS: usize = 600;
/// What would lead git to another repository, or make it print what it sends.
const UNWANTED: [&str; 14] = [
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_COMMON_DIR",
    "GIT_OBJECT_DIRECTORY",
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_NAMESPACE",
    "GIT_PREFIX",
    "GIT_TEMPLATE_DIR",
    "GIT_CURL_VERBOSE",
    "GIT_TRACE",
    "GIT_TRACE_CURL",
    "GIT_TRACE_PACKET",
    "GIT_TRACE2",
];

/// Clones the newest commit of a repository.
pub(super) async fn clone(url: &str) -> Outcome<TempDir> {
    let scheme = url.split("://").next().unwrap_or_default();
    if !PROTOCOLS.contains(&scheme) {
        let message = format!("git cannot be asked for `{}`", shown(url));
        return Err(Failure::usage(message).help(format!(
            "the repository's URL begins with one of {}",
            PROTOCOLS.map(|name| format!("{name}://")).join(", ")
        )));
    }
    let dir = tempfile::Builder::new()
        .prefix("rune-git-")
        .tempdir()
        .map_err(|error| Failure::because("cannot make a temporary directory", &error))?;
    let mut command = Command::new("git");
    command
        .args(["-c", "core.hooksPath=/dev/null"])
        .args(["-c", "core.fsmonitor=false"])
        .args(["clone", "--quiet", "--depth=1", "--single-branch"])
        .args(["--no-tags", "--no-recurse-submodules", "--template="])
        .args(["--", url])
        .arg(dir.path())
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("GIT_ALLOW_PROTOCOL", PROTOCOLS.join(":"))
        .stdin(Stdio::null())
        .kill_on_drop(true);
    for name in UNWANTED {
        command.env_remove(name);
    }
    let output = match tokio::time::timeout(TIMEOUT, command.output()).await {
        Ok(output) => output.map_err(|error| not_started(&error))?,
        Err(_) => {
            let secs = TIMEOUT.as_secs();
            let message = format!("git did not clone {} within {secs} s", shown(url));
            return Err(Failure::new(Exit::Unavailable, message)
                .help("clone it by hand and name the directory"));
        }
    };
    if output.status.success() {
        return Ok(dir);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = shortened(printable(&redacted(&said, url)).trim(), SHOWN_CHARS);
    let message = format!("git cannot clone {}: {said}", shown(url));
    let help = if scheme == "git" {
        "git:// alone is git's own protocol, which few servers speak: for HTTPS write git://https://HOST/PATH"
    } else {
        "`git clone` by hand shows more; credentials come from git's own configuration"
    };
    Err(Failure::new(Exit::Failed, message).help(help))
}

/// The directory of the agent in a clone.
pub(super) fn inside(clone: &Path, url: &str, subdir: Option<&str>) -> Outcome<PathBuf> {
    let Some(subdir) = subdir else {
        return Ok(clone.to_owned());
    };
    let found = clone.join(subdir).canonicalize();
    let root = clone.canonicalize();
    match (found, root) {
        (Ok(found), Ok(root)) if found.is_dir() && found.starts_with(&root) => Ok(found),
        _ => Err(Failure::usage(format!(
            "{} has no directory `{subdir}`",
            shown(url)
        ))),
    }
}

fn not_started(error: &std::io::Error) -> Failure {
    if error.kind() == std::io::ErrorKind::NotFound {
        Failure::new(
            Exit::Unavailable,
            "cannot clone a repository: the program `git` is not installed",
        )
        .help("install git, or clone the repository elsewhere and name the directory")
    } else {
        Failure::because("cannot start git", error)
    }
}

/// The user and password in a URL.
fn credentials(url: &str) -> Option<&str> {
    let rest = url.split_once("://")?.1;
    let authority = rest.split(['/', '?', '#']).next()?;
    authority.rsplit_once('@').map(|(user, _)| user)
}

/// A URL, or a source with one in it, without its password.
pub(crate) fn shown(url: &str) -> String {
    let (outer, inner) = match url.strip_prefix("git://") {
        Some(inner) if inner.contains("://") => ("git://", inner),
        _ => ("", url),
    };
    format!("{outer}{}", redacted(inner, inner))
}

/// The text without the credentials of the URL.
fn redacted(text: &str, url: &str) -> String {
    let Some(credentials) = credentials(url).filter(|found| !found.is_empty()) else {
        return text.to_owned();
    };
    let password = credentials.split_once(':').map_or("", |(_, word)| word);
    let text = text.replace(&format!("{credentials}@"), "***@");
    if password.is_empty() {
        text
    } else {
        text.replace(password, "***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_not_shown() {
        for (url, expected) in [
            ("https://me:secret@host/r.git", "https://***@host/r.git"),
            ("https://token@host/r.git", "https://***@host/r.git"),
            ("git://https://me:word@h/r#dir", "git://https://***@h/r#dir"),
            ("https://host/a@b", "https://host/a@b"),
            ("./agents", "./agents"),
        ] {
            assert_eq!(shown(url), expected);
        }
        let said = "fatal: 'https://me:secret@host/r.git': secret is wrong";
        let said = redacted(said, "https://me:secret@host/r.git");
        assert_eq!(said, "fatal: 'https://***@host/r.git': *** is wrong");
    }

    #[tokio::test]
    async fn other_transports_are_refused() {
        for url in ["ext::sh -c id", "--upload-pack=id", "fd://3", "ftp://h/r"] {
            let failure = clone(url).await.unwrap_err();
            assert_eq!(failure.exit, Exit::Usage, "{url}");
        }
    }

    #[test]
    fn a_directory_is_inside_of_the_clone() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("a")).unwrap();
        std::os::unix::fs::symlink("/", dir.path().join("out")).unwrap();
        assert!(inside(dir.path(), "u", Some("a")).is_ok());
        for subdir in ["b", "out", "out/tmp"] {
            assert!(inside(dir.path(), "u", Some(subdir)).is_err(), "{subdir}");
        }
    }
}
