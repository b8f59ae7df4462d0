//! How new an answer has to be.

use axum::extract::Request;

/// What of a query says so.
const LINEARIZABLE: &str = "consistency=linearizable";
const CONSISTENCIES: [&str; 2] = [LINEARIZABLE, "consistency=local"];

/// Whether a request asks for what was written last, wherever that was. The handlers do not know of it.
pub(super) fn is_linearizable(request: &mut Request) -> bool {
    let Some((path, query)) = request.uri().path_and_query().and_then(|uri| {
        let query = uri.query()?;
        Some((uri.path().to_owned(), query.to_owned()))
    }) else {
        return false;
    };
    let asked: Vec<&str> = query.split('&').collect();
    let rest: Vec<&str> = asked
        .iter()
        .copied()
        .filter(|pair| !CONSISTENCIES.contains(pair))
        .collect();
    if rest.len() == asked.len() {
        return false;
    }
    let rest = match rest.is_empty() {
        true => path,
        false => format!("{path}?{}", rest.join("&")),
    };
    if let Ok(uri) = rest.parse() {
        *request.uri_mut() = uri;
    }
    asked.contains(&LINEARIZABLE)
}
