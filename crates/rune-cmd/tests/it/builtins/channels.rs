use serde_json::json;

use super::Rig;
use crate::wire::answer;

#[tokio::test]
async fn a_message_waits_in_the_outbox() {
    let mut rig = Rig::start().await;
    rig.deploy("speaker", &["channel-send"], "");
    let input = json!({"channel": "irc", "to": "#team", "text": "The build is red."});
    let sent = rig.call("speaker", "channel-send", input).await;
    assert_eq!(sent["state"], "queued");
    rig.served.0.kill9().unwrap();
    rig.served.0.restart().await.unwrap();
    rig.api = crate::wire::Api::of(&rig.served.0);
    let (status, page) = answer(rig.api.get("/v1/outbox?channel=irc")).await.unwrap();
    assert_eq!(status, 200, "{page}");
    let message = &page["items"][0];
    assert_eq!(message["id"], sent["message_id"]);
    assert_eq!(
        (&message["to"], &message["agent"]),
        (&json!("#team"), &json!("speaker"))
    );
}
