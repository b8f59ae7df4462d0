//! The smallest client of Docker Engine that can start a container.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use crate::client::Connection;
use crate::error::BenchError;

/// The version of the API that every engine of the last years speaks.
const API: &str = "/v1.41";
/// What a host is called that is a socket.
const HOST: &str = "docker";
/// Longest head of an answer that is followed by the output of a container.
const MAX_HEAD: usize = 8 << 10;

/// Docker Engine behind a socket of this machine.
pub(crate) struct Engine {
    socket: PathBuf,
    connection: Connection,
}

impl Engine {
    /// Connects to `unix:///PATH`.
    pub(crate) async fn open(host: &str) -> Result<Self, BenchError> {
        let path = host.strip_prefix("unix://");
        let path = path.ok_or_else(|| BenchError::Start {
            what: "Docker Engine".to_owned(),
            reason: format!("`{host}` is not unix:///PATH"),
        })?;
        Ok(Self {
            socket: path.into(),
            connection: Connection::over(connect(path.as_ref()).await?, HOST.to_owned()).await?,
        })
    }

    /// Asks for something that must be there; `null` where the answer is empty.
    pub(crate) async fn ask(
        &mut self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, BenchError> {
        let body = body.map_or_else(Bytes::new, |body| Bytes::from(body.to_string()));
        let path = format!("{API}{path}");
        let answer = self.connection.send(method, &path, body, |_| false).await?;
        let value = serde_json::from_slice(&answer.body).unwrap_or_default();
        match answer.status {
            200..300 => Ok(value),
            status => {
                let said = value["message"].as_str().unwrap_or_default();
                let reason = format!("{path} answered {status}: {said}");
                Err(BenchError::request(HOST, &reason))
            }
        }
    }

    /// Removes a container, whether it runs or not.
    pub(crate) async fn remove(&mut self, container: &str) -> Result<(), BenchError> {
        let path = format!("/containers/{container}?force=1&v=1");
        self.ask(Method::DELETE, &path, None).await.map(drop)
    }

    /// What `docker run IMAGE echo up` does, with this `HostConfig`, and with these networks beside that of it: from the
    /// first call until the first byte of the output is here. The container is gone afterwards.
    pub(crate) async fn first_output(
        &mut self,
        image: &str,
        config: &Value,
        networks: &[String],
    ) -> Result<Duration, BenchError> {
        let body = json!({
            "Image": image, "Entrypoint": ["echo"], "Cmd": ["up"], "AttachStdout": true, "Tty": true,
            "HostConfig": config,
        });
        let mut output = connect(&self.socket).await?;
        let begun = Instant::now();
        let made = self.ask(Method::POST, "/containers/create", Some(&body));
        let made = made.await?;
        let id = made["Id"].as_str().unwrap_or_default().to_owned();
        let shown = async {
            for name in networks {
                let (path, body) = (
                    format!("/networks/{name}/connect"),
                    json!({"Container": id}),
                );
                self.ask(Method::POST, &path, Some(&body)).await?;
            }
            attach(&mut output, &id).await?;
            let start = format!("/containers/{id}/start");
            let first = async {
                let mut byte = [0];
                let read = output.read_exact(&mut byte).await;
                read.map_err(BenchError::io("read the output of a container"))?;
                Ok(begun.elapsed())
            };
            let (started, shown) = tokio::join!(self.ask(Method::POST, &start, None), first);
            started.and(shown)
        };
        let shown = shown.await;
        self.remove(&id).await?;
        shown
    }
}

async fn connect(path: &Path) -> Result<UnixStream, BenchError> {
    let connected = UnixStream::connect(path).await;
    connected.map_err(BenchError::io("connect to Docker Engine"))
}

/// Has the engine send the output of a container, from its first byte on.
async fn attach(stream: &mut UnixStream, id: &str) -> Result<(), BenchError> {
    let ask = format!(
        "POST {API}/containers/{id}/attach?stream=1&stdout=1 HTTP/1.1\r\nHost: {HOST}\r\n\
         Connection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 0\r\n\r\n"
    );
    let sent = stream.write_all(ask.as_bytes()).await;
    sent.map_err(BenchError::io("attach to a container"))?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let byte = stream.read_u8().await;
        head.push(byte.map_err(BenchError::io("attach to a container"))?);
        if head.len() > MAX_HEAD {
            return Err(BenchError::request(
                HOST,
                &"the answer to attach is no HTTP",
            ));
        }
    }
    match head.starts_with(b"HTTP/1.1 101") {
        true => Ok(()),
        false => {
            let reason = String::from_utf8_lossy(&head).into_owned();
            Err(BenchError::request(HOST, &reason))
        }
    }
}
