//! `rune chat`

use clap::Args;
use serde_json::{Value, json};

use super::run::{Question, ask};
use crate::cli::Target;
use crate::client::{Api, part};
use crate::context::Context;
use crate::events::EventPrinter;
use crate::failure::{Exit, Failure, Outcome};
use crate::interrupt::Interrupt;
use crate::terminal::Terminal;

/// Talks to a deployed agent, line by line, in one session.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  rune chat hello\n  rune chat hello --session-id ticket-4711\n  printf 'Hello\\nAnd now?\\n' | rune chat hello\n\nIn the chat: /exit or Ctrl-D ends it, Ctrl-C cancels the answer."
)]
pub(crate) struct ChatArgs {
    /// Name of the agent
    name: String,
    #[command(flatten)]
    target: Target,
    /// Go on with this conversation, or begin it
    #[arg(long, value_name = "ID")]
    session_id: Option<String>,
}

pub(crate) async fn run(context: &Context, args: &ChatArgs) -> Outcome {
    let client = context.client()?;
    let session_id = match &args.session_id {
        Some(id) => id.clone(),
        None => {
            let path = args
                .target
                .query(&format!("/v1/agents/{}/sessions", part(&args.name)));
            let session = client.post(Api::Gateway, &path, &json!({})).await?;
            session["session_id"]
                .as_str()
                .unwrap_or_default()
                .to_owned()
        }
    };
    let mut terminal = Terminal::open(false);
    let is_person = terminal.is_person();
    let output = context.output;
    output.note(&format!("session {session_id}; /exit ends the chat"));
    let mut interrupt = Interrupt::listen()?;
    let mut told_offline = false;
    let mut last = Ok(Exit::Ok);
    loop {
        if is_person {
            output.raw("> ")?;
        }
        let line = tokio::select! {
            line = terminal.line() => line?,
            () = interrupt.next() => None,
        };
        let Some(line) = line else { break };
        let line = line.trim();
        match line {
            "" => continue,
            "/exit" | "/quit" => break,
            _ => {}
        }
        let question = Question {
            agent: args.name.clone(),
            target: args.target.clone(),
            input: Value::from(line),
            session_id: Some(session_id.clone()),
        };
        let mut printer = EventPrinter::new(output, !output.is_machine(), context.verbose);
        if told_offline {
            printer.quiet_about_offline();
        }
        last = ask(
            &client,
            &question,
            &mut printer,
            &mut interrupt,
            &mut terminal,
        )
        .await;
        told_offline = printer.told_offline();
        match &last {
            Err(failure) if failure.exit == Exit::Unavailable => return last,
            // One answer that failed does not end the conversation.
            Err(failure) => failure.print(output.style),
            Ok(_) => {}
        }
    }
    if is_person {
        output.raw("\n")?;
        return Ok(Exit::Ok);
    }
    // For a script the last answer is the result; its message has been printed.
    last.map_err(|failure| Failure::silent(failure.exit))
}
