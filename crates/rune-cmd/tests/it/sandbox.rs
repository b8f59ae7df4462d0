//! Process tools in their sandbox: what is granted works, everything else fails closed, with the reason in the journal, and
//! leaves nothing running.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rune_testkit::TestDaemon;
use serde_json::{Value, json};

use crate::cancel::processes_of;
use crate::home::{RUNE, Served};
use crate::hostile::{assert_fail_closed, entry};
use crate::wire::{Api, LIMIT, POLL};

/// Tries each step of its input and answers what came of it: `ok` with a value, or the error.
pub(crate) const TRY: &str = r#"
import ctypes, json, os, socket, subprocess, sys, urllib.request
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *args):
    result = libc.syscall(number, *args)
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result
def read(path):
    with open(path, "rb") as file:
        return file.read(4096).decode("utf-8", "replace")
def write(path):
    with open(path, "w") as file:
        file.write("x")
def link(target, name):
    os.symlink(target, name)
    return read(name)
def tcp(host, port):
    with socket.create_connection((host, port), 5) as peer:
        peer.sendall(b"hello")
def udp(host, port):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.sendto(b"hello", (host, port))
def family(number, kind):
    socket.socket(number, kind).close()
def fetch(url):
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.read().decode()
def tunnel(host, port):
    proxy = os.environ["https_proxy"].removeprefix("http://").split(":")
    with socket.create_connection((proxy[0], int(proxy[1])), 5) as peer:
        peer.sendall(f"CONNECT {host}:{port} HTTP/1.1\r\n\r\n".encode())
        answer = peer.recv(4096).decode()
        if not answer.startswith("HTTP/1.1 200"):
            raise OSError(answer)
        peer.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        text = b""
        while more := peer.recv(4096):
            text += more
        return text.decode().split("\r\n\r\n")[1]
def run(*args):
    return subprocess.run(args, check=True, capture_output=True, text=True).stdout
steps = {
    "read": read, "write": write, "link": link, "tcp": tcp, "udp": udp, "family": family, "fetch": fetch,
    "tunnel": tunnel, "run": run, "list": lambda path: sorted(os.listdir(path)), "syscall": call,
    "cwd": os.getcwd, "env": lambda name: os.environ.get(name), "mkdir": os.mkdir, "remove": os.remove,
    "rename": os.rename, "uid": os.getuid, "caps": lambda: [l for l in read("/proc/self/status").splitlines() if l[:3] == "Cap"],
    "processes": lambda: [name for name in os.listdir("/proc") if name.isdigit()],
}
answers = []
for name, *args in json.load(sys.stdin)["steps"]:
    try:
        answers.append({"ok": steps[name](*args)})
    except Exception as error:
        answers.append({"error": str(error)})
json.dump(answers, sys.stdout)
"#;

/// A daemon with the agent `caged`, whose offline model calls the tool that it is told to.
struct Rig {
    served: Served,
    api: Api,
}

impl Rig {
    /// Tools by name: extension, source, and the rest of the description.
    async fn start(tools: &[(&str, &str, &str, &str)]) -> Self {
        Self::with(TestDaemon::builder(RUNE), tools).await
    }

    async fn with(
        builder: rune_testkit::TestDaemonBuilder,
        tools: &[(&str, &str, &str, &str)],
    ) -> Self {
        let served = Served(builder.start().await.unwrap());
        let dir = served.0.home().join("caged");
        std::fs::create_dir_all(dir.join("tools")).unwrap();
        let mut toolset: Vec<&str> = tools.iter().map(|(name, ..)| *name).collect();
        toolset.extend(["rune@shell-exec", "rune@process-start", "rune@process-poll"]);
        let runefile = format!(
            "name: caged\nversion: 0.1.0\ninstructions: Call.\ndefault_model: default\ntoolset: {}\n\
             models: {{providers: [offline], model_mapping: {{default: offline}}}}\n",
            json!(toolset)
        );
        std::fs::write(dir.join("Runefile"), runefile).unwrap();
        for (name, extension, source, more) in tools {
            let file = |extension: &str| dir.join(format!("tools/{name}.{extension}"));
            let yaml = format!("name: {name}\nmodule: tools/{name}.{extension}\n{more}");
            std::fs::write(file("yaml"), yaml).unwrap();
            std::fs::write(file(extension), source).unwrap();
        }
        served.rune(&["run", "caged"]).ok();
        let api = Api::of(&served.0);
        Self { served, api }
    }

    fn workspace(&self) -> PathBuf {
        self.served.0.data_dir().join("workspaces/dev/caged")
    }

    /// The entry of a call's result in the journal. Nothing of the call runs any more.
    async fn called(&self, tool: &str, input: &Value) -> Value {
        let id = self
            .api
            .start("caged", &format!("/tool {tool} {input}"))
            .await;
        let events = self.api.events(&id, 0).await.rest().await;
        let done = events.iter().find(|event| event.name == "tool_done");
        assert!(done.is_some(), "{tool} was not called: {events:?}");
        no_processes(&id).await;
        done.unwrap().data.clone()
    }

    /// What came of the steps.
    async fn tries(&self, tool: &str, steps: Value) -> Vec<Value> {
        let done = self.called(tool, &json!({"steps": steps})).await;
        let answers = done["output"].as_array();
        assert!(answers.is_some(), "{done}");
        answers.unwrap().clone()
    }

    async fn error(&self, tool: &str, input: Value) -> String {
        let done = self.called(tool, &input).await;
        assert!(done["error"]["message"].is_string(), "{tool}: {done}");
        done["error"]["message"].as_str().unwrap().to_owned()
    }
}

/// Nothing of a request runs any more.
async fn no_processes(id: &str) {
    let gone = async {
        while !processes_of(id).is_empty() {
            tokio::time::sleep(POLL).await;
        }
    };
    let gone = tokio::time::timeout(Duration::from_secs(2), gone).await;
    assert!(gone.is_ok(), "{id} left {:?}", processes_of(id));
}

/// Every one of them failed.
#[track_caller]
pub(crate) fn assert_refused(steps: &Value, answers: &[Value]) {
    let steps = steps.as_array().unwrap();
    assert_eq!(steps.len(), answers.len());
    for (step, answer) in steps.iter().zip(answers) {
        assert!(answer["error"].is_string(), "{step}: {answer}");
    }
}

/// Every one of them worked.
#[track_caller]
pub(crate) fn assert_done(steps: &Value, answers: &[Value]) {
    for (step, answer) in steps.as_array().unwrap().iter().zip(answers) {
        assert!(answer.get("ok").is_some(), "{step}: {answer}");
    }
}

#[tokio::test]
async fn a_tool_sees_its_package_and_what_it_is_granted() {
    let outer = tempfile::tempdir().unwrap();
    let (shared, kept) = (outer.path().join("shared"), outer.path().join("kept"));
    std::fs::create_dir_all(shared.join(".git")).unwrap();
    std::fs::create_dir_all(&kept).unwrap();
    for file in [
        shared.join(".git/config"),
        shared.join("Runefile"),
        kept.join("text"),
    ] {
        std::fs::write(file, "text").unwrap();
    }
    let grants = format!(
        "capabilities: [filesystem, \"filesystem:rw:{}\", \"filesystem:ro:{}\"]\n",
        shared.display(),
        kept.display()
    );
    let rig = Rig::start(&[
        ("try", "py", TRY, grants.as_str()),
        ("bare", "py", TRY, ""),
        (
            "part",
            "py",
            TRY,
            "capabilities: [\"filesystem:rw:out/deep\"]\n",
        ),
    ])
    .await;
    let path = |dir: &Path, name: &str| dir.join(name).display().to_string();
    let workspace = rig.workspace().canonicalize().unwrap();
    let steps = json!([
        ["write", "made"],
        ["read", "made"],
        ["write", path(&shared, "made")],
        ["read", path(&kept, "text")],
        ["mkdir", path(&shared, "dir")],
        ["rename", path(&shared, "made"), path(&shared, "dir/moved")],
        ["read", path(&shared, ".git/config")],
        ["write", "/tmp/private"],
        ["run", "sh", "-c", "echo hi | tr a-z A-Z"],
        ["read", "/dev/null"],
        ["write", "/dev/null"],
        ["read", "/proc/self/status"],
    ]);
    assert_done(&steps, &rig.tries("try", steps.clone()).await);
    assert_eq!(
        std::fs::read_to_string(workspace.join("made")).unwrap(),
        "x"
    );
    assert_eq!(
        std::fs::read_to_string(shared.join("dir/moved")).unwrap(),
        "x"
    );
    assert!(!Path::new("/tmp/private").exists());
    let steps = json!([
        ["write", path(&kept, "text")],
        ["write", path(&shared, ".git/config")],
        ["write", path(&shared, ".git/hook")],
        ["remove", path(&shared, "Runefile")],
        ["write", path(&shared, "Runefile")],
        ["rename", path(&shared, ".git"), path(&shared, "git")],
        ["read", path(outer.path(), "other")],
    ]);
    assert_refused(&steps, &rig.tries("try", steps.clone()).await);
    // Owners on disk are the daemon's, whoever the tool is inside.
    let owner =
        |path: PathBuf| std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(path).unwrap());
    assert_eq!(owner(workspace.join("made")), owner(workspace.clone()));

    // Without the grant there is no workspace.
    let steps = json!([["cwd"], ["env", "HOME"], ["env", "TMPDIR"], ["processes"]]);
    let answers = rig.tries("bare", steps).await;
    assert_eq!(
        answers[..3],
        [
            json!({"ok": "/tmp"}),
            json!({"ok": "/tmp"}),
            json!({"ok": "/tmp"})
        ]
    );
    assert_eq!(answers[3]["ok"].as_array().unwrap().len(), 2, "{answers:?}");
    let steps = json!([
        ["read", path(&workspace, "made")],
        ["list", path(&workspace, "")]
    ]);
    assert_refused(&steps, &rig.tries("bare", steps.clone()).await);

    // A directory of the workspace, made where it is missing.
    let steps = json!([["write", "out/deep/made"]]);
    assert_done(&steps, &rig.tries("part", steps.clone()).await);
    assert!(workspace.join("out/deep/made").exists());
    let steps = json!([
        ["write", "out/made"],
        ["write", "elsewhere"],
        ["read", "made"]
    ]);
    assert_refused(&steps, &rig.tries("part", steps.clone()).await);
}

#[tokio::test]
async fn tools_in_every_language_work() {
    let rig = Rig::start(&[
        ("python", "py", "import json, sys, hashlib, ssl, sqlite3, multiprocessing, tempfile\nwith tempfile.TemporaryFile() as f: f.write(b'1')\njson.dump(json.load(sys.stdin), sys.stdout)", ""),
        ("shell", "sh", "file=$(mktemp)\ncat > \"$file\"\ncat \"$file\" | tee /dev/null", ""),
        ("node", "mjs", "import fs from 'node:fs';\nconst text = fs.readFileSync(0, 'utf8');\nawait new Promise(done => setTimeout(done, 5));\nfs.writeFileSync('/tmp/a', text);\nconsole.log(JSON.stringify(JSON.parse(fs.readFileSync('/tmp/a', 'utf8'))));", "timeout_ms: 20000\n"),
    ])
    .await;
    for (tool, program) in [("python", "python3"), ("shell", "sh"), ("node", "node")] {
        if rune_tools::find_program(program, "/usr/local/bin:/usr/bin:/bin").is_none() {
            eprintln!("skipped: {program} is not installed");
            continue;
        }
        let input = json!({"text": "grüße"});
        let done = rig.called(tool, &input).await;
        assert_eq!(done["output"], input, "{tool}: {done}");
    }
    let done = rig
        .called(
            "rune@shell-exec",
            &json!({"command": "echo made > file; cat file; id -u; ls /proc | grep -c '^[0-9]'"}),
        )
        .await;
    let stdout = done["output"]["stdout"].as_str().unwrap();
    assert!(stdout.starts_with("made\n"), "{done}");
    assert_eq!(
        std::fs::read_to_string(rig.workspace().join("file")).unwrap(),
        "made\n"
    );
}

#[tokio::test]
async fn files_of_others_are_out_of_reach() {
    let rig = Rig::start(&[("try", "py", TRY, "capabilities: [filesystem]\n")]).await;
    let home = rig.served.0.home().to_owned();
    std::fs::write(home.join("secret.txt"), "secret").unwrap();
    let other = rig.served.0.data_dir().join("workspaces/dev/other");
    std::fs::create_dir_all(&other).unwrap();
    std::fs::write(other.join("notes"), "secret").unwrap();
    let workspace = rig.workspace();
    std::os::unix::fs::symlink(&home, workspace.join("home")).unwrap();
    let daemon = rig.served.0.pid().unwrap();
    let shown = |path: &Path| path.display().to_string();
    let steps = json!([
        ["read", "/etc/shadow"],
        ["list", "/root"],
        ["list", "/home"],
        ["list", "/var"],
        ["read", "/etc/sudoers"],
        ["read", shown(&home.join("secret.txt"))],
        ["read", "home/secret.txt"],
        ["read", "../other/notes"],
        ["read", shown(&other.join("notes"))],
        ["list", shown(&rig.served.0.data_dir().join("objects"))],
        ["read", shown(&rig.served.0.data_dir().join("rune.db"))],
        ["link", "/etc/shadow", "a"],
        ["link", shown(&home.join("secret.txt")), "b"],
        ["link", "/proc/self/root/etc/shadow", "c"],
        ["link", "/proc/1/root/etc/shadow", "d"],
        ["read", format!("/proc/{daemon}/environ")],
        ["list", format!("/proc/{daemon}/root")],
        ["read", "/proc/1/environ"],
        ["read", "/proc/1/mem"],
        ["read", "/proc/1/fd/0"],
        ["list", "/proc/1/cwd/root"],
        ["read", "/proc/kcore"],
        ["write", "/proc/sysrq-trigger"],
        ["write", "/proc/sys/kernel/hostname"],
        ["list", "/sys"],
        ["read", "/dev/mem"],
        ["list", "/dev/disk"],
        ["write", "/usr/bin/made"],
        ["write", "/etc/made"],
        ["write", "/made"],
        ["mkdir", "/usr/made"],
        ["write", shown(&home.join("made"))],
        ["write", "../made"],
        ["write", shown(&rig.served.0.data_dir().join("made"))],
        ["run", "su", "-c", "true"],
        ["run", "mount", "-t", "tmpfs", "none", "/tmp"],
        ["run", "unshare", "-Ur", "true"],
        ["run", "chroot", "/", "true"],
    ]);
    assert_refused(&steps, &rig.tries("try", steps.clone()).await);
    for left in ["/usr/bin/made", "/etc/made", "/made", "/usr/made"] {
        assert!(!Path::new(left).exists(), "{left}");
    }
    let none = ["CapEff", "CapPrm", "CapInh", "CapBnd", "CapAmb"];
    let answers = rig.tries("try", json!([["caps"]])).await;
    let caps: BTreeMap<&str, &str> = answers[0]["ok"]
        .as_array()
        .unwrap()
        .iter()
        .map(|line| line.as_str().unwrap().split_once(":\t").unwrap())
        .collect();
    for set in none {
        assert_eq!(caps[set], "0000000000000000", "{caps:?}");
    }
}

#[tokio::test]
#[cfg(target_arch = "x86_64")]
async fn system_calls_of_no_use_are_refused() {
    let rig = Rig::start(&[("try", "py", TRY, "")]).await;
    let numbers = [
        ("ptrace", 101),
        ("mount", 165),
        ("unshare", 272),
        ("setns", 308),
        ("bpf", 321),
        ("userfaultfd", 323),
        ("perf_event_open", 298),
        ("io_uring_setup", 425),
        ("keyctl", 250),
        ("add_key", 248),
        ("kexec_load", 246),
        ("init_module", 175),
        ("process_vm_readv", 310),
        ("pidfd_getfd", 438),
        ("open_tree", 428),
        ("fsopen", 430),
        ("clone in a user namespace", 56),
        ("an x32 call", 0x4000_0027),
    ];
    let steps: Vec<Value> = numbers
        .iter()
        .map(|(_, number)| json!(["syscall", number, 0x1000_0000, 0, 0, 0, 0]))
        .collect();
    let answers = rig.tries("try", json!(steps)).await;
    for ((name, _), answer) in numbers.iter().zip(&answers) {
        let error = answer["error"].as_str().unwrap_or_default();
        assert!(
            error.contains("Operation not permitted"),
            "{name}: {answer}"
        );
    }
}

#[tokio::test]
async fn nothing_is_connected_to_that_is_not_granted() {
    let rig = Rig::start(&[("try", "py", TRY, "")]).await;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    udp.set_nonblocking(true).unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    let steps = json!([
        ["tcp", "127.0.0.1", port],
        ["tcp", "localhost", port],
        ["udp", "127.0.0.1", udp.local_addr().unwrap().port()],
        // netlink, packet, vsock, ALG.
        ["family", 16, 3],
        ["family", 17, 3],
        ["family", 40, 1],
        ["family", 38, 5],
        ["fetch", format!("http://127.0.0.1:{port}/")],
    ]);
    assert_refused(&steps, &rig.tries("try", steps.clone()).await);
    assert!(listener.accept().is_err());
    assert!(udp.recv(&mut [0; 16]).is_err());
}

/// Answers every request with its path, until it is dropped with the process.
pub(crate) fn echo_server() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for peer in listener.incoming() {
            let mut peer = peer.unwrap();
            let mut head = [0; 4096];
            let count = peer.read(&mut head).unwrap_or_default();
            let head = String::from_utf8_lossy(&head[..count]).into_owned();
            let path = head
                .split_whitespace()
                .nth(1)
                .unwrap_or_default()
                .to_owned();
            let length = path.len();
            let _ = write!(
                peer,
                "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{path}"
            );
        }
    });
    port
}

#[tokio::test]
async fn a_granted_host_is_reached_through_the_filter_and_others_are_not() {
    let (port, other) = (echo_server(), echo_server());
    let granted = format!("capabilities: [\"network:localhost:{port}\"]\n");
    let open = "capabilities: [network]\n";
    let rig = Rig::with(
        TestDaemon::builder(RUNE).env("RUNE_ALLOW_PRIVATE", "localhost"),
        &[
            ("try", "py", TRY, granted.as_str()),
            ("open", "py", TRY, open),
            (
                "fails",
                "py",
                &format!("{TRY}\nsys.exit(3)"),
                granted.as_str(),
            ),
            (
                "hidden",
                "py",
                TRY,
                &format!("capabilities: [\"network:127.0.0.1:{port}\"]\n"),
            ),
        ],
    )
    .await;
    let steps = json!([
        ["fetch", format!("http://localhost:{port}/by/url")],
        ["tunnel", "localhost", port]
    ]);
    let answers = rig.tries("try", steps).await;
    assert_eq!(answers, [json!({"ok": "/by/url"}), json!({"ok": "/"})]);
    let refused = json!([
        ["fetch", format!("http://localhost:{other}/")],
        ["tunnel", "localhost", other],
        ["tunnel", "example.org", 443],
        ["fetch", format!("http://127.0.0.1:{port}/")],
        // Past the filter.
        ["tcp", "127.0.0.1", port],
        ["udp", "127.0.0.1", port],
        ["family", 16, 3],
    ]);
    assert_refused(&refused, &rig.tries("try", refused.clone()).await);
    // The journal names what was refused where the tool failed.
    let steps = json!([["fetch", format!("http://localhost:{other}/")]]);
    let error = rig.error("fails", json!({"steps": steps})).await;
    assert!(
        error.contains("sandbox:")
            && error.contains(&format!("`localhost:{other}` is not granted")),
        "{error}"
    );
    // Granted by the tool, and not opened by the operator.
    let steps = json!([["fetch", format!("http://127.0.0.1:{port}/")]]);
    let answers = rig.tries("hidden", steps.clone()).await;
    assert_refused(&steps, &answers);
    // Every host: nothing is in between.
    let steps = json!([
        ["tcp", "127.0.0.1", port],
        ["fetch", format!("http://127.0.0.1:{port}/direct")]
    ]);
    assert_done(&steps, &rig.tries("open", steps.clone()).await);
}

/// Becomes a daemon: two forks, a session of its own, no pipe kept.
pub(crate) const DAEMONISE: &str = r#"
import os, signal, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        for n in range(3):
            os.close(n)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        time.sleep(600)
    os._exit(0)
print("{}")
"#;

const STUBBORN: &str = r#"
import os, signal, subprocess, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
subprocess.Popen(["sleep", "600"], start_new_session=True)
time.sleep(600)
"#;

const HOARD: &str = "held = []\nwhile True: held.append(bytearray(16 << 20))";

/// Fills segments of System V and lets go of each.
const LEAVE: &str = r#"
import ctypes, time
libc = ctypes.CDLL(None, use_errno=True)
libc.shmat.restype = ctypes.c_void_p
libc.shmat.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_int]
libc.shmdt.argtypes = [ctypes.c_void_p]
size = 32 << 20
for n in range(8):
    at = libc.shmat(libc.shmget(0, size, 0o1600), None, 0)
    ctypes.memset(at, 1, size)
    libc.shmdt(at)
time.sleep(600)
"#;

/// Has children work whose time it does not take over.
const ORPHAN: &str = r#"
import os, signal, time
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for n in range(100):
    if os.fork() == 0:
        end = time.process_time() + 0.4
        while time.process_time() < end:
            pass
        os._exit(0)
    try:
        os.wait()
    except ChildProcessError:
        pass
"#;

/// Shares its greed among children.
const SPREAD: &str = "import mmap, os, time
for n in range(4):
    if os.fork() == 0:
        held = mmap.mmap(-1, 48 << 20)
        for at in range(0, len(held), 4096): held[at] = 1
        time.sleep(600)
time.sleep(600)";

const CONNECT: &str = "import json, socket, sys
socket.create_connection((\"127.0.0.1\", json.load(sys.stdin)[\"port\"]), 5)";

const RESOLVE: &str = "import socket\nsocket.getaddrinfo(\"example.org\", 443)";

/// The path of its input.
const PATH: &str = "path=$(sed 's/.*\"path\":\"\\([^\"]*\\)\".*/\\1/')\n";

#[tokio::test]
async fn memory_and_sockets_that_nobody_counts_are_not_to_be_had() {
    let rig = Rig::start(&[("try", "py", TRY, "")]).await;
    // memfd_create, memfd_secret: as on a kernel that does not know them.
    let steps = json!([["syscall", 319, 0, 0], ["syscall", 447, 0]]);
    for answer in rig.tries("try", steps).await {
        let error = answer["error"].as_str().unwrap_or_default();
        assert!(error.contains("Function not implemented"), "{answer}");
    }
    // socketpair of AF_INET, AF_NETLINK and AF_ALG.
    let steps = json!([
        ["syscall", 53, 2, 1, 0, 0],
        ["syscall", 53, 16, 3, 0, 0],
        ["syscall", 53, 38, 5, 0, 0]
    ]);
    for answer in rig.tries("try", steps).await {
        let error = answer["error"].as_str().unwrap_or_default();
        assert!(error.contains("Operation not permitted"), "{answer}");
    }
}

#[tokio::test]
async fn a_granted_path_that_another_tool_can_change_leads_nowhere_else() {
    let outer = tempfile::tempdir().unwrap();
    let (shared, secret) = (outer.path().join("shared"), outer.path().join("secret"));
    std::fs::create_dir_all(shared.join("part")).unwrap();
    std::fs::create_dir(&secret).unwrap();
    std::fs::write(secret.join("text"), "the secret").unwrap();
    let part = shared.join("part").display().to_string();
    let writes = format!("capabilities: [\"filesystem:rw:{}\"]\n", shared.display());
    let both = format!(
        "capabilities: [\"filesystem:rw:{}\", \"filesystem:ro:{part}\"]\n",
        shared.display()
    );
    let rig = Rig::start(&[("writes", "py", TRY, &writes), ("both", "py", TRY, &both)]).await;
    let steps = json!([["list", part]]);
    assert_done(&steps, &rig.tries("both", steps.clone()).await);
    let steps = json!([["run", "rmdir", part], ["run", "ln", "-s", secret, part]]);
    assert_done(&steps, &rig.tries("writes", steps.clone()).await);
    let steps = json!([["read", format!("{part}/text")]]);
    let error = rig.error("both", json!({"steps": steps})).await;
    assert!(error.contains(&part), "{error}");
    assert!(error.contains("sandbox: it was not started"), "{error}");
}

#[tokio::test]
async fn hostile_tools_fail_closed_are_journaled_and_leave_nothing_running() {
    let cat = format!("{PATH}cat \"$path\"\n");
    let link = format!("{PATH}ln -sf \"$path\" link && cat link\n");
    let write = format!("{PATH}echo made > \"$path\"\n");
    let files = "capabilities: [filesystem]\n";
    let some = "timeout_ms: 60000\nlimits: {processes: 32}\n";
    let small = "timeout_ms: 60000\nlimits: {memory_mb: 128}\n";
    let short = "timeout_ms: 60000\nlimits: {output_bytes: 100000}\n";
    let mut rig = Rig::start(&[
        ("cat", "sh", &cat, files),
        ("link", "sh", &link, files),
        ("write", "sh", &write, files),
        ("device", "sh", "mknod /tmp/disk b 8 0\n", ""),
        ("mounts", "sh", "mount -t tmpfs none /tmp\n", ""),
        ("connect", "py", CONNECT, ""),
        ("resolve", "py", RESOLVE, ""),
        ("bomb", "sh", "bomb() { bomb | bomb & }\nbomb\nsleep 2\n", some),
        ("forks", "sh", "for n in $(seq 200); do sleep 600 & done\nwait\n", some),
        ("threads", "py", "import threading, time\nfor n in range(200): threading.Thread(target=time.sleep, args=[600], daemon=True).start()", some),
        ("flood", "sh", "head -c 10737418240 /dev/zero; sleep 600\n", short),
        ("shout", "sh", "head -c 10737418240 /dev/zero >&2; sleep 600\n", short),
        ("stubborn", "py", STUBBORN, "timeout_ms: 1000\n"),
        ("hoard", "py", HOARD, small),
        ("spread", "py", SPREAD, small),
        ("leave", "py", LEAVE, small),
        ("fill", "sh", "head -c 1G /dev/zero > /tmp/big || exit 3\n", "timeout_ms: 60000\nlimits: {memory_mb: 64}\n"),
        ("spin", "sh", "(while :; do :; done) & (while :; do :; done)\n", "timeout_ms: 60000\nlimits: {cpu_ms: 300}\n"),
        ("orphan", "py", ORPHAN, "timeout_ms: 60000\nlimits: {cpu_ms: 1000}\n"),
        ("kill", "sh", "kill -9 1; kill -9 -1; echo '{}'\n", "timeout_ms: 60000\n"),
        ("daemonise", "py", DAEMONISE, "timeout_ms: 30000\n"),
        ("lingers", "sh", "setsid sh -c 'trap \"\" TERM HUP; sleep 600' &\nexit 3\n", "timeout_ms: 30000\n"),
    ])
    .await;
    let home = rig.served.0.home().to_owned();
    std::fs::write(home.join("secret.txt"), "the secret").unwrap();
    let data = rig.served.0.data_dir();
    let other = data.join("workspaces/dev/other");
    std::fs::create_dir_all(&other).unwrap();
    std::fs::write(other.join("notes"), "the secret").unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    let daemon = rig.served.0.pid().unwrap();
    let path = |path: &Path| json!({"path": path});
    let proc = |rest: &str| json!({"path": format!("/proc/{rest}")});
    let none = json!({});
    let (internal, limit) = ("internal", "limit_exceeded");
    let absent = "No such file or directory";
    let crowd = "may have 32 processes and threads (`limits.processes`)";
    let attempts = [
        ("cat", json!({"path": "/etc/shadow"}), internal, absent),
        ("cat", path(&home.join("secret.txt")), internal, absent),
        ("cat", path(&other.join("notes")), internal, absent),
        ("cat", json!({"path": "../other/notes"}), internal, absent),
        ("cat", path(&data.join("rune.db")), internal, absent),
        ("link", json!({"path": "/etc/shadow"}), internal, absent),
        ("link", path(&other.join("notes")), internal, absent),
        ("link", proc("self/root/etc/shadow"), internal, absent),
        (
            "link",
            proc("1/root/etc/shadow"),
            internal,
            "Permission denied",
        ),
        ("cat", proc(&format!("{daemon}/environ")), internal, absent),
        ("cat", proc("1/environ"), internal, "Permission denied"),
        (
            "write",
            path(&home.join("made")),
            internal,
            "Permission denied",
        ),
        (
            "write",
            json!({"path": "/usr/bin/made"}),
            internal,
            "Read-only file system",
        ),
        (
            "write",
            proc("sysrq-trigger"),
            internal,
            "cannot create /proc/sysrq-trigger",
        ),
        ("device", none.clone(), internal, "Operation not permitted"),
        ("mounts", none.clone(), internal, "permission denied"),
        (
            "connect",
            json!({"port": port}),
            internal,
            "Operation not permitted",
        ),
        (
            "resolve",
            none.clone(),
            internal,
            "Temporary failure in name resolution",
        ),
        ("bomb", none.clone(), limit, crowd),
        ("forks", none.clone(), limit, crowd),
        ("threads", none.clone(), limit, crowd),
        (
            "flood",
            none.clone(),
            "too_large",
            "wrote more than 100000 bytes",
        ),
        ("shout", none.clone(), "too_large", "wrote more than"),
        (
            "stubborn",
            none.clone(),
            "timeout",
            "did not end within 1000 ms",
        ),
        (
            "hoard",
            none.clone(),
            limit,
            "may have 128 MiB (`limits.memory_mb`)",
        ),
        (
            "spread",
            none.clone(),
            limit,
            "more than 128 MiB of memory (`limits.memory_mb`)",
        ),
        (
            "leave",
            none.clone(),
            limit,
            "more than 128 MiB of memory (`limits.memory_mb`)",
        ),
        ("fill", none.clone(), internal, "No space left on device"),
        (
            "spin",
            none.clone(),
            limit,
            "more than 300 ms of CPU time (`limits.cpu_ms`)",
        ),
        (
            "orphan",
            none.clone(),
            limit,
            "more than 1000 ms of CPU time (`limits.cpu_ms`)",
        ),
        ("lingers", none.clone(), internal, "ended with exit code 3"),
    ];
    assert_fail_closed(&mut rig.served, "caged", &attempts, no_processes).await;
    rig.api = Api::of(&rig.served.0);
    assert!(listener.accept().is_err());
    for left in ["/usr/bin/made", "/made"] {
        assert!(!Path::new(left).exists(), "{left}");
    }
    assert!(!home.join("made").exists());
    // A tool may become a daemon; the daemon ends with the call. `kill -1` reaches the tool's own processes; the first of
    // the namespace is out of its reach.
    for tool in ["daemonise", "kill"] {
        let done = rig.called(tool, &none).await;
        assert_eq!(done["output"], none, "{tool}: {done}");
    }
    let done = rig
        .called("rune@shell-exec", &json!({"command": "echo still well"}))
        .await;
    assert_eq!(done["output"]["stdout"], "still well\n", "{done}");
}

#[tokio::test]
async fn a_call_sees_nothing_of_another_session() {
    let hold = "echo 'the secret' > /tmp/mine; echo ready > ready; until [ -e go ]; do sleep 0.02; done; cat /tmp/mine >/dev/null && echo '{}'\n";
    let files = "timeout_ms: 60000\ncapabilities: [filesystem]\n";
    let rig = Rig::start(&[("hold", "sh", hold, files), ("try", "py", TRY, files)]).await;
    let id = rig.api.start("caged", "/tool hold {}").await;
    let ready = async {
        while !rig.workspace().join("ready").exists() {
            tokio::time::sleep(POLL).await;
        }
    };
    tokio::time::timeout(LIMIT, ready).await.unwrap();
    let held = processes_of(&id);
    assert!(!held.is_empty());
    let mut steps = vec![json!(["read", "/tmp/mine"])];
    for pid in &held {
        steps.push(json!(["read", format!("/proc/{pid}/environ")]));
        steps.push(json!(["list", format!("/proc/{pid}/root/tmp")]));
        steps.push(json!(["run", "sh", "-c", format!("kill -9 {pid}")]));
    }
    let steps = json!(steps);
    assert_refused(&steps, &rig.tries("try", steps.clone()).await);
    let answers = rig.tries("try", json!([["processes"]])).await;
    assert_eq!(answers[0]["ok"].as_array().unwrap().len(), 2, "{answers:?}");
    std::fs::write(rig.workspace().join("go"), "").unwrap();
    let entry = entry(&rig.api, &id).await;
    assert_eq!(entry.data["output"], json!({}), "{entry:?}");
    no_processes(&id).await;
}

#[tokio::test]
async fn a_command_in_the_background_is_confined_and_ends_with_the_daemon() {
    let mut rig = Rig::start(&[]).await;
    let command = "cat /etc/shadow; (setsid sleep 600 &); echo here > made; echo up; sleep 600";
    let input = format!("/tool rune@process-start {}", json!({"command": command}));
    let id = rig.api.start("caged", &input).await;
    rig.api.ended(&id).await;
    let up = async {
        while processes_of(&id).len() < 3 {
            tokio::time::sleep(POLL).await;
        }
    };
    tokio::time::timeout(LIMIT, up).await.unwrap();
    assert!(rig.workspace().join("made").exists());
    rig.served.0.kill9().unwrap();
    let gone = async {
        while !processes_of(&id).is_empty() {
            tokio::time::sleep(POLL).await;
        }
    };
    tokio::time::timeout(LIMIT, gone).await.unwrap();
}

#[tokio::test]
async fn grants_that_cannot_be_kept_are_refused() {
    let own = "capabilities: [\"filesystem:ro:${HOME}/.rune\"]\n";
    let root = "capabilities: [\"filesystem:ro:/\"]\n";
    let kernel = "capabilities: [\"filesystem:rw:/proc/sys\"]\n";
    let gone = "capabilities: [\"filesystem:ro:/no/such/thing\"]\n";
    let home = "capabilities: [\"filesystem:rw:${HOME}\"]\n";
    let escape = "capabilities: [\"filesystem:rw:out\"]\n";
    let rig = Rig::start(&[
        ("own", "py", TRY, own),
        ("root", "py", TRY, root),
        ("kernel", "py", TRY, kernel),
        ("gone", "py", TRY, gone),
        ("home", "py", TRY, home),
        ("escape", "py", TRY, escape),
    ])
    .await;
    let data = rig.served.0.data_dir();
    std::fs::create_dir_all(rig.workspace()).unwrap();
    std::os::unix::fs::symlink(rig.served.0.home(), rig.workspace().join("out")).unwrap();
    for (tool, expected) in [
        ("root", "cannot be granted"),
        ("kernel", "cannot be granted"),
        ("gone", "does not exist"),
        ("escape", "sandbox"),
    ] {
        let error = rig.error(tool, json!({"steps": []})).await;
        assert!(error.contains(expected), "{tool}: {error}");
    }
    if data.starts_with(rig.served.0.home()) {
        let shown = |path: PathBuf| path.display().to_string();
        let steps = json!([
            ["read", shown(data.join("rune.db"))],
            ["write", shown(data.join("made"))]
        ]);
        assert_refused(&steps, &rig.tries("home", steps.clone()).await);
        let steps = json!([["write", shown(rig.served.0.home().join("made"))]]);
        assert_done(&steps, &rig.tries("home", steps.clone()).await);
    }
}

#[tokio::test]
async fn the_operator_can_do_without() {
    let tools = [("try", "py", TRY, "capabilities: [filesystem]\n")];
    let rig = Rig::with(TestDaemon::builder(RUNE).env("RUNE_SANDBOX", "off"), &tools).await;
    let steps = json!([["read", "/etc/passwd"], ["list", "/var"]]);
    assert_done(&steps, &rig.tries("try", steps.clone()).await);
    let report = rig.served.rune(&["doctor"]).stdout;
    assert!(report.contains("sandbox: off"), "{report}");
}

/// The binary on a machine without user namespaces, where there is a way to pretend that.
pub(crate) fn without_namespaces(dir: &Path) -> Option<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    let path = dir.join("rune");
    let text = format!(
        "#!/bin/sh\nexec unshare -U --map-root-user sh -c 'echo 0 > /proc/sys/user/max_user_namespaces && exec {RUNE} \"$@\"' sh \"$@\"\n"
    );
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    let tried = std::process::Command::new(&path).arg("--version").output();
    tried.unwrap().status.success().then_some(path)
}

#[tokio::test]
async fn where_the_machine_lacks_a_part_it_is_named_and_the_operator_decides() {
    let dir = tempfile::tempdir().unwrap();
    let Some(rune) = without_namespaces(dir.path()) else {
        eprintln!("skipped: there is no way to be without user namespaces");
        return;
    };
    let port = echo_server();
    let hosts = format!("capabilities: [\"network:localhost:{port}\"]\n");
    let tools = [
        ("try", "py", TRY, "capabilities: [filesystem]\n"),
        ("hosts", "py", TRY, hosts.as_str()),
    ];
    let rig = Rig::with(TestDaemon::builder(&rune), &tools).await;
    for (tool, input) in [
        ("try", json!({"steps": []})),
        ("rune@shell-exec", json!({"command": "true"})),
    ] {
        let error = rig.error(tool, input).await;
        for part in [
            "sandbox: it was not started: namespaces:",
            "rune doctor",
            "RUNE_SANDBOX",
        ] {
            assert!(error.contains(part), "{tool}: {error}");
        }
    }
    let report = rig.served.rune(&["doctor"]).stdout;
    assert!(report.contains("missing: namespaces"), "{report}");

    let builder = TestDaemon::builder(&rune)
        .env("RUNE_SANDBOX", "best-effort")
        .env("RUNE_ALLOW_PRIVATE", "localhost");
    let rig = Rig::with(builder, &tools).await;
    let home = rig.served.0.home().display().to_string();
    let daemon = rig.served.0.pid().unwrap();
    let steps = json!([
        ["write", "made"],
        ["env", "TMPDIR"],
        ["run", "sh", "-c", "echo > $TMPDIR/made"]
    ]);
    let answers = rig.tries("try", steps.clone()).await;
    assert_done(&steps, &answers);
    let tmp = answers[1]["ok"].as_str().unwrap();
    assert!(
        tmp.starts_with("/tmp/rune-tool-") && !Path::new(tmp).exists(),
        "{tmp}"
    );
    let steps = json!([
        ["read", "/etc/shadow"],
        ["list", "/var"],
        ["list", home],
        ["write", "../made"],
        ["write", "/tmp/made"],
        ["read", format!("/proc/{daemon}/environ")],
        ["tcp", "127.0.0.1", port],
        ["udp", "127.0.0.1", port],
        ["syscall", 101, 0, 0, 0, 0],
    ]);
    assert_refused(&steps, &rig.tries("try", steps.clone()).await);
    let steps = json!([["tcp", "127.0.0.1", port], ["udp", "127.0.0.1", port]]);
    assert_refused(&steps, &rig.tries("hosts", steps.clone()).await);
    let steps = json!([["fetch", format!("http://localhost:{port}/by/url")]]);
    assert_done(&steps, &rig.tries("hosts", steps.clone()).await);
    let report = rig.served.rune(&["doctor"]).stdout;
    assert!(report.contains("sandbox: missing"), "{report}");
}

#[test]
fn doctor_says_what_this_machine_can_do() {
    let report = crate::home::Home::new().rune(&["doctor"]).stdout;
    assert!(
        report.contains("sandbox: complete: namespaces, Landlock, seccomp"),
        "{report}"
    );
}
