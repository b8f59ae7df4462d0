//! Schedules and their fires.

mod body;
mod view;

use std::sync::Arc;

use axum::extract::State;
use http::StatusCode;
use rune_http::{ApiError, Caller, ErrorBody, Json, List, ListPage, PageQuery, Path};
use rune_runtime::{Recurrence, first_planned};
use rune_store_runtime::{
    DeleteSchedule, DeploymentFilter, ErrorCode, FireFilter, FireState, PageRequest, PauseSchedule,
    PutSchedule, RecordAudit, ScheduleFilter, ScheduleId, ScheduleRow, ScheduleSpec,
};
use serde::Deserialize;
use utoipa::IntoParams;

use crate::audit;
use crate::control_plane::Shared;

pub(crate) use body::CreateRequest;
pub(crate) use view::{FireView, ScheduleView};

/// The namespace of a schedule that is named without one.
const DEV: &str = "dev";
/// How many planned times are shown ahead.
const UPCOMING: usize = 5;

/// Which schedules to list.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListQuery {
    /// Only in this namespace.
    ns: Option<String>,
    /// Only of this agent.
    agent: Option<String>,
}

/// Which fires to list.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct FiresQuery {
    /// Only in this state: `pending`, `fired`, `skipped` or `failed`.
    #[param(value_type = Option<String>)]
    state: Option<FireState>,
}

/// Creates a schedule. The agent must be deployed; where it is not when the schedule
/// fires, the fire fails and says so.
#[utoipa::path(
    post, path = "/v1/schedules", tag = "schedules", request_body(content = CreateRequest, example = json!({"name": "nightly", "agent": "hello", "input": "Sum up the day.", "cron": "0 3 * * *", "timezone": "Europe/Berlin"})),
    responses(
        (status = 201, body = ScheduleView, description = "Created"),
        (status = 404, body = ErrorBody, description = "The agent is not deployed"),
        (status = 409, body = ErrorBody, description = "The namespace has another schedule of the name"),
    )
)]
pub(crate) async fn create(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    Json(body): Json<CreateRequest>,
) -> Result<(StatusCode, Json<ScheduleView>), ApiError> {
    let now = shared.store.now();
    let paused = body.paused;
    let spec = body.into_spec(now)?;
    let next_fire_at = first_planned(&spec.kind, now)?;
    let filter = DeploymentFilter {
        namespace: Some(spec.namespace.clone()),
        agent: Some(spec.agent.clone()),
        alias: Some(spec.alias.clone()),
        project: None,
    };
    let page = PageRequest::first(1);
    let deployed = shared.store.deployments(&filter, &page).await?;
    if deployed.items.is_empty() {
        let message = format!(
            "agent `{}` is not deployed in namespace `{}` under alias `{}`",
            spec.agent, spec.namespace, spec.alias
        );
        return Err(ApiError::new(ErrorCode::NotFound, message));
    }
    let put = PutSchedule {
        schedule_id: ScheduleId::generate(),
        spec,
        paused,
        next_fire_at: next_fire_at.filter(|_| !paused),
    };
    let id = put.schedule_id;
    let audit = trail(&caller, "schedule.create", &put.spec, id);
    shared.store.write_audited(put, audit).await?;
    let row = changed(&shared, id).await?;
    Ok((StatusCode::CREATED, Json(row.into())))
}

/// Schedules by namespace and name.
#[utoipa::path(
    get, path = "/v1/schedules", tag = "schedules", params(ListQuery, PageQuery),
    responses(
        (status = 200, body = ListPage<ScheduleView>, description = "A part of the list"),
    )
)]
pub(crate) async fn list(
    State(shared): State<Arc<Shared>>,
    List { filter, page }: List<ListQuery>,
) -> Result<Json<ListPage<ScheduleView>>, ApiError> {
    let filter = ScheduleFilter {
        namespace: filter.ns,
        agent: filter.agent,
        ..ScheduleFilter::default()
    };
    let found = shared.store.schedules(&filter, &page).await?;
    Ok(Json(found.map(ScheduleView::from).into()))
}

/// One schedule with the planned times ahead of it.
#[utoipa::path(
    get, path = "/v1/schedules/{id}", tag = "schedules",
    params(("id" = String, Path, description = "Its id, its name, or `namespace/name` (with `%2F`)")),
    responses(
        (status = 200, body = ScheduleView, description = "The schedule"),
        (status = 404, body = ErrorBody, description = "The schedule does not exist"),
    )
)]
pub(crate) async fn get(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
) -> Result<Json<ScheduleView>, ApiError> {
    let row = find(&shared, &id).await?;
    let recurrence = Recurrence::new(&row.spec.kind)?;
    let upcoming = std::iter::successors(row.next_fire_at, |time| recurrence.next_after(*time));
    let upcoming = upcoming.take(UPCOMING).collect();
    Ok(Json(ScheduleView::from(row).with_upcoming(upcoming)))
}

/// Deletes a schedule and its fires. Requests it made stay, and go on.
#[utoipa::path(
    delete, path = "/v1/schedules/{id}", tag = "schedules",
    params(("id" = String, Path, description = "Its id, its name, or `namespace/name` (with `%2F`)")),
    responses(
        (status = 204, description = "Deleted"),
        (status = 404, body = ErrorBody, description = "The schedule does not exist"),
    )
)]
pub(crate) async fn delete(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
    caller: Caller,
) -> Result<StatusCode, ApiError> {
    let row = find(&shared, &id).await?;
    let delete = DeleteSchedule {
        schedule_id: row.id,
    };
    let audit = trail(&caller, "schedule.delete", &row.spec, row.id);
    shared.store.write_audited(delete, audit).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Holds a schedule. Planned times that pass meanwhile are not missed, they do not count.
#[utoipa::path(
    post, path = "/v1/schedules/{id}/pause", tag = "schedules",
    params(("id" = String, Path, description = "Its id, its name, or `namespace/name` (with `%2F`)")),
    responses(
        (status = 200, body = ScheduleView, description = "The schedule as it is now"),
        (status = 404, body = ErrorBody, description = "The schedule does not exist"),
    )
)]
pub(crate) async fn pause(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
    caller: Caller,
) -> Result<Json<ScheduleView>, ApiError> {
    hold(&shared, &caller, &id, true).await
}

/// Lets a schedule go on with the first planned time from now on, also where it was not
/// held.
#[utoipa::path(
    post, path = "/v1/schedules/{id}/resume", tag = "schedules",
    params(("id" = String, Path, description = "Its id, its name, or `namespace/name` (with `%2F`)")),
    responses(
        (status = 200, body = ScheduleView, description = "The schedule as it is now"),
        (status = 404, body = ErrorBody, description = "The schedule does not exist"),
    )
)]
pub(crate) async fn resume(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
    caller: Caller,
) -> Result<Json<ScheduleView>, ApiError> {
    hold(&shared, &caller, &id, false).await
}

/// Fires now, beside the planned times and whatever the policies say, also where the
/// schedule is held. Answers once the request is accepted, or could not be.
#[utoipa::path(
    post, path = "/v1/schedules/{id}/run", tag = "schedules",
    params(("id" = String, Path, description = "Its id, its name, or `namespace/name` (with `%2F`)")),
    responses(
        (status = 202, body = FireView, description = "The fire; its `state` is `fired` or `failed`"),
        (status = 404, body = ErrorBody, description = "The schedule does not exist"),
    )
)]
pub(crate) async fn run(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
    caller: Caller,
) -> Result<(StatusCode, Json<FireView>), ApiError> {
    let row = find(&shared, &id).await?;
    let audit = trail(&caller, "schedule.run", &row.spec, row.id);
    let fire = shared.scheduler.run_now(row.id, audit).await?;
    Ok((StatusCode::ACCEPTED, Json(fire.into())))
}

/// Fires of a schedule, newest planned time first; the last thousand are kept.
#[utoipa::path(
    get, path = "/v1/schedules/{id}/fires", tag = "schedules",
    params(
        ("id" = String, Path, description = "Its id, its name, or `namespace/name` (with `%2F`)"),
        FiresQuery,
        PageQuery,
    ),
    responses(
        (status = 200, body = ListPage<FireView>, description = "A part of the list"),
        (status = 404, body = ErrorBody, description = "The schedule does not exist"),
    )
)]
pub(crate) async fn fires(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
    List { filter, page }: List<FiresQuery>,
) -> Result<Json<ListPage<FireView>>, ApiError> {
    let row = find(&shared, &id).await?;
    let filter = FireFilter {
        schedule_id: Some(row.id),
        state: filter.state,
    };
    let found = shared.store.schedule_fires(&filter, &page).await?;
    Ok(Json(found.map(FireView::from).into()))
}

async fn hold(
    shared: &Shared,
    caller: &Caller,
    id: &str,
    paused: bool,
) -> Result<Json<ScheduleView>, ApiError> {
    let row = find(shared, id).await?;
    let next_fire_at = if paused {
        None
    } else {
        first_planned(&row.spec.kind, shared.store.now())?
    };
    let pause = PauseSchedule {
        schedule_id: row.id,
        paused,
        next_fire_at,
    };
    let kind = if paused {
        "schedule.pause"
    } else {
        "schedule.resume"
    };
    let audit = trail(caller, kind, &row.spec, row.id);
    shared.store.write_audited(pause, audit).await?;
    let row = changed(shared, row.id).await?;
    Ok(Json(row.into()))
}

/// What follows every change: the scheduler looks.
async fn changed(shared: &Shared, id: ScheduleId) -> Result<ScheduleRow, ApiError> {
    shared.scheduler.wake();
    let row = shared.store.schedule(id).await?;
    row.ok_or_else(|| ApiError::not_found("schedule", &id))
}

fn trail(caller: &Caller, kind: &str, spec: &ScheduleSpec, id: ScheduleId) -> Vec<RecordAudit> {
    let resource = format!("{}/{}", spec.namespace, spec.name);
    audit::row(caller, kind, resource, id.to_string())
}

/// The schedule of an id, a name, or a namespace and a name.
async fn find(shared: &Shared, text: &str) -> Result<ScheduleRow, ApiError> {
    let found = if text.starts_with(ScheduleId::PREFIX) {
        shared.store.schedule(text.parse::<ScheduleId>()?).await?
    } else {
        let (namespace, name) = text.split_once('/').unwrap_or((DEV, text));
        let filter = ScheduleFilter {
            namespace: Some(namespace.to_owned()),
            name: Some(name.to_owned()),
            ..ScheduleFilter::default()
        };
        let page = PageRequest::first(1);
        let found = shared.store.schedules(&filter, &page).await?;
        found.items.into_iter().next()
    };
    found.ok_or_else(|| ApiError::not_found("schedule", &text))
}
