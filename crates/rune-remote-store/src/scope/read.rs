//! What a replica may read.

use rune_store_runtime::{DeploymentId, RequestId, UsageFilter};

use super::{Checked, DeploymentScope, Rows, denied};
use crate::Read;

impl DeploymentScope {
    /// Whether a replica may read this.
    pub(crate) async fn check_read(&self, rows: Rows<'_>, read: &Read) -> Checked {
        match read {
            Read::Request { id }
            | Read::Journal { id, .. }
            | Read::ToolInvocations { id }
            | Read::Reservation { id } => self.request(rows, *id).await.map(drop),
            Read::Requests { filter, .. } | Read::RequestCount { filter } => {
                self.deployment(filter.deployment_id)
            }
            Read::Session { id }
            | Read::Messages { id, .. }
            | Read::RecentMessages { id, .. }
            | Read::SpilledOutput { id, .. } => self.session(rows, id).await,
            Read::Sessions { filter, .. } => {
                match (filter.namespace.as_deref(), filter.agent.as_deref()) {
                    (Some(namespace), Some(agent)) if self.is_agent(namespace, agent) => Ok(()),
                    _ => denied("only sessions of this agent can be listed"),
                }
            }
            // Its row has the variables of every release; a replica is told its own when it starts.
            Read::Deployment { .. } | Read::Deployments { .. } => {
                denied("deployments are not a replica's")
            }
            Read::Replica { id } => match rows.replica(*id).await? {
                Some(row) if row.deployment_id == self.deployment_id => Ok(()),
                _ => denied("the replica is none of this deployment"),
            },
            Read::Replicas { filter, .. } => self.deployment(filter.deployment_id),
            Read::Version { id } => {
                if *id == self.version_id {
                    return Ok(());
                }
                denied("the version is not the one that the replica runs")
            }
            Read::Cached { key, .. } => self.process_key(rows, key).await,
            Read::Schedule { id } => match rows.schedule(*id).await? {
                Some(row) if row.spec.created_by == Some(self.maker()) => Ok(()),
                _ => denied("the schedule was not made by this agent"),
            },
            Read::Schedules { filter, .. } => {
                if filter.created_by == Some(self.maker()) {
                    return Ok(());
                }
                denied("only schedules that this agent made can be listed")
            }
            Read::Approval { id } => match rows.approval(*id).await? {
                Some(row) => self.request(rows, row.request_id).await.map(drop),
                None => denied("the approval is none of this deployment"),
            },
            Read::Approvals { filter, .. } => self.of_request(rows, filter.request_id).await,
            Read::Grant { query } => {
                if !self.is_agent(&query.namespace, &query.agent) {
                    return denied("the agent is another one");
                }
                self.session(rows, &query.session_id).await
            }
            Read::Usage {
                filter: UsageFilter { request_id, .. },
                ..
            }
            | Read::UsageTotals {
                filter: UsageFilter { request_id, .. },
                ..
            } => self.of_request(rows, *request_id).await,
            Read::Memory { scope, .. }
            | Read::Memories { scope, .. }
            | Read::Entity { scope, .. }
            | Read::Entities { scope, .. }
            | Read::FindEntities { scope, .. }
            | Read::Relations { scope, .. } => self.memory(scope),
            Read::Task { id } => match rows.task(*id).await? {
                Some(row) if row.namespace == self.namespace => Ok(()),
                _ => denied("the task is none of this namespace"),
            },
            Read::Tasks { filter, .. } => {
                let namespace = filter.namespace.as_deref();
                namespace.map_or_else(
                    || denied("tasks of all namespaces"),
                    |it| self.namespace(it),
                )
            }
            Read::Versions { .. } => denied("the registry is not a replica's"),
            Read::ScheduleFires { .. } => denied("fires are not a replica's"),
            Read::Audit { .. } => denied("the audit trail is not a replica's"),
            Read::Budgets { .. } | Read::Reservations { .. } => {
                denied("what others spend is not a replica's")
            }
            Read::Event { .. } | Read::Events { .. } => denied("events are not a replica's"),
            Read::Outbox { .. } => denied("the outbox is not a replica's"),
            Read::Push { .. }
            | Read::Pushes { .. }
            | Read::DuePushes { .. }
            | Read::NextPush { .. }
            | Read::HasOpenPushes {} => denied("webhooks are not a replica's"),
            Read::Secret { .. } | Read::Secrets { .. } => denied("secrets are not a replica's"),
        }
    }

    fn deployment(&self, id: Option<DeploymentId>) -> Checked {
        if id == Some(self.deployment_id) {
            return Ok(());
        }
        denied("the deployment is another one")
    }

    async fn of_request(&self, rows: Rows<'_>, id: Option<RequestId>) -> Checked {
        match id {
            Some(id) => self.request(rows, id).await.map(drop),
            None => denied("only those of one request of this deployment can be listed"),
        }
    }
}
