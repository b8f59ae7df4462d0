//! Where outgoing HTTP requests may go.

mod address;
mod policy;
mod resolver;

pub use policy::{EgressError, EgressException, EgressPolicy, destination};
pub use resolver::CheckedResolver;
