//! Tasks that agents leave for each other.

use std::cmp::Reverse;

use async_trait::async_trait;
use rune_store_runtime::limits::{
    MAX_ENDED_TASKS, MAX_QUEUE_NAME_BYTES, MAX_QUEUE_TASKS, MAX_TASK_BYTES, MAX_TASK_LEASE,
};
use rune_store_runtime::{
    ClaimTask, Command, CompleteTask, Page, PageRequest, PostTask, Reject, StoreError, TaskFilter,
    TaskId, TaskReader, TaskRow, TaskState,
};

use super::apply::check_json;
use super::page::page;
use super::{FakeStore, State, is};

impl State {
    pub(super) fn post_task(&mut self, command: &Command, op: &PostTask) -> Result<(), Reject> {
        let named = !op.queue.is_empty() && op.queue.len() <= MAX_QUEUE_NAME_BYTES;
        if !named || op.max_attempts == 0 {
            return Err(Reject::invalid("a queue has a name, a task an attempt"));
        }
        check_json(&op.title, MAX_TASK_BYTES)?;
        check_json(&op.payload, MAX_TASK_BYTES)?;
        if self.tasks.iter().any(|(_, row)| row.id == op.task_id) {
            return Ok(());
        }
        let waiting = self.tasks.iter().filter(|(_, row)| {
            row.namespace == op.namespace && row.queue == op.queue && !row.state.has_ended()
        });
        if waiting.count() >= MAX_QUEUE_TASKS as usize {
            return Err(Reject::conflict("the queue is full"));
        }
        self.created += 1;
        self.tasks
            .push((self.created, TaskRow::posted(op, command.at)));
        Ok(())
    }

    pub(super) fn claim_task(
        &mut self,
        command: &Command,
        op: &ClaimTask,
    ) -> Result<Option<Box<TaskRow>>, Reject> {
        if op.lease_ms == 0 || u128::from(op.lease_ms) > MAX_TASK_LEASE.as_millis() {
            return Err(Reject::invalid("the lease is too long or none"));
        }
        let now = command.at;
        loop {
            let extends = |row: &TaskRow| {
                op.task_id.is_some()
                    && !row.is_free(now)
                    && row.state == TaskState::Claimed
                    && row.holder.as_ref() == Some(&op.holder)
            };
            let candidates = self.tasks.iter_mut().filter(|(_, row)| {
                row.namespace == op.namespace
                    && row.queue == op.queue
                    && op.task_id.is_none_or(|id| row.id == id)
                    && (row.is_free(now) || extends(row))
            });
            let first = candidates.min_by_key(|(created, row)| (Reverse(row.priority), *created));
            let Some((_, row)) = first else {
                return Ok(None);
            };
            if !extends(row) && row.attempts >= row.max_attempts {
                *row = row.clone().given_up(now);
                let (namespace, queue) = (row.namespace.clone(), row.queue.clone());
                self.forget_oldest_tasks(&namespace, &queue);
                continue;
            }
            *row = row.clone().leased(op, now);
            return Ok(Some(Box::new(row.clone())));
        }
    }

    pub(super) fn complete_task(
        &mut self,
        command: &Command,
        op: &CompleteTask,
    ) -> Result<(), Reject> {
        if op.state == TaskState::Claimed {
            return Err(Reject::invalid("a task is done, failed or open"));
        }
        check_json(&op.result, MAX_TASK_BYTES)?;
        let mut rows = self.tasks.iter_mut();
        let found = rows.find(|(_, row)| row.id == op.task_id && row.namespace == op.namespace);
        let Some((_, row)) = found else {
            return Err(Reject::not_found("task", &op.task_id));
        };
        let changed = row.clone().completed(op, command.at);
        *row = changed.map_err(Reject::conflict)?;
        let (namespace, queue) = (row.namespace.clone(), row.queue.clone());
        self.forget_oldest_tasks(&namespace, &queue);
        Ok(())
    }

    fn forget_oldest_tasks(&mut self, namespace: &str, queue: &str) {
        let ended = |row: &TaskRow| {
            row.namespace == namespace && row.queue == queue && row.state.has_ended()
        };
        let numbers = self.tasks.iter().rev().filter(|(_, row)| ended(row));
        let oldest = numbers
            .map(|(created, _)| *created)
            .nth(MAX_ENDED_TASKS as usize);
        if let Some(oldest) = oldest {
            self.tasks
                .retain(|(created, row)| *created > oldest || !ended(row));
        }
    }
}

#[async_trait]
impl TaskReader for FakeStore {
    async fn task(&self, id: TaskId) -> Result<Option<TaskRow>, StoreError> {
        let state = self.state();
        let found = state.tasks.iter().find(|(_, row)| row.id == id);
        Ok(found.map(|(_, row)| row.clone()))
    }

    async fn tasks(
        &self,
        filter: &TaskFilter,
        request: &PageRequest,
    ) -> Result<Page<TaskRow>, StoreError> {
        let state = self.state();
        let rows = state.tasks.iter().filter(|(_, row)| {
            is(filter.namespace.as_ref(), &row.namespace)
                && is(filter.queue.as_ref(), &row.queue)
                && is(filter.state.as_ref(), &row.state)
        });
        page(
            "tasks",
            request,
            rows.map(|(created, row)| (-created, row.clone())),
        )
    }
}
