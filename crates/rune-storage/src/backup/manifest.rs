//! What a backup consists of.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use rune_store_runtime::Timestamp;
use serde::{Deserialize, Serialize};

use super::BackupError;
use crate::Digest;
use crate::dump::{TableDigest, digest_of_tables};

/// The format that this code writes.
const FORMAT: u32 = 1;

/// Digits of the digest of a list that its name ends with.
const SEAL_DIGITS: usize = 16;

/// What a backup consists of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackupManifest {
    /// The name of the backup. Not in the file, whose name it is.
    #[serde(skip)]
    pub id: String,
    /// The format of this list.
    pub format: u32,
    /// When it was made.
    pub created_at: Timestamp,
    /// The version of Rune that made it.
    pub rune: String,
    /// The database.
    pub database: BackupDatabase,
    /// The objects that its rows refer to.
    pub objects: Vec<BackupObject>,
    /// Objects that its rows need, and that were missing or damaged in the store already.
    pub lost: Vec<Digest>,
    /// The keys that its secrets and webhooks are encrypted with. They are not in the backup.
    pub secret_keys: BTreeSet<String>,
}

/// A database as it was at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackupDatabase {
    /// The version of its schema.
    pub schema: i64,
    /// Its length.
    pub bytes: u64,
    /// Its pieces, in their order.
    pub pieces: Vec<Digest>,
    /// The digest of its rows, whatever their place in the file.
    pub rows: Digest,
    /// The same of each table.
    pub tables: BTreeMap<String, TableDigest>,
}

/// An object that is in a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackupObject {
    /// Under which it is stored.
    pub digest: Digest,
    /// Its length.
    pub bytes: u64,
}

/// Why a list cannot be used.
pub(super) enum Unusable {
    Damaged(String),
    Newer(u32),
}

impl Unusable {
    /// The error, for the list at this path.
    pub(super) fn at(self, path: String) -> BackupError {
        match self {
            Self::Damaged(reason) => BackupError::Damaged { path, reason },
            Self::Newer(found) => BackupError::Newer {
                path,
                found,
                supported: FORMAT,
            },
        }
    }
}

impl BackupManifest {
    /// The list of a backup that is made now, not named yet.
    pub(super) fn new(
        created_at: Timestamp,
        rune: &str,
        database: BackupDatabase,
        secret_keys: BTreeSet<String>,
    ) -> Self {
        Self {
            id: String::new(),
            format: FORMAT,
            created_at,
            rune: rune.to_owned(),
            database,
            objects: Vec::new(),
            lost: Vec::new(),
            secret_keys,
        }
    }

    /// Gives it its name, which is of its content; answers what is in its file.
    pub(super) fn seal(&mut self) -> Result<Bytes, serde_json::Error> {
        let bytes = serde_json::to_vec_pretty(self)?;
        let time: String = self
            .created_at
            .to_string()
            .chars()
            .filter(|c| !matches!(c, '-' | ':'))
            .collect();
        self.id = format!("{time}-{}", seal_of(&bytes));
        Ok(bytes.into())
    }

    /// Reads the list of the backup with this id.
    pub(super) fn read(id: &str, bytes: &[u8]) -> Result<Self, Unusable> {
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        let damaged = |reason: &str| Unusable::Damaged(reason.to_owned());
        if !id.ends_with(&format!("-{}", seal_of(bytes))) {
            return Err(damaged("its content is not what its name was made of"));
        }
        let unreadable = |error: serde_json::Error| Unusable::Damaged(error.to_string());
        let Format { format } = serde_json::from_slice(bytes).map_err(unreadable)?;
        if format > FORMAT {
            return Err(Unusable::Newer(format));
        }
        let manifest: Self = serde_json::from_slice(bytes).map_err(unreadable)?;
        if manifest.database.rows != digest_of_tables(&manifest.database.tables) {
            return Err(damaged("the digest of the rows is not that of the tables"));
        }
        Ok(Self {
            id: id.to_owned(),
            ..manifest
        })
    }

    /// Every part of it, once.
    pub(super) fn parts(&self) -> Vec<Digest> {
        let objects = self.objects.iter().map(|object| object.digest);
        let pieces = self.database.pieces.iter().copied();
        let parts: BTreeSet<Digest> = pieces.chain(objects).collect();
        parts.into_iter().collect()
    }

    /// Compares the tables of a database with those of the backup.
    pub(super) fn compare(&self, found: &BTreeMap<String, TableDigest>) -> Result<(), BackupError> {
        let expected = &self.database.tables;
        let names: BTreeSet<&String> = expected.keys().chain(found.keys()).collect();
        let other = |name: &&&String| expected.get(**name) != found.get(**name);
        match names.iter().find(other) {
            None => Ok(()),
            Some(table) => Err(BackupError::Differs {
                table: (*table).clone(),
            }),
        }
    }
}

fn seal_of(bytes: &[u8]) -> String {
    let mut digits = Digest::of(bytes).hex();
    digits.truncate(SEAL_DIGITS);
    digits
}
