//! A workspace to call guests in.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rune_spec::ToolDescriptor;
use rune_store_runtime::{MemoryScope, RequestId, SessionId, Store, SystemClock};
use rune_testkit::store::FakeStore;
use rune_tools::{Diagnostics, Outputs, Secrets, ShownImages, ToolContext, ToolError};
use rune_wasm::{WasmConfig, WasmError, WasmRuntime, WasmTool};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

/// The secret of every guest, and what every variable holds.
pub(crate) const SECRET: &str = "hunter2hunter2";

/// The guests, as text.
pub(crate) fn guest(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/guests")
        .join(name)
        .with_extension("wat")
}

/// A description of runtime `wasm`; `more` is the rest of it.
pub(crate) fn described(more: &str) -> ToolDescriptor {
    let text = format!("name: guest\nruntime: wasm\nmodule: guest.wasm\n{more}");
    ToolDescriptor::parse(Path::new("guest.yaml"), &text).unwrap()
}

pub(crate) struct Sandbox {
    // Holds the workspace and, beside it, what must stay out of reach.
    outer: tempfile::TempDir,
    pub(crate) runtime: WasmRuntime,
    pub(crate) context: ToolContext,
}

impl Sandbox {
    pub(crate) fn new() -> Self {
        Self::with(WasmConfig::default())
    }

    pub(crate) fn with(config: WasmConfig) -> Self {
        let outer = tempfile::tempdir().unwrap();
        let workspace = outer.path().join("workspace");
        fs::create_dir(&workspace).unwrap();
        fs::write(outer.path().join("outside.txt"), "outside").unwrap();
        let context = ToolContext {
            request_id: RequestId::generate(),
            session_id: SessionId::generate(),
            scope: MemoryScope {
                namespace: "dev".to_owned(),
                agent: "tester".to_owned(),
            },
            idempotency_key: "key-1".to_owned(),
            workspace,
            store: Store::new(Arc::new(FakeStore::new()), Arc::new(SystemClock)),
            cancel: CancellationToken::new(),
            timeout: Duration::from_secs(60),
            output_limit: 256 * 1024,
            secrets: Secrets::new(vec![("TOKEN".to_owned(), SECRET.to_owned().into())]),
            egress: None,
            shown_limit: 256 * 1024,
            outputs: Outputs::default(),
            images: ShownImages::default(),
            engine: None,
            media: None,
            deferred: Arc::default(),
            diagnostics: Diagnostics::default(),
        };
        Self {
            outer,
            runtime: WasmRuntime::new(config),
            context,
        }
    }

    pub(crate) fn outer(&self) -> &Path {
        self.outer.path()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.context.workspace.join(name)
    }

    pub(crate) fn load(&self, module: &Path, more: &str) -> Result<WasmTool, WasmError> {
        self.runtime
            .load(module, &described(more), &|_| Some(SECRET.to_owned()))
    }

    /// A guest of `tests/guests`.
    pub(crate) fn guest(&self, name: &str, more: &str) -> WasmTool {
        self.load(&guest(name), more).unwrap()
    }

    /// A core module of this text.
    pub(crate) fn module(&self, text: &str, more: &str) -> WasmTool {
        let path = self.outer.path().join("guest.wat");
        fs::write(&path, text).unwrap();
        self.load(&path, more).unwrap()
    }

    pub(crate) async fn call(&self, tool: &WasmTool, input: Value) -> Result<Value, ToolError> {
        tool.run(&self.context, &input).await
    }

    pub(crate) async fn fails(&self, tool: &WasmTool, input: Value) -> ToolError {
        self.call(tool, input).await.unwrap_err()
    }
}
