//! Loading an agent directory.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::walk::is_ignored;
use super::{
    AgentPackage, McpSelection, PackageError, PackageTool, PackedPackage, PolicyFile, RUNEFILE,
    file, pack,
};
use crate::channels::Channels;
use crate::checker::{Checker, check_json_schema};
use crate::document::{At, Document, read_text};
use crate::error::{InvalidValue, SpecError, SpecErrors};
use crate::policy::RuleArguments;
use crate::runefile::{self, Instructions, PolicyDocument, Runefile};
use crate::script::Script;
use crate::suggest::help_for;
use crate::tool::{ToolDescriptor, ToolRuntime, first_required, object_schema};
use crate::tool_ref::ToolRef;
use crate::workflow::Workflow;

/// Most files read from `tools/` or listed from `evals/`.
const MAX_DIRECTORY_FILES: usize = 1000;
/// The built-in tool that comes with every other tool.
pub const OUTPUT_READ: &str = "output-read";
/// The built-in tool that finds those that a model is not shown.
pub const TOOL_SEARCH: &str = "tool-search";

impl AgentPackage {
    /// Loads and checks the agent in `dir`: the Runefile and every file it leads to.
    ///
    /// # Errors
    /// Everything wrong with the files, as far as one error does not hide another.
    pub fn load(dir: &Path) -> Result<Self, SpecErrors> {
        let root = fs::canonicalize(dir).map_err(|error| {
            SpecError::file(dir, format!("cannot open the agent directory: {error}"))
        })?;
        Loader {
            dir,
            root,
            errors: Vec::new(),
        }
        .load()
    }

    /// Packs the agent in `dir`; see [`pack`].
    ///
    /// # Errors
    /// As [`pack`].
    pub fn pack(dir: &Path) -> Result<PackedPackage, PackageError> {
        pack(dir)
    }

    /// The same package with another short form of its policy, as JSON.
    ///
    /// # Errors
    /// Everything wrong with it.
    pub fn with_policy(&self, policy: &Map<String, Value>) -> Result<Self, SpecErrors> {
        let text = json!({ "policy": policy }).to_string();
        let (document, source) = Document::parse::<PolicyOnly>(Path::new("policy"), &text)?;
        let mut checker = Checker::new(&source);
        let at = At::top("policy");
        if document.policy.file.is_some() {
            checker.error(&at.field("file"), "`file` cannot be named here");
        }
        let mut package = self.clone();
        package.runefile.policy =
            runefile::policy(&mut checker, &document.policy, &self.runefile.toolset);
        check_rule_arguments(
            &mut checker,
            &package.runefile,
            &package.tools,
            &package.mcp_tools,
        );
        checker.finish(package)
    }

    /// The tool the model calls by this name.
    pub fn tool(&self, visible_name: &str) -> Option<&PackageTool> {
        self.tools
            .iter()
            .find(|tool| tool.visible_name == visible_name)
    }
}

/// A Runefile of which only the policy is there.
#[derive(Deserialize)]
struct PolicyOnly {
    policy: PolicyDocument,
}

struct Loader<'a> {
    /// As the caller named it; used in messages.
    dir: &'a Path,
    root: PathBuf,
    errors: Vec<SpecError>,
}

impl Loader<'_> {
    fn load(mut self) -> Result<AgentPackage, SpecErrors> {
        let runefile = self.runefile();
        let tools = self.tools();
        let workflow = self.optional("workflow.yaml", Workflow::parse);
        let channels = self.optional("channels.yaml", Channels::parse);
        let script = self.optional("script.yaml", Script::parse);
        let evals = self.evals();
        let Some((runefile, source)) = runefile else {
            return Err(SpecErrors::new(self.errors));
        };
        let mut checker = Checker::new(&source);
        let instructions = self.instructions(&mut checker, &runefile);
        let policy = self.policy(&mut checker, &runefile);
        if let Some(path) = &runefile.entrypoint {
            checker.take(&At::top("entrypoint"), self.inside(path));
        }
        let (described, mcp_tools) = resolve(&mut checker, &runefile, &tools);
        check_rule_arguments(&mut checker, &runefile, &described, &mcp_tools);
        if let Err(errors) = checker.finish(()) {
            self.errors.extend(errors);
        }
        if !self.errors.is_empty() {
            return Err(SpecErrors::new(self.errors));
        }
        Ok(AgentPackage {
            dir: self.root,
            runefile,
            instructions,
            tools: described,
            mcp_tools,
            workflow,
            channels,
            script,
            policy,
            evals,
        })
    }

    fn runefile(&mut self) -> Option<(Runefile, Document)> {
        let path = self.dir.join(RUNEFILE);
        if !self.root.join(RUNEFILE).exists() {
            let error = SpecError::file(&path, "there is no Runefile here");
            self.errors
                .push(error.with_help(Some("`rune init NAME` makes a new agent".to_owned())));
            return None;
        }
        let text = self.text(Path::new(RUNEFILE))?;
        self.keep(Runefile::parse_with_source(&path, &text))
    }

    /// The tools of `tools/*.yaml` by name.
    fn tools(&mut self) -> BTreeMap<String, ToolDescriptor> {
        let mut tools: BTreeMap<String, ToolDescriptor> = BTreeMap::new();
        for relative in self.list(Path::new("tools")) {
            let yaml = relative
                .extension()
                .is_some_and(|kind| kind == "yaml" || kind == "yml");
            if !yaml || relative.components().count() != 2 {
                continue;
            }
            let path = self.dir.join(&relative);
            let Some(text) = self.text(&relative) else {
                continue;
            };
            let Some((mut tool, source)) =
                self.keep(ToolDescriptor::parse_with_source(&path, &text))
            else {
                continue;
            };
            let mut checker = Checker::new(&source);
            self.complete(&mut checker, &mut tool);
            if tools.contains_key(&tool.name) {
                checker.error(
                    &At::top("name"),
                    format!("another file of `tools/` already defines `{}`", tool.name),
                );
            }
            if let Err(errors) = checker.finish(()) {
                self.errors.extend(errors);
            }
            tools.entry(tool.name.clone()).or_insert(tool);
        }
        tools
    }

    /// Reads what a tool description leads to.
    fn complete(&self, checker: &mut Checker<'_>, tool: &mut ToolDescriptor) {
        let module = match &tool.runtime {
            ToolRuntime::Process { module } | ToolRuntime::Wasm { module } => Some(module),
            ToolRuntime::Container { module, .. } => module.as_ref(),
            ToolRuntime::Builtin if crate::builtin(&tool.name).is_none() => {
                let message = format!("Rune has no built-in tool `{}`", tool.name);
                let help = help_for(&tool.name, crate::builtin_names());
                checker.error_with_help(&At::top("name"), message, help);
                None
            }
            ToolRuntime::Agent { .. } | ToolRuntime::Mcp { .. } | ToolRuntime::Builtin => None,
        };
        if let Some(module) = module {
            checker.take(&At::top("module"), self.inside(module));
        }
        if let Some(path) = tool.input_schema_ref.clone() {
            let schema = self
                .schema(&path)
                .and_then(|schema| object_schema(schema).map_err(InvalidValue::new));
            if let Some(schema) = checker.take(&At::top("input_schema_ref"), schema) {
                tool.primary_argument = tool
                    .primary_argument
                    .take()
                    .or_else(|| first_required(&schema));
                tool.input_schema = schema;
            }
        }
        if let Some(path) = tool.output_schema_ref.clone() {
            tool.output_schema = checker.take(&At::top("output_schema_ref"), self.schema(&path));
        }
    }

    fn schema(&self, relative: &Path) -> Result<Value, InvalidValue> {
        let path = self.inside(relative)?;
        let text = read_text(&path).map_err(|error| InvalidValue::new(error.message()))?;
        // YAML contains JSON, so both kinds of file are read the same way.
        let (schema, _) = Document::parse::<Value>(relative, &text).map_err(|error| {
            let place = error
                .line()
                .map(|line| format!(" (line {line})"))
                .unwrap_or_default();
            InvalidValue::new(format!(
                "{}: {}{place}",
                relative.display(),
                error.message()
            ))
        })?;
        check_json_schema(&schema)
            .map_err(|message| InvalidValue::new(format!("{}: {message}", relative.display())))?;
        Ok(schema)
    }

    fn instructions(&self, checker: &mut Checker<'_>, runefile: &Runefile) -> String {
        match &runefile.instructions {
            Instructions::Text(text) => text.clone(),
            Instructions::File(path) => {
                let at = At::top("instructions_file");
                let text = checker.take(&at, self.inner_text(path)).unwrap_or_default();
                checker.filled(&at, "the file", &text);
                text
            }
        }
    }

    fn policy(&self, checker: &mut Checker<'_>, runefile: &Runefile) -> Option<PolicyFile> {
        let default = Path::new("policy.cedar");
        let (at, path) = match &runefile.policy.file {
            Some(path) => (At::top("policy").field("file"), path.as_path()),
            None if self.root.join(default).exists() => (At::default(), default),
            None => return None,
        };
        let text = checker.take(&at, self.inner_text(path))?;
        Some(PolicyFile {
            path: self.dir.join(path),
            text,
        })
    }

    fn evals(&mut self) -> Vec<PathBuf> {
        self.list(Path::new("evals"))
    }

    /// The files below a directory of the package, relative to it, sorted.
    fn list(&mut self, relative: &Path) -> Vec<PathBuf> {
        let mut files = Vec::new();
        let mut open = vec![relative.to_owned()];
        while let Some(dir) = open.pop() {
            let entries = match fs::read_dir(self.root.join(&dir)) {
                Ok(entries) => entries,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => {
                    self.errors.push(SpecError::file(
                        &self.dir.join(&dir),
                        format!("cannot be listed: {error}"),
                    ));
                    continue;
                }
            };
            for entry in entries.flatten() {
                let path = dir.join(entry.file_name());
                let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
                if is_ignored(&path) {
                    continue;
                }
                if is_dir {
                    open.push(path);
                } else {
                    files.push(path);
                }
            }
            if files.len() + open.len() > MAX_DIRECTORY_FILES {
                let message = format!("holds more than {MAX_DIRECTORY_FILES} files");
                self.errors
                    .push(SpecError::file(&self.dir.join(relative), message));
                break;
            }
        }
        files.sort();
        files
    }

    fn optional<T>(
        &mut self,
        name: &str,
        parse: fn(&Path, &str) -> Result<T, SpecErrors>,
    ) -> Option<T> {
        if !self.root.join(name).exists() {
            return None;
        }
        let text = self.text(Path::new(name))?;
        self.keep(parse(&self.dir.join(name), &text))
    }

    fn text(&mut self, relative: &Path) -> Option<String> {
        let text = self
            .inner_text(relative)
            .map_err(|error| SpecError::file(&self.dir.join(relative), error.message()));
        self.keep(text.map_err(SpecErrors::from))
    }

    fn inner_text(&self, relative: &Path) -> Result<String, InvalidValue> {
        file::text(&self.root, relative)
    }

    fn keep<T>(&mut self, result: Result<T, SpecErrors>) -> Option<T> {
        result.map_err(|errors| self.errors.extend(errors)).ok()
    }

    fn inside(&self, relative: &Path) -> Result<PathBuf, InvalidValue> {
        file::inside(&self.root, relative)
    }
}

/// Matches the toolset with the descriptions.
fn resolve(
    checker: &mut Checker<'_>,
    runefile: &Runefile,
    tools: &BTreeMap<String, ToolDescriptor>,
) -> (Vec<PackageTool>, Vec<McpSelection>) {
    let mut described = Vec::new();
    let mut mcp = Vec::new();
    for (index, reference) in runefile.toolset.iter().enumerate() {
        let descriptor = match reference {
            // A description in the package (`runtime: builtin`) replaces the one that comes with Rune.
            ToolRef::Builtin(name) => tools
                .get(name)
                .filter(|tool| tool.runtime == ToolRuntime::Builtin)
                .or_else(|| crate::builtin(name)),
            ToolRef::Local(name) => tools
                .get(name)
                .filter(|tool| tool.runtime != ToolRuntime::Builtin),
            ToolRef::Mcp { server, tool } => {
                mcp.push(McpSelection {
                    server: server.clone(),
                    tool: Some(tool.clone()),
                });
                continue;
            }
            ToolRef::McpAll(server) => {
                mcp.push(McpSelection {
                    server: server.clone(),
                    tool: None,
                });
                continue;
            }
        };
        let Some(descriptor) = descriptor else {
            let builtins = crate::builtin_names().map(|name| format!("rune@{name}"));
            let known: Vec<String> = tools.keys().cloned().chain(builtins).collect();
            let name = reference.to_string();
            let help = crate::builtin(&name)
                .map(|tool| format!("did you mean the built-in tool `rune@{}`?", tool.name))
                .or_else(|| help_for(&name, known.iter().map(String::as_str)));
            let message = format!("unknown tool `{name}`: no file of `tools/` defines it");
            checker.error_with_help(&At::top("toolset").index(index), message, help);
            continue;
        };
        described.push(PackageTool {
            reference: reference.clone(),
            visible_name: reference.visible_name().unwrap_or_default(),
            descriptor: descriptor.clone(),
        });
    }
    if !described.is_empty() || !mcp.is_empty() {
        described.extend(output_reader(&described));
    }
    (described, mcp)
}

/// `rune@output-read`, unless it is there: whoever has a tool may get an output that is too
/// large to be shown, and the tools are the same for every call of an agent.
fn output_reader(described: &[PackageTool]) -> Option<PackageTool> {
    let descriptor = crate::builtin(OUTPUT_READ)?;
    let reference = ToolRef::Builtin(OUTPUT_READ.to_owned());
    let known = described.iter().any(|tool| tool.reference == reference);
    (!known).then(|| PackageTool {
        visible_name: reference.visible_name().unwrap_or_default(),
        reference,
        descriptor: descriptor.clone(),
    })
}

/// A rule about an argument that no tool has protects nothing, so it is a mistake. What an MCP server's tools take is
/// not known here.
fn check_rule_arguments(
    checker: &mut Checker<'_>,
    runefile: &Runefile,
    tools: &[PackageTool],
    mcp: &[McpSelection],
) {
    let policy = &runefile.policy;
    let lists = [
        ("allow", &policy.allow),
        ("ask", &policy.ask),
        ("deny", &policy.deny),
    ];
    for (list, rules) in lists {
        for (index, rule) in rules.iter().enumerate() {
            let RuleArguments::Named(named) = rule.arguments() else {
                continue;
            };
            let names: Vec<String> = tools
                .iter()
                .filter(|tool| rule.tool().is_match(&tool.reference.to_string()))
                .flat_map(|tool| {
                    let properties = tool.descriptor.input_schema.get("properties");
                    let properties = properties.and_then(Value::as_object);
                    properties.into_iter().flat_map(|map| map.keys().cloned())
                })
                .collect();
            if names.is_empty() || (!mcp.is_empty() && rule.tool().literal().is_none()) {
                continue;
            }
            for (name, _) in named {
                if names.contains(name) {
                    continue;
                }
                let at = At::top("policy").field(list).index(index);
                let help = help_for(name, names.iter().map(String::as_str));
                checker.error_with_help(
                    &at,
                    format!("the rule names the argument `{name}`, which the tool does not have"),
                    help,
                );
            }
        }
    }
}
