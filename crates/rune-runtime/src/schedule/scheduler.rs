//! The loop.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rune_store_runtime::{
    FireFilter, FirePlan, FireSchedule, FireState, NewFire, Overlap, PageRequest, RecordAudit,
    RequestId, ScheduleFilter, ScheduleFireRow, ScheduleId, ScheduleRow, SettleFire, Store,
    StoreError, Timestamp,
};
use tokio_util::sync::CancellationToken;

use super::plan::{fires_at, plan};
use super::{Recurrence, ScheduleError};
use crate::engine::{Engine, EngineError};
use crate::task::Tasks;

/// How often the loop looks at the clock without being woken: the clock of the machine may
/// be set at any time.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Fires of a schedule that wait for their turn at the most.
const MAX_QUEUED: usize = 100;
/// How many of the newest fires are asked whether their requests have ended. More than one
/// runs at a time only where somebody fired by hand.
const LOOK_BACK: u32 = 16;

/// What names a fire: schedule, planned time, whether somebody asked for it.
type FireKey = (ScheduleId, Timestamp, bool);

/// Wakes the scheduler and fires by hand. Cheap to clone.
#[derive(Clone)]
pub struct SchedulerHandle {
    inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) engine: Engine,
    tasks: Tasks,
    /// The fires that a task of this process works on.
    at_work: Mutex<HashSet<FireKey>>,
}

/// The loop that fires what is due.
pub struct Scheduler {
    inner: Arc<Inner>,
    /// When the loop looked last.
    looked_at: Timestamp,
}

impl Scheduler {
    /// A scheduler that has not looked yet, over the store of the engine.
    #[must_use]
    pub fn new(engine: Engine, tasks: Tasks) -> (Self, SchedulerHandle) {
        let inner = Arc::new(Inner {
            engine,
            tasks,
            at_work: Mutex::default(),
        });
        let handle = SchedulerHandle {
            inner: Arc::clone(&inner),
        };
        let this = Self {
            inner,
            looked_at: Timestamp::default(),
        };
        (this, handle)
    }

    /// Fires what is due until the shutdown. Called once the deployments are known.
    pub async fn run(mut self) {
        let shutdown = self.inner.tasks.shutdown();
        loop {
            let pause = tokio::select! {
                // A look that is cut off leaves nothing half done.
                () = shutdown.cancelled() => return,
                looked = self.look() => match looked {
                    Ok(pause) => pause,
                    Err(error) => {
                        tracing::warn!(%error, "schedules were not looked at");
                        LOOK_EVERY
                    }
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.inner.engine.schedules_changed().notified() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Records what is due, starts what is pending, and answers how long nothing is due.
    async fn look(&mut self) -> Result<Duration, StoreError> {
        let store = self.inner.store();
        let now = store.now();
        if now < self.looked_at {
            let back_ms = self.looked_at.since(now).as_millis();
            tracing::warn!(
                back_ms,
                "the clock went back; what fired already does not fire again"
            );
        }
        self.looked_at = now;
        let mut pause = LOOK_EVERY;
        for row in &soon(store, now).await? {
            if let Some(next) = self.advance(row, now).await? {
                let at = fires_at(row.id, row.spec.jitter_ms, next);
                pause = pause.min(at.since(now));
            }
        }
        self.start_pending().await?;
        // What came while the fires were recorded is due at once, but not in a busy loop.
        Ok(pause.max(Duration::from_millis(1)))
    }

    /// Records what is due of a schedule and answers the planned time it stands at then.
    async fn advance(
        &self,
        row: &ScheduleRow,
        now: Timestamp,
    ) -> Result<Option<Timestamp>, StoreError> {
        let recurrence = match Recurrence::new(&row.spec.kind) {
            Ok(recurrence) => recurrence,
            Err(error) => {
                tracing::error!(schedule = %row.id, %error, "schedule is not understood");
                return Ok(None);
            }
        };
        let Some(fires) = plan(&recurrence, row, now) else {
            return Ok(row.next_fire_at);
        };
        let next = fires.advance.and_then(|advance| advance.to);
        match self.inner.store().write(fires).await {
            Ok(_) => Ok(next),
            // Deleted in the meantime.
            Err(StoreError::Rejected(error)) => {
                tracing::debug!(schedule = %row.id, %error, "schedule did not fire");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Starts every pending fire whose turn it is, oldest planned time first.
    async fn start_pending(&self) -> Result<(), StoreError> {
        let store = self.inner.store();
        let mut by_schedule: BTreeMap<ScheduleId, Vec<ScheduleFireRow>> = BTreeMap::new();
        for fire in pending(store).await?.into_iter().rev() {
            by_schedule.entry(fire.schedule_id).or_default().push(fire);
        }
        for (id, fires) in by_schedule {
            // Without its row it was deleted in the meantime, and its fires with it.
            if let Some(row) = store.schedule(id).await? {
                self.start_in_turn(&row, fires).await?;
            }
        }
        Ok(())
    }

    async fn start_in_turn(
        &self,
        row: &ScheduleRow,
        fires: Vec<ScheduleFireRow>,
    ) -> Result<(), StoreError> {
        let mut busy = match row.spec.overlap {
            Overlap::Allow => false,
            Overlap::Skip | Overlap::Queue => self.runs(row.id).await?,
        };
        let mut queued = 0;
        for fire in fires {
            let key = key(&fire);
            if self.inner.at_work().contains(&key) {
                busy = true;
                continue;
            }
            let overlap = if fire.manual {
                Overlap::Allow
            } else {
                row.spec.overlap
            };
            let reason = match overlap {
                Overlap::Skip if busy => "overlap: an earlier fire is not done",
                Overlap::Queue if busy && queued < MAX_QUEUED => {
                    queued += 1;
                    continue;
                }
                Overlap::Queue if busy => "overlap: too many fires wait already",
                Overlap::Allow | Overlap::Skip | Overlap::Queue => {
                    self.inner.start(row.clone(), fire);
                    busy = true;
                    continue;
                }
            };
            self.inner.settle(&fire, FireState::Skipped, reason).await?;
        }
        Ok(())
    }

    /// Whether a request of the schedule has not ended.
    async fn runs(&self, schedule_id: ScheduleId) -> Result<bool, StoreError> {
        let filter = FireFilter {
            schedule_id: Some(schedule_id),
            state: Some(FireState::Fired),
        };
        let page = PageRequest::first(LOOK_BACK);
        let fires = self.inner.store().schedule_fires(&filter, &page).await?;
        for id in fires.items.iter().filter_map(|fire| fire.request_id) {
            match self.inner.engine.request(id).await {
                Ok(row) if !row.status.is_terminal() => return Ok(true),
                Ok(_) | Err(EngineError::NotFound(_)) => {}
                Err(EngineError::Store(error)) => return Err(error),
                Err(error) => return Err(StoreError::Unavailable(error.to_string())),
            }
        }
        Ok(false)
    }
}

impl SchedulerHandle {
    /// Makes the scheduler look now: a schedule was changed.
    pub fn wake(&self) {
        self.inner.engine.schedules_changed().notify_one();
    }

    /// Fires now, beside the planned times and whatever the policies say, also where the
    /// schedule is paused. Answers the fire as it was settled. Dropping the future does
    /// not undo it.
    ///
    /// # Errors
    /// [`ScheduleError::NotFound`], [`ScheduleError::ShuttingDown`],
    /// [`ScheduleError::Store`].
    pub async fn run_now(
        &self,
        id: ScheduleId,
        audit: Vec<RecordAudit>,
    ) -> Result<ScheduleFireRow, ScheduleError> {
        let inner = Arc::clone(&self.inner);
        let firing = self.inner.tasks.spawn("schedule-run", async move {
            let row = inner.store().schedule(id).await?;
            let row = row.ok_or(ScheduleError::NotFound(id))?;
            let (fire, _work) = inner.record_by_hand(&row, audit).await?;
            inner.complete(&row, fire).await
        });
        match firing.await {
            Ok(Some(fire)) => fire,
            Ok(None) | Err(_) => Err(ScheduleError::ShuttingDown),
        }
    }
}

impl Inner {
    pub(super) fn store(&self) -> &Store {
        self.engine.store()
    }

    pub(super) fn shutdown(&self) -> CancellationToken {
        self.tasks.shutdown()
    }

    fn at_work(&self) -> MutexGuard<'_, HashSet<FireKey>> {
        self.at_work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a fire for this task; nothing where another one has it.
    fn take(self: &Arc<Self>, key: FireKey) -> Option<AtWork> {
        self.at_work().insert(key).then(|| AtWork {
            inner: Arc::clone(self),
            key,
        })
    }

    fn start(self: &Arc<Self>, row: ScheduleRow, fire: ScheduleFireRow) {
        let Some(work) = self.take(key(&fire)) else {
            return;
        };
        let inner = Arc::clone(self);
        self.tasks.spawn("schedule-fire", async move {
            let planned_at = fire.planned_at;
            match inner.complete(&row, fire).await {
                Ok(fire) => {
                    let next_waits = row.spec.overlap == Overlap::Queue;
                    if let Some(id) = fire.request_id.filter(|_| next_waits) {
                        inner.ended(id).await;
                    }
                }
                Err(error) => {
                    tracing::warn!(schedule = %row.id, %planned_at, %error, "fire goes on later");
                    // Not at once: the store is left alone for a while.
                    let shutdown = inner.shutdown();
                    tokio::select! {
                        () = shutdown.cancelled() => {}
                        () = tokio::time::sleep(LOOK_EVERY) => {}
                    }
                }
            }
            drop(work);
        });
    }

    /// Records a fire of this moment, or of the first one after it that has none.
    async fn record_by_hand(
        self: &Arc<Self>,
        row: &ScheduleRow,
        audit: Vec<RecordAudit>,
    ) -> Result<(ScheduleFireRow, AtWork), ScheduleError> {
        let now = self.store().now();
        let request_id = RequestId::generate();
        let mut planned_at = now;
        loop {
            let fire = ScheduleFireRow {
                schedule_id: row.id,
                planned_at,
                manual: true,
                event_id: None,
                state: FireState::Pending,
                reason: String::new(),
                request_id: Some(request_id),
                fired_at: now,
            };
            let record = FireSchedule {
                schedule_id: row.id,
                advance: None,
                fires: vec![NewFire {
                    planned_at,
                    plan: FirePlan::Invoke { request_id },
                }],
            };
            // Taken before it is recorded, so that the loop leaves it alone.
            if let Some(work) = self.take(key(&fire))
                && self.store().write_audited(record, audit.clone()).await?
            {
                return Ok((fire, work));
            }
            planned_at = planned_at.plus(Duration::from_millis(1));
        }
    }

    /// Writes what came of a fire; whoever was first is right.
    pub(super) async fn settle(
        &self,
        fire: &ScheduleFireRow,
        state: FireState,
        reason: &str,
    ) -> Result<(), StoreError> {
        let settle = SettleFire {
            schedule_id: fire.schedule_id,
            planned_at: fire.planned_at,
            manual: fire.manual,
            state,
            reason: reason.to_owned(),
        };
        match self.store().write(settle).await {
            // Rejected where the schedule was deleted.
            Ok(_) | Err(StoreError::Rejected(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// A fire that a task works on; free again when it is dropped.
pub(super) struct AtWork {
    inner: Arc<Inner>,
    key: FireKey,
}

impl Drop for AtWork {
    fn drop(&mut self) {
        self.inner.at_work().remove(&self.key);
        self.inner.engine.schedules_changed().notify_one();
    }
}

fn key(fire: &ScheduleFireRow) -> FireKey {
    (fire.schedule_id, fire.planned_at, fire.manual)
}

/// The schedules that may be due before the next look.
async fn soon(store: &Store, now: Timestamp) -> Result<Vec<ScheduleRow>, StoreError> {
    let filter = ScheduleFilter {
        due_by: Some(now.plus(LOOK_EVERY)),
        ..ScheduleFilter::default()
    };
    let mut page = PageRequest::first(PageRequest::MAX_LIMIT);
    let mut rows = Vec::new();
    loop {
        let part = store.schedules(&filter, &page).await?;
        rows.extend(part.items);
        page.cursor = part.next;
        if page.cursor.is_none() {
            return Ok(rows);
        }
    }
}

/// Every pending fire, newest planned time first.
async fn pending(store: &Store) -> Result<Vec<ScheduleFireRow>, StoreError> {
    let filter = FireFilter {
        state: Some(FireState::Pending),
        ..FireFilter::default()
    };
    let mut page = PageRequest::first(PageRequest::MAX_LIMIT);
    let mut rows = Vec::new();
    loop {
        let part = store.schedule_fires(&filter, &page).await?;
        rows.extend(part.items);
        page.cursor = part.next;
        if page.cursor.is_none() {
            return Ok(rows);
        }
    }
}
