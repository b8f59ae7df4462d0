//! Kills the leader under load, over and over.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use rune_testkit::{ModelScript, ModelServer, Protocol, Reply, ToolCall};
use serde_json::{Value, json};

use super::rig::{Cluster, Effect, assert_effects, quick_effects, settled};
use crate::wire::{Api, Event, Events, POLL, Seeded, assert_no_panic, deploy, spawn};

/// How often the leader is killed, unless `RUNE_TEST_CLUSTER_KILLS` says so.
const KILLS: u64 = 5;
const REQUESTS: u64 = 100;
/// Latest moment of a kill after the first request was sent, in milliseconds.
const LATEST_KILL: u64 = 600;
const SEED: u64 = 0xc1_2026;

fn script() -> ModelScript {
    ModelScript::new()
        .on_text("once")
        .reply(Reply::calls([ToolCall::new("once", json!({}))]))
        .then(Reply::echo())
        .on_text("again")
        .reply(Reply::calls([ToolCall::new("again", json!({}))]))
        .then(Reply::echo())
        .on_text("slow")
        .reply(
            Reply::echo()
                .first_byte_after(Duration::from_millis(300))
                .chunks(4),
        )
        .echo_chunks(4)
}

/// What a client asks for, and how.
#[derive(Clone)]
struct Asked {
    input: String,
    key: String,
    mode: u64,
    /// The node that it asks.
    node: usize,
}

/// What a client was told.
struct Told {
    asked: Asked,
    id: Option<String>,
    output: Option<Value>,
    /// The journal events that it saw, where it followed.
    events: Option<Vec<Event>>,
    /// How often it was told to come back.
    refused: u64,
}

impl Asked {
    fn new(round: u64, n: u64, seeded: &mut Seeded) -> Self {
        let kinds = ["plain", "once", "again", "slow"];
        let kind = kinds[usize::try_from(seeded.below(4)).unwrap()];
        Self {
            input: format!("{kind} r{round}-{n}"),
            key: format!("key-{round}-{n}"),
            mode: seeded.below(3),
            node: usize::try_from(seeded.below(3)).unwrap(),
        }
    }

    /// Asks until it is answered, and says what was; nothing where the node that was asked is gone.
    async fn ask(self, api: Api) -> Told {
        let mut body = json!({"input": self.input});
        match self.mode {
            0 => {}
            1 => body["stream"] = json!(true),
            _ => body["background"] = json!(true),
        }
        let mut told = Told {
            id: None,
            output: None,
            events: None,
            refused: 0,
            asked: self,
        };
        let response = loop {
            let request = api.invoke("agent", &body);
            let request = request.header("idempotency-key", &told.asked.key);
            let Ok(response) = request.send().await else {
                return told;
            };
            if response.status() != 503 {
                break response;
            }
            // It is told to come back, as where elections take long on a machine that is busy.
            assert!(response.headers().contains_key("retry-after"));
            told.refused += 1;
            tokio::time::sleep(POLL).await;
        };
        if told.asked.mode == 1 {
            told.events = Some(Events::of(response).rest().await);
            for event in told.events.iter().flatten() {
                match event.name.as_str() {
                    "accepted" => told.id = Some(text(&event.data["request_id"])),
                    "done" => told.output = Some(event.data["output"].clone()),
                    _ => {}
                }
            }
            return told;
        }
        let status = response.status().as_u16();
        if let Ok(body) = response.json::<Value>().await {
            assert!(matches!(status, 200 | 202), "{status} {body}");
            told.id = Some(text(&body["request_id"]));
            told.output = (status == 200).then(|| body["output"].clone());
        }
        told
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn killing_the_leader_under_load_loses_no_request_and_repeats_no_effect() {
    let kills = kills();
    let server = ModelServer::start(script()).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start_with(3, |node| node.env("RUST_LOG", "warn")).await;
    let tools = quick_effects(dir.path());
    let extra = "runtime: {concurrency_limit: 200}\n";
    deploy(
        &cluster.nodes[0],
        "agent",
        &[(&server, Protocol::Openai)],
        &tools.each_ref().map(Effect::tool),
        extra,
    );
    let mut seeded = Seeded::new(SEED);
    let mut failovers = Vec::new();
    let (mut ids, mut through_others, mut streams, mut refused) = (0, 0, 0, 0);
    let mut answered = HashMap::new();
    for round in 0..kills {
        let leader = cluster.leader().await;
        let apis: Vec<Api> = cluster.nodes.iter().map(|node| Api::of(&node.0)).collect();
        let clients: Vec<_> = (0..REQUESTS)
            .map(|n| {
                let asked = Asked::new(round, n, &mut seeded);
                let api = apis[asked.node].clone();
                spawn(asked.ask(api))
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(seeded.below(LATEST_KILL))).await;
        let probe = &apis[(leader + 1) % 3];
        let killed = Instant::now();
        cluster.nodes[leader].0.kill9().unwrap();
        let asked = Asked {
            input: format!("plain probe-{round}"),
            key: format!("probe-{round}"),
            mode: 2,
            node: (leader + 1) % 3,
        };
        let probed = asked.ask(probe.clone()).await;
        failovers.push(killed.elapsed());
        assert!(probed.id.is_some());

        let mut told = Vec::new();
        for client in clients {
            told.push(client.await.unwrap());
        }
        let api = &apis[(leader + 2) % 3];
        settled(api).await;
        for told in told {
            refused += told.refused;
            let is_through_other = told.asked.node != leader;
            through_others += u64::from(is_through_other);
            // A node that lives answers, whoever leads.
            assert!(
                !is_through_other || told.id.is_some(),
                "{}",
                told.asked.input
            );
            let Some(id) = told.id else { continue };
            ids += 1;
            check(api, &told.asked, &id, told.output.as_ref()).await;
            if let Some(events) = told.events.filter(|_| is_through_other) {
                streams += 1;
                check_stream(api, &id, &events).await;
            }
            answered.insert(id, told.asked.input);
        }
        assert_effects(dir.path());
        cluster.nodes[leader].0.restart().await.unwrap();
        cluster.ready().await;
    }
    // Whoever is asked says the same of all of them.
    for node in &cluster.nodes {
        let api = Api::of(&node.0);
        for (id, input) in &answered {
            assert_eq!(
                api.request(id).await["output"],
                json!(format!("Echo: {input}"))
            );
        }
        assert_no_panic(node);
    }
    failovers.sort();
    let (middle, last) = (failovers.len() / 2, failovers.len() - 1);
    println!(
        "{kills} kills, {ids} request ids answered, {through_others} asked through nodes that stayed, of which {refused} were \
         told to come back, {streams} streams without a gap; from the kill to the next accepted request: median {:?}, longest {:?}",
        failovers[middle], failovers[last]
    );
}

#[expect(
    clippy::disallowed_methods,
    reason = "how long a test takes is for who runs it"
)]
fn kills() -> u64 {
    let given = std::env::var("RUNE_TEST_CLUSTER_KILLS").ok();
    given.map_or(KILLS, |kills| kills.parse().unwrap())
}

async fn check(api: &Api, asked: &Asked, id: &str, output: Option<&Value>) {
    let echo = json!(format!("Echo: {}", asked.input));
    let row = api.request(id).await;
    assert_eq!(row["status"], "completed", "{row}");
    assert_eq!(
        (&row["input"], &row["output"]),
        (&json!(asked.input), &echo),
        "{row}"
    );
    assert!(output.is_none_or(|output| *output == echo), "{output:?}");
}

/// A client that followed saw every entry of the journal that is an event, once and in order, to its end.
async fn check_stream(api: &Api, id: &str, seen: &[Event]) {
    let entries = |events: &[Event]| -> Vec<(u64, String)> {
        let entries = events.iter();
        entries
            .filter_map(|event| Some((event.id?, event.name.clone())))
            .collect()
    };
    let all = api.events(id, 0).await.rest().await;
    assert_eq!(entries(seen), entries(&all), "{id}");
}
