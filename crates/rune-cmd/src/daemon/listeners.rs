//! Binding the two listeners.

use std::net::SocketAddr;

use rune_env::Config;
use rune_gateway::A2aAccess;
use rune_http::{Auth, check_bind};
use rune_mcp::McpAccess;
use tokio::net::TcpListener;

use super::instance::Holder;
use crate::failure::{Exit, Failure, Outcome, chain};

/// Both listeners, bound.
pub(super) struct Listeners {
    pub(super) gateway: TcpListener,
    pub(super) control_plane: TcpListener,
    pub(super) auth: Auth,
    /// Who may ask the MCP server of the gateway.
    pub(super) mcp: McpAccess,
    /// How agents are shown to A2A clients.
    pub(super) a2a: A2aAccess,
}

impl Listeners {
    /// Binds both, where the configuration allows it.
    pub(super) async fn bind(config: &Config) -> Outcome<Self> {
        let auth = Auth::from_config(&config.gateway).map_err(|error| {
            Failure::usage(format!("the configuration is not valid: {}", chain(&error)))
        })?;
        let public = config.gateway.base_url.as_deref();
        let (hosts, origins) = (
            &config.gateway.allowed_hosts,
            &config.gateway.allowed_origins,
        );
        let mcp = McpAccess::new(public, hosts, origins).map_err(|error| {
            Failure::usage(format!("the configuration is not valid: {error}")).help(
                "these are gateway.base_url, gateway.allowed_hosts and gateway.allowed_origins, see `rune config show`",
            )
        })?;
        let gateway = bind(config, config.gateway.addr, &auth, "--gateway-addr").await?;
        let control_plane = bind(
            config,
            config.control_plane.addr,
            &auth,
            "--control-plane-addr",
        )
        .await?;
        Ok(Self {
            gateway,
            control_plane,
            auth,
            mcp,
            a2a: A2aAccess {
                base_url: config.gateway.base_url.clone(),
                legacy_card: config.a2a.legacy_card,
                public_cards: config.a2a.public_cards,
                default_agent: config.a2a.default_agent.clone(),
            },
        })
    }
}

async fn bind(
    config: &Config,
    addr: SocketAddr,
    auth: &Auth,
    flag: &'static str,
) -> Outcome<TcpListener> {
    check_bind(addr, auth, flag).map_err(|error| Failure::usage(error.to_string()))?;
    let error = match TcpListener::bind(addr).await {
        Ok(listener) => return Ok(listener),
        Err(error) => error,
    };
    let data_dir = &config.storage.data_dir;
    if let Ok(Holder::Process(pid)) = Holder::of(data_dir) {
        return Err(already_running(data_dir, pid));
    }
    let failure = Failure::new(Exit::Failed, format!("cannot listen on {addr}: {error}"));
    Err(if error.kind() == std::io::ErrorKind::AddrInUse {
        failure.help(format!(
            "another program uses this port; choose another one with {flag}"
        ))
    } else {
        failure.help(format!("choose another address with {flag}"))
    })
}

/// What a second start is told.
pub(super) fn already_running(data_dir: &std::path::Path, pid: Option<u32>) -> Failure {
    let pid = pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default();
    let message = format!(
        "a daemon is already running{pid} with data directory {}",
        data_dir.display()
    );
    Failure::new(Exit::Failed, message)
        .help("`rune daemon stop` stops it, `rune daemon restart` restarts it")
}
