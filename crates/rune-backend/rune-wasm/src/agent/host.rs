//! What a component imports, given by whoever runs it.

use std::sync::Arc;

use async_trait::async_trait;
use wasmtime::StoreContextMut;
use wasmtime::component::{Linker, LinkerInstance};

use super::guest::AgentGuest;
use super::world::{
    AgentFailure, Ask, LogLevel, Reply, ToolCall, ToolDefinition, ToolResult, Utterance,
};

/// The interfaces of the world `rune:agent`, without their version.
pub(crate) const INTERFACES: [&str; 7] = [
    "types", "model", "tools", "memory", "session", "output", "log",
];
/// The version that is offered.
const VERSION: &str = "0.1.0";

/// The run is over: whoever runs the component knows why, and the component is not told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the run was ended")]
pub struct RunEnded;

/// What a component of the world `rune:agent` can have done. One call at a time; the component waits for the answer.
///
/// Every method may answer [`RunEnded`], which ends the component.
#[async_trait]
pub trait AgentHost: Send + Sync {
    /// Asks a model.
    async fn ask(&self, ask: Ask) -> Result<Result<Reply, AgentFailure>, RunEnded>;
    /// The agent's tools.
    async fn tools(&self) -> Result<Vec<ToolDefinition>, RunEnded>;
    /// Calls tools at the same time; as many results, in the same order.
    async fn call(&self, calls: Vec<ToolCall>) -> Result<Vec<ToolResult>, RunEnded>;
    /// A remembered value, as JSON.
    async fn memory(&self, key: String) -> Result<Result<Option<String>, AgentFailure>, RunEnded>;
    /// Remembers a value, which is JSON.
    async fn remember(
        &self,
        key: String,
        value: String,
    ) -> Result<Result<(), AgentFailure>, RunEnded>;
    /// Remembered keys with a prefix.
    async fn memories(&self, prefix: String)
    -> Result<Result<Vec<String>, AgentFailure>, RunEnded>;
    /// The conversation so far.
    async fn history(&self) -> Result<Vec<Utterance>, RunEnded>;
    /// Shows text to whoever follows the request.
    async fn emit(&self, text: String) -> Result<(), RunEnded>;
    /// A line of the log.
    async fn log(&self, level: LogLevel, message: String) -> Result<(), RunEnded>;
}

/// Defines the imports of the world, and with them the types that they share.
pub(crate) fn add_to_linker(linker: &mut Linker<AgentGuest>) -> wasmtime::Result<()> {
    interface(linker, "types")?;
    interface(linker, "model")?.func_wrap_async("ask", |guest, (ask,): (Ask,)| {
        let host = host(&guest);
        Box::new(async move { Ok((host.ask(ask).await?,)) })
    })?;
    let mut tools = interface(linker, "tools")?;
    tools.func_wrap_async("list", |guest, (): ()| {
        let host = host(&guest);
        Box::new(async move { Ok((host.tools().await?,)) })
    })?;
    tools.func_wrap_async("call", |guest, (name, input): (String, String)| {
        let host = host(&guest);
        let id = String::new();
        let call = ToolCall { id, name, input };
        Box::new(async move {
            let result = host.call(vec![call]).await?.pop();
            Ok((result.ok_or(RunEnded)?,))
        })
    })?;
    tools.func_wrap_async("call-all", |guest, (calls,): (Vec<ToolCall>,)| {
        let host = host(&guest);
        Box::new(async move { Ok((host.call(calls).await?,)) })
    })?;
    let mut memory = interface(linker, "memory")?;
    memory.func_wrap_async("get", |guest, (key,): (String,)| {
        let host = host(&guest);
        Box::new(async move { Ok((host.memory(key).await?,)) })
    })?;
    memory.func_wrap_async("put", |guest, (key, value): (String, String)| {
        let host = host(&guest);
        Box::new(async move { Ok((host.remember(key, value).await?,)) })
    })?;
    memory.func_wrap_async("list", |guest, (prefix,): (String,)| {
        let host = host(&guest);
        Box::new(async move { Ok((host.memories(prefix).await?,)) })
    })?;
    interface(linker, "session")?.func_wrap_async("history", |guest, (): ()| {
        let host = host(&guest);
        Box::new(async move { Ok((host.history().await?,)) })
    })?;
    interface(linker, "output")?.func_wrap_async("emit", |guest, (text,): (String,)| {
        let host = host(&guest);
        Box::new(async move { Ok(host.emit(text).await?) })
    })?;
    interface(linker, "log")?.func_wrap_async(
        "log",
        |guest, (level, message): (LogLevel, String)| {
            let host = host(&guest);
            Box::new(async move { Ok(host.log(level, message).await?) })
        },
    )
}

fn interface<'a>(
    linker: &'a mut Linker<AgentGuest>,
    name: &str,
) -> wasmtime::Result<LinkerInstance<'a, AgentGuest>> {
    linker.instance(&format!("rune:agent/{name}@{VERSION}"))
}

fn host(guest: &StoreContextMut<'_, AgentGuest>) -> Arc<dyn AgentHost> {
    Arc::clone(guest.data().host())
}
