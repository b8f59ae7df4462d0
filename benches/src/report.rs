//! What a run showed.

use std::fmt;

use serde::Serialize;

/// The figures of one run.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// Load average at the start, and processors.
    pub machine: String,
    /// The figures.
    pub rows: Vec<Row>,
}

/// One figure beside its floor.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// What was measured.
    pub metric: String,
    /// What Rune gave.
    pub rune: f64,
    /// What the floor gave in the same run.
    pub floor: f64,
    /// The unit of both.
    pub unit: &'static str,
    /// `rune / floor`; absent where the two are not compared.
    pub ratio: Option<f64>,
    /// What the ratio, or the figure where there is none, should be.
    pub target: String,
}

impl Report {
    pub(crate) fn compare(
        &mut self,
        metric: impl Into<String>,
        (rune, floor): (f64, f64),
        unit: &'static str,
        target: &str,
    ) {
        let ratio = (floor > 0.0).then(|| rune / floor);
        self.push(metric.into(), rune, floor, unit, ratio, target);
    }

    pub(crate) fn figure(
        &mut self,
        metric: impl Into<String>,
        rune: f64,
        unit: &'static str,
        target: &str,
    ) {
        self.push(metric.into(), rune, 0.0, unit, None, target);
    }

    fn push(
        &mut self,
        metric: String,
        rune: f64,
        floor: f64,
        unit: &'static str,
        ratio: Option<f64>,
        target: &str,
    ) {
        self.rows.push(Row {
            metric,
            rune,
            floor,
            unit,
            ratio,
            target: target.to_owned(),
        });
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.machine)?;
        writeln!(
            f,
            "{:<58} {:>12} {:>12} {:<7} {:>7}  target",
            "metric", "rune", "floor", "unit", "ratio"
        )?;
        for row in &self.rows {
            let floor = row
                .ratio
                .map_or_else(String::new, |_| format!("{:.1}", row.floor));
            let ratio = row
                .ratio
                .map_or_else(String::new, |ratio| format!("{ratio:.2}"));
            writeln!(
                f,
                "{:<58} {:>12.1} {:>12} {:<7} {:>7}  {}",
                row.metric, row.rune, floor, row.unit, ratio, row.target
            )?;
        }
        Ok(())
    }
}
