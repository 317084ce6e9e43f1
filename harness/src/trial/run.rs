// SPDX-License-Identifier: GPL-2.0-only
//! Runs a trial: boots its kernel, reads what was printed, and compares it with what is expected.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

use lazymap_console::end::End;
use lazymap_console::ktap::{self, Status};

use super::judge;
use super::met;
use super::plan::Trial;
use super::record::{BootRecord, CaseRow};
pub use super::report::Done;
use super::report::{self, Row};
use super::retry;
use super::seen::{BootSeen, Booted};
use super::verdict::Verdict;
use crate::boot::machine::{BUSY, Boot};
use crate::boot::{initramfs, next, reproduce};
use crate::build::kernel::Kernel;
use crate::build::workbench::Workbench;
use crate::ground::batch;
use crate::ground::error::{Error, Result};
use crate::ground::progress::Step;
use crate::source::host;

/// Runs a trial of `kernel`. The console goes to `FOLDER/NAME.log`, see [`Trial::name`], with
/// `.qemu.log` and the reproducer's folder beside it. Errors become rows.
pub fn run(bench: &Workbench, trial: &Trial, kernel: Result<&Kernel>, folder: &Path) -> Done {
    kept(bench, trial, kernel, folder).0
}

/// Runs trials of one kernel, side by side where the host has the CPUs for it.
pub fn all(bench: &Workbench, trials: &[&Trial], kernel: &Result<Kernel>, folder: &Path) -> Vec<Done> {
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    // With icount all harts take turns in one thread.
    let need = |trial: &&Trial| if trial.machine.icount { 1 } else { trial.machine.harts as usize };
    batch::packed(trials, cpus, need, |trial| {
        let kernel = kernel.as_ref().map_err(|e| Error::could_not(e.message.clone()));
        run(bench, trial, kernel, folder)
    })
}

/// The same trials, or as many runs of each as were asked for.
pub fn repeated(bench: &Workbench, trials: &[&Trial]) -> Vec<Trial> {
    let runs = bench.options.asked.select.repeat;
    let times = |trial: &&Trial| match runs {
        0 | 1 => vec![(*trial).clone()],
        runs => (1..=runs).map(|run| trial.repeated(run)).collect(),
    };
    trials.iter().flat_map(times).collect()
}

/// Like [`run`], and returns the boot as well if there was one, for callers that read more of it.
///
/// A boot that ran into a limit on a host that others kept busy says nothing, if nothing else is wrong; it gets one more
/// chance, with limits that fit. The first console is kept as `NAME.try1.log`.
pub fn kept(bench: &Workbench, trial: &Trial, kernel: Result<&Kernel>, folder: &Path) -> (Done, Option<Booted>) {
    let mut trial = Trial { host: bench.host(), ..trial.clone() };
    let kernel = match kernel {
        Ok(kernel) => kernel,
        Err(error) => return (not_booted(&trial, &error, bench, folder), None),
    };
    let console = folder.join(format!("{}.log", trial.name));
    if let Err(error) = retry::forget(&console, 1) {
        return (not_booted(&trial, &error, bench, folder), None);
    }
    let (mut done, mut booted) = once(bench, &trial, kernel, folder, 1);
    if bench.options.asked.slow.is_none()
        && let Some(first) = booted.as_ref().filter(|booted| starved(booted, &done.rows))
    {
        let Some(longer) = retry::with_longer_limits(bench, &trial.name, &console, trial.host, first.run.slowed) else {
            return (done, booted);
        };
        trial.host = longer;
        (done, booted) = once(bench, &trial, kernel, folder, 2);
    }
    (done, booted)
}

/// Whether a boot failed at a limit while the host had other work, and in no other way.
fn starved(booted: &Booted, rows: &[Row]) -> bool {
    let run = &booted.run;
    if !retry::only_slow(&run.reading) {
        return false;
    }
    let limit = matches!(run.reading.end, End::Hang(_) | End::Timeout(_));
    let at_limit = |row: &Row| limit && row.observed == judge::described(&run.reading.end, run.reading.ready);
    let timed_out = |row: &Row| match booted.report.find(&row.test) {
        Ok(Some(case)) => case.status == Status::Fail && judge::timed_out(case.reason.as_deref()),
        _ => false,
    };
    let reported = |why: &String| run.reading.forbidden.iter().any(|found| why.ends_with(&found.text));
    let stalled = |row: &Row| !row.why.is_empty() && row.why.iter().all(reported);
    // Tests after the one at which the boot ended missed their turn.
    let explained =
        |row: &Row| at_limit(row) || timed_out(row) || stalled(row) || (limit && row.verdict == Verdict::Miss);
    let mut bad = rows.iter().filter(|row| row.verdict != Verdict::Pass).peekable();
    run.slowed >= BUSY && bad.peek().is_some() && bad.all(explained)
}

/// Boots once, and judges.
fn once(bench: &Workbench, trial: &Trial, kernel: &Kernel, folder: &Path, tries: u32) -> (Done, Option<Booted>) {
    let console = folder.join(format!("{}.log", trial.name));
    let booted = match boot(bench, kernel, trial, &console) {
        Ok(booted) => booted,
        Err(error) => return (not_booted(trial, &error, bench, folder), None),
    };
    (judged(bench, trial, kernel, &booted, tries), Some(booted))
}

/// Judges a boot that has ended; it was the try with this number, from 1.
pub fn judged(bench: &Workbench, trial: &Trial, kernel: &Kernel, booted: &Booted, tries: u32) -> Done {
    let seen = BootSeen::of(booted, trial);
    let mut rows = judge::judge(trial, &seen);
    let (headline, ready, met) = (seen.headline, seen.ready, met::met(&seen.tests));
    for row in &mut rows {
        if let Ok(Some(case)) = booted.report.find(&row.test) {
            row.cases = CaseRow::all(case, &booted.run.log, row.verdict);
        }
    }
    let bad = rows.iter().any(|row| row.verdict != Verdict::Pass);
    let report = bad.then(|| report::explain(&bench.options.root, &booted.console, &rows, Some(booted)));
    let boot = Some(BootRecord::of(bench, trial, kernel, booted, bad, met, tries));
    Done { rows, report, headline, ready, boot }
}

/// The rows of a trial whose boot never began.
pub fn not_booted(trial: &Trial, error: &Error, bench: &Workbench, folder: &Path) -> Done {
    let seen = BootSeen::of_error(error, trial);
    let rows = judge::judge(trial, &seen);
    let console = folder.join(format!("{}.log", trial.name));
    let report = Some(report::explain(&bench.options.root, &console, &rows, None));
    Done { rows, report, headline: None, ready: false, boot: None }
}

/// Boots `kernel` for a trial with the console in the file `console`.
///
/// # Errors
/// When the guest's file system cannot be made, or QEMU cannot be started.
pub fn boot(bench: &Workbench, kernel: &Kernel, trial: &Trial, console: &Path) -> Result<Booted> {
    let initrd = initrd(console);
    let selftests = trial.selftests.as_deref().unwrap_or(&kernel.selftests);
    initramfs::build(&bench.busybox, selftests, &initrd)?;
    if next::is_started(&trial.append) {
        let clang = host::clang(&bench.options.base).ok_or_else(|| {
            Error::could_not("no clang is new enough to compile what starts the next kernel; select one with LLVM=")
        })?;
        next::add(&clang, &kernel.image, &initrd)?;
    }
    let append = command_line(bench, trial, selftests);
    let firmware = bench.firmware_for(trial.firmware.as_deref())?;
    let more = if trial.efi { bench.efi()?.arguments() } else { Vec::new() };
    let qemu = Boot { more: &more, ..qemu(bench, trial, kernel, &firmware, &append, &initrd, console) };
    ended(format!("boot {} on {}", kernel.name, trial.machine), &qemu)
}

/// Runs a boot to its end, as the step `what`, and reads its results.
///
/// # Errors
/// When QEMU cannot be started, or the console cannot be kept.
pub fn ended(what: String, boot: &Boot<'_>) -> Result<Booted> {
    let step = Step::start(what);
    let run = boot.run(&mut |line| step.detail(line));
    step.finish(run.as_ref().map_or("not possible", |run| short(&run.reading.end)));
    let run = run?;
    let report = ktap::parse(&run.log);
    Ok(Booted { run, report, console: boot.console.to_path_buf(), append: boot.command_line() })
}

/// The kernel's command line, with the cases for those modules in `selftests` that take them. Tests that are not built
/// yet are taken to do so.
fn command_line(bench: &Workbench, trial: &Trial, selftests: &Path) -> String {
    let mut append = trial.command_line(bench);
    for case in &trial.cases {
        if !selftests.exists() || takes_case(selftests, &case.module) {
            append = format!("{}.case={} {append}", case.module, case.name);
        }
    }
    append
}

/// Whether a test module can be told which of its cases to run.
pub fn takes_case(selftests: &Path, module: &str) -> bool {
    let bytes = fs::read(selftests.join("test_modules").join(format!("{module}.ko"))).unwrap_or_default();
    let word = b"parmtype=case:";
    let full = format!("{module}.parmtype=case:");
    bytes.windows(word.len()).any(|w| w == word) || bytes.windows(full.len()).any(|w| w == full.as_bytes())
}

/// The boot of `kernel` for a trial, with what tells the guest its tests in `append`.
pub fn qemu<'a>(
    bench: &'a Workbench,
    trial: &'a Trial,
    kernel: &'a Kernel,
    firmware: &'a Path,
    append: &'a str,
    initrd: &'a Path,
    console: &'a Path,
) -> Boot<'a> {
    Boot {
        machine: &trial.machine,
        qemu: &bench.qemu.binary,
        property: &bench.options.base.qemu.property,
        firmware,
        image: &kernel.image,
        image_stays: true,
        initrd: Some(initrd),
        append,
        more: &[],
        drives: &[],
        plugin: trial.plugin.as_deref(),
        trace: None,
        console,
        limits: trial.limits(bench),
    }
}

/// The command line that [`run`] would start QEMU with, for a shell.
///
/// # Errors
/// When there is no such firmware (exit code 64).
pub fn command(bench: &Workbench, trial: &Trial, kernel: &Kernel, folder: &Path) -> Result<String> {
    let firmware = bench.planned_firmware(trial.firmware.as_deref())?;
    let console = folder.join(format!("{}.log", trial.name));
    let append = command_line(bench, trial, trial.selftests.as_deref().unwrap_or(&kernel.selftests));
    let more = if trial.efi { bench.planned_efi().arguments() } else { Vec::new() };
    let initrd = initrd(&console);
    Ok(Boot { more: &more, ..qemu(bench, trial, kernel, &firmware, &append, &initrd, &console) }.reproducer())
}

/// Where a boot's initramfs is: with what repeats it.
fn initrd(console: &Path) -> PathBuf {
    reproduce::folder(console).join(reproduce::INITRD)
}

/// How a boot ended, in one or two words.
fn short(end: &End) -> &'static str {
    match end {
        End::Finished => "ran to its end",
        End::StackOverflow { .. } => "stack overflow",
        End::Panic { .. } => "panic",
        End::Oops { .. } => "oops",
        End::NeverBooted => "never booted",
        End::NotUnderstood { .. } => "prefix not understood",
        End::Hang(_) => "hang",
        End::Timeout(_) => "timeout",
        End::QemuFailed { .. } => "QEMU failed",
        End::Incomplete { .. } => "incomplete",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::machine::{Counters, Machine, Run};
    use crate::boot::models;
    use crate::trial::expect::Expect;
    use lazymap_console::end::{self, Ending};
    use lazymap_console::log::Log;
    use std::time::Duration;

    const HIT_LIMIT: Ending = Ending::Silent(Duration::from_secs(60));

    /// Whether a boot with these lines between the guest's marks, of the tests `a` and `b`, gets another chance.
    fn again(lines: &str, ending: &Ending) -> bool {
        let done =
            if *ending == Ending::Exited(0) { "lazymap: guest done\n[    9.000000] reboot: Power down\n" } else { "" };
        let raw = format!("[    0.000000] Linux version 7\nlazymap: guest ready\nTAP version 13\n1..2\n{lines}{done}");
        let log = Log::new(raw.clone(), vec![0.0; raw.matches('\n').count()], 1.0);
        let reading = end::read(&log, ending, "");
        let report = ktap::parse(&log);
        let counters = Ok(Some(Counters { harts: 4, stale_hits: 7, fences: 8, gone_tables: 0 }));
        let run = Run { log, reading, ending: ending.clone(), counters, harts: Ok(Vec::new()), slowed: BUSY };
        let booted = Booted { run, report, console: PathBuf::new(), append: String::new() };
        let tests = ["a", "b"].map(|test| (test.to_owned(), Expect::Pass)).to_vec();
        let trial = Trial::new("series", Machine::new(models::find("stale").unwrap()), tests);
        let rows = judge::judge(&trial, &BootSeen::of(&booted, &trial));
        assert!(rows.iter().any(|row| row.verdict != Verdict::Pass) || lines == "ok 1 a\nok 2 b\n", "{rows:?}");
        starved(&booted, &rows)
    }

    #[test]
    fn what_the_limit_explains_gets_another_chance() {
        let exited = Ending::Exited(0);
        assert!(again("ok 1 a\n", &HIT_LIMIT));
        assert!(again("", &HIT_LIMIT));
        assert!(again("", &Ending::TimedOut(Duration::from_secs(240))));
        assert!(again("not ok 1 a # TIMEOUT 45 seconds\nok 2 b\n", &exited));
        assert!(again("# RUN x\nnot ok 1 a # TIMEOUT 45 seconds\nok 2 b\n", &exited));
        let stall = "[    5.000000] rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:\n";
        let starved = "[    5.100000] rcu: rcu_preempt kthread starved for 5252 jiffies! g-1063\n";
        assert!(again(&format!("{stall}{starved}ok 1 a\nok 2 b\n"), &exited));
        assert!(again(&format!("{stall}ok 1 a\n"), &HIT_LIMIT));
    }

    #[test]
    fn what_a_kernel_did_wrong_gets_none() {
        let exited = Ending::Exited(0);
        assert!(!again("ok 1 a\nok 2 b\n", &exited));
        // The words are not what they look like.
        assert!(!again("not ok 1 a # mapping changed\nok 2 b\n", &exited));
        assert!(!again("not ok 1 a # the timeout was ignored\nok 2 b\n", &exited));
        assert!(!again("[    5.000000] WARNING: while installing\nok 1 a\nok 2 b\n", &exited));
        assert!(!again("[    5.000000] insmod: page allocation stall for 10 secs: x\nok 1 a\nok 2 b\n", &exited));
        // One is late, the other is wrong.
        assert!(!again("not ok 1 a\nnot ok 2 b # TIMEOUT 45 seconds\n", &exited));
        assert!(!again("not ok 1 a\n", &HIT_LIMIT));
        let bug = "[    5.000000] BUG: KASAN: slab-out-of-bounds in x+0x1/0x2\n";
        assert!(!again(&format!("{bug}ok 1 a\n"), &HIT_LIMIT));
        assert!(!again(&format!("ok 1 a\n{bug}"), &HIT_LIMIT));
        assert!(!again(&format!("ok 1 a\n{bug}not ok 2 b # TIMEOUT 45 seconds\n"), &exited));
        assert!(!again("[    5.000000] Oops [#1]\n", &HIT_LIMIT));
    }
}
