//! `rune usage`

use clap::Args;
use jiff::{Span, SpanRelativeTo, Timestamp};
use serde_json::Value;

use crate::client::{Api, with_query};
use crate::context::Context;
use crate::failure::{Exit, Outcome};
use crate::output::{Column, table};

/// Shows what the model calls of the daemon used and cost.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  rune usage\n  rune usage --by day --since 7d\n  rune usage --by caller --agent hello -o json\n  rune usage --budgets"
)]
pub(crate) struct UsageArgs {
    /// Sum by this [default: agent and model]
    #[arg(long, value_parser = ["agent", "model", "day", "caller"])]
    by: Option<String>,
    /// Only calls since then: a time, or how long ago, as in 7d or 12h
    #[arg(long, value_name = "TIME", value_parser = since)]
    since: Option<Timestamp>,
    /// Only of this agent
    #[arg(long)]
    agent: Option<String>,
    /// Only of agents in this namespace
    #[arg(long, visible_alias = "ns")]
    namespace: Option<String>,
    /// Show the budgets that requests share: what is spent, reserved and left of each
    #[arg(long, conflicts_with_all = ["by", "since", "agent", "namespace"])]
    budgets: bool,
}

/// What names a group, each shown where the groups have it.
const NAMES: [Column; 6] = [
    ("DAY", "/day"),
    ("NAMESPACE", "/namespace"),
    ("AGENT", "/agent"),
    ("PROVIDER", "/provider"),
    ("MODEL", "/model"),
    ("CALLER", "/caller"),
];

const SUMS: [Column; 6] = [
    ("CALLS", "/calls"),
    ("INPUT", "/usage/input_tokens"),
    ("CACHED", "/usage/cached_tokens"),
    ("OUTPUT", "/usage/output_tokens"),
    ("COST USD", "/cost_usd"),
    ("UNPRICED", "/cost/unpriced_calls"),
];

const BUDGETS: [Column; 8] = [
    ("SCOPE", "/scope"),
    ("NAME", "/name"),
    ("UNIT", "/unit"),
    ("CAP", "/cap"),
    ("SPENT", "/spent"),
    ("RESERVED", "/reserved"),
    ("LEFT", "/left"),
    ("RESETS AT", "/resets_at"),
];

pub(crate) async fn run(context: &Context, args: &UsageArgs) -> Outcome {
    if args.budgets {
        return budgets(context).await;
    }
    let since = args.since.map(|since| since.to_string());
    let filters = [
        ("by", args.by.as_deref()),
        ("since", since.as_deref()),
        ("agent", args.agent.as_deref()),
        ("ns", args.namespace.as_deref()),
        ("limit", Some("1")),
    ];
    let query: Vec<(&str, &str)> = filters
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
        .collect();
    let client = context.client()?;
    let path = with_query("/v1/usage", &query);
    let mut page = client.get(Api::ControlPlane, &path).await?;
    let totals = page["totals"].take();
    let rows = totals["items"].as_array().cloned().unwrap_or_default();
    context
        .output
        .data(&Value::from(rows.clone()), |_| text(rows.clone()))?;
    if context.output.is_machine() {
        return Ok(Exit::Ok);
    }
    let unpriced = |row: &Value| row["cost"]["unpriced_calls"].as_u64() != Some(0);
    if rows.is_empty() {
        context.output.note("no model was called");
    } else if rows.iter().any(unpriced) {
        context.output.note(
            "the cost of UNPRICED calls is not known and not counted; name the prices of their models in `prices.toml` \
             in the data directory",
        );
    }
    if totals["complete"] == false {
        context
            .output
            .note("there are more groups; narrow them with --since, --agent or --namespace");
    }
    Ok(Exit::Ok)
}

async fn budgets(context: &Context) -> Outcome {
    let client = context.client()?;
    let mut rows: Vec<Value> = Vec::new();
    let mut cursor: Option<String> = None;
    loop {
        let mut query = vec![("limit", "200")];
        query.extend(cursor.as_deref().map(|cursor| ("cursor", cursor)));
        let path = with_query("/v1/usage/budgets", &query);
        let page = client.get(Api::ControlPlane, &path).await?;
        rows.extend(page["items"].as_array().cloned().unwrap_or_default());
        cursor = page["next"].as_str().map(str::to_owned);
        if cursor.is_none() {
            break;
        }
    }
    context.output.data(&Value::from(rows.clone()), |_| {
        rows.iter_mut().for_each(in_dollars);
        table(&rows, &BUDGETS)
    })?;
    if rows.is_empty() && !context.output.is_machine() {
        context.output.note(
            "no budget is shared between requests; a Runefile has `budget.cost_usd_per_day` and `budget.session`, \
             config.toml has `[budgets]`",
        );
    }
    Ok(Exit::Ok)
}

/// A budget in money as a person reads it.
fn in_dollars(row: &mut Value) {
    if row["unit"] != "micro_usd" {
        return;
    }
    row["unit"] = "USD".into();
    for name in ["cap", "spent", "reserved", "left"] {
        row[name] = usd(&row[name]);
    }
}

fn text(mut rows: Vec<Value>) -> String {
    for row in &mut rows {
        row["cost_usd"] = usd(&row["cost"]["micro_usd"]);
    }
    let named = NAMES
        .into_iter()
        .filter(|(_, name)| rows.first().is_some_and(|row| row.pointer(name).is_some()));
    let columns: Vec<Column> = named.chain(SUMS).collect();
    table(&rows, &columns)
}

/// Millionths of a US dollar as dollars; null where they are not known.
pub(crate) fn usd(micro: &Value) -> Value {
    let amount = |micro: u64| format!("{}.{:06}", micro / 1_000_000, micro % 1_000_000);
    micro
        .as_u64()
        .map_or(Value::Null, |micro| amount(micro).into())
}

fn since(text: &str) -> Result<Timestamp, String> {
    if let Ok(time) = text.parse() {
        return Ok(time);
    }
    let ago = text.parse::<Span>().ok();
    let ago = ago.and_then(|span| span.to_duration(SpanRelativeTo::days_are_24_hours()).ok());
    ago.and_then(|ago| Timestamp::now().checked_sub(ago.abs()).ok())
        .ok_or_else(|| {
            "expected a time such as 2026-11-23T00:00:00Z, or how long ago, as in 7d or 12h"
                .to_owned()
        })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn reads_a_time_or_how_long_ago() {
        assert!(since("2026-11-23T00:00:00Z").is_ok());
        let week = since("7d").unwrap();
        let hours = Timestamp::now().duration_since(week).as_hours();
        assert_eq!(hours, 7 * 24);
        assert!(since("12h").is_ok() && since("yesterday").is_err());
    }

    #[test]
    fn an_unknown_cost_is_not_zero() {
        assert_eq!(usd(&json!(1_500_001)), "1.500001");
        assert_eq!(usd(&json!(0)), "0.000000");
        assert_eq!(usd(&Value::Null), Value::Null);
    }
}
