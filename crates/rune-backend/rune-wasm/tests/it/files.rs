//! What a guest can reach of the file system.

use std::fs;
use std::os::unix::fs::symlink;

use rune_tools::ToolErrorKind;
use serde_json::json;

use crate::sandbox::Sandbox;

#[tokio::test]
async fn the_workspace_can_be_read_and_written() {
    let sandbox = Sandbox::new();
    fs::write(sandbox.path("note.txt"), "inside").unwrap();
    let tool = sandbox.guest("files", "capabilities: [filesystem]\n");
    let read = sandbox
        .call(&tool, json!({"path": "note.txt"}))
        .await
        .unwrap();
    assert_eq!(read, json!({"content": "inside"}));
    let wrote = sandbox
        .call(&tool, json!({"into": "new.txt"}))
        .await
        .unwrap();
    assert_eq!(wrote, json!({"errno": 0}));
    assert_eq!(fs::read_to_string(sandbox.path("new.txt")).unwrap(), "hi");
}

#[tokio::test]
async fn nothing_leads_out_of_what_was_granted() {
    let sandbox = Sandbox::new();
    let outside = sandbox.outer().join("outside.txt");
    symlink(&outside, sandbox.path("absolute-link")).unwrap();
    symlink("../outside.txt", sandbox.path("relative-link")).unwrap();
    symlink("..", sandbox.path("up")).unwrap();
    let tool = sandbox.guest("files", "capabilities: [filesystem]\n");
    let made = sandbox.call(&tool, json!({"link": "made"})).await.unwrap();
    let outside = outside.to_str().unwrap();
    for path in [
        "../outside.txt",
        "./x/../../outside.txt",
        outside,
        "absolute-link",
        "relative-link",
        "up/outside.txt",
        "made/etc/hostname",
        "/etc/hostname",
    ] {
        for verb in ["path", "into"] {
            let answer = sandbox.call(&tool, json!({verb: path})).await.unwrap();
            let errno = answer["errno"].as_u64();
            assert!(
                errno.is_some_and(|errno| errno > 0),
                "{verb} {path}: {answer}; link: {made}"
            );
        }
    }
    assert_eq!(fs::read_to_string(outside).unwrap(), "outside");
}

#[tokio::test]
async fn without_a_grant_there_is_nothing() {
    let sandbox = Sandbox::new();
    fs::write(sandbox.path("note.txt"), "inside").unwrap();
    let tool = sandbox.guest("files", "");
    let answer = sandbox
        .call(&tool, json!({"path": "note.txt"}))
        .await
        .unwrap();
    assert!(answer["errno"].as_u64().unwrap() > 0, "{answer}");
}

#[tokio::test]
async fn a_directory_is_granted_alone_and_for_reading() {
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.path("data")).unwrap();
    fs::write(sandbox.path("data/note.txt"), "data").unwrap();
    fs::write(sandbox.path("note.txt"), "beside").unwrap();
    let tool = sandbox.guest("files", "capabilities: [\"filesystem:ro:data\"]\n");
    let read = sandbox
        .call(&tool, json!({"path": "note.txt"}))
        .await
        .unwrap();
    assert_eq!(read, json!({"content": "data"}));
    for (verb, path) in [
        ("path", "../note.txt"),
        ("into", "new.txt"),
        ("into", "note.txt"),
    ] {
        let answer = sandbox.call(&tool, json!({verb: path})).await.unwrap();
        assert!(
            answer["errno"].as_u64().is_some_and(|errno| errno > 0),
            "{path}: {answer}"
        );
    }
    assert_eq!(
        fs::read_to_string(sandbox.path("data/note.txt")).unwrap(),
        "data"
    );
    // One that may be written is made.
    let tool = sandbox.guest("files", "capabilities: [\"filesystem:rw:made/here\"]\n");
    sandbox
        .call(&tool, json!({"into": "new.txt"}))
        .await
        .unwrap();
    assert_eq!(
        fs::read_to_string(sandbox.path("made/here/new.txt")).unwrap(),
        "hi"
    );
}

#[tokio::test]
async fn a_granted_directory_is_never_one_outside() {
    let sandbox = Sandbox::new();
    symlink("..", sandbox.path("up")).unwrap();
    for (granted, kind) in [
        ("filesystem:rw:up", ToolErrorKind::Denied),
        ("filesystem:ro:../", ToolErrorKind::Denied),
        ("filesystem:ro:gone", ToolErrorKind::NotFound),
    ] {
        let tool = sandbox.guest("files", &format!("capabilities: [\"{granted}\"]\n"));
        let error = sandbox.fails(&tool, json!({"path": "outside.txt"})).await;
        assert_eq!(error.kind, kind, "{granted}: {error}");
    }
}
