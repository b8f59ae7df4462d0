//! When a replica ends that its daemon does not take any more.

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};

use super::{Killed, Rig, builder};
use crate::home::{RUNE, write_plain};
use crate::remote_agents::server::{Reply, Scripted};
use crate::wire::{LIMIT, POLL};

/// How long the replica goes on without a daemon, in seconds.
const ORPHAN_SECS: u32 = 3;
/// Renewals are a second apart, so that so many of them last longer than that.
const LONG: u32 = ORPHAN_SECS + 2;

/// Renewals that were answered and such that failed, and how many of the next ones fail.
#[derive(Default)]
struct Renewals {
    answered: AtomicU32,
    failed: AtomicU32,
    to_fail: AtomicU32,
}

impl Renewals {
    fn answer(&self, token: &str) -> Reply {
        let fails = |left: u32| left.checked_sub(1);
        let order = Ordering::SeqCst;
        if self.to_fail.fetch_update(order, order, fails).is_ok() {
            self.failed.fetch_add(1, order);
            return Reply::Whole(500, "application/json", b"{}".to_vec());
        }
        self.answered.fetch_add(1, order);
        Reply::Json(json!({"token": token, "valid_for_ms": 2}))
    }

    async fn reach(&self, counter: impl Fn(&Self) -> &AtomicU32, count: u32) {
        let reached = async {
            while counter(self).load(Ordering::SeqCst) < count {
                tokio::time::sleep(POLL).await;
            }
        };
        let reached = tokio::time::timeout(LIMIT, reached).await;
        assert!(reached.is_ok(), "the replica does not renew its token");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_ends_when_its_daemon_was_gone_for_long_and_not_for_one_renewal() {
    let orphan = ORPHAN_SECS.to_string();
    let rig = Rig::start(builder().env("RUNE_REPLICA_ORPHAN_SECS", &orphan)).await;
    let dir = rig.served.0.home().join("plain");
    write_plain(&dir);
    rig.served.rune(&["run", "plain"]).ok();
    let env = rig.process().env;
    assert_eq!(env["RUNE_REPLICA_ORPHAN_SECS"], orphan);

    // A second process of the replica, whose daemon is a script: what it starts from is what the real one says.
    let token = env["RUNE_REPLICA_TOKEN"].clone();
    let socket = env["RUNE_REPLICA_CONTROL_PLANE"].strip_prefix("unix:");
    let client = reqwest::Client::builder().unix_socket(socket.unwrap());
    let boot = client
        .build()
        .unwrap()
        .post("http://daemon/internal/v1/replica")
        .bearer_auth(&token)
        .json(&json!({"fingerprint": env["RUNE_REPLICA_FINGERPRINT"]}));
    let boot: Value = boot.send().await.unwrap().json().await.unwrap();
    let renewals = Arc::new(Renewals::default());
    let (counted, shown) = (Arc::clone(&renewals), token.clone());
    let daemon = Scripted::start(move |seen, _| match seen.path.as_str() {
        "/internal/v1/replica" => Reply::Json(boot.clone()),
        "/internal/v1/token" => counted.answer(&shown),
        _ => Reply::Hang,
    })
    .await;
    let data = tempfile::tempdir().unwrap();
    let mut command = std::process::Command::new(RUNE);
    command
        .arg("replica")
        .env_clear()
        .envs(&env)
        .env("RUNE_REPLICA_CONTROL_PLANE", &daemon.base)
        .env("RUNE_REPLICA_ADDR", "127.0.0.1:0")
        .env("RUNE_REPLICA_DATA_DIR", data.path())
        .env("RUNE_REPLICA_PACKAGE_DIR", &dir)
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    let mut replica = Killed(command.spawn().unwrap());

    renewals.reach(|it| &it.answered, LONG).await;
    // One that fails after a long time is not a long time without a daemon.
    renewals.to_fail.store(1, Ordering::SeqCst);
    renewals.reach(|it| &it.failed, 1).await;
    renewals.reach(|it| &it.answered, LONG + 2).await;
    assert!(replica.0.try_wait().unwrap().is_none(), "it has ended");

    renewals.to_fail.store(u32::MAX, Ordering::SeqCst);
    assert!(replica.ended().await.success());
    let failed = renewals.failed.load(Ordering::SeqCst);
    assert!(failed > 2, "it has ended after {failed}");
}
