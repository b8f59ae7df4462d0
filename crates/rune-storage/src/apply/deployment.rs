//! Deployments.

use rune_store_runtime::limits::MAX_ENTRY_BYTES;
use rune_store_runtime::{
    ApplyDeployment, AutoscaleDeployment, CompleteRollout, DeleteDeployment, DeploymentId,
    DeploymentRow, DeploymentState, ProjectRef, PromoteRollout, QuotaUse, Reject, ReplicaState,
    RollBack, ScaleBounds, ScaleDeployment, SetDeploymentState, StartRollout,
};
use rusqlite::{Connection, OptionalExtension, Params, params};

use super::{Context, encode, encode_within, registry};
use crate::ApplyError;
use crate::read::deployment::{DEPLOYMENT, deployment_row};
use crate::row::get;

/// Creates the deployment of (namespace, agent, alias) or moves it.
pub(super) fn put(
    db: &Connection,
    context: Context,
    op: &ApplyDeployment,
) -> Result<DeploymentRow, ApplyError> {
    let bounds = registry::by_id(db, op.version_id)?.scaling;
    let env = encode_within(&op.env, "the environment", MAX_ENTRY_BYTES)?;
    let found = find(
        db,
        "namespace = ?1 AND agent = ?2 AND alias = ?3",
        [&op.namespace, &op.agent, &op.alias],
    )?;
    let Some(mut row) = found else {
        return create(db, context, op, bounds, &env);
    };
    let refused = op.project.as_ref().and_then(|project| row.refuses(project));
    if let Some(reason) = refused {
        return Err(Reject::conflict(reason).into());
    }
    if row.deploy(op, bounds, context.at) {
        update_spec(db, context, &mut row)?;
    }
    if let Some(project) = &op.project {
        take(db, context, &mut row, project)?;
    }
    Ok(row)
}

/// Gives the deployment to a project that it does not refuse. What runs does not change, so neither does the generation.
fn take(
    db: &Connection,
    context: Context,
    row: &mut DeploymentRow,
    project: &ProjectRef,
) -> Result<(), ApplyError> {
    if row.project.as_ref() == Some(project) {
        return Ok(());
    }
    db.prepare_cached(
        "UPDATE deployments SET project = ?2, project_agent = ?3, updated_at = ?4 WHERE deployment_id = ?1",
    )?
    .execute(params![
        row.id.as_bytes(),
        project.name,
        project.agent,
        context.at.as_millis()
    ])?;
    row.project = Some(project.clone());
    row.updated_at = context.at;
    Ok(())
}

/// Changes how many replicas are wanted.
pub(super) fn scale(
    db: &Connection,
    context: Context,
    op: &ScaleDeployment,
) -> Result<DeploymentRow, ApplyError> {
    let mut row = by_id(db, op.deployment_id)?;
    if row.scale(op.replicas, context.at) {
        update_spec(db, context, &mut row)?;
    }
    Ok(row)
}

/// Writes down how many replicas the daemon has decided for.
pub(super) fn autoscale(
    db: &Connection,
    context: Context,
    op: &AutoscaleDeployment,
) -> Result<DeploymentRow, ApplyError> {
    encode_within(&op.reason, "the reason", MAX_ENTRY_BYTES)?;
    let mut row = by_id(db, op.deployment_id)?;
    row.autoscale(op, context.at)?;
    update_spec(db, context, &mut row)?;
    Ok(row)
}

/// Rolls out a version, or changes how.
pub(super) fn start_rollout(
    db: &Connection,
    context: Context,
    op: &StartRollout,
) -> Result<DeploymentRow, ApplyError> {
    let mut row = by_id(db, op.deployment_id)?;
    let version = registry::by_id(db, op.version_id)?;
    if row.start_rollout(op, &version, context.at)? {
        update_spec(db, context, &mut row)?;
    }
    Ok(row)
}

/// Has a rollout replace what is there.
pub(super) fn promote(
    db: &Connection,
    context: Context,
    op: &PromoteRollout,
) -> Result<DeploymentRow, ApplyError> {
    let mut row = by_id(db, op.deployment_id)?;
    if row.promote(op, context.at)? {
        update_spec(db, context, &mut row)?;
    }
    Ok(row)
}

/// Ends a rollout with its version.
pub(super) fn complete_rollout(
    db: &Connection,
    context: Context,
    op: &CompleteRollout,
) -> Result<DeploymentRow, ApplyError> {
    let mut row = by_id(db, op.deployment_id)?;
    row.complete_rollout(op, context.at)?;
    update_spec(db, context, &mut row)?;
    Ok(row)
}

/// Ends a rollout without its version, or goes back to an earlier release.
pub(super) fn roll_back(
    db: &Connection,
    context: Context,
    op: &RollBack,
) -> Result<DeploymentRow, ApplyError> {
    encode_within(&op.reason, "the reason", MAX_ENTRY_BYTES)?;
    let mut row = by_id(db, op.deployment_id)?;
    row.roll_back(op, context.at)?;
    update_spec(db, context, &mut row)?;
    Ok(row)
}

/// Records what was observed, unless it was of an older generation.
pub(super) fn set_state(
    db: &Connection,
    context: Context,
    op: &SetDeploymentState,
) -> Result<(), ApplyError> {
    let row = by_id(db, op.deployment_id)?;
    if op.generation < row.generation || (row.state == op.state && row.reason == op.reason) {
        return Ok(());
    }
    db.prepare_cached(
        "UPDATE deployments SET state = ?2, reason = ?3, updated_at = ?4 WHERE deployment_id = ?1",
    )?
    .execute(params![
        op.deployment_id.as_bytes(),
        op.state.as_str(),
        op.reason,
        context.at.as_millis()
    ])?;
    Ok(())
}

/// Deletes a deployment; its replicas are to drain.
pub(super) fn delete(
    db: &Connection,
    context: Context,
    op: &DeleteDeployment,
) -> Result<(), ApplyError> {
    by_id(db, op.deployment_id)?;
    db.prepare_cached(
        "UPDATE replicas SET state = ?2, reason = '', updated_at = ?3 WHERE deployment_id = ?1",
    )?
    .execute(params![
        op.deployment_id.as_bytes(),
        ReplicaState::Draining.as_str(),
        context.at.as_millis()
    ])?;
    db.prepare_cached("DELETE FROM deployments WHERE deployment_id = ?1")?
        .execute([op.deployment_id.as_bytes()])?;
    Ok(())
}

/// The deployment, rejected where it does not exist.
pub(super) fn by_id(db: &Connection, id: DeploymentId) -> Result<DeploymentRow, ApplyError> {
    find(db, "deployment_id = ?1", [id.as_bytes()])?
        .ok_or_else(|| Reject::not_found("deployment", &id).into())
}

fn find(
    db: &Connection,
    condition: &str,
    params: impl Params,
) -> rusqlite::Result<Option<DeploymentRow>> {
    db.prepare_cached(&format!("{DEPLOYMENT} WHERE {condition}"))?
        .query_row(params, deployment_row)
        .optional()
}

fn create(
    db: &Connection,
    context: Context,
    op: &ApplyDeployment,
    bounds: ScaleBounds,
    env: &str,
) -> Result<DeploymentRow, ApplyError> {
    if find(db, "deployment_id = ?1", [op.deployment_id.as_bytes()])?.is_some() {
        return Err(Reject::conflict(format!(
            "deployment `{}` exists already with another name",
            op.deployment_id
        ))
        .into());
    }
    let mut row = DeploymentRow {
        id: op.deployment_id,
        namespace: op.namespace.clone(),
        agent: op.agent.clone(),
        alias: op.alias.clone(),
        version_id: op.version_id,
        replicas: op.replicas.unwrap_or_else(|| bounds.first()),
        scaling: None,
        env: op.env.clone(),
        rollout: None,
        releases: Vec::new(),
        project: op.project.clone(),
        generation: 1,
        state: DeploymentState::Pending,
        reason: String::new(),
        created_at: context.at,
        updated_at: context.at,
    };
    row.keep_within(bounds, context.at);
    check_quota(db, context, None, &row)?;
    db.prepare_cached(
        "INSERT INTO deployments (deployment_id, namespace, agent, alias, version_id, replicas,
             env, generation, state, reason, created_at, updated_at, project, project_agent, releases, scaling)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?11, ?12, ?13, '[]', ?14)",
    )?
    .execute(params![
        row.id.as_bytes(),
        row.namespace,
        row.agent,
        row.alias,
        row.version_id.as_bytes(),
        row.replicas,
        env,
        row.generation,
        row.state.as_str(),
        row.reason,
        context.at.as_millis(),
        row.project.as_ref().map(|project| &project.name),
        row.project.as_ref().map(|project| &project.agent),
        scaling(&row)?,
    ])?;
    Ok(row)
}

/// Writes what commands change of a row, within the bounds of its version. What is written was taken within its limits.
fn update_spec(
    db: &Connection,
    context: Context,
    row: &mut DeploymentRow,
) -> Result<(), ApplyError> {
    let (target, _) = row.target();
    row.keep_within(registry::by_id(db, target)?.scaling, context.at);
    if context.quota.is_some() {
        check_quota(db, context, Some(&by_id(db, row.id)?), row)?;
    }
    let rollout = row.rollout.as_ref().map(encode).transpose()?;
    db.prepare_cached(
        "UPDATE deployments SET version_id = ?2, replicas = ?3, env = ?4, rollout = ?5, releases = ?6,
             generation = ?7, updated_at = ?8, scaling = ?9
         WHERE deployment_id = ?1",
    )?
    .execute(params![
        row.id.as_bytes(),
        row.version_id.as_bytes(),
        row.replicas,
        encode(&row.env)?,
        rollout,
        encode(&row.releases)?,
        row.generation,
        row.updated_at.as_millis(),
        scaling(row)?
    ])?;
    Ok(())
}

/// Rejects what adds more than the quota of the command allows, where it has one.
fn check_quota(
    db: &Connection,
    context: Context,
    before: Option<&DeploymentRow>,
    after: &DeploymentRow,
) -> Result<(), ApplyError> {
    let Some(quota) = context.quota else {
        return Ok(());
    };
    let others = db
        .prepare_cached(
            "SELECT count(*), coalesce(sum(CASE WHEN scaling IS NULL OR replicas = 0 THEN replicas
                 ELSE json_extract(scaling, '$.wanted') END), 0)
             FROM deployments WHERE namespace = ?1 AND deployment_id <> ?2",
        )?
        .query_row(params![after.namespace, after.id.as_bytes()], |row| {
            Ok(QuotaUse {
                deployments: get(row, 0)?,
                replicas: get(row, 1)?,
            })
        })?;
    Ok(quota.check(others, before, after)?)
}

fn scaling(row: &DeploymentRow) -> Result<Option<String>, ApplyError> {
    Ok(row.scaling.as_ref().map(encode).transpose()?)
}
