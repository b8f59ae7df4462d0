//! One file per built-in tool.

mod a2a_discover;
mod a2a_send;
mod agent_find;
mod agent_kill;
mod agent_list;
mod agent_spawn;
mod agents;
mod answer;
mod apply_patch;
mod browser;
mod browser_back;
mod browser_click;
mod browser_close;
mod browser_navigate;
mod browser_read_page;
mod browser_run_js;
mod browser_screenshot;
mod browser_scroll;
mod browser_type;
mod browser_wait;
mod canvas_present;
mod channel_send;
mod cron_cancel;
mod cron_create;
mod cron_list;
mod event_publish;
mod file_list;
mod file_read;
mod file_write;
mod image_analyze;
mod image_generate;
mod knowledge_add_entity;
mod knowledge_add_relation;
mod knowledge_query;
mod location_get;
mod media;
mod media_describe;
mod media_transcribe;
mod memory_list;
mod memory_recall;
mod memory_store;
mod output_read;
mod process_kill;
mod process_list;
mod process_poll;
mod process_start;
mod process_write;
mod processes;
mod schedule_create;
mod schedule_delete;
mod schedule_list;
mod schedules;
mod shell_exec;
mod speech_to_text;
mod system_time;
mod task_claim;
mod task_complete;
mod task_list;
mod task_post;
mod text_to_speech;
mod tool_search;
mod web_fetch;
mod web_search;

use std::sync::Arc;

pub(crate) use shell_exec::exit_code;

use rune_store_runtime::{TaskHolder, TaskRow};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::browser::Browsers;
use crate::media::Sources;
use crate::processes::Processes;
use crate::search::Searcher;
use crate::tool::ENVELOPE_BYTES;
use crate::web::WebClient;
use crate::{BuiltinTool, BuiltinsConfig, ToolContext, ToolError};

/// Every built-in tool, by name.
pub(crate) fn all(config: BuiltinsConfig) -> Vec<Arc<dyn BuiltinTool>> {
    let processes = Processes::new(config.search_path.clone(), config.launcher.clone());
    let processes = Arc::new(processes);
    let browsers = Browsers::new(
        config.browser,
        config.launcher.clone(),
        config.egress.clone(),
    );
    let browsers = Arc::new(browsers);
    let sources = Arc::new(Sources::new(config.egress.clone()));
    vec![
        Arc::new(a2a_discover::A2aDiscover(config.remotes.clone())),
        Arc::new(a2a_send::A2aSend(config.remotes)),
        Arc::new(agent_find::AgentFind),
        Arc::new(agent_kill::AgentKill),
        Arc::new(agent_list::AgentList),
        Arc::new(agent_spawn::AgentSpawn),
        Arc::new(apply_patch::ApplyPatch),
        Arc::new(browser_back::BrowserBack(Arc::clone(&browsers))),
        Arc::new(browser_click::BrowserClick(Arc::clone(&browsers))),
        Arc::new(browser_close::BrowserClose(Arc::clone(&browsers))),
        Arc::new(browser_navigate::BrowserNavigate(Arc::clone(&browsers))),
        Arc::new(browser_read_page::BrowserReadPage(Arc::clone(&browsers))),
        Arc::new(browser_run_js::BrowserRunJs(Arc::clone(&browsers))),
        Arc::new(browser_screenshot::BrowserScreenshot(Arc::clone(&browsers))),
        Arc::new(browser_scroll::BrowserScroll(Arc::clone(&browsers))),
        Arc::new(browser_type::BrowserType(Arc::clone(&browsers))),
        Arc::new(browser_wait::BrowserWait(browsers)),
        Arc::new(canvas_present::CanvasPresent),
        Arc::new(channel_send::ChannelSend),
        Arc::new(cron_cancel::CronCancel),
        Arc::new(cron_create::CronCreate),
        Arc::new(cron_list::CronList),
        Arc::new(event_publish::EventPublish),
        Arc::new(file_list::FileList),
        Arc::new(file_read::FileRead),
        Arc::new(file_write::FileWrite),
        Arc::new(image_analyze::ImageAnalyze(Arc::clone(&sources))),
        Arc::new(image_generate::ImageGenerate),
        Arc::new(knowledge_add_entity::KnowledgeAddEntity),
        Arc::new(knowledge_add_relation::KnowledgeAddRelation),
        Arc::new(knowledge_query::KnowledgeQuery),
        Arc::new(location_get::LocationGet::new(
            config.location,
            config.location_lookup,
            config.egress.clone(),
        )),
        Arc::new(media_describe::MediaDescribe(Arc::clone(&sources))),
        Arc::new(media_transcribe::MediaTranscribe(Arc::clone(&sources))),
        Arc::new(memory_list::MemoryList),
        Arc::new(memory_recall::MemoryRecall),
        Arc::new(memory_store::MemoryStore),
        Arc::new(output_read::OutputRead),
        Arc::new(process_kill::ProcessKill(Arc::clone(&processes))),
        Arc::new(process_list::ProcessList(Arc::clone(&processes))),
        Arc::new(process_poll::ProcessPoll(Arc::clone(&processes))),
        Arc::new(process_start::ProcessStart(Arc::clone(&processes))),
        Arc::new(process_write::ProcessWrite(processes)),
        Arc::new(schedule_create::ScheduleCreate),
        Arc::new(schedule_delete::ScheduleDelete),
        Arc::new(schedule_list::ScheduleList),
        Arc::new(shell_exec::ShellExec::new(
            config.search_path,
            config.launcher,
        )),
        Arc::new(speech_to_text::SpeechToText(sources)),
        Arc::new(system_time::SystemTime),
        Arc::new(task_claim::TaskClaim),
        Arc::new(task_complete::TaskComplete),
        Arc::new(task_list::TaskList),
        Arc::new(task_post::TaskPost),
        Arc::new(text_to_speech::TextToSpeech),
        Arc::new(tool_search::ToolSearch),
        Arc::new(web_fetch::WebFetch::new(WebClient::new(
            config.egress.clone(),
        ))),
        Arc::new(web_search::WebSearch(Searcher::new(
            config.search,
            config.egress,
        ))),
    ]
}

/// The queue of a task that names none.
fn default_queue() -> String {
    "default".to_owned()
}

/// Who holds what a call claims.
fn holder(context: &ToolContext) -> TaskHolder {
    TaskHolder {
        agent: context.scope.agent.clone(),
        session_id: context.session_id.clone(),
    }
}

/// A task as a model sees it.
fn show_task(row: &TaskRow) -> Value {
    json!({
        "task_id": row.id,
        "queue": row.queue,
        "title": row.title,
        "payload": row.payload,
        "priority": row.priority,
        "state": row.state.as_str(),
        "attempts": row.attempts,
        "max_attempts": row.max_attempts,
        "posted_by": row.posted_by,
        "held_by": row.holder.as_ref().map(|holder| &holder.agent),
        "lease_until": row.lease_until,
        "result": row.result,
        "created_at": row.created_at,
        "updated_at": row.updated_at,
    })
}

/// The typed form of an input.
fn parse<T: DeserializeOwned>(input: Value) -> Result<T, ToolError> {
    serde_json::from_value(input)
        .map_err(|error| ToolError::invalid(format!("the input is not valid: {error}")))
}
