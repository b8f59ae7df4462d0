//! The time for which a node leads.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rune_cluster::Member;
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
use super::super::running::{Host, Running};
use crate::commands::daemon::Backend;
use crate::failure::{Failure, Outcome, chain};

/// How long requests get to end before another node takes them up, where this one is to end.
const HAND_OVER_DRAIN: Duration = Duration::from_secs(1);
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

/// How a term ended.
enum End {
    /// Another node leads, or may.
    Lost,
    /// This node is to end.
    Stopped,
}

impl Leader {
    /// Makes what an engine needs and what takes long to be made, for the next term.
    pub(super) async fn prepare(&self) -> Outcome<Prepared> {
        let (config, place) = (self.config.clone(), self.place.clone());
        let store = Store::new(self.member.store(), Arc::new(SystemClock));
        let tasks = self.tasks.clone();
        let made =
            tokio::task::spawn_blocking(move || Prepared::new(&config, &place, &store, &tasks));
        made.await
            .map_err(|error| Failure::because("cannot prepare the engine", &error))?
    }

    /// Leads as often as this node is to, until it is to end; then another one does.
    pub(super) async fn lead_in_turn(&self, first: Prepared, stop: CancellationToken) {
        let mut leader = self.member.leader();
        let mut prepared = Some(first);
        loop {
            let parts = match prepared.take() {
                Some(parts) => parts,
                None => match self.prepare().await {
                    Ok(parts) => parts,
                    Err(failure) => {
                        tracing::error!(why = failure.message(), "the engine cannot be prepared");
                        tokio::select! {
                            () = stop.cancelled() => return,
                            () = tokio::time::sleep(FAILED_PAUSE) => continue,
                        }
                    }
                },
            };
            let lead = tokio::select! {
                lead = led(&mut leader) => lead,
                () = stop.cancelled() => return,
            };
            let Some(lead) = lead else {
                return stop.cancelled().await;
            };
            if let End::Stopped = self.term(lead, parts, &stop).await {
                return;
            }
        }
    }

    /// Runs the engine as this leader, until the node is not that any more.
    async fn term(&self, lead: Leadership, parts: Prepared, stop: &CancellationToken) -> End {
        let began = Instant::now();
        tracing::info!(term = lead.term, "this node leads");
        let term = self.member.term(lead);
        let tasks = Tasks::mortal();
        let node = Node::with(&self.config, parts, Arc::clone(&term.store), tasks.clone());
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
            started = self.start(node) => Some(started),
        };
        let ended = CancellationToken::new();
        match started {
            Some(Ok(running)) => {
                let Running {
                    node,
                    processes,
                    recovered,
                    gateway,
                    control_plane,
                } = running;
                self.front.lead(Some(Leading::new(
                    gateway.unwrap_or_default(),
                    control_plane,
                    ended.clone(),
                )));
                let after_ms = began.elapsed().as_millis();
                tracing::info!(
                    term = lead.term,
                    recovered,
                    after_ms,
                    "the engine runs here"
                );
                tokio::select! {
                    biased;
                    () = &mut over => {}
                    () = stop.cancelled() => {
                        self.front.lead(None);
                        let grace = match self.member.node().has_successor() {
                            true => HAND_OVER_DRAIN,
                            false => self.config.runtime.drain_grace,
                        };
                        if !node.engine.rest(grace).await {
                            tracing::info!(active = node.engine.active(), "requests go on at another node");
                        }
                        // Who waits for an answer gets it from there, and not word of an interruption.
                        ended.cancel();
                        node.engine.halt().await;
                    }
                }
                self.front.lead(None);
                ended.cancel();
                if let Some(processes) = processes {
                    processes.close().await;
                }
            }
            Some(Err(failure)) => {
                tracing::error!(
                    why = failure.message(),
                    "the engine cannot run here; another node is to lead"
                );
                stop.run_until_cancelled(tokio::time::sleep(FAILED_PAUSE))
                    .await;
            }
            None => {}
        }
        if !tasks.kill(STOP_GRACE).await {
            tracing::warn!(
                tasks = tasks.len(),
                "tasks of the engine did not end in time"
            );
        }
        tracing::info!(term = lead.term, "the engine has ended here");
        self.hand_over(lead).await;
        match stop.is_cancelled() {
            true => End::Stopped,
            false => End::Lost,
        }
    }

    async fn start(&self, node: Node) -> Outcome<Running> {
        // Everything that was written before is read from here on.
        let newest = self.member.node().linearizable().await;
        newest.map_err(|error| Failure::because("cannot read what was written", &error))?;
        let host = Host {
            config: &self.config,
            place: &self.place,
            backend: self.backend,
            access: &self.access,
            id: self.member.identity().node().to_string(),
            gateway_addr: self.gateway_addr,
            control_plane_addr: self.control_plane_addr,
            readiness: &self.readiness,
            metrics: &self.metrics,
        };
        host.start(node).await
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
