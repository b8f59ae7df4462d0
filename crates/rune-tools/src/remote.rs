//! Agents of other installations, called over A2A.
//!
//! [`RemoteAgents`] is how they are reached: under the same egress policy as the web tools, asked of the same gate, where the
//! operator lets agents go, and with the credentials that the operator has for the host.

mod called;
mod parts;
mod transport;

use std::sync::Arc;
use std::time::Duration;

use reqwest::Url;
use rune_a2a::client::{A2aClient, CardCache};
use rune_store_runtime::TraceContext;
use secrecy::SecretString;

use crate::egress::{EgressPolicy, Hosts, destination};
use crate::web::{WebClient, refused};
use crate::{EgressGate, ToolError};
pub use called::{call_off, code_kind};
pub use parts::{message_id, message_parts, parts_text, parts_value};
use transport::GuardedTransport;

/// The longest silence of an agent. Streams are kept alive more often than that.
const SILENCE: Duration = Duration::from_secs(90);

/// What an operator can set about agents of other installations.
#[derive(Debug, Clone)]
pub struct RemoteAgentsConfig {
    /// What is sent along to some of them.
    pub credentials: Vec<RemoteCredential>,
    /// Where they may be.
    pub hosts: Hosts,
}

impl Default for RemoteAgentsConfig {
    fn default() -> Self {
        Self {
            credentials: Vec::new(),
            hosts: Hosts::every(),
        }
    }
}

/// A header that proves to the agents of one origin who calls.
#[derive(Debug, Clone)]
pub struct RemoteCredential {
    /// Scheme, host and port.
    pub origin: String,
    /// The name of the header.
    pub header: String,
    /// Its value.
    pub value: SecretString,
}

/// Reaches agents of other installations. Cheap to clone; nothing is connected before a call.
#[derive(Clone)]
pub struct RemoteAgents {
    reach: Arc<Reach>,
    cards: Arc<CardCache>,
}

/// Agents at every public address.
impl Default for RemoteAgents {
    fn default() -> Self {
        Self::new(RemoteAgentsConfig::default(), EgressPolicy::default())
    }
}

/// Credentials stay out of the log.
impl std::fmt::Debug for RemoteAgents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RemoteAgents").finish_non_exhaustive()
    }
}

struct Reach {
    client: WebClient,
    config: RemoteAgentsConfig,
}

impl RemoteAgents {
    /// Agents that the policy lets through.
    #[must_use]
    pub fn new(config: RemoteAgentsConfig, egress: EgressPolicy) -> Self {
        Self {
            reach: Arc::new(Reach {
                client: WebClient::patient(egress, SILENCE),
                config,
            }),
            cards: Arc::default(),
        }
    }

    /// Whether an agent at a URL may be called, as far as that can be said without asking it.
    ///
    /// # Errors
    /// The refusal, for the model.
    pub fn admit(&self, url: &str) -> Result<(), ToolError> {
        self.reach.admit(url).map(|_| ())
    }

    /// A client that asks `gate` about every host, and says to which trace its calls belong.
    #[must_use]
    pub fn client(
        &self,
        gate: Option<Arc<dyn EgressGate>>,
        trace: Option<TraceContext>,
    ) -> A2aClient {
        let transport = GuardedTransport {
            reach: Arc::clone(&self.reach),
            gate,
            trace,
        };
        A2aClient::new(Arc::new(transport), Arc::clone(&self.cards))
    }
}

impl Reach {
    fn admit(&self, url: &str) -> Result<Url, ToolError> {
        let parsed = Url::parse(url)
            .map_err(|error| ToolError::invalid(format!("`{url}` is not a URL: {error}")))?;
        self.client
            .check(&parsed)
            .map_err(|error| refused(&error))?;
        if let Some((host, port)) = destination(&parsed)
            && !self.config.hosts.allow(&host, port)
        {
            return Err(ToolError::denied(format!(
                "agents at `{host}:{port}` may not be called; an operator can allow it (`a2a.remote_hosts`)"
            )));
        }
        Ok(parsed)
    }

    /// What proves to this URL's origin who calls.
    fn credentials(&self, url: &Url) -> impl Iterator<Item = &RemoteCredential> {
        let origin = url.origin();
        let credentials = self.config.credentials.iter();
        credentials.filter(move |credential| {
            Url::parse(&credential.origin).is_ok_and(|known| known.origin() == origin)
        })
    }
}
