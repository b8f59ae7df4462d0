//! Elements of a page, as a model names them.

use serde_json::{Value, json};

use super::cdp::CdpError;
use super::chrome::text;
use super::page::Page;
use super::turn::Turn;
use crate::{ToolError, text as texts};

/// By this the browser knows what can be forgotten after a call.
const GROUP: &str = "rune";

/// An element: by the number that `browser-read-page` gave it, or by a CSS selector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    Number(u32),
    Selector(String),
}

impl From<String> for Target {
    fn from(text: String) -> Self {
        let inner = text.trim();
        let inner = inner
            .strip_prefix('[')
            .and_then(|it| it.strip_suffix(']'))
            .unwrap_or(inner);
        // No selector begins with a digit, and `[12]` is none either.
        match inner.parse() {
            Ok(number) => Self::Number(number),
            Err(_) => Self::Selector(text),
        }
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Number(number) => write!(f, "[{number}]"),
            Self::Selector(selector) => write!(f, "`{selector}`"),
        }
    }
}

impl Turn {
    /// The browser's handle of an element.
    pub(super) async fn element(&self, page: &Page, target: &Target) -> Result<String, ToolError> {
        match target {
            Target::Number(number) => {
                let stale = || {
                    ToolError::not_found(format!(
                        "there is no element [{number}] on the page any more; read it again with browser-read-page"
                    ))
                };
                let node = page.node(*number).ok_or_else(stale)?;
                let node = json!({"backendNodeId": node, "objectGroup": GROUP});
                match self.ask(page, "DOM.resolveNode", node).await {
                    Ok(found) => Ok(text(&found, "/object/objectId").to_owned()),
                    Err(CdpError::Refused { .. }) => Err(stale()),
                    Err(error) => Err(error.into()),
                }
            }
            Target::Selector(selector) => {
                let expression = format!("document.querySelector({})", json!(selector));
                let query = json!({"expression": expression, "objectGroup": GROUP});
                let found = self.ask(page, "Runtime.evaluate", query).await?;
                if found.get("exceptionDetails").is_some() {
                    return Err(ToolError::invalid(format!(
                        "{target} is not a CSS selector, nor the number of an element"
                    )));
                }
                match text(&found, "/result/objectId") {
                    "" => Err(ToolError::not_found(format!(
                        "nothing on the page matches {target}"
                    ))),
                    id => Ok(id.to_owned()),
                }
            }
        }
    }

    /// What a function says of an element; `this` is the element.
    pub(super) async fn apply(
        &self,
        page: &Page,
        element: &str,
        function: &str,
        arguments: &[Value],
    ) -> Result<Value, ToolError> {
        let arguments: Vec<Value> = arguments
            .iter()
            .map(|value| json!({ "value": value }))
            .collect();
        let call = json!({
            "functionDeclaration": function,
            "objectId": element,
            "arguments": arguments,
            "returnByValue": true,
            "awaitPromise": true,
            "userGesture": true,
        });
        let mut answer = self.ask(page, "Runtime.callFunctionOn", call).await?;
        if let Some(thrown) = thrown(&answer) {
            return Err(ToolError::failed(format!(
                "the page does not work: {thrown}"
            )));
        }
        Ok(answer
            .pointer_mut("/result/value")
            .map(Value::take)
            .unwrap_or_default())
    }

    /// Has the browser forget the handles of a call.
    pub(super) fn release(&self, page: &Page) {
        let group = json!({ "objectGroup": GROUP });
        self.tell(page, "Runtime.releaseObjectGroup", group);
    }
}

/// The text of an exception in an answer.
pub(super) fn thrown(answer: &Value) -> Option<String> {
    let details = answer.get("exceptionDetails")?;
    let described = text(details, "/exception/description");
    let thrown = details.pointer("/exception/value").map(Value::to_string);
    let said = match (described, thrown) {
        ("", Some(value)) => value,
        ("", None) => text(details, "/text").to_owned(),
        (described, _) => described.to_owned(),
    };
    Some(texts::prefix(&said, 2000).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_a_number_or_a_selector() {
        for text in ["12", "[12]", " [12] "] {
            assert_eq!(Target::from(text.to_owned()), Target::Number(12), "{text}");
        }
        for text in ["#a", "[name=x]", "input[12]", "-1", ""] {
            let expected = Target::Selector(text.to_owned());
            assert_eq!(Target::from(text.to_owned()), expected, "{text}");
        }
    }
}
