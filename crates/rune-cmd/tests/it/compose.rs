//! `rune compose`, and agents from git repositories.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rune_testkit::TestDaemon;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::home::{Home, RUNE, Ran, Served};

/// A project in which `front` needs `back`.
const SHOP: &str = "version: '1'
project: shop
rune-env: { REGION: eu }
agents:
  front: { source: ./front, depends_on: [back] }
  back: { source: ./agents/back, env: { REGION: us, TOKEN: \"${SHOP_TOKEN:-none}\" } }
";

/// Writes an agent with a script.
fn agent(dir: &Path, name: &str, script: &str) {
    std::fs::create_dir_all(dir).unwrap();
    let runefile = format!(
        "name: {name}\nversion: 0.1.0\ninstructions: Answer.\ndefault_model: default\n\
         models:\n  providers: [offline]\n  model_mapping: {{default: offline}}\n"
    );
    std::fs::write(dir.join("Runefile"), runefile).unwrap();
    std::fs::write(dir.join("script.yaml"), script).unwrap();
}

/// A directory with a compose file, beside a daemon.
struct Shop {
    served: Served,
    dir: PathBuf,
}

impl Shop {
    async fn new() -> Self {
        let served = Served(TestDaemon::builder(RUNE).start().await.unwrap());
        let dir = served.0.home().join("shop");
        agent(
            &dir.join("front"),
            "front",
            "rules:\n  - respond: I am the front.\n",
        );
        agent(
            &dir.join("agents/back"),
            "back",
            "rules:\n  - respond: I am the back.\n",
        );
        let shop = Self { served, dir };
        shop.write(SHOP);
        shop
    }

    fn write(&self, compose: &str) {
        std::fs::write(self.dir.join("rune-compose.yml"), compose).unwrap();
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.served.command(&["compose"]);
        command.args(args).current_dir(&self.dir);
        command
    }

    fn compose(&self, args: &[&str]) -> Ran {
        Ran::new(self.command(args))
    }

    /// `up` as data: each agent with what happened to it and its state.
    fn up(&self, args: &[&str]) -> Value {
        let args: Vec<&str> = ["up", "-o", "json"].iter().chain(args).copied().collect();
        self.compose(&args).json()
    }

    async fn control_plane(&self, path: &str) -> Vec<Value> {
        let url = format!("{}{path}", self.served.0.control_plane());
        let body: Value = reqwest::get(url).await.unwrap().json().await.unwrap();
        body["items"].as_array().unwrap().clone()
    }

    async fn deployment(&self, agent: &str) -> Value {
        let path = format!("/v1/deployments?agent={agent}");
        self.control_plane(&path).await.remove(0)
    }

    /// Everything a write would change.
    async fn written(&self) -> [Vec<Value>; 3] {
        [
            self.control_plane("/v1/deployments").await,
            self.control_plane("/v1/agent-versions").await,
            self.control_plane("/v1/audit").await,
        ]
    }
}

/// What `up` did with each agent.
fn actions(up: &Value) -> Vec<(String, String)> {
    let text = |row: &Value, name: &str| row[name].as_str().unwrap().to_owned();
    let rows = up["agents"].as_array().unwrap();
    rows.iter()
        .map(|row| (text(row, "name"), text(row, "action")))
        .collect()
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    let owned = |&(name, action): &(&str, &str)| (name.to_owned(), action.to_owned());
    expected.iter().map(owned).collect()
}

#[tokio::test]
async fn up_deploys_dependencies_first_and_only_what_differs() {
    let shop = Shop::new().await;
    let dry = shop.compose(&["up", "--dry-run"]).ok();
    assert!(
        dry.contains("dev/front:stable") && dry.contains("create"),
        "{dry}"
    );
    assert!(shop.written().await.iter().all(Vec::is_empty));

    let ran = shop.compose(&["up"]).ends(0);
    assert!(
        ran.stdout.contains("[ok] shop is up: 2 agents (2 created)"),
        "{}",
        ran.stdout
    );
    let position = |text: &str| {
        ran.stderr
            .find(text)
            .unwrap_or_else(|| panic!("{text}: {}", ran.stderr))
    };
    assert!(
        position("back: ready") < position("front: uploading"),
        "{}",
        ran.stderr
    );
    let answer = shop.served.rune(&["run", "--agent", "front", "Hello"]).ok();
    assert!(answer.contains("I am the front."), "{answer}");

    let before = shop.written().await;
    let again = shop.compose(&["up"]).ends(0);
    assert!(
        again.stdout.contains("everything unchanged"),
        "{}",
        again.stdout
    );
    assert_eq!(shop.written().await, before);

    agent(
        &shop.dir.join("agents/back"),
        "back",
        "rules:\n  - respond: I am new.\n",
    );
    let up = shop.up(&[]);
    assert_eq!(
        actions(&up),
        pairs(&[("back", "change"), ("front", "unchanged")])
    );
    assert_eq!(up["agents"][0]["changes"], json!(["version"]));
    assert_eq!(shop.deployment("back").await["generation"], 2);
    assert_eq!(shop.deployment("front").await["generation"], 1);

    let in_asia = SHOP.replace("REGION: eu", "REGION: asia");
    shop.write(&in_asia);
    let up = shop.up(&[]);
    assert_eq!(
        actions(&up),
        pairs(&[("back", "unchanged"), ("front", "change")])
    );
    assert_eq!(up["agents"][1]["changes"], json!(["env"]));

    let mut command = shop.command(&["up", "-o", "json"]);
    let up = Ran::from(command.env("SHOP_TOKEN", "secret-value").output().unwrap());
    assert!(!up.stdout.contains("secret-value") && !up.stderr.contains("secret-value"));
    assert_eq!(
        actions(&up.json()),
        pairs(&[("back", "change"), ("front", "unchanged")])
    );

    shop.write(&in_asia.replace("./front,", "./front, replicas: 2,"));
    let up = shop.up(&[]);
    assert_eq!(up["agents"][1]["changes"], json!(["replicas"]));
    let rows = shop.compose(&["ps", "-o", "json"]).json();
    assert_eq!(rows[1]["ready_replicas"], 2);
    let table = shop.compose(&["ps"]).ok();
    assert!(table.contains("2/2") && table.contains("0.1.0"), "{table}");
}

#[tokio::test]
async fn what_left_the_file_is_an_orphan() {
    let shop = Shop::new().await;
    shop.up(&[]);
    shop.write("version: '1'\nproject: shop\nagents: { front: { source: ./front } }\n");
    let ran = shop.compose(&["up"]).ends(0);
    assert!(ran.stderr.contains("dev/back:stable"), "{}", ran.stderr);
    assert!(ran.stderr.contains("--remove-orphans"), "{}", ran.stderr);
    let rows = shop.compose(&["ps", "-o", "json"]).json();
    assert_eq!(
        (&rows[1]["name"], &rows[1]["in_file"]),
        (&json!("back"), &json!(false))
    );
    let up = shop.up(&["--remove-orphans"]);
    assert_eq!(up["orphans_removed"], true);
    assert_eq!(shop.control_plane("/v1/deployments").await.len(), 1);
}

#[tokio::test]
async fn two_projects_do_not_fight_over_an_agent() {
    let shop = Shop::new().await;
    shop.up(&[]);
    let before = shop.written().await;
    std::fs::write(shop.dir.join("office.yaml"), SHOP.replace("shop", "office")).unwrap();
    for args in [
        &["up", "-f", "office.yaml"][..],
        &["-f", "office.yaml", "up", "--dry-run"],
    ] {
        let ran = shop.compose(args).ends(1);
        assert!(
            ran.stderr.contains("belongs to the project `shop`"),
            "{}",
            ran.stderr
        );
    }
    let ran = shop.compose(&["down", "-f", "office.yaml"]).ends(0);
    assert!(ran.stdout.contains("nothing of office"), "{}", ran.stdout);
    assert_eq!(shop.written().await, before);
    // One that no project has is taken over.
    shop.compose(&["down"]).ok();
    shop.served.rune(&["run", "shop/front"]).ok();
    let up = shop.up(&[]);
    assert_eq!(up["agents"][1]["changes"], json!(["env", "project"]));
}

#[tokio::test]
async fn a_failure_stops_what_depends_on_it_and_the_next_up_goes_on() {
    let shop = Shop::new().await;
    agent(
        &shop.dir.join("alone"),
        "alone",
        "rules:\n  - respond: Hello.\n",
    );
    let with_alone = format!("{SHOP}  alone: {{ source: ./alone }}\n");
    shop.write(&with_alone);
    let path = shop.dir.join("agents/back/Runefile");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("Answer.", "\"Answer ${WHO}.\"")).unwrap();

    let ran = shop.compose(&["up"]).ends(1);
    for part in [
        "up: alone",
        "[failed] back (dev/back:stable)",
        "WHO",
        "[skipped] front",
    ] {
        assert!(ran.stdout.contains(part), "{part}: {}", ran.stdout);
    }
    assert!(
        ran.stderr.contains("2 of 3 agents of `shop` are not up"),
        "{}",
        ran.stderr
    );
    assert!(
        shop.control_plane("/v1/deployments?agent=front")
            .await
            .is_empty()
    );
    let table = shop.compose(&["ps"]).ok();
    assert!(
        table.contains("failed") && table.contains("not deployed"),
        "{table}"
    );

    shop.write(&with_alone.replace("REGION: eu", "REGION: eu, WHO: me"));
    let up = shop.up(&[]);
    assert_eq!(
        actions(&up),
        pairs(&[("alone", "change"), ("back", "change"), ("front", "create")])
    );
}

#[tokio::test]
async fn down_removes_the_project_dependents_first_and_lets_requests_end() {
    let shop = Shop::new().await;
    agent(
        &shop.dir.join("agents/back"),
        "back",
        "rules:\n  - respond: I took my time.\n    delay_ms: 1500\n",
    );
    agent(
        &shop.dir.join("other"),
        "other",
        "rules:\n  - respond: Hello.\n",
    );
    shop.up(&[]);
    shop.served.rune(&["run", "shop/other"]).ok();
    let asked = shop
        .served
        .rune(&[
            "run",
            "--agent",
            "back",
            "Hello",
            "--background",
            "-o",
            "json",
        ])
        .json();
    let down = shop.compose(&["down", "-o", "json"]).json();
    assert_eq!(down["left"], json!([]));
    let id = asked["request_id"].as_str().unwrap();
    let request = shop
        .served
        .rune(&["requests", "show", id, "-o", "json"])
        .json();
    assert!(request.to_string().contains("I took my time."), "{request}");

    let left = shop.control_plane("/v1/deployments").await;
    assert_eq!(left.len(), 1);
    assert_eq!(left[0]["agent"], "other");
    let deleted = shop.control_plane("/v1/audit?kind=deployment.delete").await;
    let deleted: Vec<&str> = deleted
        .iter()
        .map(|row| row["resource"].as_str().unwrap())
        .collect();
    assert_eq!(
        deleted,
        ["dev/back:stable", "dev/front:stable"],
        "newest first"
    );
    shop.compose(&["down"]).ok();
}

#[tokio::test]
async fn logs_say_whose_line_it_is() {
    let shop = Shop::new().await;
    shop.up(&[]);
    for name in ["front", "back"] {
        shop.served.rune(&["run", "--agent", name, "Hello"]).ok();
    }
    let log = shop.compose(&["logs"]).ok();
    let of = |name: &str| log.lines().filter(|line| line.starts_with(name)).count();
    assert!(of("front |") >= 3 && of("back  |") >= 3, "{log}");
    assert_eq!(of("front |") + of("back  |"), log.lines().count(), "{log}");
    let log = shop
        .compose(&["logs", "back", "-f", "rune-compose.yml"])
        .ok();
    assert!(
        log.contains("I am the back.") && !log.contains("front"),
        "{log}"
    );
    let log = shop.compose(&["logs", "back", "-o", "json"]).ok();
    let line: Value = serde_json::from_str(log.lines().next().unwrap()).unwrap();
    assert_eq!(line["agent"], "back");
    let ran = shop.compose(&["logs", "bakc"]).ends(2);
    assert!(
        ran.stderr.contains("did you mean `back`?"),
        "{}",
        ran.stderr
    );
}

#[test]
fn config_shows_the_file_as_it_is_understood() {
    let home = Home::new();
    std::fs::write(
        home.path().join("rune-compose.yaml"),
        SHOP.replace(":-none", ""),
    )
    .unwrap();
    let ran = home.rune(&["compose", "config"]).ends(2);
    for part in ["SHOP_TOKEN", "rune-compose.yaml:6:"] {
        assert!(ran.stderr.contains(part), "{part}: {}", ran.stderr);
    }
    let mut command = home.command(&["compose", "config", "-o", "json"]);
    let ran = Ran::from(command.env("SHOP_TOKEN", "secret-value").output().unwrap());
    assert!(!ran.stdout.contains("secret-value"), "{}", ran.stdout);
    let config = ran.json();
    assert_eq!(
        config["agents"]["back"],
        json!({
            "source": "./agents/back", "namespace": "dev", "alias": "stable", "depends_on": [],
            "env": {"REGION": "us", "TOKEN": "${SHOP_TOKEN}"},
        })
    );
    std::fs::write(home.path().join("rune-compose.yaml"), SHOP).unwrap();
    let yaml = home.rune(&["compose", "config"]).ok();
    assert!(
        yaml.contains("namespace: dev") && yaml.contains("rune-env:"),
        "{yaml}"
    );
}

#[test]
fn mistakes_in_a_file_are_named_before_anything_is_deployed() {
    let home = Home::new();
    let file = home.path().join("rune-compose.yml");
    let check = |text: &str, parts: &[&str]| {
        std::fs::write(&file, text).unwrap();
        let ran = home.rune(&["compose", "up"]).ends(2);
        for part in parts {
            assert!(ran.stderr.contains(part), "{part}: {}", ran.stderr);
        }
    };
    check(
        &SHOP.replace("depends_on: [back]", "depends_on: [bakc]"),
        &[
            "rune-compose.yml:5:",
            "did you mean `back`?",
            "rune schema compose",
        ],
    );
    check(SHOP, &["agent `back`: there is no agent at"]);
    check(
        &SHOP.replace("./agents/back", "ghcr.io/Acme/back:1"),
        &["agent `back`", "is not a reference of a registry"],
    );
    agent(
        &home.path().join("front"),
        "front",
        "rules:\n  - respond: Hello.\n",
    );
    let twice = SHOP.replace("./agents/back", "./front");
    check(&twice, &["are both dev/front:stable", "alias"]);
    std::fs::remove_file(&file).unwrap();
    let ran = home.rune(&["compose", "ps"]).ends(2);
    assert!(
        ran.stderr.contains("there is no rune-compose.yml"),
        "{}",
        ran.stderr
    );
}

/// A repository with the agent `front` in a directory of its own, or nothing where git is not installed.
fn repository(home: &Path) -> Option<String> {
    let dir = home.join("repository");
    agent(
        &dir.join("agents/front"),
        "front",
        "rules:\n  - respond: I come from a repository.\n",
    );
    let git = |args: &[&str]| {
        let mut command = Command::new("git");
        command
            .arg("-C")
            .arg(&dir)
            .args(["-c", "user.name=n", "-c", "user.email=e@e"]);
        command.args(args).env("HOME", home).output()
    };
    git(&["init", "--quiet"]).ok()?;
    for args in [&["add", "."][..], &["commit", "--quiet", "-m", "one"]] {
        let output = git(args).unwrap();
        assert!(output.status.success(), "{output:?}");
    }
    Some(format!("git://{}", dir.display()))
}

#[tokio::test]
async fn an_agent_comes_from_a_repository() {
    let shop = Shop::new().await;
    let Some(url) = repository(&shop.dir) else {
        rune_testkit::skip("git is not installed");
        return;
    };
    let source = format!("{url}#agents/front");
    shop.write(&SHOP.replace("./front", &source));
    shop.up(&[]);
    let answer = shop.served.rune(&["run", "--agent", "front", "Hello"]).ok();
    assert!(answer.contains("I come from a repository."), "{answer}");
    assert!(shop.compose(&["up"]).ok().contains("everything unchanged"));

    let home = Home::new();
    let answer = home.rune(&["run", &source, "Hello"]).ok();
    assert!(answer.contains("I come from a repository."), "{answer}");
    let ran = home
        .rune(&["run", &format!("{url}#agents/nobody"), "Hello"])
        .ends(2);
    assert!(
        ran.stderr.contains("has no directory `agents/nobody`"),
        "{}",
        ran.stderr
    );
    let ran = home.rune(&["run", &format!("{url}-not"), "Hello"]).ends(1);
    assert!(ran.stderr.contains("git cannot clone"), "{}", ran.stderr);
    let left = std::fs::read_dir(shop.served.0.home().join("tmp")).unwrap();
    let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_repository_cannot_be_used_for_something_else() {
    let home = Home::new();
    let url = "git://https://me:secret-value@127.0.0.1:9/r.git";
    let ran = home.rune(&["run", url, "Hello"]);
    assert!(
        ran.code != 0 && !ran.stderr.contains("secret-value"),
        "{}",
        ran.stderr
    );
    let ran = home
        .rune(&["run", "git://ext::sh -c touch% made://x", "Hello"])
        .ends(2);
    assert!(ran.stderr.contains("begins with one of"), "{}", ran.stderr);
    home.rune(&["run", "git://--upload-pack=touch made", "Hello"])
        .ends(2);
    home.rune(&["run", "https://me:secret-value@127.0.0.1:9/r.git", "Hello"])
        .ends(2);
    assert!(!home.path().join("made").exists());
    let mut command = home.command(&["run", "git://127.0.0.1:9/r", "Hello"]);
    let ran = Ran::from(command.env("PATH", home.path()).output().unwrap()).ends(6);
    assert!(
        ran.stderr.contains("`git` is not installed"),
        "{}",
        ran.stderr
    );
}

#[test]
fn ctrl_c_ends_up_and_leaves_nothing_behind() {
    let home = Home::new();
    if Command::new("git").arg("--version").output().is_err() {
        rune_testkit::skip("git is not installed");
        return;
    }
    // A server that never answers.
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let source = format!("git://{}/r", server.local_addr().unwrap());
    let compose = SHOP.replace("./agents/back", &source);
    std::fs::write(home.path().join("rune-compose.yml"), compose).unwrap();
    let tmp = home.path().join("tmp");
    std::fs::create_dir(&tmp).unwrap();
    let mut command = home.command(&["compose", "up"]);
    let child = command
        .env("TMPDIR", &tmp)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let _connection = server.accept().unwrap();
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let ran = Ran::from(child.wait_with_output().unwrap()).ends(130);
    assert!(ran.stderr.contains("goes on"), "{}", ran.stderr);
    assert_eq!(std::fs::read_dir(&tmp).unwrap().count(), 0);
}
