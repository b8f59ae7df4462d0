//! The state that the server's connections, its watches and the kubelet share.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::watch;
use uuid::Uuid;

use crate::access::{AccessLog, Tokens};
use crate::logs::Logs;
use crate::store::Store;

/// A cluster without a server.
#[derive(Debug)]
pub(crate) struct Cluster {
    store: Mutex<Store>,
    tokens: Mutex<Tokens>,
    accesses: Mutex<AccessLog>,
    /// Lists of which a client has had the first pages, by their `continue`.
    lists: Mutex<HashMap<String, RestOfList>>,
    faults: Mutex<Faults>,
    /// Raised to break the watches that are open.
    broken: watch::Sender<u64>,
    pub(crate) logs: Logs,
}

/// What is left of a list.
#[derive(Debug, Clone)]
pub(crate) struct RestOfList {
    pub(crate) revision: u64,
    pub(crate) objects: Vec<Arc<Value>>,
}

/// What goes wrong with watches.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Faults {
    /// How late events come.
    pub(crate) delay: Duration,
    /// Whether they come twice.
    pub(crate) duplicates: bool,
}

impl Cluster {
    pub(crate) fn new() -> Self {
        Self {
            store: Mutex::new(Store::new()),
            tokens: Mutex::new(Tokens::new()),
            accesses: Mutex::default(),
            lists: Mutex::default(),
            faults: Mutex::default(),
            broken: watch::Sender::new(0),
            logs: Logs::default(),
        }
    }

    pub(crate) fn store(&self) -> MutexGuard<'_, Store> {
        lock(&self.store)
    }

    pub(crate) fn tokens(&self) -> MutexGuard<'_, Tokens> {
        lock(&self.tokens)
    }

    pub(crate) fn accesses(&self) -> MutexGuard<'_, AccessLog> {
        lock(&self.accesses)
    }

    pub(crate) fn faults(&self) -> MutexGuard<'_, Faults> {
        lock(&self.faults)
    }

    /// Breaks every watch that is open.
    pub(crate) fn break_watches(&self) {
        self.broken.send_modify(|count| *count += 1);
    }

    pub(crate) fn subscribe_broken(&self) -> watch::Receiver<u64> {
        let mut broken = self.broken.subscribe();
        broken.mark_unchanged();
        broken
    }

    /// Keeps the rest of a list; answers its `continue`.
    pub(crate) fn keep(&self, rest: RestOfList) -> String {
        let token = Uuid::new_v4().simple().to_string();
        lock(&self.lists).insert(token.clone(), rest);
        token
    }

    pub(crate) fn take(&self, token: &str) -> Option<RestOfList> {
        lock(&self.lists).remove(token)
    }

    /// Forgets the past: watches and lists that go on from it are told that it is gone.
    pub(crate) fn compact(&self) {
        lock(&self.lists).clear();
        self.store().compact();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
