//! What fills the window of the next model call, and how much of it earlier messages may.

use rune_spec::MemoryProfile;
use rune_store_runtime::{EntryBody, PromptParts};

use super::{Ended, Planner};
use crate::history::{self, History, Window};
use crate::tokens::{self, TokenScale};

impl Planner {
    /// The messages of earlier requests that the model is shown, as `memory_profile` says.
    pub(super) async fn history(&mut self, new_session: bool) -> Result<History, Ended> {
        let profile = self.agent.spec().memory_profile;
        let window = history::window(profile, self.agent.token_budget());
        let Some(window) = window.filter(|_| !new_session) else {
            return Ok(self.compacted(History::default()));
        };
        let Window { share, shown, read } = window;
        // A component finds the same whenever it runs, also where another request of the session came in between.
        let until = self
            .state
            .began
            .filter(|_| self.agent.component().is_some());
        let history = history::read(&self.store, &self.session_id, read, until).await?;
        if profile == MemoryProfile::Extended && history.left_out {
            self.note(EntryBody::Notice {
                code: "history_left_out".to_owned(),
                message: format!(
                    "the oldest turns of the conversation are neither shown nor summarised: it has more than {read} \
                     tokens since its beginning, or since the last summary"
                ),
            });
        }
        if history.repairs > 0 {
            self.note(EntryBody::Notice {
                code: "history_repaired".to_owned(),
                message: format!(
                    "{} tool calls or results without their counterpart were repaired",
                    history.repairs
                ),
            });
        }
        if let Some(turn) = history.too_large {
            let (code, part) = if turn.condensed {
                ("history_condensed", "only the question and the answer of")
            } else {
                ("history_left_out", "nothing of")
            };
            self.note(EntryBody::Notice {
                code: code.to_owned(),
                message: format!(
                    "the model is shown {part} the conversation so far: its newest turn has about {} tokens, and \
                     earlier messages may fill {shown} (1/{share} of `{}`)",
                    turn.tokens,
                    self.agent.token_budget_name(),
                ),
            });
        }
        Ok(self.compacted(history))
    }

    /// What the request's own compaction left, where a process before this one made one.
    fn compacted(&self, mut history: History) -> History {
        if let Some(compaction) = self.state.compaction.clone() {
            history.compact(compaction);
        }
        history
    }

    /// Tokens that a prompt may have before the conversation is compacted.
    pub(super) fn prompt_room(&self) -> u64 {
        let share = self.agent.token_budget() / 2;
        let window = self.agent.spec().models.context_window;
        window.map_or(share, |window| share.min(window / 4 * 3))
    }

    /// What an estimate is multiplied by.
    pub(super) fn scale(&self, earlier: &History) -> TokenScale {
        self.state.scale.or(earlier.scale).unwrap_or_default()
    }

    /// What fills the prompt of the next call, in estimated tokens.
    pub(super) fn prompt_parts(&self, earlier: &History) -> PromptParts {
        PromptParts {
            summary: earlier.summary.as_ref().map_or(0, |it| it.tokens),
            earlier: earlier.turns.iter().map(|turn| turn.tokens).sum(),
            earlier_requests: u32::try_from(earlier.turns.len()).unwrap_or(u32::MAX),
            own: tokens::of_messages(&self.state.messages),
            ..self.fixed_prompt(earlier)
        }
    }

    /// Tokens of the prompt of the next call, by what providers counted of those before it.
    pub(super) fn prompt_tokens(&self, earlier: &History) -> u64 {
        let estimated = self.prompt_parts(earlier).total();
        self.scale(earlier).apply(estimated)
    }
}
