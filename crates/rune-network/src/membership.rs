//! The network rule.

use std::fmt;

/// An agent and the networks it is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member<'a> {
    /// The agent as a person knows it, such as `dev/billing`.
    pub agent: &'a str,
    /// Its networks.
    pub networks: &'a [String],
}

/// Two agents that share no network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "agent `{caller}` may not call agent `{callee}`, because they share no network: `{caller}` is in {}, `{callee}` is in {}",
    List(caller_networks),
    List(callee_networks)
)]
pub struct NotConnected {
    /// Who wants to call.
    pub caller: String,
    /// Its networks.
    pub caller_networks: Vec<String>,
    /// Who would be called.
    pub callee: String,
    /// Its networks.
    pub callee_networks: Vec<String>,
}

/// Lets `caller` call `callee` where they share a network.
///
/// # Errors
/// [`NotConnected`] with both lists.
pub fn may_call(caller: Member<'_>, callee: Member<'_>) -> Result<(), NotConnected> {
    let shared = |network| callee.networks.contains(network);
    if caller.networks.iter().any(shared) {
        return Ok(());
    }
    Err(NotConnected {
        caller: caller.agent.to_owned(),
        caller_networks: caller.networks.to_vec(),
        callee: callee.agent.to_owned(),
        callee_networks: callee.networks.to_vec(),
    })
}

struct List<'a>(&'a [String]);

impl fmt::Display for List<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            f.write_str("none")
        } else {
            write!(f, "`{}`", self.0.join("`, `"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn check(caller: &[&str], callee: &[&str]) -> Result<(), String> {
        let (caller, callee) = (networks(caller), networks(callee));
        let member = |agent, networks| Member { agent, networks };
        let allowed = may_call(member("dev/a", &caller), member("dev/b", &callee));
        allowed.map_err(|refusal| refusal.to_string())
    }

    #[test]
    fn one_shared_network_is_enough() {
        assert_eq!(check(&["bridge"], &["bridge"]), Ok(()));
        assert_eq!(check(&["x", "back"], &["back", "y"]), Ok(()));
    }

    #[test]
    fn a_refusal_names_both_lists() {
        assert_eq!(
            check(&["bridge", "front"], &["back"]).unwrap_err(),
            "agent `dev/a` may not call agent `dev/b`, because they share no network: \
             `dev/a` is in `bridge`, `front`, `dev/b` is in `back`"
        );
        assert!(
            check(&[], &["back"])
                .unwrap_err()
                .contains("`dev/a` is in none")
        );
        assert!(check(&[], &[]).is_err());
    }
}
