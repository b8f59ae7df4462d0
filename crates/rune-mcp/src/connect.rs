//! Making one connection.

use std::collections::HashMap;
use std::error::Error;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use rmcp::model::{ProtocolVersion, ServerPeerInfo};
use rmcp::service::{
    ClientInitializeError, ClientLifecycleMode, ClientServiceExt, Peer, RoleClient, RunningService,
};
use rmcp::transport::StreamableHttpClientTransport;
use rmcp::transport::async_rw::AsyncRwTransport;
use rmcp::transport::common::client_side_sse::ExponentialBackoff;
use rmcp::transport::streamable_http_client::StreamableHttpClientTransportConfig;
use rune_tools::{LiveJob, LiveProcess, ProcessGroup, find_program};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::client::McpClient;
use crate::config::{ServerConfig, Transport};
use crate::handler::Handler;
use crate::http::{HttpClient, is_unsent};
use crate::limits;
use crate::listing::clean;
use crate::stderr::Stderr;

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
    group: ProcessGroup,
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
    /// Waits for its end.
    pub(crate) async fn ended(&mut self) -> std::io::Result<ExitStatus> {
        self.group.wait().await
    }

    /// The end of an error message about a process that has ended: what it said last.
    pub(crate) async fn last_words(&mut self) -> String {
        // They are on their way; only a process that left the group can hold the pipe open.
        let _ = timeout(LAST_WORDS, self.reader.join_next()).await;
        self.stderr.said()
    }

    /// Ends it: politely where there is `grace`.
    pub(crate) async fn stop(&mut self, grace: Duration) {
        self.group.stop(grace).await;
    }
}

/// Connects to a server. The newer protocol is tried first; a server that does not take that well is asked the older way.
pub(crate) async fn connect(
    client: &McpClient,
    server: &ServerConfig,
) -> Result<Connection, String> {
    let both = ClientLifecycleMode::Auto {
        preferred_versions: vec![ProtocolVersion::LATEST],
        legacy_version: Some(ProtocolVersion::LATEST_WITH_INITIALIZE),
    };
    let first = match attempt(client, server, both).await {
        Ok(connection) => return Ok(connection),
        Err(failed) if failed.is_final => return Err(failed.message),
        Err(failed) => failed.message,
    };
    tracing::debug!(
        mcp_server = server.name,
        error = first,
        "trying the older handshake"
    );
    let older = attempt(client, server, ClientLifecycleMode::Initialize).await;
    older.map_err(|failed| failed.message)
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

async fn attempt(
    client: &McpClient,
    server: &ServerConfig,
    lifecycle: ClientLifecycleMode,
) -> Result<Connection, Failed> {
    let handler = Handler::new(server.secrets.clone());
    match &server.transport {
        Transport::Http { url, headers } => {
            let http = HttpClient::new(url).map_err(Failed::finally)?;
            let mut config = StreamableHttpClientTransportConfig::with_uri(url.as_str())
                .max_sse_event_size(limits::MESSAGE_BYTES)
                .max_json_response_size(limits::MESSAGE_BYTES)
                .max_error_response_size(limits::ERROR_BODY_BYTES)
                .custom_headers(headers.iter().cloned().collect::<HashMap<_, _>>());
            let mut backoff = ExponentialBackoff::default();
            backoff.max_delay = Some(STREAM_BACKOFF);
            config.retry_config = Arc::new(backoff);
            let transport = StreamableHttpClientTransport::with_client(http, config);
            let serving = handler.serve_with_lifecycle(transport, lifecycle);
            let service = match timeout(limits::CONNECT, serving).await {
                Ok(Ok(service)) => service,
                Ok(Err(error)) => return Err(of_handshake(server, &error)),
                Err(_) => return Err(too_slow()),
            };
            Ok(Connection {
                service,
                process: None,
            })
        }
        Transport::Stdio { .. } => {
            let (mut process, input, output) = start(client, server).await?;
            let transport = AsyncRwTransport::<RoleClient, _, _>::new(output, input)
                .with_max_line_length(limits::MESSAGE_BYTES);
            let serving = handler.serve_with_lifecycle(transport, lifecycle);
            let failed: Result<ClientInitializeError, Failed> = tokio::select! {
                served = timeout(limits::CONNECT, serving) => match served {
                    Ok(Ok(service)) => {
                        return Ok(Connection { service, process: Some(process) });
                    }
                    Ok(Err(error)) => Ok(error),
                    Err(_) => Err(too_slow()),
                },
                status = process.ended() => Err(ended(status)),
            };
            // Where it ends by itself, it says why.
            let _ = timeout(LAST_WORDS, process.ended()).await;
            process.stop(Duration::ZERO).await;
            let said = process.last_words().await;
            let mut failed = match failed {
                Ok(error) => of_handshake(server, &error),
                Err(failed) => failed,
            };
            failed.message.push_str(&said);
            Err(failed)
        }
    }
}

async fn start(
    client: &McpClient,
    server: &ServerConfig,
) -> Result<(Process, rune_tools::LiveInput, tokio::process::ChildStdout), Failed> {
    let Transport::Stdio {
        command,
        args,
        env,
        workspace,
    } = &server.transport
    else {
        return Err(Failed::finally("it is not a process".to_owned()));
    };
    let program = if command.contains('/') {
        Some(command.into())
    } else {
        find_program(command, &client.search_path)
    };
    let program = program.ok_or_else(|| {
        Failed::finally(format!(
            "`{command}` is not installed in {}",
            client.search_path
        ))
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
    let job = LiveJob {
        program,
        args: args.clone(),
        env: own.into_iter().chain(env.iter().cloned()).collect(),
        cwd: workspace.clone(),
    };
    let started = client.launcher.start_live(&job).await;
    let LiveProcess {
        group,
        input,
        output,
        errors,
    } = started
        .map_err(|error| Failed::finally(format!("`{command}` cannot be started: {error}")))?;
    let stderr = Stderr::default();
    let mut reader = JoinSet::new();
    reader.spawn(
        stderr
            .clone()
            .follow(server.name.clone(), errors, server.secrets.clone()),
    );
    let process = Process {
        group,
        stderr,
        reader,
    };
    Ok((process, input, output))
}

fn of_handshake(server: &ServerConfig, error: &ClientInitializeError) -> Failed {
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
            server.secrets.redact(&describe(error))
        },
        is_final: refused || unreachable,
    }
}

fn too_slow() -> Failed {
    let seconds = limits::CONNECT.as_secs();
    Failed::finally(format!("it did not answer within {seconds} s"))
}

fn ended(status: std::io::Result<ExitStatus>) -> Failed {
    let how = match status {
        Ok(status) => status.to_string(),
        Err(error) => error.to_string(),
    };
    Failed {
        message: format!("its process ended ({how})"),
        is_final: false,
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
