//! Asking a server for its tools.

use rmcp::model::{PaginatedRequestParams, Tool};
use rmcp::service::{Peer, RoleClient, ServiceError};
use tokio::time::timeout;

use crate::connect::describe;
use crate::limits;

/// Why there is no list.
pub(crate) enum ListError {
    /// The server answered that it has none for us.
    Refused(String),
    /// It did not answer.
    Lost(String),
}

/// All tools of a server, or as many as are looked at.
pub(crate) async fn list(peer: &Peer<RoleClient>) -> Result<Vec<Tool>, ListError> {
    match timeout(limits::LIST, pages(peer)).await {
        Ok(listed) => listed,
        Err(_) => {
            let seconds = limits::LIST.as_secs();
            Err(ListError::Lost(format!(
                "it did not list its tools within {seconds} s"
            )))
        }
    }
}

async fn pages(peer: &Peer<RoleClient>) -> Result<Vec<Tool>, ListError> {
    let mut tools = Vec::new();
    let mut cursor = None;
    for _ in 0..limits::PAGES {
        let page = PaginatedRequestParams::default().with_cursor(cursor.clone());
        let page = peer.list_tools(Some(page)).await;
        let page = page.map_err(|error| match error {
            ServiceError::McpError(error) => {
                ListError::Refused(format!("it does not list its tools: {}", error.message))
            }
            error => ListError::Lost(format!("it does not list its tools: {}", describe(&error))),
        })?;
        tools.extend(page.tools);
        // One more than is taken shows that there are more.
        if tools.len() > limits::TOOLS || page.next_cursor.is_none() || page.next_cursor == cursor {
            break;
        }
        cursor = page.next_cursor;
    }
    Ok(tools)
}
