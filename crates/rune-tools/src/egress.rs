//! Where outgoing HTTP requests may go.

mod address;
mod hosts;
mod policy;
mod proxy;
mod resolver;

pub use hosts::Hosts;
pub use policy::{EgressError, EgressException, EgressPolicy, destination};
pub use proxy::{
    EgressProxy, LoopbackProxy, ProxyRefusal, ProxyTarget, RefusalSink, parse_proxy_target,
};
pub use resolver::CheckedResolver;
