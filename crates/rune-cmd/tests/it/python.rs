//! Programs in Python with the official libraries.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::home::{RUNE, Ran};
use crate::readme::root;

/// Libraries that `.ci/run` installs for an interpreter of their own.
pub(crate) struct Libraries {
    /// Names the interpreter.
    variable: &'static str,
    /// Where else it is, beside the build.
    directory: &'static str,
}

/// The official SDK of MCP.
pub(crate) const MCP: Libraries = Libraries {
    variable: "RUNE_TEST_MCP_PYTHON",
    directory: "mcp-python",
};
/// OpenAI's SDK and the types of AG-UI.
pub(crate) const CLIENTS: Libraries = Libraries {
    variable: "RUNE_TEST_CLIENTS_PYTHON",
    directory: "clients-python",
};
/// The official SDK of A2A 1.0.
pub(crate) const A2A_1: Libraries = Libraries {
    variable: "RUNE_TEST_A2A_1_PYTHON",
    directory: "a2a-1-python",
};
/// The official SDK of A2A 0.3.
pub(crate) const A2A_0_3: Libraries = Libraries {
    variable: "RUNE_TEST_A2A_0_3_PYTHON",
    directory: "a2a-0.3-python",
};

/// A server that speaks the protocol of S3.
pub(crate) const S3: Libraries = Libraries {
    variable: "RUNE_TEST_S3_PYTHON",
    directory: "s3-python",
};

/// The interpreter with these libraries; none where this machine has none, which is said.
pub(crate) fn interpreter(libraries: &Libraries) -> Option<PathBuf> {
    let Libraries {
        variable,
        directory,
    } = libraries;
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
/// without its libraries.
pub(crate) fn program(libraries: &Libraries, path: &str) -> Option<Program> {
    Some(Program {
        python: interpreter(libraries)?,
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
            // Nothing is written beside the script.
            .arg("-B")
            .arg(&self.script)
            .args(args)
            .env_clear()
            .stdin(Stdio::null());
        Ran::new(command).ok().trim().to_owned()
    }
}
