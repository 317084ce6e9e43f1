// SPDX-License-Identifier: GPL-2.0-only
//! Reads test results in any dialect of KTAP from the console of a kernel.
//!
//! It reads TAP 13 and 14, KTAP 1 (Documentation/dev-tools/ktap.rst), what the kselftest runner
//! makes of it (children prefixed with `# `) and KUnit (children indented), with or without kernel
//! messages in between. A test that was planned and has no result is an error, never a pass. So are
//! totals that do not fit the results. What is printed twice counts once.

use std::collections::BTreeMap;
use std::fmt;

use crate::log::Log;

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
    /// It was planned and never started.
    Miss,
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
            Self::Miss => "miss",
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
    /// From this line on it may have been running: the result before it, or the first line of its level.
    pub since: usize,
    /// Line of its result; the last line of the text if it has none.
    pub line: usize,
    /// Diagnostic lines, without `#`.
    pub notes: Vec<String>,
    /// The tests inside.
    pub cases: Vec<Case>,
    /// Of a test that was cut off or timed out: what ran inside, as far as its output says.
    pub running: Option<String>,
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
        let worst = self.cases.iter().map(|c| c.status).max().unwrap_or(Status::Error);
        if self.problems.is_empty() && worst != Status::Miss { worst } else { Status::Error }
    }

    /// The outermost test with this name; the name need not have kselftest's `selftests: FOLDER: `.
    ///
    /// # Errors
    /// When several tests are called that.
    pub fn find(&self, name: &str) -> Result<Option<&Case>, String> {
        let whole: Vec<&Case> = self.cases.iter().filter(|c| c.name == name).collect();
        let short = || self.cases.iter().filter(|c| c.name.rsplit(": ").next() == Some(name)).collect();
        let found = if whole.is_empty() { short() } else { whole };
        match found[..] {
            [first, second, ..] => Err(format!(
                "{name} has several results, in lines {} ({}) and {} ({})",
                first.line, first.name, second.line, second.name
            )),
            _ => Ok(found.first().copied()),
        }
    }

    /// The test that ran when line `number` was printed, with the suites around it; `None` outside of any.
    pub fn running_at(&self, number: usize) -> Option<String> {
        running_at(&self.cases, number)
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

/// The innermost tests of `cases` with names that differ: the test's own where no other has it, otherwise with those of
/// the suites around it, and as a last resort with a number.
pub fn innermost(cases: &[Case]) -> Vec<(String, &Case)> {
    fn add<'a>(all: &mut Vec<(Vec<&'a str>, &'a Case)>, path: &[&'a str], case: &'a Case) {
        let path = [path, &[case.name.as_str()]].concat();
        case.cases.iter().for_each(|c| add(all, &path, c));
        if case.cases.is_empty() {
            all.push((path, case));
        }
    }
    let mut all = Vec::new();
    cases.iter().for_each(|c| add(&mut all, &[], c));
    let own = |path: &[&str]| path.last().copied().unwrap_or_default().to_owned();
    let mut names: BTreeMap<String, usize> = BTreeMap::new();
    all.iter().for_each(|(path, _)| *names.entry(own(path)).or_default() += 1);
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let unique = all.into_iter().map(|(path, case)| {
        let name = if names.get(&own(&path)) == Some(&1) { own(&path) } else { path.join("/") };
        let times = seen.entry(name.clone()).or_default();
        *times += 1;
        (if *times == 1 { name } else { format!("{name} ({times})") }, case)
    });
    unique.collect()
}

/// The one of `cases` that ran when line `number` was printed, and what ran inside.
fn running_at(cases: &[Case], number: usize) -> Option<String> {
    let case = cases.iter().find(|case| (case.since..=case.line).contains(&number))?;
    let inside = running_at(&case.cases, number);
    Some(inside.map_or_else(|| case.name.clone(), |inside| format!("{}/{inside}", case.name)))
}

impl Case {
    /// Whether it has a result, and failed.
    pub fn has_failed(&self) -> bool {
        self.progress == Progress::Ended && self.status >= Status::Xpass
    }

    /// The first test inside, or this one, that failed or has no result, with the suites around it.
    fn culprit(&self) -> Option<String> {
        if self.status < Status::Xpass {
            return None;
        }
        let inside = self.cases.iter().find_map(Self::culprit);
        Some(inside.map_or_else(|| self.name.clone(), |inside| format!("{}/{inside}", self.name)))
    }

    /// Whether `other` is the same result, printed again.
    fn same(&self, other: &Self) -> bool {
        (self.number, &self.name, self.status) == (other.number, &other.name, other.status)
            && self.progress == Progress::Ended
            && self.cases.len() == other.cases.len()
            && self.cases.iter().zip(&other.cases).all(|(a, b)| a.same(b))
    }

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
            Status::Miss | Status::Error => self.errors += 1,
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
        if !line.copy && !line.quoted {
            parser.message(line.number, &line.text, line.torn);
        }
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
            let skip = directive(comment.trim()).filter(|(word, _)| ["SKIP", "SKIPPED"].contains(&word.as_str()));
            let skip = skip.map(|(_, reason)| reason);
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

/// Whether a text may be the start of `not ok`.
fn is_half_a_failure(text: &str) -> bool {
    let text = text.trim_start_matches(['#', ' ', '\t']);
    !text.is_empty() && "not ok".starts_with(text)
}

/// Tests with the same margin, up to the result that sums them up.
#[derive(Default)]
struct Level {
    width: usize,
    name: Option<String>,
    opened: usize,
    /// The first line of the test around it, or where it was opened.
    since: usize,
    plan: Option<(u64, usize)>,
    skipped: Option<String>,
    bailed: bool,
    cases: Vec<Case>,
    seen: BTreeMap<u64, usize>,
    problems: Vec<Problem>,
    /// Results of this level so far.
    count: Sums,
    /// The same up to the last totals.
    told: Sums,
    /// The level printed totals, and no result after them.
    summed_up: bool,
    /// What has been seen of the test whose result comes next.
    next: Next,
}

/// Results as totals count them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sums {
    all: u64,
    bad: u64,
    skipped: u64,
}

impl Sums {
    fn add(&mut self, status: Status) {
        self.all += 1;
        self.bad += u64::from(status >= Status::Xpass);
        self.skipped += u64::from(status == Status::Skip);
    }

    fn since(self, before: Self) -> Self {
        Self { all: self.all - before.all, bad: self.bad - before.bad, skipped: self.skipped - before.skipped }
    }
}

impl fmt::Display for Sums {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} results, {} of them bad, {} skipped", self.all, self.bad, self.skipped)
    }
}

/// Reads `pass:1 fail:0 xfail:0 xpass:0 skip:0 error:0` (kselftest.h) or `pass:2 fail:1 skip:0 total:3` (KUnit), and
/// returns what is in front of it.
fn totals(note: &str) -> Option<(&str, Sums)> {
    let (what, numbers) = note.rsplit_once(": ").unwrap_or(("", note));
    let mut sums = Sums::default();
    let mut words = 0;
    for word in numbers.split_whitespace() {
        let (kind, number) = word.split_once(':')?;
        let number = digits(number).filter(|_| !number.is_empty())?;
        match kind {
            "pass" | "xfail" => sums.all = sums.all.checked_add(number)?,
            "fail" | "xpass" | "error" => {
                sums.all = sums.all.checked_add(number)?;
                sums.bad = sums.bad.checked_add(number)?;
            }
            "skip" => {
                sums.all = sums.all.checked_add(number)?;
                sums.skipped = number;
            }
            "total" => {}
            _ => return None,
        }
        words += 1;
    }
    (words >= 4).then_some((what, sums))
}

/// What is known of a test before its result.
#[derive(Default)]
struct Next {
    name: Option<String>,
    first_line: Option<usize>,
    /// What a module says of its tests in the kernel's log, which the test prints again when the module is done.
    mark: Option<String>,
    notes: Vec<String>,
    suites: Vec<Level>,
}

impl Level {
    fn problem(&mut self, line: usize, what: impl Into<String>) {
        self.problems.push(Problem { line, what: what.into() });
    }

    /// From which line on the test with the next result may have been running.
    fn next_since(&self) -> usize {
        self.cases.last().map_or(self.since, |case| case.line)
    }

    fn begun(&self) -> bool {
        self.plan.is_some() || !self.cases.is_empty() || self.next.begun()
    }

    /// Compares totals with the results that they are about: all, or those since the last totals.
    fn total(&mut self, line: usize, sums: Sums) {
        let counted = self.count;
        if sums != counted && sums != counted.since(self.told) {
            self.problem(line, format!("the totals say {sums}; there are {counted}"));
        }
        self.told = counted;
        self.summed_up = true;
    }
}

impl Next {
    fn begun(&self) -> bool {
        self.name.is_some() || self.mark.is_some() || !self.notes.is_empty() || !self.suites.is_empty()
    }

    /// What of a test was running, as far as its output says.
    fn running(&self) -> Option<String> {
        let inside = self.suites.last().and_then(|suite| {
            let last = |progress: Progress| suite.cases.iter().rfind(|c| c.progress == progress);
            let cut_off = last(Progress::Started).map(|c| c.running.clone().unwrap_or_else(|| c.name.clone()));
            let after = || last(Progress::Ended).map(|c| format!("after {}", c.name));
            cut_off.or_else(|| suite.next.running()).or_else(after)
        });
        let announced = || self.notes.iter().rev().find_map(|note| announced(note));
        inside.or_else(announced).or_else(|| self.mark.clone())
    }
}

/// The test that a diagnostic says is about to run: as scripts, kselftest_harness.h and KUnit do.
fn announced(note: &str) -> Option<String> {
    let name = note
        .strip_prefix("RUN ")
        .or_else(|| note.strip_prefix("running "))
        .or_else(|| note.strip_prefix("Running "))
        .or_else(|| note.strip_prefix("Running: "))
        .or_else(|| note.strip_prefix("Subtest: "))?
        .trim();
    (!name.is_empty()).then(|| name.trim_end_matches(['.', ' ']).to_owned())
}

#[derive(Default)]
struct Parser {
    /// Open levels, outermost first; empty before the first version line.
    levels: Vec<Level>,
    report: Report,
    /// Name for the next level that opens.
    subtest: Option<String>,
    stray: Option<usize>,
    /// The first version line that has something unknown in front of it, and what.
    behind: Option<(usize, String)>,
    /// Failures in the kernel's log: line, module and name. The test that loads the module prints them again.
    told: Vec<(usize, String, String)>,
    /// Where each document begins in the report.
    documents: Vec<usize>,
}

impl Parser {
    fn message(&mut self, line: usize, text: &str, torn: bool) {
        let Some((width, hashes, what)) = split_margin(text) else {
            // What is left of `not ok 2 b` may be `ok 2 b`, on the next line.
            if torn && is_half_a_failure(text) {
                self.torn(line);
            }
            self.note(line, text);
            return;
        };
        if self.levels.is_empty() {
            match what {
                Line::Version if !hashes => self.open(width, line),
                // Programs say `ok` as well.
                Line::Result { ok, number, .. } if !hashes && (number.is_some() || !ok) => {
                    self.stray = self.stray.or(Some(line));
                }
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
                Line::Result { ok, number, rest } => {
                    result(level, line, ok, number, rest);
                    if self.levels.len() == 1 {
                        self.compare_told();
                    }
                }
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

    /// Compares what modules said in the kernel's log with the outermost result that has just come.
    fn compare_told(&mut self) {
        let Some(case) = self.levels.first_mut().and_then(|level| level.cases.last_mut()) else { return };
        for (line, module, name) in std::mem::take(&mut self.told) {
            // A test that makes a module fail says so.
            let meant = format!("{module}: {name} fails, as it must");
            // A test inside that failed makes it worse than a pass.
            if case.status < Status::Xpass && !case.all_notes().contains(&meant.as_str()) {
                let what = unheard(&module, &name);
                case.reason = Some(what.clone());
                case.status = Status::Error;
                case.problems.push(Problem { line, what });
            }
        }
    }

    /// Any other line: a diagnostic if it starts with `#`, otherwise a kernel message.
    fn note(&mut self, line: usize, text: &str) {
        let body = text.trim_start();
        let module = text.split_once(": ").filter(|(module, _)| !module.contains(' '));
        // A quotation, or a module's log within a test, which says more in its own output.
        let known = body.starts_with('#') || (module.is_some() && !self.levels.is_empty());
        let behind = ["KTAP version ", "TAP version "].into_iter().find_map(|version| text.split_once(version));
        if let Some((before, _)) = behind.filter(|(_, number)| !known && digits(number).is_some()) {
            self.behind.get_or_insert_with(|| (line, before.trim().to_owned()));
        }
        let Some(level) = self.levels.last_mut() else { return };
        if body.starts_with('#') {
            let note = body.trim_start_matches(['#', ' ']).trim_end().to_owned();
            if let Some((what, sums)) = totals(&note) {
                let column = text.rfind(&note).and_then(|at| text[..at].rfind('#')).unwrap_or(0);
                let what = what.to_owned();
                self.totals(line, column, &what, sums);
            }
            let Some(level) = self.levels.last_mut() else { return };
            if note.starts_with("Planned tests != run tests") {
                level.problem(line, note.clone());
            }
            level.next.notes.push(note);
            level.next.first_line.get_or_insert(line);
        } else if let Some((module, rest)) = module
            && let Some(Line::Result { ok, number, rest: name }) = Line::parse(rest)
        {
            let (name, directive) = split_directive(name);
            level.next.mark = Some(format!("{module}, after {name}"));
            if number.is_some() && judge(ok, directive).0 >= Status::Xpass {
                self.told.push((line, module.to_owned(), name.to_owned()));
            }
        }
    }

    /// Compares totals that stand in `column` with the results.
    fn totals(&mut self, line: usize, column: usize, what: &str, sums: Sums) {
        let Some(last) = self.levels.len().checked_sub(1) else { return };
        let level = &mut self.levels[last];
        if level.width == column && (what == "Totals" || what.is_empty()) {
            return level.total(line, sums);
        }
        // KUnit sums up a suite in the column of the suite's result.
        if level.width > column && last > 0 {
            let inside = level.count;
            let fits = match what {
                // The innermost tests, which are more than the suite's own if they have parameters.
                "Totals" => (sums.bad > 0) == (inside.bad > 0),
                _ => sums == inside,
            };
            if !fits {
                level.problem(line, format!("the totals of {what} say {sums}; there are {inside}"));
            }
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
        let since = self.levels.last_mut().map_or(line, |parent| *parent.next.first_line.get_or_insert(line));
        let name = self.subtest.take();
        self.levels.push(Level { width, name, opened: line, since, ..Level::default() });
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
                        since: level.since,
                        line,
                        notes: level.next.notes,
                        cases: Vec::new(),
                        running: None,
                        problems: Vec::new(),
                    });
                }
                if level.problems.is_empty() && self.printed_before(&level.cases) {
                    return;
                }
                self.documents.push(self.report.cases.len());
                self.report.cases.append(&mut level.cases);
                self.report.problems.append(&mut level.problems);
            }
        }
    }

    /// Whether a document with the same results came before: somebody printed them again.
    fn printed_before(&self, cases: &[Case]) -> bool {
        let ends = self.documents.iter().copied().skip(1).chain([self.report.cases.len()]);
        let mut documents = self.documents.iter().zip(ends).map(|(&from, to)| &self.report.cases[from..to]);
        let same = |other: &[Case]| other.len() == cases.len() && other.iter().zip(cases).all(|(a, b)| a.same(b));
        !cases.is_empty() && documents.any(same)
    }

    fn close_all(&mut self, line: usize) {
        while !self.levels.is_empty() {
            self.close(line);
        }
        self.subtest = None;
    }

    fn finish(mut self, line: usize) -> Report {
        let started = !self.levels.is_empty();
        // Of a test that was cut off nothing more can be expected.
        let cut_off =
            self.levels.iter().any(|level| level.plan.is_some_and(|(n, _)| n > 0 && !level.seen.contains_key(&n)));
        self.close_all(line);
        if let Some((line, module, name)) = self.told.first().filter(|_| !cut_off) {
            self.report.problems.push(Problem { line: *line, what: unheard(module, name) });
        }
        // However much else could be read.
        let lost = match (self.stray, self.behind) {
            (_, Some((line, before))) => Some((line, format!("results behind `{before}`: prefix not understood"))),
            (Some(line), _) => {
                Some((line, "results without a line `TAP version 13` or `KTAP version 1` before them".to_owned()))
            }
            _ if started => None,
            _ => Some((line, "no test results: no line `TAP version 13` or `KTAP version 1`".to_owned())),
        };
        if let Some((line, what)) = lost {
            self.report.problems.insert(0, Problem { line, what });
        }
        self.report
    }
}

/// A module's failure that no test knows of.
fn unheard(module: &str, name: &str) -> String {
    format!("{module} says that {name} failed, and the results do not")
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
    let expected = level.seen.keys().next_back().map_or(1, |n| n.saturating_add(1));
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
    level.count.add(status);
    level.summed_up = false;
    let next = std::mem::take(&mut level.next);
    let running = next.running().filter(|_| reason.as_deref() == Some(TIMEOUT));
    if let Some(running) = &running {
        reason = Some(format!("{TIMEOUT} in {running}").replace("in after", "after"));
    }
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
    // A summary must not be better than what it sums up. What must fail may have failures inside.
    if status < Status::Xpass {
        let bad = if status == Status::Xfail { Status::Miss } else { Status::Xpass };
        let worst = cases.iter().find(|c| c.status >= bad);
        let culprit = worst.and_then(Case::culprit);
        if let Some(problem) = problems.first() {
            (status, reason) = (Status::Error, Some(problem.to_string()));
        } else if let Some(bad) = worst {
            let name = culprit.unwrap_or_else(|| bad.name.clone());
            let what = format!("says {status}, but {name} says {}", bad.status);
            problems.push(Problem { line, what: what.clone() });
            (status, reason) = (Status::Error, Some(what));
        }
    }
    let since = level.next_since();
    level.cases.push(Case {
        number,
        name,
        status,
        reason,
        progress: Progress::Ended,
        first_line,
        since,
        line,
        notes,
        cases,
        running,
        problems,
    });
}

/// The reason of a test that its runner ended.
pub const TIMEOUT: &str = "timeout";

/// Checks a level against its plan, at its end in `line`.
fn settle(level: &mut Level, line: usize) {
    let missing = match level.plan {
        None => {
            // A program that prints totals has come to its end.
            if !level.bailed && !level.summed_up {
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
                level
                    .problem(at, "a plan for no tests, without a reason: was the suite renamed, or is its list empty?");
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
        let running = next.running().filter(|_| next.begun());
        let (progress, status, reason) = match next.begun() {
            true => (Progress::Started, Status::Error, "started, has no result"),
            false => (Progress::NotReached, Status::Miss, "planned, never started"),
        };
        let name = next.name.or_else(|| next.suites.iter().find_map(|s| s.name.clone()));
        let mut case = Case {
            number,
            name: name.unwrap_or_else(|| format!("test {number}")),
            status,
            reason: Some(reason.to_owned()),
            progress,
            first_line: next.first_line.unwrap_or(line),
            since: level.next_since(),
            line,
            notes: next.notes,
            cases: Vec::new(),
            running,
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

/// Whether a text begins with a digit.
fn is_number(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_digit())
}

/// Name and directive, such as `SKIP no such device`.
fn split_directive(rest: &str) -> (&str, Option<&str>) {
    let rest = rest.strip_prefix("- ").unwrap_or(rest).trim();
    if let Some(directive) = rest.strip_prefix('#').filter(|text| !is_number(text)) {
        return ("", Some(directive.trim()));
    }
    // `\#` is part of a name, and so is `#2`.
    match rest.match_indices(" #").map(|(at, _)| rest.split_at(at)).find(|(_, hash)| !is_number(&hash[2..])) {
        Some((name, hash)) => (name.trim_end(), Some(hash[2..].trim())),
        None => (rest, None),
    }
}

/// The word of a directive in capitals, and what follows it. In `skip-list corrupted` there is none.
fn directive(text: &str) -> Option<(String, &str)> {
    let (word, reason) = text.split_at(text.find(|c: char| c == ':' || c.is_whitespace()).unwrap_or(text.len()));
    let reason = reason.trim_start_matches(|c: char| c == ':' || c.is_whitespace()).trim_end();
    word.bytes().all(|b| b.is_ascii_alphabetic()).then(|| (word.to_ascii_uppercase(), reason))
}

/// What a result means, and the reason that its directive gives.
fn judge(ok: bool, directive: Option<&str>) -> (Status, Option<String>) {
    let plain = if ok { Status::Pass } else { Status::Fail };
    let Some(directive) = directive.filter(|d| !d.is_empty()) else { return (plain, None) };
    let Some((word, reason)) = self::directive(directive) else { return (plain, Some(directive.to_owned())) };
    let reason = |default: &str| Some(if reason.is_empty() { default.to_owned() } else { reason.to_owned() });
    match word.as_str() {
        "SKIP" => (Status::Skip, reason("no reason given")),
        // Of a failure it may be a part of the reason: `skipped 3 of 5`.
        "SKIPPED" if ok => (Status::Skip, reason("no reason given")),
        // kselftest.h says `ok N # XFAIL`, KTAP says `not ok N # XFAIL`: both mean the same.
        "XFAIL" => (Status::Xfail, reason("expected")),
        "XPASS" => (Status::Xpass, reason("unexpected")),
        "TODO" => (if ok { Status::Xpass } else { Status::Xfail }, reason("to do")),
        "TIMEOUT" => (Status::Fail, Some(TIMEOUT.to_owned())),
        "ERROR" => (Status::Error, reason("error")),
        _ => (plain, Some(directive.to_owned())),
    }
}
