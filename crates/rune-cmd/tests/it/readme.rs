//! The commands of README.md, run as they are written there.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::home::{Home, RUNE, Ran};

/// The directory of README.md.
pub(crate) fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.join("../..").canonicalize().unwrap()
}

/// The shell blocks of a section.
fn blocks(section: &str) -> Vec<String> {
    let page = std::fs::read_to_string(root().join("README.md")).unwrap();
    let start = page.find(&format!("## {section}\n")).unwrap() + 3;
    let text = &page[start..];
    let text = &text[..text.find("\n## ").unwrap_or(text.len())];
    shell(text)
}

/// The shell blocks of a text.
pub(crate) fn shell(text: &str) -> Vec<String> {
    let blocks = text.split("```sh\n").skip(1);
    blocks
        .map(|block| block.split("```").next().unwrap().to_owned())
        .collect()
}

/// A copy of the examples, so that the tour leaves nothing in the source tree.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// A home with the examples and with free ports instead of the default ones.
pub(crate) struct Tour {
    home: Home,
    ports: [u16; 2],
}

impl Tour {
    pub(crate) fn new() -> Self {
        let home = Home::new();
        copy(&root().join("examples"), &home.path().join("examples"));
        let free = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let ports = free.map(|listener| listener.local_addr().unwrap().port());
        std::fs::create_dir(home.path().join(".rune")).unwrap();
        let config = format!(
            "[gateway]\naddr = \"127.0.0.1:{}\"\n[control_plane]\naddr = \"127.0.0.1:{}\"\n",
            ports[0], ports[1]
        );
        std::fs::write(home.path().join(".rune/config.toml"), config).unwrap();
        Self { home, ports }
    }

    pub(crate) fn path(&self) -> &Path {
        self.home.path()
    }

    /// Where the gateway and the control plane are, in place of 8080 and 8081.
    pub(crate) fn ports(&self) -> [u16; 2] {
        self.ports
    }

    /// A line of the page as it is run here: this binary, these ports.
    pub(crate) fn adapt(&self, block: &str) -> String {
        let lines = block
            .lines()
            .filter(|line| !line.starts_with("cargo build"));
        let lines = lines.filter(|line| !line.starts_with("export PATH="));
        // The test of such a page makes the image.
        let made = ["docker pull ", "docker build ", "docker push "];
        let lines = lines.filter(|line| !made.iter().any(|made| line.starts_with(made)));
        let text: Vec<&str> = lines.collect();
        text.join("\n")
            .replace("cargo run --locked --", "rune")
            .replace(":8080", &format!(":{}", self.ports[0]))
            .replace(":8081", &format!(":{}", self.ports[1]))
    }

    pub(crate) fn run(&self, script: &str) -> String {
        let bin = Path::new(RUNE).parent().unwrap();
        let mut command: Command = self.home.command(&[]);
        command = {
            let mut sh = Command::new("sh");
            sh.env_clear()
                .envs(command.get_envs().filter_map(|(k, v)| Some((k, v?))));
            sh.env(
                "PATH",
                format!("{}:/usr/local/bin:/usr/bin:/bin", bin.display()),
            );
            sh.current_dir(command.get_current_dir().unwrap());
            sh
        };
        command.args(["-euc", script]);
        let ran = Ran::new(command);
        assert_eq!(ran.code, 0, "{script}\n{}\n{}", ran.stdout, ran.stderr);
        ran.stdout
    }
}

impl Drop for Tour {
    fn drop(&mut self) {
        // The tour stops its daemon itself where it gets that far.
        self.home.rune(&["daemon", "stop"]);
    }
}

/// Runs every shell block of a page, in order, and answers what they printed.
pub(crate) fn run_page(tour: &Tour, page: &str) -> Vec<String> {
    run_page_at(tour, page, &[])
}

/// The same with other addresses in place of those on the page.
pub(crate) fn run_page_at(tour: &Tour, page: &str, addresses: &[(&str, &str)]) -> Vec<String> {
    let page = std::fs::read_to_string(root().join(page)).unwrap();
    let adapt = |block: &String| {
        let block = tour.adapt(block);
        addresses
            .iter()
            .fold(block, |text, (from, to)| text.replace(from, to))
    };
    shell(&page)
        .iter()
        .map(|block| tour.run(&adapt(block)))
        .collect()
}

#[test]
fn the_first_command_answers_with_a_tool_result() {
    let tour = Tour::new();
    let first = tour.adapt(&blocks("Two commands")[0]);
    let answer = tour.run(&first);
    assert!(
        answer.contains("It is ") && answer.contains("UTC"),
        "{answer}"
    );
}

#[test]
fn five_minutes_work_as_written() {
    let tour = Tour::new();
    let printed: Vec<String> = blocks("Five minutes")
        .iter()
        .map(|block| tour.run(&tour.adapt(block)))
        .collect();
    let all = printed.concat();
    for part in [
        "[ok] daemon started",
        "event: done",
        "I remember: Please remember that the kettle is green.",
        "Your text has 5 words",
        "Your text has 4 words",
    ] {
        assert!(all.contains(part), "{part}: {all}");
    }
    assert!(printed.len() >= 8, "{}", printed.len());
}

/// The directories below one that hold an agent, themselves included.
fn agents(dir: &Path, found: &mut Vec<PathBuf>) {
    if dir.join("Runefile").is_file() {
        found.push(dir.to_owned());
    }
    for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            agents(&entry.path(), found);
        }
    }
}

#[test]
fn the_examples_are_valid() {
    let tour = Tour::new();
    let mut found = Vec::new();
    agents(&tour.home.path().join("examples"), &mut found);
    assert!(found.len() >= 13, "{found:?}");
    for dir in found {
        let text = tour.run(&format!("rune validate {}", dir.display()));
        assert!(text.contains("is valid"), "{text}");
    }
}

#[test]
fn the_evals_of_the_examples_pass() {
    let tour = Tour::new();
    let mut found = Vec::new();
    agents(&tour.home.path().join("examples"), &mut found);
    found.retain(|dir| dir.join("evals/golden").is_dir());
    assert!(
        !found.is_empty(),
        "no example has an eval with a golden file"
    );
    for dir in found {
        let text = tour.run(&format!("rune eval {} --offline", dir.display()));
        assert!(text.contains(", 0 failed"), "{text}");
    }
}

#[test]
fn the_examples_run_as_their_readmes_say() {
    for (example, expected) in [
        (
            "workflow",
            &[
                "billing: Dear customer, we correct the invoice today.",
                "support: Dear customer, please restart the device.",
                "wave 2",
            ][..],
        ),
        (
            "approval",
            &["is approved for request", "approval_given", "I am done."],
        ),
        (
            "memory",
            &[
                "I know: Please remember that the kettle is green.",
                "replaced",
                "Day one. The tea is in",
                "a summary stands for them",
            ],
        ),
        (
            "multi-agent",
            &[
                "The researcher says: Tea is older than coffee. The calculator says: 42.",
                "dev/calculator",
            ],
        ),
        (
            "programmable-agent",
            &[
                "is valid, with the component agent.wat, script",
                "agent-component",
                "rune:agent/model@0.1.0",
                "Reviewed, and right.",
                "component_turn",
                "info: the draft is there",
            ],
        ),
        (
            "wasm-tool",
            &[
                "Your text has 5 words.",
                "PLEASE SHOUT THIS!",
                "wasi_snapshot_preview1::fd_read",
                "tool-component",
                "shout 0.1.0: Answers its input in capital letters.",
            ],
        ),
        (
            "mcp",
            &[
                "shopping 1.0.0 speaks MCP 2025-11-25",
                "On the list: milk, tea.",
                "The list has nothing.",
                "The list has milk, tea.",
                "ready",
            ],
        ),
        (
            "compose",
            &[
                "[ok] shop is up: 3 agents (3 created)",
                "2/2",
                "We have 7 kettles, at 30 EUR each.",
                "everything unchanged",
                "[ok] shop is up: 3 agents (1 changed, 2 unchanged)",
                "[ok] removed 3 of 3 agents of shop",
            ],
        ),
    ] {
        let tour = Tour::new();
        let page = root().join("examples").join(example).join("README.md");
        let page = std::fs::read_to_string(page).unwrap();
        let printed: String = shell(&page)
            .iter()
            .map(|block| tour.run(&tour.adapt(block)))
            .collect();
        for part in expected {
            assert!(printed.contains(part), "{example}: {part}: {printed}");
        }
    }
}
