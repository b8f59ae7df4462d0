//! What an MCP server says: a list of tools stays within its limits and can be told to a model; a result becomes an output or an
//! error, within its limit.

#![no_main]

use std::collections::BTreeSet;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use rmcp::model::{CallToolResult, ListToolsResult};
use rune_mcp::{listing, read_result};
use rune_spec::ToolRef;

const LIMIT: usize = 4096;

fuzz_target!(|data: (bool, &str)| {
    let (trust, text) = data;
    if let Ok(listed) = serde_json::from_str::<ListToolsResult>(text) {
        let taken = listing("server", listed.tools, trust);
        let mut visible = BTreeSet::new();
        for tool in &taken.tools {
            assert!(trust || !(tool.read_only || tool.idempotent));
            assert!(tool.description.chars().count() <= 4097);
            let reference: ToolRef = format!("server/{}", tool.name).parse().unwrap();
            assert!(matches!(reference, ToolRef::Mcp { .. }));
            let name = reference.visible_name().unwrap();
            assert!(name.len() <= 64 && name.is_ascii());
            assert!(visible.insert(name));
            if let Ok(descriptor) = tool.descriptor(Duration::from_secs(1)) {
                assert_eq!(descriptor.input_schema["type"], "object");
            }
        }
    }
    if let Ok(result) = serde_json::from_str::<CallToolResult>(text) {
        match read_result(result, LIMIT) {
            Ok(output) => assert!(output.to_string().len() <= LIMIT),
            Err(error) => assert!(!error.message.is_empty()),
        }
    }
});
