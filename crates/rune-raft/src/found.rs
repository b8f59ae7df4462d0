//! A cluster that begins with what is there already.
//!
//! The log of a cluster begins with an entry that says who is in it. Here that entry is never
//! written: the database says that it has applied it, and the log that it is gone. So nothing of the
//! database has to be in a log, and every node that joins is sent all of it as a snapshot.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use openraft::vote::RaftLeaderId as _;
use openraft::{BasicNode, Membership, StoredMembership};
use rune_storage::{LogChange, LogError, LogFile, LogOwner, Replica, StorageError};

use crate::state_machine::Position;
use crate::{Leader, LogId};

/// Why a cluster could not be begun.
#[derive(Debug, thiserror::Error)]
pub enum FoundError {
    /// Its files cannot be used.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The database could not be written.
    #[error("cannot write the database: {0}")]
    Database(String),
    /// The log could not be written.
    #[error("cannot write the log")]
    Log(#[source] LogError),
}

/// Makes a database, that nobody has open, the state of a new cluster whose only node is the owner at
/// this address; `log` is the file of its log, which is made. What the database knew of another
/// cluster is forgotten.
///
/// # Errors
/// A [`FoundError`]. It can be done again.
pub fn found(database: &Path, log: &Path, owner: &LogOwner, addr: &str) -> Result<(), FoundError> {
    let first = LogId::new(Leader::new(0, 0), 0);
    let node = BTreeMap::from([(owner.node, BasicNode::new(addr))]);
    let members = Membership::new(vec![[owner.node].into()], node);
    let members = members.map_err(|error| FoundError::Database(error.to_string()))?;
    let position = Position {
        applied: Some(first),
        members: StoredMembership::new(Some(first), members),
        retired: BTreeSet::new(),
    };
    let json = |error: serde_json::Error| FoundError::Database(error.to_string());
    let position = serde_json::to_string(&position).map_err(json)?;
    let purged = serde_json::to_string(&first).map_err(json)?;
    let mut replica = Replica::open(database)?;
    let noted = replica.apply(&[], &position);
    noted.map_err(|error| FoundError::Database(error.to_string()))?;
    drop(replica);
    let (mut log, _) = LogFile::open(log, owner)?;
    log.write(&[LogChange::PurgeTo(first.index, purged)])
        .map_err(FoundError::Log)
}
