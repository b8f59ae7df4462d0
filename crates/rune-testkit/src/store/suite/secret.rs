//! Secrets, as they are stored.

use rune_store_runtime::limits::{MAX_SEALED_SECRET_BYTES, MAX_SECRETS};
use rune_store_runtime::{
    PageRequest, PutSecret, Reject, RemoveSecret, SealedSecret, SecretFilter,
};

use super::fixture::Fixture;
use crate::store::TestStore;

fn secret(namespace: &str, name: &str, bytes: &[u8]) -> PutSecret {
    PutSecret {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        sealed: SealedSecret {
            key_id: "k1".to_owned(),
            bytes: bytes.to_vec(),
        },
        by: "ann".to_owned(),
    }
}

pub async fn a_secret_is_replaced_and_removed_by_its_name(test: TestStore) {
    let f = Fixture::new(test);
    f.write(secret("prod", "TOKEN", b"other")).await;
    f.write(secret("dev", "TOKEN", b"one")).await;
    f.write(secret("dev", "API_KEY", b"two")).await;
    let first = f.store.secret("dev", "TOKEN").await.unwrap().unwrap();
    let replaced = PutSecret {
        sealed: SealedSecret {
            key_id: "k2".to_owned(),
            bytes: vec![0, 255],
        },
        by: "bob".to_owned(),
        ..secret("dev", "TOKEN", b"")
    };
    f.write(replaced.clone()).await;
    let row = f.store.secret("dev", "TOKEN").await.unwrap().unwrap();
    assert_eq!(
        (&row.sealed, row.updated_by.as_str()),
        (&replaced.sealed, "bob")
    );
    assert_eq!(row.created_at, first.created_at);
    assert!(row.updated_at >= first.updated_at);
    let list = async |namespace: Option<&str>, page: PageRequest| {
        let filter = SecretFilter {
            namespace: namespace.map(str::to_owned),
        };
        let page = f.store.secrets(&filter, &page).await.unwrap();
        let names = page.items.into_iter();
        let names = names.map(|row| format!("{}/{}", row.namespace, row.name));
        (names.collect::<Vec<_>>(), page.next)
    };
    let (names, next) = list(None, PageRequest::first(2)).await;
    assert_eq!(names, ["dev/API_KEY", "dev/TOKEN"]);
    let rest = PageRequest {
        limit: 2,
        cursor: next,
    };
    assert_eq!(
        list(None, rest).await,
        (vec!["prod/TOKEN".to_owned()], None)
    );
    let prod = list(Some("prod"), PageRequest::default()).await;
    assert_eq!(prod.0, ["prod/TOKEN"]);
    let remove = RemoveSecret {
        namespace: "dev".to_owned(),
        name: "TOKEN".to_owned(),
    };
    f.write(remove.clone()).await;
    assert_eq!(f.store.secret("dev", "TOKEN").await.unwrap(), None);
    assert!(f.store.secret("prod", "TOKEN").await.unwrap().is_some());
    let again = f.rejected(remove).await;
    assert!(matches!(again, Reject::NotFound { .. }), "{again:?}");
}

pub async fn a_secret_that_breaks_a_limit_is_rejected(test: TestStore) {
    let f = Fixture::new(test);
    let large = vec![1; MAX_SEALED_SECRET_BYTES + 1];
    for bad in [
        secret("", "TOKEN", b"x"),
        secret("dev", "", b"x"),
        secret("dev", "1ST", b"x"),
        secret("dev", "a-b", b"x"),
        secret("dev", &"x".repeat(129), b"x"),
        secret("dev", "TOKEN", b""),
        secret("dev", "TOKEN", &large),
    ] {
        let refused = f.rejected(bad).await;
        assert!(matches!(refused, Reject::Invalid { .. }), "{refused:?}");
    }
    for n in 0..MAX_SECRETS {
        f.write(secret("dev", &format!("S{n}"), b"x")).await;
    }
    let refused = f.rejected(secret("dev", "ONE_MORE", b"x")).await;
    assert!(matches!(refused, Reject::Conflict { .. }), "{refused:?}");
    f.write(secret("dev", "S1", b"changed")).await;
    f.write(secret("prod", "ONE_MORE", b"x")).await;
}
