//! Making one connection.

use std::collections::HashMap;
use std::error::Error;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use http::HeaderName;
use rmcp::model::{ProtocolVersion, ServerPeerInfo};
use rmcp::service::{
    ClientInitializeError, ClientLifecycleMode, ClientServiceExt, Peer, RoleClient, RunningService,
};
use rmcp::transport::StreamableHttpClientTransport;
use rmcp::transport::async_rw::AsyncRwTransport;
use rmcp::transport::common::client_side_sse::ExponentialBackoff;
use rmcp::transport::streamable_http_client::StreamableHttpClientTransportConfig;
use rune_tools::{
    EgressGate, EgressPolicy, LiveJob, LivePipes, LiveProcess, RefusalSink, Secrets, ToolError,
    describe_exit, destination, find_program,
};
use tokio::net::unix::pipe;
use tokio::process::ChildStdout;
use tokio::task::JoinSet;
use tokio::time::timeout;
use url::Url;

use crate::access::Discreet;
use crate::config::{Transport, header_value};
use crate::handler::Handler;
use crate::http::{HttpClient, is_unsent};
use crate::limits;
use crate::listing::clean;
use crate::server::Shared;
use crate::stderr::Stderr;
use crate::text::Text;

/// How long the end of what a process writes is waited for, once the process has ended.
const LAST_WORDS: Duration = Duration::from_millis(200);
/// The longest wait before a stream of notifications is opened again.
const STREAM_BACKOFF: Duration = Duration::from_secs(30);

/// A connection that has been made.
pub(crate) struct Connection {
    pub(crate) service: RunningService<RoleClient, Handler>,
    pub(crate) process: Option<Process>,
}

/// The process of a server.
pub(crate) struct Process {
    live: LiveProcess,
    stderr: Stderr,
    /// Reads standard error.
    reader: JoinSet<()>,
}

impl Connection {
    pub(crate) fn peer(&self) -> Peer<RoleClient> {
        self.service.peer().clone()
    }

    pub(crate) fn info(&self) -> Option<Arc<ServerPeerInfo>> {
        self.service.peer().peer_info()
    }
}

impl Process {
    /// How it ended, where it does so soon: what it closed was the first sign of it.
    pub(crate) async fn reason(&mut self) -> Option<String> {
        let ended = timeout(LAST_WORDS, self.ended()).await.ok()?;
        Some(ended.unwrap_or_else(|stopped| stopped.message))
    }

    /// Waits for its end, and says how that came. An error is that it was not started, or was stopped.
    pub(crate) async fn ended(&mut self) -> Result<String, ToolError> {
        let status = self.live.ended().await?;
        Ok(format!("its process {}", describe_exit(status)))
    }

    /// The end of an error message about a process that has ended: what it said last.
    pub(crate) async fn last_words(&mut self) -> String {
        // They are on their way; only a process that left the group can hold the pipe open.
        let _ = timeout(LAST_WORDS, self.reader.join_next()).await;
        self.stderr.said()
    }

    /// Ends it: politely where there is `grace`.
    pub(crate) async fn stop(&mut self, grace: Duration) {
        self.live.stop(grace).await;
    }
}

/// Connects to a server. The newer protocol is tried first; a server that does not take that well is asked the older way.
///
/// The error holds no secret.
pub(crate) async fn connect(server: &Shared) -> Result<Connection, String> {
    let granted = (server.secrets)(server.config.secrets.clone()).await?;
    let attempt = Attempt {
        server,
        hidden: server.config.hidden(&granted),
        granted,
    };
    let both = ClientLifecycleMode::Auto {
        preferred_versions: vec![ProtocolVersion::LATEST],
        legacy_version: Some(ProtocolVersion::LATEST_WITH_INITIALIZE),
    };
    let first = match attempt.make(both).await {
        Ok(connection) => return Ok(connection),
        Err(failed) if failed.is_final => return Err(attempt.hidden.redact(failed.message)),
        Err(failed) => attempt.hidden.redact(failed.message),
    };
    tracing::debug!(
        mcp_server = server.config.name,
        error = first,
        "trying the older handshake"
    );
    let older = attempt.make(ClientLifecycleMode::Initialize).await;
    older.map_err(|failed| attempt.hidden.redact(failed.message))
}

/// A connection that was not made.
struct Failed {
    message: String,
    /// Whether another handshake would fail as well.
    is_final: bool,
}

impl Failed {
    const fn finally(message: String) -> Self {
        Self {
            message,
            is_final: true,
        }
    }
}

impl From<ToolError> for Failed {
    /// Of a process that was not started, or was stopped: what is in its way is in the way of any handshake.
    fn from(error: ToolError) -> Self {
        Self::finally(error.message)
    }
}

/// What a connection is made with.
struct Attempt<'a> {
    server: &'a Shared,
    /// The stored secrets of the server.
    granted: Secrets,
    /// What it is told and must not leave.
    hidden: Secrets,
}

impl Attempt<'_> {
    async fn make(&self, lifecycle: ClientLifecycleMode) -> Result<Connection, Failed> {
        match &self.server.config.transport {
            Transport::Http {
                url,
                headers,
                egress,
            } => self.reach(url, headers, egress, lifecycle).await,
            Transport::Stdio { .. } => self.start(lifecycle).await,
        }
    }

    /// Connects to a server that is there.
    async fn reach(
        &self,
        url: &Url,
        headers: &[(HeaderName, Text)],
        egress: &EgressPolicy,
        lifecycle: ClientLifecycleMode,
    ) -> Result<Connection, Failed> {
        if let (Some(gates), Some((host, port))) = (&self.server.gates, destination(url)) {
            gates.connect(&host, port)?;
        }
        let headers = headers.iter().map(|(name, text)| {
            let value = header_value(&text.with(&self.granted));
            let wrong = |reason| Failed::finally(format!("`headers.{name}`: {reason}"));
            Ok((name.clone(), value.map_err(wrong)?))
        });
        let http = HttpClient::new(url, egress).map_err(Failed::finally)?;
        let mut config = StreamableHttpClientTransportConfig::with_uri(url.as_str())
            .max_sse_event_size(limits::MESSAGE_BYTES)
            .max_json_response_size(limits::MESSAGE_BYTES)
            .max_error_response_size(limits::ERROR_BODY_BYTES)
            .custom_headers(headers.collect::<Result<HashMap<_, _>, Failed>>()?);
        let mut backoff = ExponentialBackoff::default();
        backoff.max_delay = Some(STREAM_BACKOFF);
        config.retry_config = Arc::new(backoff);
        let transport = StreamableHttpClientTransport::with_client(http, config);
        let handler = Handler::new(self.hidden.clone());
        let serving = handler.serve_with_lifecycle(transport, lifecycle);
        let service = match timeout(limits::CONNECT, serving).await {
            Ok(Ok(service)) => service,
            Ok(Err(error)) => return Err(of_handshake(&error)),
            Err(_) => return Err(too_slow()),
        };
        Ok(Connection {
            service,
            process: None,
        })
    }

    /// Starts the process of a server, and connects to it.
    async fn start(&self, lifecycle: ClientLifecycleMode) -> Result<Connection, Failed> {
        let (mut process, input, output) = self.process().await?;
        let transport = AsyncRwTransport::<RoleClient, _, _>::new(output, input)
            .with_max_line_length(limits::MESSAGE_BYTES);
        let handler = Handler::new(self.hidden.clone());
        let serving = handler.serve_with_lifecycle(transport, lifecycle);
        let failed: Result<ClientInitializeError, Failed> = tokio::select! {
            served = timeout(limits::CONNECT, serving) => match served {
                Ok(Ok(service)) => {
                    return Ok(Connection { service, process: Some(process) });
                }
                Ok(Err(error)) => Ok(error),
                Err(_) => Err(too_slow()),
            },
            ended = process.ended() => Err(of_process(ended)),
        };
        // Where it ends by itself, it says why, and what ended it knows why.
        let ended = timeout(LAST_WORDS, process.ended()).await;
        process.stop(Duration::ZERO).await;
        let said = process.last_words().await;
        let mut failed = match (failed, ended) {
            (Ok(_), Ok(Err(stopped))) => stopped.into(),
            (Ok(error), _) => of_handshake(&error),
            (Err(failed), _) => failed,
        };
        failed.message.push_str(&said);
        Err(failed)
    }

    async fn process(&self) -> Result<(Process, pipe::Sender, ChildStdout), Failed> {
        let server = self.server;
        let client = &server.client;
        let Transport::Stdio {
            command,
            args,
            env,
            grants,
            workspace,
        } = &server.config.transport
        else {
            return Err(Failed::finally("it is not a process".to_owned()));
        };
        let program = if command.contains('/') {
            Some(command.into())
        } else {
            find_program(command, &client.search_path)
        };
        let program = program.ok_or_else(|| {
            let path = &client.search_path;
            Failed::finally(format!("`{command}` is not installed in {path}"))
        })?;
        tokio::fs::create_dir_all(workspace)
            .await
            .map_err(|error| {
                let workspace = workspace.display();
                Failed::finally(format!("no workspace {workspace}: {error}"))
            })?;
        let own = [
            ("PATH", client.search_path.clone()),
            ("HOME", workspace.to_string_lossy().into_owned()),
            ("LANG", "C.UTF-8".to_owned()),
            // Otherwise python writes `__pycache__` into the package.
            ("PYTHONDONTWRITEBYTECODE", "1".to_owned()),
        ];
        let own = own.map(|(name, value)| (name.to_owned(), value));
        let granted = self.granted.iter();
        let granted = granted.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let said = env.iter();
        let said = said.map(|(name, text)| (name.clone(), text.with(&self.granted)));
        let env = own.into_iter().chain(grants.env.iter().cloned());
        let gate = server.gates.clone().map(|gates| {
            let hidden = self.hidden.clone();
            Arc::new(Discreet { gates, hidden }) as Arc<dyn EgressGate>
        });
        let reach = grants.reach(workspace, gate, Arc::new(client.egress.clone()))?;
        server.refused().clear();
        let job = LiveJob {
            program,
            args: args.clone(),
            env: env.chain(granted).chain(said).collect(),
            cwd: workspace.clone(),
            reach,
            refused: self.refusals(),
        };
        let (live, pipes) = client.launcher.start_live(job).await?;
        let LivePipes {
            input,
            output,
            errors,
        } = pipes;
        let stderr = Stderr::default();
        let mut reader = JoinSet::new();
        let following = stderr.clone();
        reader.spawn(following.follow(server.config.name.clone(), errors, self.hidden.clone()));
        let process = Process {
            live,
            stderr,
            reader,
        };
        Ok((process, input, output))
    }

    /// Shows and logs what is not let through.
    fn refusals(&self) -> RefusalSink {
        let (name, hidden) = (self.server.config.name.clone(), self.hidden.clone());
        let refused = Arc::clone(&self.server.refused);
        Arc::new(move |why: &str| {
            let why = clean(&hidden.redact(why.to_owned()), limits::ERROR_CHARS);
            let mut refused = refused.lock().unwrap_or_else(PoisonError::into_inner);
            // A process can think of as many hosts as it likes.
            if refused.len() >= limits::REFUSALS || refused.contains(&why) {
                return;
            }
            tracing::warn!(
                mcp_server = name,
                why,
                "a connection of an MCP server was refused"
            );
            refused.push(why);
        })
    }
}

fn of_handshake(error: &ClientInitializeError) -> Failed {
    let mut error = error;
    while let ClientInitializeError::LegacyFallbackFailed { fallback, .. } = error {
        error = fallback;
    }
    let refused = error.is_authorization_required() || error.auth_challenge().is_some();
    // A server that cannot be reached is not reached another way.
    let unreachable = matches!(error, ClientInitializeError::TransportError { error, .. }
        if is_unsent(error.error.as_ref()));
    Failed {
        message: if refused {
            "the server refuses the authorization that it is sent (`headers`)".to_owned()
        } else {
            describe(error)
        },
        is_final: refused || unreachable,
    }
}

fn too_slow() -> Failed {
    let seconds = limits::CONNECT.as_secs();
    Failed::finally(format!("it did not answer within {seconds} s"))
}

fn of_process(ended: Result<String, ToolError>) -> Failed {
    match ended {
        Ok(how) => Failed {
            message: how,
            is_final: false,
        },
        Err(stopped) => stopped.into(),
    }
}

/// An error with what is behind it, each thing once.
pub(crate) fn describe(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = error.source();
    }
    clean(&text, limits::ERROR_CHARS)
}
