//! What a person sees while a request runs: tokens or the answer on stdout, tools and notices on stderr.

use rune_store_runtime::{ErrorCode, RequestStatus};
use serde_json::{Value, json};

use crate::client::{Event, of_api};
use crate::failure::{Exit, Outcome};
use crate::output::{Format, Output, one_line, printable, shortened};
use crate::prompt;

/// Longest part of a tool's input that is shown.
const SHOWN_INPUT_CHARS: usize = 100;
/// Longest part of an error that is shown in a line.
const SHOWN_ERROR_CHARS: usize = 300;
/// What people are told when the offline model answers.
const OFFLINE_NOTICE: &str = "offline model: no language model is configured (set ANTHROPIC_API_KEY, GEMINI_API_KEY or OPENAI_API_KEY for a real one)";

/// Prints the events of one request.
pub(crate) struct EventPrinter {
    output: Output,
    stream: bool,
    verbose: bool,
    told_offline: bool,
    /// Whether the id of the request is printed before its answer.
    names_request: bool,
    /// Whether the last thing on stdout was a part of a line.
    open_line: bool,
    /// Text that was printed live since the last reply ended.
    printed: String,
}

impl EventPrinter {
    /// `stream`: print tokens as they come; else the answer at the end.
    pub(crate) fn new(output: Output, stream: bool, verbose: bool) -> Self {
        Self {
            output,
            stream,
            verbose,
            told_offline: false,
            names_request: false,
            open_line: false,
            printed: String::new(),
        }
    }

    /// Prints the id of the request before its answer, too.
    pub(crate) fn naming_request(self) -> Self {
        Self {
            names_request: true,
            ..self
        }
    }

    /// Where it prints to.
    pub(crate) const fn output(&self) -> Output {
        self.output
    }

    /// The person knows already that the offline model answers.
    pub(crate) fn quiet_about_offline(&mut self) {
        self.told_offline = true;
    }

    /// Whether the person has been told that the offline model answers.
    pub(crate) const fn told_offline(&self) -> bool {
        self.told_offline
    }

    /// Prints an event. After the last one: how the command ends.
    pub(crate) fn print(&mut self, event: &Event) -> Outcome<Option<Exit>> {
        self.tell(event)?;
        if self.stream && self.output.is_machine() {
            self.output.text(&as_line(event).to_string())?;
        }
        match event.name.as_str() {
            "accepted" if self.names_request && !self.output.is_machine() => {
                self.output.text(event.text("request_id"))?;
                Ok(None)
            }
            "token" if self.stream && !self.output.is_machine() => {
                let text = printable(event.text("text"));
                self.output.raw(&text)?;
                if !text.is_empty() {
                    self.open_line = !text.ends_with('\n');
                }
                self.printed.push_str(&text);
                Ok(None)
            }
            "done" => self.done(event).map(Some),
            "error" => self.failed(event),
            _ => Ok(None),
        }
    }

    /// Ends a line that tokens left open.
    pub(crate) fn end_line(&mut self) -> Outcome<()> {
        if std::mem::take(&mut self.open_line) {
            self.output.raw("\n")?;
        }
        Ok(())
    }

    fn done(&mut self, event: &Event) -> Outcome<Exit> {
        let answer = &event.data["output"];
        if !self.output.is_machine() {
            let text = printable(&prompt::answer(answer));
            let is_printed = self.stream && self.printed.trim_end().ends_with(text.trim_end());
            self.end_line()?;
            if !is_printed {
                self.output.text(text.trim_end_matches('\n'))?;
            }
        } else if !self.stream {
            self.output.object(&event.data)?;
        }
        let status = event.text("status");
        Ok(RequestStatus::parse(status).map_or(Exit::Ok, Exit::of_status))
    }

    fn failed(&mut self, event: &Event) -> Outcome<Option<Exit>> {
        self.end_line()?;
        if self.output.is_machine() && !self.stream {
            self.output.object(&event.data)?;
        }
        let code =
            serde_json::from_value(event.data["code"].clone()).unwrap_or(ErrorCode::Internal);
        let failure = of_api(code, event.text("message"));
        Err(failure)
    }

    /// The part for stderr.
    fn tell(&mut self, event: &Event) -> Outcome<()> {
        let style = self.output.style;
        let line = match event.name.as_str() {
            "tool_start" => {
                let name = one_line(event.text("name"));
                let input = one_line(&event.data["input"].to_string());
                let input = shortened(&input, SHOWN_INPUT_CHARS);
                Some(style.dim(&format!("[tool] {name} {input}")))
            }
            "tool_progress" => Some(style.dim(&progress(event))),
            "tool_done" => Some(self.tool_done(event)),
            "notice" => {
                self.told_offline |= event.text("code").contains("offline");
                let message = one_line(event.text("message"));
                Some(format!("{} {message}", style.warn("[note]")))
            }
            "compacted" => {
                let tokens = |name: &str| event.data[name].as_u64().unwrap_or_default();
                Some(style.dim(&format!(
                    "[context] the older part of the conversation was summarised: about {} tokens instead of {}",
                    tokens("tokens_after"),
                    tokens("tokens_before"),
                )))
            }
            "model_failed" => {
                let provider = one_line(event.text("provider"));
                let why = one_line(event.data["error"]["message"].as_str().unwrap_or_default());
                let next = match event.data["next_provider"].as_str() {
                    Some(next) => format!("; asking {}", one_line(next)),
                    None => String::new(),
                };
                Some(format!(
                    "{} {provider} failed: {why}{next}",
                    style.warn("[model]")
                ))
            }
            "usage" if !self.told_offline && event.text("provider") == "offline" => {
                self.told_offline = true;
                Some(format!("{} {OFFLINE_NOTICE}", style.warn("[note]")))
            }
            "started" if event.data["attempt"].as_u64() > Some(1) => {
                Some(style.dim("[run] taken up again"))
            }
            "agent_call" => {
                let agent = one_line(event.text("agent"));
                Some(style.dim(&format!("[agent] {agent} is called")))
            }
            "step_started" => {
                let step = one_line(event.text("step"));
                Some(match event.data["attempt"].as_u64() {
                    Some(attempt) if attempt > 1 => {
                        style.dim(&format!("[step] {step} starts, attempt {attempt}"))
                    }
                    _ => style.dim(&format!("[step] {step} starts")),
                })
            }
            "step_finished" => Some(self.step_finished(event)),
            "approval_required" => {
                let tool = one_line(event.text("tool"));
                Some(format!(
                    "{} {tool} waits for approval",
                    style.warn("[approval]")
                ))
            }
            "accepted" if self.verbose => {
                let (request, session) = (event.text("request_id"), event.text("session_id"));
                Some(style.dim(&format!("[run] request {request}, session {session}")))
            }
            _ => None,
        };
        if let Some(line) = line {
            if self.output.format == Format::Table {
                self.end_line()?;
            }
            self.output.note(&line);
        }
        Ok(())
    }

    fn step_finished(&self, event: &Event) -> String {
        let style = self.output.style;
        let step = one_line(event.text("step"));
        let millis = event.data["duration_ms"].as_u64().unwrap_or_default();
        match (
            event.text("status"),
            event.data["error"]["message"].as_str(),
        ) {
            (_, Some(why)) => {
                let why = shortened(&one_line(why), SHOWN_ERROR_CHARS);
                format!(
                    "{} {step} failed after {millis} ms: {why}",
                    style.error("[step]")
                )
            }
            ("skipped", _) => style.dim(&format!("[step] {step} is skipped")),
            _ => style.dim(&format!("[step] {step} done in {millis} ms")),
        }
    }

    fn tool_done(&mut self, event: &Event) -> String {
        let style = self.output.style;
        let name = one_line(event.text("name"));
        let millis = event.data["duration_ms"].as_u64().unwrap_or_default();
        match event.data["error"]["message"].as_str() {
            Some(why) => {
                let why = shortened(&one_line(why), SHOWN_ERROR_CHARS);
                format!(
                    "{} {name} failed after {millis} ms: {why}",
                    style.error("[tool]")
                )
            }
            None => style.dim(&format!("[tool] {name} done in {millis} ms")),
        }
    }
}

/// The event as one JSON value.
pub(crate) fn as_line(event: &Event) -> Value {
    json!({ "id": event.seq, "event": event.name, "data": event.data })
}
/// How far a tool call is, as a line.
fn progress(event: &Event) -> String {
    let number = |field: &str| event.data[field].as_f64();
    let done = number("progress").unwrap_or_default();
    let of = number("total").map_or_else(String::new, |total| format!("/{total}"));
    let name = one_line(event.text("name"));
    let message = shortened(&one_line(event.text("message")), SHOWN_INPUT_CHARS);
    let line = format!("[tool] {name}: {done}{of} {message}");
    line.trim_end().to_owned()
}
