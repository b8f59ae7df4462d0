use std::sync::{Arc, Mutex, PoisonError};

use super::{
    conversation::Conversation,
    copilot::Tokens,
    fault::FaultKind,
    gate::Gate,
    issuer::Issuer,
    protocol::Protocol,
    record::Recorder,
    reply::Reply,
    script::{ModelScript, Otherwise, Rule},
};

/// The script, how far it is used up, and what has been seen.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) script: ModelScript,
    pub(crate) issuer: Issuer,
    pub(crate) recorder: Arc<Recorder>,
    pub(crate) copilot_tokens: Tokens,
    pub(crate) gate: Gate,
    used: Mutex<Vec<Used>>,
}

/// How often a rule was used.
#[derive(Debug, Clone, Copy, Default)]
struct Used {
    faults: u32,
    answers: u32,
}

/// What one request gets. No reply: the script has none.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Decision {
    pub(crate) reply: Option<Reply>,
    pub(crate) fault: Option<FaultKind>,
}

impl State {
    pub(crate) fn new(script: ModelScript) -> Self {
        let used = Mutex::new(vec![Used::default(); script.rules.len()]);
        Self {
            script,
            issuer: Issuer::default(),
            recorder: Arc::new(Recorder::new()),
            copilot_tokens: Tokens::default(),
            gate: Gate::default(),
            used,
        }
    }

    pub(crate) fn decide(&self, protocol: Protocol, conversation: &Conversation) -> Decision {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let mut fault = None;
        for (rule, used) in self.script.rules.iter().zip(used.iter_mut()) {
            if !rule.when.holds(protocol, conversation) {
                continue;
            }
            if fault.is_none()
                && let Some(due) = due_fault(rule, used.faults)
            {
                used.faults += 1;
                fault = Some(due.clone());
            }
            let spent = rule.times.is_some_and(|times| used.answers >= times);
            let step = conversation
                .answers()
                .min(rule.replies.len().saturating_sub(1));
            if let Some(reply) = rule.replies.get(step).filter(|_| !spent) {
                if fault.is_none() {
                    used.answers += 1;
                }
                return Decision {
                    reply: Some(reply.clone()),
                    fault,
                };
            }
        }
        let reply = match self.script.otherwise {
            Otherwise::Echo => Some(Reply::echo().chunks(self.script.echo_chunks)),
            Otherwise::Refuse => None,
        };
        Decision { reply, fault }
    }
}

/// The fault that comes when a rule has had `had` already.
fn due_fault(rule: &Rule, had: u32) -> Option<&FaultKind> {
    let mut end = 0_u32;
    rule.faults.iter().find_map(|fault| {
        end = end.saturating_add(fault.times);
        (had < end).then_some(&fault.fault)
    })
}
