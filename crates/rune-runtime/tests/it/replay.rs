//! Requests that are run again over their journals.

use std::collections::BTreeMap;

use rune_runtime::{EngineError, event_hash};
use rune_store_runtime::{
    ApprovalDecision, ApprovalFilter, DecideApproval, EntryBody, PageRequest, Remember, RequestId,
    RequestStatus, SessionId,
};
use rune_testkit::{Fault, ModelScript, ModelServer, Protocol, Reply};
use serde_json::{Value, json};

use super::harness::{Bot, Rig, script, soon, until};

const REQUESTS: u64 = 1000;
const SEED: u64 = 0x5eed_0010;

/// Numbers that look random and are the same in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.0 >> 33) % end
    }
}

/// A call: one that works, is refused, fails, or whose output is another one in every run.
fn tool_call(dice: &mut Dice) -> Value {
    let file = format!("f{}", dice.below(4));
    let (name, input) = match dice.below(8) {
        0 => ("rune__system-time", json!({"timezone": "UTC"})),
        1 => (
            "rune__file-write",
            json!({"path": file, "content": "{{ input }}"}),
        ),
        2 => ("rune__file-read", json!({"path": file})),
        3 => ("rune__file-read", json!({"path": "missing"})),
        4 => (
            "rune__file-write",
            json!({"path": "secret", "content": "x"}),
        ),
        5 => (
            "rune__memory-store",
            json!({"key": file, "value": "{{ step }}"}),
        ),
        6 => ("rune__file-read", json!({"path": 7})),
        _ => ("no-such-tool", json!({})),
    };
    json!({"name": name, "input": input})
}

/// What the model does in request `#number#`: up to four turns with up to three calls at a time.
fn plan(dice: &mut Dice, number: u64, rules: &mut Vec<Value>) {
    let text = format!("#{number}#");
    for step in 1..=dice.below(5) {
        let calls: Vec<Value> = (0..=dice.below(3)).map(|_| tool_call(dice)).collect();
        rules.push(json!({"match": {"contains": text, "step": step}, "tool_calls": calls}));
    }
    rules.push(match dice.below(8) {
        0 => json!({"match": {"contains": text}, "error": {"message": "down"}}),
        // It goes on until it reaches its limit of turns.
        1 => json!({"match": {"contains": text}, "tool_calls": [tool_call(dice)]}),
        _ => json!({"match": {"contains": text}, "respond": "done: {{ input }}"}),
    });
}

fn tools(bot: Bot) -> Bot {
    ["system-time", "file-write", "file-read", "memory-store"]
        .into_iter()
        .fold(bot, |bot, name| bot.builtin(&format!("rune@{name}")))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_requests_replay_and_a_changed_output_is_named() {
    let mut dice = Dice(SEED);
    let mut rules = Vec::new();
    for number in 0..REQUESTS {
        plan(&mut dice, number, &mut rules);
    }
    let bot = tools(Bot::new())
        .set("max_steps", json!(5))
        .set("policy", json!({"deny": ["rune@file-write(path=secret)"]}))
        .script(&json!(rules));
    let rig = Rig::new(bot).await;
    let (mut changed, mut failed) = (0, 0);
    for number in 0..REQUESTS {
        let session: SessionId = format!("s{}", dice.below(REQUESTS / 5)).parse().unwrap();
        let ended = rig.ask_in(&session, &format!("#{number}#")).await;
        failed += u64::from(ended.row.status == RequestStatus::Failed);
        rig.spy.reset();
        let replayed = rig.engine.replay(ended.row.id).await.unwrap();
        assert!(replayed.equal, "{number}: {:?}", replayed.divergence);
        assert_eq!(replayed.hash, replayed.replayed_hash);
        assert_eq!(
            replayed.hash,
            event_hash(ended.journal.iter().map(|entry| &entry.body))
        );

        let ran = ended.journal.iter().filter_map(|entry| match &entry.body {
            EntryBody::ToolResult(outcome) if outcome.attempts > 0 => Some((entry.seq, outcome)),
            _ => None,
        });
        let ran: Vec<_> = ran.collect();
        if ran.is_empty() {
            continue;
        }
        let (seq, outcome) = ran[usize::try_from(dice.below(ran.len() as u64)).unwrap()];
        let outputs = BTreeMap::from([(outcome.call_id.clone(), json!("changed"))]);
        let replayed = rig
            .engine
            .replay_with(ended.row.id, &outputs)
            .await
            .unwrap();
        let divergence = replayed.divergence.unwrap();
        assert_eq!(
            (divergence.seq, divergence.kind),
            (seq, "tool_result"),
            "{number}"
        );
        assert_eq!(divergence.replay["content"], "changed");
        assert_ne!(replayed.hash, replayed.replayed_hash);
        assert_eq!(rig.journal(ended.row.id).await, ended.journal);
        changed += 1;
    }
    assert!(changed > REQUESTS / 2, "{changed}");
    assert!(failed > REQUESTS / 10, "{failed}");
}

async fn decide(rig: &Rig, id: RequestId, decision: ApprovalDecision, remember: Option<Remember>) {
    let filter = ApprovalFilter {
        request_id: Some(id),
        ..ApprovalFilter::default()
    };
    let rows = rig.store.approvals(&filter, &PageRequest::first(10)).await;
    let waiting = rows
        .unwrap()
        .items
        .into_iter()
        .find(|row| row.answer.is_none());
    let decide = DecideApproval {
        approval_id: waiting.unwrap().question.approval_id,
        decision,
        by: "alice".to_owned(),
        remember,
        note: Some("why not".to_owned()),
    };
    rig.engine.decide(decide).await.unwrap();
}

#[tokio::test]
async fn what_people_decided_is_replayed() {
    let time = json!({"name": "rune__system-time", "input": {}});
    let bot = tools(Bot::new())
        .set("policy", json!({"ask": ["rune@system-time"]}))
        .script(&json!([
            {"match": {"step": 1}, "tool_calls": [time, {"name": "rune__file-read", "input": {"path": "x"}}]},
            {"match": {"step": 2}, "tool_calls": [time]},
            {"respond": "done"},
        ]));
    let rig = Rig::new(bot).await;
    for remember in [None, Some(Remember::Session)] {
        for decision in ApprovalDecision::ALL {
            let invoked = rig.invoke("go").await;
            let id = invoked.request_id;
            let parked = async |times: usize| {
                until("parking", || rig.engine.active() == 0).await;
                let kinds = super::harness::kinds(&rig.journal(id).await);
                assert_eq!(
                    kinds
                        .iter()
                        .filter(|kind| **kind == "approval_asked")
                        .count(),
                    times
                );
            };
            parked(1).await;
            let refused = rig.engine.replay(id).await.unwrap_err();
            assert!(refused.to_string().contains("has not ended"), "{refused}");
            decide(&rig, id, decision, remember).await;
            if remember.is_none() {
                parked(2).await;
                decide(&rig, id, decision, remember).await;
            }
            let ended = rig.end(invoked).await;
            assert_eq!(ended.output(), "done");
            let replayed = rig.engine.replay(id).await.unwrap();
            assert!(
                replayed.equal,
                "{decision:?} {remember:?}: {:?}",
                replayed.divergence
            );
        }
    }
}

#[tokio::test]
async fn fallbacks_broken_replies_and_repairs_are_replayed() {
    let down = ModelScript::new()
        .on_text("go")
        .fault_first(Fault::status(401).always())
        .reply(Reply::text("never"))
        .on_text("does not match the JSON Schema")
        .reply(Reply::text("{\"n\": 1}"));
    let down = ModelServer::start(down).await.unwrap();
    let model = script().on_text("go").reply(Reply::text("no JSON"));
    let up = ModelServer::start(model).await.unwrap();
    let bot = tools(Bot::on(&[
        (&down, Protocol::Openai),
        (&up, Protocol::Anthropic),
    ]))
    .set(
        "output_schema",
        json!({"type": "object", "required": ["n"]}),
    );
    let rig = Rig::new(bot).await;
    let ended = rig.ask("go").await;
    assert_eq!(
        ended.row.status,
        RequestStatus::Completed,
        "{:?}",
        ended.row.failure
    );
    assert!(ended.kinds().contains(&"model_failed") && ended.kinds().contains(&"notice"));
    let asked = up.requests().len();
    let replayed = rig.engine.replay(ended.row.id).await.unwrap();
    assert!(replayed.equal, "{:?}", replayed.divergence);
    assert_eq!(up.requests().len(), asked, "no model is asked");
}

#[tokio::test]
async fn what_is_not_in_the_journal_is_said() {
    let rig = Rig::new(Bot::new().script(&json!([{"delay_ms": 60_000, "respond": "late"}]))).await;
    let invoked = rig.invoke("go").await;
    let id = invoked.request_id;
    soon("the cancel", rig.engine.cancel(id, "enough"))
        .await
        .unwrap();
    let refused = rig.engine.replay(id).await.unwrap_err();
    assert!(matches!(refused, EngineError::NotReplayable { .. }));
    assert!(refused.to_string().contains("was cancelled"), "{refused}");
    let unknown = rig.engine.replay(RequestId::generate()).await.unwrap_err();
    assert!(matches!(unknown, EngineError::NotFound(_)));
}
