//! How the command line proves who it is.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::{EncodingKey, Header, encode};
use rune_env::GatewayConfig;
use secrecy::ExposeSecret;
use serde::Serialize;

use crate::failure::{Failure, Outcome};

/// How long a token that the command line signs is good for: one command, a long chat included.
const TOKEN_LIFE: Duration = Duration::from_secs(12 * 60 * 60);

#[derive(Serialize)]
struct Claims<'a> {
    sub: &'static str,
    iat: u64,
    exp: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    aud: Option<&'a str>,
}

/// The API key, else a token signed with the JWT secret, else nothing.
pub(super) fn token(config: &GatewayConfig) -> Outcome<Option<String>> {
    if let Some(key) = &config.api_key {
        return Ok(Some(key.expose_secret().to_owned()));
    }
    let Some(secret) = &config.jwt_secret else {
        return Ok(None);
    };
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let claims = Claims {
        sub: "rune-cli",
        iat: now.as_secs(),
        exp: (now + TOKEN_LIFE).as_secs(),
        aud: config.jwt_audience.as_deref(),
    };
    let key = EncodingKey::from_secret(secret.expose_secret().as_bytes());
    encode(&Header::default(), &claims, &key)
        .map(Some)
        .map_err(|error| Failure::because("cannot sign a token with RUNE_JWT_SECRET", &error))
}
