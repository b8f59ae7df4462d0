use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use proptest::prelude::*;
use rune_tools::{ToolErrorKind, apply_hunks, parse_patch};
use serde_json::{Value, json};

use crate::support::Sandbox;

async fn apply(sandbox: &Sandbox, patch: &str) -> Value {
    sandbox
        .call("apply-patch", json!({"patch": patch}))
        .await
        .unwrap()
}

/// The patch is refused with all of these in the message, and nothing has changed.
async fn refused(sandbox: &Sandbox, patch: &str, expected: &[&str]) {
    let before = sandbox.tree();
    let error = sandbox
        .call("apply-patch", json!({"patch": patch}))
        .await
        .expect_err(patch);
    assert!(
        matches!(
            error.kind,
            ToolErrorKind::InvalidInput | ToolErrorKind::Denied | ToolErrorKind::NotFound
        ),
        "{error:?}"
    );
    for part in expected {
        assert!(error.message.contains(part), "`{part}` is not in: {error}");
    }
    assert_eq!(sandbox.tree(), before);
}

#[tokio::test]
async fn creates_modifies_renames_and_deletes_together() {
    let sandbox = Sandbox::new();
    sandbox.write("keep.txt", "one\ntwo\nthree\n");
    sandbox.write("old.sh", "#!/bin/sh\necho 1\n");
    sandbox.write("gone.txt", "bye\n");
    fs::set_permissions(sandbox.path("old.sh"), fs::Permissions::from_mode(0o755)).unwrap();
    let answer = apply(
        &sandbox,
        "diff --git a/keep.txt b/keep.txt\n\
         index 1..2 100644\n\
         --- a/keep.txt\n+++ b/keep.txt\n@@ -1,3 +1,4 @@\n one\n-two\n+2\n+2.5\n three\n\
         diff --git a/old.sh b/new/name.sh\n\
         similarity index 60%\nrename from old.sh\nrename to new/name.sh\n\
         --- a/old.sh\n+++ b/new/name.sh\n@@ -2 +2 @@ #!/bin/sh\n-echo 1\n+echo 2\n\
         diff --git a/gone.txt b/gone.txt\ndeleted file mode 100644\n\
         --- a/gone.txt\n+++ /dev/null\n@@ -1 +0,0 @@\n-bye\n\
         diff --git a/empty b/empty\nnew file mode 100644\nindex 000..000\n\
         --- /dev/null\n+++ b/made.txt\n@@ -0,0 +1,2 @@\n+hello\n+--- not a header\n",
    )
    .await;
    assert_eq!(
        answer,
        json!({"files": [
            {"path": "keep.txt", "action": "modified", "added": 2, "removed": 1},
            {"path": "new/name.sh", "action": "renamed", "from": "old.sh", "added": 1, "removed": 1},
            {"path": "gone.txt", "action": "deleted", "added": 0, "removed": 1},
            {"path": "made.txt", "action": "created", "added": 2, "removed": 0},
        ]})
    );
    let files: Vec<String> = sandbox.tree().into_iter().map(|(name, _)| name).collect();
    assert_eq!(files, ["keep.txt", "made.txt", "new/name.sh"]);
    assert_eq!(sandbox.read("keep.txt"), "one\n2\n2.5\nthree\n");
    assert_eq!(sandbox.read("made.txt"), "hello\n--- not a header\n");
    assert_eq!(sandbox.read("new/name.sh"), "#!/bin/sh\necho 2\n");
    let mode = fs::metadata(sandbox.path("new/name.sh"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o755);
}

#[tokio::test]
async fn one_wrong_hunk_changes_nothing() {
    let sandbox = Sandbox::new();
    sandbox.write("a.txt", "one\ntwo\nthree\n");
    sandbox.write("b.txt", "alpha\nbeta\n");
    let good = "--- a/a.txt\n+++ b/a.txt\n@@ -1 +1 @@\n-one\n+1\n@@ -3 +3 @@\n-three\n+3\n";
    let cases: [(&str, &[&str]); 14] = [
        (
            "--- a/b.txt\n+++ b/b.txt\n@@ -1 +1 @@\n-alpha\n+a\n@@ -2 +2 @@\n-gamma\n+g\n",
            &[
                "nothing was changed",
                "`b.txt`",
                "hunk 2",
                "`gamma`",
                "`beta`",
            ],
        ),
        (
            "--- a/no.txt\n+++ b/no.txt\n@@ -1 +1 @@\n-x\n+y\n",
            &["`no.txt`", "does not exist"],
        ),
        (
            "--- /dev/null\n+++ b/b.txt\n@@ -0,0 +1 @@\n+x\n",
            &["`b.txt`", "exists already"],
        ),
        (
            "--- a/b.txt\n+++ /dev/null\n@@ -1 +0,0 @@\n-alpha\n",
            &["`b.txt`", "does not remove"],
        ),
        (
            "--- a/b.txt\n+++ b/b.txt\n@@ -1 +1,1 @@\n-alpha\n+a\n+lost\n",
            &["unexpected text"],
        ),
        (
            "--- a/b.txt\n+++ b/b.txt\n@@ -1,2 +1,2 @@\n-alpha\n+a\n",
            &["announces 2 old"],
        ),
        ("--- a/b.txt\n+++ b/b.txt\n", &["expected a hunk"]),
        (
            "--- a/b.txt\n@@ -1 +1 @@\n-alpha\n+a\n",
            &["expected a line that starts with `+++ `"],
        ),
        (
            "--- a/b.txt\n+++ b/b.txt\n@@ broken @@\n",
            &["not a hunk header"],
        ),
        (
            "--- a/b.txt\n+++ b/b.txt\n@@ -1 +1 @@\n alpha\n",
            &["changes nothing"],
        ),
        (
            "--- /dev/null\n+++ b/../out.txt\n@@ -0,0 +1 @@\n+x\n",
            &["outside the workspace"],
        ),
        (
            "--- /dev/null\n+++ /etc/out.txt\n@@ -0,0 +1 @@\n+x\n",
            &["outside the workspace"],
        ),
        (
            "diff --git a/b.txt b/c.txt\ncopy from b.txt\ncopy to c.txt\n",
            &["copies are not supported"],
        ),
        (
            "diff --git a/x b/x\nnew file mode 120000\n--- /dev/null\n+++ b/x\n@@ -0,0 +1 @@\n+/etc\n",
            &["mode 120000"],
        ),
    ];
    for (bad, expected) in cases {
        refused(&sandbox, &format!("{good}{bad}"), expected).await;
    }
    refused(&sandbox, "please change line 2", &["no file header"]).await;
    refused(&sandbox, "@@ -1 +1 @@\n-one\n+1\n", &["without `---`"]).await;
    sandbox.write("bin", [0xff, 0xfe]);
    refused(
        &sandbox,
        "--- a/bin\n+++ b/bin\n@@ -1 +1 @@\n-x\n+y\n",
        &["UTF-8"],
    )
    .await;
}

#[tokio::test]
async fn a_link_out_of_the_workspace_is_not_followed() {
    let sandbox = Sandbox::new();
    symlink(sandbox.outer(), sandbox.path("out")).unwrap();
    let patch = "--- a/out/outside.txt\n+++ b/out/outside.txt\n@@ -1 +1 @@\n-outside\n+x\n";
    let input = json!({"patch": patch});
    sandbox
        .refused("apply-patch", input, ToolErrorKind::Denied)
        .await;
}

#[tokio::test]
async fn line_endings_are_kept_and_a_difference_is_named() {
    let sandbox = Sandbox::new();
    sandbox.write("crlf.txt", "one\r\ntwo\r\n");
    apply(
        &sandbox,
        "--- a/crlf.txt\r\n+++ b/crlf.txt\r\n@@ -1,2 +1,2 @@\r\n one\r\n-two\r\n+2\r\n",
    )
    .await;
    assert_eq!(sandbox.read("crlf.txt"), "one\r\n2\r\n");
    refused(
        &sandbox,
        "--- a/crlf.txt\n+++ b/crlf.txt\n@@ -1,2 +1,2 @@\n one\n-2\n+3\n",
        &["line ending", "LF", "CRLF"],
    )
    .await;
}

#[tokio::test]
async fn a_missing_newline_at_the_end_is_respected() {
    let sandbox = Sandbox::new();
    sandbox.write("a", "one\ntwo");
    let gain =
        "--- a/a\n+++ b/a\n@@ -1,2 +1,2 @@\n one\n-two\n\\ No newline at end of file\n+two\n";
    apply(&sandbox, gain).await;
    assert_eq!(sandbox.read("a"), "one\ntwo\n");
    refused(&sandbox, gain, &["line ending"]).await;
    let lose = "--- a/a\n+++ b/a\n@@ -2 +2 @@\n-two\n+2\n\\ No newline at end of file\n";
    apply(&sandbox, lose).await;
    assert_eq!(sandbox.read("a"), "one\n2");
    refused(
        &sandbox,
        "--- a/a\n+++ b/a\n@@ -1 +1 @@\n-one\n+1\n\\ No newline at end of file\n",
        &["without a line ending"],
    )
    .await;
}

#[tokio::test]
async fn moved_lines_are_found_only_where_they_are_unique() {
    let sandbox = Sandbox::new();
    sandbox.write("moved", "new\nnew\na\nb\nc\n");
    apply(
        &sandbox,
        "--- a/moved\n+++ b/moved\n@@ -1,3 +1,3 @@\n a\n-b\n+B\n c\n",
    )
    .await;
    assert_eq!(sandbox.read("moved"), "new\nnew\na\nB\nc\n");
    sandbox.write("twice", "x\ny\n}\nz\n}\n");
    refused(
        &sandbox,
        "--- a/twice\n+++ b/twice\n@@ -1 +1 @@\n-}\n+]\n",
        &["several places", "lines 3 and 5"],
    )
    .await;
}

#[tokio::test]
async fn two_patches_of_one_file_build_on_each_other() {
    let sandbox = Sandbox::new();
    sandbox.write("a", "1\n");
    apply(
        &sandbox,
        "--- a/a\n+++ b/a\n@@ -1 +1 @@\n-1\n+2\n--- a/a\n+++ b/a\n@@ -1 +1 @@\n-2\n+3\n",
    )
    .await;
    assert_eq!(sandbox.read("a"), "3\n");
}

#[test]
fn a_huge_line_number_is_refused() {
    for (start, parsed) in [("18446744073709551615", false), ("4294967295", true)] {
        let patch = format!("--- a/x\n+++ b/x\n@@ -{start} +1 @@\n-a\n+b\n");
        let files = parse_patch(&patch);
        assert_eq!(files.is_ok(), parsed);
        if let Ok(files) = files {
            // Line 1 is the only place where it fits.
            assert_eq!(apply_hunks("a\n", &files[0].hunks).unwrap(), "b\n");
            assert!(apply_hunks("c\n", &files[0].hunks).is_err());
        }
    }
}

#[test]
fn reads_quoted_names() {
    let patch =
        "--- \"a/tab\\there \\303\\274\"\n+++ \"b/tab\\there \\303\\274\"\n@@ -1 +1 @@\n-a\n+b\n";
    let files = parse_patch(patch).unwrap();
    assert_eq!(files[0].new.as_deref(), Some("tab\there ü"));
}

fn text() -> impl Strategy<Value = String> {
    let line = prop_oneof![
        4 => prop::sample::select(vec!["a", "b", "c", "", "--- x", "+++ y", "@@ -1 +1 @@", "\\ z"]),
        1 => prop::sample::select(vec!["a\r", "\r", " ", "ünï"]),
    ];
    (prop::collection::vec(line, 0..30), any::<bool>()).prop_map(|(lines, newline)| {
        let mut text = lines.join("\n");
        if newline && !text.is_empty() {
            text.push('\n');
        }
        text
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..Default::default() })]

    // The patches come from an independent implementation.
    #[test]
    fn the_difference_of_two_texts_leads_from_one_to_the_other(
        a in text(),
        b in text(),
        context in 0_usize..4,
    ) {
        prop_assume!(a != b);
        let mut options = diffy::DiffOptions::new();
        let patch = options.set_context_len(context).create_patch(&a, &b).to_string();
        let files = parse_patch(&patch).map_err(|error| TestCaseError::fail(format!("{error}\n{patch}")))?;
        prop_assert_eq!(files.len(), 1);
        prop_assert_eq!(apply_hunks(&a, &files[0].hunks).unwrap(), b);
    }

    #[test]
    fn no_text_makes_the_parser_panic(patch in "(--- a\n|\\+\\+\\+ b\n|@@ -[0-9]{1,3}(,[0-9])? \\+1 @@\n|[ +-]x\n|\\\\ No\n|\n|diff --git a/x b/x\n|rename from x\n){0,20}", text in text()) {
        if let Ok(files) = parse_patch(&patch) {
            for file in files {
                let _ = apply_hunks(&text, &file.hunks);
            }
        }
    }
}
