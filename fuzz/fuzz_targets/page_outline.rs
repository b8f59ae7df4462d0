//! An outline comes out of whatever a browser says of a page.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Some(outline) = rune_tools::page_outline(bytes) {
        assert!(outline.is_empty() || outline.ends_with('\n'));
    }
});
