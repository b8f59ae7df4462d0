//! The time for which a node leads.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use rune_cluster::{Member, Term};
use rune_env::Config;
use rune_gateway::{ClusterFront, Leading};
use rune_http::{Metrics, Readiness};
use rune_raft::Lead;
use rune_runtime::Tasks;
use rune_store_runtime::{Leadership, Store, SystemClock};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::super::listeners::Access;
use super::super::node::{Node, Place, Prepared};
use super::super::process::STOP_GRACE;
use super::super::process_backend::ProcessBackend;
use super::super::running::{Assembled, Host, Running};
use crate::commands::daemon::Backend;
use crate::failure::{Failure, Outcome, chain};

/// How long requests get to end before another node takes them up, where this one is to end.
const HAND_OVER_DRAIN: Duration = Duration::from_secs(1);
/// How long what runs gets to stop in good order then, with the replicas that end with this process.
const HAND_OVER_HALT: Duration = Duration::from_secs(1);
/// How long it is waited for until another node leads.
const HAND_OVER: Duration = Duration::from_secs(2);
/// Pause after an engine could not begin.
const FAILED_PAUSE: Duration = Duration::from_secs(1);

/// Has the engine run here whenever this node leads.
pub(super) struct Leader {
    pub(super) config: Config,
    pub(super) place: Place,
    pub(super) member: Arc<Member>,
    pub(super) front: ClusterFront,
    pub(super) backend: Backend,
    pub(super) access: Access,
    pub(super) gateway_addr: Option<SocketAddr>,
    pub(super) control_plane_addr: SocketAddr,
    pub(super) readiness: Readiness,
    pub(super) metrics: Metrics,
    /// Those of the process, which terms do not end.
    pub(super) tasks: Tasks,
}

/// An engine that is begun when this node leads next.
pub(super) struct Standby {
    term: Term,
    tasks: Tasks,
    engine: Made,
}

enum Made {
    /// With everything that is to run on it.
    Whole(Box<Assembled>),
    /// Without.
    Bare(Box<Node>),
}

impl Made {
    /// The replicas that end with this process.
    fn processes(&self) -> Option<Arc<ProcessBackend>> {
        match self {
            Self::Whole(assembled) => assembled.processes.clone(),
            Self::Bare(_) => None,
        }
    }
}

impl Leader {
    /// Makes the engine of the next term, which does nothing before it is begun: making it takes much longer than that.
    pub(super) async fn stand_by(&self) -> Outcome<Standby> {
        let (config, place) = (self.config.clone(), self.place.clone());
        let store = Store::new(self.member.store(), Arc::new(SystemClock));
        let tasks = self.tasks.clone();
        let made =
            tokio::task::spawn_blocking(move || Prepared::new(&config, &place, &store, &tasks));
        let mut prepared = made
            .await
            .map_err(|error| Failure::because("cannot prepare the engine", &error))??;
        prepared.blobs = Arc::new(self.member.objects().clone());
        let (term, tasks) = (self.member.next_term(), Tasks::held());
        let store = Arc::clone(&term.store);
        let node = Node::with(&self.config, prepared, store, tasks.clone());
        let engine = match self.backend {
            Backend::Wasm | Backend::Process => {
                let assembled = Box::pin(self.host().assemble(node)).await?;
                Made::Whole(Box::new(assembled))
            }
            // What connects to a platform is the leader's alone.
            Backend::Docker | Backend::Kubernetes => Made::Bare(Box::new(node)),
        };
        Ok(Standby {
            term,
            tasks,
            engine,
        })
    }

    /// Leads as often as this node is to, until it is to end; then another one does.
    pub(super) async fn lead_in_turn(&self, first: Standby, stop: CancellationToken) {
        let mut leader = self.member.leader();
        let mut standby = Some(first);
        loop {
            let next = match standby.take() {
                Some(next) => next,
                None => match self.stand_by().await {
                    Ok(next) => next,
                    Err(failure) => {
                        tracing::error!(why = failure.message(), "the engine cannot be prepared");
                        self.give_up().await;
                        tokio::select! {
                            () = stop.cancelled() => return,
                            () = tokio::time::sleep(FAILED_PAUSE) => continue,
                        }
                    }
                },
            };
            let lead = tokio::select! {
                lead = led(&mut leader) => lead,
                () = stop.cancelled() => return self.give_up().await,
            };
            let Some(lead) = lead else {
                return stop.cancelled().await;
            };
            Box::pin(self.lead(lead, next, &stop)).await;
            if stop.is_cancelled() {
                return;
            }
        }
    }

    /// Runs the engine as this leader, until the node is not that any more.
    async fn lead(&self, lead: Leadership, standby: Standby, stop: &CancellationToken) {
        let began = Instant::now();
        tracing::info!(term = lead.term, "this node leads");
        let Standby {
            term,
            tasks,
            engine,
        } = standby;
        term.begin(lead);
        // On every way out, and no sooner than somebody waits for it.
        let processes = engine.processes();
        let closing = async move {
            if let Some(processes) = processes {
                processes.close().await;
            }
        };
        let closing = closing.boxed().shared();
        let mut leader = self.member.leader();
        let over = async {
            tokio::select! {
                () = lost(&mut leader, lead) => {}
                () = term.deposed.cancelled() => {}
            }
        };
        tokio::pin!(over);
        let started = tokio::select! {
            biased;
            () = &mut over => None,
            () = stop.cancelled() => None,
            started = self.start(engine, &tasks) => Some(started),
        };
        let has_failed = matches!(started, Some(Err(_)));
        match started {
            Some(Ok(running)) => {
                let (recovered, after_ms) = (running.recovered, began.elapsed().as_millis());
                tracing::info!(
                    term = lead.term,
                    recovered,
                    after_ms,
                    "the engine runs here"
                );
                self.serve(running, over, stop, closing.clone()).await;
            }
            Some(Err(failure)) => tracing::error!(
                why = failure.message(),
                "the engine cannot run here; another node is to lead"
            ),
            None => {}
        }
        drop(self.tasks.spawn("replicas", closing.clone()));
        let ending = async {
            if !tasks.kill(STOP_GRACE).await {
                tracing::warn!(
                    tasks = tasks.len(),
                    "tasks of the engine did not end in time"
                );
            }
            tracing::info!(term = lead.term, "the engine has ended here");
        };
        // Every task is dropped before the other node is asked, which does not wait for those that take long to go.
        tokio::join!(ending, self.hand_over(lead));
        if stop.is_cancelled() {
            closing.await;
        } else if has_failed {
            let pause = tokio::time::sleep(FAILED_PAUSE);
            stop.run_until_cancelled(pause).await;
        }
    }

    /// Has both APIs be answered by an engine until its term is over, or this node is to end.
    async fn serve(
        &self,
        running: Running,
        over: impl Future<Output = ()>,
        stop: &CancellationToken,
        closing: impl Future<Output = ()>,
    ) {
        let Running {
            node,
            gateway,
            control_plane,
            ..
        } = running;
        let ended = CancellationToken::new();
        let gateway = gateway.unwrap_or_default();
        self.front
            .lead(Some(Leading::new(gateway, control_plane, ended.clone())));
        tokio::select! {
            biased;
            () = over => {
                self.front.lead(None);
                ended.cancel();
            }
            () = stop.cancelled() => {
                self.front.lead(None);
                let (drain, halt) = match self.member.node().has_successor() {
                    true => (HAND_OVER_DRAIN, HAND_OVER_HALT),
                    // Nobody waits for its turn.
                    false => (self.config.runtime.drain_grace, Duration::MAX),
                };
                if !node.engine.rest(drain).await {
                    let active = node.engine.active();
                    tracing::info!(active, "requests go on at another node");
                }
                // Who waits for an answer gets it from there, and not word of an interruption.
                ended.cancel();
                let halted = async {
                    node.engine.halt().await;
                    closing.await;
                };
                if tokio::time::timeout(halt, halted).await.is_err() {
                    tracing::info!("what does not stop in time is left to another node as it is");
                }
            }
        }
    }

    async fn start(&self, engine: Made, tasks: &Tasks) -> Outcome<Running> {
        // Everything that was written before is read from here on.
        let newest = self.member.node().linearizable().await;
        newest.map_err(|error| Failure::because("cannot read what was written", &error))?;
        tracing::debug!("what was written before is here");
        tasks.release();
        let assembled = match engine {
            Made::Whole(assembled) => *assembled,
            Made::Bare(node) => Box::pin(self.host().assemble(*node)).await?,
        };
        Ok(assembled.run(&self.config).await)
    }

    fn host(&self) -> Host<'_> {
        Host {
            config: &self.config,
            place: &self.place,
            backend: self.backend,
            access: &self.access,
            id: self.member.identity().node().to_string(),
            cluster: Some(self.member.identity().cluster()),
            gateway_addr: self.gateway_addr,
            control_plane_addr: self.control_plane_addr,
            readiness: &self.readiness,
            metrics: &self.metrics,
        }
    }

    /// Has another node lead, where this one does and has no engine.
    async fn give_up(&self) {
        let lead = match *self.member.leader().borrow() {
            Lead::Own(lead) => lead,
            Lead::Nobody | Lead::Other { .. } => return,
        };
        tracing::warn!(term = lead.term, "another node is to lead");
        self.hand_over(lead).await;
    }

    /// Has another node lead, where this one still does.
    async fn hand_over(&self, lead: Leadership) {
        let mut leader = self.member.leader();
        if *leader.borrow() != Lead::Own(lead) {
            return;
        }
        match self.member.node().step_down().await {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => {
                return tracing::warn!(error = chain(&error), "no other node was asked to lead");
            }
        }
        let followed = async {
            let is_other = |lead: &Lead| matches!(lead, Lead::Other { .. });
            // It ends with the process.
            drop(leader.wait_for(is_other).await);
        };
        if tokio::time::timeout(HAND_OVER, followed).await.is_err() {
            tracing::warn!("no other node leads yet");
        }
    }
}

/// Returns once this node leads; nothing where it takes no part any more.
async fn led(leader: &mut watch::Receiver<Lead>) -> Option<Leadership> {
    let found = leader.wait_for(|lead| matches!(lead, Lead::Own(_))).await;
    match &*found.ok()? {
        Lead::Own(lead) => Some(*lead),
        Lead::Nobody | Lead::Other { .. } => None,
    }
}

/// Returns once this node is not this leader any more.
async fn lost(leader: &mut watch::Receiver<Lead>, lead: Leadership) {
    // It ends with the process.
    drop(leader.wait_for(|now| *now != Lead::Own(lead)).await);
}
