//! A TCP proxy that does to connections what networks do.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rune_runtime::Tasks;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy};
use tokio::net::{TcpListener, TcpStream};

/// Bytes that a slow network takes at once.
const MOUTHFUL: usize = 64;

#[derive(Default)]
pub(crate) struct Behaviour {
    /// So many connections are closed when the answer has come and before it is passed on.
    pub(crate) lost_answers: AtomicU32,
    /// So many connections are closed in the middle of an answer.
    pub(crate) cut_answers: AtomicU32,
    /// So many connections are closed at once.
    pub(crate) refused: AtomicU32,
    /// How long every mouthful takes, where the network is slow.
    pub(crate) pause: Option<Duration>,
    /// Answers that came from behind, lost ones included.
    pub(crate) answers: AtomicU32,
}

pub(crate) struct Proxy {
    pub(crate) addr: SocketAddr,
    pub(crate) behaviour: Arc<Behaviour>,
    target: Arc<Mutex<SocketAddr>>,
    tasks: Tasks,
}

impl Proxy {
    pub(crate) async fn start(target: SocketAddr, behaviour: Behaviour) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = Self {
            addr: listener.local_addr().unwrap(),
            behaviour: Arc::new(behaviour),
            target: Arc::new(Mutex::new(target)),
            tasks: Tasks::new(),
        };
        let (behaviour, target) = (Arc::clone(&proxy.behaviour), Arc::clone(&proxy.target));
        let (tasks, shutdown) = (proxy.tasks.clone(), proxy.tasks.shutdown());
        proxy.tasks.spawn("proxy", async move {
            while let Some(Ok((stream, _))) = shutdown.run_until_cancelled(listener.accept()).await
            {
                let target = *target.lock().unwrap();
                let pass = pass(stream, target, Arc::clone(&behaviour));
                let shutdown = shutdown.clone();
                tasks.spawn("connection", async move {
                    shutdown.run_until_cancelled(pass).await;
                });
            }
        });
        proxy
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    pub(crate) fn lead_to(&self, target: SocketAddr) {
        *self.target.lock().unwrap() = target;
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.tasks.shutdown().cancel();
    }
}

fn take(count: &AtomicU32) -> bool {
    let taken = count.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
        left.checked_sub(1)
    });
    taken.is_ok()
}

async fn pass(mut near: TcpStream, target: SocketAddr, behaviour: Arc<Behaviour>) {
    if take(&behaviour.refused) {
        return;
    }
    let Ok(mut far) = TcpStream::connect(target).await else {
        return;
    };
    let (mut near_read, mut near_write) = near.split();
    let (mut far_read, mut far_write) = far.split();
    let out = async {
        match behaviour.pause {
            None => {
                let _ = copy(&mut near_read, &mut far_write).await;
            }
            Some(pause) => {
                let mut bytes = [0; MOUTHFUL];
                while let Ok(read @ 1..) = near_read.read(&mut bytes).await {
                    tokio::time::sleep(pause).await;
                    if far_write.write_all(&bytes[..read]).await.is_err() {
                        return;
                    }
                }
            }
        }
        let _ = far_write.shutdown().await;
    };
    let back = async {
        let mut bytes = vec![0; 64 << 10];
        while let Ok(read @ 1..) = far_read.read(&mut bytes).await {
            behaviour.answers.fetch_add(1, Ordering::SeqCst);
            if take(&behaviour.lost_answers) {
                return;
            }
            if take(&behaviour.cut_answers) {
                let _ = near_write.write_all(&bytes[..read - 1]).await;
                return;
            }
            if near_write.write_all(&bytes[..read]).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = back => {}
        // A half-closed connection still gets its answer.
        () = async { out.await; std::future::pending().await } => {}
    }
}
