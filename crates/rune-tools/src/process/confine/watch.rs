//! Memory and CPU time of all processes of a namespace together.
//!
//! The kernel limits the memory of one process. Their sum is looked at a few times per second: what a tool shares and
//! what it spreads over children counts.

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
    let watch = move || {
        loop {
            #[expect(
                clippy::disallowed_methods,
                reason = "memory says nothing when it is taken"
            )]
            thread::sleep(EVERY);
            if let Some(why) = exceeded(&limits) {
                reports.send(&LaunchReport::Stopped(why));
                std::process::exit(1);
            }
        }
    };
    thread::Builder::new().spawn(watch).map(drop)
}

fn exceeded(limits: &ProcessLimits) -> Option<String> {
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
    // Pages that are shared count once for each here, and in their share only where it matters.
    if tools().filter_map(|dir| resident(dir)).sum::<u64>() > limits.memory
        && tools().filter_map(|dir| share(dir)).sum::<u64>() > limits.memory
    {
        let most = limits.memory >> 20;
        return Some(format!(
            "more than {most} MiB of memory (`limits.memory_mb`)"
        ));
    }
    let cpu = limits.cpu?;
    let used: Duration = dirs.iter().filter_map(|dir| cpu_time(dir)).sum();
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

/// Bytes of a process in memory, those that it shares by as many as share them.
fn share(dir: &Path) -> Option<u64> {
    let Ok(text) = fs::read_to_string(dir.join("smaps_rollup")) else {
        // It does not let itself be looked at.
        return resident(dir);
    };
    let line = text.lines().find(|line| line.starts_with("Pss:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib << 10)
}

/// CPU time of a process, and of its children that have ended.
fn cpu_time(dir: &Path) -> Option<Duration> {
    let text = fs::read_to_string(dir.join("stat")).ok()?;
    // The name before may hold anything; state is the first field behind it, user time the twelfth.
    let (_, rest) = text.rsplit_once(") ")?;
    let times = rest.split_whitespace().skip(11).take(4);
    let ticks: u64 = times.filter_map(|time| time.parse::<u64>().ok()).sum();
    Some(Duration::from_millis(
        ticks * 1000 / clock_ticks_per_second().max(1),
    ))
}
