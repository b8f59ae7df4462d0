//! A component asks a model.

use rune_store_runtime::{
    Block, EntryBody, ErrorCode, Failure, Message, ModelAsk, ModelReply, Role, StopReason,
};
use rune_wasm::{AgentFailure, Ask, Reply, ToolCall, Usage};

use super::question::{Checked, MAX_QUESTION_BYTES, digest, size};
use super::script::Did;
use super::{Run, check_size, failure, invalid};
use crate::journal::unstorable;
use crate::planner::ask::Asked;
use crate::planner::{Ended, Planner, images};

impl Planner {
    /// Asks a model for the component. What comes of it becomes an entry, also where it is no question that can be asked:
    /// whether it is one depends on more than the component, such as the tools of MCP servers.
    pub(super) async fn ask_for_component(
        &mut self,
        run: &mut Run,
        ask: Ask,
    ) -> Result<Result<Reply, AgentFailure>, Ended> {
        check_size("a question", size(&ask), MAX_QUESTION_BYTES)?;
        run.asked += 1;
        let asked = ModelAsk {
            step: run.asked,
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
        let asked = match self.check(&ask) {
            Ok(checked) => self.answered(run, ask, checked, asked).await?,
            Err(problem) => ModelAsk {
                failure: Some(invalid(&problem)),
                ..asked
            },
        };
        let told = told(&asked);
        // Nothing leaves the component's hands before the next commit, which has it.
        self.note(EntryBody::ModelAsked(Box::new(asked)));
        Ok(told)
    }

    /// A question with what came of it.
    async fn answered(
        &mut self,
        run: &Run,
        ask: Ask,
        checked: Checked,
        asked: ModelAsk,
    ) -> Result<ModelAsk, Ended> {
        let (mut call, prompt) = self.call_of(run, ask, checked);
        self.check_tokens(call.prompt_tokens)?;
        images::load_into(self.blobs.as_deref(), &mut call.request.messages).await?;
        self.state.unanswered = None;
        let failure = match self.ask(call).await {
            Ok(Asked::Answered(answer)) => {
                let reply = self.model_reply(*answer, prompt);
                return Ok(kept(asked, reply));
            }
            Ok(Asked::TooLong(failed)) => {
                let failure = failed.failure.clone();
                self.note(failed.entry(asked.step, None));
                failure
            }
            Err(Ended::Failed(failure)) if self.state.unanswered.as_ref() == Some(&failure) => {
                failure
            }
            Err(ended) => return Err(ended),
        };
        Ok(ModelAsk {
            failure: Some(failure),
            ..asked
        })
    }
}

/// A question with its reply; where the journal cannot hold that, with what it cost, and why there is nothing of it.
fn kept(asked: ModelAsk, reply: ModelReply) -> ModelAsk {
    let answered = ModelAsk {
        reply: Some(reply),
        ..asked
    };
    let Some(problem) = unstorable(&answered) else {
        return answered;
    };
    let message = format!("the reply of the model {problem}");
    ModelAsk {
        reply: answered.reply.map(|reply| ModelReply {
            blocks: Vec::new(),
            ..reply
        }),
        failure: Some(Failure::new(ErrorCode::TooLarge, message)),
        ..answered
    }
}

/// What a component is told of a model that was asked.
fn told(ask: &ModelAsk) -> Result<Reply, AgentFailure> {
    let reply = match (&ask.failure, &ask.reply) {
        (Some(why), _) => return Err(failure(why)),
        (None, Some(reply)) => reply,
        (None, None) => {
            let unexplained = Failure::new(ErrorCode::ModelUnavailable, "no model answered");
            return Err(failure(&unexplained));
        }
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
