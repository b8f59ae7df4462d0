//! What a control plane takes: how much, what no policy forbids, and that each change and each refusal leaves a trace.

mod policies;
mod trail;

use std::collections::BTreeMap;
use std::path::Path;

use reqwest::{Client, Method};
use rune_testkit::{TestDaemon, TestDaemonBuilder};
use serde_json::{Value, json};

use crate::home::{RUNE, Served};
use crate::wire::{Api, LIMIT, POLL, answer, spawn};

/// A daemon and its control plane.
struct Rig {
    served: Served,
    client: Client,
}

impl Rig {
    async fn start(builder: TestDaemonBuilder) -> Self {
        let served = Served(builder.start().await.unwrap());
        let client = Client::new();
        Self { served, client }
    }

    /// One whose namespaces have at most so many deployments and replicas.
    async fn within(deployments: u32, replicas: u32) -> Self {
        let builder = TestDaemon::builder(RUNE)
            .env("RUNE_ADMISSION_MAX_DEPLOYMENTS", deployments.to_string())
            .env("RUNE_ADMISSION_MAX_REPLICAS", replicas.to_string());
        Self::start(builder).await
    }

    async fn call(&self, method: Method, path: &str, body: &Value) -> (u16, Value) {
        let url = format!("{}{path}", self.served.0.control_plane());
        let mut request = self.client.request(method, url).timeout(LIMIT);
        if !body.is_null() {
            request = request.json(body);
        }
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        // Where something was deleted there is none.
        (status, response.json().await.unwrap_or_default())
    }

    async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        self.call(Method::POST, path, body).await
    }

    async fn items(&self, path: &str) -> Vec<Value> {
        let (status, page) = self.call(Method::GET, path, &Value::Null).await;
        assert_eq!(status, 200, "{page}");
        page["items"].as_array().unwrap().clone()
    }

    /// What was refused: the kind, the resource and the reason of each, the last first.
    async fn refusals(&self) -> Vec<(String, String, String)> {
        let rows = self.items("/v1/audit?verdict=denied&limit=100").await;
        let text = |row: &Value, key: &str| row[key].as_str().unwrap().to_owned();
        let row = |row: &Value| {
            (
                text(row, "kind"),
                text(row, "resource"),
                text(row, "reason"),
            )
        };
        rows.iter().map(row).collect()
    }

    /// The last refusal is of this kind and resource and says this.
    async fn refused(&self, kind: &str, resource: &str, told: &[&str]) {
        let refusals = self.refusals().await;
        let (last_kind, last_resource, reason) = &refusals[0];
        assert_eq!(
            (last_kind.as_str(), last_resource.as_str()),
            (kind, resource),
            "{refusals:#?}"
        );
        for part in told {
            assert!(reason.contains(part), "{part}: {reason}");
        }
    }

    /// Deploys a version of `bot` that was published under another alias.
    async fn apply(&self, alias: &str, more: Value) -> (u16, Value) {
        let mut body = json!({"agent": "bot", "version": "1.0.0", "alias": alias});
        let more = more.as_object().unwrap().clone();
        body.as_object_mut().unwrap().extend(more);
        self.post("/v1/deployments", &body).await
    }
}

/// Writes an agent that answers, with more in its Runefile.
fn write(dir: &Path, name: &str, version: &str, more: &str) {
    std::fs::create_dir_all(dir).unwrap();
    let runefile = format!(
        "name: {name}\nversion: {version}\ninstructions: Answer.\ndefault_model: default\n\
         models:\n  providers: [offline]\n  model_mapping: {{default: offline}}\n{more}"
    );
    std::fs::write(dir.join("Runefile"), runefile).unwrap();
}

/// It was refused with this status and says this.
#[track_caller]
fn said((status, body): (u16, Value), expected: u16, told: &[&str]) {
    assert_eq!(status, expected, "{body}");
    let message = body["error"]["message"].as_str().unwrap();
    for part in told {
        assert!(message.contains(part), "{part}: {message}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_gets_no_more_than_its_quota() {
    let rig = Rig::within(2, 4).await;
    write(&rig.served.0.home().join("bot"), "bot", "1.0.0", "");
    rig.served.rune(&["run", "bot", "--replicas", "3"]).ok();
    // Too many replicas.
    let ran = rig
        .served
        .rune(&["run", "bot", "--alias", "b", "--replicas", "2"])
        .ends(4);
    for part in [
        "`dev` would have 5 replicas",
        "4 is the most",
        "admission.max_replicas",
    ] {
        assert!(ran.stderr.contains(part), "{part}: {}", ran.stderr);
    }
    rig.refused("deployment.apply", "dev/bot:b", &["admission.max_replicas"])
        .await;
    // Too many deployments; one that is stopped is one, too.
    let (status, other) = rig.apply("b", json!({"replicas": 1})).await;
    assert_eq!(status, 201, "{other}");
    let third = rig.apply("c", json!({"replicas": 0})).await;
    said(
        third,
        429,
        &[
            "3 deployments",
            "2 is the most",
            "admission.max_deployments",
        ],
    );
    rig.refused(
        "deployment.apply",
        "dev/bot:c",
        &["admission.max_deployments"],
    )
    .await;
    let scale = format!("/v1/deployments/{}/scale", other["id"].as_str().unwrap());
    said(
        rig.post(&scale, &json!({"replicas": 2})).await,
        429,
        &["admission.max_replicas"],
    );
    rig.refused("deployment.scale", "dev/bot:b", &["admission.max_replicas"])
        .await;
    // Another namespace has a quota of its own.
    let (status, elsewhere) = rig
        .apply("a", json!({"replicas": 4, "namespace": "prod"}))
        .await;
    assert_eq!(status, 201, "{elsewhere}");
    // What is let go is there for others.
    rig.served.rune(&["agent", "stop", "bot"]).ok();
    let (status, scaled) = rig.post(&scale, &json!({"replicas": 4})).await;
    assert_eq!((status, &scaled["replicas"]), (200, &json!(4)), "{scaled}");
    let shown = rig.served.rune(&["config", "show", "-o", "json"]).ok();
    assert!(shown.contains("admission.max_replicas"), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_deploy_at_once_do_not_exceed_a_quota_together() {
    let rig = Rig::within(4, 100).await;
    write(&rig.served.0.home().join("bot"), "bot", "1.0.0", "");
    rig.served.rune(&["run", "bot"]).ok();
    let deploys = (0..20).map(|n| {
        let alias = format!("alias-{n}");
        let body = json!({"agent": "bot", "version": "1.0.0", "alias": alias, "replicas": 0});
        let url = format!("{}/v1/deployments", rig.served.0.control_plane());
        let request = rig.client.post(url).json(&body);
        spawn(async move { answer(request).await.unwrap().0 })
    });
    let deploys: Vec<_> = deploys.collect();
    let mut statuses = BTreeMap::new();
    for deploy in deploys {
        *statuses.entry(deploy.await.unwrap()).or_insert(0) += 1;
    }
    assert_eq!(statuses, BTreeMap::from([(201, 3), (429, 17)]));
    assert_eq!(rig.items("/v1/deployments").await.len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn scaling_keeps_within_the_quota() {
    let rig = Rig::within(10, 3).await;
    let dir = rig.served.0.home().join("bot");
    let range = "runtime: {concurrency_limit: 1, min_replicas: 1, max_replicas: 5}\n";
    write(&dir, "bot", "1.0.0", range);
    let script = "rules:\n  - { respond: done, delay_ms: 3000 }\n";
    std::fs::write(dir.join("script.yaml"), script).unwrap();
    rig.served.rune(&["run", "bot"]).ok();
    // It takes one of the three.
    write(&rig.served.0.home().join("other"), "other", "1.0.0", "");
    rig.served.rune(&["run", "other"]).ok();
    let api = Api::of(&rig.served.0);
    let asked: Vec<_> = (0..5)
        .map(|_| {
            let api = api.clone();
            spawn(async move { api.ask("bot", &json!({"input": "Hello"})).await })
        })
        .collect();
    let full = async {
        loop {
            let row = rig.items("/v1/deployments?agent=bot").await.remove(0);
            assert!(row["replicas"].as_u64().unwrap() <= 2, "{row}");
            if row["scaling"]
                .to_string()
                .contains("as many replicas as `admission.max_replicas`")
            {
                assert_eq!(row["replicas"], 2, "{row}");
                return;
            }
            tokio::time::sleep(POLL).await;
        }
    };
    let full = tokio::time::timeout(LIMIT, full).await;
    assert!(full.is_ok(), "{:#?}", rig.items("/v1/audit").await);
    for one in asked {
        let (status, body) = one.await.unwrap();
        assert_eq!(status, 200, "{body}");
    }
    let (kind, resource, reason) = rig.refusals().await.remove(0);
    assert_eq!(
        (kind.as_str(), resource.as_str()),
        ("deployment.autoscale", "dev/bot:stable")
    );
    assert!(reason.starts_with("2 to 2 replicas"), "{reason}");
    // It is said once, however long it lasts.
    assert_eq!(rig.refusals().await.len(), 1);
}
