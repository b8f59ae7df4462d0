//! What a replica outside the process has the engine do for a request.

use rune_runtime::{Asker, EngineAnswer, EngineError, EngineOp, Invoked, ToolAnswer, ToolOp};
use rune_store_runtime::{ReplicaId, RequestStatus, VersionId};
use rune_testkit::{ModelServer, Protocol, Reply};

use crate::harness::{Bot, Rig, script, soon};

/// A request that waits for its model, and the replica that runs it.
async fn running() -> (ModelServer, Rig, Invoked, Asker) {
    let script = script().on_text("go").reply(Reply::text("done"));
    let server = ModelServer::start(script).await.unwrap();
    server.hold();
    let rig = Rig::new(Bot::on(&[(&server, Protocol::Openai)])).await;
    let invoked = rig.invoke("go").await;
    server.wait_for_held(1).await.unwrap();
    let asker = Asker {
        replica_id: rig.router.replicas(rig.deployment.id)[0].id(),
        deployment_id: rig.deployment.id,
        version_id: rig.deployment.version_id,
    };
    (server, rig, invoked, asker)
}

async fn act(
    rig: &Rig,
    asker: Asker,
    invoked: &Invoked,
    op: EngineOp,
) -> Result<EngineAnswer, EngineError> {
    let asked = rig.engine.act(asker, invoked.request_id, op);
    soon("an answer", asked).await
}

const TOOL: EngineOp = EngineOp::Tool(ToolOp::BootId);

#[tokio::test]
async fn a_replica_of_a_deleted_deployment_has_things_done_until_it_has_finished() {
    let (server, rig, invoked, asker) = running().await;
    rig.router.remove_deployment(rig.deployment.id);
    let agents = act(&rig, asker, &invoked, EngineOp::Agents).await;
    assert!(matches!(agents, Ok(EngineAnswer::Agents(_))), "{agents:?}");
    let boot = act(&rig, asker, &invoked, TOOL).await;
    let is_told = matches!(boot, Ok(EngineAnswer::Tool(ToolAnswer::BootId(_))));
    assert!(is_told, "{boot:?}");
    server.release_all();
    let ended = rig.end(invoked).await;
    assert_eq!(
        ended.row.status,
        RequestStatus::Completed,
        "{:?}",
        ended.row
    );
}

#[tokio::test]
async fn a_tool_is_that_of_the_version_that_asks_and_of_no_other() {
    let (server, rig, invoked, asker) = running().await;
    // It is not adopted yet; another one of its version is there.
    let unknown = Asker {
        replica_id: ReplicaId::generate(),
        ..asker
    };
    let boot = act(&rig, unknown, &invoked, TOOL).await;
    let is_told = matches!(boot, Ok(EngineAnswer::Tool(ToolAnswer::BootId(_))));
    assert!(is_told, "{boot:?}");
    let of_another = Asker {
        version_id: VersionId::generate(),
        ..unknown
    };
    let boot = act(&rig, of_another, &invoked, TOOL).await;
    assert!(matches!(boot, Err(EngineError::Unadopted(_))), "{boot:?}");
    let agents = act(&rig, of_another, &invoked, EngineOp::Agents).await;
    assert!(matches!(agents, Ok(EngineAnswer::Agents(_))), "{agents:?}");
    server.release_all();
    rig.end(invoked).await;
}
