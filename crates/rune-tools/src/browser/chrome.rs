//! The browser's process, and what it says of its pages.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::net::unix::pipe;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::BrowserConfig;
use super::cdp::{self, Cdp, CdpError, Event, Wire};
use super::directory::{Directory, Pipes, account};
use super::page::Page;
use super::program::{arguments, find_browser};
use crate::egress::Hosts;
use crate::process::{Finished, Job, Keep, Launcher, ProcessLimits, Reach, find_program, run};
use crate::{ToolError, blocking};

/// Pages of one conversation at the most; what opens more has no effect.
const MAX_PAGES: usize = 5;
/// How long the browser may take to start.
const START: Duration = Duration::from_secs(20);
/// The longest that one browser runs.
const MAX_LIFETIME: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// Bytes kept of what the browser says on its standard error: its end.
const DIAGNOSTICS: Keep = Keep {
    head: 0,
    tail: 16 * 1024,
    total: u64::MAX,
};
/// Connects the pipes and becomes the browser.
const CONNECT: &str = "exec 3<\"$1\" 4>\"$2\"; shift 2; exec \"$@\" </dev/null";
/// The size of a page, in pixels.
pub(super) const VIEWPORT: (u32, u32) = (1280, 800);

/// A browser that runs.
pub(super) struct Chrome {
    pub(super) cdp: Cdp,
    /// Fires when it has ended.
    pub(super) gone: CancellationToken,
    /// Ends it.
    pub(super) stop: CancellationToken,
    known: Mutex<Known>,
    why: Mutex<Option<String>>,
}

/// What belongs to whom, by the ids of the protocol.
#[derive(Default)]
struct Known {
    contexts: HashMap<String, Arc<Tabs>>,
    pages: HashMap<String, (Arc<Tabs>, Arc<Page>)>,
}

/// The pages of one context, the newest last: that is the one that is used.
#[derive(Default)]
pub(super) struct Tabs {
    pages: Mutex<Vec<Arc<Page>>>,
    opened: Mutex<u32>,
    changed: Notify,
}

/// What it takes to run a browser.
pub(super) struct Running {
    launcher: Launcher,
    job: Job,
    directory: Directory,
    pipes: Pipes,
    wire: Wire,
}

impl Tabs {
    /// The page that is used.
    pub(super) fn current(&self) -> Option<Arc<Page>> {
        lock(&self.pages).last().cloned()
    }

    pub(super) fn count(&self) -> usize {
        lock(&self.pages).len()
    }

    /// Pages that pages have opened since the last call of this.
    pub(super) fn take_opened(&self) -> u32 {
        std::mem::take(&mut *lock(&self.opened))
    }

    /// Returns once a target is a page of this.
    pub(super) async fn attached(&self, target: &str) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if lock(&self.pages).iter().any(|page| page.target == target) {
                return;
            }
            changed.await;
        }
    }

    /// Returns once a page has ended.
    pub(super) async fn detached(&self, target: &str) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if lock(&self.pages).iter().all(|page| page.target != target) {
                return;
            }
            changed.await;
        }
    }

    fn add(&self, page: Arc<Page>) {
        let mut pages = lock(&self.pages);
        *lock(&self.opened) += u32::from(!pages.is_empty());
        pages.push(page);
        self.changed.notify_waiters();
    }

    fn remove(&self, session: &str) {
        lock(&self.pages).retain(|page| page.session != session);
        self.changed.notify_waiters();
    }
}

impl Chrome {
    /// What a browser needs to start. Its process runs once [`Running::attend`] does.
    pub(super) async fn prepare(
        config: &BrowserConfig,
        launcher: &Launcher,
    ) -> Result<(Arc<Self>, Running), ToolError> {
        let program = find_browser(config.program.as_deref(), &config.search_path)?;
        let shell = find_program("sh", &config.search_path).ok_or_else(|| {
            ToolError::unavailable(format!("`sh` is not installed in {}", config.search_path))
        })?;
        let (directory, pipes) = blocking(|| {
            Directory::create().map_err(|error| {
                ToolError::unavailable(format!("no directory for the browser: {error}"))
            })
        })
        .await?;
        let mut args: Vec<PathBuf> = ["-c", CONNECT, "sh"].map(PathBuf::from).into();
        args.extend([directory.input(), directory.output(), program]);
        args.extend(arguments(&directory.profile(), config.sandbox));
        let home = directory.path().to_string_lossy().into_owned();
        let env = [
            ("PATH", config.search_path.clone()),
            ("HOME", home.clone()),
            ("TMPDIR", home),
            ("LANG", "C.UTF-8".to_owned()),
        ];
        let job = Job {
            program: shell,
            args,
            env: env.map(|(name, value)| (name.to_owned(), value)).into(),
            cwd: directory.path().to_owned(),
            account: account(),
            stdin: Vec::new(),
            stdout: DIAGNOSTICS,
            stderr: DIAGNOSTICS,
            timeout: MAX_LIFETIME,
            // It has a sandbox of its own, which does not work in another one.
            reach: Reach {
                paths: Vec::new(),
                package: None,
                workspace: directory.path().to_owned(),
                hosts: Hosts::default(),
                gate: None,
                egress: Arc::default(),
                limits: ProcessLimits::SHELL,
            },
        };
        let (cdp, wire) = cdp::connection();
        let chrome = Arc::new(Self {
            cdp,
            gone: CancellationToken::new(),
            stop: CancellationToken::new(),
            known: Mutex::default(),
            why: Mutex::default(),
        });
        let running = Running {
            launcher: launcher.unconfined(),
            job,
            directory,
            pipes,
            wire,
        };
        Ok((chrome, running))
    }

    /// Returns once the browser answers.
    pub(super) async fn greet(&self) -> Result<(), ToolError> {
        let hello = self
            .cdp
            .call_within(None, "Browser.getVersion", json!({}), START)
            .await;
        match hello {
            Ok(version) => tracing::info!(browser = %version["product"], "the browser is started"),
            Err(CdpError::Closed) => {
                self.gone.cancelled().await;
                let why = lock(&self.why).clone().unwrap_or_default();
                let why = format!("the browser did not start: {why}");
                return Err(ToolError::unavailable(why));
            }
            Err(error) => {
                self.stop.cancel();
                return Err(error.into());
            }
        }
        let attach = json!({
            "autoAttach": true,
            // A page runs nothing before it is set up.
            "waitForDebuggerOnStart": true,
            "flatten": true,
            "filter": [{"type": "page"}, {"exclude": true}],
        });
        self.cdp.call(None, "Target.setAutoAttach", attach).await?;
        Ok(())
    }

    /// From here on pages of this context are known.
    pub(super) fn add_context(&self, id: &str) -> Arc<Tabs> {
        let tabs = Arc::<Tabs>::default();
        let mut known = lock(&self.known);
        known.contexts.insert(id.to_owned(), Arc::clone(&tabs));
        tabs
    }

    pub(super) fn remove_context(&self, id: &str) {
        lock(&self.known).contexts.remove(id);
    }

    fn take(&self, event: &Event) {
        let params = &event.params;
        if event.method == "Target.attachedToTarget" {
            return self.attached(params);
        }
        if event.method == "Target.detachedFromTarget" {
            let session = text(params, "/sessionId");
            return self.ended(session, "the page was closed");
        }
        let Some(session) = event.session.as_deref() else {
            return;
        };
        let found = lock(&self.known).pages.get(session).cloned();
        let Some((_, page)) = found else {
            return;
        };
        let is_main = || text(params, "/frameId") == page.target;
        match event.method.as_str() {
            "Page.frameStartedLoading" if is_main() => page.set_loading(true),
            "Page.frameStoppedLoading" if is_main() => page.set_loading(false),
            "Page.frameNavigated" if params.pointer("/frame/parentId").is_none() => {
                let unreachable = text(params, "/frame/unreachableUrl");
                let url = match unreachable {
                    "" => format!(
                        "{}{}",
                        text(params, "/frame/url"),
                        text(params, "/frame/urlFragment")
                    ),
                    url => url.to_owned(),
                };
                // What comes out of the cache of pages is there already.
                let loads = text(params, "/type") != "BackForwardCacheRestore";
                page.set_document(&url, text(params, "/frame/loaderId"), loads);
            }
            "Page.navigatedWithinDocument" if is_main() => page.set_url(text(params, "/url")),
            "Page.javascriptDialogOpening" => {
                let kind = text(params, "/type");
                page.add_dialog(kind, text(params, "/message"));
                // Nobody is there to decide: a question is answered with no, and leaving a page goes on.
                let accept = matches!(kind, "alert" | "beforeunload");
                let answer = json!({ "accept": accept });
                self.cdp
                    .post(Some(session), "Page.handleJavaScriptDialog", answer);
            }
            "Inspector.targetCrashed" => {
                self.cdp
                    .post(None, "Target.closeTarget", json!({"targetId": page.target}));
                self.ended(session, "the page has crashed");
            }
            _ => {}
        }
    }

    /// A page has been opened, by us or by another page.
    fn attached(&self, params: &Value) {
        let session = text(params, "/sessionId");
        let target = text(params, "/targetInfo/targetId");
        let context = text(params, "/targetInfo/browserContextId");
        let tabs = lock(&self.known).contexts.get(context).cloned();
        let resume = || {
            let method = "Runtime.runIfWaitingForDebugger";
            self.cdp.post(Some(session), method, json!({}));
        };
        let Some(tabs) = tabs.filter(|tabs| tabs.count() < MAX_PAGES) else {
            resume();
            let close = json!({ "targetId": target });
            return self.cdp.post(None, "Target.closeTarget", close);
        };
        let page = Arc::new(Page::new(target.to_owned(), session.to_owned()));
        page.set_url(text(params, "/targetInfo/url"));
        let (width, height) = VIEWPORT;
        let screen =
            json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        let files = json!({"enabled": true});
        self.cdp.post(Some(session), "Page.enable", json!({}));
        self.cdp.post(Some(session), "Inspector.enable", json!({}));
        self.cdp
            .post(Some(session), "Page.setInterceptFileChooserDialog", files);
        self.cdp
            .post(Some(session), "Emulation.setDeviceMetricsOverride", screen);
        resume();
        let mut known = lock(&self.known);
        let both = (Arc::clone(&tabs), Arc::clone(&page));
        known.pages.insert(session.to_owned(), both);
        drop(known);
        tabs.add(page);
    }

    fn ended(&self, session: &str, why: &'static str) {
        let found = lock(&self.known).pages.remove(session);
        if let Some((tabs, page)) = found {
            page.end(why);
            tabs.remove(session);
        }
    }
}

impl Running {
    /// Runs the browser to its end: by itself, by `stop`, or because the future is dropped.
    pub(super) async fn attend(self, chrome: &Chrome) {
        let Self {
            launcher,
            job,
            directory,
            pipes,
            wire,
        } = self;
        let why = match connect(pipes) {
            Err(error) => format!("no pipes to it: {error}"),
            Ok((to, from)) => {
                let ran = run(&launcher, job, &chrome.stop);
                let wire = wire.run(from, to, |event| chrome.take(&event));
                tokio::pin!(ran);
                tokio::select! {
                    finished = &mut ran => ending(finished),
                    why = wire => {
                        chrome.stop.cancel();
                        let _ = ran.await;
                        why
                    }
                }
            }
        };
        tracing::info!(%why, "the browser has ended");
        let known = std::mem::take(&mut *lock(&chrome.known));
        for (session, (tabs, page)) in known.pages {
            page.end("the browser has ended");
            tabs.remove(&session);
        }
        *lock(&chrome.why) = Some(why);
        chrome.gone.cancel();
        directory.remove().await;
    }
}

fn connect(pipes: Pipes) -> io::Result<(pipe::Sender, pipe::Receiver)> {
    let to = pipe::Sender::from_owned_fd(pipes.input)?;
    let from = pipe::Receiver::from_owned_fd(pipes.output)?;
    Ok((to, from))
}

/// Why it ended, from what it said last.
fn ending(finished: io::Result<Finished>) -> String {
    let finished = match finished {
        Ok(finished) => finished,
        Err(error) => return format!("it cannot be started: {error}"),
    };
    let said = finished.stderr.diagnostics();
    if said.contains("sandbox") {
        return "its sandbox does not work here. It needs user namespaces for every account, or the package \
                chromium-sandbox; `RUNE_CHROME_SANDBOX=off` goes without, which leaves pages one barrier less"
            .to_owned();
    }
    // Missing buses and the like are not why.
    let telling = |line: &&str| !line.contains(":ERROR:") && !line.contains(":WARNING:");
    let lines: Vec<&str> = said.lines().filter(telling).collect();
    let last = lines.len().saturating_sub(3);
    match lines.get(last..).unwrap_or_default() {
        [] => "it has ended".to_owned(),
        lines => lines.join("; "),
    }
}

/// A text of an event; empty where it is not there.
pub(super) fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    let found = value.pointer(pointer).and_then(Value::as_str);
    found.unwrap_or_default()
}

/// What is behind these locks is whole at any time.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
