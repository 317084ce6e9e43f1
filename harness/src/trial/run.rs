// SPDX-License-Identifier: GPL-2.0-only
//! Runs a trial: boots its kernel, reads what was printed, and compares it with what is expected.

use std::path::{Path, PathBuf};
use std::thread;

use super::judge;
use super::plan::Trial;
use super::report::{self, Row};
use super::seen::{BootSeen, Booted};
use super::verdict::Verdict;
use crate::boot::initramfs;
use crate::boot::machine::Boot;
use crate::build::kernel::Kernel;
use crate::build::workbench::Workbench;
use crate::console::end::End;
use crate::console::ktap;
use crate::ground::batch;
use crate::ground::error::{Error, Result};
use crate::ground::progress::Step;

/// The result of a trial.
#[derive(Debug)]
pub struct Done {
    /// One for each test.
    pub rows: Vec<Row>,
    /// What helps to find out why, if not all rows passed.
    pub report: Option<String>,
    /// The message that ended the boot.
    pub headline: Option<String>,
    /// Whether the guest got as far as running tests.
    pub ready: bool,
}

/// Runs a trial of `kernel`. The console goes to `FOLDER/NAME.log`, see [`Trial::name`], with
/// `.qemu.log` and `.cmd` beside it. Errors become rows.
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

/// Like [`run`], and returns the boot as well if there was one, for callers that read more of it.
pub fn kept(bench: &Workbench, trial: &Trial, kernel: Result<&Kernel>, folder: &Path) -> (Done, Option<Booted>) {
    let console = folder.join(format!("{}.log", trial.name));
    let booted = kernel.and_then(|kernel| boot(bench, kernel, trial, &console));
    let (rows, headline, ready) = {
        let seen = match &booted {
            Ok(booted) => BootSeen::of(booted, trial),
            Err(error) => BootSeen::of_error(error, trial),
        };
        (judge::judge(trial, &seen), seen.headline, seen.ready)
    };
    let bad = rows.iter().any(|row| row.verdict != Verdict::Pass);
    let report = bad.then(|| report::explain(&bench.options.root, &console, &rows, booted.as_ref().ok()));
    (Done { rows, report, headline, ready }, booted.ok())
}

/// Boots `kernel` for a trial with the console in the file `console`.
///
/// # Errors
/// When the guest's file system cannot be made, or QEMU cannot be started.
pub fn boot(bench: &Workbench, kernel: &Kernel, trial: &Trial, console: &Path) -> Result<Booted> {
    let initrd = initrd(bench, console);
    initramfs::build(&bench.busybox, trial.selftests.as_deref().unwrap_or(&kernel.selftests), &initrd)?;
    let step = Step::start(format!("boot {} on {}", kernel.name, trial.machine));
    let append = trial.command_line(bench);
    let run = qemu(bench, trial, kernel, &append, &initrd, console).run(&mut |line| step.detail(line));
    step.finish(run.as_ref().map_or("not possible", |run| short(&run.reading.end)));
    let run = run?;
    let report = ktap::parse(&run.log);
    Ok(Booted { run, report, console: console.to_path_buf() })
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
    qemu(bench, trial, kernel, &append, &initrd(bench, &console), &console).reproducer()
}

fn initrd(bench: &Workbench, console: &Path) -> PathBuf {
    let name = console.file_stem().unwrap_or_default().to_string_lossy();
    bench.options.out.join("guest").join(format!("{name}.cpio.gz"))
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
