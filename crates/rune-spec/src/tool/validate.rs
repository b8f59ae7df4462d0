//! From what was written to what holds.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use super::document::{RuntimeKind, ToolDocument};
use super::{Limits, RetryPolicy, ToolDescriptor, ToolRuntime};
use crate::checker::{Checker, MAX_MILLIS};
use crate::document::{At, Document};
use crate::error::SpecErrors;
use crate::name::tool_name;
use crate::suggest::help_for;

/// Most attempts a retry policy may ask for.
const MAX_ATTEMPTS: u32 = 10;
/// Hard limit of one attempt where the description does not say.
const DEFAULT_TIMEOUT_MS: u64 = 5000;

pub(super) fn validate(
    document: ToolDocument,
    source: &Document,
) -> Result<ToolDescriptor, SpecErrors> {
    let mut checker = Checker::new(source);
    checker.take(&At::top("name"), tool_name(&document.name));
    let version = checker.version(&At::top("version"), &document.version);
    let runtime = runtime(&mut checker, &document);
    // Another agent has limits of its own, and never more time than the request that calls it.
    let default_timeout = match document.runtime {
        RuntimeKind::Agent => MAX_MILLIS,
        _ => DEFAULT_TIMEOUT_MS,
    };
    let timeout_ms = document.timeout_ms.unwrap_or(default_timeout);
    let timeout = checker.millis(&At::top("timeout_ms"), timeout_ms);
    let retry_policy = retry_policy(&mut checker, &document);
    let mut capabilities = Vec::new();
    for (index, text) in document.capabilities.iter().enumerate() {
        capabilities.extend(checker.take(&At::top("capabilities").index(index), text.parse()));
    }
    let input_schema_ref = schema(
        &mut checker,
        "input_schema",
        document.input_schema.as_ref(),
        document.input_schema_ref.as_deref(),
    );
    let output_schema_ref = schema(
        &mut checker,
        "output_schema",
        document.output_schema.as_ref(),
        document.output_schema_ref.as_deref(),
    );
    let input_schema = document.input_schema.unwrap_or_else(|| {
        let is_agent = document.runtime == RuntimeKind::Agent;
        if is_agent && input_schema_ref.is_none() {
            text_input()
        } else {
            any_object()
        }
    });
    let input_schema = match object_schema(input_schema) {
        Ok(schema) => schema,
        Err(message) => {
            checker.error(&At::top("input_schema"), message);
            any_object()
        }
    };
    if let Some(name) = &document.primary_argument {
        check_primary_argument(
            &mut checker,
            name,
            &input_schema,
            input_schema_ref.is_some(),
        );
    }
    let primary_argument = document
        .primary_argument
        .or_else(|| first_required(&input_schema));

    let (Some(version), Some(runtime)) = (version, runtime) else {
        return Err(checker.into_errors());
    };
    checker.finish(ToolDescriptor {
        name: document.name,
        description: document.description,
        version,
        runtime,
        timeout,
        retry_policy,
        idempotent: document.idempotent,
        read_only: document.read_only,
        capabilities,
        input_schema,
        input_schema_ref,
        output_schema: document.output_schema,
        output_schema_ref,
        primary_argument,
        limits: Limits {
            memory_mb: document.limits.memory_mb,
            fuel: document.limits.fuel,
            cpu_ms: document.limits.cpu_ms,
            processes: document.limits.processes,
            output_bytes: document.limits.output_bytes,
        },
    })
}

fn any_object() -> Value {
    json!({ "type": "object" })
}

/// What another agent is told where its tool does not say.
fn text_input() -> Value {
    let input = json!({ "type": "string", "description": "What to tell the agent." });
    json!({ "type": "object", "properties": { "input": input }, "required": ["input"] })
}

/// An input schema as providers want it: an object with `type: object`.
pub(crate) fn object_schema(mut schema: Value) -> Result<Value, String> {
    let Some(map) = schema.as_object_mut() else {
        return Err("the schema of an input must be a map".to_owned());
    };
    match map.get("type") {
        None => {
            map.insert("type".to_owned(), Value::from("object"));
        }
        Some(kind) if kind == "object" => {}
        Some(kind) => {
            return Err(format!(
                "the input of a tool is an object, but the schema says `type: {kind}`"
            ));
        }
    }
    Ok(schema)
}

/// The property policy rules look at unless the tool says otherwise.
pub(crate) fn first_required(schema: &Value) -> Option<String> {
    let required = schema.get("required")?.as_array()?;
    let names = required.iter().filter_map(Value::as_str);
    let is_text = |name: &&str| schema["properties"][*name]["type"] == "string";
    let text = names.clone().find(is_text);
    text.or_else(|| names.clone().next()).map(str::to_owned)
}

fn check_primary_argument(checker: &mut Checker<'_>, name: &str, schema: &Value, in_file: bool) {
    let Some(properties) = schema.get("properties").and_then(Value::as_object) else {
        if !in_file {
            checker.error(
                &At::top("primary_argument"),
                "the input schema has no properties",
            );
        }
        return;
    };
    if !properties.contains_key(name) {
        checker.error_with_help(
            &At::top("primary_argument"),
            format!("`{name}` is not a property of the input schema"),
            help_for(name, properties.keys().map(String::as_str)),
        );
    }
}

fn retry_policy(checker: &mut Checker<'_>, document: &ToolDocument) -> RetryPolicy {
    let at = At::top("retry_policy");
    let max_attempts = document.retry_policy.max_attempts;
    if document.runtime == RuntimeKind::Agent && max_attempts > 1 {
        checker.error(
            &at.field("max_attempts"),
            "another agent is asked once per call: its own retries and the model decide what follows a failure",
        );
    } else if !(1..=MAX_ATTEMPTS).contains(&max_attempts) {
        checker.error(
            &at.field("max_attempts"),
            format!("must be between 1 and {MAX_ATTEMPTS}"),
        );
    }
    let backoff = document.retry_policy.backoff_ms;
    if backoff > MAX_MILLIS {
        checker.error(
            &at.field("backoff_ms"),
            format!("must be at most {MAX_MILLIS} milliseconds"),
        );
    }
    RetryPolicy {
        max_attempts,
        backoff: Duration::from_millis(backoff),
    }
}

/// Checks an inline schema or the path of one in a file, and gives the path.
fn schema(
    checker: &mut Checker<'_>,
    name: &str,
    inline: Option<&Value>,
    file: Option<&str>,
) -> Option<PathBuf> {
    let ref_name = format!("{name}_ref");
    if let Some(inline) = inline {
        checker.json_schema(&At::top(name), inline);
        if file.is_some() {
            checker.error(
                &At::top(&ref_name).key(),
                format!("`{name}` and `{ref_name}` exclude each other"),
            );
        }
    }
    checker.inner_path(&At::top(&ref_name), file?)
}

fn runtime(checker: &mut Checker<'_>, document: &ToolDocument) -> Option<ToolRuntime> {
    use RuntimeKind as Kind;
    let kind = document.runtime;
    for (key, given, kinds) in [
        (
            "module",
            document.module.is_some(),
            &[Kind::Process, Kind::Wasm, Kind::Container][..],
        ),
        ("agent_ref", document.agent_ref.is_some(), &[Kind::Agent]),
        ("max_depth", document.max_depth.is_some(), &[Kind::Agent]),
        ("mcp_server", document.mcp_server.is_some(), &[Kind::Mcp]),
        ("image", document.image.is_some(), &[Kind::Container]),
    ] {
        if given && !kinds.contains(&kind) {
            checker.error(
                &At::top(key).key(),
                format!("`{key}` has no meaning for runtime `{}`", word(kind)),
            );
        }
    }
    let module = match &document.module {
        Some(module) => Some(checker.inner_path(&At::top("module"), module)?),
        None => None,
    };
    match kind {
        Kind::Process => Some(ToolRuntime::Process {
            module: need(checker, kind, "module", module)?,
        }),
        Kind::Wasm => Some(ToolRuntime::Wasm {
            module: need(checker, kind, "module", module)?,
        }),
        Kind::Container => {
            let image = need(checker, kind, "image", document.image.clone())?;
            checker.filled(&At::top("image"), "`image`", &image);
            Some(ToolRuntime::Container { image, module })
        }
        Kind::Agent => {
            let text = need(checker, kind, "agent_ref", document.agent_ref.as_deref())?;
            if let Some(depth) = document.max_depth {
                checker.at_least_one(&At::top("max_depth"), depth);
            }
            let agent_ref = checker.take(&At::top("agent_ref"), text.parse())?;
            Some(ToolRuntime::Agent {
                agent_ref,
                max_depth: document.max_depth,
            })
        }
        Kind::Mcp => {
            let server = need(checker, kind, "mcp_server", document.mcp_server.clone())?;
            checker.take(&At::top("mcp_server"), tool_name(&server))?;
            Some(ToolRuntime::Mcp { mcp_server: server })
        }
        Kind::Builtin => Some(ToolRuntime::Builtin),
    }
}

fn need<T>(checker: &mut Checker<'_>, kind: RuntimeKind, key: &str, value: Option<T>) -> Option<T> {
    if value.is_none() {
        checker.error(
            &At::default(),
            format!("runtime `{}` needs `{key}`", word(kind)),
        );
    }
    value
}

fn word(kind: RuntimeKind) -> &'static str {
    match kind {
        RuntimeKind::Process => "process",
        RuntimeKind::Wasm => "wasm",
        RuntimeKind::Container => "container",
        RuntimeKind::Agent => "agent",
        RuntimeKind::Mcp => "mcp",
        RuntimeKind::Builtin => "builtin",
    }
}
