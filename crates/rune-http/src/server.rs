//! Serving a router on a socket.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use http::Request;
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use rune_runtime::Tasks;
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::either::Either;
use tokio_util::sync::CancellationToken;

use crate::listener::Listener;

type Stream = Either<TcpStream, UnixStream>;

/// Largest head of a request in bytes: request line and headers.
const MAX_HEAD_BYTES: u32 = 64 * 1024;
/// Headers of a request at the most.
const MAX_HEADERS: usize = 100;
/// Requests that one HTTP/2 connection may have open.
const MAX_STREAMS: u32 = 256;
/// Pause after the machine could not accept a connection, such as for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How often an HTTP/2 peer is asked whether it is still there.
const HTTP2_PING: Duration = Duration::from_secs(30);

/// How much a listener takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerLimits {
    /// Open connections; further ones wait to be accepted.
    pub connections: u32,
    /// Longest time for the head of a request, and for which a connection may be idle.
    pub head_timeout: Duration,
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self {
            connections: 10_000,
            head_timeout: Duration::from_secs(60),
        }
    }
}

/// Serves a router over HTTP/1.1 and HTTP/2 (prior knowledge).
pub struct Server {
    name: &'static str,
    listener: Listener,
    router: Router,
    tasks: Tasks,
    limits: ServerLimits,
}

impl Server {
    /// A server with the default limits; `name` is for the log.
    #[must_use]
    pub fn new(
        name: &'static str,
        listener: impl Into<Listener>,
        router: Router,
        tasks: Tasks,
    ) -> Self {
        Self {
            name,
            listener: listener.into(),
            router,
            tasks,
            limits: ServerLimits::default(),
        }
    }

    /// The same server with other limits.
    #[must_use]
    pub const fn with_limits(mut self, limits: ServerLimits) -> Self {
        self.limits = limits;
        self
    }

    /// Serves until the shutdown, then takes no new connection, closes idle ones and waits
    /// `grace` at the longest for answers in flight. Answers whether all were finished.
    pub async fn run(self, shutdown: CancellationToken, grace: Duration) -> bool {
        let places = Arc::new(Semaphore::new(self.limits.connections as usize));
        let abort = CancellationToken::new();
        let builder = Arc::new(self.builder());
        loop {
            let (stream, place) = tokio::select! {
                () = shutdown.cancelled() => break,
                accepted = accept(&self.listener, &places) => match accepted {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        tracing::warn!(listener = self.name, %error, "connection was not accepted");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                        continue;
                    }
                },
            };
            let connection = Connection {
                builder: Arc::clone(&builder),
                router: self.router.clone(),
                shutdown: shutdown.clone(),
                abort: abort.clone(),
                head_timeout: self.limits.head_timeout,
            };
            self.tasks.spawn("connection", async move {
                connection.serve(stream).await;
                drop(place);
            });
        }
        drop(self.listener);
        let all = places.acquire_many(self.limits.connections);
        let finished = tokio::time::timeout(grace, all).await.is_ok();
        if !finished {
            tracing::warn!(listener = self.name, "answers in flight were cut off");
        }
        abort.cancel();
        finished
    }

    fn builder(&self) -> Builder<TaskExecutor> {
        let mut builder = Builder::new(TaskExecutor(self.tasks.clone()));
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.head_timeout)
            .max_buf_size(MAX_HEAD_BYTES as usize)
            .max_headers(MAX_HEADERS);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_header_list_size(MAX_HEAD_BYTES)
            .max_concurrent_streams(MAX_STREAMS)
            .keep_alive_interval(HTTP2_PING);
        builder
    }
}

async fn accept(
    listener: &Listener,
    places: &Arc<Semaphore>,
) -> std::io::Result<(Stream, OwnedSemaphorePermit)> {
    // The semaphore is never closed.
    let place = Arc::clone(places)
        .acquire_owned()
        .await
        .map_err(std::io::Error::other)?;
    Ok((listener.accept().await?, place))
}

struct Connection {
    builder: Arc<Builder<TaskExecutor>>,
    router: Router,
    shutdown: CancellationToken,
    abort: CancellationToken,
    head_timeout: Duration,
}

impl Connection {
    async fn serve(self, stream: Stream) {
        let used = Arc::new(AtomicBool::new(false));
        let (router, mark) = (TowerToHyperService::new(self.router), Arc::clone(&used));
        let service = service_fn(move |request: Request<Incoming>| {
            mark.store(true, Ordering::Relaxed);
            router.call(request)
        });
        let connection = self.builder.serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        // The protocol is detected from the first bytes, which hyper waits for without a
        // limit of its own.
        let first = tokio::time::sleep(self.head_timeout);
        tokio::pin!(first);
        let (mut stopping, mut waiting) = (false, true);
        loop {
            tokio::select! {
                ended = connection.as_mut() => {
                    if let Err(error) = ended {
                        tracing::debug!(%error, "connection ended");
                    }
                    return;
                }
                () = self.shutdown.cancelled(), if !stopping => {
                    stopping = true;
                    connection.as_mut().graceful_shutdown();
                }
                () = self.abort.cancelled() => return,
                () = &mut first, if waiting => {
                    if !used.load(Ordering::Relaxed) {
                        return;
                    }
                    waiting = false;
                }
            }
        }
    }
}

/// Lets hyper start the tasks of HTTP/2 streams where all others are started.
#[derive(Clone)]
struct TaskExecutor(Tasks);

impl<F> Executor<F> for TaskExecutor
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, future: F) {
        self.0.spawn("http2", future);
    }
}
