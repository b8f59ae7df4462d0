//! How long a request waits that finds no replica: from the decision to have one to the first token.

use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::Method;
use serde_json::{Value, json};

use crate::client::Connection;
use crate::daemon::Daemon;
use crate::engine::Engine;
use crate::error::BenchError;
use crate::measure::median;
use crate::report::Report;
use crate::suite::{BenchConfig, OFFLINE_AGENT, agent, deploy, temp};

/// Longest a replica may take to end.
const PATIENCE: Duration = Duration::from_secs(60);
/// Pause before it is looked again whether replicas are gone.
const LOOK: Duration = Duration::from_millis(10);
const INVOKE: &str = "/v1/agents/bench/invoke";
const PING: &[u8] = br#"{"input":"ping","stream":true}"#;
const TOKEN: &[u8] = b"event: token";

/// Replicas in the daemon, and in containers of the engine where there is one with the image: in turns with what that
/// engine does by itself.
pub(crate) async fn cold(config: &BenchConfig, report: &mut Report) -> Result<(), BenchError> {
    let dir = temp(&config.dir)?;
    let package = agent(dir.path(), OFFLINE_AGENT)?;
    let env: [(&str, String); 2] = [
        ("RUNE_REPLICA_IMAGE", config.replica_image.clone()),
        ("DOCKER_HOST", config.docker_host.clone()),
    ];
    let start = async |backend: &str| {
        let data_dir = dir.path().join(backend);
        let daemon = Daemon::with(&config.rune, &data_dir, &env, &["--backend", backend]).await?;
        deploy(&config.rune, &daemon, &package)?;
        Sleeper::new(daemon).await
    };
    let mut inside = start("wasm").await?;
    let mut containers = match engine(config).await {
        Ok(engine) => Some(Containers::new(engine, start("docker").await?)),
        Err(error) => {
            let line = format!("; no replicas in containers: {error}");
            report.machine.push_str(&line);
            None
        }
    };
    let mut wasm = Vec::new();
    let mut figures = ContainerFigures::default();
    let rounds = async {
        if let Some(containers) = &mut containers {
            containers.learn().await?;
        }
        for _ in 0..config.starts {
            wasm.push(inside.first_token().await?);
            inside.gone().await?;
            if let Some(containers) = &mut containers {
                containers
                    .round(&config.replica_image, &mut figures)
                    .await?;
            }
        }
        Ok::<(), BenchError>(())
    };
    let measured = rounds.await;
    let cleared = match containers {
        Some(containers) => containers.clear().await,
        None => Ok(()),
    };
    measured.and(cleared)?;
    figures.report(report);
    report.figure(
        "cold start to first token, wasm",
        median(&wasm),
        "ms",
        "< 5",
    );
    Ok(())
}

/// The engine, where it answers and has the image of replicas.
async fn engine(config: &BenchConfig) -> Result<Engine, BenchError> {
    let mut engine = Engine::open(&config.docker_host).await?;
    let path = format!("/images/{}/json", config.replica_image);
    engine.ask(Method::GET, &path, None).await?;
    Ok(engine)
}

/// A daemon with a deployment that has no replica until it is asked.
struct Sleeper {
    daemon: Daemon,
    gateway: Connection,
    control_plane: Connection,
    deployment: String,
}

impl Sleeper {
    async fn new(daemon: Daemon) -> Result<Self, BenchError> {
        let mut sleeper = Self {
            gateway: Connection::open(&daemon.gateway).await?,
            control_plane: Connection::open(&daemon.control_plane).await?,
            deployment: String::new(),
            daemon,
        };
        let rows = sleeper.get("/v1/deployments").await?;
        let id = rows["items"][0]["id"].as_str();
        sleeper.deployment = id.unwrap_or_default().to_owned();
        // The first start unpacks the package.
        sleeper.gone().await?;
        Ok(sleeper)
    }

    async fn get(&mut self, path: &str) -> Result<Value, BenchError> {
        let connection = &mut self.control_plane;
        let body = connection.expect(Method::GET, path, Bytes::new(), 200);
        let body = body.await?;
        serde_json::from_slice(&body)
            .map_err(|error| BenchError::request(&self.daemon.control_plane, &error))
    }

    async fn scale(&mut self, replicas: u32) -> Result<(), BenchError> {
        let path = format!("/v1/deployments/{}/scale", self.deployment);
        let body = Bytes::from(json!({ "replicas": replicas }).to_string());
        let scaled = self.control_plane.expect(Method::POST, &path, body, 200);
        scaled.await.map(drop)
    }

    /// Milliseconds from the call that wants a replica to the first token of a request that was waiting for it.
    async fn first_token(&mut self) -> Result<f64, BenchError> {
        let begun = Instant::now();
        self.scale(1).await?;
        let asked = begun.elapsed();
        let is_there = |body: &[u8]| body.windows(TOKEN.len()).any(|part| part == TOKEN);
        let body = Bytes::from_static(PING);
        let answer = self.gateway.send(Method::POST, INVOKE, body, is_there);
        let answer = answer.await?;
        match (answer.status, answer.first) {
            (200, Some(first)) => Ok((asked + first).as_secs_f64() * 1e3),
            (status, _) => {
                let text = String::from_utf8_lossy(&answer.body);
                let reason = format!("{INVOKE} answered {status}: {text}");
                Err(BenchError::request(&self.daemon.gateway, &reason))
            }
        }
    }

    /// Ends the replicas and waits until nothing of them is left.
    async fn gone(&mut self) -> Result<(), BenchError> {
        self.scale(0).await?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let rows = self.get("/v1/replicas").await?;
            if rows["items"].as_array().is_some_and(Vec::is_empty) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let reason = "its replicas do not end";
                return Err(BenchError::request(&self.daemon.control_plane, &reason));
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// A daemon whose replicas are containers, and their engine.
struct Containers {
    engine: Engine,
    daemon: Sleeper,
    /// What everything of the daemon is labelled with, once one of its containers was seen.
    label: Option<String>,
    /// What the engine is told of a replica's container, and its networks behind the first.
    settings: Value,
    others: Vec<String>,
}

#[derive(Default)]
struct ContainerFigures {
    rune: Vec<f64>,
    bare: Vec<f64>,
    same: Vec<f64>,
}

impl Containers {
    const fn new(engine: Engine, daemon: Sleeper) -> Self {
        Self {
            engine,
            daemon,
            label: None,
            settings: Value::Null,
            others: Vec::new(),
        }
    }

    /// Sees how a replica's container is made, by a start that does not count.
    async fn learn(&mut self) -> Result<(), BenchError> {
        let started = self.daemon.first_token().await;
        let label = format!("rune.deployment={}", self.daemon.deployment);
        let found = self.list("containers", &label).await?;
        let Some(id) = found.first() else {
            return Err(started.err().unwrap_or_else(|| {
                BenchError::request("Docker Engine", "it has no container of the replica")
            }));
        };
        let path = format!("/containers/{id}/json");
        let seen = self.engine.ask(Method::GET, &path, None).await?;
        // Also where it did not answer: it is to be removed.
        let owner = seen["Config"]["Labels"]["rune.daemon"].as_str();
        self.label = owner.map(|owner| format!("rune.daemon={owner}"));
        started?;
        self.settings = seen["HostConfig"].clone();
        let first = self.settings["NetworkMode"].as_str();
        let all = seen["NetworkSettings"]["Networks"].as_object();
        let all = all.into_iter().flat_map(|all| all.keys());
        self.others = all
            .filter(|name| Some(name.as_str()) != first)
            .cloned()
            .collect();
        self.daemon.gone().await
    }

    /// One start of each kind.
    async fn round(
        &mut self,
        image: &str,
        figures: &mut ContainerFigures,
    ) -> Result<(), BenchError> {
        let millis = |taken: Duration| taken.as_secs_f64() * 1e3;
        let bare = self.engine.first_output(image, &json!({}), &[]).await?;
        figures.bare.push(millis(bare));
        figures.rune.push(self.daemon.first_token().await?);
        self.daemon.gone().await?;
        let (settings, others) = (&self.settings, &self.others);
        // What belonged to the replica went with it.
        let mounts = settings["Mounts"].as_array().into_iter().flatten();
        for source in mounts.filter_map(|mount| mount["Source"].as_str()) {
            std::fs::create_dir_all(source).map_err(BenchError::io("make a directory"))?;
        }
        let same = self.engine.first_output(image, settings, others).await?;
        figures.same.push(millis(same));
        Ok(())
    }

    /// The ids of what has a label.
    async fn list(&mut self, what: &str, label: &str) -> Result<Vec<String>, BenchError> {
        let filters = json!({ "label": [label] }).to_string();
        let filters: String = filters.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let path = match what {
            "containers" => format!("/containers/json?all=1&filters={filters}"),
            _ => format!("/networks?filters={filters}"),
        };
        let found = self.engine.ask(Method::GET, &path, None).await?;
        let rows = found.as_array().into_iter().flatten();
        let ids = rows.filter_map(|row| row["Id"].as_str().map(str::to_owned));
        Ok(ids.collect())
    }

    /// Removes what the daemon has made in the engine.
    async fn clear(mut self) -> Result<(), BenchError> {
        self.daemon.daemon.kill();
        let Some(label) = self.label.take() else {
            return Ok(());
        };
        for id in self.list("containers", &label).await? {
            self.engine.remove(&id).await?;
        }
        for id in self.list("networks", &label).await? {
            let path = format!("/networks/{id}");
            self.engine.ask(Method::DELETE, &path, None).await?;
        }
        Ok(())
    }
}

impl ContainerFigures {
    fn report(&self, report: &mut Report) {
        if self.rune.is_empty() {
            return;
        }
        let rune = median(&self.rune);
        report.compare(
            "cold start to first token, docker, over a bare container",
            (rune, median(&self.bare)),
            "ms",
            "<= 1.3",
        );
        report.compare(
            "the same, over a container with the settings of a replica",
            (rune, median(&self.same)),
            "ms",
            "",
        );
    }
}
