//! What the servers of an agent use of it: its stored secrets, and what its policy says of hosts.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::future::BoxFuture;
use rune_spec::Capability;
use rune_tools::{EgressGate, Secrets, ToolError, ToolErrorKind};

/// Reads the stored secrets that are granted, as they are now; else says why it cannot.
pub type SecretLookup =
    Arc<dyn Fn(Vec<Capability>) -> BoxFuture<'static, Result<Secrets, String>> + Send + Sync>;

/// What the servers of one agent may use of it.
#[derive(Clone)]
pub struct ServerAccess {
    /// Its secrets.
    pub secrets: SecretLookup,
    /// What its policy says of hosts where no call is under way; absent where no policy speaks about hosts.
    pub gate: Option<Arc<dyn EgressGate>>,
}

/// Decides about the connections of a server: as for every call that is under way, else as for none.
pub(crate) struct Gates {
    idle: Arc<dyn EgressGate>,
    calls: Mutex<Vec<Arc<dyn EgressGate>>>,
}

impl Gates {
    pub(crate) fn new(idle: Arc<dyn EgressGate>) -> Arc<Self> {
        Arc::new(Self {
            idle,
            calls: Mutex::default(),
        })
    }

    /// Has this gate asked, too, until the answer is dropped.
    pub(crate) fn during(self: &Arc<Self>, call: Arc<dyn EgressGate>) -> Asked {
        self.lock().push(Arc::clone(&call));
        Asked {
            gates: Arc::clone(self),
            call,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<dyn EgressGate>>> {
        // Every list of gates is a valid one.
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl EgressGate for Gates {
    fn connect(&self, host: &str, port: u16) -> Result<(), ToolError> {
        let calls = self.lock().clone();
        if calls.is_empty() {
            return self.idle.connect(host, port);
        }
        // Which of them it is for, is not known.
        calls.iter().try_for_each(|call| call.connect(host, port))
    }
}

/// What a process asks that is told secrets: whoever decides writes down the name of the host.
pub(crate) struct Discreet {
    pub(crate) gates: Arc<Gates>,
    pub(crate) hidden: Secrets,
}

impl EgressGate for Discreet {
    fn connect(&self, host: &str, port: u16) -> Result<(), ToolError> {
        if self.hidden.redact(host.to_owned()) != host {
            let message = "the name of the host holds a secret";
            return Err(ToolError::new(ToolErrorKind::Denied, message));
        }
        self.gates.connect(host, port)
    }
}

/// A call whose gate is asked.
pub(crate) struct Asked {
    gates: Arc<Gates>,
    call: Arc<dyn EgressGate>,
}

impl Drop for Asked {
    fn drop(&mut self) {
        let mut calls = self.gates.lock();
        if let Some(at) = calls.iter().position(|call| Arc::ptr_eq(call, &self.call)) {
            calls.swap_remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Only(&'static str);

    impl EgressGate for Only {
        fn connect(&self, host: &str, _: u16) -> Result<(), ToolError> {
            if host == self.0 {
                Ok(())
            } else {
                Err(ToolError::new(ToolErrorKind::Denied, "no"))
            }
        }
    }

    #[test]
    fn every_call_under_way_has_to_agree() {
        let gates = Gates::new(Arc::new(Only("idle")));
        let may = |host| gates.connect(host, 443).is_ok();
        assert!(may("idle") && !may("a"));
        let a = gates.during(Arc::new(Only("a")));
        assert!(may("a") && !may("idle"));
        let b = gates.during(Arc::new(Only("b")));
        assert!(!may("a") && !may("b"));
        drop(a);
        assert!(may("b") && !may("a"));
        drop(b);
        assert!(may("idle"));
    }
}
