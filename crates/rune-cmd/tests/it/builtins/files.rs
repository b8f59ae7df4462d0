use serde_json::json;

use super::Rig;

const TOOLS: [&str; 6] = [
    "file-write",
    "file-read",
    "file-list",
    "apply-patch",
    "shell-exec",
    "system-time",
];

#[tokio::test]
async fn files_of_the_workspace_are_written_read_listed_patched_and_seen_by_commands() {
    let rig = Rig::start().await;
    rig.deploy("writer", &TOOLS, "");
    let workspace = rig.served.0.data_dir().join("workspaces/dev/writer");
    let on_disk = |path: &str| std::fs::read_to_string(workspace.join(path)).ok();

    let write = json!({"path": "notes/a.txt", "content": "one\ntwo\n"});
    rig.call("writer", "file-write", write).await;
    let more = json!({"path": "notes/a.txt", "content": "three\n", "append": true});
    rig.call("writer", "file-write", more).await;
    assert_eq!(on_disk("notes/a.txt").unwrap(), "one\ntwo\nthree\n");

    let part = json!({"path": "notes/a.txt", "offset": 2, "limit": 1});
    let part = rig.call("writer", "file-read", part).await;
    assert_eq!(part["content"], "two\n", "{part}");

    std::fs::write(workspace.join("b.log"), "from outside").unwrap();
    let listed = json!({"recursive": true, "pattern": "*.log"});
    let listed = rig.call("writer", "file-list", listed).await;
    assert_eq!(listed["entries"].as_array().unwrap().len(), 1, "{listed}");
    assert_eq!(listed["entries"][0]["path"], "b.log", "{listed}");
    assert_eq!(listed["entries"][0]["size"], 12, "{listed}");

    let patch = "--- a/notes/a.txt\n+++ b/notes/a.txt\n@@ -1,3 +1,3 @@\n one\n-two\n+2\n three\n\
                 --- /dev/null\n+++ b/new.txt\n@@ -0,0 +1 @@\n+new\n";
    rig.call("writer", "apply-patch", json!({ "patch": patch }))
        .await;
    assert_eq!(on_disk("notes/a.txt").unwrap(), "one\n2\nthree\n");
    assert_eq!(on_disk("new.txt").unwrap(), "new\n");
    let stale = rig
        .try_call("writer", "apply-patch", json!({ "patch": patch }))
        .await;
    assert!(stale.is_err(), "{stale:?}");
    assert_eq!(on_disk("new.txt").unwrap(), "new\n");

    let command = json!({"command": "cat new.txt; wc -l < notes/a.txt; echo made > by-shell"});
    let ran = rig.call("writer", "shell-exec", command).await;
    assert_eq!(ran["exit_code"], 0, "{ran}");
    assert_eq!(ran["stdout"], "new\n3\n", "{ran}");
    assert_eq!(on_disk("by-shell").unwrap(), "made\n");

    for escape in ["../secret", "/etc/passwd", "notes/../../secret"] {
        let read = json!({ "path": escape });
        let refused = rig.try_call("writer", "file-read", read).await;
        assert!(refused.is_err(), "{escape}: {refused:?}");
        let write = json!({"path": escape, "content": "x"});
        let refused = rig.try_call("writer", "file-write", write).await;
        assert!(refused.is_err(), "{escape}: {refused:?}");
    }
    assert!(!workspace.join("../secret").exists());
}

#[tokio::test]
async fn what_is_no_file_is_refused_and_nothing_waits_for_it() {
    let rig = Rig::start().await;
    rig.deploy("writer", &TOOLS, "timeout_ms: 20000\n");
    let workspace = rig.served.0.data_dir().join("workspaces/dev/writer");
    let command = "mkfifo pipe; ln -s pipe link; ln -s /dev/zero device; echo text > file";
    rig.call("writer", "shell-exec", json!({"command": command}))
        .await;
    let _socket = std::os::unix::net::UnixListener::bind(workspace.join("socket")).unwrap();
    for path in ["pipe", "link", "socket"] {
        let edit = format!("--- a/{path}\n+++ b/{path}\n@@ -1 +1 @@\n-a\n+b\n");
        let remove = format!("--- a/{path}\n+++ /dev/null\n@@ -1 +0,0 @@\n-a\n");
        let rename = format!("--- a/file\n+++ b/{path}\n@@ -1 +1 @@\n-text\n+b\n");
        for (tool, input) in [
            ("file-read", json!({"path": path})),
            ("file-write", json!({"path": path, "content": "x"})),
            (
                "file-write",
                json!({"path": path, "content": "x", "append": true}),
            ),
            ("apply-patch", json!({"patch": edit})),
            ("apply-patch", json!({"patch": remove})),
            ("apply-patch", json!({"patch": rename})),
        ] {
            let answer = rig.try_call("writer", tool, input.clone()).await;
            let error = answer.unwrap_err();
            assert!(error.contains("is not a regular file"), "{input}: {error}");
        }
    }
    let read = rig.try_call("writer", "file-read", json!({"path": "device"}));
    let error = read.await.unwrap_err();
    assert!(error.contains("outside the workspace"), "{error}");
    let listed = rig.call("writer", "file-list", json!({"recursive": true}));
    let listed = listed.await;
    let kinds: Vec<_> = listed["entries"].as_array().unwrap().iter().collect();
    let kinds: Vec<_> = kinds
        .iter()
        .map(|one| (&one["path"], &one["type"]))
        .collect();
    let expected = [
        ("device", "symlink"),
        ("file", "file"),
        ("link", "symlink"),
        ("pipe", "other"),
        ("socket", "other"),
    ];
    let expected = expected.map(|(path, kind)| (json!(path), json!(kind)));
    let expected: Vec<_> = expected.iter().map(|(path, kind)| (path, kind)).collect();
    assert_eq!(kinds, expected, "{listed}");
    assert_eq!(
        std::fs::read_to_string(workspace.join("file")).unwrap(),
        "text\n"
    );
}

#[tokio::test]
async fn the_time_is_that_of_now_in_the_zone_that_is_asked_for() {
    let rig = Rig::start().await;
    rig.deploy("writer", &TOOLS, "");
    let seconds = || jiff::Timestamp::now().as_second();
    let before = seconds();
    let tokyo = json!({"timezone": "Asia/Tokyo"});
    let told = rig.call("writer", "system-time", tokyo).await;
    let at = told["unix_seconds"].as_i64().unwrap();
    assert!((before..=seconds()).contains(&at), "{told}");
    assert_eq!(told["utc_offset"], "+09:00");
    let time: jiff::Timestamp = told["time"].as_str().unwrap().parse().unwrap();
    assert_eq!(time.as_second(), at, "{told}");
}
