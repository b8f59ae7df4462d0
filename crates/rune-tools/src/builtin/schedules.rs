//! What the tools about schedules share.

use rune_store_runtime::{
    DeleteSchedule, PageRequest, ScheduleFilter, ScheduleId, ScheduleKind, ScheduleRow,
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::parse;
use crate::{ToolContext, ToolError};

/// Schedules that are looked at; one agent has far fewer.
const MOST: u32 = PageRequest::MAX_LIMIT;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    name: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Filter {
    name: Option<String>,
}

/// A schedule as a model sees it.
pub(super) fn show(row: &ScheduleRow) -> Value {
    let mut shown = json!({
        "id": row.id,
        "name": row.spec.name,
        "agent": format!("{}/{}", row.spec.namespace, row.spec.agent),
        "input": row.spec.input,
        "overlap": row.spec.overlap.as_str(),
        "paused": row.paused,
    });
    match &row.spec.kind {
        ScheduleKind::Cron {
            expression,
            timezone,
        } => {
            shown["cron"] = expression.as_str().into();
            shown["timezone"] = timezone.as_str().into();
        }
        ScheduleKind::Interval { every_ms, .. } => shown["every_ms"] = (*every_ms).into(),
        ScheduleKind::Event { topic } => shown["on_event"] = topic.as_str().into(),
    }
    if let Some(next) = row.next_fire_at {
        shown["next_fire_at"] = next.to_string().into();
    }
    if let Some(fire) = &row.last_fire {
        shown["last_fire"] = json!({
            "planned_at": fire.planned_at,
            "state": fire.state.as_str(),
            "reason": fire.reason,
            "request_id": fire.request_id,
        });
    }
    shown
}

/// The schedules that the agent has made and that are of this sort.
pub(super) async fn list(
    context: &ToolContext,
    input: Value,
    wanted: fn(&ScheduleKind) -> bool,
) -> Result<Value, ToolError> {
    let Filter { name } = parse(input)?;
    let rows = own(context, name).await?;
    let shown = rows.iter().filter(|row| wanted(&row.spec.kind)).map(show);
    Ok(json!({ "schedules": shown.collect::<Vec<_>>() }))
}

/// Deletes a schedule that the agent has made and that is of this sort.
pub(super) async fn delete(
    context: &ToolContext,
    input: Value,
    wanted: fn(&ScheduleKind) -> bool,
) -> Result<Value, ToolError> {
    let Named { name } = parse(input)?;
    let rows = match name.parse::<ScheduleId>() {
        Ok(id) => own(context, None)
            .await?
            .into_iter()
            .filter(|row| row.id == id)
            .collect(),
        Err(_) => own(context, Some(name.clone())).await?,
    };
    let mut rows = rows.into_iter().filter(|row| wanted(&row.spec.kind));
    let Some(row) = rows.next() else {
        return Err(ToolError::not_found(format!(
            "this agent has made no schedule `{name}`"
        )));
    };
    let delete = DeleteSchedule {
        schedule_id: row.id,
    };
    context.store.write(delete).await?;
    Ok(json!({ "name": row.spec.name, "deleted": true }))
}

async fn own(context: &ToolContext, name: Option<String>) -> Result<Vec<ScheduleRow>, ToolError> {
    let filter = ScheduleFilter {
        name,
        created_by: Some(context.engine()?.maker()),
        ..ScheduleFilter::default()
    };
    let page = PageRequest::first(MOST);
    Ok(context.store.schedules(&filter, &page).await?.items)
}
