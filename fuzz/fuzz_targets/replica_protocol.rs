//! What a replica and its daemon read of each other: a value that is read is written and read back as it was, and how the
//! stream of a run is cut does not matter.
//!
//! The first byte says which of the values the rest is.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rune_replica::ReplicaBoot;
use rune_runtime::{EngineAnswer, EngineOp, ReplicaStatus, RunItem, RunRequest, read_run};
use serde::Serialize;
use serde::de::DeserializeOwned;

fn read_again<T: Serialize + DeserializeOwned>(body: &[u8]) {
    let Ok(value) = serde_json::from_slice::<T>(body) else {
        return;
    };
    let json = serde_json::to_vec(&value).expect("a value has JSON");
    // What nests deepest may nest too deep where it is written with every field.
    if let Ok(again) = serde_json::from_slice::<T>(&json) {
        let again = serde_json::to_vec(&again).expect("a value has JSON");
        assert_eq!(String::from_utf8_lossy(&again), String::from_utf8_lossy(&json));
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((kind, body)) = data.split_first() else {
        return;
    };
    match kind % 7 {
        0 => read_again::<RunRequest>(body),
        1 => read_again::<RunItem>(body),
        2 => read_again::<ReplicaStatus>(body),
        3 => read_again::<EngineOp>(body),
        4 => read_again::<EngineAnswer>(body),
        5 => read_again::<ReplicaBoot>(body),
        _ => {
            let whole = read_run([body]);
            assert_eq!(read_run(body.chunks(3)), whole);
            assert_eq!(read_run(body.chunks(1)), whole);
        }
    }
});
