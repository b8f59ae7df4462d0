//! `rune doctor`

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use clap::Args;
use rune_env::Provider;
use rune_storage::{SqliteStore, StorageConfig, StorageError};
use serde_json::{Value, json};

use crate::client::Api;
use crate::context::Context;
use crate::daemon::instance::{Address, Holder};
use crate::daemon::node::database_path;
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
    checks.extend(providers(context));
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
        return vec![
            Check::ok(
                "gateway port",
                format!("{} is the daemon's", address.gateway),
            ),
            Check::ok(
                "control plane port",
                format!("{} is the daemon's", address.control_plane),
            ),
        ];
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
    let find = |program: &str| {
        let found = std::env::split_paths(&search).map(|dir| dir.join(program));
        found.into_iter().find(|path| {
            path.metadata()
                .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
        })
    };
    let wanted = [
        ("sh", Verdict::Fail, ".sh tools and rune@shell-exec need it"),
        ("python3", Verdict::Warn, "install it to run .py tools"),
        ("node", Verdict::Warn, "install it to run .js tools"),
    ];
    let checks = wanted.map(|(program, verdict, fix)| match find(program) {
        Some(path) => Check::ok(program, path.display().to_string()),
        None => Check::bad(verdict, program, "not found in PATH", fix),
    });
    checks.into()
}

fn providers(context: &Context) -> Vec<Check> {
    let config = &context.config.providers;
    let with_key: Vec<&str> = Provider::ALL
        .into_iter()
        .filter(|provider| *provider != Provider::Offline && config.has_key(*provider))
        .map(Provider::as_str)
        .collect();
    if with_key.is_empty() {
        return vec![Check::bad(
            Verdict::Warn,
            "models",
            "no provider has a key; the offline model answers",
            "set ANTHROPIC_API_KEY, GEMINI_API_KEY or OPENAI_API_KEY for a real one",
        )];
    }
    let preferred = config.preferred();
    vec![Check::ok(
        "models",
        format!(
            "keys for {}; {preferred} is asked first",
            with_key.join(", ")
        ),
    )]
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
