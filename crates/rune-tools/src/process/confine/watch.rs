//! Memory and CPU time of all processes of a namespace together.
//!
//! The kernel limits the memory of one process. Their sum is looked at a few times per second: what a tool shares and
//! what it spreads over children counts, and so do segments of System V, once, whether or not a process holds them.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::path::Path;
use std::thread;
use std::time::Duration;

use rustix::param::{clock_ticks_per_second, page_size};

use super::super::launcher::LaunchReport;
use super::super::reach::ProcessLimits;
use super::init::Reports;

/// How often it is looked.
const EVERY: Duration = Duration::from_millis(50);

/// Watches from now on. This process, and all others with it, ends where they use more than they may.
pub(super) fn start(limits: ProcessLimits, reports: Reports) -> io::Result<()> {
    let mut ended = Ended::default();
    let watch = move || {
        loop {
            #[expect(
                clippy::disallowed_methods,
                reason = "memory says nothing when it is taken"
            )]
            thread::sleep(EVERY);
            if let Some(why) = exceeded(&limits, &mut ended) {
                reports.send(&LaunchReport::Stopped(why));
                std::process::exit(1);
            }
        }
    };
    thread::Builder::new().spawn(watch).map(drop)
}

fn exceeded(limits: &ProcessLimits, ended: &mut Ended) -> Option<String> {
    let dirs = fs::read_dir("/proc").ok()?.filter_map(Result::ok);
    let dirs: Vec<_> = dirs
        .map(|dir| dir.path())
        .filter(|dir| {
            let name = dir.file_name().unwrap_or_default();
            name.to_string_lossy()
                .bytes()
                .all(|byte| byte.is_ascii_digit())
        })
        .collect();
    let tools = || dirs.iter().filter(|dir| !dir.ends_with("1"));
    let segments = Segments::now();
    let there = segments.bytes;
    // Pages that are shared count once for each here, and in their share only where it matters.
    if there + tools().filter_map(|dir| resident(dir)).sum::<u64>() > limits.memory
        && there + tools().filter_map(|dir| share(dir, &segments)).sum::<u64>() > limits.memory
    {
        let most = limits.memory >> 20;
        return Some(format!(
            "more than {most} MiB of memory (`limits.memory_mb`)"
        ));
    }
    let cpu = limits.cpu?;
    let times: Vec<CpuTime> = dirs.iter().filter_map(|dir| cpu_time(dir)).collect();
    // Each says less than there was: who ignores its children does not inherit their time, and who ended between two looks
    // was not seen.
    let inherited: u64 = times.iter().map(|time| time.own + time.children).sum();
    let used = ticks(inherited.max(ended.with(&times)));
    (used > cpu).then(|| {
        let most = cpu.as_millis();
        format!("more than {most} ms of CPU time (`limits.cpu_ms`)")
    })
}

/// Bytes of a process in memory.
fn resident(dir: &Path) -> Option<u64> {
    let text = fs::read_to_string(dir.join("statm")).ok()?;
    let pages: u64 = text.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * page_size() as u64)
}

/// Bytes of a process in memory, those that it shares by as many as share them, and without segments of System V.
fn share(dir: &Path, segments: &Segments) -> Option<u64> {
    if !segments.ids.is_empty() {
        let smaps = fs::read_to_string(dir.join("smaps"));
        return smaps.map_or_else(
            |_| resident(dir),
            |smaps| Some(segments.beside(&smaps) << 10),
        );
    }
    let Ok(text) = fs::read_to_string(dir.join("smaps_rollup")) else {
        // It does not let itself be looked at.
        return resident(dir);
    };
    let line = text.lines().find(|line| line.starts_with("Pss:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib << 10)
}

/// The segments of System V. They stay where nobody has them attached.
#[derive(Debug, Default, PartialEq, Eq)]
struct Segments {
    ids: HashSet<u64>,
    bytes: u64,
}

impl Segments {
    fn now() -> Self {
        Self::of(&fs::read_to_string("/proc/sysvipc/shm").unwrap_or_default())
    }

    fn of(table: &str) -> Self {
        let mut segments = Self::default();
        for line in table.lines().skip(1) {
            let columns: Vec<u64> = line
                .split_whitespace()
                .map(|column| column.parse().unwrap_or_default())
                .collect();
            // Behind the key, and at the end what is in memory, and what is swapped.
            if let [_, id, .., resident, swapped] = columns[..] {
                segments.ids.insert(id);
                segments.bytes += resident + swapped;
            }
        }
        segments
    }

    /// KiB of what a process maps, those that it shares by as many as share them, without the segments that it has
    /// attached: they count once, attached or not.
    fn beside(&self, smaps: &str) -> u64 {
        let mut kib = 0;
        let mut is_segment = false;
        for line in smaps.lines() {
            let columns: Vec<&str> = line.split_whitespace().collect();
            match columns[..] {
                ["Pss:", share, ..] if !is_segment => {
                    kib += share.parse::<u64>().unwrap_or_default();
                }
                // The range, rights, offset, device, and as inode of a segment its id.
                [range, _, _, _, inode, ..] if !range.ends_with(':') => {
                    let path = columns.get(5);
                    let is_named = path.is_some_and(|path| path.starts_with("/SYSV"));
                    let inode = inode.parse().unwrap_or_default();
                    is_segment = is_named && self.ids.contains(&inode);
                }
                _ => {}
            }
        }
        kib
    }
}

/// What a process has worked, in ticks of the clock.
#[derive(Debug, Clone, PartialEq, Eq)]
struct CpuTime {
    /// Process and start: a number is given away again.
    process: (u64, u64),
    own: u64,
    /// That of its children that have ended and were waited for.
    children: u64,
}

fn cpu_time(dir: &Path) -> Option<CpuTime> {
    parse_stat(&fs::read_to_string(dir.join("stat")).ok()?)
}

fn parse_stat(text: &str) -> Option<CpuTime> {
    // The name in between may hold anything; state is the first field behind it, user time the twelfth, start the twentieth.
    let (head, rest) = text.rsplit_once(") ")?;
    let (id, _) = head.split_once(' ')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
    Some(CpuTime {
        process: (id.parse().ok()?, number(19)?),
        own: number(11)? + number(12)?,
        children: number(13)? + number(14)?,
    })
}

fn ticks(count: u64) -> Duration {
    Duration::from_millis(count * 1000 / clock_ticks_per_second().max(1))
}

/// What processes have worked that are gone.
#[derive(Default)]
struct Ended {
    ticks: u64,
    /// Those that were there at the last look, and what they had worked.
    running: HashMap<(u64, u64), u64>,
}

impl Ended {
    /// What all processes have worked that were ever seen, those included that are there now.
    fn with(&mut self, times: &[CpuTime]) -> u64 {
        let running: HashMap<_, _> = times.iter().map(|time| (time.process, time.own)).collect();
        let gone = self.running.iter();
        let gone = gone.filter(|(process, _)| !running.contains_key(process));
        self.ticks += gone.map(|(_, own)| own).sum::<u64>();
        self.running = running;
        self.ticks + self.running.values().sum::<u64>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_counts_once_whether_or_not_it_is_attached() {
        let table = "key shmid perms size cpid lpid nattch uid gid cuid cgid atime dtime ctime rss swap\n\
                     0 7 600 8192 1 1 1 0 0 0 0 0 0 0 4096 4096\n\
                     0 9 600 4096 1 1 0 0 0 0 0 0 0 0 4096 0\n";
        let segments = Segments::of(table);
        assert_eq!(segments.ids, HashSet::from([7, 9]));
        assert_eq!(segments.bytes, 12288);
        let smaps = "7f00-7f02 rw-s 00000000 00:01 7    /SYSV00000000 (deleted)\n\
                     Rss: 4 kB\nPss: 4 kB\nPss_Dirty: 4 kB\nVmFlags: rd wr\n\
                     7f02-7f04 rw-p 00000000 00:00 0\nPss: 20 kB\n\
                     7f04-7f06 r--p 00000000 08:01 7    /bin/SYSV\nPss: 3 kB\n\
                     7f06-7f08 rw-s 00000000 00:01 8    /SYSV00000000\nPss: 1 kB\n";
        assert_eq!(segments.beside(smaps), 24);
        assert_eq!(Segments::of(""), Segments::default());
    }

    #[test]
    fn reads_what_a_process_has_worked_whatever_it_is_called() {
        let text = "42 (a) R 1) S 1 42 42 0 -1 4194304 100 0 0 0 7 3 20 1 20 0 1 0 12345 0 0";
        let expected = CpuTime {
            process: (42, 12345),
            own: 10,
            children: 21,
        };
        assert_eq!(parse_stat(text), Some(expected));
        assert_eq!(parse_stat("42 (a"), None);
    }

    #[test]
    fn what_a_process_has_worked_counts_when_it_is_gone() {
        let time = |id, start, own| CpuTime {
            process: (id, start),
            own,
            children: 0,
        };
        let mut ended = Ended::default();
        assert_eq!(ended.with(&[time(1, 0, 1), time(2, 5, 10)]), 11);
        // Another one has its number.
        assert_eq!(ended.with(&[time(1, 0, 2), time(2, 9, 3)]), 15);
        assert_eq!(ended.with(&[time(1, 0, 2)]), 15);
    }
}
