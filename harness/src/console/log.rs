// SPDX-License-Identifier: GPL-2.0-only
//! The console of a run, split once and borrowed by all its readers.

use super::printk;

/// A message on the console.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// Line of the console, from 1. Several messages may share one.
    pub number: usize,
    /// Seconds from the start of the run until the console line was complete.
    pub at: f64,
    /// The kernel's time stamp in seconds, if the message has one.
    pub stamp: Option<f64>,
    /// The message without printk's prefix; see [`printk::Piece::text`].
    pub text: String,
    /// Another message follows on the same line: the end of this one may be missing.
    pub torn: bool,
}

/// A whole console.
#[derive(Clone, Debug, Default)]
pub struct Log {
    /// As it was printed.
    pub raw: String,
    /// Its messages in order.
    pub lines: Vec<Line>,
    /// For each line of the console, when its end arrived.
    ends: Vec<f64>,
    /// Seconds that the run took.
    pub seconds: f64,
}

impl Log {
    /// Splits a console. `ends` has the seconds at which its lines were complete, `seconds` is
    /// the length of the run.
    pub fn new(raw: String, ends: Vec<f64>, seconds: f64) -> Self {
        let time = |number: usize| ends.get(number - 1).copied().unwrap_or(seconds);
        let lines = printk::messages(&raw)
            .map(|(number, piece)| Line {
                number,
                at: time(number),
                stamp: piece.stamp,
                text: piece.text.to_owned(),
                torn: piece.torn,
            })
            .collect();
        Self { raw, lines, ends, seconds }
    }

    /// A console without times.
    pub fn of(text: &str) -> Self {
        Self::new(text.to_owned(), Vec::new(), 0.0)
    }

    /// When line `number` (from 1) of the console was complete, in seconds since the start.
    pub fn at(&self, number: usize) -> f64 {
        number.checked_sub(1).and_then(|i| self.ends.get(i)).copied().unwrap_or(self.seconds)
    }

    /// Number of complete lines.
    pub fn complete(&self) -> usize {
        self.ends.len()
    }
}
