//! What a replica uses of its machine.

use std::collections::HashMap;
use std::time::Duration;

use rune_runtime::ReplicaUsage;
use rustix::param::{clock_ticks_per_second, page_size};

/// A process, as the kernel lists it.
#[derive(Debug, PartialEq, Eq)]
struct Process {
    parent: u32,
    /// Its own CPU time and that of its children that have ended, in ticks of the clock.
    ticks: u64,
    /// Pages in memory.
    pages: u64,
}

/// What this process uses, and those that it has started; nothing where the machine does not say. Blocks for some
/// milliseconds.
pub(crate) fn usage() -> Option<ReplicaUsage> {
    let listed = std::fs::read_dir("/proc").ok()?;
    let processes: HashMap<u32, Process> = listed
        .filter_map(|dir| {
            let dir = dir.ok()?;
            let id = dir.file_name().to_str()?.parse().ok()?;
            // One that has ended meanwhile is none.
            let stat = std::fs::read_to_string(dir.path().join("stat")).ok()?;
            Some((id, parse(&stat)?))
        })
        .collect();
    let own = std::process::id();
    processes.get(&own)?;
    let of_tree = processes.iter();
    let of_tree = of_tree.filter(|(id, _)| is_below(**id, own, &processes));
    let (ticks, pages) = of_tree.fold((0, 0), |(ticks, pages), (_, process)| {
        (ticks + process.ticks, pages + process.pages)
    });
    let cpu = Duration::from_millis(ticks * 1000 / clock_ticks_per_second().max(1));
    Some(ReplicaUsage {
        cpu_ms: u64::try_from(cpu.as_millis()).unwrap_or(u64::MAX),
        memory_bytes: pages * page_size() as u64,
    })
}

/// Whether a process is `root`, or comes from it.
fn is_below(mut id: u32, root: u32, processes: &HashMap<u32, Process>) -> bool {
    // A list that was made while processes ended may lead in a circle.
    for _ in 0..processes.len() {
        if id == root {
            return true;
        }
        match processes.get(&id) {
            Some(process) => id = process.parent,
            None => return false,
        }
    }
    false
}

fn parse(stat: &str) -> Option<Process> {
    // The name in brackets may hold anything. Behind it: the state, the parent, and further on the times and the pages.
    let (_, fields) = stat.rsplit_once(") ")?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
    Some(Process {
        parent: fields.get(1)?.parse().ok()?,
        ticks: (11..15).map(number).sum::<Option<u64>>()?,
        pages: number(21)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_process_whatever_it_is_called() {
        let stat = "42 (a) R 1) S 7 42 42 0 -1 4194304 100 0 0 0 7 3 20 1 20 0 1 0 12345 9 55 0";
        let expected = Process {
            parent: 7,
            ticks: 31,
            pages: 55,
        };
        assert_eq!(parse(stat), Some(expected));
        assert_eq!(parse("42 (a"), None);
    }

    #[test]
    fn counts_what_it_has_started() {
        let alone = usage().unwrap();
        assert!(alone.memory_bytes > 1 << 20, "{alone:?}");
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let both = usage().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(both.cpu_ms >= alone.cpu_ms, "{both:?} {alone:?}");
        let listed = |pid| {
            let process = |parent| Process {
                parent,
                ticks: 0,
                pages: 0,
            };
            let processes = [
                (1, process(0)),
                (5, process(1)),
                (6, process(5)),
                (7, process(1)),
            ];
            is_below(pid, 5, &processes.into())
        };
        assert_eq!([1, 5, 6, 7].map(listed), [false, true, true, false]);
    }
}
