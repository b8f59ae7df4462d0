//! Metrics of HTTP requests; [`recorder`] keeps those of the whole process.

pub(crate) mod recorder;

use std::time::Duration;

use http::{Method, StatusCode};

/// Counts a finished request. The duration ends with the head of the answer.
pub(crate) fn record(
    listener: &'static str,
    route: &str,
    method: &'static str,
    status: StatusCode,
    duration: Duration,
) {
    metrics::counter!(
        "http_requests_total",
        "listener" => listener,
        "route" => route.to_owned(),
        "method" => method,
        "status" => status.as_str().to_owned(),
    )
    .increment(1);
    metrics::histogram!(
        "http_request_duration_seconds",
        "listener" => listener,
        "route" => route.to_owned(),
        "method" => method,
    )
    .record(duration.as_secs_f64());
}

/// The label of a method; a caller cannot make up new ones.
pub(crate) const fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::PATCH => "PATCH",
        Method::HEAD => "HEAD",
        Method::OPTIONS => "OPTIONS",
        _ => "OTHER",
    }
}
