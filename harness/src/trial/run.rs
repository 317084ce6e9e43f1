// SPDX-License-Identifier: GPL-2.0-only
//! Runs a trial: boots its kernel, reads what was printed, and compares it with what is expected.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

use super::judge;
use super::plan::Trial;
use super::record::{BootRecord, CaseRow};
pub use super::report::Done;
use super::report::{self, Row};
use super::seen::{BootSeen, Booted};
use super::verdict::Verdict;
use crate::boot::machine::{BUSY, Boot};
use crate::boot::{initramfs, reproduce};
use crate::build::kernel::Kernel;
use crate::build::workbench::Workbench;
use crate::console::end::End;
use crate::console::ktap;
use crate::ground::batch;
use crate::ground::error::{Error, Result};
use crate::ground::progress::Step;

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
/// A boot that ran into a limit on a host that others kept busy says nothing; it gets one more chance,
/// with limits that fit.
pub fn kept(bench: &Workbench, trial: &Trial, kernel: Result<&Kernel>, folder: &Path) -> (Done, Option<Booted>) {
    let mut trial = Trial { host: bench.host(), ..trial.clone() };
    let kernel = match kernel {
        Ok(kernel) => kernel,
        Err(error) => return (not_booted(&trial, &error, bench, folder), None),
    };
    let (mut done, mut booted) = once(bench, &trial, kernel, folder, 1);
    if bench.options.asked.slow.is_none()
        && let Some(first) = booted.as_ref().filter(|booted| starved(booted, &done.rows))
    {
        let slowed = first.run.slowed;
        trial.host.slow = (trial.host.slow * BUSY).min(MOST_SLOW);
        trial.host.busy = (trial.host.busy.max(slowed) * BUSY).min(MOST_SLOW);
        eprintln!(
            "lazymap: note: {} ended at a limit, but QEMU got {:.0} % of the CPU time that it could use; \
             once more, with longer limits",
            trial.name,
            100.0 / slowed
        );
        (done, booted) = once(bench, &trial, kernel, folder, 2);
    }
    (done, booted)
}

/// The most by which limits are stretched without being asked.
const MOST_SLOW: f64 = 20.0;

/// Whether a boot failed at a limit while the host had other work.
fn starved(booted: &Booted, rows: &[Row]) -> bool {
    let bad = || rows.iter().filter(|row| row.verdict != Verdict::Pass);
    let late = |row: &Row| ["timeout", "hang"].iter().any(|word| row.observed.contains(word));
    let stalls = |row: &Row| row.why.iter().any(|why| why.contains("stall"));
    let limit = matches!(booted.run.reading.end, End::Hang(_) | End::Timeout(_));
    booted.run.slowed >= BUSY && bad().next().is_some() && (limit || bad().any(|row| late(row) || stalls(row)))
}

/// Boots once, and judges.
fn once(bench: &Workbench, trial: &Trial, kernel: &Kernel, folder: &Path, tries: u32) -> (Done, Option<Booted>) {
    let console = folder.join(format!("{}.log", trial.name));
    let booted = match boot(bench, kernel, trial, &console) {
        Ok(booted) => booted,
        Err(error) => return (not_booted(trial, &error, bench, folder), None),
    };
    let seen = BootSeen::of(&booted, trial);
    let mut rows = judge::judge(trial, &seen);
    let (headline, ready) = (seen.headline, seen.ready);
    for row in &mut rows {
        if let Ok(Some(case)) = booted.report.find(&row.test) {
            row.cases = CaseRow::all(case, &booted.run.log, row.verdict);
        }
    }
    let bad = rows.iter().any(|row| row.verdict != Verdict::Pass);
    let report = bad.then(|| report::explain(&bench.options.root, &console, &rows, Some(&booted)));
    let boot = Some(BootRecord::of(bench, trial, kernel, &booted, bad, tries));
    (Done { rows, report, headline, ready, boot }, Some(booted))
}

/// The rows of a trial whose boot never began.
fn not_booted(trial: &Trial, error: &Error, bench: &Workbench, folder: &Path) -> Done {
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
    let step = Step::start(format!("boot {} on {}", kernel.name, trial.machine));
    let mut append = trial.command_line(bench);
    for case in &trial.cases {
        if takes_case(selftests, &case.module) {
            append = format!("{}.case={} {append}", case.module, case.name);
        }
    }
    let qemu = qemu(bench, trial, kernel, &append, &initrd, console);
    let append = qemu.command_line();
    let run = qemu.run(&mut |line| step.detail(line));
    step.finish(run.as_ref().map_or("not possible", |run| short(&run.reading.end)));
    let run = run?;
    let report = ktap::parse(&run.log);
    Ok(Booted { run, report, console: console.to_path_buf(), append })
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
    append: &'a str,
    initrd: &'a Path,
    console: &'a Path,
) -> Boot<'a> {
    Boot {
        machine: &trial.machine,
        qemu: &bench.qemu.binary,
        property: &bench.options.base.qemu.property,
        firmware: &bench.firmware,
        image: &kernel.image,
        image_stays: true,
        initrd,
        append,
        plugin: trial.plugin.as_deref(),
        trace: None,
        console,
        limits: trial.limits(bench),
    }
}

/// The command line that [`run`] would start QEMU with, for a shell.
pub fn command(bench: &Workbench, trial: &Trial, kernel: &Kernel, folder: &Path) -> String {
    let console = folder.join(format!("{}.log", trial.name));
    let append = trial.command_line(bench);
    qemu(bench, trial, kernel, &append, &initrd(&console), &console).reproducer()
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
