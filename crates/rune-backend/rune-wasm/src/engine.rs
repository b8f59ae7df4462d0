//! The compiler and the memory of guests, and what makes a guest give its thread back.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use wasmtime::{
    Config, Engine, EngineWeak, InstanceAllocationStrategy, PoolingAllocationConfig, Result,
};

/// Tools that run at the same time; a call waits for its turn.
pub(crate) const MAX_GUESTS: u32 = 64;
/// Agents that run at the same time, by the level on which they stand below an outermost request. They have places of
/// their own, since they wait for tools; and each level has, since they wait for agents on the levels below: who stands
/// lowest waits for no place that somebody above it has.
pub(crate) const AGENT_PLACES: [u32; AGENT_LEVELS] = [64, 32, 16, 8, 4, 4, 4, 4, 4];
/// Levels of agents.
pub const AGENT_LEVELS: usize = 9;
/// All of them.
const ALL_GUESTS: u32 = MAX_GUESTS + agents();
/// The largest memory of a guest: all that 32 bits address.
pub(crate) const MAX_MEMORY_BYTES: u64 = 1 << 32;
/// How long a guest keeps its thread.
const TICK: Duration = Duration::from_millis(5);
/// Memory of an ended guest that the next one gets without asking the system.
const KEEP_RESIDENT_BYTES: usize = 256 * 1024;
/// Core modules, and tables, that a component may consist of.
const CORE_PER_COMPONENT: u32 = 16;

const fn agents() -> u32 {
    let (mut sum, mut level) = (0, 0);
    while level < AGENT_LEVELS {
        sum += AGENT_PLACES[level];
        level += 1;
    }
    sum
}

/// The engine: with a pool where the machine has the address space for one.
pub(crate) fn engine() -> Result<Engine> {
    let mut pooled = config();
    pooled.allocation_strategy(InstanceAllocationStrategy::Pooling(pool()));
    Engine::new(&pooled).or_else(|error| {
        tracing::warn!(%error, "no pool for WebAssembly memory; calls take longer");
        Engine::new(&config())
    })
}

fn config() -> Config {
    let mut config = Config::new();
    config
        .epoch_interruption(true)
        .consume_fuel(true)
        .wasm_component_model(true);
    config
}

fn pool() -> PoolingAllocationConfig {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_stacks(ALL_GUESTS)
        .total_component_instances(ALL_GUESTS)
        .total_core_instances(ALL_GUESTS * 4)
        .total_memories(ALL_GUESTS * 2)
        .total_tables(ALL_GUESTS * 4)
        .max_core_instances_per_component(CORE_PER_COMPONENT)
        .max_tables_per_component(CORE_PER_COMPONENT)
        .max_memories_per_component(4)
        .max_tables_per_module(4)
        .linear_memory_keep_resident(KEEP_RESIDENT_BYTES)
        .table_keep_resident(KEEP_RESIDENT_BYTES / 16);
    pool
}

/// Counts the engine's epochs while guests run; a guest yields at every one. A thread of its own, since guests may
/// have all of the runtime's.
pub(crate) struct Ticker {
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    guests: Mutex<Guests>,
    changed: Condvar,
}

#[derive(Default)]
struct Guests {
    running: usize,
    is_asleep: bool,
    is_over: bool,
}

impl Ticker {
    /// Starts the thread.
    pub(crate) fn start(engine: &Engine) -> std::io::Result<Self> {
        let state = Arc::new(State::default());
        let ticker = Self {
            state: Arc::clone(&state),
        };
        let engine = engine.weak();
        thread::Builder::new()
            .name("rune-wasm-tick".to_owned())
            .spawn(move || state.tick(&engine))?;
        Ok(ticker)
    }

    /// A guest runs until the answer is dropped.
    pub(crate) fn run(&self) -> Running<'_> {
        let mut guests = self.state.lock();
        guests.running += 1;
        if guests.is_asleep {
            self.state.changed.notify_one();
        }
        Running(&self.state)
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.state.lock().is_over = true;
        self.state.changed.notify_one();
    }
}

impl State {
    fn lock(&self) -> MutexGuard<'_, Guests> {
        // Two flags and a number are whole at any time.
        self.guests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tick(&self, engine: &EngineWeak) {
        let mut guests = self.lock();
        while !guests.is_over {
            if guests.running == 0 {
                guests.is_asleep = true;
                let woken = self.changed.wait(guests);
                guests = woken.unwrap_or_else(PoisonError::into_inner);
                guests.is_asleep = false;
                continue;
            }
            let waited = self.changed.wait_timeout(guests, TICK);
            guests = waited.unwrap_or_else(PoisonError::into_inner).0;
            match engine.upgrade() {
                Some(engine) => engine.increment_epoch(),
                None => return,
            }
        }
    }
}

/// A guest that runs.
pub(crate) struct Running<'a>(&'a State);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.lock().running -= 1;
    }
}
