//! Forks: requests that begin with a part of another one.

use rune_store_runtime::{
    AcceptRequest, AuditFilter, Block, Compaction, Cost, DeleteSession, EntryBody, Fork,
    ForkChanges, ForkOrigin, Identity, ModelCall, PageRequest, Reject, Replaced, RequestId,
    RequestSpan, RequestStatus, SpilledOutput, Timestamp, ToolOutcome, UsageFilter,
};
use serde_json::json;

use super::fixture::{Fixture, accept, call, finished, intent, reply, result, session, usage};
use crate::store::TestStore;

fn fork(of: RequestId, seq: u64, until: Timestamp) -> AcceptRequest {
    let origin = ForkOrigin {
        request_id: of,
        seq,
        identity: Identity {
            request_id: of,
            session_id: session("s"),
        },
        usage: usage(10, 2),
        cost: Cost::default(),
        model_calls: 1,
        tool_calls: 1,
        changes: ForkChanges {
            instructions: Some("Be brief.".to_owned()),
            ..ForkChanges::default()
        },
    };
    let fork = Fork {
        origin,
        shown: 10,
        shown_until: until,
    };
    AcceptRequest {
        fork: Some(Box::new(fork)),
        ..accept("fork")
    }
}

/// An earlier request of the session, then one that called a tool; its id and when it began.
async fn origin(f: &Fixture) -> (RequestId, Timestamp) {
    let earlier = f.accept("s").await.request_id;
    let said = reply(vec![Block::text("earlier")]);
    f.append(earlier, vec![said, finished(json!("earlier"))])
        .await;
    let id = f.accept("s").await.request_id;
    let began = f.store.now();
    f.append(id, vec![reply(vec![call("c1")]), intent("c1")])
        .await;
    f.append(id, vec![EntryBody::ToolResult(result("c1"))])
        .await;
    let said = reply(vec![Block::text("answer")]);
    f.append(id, vec![said, finished(json!("answer"))]).await;
    (id, began)
}

pub async fn a_fork_begins_with_the_entries_of_another_request(test: TestStore) {
    let f = Fixture::new(test);
    let (id, began) = origin(&f).await;
    let op = fork(id, 4, began);
    let forked = op.request_id;
    let command = f.command(op);
    let first = f.store.submit(command.clone()).await.unwrap();
    assert_eq!(f.store.submit(command).await.unwrap(), first);

    let (journal, before) = (
        f.store.journal(forked, 0, 10).await.unwrap(),
        f.store.journal(id, 0, 10).await.unwrap(),
    );
    let EntryBody::Accepted {
        forked_from: Some(origin),
        ..
    } = &journal[0].body
    else {
        unreachable!("{:?}", journal[0].body)
    };
    assert_eq!((origin.request_id, origin.seq), (id, 4));
    assert_eq!(journal.len(), 4);
    for (copy, entry) in journal.iter().zip(&before).skip(1) {
        assert_eq!(
            (copy.seq, copy.at, &copy.body),
            (entry.seq, entry.at, &entry.body)
        );
        assert_eq!(copy.request_id, forked);
    }
    let row = f.store.request(forked).await.unwrap().unwrap();
    assert_eq!((row.status, row.last_seq), (RequestStatus::Accepted, 4));
    assert_eq!(
        (row.usage, row.model_calls, row.tool_calls),
        (usage(0, 0), 0, 0)
    );
    let calls = f.store.tool_invocations(forked).await.unwrap();
    assert_eq!(calls.len(), 1);

    // What its model is shown: the earlier request of the other session, then its own part.
    let page = PageRequest::default();
    let shown = f.store.messages(&session("fork"), &page).await.unwrap();
    assert_eq!(shown.items.len(), 5);
    let recent = f
        .store
        .recent_messages(&session("fork"), &page, None)
        .await
        .unwrap();
    let recent: Vec<String> = recent.items.iter().map(|m| m.message.text()).collect();
    assert_eq!(recent, ["earlier", "hello"]);
}

pub async fn a_fork_spends_only_what_it_does_itself(test: TestStore) {
    let f = Fixture::new(test);
    let (id, began) = origin(&f).await;
    let op = fork(id, 3, began);
    let forked = op.request_id;
    f.write(op).await;
    f.append(forked, vec![EntryBody::ToolResult(result("c1"))])
        .await;
    let said = reply(vec![Block::text("another")]);
    f.append(forked, vec![said, finished(json!("another"))])
        .await;
    let row = f.store.request(forked).await.unwrap().unwrap();
    assert_eq!((row.usage, row.model_calls), (usage(10, 2), 1));
    let filter = UsageFilter {
        request_id: Some(forked),
        ..UsageFilter::default()
    };
    let ledger = f.store.usage(&filter, &PageRequest::default()).await;
    assert_eq!(ledger.unwrap().items.len(), 1);
    let (all, page) = (AuditFilter::default(), PageRequest::default());
    assert_eq!(f.store.audit(&all, &page).await.unwrap().items.len(), 0);
    let recent = f.store.recent_messages(&session("fork"), &page, None).await;
    assert_eq!(recent.unwrap().items.len(), 6);
}

pub async fn a_fork_takes_over_compactions_and_spilled_outputs(test: TestStore) {
    let f = Fixture::new(test);
    let (earlier, _) = origin(&f).await;
    let id = f.accept("s").await.request_id;
    let began = f.store.now();
    let spilled = SpilledOutput {
        handle: "out-1".to_owned(),
        digest: "sha256:1".to_owned(),
        bytes: 40_000,
    };
    let large = ToolOutcome {
        output: None,
        spilled: Some(spilled.clone()),
        ..result("c1")
    };
    let compaction = Compaction {
        step: 2,
        replaces: Replaced {
            requests: Some(RequestSpan {
                first: earlier,
                last: earlier,
                count: 1,
            }),
            steps: 1,
        },
        summary: "It went well.".to_owned(),
        effects: Vec::new(),
        more_effects: 0,
        tokens_before: 900,
        tokens_after: 90,
        call: Some(ModelCall {
            provider: "p".to_owned(),
            model: "m".to_owned(),
            usage: usage(800, 80),
            cost_micro_usd: Some(5),
            duration_ms: 1,
        }),
    };
    let called = vec![reply(vec![call("c1")]), intent("c1")];
    f.append(id, called).await;
    f.append(id, vec![EntryBody::ToolResult(large)]).await;
    let compacted = EntryBody::Compacted(Box::new(compaction));
    f.append(id, vec![compacted.clone()]).await;

    let op = fork(id, 5, began);
    let forked = op.request_id;
    f.write(op).await;
    let journal = f.store.journal(forked, 0, 10).await.unwrap();
    assert_eq!(journal[4].body, compacted);
    let row = f.store.request(forked).await.unwrap().unwrap();
    assert_eq!((row.usage, row.model_calls), (usage(0, 0), 0));
    let page = PageRequest::default();
    let messages = f.store.messages(&session("fork"), &page).await.unwrap();
    let last = messages.items.last().unwrap();
    assert!(last.compaction.is_some() && last.message.text().contains("It went well."));
    let found = f.store.spilled_output(&session("fork"), "out-1").await;
    assert_eq!(found.unwrap(), Some(spilled));
}

pub async fn a_fork_that_cannot_be_is_rejected(test: TestStore) {
    let f = Fixture::new(test);
    let (id, began) = origin(&f).await;
    for seq in [0, 6, 7] {
        let reject = f.rejected(fork(id, seq, began)).await;
        assert!(
            matches!(reject, Reject::Invalid { .. }),
            "{seq}: {reject:?}"
        );
    }
    let unknown = f.rejected(fork(RequestId::generate(), 1, began)).await;
    assert!(matches!(unknown, Reject::NotFound { .. }), "{unknown:?}");
    let there = AcceptRequest {
        session_id: session("s"),
        ..fork(id, 1, began)
    };
    let reject = f.rejected(there).await;
    assert!(matches!(reject, Reject::Conflict { .. }), "{reject:?}");
}

pub async fn a_session_outlives_the_forks_that_show_it(test: TestStore) {
    let f = Fixture::new(test);
    let (id, began) = origin(&f).await;
    let op = fork(id, 4, began);
    let forked = op.request_id;
    f.write(op).await;
    f.append(forked, vec![finished(json!(1))]).await;
    let delete = |id: &str| DeleteSession {
        session_id: session(id),
    };
    let reject = f.rejected(delete("s")).await;
    assert!(matches!(reject, Reject::Conflict { .. }), "{reject:?}");
    f.write(delete("fork")).await;
    f.write(delete("s")).await;
}
