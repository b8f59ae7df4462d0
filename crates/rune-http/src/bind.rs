//! Which addresses a listener may use.

use std::net::SocketAddr;

use crate::Auth;

/// A listener would be open to the network without authentication.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "refusing to listen on {addr} without authentication: set RUNE_API_KEY or RUNE_JWT_SECRET, \
     or listen on loopback with {flag} 127.0.0.1:{}",
    addr.port()
)]
pub struct BindError {
    /// The address.
    pub addr: SocketAddr,
    /// The flag that sets it.
    pub flag: &'static str,
}

/// Allows any address with authentication and only loopback without. `flag` is the
/// command-line flag that sets the address, for the message.
///
/// # Errors
/// [`BindError`].
pub fn check_bind(addr: SocketAddr, auth: &Auth, flag: &'static str) -> Result<(), BindError> {
    if auth.is_anonymous() && !addr.ip().to_canonical().is_loopback() {
        return Err(BindError { addr, flag });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_may_go_without_authentication() {
        let key = "k".to_owned().into();
        let auth = Auth::new(Some(&key), None, None).unwrap();
        for open in ["0.0.0.0:8080", "192.168.1.2:8080", "[::]:8080"] {
            let addr = open.parse().unwrap();
            let error = check_bind(addr, &Auth::Anonymous, "--gateway-addr").unwrap_err();
            let text = error.to_string();
            assert!(text.contains("--gateway-addr 127.0.0.1:8080"), "{text}");
            assert!(text.contains("RUNE_API_KEY"), "{text}");
            assert_eq!(check_bind(addr, &auth, "--gateway-addr"), Ok(()));
        }
        for loopback in [
            "127.0.0.1:0",
            "127.9.9.9:1",
            "[::1]:8080",
            "[::ffff:127.0.0.1]:1",
        ] {
            let addr = loopback.parse().unwrap();
            assert_eq!(check_bind(addr, &Auth::Anonymous, "--gateway-addr"), Ok(()));
        }
    }
}
