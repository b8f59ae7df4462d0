//! Everything that a store answers, as text, to compare two stores.

use std::fmt::Write;

use rune_store_runtime::{
    ApprovalFilter, AuditFilter, BudgetFilter, DeploymentFilter, EventFilter, FireFilter,
    GrantQuery, MemoryQuery, MemoryScope, OutboxFilter, PageRequest, RelationFilter, ReplicaFilter,
    RequestFilter, RuntimeStore, ScheduleFilter, SecretFilter, SessionFilter, StoreError,
    TaskFilter, Timestamp, UsageFilter, VersionFilter,
};

/// Every list of the store and everything below its rows, read in small pages;
/// of cache and memory the given keys and scopes.
///
/// # Errors
/// As reading.
pub async fn snapshot(
    store: &dyn RuntimeStore,
    cache: &[&str],
    scopes: &[MemoryScope],
) -> Result<String, StoreError> {
    let mut text = String::new();
    macro_rules! list {
        ($list:ident($($filter:expr),*) $($more:expr)?) => {{
            let mut page = PageRequest::first(3);
            let mut rows = Vec::new();
            loop {
                let part = store.$list($($filter,)* &page $(, $more)?).await?;
                rows.extend(part.items);
                page.cursor = part.next;
                if page.cursor.is_none() { break rows; }
            }
        }};
    }
    macro_rules! show {
        ($value:expr) => {{
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{:?}", $value);
        }};
    }
    for row in list!(sessions(&SessionFilter::default())) {
        show!(list!(messages(&row.id)));
        show!(list!(recent_messages(&row.id) None));
        show!(row);
    }
    for row in list!(requests(&RequestFilter::default())) {
        show!(store.journal(row.id, 0, 1000).await?);
        show!(store.tool_invocations(row.id).await?);
        show!(row);
    }
    show!(list!(deployments(&DeploymentFilter::default())));
    show!(list!(replicas(&ReplicaFilter::default())));
    show!(list!(versions(&VersionFilter::default())));
    for row in list!(schedules(&ScheduleFilter::default())) {
        show!(row);
    }
    show!(list!(schedule_fires(&FireFilter::default())));
    for row in list!(approvals(&ApprovalFilter::default())) {
        let question = &row.question;
        let query = GrantQuery {
            namespace: row.namespace.clone(),
            agent: row.agent.clone(),
            session_id: row.session_id.clone(),
            tool: question.tool.clone(),
            policies: question.policies.clone(),
        };
        show!(store.grant(&query).await?);
        show!(row);
    }
    show!(list!(audit(&AuditFilter::default())));
    show!(list!(usage(&UsageFilter::default())));
    show!(list!(budgets(&BudgetFilter::default())));
    show!(list!(reservations()));
    for row in list!(tasks(&TaskFilter::default())) {
        show!(row);
    }
    for row in list!(events(&EventFilter::default())) {
        show!(row);
    }
    for row in list!(outbox(&OutboxFilter::default())) {
        show!(row);
    }
    for row in list!(secrets(&SecretFilter::default())) {
        show!(row);
    }
    for scope in scopes {
        show!(list!(memories(scope, &MemoryQuery::default())));
        show!(list!(entities(scope, None)));
        show!(list!(relations(scope, &RelationFilter::default())));
    }
    for key in cache {
        show!(store.cached(key, Timestamp::from_millis(0)).await?);
    }
    Ok(text)
}
