//! Cache, audit, memory, and paging.

use std::time::Duration;

use rune_store_runtime::{
    AppendEntries, AuditFilter, AuditId, AuditVerdict, CachePut, CacheRemove, CacheSweep,
    DeleteDeployment, DeploymentId, EntryBody, MemoryForget, MemoryPut, MemoryQuery, MemoryScope,
    PageRequest, RecordAudit, RequestFilter, StoreError, UsageFilter,
};
use serde_json::json;

use super::fixture::{Fixture, accept};
use crate::store::TestStore;

pub async fn cached_values_expire(test: TestStore) {
    let f = Fixture::new(test);
    let expires_at = f.store.now().plus(Duration::from_secs(60));
    for (key, value) in [("a", 1), ("a", 2), ("b", 3), ("c", 4)] {
        f.write(CachePut {
            key: key.to_owned(),
            value: json!(value),
            expires_at,
        })
        .await;
    }
    let get = async |key: &str| {
        let row = f.store.cached(key, f.store.now()).await.unwrap();
        row.map(|row| row.value)
    };
    assert_eq!(get("a").await, Some(json!(2)));
    f.write(CacheRemove {
        key: "b".to_owned(),
    })
    .await;
    f.write(CacheRemove {
        key: "b".to_owned(),
    })
    .await;
    assert_eq!(get("b").await, None);
    assert_eq!(f.write(CacheSweep { limit: 10 }).await, 0);
    f.pass(Duration::from_secs(61));
    assert_eq!(get("a").await, None);
    assert_eq!(f.write(CacheSweep { limit: 1 }).await, 1);
    assert_eq!(f.write(CacheSweep { limit: 10 }).await, 1);
}

pub async fn audit_rows_are_listed_newest_first(test: TestStore) {
    let f = Fixture::new(test);
    let request_id = f.accept("s").await.request_id;
    let verdicts = [
        AuditVerdict::Allowed,
        AuditVerdict::Denied,
        AuditVerdict::Asked,
    ];
    for verdict in verdicts {
        let row = RecordAudit {
            audit_id: AuditId::generate(),
            kind: "tool".to_owned(),
            resource: "rune@shell-exec".to_owned(),
            verdict,
            reason: "because".to_owned(),
            caller: "alice".to_owned(),
            request_id: (verdict == AuditVerdict::Denied).then_some(request_id),
        };
        f.write(row).await;
    }
    let list = async |filter: AuditFilter| {
        let rows = f
            .store
            .audit(&filter, &PageRequest::default())
            .await
            .unwrap();
        rows.items.iter().map(|row| row.verdict).collect::<Vec<_>>()
    };
    let all = list(AuditFilter::default()).await;
    assert_eq!(all, verdicts.into_iter().rev().collect::<Vec<_>>());
    let of = AuditFilter {
        request_id: Some(request_id),
        ..AuditFilter::default()
    };
    assert_eq!(list(of).await, [AuditVerdict::Denied]);
    let asked = AuditFilter {
        verdict: Some(AuditVerdict::Asked),
        ..AuditFilter::default()
    };
    assert_eq!(list(asked).await, [AuditVerdict::Asked]);
    let none = AuditFilter {
        kind: Some("deployment".to_owned()),
        ..AuditFilter::default()
    };
    assert!(list(none).await.is_empty());
}

pub async fn audit_rows_ride_along_with_the_change_they_tell_of(test: TestStore) {
    let f = Fixture::new(test);
    let row = |resource: &str| RecordAudit {
        audit_id: AuditId::generate(),
        kind: "tool".to_owned(),
        resource: resource.to_owned(),
        verdict: AuditVerdict::Allowed,
        reason: String::new(),
        caller: "alice".to_owned(),
        request_id: None,
    };
    let trail = async || {
        let page = PageRequest::default();
        let rows = f.store.audit(&AuditFilter::default(), &page).await.unwrap();
        let names = rows.items.into_iter().map(|row| row.resource);
        names.collect::<Vec<_>>()
    };
    // Every kind of change can carry rows, also the two with receipts of their own.
    let accept = accept("s");
    let commands = [
        f.command(accept.clone()).audited(vec![row("accept")]),
        f.command(AppendEntries {
            request_id: accept.request_id,
            entries: vec![EntryBody::Notice {
                code: "note".to_owned(),
                message: String::new(),
            }],
        })
        .audited(vec![row("intent 1"), row("intent 2")]),
        f.command(CacheRemove {
            key: "b".to_owned(),
        })
        .audited(vec![row("change")]),
    ];
    for command in &commands {
        let first = f.store.submit(command.clone()).await.unwrap();
        let again = f.store.submit(command.clone()).await.unwrap();
        assert_eq!(first, again);
    }
    let all = ["change", "intent 2", "intent 1", "accept"];
    assert_eq!(trail().await, all);
    let rejected = f
        .command(DeleteDeployment {
            deployment_id: DeploymentId::generate(),
        })
        .audited(vec![row("rejected")]);
    let refused = f.store.submit(rejected).await.unwrap_err();
    assert!(matches!(refused, StoreError::Rejected(_)), "{refused}");
    assert_eq!(trail().await, all);
}

pub async fn memories_are_found_by_prefix_and_words(test: TestStore) {
    let f = Fixture::new(test);
    let scope = |agent: &str| MemoryScope {
        namespace: "dev".to_owned(),
        agent: agent.to_owned(),
    };
    for (agent, key, value) in [
        ("echo", "user.name", "Ada Lovelace"),
        ("echo", "user.city", "London"),
        ("echo", "user_x", "after the prefix"),
        ("echo", "colour", "blue"),
        ("other", "user.name", "Somebody else"),
    ] {
        f.write(MemoryPut {
            scope: scope(agent),
            key: key.to_owned(),
            value: json!(value),
            tags: vec!["Fact".to_owned()],
        })
        .await;
    }
    let find = async |query: MemoryQuery, page: PageRequest| {
        let page = f
            .store
            .memories(&scope("echo"), &query, &page)
            .await
            .unwrap();
        (
            page.items
                .into_iter()
                .map(|row| row.key)
                .collect::<Vec<_>>(),
            page.next,
        )
    };
    let all = MemoryQuery::default();
    let (keys, next) = find(all.clone(), PageRequest::first(2)).await;
    assert_eq!(keys, ["colour", "user.city"]);
    let (keys, next) = find(
        all,
        PageRequest {
            limit: 2,
            cursor: next,
        },
    )
    .await;
    assert_eq!(
        (keys, next),
        (vec!["user.name".to_owned(), "user_x".to_owned()], None)
    );
    let user = MemoryQuery {
        prefix: Some("user.".to_owned()),
        text: None,
    };
    assert_eq!(
        find(user, PageRequest::default()).await.0,
        ["user.city", "user.name"]
    );
    let ada = MemoryQuery {
        prefix: None,
        text: Some("lovelace FACT name".to_owned()),
    };
    assert_eq!(find(ada, PageRequest::default()).await.0, ["user.name"]);
    let first = f
        .store
        .memory(&scope("echo"), "colour")
        .await
        .unwrap()
        .unwrap();
    f.write(MemoryPut {
        scope: scope("echo"),
        key: "colour".to_owned(),
        value: json!("green"),
        tags: Vec::new(),
    })
    .await;
    let second = f
        .store
        .memory(&scope("echo"), "colour")
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        (second.value, second.created_at),
        (json!("green"), first.created_at)
    );
    let forget = MemoryForget {
        scope: scope("echo"),
        key: "colour".to_owned(),
    };
    f.write(forget.clone()).await;
    f.write(forget).await;
    assert_eq!(
        f.store.memory(&scope("echo"), "colour").await.unwrap(),
        None
    );
}

pub async fn a_cursor_of_another_list_is_refused(test: TestStore) {
    let f = Fixture::new(test);
    f.accept("a").await;
    f.accept("b").await;
    let filter = RequestFilter::default();
    let page = f
        .store
        .requests(&filter, &PageRequest::first(1))
        .await
        .unwrap();
    let stolen = PageRequest {
        limit: 1,
        cursor: page.next,
    };
    let usage = f.store.usage(&UsageFilter::default(), &stolen).await;
    assert!(matches!(usage, Err(StoreError::Cursor(_))), "{usage:?}");
    for bad in ["", "zz", "%00", "ffff"] {
        let page = PageRequest {
            limit: 1,
            cursor: Some(bad.to_owned()),
        };
        let requests = f.store.requests(&filter, &page).await;
        assert!(matches!(requests, Err(StoreError::Cursor(_))), "{bad}");
    }
}

pub async fn a_write_is_seen_by_the_next_read(test: TestStore) {
    let f = Fixture::new(test);
    for _ in 0..100 {
        let op = accept("s");
        let id = op.request_id;
        f.write(op).await;
        assert!(f.store.request(id).await.unwrap().is_some());
    }
}
