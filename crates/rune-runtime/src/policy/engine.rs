//! Policies with a cache, for one loaded agent.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use sha2::{Digest, Sha256};

use super::decision::PolicyDecision;
use super::query::{PolicyPrincipal, PolicyQuery, PolicyResource};
use super::set::PolicySet;

/// Most verdicts kept per agent.
pub const MAX_CACHED_VERDICTS: usize = 1024;

type Key = [u8; 32];

/// The policies of one loaded agent. Its tools' descriptions must not change while it lives: a cached verdict rests on
/// them.
#[derive(Debug)]
pub struct PolicyEngine {
    set: PolicySet,
    principal: PolicyPrincipal,
    cache: Mutex<Generations>,
}

impl PolicyEngine {
    /// An engine with an empty cache.
    #[must_use]
    pub fn new(set: PolicySet, principal: PolicyPrincipal) -> Self {
        Self {
            set,
            principal,
            cache: Mutex::default(),
        }
    }

    /// The policies.
    #[must_use]
    pub const fn policies(&self) -> &PolicySet {
        &self.set
    }

    /// The agent.
    #[must_use]
    pub const fn principal(&self) -> &PolicyPrincipal {
        &self.principal
    }

    /// [`PolicySet::asks`].
    #[must_use]
    pub fn asks(&self, resource: &PolicyResource<'_>) -> bool {
        self.set.asks(resource)
    }

    /// Decides what the agent wants to do for a caller.
    #[must_use]
    pub fn decide(&self, caller: &str, resource: PolicyResource<'_>) -> Arc<PolicyDecision> {
        let key = key(caller, &resource);
        if let Some(known) = self.lock().get(&key) {
            return known;
        }
        let decision = Arc::new(self.set.decide(&PolicyQuery {
            principal: &self.principal,
            caller,
            resource,
        }));
        self.lock().put(key, Arc::clone(&decision));
        decision
    }

    /// Verdicts in the cache.
    #[must_use]
    pub fn cached(&self) -> usize {
        let cache = self.lock();
        cache.young.len() + cache.old.len()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Generations> {
        // Every state of the cache is a valid one.
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Two halves: when the young one is full, it becomes the old one and the old one is forgotten.
#[derive(Debug, Default)]
struct Generations {
    young: HashMap<Key, Arc<PolicyDecision>>,
    old: HashMap<Key, Arc<PolicyDecision>>,
}

impl Generations {
    fn get(&mut self, key: &Key) -> Option<Arc<PolicyDecision>> {
        if let Some(known) = self.young.get(key) {
            return Some(Arc::clone(known));
        }
        let known = self.old.remove(key)?;
        self.put(*key, Arc::clone(&known));
        Some(known)
    }

    fn put(&mut self, key: Key, decision: Arc<PolicyDecision>) {
        if self.young.len() >= MAX_CACHED_VERDICTS / 2 {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, decision);
    }
}

/// Arguments come from a model, so the hash has to be one that nobody can aim at.
fn key(caller: &str, resource: &PolicyResource<'_>) -> Key {
    let mut hash = Sha256::new();
    let mut add = |part: &[u8]| {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    };
    add(caller.as_bytes());
    add(resource.kind().as_bytes());
    add(resource.id().as_bytes());
    match resource {
        PolicyResource::Tool { arguments, .. } => add(arguments.to_string().as_bytes()),
        _ => add(resource.attributes().to_string().as_bytes()),
    }
    hash.finalize().into()
}
