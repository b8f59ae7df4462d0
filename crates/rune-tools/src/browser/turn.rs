//! One call's use of the pages of its conversation.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::OwnedMutexGuard;
use tokio::time::{Instant, sleep};
use url::Url;

use super::cdp::CdpError;
use super::chrome::text;
use super::context::Context;
use super::element::thrown;
use super::page::Page;
use crate::egress::{EgressError, ProxyRefusal, destination};
use crate::web::refused;
use crate::{ToolContext, ToolError, text as texts};

/// How long a site may take to answer, and then its page to load. A page that still loads then is used as it is.
const ANSWER: Duration = Duration::from_secs(20);
const LOAD: Duration = Duration::from_secs(10);
/// How long after an action what it begins has begun.
const SETTLE: Duration = Duration::from_millis(150);
/// How often it is looked whether something is on a page.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Refusals that are told; more are counted.
const SHOWN_REFUSALS: usize = 5;
/// Bytes of a title.
const TITLE_BYTES: usize = 300;
/// Whether something is there: see [`Condition`].
const HOLDS: &str = "((text, selector, gone) => {
  const shows = (it) => it.getClientRects().length > 0;
  const has = (text) => (document.body?.innerText ?? '').includes(text);
  const checks = [];
  if (selector !== null) checks.push(Array.from(document.querySelectorAll(selector)).some(shows));
  if (text !== null) checks.push(has(text));
  return checks.every((found) => found !== gone);
})";

/// The right of one call to use the pages of its conversation; others wait.
pub(crate) struct Turn {
    context: Arc<Context>,
    _turn: OwnedMutexGuard<()>,
}

/// What a page is waited for.
#[derive(Debug, Default)]
pub(crate) struct Condition {
    /// A text that is on it.
    pub(crate) text: Option<String>,
    /// A selector of what is visible on it.
    pub(crate) selector: Option<String>,
    /// A part of its URL.
    pub(crate) url: Option<String>,
    /// Whether none of them may be there.
    pub(crate) gone: bool,
}

impl Turn {
    /// Waits for its turn; nothing where the context was closed meanwhile.
    pub(super) async fn begin(context: Arc<Context>, call: &ToolContext) -> Option<Self> {
        let turn = Arc::clone(&context.turn).lock_owned().await;
        if context.closed.is_cancelled() || context.chrome.gone.is_cancelled() {
            return None;
        }
        context.begin(call.egress.clone());
        // What was refused before is not this call's.
        let _ = context.proxy.take_refusals();
        Some(Self {
            context,
            _turn: turn,
        })
    }

    pub(super) const fn context(&self) -> &Arc<Context> {
        &self.context
    }

    /// The page that is used.
    pub(super) fn page(&self) -> Result<Arc<Page>, ToolError> {
        self.context.tabs.current().ok_or_else(|| {
            ToolError::not_found(
                "the page was closed or has crashed; open one with browser-navigate",
            )
        })
    }

    pub(super) async fn ask(
        &self,
        page: &Page,
        method: &'static str,
        params: Value,
    ) -> Result<Value, CdpError> {
        let session = Some(page.session.as_str());
        self.context.chrome.cdp.call(session, method, params).await
    }

    pub(super) async fn ask_within(
        &self,
        page: &Page,
        method: &'static str,
        params: Value,
        limit: Duration,
    ) -> Result<Value, CdpError> {
        let session = Some(page.session.as_str());
        let cdp = &self.context.chrome.cdp;
        cdp.call_within(session, method, params, limit).await
    }

    pub(super) fn tell(&self, page: &Page, method: &'static str, params: Value) {
        self.context
            .chrome
            .cdp
            .post(Some(&page.session), method, params);
    }

    /// Opens a URL that may be opened.
    pub(crate) async fn navigate(&self, url: &Url) -> Result<Value, ToolError> {
        if self.context.tabs.current().is_none() {
            self.context.open_page().await?;
        }
        let page = self.page()?;
        let go = json!({ "url": url.as_str() });
        let gone = self.ask_within(&page, "Page.navigate", go, ANSWER).await;
        let gone = match gone {
            Ok(gone) => gone,
            Err(CdpError::Timeout { .. }) => {
                self.tell(&page, "Page.stopLoading", json!({}));
                return Err(ToolError::timeout(format!(
                    "{url} has not answered within {} s",
                    ANSWER.as_secs()
                )));
            }
            Err(error) => return Err(error.into()),
        };
        if gone["isDownload"] == true {
            return Err(ToolError::denied(format!(
                "{url} is a download, and downloads are off"
            )));
        }
        let error = text(&gone, "/errorText");
        if !error.is_empty() {
            let refusals = self.context.proxy.take_refusals();
            if let Some(refusal) = of(&refusals, url) {
                return Err(ToolError::denied(refusal.reason.clone()));
            }
            return Err(ToolError::unavailable(format!(
                "{url} cannot be opened: {error}"
            )));
        }
        // Without one it is the same document, at another place.
        let loader = text(&gone, "/loaderId");
        if !loader.is_empty() {
            page.shows(loader, LOAD).await;
        }
        page.loaded(LOAD).await;
        self.report().await
    }

    /// Whether there are pages besides the one that is used.
    pub(crate) fn has_other_pages(&self) -> bool {
        self.context.tabs.count() > 1
    }

    /// Closes the page that is used; the one before it is used then.
    pub(crate) async fn close_page(&self) -> Result<Value, ToolError> {
        let page = self.page()?;
        let close = json!({"targetId": page.target});
        let cdp = &self.context.chrome.cdp;
        cdp.call(None, "Target.closeTarget", close).await?;
        let detached = self.context.tabs.detached(&page.target);
        let _ = tokio::time::timeout(LOAD, detached).await;
        self.report().await
    }

    /// Goes back in the history of the page, or from a page that another has opened to that one.
    pub(crate) async fn back(&self, steps: u64) -> Result<Value, ToolError> {
        let page = self.page()?;
        let history = self
            .ask(&page, "Page.getNavigationHistory", json!({}))
            .await?;
        let current = history["currentIndex"].as_u64().unwrap_or_default();
        let before = current
            .checked_sub(steps)
            .and_then(|index| usize::try_from(index).ok());
        let entry = before.and_then(|index| history["entries"].get(index));
        // A conversation begins with an empty page, which is no page to go back to.
        match entry.filter(|entry| entry["url"] != "about:blank") {
            Some(entry) => {
                let go = json!({"entryId": entry["id"]});
                self.ask(&page, "Page.navigateToHistoryEntry", go).await?;
            }
            None if self.has_other_pages() => return self.close_page().await,
            None => return Err(ToolError::failed("there is no page before this one")),
        }
        self.settle().await;
        self.report().await
    }

    /// Waits until something is there, or for `limit`.
    pub(crate) async fn wait(
        &self,
        condition: &Condition,
        limit: Duration,
    ) -> Result<Value, ToolError> {
        let begun = Instant::now();
        let expression = format!(
            "{HOLDS}({}, {}, {})",
            json!(condition.text),
            json!(condition.selector),
            condition.gone
        );
        loop {
            let page = self.page()?;
            let part = condition.url.as_deref();
            let in_url = part.is_none_or(|part| page.url().contains(part) != condition.gone);
            let look = json!({"expression": expression, "returnByValue": true});
            match self.ask(&page, "Runtime.evaluate", look).await {
                Ok(answer) => {
                    if let Some(thrown) = thrown(&answer) {
                        return Err(ToolError::invalid(format!(
                            "it cannot be waited for: {thrown}"
                        )));
                    }
                    if in_url && answer.pointer("/result/value") == Some(&Value::Bool(true)) {
                        return self.report().await;
                    }
                }
                // Between two documents there is nobody to ask.
                Err(CdpError::Refused { .. }) => {}
                Err(error) => return Err(error.into()),
            }
            if begun.elapsed() >= limit {
                return Err(ToolError::timeout(format!(
                    "it was not so within {} ms; the page is {}",
                    limit.as_millis(),
                    page.url()
                )));
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// Lets time pass.
    pub(crate) async fn pause(&self, time: Duration) -> Result<Value, ToolError> {
        sleep(time).await;
        self.report().await
    }

    /// Runs a script in the page and answers the value of its last statement.
    pub(crate) async fn run(&self, script: &str, limit: Duration) -> Result<Value, ToolError> {
        let page = self.page()?;
        let begun = Instant::now();
        let script = json!({
            "expression": script,
            "replMode": true,
            "awaitPromise": true,
            "returnByValue": true,
            "userGesture": true,
            "timeout": u64::try_from(limit.as_millis()).unwrap_or(u64::MAX),
        });
        // The browser ends a script that is at work; one that waits for a promise goes on.
        let patience = limit + Duration::from_secs(1);
        let ran = self
            .ask_within(&page, "Runtime.evaluate", script, patience)
            .await;
        let mut answer = match ran {
            Ok(answer) => answer,
            Err(CdpError::Timeout { .. } | CdpError::Refused { .. })
                if begun.elapsed() >= limit =>
            {
                return Err(ToolError::timeout(format!(
                    "the script did not end within {} ms",
                    limit.as_millis()
                )));
            }
            Err(CdpError::Refused { message, .. }) => {
                return Err(ToolError::failed(format!(
                    "the script has no result: {message}"
                )));
            }
            Err(error) => return Err(error.into()),
        };
        if let Some(thrown) = thrown(&answer) {
            return Err(ToolError::failed(format!("the script failed: {thrown}")));
        }
        let value = answer.pointer_mut("/result/value").map(Value::take);
        self.settle().await;
        let mut report = self.report().await?;
        report["value"] = value.unwrap_or_default();
        Ok(report)
    }

    /// Waits for what an action has begun.
    pub(super) async fn settle(&self) {
        sleep(SETTLE).await;
        if let Some(page) = self.context.tabs.current() {
            page.loaded(LOAD).await;
        }
    }

    /// Where the conversation is now, and what it should know.
    pub(super) async fn report(&self) -> Result<Value, ToolError> {
        let page = self.page()?;
        self.context.touch();
        let target = json!({"targetId": page.target});
        let cdp = &self.context.chrome.cdp;
        let info = cdp.call(None, "Target.getTargetInfo", target).await?;
        let title = text(&info, "/targetInfo/title");
        // Of a page that another has opened the first document may not have been told.
        let url = match page.url() {
            url if url.is_empty() || url == "about:blank" => {
                text(&info, "/targetInfo/url").to_owned()
            }
            url => url,
        };
        let refusals = self.context.proxy.take_refusals();
        if let Ok(url) = Url::parse(&url) {
            if let Some(refusal) = of(&refusals, &url) {
                return Err(ToolError::denied(refusal.reason.clone()));
            }
            if !matches!(
                url.scheme(),
                "http" | "https" | "about" | "blob" | "chrome-error"
            ) {
                let empty = json!({"url": "about:blank"});
                self.ask(&page, "Page.navigate", empty).await?;
                return Err(refused(&EgressError::Scheme(url.scheme().to_owned())));
            }
        }
        let mut report = json!({
            "url": url,
            "title": texts::prefix(title, TITLE_BYTES),
        });
        if page.is_loading() {
            report["loading"] = true.into();
        }
        let opened = self.context.tabs.take_opened();
        if opened > 0 {
            report["opened_pages"] = opened.into();
        }
        let dialogs = page.take_dialogs();
        if !dialogs.is_empty() {
            report["dialogs"] = dialogs.into();
        }
        if !refusals.is_empty() {
            let shown = refusals.iter().take(SHOWN_REFUSALS);
            let shown: Vec<_> = shown
                .map(|it| format!("{}:{}: {}", it.host, it.port, it.reason))
                .collect();
            report["blocked"] = shown.into();
            let more = refusals.len().saturating_sub(SHOWN_REFUSALS);
            if more > 0 {
                report["more_blocked"] = more.into();
            }
        }
        Ok(report)
    }
}

/// The refusal of a URL's host among others.
fn of<'a>(refusals: &'a [ProxyRefusal], url: &Url) -> Option<&'a ProxyRefusal> {
    let (host, port) = destination(url)?;
    refusals
        .iter()
        .find(|it| it.host == host && it.port == port)
}
