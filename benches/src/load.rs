//! Closed-loop load: every client sends its next request when it has the answer to the
//! one before.

use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::Method;
use tokio::task::JoinSet;

use crate::client::Connection;
use crate::error::BenchError;

/// What to send, and how it is judged.
#[derive(Clone)]
pub(crate) struct Load {
    /// `http://HOST:PORT`.
    pub(crate) base: String,
    pub(crate) path: String,
    pub(crate) body: Bytes,
    pub(crate) status: u16,
    /// The text whose arrival is "first token"; nothing is measured where it is empty.
    pub(crate) first: &'static str,
    /// A text that every good answer contains.
    pub(crate) contains: &'static str,
    /// Whether to keep the `request_id` of every answer.
    pub(crate) keep_ids: bool,
}

/// What a run of a load showed.
#[derive(Default)]
pub(crate) struct Outcome {
    pub(crate) per_second: f64,
    /// Latencies in microseconds, sorted.
    pub(crate) total_us: Vec<u64>,
    /// Times to the first token in microseconds, sorted.
    pub(crate) first_us: Vec<u64>,
    pub(crate) request_ids: Vec<String>,
}

impl Load {
    /// Runs the load with `clients` clients for `duration`.
    pub(crate) async fn run(
        &self,
        clients: usize,
        duration: Duration,
    ) -> Result<Outcome, BenchError> {
        let mut connections = Vec::with_capacity(clients);
        for _ in 0..clients {
            connections.push(Connection::open(&self.base).await?);
        }
        let started = Instant::now();
        let end = started + duration;
        let mut running = JoinSet::new();
        for mut connection in connections {
            let load = self.clone();
            running.spawn(async move {
                let mut outcome = Outcome::default();
                while Instant::now() < end {
                    load.one(&mut connection, &mut outcome).await?;
                }
                Ok::<_, BenchError>(outcome)
            });
        }
        let mut all = Outcome::default();
        while let Some(joined) = running.join_next().await {
            let one = joined.map_err(|error| BenchError::request(&self.base, &error))??;
            all.total_us.extend(one.total_us);
            all.first_us.extend(one.first_us);
            all.request_ids.extend(one.request_ids);
        }
        let elapsed = started.elapsed().as_secs_f64();
        all.per_second = all.total_us.len() as f64 / elapsed;
        all.total_us.sort_unstable();
        all.first_us.sort_unstable();
        Ok(all)
    }

    async fn one(
        &self,
        connection: &mut Connection,
        outcome: &mut Outcome,
    ) -> Result<(), BenchError> {
        let first = self.first;
        let reached = |body: &[u8]| !first.is_empty() && contains(body, first);
        let answer = connection
            .send(Method::POST, &self.path, self.body.clone(), reached)
            .await?;
        if answer.status != self.status || !contains(&answer.body, self.contains) {
            let text: String = String::from_utf8_lossy(&answer.body)
                .chars()
                .take(300)
                .collect();
            let reason = format!("status {}: {text}", answer.status);
            return Err(BenchError::request(&self.base, &reason));
        }
        outcome.total_us.push(micros(answer.total));
        outcome.first_us.extend(answer.first.map(micros));
        if self.keep_ids {
            outcome.request_ids.extend(request_id(&answer.body));
        }
        Ok(())
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn contains(body: &[u8], text: &str) -> bool {
    text.is_empty()
        || body
            .windows(text.len())
            .any(|window| window == text.as_bytes())
}

/// The request id in a JSON answer or an event stream.
fn request_id(body: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(body).ok()?;
    let (_, rest) = text.split_once("\"request_id\":\"")?;
    rest.split_once('"').map(|(id, _)| id.to_owned())
}
