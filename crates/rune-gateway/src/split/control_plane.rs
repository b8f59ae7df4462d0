//! How a gateway reaches its control plane.

use std::error::Error as _;
use std::fmt::Write as _;
use std::time::Duration;

use axum::extract::Request;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, HOST};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri};
use reqwest::{Client, Url, redirect, retry};
use rune_http::{ApiError, Caller, HttpRequestId, REQUEST_ID};
use secrecy::{ExposeSecret as _, SecretString};

use super::{ANSWERED, CALLER, PREFIX, written};
use crate::hop::sent_on;

/// Longest time for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a quiet connection is asked whether the other side is there.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// How long a connection is kept for the next request: shorter than the other side keeps it.
const IDLE: Duration = Duration::from_secs(30);
/// How long the question may take whether it is ready.
const LOOK_PATIENCE: Duration = Duration::from_secs(5);
/// Headers that are about who calls, and what this gateway says itself.
const OWN: [HeaderName; 5] = [
    AUTHORIZATION,
    HeaderName::from_static("x-api-key"),
    CALLER,
    ANSWERED,
    REQUEST_ID,
];
/// What to do about a token that is not taken.
pub(super) const TOKEN_REFUSED: &str = "it does not take this gateway's token, RUNE_INTERNAL_TOKEN; \
                                        `rune token create --for gateway` makes one";

/// A gateway that cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum SplitError {
    /// The address is none.
    #[error("`{0}` is not the URL of a control plane, expected `http://HOST:PORT`")]
    Url(String),
    /// The token cannot stand in a header.
    #[error("the token has characters that no token has")]
    Token,
    /// The client cannot be set up.
    #[error("cannot set up the HTTP client")]
    Client(#[source] reqwest::Error),
}

/// A control plane elsewhere.
pub(super) struct ControlPlane {
    http: Client,
    base: String,
    authorization: HeaderValue,
}

impl ControlPlane {
    pub(super) fn new(url: &str, token: &SecretString) -> Result<Self, SplitError> {
        let base = url.trim_end_matches('/').to_owned();
        let parsed = Url::parse(&base).ok();
        let scheme = parsed.as_ref().map(Url::scheme);
        if !matches!(scheme, Some("http" | "https")) {
            return Err(SplitError::Url(base));
        }
        let mut http = Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_keepalive(KEEP_ALIVE)
            .pool_idle_timeout(IDLE)
            .tcp_nodelay(true)
            // The address is this Rune's own, and the token is for nobody in between.
            .no_proxy()
            .redirect(redirect::Policy::none())
            // Only the caller knows whether it may be asked twice.
            .retry(retry::never())
            // What comes is passed on as it is.
            .no_gzip()
            .user_agent(concat!("rune/", env!("CARGO_PKG_VERSION")));
        if scheme == Some("http") {
            http = http.tls_certs_only([]);
        }
        let bearer = format!("Bearer {}", token.expose_secret());
        let mut authorization = HeaderValue::try_from(bearer).map_err(|_| SplitError::Token)?;
        authorization.set_sensitive(true);
        Ok(Self {
            http: http.build().map_err(SplitError::Client)?,
            base,
            authorization,
        })
    }

    /// Sends a request on.
    pub(super) async fn send(
        &self,
        method: Method,
        url: Url,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<reqwest::Response, reqwest::Error> {
        let request = self.http.request(method, url).headers(headers);
        request.body(body).send().await
    }

    /// Where a request goes. What a URL would not keep as it is does not go anywhere: `..` leads out of this API.
    pub(super) fn url_of(&self, uri: &Uri) -> Result<Url, ApiError> {
        let path = uri.path_and_query().map_or("/", PathAndQuery::as_str);
        let url = Url::parse(&format!("{}{PREFIX}{path}", self.base)).ok();
        let expected = format!("{PREFIX}{}", uri.path());
        let kept = url.filter(|url| url.path().ends_with(&expected));
        kept.ok_or_else(|| ApiError::invalid("the path has parts that must be percent-encoded"))
    }

    /// The headers of a request as they are sent on.
    pub(super) fn headers(
        &self,
        request: &Request,
        caller: &Caller,
        id: HttpRequestId,
    ) -> Result<HeaderMap, ApiError> {
        let mut headers = sent_on(request.headers(), &OWN);
        let wrong = |_| ApiError::internal("a header cannot be sent on");
        if let (false, Some(host)) = (headers.contains_key(HOST), request.uri().authority()) {
            let host = HeaderValue::try_from(host.as_str()).map_err(wrong)?;
            headers.insert(HOST, host);
        }
        let caller = HeaderValue::try_from(written(&caller.id)).map_err(wrong)?;
        headers.insert(CALLER, caller);
        let id = HeaderValue::try_from(id.as_str()).map_err(wrong)?;
        headers.insert(REQUEST_ID, id);
        headers.insert(AUTHORIZATION, self.authorization.clone());
        Ok(headers)
    }

    /// Whether it is ready for this gateway, or why not.
    pub(super) async fn look(&self) -> Result<(), String> {
        let asked = self.http.get(format!("{}{PREFIX}/ready", self.base));
        let asked = asked
            .header(AUTHORIZATION, self.authorization.clone())
            .header(CALLER, "gateway")
            .timeout(LOOK_PATIENCE);
        let answer = asked.send().await.map_err(told)?;
        match answer.status() {
            StatusCode::OK => Ok(()),
            _ if is_refusal(&answer) => Err(TOKEN_REFUSED.to_owned()),
            StatusCode::NOT_FOUND => {
                Err("what is there serves no gateways; is it a control plane?".to_owned())
            }
            status => Err(format!("it answers {status}")),
        }
    }
}

/// Whether the control plane, or what stands before it, does not take the gateway's token. A caller's own 401 and 403 come from
/// the API behind it.
pub(super) fn is_refusal(answer: &reqwest::Response) -> bool {
    let status = answer.status();
    let is_one = matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
    is_one && !answer.headers().contains_key(ANSWERED)
}

/// The headers of an answer that are passed on.
pub(super) fn passed_on(headers: &HeaderMap) -> HeaderMap {
    let mut kept = sent_on(headers, &OWN);
    if let Some(length) = headers.get(CONTENT_LENGTH) {
        kept.insert(CONTENT_LENGTH, length.clone());
    }
    kept
}

/// An error with what led to it.
pub(super) fn told(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        // Writing to a string cannot fail.
        let _ = write!(text, ": {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_path_leads_out_of_the_api() {
        let control_plane = ControlPlane::new("http://cp:1/base/", &"t".to_owned().into()).unwrap();
        let url_of = |path: &str| control_plane.url_of(&path.parse().unwrap());
        for path in [
            "/v1/agents?ns=a%2e&x=..",
            "/v1/agents/%00/invoke",
            "/v1/agents/..%2f..%2f",
        ] {
            let url = url_of(path).unwrap();
            assert_eq!(url.as_str(), format!("http://cp:1/base{PREFIX}{path}"));
        }
        for path in [
            "/v1/../../store/read",
            "/v1/%2e%2e/%2E./store/read",
            "/v1/..\\..\\store\\read",
            "/./v1",
        ] {
            assert!(url_of(path).is_err(), "{path}");
        }
    }
}
