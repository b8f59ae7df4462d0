//! Messages that wait for a channel.

use async_trait::async_trait;
use rune_store_runtime::limits::{MAX_MESSAGE_BYTES, MAX_OUTBOX_MESSAGES, MAX_QUEUE_NAME_BYTES};
use rune_store_runtime::{
    Command, OutboxFilter, OutboxReader, OutboxRow, Page, PageRequest, QueueMessage, Reject,
    StoreError,
};

use super::page::page;
use super::{FakeStore, State, is};

impl State {
    pub(super) fn queue_message(
        &mut self,
        command: &Command,
        op: &QueueMessage,
    ) -> Result<(), Reject> {
        let within = |text: &str, most| !text.is_empty() && text.len() <= most;
        if !within(&op.channel, MAX_QUEUE_NAME_BYTES)
            || !within(&op.recipient, MAX_QUEUE_NAME_BYTES)
            || !within(&op.text, MAX_MESSAGE_BYTES)
        {
            return Err(Reject::invalid("a part of the message has no right length"));
        }
        if self.outbox.iter().any(|(_, row)| row.id == op.message_id) {
            return Ok(());
        }
        let waiting = self.outbox.iter();
        let waiting = waiting.filter(|(_, row)| row.namespace == op.namespace);
        if waiting.count() >= MAX_OUTBOX_MESSAGES as usize {
            return Err(Reject::conflict("the outbox is full"));
        }
        let row = OutboxRow {
            id: op.message_id,
            namespace: op.namespace.clone(),
            agent: op.agent.clone(),
            channel: op.channel.clone(),
            recipient: op.recipient.clone(),
            text: op.text.clone(),
            request_id: op.request_id,
            created_at: command.at,
        };
        self.created += 1;
        self.outbox.push((self.created, row));
        Ok(())
    }
}

#[async_trait]
impl OutboxReader for FakeStore {
    async fn outbox(
        &self,
        filter: &OutboxFilter,
        request: &PageRequest,
    ) -> Result<Page<OutboxRow>, StoreError> {
        let state = self.state();
        let rows = state.outbox.iter().filter(|(_, row)| {
            is(filter.namespace.as_ref(), &row.namespace)
                && is(filter.channel.as_ref(), &row.channel)
        });
        page(
            "outbox",
            request,
            rows.map(|(created, row)| (*created, row.clone())),
        )
    }
}
