//! Every text format: parsing arbitrary bytes ends in a value or an error that can be printed.
#![no_main]

use std::path::Path;

use rune_spec::{
    Channels, Compose, EvalFile, Runefile, Script, ToolDescriptor, Workflow, interpolate,
};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let path = Path::new("fuzz.yaml");
    let _ = Runefile::parse(path, text).map_err(|errors| errors.to_string());
    let _ = ToolDescriptor::parse(path, text).map_err(|errors| errors.to_string());
    let _ = Workflow::parse(path, text).map_err(|errors| errors.to_string());
    let _ = Compose::parse(path, text, &|_| None).map_err(|errors| errors.to_string());
    let _ = Channels::parse(path, text).map_err(|errors| errors.to_string());
    let _ = EvalFile::parse(path, text).map_err(|errors| errors.to_string());
    let _ = Script::parse(path, text).map_err(|errors| errors.to_string());
    let _ = interpolate(text, &|name| (name.len() % 2 == 0).then(|| name.to_owned()));
});
