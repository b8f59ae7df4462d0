//! What happens to the nodes, drawn from a seed.

use std::time::Duration;

use fastrand::Rng;
use serde_json::json;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::history::{FaultKind, Injected};
use super::links::Line;
use super::nodes::Nodes;
use crate::client::Api;
use crate::failure::Outcome;

/// How long nothing happens before something does, and how long that lasts, in milliseconds.
const PAUSE: std::ops::RangeInclusive<u64> = 300..=1_500;
const LASTS: std::ops::RangeInclusive<u64> = 300..=3_000;
/// How much later comes what is sent over a line that is slow, in milliseconds.
const DELAY: std::ops::RangeInclusive<u64> = 5..=60;
/// How long a change of the leader is waited for.
const TRANSFER_LIMIT: Duration = Duration::from_secs(5);

/// Something that is to happen. Everything that is not up to the cluster is drawn.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Fault {
    kind: FaultKind,
    /// Happens to this node, unless it is to be the one that leads.
    node: usize,
    to_leader: bool,
    /// Another one, where two have to do with it.
    other: usize,
    way: Way,
    after: Duration,
    lasts: Duration,
    delay: Duration,
}

/// What of a node does not get through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Both,
    In,
    Out,
    /// What it sends to one other node.
    One,
}

impl Fault {
    fn draw(rng: &mut Rng, kinds: &[FaultKind], nodes: usize) -> Option<Self> {
        let millis = |rng: &mut Rng, range| Duration::from_millis(rng.u64(range));
        Some(Self {
            kind: rng.choice(kinds).copied()?,
            node: rng.usize(..nodes),
            to_leader: rng.bool(),
            other: rng.usize(1..nodes),
            way: rng.choice([Way::Both, Way::In, Way::Out, Way::One])?,
            after: millis(rng, PAUSE),
            lasts: millis(rng, LASTS),
            delay: millis(rng, DELAY),
        })
    }
}

/// Has things happen to nodes until that is to stop, and says so before each. Each is undone before the next one, so that a
/// majority could always go on.
pub(super) async fn run(
    nodes: &mut Nodes,
    kinds: &[FaultKind],
    rng: &mut Rng,
    began: Instant,
    stop: &CancellationToken,
    mut tell: impl FnMut(&str),
) -> Outcome<Vec<Injected>> {
    let mut injected = Vec::new();
    while let Some(fault) = Fault::draw(rng, kinds, nodes.len()) {
        let pause = tokio::time::sleep(fault.after);
        if stop.run_until_cancelled(pause).await.is_none() {
            break;
        }
        let leader = nodes.leader().await;
        let at = leader.filter(|_| fault.to_leader).unwrap_or(fault.node);
        let other = (at + fault.other) % nodes.len();
        let what = in_words(&fault, at, other, leader == Some(at));
        tell(&what);
        let happened = began.elapsed();
        happen(nodes, &fault, at, other, stop).await?;
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        injected.push(Injected {
            kind: fault.kind,
            node: at + 1,
            led: leader == Some(at),
            what,
            at_ms: millis(happened),
            lasted_ms: millis(began.elapsed() - happened),
        });
    }
    Ok(injected)
}

/// Does it, waits, and undoes it.
async fn happen(
    nodes: &mut Nodes,
    fault: &Fault,
    at: usize,
    other: usize,
    stop: &CancellationToken,
) -> Outcome<()> {
    let lasts = stop.run_until_cancelled(tokio::time::sleep(fault.lasts));
    match fault.kind {
        FaultKind::Kill => {
            nodes.kill(at).await?;
            lasts.await;
            nodes.start(at).await
        }
        FaultKind::Restart => {
            nodes.terminate(at).await?;
            nodes.start(at).await
        }
        FaultKind::Pause => {
            nodes.pause(at)?;
            lasts.await;
            nodes.resume(at)
        }
        FaultKind::Partition => {
            for (from, to) in lines(fault.way, at, other, nodes.len()) {
                nodes.links.set(from, to, Line::Cut);
            }
            lasts.await;
            nodes.links.heal();
            Ok(())
        }
        FaultKind::Slow => {
            for (from, to) in lines(Way::Both, at, other, nodes.len()) {
                nodes.links.set(from, to, Line::Slow(fault.delay));
            }
            lasts.await;
            nodes.links.heal();
            Ok(())
        }
        FaultKind::Transfer => {
            let body = json!({"node": other + 1});
            let client = nodes.clients().swap_remove(at);
            let asked = client.post(Api::ControlPlane, "/v1/cluster/transfer-leader", &body);
            // It may be refused, as where nobody leads at present.
            drop(tokio::time::timeout(TRANSFER_LIMIT, asked).await);
            Ok(())
        }
    }
}

/// The lines from a node to another one that a partition is about.
fn lines(way: Way, at: usize, other: usize, nodes: usize) -> Vec<(usize, usize)> {
    let others = (0..nodes).filter(|other| *other != at);
    others
        .flat_map(|other| [(at, other), (other, at)])
        .filter(|(from, to)| match way {
            Way::Both => true,
            Way::In => *to == at,
            Way::Out => *from == at,
            Way::One => (*from, *to) == (at, other),
        })
        .collect()
}

fn in_words(fault: &Fault, at: usize, other: usize, leads: bool) -> String {
    let node = match leads {
        true => format!("node {}, which leads,", at + 1),
        false => format!("node {}", at + 1),
    };
    let (other, lasts) = (other + 1, fault.lasts.as_millis());
    match fault.kind {
        FaultKind::Kill => format!("{node} is killed, for {lasts} ms"),
        FaultKind::Restart => format!("{node} is restarted"),
        FaultKind::Pause => format!("{node} stands still for {lasts} ms"),
        FaultKind::Slow => format!(
            "{node} is {} ms slow, for {lasts} ms",
            fault.delay.as_millis()
        ),
        FaultKind::Transfer => format!("node {other} is to lead"),
        FaultKind::Partition => match fault.way {
            Way::Both => format!("{node} is cut off for {lasts} ms"),
            Way::In => format!("{node} hears nobody for {lasts} ms"),
            Way::Out => format!("{node} is heard by nobody for {lasts} ms"),
            Way::One => format!("{node} is not heard by node {other} for {lasts} ms"),
        },
    }
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum as _;

    use super::*;

    fn drawn(seed: u64, kinds: &[FaultKind]) -> Vec<Fault> {
        let mut rng = Rng::with_seed(seed);
        let drawn = (0..200).filter_map(|_| Fault::draw(&mut rng, kinds, 3));
        drawn.collect()
    }

    #[test]
    fn a_seed_is_what_happens() {
        let kinds = FaultKind::value_variants();
        assert_eq!(drawn(7, kinds), drawn(7, kinds));
        assert_ne!(drawn(7, kinds), drawn(8, kinds));
        for kind in kinds {
            assert!(drawn(7, kinds).iter().any(|fault| fault.kind == *kind));
        }
        let only = drawn(7, &[FaultKind::Pause]);
        assert!(only.iter().all(|fault| fault.kind == FaultKind::Pause));
    }

    #[test]
    fn a_partition_is_of_the_lines_of_its_node() {
        assert_eq!(lines(Way::Both, 1, 2, 3), [(1, 0), (0, 1), (1, 2), (2, 1)]);
        assert_eq!(lines(Way::In, 1, 2, 3), [(0, 1), (2, 1)]);
        assert_eq!(lines(Way::Out, 1, 2, 3), [(1, 0), (1, 2)]);
        assert_eq!(lines(Way::One, 1, 2, 3), [(1, 2)]);
    }
}
