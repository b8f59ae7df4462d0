//! Followers get each entry exactly once, in order, from wherever they begin.

use rune_runtime::RequestEvents;
use serde_json::json;

use super::harness::{Bot, Rig, soon};

fn stepping() -> Bot {
    Bot::new().tool("step", &json!({}), "cat >/dev/null; echo 1\n").script(&json!([
        {"match": {"step": 1}, "respond": "first", "tool_calls": [{"name": "step"}, {"name": "step"}]},
        {"match": {"step": 2}, "tool_calls": [{"name": "step"}]},
        {"respond": "done"},
    ]))
}

async fn sequence(mut events: RequestEvents) -> (Vec<u64>, String) {
    let (mut seen, mut text) = (Vec::new(), String::new());
    soon("the events", async {
        while let Some(event) = events.next().await.unwrap() {
            seen.extend(event.seq);
            if let rune_runtime::RequestEvent::Token { text: more } = event.event {
                text.push_str(&more);
            }
        }
    })
    .await;
    (seen, text)
}

#[tokio::test]
async fn a_reader_that_attaches_anywhere_gets_the_rest_once() {
    for held in 0..8 {
        let rig = Rig::new(stepping()).await;
        let free = rig.spy.hold(held);
        // The acceptance has to be committed before there is something to follow.
        let early = (held == 0).then(|| free.cancel());
        let invoked = rig.invoke("go").await;
        let id = invoked.request_id;
        if early.is_none() && held < 5 {
            rig.spy.wait_for(held + 1).await;
        }
        let mut during = Vec::new();
        for after in 0..20 {
            during.push((after, rig.engine.events(id, after).await.unwrap()));
        }
        free.cancel();
        let ended = rig.end(invoked).await;
        let last = ended.row.last_seq;
        assert_eq!(ended.text(), "firstdone");
        for (after, events) in during {
            let (seen, text) = sequence(events).await;
            assert_eq!(seen, rest(after, last), "held {held}, after {after}");
            if after == 0 {
                assert_eq!(text, "firstdone");
            }
        }
        for after in 0..20 {
            let events = rig.engine.events(id, after).await.unwrap();
            let (seen, _) = sequence(events).await;
            assert_eq!(seen, rest(after, last), "after {after}");
        }
    }
}

/// The entries behind one; the last one is told to everybody.
fn rest(after: u64, last: u64) -> Vec<u64> {
    (after.min(last - 1) + 1..=last).collect()
}

#[tokio::test]
async fn a_reader_that_drops_and_resumes_misses_nothing() {
    let rig = Rig::new(stepping()).await;
    rig.spy.slow(5);
    let id = rig.invoke("go").await.request_id;
    let (mut after, mut seen) = (0, Vec::new());
    soon("the events", async {
        loop {
            let mut events = rig.engine.events(id, after).await.unwrap();
            let numbered = loop {
                match events.next().await.unwrap() {
                    Some(event) if event.seq.is_none() => {}
                    other => break other,
                }
            };
            let Some(event) = numbered else { continue };
            after = event.seq.unwrap();
            seen.push(after);
            if event.event.is_last() {
                return;
            }
        }
    })
    .await;
    rig.idle().await;
    let stored: Vec<u64> = rig
        .journal(id)
        .await
        .iter()
        .map(|entry| entry.seq)
        .collect();
    assert_eq!(seen, stored);
}
