/// What of a request the script can match on, the same for every protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Conversation {
    pub(crate) model: String,
    pub(crate) stream: bool,
    /// OpenAI: a usage chunk was asked for.
    pub(crate) include_usage: bool,
    /// Responses: the encrypted reasoning was asked for.
    pub(crate) include_reasoning: bool,
    pub(crate) steps: Vec<Step>,
}

/// A message, reduced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// The user spoke; text beside tool results does not count.
    User(String),
    /// The model answered.
    Assistant,
    /// This many tool results.
    Results(usize),
}

impl Conversation {
    pub(crate) fn last_user_text(&self) -> &str {
        self.steps
            .iter()
            .rev()
            .find_map(|step| match step {
                Step::User(text) => Some(text.as_str()),
                Step::Assistant | Step::Results(_) => None,
            })
            .unwrap_or_default()
    }

    /// Tool results since the user spoke last.
    pub(crate) fn results(&self) -> usize {
        self.turn()
            .map(|step| match step {
                Step::Results(n) => *n,
                Step::User(_) | Step::Assistant => 0,
            })
            .sum()
    }

    /// Answers the model has given since the user spoke last.
    pub(crate) fn answers(&self) -> usize {
        self.turn().filter(|step| **step == Step::Assistant).count()
    }

    fn turn(&self) -> impl Iterator<Item = &Step> {
        self.steps
            .iter()
            .rev()
            .take_while(|step| !matches!(step, Step::User(_)))
    }
}
