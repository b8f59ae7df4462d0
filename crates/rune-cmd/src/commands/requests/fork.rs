//! `rune requests fork ID@SEQ`

use std::path::Path;

use clap::Args;
use reqwest::Method;
use serde_json::{Map, Value, json};

use crate::client::{Api, Client, part};
use crate::commands::run::drive;
use crate::context::Context;
use crate::events::EventPrinter;
use crate::failure::{Exit, Failure, Outcome, chain};
use crate::interrupt::Interrupt;
use crate::terminal::Terminal;

/// Where to fork, and what is different from there on.
#[derive(Debug, Args)]
pub(crate) struct ForkArgs {
    /// The request, and the last entry of its journal that the new one begins with
    #[arg(value_name = "ID@SEQ", value_parser = position)]
    at: (String, u64),
    /// Ask another model: an alias of the agent, a model id, or `provider:model`
    #[arg(long)]
    model: Option<String>,
    /// Another system prompt: a file, or the text itself
    #[arg(long, value_name = "FILE|TEXT")]
    instructions: Option<String>,
    /// Another policy: a Cedar file (`.cedar`) in place of the package's, or a YAML file with the short form in place of
    /// the Runefile's `policy`
    #[arg(long, value_name = "FILE")]
    policy: Option<std::path::PathBuf>,
    /// Print the answer while it is made
    #[arg(long)]
    stream: bool,
    /// Do not wait for the answer: print the request's id
    #[arg(long, conflicts_with = "stream")]
    background: bool,
    /// Approve every tool call that the policy asks about
    #[arg(long, short = 'y', conflicts_with = "background")]
    yes: bool,
}

fn position(text: &str) -> Result<(String, u64), String> {
    let expected = || "expected ID@SEQ, such as req_0198c0ffee0198c0ffee0198c0ffee01@4".to_owned();
    let (id, seq) = text.rsplit_once('@').ok_or_else(expected)?;
    let seq = seq.parse().map_err(|_| expected())?;
    Ok((id.to_owned(), seq))
}

pub(super) async fn run(context: &Context, client: &Client, args: ForkArgs) -> Outcome {
    let (id, at) = args.at;
    let mut body = json!({ "at": at });
    if let Some(model) = args.model {
        body["model"] = model.into();
    }
    if let Some(text) = args.instructions {
        body["instructions"] = instructions(text)?.into();
    }
    if let Some(path) = args.policy {
        body["policy"] = policy(&path)?;
    }
    body[if args.background {
        "background"
    } else {
        "stream"
    }] = true.into();
    let path = format!("/v1/requests/{}/fork", part(&id));
    let request = client
        .request(Api::Gateway, Method::POST, &path)
        .json(&body);
    if args.background {
        let accepted = client.json(Api::Gateway, request).await?;
        context.output.data(&accepted, |accepted| {
            accepted["request_id"]
                .as_str()
                .unwrap_or_default()
                .to_owned()
        })?;
        return Ok(Exit::Ok);
    }
    let mut printer =
        EventPrinter::new(context.output, args.stream, context.verbose).naming_request();
    let mut interrupt = Interrupt::listen()?;
    let mut terminal = Terminal::open(args.yes);
    drive(client, request, &mut printer, &mut interrupt, &mut terminal).await
}

/// The text of a file, where there is one of this name.
fn instructions(text: String) -> Outcome<String> {
    let path = Path::new(&text);
    if path.is_file() {
        return read(path);
    }
    let like_a_file = !text.contains(char::is_whitespace)
        && path
            .extension()
            .is_some_and(|end| end == "md" || end == "txt");
    if like_a_file {
        return Err(Failure::usage(format!("there is no file {text}")));
    }
    Ok(text)
}

fn policy(path: &Path) -> Outcome<Value> {
    let text = read(path)?;
    if path.extension().is_some_and(|end| end == "cedar") {
        return Ok(text.into());
    }
    let rules: Map<String, Value> = serde_saphyr::from_str(&text).map_err(|error| {
        Failure::usage(format!("{} is no policy: {}", path.display(), chain(&error))).help(
            "a short form is a map of `mode`, `allow`, `ask` and `deny`; Cedar policies are in a file that ends in `.cedar`",
        )
    })?;
    Ok(rules.into())
}

fn read(path: &Path) -> Outcome<String> {
    std::fs::read_to_string(path)
        .map_err(|error| Failure::usage(format!("cannot read {}: {error}", path.display())))
}
