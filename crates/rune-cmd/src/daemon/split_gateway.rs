//! A gateway apart from its control plane (`--role gateway`): no engine, no replicas, no database.

use std::time::Duration;

use rune_env::Config;
use rune_gateway::SplitGateway;
use rune_http::{Metrics, Readiness, Server};
use rune_runtime::Tasks;
use rune_store_runtime::{Clock as _, SystemClock};
use secrecy::{ExposeSecret as _, SecretString};

use super::instance::{Address, InstanceFiles};
use super::launch::Reporter;
use super::listeners::GatewayListener;
use super::process::{STOP_GRACE, local_url, lock_data_dir, pid_file};
use crate::client::is_loopback;
use crate::commands::daemon::StartOptions;
use crate::context::Context;
use crate::failure::{Exit, Failure, Outcome};
use crate::interrupt::Interrupt;

/// Serves until it is asked to end.
pub(super) async fn serve(
    context: &Context,
    options: &StartOptions,
    reporter: &mut Reporter,
    metrics: Metrics,
) -> Outcome {
    let config = &context.config;
    let (control_plane, token) = control_plane(config, options)?;
    let mut interrupt = Interrupt::listen()?;
    let listener = GatewayListener::bind(config).await?;
    let lock = lock_data_dir(config, None)?;
    let address = Address {
        pid: std::process::id(),
        gateway: Some(local_url(&listener.socket)?),
        control_plane: control_plane.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        started_at: SystemClock.now().to_string(),
        options: options.clone(),
    };
    let tasks = Tasks::new();
    let gateway = SplitGateway {
        auth: listener.auth,
        mcp: listener.mcp,
        public_cards: config.a2a.public_cards,
        readiness: Readiness::default(),
        metrics,
        control_plane,
        token,
        tasks: tasks.clone(),
    };
    let router = gateway.router().map_err(|error| {
        let what = "the control plane of this gateway cannot be asked";
        Failure::because(what, &error).help("RUNE_CONTROL_PLANE_URL and RUNE_INTERNAL_TOKEN say where it is and what it knows this gateway by")
    })?;
    let server = Server::new("gateway", listener.socket, router, tasks.clone());
    let grace = config.runtime.drain_grace;
    tasks.spawn("gateway", server.run(tasks.shutdown(), grace));
    let files = InstanceFiles::write(context.data_dir(), &pid_file(config, options), &address)?;
    tracing::info!(
        version = address.version,
        gateway = address.gateway,
        control_plane = address.control_plane,
        data_dir = %context.data_dir().display(),
        "ready"
    );
    reporter.ready();

    interrupt.next().await;
    tracing::info!("shutting down");
    tokio::select! {
        () = shut_down(&tasks, grace) => {}
        () = interrupt.next() => {
            tracing::warn!("second signal: ending now");
            return Err(Failure::silent(Exit::Interrupted));
        }
    }
    drop(files);
    drop(lock);
    tracing::info!("stopped");
    Ok(Exit::Ok)
}

/// Lets answers end.
async fn shut_down(tasks: &Tasks, grace: Duration) {
    if !tasks.stop(grace + STOP_GRACE).await {
        tracing::warn!(tasks = tasks.len(), "tasks did not end in time");
    }
}

/// Where the control plane is, and what it knows this gateway by.
fn control_plane(config: &Config, options: &StartOptions) -> Outcome<(String, SecretString)> {
    let runs_replicas = options.backend.is_some() || options.k8s_namespace.is_some();
    if runs_replicas || options.database_url.is_some() {
        let message = "a gateway runs no replicas and has no database: `--backend`, `--k8s-namespace` and `--database-url` are \
                       for its control plane";
        return Err(Failure::usage(message));
    }
    let gateway = &config.gateway;
    let token = gateway.internal_token.clone();
    let token = token.filter(|token| !token.expose_secret().is_empty());
    let (Some(url), Some(token)) = (gateway.control_plane_url.clone(), token) else {
        let message = "a gateway needs RUNE_CONTROL_PLANE_URL and RUNE_INTERNAL_TOKEN";
        return Err(Failure::usage(message).help(
            "the URL is where `rune daemon start --role control-plane` listens; `rune token create --for gateway` makes the token there",
        ));
    };
    if !is_private(&url) {
        tracing::warn!(
            url,
            "the control plane is asked without TLS, and whoever is on the way can read the token"
        );
    }
    Ok((url, token))
}

/// Whether nobody on the way can read what is sent.
fn is_private(url: &str) -> bool {
    url.starts_with("https://") || is_loopback(url)
}
