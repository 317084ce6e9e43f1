// SPDX-License-Identifier: GPL-2.0-only
//! A trial: what boots on which machine, with which tests, and what is expected of each.

use std::path::PathBuf;

use regex_lite::Regex;

use super::expect::{Expect, Observation};
use crate::boot::machine::{Limits, LimitsGiven, Machine};
use crate::build::workbench::Workbench;
use crate::ground::pace::Host;

/// Seconds that the guest needs to end a test, report that and go on.
pub const GUEST_GRACE: u64 = 15;

/// A boot, and what is expected of its tests.
#[derive(Clone, Debug)]
pub struct Trial {
    /// The name of its files, without an ending.
    pub name: String,
    /// The scenario that it belongs to, if there are several.
    pub scenario: Option<String>,
    /// The kernel's name in results.
    pub kernel: String,
    pub machine: Machine,
    /// More for the kernel's command line; may be empty.
    pub append: String,
    /// The tests in the order in which they run, and what is expected of each. The test that ends a
    /// kernel comes last. Without tests, what is expected must happen before any test.
    pub tests: Vec<(String, Expect)>,
    /// What must happen before any test, for a trial without tests.
    pub at_boot: Option<Observation>,
    /// A plugin of QEMU's with its arguments, as `-plugin` takes it.
    pub plugin: Option<String>,
    /// What the console must show, or the configuration is not what the trial's name says.
    pub require: Vec<Regex>,
    /// Of the stale hits, the percentage that the tests must have met with touches that they count.
    pub met: Option<u8>,
    /// Limits that override the defaults.
    pub limits: LimitsGiven,
    /// The version of the firmware, if not the selected one.
    pub firmware: Option<String>,
    /// EDK2 starts the kernel, after the firmware.
    pub efi: bool,
    /// The contents of the guest's `/lazy_map`, if not the kernel's own tests.
    pub selftests: Option<PathBuf>,
    /// Seconds that the guest gives each test; by default the limits decide.
    pub test_seconds: Option<u32>,
    /// Stretches the limits that neither the environment nor `test_seconds` sets, and the guest's own,
    /// whose clock goes on while others have the host's CPUs.
    pub host: Host,
    /// Cases to select, where the modules can do that.
    pub cases: Vec<Case>,
    /// Which of several runs this is, from 1.
    pub repeat: Option<u32>,
}

/// A case of a test module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// The module, without `.ko`.
    pub module: String,
    pub name: String,
}

impl Trial {
    /// A trial of `kernel` on `machine` with the default limits, no scenario, and files called
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
            met: None,
            limits: LimitsGiven::default(),
            firmware: None,
            efi: false,
            selftests: None,
            test_seconds: None,
            host: Host::IDLE,
            cases: Vec::new(),
            repeat: None,
        }
    }

    /// Its rows in the table: its tests, or the boot as the only one.
    pub fn rows(&self) -> Vec<(String, Expect)> {
        match &self.at_boot {
            Some(observation) => vec![("(boot)".to_owned(), Expect::Caught(observation.clone()))],
            None => self.tests.clone(),
        }
    }

    /// How long the boot may take: set by the environment, else by the trial, else the default.
    pub fn limits(&self, bench: &Workbench) -> Limits {
        let tests: Vec<&str> = self.tests.iter().map(|(test, _)| test.as_str()).collect();
        let usual = self.limits.over(Limits::for_boot(&tests, &self.machine));
        bench.options.limits.over(usual.times(self.host.slow))
    }

    /// What the kernel's command line has beyond [`crate::boot::machine::APPEND`].
    pub fn command_line(&self, bench: &Workbench) -> String {
        // The guest must end a test and report it before the machine counts as dead.
        let Host { slow, busy } = self.host;
        let usual = || self.limits(bench).silence.mul_f64(busy).as_secs().saturating_sub(GUEST_GRACE).max(1);
        let limit = self.test_seconds.map_or_else(usual, u64::from);
        let mut append = self.append.clone();
        if slow * busy > PATIENCE && !append.contains(STALL) {
            append += &format!(" {STALL}{}", ((STALL_SECONDS * slow * busy) as u32).min(MOST_STALL_SECONDS));
        }
        command_line(&append, self.tests.iter().map(|(test, _)| test.as_str()), limit)
    }

    /// The same trial as one of several runs.
    #[must_use]
    pub fn repeated(&self, run: u32) -> Self {
        Self { name: format!("{}-run{run}", self.name), repeat: Some(run), ..self.clone() }
    }
}

/// After how many seconds RCU says that a CPU is stuck: its usual value, and its largest one
/// (CONFIG_RCU_CPU_STALL_TIMEOUT).
const STALL: &str = "rcupdate.rcu_cpu_stall_timeout=";
const STALL_SECONDS: f64 = 21.0;
const MOST_STALL_SECONDS: u32 = 300;
/// Slower and busier hosts than this get more time before RCU complains.
const PATIENCE: f64 = 1.3;

/// `append`, plus the guest's parameters: which tests to run, and how many seconds each may take.
pub fn command_line<'a>(append: &str, tests: impl Iterator<Item = &'a str>, seconds: u64) -> String {
    let tests: Vec<&str> = tests.collect();
    format!("{append} lazymap.timeout={seconds} lazymap.tests={}", tests.join(",")).trim_start().to_owned()
}
