//! The descriptors of the built-in tools.

use std::path::Path;
use std::sync::LazyLock;

use crate::tool::ToolDescriptor;

macro_rules! files {
    ($($name:literal),* $(,)?) => {
        &[$((concat!("builtin/", $name, ".yaml"), include_str!(concat!("../builtin/", $name, ".yaml")))),*]
    };
}

/// One file per tool, in the format of `tools/*.yaml`.
const FILES: &[(&str, &str)] = files![
    "a2a-discover",
    "a2a-send",
    "agent-find",
    "agent-kill",
    "agent-list",
    "agent-send",
    "agent-spawn",
    "apply-patch",
    "browser-back",
    "browser-click",
    "browser-close",
    "browser-navigate",
    "browser-read-page",
    "browser-run-js",
    "browser-screenshot",
    "browser-scroll",
    "browser-type",
    "browser-wait",
    "canvas-present",
    "channel-send",
    "cron-cancel",
    "cron-create",
    "cron-list",
    "docker-exec",
    "event-publish",
    "file-list",
    "file-read",
    "file-write",
    "image-analyze",
    "image-generate",
    "knowledge-add-entity",
    "knowledge-add-relation",
    "knowledge-query",
    "location-get",
    "media-describe",
    "media-transcribe",
    "memory-list",
    "memory-recall",
    "memory-store",
    "output-read",
    "process-kill",
    "process-list",
    "process-poll",
    "process-start",
    "process-write",
    "schedule-create",
    "schedule-delete",
    "schedule-list",
    "shell-exec",
    "speech-to-text",
    "system-time",
    "task-claim",
    "task-complete",
    "task-list",
    "task-post",
    "text-to-speech",
    "tool-search",
    "web-fetch",
    "web-search",
];

/// Those that ask models that can see, hear, draw or speak.
const MEDIA: [&str; 6] = [
    "image-analyze",
    "image-generate",
    "media-describe",
    "media-transcribe",
    "speech-to-text",
    "text-to-speech",
];

// A descriptor that did not parse would be missing here; a test holds that none is.
static BUILTINS: LazyLock<Vec<ToolDescriptor>> = LazyLock::new(|| {
    FILES
        .iter()
        .filter_map(|(path, text)| ToolDescriptor::parse(Path::new(path), text).ok())
        .collect()
});

/// Every built-in tool, sorted by name (without `rune@`).
pub fn builtins() -> &'static [ToolDescriptor] {
    &BUILTINS
}

/// The built-in tool `rune@NAME`.
pub fn builtin(name: &str) -> Option<&'static ToolDescriptor> {
    BUILTINS.iter().find(|tool| tool.name == name)
}

/// Whether the built-in tool `rune@NAME` asks the agent's models that can see, hear, draw or speak.
pub fn is_media_tool(name: &str) -> bool {
    MEDIA.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tool::ToolRuntime;

    #[test]
    fn every_descriptor_is_valid_and_complete() {
        for &(path, text) in FILES {
            let tool = ToolDescriptor::parse(Path::new(path), text)
                .unwrap_or_else(|errors| panic!("{errors}"));
            assert_eq!(format!("builtin/{}.yaml", tool.name), path);
            assert_eq!(tool.runtime, ToolRuntime::Builtin);
            assert!(tool.description.len() > 40, "{path} needs a description");
            assert_eq!(tool.input_schema["additionalProperties"], false, "{path}");
            assert!(
                tool.primary_argument.is_some(),
                "{path} needs a primary argument"
            );
        }
        assert!(builtins().is_sorted_by(|a, b| a.name < b.name));
        assert!(MEDIA.iter().all(|name| builtin(name).is_some()));
    }
}
