//! Small measurements and statistics.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::time::Instant;

use crate::error::BenchError;

/// Syncs that `fdatasync_us` takes the median of.
const SYNCS: usize = 200;

/// The median of a list; 0 of an empty one.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

/// A percentile of sorted microseconds; 0 of an empty list.
pub(crate) fn percentile(sorted: &[u64], percent: usize) -> f64 {
    if sorted.is_empty() {
        return 0.0;
    }
    let index = (sorted.len() * percent / 100).min(sorted.len() - 1);
    sorted[index] as f64
}

/// Median microseconds of appending a small record and syncing it to the disk.
pub(crate) fn fdatasync_us(dir: &Path) -> Result<f64, BenchError> {
    let path = dir.join("fdatasync");
    let mut file: File = OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .map_err(BenchError::io("create a file in the data directory"))?;
    let mut times = Vec::with_capacity(SYNCS);
    for _ in 0..SYNCS {
        let started = Instant::now();
        file.write_all(&[7; 268]).map_err(BenchError::io("write"))?;
        file.sync_data().map_err(BenchError::io("sync"))?;
        times.push(started.elapsed().as_secs_f64() * 1e6);
    }
    Ok(median(&times))
}

/// Resident memory of a process in KiB.
pub(crate) fn rss_kib(pid: u32) -> Result<f64, BenchError> {
    let path = format!("/proc/{pid}/status");
    let status = std::fs::read_to_string(&path).map_err(BenchError::io(&format!("read {path}")))?;
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap_or_default();
    Ok(line
        .split_whitespace()
        .nth(1)
        .and_then(|kib| kib.parse().ok())
        .unwrap_or(0.0))
}

/// Processor time that a process has used, in microseconds.
pub(crate) fn cpu_us(pid: u32) -> Result<f64, BenchError> {
    /// Of the kernel's clock, in which it counts them for all programs.
    const TICK_US: f64 = 10_000.0;
    let path = format!("/proc/{pid}/stat");
    let stat = std::fs::read_to_string(&path).map_err(BenchError::io(&format!("read {path}")))?;
    // The name of the program, in brackets, may hold anything.
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let user_and_system = rest.split_whitespace().skip(11).take(2);
    let ticks: f64 = user_and_system
        .filter_map(|ticks| ticks.parse::<f64>().ok())
        .sum();
    Ok(ticks * TICK_US)
}

/// Load average of the last minute and the number of processors.
pub(crate) fn load_average() -> (f64, usize) {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = text
        .split_whitespace()
        .next()
        .and_then(|load| load.parse().ok())
        .unwrap_or(0.0);
    (
        load,
        std::thread::available_parallelism().map_or(1, usize::from),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median(&[]), 0.0);
    }

    #[test]
    fn a_percentile_is_one_of_the_values() {
        let values: Vec<u64> = (1..=100).collect();
        assert_eq!(percentile(&values, 50), 51.0);
        assert_eq!(percentile(&values, 99), 100.0);
        assert_eq!(percentile(&[], 50), 0.0);
    }
}
