//! The store through its public interface.

use std::path::Path;
use std::process::Command as Process;
use std::sync::Arc;

use rune_storage::{Durability, SqliteStore, StorageConfig, StorageError};
use rune_store_runtime::{
    CachePut, Command, CommandLog, MemoryScope, Reject, Store, StoreError, SystemClock, Timestamp,
};
use rune_testkit::store::{FakeStore, TestStore, random_commands, snapshot};

fn open(directory: &Path) -> Arc<SqliteStore> {
    Arc::new(SqliteStore::open(StorageConfig::new(directory.join("rune.db"))).unwrap())
}

fn sqlite() -> TestStore {
    let directory = tempfile::tempdir().unwrap();
    let mut config = StorageConfig::new(directory.path().join("rune.db"));
    config.durability = Durability::Normal;
    TestStore::new(Arc::new(SqliteStore::open(config).unwrap()), directory)
}

rune_testkit::store_suite!(sqlite);

fn put(key: &str, bytes: usize) -> CachePut {
    CachePut {
        key: key.to_owned(),
        value: "x".repeat(bytes).into(),
        expires_at: Timestamp::from_millis(i64::MAX),
    }
}

#[tokio::test]
async fn writes_go_on_beside_a_read_however_long_it_takes() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = StorageConfig::new(directory.path().join("rune.db"));
    config.durability = Durability::Normal;
    let sqlite = Arc::new(SqliteStore::open(config).unwrap());
    let store = Store::new(Arc::clone(&sqlite) as _, Arc::new(SystemClock));
    store.write(put("k", 1)).await.unwrap();
    // As a backup does.
    let reader = rusqlite::Connection::open(directory.path().join("rune.db")).unwrap();
    reader.execute_batch("BEGIN").unwrap();
    let count = || reader.query_row("SELECT count(*) FROM cache", [], |row| row.get::<_, i64>(0));
    assert_eq!(count().unwrap(), 1);
    // More than the log may hold before its writer has to wait for it.
    for n in 0..150 {
        store.write(put(&format!("k{n}"), 1_000_000)).await.unwrap();
    }
    assert_eq!(count().unwrap(), 1);
    let log = directory.path().join("rune.db-wal");
    let length = std::fs::metadata(&log).unwrap().len();
    assert!(length > 140 << 20, "{length}");
    reader.execute_batch("COMMIT").unwrap();
    // All of it is moved once nobody sees it any more.
    store.write(put("k", 2)).await.unwrap();
    sqlite.close().await.unwrap();
    assert!(std::fs::metadata(&log).map_or(0, |log| log.len()) == 0);
}

#[tokio::test]
async fn fake_and_sqlite_agree_on_random_commands() {
    for seed in 1..=12 {
        let (fake, sqlite) = (FakeStore::new(), sqlite());
        for (number, command) in random_commands(seed, 400).into_iter().enumerate() {
            let shown = format!("seed {seed}, command {number}: {command:?}");
            let expected = fake.submit(command.clone()).await;
            let found = sqlite.store.submit(command).await;
            match (expected, found) {
                (Ok(expected), Ok(found)) => assert_eq!(expected, found, "{shown}"),
                (Err(StoreError::Rejected(expected)), Err(StoreError::Rejected(found))) => {
                    assert_eq!(kind(&expected), kind(&found), "{shown}");
                }
                (expected, found) => unreachable!("{shown}: {expected:?} or {found:?}"),
            }
        }
        let scopes = ["echo", "other"].map(|agent| MemoryScope {
            namespace: "dev".to_owned(),
            agent: agent.to_owned(),
        });
        let keys = ["a", "b", "echo", "", "nul\0l"];
        let expected = snapshot(&fake, &keys, &scopes).await.unwrap();
        let found = snapshot(&*sqlite.store, &keys, &scopes).await.unwrap();
        assert!(expected == found, "seed {seed}:\n{expected}\n---\n{found}");
    }
}

fn kind(reject: &Reject) -> u8 {
    match reject {
        Reject::NotFound { .. } => 0,
        Reject::Conflict { .. } => 1,
        Reject::RequestEnded { .. } => 2,
        Reject::Invalid { .. } => 3,
        Reject::BudgetExceeded(_) => 4,
        Reject::Superseded { .. } => 5,
        Reject::Fenced { .. } => 6,
        Reject::QuotaExceeded { .. } => 7,
    }
}

#[tokio::test]
async fn a_second_open_of_the_data_directory_names_the_holder() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let config = StorageConfig::new(directory.path().join("rune.db"));
    let Err(StorageError::Locked { pid, .. }) = SqliteStore::open(config) else {
        unreachable!("the directory is locked");
    };
    assert_eq!(pid, Some(std::process::id()));
    store.close().await.unwrap();
    open(directory.path());
}

#[tokio::test]
async fn a_closed_store_has_everything_and_takes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let handle = Store::new(Arc::clone(&store) as _, Arc::new(SystemClock));
    handle.write(put("k", 10)).await.unwrap();
    store.close().await.unwrap();
    store.close().await.unwrap();
    let late = handle.write(put("k", 10)).await;
    assert!(matches!(late, Err(StoreError::Unavailable(_))));
    assert!(matches!(
        handle.cached("k", handle.now()).await,
        Err(StoreError::Unavailable(_))
    ));
    let wal = directory.path().join("rune.db-wal");
    assert!(
        !wal.exists(),
        "the write-ahead log is moved into the database"
    );
    let store = open(directory.path());
    let handle = Store::new(Arc::clone(&store) as _, Arc::new(SystemClock));
    assert!(handle.cached("k", handle.now()).await.unwrap().is_some());
    store.integrity_check().await.unwrap();
}

#[tokio::test]
async fn only_the_owner_can_read_what_is_stored() {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let store = open(&data);
    let handle = Store::new(Arc::clone(&store) as _, Arc::new(SystemClock));
    handle.write(put("k", 10)).await.unwrap();
    store.backup(data.join("copy.db")).await.unwrap();
    let mode = |path: &std::path::Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&data), 0o700);
    for name in ["rune.db", "rune.db-wal", "rune.db-shm", "copy.db"] {
        assert_eq!(mode(&data.join(name)), 0o600, "{name}");
    }
}

#[tokio::test]
async fn a_backup_is_a_whole_store() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let handle = Store::new(Arc::clone(&store) as _, Arc::new(SystemClock));
    handle.write(put("k", 10)).await.unwrap();
    let copy = directory.path().join("copy");
    std::fs::create_dir(&copy).unwrap();
    store.backup(copy.join("rune.db")).await.unwrap();
    assert!(store.backup(copy.join("rune.db")).await.is_err());
    let copy = Store::new(open(&copy), Arc::new(SystemClock));
    assert!(copy.cached("k", copy.now()).await.unwrap().is_some());
}

#[tokio::test]
async fn a_command_of_an_unknown_version_is_refused_at_the_door() {
    let store = sqlite();
    let mut command = Command::new(Timestamp::from_millis(1), put("k", 1));
    command.v = 2;
    let refused = store.store.submit(command).await;
    assert!(matches!(refused, Err(StoreError::Rejected(_))));
    let command = Command::new(Timestamp::from_millis(1), put("k", 1));
    store.store.submit(command).await.unwrap();
}

#[tokio::test]
async fn a_full_disk_is_unavailable_until_there_is_room() {
    let mount = tempfile::tempdir().unwrap();
    let mounted = Process::new("mount")
        .args(["-t", "tmpfs", "-o", "size=4m", "tmpfs"])
        .arg(mount.path())
        .output();
    if !mounted.is_ok_and(|output| output.status.success()) {
        println!("SKIPPED a_full_disk_is_unavailable_until_there_is_room: cannot mount a tmpfs");
        return;
    }
    let _unmount = Unmount(mount.path());
    let ballast = mount.path().join("ballast");
    let store = open(mount.path());
    let handle = Store::new(Arc::clone(&store) as _, Arc::new(SystemClock));
    handle.write(put("before", 10)).await.unwrap();
    std::fs::write(&ballast, vec![0; 2 << 20]).unwrap();
    let mut refused = false;
    for number in 0..40 {
        match handle.write(put(&number.to_string(), 200 << 10)).await {
            Ok(()) => {}
            Err(StoreError::Unavailable(_)) => {
                refused = true;
                break;
            }
            Err(error) => unreachable!("{error}"),
        }
    }
    assert!(refused, "the disk is full");
    assert_eq!(store.failure(), None);
    std::fs::remove_file(&ballast).unwrap();
    handle.write(put("after", 10)).await.unwrap();
    let row = handle.cached("before", handle.now()).await.unwrap();
    assert!(row.is_some());
    store.close().await.unwrap();
}

struct Unmount<'a>(&'a Path);

impl Drop for Unmount<'_> {
    fn drop(&mut self) {
        // A lazy unmount; what is left goes with the namespace.
        let _ = Process::new("umount").arg("-l").arg(self.0).status();
    }
}
