//! The person at the terminal, or the script in their place: lines, and decisions on approvals.

use std::io::IsTerminal;

use rune_store_runtime::{ApprovalDecision, Remember};
use tokio::io::{AsyncBufReadExt, BufReader, Lines, Stdin};

use crate::client::Event;
use crate::failure::{Failure, Outcome};
use crate::output::{Output, one_line};

/// Standard input, read line by line.
pub(crate) struct Terminal {
    lines: Lines<BufReader<Stdin>>,
    is_person: bool,
    approve_all: bool,
}

/// What somebody said to an approval.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Decision {
    pub(crate) decision: ApprovalDecision,
    pub(crate) remember: Option<Remember>,
}

/// Which answers make sense to an approval.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answers {
    /// Also those that count for later calls, and to leave it to somebody else.
    Remembered,
    /// Yes or no: nothing comes after the call.
    Once,
}

impl Answers {
    const fn question(self) -> &'static str {
        match self {
            Self::Remembered => {
                "allow it? [y]es, [n]o, yes for this [s]ession, yes for this [a]gent, [l]ater"
            }
            Self::Once => "allow it? [y]es, [n]o",
        }
    }
}

impl Terminal {
    /// `approve_all`: every approval is given without asking.
    pub(crate) fn open(approve_all: bool) -> Self {
        Self {
            lines: BufReader::new(tokio::io::stdin()).lines(),
            is_person: std::io::stdin().is_terminal(),
            approve_all,
        }
    }

    /// Whether somebody can be asked.
    pub(crate) const fn is_person(&self) -> bool {
        self.is_person
    }

    /// The next line. Safe to drop and call again.
    pub(crate) async fn line(&mut self) -> Outcome<Option<String>> {
        self.lines
            .next_line()
            .await
            .map_err(|error| Failure::because("cannot read the input", &error))
    }

    /// Asks about an `approval_required` event; `None` where nobody decides here and now.
    pub(crate) async fn decide(
        &mut self,
        output: Output,
        event: &Event,
        answers: Answers,
    ) -> Outcome<Option<Decision>> {
        let approve = |remember| Decision {
            decision: ApprovalDecision::Approve,
            remember,
        };
        if self.approve_all {
            return Ok(Some(approve(None)));
        }
        if !self.is_person {
            return Ok(None);
        }
        let style = output.style;
        let input = one_line(&event.data["input"].to_string());
        output.note(&format!("{} {input}", style.dim("  input: ")));
        output.note(&format!(
            "{} {}",
            style.dim("  reason:"),
            one_line(event.text("reason"))
        ));
        loop {
            output.note(answers.question());
            let Some(line) = self.line().await? else {
                return Ok(None);
            };
            let decision = match (line.trim().to_lowercase().as_str(), answers) {
                ("y" | "yes", _) => approve(None),
                ("n" | "no", _) => Decision {
                    decision: ApprovalDecision::Deny,
                    remember: None,
                },
                ("s" | "session", Answers::Remembered) => approve(Some(Remember::Session)),
                ("a" | "agent", Answers::Remembered) => approve(Some(Remember::Agent)),
                ("l" | "later", Answers::Remembered) => return Ok(None),
                _ => continue,
            };
            return Ok(Some(decision));
        }
    }
}
