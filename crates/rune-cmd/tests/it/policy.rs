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

    // The policy that made the journal changes nothing about the two calls and the models of both requests.
    let same = served.rune(&["policy", "test", "ops", "-o", "json"]).json();
    assert_eq!(
        (&same["calls"], &same["unchanged"]),
        (&4.into(), &true.into())
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

#[tokio::test]
async fn a_denied_model_is_exit_code_3_and_models_are_explained_and_tried() {
    let served = Served::with_plain().await;
    let cedar = "@reason(\"not today\")\n\
                 forbid(principal, action == Action::\"model\", resource == Model::\"offline/offline\");\n";
    let home = served.0.home().to_owned();
    fs::write(home.join("no-model.cedar"), cedar).unwrap();
    served.rune(&["run", "--agent", "plain", "hello"]).ok();
    // Nobody decided about the model then.
    let test = ["policy", "test", "no-model.cedar", "--agent", "plain"];
    let tried = served.rune(&test).ends(1).stdout;
    assert!(tried.contains("1 newly denied"), "{tried}");
    assert!(tried.contains("offline/offline"), "{tried}");

    write_ops(&served, "ops", "mode: listed");
    fs::write(home.join("ops/policy.cedar"), cedar).unwrap();
    served.rune(&["run", "ops"]).ok();
    let denied = served.rune(&["run", "--agent", "ops", "hello"]).ends(3);
    assert!(denied.stderr.contains("not today"), "{}", denied.stderr);
    let rows = served
        .rune(&["requests", "ls", "--agent", "ops", "-o", "json"])
        .json();
    let id = rows[0]["id"].as_str().unwrap();
    let why = served.rune(&["policy", "explain", id, "-o", "json"]).json();
    assert_eq!(why[0]["action"], "model");
    assert_eq!(why[0]["resource"], "offline/offline");
    assert_eq!(why[0]["verdict"], "denied");
    let same = served.rune(&["policy", "test", "ops", "-o", "json"]).json();
    assert_eq!(
        (&same["calls"], &same["unchanged"]),
        (&1.into(), &true.into())
    );

    let wrong = cedar.replace("offline/", "ofline/");
    fs::write(home.join("ops/policy.cedar"), wrong).unwrap();
    let refused = served.rune(&["validate", "ops"]).ends(2);
    let text = format!("{}{}", refused.stdout, refused.stderr);
    assert!(text.contains("policy.cedar:2"), "{text}");
    assert!(text.contains("`offline`"), "{text}");
}
