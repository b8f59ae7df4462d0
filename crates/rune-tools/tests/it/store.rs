//! A store that holds memories and nothing else.

use std::collections::BTreeMap;
use std::sync::Mutex;

use async_trait::async_trait;
use rune_store_runtime::*;

#[derive(Default)]
pub(crate) struct MemoryRows {
    rows: Mutex<BTreeMap<(MemoryScope, String), MemoryRow>>,
}

#[async_trait]
impl CommandLog for MemoryRows {
    async fn submit(&self, command: Command) -> Result<Reply, StoreError> {
        let Op::MemoryPut(put) = command.op else {
            unreachable!("the tools write memories only")
        };
        let row = MemoryRow {
            key: put.key.clone(),
            value: put.value,
            tags: put.tags,
            created_at: command.at,
            updated_at: command.at,
        };
        self.rows.lock().unwrap().insert((put.scope, put.key), row);
        Ok(Reply::Unit(()))
    }
}

#[async_trait]
impl MemoryReader for MemoryRows {
    async fn memory(
        &self,
        scope: &MemoryScope,
        key: &str,
    ) -> Result<Option<MemoryRow>, StoreError> {
        let rows = self.rows.lock().unwrap();
        Ok(rows.get(&(scope.clone(), key.to_owned())).cloned())
    }

    async fn memories(
        &self,
        scope: &MemoryScope,
        query: &MemoryQuery,
        page: &PageRequest,
    ) -> Result<Page<MemoryRow>, StoreError> {
        let rows = self.rows.lock().unwrap();
        let words = query.text.clone().unwrap_or_default().to_lowercase();
        let mut items: Vec<MemoryRow> = rows
            .iter()
            .filter(|((of, key), row)| {
                let text = format!("{key} {:?} {}", row.tags, row.value).to_lowercase();
                of == scope
                    && query
                        .prefix
                        .as_ref()
                        .is_none_or(|prefix| key.starts_with(prefix))
                    && page.cursor.as_ref().is_none_or(|cursor| key > cursor)
                    && words.split_whitespace().all(|word| text.contains(word))
            })
            .map(|(_, row)| row.clone())
            .collect();
        let more = items.len() > page.limit as usize;
        items.truncate(page.limit as usize);
        let next = items.last().map(|row| row.key.clone()).filter(|_| more);
        Ok(Page { items, next })
    }
}

fn none<T>() -> Result<T, StoreError> {
    Err(StoreError::Unavailable("memories only".to_owned()))
}

#[async_trait]
impl RequestReader for MemoryRows {
    async fn request(&self, _: RequestId) -> Result<Option<RequestRow>, StoreError> {
        none()
    }
    async fn requests(
        &self,
        _: &RequestFilter,
        _: &PageRequest,
    ) -> Result<Page<RequestRow>, StoreError> {
        none()
    }
    async fn journal(&self, _: RequestId, _: u64, _: u32) -> Result<Vec<Entry>, StoreError> {
        none()
    }
    async fn tool_invocations(&self, _: RequestId) -> Result<Vec<ToolInvocationRow>, StoreError> {
        none()
    }
}

#[async_trait]
impl SessionReader for MemoryRows {
    async fn session(&self, _: &SessionId) -> Result<Option<SessionRow>, StoreError> {
        none()
    }
    async fn sessions(
        &self,
        _: &SessionFilter,
        _: &PageRequest,
    ) -> Result<Page<SessionRow>, StoreError> {
        none()
    }
    async fn messages(
        &self,
        _: &SessionId,
        _: &PageRequest,
    ) -> Result<Page<MessageRow>, StoreError> {
        none()
    }
    async fn recent_messages(&self, _: &SessionId, _: u32) -> Result<Vec<MessageRow>, StoreError> {
        none()
    }
}

#[async_trait]
impl DeploymentReader for MemoryRows {
    async fn deployment(&self, _: DeploymentId) -> Result<Option<DeploymentRow>, StoreError> {
        none()
    }
    async fn deployments(
        &self,
        _: &DeploymentFilter,
        _: &PageRequest,
    ) -> Result<Page<DeploymentRow>, StoreError> {
        none()
    }
    async fn replica(&self, _: ReplicaId) -> Result<Option<ReplicaRow>, StoreError> {
        none()
    }
    async fn replicas(
        &self,
        _: &ReplicaFilter,
        _: &PageRequest,
    ) -> Result<Page<ReplicaRow>, StoreError> {
        none()
    }
}

#[async_trait]
impl RegistryReader for MemoryRows {
    async fn version(&self, _: VersionId) -> Result<Option<VersionRow>, StoreError> {
        none()
    }
    async fn versions(
        &self,
        _: &VersionFilter,
        _: &PageRequest,
    ) -> Result<Page<VersionRow>, StoreError> {
        none()
    }
}

#[async_trait]
impl CacheReader for MemoryRows {
    async fn cached(&self, _: &str, _: Timestamp) -> Result<Option<CacheRow>, StoreError> {
        none()
    }
}

#[async_trait]
impl ScheduleReader for MemoryRows {
    async fn schedule(&self, _: ScheduleId) -> Result<Option<ScheduleRow>, StoreError> {
        none()
    }
    async fn schedules(
        &self,
        _: &ScheduleFilter,
        _: &PageRequest,
    ) -> Result<Page<ScheduleRow>, StoreError> {
        none()
    }
    async fn schedule_fires(
        &self,
        _: ScheduleId,
        _: &PageRequest,
    ) -> Result<Page<ScheduleFireRow>, StoreError> {
        none()
    }
}

#[async_trait]
impl AuditReader for MemoryRows {
    async fn audit(&self, _: &AuditFilter, _: &PageRequest) -> Result<Page<AuditRow>, StoreError> {
        none()
    }
}

#[async_trait]
impl UsageReader for MemoryRows {
    async fn usage(&self, _: &UsageFilter, _: &PageRequest) -> Result<Page<UsageRow>, StoreError> {
        none()
    }
}
