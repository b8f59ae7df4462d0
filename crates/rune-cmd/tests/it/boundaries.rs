//! Kills the daemon at every boundary of a request's journal, exactly there.
//!
//! The model and the tools wait at gates that the test opens one by one. Whenever everything that could go on is held, the
//! journal stands at a boundary: a first run walks through the whole request and notes where it stood. Then, for each place,
//! another request is brought to the same place, the daemon is killed there and started again, and the request is
//! followed to its end.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use rune_storage::{SqliteStore, StorageConfig};
use rune_store_runtime::{EntryBody, RequestReader};
use rune_testkit::{ModelScript, ModelServer, Protocol, Reply, TestDaemon, ToolCall};
use serde_json::{Value, json};
use tokio::net::unix::pipe;

use crate::component::{Guest, LOOP, component};
use crate::home::{RUNE, Served};
use crate::wire::{Api, Event, Events, LIMIT, Tool, assert_no_panic, deploy, lines_of};

const AGENT: &str = "steps";
/// How often the gates are looked at.
const LOOK: Duration = Duration::from_millis(2);
/// No gate may stand open because a tool ran out of time.
const PATIENT: &str = "timeout_ms: 120000\n";
const PATIENT_IDEMPOTENT: &str = "timeout_ms: 120000\nidempotent: true\n";

/// Honours its key: done again, it changes nothing.
const AGAIN: &str = "read _ < again.before\necho \"$RUNE_IDEMPOTENCY_KEY\" >> again.log\n\
                     : > \"again-$RUNE_IDEMPOTENCY_KEY\"\nread _ < again.after\necho '{}'\n";
/// Must not be done twice.
const ONCE: &str = "read _ < once.before\necho \"$RUNE_IDEMPOTENCY_KEY\" >> once.log\nread _ < once.after\necho '{}'\n";
/// As `once`, and takes its time.
const SLOW: &str = "sleep 0.1\nread _ < slow.before\nsleep 0.1\necho \"$RUNE_IDEMPOTENCY_KEY\" >> once.log\n\
                    read _ < slow.after\necho '{}'\n";

const TOOLS: [Tool<'static>; 3] = [
    Tool {
        name: "again",
        script: AGAIN,
        yaml: PATIENT_IDEMPOTENT,
    },
    Tool {
        name: "once",
        script: ONCE,
        yaml: PATIENT,
    },
    Tool {
        name: "slow",
        script: SLOW,
        yaml: PATIENT,
    },
];

/// What a component remembers with.
const STORE: Tool<'static> = Tool {
    name: "rune@memory-store",
    script: "",
    yaml: "",
};
const RECALL: Tool<'static> = Tool {
    name: "rune@memory-recall",
    ..STORE
};

/// A component that decides by itself: the same calls, with questions and what it remembers in between. What it
/// remembers it names by chance and by the time.
fn pipeline() -> String {
    let mut guest = Guest::default();
    let first = guest.calls(&[("again", "{\"n\":1}")]);
    let second = guest.calls(&[("once", "{\"n\":2}"), ("slow", "{\"n\":2}")]);
    let third = guest.calls(&[("again", "{\"n\":3}")]);
    let last = guest.calls(&[("once", "{\"n\":4}")]);
    let (line, one, half) = (
        guest.text("a line"),
        guest.text("1"),
        guest.text("half way"),
    );
    let (more, end) = (guest.text("more"), guest.text("end"));
    guest.run(&format!(
        r"(local $letters i64)
      (call $say (i32.const 0) (i32.const 0) (i32.const 0))
      (if (i32.eqz (call $question (i32.const 1))) (then (return (call $reply))))
      (if (i32.ne (local.get $text_length) (i32.const 2)) (then (return (call $reply))))
      (call $call_all {first} (i32.const 1160))
      (call $log (i32.const 1) {line})
      (call $call_all {second} (i32.const 1160))
      (call $now (i32.const 1240))
      (local.set $letters (i64.add (call $random) (i64.load (i32.const 1240))))
      (i64.store (i32.const 1300) (i64.add (i64.and (local.get $letters) (i64.const 0x0f0f0f0f0f0f0f0f))
        (i64.const 0x6161616161616161)))
      (call $put (i32.const 1300) (i32.const 8) {one} (i32.const 1240))
      (if (i32.load8_u (i32.const 1240)) (then (unreachable)))
      (call $get (i32.const 1300) (i32.const 8) (i32.const 1240))
      (if (i32.ne (i32.load8_u (i32.load (i32.const 1248))) (i32.const 49)) (then (unreachable)))
      (call $log (i32.const 1) {line})
      (call $call_all {third} (i32.const 1160))
      (call $emit {half})
      (call $call_all {last} (i32.const 1160))
      (call $say (i32.const 4) (i32.load (i32.const 1112)) (i32.const 0))
      (call $say (i32.const 2) {more})
      (if (i32.eqz (call $question (i32.const 1))) (then (return (call $reply))))
      (call $say (i32.const 4) (i32.load (i32.const 1112)) (i32.const 0))
      (call $say (i32.const 2) {end})
      (drop (call $question (i32.const 1)))
      (call $reply)"
    ))
}

/// What the model says to it.
fn answers() -> ModelScript {
    ModelScript::new()
        .on_text("go")
        .reply(Reply::text("well"))
        .on_text("more")
        .reply(Reply::text("and"))
        .on_text("end")
        .reply(Reply::text("done"))
}

/// Five model turns.
fn script() -> ModelScript {
    let call = |name: &str, n: u32| ToolCall::new(name, json!({"n": n}));
    ModelScript::new()
        .on_text("go")
        .reply(Reply::calls([call("again", 1)]))
        .then(Reply::calls([call("once", 2), call("slow", 2)]))
        .then(Reply::calls([call("again", 3)]).saying("half way"))
        .then(Reply::calls([call("once", 4)]))
        .then(Reply::text("done"))
}

/// What holds a request up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Gate {
    /// An earlier request of its session.
    Session,
    /// The first byte of the model's answer.
    Model,
    /// The tool has begun and not had its effect.
    Before(&'static str),
    /// The tool has had its effect and not ended.
    After(&'static str),
}

/// A place where everything that could go on is held.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stop {
    held: Vec<Gate>,
    /// The last entry of the journal.
    seq: u64,
}

/// One request and its only client.
struct Run {
    id: String,
    /// What the client was told, over all its connections.
    told: Vec<Event>,
    events: Events,
    /// The gates of tools at which somebody waits; dropping one lets it go on.
    pipes: BTreeMap<Gate, pipe::Sender>,
    /// The tools that have passed their first gate and not the second.
    halfway: BTreeSet<&'static str>,
}

impl Run {
    fn last_id(&self) -> u64 {
        self.told
            .iter()
            .filter_map(|event| event.id)
            .max()
            .unwrap_or(0)
    }

    fn has_ended(&self) -> bool {
        self.told.last().is_some_and(Event::is_last)
    }

    /// Calls that were announced and have not ended.
    fn open_calls(&self) -> usize {
        let named = |name: &str| self.told.iter().filter(|event| event.name == name).count();
        named("tool_start") - named("tool_done")
    }

    /// Whether somebody may come to a gate who has not come yet. Who has just passed one may
    /// still have it open.
    fn awaits(&self, gate: Gate) -> bool {
        let is_next = match gate {
            Gate::Before(tool) => !self.halfway.contains(tool),
            Gate::After(tool) => self.halfway.contains(tool),
            Gate::Session | Gate::Model => false,
        };
        is_next && !self.pipes.contains_key(&gate)
    }

    /// Reads on until the entry `seq` was delivered.
    async fn read_to(&mut self, seq: u64) {
        while self.last_id() < seq {
            let event = self.events.next().await;
            self.told.push(event.unwrap());
        }
    }
}

/// A daemon with the agent, and the model that it asks.
struct Bench {
    served: Served,
    server: ModelServer,
    workspace: PathBuf,
}

impl Bench {
    /// With the built-in planner, or with a component in its place.
    async fn start(script: ModelScript, component: Option<&str>) -> Self {
        let server = ModelServer::start(script).await.unwrap();
        let builder = TestDaemon::builder(RUNE).env("RUST_LOG", "warn");
        let served = Served(builder.start().await.unwrap());
        let models = [(&server, Protocol::Openai)];
        match component {
            None => deploy(&served, AGENT, &models, &TOOLS, ""),
            Some(wat) => {
                let dir = served.0.home().join(AGENT);
                std::fs::create_dir_all(&dir).unwrap();
                std::fs::write(dir.join("agent.wat"), wat).unwrap();
                let [again, once, slow] = TOOLS;
                let tools = [again, once, slow, STORE, RECALL];
                deploy(&served, AGENT, &models, &tools, "entrypoint: agent.wat\n");
            }
        }
        let workspace = served.0.data_dir().join("workspaces/dev").join(AGENT);
        Self {
            served,
            server,
            workspace,
        }
    }

    fn pipe(&self, gate: Gate) -> Option<PathBuf> {
        match gate {
            Gate::Before(tool) => Some(self.workspace.join(format!("{tool}.before"))),
            Gate::After(tool) => Some(self.workspace.join(format!("{tool}.after"))),
            Gate::Session | Gate::Model => None,
        }
    }

    fn tool_gates() -> impl Iterator<Item = Gate> {
        let both = |tool: &Tool<'static>| [Gate::Before(tool.name), Gate::After(tool.name)];
        TOOLS.iter().flat_map(both)
    }

    /// Every tool waits at its gates, and every answer of the model.
    fn shut(&self) {
        for path in Self::tool_gates().filter_map(|gate| self.pipe(gate)) {
            let _ = std::fs::remove_file(&path);
            let made = std::process::Command::new("mkfifo").arg(&path).status();
            assert!(made.unwrap().success());
        }
        self.server.hold();
    }

    /// Whoever comes to a gate from now on goes through; those that wait at one still do.
    fn open(&self) {
        for path in Self::tool_gates().filter_map(|gate| self.pipe(gate)) {
            std::fs::remove_file(&path).unwrap();
            std::fs::write(&path, "").unwrap();
        }
        self.server.release_all();
    }

    /// A request that waits for its turn in its session.
    async fn begin(&self, n: usize) -> Run {
        self.shut();
        let api = Api::of(&self.served.0);
        let start = async |input: &str| {
            let body = json!({"input": input, "session_id": format!("s-{n}"), "background": true});
            let (status, body) = api.ask(AGENT, &body).await;
            assert_eq!(status, 202, "{body}");
            body["request_id"].as_str().unwrap().to_owned()
        };
        start("first").await;
        self.server.wait_for_held(1).await.unwrap();
        let id = start("go").await;
        let events = api.events(&id, 0).await;
        let mut run = Run {
            id,
            told: Vec::new(),
            events,
            pipes: BTreeMap::new(),
            halfway: BTreeSet::new(),
        };
        run.read_to(1).await;
        run
    }

    /// Waits until everything is held, or the request has ended.
    async fn stop(&self, run: &mut Run) -> Stop {
        let stopping = async {
            let api = Api::of(&self.served.0);
            loop {
                for gate in Self::tool_gates() {
                    if !run.awaits(gate) {
                        continue;
                    }
                    let path = self.pipe(gate).unwrap();
                    // There is nobody at the other end yet.
                    if let Ok(sender) = pipe::OpenOptions::new().open_sender(path) {
                        run.pipes.insert(gate, sender);
                    }
                }
                let model = self.server.held() > 0;
                let row = api.request(&run.id).await;
                let seq = row["last_seq"].as_u64().unwrap();
                run.read_to(seq).await;
                let mut held: Vec<Gate> = run.pipes.keys().copied().collect();
                let is_held = if run.has_ended() || row["status"] == "accepted" {
                    true
                } else if run.open_calls() > 0 {
                    held.len() == run.open_calls()
                } else {
                    held.extend(model.then_some(Gate::Model));
                    held == [Gate::Model]
                };
                if row["status"] == "accepted" {
                    held.push(Gate::Session);
                }
                if is_held {
                    return Stop { held, seq };
                }
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::time::timeout(LIMIT, stopping).await.unwrap()
    }

    /// Lets one of those that are held go on.
    async fn release(&self, run: &mut Run, stop: &Stop) {
        match stop.held[0] {
            Gate::Session => {
                self.server.release(1);
                run.read_to(stop.seq + 1).await;
            }
            Gate::Model => self.server.release(1),
            gate @ (Gate::Before(tool) | Gate::After(tool)) => {
                if gate == Gate::Before(tool) {
                    run.halfway.insert(tool);
                } else {
                    run.halfway.remove(tool);
                }
                drop(run.pipes.remove(&gate).unwrap());
            }
        }
    }

    /// Keys of effects of the request, in a log.
    fn effects(&self, log: &str, id: &str) -> Vec<String> {
        let lines = lines_of(&self.served, AGENT, log).into_iter();
        lines.filter(|key| key.starts_with(id)).collect()
    }

    /// What the effects of the idempotent tool come to.
    fn lasting(&self, id: &str) -> usize {
        let prefix = format!("again-{id}");
        let files = std::fs::read_dir(&self.workspace).unwrap();
        let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with(&prefix)).count()
    }
}

/// Walks through a whole request; answers every stop on the way.
async fn walk(bench: &Bench) -> (Vec<Stop>, Run) {
    let mut run = bench.begin(0).await;
    let mut stops = Vec::new();
    loop {
        let stop = bench.stop(&mut run).await;
        stops.push(stop.clone());
        if run.has_ended() {
            bench.open();
            return (stops, run);
        }
        bench.release(&mut run, &stop).await;
    }
}

/// The entries between two stops were made in one commit, so no boundary lies between them: every entry of a commit has
/// its time.
async fn assert_every_boundary(bench: &mut Bench, id: &str, stops: &[Stop]) {
    bench.served.0.terminate().await.unwrap();
    let database = bench.served.0.data_dir().join("rune.db");
    let store = SqliteStore::open(StorageConfig::new(database)).unwrap();
    let journal = store.journal(id.parse().unwrap(), 0, 1000).await.unwrap();
    std::sync::Arc::new(store).close().await.unwrap();
    let ends: BTreeSet<u64> = stops.iter().map(|stop| stop.seq).collect();
    assert_eq!(ends.last(), journal.last().map(|entry| &entry.seq));
    for pair in journal.windows(2) {
        let same = pair[0].at == pair[1].at;
        // What is answered at once has no gate; a component goes on from there as from the entry before.
        let at_once = match (&pair[0].body, &pair[1].body) {
            (_, EntryBody::ComponentTurn(_)) => true,
            (_, EntryBody::Notice { code, .. }) => code == "component_log",
            (EntryBody::ToolIntent(intent), _) => intent.tool.starts_with("rune@"),
            _ => false,
        };
        assert!(
            same || at_once || ends.contains(&pair[0].seq),
            "{pair:#?} {stops:#?}"
        );
    }
    bench.served.0.restart().await.unwrap();
}

fn names(events: &[Event]) -> Vec<(u64, &str)> {
    let numbered = events
        .iter()
        .filter_map(|event| Some((event.id?, event.name.as_str())));
    numbered.collect()
}

fn is_unknown(event: &Event) -> bool {
    let message = event.data["error"]["message"].as_str().unwrap_or_default();
    message.contains("outcome of this call is unknown")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_killed_at_any_boundary_repeats_nothing_and_ends_every_request() {
    killed_at_any_boundary(Bench::start(script(), None).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nor_does_it_with_a_component_that_does_what_the_planner_does() {
    let bench = Bench::start(script(), Some(&component(LOOP))).await;
    killed_at_any_boundary(bench).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nor_does_it_with_a_component_that_decides_by_itself() {
    let bench = Bench::start(answers(), Some(&pipeline())).await;
    killed_at_any_boundary(bench).await;
}

/// Calls a tool, computes for a while, and calls another one.
fn thinks() -> String {
    let mut guest = Guest::default();
    let first = guest.calls(&[("once", "{\"n\":1}")]);
    let second = guest.calls(&[("again", "{\"n\":2}")]);
    let done = guest.text("done");
    guest.run(&format!(
        r"(local $n i64)
      (call $call_all {first} (i32.const 1160))
      (local.set $n (i64.const 3000000000))
      (loop $on (br_if $on (i64.ne (local.tee $n (i64.sub (local.get $n) (i64.const 1))) (i64.const 0))))
      (call $call_all {second} (i32.const 1160))
      (call $text {done})"
    ))
}

#[tokio::test(flavor = "multi_thread")]
async fn nor_does_it_where_a_component_has_a_result_and_not_gone_on() {
    let mut bench = Bench::start(answers(), Some(&thinks())).await;
    for path in Bench::tool_gates().filter_map(|gate| bench.pipe(gate)) {
        std::fs::write(&path, "").unwrap();
    }
    let api = Api::of(&bench.served.0);
    let id = api.start(AGENT, "go").await;
    let mut events = api.events(&id, 0).await;
    let mut told = Vec::new();
    while told
        .last()
        .is_none_or(|event: &Event| event.name != "tool_done")
    {
        told.push(events.next().await.unwrap());
    }
    bench.served.0.kill9().unwrap();
    // It had done nothing more.
    assert_eq!(events.next().await, None);
    bench.served.0.restart().await.unwrap();
    let api = Api::of(&bench.served.0);
    let row = api.ended(&id).await;
    assert_eq!(
        (&row["status"], &row["output"], &row["attempts"]),
        (&json!("completed"), &json!("done"), &json!(2)),
        "{row}"
    );
    let after = api.events(&id, 0).await.rest().await;
    assert_eq!(names(&after)[..told.len()], names(&told));
    assert_eq!(after[told.len()].name, "started", "{after:?}");
    assert_eq!(bench.effects("once.log", &id).len(), 1);
    assert_eq!(bench.lasting(&id), 1);
    assert_no_panic(&bench.served);
}

async fn killed_at_any_boundary(mut bench: Bench) {
    let (stops, whole) = walk(&bench).await;
    assert_every_boundary(&mut bench, &whole.id, &stops).await;
    for (n, place) in stops.iter().enumerate() {
        let mut run = bench.begin(n + 1).await;
        for expected in &stops[..n] {
            let stop = bench.stop(&mut run).await;
            assert_eq!(stop, *expected);
            bench.release(&mut run, &stop).await;
        }
        assert_eq!(bench.stop(&mut run).await, *place);
        bench.served.0.kill9().unwrap();
        // The client was told what is in the journal, and nothing else.
        while let Some(event) = run.events.next().await {
            run.told.push(event);
        }
        assert_eq!(run.last_id(), place.seq, "{place:?}");
        bench.open();
        bench.served.0.restart().await.unwrap();
        let api = Api::of(&bench.served.0);
        let seen = run.told.len();
        let rest = api.events(&run.id, place.seq).await.rest();
        let mut rest = tokio::time::timeout(LIMIT, rest).await.unwrap();
        if run.has_ended() {
            // Who was told the end is told it again.
            assert_eq!(rest.pop().as_ref(), run.told.last(), "{place:?}");
        }
        run.told.extend(rest);
        check(&bench, &api, place, &whole, &run, seen).await;
    }
    assert_no_panic(&bench.served);
}

/// The request has ended as it should after a kill at `place`.
async fn check(bench: &Bench, api: &Api, place: &Stop, whole: &Run, run: &Run, seen: usize) {
    let row: Value = api.request(&run.id).await;
    assert_eq!(
        (&row["status"], &row["output"]),
        (&json!("completed"), &json!("done")),
        "{place:?}: {row}"
    );
    // Each entry once, in order, as somebody sees them who was never cut off.
    let ids: Vec<u64> = run.told.iter().filter_map(|event| event.id).collect();
    assert_eq!(
        ids,
        (1..=row["last_seq"].as_u64().unwrap()).collect::<Vec<_>>(),
        "{place:?}"
    );
    let again = api.events(&run.id, 0).await.rest().await;
    let numbered = |events: &[Event]| -> Vec<Event> {
        events
            .iter()
            .filter(|event| event.id.is_some())
            .cloned()
            .collect()
    };
    assert_eq!(numbered(&run.told), numbered(&again), "{place:?}");
    // The kill came exactly there.
    let (before, after) = run.told.split_at(seen);
    let expected = usize::try_from(place.seq).unwrap();
    assert_eq!(names(before), names(&whole.told)[..expected], "{place:?}");
    let (first, attempts) = match place.held.first() {
        None => (None, 1),
        Some(Gate::Session) => (Some("started"), 1),
        Some(_) => (Some("started"), 2),
    };
    assert_eq!(
        after.first().map(|event| event.name.as_str()),
        first,
        "{place:?}"
    );
    assert_eq!(row["attempts"], attempts, "{place:?}");
    // Every call has one result; of those that may not be repeated and were under way nobody knows.
    let unknown = after.iter().filter(|event| is_unknown(event)).count();
    let cut = place.held.iter().filter(|gate| {
        matches!(
            gate,
            Gate::Before("once" | "slow") | Gate::After("once" | "slow")
        )
    });
    assert_eq!(unknown, cut.count(), "{place:?}");
    assert_eq!(run.open_calls(), 0, "{place:?}");
    // The effects: what was killed before it had its effect never has it.
    let lost = place
        .held
        .iter()
        .filter(|gate| matches!(gate, Gate::Before("once" | "slow")));
    let once = bench.effects("once.log", &run.id);
    let distinct: BTreeSet<&String> = once.iter().collect();
    assert_eq!(
        (distinct.len(), once.len()),
        (3 - lost.count(), distinct.len()),
        "{place:?}"
    );
    let again = bench.effects("again.log", &run.id);
    let distinct: BTreeSet<&String> = again.iter().collect();
    let repeated = usize::from(place.held.contains(&Gate::After("again")));
    assert_eq!(
        (distinct.len(), bench.lasting(&run.id)),
        (2, 2),
        "{place:?}"
    );
    assert_eq!(again.len(), 2 + repeated, "{place:?}");
}
