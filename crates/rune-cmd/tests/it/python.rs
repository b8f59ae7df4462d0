//! Programs in Python with the official libraries.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::home::{RUNE, Ran};
use crate::readme::root;

/// The interpreter that `.ci/run` makes and names in a variable, or puts beside the build; none
/// where this machine has none, which is said.
pub(crate) fn interpreter(variable: &str, directory: &str) -> Option<PathBuf> {
    #[expect(
        clippy::disallowed_methods,
        reason = "where the libraries are, is of the machine that runs the tests"
    )]
    let named = std::env::var_os(variable).map(PathBuf::from);
    if let Some(named) = named {
        assert!(named.is_file(), "{variable} names {}", named.display());
        return Some(named);
    }
    let built = Path::new(RUNE).ancestors().nth(2).unwrap();
    let found = built.join(directory).join("bin/python");
    if found.is_file() {
        return Some(found);
    }
    #[expect(clippy::print_stdout, reason = "that a test is skipped is to be seen")]
    {
        println!("skipped: no Python with the libraries ({variable}); .ci/run makes one");
    }
    None
}

/// A program below `crates/rune-cmd/tests` that is a client of the gateway, ready to run; none
/// without the libraries.
pub(crate) fn program(path: &str) -> Option<Program> {
    Some(Program {
        python: interpreter("RUNE_TEST_CLIENTS_PYTHON", "clients-python")?,
        script: root().join("crates/rune-cmd/tests").join(path),
    })
}

/// A program in Python.
pub(crate) struct Program {
    python: PathBuf,
    script: PathBuf,
}

impl Program {
    /// Runs it; answers what it printed.
    #[track_caller]
    pub(crate) fn run(&self, args: &[&str]) -> String {
        let mut command = Command::new(&self.python);
        command
            .arg(&self.script)
            .args(args)
            .env_clear()
            .stdin(Stdio::null());
        Ran::new(command).ok().trim().to_owned()
    }
}
