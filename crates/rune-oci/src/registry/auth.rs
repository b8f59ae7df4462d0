//! Proving to a registry who asks: Basic, or a token of the server that it names.

use base64::prelude::{BASE64_STANDARD, Engine as _};
use http_auth::ChallengeParser;
use reqwest::Url;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;

use super::{Access, Registry, said};
use crate::{Credentials, OciError};

/// Longest answer of a token server.
const MAX_TOKEN_BYTES: u64 = 256 * 1024;
/// Who asks a token server.
const CLIENT_ID: &str = "rune";

/// What a registry asks for.
#[derive(Debug, PartialEq, Eq)]
enum Challenge {
    Basic,
    Bearer {
        realm: String,
        service: Option<String>,
    },
}

/// The answer of a token server; older ones call it `token`, OAuth 2 `access_token`.
#[derive(Deserialize)]
struct Token {
    token: Option<SecretString>,
    access_token: Option<SecretString>,
}

impl Challenge {
    /// A bearer challenge before a basic one.
    fn of(headers: &HeaderMap) -> Option<Self> {
        let mut basic = None;
        for value in headers.get_all(WWW_AUTHENTICATE) {
            let Ok(text) = value.to_str() else { continue };
            for challenge in ChallengeParser::new(text).flatten() {
                let parameter = |name: &str| {
                    let mut found = challenge.params.iter();
                    let (_, value) = found.find(|(key, _)| key.eq_ignore_ascii_case(name))?;
                    Some(value.to_unescaped())
                };
                if challenge.scheme.eq_ignore_ascii_case("bearer") {
                    let service = parameter("service");
                    return parameter("realm").map(|realm| Self::Bearer { realm, service });
                }
                if challenge.scheme.eq_ignore_ascii_case("basic") {
                    basic = Some(Self::Basic);
                }
            }
        }
        basic
    }
}

impl Registry {
    /// The header that an answer with 401 asks for.
    pub(super) async fn authorize(&self, headers: &HeaderMap) -> Result<HeaderValue, OciError> {
        match (Challenge::of(headers), &self.credentials) {
            (Some(Challenge::Bearer { realm, service }), _) => {
                let token = self.token(&realm, service.as_deref()).await?;
                header(format!("Bearer {}", token.expose_secret()))
                    .ok_or_else(|| self.denied("its token server answered no token"))
            }
            (Some(Challenge::Basic), Some(Credentials::Password { user, password })) => {
                basic(user, password).ok_or_else(|| self.denied("the credentials cannot be sent"))
            }
            (Some(Challenge::Basic), Some(Credentials::Identity(_))) => {
                Err(self.denied("it wants a password, and there is a token"))
            }
            (Some(Challenge::Basic), None) => Err(self.denied("it wants credentials")),
            (None, _) => Err(self.denied("it does not say how to authenticate")),
        }
    }

    async fn token(&self, realm: &str, service: Option<&str>) -> Result<SecretString, OciError> {
        let mut url = Url::parse(realm).map_err(|_| self.denied("its token server has no URL"))?;
        // Credentials are sent in clear only on this machine, and only where its registry is there, too.
        let on_this_machine = self.reference.is_loopback() && is_loopback(&url);
        if url.scheme() != "https" && !on_this_machine {
            return Err(self.denied("its token server is asked without TLS"));
        }
        let actions = match self.access {
            Access::Pull => "pull",
            Access::Push => "pull,push",
        };
        let scope = format!("repository:{}:{actions}", self.reference.repository());
        let mut fields = vec![("scope", scope.as_str())];
        fields.extend(service.map(|service| ("service", service)));
        let request = if let Some(Credentials::Identity(token)) = &self.credentials {
            fields.extend([
                ("grant_type", "refresh_token"),
                ("client_id", CLIENT_ID),
                ("refresh_token", token.expose_secret()),
            ]);
            let form = form(url.clone(), &fields);
            self.client
                .post(url)
                .header("content-type", "application/x-www-form-urlencoded")
                .body(form)
        } else {
            url.query_pairs_mut().extend_pairs(&fields);
            let request = self.client.get(url);
            match &self.credentials {
                Some(Credentials::Password { user, password }) => {
                    let value = basic(user, password);
                    let value =
                        value.ok_or_else(|| self.denied("the credentials cannot be sent"))?;
                    request.header(AUTHORIZATION, value)
                }
                _ => request,
            }
        };
        let response = self.answer(request).await?;
        let status = response.status();
        let body = self.body(response, "token", MAX_TOKEN_BYTES).await?;
        if !status.is_success() {
            let said = said(status, &body);
            return Err(self.denied(&format!("its token server says {said}")));
        }
        let answer = serde_json::from_slice::<Token>(&body).ok();
        answer
            .and_then(|answer| answer.token.or(answer.access_token))
            .ok_or_else(|| self.denied("its token server answered no token"))
    }

    fn denied(&self, said: &str) -> OciError {
        OciError::Denied {
            registry: self.reference.registry().to_owned(),
            repository: self.reference.repository().to_owned(),
            said: said.to_owned(),
            authenticated: self.credentials.is_some(),
        }
    }
}

fn is_loopback(url: &Url) -> bool {
    match url.host_str().unwrap_or_default().trim_matches(['[', ']']) {
        "localhost" => true,
        host => host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback()),
    }
}

/// A header whose value is in no log.
fn header(text: String) -> Option<HeaderValue> {
    let mut value = HeaderValue::try_from(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

fn basic(user: &str, password: &SecretString) -> Option<HeaderValue> {
    let pair = format!("{user}:{}", password.expose_secret());
    header(format!("Basic {}", BASE64_STANDARD.encode(pair)))
}

/// Fields as a form sends them, which is how a query has them.
fn form(mut url: Url, fields: &[(&str, &str)]) -> String {
    url.set_query(None);
    url.query_pairs_mut().extend_pairs(fields);
    url.query().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(values: &[&'static str], expected: Option<&Challenge>) {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(WWW_AUTHENTICATE, HeaderValue::from_static(value));
        }
        assert_eq!(Challenge::of(&headers).as_ref(), expected, "{values:?}");
    }

    #[test]
    fn challenges_are_read() {
        let bearer = |service: Option<&str>| Challenge::Bearer {
            realm: "https://auth.example.org/token".to_owned(),
            service: service.map(str::to_owned),
        };
        check(
            &[
                r#"Bearer realm="https://auth.example.org/token",service="registry",scope="repository:a:pull""#,
            ],
            Some(&bearer(Some("registry"))),
        );
        check(
            &[
                "Basic realm=\"x\"",
                r#"bearer Realm="https://auth.example.org/token""#,
            ],
            Some(&bearer(None)),
        );
        check(&["Basic realm=\"Registry\""], Some(&Challenge::Basic));
        check(&["Negotiate"], None);
        check(&["\"\"=,;"], None);
        check(&[], None);
    }
}
