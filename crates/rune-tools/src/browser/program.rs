//! Which program is the browser, and how it is started.

use std::path::{Path, PathBuf};

use crate::ToolError;
use crate::process::{find_program, is_executable};

/// What the browser is called, on Debian and elsewhere.
const NAMES: [&str; 5] = [
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "chrome",
];

/// What an operator can set about the browser.
#[derive(Debug, Clone)]
pub struct BrowserConfig {
    /// The program; searched for where there is none.
    pub program: Option<PathBuf>,
    /// Where it is searched for: absolute directories, separated by `:`.
    pub search_path: String,
    /// Whether the browser's own sandbox is on. Without it a page that breaks out of the browser's engine is in the
    /// account that the browser runs in.
    pub sandbox: bool,
}

/// The browser: `configured` where there is one, else the first of the usual names in `search_path`.
///
/// # Errors
/// [`Unavailable`](crate::ToolErrorKind::Unavailable) with what helps.
pub fn find_browser(configured: Option<&Path>, search_path: &str) -> Result<PathBuf, ToolError> {
    if let Some(program) = configured {
        return if is_executable(program) {
            Ok(program.to_owned())
        } else {
            Err(ToolError::unavailable(format!(
                "there is no program {}, which RUNE_CHROME_PATH (`runtime.chrome_path`) names as the browser",
                program.display()
            )))
        };
    }
    let mut found = NAMES
        .iter()
        .filter_map(|name| find_program(name, search_path));
    found.next().ok_or_else(|| {
        ToolError::unavailable(
            "there is no browser: install Chromium (`apt-get install chromium`), or name a Chrome or Chromium with \
             RUNE_CHROME_PATH",
        )
    })
}

/// The arguments of the browser.
pub(super) fn arguments(profile: &Path, sandbox: bool) -> Vec<PathBuf> {
    let mut arguments: Vec<PathBuf> = FLAGS.iter().map(PathBuf::from).collect();
    arguments.push(format!("--user-data-dir={}", profile.display()).into());
    if !sandbox {
        arguments.push("--no-sandbox".into());
    }
    arguments
}

/// Headless, driven over pipes, without anything that the browser would do by itself.
const FLAGS: [&str; 31] = [
    "--headless=new",
    "--remote-debugging-pipe",
    "--no-startup-window",
    "--no-first-run",
    "--no-default-browser-check",
    // Nothing of its own goes out, and nothing around the proxy: the browser's own proxy is nobody, names are
    // resolved by the proxies of the contexts, and neither QUIC nor WebRTC opens a socket of its own.
    "--proxy-server=http://127.0.0.1:1",
    "--proxy-bypass-list=<-loopback>",
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
    "--disable-quic",
    "--webrtc-ip-handling-policy=disable_non_proxied_udp",
    "--force-webrtc-ip-handling-policy=disable_non_proxied_udp",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-client-side-phishing-detection",
    "--disable-domain-reliability",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-sync",
    "--no-pings",
    "--dns-prefetch-disable",
    "--disable-features=DialMediaRouteProvider,MediaRouter,OptimizationHints,Translate,AutofillServerCommunication",
    // What waits for a person, or for a screen.
    "--disable-prompt-on-repost",
    "--disable-notifications",
    "--disable-gpu",
    "--mute-audio",
    "--hide-scrollbars",
    "--window-size=1280,800",
    "--password-store=basic",
    // A crash is reported to nobody.
    "--disable-breakpad",
    // Containers have little of it.
    "--disable-dev-shm-usage",
    // Memory of the scripts of one page, in MiB.
    "--js-flags=--max-old-space-size=512",
];
