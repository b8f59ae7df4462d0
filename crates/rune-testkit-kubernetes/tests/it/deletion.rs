//! Deletion: of what is owned, of namespaces, and held up by finalizers.

use serde_json::{Value, json};

use crate::client::{Client, Judged, account, config_map, manifest_file, namespace, path, pod};

async fn own(judged: &Judged, owner: &str, owned: &str) {
    let uid = judged.read("configmap", owner).await["metadata"]["uid"].clone();
    let mut map = config_map(owned, &json!({}));
    map["metadata"]["ownerReferences"] = json!([
        {"apiVersion": "v1", "kind": "ConfigMap", "name": owner, "uid": uid}
    ]);
    judged.apply(&map).await;
}

async fn names(judged: &Judged) -> Vec<String> {
    let listed = judged.ok(&["get", "cm", "-o", "name"]).await;
    listed
        .lines()
        .map(|l| l.replace("configmap/", ""))
        .collect()
}

#[tokio::test]
async fn what_is_owned_goes_with_its_owner() {
    let Some(judged) = Judged::start().await else {
        return;
    };
    judged.apply(&config_map("owner", &json!({}))).await;
    own(&judged, "owner", "child").await;
    own(&judged, "child", "grandchild").await;
    judged.apply(&config_map("other", &json!({}))).await;
    judged.ok(&["delete", "cm", "owner"]).await;
    assert_eq!(names(&judged).await, ["other"]);
}

#[tokio::test]
async fn what_is_orphaned_stays() {
    let Some(judged) = Judged::start().await else {
        return;
    };
    judged.apply(&config_map("owner", &json!({}))).await;
    own(&judged, "owner", "child").await;
    let client = Client::new(&judged.server);
    let path = "/api/v1/namespaces/default/configmaps/owner?propagationPolicy=Orphan";
    assert_eq!(client.call("DELETE", path, &Value::Null).await.0, 200);
    assert_eq!(names(&judged).await, ["child"]);
    assert!(
        judged.read("cm", "child").await["metadata"]
            .get("ownerReferences")
            .is_none_or(|o| o == &json!([]))
    );
}

#[tokio::test]
async fn an_owner_that_goes_last_waits_for_what_it_owns() {
    let Some(judged) = Judged::start().await else {
        return;
    };
    judged.apply(&config_map("owner", &json!({}))).await;
    own(&judged, "owner", "child").await;
    let held = json!({"metadata": {"finalizers": ["example.com/held"]}});
    judged
        .ok(&["patch", "cm", "child", "-p", &held.to_string()])
        .await;
    let client = Client::new(&judged.server);
    let path = "/api/v1/namespaces/default/configmaps/owner?propagationPolicy=Foreground";
    let (_, going) = client.call("DELETE", path, &Value::Null).await;
    assert_eq!(
        going["metadata"]["finalizers"],
        json!(["foregroundDeletion"])
    );
    assert_eq!(names(&judged).await, ["child", "owner"]);
    let free = json!({"metadata": {"finalizers": null}});
    judged
        .ok(&[
            "patch",
            "cm",
            "child",
            "--type=merge",
            "-p",
            &free.to_string(),
        ])
        .await;
    assert_eq!(names(&judged).await, Vec::<String>::new());
}

#[tokio::test]
async fn a_namespace_goes_with_what_is_in_it() {
    let Some(judged) = Judged::start().await else {
        return;
    };
    judged.apply(&namespace("rune")).await;
    judged.apply(&account("rune", "rune")).await;
    let mut map = config_map("a", &json!({}));
    map["metadata"]["namespace"] = json!("rune");
    judged.apply(&map).await;
    judged.ok(&["delete", "ns", "rune"]).await;
    let listed = judged.ok(&["get", "ns", "-o", "name"]).await;
    assert!(!listed.contains("rune"), "{listed}");
    assert!(judged.server.objects("configmaps", Some("rune")).is_empty());
    let file = manifest_file(&map);
    let said = judged.fails(&["create", "-f", path(file.path())]).await;
    assert!(said.contains("not found"), "{said}");
}

#[tokio::test]
async fn a_pod_on_a_node_goes_when_its_node_says_so() {
    let Some(judged) = Judged::start().await else {
        return;
    };
    let mut placed = pod("one");
    placed["spec"]["nodeName"] = json!("somewhere");
    judged.apply(&placed).await;
    judged.ok(&["delete", "pod", "one", "--wait=false"]).await;
    let shown = judged.ok(&["get", "pods"]).await;
    assert!(shown.contains("Terminating"), "{shown}");
    let read = judged.read("pod", "one").await;
    assert_eq!(read["metadata"]["deletionGracePeriodSeconds"], 30);
    judged
        .ok(&["delete", "pod", "one", "--grace-period=0", "--force"])
        .await;
    assert_eq!(judged.ok(&["get", "pods", "-o", "name"]).await, "");
    // One that no node has goes at once.
    judged.apply(&pod("two")).await;
    judged.ok(&["delete", "pods", "--all"]).await;
    assert_eq!(judged.ok(&["get", "pods", "-o", "name"]).await, "");
}

#[tokio::test]
async fn a_deletion_can_be_of_this_object_only() {
    let Some(judged) = Judged::start().await else {
        return;
    };
    judged.apply(&config_map("a", &json!({}))).await;
    let client = Client::new(&judged.server);
    let path = "/api/v1/namespaces/default/configmaps/a";
    let options =
        json!({"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": {"uid": "other"}});
    assert_eq!(client.call("DELETE", path, &options).await.0, 409);
    assert_eq!(names(&judged).await, ["a"]);
}
