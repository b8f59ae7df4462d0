//! Webhooks of requests.

use std::time::Duration;

use rune_store_runtime::limits::MAX_PUSHES;
use rune_store_runtime::{
    DeleteSession, PageRequest, PutPush, Reject, RemovePush, RequestId, SealedSecret, SettlePush,
};
use serde_json::json;

use super::fixture::{Fixture, finished, session};
use crate::store::TestStore;

fn put(request_id: RequestId, push_id: &str) -> PutPush {
    PutPush {
        request_id,
        push_id: push_id.to_owned(),
        sealed: SealedSecret {
            key_id: "key".to_owned(),
            bytes: vec![1, 2, 3],
        },
    }
}

pub async fn a_webhook_is_due_until_it_was_told_of_the_last_entry_of_its_request(test: TestStore) {
    let f = Fixture::new(test);
    let id = f.accept("s").await.request_id;
    f.write(put(id, "one")).await;
    let due = async || f.store.due_pushes(f.store.now(), 10).await.unwrap();
    let next = async || f.store.next_push(f.store.now()).await.unwrap();
    let row = due().await.remove(0);
    f.write(SettlePush {
        request_id: id,
        push_id: "one".to_owned(),
        created_at: row.created_at,
        seq: 1,
        again_at: None,
    })
    .await;
    assert!(due().await.is_empty(), "it knows the acceptance");
    assert_eq!(next().await, None);
    assert!(f.store.has_open_pushes().await.unwrap(), "it runs");
    let seq = f.append(id, vec![finished(json!("done"))]).await.last_seq;
    let row = due().await.remove(0);
    assert_eq!((row.told, row.attempts, row.sealed.bytes.len()), (1, 0, 3));
    let settle = |again_at| SettlePush {
        request_id: id,
        push_id: "one".to_owned(),
        created_at: row.created_at,
        seq,
        again_at,
    };
    let later = f.store.now().plus(Duration::from_secs(60));
    f.write(settle(Some(later))).await;
    assert!(due().await.is_empty());
    assert_eq!(next().await, Some(later));
    f.pass(Duration::from_secs(120));
    assert_eq!(due().await[0].attempts, 1);
    // One that was replaced meanwhile is told anew.
    f.write(put(id, "one")).await;
    f.write(settle(None)).await;
    let row = due().await.remove(0);
    f.write(SettlePush {
        created_at: row.created_at,
        ..settle(None)
    })
    .await;
    assert!(due().await.is_empty());
    assert!(!f.store.has_open_pushes().await.unwrap());
    let told = f.store.push(id, "one").await.unwrap().unwrap();
    assert_eq!((told.told, told.attempts), (seq, 0));
    f.write(DeleteSession {
        session_id: session("s"),
    })
    .await;
    assert_eq!(f.store.push(id, "one").await.unwrap(), None);
}

pub async fn webhooks_are_listed_replaced_and_removed(test: TestStore) {
    let f = Fixture::new(test);
    let id = f.accept("s").await.request_id;
    for push in ["a", "b", "a", "c"] {
        f.write(put(id, push)).await;
    }
    let list = async |page: PageRequest| {
        let page = f.store.pushes(id, &page).await.unwrap();
        let ids = page.items.into_iter().map(|row| row.push_id);
        (ids.collect::<Vec<_>>(), page.next)
    };
    let (ids, next) = list(PageRequest::first(2)).await;
    assert_eq!(ids, ["a", "b"]);
    let rest = PageRequest {
        limit: 2,
        cursor: next,
    };
    assert_eq!(list(rest).await, (vec!["c".to_owned()], None));
    for _ in 0..2 {
        f.write(RemovePush {
            request_id: id,
            push_id: "b".to_owned(),
        })
        .await;
    }
    assert_eq!(list(PageRequest::default()).await.0, ["a", "c"]);
    let nobody = f.rejected(put(RequestId::generate(), "a")).await;
    assert!(matches!(nobody, Reject::NotFound { .. }));
    for bad in [put(id, ""), put(id, &"x".repeat(1000))] {
        assert!(matches!(f.rejected(bad).await, Reject::Invalid { .. }));
    }
    for n in 2..MAX_PUSHES {
        f.write(put(id, &format!("more-{n}"))).await;
    }
    let full = f.rejected(put(id, "one too many")).await;
    assert!(matches!(full, Reject::Conflict { .. }));
    f.write(put(id, "a")).await;
}
