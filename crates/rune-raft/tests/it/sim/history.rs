//! What clients saw, and whether one register explains it.

use std::collections::BTreeSet;

/// What was done to a register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Write(u64),
    /// What was read; 0 for nothing.
    Read(u64),
    /// What was read, by whoever had the answer to this write.
    ReadAfter(u64, u64),
}

/// An operation from the moment at which it was begun to the one at which it was answered. One
/// that was never answered may have had its effect at any time after its beginning, or none.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Operation {
    pub(crate) begun: u64,
    pub(crate) ended: Option<u64>,
    pub(crate) action: Action,
}

/// Whether there is an order of the operations that a register would show: each takes effect at
/// once, between its beginning and its end (Wing and Gong, with Lowe's memory of what was tried).
pub(crate) fn is_linearizable(history: &[Operation]) -> bool {
    let mut operations: Vec<Operation> = history.to_vec();
    operations.sort_by_key(|operation| operation.begun);
    let mut tried = BTreeSet::new();
    // What is left of the answered ones, as a set of numbers, and the value.
    let mut open = vec![(vec![false; operations.len()], 0u64)];
    while let Some((done, value)) = open.pop() {
        let left = || (0..operations.len()).filter(|at| !done[*at]);
        if left().all(|at| operations[at].ended.is_none()) {
            return true;
        }
        if !tried.insert((done.clone(), value)) {
            continue;
        }
        let first_end = left().filter_map(|at| operations[at].ended).min();
        for at in left() {
            let operation = operations[at];
            if first_end.is_some_and(|end| operation.begun > end) {
                break;
            }
            let next = match operation.action {
                Action::Write(written) => written,
                Action::Read(read) if read == value => value,
                Action::ReadAfter(read, written)
                    if read == value && was_written(written, &operations, &done) =>
                {
                    value
                }
                Action::Read(_) | Action::ReadAfter(..) => continue,
            };
            let mut done = done.clone();
            done[at] = true;
            open.push((done, next));
        }
    }
    false
}

fn was_written(value: u64, operations: &[Operation], done: &[bool]) -> bool {
    let mut done = operations.iter().zip(done).filter(|(_, done)| **done);
    done.any(|(one, _)| one.action == Action::Write(value))
}

#[test]
fn the_checker_knows_a_stale_read_and_a_lost_write() {
    let operation = |begun, ended, action| Operation {
        begun,
        ended,
        action,
    };
    use Action::{Read, ReadAfter, Write};
    let fine = [
        operation(1, Some(4), Write(1)),
        operation(2, Some(3), Read(0)),
        operation(5, Some(6), Read(1)),
        operation(7, None, Write(2)),
        operation(8, Some(9), Read(2)),
        operation(10, Some(11), Read(2)),
    ];
    assert!(is_linearizable(&fine));
    let stale = [
        operation(1, Some(2), Write(1)),
        operation(3, Some(4), Write(2)),
        operation(5, Some(6), Read(1)),
    ];
    assert!(!is_linearizable(&stale));
    let lost = [
        operation(1, Some(2), Write(1)),
        operation(3, Some(4), Read(0)),
    ];
    assert!(!is_linearizable(&lost));
    let back = [
        operation(1, None, Write(1)),
        operation(2, Some(3), Read(1)),
        operation(4, Some(5), Read(0)),
    ];
    assert!(!is_linearizable(&back));
    // Begun before the write was answered, so that only whose read it is tells that it is wrong.
    let own = |read| {
        [
            operation(1, Some(2), Write(1)),
            operation(3, Some(5), Write(2)),
            operation(4, Some(6), ReadAfter(read, 2)),
        ]
    };
    assert!(is_linearizable(&own(2)));
    assert!(!is_linearizable(&own(1)));
}
