//! Tokens and roles.

use rune_testkit_kubernetes::Kubectl;

use serde_json::json;

use crate::client::{Client, Judged, account, namespace, ok, role};

#[tokio::test]
async fn a_service_account_may_do_what_its_roles_say() {
    let Some(judged) = Judged::start().await else {
        return;
    };
    judged.apply(&namespace("rune")).await;
    judged.apply(&account("rune", "rune")).await;
    let rule =
        json!({"apiGroups": [""], "resources": ["pods", "pods/log"], "verbs": ["get", "list"]});
    judged.apply(&role("rune", &rule, ("rune", "rune"))).await;
    let config = judged.server.account_kubeconfig("rune", "rune").unwrap();
    let client = Client::from_kubeconfig(&judged.server, &config);
    let account = Kubectl::find(config).unwrap().unwrap();
    ok(&account, &["get", "pods"]).await;
    for denied in [
        ["get", "secrets"].as_slice(),
        &["get", "pods", "-n", "default"],
        &["delete", "pod", "a"],
    ] {
        let output = account.run(denied).await.unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("(Forbidden)"), "{denied:?}: {said}");
        assert!(
            said.contains("User \"system:serviceaccount:rune:rune\" cannot"),
            "{said}"
        );
    }
    for (verb, expected) in [("list", true), ("create", false)] {
        let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
        let asked = json!({"namespace": "rune", "verb": verb, "resource": "pods"});
        let review = json!({"spec": {"resourceAttributes": asked}});
        let (status, reviewed) = client.call("POST", path, &review).await;
        assert_eq!(
            (status, &reviewed["status"]["allowed"]),
            (201, &json!(expected))
        );
    }

    let accesses = judged.server.accesses("system:serviceaccount:rune:rune");
    let said: Vec<(&str, &str, bool)> = accesses
        .iter()
        .map(|a| (a.verb.as_str(), a.resource.as_str(), a.is_allowed))
        .collect();
    assert!(said.contains(&("list", "pods", true)), "{said:?}");
    assert!(said.contains(&("list", "secrets", false)), "{said:?}");
}

#[tokio::test]
async fn a_token_is_good_as_long_as_its_account() {
    let Some(judged) = Judged::start().await else {
        return;
    };
    judged.apply(&account("default", "rune")).await;
    let rule = json!({"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]});
    judged.apply(&role("", &rule, ("default", "rune"))).await;
    let config = judged.server.account_kubeconfig("default", "rune").unwrap();
    let client = Client::from_kubeconfig(&judged.server, &config);
    assert_eq!(client.get("/api/v1/pods").await.0, 200);
    judged.ok(&["delete", "sa", "rune"]).await;
    assert_eq!(client.get("/api/v1/pods").await.0, 401);
    let nobody = client
        .request("GET", "/api/v1/pods")
        .header("authorization", "Bearer wrong");
    assert_eq!(nobody.send().await.unwrap().status(), 401);
}
