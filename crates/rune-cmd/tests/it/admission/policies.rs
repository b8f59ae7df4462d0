//! What an operator's policies forbid.

use rune_testkit::TestDaemon;
use serde_json::json;
use tempfile::TempDir;

use super::{Rig, said, write};
use crate::home::RUNE;
use crate::wire::{LIMIT, POLL};

const POLICIES: &str = r#"@id("prod-by-ci") @reason("only the pipeline deploys to prod")
forbid(principal, action == Action::"deploy", resource)
when { resource.namespace == "prod" }
unless { principal == Caller::"jwt:ci" };

@id("no-shell")
forbid(principal, action == Action::"publish", resource)
when { resource.tools.contains("rune@shell-exec") };

@id("few")
forbid(principal, action == Action::"deploy", resource)
when { resource.replicas > 2 };

@id("no-writes")
forbid(principal, action == Action::"deploy", resource)
when { resource.namespace == "staging" && resource.version.tools.contains("rune@file-write") };
"#;

/// A daemon with these policies, which are in a directory of their own.
async fn ruled() -> (Rig, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("admission.cedar");
    std::fs::write(&file, POLICIES).unwrap();
    let builder = TestDaemon::builder(RUNE).env("RUNE_ADMISSION_POLICIES", &file);
    (Rig::start(builder).await, dir)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_policy_forbids_is_neither_published_nor_deployed() {
    let (rig, _dir) = ruled().await;
    let home = rig.served.0.home().to_owned();
    write(&home.join("bot"), "bot", "1.0.0", "");
    rig.served.rune(&["run", "bot"]).ok();

    write(
        &home.join("ops"),
        "ops",
        "1.0.0",
        "toolset: [rune@shell-exec]\n",
    );
    let ran = rig.served.rune(&["run", "ops"]).ends(3);
    let told = [
        "ops 1.0.0 is not admitted",
        "admission.cedar:6 no-shell",
        "admission.policies",
    ];
    for part in told {
        assert!(ran.stderr.contains(part), "{part}: {}", ran.stderr);
    }
    rig.refused("version.publish", "ops 1.0.0", &told).await;
    assert_eq!(rig.items("/v1/agent-versions?agent=ops").await.len(), 0);

    let told = [
        "only the pipeline deploys to prod",
        "admission.cedar:1 prod-by-ci",
    ];
    said(
        rig.apply("stable", json!({"namespace": "prod"})).await,
        403,
        &told,
    );
    rig.refused("deployment.apply", "prod/bot:stable", &told)
        .await;

    // However it is asked for.
    said(
        rig.apply("many", json!({"replicas": 3})).await,
        403,
        &["few"],
    );
    let row = rig.items("/v1/deployments").await.remove(0);
    let path = |action: &str| format!("/v1/deployments/{}/{action}", row["id"].as_str().unwrap());
    said(
        rig.post(&path("scale"), &json!({"replicas": 3})).await,
        403,
        &["few"],
    );
    rig.refused("deployment.scale", "dev/bot:stable", &["few"])
        .await;
    for replicas in [2, 1, 0] {
        let (status, body) = rig
            .post(&path("scale"), &json!({"replicas": replicas}))
            .await;
        assert_eq!(status, 200, "{body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_is_asked_before_a_rollout_and_before_it_is_gone_back() {
    let (mut rig, dir) = ruled().await;
    let home = rig.served.0.home().to_owned();
    for (version, more) in [("2.0.0", "toolset: [rune@file-write]\n"), ("1.0.0", "")] {
        write(&home.join("bot"), "bot", version, more);
        rig.served.rune(&["run", "bot"]).ok();
    }
    rig.served
        .rune(&["run", "bot", "--namespace", "staging"])
        .ok();
    let row = rig.items("/v1/deployments?ns=staging").await.remove(0);
    let path = |action: &str| format!("/v1/deployments/{}/{action}", row["id"].as_str().unwrap());
    let rollout = json!({"version": "2.0.0"});
    said(
        rig.post(&path("rollout"), &rollout).await,
        403,
        &["no-writes"],
    );
    rig.refused("deployment.rollout", "staging/bot:stable", &["no-writes"])
        .await;

    // What runs when a policy comes goes on, and is not gone back to.
    let file = dir.path().join("admission.cedar");
    std::fs::write(&file, "").unwrap();
    rig.served.0.restart().await.unwrap();
    for version in ["2.0.0", "1.0.0"] {
        let rollout = json!({"version": version});
        let (status, rolled) = rig.post(&path("rollout"), &rollout).await;
        assert_eq!(status, 200, "{rolled}");
        let completed = async {
            while rig.items("/v1/deployments?ns=staging").await[0]["rollout"]["state"]
                != "completed"
            {
                tokio::time::sleep(POLL).await;
            }
        };
        tokio::time::timeout(LIMIT, completed).await.unwrap();
    }
    std::fs::write(&file, POLICIES).unwrap();
    rig.served.0.restart().await.unwrap();
    said(
        rig.post(&path("rollback"), &json!({})).await,
        403,
        &["no-writes"],
    );
    rig.refused("deployment.rollback", "staging/bot:stable", &["no-writes"])
        .await;

    // Policies that are not valid keep the daemon from starting.
    std::fs::write(&file, "permit(principal, action, resource);").unwrap();
    let error = rig.served.0.restart().await.unwrap_err().to_string();
    for part in [
        "admission.cedar",
        "`permit` has no meaning here",
        "admission.policies",
    ] {
        assert!(error.contains(part), "{part}: {error}");
    }
}
