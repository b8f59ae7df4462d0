//! `tests/golden/KIND/ok/*.yaml` parse to the `.json` beside them, `invalid/*.yaml` fail with the `.err` beside them.
//! After an intended change: delete the expectation files, run the tests once, and review what they wrote.

use std::fs;
use std::path::{Path, PathBuf};

use rune_spec::{Channels, Compose, EvalFile, Runefile, SpecErrors, ToolDescriptor, Workflow};
use serde::Serialize;

type Parsed = Result<String, SpecErrors>;

fn json<T: Serialize>(value: Result<T, SpecErrors>) -> Parsed {
    value.map(|value| serde_json::to_string_pretty(&value).unwrap() + "\n")
}

fn cases(kind: &str, verdict: &str) -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(kind)
        .join(verdict);
    let mut files: Vec<PathBuf> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|kind| kind == "yaml"))
        .collect();
    files.sort();
    files
}

/// Compares with the file, or writes it when there is none yet (and fails, so that nobody forgets to look).
fn compare(path: &Path, actual: &str, failures: &mut Vec<String>) {
    match fs::read_to_string(path) {
        Ok(expected) if expected == actual => {}
        Ok(expected) => failures.push(format!(
            "{}\n-- expected\n{expected}\n-- actual\n{actual}",
            path.display()
        )),
        Err(_) => {
            fs::write(path, actual).unwrap();
            failures.push(format!(
                "{} was missing and has been written: review it",
                path.display()
            ));
        }
    }
}

fn check(kind: &str, at_least_invalid: usize, parse: fn(&Path, &str) -> Parsed) {
    let mut failures = Vec::new();
    let (ok, invalid) = (cases(kind, "ok"), cases(kind, "invalid"));
    assert!(
        !ok.is_empty() && invalid.len() >= at_least_invalid,
        "{kind}: too few cases"
    );
    for path in ok {
        let text = fs::read_to_string(&path).unwrap();
        match parse(Path::new(path.file_name().unwrap()), &text) {
            Ok(value) => compare(&path.with_extension("json"), &value, &mut failures),
            Err(errors) => failures.push(format!("{} must be valid:\n{errors}", path.display())),
        }
    }
    for path in invalid {
        let text = fs::read_to_string(&path).unwrap();
        match parse(Path::new(path.file_name().unwrap()), &text) {
            Ok(value) => failures.push(format!(
                "{} must be refused, but gave {value}",
                path.display()
            )),
            Err(errors) => compare(
                &path.with_extension("err"),
                &format!("{errors}\n"),
                &mut failures,
            ),
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

#[test]
fn runefiles() {
    check("runefile", 12, |path, text| {
        json(Runefile::parse(path, text))
    });
}

#[test]
fn tools() {
    check("tool", 6, |path, text| {
        json(ToolDescriptor::parse(path, text))
    });
}

#[test]
fn workflows() {
    check("workflow", 6, |path, text| {
        json(Workflow::parse(path, text))
    });
}

#[test]
fn compose_files() {
    check("compose", 6, |path, text| {
        json(Compose::parse(path, text, &|_| None))
    });
}

#[test]
fn channels() {
    check("channels", 6, |path, text| {
        json(Channels::parse(path, text))
    });
}

#[test]
fn evals() {
    check("eval", 4, |path, text| {
        json(EvalFile::parse(path, text).map(|(file, _)| file))
    });
}
