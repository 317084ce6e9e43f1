// SPDX-License-Identifier: GPL-2.0-only
//! The results of checks as KTAP, and their count.

use std::collections::BTreeSet;
use std::time::Instant;

use crate::ground::progress;
use crate::trial::record::{self, Check};
use crate::trial::verdict::{Count, Verdict};

/// Words that KTAP readers take for a directive if a reason starts with one.
pub const DIRECTIVES: [&str; 6] = ["SKIP", "TODO", "XFAIL", "XPASS", "TIMEOUT", "ERROR"];

/// The first line.
const HEADER: &str = "KTAP version 1";

/// Counts checks, and prints each as a numbered line of KTAP; the plan comes last.
#[derive(Default)]
pub struct Tally {
    /// The count so far.
    pub count: Count,
    results: usize,
    names: BTreeSet<String>,
    /// The output, if it is kept instead of printed.
    kept: Option<String>,
    begun: bool,
    /// The results since they were last taken, and when the last one came.
    told: Vec<Check>,
    last: Option<Instant>,
}

impl Tally {
    /// A tally that prints nothing: [`Tally::text`] has it all.
    pub fn kept() -> Self {
        Self { kept: Some(String::new()), ..Self::default() }
    }

    /// A check that passed.
    pub fn ok(&mut self, name: &str) {
        self.result("ok", name, "", Verdict::Pass);
        self.count.passed += 1;
    }

    /// A check that failed, and why.
    pub fn not_ok(&mut self, name: &str, why: &str) {
        self.failed(name, why, Verdict::Fail);
    }

    fn failed(&mut self, name: &str, why: &str, verdict: Verdict) {
        let why = one_line(why);
        let first = why.split(|c: char| !c.is_ascii_alphabetic()).next().unwrap_or_default();
        // A failure must not be read as a skip because its reason begins with that word.
        let got = if DIRECTIVES.iter().any(|d| d.eq_ignore_ascii_case(first)) { "got " } else { "" };
        self.result("not ok", name, &format!(" # {got}{why}"), verdict);
        self.count.failed += 1;
    }

    /// A check that could not be made.
    pub fn error(&mut self, name: &str, why: &str) {
        self.failed(name, why, Verdict::Error);
        self.count.errors += 1;
    }

    /// A check that was not reached.
    pub fn miss(&mut self, name: &str, why: &str) {
        self.failed(name, &format!("MISS: {}", one_line(why)), Verdict::Miss);
        self.count.errors += 1;
    }

    /// A check that was not made, for a good reason.
    pub fn skip(&mut self, name: &str, why: &str) {
        self.result("ok", name, &format!(" # SKIP {}", one_line(why)), Verdict::Skip);
        self.count.skipped += 1;
    }

    /// Comments on the next result, or on all of them.
    pub fn note(&mut self, text: &str) {
        self.line(&format!("# {}", one_line(text)));
    }

    /// Quotes a program's output, line by line.
    pub fn quote(&mut self, text: &str) {
        // The bar keeps quoted results from being read as results of this level.
        text.lines().for_each(|line| self.line(format!("#   | {line}").trim_end()));
    }

    /// Ends the list with its plan. The caller may print the count.
    pub fn finish(&mut self) -> Count {
        self.line(&format!("1..{}", self.results));
        self.count
    }

    /// The output; empty if it was printed.
    pub fn text(&self) -> &str {
        self.kept.as_deref().unwrap_or_default()
    }

    /// The results since the last call, without their part.
    pub fn take(&mut self) -> Vec<Check> {
        std::mem::take(&mut self.told)
    }

    /// Adds the lines and the count of a kept tally that is not finished; [`Tally::take`] gives its results.
    pub fn append(&mut self, other: Self) {
        for line in other.text().lines().filter(|line| *line != HEADER) {
            let result = ["ok ", "not ok "].iter().find_map(|word| Some((*word, line.strip_prefix(word)?)));
            match result.and_then(|(word, rest)| Some((word, rest.split_once(' ')?.1))) {
                Some((word, rest)) => {
                    self.results += 1;
                    self.line(&format!("{word}{} {rest}", self.results));
                }
                None => self.line(line),
            }
        }
        self.count.add(other.count);
        self.names.extend(other.names);
        self.last = Some(Instant::now());
    }

    fn result(&mut self, word: &str, name: &str, directive: &str, verdict: Verdict) {
        let name = self.unique(name);
        let now = Instant::now();
        let seconds = self.last.replace(now).map_or(0.0, |last| (now - last).as_secs_f64());
        let why = directive.trim_start_matches(" # ").trim_start_matches("SKIP ").to_owned();
        let seconds = record::tenths(seconds);
        self.told.push(Check { part: String::new(), name: name.clone(), verdict, why, seconds });
        self.results += 1;
        self.line(&format!("{word} {} {name}{directive}", self.results));
    }

    /// The name on one line; a repeated name gets a number.
    fn unique(&mut self, name: &str) -> String {
        // `#` would begin a directive.
        let name = one_line(name).replace('#', "\\#");
        let mut unique = name.clone();
        let mut times = 1;
        while !self.names.insert(unique.clone()) {
            times += 1;
            unique = format!("{name} ({times})");
        }
        unique
    }

    fn line(&mut self, line: &str) {
        if !std::mem::replace(&mut self.begun, true) {
            self.line(HEADER);
        }
        match &mut self.kept {
            Some(text) => {
                text.push_str(line);
                text.push('\n');
            }
            None if progress::quiet() && !is_bad(line) => {}
            None => println!("{line}"),
        }
    }
}

/// Whether a line of KTAP says that something is not as expected.
fn is_bad(line: &str) -> bool {
    // A skip may hide what it would have found; the bar quotes the output of a program that failed.
    ["not ok ", "#   |"].iter().any(|start| line.starts_with(start)) || line.contains(" # SKIP ")
}

/// `text` with every run of white space replaced by one space.
pub fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use lazymap_console::ktap::{self, Status, Totals};
    use lazymap_console::log::Log;

    #[test]
    fn what_is_printed_if_only_the_unexpected_counts() {
        for line in ["not ok 3 demo # died", "ok 4 litmus # SKIP no herd7", "#   | panic"] {
            assert!(is_bad(line), "{line}");
        }
        for line in ["ok 1 series", "KTAP version 1", "1..4", "# a note"] {
            assert!(!is_bad(line), "{line}");
        }
    }

    #[test]
    fn the_lines_are_ktap() {
        let mut tally = Tally::kept();
        tally.ok("series: applies");
        tally.not_ok("demo: boots", "died\n  early");
        tally.error("cost: entry", "no kernel");
        tally.skip("litmus: mp", "no herd7");
        let outcome = tally.finish();
        assert_eq!(
            tally.text(),
            "KTAP version 1\n\
             ok 1 series: applies\n\
             not ok 2 demo: boots # died early\n\
             not ok 3 cost: entry # no kernel\n\
             ok 4 litmus: mp # SKIP no herd7\n\
             1..4\n"
        );
        assert_eq!(outcome, Count { passed: 1, failed: 2, errors: 1, skipped: 1 });
        assert_eq!(outcome.to_string(), "1 passed, 2 failed, 1 skipped");
    }

    #[test]
    fn results_of_another_tally_get_new_numbers() {
        let (mut all, mut part) = (Tally::kept(), Tally::kept());
        all.ok("first");
        part.note("about it");
        part.ok("second");
        part.quote("ok 7 quoted");
        part.not_ok("third", "why");
        all.append(part);
        all.ok("second");
        let count = all.finish();
        assert_eq!(
            all.text(),
            "KTAP version 1\n\
             ok 1 first\n\
             # about it\n\
             ok 2 second\n\
             #   | ok 7 quoted\n\
             not ok 3 third # why\n\
             ok 4 second (2)\n\
             1..4\n"
        );
        assert_eq!(count, Count { passed: 3, failed: 1, errors: 0, skipped: 0 });
    }

    #[test]
    fn our_own_reader_accepts_them() {
        let mut tally = Tally::kept();
        tally.ok("a");
        tally.note("what follows is a quotation");
        tally.quote("KTAP version 1\nok 1 inside\n    not ok 2 inside\n1..2\nBail out!\n\n# Subtest: none");
        tally.ok("b");
        tally.skip("c", "not installed");
        tally.quote("the end");
        let outcome = tally.finish();
        // As `lazymap check` prints them: a table in between, the count behind.
        let text = tally.text().replace("ok 2 b", "\nkernel  machine  verdict\nseries  stale    PASS\nok 2 b");
        let report = ktap::parse(&Log::of(&format!("{text}{outcome}\n")));
        assert_eq!(report.all_problems(), Vec::<&ktap::Problem>::new());
        assert_eq!(report.status(), Status::Skip);
        assert_eq!(report.totals(), Totals { passed: 2, skipped: 1, ..Totals::default() });
        let names: Vec<_> = report.cases.iter().map(|c| c.name.as_str()).collect();
        assert_eq!(names, ["a", "b", "c"]);
    }

    #[test]
    fn no_plan_no_pass() {
        let mut tally = Tally::kept();
        tally.ok("a");
        assert_eq!(ktap::parse(&Log::of(tally.text())).status(), Status::Error);
    }

    #[test]
    fn equal_names_are_told_apart() {
        let mut tally = Tally::kept();
        ["a", "a (2)", "a", "a  ", "b #1"].iter().for_each(|name| tally.ok(name));
        tally.finish();
        let report = ktap::parse(&Log::of(tally.text()));
        let names: Vec<_> = report.cases.iter().map(|c| c.name.as_str()).collect();
        assert_eq!(names, ["a", "a (2)", "a (3)", "a (4)", "b \\#1"]);
        assert_eq!(report.status(), Status::Pass);
    }

    #[test]
    fn a_reason_is_no_directive() {
        let reasons = ["skip: no device", "TODO", "xfail", "Timeout after 60 s", "error: no kernel", "skipped twice"];
        for why in reasons {
            let mut tally = Tally::kept();
            tally.not_ok("a", why);
            tally.finish();
            let report = ktap::parse(&Log::of(tally.text()));
            let case = &report.cases[0];
            assert_eq!(case.status, Status::Fail, "{why}");
            assert!(case.reason.as_ref().is_some_and(|r| r.ends_with(why)), "{why}: {:?}", case.reason);
        }
    }
}
