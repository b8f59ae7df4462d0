//! `rune dev`: an agent that is edited while it runs.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStderr, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::home::{Home, Ran};

const RUNEFILE: &str = "name: hello\nversion: 0.1.0\ninstructions: Answer.\ndefault_model: default\n\
    models:\n  providers: [offline]\n  model_mapping: {default: offline}\n";

/// A running `rune dev` and what it says.
struct Dev {
    home: Home,
    child: Child,
    said: BufReader<ChildStderr>,
    gateway: String,
}

impl Dev {
    fn start(args: &[&str]) -> Self {
        let home = Home::new();
        std::fs::create_dir(home.path().join("hello")).unwrap();
        std::fs::create_dir(home.path().join("tmp")).unwrap();
        std::fs::write(home.path().join("hello/Runefile"), RUNEFILE).unwrap();
        let any_port = [
            "--gateway-addr",
            "127.0.0.1:0",
            "--control-plane-addr",
            "127.0.0.1:0",
        ];
        let mut command = home.command(&["dev", "hello"]);
        command
            .args(any_port)
            .args(args)
            .env("TMPDIR", home.path().join("tmp"));
        let piped = command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = piped.spawn().unwrap();
        let said = BufReader::new(child.stderr.take().unwrap());
        let mut dev = Self {
            home,
            child,
            said,
            gateway: String::new(),
        };
        let line = dev.until("gateway http://");
        let url = line.split_whitespace().nth(1).unwrap();
        dev.gateway = url.to_owned();
        dev
    }

    /// Waits for a line with this text and answers it.
    #[track_caller]
    fn until(&mut self, text: &str) -> String {
        let mut all = String::new();
        loop {
            let start = all.len();
            assert!(
                self.said.read_line(&mut all).unwrap() > 0,
                "no {text:?} in {all}"
            );
            if all[start..].contains(text) {
                return all[start..].to_owned();
            }
        }
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.home.path().join("hello").join(name), text).unwrap();
    }

    fn ask(&self, agent: &str) -> Ran {
        self.home
            .rune(&["run", "--agent", agent, "Hi", "--gateway", &self.gateway])
    }

    /// Ctrl-C; answers what was printed.
    fn end(mut self) -> (Home, String) {
        kill_process(Pid::from_child(&self.child), Signal::INT).unwrap();
        let mut printed = String::new();
        let mut stdout = self.child.stdout.take().unwrap();
        stdout.read_to_string(&mut printed).unwrap();
        assert_eq!(self.child.wait().unwrap().code(), Some(0));
        (self.home, printed)
    }
}

#[test]
fn an_edited_agent_answers_anew_and_a_mistake_changes_nothing() {
    let mut dev = Dev::start(&[]);
    dev.until("dev/hello:stable 0.1.0 is ready");
    assert!(dev.ask("hello").ok().contains("Echo: Hi"));

    dev.write("script.yaml", "rules:\n  - respond: I was edited.\n");
    dev.until("is ready (change 2");
    assert!(dev.ask("hello").ok().contains("I was edited."));

    dev.write("Runefile", &RUNEFILE.replace("instructions", "instruction"));
    dev.until("hello/Runefile:3:1");
    dev.until("stays as it was");
    assert!(dev.ask("hello").ok().contains("I was edited."));

    dev.write("script.yaml", "rules:\n  - respond: I was repaired.\n");
    dev.write("Runefile", &RUNEFILE.replace("hello", "greeter"));
    dev.until("dev/greeter:stable 0.1.0 is ready");
    assert!(dev.ask("greeter").ok().contains("I was repaired."));
    dev.ask("hello").ends(1);

    let (home, printed) = dev.end();
    assert!(
        printed.contains("done") && printed.contains("I was edited."),
        "{printed}"
    );
    let left: Vec<_> = std::fs::read_dir(home.path().join("tmp"))
        .unwrap()
        .collect();
    assert!(left.is_empty(), "{left:?}");
    assert!(!home.path().join(".rune/rune.db").exists());
}

#[test]
fn an_agent_that_is_not_valid_yet_is_waited_for() {
    let mut dev = Dev::start(&["--data-dir", "data", "--env", "WHO=me"]);
    dev.until("is ready");
    dev.write(
        "Runefile",
        &RUNEFILE.replace("Answer.", "\"Answer ${WHO} and ${NOBODY}.\""),
    );
    dev.until("NOBODY");
    dev.write(
        "Runefile",
        &RUNEFILE.replace("Answer.", "\"Answer ${WHO}.\""),
    );
    dev.until("is ready");
    let (home, _) = dev.end();
    assert!(home.path().join("data/rune.db").exists());
    let ran = home.rune(&["dev", "nobody"]).ends(2);
    assert!(
        ran.stderr.contains("there is no agent at"),
        "{}",
        ran.stderr
    );
    let ran = home
        .rune(&["dev", "hello", "--data-dir", "hello/data"])
        .ends(2);
    assert!(
        ran.stderr.contains("inside the agent directory"),
        "{}",
        ran.stderr
    );
}
