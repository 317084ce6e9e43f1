// SPDX-License-Identifier: GPL-2.0-only
//! What is expected of a test, and the signs of a broken kernel.

use std::fmt;

use regex_lite::Regex;

use crate::boot::machine::Machine;

/// What is expected of a test.
#[derive(Clone, Debug)]
pub enum Expect {
    /// It passes.
    Pass,
    /// It passes after it touched new mappings, on a machine that used stale translations.
    Survive,
    /// The kernel runs out of stack while the test runs.
    StackOverflow,
    /// It shows what the control is for.
    Caught(Observation),
}

impl Expect {
    /// What a kernel without faults must do on a machine.
    pub fn on(machine: &Machine) -> Self {
        if machine.model.stale { Self::Survive } else { Self::Pass }
    }

    /// The name in `results.json`.
    pub fn name(&self) -> String {
        match self {
            Self::Pass | Self::Survive => "pass".to_owned(),
            Self::StackOverflow => "stack overflow".to_owned(),
            Self::Caught(observation) => observation.to_string(),
        }
    }
}

/// A sign that a kernel is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    /// The kernel ran out of stack.
    StackOverflow,
    /// It reported a fault, with the given symbol.
    Oops,
    /// It panicked with the given message.
    Panic,
    /// It died or went silent before any test.
    BootDeath,
    /// It went silent while a test ran, or the test never ended.
    Hang,
    /// The given kernel message.
    Warning,
    /// The test reported that it failed.
    TestFailure,
}

impl Sign {
    pub const ALL: [Self; 7] =
        [Self::StackOverflow, Self::Oops, Self::Panic, Self::BootDeath, Self::Hang, Self::Warning, Self::TestFailure];

    /// The word in `controls.toml`.
    pub fn word(self) -> &'static str {
        match self {
            Self::StackOverflow => "stack-overflow",
            Self::Oops => "oops",
            Self::Panic => "panic",
            Self::BootDeath => "boot-death",
            Self::Hang => "hang",
            Self::Warning => "warning",
            Self::TestFailure => "test-failure",
        }
    }
}

impl fmt::Display for Sign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.word().replace('-', " "))
    }
}

/// What must be seen of a control in a boot: one of several signs.
#[derive(Clone, Debug)]
pub struct Observation {
    /// The signs; one of them is enough.
    pub signs: Vec<Sign>,
    /// For [`Sign::Oops`] and [`Sign::Panic`]: where it happened, a function in `epc` or `ra`.
    pub symbol: Option<String>,
    /// For [`Sign::Panic`], [`Sign::Warning`] and [`Sign::TestFailure`]: what it must match.
    pub text: Option<Regex>,
    /// The cases that fail, if not empty: these and no others. If the boot ends in one of them, it is the only one, and
    /// nothing must have failed before.
    pub fails: Vec<String>,
}

impl fmt::Display for Observation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let signs: Vec<String> = self.signs.iter().map(ToString::to_string).collect();
        f.write_str(&signs.join(" or "))?;
        self.symbol.iter().try_for_each(|symbol| write!(f, " in {symbol}"))
    }
}
