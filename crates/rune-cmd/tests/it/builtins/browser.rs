//! The browser tools drive a site of this test in a headless Chromium.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex};

use rune_testkit::{ModelScript, ModelServer, Protocol, Reply, TestDaemon, ToolCall};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinHandle;

use super::Rig;
use crate::home::{RUNE, Served};
use crate::wire::{Api, LIMIT, POLL, PROTOCOLS, spawn};

const TOOLS: [&str; 10] = [
    "browser-navigate",
    "browser-click",
    "browser-type",
    "browser-screenshot",
    "browser-read-page",
    "browser-close",
    "browser-scroll",
    "browser-wait",
    "browser-run-js",
    "browser-back",
];

/// Whether there is a browser; says so where there is none.
fn has_browser() -> bool {
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let dirs = ["/usr/local/bin", "/usr/bin", "/bin"];
    let found = dirs
        .iter()
        .any(|dir| names.iter().any(|name| Path::new(dir).join(name).exists()));
    if !found {
        rune_testkit::skip("there is no Chromium on this machine");
    }
    found
}

/// A site on every address of this machine. It remembers what it was asked for.
struct Site {
    port: u16,
    asked: Arc<Mutex<Vec<(String, String)>>>,
    task: JoinHandle<()>,
}

impl Drop for Site {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Site {
    async fn start() -> Self {
        let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = Arc::<Mutex<Vec<_>>>::default();
        let seen = Arc::clone(&asked);
        let task = spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                drop(spawn(serve(stream, Arc::clone(&seen), port)));
            }
        });
        Self { port, asked, task }
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// Whether it was asked for a path at a host.
    fn was_asked(&self, host: &str, path: &str) -> bool {
        let asked = self.asked.lock().unwrap();
        asked.iter().any(|(h, p)| h.starts_with(host) && p == path)
    }
}

async fn serve(mut stream: TcpStream, asked: Arc<Mutex<Vec<(String, String)>>>, port: u16) {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read_u8().await {
                Ok(byte) => head.push(byte),
                Err(_) => return,
            }
        }
        let head = String::from_utf8(head).unwrap();
        let path = head.split(' ').nth(1).unwrap().to_owned();
        let header = |name: &str| {
            let mut lines = head.lines();
            let found = lines.find(|line| line.to_ascii_lowercase().starts_with(name));
            found
                .map(|line| line[name.len()..].trim().to_owned())
                .unwrap_or_default()
        };
        asked.lock().unwrap().push((header("host:"), path.clone()));
        let answer = answer(&path, &header("cookie:"), port);
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

fn answer(path: &str, cookie: &str, port: u16) -> String {
    let (page, query) = path.split_once('?').unwrap_or((path, ""));
    let mut more = String::new();
    let body = match page {
        "/" => "<title>Home</title><h1>Welcome</h1><p>Some <b>bold</b> words.</p>\
             <a href=/form>The form</a> <a href=/popup target=_blank>Elsewhere</a> <a href=/file>A file</a>\
             <div style='height:3000px'></div><p id=end>The end</p>\
             <button id=covered>Covered</button>"
            .to_owned(),
        "/form" => "<title>Form</title><form action=/sent><label>Name <input name=who value=old></label>\
             <label>Size <select name=size><option value=s>Small<option value=l>Large</select></label>\
             <button>Send it</button></form><div id=late></div><script>\
             setTimeout(() => { late.textContent = 'now it is there' }, 300)</script>"
            .to_owned(),
        "/sent" => format!("<title>Sent</title><p>Got {query}</p>"),
        "/popup" => "<title>Popup</title><p>Another page</p><script>alert('look here')</script>".to_owned(),
        "/file" => {
            more = "Content-Disposition: attachment; filename=x.bin\r\n".to_owned();
            "bytes".to_owned()
        }
        "/cookie" => {
            more = format!("Set-Cookie: {query}\r\n");
            format!("<p>cookie is {cookie}.</p>")
        }
        "/to" => {
            return format!(
                "HTTP/1.1 302 Found\r\nLocation: {query}\r\nContent-Length: 0\r\n\r\n"
            );
        }
        "/greedy" => format!(
            "<title>Greedy</title><img src=http://127.0.0.2:{port}/image><script>\
             for (const path of ['fetch', 'ws']) try {{\
               path === 'ws' ? new WebSocket('ws://127.0.0.2:{port}/ws') : fetch('http://127.0.0.2:{port}/fetch', {{mode: 'no-cors'}})\
             }} catch {{}}</script>"
        ),
        _ => "<p>Nothing</p>".to_owned(),
    };
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: {}\r\n{more}\r\n{body}",
        body.len()
    )
}

async fn rig() -> Rig {
    let daemon = TestDaemon::builder(RUNE).env("RUNE_ALLOW_PRIVATE", "127.0.0.1");
    let served = Served(daemon.start().await.unwrap());
    let api = Api::of(&served.0);
    let rig = Rig { served, api };
    rig.deploy("surfer", &TOOLS, "");
    rig
}

impl Rig {
    async fn surf(&self, session: &str, tool: &str, input: Value) -> Value {
        let shown = input.to_string();
        let answer = self.try_surf(session, tool, input).await;
        assert!(answer.is_ok(), "{tool} {shown}: {answer:?}");
        answer.unwrap()
    }

    async fn try_surf(&self, session: &str, tool: &str, input: Value) -> Result<Value, String> {
        let tool = format!("browser-{tool}");
        self.try_call_in(Some(session), "surfer", &tool, input)
            .await
    }

    /// The text of the page that is open.
    async fn text(&self, session: &str) -> String {
        let read = self.surf(session, "read-page", json!({})).await;
        read["text"].as_str().unwrap().to_owned()
    }
}

/// The number of the element whose line contains this.
fn number(text: &str, part: &str) -> String {
    let line = text.lines().find(|line| line.contains(part));
    assert!(line.is_some(), "no {part:?} in\n{text}");
    let line = line.unwrap().trim();
    line[..=line.find(']').unwrap()].to_owned()
}

/// The processes that run below one, and those of the browsers among them that have left it, each with when it was
/// started: a number may be given again.
fn below(root: u32) -> BTreeSet<(u32, u64)> {
    let mut children: HashMap<u32, Vec<(u32, u64)>> = HashMap::new();
    let mut all = Vec::new();
    for dir in std::fs::read_dir("/proc").unwrap().flatten() {
        let name = dir.file_name();
        let Ok(pid) = name.to_string_lossy().parse() else {
            continue;
        };
        if let Some((parent, started)) = running(pid) {
            children.entry(parent).or_default().push((pid, started));
            all.push((pid, started));
        }
    }
    let mut found = BTreeSet::new();
    let mut waiting = vec![root];
    while let Some(parent) = waiting.pop() {
        for child in children.remove(&parent).unwrap_or_default() {
            waiting.push(child.0);
            found.insert(child);
        }
    }
    let directory = |(pid, _): &(u32, u64)| {
        let line = command_line(*pid);
        let from = line.find("/rune-browser-")?;
        let rest = line[from + 1..].split('/').next()?;
        Some(rest.to_owned())
    };
    let browsers: BTreeSet<String> = found.iter().filter_map(directory).collect();
    let of_one = |process: &(u32, u64)| {
        let own = directory(process);
        own.is_some_and(|own| browsers.contains(&own))
    };
    found.extend(all.into_iter().filter(of_one));
    found
}

/// Those among them that show pages.
fn pages_below(root: u32) -> BTreeSet<(u32, u64)> {
    let is_page = |(pid, _): &(u32, u64)| command_line(*pid).contains("--type=renderer");
    below(root).into_iter().filter(is_page).collect()
}

fn command_line(pid: u32) -> String {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&line).replace('\0', " ")
}

/// The parent of a process and when it was started; nothing where it does not run.
fn running(pid: u32) -> Option<(u32, u64)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    let is_dead = matches!(fields[0], "Z" | "X");
    (!is_dead).then(|| (fields[1].parse().unwrap(), fields[19].parse().unwrap()))
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(POLL).await;
        }
    };
    assert!(tokio::time::timeout(LIMIT, wait).await.is_ok(), "{what}");
}

async fn all_gone(processes: &BTreeSet<(u32, u64)>) {
    let is_gone = |(pid, started): &(u32, u64)| running(*pid).is_none_or(|(_, at)| at != *started);
    until("processes of the browser are left", || {
        processes.iter().all(is_gone)
    })
    .await;
}

/// All ten tools in one conversation.
async fn tour(rig: &Rig, site: &Site, session: &str) {
    let home = rig
        .surf(session, "navigate", json!({"url": site.url("/")}))
        .await;
    assert_eq!(home, json!({"url": site.url("/"), "title": "Home"}));
    let text = rig.text(session).await;
    assert!(text.contains("heading \"Welcome\" (level 1)"), "{text}");
    assert!(text.contains("Some bold words."), "{text}");
    let link = number(&text, "link \"The form\"");
    let form = rig.surf(session, "click", json!({"target": link})).await;
    assert_eq!(form["title"], "Form");
    // The number of another page is nobody's.
    let stale = rig
        .try_surf(session, "click", json!({"target": link}))
        .await;
    assert!(stale.unwrap_err().contains("browser-read-page"));
    let waited = rig
        .surf(session, "wait", json!({"text": "now it is there"}))
        .await;
    assert_eq!(waited["title"], "Form");
    let text = rig.text(session).await;
    let (name, size) = (
        number(&text, "textbox \"Name\""),
        number(&text, "combobox \"Size\""),
    );
    rig.surf(session, "type", json!({"target": name, "text": "Ada L"}))
        .await;
    rig.surf(session, "type", json!({"target": size, "text": "Large"}))
        .await;
    let shot = rig
        .surf(session, "screenshot", json!({"target": "form"}))
        .await;
    assert_eq!(shot["image"]["media_type"], "image/jpeg");
    assert!(shot["image"]["bytes"].as_u64().unwrap() > 500, "{shot}");
    let button = number(&text, "button \"Send it\"");
    let sent = rig.surf(session, "click", json!({"target": button})).await;
    assert_eq!(sent["url"], site.url("/sent?who=Ada+L&size=l"));
    let back = rig.surf(session, "back", json!({"steps": 2})).await;
    assert_eq!(back["title"], "Home");
    let down = rig
        .surf(session, "scroll", json!({"direction": "bottom"}))
        .await;
    assert!(down["position"]["y"].as_u64().unwrap() > 2000, "{down}");
    let script = json!({"script": "const at = await Promise.resolve(scrollY); ({at, end: document.querySelector('#end').innerText})"});
    let ran = rig.surf(session, "run-js", script).await;
    assert_eq!(ran["value"]["end"], "The end");
    assert!(ran["value"]["at"].as_u64().unwrap() > 2000, "{ran}");
    let closed = rig.surf(session, "close", json!({})).await;
    assert_eq!(closed, json!({"closed": true}));
}

#[tokio::test]
async fn the_ten_tools_drive_a_site_twenty_times_and_leave_nothing() {
    if !has_browser() {
        return;
    }
    let (mut rig, site) = (rig().await, Site::start().await);
    let daemon = rig.served.0.pid().unwrap();
    let before = below(daemon);
    tour(&rig, &site, "round-0").await;
    for round in 1..20 {
        tour(&rig, &site, &format!("round-{round}")).await;
    }
    // What is left is the browser without a page; a renderer may be kept ready for the next one.
    until("pages are left", || pages_below(daemon).len() <= 1).await;
    let left = below(daemon);
    assert!(left.len() > before.len(), "one browser served all of them");
    rig.served.0.terminate().await.unwrap();
    all_gone(&left).await;
}

#[tokio::test]
async fn nothing_of_a_browser_outlives_its_daemon_or_its_conversation() {
    if !has_browser() {
        return;
    }
    let (mut rig, site) = (rig().await, Site::start().await);
    for session in ["one", "two"] {
        rig.surf(session, "navigate", json!({"url": site.url("/")}))
            .await;
    }
    let daemon = rig.served.0.pid().unwrap();
    let pages = pages_below(daemon);
    assert!(pages.len() >= 2, "{pages:?}");
    let url = format!("{}/v1/sessions/one", rig.served.0.gateway());
    let deleted = reqwest::Client::new().delete(url).send().await.unwrap();
    assert_eq!(deleted.status(), 204);
    let still = |all: &BTreeSet<(u32, u64)>| below(daemon).intersection(all).count();
    until("the pages of a deleted session are left", || {
        still(&pages) < pages.len()
    })
    .await;
    assert!(rig.text("two").await.contains("Welcome"));
    let running = below(daemon);
    assert!(running.len() > 3, "{running:?}");
    rig.served.0.kill9().unwrap();
    all_gone(&running).await;
    rig.served.0.restart().await.unwrap();
    rig.api = Api::of(&rig.served.0);
    let lost = rig
        .try_surf("two", "read-page", json!({}))
        .await
        .unwrap_err();
    assert!(lost.contains("no page is open"), "{lost}");
    let again = rig
        .surf("two", "navigate", json!({"url": site.url("/")}))
        .await;
    assert_eq!(again["title"], "Home");
}

#[tokio::test]
async fn conversations_share_no_cookies() {
    if !has_browser() {
        return;
    }
    let (rig, site) = (rig().await, Site::start().await);
    for (session, cookie) in [("one", "who=one"), ("two", "who=two")] {
        let set = json!({"url": site.url(&format!("/cookie?{cookie}"))});
        rig.surf(session, "navigate", set).await;
        assert!(rig.text(session).await.contains("cookie is ."), "{session}");
    }
    for session in ["one", "two"] {
        let look = json!({"url": site.url("/cookie?x=y")});
        rig.surf(session, "navigate", look).await;
        let text = rig.text(session).await;
        assert!(
            text.contains(&format!("cookie is who={session}.")),
            "{text}"
        );
    }
}

#[tokio::test]
async fn neither_a_page_nor_what_it_loads_gets_where_it_may_not() {
    if !has_browser() {
        return;
    }
    let (rig, site) = (rig().await, Site::start().await);
    let port = site.port;
    for (url, expected) in [
        (format!("http://127.0.0.2:{port}/"), "loopback address"),
        (
            site.url(&format!("/to?http://127.0.0.2:{port}/hop")),
            "loopback address",
        ),
        (format!("https://127.0.0.3:{port}/"), "loopback address"),
        (
            format!("http://user:secret@127.0.0.1:{port}/"),
            "user name or password",
        ),
        ("file:///etc/passwd".to_owned(), "scheme `file`"),
        ("chrome://version".to_owned(), "scheme `chrome`"),
        ("javascript:1".to_owned(), "scheme `javascript`"),
        (site.url("/file"), "downloads are off"),
    ] {
        let refused = rig.try_surf("s", "navigate", json!({"url": url})).await;
        let refused = refused.unwrap_err();
        assert!(refused.contains(expected), "{url}: {refused}");
        assert!(!refused.contains("secret"), "{refused}");
    }
    let greedy = rig
        .surf("s", "navigate", json!({"url": site.url("/greedy")}))
        .await;
    let mut blocked = greedy["blocked"].to_string();
    let mut tries = 0;
    while !blocked.contains("loopback address") && tries < 50 {
        let waited = rig.surf("s", "wait", json!({"timeout_ms": 100})).await;
        blocked = waited["blocked"].to_string();
        tries += 1;
    }
    assert!(blocked.contains(&format!("127.0.0.2:{port}")), "{blocked}");
    // Not by a script, not by an address of a page that is open, and not beside the proxy.
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let stun = socket.local_addr().unwrap();
    let script = format!(
        "const got = await fetch('http://127.0.0.2:{port}/script', {{mode: 'no-cors'}}).then((it) => it.type, () => 'failed');\
         const peer = new RTCPeerConnection({{iceServers: [{{urls: 'stun:{stun}'}}]}});\
         peer.createDataChannel('x'); await peer.setLocalDescription();\
         await new Promise((done) => {{ peer.onicegatheringstatechange = () => peer.iceGatheringState === 'complete' && done(); setTimeout(done, 3000) }});\
         location.href = 'file:///etc/passwd'; got"
    );
    let ran = rig.surf("s", "run-js", json!({"script": script})).await;
    assert!(!ran["url"].as_str().unwrap().starts_with("file"), "{ran}");
    let mut packet = [0; 64];
    assert!(
        socket.try_recv(&mut packet).is_err(),
        "WebRTC went around the proxy"
    );
    for path in ["/", "/hop", "/image", "/fetch", "/ws", "/script"] {
        assert!(!site.was_asked("127.0.0.2", path), "{path}");
    }
}

#[tokio::test]
async fn popups_dialogs_and_what_cannot_be_used_are_told() {
    if !has_browser() {
        return;
    }
    let (rig, site) = (rig().await, Site::start().await);
    let none = rig.try_surf("s", "read-page", json!({})).await.unwrap_err();
    assert!(none.contains("no page is open"), "{none}");
    rig.surf("s", "navigate", json!({"url": site.url("/")}))
        .await;
    let text = rig.text("s").await;
    let link = number(&text, "link \"Elsewhere\"");
    let popup = rig.surf("s", "click", json!({"target": link})).await;
    assert_eq!(
        (&popup["title"], &popup["opened_pages"]),
        (&json!("Popup"), &json!(1))
    );
    assert_eq!(popup["dialogs"], json!(["alert: look here"]));
    let back = rig.surf("s", "back", json!({})).await;
    assert_eq!(back["title"], "Home");
    // Still the same document, so the numbers hold.
    assert_eq!(number(&rig.text("s").await, "link \"Elsewhere\""), link);
    let cover = "const it = document.createElement('div'); it.id = 'cover';\
                 it.style = 'position:fixed;inset:0;z-index:9'; document.body.append(it); 1";
    rig.surf("s", "run-js", json!({"script": cover})).await;
    for (tool, input, expected) in [
        (
            "click",
            json!({"target": "#covered"}),
            "covered by <div#cover>",
        ),
        (
            "click",
            json!({"target": "#nothing"}),
            "nothing on the page matches",
        ),
        ("click", json!({"target": "##"}), "not a CSS selector"),
        (
            "type",
            json!({"target": "h1", "text": "x"}),
            "is not typed into",
        ),
        (
            "wait",
            json!({"text": "never", "timeout_ms": 200}),
            "not so within 200 ms",
        ),
        (
            "run-js",
            json!({"script": "throw new Error('mine')"}),
            "mine",
        ),
        (
            "run-js",
            json!({"script": "while (true);", "timeout_ms": 300}),
            "script",
        ),
        (
            "screenshot",
            json!({"target": "h1", "full_page": true}),
            "not of both",
        ),
        ("back", json!({"steps": 9}), "no page before"),
    ] {
        let refused = rig.try_surf("s", tool, input.clone()).await.unwrap_err();
        assert!(refused.contains(expected), "{tool} {input}: {refused}");
    }
    assert!(rig.text("s").await.contains("Welcome"));
}

#[tokio::test]
async fn a_picture_is_shown_to_the_model_and_not_written_into_the_journal() {
    if !has_browser() {
        return;
    }
    let site = Site::start().await;
    let daemon = TestDaemon::builder(RUNE).env("RUNE_ALLOW_PRIVATE", "127.0.0.1");
    let served = Served(daemon.start().await.unwrap());
    let api = Api::of(&served.0);
    for (protocol, name) in PROTOCOLS {
        let open = ToolCall::new("rune__browser-navigate", json!({"url": site.url("/")}));
        let look = ToolCall::new("rune__browser-screenshot", json!({}));
        let script = ModelScript::turns([
            Reply::calls([open]),
            Reply::calls([look]),
            Reply::text("I see it"),
            Reply::text("Still there"),
        ]);
        let server = ModelServer::start(script).await.unwrap();
        deploy(&served, name, &server, protocol);
        let (status, body) = api.ask(name, &json!({"input": "look"})).await;
        assert_eq!(
            (status, &body["output"]),
            (200, &json!("I see it")),
            "{name}: {body}"
        );
        let requests = server.requests();
        let seen = requests.last().unwrap().body.to_string();
        // How every JPEG begins, in base64.
        assert!(seen.contains("/9j/4A"), "{name} is shown no picture");
        let id = body["request_id"].as_str().unwrap();
        let events = api.events(id, 0).await.rest().await;
        let done = events
            .iter()
            .rfind(|event| event.name == "tool_done")
            .unwrap();
        let image = &done.data["images"][0];
        assert_eq!(image["media_type"], "image/jpeg", "{done:?}");
        assert!(
            image["digest"].as_str().unwrap().starts_with("sha256:"),
            "{image}"
        );
        let journal: String = events.iter().map(|event| event.data.to_string()).collect();
        assert!(!journal.contains("/9j/4A"));
        // The next request of the conversation is shown it again.
        let session = &body["session_id"];
        let (status, body) = api
            .ask(name, &json!({"input": "again", "session_id": session}))
            .await;
        assert_eq!(status, 200, "{name}: {body}");
        let requests = server.requests();
        assert!(requests.last().unwrap().body.to_string().contains("/9j/4A"));
    }
}

fn deploy(served: &Served, name: &str, server: &ModelServer, protocol: Protocol) {
    let dir = served.0.home().join(name);
    std::fs::create_dir_all(&dir).unwrap();
    let endpoint =
        json!({"protocol": name, "base_url": server.base_url(protocol), "api_key": "test"});
    let models = json!({"providers": ["own"], "endpoints": {"own": endpoint}, "model_mapping": {"default": "scripted"}});
    let runefile = format!(
        "name: {name}\nversion: 0.1.0\ninstructions: Answer.\ndefault_model: default\n\
         toolset: [rune@browser-navigate, rune@browser-screenshot]\nmodels: {models}\n"
    );
    std::fs::write(dir.join("Runefile"), runefile).unwrap();
    served.rune(&["run", name]).ok();
}

#[tokio::test]
async fn without_a_browser_it_is_said_what_helps() {
    let daemon = TestDaemon::builder(RUNE).env("RUNE_CHROME_PATH", "/no/such/chromium");
    let served = Served(daemon.start().await.unwrap());
    let api = Api::of(&served.0);
    let rig = Rig { served, api };
    rig.deploy("surfer", &TOOLS, "");
    let url = json!({"url": "http://example.org/"});
    let missing = rig.try_surf("s", "navigate", url).await.unwrap_err();
    for part in ["/no/such/chromium", "RUNE_CHROME_PATH"] {
        assert!(missing.contains(part), "{missing}");
    }
    let report = rig.served.rune(&["doctor", "-o", "json"]);
    let checks: Value = serde_json::from_str(&report.stdout).unwrap();
    let mut checks = checks.as_array().unwrap().iter();
    let browser = checks.find(|check| check["check"] == "browser").unwrap();
    assert_eq!(browser["verdict"], "warn", "{browser}");
}
