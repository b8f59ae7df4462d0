//! A component asks a model.

use rune_store_runtime::{
    Block, EntryBody, ErrorCode, Failure, Message, ModelAsk, Role, StopReason,
};
use rune_wasm::{AgentFailure, Ask, Reply, ToolCall, Usage};

use super::question::{MAX_QUESTION_BYTES, digest, size};
use super::script::Did;
use super::{Run, check_size, failure, invalid};
use crate::planner::ask::{Asked, Call};
use crate::planner::{Ended, Planner};

impl Planner {
    /// Asks a model for the component. What is not a question that can be asked is told to the component, and the same
    /// whenever it is run; what a model says becomes an entry.
    pub(super) async fn ask_for_component(
        &mut self,
        run: &mut Run,
        ask: Ask,
    ) -> Result<Result<Reply, AgentFailure>, Ended> {
        check_size("a question", size(&ask), MAX_QUESTION_BYTES)?;
        let checked = match self.check(&ask) {
            Ok(checked) => checked,
            Err(problem) => return Ok(Err(invalid(problem))),
        };
        run.asked += 1;
        let step = run.asked;
        let asked = ModelAsk {
            step,
            request: digest(&ask),
            reply: None,
            failure: None,
        };
        let does = Did::Asked(Box::new(asked.clone()));
        let is_same =
            |did: &Did| matches!(did, Did::Asked(known) if known.request == asked.request);
        if let Some(Did::Asked(known)) = run.script.next(&does, is_same)? {
            return Ok(told(&known));
        }
        self.check_steps()?;
        if run.asked > 1 {
            // What was paid for is stored before more is. The first question may overlap with the acceptance.
            self.journal.commit(Vec::new()).await?;
        }
        self.load_images(&mut run.history).await?;
        let (request, prompt) = self.prompt_of(run, ask.system, &checked, ask.max_output_tokens);
        let prompt_tokens = self.scale(&run.history).apply(prompt.total());
        self.check_tokens(prompt_tokens)?;
        let call = Call {
            request,
            prompt_tokens,
            is_shown: ask.stream,
            models: checked.models,
        };
        self.state.unanswered = None;
        let answered = match self.ask(call).await {
            Ok(Asked::Answered(answer)) => Ok(self.model_reply(*answer, prompt)),
            Ok(Asked::TooLong(failed)) => {
                let failure = failed.failure.clone();
                self.note(failed.entry(step, None));
                Err(failure)
            }
            Err(Ended::Failed(failure)) if self.state.unanswered.as_ref() == Some(&failure) => {
                Err(failure)
            }
            Err(ended) => return Err(ended),
        };
        let asked = match answered {
            Ok(reply) => ModelAsk {
                reply: Some(reply),
                ..asked
            },
            Err(failure) => ModelAsk {
                failure: Some(failure),
                ..asked
            },
        };
        let told = told(&asked);
        // Nothing leaves the component's hands before the next commit, which has it.
        self.note(EntryBody::ModelAsked(Box::new(asked)));
        Ok(told)
    }
}

/// What a component is told of a model that was asked.
fn told(ask: &ModelAsk) -> Result<Reply, AgentFailure> {
    let Some(reply) = &ask.reply else {
        let unexplained = || Failure::new(ErrorCode::ModelUnavailable, "no model answered");
        return Err(failure(&ask.failure.clone().unwrap_or_else(unexplained)));
    };
    let message = Message {
        role: Role::Assistant,
        blocks: reply.blocks.clone(),
    };
    let tool_calls = reply.blocks.iter().filter_map(|block| match block {
        Block::ToolCall {
            id, name, input, ..
        } => Some(ToolCall {
            id: id.clone(),
            name: name.clone(),
            input: input.to_string(),
        }),
        _ => None,
    });
    Ok(Reply {
        step: reply.step,
        text: message.text(),
        tool_calls: tool_calls.collect(),
        stop: match reply.stop {
            StopReason::EndTurn => rune_wasm::StopReason::EndTurn,
            StopReason::ToolUse => rune_wasm::StopReason::ToolUse,
            StopReason::MaxTokens => rune_wasm::StopReason::MaxTokens,
            StopReason::Refusal => rune_wasm::StopReason::Refusal,
            StopReason::Pause => rune_wasm::StopReason::Pause,
        },
        usage: Usage {
            input_tokens: reply.usage.input_tokens,
            output_tokens: reply.usage.output_tokens,
        },
    })
}
