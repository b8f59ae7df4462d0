//! The world `rune:agent`: what `wit/agent.wit` says is what components are given.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::sandbox::{Sandbox, guest};
use async_trait::async_trait;
use rune_wasm::{
    AGENT_LEVELS, AgentAnswer, AgentFailure, AgentGrants, AgentHost, AgentRequest, AgentRun,
    AgentRunError, Ask, Fixed, LogLevel, Reply, RunEnded, ToolCall, ToolDefinition, ToolResult,
    Utterance, WasmConfig, WasmError, WasmRuntime,
};
use wit_component::{ComponentEncoder, StringEncoding, dummy_module, embed_component_metadata};
use wit_parser::{LiftLowerAbi, ManglingAndAbi, Resolve};

/// A component that imports and exports all of the world, as a language's tools make it of the WIT file, and traps when
/// it is run.
fn dummy(dir: &Path) -> PathBuf {
    let wit = Path::new(env!("CARGO_MANIFEST_DIR")).join("wit/agent.wit");
    let mut resolve = Resolve::default();
    let package = resolve.push_file(wit).unwrap();
    let world = resolve.select_world(&[package], Some("agent")).unwrap();
    let mangling = ManglingAndAbi::Legacy(LiftLowerAbi::Sync);
    let mut module = dummy_module(&resolve, world, mangling);
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).unwrap();
    let encoder = ComponentEncoder::default().module(&module).unwrap();
    let path = dir.join("agent.wasm");
    std::fs::write(&path, encoder.validate(true).encode().unwrap()).unwrap();
    path
}

/// Ends whatever asks it for something.
struct Nobody;

#[async_trait]
impl AgentHost for Nobody {
    async fn ask(&self, _: Ask) -> Result<Result<Reply, AgentFailure>, RunEnded> {
        Err(RunEnded)
    }
    async fn tools(&self) -> Result<Vec<ToolDefinition>, RunEnded> {
        Err(RunEnded)
    }
    async fn call(&self, _: Vec<ToolCall>) -> Result<Vec<ToolResult>, RunEnded> {
        Err(RunEnded)
    }
    async fn memory(&self, _: String) -> Result<Result<Option<String>, AgentFailure>, RunEnded> {
        Err(RunEnded)
    }
    async fn remember(&self, _: String, _: String) -> Result<Result<(), AgentFailure>, RunEnded> {
        Err(RunEnded)
    }
    async fn memories(&self, _: String) -> Result<Result<Vec<String>, AgentFailure>, RunEnded> {
        Err(RunEnded)
    }
    async fn history(&self) -> Result<Vec<Utterance>, RunEnded> {
        Err(RunEnded)
    }
    async fn emit(&self, _: String) -> Result<(), RunEnded> {
        Err(RunEnded)
    }
    async fn log(&self, _: LogLevel, _: String) -> Result<(), RunEnded> {
        Err(RunEnded)
    }
}

fn grants(remembers: bool) -> AgentGrants {
    AgentGrants {
        remembers,
        memory_mib: 256,
        cpu: None,
    }
}

fn request() -> AgentRequest {
    AgentRequest {
        id: "r".to_owned(),
        session_id: "s".to_owned(),
        input: "\"hello\"".to_owned(),
        text: "hello".to_owned(),
    }
}

#[tokio::test]
async fn a_component_made_of_the_wit_file_fits() {
    let dir = tempfile::tempdir().unwrap();
    let path = dummy(dir.path());
    let runtime = WasmRuntime::new(WasmConfig::default());
    let refused = runtime.load_agent(&path, grants(false)).err().unwrap();
    assert!(matches!(refused, WasmError::NoMemory { .. }), "{refused}");
    let agent = runtime.load_agent(&path, grants(true)).unwrap();
    let fixed = Fixed {
        seed: "r",
        now: Duration::from_secs(1),
    };
    let place = agent.free_place(0).unwrap();
    let ran = agent.run(place, request(), fixed, Arc::new(Nobody)).await;
    let Err(AgentRunError::Failed { reason, .. }) = ran else {
        panic!("{ran:?}")
    };
    assert!(reason.contains("unreachable"), "{reason}");
    let audit = runtime.audit(&path, None).await.unwrap();
    assert!(audit.error.is_none(), "{:?}", audit.error);
    let named = |name: &str| audit.imports.iter().any(|import| import.name == name);
    for interface in ["model", "tools", "memory", "session", "output", "log"] {
        assert!(
            named(&format!("rune:agent/{interface}@0.1.0")),
            "{interface}"
        );
    }
}

#[tokio::test]
async fn a_component_whose_run_is_another_function_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.wat");
    let text = r#"(component
      (core module $m (func (export "run") (result i32) (i32.const 1)))
      (core instance $i (instantiate $m))
      (func $run (result u32) (canon lift (core func $i "run")))
      (instance $handler (export "run" (func $run)))
      (export "rune:agent/handler@0.1.0" (instance $handler)))"#;
    std::fs::write(&path, text).unwrap();
    let runtime = WasmRuntime::new(WasmConfig::default());
    let refused = runtime
        .load_agent(&path, grants(false))
        .err()
        .unwrap()
        .to_string();
    assert!(
        refused.contains("`run` is not that of the world"),
        "{refused}"
    );
}

#[tokio::test]
async fn what_it_writes_to_standard_error_comes_with_its_answer() {
    let runtime = WasmRuntime::new(WasmConfig::default());
    let agent = runtime.load_agent(&guest("warns"), grants(false)).unwrap();
    let fixed = Fixed {
        seed: "r",
        now: Duration::from_secs(1),
    };
    let place = agent.free_place(0).unwrap();
    let ran = agent.run(place, request(), fixed, Arc::new(Nobody)).await;
    let AgentRun {
        answer,
        diagnostics,
    } = ran.unwrap();
    assert_eq!(answer.unwrap(), AgentAnswer::Text("careful".to_owned()));
    assert_eq!(diagnostics, "careful");
}

#[tokio::test]
async fn each_level_of_agents_has_places_of_its_own() {
    let runtime = WasmRuntime::new(WasmConfig::default());
    let agent = runtime.load_agent(&guest("warns"), grants(false)).unwrap();
    let mut held = Vec::new();
    for level in 0..u32::try_from(AGENT_LEVELS).unwrap() {
        let before = held.len();
        while let Some(place) = agent.free_place(level) {
            held.push(place);
        }
        assert!(held.len() > before, "{level}");
    }
    assert!(agent.free_place(u32::MAX).is_none());
    let waits = agent.place(0);
    tokio::pin!(waits);
    tokio::select! {
        biased;
        _ = &mut waits => panic!("there is no place"),
        () = std::future::ready(()) => {}
    }
    held.remove(0);
    assert!(waits.await.is_ok());
}

#[test]
fn an_agent_is_no_tool_and_that_is_said_first() {
    let sandbox = Sandbox::new();
    let dir = tempfile::tempdir().unwrap();
    let refused = sandbox.load(&dummy(dir.path()), "").err().unwrap();
    assert!(matches!(refused, WasmError::NotATool { .. }), "{refused}");
}
