//! The descriptors of the built-in tools.

use std::path::PathBuf;
use std::sync::OnceLock;

use crate::tool::ToolDescriptor;

/// A tool whose file, in the format of `tools/*.yaml`, is read once it is asked for: an agent has few of them.
struct Builtin {
    name: &'static str,
    text: &'static str,
    descriptor: OnceLock<Option<ToolDescriptor>>,
}

impl Builtin {
    // A descriptor that did not parse would be missing here; a test holds that none is.
    fn descriptor(&self) -> Option<&ToolDescriptor> {
        let parse = || ToolDescriptor::parse(&self.path(), self.text).ok();
        self.descriptor.get_or_init(parse).as_ref()
    }

    fn path(&self) -> PathBuf {
        PathBuf::from(format!("builtin/{}.yaml", self.name))
    }
}

macro_rules! builtins {
    ($($name:literal),* $(,)?) => {
        [$(Builtin {
            name: $name,
            text: include_str!(concat!("../builtin/", $name, ".yaml")),
            descriptor: OnceLock::new(),
        }),*]
    };
}

/// Sorted by name.
static BUILTINS: [Builtin; 59] = builtins![
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

/// The names of the built-in tools (without `rune@`), sorted.
pub fn builtin_names() -> impl Iterator<Item = &'static str> + Clone {
    BUILTINS.iter().map(|tool| tool.name)
}

/// The built-in tool `rune@NAME`.
pub fn builtin(name: &str) -> Option<&'static ToolDescriptor> {
    let found = BUILTINS.binary_search_by_key(&name, |tool| tool.name);
    BUILTINS.get(found.ok()?)?.descriptor()
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
        for builtin in &BUILTINS {
            let path = builtin.name;
            let tool = ToolDescriptor::parse(&builtin.path(), builtin.text)
                .unwrap_or_else(|errors| panic!("{errors}"));
            assert_eq!(tool.name, builtin.name);
            assert_eq!(tool.runtime, ToolRuntime::Builtin);
            assert!(tool.description.len() > 40, "{path} needs a description");
            assert_eq!(tool.input_schema["additionalProperties"], false, "{path}");
            assert!(
                tool.primary_argument.is_some(),
                "{path} needs a primary argument"
            );
        }
        assert!(builtin_names().is_sorted_by(|a, b| a < b));
        assert!(builtin_names().all(|name| builtin(name).is_some()));
        assert!(MEDIA.iter().all(|name| builtin(name).is_some()));
    }
}
