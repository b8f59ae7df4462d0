//! Containers that are not there: each is a port of this process at an address of its own.

use std::collections::{HashMap, HashSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::runtime::{ContainerRequest, PodRuntime, Running, StartFailure};
use crate::logs::ContainerLog;
use crate::object;

/// How a container is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Script {
    /// It answers `200` on its first port.
    Serve,
    /// It answers `503`.
    Unwell,
    /// It ends at once with this code.
    Exit(i32),
    /// Its image is nowhere.
    NoImage,
}

/// Decides by a pod how its containers are.
type Rule = dyn Fn(&Value) -> Script + Send + Sync;

/// Runs pods by a script.
pub struct ScriptedPods {
    rule: Box<Rule>,
    shared: Arc<Shared>,
    next: AtomicU16,
}

#[derive(Default)]
struct Shared {
    /// Names of pods that answer `503` from now on.
    unwell: Mutex<HashSet<String>>,
    /// What ends the containers that run, by the name of their pod.
    running: Mutex<HashMap<String, watch::Sender<Option<i32>>>>,
    /// What the containers say, by the name of their pod.
    logs: Mutex<HashMap<String, Arc<ContainerLog>>>,
    /// The names of pods of which a container was started, in their order.
    started: Mutex<Vec<String>>,
}

impl ScriptedPods {
    /// Containers that all are as a script says.
    #[must_use]
    pub fn new(script: Script) -> Arc<Self> {
        Self::by(move |_| script)
    }

    /// Containers of which a function says how they are.
    #[must_use]
    pub fn by(rule: impl Fn(&Value) -> Script + Send + Sync + 'static) -> Arc<Self> {
        // Several programs test at the same time: each has addresses of its own.
        let first = u16::try_from(std::process::id() % 200).unwrap_or(0) * 256;
        Arc::new(Self {
            rule: Box::new(rule),
            shared: Arc::default(),
            next: AtomicU16::new(first),
        })
    }

    /// From now on the pod answers `503`.
    pub fn make_unwell(&self, pod: &str) {
        lock(&self.shared.unwell).insert(pod.to_owned());
    }

    /// Ends the container of a pod.
    pub fn crash(&self, pod: &str, code: i32) {
        if let Some(end) = lock(&self.shared.running).get(pod) {
            end.send_replace(Some(code));
        }
    }

    /// Has the container of a pod say something.
    pub fn say(&self, pod: &str, text: &str) {
        if let Some(log) = lock(&self.shared.logs).get(pod) {
            log.append(text.as_bytes());
        }
    }

    /// The names of pods of which a container was started, in their order.
    #[must_use]
    pub fn started(&self) -> Vec<String> {
        lock(&self.shared.started).clone()
    }

    async fn listen(&self, port: u16) -> Result<(TcpListener, Ipv4Addr), StartFailure> {
        // Some address of the loopback network is free.
        for _ in 0..256 {
            let [high, low] = self.next.fetch_add(1, Ordering::Relaxed).to_be_bytes();
            let address = Ipv4Addr::new(127, 88, high, low.max(1));
            if let Ok(listener) = TcpListener::bind(SocketAddr::from((address, port))).await {
                return Ok((listener, address));
            }
        }
        Err(StartFailure {
            reason: "RunContainerError",
            message: "no address is free".to_owned(),
        })
    }
}

#[async_trait]
impl PodRuntime for ScriptedPods {
    async fn start(&self, request: &ContainerRequest) -> Result<Box<dyn Running>, StartFailure> {
        let pod = object::name(&request.pod).to_owned();
        let script = (self.rule)(&request.pod);
        if script == Script::NoImage {
            let image = object::text(&request.container, "/image");
            return Err(StartFailure {
                reason: "ErrImagePull",
                message: format!("Failed to pull image \"{image}\": not found"),
            });
        }
        lock(&self.shared.started).push(pod.clone());
        request.say(format!("{pod} runs\n").as_bytes());
        lock(&self.shared.logs).insert(pod.clone(), Arc::clone(&request.log));
        let port = request.container.pointer("/ports/0/containerPort");
        let port = port
            .and_then(Value::as_u64)
            .and_then(|p| u16::try_from(p).ok());
        let (listener, address) = self.listen(port.unwrap_or(0)).await?;
        let end = watch::Sender::new(match script {
            Script::Exit(code) => Some(code),
            _ => None,
        });
        lock(&self.shared.running).insert(pod.clone(), end.clone());
        Ok(Box::new(Scripted {
            pod,
            address: address.to_string(),
            is_unwell: script == Script::Unwell,
            listener,
            end,
            shared: Arc::clone(&self.shared),
        }))
    }
}

struct Scripted {
    pod: String,
    address: String,
    is_unwell: bool,
    listener: TcpListener,
    end: watch::Sender<Option<i32>>,
    shared: Arc<Shared>,
}

impl Scripted {
    async fn serve(&self) {
        loop {
            let Ok((mut stream, _)) = self.listener.accept().await else {
                continue;
            };
            let is_unwell = self.is_unwell || lock(&self.shared.unwell).contains(&self.pod);
            let answer = if is_unwell {
                "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            } else {
                "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
            };
            // Who breaks off needs no answer.
            let mut request = [0_u8; 1024];
            let asked = tokio::time::timeout(Duration::from_secs(1), stream.read(&mut request));
            if asked.await.is_ok() {
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        }
    }
}

#[async_trait]
impl Running for Scripted {
    fn id(&self) -> &str {
        &self.pod
    }

    fn address(&self) -> &str {
        &self.address
    }

    async fn ended(&self) -> i32 {
        let mut end = self.end.subscribe();
        let over = async {
            // The sender lives as long as `self`.
            let code = end.wait_for(Option::is_some).await;
            code.ok().and_then(|code| *code).unwrap_or_default()
        };
        tokio::select! {
            code = over => code,
            () = self.serve() => 0,
        }
    }

    async fn stop(&self, _grace: Duration) {
        self.end.send_modify(|code| *code = code.or(Some(0)));
    }

    async fn remove(&self) {
        lock(&self.shared.running).remove(&self.pod);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
