//! Changing objects: `kubectl apply` in both its forms, `patch`, `label`, `scale`.

use serde_json::{Value, json};

use crate::client::{Judged, config_map, manifest_file, path};

fn stateful_set(image: &str, env: &[(&str, &str)]) -> Value {
    let env: Vec<Value> = env
        .iter()
        .map(|(n, v)| json!({"name": n, "value": v}))
        .collect();
    json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "set"},
        "spec": {
            "serviceName": "set", "replicas": 2, "selector": {"matchLabels": {"app": "set"}},
            "template": {
                "metadata": {"labels": {"app": "set"}},
                "spec": {"containers": [
                    {"name": "main", "image": image, "env": env},
                    {"name": "side", "image": "side:1"},
                ]},
            },
        },
    })
}

#[tokio::test]
async fn apply_makes_and_changes_and_leaves() {
    let Some(judged) = Judged::start().await else {
        return;
    };
    let first = stateful_set("main:1", &[("A", "1"), ("B", "2")]);
    assert!(judged.apply(&first).await.contains("created"));
    assert!(judged.apply(&first).await.contains("unchanged"));
    // What somebody else set stays, what is no longer said goes.
    let scale = json!({"spec": {"replicas": 3}}).to_string();
    judged.ok(&["patch", "sts", "set", "-p", &scale]).await;
    judged.ok(&["label", "sts", "set", "tier=back"]).await;
    let mut second = stateful_set("main:2", &[("B", "3")]);
    second["spec"].as_object_mut().unwrap().remove("replicas");
    assert!(judged.apply(&second).await.contains("configured"));
    let read = judged.read("sts", "set").await;
    let main = &read["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(main["image"], "main:2");
    assert_eq!(main["env"], json!([{"name": "B", "value": "3"}]));
    assert_eq!(
        read["spec"]["template"]["spec"]["containers"][1]["name"],
        "side"
    );
    assert_eq!(read["metadata"]["labels"]["tier"], "back");
    // The second image is the third change of its specification.
    assert_eq!(read["metadata"]["generation"], 3);
}

#[tokio::test]
async fn server_side_apply_keeps_owners_apart() {
    let Some(judged) = Judged::start().await else {
        return;
    };
    let apply = async |data: Value, manager: &str, force: &str| {
        let file = manifest_file(&config_map("a", &data));
        let manager = format!("--field-manager={manager}");
        let args = [
            "apply",
            "--server-side",
            &manager,
            force,
            "-f",
            path(file.path()),
        ];
        let output = judged.kubectl.run(&args).await.unwrap();
        (
            output.status.success(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    let no = "--force-conflicts=false";
    assert!(apply(json!({"a": "1", "b": "1"}), "one", no).await.0);
    assert!(apply(json!({"c": "1"}), "two", no).await.0);
    assert!(apply(json!({"a": "1"}), "one", no).await.0);
    assert_eq!(
        judged.read("cm", "a").await["data"],
        json!({"a": "1", "c": "1"})
    );
    let (is_ok, said) = apply(json!({"a": "2", "c": "1"}), "two", no).await;
    assert!(!is_ok && said.contains("conflict with \"one\""), "{said}");
    let (is_ok, said) = apply(json!({"a": "2", "c": "1"}), "two", "--force-conflicts=true").await;
    assert!(is_ok, "{said}");
    assert_eq!(judged.read("cm", "a").await["data"]["a"], "2");
}

#[tokio::test]
async fn patches_of_every_kind() {
    let Some(judged) = Judged::start().await else {
        return;
    };
    judged.apply(&stateful_set("main:1", &[("A", "1")])).await;
    let patch = async |kind: &str, patch: Value| {
        let args = [
            "patch",
            "sts",
            "set",
            "--type",
            kind,
            "-p",
            &patch.to_string(),
        ];
        judged.ok(&args).await;
        judged.read("sts", "set").await["spec"]["template"]["spec"]["containers"].clone()
    };
    let template =
        |containers: Value| json!({"spec": {"template": {"spec": {"containers": containers}}}});
    let change = json!([{"name": "main", "env": [{"name": "B", "value": "2"}]}]);
    let after = patch("strategic", template(change)).await;
    assert_eq!(
        after[0]["env"],
        json!([{"name": "A", "value": "1"}, {"name": "B", "value": "2"}])
    );
    assert_eq!(after[1]["name"], "side");
    let at = "/spec/template/spec/containers/1/image";
    let after = patch(
        "json",
        json!([{"op": "replace", "path": at, "value": "side:2"}]),
    )
    .await;
    assert_eq!(after[1]["image"], "side:2");
    let after = patch(
        "merge",
        template(json!([{"name": "only", "image": "only:1"}])),
    )
    .await;
    assert_eq!(after.as_array().unwrap().len(), 1);
    let wrong = json!([{"op": "test", "path": "/spec/replicas", "value": 9}]).to_string();
    judged
        .fails(&["patch", "sts", "set", "--type", "json", "-p", &wrong])
        .await;
}

#[tokio::test]
async fn what_runs_is_not_changed() {
    let Some(judged) = Judged::start().await else {
        return;
    };
    judged.apply(&crate::client::pod("one")).await;
    judged
        .ok(&["set", "image", "pod/one", "main=busybox:2"])
        .await;
    assert_eq!(
        judged.read("pod", "one").await["spec"]["containers"][0]["image"],
        "busybox:2"
    );
    let patch = json!({"spec": {"nodeSelector": {"a": "b"}}}).to_string();
    let said = judged.fails(&["patch", "pod", "one", "-p", &patch]).await;
    assert!(said.contains("pod updates may not change fields"), "{said}");
}
