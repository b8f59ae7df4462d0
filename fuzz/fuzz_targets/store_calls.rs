//! Whatever is sent to the store's routes is a call or an error, and a call that is sent again is the same read, or the
//! same command.
//!
//! The first byte says which of the two kinds of body the rest is.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rune_remote_store::{decode_commands, decode_read};

fuzz_target!(|data: &[u8]| {
    let Some((kind, body)) = data.split_first() else {
        return;
    };
    if kind % 2 == 0 {
        if let Ok(read) = decode_read(body) {
            let json = serde_json::to_vec(&read).expect("a read has JSON");
            assert_eq!(decode_read(&json), Ok(read));
        }
        return;
    }
    for command in decode_commands(body).into_iter().flatten().flatten() {
        let json = serde_json::to_vec(&[&command]).expect("a command has JSON");
        // What nests deepest may nest too deep where it is written with every field.
        if let Some(Ok(again)) = decode_commands(&json).expect("commands").pop() {
            assert_eq!(again, command);
        }
    }
});
