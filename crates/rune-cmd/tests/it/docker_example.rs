//! `examples/docker`: the commands of its page, against a real engine and the image that the Dockerfile makes.

use std::process::Command;

use rune_testkit::TestDocker;

use crate::backends::containers::image;
use crate::home::{Home, Ran, write_plain};
use crate::readme::{Tour, root, shell};
use crate::wire::{LIMIT, POLL};

/// The container and the volume of the example; removed when dropped.
struct Named(String);

impl Drop for Named {
    fn drop(&mut self) {
        // The page removes them itself where it gets that far.
        for args in [["rm", "--force"], ["volume", "rm"]] {
            let _ = Command::new("docker").args(args).arg(&self.0).output();
        }
    }
}

#[tokio::test]
async fn an_image_without_arguments_is_deployed_to_from_outside_with_its_key() {
    let Some(image) = image() else { return };
    let docker = TestDocker::find().unwrap();
    let home = Home::new();
    write_plain(&home.path().join("plain"));
    let named = Named(format!("rune-test-bare-{}", std::process::id()));
    // Whoever could reach it could deploy, so it does not start for everybody.
    let open = docker.run(&["run", "--rm", "--name", &named.0, image]);
    let refused = open.unwrap_err().to_string();
    assert!(refused.contains("RUNE_API_KEY"), "{refused}");
    let key = "a-key-of-the-test";
    let publish = |port: &str| format!("127.0.0.1::{port}");
    let (gateway, control_plane) = (publish("8080"), publish("8081"));
    let with_key = format!("RUNE_API_KEY={key}");
    let ports = ["--publish", &gateway, "--publish", &control_plane];
    let begin = ["run", "--detach", "--name", &named.0, "--env", &with_key];
    docker
        .run(&[&begin[..], &ports, &[image]].concat())
        .unwrap();
    let at = |port: &str| {
        docker
            .run(&["port", &named.0, port])
            .unwrap()
            .trim()
            .to_owned()
    };
    let (gateway, control_plane) = (at("8080"), at("8081"));
    let rune = |key: &str, args: &[&str]| {
        let mut command = home.command(args);
        command
            .env("RUNE_API_KEY", key)
            .args(["--gateway", &format!("http://{gateway}")])
            .args(["--control-plane", &format!("http://{control_plane}")]);
        Ran::new(command)
    };
    let deadline = std::time::Instant::now() + LIMIT;
    while rune(key, &["status"]).code != 0 {
        assert!(
            std::time::Instant::now() < deadline,
            "{:?}",
            docker.run(&["logs", &named.0])
        );
        tokio::time::sleep(POLL).await;
    }
    let refused = rune("another-key", &["run", "plain"]);
    assert_ne!(refused.code, 0, "{}", refused.stdout);
    rune(key, &["run", "plain"]).ok();
    let answer = rune(key, &["run", "--agent", "plain", "Hello"]).ok();
    assert!(answer.contains("Echo: Hello"), "{answer}");
}

#[test]
fn the_daemon_runs_in_a_container_as_the_page_says() {
    let Some(image) = image() else { return };
    let docker = TestDocker::find().unwrap();
    let tour = Tour::new();
    let named = Named(format!("rune-test-example-{}", tour.ports()[0]));
    let page = std::fs::read_to_string(root().join("examples/docker/README.md")).unwrap();
    let adapted = |block: &String| {
        let block = tour.adapt(block).replace("rune:0.1.0", image);
        ["rune-daemon", "rune-data"]
            .iter()
            .fold(block, |text, name| text.replace(name, &named.0))
    };
    let blocks: Vec<String> = shell(&page).iter().map(adapted).collect();
    let (last, blocks) = blocks.split_last().unwrap();
    let printed: Vec<String> = blocks.iter().map(|block| tour.run(block)).collect();
    let all = printed.concat();
    // By the command line, and over HTTP with the key.
    for part in ["Your text has 5 words", "Your text has 4 words"] {
        assert!(all.contains(part), "{part}: {all}");
    }
    // Both are there after the restart.
    let kept = printed.last().unwrap();
    assert_eq!(kept.matches("completed").count(), 2, "{kept}");
    let look = |format: &str| docker.run(&["inspect", "--format", format, &named.0]);
    let held = look(
        "{{.HostConfig.ReadonlyRootfs}} {{.HostConfig.CapDrop}} {{.Config.User}} {{.HostConfig.PidsLimit}}",
    );
    assert_eq!(held.unwrap().trim(), "true [ALL] 65532:65532 4096");
    let gateway = format!("http://127.0.0.1:{}", tour.ports()[0]);
    let code = tour.run(&format!(
        "curl -s -o /dev/null -w '%{{http_code}}' {gateway}/v1/agents"
    ));
    assert_eq!(code, "401");
    tour.run(last);
    assert!(look("{{.Id}}").is_err(), "the container is still there");
    assert!(docker.run(&["volume", "inspect", &named.0]).is_err());
    assert!(!tour.path().join("rune.env").exists());
}
