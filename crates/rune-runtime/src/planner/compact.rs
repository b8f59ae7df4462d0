//! Making room in the window: the older part of a conversation is replaced by a summary.
//!
//! What is replaced is always the older end: whole earlier requests, then whole model turns of
//! this request with the results of their calls, never the last one and never the input. A
//! compaction is made only where it takes away a good part of what may be shown, and what it
//! puts there is smaller by construction, so one cannot lead to the next.

use rune_store_runtime::{
    Compaction, EntryBody, Failure, Message, ModelCall, Replaced, RequestSpan, Role,
};

use super::ask::{Answer, Asked, Call};
use super::{Ended, Planner, summary};
use crate::history::History;
use crate::model::{ModelRequest, SUMMARY_INSTRUCTIONS};
use crate::tokens::{self, TokenScale};

/// The part of the room, one over this, that stays as it was said.
const KEPT: u64 = 3;
/// That a compaction takes away at the least.
const WORTHWHILE: u64 = 4;
/// That the summary may fill, and the list of effects beside it.
const SUMMARY: u64 = 8;
const EFFECTS: u64 = 16;
/// Output tokens of a summary at the most.
const MAX_SUMMARY_TOKENS: u64 = 4096;
/// Bytes of a token where a text is cut to a number of them.
const BYTES_PER_TOKEN: u64 = 4;

/// What is to be replaced.
pub(super) struct Plan {
    replaces: Replaced,
    /// Turns of [`History::turns`], the oldest.
    turns: usize,
    /// Messages of the request itself behind its input, the oldest.
    own: usize,
    /// Room for the prompt, in estimated tokens.
    room: u64,
}

impl Planner {
    /// Replaces the older part of the conversation where the next prompt would be too large.
    pub(super) async fn make_room(&mut self, earlier: &mut History) -> Result<(), Ended> {
        let room = self.prompt_room();
        if self.prompt_tokens(earlier) > room
            && let Some(plan) = self.plan_compaction(earlier, room)
        {
            self.compact(earlier, &plan).await?;
        }
        Ok(())
    }

    /// What can be replaced so that the prompt fits into so many tokens; nothing where that
    /// would be no use.
    pub(super) fn plan_compaction(&self, earlier: &History, room: u64) -> Option<Plan> {
        let room = self.scale(earlier).within(room);
        let steps = steps(&self.state.messages);
        let turns = &earlier.turns;
        // From the newest on; the last turn of the request stays, whatever it has.
        let mut kept = steps.last().map_or(0, |step| step.tokens);
        let mut stays = |tokens: u64| {
            kept = kept.saturating_add(tokens);
            kept <= room / KEPT
        };
        let older_steps = steps.iter().rev().skip(1);
        let kept_steps = older_steps.take_while(|step| stays(step.tokens)).count();
        let gone_steps = steps.len().saturating_sub(kept_steps + 1);
        let older_turns = turns.iter().rev().filter(|_| gone_steps == 0);
        let kept_turns = older_turns.take_while(|turn| stays(turn.tokens)).count();
        let gone_turns = turns.len() - kept_turns;
        let replaced_turns = &turns[..gone_turns];
        let taken = replaced_turns.iter().map(|turn| turn.tokens);
        let taken = taken.chain(steps[..gone_steps].iter().map(|step| step.tokens));
        if taken.sum::<u64>() < (room / WORTHWHILE).max(1) {
            return None;
        }
        let ends = replaced_turns.first().zip(replaced_turns.last());
        let requests = ends.map(|(first, last)| RequestSpan {
            first: first.request_id,
            last: last.request_id,
            count: u32::try_from(gone_turns).unwrap_or(u32::MAX),
        });
        let former = self.state.compaction.as_ref();
        let before = former.map_or(0, |former| former.replaces.steps);
        Some(Plan {
            replaces: Replaced {
                requests,
                steps: before.saturating_add(u32::try_from(gone_steps).unwrap_or(u32::MAX)),
            },
            turns: gone_turns,
            own: steps[..gone_steps].iter().map(|step| step.messages).sum(),
            room,
        })
    }

    /// Has the summary written and commits it. Where no model writes one, the list of effects
    /// stands alone.
    pub(super) async fn compact(
        &mut self,
        earlier: &mut History,
        plan: &Plan,
    ) -> Result<(), Ended> {
        let before = self.prompt_parts(earlier).total();
        let replaced = || {
            let turns = &earlier.turns[..plan.turns];
            let turns = turns.iter().flat_map(|turn| &turn.messages);
            // The input stays, so that it is not part of it.
            turns.chain(self.state.messages.iter().skip(1).take(plan.own))
        };
        let former = earlier.summary.as_ref().map(|summary| &summary.compaction);
        let (mut effects, mut more_effects) = former.map_or((Vec::new(), 0), |former| {
            (former.effects.clone(), former.more_effects)
        });
        effects.extend(summary::effects(&self.agent, replaced()));
        let bytes = |tokens: u64| usize::try_from(tokens * BYTES_PER_TOKEN).unwrap_or(usize::MAX);
        let (effects, gone) = summary::newest(effects, bytes(plan.room / EFFECTS));
        more_effects = more_effects.saturating_add(gone);
        let said = former.map(|former| format!("Summary so far: {}", former.summary));
        let transcript = summary::transcript(said.as_deref(), replaced(), bytes(plan.room));
        let scale = self.scale(earlier);
        let longest = plan.room / SUMMARY;
        let answer = self.ask_for_summary(transcript, longest, scale).await?;
        let (text, call) = answer.map_or((String::new(), None), |answer| {
            let text = Message {
                role: Role::Assistant,
                blocks: answer.output.blocks,
            }
            .text();
            let call = ModelCall {
                provider: answer.provider,
                model: answer.model,
                usage: answer.output.usage,
                cost_micro_usd: answer.cost_micro_usd,
                duration_ms: answer.duration_ms,
            };
            (text, Some(call))
        });
        let mut compaction = Box::new(Compaction {
            step: self.state.steps + 1,
            replaces: plan.replaces,
            summary: summary::both_ends(text.trim(), bytes(longest)),
            effects,
            more_effects,
            tokens_before: before,
            tokens_after: 0,
            call,
        });
        compaction.tokens_after = self.tokens_with(earlier, plan, &compaction);
        let entry = EntryBody::Compacted(compaction.clone());
        self.state.apply(&entry);
        earlier.compact(compaction);
        self.journal.commit(vec![entry]).await?;
        Ok(())
    }

    fn tokens_with(&self, earlier: &History, plan: &Plan, compaction: &Compaction) -> u64 {
        let own = &self.state.messages;
        let own = own.iter().take(1).chain(own.iter().skip(1 + plan.own));
        let turns = earlier.turns[plan.turns..].iter().map(|turn| turn.tokens);
        let summary = tokens::of_message(&Message::user(compaction.text()));
        let fixed = self.fixed_prompt(earlier).total();
        turns.sum::<u64>() + tokens::of_messages(own) + summary + fixed
    }

    /// What a model wrote; nothing where none may be asked or none answers.
    async fn ask_for_summary(
        &mut self,
        transcript: String,
        longest: u64,
        scale: TokenScale,
    ) -> Result<Option<Answer>, Ended> {
        let fixed = tokens::tokens_of(SUMMARY_INSTRUCTIONS.len());
        let prompt = scale.apply(fixed + tokens::tokens_of(transcript.len()));
        let output = scale.apply(longest).clamp(1, MAX_SUMMARY_TOKENS);
        let call = Call {
            prompt_tokens: prompt,
            is_shown: false,
            models: None,
            request: ModelRequest {
                model: String::new(),
                system: SUMMARY_INSTRUCTIONS.to_owned(),
                messages: vec![Message::user(transcript)],
                tools: Vec::new(),
                max_output_tokens: Some(u32::try_from(output).unwrap_or(u32::MAX)),
                temperature: None,
                reasoning_effort: None,
                output_schema: None,
            },
        };
        let answered = match self.check_tokens(prompt) {
            Ok(()) => self.ask(call).await,
            Err(failure) => Err(failure.into()),
        };
        let failure = match answered {
            Ok(Asked::Answered(answer)) => return Ok(Some(*answer)),
            Ok(Asked::TooLong(failed)) => {
                let failure = failed.failure.clone();
                self.note(failed.entry(self.state.steps + 1, None));
                failure
            }
            Err(Ended::Failed(failure)) => failure,
            Err(ended) => return Err(ended),
        };
        self.tell_unsummarised(&failure);
        Ok(None)
    }

    fn tell_unsummarised(&mut self, failure: &Failure) {
        tracing::warn!(request = %self.request_id, %failure, "a conversation was compacted without a summary");
        self.note(EntryBody::Notice {
            code: "not_summarised".to_owned(),
            message: format!(
                "no summary could be written of the older part of the conversation ({failure}): the model is shown the \
                 list of its tool calls in its place"
            ),
        });
    }
}

/// A model turn of the request.
struct Step {
    /// It and the results of its calls.
    messages: usize,
    tokens: u64,
}

fn steps(messages: &[Message]) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for message in messages.iter().skip(1) {
        let tokens = tokens::of_message(message);
        match steps.last_mut() {
            Some(step) if message.role != Role::Assistant => {
                step.messages += 1;
                step.tokens += tokens;
            }
            _ => steps.push(Step {
                messages: 1,
                tokens,
            }),
        }
    }
    steps
}
