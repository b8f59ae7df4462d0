//! Clients that come and go: what a stream of events still says.

use std::time::Duration;

use rune_testkit::{Fault, ModelScript, ModelServer, Protocol, Reply, TestDaemon, ToolCall};
use serde_json::json;

use crate::home::{RUNE, Served};
use crate::wire::{Api, Event, Events, LIMIT, Seeded, Tool, deploy, spawn};

const AGENT: &str = "streamer";
const STEPS: usize = 6;

pub(crate) const TOOL: Tool<'static> = Tool {
    name: "step",
    script: "echo '{}'\n",
    yaml: "idempotent: true\nread_only: true\n",
};

/// Several model turns, each with text in chunks and two calls.
pub(crate) fn script() -> ModelScript {
    let turn = |step: usize| {
        // A call that is made again and again would be stopped.
        let call = |call: usize| ToolCall::new("step", json!({"step": step, "call": call}));
        Reply::calls([call(1), call(2)])
            .saying(["a", "b", "c", "d"])
            .chunk_every(Duration::from_millis(5))
    };
    let script = ModelScript::new().on_text("go");
    let script = (0..STEPS).fold(script, |script, step| script.reply(turn(step)));
    script.then(Reply::text(["The ", "end."]))
}

async fn serve(server: &ModelServer) -> Served {
    let served = Served(TestDaemon::builder(RUNE).start().await.unwrap());
    let extra = "runtime: {concurrency_limit: 100}\n";
    deploy(
        &served,
        AGENT,
        &[(server, Protocol::Anthropic)],
        &[TOOL],
        extra,
    );
    served
}

/// What a client has of a request: the journal events, and the number of the last.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) events: Vec<Event>,
    pub(crate) last: u64,
}

impl Seen {
    /// Reads up to `most` journal events, then closes the connection.
    pub(crate) async fn read(&mut self, mut stream: Events, most: u64) {
        let mut read = 0;
        while read < most {
            let Some(event) = stream.next().await else {
                return;
            };
            if let Some(id) = event.id {
                assert!(id >= self.last, "{id} after {}: {event:?}", self.last);
                self.last = id;
                self.events.push(event);
                read += 1;
            }
        }
    }

    pub(crate) fn ended(&self) -> bool {
        self.events.last().is_some_and(Event::is_last)
    }
}

/// A client that reads a few events at a time, in a request of its own, until the end.
async fn restless(api: Api, seed: u64) -> Vec<Event> {
    let mut seeded = Seeded::new(seed);
    let id = api.start(AGENT, "go").await;
    let mut seen = Seen::default();
    while !seen.ended() {
        let stream = api.events(&id, seen.last).await;
        seen.read(stream, 1 + seeded.below(4)).await;
    }
    let whole = api.events(&id, 0).await.rest().await;
    let whole: Vec<Event> = whole.into_iter().filter(|e| e.id.is_some()).collect();
    assert_eq!(seen.events, whole, "{id}");
    whole
}

#[tokio::test(flavor = "multi_thread")]
async fn a_returning_client_gets_every_entry_once_and_in_order() {
    let server = ModelServer::start(script()).await.unwrap();
    let served = serve(&server).await;
    let api = Api::of(&served.0);
    let clients: Vec<_> = (0..16)
        .map(|seed| spawn(restless(api.clone(), 77 + seed * 2)))
        .collect();
    for client in clients {
        let events = client.await.unwrap();
        let count = |name| events.iter().filter(|event| event.name == name).count();
        assert_eq!(count("tool_start"), STEPS * 2);
        assert_eq!(count("tool_done"), STEPS * 2);
        assert_eq!(count("done"), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_goes_on_behind_a_kill() {
    let server = ModelServer::start(script()).await.unwrap();
    let mut served = serve(&server).await;
    for kill_after in [1, 3, 6, 11, 17] {
        let api = Api::of(&served.0);
        let id = api.start(AGENT, "go").await;
        let mut seen = Seen::default();
        seen.read(api.events(&id, 0).await, kill_after).await;
        served.0.kill9().unwrap();
        served.0.restart().await.unwrap();
        let api = Api::of(&served.0);
        seen.read(api.events(&id, seen.last).await, u64::MAX).await;
        assert!(seen.ended(), "{:?}", seen.events.last());
        let whole = api.events(&id, 0).await.rest().await;
        let whole: Vec<Event> = whole.into_iter().filter(|e| e.id.is_some()).collect();
        assert_eq!(seen.events, whole, "kill after {kill_after}");
        let ids: Vec<u64> = whole.iter().filter_map(|event| event.id).collect();
        assert!(ids.is_sorted(), "{ids:?}");
        assert_eq!(whole.last().unwrap().data["output"], "The end.");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_holds_up_nobody() {
    let large = "x".repeat(200_000);
    let script = ModelScript::new()
        .on_text("large")
        .reply(Reply::text(large.as_str()).chunks(200));
    let server = ModelServer::start(script).await.unwrap();
    let served = serve(&server).await;
    let api = Api::of(&served.0);
    let mut silent = Vec::new();
    for _ in 0..20 {
        let body = json!({"input": "large", "stream": true});
        silent.push(api.invoke(AGENT, &body).send().await.unwrap());
    }
    for _ in 0..20 {
        let body = json!({"input": "hi"});
        let asked = tokio::time::timeout(LIMIT / 4, api.ask(AGENT, &body));
        assert_eq!(asked.await.unwrap().1["output"], "Echo: hi");
    }
    // Whoever was slow still gets all of it.
    for response in silent {
        let events = Events::of(response).rest().await;
        assert_eq!(events.last().unwrap().data["output"], large);
    }
}

#[tokio::test]
async fn a_client_that_leaves_does_not_stop_its_request() {
    let wait = Fault::slow_first_byte(Duration::from_millis(200));
    let script = ModelScript::new().on_text("slow").fault_first(wait);
    let server = ModelServer::start(script).await.unwrap();
    let served = serve(&server).await;
    let api = Api::of(&served.0);
    let body = json!({"input": "slow", "stream": true});
    let mut events = Events::of(api.invoke(AGENT, &body).send().await.unwrap());
    let id = events.next().await.unwrap().data["request_id"].clone();
    drop(events);
    let row = api.ended(id.as_str().unwrap()).await;
    assert_eq!(row["output"], "Echo: slow", "{row}");
}
