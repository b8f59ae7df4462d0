//! Images in the input.

use rune_runtime::{Invocation, MAX_INPUT_IMAGES};
use rune_store_runtime::{EntryBody, ErrorCode, RequestStatus};
use rune_testkit::{ModelScript, ModelServer, Protocol};
use serde_json::{Value, json};

use super::harness::{Bot, Ended, Rig, call, soon};

async fn show(rig: &Rig, input: Value) -> Ended {
    let invocation = Invocation { input, ..call("") };
    let invoked = soon("invoke", rig.engine.invoke(invocation)).await.unwrap();
    rig.end(invoked).await
}

/// An input with an image of so many characters in base64.
fn picture(chars: usize) -> (Value, String) {
    let data = "iVBO".repeat(chars.div_ceil(4));
    let image = json!({"type": "image", "media_type": "image/png", "data": data});
    (
        json!([{"type": "text", "text": "What is this?"}, image]),
        data,
    )
}

fn journaled(ended: &Ended) -> Value {
    match &ended.journal[0].body {
        EntryBody::Accepted { input, .. } => input.clone(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn every_provider_is_shown_an_image() {
    for protocol in Protocol::ALL {
        let server = ModelServer::start(ModelScript::new()).await.unwrap();
        let rig = Rig::new(Bot::on(&[(&server, protocol)])).await;
        let (input, data) = picture(400);
        let ended = show(&rig, input.clone()).await;
        assert_eq!(
            ended.output(),
            "Echo: What is this?",
            "{:?}",
            ended.row.failure
        );
        assert!(server.requests()[0].body.to_string().contains(&data));
        assert_eq!(journaled(&ended), input);
    }
}

#[tokio::test]
async fn a_large_image_is_kept_outside_the_journal_and_shown_again() {
    let server = ModelServer::start(ModelScript::new()).await.unwrap();
    let rig = Rig::new(Bot::on(&[(&server, Protocol::Anthropic)])).await;
    let (input, data) = picture(3 << 20);
    let ended = show(&rig, input).await;
    assert_eq!(
        ended.row.status,
        RequestStatus::Completed,
        "{:?}",
        ended.row.failure
    );
    let kept = journaled(&ended);
    assert!(
        kept[1]["digest"].is_string() && kept.to_string().len() < 1000,
        "{kept}"
    );
    rig.ask_in(&ended.row.session_id, "And its colour?").await;
    let seen = server.requests();
    assert_eq!(seen.len(), 2);
    for request in seen {
        assert!(request.body.to_string().contains(&data));
    }
}

#[tokio::test]
async fn a_part_that_is_wrong_is_refused_before_anything_is_accepted() {
    let rig = Rig::new(Bot::new()).await;
    let image = |media_type: &str, data: &str| json!({"type": "image", "media_type": media_type, "data": data});
    let large = "AAAA".repeat((6 << 20) / 3);
    for (part, code) in [
        (json!({"type": "image"}), ErrorCode::InvalidInput),
        (
            json!({"type": "image", "url": "file:///etc/passwd"}),
            ErrorCode::InvalidInput,
        ),
        (
            json!({"type": "image", "media_type": "image/png", "digest": "sha256:0"}),
            ErrorCode::InvalidInput,
        ),
        (
            json!({"type": "text", "text": "x", "more": 1}),
            ErrorCode::InvalidInput,
        ),
        (image("image/tiff", "AAAA"), ErrorCode::InvalidInput),
        (image("image/png", "no base64"), ErrorCode::InvalidInput),
        (image("image/png", ""), ErrorCode::InvalidInput),
        (image("image/png", &large), ErrorCode::TooLarge),
    ] {
        let input = json!([{"type": "text", "text": "x"}, part]);
        let error = rig
            .engine
            .invoke(Invocation { input, ..call("") })
            .await
            .err()
            .unwrap();
        assert_eq!(error.code(), code, "{error}");
    }
    let many = vec![json!({"type": "image", "url": "https://example.org"}); MAX_INPUT_IMAGES + 1];
    let invocation = Invocation {
        input: many.into(),
        ..call("")
    };
    assert!(rig.engine.invoke(invocation).await.is_err());
    assert!(rig.spy.commands().is_empty());
}

#[tokio::test]
async fn a_list_of_anything_else_is_data() {
    let rig = Rig::new(Bot::new()).await;
    let ended = show(&rig, json!([{"type": "video"}, 1])).await;
    assert_eq!(ended.output(), "Echo: [{\"type\":\"video\"},1]");
}

#[tokio::test]
async fn the_offline_model_says_that_it_cannot_see() {
    let rig = Rig::new(Bot::new()).await;
    let ended = show(&rig, picture(4).0).await;
    assert_eq!(
        ended.output(),
        "Echo: What is this? (images: 1; the offline model cannot see them)"
    );
}
