//! JSON Web Tokens signed with a shared secret.

use std::sync::Arc;

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode};
use serde::Deserialize;

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
        if claims.sub.len() > MAX_SUBJECT_BYTES || claims.sub.contains(char::is_control) {
            return Err("the token's `sub` is too long or not printable");
        }
        Ok(Caller::of_subject(&claims.sub))
    }
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
