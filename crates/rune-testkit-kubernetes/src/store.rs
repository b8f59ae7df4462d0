//! What the server holds: objects by key, one revision for all of them, and the changes that watches read.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use serde_json::Value;
use tokio::sync::watch;

use crate::object;
use crate::resource::Resource;

/// Changes kept for watches; older ones are gone.
const MAX_CHANGES: usize = 20_000;

/// Names an object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) plural: &'static str,
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl Key {
    pub(crate) fn new(resource: &Resource, namespace: &str, name: &str) -> Self {
        Self {
            plural: resource.plural,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }
}

/// An object that was put or removed.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    pub(crate) revision: u64,
    pub(crate) key: Key,
    pub(crate) before: Option<Arc<Value>>,
    /// The object, or how it was when it was removed.
    pub(crate) object: Arc<Value>,
    pub(crate) is_removal: bool,
}

/// The objects.
#[derive(Debug)]
pub(crate) struct Store {
    objects: BTreeMap<Key, Arc<Value>>,
    revision: u64,
    changes: VecDeque<Change>,
    /// Changes up to this revision are gone.
    compacted: u64,
    latest: watch::Sender<u64>,
}

impl Store {
    pub(crate) fn new() -> Self {
        Self {
            objects: BTreeMap::new(),
            revision: 1,
            changes: VecDeque::new(),
            compacted: 0,
            latest: watch::Sender::new(1),
        }
    }

    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    /// Up to which revision changes are gone.
    pub(crate) fn compacted(&self) -> u64 {
        self.compacted
    }

    /// Tells of every new revision.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.latest.subscribe()
    }

    pub(crate) fn get(&self, key: &Key) -> Option<&Arc<Value>> {
        self.objects.get(key)
    }

    /// The objects of a kind in their order, in one namespace or in all.
    pub(crate) fn list<'a>(
        &'a self,
        resource: &Resource,
        namespace: Option<&'a str>,
    ) -> impl Iterator<Item = (&'a Key, &'a Arc<Value>)> {
        let plural = resource.plural;
        let first = Key::new(resource, namespace.unwrap_or(""), "");
        self.objects
            .range((Bound::Included(first), Bound::Unbounded))
            .take_while(move |(key, _)| {
                key.plural == plural && namespace.is_none_or(|of| key.namespace == of)
            })
    }

    /// Every object.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&Key, &Arc<Value>)> {
        self.objects.iter()
    }

    /// Puts an object; answers it with its new resource version.
    pub(crate) fn put(&mut self, key: Key, mut object: Value) -> Arc<Value> {
        let revision = self.revision + 1;
        object::set(
            &mut object,
            &["metadata", "resourceVersion"],
            revision.to_string(),
        );
        let object = Arc::new(object);
        let before = self.objects.insert(key.clone(), Arc::clone(&object));
        self.note(Change {
            revision,
            key,
            before,
            object: Arc::clone(&object),
            is_removal: false,
        });
        object
    }

    /// Removes an object; answers how it was last.
    pub(crate) fn remove(&mut self, key: &Key) -> Option<Arc<Value>> {
        let before = self.objects.remove(key)?;
        let revision = self.revision + 1;
        let mut last = Value::clone(&before);
        object::set(
            &mut last,
            &["metadata", "resourceVersion"],
            revision.to_string(),
        );
        let last = Arc::new(last);
        self.note(Change {
            revision,
            key: key.clone(),
            before: Some(before),
            object: Arc::clone(&last),
            is_removal: true,
        });
        Some(last)
    }

    fn note(&mut self, change: Change) {
        self.revision = change.revision;
        self.changes.push_back(change);
        while self.changes.len() > MAX_CHANGES {
            self.compacted = self
                .changes
                .pop_front()
                .map_or(self.compacted, |c| c.revision);
        }
        self.latest.send_replace(self.revision);
    }

    /// The changes after a revision, oldest first; `None` where some of them are gone.
    pub(crate) fn changes_after(&self, revision: u64) -> Option<Vec<Change>> {
        if revision < self.compacted {
            return None;
        }
        let after = self.changes.partition_point(|c| c.revision <= revision);
        Some(self.changes.range(after..).cloned().collect())
    }

    /// Forgets every change so far, and takes a new revision, so that no watch can go on from what it saw.
    pub(crate) fn compact(&mut self) {
        self.revision += 1;
        self.compacted = self.revision;
        self.changes.clear();
        self.latest.send_replace(self.revision);
    }
}
