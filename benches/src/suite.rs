//! The measurements, one after the other.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use hyper::Method;
use serde_json::{Value, json};

use crate::client::Connection;
use crate::cluster::{cluster, failover};
use crate::cold::cold;
use crate::daemon::{Daemon, Server, own_floor};
use crate::error::BenchError;
use crate::floor::GroupCommit;
use crate::load::{Load, Outcome};
use crate::measure::{fdatasync_us, load_average, median, percentile, rss_kib};
use crate::parked::parked;
use crate::report::Report;

/// Latency of the model in front of which Rune and the proxy are compared.
const MODEL_LATENCY: Duration = Duration::from_millis(20);
/// How long a process may settle before its memory is read.
pub(crate) const SETTLE: Duration = Duration::from_secs(3);
/// What the agent of the throughput runs is sent.
pub(crate) const PING: &str = r#"{"input":"ping"}"#;
const PING_STREAM: &str = r#"{"input":"ping","stream":true}"#;

/// Figures that are measured together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Durable invokes per second.
    Throughput,
    /// Latency added to a model, and the first token.
    Latency,
    /// Start to ready.
    Starts,
    /// Idle memory, and what idle sessions add to it.
    Memory,
    /// Memory of requests that wait for a person.
    Parked,
    /// From no replica to the first token, in the daemon and in containers.
    Cold,
    /// What a write costs on three nodes.
    Cluster,
    /// From the loss of a leader to the next write.
    Failover,
}

/// What to measure, and for how long.
#[derive(Debug, Clone)]
pub struct BenchConfig {
    /// Which figures.
    pub parts: Vec<Part>,
    /// The `rune` binary.
    pub rune: PathBuf,
    /// Where the data directories go; the disk that is measured.
    pub dir: PathBuf,
    /// Clients of the throughput runs.
    pub clients: Vec<usize>,
    /// Length of one throughput run.
    pub duration: Duration,
    /// Rounds per figure; the median counts.
    pub rounds: usize,
    /// Starts per kind of start, of daemons and of replicas.
    pub starts: usize,
    /// Idle sessions whose memory is measured.
    pub sessions: usize,
    /// Parked requests whose memory is measured.
    pub parked: usize,
    /// Where Docker Engine is: `unix:///PATH`.
    pub docker_host: String,
    /// The image of replicas in containers.
    pub replica_image: String,
    /// The longest that a node of a cluster waits for a leader before it stands for election, once the time is over in which
    /// it stands for nobody else.
    pub election_timeout: Duration,
}

/// Runs what is asked for and answers the report. `progress` is told what comes next.
///
/// # Errors
/// A [`BenchError`] where a figure cannot be had, or where acknowledged work was lost.
pub async fn run(
    config: &BenchConfig,
    progress: &mut (dyn FnMut(&str) + Send),
) -> Result<Report, BenchError> {
    let (load, processors) = load_average();
    let mut machine = format!("load average {load:.2} on {processors} processors at the start");
    if own_floor(&config.rune).is_none() {
        machine.push_str(
            "; the floors run inside the rune binary: their start and memory are not those of a \
             bare server (build rune-floor beside it)",
        );
    }
    let mut report = Report {
        machine,
        rows: Vec::new(),
    };
    progress("disk");
    disk(config, &mut report).await?;
    for part in &config.parts {
        match part {
            Part::Throughput => throughput(config, &mut report, progress).await?,
            Part::Latency => {
                progress("added latency and first token");
                latency(config, &mut report).await?;
            }
            Part::Starts => {
                progress("starts");
                starts(config, &mut report).await?;
            }
            Part::Memory => {
                progress("memory");
                memory(config, &mut report).await?;
            }
            Part::Parked => {
                progress("parked requests");
                parked(config, &mut report).await?;
            }
            Part::Cold => {
                progress("cold starts");
                cold(config, &mut report).await?;
            }
            Part::Cluster => cluster(config, &mut report, progress).await?,
            Part::Failover => failover(config, &mut report, progress).await?,
        }
    }
    Ok(report)
}

/// Raw sync and one SQLite commit, one after the other without a pause.
async fn disk(config: &BenchConfig, report: &mut Report) -> Result<(), BenchError> {
    let dir = temp(&config.dir)?;
    report.figure(
        "fdatasync of a small append, p50",
        fdatasync_us(dir.path())?,
        "us",
        "",
    );
    let writer = GroupCommit::start(&dir.path().join("floor.db"))?;
    let mut times = Vec::new();
    for _ in 0..200 {
        let started = std::time::Instant::now();
        writer.commit().await;
        times.push(started.elapsed().as_secs_f64() * 1e6);
    }
    report.figure(
        "bare SQLite, one full-fsync commit of the rows, p50",
        median(&times),
        "us",
        "",
    );
    Ok(())
}

/// Durable invokes per second against bare axum, and bare axum with a group commit of
/// the same rows, in turns.
async fn throughput(
    config: &BenchConfig,
    report: &mut Report,
    progress: &mut (dyn FnMut(&str) + Send),
) -> Result<(), BenchError> {
    for &clients in &config.clients {
        let mut figures = Figures::default();
        let mut acknowledged = 0;
        for round in 1..=config.rounds {
            progress(&format!("throughput, {clients} clients, round {round}"));
            let dir = temp(&config.dir)?;
            let axum = Server::floor(&config.rune, &["axum"]).await?;
            let outcome = floor_load(&axum.base).run(clients, config.duration).await?;
            figures.axum.push(outcome.per_second);
            drop(axum);

            let database = dir.path().join("floor.db");
            let database = database.display().to_string();
            let sqlite = Server::floor(&config.rune, &["axum-sqlite", &database]).await?;
            let outcome = floor_load(&sqlite.base)
                .run(clients, config.duration)
                .await?;
            figures.sqlite.push(outcome.per_second);
            figures.sqlite_p50.push(percentile(&outcome.total_us, 50));
            drop(sqlite);

            let data_dir = dir.path().join("rune");
            let daemon = Daemon::start(&config.rune, &data_dir, &[]).await?;
            deploy(&config.rune, &daemon, &agent(dir.path(), OFFLINE_AGENT)?)?;
            let plain = invoke_load(&daemon, PING)
                .run(clients, config.duration)
                .await?;
            figures.plain.push(plain.per_second);
            figures.plain_p50.push(percentile(&plain.total_us, 50));
            figures.plain_p99.push(percentile(&plain.total_us, 99));
            let stream = invoke_load(&daemon, PING_STREAM)
                .run(clients, config.duration)
                .await?;
            figures.stream.push(stream.per_second);
            acknowledged += check_after_kill(daemon, &[plain, stream]).await?;
        }
        figures.report(report, clients, acknowledged);
    }
    Ok(())
}

#[derive(Default)]
struct Figures {
    axum: Vec<f64>,
    sqlite: Vec<f64>,
    sqlite_p50: Vec<f64>,
    plain: Vec<f64>,
    plain_p50: Vec<f64>,
    plain_p99: Vec<f64>,
    stream: Vec<f64>,
}

impl Figures {
    fn report(&self, report: &mut Report, clients: usize, acknowledged: usize) {
        let pair = |rune: &[f64], floor: &[f64]| (median(rune), median(floor));
        let goal = if clients == 64 {
            ">= 0.35 (stretch 0.6)"
        } else {
            ""
        };
        let name = |what: &str| format!("{clients} clients: {what}");
        report.compare(
            name("durable invokes/s, JSON, over axum + commit"),
            pair(&self.plain, &self.sqlite),
            "1/s",
            goal,
        );
        report.compare(
            name("durable invokes/s, SSE, over axum + commit"),
            pair(&self.stream, &self.sqlite),
            "1/s",
            "",
        );
        report.compare(
            name("durable invokes/s, JSON, over bare axum"),
            pair(&self.plain, &self.axum),
            "1/s",
            "",
        );
        report.compare(
            name("latency p50 over axum + commit"),
            pair(&self.plain_p50, &self.sqlite_p50),
            "us",
            "",
        );
        report.figure(name("latency p99"), median(&self.plain_p99), "us", "");
        report.figure(
            name("acknowledged, all found after kill -9"),
            acknowledged as f64,
            "",
            "",
        );
    }
}

/// Latency that Rune adds to a model, against what a bare proxy adds that commits once. The
/// commit of the floor is made where Rune's is: on the way of an answer, after the pause in
/// which the model was waited for. One made in a loop is another figure: processor and disk
/// are warm then, and the log only grows.
async fn latency(config: &BenchConfig, report: &mut Report) -> Result<(), BenchError> {
    let dir = temp(&config.dir)?;
    let millis = MODEL_LATENCY.as_millis().to_string();
    let model = Server::floor(&config.rune, &["model", &millis]).await?;
    let upstream = format!("{}/v1/chat/completions", model.base);
    let proxy = Server::floor(&config.rune, &["proxy", &upstream]).await?;
    let database = dir.path().join("floor.db").display().to_string();
    let committing = Server::floor(&config.rune, &["proxy-sqlite", &upstream, &database]).await?;
    let daemon = Daemon::start(
        &config.rune,
        &dir.path().join("rune"),
        &[("MODEL_URL", model.base.clone())],
    )
    .await?;
    deploy(&config.rune, &daemon, &agent(dir.path(), MODEL_AGENT)?)?;

    let load = |base: &str, path: &str, body: &'static str, contains| Load {
        base: base.to_owned(),
        path: path.to_owned(),
        body: Bytes::from_static(body.as_bytes()),
        status: 200,
        first: if body == PING { "" } else { "po" },
        contains,
        keep_ids: false,
    };
    let direct = load(&model.base, "/v1/chat/completions", PING_STREAM, "[DONE]");
    let proxied = load(&proxy.base, "/invoke", PING_STREAM, "[DONE]");
    let committed = load(&committing.base, "/invoke", PING, "completed");
    let plain = load(
        &daemon.gateway,
        "/v1/agents/bench/invoke",
        PING,
        "completed",
    );
    let stream = load(
        &daemon.gateway,
        "/v1/agents/bench/invoke",
        PING_STREAM,
        "event: done",
    );
    // Everything is asked once before it counts.
    for load in [&direct, &proxied, &committed, &plain, &stream] {
        load.run(1, Duration::from_millis(200)).await?;
    }
    let (mut added, mut added_floor) = (Vec::new(), Vec::new());
    let (mut first, mut first_proxy) = (Vec::new(), Vec::new());
    for _ in 0..config.rounds {
        let direct = direct.run(1, config.duration).await?;
        let proxied = proxied.run(1, config.duration).await?;
        let committed = committed.run(1, config.duration).await?;
        let plain = plain.run(1, config.duration).await?;
        let stream = stream.run(1, config.duration).await?;
        let p50 = |outcome: &Outcome| percentile(&outcome.total_us, 50);
        added.push(p50(&plain) - p50(&direct));
        added_floor.push(p50(&committed) - p50(&direct));
        first.push(percentile(&stream.first_us, 50));
        first_proxy.push(percentile(&proxied.first_us, 50));
    }
    report.compare(
        "added latency p50, 1 client, over proxy + one commit",
        (median(&added), median(&added_floor)),
        "us",
        "<= 2",
    );
    report.compare(
        "first token p50, 1 client, over bare proxy",
        (median(&first), median(&first_proxy)),
        "us",
        "<= 1.2",
    );
    Ok(())
}

/// From the start of the process to the first good answer, in turns.
async fn starts(config: &BenchConfig, report: &mut Report) -> Result<(), BenchError> {
    let (mut axum, mut fresh, mut warm) = (Vec::new(), Vec::new(), Vec::new());
    let kept = temp(&config.dir)?;
    let kept_data = kept.path().join("rune");
    let daemon = Daemon::start(&config.rune, &kept_data, &[]).await?;
    deploy(&config.rune, &daemon, &agent(kept.path(), OFFLINE_AGENT)?)?;
    drop(daemon);
    for _ in 0..config.starts {
        let millis = |duration: Duration| duration.as_secs_f64() * 1e3;
        axum.push(millis(
            Server::floor(&config.rune, &["axum"]).await?.ready_after,
        ));
        warm.push(millis(
            Daemon::start(&config.rune, &kept_data, &[])
                .await?
                .ready_after,
        ));
        let dir = temp(&config.dir)?;
        let data = dir.path().join("rune");
        fresh.push(millis(
            Daemon::start(&config.rune, &data, &[]).await?.ready_after,
        ));
    }
    let floor = median(&axum);
    report.compare(
        "start to ready, warm, one agent",
        (median(&warm), floor),
        "ms",
        "<= 2",
    );
    report.compare(
        "start to ready, fresh data directory",
        (median(&fresh), floor),
        "ms",
        "<= 3",
    );
    Ok(())
}

/// Idle memory, and what idle sessions add to it.
async fn memory(config: &BenchConfig, report: &mut Report) -> Result<(), BenchError> {
    let dir = temp(&config.dir)?;
    let axum = Server::floor(&config.rune, &["axum"]).await?;
    let daemon = Daemon::start(&config.rune, &dir.path().join("rune"), &[]).await?;
    deploy(&config.rune, &daemon, &agent(dir.path(), OFFLINE_AGENT)?)?;
    tokio::time::sleep(SETTLE).await;
    let (rune, floor) = (rss_kib(daemon.pid())?, rss_kib(axum.pid())?);
    report.compare(
        "idle RSS, one agent, over bare axum",
        (rune, floor),
        "KiB",
        "<= 4",
    );

    // The same load once before: it fills caches of a fixed size, which are not the sessions'.
    talk(&daemon, "warm", config.sessions).await?;
    tokio::time::sleep(SETTLE).await;
    let before = rss_kib(daemon.pid())?;
    talk(&daemon, "idle", config.sessions).await?;
    tokio::time::sleep(SETTLE).await;
    let added = rss_kib(daemon.pid())? - before;
    report.figure(
        format!("RSS added by {} idle sessions", config.sessions),
        added,
        "KiB",
        "<= 1024 for 10 000",
    );
    Ok(())
}

/// One message in each of `count` sessions.
async fn talk(daemon: &Daemon, prefix: &str, count: usize) -> Result<(), BenchError> {
    let mut connection = Connection::open(&daemon.gateway).await?;
    for index in 0..count {
        let body = json!({ "input": "ping", "session_id": format!("{prefix}-{index}") });
        let body = Bytes::from(body.to_string());
        connection
            .expect(Method::POST, "/v1/agents/bench/invoke", body, 200)
            .await?;
    }
    Ok(())
}

fn floor_load(base: &str) -> Load {
    Load {
        base: base.to_owned(),
        path: "/invoke".to_owned(),
        body: Bytes::from_static(PING.as_bytes()),
        status: 200,
        first: "",
        contains: "completed",
        keep_ids: false,
    }
}

pub(crate) fn invoke_load(daemon: &Daemon, body: &'static str) -> Load {
    Load {
        base: daemon.gateway.clone(),
        path: "/v1/agents/bench/invoke".to_owned(),
        body: Bytes::from_static(body.as_bytes()),
        status: 200,
        first: "",
        contains: "completed",
        keep_ids: true,
    }
}

/// Kills the daemon, starts it again and looks for every acknowledged request.
async fn check_after_kill(daemon: Daemon, outcomes: &[Outcome]) -> Result<usize, BenchError> {
    let daemon = daemon.kill_and_restart().await?;
    let mut connection = Connection::open(&daemon.gateway).await?;
    let mut found = std::collections::HashSet::new();
    let mut cursor = String::new();
    loop {
        let path = format!("/v1/requests?status=completed&limit=1000{cursor}");
        let page = connection
            .expect(Method::GET, &path, Bytes::new(), 200)
            .await?;
        let page: Value = serde_json::from_slice(&page)
            .map_err(|error| BenchError::request(&daemon.gateway, &error))?;
        for row in page["items"]
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default()
        {
            found.extend(row["id"].as_str().map(str::to_owned));
        }
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    let ids = || outcomes.iter().flat_map(|outcome| &outcome.request_ids);
    let acknowledged = outcomes.iter().map(|outcome| outcome.total_us.len()).sum();
    let lost = acknowledged - ids().filter(|id| found.contains(*id)).count();
    if lost > 0 {
        Err(BenchError::Lost { lost, acknowledged })
    } else {
        Ok(acknowledged)
    }
}

/// An agent that answers at once, without a model.
pub(crate) const OFFLINE_AGENT: &str = "name: bench\nversion: 0.1.0\ninstructions: Answer.\n\
     default_model: offline\nruntime: { concurrency_limit: 1000 }\nmodels: { providers: [offline] }\n";
/// An agent in front of the model with a fixed latency.
const MODEL_AGENT: &str = "name: bench\nversion: 0.1.0\ninstructions: Answer.\n\
     default_model: m\nruntime: { concurrency_limit: 1000 }\nmodels:\n  providers: [bench]\n  \
     endpoints: { bench: { protocol: openai, base_url: \"${MODEL_URL}/v1\", api_key: none } }\n";

pub(crate) fn agent(dir: &Path, runefile: &str) -> Result<PathBuf, BenchError> {
    let agent = dir.join("agent");
    std::fs::create_dir_all(&agent).map_err(BenchError::io("create the agent"))?;
    std::fs::write(agent.join("Runefile"), runefile).map_err(BenchError::io("write the agent"))?;
    Ok(agent)
}

pub(crate) fn deploy(rune: &Path, daemon: &Daemon, agent: &Path) -> Result<(), BenchError> {
    let output = std::process::Command::new(rune)
        .args([
            "--gateway",
            &daemon.gateway,
            "--control-plane",
            &daemon.control_plane,
            "run",
        ])
        .arg(agent)
        .output()
        .map_err(BenchError::io("run `rune run`"))?;
    if output.status.success() {
        return Ok(());
    }
    let reason = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(BenchError::Start {
        what: "the agent of the benchmark".to_owned(),
        reason,
    })
}

pub(crate) fn temp(dir: &Path) -> Result<tempfile::TempDir, BenchError> {
    tempfile::Builder::new()
        .prefix("rune-bench-")
        .tempdir_in(dir)
        .map_err(BenchError::io("create a directory"))
}
