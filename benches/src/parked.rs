//! What requests cost that wait for a person.

use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::Method;
use serde_json::Value;
use tokio::task::JoinSet;

use crate::client::Connection;
use crate::daemon::Daemon;
use crate::error::BenchError;
use crate::measure::rss_kib;
use crate::report::Report;
use crate::suite::{BenchConfig, SETTLE, agent, deploy, temp};

/// Clients that park requests.
const CLIENTS: usize = 16;
/// Parked requests that are answered afterwards.
const SAMPLE: usize = 100;
/// Longest the sample may take to complete.
const PATIENCE: Duration = Duration::from_secs(60);
const PING: &[u8] = br#"{"input":"ping"}"#;
const APPROVE: &[u8] = br#"{"decision":"approve"}"#;

/// An agent whose only tool a person has to approve.
const AGENT: &str = "name: bench\nversion: 0.1.0\ninstructions: Answer.\ndefault_model: offline\n\
     toolset: [rune@system-time]\npolicy: { ask: [rune@system-time] }\n\
     runtime: { concurrency_limit: 1000 }\nmodels: { providers: [offline] }\n";
const SCRIPT: &str = "rules:\n  - match: { step: 1 }\n    tool_calls: [{ name: rune__system-time, input: {} }]\n  \
     - respond: done\n";

/// Memory that parked requests add, now and after a restart, and whether they go on.
pub(crate) async fn parked(config: &BenchConfig, report: &mut Report) -> Result<(), BenchError> {
    let count = config.parked;
    let dir = temp(&config.dir)?;
    let package = agent(dir.path(), AGENT)?;
    std::fs::write(package.join("script.yaml"), SCRIPT)
        .map_err(BenchError::io("write the script"))?;
    let data_dir = dir.path().join("rune");
    let daemon = Daemon::start(&config.rune, &data_dir, &[]).await?;
    deploy(&config.rune, &daemon, &package)?;
    // What a daemon with this agent has after a start, and what caches of a fixed size take.
    let daemon = daemon.kill_and_restart().await?;
    tokio::time::sleep(SETTLE).await;
    let idle = rss_kib(daemon.pid())?;
    park(&daemon, count).await?;
    tokio::time::sleep(SETTLE).await;
    let (before, tasks) = (rss_kib(daemon.pid())?, gauge(&daemon, "rune_tasks").await?);
    park(&daemon, count).await?;
    tokio::time::sleep(SETTLE).await;
    report.figure(
        format!("RSS added by {count} parked requests"),
        rss_kib(daemon.pid())? - before,
        "KiB",
        "<= 1024 for 10 000",
    );
    report.figure(
        format!("tasks added by {count} parked requests"),
        gauge(&daemon, "rune_tasks").await? - tasks,
        "",
        "0",
    );
    report.figure(
        format!("requests that run while {} are parked", 2 * count),
        gauge(&daemon, "rune_requests_active").await?,
        "",
        "0",
    );
    let daemon = daemon.kill_and_restart().await?;
    tokio::time::sleep(SETTLE).await;
    report.figure(
        format!("RSS after a restart with {} parked, over none", 2 * count),
        rss_kib(daemon.pid())? - idle,
        "KiB",
        "<= 1024",
    );
    let waiting = waiting(&daemon).await?;
    if waiting.len() != 2 * count {
        let lost = (2 * count).saturating_sub(waiting.len());
        return Err(BenchError::Lost {
            lost,
            acknowledged: 2 * count,
        });
    }
    report.figure(
        "parked requests approved after kill -9, completed",
        decide(&daemon, &waiting).await? as f64,
        "",
        &format!("{}", SAMPLE.min(waiting.len())),
    );
    Ok(())
}

/// Makes `count` requests that wait for a person.
async fn park(daemon: &Daemon, count: usize) -> Result<(), BenchError> {
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let mut connection = Connection::open(&daemon.gateway).await?;
        let own = count / CLIENTS + usize::from(client < count % CLIENTS);
        clients.spawn(async move {
            for _ in 0..own {
                let path = "/v1/agents/bench/invoke";
                let body = Bytes::from_static(PING);
                connection.expect(Method::POST, path, body, 202).await?;
            }
            Ok::<_, BenchError>(())
        });
    }
    while let Some(joined) = clients.join_next().await {
        joined.map_err(|error| BenchError::request(&daemon.gateway, &error))??;
    }
    Ok(())
}

/// Request and approval of everything that waits, oldest first.
async fn waiting(daemon: &Daemon) -> Result<Vec<(String, String)>, BenchError> {
    let mut connection = Connection::open(&daemon.gateway).await?;
    let mut waiting = Vec::new();
    let mut cursor = String::new();
    loop {
        let path = format!("/v1/approvals?state=waiting&limit=1000{cursor}");
        let page = get(daemon, &mut connection, &path).await?;
        let rows = page["items"].as_array().cloned().unwrap_or_default();
        let text = |row: &Value, key: &str| row[key].as_str().unwrap_or_default().to_owned();
        waiting.extend(
            rows.iter()
                .map(|row| (text(row, "request_id"), text(row, "approval_id"))),
        );
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return Ok(waiting),
        }
    }
}

/// Approves a sample and answers how many of it completed.
async fn decide(daemon: &Daemon, waiting: &[(String, String)]) -> Result<usize, BenchError> {
    let mut connection = Connection::open(&daemon.gateway).await?;
    let sample = &waiting[..SAMPLE.min(waiting.len())];
    for (request, approval) in sample {
        let path = format!("/v1/requests/{request}/approvals/{approval}");
        let body = Bytes::from_static(APPROVE);
        connection.expect(Method::POST, &path, body, 200).await?;
    }
    let deadline = Instant::now() + PATIENCE;
    let mut completed = 0;
    for (request, _) in sample {
        loop {
            let path = format!("/v1/requests/{request}");
            let row = get(daemon, &mut connection, &path).await?;
            if row["status"] == "completed" {
                completed += 1;
                break;
            }
            if Instant::now() > deadline {
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    Ok(completed)
}

async fn get(
    daemon: &Daemon,
    connection: &mut Connection,
    path: &str,
) -> Result<Value, BenchError> {
    let body = connection
        .expect(Method::GET, path, Bytes::new(), 200)
        .await?;
    serde_json::from_slice(&body).map_err(|error| BenchError::request(&daemon.gateway, &error))
}

/// A metric without labels.
async fn gauge(daemon: &Daemon, name: &str) -> Result<f64, BenchError> {
    let mut connection = Connection::open(&daemon.gateway).await?;
    let body = connection
        .expect(Method::GET, "/metrics", Bytes::new(), 200)
        .await?;
    let text = String::from_utf8_lossy(&body);
    let value = text.lines().find_map(|line| {
        let value = line.strip_prefix(name)?.strip_prefix(' ')?;
        value.parse().ok()
    });
    value.ok_or_else(|| {
        let reason = format!("/metrics has no `{name}`");
        BenchError::request(&daemon.gateway, &reason)
    })
}
