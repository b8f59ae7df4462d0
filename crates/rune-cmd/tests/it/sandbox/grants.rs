//! What a tool sees and may do.

use super::*;

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
            rune_testkit::skip(&format!("{program} is not installed"));
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
