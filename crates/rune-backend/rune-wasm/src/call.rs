//! One run of a guest.

use std::sync::Arc;

use rune_tools::{ToolContext, ToolError, ToolErrorKind, parse_answer, said};
use serde_json::Value;
use wasmtime::component::{ComponentExportIndex, InstancePre as ComponentPre};
use wasmtime::{InstancePre, PoolConcurrencyLimitError, Store, Trap};
use wasmtime_wasi::I32Exit;

use crate::guest::{Ends, Guest, Source};
use crate::imports::Kind;
use crate::loaded::Linked;
use crate::output::TooMuchOutput;
use crate::tool::WasmTool;

/// Epochs that pass before a guest gives its thread back.
const YIELD_EPOCHS: u64 = 1;
/// Fuel of a guest whose description does not say: more than anything burns.
const UNLIMITED_FUEL: u64 = u64::MAX;

/// A call of a tool.
pub(crate) struct Call<'a> {
    pub(crate) tool: &'a WasmTool,
    pub(crate) context: &'a ToolContext,
    pub(crate) ends: &'a Ends,
}

/// How a guest ended that was not stopped.
enum Ended {
    /// It wrote its answer.
    Wrote,
    /// It returned its answer.
    Returned(String),
    /// It returned an error.
    Refused(String),
    /// It ended with this exit code.
    Exit(i32),
}

impl Call<'_> {
    /// Runs the guest to its end.
    pub(crate) async fn run(&self, input: &Value) -> Result<Value, ToolError> {
        let host = &self.tool.host;
        let turn = host.turns.acquire().await;
        let _turn = turn.map_err(|error| failed(ToolErrorKind::Unavailable, error.to_string()))?;
        let mut store = self.store(input).await?;
        let _running = host.ticker.run();
        let ended = match &self.tool.linked {
            Linked::Command(pre) => command(&mut store, pre).await,
            Linked::Component { pre, entry, kind } => match kind {
                Kind::ToolComponent => tool(&mut store, pre, entry, input).await,
                // An agent is never linked as a tool.
                Kind::Command | Kind::CommandComponent | Kind::AgentComponent => {
                    component(&mut store, pre, entry).await
                }
            },
        };
        match ended {
            Ok(ended) => self.answer(ended),
            Err(error) => Err(self.stopped(&error, store.data())),
        }
    }

    async fn store(&self, input: &Value) -> Result<Store<Guest>, ToolError> {
        let (tool, context) = (self.tool, self.context);
        let directories = if tool.grants.has_directories() {
            let (grants, workspace) = (Arc::clone(&tool.grants), context.workspace.clone());
            let opening = tokio::task::spawn_blocking(move || grants.open(&workspace)).await;
            opening.map_err(|error| failed(ToolErrorKind::Failed, error.to_string()))??
        } else {
            Vec::new()
        };
        let reads = !matches!(
            tool.linked,
            Linked::Component {
                kind: Kind::ToolComponent,
                ..
            }
        );
        let guest = Guest::new(Source {
            grants: &tool.grants,
            secrets: &context.secrets,
            directories: &directories,
            variables: context.variables().into(),
            gate: context.egress.clone(),
            client: &tool.host.client,
            memory: tool.memory,
            stdin: reads.then_some(input),
            ends: self.ends,
        })?;
        let mut store = Store::new(&tool.host.engine, guest);
        store.limiter(|guest| &mut guest.limits);
        store.epoch_deadline_async_yield_and_update(YIELD_EPOCHS);
        store.set_epoch_deadline(YIELD_EPOCHS);
        let fuel = store.set_fuel(tool.fuel.unwrap_or(UNLIMITED_FUEL));
        fuel.map_err(|error| failed(ToolErrorKind::Failed, error.to_string()))?;
        Ok(store)
    }

    fn answer(&self, ended: Ended) -> Result<Value, ToolError> {
        let redact = |text: String| self.context.secrets.redact(text);
        let diagnostics = self.diagnostics();
        if !matches!(ended, Ended::Refused(_) | Ended::Exit(_)) {
            let listener = &self.context.diagnostics;
            listener.take(&self.tool.name, &diagnostics);
        }
        match ended {
            Ended::Wrote => parse_answer(self.ends.stdout.lock().head(), &diagnostics, redact),
            Ended::Returned(text) if text.len() > self.context.output_limit => {
                Err(self.too_much_output())
            }
            Ended::Returned(text) => serde_json::from_str(&text).map_err(|error| {
                let message = format!("the tool did not return one JSON value ({error})");
                failed(ToolErrorKind::Failed, message)
            }),
            Ended::Refused(text) => {
                let shown: String = redact(text).chars().take(SHOWN_CHARS).collect();
                Err(failed(ToolErrorKind::Failed, shown))
            }
            Ended::Exit(code) => {
                let message = format!("the tool ended with exit code {code}{}", said(&diagnostics));
                Err(failed(ToolErrorKind::Failed, message))
            }
        }
    }

    /// Why a guest was stopped, as a sentence.
    fn stopped(&self, error: &wasmtime::Error, guest: &Guest) -> ToolError {
        if error.downcast_ref::<TooMuchOutput>().is_some() {
            return self.too_much_output();
        }
        if let Some(error) = error.downcast_ref::<PoolConcurrencyLimitError>() {
            let message = format!("too many WebAssembly tools run at the moment ({error})");
            return failed(ToolErrorKind::Unavailable, message);
        }
        let said = self.said();
        if let (Some(Trap::OutOfFuel), Some(fuel)) = (error.downcast_ref(), self.tool.fuel) {
            let message = format!("the tool ran out of fuel: it has {fuel} (`limits.fuel`){said}");
            return failed(ToolErrorKind::LimitExceeded, message);
        }
        if let Some(wanted) = guest.limits.refused {
            let message = format!(
                "the tool ran out of memory: it asked for {wanted} bytes and may have {} (`limits.memory_mb`){said}",
                self.tool.memory
            );
            return failed(ToolErrorKind::LimitExceeded, message);
        }
        let reason = match error.downcast_ref::<Trap>() {
            Some(trap) => format!("the tool trapped: {trap}"),
            None => format!("the tool failed: {}", error.root_cause()),
        };
        failed(ToolErrorKind::Failed, format!("{reason}{said}"))
    }

    /// The error of a guest that took more CPU time than it may have.
    pub(crate) fn too_much_cpu(&self) -> ToolError {
        let limit = self.tool.cpu.unwrap_or_default().as_millis();
        let said = self.said();
        let message = format!(
            "the tool used more than {limit} ms of CPU time (`limits.cpu_ms`) and was stopped{said}"
        );
        failed(ToolErrorKind::LimitExceeded, message)
    }

    /// What the guest said, as the end of an error.
    pub(crate) fn said(&self) -> String {
        said(&self.diagnostics())
    }

    fn diagnostics(&self) -> String {
        let diagnostics = self.ends.stderr.lock().diagnostics();
        self.context.secrets.redact_tail(diagnostics)
    }

    fn too_much_output(&self) -> ToolError {
        let limit = self.context.output_limit;
        let message = format!("the tool wrote more than {limit} bytes and was stopped");
        failed(ToolErrorKind::OutputTooLarge, message)
    }
}

/// Characters of a guest's own error that are shown.
const SHOWN_CHARS: usize = 8 * 1024;

async fn command(store: &mut Store<Guest>, pre: &InstancePre<Guest>) -> wasmtime::Result<Ended> {
    let instance = pre.instantiate_async(&mut *store).await?;
    let start = instance.get_typed_func::<(), ()>(&mut *store, "_start")?;
    exited(
        start
            .call_async(&mut *store, ())
            .await
            .map(|()| Ended::Wrote),
    )
}

async fn component(
    store: &mut Store<Guest>,
    pre: &ComponentPre<Guest>,
    entry: &ComponentExportIndex,
) -> wasmtime::Result<Ended> {
    let instance = pre.instantiate_async(&mut *store).await?;
    let run = instance.get_typed_func::<(), (Result<(), ()>,)>(&mut *store, entry)?;
    let ended = run.call_async(&mut *store, ()).await;
    exited(ended.map(|(result,)| match result {
        Ok(()) => Ended::Wrote,
        Err(()) => Ended::Exit(1),
    }))
}

async fn tool(
    store: &mut Store<Guest>,
    pre: &ComponentPre<Guest>,
    entry: &ComponentExportIndex,
    input: &Value,
) -> wasmtime::Result<Ended> {
    let instance = pre.instantiate_async(&mut *store).await?;
    let run = instance.get_typed_func::<(&str,), (Result<String, String>,)>(&mut *store, entry)?;
    let input = input.to_string();
    let ended = run.call_async(&mut *store, (&input,)).await;
    exited(ended.map(|(result,)| match result {
        Ok(answer) => Ended::Returned(answer),
        Err(error) => Ended::Refused(error),
    }))
}

/// A call of `exit` is an end and no failure.
fn exited(ended: wasmtime::Result<Ended>) -> wasmtime::Result<Ended> {
    match ended {
        Err(error) => match error.downcast_ref::<I32Exit>() {
            Some(I32Exit(0)) => Ok(Ended::Wrote),
            Some(I32Exit(code)) => Ok(Ended::Exit(*code)),
            None => Err(error),
        },
        ended => ended,
    }
}

fn failed(kind: ToolErrorKind, message: impl Into<String>) -> ToolError {
    ToolError::new(kind, message)
}
