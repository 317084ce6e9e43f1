// SPDX-License-Identifier: GPL-2.0-only
//! The KTAP parser on whole outputs.

use std::fmt::Write;
use std::fs;

use lazymap_console::ktap::{self, Case, Progress, Report, Status, Totals};
use lazymap_console::log::Log;

fn fixture(name: &str) -> Report {
    let path = format!("{}/tests/fixtures/ktap/{name}.txt", env!("CARGO_MANIFEST_DIR"));
    let bytes = fs::read(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
    ktap::parse(&Log::of(&String::from_utf8_lossy(&bytes)))
}

fn parse(text: &str) -> Report {
    ktap::parse(&Log::of(text))
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
    let ipi = report.find("test-ipi.sh").unwrap().unwrap();
    assert_eq!(ipi.all_notes(), ["touches: 12"]);
    assert_eq!((ipi.first_line, ipi.line), (4, 10));
    assert_eq!(report.find("test-slow.sh").unwrap().unwrap().notes, ["starting"]);
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
            "  miss test 2 (planned, never started)",
            "miss test 3 (planned, never started)",
            "! line 21: test 2 is planned and has no result",
            "! line 21: test 2 is planned and has no result",
            "! line 21: test 3 is planned and has no result",
        ]
    );
    assert_eq!(report.status(), Status::Error);
    let progress: Vec<_> = report.cases.iter().map(|c| c.progress).collect();
    assert_eq!(progress, [Progress::Ended, Progress::Started, Progress::NotReached]);
    assert_eq!(report.find("test-trace.sh").unwrap().unwrap().first_line, 11);
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
            "miss test 3 (planned, never started)",
            "! line 4: the line is torn by a kernel message",
            "! line 6: the line is torn by a kernel message",
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
            "  miss test 2 (planned, never started)",
            "pass b",
            "miss test 3 (planned, never started)",
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
            "miss test 2 (planned, never started)",
            "miss test 5 (planned, never started)",
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
            "error one_is_missing (says pass, but test 2 says miss)",
            "  pass fine",
            "  miss test 2 (planned, never started)",
            "error no_plan_inside (line 14: the results since line 12 have no plan: some may be missing)",
            "  pass fine",
            "skip skipped_inside (nothing to do here)",
            "! line 7: says pass, but bad says fail",
            "! line 11: says pass, but test 2 says miss",
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
        &["pass a", "miss test 2 (planned, never started)", "! line 4: test 2 is planned and has no result"],
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
    let missing = |count: usize| parse(&format!("TAP version 13\n1..{count}\n")).all_problems().len();
    assert_eq!([missing(100), missing(101), missing(102)], [100, 101, 101]);
    let report = ktap::parse(&Log::of("TAP version 13\n1..18446744073709551615\nok 1 a\n"));
    assert_eq!(report.status(), Status::Error);
    assert_eq!(report.cases.len(), 101);
    assert_eq!(report.problems[0].to_string(), "line 3: more than 100 planned tests have no result");
    // Nor does a huge number overflow.
    let number = u64::MAX;
    let report = ktap::parse(&Log::of(&format!("TAP version 13\n1..2\nok {number} a\nok 1 b\nok {number} c\n")));
    assert_eq!(report.status(), Status::Error);
}

#[test]
fn children_without_a_plan_may_be_incomplete() {
    assert_tree(
        "children-no-plan",
        Status::Error,
        &[
            "error selftests: group: test_core (line 8: the results since line 5 have no plan: some may be missing)",
            "  pass first",
            "  pass second",
            "  skip third (not here)",
            "! line 8: the results since line 5 have no plan: some may be missing",
        ],
    );
}

#[test]
fn totals_at_the_end_replace_a_plan() {
    assert_tree(
        "no-version-inside",
        Status::Skip,
        &["skip selftests: mm: c (no reason given)", "pass selftests: mm: d", "  pass first", "  pass second"],
    );
    // Not in the middle.
    let text = "TAP version 13\nok 1 a\n# Totals: pass:1 fail:0 xfail:0 xpass:0 skip:0 error:0\nok 2 b\n";
    assert_eq!(ktap::parse(&Log::of(text)).status(), Status::Error);
}

#[test]
fn totals_must_fit_the_results() {
    let what = "the totals say 2 results, 1 of them bad, 0 skipped; there are 2 results, 0 of them bad, 0 skipped";
    assert_tree(
        "totals-say-otherwise",
        Status::Error,
        &[
            &format!("error selftests: x: e (line 8: {what})"),
            "  pass first",
            "  pass second",
            &format!("! line 8: {what}"),
        ],
    );
    let status =
        |totals: &str, results: &str| ktap::parse(&Log::of(&format!("TAP version 13\n{results}{totals}\n"))).status();
    let two = "1..2\nok 1 a\nok 2 b # SKIP x\n";
    assert_eq!(status("# Totals: pass:1 fail:0 xfail:0 xpass:0 skip:1 error:0", two), Status::Skip);
    assert_eq!(status("# Totals: pass:2 fail:0 xfail:0 xpass:0 skip:0 error:0", two), Status::Error);
    assert_eq!(status("# Totals: pass:2 fail:0 xfail:0 xpass:0 skip:1 error:0", two), Status::Error);
    assert_eq!(status("# Planned tests != run tests (3 != 2)", two), Status::Error);
    // Numbers of somebody else are not totals of these results.
    assert_eq!(status("# cache: pass:9 fail:9 skip:9 total:27", two), Status::Skip);
    let inside = "1..1\n# 1..1\n# ok 1 a\n";
    assert_eq!(status("# # cache: pass:9 fail:9 skip:9 total:27\nok 1 s", inside), Status::Pass);
    assert_eq!(status("# # Totals: pass:9 fail:9 skip:9 total:27\nok 1 s", inside), Status::Error);
    let indented = "  TAP version 13\n  1..1\n  ok 1 a\n# cache: pass:9 fail:9 skip:9 total:27\n";
    assert_eq!(parse(indented).status(), Status::Pass);
    // Several programs in one list: each sums up its own.
    let each = "1..2\nok 1 a\n# Totals: pass:1 fail:0 xfail:0 xpass:0 skip:0 error:0\nok 2 b\n";
    assert_eq!(status("# Totals: pass:1 fail:0 xfail:0 xpass:0 skip:0 error:0", each), Status::Pass);
    let each = "1..2\nnot ok 1 a\n# Totals: pass:0 fail:1 xfail:0 xpass:0 skip:0 error:0\nnot ok 2 b\n";
    assert_eq!(status("# Totals: pass:0 fail:1 xfail:0 xpass:0 skip:0 error:0", each), Status::Fail);
    let each = "1..2\nok 1 a # SKIP x\n# Totals: pass:0 fail:0 xfail:0 xpass:0 skip:1 error:0\nok 2 b # SKIP y\n";
    assert_eq!(status("# Totals: pass:0 fail:0 xfail:0 xpass:0 skip:1 error:0", each), Status::Skip);
    // KUnit's are those of the suite before.
    let suite = "1..1\n    1..2\n    ok 1 a\n    ok 2 b\n";
    assert_eq!(status("# s: pass:2 fail:0 skip:0 total:2\nok 1 s", suite), Status::Pass);
    assert_eq!(status("# s: pass:1 fail:1 skip:0 total:2\nok 1 s", suite), Status::Error);
    assert_eq!(status("# Totals: pass:1 fail:1 skip:0 total:2\nok 1 s", suite), Status::Error);
    // Of two tests with parameters there are more.
    assert_eq!(status("# Totals: pass:7 fail:0 skip:0 total:7\nok 1 s", suite), Status::Pass);
}

#[test]
fn a_plan_for_nothing_has_a_hint() {
    let what = "! line 2: a plan for no tests, without a reason: was the suite renamed, or is its list empty?";
    assert_tree("renamed-suite", Status::Error, &[what]);
}

#[test]
fn what_ran_when_the_time_was_up_is_named() {
    assert_tree(
        "timeout-inside",
        Status::Fail,
        &[
            "fail selftests: mm: run_all.sh (timeout in ./b)",
            "  pass a",
            "! line 12: the results since line 4 have no plan: some may be missing",
        ],
    );
    let reason = |inside: &str, result: &str| {
        let text = format!("TAP version 13\n1..1\n# selftests: x: y\n{inside}{result}");
        let report = ktap::parse(&Log::of(&text));
        (report.cases[0].reason.clone().unwrap_or_default(), report.cases[0].running.clone().unwrap_or_default())
    };
    let timeout = "not ok 1 selftests: x: y # TIMEOUT 45 seconds\n";
    let harness = "# TAP version 13\n# 1..2\n# #  RUN           global.one ...\n# #            OK  global.one\n# ok 1 global.one\n\
                   # #  RUN           global.two ...\n";
    assert_eq!(reason(harness, timeout).0, "timeout in global.two");
    assert_eq!(reason("# TAP version 13\n# 1..3\n# ok 1 one\n# ok 2 two\n", timeout).0, "timeout after two");
    assert_eq!(reason("", timeout).0, "timeout");
    // Nor does it take a result.
    assert_eq!(reason(harness, "").1, "global.two");
    let module = "# TAP version 13\n# 1..1\nlazy_map_trace: KTAP version 1\nlazy_map_trace: ok 3 from_kprobes\n";
    assert_eq!(reason(module, "").1, "lazy_map_trace, after from_kprobes");
    assert_eq!(reason("# TAP version 13\n# 1..3\n# ok 1 one\n", "").1, "after one");
}

#[test]
fn what_is_printed_twice_counts_once() {
    assert_tree("two-consoles", Status::Pass, &["pass first", "pass second"]);
    let document = "TAP version 13\n1..2\n# ok 1 inside\n# 1..1\nok 1 a\nok 2 b\n";
    let twice = ktap::parse(&Log::of(&format!("{document}cat results\n{document}")));
    assert_eq!((twice.status(), twice.cases.len(), twice.totals().passed), (Status::Pass, 2, 2));
    // A second run with another result is not the same.
    let other = document.replace("ok 2 b", "not ok 2 b");
    let both = ktap::parse(&Log::of(&format!("{document}{other}")));
    assert_eq!((both.status(), both.cases.len()), (Status::Fail, 4));
    // A test that prints the kernel's log quotes results.
    let quoted = "[    1.000000] TAP version 13\n[    1.000100] 1..1\n[    2.000000] # [    1.500000] not ok 1 old\n[    3.000000] ok 1 a\n";
    assert_eq!(ktap::parse(&Log::of(quoted)).status(), Status::Pass);
}

#[test]
fn equal_names_have_their_path() {
    let text = "TAP version 13\n1..2\n# selftests: a: run.sh\n# 1..2\n# ok 1 same\n# ok 2 own\nok 1 selftests: a: run.sh\n\
                # selftests: b: run.sh\n# 1..1\n# not ok 1 same\nnot ok 2 selftests: b: run.sh # exit=1\n";
    let report = ktap::parse(&Log::of(text));
    let names: Vec<_> = ktap::innermost(&report.cases).into_iter().map(|(name, case)| (name, case.status)).collect();
    let expected = [
        ("selftests: a: run.sh/same", Status::Pass),
        ("own", Status::Pass),
        ("selftests: b: run.sh/same", Status::Fail),
    ];
    assert_eq!(names, expected.map(|(name, status)| (name.to_owned(), status)));
    // The short name would be either.
    let why = report.find("run.sh").unwrap_err();
    assert!(why.contains("several results, in lines 7 (selftests: a: run.sh) and 11 (selftests: b: run.sh)"), "{why}");
    assert_eq!(report.find("selftests: b: run.sh").unwrap().unwrap().status, Status::Fail);
    assert_eq!(report.find("elsewhere"), Ok(None));
    // The same within a sum that says otherwise.
    let deep = "TAP version 13\n1..1\n    1..1\n        1..1\n        not ok 1 leaf\n    not ok 1 suite\nok 1 all\n";
    let report = ktap::parse(&Log::of(deep));
    assert_eq!(report.cases[0].reason.as_deref(), Some("says pass, but suite/leaf says fail"));
    for (second, what) in [("not ok 2 bad", "bad"), ("ok 2 bad # XPASS known", "bad")] {
        let text = deep.replace("1..1\n        not ok 1 leaf", &format!("1..2\n        ok 1 good\n        {second}"));
        let report = ktap::parse(&Log::of(&text));
        assert_eq!(report.cases[0].reason, Some(format!("says pass, but suite/{what} says fail")));
    }
}

#[test]
fn a_suite_counts_only_if_no_test_in_it_tells_what_is_wrong() {
    let totals = |inside: &str, sum: &str| {
        let report = ktap::parse(&Log::of(&format!("TAP version 13\n1..1\n# 1..1\n# {inside}\n{sum}\n")));
        let all = report.totals();
        [all.passed, all.failed, all.skipped, all.errors]
    };
    assert_eq!(totals("ok 1 a", "ok 1 s"), [1, 0, 0, 0]);
    assert_eq!(totals("ok 1 a", "not ok 1 s"), [1, 1, 0, 0]);
    assert_eq!(totals("ok 1 a # SKIP x", "not ok 1 s"), [0, 1, 1, 0]);
    assert_eq!(totals("not ok 1 a", "not ok 1 s"), [0, 1, 0, 0]);
    assert_eq!(totals("ok 1 a # XPASS x", "not ok 1 s"), [0, 1, 0, 0]);
    assert_eq!(totals("ok 1 a", "# cut off"), [1, 0, 0, 1]);
}

#[test]
fn a_result_is_a_word() {
    for word in ["okay", "ok1", "not okay", "ok:"] {
        let report = ktap::parse(&Log::of(&format!("TAP version 13\n1..1\n{word} 1 b\nok 1 a\n")));
        assert_eq!(tree(&report), ["pass a"], "{word}");
    }
    // Outermost it is one without a number; further in it is what somebody says.
    let none = "! line 3: a result without a number";
    assert_eq!(tree(&parse("TAP version 13\n1..1\nok then\n")), ["pass then", none]);
    let inside = "TAP version 13\n1..1\n# 1..1\n# ok 1 a\n# ok then\nok 1 s\n";
    assert_eq!(tree(&parse(inside)), ["pass s", "  pass a"]);
    // Whoever fails says so anywhere.
    let inside = inside.replace("ok then", "not ok then");
    assert_eq!(parse(&inside).status(), Status::Error);
}

#[test]
fn a_backslash_keeps_a_hash_in_the_name() {
    let of = |rest: &str| {
        let report = parse(&format!("TAP version 13\n1..1\nok 1 {rest}\n"));
        (report.cases[0].name.clone(), report.cases[0].status)
    };
    assert_eq!(of("a \\# b"), ("a \\# b".to_owned(), Status::Pass));
    assert_eq!(of("a \\# b # SKIP x"), ("a \\# b".to_owned(), Status::Skip));
    assert_eq!(of("a # SKIP x # y"), ("a".to_owned(), Status::Skip));
    assert_eq!(of("# SKIP x"), ("test 1".to_owned(), Status::Skip));
    // A number is part of the name as well.
    assert_eq!(of("a #2"), ("a #2".to_owned(), Status::Pass));
    assert_eq!(of("a #2 # SKIP x"), ("a #2".to_owned(), Status::Skip));
    assert_eq!(of("a #2 # XPASS x"), ("a #2".to_owned(), Status::Xpass));
    assert_eq!(of("#2 of a # XPASS x"), ("#2 of a".to_owned(), Status::Xpass));
    assert_eq!(of("a #SKIP x"), ("a".to_owned(), Status::Skip));
}

#[test]
fn a_level_begins_anew_with_a_version_once_it_has_begun() {
    let text = |first: &str| {
        format!("TAP version 13\n1..1\n    KTAP version 1\n{first}    KTAP version 1\n    1..1\n    ok 1 b\nok 1 s\n")
    };
    // A plan, results, a name and notes each begin it.
    assert_eq!(tree(&parse(&text("    1..1\n    ok 1 a\n"))), ["pass s", "  pass a", "  pass b"]);
    for (first, what) in [
        ("    1..1\n", "line 5: test 1 is planned and has no result"),
        ("    ok 1 a\n", "line 5: the results since line 3 have no plan: some may be missing"),
        ("    # a note\n", "line 5: neither a plan nor a result since line 3, where results begin"),
    ] {
        let report = parse(&text(first));
        assert!(report.all_problems().iter().any(|p| p.to_string() == what), "{:?}", report.all_problems());
    }
    // A version twice is one.
    assert_eq!(tree(&parse(&text(""))), ["pass s", "  pass b"]);
}

#[test]
fn a_quotation_starts_no_document() {
    let nothing = "! line 3: no test results: no line `TAP version 13` or `KTAP version 1`";
    assert_eq!(tree(&parse("# TAP version 13\n# 1..1\n# ok 1 a\n")), [nothing]);
    let unversioned = "results without a line `TAP version 13` or `KTAP version 1` before them";
    assert_eq!(tree(&parse("1..1\nok 1 a\nok 2 b\n")), [format!("! line 2: {unversioned}")]);
    // Whoever fails need not have a number.
    assert_eq!(parse("not ok a\nTAP version 13\n1..1\nok 1 b\n").status(), Status::Error);
    assert_eq!(parse("ok a\nTAP version 13\n1..1\nok 1 b\n").status(), Status::Pass);
    // A later document does not make up for it.
    let text = "ok 1 a\nTAP version 13\n1..1\nok 1 b\n";
    assert_eq!(tree(&parse(text)), ["pass b".to_owned(), format!("! line 1: {unversioned}")]);
}

#[test]
fn only_a_version_behind_a_prefix_makes_the_prefix_suspect() {
    let head = "TAP version 13\n1..1\n";
    for message in ["# x: KTAP version 1", "module: KTAP version 1", "the KTAP version is unknown", "KTAP version one"]
    {
        assert_eq!(parse(&format!("{head}{message}\nok 1 a\n")).status(), Status::Pass, "{message}");
    }
    for message in ["vendor: KTAP version 1", "a line: TAP version 13"] {
        assert_eq!(parse(&format!("{message}\n{head}ok 1 a\n")).status(), Status::Error, "{message}");
    }
    assert_eq!(parse(&format!("# x: KTAP version 1\n{head}ok 1 a\n")).status(), Status::Pass);
}

#[test]
fn a_modules_failure_must_be_among_the_results() {
    let says = |module: &str, result: &str| {
        let text = format!("TAP version 13\n1..1\n# selftests: x\n[    1.000000] {module}\n{result}\n");
        let report = parse(&text);
        (report.status(), report.cases[0].reason.clone().unwrap_or_default())
    };
    let what = "m says that b failed, and the results do not".to_owned();
    assert_eq!(says("m: not ok 2 b", "ok 1 x"), (Status::Error, what.clone()));
    assert_eq!(says("m: not ok 2 b", "ok 1 x # SKIP y"), (Status::Error, what.clone()));
    assert_eq!(says("m: not ok 2 b", "not ok 1 x"), (Status::Fail, String::new()));
    assert_eq!(says("m: not ok 2 b", "ok 1 x # XPASS y"), (Status::Xpass, "y".to_owned()));
    // Not a failure, no result, or one that was expected.
    assert_eq!(says("m: ok 2 b", "ok 1 x"), (Status::Pass, String::new()));
    assert_eq!(says("m: not ok then", "ok 1 x"), (Status::Pass, String::new()));
    assert_eq!(says("m: not ok 2 b # XFAIL z", "ok 1 x"), (Status::Pass, String::new()));
    assert_eq!(says("m: not ok 2 b\n# # m: b fails, as it must", "ok 1 x"), (Status::Pass, String::new()));
    assert_eq!(says("m: not ok 2 b\n# # m: c fails, as it must", "ok 1 x"), (Status::Error, what.clone()));
    // It must not come after the results, unless they are cut off anyway.
    let after = |text: &str| tree(&parse(&format!("TAP version 13\n{text}[    1.000000] m: not ok 2 b\n")));
    assert_eq!(after("1..1\nok 1 x\n"), ["pass x".to_owned(), format!("! line 4: {what}")]);
    assert_eq!(after("1..0 # SKIP y\n").last(), Some(&format!("! line 3: {what}")));
    let cut_off = after("1..2\nok 1 x\n");
    assert_eq!(cut_off.last().unwrap(), "! line 4: test 2 is planned and has no result");
    assert!(!cut_off.iter().any(|line| line.contains("says that")), "{cut_off:?}");
}

#[test]
fn an_indented_document_may_be_summed_up_further_out() {
    assert_eq!(tree(&parse("  TAP version 13\n  1..1\nok 1 a\n")), ["pass a"]);
}

#[test]
fn a_suite_without_a_result_has_the_name_that_it_gave() {
    let head = "KTAP version 1\n1..1\n    KTAP version 1\n";
    let names = |text: &str| {
        let report = parse(&format!("{head}{text}"));
        let case = &report.cases[0];
        (case.name.clone(), case.cases.iter().map(|c| c.name.clone()).collect::<Vec<_>>())
    };
    let inside = || vec!["a".to_owned(), "test 2".to_owned()];
    assert_eq!(names("    # Subtest: suite\n    1..2\n    ok 1 a\n"), ("suite".to_owned(), inside()));
    // It keeps its first name, and one that comes after results is not its own.
    let twice = "    # Subtest: suite\n    # Subtest: other\n    1..2\n    ok 1 a\n";
    assert_eq!(names(twice), ("suite".to_owned(), inside()));
    assert_eq!(names("    1..2\n    ok 1 a\n    # Subtest: late\n"), ("test 1".to_owned(), inside()));
    // Older KUnit has no version there.
    let old = parse("TAP version 14\n1..1\n    # Subtest: suite\n    1..2\n    ok 1 a\n");
    assert_eq!((old.cases[0].name.as_str(), old.cases[0].cases.len()), ("suite", 2));
    // The name begins the test.
    let text = "    1..1\n        # Subtest: parameters\n        ok 1 p\n    ok 1 t\nok 1 suite\n";
    assert_eq!(parse(&format!("{head}{text}")).cases[0].cases[0].first_line, 5);
}

#[test]
fn a_torn_line_spoils_its_own_result_only() {
    let what = "the line is torn by a kernel message";
    let result = parse("TAP version 13\n1..2\nok 1 a\nok 2 b[    1.000000] x\n");
    assert_eq!(tree(&result), ["pass a".to_owned(), format!("error b ({what})"), format!("! line 4: {what}")]);
    let half = parse("TAP version 13\n1..2\nok 1 a\nno[    1.000000] x\nok 2 b\n");
    assert_eq!(tree(&half), ["pass a".to_owned(), "pass b".to_owned(), format!("! line 4: {what}")]);
    let plan = parse("TAP version 13\nok 1 a\n1..1[    1.000000] x\n");
    assert_eq!(tree(&plan), ["pass a".to_owned(), format!("! line 3: {what}")]);
}

#[test]
fn an_unexpected_pass_stays_one() {
    let report = parse("TAP version 13\n1..1\n# 1..1\n# not ok 1 a\nok 1 s # XPASS known\n");
    assert_eq!((report.cases[0].status, report.cases[0].problems.len()), (Status::Xpass, 0));
}

#[test]
fn a_report_of_the_kernel_is_in_a_test() {
    let report = fixture("warning-inside");
    let expected = ["fail probes", "  pass test_one", "  fail test_two", "  pass test_three"];
    assert_eq!(tree(&report), expected);
    assert_eq!(report.running_at(9).as_deref(), Some("probes/test_two"));
    assert_eq!(report.running_at(7).as_deref(), Some("probes/test_one"));
    assert_eq!(report.running_at(99), None);
    let report = ktap::parse(&Log::of("before\nTAP version 13\n1..2\n# a runs\nok 1 a\nok 2 b\nafter\n"));
    let running: Vec<_> = (1..=7).map(|line| report.running_at(line)).collect();
    let a = || Some("a".to_owned());
    // From the head of the results on, "a" is due.
    assert_eq!(running, [None, a(), a(), a(), a(), Some("b".to_owned()), None]);
}

#[test]
fn results_behind_an_unknown_prefix_are_named() {
    let report = ktap::parse(&Log::of("vendor: KTAP version 1\nvendor: 1..1\nvendor: ok 1 a\n"));
    assert_eq!(report.status(), Status::Error);
    assert_eq!(report.problems[0].to_string(), "line 1: results behind `vendor:`: prefix not understood");
    let coloured = "\x1b[1mKTAP version 1\x1b[0m\n1..1\n\x1b[32mok 1 a\x1b[m\n";
    assert_eq!(ktap::parse(&Log::of(coloured)).status(), Status::Pass);
}

#[test]
fn a_directive_is_a_whole_word() {
    let of = |line: &str| {
        let report = ktap::parse(&Log::of(&format!("TAP version 13\n1..1\n{line}\n")));
        (report.cases[0].status, report.cases[0].reason.clone().unwrap_or_default())
    };
    for (line, status, reason) in [
        ("not ok 1 b # skip-list corrupted", Status::Fail, "skip-list corrupted"),
        ("not ok 1 b # todo_list lost", Status::Fail, "todo_list lost"),
        ("not ok 1 b # xfail/2", Status::Fail, "xfail/2"),
        ("ok 1 b # error-free", Status::Pass, "error-free"),
        ("ok 1 b # SKIP", Status::Skip, "no reason given"),
        ("ok 1 b # SKIP: no device", Status::Skip, "no device"),
        ("ok 1 b # skip\tno device", Status::Skip, "no device"),
        ("ok 1 b # Skipped: no device", Status::Skip, "no device"),
        // Some of what failed was skipped.
        ("not ok 1 b # skipped 3 of 5", Status::Fail, "skipped 3 of 5"),
    ] {
        assert_eq!(of(line), (status, reason.to_owned()), "{line}");
    }
    let plan = |comment: &str| ktap::parse(&Log::of(&format!("TAP version 13\n1..0 # {comment}\n"))).status();
    assert_eq!(plan("skip-list corrupted"), Status::Error);
    for comment in ["SKIP", "skip: x", "Skipped: x", "skip x"] {
        assert_eq!(plan(comment), Status::Skip, "{comment}");
    }
}

#[test]
fn an_unexpected_pass_inside_is_no_pass() {
    let report = ktap::parse(&Log::of("TAP version 13\n1..1\n# 1..1\n# ok 1 x # XPASS known\nok 1 a\n"));
    assert_eq!(report.status(), Status::Error);
    assert_eq!(report.cases[0].reason.as_deref(), Some("says pass, but x says xpass"));
    // What must fail does so somewhere inside.
    let known =
        |inside: &str| parse(&format!("TAP version 13\n1..1\n# 1..1\n{inside}not ok 1 a # XFAIL known\n")).status();
    assert_eq!(known("# not ok 1 x\n"), Status::Xfail);
    assert_eq!(known(""), Status::Error);
    let report = ktap::parse(&Log::of("TAP version 13\n1..1\n# 1..1\n# not ok 1 x # XFAIL known\nok 1 a\n"));
    assert_eq!(report.status(), Status::Pass);
}
