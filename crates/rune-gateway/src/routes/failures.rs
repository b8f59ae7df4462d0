//! How a request of an agent fails that a caller waits for.

use std::collections::BTreeMap;
use std::marker::PhantomData;

use utoipa::openapi::content::ContentBuilder;
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::response::{Response, ResponseBuilder};
use utoipa::openapi::{Ref, RefOr};
use utoipa::{IntoResponses, ToSchema};

/// The answers of a request that was refused or did not complete, with errors of the shape `T`. `complete` of rune-http adds those that every route has.
pub(crate) struct Failures<T>(PhantomData<T>);

const FAILURES: [(&str, &str); 6] = [
    (
        "404",
        "The agent is not deployed, or what the request is about does not exist",
    ),
    (
        "409",
        "The session is another agent's, the idempotency key was used with another body, or the present state is against it",
    ),
    (
        "429",
        "A limit of the agent or a budget is used up, or too many requests wait",
    ),
    ("499", "The request was cancelled"),
    ("502", "No provider of a model answered"),
    (
        "504",
        "The time of the agent is over, or the body came too slowly",
    ),
];

impl<T: ToSchema> IntoResponses for Failures<T> {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let response = |(status, description): (&str, &str)| {
            let schema = Ref::from_schema_name(T::name());
            let content = ContentBuilder::new().schema(Some(schema)).build();
            let response = ResponseBuilder::new()
                .description(description)
                .content("application/json", content);
            let response = match status {
                "429" => {
                    let seconds = HeaderBuilder::new().description(Some("Seconds to wait"));
                    response.header("Retry-After", seconds.build())
                }
                _ => response,
            };
            (status.to_owned(), RefOr::T(response.build()))
        };
        FAILURES.map(response).into()
    }
}
