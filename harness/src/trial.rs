// SPDX-License-Identifier: GPL-2.0-only
//! A trial: a kernel boots on a machine, runs tests there, and is held against what has to come of it.
//!
//! What is expected is part of the trial. Whatever else is observed has failed, and what could not
//! be observed is an error; nothing passes because nothing was seen.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

use anstyle::{AnsiColor, Style};
use regex_lite::Regex;
use serde::Serialize;

use crate::base::BaseUsed;
use crate::console::{self, Found, printk};
use crate::control::{self, Observation};
use crate::error::{Error, Exit, Result};
use crate::initramfs;
use crate::kernel::Kernel;
use crate::ktap::{self, Progress, Report, Status};
use crate::machine::{Boot, Counters, Limits, Machine, Run};
use crate::progress::Step;
use crate::workbench::Workbench;

/// What the guest needs to end a test, say so and go on, in seconds.
const GUEST_GRACE: u64 = 15;
/// Longest text in a column of the table, in characters.
const COLUMN: usize = 48;

/// What has to come of a test.
#[derive(Clone, Debug)]
pub enum Expect {
    /// It passes.
    Pass,
    /// It passes after it touched new mappings, on a machine that had stale translations to offer.
    Survive,
    /// The kernel runs out of stack while the test runs.
    StackOverflow,
    /// What a control is there to show.
    Caught(Observation),
}

impl Expect {
    /// As `results.json` has it.
    pub fn name(&self) -> String {
        match self {
            Self::Pass | Self::Survive => "pass".to_owned(),
            Self::StackOverflow => "stack overflow".to_owned(),
            Self::Caught(observation) => observation.to_string(),
        }
    }
}

/// A boot, and what has to come of the tests that it runs.
#[derive(Clone, Debug)]
pub struct Trial {
    /// What its files are called, without an ending.
    pub name: String,
    /// The scenario that it belongs to, if there are several.
    pub scenario: Option<String>,
    /// What the kernel is called in results.
    pub kernel: String,
    /// The machine that it boots on.
    pub machine: Machine,
    /// More for the kernel's command line; may be empty.
    pub append: String,
    /// The tests in the order in which they run, and what has to come of them. The test that ends a
    /// kernel comes last. None at all: what is expected has to come before any test.
    pub tests: Vec<(String, Expect)>,
    /// What has to come before any test, for a trial without tests.
    pub at_boot: Option<Observation>,
    /// A plugin of QEMU's with its arguments, as `-plugin` takes it.
    pub plugin: Option<String>,
    /// What the console must have, or the trial was not what it is called.
    pub require: Vec<Regex>,
    /// How long it may take.
    pub limits: Limits,
}

impl Trial {
    /// A trial of `kernel` on `machine` with the limits of such a boot, no scenario, and files called
    /// `KERNEL-MACHINE`.
    pub fn new(kernel: &str, machine: Machine, tests: Vec<(String, Expect)>) -> Self {
        let limits = Limits::for_boot(tests.len(), &machine);
        Self {
            name: format!("{kernel}-{machine}"),
            scenario: None,
            kernel: kernel.to_owned(),
            machine,
            append: String::new(),
            tests,
            at_boot: None,
            plugin: None,
            require: Vec::new(),
            limits,
        }
    }

    /// The rows that it gives: its tests, or the boot as the only one.
    fn rows(&self) -> Vec<(String, Expect)> {
        match &self.at_boot {
            Some(observation) => vec![("(boot)".to_owned(), Expect::Caught(observation.clone()))],
            None => self.tests.clone(),
        }
    }

    /// Where and with what `kernel` boots.
    fn seat<'a>(&'a self, kernel: &'a Kernel, append: &'a str) -> Seat<'a> {
        Seat {
            machine: &self.machine,
            selftests: &kernel.selftests,
            append,
            plugin: self.plugin.as_deref(),
            limits: self.limits,
        }
    }

    /// What the kernel's command line has beyond [`crate::machine::APPEND`].
    pub fn command_line(&self) -> String {
        command_line(&self.append, self.tests.iter().map(|(test, _)| test.as_str()), &self.limits)
    }
}

/// `append`, and what tells the guest which tests to run and how long one may take.
pub fn command_line<'a>(append: &str, tests: impl Iterator<Item = &'a str>, limits: &Limits) -> String {
    // The guest ends a test early enough to say so before the machine is taken for dead.
    let limit = limits.silence.as_secs().saturating_sub(GUEST_GRACE).max(1);
    let tests: Vec<&str> = tests.collect();
    let own = format!("lazymap.timeout={limit} lazymap.tests={}", tests.join(","));
    format!("{append} {own}").trim_start().to_owned()
}

/// What a run of checks came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Did what was expected.
    pub passed: usize,
    /// Did something else, or could not be judged.
    pub failed: usize,
    /// How many of `failed` could not be judged.
    pub errors: usize,
    /// Was not run, for a reason that was given.
    pub skipped: usize,
}

impl Outcome {
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
            Verdict::Error => {
                self.failed += 1;
                self.errors += 1;
            }
            Verdict::Skip => self.skipped += 1,
        }
    }

    /// The process's exit code. No check at all is an error.
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

/// The line that ends a run of checks.
impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { passed, failed, skipped, .. } = self;
        write!(f, "{passed} passed, {failed} failed, {skipped} skipped")
    }
}

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
    /// It was not tried, for a reason that is given.
    Skip,
}

impl Verdict {
    /// As it is printed.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pass => "PASS",
            Self::Fail => "FAIL",
            Self::Error => "ERROR",
            Self::Skip => "SKIP",
        }
    }

    fn style(self) -> Style {
        let color = match self {
            Self::Pass => AnsiColor::Green,
            Self::Fail => AnsiColor::Red,
            Self::Error => AnsiColor::Magenta,
            Self::Skip => AnsiColor::Yellow,
        };
        color.on_default().bold()
    }
}

/// A test of a trial: a line of the table.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Name of the scenario, where there are several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scenario: Option<String>,
    /// Name of the kernel.
    pub kernel: String,
    /// Name of the machine; `-` if nothing was booted.
    pub machine: String,
    /// Number of harts; 0 if nothing was booted.
    pub harts: u32,
    /// The script; `(boot)` if it is about the time before any test.
    pub test: String,
    /// What had to come of it.
    pub expected: String,
    /// What came of it: a word or two, and after a colon what it said itself.
    pub observed: String,
    /// The judgement.
    pub verdict: Verdict,
    /// Spurious faults that the machine caused in the whole boot; none on a machine that causes none.
    pub stale_hits: Option<u64>,
    /// Seconds that the test took.
    pub seconds: f64,
    /// The console's log, relative to `results.json`; empty if nothing was booted.
    pub console: String,
    /// Why the verdict is what it is, if it is not a pass.
    #[serde(skip)]
    pub why: Vec<String>,
}

/// `results.json`.
#[derive(Serialize)]
struct Results<'a> {
    schema: u32,
    runs: &'a [Row],
    base: &'a BaseUsed,
    toolchain: &'a BTreeMap<String, String>,
}

/// A boot that came to an end, whatever end.
#[derive(Debug)]
pub struct Booted {
    /// The machine's side.
    pub run: Run,
    /// The results on its console.
    pub report: Report,
    /// Where the console is kept.
    pub console: PathBuf,
}

/// What came of a trial.
#[derive(Debug)]
pub struct Done {
    /// One for each test.
    pub rows: Vec<Row>,
    /// What a person needs to find out why, if not all rows passed.
    pub report: Option<String>,
    /// The message that ended the boot.
    pub headline: Option<String>,
}

/// Makes a trial of `kernel`. The console goes to `FOLDER/NAME.log`, see [`Trial::name`], with
/// `.qemu.log` and `.cmd` beside it. What goes wrong becomes rows of errors.
pub fn run(bench: &Workbench, trial: &Trial, kernel: Result<&Kernel>, folder: &Path) -> Done {
    let console = folder.join(format!("{}.log", trial.name));
    let booted = kernel.and_then(|k| {
        let append = trial.command_line();
        boot(bench, k, &trial.seat(k, &append), &console)
    });
    let seen = match &booted {
        Ok(booted) => Sight::of(booted, trial),
        Err(error) => Sight::of_error(error, trial),
    };
    let rows = judge(trial, &seen);
    let bad = rows.iter().any(|row| row.verdict != Verdict::Pass);
    let report = bad.then(|| explain(&bench.root, &console, &rows, booted.ok().as_ref()));
    Done { rows, report, headline: seen.headline }
}

/// Where and with what a kernel boots.
#[derive(Clone, Copy, Debug)]
pub struct Seat<'a> {
    /// The machine.
    pub machine: &'a Machine,
    /// What the guest finds in `/lazy_map`.
    pub selftests: &'a Path,
    /// What the kernel's command line has beyond [`crate::machine::APPEND`].
    pub append: &'a str,
    /// A plugin of QEMU's with its arguments, as `-plugin` takes it.
    pub plugin: Option<&'a str>,
    /// How long it may take.
    pub limits: Limits,
}

impl Seat<'_> {
    /// The boot of `image`; the initramfs is `out/guest/NAME.cpio.gz`, named like the console.
    fn boot<'a>(&'a self, bench: &'a Workbench, image: &'a Path, initrd: &'a Path, console: &'a Path) -> Boot<'a> {
        Boot {
            machine: self.machine,
            qemu: &bench.qemu.binary,
            property: &bench.base.qemu.property,
            firmware: &bench.firmware,
            image,
            initrd,
            append: self.append,
            plugin: self.plugin,
            trace: None,
            console,
            limits: self.limits,
        }
    }
}

/// Boots `kernel` with the console in the file `console`.
///
/// # Errors
/// When the guest's file system cannot be made, or QEMU not be started.
pub fn boot(bench: &Workbench, kernel: &Kernel, seat: &Seat<'_>, console: &Path) -> Result<Booted> {
    let initrd = initrd(bench, console);
    initramfs::build(&bench.busybox, seat.selftests, &initrd)?;
    let step = Step::start(format!("boot {} on {}", kernel.name, seat.machine));
    let run = seat.boot(bench, &kernel.image, &initrd, console).run(&mut |line| step.detail(line));
    step.finish(run.as_ref().map_or("not possible", |run| short_verdict(&run.reading.verdict)));
    let run = run?;
    let report = ktap::parse(&run.log);
    Ok(Booted { run, report, console: console.to_path_buf() })
}

/// The command line that [`run`] would start QEMU with, for a shell.
pub fn command(bench: &Workbench, trial: &Trial, kernel: &Kernel, folder: &Path) -> String {
    let console = folder.join(format!("{}.log", trial.name));
    let append = trial.command_line();
    let seat = trial.seat(kernel, &append);
    seat.boot(bench, &kernel.image, &initrd(bench, &console), &console).reproducer()
}

fn initrd(bench: &Workbench, console: &Path) -> PathBuf {
    let name = console.file_stem().unwrap_or_default().to_string_lossy();
    bench.out.join("guest").join(format!("{name}.cpio.gz"))
}

/// Prepares a folder for results, without those of an earlier run: one that is interrupted leaves
/// none rather than those of the run before.
///
/// # Errors
/// When it cannot be made, or the results not be removed.
pub fn start_results(folder: &Path) -> Result<()> {
    let results = folder.join("results.json");
    fs::create_dir_all(folder).map_err(|e| Error::io("create", folder, e))?;
    match fs::remove_file(&results) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", &results, e)),
        _ => Ok(()),
    }
}

/// Writes `FOLDER/results.json` and prints the table and the reports of what was not as expected.
///
/// # Errors
/// When the results cannot be written.
pub fn finish_results(bench: &Workbench, folder: &Path, rows: &[Row], reports: &[String]) -> Result<()> {
    let results = Results { schema: 1, runs: rows, base: &bench.base_used, toolchain: &bench.toolchain };
    write_results(&folder.join("results.json"), &results)?;
    let color = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    println!("\n{}", table(rows, color));
    reports.iter().for_each(|report| println!("{report}"));
    Ok(())
}

/// What was seen of a test.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Its own result and what it said about it.
    pub result: Option<(Status, Option<String>)>,
    /// What it counted: touches of new mappings, and other checks.
    pub work: Option<u64>,
    /// What must not have been on the console while it ran.
    pub forbidden: Vec<Found>,
    /// All of the console while it ran, or from the guest being ready if it is the first.
    pub messages: Vec<Found>,
    /// What it said itself.
    pub notes: Vec<String>,
    /// How long it took.
    pub seconds: f64,
}

/// What was seen of a boot.
#[derive(Clone, Debug)]
pub struct Sight {
    /// How it ended; the message if it never began.
    pub end: std::result::Result<console::Verdict, String>,
    /// Whether the guest got as far as running tests.
    pub ready: bool,
    /// The tests in order.
    pub tests: Vec<Seen>,
    /// What the machine counted.
    pub counters: std::result::Result<Option<Counters>, String>,
    /// The message that ended it.
    pub headline: Option<String>,
    /// The console from that message on.
    pub report: Vec<String>,
    /// The console up to the guest being ready.
    pub boot: Vec<Found>,
    /// What of [`Trial::require`] the console does not have.
    pub lacking: Vec<String>,
    /// What is wrong with the results as a whole.
    pub problem: Option<String>,
}

impl Sight {
    /// Picks out what matters for judging `trial`.
    pub fn of(booted: &Booted, trial: &Trial) -> Self {
        let (run, report) = (&booted.run, &booted.report);
        let messages: Vec<Found> =
            printk::messages(&run.log).map(|(line, piece)| Found { line, text: piece.text.to_owned() }).collect();
        let ready = messages.iter().position(|m| m.text == console::READY).unwrap_or(messages.len());
        let share = |from: usize, to: usize| -> Vec<Found> {
            messages[ready..].iter().filter(|m| m.line > from && m.line <= to).cloned().collect()
        };
        let mut from = 0;
        let mut seen = Vec::new();
        for (at, (test, _)) in trial.tests.iter().enumerate() {
            let last = at + 1 == trial.tests.len();
            let case = report.find(test);
            let ended = case.filter(|c| c.progress == Progress::Ended);
            // A test's share of the console ends with its result; the first one's begins with the
            // log, the last one's ends with it.
            let to = ended.filter(|_| !last).map_or(usize::MAX, |c| c.line);
            let forbidden = run.reading.forbidden.iter().filter(|f| f.line > from && f.line <= to);
            let seconds = case.map_or(0.0, |c| {
                let end = if c.progress == Progress::Ended { run.at(c.line) } else { run.seconds };
                (end - run.at(c.first_line)).max(0.0)
            });
            seen.push(Seen {
                result: ended.map(|c| (c.status, c.reason.clone())),
                work: case.and_then(work),
                forbidden: forbidden.cloned().collect(),
                messages: share(from, to),
                notes: case.map(|c| c.all_notes().into_iter().map(str::to_owned).collect()).unwrap_or_default(),
                seconds,
            });
            from = to;
        }
        let headline = run.reading.headline.as_ref();
        let from = headline.map_or(usize::MAX, |h| h.line);
        let lacking = |pattern: &&Regex| !messages.iter().any(|m| pattern.is_match(&m.text));
        Self {
            end: Ok(run.reading.verdict.clone()),
            ready: run.reading.ready,
            tests: seen,
            counters: run.counters.clone(),
            headline: headline.map(|h| h.text.clone()),
            report: messages.iter().filter(|m| m.line >= from).map(|m| m.text.clone()).collect(),
            boot: messages[..ready].to_vec(),
            lacking: trial.require.iter().filter(lacking).map(ToString::to_string).collect(),
            problem: report.problems.first().map(ToString::to_string),
        }
    }

    /// A boot that never began.
    fn of_error(error: &Error, trial: &Trial) -> Self {
        Self {
            end: Err(error.message.clone()),
            ready: false,
            tests: vec![Seen::default(); trial.tests.len()],
            counters: Ok(None),
            headline: None,
            report: Vec::new(),
            boot: Vec::new(),
            lacking: Vec::new(),
            problem: None,
        }
    }
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

/// Holds what was seen of a trial's boot against what had to come of it.
pub fn judge(trial: &Trial, seen: &Sight) -> Vec<Row> {
    let wanted = trial.rows();
    // The end of the boot is what became of the test that was running: the first one without a
    // result, or the last one if the machine went down later.
    let running = seen.tests.iter().position(|t| t.result.is_none()).unwrap_or(wanted.len().saturating_sub(1));
    let stale_hits = seen.counters.as_ref().ok().copied().flatten().map(|c| c.stale_hits);
    let mut rows = Vec::new();
    for (at, (test, expect)) in wanted.into_iter().enumerate() {
        let missing = Seen::default();
        let own = seen.tests.get(at).unwrap_or(&missing);
        let Judgement { observed, verdict, why } = match &expect {
            Expect::Caught(observation) => control::judge(observation, trial, seen, own),
            expect => judge_test(expect, seen, own, at, running),
        };
        rows.push(Row {
            scenario: trial.scenario.clone(),
            kernel: trial.kernel.clone(),
            machine: trial.machine.name(),
            harts: trial.machine.harts,
            test,
            expected: expect.name(),
            observed,
            verdict,
            stale_hits,
            seconds: (own.seconds * 10.0).round() / 10.0,
            console: format!("{}.log", trial.name),
            why,
        });
    }
    rows
}

/// What is made of an observation.
#[derive(Clone, Debug)]
pub struct Judgement {
    /// What came of it: a word or two.
    pub observed: String,
    /// The judgement.
    pub verdict: Verdict,
    /// Why, if it is not a pass.
    pub why: Vec<String>,
}

fn judge_test(expect: &Expect, seen: &Sight, own: &Seen, at: usize, running: usize) -> Judgement {
    let mut why = Vec::new();
    let overflow = matches!(expect, Expect::StackOverflow);
    let (observed, verdict) = match &seen.end {
        Err(message) => (format!("not run: {message}"), Verdict::Error),
        Ok(end) if at > running => {
            why.push(format!("the boot ended before: {end}"));
            ("not reached".to_owned(), Verdict::Error)
        }
        Ok(end) if at == running && *end != console::Verdict::Finished => judge_end(overflow, end, seen.ready),
        Ok(_) => judge_result(expect, own, &mut why),
    };
    if verdict != Verdict::Pass {
        return Judgement { observed, verdict, why };
    }
    // It looks right. Whether it is right depends on what else was seen.
    let mut failures = Vec::new();
    let mut errors = Vec::new();
    if !overflow {
        failures.extend(
            own.forbidden.iter().map(|f| format!("line {} of the console must not be there: {}", f.line, f.text)),
        );
    }
    if matches!(expect, Expect::Survive) && own.work.unwrap_or(0) == 0 {
        failures.push("the test says of nothing that it was touched or checked".to_owned());
    }
    match &seen.counters {
        Err(what) => errors.push(what.clone()),
        Ok(counters) if !matches!(expect, Expect::Pass) && counters.is_none_or(|c| c.stale_hits == 0) => {
            failures.push(NOTHING_STALE.to_owned());
        }
        Ok(_) => {}
    }
    errors.extend(seen.lacking.iter().map(|l| format!("the console lacks what this scenario must show: {l}")));
    errors.extend(seen.problem.iter().map(|p| format!("the results cannot be relied on: {p}")));
    let verdict = match (failures.is_empty(), errors.is_empty()) {
        (false, _) => Verdict::Fail,
        (true, false) => Verdict::Error,
        (true, true) => Verdict::Pass,
    };
    why.extend(failures);
    why.extend(errors);
    Judgement { observed, verdict, why }
}

/// Said of a run on a machine that had nothing to offer.
pub const NOTHING_STALE: &str = "no stale translation was ever used: this machine proves nothing";

/// A test that was running when the boot came to this end.
fn judge_end(overflow: bool, end: &console::Verdict, ready: bool) -> (String, Verdict) {
    use console::Verdict as End;
    let verdict = match end {
        // A kernel that is seen dying on the way to its tests has failed them; what else keeps it from
        // getting there says nothing about them.
        End::StackOverflow { .. } | End::Panic { .. } | End::Oops { .. } if !ready => Verdict::Fail,
        _ if !ready => Verdict::Error,
        End::NeverBooted | End::QemuFailed { .. } | End::Incomplete { .. } | End::Finished => Verdict::Error,
        End::StackOverflow { .. } if overflow => Verdict::Pass,
        End::StackOverflow { .. } | End::Panic { .. } | End::Oops { .. } | End::Hang(_) | End::Timeout(_) => {
            Verdict::Fail
        }
    };
    (described(end, ready), verdict)
}

/// The end of a boot in a word or two, and whether any test was reached.
pub fn described(end: &console::Verdict, ready: bool) -> String {
    use console::Verdict as End;
    let kernel_failed = !matches!(end, End::NeverBooted | End::QemuFailed { .. } | End::Incomplete { .. });
    let place = if kernel_failed && !ready { " before any test" } else { "" };
    format!("{end}{place}")
}

/// A test with a result of its own, in a boot that ended well or later.
fn judge_result(expect: &Expect, own: &Seen, why: &mut Vec<String>) -> (String, Verdict) {
    let Some((status, reason)) = &own.result else {
        why.push("the guest ran to its end, but there is no result of this test".to_owned());
        return ("no result".to_owned(), Verdict::Error);
    };
    let observed = result_text(*status, reason.as_deref());
    let verdict = match (status, expect) {
        (Status::Error, _) => Verdict::Error,
        (Status::Pass, Expect::Pass | Expect::Survive) => Verdict::Pass,
        _ => Verdict::Fail,
    };
    (observed, verdict)
}

/// A result and its reason, as `results.json` has it.
pub fn result_text(status: Status, reason: Option<&str>) -> String {
    match reason {
        Some(reason) => format!("{status}: {reason}"),
        None => status.to_string(),
    }
}

/// The verdict of a console in one or two words.
fn short_verdict(verdict: &console::Verdict) -> &'static str {
    use console::Verdict as End;
    match verdict {
        End::Finished => "ran to its end",
        End::StackOverflow { .. } => "stack overflow",
        End::Panic { .. } => "panic",
        End::Oops { .. } => "oops",
        End::NeverBooted => "never booted",
        End::Hang(_) => "hang",
        End::Timeout(_) => "timeout",
        End::QemuFailed { .. } => "QEMU failed",
        End::Incomplete { .. } => "incomplete",
    }
}

/// The table, with a heading, aligned; colour is for terminals. Scenarios have a column where rows
/// belong to some.
pub fn table(rows: &[Row], color: bool) -> String {
    let heading = ["kernel", "machine", "harts", "test", "expected", "observed", "verdict", "seconds", "stale hits"];
    let scenarios = rows.iter().any(|row| row.scenario.is_some());
    let first = usize::from(scenarios);
    let mut lines: Vec<Vec<String>> = vec![heading.map(str::to_owned).into()];
    for row in rows {
        let booted = row.harts > 0;
        lines.push(vec![
            row.kernel.clone(),
            row.machine.clone(),
            if booted { row.harts.to_string() } else { "-".to_owned() },
            row.test.clone(),
            clip(&row.expected, COLUMN),
            clip(&row.observed, COLUMN),
            row.verdict.name().to_owned(),
            format!("{:.1}", row.seconds),
            row.stale_hits.map_or_else(|| "-".to_owned(), |hits| hits.to_string()),
        ]);
    }
    if scenarios {
        let names = rows.iter().map(|row| row.scenario.clone().unwrap_or_else(|| "-".to_owned()));
        lines.iter_mut().zip(std::iter::once("scenario".to_owned()).chain(names)).for_each(|(l, n)| l.insert(0, n));
    }
    let widths: Vec<usize> =
        (0..lines[0].len()).map(|c| lines.iter().map(|l| l[c].chars().count()).max().unwrap_or(0)).collect();
    let (numbers, verdict) = ([2, 7, 8].map(|c| c + first), 6 + first);
    let mut text = String::new();
    for (n, line) in lines.iter().enumerate() {
        let mut cells = Vec::new();
        for (c, cell) in line.iter().enumerate() {
            let padding = " ".repeat(widths[c] - cell.chars().count());
            let style = match n.checked_sub(1).and_then(|n| rows.get(n)) {
                Some(row) if c == verdict => row.verdict.style(),
                Some(_) => Style::new(),
                None => Style::new().bold(),
            };
            let shown = if color { format!("{style}{cell}{style:#}") } else { cell.clone() };
            cells.push(if numbers.contains(&c) { padding + &shown } else { shown + &padding });
        }
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// At most `length` characters of `text`.
fn clip(text: &str, length: usize) -> String {
    if text.chars().count() <= length {
        return text.to_owned();
    }
    text.chars().take(length - 1).chain(['…']).collect()
}

/// What a person needs who has to find out why a boot was not as expected.
fn explain(root: &Path, console: &Path, rows: &[Row], booted: Option<&Booted>) -> String {
    let mut text = String::new();
    for row in rows.iter().filter(|r| r.verdict != Verdict::Pass) {
        let scenario = row.scenario.as_ref().map(|s| format!("{s}: ")).unwrap_or_default();
        text.push_str(&format!(
            "{}: {scenario}{} on {}, {}: expected {}, observed {}\n",
            row.verdict.name(),
            row.kernel,
            row.machine,
            row.test,
            row.expected,
            row.observed
        ));
        row.why.iter().for_each(|w| text.push_str(&format!("    {w}\n")));
    }
    let Some(booted) = booted else { return text };
    for problem in booted.report.all_problems().into_iter().take(3) {
        text.push_str(&format!("    results, {problem}\n"));
    }
    if let Some(found) = &booted.run.reading.headline {
        text.push_str(&format!("    line {}: {}\n", found.line, found.text));
    }
    text.push_str(&format!("    the last lines of {}:\n", shown(root, console)));
    booted.run.reading.tail.iter().for_each(|l| text.push_str(&format!("      {l}\n")));
    text.push_str(&format!("    to repeat this boot: sh {}\n", shown(root, &console.with_extension("cmd"))));
    text
}

/// A path as a person in the repository would type it.
pub fn shown(root: &Path, path: &Path) -> String {
    path.strip_prefix(root).unwrap_or(path).display().to_string()
}

/// Writes the results in one go: a reader sees all of them or none.
fn write_results(path: &Path, results: &Results<'_>) -> Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let write = || -> std::io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        serde_json::to_writer_pretty(&mut file, results)?;
        file.write_all(b"\n")?;
        // Others may read it, too, which is not what a temporary file is made for.
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        file.as_file().set_permissions(mode)?;
        file.persist(path).map_err(|e| e.error)?;
        Ok(())
    };
    write().map_err(|e| Error::io("write", path, e))
}
