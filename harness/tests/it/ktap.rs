// SPDX-License-Identifier: GPL-2.0-only
//! The KTAP parser on whole outputs.

use std::fmt::Write;
use std::fs;

use lazymap::console::ktap::{self, Case, Progress, Report, Status, Totals};
use lazymap::console::log::Log;

fn fixture(name: &str) -> Report {
    let path = format!("{}/tests/fixtures/ktap/{name}.txt", env!("CARGO_MANIFEST_DIR"));
    let bytes = fs::read(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
    ktap::parse(&Log::of(&String::from_utf8_lossy(&bytes)))
}

/// A tree as text: `STATUS NAME (REASON)`, and `! LINE: PROBLEM`.
fn tree(report: &Report) -> Vec<String> {
    fn add(lines: &mut Vec<String>, case: &Case, depth: usize) {
        let mut line = format!("{}{} {}", "  ".repeat(depth), case.status, case.name);
        if let Some(reason) = &case.reason {
            write!(line, " ({reason})").unwrap();
        }
        lines.push(line);
        case.cases.iter().for_each(|c| add(lines, c, depth + 1));
    }
    let mut lines = Vec::new();
    report.cases.iter().for_each(|c| add(&mut lines, c, 0));
    lines.extend(report.all_problems().iter().map(|p| format!("! {p}")));
    lines
}

fn assert_tree(name: &str, status: Status, expected: &[&str]) {
    let report = fixture(name);
    assert_eq!(tree(&report), expected, "{name}");
    assert_eq!(report.status(), status, "{name}");
}

#[test]
fn the_guests_own_protocol() {
    let runner = "selftests: riscv/lazy_map: ";
    let expected = [
        "pass test-ipi.sh",
        "  pass ipi_one_way",
        "  pass ipi_both_ways",
        "skip test-skip.sh (no reason given)",
        "fail test-fail.sh (exit=1)",
        "  fail fails",
        "fail test-slow.sh (timeout)",
        "pass test-stray.sh",
        "fail test-stubborn.sh (timeout)",
        "fail test-noexec.sh (not executable)",
        "fail test-none.sh (missing)",
    ];
    let report = fixture("kselftest");
    let seen: Vec<_> = tree(&report).iter().map(|l| l.replace(runner, "")).collect();
    assert_eq!(seen, expected);
    assert_eq!(report.status(), Status::Fail);
    assert_eq!(report.totals(), Totals { passed: 3, failed: 5, skipped: 1, errors: 0 });
    let ipi = report.find("test-ipi.sh").unwrap();
    assert_eq!(ipi.all_notes(), ["touches: 12"]);
    assert_eq!((ipi.first_line, ipi.line), (4, 10));
    assert_eq!(report.find("test-slow.sh").unwrap().notes, ["starting"]);
}

#[test]
fn kunit_indents_its_suites() {
    assert_tree(
        "kunit",
        Status::Fail,
        &[
            "fail lazy_map_bitmap",
            "  pass one_bit_per_cpu",
            "  pass all_words",
            "    pass first",
            "    skip last (one word only)",
            "  fail clear_own",
            "pass lazy_map_order",
            "  pass store_before_mark",
        ],
    );
}

#[test]
fn callers_levels_and_carriage_returns_are_no_part_of_a_name() {
    assert_tree("caller-crlf", Status::Pass, &["pass outer", "  pass inner", "pass last"]);
}

#[test]
fn a_panic_leaves_the_running_test_and_those_after_it_without_result() {
    let report = fixture("panic");
    assert_eq!(
        tree(&report),
        [
            "pass selftests: riscv/lazy_map: test-ipi.sh",
            "  pass new_mapping_touched_from_ipi",
            "error selftests: riscv/lazy_map: test-trace.sh (started, has no result)",
            "  pass first_half",
            "  error test 2 (planned, never started)",
            "error test 3 (planned, never started)",
            "! line 21: test 2 is planned and has no result",
            "! line 21: test 2 is planned and has no result",
            "! line 21: test 3 is planned and has no result",
        ]
    );
    assert_eq!(report.status(), Status::Error);
    let progress: Vec<_> = report.cases.iter().map(|c| c.progress).collect();
    assert_eq!(progress, [Progress::Ended, Progress::Started, Progress::NotReached]);
    assert_eq!(report.find("test-trace.sh").unwrap().first_line, 11);
}

#[test]
fn a_result_that_a_message_tears_apart_is_no_pass() {
    assert_tree(
        "torn",
        Status::Error,
        &[
            "pass whole",
            "error torn in the na (the line is torn by a kernel message)",
            "pass after a message",
            "error test 3 (planned, never started)",
            "! line 4: the line is torn by a kernel message",
            "! line 8: test 4 where test 3 was due",
            "! line 8: test 3 is planned and has no result",
        ],
    );
}

#[test]
fn without_a_plan_nobody_knows_what_is_missing() {
    assert_tree(
        "no-plan",
        Status::Error,
        &["pass a", "pass b", "! line 3: the results since line 1 have no plan: some may be missing"],
    );
}

#[test]
fn a_plan_may_come_last() {
    assert_tree("plan-last", Status::Pass, &["pass a", "pass b", "  pass inside"]);
}

#[test]
fn bailing_out_is_an_error_of_everything_that_is_left() {
    assert_tree(
        "bail-out",
        Status::Error,
        &[
            "fail selftests: riscv/lazy_map: a.sh (exit=1)",
            "  pass one",
            "  error test 2 (planned, never started)",
            "pass b",
            "error test 3 (planned, never started)",
            "! line 7: bailed out: no memory",
            "! line 8: test 2 is planned and has no result",
            "! line 10: bailed out: no reason given",
            "! line 10: test 3 is planned and has no result",
        ],
    );
}

#[test]
fn numbers_must_be_those_of_the_plan() {
    assert_tree(
        "numbers",
        Status::Error,
        &[
            "pass a",
            "pass again",
            "pass too early",
            "pass late",
            "pass beyond",
            "error test 2 (planned, never started)",
            "error test 5 (planned, never started)",
            "! line 4: test 1 has a second result; the first is in line 3",
            "! line 5: test 4 where test 2 was due",
            "! line 6: test 3 where test 5 was due",
            "! line 7: test 7 where test 5 was due",
            "! line 7: test 7 is not in the plan 1..5 of line 2",
            "! line 7: test 2 is planned and has no result",
            "! line 7: test 5 is planned and has no result",
        ],
    );
}

#[test]
fn directives_say_more_than_ok() {
    assert_tree(
        "directives",
        Status::Error,
        &[
            "pass plain",
            "fail plain_fail",
            "skip a (no such device)",
            "skip b (old style)",
            "skip test 5 (name left out)",
            "xfail c (later)",
            "xpass d (done already)",
            "xfail e (known)",
            "xfail f (expected)",
            "xpass g (unexpected)",
            "fail h (timeout)",
            "error i (no idea)",
            "fail j (exit=127)",
            "pass number \\# 3 of it",
            "pass - dash",
            "pass test 16",
        ],
    );
}

#[test]
fn who_sums_up_cannot_say_better_than_its_parts() {
    assert_tree(
        "contradiction",
        Status::Error,
        &[
            "error says_ok (says pass, but bad says fail)",
            "  pass fine",
            "  fail bad",
            "error one_is_missing (says pass, but test 2 says error)",
            "  pass fine",
            "  error test 2 (planned, never started)",
            "error no_plan_inside (line 14: the results since line 12 have no plan: some may be missing)",
            "  pass fine",
            "skip skipped_inside (nothing to do here)",
            "! line 7: says pass, but bad says fail",
            "! line 11: says pass, but test 2 says error",
            "! line 11: test 2 is planned and has no result",
            "! line 14: the results since line 12 have no plan: some may be missing",
        ],
    );
}

#[test]
fn half_a_line_is_no_result() {
    assert_tree(
        "cut-off",
        Status::Error,
        &["pass a", "error test 2 (planned, never started)", "! line 4: test 2 is planned and has no result"],
    );
}

#[test]
fn no_results_are_an_error() {
    for (name, what) in [("no-results", "no test results"), ("no-header", "results without a line `TAP version 13`")] {
        let report = fixture(name);
        assert_eq!(report.status(), Status::Error, "{name}");
        assert!(report.cases.is_empty(), "{name}");
        assert!(report.problems[0].what.starts_with(what), "{name}: {:?}", report.problems);
    }
    for text in
        ["", "\n", "TAP version 13\n", "TAP version 13\n1..0\n", "TAP version 13\n1..2\n", "TAP version 13\nok\n"]
    {
        assert_eq!(ktap::parse(&Log::of(text)).status(), Status::Error, "{text:?}");
    }
    assert_eq!(ktap::parse(&Log::of("TAP version 13\n1..0 # SKIP no root\n")).status(), Status::Skip);
}

#[test]
fn a_second_document_does_not_hide_the_first() {
    let text = "KTAP version 1\n1..2\nok 1 a\nTAP version 13\n1..1\nok 1 b\n";
    let report = ktap::parse(&Log::of(text));
    assert_eq!(report.status(), Status::Error);
    assert_eq!(report.cases.len(), 3);
    let text = "KTAP version 1\n1..1\nok 1 a\nTAP version 13\n1..1\nok 1 b\n";
    assert_eq!(ktap::parse(&Log::of(text)).status(), Status::Pass);
}

#[test]
fn a_huge_plan_does_not_fill_the_memory() {
    let report = ktap::parse(&Log::of("TAP version 13\n1..18446744073709551615\nok 1 a\n"));
    assert_eq!(report.status(), Status::Error);
    assert_eq!(report.cases.len(), 101);
    assert_eq!(report.problems[0].to_string(), "line 3: more than 100 planned tests have no result");
}
