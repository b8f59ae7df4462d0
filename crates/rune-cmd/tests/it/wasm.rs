//! WebAssembly tools through the daemon: hostile guests fail closed, with the reason in the journal, and leave nothing behind.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rune_testkit::TestDaemon;
use serde_json::{Value, json};

use crate::home::{Home, RUNE, Served};
use crate::hostile::{assert_fail_closed, entry};
use crate::readme::root;
use crate::wire::{Api, LIMIT, POLL, answer, assert_no_panic};

/// Never ends.
const SPIN: &str =
    "(module (memory (export \"memory\") 1) (func (export \"_start\") (loop $on (br $on))))";
/// Takes all the memory it gets, then gives up.
const HOARD: &str = "(module (memory (export \"memory\") 1) (func (export \"_start\")
    (loop $more (br_if $more (i32.ne (memory.grow (i32.const 16)) (i32.const -1)))) (unreachable)))";

/// Calls itself for ever.
const RECURSE: &str =
    "(module (memory (export \"memory\") 1) (func $again (export \"_start\") (call $again)))";
/// Writes 64 KiB for ever, to `{STREAM}`.
const FLOOD: &str = r#"(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 2)
  (func (export "_start")
    (i32.store (i32.const 4) (i32.const 65536))
    (loop $on
      (drop (call $write (i32.const {STREAM}) (i32.const 0) (i32.const 1) (i32.const 8)))
      (br $on))))"#;

/// Wants processes of its own, as threads of WASI are started.
const THREADS: &str = r#"(module
  (import "wasi" "thread-spawn" (func (param i32) (result i32)))
  (memory (export "memory") 1) (func (export "_start")))"#;
/// Wants what nothing offers.
const UNKNOWN: &str = r#"(module
  (import "env" "system" (func (param i32) (result i32)))
  (memory (export "memory") 1) (func (export "_start")))"#;

/// A tool: its name, its module and the rest of its description.
type Guest<'a> = (&'a str, String, &'a str);

fn guest(name: &str) -> String {
    let guests = root().join("crates/rune-backend/rune-wasm/tests/guests");
    std::fs::read_to_string(guests.join(name).with_extension("wat")).unwrap()
}

/// Writes the agent `guests`, whose offline model calls the tools it is told to.
fn write(home: &Path, guests: &[Guest<'_>]) -> PathBuf {
    let dir = home.join("guests");
    std::fs::create_dir_all(dir.join("tools")).unwrap();
    let toolset: Vec<&str> = guests.iter().map(|(name, ..)| *name).collect();
    let runefile = format!(
        "name: guests\nversion: 0.1.0\ninstructions: Call.\ndefault_model: default\ntoolset: {}\n\
         models: {{providers: [offline], model_mapping: {{default: offline}}}}\n",
        json!(toolset)
    );
    std::fs::write(dir.join("Runefile"), runefile).unwrap();
    for (name, text, more) in guests {
        let file = |extension: &str| dir.join(format!("tools/{name}.{extension}"));
        let yaml = format!("name: {name}\nruntime: wasm\nmodule: tools/{name}.wat\n{more}");
        std::fs::write(file("yaml"), yaml).unwrap();
        std::fs::write(file("wat"), text).unwrap();
    }
    dir
}

async fn deployed(guests: &[Guest<'_>]) -> Served {
    let served = Served(TestDaemon::builder(RUNE).start().await.unwrap());
    write(served.0.home(), guests);
    served.rune(&["run", "guests"]).ok();
    served
}

/// Has the model call a tool; answers the entry of its result.
async fn called(api: &Api, tool: &str, input: &Value) -> Value {
    let id = api.start("guests", &format!("/tool {tool} {input}")).await;
    entry(api, &id).await.data
}

#[tokio::test]
async fn hostile_guests_fail_closed_are_journaled_and_the_daemon_stays_well() {
    let long = "timeout_ms: 60000\n";
    let with = |limits: &str| format!("{long}limits: {{{limits}}}\n");
    let (fuel, memory, cpu) = (
        with("fuel: 1000000"),
        with("memory_mb: 8"),
        with("cpu_ms: 100"),
    );
    let short = with("output_bytes: 100000");
    let any = "capabilities: [network]\n";
    let address = "capabilities: [\"network:192.0.2.1:80\"]\n";
    let mut served = deployed(&[
        ("echo", guest("echo"), ""),
        ("spin", SPIN.to_owned(), "timeout_ms: 200\n"),
        ("work", SPIN.to_owned(), &cpu),
        ("burn", SPIN.to_owned(), &fuel),
        ("hoard", HOARD.to_owned(), &memory),
        ("recurse", RECURSE.to_owned(), ""),
        ("flood", FLOOD.replace("{STREAM}", "1"), &short),
        ("shout", FLOOD.replace("{STREAM}", "2"), &short),
        ("reach", guest("fetch"), any),
        ("socket", guest("connect"), any),
        (
            "stray",
            guest("fetch"),
            "capabilities: [\"network:example.org\"]\n",
        ),
        ("aside", guest("connect"), address),
        ("lookup", guest("lookup"), address),
    ])
    .await;
    let port = served.0.gateway().rsplit(':').next().unwrap();
    let number: u16 = port.parse().unwrap();
    let own = format!("127.0.0.1:{port}");
    let named = format!("localhost:{port}");
    let none = json!({});
    let (limit, denied) = ("limit_exceeded", "denied");
    let attempts = [
        ("spin", none.clone(), "timeout", "did not end within 200 ms"),
        (
            "work",
            none.clone(),
            limit,
            "more than 100 ms of CPU time (`limits.cpu_ms`)",
        ),
        (
            "burn",
            none.clone(),
            limit,
            "ran out of fuel: it has 1000000 (`limits.fuel`)",
        ),
        (
            "hoard",
            none.clone(),
            limit,
            "ran out of memory: it asked for",
        ),
        ("recurse", none.clone(), "internal", "call stack exhausted"),
        (
            "flood",
            none.clone(),
            "too_large",
            "wrote more than 100000 bytes",
        ),
        ("shout", none.clone(), "too_large", "wrote more than"),
        // The daemon's own gateway, by address and by name.
        (
            "reach",
            json!({"authority": own}),
            denied,
            "loopback address",
        ),
        (
            "reach",
            json!({"authority": named}),
            denied,
            "loopback address",
        ),
        (
            "socket",
            json!({"port": number}),
            denied,
            "loopback address",
        ),
        ("stray", json!({"authority": own}), denied, "is not granted"),
        ("aside", json!({"port": number}), denied, "is not granted"),
        (
            "lookup",
            json!({"name": "secret.example.org"}),
            denied,
            "looking up `secret.example.org` is not granted",
        ),
    ];
    let daemon = served.0.pid().unwrap();
    assert_fail_closed(&mut served, "guests", &attempts, async |_| {
        idle(daemon).await;
    })
    .await;
    let api = Api::of(&served.0);
    let done = called(&api, "echo", &json!({"still": "well"})).await;
    assert_eq!(done["output"], json!({"still": "well"}));
    let (status, health) = answer(api.get("/ready")).await.unwrap();
    assert_eq!(status, 200, "{health}");
    assert_no_panic(&served);
}

#[tokio::test]
async fn a_guest_reads_and_writes_nothing_outside_of_what_it_is_granted() {
    let files = "capabilities: [filesystem]\n";
    let served = deployed(&[
        ("files", guest("files"), files),
        ("bare", guest("files"), ""),
    ])
    .await;
    let api = Api::of(&served.0);
    let home = served.0.home();
    let workspaces = served.0.data_dir().join("workspaces/dev");
    let workspace = workspaces.join("guests");
    std::fs::write(home.join("secret.txt"), "the secret").unwrap();
    std::fs::create_dir_all(workspaces.join("other")).unwrap();
    std::fs::write(workspaces.join("other/notes"), "the secret").unwrap();
    std::fs::write(workspace.join("own"), "mine").unwrap();
    for (target, name) in [
        (home, "home"),
        (Path::new("/etc/shadow"), "shadow"),
        (Path::new("../other/notes"), "notes"),
        (Path::new("/proc/self/environ"), "environ"),
    ] {
        std::os::unix::fs::symlink(target, workspace.join(name)).unwrap();
    }
    let absolute = home.join("secret.txt");
    // Of WASI: 44 is no entry, 63 not permitted, 76 not capable.
    for path in [
        "/etc/shadow",
        "shadow",
        "../../../../../../../../etc/shadow",
        "../../../../secret.txt",
        "home/secret.txt",
        absolute.to_str().unwrap(),
        "../other/notes",
        "notes",
        "/proc/self/environ",
        "environ",
    ] {
        for verb in ["path", "into"] {
            let done = called(&api, "files", &json!({verb: path})).await;
            let errno = done["output"]["errno"].as_u64().unwrap_or_default();
            assert!([44, 63, 76].contains(&errno), "{verb} {path}: {done}");
        }
    }
    for path in ["../made", "home/made"] {
        let done = called(&api, "files", &json!({"into": path})).await;
        assert_ne!(done["output"]["errno"], 0, "{path}: {done}");
    }
    assert!(!workspaces.join("made").exists() && !home.join("made").exists());
    let kept = std::fs::read_to_string(absolute).unwrap();
    assert_eq!(kept, "the secret");
    let done = called(&api, "files", &json!({"path": "own"})).await;
    assert_eq!(done["output"], json!({"content": "mine"}), "{done}");
    let done = called(&api, "bare", &json!({"path": "own"})).await;
    assert_ne!(done["output"]["errno"], 0, "{done}");
    assert!(!served.0.log().contains("the secret"));
}

#[tokio::test]
async fn policy_decides_about_the_hosts_of_a_guest_and_the_journal_says_so() {
    let served = Served(TestDaemon::builder(RUNE).start().await.unwrap());
    let reach = ("reach", guest("fetch"), "capabilities: [network]\n");
    let dir = write(served.0.home(), &[reach]);
    let policy = "forbid(principal, action == Action::\"egress\", resource)\n\
                  when { resource.name == \"blocked.test\" };";
    std::fs::write(dir.join("policy.cedar"), policy).unwrap();
    served.rune(&["run", "guests"]).ok();
    let api = Api::of(&served.0);
    let call = r#"/tool reach {"authority":"blocked.test:80"}"#;
    let id = api.start("guests", call).await;
    let events = api.events(&id, 0).await.rest().await;
    let done = events
        .iter()
        .find(|event| event.name == "tool_done")
        .unwrap();
    let error = done.data["error"].to_string();
    assert!(
        error.contains("policy denies connecting to `blocked.test:80`"),
        "{error}"
    );
    let why = served
        .rune(&["policy", "explain", &id, "-o", "json"])
        .json();
    let verdicts = why.as_array().unwrap();
    let host = verdicts
        .iter()
        .find(|one| one["resource"] == "blocked.test:80");
    assert_eq!(host.unwrap()["verdict"], "denied", "{why}");
}

#[tokio::test]
async fn cancel_ends_a_guest_that_never_would() {
    let served = deployed(&[
        ("spin", SPIN.to_owned(), "timeout_ms: 600000\n"),
        ("echo", guest("echo"), ""),
    ])
    .await;
    let api = Api::of(&served.0);
    // More than there are threads.
    let mut ids = Vec::new();
    for _ in 0..6 {
        ids.push(api.start("guests", "/tool spin {}").await);
    }
    let begun = async {
        for id in &ids {
            let mut events = api.events(id, 0).await;
            while events
                .next()
                .await
                .is_none_or(|event| event.name != "tool_start")
            {}
        }
    };
    tokio::time::timeout(LIMIT, begun).await.unwrap();
    // Others are served while they spin.
    let done = called(&api, "echo", &json!({"a": 1})).await;
    assert_eq!(done["output"], json!({"a": 1}));
    for id in &ids {
        let started = Instant::now();
        let request = api.post(&format!("/v1/requests/{id}/cancel"), &json!({}));
        let (status, row) = answer(request).await.unwrap();
        assert_eq!(
            (status, row["status"].as_str()),
            (200, Some("cancelled")),
            "{row}"
        );
        assert!(
            started.elapsed() < Duration::from_secs(1),
            "{:?}",
            started.elapsed()
        );
    }
    idle(served.0.pid().unwrap()).await;
}

/// Waits until nothing is left in a daemon that uses the processor.
async fn idle(daemon: u32) {
    let idle = async {
        loop {
            let before = processor_ticks(daemon);
            tokio::time::sleep(POLL * 10).await;
            if processor_ticks(daemon) - before < 10 {
                return;
            }
        }
    };
    tokio::time::timeout(LIMIT, idle).await.unwrap();
}

/// Hundredths of a second of processor time that a process has used.
fn processor_ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[tokio::test]
async fn an_import_that_is_not_granted_is_found_before_anything_runs() {
    let home = Home::new();
    for (name, text, import) in [
        (
            "lookup",
            guest("lookup"),
            "wasi:sockets/ip-name-lookup@0.2.0",
        ),
        ("fetch", guest("fetch"), "wasi:http/outgoing-handler@0.2.0"),
        ("spawn", THREADS.to_owned(), "wasi::thread-spawn"),
        ("call", UNKNOWN.to_owned(), "env::system"),
    ] {
        write(home.path(), &[(name, text, "")]);
        home.rune(&["validate", "guests"]).ends(2);
        let audit = home.rune(&["tool", "audit", &format!("guests/tools/{name}.wat")]);
        let audit = audit.ends(2).stdout;
        assert!(audit.contains(import), "{name}: {audit}");
    }
    write(home.path(), &[("connect", guest("connect"), "")]);
    for command in [["validate", "guests"], ["run", "guests"]] {
        let ran = home.rune(&command).ends(2);
        for part in [
            "imports `wasi:sockets/network@0.2.0`, which is not granted; add `network`",
            "guests/tools/connect.yaml:3:1",
        ] {
            assert!(ran.stderr.contains(part), "{part}: {}", ran.stderr);
        }
    }
    let ran = home.rune(&["run", "guests", "/tool connect {}"]).ends(2);
    assert!(
        ran.stderr.contains("wasi:sockets/network@0.2.0"),
        "{}",
        ran.stderr
    );
    let ran = home
        .rune(&["tool", "audit", "guests/tools/connect.wat", "-o", "json"])
        .ends(2);
    let audit: Value = serde_json::from_str(&ran.stdout).unwrap();
    let imports = audit["imports"].as_array().unwrap();
    let sockets = imports
        .iter()
        .find(|import| import["name"] == "wasi:sockets/tcp@0.2.0");
    assert_eq!(sockets.unwrap()["granted"], false);
    assert!(
        audit["description"]
            .as_str()
            .unwrap()
            .ends_with("tools/connect.yaml")
    );

    write(
        home.path(),
        &[("connect", guest("connect"), "capabilities: [network]\n")],
    );
    home.rune(&["validate", "guests"]).ok();
    let audit = home
        .rune(&["tool", "audit", "guests/tools/connect.wat"])
        .ok();
    assert!(audit.contains("wasi:sockets/tcp@0.2.0"), "{audit}");
}
