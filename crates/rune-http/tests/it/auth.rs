//! Who gets in.

use std::time::{SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use rune_env::{Config, ConfigSources, Overrides};
use rune_http::{Auth, AuthConfigError};
use serde_json::{Value, json};

use crate::toy::{Toy, send, start};

const SECRET: &str = "a secret that is long enough to be one";

fn auth(audience: Option<&str>) -> Auth {
    let (key, secret) = ("the-key".to_owned().into(), SECRET.to_owned().into());
    Auth::new(Some(&key), Some(&secret), audience).unwrap()
}

fn token(claims: &Value) -> String {
    encode(
        &Header::default(),
        claims,
        &EncodingKey::from_secret(SECRET.as_bytes()),
    )
    .unwrap()
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

async fn who(toy: &Toy, header: &str, value: &str) -> (u16, String) {
    let answer = send(
        reqwest::Client::new()
            .get(toy.url("/who"))
            .header(header, value),
    )
    .await;
    let text = if answer.status == 200 {
        answer.text
    } else {
        answer.error().1
    };
    (answer.status, text)
}

#[tokio::test]
async fn keys_and_tokens_name_the_caller() {
    let toy = start(auth(None)).await;
    let ok = |who: &str| (200, who.to_owned());
    assert_eq!(who(&toy, "x-api-key", "the-key").await, ok("api-key"));
    assert_eq!(
        who(&toy, "authorization", "Bearer the-key").await,
        ok("api-key")
    );
    assert_eq!(
        who(&toy, "authorization", "bearer the-key").await,
        ok("api-key")
    );
    let good = token(&json!({"sub": "ann", "exp": now() + 60, "aud": "whoever"}));
    assert_eq!(
        who(&toy, "authorization", &format!("Bearer {good}")).await,
        ok("jwt:ann")
    );
    let late = token(&json!({"sub": "ann", "exp": now() - 30}));
    assert_eq!(
        who(&toy, "authorization", &format!("Bearer {late}")).await,
        ok("jwt:ann")
    );
}

#[tokio::test]
async fn everything_else_is_refused() {
    let toy = start(auth(None)).await;
    let refused = async |header, value: &str, part: &str| {
        let (status, text) = who(&toy, header, value).await;
        assert_eq!(status, 401, "{text}");
        assert!(text.contains(part), "{text}");
    };
    refused("x-other", "x", "credentials are needed").await;
    refused("x-api-key", "the-kez", "not valid").await;
    refused("x-api-key", "", "not valid").await;
    refused("authorization", "Basic dGhlLWtleQ==", "Bearer").await;
    refused("authorization", "Bearer", "Bearer").await;
    for (claims, part) in [
        (json!({"sub": "ann"}), "`exp`"),
        (json!({"sub": "ann", "exp": now() - 120}), "expired"),
        (
            json!({"sub": "ann", "exp": now() + 600, "nbf": now() + 300}),
            "not valid yet",
        ),
        (json!({"sub": "a\nb", "exp": now() + 60}), "`sub`"),
    ] {
        refused("authorization", &format!("Bearer {}", token(&claims)), part).await;
    }
    let claims = json!({"sub": "ann", "exp": now() + 60});
    let other = EncodingKey::from_secret(b"another secret");
    let forged = encode(&Header::default(), &claims, &other).unwrap();
    refused("authorization", &format!("Bearer {forged}"), "not valid").await;
    let header = Header::new(Algorithm::HS512);
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    let confused = encode(&header, &claims, &key).unwrap();
    refused("authorization", &format!("Bearer {confused}"), "not valid").await;
}

#[tokio::test]
async fn a_scope_opens_what_it_is_for() {
    let toy = start(auth(None)).await;
    let client = reqwest::Client::new();
    let statuses = async |scope: Value| {
        let mut claims = json!({"sub": "ann", "exp": now() + 60});
        if !scope.is_null() {
            claims["scope"] = scope;
        }
        let bearer = token(&claims);
        let looking = client.get(toy.url("/who")).bearer_auth(&bearer);
        let acting = client.post(toy.url("/notes")).bearer_auth(&bearer);
        let acting = acting.json(&json!({"text": "a"}));
        (send(looking).await.status, send(acting).await.status)
    };
    assert_eq!(statuses(Value::Null).await, (200, 200));
    assert_eq!(statuses(json!("admin")).await, (200, 200));
    assert_eq!(statuses(json!("openid read")).await, (200, 403));
    assert_eq!(statuses(json!("invoke")).await, (403, 403));
    // A claim that names nothing of ours is for nothing of ours.
    assert_eq!(statuses(json!("openid email")).await, (403, 403));
    assert_eq!(statuses(json!("")).await, (403, 403));
    assert_eq!(statuses(json!(["admin"])).await, (401, 401));
}

#[tokio::test]
async fn the_audience_is_checked_where_one_is_configured() {
    let toy = start(auth(Some("rune"))).await;
    let with = async |aud: Value| {
        let mut claims = json!({"sub": "ann", "exp": now() + 60});
        if !aud.is_null() {
            claims["aud"] = aud;
        }
        who(&toy, "authorization", &format!("Bearer {}", token(&claims)))
            .await
            .0
    };
    assert_eq!(with(json!("rune")).await, 200);
    assert_eq!(with(json!(["other", "rune"])).await, 200);
    assert_eq!(with(json!("other")).await, 401);
    assert_eq!(with(Value::Null).await, 401);
}

#[tokio::test]
async fn only_public_routes_answer_without_credentials() {
    let toy = start(auth(None)).await;
    let client = reqwest::Client::new();
    assert_eq!(send(client.get(toy.url("/health"))).await.status, 200);
    for path in ["/who", "/nowhere", "/panic", "/health/x"] {
        let answer = send(client.get(toy.url(path))).await;
        assert_eq!(
            (answer.status, answer.error().0.as_str()),
            (401, "unauthenticated"),
            "{path}"
        );
    }
}

#[tokio::test]
async fn without_credentials_web_pages_are_kept_out() {
    let toy = start(Auth::Anonymous).await;
    let client = reqwest::Client::new();
    let get = |host: &str| client.get(toy.url("/who")).header("host", host);
    assert_eq!(send(get("localhost:1")).await.status, 200);
    assert_eq!(send(get("[::1]")).await.status, 200);
    for host in ["evil.example", "localhost.evil.example", "10.0.0.1"] {
        assert_eq!(send(get(host)).await.error().0, "denied", "{host}");
    }
    assert!(
        toy.raw(b"GET /who HTTP/1.0\r\n\r\n")
            .await
            .starts_with("HTTP/1.0 403")
    );

    let post = |origin: &str| {
        let request = client.post(toy.url("/notes")).header("origin", origin);
        request
            .header("content-type", "application/json")
            .body(r#"{"text":"a"}"#)
    };
    assert_eq!(send(post("http://localhost:3000")).await.status, 200);
    for origin in [
        "https://evil.example",
        "null",
        "http://localhost.evil.example",
    ] {
        assert_eq!(send(post(origin)).await.error().0, "denied", "{origin}");
    }
}

#[test]
fn a_configuration_that_would_let_everybody_in_is_refused() {
    let load = |name: &'static str, value: &'static str| {
        let sources = ConfigSources {
            env: std::sync::Arc::new(move |asked| match asked {
                "HOME" => Some("/nonexistent".to_owned()),
                asked => (asked == name).then(|| value.to_owned()),
            }),
            file: None,
            overrides: Overrides::default(),
        };
        Auth::from_config(&Config::load(sources).unwrap().gateway)
    };
    assert_eq!(
        load("RUNE_JWKS_URL", "https://example.org/keys").err(),
        Some(AuthConfigError::Jwks)
    );
    assert!(load("RUNE_DATA_DIR", "/tmp").unwrap().is_anonymous());
    assert!(!load("RUNE_API_KEY", "k").unwrap().is_anonymous());
    assert!(!load("RUNE_JWT_SECRET", "k").unwrap().is_anonymous());
    let empty = Auth::new(Some(&String::new().into()), None, None);
    assert_eq!(empty.err(), Some(AuthConfigError::Empty("RUNE_API_KEY")));
}
