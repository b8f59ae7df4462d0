//! `rune run SPEC`: deploy to the daemon.

use std::collections::BTreeMap;
use std::time::Duration;

use reqwest::{Method, header};
use rune_oci::{Digest, Layout, media_type};
use serde_json::{Value, json};

use super::load;
use super::wait::{Patience, wait};
use crate::artifact::Local;
use crate::cli::Target;
use crate::client::{Api, Client};
use crate::context::Context;
use crate::failure::{Exit, Failure, Outcome};
use crate::interrupt::Interrupt;
use crate::progress::{Line, Progress};
use crate::source::Found;

/// Longest wait for replicas beyond the agent's own `startup_timeout_ms`.
pub(crate) const READY_MARGIN: Duration = Duration::from_secs(20);
/// How long the daemon waits before it answers the deployment as it is, in milliseconds.
const FIRST_WAIT_MS: u32 = 1000;

pub(super) async fn run(
    context: &Context,
    found: &Found,
    target: &Target,
    replicas: Option<u32>,
    env: BTreeMap<String, String>,
) -> Outcome {
    let deployment = deploy(context, found, target, replicas, &env).await?;
    report(context, &deployment)
}

/// Deploys an agent and answers the deployment once it is ready.
pub(crate) async fn deploy(
    context: &Context,
    found: &Found,
    target: &Target,
    replicas: Option<u32>,
    env: &BTreeMap<String, String>,
) -> Outcome<Value> {
    let agent = Packed::load(context, found)?;
    let client = context.client()?;
    let line = Progress::new(context.output).line("");
    let mut interrupt = Interrupt::listen()?;
    let deploying = async {
        let body = json!({
            "agent_version": agent.upload(&client, &line).await?["id"],
            "namespace": target.namespace,
            "alias": target.alias,
            "replicas": replicas,
            "env": env,
        });
        let deployment = apply(&client, &body, &line).await?;
        wait(&client, deployment, agent.patience()).await
    };
    tokio::select! {
        deployment = deploying => deployment,
        () = interrupt.next() => {
            Err(Failure::new(Exit::Interrupted, "stopped waiting; what was deployed goes on")
                .help("`rune status` shows its state"))
        }
    }
}

/// A checked agent, packed.
pub(crate) struct Packed {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) digest: String,
    startup_timeout: Duration,
    layout: Layout,
}

impl Packed {
    /// Loads and packs an agent, printing what is wrong with it.
    pub(crate) fn load(context: &Context, found: &Found) -> Outcome<Self> {
        let (agent, layout) = match &found.layout {
            Some(layout) => (load(context, &found.dir)?, layout.clone()),
            None => {
                let (agent, built) = Local::build(context, &found.dir, None)?;
                (agent, built.layout)
            }
        };
        Ok(Self {
            name: agent.runefile.name.to_string(),
            version: agent.runefile.version.to_string(),
            digest: Digest::of(layout.artifact.package()).to_string(),
            startup_timeout: agent.runefile.runtime.startup_timeout,
            layout,
        })
    }

    /// How long its deployment is waited for.
    pub(crate) fn patience(&self) -> Patience {
        Patience::Still(self.startup_timeout + READY_MARGIN)
    }

    /// Publishes it and answers the version.
    pub(crate) async fn upload(&self, client: &Client, line: &Line) -> Outcome<Value> {
        let (name, version) = (&self.name, &self.version);
        let (kind, bytes) = if self.layout.signatures.0.is_empty() {
            ("application/x-tar", self.layout.artifact.package().clone())
        } else {
            let bytes = self.layout.to_tar();
            let bytes =
                bytes.map_err(|error| Failure::because("cannot pack the layout", &error))?;
            (media_type::LAYOUT, bytes)
        };
        let size = bytes.len();
        line.step(&format!("uploading {name} {version} ({size} bytes)"));
        let request = client
            .request(Api::ControlPlane, Method::POST, "/v1/agent-versions")
            .header(header::CONTENT_TYPE, kind)
            .body(bytes);
        client.json(Api::ControlPlane, request).await
    }
}

/// Creates or changes a deployment and answers it once the daemon has looked at the change: a state from before it says
/// nothing.
pub(crate) async fn apply(client: &Client, body: &Value, line: &Line) -> Outcome<Value> {
    line.step("deploying");
    let path = format!("/v1/deployments?wait=ready&timeout_ms={FIRST_WAIT_MS}");
    let deployment = client.post(Api::ControlPlane, &path, body).await?;
    line.step("waiting for replicas");
    Ok(deployment)
}

fn report(context: &Context, row: &Value) -> Outcome {
    let word = |field: &str| row[field].as_str().unwrap_or_default().to_owned();
    let (namespace, agent, alias) = (word("namespace"), word("agent"), word("alias"));
    let gateway = context.gateway_url();
    context.output.data(row, |_| {
        let mut flags = String::new();
        let mut query = Vec::new();
        if namespace != "dev" {
            flags.push_str(&format!(" --namespace {namespace}"));
            query.push(format!("ns={namespace}"));
        }
        if alias != "stable" {
            flags.push_str(&format!(" --alias {alias}"));
            query.push(format!("alias={alias}"));
        }
        let query = if query.is_empty() { String::new() } else { format!("?{}", query.join("&")) };
        format!(
            "[ok] {namespace}/{agent}:{alias} is {} ({} replicas, {})\n\ncall it:\n  rune run --agent {agent}{flags} \"Hello\"\n  curl -s '{gateway}/v1/agents/{agent}/invoke{query}' -H 'content-type: application/json' -d '{{\"input\": \"Hello\"}}'",
            word("state"),
            row["replicas"],
            word("id"),
        )
    })?;
    Ok(Exit::Ok)
}
