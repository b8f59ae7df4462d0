//! Resolves names to addresses that the policy allows.

use std::net::SocketAddr;
use std::sync::Arc;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use super::EgressPolicy;

/// The HTTP client's resolver. The client connects to what this answers and resolves
/// nothing itself, so an answer that changes after the check has no effect.
#[derive(Debug)]
pub struct CheckedResolver {
    policy: Arc<EgressPolicy>,
}

impl CheckedResolver {
    /// A resolver that answers what the policy allows.
    #[must_use]
    pub const fn new(policy: Arc<EgressPolicy>) -> Self {
        Self { policy }
    }
}

impl Resolve for CheckedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let policy = Arc::clone(&self.policy);
        Box::pin(async move {
            let host = name.as_str();
            let found: Vec<SocketAddr> = tokio::net::lookup_host((host, 0)).await?.collect();
            policy.check_resolved(host, found.iter().map(SocketAddr::ip))?;
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}
