//! Packages with a `workflow.yaml`.

use std::collections::BTreeMap;

use rune_store_runtime::{Entry, EntryBody, ErrorCode, RequestStatus, StepStatus};
use rune_testkit::{Fault, ModelScript, ModelServer, Protocol};
use serde_json::{Value, json};

use super::harness::{Bot, Ended, Rig, copy, soon, until};

fn step(id: &str, depends_on: &[&str]) -> Value {
    let inputs = depends_on
        .iter()
        .map(|id| format!("{{{{ steps.{id}.output }}}}"));
    let template = match depends_on {
        [] => "{{ input }}".to_owned(),
        _ => inputs.collect::<Vec<_>>().join("+"),
    };
    json!({"id": id, "agent_ref": "local://helper", "depends_on": depends_on, "input_template": template})
}

fn workflow(steps: &[Value]) -> Bot {
    Bot::new().workflow(&json!({"name": "w", "version": "1.0.0", "steps": steps}))
}

/// Twelve steps in four waves of three.
fn waves() -> Bot {
    let mut steps = Vec::new();
    for wave in 1..=4 {
        for n in 1..=3 {
            let above: Vec<String> = (1..=3).map(|n| format!("s{}_{n}", wave - 1)).collect();
            let above: Vec<&str> = above.iter().map(String::as_str).collect();
            let depends_on = if wave == 1 { &[][..] } else { &above[..] };
            let mut step = step(&format!("s{wave}_{n}"), depends_on);
            if wave > 1 {
                step["input_template"] = json!(format!("{{{{ steps.s{}_{n}.output }}}}", wave - 1));
            }
            steps.push(step);
        }
    }
    workflow(&steps)
}

async fn rig(bot: Bot, helper: Bot) -> Rig {
    let mut rig = Rig::new(bot).await;
    rig.deploy("helper", helper).await;
    rig
}

fn started(journal: &[Entry]) -> Vec<(String, u32)> {
    let started = journal.iter().filter_map(|entry| match &entry.body {
        EntryBody::StepStarted { step, attempt, .. } => Some((step.clone(), *attempt)),
        _ => None,
    });
    started.collect()
}

fn statuses(ended: &Ended) -> BTreeMap<String, StepStatus> {
    let finished = ended.journal.iter().filter_map(|entry| match &entry.body {
        EntryBody::StepFinished(outcome) => Some((outcome.step.clone(), outcome.status)),
        _ => None,
    });
    finished.collect()
}

#[tokio::test]
async fn the_steps_of_a_wave_run_side_by_side() {
    let rig = rig(waves(), Bot::new()).await;
    let ended = rig.ask("hi").await;
    assert_eq!(
        ended.output(),
        "Echo: Echo: Echo: Echo: hi",
        "{:?}",
        ended.row.failure
    );
    let shape: String = ended
        .kinds()
        .iter()
        .filter_map(|kind| match *kind {
            "step_started" => Some('<'),
            "step_finished" => Some('>'),
            _ => None,
        })
        .collect();
    assert_eq!(shape, "<<<>>>".repeat(4));
    assert_eq!(rig.engine.tree(ended.row.id).await.unwrap().len(), 12);
}

#[tokio::test]
async fn a_step_does_not_wait_for_its_wave() {
    let helper = Bot::new().script(&json!([
        {"match": {"equals": "slow"}, "delay_ms": 60_000, "respond": "late"},
        {"respond": "{{ input }}"},
    ]));
    let mut slow = step("slow", &[]);
    slow["input_template"] = json!("slow");
    let rig = rig(workflow(&[slow, step("a", &[]), step("b", &["a"])]), helper).await;
    let invoked = rig.invoke("quick").await;
    let id = invoked.request_id;
    soon("step b", async {
        while !rig.journal(id).await.iter().any(
            |entry| matches!(&entry.body, EntryBody::StepFinished(outcome) if outcome.step == "b"),
        ) {
            tokio::task::yield_now().await;
        }
    })
    .await;
    soon("cancel", rig.engine.cancel(id, "test")).await.unwrap();
    rig.idle().await;
    let ended = rig.end(invoked).await;
    assert_eq!(ended.row.status, RequestStatus::Cancelled);
    assert!(
        rig.engine
            .tree(id)
            .await
            .unwrap()
            .iter()
            .all(|row| row.status.is_terminal())
    );
}

#[tokio::test]
async fn a_false_condition_skips_a_step_and_what_only_waits_for_it() {
    let when = |mut step: Value, condition: &str| {
        step["condition"] = json!(condition);
        step
    };
    let steps = [
        step("router", &[]),
        when(step("yes", &["router"]), "steps.router.output == 'Echo: x'"),
        when(
            step("no", &["router"]),
            "{{ steps.router.output }} == other",
        ),
        step("after-no", &["no"]),
        step("join", &["yes", "after-no"]),
    ];
    let mut join = steps.clone();
    join[4]["input_template"] = json!("[{{ steps.yes.output }}{{ steps.after-no.output }}]");
    let rig = rig(workflow(&join), Bot::new()).await;
    let ended = rig.ask("x").await;
    assert_eq!(
        ended.output(),
        "Echo: [Echo: Echo: x]",
        "{:?}",
        ended.row.failure
    );
    let statuses = statuses(&ended);
    assert_eq!(statuses["no"], StepStatus::Skipped);
    assert_eq!(statuses["after-no"], StepStatus::Skipped);
    assert_eq!(statuses["join"], StepStatus::Completed);
}

#[tokio::test]
async fn a_failed_step_is_repeated_and_then_ends_the_workflow() {
    let helper = Bot::new().script(&json!([
        {"match": {"equals": "bad"}, "error": {"message": "broken"}},
        {"delay_ms": 60_000, "respond": "late"},
    ]));
    let mut bad = step("bad", &[]);
    bad["input_template"] = json!("bad");
    bad["retry"] = json!({"max_attempts": 2});
    let rig = rig(
        workflow(&[bad, step("other", &[]), step("next", &["bad"])]),
        helper,
    )
    .await;
    let ended = rig.ask("x").await;
    let failure = ended.row.failure.clone().unwrap();
    assert!(
        failure
            .message
            .starts_with("step `bad` failed: agent `dev/helper`"),
        "{failure}"
    );
    let attempts = started(&ended.journal);
    assert!(attempts.contains(&("bad".to_owned(), 2)), "{attempts:?}");
    assert!(!attempts.iter().any(|(step, _)| step == "next"));
    assert_eq!(statuses(&ended)["other"], StepStatus::Failed);
    until("the other step", || rig.engine.active() == 0).await;
}

#[tokio::test]
async fn a_step_has_its_own_time() {
    let helper = Bot::new().script(&json!([{"delay_ms": 60_000, "respond": "late"}]));
    let mut slow = step("slow", &[]);
    slow["timeout_ms"] = json!(100);
    let rig = rig(workflow(&[slow]), helper).await;
    let failure = rig.ask("x").await.row.failure.unwrap();
    assert_eq!(failure.code, ErrorCode::Timeout);
    assert!(failure.message.contains("100 ms"), "{failure}");
}

#[tokio::test]
async fn what_is_taken_up_again_repeats_no_step() {
    let rig = rig(waves(), Bot::new()).await;
    let whole = rig.ask("hi").await;
    let called = rig.engine.tree(whole.row.id).await.unwrap();
    for len in 1..whole.journal.len() {
        let again = rig.cut(&whole.row, &whole.journal, len).await;
        // What the workflow had heard of by then has ended; the rest was not accepted yet.
        let known = &whole.journal[..len];
        for row in &called {
            let is_known = known.iter().any(|entry| {
                matches!(&entry.body, EntryBody::StepStarted { request_id, .. } if *request_id == row.id)
            });
            if is_known {
                copy(&again.store, row, &rig.journal(row.id).await).await;
            }
        }
        soon("recovery", again.engine.recover()).await.unwrap();
        again.idle().await;
        let row = again.engine.request(whole.row.id).await.unwrap();
        assert_eq!(row.output, whole.row.output, "{len}");
        let journal = again.journal(row.id).await;
        let mut steps = started(&journal);
        steps.sort();
        steps.dedup();
        assert_eq!(steps.len(), 12, "{len}");
        assert_eq!(started(&journal).len(), 12, "{len}");
        assert_eq!(again.engine.tree(row.id).await.unwrap().len(), 12, "{len}");
    }
}

#[tokio::test]
async fn a_step_whose_agent_vanishes_between_attempts_ends() {
    let script = ModelScript::new().fault_first(Fault::status(401).always());
    let server = ModelServer::start(script).await.unwrap();
    server.hold();
    let mut fading = step("fading", &[]);
    fading["retry"] = json!({"max_attempts": 3});
    let helper = Bot::on(&[(&server, Protocol::Openai)]);
    let rig = rig(workflow(&[fading, step("after", &["fading"])]), helper).await;
    let invoked = rig.invoke("x").await;
    server.wait_for_held(1).await.unwrap();
    let route = rig.router.route("dev", "helper", "stable").unwrap();
    rig.router.remove_deployment(route.deployment.id);
    server.release_all();
    let ended = rig.end(invoked).await;
    let failure = ended.row.failure.clone().unwrap();
    assert_eq!(failure.code, ErrorCode::NotFound, "{failure}");
    assert_eq!(started(&ended.journal), [("fading".to_owned(), 1)]);
    assert_eq!(
        statuses(&ended),
        BTreeMap::from([("fading".to_owned(), StepStatus::Failed)])
    );
}

#[tokio::test]
async fn a_workflow_that_is_taken_up_after_a_step_failed_ends() {
    let helper = Bot::new().script(&json!([
        {"match": {"equals": "bad"}, "error": {"message": "broken"}},
        {"delay_ms": 60_000, "respond": "late"},
    ]));
    let mut bad = step("bad", &[]);
    bad["input_template"] = json!("bad");
    let steps = [bad, step("other", &[]), step("next", &["bad"])];
    let rig = rig(workflow(&steps), helper).await;
    let whole = rig.ask("x").await;
    let failed = whole.journal.iter().position(
        |entry| matches!(&entry.body, EntryBody::StepFinished(outcome) if outcome.step == "bad"),
    );
    let again = rig
        .cut(&whole.row, &whole.journal, failed.unwrap() + 1)
        .await;
    soon("recovery", again.engine.recover()).await.unwrap();
    again.idle().await;
    let row = again.engine.request(whole.row.id).await.unwrap();
    assert_eq!(row.failure, whole.row.failure);
    let ended = Ended {
        journal: again.journal(row.id).await,
        row,
        events: Vec::new(),
    };
    assert_eq!(statuses(&ended), statuses(&whole));
    assert_eq!(started(&ended.journal).len(), 2);
}

#[tokio::test]
async fn a_workflow_whose_time_is_budgeted_ends_by_its_budget() {
    let helper = Bot::new().script(&json!([{"delay_ms": 60_000, "respond": "late"}]));
    let bot = workflow(&[step("a", &[])]).set("budget", json!({"wall_ms": 200}));
    let ended = rig(bot, helper).await.ask("go").await;
    let failure = ended.row.failure.unwrap();
    assert_eq!(failure.code, ErrorCode::LimitExceeded);
    assert_eq!(
        failure.message,
        "the workflow did not end within 200 ms (`budget.wall_ms`)"
    );
}
