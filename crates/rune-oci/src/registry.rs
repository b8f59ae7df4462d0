//! One repository of a registry, after the OCI distribution specification 1.1.

mod auth;
mod referrers;
mod transfer;

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderName, HeaderValue};
use reqwest::redirect::{Attempt, Policy};
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode, Url};
use serde::Deserialize;
use tokio::sync::Mutex;

use crate::artifact::{media_type, printable};
use crate::{Credentials, DockerConfig, OciError, Reference};

pub use transfer::Step;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// Longest silence of a registry.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// Registries send blobs from elsewhere; not from everywhere.
const MAX_REDIRECTS: usize = 5;
/// Longest answer that is read for what is wrong.
const MAX_ERROR_BYTES: u64 = 64 * 1024;

/// What is to be done in a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Take out.
    Pull,
    /// Take out and put in.
    Push,
}

/// A repository. Nothing is connected before it is needed.
pub struct Registry {
    client: Client,
    reference: Reference,
    base: Url,
    access: Access,
    credentials: Option<Credentials>,
    authorization: Mutex<Option<HeaderValue>>,
}

/// The error body of the specification.
#[derive(Deserialize)]
struct ErrorBody {
    errors: Vec<ErrorEntry>,
}

#[derive(Deserialize)]
struct ErrorEntry {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

impl Registry {
    /// The repository of a reference, with the credentials that Docker keeps for its registry.
    ///
    /// # Errors
    /// [`OciError::Credentials`] where those cannot be had.
    pub async fn open(
        reference: &Reference,
        docker: &DockerConfig,
        access: Access,
    ) -> Result<Self, OciError> {
        let unreachable = |reason: String| OciError::Unreachable {
            registry: reference.registry().to_owned(),
            reason,
        };
        let base =
            Url::parse(&reference.base_url()).map_err(|error| unreachable(error.to_string()))?;
        let secure = base.scheme() == "https";
        let redirect = move |attempt: Attempt<'_>| {
            if attempt.previous().len() > MAX_REDIRECTS {
                attempt.error("too many redirects")
            } else if secure && attempt.url().scheme() != "https" {
                attempt.error("a redirect away from TLS")
            } else {
                attempt.follow()
            }
        };
        let mut client = Client::builder()
            .user_agent(concat!("rune/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(READ_TIMEOUT)
            .redirect(Policy::custom(redirect))
            .referer(false)
            // Sizes are those of what is stored.
            .no_gzip();
        if reference.is_loopback() {
            client = client.no_proxy();
        }
        Ok(Self {
            client: client
                .build()
                .map_err(|error| unreachable(error.to_string()))?,
            reference: reference.clone(),
            base,
            access,
            credentials: docker.credentials(reference.registry()).await?,
            authorization: Mutex::new(None),
        })
    }

    /// The reference that it was opened with.
    #[must_use]
    pub const fn reference(&self) -> &Reference {
        &self.reference
    }

    /// A path below the repository.
    fn url(&self, path: &str) -> Url {
        let mut url = self.base.clone();
        url.set_path(&format!("/v2/{}/{path}", self.reference.repository()));
        url
    }

    /// Sends a request, once more with authorization where the registry asks for it. A token that has run out is asked for
    /// again.
    async fn send(
        &self,
        method: Method,
        url: &Url,
        headers: &[(HeaderName, &str)],
        body: Option<&Bytes>,
    ) -> Result<Response, OciError> {
        // The authorization is for the registry, not for where it keeps its uploads.
        let own = url.origin() == self.base.origin();
        let build = |authorization: Option<&HeaderValue>| {
            let mut request = self.client.request(method.clone(), url.clone());
            for (name, value) in headers {
                request = request.header(name, *value);
            }
            if let Some(value) = authorization.filter(|_| own) {
                request = request.header(AUTHORIZATION, value.clone());
            }
            match body {
                Some(body) => request.body(body.clone()),
                None => request,
            }
        };
        let mut authorization = self.authorization.lock().await;
        let response = self.answer(build(authorization.as_ref())).await?;
        if !own || response.status() != StatusCode::UNAUTHORIZED {
            return Ok(response);
        }
        let value = self.authorize(response.headers()).await?;
        let value = authorization.insert(value);
        self.answer(build(Some(value))).await
    }

    async fn answer(&self, request: RequestBuilder) -> Result<Response, OciError> {
        request
            .send()
            .await
            .map_err(|error| self.unreachable(&error))
    }

    /// Reads an answer of at most so many bytes.
    async fn body(
        &self,
        mut response: Response,
        what: &str,
        limit: u64,
    ) -> Result<Bytes, OciError> {
        let mut bytes = BytesMut::new();
        while let Some(chunk) = response
            .chunk()
            .await
            .map_err(|error| self.unreachable(&error))?
        {
            if (bytes.len() + chunk.len()) as u64 > limit {
                return Err(OciError::TooLarge {
                    what: what.to_owned(),
                    limit,
                });
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes.freeze())
    }

    /// What an answer means that is not the one that was wanted.
    async fn refused(&self, response: Response, action: &'static str) -> OciError {
        let status = response.status();
        let body = self.body(response, "answer", MAX_ERROR_BYTES).await;
        let said = said(status, body.as_deref().unwrap_or_default());
        let registry = self.reference.registry().to_owned();
        let repository = self.reference.repository().to_owned();
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => OciError::Denied {
                registry,
                repository,
                said,
                authenticated: self.credentials.is_some(),
            },
            _ => OciError::Refused {
                registry,
                repository,
                action,
                said,
                transient: status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS,
            },
        }
    }

    fn unreachable(&self, error: &reqwest::Error) -> OciError {
        let mut reason = error.to_string();
        let mut source = std::error::Error::source(error);
        while let Some(cause) = source {
            reason = cause.to_string();
            source = cause.source();
        }
        OciError::Unreachable {
            registry: self.reference.registry().to_owned(),
            reason,
        }
    }

    /// A manifest or an index by its tag or digest, where it is there.
    async fn manifest(&self, version: &str) -> Result<Option<Bytes>, OciError> {
        const ACTION: &str = "hand out a manifest";
        let accept = format!("{}, {}", media_type::MANIFEST, media_type::INDEX);
        let url = self.url(&format!("manifests/{version}"));
        let response = self
            .send(Method::GET, &url, &[(ACCEPT, &accept)], None)
            .await?;
        match response.status() {
            StatusCode::OK => {
                let limit = crate::MAX_MANIFEST_BYTES;
                Ok(Some(self.body(response, "manifest", limit).await?))
            }
            StatusCode::NOT_FOUND => Ok(None),
            _ => Err(self.refused(response, ACTION).await),
        }
    }
}

/// What a registry says is wrong.
fn said(status: StatusCode, body: &[u8]) -> String {
    let reason = status.canonical_reason().unwrap_or_default();
    let plain = format!("{} {}", status.as_u16(), reason);
    let parsed = serde_json::from_slice::<ErrorBody>(body);
    let errors = parsed.map_or(Vec::new(), |body| body.errors);
    let words: Vec<String> = errors
        .iter()
        .map(|error| match error.message.as_str() {
            "" => error.code.clone(),
            message => message.to_owned(),
        })
        .filter(|words| !words.is_empty())
        .collect();
    if words.is_empty() {
        plain
    } else {
        format!("{} ({plain})", printable(&words.join("; ")))
    }
}
