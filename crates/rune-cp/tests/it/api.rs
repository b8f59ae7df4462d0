//! What a user of the control plane sees.

use rune_cp::PUBLIC_ROUTES;
use rune_http::Auth;
use rune_remote_store::InternalApi;
use rune_testkit::openapi::paths_of;
use serde_json::json;

use crate::control_plane::{TestControlPlane, answer, refusal};

#[tokio::test]
async fn every_route_but_the_public_ones_asks_for_credentials() {
    let auth = Auth::new(Some(&"key".to_owned().into()), None, None).unwrap();
    let cp = TestControlPlane::start(auth).await;
    let document = cp.document().await;
    assert!(
        document.operations().len() > 25,
        "{:?}",
        document.operations()
    );
    let objections = document
        .access_objections(&cp.client, &cp.url(""), "key")
        .await;
    assert_eq!(objections.unwrap(), Vec::<String>::new());
    let nowhere = refusal(cp.get("/nowhere")).await;
    assert_eq!((nowhere.0, nowhere.1.as_str()), (401, "unauthenticated"));
    let public = document.public_paths();
    assert_eq!(
        public,
        PUBLIC_ROUTES.iter().map(|&it| it.to_owned()).collect()
    );
    // The rule is written twice, so that a route does not become public by one word.
    let expected = [
        "/docs",
        "/docs/{file}",
        "/health",
        "/openapi.json",
        "/ready",
    ];
    assert_eq!(
        public.iter().map(String::as_str).collect::<Vec<_>>(),
        expected
    );
}

#[tokio::test]
async fn the_document_has_exactly_the_routes_of_the_router() {
    let cp = TestControlPlane::start(Auth::Anonymous).await;
    let document = cp.document().await;
    let documented = document
        .operations()
        .into_iter()
        .map(|operation| operation.path);
    let internal = InternalApi::ROUTES.iter().map(|&path| path.to_owned());
    assert_eq!(paths_of(&cp.router), documented.chain(internal).collect());
}

#[tokio::test]
async fn a_package_is_published_once() {
    let cp = TestControlPlane::start(Auth::Anonymous).await;
    let package = cp.platform.package("hello", "1.2.3", "");
    let (status, version) = answer(cp.publish(package.clone())).await;
    assert_eq!(status, 201, "{version}");
    assert_eq!(
        (&version["agent"], &version["version"]),
        (&json!("hello"), &json!("1.2.3"))
    );
    assert_eq!(answer(cp.publish(package)).await, (200, version.clone()));
    let path = format!("/v1/agent-versions/{}", version["id"].as_str().unwrap());
    assert_eq!(answer(cp.get(&path)).await, (200, version.clone()));
    let (_, list) = answer(cp.get("/v1/agent-versions?agent=hello")).await;
    assert_eq!(list["items"], json!([version]));
    let unknown = cp.get(&format!("/v1/agent-versions/ver_{}", "0".repeat(32)));
    assert_eq!(refusal(unknown).await.0, 404);
}

#[tokio::test]
async fn a_package_that_is_not_valid_is_refused_with_the_place() {
    let cp = TestControlPlane::start(Auth::Anonymous).await;
    let (status, code, message) = refusal(cp.publish(b"not a tar archive".repeat(100))).await;
    assert_eq!((status, code.as_str()), (400, "invalid_input"), "{message}");
    let package = cp.platform.package("Hello", "1.2.3", "");
    let (status, code, message) = refusal(cp.publish(package)).await;
    assert_eq!((status, code.as_str()), (400, "invalid_input"));
    assert!(message.contains("Runefile:1:"), "{message}");
    assert!(!message.contains("/tmp"), "{message}");
    let (_, list) = answer(cp.get("/v1/agent-versions")).await;
    assert_eq!(list["items"], json!([]));
    let json = cp.post("/v1/agent-versions", &json!({}));
    assert_eq!(refusal(json).await.0, 400);
}

#[tokio::test]
async fn a_deployment_is_made_moved_scaled_and_deleted_and_all_of_it_is_audited() {
    let cp = TestControlPlane::start(Auth::Anonymous).await;
    answer(cp.publish(cp.platform.package("hello", "1.0.0", ""))).await;
    let body = json!({"agent": "hello", "version": "1.0.0", "env": {"TOKEN": "secret-value"}});
    let (status, row) = answer(cp.post("/v1/deployments?wait=ready", &body)).await;
    assert_eq!((status, &row["state"]), (201, &json!("ready")), "{row}");
    assert_eq!(
        (&row["namespace"], &row["alias"]),
        (&json!("dev"), &json!("stable"))
    );
    assert_eq!(row["env"], json!(["TOKEN"]));
    assert!(!row.to_string().contains("secret-value"));
    let (status, again) = answer(cp.post("/v1/deployments", &body)).await;
    assert_eq!((status, &again["generation"]), (200, &json!(1)));

    let path = format!("/v1/deployments/{}", row["id"].as_str().unwrap());
    let scale = cp.post(&format!("{path}/scale?wait=ready"), &json!({"replicas": 2}));
    assert_eq!(answer(scale).await.1["state"], "ready");
    let deployment = row["id"].as_str().unwrap();
    let (_, replicas) = answer(cp.get(&format!("/v1/replicas?deployment={deployment}"))).await;
    assert_eq!(replicas["items"].as_array().unwrap().len(), 2);
    assert_eq!(replicas["items"][0]["in_flight"], 0);
    let stop = cp.post(&format!("{path}/scale?wait=ready"), &json!({"replicas": 0}));
    assert_eq!(answer(stop).await.1["state"], "stopped");
    let (_, list) = answer(cp.get("/v1/deployments?ns=dev&agent=hello&alias=stable")).await;
    assert_eq!(list["items"].as_array().unwrap().len(), 1);

    assert_eq!(answer(cp.client.delete(cp.url(&path))).await.0, 204);
    assert_eq!(refusal(cp.get(&path)).await.0, 404);
    assert_eq!(refusal(cp.client.delete(cp.url(&path))).await.0, 404);
    let (_, audit) = answer(cp.get("/v1/audit")).await;
    let kinds: Vec<_> = audit["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| &row["kind"])
        .collect();
    let expected = [
        "deployment.delete",
        "deployment.scale",
        "deployment.scale",
        "deployment.apply",
        "deployment.apply",
        "version.publish",
    ];
    assert_eq!(kinds, expected);
    let (_, some) = answer(cp.get("/v1/audit?kind=deployment.apply&limit=1")).await;
    assert_eq!(some["items"][0]["resource"], "dev/hello:stable");
    assert!(some["next"].is_string());
}

#[tokio::test]
async fn a_version_is_rolled_out_promoted_and_rolled_back_and_all_of_it_is_audited() {
    let cp = TestControlPlane::start(Auth::Anonymous).await;
    let mut ids = Vec::new();
    for version in ["1.0.0", "2.0.0"] {
        let (_, row) = answer(cp.publish(cp.platform.package("hello", version, ""))).await;
        ids.push(row["id"].clone());
    }
    let deploy = |alias: &str, version: &str, env: &str| {
        let body =
            json!({"agent": "hello", "version": version, "alias": alias, "env": {"TOKEN": env}});
        answer(cp.post("/v1/deployments?wait=ready", &body))
    };
    let (_, row) = deploy("stable", "1.0.0", "secret-value").await;
    deploy("next", "2.0.0", "secret-value").await;
    let path = format!("/v1/deployments/{}", row["id"].as_str().unwrap());
    let act = |action: &str| {
        let url = cp.url(&format!("{path}/{action}?wait=ready"));
        cp.client.post(url)
    };
    let (status, row) = answer(act("rollout").json(&json!({"alias": "next", "weight": 20}))).await;
    assert_eq!((status, &row["state"]), (200, &json!("ready")), "{row}");
    let rollout = &row["rollout"];
    assert_eq!(
        (&rollout["version_id"], &rollout["from_version_id"]),
        (&ids[1], &ids[0])
    );
    assert_eq!(
        (&rollout["strategy"], &rollout["weight"], &rollout["state"]),
        (&json!("canary"), &json!(20), &json!("progressing"))
    );
    assert_eq!(rollout["requests"], json!({"ended": 0, "failed": 0}));
    assert_eq!(row["version_id"], ids[0]);
    let (status, row) = answer(act("promote")).await;
    assert_eq!(
        (status, &row["state"], &row["version_id"]),
        (200, &json!("ready"), &ids[1])
    );
    assert_eq!(
        (&row["rollout"]["state"], &row["releases"][0]["version_id"]),
        (&json!("completed"), &ids[0])
    );
    let (status, row) = answer(act("rollback")).await;
    assert_eq!(
        (status, &row["state"], &row["version_id"]),
        (200, &json!("ready"), &ids[0])
    );
    assert_eq!(row["rollout"]["reason"], "by anonymous");
    assert!(!row.to_string().contains("secret-value"), "{row}");

    // The same as an update, which ends by itself.
    let (_, row) = deploy("stable", "2.0.0", "other-value").await;
    assert_eq!(
        (&row["state"], &row["version_id"]),
        (&json!("ready"), &ids[1]),
        "{row}"
    );
    assert_eq!(row["rollout"]["strategy"], "rolling");
    assert!(!row.to_string().contains("-value"), "{row}");

    for (action, body, status) in [
        ("rollout", json!({}), 400),
        ("rollout", json!({"version": "1.0.0", "alias": "next"}), 400),
        ("rollout", json!({"version": "1.0.0", "weight": 101}), 400),
        (
            "rollout",
            json!({"version": "1.0.0", "weight": 1, "strategy": "rolling"}),
            400,
        ),
        ("rollout", json!({"version": "9.9.9"}), 404),
        ("rollout", json!({"alias": "nowhere"}), 404),
        ("rollout", json!({"version": ids[1]}), 409),
        ("promote", json!({}), 409),
    ] {
        let refused = refusal(act(action).json(&body)).await;
        assert_eq!(refused.0, status, "{body} {refused:?}");
    }
    let (_, audit) = answer(cp.get("/v1/audit")).await;
    let items = audit["items"].as_array().unwrap();
    let of_stable = items
        .iter()
        .filter(|row| row["resource"] == "dev/hello:stable");
    let (denied, of_stable): (Vec<_>, Vec<_>) =
        of_stable.partition(|row| row["verdict"] == "denied");
    assert_eq!(denied.len(), 6, "{denied:?}");
    let of_stable = of_stable.into_iter();
    let kinds: Vec<_> = of_stable
        .map(|row| {
            (
                row["kind"].as_str().unwrap(),
                row["caller"].as_str().unwrap(),
            )
        })
        .collect();
    let expected = [
        ("deployment.complete", "rune"),
        ("deployment.apply", "anonymous"),
        ("deployment.rollback", "anonymous"),
        ("deployment.complete", "rune"),
        ("deployment.promote", "anonymous"),
        ("deployment.rollout", "anonymous"),
        ("deployment.apply", "anonymous"),
    ];
    assert_eq!(kinds, expected);
}

#[tokio::test]
async fn a_plan_names_what_would_change_and_writes_nothing() {
    let cp = TestControlPlane::start(Auth::Anonymous).await;
    let digest = format!("sha256:{}", "0".repeat(64));
    let plan = |body: &serde_json::Value| answer(cp.post("/v1/deployments/plan", body));
    let body = json!({"agent": "hello", "digest": digest});
    assert_eq!(plan(&body).await.1["action"], "create");

    let (_, version) = answer(cp.publish(cp.platform.package("hello", "1.0.0", ""))).await;
    let mut body = json!({
        "agent_version": version["id"], "env": {"TOKEN": "secret-value"},
        "project": {"name": "shop", "agent": "front"},
    });
    let (_, row) = answer(cp.post("/v1/deployments", &body)).await;
    assert_eq!(row["project"], body["project"]);
    let (_, audit) = answer(cp.get("/v1/audit")).await;
    let unchanged = plan(&body).await.1;
    assert_eq!(
        (&unchanged["action"], &unchanged["changes"]),
        (&json!("unchanged"), &json!([]))
    );
    body["env"]["TOKEN"] = json!("another-value");
    body["replicas"] = json!(2);
    let changed = plan(&body).await.1;
    assert_eq!(
        (&changed["action"], &changed["changes"]),
        (&json!("change"), &json!(["replicas", "env"]))
    );
    assert!(!changed.to_string().contains("-value"), "{changed}");
    let other = json!({"agent": "hello", "digest": digest, "project": {"name": "shop", "agent": "back"}, "env": {"TOKEN": "secret-value"}});
    assert_eq!(
        plan(&other).await.1["changes"],
        json!(["version", "project"])
    );
    assert_eq!(answer(cp.get("/v1/audit")).await.1, audit);

    body["project"]["name"] = json!("office");
    for path in ["/v1/deployments/plan", "/v1/deployments"] {
        let (status, code, message) = refusal(cp.post(path, &body)).await;
        assert_eq!((status, code.as_str()), (409, "conflict"), "{message}");
        assert!(message.contains("project `shop`"), "{message}");
    }
    let (_, list) = answer(cp.get("/v1/deployments?project=shop")).await;
    assert_eq!(list["items"].as_array().unwrap().len(), 1);
    let (_, list) = answer(cp.get("/v1/deployments?project=office")).await;
    assert_eq!(list["items"], json!([]));
}

#[tokio::test]
async fn outside_dev_a_version_keeps_its_content() {
    let cp = TestControlPlane::start(Auth::Anonymous).await;
    let script = "rules:\n  - respond: changed\n";
    let (_, one) = answer(cp.publish(cp.platform.package("hello", "1.0.0", ""))).await;
    let (_, two) = answer(cp.publish(cp.platform.package("hello", "1.0.0", script))).await;
    let deploy = |id: &serde_json::Value, namespace: &str| {
        cp.post(
            "/v1/deployments",
            &json!({"agent_version": id, "namespace": namespace}),
        )
    };
    for namespace in ["dev", "prod"] {
        assert_eq!(answer(deploy(&one["id"], namespace)).await.0, 201);
    }
    assert_eq!(answer(deploy(&two["id"], "dev")).await.0, 200);
    let (status, code, message) = refusal(deploy(&two["id"], "prod")).await;
    assert_eq!((status, code.as_str()), (409, "conflict"), "{message}");
}

#[tokio::test]
async fn wrong_deployments_are_refused() {
    let cp = TestControlPlane::start(Auth::Anonymous).await;
    answer(cp.publish(cp.platform.package("hello", "1.0.0", ""))).await;
    let hello = |extra: serde_json::Value| {
        let mut body = json!({"agent": "hello", "version": "1.0.0"});
        body.as_object_mut()
            .unwrap()
            .extend(extra.as_object().unwrap().clone());
        body
    };
    for (body, status) in [
        (json!({}), 400),
        (json!({"agent": "hello"}), 400),
        (json!({"agent": "hello", "version": "9.9.9"}), 404),
        (
            json!({"agent_version": format!("ver_{}", "0".repeat(32))}),
            404,
        ),
        (json!({"agent_version": "hello"}), 400),
        (hello(json!({"replicas": 101})), 400),
        (hello(json!({"namespace": "Prod"})), 400),
        (hello(json!({"alias": ""})), 400),
        (hello(json!({"env": {"A=B": "x"}})), 400),
        (hello(json!({"env": {"A": "x".repeat(70_000)}})), 413),
        (hello(json!({"replica": 1})), 400),
    ] {
        let refused = refusal(cp.post("/v1/deployments", &body)).await;
        assert_eq!(refused.0, status, "{refused:?}");
    }
    let late = cp.post(
        "/v1/deployments?wait=ready&timeout_ms=999999999",
        &hello(json!({})),
    );
    assert_eq!(refusal(late).await.0, 400);
}

#[tokio::test]
async fn nodes_and_usage_are_shown() {
    let cp = TestControlPlane::start(Auth::Anonymous).await;
    let (_, nodes) = answer(cp.get("/v1/nodes")).await;
    assert_eq!(nodes["items"][0]["id"], "node-1");
    let (status, usage) = answer(cp.get("/v1/usage?since=2026-01-01T00:00:00Z")).await;
    assert_eq!(status, 200, "{usage}");
    assert_eq!(usage["totals"], json!({"items": [], "complete": true}));
    for by in ["agent", "model", "day", "caller"] {
        let path = format!("/v1/usage?by={by}");
        let (status, usage) = answer(cp.get(&path)).await;
        assert_eq!(status, 200, "{usage}");
    }
    let (_, none) = answer(cp.get("/v1/usage/budgets?scope=caller")).await;
    assert_eq!(none, json!({"items": []}));
    assert_eq!(refusal(cp.get("/v1/usage/budgets?scope=x")).await.0, 400);
    for bad in ["since=yesterday", "by=colour"] {
        let path = format!("/v1/usage?{bad}");
        assert_eq!(refusal(cp.get(&path)).await.0, 400, "{bad}");
    }
}

#[tokio::test]
async fn a_schedule_is_made_held_fired_and_deleted_and_all_of_it_is_audited() {
    let cp = TestControlPlane::start(Auth::Anonymous).await;
    cp.platform.deploy("hello", "").await;
    let body = json!({
        "name": "daily", "agent": "hello", "input": "Good morning",
        "cron": "0 8 * * *", "timezone": "Europe/Berlin", "session_id": "mornings",
    });
    let (status, row) = answer(cp.post("/v1/schedules", &body)).await;
    assert_eq!(status, 201, "{row}");
    assert_eq!(
        (&row["cron"], &row["catch_up"], &row["overlap"]),
        (&json!("0 8 * * *"), &json!("one"), &json!("skip"))
    );
    let (status, code, _) = refusal(cp.post("/v1/schedules", &body)).await;
    assert_eq!((status, code.as_str()), (409, "conflict"));

    let id = row["id"].as_str().unwrap();
    for name in [id, "daily", "dev%2Fdaily"] {
        let (status, found) = answer(cp.get(&format!("/v1/schedules/{name}"))).await;
        assert_eq!((status, &found["id"]), (200, &row["id"]), "{name}");
        assert_eq!(found["upcoming"].as_array().unwrap().len(), 5);
        assert_eq!(found["upcoming"][0], row["next_fire_at"]);
    }
    for unknown in ["nobody", "prod%2Fdaily", "sch_x"] {
        let (status, _, message) = refusal(cp.get(&format!("/v1/schedules/{unknown}"))).await;
        assert!(matches!(status, 400 | 404), "{unknown}: {message}");
    }

    let action = |verb: &str| cp.post(&format!("/v1/schedules/daily/{verb}"), &json!({}));
    let (_, held) = answer(action("pause")).await;
    assert_eq!(
        (&held["paused"], held.get("next_fire_at")),
        (&json!(true), None)
    );
    let (status, fire) = answer(action("run")).await;
    assert_eq!((status, &fire["state"]), (202, &json!("fired")), "{fire}");
    assert_eq!(fire["manual"], true);
    let request: rune_store_runtime::RequestId =
        fire["request_id"].as_str().unwrap().parse().unwrap();
    let request = cp.platform.store.request(request).await.unwrap().unwrap();
    assert_eq!(request.session_id.as_str(), "mornings");
    let (_, fires) = answer(cp.get("/v1/schedules/daily/fires?state=fired")).await;
    let listed = &fires["items"][0];
    // The answer says when the run was planned, the row when it was recorded.
    assert!(listed["fired_at"].as_str() >= fire["fired_at"].as_str());
    for field in ["planned_at", "manual", "state", "request_id"] {
        assert_eq!(listed[field], fire[field], "{field}");
    }
    let (_, list) = answer(cp.get("/v1/schedules?agent=hello")).await;
    assert_eq!(&list["items"][0]["last_fire"], listed);
    let (_, row) = answer(action("resume")).await;
    assert!(row["next_fire_at"].is_string(), "{row}");

    let delete = cp.client.delete(cp.url("/v1/schedules/daily"));
    assert_eq!(answer(delete).await.0, 204);
    assert_eq!(refusal(action("run")).await.0, 404);
    let (_, audit) = answer(cp.get("/v1/audit")).await;
    let rows = audit["items"].as_array().unwrap();
    let kinds: Vec<&str> = rows
        .iter()
        .map(|row| row["kind"].as_str().unwrap())
        .collect();
    let expected =
        ["delete", "resume", "run", "pause", "create"].map(|verb| format!("schedule.{verb}"));
    assert_eq!(kinds, expected);
}

#[tokio::test]
async fn a_schedule_that_could_not_fire_is_refused_with_the_reason() {
    let cp = TestControlPlane::start(Auth::Anonymous).await;
    cp.platform.deploy("hello", "").await;
    for (more, message) in [
        (
            json!({}),
            "say when: one of `cron`, `every_ms` and `on_event`",
        ),
        (json!({"cron": "* * * * *", "on_event": "x"}), "say when"),
        (json!({"on_event": "x", "jitter_ms": 5}), "do not go with"),
        (json!({"on_event": ""}), "`on_event` has 1 to"),
        (json!({"cron": "* * * * *", "every_ms": 1000}), "say when"),
        (json!({"cron": "* * * *"}), "has 4 fields"),
        (json!({"cron": "0 0 31 2 *"}), "never comes true"),
        (
            json!({"cron": "* * * * *", "timezone": "Nowhere"}),
            "time zone `Nowhere`",
        ),
        (json!({"every_ms": 10}), "interval 10 ms is out of range"),
        (
            json!({"every_ms": 60000, "jitter_ms": 60001}),
            "`jitter_ms` must be 0 to 60000",
        ),
        (
            json!({"every_ms": 60000, "timezone": "UTC"}),
            "`timezone` belongs to `cron`",
        ),
        (json!({"every_ms": 60000, "name": "Not A Name"}), "`name`"),
        (
            json!({"every_ms": 60000, "catch_up": "some"}),
            "unknown variant `some`",
        ),
        (
            json!({"every_ms": 60000, "agent": "nobody"}),
            "agent `nobody` is not deployed",
        ),
    ] {
        let mut body = json!({"name": "x", "agent": "hello", "input": "hi"});
        for (key, value) in more.as_object().unwrap() {
            body[key] = value.clone();
        }
        let (status, _, found) = refusal(cp.post("/v1/schedules", &body)).await;
        assert!(matches!(status, 400 | 404), "{body}: {status}");
        assert!(found.contains(message), "{body}: {found}");
    }
    let (_, list) = answer(cp.get("/v1/schedules")).await;
    assert_eq!(list["items"], json!([]));
}
