//! Turns a fetched body into text for a model.

use std::borrow::Cow;
use std::rc::Rc;

use htmd::element_handler::{HandlerResult, Handlers};
use htmd::options::Options;
use htmd::{Element, HtmlToMarkdown, Node};
use serde::Deserialize;

use super::Fetched;
use crate::ToolError;

/// Elements nested deeper than this are not converted: the converter recurses.
const MAX_HTML_DEPTH: usize = 200;

/// More tags left open than this are not even parsed: the parser looks through all open
/// elements at each tag, which takes quadratic time.
const MAX_OPEN_TAGS: usize = 2000;

/// Tags that need no end tag and so say nothing about nesting.
const UNNESTED: [&str; 29] = [
    "area", "base", "body", "br", "col", "dd", "dt", "embed", "head", "hr", "html", "img", "input",
    "li", "link", "meta", "optgroup", "option", "p", "param", "source", "tbody", "td", "tfoot",
    "th", "thead", "tr", "track", "wbr",
];

/// Elements without text for a reader.
const SKIPPED: [&str; 8] = [
    "script", "style", "noscript", "template", "svg", "iframe", "head", "nav",
];

/// How content is returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Format {
    /// HTML becomes Markdown.
    #[default]
    Markdown,
    /// HTML becomes Markdown without links and images.
    Text,
    /// As sent.
    Raw,
}

/// The content as text.
pub(crate) fn render(page: &Fetched, format: Format) -> Result<String, ToolError> {
    let kind = page.content_type.split(';').next().unwrap_or_default();
    let kind = kind.trim();
    let readable = if kind.is_empty() {
        looks_like_text(&page.body)
    } else {
        is_text(kind)
    };
    if !readable {
        let kind = if kind.is_empty() { "unknown" } else { kind };
        return Err(ToolError::failed(format!(
            "{} answered with status {} and content of type {kind}; only text, HTML, JSON and XML \
             can be fetched",
            page.url, page.status
        )));
    }
    let text = decode(page);
    let is_html = matches!(kind, "text/html" | "application/xhtml+xml");
    match format {
        Format::Markdown if is_html => convert(
            &text,
            &HtmlToMarkdown::builder()
                .skip_tags(SKIPPED.to_vec())
                .build(),
        ),
        Format::Text if is_html => convert(&text, &without_links()),
        Format::Markdown | Format::Text | Format::Raw => Ok(text.into_owned()),
    }
}

fn is_text(kind: &str) -> bool {
    kind.starts_with("text/")
        || kind.ends_with("+json")
        || kind.ends_with("+xml")
        || matches!(
            kind,
            "application/json"
                | "application/xml"
                | "application/xhtml+xml"
                | "application/x-ndjson"
                | "application/yaml"
                | "application/javascript"
        )
}

fn looks_like_text(body: &[u8]) -> bool {
    !body.contains(&0) && std::str::from_utf8(body).is_ok()
}

/// UTF-8 unless the page says Latin-1, whose bytes are the first 256 characters.
fn decode(page: &Fetched) -> Cow<'_, str> {
    let charset = page
        .content_type
        .split(';')
        .filter_map(|part| part.trim().strip_prefix("charset="))
        .map(|name| name.trim_matches('"'))
        .next();
    match charset {
        Some("iso-8859-1" | "latin1" | "windows-1252") => {
            page.body.iter().map(|byte| char::from(*byte)).collect()
        }
        _ if page.truncated => crate::text::decode_cut(&page.body),
        _ => String::from_utf8_lossy(&page.body),
    }
}

fn convert(html: &str, converter: &HtmlToMarkdown) -> Result<String, ToolError> {
    let too_deep = || {
        ToolError::failed(format!(
            "the HTML is nested deeper than {MAX_HTML_DEPTH} elements; fetch it with format `raw`"
        ))
    };
    if is_too_deep(html) {
        return Err(too_deep());
    }
    let tree = converter
        .html_to_tree(html)
        .map_err(|error| ToolError::failed(format!("the HTML cannot be read: {error}")))?;
    if is_deeper_than(&tree, MAX_HTML_DEPTH) {
        return Err(too_deep());
    }
    Ok(converter.tree_to_markdown(&tree))
}

/// Whether a page opens more tags than a parser gets through in time.
pub(crate) fn is_too_deep(html: &str) -> bool {
    open_tags(html) > MAX_OPEN_TAGS
}

/// The most tags that are open at once, without a parser: an estimate for a limit.
fn open_tags(html: &str) -> usize {
    let (mut open, mut most) = (0_usize, 0);
    for tag in html.split('<').skip(1) {
        let (name, closes) = match tag.strip_prefix('/') {
            Some(rest) => (rest, true),
            None => (tag, false),
        };
        let end = name
            .find(|c: char| !c.is_ascii_alphanumeric())
            .unwrap_or(name.len());
        let name = name[..end].to_ascii_lowercase();
        if !name.starts_with(|c: char| c.is_ascii_alphabetic()) || UNNESTED.contains(&name.as_str())
        {
            continue;
        }
        open = if closes {
            open.saturating_sub(1)
        } else {
            open + 1
        };
        most = most.max(open);
    }
    most
}

fn is_deeper_than(tree: &Rc<Node>, limit: usize) -> bool {
    let mut waiting = vec![(Rc::clone(tree), 0)];
    while let Some((node, depth)) = waiting.pop() {
        if depth > limit {
            return true;
        }
        let children = node.children.borrow();
        waiting.extend(children.iter().map(|child| (Rc::clone(child), depth + 1)));
    }
    false
}

fn without_links() -> HtmlToMarkdown {
    HtmlToMarkdown::builder()
        .options(Options::default())
        .skip_tags([SKIPPED.as_slice(), &["img"]].concat())
        .add_handler(vec!["a"], inner_text)
        .build()
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "the signature is the converter's"
)]
fn inner_text(handlers: &dyn Handlers, element: Element<'_>) -> Option<HandlerResult> {
    Some(handlers.walk_children(element.node))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(html: &str) -> Fetched {
        Fetched {
            url: reqwest::Url::parse("https://example.com/").unwrap(),
            status: 200,
            content_type: "text/html".to_owned(),
            body: html.as_bytes().to_vec(),
            truncated: false,
        }
    }

    #[test]
    fn converts_up_to_the_depth_limit_and_refuses_beyond() {
        for (tag, depth, converted) in [
            ("<div>", MAX_HTML_DEPTH - 10, true),
            ("<blockquote>", MAX_HTML_DEPTH - 10, true),
            ("<div>", MAX_HTML_DEPTH + 10, false),
            ("<b>", 100_000, false),
        ] {
            let html = format!("{}text", tag.repeat(depth));
            let result = render(&page(&html), Format::Markdown);
            assert_eq!(result.is_ok(), converted, "{depth} {tag}");
        }
    }

    #[test]
    fn long_flat_pages_are_converted() {
        let html = format!("<ul>{}</ul>", "<li>item<p>more<br>".repeat(5000));
        let text = render(&page(&html), Format::Text).unwrap();
        assert_eq!(text.matches("item").count(), 5000);
    }
}
