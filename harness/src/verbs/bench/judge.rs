// SPDX-License-Identifier: GPL-2.0-only
//! Compares the figures with what they may be.

use serde::Serialize;

use super::figures::{Measured, find};
use super::{ANY_SWITCH, FIRST};
use crate::build::kernel::SERIES;
use crate::trial::verdict::Verdict;

/// Fences for tasks that are new to a hart: there is no more than a handful of such tasks.
pub const SLACK: i64 = 40;
/// How many percent of the fences of the kernel that never fences at a switch the series may have.
pub const PERCENT: i64 = 105;
/// How many times the fences of the series the kernel that fences at any switch must have.
const APART: i64 = 2;

/// A figure, compared with what it may be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What is compared.
    pub name: String,
    /// The judgement.
    pub verdict: Verdict,
    /// The figures, or why there are none.
    pub why: String,
}

/// Judges all kernels.
pub fn judge(measured: &[Measured]) -> Vec<Check> {
    let mut checks: Vec<Check> = measured.iter().map(counted).collect();
    let victims = |kernel: &str| match find(measured, kernel) {
        Some(figures) => Ok(figures.victims.fences.median),
        None => Err(format!("the kernel {kernel} was not measured")),
    };
    let both = |one: &str, other: &str| -> Result<(i64, i64), String> { Ok((victims(one)?, victims(other)?)) };
    let series = both(SERIES, FIRST).map(|(series, first)| budget(series, first));
    checks.push(check(&format!("victims of {SERIES}"), series));
    let any = both(ANY_SWITCH, SERIES).map(|(any, series)| apart(any, series));
    checks.push(check(&format!("victims of {ANY_SWITCH}"), any));
    checks
}

/// Whether a kernel was measured at all.
fn counted(measured: &Measured) -> Check {
    let judged = match &measured.figures {
        Ok(figures) => Ok((Verdict::Pass, format!("{} fences of victims", figures.victims.fences))),
        Err(why) => Err(why.clone()),
    };
    check(&format!("counts of {}", measured.kernel), judged)
}

fn check(name: &str, judged: Result<(Verdict, String), String>) -> Check {
    let (verdict, why) = judged.unwrap_or_else(|why| (Verdict::Error, why));
    Check { name: name.to_owned(), verdict, why }
}

/// The series against the kernel without any fence at the switch.
fn budget(series: i64, first: i64) -> (Verdict, String) {
    let budget = first.max(0) * PERCENT / 100 + SLACK;
    let verdict = if series <= budget { Verdict::Pass } else { Verdict::Fail };
    (verdict, format!("{series} fences, and the budget is {budget}"))
}

/// The kernel that disturbs everybody must stand out, or no kernel would.
fn apart(any: i64, series: i64) -> (Verdict, String) {
    let least = APART * series.max(SLACK);
    let verdict = if any >= least { Verdict::Pass } else { Verdict::Error };
    let told = if any >= least { "" } else { ", so the bench cannot tell kernels apart" };
    (verdict, format!("{any} fences, at least {least} expected{told}"))
}

#[cfg(test)]
mod tests {
    use super::super::figures::tests::measured;
    use super::*;

    /// The verdicts for these fences of the victims.
    fn verdicts(series: u64, first: u64, any: u64) -> (Verdict, Verdict) {
        let kernels =
            [measured(SERIES, [series, 0], 2), measured(FIRST, [first, 0], 2), measured(ANY_SWITCH, [any, 0], 2)];
        let checks = judge(&kernels);
        assert_eq!(checks.len(), kernels.len() + 2);
        assert!(checks[..3].iter().all(|check| check.verdict == Verdict::Pass));
        (checks[3].verdict, checks[4].verdict)
    }

    #[test]
    fn the_budget_has_a_few_percent_and_a_slack() {
        use Verdict::{Fail, Pass};
        assert_eq!(verdicts(90, 74, 700), (Pass, Pass));
        assert_eq!(verdicts(145, 100, 700), (Pass, Pass));
        assert_eq!(verdicts(146, 100, 700), (Fail, Pass));
        assert_eq!(verdicts(40, 0, 700), (Pass, Pass));
        assert_eq!(verdicts(41, 0, 700), (Fail, Pass));
    }

    #[test]
    fn a_bench_that_sees_no_difference_is_an_error() {
        use Verdict::{Error, Pass};
        assert_eq!(verdicts(100, 100, 200), (Pass, Pass));
        assert_eq!(verdicts(100, 100, 199), (Pass, Error));
        // Twice nothing is nothing.
        assert_eq!(verdicts(0, 0, 0), (Pass, Error));
        assert_eq!(verdicts(0, 0, 79), (Pass, Error));
        assert_eq!(verdicts(0, 0, 80), (Pass, Pass));
    }

    #[test]
    fn what_was_not_measured_is_an_error() {
        let lost = Measured { kernel: FIRST, figures: Err("it died".to_owned()) };
        let checks = judge(&[measured(SERIES, [0, 0], 2), lost, measured(ANY_SWITCH, [700, 0], 2)]);
        let verdicts: Vec<Verdict> = checks.iter().map(|check| check.verdict).collect();
        assert_eq!(verdicts, [Verdict::Pass, Verdict::Error, Verdict::Pass, Verdict::Error, Verdict::Pass]);
        assert_eq!(checks[1].why, "it died");
        assert!(checks[3].why.contains(FIRST), "{}", checks[3].why);
        assert!(judge(&[]).iter().all(|check| check.verdict == Verdict::Error));
    }
}
