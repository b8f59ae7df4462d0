//! `rune eval`: cases, golden files and tools, tried in engines that are thrown away.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use rune_testkit::{ModelScript, ModelServer, Protocol, Reply, ToolCall};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::component::{self, Guest};
use crate::home::{Home, Ran};

/// An agent whose offline model looks something up and reports.
fn agent() -> (Home, PathBuf) {
    let home = Home::new();
    let dir = home.path().join("bot");
    write_agent(
        &dir,
        "models: {providers: [offline], model_mapping: {default: offline}}\n",
    );
    (home, dir)
}

fn write_agent(dir: &Path, more: &str) {
    std::fs::create_dir_all(dir.join("tools")).unwrap();
    let runefile = format!(
        "name: bot\nversion: 0.1.0\ninstructions: Look it up.\ndefault_model: default\n\
         toolset: [look, rune@file-list]\n{more}"
    );
    write(dir, "Runefile", &runefile);
    write(
        dir,
        "script.yaml",
        "rules:\n  - match: { contains: fail }\n    error: { kind: refused, message: no answer }\n  \
         - match: { step: 1 }\n    tool_calls: [{ name: look, input: { what: \"{{ input }}\" } }]\n  \
         - match: { after_tool: look }\n    respond: \"{{ result.said }}\"\n",
    );
    write(
        dir,
        "tools/look.yaml",
        "name: look\ndescription: Looks.\nmodule: tools/look.sh\ncapabilities: [filesystem]\n\
         input_schema: {type: object, properties: {what: {type: string}}, required: [what]}\n",
    );
    // It leaves something behind that the next case must not find.
    write(
        dir,
        "tools/look.sh",
        "[ -e seen ] && { echo 'not alone' >&2; exit 1; }\n: > seen\nprintf '%s' '{\"said\": \"first\\nsecond\\n\", \"n\": 2}'\n",
    );
}

fn write(dir: &Path, file: &str, text: &str) {
    let path = dir.join(file);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

fn eval(home: &Home, args: &[&str]) -> Ran {
    let mut all = vec!["eval", "bot"];
    all.extend(args);
    home.rune(&all)
}

fn report(ran: &Ran) -> Value {
    serde_json::from_str(&ran.stdout).unwrap()
}

fn fields(case: &Value) -> Vec<&str> {
    let unmet = case["unmet"].as_array().unwrap().iter();
    unmet
        .map(|unmet| unmet["field"].as_str().unwrap())
        .collect()
}

#[test]
fn cases_pass_and_fail_by_what_they_expect() {
    let (home, dir) = agent();
    write(
        &dir,
        "evals/look.yaml",
        r#"eval: 1
cases:
  - name: reports
    input: the weather
    expect:
      output: { contains: [first, second], matches: "^first" }
      tools: [{ tool: look, input: { what: the weather } }]
      no_tool_errors: true
      max_steps: 2
      max_tokens: 5000
  - name: the tool alone
    tool: look
    input: { what: x }
    expect:
      output: { json: { n: 2 }, schema: { type: object, required: [said] } }
  - name: fails as it should
    input: fail
    expect: { error: no answer }
  - name: refuses a wrong input
    tool: look
    input: { what: 1 }
    expect: { error: does not match the tool's schema }
"#,
    );
    let ran = eval(&home, &["-o", "json"]);
    let told = report(&ran);
    assert_eq!((ran.code, &told["passed"]), (0, &json!(4)), "{told}");
    assert_eq!(told["cases"][0]["tools"], json!(["look"]), "{told}");
    assert_eq!(told["cases"][0]["steps"], 2, "{told}");
    // The workspace of the agent itself was not touched.
    assert!(!home.path().join(".rune/workspaces").exists());

    write(
        &dir,
        "evals/wrong.yaml",
        r#"eval: 1
cases:
  - name: everything is wrong
    input: the weather
    expect:
      output: { equals: "first\nthird\n", contains: zebra, json: { a: 1 }, schema: { type: array } }
      tools: [rune@file-list]
      max_steps: 1
      max_tokens: 1
  - name: must not work
    input: the weather
    expect: { status: failed }
"#,
    );
    let ran = eval(&home, &["--filter", "wrong.yaml", "-o", "json"]).ends(1);
    let told = report(&ran);
    assert_eq!(told["failed"], 2, "{told}");
    assert_eq!(
        fields(&told["cases"][0]),
        [
            "/output/equals",
            "/output/contains",
            "/output/json",
            "/output/schema",
            "/tools",
            "/max_steps",
            "/max_tokens"
        ]
    );
    assert_eq!(fields(&told["cases"][1]), ["/status"]);
    // People see what differs, line by line.
    let shown = eval(&home, &["--filter", "everything"]).ends(1).stdout;
    assert!(
        shown.contains("-third")
            && shown.contains("+second")
            && shown.contains("0 passed, 1 failed"),
        "{shown}"
    );
    let ran = eval(&home, &["--filter", "nothing"]).ends(2);
    assert!(
        ran.stderr.contains("no case has `nothing`"),
        "{}",
        ran.stderr
    );
}

#[test]
fn golden_files_are_compared_shown_and_written() {
    let (home, dir) = agent();
    write(
        &dir,
        "evals/look.yaml",
        "eval: 1\ncases:\n  - name: text\n    input: x\n    expect: { output: { golden: text.txt } }\n  \
         - name: data\n    tool: look\n    input: { what: x }\n    expect: { output: { golden: deep/data.json } }\n",
    );
    let said = eval(&home, &[]).ends(1).stdout;
    assert!(said.contains("which is missing"), "{said}");
    let told = report(&eval(&home, &["--update", "-o", "json"]).ends(0));
    let written = json!(["evals/golden/text.txt", "evals/golden/deep/data.json"]);
    assert_eq!(
        (&told["updated"], &told["failed"]),
        (&written, &json!(0)),
        "{told}"
    );
    let golden = |file: &str| std::fs::read_to_string(dir.join("evals/golden").join(file)).unwrap();
    assert_eq!(golden("text.txt"), "first\nsecond\n");
    assert_eq!(
        serde_json::from_str::<Value>(&golden("deep/data.json")).unwrap()["n"],
        2
    );
    let told = report(&eval(&home, &["-o", "json"]).ends(0));
    assert_eq!(
        (&told["passed"], &told["updated"]),
        (&json!(2), &json!([])),
        "{told}"
    );

    write(&dir, "evals/golden/text.txt", "first\nother\n");
    let said = eval(&home, &[]).ends(1).stdout;
    assert!(
        said.contains("-other") && said.contains("+second"),
        "{said}"
    );
    assert_eq!(golden("text.txt"), "first\nother\n");
    let said = eval(&home, &["--update"]).ok();
    assert!(
        said.contains("\nwrote evals/golden/text.txt\n") && !said.contains("data.json\n"),
        "{said}"
    );
    assert_eq!(golden("text.txt"), "first\nsecond\n");
    // Golden files and cases are no cassettes, and no cases are no error of `rune test`.
    home.rune(&["validate", "bot"]).ok();
    home.rune(&["test", "bot", "--record", "hello"]).ok();
    home.rune(&["test", "bot"]).ok();
    eval(&home, &[]).ok();
}

#[test]
fn a_case_takes_its_models_from_a_cassette() {
    let (home, dir) = agent();
    home.rune(&["test", "bot", "--record", "the weather"]).ok();
    let recorded = std::fs::read_dir(dir.join("evals"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap();
    let name = recorded.file_name().into_string().unwrap();
    write(
        &dir,
        "evals/played.yaml",
        &format!(
            "eval: 1\ncases:\n  - cassette: {name}\n    expect: {{ output: {{ contains: second }}, tools: [look], no_tool_errors: true }}\n"
        ),
    );
    // What the agent would say now does not matter, and no tool runs.
    write(&dir, "script.yaml", "rules: [{ respond: nothing }]\n");
    write(&dir, "tools/look.sh", "exit 1\n");
    eval(&home, &[]).ok();
    // Its policy is its own of now.
    write_agent(
        &dir,
        "models: {providers: [offline], model_mapping: {default: offline}}\npolicy: {deny: [look]}\n",
    );
    let told = report(&eval(&home, &["-o", "json"]).ends(1));
    assert_eq!(fields(&told["cases"][0]), ["/no_tool_errors"], "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_own_models_are_asked_unless_a_case_or_a_flag_says_otherwise() {
    let script = ModelScript::new()
        .on_text("the weather")
        .reply(Reply::calls([ToolCall::new(
            "look",
            json!({"what": "sky"}),
        )]))
        .then(Reply::text("blue"));
    let server = ModelServer::start(script).await.unwrap();
    let home = Home::new();
    let dir = home.path().join("bot");
    let models = json!({
        "providers": ["server"],
        "endpoints": {"server": {"protocol": "openai", "base_url": server.base_url(Protocol::Openai), "api_key": "k"}},
        "model_mapping": {"default": "m"},
    });
    write_agent(&dir, &format!("models: {models}\n"));
    write(
        &dir,
        "evals/a.yaml",
        "eval: 1\ncases:\n  - name: own\n    input: the weather\n    expect: { output: { equals: blue }, tools: [look] }\n  \
         - name: scripted\n    input: the weather\n    model: offline\n    expect: { output: { contains: second } }\n",
    );
    let own = eval(&home, &["-o", "json"]);
    assert_eq!(own.code, 0, "{}", own.stdout);
    assert_eq!(server.requests().len(), 2);
    let offline = eval(&home, &["--offline", "--filter", "own", "-o", "json"]);
    let told = report(&offline.ends(1));
    assert_eq!(fields(&told["cases"][0]), ["/output/equals"], "{told}");
}

#[test]
fn a_call_that_is_asked_about_waits_or_is_decided() {
    let (home, dir) = agent();
    write_agent(
        &dir,
        "models: {providers: [offline], model_mapping: {default: offline}}\npolicy: {ask: [look]}\n",
    );
    write(
        &dir,
        "evals/a.yaml",
        "eval: 1\ncases:\n  - {name: waits, input: x, expect: {status: input-required, tools: [look]}}\n  \
         - {name: approved, input: x, approve: true, expect: {output: {contains: first}}}\n  \
         - {name: denied, tool: look, input: {what: x}, approve: false, expect: {error: denied this call}}\n",
    );
    let told = report(&eval(&home, &["-o", "json"]));
    assert_eq!(told["failed"], 0, "{told}");
}

#[test]
fn the_calls_and_questions_of_a_component_are_seen() {
    let home = Home::new();
    let mut guest = Guest::default();
    let (name, input) = (guest.text("look"), guest.text("{\"what\":\"sky\"}"));
    let wat = guest.run(&format!(
        "(call $call {name} {input} (i32.const 1200))
         (call $say (i32.const 0) (i32.const 0) (i32.const 0))
         (drop (call $question (i32.const 1))) (drop (call $question (i32.const 1))) (call $reply)"
    ));
    component::write(home.path(), "bot", &wat, &["look"], "");
    let dir = home.path().join("bot");
    write(
        &dir,
        "tools/look.yaml",
        "name: look\ndescription: Looks.\nmodule: tools/look.sh\n",
    );
    write(&dir, "tools/look.sh", "echo '{}'\n");
    write(
        &dir,
        "evals/a.yaml",
        "eval: 1\ncases:\n  - {name: right, input: x, expect: {tools: [{tool: look, input: {what: sky}}], max_steps: 2}}\n  \
         - {name: wrong, input: x, expect: {tools: [{tool: look, input: {what: sea}}], max_steps: 1}}\n",
    );
    let told = report(&eval(&home, &["-o", "json"]).ends(1));
    assert_eq!(fields(&told["cases"][0]), Vec::<&str>::new(), "{told}");
    assert_eq!(fields(&told["cases"][1]).len(), 2, "{told}");
}

#[test]
fn agents_that_a_case_calls_are_deployed_beside_it() {
    let (home, dir) = agent();
    let runefile =
        "name: bot\nversion: 0.1.0\ninstructions: Ask.\ndefault_model: default\ntoolset: [ask]\n";
    write(&dir, "Runefile", runefile);
    write(
        &dir,
        "tools/ask.yaml",
        "name: ask\ndescription: Asks.\nruntime: agent\nagent_ref: local://other\n",
    );
    write(
        &dir,
        "evals/a.yaml",
        "eval: 1\ncases:\n  - tool: ask\n    input: { input: hello }\n    expect: { output: { equals: \"Echo: hello\" } }\n",
    );
    let other = home.path().join("other");
    write(
        &other,
        "Runefile",
        &runefile.replace("bot", "other").replace("[ask]", "[]"),
    );
    let told = report(&eval(&home, &["-o", "json"]).ends(1));
    assert_eq!(fields(&told["cases"][0]), ["/status"], "{told}");
    eval(&home, &["--with", "other"]).ok();
}

/// An agent whose tool `ask` calls the agent `other`, whose own call is asked about.
fn callers() -> (Home, PathBuf) {
    let (home, dir) = agent();
    let runefile = "name: bot\nversion: 0.1.0\ninstructions: Ask.\ndefault_model: default\ntoolset: [ask, rune@agent-spawn]\n";
    write(&dir, "Runefile", runefile);
    write(
        &dir,
        "script.yaml",
        "rules:\n  - match: { step: 1 }\n    tool_calls: [{ name: ask, input: { input: \"{{ input }}\" } }]\n  \
         - match: { after_tool: ask }\n    respond: \"{{ result }}\"\n",
    );
    write(
        &dir,
        "tools/ask.yaml",
        "name: ask\ndescription: Asks.\nruntime: agent\nagent_ref: local://other\n",
    );
    (home, dir)
}

#[test]
fn a_called_agent_that_waits_for_a_person_ends_the_case_with_what_it_waits_for() {
    let (home, dir) = callers();
    let other = home.path().join("other");
    write(
        &other,
        "Runefile",
        "name: other\nversion: 0.1.0\ninstructions: Look.\ndefault_model: default\ntoolset: [rune@system-time]\n\
         policy: {ask: [rune@system-time]}\n",
    );
    write(
        &dir,
        "evals/a.yaml",
        "eval: 1\ncases:\n  \
         - {name: asked, input: \"/tool rune@system-time {}\", approve: true}\n  \
         - {name: called, tool: ask, input: {input: \"/tool rune@system-time {}\"}, approve: true}\n  \
         - {name: expected, input: \"/tool rune@system-time {}\", expect: {status: input-required, tools: [ask]}}\n  \
         - {name: started, tool: rune@agent-spawn, input: {agent: other, message: \"/tool rune@system-time {}\"}}\n",
    );
    let told = report(&eval(&home, &["--with", "other", "-o", "json"]).ends(1));
    for case in [0, 1] {
        let unmet = &told["cases"][case]["unmet"][0];
        assert_eq!(unmet["field"], "/status", "{told}");
        let found = unmet["found"].as_str().unwrap();
        assert!(
            found.starts_with("input-required: the called agent `other` waits")
                && found.contains("`rune@system-time`"),
            "{found}"
        );
    }
    // Nobody waits for one that is only started.
    for case in [2, 3] {
        assert_eq!(told["cases"][case]["result"], "passed", "{told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn offline_is_offline_for_called_agents_too() {
    let server = ModelServer::start(ModelScript::new()).await.unwrap();
    let (home, dir) = callers();
    let models = json!({
        "providers": ["server"],
        "endpoints": {"server": {"protocol": "openai", "base_url": server.base_url(Protocol::Openai), "api_key": "k"}},
        "model_mapping": {"default": "m"},
    });
    write(
        &home.path().join("other"),
        "Runefile",
        &format!(
            "name: other\nversion: 0.1.0\ninstructions: Say.\ndefault_model: default\nmodels: {models}\n"
        ),
    );
    write(
        &dir,
        "evals/a.yaml",
        "eval: 1\ncases:\n  - {name: flag, input: hello, expect: {output: {contains: \"Echo: hello\"}}}\n  \
         - {name: own, tool: ask, input: {input: hello}, model: offline, expect: {output: {equals: \"Echo: hello\"}}}\n",
    );
    let with = |more: &[&str]| {
        let mut args = vec!["--with", "other", "-o", "json"];
        args.extend(more);
        report(&eval(&home, &args))
    };
    assert_eq!(with(&["--offline"])["passed"], 2);
    assert_eq!(with(&["--filter", "own"])["passed"], 1);
    assert_eq!(server.requests().len(), 0);
    // The server would have been asked.
    with(&["--filter", "flag"]);
    assert!(!server.requests().is_empty());
}

#[test]
fn a_case_that_cannot_be_run_keeps_the_others() {
    let (home, dir) = agent();
    write(
        &dir,
        "tools/look.sh",
        "printf '{\"said\": \"%s\"}' \"$KEY\"\n",
    );
    write(
        &dir,
        "tools/look.yaml",
        "name: look\ndescription: Looks.\nmodule: tools/look.sh\ncapabilities: [env:KEY]\ninput_schema: {type: object}\n",
    );
    write(
        &dir,
        "evals/a.yaml",
        "eval: 1\ncases:\n  - {name: first, tool: look}\n  \
         - {name: leaks, tool: look, expect: {output: {golden: said.json}}}\n  - {name: last, tool: look}\n",
    );
    // What is set for the command does not land in a file.
    let update = ["--update", "--env", "KEY=s3cret-value-0123", "-o", "json"];
    let ran = eval(&home, &update).ends(1);
    let told = report(&ran);
    assert_eq!(
        (&told["passed"], &told["failed"], &told["errors"]),
        (&json!(2), &json!(0), &json!(1)),
        "{told}"
    );
    let error = told["cases"][1]["error"].as_str().unwrap();
    assert!(error.contains("would hold the value of KEY"), "{told}");
    assert!(!dir.join("evals/golden").exists());
    // How far it is goes to standard error.
    assert!(
        ran.stderr.contains("2 of 3: evals/a.yaml: leaks"),
        "{}",
        ran.stderr
    );
    let shown = eval(&home, &update[..3]).ends(1).stdout;
    assert!(
        shown.contains("2 passed, 0 failed, 1 could not be run"),
        "{shown}"
    );
}

#[test]
fn ctrl_c_ends_with_what_has_come_of_the_cases_so_far() {
    let (home, dir) = agent();
    write(
        &dir,
        "tools/look.sh",
        "read -r input\ncase $input in *slow*) sleep 600;; esac\necho 1\n",
    );
    write(
        &dir,
        "evals/a.yaml",
        "eval: 1\ncases:\n  - {name: quick, tool: look, input: {what: x}}\n  \
         - {name: slow, tool: look, input: {what: slow}}\n  - {name: later, tool: look, input: {what: x}}\n",
    );
    let mut command = home.command(&["eval", "bot", "-o", "json"]);
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let stderr = BufReader::new(child.stderr.take().unwrap());
    let mut lines = stderr.lines();
    assert!(lines.any(|line| line.unwrap().contains("2 of 3")));
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let ran = Ran::from(child.wait_with_output().unwrap()).ends(130);
    let told = report(&ran);
    assert_eq!(
        (&told["passed"], &told["not_run"]),
        (&json!(1), &json!(2)),
        "{told}"
    );
    // The end of stderr: no process of the tool holds it any more.
    assert_eq!(lines.count(), 0);
}

#[test]
fn nothing_is_an_answer_that_can_be_expected() {
    let (home, dir) = agent();
    write(
        &dir,
        "tools/look.sh",
        "read -r input\ncase $input in *none*) echo null;; *) echo 1;; esac\n",
    );
    write(
        &dir,
        "evals/a.yaml",
        "eval: 1\ncases:\n  - {name: none, tool: look, input: {what: none}, expect: {output: {equals: null, json: null}}}\n  \
         - {name: some, tool: look, input: {what: x}, expect: {output: {equals: null, json: null}}}\n",
    );
    let told = report(&eval(&home, &["-o", "json"]).ends(1));
    assert_eq!(told["cases"][0]["result"], "passed", "{told}");
    assert_eq!(
        fields(&told["cases"][1]),
        ["/output/equals", "/output/json"]
    );
}

#[test]
fn links_do_not_lead_out_of_the_agent() {
    use std::os::unix::fs::symlink;

    let (home, dir) = agent();
    let case =
        "eval: 1\ncases:\n  - {tool: look, input: {what: x}, expect: {output: {golden: a.txt}}}\n";
    write(&dir, "evals/a.yaml", case);
    write(home.path(), "theirs.txt", "theirs");
    write(&dir, "evals/golden/b.txt", "");
    symlink(
        home.path().join("theirs.txt"),
        dir.join("evals/golden/a.txt"),
    )
    .unwrap();
    let told = report(&eval(&home, &["--update", "-o", "json"]).ends(1));
    let error = told["cases"][0]["error"].as_str().unwrap();
    assert!(error.contains("leads out of the agent directory"), "{told}");
    let theirs = std::fs::read_to_string(home.path().join("theirs.txt")).unwrap();
    assert_eq!(theirs, "theirs");

    write(home.path(), "elsewhere.yaml", case);
    symlink(home.path().join("elsewhere.yaml"), dir.join("evals/b.yaml")).unwrap();
    let said = home.rune(&["validate", "bot"]).ends(2).stderr;
    assert!(
        said.contains("bot/evals/b.yaml") && said.contains("leads out"),
        "{said}"
    );
    home.rune(&["test", "bot"]).ends(2);
}

#[test]
fn what_is_wrong_with_a_file_has_its_place() {
    let (home, dir) = agent();
    write(
        &dir,
        "evals/a.yaml",
        "eval: 1\ncases:\n  - input: x\n    expects: {}\n",
    );
    let ran = home.rune(&["validate", "bot"]).ends(2);
    assert!(
        ran.stderr.contains("evals/a.yaml:4:5") && ran.stderr.contains("did you mean `expect`?"),
        "{}",
        ran.stderr
    );
    assert!(ran.stderr.contains("rune schema eval"), "{}", ran.stderr);
    eval(&home, &[]).ends(2);
    write(
        &dir,
        "evals/a.yaml",
        "eval: 1\ncases:\n  - tool: lok\n    input: {}\n  - cassette: nowhere.yaml\n",
    );
    let said = home.rune(&["validate", "bot"]).ends(2).stderr;
    assert!(
        said.contains("`lok` is not in the toolset")
            && said.contains("there is no file evals/nowhere.yaml"),
        "{said}"
    );
    // Only cassettes are played, and paths to them begin below evals/.
    home.rune(&["test", "bot", "--record", "hello"]).ok();
    let recorded = std::fs::read_dir(dir.join("evals")).unwrap();
    let mut names = recorded.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let name = names.find(|name| name.starts_with("hello-")).unwrap();
    write(
        &dir,
        "evals/a.yaml",
        &format!("eval: 1\ncases:\n  - cassette: a.yaml\n  - cassette: evals/{name}\n"),
    );
    let said = home.rune(&["validate", "bot"]).ends(2).stderr;
    assert!(
        said.contains("evals/a.yaml is no cassette")
            && said.contains("bot/evals/a.yaml:3:15")
            && said.contains(&format!("did you mean `{name}`?")),
        "{said}"
    );
    // What says nothing about a workflow is not taken for an expectation.
    write(
        &dir,
        "workflow.yaml",
        "name: w\nversion: 0.1.0\nsteps: [{id: a, agent_ref: \"local://other\"}]\n",
    );
    write(
        &dir,
        "evals/a.yaml",
        "eval: 1\ncases:\n  - input: x\n    approve: true\n    expect:\n      tools: []\n      no_tool_errors: true\n      max_steps: 1\n      max_tokens: 1\n",
    );
    let said = home.rune(&["validate", "bot"]).ends(2).stderr;
    for (line, key) in [
        (4, "approve"),
        (6, "tools"),
        (7, "no_tool_errors"),
        (8, "max_steps"),
        (9, "max_tokens"),
    ] {
        assert!(
            said.contains(&format!("bot/evals/a.yaml:{line}:"))
                && said.contains(&format!(
                    "`{key}` says nothing about an agent with a workflow"
                )),
            "{said}"
        );
    }
    std::fs::remove_file(dir.join("workflow.yaml")).unwrap();
    for left in std::fs::read_dir(dir.join("evals")).unwrap() {
        std::fs::remove_file(left.unwrap().path()).unwrap();
    }
    let schema = home.rune(&["schema", "eval"]).json();
    assert_eq!(schema["title"], "Eval", "{schema}");
    let said = eval(&home, &[]).ends(2).stderr;
    assert!(said.contains("has no cases"), "{said}");
}
