//! The head of a request to the proxy of a process: what is passed on is one head, for the host that was asked about.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rune_tools::{destination, parse_proxy_request};

fuzz_target!(|input: &[u8]| {
    let Ok(Some(request)) = parse_proxy_request(input) else {
        return;
    };
    assert!(request.bytes <= input.len());
    assert_eq!(request.target.scheme(), "http");
    if request.is_tunnel {
        assert!(request.head.is_empty());
        return;
    }
    // Nothing hides a second request in it.
    assert!(request.head.ends_with("\r\n\r\n"));
    assert_eq!(request.head.matches("\r\n\r\n").count(), 1);
    let hosts = request.head.split("\r\n").filter(|line| line.starts_with("host: "));
    assert_eq!(hosts.count(), 1);
    if let Some((host, _)) = destination(&request.target) {
        assert!(!host.is_empty());
    }
});
