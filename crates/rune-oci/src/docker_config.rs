//! Credentials of registries, where Docker keeps them: `config.json` and the programs that it names.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use secrecy::SecretString;
use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::OciError;
use crate::artifact::printable;

/// Largest `config.json`, and longest answer of a helper.
const MAX_CONFIG_BYTES: u64 = 1024 * 1024;
/// How long a helper may take: some ask a person.
const HELPER_TIMEOUT: Duration = Duration::from_secs(60);
/// How Docker writes Docker Hub.
const DOCKER_HUB: &str = "docker.io";
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";
/// The user of a secret that is a refresh token.
const TOKEN_USER: &str = "<token>";
/// What helpers say where they know nothing.
const NOT_FOUND: &str = "credentials not found";

/// How to prove to a registry who asks.
#[derive(Debug, Clone)]
pub enum Credentials {
    /// A user and a password.
    Password {
        /// The user.
        user: String,
        /// The password.
        password: SecretString,
    },
    /// A token that a token server changes for another one.
    Identity(SecretString),
}

/// Docker's configuration of the user.
#[derive(Clone, Default)]
pub struct DockerConfig {
    path: PathBuf,
    file: File,
}

#[derive(Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    #[serde(default)]
    auths: BTreeMap<String, Auth>,
    #[serde(default)]
    cred_helpers: BTreeMap<String, String>,
    #[serde(default)]
    creds_store: Option<String>,
}

#[derive(Clone, Default, Deserialize)]
struct Auth {
    #[serde(default)]
    auth: Option<SecretString>,
    #[serde(default)]
    username: Option<String>,
    #[serde(default)]
    password: Option<SecretString>,
    #[serde(default, alias = "identityToken")]
    identitytoken: Option<SecretString>,
}

/// What a helper prints.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: SecretString,
}

impl fmt::Debug for DockerConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("DockerConfig").field(&self.path).finish()
    }
}

impl DockerConfig {
    /// Reads `config.json` in Docker's directory; without one there are no credentials.
    ///
    /// # Errors
    /// [`OciError`] where it cannot be read.
    pub fn read(directory: &Path) -> Result<Self, OciError> {
        let path = directory.join("config.json");
        let failed = |source| OciError::Io {
            operation: "read",
            path: path.display().to_string(),
            source,
        };
        let file = match fs::File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(failed(error)),
        };
        let mut text = String::new();
        let mut limited = file.take(MAX_CONFIG_BYTES + 1);
        limited.read_to_string(&mut text).map_err(failed)?;
        let mut config = Self::parse(&text).map_err(|error| match error {
            OciError::Malformed { what, reason } => OciError::Malformed {
                what,
                reason: format!("{}: {reason}", path.display()),
            },
            other => other,
        })?;
        config.path = path;
        Ok(config)
    }

    /// Parses the text of `config.json`. What it says besides credentials is ignored.
    ///
    /// # Errors
    /// [`OciError::Malformed`] where it is not one; the text is not repeated.
    pub fn parse(text: &str) -> Result<Self, OciError> {
        const WHAT: &str = "Docker configuration";
        if text.len() as u64 > MAX_CONFIG_BYTES {
            return Err(OciError::malformed(WHAT, "it is too large"));
        }
        // The words of the parser could quote a password.
        let file = serde_json::from_str(text).map_err(|error| {
            let place = format!("line {}, column {}", error.line(), error.column());
            OciError::malformed(WHAT, format!("it is not what Docker writes ({place})"))
        })?;
        Ok(Self {
            path: PathBuf::new(),
            file,
        })
    }

    /// The credentials of a registry: from its helper, else from the common one, else from the file. `None`: nobody knows any.
    ///
    /// # Errors
    /// [`OciError::Credentials`] where a helper fails or what is there cannot be read.
    pub async fn credentials(&self, registry: &str) -> Result<Option<Credentials>, OciError> {
        let key = if registry == DOCKER_HUB {
            DOCKER_HUB_KEY
        } else {
            registry
        };
        let helpers = &self.file.cred_helpers;
        if let Some(helper) = helpers.get(key).or_else(|| helpers.get(registry)) {
            return ask(helper, key, registry).await;
        }
        if let Some(helper) = self
            .file
            .creds_store
            .as_deref()
            .filter(|name| !name.is_empty())
            && let Some(found) = ask(helper, key, registry).await?
        {
            return Ok(Some(found));
        }
        self.written(registry)
    }

    /// What is written in the file itself.
    ///
    /// # Errors
    /// [`OciError::Credentials`] where it cannot be read.
    pub fn written(&self, registry: &str) -> Result<Option<Credentials>, OciError> {
        let is_it = |key: &str| {
            let host = key.split_once("://").map_or(key, |(_, rest)| rest);
            let host = host.split('/').next().unwrap_or_default();
            host == registry || (registry == DOCKER_HUB && key == DOCKER_HUB_KEY)
        };
        let auths = &self.file.auths;
        let exact = auths.get(registry);
        let found = exact.or_else(|| {
            auths
                .iter()
                .find(|(key, _)| is_it(key))
                .map(|(_, auth)| auth)
        });
        let Some(auth) = found else { return Ok(None) };
        auth.credentials().map_err(|reason| OciError::Credentials {
            registry: registry.to_owned(),
            place: self.path.display().to_string(),
            reason: reason.to_owned(),
        })
    }
}

impl Auth {
    fn credentials(&self) -> Result<Option<Credentials>, &'static str> {
        use secrecy::ExposeSecret as _;
        let filled = |secret: &&SecretString| !secret.expose_secret().is_empty();
        if let Some(token) = self.identitytoken.as_ref().filter(filled) {
            return Ok(Some(Credentials::Identity(token.clone())));
        }
        if let Some(auth) = self.auth.as_ref().filter(filled) {
            const WRONG: &str = "`auth` is not USER:PASSWORD in base64";
            let bytes = BASE64_STANDARD.decode(auth.expose_secret().trim());
            let text = String::from_utf8(bytes.map_err(|_| WRONG)?).map_err(|_| WRONG)?;
            let (user, password) = text.split_once(':').ok_or(WRONG)?;
            return Ok(Some(Credentials::Password {
                user: user.to_owned(),
                // Old versions of Docker fill it up with zeros.
                password: password.trim_end_matches('\0').into(),
            }));
        }
        // An entry without anything says that a helper has it.
        let pair = self.username.as_ref().zip(self.password.as_ref());
        Ok(pair.map(|(user, password)| Credentials::Password {
            user: user.clone(),
            password: password.clone(),
        }))
    }
}

/// Asks the program `docker-credential-NAME`.
async fn ask(name: &str, key: &str, registry: &str) -> Result<Option<Credentials>, OciError> {
    let program = format!("docker-credential-{name}");
    let failed = |reason: String| OciError::Credentials {
        registry: registry.to_owned(),
        place: program.clone(),
        reason,
    };
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || !name.chars().all(is_name) {
        return Err(failed("that is not the name of a helper".to_owned()));
    }
    let child = Command::new(&program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn();
    let child = child.map_err(|error| match error.kind() {
        ErrorKind::NotFound => failed("the program is not installed".to_owned()),
        _ => failed(error.to_string()),
    })?;
    let (succeeded, said) = match timeout(HELPER_TIMEOUT, converse(child, key)).await {
        Ok(said) => said.map_err(|error| failed(error.to_string()))?,
        Err(_) => {
            let secs = HELPER_TIMEOUT.as_secs();
            return Err(failed(format!("it did not answer within {secs} s")));
        }
    };
    if !succeeded {
        // Helpers say on stdout what is wrong.
        let said = printable(&String::from_utf8_lossy(&said));
        if said.contains(NOT_FOUND) {
            return Ok(None);
        }
        return Err(failed(said));
    }
    let answer: Answer = serde_json::from_slice(&said)
        .map_err(|_| failed("it answered something else than credentials".to_owned()))?;
    Ok(Some(if answer.username == TOKEN_USER {
        Credentials::Identity(answer.secret)
    } else {
        Credentials::Password {
            user: answer.username,
            password: answer.secret,
        }
    }))
}

/// Whether it succeeded, and what it said.
async fn converse(mut child: Child, key: &str) -> std::io::Result<(bool, Vec<u8>)> {
    if let Some(mut stdin) = child.stdin.take() {
        // One that reads nothing has its reasons.
        let _ = stdin.write_all(key.as_bytes()).await;
    }
    let mut said = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        stdout.take(MAX_CONFIG_BYTES).read_to_end(&mut said).await?;
    }
    Ok((child.wait().await?.success(), said))
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;

    fn check(text: &str, registry: &str, expected: Option<(&str, &str)>) {
        let config = DockerConfig::parse(text).unwrap();
        let found = config.written(registry).unwrap();
        let found = found.map(|found| match found {
            Credentials::Password { user, password } => (user, password.expose_secret().to_owned()),
            Credentials::Identity(token) => (String::new(), token.expose_secret().to_owned()),
        });
        let expected = expected.map(|(user, word)| (user.to_owned(), word.to_owned()));
        assert_eq!(found, expected, "{text}");
    }

    #[test]
    fn credentials_are_found_as_docker_writes_them() {
        let pair = BASE64_STANDARD.encode("me:a:b");
        let me = Some(("me", "a:b"));
        check(
            &format!(r#"{{"auths":{{"h:1":{{"auth":"{pair}"}}}}}}"#),
            "h:1",
            me,
        );
        check(
            &format!(r#"{{"auths":{{"https://h/v2/":{{"auth":"{pair}"}}}}}}"#),
            "h",
            me,
        );
        let hub = format!(r#"{{"auths":{{"https://index.docker.io/v1/":{{"auth":"{pair}"}}}}}}"#);
        check(&hub, "docker.io", me);
        check(&hub, "ghcr.io", None);
        check(
            r#"{"auths":{"h":{"username":"me","password":"w"}}}"#,
            "h",
            Some(("me", "w")),
        );
        check(
            r#"{"auths":{"h":{"identitytoken":"t"}}}"#,
            "h",
            Some(("", "t")),
        );
        check(r#"{"auths":{"h":{}},"credsStore":"","other":1}"#, "h", None);
        check("{}", "h", None);
    }

    #[test]
    fn what_cannot_be_read_is_not_repeated() {
        let error = DockerConfig::parse(r#"{"auths":{"h":{"auth":["secret"]}}}"#).unwrap_err();
        assert!(!error.to_string().contains("secret"), "{error}");
        let config = DockerConfig::parse(r#"{"auths":{"h":{"auth":"c2VjcmV0"}}}"#).unwrap();
        let error = config.written("h").unwrap_err().to_string();
        assert!(
            error.contains("USER:PASSWORD") && !error.contains("secret"),
            "{error}"
        );
    }
}
