//! Who has connected and has not shown yet who it is: anybody.
//!
//! What anybody takes is apart from what nodes take, so that it takes nothing from them.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Handshakes at a time, and of one address: more than the nodes of a cluster on one machine have.
const MAX_HANDSHAKES: usize = 1024;
const MAX_OF_ADDRESS: usize = 128;
/// Refusals are told at most this often.
const TELL_PAUSE: Duration = Duration::from_secs(1);

/// The handshakes that are under way. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Handshakes(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    all: usize,
    of_address: HashMap<IpAddr, usize>,
    /// When a refusal was told last, and how many there were since.
    told: Option<Instant>,
    untold: u64,
}

/// A handshake that is under way until this is dropped.
pub(crate) struct Handshake {
    of: Handshakes,
    from: IpAddr,
}

impl Handshakes {
    /// Begins one with an address; nothing where there are too many.
    pub(crate) fn begin(&self, from: IpAddr) -> Option<Handshake> {
        let mut state = self.state();
        let of_address = state.of_address.get(&from).copied().unwrap_or_default();
        if state.all >= MAX_HANDSHAKES || of_address >= MAX_OF_ADDRESS {
            return None;
        }
        state.all += 1;
        state.of_address.insert(from, of_address + 1);
        let of = self.clone();
        Some(Handshake { of, from })
    }

    /// Writes to the log why a connection was refused, unless that was done a moment ago.
    pub(crate) fn refuse(&self, from: IpAddr, why: &dyn std::fmt::Display) {
        match self.untold() {
            Some(untold) => tracing::warn!(%from, %why, untold, "a connection was refused"),
            None => tracing::debug!(%from, %why, "a connection was refused"),
        }
    }

    /// How many refusals were not told, where this one is to be.
    fn untold(&self) -> Option<u64> {
        let mut state = self.state();
        if state.told.is_some_and(|at| at.elapsed() < TELL_PAUSE) {
            state.untold += 1;
            return None;
        }
        state.told = Some(Instant::now());
        Some(std::mem::take(&mut state.untold))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        let mut state = self.of.state();
        state.all -= 1;
        let left = state.of_address.remove(&self.from).unwrap_or_default();
        if left > 1 {
            state.of_address.insert(self.from, left - 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn one_address_takes_no_place_of_the_others() {
        let handshakes = Handshakes::default();
        let greedy = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
        let mut held: Vec<_> = std::iter::from_fn(|| handshakes.begin(greedy)).collect();
        assert_eq!(held.len(), MAX_OF_ADDRESS);
        assert!(handshakes.begin(IpAddr::V4(Ipv4Addr::LOCALHOST)).is_some());
        held.pop();
        assert!(handshakes.begin(greedy).is_some());
        drop(held);
        assert!(handshakes.state().of_address.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn refusals_are_told_once_in_a_while() {
        let handshakes = Handshakes::default();
        assert_eq!(handshakes.untold(), Some(0));
        assert_eq!((handshakes.untold(), handshakes.untold()), (None, None));
        tokio::time::advance(TELL_PAUSE).await;
        assert_eq!(handshakes.untold(), Some(2));
    }
}
