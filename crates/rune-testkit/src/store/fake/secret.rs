//! Secrets, as they are stored.

use async_trait::async_trait;
use rune_store_runtime::limits::{MAX_QUEUE_NAME_BYTES, MAX_SEALED_SECRET_BYTES, MAX_SECRETS};
use rune_store_runtime::{
    Command, Page, PageRequest, PutSecret, Reject, RemoveSecret, SecretFilter, SecretReader,
    SecretRow, StoreError, is_secret_name,
};

use super::page::page;
use super::{FakeStore, State, is};

impl State {
    pub(super) fn put_secret(&mut self, command: &Command, op: &PutSecret) -> Result<(), Reject> {
        let within = |length, most| (1..=most).contains(&length);
        if !within(op.namespace.len(), MAX_QUEUE_NAME_BYTES)
            || !within(op.sealed.key_id.len(), MAX_QUEUE_NAME_BYTES)
            || !within(op.sealed.bytes.len(), MAX_SEALED_SECRET_BYTES)
            || !is_secret_name(&op.name)
        {
            return Err(Reject::invalid("a part of the secret breaks a rule"));
        }
        let key = (op.namespace.clone(), op.name.clone());
        let known = self.secrets.get(&key).map(|row| row.created_at);
        let stored = self.secrets.keys();
        let stored = stored.filter(|(namespace, _)| *namespace == op.namespace);
        if known.is_none() && stored.count() >= MAX_SECRETS as usize {
            return Err(Reject::conflict("the namespace has too many secrets"));
        }
        let row = SecretRow {
            namespace: op.namespace.clone(),
            name: op.name.clone(),
            sealed: op.sealed.clone(),
            updated_by: op.by.clone(),
            created_at: known.unwrap_or(command.at),
            updated_at: command.at,
        };
        self.secrets.insert(key, row);
        Ok(())
    }

    pub(super) fn remove_secret(&mut self, op: &RemoveSecret) -> Result<(), Reject> {
        let key = (op.namespace.clone(), op.name.clone());
        match self.secrets.remove(&key) {
            Some(_) => Ok(()),
            None => Err(Reject::not_found("secret", &format!("{}/{}", key.0, key.1))),
        }
    }
}

#[async_trait]
impl SecretReader for FakeStore {
    async fn secret(&self, namespace: &str, name: &str) -> Result<Option<SecretRow>, StoreError> {
        let key = (namespace.to_owned(), name.to_owned());
        Ok(self.state().secrets.get(&key).cloned())
    }

    async fn secrets(
        &self,
        filter: &SecretFilter,
        request: &PageRequest,
    ) -> Result<Page<SecretRow>, StoreError> {
        let state = self.state();
        let rows = state.secrets.iter();
        let rows = rows.filter(|(_, row)| is(filter.namespace.as_ref(), &row.namespace));
        page(
            "secrets",
            request,
            rows.map(|(key, row)| (key.clone(), row.clone())),
        )
    }
}
