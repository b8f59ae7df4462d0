//! Process tools in their sandbox: what is granted works, everything else fails closed, with the reason in the journal, and
//! leaves nothing running.

mod grants;
mod hostile;
mod machine;
mod network;

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
