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
            output.note(
                "allow it? [y]es, [n]o, yes for this [s]ession, yes for this [a]gent, [l]ater",
            );
            let Some(line) = self.line().await? else {
                return Ok(None);
            };
            let decision = match line.trim().to_lowercase().as_str() {
                "y" | "yes" => approve(None),
                "s" | "session" => approve(Some(Remember::Session)),
                "a" | "agent" => approve(Some(Remember::Agent)),
                "n" | "no" => Decision {
                    decision: ApprovalDecision::Deny,
                    remember: None,
                },
                "l" | "later" => return Ok(None),
                _ => continue,
            };
            return Ok(Some(decision));
        }
    }
}
