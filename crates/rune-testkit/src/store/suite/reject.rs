//! Commands that are refused.

use rune_store_runtime::limits::{
    MAX_CALL_COST_MICRO_USD, MAX_CALL_TOKENS, MAX_ENTRY_BYTES, MAX_JSON_DEPTH,
};
use rune_store_runtime::{
    AcceptRequest, AppendEntries, Command, Cost, EntryBody, Leadership, MemoryPut, MemoryScope,
    ModelReply, Reject, RequestCancel, RequestId, RequestStatus, StoreError, Timestamp, Usage,
};
use serde_json::{Value, json};

use super::fixture::{Fixture, accept, call, finished, intent, reply, result};
use crate::store::TestStore;

pub async fn entries_that_break_the_journal_are_rejected(test: TestStore) {
    let f = Fixture::new(test);
    let id = f.accept("s").await.request_id;
    let outcome = |id| EntryBody::ToolResult(result(id));
    let not_ended = EntryBody::Finished {
        status: RequestStatus::Running,
        output: None,
        failure: None,
        usage: Usage::default(),
        cost: Cost::default(),
    };
    f.append(id, vec![reply(vec![call("known")])]).await;
    let bad = [
        vec![],
        vec![EntryBody::Accepted {
            input: json!(1),
            forked_from: None,
        }],
        vec![EntryBody::CancelRequested {
            reason: String::new(),
        }],
        vec![intent("unknown")],
        vec![outcome("unknown")],
        vec![outcome("later"), reply(vec![call("later")])],
        vec![intent("known"), intent("known")],
        vec![outcome("known"), outcome("known")],
        vec![outcome("known"), intent("known")],
        vec![reply(vec![call("known")])],
        vec![reply(vec![call("twice"), call("twice")])],
        vec![not_ended],
    ];
    for entries in bad {
        let shown = format!("{entries:?}");
        let reject = f.append_rejected(id, entries).await;
        assert!(
            matches!(reject, Reject::Invalid { .. }),
            "{shown}: {reject:?}"
        );
    }
    let missing = RequestId::generate();
    let reject = f.append_rejected(missing, vec![finished(json!(1))]).await;
    assert!(matches!(reject, Reject::NotFound { .. }));
    let cancel = RequestCancel {
        request_id: missing,
        reason: String::new(),
    };
    assert!(matches!(f.rejected(cancel).await, Reject::NotFound { .. }));
    f.append(id, vec![intent("known")]).await;
    f.append(id, vec![outcome("known")]).await;
}

pub async fn a_rejected_command_writes_nothing(test: TestStore) {
    let f = Fixture::new(test);
    let id = f.accept("s").await.request_id;
    let before = f.store.request(id).await.unwrap();
    let entries = vec![reply(vec![call("a")]), intent("a"), intent("unknown")];
    let op = AppendEntries {
        request_id: id,
        entries,
    };
    let command = f.command(op);
    assert!(f.store.submit(command.clone()).await.is_err());
    assert!(f.store.submit(command).await.is_err());
    assert_eq!(f.store.request(id).await.unwrap(), before);
    assert_eq!(f.store.journal(id, 0, 10).await.unwrap().len(), 1);
    assert!(f.store.tool_invocations(id).await.unwrap().is_empty());
    assert_eq!(
        f.append(id, vec![reply(vec![call("a")])]).await.first_seq,
        2
    );
}

/// No store is led by this one.
pub async fn a_command_of_another_leadership_is_rejected(test: TestStore) {
    let f = Fixture::new(test);
    let id = f.accept("s").await.request_id;
    let made = Leadership {
        term: u64::MAX,
        node: 1,
    };
    let cancel = RequestCancel {
        request_id: id,
        reason: String::new(),
    };
    let append = AppendEntries {
        request_id: id,
        entries: vec![reply(vec![])],
    };
    for command in [f.command(cancel), f.command(append)] {
        let fenced = f.store.submit(command.fenced(made)).await.unwrap_err();
        assert_eq!(fenced, StoreError::Rejected(Reject::Fenced { made }));
    }
    assert_eq!(f.store.journal(id, 0, 10).await.unwrap().len(), 1);
}

pub async fn nothing_follows_the_end(test: TestStore) {
    let f = Fixture::new(test);
    let id = f.accept("s").await.request_id;
    let after_end = vec![finished(json!(1)), reply(vec![])];
    let reject = f.append_rejected(id, after_end).await;
    assert!(matches!(reject, Reject::RequestEnded { .. }), "{reject:?}");
    f.append(id, vec![finished(json!(1))]).await;
    for entry in [reply(vec![]), finished(json!(2))] {
        let reject = f.append_rejected(id, vec![entry]).await;
        assert!(matches!(reject, Reject::RequestEnded { .. }), "{reject:?}");
    }
}

pub async fn limits_are_rejections(test: TestStore) {
    let f = Fixture::new(test);
    let id = f.accept("s").await.request_id;
    let large = "x".repeat(MAX_ENTRY_BYTES);
    let deep = (0..=MAX_JSON_DEPTH).fold(Value::Null, |inner, _| json!([inner]));
    for input in [json!(large), deep.clone()] {
        let op = AcceptRequest {
            input,
            ..accept("s")
        };
        assert!(matches!(f.rejected(op).await, Reject::Invalid { .. }));
    }
    let notice = EntryBody::Notice {
        code: String::new(),
        message: large,
    };
    assert!(matches!(
        f.append_rejected(id, vec![notice]).await,
        Reject::Invalid { .. }
    ));
    let EntryBody::ModelReply(model) = reply(vec![]) else {
        unreachable!("a model reply")
    };
    let usage = Usage {
        output_tokens: MAX_CALL_TOKENS + 1,
        ..Usage::default()
    };
    let tokens = ModelReply {
        usage,
        ..model.clone()
    };
    let dear = ModelReply {
        cost_micro_usd: Some(MAX_CALL_COST_MICRO_USD + 1),
        ..model
    };
    for reply in [tokens, dear] {
        assert!(matches!(
            f.append_rejected(id, vec![EntryBody::ModelReply(reply)])
                .await,
            Reject::Invalid { .. }
        ));
    }
    let put = |key: String, value: Value| MemoryPut {
        scope: MemoryScope {
            namespace: "dev".to_owned(),
            agent: "echo".to_owned(),
        },
        key,
        value,
        tags: Vec::new(),
    };
    for op in [
        put(String::new(), json!(1)),
        put("k".repeat(257), json!(1)),
        put("k".to_owned(), deep),
    ] {
        assert!(matches!(f.rejected(op).await, Reject::Invalid { .. }));
    }
    for millis in [-1, i64::MAX] {
        let command = Command::new(Timestamp::from_millis(millis), accept("s"));
        assert!(f.store.submit(command).await.is_err());
    }
    f.append(id, vec![finished(json!("still there"))]).await;
}
