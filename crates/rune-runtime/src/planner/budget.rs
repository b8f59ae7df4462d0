//! What a request may cost, and whether its models have a price at all.

use rune_store_runtime::{EntryBody, Failure};

use super::state::UNPRICED;
use super::{Planner, limit};
use crate::history::{self, History};
use crate::model::{Candidate, LlmClient};

/// Fewer output tokens than this are not worth a call, and not every provider takes less.
const MIN_OUTPUT_TOKENS: u64 = 16;

impl Planner {
    /// The output tokens that what is left of `budget.cost_usd` allows the next call;
    /// `None` where there is no such budget.
    ///
    /// # Errors
    /// The failure of a request that may not make this call.
    pub(super) fn affordable_output(
        &self,
        candidate: &Candidate,
        earlier: &History,
    ) -> Result<Option<u64>, Failure> {
        let Some(budget) = self.agent.cost_budget() else {
            return Ok(None);
        };
        let Some(price) = &candidate.price else {
            return Err(limit(format!(
                "the agent has a budget of {} (`budget.cost_usd`) and no price is known for the model `{}` of \
                 provider `{}`: without one the budget cannot be kept. Name its price in `prices.toml` in the data \
                 directory, or take the budget away",
                usd(budget),
                candidate.model,
                candidate.client.provider(),
            )));
        };
        let spent = self.state.cost.micro_usd.unwrap_or_default();
        let prompt = self.whole_prompt_estimate(earlier);
        let output = price.output_within(budget.saturating_sub(spent), prompt);
        if output < MIN_OUTPUT_TOKENS {
            return Err(limit(format!(
                "the next model call would exceed the budget of {} (`budget.cost_usd`): {} are spent and the prompt \
                 has about {prompt} tokens",
                usd(budget),
                usd(spent),
            )));
        }
        Ok(Some(output))
    }

    /// Says, once per request, that a model that is about to be asked has no known price.
    pub(super) fn warn_unpriced(&mut self, candidate: &Candidate) {
        if candidate.price.is_some() || self.state.warned_unpriced {
            return;
        }
        let provider = candidate.client.provider();
        let message = format!(
            "no price is known for the model `{}` of provider `{provider}`: what its calls cost is not counted. \
             Name its price in `prices.toml` in the data directory",
            candidate.model
        );
        tracing::debug!(%provider, model = %candidate.model, "a model without a price is asked");
        self.note(EntryBody::Notice {
            code: UNPRICED.to_owned(),
            message,
        });
    }

    /// As `prompt_estimate`, with the system prompt and the tools.
    fn whole_prompt_estimate(&self, earlier: &History) -> u64 {
        let tools: usize = self
            .agent
            .definitions()
            .iter()
            .map(|tool| {
                tool.name.len() + tool.description.len() + tool.input_schema.to_string().len()
            })
            .sum();
        let fixed = history::tokens_of(self.agent.system().len() + tools);
        self.prompt_estimate(earlier).saturating_add(fixed)
    }
}

/// An amount for a person.
fn usd(micro: u64) -> String {
    format!("{}.{:06} USD", micro / 1_000_000, micro % 1_000_000)
}
