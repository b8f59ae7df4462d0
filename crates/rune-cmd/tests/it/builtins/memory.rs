use serde_json::json;

use super::Rig;
use crate::wire::Api;

#[tokio::test]
async fn what_is_remembered_outlives_conversation_and_daemon_and_is_of_one_agent() {
    let tools = ["memory-store", "memory-recall", "memory-list"];
    let mut rig = Rig::start().await;
    rig.deploy("keeper", &tools, "");
    rig.deploy("other", &tools, "");
    let value = json!({"city": "Utrecht", "floor": 3});
    let store = json!({"key": "home/address", "value": value, "tags": ["place"]});
    rig.try_call_in(Some("first"), "keeper", "memory-store", store)
        .await
        .unwrap();

    rig.served.0.kill9().unwrap();
    rig.served.0.restart().await.unwrap();
    rig.api = Api::of(&rig.served.0);
    let by_key = json!({"key": "home/address"});
    let found = rig
        .try_call_in(Some("second"), "keeper", "memory-recall", by_key.clone())
        .await
        .unwrap();
    assert!(found.to_string().contains(&value.to_string()), "{found}");
    let by_word = json!({"query": "utrecht"});
    let found = rig.call("keeper", "memory-recall", by_word).await;
    assert!(found.to_string().contains("home/address"), "{found}");
    let keys = rig
        .call("keeper", "memory-list", json!({"prefix": "home/"}))
        .await;
    assert!(keys.to_string().contains("home/address"), "{keys}");
    assert!(!keys.to_string().contains("Utrecht"), "{keys}");

    let of_other = rig.call("other", "memory-recall", by_key).await;
    assert!(!of_other.to_string().contains("Utrecht"), "{of_other}");
}
