//! What a request to the proxy of the browser and of processes asks for: one request, at the host that is decided about.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rune_tools::{destination, parse_proxy_target};

fuzz_target!(|input: &str| {
    let (method, target) = input.split_once(' ').unwrap_or(("GET", input));
    let Ok(found) = parse_proxy_target(method, target) else {
        return;
    };
    assert_eq!(found.url.scheme(), "http");
    assert_eq!(found.is_tunnel, method == "CONNECT");
    let destination = destination(&found.url);
    assert!(destination.is_none_or(|(host, _)| !host.is_empty()));
    // Nothing hides a second request or a header in what is passed on.
    let is_one = |text: &str| text.bytes().all(|byte| byte > b' ' && byte < 0x7f);
    assert!(is_one(&found.origin()) && found.origin().starts_with('/'));
    assert!(is_one(&found.host()) && !found.host().contains(['/', '@']));
});
