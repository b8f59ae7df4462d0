//! What a model call may cost: the request's own budget in money, and the budgets that it
//! shares with others.

use rune_store_runtime::{EntryBody, Failure};

use super::state::UNPRICED;
use super::{Ended, Planner, limit};
use crate::budget::{BUDGET_EXCEEDED, Call, refusal, usd};
use crate::model::{Candidate, LlmClient, ModelRequest};

/// Fewer output tokens than this are not worth a call, and not every provider takes less.
const MIN_OUTPUT_TOKENS: u64 = 16;
impl Planner {
    /// Lets a call be made within every budget: takes output away from it that is not
    /// affordable, and reserves the rest where the budget is shared. `estimate` is the
    /// prompt in tokens.
    pub(super) async fn allow(
        &mut self,
        candidate: &Candidate,
        estimate: u64,
        request: &mut ModelRequest,
    ) -> Result<(), Ended> {
        if let Some(affordable) = self.affordable_output(candidate, request)? {
            cap_output(request, affordable);
        }
        if self.recorded.is_some() || !self.meter.is_shared() {
            return Ok(());
        }
        let output = self.reserve(candidate, estimate, request).await?;
        cap_output(request, output);
        Ok(())
    }

    /// The output tokens that what is left of `budget.cost_usd` allows the next call;
    /// `None` where there is no such budget.
    ///
    /// # Errors
    /// The failure of a request that may not make this call.
    fn affordable_output(
        &self,
        candidate: &Candidate,
        request: &ModelRequest,
    ) -> Result<Option<u64>, Failure> {
        let Some(budget) = self.agent.cost_budget() else {
            return Ok(None);
        };
        let Some(price) = &candidate.price else {
            let name = "the agent has a budget";
            return Err(unpriced(candidate, name, budget, "`budget.cost_usd`"));
        };
        let spent = self.state.cost.micro_usd.unwrap_or_default();
        let prompt = self.meter.prompt_bound(candidate, request);
        let output = price.output_within(budget.saturating_sub(spent), prompt);
        if output < MIN_OUTPUT_TOKENS {
            return Err(limit(format!(
                "the next model call would exceed the budget of {} (`budget.cost_usd`): {} are spent and the prompt \
                 has up to {prompt} tokens",
                usd(budget),
                usd(spent),
            )));
        }
        Ok(Some(output))
    }

    /// Reserves a call and answers its output tokens. Where calls under way have reserved
    /// what it needs it waits for them.
    async fn reserve(
        &mut self,
        candidate: &Candidate,
        estimate: u64,
        request: &ModelRequest,
    ) -> Result<u64, Ended> {
        if let Some((cap, money)) = self.meter.money().filter(|_| candidate.price.is_none()) {
            let name = format!("{} has a budget", cap.scope);
            return Err(unpriced(candidate, &name, money, "it is shared").into());
        }
        let stop = self.stop.clone();
        let wanted = request.max_output_tokens.map_or(u64::MAX, u64::from);
        let mut patience = self.meter.patience();
        loop {
            let waits = patience.lasts();
            let call = Call {
                candidate,
                request,
                estimate,
                output: wanted,
                min_output: MIN_OUTPUT_TOKENS.min(wanted),
                waits,
            };
            let short = match self.meter.reserve(&call).await? {
                Ok(output) => return Ok(output),
                Err(short) => short,
            };
            let failure = refusal(&short);
            if !short.held || !waits {
                self.note(EntryBody::Notice {
                    code: BUDGET_EXCEEDED.to_owned(),
                    message: short.to_string(),
                });
                return Err(failure.into());
            }
            if let Some(notice) = patience.notice(&short) {
                self.commit(vec![notice]).await?;
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return Err(Ended::Stopped),
                () = patience.wait() => {}
            }
        }
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
}

/// Lets a call have no more output tokens than these.
fn cap_output(request: &mut ModelRequest, tokens: u64) {
    let tokens = u32::try_from(tokens).unwrap_or(u32::MAX);
    let wanted = request.max_output_tokens.unwrap_or(u32::MAX);
    request.max_output_tokens = Some(wanted.min(tokens));
}

/// Why a model without a price is not asked where a budget is in money.
fn unpriced(candidate: &Candidate, name: &str, micro_usd: u64, setting: &str) -> Failure {
    limit(format!(
        "{name} of {} ({setting}) and no price is known for the model `{}` of provider `{}`: without one the budget \
         cannot be kept. Name its price in `prices.toml` in the data directory, or take the budget away",
        usd(micro_usd),
        candidate.model,
        candidate.client.provider(),
    ))
}
