//! A workspace to call tools in.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rune_store_runtime::{Clock, MemoryScope, RequestId, SessionId, Store, Timestamp};
use rune_tools::{
    Builtins, BuiltinsConfig, Diagnostics, Outputs, Secrets, ShownImages, ToolContext, ToolError,
    ToolErrorKind,
};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use rune_testkit::store::FakeStore;

/// 2026-11-22T21:12:27.123Z, a Sunday.
pub(crate) const NOW_MILLIS: i64 = 1_795_381_947_123;

struct FixedClock;

impl Clock for FixedClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(NOW_MILLIS)
    }
}

pub(crate) struct Sandbox {
    // Holds the workspace and, beside it, what must stay out of reach.
    outer: tempfile::TempDir,
    pub(crate) context: ToolContext,
    builtins: Builtins,
}

impl Sandbox {
    pub(crate) fn new() -> Self {
        Self::with(BuiltinsConfig::default())
    }

    pub(crate) fn with(config: BuiltinsConfig) -> Self {
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
            store: Store::new(Arc::new(FakeStore::new()), Arc::new(FixedClock)),
            cancel: CancellationToken::new(),
            timeout: Duration::from_secs(20),
            output_limit: 256 * 1024,
            secrets: Secrets::default(),
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
            context,
            builtins: Builtins::new(config),
        }
    }

    pub(crate) fn outer(&self) -> &Path {
        self.outer.path()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.context.workspace.join(name)
    }

    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
    }

    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    pub(crate) async fn call(&self, tool: &str, input: Value) -> Result<Value, ToolError> {
        let tool = self.builtins.get(tool).unwrap();
        tool.call(&self.context, input).await
    }

    /// Calls a tool that must fail in this way; answers the message.
    pub(crate) async fn refused(&self, tool: &str, input: Value, kind: ToolErrorKind) -> String {
        let error = self
            .call(tool, input.clone())
            .await
            .expect_err(&input.to_string());
        assert_eq!(error.kind, kind, "{input}: {error}");
        error.message
    }

    /// Everything in the workspace, by path.
    pub(crate) fn tree(&self) -> Vec<(String, Vec<u8>)> {
        let mut found = Vec::new();
        let mut waiting = vec![self.context.workspace.clone()];
        while let Some(directory) = waiting.pop() {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    waiting.push(path);
                } else {
                    let name = path.strip_prefix(&self.context.workspace).unwrap();
                    found.push((name.display().to_string(), fs::read(&path).unwrap()));
                }
            }
        }
        found.sort();
        found
    }
}

/// Whether a process runs; a zombie does not.
pub(crate) fn is_running(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        let state = stat.rsplit(')').next().unwrap().trim();
        !state.starts_with(['Z', 'X'])
    })
}

/// Waits until a file has a line in it, and answers it as a number.
pub(crate) async fn number_in(path: &Path) -> i32 {
    until(|| {
        let text = fs::read_to_string(path).ok()?;
        text.ends_with('\n').then(|| text.trim().parse().unwrap())
    })
    .await
}

/// Polls until the check answers something, for at the most ten seconds.
pub(crate) async fn until<T>(mut check: impl FnMut() -> Option<T>) -> T {
    let mut ticks = tokio::time::interval(Duration::from_millis(5));
    for _ in 0..2000 {
        ticks.tick().await;
        if let Some(value) = check() {
            return value;
        }
    }
    panic!("the condition did not come true");
}
