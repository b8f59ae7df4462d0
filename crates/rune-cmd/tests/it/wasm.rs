//! WebAssembly tools through the daemon: hostile guests fail closed, with the reason in the journal, and leave nothing behind.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use rune_testkit::TestDaemon;
use serde_json::{Value, json};

use crate::home::{Home, RUNE, Served};
use crate::readme::root;
use crate::wire::{Api, LIMIT, POLL, answer, assert_no_panic};

/// Never ends.
const SPIN: &str =
    "(module (memory (export \"memory\") 1) (func (export \"_start\") (loop $on (br $on))))";
/// Takes all the memory it gets, then gives up.
const HOARD: &str = "(module (memory (export \"memory\") 1) (func (export \"_start\")
    (loop $more (br_if $more (i32.ne (memory.grow (i32.const 16)) (i32.const -1)))) (unreachable)))";

/// A tool: its name, its module and the rest of its description.
type Guest<'a> = (&'a str, String, &'a str);

fn guest(name: &str) -> String {
    let guests = root().join("crates/rune-backend/rune-wasm/tests/guests");
    std::fs::read_to_string(guests.join(name).with_extension("wat")).unwrap()
}

/// Writes the agent `guests`, whose offline model calls the tools it is told to.
fn write(home: &std::path::Path, guests: &[Guest<'_>]) -> PathBuf {
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
    let events = api.events(&id, 0).await.rest().await;
    let done = events.iter().find(|event| event.name == "tool_done");
    done.unwrap().data.clone()
}

#[tokio::test]
async fn hostile_guests_fail_closed_and_the_daemon_stays_well() {
    let private = "capabilities: [network]\n";
    let served = deployed(&[
        ("echo", guest("echo"), ""),
        ("spin", SPIN.to_owned(), "timeout_ms: 200\n"),
        (
            "burn",
            SPIN.to_owned(),
            "timeout_ms: 60000\nlimits: {fuel: 1000000}\n",
        ),
        (
            "hoard",
            HOARD.to_owned(),
            "timeout_ms: 60000\nlimits: {memory_mb: 8}\n",
        ),
        ("flood", guest("echo"), "limits: {output_bytes: 4}\n"),
        ("files", guest("files"), "capabilities: [filesystem]\n"),
        ("reach", guest("fetch"), private),
        ("socket", guest("connect"), private),
        (
            "stray",
            guest("fetch"),
            "capabilities: [\"network:example.org\"]\n",
        ),
    ])
    .await;
    let api = Api::of(&served.0);
    let port = served.0.gateway().rsplit(':').next().unwrap();
    let own = format!("127.0.0.1:{port}");
    for (tool, input, expected) in [
        ("spin", json!({}), "did not end within 200 ms"),
        ("burn", json!({}), "ran out of fuel: it has 1000000"),
        ("hoard", json!({}), "ran out of memory"),
        ("flood", json!({"long": "text"}), "wrote more than 4 bytes"),
        // The daemon's own gateway, by address and by name.
        ("reach", json!({"authority": own}), "loopback address"),
        (
            "reach",
            json!({"authority": format!("localhost:{port}")}),
            "loopback address",
        ),
        (
            "socket",
            json!({"port": port.parse::<u16>().unwrap()}),
            "loopback address",
        ),
        ("stray", json!({"authority": own}), "is not granted"),
    ] {
        let done = called(&api, tool, &input).await;
        let error = done["error"].to_string();
        assert!(error.contains(expected), "{tool}: {done}");
    }
    let workspace = served.0.data_dir().join("workspaces/dev/guests");
    std::fs::write(served.0.home().join("secret.txt"), "secret").unwrap();
    std::os::unix::fs::symlink(served.0.home(), workspace.join("home")).unwrap();
    let absolute = served.0.home().join("secret.txt");
    let paths = [
        "../../../../secret.txt",
        "home/secret.txt",
        absolute.to_str().unwrap(),
    ];
    for path in paths {
        let done = called(&api, "files", &json!({"path": path})).await;
        assert!(
            done["output"]["errno"].as_u64().is_some_and(|n| n > 0),
            "{path}: {done}"
        );
    }
    let done = called(&api, "echo", &json!({"still": "well"})).await;
    assert_eq!(done["output"], json!({"still": "well"}));
    let (status, health) = answer(api.get("/ready")).await.unwrap();
    assert_eq!(status, 200, "{health}");
    assert_no_panic(&served);
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
    // Nothing is left that uses the processor.
    let idle = async {
        loop {
            let before = processor_ticks(&served);
            tokio::time::sleep(POLL * 10).await;
            if processor_ticks(&served) - before < 10 {
                return;
            }
        }
    };
    tokio::time::timeout(LIMIT, idle).await.unwrap();
}

/// Hundredths of a second of processor time that the daemon has used.
fn processor_ticks(served: &Served) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", served.0.pid().unwrap())).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[tokio::test]
async fn an_import_that_is_not_granted_is_found_before_anything_runs() {
    let home = Home::new();
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
