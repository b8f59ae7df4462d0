use std::{
    fs::{File, OpenOptions},
    path::Path,
};

use crate::TestkitError;

const FILE: &str = "daemon.log";
/// How much of the log an error or a failed test shows.
const TAIL_LINES: usize = 200;

/// Two handles that append to the log.
pub(super) fn open(home: &Path) -> Result<(File, File), TestkitError> {
    let path = home.join(FILE);
    let open = || {
        let file = OpenOptions::new().create(true).append(true).open(&path)?;
        Ok((file.try_clone()?, file))
    };
    open().map_err(|source| TestkitError::File {
        path: path.clone(),
        source,
    })
}

pub(super) fn read(home: &Path) -> String {
    std::fs::read(home.join(FILE))
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default()
}

pub(super) fn tail(home: &Path) -> String {
    let log = read(home);
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}

#[expect(
    clippy::print_stderr,
    reason = "the test harness captures it and shows it with the failure"
)]
pub(super) fn print(home: &Path) {
    eprintln!("--- daemon log\n{}\n--- end of daemon log", tail(home));
}
