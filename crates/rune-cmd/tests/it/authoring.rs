//! `rune tool new` and `rune tool run`: a tool from its first line to its first call, without a daemon and without a model.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rune_testkit::{ModelScript, ModelServer, Protocol, Reply};
use serde_json::{Value, json};

use crate::home::{Home, RUNE, Ran};

/// A home with an agent that has no tools.
fn agent() -> (Home, PathBuf) {
    let home = Home::new();
    home.rune(&["init", "bot", "--template", "minimal"]).ok();
    let dir = home.path().join("bot");
    (home, dir)
}

fn read(dir: &Path, file: &str) -> String {
    std::fs::read_to_string(dir.join(file)).unwrap()
}

/// Adds a process tool that is a shell script.
fn shell_tool(dir: &Path, name: &str, script: &str, yaml: &str) {
    std::fs::create_dir_all(dir.join("tools")).unwrap();
    std::fs::write(dir.join(format!("tools/{name}.sh")), script).unwrap();
    let yaml = format!("name: {name}\ndescription: A tool.\nmodule: tools/{name}.sh\n{yaml}");
    std::fs::write(dir.join(format!("tools/{name}.yaml")), yaml).unwrap();
}

fn runefile(dir: &Path, more: &str) {
    std::fs::create_dir_all(dir).unwrap();
    let text = format!(
        "name: bot\nversion: 0.1.0\ninstructions: Answer ${{NOT_SET}}.\ndefault_model: default\n{more}"
    );
    std::fs::write(dir.join("Runefile"), text).unwrap();
}

/// Whether a program is there; that it is not is said.
fn has(program: &str, args: &[&str]) -> bool {
    let found = Command::new(program)
        .args(args)
        .output()
        .is_ok_and(|ran| ran.status.success());
    if !found {
        #[expect(clippy::print_stdout, reason = "that a test is skipped is to be seen")]
        {
            println!("skipped: {program} {args:?} does not work here");
        }
    }
    found
}

#[test]
fn a_new_tool_validates_runs_and_passes_its_eval_in_every_language() {
    let (home, dir) = agent();
    for (lang, name) in [
        ("python", "py-tool"),
        ("js", "js-tool"),
        ("wasm", "wat-tool"),
        ("rust", "rust-tool"),
    ] {
        let made = home
            .rune(&[
                "tool", "new", name, "--lang", lang, "--dir", "bot", "-o", "json",
            ])
            .json();
        assert_eq!(made["toolset"], "added", "{made}");
        for file in made["files"].as_array().unwrap() {
            assert!(dir.join(file.as_str().unwrap()).is_file(), "{file}");
        }
        let line = usize::try_from(made["line"].as_u64().unwrap()).unwrap();
        let text = read(&dir, "Runefile");
        assert!(text.lines().nth(line - 1).unwrap().contains(name), "{text}");
    }
    let summary = home.rune(&["validate", "bot", "-o", "json"]).json();
    assert_eq!(summary["eval_cases"], 4, "{summary}");

    let mut runs = vec!["wat-tool"];
    if has("python3", &["--version"]) {
        runs.push("py-tool");
    }
    if has("node", &["--version"]) {
        runs.push("js-tool");
    }
    for name in runs {
        let ran = home.rune(&["tool", "run", name, r#"{"text": "hä?"}"#, "--dir", "bot"]);
        assert_eq!(
            serde_json::from_str::<Value>(&ran.ok()).unwrap(),
            json!({"text": "hä?"}),
            "{name}"
        );
        let report = home
            .rune(&["eval", "bot", "--filter", name, "-o", "json"])
            .json();
        assert_eq!(report["passed"], 1, "{report}");
    }
    // What is not built says how it is.
    let ran = home.rune(&[
        "tool",
        "run",
        "rust-tool",
        r#"{"text": "x"}"#,
        "--dir",
        "bot",
    ]);
    let said = ran.ends(1).stderr;
    assert!(
        said.contains("not built yet: sh tools/rust-tool/build.sh"),
        "{said}"
    );
}

/// With the target installed and a registry at hand the scaffold in Rust is built as its help says.
#[test]
fn the_scaffold_in_rust_can_be_built() {
    let targets = Command::new("rustup")
        .args(["target", "list", "--installed"])
        .output();
    let is_there =
        targets.is_ok_and(|ran| String::from_utf8_lossy(&ran.stdout).contains("wasm32-wasip1"));
    if !is_there {
        println!("skipped: rustup has no target wasm32-wasip1 here");
        return;
    }
    let (home, dir) = agent();
    home.rune(&["tool", "new", "rust-tool", "--lang", "rust", "--dir", "bot"])
        .ok();
    let built = Command::new("sh")
        .arg(dir.join("tools/rust-tool/build.sh"))
        .output()
        .unwrap();
    let built = Ran::from(built).ends(0);
    assert!(built.stderr.contains("Finished"), "{}", built.stderr);
    let ran = home.rune(&[
        "tool",
        "run",
        "rust-tool",
        r#"{"text": "x"}"#,
        "--dir",
        "bot",
    ]);
    assert_eq!(ran.ok(), "{\n  \"text\": \"x\"\n}\n");
}

#[test]
fn a_new_tool_keeps_what_is_there() {
    let (home, dir) = agent();
    runefile(
        &dir,
        "toolset:   # what it can do\n  - rune@system-time   # when\n  # more to come\nmax_steps: 3\n",
    );
    let mode = |mode| std::fs::Permissions::from_mode(mode);
    std::fs::set_permissions(dir.join("Runefile"), mode(0o640)).unwrap();
    home.rune(&["tool", "new", "look", "--lang", "wasm", "--dir", "bot"])
        .ok();
    let kept = std::fs::metadata(dir.join("Runefile")).unwrap();
    assert_eq!(kept.permissions().mode() & 0o777, 0o640);
    assert!(
        read(&dir, "Runefile").contains(
            "toolset:   # what it can do\n  - rune@system-time   # when\n  - look\n  # more to come\nmax_steps: 3\n"
        ),
        "{}",
        read(&dir, "Runefile")
    );
    std::fs::write(dir.join("tools/look.wat"), "mine").unwrap();
    std::fs::remove_file(dir.join("tools/look.yaml")).unwrap();
    let before = read(&dir, "Runefile");
    let said = home
        .rune(&["tool", "new", "look", "--lang", "wasm", "--dir", "bot"])
        .ends(1)
        .stderr;
    assert!(said.contains("exists already"), "{said}");
    // Nothing was made, not even what was not there.
    assert!(!dir.join("tools/look.yaml").exists());
    assert_eq!(read(&dir, "tools/look.wat"), "mine");
    assert_eq!(read(&dir, "Runefile"), before);

    // A name that another file has taken would make an agent that is not valid.
    std::fs::write(
        dir.join("tools/other.yaml"),
        "# Ours.\nname: taken\ndescription: A tool.\nmodule: tools/look.wat\n",
    )
    .unwrap();
    let said = home
        .rune(&["tool", "new", "taken", "--lang", "wasm", "--dir", "bot"])
        .ends(1)
        .stderr;
    assert!(
        said.contains("a tool is called `taken` already: bot/tools/other.yaml:2"),
        "{said}"
    );
    assert!(!dir.join("tools/taken.yaml").exists());
    assert_eq!(read(&dir, "Runefile"), before);

    // A list over several lines is for a person to change, who is told so.
    runefile(&dir, "toolset: [rune@system-time,\n  rune@file-read]\n");
    let before = read(&dir, "Runefile");
    let said = home
        .rune(&["tool", "new", "find", "--lang", "wasm", "--dir", "bot"])
        .ok();
    assert!(said.contains("add to it yourself: find"), "{said}");
    assert_eq!(read(&dir, "Runefile"), before);

    for (args, said) in [
        (
            ["tool", "new", "a b", "--lang", "js", "--dir", "bot"],
            "letters, digits",
        ),
        (
            ["tool", "new", "true", "--lang", "js", "--dir", "bot"],
            "no word of YAML",
        ),
        (
            ["tool", "new", "a", "--lang", "js", "--dir", "nowhere"],
            "has no Runefile",
        ),
    ] {
        let ran = home.rune(&args).ends(2);
        assert!(ran.stderr.contains(said), "{}", ran.stderr);
    }
}

#[test]
fn a_tool_runs_as_it_does_for_an_agent() {
    let (home, dir) = agent();
    // The instructions use a variable that is not set: no model is asked, so it does not matter.
    runefile(&dir, "toolset: [say, rune@file-write, rune@system-time]\n");
    let script = "read -r input\necho \"got $input\" >&2\necho \"{\\\"said\\\": $input}\"\n";
    shell_tool(
        &dir,
        "say",
        script,
        "input_schema: {type: object, properties: {count: {type: integer}}, required: [count]}\n",
    );
    let run = |args: &[&str]| {
        let mut all = vec!["tool", "run"];
        all.extend(args);
        all.extend(["--dir", "bot"]);
        home.command(&all)
    };
    let ran = Ran::new(run(&["say", r#"{"count": 1}"#])).ends(0);
    assert_eq!(ran.stdout, "{\n  \"said\": {\n    \"count\": 1\n  }\n}\n");
    assert!(
        ran.stderr.contains("got {\"count\":1}") && ran.stderr.contains("say took"),
        "{}",
        ran.stderr
    );
    // From standard input, from a file, and for programs.
    let ran = Ran::with_input(run(&["say", "-", "-o", "json"]), r#"{"count": 2}"#).json();
    assert_eq!(
        (&ran["output"]["said"]["count"], &ran["error"]),
        (&json!(2), &Value::Null),
        "{ran}"
    );
    assert_eq!(ran["stderr"].as_str().unwrap().trim(), "got {\"count\":2}");
    assert!(ran["duration_ms"].is_u64(), "{ran}");
    std::fs::write(home.path().join("in.json"), r#"{"count": 3}"#).unwrap();
    let ran = Ran::new(run(&["say", "--file", "in.json"])).ok();
    assert!(ran.contains("\"count\": 3"), "{ran}");

    // The schema holds, and so do names and JSON.
    for (args, said) in [
        (
            vec!["say", r#"{"count": "one"}"#],
            "does not match the tool's schema",
        ),
        (vec!["say", "[1]"], "not a JSON object"),
        (vec!["say", "{"], "not JSON"),
        (vec!["sya", "{}"], "did you mean `say`?"),
        (
            vec!["say", "--file", "nowhere.json"],
            "cannot read nowhere.json",
        ),
    ] {
        let ran = Ran::new(run(&args)).ends(2);
        assert!(ran.stderr.contains(said), "{args:?}: {}", ran.stderr);
    }
    // Built-in tools have the agent's workspace.
    let wrote = Ran::new(run(&[
        "rune@file-write",
        r#"{"path": "a/b.txt", "content": "hi"}"#,
    ]));
    wrote.ends(0);
    let workspace = home.path().join(".rune/workspaces/dev/bot");
    assert_eq!(read(&workspace, "a/b.txt"), "hi");
    // The name that the model uses will do, too.
    Ran::new(run(&["rune__system-time"])).ok();
}

#[test]
fn a_tool_that_fails_says_why_in_its_exit_code() {
    let (home, dir) = agent();
    runefile(
        &dir,
        "toolset: [bad, slow, no, ask]\npolicy: {deny: [no], ask: [ask]}\n",
    );
    shell_tool(&dir, "bad", "echo broken >&2\nexit 3\n", "");
    shell_tool(&dir, "slow", "sleep 60\n", "timeout_ms: 200\n");
    shell_tool(&dir, "no", "echo 1\n", "");
    shell_tool(&dir, "ask", "echo '{\"asked\": true}'\n", "");
    let run = |tool: &str, more: &[&str]| {
        let mut args = vec!["tool", "run", tool, "{}", "--dir", "bot"];
        args.extend(more);
        home.rune(&args)
    };
    let ran = run("bad", &[]).ends(1);
    assert!(
        ran.stderr.contains("ended with exit code 3") && ran.stderr.contains("broken"),
        "{}",
        ran.stderr
    );
    let ran = run("slow", &[]).ends(4);
    assert!(
        ran.stderr.contains("did not end within 200 ms"),
        "{}",
        ran.stderr
    );
    let ran = run("no", &["-o", "json"]).ends(3);
    let told: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(told["error"]["code"], "denied", "{told}");
    let ran = run("ask", &[]).ends(5);
    assert!(ran.stderr.contains("--yes"), "{}", ran.stderr);
    assert!(run("ask", &["--yes"]).ok().contains("asked"));
}

#[test]
fn all_of_a_large_output_is_printed() {
    let (home, dir) = agent();
    runefile(&dir, "toolset: [long]\n");
    shell_tool(&dir, "long", "printf '\"%070000d\"' 1\n", "");
    let ran = home.rune(&["tool", "run", "long", "--dir", "bot"]).ends(0);
    assert_eq!(ran.stdout.trim().len(), 70_002);
    assert!(
        ran.stderr.contains("a model is shown its beginning"),
        "{}",
        ran.stderr
    );
}

/// `rune tool run ask` with a person at its terminal, who types what is written to the standard input.
fn at_a_terminal(home: &Home) -> Child {
    let command = format!("'{RUNE}' tool run ask --dir bot");
    Command::new("script")
        .args(["-qec", &command, "/dev/null"])
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .env("HOME", home.path())
        .current_dir(home.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
fn a_person_is_asked_for_a_yes_or_a_no_and_may_leave() {
    if !has("script", &["--version"]) {
        return;
    }
    let (home, dir) = agent();
    runefile(&dir, "toolset: [ask]\npolicy: {ask: [ask]}\n");
    shell_tool(&dir, "ask", "echo '{\"asked\": true}'\n", "");
    let question = |mut lines: &mut dyn Iterator<Item = String>| {
        let found = Iterator::find(&mut lines, |line| line.starts_with("allow it?"));
        assert_eq!(found.unwrap().trim_end(), "allow it? [y]es, [n]o");
    };
    // What would count for later calls is no answer.
    let mut child = at_a_terminal(&home);
    let (mut typed, told) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let mut lines = BufReader::new(told).lines().map(Result::unwrap);
    question(&mut lines);
    typed.write_all(b"session\n").unwrap();
    question(&mut lines);
    typed.write_all(b"y\n").unwrap();
    assert!(lines.any(|line| line.contains("\"asked\": true")));
    assert_eq!(child.wait().unwrap().code(), Some(0));

    let mut child = at_a_terminal(&home);
    let (mut typed, told) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let mut lines = BufReader::new(told).lines().map(Result::unwrap);
    question(&mut lines);
    // Ctrl-C.
    typed.write_all(b"\x03").unwrap();
    assert!(lines.any(|line| line.contains("cancelled")));
    assert_eq!(child.wait().unwrap().code(), Some(130));
}

/// A server of one tool over standard input and output.
const SERVER: &str = r#"while IFS= read -r line; do
  id=$(printf '%s' "$line" | sed -n 's/.*"id":\([^,}]*\).*/\1/p')
  answer() { printf '{"jsonrpc":"2.0","id":%s,%s}\n' "$id" "$1"; }
  case "$line" in
    *'"notifications/'*) ;;
    *'"initialize"'*) answer '"result":{"protocolVersion":"2025-06-18","capabilities":{"tools":{}},"serverInfo":{"name":"t","version":"1"}}';;
    *'"tools/list"'*) answer '"result":{"tools":[{"name":"notes.find","description":"Finds.","inputSchema":{"type":"object"}}]}';;
    *'"tools/call"'*) answer '"result":{"content":[{"type":"text","text":"found"}]}';;
    *) answer '"error":{"code":-32601,"message":"no such method"}';;
  esac
done
"#;

#[test]
fn a_tool_of_a_server_runs_whatever_its_name_is_made_of() {
    let (home, dir) = agent();
    let servers = json!([{"name": "desk", "command": "sh", "args": ["-c", SERVER]}]);
    runefile(
        &dir,
        &format!("toolset: [desk/notes.find]\nmcp_servers: {servers}\n"),
    );
    for name in ["desk/notes.find", "desk__notes_find"] {
        let ran = home.rune(&["tool", "run", name, "--dir", "bot", "-o", "json"]);
        let told = ran.json();
        assert_eq!(told["tool"], "desk/notes.find", "{told}");
        assert!(told["output"].to_string().contains("found"), "{told}");
    }
    std::fs::create_dir(dir.join("evals")).unwrap();
    std::fs::write(
        dir.join("evals/a.yaml"),
        "eval: 1\ncases: [{tool: desk/notes.find, expect: {output: {contains: found}}}]\n",
    )
    .unwrap();
    home.rune(&["eval", "bot"]).ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tool_that_asks_models_asks_those_of_the_agent() {
    let script = ModelScript::new()
        .on_text("Which animal?")
        .reply(Reply::text("A cat."));
    let server = ModelServer::start(script).await.unwrap();
    let (home, dir) = agent();
    let models = json!({
        "providers": ["server"],
        "endpoints": {"server": {"protocol": "openai", "base_url": server.base_url(Protocol::Openai), "api_key": "${KEY}"}},
        "model_mapping": {"default": "m", "vision": "sees"},
    });
    runefile(
        &dir,
        &format!("toolset: [rune@image-analyze, rune@system-time]\nmodels: {models}\n"),
    );
    let workspace = home.path().join(".rune/workspaces/dev/bot");
    std::fs::create_dir_all(&workspace).unwrap();
    let mut png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".to_vec();
    png.extend([0, 0, 0, 20, 0, 0, 0, 10, 8, 2, 0, 0, 0]);
    std::fs::write(workspace.join("cat.png"), png).unwrap();
    let input = r#"{"source": "cat.png", "question": "Which animal?"}"#;
    let mut args = vec!["tool", "run", "rune@image-analyze", input, "--dir", "bot"];
    args.extend(["-o", "json", "--env", "KEY=sk-0123456789"]);
    let told = home.rune(&args).json();
    assert_eq!(told["output"]["text"], "A cat.", "{told}");
    assert_eq!(told["output"]["model"], "sees", "{told}");
    // It alone was asked: the call itself is nobody's idea.
    assert_eq!(server.requests().len(), 1);
    // Where no model matters, neither do their keys.
    home.rune(&["tool", "run", "rune@system-time", "--dir", "bot"])
        .ok();
}
