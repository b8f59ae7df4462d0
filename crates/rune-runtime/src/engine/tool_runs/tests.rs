//! Both sides, with tools that are futures and time that is paused.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::{join_all, pending};
use rune_store_runtime::{RequestId, StoreError, ToolIntent};
use rune_tools::{ToolError, ToolErrorKind};
use secrecy::SecretString;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::daemon::readable;
use super::registry::{KEPT, MAX_OF_REQUEST, MAX_RUNS, MAX_SETTLED, SILENCE};
use super::{LinkedTools, ToolAnswer, ToolOp, ToolRun, ToolRuns};
use crate::dispatch::cancelled;
use crate::engine::link::{EngineAnswer, EngineLink, EngineOp};
use crate::secrets::SecretError;
use crate::task::Tasks;

const MINUTE: Duration = Duration::from_secs(60);

/// A tool that ends once it may, or a while after it is told to.
#[derive(Clone, Default)]
struct Tool {
    begun: Arc<AtomicUsize>,
    stopped: Arc<AtomicUsize>,
    go: CancellationToken,
}

impl Tool {
    fn work(
        &self,
        stop: CancellationToken,
    ) -> impl Future<Output = Result<Value, ToolError>> + Send + use<> {
        let tool = self.clone();
        async move {
            tool.begun.fetch_add(1, Ordering::Relaxed);
            tokio::select! {
                () = tool.go.cancelled() => Ok(json!("done")),
                () = stop.cancelled() => {
                    tokio::time::sleep(Duration::from_millis(500)).await;
                    tool.stopped.fetch_add(1, Ordering::Relaxed);
                    Err(cancelled())
                }
            }
        }
    }

    fn begun(&self) -> usize {
        self.begun.load(Ordering::Relaxed)
    }

    fn stopped(&self) -> usize {
        self.stopped.load(Ordering::Relaxed)
    }
}

fn done() -> ToolAnswer {
    ToolAnswer::Ended(Ok(json!("done")))
}

fn is_refused(answer: &ToolAnswer, kind: ToolErrorKind) -> bool {
    matches!(answer, ToolAnswer::Ended(Err(error)) if error.kind == kind)
}

/// A daemon, and the request that asks it.
struct Daemon {
    runs: ToolRuns,
    request: RequestId,
}

impl Daemon {
    fn new() -> Self {
        Self {
            runs: ToolRuns::new(Tasks::new()),
            request: RequestId::generate(),
        }
    }

    /// Another request of the same daemon.
    fn another(&self) -> Self {
        Self {
            runs: self.runs.clone(),
            request: RequestId::generate(),
        }
    }

    async fn run(&self, call_id: &str) -> ToolRun {
        let begin = |_, _| Ok(pending());
        let answer = self.runs.act(self.request, ToolOp::BootId, begin).await;
        let ToolAnswer::BootId(boot_id) = answer else {
            panic!("{answer:?}");
        };
        ToolRun {
            run_id: Uuid::new_v4(),
            boot_id,
            call_id: call_id.to_owned(),
            idempotency_key: String::new(),
            tool: "tool".to_owned(),
            input: Value::Null,
        }
    }

    async fn ask(&self, run: &ToolRun, tool: &Tool) -> ToolAnswer {
        let op = ToolOp::Run(run.clone());
        let begin = |_, stop| Ok(tool.work(stop));
        self.runs.act(self.request, op, begin).await
    }

    async fn stop(&self, run: &ToolRun) {
        let op = ToolOp::Stop {
            run_id: run.run_id,
            call_id: run.call_id.clone(),
        };
        let begin = |_, _| Ok(pending());
        let answer = self.runs.act(self.request, op, begin).await;
        assert_eq!(answer, ToolAnswer::Stopped);
    }

    /// Begins as many runs, each of a call of its own.
    async fn begin(&self, runs: usize, tool: &Tool) -> Vec<ToolRun> {
        let calls: Vec<String> = (0..runs).map(|call| call.to_string()).collect();
        let runs = join_all(calls.iter().map(|call| self.run(call))).await;
        let answers = join_all(runs.iter().map(|run| self.ask(run, tool))).await;
        assert!(answers.iter().all(|answer| *answer == ToolAnswer::Pending));
        runs
    }
}

#[tokio::test(start_paused = true)]
async fn a_run_that_is_asked_for_twice_is_one() {
    let (daemon, tool) = (Daemon::new(), Tool::default());
    let run = daemon.run("a").await;
    let both = tokio::join!(daemon.ask(&run, &tool), daemon.ask(&run, &tool));
    assert_eq!(both, (ToolAnswer::Pending, ToolAnswer::Pending));
    tool.go.cancel();
    assert_eq!(daemon.ask(&run, &tool).await, done());
    assert_eq!(daemon.ask(&run, &tool).await, done());
    assert_eq!(tool.begun(), 1);
    let other = ToolRun {
        call_id: "b".to_owned(),
        ..run
    };
    let answer = daemon.ask(&other, &tool).await;
    assert!(is_refused(&answer, ToolErrorKind::Denied), "{answer:?}");
}

#[tokio::test(start_paused = true)]
async fn a_run_that_was_stopped_first_does_not_begin() {
    let (daemon, tool) = (Daemon::new(), Tool::default());
    let run = daemon.run("a").await;
    daemon.stop(&run).await;
    daemon.runs.committed(daemon.request, "a");
    daemon.ask(&run, &tool).await;
    assert_eq!(tool.begun(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_stopped_run_says_how_it_ended() {
    let (daemon, tool) = (Daemon::new(), Tool::default());
    let run = daemon.run("a").await;
    daemon.ask(&run, &tool).await;
    daemon.stop(&run).await;
    let answer = daemon.ask(&run, &tool).await;
    assert!(is_refused(&answer, ToolErrorKind::Cancelled), "{answer:?}");
    assert_eq!((tool.begun(), tool.stopped()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn another_attempt_begins_when_the_one_before_has_ended() {
    let (daemon, first, second) = (Daemon::new(), Tool::default(), Tool::default());
    let begun = daemon.run("a").await;
    daemon.ask(&begun, &first).await;
    let again = daemon.run("a").await;
    let op = ToolOp::Run(again.clone());
    let (before, tool) = (first.clone(), second.clone());
    let begin = |_, stop| {
        Ok(async move {
            assert_eq!(before.stopped(), 1);
            tool.work(stop).await
        })
    };
    second.go.cancel();
    let answer = daemon.runs.act(daemon.request, op, begin).await;
    assert_eq!(answer, done());
    assert_eq!(daemon.ask(&begun, &first).await, ToolAnswer::Unknown);
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_waits_for_the_one_before_can_be_stopped() {
    let (daemon, tool) = (Daemon::new(), Tool::default());
    let op = ToolOp::Run(daemon.run("a").await);
    let hangs = |_, _| Ok(pending());
    let answer = daemon.runs.act(daemon.request, op, hangs).await;
    assert_eq!(answer, ToolAnswer::Pending);
    let again = daemon.run("a").await;
    assert_eq!(daemon.ask(&again, &tool).await, ToolAnswer::Pending);
    daemon.stop(&again).await;
    let answer = daemon.ask(&again, &tool).await;
    assert!(is_refused(&answer, ToolErrorKind::Cancelled), "{answer:?}");
    assert_eq!(tool.begun(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_run_that_nobody_asks_for_is_stopped() {
    let (daemon, tool) = (Daemon::new(), Tool::default());
    let run = daemon.run("a").await;
    for _ in 0..12 {
        assert_eq!(daemon.ask(&run, &tool).await, ToolAnswer::Pending);
    }
    assert_eq!(tool.stopped(), 0);
    tokio::time::sleep(SILENCE + MINUTE).await;
    assert_eq!(tool.stopped(), 1);
    assert_eq!(daemon.ask(&run, &tool).await, ToolAnswer::Unknown);
    assert_eq!(tool.begun(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_run_whose_task_panics_ends() {
    let daemon = Daemon::new();
    let op = ToolOp::Run(daemon.run("a").await);
    let begin = |_, _| Ok(async { panic!("boom") });
    let answer = daemon.runs.act(daemon.request, op, begin).await;
    assert_eq!(answer, ToolAnswer::Unknown);
}

#[tokio::test(start_paused = true)]
async fn one_request_runs_so_many() {
    let (daemon, tool) = (Daemon::new(), Tool::default());
    daemon.begin(MAX_OF_REQUEST, &tool).await;
    let more = daemon.run("more").await;
    let answer = daemon.ask(&more, &tool).await;
    assert!(
        is_refused(&answer, ToolErrorKind::Unavailable),
        "{answer:?}"
    );
    daemon.another().begin(1, &tool).await;
    // An answer that is not in the journal yet has its place, too.
    tool.go.cancel();
    tokio::time::sleep(MINUTE).await;
    let answer = daemon.ask(&more, &tool).await;
    assert!(
        is_refused(&answer, ToolErrorKind::Unavailable),
        "{answer:?}"
    );
    daemon.runs.committed(daemon.request, "7");
    assert_eq!(daemon.ask(&more, &tool).await, done());
}

#[tokio::test(start_paused = true)]
async fn all_requests_together_run_so_many_and_what_has_ended_is_not_counted() {
    let (daemon, tool) = (Daemon::new(), Tool::default());
    let others: Vec<Daemon> = (0..MAX_RUNS / MAX_OF_REQUEST)
        .map(|_| daemon.another())
        .collect();
    join_all(others.iter().map(|it| it.begin(MAX_OF_REQUEST, &tool))).await;
    let run = daemon.run("a").await;
    let answer = daemon.ask(&run, &tool).await;
    assert!(
        is_refused(&answer, ToolErrorKind::Unavailable),
        "{answer:?}"
    );
    tool.go.cancel();
    tokio::time::sleep(MINUTE).await;
    assert_eq!(daemon.ask(&run, &tool).await, done());
}

#[tokio::test(start_paused = true)]
async fn stops_of_runs_that_do_not_exist_take_no_place() {
    let (daemon, tool) = (Daemon::new(), Tool::default());
    for _ in 0..2 * MAX_RUNS {
        daemon.stop(&daemon.run("a").await).await;
    }
    assert_eq!(daemon.runs.len(), MAX_SETTLED);
    daemon.begin(1, &tool).await;
    daemon.another().begin(1, &tool).await;
}

#[tokio::test(start_paused = true)]
async fn a_result_in_the_journal_stops_what_still_runs_for_its_call() {
    let (daemon, tool) = (Daemon::new(), Tool::default());
    let runs = daemon.begin(2, &tool).await;
    daemon.runs.committed(daemon.request, "0");
    assert_eq!(daemon.ask(&runs[0], &tool).await, ToolAnswer::Unknown);
    assert_eq!(daemon.ask(&runs[1], &tool).await, ToolAnswer::Pending);
    assert_eq!((tool.begun(), tool.stopped()), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn what_asks_late_for_a_committed_run_does_not_begin_it_again() {
    let (daemon, tool) = (Daemon::new(), Tool::default());
    tool.go.cancel();
    let run = daemon.run("a").await;
    assert_eq!(daemon.ask(&run, &tool).await, done());
    daemon.runs.committed(daemon.request, "a");
    assert_eq!(daemon.ask(&run, &tool).await, ToolAnswer::Unknown);
    assert_eq!(tool.begun(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_has_ended_is_forgotten_though_nothing_else_happens() {
    let (daemon, tool) = (Daemon::new(), Tool::default());
    tool.go.cancel();
    daemon.ask(&daemon.run("a").await, &tool).await;
    daemon.stop(&daemon.run("b").await).await;
    assert_eq!(daemon.runs.len(), 2);
    tokio::time::sleep(KEPT + MINUTE).await;
    assert_eq!(daemon.runs.len(), 0);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_known_of_a_request_that_has_left() {
    let (daemon, tool) = (Daemon::new(), Tool::default());
    let runs = daemon.begin(2, &tool).await;
    daemon.stop(&runs[0]).await;
    daemon.ask(&runs[0], &tool).await;
    daemon.runs.left(daemon.request);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!((tool.stopped(), daemon.runs.len()), (2, 0));
}

/// What is asked of a daemon that starts again, or that answers one thing only.
struct Link {
    runs: Mutex<ToolRuns>,
    tool: Tool,
    /// What is said of every run.
    fixed: Option<Result<ToolAnswer, StoreError>>,
    asked: AtomicUsize,
}

impl Link {
    fn new(tool: &Tool, fixed: Option<Result<ToolAnswer, StoreError>>) -> Self {
        Self {
            runs: Mutex::new(ToolRuns::new(Tasks::new())),
            tool: tool.clone(),
            fixed,
            asked: AtomicUsize::new(0),
        }
    }

    fn restart(&self) {
        *self.runs.lock().unwrap() = ToolRuns::new(Tasks::new());
    }

    /// What a call comes to.
    async fn call(
        &self,
        idempotent: bool,
        cancel: &CancellationToken,
    ) -> Result<Value, ToolErrorKind> {
        let tools = LinkedTools {
            link: self,
            request_id: RequestId::generate(),
        };
        let intent = ToolIntent {
            step: 1,
            call_id: "a".to_owned(),
            tool: "tool".to_owned(),
            input: Value::Null,
            idempotent,
            idempotency_key: "key".to_owned(),
        };
        let ran = tools.run(&intent, 10 * MINUTE, cancel).await;
        ran.map_err(|error| error.kind)
    }
}

#[async_trait]
impl EngineLink for Link {
    async fn act(&self, id: RequestId, op: EngineOp) -> Result<EngineAnswer, StoreError> {
        let EngineOp::Tool(op) = op else {
            panic!("{op:?}");
        };
        if matches!(op, ToolOp::Run(_)) {
            self.asked.fetch_add(1, Ordering::Relaxed);
            if let Some(fixed) = &self.fixed {
                return fixed.clone().map(EngineAnswer::Tool);
            }
        }
        let runs = self.runs.lock().unwrap().clone();
        let begin = |_, stop| Ok(self.tool.work(stop));
        Ok(EngineAnswer::Tool(runs.act(id, op, begin).await))
    }

    async fn secret(&self, _: &str, name: &str) -> Result<SecretString, SecretError> {
        Err(SecretError::Refused(name.to_owned()))
    }
}

#[tokio::test(start_paused = true)]
async fn an_idempotent_tool_runs_again_after_a_restart_and_no_other() {
    for (idempotent, begun) in [(true, 2), (false, 1)] {
        let tool = Tool::default();
        let link = Link::new(&tool, None);
        let cancel = CancellationToken::new();
        let restarts = async {
            tokio::time::sleep(MINUTE).await;
            link.restart();
            tokio::time::sleep(MINUTE).await;
            tool.go.cancel();
        };
        let (ran, ()) = tokio::join!(link.call(idempotent, &cancel), restarts);
        match idempotent {
            true => assert_eq!(ran, Ok(json!("done"))),
            false => assert_eq!(ran, Err(ToolErrorKind::UnknownOutcome)),
        }
        assert_eq!(tool.begun(), begun);
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_that_stays_repeats_nothing() {
    let cases = [
        (true, ToolErrorKind::Unavailable),
        (false, ToolErrorKind::UnknownOutcome),
    ];
    for (idempotent, kind) in cases {
        let fails = StoreError::Unavailable("it cannot be read".to_owned());
        let link = Link::new(&Tool::default(), Some(Err(fails)));
        let ran = link.call(idempotent, &CancellationToken::new()).await;
        assert_eq!(ran, Err(kind));
        assert_eq!(link.asked.load(Ordering::Relaxed), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_tool_that_is_cut_off_again_and_again_is_repeated_with_pauses_until_its_time_is_up() {
    let link = Link::new(&Tool::default(), Some(Ok(ToolAnswer::Unknown)));
    let cancel = CancellationToken::new();
    let time = async {
        tokio::time::sleep(MINUTE).await;
        cancel.cancel();
    };
    let (ran, ()) = tokio::join!(link.call(true, &cancel), time);
    assert_eq!(ran, Err(ToolErrorKind::Cancelled));
    let asked = link.asked.load(Ordering::Relaxed);
    assert!((2..=61).contains(&asked), "{asked}");
}

#[tokio::test(start_paused = true)]
async fn a_cancel_stops_what_the_daemon_runs() {
    let tool = Tool::default();
    let link = Link::new(&tool, None);
    let cancel = CancellationToken::new();
    let cancels = async {
        tokio::time::sleep(MINUTE).await;
        cancel.cancel();
    };
    let (ran, ()) = tokio::join!(link.call(true, &cancel), cancels);
    assert_eq!(ran, Err(ToolErrorKind::Cancelled));
    assert_eq!((tool.begun(), tool.stopped()), (1, 1));
}

#[test]
fn an_answer_can_be_read_back_however_deep_its_output() {
    let nested = |levels| (0..levels).fold(Value::Null, |inner, _| json!([inner]));
    for levels in [1, 100] {
        let output = readable(nested(levels)).unwrap();
        let answer = EngineAnswer::Tool(ToolAnswer::Ended(Ok(output)));
        let text = serde_json::to_string(&answer).unwrap();
        let read: EngineAnswer = serde_json::from_str(&text).unwrap();
        assert_eq!(read, answer);
    }
    for levels in [101, 126] {
        let error = readable(nested(levels)).unwrap_err();
        assert_eq!(error.kind, ToolErrorKind::OutputTooLarge);
    }
}
