//! `rune doctor`

use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;

use clap::Args;
use rune_docker::DockerError;
use rune_env::{Origin, Provider, SandboxMode};
use rune_runtime::Tasks;
use rune_runtime::model::ClaudeCli;
use rune_storage::{SqliteStore, StorageConfig, StorageError};
use rune_tools::{SandboxSupport, find_browser, find_program};
use serde_json::{Value, json};

use crate::client::Api;
use crate::context::Context;
use crate::daemon::instance::{Address, Holder};
use crate::daemon::node::{browser_config, database_path, docker_engine, own_launcher};
use crate::daemon::unused;
use crate::failure::{Exit, Failure, Outcome, chain};

/// Checks this machine and the daemon; every line that is not `ok` says what helps.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  rune doctor\n  rune doctor -o json")]
pub(crate) struct DoctorArgs {}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Ok,
    Warn,
    Fail,
}

impl Verdict {
    const fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

/// One line of the report.
struct Check {
    verdict: Verdict,
    name: String,
    text: String,
    fix: Option<String>,
}

impl Check {
    fn ok(name: impl Into<String>, text: impl Into<String>) -> Self {
        Self {
            verdict: Verdict::Ok,
            name: name.into(),
            text: text.into(),
            fix: None,
        }
    }

    fn bad(
        verdict: Verdict,
        name: impl Into<String>,
        text: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self {
            verdict,
            name: name.into(),
            text: text.into(),
            fix: Some(fix.into()),
        }
    }

    fn json(&self) -> Value {
        let Self {
            verdict,
            name,
            text,
            fix,
        } = self;
        json!({ "verdict": verdict.word(), "check": name, "message": text, "fix": fix })
    }
}

pub(crate) async fn run(context: &Context) -> Outcome {
    let holder = Holder::of(context.data_dir())?;
    let mut checks = vec![data_dir(context.data_dir()), lock(holder)];
    checks.extend(ports(context, holder));
    checks.push(database(context, holder).await);
    checks.extend(programs(context));
    checks.push(sandbox(context)?);
    checks.push(browser(context));
    checks.extend(providers(context));
    checks.push(docker(context).await);
    checks.extend(settings(context));
    checks.push(daemon(context).await);
    let rows: Vec<Value> = checks.iter().map(Check::json).collect();
    context.output.data(&Value::from(rows), |_| text(&checks))?;
    if checks.iter().any(|check| check.verdict == Verdict::Fail) {
        return Err(Failure::silent(Exit::Failed));
    }
    Ok(Exit::Ok)
}

fn text(checks: &[Check]) -> String {
    let lines = checks.iter().map(|check| {
        let word = format!("[{}]", check.verdict.word());
        let fix = check
            .fix
            .as_ref()
            .map(|fix| format!("\n         {fix}"))
            .unwrap_or_default();
        format!("{word:<6} {}: {}{fix}", check.name, check.text)
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn data_dir(dir: &Path) -> Check {
    let name = "data directory";
    // The nearest directory that exists decides: what is missing is made at the first start.
    let Some(existing) = dir.ancestors().find(|dir| dir.is_dir()) else {
        let text = format!("{} cannot be made", dir.display());
        return Check::bad(
            Verdict::Fail,
            name,
            text,
            "choose another one with --data-dir or RUNE_DATA_DIR",
        );
    };
    match tempfile::tempfile_in(existing) {
        Ok(_) if existing == dir => Check::ok(name, format!("{} is writable", dir.display())),
        Ok(_) => Check::ok(
            name,
            format!("{} will be made by the first start", dir.display()),
        ),
        Err(error) => {
            let text = format!("cannot write to {}: {error}", existing.display());
            Check::bad(
                Verdict::Fail,
                name,
                text,
                "choose another one with --data-dir or RUNE_DATA_DIR",
            )
        }
    }
}

fn lock(holder: Holder) -> Check {
    match holder {
        Holder::Nobody => Check::ok("lock", "the data directory is free"),
        Holder::Process(Some(pid)) => Check::ok("lock", format!("held by the daemon, pid {pid}")),
        Holder::Process(None) => Check::bad(
            Verdict::Warn,
            "lock",
            "held by a process that left no id",
            "find it with `lsof rune.lock` in the data directory",
        ),
    }
}

fn ports(context: &Context, holder: Holder) -> Vec<Check> {
    if let (Holder::Process(_), Some(address)) = (holder, Address::read(context.data_dir())) {
        let gateway = address.gateway.map(|url| ("gateway port", url));
        let control_plane = Some(("control plane port", address.control_plane));
        let theirs = [gateway, control_plane].into_iter().flatten();
        return theirs
            .map(|(name, url)| Check::ok(name, format!("{url} is the daemon's")))
            .collect();
    }
    let config = &context.config;
    let wanted = [
        ("gateway port", config.gateway.addr, "--gateway-addr"),
        (
            "control plane port",
            config.control_plane.addr,
            "--control-plane-addr",
        ),
    ];
    let checks = wanted.map(|(name, addr, flag)| match TcpListener::bind(addr) {
        Ok(_) => Check::ok(name, format!("{addr} is free")),
        Err(error) => {
            let fix = format!("choose another one: rune daemon start {flag} 127.0.0.1:PORT");
            Check::bad(
                Verdict::Fail,
                name,
                format!("cannot listen on {addr}: {error}"),
                fix,
            )
        }
    });
    checks.into()
}

async fn database(context: &Context, holder: Holder) -> Check {
    let name = "database";
    let path = match database_path(&context.config.storage.database_url) {
        Ok(path) => path,
        Err(failure) => {
            let fix = failure.hint().unwrap_or_default();
            return Check::bad(Verdict::Fail, name, failure.message(), fix);
        }
    };
    if matches!(holder, Holder::Process(_)) {
        return Check::ok(name, format!("{} is in use by the daemon", path.display()));
    }
    if !path.exists() {
        return Check::ok(
            name,
            format!("{} will be made by the first start", path.display()),
        );
    }
    match integrity(&path).await {
        Ok(()) => Check::ok(name, format!("{} is sound", path.display())),
        Err(error) => {
            let fix = "restore a backup, or move the file away to begin anew";
            Check::bad(Verdict::Fail, name, chain(&error), fix)
        }
    }
}

async fn integrity(path: &Path) -> Result<(), StorageError> {
    let store = Arc::new(SqliteStore::open(StorageConfig::new(path))?);
    let checked = store.integrity_check().await;
    checked.and(store.close().await)
}

fn programs(context: &Context) -> Vec<Check> {
    let search = context.config.variable("PATH").unwrap_or_default();
    let wanted = [
        ("sh", Verdict::Fail, ".sh tools and rune@shell-exec need it"),
        ("python3", Verdict::Warn, "install it to run .py tools"),
        ("node", Verdict::Warn, "install it to run .js tools"),
    ];
    let checks = wanted.map(
        |(program, verdict, fix)| match find_program(program, &search) {
            Some(path) => Check::ok(program, path.display().to_string()),
            None => Check::bad(verdict, program, "not found in PATH", fix),
        },
    );
    checks.into()
}

/// How far processes of tools can be confined here.
fn sandbox(context: &Context) -> Outcome<Check> {
    let name = "sandbox";
    let (program, args) = own_launcher()?;
    let support = SandboxSupport::probe(&program, &args);
    let mut there = Vec::new();
    let mut missing = Vec::new();
    for (part, tried) in &support.parts {
        match tried {
            Ok(()) => there.push(*part),
            Err(why) => missing.push(format!("{part} ({why})")),
        }
    }
    let there = there.join(", ");
    let missing = missing.join(", ");
    let (text, fix) = match (missing.as_str(), context.config.tools.sandbox) {
        (_, SandboxMode::Off) => (
            format!("off: processes of tools reach what you can; this machine has {there}"),
            "leave `tools.sandbox` (RUNE_SANDBOX) out, or set it to best-effort",
        ),
        ("", _) => return Ok(Check::ok(name, format!("complete: {there}"))),
        (missing, SandboxMode::BestEffort) => (
            format!("missing: {missing}; processes of tools are confined by {there}"),
            "docs/sandbox.md says what does not hold",
        ),
        (missing, SandboxMode::Require) => (
            format!("missing: {missing}; process tools and rune@shell-exec are refused"),
            "`tools.sandbox = \"best-effort\"` in config.toml (RUNE_SANDBOX) runs them with what there is",
        ),
    };
    Ok(Check::bad(Verdict::Warn, name, text, fix))
}

/// What the browser tools work with.
fn browser(context: &Context) -> Check {
    let config = browser_config(&context.config);
    match find_browser(config.program.as_deref(), &config.search_path) {
        Ok(path) if config.sandbox => Check::ok("browser", path.display().to_string()),
        Ok(path) => Check::bad(
            Verdict::Warn,
            "browser",
            format!("{}, without its own sandbox", path.display()),
            "RUNE_CHROME_SANDBOX=on, where user namespaces or chromium-sandbox are there",
        ),
        Err(error) => Check::bad(
            Verdict::Warn,
            "browser",
            error.message,
            "only the browser-* tools need it",
        ),
    }
}

/// Who answers an agent whose Runefile names no provider, and why.
fn providers(context: &Context) -> Vec<Check> {
    let config = &context.config.providers;
    let preferred = config.preferred();
    let models = if preferred == Provider::Offline {
        Check::bad(
            Verdict::Warn,
            "models",
            "no provider has a key; the offline model answers",
            "set ANTHROPIC_API_KEY, GEMINI_API_KEY or OPENAI_API_KEY for a real one",
        )
    } else {
        let names = |providers: Vec<Provider>| {
            let names: Vec<&str> = providers.into_iter().map(Provider::as_str).collect();
            names.join(", ")
        };
        let all = Provider::ALL.into_iter();
        let before = names(all.clone().take_while(|it| *it != preferred).collect());
        let skipped = match before.as_str() {
            "" => "it is the first in order".to_owned(),
            before => format!("there is none for {before}"),
        };
        let others = all.skip_while(|it| *it != preferred).skip(1);
        let others = others.filter(|it| *it != Provider::Offline && config.has_key(*it));
        let others = match names(others.collect()).as_str() {
            "" => String::new(),
            others => format!("; keys for {others} too, where a Runefile lists them"),
        };
        let key = key_origin(context, preferred);
        Check::ok(
            "models",
            format!(
                "{preferred} answers where a Runefile names no provider: its key is set ({key}) and {skipped}{others}"
            ),
        )
    };
    vec![models, claude(context)]
}

/// What set the key of a provider.
fn key_origin(context: &Context, provider: Provider) -> String {
    let key = match provider {
        Provider::Anthropic => "providers.anthropic_api_key",
        Provider::ClaudeCode => "providers.claude_api_key",
        Provider::Gemini => "providers.gemini_api_key",
        Provider::Copilot => "providers.copilot_token",
        Provider::Openai => "providers.openai_api_key",
        Provider::Offline => return "none is needed".to_owned(),
    };
    let entries = context.config.redacted();
    let entry = entries.iter().find(|entry| entry.key == key);
    entry.map_or_else(String::new, |entry| entry.origin.to_string())
}

/// What `claude-code` works with.
fn claude(context: &Context) -> Check {
    let cli = ClaudeCli::find(|name| context.config.variable(name));
    let config = &context.config.providers;
    let key = config.claude_api_key.is_some() || config.anthropic_api_key.is_some();
    let text = match (cli, key) {
        (Some(cli), true) => format!(
            "{} for agents without tools, the key for the others",
            cli.program().display()
        ),
        (Some(cli), false) => format!(
            "{} for agents without tools; CLAUDE_API_KEY would do for the others",
            cli.program().display()
        ),
        (None, true) => "the key; the `claude` program is not in PATH".to_owned(),
        (None, false) => "not set up: neither the `claude` program nor CLAUDE_API_KEY".to_owned(),
    };
    Check::ok("claude-code", text)
}

/// What runs tools that are containers.
async fn docker(context: &Context) -> Check {
    let name = "docker";
    let host = &context.config.tools.docker_host;
    let engine = docker_engine(&context.config, &Tasks::new());
    match engine.info().await {
        Ok(info) if info.missing.is_empty() => {
            let security = info.security.iter();
            let names = security.filter_map(|it| it.strip_prefix("name="));
            let names: Vec<&str> = names.map(|it| it.split(',').next().unwrap_or(it)).collect();
            let confined = match names.join(", ").as_str() {
                "" => "nothing else".to_owned(),
                names => names.to_owned(),
            };
            let version = info.version;
            Check::ok(
                name,
                format!(
                    "Docker Engine {version} at {host}; containers are confined by namespaces, limits and {confined}"
                ),
            )
        }
        Ok(info) => {
            let text = format!(
                "Docker Engine {} at {host} cannot limit: {}",
                info.version,
                info.missing.join(", ")
            );
            let fix = "the kernel has to be started with these control groups";
            Check::bad(Verdict::Warn, name, text, fix)
        }
        Err(DockerError::Absent { reason, .. }) if !is_docker_set(context) => Check::ok(
            name,
            format!(
                "not set up ({host}: {reason}); tools that are containers and rune@docker-exec need it"
            ),
        ),
        Err(error) => {
            let fix = "tools that are containers and rune@docker-exec need it; others do not";
            Check::bad(Verdict::Warn, name, error.to_string(), fix)
        }
    }
}

/// Whether somebody said where the engine is.
fn is_docker_set(context: &Context) -> bool {
    let entries = context.config.redacted();
    let mut entries = entries.iter();
    entries.any(|entry| entry.key == "tools.docker_host" && entry.origin != Origin::Default)
}

fn settings(context: &Context) -> Option<Check> {
    let set = unused::without_effect(&context.config);
    let text = format!("this version does not act on {}", set.join(", "));
    let fix = "leave them out, and do not rely on them";
    (!set.is_empty()).then(|| Check::bad(Verdict::Warn, "settings", text, fix))
}

async fn daemon(context: &Context) -> Check {
    let reached = async { context.client()?.get(Api::Gateway, "/ready").await };
    match reached.await {
        Ok(_) => Check::ok("daemon", format!("ready at {}", context.gateway_url())),
        Err(failure) => {
            let fix = "`rune daemon start` starts one; one-shot runs need none";
            Check::bad(Verdict::Warn, "daemon", failure.message(), fix)
        }
    }
}
