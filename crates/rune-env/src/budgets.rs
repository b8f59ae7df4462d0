//! What callers may spend in a day.

use std::collections::BTreeMap;
use std::ops::Range;

use toml::de::{DeTable, DeValue};

/// The table of the file.
pub(crate) const TABLE: &str = "budgets";
/// The budget of callers that have none of their own.
pub(crate) const DEFAULT: &str = "default";
/// The budgets of callers by name.
pub(crate) const CALLERS: &str = "callers";
const COST: &str = "cost_usd_per_day";
const TOKENS: &str = "tokens_per_day";

/// The settings of a budget, with what they are for.
pub(crate) const SETTINGS: [(&str, &str); 2] = [
    (
        COST,
        "US dollars that the model calls of a caller may cost per day, in UTC; absent: no limit.",
    ),
    (
        TOKENS,
        "Tokens that the model calls of a caller may use per day, in UTC; absent: no limit.",
    ),
];

/// `[budgets]`: what the requests of one caller may spend in a day.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct BudgetsConfig {
    /// `[budgets.default]`: of each caller that has none of its own.
    pub default: CallerBudget,
    /// `[budgets.callers.NAME]`: of these callers, in place of the default.
    pub callers: BTreeMap<String, CallerBudget>,
}

impl BudgetsConfig {
    /// What a caller may spend.
    #[must_use]
    pub fn of(&self, caller: &str) -> CallerBudget {
        self.callers.get(caller).copied().unwrap_or(self.default)
    }
}

/// What one caller may spend in a day, which ends at midnight in UTC. What is absent is not
/// limited.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct CallerBudget {
    /// US dollars.
    pub cost_usd_per_day: Option<f64>,
    /// Input and output tokens.
    pub tokens_per_day: Option<u64>,
}

impl CallerBudget {
    /// Each limit that is set, by name.
    pub(crate) fn entries(self) -> impl Iterator<Item = (&'static str, String)> {
        let cost = self.cost_usd_per_day.map(|usd| (COST, usd.to_string()));
        let tokens = self
            .tokens_per_day
            .map(|tokens| (TOKENS, tokens.to_string()));
        cost.into_iter().chain(tokens)
    }
}

/// What is wrong with an entry.
pub(crate) enum Fault {
    /// Its name.
    Name,
    /// Its value, with what it must be.
    Value(&'static str),
}

type Found<T> = Result<T, (Fault, String, Range<usize>)>;

/// The budgets of a file and where each stands: by dotted table, with the place of its name.
pub(crate) type Places = BTreeMap<String, usize>;

/// Reads `[budgets]`; an entry that is not right comes with its place in the text. `place`
/// is told the start of every budget.
pub(crate) fn read(
    table: &DeTable<'_>,
    place: &mut dyn FnMut(String, Range<usize>),
) -> Found<BudgetsConfig> {
    let mut budgets = BudgetsConfig::default();
    for (name, value) in table {
        let dotted = format!("{TABLE}.{}", name.get_ref());
        let DeValue::Table(inner) = value.get_ref() else {
            return Err(match name.get_ref().as_ref() {
                DEFAULT | CALLERS => (Fault::Value("must be a table"), dotted, value.span()),
                _ => (Fault::Name, dotted, name.span()),
            });
        };
        match name.get_ref().as_ref() {
            DEFAULT => {
                budgets.default = budget(&dotted, inner)?;
                place(dotted, name.span());
            }
            CALLERS => {
                for (caller, value) in inner {
                    let dotted = format!("{dotted}.{}", caller.get_ref());
                    let DeValue::Table(inner) = value.get_ref() else {
                        return Err((Fault::Value("must be a table"), dotted, value.span()));
                    };
                    let budget = budget(&dotted, inner)?;
                    budgets.callers.insert(caller.get_ref().to_string(), budget);
                    place(dotted, caller.span());
                }
            }
            _ => return Err((Fault::Name, dotted, name.span())),
        }
    }
    Ok(budgets)
}

fn budget(table: &str, entries: &DeTable<'_>) -> Found<CallerBudget> {
    let mut budget = CallerBudget::default();
    for (name, value) in entries {
        let dotted = format!("{table}.{}", name.get_ref());
        let number = match value.get_ref() {
            DeValue::Integer(number) => Some(number.to_string()),
            DeValue::Float(number) => Some(number.to_string()),
            _ => None,
        };
        let number = number.as_deref();
        match name.get_ref().as_ref() {
            COST => {
                let usd = number.and_then(|text| text.parse::<f64>().ok());
                let usd = usd.filter(|usd| usd.is_finite() && *usd >= 0.0);
                let wanted = Fault::Value("must be a number that is not negative");
                budget.cost_usd_per_day = Some(usd.ok_or((wanted, dotted, value.span()))?);
            }
            TOKENS => {
                let tokens = number.and_then(|text| text.parse().ok());
                let wanted = Fault::Value("must be a whole number that is not negative");
                budget.tokens_per_day = Some(tokens.ok_or((wanted, dotted, value.span()))?);
            }
            _ => return Err((Fault::Name, dotted, name.span())),
        }
    }
    Ok(budget)
}
