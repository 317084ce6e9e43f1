// SPDX-License-Identifier: GPL-2.0-only
//! `lazymap judge`: the verdict on a console from elsewhere: a board, LAVA, a bug report.
//!
//! It reads the console like that of a boot of its own, with the same tables, and judges the tests in it by the same
//! rules. Nobody knows how that machine ended, so what is not on the console counts as not seen.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use lazymap_console::end::{self, End, Ending, Found, Reading};
use lazymap_console::ktap::{self, Report, Status};
use lazymap_console::log::Log;
use regex_lite::Regex;

use crate::boot::machine::{self, Counters, Machine, Run};
use crate::boot::models;
use crate::ground::error::{Error, Exit, Result};
use crate::ground::files;
use crate::hunt;
use crate::hunt::image;
use crate::hunt::report::Subject;
use crate::hunt::symbols::Symbols;
use crate::hunt::trace;
use crate::hunt::verdict::Outcome;
use crate::options::Options;
use crate::trial::expect::{Expect, Observation, Sign};
use crate::trial::judge::{self, described};
use crate::trial::met;
use crate::trial::plan::Trial;
use crate::trial::report::Row;
use crate::trial::seen::{self, BootSeen, Booted};
use crate::trial::tally::Tally;
use crate::trial::verdict::Verdict;

/// The result for the console as a whole.
const CONSOLE: &str = "console";

/// Most reports and failed tests that are listed one by one.
const LISTED: usize = 20;

/// Exit codes as `--help` shows them.
pub const EXIT_CODES: &str = "Exit codes: 0 as expected; 1 not; 2 the console does not tell, or has a report of an \
unknown kind; 4 all tests were skipped; 64 wrong usage";

/// What follows the verb.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// The console's log; `-` reads standard input
    #[arg(long, value_name = "FILE")]
    console: PathBuf,
    /// QEMU's trace of stale hits, from the same run
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// QEMU's standard error, from the same run, with what it counted
    #[arg(long, value_name = "FILE")]
    counters: Option<PathBuf>,
    /// The kernel's vmlinux, for names of functions in the trace
    #[arg(long, value_name = "ELF", requires = "trace")]
    vmlinux: Option<PathBuf>,
    /// Where what the trace tells goes as JSON, as that of a hunt
    #[arg(long, value_name = "FILE", requires = "trace")]
    json: Option<PathBuf>,
    /// Where it goes as an HTML page
    #[arg(long, value_name = "FILE", requires = "trace")]
    html: Option<PathBuf>,
    /// What the console must show
    #[arg(long, value_name = "WHAT", value_enum, default_value_t = Wanted::Pass)]
    expect: Wanted,
    /// A test that must be there; may be given several times [default: all that the console names]
    #[arg(long, value_name = "NAME")]
    test: Vec<String>,
    /// For oops, panic and boot-death: the function in which it must happen
    #[arg(long, value_name = "FUNCTION")]
    symbol: Option<String>,
    /// For oops, panic, boot-death, warning and test-failure: a regular expression that the report, the message or the
    /// test's output must match
    #[arg(long, value_name = "REGEX")]
    text: Option<String>,
}

/// What is expected of a console.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Wanted {
    /// All tests pass or are skipped, and the kernel reports nothing
    Pass,
    /// All tests pass after they touched new mappings, and stale translations were used (needs --counters or --trace)
    Survive,
    /// The kernel starts init and reports nothing; there need not be tests
    Boot,
    /// The kernel runs out of stack while a test runs
    StackOverflow,
    /// The kernel reports a fault or a bug while a test runs
    Oops,
    /// The kernel panics while a test runs
    Panic,
    /// The kernel dies before any test
    BootDeath,
    /// The kernel prints a message while a test runs
    Warning,
    /// A test reports that it failed
    TestFailure,
}

impl Wanted {
    /// The sign of a broken kernel that it stands for.
    fn sign(self) -> Option<Sign> {
        match self {
            Self::Pass | Self::Survive | Self::Boot => None,
            Self::StackOverflow => Some(Sign::StackOverflow),
            Self::Oops => Some(Sign::Oops),
            Self::Panic => Some(Sign::Panic),
            Self::BootDeath => Some(Sign::BootDeath),
            Self::Warning => Some(Sign::Warning),
            Self::TestFailure => Some(Sign::TestFailure),
        }
    }

    /// Whether the kernel has to show a sign and go on.
    fn lives_on(self) -> bool {
        matches!(self, Self::Warning | Self::TestFailure)
    }

    /// Whether the kernel has to die.
    fn is_death(self) -> bool {
        matches!(self, Self::StackOverflow | Self::Oops | Self::Panic | Self::BootDeath)
    }
}

/// Judges a console, prints the results as KTAP, and counts them.
///
/// # Errors
/// When a file cannot be read, the trace makes no sense (exit code 2), or the command line does not (64).
pub fn run(options: &Options, args: &Args) -> Result<Exit> {
    let text = args.text.as_deref().map(|t| Regex::new(t).map_err(|e| Error::usage(format!("--text {t}: {e}"))));
    let text = text.transpose()?;
    let needed = match args.expect {
        Wanted::Survive if args.counters.is_none() && args.trace.is_none() => {
            Some("survive needs --counters or --trace")
        }
        Wanted::Panic | Wanted::Warning if text.is_none() => Some("panic and warning need --text"),
        Wanted::Oops if text.is_none() && args.symbol.is_none() => Some("oops needs --symbol or --text"),
        wanted if wanted.sign().is_some() && args.test.len() > 1 => Some("a sign is that of one test"),
        _ => None,
    };
    if let Some(why) = needed {
        return Err(Error::usage(format!("--expect: {why}; `lazymap judge --help` lists the options")));
    }
    let raw = read(&args.console)?;
    let log = Log::of(&raw);
    if raw.trim().is_empty() {
        return Err(Error::could_not(format!("{}: empty; give a console's log", args.console.display())));
    }
    let reading = end::read(&log, &Ending::Unknown, "");
    let counters = match &args.counters {
        Some(path) => {
            let property = &options.base.qemu.property;
            let wrong = |why: String| Error::could_not(format!("{}: {why}", path.display()));
            let found = machine::parse_counters(&read(path)?, property).map_err(wrong)?;
            Some(found.ok_or_else(|| wrong(format!("no line `{property}: total`; give QEMU's standard error")))?)
        }
        None => None,
    };
    let hunted = match &args.trace {
        Some(path) => {
            if let Some(vmlinux) = &args.vmlinux {
                image::check_console(&hunt::version(&log), vmlinux)?;
            }
            let symbols = args.vmlinux.as_deref().map(Symbols::load).transpose()?.unwrap_or_default();
            let name = files::name(&args.console);
            let trace = read(path)?;
            if !trace.trim().is_empty() && !trace.lines().any(trace::is_event) {
                let why = "no line begins with an event of QEMU's trace; give what `-trace` wrote";
                return Err(Error::could_not(format!("{}: {why}", path.display())));
            }
            // The run has left neither its date nor the version of its QEMU.
            let made = hunt::made(options, options.asked.started, "not known");
            let subject = Subject { kernel: name.into_owned(), ..made };
            Some(hunt::of_files(subject, &log, &reading, counters, &trace, &symbols)?)
        }
        None => None,
    };
    let traced = hunted.as_ref().map(|report| report.counts.faults);
    let counters = match (counters, traced) {
        (None, Some(0)) if args.expect == Wanted::Survive => Err(hunt::NO_HIT.to_owned()),
        (None, Some(stale_hits @ 1..)) => Ok(Some(Counters { harts: 0, stale_hits, fences: 0, gone_tables: 0 })),
        (counted, _) => Ok(counted),
    };

    let mut tally = Tally::default();
    let mut reading = reading;
    if let Some(report) = &hunted {
        args.json.as_deref().map_or(Ok(()), |to| hunt::write_json(report, to))?;
        args.html.as_deref().map_or(Ok(()), |to| hunt::write_html(report, to))?;
        tally.quote(&report.text());
        let (outcome, death) = (&report.result, args.expect.is_death());
        match outcome {
            Outcome::Survived if !death => tally.ok("trace"),
            Outcome::Killed { .. } if death => tally.ok("trace"),
            Outcome::Incomplete { why } | Outcome::Uncertain { why } => tally.error("trace", why),
            found => tally.not_ok("trace", &found.to_string()),
        }
        if *outcome == Outcome::Survived && reading.went_on {
            // The report on the console was about a hit that the kernel survived.
            reading.end = End::Finished;
            reading.headline = None;
        }
    }
    let report = ktap::parse(&log);
    if args.expect.sign().is_none() {
        console(&mut tally, args.expect, &log, &reading, &report);
    }
    if args.expect.lives_on() && is_dead(&reading.end) {
        tally.not_ok(CONSOLE, &described(&reading.end, reading.ready));
    }
    let mut skipped = false;
    if args.expect != Wanted::Boot {
        let trial = trial(args, text, counters != Ok(None), &log, &report)?;
        skipped = tests(&mut tally, args.expect, &trial, log, reading, report, counters);
    }
    let count = tally.finish();
    println!("{count}");
    Ok(if skipped && count.failed == 0 { Exit::Skipped } else { count.exit() })
}

/// A file, or standard input; what is not UTF-8 is replaced.
fn read(path: &Path) -> Result<String> {
    if path.as_os_str() != "-" {
        return files::read_lossy(path);
    }
    let mut bytes = Vec::new();
    io::stdin().lock().read_to_end(&mut bytes).map_err(|e| Error::io("read", path, e))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// What boots in that console: its tests, and what is expected of them.
fn trial(args: &Args, text: Option<Regex>, counted: bool, log: &Log, report: &Report) -> Result<Trial> {
    let machine = Machine::new(models::find(if counted { "stale" } else { "plain" })?);
    let named = || report.cases.iter().map(|case| case.name.clone()).collect();
    let mut names: Vec<String> = match (args.test.is_empty(), asked(log)) {
        (false, _) => args.test.clone(),
        (true, Some(names)) => names,
        (true, None) => named(),
    };
    let Some(sign) = args.expect.sign() else {
        // A failure counts, whoever asked for it.
        let known: Vec<&str> = names.iter().map(String::as_str).collect();
        let others: Vec<String> = seen::others(report, &known).into_iter().map(|case| case.name.clone()).collect();
        names.extend(others);
        let expect = if args.expect == Wanted::Survive { Expect::Survive } else { Expect::Pass };
        let tests = names.into_iter().map(|name| (name, expect.clone())).collect();
        return Ok(Trial::new("console", machine, tests));
    };
    let observation = Observation { signs: vec![sign], symbol: args.symbol.clone(), text, fails: Vec::new() };
    // The test that ran when it happened: the first without a result, or the last.
    let ended = |name: &String| report.find(name).ok().flatten().is_some_and(|c| c.progress == ktap::Progress::Ended);
    let failed = |name: &&String| report.find(name).ok().flatten().is_some_and(|c| c.status == Status::Fail);
    let running = match sign {
        Sign::TestFailure => names.iter().find(failed).or(names.first()),
        _ => names.iter().find(|name| !ended(name)).or(names.last()),
    };
    // The others need a test that runs.
    let at_boot = [Sign::BootDeath, Sign::Oops, Sign::Panic, Sign::Warning].contains(&sign);
    if running.is_none() && !at_boot {
        return Err(Error::could_not(format!("{}: the console names no test", args.console.display())));
    }
    Ok(match running.filter(|_| sign != Sign::BootDeath) {
        Some(test) => Trial::new("console", machine, vec![(test.clone(), Expect::Caught(observation))]),
        None => Trial { at_boot: Some(observation), ..Trial::new("console", machine, Vec::new()) },
    })
}

/// The tests that our own guest was asked to run, in order.
fn asked(log: &Log) -> Option<Vec<String>> {
    let line = log.lines.iter().find(|line| line.text.starts_with("Kernel command line: "))?;
    let names = line.text.split_whitespace().rev().find_map(|word| word.strip_prefix("lazymap.tests="))?;
    let names: Vec<String> = names.split(',').filter(|n| !n.is_empty()).map(str::to_owned).collect();
    (!names.is_empty() && names != ["all"]).then_some(names)
}

/// Judges the console as a whole.
fn console(tally: &mut Tally, wanted: Wanted, log: &Log, reading: &Reading, report: &Report) {
    let place = |found: &Found| {
        let test = report.running_at(found.line).map(|test| format!(" (in {test})")).unwrap_or_default();
        format!("{found}{test}")
    };
    reading.forbidden.iter().take(LISTED).for_each(|found| tally.note(&place(found)));
    reading
        .unknown
        .iter()
        .take(LISTED)
        .for_each(|found| tally.note(&format!("unknown kind of report, {}", place(found))));
    let tests = wanted != Wanted::Boot;
    if tests {
        report.all_problems().into_iter().take(LISTED).for_each(|problem| tally.note(&format!("results, {problem}")));
    }
    if let Some(hint) = reading.hint {
        tally.note(&format!("hint: {hint}"));
    }
    let failed = report.cases.iter().find(|case| case.status == Status::Fail).map(|case| case.name.as_str());
    let ended = described(&reading.end, reading.ready);
    let whole = match &reading.end {
        End::Finished => true,
        // Without tests there are no marks, either.
        End::Incomplete { .. } => !tests,
        _ => false,
    };
    match &reading.end {
        end if is_dead(end) => tally.not_ok(CONSOLE, &ended),
        _ if !reading.forbidden.is_empty() => {
            tally.not_ok(CONSOLE, &format!("the kernel reports: {}", place(&reading.forbidden[0])));
        }
        End::Incomplete { .. } if tests && !reading.ready => {
            tally.error(CONSOLE, &format!("{ended}; --expect boot judges a console without tests"));
        }
        _ if !whole => tally.error(CONSOLE, &ended),
        _ if !reading.unknown.is_empty() => {
            tally.error(CONSOLE, &format!("unknown kind of report: {}", place(&reading.unknown[0])));
        }
        // Nobody asked for its results, but a suite that fails while the kernel boots is not nothing.
        _ if !tests && failed.is_some() => {
            tally.not_ok(CONSOLE, &format!("{} failed", failed.unwrap_or_default()));
        }
        _ if !tests && !reached_init(log) => tally.error(CONSOLE, "nothing shows that the kernel started init"),
        _ if tests && !report.problems.is_empty() => {
            tally.error(CONSOLE, &format!("the results cannot be trusted: {}", report.problems[0]));
        }
        _ => tally.ok(CONSOLE),
    }
}

/// Whether the kernel died.
fn is_dead(end: &End) -> bool {
    matches!(end, End::StackOverflow { .. } | End::Panic { .. } | End::Oops { .. })
}

/// Whether the kernel started init, or a program asks for a name.
fn reached_init(log: &Log) -> bool {
    // What comes before it is another kernel's.
    log.lines.iter().skip_while(|line| !line.text.starts_with("Linux version ")).any(|line| {
        let text = line.text.trim_end();
        (text.starts_with("Run ") && text.ends_with(" as init process")) || text.ends_with(" login:")
    })
}

/// Judges the tests, and says whether all of them were skipped.
fn tests(
    tally: &mut Tally,
    wanted: Wanted,
    trial: &Trial,
    log: Log,
    reading: Reading,
    report: Report,
    counters: Result<Option<Counters>, String>,
) -> bool {
    let run = Run { log, reading, ending: Ending::Unknown, counters, harts: Ok(Vec::new()), slowed: 1.0 };
    let booted = Booted { run, report, console: PathBuf::new(), append: String::new() };
    let mut seen = BootSeen::of(&booted, trial);
    if seen.counters == Ok(None) {
        // That machine may remember invalid translations all the same: nobody knows what it would have counted.
        seen.tests.iter_mut().for_each(|test| test.notes.retain(|note| !met::is_count(note)));
    }
    // On other machines tests may be skipped or known to fail.
    let mut skipped: Vec<Option<String>> = vec![None; trial.rows().len()];
    if wanted == Wanted::Pass {
        for (test, skipped) in seen.tests.iter_mut().zip(&mut skipped) {
            match &test.result {
                Some((Status::Skip, reason)) => *skipped = Some(reason.clone().unwrap_or_default()),
                Some((Status::Xfail, _)) => {}
                _ => continue,
            }
            test.result = Some((Status::Pass, None));
        }
    }
    let all_skipped = !skipped.is_empty() && skipped.iter().all(Option::is_some);
    for (row, skipped) in judge::judge(trial, &seen).iter().zip(skipped) {
        row.why.iter().for_each(|why| tally.note(why));
        inside(&booted.report, row).iter().for_each(|line| tally.note(line));
        let expected = if wanted.sign().is_some() { format!(", expected {}", row.expected) } else { String::new() };
        let observed = match row.why.first() {
            // It looks right, and why it is not says more.
            Some(why) if row.observed == "pass" && expected.is_empty() => why.clone(),
            _ => format!("{}{expected}", row.observed),
        };
        match (row.verdict, skipped) {
            (Verdict::Pass, Some(reason)) => tally.skip(&row.test, &reason),
            (Verdict::Pass, None) => tally.ok(&row.test),
            (Verdict::Skip, _) => tally.skip(&row.test, &observed),
            (Verdict::Miss, _) => tally.miss(&row.test, &observed),
            (Verdict::Error, _) => tally.error(&row.test, &observed),
            (Verdict::Fail, _) => tally.not_ok(&row.test, &observed),
        }
    }
    all_skipped
}

/// The tests inside of a row that did not pass.
fn inside(report: &Report, row: &Row) -> Vec<String> {
    let Ok(Some(case)) = report.find(&row.test) else { return Vec::new() };
    let all = ktap::innermost(&case.cases);
    let bad = all.iter().filter(|(_, case)| case.status >= Status::Xpass);
    bad.take(LISTED)
        .map(|(name, case)| {
            let reason = case.reason.as_ref().map(|r| format!(": {r}")).unwrap_or_default();
            format!("{} {name}{reason}", case.status)
        })
        .collect()
}
