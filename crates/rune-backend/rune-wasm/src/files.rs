//! What a guest opens: regular files and directories.
//!
//! WASI's own functions open whatever has a name, and wait at a named pipe for its other end, on a thread that nobody can
//! take back. Those of this file stand in their place and never wait.

use std::any::Any;
use std::collections::HashSet;
use std::fs::File as StdFile;
use std::io;
use std::sync::Arc;

use cap_std::fs::{Dir as CapDir, OpenOptions, OpenOptionsExt};
use rustix::fs::OFlags;
use rustix::io::Errno;
use wasmtime::component::{Linker as ComponentLinker, Resource};
use wasmtime::{Caller, Extern, Linker, Memory, StoreContextMut, Trap};
use wasmtime_wasi::filesystem::{Descriptor, Dir, File};
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::p1::types::Errno as P1Errno;
use wasmtime_wasi::p1::wasi_snapshot_preview1::{WasiSnapshotPreview1, fd_close, path_open};
use wasmtime_wasi::p2::FsError;
use wasmtime_wasi::p2::bindings::filesystem::types::{
    DescriptorFlags, ErrorCode, OpenFlags, PathFlags,
};
use wasmtime_wasi::{OpenMode, WasiView};
use wiggle::GuestMemory;

use crate::guest::Guest;

/// The interface of the preview 2 function.
const TYPES: &str = "wasi:filesystem/types@0.2.12";
/// Bytes of the longest path.
const MAX_PATH_BYTES: usize = 4096;

// Numbers of preview 1.
const SYMLINK_FOLLOW: i32 = 1;
const CREATE: i32 = 1;
const DIRECTORY: i32 = 2;
const EXCLUSIVE: i32 = 4;
const TRUNCATE: i32 = 8;
const MAY_READ: i64 = 1 << 1;
const MAY_WRITE: i64 = 1 << 6;
/// That what is written is on the disk at once; WASI's own functions do not do that either.
const SYNCHRONOUS: i32 = 2 | 8 | 16;

/// A directory that is always there, with a directory and a file in it that are what they are.
const KNOWN: &str = "/proc/self";
const KNOWN_DIRECTORY: &str = "task";
const KNOWN_FILE: &str = "status";

/// What a guest wants to open.
struct Wanted {
    path: String,
    links: PathFlags,
    how: OpenFlags,
    flags: DescriptorFlags,
}

/// Puts the functions of this file in the place of those that are there.
pub(crate) fn add_to_linkers(
    modules: &mut Linker<Guest>,
    components: &mut ComponentLinker<Guest>,
) -> wasmtime::Result<()> {
    modules.allow_shadowing(true);
    modules.func_wrap_async(
        "wasi_snapshot_preview1",
        "path_open",
        |caller: Caller<'_, Guest>, arguments: P1Arguments| Box::new(open_p1(caller, arguments)),
    )?;
    modules.allow_shadowing(false);
    components.allow_shadowing(true);
    components.instance(TYPES)?.func_wrap_async(
        "[method]descriptor.open-at",
        |store: StoreContextMut<'_, Guest>, arguments: P2Arguments| {
            Box::new(open_p2(store, arguments))
        },
    )?;
    components.allow_shadowing(false);
    Ok(())
}

/// Opens what is wanted, in a directory and below it. What is neither a file nor a directory is as good as forbidden.
fn open(dir: &Dir, wanted: &Wanted) -> io::Result<Descriptor> {
    let Wanted {
        path, how, flags, ..
    } = wanted;
    let is_synchronous = [
        DescriptorFlags::FILE_INTEGRITY_SYNC,
        DescriptorFlags::DATA_INTEGRITY_SYNC,
        DescriptorFlags::REQUESTED_WRITE_SYNC,
    ];
    if is_synchronous.into_iter().any(|flag| flags.contains(flag)) {
        return Err(Errno::NOTSUP.into());
    }
    let creates = how.contains(OpenFlags::CREATE);
    let truncates = how.contains(OpenFlags::TRUNCATE);
    let wants_directory = how.contains(OpenFlags::DIRECTORY);
    if wants_directory && (creates || truncates || how.contains(OpenFlags::EXCLUSIVE)) {
        return Err(Errno::INVAL.into());
    }
    let writes = flags.contains(DescriptorFlags::WRITE);
    let changes = creates || truncates || writes;
    if changes && dir.perms.write_not_permitted() {
        return Err(Errno::PERM.into());
    }
    let reads = flags.contains(DescriptorFlags::READ) || !writes;
    let mut system = OFlags::NONBLOCK | OFlags::NOCTTY;
    if !wanted.links.contains(PathFlags::SYMLINK_FOLLOW) {
        system |= OFlags::NOFOLLOW;
    }
    let mut options = OpenOptions::new();
    options
        .read(reads)
        .write(changes)
        .create(creates)
        .create_new(creates && how.contains(OpenFlags::EXCLUSIVE))
        .truncate(truncates)
        .custom_flags(i32::try_from(system.bits()).unwrap_or_default());
    let root = CapDir::from_std_file(dir.dir.try_clone()?);
    let opened = root.open_with(path, &options).map_err(|error| {
        // A pipe that nobody reads, or a socket.
        match Errno::from_io_error(&error) {
            Some(Errno::NXIO) => Errno::ACCESS.into(),
            _ => error,
        }
    })?;
    let opened = opened.into_std();
    let kind = opened.metadata()?.file_type();
    let mut mode = OpenMode::empty();
    mode.set(OpenMode::READ, reads);
    mode.set(OpenMode::WRITE, changes);
    if kind.is_dir() {
        Ok(Descriptor::Dir(Dir::new(opened, dir.perms, mode, false)))
    } else if !kind.is_file() {
        Err(Errno::ACCESS.into())
    } else if wants_directory {
        Err(Errno::NOTDIR.into())
    } else {
        Ok(Descriptor::File(File::new(opened, dir.perms, mode, false)))
    }
}

/// The same off the reactor.
async fn opened(dir: Dir, wanted: Wanted) -> Result<Descriptor, FsError> {
    let opening = tokio::task::spawn_blocking(move || open(&dir, &wanted)).await;
    Ok(opening.map_err(io::Error::other)??)
}

type P2Arguments = (
    Resource<Descriptor>,
    PathFlags,
    String,
    OpenFlags,
    DescriptorFlags,
);
type P2Result = (Result<Resource<Descriptor>, ErrorCode>,);

async fn open_p2(
    mut store: StoreContextMut<'_, Guest>,
    (dir, links, path, how, flags): P2Arguments,
) -> wasmtime::Result<P2Result> {
    let dir = match store.data_mut().ctx().table.get(&dir)? {
        Descriptor::Dir(dir) => dir.clone(),
        Descriptor::File(_) => return Ok((Err(ErrorCode::NotDirectory),)),
    };
    let wanted = Wanted {
        path,
        links,
        how,
        flags,
    };
    Ok((match opened(dir, wanted).await {
        Ok(opened) => Ok(store.data_mut().ctx().table.push(opened)?),
        Err(error) => Err(error.downcast()?),
    },))
}

/// Directory, flags for links, path and its length, how to open, rights, those of what is opened from there, flags, and
/// where the number of what is opened goes.
type P1Arguments = (i32, i32, i32, i32, i32, i64, i64, i32, i32);

/// The number of a descriptor, or of an error.
type P1Result = Result<i32, i32>;

async fn open_p1(
    mut caller: Caller<'_, Guest>,
    (dir, links, path, length, how, rights, _, flags, into): P1Arguments,
) -> wasmtime::Result<i32> {
    let Some(Extern::Memory(memory)) = caller.get_export("memory") else {
        wasmtime::bail!("missing required memory export");
    };
    let wanted = match read_path(&memory, &caller, path, length)? {
        Ok(path) => wanted_p1(path, links, how, rights),
        Err(error) => return Ok(errno(error)),
    };
    if flags & SYNCHRONOUS != 0 {
        return Ok(errno(P1Errno::Notsup));
    }
    match open_at(caller.data_mut().wasi(), dir, wanted, flags).await? {
        Ok(number) => {
            let into = usize::try_from(into.cast_unsigned())?;
            let written = memory.write(&mut caller, into, &number.to_le_bytes());
            written.map_err(|_| Trap::MemoryOutOfBounds)?;
            Ok(errno(P1Errno::Success))
        }
        Err(error) => Ok(error),
    }
}

fn errno(error: P1Errno) -> i32 {
    i32::from(u16::from(error))
}

fn read_path(
    memory: &Memory,
    caller: &Caller<'_, Guest>,
    at: i32,
    length: i32,
) -> wasmtime::Result<Result<String, P1Errno>> {
    let at = usize::try_from(at.cast_unsigned())?;
    let length = usize::try_from(length.cast_unsigned())?;
    if length > MAX_PATH_BYTES {
        return Ok(Err(P1Errno::Nametoolong));
    }
    let bytes = memory.data(caller).get(at..at.saturating_add(length));
    let text = std::str::from_utf8(bytes.ok_or(Trap::MemoryOutOfBounds)?);
    Ok(text.map(str::to_owned).map_err(|_| P1Errno::Ilseq))
}

fn wanted_p1(path: String, links: i32, how: i32, rights: i64) -> Wanted {
    let mut wanted = Wanted {
        path,
        links: PathFlags::empty(),
        how: OpenFlags::empty(),
        flags: DescriptorFlags::empty(),
    };
    if links & SYMLINK_FOLLOW != 0 {
        wanted.links |= PathFlags::SYMLINK_FOLLOW;
    }
    for (bit, flag) in [
        (CREATE, OpenFlags::CREATE),
        (DIRECTORY, OpenFlags::DIRECTORY),
        (EXCLUSIVE, OpenFlags::EXCLUSIVE),
        (TRUNCATE, OpenFlags::TRUNCATE),
    ] {
        if how & bit != 0 {
            wanted.how |= flag;
        }
    }
    for (bit, flag) in [
        (MAY_READ, DescriptorFlags::READ),
        (MAY_WRITE, DescriptorFlags::WRITE),
    ] {
        if rights & bit != 0 {
            wanted.flags |= flag;
        }
    }
    wanted
}

/// Opens something and gives it a number.
///
/// Which descriptor a number stands for, and how one gets a number, only WASI's own functions know. So they are asked to open
/// what cannot hold them up, and what they have opened is exchanged.
async fn open_at(
    wasi: &mut WasiP1Ctx,
    dir: i32,
    wanted: Wanted,
    flags: i32,
) -> wasmtime::Result<P1Result> {
    // Until it is called first, it has no table; nothing has this number.
    close(wasi, -1).await?;
    let known = addresses(wasi);
    let handle = match ask(wasi, dir, ".", DIRECTORY, 0).await? {
        Ok(handle) => handle,
        Err(error) => return Ok(Err(error)),
    };
    let answer = open_by(wasi, handle, &known, wanted, flags).await;
    close(wasi, handle).await?;
    answer
}

/// The same by a handle of the directory that nobody else has; `known` is what there was before.
async fn open_by(
    wasi: &mut WasiP1Ctx,
    handle: i32,
    known: &HashSet<usize>,
    wanted: Wanted,
    flags: i32,
) -> wasmtime::Result<P1Result> {
    let Some(Descriptor::Dir(dir)) = fresh(wasi, known) else {
        wasmtime::bail!("a directory that was opened is not in the table");
    };
    let opened = match opened(dir.clone(), wanted).await {
        Ok(opened) => opened,
        Err(error) => return Ok(Err(errno(error.downcast()?.into()))),
    };
    let Some(Descriptor::Dir(dir)) = fresh(wasi, known) else {
        wasmtime::bail!("a directory that was opened is not in the table any more");
    };
    dir.dir = Arc::new(StdFile::open(KNOWN)?);
    let known = addresses(wasi);
    let name = match opened {
        Descriptor::Dir(_) => KNOWN_DIRECTORY,
        Descriptor::File(_) => KNOWN_FILE,
    };
    let number = match ask(wasi, handle, name, 0, flags).await? {
        Ok(number) => number,
        Err(error) => return Ok(Err(error)),
    };
    let Some(stand_in) = fresh(wasi, &known) else {
        wasmtime::bail!("a file that was opened is not in the table");
    };
    *stand_in = opened;
    Ok(Ok(number))
}

/// Memory in which WASI's own functions find a path and leave a number.
const OWN_MEMORY_BYTES: usize = 16;
const NUMBER_AT: i32 = 12;

/// Has WASI's own function open something for reading.
async fn ask(
    wasi: &mut WasiP1Ctx,
    dir: i32,
    path: &str,
    how: i32,
    flags: i32,
) -> wasmtime::Result<P1Result> {
    let mut own = [0; OWN_MEMORY_BYTES];
    for (to, from) in own.iter_mut().zip(path.bytes()) {
        *to = from;
    }
    let length = i32::try_from(path.len())?;
    wasi.set_hostcall_fuel(OWN_MEMORY_BYTES);
    let mut memory = GuestMemory::Unshared(&mut own);
    let answer = path_open(
        wasi,
        &mut memory,
        dir,
        0,
        0,
        length,
        how,
        MAY_READ,
        0,
        flags,
        NUMBER_AT,
    );
    let error = answer.await?;
    let [.., a, b, c, d] = own;
    Ok(if error == errno(P1Errno::Success) {
        Ok(i32::from_le_bytes([a, b, c, d]))
    } else {
        Err(error)
    })
}

async fn close(wasi: &mut WasiP1Ctx, number: i32) -> wasmtime::Result<()> {
    // That there is no such number is no trap.
    let _ = fd_close(wasi, &mut GuestMemory::Unshared(&mut []), number).await?;
    Ok(())
}

fn descriptors(wasi: &mut WasiP1Ctx) -> impl Iterator<Item = &mut Descriptor> {
    let entries = wasi.ctx().table.iter_mut();
    entries.filter_map(|entry| (entry as &mut dyn Any).downcast_mut())
}

fn addresses(wasi: &mut WasiP1Ctx) -> HashSet<usize> {
    descriptors(wasi).map(|known| address(known)).collect()
}

fn address(descriptor: &Descriptor) -> usize {
    match descriptor {
        Descriptor::File(file) => Arc::as_ptr(&file.file).addr(),
        Descriptor::Dir(dir) => Arc::as_ptr(&dir.dir).addr(),
    }
}

/// What was opened since.
fn fresh<'a>(wasi: &'a mut WasiP1Ctx, known: &HashSet<usize>) -> Option<&'a mut Descriptor> {
    descriptors(wasi).find(|descriptor| !known.contains(&address(descriptor)))
}
