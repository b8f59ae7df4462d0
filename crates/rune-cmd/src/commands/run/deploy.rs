//! `rune run SPEC`: deploy to the daemon.

use std::collections::BTreeMap;
use std::time::Duration;

use reqwest::{Method, header};
use rune_oci::{Digest, Layout, media_type};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::load;
use crate::artifact::Local;
use crate::cli::Target;
use crate::client::{Api, Client, part};
use crate::context::Context;
use crate::failure::{Exit, Failure, Outcome};
use crate::interrupt::Interrupt;
use crate::progress::{Line, Progress};
use crate::source::Found;

/// Longest wait for replicas beyond the agent's own `startup_timeout_ms`.
pub(crate) const READY_MARGIN: Duration = Duration::from_secs(20);
/// How often the deployment is looked at while it starts.
const POLL: Duration = Duration::from_millis(50);
/// How long the daemon waits before it answers the deployment as it is, in milliseconds.
const FIRST_WAIT_MS: u32 = 1000;
/// How long a deployment may serve with fewer or older replicas without getting on.
const DEGRADED_PATIENCE: Duration = Duration::from_secs(3);
pub(super) async fn run(
    context: &Context,
    found: &Found,
    target: &Target,
    replicas: u32,
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
    replicas: u32,
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
        let limit = agent.startup_timeout + READY_MARGIN;
        let deployment = apply(&client, &body, &line).await?;
        wait(&client, deployment, limit).await
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
    pub(crate) startup_timeout: Duration,
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

/// Waits until a deployment is ready with what was deployed, or says why it is not.
pub(crate) async fn wait(client: &Client, deployment: Value, limit: Duration) -> Outcome<Value> {
    let ready = wait_unchanged(client, deployment, limit).await?;
    let rollout = &ready["rollout"];
    if rollout["state"] != "rolled_back" {
        return Ok(ready);
    }
    // Deploying leaves no earlier one in the row.
    let why = rollout["reason"].as_str().unwrap_or_default();
    let message = format!("the deployment went back to what it ran before: {why}");
    let name = ready["agent"].as_str().unwrap_or("NAME");
    let help = format!("repair it and run this again; `rune rollout status {name}` shows more");
    Err(Failure::new(Exit::Failed, message).help(help))
}

/// Waits until a deployment is ready with whatever it runs, or says why it is not.
pub(crate) async fn wait_unchanged(
    client: &Client,
    deployment: Value,
    limit: Duration,
) -> Outcome<Value> {
    let id = deployment["id"].as_str().unwrap_or_default().to_owned();
    let path = format!("/v1/deployments/{}", part(&id));
    let deadline = Instant::now() + limit;
    let mut unchanged = (deployment.clone(), Instant::now());
    let mut row = deployment;
    let mut look = tokio::time::interval(POLL);
    loop {
        let reason = row["reason"].as_str().unwrap_or_default();
        let fix = || format!("repair it and run this again, or remove it: rune rm {id}");
        let rollout = &row["rollout"];
        let is_under_way = rollout["state"] == "progressing";
        let is_rolling = is_under_way && rollout["strategy"] == "rolling";
        // The deployment is ready all the while that a canary of it starts.
        let is_starting = is_under_way && !is_rolling && rollout["ready_replicas"] == 0;
        match row["state"].as_str().unwrap_or_default() {
            "ready" | "stopped" if !is_rolling && !is_starting => return Ok(row),
            "failed" => {
                let message = format!("the deployment failed: {reason}");
                return Err(Failure::new(Exit::Failed, message).help(fix()));
            }
            // A rollout comes to an end by itself.
            "degraded" if !is_under_way && unchanged.1.elapsed() >= DEGRADED_PATIENCE => {
                let message = format!("not all replicas run what was deployed: {reason}");
                return Err(Failure::new(Exit::Failed, message).help(fix()));
            }
            state if Instant::now() >= deadline => {
                let secs = limit.as_secs();
                let message = match is_starting {
                    true => format!("the canary has no replica yet after {secs} s"),
                    false => format!("the deployment is still {state} after {secs} s: {reason}"),
                };
                return Err(Failure::new(Exit::Unavailable, message)
                    .help("`rune status` shows its state, `rune debug` the daemon's log"));
            }
            _ => {}
        }
        look.tick().await;
        row = client.get(Api::ControlPlane, &path).await?;
        let stands = |row: &Value| (row["reason"].clone(), row["rollout"]["state"].clone());
        // Where a rollout has just ended, what was said of it is not what is said of its end.
        if stands(&row) != stands(&unchanged.0) {
            unchanged = (row.clone(), Instant::now());
        }
    }
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
