//! What came of a run.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::check::{Invariant, check, failovers};
use super::history::{FaultKind, History, Injected};
use crate::output::{shortened, table};

/// Violations of one invariant that are printed for people.
const SHOWN: usize = 5;
/// Characters of one of them.
const SHOWN_CHARS: usize = 160;

/// What came of a run.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// With which it can be repeated.
    seed: u64,
    nodes: usize,
    duration_ms: u64,
    requests: Requests,
    faults: Vec<Injected>,
    failover: Option<Failover>,
    invariants: Vec<Invariant>,
}

#[derive(Debug, Serialize)]
struct Requests {
    asked: usize,
    accepted: usize,
    completed: usize,
    /// Answers 503.
    refused: u64,
    /// Connections that ended without an answer.
    broken: u64,
}

/// From the loss of a leader to the next request that was accepted.
#[derive(Debug, Serialize)]
struct Failover {
    count: usize,
    median_ms: u64,
    longest_ms: u64,
}

impl Report {
    pub(super) fn new(seed: u64, nodes: usize, duration_ms: u64, history: History) -> Self {
        let invariants = check(&history);
        let times = failovers(&history);
        let failover = times.last().map(|longest| Failover {
            count: times.len(),
            median_ms: times[times.len() / 2],
            longest_ms: *longest,
        });
        let operations = &history.operations;
        let found = history.found.first().into_iter().flat_map(BTreeMap::values);
        let requests = Requests {
            asked: operations.len(),
            accepted: operations
                .iter()
                .filter(|asked| asked.accepted.is_some())
                .count(),
            completed: found.filter(|found| found.status == "completed").count(),
            refused: operations.iter().map(|asked| asked.refused).sum(),
            broken: operations.iter().map(|asked| asked.broken).sum(),
        };
        Self {
            seed,
            nodes,
            duration_ms,
            requests,
            faults: history.injected,
            failover,
            invariants,
        }
    }

    /// How many invariants were violated.
    pub(super) fn violated(&self) -> usize {
        let violated = self
            .invariants
            .iter()
            .filter(|invariant| !invariant.holds());
        violated.count()
    }

    fn counts(&self) -> String {
        let mut counts: BTreeMap<FaultKind, usize> = BTreeMap::new();
        for fault in &self.faults {
            *counts.entry(fault.kind).or_default() += 1;
        }
        let counts = counts.into_iter().map(|(kind, count)| {
            let kind = format!("{kind:?}").to_lowercase();
            format!("{count} {kind}")
        });
        counts.collect::<Vec<_>>().join(", ")
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Requests {
            asked,
            accepted,
            completed,
            refused,
            broken,
        } = self.requests;
        writeln!(f, "seed       {}", self.seed)?;
        writeln!(
            f,
            "nodes      {}, for {} s",
            self.nodes,
            self.duration_ms / 1000
        )?;
        writeln!(
            f,
            "requests   {asked} asked, {accepted} accepted, {completed} completed; {refused} refused with 503, {broken} \
             connections lost"
        )?;
        writeln!(f, "faults     {} ({})", self.faults.len(), self.counts())?;
        if let Some(failover) = &self.failover {
            let Failover {
                count,
                median_ms,
                longest_ms,
            } = failover;
            writeln!(
                f,
                "failover   {count} leaders lost; the next request accepted after {median_ms} ms (median), {longest_ms} ms \
                 (longest)"
            )?;
        }
        let rows: Vec<_> = self
            .invariants
            .iter()
            .map(|invariant| {
                let held = if invariant.holds() {
                    "held"
                } else {
                    "VIOLATED"
                };
                serde_json::json!({
                    "result": held, "name": invariant.name, "checked": invariant.checked,
                })
            })
            .collect();
        let columns = [
            ("RESULT", "/result"),
            ("CHECKED", "/checked"),
            ("INVARIANT", "/name"),
        ];
        write!(f, "\n{}", table(&rows, &columns))?;
        for invariant in self
            .invariants
            .iter()
            .filter(|invariant| !invariant.holds())
        {
            write!(f, "\n\nviolated: {}", invariant.name)?;
            for violation in invariant.violations.iter().take(SHOWN) {
                write!(f, "\n  {}", shortened(violation, SHOWN_CHARS))?;
            }
            let more = invariant.violations.len().saturating_sub(SHOWN);
            if more > 0 {
                write!(f, "\n  and {more} more; `-o json` has them all")?;
            }
        }
        Ok(())
    }
}
