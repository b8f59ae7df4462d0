//! The cluster that a daemon is a node of: beginning one, taking nodes in and out, how it is.
//!
//! These routes are the node's own, also where another one leads: what changes the cluster is made
//! by the leader, whoever is asked. A daemon that is no node says how to start one.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use axum::Router;
use axum::extract::State;
use axum::routing::{any, get};
use rune_cluster::{Cluster, ClusterObjects, ClusterStatus, Member, MemberStatus};
use rune_http::{
    ApiError, Auth, Caller, ErrorBody, Json, JsonOrDefault, Readiness, ReadyReport, api, reference,
};
use rune_store_runtime::{BlobStore as _, ErrorCode, Store, StoreError, SystemClock, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::{OpenApi, ToSchema};

use crate::control_plane::{NodeInfo, PUBLIC_ROUTES, edge, paths};
use crate::routes::status as process;
use crate::{audit, cluster};

/// What is answered by a daemon that is no node.
const STANDALONE: &str = "this daemon is in no cluster; a node is started with `rune daemon start --node-id 1 \
     --raft-addr HOST:PORT --peers 2@HOST:PORT,3@HOST:PORT` and an empty data directory, see docs/cluster.md";

/// Members that a cluster begins with, and voters, at the most.
const MAX_MEMBERS: usize = 64;

/// Objects that a node is asked to have at a time, at the most.
const MAX_OBJECTS: usize = 10_000;

/// Longest address of a member.
const MAX_ADDR_BYTES: usize = 255;

/// What the routes of a cluster need.
pub(crate) struct ClusterRoutes {
    /// The cluster, where the daemon is a node.
    pub(crate) cluster: Option<Cluster>,
    /// Its objects, where it is.
    pub(crate) objects: Option<ClusterObjects>,
    /// Its first members, where nobody names others.
    pub(crate) first: BTreeMap<u64, String>,
    /// Where what was done is audited.
    pub(crate) store: Store,
    /// This process.
    pub(crate) node: NodeInfo,
}

#[derive(OpenApi)]
#[openapi(tags(
    (name = "cluster", description = "The cluster that the daemon is a node of; all but its status is for operators"),
))]
struct Document;

/// What a node of a cluster answers itself of the control-plane API, whichever node leads.
pub struct ClusterApi {
    /// The node.
    pub member: Arc<Member>,
    /// Those that a cluster begins with, where nobody names others: their numbers and addresses.
    pub first: BTreeMap<u64, String>,
    /// This process.
    pub node: NodeInfo,
    /// Who may call.
    pub auth: Auth,
    /// What `/ready` reports.
    pub readiness: Readiness,
}

impl ClusterApi {
    /// These routes, protected. The others are there for the edge, which says who may ask the leader for them.
    pub fn router(self) -> Router {
        let routes = ClusterRoutes {
            cluster: Some(self.member.cluster()),
            objects: Some(self.member.objects().clone()),
            first: self.first,
            store: Store::new(self.member.store(), Arc::new(SystemClock)),
            node: self.node,
        };
        let readiness = self.readiness;
        let ready = move || {
            let report = ReadyReport::new(&readiness);
            async move { report }
        };
        let mut router = Router::new()
            .route("/health", get(process::health))
            .route("/ready", get(ready))
            .route("/openapi.json", get(process::openapi))
            .route("/docs", get(reference::page))
            .route("/docs/{file}", get(reference::file))
            .merge(routes.router());
        for path in paths() {
            if !PUBLIC_ROUTES.contains(&path.as_str()) {
                router = router.route(&path, any(elsewhere));
            }
        }
        edge("control-plane", self.auth, PUBLIC_ROUTES).protect(router)
    }
}

/// What a node says of a route that it does not answer itself; what stands before it has the leader answer.
async fn elsewhere() -> ApiError {
    ApiError::unavailable("a request for the leader was not sent to it")
}

impl ClusterRoutes {
    /// Every route, for an edge that is put around it.
    pub(crate) fn router(self) -> Router {
        routes().with_state(Arc::new(self))
    }

    fn cluster(&self) -> Result<&Cluster, ApiError> {
        let cluster = self.cluster.as_ref();
        cluster.ok_or_else(|| ApiError::new(ErrorCode::Conflict, STANDALONE))
    }

    /// Makes sure that a node that is to join keeps its objects where this one does.
    async fn check_place(&self, node: u64, addr: &str) -> Result<(), ApiError> {
        let Some(objects) = &self.objects else {
            return Ok(());
        };
        match objects.same_place(node, addr).await {
            // Whether it is there at all is looked at next.
            Ok(()) | Err(StoreError::Unavailable(_)) => Ok(()),
            Err(error) => Err(refused(error)),
        }
    }

    /// Notes what was done. It is done, so that a store that does not take the note changes nothing.
    async fn audit(&self, caller: &Caller, kind: &str, resource: String, reason: String) {
        for row in audit::row(caller, kind, resource, reason) {
            if let Err(error) = self.store.write(row).await {
                tracing::error!(%error, kind, "what was done to the cluster is not in the audit trail");
            }
        }
    }
}

/// The description of the routes, for the document of the whole API.
pub(crate) static DOCUMENT: LazyLock<utoipa::openapi::OpenApi> = LazyLock::new(document);

/// A node and where it is.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NodeAddress {
    /// Its number.
    #[schema(minimum = 1)]
    node: u64,
    /// Where the other nodes reach it: `HOST:PORT`, the host a name or an address.
    #[schema(example = "10.0.0.4:9000")]
    addr: String,
}

impl NodeAddress {
    fn check(&self) -> Result<(), ApiError> {
        let wrong = |what: &str| Err(ApiError::invalid(format!("node {}: {what}", self.node)));
        if self.node == 0 {
            return wrong("numbers of nodes begin with 1");
        }
        if self.addr.len() > MAX_ADDR_BYTES {
            return wrong("the address is too long");
        }
        let parts = self.addr.rsplit_once(':');
        let is_place = |host: &str| {
            !host.is_empty()
                && !host
                    .chars()
                    .any(|c| c.is_control() || c.is_whitespace() || c == '/')
        };
        match parts {
            Some((host, port))
                if is_place(host) && port.parse::<u16>().is_ok_and(|port| port > 0) =>
            {
                Ok(())
            }
            _ => wrong("`addr` is not HOST:PORT, such as 10.0.0.4:9000"),
        }
    }
}

/// What a cluster begins with.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct InitRequest {
    /// The first members, this node among them; without any they are those that it was started with
    /// (`--raft-addr`, `--peers`).
    members: Vec<NodeAddress>,
}

/// Who has a vote.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct VotersRequest {
    /// The numbers of the members with a vote; those that are not here stay as learners.
    voters: Vec<u64>,
}

/// One member.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NodeRequest {
    /// Its number.
    node: u64,
}

/// A cluster as the node that was asked finds it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ClusterView {
    /// Its name, which follows from its secret.
    cluster: String,
    /// The node that answers.
    node: u64,
    /// The term that the leader is in.
    term: u64,
    /// Who leads; null where nobody is known to.
    leader: Option<u64>,
    /// Whether a majority of the voters answers a leader: what is written is decided.
    quorum: bool,
    /// Why nothing is decided, or this node takes no part.
    #[serde(skip_serializing_if = "Option::is_none")]
    trouble: Option<String>,
    /// Whether the voters are being changed.
    changing: bool,
    /// The members by number.
    members: Vec<MemberView>,
}

/// A member of a cluster.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct MemberView {
    /// Its number.
    node: u64,
    /// Where the other nodes reach it.
    addr: String,
    /// `leader`, `voter` or `learner`.
    role: &'static str,
    /// `ok`, or what is wrong with it.
    state: String,
    /// Version of Rune.
    version: Option<String>,
    /// The newest version of commands that it understands. A cluster takes none that a member does
    /// not understand.
    commands: Option<u16>,
    /// The last entry of its log.
    last: Option<u64>,
    /// The last entry that it applied.
    applied: Option<u64>,
    /// The last entry that its snapshot holds.
    snapshot: Option<u64>,
    /// The last entry that is no longer in its log.
    purged: Option<u64>,
    /// Entries that the leader has and it does not, as the leader knows.
    lag: Option<u64>,
    /// How long ago it answered the leader last.
    heard_ms: Option<u64>,
    /// Whether it waits for room on its disk.
    disk_full: bool,
}

impl From<ClusterStatus> for ClusterView {
    fn from(status: ClusterStatus) -> Self {
        Self {
            cluster: status.cluster,
            node: status.node,
            term: status.term,
            leader: status.leader,
            quorum: status.trouble.is_none(),
            trouble: status.trouble,
            changing: status.is_changing,
            members: status.members.into_iter().map(MemberView::from).collect(),
        }
    }
}

impl From<MemberStatus> for MemberView {
    fn from(member: MemberStatus) -> Self {
        let (about, silence) = match member.about {
            Ok(about) => (Some(about), None),
            Err(why) => (None, Some(why)),
        };
        let failure = about.as_ref().and_then(|about| about.failure.clone());
        let is_full = about.as_ref().is_some_and(|about| about.disk_full);
        let full = is_full.then(|| "the disk is full".to_owned());
        let state = silence.or(failure).or(full);
        let index = |of: fn(&rune_cluster::About) -> Option<u64>| about.as_ref().and_then(of);
        Self {
            node: member.node,
            addr: member.addr,
            role: member.role.as_str(),
            state: state.unwrap_or_else(|| "ok".to_owned()),
            last: index(|about| about.last),
            applied: index(|about| about.applied),
            snapshot: index(|about| about.snapshot),
            purged: index(|about| about.purged),
            commands: about.as_ref().map(|about| about.commands),
            version: about.map(|about| about.rune),
            lag: member.lag,
            heard_ms: member.heard_ms,
            disk_full: is_full,
        }
    }
}

/// A snapshot that is being taken.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SnapshotView {
    /// The node that takes it.
    node: u64,
    /// The last entry that it will hold.
    wanted: Option<u64>,
    /// The last entry that the present one holds.
    snapshot: Option<u64>,
}

/// A daemon.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct StatusView {
    /// Version of Rune.
    version: &'static str,
    /// Its name: the number of a node, `local` for a daemon that is none.
    node: String,
    /// The name of its cluster; null for a daemon that is no node.
    cluster: Option<String>,
    /// Who leads the cluster, as far as it knows.
    leader: Option<u64>,
    #[schema(value_type = String, format = DateTime)]
    started_at: Timestamp,
}

/// Which daemon this is, and of which cluster.
#[utoipa::path(
    get, path = "/v1/status", tag = "status",
    responses((status = 200, body = StatusView, description = "The daemon"))
)]
pub(crate) async fn about(State(api): State<Arc<ClusterRoutes>>) -> Json<StatusView> {
    let cluster = api.cluster.as_ref();
    Json(StatusView {
        version: env!("CARGO_PKG_VERSION"),
        node: api.node.id.clone(),
        cluster: cluster.map(|cluster| cluster.name().to_owned()),
        leader: cluster.and_then(|cluster| cluster.node().status().leader),
        started_at: api.node.started_at,
    })
}

/// How the cluster is. Every member is asked.
#[utoipa::path(
    get, path = "/v1/cluster/status", tag = "cluster",
    responses(
        (status = 200, body = ClusterView, description = "The cluster, as this node finds it"),
        (status = 409, body = ErrorBody, description = "The daemon is no node of a cluster"),
    )
)]
pub(crate) async fn status(
    State(api): State<Arc<ClusterRoutes>>,
) -> Result<Json<ClusterView>, ApiError> {
    Ok(Json(api.cluster()?.status().await.into()))
}

/// Begins a cluster, once. Every first member runs already, with the same secret.
#[utoipa::path(
    post, path = "/v1/cluster/init", tag = "cluster", request_body = InitRequest,
    responses(
        (status = 200, body = ClusterView, description = "The cluster"),
        (status = 400, body = ErrorBody, description = "The members are not valid"),
        (status = 409, body = ErrorBody, description = "The daemon is no node, a member is in a cluster already, or does not answer"),
        (status = 503, body = ErrorBody, description = "No majority has answered"),
    )
)]
pub(crate) async fn init(
    State(api): State<Arc<ClusterRoutes>>,
    caller: Caller,
    JsonOrDefault(body): JsonOrDefault<InitRequest>,
) -> Result<Json<ClusterView>, ApiError> {
    let cluster = api.cluster()?;
    check_count(body.members.len())?;
    let mut members = BTreeMap::new();
    for member in body.members {
        member.check()?;
        if let Some(other) = members.insert(member.node, member.addr) {
            return Err(ApiError::invalid(format!(
                "node {} is named twice, the first time at {other}",
                member.node
            )));
        }
    }
    let members = match members.is_empty() {
        true => api.first.clone(),
        false => members,
    };
    for (node, addr) in members.iter().filter(|(node, _)| **node != cluster.id()) {
        api.check_place(*node, addr).await?;
    }
    cluster.init(&members).await.map_err(refused)?;
    let members: Vec<String> = members
        .iter()
        .map(|(node, addr)| format!("{node}@{addr}"))
        .collect();
    let reason = format!("begun with {}", members.join(", "));
    api.audit(&caller, "cluster.init", cluster.name().to_owned(), reason)
        .await;
    Ok(Json(cluster.status().await.into()))
}

/// Takes a new node in, without a vote. It is a member when this is answered, and is sent everything
/// by and by: its `lag` in the status says how far it is.
#[utoipa::path(
    post, path = "/v1/cluster/add-learner", tag = "cluster", request_body = NodeAddress,
    responses(
        (status = 200, body = ClusterView, description = "The cluster with the node"),
        (status = 400, body = ErrorBody, description = "The address is not valid"),
        (status = 409, body = ErrorBody, description = "The daemon is no node, the number was in use before, or the node does not answer, or was in a cluster"),
        (status = 503, body = ErrorBody, description = "There is no majority"),
    )
)]
pub(crate) async fn add_learner(
    State(api): State<Arc<ClusterRoutes>>,
    caller: Caller,
    Json(body): Json<NodeAddress>,
) -> Result<Json<ClusterView>, ApiError> {
    let cluster = api.cluster()?;
    body.check()?;
    api.check_place(body.node, &body.addr).await?;
    let added = cluster.add_learner(body.node, &body.addr).await;
    added.map_err(refused)?;
    let reason = format!("added as a learner at {}", body.addr);
    api.audit(
        &caller,
        "cluster.add_learner",
        body.node.to_string(),
        reason,
    )
    .await;
    Ok(Json(cluster.status().await.into()))
}

/// Says which members have a vote.
#[utoipa::path(
    post, path = "/v1/cluster/change-membership", tag = "cluster", request_body = VotersRequest,
    responses(
        (status = 200, body = ClusterView, description = "The cluster with these voters"),
        (status = 400, body = ErrorBody, description = "There are none, or too many"),
        (status = 409, body = ErrorBody, description = "The daemon is no node, one of them is no member or is behind, or no majority of them answers"),
        (status = 503, body = ErrorBody, description = "There is no majority"),
    )
)]
pub(crate) async fn change_membership(
    State(api): State<Arc<ClusterRoutes>>,
    caller: Caller,
    Json(body): Json<VotersRequest>,
) -> Result<Json<ClusterView>, ApiError> {
    let cluster = api.cluster()?;
    check_count(body.voters.len())?;
    let voters: Vec<String> = body.voters.iter().map(u64::to_string).collect();
    cluster.set_voters(body.voters).await.map_err(refused)?;
    let reason = format!("the voters are {}", voters.join(", "));
    api.audit(&caller, "cluster.voters", cluster.name().to_owned(), reason)
        .await;
    Ok(Json(cluster.status().await.into()))
}

/// Removes a member for good, whether it runs or not. Its number is never a node's again.
#[utoipa::path(
    post, path = "/v1/cluster/remove", tag = "cluster", request_body = NodeRequest,
    responses(
        (status = 200, body = ClusterView, description = "The cluster without it"),
        (status = 409, body = ErrorBody, description = "The daemon is no node, the other is no member or has objects that those that stay lack, or no majority of these answers"),
        (status = 503, body = ErrorBody, description = "There is no majority"),
    )
)]
pub(crate) async fn remove(
    State(api): State<Arc<ClusterRoutes>>,
    caller: Caller,
    Json(body): Json<NodeRequest>,
) -> Result<Json<ClusterView>, ApiError> {
    let cluster = api.cluster()?;
    if let Some(objects) = &api.objects {
        objects.outlive(body.node).await.map_err(refused)?;
    }
    cluster.remove(body.node).await.map_err(refused)?;
    let reason = "removed for good".to_owned();
    api.audit(&caller, "cluster.remove", body.node.to_string(), reason)
        .await;
    Ok(Json(cluster.status().await.into()))
}

/// Has another voter lead, as before a restart of the one that does.
#[utoipa::path(
    post, path = "/v1/cluster/transfer-leader", tag = "cluster", request_body = NodeRequest,
    responses(
        (status = 200, body = ClusterView, description = "The cluster with that leader"),
        (status = 409, body = ErrorBody, description = "The daemon is no node, or the other is no voter or does not answer"),
        (status = 503, body = ErrorBody, description = "There is no majority, or the other did not come to lead"),
    )
)]
pub(crate) async fn transfer_leader(
    State(api): State<Arc<ClusterRoutes>>,
    caller: Caller,
    Json(body): Json<NodeRequest>,
) -> Result<Json<ClusterView>, ApiError> {
    let cluster = api.cluster()?;
    cluster.hand_over(body.node).await.map_err(refused)?;
    let reason = "asked to lead".to_owned();
    api.audit(
        &caller,
        "cluster.transfer_leader",
        body.node.to_string(),
        reason,
    )
    .await;
    Ok(Json(cluster.status().await.into()))
}

/// Has the node that is asked take a snapshot, after which its log is shortened. It is under way when
/// this is answered, and done when the node's `snapshot` in the status is `wanted` or more.
#[utoipa::path(
    post, path = "/v1/cluster/snapshot", tag = "cluster",
    responses(
        (status = 200, body = SnapshotView, description = "What it will be"),
        (status = 409, body = ErrorBody, description = "The daemon is no node, or in no cluster yet"),
        (status = 503, body = ErrorBody, description = "The node takes no part any more"),
    )
)]
pub(crate) async fn snapshot(
    State(api): State<Arc<ClusterRoutes>>,
    caller: Caller,
) -> Result<Json<SnapshotView>, ApiError> {
    let cluster = api.cluster()?;
    let asked = cluster.snapshot().await.map_err(refused)?;
    let reason = "a snapshot was asked for".to_owned();
    api.audit(&caller, "cluster.snapshot", asked.node.to_string(), reason)
        .await;
    Ok(Json(SnapshotView {
        node: asked.node,
        wanted: asked.wanted,
        snapshot: asked.snapshot,
    }))
}

/// Objects that a node is to have.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ObjectsRequest {
    /// Their digests: `sha256:` and 64 hexadecimal digits.
    #[schema(max_items = 10_000)]
    digests: Vec<String>,
}

/// Objects that a node could not get.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ObjectsView {
    /// Their digests.
    missing: Vec<String>,
}

/// Has the node that is asked take objects from the others, unless it has them, as a backup of it needs.
#[utoipa::path(
    post, path = "/v1/cluster/objects", tag = "cluster", request_body = ObjectsRequest,
    responses(
        (status = 200, body = ObjectsView, description = "Those that it could not get"),
        (status = 400, body = ErrorBody, description = "There are too many"),
        (status = 409, body = ErrorBody, description = "The daemon is no node of a cluster"),
    )
)]
pub(crate) async fn take_objects_over(
    State(api): State<Arc<ClusterRoutes>>,
    Json(body): Json<ObjectsRequest>,
) -> Result<Json<ObjectsView>, ApiError> {
    let objects = api.objects.as_ref();
    let objects = objects.ok_or_else(|| ApiError::new(ErrorCode::Conflict, STANDALONE))?;
    if body.digests.len() > MAX_OBJECTS {
        let message = format!("{MAX_OBJECTS} objects at a time at the most");
        return Err(ApiError::invalid(message));
    }
    let mut missing = Vec::new();
    for digest in body.digests {
        if let Err(error) = objects.get(&digest).await {
            tracing::warn!(digest, %error, "an object that is to be backed up is missing");
            missing.push(digest);
        }
    }
    Ok(Json(ObjectsView { missing }))
}

fn check_count(members: usize) -> Result<(), ApiError> {
    if members > MAX_MEMBERS {
        let message = format!("there are {members} members, {MAX_MEMBERS} at the most");
        return Err(ApiError::invalid(message));
    }
    Ok(())
}

/// Why something was not done, which operators read.
fn refused(error: StoreError) -> ApiError {
    match error {
        StoreError::Unavailable(why) => ApiError::new(ErrorCode::Unavailable, why),
        error => error.into(),
    }
}

api! {
    Arc<ClusterRoutes>: Document:
    cluster::about,
    cluster::status,
    cluster::init,
    cluster::add_learner,
    cluster::change_membership,
    cluster::remove,
    cluster::transfer_leader,
    cluster::snapshot,
    cluster::take_objects_over,
}
