// SPDX-License-Identifier: GPL-2.0-only
//! A trial: a kernel boots on a machine, runs tests there, and the result is compared with what is
//! expected.

use std::path::{Path, PathBuf};

use regex_lite::Regex;

use super::expect::{self, Expect, Observation};
use super::report::{self, Row};
use super::seen::BootSeen;
use super::verdict::Verdict;
use crate::boot::initramfs;
use crate::boot::machine::{Boot, Limits, LimitsGiven, Machine, Run};
use crate::build::kernel::Kernel;
use crate::build::workbench::Workbench;
use crate::console::end::End;
use crate::console::ktap::{self, Report};
use crate::ground::error::Result;
use crate::ground::progress::Step;

/// What the guest needs to end a test, say so and go on, in seconds.
pub const GUEST_GRACE: u64 = 15;

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
    /// Limits that differ from the usual ones.
    pub limits: LimitsGiven,
    /// What the guest finds in `/lazy_map`, if not the kernel's own tests.
    pub selftests: Option<PathBuf>,
    /// Seconds that the guest gives each test, if not what the limits allow.
    pub test_seconds: Option<u32>,
}

impl Trial {
    /// A trial of `kernel` on `machine` with the usual limits, no scenario, and files called
    /// `KERNEL-MACHINE`.
    pub fn new(kernel: &str, machine: Machine, tests: Vec<(String, Expect)>) -> Self {
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
            limits: LimitsGiven::default(),
            selftests: None,
            test_seconds: None,
        }
    }

    /// The rows that it gives: its tests, or the boot as the only one.
    pub fn rows(&self) -> Vec<(String, Expect)> {
        match &self.at_boot {
            Some(observation) => vec![("(boot)".to_owned(), Expect::Caught(observation.clone()))],
            None => self.tests.clone(),
        }
    }

    /// How long the boot may take: what the environment says, or the trial, or what is usual.
    pub fn limits(&self, bench: &Workbench) -> Limits {
        bench.options.limits.over(self.limits.over(Limits::for_boot(self.tests.len(), &self.machine)))
    }

    /// What the kernel's command line has beyond [`crate::boot::machine::APPEND`].
    pub fn command_line(&self, bench: &Workbench) -> String {
        // The guest ends a test early enough to say so before the machine is taken for dead.
        let usual = || self.limits(bench).silence.as_secs().saturating_sub(GUEST_GRACE).max(1);
        let limit = self.test_seconds.map_or_else(usual, u64::from);
        command_line(&self.append, self.tests.iter().map(|(test, _)| test.as_str()), limit)
    }
}

/// `append`, and what tells the guest which tests to run and how many seconds one may take.
pub fn command_line<'a>(append: &str, tests: impl Iterator<Item = &'a str>, seconds: u64) -> String {
    let tests: Vec<&str> = tests.collect();
    format!("{append} lazymap.timeout={seconds} lazymap.tests={}", tests.join(",")).trim_start().to_owned()
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
    let booted = kernel.and_then(|kernel| boot(bench, kernel, trial, &console));
    let seen = match &booted {
        Ok(booted) => BootSeen::of(booted, trial),
        Err(error) => BootSeen::of_error(error, trial),
    };
    let rows = expect::judge(trial, &seen);
    let bad = rows.iter().any(|row| row.verdict != Verdict::Pass);
    let report = bad.then(|| report::explain(&bench.options.root, &console, &rows, booted.as_ref().ok()));
    Done { rows, report, headline: seen.headline }
}

/// Boots `kernel` for a trial with the console in the file `console`.
///
/// # Errors
/// When the guest's file system cannot be made, or QEMU not be started.
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

/// QEMU for a boot of `kernel`.
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
        End::Hang(_) => "hang",
        End::Timeout(_) => "timeout",
        End::QemuFailed { .. } => "QEMU failed",
        End::Incomplete { .. } => "incomplete",
    }
}
