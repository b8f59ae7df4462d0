//! Writing cassettes.

use std::path::{Path, PathBuf};

use rune_spec::package::replace_file;
use rune_spec::{AgentPackage, CassetteFile, MAX_FILE_BYTES};
use serde_json::{Value, json};

use super::collect::Collected;
use crate::commands::known_secrets::Secrets;
use crate::context::Context;
use crate::failure::{Exit, Failure, Outcome};
use crate::output::table;

/// What the file begins with.
const HEADER: &str = "# A recorded run. `rune test` plays it to the agent; add `expect` to ask for less than everything.\n";

/// Where cassettes are written.
pub(super) struct Place<'a> {
    /// The directory, as messages call it.
    pub(super) dir: PathBuf,
    /// The agent, where the directory is its `evals/`: nothing is written outside of it.
    pub(super) package: Option<&'a AgentPackage>,
}

/// Writes what was collected and says what was not.
pub(super) fn all(
    context: &Context,
    place: &Place<'_>,
    secrets: &Secrets,
    collected: Vec<Collected>,
) -> Outcome {
    let mut rows = Vec::new();
    let mut skipped = Vec::new();
    for one in collected {
        match one {
            Collected::Recorded(file) => {
                let id = file.request.clone().unwrap_or_default();
                match write(place, secrets, &file) {
                    Ok(path) => rows.push(json!({ "request": id, "file": path })),
                    Err(Problem::Case(reason)) => skipped.push((id, reason)),
                    Err(Problem::Fatal(failure)) => return Err(failure),
                }
            }
            Collected::Skipped { id, reason } => skipped.push((id, reason)),
        }
    }
    print(context, &rows, &skipped)
}

/// Prints what was written, and what was not.
pub(super) fn print(context: &Context, written: &[Value], skipped: &[(String, String)]) -> Outcome {
    let not_written: Vec<Value> = skipped
        .iter()
        .map(|(id, reason)| json!({ "request": id, "reason": reason }))
        .collect();
    let value = json!({ "written": written, "not_written": not_written });
    context.output.data(&value, |_| {
        let columns = [
            ("REQUEST", "/request"),
            ("CASSETTE", "/file"),
            ("SKIPPED", "/reason"),
        ];
        let rows: Vec<Value> = written.iter().chain(&not_written).cloned().collect();
        table(&rows, &columns)
    })?;
    Ok(if written.is_empty() {
        Exit::Failed
    } else {
        Exit::Ok
    })
}

/// Why a cassette was not written.
pub(super) enum Problem {
    /// Of this one.
    Case(String),
    /// Of all of them.
    Fatal(Failure),
}

/// Writes a cassette under a name of its own and answers its path.
pub(super) fn write(
    place: &Place<'_>,
    secrets: &Secrets,
    file: &CassetteFile,
) -> Result<PathBuf, Problem> {
    let text = text(file).map_err(Problem::Case)?;
    if text.len() as u64 > MAX_FILE_BYTES {
        let message = format!(
            "its cassette has {} bytes, and {MAX_FILE_BYTES} are allowed",
            text.len()
        );
        return Err(Problem::Case(message));
    }
    if let Some(name) = secrets.found_in(&text) {
        let message =
            format!("its journal holds the value of {name}, which does not belong into a file");
        return Err(Problem::Case(message));
    }
    let name = format!("{}.yaml", name(file));
    let path = place.dir.join(&name);
    if let Some(package) = place.package {
        let written = package.write(&Path::new("evals").join(name), &text);
        written.map_err(|error| Problem::Fatal(Failure::new(Exit::Failed, error.to_string())))?;
        return Ok(path);
    }
    let written = std::fs::create_dir_all(&place.dir).and_then(|()| replace_file(&path, &text));
    written.map_err(|error| {
        let what = format!("cannot write {}", path.display());
        Problem::Fatal(Failure::because(what, &error))
    })?;
    Ok(path)
}

/// The YAML of a cassette. Where YAML would not say the same, its JSON, which is YAML as well.
fn text(file: &CassetteFile) -> Result<String, String> {
    let broken = |error: &dyn std::fmt::Display| format!("its cassette cannot be written: {error}");
    let same = |text: &str| {
        let read = CassetteFile::parse(Path::new("cassette"), text);
        read.is_ok_and(|(read, _)| read == *file)
    };
    let yaml = serde_saphyr::to_string(file).map_err(|error| broken(&error))?;
    let yaml = format!("{HEADER}{yaml}");
    if same(&yaml) {
        return Ok(yaml);
    }
    let json = serde_json::to_string_pretty(file).map_err(|error| broken(&error))?;
    let json = format!("{HEADER}{json}\n");
    if same(&json) {
        Ok(json)
    } else {
        Err("its cassette would not say the same when it is read".to_owned())
    }
}

/// The words of the input, and the end of the request's id.
fn name(file: &CassetteFile) -> String {
    let words = match &file.input {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let words: Vec<String> = words
        .split(|c: char| !c.is_ascii_alphanumeric())
        .filter(|word| !word.is_empty())
        .take(5)
        .map(str::to_ascii_lowercase)
        .collect();
    let words: String = words.join("-").chars().take(40).collect();
    let id = file.request.as_deref().unwrap_or_default();
    let end: String = id.chars().rev().take(8).collect();
    let end: String = end.chars().rev().collect();
    if words.is_empty() {
        end
    } else {
        format!("{words}-{end}")
    }
}
