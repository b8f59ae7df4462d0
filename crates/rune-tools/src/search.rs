//! Web search: one backend of several, chosen by the operator.

mod duckduckgo;
mod json;

use reqwest::Url;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};

use crate::egress::EgressPolicy;
use crate::web::{Fetched, WebClient, WebRequest};
use crate::{EgressGate, ToolError};
pub use duckduckgo::parse_duckduckgo;

/// Bytes of an answer that are read at the most.
const MAX_BODY_BYTES: usize = 4 * 1024 * 1024;

/// Who searches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SearchBackend {
    /// The HTML page of DuckDuckGo; needs no key.
    #[default]
    DuckDuckGo,
    /// A SearXNG instance whose `formats` include `json`.
    SearXng,
    /// The Brave Search API.
    Brave,
    /// The Tavily API.
    Tavily,
}

/// How the web is searched.
#[derive(Debug, Clone, Default)]
pub struct SearchConfig {
    /// Who searches.
    pub backend: SearchBackend,
    /// Where that is; the backend's own address where absent.
    pub url: Option<String>,
    /// The key that it wants.
    pub key: Option<SecretString>,
}

/// One result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SearchHit {
    /// Title of the page.
    pub title: String,
    /// Its address.
    pub url: String,
    /// What it says about the query.
    pub snippet: String,
}

/// Searches the web.
pub(crate) struct Searcher {
    config: SearchConfig,
    client: WebClient,
}

impl SearchBackend {
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::DuckDuckGo => "duckduckgo",
            Self::SearXng => "searxng",
            Self::Brave => "brave",
            Self::Tavily => "tavily",
        }
    }

    const fn base(self) -> Option<&'static str> {
        match self {
            Self::DuckDuckGo => Some("https://html.duckduckgo.com"),
            Self::SearXng => None,
            Self::Brave => Some("https://api.search.brave.com"),
            Self::Tavily => Some("https://api.tavily.com"),
        }
    }
}

impl Searcher {
    /// Searches under a policy; where the operator has said where the backend is, it may be there.
    pub(crate) fn new(config: SearchConfig, policy: EgressPolicy) -> Self {
        let policy = match &config.url {
            Some(url) => policy.opened_for(url),
            None => policy,
        };
        Self {
            config,
            client: WebClient::new(policy),
        }
    }

    pub(crate) const fn backend(&self) -> SearchBackend {
        self.config.backend
    }

    /// What is found, best first.
    pub(crate) async fn search(
        &self,
        query: &str,
        limit: usize,
        gate: Option<&dyn EgressGate>,
    ) -> Result<Vec<SearchHit>, ToolError> {
        let request = self.request(query, limit)?;
        let answer = self.client.send(request, MAX_BODY_BYTES, gate).await?;
        let mut hits = self.read(&answer)?;
        hits.truncate(limit);
        Ok(hits)
    }

    fn request(&self, query: &str, limit: usize) -> Result<WebRequest, ToolError> {
        let count = limit.to_string();
        Ok(match self.config.backend {
            SearchBackend::DuckDuckGo => WebRequest {
                headers: vec![("accept".into(), "text/html".to_owned())],
                ..WebRequest::get(self.url("/html/", &[("q", query)])?)
            },
            SearchBackend::SearXng => {
                WebRequest::get(self.url("/search", &[("q", query), ("format", "json")])?)
            }
            SearchBackend::Brave => WebRequest {
                headers: vec![
                    ("accept".into(), "application/json".to_owned()),
                    ("x-subscription-token".into(), self.key()?),
                ],
                ..WebRequest::get(
                    self.url("/res/v1/web/search", &[("q", query), ("count", &count)])?,
                )
            },
            SearchBackend::Tavily => WebRequest {
                headers: vec![("authorization".into(), format!("Bearer {}", self.key()?))],
                json: Some(json!({ "query": query, "max_results": limit })),
                ..WebRequest::get(self.url("/search", &[])?)
            },
        })
    }

    fn url(&self, path: &str, query: &[(&str, &str)]) -> Result<Url, ToolError> {
        let backend = self.config.backend;
        let Some(base) = self.config.url.as_deref().or(backend.base()) else {
            return Err(ToolError::unavailable(format!(
                "web search with {} is not configured: the operator has to set `tools.web_search_url`",
                backend.name()
            )));
        };
        let mut url = Url::parse(&format!("{}{path}", base.trim_end_matches('/')))
            .map_err(|error| ToolError::unavailable(format!("`tools.web_search_url`: {error}")))?;
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        Ok(url)
    }

    fn key(&self) -> Result<String, ToolError> {
        let key = self.config.key.as_ref();
        let key = key.map(|key| key.expose_secret().to_owned());
        key.ok_or_else(|| {
            ToolError::unavailable(format!(
                "web search with {} needs a key: the operator has to set `tools.web_search_key`",
                self.config.backend.name()
            ))
        })
    }

    fn read(&self, answer: &Fetched) -> Result<Vec<SearchHit>, ToolError> {
        let backend = self.config.backend;
        let name = backend.name();
        match answer.status {
            200 => {}
            401 | 403 if backend == SearchBackend::SearXng => {
                return Err(ToolError::unavailable(format!(
                    "{name} answered with status {}: `json` has to be among its `search.formats`",
                    answer.status
                )));
            }
            401 | 403 => {
                return Err(ToolError::unavailable(format!(
                    "{name} answered with status {}: it does not take the key",
                    answer.status
                )));
            }
            429 => {
                return Err(ToolError::unavailable(format!(
                    "{name} does not take more searches now; try again later"
                )));
            }
            202 if backend == SearchBackend::DuckDuckGo => return Err(asks_who_searches()),
            status => {
                return Err(ToolError::unavailable(format!(
                    "{name} answered with status {status}"
                )));
            }
        }
        if backend == SearchBackend::DuckDuckGo {
            let page = String::from_utf8_lossy(&answer.body);
            let hits = parse_duckduckgo(&page);
            if hits.is_empty() && page.contains("anomaly") {
                return Err(asks_who_searches());
            }
            return Ok(hits);
        }
        let body: Value = serde_json::from_slice(&answer.body)
            .map_err(|error| ToolError::failed(format!("{name} did not answer JSON: {error}")))?;
        json::hits(backend, &body).ok_or_else(|| {
            ToolError::failed(format!("{name} answered something else than results"))
        })
    }
}

fn asks_who_searches() -> ToolError {
    ToolError::unavailable(
        "duckduckgo asks whether a person searches; try again later, or the operator configures another backend \
         (`tools.web_search`)",
    )
}
