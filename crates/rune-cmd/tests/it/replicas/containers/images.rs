//! The image of a replica: one with the package in it, and one that is pulled.

use std::path::Path;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use reqwest::Client;
use rune_testkit::{DockerRegistry, REGISTRY_LOGIN, TestDaemon, TestDocker};
use serde_json::{Value, json};

use super::Rig;
use crate::backends::containers::image;
use crate::home::{RUNE, Ran};

/// An image of this test, removed when this is dropped.
struct Tagged(String);

impl Tagged {
    /// The stock image with something of its own, under this name.
    fn of_stock(name: String) -> Self {
        let docker = TestDocker::find().unwrap();
        let context = tempfile::tempdir().unwrap();
        let file = format!("FROM {}\nLABEL rune-test-image={name}\n", image().unwrap());
        std::fs::write(context.path().join("Dockerfile"), file).unwrap();
        let dir = context.path().to_str().unwrap();
        docker
            .run(&["build", "--quiet", "--tag", &name, dir])
            .unwrap();
        Self(name)
    }

    fn id(&self) -> String {
        id_of(&self.0)
    }
}

impl Drop for Tagged {
    fn drop(&mut self) {
        if let Some(docker) = TestDocker::find() {
            // It may be gone already, or a container of it may still be ending.
            let _ = docker.run(&["image", "rm", "--force", &self.0]);
        }
    }
}

fn id_of(image: &str) -> String {
    let docker = TestDocker::find().unwrap();
    let id = docker.run(&["image", "inspect", "--format", "{{.Id}}", image]);
    id.unwrap().trim().to_owned()
}

fn is_there(image: &str) -> bool {
    let docker = TestDocker::find().unwrap();
    docker.run(&["image", "inspect", image]).is_ok()
}

/// The image that the only container of an agent is of.
fn runs_on(rig: &Rig, agent: &str) -> String {
    let docker = TestDocker::find().unwrap();
    let containers = rig.containers(agent);
    assert_eq!(containers.len(), 1, "{}", rig.served.0.log());
    let found = docker.run(&["inspect", "--format", "{{.Image}}", &containers[0]]);
    found.unwrap().trim().to_owned()
}

async fn items(rig: &Rig, path: &str) -> Vec<Value> {
    let url = format!("{}{path}", rig.served.0.control_plane());
    let page = Client::new().get(url).send().await.unwrap();
    let page: Value = page.json().await.unwrap();
    page["items"].as_array().unwrap().clone()
}

/// Docker's configuration with this password for a registry.
fn log_in(dir: &Path, host: &str, password: &str) {
    std::fs::create_dir_all(dir).unwrap();
    let pair = BASE64_STANDARD.encode(format!("{}:{password}", REGISTRY_LOGIN.0));
    let config = json!({ "auths": { host: { "auth": pair } } });
    std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_rune_builds_runs_as_a_replica() {
    let tag = format!("rune-test-boxed-{}:1.0.0", std::process::id());
    let builder = TestDaemon::builder(RUNE).env("BOXED_IMAGE", &tag);
    let Some(rig) = Rig::start_with(builder).await else {
        return;
    };
    rig.agent("boxed", &format!("runtime: {{image: \"{tag}\"}}\n"));
    let mut build = rig
        .served
        .command(&["build", "boxed", "--image", "--tag", &tag]);
    build.env("RUNE_REPLICA_IMAGE", image().unwrap());
    Ran::new(build).ok();
    let tagged = Tagged(tag.clone());
    rig.served.rune(&["run", "boxed"]).ok();
    rig.hello("boxed").await;
    assert_eq!(runs_on(&rig, "boxed"), tagged.id());
    assert_ne!(tagged.id(), id_of(image().unwrap()));
    let version = items(&rig, "/v1/agent-versions?agent=boxed")
        .await
        .remove(0);
    assert_eq!(version["image"], tag.as_str(), "{version}");
    // Without one it is the daemon's.
    assert_eq!(runs_on(&rig, "worker"), id_of(image().unwrap()));
    let version = items(&rig, "/v1/agent-versions?agent=worker")
        .await
        .remove(0);
    assert_eq!(version.get("image"), None, "{version}");
    // A variable is the daemon's: the version has it as it is written.
    rig.agent("varied", "runtime: {image: \"${BOXED_IMAGE}\"}\n");
    rig.served.rune(&["run", "varied"]).ok();
    rig.hello("varied").await;
    assert_eq!(runs_on(&rig, "varied"), tagged.id());
    let version = items(&rig, "/v1/agent-versions?agent=varied")
        .await
        .remove(0);
    assert_eq!(version["image"], "${BOXED_IMAGE}", "{version}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_is_missing_is_pulled_from_its_registry() {
    let Some(rig) = Rig::start().await else {
        return;
    };
    let Some(registry) = DockerRegistry::guarded().unwrap() else {
        return;
    };
    let docker = TestDocker::find().unwrap();
    let host = registry.host();
    let login = tempfile::tempdir().unwrap();
    log_in(login.path(), host, REGISTRY_LOGIN.1);
    let tagged = Tagged::of_stock(format!("{host}/acme/boxed:1"));
    let (name, id) = (tagged.0.as_str(), tagged.id());
    let push = [
        "--config",
        login.path().to_str().unwrap(),
        "push",
        "--quiet",
        name,
    ];
    docker.run(&push).unwrap();
    docker.run(&["image", "rm", name]).unwrap();
    assert!(!is_there(name) && !is_there(&id));

    // With a wrong password the reason says what to do, and not the password.
    let own = rig.served.0.home().join(".docker");
    log_in(&own, host, "wrong-word");
    rig.agent("boxed", &format!("runtime: {{image: \"{name}\"}}\n"));
    let ran = rig.served.rune(&["run", "boxed"]);
    let told = format!("{}{}", ran.stdout, ran.stderr);
    assert_ne!(ran.code, 0, "{told}");
    for part in [
        &format!("the image `{name}` cannot be pulled"),
        &format!("docker login {host}"),
    ] {
        assert!(told.contains(part.as_str()), "{part}: {told}");
    }
    assert!(!told.contains("wrong-word") && !rig.served.0.log().contains("wrong-word"));
    assert!(!is_there(name));

    // With the right one it starts by itself.
    log_in(&own, host, REGISTRY_LOGIN.1);
    rig.until("it was pulled and runs", async || {
        items(&rig, "/v1/deployments?agent=boxed").await[0]["state"] == "ready"
    })
    .await;
    rig.hello("boxed").await;
    assert_eq!(runs_on(&rig, "boxed"), id);
    assert_eq!(id_of(name), id);
    let log = rig.served.0.log();
    assert!(
        log.contains("an image was pulled") && !log.contains(REGISTRY_LOGIN.1),
        "{log}"
    );

    // What the registry does not have, and what has no registry, is not waited for in silence.
    for (agent, image, told) in [
        ("absent", format!("{host}/acme/boxed:9"), "cannot be pulled"),
        (
            "local",
            "rune-test-nowhere:1".to_owned(),
            "whose name has no registry is not pulled",
        ),
    ] {
        rig.agent(agent, &format!("runtime: {{image: \"{image}\"}}\n"));
        let ran = rig.served.rune(&["run", agent]);
        let said = format!("{}{}", ran.stdout, ran.stderr);
        assert!(
            ran.code != 0 && said.contains(told) && said.contains(&image),
            "{said}"
        );
        let row = items(&rig, &format!("/v1/deployments?agent={agent}"))
            .await
            .remove(0);
        assert!(row["reason"].as_str().unwrap().contains(told), "{row}");
    }
}
