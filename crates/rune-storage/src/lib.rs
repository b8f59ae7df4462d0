//! The store of a single node in one SQLite database, and the object store.
//!
//! * [`SqliteStore`] implements [`rune_store_runtime::RuntimeStore`]: one writer
//!   thread with group commit and full fsync, a pool of readers, checkpoints off the
//!   hot path.
//! * [`apply`] turns a command into rows. It is the only code that writes,
//!   deterministic and total, so that the same code can stand behind a replicated
//!   log.
//! * [`Replica`] is the same database on a node of a cluster, written by a replicated
//!   log, and [`LogFile`] the file that such a log is kept in.
//! * [`ObjectStore`] keeps packages and large payloads under their SHA-256.
//! * [`BackupStore`] keeps backups of both, made while they are in use.
//!
//! What must hold:
//!
//! * A command is answered only after its transaction is on disk.
//! * A rejected command has written nothing.
//! * After an I/O error nothing is written any more until the store is opened anew.
//! * JSON of the journal is stored once; messages, tool invocations, outputs and
//!   failures refer to it.
//!
//! What is not here: the protocol of replication, HTTP, and any reading of the clock.

mod apply;
mod backup;
mod checkpoint;
mod config;
mod connection;
mod copy;
mod cursor;
mod digest;
mod dump;
mod error;
mod health;
mod key;
mod lock;
mod log_file;
mod metrics;
mod migration;
mod object;
mod private;
mod query;
mod read;
mod reader;
mod replica;
mod row;
mod size;
mod store;
mod sweep;
mod writer;

pub use apply::{Ordered, apply};
pub use backup::{
    BackupDatabase, BackupError, BackupManifest, BackupObject, BackupProgress, BackupSource,
    BackupStore, Elsewhere, RestoreTarget, Written,
};
pub use config::{Durability, StorageConfig};
pub use connection::open_in_memory;
pub use digest::{Digest, DigestError};
pub use dump::{DatabaseDigest, TableDigest, logical_digest};
pub use error::{ApplyError, StorageError};
pub use lock::DataDirLock;
pub use log_file::{LogChange, LogError, LogFile, LogOwner, LogReader, LogRow, LogStart};
pub use object::{ObjectBytes, ObjectError, ObjectStore, Variables};
pub use private::create_private_dir;
pub use read::secret::SecretFile;
pub use replica::{Copied, Copier, Replica, examine, measure};
pub use store::{SqliteStore, StoreStats};
pub use sweep::{ObjectsLock, Swept};
