//! One request of a client, read.

use std::collections::HashMap;

use bytes::Bytes;
use http::{HeaderMap, Method, Uri, header};
use serde_json::Value;

use crate::resource::{self, Resource};
use crate::status::{ApiError, ApiResult};
use crate::table::Include;

/// A request with its whole body.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) method: Method,
    path: String,
    parameters: HashMap<String, String>,
    headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// A place in the API.
#[derive(Debug)]
pub(crate) enum Place {
    Version,
    Health,
    CoreVersions,
    Groups,
    Group(String),
    Resources(String, String),
    OpenapiV2,
    OpenapiV3,
    OpenapiV3Of(String),
    /// A review of the caller's own access.
    AccessReview,
    Objects(Target),
}

/// Objects of a kind, or one of them, or a part of one.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) resource: &'static Resource,
    /// Absent: of all namespaces, or of a kind without them.
    pub(crate) namespace: Option<String>,
    /// Empty: all.
    pub(crate) name: String,
    /// Empty: the object itself.
    pub(crate) subresource: String,
}

impl Call {
    pub(crate) fn new(method: Method, uri: &Uri, headers: HeaderMap, body: Bytes) -> Self {
        let query = uri.query().unwrap_or("").as_bytes();
        let parameters = url::form_urlencoded::parse(query);
        Self {
            method,
            path: uri.path().to_owned(),
            parameters: parameters.into_owned().collect(),
            headers,
            body,
        }
    }

    /// A parameter of the query; empty where there is none.
    pub(crate) fn parameter(&self, name: &str) -> &str {
        self.parameters.get(name).map_or("", String::as_str)
    }

    pub(crate) fn is_set(&self, name: &str) -> bool {
        matches!(self.parameter(name), "true" | "1" | "True")
    }

    fn header(&self, name: header::HeaderName) -> &str {
        let value = self.headers.get(name);
        value.and_then(|v| v.to_str().ok()).unwrap_or("")
    }

    pub(crate) fn token(&self) -> Option<&str> {
        self.header(header::AUTHORIZATION).strip_prefix("Bearer ")
    }

    /// The media type of the body.
    pub(crate) fn media_type(&self) -> &str {
        let given = self.header(header::CONTENT_TYPE);
        given.split(';').next().unwrap_or(given).trim()
    }

    /// Whether objects are to be sent as a table, and what its rows carry.
    pub(crate) fn as_table(&self) -> Option<Include> {
        let first = self.header(header::ACCEPT).split(',').next();
        let is_table = first.is_some_and(|accept| accept.contains("as=Table"));
        is_table.then(|| Include::parse(self.parameter("includeObject")))
    }

    /// Whose fields a write makes them.
    pub(crate) fn manager(&self) -> &str {
        match self.parameter("fieldManager") {
            "" => {
                let agent = self.header(header::USER_AGENT);
                agent.split('/').next().unwrap_or(agent)
            }
            given => given,
        }
    }

    /// The body as JSON; an empty one is null.
    pub(crate) fn json(&self) -> ApiResult<Value> {
        if self.body.is_empty() {
            return Ok(Value::Null);
        }
        match self.media_type() {
            "" | "application/json" => {}
            other => return Err(ApiError::unsupported_media_type(other)),
        }
        serde_json::from_slice(&self.body).map_err(|error| ApiError::bad_request(error.to_string()))
    }

    /// Where in the API it goes.
    pub(crate) fn place(&self) -> Option<Place> {
        let parts: Vec<&str> = self.path.split('/').filter(|p| !p.is_empty()).collect();
        match parts.as_slice() {
            ["version"] => Some(Place::Version),
            ["healthz" | "livez" | "readyz"] => Some(Place::Health),
            ["api"] => Some(Place::CoreVersions),
            ["apis"] => Some(Place::Groups),
            ["apis", group] => Some(Place::Group((*group).to_owned())),
            ["api", version] => Some(Place::Resources(String::new(), (*version).to_owned())),
            ["apis", group, version] => {
                Some(Place::Resources((*group).to_owned(), (*version).to_owned()))
            }
            ["openapi", "v2"] => Some(Place::OpenapiV2),
            ["openapi", "v3"] => Some(Place::OpenapiV3),
            ["openapi", "v3", rest @ ..] => Some(Place::OpenapiV3Of(rest.join("/"))),
            [
                "apis",
                "authorization.k8s.io",
                "v1",
                "selfsubjectaccessreviews",
            ] => Some(Place::AccessReview),
            ["api", version, rest @ ..] => target("", version, rest).map(Place::Objects),
            ["apis", group, version, rest @ ..] => target(group, version, rest).map(Place::Objects),
            _ => None,
        }
    }
}

fn target(group: &str, version: &str, parts: &[&str]) -> Option<Target> {
    let (namespace, parts) = match parts {
        // `namespaces/NAME/status` is of the namespace itself.
        ["namespaces", namespace, plural, rest @ ..]
            if resource::find(group, version, plural).is_some_and(|r| r.is_namespaced) =>
        {
            let _ = (plural, rest);
            (Some((*namespace).to_owned()), parts.get(2..)?)
        }
        parts => (None, parts),
    };
    let (plural, rest) = parts.split_first()?;
    let resource = resource::find(group, version, plural)?;
    let (name, subresource) = match rest {
        [] => ("", ""),
        [name] => (*name, ""),
        [name, subresource] => (*name, *subresource),
        _ => return None,
    };
    let has_part = subresource.is_empty() || resource.has_subresource(subresource);
    // One object of a kind with namespaces has one.
    let has_place = name.is_empty() || namespace.is_some() == resource.is_namespaced;
    (has_part && has_place).then(|| Target {
        resource,
        namespace,
        name: name.to_owned(),
        subresource: subresource.to_owned(),
    })
}
