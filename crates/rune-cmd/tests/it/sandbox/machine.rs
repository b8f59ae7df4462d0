//! Grants that cannot be kept, and machines that lack a part of the sandbox.

use super::*;

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
