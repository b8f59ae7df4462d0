//! Serving one part of a benchmark.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use tokio::net::TcpListener;

use crate::error::BenchError;
use crate::floor::{self, Floor};
use crate::model;

/// Serves a part of a benchmark on a free loopback port until the process ends, and
/// prints its address: `axum`, `axum-sqlite FILE`, `proxy URL`, `proxy-sqlite URL FILE`
/// or `model MILLIS`.
///
/// # Errors
/// [`BenchError::Usage`], or where the listener fails.
pub async fn serve(what: &[String]) -> Result<(), BenchError> {
    let usage = || BenchError::Usage(what.join(" "));
    let part: Vec<&str> = what.iter().map(String::as_str).collect();
    let floor = match part.as_slice() {
        ["axum"] => Some(Floor::Axum),
        ["axum-sqlite", path] => Some(Floor::AxumSqlite(PathBuf::from(path))),
        ["proxy", url] => Some(Floor::Proxy((*url).to_owned())),
        ["proxy-sqlite", url, path] => {
            Some(Floor::ProxySqlite((*url).to_owned(), PathBuf::from(path)))
        }
        ["model", _] => None,
        _ => return Err(usage()),
    };
    let io = || BenchError::io("listen");
    let local = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let listener = TcpListener::bind(local).await.map_err(io())?;
    let address = listener.local_addr().map_err(io())?;
    let line = format!("http://{address}\n");
    std::io::stdout()
        .lock()
        .write_all(line.as_bytes())
        .map_err(BenchError::io("print"))?;
    match (floor, part.as_slice()) {
        (Some(floor), _) => floor::serve(listener, floor).await,
        (None, [_, millis]) => {
            let latency = Duration::from_millis(millis.parse().map_err(|_| usage())?);
            model::serve(listener, latency)
                .await
                .map_err(BenchError::io("serve"))
        }
        (None, _) => Err(usage()),
    }
}
