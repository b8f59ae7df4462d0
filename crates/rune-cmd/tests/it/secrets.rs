//! Secrets through the binary: stored encrypted, granted to tools, and nowhere else to be found.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use rune_testkit::{ModelScript, ModelServer, Otherwise, Protocol, Reply, TestDaemon, ToolCall};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::home::{Home, RUNE, Ran, Served};
use crate::readme::root;
use crate::wire::{Api, LIMIT, POLL, Tool, assert_no_panic, deploy};

/// What nobody but the tool and the host that it is for may see.
const CANARY: &str = "canary-7Zq+/x \"y\" 4K9d";

/// The forms in which it would be seen; of the Base64 what is the same wherever it stands.
const FORMS: [&str; 6] = [
    "canary-7Zq",
    "63616e6172792d375a71",
    "63616E6172792D375A71",
    // `printf %s CANARY | base64`, after 0, 1 and 2 bytes.
    "Y2FuYXJ5LTdacSsve",
    "NhbmFyeS03WnErL3gg",
    "jYW5hcnktN1pxKy94I",
];

/// Does with its secret what its input says.
const LEAK: &str = r#"
how=$(python3 -c 'import json, sys; print(json.load(sys.stdin)["how"])')
case "$how" in
length) echo "${#CANARY}" ;;
stdout) python3 -c 'import base64, json, os, urllib.parse
c = os.environ["CANARY"]
print(json.dumps({c: [c, "in " + c, json.dumps(c), urllib.parse.quote(c), c.encode().hex(),
    base64.b64encode(b"x:" + c.encode()).decode(), base64.b64encode(c.encode()).decode()]}))' ;;
stderr) echo "told $CANARY" >&2; echo 1 ;;
fails) echo "failed with $CANARY" >&2; exit 7 ;;
text) echo "no JSON but $CANARY" ;;
crashes) echo "crashing with $CANARY" >&2; kill -SEGV $$ ;;
waits) echo ready > ready; until [ -e go ]; do sleep 0.02; done; echo 1 ;;
http:*) python3 -c 'import json, os, sys, urllib.request
request = urllib.request.Request(sys.argv[1], headers={"authorization": "Bearer " + os.environ["CANARY"]})
print(json.dumps(urllib.request.urlopen(request).read().decode()))' "$how" ;;
esac
"#;

/// Writes its variables to standard error, and ends as `{END}` says.
const GUEST: &str = r#"(module
  (import "wasi_snapshot_preview1" "environ_get" (func $get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "environ_sizes_get" (func $sizes (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (func (export "_start")
    (drop (call $sizes (i32.const 0) (i32.const 4)))
    (drop (call $get (i32.const 100) (i32.const 1000)))
    (i32.store (i32.const 16) (i32.const 1000))
    (i32.store (i32.const 20) (i32.load (i32.const 4)))
    (drop (call $write (i32.const {STREAM}) (i32.const 16) (i32.const 1) (i32.const 24)))
    {END}))"#;

/// A host that answers one request with all that it was sent, and with the canary besides.
fn echoing() -> (String, JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let authority = listener.local_addr().unwrap().to_string();
    let serving = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut head = String::new();
        let mut lines = BufReader::new(stream.try_clone().unwrap());
        while !head.ends_with("\r\n\r\n") {
            assert_ne!(lines.read_line(&mut head).unwrap(), 0, "{head}");
        }
        let body = format!("you sent {head}and know {CANARY}");
        write!(
            stream,
            "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        head
    });
    (authority, serving)
}

fn set(served: &Served, args: &[&str], value: &str) -> Ran {
    let args = [&["secret", "set"], args].concat();
    Ran::with_input(served.command(&args), value)
}

/// Every file below a directory.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let meta = std::fs::symlink_metadata(&path).unwrap();
        if meta.is_dir() {
            found.extend(files(&path));
        } else if meta.is_file() {
            found.push(path);
        }
    }
    found
}

#[track_caller]
fn assert_absent(place: &str, bytes: &[u8]) {
    for form in FORMS {
        let mut windows = bytes.windows(form.len());
        let at = windows.position(|window| window == form.as_bytes());
        if let Some(at) = at {
            let around = &bytes[at.saturating_sub(300)..(at + 100).min(bytes.len())];
            let around = String::from_utf8_lossy(around);
            assert_eq!(
                at,
                usize::MAX,
                "{place} holds the canary as {form}: {around}"
            );
        }
    }
}

/// The command lines and the environments that the system shows of every process.
fn assert_in_no_command_line() {
    for entry in std::fs::read_dir("/proc").unwrap() {
        let path = entry.unwrap().path().join("cmdline");
        // What ends meanwhile shows nothing.
        if let Ok(line) = std::fs::read(&path) {
            assert_absent(&path.display().to_string(), &line);
        }
    }
}

async fn exists(path: &Path) {
    let limit = Instant::now() + LIMIT;
    while !path.exists() {
        assert!(Instant::now() < limit, "{} did not appear", path.display());
        tokio::time::sleep(POLL).await;
    }
}

/// Agents of WebAssembly; `authority` is the host that one of them may send its secret to.
fn write_guests(home: &Path, authority: &str) {
    let dir = home.join("guests");
    std::fs::create_dir_all(dir.join("tools")).unwrap();
    let runefile = "name: guests\nversion: 0.1.0\ninstructions: Call.\ndefault_model: default\n\
         toolset: [prints, fails, traps, remembers]\n\
         models: {providers: [offline], model_mapping: {default: offline}}\n";
    std::fs::write(dir.join("Runefile"), runefile).unwrap();
    for (name, stream, end) in [
        ("prints", "1", ""),
        ("fails", "2", "(call $exit (i32.const 3))"),
        ("traps", "2", "(unreachable)"),
    ] {
        let yaml = format!(
            "name: {name}\nruntime: wasm\nmodule: tools/{name}.wat\ncapabilities: [secret:CANARY]\n"
        );
        let text = GUEST.replace("{STREAM}", stream).replace("{END}", end);
        std::fs::write(dir.join(format!("tools/{name}.yaml")), yaml).unwrap();
        std::fs::write(dir.join(format!("tools/{name}.wat")), text).unwrap();
    }
    let remembers = root().join("crates/rune-backend/rune-wasm/tests/guests/remember.wat");
    std::fs::copy(remembers, dir.join("tools/remembers.wat")).unwrap();
    let yaml = format!(
        "name: remembers\nruntime: wasm\nmodule: tools/remembers.wat\n\
         capabilities: [filesystem, secret:CANARY, \"network:{authority}\"]\n"
    );
    std::fs::write(dir.join("tools/remembers.yaml"), yaml).unwrap();
}

#[tokio::test]
async fn a_canary_appears_nowhere() {
    let daemon = TestDaemon::builder(RUNE)
        .env("RUST_LOG", "trace")
        .env("RUNE_ALLOW_PRIVATE", "127.0.0.0/8");
    let mut served = Served(daemon.start().await.unwrap());
    let stored = set(&served, &["CANARY"], CANARY).ends(0);
    assert_eq!(stored.stdout, "stored dev/CANARY\n");
    let (authority, serving) = echoing();
    let (other, remembering) = echoing();
    let modes = [
        "length", "stdout", "stderr", "fails", "text", "crashes", "waits",
    ];
    let mut modes: Vec<String> = modes.map(str::to_owned).to_vec();
    modes.push(format!("http://{authority}/"));
    let mut script = ModelScript::new();
    for how in &modes {
        script = script
            .on_text(how)
            .reply(Reply::calls([ToolCall::new("leak", json!({"how": how}))]))
            .then(Reply::echo());
    }
    let server = ModelServer::start(script.otherwise(Otherwise::Refuse))
        .await
        .unwrap();
    let yaml = format!(
        "timeout_ms: 30000\ncapabilities: [filesystem, \"secret:CANARY\", \"network:{authority}\"]\n"
    );
    let leak = Tool {
        name: "leak",
        script: LEAK,
        yaml: &yaml,
    };
    let models = [(&server, Protocol::Anthropic)];
    deploy(&served, "leaky", &models, &[leak], "timeout_ms: 120000\n");
    write_guests(served.0.home(), &other);
    served.rune(&["run", "guests"]).ok();

    let api = Api::of(&served.0);
    let mut seen = Vec::new();
    let mut ids = Vec::new();
    for how in &modes {
        let id = api.start("leaky", how).await;
        if how == "waits" {
            let workspace = served.0.data_dir().join("workspaces/dev/leaky");
            exists(&workspace.join("ready")).await;
            assert_in_no_command_line();
            std::fs::write(workspace.join("go"), "").unwrap();
        }
        let stream = api.get(&format!("/v1/requests/{id}/events"));
        let stream = stream.send().await.unwrap().text().await.unwrap();
        let shows = match how.as_str() {
            "length" => CANARY.len().to_string(),
            "waits" | "stderr" => "tool_done".to_owned(),
            _ => "[redacted]".to_owned(),
        };
        assert!(stream.contains(&shows), "{how}: {stream}");
        seen.push((format!("the stream of {how}"), stream));
        ids.push(id);
    }
    for tool in ["prints", "fails", "traps"] {
        let id = api.start("guests", &format!("/tool {tool} {{}}")).await;
        let stream = api.get(&format!("/v1/requests/{id}/events"));
        let stream = stream.send().await.unwrap().text().await.unwrap();
        assert!(stream.contains("CANARY=rune-secret-"), "{tool}: {stream}");
        seen.push((format!("the stream of {tool}"), stream));
        ids.push(id);
    }
    let call = format!("/tool remembers {}", json!({"authority": other}));
    let id = api.start("guests", &call).await;
    let stream = api.get(&format!("/v1/requests/{id}/events"));
    let stream = stream.send().await.unwrap().text().await.unwrap();
    seen.push(("the stream of remembers".to_owned(), stream));
    ids.push(id);
    // The hosts that it is for have got it.
    let received = serving.join().unwrap();
    assert!(received.contains(CANARY), "{received}");
    let received = remembering.join().unwrap();
    assert!(
        received.starts_with("GET /hello?key=canary-7Zq"),
        "{received}"
    );
    // All the memory of the guest that sent it and got it back: what stood for it, before and after.
    let memory = served.0.data_dir().join("workspaces/dev/guests/memory");
    let memory = std::fs::read(memory).unwrap();
    let holds = |text: &str| memory.windows(text.len()).any(|at| at == text.as_bytes());
    assert!(holds("rune-secret-") && holds("and know [redacted]"));
    assert_absent("the memory of a guest", &memory);

    for id in &ids {
        for args in [
            &["requests", "events", id, "-o", "json"][..],
            &["requests", "show", id, "-o", "json"],
            &["requests", "show", id],
        ] {
            seen.push((format!("{args:?}"), served.rune(args).ok()));
        }
    }
    for args in [
        &["secret", "ls", "-o", "json"][..],
        &["secret", "ls", "-o", "yaml"],
        &["secret", "ls"],
    ] {
        let shown = served.rune(args).ok();
        assert!(shown.contains("CANARY"), "{shown}");
        seen.push((format!("{args:?}"), shown));
    }
    let audit = format!("{}/v1/audit?limit=1000", served.0.control_plane());
    let audit = reqwest::get(audit).await.unwrap().text().await.unwrap();
    assert!(audit.contains("secret.set"), "{audit}");
    seen.push(("the audit trail".to_owned(), audit));
    for request in server.requests() {
        seen.push((
            format!("a model request, {}", request.seq),
            format!("{request:?}"),
        ));
    }
    for (place, text) in &seen {
        assert_absent(place, text.as_bytes());
    }
    assert_absent("the log", served.0.log().as_bytes());
    let data_dir = served.0.data_dir();
    let look = |when: &str| {
        let found = files(&data_dir);
        assert!(found.iter().any(|path| path.ends_with("rune.db")));
        for path in found {
            // A file may be gone by now.
            if let Ok(bytes) = std::fs::read(&path) {
                assert_absent(&format!("{} {when}", path.display()), &bytes);
            }
        }
    };
    look("while the daemon runs");
    served.0.kill9().unwrap();
    look("after a crash");
    served.0.restart().await.unwrap();
    // The key is still there.
    let api = Api::of(&served.0);
    let id = api.start("guests", "/tool fails {}").await;
    let row = api.ended(&id).await.to_string();
    assert!(row.contains("CANARY=rune-secret-"), "{row}");
    assert_no_panic(&served);
}

/// An agent whose offline model calls a tool that says how long its secret is.
fn write_counter(home: &Path) {
    let dir = home.join("counter");
    std::fs::create_dir_all(dir.join("tools")).unwrap();
    let runefile = "name: counter\nversion: 0.1.0\ninstructions: Call.\ndefault_model: default\n\
         toolset: [count]\nmodels: {providers: [offline], model_mapping: {default: offline}}\n";
    std::fs::write(dir.join("Runefile"), runefile).unwrap();
    let yaml =
        "name: count\ndescription: Counts.\nmodule: tools/count.sh\ncapabilities: [secret:TOKEN]\n";
    std::fs::write(dir.join("tools/count.yaml"), yaml).unwrap();
    let script = "echo \"{\\\"length\\\": ${#TOKEN}, \\\"said\\\": \\\"$TOKEN\\\"}\"\n";
    std::fs::write(dir.join("tools/count.sh"), script).unwrap();
}

async fn count(api: &Api) -> Value {
    let id = api.start("counter", "/tool count {}").await;
    let events = api.events(&id, 0).await.rest().await;
    let done = events.iter().find(|event| event.name == "tool_done");
    done.unwrap().data.clone()
}

#[tokio::test]
async fn the_next_call_gets_what_was_stored_last() {
    let served = Served(TestDaemon::builder(RUNE).start().await.unwrap());
    write_counter(served.0.home());
    served.rune(&["run", "counter"]).ok();
    let api = Api::of(&served.0);
    let missing = |done: &Value| {
        let error = done["error"].to_string();
        assert!(error.contains("`rune secret set TOKEN`"), "{done}");
    };
    missing(&count(&api).await);
    // Another namespace's is not this one's.
    set(&served, &["TOKEN", "--ns", "prod"], "another-token").ends(0);
    missing(&count(&api).await);
    set(&served, &["TOKEN"], "first-token\n").ends(0);
    let done = count(&api).await;
    assert_eq!(done["output"], json!({"length": 11, "said": "[redacted]"}));
    let path = served.0.home().join("token.txt");
    std::fs::write(&path, "second-longer-token\n").unwrap();
    set(&served, &["TOKEN", "--from-file", "token.txt"], "").ends(0);
    assert_eq!(count(&api).await["output"]["length"], 19);
    // Without a daemon it is the same store, also beside one that runs.
    let alone = served.rune(&["run", "counter", "/tool count {}"]).ok();
    assert!(
        alone.contains("19") && alone.contains("[redacted]"),
        "{alone}"
    );
    let mut command = served.command(&["secret", "set", "TOKEN", "--from-env", "MINE"]);
    command.env("MINE", "a-third-value");
    let row = {
        command.args(["-o", "json"]);
        Ran::new(command).json()
    };
    assert_eq!(
        (&row["name"], &row["namespace"]),
        (&json!("TOKEN"), &json!("dev"))
    );
    assert!(row.get("value").is_none(), "{row}");
    assert_eq!(count(&api).await["output"]["length"], 13);
    let removed = served.rune(&["secret", "rm", "TOKEN"]).ok();
    assert_eq!(removed, "removed dev/TOKEN\n");
    missing(&count(&api).await);
    let rows = served.rune(&["secret", "ls", "-o", "json"]).json();
    let names = rows.as_array().unwrap().iter();
    let names: Vec<_> = names.map(|row| (&row["namespace"], &row["name"])).collect();
    assert_eq!(names, [(&json!("prod"), &json!("TOKEN"))]);
}

#[tokio::test]
async fn what_cannot_be_stored_is_refused_without_its_value() {
    let served = Served(TestDaemon::builder(RUNE).start().await.unwrap());
    for (args, value, exit, expected) in [
        (&["TOKEN"][..], "short", 2, "has 5 bytes and takes 8"),
        (&["TO-KEN"], "long enough", 2, "A-Z, a-z, 0-9 and _"),
        (&["TOKEN", "--ns", "No!"], "long enough", 2, "namespace"),
        (&["TOKEN", "--from-file", "gone"], "", 2, "cannot read gone"),
        (&["TOKEN", "--from-env", "GONE"], "", 2, "`GONE` is not set"),
        (&["TOKEN", "long-enough"], "", 2, "unexpected argument"),
    ] {
        let ran = set(&served, args, value).ends(exit);
        assert!(ran.stderr.contains(expected), "{args:?}: {}", ran.stderr);
        assert!(!ran.stderr.contains("long enough"), "{}", ran.stderr);
    }
    let large = set(&served, &["TOKEN"], &"x".repeat((64 << 10) + 1)).ends(2);
    assert!(
        large.stderr.contains("the limit is 65536"),
        "{}",
        large.stderr
    );
    let ran = served.rune(&["secret", "rm", "TOKEN"]).ends(1);
    assert!(
        ran.stderr.contains("secret `dev/TOKEN` does not exist"),
        "{}",
        ran.stderr
    );
    assert!(ran.stderr.contains("rune secret ls"), "{}", ran.stderr);
    // Nothing was stored, so there is no key either.
    assert!(!served.0.data_dir().join("secret.key").exists());
    let url = format!("{}/v1/secrets/TOKEN", served.0.control_plane());
    let client = reqwest::Client::new();
    for body in [
        json!({"value": 12_345_678}),
        json!({"value": {"in": "canary-value"}}),
        json!({"valeu": "canary-value"}),
    ] {
        let refused = client.put(&url).json(&body).send().await.unwrap();
        assert_eq!(refused.status(), 400);
        let text = refused.text().await.unwrap();
        assert!(
            !text.contains("canary-value") && !text.contains("12345678"),
            "{text}"
        );
    }
}

#[test]
fn without_a_daemon_nothing_is_stored_and_a_missing_secret_is_named() {
    let home = Home::new();
    let command = home.command(&["secret", "set", "TOKEN"]);
    Ran::with_input(command, "long enough").ends(6);
    home.rune(&["secret", "ls"]).ends(6);
    write_counter(home.path());
    let ran = home.rune(&["run", "counter", "/tool count {}"]);
    let all = format!("{}{}", ran.stdout, ran.stderr);
    assert!(all.contains("rune secret set TOKEN"), "{all}");
    let help = home.rune(&["secret", "set", "--help"]).ok();
    assert!(help.contains("never an argument"), "{help}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_package_is_not_told_the_secrets_of_rune_itself() {
    let builder = TestDaemon::builder(RUNE)
        .env("RUNE_WEB_SEARCH_KEY", CANARY)
        .env("SOMETHING_ELSE", "told");
    let served = Served(builder.start().await.unwrap());
    let dir = served.0.home().join("nosy");
    std::fs::create_dir_all(&dir).unwrap();
    for (variable, code) in [("RUNE_WEB_SEARCH_KEY", 1), ("SOMETHING_ELSE", 0)] {
        let runefile = format!(
            "name: nosy\nversion: 0.1.0\ninstructions: Say ${{{variable}}}.\ndefault_model: m\n\
             models: {{providers: [offline], model_mapping: {{m: offline}}}}\n"
        );
        std::fs::write(dir.join("Runefile"), runefile).unwrap();
        let ran = served.rune(&["run", "nosy"]).ends(code);
        let says = format!("`{variable}` is not set");
        assert_eq!(ran.stderr.contains(&says), code != 0, "{}", ran.stderr);
    }
    assert!(!served.0.log().contains(CANARY));
}
