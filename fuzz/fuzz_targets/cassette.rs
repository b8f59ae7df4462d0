//! Cassettes: arbitrary bytes end in a recorded run or an error that can be printed.
#![no_main]

use std::path::Path;

use rune_runtime::Cassette;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let _ = Cassette::parse(Path::new("fuzz.yaml"), text).map_err(|errors| errors.to_string());
});
