//! MCP servers that are processes, in their sandbox: what is granted works, everything else fails closed, and nothing is left
//! running. Stored secrets reach the server and nothing else; servers elsewhere are where the operator allows them.

use std::net::TcpListener;
use std::path::{Path, PathBuf};

use rune_testkit::{TestDaemon, TestDaemonBuilder};
use serde_json::{Value, json};

use crate::home::{RUNE, Ran, Served};
use crate::mcp::{Http, called, events, mark, marked, python, servers, until, write};
use crate::readme::root;
use crate::sandbox::{
    DAEMONISE, TRY, assert_done, assert_refused, echo_server, without_namespaces,
};
use crate::wire::Api;

/// What nobody but a server may see.
const CANARY: &str = "canary-7Zq-4K9d-and-more";

/// A server of the program `hostile.py` of the package.
fn hostile(name: &str, capabilities: &Value) -> Value {
    json!({
        "name": name, "command": "python3", "args": ["${RUNE_PACKAGE_DIR}/hostile.py"],
        "env": {"MARK": mark(), "PACKAGE": "${RUNE_PACKAGE_DIR}"}, "capabilities": capabilities, "required": true,
    })
}

/// Writes the agent `agent`, which has all tools of these servers.
fn write_agent(home: &Path, servers: &Value, policy: &str) -> PathBuf {
    let names = servers.as_array().unwrap().iter();
    let toolset: Vec<String> = names
        .map(|server| format!("{}/*", server["name"].as_str().unwrap()))
        .collect();
    let dir = write(home, "agent", &json!(toolset), servers, "");
    let source = root().join("crates/rune-cmd/tests/mcp/hostile.py");
    std::fs::copy(source, dir.join("hostile.py")).unwrap();
    std::fs::write(dir.join("try.py"), TRY).unwrap();
    std::fs::write(dir.join("daemonise.py"), DAEMONISE).unwrap();
    if !policy.is_empty() {
        std::fs::write(dir.join("policy.cedar"), policy).unwrap();
    }
    dir
}

/// A daemon with this agent deployed.
struct Rig {
    served: Served,
    api: Api,
}

impl Rig {
    async fn start(builder: TestDaemonBuilder, servers: &Value, policy: &str) -> Self {
        let served = Served(builder.start().await.unwrap());
        write_agent(served.0.home(), servers, policy);
        served.rune(&["run", "agent"]).ok();
        let api = Api::of(&served.0);
        Self { served, api }
    }

    fn workspace(&self) -> PathBuf {
        self.served.0.data_dir().join("workspaces/dev/agent")
    }

    /// What came of the steps that a server tried.
    async fn tries(&self, server: &str, steps: &Value) -> Vec<Value> {
        let tool = format!("{server}__try");
        let done = called(&self.api, &tool, &json!({"steps": steps})).await;
        let text = done["output"].as_str().unwrap_or_default();
        let answers = serde_json::from_str(text);
        assert!(answers.is_ok(), "{done}");
        answers.unwrap()
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

#[tokio::test]
async fn a_server_reaches_what_it_is_granted_and_nothing_else() {
    let kept = tempfile::tempdir().unwrap();
    std::fs::write(kept.path().join("text"), "text").unwrap();
    let granted = json!([
        "filesystem",
        format!("filesystem:ro:{}", kept.path().display()),
        "env:REGION"
    ]);
    let rig = Rig::start(
        TestDaemon::builder(RUNE).env("REGION", "eu"),
        &json!([hostile("bare", &json!([])), hostile("granted", &granted)]),
        "",
    )
    .await;
    let home = rig.served.0.home().to_owned();
    std::fs::write(home.join("secret.txt"), "secret").unwrap();
    let other = rig.served.0.data_dir().join("workspaces/dev/other");
    std::fs::create_dir_all(&other).unwrap();
    std::fs::write(other.join("notes"), "secret").unwrap();
    let package = rig.tries("bare", &json!([["env", "PACKAGE"]])).await;
    let package = PathBuf::from(package[0]["ok"].as_str().unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    let daemon = rig.served.0.pid().unwrap();

    let never = json!([
        ["read", "/etc/shadow"],
        ["list", "/root"],
        ["list", "/home"],
        ["list", "/var"],
        ["list", shown(&rig.served.0.data_dir().join("objects"))],
        ["write", shown(&rig.served.0.data_dir().join("made"))],
        ["read", shown(&home.join("secret.txt"))],
        ["read", shown(&other.join("notes"))],
        ["read", "../other/notes"],
        ["read", shown(&rig.served.0.data_dir().join("rune.db"))],
        ["read", format!("/proc/{daemon}/environ")],
        ["list", format!("/proc/{daemon}/root")],
        ["write", shown(&package.join("made"))],
        ["write", shown(&package.join("hostile.py"))],
        ["write", shown(&home.join("made"))],
        ["write", "/usr/bin/made"],
        ["write", "/etc/made"],
        ["tcp", "127.0.0.1", port],
        ["udp", "127.0.0.1", port],
        ["fetch", format!("http://127.0.0.1:{port}/")],
        ["family", 16, 3],
        ["run", "mount", "-t", "tmpfs", "none", "/tmp"],
        ["run", "unshare", "-Ur", "true"],
    ]);
    for server in ["bare", "granted"] {
        assert_refused(&never, &rig.tries(server, &never).await);
    }
    assert!(listener.accept().is_err());

    let steps = json!([
        ["write", shown(&rig.workspace().join("made"))],
        ["read", shown(&kept.path().join("text"))],
        ["list", shown(&rig.workspace())],
    ]);
    assert_refused(&steps, &rig.tries("bare", &steps).await);
    let steps = json!([
        ["read", shown(&package.join("Runefile"))],
        ["write", "/tmp/private"],
        ["run", "sh", "-c", "echo hi | tr a-z A-Z"],
        ["env", "HOME"],
        ["env", "REGION"],
    ]);
    let answers = rig.tries("bare", &steps).await;
    assert_done(&steps, &answers);
    assert_eq!(answers[3..], [json!({"ok": "/tmp"}), json!({"ok": null})]);
    assert!(!Path::new("/tmp/private").exists());

    let steps = json!([
        ["write", "made"],
        ["read", shown(&kept.path().join("text"))],
        ["env", "HOME"],
        ["env", "REGION"],
    ]);
    let answers = rig.tries("granted", &steps).await;
    assert_done(&steps, &answers);
    let own = [json!({"ok": shown(&rig.workspace())}), json!({"ok": "eu"})];
    assert_eq!(answers[2..], own);
    assert!(rig.workspace().join("made").exists());
    let steps = json!([["write", shown(&kept.path().join("text"))]]);
    assert_refused(&steps, &rig.tries("granted", &steps).await);
}

#[tokio::test]
async fn a_server_connects_through_the_filter_and_what_is_refused_is_shown() {
    let (port, other) = (echo_server(), echo_server());
    let hosts = json!([format!("network:localhost:{port}"), "network:denied.test"]);
    let policy = "@reason(\"not there\")\nforbid(principal, action == Action::\"egress\", resource == Host::\"denied.test\");\n";
    let rig = Rig::start(
        TestDaemon::builder(RUNE).env("RUNE_ALLOW_PRIVATE", "localhost"),
        &json!([hostile("hosts", &hosts)]),
        policy,
    )
    .await;
    let steps = json!([
        ["fetch", format!("http://localhost:{port}/by/url")],
        ["tunnel", "localhost", port]
    ]);
    let answers = rig.tries("hosts", &steps).await;
    assert_eq!(answers, [json!({"ok": "/by/url"}), json!({"ok": "/"})]);
    let refused = json!([
        ["fetch", format!("http://localhost:{other}/")],
        ["fetch", format!("http://127.0.0.1:{port}/")],
        ["tcp", "127.0.0.1", port],
        ["udp", "127.0.0.1", port],
        ["tunnel", "denied.test", 80],
    ]);
    let input = json!({"steps": refused});
    let seen = events(&rig.api, "hosts__try", &input).await;
    let done = seen.iter().find(|event| event.name == "tool_done").unwrap();
    let answers: Vec<Value> = serde_json::from_str(done.data["output"].as_str().unwrap()).unwrap();
    assert_refused(&refused, &answers);
    assert!(answers[4].to_string().contains("not there"), "{answers:?}");

    // The journal of the call has what policy said, and the state of the server what was refused.
    let request = seen[0].data["request_id"].as_str().unwrap();
    let explained = rig
        .served
        .rune(&["policy", "explain", request, "-o", "json"]);
    let explained = explained.json().to_string();
    assert!(explained.contains("denied.test"), "{explained}");
    let state = servers(&rig.api).await;
    let shown = state[0]["refused"].to_string();
    for part in [
        format!("`localhost:{other}` is not granted"),
        format!("`127.0.0.1:{port}` is not granted"),
        "policy denies connecting to `denied.test:80`: not there".to_owned(),
    ] {
        assert!(shown.contains(&part), "{part}: {state}");
        assert!(rig.served.0.log().contains(&part), "{part}");
    }
    let mut command = rig.served.command(&["mcp", "test", "agent"]);
    // The deployed one, not its directory.
    command.current_dir(rig.served.0.data_dir());
    let printed = Ran::new(command).ok();
    assert!(printed.contains("refused: "), "{printed}");
}

#[tokio::test]
async fn what_a_server_starts_ends_with_it() {
    let config = json!([hostile("agile", &json!([]))]);
    for kill in [false, true] {
        let mut rig = Rig::start(TestDaemon::builder(RUNE), &config, "").await;
        let before = marked().len();
        let done = called(&rig.api, "agile__daemonise", &json!({})).await;
        assert_eq!(done["output"], "{}\n", "{done}");
        until("it has left a daemon", async || marked().len() > before).await;
        if kill {
            rig.served.0.kill9().unwrap();
        } else {
            rig.served.rune(&["agent", "rm", "agent"]).ok();
        }
        until("nothing is left", async || marked().is_empty()).await;
    }
}

#[tokio::test]
async fn a_server_that_takes_too_much_is_stopped_and_started_again() {
    let mut config = hostile("greedy", &json!([]));
    config["limits"] = json!({"memory_mb": 128, "processes": 32});
    let rig = Rig::start(TestDaemon::builder(RUNE), &json!([config]), "").await;
    let done = called(&rig.api, "greedy__hoard", &json!({})).await;
    assert_eq!(done["error"]["code"], "unavailable", "{done}");
    until("the log says why", async || {
        let log = rig.served.0.log();
        log.contains("sandbox: it used more than 128 MiB of memory")
    })
    .await;
    until("it is there again", async || {
        let done = called(&rig.api, "greedy__leak", &json!({})).await;
        done["output"] == ""
    })
    .await;
}

#[tokio::test]
async fn where_the_machine_lacks_a_part_the_server_says_so_and_the_operator_decides() {
    let dir = tempfile::tempdir().unwrap();
    let Some(rune) = without_namespaces(dir.path()) else {
        eprintln!("skipped: there is no way to be without user namespaces");
        return;
    };
    let config = json!([hostile("caged", &json!([]))]);
    let served = Served(TestDaemon::builder(&rune).start().await.unwrap());
    write_agent(served.0.home(), &config, "");
    let ran = served.rune(&["mcp", "test", "agent"]).ends(6);
    for part in [
        "sandbox: it was not started: namespaces:",
        "rune doctor",
        "RUNE_SANDBOX",
    ] {
        assert!(ran.stdout.contains(part), "{part}: {}", ran.stdout);
    }
    let ran = served.rune(&["run", "agent", "hello"]).ends(6);
    assert!(ran.stderr.contains("namespaces:"), "{}", ran.stderr);

    for (mode, binary, is_confined) in [
        ("best-effort", rune.as_path(), true),
        ("off", Path::new(RUNE), false),
    ] {
        let builder = TestDaemon::builder(binary).env("RUNE_SANDBOX", mode);
        let rig = Rig::start(builder, &config, "").await;
        let home = shown(rig.served.0.home());
        let steps = json!([
            ["list", "/var"],
            ["list", home],
            ["write", "/tmp/rune-mcp-test"]
        ]);
        let answers = rig.tries("caged", &steps).await;
        if is_confined {
            assert_refused(&steps, &answers);
        } else {
            assert_done(&steps, &answers);
            std::fs::remove_file("/tmp/rune-mcp-test").unwrap();
        }
    }
}

#[tokio::test]
async fn grants_that_cannot_be_kept_keep_the_server_from_starting() {
    for (grant, expected) in [
        ("filesystem:ro:/", "cannot be granted"),
        ("filesystem:ro:${HOME}/.rune", "Rune's own data"),
        ("filesystem:ro:/no/such/thing", "does not exist"),
        ("env:RUNE_SECRET_KEY", "cannot be granted"),
    ] {
        let served = Served(TestDaemon::builder(RUNE).start().await.unwrap());
        std::fs::create_dir_all(served.0.home().join(".rune")).unwrap();
        let config = json!([hostile("caged", &json!([grant]))]);
        write_agent(served.0.home(), &config, "");
        let ran = served.rune(&["run", "agent", "hello"]);
        assert!(ran.stderr.contains(expected), "{grant}: {}", ran.stderr);
    }
}

fn store(served: &Served, name: &str, value: &str) {
    Ran::with_input(served.command(&["secret", "set", name]), value).ends(0);
}

/// Nothing below a directory holds the canary.
fn assert_hidden(dir: &Path) {
    for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let path = entry.path();
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            assert_hidden(&path);
        } else if kind.is_file() {
            let bytes = std::fs::read(&path).unwrap();
            let mut parts = bytes.windows(CANARY.len());
            let found = parts.any(|part| part == CANARY.as_bytes());
            assert!(!found, "{} holds the canary", path.display());
        }
    }
}

#[tokio::test]
async fn a_stored_secret_reaches_the_process_and_nobody_else() {
    let mut renamed = hostile("renamed", &json!(["secret:STORED"]));
    renamed["env"]["CANARY"] = "${STORED}".into();
    renamed["required"] = false.into();
    let mut plain = hostile("plain", &json!(["secret:CANARY"]));
    plain["required"] = false.into();
    let config = json!([renamed, plain]);
    let rig = Rig::start(TestDaemon::builder(RUNE), &config, "").await;
    let state = servers(&rig.api).await;
    let error = state[0]["error"].as_str().unwrap();
    assert!(error.contains("rune secret set STORED"), "{state}");

    store(&rig.served, "STORED", CANARY);
    store(&rig.served, "CANARY", CANARY);
    until("the servers have their secrets", async || {
        let state = servers(&rig.api).await;
        state[0]["state"] == "ready" && state[1]["state"] == "ready"
    })
    .await;
    for server in ["renamed", "plain"] {
        let done = called(&rig.api, &format!("{server}__leak"), &json!({})).await;
        assert_eq!(done["output"], "[redacted]", "{done}");
    }
    let state = servers(&rig.api).await.to_string();
    assert!(state.contains("Does as told, [redacted]"), "{state}");
    assert!(rig.served.0.log().contains("told [redacted]"));
    assert_hidden(rig.served.0.home());
}

#[tokio::test]
async fn a_stored_secret_is_sent_as_a_header() {
    let Some(python) = python() else { return };
    let server = Http::start(&python, false).await;
    let served = Served(
        TestDaemon::builder(RUNE)
            .env("RUNE_ALLOW_PRIVATE", "127.0.0.1")
            .start()
            .await
            .unwrap(),
    );
    store(&served, "CANARY", CANARY);
    let config = json!([{
        "name": "sdk", "url": server.url(), "headers": {"Authorization": "Bearer ${CANARY}"},
        "capabilities": ["secret:CANARY"],
    }]);
    write(served.0.home(), "agent", &json!(["sdk/*"]), &config, "");
    served.rune(&["validate", "agent"]).ok();
    served.rune(&["run", "agent"]).ok();
    let done = called(&Api::of(&served.0), "sdk__who", &json!({})).await;
    assert_eq!(done["output"]["authorization"], "[redacted]", "{done}");
    assert_hidden(served.0.home());
}

#[tokio::test]
async fn a_server_is_where_the_operator_allows_one() {
    let Some(python) = python() else { return };
    let server = Http::start(&python, false).await;
    let toolset = json!(["sdk/add"]);
    let at = |url: &str| json!([{"name": "sdk", "url": url}]);
    let works = async |builder: TestDaemonBuilder, url: &str| {
        let served = Served(builder.start().await.unwrap());
        write(served.0.home(), "agent", &toolset, &at(url), "");
        served.rune(&["run", "agent"]).ok();
        let api = Api::of(&served.0);
        let done = called(&api, "sdk__add", &json!({"a": 2, "b": 3})).await;
        (done["output"] == json!({"sum": 5}), done.to_string())
    };
    // An address that the Runefile names is refused as those of other tools are.
    let served = Served(TestDaemon::builder(RUNE).start().await.unwrap());
    for url in [
        server.url().as_str(),
        "http://169.254.169.254/mcp",
        "http://10.0.0.1/mcp",
    ] {
        write(served.0.home(), "agent", &toolset, &at(url), "");
        let ran = served.rune(&["run", "agent", "hi"]).ends(2);
        assert!(ran.stderr.contains("tools.allow_private"), "{}", ran.stderr);
    }
    // A name as well, once it is looked up.
    let named = server.url().replace("127.0.0.1", "localhost");
    let (worked, said) = works(TestDaemon::builder(RUNE), &named).await;
    assert!(!worked && said.contains("loopback"), "{said}");
    // The operator opens it, or says himself where the server is.
    let opened = TestDaemon::builder(RUNE).env("RUNE_ALLOW_PRIVATE", "localhost");
    let (worked, said) = works(opened, &named).await;
    assert!(worked, "{said}");
    let elsewhere = TestDaemon::builder(RUNE).env("RUNE_MCP_SDK_URL", server.url());
    let (worked, said) = works(elsewhere, "https://mcp.example.org/mcp").await;
    assert!(worked, "{said}");
    // Never the metadata of a cloud.
    let metadata = TestDaemon::builder(RUNE).env("RUNE_MCP_SDK_URL", "http://169.254.169.254/mcp");
    let served = Served(metadata.start().await.unwrap());
    write(
        served.0.home(),
        "agent",
        &toolset,
        &at("https://mcp.example.org/mcp"),
        "",
    );
    let ran = served.rune(&["run", "agent", "hi"]).ends(2);
    assert!(ran.stderr.contains("cloud metadata"), "{}", ran.stderr);
}
