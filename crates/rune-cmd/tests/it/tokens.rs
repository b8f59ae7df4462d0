//! Tokens that the command line makes, and what they open.

use jsonwebtoken::{DecodingKey, EncodingKey, Header, Validation, decode, encode};
use reqwest::{Client, Method};
use rune_testkit::TestDaemon;
use serde_json::{Value, json};

use crate::callers::SECRET;
use crate::home::{Home, RUNE, Ran, Served, write_plain};

/// A daemon that takes tokens, with the agent `plain`.
async fn served() -> Served {
    let builder = TestDaemon::builder(RUNE).env("RUNE_JWT_SECRET", SECRET);
    let served = Served(builder.start().await.unwrap());
    write_plain(&served.0.home().join("plain"));
    served.rune(&["run", "plain"]).ok();
    served
}

/// The token that `rune token create` prints.
fn create(served: &Served, args: &[&str]) -> String {
    let args = [&["token", "create", "--subject", "ada"], args].concat();
    served.rune(&args).ok().trim().to_owned()
}

fn claims(token: &str) -> Value {
    let validation = Validation {
        validate_aud: false,
        ..Validation::default()
    };
    let key = DecodingKey::from_secret(SECRET.as_bytes());
    decode::<Value>(token, &key, &validation).unwrap().claims
}

#[tokio::test]
async fn a_token_opens_what_its_scopes_are_for() {
    let served = served().await;
    let client = Client::new();
    let (gateway, control_plane) = (served.0.gateway(), served.0.control_plane());
    let invoke = format!("{gateway}/v1/agents/plain/invoke");
    let calls = [
        (Method::GET, format!("{gateway}/v1/agents")),
        (Method::POST, invoke.clone()),
        (Method::GET, format!("{control_plane}/v1/audit")),
        (
            Method::DELETE,
            format!("{control_plane}/v1/deployments/nobody"),
        ),
    ];
    // What stands behind the scope is a deployment that does not exist.
    let cases: [(&[&str], [u16; 4]); 5] = [
        (&["--scope", "read"], [200, 403, 200, 403]),
        (&["--scope", "invoke"], [200, 200, 403, 403]),
        (
            &["--scope", "read", "--scope", "invoke"],
            [200, 200, 200, 403],
        ),
        (&["--scope", "admin"], [200, 200, 200, 400]),
        (&[], [200, 200, 200, 400]),
    ];
    for (args, expected) in cases {
        let token = create(&served, args);
        let mut found = Vec::new();
        for (method, url) in &calls {
            let request = client
                .request(method.clone(), url)
                .json(&json!({"input": "hi"}));
            let answer = request.bearer_auth(&token).send().await.unwrap();
            let status = answer.status().as_u16();
            if status == 403 {
                let body: Value = answer.json().await.unwrap();
                assert_eq!(body["error"]["code"], "denied", "{body}");
                let message = body["error"]["message"].as_str().unwrap();
                assert!(message.contains("`scope`"), "{message}");
                assert!(message.contains("`admin`"), "{message}");
            }
            found.push(status);
        }
        assert_eq!(found, expected, "{args:?}");
    }
    // OpenAI's clients are told in their own words.
    let token = create(&served, &["--scope", "read"]);
    let chat = json!({"model": "plain", "messages": [{"role": "user", "content": "hi"}]});
    let request = client
        .post(format!("{gateway}/v1/chat/completions"))
        .json(&chat);
    let answer = request.bearer_auth(&token).send().await.unwrap();
    assert_eq!(answer.status(), 403);
    let body: Value = answer.json().await.unwrap();
    assert!(body["error"]["type"].is_string(), "{body}");
    // Who called is in the record.
    let listed = served.rune(&["requests", "ls", "-o", "json"]).json();
    let rows = listed.as_array().unwrap();
    assert!(
        rows.iter().all(|row| row["caller"] == "jwt:ada"),
        "{listed}"
    );
}

#[tokio::test]
async fn a_token_ends_with_its_time() {
    let served = served().await;
    let token = create(&served, &["--expires", "2h", "--scope", "invoke"]);
    let mut made = claims(&token);
    assert_eq!(
        (&made["sub"], &made["scope"]),
        (&json!("ada"), &json!("invoke"))
    );
    let (iat, exp) = (made["iat"].as_u64().unwrap(), made["exp"].as_u64().unwrap());
    assert_eq!(exp - iat, 2 * 60 * 60);
    // The same, made three hours earlier.
    made["iat"] = json!(iat - 3 * 60 * 60);
    made["exp"] = json!(exp - 3 * 60 * 60);
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    let old = encode(&Header::default(), &made, &key).unwrap();
    let url = format!("{}/v1/agents", served.0.gateway());
    let asked = async |token: &str| {
        let answer = Client::new().get(&url).bearer_auth(token).send().await;
        let answer = answer.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    assert_eq!(asked(&token).await.0, 200);
    let (status, text) = asked(&old).await;
    assert_eq!(status, 401);
    assert!(text.contains("expired"), "{text}");
}

#[test]
fn a_token_is_data_for_programs_and_needs_a_secret() {
    let home = Home::new();
    let create = |args: &[&str], secret: &str| {
        let mut command = home.command(&[&["token", "create"], args].concat());
        command.env("RUNE_JWT_SECRET", secret);
        command.env("RUNE_JWT_AUDIENCE", "rune");
        Ran::new(command)
    };
    let made = create(
        &["--subject", "ci", "--scope", "read", "-o", "json"],
        SECRET,
    )
    .json();
    assert_eq!(
        (&made["for"], &made["subject"], &made["scopes"]),
        (&json!("user"), &json!("ci"), &json!(["read"]))
    );
    assert!(
        made["expires_at"].as_str().unwrap().ends_with('Z'),
        "{made}"
    );
    let claims = claims(made["token"].as_str().unwrap());
    assert_eq!(claims["aud"], "rune");
    let days = |claims: &Value| {
        (claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap()) / 86_400
    };
    assert_eq!(days(&claims), 30);

    let ran = create(&["--subject", "ci"], "").ends(2);
    assert!(ran.stderr.contains("RUNE_JWT_SECRET"), "{}", ran.stderr);
    for wrong in [
        &["--subject", "ci", "--expires", "never"][..],
        &["--subject", "ci", "--expires", "0s"],
        &["--subject", "ci", "--scope", "root"],
        &["--subject", "a\nb"],
        &["--subject", "west", "--for", "gateway", "--scope", "read"],
        &[],
    ] {
        let ran = create(wrong, SECRET).ends(2);
        assert!(ran.stdout.is_empty(), "{wrong:?}: {}", ran.stdout);
        assert!(!ran.stderr.contains(SECRET), "{}", ran.stderr);
    }
    // Where the control plane's key is not, none is made: nobody would take the token.
    let ran = create(&["--subject", "west", "--for", "gateway"], "").ends(1);
    assert!(ran.stderr.contains("internal.key"), "{}", ran.stderr);
    assert!(!home.path().join(".rune/internal.key").exists());
    let help = home.rune(&["token", "create", "--help"]).ok();
    for part in [
        "Examples:",
        "rune token create --subject ada",
        "--for gateway",
    ] {
        assert!(help.contains(part), "{help}");
    }
}
