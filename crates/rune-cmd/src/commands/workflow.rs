//! `rune workflow`: run, check and draw a `workflow.yaml`.

mod graph;
mod package;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Subcommand;
use rune_spec::{SchemaKind, Workflow};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::rm;
use super::run::{Ask, Question, ask, deploy, one_shot};
use super::validate::invalid_file;
use crate::cli::Target;
use crate::context::Context;
use crate::events::EventPrinter;
use crate::failure::{Exit, Failure, Outcome};
use crate::interrupt::Interrupt;
use crate::source::Found;
use crate::terminal::Terminal;
use graph::Drawing;

/// Workflows.
#[derive(Debug, Subcommand)]
pub(crate) enum WorkflowCommand {
    /// Run a workflow on the daemon, or without one on the agents of a directory
    ///
    /// On the daemon the agents that the steps name have to be deployed; the workflow itself is deployed for the
    /// length of the run. With --agents no daemon is needed: every agent in that directory can be called.
    #[command(
        after_help = "Examples:\n  rune workflow run --file workflow.yaml --input \"My invoice is wrong\"\n  rune workflow run --file workflow.yaml --agents ./agents --input hello --stream"
    )]
    Run {
        /// The workflow
        #[arg(long, value_name = "FILE")]
        file: PathBuf,
        /// What the workflow is given
        #[arg(long)]
        input: String,
        /// The input is JSON
        #[arg(long)]
        json: bool,
        /// Print events while it runs
        #[arg(long)]
        stream: bool,
        /// Approve whatever asks
        #[arg(short, long)]
        yes: bool,
        /// Run without a daemon, with the agents below this directory
        #[arg(long, value_name = "DIR")]
        agents: Option<PathBuf>,
        /// A network of the workflow, shared with the agents it calls
        #[arg(long = "network", value_name = "NAME", default_value = "bridge")]
        networks: Vec<String>,
        /// Namespace of the agents
        #[arg(long, visible_alias = "ns", default_value = "dev")]
        namespace: String,
    },
    /// Check a workflow and print all errors
    #[command(after_help = "Examples:\n  rune workflow validate workflow.yaml")]
    Validate {
        /// The workflow
        file: PathBuf,
    },
    /// Show which steps run side by side
    #[command(
        after_help = "Examples:\n  rune workflow graph workflow.yaml\n  rune workflow graph workflow.yaml --format mermaid"
    )]
    Graph {
        /// The workflow
        file: PathBuf,
        /// How to draw it
        #[arg(long, value_enum, default_value = "text")]
        format: Drawing,
    },
}

pub(crate) fn run(context: &Context, command: WorkflowCommand) -> Outcome {
    match command {
        WorkflowCommand::Run {
            file,
            input,
            json,
            stream,
            yes,
            agents,
            networks,
            namespace,
        } => {
            let workflow = load(context, &file)?;
            let input = crate::prompt::input(&input, json)?;
            let package = package::write(&workflow, &file, &networks)?;
            let target = Target {
                namespace,
                alias: "stable".to_owned(),
            };
            match agents {
                Some(dir) => {
                    let others = package::agents(&dir)?;
                    let env = BTreeMap::new();
                    let what = Ask {
                        input,
                        stream,
                        approve_all: yes,
                    };
                    one_shot(context, package.path(), &others, &target, &env, what)
                }
                None => {
                    context.block_on(on_daemon(context, &package, target, input, (stream, yes)))
                }
            }
        }
        WorkflowCommand::Validate { file } => {
            let workflow = load(context, &file)?;
            let (steps, waves) = (workflow.steps.len(), workflow.waves.len());
            let summary = json!({
                "valid": true, "name": workflow.name, "version": workflow.version, "steps": steps, "waves": waves,
            });
            context.output.data(&summary, |_| {
                format!(
                    "[ok] {} {} is valid: {steps} steps in {waves} waves",
                    workflow.name, workflow.version
                )
            })?;
            Ok(Exit::Ok)
        }
        WorkflowCommand::Graph { file, format } => {
            let workflow = load(context, &file)?;
            if context.output.is_machine() {
                context.output.object(&graph::data(&workflow))?;
            } else {
                context
                    .output
                    .text(graph::draw(&workflow, format).trim_end())?;
            }
            Ok(Exit::Ok)
        }
    }
}

fn load(context: &Context, file: &Path) -> Outcome<Workflow> {
    let text = std::fs::read_to_string(file).map_err(|error| {
        Failure::usage(format!("cannot read {}: {error}", file.display()))
            .help("name the workflow's file: rune workflow validate workflow.yaml")
    })?;
    Workflow::parse(file, &text).map_err(|errors| {
        invalid_file(
            context.output,
            &errors,
            "the workflow",
            SchemaKind::Workflow,
        )
    })
}

/// Deploys the workflow, asks it, and removes it again.
async fn on_daemon(
    context: &Context,
    package: &TempDir,
    target: Target,
    input: Value,
    (stream, approve_all): (bool, bool),
) -> Outcome {
    let client = context.client()?;
    let deployment = deploy(
        context,
        &Found::from(package.path().to_owned()),
        &target,
        Some(1),
        &BTreeMap::new(),
    )
    .await?;
    let question = Question {
        agent: deployment["agent"].as_str().unwrap_or_default().to_owned(),
        target,
        input,
        session_id: None,
    };
    let mut printer = EventPrinter::new(context.output, stream, context.verbose);
    let mut interrupt = Interrupt::listen()?;
    let mut terminal = Terminal::open(approve_all);
    let ended = ask(
        &client,
        &question,
        &mut printer,
        &mut interrupt,
        &mut terminal,
    )
    .await;
    let id = deployment["id"].as_str().unwrap_or_default();
    if rm::remove(&client, id).await.is_err() {
        context.output.note(&format!(
            "the deployment of the workflow is still there: rune rm {id}"
        ));
    }
    ended
}
