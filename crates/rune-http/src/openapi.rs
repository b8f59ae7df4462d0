//! What the API documents of all listeners have in common.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa::openapi::content::ContentBuilder;
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::path::{Operation, PathItem, Paths};
use utoipa::openapi::response::ResponseBuilder;
use utoipa::openapi::security::{
    ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme,
};
use utoipa::openapi::{Components, OpenApi, Ref, RefOr};

use crate::openai::{ErrorShape, OpenAiErrorBody};

/// The body of every error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    /// The error.
    pub error: ErrorDetail,
}

/// What went wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorDetail {
    /// One of `invalid_input` 400, `unauthenticated` 401, `denied` 403, `not_found` 404,
    /// `conflict` 409, `too_large` 413, `limit_exceeded` 429, `cancelled` 499, `internal` 500,
    /// `model_unavailable` 502, `unavailable` 503, `timeout` 504.
    pub code: String,
    /// For a person.
    pub message: String,
    /// The agent request it belongs to, else the HTTP request (`x-request-id`).
    pub request_id: String,
}

/// One event of a stream.
#[derive(Debug, Clone, PartialEq, Eq, ToSchema)]
pub struct ServerSentEvent {
    /// What it is, where the protocol names its events.
    pub event: Option<String>,
    /// By what a client that comes back says where it was.
    pub id: Option<String>,
    /// JSON, but for the word with which some protocols end a stream.
    pub data: String,
}

/// What the edge and the extractors answer, whatever the handler is. A handler that answers one of these for a reason of
/// its own documents it itself.
struct CommonAnswer {
    status: &'static str,
    name: &'static str,
    description: &'static str,
    /// A header that comes with it.
    header: Option<(&'static str, &'static str)>,
    given_by: GivenBy,
}

/// Which operations give an answer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum GivenBy {
    All,
    /// Those that ask for credentials; no other uses the store.
    Protected,
    /// Those with parameters or a body.
    WithInput,
    WithBody,
}

const COMMON_ANSWERS: [CommonAnswer; 7] = [
    CommonAnswer {
        status: "400",
        name: "InvalidInput",
        description: "A parameter or the body is not valid; the message says which and why",
        header: None,
        given_by: GivenBy::WithInput,
    },
    CommonAnswer {
        status: "401",
        name: "Unauthenticated",
        description: "Credentials are asked for, and there are none or wrong ones",
        header: Some(("WWW-Authenticate", "`Bearer`")),
        given_by: GivenBy::Protected,
    },
    CommonAnswer {
        status: "403",
        name: "Denied",
        description: "A token whose `scope` does not cover this; a foreign `Host` or `Origin`, where no credentials are asked for",
        header: None,
        given_by: GivenBy::All,
    },
    CommonAnswer {
        status: "413",
        name: "TooLarge",
        description: "Path and query, the headers or the body are over their limits",
        header: None,
        given_by: GivenBy::All,
    },
    CommonAnswer {
        status: "500",
        name: "Internal",
        description: "A fault of Rune; the log has it under the `x-request-id`",
        header: None,
        given_by: GivenBy::All,
    },
    CommonAnswer {
        status: "503",
        name: "Unavailable",
        description: "The daemon is stopping, or a part of it does not work now",
        header: Some(("Retry-After", "Seconds to wait")),
        given_by: GivenBy::Protected,
    },
    CommonAnswer {
        status: "504",
        name: "Timeout",
        description: "The body came too slowly",
        header: None,
        given_by: GivenBy::WithBody,
    },
];

/// Adds to a document what no handler says of itself: the credentials, for which every operation asks but those on `public`
/// paths, and the errors that any operation of its kind answers, in OpenAI's shape on `openai` paths.
pub fn complete(document: &mut OpenApi, public: &[&str], openai: &[&str]) {
    let components = document.components.get_or_insert_default();
    components.add_security_scheme(
        "bearer",
        SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build()),
    );
    components.add_security_scheme(
        "api_key",
        SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::new("X-API-Key"))),
    );
    add_answers::<ErrorBody>(components, ErrorShape::Rune);
    if !openai.is_empty() {
        add_answers::<OpenAiErrorBody>(components, ErrorShape::OpenAi);
    }
    let none: [&str; 0] = [];
    let asked = vec![
        SecurityRequirement::new("bearer", none),
        SecurityRequirement::new("api_key", none),
    ];
    for (path, item) in &mut document.paths.paths {
        let is_public = public.contains(&path.as_str());
        let shape = match openai.contains(&path.as_str()) {
            true => ErrorShape::OpenAi,
            false => ErrorShape::Rune,
        };
        for operation in operations(item) {
            split_summary(operation);
            operation.security = Some(if is_public { Vec::new() } else { asked.clone() });
            let has_body = operation.request_body.is_some();
            let has_input = has_body
                || operation
                    .parameters
                    .as_ref()
                    .is_some_and(|it| !it.is_empty());
            let answers = &mut operation.responses.responses;
            for answer in &COMMON_ANSWERS {
                let given = match answer.given_by {
                    GivenBy::All => true,
                    GivenBy::Protected => !is_public,
                    GivenBy::WithInput => has_input,
                    GivenBy::WithBody => has_body,
                };
                if given && !answers.contains_key(answer.status) {
                    let named = Ref::from_response_name(answer.name_in(shape));
                    answers.insert(answer.status.to_owned(), RefOr::Ref(named));
                }
            }
        }
    }
}

/// Keeps the first sentence of what the handler says of itself as the summary.
fn split_summary(operation: &mut Operation) {
    let Some(text) = &operation.summary else {
        return;
    };
    let text = text.replace('\n', " ");
    let (first, rest) = text.split_once(". ").unwrap_or((&text, ""));
    let rest = [rest, operation.description.as_deref().unwrap_or_default()];
    let rest: Vec<&str> = rest.into_iter().filter(|text| !text.is_empty()).collect();
    operation.description = (!rest.is_empty()).then(|| rest.join("\n\n"));
    operation.summary = Some(first.trim_end_matches('.').to_owned());
}

/// Adds the common answers with this body.
fn add_answers<T: ToSchema>(components: &mut Components, shape: ErrorShape) {
    let body = T::name().into_owned();
    let mut schemas = vec![(body.clone(), T::schema())];
    T::schemas(&mut schemas);
    components.schemas.extend(schemas);
    for answer in &COMMON_ANSWERS {
        let schema = Ref::from_schema_name(body.as_str());
        let content = ContentBuilder::new().schema(Some(schema)).build();
        let mut response = ResponseBuilder::new()
            .description(answer.description)
            .content("application/json", content);
        if let Some((name, description)) = answer.header {
            let header = HeaderBuilder::new().description(Some(description)).build();
            response = response.header(name, header);
        }
        let response = RefOr::T(response.build());
        components.responses.insert(answer.name_in(shape), response);
    }
}

impl CommonAnswer {
    /// Its name among the components.
    fn name_in(&self, shape: ErrorShape) -> String {
        match shape {
            ErrorShape::Rune => self.name.to_owned(),
            ErrorShape::OpenAi => format!("OpenAi{}", self.name),
        }
    }
}

/// Names operations after their handler, which alone is no name of one operation: many modules have a `list`.
pub fn name_operations(paths: &mut Paths, module: &str, handler: &str) {
    let name = match module == handler {
        true => handler.to_owned(),
        false => format!("{module}_{handler}"),
    };
    for operation in paths.paths.values_mut().flat_map(operations) {
        operation.operation_id = Some(name.clone());
    }
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [
        &mut item.get,
        &mut item.post,
        &mut item.put,
        &mut item.delete,
        &mut item.patch,
    ]
    .into_iter()
    .flatten()
}
