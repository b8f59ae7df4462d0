//! Journals and what is projected from them.

use futures_util::future::join_all;
use rune_store_runtime::limits::{MAX_ENTRY_BYTES, MAX_PAGE_BYTES};
use rune_store_runtime::{
    AppendEntries, Block, Compaction, ComponentTurn, Cost, DeleteSession, DeploymentId, EntryBody,
    ErrorCode, Failure, ModelAsk, ModelCall, ModelReply, PageRequest, Replaced, ReplicaId, Reply,
    RequestCancel, RequestFilter, RequestStatus, Role, SpilledOutput, StoredImage,
    ToolInvocationState, ToolOutcome, UsageFilter, UsageGroup,
};
use serde_json::json;

use super::fixture::{Fixture, call, finished, intent, reply, result, session, usage};
use crate::store::TestStore;

pub async fn a_plain_request_runs_to_its_end(test: TestStore) {
    let f = Fixture::new(test);
    let id = f.accept("s").await.request_id;
    let replica_id = ReplicaId::generate();
    let started = EntryBody::Started {
        replica_id,
        deployment_id: DeploymentId::generate(),
        attempt: 1,
    };
    let appended = f.append(id, vec![started]).await;
    assert_eq!((appended.first_seq, appended.last_seq), (2, 2));
    assert_eq!(appended.status, RequestStatus::Running);
    let end = vec![reply(vec![Block::text("hi")]), finished(json!("hi"))];
    let appended = f.append(id, end).await;
    assert_eq!((appended.first_seq, appended.last_seq), (3, 4));
    assert_eq!(appended.status, RequestStatus::Completed);
    let row = f.store.request(id).await.unwrap().unwrap();
    assert_eq!(
        (row.status, row.output),
        (RequestStatus::Completed, Some(json!("hi")))
    );
    assert_eq!((row.replica_id, row.attempts), (Some(replica_id), 1));
    assert_eq!(
        (row.model_calls, row.tool_calls, row.usage),
        (1, 0, usage(10, 2))
    );
    assert!(row.updated_at > row.created_at && row.failure.is_none());
    let page = PageRequest::default();
    let messages = f
        .store
        .recent_messages(&session("s"), &page, None)
        .await
        .unwrap();
    let newest = &messages.items[0];
    assert_eq!(newest.message.role, Role::Assistant);
    assert_eq!((newest.seq, newest.message.text().as_str()), (3, "hi"));
}

pub async fn a_tool_call_is_projected_from_intent_and_result(test: TestStore) {
    let f = Fixture::new(test);
    let id = f.accept("s").await.request_id;
    f.append(id, vec![reply(vec![call("a"), call("b")])]).await;
    assert!(f.store.tool_invocations(id).await.unwrap().is_empty());
    f.append(id, vec![intent("b"), intent("a")]).await;
    let rows = f.store.tool_invocations(id).await.unwrap();
    let calls: Vec<&str> = rows.iter().map(|row| row.call_id.as_str()).collect();
    assert_eq!(calls, ["b", "a"]);
    assert_eq!(rows[0].state, ToolInvocationState::Intended);
    assert_eq!(rows[0].input, Some(json!({"path": "a"})));
    let image = StoredImage {
        media_type: "image/png".to_owned(),
        digest: format!("sha256:{}", "1".repeat(64)),
        bytes: 3,
    };
    let failed = ToolOutcome {
        images: vec![image.clone()],
        failure: Some(Failure::new(ErrorCode::Timeout, "too slow")),
        output: None,
        ..result("b")
    };
    f.append(
        id,
        vec![
            EntryBody::ToolResult(result("a")),
            EntryBody::ToolResult(failed),
        ],
    )
    .await;
    let rows = f.store.tool_invocations(id).await.unwrap();
    assert_eq!(rows[1].state, ToolInvocationState::Succeeded);
    assert_eq!((rows[1].duration_ms, rows[1].attempts), (Some(7), 1));
    assert!(rows[1].finished_at > Some(rows[1].started_at));
    assert_eq!(rows[0].state, ToolInvocationState::Failed);
    assert_eq!(
        rows[0].failure.as_ref().map(|f| f.code),
        Some(ErrorCode::Timeout)
    );
    f.append(id, vec![finished(json!("done"))]).await;
    let page = PageRequest::first(1);
    let newest = f
        .store
        .recent_messages(&session("s"), &page, None)
        .await
        .unwrap();
    let messages = newest.items;
    let expected = Block::ToolResult {
        call_id: "b".to_owned(),
        name: "rune__file-read".to_owned(),
        content: "content".to_owned(),
        images: vec![image.into()],
        is_error: true,
    };
    assert_eq!(messages[0].message.role, Role::Tool);
    assert_eq!(messages[0].message.blocks, [expected]);
    assert_eq!(f.store.request(id).await.unwrap().unwrap().tool_calls, 2);
}

pub async fn a_compaction_is_a_message_and_is_billed(test: TestStore) {
    let f = Fixture::new(test);
    let id = f.accept("s").await.request_id;
    let mut compaction = Compaction {
        step: 2,
        replaces: Replaced {
            requests: None,
            steps: 1,
        },
        summary: "It went well.".to_owned(),
        effects: vec!["t {} → done".to_owned()],
        more_effects: 3,
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
    let entry = EntryBody::Compacted(Box::new(compaction.clone()));
    compaction.call = None;
    let unbilled = EntryBody::Compacted(Box::new(compaction.clone()));
    f.append(id, vec![entry, unbilled, finished(json!("done"))])
        .await;
    let page = PageRequest::default();
    let messages = f.store.messages(&session("s"), &page).await.unwrap().items;
    assert_eq!(messages.len(), 3);
    assert_eq!(messages[2].compaction.as_deref(), Some(&compaction));
    let text = messages[2].message.text();
    for part in ["It went well.", "3 earlier calls", "t {} → done"] {
        assert!(text.contains(part), "{text}");
    }
    let row = f.store.request(id).await.unwrap().unwrap();
    assert_eq!((row.usage, row.model_calls), (usage(800, 80), 1));
    let ledger = f.store.usage(&UsageFilter::default(), &page).await.unwrap();
    assert_eq!(ledger.items.len(), 1);
    assert_eq!(ledger.items[0].model, "m");
}

pub async fn what_a_component_does_is_a_message_and_what_it_asks_is_billed(test: TestStore) {
    let f = Fixture::new(test);
    let id = f.accept("s").await.request_id;
    let EntryBody::ModelReply(said) = reply(vec![call("of-the-model"), Block::text("hm")]) else {
        unreachable!("it is a reply")
    };
    let asked = |reply: Option<ModelReply>| {
        EntryBody::ModelAsked(Box::new(ModelAsk {
            step: 1,
            request: "0".repeat(64),
            failure: reply
                .is_none()
                .then(|| Failure::new(ErrorCode::ModelUnavailable, "gone")),
            reply,
        }))
    };
    let turn = |turn, blocks| EntryBody::ComponentTurn(ComponentTurn { turn, blocks });
    // What the model called is the component's affair.
    f.append(id, vec![asked(Some(said)), asked(None)]).await;
    f.append_rejected(id, vec![intent("of-the-model")]).await;
    f.append(id, vec![turn(1, vec![call("a")]), intent("a")])
        .await;
    f.append_rejected(id, vec![turn(2, vec![call("a")])]).await;
    let answer = turn(2, vec![Block::text("done")]);
    let end = vec![
        EntryBody::ToolResult(result("a")),
        answer,
        finished(json!("done")),
    ];
    f.append(id, end).await;
    let page = PageRequest::default();
    let messages = f.store.messages(&session("s"), &page).await.unwrap().items;
    let roles: Vec<Role> = messages.iter().map(|row| row.message.role).collect();
    assert_eq!(
        roles,
        [Role::User, Role::Assistant, Role::Tool, Role::Assistant]
    );
    assert_eq!(messages[3].message.text(), "done");
    assert_eq!(f.store.tool_invocations(id).await.unwrap().len(), 1);
    let row = f.store.request(id).await.unwrap().unwrap();
    assert_eq!(
        (row.usage, row.model_calls, row.tool_calls),
        (usage(10, 2), 1, 1)
    );
}

pub async fn a_spilled_output_belongs_to_its_session(test: TestStore) {
    let f = Fixture::new(test);
    let spilled = SpilledOutput {
        handle: "out-1".to_owned(),
        digest: "sha256:1".to_owned(),
        bytes: 40_000,
    };
    for name in ["s", "s", "other"] {
        let id = f.accept(name).await.request_id;
        let outcome = ToolOutcome {
            output: None,
            spilled: (name == "s").then(|| spilled.clone()),
            ..result("a")
        };
        let entries = vec![reply(vec![call("a")]), EntryBody::ToolResult(outcome)];
        f.append(id, [entries, vec![finished(json!("done"))]].concat())
            .await;
    }
    let find = async |name: &str, handle: &str| {
        f.store
            .spilled_output(&session(name), handle)
            .await
            .unwrap()
    };
    assert_eq!(find("s", "out-1").await, Some(spilled));
    assert_eq!(find("s", "out-2").await, None);
    assert_eq!(find("other", "out-1").await, None);
    assert_eq!(find("none", "out-1").await, None);
    let image = StoredImage {
        media_type: "image/png".to_owned(),
        digest: format!("sha256:{}", "0123456789abcdef".repeat(4)),
        bytes: 7,
    };
    let id = f.accept("s").await.request_id;
    let seen = ToolOutcome {
        images: vec![image.clone()],
        ..result("a")
    };
    f.append(
        id,
        vec![reply(vec![call("a")]), EntryBody::ToolResult(seen)],
    )
    .await;
    let found = find("s", "img-0123456789abcdef").await.unwrap();
    assert_eq!((found.digest, found.bytes), (image.digest, 7));
    assert_eq!(find("other", "img-0123456789abcdef").await, None);
    f.append(id, vec![finished(json!("done"))]).await;
    f.write(DeleteSession {
        session_id: session("s"),
    })
    .await;
    assert_eq!(find("s", "out-1").await, None);
    assert_eq!(find("s", "img-0123456789abcdef").await, None);
}

pub async fn a_refused_tool_call_has_no_input(test: TestStore) {
    let f = Fixture::new(test);
    let id = f.accept("s").await.request_id;
    let refused = ToolOutcome {
        failure: Some(Failure::new(ErrorCode::Denied, "not allowed")),
        output: None,
        attempts: 0,
        duration_ms: 0,
        ..result("a")
    };
    f.append(
        id,
        vec![reply(vec![call("a")]), EntryBody::ToolResult(refused)],
    )
    .await;
    let rows = f.store.tool_invocations(id).await.unwrap();
    assert_eq!(rows.len(), 1);
    assert_eq!(
        (rows[0].input.as_ref(), rows[0].state),
        (None, ToolInvocationState::Failed)
    );
    assert_eq!(rows[0].finished_at, Some(rows[0].started_at));
}

pub async fn a_retried_append_writes_once(test: TestStore) {
    let f = Fixture::new(test);
    let id = f.accept("s").await.request_id;
    let op = AppendEntries {
        request_id: id,
        entries: vec![reply(vec![]), finished(json!(1))],
    };
    let command = f.command(op);
    let first = f.store.submit(command.clone()).await.unwrap();
    let again = f.store.submit(command).await.unwrap();
    assert_eq!(first, again);
    assert_eq!(f.store.journal(id, 0, 10).await.unwrap().len(), 3);
    assert_eq!(
        f.store.request(id).await.unwrap().unwrap().usage,
        usage(10, 2)
    );
}

pub async fn cancel_is_asked_for_once(test: TestStore) {
    let f = Fixture::new(test);
    let id = f.accept("s").await.request_id;
    let cancel = || RequestCancel {
        request_id: id,
        reason: "changed my mind".to_owned(),
    };
    let command = f.command(cancel());
    let first = f.store.submit(command.clone()).await.unwrap();
    assert_eq!(f.store.submit(command).await.unwrap(), first);
    let Reply::Appended(first) = first else {
        unreachable!("cancel answers Appended")
    };
    assert_eq!(
        (first.first_seq, first.last_seq, first.cancel_requested),
        (2, 2, true)
    );
    let second = f.write(cancel()).await;
    assert_eq!((second.first_seq, second.last_seq), (3, 2));
    assert!(
        f.append(id, vec![finished(json!(1))])
            .await
            .cancel_requested
    );
    let after = f.write(cancel()).await;
    assert_eq!(
        (after.last_seq, after.status),
        (3, RequestStatus::Completed)
    );

    let ended = f.accept("s").await.request_id;
    f.append(ended, vec![finished(json!(1))]).await;
    let late = f
        .write(RequestCancel {
            request_id: ended,
            reason: String::new(),
        })
        .await;
    assert!(!late.cancel_requested);
}

pub async fn journals_are_read_from_any_position(test: TestStore) {
    let f = Fixture::new(test);
    let id = f.accept("s").await.request_id;
    let other = f.accept("s").await.request_id;
    for n in 0..9 {
        let notice = EntryBody::Notice {
            code: n.to_string(),
            message: String::new(),
        };
        f.append(id, vec![notice.clone()]).await;
        f.append(other, vec![notice]).await;
    }
    let seqs = async |after, limit| {
        let entries = f.store.journal(id, after, limit).await.unwrap();
        assert!(entries.iter().all(|entry| entry.request_id == id));
        entries.iter().map(|entry| entry.seq).collect::<Vec<_>>()
    };
    assert_eq!(seqs(0, 100).await, (1..=10).collect::<Vec<_>>());
    assert_eq!(seqs(4, 3).await, [5, 6, 7]);
    assert!(seqs(10, 3).await.is_empty());
    // What a client says it has seen may be any number, and never shows what is another request's.
    for far in [
        1 << 20,
        1 << 21,
        i64::MAX as u64,
        i64::MAX as u64 + 1,
        u64::MAX,
    ] {
        assert!(seqs(far, 3).await.is_empty(), "{far}");
    }
}

pub async fn what_is_read_at_once_ends_where_it_is_large(test: TestStore) {
    let f = Fixture::new(test);
    let large = || json!("x".repeat(MAX_ENTRY_BYTES - 1024));
    let entries = 2 * MAX_PAGE_BYTES / MAX_ENTRY_BYTES;
    let id = f.accept("s").await.request_id;
    for _ in 1..entries {
        let said = reply(vec![Block::text(large().as_str().unwrap())]);
        f.append(id, vec![said]).await;
    }
    let mut journal = f.store.journal(id, 0, 1000).await.unwrap();
    assert!((2..entries).contains(&journal.len()), "{}", journal.len());
    while let Some(last) = journal.last() {
        let more = f.store.journal(id, last.seq, 1000).await.unwrap();
        if more.is_empty() {
            break;
        }
        journal.extend(more);
    }
    let seqs = journal.iter().map(|entry| entry.seq);
    assert!(seqs.eq(1..=entries as u64));

    f.append(id, vec![finished(large())]).await;
    for _ in 1..entries {
        let id = f.accept("s").await.request_id;
        f.append(id, vec![finished(large())]).await;
    }
    let mut page = PageRequest::first(PageRequest::MAX_LIMIT);
    let (mut pages, mut rows) = (0, 0);
    loop {
        let filter = RequestFilter::default();
        let found = f.store.requests(&filter, &page).await.unwrap();
        (pages, rows) = (pages + 1, rows + found.items.len());
        page.cursor = found.next;
        if page.cursor.is_none() {
            break;
        }
    }
    assert_eq!(rows, entries);
    assert!((2..=4).contains(&pages), "{pages}");
}

pub async fn the_usage_ledger_sums_up_to_the_request(test: TestStore) {
    let f = Fixture::new(test);
    let id = f.accept("s").await.request_id;
    f.append(id, vec![reply(vec![]), reply(vec![])]).await;
    let middle = f.store.now();
    f.append(id, vec![reply(vec![]), finished(json!(1))]).await;
    let list = async |filter: UsageFilter| {
        f.store
            .usage(&filter, &PageRequest::default())
            .await
            .unwrap()
            .items
    };
    let rows = list(UsageFilter {
        request_id: Some(id),
        ..UsageFilter::default()
    })
    .await;
    assert_eq!(
        rows.iter().map(|row| row.seq).collect::<Vec<_>>(),
        [4, 3, 2]
    );
    let mut sum = usage(0, 0);
    rows.iter().for_each(|row| sum.add(&row.usage));
    let row = f.store.request(id).await.unwrap().unwrap();
    assert_eq!(row.usage, sum);
    let cost = Cost {
        micro_usd: Some(21),
        unpriced_calls: 0,
    };
    assert_eq!(row.cost, cost);
    let late = list(UsageFilter {
        since: Some(middle),
        ..UsageFilter::default()
    })
    .await;
    assert_eq!(late.len(), 1);
    let none = list(UsageFilter {
        agent: Some("x".to_owned()),
        ..UsageFilter::default()
    })
    .await;
    assert!(none.is_empty());
}

pub async fn commands_of_one_caller_keep_their_order(test: TestStore) {
    let f = Fixture::new(test);
    let id = f.accept("s").await.request_id;
    let writes = (0..200).map(|n| {
        let notice = EntryBody::Notice {
            code: n.to_string(),
            message: String::new(),
        };
        f.store.write(AppendEntries {
            request_id: id,
            entries: vec![notice],
        })
    });
    let replies = join_all(writes).await;
    for (n, reply) in (2..).zip(replies) {
        assert_eq!(reply.unwrap().first_seq, n);
    }
}

pub async fn the_usage_ledger_is_summed_by_group(test: TestStore) {
    let f = Fixture::new(test);
    let id = f.accept("s").await.request_id;
    let unpriced = match reply(vec![]) {
        EntryBody::ModelReply(reply) => EntryBody::ModelReply(ModelReply {
            model: "new".to_owned(),
            cost_micro_usd: None,
            ..reply
        }),
        other => other,
    };
    f.append(id, vec![reply(vec![]), unpriced, reply(vec![])])
        .await;
    let row = f.store.request(id).await.unwrap().unwrap();
    let both = Cost {
        micro_usd: Some(14),
        unpriced_calls: 1,
    };
    assert_eq!(row.cost, both);
    let totals = async |by| {
        let filter = UsageFilter::default();
        f.store.usage_totals(&filter, by).await.unwrap()
    };
    let by_model = totals(UsageGroup::Model).await;
    let names: Vec<_> = by_model.iter().map(|t| t.model.as_deref()).collect();
    assert_eq!(names, [Some("new"), Some("offline")]);
    assert_eq!(by_model[0].cost.micro_usd, None, "unknown is not 0");
    assert_eq!(by_model[0].cost.unpriced_calls, 1);
    assert_eq!((by_model[1].calls, by_model[1].usage), (2, usage(20, 4)));
    assert_eq!(by_model[1].cost.micro_usd, Some(14));
    for by in [UsageGroup::Agent, UsageGroup::Day, UsageGroup::Caller] {
        let found = totals(by).await;
        assert_eq!(found.len(), 1, "{by:?}");
        assert_eq!((found[0].calls, found[0].cost), (3, both), "{by:?}");
    }
    assert_eq!(totals(UsageGroup::AgentModel).await.len(), 2);
    assert_eq!(totals(UsageGroup::Caller).await[0].caller, Some(row.caller));
    let none = UsageFilter {
        agent: Some("x".to_owned()),
        ..UsageFilter::default()
    };
    let found = f.store.usage_totals(&none, UsageGroup::Agent).await;
    assert_eq!(found.unwrap(), []);
}
