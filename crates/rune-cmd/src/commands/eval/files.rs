//! The files of `evals/`: which are cases, which are cassettes, and whether they are valid.

use std::path::{Path, PathBuf};

use rune_runtime::Cassette;
use rune_spec::{
    AgentPackage, EvalCase, EvalFile, EvalSubject, GOLDEN_DIR, MAX_FILE_BYTES, SchemaKind,
    SpecError, SpecErrors,
};

use crate::commands::validate::invalid_file;
use crate::context::Context;
use crate::failure::Failure;

/// What is in `evals/`.
pub(crate) struct Files {
    /// Every case, in the order of the files.
    pub(crate) cases: Vec<Case>,
    /// How many cassettes there are.
    pub(crate) cassettes: usize,
}

/// A case and the file that has it, relative to the agent.
pub(crate) struct Case {
    pub(crate) file: PathBuf,
    pub(crate) case: EvalCase,
}

impl Case {
    /// What filters look at.
    pub(crate) fn title(&self) -> String {
        format!("{}: {}", self.file.display(), self.case.name)
    }
}

/// A file of `evals/` that is neither a golden one nor of another kind: cases, or a cassette.
pub(crate) fn is_data(relative: &Path) -> bool {
    let end = relative.extension().and_then(|end| end.to_str());
    matches!(end, Some("yaml" | "yml" | "json")) && !relative.starts_with(GOLDEN_DIR)
}

/// Reads and checks every file of `evals/`. `dir` is what messages call the agent.
///
/// # Errors
/// Everything wrong with them, with its place.
pub(crate) fn load(dir: &Path, package: &AgentPackage) -> Result<Files, SpecErrors> {
    let (mut cases, mut cassettes, mut errors) = (Vec::new(), 0, Vec::new());
    for relative in package.evals.iter().filter(|path| is_data(path)) {
        let shown = dir.join(relative);
        let text = match read(&package.dir.join(relative)) {
            Ok(text) => text,
            Err(message) => {
                errors.push(SpecError::in_text(&shown, "", 0..0, message));
                continue;
            }
        };
        if !EvalFile::is_one(&text) {
            cassettes += 1;
            if let Err(wrong) = Cassette::parse(&shown, &text) {
                errors.extend(wrong);
            }
            continue;
        }
        match EvalFile::parse(&shown, &text) {
            Ok((file, places)) => {
                for (index, case) in file.cases.into_iter().enumerate() {
                    if let Some((key, message)) = missing(package, &case) {
                        errors.push(places.case(index, &[key], message));
                    }
                    cases.push(Case {
                        file: relative.clone(),
                        case,
                    });
                }
            }
            Err(wrong) => errors.extend(wrong),
        }
    }
    SpecErrors::check(errors)?;
    Ok(Files { cases, cassettes })
}

/// What a case names that the agent does not have, and the key that names it.
fn missing(package: &AgentPackage, case: &EvalCase) -> Option<(&'static str, String)> {
    match &case.subject {
        EvalSubject::Agent(_) => None,
        EvalSubject::Tool { tool, .. } => {
            let mut tools = package.tools.iter();
            let mut servers = package.mcp_tools.iter();
            let is_known = tools.any(|known| known.reference.to_string() == *tool)
                || servers.any(|known| {
                    let of = tool.split_once('/');
                    of.is_some_and(|(server, name)| {
                        server == known.server && known.tool.as_deref().is_none_or(|it| it == name)
                    })
                });
            (!is_known).then(|| ("tool", format!("`{tool}` is not in the toolset")))
        }
        EvalSubject::Cassette(_)
            if package.workflow.is_some() || package.runefile.entrypoint.is_some() =>
        {
            let message = "an agent with a workflow or an `entrypoint` plays no cassettes";
            Some(("cassette", message.to_owned()))
        }
        EvalSubject::Cassette(path) => {
            let relative = Path::new("evals").join(path);
            let is_known = package.evals.contains(&relative);
            let message = || format!("there is no file {}", relative.display());
            (!is_known).then(|| ("cassette", message()))
        }
    }
}

/// The text of a file of limited size.
pub(crate) fn read(path: &Path) -> Result<String, String> {
    let broken = |error: std::io::Error| format!("cannot read the file: {error}");
    let length = std::fs::metadata(path).map_err(broken)?.len();
    if length > MAX_FILE_BYTES {
        return Err(format!("the file is larger than {MAX_FILE_BYTES} bytes"));
    }
    std::fs::read_to_string(path).map_err(broken)
}

/// Prints the errors and answers the failure they are.
pub(crate) fn invalid(context: &Context, errors: &SpecErrors) -> Failure {
    invalid_file(context.output, errors, "a file of evals/", SchemaKind::Eval)
}
