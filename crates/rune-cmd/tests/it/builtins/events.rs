use serde_json::{Value, json};

use super::Rig;
use crate::wire::{POLL, answer};

async fn requests(rig: &Rig, agent: &str) -> Vec<Value> {
    let path = format!("/v1/requests?agent={agent}");
    let (status, page) = answer(rig.api.get(&path)).await.unwrap();
    assert_eq!(status, 200, "{page}");
    page["items"].as_array().unwrap().clone()
}

/// Requests of an agent once there are so many of them and all have ended.
async fn ended(rig: &Rig, agent: &str, count: usize) -> Vec<Value> {
    loop {
        let rows = requests(rig, agent).await;
        let done = |row: &&Value| row["status"] == "completed";
        if rows.len() >= count && rows.iter().filter(done).count() == rows.len() {
            return rows;
        }
        tokio::time::sleep(POLL).await;
    }
}

fn subscribe(rig: &Rig, name: &str, agent: &str, topic: &str, input: &str) {
    let create = [
        "schedule",
        "create",
        name,
        "--agent",
        agent,
        "--on-event",
        topic,
        input,
    ];
    rig.served.rune(&create).ok();
}

#[tokio::test]
async fn an_event_makes_one_request_of_each_subscriber() {
    let mut rig = Rig::start().await;
    rig.deploy("shop", &["event-publish"], "");
    rig.deploy("billing", &[], "");
    rig.deploy("mailer", &[], "");
    let told = "Total {{ event.payload.total }} of {{ event.topic }} by {{ event.publisher }}";
    subscribe(&rig, "bill", "billing", "order.*", told);
    subscribe(&rig, "mail", "mailer", "order.paid", "Write a letter");
    subscribe(&rig, "other", "mailer", "basket.*", "Never");
    let input = json!({"topic": "order.paid", "payload": {"total": 7}});
    let published = rig.call("shop", "event-publish", input).await;
    assert_eq!(published["requests"], 2);
    let bills = ended(&rig, "billing", 1).await;
    assert_eq!(bills[0]["output"], "Echo: Total 7 of order.paid by shop");
    assert_eq!(bills[0]["metadata"]["event"], published["event_id"]);
    assert_eq!(ended(&rig, "mailer", 1).await.len(), 1);

    // By hand, and then the daemon dies: each event has its one request all the same.
    for n in 0..5 {
        let payload = json!({"total": n}).to_string();
        let publish = ["event", "publish", "order.late", &payload, "-o", "json"];
        assert_eq!(rig.served.rune(&publish).json()["requests"], 1);
    }
    rig.served.0.kill9().unwrap();
    rig.served.0.restart().await.unwrap();
    rig.api = crate::wire::Api::of(&rig.served.0);
    let bills = ended(&rig, "billing", 6).await;
    let mut events: Vec<&str> = bills
        .iter()
        .map(|row| row["metadata"]["event"].as_str().unwrap())
        .collect();
    events.sort_unstable();
    events.dedup();
    assert_eq!((bills.len(), events.len()), (6, 6));
    let rows = rig
        .served
        .rune(&["event", "ls", "--topic", "order.late", "-o", "json"]);
    assert_eq!(rows.json().as_array().unwrap().len(), 5);
}

#[tokio::test]
async fn agents_that_answer_events_with_events_come_to_an_end() {
    let rig = Rig::start().await;
    rig.deploy("parrot", &["event-publish"], "");
    let command = "/tool rune@event-publish {\"topic\": \"ping\"}";
    subscribe(&rig, "loop", "parrot", "ping", command);
    rig.served.rune(&["event", "publish", "ping"]).ok();
    // The first and the eight that it may lead to; what they would publish is refused.
    let rows = ended(&rig, "parrot", 9).await;
    let refused = |row: &&Value| {
        let output = row["output"].as_str().unwrap();
        output.contains("events led to it already")
    };
    let (_, events) = answer(rig.api.get("/v1/events?topic=ping")).await.unwrap();
    assert_eq!(events["items"].as_array().unwrap().len(), 9);
    assert_eq!((rows.len(), rows.iter().filter(refused).count()), (9, 1));
}
