//! Policies over the journal of a real daemon.

use std::fs;

use serde_json::Value;

use crate::home::{Ran, Served};

/// Asks `ops` to run a command.
fn shell(served: &Served, command: &str) -> Ran {
    let prompt = format!("/tool rune@shell-exec {{\"command\": \"{command}\"}}");
    served.rune(&["run", "--agent", "ops", &prompt, "-o", "json"])
}

fn write_ops(served: &Served, dir: &str, policy: &str) {
    let dir = served.0.home().join(dir);
    fs::create_dir_all(&dir).unwrap();
    let runefile = format!(
        "name: ops\nversion: 0.1.0\ninstructions: Help.\ndefault_model: default\n\
         toolset: [rune@shell-exec]\n\
         models: {{providers: [offline], model_mapping: {{default: offline}}}}\n\
         policy:\n  {policy}\n"
    );
    fs::write(dir.join("Runefile"), runefile).unwrap();
}

#[tokio::test]
async fn a_new_policy_is_tried_on_the_journal_and_a_decision_explained() {
    let served = Served::with_plain().await;
    write_ops(&served, "ops", "deny: [\"rune@shell-exec(rm *)\"]");
    served.rune(&["run", "ops"]).ok();
    let allowed = shell(&served, "echo one").json();
    shell(&served, "rm two").json();

    let id = allowed["request_id"].as_str().unwrap();
    let why = served.rune(&["policy", "explain", id, "-o", "json"]).json();
    assert_eq!(why[0]["verdict"], "allowed");
    assert_eq!(why[0]["resource"], "rune@shell-exec");
    assert_eq!(why[0]["arguments"]["command"], "echo one");
    let rows = served
        .rune(&["requests", "ls", "--agent", "ops", "-o", "json"])
        .json();
    let id = rows[0]["id"].as_str().unwrap();
    let why = served.rune(&["policy", "explain", id]).ok();
    let denied = |line: &str| line.contains("denied") && line.contains("Runefile:8 deny");
    assert!(why.lines().any(denied), "{why}");

    // The policy that made the journal changes nothing about it.
    let same = served.rune(&["policy", "test", "ops", "-o", "json"]).json();
    assert_eq!(
        (&same["calls"], &same["unchanged"]),
        (&2.into(), &true.into())
    );

    write_ops(&served, "new", "ask: [\"rune@shell-exec(echo *)\"]");
    let changed = served.rune(&[
        "policy",
        "test",
        "new/Runefile",
        "--since",
        "1h",
        "-o",
        "json",
    ]);
    let changed: Value = serde_json::from_str(&changed.ends(1).stdout).unwrap();
    assert_eq!(
        changed["newly_asked"][0]["arguments"]["command"],
        "echo one"
    );
    assert_eq!(
        changed["newly_allowed"][0]["arguments"]["command"],
        "rm two"
    );

    let cedar = "forbid(principal, action == Action::\"tool\", resource);";
    fs::write(served.0.home().join("none.cedar"), cedar).unwrap();
    let test = ["policy", "test", "none.cedar", "--agent", "ops"];
    let shown = served.rune(&test).ends(1).stdout;
    assert!(shown.contains("1 newly denied"), "{shown}");
    assert!(shown.contains("none.cedar:1"), "{shown}");
    served.rune(&["policy", "test", "none.cedar"]).ends(2);
}
