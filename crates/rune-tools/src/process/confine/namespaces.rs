//! Namespaces of a process's own.

use std::fmt::Display;
use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Command, ExitCode, Stdio};

use rustix::fs::{FileType, fchown, fstat};
use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with,
};
use rustix::process::{getegid, geteuid};
use rustix::thread::{
    CapabilitySet, Gid, LinkNameSpaceType, Uid, UnshareFlags, capabilities,
    configure_capability_in_ambient_set, move_into_link_name_space, set_capabilities,
    set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

use super::super::launcher::{Confinement, Network};
use super::super::serve::{Role, own_command};
use super::{missing, sys, tree};

/// The user of processes whose daemon is root: nobody has this id, and no file belongs to it. The kernel limits the number of
/// processes of every user but root.
const NOBODY: u32 = 0x7fff_0000;

/// Enters them and builds the tree.
pub(super) fn enter(confinement: &Confinement, stdin: BorrowedFd<'_>) -> Result<(), String> {
    let attachments = if is_root() {
        // Root can hand files to another user, and can do so only before it has become that one.
        let namespace = foreign_namespace().map_err(lacks)?;
        let attachments = tree::gather(confinement, Some(namespace.as_fd()))?;
        for pipe in [stdin, io::stdout().as_fd(), io::stderr().as_fd()] {
            give_away(pipe).map_err(lacks)?;
        }
        become_user_of(&namespace).map_err(lacks)?;
        unshare(confinement, UnshareFlags::empty()).map_err(lacks)?;
        attachments
    } else {
        let (user, group) = (geteuid().as_raw(), getegid().as_raw());
        unshare(confinement, UnshareFlags::NEWUSER).map_err(lacks)?;
        stay_user(user, group).map_err(lacks)?;
        tree::gather(confinement, None)?
    };
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).map_err(lacks)?;
    tree::attach(attachments, confinement.limits.memory)?;
    keep_capabilities().map_err(lacks)
}

fn lacks(error: impl Display) -> String {
    missing("namespaces", error)
}

/// Whether this is root, and not only in a user namespace that has no other users.
fn is_root() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let has_nobody = map.lines().any(|line| {
        let mut numbers = line.split_whitespace().map(str::parse::<u64>);
        match (numbers.next(), numbers.nth(1)) {
            (Some(Ok(first)), Some(Ok(count))) => {
                first <= NOBODY.into() && u64::from(NOBODY) - first < count
            }
            _ => false,
        }
    });
    geteuid().is_root() && has_nobody
}

fn unshare(confinement: &Confinement, more: UnshareFlags) -> io::Result<()> {
    let mut flags = more
        | UnshareFlags::NEWNS
        | UnshareFlags::NEWPID
        | UnshareFlags::NEWIPC
        | UnshareFlags::NEWUTS;
    if confinement.network != Network::Open {
        flags |= UnshareFlags::NEWNET;
    }
    sys::unshare(flags)
}

/// A user namespace in which root is [`NOBODY`]. It takes a process to make one.
fn foreign_namespace() -> io::Result<OwnedFd> {
    let mut command: Command = own_command(Role::UserNamespace)?;
    let mut holder = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut made = || -> io::Result<OwnedFd> {
        let mut said = [0];
        let stdout = holder.stdout.take();
        stdout
            .ok_or(io::ErrorKind::BrokenPipe)?
            .read_exact(&mut said)?;
        let dir = format!("/proc/{}", holder.id());
        for map in ["gid_map", "uid_map"] {
            fs::write(format!("{dir}/{map}"), format!("0 {NOBODY} 1"))?;
        }
        Ok(fs::File::open(format!("{dir}/ns/user"))?.into())
    };
    let made = made();
    // It ends with its standard input.
    drop(holder.stdin.take());
    holder.wait()?;
    made
}

/// Is the process that makes a user namespace and waits until it has been found.
pub(in crate::process) fn user_namespace() -> ExitCode {
    let made = || -> io::Result<()> {
        sys::unshare(UnshareFlags::NEWUSER)?;
        let mut stdout = io::stdout();
        stdout.write_all(b"+")?;
        stdout.flush()?;
        io::stdin().read_to_end(&mut Vec::new()).map(drop)
    };
    if made().is_ok() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Has a pipe belong to [`NOBODY`], who may then open it by its name, such as `/dev/stdin`.
fn give_away(pipe: BorrowedFd<'_>) -> rustix::io::Result<()> {
    if FileType::from_raw_mode(fstat(pipe)?.st_mode) != FileType::Fifo {
        return Ok(());
    }
    let (user, group) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
    fchown(pipe, Some(user), Some(group))
}

fn become_user_of(namespace: &OwnedFd) -> io::Result<()> {
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::User))?;
    set_thread_groups(&[])?;
    let (group, user) = (Gid::ROOT, Uid::ROOT);
    set_thread_res_gid(group, group, group)?;
    set_thread_res_uid(user, user, user)?;
    Ok(())
}

fn stay_user(user: u32, group: u32) -> io::Result<()> {
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("{user} {user} 1"))?;
    fs::write("/proc/self/gid_map", format!("{group} {group} 1"))
}

/// The first process of the namespaces gets what it needs to mount `/proc` and to give everything up.
fn keep_capabilities() -> io::Result<()> {
    let mut sets = capabilities(None)?;
    for needed in [CapabilitySet::SYS_ADMIN, CapabilitySet::SETPCAP] {
        sets.inheritable |= needed;
        set_capabilities(None, sets)?;
        configure_capability_in_ambient_set(needed, true)?;
    }
    Ok(())
}

/// Has the loopback device of this network answer: `RTM_NEWLINK` with `IFF_UP` for the first device.
pub(super) fn loopback_up() -> io::Result<()> {
    const RTM_NEWLINK: u16 = 16;
    const REQUEST_WITH_ANSWER: u16 = 1 | 4;
    const NLMSG_ERROR: u16 = 2;
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        // NETLINK_ROUTE, which is 0.
        None,
    )?;
    let mut message = Vec::with_capacity(32);
    // struct nlmsghdr: length, type, flags, sequence, port.
    message.extend(32_u32.to_ne_bytes());
    message.extend(RTM_NEWLINK.to_ne_bytes());
    message.extend(REQUEST_WITH_ANSWER.to_ne_bytes());
    message.extend(1_u32.to_ne_bytes());
    message.extend(0_u32.to_ne_bytes());
    // struct ifinfomsg: family, padding, type, index, flags, which flags change.
    message.extend([0; 4]);
    message.extend(1_i32.to_ne_bytes());
    message.extend(1_u32.to_ne_bytes());
    message.extend(1_u32.to_ne_bytes());
    let kernel = SocketAddrNetlink::new(0, 0);
    sendto(&socket, &message, SendFlags::empty(), &kernel)?;
    let mut answer = [0_u8; 256];
    let (count, _) = recv(&socket, &mut answer[..], RecvFlags::empty())?;
    // struct nlmsgerr: header, error.
    let kind = answer.get(4..6).map(|bytes| [bytes[0], bytes[1]]);
    let error = answer.get(16..20).and_then(|bytes| bytes.try_into().ok());
    match (kind.map(u16::from_ne_bytes), error.map(i32::from_ne_bytes)) {
        (Some(NLMSG_ERROR), Some(0)) if count >= 20 => Ok(()),
        (Some(NLMSG_ERROR), Some(error)) => Err(io::Error::from_raw_os_error(-error)),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}
