// SPDX-License-Identifier: GPL-2.0-only
//! A trial: what boots on which machine, with which tests, and what is expected of each.

use std::path::PathBuf;

use regex_lite::Regex;

use super::expect::{Expect, Observation};
use crate::boot::machine::{Limits, LimitsGiven, Machine};
use crate::build::workbench::Workbench;

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
    /// Limits that override the defaults.
    pub limits: LimitsGiven,
    /// The contents of the guest's `/lazy_map`, if not the kernel's own tests.
    pub selftests: Option<PathBuf>,
    /// Seconds that the guest gives each test; by default the limits decide.
    pub test_seconds: Option<u32>,
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
            limits: LimitsGiven::default(),
            selftests: None,
            test_seconds: None,
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
        bench.options.limits.over(self.limits.over(Limits::for_boot(self.tests.len(), &self.machine)))
    }

    /// What the kernel's command line has beyond [`crate::boot::machine::APPEND`].
    pub fn command_line(&self, bench: &Workbench) -> String {
        // The guest must end a test and report it before the machine counts as dead.
        let usual = || self.limits(bench).silence.as_secs().saturating_sub(GUEST_GRACE).max(1);
        let limit = self.test_seconds.map_or_else(usual, u64::from);
        command_line(&self.append, self.tests.iter().map(|(test, _)| test.as_str()), limit)
    }
}

/// `append`, plus the guest's parameters: which tests to run, and how many seconds each may take.
pub fn command_line<'a>(append: &str, tests: impl Iterator<Item = &'a str>, seconds: u64) -> String {
    let tests: Vec<&str> = tests.collect();
    format!("{append} lazymap.timeout={seconds} lazymap.tests={}", tests.join(",")).trim_start().to_owned()
}
