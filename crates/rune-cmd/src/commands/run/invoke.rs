//! `rune run --agent NAME PROMPT`

use reqwest::{Method, header};
use serde_json::{Value, json};

use crate::cli::Target;
use crate::client::{Api, Client, Follow, part};
use crate::context::Context;
use crate::events::EventPrinter;
use crate::failure::{Exit, Failure, Outcome};
use crate::interrupt::Interrupt;
use crate::terminal::{Answers, Decision, Terminal};

/// What a deployed agent is asked.
pub(crate) struct Question {
    pub(crate) agent: String,
    pub(crate) target: Target,
    pub(crate) input: Value,
    pub(crate) session_id: Option<String>,
}

impl Question {
    fn request(&self, client: &Client, how: (&str, bool)) -> reqwest::RequestBuilder {
        let path = format!("/v1/agents/{}/invoke", part(&self.agent));
        let mut body = json!({ "input": self.input });
        body[how.0] = how.1.into();
        if let Some(session_id) = &self.session_id {
            body["session_id"] = session_id.as_str().into();
        }
        client
            .request(Api::Gateway, Method::POST, &self.target.query(&path))
            .json(&body)
    }
}

/// Asks and prints what happens.
pub(super) async fn run(
    context: &Context,
    question: &Question,
    stream: bool,
    approve_all: bool,
) -> Outcome {
    let client = context.client()?;
    let mut printer = EventPrinter::new(context.output, stream, context.verbose);
    let mut interrupt = Interrupt::listen()?;
    let mut terminal = Terminal::open(approve_all);
    ask(
        &client,
        question,
        &mut printer,
        &mut interrupt,
        &mut terminal,
    )
    .await
}

/// Asks over SSE and prints every event.
pub(crate) async fn ask(
    client: &Client,
    question: &Question,
    printer: &mut EventPrinter,
    interrupt: &mut Interrupt,
    terminal: &mut Terminal,
) -> Outcome {
    // Streaming even where the answer is printed whole: tools are shown as they run, the request's id is known
    // early enough to cancel it, and a dropped connection can be taken up again.
    let request = question.request(client, ("stream", true));
    drive(client, request, printer, interrupt, terminal).await
}

/// Sends what makes a request and answers with its events, and prints every event. Ctrl-C cancels the request. A
/// question that nobody answers here ends the command and not the request.
pub(crate) async fn drive(
    client: &Client,
    request: reqwest::RequestBuilder,
    printer: &mut EventPrinter,
    interrupt: &mut Interrupt,
    terminal: &mut Terminal,
) -> Outcome {
    let request = request.header(header::ACCEPT, "text/event-stream");
    let response = tokio::select! {
        response = client.send(Api::Gateway, request) => response?,
        () = interrupt.next() => return Err(Failure::silent(Exit::Interrupted)),
    };
    let mut follow = Follow::response(client.clone(), response);
    loop {
        let event = tokio::select! {
            event = follow.next() => event?,
            () = interrupt.next() => {
                printer.end_line()?;
                return cancel(client, follow.request_id()).await;
            }
        };
        let Some(event) = event else {
            return Err(Failure::new(
                Exit::Unavailable,
                "the request ended without an answer",
            ));
        };
        if let Some(exit) = printer.print(&event)? {
            return Ok(exit);
        }
        if event.name == "approval_required" {
            let id = follow.request_id().unwrap_or_default().to_owned();
            let decided = tokio::select! {
                decided = terminal.decide(printer.output(), &event, Answers::Remembered) => decided?,
                () = interrupt.next() => return cancel(client, Some(&id)).await,
            };
            match decided {
                Some(decision) => decide(client, &id, event.text("approval_id"), decision).await?,
                None => return Err(waits(&id)),
            }
        }
    }
}

/// Sends a decision; somebody else may have been faster, which the next events show.
async fn decide(client: &Client, id: &str, approval: &str, decision: Decision) -> Outcome<()> {
    let path = format!("/v1/requests/{}/approvals/{}", part(id), part(approval));
    let mut body = json!({ "decision": decision.decision });
    if let Some(remember) = decision.remember {
        body["remember"] = json!(remember);
    }
    client.post(Api::Gateway, &path, &body).await.map(drop)
}

fn waits(id: &str) -> Failure {
    Failure::new(Exit::Approval, format!("request {id} waits for approval")).help(format!(
        "decide: rune requests approve {id} [--deny]; then follow it: rune requests events {id} -f"
    ))
}

async fn cancel(client: &Client, request_id: Option<&str>) -> Outcome {
    if let Some(id) = request_id {
        let path = format!("/v1/requests/{}/cancel", part(id));
        client.post(Api::Gateway, &path, &json!({})).await?;
        return Err(Failure::new(
            Exit::Interrupted,
            format!("request {id} was cancelled"),
        ));
    }
    Err(Failure::silent(Exit::Interrupted))
}

/// Asks and answers the request's id at once.
pub(super) async fn background(context: &Context, question: &Question) -> Outcome {
    let client = context.client()?;
    let request = question.request(&client, ("background", true));
    let accepted = client.json(Api::Gateway, request).await?;
    context.output.data(&accepted, |accepted| {
        let id = accepted["request_id"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        context
            .output
            .note(&format!("follow it with: rune requests events {id} -f"));
        id
    })?;
    Ok(Exit::Ok)
}
