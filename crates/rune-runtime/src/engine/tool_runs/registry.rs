//! The runs that a daemon knows. Each is begun once and ends once, and its id is known for a while after that, so that what
//! asks for it late does not begin it again.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rune_store_runtime::RequestId;
use rune_tools::{ToolError, ToolErrorKind};
use serde_json::Value;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{SAME_TIME, ToolAnswer, ToolOp, ToolRun};
use crate::dispatch::cancelled;
use crate::engine::link::CALL_LOOK;
use crate::task::Tasks;

/// Runs that have not ended, of all requests, at the most.
pub(super) const MAX_RUNS: usize = 1024;
/// Those of one request, with those whose answer is not in the journal yet.
pub(super) const MAX_OF_REQUEST: usize = 256;
/// Runs of one request that nobody waits for any more and whose ids are known, at the most. The oldest are forgotten first.
pub(super) const MAX_SETTLED: usize = 256;
/// How long a run goes on that nobody asks for: longer than it takes to ask again after a connection broke off.
pub(super) const SILENCE: Duration = Duration::from_secs(30);
/// How long a run is known after its end: longer than a replica tries to get its answer, and than a question is under way.
pub(super) const KEPT: Duration = Duration::from_secs(300);

/// The runs of a daemon. Cheap to clone.
#[derive(Clone)]
pub(in crate::engine) struct ToolRuns {
    boot_id: Uuid,
    tasks: Tasks,
    known: Arc<Mutex<Known>>,
    /// A place for each run that has not ended.
    places: Arc<Semaphore>,
}

type Known = HashMap<RequestId, Vec<Arc<Run>>>;

struct Run {
    id: Uuid,
    call_id: String,
    /// Fires when it is to end.
    stop: CancellationToken,
    /// Whether the replica has said so.
    is_stopped: AtomicBool,
    /// Whether the journal has the result of its call.
    is_committed: AtomicBool,
    /// When somebody asked for it last.
    heard: Mutex<Instant>,
    answer: watch::Sender<Option<ToolAnswer>>,
    /// Fires when it need not be known any more once it has ended.
    forgotten: CancellationToken,
}

impl ToolRuns {
    /// Those of a daemon that has just started.
    pub(in crate::engine) fn new(tasks: Tasks) -> Self {
        Self {
            boot_id: Uuid::new_v4(),
            tasks,
            known: Arc::default(),
            places: Arc::new(Semaphore::new(MAX_RUNS)),
        }
    }

    /// Does what is asked about a tool of a request. `begin` makes what runs one, which heeds the token that it is given.
    pub(super) async fn act<F>(
        &self,
        request_id: RequestId,
        op: ToolOp,
        begin: impl FnOnce(ToolRun, CancellationToken) -> Result<F, ToolError>,
    ) -> ToolAnswer
    where
        F: Future<Output = Result<Value, ToolError>> + Send + 'static,
    {
        match op {
            ToolOp::BootId => ToolAnswer::BootId(self.boot_id),
            ToolOp::Run(run) if run.boot_id != self.boot_id => ToolAnswer::Unknown,
            ToolOp::Run(run) => match self.join(request_id, run, begin) {
                Ok(run) => {
                    let ended = tokio::time::timeout(CALL_LOOK, run.ended()).await;
                    ended.unwrap_or(ToolAnswer::Pending)
                }
                Err(error) => ToolAnswer::Ended(Err(error)),
            },
            ToolOp::Stop { run_id, call_id } => {
                self.stop(request_id, run_id, &call_id);
                ToolAnswer::Stopped
            }
        }
    }

    /// Stops what still runs for a request.
    pub(in crate::engine) fn end(&self, request_id: RequestId) {
        for run in self.lock().get(&request_id).into_iter().flatten() {
            run.stop.cancel();
        }
    }

    /// Stops what still runs for a request that this process does not run any more, and forgets the rest.
    pub(in crate::engine) fn left(&self, request_id: RequestId) {
        let mut known = self.lock();
        let Some(runs) = known.get_mut(&request_id) else {
            return;
        };
        for run in &*runs {
            run.stop.cancel();
            run.forgotten.cancel();
        }
        // Who begins another one of the same call waits for these.
        runs.retain(|run| !run.has_ended());
        if runs.is_empty() {
            known.remove(&request_id);
        }
    }

    /// Takes in that the journal of a request has the result of a call: what still runs for it is stopped, and no answer is kept.
    pub(in crate::engine) fn committed(&self, request_id: RequestId, call_id: &str) {
        let known = self.lock();
        let runs = known.get(&request_id).into_iter().flatten();
        for run in runs.filter(|run| run.call_id == call_id) {
            run.commit();
        }
    }

    /// The run that is asked for, begun where it is not known.
    fn join<F>(
        &self,
        request_id: RequestId,
        wanted: ToolRun,
        begin: impl FnOnce(ToolRun, CancellationToken) -> Result<F, ToolError>,
    ) -> Result<Arc<Run>, ToolError>
    where
        F: Future<Output = Result<Value, ToolError>> + Send + 'static,
    {
        let stop = self.tasks.shutdown().child_token();
        let run = Arc::new(Run::new(wanted.run_id, &wanted.call_id, stop));
        let work = begin(wanted, run.stop.clone())?;
        let mut known = self.lock();
        let runs = known.get(&request_id).map_or(&[][..], Vec::as_slice);
        match runs.iter().find(|known| known.id == run.id) {
            Some(found) if found.call_id == run.call_id => {
                found.hear();
                return Ok(Arc::clone(found));
            }
            Some(_) => {
                let message = "the run of a tool is that of another call";
                return Err(ToolError::new(ToolErrorKind::Denied, message));
            }
            None => {}
        }
        let open = runs.iter().filter(|run| !run.is_settled()).count();
        let place = Arc::clone(&self.places).try_acquire_owned().ok();
        let Some(place) = place.filter(|_| open < MAX_OF_REQUEST) else {
            let message = "too many tools in containers run at the same time";
            return Err(ToolError::new(ToolErrorKind::Unavailable, message));
        };
        let of_call = |it: &&Arc<Run>| it.call_id == run.call_id && !it.has_ended();
        let earlier = runs.iter().filter(of_call).cloned().collect();
        self.keep(&mut known, request_id, &run);
        drop(known);
        // Also where the task panics, or is killed.
        let ends = EndedUnknown(Arc::clone(&run));
        self.tasks.spawn("tool", async move {
            ends.0.drive(earlier, work).await;
            drop(place);
        });
        Ok(run)
    }

    fn stop(&self, request_id: RequestId, run_id: Uuid, call_id: &str) {
        let mut known = self.lock();
        let mut runs = known.get(&request_id).into_iter().flatten();
        if let Some(run) = runs.find(|run| run.id == run_id) {
            run.is_stopped.store(true, Ordering::Relaxed);
            run.stop.cancel();
            return;
        }
        // What begins it may still be on its way.
        let run = Run::new(run_id, call_id, CancellationToken::new());
        run.is_stopped.store(true, Ordering::Relaxed);
        run.end(ToolAnswer::Ended(Err(cancelled())));
        self.keep(&mut known, request_id, &Arc::new(run));
    }

    /// Knows a run until some time after its end.
    fn keep(&self, known: &mut Known, request_id: RequestId, run: &Arc<Run>) {
        let runs = known.entry(request_id).or_default();
        let settled = runs.iter().filter(|run| run.is_settled()).count();
        for _ in MAX_SETTLED..=settled {
            if let Some(at) = runs.iter().position(|run| run.is_settled()) {
                runs.remove(at).forgotten.cancel();
            }
        }
        runs.push(Arc::clone(run));
        let (kept, run) = (self.clone(), Arc::clone(run));
        let shutdown = self.tasks.shutdown();
        self.tasks.spawn("tool answer", async move {
            run.ended().await;
            tokio::select! {
                () = tokio::time::sleep(KEPT) => {}
                () = run.forgotten.cancelled() => {}
                () = shutdown.cancelled() => {}
            }
            kept.forget(request_id, &run);
        });
    }

    fn forget(&self, request_id: RequestId, run: &Arc<Run>) {
        let mut known = self.lock();
        if let Some(runs) = known.get_mut(&request_id) {
            runs.retain(|it| !Arc::ptr_eq(it, run));
            if runs.is_empty() {
                known.remove(&request_id);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        // Every entry is whole at any time.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many runs are known.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.lock().values().map(Vec::len).sum()
    }
}

impl Run {
    fn new(id: Uuid, call_id: &str, stop: CancellationToken) -> Self {
        Self {
            id,
            call_id: call_id.to_owned(),
            stop,
            is_stopped: AtomicBool::new(false),
            is_committed: AtomicBool::new(false),
            heard: Mutex::new(Instant::now()),
            answer: watch::Sender::new(None),
            forgotten: CancellationToken::new(),
        }
    }

    fn has_ended(&self) -> bool {
        self.answer.borrow().is_some()
    }

    /// Whether nothing of it goes on and nobody wants its answer.
    fn is_settled(&self) -> bool {
        let is_unwanted =
            self.is_committed.load(Ordering::Relaxed) || self.is_stopped.load(Ordering::Relaxed);
        is_unwanted && self.has_ended()
    }

    fn hear(&self) {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Returns once nobody has asked for it for too long.
    async fn abandoned(&self) {
        let silence = || {
            let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
            heard.elapsed()
        };
        while let Some(left) = SILENCE.checked_sub(silence()) {
            // At its very end it is looked at once more.
            tokio::time::sleep(left + SAME_TIME).await;
        }
    }

    /// Runs it to its end, once those before it that its call still has have ended: a call has one container at a time.
    async fn drive(
        &self,
        earlier: Vec<Arc<Self>>,
        work: impl Future<Output = Result<Value, ToolError>>,
    ) {
        let before = async {
            for run in earlier {
                run.stop.cancel();
                run.ended().await;
            }
        };
        let ran = tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(cancelled()),
            () = before => {
                tokio::pin!(work);
                tokio::select! {
                    biased;
                    ran = &mut work => ran,
                    () = self.abandoned() => {
                        tracing::warn!(call = self.call_id, "nobody waits for a tool; it is stopped");
                        self.stop.cancel();
                        work.await
                    }
                }
            }
        };
        let is_stopped = self.is_stopped.load(Ordering::Relaxed);
        self.end(match ran {
            // Stopped here, and not by who asked for it, it was cut off.
            Err(error) if error.kind == ToolErrorKind::Cancelled && !is_stopped => {
                ToolAnswer::Unknown
            }
            ran => ToolAnswer::Ended(ran),
        });
    }

    /// Keeps what came of it, where nothing is kept yet.
    fn end(&self, answer: ToolAnswer) {
        self.answer.send_if_modified(|kept| {
            let is_first = kept.is_none();
            if is_first {
                let is_wanted = !self.is_committed.load(Ordering::Relaxed);
                *kept = Some(if is_wanted {
                    answer
                } else {
                    ToolAnswer::Unknown
                });
            }
            is_first
        });
    }

    /// Stops it where it still runs, and keeps no answer.
    fn commit(&self) {
        self.is_committed.store(true, Ordering::Relaxed);
        self.stop.cancel();
        self.answer.send_if_modified(|kept| {
            if kept.is_some() {
                *kept = Some(ToolAnswer::Unknown);
            }
            false
        });
    }

    async fn ended(&self) -> ToolAnswer {
        let mut answer = self.answer.subscribe();
        // The sender is as old as the run.
        let ended = answer.wait_for(Option::is_some).await;
        let ended = ended.ok().and_then(|answer| answer.clone());
        ended.unwrap_or(ToolAnswer::Unknown)
    }
}

/// Ends a run of which nobody can say how it has ended.
struct EndedUnknown(Arc<Run>);

impl Drop for EndedUnknown {
    fn drop(&mut self) {
        self.0.end(ToolAnswer::Unknown);
    }
}
