//! Holding an API to its OpenAPI document.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::http::StatusCode;
use axum::http::header::{ALLOW, CONTENT_TYPE, HOST};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use reqwest::{Client, Method};
use serde_json::Value;

/// Where every API answers its document.
const PATH: &str = "/openapi.json";
/// Routes between the processes of one Rune: they are for no user, and in no document.
const INTERNAL: &str = "/internal/";
/// Largest document in bytes.
const MAX_BYTES: usize = 16 * 1024 * 1024;
/// The methods that an operation can have.
const METHODS: [Method; 5] = [
    Method::GET,
    Method::POST,
    Method::PUT,
    Method::PATCH,
    Method::DELETE,
];
/// The status of an answer that the document does not have, where a router is held to it.
const UNDOCUMENTED: StatusCode = StatusCode::NOT_EXTENDED;

/// The OpenAPI document of an API.
#[derive(Debug, Clone)]
pub struct ApiDocument(Value);

/// One method of one path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Operation {
    /// The path, with its parameters in braces.
    pub path: String,
    /// The method.
    pub method: String,
    /// Whether it asks for no credentials.
    pub public: bool,
}

impl ApiDocument {
    /// What a server answers.
    ///
    /// # Errors
    /// Where it answers none.
    pub async fn fetch(client: &Client, base: &str) -> Result<Self, reqwest::Error> {
        let response = client.get(format!("{base}{PATH}")).send().await?;
        Ok(Self(response.error_for_status()?.json().await?))
    }

    /// The document as it came.
    #[must_use]
    pub const fn json(&self) -> &Value {
        &self.0
    }

    /// Every operation.
    #[must_use]
    pub fn operations(&self) -> BTreeSet<Operation> {
        let paths = self.0["paths"].as_object().into_iter().flatten();
        let operations = paths.flat_map(|(path, item)| {
            METHODS.iter().filter_map(move |method| {
                let operation = item.get(method.as_str().to_lowercase())?;
                Some(Operation {
                    path: path.clone(),
                    method: method.to_string(),
                    public: operation["security"].as_array().is_some_and(Vec::is_empty),
                })
            })
        });
        operations.collect()
    }

    /// The paths of the operations that ask for no credentials.
    #[must_use]
    pub fn public_paths(&self) -> BTreeSet<String> {
        let operations = self.operations().into_iter();
        let public = operations.filter(|operation| operation.public);
        public.map(|operation| operation.path).collect()
    }

    /// What is wrong with an answer of this operation; nothing where the document has its status and its type.
    #[must_use]
    pub fn objection(
        &self,
        method: &str,
        path: &str,
        status: u16,
        content_type: Option<&str>,
    ) -> Option<String> {
        let answers = &self.0["paths"][path][method.to_lowercase()]["responses"];
        let Some(answer) = answers.get(status.to_string()) else {
            return Some(format!("{method} {path} answered {status}"));
        };
        let reference = answer["$ref"].as_str().and_then(|it| it.strip_prefix('#'));
        let answer = reference
            .and_then(|it| self.0.pointer(it))
            .unwrap_or(answer);
        let essence = |text: &str| text.split(';').next().unwrap_or_default().trim().to_owned();
        let types = answer["content"].as_object().into_iter().flatten();
        let types: BTreeSet<String> = types.map(|(name, _)| essence(name)).collect();
        let is_known = match content_type {
            None => types.is_empty(),
            Some(text) => types.contains(&essence(text)),
        };
        (!is_known).then(|| {
            let found = content_type.unwrap_or("nothing");
            format!("{method} {path} answered {status} with {found}")
        })
    }

    /// Asks for every operation without credentials, with wrong ones and with `key`, and for every other method of every
    /// path. Answers what is not as the document says.
    ///
    /// # Errors
    /// Where the server cannot be asked.
    pub async fn access_objections(
        &self,
        client: &Client,
        base: &str,
        key: &str,
    ) -> Result<Vec<String>, reqwest::Error> {
        let mut objections = Vec::new();
        let mut methods: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for Operation {
            path,
            method,
            public,
        } in self.operations()
        {
            let url = format!("{base}{path}");
            let wrong = format!("{key}x");
            for (who, key, expected) in [
                ("nobody", None, public),
                ("a wrong key", Some(wrong.as_str()), public),
                ("the key", Some(key), true),
            ] {
                let request = client.request(method.parse().unwrap_or_default(), &url);
                let request = match key {
                    Some(key) => request.header("x-api-key", key),
                    None => request,
                };
                let status = request.send().await?.status();
                if (status != StatusCode::UNAUTHORIZED) != expected
                    || status == StatusCode::METHOD_NOT_ALLOWED && path != "/mcp"
                {
                    objections.push(format!("{method} {path} answered {who} {status}"));
                }
            }
            methods.entry(path).or_default().insert(method);
        }
        for (path, known) in methods {
            for method in METHODS {
                if known.contains(method.as_str()) {
                    continue;
                }
                let request = client.request(method.clone(), format!("{base}{path}"));
                let response = request.header("x-api-key", key).send().await?;
                let allow = response.headers().get(ALLOW);
                let allow = allow.and_then(|it| it.to_str().ok()).unwrap_or_default();
                let allowed = allow.split(',').map(str::trim).filter(|it| *it != "HEAD");
                let allowed: BTreeSet<&str> = allowed.collect();
                if response.status() != StatusCode::METHOD_NOT_ALLOWED
                    || allowed != known.iter().map(String::as_str).collect()
                {
                    let status = response.status();
                    objections.push(format!("{method} {path} answered {status}, allow: {allow}"));
                }
            }
        }
        Ok(objections)
    }
}

/// The paths of a router. Axum shows them to nobody but its `Debug`.
#[must_use]
pub fn paths_of(router: &Router) -> BTreeSet<String> {
    let text = format!("{router:?}");
    let own = text.split("fallback_router").next().unwrap_or_default();
    let routes = own.split("RouteId(").skip(1);
    let paths = routes.filter_map(|rest| {
        let (_, rest) = rest.split_once("): \"")?;
        rest.split_once('"').map(|(path, _)| path.to_owned())
    });
    paths.collect()
}

/// The same router, whose every answer is looked up in the document that it serves: one that is not there becomes a
/// `510` that says so.
///
/// # Errors
/// Where it serves no document.
pub async fn held_to_document(router: Router) -> Result<Router, serde_json::Error> {
    let request = Request::get(PATH).header(HOST, "localhost");
    let request = request.body(Body::empty()).unwrap_or_default();
    let Ok(response) = TowerToHyperService::new(router.clone()).call(request).await;
    let body = axum::body::to_bytes(response.into_body(), MAX_BYTES).await;
    let document = ApiDocument(serde_json::from_slice(&body.unwrap_or_default())?);
    Ok(router.layer(from_fn_with_state(Arc::new(document), look_up)))
}

async fn look_up(
    State(document): State<Arc<ApiDocument>>,
    matched: Option<MatchedPath>,
    request: Request,
    next: Next,
) -> Response {
    let method = request.method().clone();
    let response = next.run(request).await;
    let Some(path) = matched else { return response };
    if path.as_str().starts_with(INTERNAL) {
        return response;
    }
    let (path, method) = (path.as_str(), method.as_str());
    let content_type = response.headers().get(CONTENT_TYPE);
    let content_type = content_type.and_then(|it| it.to_str().ok());
    let status = response.status();
    if document.0["paths"][path]
        .get(method.to_lowercase())
        .is_none()
        && status == StatusCode::METHOD_NOT_ALLOWED
    {
        return response;
    }
    match document.objection(method, path, status.as_u16(), content_type) {
        Some(objection) => (UNDOCUMENTED, format!("undocumented: {objection}")).into_response(),
        None => response,
    }
}
