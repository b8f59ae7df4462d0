//! An agent that is a component of the world `rune:agent`.

mod guest;
mod host;
pub(crate) mod world;

use std::sync::Arc;

use rune_tools::said;
use wasmtime::component::{ComponentExportIndex, InstancePre};
use wasmtime::{PoolConcurrencyLimitError, Store, Trap};
use wasmtime_wasi::I32Exit;

pub(crate) use guest::AgentGuest;
pub use guest::Fixed;
pub use host::{AgentHost, RunEnded};
pub(crate) use host::{INTERFACES, add_to_linker};

use crate::guest::Ends;
use crate::loaded::Loaded;
use crate::output::TooMuchOutput;
use crate::runtime::Host;
use world::{AgentAnswer, AgentFailure, AgentRequest};

/// Epochs that pass before a guest gives its thread back.
const YIELD_EPOCHS: u64 = 1;
/// Bytes that a guest may write to its standard output.
const OUTPUT_LIMIT: usize = 1024 * 1024;

/// An agent that is a component: compiled and linked.
pub struct WasmAgent {
    pub(crate) host: Arc<Host>,
    pub(crate) pre: InstancePre<AgentGuest>,
    pub(crate) entry: ComponentExportIndex,
    /// Bytes of memory that a run may have.
    pub(crate) memory: u64,
    /// Keeps the component for others that use it.
    pub(crate) _loaded: Arc<Loaded>,
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
    /// It wrote too much.
    #[error("the component wrote more than {OUTPUT_LIMIT} bytes to its standard output")]
    Output,
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
    /// Runs the component for one request: a guest of its own, which is gone when this returns or its future is
    /// dropped. Never ends by itself where the component does not; the caller keeps the time.
    ///
    /// # Errors
    /// The inner error is the component's own word.
    pub async fn run(
        &self,
        request: AgentRequest,
        fixed: Fixed<'_>,
        host: Arc<dyn AgentHost>,
    ) -> Result<Result<AgentAnswer, AgentFailure>, AgentRunError> {
        let ends = Ends::new(OUTPUT_LIMIT);
        let turn = self.host.agent_turns.acquire().await;
        let _turn = turn.map_err(|error| AgentRunError::Busy(error.to_string()))?;
        let guest = AgentGuest::new(host, &fixed, self.memory, &ends);
        let mut store = Store::new(&self.host.engine, guest);
        store.limiter(|guest| &mut guest.limits);
        store.epoch_deadline_async_yield_and_update(YIELD_EPOCHS);
        store.set_epoch_deadline(YIELD_EPOCHS);
        let _running = self.host.ticker.run();
        let ran = async {
            // More than anything burns: what bounds an agent is its time.
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
        let ran: wasmtime::Result<_> = ran.await;
        ran.map_err(|error| self.stopped(&error, store.data(), &ends))
    }

    fn stopped(&self, error: &wasmtime::Error, guest: &AgentGuest, ends: &Ends) -> AgentRunError {
        if let Some(ended) = error.downcast_ref::<RunEnded>() {
            return (*ended).into();
        }
        if error.downcast_ref::<TooMuchOutput>().is_some() {
            return AgentRunError::Output;
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
