//! A disk that takes its time, and that a crash cuts off in the middle.

use std::future::pending;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use openraft::AsyncRuntime as _;
use openraft_rt_sim::SimRuntime;
use rune_raft::Disk;

use super::dice::Dice;
use super::platter::Platter;

#[derive(Clone)]
pub(crate) struct SimDisk {
    dice: Dice,
    pub(crate) platter: Platter,
    dead: Arc<AtomicBool>,
    /// The longest that a piece of work takes, in microseconds.
    slow: Arc<AtomicU64>,
}

impl Default for SimDisk {
    /// One that takes no time.
    fn default() -> Self {
        let dice = Dice::new(0);
        Self::new(dice.clone(), Platter::new(dice), 0)
    }
}

impl SimDisk {
    pub(crate) fn new(dice: Dice, platter: Platter, micros: u64) -> Self {
        Self {
            dice,
            platter,
            dead: Arc::default(),
            slow: Arc::new(AtomicU64::new(micros)),
        }
    }

    /// Nothing comes to disk any more, and nothing that did is told to anybody.
    pub(crate) fn kill(&self) {
        self.dead.store(true, Ordering::Relaxed);
    }

    pub(crate) fn set_micros(&self, micros: u64) {
        self.slow.store(micros, Ordering::Relaxed);
    }

    async fn wait(&self) {
        let slow = self.slow.load(Ordering::Relaxed);
        if slow > 0 {
            SimRuntime::sleep(self.dice.micros(0, slow)).await;
        }
        if self.dead.load(Ordering::Relaxed) || self.platter.is_dead() {
            pending::<()>().await;
        }
    }
}

impl Disk for SimDisk {
    type Runtime = SimRuntime;

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<T> {
        self.wait().await;
        let done = self.platter.work(work);
        self.wait().await;
        Ok(done)
    }
}
