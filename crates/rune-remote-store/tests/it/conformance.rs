//! It is a store like any other.

use std::sync::Arc;

use bytes::Bytes;
use rune_store_runtime::{
    BlobStore as _, CommandLog as _, MemoryScope, Reject, RuntimeStore, StoreError,
};
use rune_testkit::store::{TestStore, random_commands, snapshot};

use crate::served::{Served, pair};

fn remote() -> TestStore {
    let (remote, served, directory) = pair();
    TestStore::new(Arc::new(remote), (served, directory))
}

rune_testkit::store_suite!(remote);

/// Every row that there is, read in every way there is, arrives as it was stored.
#[tokio::test]
async fn a_remote_store_and_its_local_one_agree_on_random_commands() {
    for seed in 1..=4 {
        let (remote, served, _directory) = pair();
        let alone = tempfile::tempdir().unwrap();
        let alone = Served::open(alone.path());
        for (number, command) in random_commands(seed, 400).into_iter().enumerate() {
            let expected = alone.local.submit(command.clone()).await;
            let found = remote.submit(command.clone()).await;
            match (&expected, &found) {
                // What is too deep to be parsed is refused with other words.
                (
                    Err(StoreError::Rejected(Reject::Invalid { .. })),
                    Err(StoreError::Rejected(Reject::Invalid { .. })),
                ) => {}
                _ => assert_eq!(
                    expected, found,
                    "seed {seed}, command {number}: {command:?}"
                ),
            }
        }
        let scopes = ["echo", "other"].map(|agent| MemoryScope {
            namespace: "dev".to_owned(),
            agent: agent.to_owned(),
        });
        let keys = ["a", "b", "echo", "", "nul\0l"];
        let local: &dyn RuntimeStore = &*served.local;
        let expected = snapshot(local, &keys, &scopes).await.unwrap();
        let found = snapshot(&remote, &keys, &scopes).await.unwrap();
        assert!(expected == found, "seed {seed}:\n{expected}\n---\n{found}");
        assert!(expected.len() > 10_000, "there was something to compare");
    }
}

#[tokio::test]
async fn bytes_are_kept_under_their_digest() {
    let (remote, _served, _directory) = pair();
    for bytes in [
        Bytes::from_static(b""),
        Bytes::from_static(b"{\"not_found\":1}"),
        Bytes::from(vec![7; 3 << 20]),
    ] {
        let digest = remote.put(bytes.clone()).await.unwrap();
        assert_eq!(remote.put(bytes.clone()).await.unwrap(), digest);
        assert_eq!(remote.get(&digest).await.unwrap(), bytes);
    }
    let nowhere = format!("sha256:{}", "0".repeat(64));
    let missing = remote.get(&nowhere).await;
    assert!(
        matches!(missing, Err(StoreError::Rejected(Reject::NotFound { .. }))),
        "{missing:?}"
    );
    for none in ["", "sha256:", "sha256:../../internal", "md5:0"] {
        let refused = remote.get(none).await;
        assert!(
            matches!(refused, Err(StoreError::Rejected(Reject::Invalid { .. }))),
            "{none}: {refused:?}"
        );
    }
}
