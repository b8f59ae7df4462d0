//! Packed packages: every entry that passes the check stays below the directory it is unpacked into.
#![no_main]

use std::path::{Component, Path};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok(entries) = rune_spec::package::inspect(data) {
        for entry in entries {
            let normal = Path::new(&entry.path).components().all(|part| matches!(part, Component::Normal(_)));
            assert!(normal && !entry.path.is_empty(), "{:?}", entry.path);
        }
    }
});
