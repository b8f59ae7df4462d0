//! Tools that want more than they get.

use super::*;

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
