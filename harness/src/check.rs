// SPDX-License-Identifier: GPL-2.0-only
//! `lazymap check`: everything that can be checked, and one line that counts it.

use std::env;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::cli::Options;
use crate::cmd::{self, Ended};
use crate::control;
use crate::cost;
use crate::demo;
use crate::error::{Error, Result};
use crate::hunt;
use crate::kernel::SERIES;
use crate::ktap::Status;
use crate::machine::Limits;
use crate::progress::Step;
use crate::scenario::{self, Which};
use crate::tally::Tally;
use crate::trial::{self, Outcome, Row, Seat, Verdict};
use crate::workbench::{self, Workbench};
use crate::{console, litmus, series};

/// Variables that are meant for the run as a whole; the tool's own tests set what they need.
const NOT_FOR_TESTS: &[&str] =
    &["KSRC", "BASE", "LAZYMAP_OUT", "LAZYMAP_SILENCE", "LAZYMAP_TIMEOUT", "MAKEFLAGS", "MAKELEVEL", "MFLAGS"];

/// Runs the tool's own tests, the checks of the series, the demo's matrix, the scenarios, the controls
/// and two hunts. A `full` check runs all scenarios and controls, and checks the patches for every
/// base; otherwise those that are meant for every check. The last line that is printed is
/// `N passed, N failed, N skipped`.
///
/// # Errors
/// None at present: what could not be checked counts as failed, with its reason.
pub fn run(opts: &Options, full: bool) -> Result<Outcome> {
    let mut tally = Tally::default();
    harness_tests(opts, &mut tally);
    let manifest = opts.root.join("harness/Cargo.toml");
    component(
        opts,
        &mut tally,
        "harness: format",
        "fmt",
        &["--manifest-path".as_ref(), &manifest, "--all".as_ref(), "--check".as_ref()],
    );
    let target = opts.out.join("harness");
    let arguments: [&Path; 10] = [
        "--manifest-path".as_ref(),
        &manifest,
        "--target-dir".as_ref(),
        &target,
        "--workspace".as_ref(),
        "--all-targets".as_ref(),
        "--locked".as_ref(),
        "--".as_ref(),
        "-D".as_ref(),
        "warnings".as_ref(),
    ];
    component(opts, &mut tally, "harness: clippy", "clippy", &arguments);

    match litmus::run(opts) {
        Ok(outcome) => tally.outcome.add(outcome),
        Err(error) => tally.error("litmus", &error.message),
    }
    // The tree of another base is a download of its own.
    let bases = if full { opts.bases() } else { Ok(vec![opts.clone()]) };
    match bases {
        Ok(bases) => bases.iter().for_each(|opts| checks_of_series(opts, &mut tally)),
        Err(error) => tally.error("series", &error.message),
    }
    match workbench::prepare(opts) {
        Ok(mut lab) => {
            machine(&lab.bench, &mut tally);
            guest(&lab.bench, &mut tally);
            rows(&mut tally, "demo", demo::rows(&lab.bench));
            costs(&mut tally, cost::rows(&mut lab, opts, full));
            let which = if full { Which::All } else { Which::Check };
            rows(&mut tally, "run", scenario::rows(&mut lab, opts, &which));
            rows(&mut tally, "control", control::rows(&mut lab, opts, &which));
            match hunt::selfcheck::run(&mut lab, opts) {
                Ok(all) => all.iter().for_each(|(name, verdict, why)| judged(&mut tally, name, *verdict, why)),
                Err(error) => tally.error("hunt", &error.message),
            }
        }
        Err(error) => tally.error("demo", &error.message),
    }
    println!("{}", tally.outcome);
    Ok(tally.outcome)
}

/// The checks of the patches for one base.
fn checks_of_series(opts: &Options, tally: &mut Tally) {
    match series::check(opts) {
        Ok(results) if results.is_empty() => tally.error("series", "nothing was checked"),
        Ok(results) => results.iter().for_each(|r| match r.ok {
            true => tally.ok(&r.name),
            false => tally.not_ok(&r.name, &r.detail),
        }),
        Err(error) => tally.error("series", &error.message),
    }
}

/// The machine model by itself, under a guest without a kernel.
fn machine(bench: &Workbench, tally: &mut Tally) {
    let log = bench.out.join("log/machine.log");
    let step = Step::start("test the machine");
    let mut test = Command::new("python3");
    test.arg(bench.root.join("harness/machine/test.py")).arg(&bench.qemu.binary).arg(bench.out.join("machine"));
    let ended = cmd::captured(&mut test, &log, &step);
    step.finish(if matches!(ended, Ok(Ended::Well)) { "done" } else { "failed" });
    let text = fs::read_to_string(&log).unwrap_or_default();
    let (mut results, mut planned) = (0, None);
    for line in text.lines() {
        let named = |rest: &str| format!("machine: {}", rest.split(" # ").next().unwrap_or_default().trim());
        if let Some(rest) = line.strip_prefix("ok ") {
            tally.ok(&named(rest));
        } else if let Some(rest) = line.strip_prefix("not ok ") {
            tally.not_ok(&named(rest), &format!("see {}", log.display()));
        } else {
            planned = planned.or_else(|| line.strip_prefix("1..")?.parse::<u32>().ok());
            continue;
        }
        results += 1;
    }
    if let Err(error) = ended {
        tally.error("machine", &error.message);
    } else if planned != Some(results) {
        // Its last line: without it, it broke off.
        let planned = planned.map_or_else(|| "an unknown number".to_owned(), |n| n.to_string());
        tally.error("machine", &format!("{results} results instead of {planned}; see {}", log.display()));
    }
}

/// A result whose verdict is known; `why` is said of all but a pass.
fn judged(tally: &mut Tally, name: &str, verdict: Verdict, why: &str) {
    match verdict {
        Verdict::Pass => tally.ok(name),
        Verdict::Fail => tally.not_ok(name, why),
        Verdict::Error => tally.error(name, why),
        Verdict::Skip => tally.skip(name, why),
    }
}

/// The rows of a table.
fn rows(tally: &mut Tally, what: &str, rows: Result<Vec<Row>>) {
    match rows {
        Ok(rows) if rows.is_empty() => tally.error(what, "nothing was booted"),
        Ok(rows) => rows.iter().for_each(|row| {
            let scenario = row.scenario.as_ref().map(|s| format!("{s}: ")).unwrap_or_default();
            let on = if row.harts > 0 { format!(" on {}", row.machine) } else { String::new() };
            let verb = if row.harts > 0 { " ends in" } else { "" };
            let name = format!("{what}: {scenario}{}{on}: {}{verb} {}", row.kernel, row.test, row.expected);
            judged(tally, &name, row.verdict, &row.observed);
        }),
        Err(error) => tally.error(what, &error.message),
    }
}

/// The paths whose instructions were counted.
fn costs(tally: &mut Tally, rows: Result<Vec<cost::Row>>) {
    match rows {
        Ok(rows) => rows.iter().for_each(|row| {
            judged(tally, &format!("cost: {}", row.path), row.verdict, &row.problem());
        }),
        Err(error) => tally.error("cost", &error.message),
    }
}

/// Tests with which the guest's init has to cope, and what it has to say of them: result, reason,
/// and a diagnostic line.
const GUEST_TESTS: &[(&str, Status, Option<&str>, Option<&str>)] = &[
    ("test-pass.sh", Status::Pass, None, Some("touches: 12")),
    ("test-fail.sh", Status::Fail, Some("exit=3"), Some("a word on stderr")),
    ("test-skip.sh", Status::Skip, Some("no reason given"), None),
    ("test-slow.sh", Status::Fail, Some("timeout"), Some("starting")),
    ("test-stubborn.sh", Status::Fail, Some("timeout"), None),
    ("test-noexec.sh", Status::Fail, Some("not executable"), None),
    ("test-none.sh", Status::Fail, Some("missing"), None),
    ("test-pass.sh", Status::Pass, None, None),
];

/// The guest's init in a real guest: it keeps exit codes, ends tests, and gets to its own end.
fn guest(bench: &Workbench, tally: &mut Tally) {
    let tests: Vec<&str> = GUEST_TESTS.iter().map(|(name, ..)| *name).collect();
    let append = format!("lazymap.timeout=8 lazymap.tests={}", tests.join(","));
    let folder = bench.root.join("harness/tests/fixtures/guest");
    let console = bench.place("demo").join("guest-plain.log");
    let booted = demo::plain().and_then(|machine| {
        let kernel = bench.kernels.get(SERIES).ok_or_else(|| Error::could_not("there is no kernel"))?;
        let limits = Limits::from_env()?;
        let seat = Seat { machine: &machine, selftests: &folder, append: &append, plugin: None, limits };
        trial::boot(bench, kernel, &seat, &console)
    });
    let booted = match booted {
        Ok(booted) => booted,
        Err(error) => return tally.error("guest", &error.message),
    };
    match booted.run.reading.verdict {
        console::Verdict::Finished => tally.ok("guest: gets to its end"),
        ref end => tally.not_ok("guest: gets to its end", &format!("{end}; see {}", console.display())),
    }
    for (at, (test, status, reason, note)) in GUEST_TESTS.iter().enumerate() {
        let name = format!("guest: {} {test}", at + 1);
        let Some(case) = booted.report.cases.get(at).filter(|c| c.name.ends_with(test)) else {
            tally.not_ok(&name, "no result");
            continue;
        };
        let noted = note.is_none_or(|n| case.all_notes().contains(&n));
        if case.status == *status && case.reason.as_deref() == *reason && noted {
            tally.ok(&name);
        } else {
            let said = case.reason.as_deref().unwrap_or("no reason");
            tally.not_ok(&name, &format!("is {}, {said}, {:?}", case.status, case.all_notes()));
        }
    }
}

/// The tool's unit and fixture tests.
fn harness_tests(opts: &Options, tally: &mut Tally) {
    let name = "harness: tests";
    let log = opts.out.join("log/harness-tests.log");
    let mut command = cargo("test");
    command.arg("--manifest-path").arg(opts.root.join("harness/Cargo.toml"));
    command.arg("--target-dir").arg(opts.out.join("harness")).args(["--workspace", "--locked", "--no-fail-fast"]);
    let step = Step::start("test the harness");
    let ended = cmd::captured(&mut command, &log, &step);
    step.finish(if matches!(ended, Ok(Ended::Well)) { "done" } else { "failed" });
    let failure = match ended {
        Err(error) => return tally.error(name, &error.message),
        Ok(Ended::Well) => None,
        Ok(Ended::Badly { what, .. }) => Some(what),
    };
    let text = match fs::read(&log) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => return tally.error(name, &format!("cannot read {}: {error}", log.display())),
    };
    let Some(sum) = parse_tests(&text) else {
        return tally.error(name, &format!("no or unknown results; see {}", log.display()));
    };
    if sum.passed > 0 {
        println!("ok {name} ({} passed)", sum.passed);
        tally.outcome.passed += sum.passed;
    }
    sum.failures.iter().for_each(|failed| tally.not_ok(&format!("harness: {failed}"), "see the log"));
    sum.ignored.iter().for_each(|ignored| tally.skip(&format!("harness: {ignored}"), "ignored"));
    if let Some(what) = failure {
        if sum.failures.is_empty() {
            tally.error(name, &format!("{what}; see {}", log.display()));
        } else {
            println!("# the tests' whole output is in {}", log.display());
        }
    }
}

/// The sum of what test programs of `cargo test` say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tests {
    /// Number of tests that passed.
    pub passed: usize,
    /// Names of those that failed.
    pub failures: Vec<String>,
    /// Names of those that were not run.
    pub ignored: Vec<String>,
}

/// Adds up the output of `cargo test`; none if there is no test, or the sums of the test programs
/// and the lines of the tests contradict each other.
pub fn parse_tests(text: &str) -> Option<Tests> {
    let mut sum = Tests::default();
    let (mut passed, mut failed, mut ignored) = (0, 0, 0);
    for line in text.lines().map(str::trim) {
        if let Some(rest) = line.strip_prefix("test result: ") {
            let (_, counts) = rest.split_once(". ")?;
            let mut fields = counts.split("; ").map(|field| field.split_once(' '));
            let mut next = |name: &str| {
                let (number, what) = fields.next()??;
                if what == name { number.parse::<usize>().ok() } else { None }
            };
            passed += next("passed")?;
            failed += next("failed")?;
            ignored += next("ignored")?;
        } else if let Some((name, result)) = line.strip_prefix("test ").and_then(|l| l.rsplit_once(" ... ")) {
            match result.split([',', ' ']).next() {
                Some("FAILED") => sum.failures.push(name.to_owned()),
                Some("ignored") => sum.ignored.push(name.to_owned()),
                _ => {}
            }
        }
    }
    sum.passed = passed;
    let agrees = failed == sum.failures.len() && ignored == sum.ignored.len();
    (agrees && passed + failed > 0).then_some(sum)
}

/// A check by a part of the Rust toolchain that may not be installed.
fn component(opts: &Options, tally: &mut Tally, name: &str, verb: &str, arguments: &[&Path]) {
    let asked = cargo(verb).arg("--version").stdin(Stdio::null()).output();
    if !asked.is_ok_and(|done| done.status.success()) {
        return tally.skip(name, &format!("`cargo {verb}` is not installed"));
    }
    let log = opts.out.join(format!("log/harness-{verb}.log"));
    let step = Step::start(format!("cargo {verb}"));
    let ended = cmd::captured(cargo(verb).args(arguments), &log, &step);
    step.finish(if matches!(ended, Ok(Ended::Well)) { "done" } else { "failed" });
    match ended {
        Ok(Ended::Well) => tally.ok(name),
        Ok(Ended::Badly { what, .. }) => tally.not_ok(name, &format!("{what}; see {}", log.display())),
        Err(error) => tally.error(name, &error.message),
    }
}

/// The cargo that builds this tool.
pub fn cargo(verb: &str) -> Command {
    let named = |name| env::var_os(name).filter(|v| !v.is_empty());
    let cargo = named("LAZYMAP_CARGO").or_else(|| named("CARGO")).unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(&cargo);
    command.arg(verb);
    // Its compiler is the one beside it, should there be several.
    if let Some(folder) = Path::new(&cargo).parent().filter(|f| f.is_absolute()) {
        let paths = env::var_os("PATH").unwrap_or_default();
        let all = std::iter::once(folder.to_path_buf()).chain(env::split_paths(&paths));
        if let Ok(path) = env::join_paths(all) {
            command.env("PATH", path);
        }
    }
    for name in NOT_FOR_TESTS {
        command.env_remove(name);
    }
    command
}
