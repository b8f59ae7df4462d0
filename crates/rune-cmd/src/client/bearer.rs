//! How the command line proves who it is.

use std::time::Duration;

use rune_env::GatewayConfig;
use rune_http::{TokenScope, sign_user_token};
use secrecy::ExposeSecret;

use crate::failure::{Exit, Failure, Outcome};

/// How long a token that the command line signs is good for: one command, a long chat included.
const TOKEN_LIFE: Duration = Duration::from_secs(12 * 60 * 60);

/// The API key, else a token signed with the JWT secret, else nothing.
pub(super) fn token(config: &GatewayConfig) -> Outcome<Option<String>> {
    if let Some(key) = &config.api_key {
        return Ok(Some(key.expose_secret().to_owned()));
    }
    let Some(secret) = &config.jwt_secret else {
        return Ok(None);
    };
    let audience = config.jwt_audience.as_deref();
    let token = sign_user_token(
        secret,
        audience,
        "rune-cli",
        &[TokenScope::Admin],
        TOKEN_LIFE,
    );
    let token = token.map_err(|why| {
        let message = format!("cannot sign a token with RUNE_JWT_SECRET: {why}");
        Failure::new(Exit::Failed, message)
    })?;
    Ok(Some(token.expose_secret().to_owned()))
}
