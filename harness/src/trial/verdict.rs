// SPDX-License-Identifier: GPL-2.0-only
//! A verdict, and a count of verdicts.

use std::fmt;

use anstyle::{AnsiColor, Style};
use serde::Serialize;

use crate::ground::error::Exit;

/// Whether what was observed is what was expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Verdict {
    /// It is.
    Pass,
    /// It is not.
    Fail,
    /// Too little was observed to tell.
    Error,
    /// The boot ended before it was its turn.
    Miss,
    /// It was not tried, for the given reason.
    Skip,
}

impl Verdict {
    /// The printed name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pass => "PASS",
            Self::Fail => "FAIL",
            Self::Error => "ERROR",
            Self::Miss => "MISS",
            Self::Skip => "SKIP",
        }
    }

    pub fn style(self) -> Style {
        let color = match self {
            Self::Pass => AnsiColor::Green,
            Self::Fail => AnsiColor::Red,
            Self::Error | Self::Miss => AnsiColor::Magenta,
            Self::Skip => AnsiColor::Yellow,
        };
        color.on_default().bold()
    }
}

/// Counts the results of checks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Count {
    /// Gave the expected result.
    pub passed: usize,
    /// Gave another result, could not be judged, or were not reached.
    pub failed: usize,
    /// How many of `failed` could not be judged or were not reached.
    pub errors: usize,
    /// Were not run, for the given reason.
    pub skipped: usize,
}

impl Count {
    /// Adds another run.
    pub fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.errors += other.errors;
        self.skipped += other.skipped;
    }

    /// Counts a verdict.
    pub fn count(&mut self, verdict: Verdict) {
        match verdict {
            Verdict::Pass => self.passed += 1,
            Verdict::Fail => self.failed += 1,
            Verdict::Error | Verdict::Miss => {
                self.failed += 1;
                self.errors += 1;
            }
            Verdict::Skip => self.skipped += 1,
        }
    }

    /// The process's exit code. Zero checks are an error.
    pub fn exit(&self) -> Exit {
        match *self {
            Self { failed, errors, .. } if failed > errors => Exit::Failed,
            Self { errors: 1.., .. } => Exit::CouldNot,
            Self { passed: 1.., .. } => Exit::Pass,
            Self { skipped: 1.., .. } => Exit::Skipped,
            _ => Exit::CouldNot,
        }
    }
}

impl FromIterator<Verdict> for Count {
    fn from_iter<I: IntoIterator<Item = Verdict>>(verdicts: I) -> Self {
        let mut count = Self::default();
        verdicts.into_iter().for_each(|verdict| count.count(verdict));
        count
    }
}

/// The last line of a run of checks.
impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { passed, failed, skipped, .. } = self;
        write!(f, "{passed} passed, {failed} failed, {skipped} skipped")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(verdicts: &[Verdict]) -> Count {
        verdicts.iter().copied().collect()
    }

    #[test]
    fn verdicts_are_counted_and_added() {
        let one = count(&[Verdict::Pass, Verdict::Fail, Verdict::Error, Verdict::Miss, Verdict::Skip]);
        assert_eq!(one, Count { passed: 1, failed: 3, errors: 2, skipped: 1 });
        let mut sum = one;
        sum.add(one);
        sum.add(count(&[Verdict::Pass]));
        assert_eq!(sum, Count { passed: 3, failed: 6, errors: 4, skipped: 2 });
        assert_eq!(sum.to_string(), "3 passed, 6 failed, 2 skipped");
    }

    #[test]
    fn the_worst_verdict_is_the_exit_code() {
        for (verdicts, exit) in [
            (&[][..], Exit::CouldNot),
            (&[Verdict::Pass], Exit::Pass),
            (&[Verdict::Skip], Exit::Skipped),
            (&[Verdict::Skip, Verdict::Pass], Exit::Pass),
            (&[Verdict::Pass, Verdict::Error], Exit::CouldNot),
            (&[Verdict::Pass, Verdict::Miss], Exit::CouldNot),
            (&[Verdict::Skip, Verdict::Error], Exit::CouldNot),
            (&[Verdict::Pass, Verdict::Fail], Exit::Failed),
            (&[Verdict::Error, Verdict::Fail, Verdict::Miss], Exit::Failed),
        ] {
            assert_eq!(count(verdicts).exit(), exit, "{verdicts:?}");
        }
    }

    #[test]
    fn verdicts_have_names_and_colours() {
        let all = [Verdict::Pass, Verdict::Fail, Verdict::Error, Verdict::Miss, Verdict::Skip];
        assert_eq!(all.map(Verdict::name), ["PASS", "FAIL", "ERROR", "MISS", "SKIP"]);
        let [pass, fail, error, miss, skip] = all.map(Verdict::style);
        assert_eq!(pass, AnsiColor::Green.on_default().bold());
        assert_eq!(error, miss);
        assert!(pass != fail && fail != error && error != skip && skip != pass && skip != fail);
    }
}
