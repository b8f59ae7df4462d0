//! What a component has done in a request, folded from its journal, and where its present run is in that.

use std::collections::{BTreeMap, VecDeque};

use rune_store_runtime::{
    Block, ComponentTurn, ErrorCode, Failure, ListedTool, ModelAsk, ModelReply, ToolOutcome,
};

/// What a component did that its journal has an entry for.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Did {
    /// It asked a model.
    Asked(Box<ModelAsk>),
    /// It called tools, or answered.
    Turn(ComponentTurn),
    /// It wrote a line of the log.
    Logged(String),
    /// It asked which tools there are, which others decide; with the answer.
    Listed(Vec<ListedTool>),
}

impl Did {
    const fn name(&self) -> &'static str {
        match self {
            Self::Asked(_) => "asks a model",
            Self::Turn(_) => "calls tools",
            Self::Logged(_) => "writes to the log",
            Self::Listed(_) => "lists the tools",
        }
    }
}

/// Something that was done, and its entry.
#[derive(Debug, Clone, PartialEq)]
struct Step {
    seq: u64,
    did: Did,
}

/// What a component has done, in order, and what its tools answered.
#[derive(Debug, Default)]
pub(crate) struct ComponentLog {
    steps: VecDeque<Step>,
    /// By the id of the call.
    outcomes: BTreeMap<String, ToolOutcome>,
    /// By step.
    replies: BTreeMap<u32, ModelReply>,
    turns: u32,
    /// Whether a run is at work, whose steps nobody does again before the journal is read anew.
    is_running: bool,
}

impl ComponentLog {
    /// Adds what the entry `seq` says.
    pub(crate) fn add(&mut self, seq: u64, did: Did) {
        match &did {
            Did::Asked(ask) => {
                if let (Some(reply), None) = (&ask.reply, &ask.failure) {
                    self.replies.insert(ask.step, reply.clone());
                }
            }
            Did::Turn(turn) => self.turns = turn.turn,
            Did::Logged(_) | Did::Listed(_) => {}
        }
        if !self.is_running {
            self.steps.push_back(Step { seq, did });
        }
    }

    /// Adds how a call of the component ended; `false` in a request without one.
    pub(crate) fn answered(&mut self, outcome: &ToolOutcome) -> bool {
        let has_component = self.turns > 0;
        if has_component {
            self.outcomes
                .insert(outcome.call_id.clone(), outcome.clone());
        }
        has_component
    }

    /// How a call ended.
    pub(super) fn outcome(&self, call_id: &str) -> Option<&ToolOutcome> {
        self.outcomes.get(call_id)
    }

    /// The reply with this step.
    pub(super) fn reply(&self, step: u32) -> Option<&ModelReply> {
        self.replies.get(&step)
    }

    /// What the journal holds now, for a run that begins; what the run adds to it is not part of that.
    pub(super) fn begin(&mut self) -> Script {
        self.is_running = true;
        Script {
            steps: std::mem::take(&mut self.steps),
            turns: 0,
        }
    }
}

/// What a run has to do again before it can do anything new.
pub(super) struct Script {
    steps: VecDeque<Step>,
    /// Turns of the present run.
    turns: u32,
}

impl Script {
    /// Whether everything that the journal holds was done again.
    pub(super) fn is_over(&self) -> bool {
        self.steps.is_empty()
    }

    /// How many turns the run has had.
    pub(super) const fn turns(&self) -> u32 {
        self.turns
    }

    /// The number of the turn that begins.
    pub(super) const fn next_turn(&mut self) -> u32 {
        self.turns += 1;
        self.turns
    }

    /// What was done at this place, if `is_same`; nothing where the journal has ended.
    ///
    /// # Errors
    /// The failure of a component that does something else.
    pub(super) fn next(
        &mut self,
        does: &Did,
        is_same: impl Fn(&Did) -> bool,
    ) -> Result<Option<Did>, Failure> {
        let Some(step) = self.steps.pop_front() else {
            return Ok(None);
        };
        if is_same(&step.did) {
            return Ok(Some(step.did));
        }
        let how = if std::mem::discriminant(&step.did) == std::mem::discriminant(does) {
            format!("{} with something else", does.name())
        } else {
            format!("{} instead", does.name())
        };
        Err(diverged(&step, &how))
    }

    /// Checks that a component that ends has done everything that its journal holds.
    ///
    /// # Errors
    /// The failure of one that has not.
    pub(super) fn check_end(&self) -> Result<(), Failure> {
        self.steps
            .front()
            .map_or(Ok(()), |step| Err(diverged(step, "ends instead")))
    }
}

fn diverged(step: &Step, how: &str) -> Failure {
    let Step { seq, did } = step;
    let message = format!(
        "the component does not follow its journal: in entry {seq} it {}, and run again it {how}; what a component does \
         may depend on nothing but its request and the answers it is given",
        did.name(),
    );
    Failure::new(ErrorCode::Conflict, message)
}

/// Whether two turns make the same calls.
pub(super) fn same_calls(one: &[Block], other: &[Block]) -> bool {
    let made = |block: &Block| match block {
        Block::ToolCall {
            id, name, input, ..
        } => Some((id.clone(), name.clone(), input.clone())),
        _ => None,
    };
    one.len() == other.len() && one.iter().map(made).eq(other.iter().map(made))
}
