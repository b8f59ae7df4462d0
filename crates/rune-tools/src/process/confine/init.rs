//! The process between the launcher and the tool: the first of the namespaces.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::process::{
    DumpableBehavior, Resource, Rlimit, Signal, WaitOptions, chdir, getpid, getrlimit,
    kill_process_group, pivot_root, set_dumpable_behavior, set_parent_process_death_signal,
    setrlimit, setsid, wait,
};
use rustix::thread::{
    CapabilitySet, CapabilitySets, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
};
use tokio::signal::unix::{SignalKind, signal};

use super::super::fds;
use super::super::launcher::LaunchReport;
use super::super::reach::ProcessLimits;
use super::{Orders, STAGING, missing, rules, seccomp, watch};

/// What counts as a process of the tool and is none: the launcher, this process and its two threads.
const OWN_PROCESSES: u64 = 4;

/// Is that process.
pub(in crate::process) fn init() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Where the launcher hears of the end, once.
#[derive(Clone)]
pub(super) struct Reports(Arc<Mutex<Option<UnixStream>>>);

impl Reports {
    pub(super) fn send(&self, report: &LaunchReport) {
        let socket = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let (Some(mut socket), Ok(report)) = (socket, serde_json::to_vec(report)) {
            // Without a launcher there is nobody to tell.
            let _ = socket.write_all(&report);
        }
    }
}

fn run() -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let mut control = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let (orders, input) = read(&mut control)?;
    let has_namespaces = orders.confinement.parts.namespaces;
    let reports = Reports(Arc::new(Mutex::new(Some(control))));
    // Without namespaces a polite signal reaches this process, too; it is meant for the tool.
    let runtime = (!has_namespaces)
        .then(|| {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
        })
        .transpose()?;
    let _terminate = runtime
        .as_ref()
        .map(|runtime| {
            let _inside = runtime.enter();
            signal(SignalKind::terminate())
        })
        .transpose()?;
    let report = match restrict(&orders) {
        Err(why) => LaunchReport::Refused(why),
        Ok(()) => match start(&orders, input) {
            Err(error) => LaunchReport::not_started(&error),
            Ok(child) => {
                if has_namespaces {
                    watch::start(orders.confinement.limits, reports.clone())?;
                }
                LaunchReport::Ended(wait_for(&child)?)
            }
        },
    };
    reports.send(&report);
    if !has_namespaces {
        // What it left behind in its group, and this process.
        kill_process_group(getpid(), Signal::KILL)?;
    }
    Ok(())
}

fn read(control: &mut UnixStream) -> io::Result<(Orders, OwnedFd)> {
    let (json, input) = fds::receive_message(control)?;
    // A launcher that ended before it was known that this process is to end with it has closed its end.
    control.set_nonblocking(true)?;
    if matches!(control.read(&mut [0]), Ok(0)) {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    control.set_nonblocking(false)?;
    Ok((serde_json::from_slice(&json)?, input))
}

/// Gives up everything that the tool is not granted. The error names the part that failed.
fn restrict(orders: &Orders) -> Result<(), String> {
    let confinement = &orders.confinement;
    let parts = confinement.parts;
    if parts.namespaces {
        enter_tree().map_err(|error| missing("namespaces", error))?;
        give_up_capabilities().map_err(|error| missing("capabilities", error))?;
    }
    set_no_new_privs(true).map_err(|error| missing("no_new_privs", error))?;
    let undumped = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    undumped.map_err(|error| missing("core dumps", error))?;
    let limited = limit(&confinement.limits, parts.namespaces);
    limited.map_err(|error| missing("limits", error))?;
    if parts.landlock {
        rules::restrict(confinement, &orders.stage)?;
    }
    if parts.seccomp {
        let restricted = seccomp::restrict(confinement.network);
        restricted.map_err(|error| missing("seccomp", error))?;
    }
    Ok(())
}

fn enter_tree() -> io::Result<()> {
    setsid()?;
    let proc = format!("{STAGING}/proc");
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC | MountFlags::RDONLY;
    mount("proc", proc.as_str(), "proc", flags, None)
        .map_err(|error| io::Error::other(format!("/proc: {error}")))?;
    chdir(STAGING)?;
    pivot_root(".", ".")?;
    unmount(".", UnmountFlags::DETACH)?;
    chdir("/")?;
    Ok(())
}

fn give_up_capabilities() -> rustix::io::Result<()> {
    for capability in CapabilitySet::all().iter() {
        match remove_capability_from_bounding_set(capability) {
            // This kernel does not know it.
            Ok(()) | Err(rustix::io::Errno::INVAL) => {}
            Err(error) => return Err(error),
        }
    }
    clear_ambient_capability_set()?;
    let nothing = CapabilitySet::empty();
    set_capabilities(
        None,
        CapabilitySets {
            effective: nothing,
            permitted: nothing,
            inheritable: nothing,
        },
    )
}

fn limit(limits: &ProcessLimits, is_own_user: bool) -> rustix::io::Result<()> {
    let mut all = vec![
        (Resource::Core, 0),
        (Resource::Data, limits.memory),
        (Resource::Fsize, limits.file),
        (Resource::Nofile, limits.open_files),
        (Resource::Memlock, 64 << 10),
        (Resource::Msgqueue, 0),
    ];
    if is_own_user {
        // Of others, too, where it is not a user of its own.
        all.push((Resource::Nproc, limits.processes + OWN_PROCESSES));
    }
    if let Some(cpu) = limits.cpu {
        all.push((Resource::Cpu, cpu.as_secs() + 1));
    }
    for (resource, most) in all {
        let most = getrlimit(resource).maximum.unwrap_or(u64::MAX).min(most);
        let most = Some(most);
        setrlimit(
            resource,
            Rlimit {
                current: most,
                maximum: most,
            },
        )?;
    }
    Ok(())
}

fn start(orders: &Orders, input: OwnedFd) -> io::Result<Child> {
    let (launch, stage) = (&orders.launch, &orders.stage);
    let mut command = Command::new(&launch.program);
    command
        .args(&launch.args)
        .env_clear()
        .envs(launch.env.iter().map(|(name, value)| (name, value)))
        .env("TMPDIR", &stage.tmp)
        .current_dir(&launch.cwd)
        .stdin(Stdio::from(input));
    if let Some(port) = stage.port {
        let proxy = format!("http://127.0.0.1:{port}");
        for name in ["http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"] {
            command.env(name, &proxy);
        }
        // Otherwise it connects itself, which it cannot.
        command.env("NODE_USE_ENV_PROXY", "1");
    }
    command.spawn()
}

/// Waits for the tool, and meanwhile for whatever it left to the first process of its namespace.
fn wait_for(child: &Child) -> io::Result<i32> {
    let id = i32::try_from(child.id()).map_err(io::Error::other)?;
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid.as_raw_nonzero().get() == id => {
                return Ok(status.as_raw());
            }
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
