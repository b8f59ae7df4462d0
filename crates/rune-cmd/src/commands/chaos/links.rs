//! What is between the nodes: each is reached through a proxy that knows which node it is that connects, and can hold
//! back or slow down what one of them sends to another.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rune_runtime::Tasks;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::failure::{Failure, Outcome};

/// Bytes that are carried at once: with the delay of a line that is slow they bound how much gets through.
const CHUNK: usize = 16 << 10;

/// How what one node sends gets to another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Line {
    /// As it is sent.
    #[default]
    Whole,
    /// Later, each part of it.
    Slow(Duration),
    /// Not before the line is another one. Nobody is told, as where packets are lost.
    Cut,
}

/// The lines between nodes. They end with the tasks that they are.
#[derive(Clone)]
pub(super) struct Links(Arc<Inner>);

struct Inner {
    /// Where each node is reached.
    addrs: Vec<SocketAddr>,
    /// The processes of the nodes; 0 where none runs.
    pids: Vec<AtomicU32>,
    /// From a node to another one.
    lines: Vec<Vec<watch::Sender<Line>>>,
}

impl Links {
    /// Lines between nodes that listen themselves at these addresses.
    pub(super) async fn open(targets: &[SocketAddr], tasks: &Tasks) -> Outcome<Self> {
        let failed = |error: std::io::Error| Failure::because("cannot open a proxy", &error);
        let (mut addrs, mut listeners) = (Vec::new(), Vec::new());
        for _ in targets {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
            let listener = listener.await.map_err(failed)?;
            addrs.push(listener.local_addr().map_err(failed)?);
            listeners.push(listener);
        }
        let row = || targets.iter().map(|_| watch::Sender::default()).collect();
        let links = Self(Arc::new(Inner {
            addrs,
            pids: targets.iter().map(|_| AtomicU32::new(0)).collect(),
            lines: targets.iter().map(|_| row()).collect(),
        }));
        for (to, (listener, target)) in listeners.into_iter().zip(targets).enumerate() {
            let serve = links.clone().serve(to, listener, *target, tasks.clone());
            let serve = tasks.shutdown().run_until_cancelled_owned(serve);
            tasks.spawn("chaos-links", serve);
        }
        Ok(links)
    }

    /// Where the others reach a node.
    pub(super) fn addr(&self, node: usize) -> SocketAddr {
        self.0.addrs[node]
    }

    /// Says which process a node is now.
    pub(super) fn is_process(&self, node: usize, pid: u32) {
        self.0.pids[node].store(pid, Ordering::Relaxed);
    }

    /// Makes the line from a node to another one such a one.
    pub(super) fn set(&self, from: usize, to: usize, line: Line) {
        self.0.lines[from][to].send_replace(line);
    }

    /// Makes every line whole.
    pub(super) fn heal(&self) {
        for line in self.0.lines.iter().flatten() {
            line.send_replace(Line::Whole);
        }
    }

    async fn serve(self, to: usize, listener: TcpListener, target: SocketAddr, tasks: Tasks) {
        while let Ok((stream, peer)) = listener.accept().await {
            let carry = self.clone().carry(to, stream, peer, target);
            let carry = tasks.shutdown().run_until_cancelled_owned(carry);
            tasks.spawn("chaos-link", carry);
        }
    }

    async fn carry(self, to: usize, stream: TcpStream, peer: SocketAddr, target: SocketAddr) {
        let pids = self.0.pids.iter().map(|pid| pid.load(Ordering::Relaxed));
        let pids: Vec<u32> = pids.collect();
        // One that is gone meanwhile needs no answer.
        let Some(from) = owner(&pids, peer, self.addr(to)) else {
            return;
        };
        let mut forth = self.0.lines[from][to].subscribe();
        let back = self.0.lines[to][from].subscribe();
        passable(&mut forth).await;
        let Ok(there) = TcpStream::connect(target).await else {
            return;
        };
        if stream
            .set_nodelay(true)
            .and(there.set_nodelay(true))
            .is_err()
        {
            return;
        }
        let ((near_in, near_out), (far_in, far_out)) = (stream.into_split(), there.into_split());
        tokio::select! {
            () = pass(near_in, far_out, forth) => {}
            () = pass(far_in, near_out, back) => {}
        }
    }
}

/// Waits until something gets through a line, and says how much later it does.
async fn passable(line: &mut watch::Receiver<Line>) -> Duration {
    match line.wait_for(|line| *line != Line::Cut).await.as_deref() {
        Ok(Line::Slow(delay)) => *delay,
        _ => Duration::ZERO,
    }
}

/// Carries bytes until there are no more.
async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut line: watch::Receiver<Line>) {
    let mut chunk = vec![0; CHUNK];
    while let Ok(count @ 1..) = from.read(&mut chunk).await {
        let delay = passable(&mut line).await;
        tokio::time::sleep(delay).await;
        if to.write_all(&chunk[..count]).await.is_err() {
            return;
        }
    }
}

/// Which of these processes has the end of a connection that is at `from`.
fn owner(pids: &[u32], from: SocketAddr, to: SocketAddr) -> Option<usize> {
    let (SocketAddr::V4(from), SocketAddr::V4(to)) = (from, to) else {
        return None;
    };
    let table = std::fs::read_to_string("/proc/net/tcp").ok()?;
    let socket = format!("socket:[{}]", inode(&table, from, to)?);
    let has = |pid: &u32| {
        let files = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter();
        let links = files
            .flatten()
            .flatten()
            .map(|file| file.path().read_link());
        links
            .flatten()
            .any(|link| link.as_os_str() == socket.as_str())
    };
    pids.iter().position(|pid| *pid != 0 && has(pid))
}

/// The number of a socket in the kernel's table of connections.
fn inode(table: &str, from: SocketAddrV4, to: SocketAddrV4) -> Option<&str> {
    let place = |addr: SocketAddrV4| {
        let ip = u32::from_ne_bytes(addr.ip().octets());
        format!("{ip:08X}:{:04X}", addr.port())
    };
    let (from, to) = (place(from), place(to));
    table.lines().find_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let is_it = fields.next()? == from && fields.next()? == to;
        // State, queues, timer, retransmits, user and timeout are between.
        fields.nth(6).filter(|_| is_it)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A client of the line from node 0 to node 1, and what is at the other end.
    async fn connected(tasks: &Tasks) -> (Links, TcpStream, TcpStream) {
        let target = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let addr = target.local_addr().unwrap();
        let links = Links::open(&[addr, addr], tasks).await.unwrap();
        links.is_process(0, std::process::id());
        let near = TcpStream::connect(links.addr(1)).await.unwrap();
        let (far, _) = target.accept().await.unwrap();
        (links, near, far)
    }

    async fn says(stream: &mut TcpStream) -> u8 {
        stream.read_u8().await.unwrap()
    }

    #[tokio::test]
    async fn a_line_that_is_cut_carries_nothing_one_way_until_it_is_healed() {
        let tasks = Tasks::new();
        let (links, mut near, mut far) = connected(&tasks).await;
        near.write_u8(1).await.unwrap();
        assert_eq!(says(&mut far).await, 1);
        links.set(0, 1, Line::Cut);
        near.write_u8(2).await.unwrap();
        // The other way is as it was.
        far.write_u8(3).await.unwrap();
        assert_eq!(says(&mut near).await, 3);
        let nothing = far.try_read(&mut [0]).unwrap_err();
        assert_eq!(nothing.kind(), std::io::ErrorKind::WouldBlock);
        links.heal();
        assert_eq!(says(&mut far).await, 2);
        links.set(0, 1, Line::Slow(Duration::from_millis(1)));
        near.write_u8(4).await.unwrap();
        assert_eq!(says(&mut far).await, 4);
        assert!(tasks.stop(Duration::from_secs(10)).await);
    }

    #[tokio::test]
    async fn who_connects_is_known_by_the_process() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let to = listener.local_addr().unwrap();
        let near = TcpStream::connect(to).await.unwrap();
        let (_far, from) = listener.accept().await.unwrap();
        let own = std::process::id();
        assert_eq!(owner(&[0, own], from, to), Some(1));
        assert_eq!(owner(&[0, u32::MAX], from, to), None);
        assert_eq!(owner(&[own], from, from), None);
        drop(near);
    }
}
