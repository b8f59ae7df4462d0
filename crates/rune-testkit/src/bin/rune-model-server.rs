//! The scripted model server as a program: prints `{"addr": …, "anthropic": …, "openai": …, "gemini": …}` (base URLs) in
//! one line when it listens, and serves until it is stopped.

use std::{io::Write, net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::Result;
use clap::Parser;
use rune_testkit::{ModelScript, ModelServer, Protocol};

/// A model server that plays a script on the protocols of Anthropic, OpenAI and Gemini; without a script it echoes.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// The script, YAML or JSON.
    #[arg(long, value_name = "FILE")]
    script: Option<PathBuf>,
    /// The address to listen on; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:0")]
    addr: SocketAddr,
    /// Milliseconds before the first byte of every answer; overrides the script.
    #[arg(long, value_name = "MS")]
    latency_ms: Option<u64>,
    /// In how many chunks an echo is streamed; overrides the script.
    #[arg(long, value_name = "N")]
    echo_chunks: Option<usize>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    let mut script = args
        .script
        .as_deref()
        .map_or_else(|| Ok(ModelScript::new()), ModelScript::load)?;
    if let Some(ms) = args.latency_ms {
        script = script.latency(Duration::from_millis(ms));
    }
    if let Some(n) = args.echo_chunks {
        script = script.echo_chunks(n);
    }
    let server = ModelServer::start_at(script, args.addr).await?;
    let line = serde_json::json!({
        "addr": server.addr(),
        "anthropic": server.base_url(Protocol::Anthropic),
        "openai": server.base_url(Protocol::Openai),
        "gemini": server.base_url(Protocol::Gemini),
    });
    writeln!(std::io::stdout(), "{line}")?;
    tokio::signal::ctrl_c().await?;
    Ok(())
}
