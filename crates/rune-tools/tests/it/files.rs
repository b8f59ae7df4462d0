use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rune_tools::ToolErrorKind;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::support::Sandbox;

#[tokio::test]
async fn reads_lines_and_says_what_is_left() {
    let sandbox = Sandbox::new();
    sandbox.write("a.txt", "one\r\ntwo\nthree\nfour");
    let whole = sandbox
        .call("file-read", json!({"path": "a.txt"}))
        .await
        .unwrap();
    assert_eq!(
        whole,
        json!({"path": "a.txt", "content": "one\r\ntwo\nthree\nfour", "offset": 1, "lines": 4,
               "total_lines": 4, "size": 19, "truncated": false})
    );
    let part = sandbox
        .call(
            "file-read",
            json!({"path": "a.txt", "offset": 2, "limit": 2}),
        )
        .await
        .unwrap();
    assert_eq!(part["content"], "two\nthree\n");
    assert_eq!(part["truncated"], true);
    assert_eq!(part["next_offset"], 4);
    let beyond = sandbox
        .call("file-read", json!({"path": "a.txt", "offset": 99}))
        .await
        .unwrap();
    assert_eq!(beyond["content"], "");
    assert_eq!(beyond["truncated"], false);
}

#[tokio::test]
async fn keeps_a_large_file_within_the_output_limit() {
    let mut sandbox = Sandbox::new();
    sandbox.context.output_limit = 8 * 1024;
    sandbox.write("big.txt", "\"quoted\" line\n".repeat(5000));
    sandbox.write("one-line.txt", "€".repeat(50_000));
    let mut offset = 1;
    let mut seen = 0;
    loop {
        let part = sandbox
            .call("file-read", json!({"path": "big.txt", "offset": offset}))
            .await
            .unwrap();
        assert!(part.to_string().len() <= 8 * 1024);
        assert_eq!(part["total_lines"], 5000);
        seen += part["lines"].as_u64().unwrap();
        match part["next_offset"].as_u64() {
            Some(next) => offset = next,
            None => break,
        }
    }
    assert_eq!(seen, 5000);
    let cut = sandbox
        .call("file-read", json!({"path": "one-line.txt"}))
        .await
        .unwrap();
    assert_eq!(cut["line_cut"], true);
    assert_eq!(cut["truncated"], true);
    assert!(cut["content"].as_str().unwrap().chars().all(|c| c == '€'));
}

#[tokio::test]
async fn reports_a_binary_file_without_mangling_it() {
    let sandbox = Sandbox::new();
    sandbox.write("b.bin", [0xff, 0xfe, 0x00, 0x80]);
    let answer = sandbox
        .call("file-read", json!({"path": "b.bin"}))
        .await
        .unwrap();
    assert_eq!(answer, json!({"path": "b.bin", "binary": true, "size": 4}));
}

#[tokio::test]
async fn refuses_every_way_out_of_the_workspace() {
    let sandbox = Sandbox::new();
    symlink("/etc", sandbox.path("etc")).unwrap();
    symlink("../outside.txt", sandbox.path("up")).unwrap();
    symlink(
        sandbox.outer().join("outside.txt"),
        sandbox.path("absolute"),
    )
    .unwrap();
    symlink("../created.txt", sandbox.path("dangling")).unwrap();
    sandbox.write("dir/file.txt", "inside");
    let outside = sandbox.outer().join("outside.txt").display().to_string();
    for path in [
        "/etc/passwd",
        "../outside.txt",
        "dir/../../outside.txt",
        "./../workspace/../outside.txt",
        "etc/passwd",
        "up",
        "absolute",
        &outside,
        "/proc/self/environ",
        "/",
        "..",
    ] {
        let message = sandbox
            .refused("file-read", json!({"path": path}), ToolErrorKind::Denied)
            .await;
        assert!(message.contains("outside the workspace"), "{message}");
        let input = json!({"path": path, "content": "x"});
        let error = sandbox.call("file-write", input).await.unwrap_err();
        assert_eq!(error.kind, ToolErrorKind::Denied, "{path}: {error}");
        let input = json!({"path": path, "content": "x", "append": true});
        let error = sandbox.call("file-write", input).await.unwrap_err();
        assert_eq!(error.kind, ToolErrorKind::Denied, "{path}: {error}");
        let error = sandbox
            .call("file-list", json!({"path": path}))
            .await
            .unwrap_err();
        assert_eq!(error.kind, ToolErrorKind::Denied, "{path}: {error}");
    }
    for append in [true, false] {
        let input = json!({"path": "dangling", "content": "x", "append": append});
        sandbox.call("file-write", input).await.unwrap_err();
    }
    assert!(!sandbox.outer().join("created.txt").exists());
    assert_eq!(fs::read_to_string(outside).unwrap(), "outside");
}

#[tokio::test]
async fn accepts_an_absolute_path_inside_and_links_that_stay() {
    let sandbox = Sandbox::new();
    sandbox.write("dir/file.txt", "inside");
    symlink("dir/file.txt", sandbox.path("link")).unwrap();
    let absolute = sandbox.path("dir/file.txt").display().to_string();
    for path in [absolute.as_str(), "link", "dir/../dir/./file.txt"] {
        let answer = sandbox
            .call("file-read", json!({"path": path}))
            .await
            .unwrap();
        assert_eq!(answer["content"], "inside");
    }
    sandbox
        .call("file-write", json!({"path": "link", "content": "new"}))
        .await
        .unwrap();
    assert_eq!(sandbox.read("dir/file.txt"), "new");
    assert!(sandbox.path("link").is_symlink());
}

#[tokio::test]
async fn special_files_do_not_hang() {
    let sandbox = Sandbox::new();
    let fifo = sandbox.path("fifo");
    let made = std::process::Command::new("mkfifo")
        .arg(&fifo)
        .status()
        .unwrap();
    assert!(made.success());
    let _socket = std::os::unix::net::UnixListener::bind(sandbox.path("socket")).unwrap();
    for path in ["fifo", "socket", "."] {
        for (tool, input) in [
            ("file-read", json!({"path": path})),
            ("file-write", json!({"path": path, "content": "x"})),
            (
                "file-write",
                json!({"path": path, "content": "x", "append": true}),
            ),
        ] {
            let call = sandbox.call(tool, input);
            let error = timeout(Duration::from_secs(5), call)
                .await
                .unwrap()
                .unwrap_err();
            assert_eq!(error.kind, ToolErrorKind::InvalidInput, "{tool} {path}");
            let is_named = error.message.contains("is not a regular file")
                || path == "." && error.message.contains("is a directory");
            assert!(is_named, "{tool} {path}: {error}");
        }
    }
}

#[test]
fn a_link_that_is_swapped_meanwhile_leads_nowhere() {
    let sandbox = Sandbox::new();
    sandbox.write("inside/secret.txt", "inside");
    let secret = sandbox.outer().join("elsewhere");
    fs::create_dir(&secret).unwrap();
    fs::write(secret.join("secret.txt"), "outside").unwrap();
    let (link, other) = (sandbox.path("link"), sandbox.path("other"));
    symlink("inside", &link).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|threads| {
        threads.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                for target in [Path::new("inside"), secret.as_path()] {
                    symlink(target, &other).unwrap();
                    fs::rename(&other, &link).unwrap();
                }
            }
        });
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let contents = runtime.block_on(async {
            let mut contents = Vec::new();
            for round in 0..200 {
                let read = sandbox
                    .call("file-read", json!({"path": "link/secret.txt"}))
                    .await;
                contents.extend(read.map(|answer| answer["content"].clone()));
                // Few: each one syncs to a disk that the other thread keeps busy.
                if round % 40 == 0 {
                    let input = json!({"path": "link/new.txt", "content": "x"});
                    let _ = sandbox.call("file-write", input).await;
                }
            }
            contents
        });
        stop.store(true, Ordering::Relaxed);
        // Only now: a panic would leave the other thread running.
        assert!(
            contents.iter().all(|content| content == "inside"),
            "{contents:?}"
        );
    });
    assert!(!secret.join("new.txt").exists());
}

#[tokio::test]
async fn writes_atomically_and_keeps_permissions() {
    let sandbox = Sandbox::new();
    let answer = sandbox
        .call(
            "file-write",
            json!({"path": "new/deep/a.sh", "content": "#!/bin/sh\n"}),
        )
        .await
        .unwrap();
    assert_eq!(
        answer,
        json!({"path": "new/deep/a.sh", "bytes_written": 10, "size": 10})
    );
    let path = sandbox.path("new/deep/a.sh");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o751)).unwrap();
    let reader = fs::File::open(&path).unwrap();
    sandbox
        .call(
            "file-write",
            json!({"path": "new/deep/a.sh", "content": "other"}),
        )
        .await
        .unwrap();
    assert_eq!(std::io::read_to_string(reader).unwrap(), "#!/bin/sh\n");
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o751
    );
    let answer = sandbox
        .call(
            "file-write",
            json!({"path": "new/deep/a.sh", "content": "!", "append": true}),
        )
        .await
        .unwrap();
    assert_eq!(answer["size"], 6);
    assert_eq!(
        sandbox.tree(),
        [("new/deep/a.sh".to_owned(), b"other!".to_vec())]
    );
}

#[tokio::test]
async fn lists_sorted_filtered_and_bounded() {
    let sandbox = Sandbox::new();
    for name in [
        "b.md",
        "a.rs",
        "src/lib.rs",
        "src/deep/x.rs",
        "src/readme.md",
    ] {
        sandbox.write(name, name);
    }
    symlink("/etc", sandbox.path("etc")).unwrap();
    let paths = |answer: &Value| -> Vec<String> {
        answer["entries"]
            .as_array()
            .unwrap()
            .iter()
            .map(|entry| entry["path"].as_str().unwrap().to_owned())
            .collect()
    };
    let flat = sandbox.call("file-list", json!({})).await.unwrap();
    assert_eq!(paths(&flat), ["a.rs", "b.md", "etc", "src"]);
    assert_eq!(
        flat["entries"][0],
        json!({"path": "a.rs", "type": "file", "size": 4})
    );
    assert_eq!(
        flat["entries"][2],
        json!({"path": "etc", "type": "symlink"})
    );
    assert_eq!(
        flat["entries"][3],
        json!({"path": "src", "type": "directory"})
    );
    let rust = sandbox
        .call("file-list", json!({"recursive": true, "pattern": "*.rs"}))
        .await
        .unwrap();
    assert_eq!(paths(&rust), ["a.rs", "src/deep/x.rs", "src/lib.rs"]);
    let below = sandbox
        .call(
            "file-list",
            json!({"path": "src", "recursive": true, "pattern": "deep/*"}),
        )
        .await
        .unwrap();
    assert_eq!(paths(&below), ["src/deep/x.rs"]);
    let cut = sandbox
        .call("file-list", json!({"recursive": true, "limit": 2}))
        .await
        .unwrap();
    assert_eq!(paths(&cut).len(), 2);
    assert_eq!(
        (&cut["truncated"], &cut["total"]),
        (&json!(true), &json!(8))
    );
}

#[tokio::test]
async fn names_what_is_missing_or_wrong() {
    let sandbox = Sandbox::new();
    sandbox.write("file", "x");
    let message = sandbox
        .refused(
            "file-read",
            json!({"path": "no.txt"}),
            ToolErrorKind::NotFound,
        )
        .await;
    assert_eq!(message, "`no.txt` does not exist");
    sandbox
        .refused(
            "file-read",
            json!({"path": "file/below"}),
            ToolErrorKind::InvalidInput,
        )
        .await;
    sandbox
        .refused(
            "file-read",
            json!({"path": "a\0b"}),
            ToolErrorKind::InvalidInput,
        )
        .await;
    let message = sandbox
        .refused(
            "file-read",
            json!({"pth": "x"}),
            ToolErrorKind::InvalidInput,
        )
        .await;
    assert!(message.contains("pth"), "{message}");
}
