//! Probes of a container: startup, then readiness and liveness.

use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::object::{list, text};

/// The probes of a container.
#[derive(Debug)]
pub(super) struct Probes {
    startup: Option<Probe>,
    readiness: Option<Probe>,
    liveness: Option<Probe>,
}

#[derive(Debug, Clone)]
struct Probe {
    /// The path; absent: that it listens is enough.
    path: Option<String>,
    port: u16,
    first: Duration,
    period: Duration,
    timeout: Duration,
    failures: u32,
    successes: u32,
}

/// What probes say of a container that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    Started,
    Ready(bool),
}

impl Probes {
    /// Reads the probes; an error says what cannot be done here.
    pub(super) fn read(container: &Value) -> Result<Self, String> {
        Ok(Self {
            startup: probe(container, "startupProbe")?,
            readiness: probe(container, "readinessProbe")?,
            liveness: probe(container, "livenessProbe")?,
        })
    }

    /// Probes until the container has to be started again; answers why.
    pub(super) async fn run(&self, address: &str, tell: impl Fn(Seen)) -> String {
        if let Some(startup) = &self.startup {
            let mut failed = 0;
            tokio::time::sleep(startup.first).await;
            while !startup.succeeds(address).await {
                failed += 1;
                if failed >= startup.failures {
                    return "Container failed startup probe, will be restarted".to_owned();
                }
                tokio::time::sleep(startup.period).await;
            }
        }
        tell(Seen::Started);
        let ready = async {
            let Some(probe) = &self.readiness else {
                tell(Seen::Ready(true));
                return std::future::pending().await;
            };
            probe.watch(address, |is| tell(Seen::Ready(is))).await;
        };
        let alive = async {
            match &self.liveness {
                None => std::future::pending().await,
                Some(probe) => probe.fails(address).await,
            }
        };
        tokio::select! {
            () = ready => {}
            () = alive => {}
        }
        "Container failed liveness probe, will be restarted".to_owned()
    }
}

impl Probe {
    /// Tells whenever it succeeds or fails as often as it must; never returns.
    async fn watch(&self, address: &str, tell: impl Fn(bool)) {
        tokio::time::sleep(self.first).await;
        let (mut row, mut last) = (0, None);
        loop {
            let is = self.succeeds(address).await;
            row = if last == Some(is) { row + 1 } else { 1 };
            last = Some(is);
            let wanted = if is { self.successes } else { self.failures };
            if row == wanted {
                tell(is);
            }
            tokio::time::sleep(self.period).await;
        }
    }

    /// Returns once it has failed as often as it must.
    async fn fails(&self, address: &str) {
        tokio::time::sleep(self.first).await;
        let mut failed = 0;
        while failed < self.failures {
            failed = if self.succeeds(address).await {
                0
            } else {
                failed + 1
            };
            tokio::time::sleep(self.period).await;
        }
    }

    async fn succeeds(&self, address: &str) -> bool {
        let tried = tokio::time::timeout(self.timeout, self.ask(address)).await;
        tried.is_ok_and(|answer| answer.is_ok_and(|good| good))
    }

    async fn ask(&self, address: &str) -> std::io::Result<bool> {
        let mut stream = TcpStream::connect((address, self.port)).await?;
        let Some(path) = &self.path else {
            return Ok(true);
        };
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {address}\r\nUser-Agent: kube-probe/1.33\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await?;
        // `HTTP/1.1 200`
        let mut head = [0_u8; 12];
        stream.read_exact(&mut head).await?;
        let status = std::str::from_utf8(&head)
            .ok()
            .and_then(|h| h.split(' ').nth(1));
        let status = status.and_then(|status| status.parse::<u16>().ok());
        Ok(status.is_some_and(|status| (200..400).contains(&status)))
    }
}

fn probe(container: &Value, name: &str) -> Result<Option<Probe>, String> {
    let Some(given) = container.get(name) else {
        return Ok(None);
    };
    let get = given.get("httpGet");
    let action = get.or_else(|| given.get("tcpSocket"));
    let action = action.ok_or_else(|| format!("this kubelet has no {name} but by HTTP and TCP"))?;
    let number = |field: &str, otherwise: u64| {
        let value = given.get(field).and_then(Value::as_u64);
        value.unwrap_or(otherwise)
    };
    let count = |field: &str, otherwise| u32::try_from(number(field, otherwise)).unwrap_or(1);
    let port = match action.get("port") {
        Some(Value::String(wanted)) => list(container, "/ports")
            .iter()
            .find(|port| text(port, "/name") == wanted)
            .and_then(|port| port.get("containerPort")?.as_u64()),
        port => port.and_then(Value::as_u64),
    };
    let port = port.and_then(|port| u16::try_from(port).ok());
    Ok(Some(Probe {
        path: get.map(|get| text(get, "/path").to_owned()),
        port: port.ok_or_else(|| format!("{name} has no port"))?,
        first: Duration::from_secs(number("initialDelaySeconds", 0)),
        period: Duration::from_secs(number("periodSeconds", 10)),
        timeout: Duration::from_secs(number("timeoutSeconds", 1)),
        failures: count("failureThreshold", 3),
        successes: count("successThreshold", 1),
    }))
}
