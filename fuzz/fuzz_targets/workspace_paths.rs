//! File tools called with paths from outside, in a workspace that is full of symbolic links: nothing outside of it is
//! read, listed, written, made or removed.
#![no_main]

use std::cell::RefCell;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use rune_store_runtime::{Clock, MemoryScope, RequestId, SessionId, Store, Timestamp};
use rune_testkit::store::FakeStore;
use rune_tools::{
    Builtins, BuiltinsConfig, Diagnostics, Outputs, Secrets, ShownImages, ToolContext,
    open_directory,
};
use serde_json::json;
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};
use tokio_util::sync::CancellationToken;

/// What stands in every file outside.
const CANARY: &str = "canary-outside-the-workspace";

struct FixedClock;

impl Clock for FixedClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(0)
    }
}

struct Rig {
    outer: TempDir,
    context: ToolContext,
    builtins: Builtins,
    runtime: Runtime,
}

impl Rig {
    fn new() -> Self {
        let outer = TempDir::new().expect("a directory");
        let workspace = outer.path().join("workspace");
        let context = ToolContext {
            request_id: RequestId::generate(),
            session_id: SessionId::generate(),
            scope: MemoryScope {
                namespace: "dev".to_owned(),
                agent: "fuzzer".to_owned(),
            },
            idempotency_key: "key".to_owned(),
            workspace,
            store: Store::new(Arc::new(FakeStore::new()), Arc::new(FixedClock)),
            cancel: CancellationToken::new(),
            timeout: Duration::from_secs(5),
            output_limit: 64 * 1024,
            secrets: Secrets::default(),
            egress: None,
            shown_limit: 64 * 1024,
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
            builtins: Builtins::new(BuiltinsConfig::default()),
            runtime: Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime"),
        }
    }

    /// Makes the workspace anew.
    fn reset(&self) {
        let (outer, inner) = (self.outer.path(), &self.context.workspace);
        let _ = fs::remove_dir_all(inner);
        fs::create_dir_all(inner.join("a/b")).expect("a directory");
        fs::create_dir_all(outer.join("out/deep")).expect("a directory");
        fs::write(outer.join("out/secret"), CANARY).expect("a file");
        fs::write(outer.join("secret"), CANARY).expect("a file");
        fs::write(inner.join("a/b/file"), "inside").expect("a file");
        let links: [(&Path, &str); 9] = [
            ("..".as_ref(), "up"),
            (&outer.join("out"), "abs"),
            (&outer.join("secret"), "file"),
            ("../out/new".as_ref(), "dangling"),
            ("loop".as_ref(), "loop"),
            (".".as_ref(), "self"),
            ("../../up".as_ref(), "a/b/chain"),
            ("/proc/self/cwd".as_ref(), "magic"),
            ("a/b".as_ref(), "inner"),
        ];
        for (target, name) in links {
            symlink(target, inner.join(name)).expect("a link");
        }
    }

    fn call(&self, tool: &str, input: serde_json::Value) {
        let tool = self.builtins.get(tool).expect("a built-in tool");
        // An error may show what the call itself says.
        let is_told = input.to_string().contains(CANARY);
        let answer = self.runtime.block_on(tool.call(&self.context, input));
        let said = format!("{answer:?}");
        assert!(is_told || !said.contains(CANARY), "{said}");
    }

    /// What is outside is as it was.
    fn check(&self) {
        let names = |path: &Path| {
            let entries = fs::read_dir(path).expect("a directory");
            let names = entries.map(|entry| entry.expect("an entry").file_name());
            let mut names: Vec<_> = names.collect();
            names.sort();
            names
        };
        let outer = self.outer.path();
        assert_eq!(names(outer), ["out", "secret", "workspace"]);
        assert_eq!(names(&outer.join("out")), ["deep", "secret"]);
        assert!(names(&outer.join("out/deep")).is_empty());
        for file in ["secret", "out/secret"] {
            let text = fs::read_to_string(outer.join(file)).expect("a file");
            assert_eq!(text, CANARY);
        }
    }
}

/// Names that lead somewhere.
const NAMES: [&str; 20] = [
    "..",
    ".",
    "",
    "a",
    "b",
    "up",
    "abs",
    "file",
    "dangling",
    "loop",
    "self",
    "chain",
    "magic",
    "inner",
    "secret",
    "out",
    "deep",
    "workspace",
    "new",
    "new.d",
];

/// A path of known names, with any text behind them.
fn path(names: &[u8], rest: &str) -> String {
    let names = names.iter().take(12);
    let mut parts: Vec<&str> = names
        .map(|n| NAMES[usize::from(*n) % NAMES.len()])
        .collect();
    if parts.is_empty() || !rest.is_empty() {
        parts.push(rest);
    }
    parts.join("/")
}

thread_local! {
    static RIG: RefCell<Option<Rig>> = const { RefCell::new(None) };
}

fuzz_target!(|calls: Vec<(u8, &[u8], &str)>| {
    RIG.with_borrow_mut(|rig| {
        let rig = rig.get_or_insert_with(Rig::new);
        rig.reset();
        for (kind, names, rest) in calls.into_iter().take(8) {
            let path = path(names, rest);
            match kind % 7 {
                0 => rig.call("file-read", json!({ "path": path })),
                1 => rig.call("file-write", json!({"path": path, "content": "x"})),
                2 => rig.call("file-write", json!({"path": path, "content": "x", "append": true})),
                3 => rig.call("file-list", json!({"path": path, "recursive": true})),
                4 => {
                    let patch = format!("--- /dev/null\n+++ b/{path}\n@@ -0,0 +1 @@\n+new\n");
                    rig.call("apply-patch", json!({ "patch": patch }));
                }
                5 => {
                    let patch = format!("--- a/{path}\n+++ /dev/null\n@@ -1 +0,0 @@\n-{CANARY}\n\\ No newline at end of file\n");
                    rig.call("apply-patch", json!({ "patch": patch }));
                }
                _ => {
                    let root = fs::canonicalize(&rig.context.workspace).expect("a workspace");
                    if let Ok(opened) = open_directory(&rig.context.workspace, &path, true) {
                        use std::os::fd::AsRawFd;
                        let link = format!("/proc/self/fd/{}", opened.as_raw_fd());
                        let real = fs::read_link(link).expect("a path");
                        assert!(real.starts_with(&root), "{} is outside", real.display());
                    }
                }
            }
        }
        rig.check();
    });
});
