//! Kills the daemon under load, over and over, on one data directory.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use rune_testkit::{ModelScript, ModelServer, Reply, ToolCall};
use serde_json::{Value, json};

use crate::home::{RUNE, Served};
use crate::wire::{
    Api, Events, LIMIT, POLL, PROTOCOLS, Seeded, Tool, answer, assert_no_panic, assert_sound,
    deploy, lines_of, spawn,
};

const ROUNDS: u64 = 20;
const REQUESTS: u64 = 200;
/// Sessions that requests of all rounds share.
const SESSIONS: u64 = 40;
/// Latest moment of a kill after the first request was sent, in milliseconds.
const LATEST_KILL: u64 = 900;
const SEED: u64 = 0x5eed_2026;

/// What a client knows about its request.
struct Told {
    request: Sent,
    id: Option<String>,
    output: Option<Value>,
}

/// What a client sent.
#[derive(Clone)]
struct Sent {
    agent: &'static str,
    input: String,
    session: Option<String>,
    mode: u64,
    key: Option<String>,
}

impl Sent {
    fn new(round: u64, n: u64, seeded: &mut Seeded) -> Self {
        let (_, agent) = PROTOCOLS[usize::try_from(n % 3).unwrap()];
        let kind = ["plain", "once", "again", "slow"][usize::try_from(seeded.below(4)).unwrap()];
        let session = (seeded.below(2) == 0).then(|| format!("{agent}-{}", seeded.below(SESSIONS)));
        let mode = seeded.below(3);
        Self {
            agent,
            input: format!("{kind} r{round}-{n}"),
            session,
            mode,
            key: (mode == 0 && n.is_multiple_of(2)).then(|| format!("key-{round}-{n}")),
        }
    }

    fn body(&self) -> Value {
        let mut body = json!({"input": self.input});
        if let Some(session) = &self.session {
            body["session_id"] = json!(session);
        }
        match self.mode {
            0 => {}
            1 => body["stream"] = json!(true),
            _ => body["background"] = json!(true),
        }
        body
    }

    fn request(&self, api: &Api) -> reqwest::RequestBuilder {
        let request = api.invoke(self.agent, &self.body());
        match &self.key {
            Some(key) => request.header("idempotency-key", key),
            None => request,
        }
    }

    /// Sends it and listens as long as the daemon talks.
    async fn send(self, api: Api) -> Told {
        let request = self.request(&api);
        let mut told = Told {
            request: self,
            id: None,
            output: None,
        };
        if told.request.mode == 1 {
            let Ok(response) = request.send().await else {
                return told;
            };
            let mut events = Events::of(response);
            while let Some(event) = events.next().await {
                match event.name.as_str() {
                    "accepted" => told.id = Some(text(&event.data["request_id"])),
                    "done" => told.output = Some(event.data["output"].clone()),
                    "error" => assert!(event.data["code"] == "unavailable", "{event:?}"),
                    _ => {}
                }
            }
        } else if let Ok((status, body)) = answer(request).await {
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

/// Each tool leaves a line with its request and its key.
const TOOLS: [Tool<'static>; 2] = [
    Tool {
        name: "once",
        script: "echo \"$RUNE_REQUEST_ID $RUNE_IDEMPOTENCY_KEY\" >> once.log\necho '{}'\n",
        yaml: "",
    },
    Tool {
        name: "again",
        script: "echo \"$RUNE_REQUEST_ID $RUNE_IDEMPOTENCY_KEY\" >> again.log\necho '{}'\n",
        yaml: "idempotent: true\n",
    },
];

#[tokio::test(flavor = "multi_thread")]
async fn crash_loop_loses_no_request_and_repeats_no_effect() {
    let server = ModelServer::start(script()).await.unwrap();
    let builder = rune_testkit::TestDaemon::builder(RUNE).env("RUST_LOG", "warn");
    let mut served = Served(builder.start().await.unwrap());
    for (protocol, name) in PROTOCOLS {
        let extra = "runtime: {concurrency_limit: 100}\n";
        deploy(&served, name, &[(&server, protocol)], &TOOLS, extra);
    }
    let mut seeded = Seeded::new(SEED);
    let mut answered = HashMap::new();
    let (mut ids, mut resumed, mut kills) = (0, 0, 0);
    for round in 0..ROUNDS {
        let api = Api::of(&served.0);
        let clients: Vec<_> = (0..REQUESTS)
            .map(|n| spawn(Sent::new(round, n, &mut seeded).send(api.clone())))
            .collect();
        tokio::time::sleep(Duration::from_millis(seeded.below(LATEST_KILL))).await;
        served.0.kill9().unwrap();
        let mut told = Vec::new();
        for client in clients {
            told.push(client.await.unwrap());
        }
        assert_sound(&served);
        kills += 1;
        served.0.restart().await.unwrap();
        if seeded.below(4) == 0 {
            // While it takes the requests up again.
            tokio::time::sleep(Duration::from_millis(seeded.below(200))).await;
            served.0.kill9().unwrap();
            assert_sound(&served);
            kills += 1;
            served.0.restart().await.unwrap();
        }
        let api = Api::of(&served.0);
        settled(&api).await;
        let mut sessions = shared_sessions();
        for told in told {
            resumed += u64::from(told.id.is_some() && told.output.is_none());
            ids += u64::from(told.id.is_some());
            sessions.extend(check(&api, told, &mut answered).await);
        }
        check_effects(&served, &api).await;
        all_usable(&api, sessions).await;
    }
    let api = Api::of(&served.0);
    for (id, output) in &answered {
        assert_eq!(api.request(id).await["output"], *output, "{id}");
    }
    assert_no_panic(&served);
    served.0.terminate().await.unwrap();
    assert_sound(&served);
    let effects: usize = PROTOCOLS
        .iter()
        .map(|(_, agent)| lines_of(&served, agent, "once.log").len())
        .sum();
    println!(
        "{kills} kills, {ids} request ids answered, {} outputs answered, {resumed} finished after the kill, \
         {effects} effects, none twice",
        answered.len()
    );
    assert!(resumed > 0, "no kill hit a request that ran");
}

/// Waits until nothing is unfinished.
async fn settled(api: &Api) {
    let wait = async {
        loop {
            let path = "/v1/requests?status=accepted,running&limit=1";
            let (code, body) = answer(api.get(path)).await.unwrap();
            assert_eq!(code, 200, "{body}");
            if body["items"].as_array().unwrap().is_empty() {
                break;
            }
            tokio::time::sleep(POLL).await;
        }
    };
    tokio::time::timeout(LIMIT, wait).await.unwrap();
}

/// An agent and one of its sessions.
type Session = (&'static str, String);

/// The sessions that requests of all rounds share.
fn shared_sessions() -> HashSet<Session> {
    let of_agent = |agent| (0..SESSIONS).map(move |n| (agent, format!("{agent}-{n}")));
    PROTOCOLS
        .into_iter()
        .flat_map(|(_, agent)| of_agent(agent))
        .collect()
}

/// What a client was told is so, and a client that was told nothing may ask again under its key. Answers the session
/// of the request, where it is known.
async fn check(api: &Api, told: Told, answered: &mut HashMap<String, Value>) -> Option<Session> {
    let mut session = None;
    let echo = json!(format!("Echo: {}", told.request.input));
    if let Some(id) = &told.id {
        let row = api.request(id).await;
        assert_eq!(row["status"], "completed", "{row}");
        assert_eq!(row["input"], told.request.input, "{row}");
        assert_eq!(row["output"], echo, "{row}");
        if let Some(session) = &told.request.session {
            assert_eq!(row["session_id"], *session, "{row}");
        }
        session = Some((told.request.agent, text(&row["session_id"])));
        if let Some(output) = told.output {
            assert_eq!(row["output"], output, "{row}");
            answered.insert(id.clone(), output);
        }
    }
    if told.request.key.is_some() {
        let (status, body) = answer(told.request.request(api)).await.unwrap();
        assert_eq!((status, &body["output"]), (200, &echo), "{body}");
        if let Some(id) = told.id {
            assert_eq!(body["request_id"], *id);
        }
    }
    session
}

/// No call had its effect twice, unless it may, under one key; what the journal says happened did happen.
async fn check_effects(served: &Served, api: &Api) {
    for (_, agent) in PROTOCOLS {
        let mut seen = HashSet::new();
        for line in lines_of(served, agent, "once.log") {
            let (request, _) = line.split_once(' ').unwrap();
            assert!(seen.insert(request.to_owned()), "twice: {line}");
        }
        let mut keys = HashMap::new();
        for line in lines_of(served, agent, "again.log") {
            let (request, key) = line.split_once(' ').unwrap();
            let first = keys
                .entry(request.to_owned())
                .or_insert_with(|| key.to_owned());
            assert_eq!(first, key, "another key: {line}");
        }
        let path = format!("/v1/requests?agent={agent}&limit=200");
        let (_, page) = answer(api.get(&path)).await.unwrap();
        for row in page["items"].as_array().unwrap() {
            let id = text(&row["id"]);
            let detail = api.request(&id).await;
            let input = text(&detail["input"]);
            let calls = detail["tools"].as_array().unwrap();
            let succeeded = calls.iter().any(|call| call["state"] == "succeeded");
            if input.starts_with("once") && succeeded {
                assert!(seen.contains(&id), "{detail}");
            } else if input.starts_with("again") {
                assert!(keys.contains_key(&id), "{detail}");
            }
        }
    }
}

/// Every session takes the next request.
async fn all_usable(api: &Api, sessions: HashSet<Session>) {
    let asked: Vec<_> = sessions
        .into_iter()
        .map(|(agent, session)| {
            let api = api.clone();
            spawn(async move { usable(&api, agent, &session).await })
        })
        .collect();
    for asked in asked {
        asked.await.unwrap();
    }
}

/// A session takes the next request; the model server refuses a history that its vendor would refuse.
async fn usable(api: &Api, agent: &str, session: &str) {
    let body = json!({"input": "still there?", "session_id": session});
    let (status, body) = api.ask(agent, &body).await;
    assert_eq!(status, 200, "{session}: {body}");
    assert_eq!(body["output"], "Echo: still there?");
}
