//! Sessions and accepted requests.

use rune_store_runtime::limits::IDEMPOTENCY_WINDOW;
use rune_store_runtime::{
    AcceptRequest, CreateSession, DeleteSession, EntryBody, IdempotencyKey, Message, PageRequest,
    Reject, RequestCancel, RequestFilter, RequestId, RequestOrder, RequestStatus, SessionFilter,
    StoreError, UsageFilter,
};
use serde_json::json;

use super::fixture::{Fixture, accept, finished, reply, session};
use crate::store::TestStore;

pub async fn accepting_a_request_writes_everything_in_one_step(test: TestStore) {
    let f = Fixture::new(test);
    let op = accept("s");
    let accepted = f.write(op.clone()).await;
    assert_eq!(
        (accepted.request_id, accepted.duplicate),
        (op.request_id, false)
    );
    let row = f.store.request(op.request_id).await.unwrap().unwrap();
    assert_eq!((row.status, row.last_seq), (RequestStatus::Accepted, 1));
    assert_eq!((row.metadata, row.caller), (op.metadata, op.caller));
    assert_eq!(row.deployment_id, op.deployment_id);
    let journal = f.store.journal(op.request_id, 0, 10).await.unwrap();
    assert_eq!(journal.len(), 1);
    assert_eq!((journal[0].seq, journal[0].at), (1, row.created_at));
    assert_eq!(
        journal[0].body,
        EntryBody::Accepted {
            input: json!("hello"),
            forked_from: None,
        }
    );
    let page = PageRequest::default();
    let messages = f.store.messages(&session("s"), &page).await.unwrap().items;
    assert_eq!(messages.len(), 1);
    assert_eq!(messages[0].message, Message::user("hello"));
    // It has not ended.
    let recent = f
        .store
        .recent_messages(&session("s"), &page, None)
        .await
        .unwrap();
    assert!(recent.items.is_empty());
    let row = f.store.session(&session("s")).await.unwrap().unwrap();
    assert_eq!((row.messages, row.requests), (1, 1));
    assert_eq!(
        (row.namespace.as_str(), row.agent.as_str()),
        ("dev", "echo")
    );
}

pub async fn a_retried_accept_is_the_same_request(test: TestStore) {
    let f = Fixture::new(test);
    let op = accept("s");
    let command = f.command(op.clone());
    let first = f.store.submit(command.clone()).await.unwrap();
    assert_eq!(f.store.submit(command).await.unwrap(), first);
    assert_eq!(
        f.store.journal(op.request_id, 0, 10).await.unwrap().len(),
        1
    );
    let other = f.rejected(op).await;
    assert!(matches!(other, Reject::Conflict { .. }), "{other:?}");
}

fn keyed(key: &str, fingerprint: &str) -> AcceptRequest {
    let key = IdempotencyKey {
        scope: "alice/echo".to_owned(),
        key: key.to_owned(),
        fingerprint: fingerprint.to_owned(),
    };
    AcceptRequest {
        idempotency: Some(key),
        ..accept("s")
    }
}

pub async fn an_idempotency_key_answers_the_earlier_request(test: TestStore) {
    let f = Fixture::new(test);
    let first = f.write(keyed("k", "body")).await;
    let second = f.write(keyed("k", "body")).await;
    assert!(second.duplicate);
    assert_eq!(second.request_id, first.request_id);
    let other = f.rejected(keyed("k", "another body")).await;
    assert!(matches!(other, Reject::Conflict { .. }), "{other:?}");
    assert!(!f.write(keyed("k2", "another body")).await.duplicate);
    let all = f
        .store
        .requests(&RequestFilter::default(), &PageRequest::default())
        .await
        .unwrap();
    assert_eq!(all.items.len(), 2);
}

pub async fn a_request_follows_only_the_newest_one_of_its_session(test: TestStore) {
    let f = Fixture::new(test);
    let first = f.accept("s").await.request_id;
    f.accept("other").await;
    let follow = |of, key: &str| AcceptRequest {
        follows: Some(of),
        ..keyed(key, "body")
    };
    let second = f.write(follow(first, "k")).await.request_id;
    let late = follow(first, "late");
    let late_id = late.request_id;
    let refused = f.rejected(late).await;
    assert!(
        matches!(&refused, Reject::Superseded { id } if *id == first.to_string()),
        "{refused:?}"
    );
    assert_eq!(f.store.request(late_id).await.unwrap(), None);
    // The key is looked at first: what was accepted is answered again.
    let again = f.write(follow(first, "k")).await;
    assert_eq!((again.request_id, again.duplicate), (second, true));
    f.write(follow(second, "next")).await;
    let elsewhere = AcceptRequest {
        follows: Some(second),
        ..accept("new")
    };
    let refused = f.rejected(elsewhere).await;
    assert!(matches!(refused, Reject::Superseded { .. }), "{refused:?}");
}

pub async fn an_idempotency_key_is_forgotten_after_its_window(test: TestStore) {
    let f = Fixture::new(test);
    f.write(keyed("k", "body")).await;
    f.pass(IDEMPOTENCY_WINDOW * 2);
    assert!(!f.write(keyed("k", "another body")).await.duplicate);
    assert!(f.write(keyed("k", "another body")).await.duplicate);
}

pub async fn a_session_of_another_agent_is_a_conflict(test: TestStore) {
    let f = Fixture::new(test);
    f.accept("s").await;
    let op = AcceptRequest {
        agent: "other".to_owned(),
        ..accept("s")
    };
    let id = op.request_id;
    assert!(matches!(f.rejected(op).await, Reject::Conflict { .. }));
    assert_eq!(f.store.request(id).await.unwrap(), None);
}

pub async fn requests_are_listed_newest_first_by_filter(test: TestStore) {
    let f = Fixture::new(test);
    let mut ids: Vec<RequestId> = Vec::new();
    for n in 0..5 {
        ids.push(
            f.accept(if n % 2 == 0 { "even" } else { "odd" })
                .await
                .request_id,
        );
    }
    f.append(ids[4], vec![finished(json!("done"))]).await;
    ids.reverse();

    let list = async |filter: RequestFilter, page: PageRequest| {
        let page = f.store.requests(&filter, &page).await.unwrap();
        (
            page.items.iter().map(|row| row.id).collect::<Vec<_>>(),
            page.next,
        )
    };
    let all = RequestFilter::default();
    assert_eq!(
        list(all.clone(), PageRequest::default()).await,
        (ids.clone(), None)
    );
    let (part, next) = list(all.clone(), PageRequest::first(2)).await;
    assert_eq!(part, ids[..2]);
    // A newer row does not move the next page.
    f.accept("even").await;
    let (part, next) = list(
        all.clone(),
        PageRequest {
            limit: 2,
            cursor: next,
        },
    )
    .await;
    assert_eq!(part, ids[2..4]);
    let (part, next) = list(
        all,
        PageRequest {
            limit: 2,
            cursor: next,
        },
    )
    .await;
    assert_eq!((part, next), (ids[4..].to_vec(), None));

    let odd = RequestFilter {
        session_id: Some(session("odd")),
        ..RequestFilter::default()
    };
    assert_eq!(list(odd, PageRequest::default()).await.0, [ids[1], ids[3]]);
    let open = RequestFilter {
        statuses: vec![RequestStatus::Accepted, RequestStatus::Running],
        agent: Some("echo".to_owned()),
        ..RequestFilter::default()
    };
    assert!(!list(open, PageRequest::default()).await.0.contains(&ids[0]));
    let ended = RequestFilter {
        statuses: vec![RequestStatus::Completed],
        ..RequestFilter::default()
    };
    assert_eq!(list(ended, PageRequest::default()).await.0, [ids[0]]);
    f.write(RequestCancel {
        request_id: ids[2],
        reason: "test".to_owned(),
    })
    .await;
    let cancelled = RequestFilter {
        cancel_requested: Some(true),
        ..RequestFilter::default()
    };
    assert_eq!(list(cancelled, PageRequest::default()).await.0, [ids[2]]);
    let nobody = RequestFilter {
        agent: Some("nobody".to_owned()),
        ..RequestFilter::default()
    };
    assert!(list(nobody, PageRequest::default()).await.0.is_empty());
}

pub async fn requests_are_listed_and_counted_by_their_last_change(test: TestStore) {
    let f = Fixture::new(test);
    let mut ids: Vec<RequestId> = Vec::new();
    for caller in ["ada", "bob", "ada", "ada"] {
        let op = AcceptRequest {
            caller: caller.to_owned(),
            ..accept("s")
        };
        ids.push(f.write(op).await.request_id);
    }
    f.append(ids[0], vec![finished(json!("done"))]).await;
    let changed = f.store.request(ids[0]).await.unwrap().unwrap().updated_at;

    let filter = RequestFilter {
        caller: Some("ada".to_owned()),
        order: RequestOrder::Changed,
        ..RequestFilter::default()
    };
    let mut found = Vec::new();
    let mut page = PageRequest::first(2);
    loop {
        let part = f.store.requests(&filter, &page).await.unwrap();
        found.extend(part.items.iter().map(|row| row.id));
        page.cursor = part.next;
        if page.cursor.is_none() {
            break;
        }
    }
    assert_eq!(found, [ids[0], ids[3], ids[2]]);
    assert_eq!(f.store.request_count(&filter).await.unwrap(), 3);
    let recent = RequestFilter {
        changed_since: Some(changed),
        ..filter
    };
    let page = PageRequest::first(5);
    let part = f.store.requests(&recent, &page).await.unwrap();
    assert_eq!(
        part.items.iter().map(|row| row.id).collect::<Vec<_>>(),
        [ids[0]]
    );
    assert_eq!(f.store.request_count(&recent).await.unwrap(), 1);
    let wrong = PageRequest {
        limit: 1,
        cursor: Some("00".to_owned()),
    };
    assert!(f.store.requests(&recent, &wrong).await.is_err());
}

pub async fn messages_are_paged_in_order(test: TestStore) {
    let f = Fixture::new(test);
    for n in 0..3 {
        let id = f.accept("s").await.request_id;
        let text = format!("answer {n}");
        let answer = reply(vec![rune_store_runtime::Block::text(text)]);
        f.append(id, vec![answer, finished(json!(n))]).await;
    }
    let id = session("s");
    let mut page = PageRequest::first(4);
    let first = f.store.messages(&id, &page).await.unwrap();
    page.cursor = first.next.clone();
    let second = f.store.messages(&id, &page).await.unwrap();
    assert_eq!(
        (first.items.len(), second.items.len(), second.next),
        (4, 2, None)
    );
    let texts: Vec<String> = first
        .items
        .iter()
        .chain(&second.items)
        .map(|m| m.message.text())
        .collect();
    assert_eq!(
        texts,
        [
            "hello", "answer 0", "hello", "answer 1", "hello", "answer 2"
        ]
    );
    let mut page = PageRequest::first(4);
    let newest = f.store.recent_messages(&id, &page, None).await.unwrap();
    page.cursor.clone_from(&newest.next);
    let oldest = f.store.recent_messages(&id, &page, None).await.unwrap();
    assert_eq!(oldest.next, None);
    let recent = newest.items.iter().chain(&oldest.items);
    let mut recent: Vec<String> = recent.map(|m| m.message.text()).collect();
    recent.reverse();
    assert_eq!(recent, texts);
    let measured = newest.items[0].measure.unwrap();
    assert_eq!((measured.estimated, measured.reported), (8, 10));
    assert_eq!(newest.items[1].measure, None);
    let none = f
        .store
        .messages(&session("none"), &PageRequest::default())
        .await
        .unwrap();
    assert!(none.items.is_empty() && none.next.is_none());
}

pub async fn a_session_is_created_once_and_deleted_whole(test: TestStore) {
    let f = Fixture::new(test);
    let create = |agent: &str| CreateSession {
        session_id: session("s"),
        namespace: "dev".to_owned(),
        agent: agent.to_owned(),
        metadata: [("colour".to_owned(), json!("blue"))].into(),
    };
    f.write(create("echo")).await;
    f.write(create("echo")).await;
    assert!(matches!(
        f.rejected(create("other")).await,
        Reject::Conflict { .. }
    ));
    let row = f.store.session(&session("s")).await.unwrap().unwrap();
    assert_eq!((row.messages, row.requests, row.metadata.len()), (0, 0, 1));

    let id = f.accept("s").await.request_id;
    f.append(id, vec![reply(vec![])]).await;
    let delete = || DeleteSession {
        session_id: session("s"),
    };
    assert!(matches!(
        f.rejected(delete()).await,
        Reject::Conflict { .. }
    ));
    f.append(id, vec![finished(json!(1))]).await;
    let command = f.command(delete());
    f.store.submit(command.clone()).await.unwrap();
    f.store.submit(command).await.unwrap();
    assert!(matches!(
        f.rejected(delete()).await,
        Reject::NotFound { .. }
    ));

    assert_eq!(f.store.session(&session("s")).await.unwrap(), None);
    assert_eq!(f.store.request(id).await.unwrap(), None);
    assert!(f.store.journal(id, 0, 10).await.unwrap().is_empty());
    assert!(
        f.store
            .recent_messages(&session("s"), &PageRequest::default(), None)
            .await
            .unwrap()
            .items
            .is_empty()
    );
    let ledger = f
        .store
        .usage(&UsageFilter::default(), &PageRequest::default())
        .await
        .unwrap();
    assert_eq!(
        ledger.items.len(),
        1,
        "a cost does not vanish with its session"
    );
    f.accept("s").await;
    let page = PageRequest::default();
    let messages = f.store.messages(&session("s"), &page).await.unwrap();
    assert_eq!(messages.items.len(), 1);
    let sessions = f
        .store
        .sessions(&SessionFilter::default(), &PageRequest::default())
        .await;
    assert_eq!(sessions.unwrap().items.len(), 1);
    let bad = PageRequest {
        limit: 1,
        cursor: Some("bad".to_owned()),
    };
    let refused = f.store.sessions(&SessionFilter::default(), &bad).await;
    assert!(matches!(refused, Err(StoreError::Cursor(_))));
}
