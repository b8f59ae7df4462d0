//! Binding the listeners.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use rune_a2a::CardSigner;
use rune_cp::Admission;
use rune_env::Config;
use rune_gateway::A2aAccess;
use rune_http::{Auth, check_bind};
use rune_mcp::McpAccess;
use rune_runtime::AdmissionPolicies;
use rune_spec::PolicyFile;
use rune_store_runtime::Quota;
use rune_tools::EgressPolicy;
use tokio::net::TcpListener;

use super::instance::Holder;
use crate::commands::daemon::Role;
use crate::failure::{Exit, Failure, Outcome, chain};
use crate::keys;

/// The listener of a gateway, bound.
pub(super) struct GatewayListener {
    pub(super) socket: TcpListener,
    pub(super) auth: Auth,
    /// Which web pages may call.
    pub(super) mcp: McpAccess,
}

impl GatewayListener {
    /// Binds it, where the configuration allows it.
    pub(super) async fn bind(config: &Config) -> Outcome<Self> {
        let auth = auth(config)?;
        let mcp = mcp_access(config)?;
        let socket = bind(config, config.gateway.addr, &auth, "--gateway-addr").await?;
        Ok(Self { socket, auth, mcp })
    }
}

/// The listeners of a daemon, bound.
pub(super) struct Listeners {
    /// Of the gateway, where it is in this process.
    pub(super) gateway: Option<TcpListener>,
    pub(super) control_plane: TcpListener,
    pub(super) access: Access,
}

/// Who may do what.
#[derive(Clone)]
pub(super) struct Access {
    pub(super) auth: Auth,
    /// Who may ask the MCP server of the gateway.
    pub(super) mcp: McpAccess,
    /// How agents are shown to A2A clients.
    pub(super) a2a: A2aAccess,
    /// What may be published and deployed.
    pub(super) admission: Arc<Admission>,
}

impl Listeners {
    /// Binds them, where the configuration allows it.
    pub(super) async fn bind(config: &Config, role: Role) -> Outcome<Self> {
        let auth = auth(config)?;
        let mcp = mcp_access(config)?;
        let gateway = match role {
            Role::ControlPlane => None,
            Role::All | Role::Gateway => {
                Some(bind(config, config.gateway.addr, &auth, "--gateway-addr").await?)
            }
        };
        let addr = config.control_plane.addr;
        let control_plane = bind(config, addr, &auth, "--control-plane-addr").await?;
        Ok(Self {
            gateway,
            control_plane,
            access: Access {
                auth,
                mcp,
                a2a: a2a_access(config)?,
                admission: Arc::new(admission(config)?),
            },
        })
    }
}

/// Who may call.
fn auth(config: &Config) -> Outcome<Auth> {
    Auth::from_config(&config.gateway).map_err(|error| {
        Failure::usage(format!("the configuration is not valid: {}", chain(&error)))
    })
}

/// Who may ask the MCP server, and which pages the gateway.
fn mcp_access(config: &Config) -> Outcome<McpAccess> {
    let public = config.gateway.base_url.as_deref();
    let (hosts, origins) = (
        &config.gateway.allowed_hosts,
        &config.gateway.allowed_origins,
    );
    McpAccess::new(public, hosts, origins).map_err(|error| {
        Failure::usage(format!("the configuration is not valid: {error}")).help(
            "these are gateway.base_url, gateway.allowed_hosts and gateway.allowed_origins, see `rune config show`",
        )
    })
}

/// What may be published and deployed.
fn admission(config: &Config) -> Outcome<Admission> {
    let wrong = |why: &dyn std::fmt::Display| {
        Failure::usage(format!("a policy of admission is not valid: {why}"))
            .help("it is of a file of `admission.policies`, see `rune config show`")
    };
    let files = config
        .admission
        .policies
        .iter()
        .map(|path| -> Outcome<PolicyFile> {
            let text = std::fs::read_to_string(path);
            let text = text.map_err(|error| wrong(&format!("{}: {error}", path.display())))?;
            let path = path.clone();
            Ok(PolicyFile { path, text })
        });
    let files = files.collect::<Outcome<Vec<_>>>()?;
    Ok(Admission {
        trusted_keys: keys::trusted(config)?,
        quota: quota(config),
        policies: AdmissionPolicies::compile(&files).map_err(|errors| wrong(&errors))?,
    })
}

/// What a namespace may come to.
const fn quota(config: &Config) -> Quota {
    Quota {
        deployments: config.admission.max_deployments,
        replicas: config.admission.max_replicas,
    }
}

/// How agents are shown to A2A clients.
fn a2a_access(config: &Config) -> Outcome<A2aAccess> {
    let a2a = &config.a2a;
    let push = match a2a.push_notifications {
        true => {
            let allowed = a2a.push_allow_private.iter().map(|text| text.parse());
            let allow_private = allowed.collect::<Result<_, _>>().map_err(|error| {
                Failure::usage(format!("`a2a.push_allow_private` is not valid: {error}"))
            })?;
            Some(EgressPolicy {
                allow_private,
                ..EgressPolicy::default()
            })
        }
        false => None,
    };
    let signer = a2a.signing_key_file.as_deref().map(signer);
    Ok(A2aAccess {
        base_url: config.gateway.base_url.clone(),
        legacy_card: a2a.legacy_card,
        public_cards: a2a.public_cards,
        default_agent: a2a.default_agent.clone(),
        push,
        signer: signer.transpose()?.map(Arc::new),
    })
}

/// The key that signs cards.
fn signer(path: &Path) -> Outcome<CardSigner> {
    let wrong = |why: &dyn std::fmt::Display| {
        Failure::usage(format!(
            "the key of cards, {}, cannot be used: {why}",
            path.display()
        ))
        .help("it is `a2a.signing_key_file`, see `rune config show`")
    };
    let text = keys::private_text(path).map_err(|error| wrong(&error))?;
    CardSigner::from_pem(&text).map_err(|error| wrong(&error))
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
pub(crate) fn already_running(data_dir: &std::path::Path, pid: Option<u32>) -> Failure {
    let pid = pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default();
    let message = format!(
        "a daemon is already running{pid} with data directory {}",
        data_dir.display()
    );
    Failure::new(Exit::Failed, message)
        .help("`rune daemon stop` stops it, `rune daemon restart` restarts it")
}
