//! What is known of a page that is open.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::timeout;

/// Dialogs of a page that are told; more are answered without a word.
const MAX_DIALOGS: usize = 8;
/// Bytes shown of the text of one.
const DIALOG_BYTES: usize = 300;

/// A page of a context. Its address in the protocol, and what the browser has said of it.
pub(super) struct Page {
    /// The target, which is the id of its main frame, too.
    pub(super) target: String,
    /// What commands about it name.
    pub(super) session: String,
    state: Mutex<State>,
    changed: Notify,
    refs: Mutex<Refs>,
}

#[derive(Default)]
struct State {
    is_loading: bool,
    ended: Option<&'static str>,
    url: String,
    /// Counts the documents that it has shown.
    document: u64,
    /// Of the last one.
    loader: String,
    dialogs: Vec<String>,
}

/// The numbers of elements that a reader was shown. A number never means another element.
#[derive(Default)]
struct Refs {
    last: u32,
    document: u64,
    nodes: HashMap<u32, i64>,
    numbers: HashMap<i64, u32>,
}

impl Page {
    pub(super) fn new(target: String, session: String) -> Self {
        Self {
            target,
            session,
            state: Mutex::default(),
            changed: Notify::new(),
            refs: Mutex::default(),
        }
    }

    pub(super) fn url(&self) -> String {
        lock(&self.state).url.clone()
    }

    pub(super) fn is_loading(&self) -> bool {
        lock(&self.state).is_loading
    }

    /// Why it is not there any more.
    pub(super) fn ended(&self) -> Option<&'static str> {
        lock(&self.state).ended
    }

    pub(super) fn set_loading(&self, is_loading: bool) {
        lock(&self.state).is_loading = is_loading;
        self.changed.notify_waiters();
    }

    /// It shows another document, which `loads` or is there already.
    pub(super) fn set_document(&self, url: &str, loader: &str, loads: bool) {
        let mut state = lock(&self.state);
        state.document += 1;
        state.is_loading = loads;
        url.clone_into(&mut state.url);
        loader.clone_into(&mut state.loader);
        drop(state);
        self.changed.notify_waiters();
    }

    /// The same document has another URL.
    pub(super) fn set_url(&self, url: &str) {
        url.clone_into(&mut lock(&self.state).url);
    }

    pub(super) fn end(&self, why: &'static str) {
        lock(&self.state).ended.get_or_insert(why);
        self.changed.notify_waiters();
    }

    /// Remembers a dialog that it has opened.
    pub(super) fn add_dialog(&self, kind: &str, text: &str) {
        let mut state = lock(&self.state);
        if state.dialogs.len() < MAX_DIALOGS {
            let text = crate::text::prefix(text, DIALOG_BYTES);
            state.dialogs.push(format!("{kind}: {text}"));
        }
    }

    /// The dialogs since the last call of this.
    pub(super) fn take_dialogs(&self) -> Vec<String> {
        std::mem::take(&mut lock(&self.state).dialogs)
    }

    /// Returns once it has loaded or ended, or after `limit`.
    pub(super) async fn loaded(&self, limit: Duration) {
        self.until(limit, |state| !state.is_loading).await;
    }

    /// Returns once it shows the document of this loader or has ended, or after `limit`.
    pub(super) async fn shows(&self, loader: &str, limit: Duration) {
        self.until(limit, |state| state.loader == loader).await;
    }

    async fn until(&self, limit: Duration, holds: impl Fn(&State) -> bool) {
        let waited = timeout(limit, async {
            loop {
                let changed = self.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                let is_so = {
                    let state = lock(&self.state);
                    state.ended.is_some() || holds(&state)
                };
                if is_so {
                    return;
                }
                changed.await;
            }
        });
        // It is used as it is then.
        let _ = waited.await;
    }

    /// Gives numbers to nodes of the document that is shown: a node keeps the one it has.
    pub(super) fn number(&self, nodes: impl IntoIterator<Item = i64>) -> HashMap<i64, u32> {
        let document = lock(&self.state).document;
        let mut refs = lock(&self.refs);
        if refs.document != document {
            // Another renderer may give the same ids to other nodes.
            refs.document = document;
            refs.nodes.clear();
            refs.numbers.clear();
        }
        let mut given = HashMap::new();
        for node in nodes {
            let number = match refs.numbers.get(&node) {
                Some(number) => *number,
                None => {
                    refs.last += 1;
                    let number = refs.last;
                    refs.nodes.insert(number, node);
                    refs.numbers.insert(node, number);
                    number
                }
            };
            given.insert(node, number);
        }
        given
    }

    /// The node that has a number, where its document is still shown.
    pub(super) fn node(&self, number: u32) -> Option<i64> {
        let document = lock(&self.state).document;
        let refs = lock(&self.refs);
        (refs.document == document)
            .then(|| refs.nodes.get(&number).copied())
            .flatten()
    }
}

/// What is behind these locks is whole at any time.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_never_means_another_element() {
        let page = Page::new("t".to_owned(), "s".to_owned());
        page.set_document("http://a.test/", "a", true);
        let first = page.number([10, 20]);
        assert_eq!(page.number([20, 30])[&20], first[&20]);
        assert_eq!(page.node(first[&10]), Some(10));
        page.set_document("http://b.test/", "b", true);
        assert_eq!(page.node(first[&10]), None);
        let second = page.number([10]);
        assert!(second[&10] > first[&20]);
        assert_eq!(page.node(first[&10]), None);
        assert_eq!(page.node(second[&10]), Some(10));
    }
}
