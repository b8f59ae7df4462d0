//! Who asks while things happen.

use std::collections::BTreeSet;
use std::time::Duration;

use fastrand::Rng;
use reqwest::{Method, StatusCode, header};
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::agent::NAME;
use super::history::{Operation, Work};
use crate::client::{Api, Client, Follow, part};
use crate::failure::Outcome;

/// Pause of a client between two requests, and before it asks again.
const PAUSE: Duration = Duration::from_millis(20);
/// How long an answer is waited for; a node that stands still answers when it goes on.
const LIMIT: Duration = Duration::from_secs(60);

/// One client. It asks a node as long as that answers, and then the next one.
pub(super) struct Asking {
    name: String,
    nodes: Vec<Client>,
    /// The node that it asks.
    at: usize,
    rng: Rng,
    began: Instant,
}

/// How the answer is waited for.
#[derive(Debug, Clone, Copy)]
enum Mode {
    /// In one piece.
    Whole,
    /// As a stream of events of the node that was asked.
    Stream,
    /// In the background; the events are followed at another node.
    Elsewhere,
}

impl Asking {
    pub(super) fn new(number: usize, nodes: Vec<Client>, rng: Rng, began: Instant) -> Self {
        Self {
            name: format!("client-{number}"),
            at: number % nodes.len(),
            nodes,
            rng,
            began,
        }
    }

    /// Asks one thing after the other until that is to stop, and then for the last one until it has its answer or is to give
    /// up.
    pub(super) async fn run(
        mut self,
        stop: CancellationToken,
        give_up: CancellationToken,
    ) -> Vec<Operation> {
        let mut operations = Vec::new();
        while !stop.is_cancelled() {
            let work = match self.rng.u8(..4) {
                0 => Work::Again,
                1 => Work::Once,
                _ => Work::Plain,
            };
            let key = format!("{}-{}", self.name, operations.len());
            let mut operation = Operation::new(key, work);
            let asked = self.ask(&mut operation);
            operation.is_done = give_up.run_until_cancelled(asked).await.is_some();
            operations.push(operation);
            tokio::time::sleep(PAUSE).await;
        }
        operations
    }

    /// Asks until there is an answer, under one key.
    async fn ask(&mut self, operation: &mut Operation) {
        let mode = match self.rng.u8(..4) {
            0 => Mode::Stream,
            1 => Mode::Elsewhere,
            _ => Mode::Whole,
        };
        loop {
            let is_answered = match mode {
                Mode::Whole => self.whole(operation).await,
                Mode::Stream => self.stream(operation).await,
                Mode::Elsewhere => self.elsewhere(operation).await,
            };
            if is_answered {
                break;
            }
            tokio::time::sleep(PAUSE).await;
        }
        if self.rng.u8(..4) == 0 {
            self.read(operation).await;
        }
    }

    async fn whole(&mut self, operation: &mut Operation) -> bool {
        let Some(body) = self.json(operation, json!({})).await else {
            return false;
        };
        operation.outputs.push(body["output"].clone());
        true
    }

    async fn stream(&mut self, operation: &mut Operation) -> bool {
        let Some(response) = self.post(operation, json!({"stream": true})).await else {
            return false;
        };
        let client = self.nodes[self.at].clone();
        self.follow(operation, Follow::response(client, response))
            .await
    }

    async fn elsewhere(&mut self, operation: &mut Operation) -> bool {
        let body = self.json(operation, json!({"background": true})).await;
        let Some(id) = body.and_then(|body| Some(body["request_id"].as_str()?.to_owned())) else {
            return false;
        };
        self.go_on();
        let client = self.nodes[self.at].clone();
        self.follow(operation, Follow::request(client, Some(id), 0))
            .await
    }

    /// Follows a request to its end; where that cannot be it is asked for anew.
    async fn follow(&mut self, operation: &mut Operation, follow: Follow) -> bool {
        let Ok((events, output)) = entries(follow, &mut operation.ids).await else {
            operation.broken += 1;
            self.go_on();
            return false;
        };
        operation.events = Some(events);
        operation.outputs.extend(output);
        true
    }

    /// Asks, and says what was answered.
    async fn json(&mut self, operation: &mut Operation, how: Value) -> Option<Value> {
        let response = self.post(operation, how).await?;
        let Ok(body) = response.json::<Value>().await else {
            operation.broken += 1;
            self.go_on();
            return None;
        };
        let id = body["request_id"].as_str();
        operation.ids.extend(id.map(str::to_owned));
        Some(body)
    }

    /// Asks, and answers nothing where that is to be done again.
    async fn post(&mut self, operation: &mut Operation, how: Value) -> Option<reqwest::Response> {
        let mut body = how;
        body["input"] = operation.input().into();
        let (path, asked) = (format!("/v1/agents/{NAME}/invoke"), self.began.elapsed());
        let request = self.nodes[self.at]
            .request(Api::Gateway, Method::POST, &path)
            .header("idempotency-key", &operation.key)
            .timeout(LIMIT)
            .json(&body);
        let Ok(response) = request.send().await else {
            operation.broken += 1;
            self.go_on();
            return None;
        };
        let status = response.status();
        let says_when = response.headers().contains_key(header::RETRY_AFTER);
        match status {
            StatusCode::OK | StatusCode::ACCEPTED => {
                let accepted = (asked, self.began.elapsed());
                operation.accepted.get_or_insert(accepted);
                return Some(response);
            }
            StatusCode::SERVICE_UNAVAILABLE if says_when => operation.refused += 1,
            _ => {
                let text = response.text().await.unwrap_or_default();
                operation.strange.push(format!("{status} {text}"));
            }
        }
        None
    }

    /// Reads, as the newest state, at some node, what was accepted.
    async fn read(&mut self, operation: &mut Operation) {
        let Some(id) = operation.ids.first() else {
            return;
        };
        let path = format!("/v1/requests/{}?consistency=linearizable", part(id));
        let at = self.rng.usize(..self.nodes.len());
        let request = self.nodes[at].request(Api::Gateway, Method::GET, &path);
        let read = request.timeout(LIMIT).send().await;
        if read.is_ok_and(|read| read.status() == StatusCode::NOT_FOUND) {
            operation.unseen += 1;
        }
    }

    fn go_on(&mut self) {
        self.at = (self.at + 1) % self.nodes.len();
    }
}

/// The entries of a journal that a client is sent, to the end of the request, and what the last one says is the answer.
pub(super) async fn entries(
    mut follow: Follow,
    ids: &mut BTreeSet<String>,
) -> Outcome<(Vec<u64>, Option<Value>)> {
    let (mut entries, mut output) = (Vec::new(), None);
    while let Some(event) = follow.next().await? {
        ids.extend(follow.request_id().map(str::to_owned));
        entries.extend(event.seq);
        if event.name == "done" {
            output = Some(event.data["output"].clone());
        }
    }
    Ok((entries, output))
}
