use serde_json::json;

use super::Rig;

const TOOLS: [&str; 3] = [
    "knowledge-add-entity",
    "knowledge-add-relation",
    "knowledge-query",
];

#[tokio::test]
async fn knowledge_outlives_conversation_and_daemon_and_is_the_agents_own() {
    let mut rig = Rig::start().await;
    rig.deploy("reader", &TOOLS, "");
    rig.deploy("other", &TOOLS, "");
    for (name, kind) in [("Ada", "person"), ("Acme", "company"), ("London", "city")] {
        let input =
            json!({"name": name, "type": kind, "properties": {"note": format!("about {name}")}});
        let added = rig.call("reader", "knowledge-add-entity", input).await;
        assert_eq!(added["created"], true);
    }
    for (from, kind, to) in [("Ada", "works_at", "Acme"), ("Acme", "is_in", "London")] {
        let input = json!({"from": from, "type": kind, "to": to});
        rig.call("reader", "knowledge-add-relation", input).await;
    }
    rig.served.0.kill9().unwrap();
    rig.served.0.restart().await.unwrap();
    rig.api = crate::wire::Api::of(&rig.served.0);

    let path = json!({"path": {"from": "Ada", "to": "London"}});
    let found = rig.call("reader", "knowledge-query", path.clone()).await;
    assert_eq!(found["path"][0]["to"], "Acme");
    assert_eq!(found["path"][1]["to"], "London");
    let words = json!({"text": "about lon"});
    let found = rig.call("reader", "knowledge-query", words.clone()).await;
    assert_eq!(found["entities"][0]["name"], "London");
    let nothing = rig.call("other", "knowledge-query", words).await;
    assert_eq!(nothing["entities"], json!([]));
    let refused = rig.try_call("other", "knowledge-query", path).await;
    assert!(refused.unwrap_err().contains("does not exist"));
}
