//! Packages through the binary: building, registries, signatures, who may deploy what, images.

use std::fs;
use std::path::{Path, PathBuf};

use rune_testkit::{DockerRegistry, TestDaemon, TestDocker, TestRegistry};
use serde_json::{Value, json};

use crate::home::{Home, RUNE, Ran, Served};
use crate::readme::{Tour, run_page_at};

/// Writes an agent that says this.
fn agent(dir: &Path, says: &str) {
    fs::create_dir_all(dir).unwrap();
    let runefile = "name: hello\nversion: 1.0.0\ndescription: Says hello.\ninstructions: Answer.\ndefault_model: default\n\
                    toolset: [rune@system-time]\nmodels:\n  providers: [offline]\n  model_mapping: {default: offline}\n";
    fs::write(dir.join("Runefile"), runefile).unwrap();
    fs::write(
        dir.join("script.yaml"),
        format!("rules:\n  - respond: {says}\n"),
    )
    .unwrap();
}

/// A home with an agent and a pair of keys.
fn home() -> Home {
    let home = Home::new();
    agent(&home.path().join("hello"), "I am signed.");
    home.rune(&["key", "generate", "release"]).ok();
    home.rune(&["key", "generate", "stranger"]).ok();
    home
}

/// What a command that failed said, after it ended with this code.
fn said(ran: Ran, code: i32) -> String {
    ran.ends(code).stderr
}

#[test]
fn a_build_says_what_is_in_it_and_is_the_same_again() {
    let home = home();
    let text = home.rune(&["build", "hello"]).ok();
    for part in [
        "sha256:",
        "hello/target/hello-1.0.0.oci.tar",
        "script.yaml",
        "rune@system-time",
        "builtin",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let one = home.rune(&["build", "hello", "-o", "json"]).json();
    let file = home.path().join("hello/target/hello-1.0.0.oci.tar");
    let bytes = fs::read(&file).unwrap();
    let other = home
        .rune(&["build", "hello", "-o", "json", "--sbom", "bill.json"])
        .json();
    assert_eq!(one["digest"], other["digest"]);
    assert_eq!(fs::read(&file).unwrap(), bytes);
    let bill: Value =
        serde_json::from_slice(&fs::read(home.path().join("bill.json")).unwrap()).unwrap();
    assert_eq!(bill["metadata"]["component"]["name"], "hello");
    // A layout runs, as the directory does.
    let answer = home
        .rune(&["run", "hello/target/hello-1.0.0.oci.tar", "Hi"])
        .ok();
    assert!(answer.contains("I am signed."), "{answer}");
    for path in ["hello/out.tar", "hello/sub/out"] {
        let error = said(home.rune(&["build", "hello", "--layout", path]), 2);
        assert!(error.contains("part of the package"), "{error}");
    }
    let again = said(home.rune(&["key", "generate", "release"]), 1);
    assert!(again.contains("never overwritten"), "{again}");
}

#[test]
fn a_layout_elsewhere_keeps_its_signatures_when_it_is_built_again() {
    let home = home();
    let build = ["build", "hello", "--layout", "there.tar", "-o", "json"];
    let signatures = || home.rune(&build).json()["signatures"].clone();
    assert_eq!(signatures(), 0);
    home.rune(&["sign", "there.tar", "--key", "release.key"])
        .ok();
    assert_eq!(signatures(), 1);
    home.rune(&["verify", "there.tar", "--key", "release.pub"])
        .ok();
    // An archive of something else is not written over.
    let package = home.path().join("other.tar");
    let made = std::process::Command::new("tar")
        .args(["-cf"])
        .arg(&package)
        .args(["-C"])
        .arg(home.path())
        .arg("hello/Runefile")
        .status();
    assert!(made.unwrap().success());
    let before = fs::read(&package).unwrap();
    let error = said(home.rune(&["build", "hello", "--layout", "other.tar"]), 1);
    assert!(error.contains("something else is there"), "{error}");
    assert_eq!(fs::read(&package).unwrap(), before);
}

/// A layout whose configuration says these, and all of whose digests are right.
fn forge(layout: &Path, name: &str, version: &str) {
    let read = |path: &Path| -> Value { serde_json::from_slice(&fs::read(path).unwrap()).unwrap() };
    let blobs = layout.join("blobs/sha256");
    let blob = |descriptor: &Value| {
        let digest = descriptor["digest"].as_str().unwrap();
        blobs.join(digest.trim_start_matches("sha256:"))
    };
    let write = |descriptor: &mut Value, content: &Value| {
        let bytes = serde_json::to_vec(content).unwrap();
        let digest = rune_oci::Digest::of(&bytes);
        fs::write(blobs.join(digest.hex()), &bytes).unwrap();
        descriptor["digest"] = json!(digest.as_str());
        descriptor["size"] = json!(bytes.len());
    };
    let mut index = read(&layout.join("index.json"));
    let mut manifest = read(&blob(&index["manifests"][0]));
    let mut config = read(&blob(&manifest["config"]));
    config["name"] = json!(name);
    config["version"] = json!(version);
    write(&mut manifest["config"], &config);
    write(&mut index["manifests"][0], &manifest);
    fs::write(layout.join("index.json"), index.to_string()).unwrap();
}

#[test]
fn an_artefact_that_is_named_like_a_path_is_refused() {
    let home = home();
    let outside = home.path().join("outside");
    let absolute = outside.to_str().unwrap();
    for (n, (name, version)) in [
        ("../../outside", "1.0.0"),
        (absolute, "1.0.0"),
        ("hello", "../1"),
    ]
    .into_iter()
    .enumerate()
    {
        let layout = format!("forged-{n}");
        home.rune(&["build", "hello", "--layout", &layout]).ok();
        home.rune(&["run", &layout, "Hi"]).ok();
        forge(&home.path().join(&layout), name, version);
        let mut command = home.command(&["run", &layout, "Hi"]);
        command.env("TMPDIR", home.path());
        let error = said(Ran::new(command), 1);
        assert!(error.contains("configuration"), "{error}");
        assert!(!outside.exists(), "{name}");
    }
}

/// The round trip through a registry: push, pull, sign, verify, run.
fn round_trip(home: &Home, host: &str) {
    let name = format!("{host}/acme/hello:1.0.0");
    let pushed = home.rune(&["push", &name, "hello", "-o", "json"]).json();
    let pinned = pushed["pinned"].as_str().unwrap();
    let unsigned = said(home.rune(&["verify", &name, "--key", "release.pub"]), 3);
    assert!(
        unsigned.contains("not signed") && unsigned.contains("rune sign"),
        "{unsigned}"
    );
    home.rune(&["sign", &name, "--key", "release.key"]).ok();
    let verified = home
        .rune(&["verify", &name, "--key", "release.pub", "-o", "json"])
        .json();
    assert_eq!(verified["repository"], format!("{host}/acme/hello"));
    assert_eq!(verified["digest"], pushed["digest"]);
    let stranger = said(home.rune(&["verify", pinned, "--key", "stranger.pub"]), 3);
    assert!(stranger.contains("none of the trusted keys"), "{stranger}");
    home.rune(&["pull", &name, "copy"]).ok();
    for file in ["Runefile", "script.yaml"] {
        let read = |dir: &str| fs::read(home.path().join(dir).join(file)).unwrap();
        assert_eq!(read("copy"), read("hello"));
    }
    let taken = said(home.rune(&["pull", &name, "copy"]), 1);
    assert!(taken.contains("not empty"), "{taken}");
    for reference in [name.as_str(), pinned] {
        let answer = home.rune(&["run", reference, "Hi"]).ok();
        assert!(answer.contains("I am signed."), "{answer}");
    }
    let missing = said(home.rune(&["pull", &format!("{host}/acme/hello:9")]), 1);
    assert!(
        missing.contains(host) && missing.contains("acme/hello"),
        "{missing}"
    );
}

#[test]
fn a_package_goes_through_the_registry_of_docker() {
    let Some(registry) = DockerRegistry::find().unwrap() else {
        return;
    };
    round_trip(&home(), registry.host());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_byte_and_another_name_are_refused() {
    let registry = TestRegistry::start(None).await.unwrap();
    let home = home();
    let host = registry.host();
    round_trip(&home, host);
    let name = format!("{host}/acme/hello:1.0.0");
    // Under another name the signature says nothing.
    registry.copy("acme/hello", "acme/other");
    let other = format!("{host}/acme/other:1.0.0");
    let error = said(home.rune(&["verify", &other, "--key", "release.pub"]), 3);
    assert!(
        error.contains("signed for") && error.contains("acme/other"),
        "{error}"
    );
    let layout = home
        .rune(&["build", "hello", "-o", "json", "--layout", "plain"])
        .json();
    let manifest: Value = {
        let hex = layout["digest"]
            .as_str()
            .unwrap()
            .trim_start_matches("sha256:");
        let path = home.path().join("plain/blobs/sha256").join(hex);
        serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
    };
    registry.spoil_blob(manifest["layers"][0]["digest"].as_str().unwrap());
    for args in [
        &["verify", &name, "--key", "release.pub"][..],
        &["pull", &name, "spoiled"],
        &["run", &name, "Hi"],
    ] {
        let error = said(home.rune(args), 1);
        assert!(error.contains("was changed"), "{error}");
    }
    assert!(!home.path().join("spoiled").exists());
    registry.drop_referrers();
    registry.spoil_blob(manifest["layers"][0]["digest"].as_str().unwrap());
    said(home.rune(&["verify", &name, "--key", "release.pub"]), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_come_from_a_helper_and_are_in_no_message() {
    let registry = TestRegistry::start(Some(("me", "hidden-word")))
        .await
        .unwrap();
    let home = home();
    let name = format!("{}/hello:1", registry.host());
    let error = said(home.rune(&["push", &name, "hello"]), 3);
    assert!(
        error.contains(&format!("docker login {}", registry.host())),
        "{error}"
    );
    let bin = home.path().join("bin");
    fs::create_dir_all(home.path().join(".docker")).unwrap();
    fs::create_dir_all(&bin).unwrap();
    let config = json!({ "credHelpers": { registry.host(): "test" } });
    fs::write(home.path().join(".docker/config.json"), config.to_string()).unwrap();
    let rune = |word: &str| {
        let helper = bin.join("docker-credential-test");
        let script = format!(
            "#!/bin/sh\ntest \"$1\" = get && test \"$(cat)\" = {} || exit 1\necho '{{\"Username\":\"me\",\"Secret\":\"{word}\"}}'\n",
            registry.host()
        );
        fs::write(&helper, script).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(&helper, mode).unwrap();
        let mut command = home.command(&["push", &name, "hello", "-v"]);
        command.env("PATH", format!("{}:/usr/bin:/bin", bin.display()));
        Ran::new(command)
    };
    let error = said(rune("wrong-word"), 3);
    assert!(
        error.contains("wrong password") && !error.contains("wrong-word"),
        "{error}"
    );
    let pushed = rune("hidden-word").ends(0);
    assert!(!pushed.stdout.contains("hidden-word") && !pushed.stderr.contains("hidden-word"));
}

/// A daemon that trusts the release key, and a home with that key.
async fn trusting() -> (Home, Served) {
    let home = home();
    let key = home.path().join("release.pub");
    let daemon = TestDaemon::builder(RUNE).env("RUNE_TRUSTED_KEYS", key);
    (home, Served(daemon.start().await.unwrap()))
}

async fn audit(served: &Served) -> Vec<Value> {
    let url = format!("{}/v1/audit", served.0.control_plane());
    let body: Value = reqwest::get(url).await.unwrap().json().await.unwrap();
    body["items"].as_array().unwrap().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_with_trusted_keys_takes_what_they_have_signed() {
    let (home, served) = trusting().await;
    let registry = TestRegistry::start(None).await.unwrap();
    let path = |name: &str| home.path().join(name).display().to_string();
    let (dir, release, stranger) = (path("hello"), path("release.key"), path("stranger.key"));
    let refused = said(served.rune(&["run", &dir]), 3);
    assert!(
        refused.contains("hello 1.0.0 is not admitted: it is not signed"),
        "{refused}"
    );
    // By somebody else, in place and in a registry.
    home.rune(&["sign", &dir, "--key", &stranger]).ok();
    let refused = said(served.rune(&["run", &dir]), 3);
    assert!(refused.contains("none of the trusted keys"), "{refused}");
    let name = format!("{}/hello:1", registry.host());
    home.rune(&["push", &name, &dir]).ok();
    for args in [&["run", &name][..], &["run", &name, "Hi"]] {
        said(served.rune(args), 3);
    }
    // By the one that is trusted.
    home.rune(&["sign", &name, "--key", &release]).ok();
    let answer = served.rune(&["run", &name, "Hi"]).ok();
    assert!(answer.contains("I am signed."), "{answer}");
    served.rune(&["run", &name]).ok();
    let answer = served.rune(&["run", "--agent", "hello", "Hi"]).ok();
    assert!(answer.contains("I am signed."), "{answer}");
    // The same package from the directory; a changed one is another one.
    home.rune(&["sign", &dir, "--key", &release]).ok();
    served.rune(&["run", &dir, "--alias", "local"]).ok();
    agent(&home.path().join("hello"), "I am changed.");
    said(served.rune(&["run", &dir]), 3);
    let rows = audit(&served).await;
    let count = |verdict: &str| {
        let rows = rows.iter().filter(|row| row["kind"] == "version.publish");
        rows.filter(|row| row["verdict"] == verdict).count()
    };
    assert_eq!((count("denied"), count("allowed")), (3, 2), "{rows:#?}");
    let reasons: Vec<&str> = rows
        .iter()
        .filter_map(|row| row["reason"].as_str())
        .collect();
    assert!(
        reasons
            .iter()
            .any(|reason| reason.contains("signed by key")),
        "{reasons:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_published_before_there_were_keys_is_not_deployed_again() {
    let home = home();
    let dir = home.path().join("hello").display().to_string();
    let key = home.path().join("release.pub");
    let served = Served(TestDaemon::builder(RUNE).start().await.unwrap());
    served.rune(&["run", &dir]).ok();
    let config = format!("[packages]\ntrusted_keys = \"{}\"\n", key.display());
    fs::write(served.0.data_dir().join("config.toml"), config).unwrap();
    let mut served = served;
    served.0.restart().await.unwrap();
    let body = json!({ "agent": "hello", "version": "1.0.0", "alias": "other" });
    let url = format!("{}/v1/deployments", served.0.control_plane());
    let answer = reqwest::Client::new()
        .post(url)
        .json(&body)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status().as_u16(), 403);
    served
        .rune(&["deploy", "hello", "--version", "1.0.0"])
        .ends(3);
    let rows = audit(&served).await;
    let denied = rows.iter().filter(|row| row["verdict"] == "denied");
    let mut denied: Vec<&str> = denied.map(|row| row["kind"].as_str().unwrap()).collect();
    denied.sort_unstable();
    assert_eq!(denied, ["deployment.apply", "deployment.rollout"]);
    // What ran goes on.
    served.rune(&["run", "--agent", "hello", "Hi"]).ok();
    // A signature that comes later counts.
    home.rune(&["sign", &dir, "--key", "release.key"]).ok();
    served.rune(&["run", &dir, "--alias", "other"]).ok();
    // A key that cannot be read keeps the daemon from starting.
    fs::remove_file(&key).unwrap();
    let error = served.0.restart().await.unwrap_err().to_string();
    assert!(error.contains("packages.trusted_keys"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn compose_takes_packages_of_a_registry() {
    let registry = TestRegistry::start(None).await.unwrap();
    let home = home();
    let served = Served(TestDaemon::builder(RUNE).start().await.unwrap());
    let name = format!("{}/acme/hello:1", registry.host());
    home.rune(&["push", &name, "hello"]).ok();
    let compose = format!(
        "version: '1'\nproject: shop\nagents:\n  one: {{ source: \"{name}\" }}\n  two: {{ source: \"oci://{name}\", alias: two }}\n"
    );
    fs::write(served.0.home().join("rune-compose.yml"), compose).unwrap();
    served.rune(&["compose", "up"]).ok();
    let answer = served.rune(&["run", "--agent", "hello", "Hi"]).ok();
    assert!(answer.contains("I am signed."), "{answer}");
    let again = served.rune(&["compose", "up", "--dry-run"]).ok();
    assert!(
        again.contains("unchanged") && !again.contains("create"),
        "{again}"
    );
}

#[test]
fn an_image_has_the_package_and_runs() {
    let Some(docker) = TestDocker::find() else {
        return;
    };
    let home = home();
    let base = "rune-test-base:1";
    docker.image(base, &["CMD [\"sh\"]"]).unwrap();
    let tag = format!("rune-test-hello-{}:1.0.0", std::process::id());
    let build = |base: &str| {
        let mut command = home.command(&["build", "hello", "--image", "--tag", &tag]);
        command.env("RUNE_REPLICA_IMAGE", base);
        Ran::new(command)
    };
    let error = said(build("rune-test-nowhere:1"), 6);
    assert!(
        error.contains("rune-test-nowhere:1") && error.contains("RUNE_REPLICA_IMAGE"),
        "{error}"
    );
    let text = build(base).ok();
    assert!(text.contains(&tag), "{text}");
    // The base of the test has no `rune`: it is lent to the container, with what it is linked to.
    let lent = |from: &str, to: &str| format!("{from}:{to}:ro");
    let binary = lent(RUNE, "/bin/rune");
    let libraries: Vec<String> = ["/lib", "/lib64", "/etc/ssl"]
        .iter()
        .filter_map(|dir| Some((PathBuf::from(dir).canonicalize().ok()?, dir)))
        .map(|(from, to)| lent(&from.display().to_string(), to))
        .collect();
    let mut args = vec![
        "run",
        "--rm",
        "--network",
        "none",
        "-e",
        "HOME=/tmp",
        "-v",
        &binary,
    ];
    for library in &libraries {
        args.extend(["-v", library]);
    }
    args.extend([tag.as_str(), "run", "/agent", "Hi"]);
    let answer = docker.run(&args);
    let labels = docker
        .run(&["image", "inspect", "--format", "{{json .Config}}", &tag])
        .unwrap();
    docker.run(&["image", "rm", &tag]).unwrap();
    assert!(
        answer
            .as_ref()
            .is_ok_and(|answer| answer.contains("I am signed.")),
        "{answer:?}"
    );
    for part in [
        "rune.package",
        "org.opencontainers.image.version",
        "8080/tcp",
        "\"/agent\"",
    ] {
        assert!(labels.contains(part), "{part}: {labels}");
    }
    assert!(!labels.contains("rune.daemon"), "{labels}");
    let left = docker
        .run(&["ps", "--all", "--quiet", "--filter", "name=rune-build-"])
        .unwrap();
    assert_eq!(left.trim(), "");
}

#[test]
fn the_page_works_as_written() {
    let Some(registry) = DockerRegistry::find().unwrap() else {
        return;
    };
    let tour = Tour::new();
    let at = [("127.0.0.1:5000", registry.host())];
    let printed = run_page_at(&tour, "docs/packages.md", &at).concat();
    for part in [
        "[ok] hello 0.1.0",
        "[ok] pushed",
        "[ok] pulled hello",
        "UTC",
        "[ok] made key",
        "is signed",
    ] {
        assert!(printed.contains(part), "{part}: {printed}");
    }
}
