//! What a guest can reach of the file system.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use rune_tools::ToolErrorKind;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::json;

use crate::sandbox::Sandbox;

fn make_pipe(path: &Path) {
    mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
}

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

#[tokio::test]
async fn a_named_pipe_is_refused_and_not_waited_for() {
    let sandbox = Sandbox::new();
    make_pipe(&sandbox.path("pipe"));
    symlink("pipe", sandbox.path("link")).unwrap();
    fs::write(sandbox.path("file"), "").unwrap();
    // Preview 1: a number of its own; preview 2: one more than that of the case, which is the first.
    for (guest, refused) in [("files", json!({"errno": 2})), ("opens", json!("001"))] {
        let tool = sandbox.guest(guest, "capabilities: [filesystem]\n");
        for (verb, path) in [
            ("path", "pipe"),
            ("into", "pipe"),
            ("path", "link"),
            ("into", "link"),
        ] {
            let answer = sandbox.call(&tool, json!({verb: path})).await.unwrap();
            assert_eq!(answer, refused, "{guest} {verb} {path}");
        }
        let answer = sandbox.call(&tool, json!({"path": "file"})).await.unwrap();
        assert_ne!(answer, refused, "{guest}");
    }
}

#[tokio::test]
async fn preview_2_opens_what_it_is_granted() {
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.path("data")).unwrap();
    fs::write(sandbox.path("data/note.txt"), "data").unwrap();
    symlink("../..", sandbox.path("data/up")).unwrap();
    for (granted, verb, path, expected) in [
        ("filesystem", "path", "data/note.txt", "000"),
        ("filesystem", "path", "data", "000"),
        ("filesystem", "into", "new.txt", "000"),
        // `no-entry`, `not-permitted`.
        ("filesystem", "path", "gone", "021"),
        ("filesystem", "path", "../outside.txt", "032"),
        ("filesystem", "path", "data/up/outside.txt", "032"),
        ("filesystem:ro:data", "path", "note.txt", "000"),
        ("filesystem:ro:data", "into", "note.txt", "032"),
    ] {
        let tool = sandbox.guest("opens", &format!("capabilities: [\"{granted}\"]\n"));
        let answer = sandbox.call(&tool, json!({verb: path})).await.unwrap();
        assert_eq!(answer, json!(expected), "{granted} {verb} {path}");
    }
    assert!(sandbox.path("new.txt").is_file());
}

#[tokio::test]
async fn a_module_that_is_a_named_pipe_is_refused_and_not_waited_for() {
    let sandbox = Sandbox::new();
    let module = sandbox.outer().join("guest.wasm");
    make_pipe(&module);
    let error = sandbox.load(&module, "").err().unwrap();
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert_eq!(source, "it is no regular file");
}

#[tokio::test]
async fn a_directory_in_one_that_tools_may_change_leads_nowhere_else() {
    let sandbox = Sandbox::new();
    let shared = sandbox.outer().join("shared");
    let (part, link) = (shared.join("part"), shared.join("link"));
    fs::create_dir_all(&part).unwrap();
    fs::write(part.join("outside.txt"), "inside").unwrap();
    symlink(sandbox.outer(), &link).unwrap();
    let tool = |part: &Path| {
        let (shared, part) = (shared.display(), part.display());
        let more =
            format!("capabilities: [\"filesystem:ro:{part}\", \"filesystem:rw:{shared}\"]\n");
        sandbox.guest("files", &more)
    };
    let input = json!({"path": "outside.txt"});
    let read = sandbox.call(&tool(&part), input.clone()).await.unwrap();
    assert_eq!(read, json!({"content": "inside"}));
    let error = sandbox.fails(&tool(&link), input).await;
    assert_eq!(error.kind, ToolErrorKind::Denied, "{error}");
}
