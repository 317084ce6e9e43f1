// SPDX-License-Identifier: GPL-2.0-only
//! The guest's init, checked in a real guest: it keeps exit codes, ends tests, and reaches its own end.

use lazymap_console::end::End;
use lazymap_console::ktap::Status;

use crate::build::kernel::Kernel;
use crate::build::workbench::Workbench;
use crate::trial::expect::Expect;
use crate::trial::plan::Trial;
use crate::trial::run;
use crate::trial::tally::Tally;
use crate::verbs::demo;

/// Tests that the guest's init must cope with, and what it must report: result, reason, and a
/// diagnostic line.
const TESTS: &[(&str, Status, Option<&str>, Option<&str>)] = &[
    ("test-pass.sh", Status::Pass, None, Some("touches: 12")),
    ("test-fail.sh", Status::Fail, Some("exit=3"), Some("a word on stderr")),
    ("test-skip.sh", Status::Skip, Some("no reason given"), None),
    ("test-slow.sh", Status::Fail, Some("timeout"), Some("starting")),
    ("test-stubborn.sh", Status::Fail, Some("timeout"), None),
    ("test-noexec.sh", Status::Fail, Some("not executable"), None),
    ("test-none.sh", Status::Fail, Some("missing"), None),
    ("test-pass.sh", Status::Pass, None, None),
];
/// Seconds after which the guest ends a test.
const TEST_SECONDS: u32 = 8;

/// Boots `kernel` with tests that misbehave, and checks what the guest reports.
pub fn run(bench: &Workbench, kernel: &Kernel, tally: &mut Tally) {
    let console = bench.options.place("guest-check").join("plain.log");
    let tests = TESTS.iter().map(|(name, ..)| ((*name).to_owned(), Expect::Pass)).collect();
    let booted = demo::plain().and_then(|machine| {
        let trial = Trial {
            selftests: Some(bench.options.root.join("harness/tests/fixtures/guest")),
            test_seconds: Some(TEST_SECONDS),
            ..Trial::new(&kernel.name, machine, tests)
        };
        run::boot(bench, kernel, &trial, &console)
    });
    let booted = match booted {
        Ok(booted) => booted,
        Err(error) => return tally.error("guest", &error.message),
    };
    match booted.run.reading.end {
        End::Finished => tally.ok("guest: gets to its end"),
        ref end => tally.not_ok("guest: gets to its end", &format!("{end}; see {}", console.display())),
    }
    for (at, (test, status, reason, note)) in TESTS.iter().enumerate() {
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
