//! Objects as `kubectl` makes, shows and lists them.

use serde_json::json;

use crate::client::{Client, Judged, config_map, manifest_file, path, pod};

#[tokio::test]
async fn kubectl_finds_its_way() {
    let Some(judged) = Judged::start().await else {
        return;
    };
    let version = judged.ok(&["version"]).await;
    assert!(version.contains("v1.33.0"), "{version}");
    let listed = judged.ok(&["api-resources"]).await;
    for kind in [
        "pods",
        "statefulsets",
        "networkpolicies",
        "leases",
        "rolebindings",
    ] {
        assert!(listed.contains(kind), "{listed}");
    }
    let namespaces = judged.ok(&["get", "ns"]).await;
    assert!(namespaces.contains("kube-system"), "{namespaces}");
    assert!(namespaces.contains("Active"), "{namespaces}");
}

#[tokio::test]
async fn objects_are_shown_as_tables_and_whole() {
    let Some(judged) = Judged::start().await else {
        return;
    };
    assert!(judged.apply(&pod("one")).await.contains("pod/one created"));
    let shown = judged.ok(&["get", "pods"]).await;
    let columns: Vec<&str> = shown.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(columns, ["NAME", "READY", "STATUS", "RESTARTS", "AGE"]);
    assert!(shown.lines().nth(1).unwrap().starts_with("one"), "{shown}");
    assert!(shown.contains("0/1"), "{shown}");
    assert!(shown.contains("Pending"), "{shown}");
    let wide = judged.ok(&["get", "po", "-o", "wide", "-A"]).await;
    assert!(
        wide.contains("NODE") && wide.contains("NAMESPACE"),
        "{wide}"
    );
    let read = judged.read("pod", "one").await;
    assert_eq!(read["spec"]["restartPolicy"], "Always");
    assert_eq!(
        read["spec"]["containers"][0]["imagePullPolicy"],
        "IfNotPresent"
    );
    let described = judged.ok(&["describe", "pod", "one"]).await;
    for part in [
        "Name:             one",
        "Image:          busybox:1",
        "QoS Class:                   BestEffort",
    ] {
        let part: Vec<&str> = part.split_whitespace().collect();
        let has = |line: &str| line.split_whitespace().eq(part.iter().copied());
        assert!(described.lines().any(has), "{part:?}: {described}");
    }
    let none = judged.fails(&["get", "pod", "two"]).await;
    assert!(
        none.contains("(NotFound): pods \"two\" not found"),
        "{none}"
    );
}

#[tokio::test]
async fn selectors_choose() {
    let Some(judged) = Judged::start().await else {
        return;
    };
    for name in ["one", "two"] {
        judged.apply(&pod(name)).await;
    }
    for (args, expected) in [
        (["-l", "app=one"], "pod/one"),
        (["-l", "app in (two,three)"], "pod/two"),
        (["-l", "app!=one"], "pod/two"),
        (["--field-selector", "metadata.name=one"], "pod/one"),
        (["--field-selector", "status.phase=Running"], ""),
    ] {
        let [flag, value] = args;
        let listed = judged.ok(&["get", "pods", "-o", "name", flag, value]).await;
        assert_eq!(listed.trim(), expected, "{args:?}");
    }
    let refused = judged
        .fails(&["get", "pods", "--field-selector", "spec.color=red"])
        .await;
    assert!(refused.contains("field label not supported"), "{refused}");
}

#[tokio::test]
async fn long_lists_come_in_pages_of_one_moment() {
    let Some(judged) = Judged::start().await else {
        return;
    };
    let items: Vec<_> = (0..25)
        .map(|n| config_map(&format!("map-{n:02}"), &json!({"n": n.to_string()})))
        .collect();
    let list = json!({"apiVersion": "v1", "kind": "List", "items": items});
    judged.apply(&list).await;
    let listed = judged
        .ok(&["get", "cm", "--chunk-size=10", "-o", "name"])
        .await;
    assert_eq!(listed.lines().count(), 25, "{listed}");

    let client = Client::new(&judged.server);
    let maps = "/api/v1/namespaces/default/configmaps";
    let (_, first) = client.get(&format!("{maps}?limit=20")).await;
    assert_eq!(first["metadata"]["remainingItemCount"], 5);
    client
        .call("DELETE", &format!("{maps}/map-24"), &json!(null))
        .await;
    let rest = first["metadata"]["continue"].as_str().unwrap();
    let (_, second) = client
        .get(&format!("{maps}?limit=20&continue={rest}"))
        .await;
    assert_eq!(second["items"].as_array().unwrap().len(), 5);
    assert_eq!(
        second["metadata"]["resourceVersion"],
        first["metadata"]["resourceVersion"]
    );

    let (_, first) = client.get(&format!("{maps}?limit=20")).await;
    let rest = first["metadata"]["continue"].as_str().unwrap();
    judged.server.forget_the_past();
    let (status, gone) = client
        .get(&format!("{maps}?limit=20&continue={rest}"))
        .await;
    assert_eq!((status, gone["reason"].as_str()), (410, Some("Expired")));
}

#[tokio::test]
async fn what_is_not_valid_is_refused() {
    let Some(judged) = Judged::start().await else {
        return;
    };
    for (change, expected) in [
        (
            json!({"spec": {"containers": []}}),
            "spec.containers: Required value",
        ),
        (
            json!({"spec": {"containers": [{"name": "a"}]}}),
            "spec.containers[0].image: Required value",
        ),
        (
            json!({"metadata": {"name": "Not_a_name"}}),
            "metadata.name: Invalid value",
        ),
        (
            json!({"metadata": {"labels": {"a": "b c"}}}),
            "metadata.labels: Invalid value",
        ),
        (
            json!({"spec": {"containers": [{"name": "a", "image": "b",
                "resources": {"limits": {"memory": "much"}}}]}}),
            "resources.limits[memory]",
        ),
    ] {
        let mut wrong = pod("one");
        merge(&mut wrong, &change);
        let file = manifest_file(&wrong);
        let said = judged
            .fails(&["create", "--validate=true", "-f", path(file.path())])
            .await;
        assert!(said.contains(expected), "{expected}: {said}");
    }
    let file = manifest_file(
        &json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": 1}),
    );
    let said = judged
        .fails(&["create", "--validate=false", "-f", path(file.path())])
        .await;
    assert!(said.contains("cannot be handled as a Pod"), "{said}");
    let map = manifest_file(&config_map("a", &json!({})));
    let args = ["create", "-f", path(map.path()), "-n"];
    let said = judged
        .fails(&[args.as_slice(), &["nowhere"]].concat())
        .await;
    assert!(said.contains("namespaces \"nowhere\" not found"), "{said}");
    let args = [args.as_slice(), &["default"]].concat();
    judged.ok(&args).await;
    let said = judged.fails(&args).await;
    assert!(said.contains("already exists"), "{said}");
}

fn merge(into: &mut serde_json::Value, change: &serde_json::Value) {
    match (into, change) {
        (serde_json::Value::Object(into), serde_json::Value::Object(change)) => {
            for (key, value) in change {
                merge(into.entry(key).or_insert(json!(null)), value);
            }
        }
        (into, change) => *into = change.clone(),
    }
}

#[tokio::test]
async fn unknown_fields_are_refused_told_or_dropped() {
    let server = rune_testkit_kubernetes::ApiServer::start().await.unwrap();
    let client = Client::new(&server);
    let mut wrong = pod("one");
    wrong["spec"]["colour"] = json!("red");
    let pods = "/api/v1/namespaces/default/pods";
    let strict = format!("{pods}?fieldValidation=Strict");
    let (status, said) = client.call("POST", &strict, &wrong).await;
    assert_eq!(status, 400, "{said}");
    let said = said["message"].as_str().unwrap();
    assert!(
        said.contains("strict decoding error: unknown field \"spec.colour\""),
        "{said}"
    );
    let request = client
        .request("POST", pods)
        .header("content-type", "application/json");
    let response = request.body(wrong.to_string()).send().await.unwrap();
    assert_eq!(response.status(), 201);
    let warning = response.headers()["warning"].to_str().unwrap();
    assert!(warning.contains("spec.colour"), "{warning}");
}

#[tokio::test]
async fn a_write_on_an_old_version_is_a_conflict() {
    let Some(judged) = Judged::start().await else {
        return;
    };
    judged.apply(&config_map("a", &json!({"n": "1"}))).await;
    let read = judged.read("configmap", "a").await;
    judged.apply(&config_map("a", &json!({"n": "2"}))).await;
    let file = manifest_file(&read);
    let said = judged.fails(&["replace", "-f", path(file.path())]).await;
    assert!(said.contains("the object has been modified"), "{said}");
    assert_eq!(judged.read("configmap", "a").await["data"]["n"], "2");
}

#[tokio::test]
async fn secrets_take_text_and_show_bytes() {
    let Some(judged) = Judged::start().await else {
        return;
    };
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"},
                        "stringData": {"token": "abc"}});
    judged.apply(&secret).await;
    let read = judged.read("secret", "s").await;
    assert_eq!(read["data"]["token"], "YWJj");
    assert_eq!(read["type"], "Opaque");
}

#[tokio::test]
async fn a_dry_run_keeps_nothing() {
    let server = rune_testkit_kubernetes::ApiServer::start().await.unwrap();
    let client = Client::new(&server);
    let pods = "/api/v1/namespaces/default/pods";
    let path = format!("{pods}?dryRun=All");
    let (status, made) = client.call("POST", &path, &pod("one")).await;
    assert_eq!((status, &made["status"]["phase"]), (201, &json!("Pending")));
    let (_, listed) = client.get(pods).await;
    assert_eq!(listed["items"], json!([]));
}
