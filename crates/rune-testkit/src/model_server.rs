//! The scripted model server.

mod answer;
mod check;
mod conversation;
mod copilot;
mod delivery;
mod fault;
mod frame;
mod gate;
mod issuer;
mod media;
mod protocol;
mod record;
mod reply;
mod script;
mod serve;
mod state;
mod wire;

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;

use crate::{TestkitError, task};

pub use copilot::CopilotAccount;
pub use fault::{CutAt, Fault, FaultKind, Garbage};
pub use protocol::Protocol;
pub use record::RecordedRequest;
pub use reply::{Reply, ReplyFile, Stop, Text, ToolCall, Usage};
pub use script::{ModelScript, Otherwise, Rule, When};
use state::State;

/// How long the `wait_for_*` methods wait.
const WAIT_LIMIT: Duration = Duration::from_secs(30);

/// A model server on a loopback port that plays a [`ModelScript`]; it stops when dropped.
///
/// All protocols are served on the one port, OpenAI's endpoints for pictures and sound (`images/generations`,
/// `audio/transcriptions`, `audio/speech`), and Copilot with GitHub's token exchange below [`ModelServer::root`]; [`ModelServer::base_url`] gives the base URL in the form each vendor's SDK
/// expects. `GET /__requests` and `GET /__open` give the same as [`ModelServer::requests`] and
/// [`ModelServer::open_streams`] to another process.
#[derive(Debug)]
pub struct ModelServer {
    addr: SocketAddr,
    state: Arc<State>,
    stop: CancellationToken,
}

impl ModelServer {
    /// Starts on a free loopback port.
    ///
    /// # Errors
    /// [`TestkitError::Bind`] when no port can be had.
    pub async fn start(script: ModelScript) -> Result<Self, TestkitError> {
        Self::start_at(script, SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await
    }

    /// Starts on `addr`; port 0 takes a free one.
    ///
    /// # Errors
    /// [`TestkitError::Bind`] when the address cannot be had.
    pub async fn start_at(script: ModelScript, addr: SocketAddr) -> Result<Self, TestkitError> {
        let bind_error = |source| TestkitError::Bind { addr, source };
        let listener = TcpListener::bind(addr).await.map_err(bind_error)?;
        let addr = listener.local_addr().map_err(bind_error)?;
        let state = Arc::new(State::new(script));
        let stop = CancellationToken::new();
        task::spawn_until(
            stop.clone(),
            serve::accept(listener, Arc::clone(&state), stop.clone()),
        );
        Ok(Self { addr, state, stop })
    }

    /// The address it listens on.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The base URL of everything: Copilot's own, and GitHub's API for the token exchange.
    #[must_use]
    pub fn root(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// The base URL as the vendor's SDK takes it: OpenAI's ends in `/v1`, the others have no path.
    #[must_use]
    pub fn base_url(&self, protocol: Protocol) -> String {
        match protocol {
            Protocol::Openai | Protocol::Responses => format!("http://{}/v1", self.addr),
            Protocol::Anthropic | Protocol::Gemini => format!("http://{}", self.addr),
        }
    }

    /// The requests so far, oldest first (the last 10 000 of them).
    #[must_use]
    pub fn requests(&self) -> Vec<RecordedRequest> {
        self.state.recorder.all()
    }

    /// How many model requests are being answered now.
    #[must_use]
    pub fn open_streams(&self) -> usize {
        self.state.recorder.open()
    }

    /// Waits until at least `n` requests have arrived and returns them.
    ///
    /// # Errors
    /// [`TestkitError::Timeout`] after 30 seconds.
    pub async fn wait_for_requests(&self, n: usize) -> Result<Vec<RecordedRequest>, TestkitError> {
        self.wait(&format!("{n} requests"), |seen| seen.total >= n)
            .await?;
        Ok(self.requests())
    }

    /// Waits until exactly `n` model requests are being answered.
    ///
    /// # Errors
    /// [`TestkitError::Timeout`] after 30 seconds.
    pub async fn wait_for_open_streams(&self, n: usize) -> Result<(), TestkitError> {
        self.wait(&format!("{n} open streams"), |seen| seen.open == n)
            .await
    }

    /// Holds every answer before its first byte, until [`ModelServer::release`] or [`ModelServer::release_all`].
    pub fn hold(&self) {
        self.state.gate.shut();
    }

    /// Lets `n` more answers go on, those that wait first.
    pub fn release(&self, n: usize) {
        self.state.gate.admit(n);
    }

    /// Lets every answer go on, now and later.
    pub fn release_all(&self) {
        self.state.gate.open();
    }

    /// How many answers are held now and were not released.
    #[must_use]
    pub fn held(&self) -> usize {
        self.state.gate.held()
    }

    /// Waits until exactly `n` answers are held that were not released.
    ///
    /// # Errors
    /// [`TestkitError::Timeout`] after 30 seconds.
    pub async fn wait_for_held(&self, n: usize) -> Result<(), TestkitError> {
        let state = self.state.gate.watch();
        wait(state, &format!("{n} held answers"), |state| {
            state.held() == n
        })
        .await
    }

    async fn wait(
        &self,
        what: &str,
        enough: impl Fn(&record::Counts) -> bool,
    ) -> Result<(), TestkitError> {
        wait(self.state.recorder.watch(), what, enough).await
    }
}

async fn wait<T: std::fmt::Debug>(
    mut state: watch::Receiver<T>,
    what: &str,
    enough: impl Fn(&T) -> bool,
) -> Result<(), TestkitError> {
    let waited = tokio::time::timeout(WAIT_LIMIT, state.wait_for(|seen| enough(seen)))
        .await
        .is_ok();
    if waited {
        return Ok(());
    }
    let saw = format!("{:?}", *state.borrow());
    Err(TestkitError::Timeout {
        waited: WAIT_LIMIT,
        what: what.to_owned(),
        saw,
    })
}

impl Drop for ModelServer {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
