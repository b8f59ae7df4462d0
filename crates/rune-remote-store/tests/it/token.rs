//! Tokens and their time.

use std::sync::Arc;
use std::time::Duration;

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue};
use rune_remote_store::{InternalCaller, InternalTokens, IssuedToken};
use rune_runtime::SecretKeySource;
use rune_store_runtime::{DeleteDeployment, RemoveReplica, RuntimeStore, Store, SystemClock};
use rune_testkit::VirtualClock;
use secrecy::ExposeSecret as _;

use crate::served::Served;
use crate::tenant::Tenant;

fn bearer(issued: &IssuedToken) -> HeaderMap {
    let value = format!("Bearer {}", issued.token.expose_secret());
    let value = HeaderValue::try_from(value).unwrap();
    HeaderMap::from_iter([(AUTHORIZATION, value)])
}

#[tokio::test]
async fn a_token_ends_with_its_time_and_with_its_replica() {
    let directory = tempfile::tempdir().unwrap();
    let served = Served::open(directory.path());
    let local = Arc::clone(&served.local) as Arc<dyn RuntimeStore>;
    let clock = Arc::new(VirtualClock::new());
    let store = Store::new(Arc::clone(&local), Arc::clone(&clock) as _);
    let key = directory.path().join("internal.key");
    let tokens = InternalTokens::new(store.clone(), SecretKeySource::File(key.clone()));
    let tenant = Tenant::create(&Store::new(local, Arc::new(SystemClock)), "dev", "echo").await;

    let replica = tokens
        .for_replica(tenant.replica, tenant.deployment, tenant.namespace)
        .await
        .unwrap();
    let source = SecretKeySource::File(key.clone());
    let hour = Duration::from_secs(3600);
    let gateway = InternalTokens::for_gateway(&source, "west", store.now(), hour)
        .await
        .unwrap();
    let caller = tokens.authenticate(&bearer(&replica)).await.unwrap();
    assert_eq!(caller, InternalCaller::Replica(Box::new(tenant.scope())));
    let caller = tokens.authenticate(&bearer(&gateway)).await;
    assert_eq!(caller, Ok(InternalCaller::Gateway));
    let denied = tokens.authenticate_replica(&bearer(&gateway)).await;
    assert!(denied.unwrap_err().message().contains("of a gateway"));
    let denied = tokens.authenticate_gateway(&bearer(&replica)).await;
    assert!(denied.unwrap_err().message().contains("of a replica"));

    // The same after a restart, and another one elsewhere.
    let again = InternalTokens::new(store.clone(), SecretKeySource::File(key));
    assert!(again.authenticate_gateway(&bearer(&gateway)).await.is_ok());
    let elsewhere = SecretKeySource::File(directory.path().join("other.key"));
    let elsewhere = InternalTokens::new(store.clone(), elsewhere);
    assert!(elsewhere.authenticate(&bearer(&gateway)).await.is_err());

    clock.advance(Duration::from_secs(11 * 60));
    let error = tokens.authenticate(&bearer(&replica)).await.unwrap_err();
    assert!(error.message().contains("expired"), "{error:?}");
    assert!(tokens.authenticate(&bearer(&gateway)).await.is_ok());
    clock.advance(Duration::from_secs(3600));
    assert!(tokens.authenticate(&bearer(&gateway)).await.is_err());

    // One that goes on without its daemon for an hour has a token for it, whenever it renewed that.
    let lasting = InternalTokens::new(store.clone(), source).outlasting(hour);
    let replica = lasting
        .for_replica(tenant.replica, tenant.deployment, tenant.namespace)
        .await
        .unwrap();
    assert_eq!(replica.valid_for, hour * 2);
    clock.advance(hour + Duration::from_secs(1800));
    assert!(tokens.authenticate(&bearer(&replica)).await.is_ok());
    // It finishes what it has where its deployment is deleted.
    let delete = DeleteDeployment {
        deployment_id: tenant.deployment,
    };
    store.write(delete).await.unwrap();
    let caller = tokens.authenticate(&bearer(&replica)).await.unwrap();
    assert_eq!(caller, InternalCaller::Replica(Box::new(tenant.scope())));
    let remove = RemoveReplica {
        replica_id: tenant.replica,
    };
    store.write(remove).await.unwrap();
    let error = tokens.authenticate(&bearer(&replica)).await.unwrap_err();
    assert!(error.message().contains("stopped"), "{error:?}");
}
