// SPDX-License-Identifier: GPL-2.0-only
//! The matrix: two kernels on machines that differ in what their harts cache, and what has to come
//! of it.
//!
//! [`MATRIX`] is the one place that says what is expected. Whatever else is observed has failed,
//! and what could not be observed is an error; nothing passes because nothing was seen.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

use anstyle::{AnsiColor, Style};
use serde::Serialize;

use crate::base::BaseUsed;
use crate::console::{self, Found};
use crate::error::{Error, Exit, Result};
use crate::initramfs;
use crate::kernel::Kernel;
use crate::ktap::{self, Progress, Report, Status};
use crate::machine::{Boot, Counters, Irq, Limits, Machine, Run};
use crate::progress::Step;
use crate::workbench::Workbench;

/// Number of harts of every machine in the matrix.
const HARTS: u32 = 4;
/// Memory of every machine in the matrix, in MiB.
const MEMORY_MIB: u32 = 1024;
/// What the guest needs to end a test, say so and go on, in seconds.
const GUEST_GRACE: u64 = 15;
/// Longest text in a column of the table, in characters.
const COLUMN: usize = 48;

/// What has to come of a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// It passes.
    Pass,
    /// It passes after it touched new mappings, on a machine that had stale translations to offer.
    Survive,
    /// The kernel runs out of stack while the test runs.
    StackOverflow,
}

impl Expect {
    /// As `results.json` has it.
    fn name(self) -> &'static str {
        match self {
            Self::Pass | Self::Survive => "pass",
            Self::StackOverflow => "stack overflow",
        }
    }
}

/// A boot of the matrix.
#[derive(Clone, Copy, Debug)]
pub struct Cell {
    /// Name of the kernel in the workbench.
    pub kernel: &'static str,
    /// The machine that it boots on.
    pub machine: Machine,
    /// The tests in the order in which they run, and what has to come of them.
    pub tests: &'static [(&'static str, Expect)],
}

const IPI: &str = "test-ipi.sh";
const STACK: &str = "test-stack.sh";
const TRACE: &str = "test-trace.sh";
/// A machine whose harts see a new mapping at once.
pub const PLAIN: Machine = Machine { stale: false, irq: Irq::Imsic, harts: HARTS, memory_mib: MEMORY_MIB };
const STALE: Machine = Machine { stale: true, ..PLAIN };
const STALE_SBI: Machine = Machine { irq: Irq::Sbi, ..STALE };

/// What the demo boots, and what has to come of it. The test that ends a kernel comes last.
pub const MATRIX: &[Cell] = &[
    Cell { kernel: "preventive", machine: PLAIN, tests: &[(IPI, Expect::Pass), (TRACE, Expect::Pass)] },
    // A kernel that flushes first is fine wherever nothing is touched before the flush has ended. The
    // test of stacks is younger than this kernel.
    Cell { kernel: "preventive", machine: STALE, tests: &[(IPI, Expect::Pass), (TRACE, Expect::StackOverflow)] },
    Cell {
        kernel: "series",
        machine: PLAIN,
        tests: &[(IPI, Expect::Pass), (STACK, Expect::Pass), (TRACE, Expect::Pass)],
    },
    Cell { kernel: "series", machine: STALE, tests: SURVIVED },
    Cell { kernel: "series", machine: STALE_SBI, tests: SURVIVED },
];
const SURVIVED: &[(&str, Expect)] = &[(IPI, Expect::Survive), (STACK, Expect::Survive), (TRACE, Expect::Survive)];

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
}

impl Verdict {
    fn name(self) -> &'static str {
        match self {
            Self::Pass => "PASS",
            Self::Fail => "FAIL",
            Self::Error => "ERROR",
        }
    }

    fn style(self) -> Style {
        let color = match self {
            Self::Pass => AnsiColor::Green,
            Self::Fail => AnsiColor::Red,
            Self::Error => AnsiColor::Magenta,
        };
        color.on_default().bold()
    }
}

/// A test in a cell of the matrix: a line of the table.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Name of the kernel.
    pub kernel: &'static str,
    /// Name of the machine.
    pub machine: &'static str,
    /// Number of harts.
    pub harts: u32,
    /// The script.
    pub test: String,
    /// What had to come of it.
    pub expected: &'static str,
    /// What came of it: a word or two, and after a colon what it said itself.
    pub observed: String,
    /// The judgement.
    pub verdict: Verdict,
    /// Spurious faults that the machine caused in the whole boot; none on a machine that causes none.
    pub stale_hits: Option<u64>,
    /// Seconds that the test took.
    pub seconds: f64,
    /// The console's log, relative to `results.json`.
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

/// Boots `kernel` on `machine` and runs `tests` there, in this order.
///
/// The files are `out/demo/KERNEL-MACHINE.log`, `.qemu.log` and `.cmd`.
///
/// # Errors
/// When there is no such kernel, the guest's file system cannot be made, or QEMU not be started.
pub fn boot_one(bench: &Workbench, kernel: &str, machine: Machine, tests: &[&str]) -> Result<Booted> {
    let built = kernel_of(bench, kernel)?;
    // The guest ends a test early enough to say so before the machine is taken for dead.
    let limit = Limits::from_env()?.silence.as_secs().saturating_sub(GUEST_GRACE).max(1);
    let append = format!("lazymap.timeout={limit} lazymap.tests={}", tests.join(","));
    boot(bench, kernel, machine, &built.selftests, &append, &console_of(bench, kernel, machine))
}

/// Boots `kernel` on `machine` with the folder `selftests` and more for the kernel's command line.
///
/// # Errors
/// As [`boot_one`].
pub fn boot(
    bench: &Workbench,
    kernel: &str,
    machine: Machine,
    selftests: &Path,
    append: &str,
    console: &Path,
) -> Result<Booted> {
    let built = kernel_of(bench, kernel)?;
    let name = console.file_stem().unwrap_or_default().to_string_lossy();
    let initrd = bench.out.join("guest").join(format!("{name}.cpio.gz"));
    initramfs::build(&bench.busybox, selftests, &initrd)?;
    let boot = Boot {
        machine,
        qemu: &bench.qemu.binary,
        property: &bench.base.qemu.property,
        firmware: &bench.firmware,
        image: &built.image,
        initrd: &initrd,
        append,
        console,
        limits: Limits::from_env()?,
    };
    let step = Step::start(format!("boot {kernel} on {machine}"));
    let run = boot.run(&mut |line| step.detail(line));
    step.finish(run.as_ref().map_or("not possible", |run| short_verdict(&run.reading.verdict)));
    let run = run?;
    let report = ktap::parse(&run.log);
    Ok(Booted { run, report, console: console.to_path_buf() })
}

fn kernel_of<'a>(bench: &'a Workbench, name: &str) -> Result<&'a Kernel> {
    let names = || bench.kernels.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
    bench.kernels.get(name).ok_or_else(|| Error::could_not(format!("there is no kernel `{name}`, only {}", names())))
}

/// Boots the matrix, prints the table, and writes `out/demo/results.json`.
///
/// # Errors
/// When the results cannot be written, or `LAZYMAP_SILENCE` or `LAZYMAP_TIMEOUT` is wrong. What
/// goes wrong with a boot is a row of the table.
pub fn run(bench: &Workbench) -> Result<Outcome> {
    let rows = rows(bench)?;
    let mut outcome = Outcome::default();
    for row in &rows {
        match row.verdict {
            Verdict::Pass => outcome.passed += 1,
            Verdict::Fail => outcome.failed += 1,
            Verdict::Error => {
                outcome.failed += 1;
                outcome.errors += 1;
            }
        }
    }
    Ok(outcome)
}

/// As [`run`], for callers that want to know of each row.
///
/// # Errors
/// As [`run`].
pub fn rows(bench: &Workbench) -> Result<Vec<Row>> {
    Limits::from_env()?;
    let folder = bench.out.join("demo");
    let results = folder.join("results.json");
    fs::create_dir_all(&folder).map_err(|e| Error::io("create", &folder, e))?;
    // A run that is interrupted leaves no results rather than those of the run before.
    match fs::remove_file(&results) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Error::io("remove", &results, e)),
        _ => {}
    }
    let mut rows = Vec::new();
    let mut reports = Vec::new();
    let mut headline = None;
    for cell in MATRIX {
        let tests: Vec<&str> = cell.tests.iter().map(|(test, _)| *test).collect();
        let booted = boot_one(bench, cell.kernel, cell.machine, &tests);
        let seen = match &booted {
            Ok(booted) => Sight::of(booted, &tests),
            Err(error) => Sight::of_error(error, &tests),
        };
        let judged = judge(cell, &seen);
        if judged.iter().any(|row| row.verdict != Verdict::Pass) {
            reports.push(explain(
                &bench.root,
                &console_of(bench, cell.kernel, cell.machine),
                &judged,
                booted.ok().as_ref(),
            ));
        }
        if cell.tests.iter().any(|(_, expect)| *expect == Expect::StackOverflow) {
            headline = headline.or(seen.headline);
        }
        rows.extend(judged);
    }
    write_results(&results, &Results { schema: 1, runs: &rows, base: &bench.base_used, toolchain: &bench.toolchain })?;
    let color = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    println!("\n{}", table(&rows, color));
    for report in reports {
        println!("{report}");
    }
    println!("{}", summary(&rows, headline.as_deref()));
    println!("Consoles and results: {}", shown(&bench.root, &folder));
    Ok(rows)
}

fn console_of(bench: &Workbench, kernel: &str, machine: Machine) -> PathBuf {
    bench.out.join("demo").join(format!("{kernel}-{machine}.log"))
}

/// What was seen of a test.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Its own result and what it said about it.
    pub result: Option<(Status, Option<String>)>,
    /// What it counted as touches of new mappings.
    pub touches: Option<u64>,
    /// What must not have been on the console while it ran.
    pub forbidden: Vec<Found>,
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
    /// What is wrong with the results as a whole.
    pub problem: Option<String>,
}

impl Sight {
    /// Picks out what matters for judging `tests`.
    pub fn of(booted: &Booted, tests: &[&str]) -> Self {
        let (run, report) = (&booted.run, &booted.report);
        let mut from = 0;
        let mut seen = Vec::new();
        for (at, test) in tests.iter().enumerate() {
            let last = at + 1 == tests.len();
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
                touches: case.and_then(touches),
                forbidden: forbidden.cloned().collect(),
                seconds,
            });
            from = to;
        }
        Self {
            end: Ok(run.reading.verdict.clone()),
            ready: run.reading.ready,
            tests: seen,
            counters: run.counters.clone(),
            headline: run.reading.headline.as_ref().map(|h| h.text.clone()),
            problem: report.problems.first().map(ToString::to_string),
        }
    }

    /// A boot that never began.
    fn of_error(error: &Error, tests: &[&str]) -> Self {
        Self {
            end: Err(error.message.clone()),
            ready: false,
            tests: vec![Seen::default(); tests.len()],
            counters: Ok(None),
            headline: None,
            problem: None,
        }
    }
}

/// The sum of all `touches: N` in the diagnostics of a test.
fn touches(case: &ktap::Case) -> Option<u64> {
    let numbers = case.all_notes().into_iter().filter_map(|note| {
        let (before, number) = note.rsplit_once("touches: ")?;
        if before.is_empty() || before.ends_with(": ") { number.trim().parse::<u64>().ok() } else { None }
    });
    numbers.reduce(u64::saturating_add)
}

/// Holds what was seen of a cell's boot against what had to come of it.
pub fn judge(cell: &Cell, seen: &Sight) -> Vec<Row> {
    // The end of the boot is what became of the test that was running: the first one without a
    // result, or the last one if the machine went down later.
    let running = seen.tests.iter().position(|t| t.result.is_none()).unwrap_or(cell.tests.len() - 1);
    let stale_hits = seen.counters.as_ref().ok().copied().flatten().map(|c| c.stale_hits);
    let console = format!("{}-{}.log", cell.kernel, cell.machine);
    let mut rows = Vec::new();
    for (at, &(test, expect)) in cell.tests.iter().enumerate() {
        let missing = Seen::default();
        let own = seen.tests.get(at).unwrap_or(&missing);
        let Judgement { observed, verdict, why } = judge_test(expect, seen, own, at, running);
        rows.push(Row {
            kernel: cell.kernel,
            machine: cell.machine.name(),
            harts: cell.machine.harts,
            test: test.to_owned(),
            expected: expect.name(),
            observed,
            verdict,
            stale_hits,
            seconds: (own.seconds * 10.0).round() / 10.0,
            console: console.clone(),
            why,
        });
    }
    rows
}

struct Judgement {
    observed: String,
    verdict: Verdict,
    why: Vec<String>,
}

fn judge_test(expect: Expect, seen: &Sight, own: &Seen, at: usize, running: usize) -> Judgement {
    let mut why = Vec::new();
    let (observed, verdict) = match &seen.end {
        Err(message) => (format!("not run: {message}"), Verdict::Error),
        Ok(end) if at > running => {
            why.push(format!("the boot ended before: {end}"));
            ("not reached".to_owned(), Verdict::Error)
        }
        Ok(end) if at == running && *end != console::Verdict::Finished => judge_end(expect, end, seen.ready),
        Ok(_) => judge_result(expect, own, &mut why),
    };
    if verdict != Verdict::Pass {
        return Judgement { observed, verdict, why };
    }
    // It looks right. Whether it is right depends on what else was seen.
    let mut failures = Vec::new();
    let mut errors = Vec::new();
    if expect != Expect::StackOverflow {
        failures.extend(
            own.forbidden.iter().map(|f| format!("line {} of the console must not be there: {}", f.line, f.text)),
        );
    }
    if expect == Expect::Survive && own.touches.unwrap_or(0) == 0 {
        failures.push("the test says of no new mapping that it was touched".to_owned());
    }
    match &seen.counters {
        Err(what) => errors.push(what.clone()),
        Ok(counters) if expect != Expect::Pass && counters.is_none_or(|c| c.stale_hits == 0) => {
            failures.push("no stale translation was ever used: this machine proves nothing".to_owned());
        }
        Ok(_) => {}
    }
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

/// A test that was running when the boot came to this end.
fn judge_end(expect: Expect, end: &console::Verdict, ready: bool) -> (String, Verdict) {
    use console::Verdict as End;
    let verdict = match end {
        // A kernel that is seen dying on the way to its tests has failed them; what else keeps it from
        // getting there says nothing about them.
        End::StackOverflow { .. } | End::Panic { .. } | End::Oops { .. } if !ready => Verdict::Fail,
        _ if !ready => Verdict::Error,
        End::NeverBooted | End::QemuFailed { .. } | End::Incomplete { .. } | End::Finished => Verdict::Error,
        End::StackOverflow { .. } if expect == Expect::StackOverflow => Verdict::Pass,
        End::StackOverflow { .. } | End::Panic { .. } | End::Oops { .. } | End::Hang(_) | End::Timeout(_) => {
            Verdict::Fail
        }
    };
    let kernel_failed = !matches!(end, End::NeverBooted | End::QemuFailed { .. } | End::Incomplete { .. });
    let place = if kernel_failed && !ready { " before any test" } else { "" };
    (format!("{end}{place}"), verdict)
}

/// A test with a result of its own, in a boot that ended well or later.
fn judge_result(expect: Expect, own: &Seen, why: &mut Vec<String>) -> (String, Verdict) {
    let Some((status, reason)) = &own.result else {
        why.push("the guest ran to its end, but there is no result of this test".to_owned());
        return ("no result".to_owned(), Verdict::Error);
    };
    let observed = match reason {
        Some(reason) => format!("{status}: {reason}"),
        None => status.to_string(),
    };
    let verdict = match (status, expect) {
        (Status::Error, _) => Verdict::Error,
        (Status::Pass, Expect::Pass | Expect::Survive) => Verdict::Pass,
        _ => Verdict::Fail,
    };
    (observed, verdict)
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

/// The table, with a heading, aligned; colour is for terminals.
pub fn table(rows: &[Row], color: bool) -> String {
    let heading = ["kernel", "machine", "harts", "test", "expected", "observed", "verdict", "seconds", "stale hits"];
    let mut lines: Vec<[String; 9]> = vec![heading.map(str::to_owned)];
    for row in rows {
        lines.push([
            row.kernel.to_owned(),
            row.machine.to_owned(),
            row.harts.to_string(),
            row.test.clone(),
            row.expected.to_owned(),
            clip(&row.observed, COLUMN),
            row.verdict.name().to_owned(),
            format!("{:.1}", row.seconds),
            row.stale_hits.map_or_else(|| "-".to_owned(), |hits| hits.to_string()),
        ]);
    }
    let widths: Vec<usize> =
        (0..heading.len()).map(|c| lines.iter().map(|l| l[c].chars().count()).max().unwrap_or(0)).collect();
    let (numbers, verdict) = ([2, 7, 8], 6);
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
        text.push_str(&format!(
            "{}: {} on {}, {}: expected {}, observed {}\n",
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

/// What has been seen, for somebody who sees it for the first time.
fn summary(rows: &[Row], headline: Option<&str>) -> String {
    let bad = rows.iter().filter(|r| r.verdict != Verdict::Pass).count();
    if bad > 0 {
        return format!(
            "{bad} of {} are not as expected: nothing can be concluded from this run but that.",
            rows.len()
        );
    }
    let mut boots: Vec<(&str, &str, u64)> = Vec::new();
    for row in rows.iter().filter(|r| r.kernel == "series") {
        let boot = (row.kernel, row.machine, row.stale_hits.unwrap_or(0));
        if boot.2 > 0 && !boots.contains(&boot) {
            boots.push(boot);
        }
    }
    let faults: u64 = boots.iter().map(|b| b.2).sum();
    format!(
        "Both kernels are fine on harts that forget invalid translations. On harts that remember them, as real\n\
         cores may, the kernel that fences every hart after each new mapping died: \"{}\".\n\
         Its fence is an interrupt that can be traced; the tracer touched the very mapping that was being announced,\n\
         the fault was traced as well, touched it again, and so on until the stack ended. The kernel with the series\n\
         fences at the fault, before anything can be traced: it took {faults} spurious faults on the same machines,\n\
         and passed every test.",
        headline.unwrap_or("no headline")
    )
}

/// A path as a person in the repository would type it.
fn shown(root: &Path, path: &Path) -> String {
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
