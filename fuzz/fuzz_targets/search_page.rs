//! A page of search results from outside: whatever it holds, results lead to HTTP.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rune_tools::parse_duckduckgo;

fuzz_target!(|page: &str| {
    for hit in parse_duckduckgo(page) {
        assert!(hit.url.starts_with("http://") || hit.url.starts_with("https://"));
    }
});
