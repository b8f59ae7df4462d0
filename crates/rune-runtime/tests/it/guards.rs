//! What protects a provider, as a request meets it.

use rune_store_runtime::EntryBody;
use rune_testkit::{Fault, ModelScript, ModelServer, Protocol};

use super::harness::{Bot, Ended, Rig};

/// The failures in the journal: of whom, why, who is next.
fn failures(ended: &Ended) -> Vec<(String, String, Option<String>)> {
    let failed = ended.journal.iter().filter_map(|entry| match &entry.body {
        EntryBody::ModelFailed {
            provider,
            failure,
            next_provider,
            ..
        } => Some((
            provider.clone(),
            failure.message.clone(),
            next_provider.clone(),
        )),
        _ => None,
    });
    failed.collect()
}

#[tokio::test]
async fn a_provider_that_keeps_failing_is_skipped_at_once() {
    let fault = Fault::status(500).retry_after_ms(1).always();
    let bad = ModelServer::start(ModelScript::new().fault_first(fault))
        .await
        .unwrap();
    let good = ModelServer::start(ModelScript::new()).await.unwrap();
    let rig = Rig::new(Bot::on(&[
        (&bad, Protocol::Anthropic),
        (&good, Protocol::Openai),
    ]))
    .await;
    for _ in 0..2 {
        assert_eq!(rig.ask("hi").await.output(), "Echo: hi");
    }
    let asked = bad.requests().len();
    let ended = rig.ask("hi").await;
    assert_eq!(ended.output(), "Echo: hi");
    assert_eq!(
        bad.requests().len(),
        asked,
        "the open circuit lets no call through"
    );
    let failures = failures(&ended);
    let [(provider, why, next)] = &failures[..] else {
        panic!("{failures:?}");
    };
    assert_eq!((provider.as_str(), next.as_deref()), ("p0", Some("p1")));
    assert!(why.contains("circuit open"), "{why}");
    assert!(why.contains("HTTP 500"), "{why}");
}

#[tokio::test]
async fn a_long_wait_for_a_provider_is_in_the_journal() {
    let fault = Fault::status(429).retry_after(1.3);
    let server = ModelServer::start(ModelScript::new().fault_first(fault))
        .await
        .unwrap();
    let rig = Rig::new(Bot::on(&[(&server, Protocol::Openai)])).await;
    let ended = rig.ask("hi").await;
    let notices: Vec<&str> = ended
        .journal
        .iter()
        .filter_map(|entry| match &entry.body {
            EntryBody::Notice { code, message } if code == "provider_wait" => {
                Some(message.as_str())
            }
            _ => None,
        })
        .collect();
    let [notice] = notices[..] else {
        panic!("{notices:?}");
    };
    assert!(
        notice.starts_with("p0: the provider asked for a pause"),
        "{notice}"
    );
}
