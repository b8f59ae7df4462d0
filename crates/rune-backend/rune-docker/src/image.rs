//! An image that is there.

use bollard::models::ImageConfig;
use rustix::process::{getegid, geteuid};

use crate::DockerError;
use crate::engine::{DockerEngine, status};

/// Whom a container runs as where neither the image nor the daemon is somebody without rights.
const NOBODY: u32 = 65534;

/// An image of the engine, as it was when it was looked at.
#[derive(Debug)]
pub(crate) struct Image {
    /// Its digest: what has its name later is another image.
    pub(crate) id: String,
    /// Whom its containers run as.
    pub(crate) user: User,
    /// Where it wants to write besides.
    pub(crate) volumes: Vec<String>,
    /// Whether it starts a program by itself.
    pub(crate) starts: bool,
}

/// Whom a container runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum User {
    /// The image's own.
    Named(String),
    /// A user and a group.
    Ids(u32, u32),
}

impl Image {
    /// Looks at an image of the engine.
    pub(crate) async fn find(engine: &DockerEngine, name: &str) -> Result<Self, DockerError> {
        let found = engine.client().await?.inspect_image(name).await;
        let found = found.map_err(|error| match status(&error) {
            Some(404) => DockerError::NoImage(name.to_owned()),
            _ => engine.error("look at an image", &error),
        })?;
        let config = found.config.unwrap_or_default();
        Ok(Self {
            id: found.id.unwrap_or_else(|| name.to_owned()),
            user: user(config.user.as_deref()),
            starts: starts(&config),
            volumes: config.volumes.unwrap_or_default(),
        })
    }
}

impl Image {
    /// The same image for a replica, whose user is known by number.
    pub(crate) fn of_replica(self, name: &str) -> Result<Self, DockerError> {
        let daemon = (!geteuid().is_root()).then(|| (geteuid().as_raw(), getegid().as_raw()));
        let user = replica_user(self.user, daemon);
        let user = user.map_err(|user| DockerError::NamedUser {
            image: name.to_owned(),
            user,
        })?;
        Ok(Self { user, ..self })
    }
}

fn starts(config: &ImageConfig) -> bool {
    let any = |words: &Option<Vec<String>>| words.as_ref().is_some_and(|words| !words.is_empty());
    any(&config.entrypoint) || any(&config.cmd)
}

/// The image's user where it is not root, else the daemon's where that is not root, else nobody.
fn user(own: Option<&str>) -> User {
    let own = own.unwrap_or_default();
    let name = own.split(':').next().unwrap_or_default();
    let is_root = name.is_empty() || name == "root" || name.parse() == Ok(0_u32);
    match (is_root, geteuid().is_root()) {
        (false, _) => User::Named(own.to_owned()),
        (true, true) => User::Ids(NOBODY, NOBODY),
        (true, false) => User::Ids(geteuid().as_raw(), getegid().as_raw()),
    }
}

/// Whom a replica runs as; the name where there is only one. Nothing of its `/proc` is masked, so it must not be root, which
/// the image's own list of users may call by any name. A daemon that is not root (`daemon` has its ids) cannot give the
/// workspace to anybody, so its replicas are what it is.
fn replica_user(own: User, daemon: Option<(u32, u32)>) -> Result<User, String> {
    match (own, daemon) {
        (_, Some((user, group))) => Ok(User::Ids(user, group)),
        (User::Named(own), None) if !is_number(&own) => Err(own),
        (own, None) => Ok(own),
    }
}

fn is_number(own: &str) -> bool {
    let user = own.split(':').next().unwrap_or_default();
    user.parse::<u32>().is_ok_and(|id| id != 0)
}

impl User {
    /// As the engine takes it.
    pub(crate) fn to_argument(&self) -> String {
        match self {
            Self::Named(name) => name.clone(),
            Self::Ids(user, group) => format!("{user}:{group}"),
        }
    }

    /// The user's number, where it is known.
    pub(crate) fn number(&self) -> Option<u32> {
        match self {
            Self::Ids(user, _) => Some(*user),
            Self::Named(name) => name.split(':').next()?.parse().ok(),
        }
    }

    /// Their numbers, as far as they are known.
    pub(crate) fn ids(&self) -> Option<(u32, u32)> {
        match self {
            Self::Ids(user, group) => Some((*user, *group)),
            Self::Named(name) => {
                let (user, group) = name.split_once(':').unwrap_or((name, name));
                Some((user.parse().ok()?, group.parse().ok()?))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_runs_as_root() {
        for (own, named) in [
            (None, false),
            (Some(""), false),
            (Some("root"), false),
            (Some("0"), false),
            (Some("00:1000"), false),
            (Some("root:root"), false),
            (Some("1000"), true),
            (Some("app:app"), true),
        ] {
            let user = user(own);
            assert_eq!(matches!(user, User::Named(_)), named, "{own:?}");
            assert_ne!(user.ids().map(|(user, _)| user), Some(0), "{own:?}");
        }
    }

    #[test]
    fn a_replica_runs_as_a_number_or_as_its_daemon() {
        let named = |own: &str| User::Named(own.to_owned());
        for own in ["1000", "1000:1000", "65532:app"] {
            assert_eq!(replica_user(named(own), None), Ok(named(own)));
        }
        for own in ["app", "app:1000", "-0", "0x0", "root", "0", ""] {
            assert_eq!(replica_user(named(own), None), Err(own.to_owned()));
        }
        let nobody = User::Ids(NOBODY, NOBODY);
        assert_eq!(replica_user(nobody.clone(), None), Ok(nobody));
        for own in [named("app"), named("65532"), User::Ids(1000, 1000)] {
            assert_eq!(
                replica_user(own, Some((1000, 100))),
                Ok(User::Ids(1000, 100))
            );
        }
    }
}
