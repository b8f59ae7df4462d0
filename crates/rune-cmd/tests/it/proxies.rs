//! Which of the command line's questions go through a proxy.

use rune_testkit::TestDaemon;

use crate::home::{Home, RUNE, Ran, Served};
use crate::remote_agents::server::{Reply, Scripted};

const KEY: &str = "a-key-that-is-nobodys-business";

async fn proxy() -> Scripted {
    Scripted::start(|_, _| Reply::Whole(400, "application/json", b"{}".to_vec())).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_on_this_machine_is_asked_directly() {
    let proxy = proxy().await;
    let builder = TestDaemon::builder(RUNE).env("RUNE_API_KEY", KEY);
    let served = Served(builder.start().await.unwrap());
    for verb in [["agent", "ls"], ["requests", "ls"]] {
        let mut command = served.command(&verb);
        for name in ["HTTP_PROXY", "http_proxy", "ALL_PROXY"] {
            command.env(name, &proxy.base);
        }
        Ran::new(command).ok();
    }
    assert!(proxy.seen().is_empty(), "{:?}", proxy.seen());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_elsewhere_is_asked_through_the_proxy_unless_that_is_excepted() {
    let proxy = proxy().await;
    let home = Home::new();
    let command = || {
        let url = "http://rune.invalid:8081";
        let mut command = home.command(&["--gateway", url, "--control-plane", url, "agent", "ls"]);
        command.env("HTTP_PROXY", &proxy.base);
        command
    };
    let mut excepted = command();
    excepted.env("NO_PROXY", "rune.invalid");
    Ran::new(excepted).ends(6);
    assert!(proxy.seen().is_empty(), "{:?}", proxy.seen());

    Ran::new(command()).ends(1);
    let path = proxy.seen()[0].path.clone();
    assert!(path.starts_with("http://rune.invalid:8081/v1/"), "{path}");
}
