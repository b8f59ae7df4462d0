//! Protection of a listener without authentication from web pages: a page may make a
//! browser send requests to loopback, or name its own host and point it at loopback.

use std::net::IpAddr;

use axum::extract::Request;
use http::HeaderValue;
use http::header::{HOST, ORIGIN};
use rune_store_runtime::ErrorCode;

use crate::ApiError;

/// Refuses a request that a foreign web page may have caused: one of no origin that is listed in `pages`.
pub(crate) fn check(request: &Request, pages: &[HeaderValue]) -> Result<(), ApiError> {
    let denied = |message| Err(ApiError::new(ErrorCode::Denied, message));
    let mut hosts = request.headers().get_all(HOST).iter().peekable();
    let authority = request.uri().authority();
    if hosts.peek().is_none() && authority.is_none() {
        return denied("the request names no host");
    }
    let hosts_are_local = hosts.all(|host| host.to_str().is_ok_and(is_loopback_authority));
    let authority_is_local = authority.is_none_or(|host| is_loopback_authority(host.as_str()));
    if !hosts_are_local || !authority_is_local {
        return denied(
            "without authentication only `localhost` and loopback addresses are served as host; \
             set RUNE_API_KEY or RUNE_JWT_SECRET to serve others",
        );
    }
    if !request.method().is_safe() {
        let mut origins = request.headers().get_all(ORIGIN).iter();
        let is_known = |origin: &HeaderValue| {
            pages.contains(origin) || origin.to_str().is_ok_and(is_loopback_origin)
        };
        if !origins.all(is_known) {
            return denied("without authentication requests of other web sites are refused");
        }
    }
    Ok(())
}

fn is_loopback_origin(origin: &str) -> bool {
    let rest = origin
        .strip_prefix("http://")
        .or_else(|| origin.strip_prefix("https://"));
    rest.is_some_and(is_loopback_authority)
}

/// `HOST` or `HOST:PORT` with a loopback host.
fn is_loopback_authority(authority: &str) -> bool {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((host, port)) => (host, port),
            None => return false,
        },
        None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
    };
    let port = port.strip_prefix(':').map_or(port.is_empty(), |port| {
        port.is_empty() || port.parse::<u16>().is_ok()
    });
    let name = host.eq_ignore_ascii_case("localhost");
    let ip = || {
        host.parse::<IpAddr>()
            .is_ok_and(|ip| ip.to_canonical().is_loopback())
    };
    port && (name || ip())
}

#[cfg(test)]
mod tests {
    use super::is_loopback_authority;

    #[test]
    fn knows_loopback_hosts() {
        for host in [
            "localhost",
            "LOCALHOST:80",
            "127.0.0.1:8080",
            "127.3.2.1",
            "[::1]",
            "[::1]:1",
        ] {
            assert!(is_loopback_authority(host), "{host}");
        }
        let foreign = [
            "",
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "10.0.0.1",
            "[::2]",
            "[::1",
            "localhost:x",
            "localhost@evil.example",
            "127.0.0.1:80@evil",
            "0.0.0.0",
        ];
        for host in foreign {
            assert!(!is_loopback_authority(host), "{host}");
        }
    }
}
