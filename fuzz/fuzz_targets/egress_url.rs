//! A URL from outside: what the policy lets through is HTTP without credentials, and
//! an address in it is not a local one.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rune_tools::EgressPolicy;
use url::{Host, Url};

fuzz_target!(|input: &str| {
    let Ok(url) = Url::parse(input) else { return };
    if EgressPolicy::default().check_url(&url).is_err() {
        return;
    }
    assert!(matches!(url.scheme(), "http" | "https"));
    assert!(url.username().is_empty() && url.password().is_none());
    match url.host() {
        Some(Host::Ipv4(v4)) => assert!(!v4.is_loopback() && !v4.is_private() && !v4.is_link_local()),
        Some(Host::Ipv6(v6)) => {
            assert!(!v6.is_loopback());
            if let Some(v4) = v6.to_ipv4() {
                assert!(!v4.is_loopback() && !v4.is_private() && !v4.is_link_local());
            }
        }
        Some(Host::Domain(_)) => {}
        None => panic!("no host"),
    }
});
