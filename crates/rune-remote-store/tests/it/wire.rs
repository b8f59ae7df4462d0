//! What is sent arrives as it was.

use std::sync::Arc;

use proptest::prelude::*;
use rune_remote_store::{Read, decode_commands, decode_read};
use rune_store_runtime::limits::MAX_COMMAND_BYTES;
use rune_store_runtime::{
    AppendEntries, BudgetScope, BudgetShortage, BudgetUnit, CachePut, Clock as _, Command,
    CommandLog as _, EntryBody, Leadership, Reject, Reply, RequestId, Store, StoreError,
    SystemClock, Timestamp,
};
use rune_testkit::store::random_commands;

use crate::served::{Listening, pair, remote};

/// Every error that a store has.
fn errors() -> Vec<StoreError> {
    vec![
        Reject::not_found("session", &"s").into(),
        Reject::conflict("taken").into(),
        Reject::invalid("too long").into(),
        Reject::Superseded { id: "req".into() }.into(),
        Reject::RequestEnded { id: "req".into() }.into(),
        Reject::Fenced {
            made: Leadership { term: 2, node: 3 },
        }
        .into(),
        Reject::BudgetExceeded(Box::new(BudgetShortage {
            scope: BudgetScope::Caller("alice".into()),
            unit: BudgetUnit::MicroUsd,
            cap: 5,
            spent: 3,
            reserved: 1,
            needed: 2,
            resets_at: Some(Timestamp::from_millis(7)),
            held: true,
        }))
        .into(),
        Reject::QuotaExceeded {
            message: "one too many".into(),
        }
        .into(),
        StoreError::Denied("not yours".into()),
        StoreError::Corrupt {
            what: "row".into(),
            reason: "half".into(),
        },
        StoreError::Cursor("abc".into()),
        StoreError::Protocol {
            expected: "Unit".into(),
            found: "Count".into(),
        },
    ]
}

/// Fails if there is an error that is not in the list.
const fn is_listed(error: &StoreError) -> bool {
    match error {
        StoreError::Rejected(
            Reject::NotFound { .. }
            | Reject::Conflict { .. }
            | Reject::Superseded { .. }
            | Reject::RequestEnded { .. }
            | Reject::Fenced { .. }
            | Reject::BudgetExceeded(_)
            | Reject::QuotaExceeded { .. }
            | Reject::Invalid { .. },
        )
        | StoreError::Denied(_)
        | StoreError::Corrupt { .. }
        | StoreError::Cursor(_)
        | StoreError::Protocol { .. } => true,
        // Is tried again, and has a test of its own.
        StoreError::Unavailable(_) => false,
    }
}

#[test]
fn errors_and_commands_are_the_same_in_json() {
    for error in errors() {
        assert!(is_listed(&error));
        let json = serde_json::to_string(&error).unwrap();
        assert_eq!(serde_json::from_str::<StoreError>(&json).unwrap(), error);
    }
    for command in random_commands(5, 2000) {
        let json = serde_json::to_vec(&vec![&command]).unwrap();
        let decoded = decode_commands(&json).unwrap();
        match decoded.as_slice() {
            [Ok(found)] => assert_eq!(*found, command),
            [Err(Reject::Invalid { message })] => {
                assert!(message.contains("recursion"), "{message}");
            }
            other => unreachable!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_command_that_cannot_be_read_is_rejected_alone() {
    let (_remote, served, _directory) = pair();
    let put = CachePut {
        key: "k".to_owned(),
        value: 1.into(),
        expires_at: Timestamp::from_millis(i64::MAX),
    };
    let good = serde_json::to_string(&Command::new(SystemClock.now(), put)).unwrap();
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let body = format!("[{good},{{}},{deep},{good}]");
    let url = format!("{}/internal/v1/store/commands", served.listening.url());
    let response = reqwest::Client::new().post(url).body(body).send().await;
    let outcomes: Vec<Result<Reply, StoreError>> =
        serde_json::from_slice(&response.unwrap().bytes().await.unwrap()).unwrap();
    let [
        Ok(Reply::Unit(())),
        Err(first),
        Err(second),
        Ok(Reply::Unit(())),
    ] = outcomes.as_slice()
    else {
        unreachable!("{outcomes:?}")
    };
    for error in [first, second] {
        assert!(matches!(
            error,
            StoreError::Rejected(Reject::Invalid { .. })
        ));
    }
}

#[tokio::test]
async fn a_command_beyond_the_limit_is_rejected_and_one_beyond_a_batch_is_taken() {
    let (remote, _served, _directory) = pair();
    for bytes in [MAX_COMMAND_BYTES + 1024, MAX_COMMAND_BYTES * 2] {
        let put = CachePut {
            key: "k".to_owned(),
            value: "x".repeat(bytes).into(),
            expires_at: Timestamp::from_millis(i64::MAX),
        };
        let refused = remote.submit(Command::new(SystemClock.now(), put)).await;
        assert!(
            matches!(refused, Err(StoreError::Rejected(Reject::Invalid { .. }))),
            "{bytes}: {refused:?}"
        );
    }
    let accept = crate::faults::accept();
    let notices = (0..20).map(|number| EntryBody::Notice {
        code: number.to_string(),
        message: "x".repeat(1 << 19),
    });
    let append = AppendEntries {
        request_id: accept.request_id,
        entries: notices.collect(),
    };
    for command in [
        Command::new(SystemClock.now(), accept),
        Command::new(SystemClock.now(), append),
    ] {
        remote.submit(command).await.unwrap();
    }
}

#[tokio::test]
async fn without_a_scope_nothing_is_answered() {
    let directory = tempfile::tempdir().unwrap();
    let served = crate::served::Served::open(directory.path());
    let objects = rune_storage::ObjectStore::open_directory(directory.path()).unwrap();
    let store = Store::new(Arc::clone(&served.local) as _, Arc::new(SystemClock));
    let server = rune_remote_store::StoreServer::new(store, Arc::new(objects));
    let bare = Listening::start(server.router());
    let remote = remote(bare.url(), std::time::Duration::from_secs(5));
    let put = CachePut {
        key: "k".to_owned(),
        value: 1.into(),
        expires_at: Timestamp::from_millis(i64::MAX),
    };
    let denied = |error: StoreError| assert!(matches!(error, StoreError::Denied(_)), "{error:?}");
    use rune_store_runtime::{BlobStore as _, RequestReader as _};
    denied(remote.request(RequestId::generate()).await.unwrap_err());
    denied(remote.put(bytes::Bytes::new()).await.unwrap_err());
    denied(
        remote
            .get(&format!("sha256:{}", "0".repeat(64)))
            .await
            .unwrap_err(),
    );
    let command = || Command::new(SystemClock.now(), put.clone());
    let (one, other) = tokio::join!(remote.submit(command()), remote.submit(command()));
    denied(one.unwrap_err());
    denied(other.unwrap_err());
}

proptest! {
    #[test]
    fn whatever_comes_is_a_read_or_an_error(body in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode_commands(&body);
        if let Ok(read) = decode_read(&body) {
            let json = serde_json::to_vec(&read).unwrap();
            prop_assert_eq!(decode_read(&json).unwrap(), read);
        }
    }

    #[test]
    fn a_read_is_the_same_in_json(after in any::<u64>(), limit in any::<u32>(), bytes in any::<[u8; 16]>()) {
        let read = Read::Journal { id: RequestId::from_bytes(bytes), after, limit };
        let json = serde_json::to_vec(&read).unwrap();
        prop_assert_eq!(decode_read(&json).unwrap(), read);
    }
}
