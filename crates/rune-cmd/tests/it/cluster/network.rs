//! A network of this test alone: machines that are network namespaces, with a switch between them that is another one.

use std::fs::File;
use std::io::{self, Read as _};
use std::net::Ipv4Addr;
use std::os::fd::AsFd as _;
use std::process::{Child, Command, Stdio};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::runtime::{Builder, Runtime};

/// Machines that reach each other until it is said otherwise.
pub(crate) struct Network {
    machines: Vec<Namespace>,
    _switch: Namespace,
}

impl Network {
    /// So many machines, where this process may make them. Says on standard error what is in the way.
    pub(crate) fn find(size: usize) -> Option<Self> {
        match Self::new(size) {
            Ok(network) => Some(network),
            Err(why) => {
                rune_testkit::skip(&format!(
                    "no network namespaces (root, iproute2, iptables): {why}"
                ));
                None
            }
        }
    }

    fn new(size: usize) -> io::Result<Self> {
        let switch = Namespace::new()?;
        switch.run("ip link add switch type bridge")?;
        switch.run("ip link set switch up")?;
        let mut machines = Vec::new();
        for at in 0..size {
            let machine = Namespace::new()?;
            let (keeper, addr) = (machine.keeper.id(), addr(at));
            switch.run(&format!(
                "ip link add port{at} type veth peer name eth0 netns {keeper}"
            ))?;
            switch.run(&format!("ip link set port{at} master switch up"))?;
            machine.run("ip link set lo up")?;
            machine.run(&format!("ip addr add {addr}/24 dev eth0"))?;
            machine.run("ip link set eth0 up")?;
            machine.run("iptables -w -F")?;
            machines.push(machine);
        }
        Ok(Self {
            machines,
            _switch: switch,
        })
    }

    /// What this does is done on a machine: the sockets and the processes that it makes are there.
    pub(crate) async fn on<F>(&self, at: usize, work: F) -> F::Output
    where
        F: Future<Output: Send> + Send + 'static,
    {
        self.spawn(at, work).await.unwrap()
    }

    /// The same beside the test, which waits for its end.
    pub(crate) fn spawn<F>(&self, at: usize, work: F) -> tokio::task::JoinHandle<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        self.machines[at].runtime.as_ref().unwrap().spawn(work)
    }

    /// Nothing that one machine sends gets to another one any more. What that one sends gets here, as far as it can be sent
    /// without an answer.
    pub(crate) fn cut(&self, from: usize, to: usize) {
        self.drop_some(from, to, "");
    }

    /// Neither gets anything of these others any more, nor they of it.
    pub(crate) fn cut_off(&self, at: usize) {
        for other in (0..self.machines.len()).filter(|other| *other != at) {
            self.cut(at, other);
            self.cut(other, at);
        }
    }

    /// A part of what one machine sends does not get to another one.
    pub(crate) fn lose(&self, from: usize, to: usize, part: f64) {
        self.drop_some(
            from,
            to,
            &format!("-m statistic --mode random --probability {part}"),
        );
    }

    /// A machine sends no more than this in a second.
    pub(crate) fn throttle(&self, at: usize, kilobits: u32) {
        let line =
            format!("tc qdisc add dev eth0 root tbf rate {kilobits}kbit burst 16kb latency 200ms");
        self.machines[at].run(&line).unwrap();
    }

    /// What a machine sends gets to the others later; `false` where this kernel has no such thing.
    pub(crate) fn delay(&self, at: usize, millis: u32) -> bool {
        let line = format!("tc qdisc add dev eth0 root netem delay {millis}ms");
        self.machines[at].run(&line).is_ok()
    }

    /// Everything is as it was.
    pub(crate) fn heal(&self) {
        for machine in &self.machines {
            machine.run("iptables -w -F").unwrap();
            // There may be none.
            let _ = machine.run("tc qdisc del dev eth0 root");
        }
    }

    fn drop_some(&self, from: usize, to: usize, which: &str) {
        let from = addr(from);
        let line = format!("iptables -w -A INPUT -s {from} {which} -j DROP");
        self.machines[to].run(&line).unwrap();
    }
}

/// Where the others reach a machine.
pub(crate) fn addr(at: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, u8::try_from(at).unwrap() + 1)
}

/// A network namespace, gone with this value and with the process of the test.
struct Namespace {
    /// A process in it, which ends with its input.
    keeper: Child,
    /// Its threads are in it.
    runtime: Option<Runtime>,
}

impl Namespace {
    fn new() -> io::Result<Self> {
        let keeper = Command::new("unshare")
            .args(["--net", "sh", "-c", "echo; exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let mut namespace = Self {
            keeper,
            runtime: None,
        };
        // Before it says something it is not there.
        let said = namespace.keeper.stdout.as_mut();
        said.unwrap().read_exact(&mut [0])?;
        let link = File::open(format!("/proc/{}/ns/net", namespace.keeper.id()))?;
        let entered = std::thread::spawn(move || {
            move_into_link_name_space(link.as_fd(), Some(LinkNameSpaceType::Network))?;
            // The threads that a thread makes are where it is.
            Builder::new_multi_thread()
                .worker_threads(1)
                .enable_all()
                .build()
        });
        namespace.runtime = Some(entered.join().unwrap()?);
        Ok(namespace)
    }

    /// Runs a command in it.
    fn run(&self, line: &str) -> io::Result<()> {
        let output = Command::new("nsenter")
            .args(["--net", "--target", &self.keeper.id().to_string()])
            .args(line.split_whitespace())
            .output()?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(io::Error::other(format!("`{line}`: {}", said.trim())))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
        // It may have ended by itself.
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
    }
}
