// SPDX-License-Identifier: GPL-2.0-only
//! What was seen of a boot: the console and the results, sorted by test.

use std::path::PathBuf;

use lazymap_console::end::{self, End, Ending, Found};
use lazymap_console::ktap::{self, Progress, Report, Status};
use lazymap_console::log::Line;
use regex_lite::Regex;

use super::plan::Trial;
use crate::boot::machine::{Counters, Run};
use crate::ground::error::Error;

/// A boot that has ended, in whatever way.
#[derive(Debug)]
pub struct Booted {
    /// QEMU's side.
    pub run: Run,
    /// The results on its console.
    pub report: Report,
    /// Where the console is kept.
    pub console: PathBuf,
    /// The kernel's command line.
    pub append: String,
}

/// What was seen of a test.
#[derive(Clone, Debug, Default)]
pub struct TestSeen<'a> {
    /// Its own result, and the reason that it gave.
    pub result: Option<(Status, Option<String>)>,
    /// Touches of new mappings and other checks that it counted.
    pub work: Option<u64>,
    /// Reports of the kernel while it ran.
    pub forbidden: Vec<Found>,
    /// What looked like a report of an unknown kind while it ran.
    pub unknown: Vec<Found>,
    /// What ran inside of a test that was cut off, as far as its output says.
    pub running: Option<String>,
    /// The console while it ran; for the first test, from the guest being ready.
    pub messages: &'a [Line],
    /// Its own diagnostics.
    pub notes: Vec<String>,
    /// The innermost cases that have a result.
    pub cases: Vec<(String, Status)>,
    /// Those of them that failed, a sentence each: name, line of the console, and what they say about it.
    pub failed: Vec<String>,
    /// How long it took.
    pub seconds: f64,
}

/// What was seen of a boot.
#[derive(Clone, Debug)]
pub struct BootSeen<'a> {
    /// How it ended, or why it never began.
    pub end: Result<End, String>,
    /// Whether the guest got as far as running tests.
    pub ready: bool,
    /// The tests in order.
    pub tests: Vec<TestSeen<'a>>,
    /// The machine's counters.
    pub counters: Result<Option<Counters>, String>,
    /// The message that ended the boot.
    pub headline: Option<String>,
    /// What may help to find out why the boot ended.
    pub hint: Option<&'static str>,
    /// The console from that message on.
    pub report: &'a [Line],
    /// The console until the guest was ready.
    pub boot: &'a [Line],
    /// Whether the kernel's messages have time stamps.
    pub stamped: bool,
    /// Patterns of [`Trial::require`] that the console lacks.
    pub lacking: Vec<String>,
    /// What is wrong with the results as a whole.
    pub problem: Option<String>,
    /// Outermost tests that are none of the trial's, and did not pass.
    pub others: Vec<(String, Status)>,
}

impl<'a> BootSeen<'a> {
    /// Collects what matters for judging `trial`.
    pub fn of(booted: &'a Booted, trial: &Trial) -> Self {
        let (run, report) = (&booted.run, &booted.report);
        let lines = run.log.lines.as_slice();
        let results = || {
            let version = |m: &Line| m.text.starts_with("TAP version ") || m.text.starts_with("KTAP version ");
            lines.iter().position(version).filter(|_| run.ending == Ending::Unknown)
        };
        let ready = lines.iter().position(|m| m.text == end::READY).or_else(results).unwrap_or(lines.len());
        // Where the messages after line `number` of the console begin.
        let after = |number: usize| lines.partition_point(|m| m.number <= number);
        let share = |from: usize, to: usize| {
            let end = after(to).max(ready);
            // Tests may be asked for in another order than they ran in.
            &lines[after(from).max(ready).min(end)..end]
        };
        let mut from = 0;
        let mut seen = Vec::new();
        let mut ambiguous = None;
        for (at, (test, _)) in trial.tests.iter().enumerate() {
            let last = at + 1 == trial.tests.len();
            let case = report.find(test).unwrap_or_else(|why| {
                ambiguous.get_or_insert(why);
                None
            });
            let ended = case.filter(|c| c.progress == Progress::Ended);
            // A test's share of the console ends with its result; the first one's begins with the
            // log, the last one's ends with it.
            let to = ended.filter(|_| !last).map_or(usize::MAX, |c| c.line);
            let own = |found: &[Found]| found.iter().filter(|f| f.line > from && f.line <= to).cloned().collect();
            let seconds = case.map_or(0.0, |c| {
                let end = if c.progress == Progress::Ended { run.log.at(c.line) } else { run.log.seconds };
                (end - run.log.at(c.first_line)).max(0.0)
            });
            seen.push(TestSeen {
                result: ended.map(|c| (c.status, c.reason.clone())),
                work: case.and_then(work),
                forbidden: own(&run.reading.forbidden),
                unknown: own(&run.reading.unknown),
                running: case.and_then(|c| c.running.clone()),
                messages: share(from, to),
                notes: case.map(|c| c.all_notes().into_iter().map(str::to_owned).collect()).unwrap_or_default(),
                cases: case.map(ended_inside).unwrap_or_default(),
                failed: case.map(failed_inside).unwrap_or_default(),
                seconds,
            });
            from = to;
        }
        let headline = run.reading.headline.as_ref();
        let report_from = headline.map_or(lines.len(), |h| after(h.line - 1));
        let lacking = |pattern: &&Regex| !lines.iter().any(|m| pattern.is_match(&m.text));
        Self {
            end: Ok(run.reading.end.clone()),
            ready: run.reading.ready,
            tests: seen,
            counters: run.counters.clone(),
            headline: headline.map(|h| h.text.clone()),
            hint: run.reading.hint,
            report: &lines[report_from..],
            boot: &lines[..ready],
            stamped: run.log.is_stamped(),
            lacking: trial.require.iter().filter(lacking).map(ToString::to_string).collect(),
            problem: ambiguous.or_else(|| report.problems.first().map(ToString::to_string)),
            others: others(report, &trial.tests.iter().map(|(test, _)| test.as_str()).collect::<Vec<_>>())
                .into_iter()
                .map(|case| (case.name.clone(), case.status))
                .collect(),
        }
    }

    /// A boot that never began.
    pub fn of_error(error: &Error, trial: &Trial) -> Self {
        Self {
            end: Err(error.message.clone()),
            ready: false,
            tests: vec![TestSeen::default(); trial.tests.len()],
            counters: Ok(None),
            headline: None,
            hint: None,
            report: &[],
            boot: &[],
            stamped: false,
            lacking: Vec::new(),
            problem: None,
            others: Vec::new(),
        }
    }
}

/// The outermost tests that did not pass, and that none of `names` means.
pub fn others<'a>(report: &'a Report, names: &[&str]) -> Vec<&'a ktap::Case> {
    let meant = |name: &&str, case: &ktap::Case| match report.find(name) {
        Ok(found) => found.is_some_and(|found| std::ptr::eq(found, case)),
        Err(_) => case.name == **name || case.name.rsplit(": ").next() == Some(*name),
    };
    // What was asked for and has no result may not have told its name.
    let mut nameless = names.iter().filter(|name| report.find(name) == Ok(None)).count();
    let bad = report.cases.iter().filter(|case| case.status >= Status::Xpass);
    let mut others: Vec<_> = bad.filter(|case| !names.iter().any(|name| meant(name, case))).collect();
    others.retain(|case| {
        let one_of_them = case.progress != Progress::Ended && nameless > 0;
        nameless -= usize::from(one_of_them);
        !one_of_them
    });
    others
}

/// The innermost cases of a test that have a result.
fn ended_inside(of: &ktap::Case) -> Vec<(String, Status)> {
    let inside = ktap::innermost(&of.cases).into_iter();
    inside.filter(|(_, case)| case.progress == Progress::Ended).map(|(name, case)| (name, case.status)).collect()
}

/// The innermost cases of a test that failed, and the last of what each says.
fn failed_inside(of: &ktap::Case) -> Vec<String> {
    const NOTES: usize = 3;
    let inside = ktap::innermost(&of.cases).into_iter();
    let told = inside.filter(|(_, case)| case.has_failed()).map(|(name, case)| {
        let said = case.notes.iter().skip(case.notes.len().saturating_sub(NOTES)).map(String::as_str);
        let said: Vec<&str> = said.chain(case.reason.as_deref()).collect();
        let said = if said.is_empty() { String::new() } else { format!(": {}", said.join("; ")) };
        format!("line {} of the console: {name}: {}{said}", case.line, case.status)
    });
    told.collect()
}

/// The sum of all `touches: N` and `checks: N` in the diagnostics of a test.
fn work(case: &ktap::Case) -> Option<u64> {
    let number = |note: &str, what: &str| {
        let (before, number) = note.rsplit_once(what)?;
        if before.is_empty() || before.ends_with(' ') { number.trim().parse::<u64>().ok() } else { None }
    };
    let notes = case.all_notes();
    let numbers = notes.iter().filter_map(|note| number(note, "touches: ").or_else(|| number(note, "checks: ")));
    numbers.reduce(u64::saturating_add)
}
