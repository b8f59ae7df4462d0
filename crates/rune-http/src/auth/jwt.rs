//! JSON Web Tokens signed with a shared secret.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, decode, encode};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};

use super::TokenScope;
use crate::Caller;

/// How far the issuer's clock may be off, in seconds.
const LEEWAY_SECS: u64 = 60;
/// Longest subject in bytes.
const MAX_SUBJECT_BYTES: usize = 256;

/// Verifies HS256 tokens: the signature, `exp` (required), `nbf`, and `aud` where an
/// audience is configured.
#[derive(Clone)]
pub(super) struct JwtVerifier {
    key: DecodingKey,
    validation: Arc<Validation>,
}

#[derive(Deserialize)]
struct Claims {
    #[serde(default)]
    sub: String,
    #[serde(default)]
    scope: Option<String>,
}

#[derive(Serialize)]
struct NewClaims<'a> {
    sub: &'a str,
    iat: u64,
    exp: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    aud: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    scope: Option<String>,
}

/// A token that a listener with this secret and audience takes for this subject, from now on and as long as it is valid. It
/// is for these scopes; without any it is for everything.
///
/// # Errors
/// Why there can be no such token.
pub fn sign_user_token(
    secret: &SecretString,
    audience: Option<&str>,
    subject: &str,
    scopes: &[TokenScope],
    valid_for: Duration,
) -> Result<SecretString, &'static str> {
    if !is_subject(subject) {
        return Err(SUBJECT);
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.map_err(|_| "the clock stands before 1970")?.as_secs();
    let scopes: Vec<&str> = scopes.iter().map(|scope| scope.as_str()).collect();
    let claims = NewClaims {
        sub: subject,
        iat: now,
        exp: now.saturating_add(valid_for.as_secs()),
        aud: audience,
        scope: (!scopes.is_empty()).then(|| scopes.join(" ")),
    };
    let key = EncodingKey::from_secret(secret.expose_secret().as_bytes());
    let token = encode(&Header::new(Algorithm::HS256), &claims, &key);
    token
        .map(SecretString::from)
        .map_err(|_| "the secret cannot sign it")
}

impl JwtVerifier {
    pub(super) fn new(secret: &str, audience: Option<&str>) -> Self {
        let mut validation = Validation::new(Algorithm::HS256);
        validation.leeway = LEEWAY_SECS;
        validation.validate_nbf = true;
        match audience {
            Some(audience) => {
                validation.set_audience(&[audience]);
                validation.set_required_spec_claims(&["exp", "aud"]);
            }
            // A token may name an audience although nobody here asks for one.
            None => validation.validate_aud = false,
        }
        Self {
            key: DecodingKey::from_secret(secret.as_bytes()),
            validation: Arc::new(validation),
        }
    }

    /// Who the token speaks for, or why it is refused.
    pub(super) fn verify(&self, token: &str) -> Result<Caller, &'static str> {
        let claims = decode::<Claims>(token, &self.key, &self.validation)
            .map_err(|error| reason(error.kind()))?
            .claims;
        if !is_subject(&claims.sub) {
            return Err(SUBJECT);
        }
        let scopes = claims.scope.as_deref().map(TokenScope::parse);
        Ok(Caller::of_subject(&claims.sub, scopes))
    }
}

const SUBJECT: &str = "the token's `sub` is too long or not printable";

fn is_subject(text: &str) -> bool {
    text.len() <= MAX_SUBJECT_BYTES && !text.contains(char::is_control)
}

fn reason(kind: &ErrorKind) -> &'static str {
    match kind {
        ErrorKind::ExpiredSignature => "the token has expired",
        ErrorKind::ImmatureSignature => "the token is not valid yet",
        ErrorKind::InvalidAudience => "the token is for another audience",
        ErrorKind::MissingRequiredClaim(_) => {
            "the token lacks a claim: `exp`, and `aud` where asked for"
        }
        _ => "the token is not valid",
    }
}
