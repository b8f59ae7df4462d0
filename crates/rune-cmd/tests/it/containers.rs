//! Tools in containers, and commands in running ones, through the daemon and against a real Docker Engine.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rune_testkit::{TestDaemon, TestDocker};
use serde_json::{Value, json};

use crate::cancel::processes_of;
use crate::home::{Home, RUNE, Ran, Served};
use crate::hostile::{assert_fail_closed, entry};
use crate::readme::{Tour, run_page};
use crate::wire::{Api, LIMIT, POLL, answer, assert_no_panic};

/// An image without a program of its own.
pub(crate) const SHELL: &str = "rune-test-shell:1";
/// An image with one.
const ANSWER: &str = "rune-test-answer:1";
/// The same, with a user and a volume.
const APP: &str = "rune-test-app:1";
/// The image of the example.
const EXAMPLE: &str = "busybox:1.36";

/// The engine with the images, where there is one.
pub(crate) fn docker() -> Option<TestDocker> {
    let docker = TestDocker::find()?;
    docker.image(SHELL, &[]).unwrap();
    let own = "ENTRYPOINT [\"/bin/answer\"]";
    docker.image(ANSWER, &[own]).unwrap();
    docker
        .image(APP, &[own, "USER 1234", "VOLUME /data"])
        .unwrap();
    Some(docker)
}

/// A tool: its name, its script, and the rest of its description.
type Shell<'a> = (&'a str, &'a str, &'a str);

/// Writes the agent `boxed`, whose offline model calls the tools it is told to.
fn write(home: &Path, tools: &[Shell<'_>]) -> PathBuf {
    let dir = home.join("boxed");
    std::fs::create_dir_all(dir.join("tools")).unwrap();
    let toolset: Vec<&str> = tools.iter().map(|(name, ..)| *name).collect();
    let runefile = format!(
        "name: boxed\nversion: 0.1.0\ninstructions: Call.\ndefault_model: default\ntoolset: {}\n\
         timeout_ms: 600000\n\
         models: {{providers: [offline], model_mapping: {{default: offline}}}}\n",
        json!(toolset)
    );
    std::fs::write(dir.join("Runefile"), runefile).unwrap();
    for (name, script, more) in tools {
        let file = |extension: &str| dir.join(format!("tools/{name}.{extension}"));
        let timeout = if more.contains("timeout_ms") {
            ""
        } else {
            "timeout_ms: 60000\n"
        };
        if !script.is_empty() {
            std::fs::write(file("sh"), script).unwrap();
        }
        let runs = if more.contains("image:") {
            String::new()
        } else {
            format!("image: {SHELL}\nmodule: tools/{name}.sh\n")
        };
        let yaml = format!("name: {name}\nruntime: container\n{runs}{timeout}{more}");
        std::fs::write(file("yaml"), yaml).unwrap();
    }
    dir
}

async fn deployed(tools: &[Shell<'_>]) -> Served {
    deployed_with(TestDaemon::builder(RUNE), tools).await
}

async fn deployed_with(builder: rune_testkit::TestDaemonBuilder, tools: &[Shell<'_>]) -> Served {
    let served = Served(builder.start().await.unwrap());
    write(served.0.home(), tools);
    served.rune(&["run", "boxed"]).ok();
    served
}

/// Has the model call a tool; answers the request and the entry of the tool's result.
async fn called(api: &Api, tool: &str, input: &Value) -> (String, Value) {
    let id = api.start("boxed", &format!("/tool {tool} {input}")).await;
    let events = api.events(&id, 0).await.rest().await;
    let done = events.iter().find(|event| event.name == "tool_done");
    assert!(done.is_some(), "{tool}: {events:?}");
    (id, done.unwrap().data.clone())
}

/// Waits until nothing of a request is left: no container, and no process on the machine.
pub(crate) async fn gone(docker: TestDocker, request: &str) {
    let label = format!("rune.request={request}");
    let gone = async {
        loop {
            let left = docker.containers(&label).unwrap();
            if left.is_empty() && processes_of(request).is_empty() {
                return;
            }
            tokio::time::sleep(POLL).await;
        }
    };
    let gone = tokio::time::timeout(LIMIT, gone).await;
    let listed = || docker.run(&["ps", "--all", "--filter", &format!("label={label}")]);
    assert!(gone.is_ok(), "{:?} {:?}", listed(), processes_of(request));
}

/// Waits until the container of a request runs.
pub(crate) async fn running(docker: TestDocker, request: &str) {
    let label = format!("label=rune.request={request}");
    let up = async {
        loop {
            let up = docker.run(&["ps", "--quiet", "--filter", &label]).unwrap();
            if !up.trim().is_empty() && !processes_of(request).is_empty() {
                return;
            }
            tokio::time::sleep(POLL).await;
        }
    };
    tokio::time::timeout(LIMIT, up).await.unwrap();
}

#[tokio::test]
async fn a_container_answers_as_a_process_does() {
    let Some(docker) = docker() else { return };
    let report = "printf '{\"input\": %s, \"user\": \"%s\", \"request\": \"%s\", \"session\": \"%s\", \"key\": \"%s\", \
                  \"granted\": \"%s\", \"other\": \"%s\", \"where\": \"%s\"}' \"$(cat)\" \"$(id -u):$(id -g)\" \
                  \"$RUNE_REQUEST_ID\" \"$RUNE_SESSION_ID\" \"$RUNE_IDEMPOTENCY_KEY\" \"$GRANTED\" \"$OTHER\" \"$PWD\"\n";
    let builder = TestDaemon::builder(RUNE)
        .env("GRANTED", "yes")
        .env("OTHER", "no");
    let own = format!("image: {ANSWER}\n");
    let app = format!("image: {APP}\n");
    let served = deployed_with(
        builder,
        &[
            ("report", report, "capabilities: [\"env:GRANTED\"]\n"),
            ("own", "", &own),
            ("app", "", &app),
            ("fails", "echo because >&2; exit 3\n", ""),
            ("babbles", "echo not json\n", ""),
            (
                "strict",
                "echo 1\n",
                "input_schema: {type: object, properties: {count: {type: integer}}, required: [count]}\n",
            ),
        ],
    )
    .await;
    let api = Api::of(&served.0);
    let (id, done) = called(&api, "report", &json!({"a": [1, "two"]})).await;
    let output = &done["output"];
    assert_eq!(output["input"], json!({"a": [1, "two"]}), "{done}");
    assert_eq!(output["request"], id);
    let session = api.request(&id).await["session_id"].clone();
    assert_eq!(output["session"], session);
    assert!(output["key"].as_str().unwrap().starts_with(&id), "{done}");
    assert_eq!(output["granted"], "yes");
    assert_eq!(output["other"], "");
    assert_ne!(
        output["user"].as_str().unwrap().split(':').next(),
        Some("0")
    );
    gone(docker, &id).await;

    let (_, done) = called(&api, "own", &json!({"x": 1})).await;
    assert_eq!(done["output"]["input"], json!({"x": 1}), "{done}");
    assert_ne!(done["output"]["user"], 0);
    let (_, done) = called(&api, "app", &json!({})).await;
    assert_eq!(done["output"]["user"], 1234, "{done}");
    for (tool, parts) in [
        ("fails", ["ended with exit code 3", "because"]),
        ("babbles", ["is not one JSON value", "not json"]),
        ("strict", ["does not match the tool's schema", "count"]),
    ] {
        let (id, done) = called(&api, tool, &json!({})).await;
        let error = done["error"].to_string();
        assert!(
            parts.iter().all(|part| error.contains(part)),
            "{tool}: {done}"
        );
        gone(docker, &id).await;
    }
    assert_no_panic(&served);
}

#[tokio::test]
async fn hostile_containers_fail_closed_are_journaled_and_leave_nothing() {
    let Some(docker) = docker() else { return };
    let app = format!("image: {APP}\nmodule: tools/volume.sh\n");
    let volume = "dd if=/dev/zero of=/data/x bs=1M count=200 || exit 1\n";
    let mut served = deployed(&[
        ("shadow", "cat /etc/shadow\n", ""),
        ("link", "ln -s \"$(sed 's/.*\"path\":\"\\([^\"]*\\)\".*/\\1/')\" /tmp/link && cat /tmp/link\n", ""),
        ("resolve", "nc -w 3 example.org 80 </dev/null\n", ""),
        ("bomb", "bomb() { bomb | bomb & }\nbomb\nsleep 2\n", "limits: {processes: 32, memory_mb: 64}\n"),
        ("lingers", "setsid sleep 600 >/dev/null 2>&1 &\nexit 3\n", ""),
        ("host", "cat \"$(sed 's/.*\"path\":\"\\([^\"]*\\)\".*/\\1/')\"\n", ""),
        ("socket", "ls -l /var/run/docker.sock /run/docker.sock\n", ""),
        ("disk", "mknod /tmp/disk b 8 0 && cat /tmp/disk | head -c 1\n", ""),
        ("mounts", "mount -t tmpfs none /tmp\n", ""),
        ("outside", "echo x > /bin/x\n", ""),
        ("kernel", "echo x > /proc/sys/kernel/hostname\n", ""),
        ("connect", "nc -w 3 192.0.2.1 80 </dev/null\n", ""),
        ("gateway", "ip route | grep -q . || echo no route >&2; exit 1\n", ""),
        (
            "forks",
            "for n in $(seq 200); do sleep 60 & done\nwait\n",
            "limits: {processes: 32, memory_mb: 64}\n",
        ),
        (
            "crowd",
            "trap '' TERM\n(for n in $(seq 200); do sleep 60 & done) 2>/dev/null\nwhile :; do sleep 60 2>/dev/null; done\n",
            "timeout_ms: 6000\nlimits: {processes: 32, memory_mb: 64}\n",
        ),
        ("floods", "head -c 10000000000 /dev/zero\n", "limits: {output_bytes: 4096}\n"),
        ("shouts", "head -c 10000000000 /dev/zero >&2\n", ""),
        ("hoards", "x=x; while :; do x=$x$x; done\n", "limits: {memory_mb: 64}\n"),
        ("fills", "dd if=/dev/zero of=/tmp/x bs=1M count=200 || exit 1\n", ""),
        ("volume", volume, &app),
        ("stubborn", "trap '' TERM INT HUP; while :; do sleep 1; done\n", "timeout_ms: 2000\n"),
        ("burns", "while :; do :; done\n", "limits: {cpu_ms: 500}\n"),
        ("daemon", "setsid sh -c 'trap \"\" TERM HUP; sleep 600' >/dev/null 2>&1 &\necho '{}'\n", ""),
        ("well", "cat\n", ""),
    ])
    .await;
    let home = served.0.home().to_owned();
    let other = served.0.data_dir().join("workspaces/dev/other");
    std::fs::create_dir_all(&other).unwrap();
    for file in [home.join("secret.txt"), other.join("notes")] {
        std::fs::write(file, "the secret").unwrap();
    }
    let path = |path: &Path| json!({"path": path});
    let none = json!({});
    let (internal, limit) = ("internal", "limit_exceeded");
    let attempts = [
        ("shadow", none.clone(), internal, "No such file"),
        (
            "host",
            path(&home.join("secret.txt")),
            internal,
            "No such file",
        ),
        ("host", path(&other.join("notes")), internal, "No such file"),
        (
            "host",
            json!({"path": "/proc/1/root/../../etc/hostname/x"}),
            internal,
            "can't open",
        ),
        ("link", path(&other.join("notes")), internal, "No such file"),
        ("socket", none.clone(), internal, "No such file"),
        ("disk", none.clone(), internal, "mknod: /tmp/disk"),
        ("mounts", none.clone(), internal, "permi"),
        ("outside", none.clone(), internal, "Read-only file system"),
        ("kernel", none.clone(), internal, "can't create /proc/sys"),
        ("connect", none.clone(), internal, "Network is unreachable"),
        ("resolve", none.clone(), internal, "bad address"),
        ("gateway", none.clone(), internal, "no route"),
        (
            "bomb",
            none.clone(),
            limit,
            "may have 32 processes and threads (`limits.processes`)",
        ),
        (
            "forks",
            none.clone(),
            limit,
            "may have 32 processes and threads (`limits.processes`)",
        ),
        ("crowd", none.clone(), "timeout", "all the 32 processes"),
        (
            "floods",
            none.clone(),
            "too_large",
            "wrote more than 4096 bytes",
        ),
        ("shouts", none.clone(), "too_large", "wrote more than"),
        (
            "hoards",
            none.clone(),
            limit,
            "may have 67108864 bytes (`limits.memory_mb`)",
        ),
        ("fills", none.clone(), internal, "No space left on device"),
        ("volume", none.clone(), internal, "No space left on device"),
        (
            "stubborn",
            none.clone(),
            "timeout",
            "did not end within 2000 ms",
        ),
        (
            "burns",
            none.clone(),
            limit,
            "more than 500 ms of processor time (`limits.cpu_ms`)",
        ),
        ("lingers", none.clone(), internal, "ended with exit code 3"),
    ];
    let gone = async |id: &str| gone(docker, id).await;
    assert_fail_closed(&mut served, "boxed", &attempts, &gone).await;
    let api = Api::of(&served.0);
    let (id, done) = called(&api, "daemon", &json!({})).await;
    assert_eq!(done["output"], json!({}), "{done}");
    gone(&id).await;
    let (_, done) = called(&api, "well", &json!({"still": "well"})).await;
    assert_eq!(done["output"], json!({"still": "well"}), "{done}");
    assert_no_panic(&served);
}

#[tokio::test]
async fn a_container_sees_the_directories_that_are_granted() {
    let Some(docker) = docker() else { return };
    let tools = Home::new();
    let shared = tools.path().canonicalize().unwrap().join("shared");
    std::fs::create_dir(&shared).unwrap();
    std::fs::write(shared.join("model"), "weights").unwrap();
    let home = TestDaemon::builder(RUNE).env("SHARED", &shared);
    let read = "printf '{\"said\": \"%s\"}' \"$(cat \"$(sed 's/.*\"path\":\"\\([^\"]*\\)\".*/\\1/')\" 2>&1)\"\n";
    let touch = "echo made > \"$(sed 's/.*\"path\":\"\\([^\"]*\\)\".*/\\1/')\" && echo '{}'\n";
    let served = deployed_with(
        home,
        &[
            ("none", read, ""),
            ("reads", read, "capabilities: [\"filesystem:ro:.\"]\n"),
            ("readtouch", touch, "capabilities: [\"filesystem:ro:.\"]\n"),
            ("writes", touch, "capabilities: [filesystem]\n"),
            ("part", read, "capabilities: [\"filesystem:ro:data\"]\n"),
            (
                "parttouch",
                touch,
                "capabilities: [\"filesystem:rw:made/here\"]\n",
            ),
            (
                "shared",
                read,
                "capabilities: [\"filesystem:ro:${SHARED}\"]\n",
            ),
            ("own", read, "capabilities: [\"filesystem:ro:${HOME}\"]\n"),
            (
                "data",
                read,
                "capabilities: [\"filesystem:ro:${HOME}/.rune/packages\"]\n",
            ),
            ("socket", read, "capabilities: [\"filesystem:ro:/run\"]\n"),
        ],
    )
    .await;
    let api = Api::of(&served.0);
    let workspace = served.0.data_dir().join("workspaces/dev/boxed");
    std::fs::create_dir_all(workspace.join("data")).unwrap();
    std::fs::write(workspace.join("data/a"), "inside").unwrap();
    std::fs::write(workspace.join("b"), "beside").unwrap();
    let other = served.0.data_dir().join("workspaces/dev/other");
    std::fs::create_dir_all(&other).unwrap();
    std::fs::write(other.join("theirs"), "theirs").unwrap();
    std::os::unix::fs::symlink(other.join("theirs"), workspace.join("link")).unwrap();
    let shared_model = shared.join("model");
    for (tool, path, part) in [
        ("none", "/workspace/b", "No such file"),
        ("reads", "/workspace/data/a", "inside"),
        ("reads", "b", "beside"),
        ("reads", "/workspace/link", "No such file"),
        ("reads", "/workspace/../other/theirs", "No such file"),
        ("part", "/workspace/data/a", "inside"),
        ("part", "/workspace/b", "No such file"),
        ("shared", shared_model.to_str().unwrap(), "weights"),
    ] {
        let (_, done) = called(&api, tool, &json!({"path": path})).await;
        let said = done["output"]["said"].as_str().unwrap_or_default();
        assert!(said.contains(part), "{tool} {path}: {done}");
    }
    let (_, done) = called(&api, "readtouch", &json!({"path": "/workspace/no"})).await;
    assert!(done["error"].to_string().contains("Read-only"), "{done}");
    for (tool, path) in [("writes", "yes"), ("parttouch", "made/here/yes")] {
        let input = json!({"path": format!("/workspace/{path}")});
        let (_, done) = called(&api, tool, &input).await;
        assert_eq!(done["output"], json!({}), "{tool}: {done}");
        let made = std::fs::read_to_string(workspace.join(path)).unwrap();
        assert_eq!(made, "made\n");
    }
    for tool in ["own", "data", "socket"] {
        let (id, done) = called(&api, tool, &json!({"path": "x"})).await;
        let error = done["error"].to_string();
        assert!(error.contains("no container may see"), "{tool}: {done}");
        gone(docker, &id).await;
    }
    // A link that leads out is not followed, whatever it is called.
    std::fs::rename(workspace.join("data"), workspace.join("aside")).unwrap();
    std::os::unix::fs::symlink(&other, workspace.join("data")).unwrap();
    let (_, done) = called(&api, "part", &json!({"path": "/workspace/data/theirs"})).await;
    assert!(
        done["error"].is_string() || done["error"].is_object(),
        "{done}"
    );
    assert!(!done.to_string().contains("\"theirs\""), "{done}");
}

#[tokio::test]
async fn cancel_and_a_killed_daemon_leave_no_container() {
    let Some(docker) = docker() else { return };
    let script = "trap '' TERM; sleep 600 & wait; while :; do sleep 600; done\n";
    let mut served = deployed(&[("stubborn", script, "timeout_ms: 600000\n")]).await;
    let api = Api::of(&served.0);
    let id = api.start("boxed", "/tool stubborn {}").await;
    running(docker, &id).await;
    let started = Instant::now();
    let request = api.post(&format!("/v1/requests/{id}/cancel"), &json!({}));
    let (status, row) = answer(request).await.unwrap();
    let state = (status, row["status"].as_str());
    assert_eq!(state, (200, Some("cancelled")), "{row}");
    let took = started.elapsed();
    assert!(took < Duration::from_secs(1), "{took:?}");
    gone(docker, &id).await;

    let id = api.start("boxed", "/tool stubborn {}").await;
    running(docker, &id).await;
    served.0.kill9().unwrap();
    served.0.restart().await.unwrap();
    gone(docker, &id).await;
    let ended = Api::of(&served.0).ended(&id).await;
    assert_eq!(ended["status"], "completed", "{ended}");
    let events = Api::of(&served.0).events(&id, 0).await.rest().await;
    let done = events.iter().find(|event| event.name == "tool_done");
    let said = done.unwrap().data.to_string();
    assert!(said.contains("unknown"), "{said}");
}

#[tokio::test]
async fn a_secret_of_a_container_is_in_no_error_and_no_log() {
    let Some(_) = docker() else { return };
    const CANARY: &str = "canary-7f3a9c";
    let script = "echo \"the token is $TOKEN\" >&2; exit 1\n";
    let builder = TestDaemon::builder(RUNE).env("RUST_LOG", "trace");
    let tool = ("leaks", script, "capabilities: [\"secret:TOKEN\"]\n");
    let served = deployed_with(builder, &[tool]).await;
    let set = served.command(&["secret", "set", "TOKEN"]);
    Ran::with_input(set, CANARY).ends(0);
    let (_, done) = called(&Api::of(&served.0), "leaks", &json!({})).await;
    let error = done["error"].to_string();
    assert!(error.contains("the token is [redacted]"), "{done}");
    assert!(!served.0.log().contains(CANARY));
}

#[test]
fn what_cannot_be_kept_is_found_before_anything_runs() {
    let home = Home::new();
    for (more, part) in [
        (
            "capabilities: [\"network:example.org\"]\n",
            "`network:example.org` cannot be enforced for a container",
        ),
        (
            "capabilities: [\"filesystem:ro:/proc\"]\n",
            "a container has its own `/proc`",
        ),
        ("limits: {fuel: 5}\n", "a container has `limits.cpu_ms`"),
        (
            "limits: {memory_mb: 2}\n",
            "a container can have 6 and more",
        ),
    ] {
        write(home.path(), &[("tool", "cat\n", more)]);
        for command in [["validate", "boxed"], ["run", "boxed"]] {
            let ran = home.rune(&command).ends(2);
            assert!(ran.stderr.contains(part), "{more}: {}", ran.stderr);
            let place = "boxed/tools/tool.yaml:6:1";
            assert!(ran.stderr.contains(place), "{more}: {}", ran.stderr);
        }
    }
}

#[tokio::test]
async fn an_image_or_an_engine_that_is_not_there_is_named_with_what_helps() {
    // Without any engine.
    let builder = TestDaemon::builder(RUNE).env("DOCKER_HOST", "unix:///nowhere/docker.sock");
    let served = Served(builder.start().await.unwrap());
    write(served.0.home(), &[("tool", "cat\n", "")]);
    let ran = served.rune(&["run", "boxed"]).ends(1);
    for part in ["unix:///nowhere/docker.sock", "DOCKER_HOST", "rune doctor"] {
        assert!(ran.stderr.contains(part), "{part}: {}", ran.stderr);
    }
    let ran = served.rune(&["run", "boxed", "/tool tool {}"]).ends(2);
    assert!(
        ran.stderr.contains("/nowhere/docker.sock"),
        "{}",
        ran.stderr
    );
    let checks = served.rune(&["doctor", "-o", "json"]);
    let checks: Value = serde_json::from_str(&checks.stdout).unwrap();
    let check = |checks: &Value| {
        let mut all = checks.as_array().unwrap().iter();
        all.find(|check| check["check"] == "docker")
            .unwrap()
            .clone()
    };
    assert_eq!(check(&checks)["verdict"], "warn", "{checks}");

    let Some(_) = docker() else { return };
    let home = Home::new();
    let missing = "image: registry.example.org/missing:1\n";
    write(home.path(), &[("tool", "", missing)]);
    let ran = home.rune(&["run", "boxed", "/tool tool {}"]).ends(2);
    let part = "docker pull registry.example.org/missing:1";
    assert!(ran.stderr.contains(part), "{}", ran.stderr);
    let empty = format!("image: {SHELL}\n");
    write(home.path(), &[("tool", "", &empty)]);
    let ran = home.rune(&["run", "boxed", "/tool tool {}"]).ends(2);
    assert!(ran.stderr.contains("`module`"), "{}", ran.stderr);
    let checks = home.rune(&["doctor", "-o", "json"]);
    let checks: Value = serde_json::from_str(&checks.stdout).unwrap();
    let found = check(&checks);
    assert_eq!(found["verdict"], "ok", "{found}");
    assert!(found["message"].to_string().contains("seccomp"), "{found}");
}

/// A container that an operator runs, removed when dropped.
pub(crate) struct Service(TestDocker, String);

impl Service {
    pub(crate) fn start(docker: TestDocker) -> Self {
        let name = format!("rune-test-service-{}", std::process::id());
        let run = ["run", "--detach", "--network=none", "--memory=64m"];
        let rest = ["--pids-limit=64", "--name", &name, SHELL, "sleep", "3600"];
        docker.run(&[&run[..], &rest].concat()).unwrap();
        Self(docker, name)
    }

    pub(crate) fn name(&self) -> &str {
        &self.1
    }

    /// The command lines of its processes.
    fn processes(&self) -> String {
        let top = self.0.run(&["top", &self.1, "-o", "pid,args"]);
        top.unwrap()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.0.run(&["rm", "--force", &self.1]);
    }
}

#[tokio::test]
async fn commands_run_in_containers_that_the_operator_has_opened() {
    let Some(docker) = docker() else { return };
    let service = Service::start(docker);
    let name = service.name();
    let write = |home: &Path| {
        let dir = home.join("boxed");
        std::fs::create_dir_all(&dir).unwrap();
        let runefile = "name: boxed\nversion: 0.1.0\ninstructions: Call.\ndefault_model: default\n\
                        toolset: [\"rune@docker-exec\"]\ntimeout_ms: 600000\n\
                        models: {providers: [offline], model_mapping: {default: offline}}\n";
        std::fs::write(dir.join("Runefile"), runefile).unwrap();
    };
    let tool = "rune@docker-exec";
    // Nothing is open where nobody says so.
    let closed = Served(TestDaemon::builder(RUNE).start().await.unwrap());
    write(closed.0.home());
    closed.rune(&["run", "boxed"]).ok();
    let input = json!({"container": name, "command": "id"});
    let (_, done) = called(&Api::of(&closed.0), tool, &input).await;
    let error = done["error"].to_string();
    assert!(error.contains("not open to agents; none is"), "{done}");
    assert!(error.contains("tools.docker_exec_containers"), "{done}");
    drop(closed);

    let open = format!("{name}, rune-test-missing");
    let builder = TestDaemon::builder(RUNE).env("RUNE_DOCKER_EXEC_CONTAINERS", open);
    let mut served = Served(builder.start().await.unwrap());
    write(served.0.home());
    served.rune(&["run", "boxed"]).ok();
    let api = Api::of(&served.0);
    let command = "echo out; echo err >&2; echo \"$RUNE_REQUEST_ID\"; pwd; exit 7";
    let input = json!({"container": name, "command": command, "cwd": "/tmp"});
    let (id, done) = called(&api, tool, &input).await;
    let output = json!({
        "exit_code": 7,
        "stdout": format!("out\n{id}\n/tmp\n"),
        "stderr": "err\n",
        "truncated": false,
    });
    assert_eq!(done["output"], output, "{done}");
    for (input, part) in [
        (
            json!({"container": "other", "command": "id"}),
            "not open to agents",
        ),
        (
            json!({"container": "rune-test-missing", "command": "id"}),
            "there is no container",
        ),
        (
            json!({"container": name, "command": "trap '' TERM; echo up; sleep 300 & setsid sleep 301 & wait", "timeout_ms": 1500}),
            "did not end within 1500 ms",
        ),
        (
            json!({"container": name, "command": "head -c 10000000000 /dev/zero; sleep 302"}),
            "wrote more than",
        ),
    ] {
        let (_, done) = called(&api, tool, &input).await;
        assert!(done["error"].to_string().contains(part), "{input}: {done}");
    }
    let input = json!({"container": name, "command": "sleep 303 >/dev/null 2>&1 & echo left"});
    let (_, done) = called(&api, tool, &input).await;
    assert_eq!(done["output"]["stdout"], "left\n", "{done}");
    only_itself(&service).await;

    let input = json!({"container": name, "command": "trap '' TERM; sleep 304"});
    let id = api.start("boxed", &format!("/tool {tool} {input}")).await;
    let up = async {
        while !service.processes().contains("sleep 304") {
            tokio::time::sleep(POLL).await;
        }
    };
    tokio::time::timeout(LIMIT, up).await.unwrap();
    let started = Instant::now();
    let request = api.post(&format!("/v1/requests/{id}/cancel"), &json!({}));
    let (status, row) = answer(request).await.unwrap();
    let state = (status, row["status"].as_str());
    assert_eq!(state, (200, Some("cancelled")), "{row}");
    assert!(started.elapsed() < Duration::from_secs(1));
    only_itself(&service).await;
    let output = json!({"container": name, "command": "head -c 3000000 /dev/zero | tr '\\0' x"});
    let (_, done) = called(&api, tool, &output).await;
    assert_eq!(done["error"], Value::Null, "{done}");

    // A command of another daemon is nobody's to kill but that one's.
    let alien = [
        "exec",
        "--detach",
        "--env",
        "RUNE_EXEC_ID=another/1:1/x;",
        name,
    ];
    docker
        .run(&[&alien[..], &["sleep", "306"]].concat())
        .unwrap();
    let input = json!({"container": name, "command": "trap '' TERM; setsid sleep 305 & sleep 307"});
    let id = api.start("boxed", &format!("/tool {tool} {input}")).await;
    let up = async {
        let all = ["sleep 305", "sleep 306", "sleep 307"];
        while !all.iter().all(|one| service.processes().contains(one)) {
            tokio::time::sleep(POLL).await;
        }
    };
    tokio::time::timeout(LIMIT, up).await.unwrap();
    served.0.kill9().unwrap();
    assert!(service.processes().contains("sleep 307"));
    served.0.restart().await.unwrap();
    let swept = async {
        while service.processes().lines().count() > 3 {
            tokio::time::sleep(POLL).await;
        }
    };
    let swept = tokio::time::timeout(LIMIT, swept).await;
    assert!(swept.is_ok(), "{}", service.processes());
    assert!(service.processes().contains("sleep 306"));
    // The journal says that nobody knows what came of it.
    let api = Api::of(&served.0);
    let ended = api.ended(&id).await;
    assert_eq!(ended["status"], "completed", "{ended}");
    let entry = entry(&api, &id).await.data.to_string();
    assert!(entry.contains("unknown"), "{entry}");
    assert_no_panic(&served);
}

/// Waits until nothing but its own program runs in a container.
async fn only_itself(service: &Service) {
    let alone = async {
        while service.processes().lines().count() > 2 {
            tokio::time::sleep(POLL).await;
        }
    };
    let alone = tokio::time::timeout(LIMIT, alone).await;
    assert!(alone.is_ok(), "{}", service.processes());
    assert!(service.processes().contains("sleep 3600"));
}

#[test]
fn the_example_runs_as_its_readme_says() {
    let Some(docker) = docker() else { return };
    docker.image(EXAMPLE, &["CMD [\"sh\"]"]).unwrap();
    let tour = Tour::new();
    let printed = run_page(&tour, "examples/container-tool/README.md").concat();
    assert!(printed.contains("2 lines, 5 words"), "{printed}");
}
