//! `rune schedule`

mod create;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::client::{Api, Client, part};
use crate::context::Context;
use crate::failure::{Exit, Failure, Outcome};
use crate::output::{Column, table};

use create::CreateArgs;

/// Most rows of a list.
const MAX_ROWS: usize = 1000;
/// Fires that are shown with a schedule.
const SHOWN_FIRES: usize = 10;

const SCHEDULE_COLUMNS: [Column; 8] = [
    ("NAME", "/name"),
    ("NAMESPACE", "/namespace"),
    ("AGENT", "/agent"),
    ("WHEN", "/when"),
    ("NEXT", "/next"),
    ("LAST", "/last_fire/planned_at"),
    ("OUTCOME", "/last_fire/state"),
    ("REASON", "/last_fire/reason"),
];

const FIRE_COLUMNS: [Column; 4] = [
    ("PLANNED", "/planned_at"),
    ("STATE", "/state"),
    ("REQUEST", "/request_id"),
    ("REASON", "/reason"),
];

/// Requests at planned times.
#[derive(Debug, Subcommand)]
pub(crate) enum ScheduleCommand {
    /// List schedules with their next and their last fire
    #[command(after_help = "Examples:\n  rune schedule ls\n  rune schedule ls --ns prod -o json")]
    Ls {
        /// Only of this namespace
        #[arg(long, visible_alias = "ns")]
        namespace: Option<String>,
        /// Only of this agent
        #[arg(long)]
        agent: Option<String>,
    },
    /// Create a schedule: a cron expression in a time zone, or an interval
    Create(Box<CreateArgs>),
    /// Show a schedule, its next planned times and its last fires
    #[command(
        after_help = "Examples:\n  rune schedule show daily\n  rune schedule show daily -o json"
    )]
    Show {
        #[command(flatten)]
        named: Named,
        /// Fires at the most
        #[arg(long, default_value_t = SHOWN_FIRES)]
        fires: usize,
    },
    /// Fire now, beside the planned times
    #[command(after_help = "Examples:\n  rune schedule run daily")]
    Run(Named),
    /// Hold a schedule
    #[command(after_help = "Examples:\n  rune schedule pause daily")]
    Pause(Named),
    /// Let a schedule go on with its next planned time
    #[command(after_help = "Examples:\n  rune schedule resume daily")]
    Resume(Named),
    /// Remove a schedule; requests it made stay
    #[command(after_help = "Examples:\n  rune schedule rm daily")]
    Rm(Named),
}

/// One schedule.
#[derive(Debug, Args)]
pub(crate) struct Named {
    /// Its name or its id
    name: String,
    /// Namespace of the schedule
    #[arg(long, visible_alias = "ns", default_value = "dev")]
    namespace: String,
}

impl Named {
    fn path(&self, action: &str) -> String {
        let name = if self.name.starts_with("sch_") || self.name.contains('/') {
            part(&self.name)
        } else {
            part(&format!("{}/{}", self.namespace, self.name))
        };
        format!("/v1/schedules/{name}{action}")
    }
}

pub(crate) async fn run(context: &Context, command: ScheduleCommand) -> Outcome {
    let client = context.client()?;
    match command {
        ScheduleCommand::Ls { namespace, agent } => ls(context, &client, namespace, agent).await,
        ScheduleCommand::Create(args) => {
            let body = args.body()?;
            let row = client
                .post(Api::ControlPlane, "/v1/schedules", &body)
                .await?;
            report(context, &row, "created")
        }
        ScheduleCommand::Show { named, fires } => show(context, &client, &named, fires).await,
        ScheduleCommand::Run(named) => fire(context, &client, &named).await,
        ScheduleCommand::Pause(named) => {
            let row = post(&client, &named.path("/pause")).await?;
            report(context, &row, "paused")
        }
        ScheduleCommand::Resume(named) => {
            let row = post(&client, &named.path("/resume")).await?;
            report(context, &row, "resumed")
        }
        ScheduleCommand::Rm(named) => {
            client.delete(Api::ControlPlane, &named.path("")).await?;
            let data = json!({ "removed": named.name });
            context
                .output
                .data(&data, |_| format!("removed {}", named.name))?;
            Ok(Exit::Ok)
        }
    }
}

async fn post(client: &Client, path: &str) -> Outcome<Value> {
    client.post(Api::ControlPlane, path, &json!({})).await
}

async fn ls(
    context: &Context,
    client: &Client,
    namespace: Option<String>,
    agent: Option<String>,
) -> Outcome {
    let filters = [("ns", namespace.as_deref()), ("agent", agent.as_deref())];
    let query: Vec<(&str, &str)> = filters
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
        .collect();
    let rows = client
        .list(Api::ControlPlane, "/v1/schedules", &query, MAX_ROWS)
        .await?;
    context.output.data(&Value::from(rows.clone()), |_| {
        let rows: Vec<Value> = rows.iter().map(for_people).collect();
        table(&rows, &SCHEDULE_COLUMNS)
    })?;
    if rows.is_empty() && !context.output.is_machine() {
        context
            .output
            .note("nothing is scheduled; `rune schedule create --help` shows how");
    }
    Ok(Exit::Ok)
}

/// A row with the columns that only people want.
fn for_people(row: &Value) -> Value {
    let mut row = row.clone();
    row["when"] = Value::from(when(&row));
    row["next"] = if row["paused"] == true {
        Value::from("paused")
    } else {
        row["next_fire_at"].take()
    };
    row
}

fn when(row: &Value) -> String {
    if let Some(topic) = row["on_event"].as_str() {
        return format!("on {topic}");
    }
    match (row["cron"].as_str(), row["every_ms"].as_u64()) {
        (Some(cron), _) => {
            let zone = row["timezone"].as_str().unwrap_or("?");
            format!("{cron} ({zone})")
        }
        (None, Some(every)) => {
            let millis = i64::try_from(every).unwrap_or(i64::MAX);
            format!("every {:#}", jiff::SignedDuration::from_millis(millis))
        }
        (None, None) => "?".to_owned(),
    }
}

fn report(context: &Context, row: &Value, verb: &str) -> Outcome {
    context.output.data(row, |row| {
        let word = |field: &str| row[field].as_str().unwrap_or("?").to_owned();
        let next = match row["next_fire_at"].as_str() {
            Some(next) => format!(", next at {next}"),
            None => String::new(),
        };
        format!(
            "{verb} {}/{}: {}{next}",
            word("namespace"),
            word("name"),
            when(row)
        )
    })?;
    Ok(Exit::Ok)
}

async fn show(context: &Context, client: &Client, named: &Named, fires: usize) -> Outcome {
    let schedule = client.get(Api::ControlPlane, &named.path("")).await?;
    let fires = client
        .list(Api::ControlPlane, &named.path("/fires"), &[], fires)
        .await?;
    let data = json!({ "schedule": schedule, "fires": fires });
    context.output.data(&data, |_| {
        let mut schedule = for_people(&schedule);
        let upcoming = schedule["upcoming"].take();
        if let Some(fields) = schedule.as_object_mut() {
            for field in [
                "cron",
                "timezone",
                "every_ms",
                "last_fire",
                "upcoming",
                "paused",
            ] {
                fields.remove(field);
            }
        }
        let mut text = crate::output::fields(&schedule);
        for time in upcoming.as_array().into_iter().flatten().skip(1) {
            text.push_str(&format!("\nthen  {}", time.as_str().unwrap_or("?")));
        }
        if !fires.is_empty() {
            text.push_str("\n\n");
            text.push_str(&table(&fires, &FIRE_COLUMNS));
        }
        text
    })?;
    Ok(Exit::Ok)
}

async fn fire(context: &Context, client: &Client, named: &Named) -> Outcome {
    let fire = post(client, &named.path("/run")).await?;
    let word = |field: &str| fire[field].as_str().unwrap_or_default();
    if word("state") != "fired" {
        let message = format!("{} did not fire: {}", named.name, word("reason"));
        return Err(Failure::new(Exit::Failed, message));
    }
    context.output.data(&fire, |_| {
        let id = word("request_id");
        format!(
            "fired {}: request {id}\n`rune requests events {id} -f` follows it",
            named.name
        )
    })?;
    Ok(Exit::Ok)
}
