//! Commands that need no daemon and ask no agent.

use crate::home::{Home, Ran};

#[test]
fn init_makes_an_agent_that_validates() {
    let home = Home::new();
    for template in ["hello", "python-tool", "minimal"] {
        let name = format!("my-{template}");
        let text = home.rune(&["init", &name, "--template", template]).ok();
        assert!(text.contains(&format!("{name}/Runefile")), "{text}");
        let text = home.rune(&["validate", &name]).ok();
        assert!(
            text.contains(&format!("[ok] {name} 0.1.0 is valid")),
            "{text}"
        );
    }
    let summary = home.rune(&["validate", "my-hello", "-o", "json"]).json();
    assert_eq!(summary["tools"][0]["reference"], "rune@system-time");
}

#[test]
fn init_keeps_what_is_there() {
    let home = Home::new();
    home.rune(&["init", "a"]).ok();
    let ran = home.rune(&["init", "a"]).ends(1);
    assert!(ran.stderr.contains("is not empty"), "{}", ran.stderr);
    home.rune(&["init", "Not A Name"]).ends(2);
    let ran = home.rune(&["init", "b", "--template", "helo"]).ends(2);
    assert!(ran.stderr.contains("hello"), "{}", ran.stderr);
    assert!(!home.path().join("b").exists());
}

#[test]
fn validate_points_at_every_error() {
    let home = Home::new();
    home.rune(&["init", "a"]).ok();
    let path = home.path().join("a/Runefile");
    let text = std::fs::read_to_string(&path).unwrap();
    let text = text
        .replace("version: 0.1.0", "version: one")
        .replace("rune@system-time", "rune@sytem-time");
    std::fs::write(&path, text).unwrap();
    let ran = home.rune(&["validate", "a/Runefile"]).ends(2);
    assert!(ran.stdout.is_empty(), "{}", ran.stdout);
    for part in ["a/Runefile:4:", "did you mean", "system-time"] {
        assert!(ran.stderr.contains(part), "{part}: {}", ran.stderr);
    }
    let ran = home.rune(&["validate", "a", "-o", "json"]).ends(2);
    let report: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(report["errors"][0]["line"], 4);
    home.rune(&["validate", "nowhere"]).ends(2);
}

#[test]
fn prints_the_schema_of_every_format() {
    let home = Home::new();
    // A configuration that is not valid keeps nobody from the schema that repairs it.
    std::fs::create_dir(home.path().join(".rune")).unwrap();
    std::fs::write(home.path().join(".rune/config.toml"), "nonsense = 1\n").unwrap();
    for kind in [
        "runefile", "tool", "workflow", "compose", "channels", "config",
    ] {
        let schema = home.rune(&["schema", kind]).json();
        assert_eq!(schema["type"], "object", "{kind}");
    }
    let ran = home.rune(&["config", "show"]).ends(2);
    assert!(ran.stderr.contains("config.toml:1:"), "{}", ran.stderr);
}

#[test]
fn config_shows_origins_and_no_secrets() {
    let home = Home::new();
    let mut command = home.command(&["config", "show", "-o", "json"]);
    command
        .env("OPENAI_API_KEY", "sk-secret")
        .env("RUNE_LOG_FORMAT", "json");
    let rows = Ran::new(command).json();
    assert!(!rows.to_string().contains("sk-secret"), "{rows}");
    let row = |key: &str| {
        let rows = rows.as_array().unwrap();
        rows.iter().find(|row| row["key"] == key).unwrap().clone()
    };
    assert_eq!(row("providers.openai_api_key")["value"], "***");
    assert_eq!(
        row("observability.log_format")["origin"],
        "environment RUNE_LOG_FORMAT"
    );
}

#[test]
fn completions_and_help_are_there() {
    let home = Home::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = home.rune(&["completions", shell]).ok();
        assert!(script.contains("daemon"), "{shell}");
        assert!(!script.contains("detached\n"), "{shell}");
    }
    for command in [
        "init",
        "validate",
        "schema",
        "run",
        "chat",
        "status",
        "sessions",
        "stop",
        "rm",
        "debug",
        "doctor",
        "completions",
        "agent ls",
        "agent inspect",
        "agent sessions",
        "agent stop",
        "agent rm",
        "agent logs",
        "requests ls",
        "requests show",
        "requests events",
        "requests cancel",
        "daemon start",
        "daemon stop",
        "daemon status",
        "daemon restart",
        "config show",
    ] {
        let args: Vec<&str> = command.split(' ').chain(["--help"]).collect();
        let help = home.rune(&args).ok();
        assert!(help.contains("Examples:\n  "), "{command}: {help}");
    }
}

#[test]
fn a_wrong_command_line_ends_with_2() {
    let home = Home::new();
    home.rune(&["fly"]).ends(2);
    home.rune(&["run"]).ends(2);
    home.rune(&["status", "--gateway", "nonsense"]).ends(2);
    home.rune(&["run", "--agent", "a", "x", "y"]).ends(2);
    let ran = home.rune(&["run", "git://ftp://host/agent"]).ends(2);
    assert!(
        ran.stderr.contains("git cannot be asked for"),
        "{}",
        ran.stderr
    );
    let ran = home.rune(&["run", "nowhere", "Hello"]).ends(2);
    assert!(ran.stderr.contains("rune init"), "{}", ran.stderr);
}
