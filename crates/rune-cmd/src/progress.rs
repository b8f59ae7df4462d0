//! What is under way: lines that change on a terminal, one line per step elsewhere.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::output::Output;

/// How often the spinner turns.
const TICK: Duration = Duration::from_millis(100);

/// What is under way.
pub(crate) struct Progress {
    output: Output,
    bars: Option<MultiProgress>,
}

/// One thing that is under way. It disappears from a terminal with this value.
pub(crate) struct Line {
    output: Output,
    name: String,
    shown: Shown,
}

/// How a line is shown.
enum Shown {
    Changing(ProgressBar),
    Printed,
    Not,
}

impl Progress {
    pub(crate) fn new(output: Output) -> Self {
        let bars = std::io::stderr()
            .is_terminal()
            .then(|| MultiProgress::with_draw_target(ProgressDrawTarget::stderr()));
        Self { output, bars }
    }

    /// Begins a line; with a name, every step begins with it.
    pub(crate) fn line(&self, name: &str) -> Line {
        let shown = match &self.bars {
            Some(bars) => {
                let bar = bars.add(ProgressBar::no_length());
                if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
                    bar.set_style(style);
                }
                bar.enable_steady_tick(TICK);
                Shown::Changing(bar)
            }
            None => Shown::Printed,
        };
        Line {
            output: self.output,
            name: name.to_owned(),
            shown,
        }
    }

    /// Says something that stays.
    pub(crate) fn note(&self, text: &str) {
        match &self.bars {
            Some(bars) => bars.suspend(|| self.output.note(text)),
            None => self.output.note(text),
        }
    }
}

impl Line {
    /// A line that nobody sees.
    pub(crate) const fn hidden(output: Output) -> Self {
        Self {
            output,
            name: String::new(),
            shown: Shown::Not,
        }
    }

    /// Says what is done now.
    pub(crate) fn step(&self, text: &str) {
        let text = if self.name.is_empty() {
            text.to_owned()
        } else {
            format!("{}: {text}", self.name)
        };
        match &self.shown {
            Shown::Changing(bar) => bar.set_message(text),
            Shown::Printed => self.output.note(&text),
            Shown::Not => {}
        }
    }

    /// Says how far that has come, where lines can change.
    pub(crate) fn progress(&self, text: &str) {
        if let Shown::Changing(bar) = &self.shown {
            bar.set_message(text.to_owned());
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if let Shown::Changing(bar) = &self.shown {
            bar.finish_and_clear();
        }
    }
}
