//! The server of a client that has started this process.

use std::sync::Arc;

use rmcp::service::{RoleServer, ServerInitializeError, serve_server};
use rmcp::transport::async_rw::AsyncRwTransport;
use tokio::io::{AsyncRead, AsyncWrite};

use super::handler::AgentsHandler;
use super::source::AgentSource;
use crate::connect::describe;
use crate::error::McpError;
use crate::limits;

/// Serves agents, one message a line, until the input ends. Calls that are under way then have a few seconds to be answered; what
/// becomes of them afterwards is for the caller to decide.
///
/// # Errors
/// [`McpError::Connect`] where the client does not speak the protocol.
pub async fn serve_stdio(
    source: Arc<dyn AgentSource>,
    input: impl AsyncRead + Send + Unpin + 'static,
    output: impl AsyncWrite + Send + Unpin + 'static,
) -> Result<(), McpError> {
    let transport = AsyncRwTransport::<RoleServer, _, _>::new(input, output)
        .with_max_line_length(limits::MESSAGE_BYTES);
    match serve_server(AgentsHandler::new(source), transport).await {
        Ok(service) => {
            // However it came to its end, nobody is there any more.
            let _ = service.waiting().await;
            Ok(())
        }
        // Ended before it began.
        Err(ServerInitializeError::ConnectionClosed(_)) => Ok(()),
        Err(error) => Err(McpError::Connect(describe(&error))),
    }
}
