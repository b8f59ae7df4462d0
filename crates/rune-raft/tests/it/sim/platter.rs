//! What is on a disk, and what only looks like it: a change of a file is known until it is synced,
//! and a power loss takes of those that were not what chance says, whole or torn.
//!
//! The functions of the C library that change files are replaced in this program, for SQLite as for
//! the standard library. They do what they always do, and note it where the thread works for a
//! [`Platter`].

#![expect(
    unsafe_code,
    reason = "the functions of the C library are called by C code, with its pointers"
)]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::{CStr, OsStr, c_char, c_int, c_void};
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirEntryExt as _, FileExt as _, MetadataExt as _};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use super::dice::Dice;

/// What of a write is on disk together.
const SECTOR: u64 = 512;

thread_local! {
    static CURRENT: RefCell<Option<Platter>> = const { RefCell::new(None) };
}

/// What a disk does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// No file can grow.
    Full,
    /// The sync that is the so manieth from now on fails, and with it what it was to sync is lost.
    Sync(u64),
    /// After so many further syncs the machine is without power: nothing comes to the disk, and
    /// nobody hears of it.
    Power(u64),
}

/// The disk of a machine. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Platter(Arc<Mutex<Content>>);

/// Files and directories are known by their numbers.
struct Content {
    dice: Dice,
    fault: Option<Fault>,
    /// Changes since the last sync, and all since one that failed.
    files: BTreeMap<u64, Vec<Change>>,
    /// The names in a directory when it was synced last.
    names: BTreeMap<u64, Names>,
    /// What was in files that have no name any more.
    removed: BTreeMap<u64, Vec<u8>>,
}

type Names = BTreeMap<String, u64>;

#[derive(Debug, Clone)]
struct Change {
    at: u64,
    before: Vec<u8>,
    after: Vec<u8>,
    /// The length of the file before and after it.
    lengths: (u64, u64),
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    Synced,
    Lost,
}

impl Change {
    fn undo(&self, bytes: &mut Vec<u8>) {
        put(bytes, self.at, &self.before);
        bytes.resize(size(self.lengths.0), 0);
    }

    fn make(&self, bytes: &mut Vec<u8>, length: u64) {
        let length = size(length).min(self.after.len());
        put(bytes, self.at, &self.after[..length]);
        if self.lengths.1 < self.lengths.0 {
            bytes.truncate(size(self.lengths.1));
        }
    }
}

fn put(bytes: &mut Vec<u8>, at: u64, part: &[u8]) {
    if part.is_empty() {
        return;
    }
    let (from, to) = (size(at), size(at) + part.len());
    if bytes.len() < to {
        bytes.resize(to, 0);
    }
    bytes[from..to].copy_from_slice(part);
}

fn size(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap()
}

impl Platter {
    pub(crate) fn new(dice: Dice) -> Self {
        Self(Arc::new(Mutex::new(Content {
            dice,
            fault: None,
            files: BTreeMap::new(),
            names: BTreeMap::new(),
            removed: BTreeMap::new(),
        })))
    }

    /// Does what changes files of this disk.
    pub(crate) fn work<T>(&self, work: impl FnOnce() -> T) -> T {
        struct End;
        impl Drop for End {
            fn drop(&mut self) {
                CURRENT.set(None);
            }
        }
        CURRENT.set(Some(self.clone()));
        let _end = End;
        work()
    }

    pub(crate) fn set(&self, fault: Option<Fault>) {
        self.lock().fault = fault;
    }

    /// Whether what is wrong with it is still to come, or goes on.
    pub(crate) fn is_faulty(&self) -> bool {
        self.lock().fault.is_some()
    }

    /// Whether the power failed in the middle of work.
    pub(crate) fn is_dead(&self) -> bool {
        self.lock().fault == Some(Fault::Power(0))
    }

    /// The disk as the next life of the machine finds it, in another directory.
    pub(crate) fn after(&self, from: &Path, to: &Path, power: bool) -> Self {
        let mut content = self.lock();
        let after = Self::new(content.dice.clone());
        content.copy(&mut after.lock(), from, to, power);
        after
    }

    fn lock(&self) -> MutexGuard<'_, Content> {
        self.0.lock().unwrap()
    }
}

impl Content {
    fn copy(&mut self, after: &mut Self, from: &Path, to: &Path, power: bool) {
        let now = names(from);
        let synced = self.names.remove(&number(from)).unwrap_or_default();
        let survives = if power && self.dice.per_mille(500) {
            &synced
        } else {
            &now
        };
        let mut moved = BTreeMap::new();
        for (name, file) in survives {
            let known = now.iter().find(|(_, other)| *other == file);
            let mut bytes = match known {
                Some((name, _)) => fs::read(from.join(name)).unwrap(),
                None => match self.removed.get(file) {
                    Some(bytes) => bytes.clone(),
                    None => continue,
                },
            };
            let changes = self.files.get(file).cloned().unwrap_or_default();
            if power {
                self.survive(&mut bytes, &changes);
            }
            let path = to.join(name);
            fs::write(&path, bytes).unwrap();
            let number = number(&path);
            moved.insert(*file, number);
            if !power {
                after.files.insert(number, changes);
            }
        }
        let mut known = if power { names(to) } else { synced };
        for file in known.values_mut() {
            match moved.get(file) {
                Some(number) => *file = *number,
                None => {
                    let gone = self.removed.get(file).cloned();
                    after.removed.extend(gone.map(|bytes| (*file, bytes)));
                    let changes = self.files.get(file).cloned();
                    after.files.extend(changes.map(|changes| (*file, changes)));
                }
            }
        }
        after.names.insert(number(to), known);
        for entry in fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                let to = to.join(entry.file_name());
                fs::create_dir(&to).unwrap();
                self.copy(after, &entry.path(), &to, power);
            }
        }
    }

    /// Makes of what a file looked like what is on disk.
    fn survive(&self, bytes: &mut Vec<u8>, changes: &[Change]) {
        for change in changes.iter().rev() {
            change.undo(bytes);
        }
        for change in changes {
            let whole = change.after.len() as u64;
            match change.state {
                State::Synced => change.make(bytes, whole),
                State::Lost => {}
                State::Open => match self.dice.below(4) {
                    0 => {}
                    1 => {
                        let sectors = self.dice.below(whole / SECTOR + 1);
                        change.make(bytes, sectors * SECTOR);
                    }
                    _ => change.make(bytes, whole),
                },
            }
        }
    }

    fn synced(&mut self, file: u64, state: State) {
        let Some(changes) = self.files.get_mut(&file) else {
            return;
        };
        for change in changes.iter_mut() {
            if change.state == State::Open {
                change.state = state;
            }
        }
        if changes.iter().all(|change| change.state == State::Synced) {
            changes.clear();
        }
    }

    /// Keeps what is in a file that is about to lose its name.
    fn forget(&mut self, path: &Path) {
        if let Ok(bytes) = fs::read(path) {
            self.removed.insert(number(path), bytes);
        }
    }
}

fn number(path: &Path) -> u64 {
    fs::metadata(path).unwrap().ino()
}

/// The files in a directory that are of use to another process.
fn names(directory: &Path) -> Names {
    let entries = fs::read_dir(directory).unwrap().map(Result::unwrap);
    entries
        .filter(|entry| entry.file_type().unwrap().is_file())
        .map(|entry| (entry.file_name().into_string().unwrap(), entry.ino()))
        .filter(|(name, _)| !name.ends_with("-shm"))
        .collect()
}

/// The disk that this thread works for.
fn current() -> Option<Platter> {
    CURRENT.try_with(|current| current.borrow().clone()).ok()?
}

fn fail(error: c_int) -> c_int {
    // SAFETY: the place of this thread's error is always there.
    unsafe { *libc::__errno_location() = error };
    -1
}

/// Number, mode and length of an open file.
fn stat(file: c_int) -> Option<(u64, libc::mode_t, u64)> {
    // SAFETY: zeros are a value of this type, which is written by the call.
    let (found, stat) = unsafe {
        let mut stat: libc::stat = std::mem::zeroed();
        (libc::fstat(file, &raw mut stat), stat)
    };
    let length = u64::try_from(stat.st_size).ok()?;
    (found == 0).then_some((stat.st_ino, stat.st_mode & libc::S_IFMT, length))
}

/// Bytes of an open file, which need not be open for reading.
fn read(file: c_int, at: u64, length: u64) -> Vec<u8> {
    let mut bytes = vec![0u8; size(length)];
    if length > 0 {
        let file = File::open(format!("/proc/self/fd/{file}")).unwrap();
        file.read_exact_at(&mut bytes, at).unwrap();
    }
    bytes
}

/// Writes, and notes it.
fn write_at(
    file: c_int,
    data: *const c_void,
    count: usize,
    at: impl FnOnce() -> i64,
    make: impl FnOnce() -> isize,
) -> isize {
    let Some(platter) = current() else {
        return make();
    };
    let Some((number, libc::S_IFREG, length)) = stat(file) else {
        return make();
    };
    let mut content = platter.lock();
    let at = u64::try_from(at()).unwrap();
    let end = at + count as u64;
    match content.fault {
        Some(Fault::Power(0)) => return fail(libc::EIO) as isize,
        Some(Fault::Full) if end > length => return fail(libc::ENOSPC) as isize,
        _ => {}
    }
    let before = read(file, at, length.min(end).saturating_sub(at));
    let made = make();
    let Ok(count) = usize::try_from(made) else {
        return made;
    };
    // SAFETY: the caller has so many bytes there, which were just written.
    let after = unsafe { std::slice::from_raw_parts(data.cast::<u8>(), count) }.to_vec();
    let lengths = (length, length.max(at + count as u64));
    let state = State::Open;
    let change = Change {
        at,
        before,
        after,
        lengths,
        state,
    };
    content.files.entry(number).or_default().push(change);
    made
}

/// What every other function does first: nothing where the power is gone.
fn alive(platter: &Platter) -> Result<MutexGuard<'_, Content>, c_int> {
    let content = platter.lock();
    match content.fault {
        Some(Fault::Power(0)) => Err(fail(libc::EIO)),
        _ => Ok(content),
    }
}

#[unsafe(no_mangle)]
extern "C" fn write(file: c_int, data: *const c_void, count: usize) -> isize {
    // SAFETY: the arguments are the caller's.
    let make = || unsafe { libc::syscall(libc::SYS_write, file, data, count) as isize };
    // SAFETY: it changes nothing.
    let at = || unsafe { libc::lseek(file, 0, libc::SEEK_CUR) };
    write_at(file, data, count, at, make)
}

#[unsafe(no_mangle)]
extern "C" fn pwrite64(file: c_int, data: *const c_void, count: usize, at: i64) -> isize {
    // SAFETY: the arguments are the caller's.
    let make = || unsafe { libc::syscall(libc::SYS_pwrite64, file, data, count, at) as isize };
    write_at(file, data, count, || at, make)
}

#[unsafe(no_mangle)]
extern "C" fn pwrite(file: c_int, data: *const c_void, count: usize, at: i64) -> isize {
    pwrite64(file, data, count, at)
}

#[unsafe(no_mangle)]
extern "C" fn ftruncate(file: c_int, to: i64) -> c_int {
    // SAFETY: the arguments are the caller's.
    let make = || unsafe { libc::syscall(libc::SYS_ftruncate, file, to) } as c_int;
    let Some(platter) = current() else {
        return make();
    };
    let Some((number, libc::S_IFREG, length)) = stat(file) else {
        return make();
    };
    let mut content = match alive(&platter) {
        Ok(content) => content,
        Err(error) => return error,
    };
    let to = u64::try_from(to).unwrap();
    let before = read(file, to.min(length), length.saturating_sub(to));
    let made = make();
    if made == 0 {
        // What is longer now has zeros at its end.
        let after = vec![0; size(to.saturating_sub(length))];
        let change = Change {
            at: to.min(length),
            before,
            after,
            lengths: (length, to),
            state: State::Open,
        };
        content.files.entry(number).or_default().push(change);
    }
    made
}

#[unsafe(no_mangle)]
extern "C" fn ftruncate64(file: c_int, to: i64) -> c_int {
    ftruncate(file, to)
}

#[unsafe(no_mangle)]
extern "C" fn fsync(file: c_int) -> c_int {
    let Some(platter) = current() else {
        // SAFETY: the argument is the caller's.
        return unsafe { libc::syscall(libc::SYS_fsync, file) } as c_int;
    };
    let mut content = match alive(&platter) {
        Ok(content) => content,
        Err(error) => return error,
    };
    match content.fault {
        Some(Fault::Power(left)) => {
            content.fault = Some(Fault::Power(left - 1));
            if left == 1 {
                return fail(libc::EIO);
            }
        }
        Some(Fault::Sync(left)) if left > 1 => content.fault = Some(Fault::Sync(left - 1)),
        Some(Fault::Sync(_)) => {
            content.fault = None;
            if let Some((number, _, _)) = stat(file) {
                content.synced(number, State::Lost);
            }
            return fail(libc::EIO);
        }
        _ => {}
    }
    match stat(file) {
        Some((number, libc::S_IFREG, _)) => content.synced(number, State::Synced),
        Some((number, libc::S_IFDIR, _)) => {
            let path = fs::read_link(format!("/proc/self/fd/{file}")).unwrap();
            content.names.insert(number, names(&path));
        }
        _ => {}
    }
    0
}

#[unsafe(no_mangle)]
extern "C" fn fdatasync(file: c_int) -> c_int {
    fsync(file)
}

#[unsafe(no_mangle)]
extern "C" fn unlink(path: *const c_char) -> c_int {
    forget_then(path, || {
        // SAFETY: the argument is the caller's.
        unsafe { libc::unlinkat(libc::AT_FDCWD, path, 0) }
    })
}

#[unsafe(no_mangle)]
extern "C" fn rename(from: *const c_char, to: *const c_char) -> c_int {
    forget_then(to, || {
        // SAFETY: the arguments are the caller's.
        unsafe { libc::renameat(libc::AT_FDCWD, from, libc::AT_FDCWD, to) }
    })
}

fn forget_then(path: *const c_char, make: impl FnOnce() -> c_int) -> c_int {
    let Some(platter) = current() else {
        return make();
    };
    let mut content = match alive(&platter) {
        Ok(content) => content,
        Err(error) => return error,
    };
    // SAFETY: the caller has a path there.
    let path = unsafe { CStr::from_ptr(path) };
    content.forget(Path::new(OsStr::from_bytes(path.to_bytes())));
    make()
}

#[test]
fn only_what_was_synced_is_there_after_a_power_loss() {
    use std::io::Write as _;
    let root = tempfile::tempdir().unwrap();
    let path = |name: &str| root.path().join(name);
    fs::create_dir(path("before")).unwrap();
    let mut kept = 0;
    for seed in 0..40 {
        let platter = Platter::new(Dice::new(seed));
        let file = platter.work(|| {
            let mut file = File::create_new(path("before/file")).unwrap();
            file.write_all(&[1; 1024]).unwrap();
            file.sync_all().unwrap();
            File::open(path("before")).unwrap().sync_all().unwrap();
            file.write_all(&[2; 1024]).unwrap();
            platter.set(Some(Fault::Sync(1)));
            assert!(file.sync_all().is_err());
            file.write_all(&[3; 1024]).unwrap();
            file.sync_all().unwrap();
            file.write_all(&[4; 1024]).unwrap();
            file.set_len(4000).unwrap();
            platter.set(Some(Fault::Full));
            assert_eq!(
                file.write_all(&[5; 1024]).unwrap_err().kind(),
                std::io::ErrorKind::StorageFull
            );
            fs::remove_file(path("before/file")).unwrap();
            File::create_new(path("before/new")).unwrap();
            file
        });
        fs::create_dir(path("after")).unwrap();
        platter.after(&path("before"), &path("after"), true);
        match fs::read(path("after/file")) {
            Ok(bytes) => {
                kept += 1;
                assert_eq!(bytes[..1024], [1; 1024]);
                assert_eq!(bytes[1024..2048], [0; 1024], "lost by the failed sync");
                assert_eq!(bytes[2048..3072], [3; 1024]);
                assert!(
                    [3072, 3584, 4000, 4096].contains(&bytes.len()),
                    "{}",
                    bytes.len()
                );
            }
            Err(_) => assert!(path("after/new").exists()),
        }
        drop(file);
        for directory in ["before", "after"] {
            fs::remove_dir_all(path(directory)).unwrap();
        }
        fs::create_dir(path("before")).unwrap();
    }
    assert!((5..35).contains(&kept), "{kept}");
}
