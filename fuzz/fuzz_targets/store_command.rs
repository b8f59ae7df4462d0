//! No command stops `apply`: whatever deserialises is applied or rejected, a
//! rejection writes nothing, and the database stays sound.
//!
//! The input is one JSON command per line.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rune_storage::{ApplyError, apply, open_in_memory};
use rune_store_runtime::Command;

fuzz_target!(|data: &[u8]| {
    let commands: Vec<Command> = data
        .split(|byte| *byte == b'\n')
        .filter_map(|line| serde_json::from_slice(line).ok())
        .map(|command| Command { v: Command::VERSION, ..command })
        .collect();
    if commands.is_empty() {
        return;
    }
    let mut db = open_in_memory(4096).expect("a database in memory");
    let transaction = db.transaction().expect("a transaction");
    for command in &commands {
        let before = transaction.total_changes();
        match apply(&transaction, command) {
            Ok(_) => {}
            Err(ApplyError::Reject(_)) => assert_eq!(before, transaction.total_changes()),
            Err(error) => panic!("{error:?} stopped apply: {command:?}"),
        }
    }
    transaction.commit().expect("a commit");
});
