// SPDX-License-Identifier: GPL-2.0-only
//! A line for each check, and their count.

use crate::trial::Outcome;

/// Counts checks, and prints a line of each.
#[derive(Default)]
pub struct Tally {
    /// What the checks came to so far.
    pub outcome: Outcome,
}

impl Tally {
    /// A check that passed.
    pub fn ok(&mut self, name: &str) {
        println!("ok {name}");
        self.outcome.passed += 1;
    }

    /// A check that did not, and why.
    pub fn not_ok(&mut self, name: &str, why: &str) {
        println!("not ok {name} # {}", one_line(why));
        self.outcome.failed += 1;
    }

    /// A check that could not be made.
    pub fn error(&mut self, name: &str, why: &str) {
        self.not_ok(name, why);
        self.outcome.errors += 1;
    }

    /// A check that was not made, for a good reason.
    pub fn skip(&mut self, name: &str, why: &str) {
        println!("ok {name} # SKIP {}", one_line(why));
        self.outcome.skipped += 1;
    }
}

/// `text` with every run of blanks and line ends made one blank.
pub fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
