//! seccomp: the system calls that a tool has no use for.
//!
//! A call that is refused fails with `EPERM`, so that programs that only try go on; one that would hide what it asks for
//! (`clone3`), or memory from who counts it, is unknown to the program. Calls of another architecture kill it.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter, sock_filter,
};

use super::super::launcher::Network;

/// Of no use to a tool: they change the system, look into other processes, or open parts of the kernel that few have looked at.
const REFUSED: &[libc::c_long] = &[
    libc::SYS_acct,
    libc::SYS_add_key,
    libc::SYS_adjtimex,
    libc::SYS_bpf,
    libc::SYS_chroot,
    libc::SYS_clock_adjtime,
    libc::SYS_clock_settime,
    libc::SYS_delete_module,
    libc::SYS_fanotify_init,
    libc::SYS_finit_module,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_init_module,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
    libc::SYS_kcmp,
    libc::SYS_kexec_file_load,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_lookup_dcookie,
    libc::SYS_mount,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_move_pages,
    libc::SYS_name_to_handle_at,
    libc::SYS_nfsservctl,
    libc::SYS_open_by_handle_at,
    libc::SYS_open_tree,
    libc::SYS_perf_event_open,
    libc::SYS_pidfd_getfd,
    libc::SYS_pivot_root,
    libc::SYS_process_madvise,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_ptrace,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_setdomainname,
    libc::SYS_sethostname,
    libc::SYS_setns,
    libc::SYS_settimeofday,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_syslog,
    libc::SYS_umount2,
    libc::SYS_unshare,
    libc::SYS_userfaultfd,
    libc::SYS_vhangup,
];

#[cfg(target_arch = "x86_64")]
const REFUSED_HERE: &[libc::c_long] = &[
    libc::SYS_ioperm,
    libc::SYS_iopl,
    libc::SYS_modify_ldt,
    libc::SYS_uselib,
    libc::SYS_ustat,
    libc::SYS__sysctl,
];
#[cfg(not(target_arch = "x86_64"))]
const REFUSED_HERE: &[libc::c_long] = &[];

/// Unknown to a tool, which has another way: `clone`, whose flags are looked at, and files in `/dev/shm`, which has a size. What
/// is in a file without a name counts for no process that has not mapped it.
const UNKNOWN: [libc::c_long; 3] = [
    libc::SYS_clone3,
    libc::SYS_memfd_create,
    libc::SYS_memfd_secret,
];

/// Namespaces that `clone` would make; `unshare` is refused as a whole.
const NAMESPACES: [libc::c_int; 7] = [
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWNET,
    libc::CLONE_NEWNS,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWUTS,
];

/// From this number on, system calls of x86-64 are those of its other ABI, under other numbers.
const X32: u32 = 0x4000_0000;

/// Refuses them to this process and whatever it starts.
pub(super) fn restrict(network: Network) -> Result<(), String> {
    let refused = program(refused(network)?, libc::EPERM)?;
    let unknown = UNKNOWN.map(|call| (call, Vec::new()));
    let unknown = program(BTreeMap::from(unknown), libc::ENOSYS)?;
    for filter in [&refused, &unknown] {
        apply_filter(filter).map_err(|error| error.to_string())?;
    }
    Ok(())
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

fn refused(network: Network) -> Result<Rules, String> {
    let all = REFUSED.iter().chain(REFUSED_HERE);
    let mut rules: Rules = all.map(|call| (*call, Vec::new())).collect();
    let mut clones = Vec::new();
    for flag in NAMESPACES {
        let flag = u64::from(flag.unsigned_abs());
        clones.push(rule(&[(0, SeccompCmpOp::MaskedEq(flag), flag)])?);
    }
    rules.insert(libc::SYS_clone, clones);
    // Typing into a terminal.
    let typing = [libc::TIOCSTI, libc::TIOCLINUX];
    let typing = typing.map(|request| rule(&[(1, SeccompCmpOp::Eq, request)]));
    rules.insert(
        libc::SYS_ioctl,
        typing.into_iter().collect::<Result<_, _>>()?,
    );
    rules.insert(libc::SYS_socket, sockets(network)?);
    // The kernel makes both sockets before it finds that a family has no pairs.
    let pairs = rule(&[(0, SeccompCmpOp::Ne, code(libc::AF_UNIX))])?;
    rules.insert(libc::SYS_socketpair, vec![pairs]);
    Ok(rules)
}

/// The sockets that are refused.
fn sockets(network: Network) -> Result<Vec<SeccompRule>, String> {
    let internet = [libc::AF_INET, libc::AF_INET6];
    let mut families = vec![libc::AF_UNIX];
    if network != Network::None {
        families.extend(internet);
    }
    if network == Network::Open {
        families.push(libc::AF_NETLINK);
    }
    let others = families
        .iter()
        .map(|family| (0, SeccompCmpOp::Ne, code(*family)));
    let mut refused = vec![rule(&others.collect::<Vec<_>>())?];
    if network == Network::Filtered {
        let kinds = [
            libc::SOCK_DGRAM,
            libc::SOCK_RAW,
            libc::SOCK_RDM,
            libc::SOCK_SEQPACKET,
        ];
        for family in internet {
            for kind in kinds {
                refused.push(rule(&[
                    (0, SeccompCmpOp::Eq, code(family)),
                    (1, SeccompCmpOp::MaskedEq(0xf), code(kind)),
                ])?);
            }
        }
    }
    Ok(refused)
}

fn code(number: libc::c_int) -> u64 {
    number.unsigned_abs().into()
}

/// Argument, comparison, value; all of them must hold.
fn rule(conditions: &[(u8, SeccompCmpOp, u64)]) -> Result<SeccompRule, String> {
    let conditions = conditions.iter().map(|(argument, operator, value)| {
        SeccompCondition::new(*argument, SeccompCmpArgLen::Dword, operator.clone(), *value)
    });
    let conditions = conditions.collect::<Result<Vec<_>, _>>();
    conditions
        .and_then(SeccompRule::new)
        .map_err(|error| error.to_string())
}

fn program(rules: Rules, errno: libc::c_int) -> Result<BpfProgram, String> {
    let error = |error: seccompiler::BackendError| error.to_string();
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(error)?;
    let refuse = SeccompAction::Errno(errno.unsigned_abs());
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refuse, arch).map_err(error)?;
    let filter: BpfProgram = filter.try_into().map_err(error)?;
    Ok(without_x32().into_iter().chain(filter).collect())
}

/// In front of a program: what has a number from [`X32`] on is refused.
fn without_x32() -> [sock_filter; 3] {
    const LOAD: u16 = 0x20;
    const JUMP_IF_LESS_SKIP: u16 = 0x35;
    const RETURN: u16 = 0x06;
    const ERRNO: u32 = 0x0005_0000;
    let step = |code, jt, jf, k| sock_filter { code, jt, jf, k };
    [
        // The number of the call is the first field.
        step(LOAD, 0, 0, 0),
        step(JUMP_IF_LESS_SKIP, 0, 1, X32),
        step(RETURN, 0, 0, ERRNO | libc::EPERM.unsigned_abs()),
    ]
}
