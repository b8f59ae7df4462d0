//! The smallest HTTP/1.1 client that measures: one connection, one request at a time.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::http::request::Builder;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::error::BenchError;

/// One keep-alive connection to a server.
pub(crate) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    authority: String,
    driver: tokio::task::JoinSet<()>,
}

/// An answer and when it came.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
    /// From sending the request to the first byte of the body that `first` accepts.
    pub(crate) first: Option<Duration>,
    /// From sending the request to the end of the body.
    pub(crate) total: Duration,
}

impl Connection {
    /// Connects to `http://HOST:PORT`.
    pub(crate) async fn open(base: &str) -> Result<Self, BenchError> {
        let authority = base
            .trim_start_matches("http://")
            .trim_end_matches('/')
            .to_owned();
        let failed = |error: &dyn std::fmt::Display| BenchError::request(base, error);
        let stream = TcpStream::connect(&authority)
            .await
            .map_err(|e| failed(&e))?;
        stream.set_nodelay(true).map_err(|e| failed(&e))?;
        Self::over(stream, authority).await
    }

    /// Speaks to whoever is at the other end of a stream.
    pub(crate) async fn over(
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        authority: String,
    ) -> Result<Self, BenchError> {
        let (sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| BenchError::request(&authority, &error))?;
        let mut driver = tokio::task::JoinSet::new();
        driver.spawn(async move {
            // The error of a connection shows in the request that uses it.
            let _ = connection.await;
        });
        Ok(Self {
            sender,
            authority,
            driver,
        })
    }

    /// Sends a request and reads the whole answer. `first` looks at what has come so
    /// far and says whether the moment to be measured has been reached.
    pub(crate) async fn send(
        &mut self,
        method: Method,
        path: &str,
        body: Bytes,
        first: impl Fn(&[u8]) -> bool,
    ) -> Result<Answer, BenchError> {
        let request = Request::builder().method(method).uri(path);
        self.exchange(request, body, first).await
    }

    /// Posts what may be posted again under the same key.
    pub(crate) async fn post(
        &mut self,
        path: &str,
        body: Bytes,
        key: &str,
    ) -> Result<Answer, BenchError> {
        let request = Request::post(path).header("idempotency-key", key);
        self.exchange(request, body, |_| false).await
    }

    async fn exchange(
        &mut self,
        request: Builder,
        body: Bytes,
        first: impl Fn(&[u8]) -> bool,
    ) -> Result<Answer, BenchError> {
        let failed = |error: &dyn std::fmt::Display| BenchError::request(&self.authority, error);
        let request = request
            .header("host", &self.authority)
            .header("content-type", "application/json")
            .body(Full::new(body))
            .map_err(|e| failed(&e))?;
        self.sender.ready().await.map_err(|e| failed(&e))?;
        let started = Instant::now();
        let response = self
            .sender
            .send_request(request)
            .await
            .map_err(|e| failed(&e))?;
        let status = response.status().as_u16();
        let mut incoming = response.into_body();
        let mut body = Vec::new();
        let mut seen = None;
        while let Some(frame) = incoming.frame().await {
            let frame = frame.map_err(|e| BenchError::request(&self.authority, &e))?;
            if let Some(data) = frame.data_ref() {
                body.extend_from_slice(data);
                if seen.is_none() && first(&body) {
                    seen = Some(started.elapsed());
                }
            }
        }
        Ok(Answer {
            status,
            body,
            first: seen,
            total: started.elapsed(),
        })
    }

    /// A request whose answer must have this status.
    pub(crate) async fn expect(
        &mut self,
        method: Method,
        path: &str,
        body: Bytes,
        status: u16,
    ) -> Result<Vec<u8>, BenchError> {
        let answer = self.send(method, path, body, |_| false).await?;
        if answer.status != status {
            let text: String = String::from_utf8_lossy(&answer.body)
                .chars()
                .take(300)
                .collect();
            let reason = format!("{path} answered {}: {text}", answer.status);
            return Err(BenchError::request(&self.authority, &reason));
        }
        Ok(answer.body)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort_all();
    }
}
