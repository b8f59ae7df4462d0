//! Authentication: who a caller is.

mod jwt;
mod scope;

use http::HeaderMap;
use http::header::AUTHORIZATION;
use rune_env::GatewayConfig;
use rune_store_runtime::ErrorCode;
use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use crate::{ApiError, Caller};
use jwt::JwtVerifier;

pub use jwt::sign_user_token;
pub use scope::TokenScope;

/// The header that carries an API key.
const API_KEY_HEADER: &str = "x-api-key";

/// The configured credentials cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthConfigError {
    /// A secret without a character protects nothing.
    #[error("{0} is empty")]
    Empty(&'static str),
    /// Tokens of a JWKS issuer would go unchecked.
    #[error("RUNE_JWKS_URL is set, but this version of Rune verifies RUNE_JWT_SECRET tokens only")]
    Jwks,
}

/// How callers prove who they are.
#[derive(Clone)]
pub enum Auth {
    /// They do not; for loopback listeners only.
    Anonymous,
    /// By any of these.
    Credentials(Credentials),
}

/// The credentials that are accepted; at least one of them is there.
#[derive(Clone)]
pub struct Credentials {
    /// SHA-256 of the key, so that comparing takes the same time for every key.
    api_key: Option<[u8; 32]>,
    jwt: Option<JwtVerifier>,
}

impl Auth {
    /// What the platform configuration asks for.
    ///
    /// # Errors
    /// An [`AuthConfigError`] where it asks for what would let callers in unchecked.
    pub fn from_config(config: &GatewayConfig) -> Result<Self, AuthConfigError> {
        if config.jwks_url.is_some() {
            return Err(AuthConfigError::Jwks);
        }
        Self::new(
            config.api_key.as_ref(),
            config.jwt_secret.as_ref(),
            config.jwt_audience.as_deref(),
        )
    }

    /// Accepts this API key, and HS256 tokens signed with this secret. Without either every
    /// caller is anonymous.
    ///
    /// # Errors
    /// [`AuthConfigError::Empty`].
    pub fn new(
        api_key: Option<&SecretString>,
        jwt_secret: Option<&SecretString>,
        jwt_audience: Option<&str>,
    ) -> Result<Self, AuthConfigError> {
        let empty = |secret: &&SecretString| secret.expose_secret().is_empty();
        if api_key.as_ref().is_some_and(empty) {
            return Err(AuthConfigError::Empty("RUNE_API_KEY"));
        }
        if jwt_secret.as_ref().is_some_and(empty) {
            return Err(AuthConfigError::Empty("RUNE_JWT_SECRET"));
        }
        if api_key.is_none() && jwt_secret.is_none() {
            return Ok(Self::Anonymous);
        }
        Ok(Self::Credentials(Credentials {
            api_key: api_key.map(|key| Sha256::digest(key.expose_secret()).into()),
            jwt: jwt_secret.map(|secret| JwtVerifier::new(secret.expose_secret(), jwt_audience)),
        }))
    }

    /// Whether callers need no credentials.
    #[must_use]
    pub const fn is_anonymous(&self) -> bool {
        matches!(self, Self::Anonymous)
    }

    /// Who sent these headers.
    ///
    /// # Errors
    /// `unauthenticated` where credentials are asked for and none, or wrong ones, came.
    pub fn authenticate(&self, headers: &HeaderMap) -> Result<Caller, ApiError> {
        match self {
            Self::Anonymous => Ok(Caller::new("anonymous")),
            Self::Credentials(credentials) => credentials.authenticate(headers),
        }
    }
}

impl Credentials {
    fn authenticate(&self, headers: &HeaderMap) -> Result<Caller, ApiError> {
        if let Some(value) = headers.get(AUTHORIZATION) {
            let token = bearer(value.as_bytes())
                .ok_or_else(|| refused("`authorization` must be `Bearer TOKEN`"))?;
            if self.is_api_key(token.as_bytes()) {
                return Ok(Caller::new("api-key"));
            }
            let Some(jwt) = &self.jwt else {
                return Err(refused("the API key is not valid"));
            };
            return jwt.verify(token).map_err(refused);
        }
        if let Some(key) = headers.get(API_KEY_HEADER) {
            return if self.is_api_key(key.as_bytes()) {
                Ok(Caller::new("api-key"))
            } else {
                Err(refused("the API key is not valid"))
            };
        }
        Err(refused(
            "credentials are needed: `authorization: Bearer TOKEN` or `x-api-key: KEY`",
        ))
    }

    fn is_api_key(&self, candidate: &[u8]) -> bool {
        self.api_key.is_some_and(|key| {
            let candidate: [u8; 32] = Sha256::digest(candidate).into();
            key.ct_eq(&candidate).into()
        })
    }
}

fn bearer(value: &[u8]) -> Option<&str> {
    let (scheme, token) = std::str::from_utf8(value).ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn refused(message: &'static str) -> ApiError {
    ApiError::new(ErrorCode::Unauthenticated, message)
}
