//! What must hold, whatever happened.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::Serialize;

use super::history::{FaultKind, Found, History, Work};

/// Something that must hold, and where it did not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Invariant {
    /// What must hold.
    pub(super) name: &'static str,
    /// Of how many things that was looked at.
    pub(super) checked: usize,
    /// Where it does not, in words.
    pub(super) violations: Vec<String>,
}

impl Invariant {
    /// What holds of each of these, unless something is said against it.
    fn of<T>(
        name: &'static str,
        things: impl IntoIterator<Item = T>,
        against: impl Fn(T) -> Option<String>,
    ) -> Self {
        let mut checked = 0;
        let things = things.into_iter().inspect(|_| checked += 1);
        let violations = things.filter_map(against).collect();
        Self {
            name,
            checked,
            violations,
        }
    }

    /// Whether it holds.
    pub(super) const fn holds(&self) -> bool {
        self.violations.is_empty()
    }
}

/// Every invariant.
pub(super) fn check(history: &History) -> Vec<Invariant> {
    vec![
        ready(history),
        answered(history),
        said(history),
        one_request(history),
        kept(history),
        same_answer(history),
        read(history),
        once(history),
        one_key(history),
        happened(history),
        followed(history),
        same_rows(history),
        Invariant::of("no node fails inside", &history.panics, |line| {
            Some(line.clone())
        }),
    ]
}

fn ready(history: &History) -> Invariant {
    let nodes = [&history.unready];
    Invariant::of("every node is ready again", nodes, Option::clone)
}

fn answered(history: &History) -> Invariant {
    let name = "whatever was asked is answered in the end";
    Invariant::of(name, &history.operations, |asked| {
        (!asked.is_done).then(|| asked.key.clone())
    })
}

fn said(history: &History) -> Invariant {
    let name = "who gets no answer is told to come back: 503 with Retry-After";
    Invariant::of(name, &history.operations, |asked| {
        let said = asked.strange.join("; ");
        (!said.is_empty()).then(|| format!("{}: {said}", asked.key))
    })
}

fn one_request(history: &History) -> Invariant {
    let name = "what is asked under one key is one request";
    let mut keys: BTreeMap<&String, &String> = BTreeMap::new();
    let told = history.operations.iter();
    let told = told.flat_map(|asked| asked.ids.iter().map(move |id| (asked, id)));
    let shared: BTreeSet<&String> = told
        .filter_map(|(asked, id)| {
            let first = keys.insert(id, &asked.key)?;
            (*first != asked.key).then_some(id)
        })
        .collect();
    Invariant::of(name, &history.operations, |asked| {
        let ids: Vec<&str> = asked.ids.iter().map(String::as_str).collect();
        let is_shared = asked.ids.iter().any(|id| shared.contains(id));
        (ids.len() > 1 || is_shared).then(|| format!("{}: {}", asked.key, ids.join(", ")))
    })
}

fn kept(history: &History) -> Invariant {
    let name = "what was accepted is on every node, and has completed";
    let told = history.operations.iter().flat_map(|asked| &asked.ids);
    Invariant::of(name, told, |id| {
        let on = history.found.iter().map(|node| node.get(id));
        let states = on.map(|found| found.map_or("lost", |found| found.status.as_str()));
        let states: Vec<&str> = states.collect();
        let is_kept = states.iter().all(|state| *state == "completed");
        (!is_kept).then(|| format!("{id}: {}", states.join(", ")))
    })
}

fn same_answer(history: &History) -> Invariant {
    let name = "an answer is to what was asked, and stays the same";
    Invariant::of(name, &history.operations, |asked| {
        let echo = format!("Echo: {}", asked.input());
        let nodes = history.found.iter();
        let kept = nodes.flat_map(|node| asked.ids.iter().filter_map(move |id| node.get(id)));
        let kept = kept
            .map(|found| &found.output)
            .filter(|output| !output.is_null());
        let mut all = asked.outputs.iter().chain(kept);
        let first = all.next()?;
        let is_echo = asked.work != Work::Plain || *first == echo;
        let is_same = all.all(|other| other == first);
        (!is_echo || !is_same).then(|| format!("{}: {first}", asked.key))
    })
}

fn read(history: &History) -> Invariant {
    let name = "what was accepted is read by whoever asks for the newest";
    Invariant::of(name, &history.operations, |asked| {
        (asked.unseen > 0).then(|| asked.key.clone())
    })
}

fn once(history: &History) -> Invariant {
    let name = "an effect that must not be repeated happens once";
    let mut times: BTreeMap<&str, usize> = BTreeMap::new();
    for effect in history.effects.get("once").into_iter().flatten() {
        *times.entry(&effect.request).or_default() += 1;
    }
    Invariant::of(name, times, |(request, times)| {
        (times > 1).then(|| format!("{request}: {times} times"))
    })
}

fn one_key(history: &History) -> Invariant {
    let name = "an effect that may be repeated has one key";
    let mut keys: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for effect in history.effects.get("again").into_iter().flatten() {
        let keys = keys.entry(&effect.request).or_default();
        keys.insert(&effect.key);
    }
    Invariant::of(name, keys, |(request, keys)| {
        let listed: Vec<&str> = keys.iter().copied().collect();
        (keys.len() > 1).then(|| format!("{request}: {}", listed.join(", ")))
    })
}

fn happened(history: &History) -> Invariant {
    let name = "an effect that was reported has happened";
    let reports = history.operations.iter().filter_map(|asked| {
        let tool = asked.work.tool()?;
        let done = format!("{tool} answered");
        let is_done = |found: &Found| {
            found
                .output
                .as_str()
                .is_some_and(|said| said.starts_with(&done))
        };
        let id = asked.ids.iter().find(|id| {
            let mut nodes = history.found.iter();
            nodes.any(|node| node.get(*id).is_some_and(is_done))
        })?;
        Some((tool, id))
    });
    Invariant::of(name, reports, |(tool, id)| {
        let mut effects = history.effects.get(tool).into_iter().flatten();
        let is_there = effects.any(|effect| effect.request == *id);
        (!is_there).then(|| id.clone())
    })
}

fn followed(history: &History) -> Invariant {
    let name = "who follows a request sees every entry once, in order";
    let followed = history.operations.iter();
    let followed = followed.filter_map(|asked| Some((asked, asked.events.as_ref()?)));
    Invariant::of(name, followed, |(asked, events)| {
        let id = asked.ids.first()?;
        let journal = history.journals.get(id);
        (journal != Some(events)).then(|| format!("{id}: {events:?} of {journal:?}"))
    })
}

fn same_rows(history: &History) -> Invariant {
    let name = "all nodes have the same rows";
    let tables: BTreeSet<&String> = history.rows.iter().flat_map(BTreeMap::keys).collect();
    Invariant::of(name, tables, |table| {
        let rows: BTreeSet<_> = history.rows.iter().map(|node| node.get(table)).collect();
        (rows.len() > 1).then(|| table.clone())
    })
}

/// From the loss of a leader to the next request that was accepted of those that were asked since, in milliseconds.
pub(super) fn failovers(history: &History) -> Vec<u64> {
    let lost = history
        .injected
        .iter()
        .filter(|fault| fault.led && matches!(fault.kind, FaultKind::Kill | FaultKind::Pause));
    let times = lost.filter_map(|fault| {
        let at = Duration::from_millis(fault.at_ms);
        let accepted = history.operations.iter().filter_map(|asked| asked.accepted);
        let since = accepted.filter(|(asked, _)| *asked >= at);
        let first = since.map(|(_, accepted)| accepted).min()?;
        u64::try_from((first - at).as_millis()).ok()
    });
    let mut times: Vec<u64> = times.collect();
    times.sort_unstable();
    times
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::history::{Effect, Injected, Operation};
    use super::*;

    /// A run in which everything held: a plain request, one with each tool, on three nodes.
    fn sound() -> History {
        let mut history = History::default();
        let mut found = BTreeMap::new();
        for (work, id, output) in [
            (Work::Plain, "r1", "Echo: plain k-r1"),
            (Work::Again, "r2", "again answered: {}"),
            (Work::Once, "r3", "once answered: {}"),
        ] {
            let mut asked = Operation::new(format!("k-{id}"), work);
            asked.ids.insert(id.to_owned());
            asked.outputs.push(json!(output));
            asked.events = Some(vec![1, 2, 3]);
            asked.accepted = Some((Duration::from_millis(10), Duration::from_millis(20)));
            asked.is_done = true;
            history.operations.push(asked);
            history.journals.insert(id.to_owned(), vec![1, 2, 3]);
            let output = json!(output);
            let status = "completed".to_owned();
            found.insert(id.to_owned(), Found { status, output });
        }
        let effect = |request: &str| Effect {
            request: request.to_owned(),
            key: format!("call of {request}"),
        };
        history
            .effects
            .insert("again", vec![effect("r2"), effect("r2")]);
        history.effects.insert("once", vec![effect("r3")]);
        history.found = vec![found.clone(), found.clone(), found];
        let rows = BTreeMap::from([("requests".to_owned(), "sha256:1".to_owned())]);
        history.rows = vec![rows.clone(), rows.clone(), rows];
        history
    }

    /// The names of the invariants that are violated, and what is said of them.
    fn violated(change: impl FnOnce(&mut History)) -> Vec<(&'static str, Vec<String>)> {
        let mut history = sound();
        change(&mut history);
        let invariants = check(&history).into_iter();
        let violated = invariants.filter(|invariant| !invariant.holds());
        violated
            .map(|invariant| (invariant.name, invariant.violations))
            .collect()
    }

    /// One is violated, and only that one.
    #[track_caller]
    fn violates(name: &str, said: &str, change: impl FnOnce(&mut History)) {
        let violated = violated(change);
        let [(found, violations)] = &violated[..] else {
            panic!("{violated:?}");
        };
        assert!(found.contains(name), "{found}");
        assert_eq!(violations[..], [said.to_owned()]);
    }

    #[test]
    fn what_is_sound_violates_nothing() {
        assert_eq!(violated(|_| {}), []);
        let checked: Vec<usize> = check(&sound()).iter().map(|found| found.checked).collect();
        assert_eq!(checked, [1, 3, 3, 3, 3, 3, 3, 1, 1, 2, 3, 1, 0]);
    }

    #[test]
    fn a_request_that_is_lost_or_has_not_ended_is_seen() {
        violates(
            "on every node",
            "r1: completed, lost, completed",
            |history| {
                history.found[1].remove("r1");
            },
        );
        violates(
            "on every node",
            "r1: completed, completed, running",
            |history| {
                history.found[2].get_mut("r1").unwrap().status = "running".to_owned();
            },
        );
        violates("answered in the end", "k-r1", |history| {
            history.operations[0].is_done = false;
        });
        violates("for the newest", "k-r3", |history| {
            history.operations[2].unseen = 1;
        });
    }

    #[test]
    fn a_key_with_two_requests_and_a_request_with_two_keys_are_seen() {
        violates("one request", "k-r1: r1, r4", |history| {
            let row = history.found[0]["r1"].clone();
            for node in &mut history.found {
                node.insert("r4".to_owned(), row.clone());
            }
            history.operations[0].ids.insert("r4".to_owned());
        });
        let shared = violated(|history| {
            history.operations[2].ids = BTreeSet::from(["r2".to_owned()]);
            history.operations[2].outputs = vec![json!("again answered: {}")];
        });
        let one = shared.iter().find(|(name, _)| name.contains("one request"));
        assert_eq!(one.unwrap().1, ["k-r2: r2", "k-r3: r2"]);
    }

    #[test]
    fn an_answer_that_changes_or_is_to_something_else_is_seen() {
        violates("stays the same", "k-r2: \"something else\"", |history| {
            history.operations[1].outputs = vec![json!("something else")];
        });
        violates("stays the same", "k-r1: \"Echo: plain k-r9\"", |history| {
            let other = json!("Echo: plain k-r9");
            history.operations[0].outputs = vec![other.clone()];
            for node in &mut history.found {
                node.get_mut("r1").unwrap().output = other.clone();
            }
        });
        violates("503 with Retry-After", "k-r1: 500 internal", |history| {
            history.operations[0]
                .strange
                .push("500 internal".to_owned());
        });
    }

    #[test]
    fn effects_that_happen_too_often_or_not_are_seen() {
        violates("happens once", "r3: 2 times", |history| {
            let effects = history.effects.get_mut("once").unwrap();
            effects.push(effects[0].clone());
        });
        violates("has one key", "r2: another, call of r2", |history| {
            history.effects.get_mut("again").unwrap()[0].key = "another".to_owned();
        });
        violates("has happened", "r3", |history| {
            history.effects.remove("once");
        });
    }

    #[test]
    fn a_gap_in_a_stream_is_seen() {
        for events in [vec![1, 3], vec![1, 2], vec![1, 2, 2, 3], vec![2, 1, 3]] {
            let said = format!("r1: {events:?} of Some([1, 2, 3])");
            violates("every entry once", &said, |history| {
                history.operations[0].events = Some(events);
            });
        }
    }

    #[test]
    fn nodes_that_differ_or_do_not_come_back_or_fail_are_seen() {
        violates("same rows", "requests", |history| {
            history.rows[2].insert("requests".to_owned(), "sha256:2".to_owned());
        });
        violates("same rows", "sessions", |history| {
            history.rows[0].insert("sessions".to_owned(), "sha256:3".to_owned());
        });
        violates("ready again", "node 2 is not ready", |history| {
            history.unready = Some("node 2 is not ready".to_owned());
        });
        violates("fails inside", "node 1: panicked", |history| {
            history.panics.push("node 1: panicked".to_owned());
        });
    }

    #[test]
    fn a_failover_ends_with_what_was_asked_after_it_began() {
        let mut history = sound();
        let fault = |kind, led, at_ms| Injected {
            kind,
            node: 1,
            led,
            what: String::new(),
            at_ms,
            lasted_ms: 0,
        };
        history.injected = vec![
            fault(FaultKind::Kill, true, 5),
            fault(FaultKind::Kill, false, 6),
            fault(FaultKind::Transfer, true, 7),
            fault(FaultKind::Pause, true, 9),
            fault(FaultKind::Pause, true, 11),
        ];
        assert_eq!(failovers(&history), [11, 15]);
    }
}
