//! An agent that is a component of the world `rune:agent`.

mod guest;
mod host;
pub(crate) mod world;

use std::sync::Arc;
use std::time::Duration;

use rune_tools::said;
use tokio::sync::{Semaphore, SemaphorePermit};
use wasmtime::component::{ComponentExportIndex, InstancePre};
use wasmtime::{PoolConcurrencyLimitError, Store, Trap};
use wasmtime_wasi::I32Exit;

pub(crate) use guest::AgentGuest;
pub use guest::Fixed;
pub use host::{AgentHost, RunEnded};
pub(crate) use host::{INTERFACES, add_to_linker};

use crate::cpu_time::within;
use crate::guest::Ends;
use crate::loaded::Loaded;
use crate::output::TooMuchOutput;
use crate::runtime::Host;
use world::{AgentAnswer, AgentFailure, AgentRequest};

/// Epochs that pass before a guest gives its thread back.
const YIELD_EPOCHS: u64 = 1;
/// Bytes that a guest may write to its standard output.
const OUTPUT_LIMIT: usize = 1024 * 1024;
/// Bytes that a guest may hand over in one call of its host, as they are in the host's memory.
const CALL_BYTES: usize = 24 * 1024 * 1024;
/// How the engine's error about more of them begins; it has no type that others can see.
const TOO_MUCH_COPIED: &str = "too much data is being copied";

/// An agent that is a component: compiled and linked.
pub struct WasmAgent {
    pub(crate) host: Arc<Host>,
    pub(crate) pre: InstancePre<AgentGuest>,
    pub(crate) entry: ComponentExportIndex,
    /// Bytes of memory that a run may have.
    pub(crate) memory: u64,
    /// CPU time that a run may take.
    pub(crate) cpu: Option<Duration>,
    /// Keeps the component for others that use it.
    pub(crate) _loaded: Arc<Loaded>,
}

/// A place among the components that run at the same time.
pub struct AgentPlace<'a>(#[expect(dead_code, reason = "held")] SemaphorePermit<'a>);

/// What came of a run.
#[derive(Debug)]
pub struct AgentRun {
    /// The answer; the error is the component's own word.
    pub answer: Result<AgentAnswer, AgentFailure>,
    /// What it wrote to standard error: the end of it.
    pub diagnostics: String,
}

/// Why a component did not come to an answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AgentRunError {
    /// Its host ended it.
    #[error(transparent)]
    Ended(#[from] RunEnded),
    /// It asked for more memory than it may have, and failed.
    #[error(
        "the component ran out of memory: it asked for {wanted} bytes and may have {limit}{said}"
    )]
    Memory {
        /// What it would have had.
        wanted: u64,
        /// What it may have.
        limit: u64,
        /// What it wrote to standard error.
        said: String,
    },
    /// It worked too long.
    #[error(
        "the component used more than {limit} ms of CPU time (`runtime.component_cpu_ms`) and was stopped{said}"
    )]
    Cpu {
        /// Milliseconds that it may work.
        limit: u128,
        /// What it wrote to standard error.
        said: String,
    },
    /// It wrote too much.
    #[error("the component wrote more than {OUTPUT_LIMIT} bytes to its standard output")]
    Output,
    /// It handed over too much at once.
    #[error("the component hands over more than {CALL_BYTES} bytes in one call")]
    Call,
    /// There is no place for it.
    #[error("too many components run at the moment ({0})")]
    Busy(String),
    /// It trapped, or left.
    #[error("{reason}{said}")]
    Failed {
        /// What happened.
        reason: String,
        /// What it wrote to standard error.
        said: String,
    },
}

impl WasmAgent {
    /// A place for a run of a request that stands on `level` below an outermost one, where there is one now.
    #[must_use]
    pub fn free_place(&self, level: u32) -> Option<AgentPlace<'_>> {
        self.places(level).try_acquire().ok().map(AgentPlace)
    }

    /// A place for such a run, once there is one. Nobody on this level or above it has to end first.
    ///
    /// # Errors
    /// [`AgentRunError::Busy`] where there never will be one.
    pub async fn place(&self, level: u32) -> Result<AgentPlace<'_>, AgentRunError> {
        let place = self.places(level).acquire().await;
        place
            .map(AgentPlace)
            .map_err(|error| AgentRunError::Busy(error.to_string()))
    }

    fn places(&self, level: u32) -> &Semaphore {
        let [.., last] = &self.host.agent_places;
        let level = usize::try_from(level).unwrap_or(usize::MAX);
        self.host.agent_places.get(level).unwrap_or(last)
    }

    /// Runs the component for one request: a guest of its own, which is gone when this returns or its future is
    /// dropped. Never ends by itself where the component does not; the caller keeps the time.
    ///
    /// # Errors
    /// Why it did not come to an answer.
    pub async fn run(
        &self,
        _place: AgentPlace<'_>,
        request: AgentRequest,
        fixed: Fixed<'_>,
        host: Arc<dyn AgentHost>,
    ) -> Result<AgentRun, AgentRunError> {
        let ends = Ends::new(OUTPUT_LIMIT);
        let guest = AgentGuest::new(host, &fixed, self.memory, &ends);
        let mut store = Store::new(&self.host.engine, guest);
        store.limiter(|guest| &mut guest.limits);
        store.epoch_deadline_async_yield_and_update(YIELD_EPOCHS);
        store.set_epoch_deadline(YIELD_EPOCHS);
        store.set_hostcall_fuel(CALL_BYTES);
        let _running = self.host.ticker.run();
        let ran = async {
            // More than anything burns: what bounds an agent is its time, and that of its processor.
            store.set_fuel(u64::MAX)?;
            let instance = self.pre.instantiate_async(&mut store).await?;
            let run = instance
                .get_typed_func::<(AgentRequest,), (Result<AgentAnswer, AgentFailure>,)>(
                    &mut store,
                    &self.entry,
                )?;
            let (answer,) = run.call_async(&mut store, (request,)).await?;
            Ok(answer)
        };
        let ran: Option<wasmtime::Result<_>> = within(self.cpu, ran).await;
        let Some(ran) = ran else {
            return Err(AgentRunError::Cpu {
                limit: self.cpu.unwrap_or_default().as_millis(),
                said: said(&ends.stderr.lock().diagnostics()),
            });
        };
        match ran {
            Ok(answer) => Ok(AgentRun {
                answer,
                diagnostics: ends.stderr.lock().diagnostics(),
            }),
            Err(error) => Err(self.stopped(&error, store.data(), &ends)),
        }
    }

    fn stopped(&self, error: &wasmtime::Error, guest: &AgentGuest, ends: &Ends) -> AgentRunError {
        if let Some(ended) = error.downcast_ref::<RunEnded>() {
            return (*ended).into();
        }
        if error.downcast_ref::<TooMuchOutput>().is_some() {
            return AgentRunError::Output;
        }
        if error.root_cause().to_string().starts_with(TOO_MUCH_COPIED) {
            return AgentRunError::Call;
        }
        if let Some(error) = error.downcast_ref::<PoolConcurrencyLimitError>() {
            return AgentRunError::Busy(error.to_string());
        }
        let said = said(&ends.stderr.lock().diagnostics());
        if let Some(wanted) = guest.limits.refused {
            let limit = self.memory;
            return AgentRunError::Memory {
                wanted,
                limit,
                said,
            };
        }
        let reason = if let Some(trap) = error.downcast_ref::<Trap>() {
            format!("the component trapped: {trap}")
        } else if let Some(I32Exit(code)) = error.downcast_ref() {
            format!("the component left with exit code {code} instead of an answer")
        } else {
            format!("the component failed: {}", error.root_cause())
        };
        AgentRunError::Failed { reason, said }
    }
}
