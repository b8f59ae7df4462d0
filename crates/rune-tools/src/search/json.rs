//! Backends that answer JSON.

use serde_json::Value;

use super::{SearchBackend, SearchHit};

/// The results in an answer; nothing where it has no list of them.
pub(super) fn hits(backend: SearchBackend, body: &Value) -> Option<Vec<SearchHit>> {
    let (list, snippet) = match backend {
        SearchBackend::Brave => match body.pointer("/web/results") {
            Some(list) => (list, "description"),
            // Nothing was found on the web.
            None if body["type"] == "search" => return Some(Vec::new()),
            None => return None,
        },
        _ => (body.get("results")?, "content"),
    };
    let hits = list.as_array()?.iter().filter_map(|result| {
        let text = |name: &str| plain(result[name].as_str().unwrap_or_default());
        let url = result["url"].as_str()?.to_owned();
        url.starts_with("http").then(|| SearchHit {
            title: text("title"),
            url,
            snippet: text(snippet),
        })
    });
    Some(hits.collect())
}

/// A text without the marks of what was searched for.
fn plain(text: &str) -> String {
    let text = text.replace("<strong>", "").replace("</strong>", "");
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
