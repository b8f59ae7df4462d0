//! The reply of a model provider is outside data: no bytes may make a decoder panic,
//! and how they are cut must not matter.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rune_runtime::model::Protocol;
use rune_runtime::model::wire::decode_chunks;

fuzz_target!(|input: (u8, u8, &[u8])| {
    let (protocol, size, body) = input;
    let protocol = Protocol::ALL[usize::from(protocol) % Protocol::ALL.len()];
    let whole = decode_chunks(protocol, [body]);
    assert!(whole.last().is_some(), "a reply ends with Done or an error");
    let chunks = body.chunks(usize::from(size).max(1));
    assert_eq!(decode_chunks(protocol, chunks), whole);
});
