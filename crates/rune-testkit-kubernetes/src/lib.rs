//! A Kubernetes cluster for tests, where none can be had.
//!
//! * [`ApiServer`] speaks the Kubernetes API on a port with TLS, so that `kubectl` and client libraries work with it
//!   as with a real one: discovery, typed objects with validation and defaults, lists in pages, watches, patches,
//!   server-side apply, graceful and cascading deletion, tables, tokens and role-based access control. Faults come on
//!   demand.
//! * [`Controllers`] make of stateful sets pods, of claims volumes, and of services lists of their pods.
//! * A [`Kubelet`] runs the pods: as containers of Docker Engine ([`DockerPods`]), or by a script in this process
//!   ([`ScriptedPods`]).
//! * [`Kubectl`] is the real `kubectl`, which judges the server.
//!
//! It is one process with its objects in memory: no etcd, no admission webhooks, no custom resources, one version of
//! each kind. Nothing routes to the address of a service: its name leads to a pod behind it, to the one that was there when
//! the container started that asks. Nothing makes pods of deployments.
//!
//! Invariants: an answer is what the real server would say to the same request, or an error that says what is not
//! there; every change has a revision of its own, and watches see them in that order.

mod access;
mod api;
mod call;
mod cluster;
mod controllers;
mod decode;
mod defaults;
mod discovery;
mod error;
mod events;
mod garbage;
mod kubectl;
mod kubelet;
mod logs;
mod object;
mod patch;
mod resource;
mod selector;
mod server;
mod status;
mod store;
mod table;
mod task;
mod tls;
mod validate;
mod watching;
mod write;

pub use access::Access;
pub use controllers::Controllers;
pub use error::KubernetesError;
pub use kubectl::Kubectl;
pub use kubelet::{
    ContainerRequest, DockerPods, Kubelet, Mount, NodeConfig, PodRuntime, Running, Script,
    ScriptedPods, StartFailure,
};
pub use server::ApiServer;
