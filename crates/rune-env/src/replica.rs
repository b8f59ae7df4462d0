//! What the process of a replica is told by the daemon that has it started.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use secrecy::SecretString;

use crate::config::Environment;
use crate::error::ConfigError;

/// `RUNE_REPLICA_ID`: which replica it is.
pub const REPLICA_ID: &str = "RUNE_REPLICA_ID";
/// `RUNE_REPLICA_DEPLOYMENT`: its deployment.
pub const REPLICA_DEPLOYMENT: &str = "RUNE_REPLICA_DEPLOYMENT";
/// `RUNE_REPLICA_CONTROL_PLANE`: base URL of the daemon's control plane, or `unix:PATH`.
pub const REPLICA_CONTROL_PLANE: &str = "RUNE_REPLICA_CONTROL_PLANE";
/// `RUNE_REPLICA_TOKEN`: what it shows to the daemon. It is renewed before it expires.
pub const REPLICA_TOKEN: &str = "RUNE_REPLICA_TOKEN";
/// `RUNE_REPLICA_KEY`: what the daemon shows to it.
pub const REPLICA_KEY: &str = "RUNE_REPLICA_KEY";
/// `RUNE_REPLICA_FINGERPRINT`: what it was started from, as the daemon tells it.
pub const REPLICA_FINGERPRINT: &str = "RUNE_REPLICA_FINGERPRINT";
/// `RUNE_REPLICA_ADDR`: where it listens, `IP:PORT` or `unix:PATH`.
pub const REPLICA_ADDR: &str = "RUNE_REPLICA_ADDR";
/// `RUNE_REPLICA_DATA_DIR`: what it unpacks and compiles goes here.
pub const REPLICA_DATA_DIR: &str = "RUNE_REPLICA_DATA_DIR";
/// `RUNE_REPLICA_PACKAGE_DIR`: where its package is mounted.
pub const REPLICA_PACKAGE_DIR: &str = "RUNE_REPLICA_PACKAGE_DIR";
/// `RUNE_REPLICA_WORKSPACE_DIR`: where agents' workspaces are.
pub const REPLICA_WORKSPACE_DIR: &str = "RUNE_REPLICA_WORKSPACE_DIR";
/// `RUNE_REPLICA_HIDDEN`: paths that its tools must not see, as a list in JSON.
pub const REPLICA_HIDDEN: &str = "RUNE_REPLICA_HIDDEN";
/// `RUNE_REPLICA_ORPHAN_SECS`: how long it goes on without a daemon.
pub const REPLICA_ORPHAN_SECS: &str = "RUNE_REPLICA_ORPHAN_SECS";

/// `RUNE_REPLICA_LOG`: the file that its stderr is, which it keeps within bounds.
pub const REPLICA_LOG: &str = "RUNE_REPLICA_LOG";

/// Variables of a machine that a process of Rune needs wherever it runs: where programs are, whose login they use, and the
/// way to the network.
pub const MACHINE_VARIABLES: &[&str] = &[
    "PATH",
    "HOME",
    "USER",
    "LANG",
    "TMPDIR",
    "XDG_CONFIG_HOME",
    "CLAUDE_CONFIG_DIR",
    "CLAUDE_CODE_OAUTH_TOKEN",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
    "NODE_EXTRA_CA_CERTS",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
];

/// How long a replica goes on without a daemon where nothing else is said.
const ORPHAN_AFTER: Duration = Duration::from_secs(300);

/// What the path of a Unix socket stands behind.
const UNIX: &str = "unix:";

/// Where a replica listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReplicaAddr {
    /// An address.
    Tcp(SocketAddr),
    /// A Unix socket, which is made: `unix:/PATH`.
    Unix(PathBuf),
}

impl FromStr for ReplicaAddr {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.strip_prefix(UNIX) {
            Some(path) if path.starts_with('/') => Ok(Self::Unix(path.into())),
            Some(_) => Err(()),
            None => text.parse().map(Self::Tcp).map_err(drop),
        }
    }
}

impl fmt::Display for ReplicaAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(addr) => fmt::Display::fmt(addr, f),
            Self::Unix(path) => write!(f, "{UNIX}{}", path.display()),
        }
    }
}

/// How a replica finds its daemon and proves which one it is. It has this from its environment
/// alone: everything else of its configuration comes from the daemon.
#[derive(Debug, Clone)]
pub struct ReplicaConfig {
    /// Which replica it is.
    pub replica_id: String,
    /// Its deployment.
    pub deployment_id: String,
    /// Base URL of the daemon's control plane, or `unix:PATH`.
    pub control_plane: String,
    /// What it shows to the daemon.
    pub token: SecretString,
    /// What the daemon shows to it.
    pub key: SecretString,
    /// What it was started from.
    pub fingerprint: String,
    /// Where it listens; a free port of the loopback where nothing is said.
    pub addr: ReplicaAddr,
    /// What it unpacks and compiles; thrown away afterwards where nothing is said.
    pub data_dir: Option<PathBuf>,
    /// Where its package is; asked of the daemon where nothing is said.
    pub package_dir: Option<PathBuf>,
    /// Where agents' workspaces are; below the data directory where nothing is said.
    pub workspace_dir: Option<PathBuf>,
    /// What its tools must not see, beside its own data.
    pub hidden: Vec<PathBuf>,
    /// How long it goes on without a daemon.
    pub orphan_after: Duration,
    /// The file that its stderr is, where it is to be kept within bounds.
    pub log: Option<PathBuf>,
    /// [`MACHINE_VARIABLES`] as they are where it runs. A proxy may have a password.
    pub machine: BTreeMap<String, SecretString>,
}

impl ReplicaConfig {
    /// Reads the real environment.
    ///
    /// # Errors
    /// As [`ReplicaConfig::load`].
    #[expect(
        clippy::disallowed_methods,
        reason = "this crate is the one place that reads the environment"
    )]
    pub fn from_process() -> Result<Self, ConfigError> {
        let env: Environment = std::sync::Arc::new(|name| std::env::var(name).ok());
        Self::load(&env)
    }

    /// Reads these variables.
    ///
    /// # Errors
    /// A [`ConfigError`] for the first that is missing or not right.
    pub fn load(env: &Environment) -> Result<Self, ConfigError> {
        let given = |name| env(name).filter(|value| !value.trim().is_empty());
        let needed = |name| given(name).ok_or_else(|| wrong(name, "is needed by a replica"));
        let addr = given(REPLICA_ADDR).unwrap_or_else(|| "127.0.0.1:0".to_owned());
        let orphan = match given(REPLICA_ORPHAN_SECS) {
            None => ORPHAN_AFTER,
            Some(text) => {
                let seconds = text.trim().parse::<u32>();
                let seconds = seconds.map_err(|_| wrong(REPLICA_ORPHAN_SECS, "must be seconds"))?;
                Duration::from_secs(seconds.into())
            }
        };
        let hidden = match given(REPLICA_HIDDEN) {
            None => Vec::new(),
            Some(paths) => serde_json::from_str(&paths)
                .map_err(|_| wrong(REPLICA_HIDDEN, "must be a list of paths in JSON"))?,
        };
        let url = needed(REPLICA_CONTROL_PLANE)?;
        let forms = ["http://", "https://", "unix:/"];
        if !forms.iter().any(|form| url.starts_with(form)) {
            let message = "must be an http(s) URL or unix:/PATH";
            return Err(wrong(REPLICA_CONTROL_PLANE, message));
        }
        Ok(Self {
            replica_id: needed(REPLICA_ID)?,
            deployment_id: needed(REPLICA_DEPLOYMENT)?,
            control_plane: url.trim().trim_end_matches('/').to_owned(),
            token: needed(REPLICA_TOKEN)?.into(),
            key: needed(REPLICA_KEY)?.into(),
            fingerprint: needed(REPLICA_FINGERPRINT)?,
            addr: addr
                .trim()
                .parse()
                .map_err(|()| wrong(REPLICA_ADDR, "must be IP:PORT or unix:/PATH"))?,
            data_dir: given(REPLICA_DATA_DIR).map(PathBuf::from),
            package_dir: given(REPLICA_PACKAGE_DIR).map(PathBuf::from),
            workspace_dir: given(REPLICA_WORKSPACE_DIR).map(PathBuf::from),
            hidden,
            orphan_after: orphan,
            log: given(REPLICA_LOG).map(PathBuf::from),
            machine: MACHINE_VARIABLES
                .iter()
                .filter_map(|name| Some(((*name).to_owned(), given(name)?.into())))
                .collect(),
        })
    }
}

fn wrong(name: &str, message: &str) -> ConfigError {
    ConfigError::Value {
        origin: format!("environment variable `{name}`"),
        message: message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use secrecy::ExposeSecret as _;

    use super::*;

    fn load(pairs: &[(&str, &str)]) -> Result<ReplicaConfig, ConfigError> {
        let all = [
            (REPLICA_ID, "r"),
            (REPLICA_DEPLOYMENT, "d"),
            (REPLICA_CONTROL_PLANE, "http://127.0.0.1:8081/"),
            (REPLICA_TOKEN, "t"),
            (REPLICA_KEY, "k"),
            (REPLICA_FINGERPRINT, "f"),
        ];
        let map: BTreeMap<String, String> = all
            .iter()
            .chain(pairs)
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        ReplicaConfig::load(&(Arc::new(move |name: &str| map.get(name).cloned()) as Environment))
    }

    #[test]
    fn listens_on_the_loopback_unless_told_otherwise() {
        let config = load(&[]).unwrap();
        assert_eq!(config.addr.to_string(), "127.0.0.1:0");
        assert_eq!(config.control_plane, "http://127.0.0.1:8081");
        assert_eq!(config.orphan_after, ORPHAN_AFTER);
        let config = load(&[(REPLICA_ADDR, "0.0.0.0:7000"), (REPLICA_ORPHAN_SECS, "9")]).unwrap();
        assert_eq!(config.addr.to_string(), "0.0.0.0:7000");
        assert_eq!(config.orphan_after, Duration::from_secs(9));
    }

    #[test]
    fn both_sides_may_be_sockets() {
        let own = (REPLICA_ADDR, "unix:/run/rune/replica.sock");
        let daemon = (REPLICA_CONTROL_PLANE, "unix:/run/rune/daemon.sock");
        let config = load(&[own, daemon]).unwrap();
        assert_eq!(
            config.addr,
            ReplicaAddr::Unix("/run/rune/replica.sock".into())
        );
        assert_eq!(config.addr.to_string(), own.1);
        assert_eq!(config.control_plane, daemon.1);
        for wrong in ["unix:", "unix:replica.sock", "/run/rune/replica.sock"] {
            load(&[(REPLICA_ADDR, wrong)]).unwrap_err();
        }
    }

    #[test]
    fn a_path_that_is_hidden_may_have_any_name() {
        let config = load(&[(REPLICA_HIDDEN, r#"["/srv/rune:prod/.rune", "/a b"]"#)]).unwrap();
        let hidden = [PathBuf::from("/srv/rune:prod/.rune"), PathBuf::from("/a b")];
        assert_eq!(config.hidden, hidden);
        assert!(load(&[]).unwrap().hidden.is_empty());
        assert!(load(&[(REPLICA_HIDDEN, "/a:/b")]).is_err());
    }

    #[test]
    fn says_what_is_missing_and_shows_no_secret() {
        let error = load(&[(REPLICA_TOKEN, " ")]).unwrap_err().to_string();
        assert!(error.contains(REPLICA_TOKEN), "{error}");
        let proxy = ("HTTPS_PROXY", "http://me:very-secret@proxy");
        let config = load(&[(REPLICA_TOKEN, "very-secret"), proxy]).unwrap();
        assert!(!format!("{config:?}").contains("very-secret"));
        assert_eq!(config.token.expose_secret(), "very-secret");
        assert_eq!(config.machine["HTTPS_PROXY"].expose_secret(), proxy.1);
    }
}
