//! Signed cards, and the card for callers with credentials.

use std::process::Command;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
use serde_json::{Value, json};

use super::{daemon, deploy, envelope};
use crate::home::{RUNE, Served};
use crate::wire::{Api, answer};

/// Made for this test with `openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256`.
const KEY: &str = "-----BEGIN PRIVATE KEY-----\n\
                   MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg/I0pJr1i7FbPE2ax\n\
                   JgsWC9Vv+ZIAISk5Xmyn8HX1JcmhRANCAATxqnbls8VXR+NxJ76DsdNYBA5efWNt\n\
                   EQzc4a0h0MlK6L9+4twM7tMIyjTSMHBdAbOy8SNGMQcC3mw+XbysEiFy\n\
                   -----END PRIVATE KEY-----";
const CARD: &str = "/a2a/hello/.well-known/agent-card.json";

/// A daemon that signs cards with the key.
pub(super) async fn signing(env: &[(&str, &str)]) -> (Served, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("card.pem");
    write_key(&file, 0o600);
    let path = file.to_str().unwrap().to_owned();
    let mut all = vec![("RUNE_A2A_SIGNING_KEY_FILE", path.as_str())];
    all.extend(env);
    let served = daemon(&all).await;
    deploy(&served, "hello", "", "toolset: [rune@system-time]\n", &[]);
    (served, dir)
}

fn write_key(file: &std::path::Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::write(file, KEY).unwrap();
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(mode)).unwrap();
}

fn decoded(text: &Value) -> Vec<u8> {
    BASE64_URL_SAFE_NO_PAD
        .decode(text.as_str().unwrap())
        .unwrap()
}

/// JSON with its members in order, as RFC 8785 has it for what a card is made of.
fn canonical(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let sorted: std::collections::BTreeMap<_, _> = map.iter().collect();
            let members = sorted
                .iter()
                .map(|(key, value)| format!("{}:{}", json!(key), canonical(value)));
            format!("{{{}}}", members.collect::<Vec<_>>().join(","))
        }
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(canonical).collect();
            format!("[{}]", items.join(","))
        }
        scalar => scalar.to_string(),
    }
}

/// The key that the header of a signature names, from where it says.
async fn key(header: &Value) -> Vec<u8> {
    let keys = reqwest::get(header["jku"].as_str().unwrap()).await.unwrap();
    let keys: Value = keys.json().await.unwrap();
    let key = keys["keys"].as_array().unwrap();
    let key = key.iter().find(|key| key["kid"] == header["kid"]).unwrap();
    let mut point = vec![4];
    point.extend(decoded(&key["x"]));
    point.extend(decoded(&key["y"]));
    point
}

/// Which of the signatures of a card are good for a payload.
async fn good(card: &Value, payload: &Value) -> Vec<bool> {
    let payload = BASE64_URL_SAFE_NO_PAD.encode(canonical(payload));
    let mut good = Vec::new();
    for signature in card["signatures"].as_array().unwrap() {
        let header: Value = serde_json::from_slice(&decoded(&signature["protected"])).unwrap();
        assert_eq!(
            (&header["alg"], &header["typ"]),
            (&json!("ES256"), &json!("JOSE"))
        );
        let signed = format!("{}.{payload}", signature["protected"].as_str().unwrap());
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key(&header).await);
        let verified = key.verify(signed.as_bytes(), &decoded(&signature["signature"]));
        good.push(verified.is_ok());
    }
    good
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signature_is_good_for_the_card_and_for_no_other() {
    let (served, _key) = signing(&[("RUNE_A2A_LEGACY_CARD", "off")]).await;
    let api = Api::of(&served.0);
    let (_, card) = answer(api.get(CARD)).await.unwrap();
    let mut payload = card.clone();
    payload.as_object_mut().unwrap().remove("signatures");
    assert_eq!(good(&card, &payload).await, [true]);
    let mut other = payload.clone();
    other["description"] = json!("Another one.");
    assert_eq!(good(&card, &other).await, [false]);
    // No two signatures are the same, and a client that has the card is told so all the same.
    let tag = api.get(CARD).send().await.unwrap().headers()["etag"].clone();
    let again = api
        .get(CARD)
        .header("if-none-match", tag)
        .send()
        .await
        .unwrap();
    assert_eq!(again.status(), 304);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_fields_of_0_3_are_not_signed_and_a_card_without_empty_fields_is_signed_too() {
    let (served, _key) = signing(&[("RUNE_API_KEY", "key")]).await;
    let api = Api::of(&served.0);
    let (_, card) = answer(api.get(CARD)).await.unwrap();
    let mut clean = card.clone();
    let fields = clean.as_object_mut().unwrap();
    for old in [
        "signatures",
        "url",
        "protocolVersion",
        "preferredTransport",
        "additionalInterfaces",
        "supportsAuthenticatedExtendedCard",
        "security",
    ] {
        assert!(fields.remove(old).is_some(), "{old}");
    }
    let schemes = fields["securitySchemes"].as_object_mut().unwrap();
    for scheme in schemes.values_mut() {
        scheme
            .as_object_mut()
            .unwrap()
            .retain(|key, _| key.ends_with("SecurityScheme"));
    }
    let mut dense = clean.clone();
    // As the specification has it: scopes that are none are not there.
    clean["securityRequirements"] =
        json!([{"schemes": {"api_key": {}}}, {"schemes": {"bearer": {}}}]);
    assert_eq!(good(&card, &clean).await, [true, false]);
    // As the official SDKs have it: what is empty is not there at all.
    dense
        .as_object_mut()
        .unwrap()
        .remove("securityRequirements");
    assert_eq!(good(&card, &dense).await, [false, true]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_extended_card_is_for_callers_with_credentials() {
    let (served, _key) = signing(&[("RUNE_API_KEY", "key")]).await;
    let api = Api::of(&served.0);
    let (_, public) = answer(api.get(CARD)).await.unwrap();
    assert_eq!(public["capabilities"]["extendedAgentCard"], true);
    assert_eq!(public["skills"].as_array().unwrap().len(), 1);
    let path = "/a2a/hello/extendedAgentCard";
    let (status, _) = answer(api.get(path)).await.unwrap();
    assert_eq!(status, 401);
    let (status, card) = answer(api.get(path).bearer_auth("key")).await.unwrap();
    assert_eq!(status, 200);
    let skills = card["skills"].as_array().unwrap();
    assert!(
        skills
            .iter()
            .any(|skill| skill["name"] == "rune__system-time"),
        "{skills:?}"
    );
    assert!(card["signatures"][0]["signature"].is_string());
    // Where clients of 0.3 look for it.
    let old = "/a2a/hello/v1/card";
    assert_eq!(answer(api.get(old)).await.unwrap().0, 401);
    let (status, found) = answer(api.get(old).bearer_auth("key")).await.unwrap();
    assert_eq!((status, &found["skills"]), (200, &card["skills"]));
    for method in ["GetExtendedAgentCard", "agent/getAuthenticatedExtendedCard"] {
        let call = api.post("/a2a/hello", &envelope(method, &json!({})));
        let (_, body) = answer(call.bearer_auth("key")).await.unwrap();
        assert_eq!(body["result"]["skills"], card["skills"], "{method}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_whose_key_cannot_be_used_says_so_and_does_not_start() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("card.pem");
    write_key(&file, 0o644);
    let start = |expected: &str| {
        let mut command = Command::new(RUNE);
        command
            .args([
                "daemon",
                "start",
                "--foreground",
                "--gateway-addr",
                "127.0.0.1:0",
                "--control-plane-addr",
                "127.0.0.1:0",
            ])
            .env_clear()
            .env("HOME", dir.path())
            .env("RUNE_A2A_SIGNING_KEY_FILE", &file);
        let ran = command.output().unwrap();
        let said = String::from_utf8_lossy(&ran.stderr).into_owned();
        assert_eq!(ran.status.code(), Some(2), "{said}");
        assert!(
            said.contains(expected) && !said.contains("PRIVATE"),
            "{said}"
        );
    };
    start("chmod 600");
    std::fs::write(&file, "nonsense").unwrap();
    write_key_mode(&file);
    start("openssl genpkey");
    let served = daemon(&[]).await;
    let (status, none) = answer(Api::of(&served.0).get("/.well-known/jwks.json"))
        .await
        .unwrap();
    assert_eq!((status, &none["error"]["code"]), (404, &json!("not_found")));
}

fn write_key_mode(file: &std::path::Path) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o600)).unwrap();
}
