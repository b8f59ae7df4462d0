//! Files that models are shown and have made, and the answers in which these come.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rune_runtime::model::read_media_answers;
use rune_tools::MediaType;

fuzz_target!(|bytes: &[u8]| {
    if let Some(media_type) = MediaType::of(bytes) {
        let seconds = media_type.seconds(bytes);
        assert!(seconds.is_none_or(|seconds| seconds.is_finite() && seconds >= 0.0));
        let _ = media_type.pixels(bytes);
    }
    let _ = read_media_answers(bytes);
});
