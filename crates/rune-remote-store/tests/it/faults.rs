//! Networks that fail and daemons that restart: what was sent is applied once, in its order.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use axum::routing::post;
use axum::{Extension, Json, Router};
use bytes::Bytes;
use futures_util::future::join_all;
use rune_store_runtime::{
    AcceptRequest, AppendEntries, CachePut, CheckpointPolicy, Clock as _, Command, CommandLog as _,
    DeploymentId, EntryBody, RequestId, RequestReader as _, RuntimeStore, SessionId, StoreError,
    SystemClock, Timestamp, VersionId,
};
use rune_store_runtime::{CacheReader as _, Store};
use serde_json::Value;

use crate::proxy::{Behaviour, Proxy};
use crate::served::{Listening, Served, pair, remote};

/// Longer than any of these takes.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn accept() -> AcceptRequest {
    AcceptRequest {
        request_id: RequestId::generate(),
        session_id: SessionId::generate(),
        namespace: "dev".to_owned(),
        agent: "echo".to_owned(),
        deployment_id: DeploymentId::generate(),
        version_id: VersionId::generate(),
        input: "hi".into(),
        metadata: Default::default(),
        caller: "test".to_owned(),
        checkpoint: CheckpointPolicy::EachStep,
        idempotency: None,
        follows: None,
        parent: None,
        fork: None,
        budgets: Vec::new(),
    }
}

fn notice(id: RequestId, code: u32) -> AppendEntries {
    AppendEntries {
        request_id: id,
        entries: vec![EntryBody::Notice {
            code: code.to_string(),
            message: "x".repeat(100),
        }],
    }
}

fn put(key: &str) -> CachePut {
    CachePut {
        key: key.to_owned(),
        value: 1.into(),
        expires_at: Timestamp::from_millis(i64::MAX),
    }
}

/// The codes of the notices of a journal.
async fn codes(store: &dyn RuntimeStore, id: RequestId) -> Vec<String> {
    let entries = store.journal(id, 1, 1000).await.unwrap();
    let codes = entries.into_iter().map(|entry| match entry.body {
        EntryBody::Notice { code, .. } => code,
        other => unreachable!("{other:?}"),
    });
    codes.collect()
}

/// Many commands at once, several of them of each of some journals.
async fn write_many(store: &Store) -> Vec<RequestId> {
    let accepts: Vec<_> = (0..8).map(|_| accept()).collect();
    let ids: Vec<_> = accepts.iter().map(|accept| accept.request_id).collect();
    for accepted in join_all(accepts.into_iter().map(|accept| store.write(accept))).await {
        accepted.unwrap();
    }
    let appends = (0..40).flat_map(|number| ids.iter().map(move |id| (*id, number)));
    let appended = appends.map(|(id, number)| store.write(notice(id, number)));
    for appended in join_all(appended).await {
        appended.unwrap();
    }
    ids
}

async fn assert_once(store: &dyn RuntimeStore, ids: &[RequestId]) {
    let expected: Vec<_> = (0..40).map(|number| number.to_string()).collect();
    for id in ids {
        assert_eq!(codes(store, *id).await, expected);
    }
}

async fn survives(behaviour: Behaviour) -> Arc<Behaviour> {
    let (_, served, _directory) = pair();
    let proxy = Proxy::start(served.listening.addr, behaviour).await;
    let store = Store::new(
        Arc::new(remote(proxy.url(), PATIENCE)),
        Arc::new(SystemClock),
    );
    let ids = write_many(&store).await;
    assert_once(&*served.local, &ids).await;
    assert_once(&*store, &ids).await;
    Arc::clone(&proxy.behaviour)
}

#[tokio::test]
async fn an_answer_that_is_lost_does_not_apply_commands_twice() {
    let seen = survives(Behaviour {
        lost_answers: 12.into(),
        ..Behaviour::default()
    })
    .await;
    assert_eq!(seen.lost_answers.load(Ordering::SeqCst), 0, "all were lost");
}

#[tokio::test]
async fn an_answer_that_breaks_off_does_not_apply_commands_twice() {
    let seen = survives(Behaviour {
        cut_answers: 12.into(),
        ..Behaviour::default()
    })
    .await;
    assert_eq!(seen.cut_answers.load(Ordering::SeqCst), 0, "all were cut");
}

#[tokio::test]
async fn connections_that_are_refused_are_tried_again() {
    let seen = survives(Behaviour {
        refused: 5.into(),
        ..Behaviour::default()
    })
    .await;
    assert_eq!(seen.refused.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_slow_network_is_only_slow() {
    survives(Behaviour {
        pause: Some(Duration::from_micros(200)),
        ..Behaviour::default()
    })
    .await;
}

/// Has the store say of commands with this text that it cannot take them yet, as long as it is told so.
async fn with_stuck(
    Extension((url, is_stuck)): Extension<(String, Arc<AtomicBool>)>,
    body: Bytes,
) -> Json<Vec<Value>> {
    let commands: Vec<Value> = serde_json::from_slice(&body).unwrap();
    let is_stuck = is_stuck.load(Ordering::SeqCst);
    let waits = |command: &Value| is_stuck && command.to_string().contains("stuck");
    let taken: Vec<&Value> = commands.iter().filter(|command| !waits(command)).collect();
    let answer = reqwest::Client::new().post(url).json(&taken).send().await;
    let taken: Vec<Value> = answer.unwrap().json().await.unwrap();
    let mut taken = taken.into_iter();
    let later = Err::<(), _>(StoreError::Unavailable("not yet".to_owned()));
    let later = serde_json::to_value(later).unwrap();
    let outcomes = commands.iter().map(|command| match waits(command) {
        true => later.clone(),
        false => taken.next().unwrap(),
    });
    Json(outcomes.collect())
}

#[tokio::test]
async fn a_command_that_the_store_cannot_take_yet_holds_up_no_other() {
    let (_, served, _directory) = pair();
    let path = "/internal/v1/store/commands";
    let is_stuck = Arc::new(AtomicBool::new(true));
    let behind = (
        format!("{}{path}", served.listening.url()),
        Arc::clone(&is_stuck),
    );
    let router = Router::new().route(path, post(with_stuck));
    let front = Listening::start(router.layer(Extension(behind)));
    let store = Store::new(
        Arc::new(remote(front.url(), PATIENCE)),
        Arc::new(SystemClock),
    );
    let others = async {
        let ids = write_many(&store).await;
        assert!(
            served
                .local
                .cached("stuck", store.now())
                .await
                .unwrap()
                .is_none()
        );
        is_stuck.store(false, Ordering::SeqCst);
        ids
    };
    let (stuck, ids) = tokio::join!(store.write(put("stuck")), others);
    stuck.unwrap();
    assert_once(&*served.local, &ids).await;
    assert!(
        served
            .local
            .cached("stuck", store.now())
            .await
            .unwrap()
            .is_some()
    );
}

#[tokio::test]
async fn commands_that_wait_together_are_sent_together() {
    let (_, served, _directory) = pair();
    let proxy = Proxy::start(served.listening.addr, Behaviour::default()).await;
    let store = Store::new(
        Arc::new(remote(proxy.url(), PATIENCE)),
        Arc::new(SystemClock),
    );
    let keys: Vec<_> = (0..200).map(|number| number.to_string()).collect();
    let written = join_all(keys.iter().map(|key| store.write(put(key)))).await;
    assert!(written.iter().all(Result::is_ok));
    let answers = proxy.behaviour.answers.load(Ordering::SeqCst);
    assert!(answers <= 4, "{answers} answers to 200 commands");
}

/// The daemon ends in the middle of what is written and starts again, more than once.
#[tokio::test]
async fn a_restart_is_a_pause() {
    let directory = tempfile::tempdir().unwrap();
    let served = Served::open(directory.path());
    let proxy = Proxy::start(served.listening.addr, Behaviour::default()).await;
    let store = Store::new(
        Arc::new(remote(proxy.url(), PATIENCE)),
        Arc::new(SystemClock),
    );
    let done = AtomicU32::new(0);
    let write = async {
        let mut ids = Vec::new();
        for _ in 0..6 {
            ids.extend(write_many(&store).await);
            done.fetch_add(1, Ordering::SeqCst);
        }
        done.store(u32::MAX, Ordering::SeqCst);
        ids
    };
    let restart = async {
        let (mut served, mut restarts) = (served, 0);
        while done.load(Ordering::SeqCst) != u32::MAX {
            tokio::time::sleep(Duration::from_millis(30)).await;
            served = served.restart().await;
            proxy.lead_to(served.listening.addr);
            restarts += 1;
        }
        (served, restarts)
    };
    let (ids, (served, restarts)) = tokio::join!(write, restart);
    assert!(restarts > 1, "{restarts} restarts");
    assert_once(&*served.local, &ids).await;
}

#[tokio::test]
async fn a_caller_that_leaves_has_not_undone_its_change() {
    let (remote, served, _directory) = pair();
    let command = Command::new(SystemClock.now(), put("left"));
    let mut submitted = Box::pin(remote.submit(command));
    assert!(futures_util::poll!(submitted.as_mut()).is_pending());
    drop(submitted);
    let after = Command::new(SystemClock.now(), put("after"));
    remote.submit(after).await.unwrap();
    let now = SystemClock.now();
    assert!(served.local.cached("left", now).await.unwrap().is_some());
}

#[tokio::test]
async fn patience_ends() {
    let addr = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    let remote = remote(format!("http://{addr}"), Duration::from_millis(300));
    let read = remote.request(RequestId::generate());
    let write = remote.submit(Command::new(SystemClock.now(), put("k")));
    let (read, write) = tokio::join!(read, write);
    for error in [read.unwrap_err(), write.unwrap_err()] {
        let StoreError::Unavailable(reason) = error else {
            unreachable!("{error:?}")
        };
        assert!(reason.contains(&addr.to_string()), "{reason}");
    }
}
