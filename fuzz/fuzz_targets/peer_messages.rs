//! What the nodes of a cluster read of each other: any bytes are an error or a message, and a message that is read is
//! written and read back as it was. The commands in it are text until they are applied; that text may be anything.
//!
//! The first byte says whether the rest is a message or an answer to one.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rune_cluster::{PeerReply, decode, encode};

fuzz_target!(|data: &[u8]| {
    let Some((kind, body)) = data.split_first() else {
        return;
    };
    if kind % 2 == 0 {
        // The length of the JSON stands before it; most of what is tried has it right.
        let length = u32::try_from(body.len()).expect("an input is short");
        let framed = [length.to_be_bytes().as_slice(), body].concat();
        for bytes in [body, &framed] {
            let Ok(message) = decode(bytes) else { continue };
            let bytes = encode(message).expect("it was within the limits");
            // What nests deepest may nest too deep where it is written with every field.
            if let Ok(again) = decode(&bytes) {
                assert_eq!(encode(again).expect("it was within the limits"), bytes);
            }
        }
    } else if let Ok(reply) = serde_json::from_slice::<PeerReply>(body) {
        let json = serde_json::to_vec(&reply).expect("an answer has JSON");
        if let Ok(again) = serde_json::from_slice::<PeerReply>(&json) {
            let again = serde_json::to_vec(&again).expect("an answer has JSON");
            assert_eq!(String::from_utf8_lossy(&again), String::from_utf8_lossy(&json));
        }
    }
});
