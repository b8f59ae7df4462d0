//! Applying commands, without threads.

use proptest::prelude::*;
use rune_storage::{ApplyError, Digest, apply, logical_digest, open_in_memory};
use rune_store_runtime::Command;
use rune_testkit::store::random_commands;

/// Applies the commands in batches; every rejection must be a reply that wrote
/// nothing.
fn digest_of(commands: &[Command], page_size: u32, batch: usize) -> Digest {
    let mut db = open_in_memory(page_size).unwrap();
    for commands in commands.chunks(batch) {
        let transaction = db.transaction().unwrap();
        for command in commands {
            let before = transaction.total_changes();
            match apply(&transaction, command) {
                Ok(_) => {}
                Err(ApplyError::Reject(reject)) => {
                    assert_eq!(
                        before,
                        transaction.total_changes(),
                        "{reject} wrote: {command:?}"
                    );
                }
                Err(error) => unreachable!("{error} stopped apply: {command:?}"),
            }
        }
        transaction.commit().unwrap();
    }
    logical_digest(&db).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_same_commands_give_the_same_rows_everywhere(seed: u64) {
        let commands = random_commands(seed, 300);
        let json = serde_json::to_string(&commands).unwrap();
        let read_back: Vec<Command> = serde_json::from_str(&json).unwrap();
        prop_assert_eq!(digest_of(&commands, 4096, 1), digest_of(&read_back, 512, 64));
    }
}
