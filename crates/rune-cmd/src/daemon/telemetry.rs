//! Logs: to a file or to stderr, filtered by `RUST_LOG`, for people or for machines.

use std::io::IsTerminal;
use std::sync::Mutex;

use rune_env::{LogFormat, ObservabilityConfig};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;

use super::log::RotatingLog;
use crate::failure::{Failure, Outcome, chain};

/// Keeps the transport of MCP servers quiet.
const MCP_TRANSPORT_OFF: &str = "rmcp=off";
/// Keeps the protocol of a cluster quiet, which has something to say twenty times a second while a node is down.
const PROTOCOL_QUIET: &str = "openraft=error";

/// Starts logging, to `log` or to stderr. Once per process.
pub(crate) fn start(config: &ObservabilityConfig, log: Option<RotatingLog>) -> Outcome<()> {
    let filter = EnvFilter::builder().parse(&config.log).map_err(|error| {
        let message = format!(
            "the log filter `{}` is not valid: {}",
            config.log,
            chain(&error)
        );
        Failure::usage(message).help("RUST_LOG=info,rune_runtime=debug is one that is")
    })?;
    // It logs what servers say, and where they are; what matters of that is logged by rune-mcp, without secrets.
    let filter = match MCP_TRANSPORT_OFF.parse() {
        Ok(off) if !config.log.contains("rmcp") => filter.add_directive(off),
        _ => filter,
    };
    let filter = match PROTOCOL_QUIET.parse() {
        Ok(quiet) if !config.log.contains("openraft") => filter.add_directive(quiet),
        _ => filter,
    };
    // At its finer levels the client of Docker Engine prints what it sends: the secrets of tools among it.
    let quiet = "bollard=warn".parse();
    let quiet = quiet.map_err(|error| Failure::because("cannot start logging", &error))?;
    let filter = filter.add_directive(quiet);
    let is_terminal = log.is_none() && std::io::stderr().is_terminal();
    let writer = match log {
        Some(log) => BoxMakeWriter::new(Mutex::new(log)),
        None => BoxMakeWriter::new(std::io::stderr),
    };
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer)
        .with_ansi(is_terminal);
    let started = match config.log_format {
        LogFormat::Pretty => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    started.map_err(|error| Failure::because("cannot start logging", &*error))
}

/// What a command logs that shows what happens by itself: errors, and details with `-v`.
pub(crate) fn quiet(verbose: bool) -> ObservabilityConfig {
    ObservabilityConfig {
        log: if verbose { "debug" } else { "error" }.to_owned(),
        log_format: LogFormat::Pretty,
        otel_endpoint: None,
    }
}
