// SPDX-License-Identifier: GPL-2.0-only
//! TAP, one document for each boot, as the kselftest runner prints it: the cases of a test come before
//! its result, each line behind `# `. Readers that know nothing of cases take them for comments.
//!
//! The dialect is what tap.py, Linaro's test-definitions and `kunit.py parse` read alike: TAP 13, the
//! version in the first line, one plan, no nested documents without `# `.

use super::{Suite, Told};
use crate::build::kernel;
use crate::trial::record::{CaseResult, CaseRow};
use crate::trial::report::Row;
use crate::trial::tally::{DIRECTIVES, one_line};
use crate::trial::verdict::Verdict;

/// The third line of each document, after the plan, which tap.py wants at the very beginning.
pub const MARK: &str = "# written by lazymap";

/// The documents, each with the name of its file.
pub fn documents(told: &Told<'_>) -> Vec<(String, String)> {
    let mut all: Vec<(String, String)> = Vec::new();
    for suite in told.suites() {
        all.push((format!("{}-{}.tap", suite.part.verb, suite.name), document(&suite)));
    }
    if !told.checks.is_empty() {
        let mut text = head(told.checks.len());
        for (at, check) in told.checks.iter().enumerate() {
            text += &line(at + 1, &check.name, check.verdict, &check.why);
        }
        all.push((format!("{}-checks.tap", told.verb), text));
    }
    all
}

fn head(tests: usize) -> String {
    format!("TAP version 13\n1..{tests}\n{MARK}\n")
}

fn document(suite: &Suite<'_>) -> String {
    let mut text = head(suite.rows.len());
    if let Some(boot) = suite.boot {
        let started = &boot.started;
        let (kernel, machine, harts) = (&boot.kernel, &boot.machine, boot.harts);
        text += &format!("# boot {} at {started}: kernel {kernel} on {machine}, {harts} harts\n", boot.name);
        text += &format!("# it ended after {} s: {}\n", boot.seconds, one_line(&boot.end));
    }
    for (at, row) in suite.rows.iter().enumerate() {
        let name = name(&row.test);
        if !row.cases.is_empty() {
            text += &format!("# {name}\n");
            cases(&row.cases, "# ", &mut text);
        }
        if row.verdict != Verdict::Pass {
            suite.explained(row).lines().for_each(|l| text += &format!("# {}\n", quoted(l)));
        }
        text += &match (row.verdict, row.expected.as_str()) {
            // Nobody should take the death of a kernel that has to die for news.
            (Verdict::Pass, expected) if expected != "pass" && row.observed != "pass" => {
                format!("ok {} {name} # XFAIL {}\n", at + 1, one_line(&row.observed))
            }
            _ if row.missed() => format!("not ok {} {name} # MISS {}\n", at + 1, row.observed),
            _ => line(at + 1, &name, row.verdict, &unlike(row)),
        };
    }
    text
}

/// The name of a test in kselftest's form, in which other runs have it, too.
fn name(test: &str) -> String {
    plain(&if kernel::is_test(test) { format!("selftests: {}: {test}", kernel::TARGET) } else { test.to_owned() })
}

fn unlike(row: &Row) -> String {
    format!("expected {}, observed {}", row.expected, row.observed)
}

/// A result.
fn line(number: usize, name: &str, verdict: Verdict, why: &str) -> String {
    let (name, why) = (plain(name), one_line(why));
    match verdict {
        Verdict::Pass => format!("ok {number} {name}\n"),
        Verdict::Skip => format!("ok {number} {name} # SKIP {why}\n"),
        Verdict::Fail | Verdict::Error | Verdict::Miss => format!("not ok {number} {name} # {}\n", reason(&why)),
    }
}

fn cases(all: &[CaseRow], margin: &str, text: &mut String) {
    *text += &format!("{margin}TAP version 13\n{margin}1..{}\n", all.len());
    for (at, case) in all.iter().enumerate() {
        if !case.cases.is_empty() {
            cases(&case.cases, &format!("{margin}# "), text);
        }
        case.notes.iter().for_each(|note| *text += &format!("{margin}# {}\n", quoted(note)));
        let (number, name) = (at + 1, plain(&case.name));
        let why = one_line(case.reason.as_deref().unwrap_or_default());
        let result = match case.result {
            CaseResult::Pass => format!("ok {number} {name}"),
            CaseResult::Skip => format!("ok {number} {name} # SKIP {why}"),
            CaseResult::Xfail => format!("ok {number} {name} # XFAIL {why}"),
            CaseResult::Miss => format!("not ok {number} {name} # MISS {why}"),
            CaseResult::Fail if why.is_empty() => format!("not ok {number} {name}"),
            CaseResult::Fail => format!("not ok {number} {name} # {}", reason(&why)),
            CaseResult::Error | CaseResult::Xpass => {
                format!("not ok {number} {name} # got {}: {why}", case.result.word())
            }
        };
        *text += &format!("{margin}{}\n", result.trim_end());
    }
}

/// A name that cannot begin a directive.
fn plain(name: &str) -> String {
    one_line(&name.replace('#', " "))
}

/// A text that no reader takes for a result.
fn quoted(text: &str) -> String {
    format!("| {}", one_line(text))
}

/// A failure must not be read as a skip because its reason begins with that word.
fn reason(why: &str) -> String {
    let first = why.split(|c: char| !c.is_ascii_alphabetic()).next().unwrap_or_default();
    let got = if DIRECTIVES.iter().any(|d| d.eq_ignore_ascii_case(first)) { "got " } else { "" };
    format!("{got}{why}")
}
