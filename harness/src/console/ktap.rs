// SPDX-License-Identifier: GPL-2.0-only
//! Reads test results in any dialect of KTAP from the console of a kernel.
//!
//! It reads TAP 13 and 14, KTAP 1 (Documentation/dev-tools/ktap.rst), what the kselftest runner
//! makes of it (children prefixed with `# `) and KUnit (children indented), with or without kernel
//! messages in between. A test that was planned and has no result is an error, never a pass.

use std::collections::BTreeMap;
use std::fmt;

use super::log::Log;

/// At most this many tests without a result are listed one by one.
const LISTED_LOST: usize = 100;

/// How a test ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Status {
    /// It passed.
    Pass,
    /// It was skipped.
    Skip,
    /// It failed, as expected.
    Xfail,
    /// It passed, although it was expected to fail.
    Xpass,
    /// It failed.
    Fail,
    /// It has no result, or one that cannot be trusted.
    Error,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pass => "pass",
            Self::Skip => "skip",
            Self::Xfail => "xfail",
            Self::Xpass => "xpass",
            Self::Fail => "fail",
            Self::Error => "error",
        })
    }
}

/// Something that is wrong with the output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Line of the text, from 1.
    pub line: usize,
    /// What is wrong.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.what)
    }
}

/// How far a test got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It was planned, but nothing shows that it started.
    NotReached,
    /// It started; the text ends before its result.
    Started,
    /// It has a result.
    Ended,
}

/// A test, or a suite of tests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// Number in the plan, from 1.
    pub number: u64,
    /// Name; `test N` if it was never announced.
    pub name: String,
    /// How it ended.
    pub status: Status,
    /// Why, if known: the text of a directive, or what is missing.
    pub reason: Option<String>,
    /// How far it got.
    pub progress: Progress,
    /// First line that belongs to it.
    pub first_line: usize,
    /// Line of its result; the last line of the text if it has none.
    pub line: usize,
    /// Diagnostic lines, without `#`.
    pub notes: Vec<String>,
    /// The tests inside.
    pub cases: Vec<Case>,
    /// What is wrong with the output of this test.
    pub problems: Vec<Problem>,
}

/// Number of tests by status; of a suite only the tests inside count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Passed, or failed as expected.
    pub passed: usize,
    /// Failed, or passed unexpectedly.
    pub failed: usize,
    /// Skipped.
    pub skipped: usize,
    /// Without a result that can be trusted.
    pub errors: usize,
}

/// Everything that a text says about tests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The outermost tests, of all documents in the text.
    pub cases: Vec<Case>,
    /// What is wrong outside of any test.
    pub problems: Vec<Problem>,
}

impl Report {
    /// The worst status of any test; [`Status::Error`] if there is no result at all.
    pub fn status(&self) -> Status {
        if self.cases.is_empty() && !self.problems.is_empty() {
            return Status::Error;
        }
        let worst = self.cases.iter().map(|c| c.status).max().unwrap_or(Status::Error);
        if self.problems.is_empty() { worst } else { Status::Error }
    }

    /// The outermost test with this name; the name need not have kselftest's `selftests: FOLDER: `.
    pub fn find(&self, name: &str) -> Option<&Case> {
        self.cases.iter().find(|c| c.name == name || c.name.rsplit(": ").next() == Some(name))
    }

    /// Every problem in the text, in the order of lines.
    pub fn all_problems(&self) -> Vec<&Problem> {
        let mut all: Vec<&Problem> = self.problems.iter().collect();
        self.cases.iter().for_each(|c| c.collect_problems(&mut all));
        all.sort_by_key(|p| p.line);
        all
    }

    /// Counts the innermost tests.
    pub fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        self.cases.iter().for_each(|c| c.count(&mut totals));
        totals
    }
}

impl Case {
    fn collect_problems<'a>(&'a self, all: &mut Vec<&'a Problem>) {
        all.extend(&self.problems);
        self.cases.iter().for_each(|c| c.collect_problems(all));
    }

    fn count(&self, totals: &mut Totals) {
        if !self.cases.is_empty() {
            self.cases.iter().for_each(|c| c.count(totals));
            // A suite that is worse than its tests must not get lost in the sum.
            if self.cases.iter().all(|c| c.status < Status::Xpass) && self.status >= Status::Xpass {
                totals.add(self.status);
            }
        } else {
            totals.add(self.status);
        }
    }

    /// The diagnostic lines of this test and of those inside, outermost last.
    pub fn all_notes(&self) -> Vec<&str> {
        let mut all: Vec<&str> = self.cases.iter().flat_map(Self::all_notes).collect();
        all.extend(self.notes.iter().map(String::as_str));
        all
    }
}

impl Totals {
    fn add(&mut self, status: Status) {
        match status {
            Status::Pass | Status::Xfail => self.passed += 1,
            Status::Skip => self.skipped += 1,
            Status::Fail | Status::Xpass => self.failed += 1,
            Status::Error => self.errors += 1,
        }
    }
}

/// Parses a console, which may have anything before, after and between the results.
pub fn parse(log: &Log) -> Report {
    let mut parser = Parser::default();
    let mut last = 0;
    for line in &log.lines {
        if !line.text.is_empty() {
            last = line.number;
        }
        parser.message(line.number, &line.text, line.torn);
    }
    parser.finish(last)
}

/// A line of KTAP, without its margin.
enum Line<'a> {
    Version,
    Plan {
        count: u64,
        skip: Option<&'a str>,
    },
    Result {
        ok: bool,
        number: Option<u64>,
        rest: &'a str,
    },
    BailOut(&'a str),
    /// Names the suite that it is in, or that follows.
    Subtest(&'a str),
    /// The kselftest runner starts a test with its own level.
    Runs(&'a str),
}

impl<'a> Line<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        if let Some(version) = text.strip_prefix("TAP version ").or_else(|| text.strip_prefix("KTAP version ")) {
            return digits(version).map(|_| Self::Version);
        }
        if let Some(reason) = text.strip_prefix("Bail out!") {
            return Some(Self::BailOut(reason.trim()));
        }
        if let Some(name) = text.strip_prefix("# Subtest: ") {
            return Some(Self::Subtest(name.trim()));
        }
        if text.starts_with("# selftests: ") {
            return Some(Self::Runs(text[2..].trim()));
        }
        if let Some(rest) = text.strip_prefix("1..") {
            let (count, comment) = rest.split_once('#').unwrap_or((rest, ""));
            let skip = comment.trim();
            let skip = skip.get(..4).filter(|s| s.eq_ignore_ascii_case("skip")).map(|_| skip[4..].trim());
            return digits(count.trim_end()).map(|count| Self::Plan { count, skip });
        }
        let (ok, rest) = match text.strip_prefix("not ok") {
            Some(rest) => (false, rest),
            None => (true, text.strip_prefix("ok")?),
        };
        if !rest.is_empty() && !rest.starts_with(' ') {
            return None;
        }
        let rest = rest.trim_start();
        let (word, after) = rest.split_once(' ').unwrap_or((rest, ""));
        Some(match digits(word) {
            Some(number) => Self::Result { ok, number: Some(number), rest: after.trim() },
            None => Self::Result { ok, number: None, rest },
        })
    }
}

fn digits(text: &str) -> Option<u64> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// Splits a message into margin and KTAP line; the margin is a number of columns and whether it
/// holds a `#`. A `#` is a column of the margin only if KTAP follows.
fn split_margin(text: &str) -> Option<(usize, bool, Line<'_>)> {
    let mut at = 0;
    let mut hashes = false;
    loop {
        let rest = &text[at..];
        if let Some(line) = Line::parse(rest) {
            return Some((at, hashes, line));
        }
        if rest.starts_with("# ") {
            at += 2;
            hashes = true;
        } else if rest.starts_with([' ', '\t']) {
            at += 1;
        } else {
            return None;
        }
    }
}

/// Tests with the same margin, up to the result that sums them up.
#[derive(Default)]
struct Level {
    width: usize,
    name: Option<String>,
    opened: usize,
    plan: Option<(u64, usize)>,
    skipped: Option<String>,
    bailed: bool,
    cases: Vec<Case>,
    seen: BTreeMap<u64, usize>,
    problems: Vec<Problem>,
    /// What has been seen of the test whose result comes next.
    next: Next,
}

/// What is known of a test before its result.
#[derive(Default)]
struct Next {
    name: Option<String>,
    first_line: Option<usize>,
    notes: Vec<String>,
    suites: Vec<Level>,
}

impl Level {
    fn problem(&mut self, line: usize, what: impl Into<String>) {
        self.problems.push(Problem { line, what: what.into() });
    }

    fn begun(&self) -> bool {
        self.plan.is_some() || !self.cases.is_empty() || self.next.begun()
    }
}

impl Next {
    fn begun(&self) -> bool {
        self.name.is_some() || !self.notes.is_empty() || !self.suites.is_empty()
    }
}

#[derive(Default)]
struct Parser {
    /// Open levels, outermost first; empty before the first version line.
    levels: Vec<Level>,
    report: Report,
    /// Name for the next level that opens.
    subtest: Option<String>,
    stray: Option<usize>,
}

impl Parser {
    fn message(&mut self, line: usize, text: &str, torn: bool) {
        let Some((width, hashes, what)) = split_margin(text) else {
            self.note(line, text);
            return;
        };
        if self.levels.is_empty() {
            match what {
                Line::Version if !hashes => self.open(width, line),
                Line::Result { number: Some(_), .. } if !hashes => self.stray = self.stray.or(Some(line)),
                _ => {}
            }
            return;
        }
        // Diagnostics and kernel messages may start with `ok`, too: below the outermost level a result
        // has a number.
        if width > self.levels[0].width && matches!(what, Line::Result { ok: true, number: None, .. }) {
            self.note(line, text);
            return;
        }
        match what {
            Line::Subtest(name) => return self.name_suite(width, name, line),
            Line::Runs(name) => {
                let level = self.level(width, line);
                level.next.name = Some(name.to_owned());
                level.next.first_line = Some(line);
                return;
            }
            _ => {}
        }
        if let Line::Version = what {
            self.version(width, line);
        } else {
            let level = self.level(width, line);
            match what {
                Line::Plan { count, skip } => plan(level, line, count, skip),
                Line::Result { ok, number, rest } => result(level, line, ok, number, rest),
                Line::BailOut(reason) => {
                    level.bailed = true;
                    let reason = if reason.is_empty() { "no reason given" } else { reason };
                    level.problem(line, format!("bailed out: {reason}"));
                }
                Line::Version | Line::Subtest(_) | Line::Runs(_) => {}
            }
        }
        if torn {
            self.torn(line);
        }
    }

    /// The line continues with something else: its text may be incomplete.
    fn torn(&mut self, line: usize) {
        let Some(level) = self.levels.last_mut() else { return };
        let what = "the line is torn by a kernel message";
        match level.cases.last_mut().filter(|c| c.line == line) {
            Some(case) => {
                case.status = Status::Error;
                case.reason = Some(what.to_owned());
                case.problems.push(Problem { line, what: what.to_owned() });
            }
            None => level.problem(line, what),
        }
    }

    /// Any other line: a diagnostic if it starts with `#`, otherwise a kernel message.
    fn note(&mut self, line: usize, text: &str) {
        let Some(level) = self.levels.last_mut() else { return };
        let body = text.trim_start();
        if body.starts_with('#') {
            level.next.notes.push(body.trim_start_matches(['#', ' ']).trim_end().to_owned());
            level.next.first_line.get_or_insert(line);
        }
    }

    /// The innermost open level with this width, opened if needed.
    fn level(&mut self, width: usize, line: usize) -> &mut Level {
        while self.levels.len() > 1 && self.levels.last().is_some_and(|l| l.width > width) {
            self.close(line);
        }
        if self.levels.last().is_none_or(|l| l.width < width) {
            self.open(width, line);
        }
        let last = self.levels.len() - 1;
        &mut self.levels[last]
    }

    fn open(&mut self, width: usize, line: usize) {
        if let Some(parent) = self.levels.last_mut() {
            parent.next.first_line.get_or_insert(line);
        }
        let name = self.subtest.take();
        self.levels.push(Level { width, name, opened: line, ..Level::default() });
    }

    fn version(&mut self, width: usize, line: usize) {
        let outermost = self.levels[0].width;
        if width <= outermost {
            // Another document, for instance KUnit's at boot and then the runner's.
            self.close_all(line);
            self.open(width, line);
        } else {
            if self.level(width, line).begun() {
                self.close(line);
                self.open(width, line);
            }
        }
    }

    fn name_suite(&mut self, width: usize, name: &str, line: usize) {
        let inside = self.levels.iter_mut().skip(1).find(|l| l.width == width);
        match inside {
            Some(level) if level.name.is_none() && level.cases.is_empty() => level.name = Some(name.to_owned()),
            _ => {
                self.subtest = Some(name.to_owned());
                if let Some(level) = self.levels.iter_mut().rfind(|l| l.width <= width) {
                    level.next.first_line.get_or_insert(line);
                }
            }
        }
    }

    /// Closes the innermost level; its parent's next result sums it up.
    fn close(&mut self, line: usize) {
        let Some(mut level) = self.levels.pop() else { return };
        settle(&mut level, line);
        match self.levels.last_mut() {
            Some(parent) => parent.next.suites.push(level),
            None => {
                if let (Some(reason), true) = (level.skipped, level.cases.is_empty()) {
                    level.cases.push(Case {
                        number: 0,
                        name: level.name.unwrap_or_else(|| "all tests".to_owned()),
                        status: Status::Skip,
                        reason: Some(reason),
                        progress: Progress::Ended,
                        first_line: level.opened,
                        line,
                        notes: level.next.notes,
                        cases: Vec::new(),
                        problems: Vec::new(),
                    });
                }
                self.report.cases.append(&mut level.cases);
                self.report.problems.append(&mut level.problems);
            }
        }
    }

    fn close_all(&mut self, line: usize) {
        while !self.levels.is_empty() {
            self.close(line);
        }
        self.subtest = None;
    }

    fn finish(mut self, line: usize) -> Report {
        let started = !self.levels.is_empty() || !self.report.cases.is_empty() || !self.report.problems.is_empty();
        self.close_all(line);
        if !started {
            let what = match self.stray {
                Some(_) => "results without a line `TAP version 13` or `KTAP version 1` before them",
                None => "no test results: no line `TAP version 13` or `KTAP version 1`",
            };
            self.report.problems.push(Problem { line: self.stray.unwrap_or(line), what: what.to_owned() });
        }
        self.report
    }
}

fn plan(level: &mut Level, line: usize, count: u64, skip: Option<&str>) {
    if let Some((_, before)) = level.plan {
        level.problem(line, format!("a second plan; the first is in line {before}"));
        return;
    }
    level.plan = Some((count, line));
    level.skipped = skip.map(str::to_owned);
}

fn result(level: &mut Level, line: usize, ok: bool, number: Option<u64>, rest: &str) {
    let expected = level.seen.keys().next_back().map_or(1, |n| n + 1);
    let number = number.unwrap_or_else(|| {
        level.problem(line, "a result without a number");
        expected
    });
    if let Some(before) = level.seen.get(&number) {
        let what = format!("test {number} has a second result; the first is in line {before}");
        level.problem(line, what);
    } else if number != expected {
        level.problem(line, format!("test {number} where test {expected} was due"));
    }
    level.seen.entry(number).or_insert(line);

    let (name, directive) = split_directive(rest);
    let (mut status, mut reason) = judge(ok, directive);
    let next = std::mem::take(&mut level.next);
    let name = match (name.is_empty(), next.name) {
        (false, _) => name.to_owned(),
        (true, Some(announced)) => announced,
        (true, None) => format!("test {number}"),
    };
    let first_line = next.first_line.unwrap_or(line);
    let mut notes = next.notes;
    let mut cases = Vec::new();
    let mut problems = Vec::new();
    for suite in next.suites {
        if suite.skipped.is_some() && status == Status::Pass {
            status = Status::Skip;
            reason = suite.skipped;
        }
        cases.extend(suite.cases);
        problems.extend(suite.problems);
        notes.extend(suite.next.notes);
    }
    // A summary must not be better than what it sums up.
    if status < Status::Xpass {
        let worst = cases.iter().find(|c| c.status >= Status::Fail);
        if let Some(problem) = problems.first() {
            (status, reason) = (Status::Error, Some(problem.to_string()));
        } else if let Some(bad) = worst {
            let what = format!("says {status}, but {} says {}", bad.name, bad.status);
            problems.push(Problem { line, what: what.clone() });
            (status, reason) = (Status::Error, Some(what));
        }
    }
    level.cases.push(Case {
        number,
        name,
        status,
        reason,
        progress: Progress::Ended,
        first_line,
        line,
        notes,
        cases,
        problems,
    });
}

/// Checks a level against its plan, at its end in `line`.
fn settle(level: &mut Level, line: usize) {
    let missing = match level.plan {
        None => {
            if !level.bailed {
                let opened = level.opened;
                let what = if level.cases.is_empty() {
                    format!("neither a plan nor a result since line {opened}, where results begin")
                } else {
                    format!("the results since line {opened} have no plan: some may be missing")
                };
                level.problem(line, what);
            }
            Vec::new()
        }
        Some((0, at)) => {
            if level.skipped.is_none() && level.cases.is_empty() {
                level.problem(at, "a plan for no tests, without a reason");
            }
            Vec::new()
        }
        Some((count, _)) => (1..=count).filter(|n| !level.seen.contains_key(n)).take(LISTED_LOST + 1).collect(),
    };
    if let Some((count, at)) = level.plan {
        let late: Vec<_> = level.seen.iter().filter(|(n, _)| **n > count).map(|(n, l)| (*n, *l)).collect();
        for (number, line) in late {
            level.problem(line, format!("test {number} is not in the plan 1..{count} of line {at}"));
        }
    }
    if missing.len() > LISTED_LOST {
        level.problem(line, format!("more than {LISTED_LOST} planned tests have no result"));
    }
    for number in missing.into_iter().take(LISTED_LOST) {
        // Whatever follows the last result belongs to the test that was running.
        let next = std::mem::take(&mut level.next);
        let (progress, reason) = match next.begun() {
            true => (Progress::Started, "started, has no result"),
            false => (Progress::NotReached, "planned, never started"),
        };
        let name = next.name.or_else(|| next.suites.iter().find_map(|s| s.name.clone()));
        let mut case = Case {
            number,
            name: name.unwrap_or_else(|| format!("test {number}")),
            status: Status::Error,
            reason: Some(reason.to_owned()),
            progress,
            first_line: next.first_line.unwrap_or(line),
            line,
            notes: next.notes,
            cases: Vec::new(),
            problems: vec![Problem { line, what: format!("test {number} is planned and has no result") }],
        };
        for suite in next.suites {
            case.cases.extend(suite.cases);
            case.problems.extend(suite.problems);
            case.notes.extend(suite.next.notes);
        }
        level.cases.push(case);
    }
    for suite in std::mem::take(&mut level.next.suites) {
        level.problem(suite.opened, "results that no later result sums up");
        level.problems.extend(suite.problems);
        level.cases.extend(suite.cases);
    }
}

/// Name and directive, such as `SKIP no such device`.
fn split_directive(rest: &str) -> (&str, Option<&str>) {
    let rest = rest.strip_prefix("- ").unwrap_or(rest).trim();
    if let Some(directive) = rest.strip_prefix('#') {
        return ("", Some(directive.trim()));
    }
    // `\#` is part of a name.
    let mut from = 0;
    while let Some(found) = rest[from..].find(" #") {
        let at = from + found;
        let directive = rest[at + 2..].trim();
        let before = rest[..at].trim_end();
        if !before.ends_with('\\') {
            return (before, Some(directive));
        }
        from = at + 2;
    }
    (rest, None)
}

/// What a result means, and the reason that its directive gives.
fn judge(ok: bool, directive: Option<&str>) -> (Status, Option<String>) {
    let plain = if ok { Status::Pass } else { Status::Fail };
    let Some(directive) = directive.filter(|d| !d.is_empty()) else { return (plain, None) };
    let end = directive.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(directive.len());
    let (word, reason) = directive.split_at(end);
    let reason = reason.trim_start_matches([':', ' ']).trim();
    let reason = |default: &str| Some(if reason.is_empty() { default.to_owned() } else { reason.to_owned() });
    match word.to_ascii_uppercase().as_str() {
        "SKIP" => (Status::Skip, reason("no reason given")),
        // kselftest.h says `ok N # XFAIL`, KTAP says `not ok N # XFAIL`: both mean the same.
        "XFAIL" => (Status::Xfail, reason("expected")),
        "XPASS" => (Status::Xpass, reason("unexpected")),
        "TODO" => (if ok { Status::Xpass } else { Status::Xfail }, reason("to do")),
        "TIMEOUT" => (Status::Fail, Some("timeout".to_owned())),
        "ERROR" => (Status::Error, reason("error")),
        _ => (plain, Some(directive.to_owned())),
    }
}
