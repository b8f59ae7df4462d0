//! The audit trail: every change and every refusal.

use std::collections::BTreeSet;

use reqwest::Method;
use rune_testkit::TestDaemon;
use rune_testkit::openapi::ApiDocument;
use serde_json::{Value, json};

use super::{Rig, said, write};
use crate::cluster::rig::{Cluster, daemon, free_addr};
use crate::home::{RUNE, Served};

/// The operations that are no change although they are no GET.
const NO_CHANGE: [&str; 2] = ["POST /v1/deployments/plan", "POST /v1/cluster/objects"];

/// Calls operations and looks for what each leaves in the audit trail.
struct Walk {
    rig: Rig,
    called: BTreeSet<String>,
}

impl Walk {
    /// Calls an operation, which succeeds and leaves one row of this kind, the newest; answers the body.
    async fn changes(
        &mut self,
        operation: &str,
        params: &[&str],
        body: &Value,
        kind: &str,
    ) -> Value {
        let (method, template) = operation.split_once(' ').unwrap();
        let mut path = template.to_owned();
        for param in params {
            let (before, rest) = path.split_once('{').unwrap();
            let (_, after) = rest.split_once('}').unwrap();
            path = format!("{before}{param}{after}");
        }
        if operation.starts_with("POST /v1/deployments") {
            path.push_str("?wait=ready");
        }
        let before = self.rig.items("/v1/audit?limit=1000").await.len();
        let method: Method = method.parse().unwrap();
        let (status, answer) = self.rig.call(method, &path, body).await;
        assert!(
            (200..300).contains(&status),
            "{operation}: {status} {answer}"
        );
        self.left(operation, kind, before).await;
        answer
    }

    /// What was called last has left one row.
    async fn left(&mut self, operation: &str, kind: &str, before: usize) {
        let rows = self.rig.items("/v1/audit?limit=1000").await;
        let new = &rows[..rows.len() - before];
        let by_caller: Vec<&Value> = new
            .iter()
            .filter(|row| row["caller"] == "anonymous")
            .collect();
        assert_eq!(by_caller.len(), 1, "{operation}: {new:#?}");
        assert_eq!(by_caller[0]["kind"], kind, "{operation}");
        assert_eq!(by_caller[0]["verdict"], "allowed", "{operation}");
        self.called.insert(operation.to_owned());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_change_over_the_api_is_in_the_audit_trail() {
    let mut cluster = Cluster::start(1).await;
    let served = cluster.nodes.remove(0);
    let client = reqwest::Client::new();
    let document = ApiDocument::fetch(&client, served.0.control_plane())
        .await
        .unwrap();
    let mut walk = Walk {
        rig: Rig { served, client },
        called: BTreeSet::new(),
    };
    // The cluster has begun, and says so.
    walk.left("POST /v1/cluster/init", "cluster.init", 0).await;

    let home = walk.rig.served.0.home().to_owned();
    let mut versions = Vec::new();
    for version in ["1.0.0", "2.0.0", "3.0.0"] {
        write(&home.join("bot"), "bot", version, "");
        let package = rune_spec::package::pack(&home.join("bot")).unwrap();
        let before = walk.rig.items("/v1/audit?limit=1000").await.len();
        let url = format!("{}/v1/agent-versions", walk.rig.served.0.control_plane());
        let sent = walk
            .rig
            .client
            .post(url)
            .header("content-type", "application/x-tar");
        let published = sent.body(package.bytes).send().await.unwrap();
        assert_eq!(published.status(), 201);
        let published: Value = published.json().await.unwrap();
        versions.push(published["id"].as_str().unwrap().to_owned());
        walk.left("POST /v1/agent-versions", "version.publish", before)
            .await;
    }
    let deploy = json!({"agent_version": versions[0]});
    let operation = "POST /v1/deployments";
    let row = walk
        .changes(operation, &[], &deploy, "deployment.apply")
        .await;
    let id = row["id"].as_str().unwrap().to_owned();
    let of = |action: &str| format!("POST /v1/deployments/{{id}}/{action}");
    let ready = [id.as_str()];
    walk.changes(
        &of("scale"),
        &ready,
        &json!({"replicas": 2}),
        "deployment.scale",
    )
    .await;
    let canary = json!({"version": versions[1], "weight": 10});
    walk.changes(&of("rollout"), &ready, &canary, "deployment.rollout")
        .await;
    walk.changes(&of("promote"), &ready, &json!({}), "deployment.promote")
        .await;
    walk.changes(&of("rollback"), &ready, &json!({}), "deployment.rollback")
        .await;

    let schedule = json!({"name": "often", "agent": "bot", "input": "x", "every_ms": 3_600_000});
    let made = walk
        .changes("POST /v1/schedules", &[], &schedule, "schedule.create")
        .await;
    let schedule = [made["id"].as_str().unwrap()];
    for action in ["pause", "resume", "run"] {
        let operation = format!("POST /v1/schedules/{{id}}/{action}");
        walk.changes(
            &operation,
            &schedule,
            &json!({}),
            &format!("schedule.{action}"),
        )
        .await;
    }
    let operation = "DELETE /v1/schedules/{id}";
    walk.changes(operation, &schedule, &json!({}), "schedule.delete")
        .await;

    let secret = json!({"value": "a value that nobody sees"});
    walk.changes("PUT /v1/secrets/{name}", &["TOKEN"], &secret, "secret.set")
        .await;
    walk.changes(
        "DELETE /v1/secrets/{name}",
        &["TOKEN"],
        &json!({}),
        "secret.remove",
    )
    .await;
    walk.changes(
        "DELETE /v1/deployments/{id}",
        &ready,
        &json!({}),
        "deployment.delete",
    )
    .await;

    let addr = free_addr();
    let second = Served(daemon(2, addr, &[]).start().await.unwrap());
    let learner = json!({"node": 2, "addr": addr.to_string()});
    walk.changes(
        "POST /v1/cluster/add-learner",
        &[],
        &learner,
        "cluster.add_learner",
    )
    .await;
    let voters = json!({"voters": [1, 2]});
    let operation = "POST /v1/cluster/change-membership";
    walk.changes(operation, &[], &voters, "cluster.voters")
        .await;
    walk.changes(
        "POST /v1/cluster/snapshot",
        &[],
        &json!({}),
        "cluster.snapshot",
    )
    .await;
    for node in [2, 1] {
        let operation = "POST /v1/cluster/transfer-leader";
        let to = json!({"node": node});
        walk.changes(operation, &[], &to, "cluster.transfer_leader")
            .await;
    }
    walk.changes(
        "POST /v1/cluster/remove",
        &[],
        &json!({"node": 2}),
        "cluster.remove",
    )
    .await;
    drop(second);

    let operations = document.operations().into_iter();
    let changes = operations.filter(|it| it.method != "GET");
    let changes = changes.map(|it| format!("{} {}", it.method, it.path));
    let expected: BTreeSet<String> = changes
        .filter(|it| !NO_CHANGE.contains(&it.as_str()))
        .collect();
    assert_eq!(walk.called, expected);
    let trail = json!(walk.rig.items("/v1/audit?limit=1000").await).to_string();
    assert!(!trail.contains("a value that nobody sees"), "{trail}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_refusal_of_admission_is_in_the_audit_trail() {
    let rig = Rig::start(TestDaemon::builder(RUNE)).await;
    let home = rig.served.0.home().to_owned();
    let bot = home.join("bot");
    // A package that is none, and one whose own policy cannot be read.
    let url = format!("{}/v1/agent-versions", rig.served.0.control_plane());
    let publish = async |bytes: Vec<u8>| {
        let sent = rig
            .client
            .post(&url)
            .header("content-type", "application/x-tar");
        sent.body(bytes).send().await.unwrap().status().as_u16()
    };
    assert_eq!(publish(b"no package".to_vec()).await, 400);
    let digest = rune_spec::package::digest(b"no package");
    rig.refused("version.publish", &digest, &["archive"]).await;
    write(&bot, "bot", "1.0.0", "");
    std::fs::write(bot.join("policy.cedar"), "forbid(principal);").unwrap();
    let package = rune_spec::package::pack(&bot).unwrap();
    assert_eq!(publish(package.bytes).await, 400);
    rig.refused("version.publish", &package.digest, &["policy.cedar"])
        .await;
    std::fs::remove_file(bot.join("policy.cedar")).unwrap();

    // Another package under a version that is deployed, outside `dev`.
    rig.served.rune(&["run", "bot", "--namespace", "prod"]).ok();
    let first = rig.items("/v1/agent-versions").await.remove(0);
    write(&bot, "bot", "1.0.0", "description: Another one.\n");
    rig.served
        .rune(&["run", "bot", "--namespace", "prod"])
        .ends(1);
    rig.refused(
        "deployment.apply",
        "prod/bot:stable",
        &["with another content"],
    )
    .await;
    let row = rig.items("/v1/deployments").await.remove(0);
    let path = |action: &str| format!("/v1/deployments/{}/{action}", row["id"].as_str().unwrap());
    let other = rig.items("/v1/agent-versions").await.remove(0);
    assert_ne!(first["id"], other["id"]);
    let rollout = json!({"version": other["id"]});
    said(
        rig.post(&path("rollout"), &rollout).await,
        409,
        &["with another content"],
    );
    rig.refused(
        "deployment.rollout",
        "prod/bot:stable",
        &["with another content"],
    )
    .await;

    // Numbers of replicas.
    let told = ["`replicas` must be 0 to 100, not 101"];
    said(
        rig.apply("many", json!({"replicas": 101})).await,
        400,
        &told,
    );
    rig.refused("deployment.apply", "dev/bot:many", &told).await;
    said(
        rig.post(&path("scale"), &json!({"replicas": 101})).await,
        400,
        &told,
    );
    rig.refused("deployment.scale", "prod/bot:stable", &told)
        .await;

    // What there is nothing of to promote or to go back to, and what another project has.
    for action in ["promote", "rollback"] {
        let (status, body) = rig.post(&path(action), &json!({})).await;
        assert_eq!(status, 409, "{body}");
        rig.refused(&format!("deployment.{action}"), "prod/bot:stable", &[])
            .await;
    }
    let project = |name: &str| json!({"project": {"name": name, "agent": "bot"}});
    assert_eq!(rig.apply("shop", project("shop")).await.0, 201);
    said(
        rig.apply("shop", project("bank")).await,
        409,
        &["belongs to the project `shop`"],
    );
    rig.refused(
        "deployment.apply",
        "dev/bot:shop",
        &["belongs to the project `shop`"],
    )
    .await;
    // What does not exist was not refused.
    let before = rig.refusals().await.len();
    assert_eq!(rig.apply("none", json!({"version": "9.9.9"})).await.0, 404);
    assert_eq!(rig.refusals().await.len(), before);
}
