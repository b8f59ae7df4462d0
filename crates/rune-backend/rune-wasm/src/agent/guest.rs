//! What belongs to one run of an agent's component.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sha2::{Digest, Sha256};
use wasmtime_wasi::{
    Deterministic, HostMonotonicClock, HostWallClock, ResourceTable, WasiCtx, WasiCtxBuilder,
    WasiCtxView, WasiView,
};

use super::host::AgentHost;
use crate::guest::{Ends, Limits};

/// Bytes of randomness before it repeats: a guest that needs more of it needs another source.
const RANDOM_BYTES: u64 = 64 * 1024;
/// What the monotonic clock advances by whenever it is read.
const CLOCK_STEP: u64 = 1_000;

/// The state of one run.
pub(crate) struct AgentGuest {
    wasi: WasiCtx,
    table: ResourceTable,
    host: Arc<dyn AgentHost>,
    pub(crate) limits: Limits,
}

impl AgentGuest {
    /// A guest that has not begun. It has no files, no variables, no sockets; its clocks and its random numbers follow
    /// from the request.
    pub(super) fn new(
        host: Arc<dyn AgentHost>,
        fixed: &Fixed<'_>,
        memory: u64,
        ends: &Ends,
    ) -> Self {
        let mut wasi = WasiCtxBuilder::new();
        wasi.stdout(ends.stdout.clone())
            .stderr(ends.stderr.clone())
            .allow_tcp(false)
            .allow_udp(false)
            .allow_ip_name_lookup(false)
            .wall_clock(Wall(fixed.now))
            .monotonic_clock(Monotonic::default())
            .secure_random(Deterministic::new(fixed.random(0)))
            .insecure_random(Deterministic::new(fixed.random(1)))
            .insecure_random_seed(fixed.number());
        Self {
            wasi: wasi.build(),
            table: ResourceTable::new(),
            host,
            limits: Limits::new(memory),
        }
    }

    pub(super) const fn host(&self) -> &Arc<dyn AgentHost> {
        &self.host
    }
}

impl WasiView for AgentGuest {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView {
            ctx: &mut self.wasi,
            table: &mut self.table,
        }
    }
}

/// What is the same whenever a request is run again.
#[derive(Debug, Clone, Copy)]
pub struct Fixed<'a> {
    /// What random numbers follow from.
    pub seed: &'a str,
    /// The time, since 1970.
    pub now: Duration,
}

impl Fixed<'_> {
    fn hash(&self, kind: u64, block: u64) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update(self.seed);
        hash.update(kind.to_le_bytes());
        hash.update(block.to_le_bytes());
        hash.finalize().into()
    }

    fn random(&self, kind: u64) -> Vec<u8> {
        let blocks = 0..RANDOM_BYTES / 32;
        blocks.flat_map(|block| self.hash(kind, block)).collect()
    }

    fn number(&self) -> u128 {
        let hash = self.hash(2, 0);
        hash.iter()
            .take(16)
            .fold(0, |number, byte| (number << 8) | u128::from(*byte))
    }
}

struct Wall(Duration);

impl HostWallClock for Wall {
    fn resolution(&self) -> Duration {
        Duration::from_millis(1)
    }

    fn now(&self) -> Duration {
        self.0
    }
}

#[derive(Default)]
struct Monotonic(AtomicU64);

impl HostMonotonicClock for Monotonic {
    fn resolution(&self) -> u64 {
        CLOCK_STEP
    }

    fn now(&self) -> u64 {
        self.0.fetch_add(CLOCK_STEP, Ordering::Relaxed)
    }
}
