//! Doing things that depend on each other, as many at a time as may be.

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use crate::failure::{Failure, Outcome};

/// Most things at a time.
const MAX_AT_ONCE: usize = 8;

/// How one of them ended.
#[derive(Debug)]
pub(super) enum Ended<T> {
    /// It was done.
    Done(T),
    /// It was tried.
    Failed(Failure),
    /// It was not tried because this one was not done.
    Skipped(usize),
}

/// Does each thing once everything it depends on is done. A thing whose dependency is not done is not tried; the others
/// go on.
pub(super) async fn in_order<T, F: Future<Output = Outcome<T>>>(
    dependencies: &[Vec<usize>],
    work: impl Fn(usize) -> F,
) -> Vec<Ended<T>> {
    let mut ended: Vec<Option<Ended<T>>> = dependencies.iter().map(|_| None).collect();
    let mut started = vec![false; dependencies.len()];
    let mut running = FuturesUnordered::new();
    loop {
        skip(dependencies, &mut ended);
        for (index, needed) in dependencies.iter().enumerate() {
            let may_start = !started[index]
                && ended[index].is_none()
                && running.len() < MAX_AT_ONCE
                && needed
                    .iter()
                    .all(|&other| matches!(ended[other], Some(Ended::Done(_))));
            if may_start {
                started[index] = true;
                let work = work(index);
                running.push(async move { (index, work.await) });
            }
        }
        let Some((index, result)) = running.next().await else {
            break;
        };
        ended[index] = Some(match result {
            Ok(value) => Ended::Done(value),
            Err(failure) => Ended::Failed(failure),
        });
    }
    ended.into_iter().flatten().collect()
}

/// Marks what can no longer be tried.
fn skip<T>(dependencies: &[Vec<usize>], ended: &mut [Option<Ended<T>>]) {
    let blocked = |ended: &[Option<Ended<T>>]| {
        dependencies.iter().enumerate().find_map(|(index, needed)| {
            let is_lost = |&&other: &&usize| {
                matches!(ended[other], Some(Ended::Failed(_) | Ended::Skipped(_)))
            };
            let lost = needed.iter().find(is_lost)?;
            ended[index].is_none().then_some((index, *lost))
        })
    };
    while let Some((index, lost)) = blocked(ended) {
        ended[index] = Some(Ended::Skipped(lost));
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;
    use crate::failure::Exit;

    /// 0 ← 1 ← 3, 0 ← 2, and 4 alone.
    fn graph() -> Vec<Vec<usize>> {
        vec![vec![], vec![0], vec![0], vec![1], vec![]]
    }

    #[tokio::test]
    async fn dependencies_come_first() {
        let log = RefCell::new(Vec::new());
        let ended = in_order(&graph(), |index| {
            log.borrow_mut().push(index);
            async move { Ok(index) }
        })
        .await;
        assert_eq!(ended.len(), 5);
        let log = log.into_inner();
        let at = |index| log.iter().position(|&seen| seen == index).unwrap();
        assert!(at(0) < at(1) && at(1) < at(3) && at(0) < at(2), "{log:?}");
    }

    #[tokio::test]
    async fn what_depends_on_a_failure_is_not_tried_and_the_rest_is() {
        let ended = in_order(&graph(), |index| async move {
            if index == 1 {
                return Err(Failure::new(Exit::Failed, "no"));
            }
            Ok(index)
        })
        .await;
        let words: Vec<&str> = ended
            .iter()
            .map(|ended| match ended {
                Ended::Done(_) => "done",
                Ended::Failed(_) => "failed",
                Ended::Skipped(_) => "skipped",
            })
            .collect();
        assert_eq!(words, ["done", "failed", "done", "skipped", "done"]);
        assert!(matches!(ended[3], Ended::Skipped(1)));
    }

    #[tokio::test]
    async fn what_needs_nothing_of_each_other_runs_at_the_same_time() {
        let both = tokio::sync::Barrier::new(2);
        let ended = in_order(&[vec![], vec![]], |_| async {
            both.wait().await;
            Ok(())
        })
        .await;
        assert_eq!(ended.len(), 2);
    }
}
