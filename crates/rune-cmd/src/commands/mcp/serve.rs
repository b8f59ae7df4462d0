//! `rune mcp serve`

use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use rune_mcp::{AgentSource as _, serve_stdio};

use super::daemon_agents::DaemonAgents;
use crate::cli::Target;
use crate::context::Context;
use crate::daemon::telemetry;
use crate::failure::{Exit, Failure, Outcome};
use crate::interrupt::Interrupt;

/// How often the daemon is asked for its agents. Clients are told when they are others.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// What `rune mcp serve` takes.
#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// Only this agent; can be given several times [default: all that are deployed]
    #[arg(long, value_name = "NAME")]
    agent: Vec<String>,
    #[command(flatten)]
    target: Target,
}

/// Serves the agents of the daemon over standard input and output, until the input ends.
pub(super) async fn run(context: &Context, args: ServeArgs) -> Outcome {
    // Standard output is the client's.
    telemetry::start(&telemetry::quiet(context.verbose), None)?;
    let agents = Arc::new(DaemonAgents::new(
        context.client()?,
        args.target,
        args.agent,
    ));
    let deployed = agents.look().await?;
    for name in agents.names() {
        if !deployed.iter().any(|agent| agent.name == *name) {
            let note = format!("agent `{name}` is not deployed; it is a tool as soon as it is");
            context.output.note(&note);
        }
    }
    let mut interrupt = Interrupt::listen()?;
    let source = Arc::clone(&agents);
    let serving = serve_stdio(source, tokio::io::stdin(), tokio::io::stdout());
    let looking = async {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            // A daemon that is away for a moment has the same agents afterwards.
            let _ = agents.look().await;
        }
    };
    let served = tokio::select! {
        served = serving => served.map_err(|error| {
            Failure::because("the client does not speak MCP", &error)
                .help("`rune mcp serve` is for the configuration of an MCP client, see docs/mcp.md")
        }),
        () = looking => Ok(()),
        () = interrupt.next() => Err(Failure::silent(Exit::Interrupted)),
    };
    // Who has called is gone, and cannot come back to this process.
    for request_id in agents.running() {
        agents.cancel(request_id).await;
    }
    served.map(|()| Exit::Ok)
}
