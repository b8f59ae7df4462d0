//! The built-in tools by name.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::browser::BrowserConfig;
use crate::builtin;
use crate::egress::EgressPolicy;
use crate::process::Launcher;
use crate::remote::RemoteAgents;
use crate::search::SearchConfig;
use crate::tool::BuiltinTool;

/// Where programs are looked for when nothing else is configured.
const DEFAULT_SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What an operator can set about the built-in tools.
#[derive(Debug, Clone)]
pub struct BuiltinsConfig {
    /// Where the web tools may go.
    pub egress: EgressPolicy,
    /// How the web is searched.
    pub search: SearchConfig,
    /// Where this installation is.
    pub location: Option<String>,
    /// The service that is asked where this installation is, where that is not said: a URL that answers JSON.
    pub location_lookup: Option<String>,
    /// The `PATH` of commands: absolute directories, separated by `:`.
    pub search_path: String,
    /// How commands are started.
    pub launcher: Launcher,
    /// The browser.
    pub browser: BrowserConfig,
    /// How agents of other installations are reached.
    pub remotes: RemoteAgents,
}

impl Default for BuiltinsConfig {
    fn default() -> Self {
        Self {
            egress: EgressPolicy::default(),
            remotes: RemoteAgents::default(),
            search: SearchConfig::default(),
            location: None,
            location_lookup: None,
            search_path: DEFAULT_SEARCH_PATH.to_owned(),
            launcher: Launcher::Direct,
            browser: BrowserConfig {
                program: None,
                search_path: DEFAULT_SEARCH_PATH.to_owned(),
                sandbox: true,
            },
        }
    }
}

/// The built-in tools.
#[derive(Clone)]
pub struct Builtins {
    tools: BTreeMap<&'static str, Arc<dyn BuiltinTool>>,
}

impl Builtins {
    /// The built-in tools of this crate. Nothing is opened or connected before a tool is called.
    #[must_use]
    pub fn new(config: BuiltinsConfig) -> Self {
        let all = builtin::all(config).into_iter();
        Self {
            tools: all.map(|tool| (tool.name(), tool)).collect(),
        }
    }

    /// The same tools with one that is not of this crate.
    #[must_use]
    pub fn with(mut self, tool: Arc<dyn BuiltinTool>) -> Self {
        self.tools.insert(tool.name(), tool);
        self
    }

    /// The tool `rune@NAME`.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Arc<dyn BuiltinTool>> {
        self.tools.get(name)
    }

    /// The names after `rune@`, sorted.
    pub fn names(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.tools.keys().copied()
    }
}
