//! The HTML page of DuckDuckGo.

use std::rc::Rc;

use htmd::{HtmlToMarkdown, Node};
use markup5ever_rcdom::NodeData;
use reqwest::Url;

use super::SearchHit;
use crate::web::is_too_deep;

/// The results on a page. What is advertised is not among them.
#[must_use]
pub fn parse_duckduckgo(html: &str) -> Vec<SearchHit> {
    if is_too_deep(html) {
        return Vec::new();
    }
    let Ok(tree) = HtmlToMarkdown::new().html_to_tree(html) else {
        return Vec::new();
    };
    let mut results = Vec::new();
    with_class(&tree, "result", &mut results);
    let ads = |result: &Rc<Node>| has_class(result, "result--ad");
    results.retain(|result| !ads(result));
    results.iter().filter_map(hit).collect()
}

fn hit(result: &Rc<Node>) -> Option<SearchHit> {
    let link = first(result, "result__a")?;
    let snippet = first(result, "result__snippet");
    Some(SearchHit {
        title: text(&link),
        url: target(&attribute(&link, "href")?)?,
        snippet: snippet.as_ref().map(text).unwrap_or_default(),
    })
}

/// Where a link leads: it goes by way of a redirect that names the page.
fn target(href: &str) -> Option<String> {
    let url = Url::parse("https://duckduckgo.com").ok()?.join(href).ok()?;
    let through = url.path() == "/l/"
        && url
            .domain()
            .is_some_and(|name| name.ends_with("duckduckgo.com"));
    let target = if through {
        let (_, page) = url.query_pairs().find(|(name, _)| name == "uddg")?;
        Url::parse(&page).ok()?
    } else {
        url
    };
    matches!(target.scheme(), "http" | "https").then(|| target.to_string())
}

fn first(node: &Rc<Node>, class: &str) -> Option<Rc<Node>> {
    let mut found = Vec::new();
    with_class(node, class, &mut found);
    found.into_iter().next()
}

/// The elements below a node that have a class, in their order; not those within one of them.
fn with_class(node: &Rc<Node>, class: &str, found: &mut Vec<Rc<Node>>) {
    // A stack, because a page may be nested deeply.
    let mut waiting: Vec<Rc<Node>> = node.children.borrow().iter().rev().cloned().collect();
    while let Some(node) = waiting.pop() {
        if has_class(&node, class) {
            found.push(node);
        } else {
            waiting.extend(node.children.borrow().iter().rev().cloned());
        }
    }
}

fn has_class(node: &Rc<Node>, class: &str) -> bool {
    attribute(node, "class").is_some_and(|classes| classes.split_whitespace().any(|c| c == class))
}

fn attribute(node: &Rc<Node>, name: &str) -> Option<String> {
    let NodeData::Element { attrs, .. } = &node.data else {
        return None;
    };
    let attrs = attrs.borrow();
    let found = attrs.iter().find(|attr| &*attr.name.local == name)?;
    Some(found.value.to_string())
}

fn text(node: &Rc<Node>) -> String {
    let mut text = String::new();
    let mut waiting = vec![Rc::clone(node)];
    while let Some(node) = waiting.pop() {
        if let NodeData::Text { contents } = &node.data {
            text.push_str(&contents.borrow());
        }
        waiting.extend(node.children.borrow().iter().rev().cloned());
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_lead_to_the_page_itself() {
        for (href, expected) in [
            (
                "//duckduckgo.com/l/?uddg=https%3A%2F%2Fexample.org%2Fa%3Fb%3D1&rut=x",
                Some("https://example.org/a?b=1"),
            ),
            ("https://example.org/", Some("https://example.org/")),
            ("//duckduckgo.com/l/?rut=x", None),
            ("//duckduckgo.com/l/?uddg=javascript%3Aalert(1)", None),
            ("javascript:alert(1)", None),
        ] {
            assert_eq!(target(href).as_deref(), expected, "{href}");
        }
    }
}
