//! How the kit fails.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Something of the kit did not work.
#[derive(Debug, thiserror::Error)]
pub enum KubernetesError {
    /// The server cannot listen.
    #[error("cannot listen on {addr}")]
    Bind {
        /// Where.
        addr: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No certificate could be made.
    #[error("cannot make a certificate: {0}")]
    Certificate(String),
    /// A file cannot be written.
    #[error("cannot write {}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}
