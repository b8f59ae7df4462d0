//! Watches: a stream of what happens to objects from a revision on.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, stream};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, Interval, MissedTickBehavior};

use crate::cluster::Cluster;
use crate::object;
use crate::resource::Resource;
use crate::selector::Selector;
use crate::status::ApiError;
use crate::store::Change;
use crate::table::{Include, table};

/// How often a watch that asks for them gets a bookmark.
const BOOKMARKS: Duration = Duration::from_secs(1);

/// What a watch is about.
#[derive(Debug)]
pub(crate) struct Watch {
    pub(crate) resource: &'static Resource,
    pub(crate) namespace: Option<String>,
    pub(crate) selector: Selector,
    /// Empty, `0` or a revision.
    pub(crate) from: String,
    pub(crate) wants_bookmarks: bool,
    /// Whether the objects that are there come first and a bookmark says where they end.
    pub(crate) sends_initial: bool,
    pub(crate) timeout: Option<Duration>,
    /// Whether objects are sent as tables, and what their rows carry.
    pub(crate) as_table: Option<Include>,
}

impl Watch {
    /// The stream of events, one a line.
    pub(crate) fn run(
        self,
        cluster: Arc<Cluster>,
    ) -> impl Stream<Item = io::Result<Bytes>> + Send + use<> {
        let deadline = self.timeout.map(|timeout| Instant::now() + timeout);
        let mut bookmarks = tokio::time::interval_at(Instant::now() + BOOKMARKS, BOOKMARKS);
        bookmarks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let latest = cluster.store().subscribe();
        let broken = cluster.subscribe_broken();
        let mut open = Open {
            watch: self,
            cluster,
            latest,
            broken,
            bookmarks,
            deadline,
            after: 0,
            lines: VecDeque::new(),
            is_over: false,
            has_columns: false,
        };
        open.begin();
        stream::unfold(open, |mut open| async move {
            let line = open.next().await?;
            Some((line, open))
        })
    }

    fn is_about(&self, change: &Change) -> bool {
        change.key.plural == self.resource.plural
            && self
                .namespace
                .as_ref()
                .is_none_or(|namespace| *namespace == change.key.namespace)
    }

    /// The event that a change is to who sees only what the selector lets through.
    fn event(&self, change: &Change) -> Option<&'static str> {
        let before = change.before.as_ref();
        let was = before.is_some_and(|before| self.selector.matches(before));
        let is = !change.is_removal && self.selector.matches(&change.object);
        match (was, is) {
            (false, true) => Some("ADDED"),
            (true, true) => Some("MODIFIED"),
            (true, false) => Some("DELETED"),
            (false, false) => None,
        }
    }
}

enum Wake {
    Broken,
    End,
    Change,
    Bookmark,
}

struct Open {
    watch: Watch,
    cluster: Arc<Cluster>,
    latest: watch::Receiver<u64>,
    broken: watch::Receiver<u64>,
    bookmarks: Interval,
    deadline: Option<Instant>,
    /// The revision up to which everything was sent.
    after: u64,
    lines: VecDeque<Bytes>,
    is_over: bool,
    has_columns: bool,
}

impl Open {
    fn begin(&mut self) {
        let from = self.watch.from.parse::<u64>().unwrap_or(0);
        let starts_anew = from == 0 || self.watch.sends_initial;
        if !starts_anew {
            self.after = from;
            self.take_changes();
            return;
        }
        let store = self.cluster.store();
        let revision = store.revision();
        let listed: Vec<Arc<Value>> = store
            .list(self.watch.resource, self.watch.namespace.as_deref())
            .filter(|(_, object)| self.watch.selector.matches(object))
            .map(|(_, object)| Arc::clone(object))
            .collect();
        drop(store);
        for object in listed {
            self.push("ADDED", &object);
        }
        self.after = revision;
        if self.watch.sends_initial {
            self.push_bookmark(true);
        }
    }

    async fn next(&mut self) -> Option<io::Result<Bytes>> {
        loop {
            if let Some(line) = self.lines.pop_front() {
                return Some(Ok(line));
            }
            if self.is_over {
                return None;
            }
            let deadline = self.deadline;
            let end = async {
                match deadline {
                    Some(deadline) => tokio::time::sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };
            let (after, latest) = (self.after, &mut self.latest);
            // The senders live as long as the cluster.
            let change = async {
                let _ = latest.wait_for(|latest| *latest > after).await;
            };
            let next = tokio::select! {
                biased;
                _ = self.broken.changed() => Wake::Broken,
                () = end => Wake::End,
                () = change => Wake::Change,
                _ = self.bookmarks.tick(), if self.watch.wants_bookmarks => Wake::Bookmark,
            };
            match next {
                Wake::Broken => {
                    self.is_over = true;
                    return Some(Err(io::ErrorKind::ConnectionReset.into()));
                }
                Wake::End => return None,
                Wake::Change => {
                    let delay = self.cluster.faults().delay;
                    if !delay.is_zero() {
                        tokio::time::sleep(delay).await;
                    }
                    self.take_changes();
                }
                Wake::Bookmark => self.push_bookmark(false),
            }
        }
    }

    fn take_changes(&mut self) {
        let store = self.cluster.store();
        let (changes, revision, compacted) = (
            store.changes_after(self.after),
            store.revision(),
            store.compacted(),
        );
        drop(store);
        let Some(changes) = changes else {
            let message = format!("too old resource version: {} ({compacted})", self.after);
            let error = ApiError::expired(message);
            self.push_line("ERROR", &error.status());
            self.is_over = true;
            return;
        };
        self.after = self.after.max(revision);
        let times = if self.cluster.faults().duplicates {
            2
        } else {
            1
        };
        for change in &changes {
            let event = self.watch.event(change);
            if let Some(event) = event.filter(|_| self.watch.is_about(change)) {
                for _ in 0..times {
                    self.push(event, &change.object);
                }
            }
        }
    }

    fn push(&mut self, event: &str, object: &Value) {
        match self.watch.as_table {
            None => self.push_line(event, object),
            Some(include) => {
                let resource = self.watch.resource;
                let version = object.pointer("/metadata/resourceVersion");
                let metadata = json!({"resourceVersion": version});
                let mut rows = table(resource, std::iter::once(object), &metadata, include);
                if self.has_columns {
                    object::set(&mut rows, &["columnDefinitions"], Value::Null);
                }
                self.has_columns = true;
                self.push_line(event, &rows);
            }
        }
    }

    fn push_bookmark(&mut self, ends_initial: bool) {
        let mut object = json!({
            "kind": self.watch.resource.kind, "apiVersion": self.watch.resource.api_version(),
            "metadata": {"resourceVersion": self.after.to_string(), "creationTimestamp": null},
        });
        if ends_initial {
            let name = "k8s.io/initial-events-end";
            object::set(&mut object, &["metadata", "annotations", name], "true");
        }
        self.push_line("BOOKMARK", &object);
    }

    fn push_line(&mut self, event: &str, object: &Value) {
        let mut line = json!({"type": event, "object": object}).to_string();
        line.push('\n');
        self.lines.push_back(line.into());
    }
}
