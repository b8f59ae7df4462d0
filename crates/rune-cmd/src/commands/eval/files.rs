//! The files of `evals/`: which are cases, which are cassettes, and whether they are valid.

use std::path::{Path, PathBuf};

use rune_runtime::Cassette;
use rune_spec::{
    AgentPackage, EvalCase, EvalFile, EvalPlaces, EvalSubject, GOLDEN_DIR, SchemaKind, SpecError,
    SpecErrors, nearest,
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
    let (mut files, mut cassettes, mut errors) = (Vec::new(), Vec::new(), Vec::new());
    for relative in package.evals.iter().filter(|path| is_data(path)) {
        let shown = dir.join(relative);
        let text = match package.text(relative) {
            Ok(text) => text,
            Err(error) => {
                errors.push(SpecError::in_text(&shown, "", 0..0, error.message()));
                continue;
            }
        };
        if EvalFile::is_one(&text) {
            match EvalFile::parse(&shown, &text) {
                Ok((file, places)) => files.push((relative, file, places)),
                Err(wrong) => errors.extend(wrong),
            }
            continue;
        }
        if let Err(wrong) = Cassette::parse(&shown, &text) {
            errors.extend(wrong);
        }
        // Below `evals/`, as cases name it.
        cassettes.extend(relative.strip_prefix("evals").ok());
    }
    let mut cases = Vec::new();
    for (relative, file, places) in files {
        for (index, case) in file.cases.into_iter().enumerate() {
            let check = Check {
                package,
                cassettes: &cassettes,
                places: &places,
                index,
            };
            errors.extend(check.errors(&case));
            let file = relative.clone();
            cases.push(Case { file, case });
        }
    }
    SpecErrors::check(errors)?;
    Ok(Files {
        cases,
        cassettes: cassettes.len(),
    })
}

/// A case, compared with the agent that it is about.
struct Check<'a> {
    package: &'a AgentPackage,
    /// Below `evals/`.
    cassettes: &'a [&'a Path],
    places: &'a EvalPlaces,
    index: usize,
}

impl Check<'_> {
    /// What the case names that the agent does not have, or that is nothing to it.
    fn errors(&self, case: &EvalCase) -> Vec<SpecError> {
        match &case.subject {
            EvalSubject::Agent(_) if self.package.workflow.is_some() => self.of_workflow(case),
            EvalSubject::Agent(_) => Vec::new(),
            EvalSubject::Tool { tool, .. } => self.tool(tool).into_iter().collect(),
            EvalSubject::Cassette(path) => self.cassette(path).into_iter().collect(),
        }
    }

    fn error(&self, key: &[&str], message: impl Into<String>) -> SpecError {
        self.places.case(self.index, key, message)
    }

    /// The calls and the models of a workflow are those of the agents of its steps.
    fn of_workflow(&self, case: &EvalCase) -> Vec<SpecError> {
        let expect = &case.expect;
        let named: [(&[&str], bool); 5] = [
            (&["approve"], case.approve.is_some()),
            (&["expect", "tools"], expect.tools.is_some()),
            (&["expect", "no_tool_errors"], expect.no_tool_errors),
            (&["expect", "max_steps"], expect.max_steps.is_some()),
            (&["expect", "max_tokens"], expect.max_tokens.is_some()),
        ];
        let named = named.into_iter().filter(|(_, is_named)| *is_named);
        let errors = named.map(|(key, _)| {
            let name = key.last().copied().unwrap_or_default();
            let message = format!(
                "`{name}` says nothing about an agent with a workflow: its steps call tools and ask models"
            );
            self.error(key, message)
        });
        errors.collect()
    }

    fn tool(&self, name: &str) -> Option<SpecError> {
        let mut tools = self.package.tools.iter();
        let mut servers = self.package.mcp_tools.iter();
        let is_known = tools.any(|known| known.reference.to_string() == name)
            || servers.any(|known| {
                let of = name.split_once('/');
                of.is_some_and(|(server, name)| {
                    server == known.server && known.tool.as_deref().is_none_or(|it| it == name)
                })
            });
        let message = || format!("`{name}` is not in the toolset");
        (!is_known).then(|| self.error(&["tool"], message()))
    }

    fn cassette(&self, path: &Path) -> Option<SpecError> {
        let error = |message: String| self.error(&["cassette"], message);
        if self.package.workflow.is_some() || self.package.runefile.entrypoint.is_some() {
            let message = "an agent with a workflow or an `entrypoint` plays no cassettes";
            return Some(error(message.to_owned()));
        }
        if self.cassettes.contains(&path) {
            return None;
        }
        let file = Path::new("evals").join(path);
        let message = if self.package.evals.contains(&file) {
            format!("{} is no cassette", file.display())
        } else {
            format!("there is no file {}", file.display())
        };
        let known: Vec<String> = self
            .cassettes
            .iter()
            .map(|path| path.display().to_string())
            .collect();
        // Somebody may have written it as seen from the agent.
        let shown = path.strip_prefix("evals").unwrap_or(path);
        let shown = shown.display().to_string();
        let near = nearest(&shown, known.iter().map(String::as_str));
        let help = match (near, known.as_slice()) {
            (Some(near), _) => format!("did you mean `{near}`? The path is relative to evals/"),
            (None, []) => "`rune test DIR --record INPUT` makes one".to_owned(),
            (None, known) => format!("the cassettes in evals/ are: {}", known.join(", ")),
        };
        Some(error(message).with_help(Some(help)))
    }
}

/// Prints the errors and answers the failure they are.
pub(crate) fn invalid(context: &Context, errors: &SpecErrors) -> Failure {
    invalid_file(context.output, errors, "a file of evals/", SchemaKind::Eval)
}
