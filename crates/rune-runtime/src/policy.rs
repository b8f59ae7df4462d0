//! The policy engine: whether an agent may make a call, and why.
//!
//! A [`PolicySet`] is compiled from a package: the short form of the Runefile becomes Cedar policies beside those of
//! `policy.cedar`. [`PolicySet::decide`] answers a [`PolicyQuery`]; [`PolicyEngine`] is a set with a bounded cache for
//! one loaded agent; [`PolicySet::compare`] says what a new set would have decided for journaled calls.
//! [`AdmissionPolicies`] are the operator's: what may be published and deployed.
//!
//! Invariants:
//! * deny wins over ask, ask over allow, whatever the order and the form of the rules;
//! * what cannot be evaluated is denied, with the reason;
//! * a decision depends on the query and the set and on nothing else, so it may be cached and repeated.
//!
//! What is not here: the journal and approvals. Whoever asks writes the verdict down and acts on it.

mod admission;
mod arguments;
mod cedar_file;
mod compile;
mod condition;
mod decision;
mod engine;
mod journaled;
mod names;
mod nesting;
mod query;
mod replay;
mod schema;
mod set;
mod shape;
mod short_form;
mod slice;
mod vocabulary;

pub use admission::{AdmissionPolicies, AdmissionQuery, AdmittedDeployment, AdmittedVersion};
pub use decision::{PolicyDecision, Verdict};
pub use engine::{MAX_CACHED_VERDICTS, PolicyEngine};
pub use journaled::{JournaledVerdict, policy_verdicts, undecided};
pub(crate) use journaled::{NETWORK, verdict, without_a_person};
pub use query::{PolicyCallee, PolicyPrincipal, PolicyQuery, PolicyResource};
pub use replay::{JournaledCall, JournaledResource, PolicyChange, PolicyComparison};
pub use set::PolicySet;
