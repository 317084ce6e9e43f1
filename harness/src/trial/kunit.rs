// SPDX-License-Identifier: GPL-2.0-only
//! Rows of a run of `kunit.py`: one for each suite.
//!
//! The console is read here, too: `kunit.py` itself takes a suite without tests for a pass, and does not look at what
//! the kernel reports. If it sees a failure that is not on the console, that is an error.

use std::path::Path;

use lazymap_console::end::{self, Ending};
use lazymap_console::ktap::{self, Case, Report, Status, Totals};
use lazymap_console::log::Log;

use super::record::{CaseRow, tenths};
use super::report::{self, Done, Row};
use super::verdict::Verdict;
use crate::build::kernel::SERIES;
use crate::build::kunit::{Arch, CPUS, Tested};

/// What a row is about that is about no suite.
const BOOT: &str = "(boot)";

/// The result on one architecture; `console` is the name of the file with the console, beside the results.
pub fn done(root: &Path, scenario: &str, arch: Arch, tested: &Tested, console: &str) -> Done {
    let row = |test: &str, observed: String, verdict: Verdict| Row {
        scenario: Some(scenario.to_owned()),
        kernel: SERIES.to_owned(),
        machine: arch.name().to_owned(),
        harts: CPUS,
        test: test.to_owned(),
        expected: "pass".to_owned(),
        observed,
        verdict,
        stale_hits: None,
        seconds: 0.0,
        console: String::new(),
        why: Vec::new(),
        repeat: None,
        cases: Vec::new(),
    };
    let mut rows = match tested {
        Tested::Skipped(why) => vec![row(BOOT, format!("skipped: {why}"), Verdict::Skip)],
        Tested::NotBooted(why) => vec![row(BOOT, why.clone(), Verdict::Error)],
        Tested::Booted { console, well } => of_console(console, *well, &row),
    };
    let ready = matches!(tested, Tested::Booted { .. });
    if ready {
        rows.iter_mut().for_each(|row| console.clone_into(&mut row.console));
    }
    let bad = rows.iter().any(|row| row.verdict != Verdict::Pass);
    let report = bad.then(|| report::explain(root, Path::new(console), &rows, None));
    Done { rows, report, headline: None, ready, boot: None }
}

/// The rows of a boot.
fn of_console(console: &str, well: bool, row: &dyn Fn(&str, String, Verdict) -> Row) -> Vec<Row> {
    let log = Log::of(&without_modules(console));
    let report = ktap::parse(&log);
    let mut rows: Vec<Row> = report.cases.iter().map(|suite| of_suite(suite, &log, row)).collect();
    let reading = end::read(&log, &Ending::Unknown, "");
    let reports: Vec<String> = reading.forbidden.iter().chain(&reading.headline).map(ToString::to_string).collect();
    if let Some(first) = reports.first() {
        rows.push(Row { why: reports.clone(), ..row(BOOT, format!("the kernel reports: {first}"), Verdict::Fail) });
    }
    let problems: Vec<String> = report.problems.iter().map(ToString::to_string).collect();
    if let Some(first) = problems.first() {
        rows.push(Row { why: problems.clone(), ..row(BOOT, first.clone(), Verdict::Error) });
    }
    if rows.is_empty() {
        rows.push(row(BOOT, "no test has a result".to_owned(), Verdict::Error));
    }
    let good = |row: &Row| matches!(row.verdict, Verdict::Pass | Verdict::Skip);
    if !well && rows.iter().all(good) {
        let why = "kunit.py says that a test failed, and the console does not";
        rows.push(row(BOOT, why.to_owned(), Verdict::Error));
    }
    rows
}

/// The console with empty lines in place of what test modules report: the suite of kselftest.rs runs cases like theirs
/// that fail on purpose.
fn without_modules(console: &str) -> String {
    let reports = |line: &str| {
        let text = line.rsplit_once("] ").map_or(line, |(_, text)| text);
        text.split_once(": ").is_some_and(|(module, said)| {
            let result = ["ok ", "not ok ", "KTAP version ", "1..", "# "].iter().any(|word| said.starts_with(word));
            result && module.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        })
    };
    console.lines().map(|line| if reports(line) { "\n".to_owned() } else { format!("{line}\n") }).collect()
}

/// The row of a suite.
fn of_suite(suite: &Case, log: &Log, row: &dyn Fn(&str, String, Verdict) -> Row) -> Row {
    let alone = Report { cases: vec![suite.clone()], problems: Vec::new() };
    let verdict = match suite.status {
        Status::Pass | Status::Xfail if suite.cases.is_empty() => Verdict::Error,
        Status::Pass | Status::Xfail => Verdict::Pass,
        Status::Skip => Verdict::Skip,
        Status::Xpass | Status::Fail => Verdict::Fail,
        Status::Miss => Verdict::Miss,
        Status::Error => Verdict::Error,
    };
    let observed = if suite.cases.is_empty() { "no tests".to_owned() } else { counted(alone.totals()) };
    let mut why: Vec<String> = ktap::innermost(&suite.cases)
        .into_iter()
        .filter(|(_, case)| case.status >= Status::Xpass)
        .map(|(name, case)| format!("{name}: {}", case.reason.clone().unwrap_or_else(|| case.status.to_string())))
        .collect();
    why.extend(alone.all_problems().into_iter().map(ToString::to_string));
    let stamp = |number: usize| log.lines.iter().find(|line| line.number == number)?.stamp;
    let took = stamp(suite.line).zip(stamp(suite.first_line)).map_or(0.0, |(end, start)| end - start);
    Row {
        seconds: tenths(took.max(0.0)),
        why,
        cases: CaseRow::all(suite, log, verdict),
        ..row(&suite.name, observed, verdict)
    }
}

/// Numbers of tests, in words.
fn counted(totals: Totals) -> String {
    let Totals { passed, failed, skipped, errors } = totals;
    let parts = [(passed, "passed"), (failed, "failed"), (skipped, "skipped"), (errors, "without a result")];
    let some = parts.iter().filter(|(number, _)| *number > 0);
    some.map(|(number, what)| format!("{number} {what}")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSES: &str = "Linux version 7.3.4\nKTAP version 1\n1..2\n    KTAP version 1\n    # Subtest: rust_smp\n    \
        # module: kernel\n    1..2\n    ok 1 each_cpu_once\n    ok 2 others_once # SKIP\n# rust_smp: pass:1 fail:0 \
        skip:1 total:2\nok 1 rust_smp\n    KTAP version 1\n    # Subtest: rust_doctests_kernel\n    1..1\n    \
        # rust_doctest_kernel_smp_rs_0.location: rust/kernel/smp.rs:55\n    ok 1 rust_doctest_kernel_smp_rs_0\n\
        ok 2 rust_doctests_kernel\nreboot: Restarting system\n";

    fn seen(console: &str, well: bool) -> Vec<(String, String, Verdict)> {
        let tested = Tested::Booted { console: console.to_owned(), well };
        let done = done(Path::new("/r"), "kunit", Arch::X86, &tested, "kunit-x86_64.log");
        assert_eq!(done.report.is_some(), done.rows.iter().any(|row| row.verdict != Verdict::Pass));
        assert!(done.rows.iter().all(|row| row.machine == "x86_64" && row.console == "kunit-x86_64.log"));
        done.rows.into_iter().map(|row| (row.test, row.observed, row.verdict)).collect()
    }

    fn row(test: &str, observed: &str, verdict: Verdict) -> (String, String, Verdict) {
        (test.to_owned(), observed.to_owned(), verdict)
    }

    #[test]
    fn each_suite_is_a_row() {
        let all = [
            row("rust_smp", "1 passed, 1 skipped", Verdict::Pass),
            row("rust_doctests_kernel", "1 passed", Verdict::Pass),
        ];
        assert_eq!(seen(PASSES, true), all);
        // A failure that only kunit.py sees.
        let last = seen(PASSES, false).pop().unwrap();
        assert_eq!((last.0.as_str(), last.2), ("(boot)", Verdict::Error));
        assert!(last.1.contains("kunit.py says"), "{}", last.1);
    }

    #[test]
    fn a_failure_is_one() {
        let fails =
            PASSES.replace("ok 1 each_cpu_once", "not ok 1 each_cpu_once").replace("pass:1 fail:0", "pass:0 fail:1");
        let fails = fails.replace("\nok 1 rust_smp", "\nnot ok 1 rust_smp");
        assert_eq!(seen(&fails, false)[0], row("rust_smp", "1 failed, 1 skipped", Verdict::Fail));
        // Whatever kunit.py says.
        assert_eq!(seen(&fails, true).len(), 2);
    }

    #[test]
    fn cases_that_fail_inside_a_suite_are_its_own() {
        let noisy = PASSES.replacen("KTAP version 1\n", "KTAP version 1\nrust_kselftest: not ok 1 case\n", 1);
        assert_ne!(noisy, PASSES);
        assert_eq!(seen(&noisy, true), seen(PASSES, true));
        let fails = PASSES.replace("ok 1 each_cpu_once", "not ok 1 each_cpu_once");
        assert!(without_modules(&fails).contains("    not ok 1 each_cpu_once"));
    }

    #[test]
    fn no_tests_are_no_pass() {
        for console in ["", "Linux version 7.3.4\nreboot: Restarting system\n"] {
            let all = seen(console, true);
            assert!(all[0].1.contains("no test results"), "{all:?}");
            assert_eq!((all.len(), all[0].0.as_str(), all[0].2), (1, "(boot)", Verdict::Error));
        }
        let empty = "Linux version 7.3.4\nKTAP version 1\n1..1\nok 1 rust_smp\n";
        assert_eq!(seen(empty, true), [row("rust_smp", "no tests", Verdict::Error)]);
    }

    #[test]
    fn a_console_that_ends_early_is_no_pass() {
        let cut = PASSES.split_once("    ok 2 others_once").unwrap().0;
        let all = seen(cut, false);
        assert!(all.iter().all(|(.., verdict)| !matches!(verdict, Verdict::Pass | Verdict::Skip)), "{all:?}");
        assert!(all.iter().any(|(test, ..)| test == "rust_smp"), "{all:?}");
    }

    #[test]
    fn what_the_kernel_reports_fails() {
        let splat = "WARNING: kernel/smp.c:815 at smp_call_function_many_cond+0x1/0x2, CPU#1: kunit_try_catch/30\n";
        let all = seen(&PASSES.replace("    ok 2 others_once", &format!("{splat}    ok 2 others_once")), true);
        let (test, observed, verdict) = all.last().unwrap();
        assert_eq!((test.as_str(), *verdict), ("(boot)", Verdict::Fail));
        assert!(observed.contains("smp_call_function_many_cond"), "{observed}");
    }

    #[test]
    fn what_was_not_booted_says_why() {
        let of = |tested: &Tested| done(Path::new("/r"), "kunit", Arch::Riscv, tested, "x.log").rows.remove(0);
        let skipped = of(&Tested::Skipped("no qemu".into()));
        assert_eq!((skipped.observed.as_str(), skipped.verdict), ("skipped: no qemu", Verdict::Skip));
        let broken = of(&Tested::NotBooted("make failed".into()));
        assert_eq!((broken.observed.as_str(), broken.verdict), ("make failed", Verdict::Error));
        assert_eq!((broken.console.as_str(), broken.test.as_str()), ("", "(boot)"));
    }
}
