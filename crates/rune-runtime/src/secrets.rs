//! Secrets of tools: encrypted in the store, read for each call of a tool that is granted them.

mod key;

use std::path::PathBuf;
use std::sync::Arc;

use rune_spec::Capability;
use rune_store_runtime::limits::{MAX_SECRET_BYTES, MAX_SECRET_NAME_BYTES};
use rune_store_runtime::{
    ErrorCode, PageRequest, PutSecret, SealedSecret, SecretFilter, SecretReader, StoreError,
    is_secret_name,
};
use rune_tools::{MIN_SECRET_BYTES, Secrets, ToolError, ToolErrorKind};
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::OnceCell;

use crate::engine::{EngineLink, store_code};
use key::{KeyFile, SecretKey};

/// The namespace that commands mean where none is named.
const DEFAULT_NAMESPACE: &str = "dev";

/// Where the key is that secrets are encrypted with.
#[derive(Debug, Clone)]
pub enum SecretKeySource {
    /// This key, 64 hexadecimal digits.
    Given(SecretString),
    /// A file that is made when the first secret is stored.
    File(PathBuf),
}

impl SecretKeySource {
    /// A key for something else than secrets, derived from this one: another for every purpose, and the same every time. Makes
    /// the file where there is none.
    ///
    /// # Errors
    /// A [`SecretError`] where there is no key.
    pub async fn derive(&self, purpose: &str) -> Result<Vec<u8>, SecretError> {
        let key = match self {
            Self::Given(text) => SecretKey::parse(text).ok_or(SecretError::BadKey)?,
            Self::File(path) => KeyFile(path.clone()).create().await?,
        };
        Ok(key.derive(purpose))
    }

    /// The fingerprint of the key, by which rows name it; none where there is no key yet.
    ///
    /// # Errors
    /// A [`SecretError`] where what is there is no key.
    pub async fn fingerprint(&self) -> Result<Option<String>, SecretError> {
        let key = match self {
            Self::Given(text) => Some(SecretKey::parse(text).ok_or(SecretError::BadKey)?),
            Self::File(path) => KeyFile(path.clone()).read().await?,
        };
        Ok(key.map(|key| key.id().to_owned()))
    }
}

/// Encrypts and decrypts the secrets of a store. Cheap to clone.
///
/// A value is bound to its namespace and its name: a row that is copied under another one cannot be read.
#[derive(Clone)]
pub struct SecretVault(Arc<Inner>);

struct Inner {
    store: Option<Arc<dyn SecretReader>>,
    /// Who opens them, where the key is elsewhere.
    link: Option<Arc<dyn EngineLink>>,
    source: SecretKeySource,
    key: OnceCell<SecretKey>,
}

/// Why a secret cannot be used or stored.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// There is none of that name.
    #[error("secret `{name}` is not set in namespace `{namespace}`; store it with `{}`", set_command(.namespace, .name))]
    Missing {
        /// The namespace of the agent.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// The value was encrypted with another key than the daemon has.
    #[error(
        "secret `{name}` was encrypted with the key {stored}, and this daemon has {own}: give it the other key back \
         ({source_name}), or store the secret anew with `{}`", set_command(.namespace, .name)
    )]
    OtherKey {
        /// The namespace.
        namespace: String,
        /// The name.
        name: String,
        /// Fingerprint of the key it was encrypted with.
        stored: String,
        /// Fingerprint of the key that is there.
        own: String,
        /// Where the daemon has its key from.
        source_name: String,
    },
    /// The key file is gone while there are secrets.
    #[error(
        "the key of the stored secrets, {}, is missing: put it back from a backup, or set RUNE_SECRET_KEY to it; nothing \
         is lost until then. To begin anew, remove the secrets (`rune secret rm`) first", .path.display()
    )]
    NoKey {
        /// The file.
        path: PathBuf,
    },
    /// The key file cannot be used.
    #[error("the key of the secrets, {}, cannot be used: {reason}", .path.display())]
    KeyFile {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The configured key is not one.
    #[error(
        "RUNE_SECRET_KEY (`storage.secret_key`) is not a key: it takes 64 hexadecimal digits, as `openssl rand -hex 32` prints"
    )]
    BadKey,
    /// The stored value was changed by somebody without the key.
    #[error("secret `{name}` is damaged in the store; store it anew with `{}`", set_command(.namespace, .name))]
    Damaged {
        /// The namespace.
        namespace: String,
        /// The name.
        name: String,
    },
    /// The value or the name cannot be one.
    #[error("{0}")]
    Invalid(String),
    /// The daemon does not open it for this replica.
    #[error("{0}")]
    Refused(String),
    /// Encrypting failed.
    #[error("the system cannot encrypt")]
    Cipher,
    /// The store did not do its part.
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn set_command(namespace: &str, name: &str) -> String {
    if namespace == DEFAULT_NAMESPACE {
        format!("rune secret set {name}")
    } else {
        format!("rune secret set {name} --ns {namespace}")
    }
}

impl SecretError {
    /// The code under which it is answered.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Missing { .. } => ErrorCode::NotFound,
            Self::Invalid(_) => ErrorCode::InvalidInput,
            Self::Refused(_) => ErrorCode::Denied,
            Self::OtherKey { .. } | Self::NoKey { .. } | Self::KeyFile { .. } | Self::BadKey => {
                ErrorCode::Conflict
            }
            Self::Damaged { .. } | Self::Cipher => ErrorCode::Internal,
            Self::Store(error) => store_code(error),
        }
    }
}

impl From<SecretError> for ToolError {
    fn from(error: SecretError) -> Self {
        match error {
            SecretError::Store(error) => error.into(),
            error => Self::new(ToolErrorKind::Unavailable, error.to_string()),
        }
    }
}

impl SecretVault {
    /// The secrets of a store.
    pub fn new(store: Arc<dyn SecretReader>, source: SecretKeySource) -> Self {
        Self::of(Some(store), source)
    }

    /// A vault without a store: every secret is missing.
    #[must_use]
    pub fn empty() -> Self {
        Self::of(None, SecretKeySource::File(PathBuf::new()))
    }

    /// The secrets that the daemon opens for a replica.
    pub fn linked(link: Arc<dyn EngineLink>) -> Self {
        Self(Arc::new(Inner {
            store: None,
            link: Some(link),
            source: SecretKeySource::File(PathBuf::new()),
            key: OnceCell::new(),
        }))
    }

    fn of(store: Option<Arc<dyn SecretReader>>, source: SecretKeySource) -> Self {
        Self(Arc::new(Inner {
            store,
            link: None,
            source,
            key: OnceCell::new(),
        }))
    }

    /// The command that stores a secret. Makes the key where there is none and nothing is stored yet.
    ///
    /// # Errors
    /// A [`SecretError`] that does not hold the value.
    pub async fn seal(
        &self,
        namespace: &str,
        name: &str,
        value: &SecretString,
        by: &str,
    ) -> Result<PutSecret, SecretError> {
        check(name, value.expose_secret())?;
        let key = match self.key().await? {
            Some(key) => key,
            None => self.new_key().await?,
        };
        Ok(PutSecret {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            sealed: key.seal(namespace, name, value)?,
            by: by.to_owned(),
        })
    }

    /// Encrypts something that is no secret of a tool, for one name of one kind. Makes the key where there is none and
    /// nothing is stored yet.
    ///
    /// # Errors
    /// A [`SecretError`] that does not hold the value.
    pub async fn seal_value(
        &self,
        kind: &str,
        name: &str,
        value: &SecretString,
    ) -> Result<SealedSecret, SecretError> {
        let key = match self.key().await? {
            Some(key) => key,
            None => self.new_key().await?,
        };
        key.seal(kind, name, value)
    }

    /// Decrypts what [`SecretVault::seal_value`] has encrypted.
    ///
    /// # Errors
    /// A [`SecretError`].
    pub async fn open_value(
        &self,
        kind: &str,
        name: &str,
        sealed: &SealedSecret,
    ) -> Result<SecretString, SecretError> {
        match self.key().await? {
            Some(key) => key.open(kind, name, sealed),
            None => Err(self.missing()),
        }
    }

    /// The secrets that these capabilities grant, as they are now.
    ///
    /// # Errors
    /// A [`SecretError`] for the first that cannot be read.
    pub async fn granted(
        &self,
        namespace: &str,
        capabilities: &[Capability],
    ) -> Result<Secrets, SecretError> {
        let mut values = Vec::new();
        for capability in capabilities {
            if let Capability::Secret(name) = capability {
                values.push((name.clone(), self.open(namespace, name).await?));
            }
        }
        Ok(Secrets::new(values))
    }

    /// One secret in clear.
    ///
    /// # Errors
    /// A [`SecretError`] that does not hold the value.
    pub async fn open(&self, namespace: &str, name: &str) -> Result<SecretString, SecretError> {
        if let Some(link) = &self.0.link {
            return link.secret(namespace, name).await;
        }
        let found = match &self.0.store {
            Some(store) => store.secret(namespace, name).await?,
            None => None,
        };
        let row = found.ok_or_else(|| SecretError::Missing {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        })?;
        let Some(key) = self.key().await? else {
            return Err(self.missing());
        };
        if key.id() != row.sealed.key_id {
            return Err(SecretError::OtherKey {
                namespace: row.namespace,
                name: row.name,
                stored: row.sealed.key_id,
                own: key.id().to_owned(),
                source_name: match &self.0.source {
                    SecretKeySource::Given(_) => "RUNE_SECRET_KEY".to_owned(),
                    SecretKeySource::File(path) => path.display().to_string(),
                },
            });
        }
        key.open(namespace, name, &row.sealed)
    }

    /// The key; `None` where its file is not there.
    async fn key(&self) -> Result<Option<&SecretKey>, SecretError> {
        if let Some(key) = self.0.key.get() {
            return Ok(Some(key));
        }
        let read = match &self.0.source {
            SecretKeySource::Given(text) => {
                Some(SecretKey::parse(text).ok_or(SecretError::BadKey)?)
            }
            SecretKeySource::File(path) => KeyFile(path.clone()).read().await?,
        };
        Ok(match read {
            Some(key) => Some(self.0.key.get_or_init(async || key).await),
            None => None,
        })
    }

    async fn new_key(&self) -> Result<&SecretKey, SecretError> {
        let SecretKeySource::File(path) = &self.0.source else {
            return Err(SecretError::BadKey);
        };
        let stored = match &self.0.store {
            Some(store) => {
                let page = PageRequest::first(1);
                store.secrets(&SecretFilter::default(), &page).await?.items
            }
            None => Vec::new(),
        };
        if !stored.is_empty() {
            return Err(self.missing());
        }
        let key = KeyFile(path.clone()).create().await?;
        Ok(self.0.key.get_or_init(async || key).await)
    }

    fn missing(&self) -> SecretError {
        match &self.0.source {
            SecretKeySource::File(path) => SecretError::NoKey { path: path.clone() },
            SecretKeySource::Given(_) => SecretError::BadKey,
        }
    }
}

fn check(name: &str, value: &str) -> Result<(), SecretError> {
    let invalid = |message: String| Err(SecretError::Invalid(message));
    if !is_secret_name(name) {
        return invalid(format!(
            "a secret's name is 1 to {MAX_SECRET_NAME_BYTES} of A-Z, a-z, 0-9 and _, and begins with no digit"
        ));
    }
    let length = value.len();
    if length < MIN_SECRET_BYTES {
        return invalid(format!(
            "the value has {length} bytes and takes {MIN_SECRET_BYTES} at the least: a shorter one could not be told \
             from chance in what tools say, and so not be taken out of it"
        ));
    }
    if length > MAX_SECRET_BYTES {
        return invalid(format!(
            "the value has {length} bytes, the limit is {MAX_SECRET_BYTES}"
        ));
    }
    if value.contains('\0') {
        return invalid("the value holds a zero byte, which no variable can".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use rune_store_runtime::{CommandLog, Store, SystemClock};
    use rune_testkit::store::FakeStore;

    use super::*;

    const VALUE: &str = "correct horse battery";

    struct Rig {
        store: Arc<FakeStore>,
        home: tempfile::TempDir,
    }

    impl Rig {
        fn new() -> Self {
            Self {
                store: Arc::new(FakeStore::new()),
                home: tempfile::tempdir().unwrap(),
            }
        }

        fn file(&self) -> PathBuf {
            self.home.path().join("secret.key")
        }

        fn vault(&self) -> SecretVault {
            let source = SecretKeySource::File(self.file());
            SecretVault::new(Arc::clone(&self.store) as Arc<_>, source)
        }

        fn given(&self, key: &str) -> SecretVault {
            let source = SecretKeySource::Given(key.to_owned().into());
            SecretVault::new(Arc::clone(&self.store) as Arc<_>, source)
        }

        async fn set(&self, vault: &SecretVault, name: &str) -> Result<(), SecretError> {
            let put = vault
                .seal("dev", name, &VALUE.to_owned().into(), "ann")
                .await?;
            assert!(!format!("{put:?}").contains("horse"));
            let log = Arc::clone(&self.store);
            let store = Store::new(log, Arc::new(SystemClock));
            store.write(put).await?;
            Ok(())
        }
    }

    fn token() -> [Capability; 1] {
        [Capability::Secret("TOKEN".to_owned())]
    }

    async fn granted(vault: &SecretVault) -> Result<String, SecretError> {
        let secrets = vault.granted("dev", &token()).await?;
        let (name, value) = secrets.iter().next().unwrap();
        assert_eq!(name, "TOKEN");
        Ok(value.to_owned())
    }

    #[tokio::test]
    async fn a_secret_is_read_back_by_whoever_has_the_key() {
        use std::os::unix::fs::PermissionsExt as _;

        let rig = Rig::new();
        let vault = rig.vault();
        let error = granted(&vault).await.unwrap_err().to_string();
        assert!(error.ends_with("`rune secret set TOKEN`"), "{error}");
        // Nothing was made by looking.
        assert!(!rig.file().exists());
        rig.set(&vault, "TOKEN").await.unwrap();
        assert_eq!(granted(&vault).await.unwrap(), VALUE);
        let mode = std::fs::metadata(rig.file()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(granted(&rig.vault()).await.unwrap(), VALUE);
        let key = std::fs::read_to_string(rig.file()).unwrap();
        assert_eq!(granted(&rig.given(key.trim())).await.unwrap(), VALUE);
        let elsewhere = vault.granted("prod", &token()).await.unwrap_err();
        assert!(elsewhere.to_string().ends_with("--ns prod`"), "{elsewhere}");
    }

    #[tokio::test]
    async fn another_key_or_none_is_an_error_and_loses_nothing() {
        let rig = Rig::new();
        rig.set(&rig.vault(), "TOKEN").await.unwrap();
        let key = std::fs::read_to_string(rig.file()).unwrap();
        let other = granted(&rig.given(&"ab".repeat(32))).await.unwrap_err();
        assert!(matches!(other, SecretError::OtherKey { .. }), "{other}");
        let bad = granted(&rig.given("short")).await.unwrap_err();
        assert!(matches!(bad, SecretError::BadKey), "{bad}");
        std::fs::remove_file(rig.file()).unwrap();
        for gone in [
            granted(&rig.vault()).await.unwrap_err(),
            rig.set(&rig.vault(), "OTHER").await.unwrap_err(),
        ] {
            assert!(matches!(gone, SecretError::NoKey { .. }), "{gone}");
        }
        assert!(!rig.file().exists());
        std::fs::write(rig.file(), &key).unwrap();
        let open = granted(&rig.vault()).await.unwrap_err();
        assert!(open.to_string().contains("chmod 600"), "{open}");
        std::fs::set_permissions(
            rig.file(),
            std::os::unix::fs::PermissionsExt::from_mode(0o600),
        )
        .unwrap();
        assert_eq!(granted(&rig.vault()).await.unwrap(), VALUE);
    }

    #[tokio::test]
    async fn a_row_under_another_name_cannot_be_read() {
        let rig = Rig::new();
        let vault = rig.vault();
        let value = VALUE.to_owned().into();
        let put = vault.seal("dev", "OTHER", &value, "ann").await.unwrap();
        let moved = PutSecret {
            name: "TOKEN".to_owned(),
            ..put
        };
        let command = rune_store_runtime::Command::new(SystemClock.now(), moved);
        rig.store.submit(command).await.unwrap();
        let error = granted(&vault).await.unwrap_err();
        assert!(matches!(error, SecretError::Damaged { .. }), "{error}");
    }

    #[tokio::test]
    async fn what_cannot_be_a_secret_is_refused_without_its_value() {
        let vault = Rig::new().vault();
        for (name, value) in [
            ("A-B", "long enough"),
            ("A", "short12"),
            ("A", "with\0zero byte"),
            ("A", &"x".repeat(MAX_SECRET_BYTES + 1)),
        ] {
            let secret = value.to_owned().into();
            let error = vault.seal("dev", name, &secret, "ann").await.unwrap_err();
            assert!(matches!(error, SecretError::Invalid(_)), "{error}");
            assert!(!error.to_string().contains(value), "{error}");
        }
    }

    use rune_store_runtime::Clock as _;
}
