// SPDX-License-Identifier: GPL-2.0-only
//! A trial: what boots on which machine, with which tests, and what is expected of each.

use std::path::PathBuf;

use regex_lite::Regex;

use super::expect::{Expect, Observation};
use crate::boot::machine::{Limits, LimitsGiven, Machine};
use crate::build::workbench::Workbench;

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
