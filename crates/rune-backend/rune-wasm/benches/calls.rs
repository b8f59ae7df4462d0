//! What a call of a WebAssembly tool costs: `cargo bench -p rune-wasm --bench calls`.
//!
//! Prints medians beside the floor of the same run: an empty guest that is instantiated and called without anything
//! around it. Asserts no time. Run it alone on a quiet machine.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark is a program for the terminal"
)]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rune_spec::ToolDescriptor;
use rune_store_runtime::{MemoryScope, RequestId, SessionId, Store, SystemClock};
use rune_testkit::store::FakeStore;
use rune_tools::{Diagnostics, Outputs, Secrets, ShownImages, ToolContext};
use rune_wasm::{WasmConfig, WasmRuntime, WasmTool};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use wasmtime::{
    Config, Engine, InstanceAllocationStrategy, InstancePre, Linker, Module,
    PoolingAllocationConfig,
};

const ROUNDS: usize = 30;
const CALLS: usize = 200;
const LOADS: usize = 50;

const EMPTY: &str = "(module (memory (export \"memory\") 1) (func (export \"_start\")))";

fn main() {
    // `cargo bench` says so. Whoever builds every target and lists its tests finds none here.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let reactor = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let floor = Floor::new();
    let runtime = with_cache(home.path());
    let context = context(home.path());
    let tools: Vec<(&str, WasmTool)> = ["echo", "command", "shout"]
        .map(|name| (name, load(&runtime, &guest(name))))
        .into();
    let input = json!({"text": "a short text"});
    let mut floors = Vec::new();
    let mut warm = vec![Vec::new(); tools.len()];
    // Alternating, so that whatever disturbs the machine disturbs all of them.
    for _ in 0..ROUNDS {
        floors.push(median((0..CALLS).map(|_| timed(|| floor.call())).collect()));
        for ((_, tool), medians) in tools.iter().zip(&mut warm) {
            medians.push(reactor.block_on(calls(tool, &context, &input)));
        }
    }
    let floor = median(floors);
    println!("{:<28} {:>10.1} µs", "empty guest, bare", micros(floor));
    for ((name, _), medians) in tools.iter().zip(warm) {
        let call = median(medians);
        println!(
            "{:<28} {:>10.1} µs, {:.1} µs over the empty guest",
            format!("{name}, warm call"),
            micros(call),
            micros(call.saturating_sub(floor))
        );
    }
    for (name, _) in &tools {
        cold(home.path(), name);
    }
}

/// From a new runtime, as after a start: from the disk, and compiled.
fn cold(home: &Path, name: &str) {
    let from_disk = median(
        (0..LOADS)
            .map(|_| {
                let runtime = with_cache(home);
                // What every start pays once, whatever is loaded.
                load(
                    &runtime,
                    &guest(if name == "echo" { "shout" } else { "echo" }),
                );
                timed(|| drop(load(&runtime, &guest(name))))
            })
            .collect(),
    );
    let first = median(
        (0..LOADS)
            .map(|_| timed(|| drop(load(&with_cache(home), &guest(name)))))
            .collect(),
    );
    let compiled = median(
        (0..LOADS)
            .map(|_| {
                let runtime = WasmRuntime::new(WasmConfig::default());
                load(
                    &runtime,
                    &guest(if name == "echo" { "shout" } else { "echo" }),
                );
                timed(|| drop(load(&runtime, &guest(name))))
            })
            .collect(),
    );
    println!(
        "{:<28} {:>10.3} ms ({:.3} ms with the engine's start, {:.3} ms compiled)",
        format!("{name}, cold from disk"),
        micros(from_disk) / 1000.0,
        micros(first) / 1000.0,
        micros(compiled) / 1000.0
    );
}

/// An empty guest on a pooling engine, without fuel, epochs, WASI or a reactor.
struct Floor {
    engine: Engine,
    pre: InstancePre<()>,
}

impl Floor {
    fn new() -> Self {
        let mut config = Config::new();
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(
            PoolingAllocationConfig::new(),
        ));
        let engine = Engine::new(&config).unwrap();
        let module = Module::new(&engine, wat::parse_str(EMPTY).unwrap()).unwrap();
        let pre = Linker::new(&engine).instantiate_pre(&module).unwrap();
        Self { engine, pre }
    }

    fn call(&self) {
        let mut store = wasmtime::Store::new(&self.engine, ());
        let instance = self.pre.instantiate(&mut store).unwrap();
        let start = instance
            .get_typed_func::<(), ()>(&mut store, "_start")
            .unwrap();
        start.call(&mut store, ()).unwrap();
    }
}

async fn calls(tool: &WasmTool, context: &ToolContext, input: &Value) -> Duration {
    let mut times = Vec::with_capacity(CALLS);
    for _ in 0..CALLS {
        let begun = Instant::now();
        tool.run(context, input).await.unwrap();
        times.push(begun.elapsed());
    }
    median(times)
}

fn with_cache(home: &Path) -> WasmRuntime {
    WasmRuntime::new(WasmConfig {
        cache: Some(home.join("cache")),
        ..WasmConfig::default()
    })
}

fn guest(name: &str) -> PathBuf {
    let guests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guests");
    guests.join(name).with_extension("wat")
}

fn load(runtime: &WasmRuntime, module: &Path) -> WasmTool {
    let text = "name: guest\nruntime: wasm\nmodule: guest.wasm\n";
    let descriptor = ToolDescriptor::parse(Path::new("guest.yaml"), text).unwrap();
    runtime.load(module, &descriptor, &|_| None).unwrap()
}

fn context(home: &Path) -> ToolContext {
    ToolContext {
        request_id: RequestId::generate(),
        session_id: SessionId::generate(),
        scope: MemoryScope {
            namespace: "dev".to_owned(),
            agent: "bench".to_owned(),
        },
        idempotency_key: "key".to_owned(),
        workspace: home.to_owned(),
        store: Store::new(Arc::new(FakeStore::new()), Arc::new(SystemClock)),
        cancel: CancellationToken::new(),
        timeout: Duration::from_secs(60),
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
    }
}

fn timed(work: impl FnOnce()) -> Duration {
    let begun = Instant::now();
    work();
    begun.elapsed()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}
