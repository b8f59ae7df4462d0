//! What can be typed.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::client::with_query;
use crate::commands::{
    agent, backup, bench, build, chaos, chat, cluster, completions, compose, config, daemon, debug,
    deploy, dev, doctor, eval, event, init, key, mcp, policy, pull, push, replica, requests,
    restore, rm, rollout, run, schedule, schema, secret, sessions, sign, status, stop, task, test,
    token, tool, usage, validate, verify, workflow,
};
use crate::output::Format;

/// Makes this program the launcher of one tool. Not a verb for people, so clap does not know it: a launcher is started
/// for every call and parses nothing.
pub(crate) const LAUNCH_VERB: &str = "__exec";

/// Packages, deploys, runs and connects AI agents.
#[derive(Debug, Parser)]
#[command(
    name = "rune",
    version,
    propagate_version = true,
    max_term_width = 100,
    after_help = "Examples:
  rune init hello && rune run hello \"What time is it?\"    one answer, no daemon and no key needed
  rune daemon start && rune run hello                      deploy
  rune run --agent hello \"What time is it?\" --stream       ask the deployed agent

Exit codes: 0 ok, 1 failed, 2 usage or invalid file, 3 denied, 4 budget or limit,
5 waiting for approval, 6 daemon or dependency unavailable."
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Flags of every command.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Base URL of the control plane [default: the running daemon's, else http://127.0.0.1:8081]
    #[arg(long, global = true, value_name = "URL", value_parser = base_url)]
    pub(crate) control_plane: Option<String>,
    /// Base URL of the gateway [default: the running daemon's, else http://127.0.0.1:8080]
    #[arg(long, global = true, value_name = "URL", value_parser = base_url)]
    pub(crate) gateway: Option<String>,
    /// Where the daemon keeps its data [default: ~/.rune]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// How to print data
    #[arg(
        short,
        long,
        global = true,
        value_enum,
        default_value = "table",
        value_name = "FORMAT"
    )]
    pub(crate) output: Format,
    /// No colours
    #[arg(long, global = true)]
    pub(crate) no_color: bool,
    /// Say more
    #[arg(short, long, global = true)]
    pub(crate) verbose: bool,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a new agent directory
    Init(init::InitArgs),
    /// Check an agent directory
    Validate(validate::ValidateArgs),
    /// Print the JSON Schema of a file format
    Schema(schema::SchemaArgs),
    /// Deploy an agent, ask a deployed one, or ask one without a daemon
    Run(run::RunArgs),
    /// Roll out another version of a deployed agent: replica by replica, or as a canary
    Deploy(deploy::DeployArgs),
    /// How a rollout goes; promote it, or go back
    #[command(subcommand)]
    Rollout(rollout::RolloutCommand),
    /// Run a daemon here that follows the files of an agent
    Dev(Box<dev::DevArgs>),
    /// Play recorded runs to an agent, and record them
    Test(test::TestArgs),
    /// Try an agent on cases, and compare what comes of them with what is expected
    Eval(eval::EvalArgs),
    /// Build the artefact of an agent directory, or an image
    Build(build::BuildArgs),
    /// Put a package into a registry
    Push(push::PushArgs),
    /// Take a package out of a registry
    Pull(pull::PullArgs),
    /// Sign a package
    Sign(sign::SignArgs),
    /// Check who has signed a package
    Verify(verify::VerifyArgs),
    /// Keys that sign and verify packages
    #[command(subcommand)]
    Key(key::KeyCommand),
    /// Talk to a deployed agent
    Chat(chat::ChatArgs),
    /// Deployed agents
    #[command(subcommand)]
    Agent(agent::AgentCommand),
    /// The daemon and what is deployed
    Status(status::StatusArgs),
    /// A session and its messages
    Sessions(sessions::SessionsArgs),
    /// Requests and their journals
    #[command(subcommand)]
    Requests(requests::RequestsCommand),
    /// Model calls: tokens and cost
    Usage(usage::UsageArgs),
    /// What policy decided, and what another one would have decided
    #[command(subcommand)]
    Policy(policy::PolicyCommand),
    /// The tools of agents
    #[command(subcommand)]
    Tool(tool::ToolCommand),
    /// The MCP servers of agents
    #[command(subcommand)]
    Mcp(mcp::McpCommand),
    /// Requests at planned times
    #[command(subcommand)]
    Schedule(schedule::ScheduleCommand),
    /// Secrets that tools are granted
    #[command(subcommand)]
    Secret(secret::SecretCommand),
    /// Tokens that open the APIs
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// Events that make requests of the schedules that are about them
    #[command(subcommand)]
    Event(event::EventCommand),
    /// Tasks that agents leave for each other
    #[command(subcommand)]
    Task(task::TaskCommand),
    /// Run, check and draw workflows
    #[command(subcommand)]
    Workflow(workflow::WorkflowCommand),
    /// Agents that are deployed together, from a rune-compose.yml
    Compose(compose::ComposeArgs),
    /// Stop a deployment: scale it to 0 replicas
    Stop(stop::StopArgs),
    /// Remove a deployment
    Rm(rm::RmArgs),
    /// Start and stop the daemon
    #[command(subcommand)]
    Daemon(daemon::DaemonCommand),
    /// Clusters of daemons: begin one, take nodes in and out, look at it
    #[command(subcommand)]
    Cluster(cluster::ClusterCommand),
    /// Run requests of one deployment for a daemon
    Replica(replica::ReplicaArgs),
    /// Follow the daemon's log, or restart it with another log level
    Debug(debug::DebugArgs),
    /// The configuration
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Measure this Rune on this machine, beside bare floors
    Bench(bench::BenchArgs),
    /// Run faults against a cluster on this machine, and check what must hold
    Chaos(chaos::ChaosArgs),
    /// Back up the data while the daemon runs; check and list backups
    Backup(backup::BackupArgs),
    /// Make a data directory from a backup
    Restore(restore::RestoreArgs),
    /// Check this machine and the daemon
    Doctor(doctor::DoctorArgs),
    /// Print the completions of a shell
    Completions(completions::CompletionsArgs),
}

/// Which deployment of an agent.
#[derive(Debug, Clone, Args)]
pub(crate) struct Target {
    /// Namespace of the agent
    #[arg(long, visible_alias = "ns", default_value = "dev")]
    pub(crate) namespace: String,
    /// Alias of the deployment
    #[arg(long, default_value = "stable")]
    pub(crate) alias: String,
}

impl Target {
    /// The path with this target behind it.
    pub(crate) fn query(&self, path: &str) -> String {
        with_query(path, &[("ns", &self.namespace), ("alias", &self.alias)])
    }
}

fn base_url(text: &str) -> Result<String, String> {
    match reqwest::Url::parse(text) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => {
            Ok(text.trim_end_matches('/').to_owned())
        }
        _ => Err("expected a URL such as http://127.0.0.1:8080".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use clap::{CommandFactory, Parser};

    use super::Cli;

    /// The `rune …` command lines in the shell blocks of a page, also those inside `$(…)`.
    fn documented(page: &str) -> Vec<String> {
        let mut found = Vec::new();
        let mut in_shell = false;
        for line in page.lines() {
            match line.trim() {
                "```sh" => in_shell = true,
                "```" => in_shell = false,
                line if in_shell => {
                    let line = line.split("  #").next().unwrap_or(line).trim();
                    // A command in another one is cut out and checked on its own.
                    let (outer, inner) = match line.split_once("$(rune ") {
                        Some((outer, inner)) => (format!("{outer}ID\""), inner.split(" |").next()),
                        None => (line.to_owned(), None),
                    };
                    found.extend(inner.map(|inner| format!("rune {inner}")));
                    if outer.starts_with("rune ") {
                        found.push(outer);
                    }
                }
                _ => {}
            }
        }
        found
    }

    /// The words of a command line, as a shell splits them where only double quotes occur.
    fn words(line: &str) -> Vec<String> {
        let mut words = Vec::new();
        for (index, part) in line.split('"').enumerate() {
            if index % 2 == 1 {
                words.push(part.to_owned());
            } else {
                words.extend(part.split_whitespace().map(str::to_owned));
            }
        }
        words
    }

    #[test]
    fn every_documented_command_exists() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let docs = std::fs::read_dir(root.join("docs")).unwrap();
        let pages = docs.map(|entry| entry.unwrap().path());
        let mut checked = 0;
        for page in pages.chain([root.join("README.md"), root.join("CONTRIBUTING.md")]) {
            for line in documented(&std::fs::read_to_string(&page).unwrap()) {
                if let Err(error) = Cli::try_parse_from(words(&line)) {
                    panic!("{}: `{line}`: {error}", page.display());
                }
                checked += 1;
            }
        }
        assert!(checked >= 20, "only {checked} commands were found");
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
