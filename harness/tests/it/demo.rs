// SPDX-License-Identifier: GPL-2.0-only
//! What the demo makes of what it sees, and the whole of it with a machine that is a shell script.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lazymap::boot::machine::Counters;
use lazymap::build::kernel::Kernel;
use lazymap::build::qemu::Qemu;
use lazymap::build::workbench::Workbench;
use lazymap::ground::error::Exit;
use lazymap::options::Options;
use lazymap::options::base::BaseUsed;
use lazymap::trial::expect::Expect;
use lazymap::trial::judge;
use lazymap::trial::plan::Trial;
use lazymap::trial::report::{self, Row};
use lazymap::trial::seen::{BootSeen, TestSeen};
use lazymap::trial::verdict::{Count, Verdict};
use lazymap::verbs::demo::{self, Kernels};
use lazymap_console::end::{End, Found};
use lazymap_console::ktap::Status;
use serde_json::Value;
use tempfile::TempDir;

use crate::common::options;

/// The matrix.
fn matrix() -> Vec<Trial> {
    demo::matrix().unwrap()
}

/// A trial like the one of the matrix with this kernel and machine, with two tests.
fn cell(kernel: &str, machine: &str) -> Trial {
    let tests = match (kernel, machine) {
        (_, "plain") => [("one.sh", Expect::Pass), ("two.sh", Expect::Pass)],
        ("preventive", _) => [("one.sh", Expect::Pass), ("two.sh", Expect::StackOverflow)],
        _ => [("one.sh", Expect::Survive), ("two.sh", Expect::Survive)],
    };
    let tests = tests.map(|(test, expect)| (test.to_owned(), expect)).into();
    let real = matrix().into_iter().find(|t| t.kernel == kernel && t.machine.name() == machine).unwrap();
    Trial { tests, ..real }
}

fn counters(stale_hits: u64) -> Result<Option<Counters>, String> {
    Ok(Some(Counters { harts: 4, stale_hits, fences: 1000, gone_tables: 0 }))
}

fn passed() -> TestSeen<'static> {
    TestSeen { result: Some((Status::Pass, None)), work: Some(100), seconds: 1.25, ..TestSeen::default() }
}

fn with(status: Status, reason: &str) -> TestSeen<'static> {
    TestSeen { result: Some((status, Some(reason.to_owned()))), ..passed() }
}

fn unfinished() -> TestSeen<'static> {
    TestSeen { result: None, work: None, ..passed() }
}

/// A boot that went well.
fn well() -> BootSeen<'static> {
    BootSeen {
        end: Ok(End::Finished),
        ready: true,
        tests: vec![passed(), passed()],
        counters: counters(40),
        headline: None,
        hint: None,
        report: &[],
        boot: &[],
        stamped: false,
        lacking: vec![],
        problem: None,
        others: vec![],
    }
}

/// A boot that ended while the second test was running.
fn died(end: End) -> BootSeen<'static> {
    BootSeen { end: Ok(end), tests: vec![passed(), unfinished()], ..well() }
}

fn overflow() -> End {
    End::StackOverflow { headline: "Kernel panic - not syncing: Kernel stack overflow".to_owned() }
}

/// What comes of it: `OBSERVED VERDICT` of both tests.
fn judged(cell: &Trial, seen: &BootSeen<'_>) -> Vec<String> {
    judge::judge(cell, seen).iter().map(|r| format!("{} {:?}", r.observed, r.verdict)).collect()
}

#[test]
fn the_matrix_is_the_one_of_the_readme() {
    let matrix = matrix();
    let rows: Vec<_> = matrix
        .iter()
        .flat_map(|c| {
            c.tests
                .iter()
                .map(|(t, e)| (c.kernel.as_str(), c.machine.name(), c.machine.harts, t.as_str(), format!("{e:?}")))
        })
        .collect();
    let rows: Vec<_> = rows.iter().map(|(k, m, h, t, e)| (*k, m.as_str(), *h, *t, e.as_str())).collect();
    let (pass, overflow, survive) = ("Pass", "StackOverflow", "Survive");
    let (ipi, stack, trace) = ("test-ipi.sh", "test-stack.sh", "test-trace.sh");
    assert_eq!(
        rows,
        [
            ("preventive", "plain", 4, ipi, pass),
            ("preventive", "plain", 4, trace, pass),
            ("preventive", "stale", 4, ipi, pass),
            ("preventive", "stale", 4, trace, overflow),
            ("series", "plain", 4, ipi, pass),
            ("series", "plain", 4, stack, pass),
            ("series", "plain", 4, trace, pass),
            ("series", "stale", 4, ipi, survive),
            ("series", "stale", 4, stack, survive),
            ("series", "stale", 4, trace, survive),
            ("series", "stale-sbi", 4, ipi, survive),
            ("series", "stale-sbi", 4, stack, survive),
            ("series", "stale-sbi", 4, trace, survive),
        ]
    );
}

#[test]
fn all_as_expected() {
    let plain = BootSeen { counters: Ok(None), ..well() };
    assert_eq!(judged(&cell("preventive", "plain"), &plain), ["pass Pass", "pass Pass"]);
    assert_eq!(judged(&cell("series", "plain"), &plain), ["pass Pass", "pass Pass"]);
    assert_eq!(judged(&cell("preventive", "stale"), &died(overflow())), ["pass Pass", "stack overflow Pass"]);
    assert_eq!(judged(&cell("series", "stale"), &well()), ["pass Pass", "pass Pass"]);
    assert_eq!(judged(&cell("series", "stale-sbi"), &well()), ["pass Pass", "pass Pass"]);
    let row = &judge::judge(&cell("series", "stale"), &well())[1];
    assert_eq!((row.stale_hits, row.seconds, row.console.as_str()), (Some(40), 1.3, "series-stale.log"));
    assert_eq!(judge::judge(&cell("series", "plain"), &plain)[0].stale_hits, None);
}

#[test]
fn a_preventive_kernel_that_survives_has_failed() {
    assert_eq!(judged(&cell("preventive", "stale"), &well()), ["pass Pass", "pass Fail"]);
}

#[test]
fn a_preventive_kernel_that_dies_of_something_else_has_failed() {
    let preventive = cell("preventive", "stale");
    let headline = || "x".to_owned();
    for (end, observed) in [
        (End::Panic { headline: headline() }, "panic: x Fail"),
        (End::Oops { headline: headline() }, "oops: x Fail"),
        (End::Hang(Duration::from_secs(60)), "hang: no output for 60 s Fail"),
        (End::Timeout(Duration::from_secs(240)), "timeout after 240 s Fail"),
        (End::Incomplete { missing: vec!["mark"] }, "incomplete: no mark Error"),
        (End::QemuFailed { stderr: headline() }, "QEMU failed: x Error"),
    ] {
        assert_eq!(judged(&preventive, &died(end)), ["pass Pass", observed]);
    }
    // The right death at the wrong time: in the first test, or after the second had passed.
    let early = BootSeen { tests: vec![unfinished(), unfinished()], ..died(overflow()) };
    assert_eq!(judged(&preventive, &early), ["stack overflow Fail", "not reached Miss"]);
    let boot = BootSeen { ready: false, ..early };
    assert_eq!(judged(&preventive, &boot), ["stack overflow before any test Fail", "not reached Miss"]);
    // Nothing was stale: whatever it was, it was not the loop.
    let other = BootSeen { counters: counters(0), ..died(overflow()) };
    assert_eq!(judged(&preventive, &other), ["pass Pass", "stack overflow Fail"]);
}

#[test]
fn a_series_that_dies_has_failed() {
    for kernel in ["plain", "stale", "stale-sbi"] {
        let seen = BootSeen { counters: if kernel == "plain" { Ok(None) } else { counters(9) }, ..died(overflow()) };
        assert_eq!(judged(&cell("series", kernel), &seen), ["pass Pass", "stack overflow Fail"]);
    }
    let late = BootSeen { end: Ok(End::Panic { headline: "x".to_owned() }), ..well() };
    assert_eq!(judged(&cell("series", "stale"), &late), ["pass Pass", "panic: x Fail"]);
}

#[test]
fn surviving_takes_something_to_survive() {
    for machine in ["stale", "stale-sbi"] {
        let series = cell("series", machine);
        assert_eq!(judged(&series, &BootSeen { counters: counters(0), ..well() }), ["pass Fail", "pass Fail"]);
        assert_eq!(judged(&series, &BootSeen { counters: Ok(None), ..well() }), ["pass Fail", "pass Fail"]);
        for work in [None, Some(0)] {
            let tests = vec![passed(), TestSeen { work, ..passed() }];
            assert_eq!(judged(&series, &BootSeen { tests, ..well() }), ["pass Pass", "pass Fail"]);
        }
        let counters = Err("no counters".to_owned());
        assert_eq!(judged(&series, &BootSeen { counters, ..well() }), ["pass Error", "pass Error"]);
    }
    let counters = Err("no counters".to_owned());
    let seen = BootSeen { counters, ..died(overflow()) };
    assert_eq!(judged(&cell("preventive", "stale"), &seen), ["pass Error", "stack overflow Error"]);
}

#[test]
fn only_a_pass_is_a_pass() {
    let plain = |second: TestSeen<'static>| BootSeen { tests: vec![passed(), second], counters: Ok(None), ..well() };
    for (second, observed) in [
        (with(Status::Fail, "exit=1"), "fail: exit=1 Fail"),
        (with(Status::Skip, "no module"), "skip: no module Fail"),
        (with(Status::Xfail, "known"), "xfail: known Fail"),
        (with(Status::Xpass, "odd"), "xpass: odd Fail"),
        (with(Status::Error, "torn"), "error: torn Error"),
        (unfinished(), "no result Error"),
    ] {
        assert_eq!(judged(&cell("series", "plain"), &plain(second)), ["pass Pass", observed]);
    }
    let none = BootSeen { tests: vec![], ..plain(passed()) };
    assert_eq!(judged(&cell("series", "plain"), &none), ["no result Error", "no result Error"]);
    let problem = BootSeen { problem: Some("line 3: x".to_owned()), ..plain(passed()) };
    assert_eq!(judged(&cell("series", "plain"), &problem), ["pass Error", "pass Error"]);
}

#[test]
fn a_forbidden_line_makes_a_failure_of_a_pass_and_is_named() {
    let forbidden = vec![Found { line: 7, text: "WARNING: CPU: 1".to_owned(), kind: "warning" }];
    let tests = vec![passed(), TestSeen { forbidden, ..passed() }];
    let rows = judge::judge(&cell("series", "stale"), &BootSeen { tests, ..well() });
    assert_eq!((rows[0].verdict, rows[1].verdict), (Verdict::Pass, Verdict::Fail));
    assert!(rows[1].why.iter().any(|w| w.contains("line 7") && w.contains("WARNING: CPU: 1")), "{:?}", rows[1].why);
}

#[test]
fn what_did_not_boot_is_an_error() {
    let nothing = |end| BootSeen { end, ready: false, tests: vec![unfinished(), unfinished()], ..well() };
    for (end, observed) in [
        (Err("cannot run qemu".to_owned()), "not run: cannot run qemu Error"),
        (Ok(End::NeverBooted), "never booted Error"),
        (Ok(End::Hang(Duration::from_secs(60))), "hang: no output for 60 s before any test Error"),
    ] {
        for cell in &matrix() {
            let seen = judged(cell, &nothing(end.clone()));
            assert_eq!(seen[0], observed);
            // What could not be started at all was not missed.
            let rest = if observed.starts_with("not run") { observed } else { "not reached Miss" };
            assert!(seen[1..].iter().all(|s| s == rest), "{seen:?}");
        }
    }
}

#[test]
fn a_kernel_that_dies_before_its_tests_has_failed() {
    let end = Ok(End::Panic { headline: "x".to_owned() });
    let seen = BootSeen { end, ready: false, tests: vec![unfinished(), unfinished()], ..well() };
    for cell in &matrix() {
        let judged = judged(cell, &seen);
        assert_eq!(judged[0], "panic: x before any test Fail");
        assert!(judged[1..].iter().all(|s| s == "not reached Miss"), "{judged:?}");
    }
}

#[test]
fn exit_codes() {
    let exit = |passed, failed, errors, skipped| Count { passed, failed, errors, skipped }.exit();
    assert_eq!(exit(3, 0, 0, 1), Exit::Pass);
    assert_eq!(exit(3, 1, 0, 0), Exit::Failed);
    assert_eq!(exit(3, 2, 1, 0), Exit::Failed);
    assert_eq!(exit(3, 1, 1, 0), Exit::CouldNot);
    assert_eq!(exit(0, 0, 0, 2), Exit::Skipped);
    assert_eq!(exit(0, 0, 0, 0), Exit::CouldNot);
}

/// What the real kernels do on the real machines; `$qemu` may be replaced to make a difference.
const MACHINE: &str = r#"
case "$*" in
*preventive/Image*x-cache-invalid=on* | *x-cache-invalid=on*preventive/Image*) cat "$logs/stack-overflow.log"; hits=119 ;;
*) cat "$logs/finished.log"; hits=1187 ;;
esac
case "$*" in *x-cache-invalid=on*)
	echo "x-cache-invalid: total harts=4 stale_hits=$hits fences=50265 remembered=12264" >&2 ;;
esac
"#;

/// The row of the matrix in which the kernel has to die.
const LOOP: usize = 3;

struct Lab {
    dir: TempDir,
    bench: Workbench,
    kernels: Kernels,
}

/// A workbench with nothing real but the files that have to exist.
fn lab(script: &str) -> Lab {
    let dir = TempDir::new().unwrap();
    let at = |name: &str| dir.path().join(name);
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let logs = here.join("console/tests/fixtures/console");
    symlink(here.join("tests/fixtures/fake-qemu"), at("qemu")).unwrap();
    fs::write(at("script"), format!("logs='{}'\n{script}", logs.display())).unwrap();
    let mut elf = b"\x7fELF".to_vec();
    elf.resize(64, 0);
    elf[18] = 243;
    fs::write(at("busybox"), elf).unwrap();
    fs::create_dir(at("selftests")).unwrap();
    let kernel = |name: &str| {
        let image = at(&format!("{name}/Image"));
        let vmlinux = at(&format!("{name}/vmlinux"));
        Kernel { name: name.to_owned(), image, vmlinux, selftests: at("selftests"), commit: "0".into() }
    };
    let base_used = BaseUsed {
        version: "7.3.4".into(),
        source: "package".into(),
        from: "linux-source-7.3".into(),
        sha256: Some("ab".into()),
        commit: "0".into(),
    };
    let bench = Workbench {
        options: Options { root: dir.path().to_path_buf(), ..options(at("out")) },
        base_used,
        toolchain: BTreeMap::from([("clang".to_owned(), "22.1.8".to_owned())]),
        qemu: Qemu { binary: at("qemu"), version: "10.0".into() },
        busybox: at("busybox"),
        firmware: at("fw_dynamic.bin"),
    };
    let kernels = Kernels { preventive: kernel("preventive"), series: kernel("series") };
    Lab { dir, bench, kernels }
}

impl Lab {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("out/demo").join(name)
    }

    fn results(&self) -> Value {
        serde_json::from_slice(&fs::read(self.path("results.json")).unwrap()).unwrap()
    }

    fn count(&self) -> Count {
        let mut count = Count::default();
        self.rows().iter().for_each(|row| count.count(row.verdict));
        count
    }

    fn rows(&self) -> Vec<Row> {
        demo::run(&self.bench, &self.kernels).unwrap().rows
    }
}

fn verdicts(rows: &[Row]) -> Vec<(&str, &str, &str, Verdict)> {
    rows.iter().map(|r| (r.kernel.as_str(), r.machine.as_str(), r.observed.as_str(), r.verdict)).collect()
}

#[test]
fn the_whole_demo_writes_results_and_keeps_the_consoles() {
    let lab = lab(MACHINE);
    let count = lab.count();
    assert_eq!((count, count.exit()), (Count { passed: 13, ..Count::default() }, Exit::Pass));
    let results = lab.results();
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    let mut top = keys(&results);
    top.sort();
    assert_eq!(top, ["base", "boots", "exit", "provenance", "runs", "schema", "toolchain", "totals", "verb"]);
    assert_eq!(results["schema"], 1);
    assert_eq!((&results["base"]["version"], &results["base"]["sha256"]), (&"7.3.4".into(), &"ab".into()));
    assert_eq!(results["toolchain"]["clang"], "22.1.8");
    assert_eq!(results["runs"].as_array().unwrap().len(), 13);
    let mut fields = keys(&results["runs"][0]);
    fields.sort();
    let mut wanted = vec![
        "kernel",
        "machine",
        "harts",
        "test",
        "expected",
        "observed",
        "verdict",
        "stale_hits",
        "seconds",
        "console",
        "cases",
    ];
    wanted.sort();
    assert_eq!(fields, wanted);
    assert_eq!(results["runs"][0]["stale_hits"], Value::Null);
    let loop_run = &results["runs"][LOOP];
    assert_eq!((&loop_run["expected"], &loop_run["observed"]), (&"stack overflow".into(), &"stack overflow".into()));
    assert_eq!((&loop_run["verdict"], &loop_run["stale_hits"]), (&"PASS".into(), &119.into()));
    for run in results["runs"].as_array().unwrap() {
        let console = run["console"].as_str().unwrap();
        assert!(fs::read_to_string(lab.path(console)).unwrap().contains("Linux version"), "{console}");
        assert!(lab.path(console).with_extension("").join("reproduce.sh").exists());
        assert!(lab.path(console).with_extension("qemu.log").exists());
    }
}

#[test]
fn a_machine_that_shows_nothing_makes_the_demo_fail() {
    let rows = lab(&MACHINE.replace("hits=1187", "hits=0")).rows();
    let bad: Vec<_> =
        rows.iter().filter(|r| r.verdict == Verdict::Fail).map(|r| (r.kernel.as_str(), r.machine.as_str())).collect();
    assert_eq!(bad, [[("series", "stale"); 3], [("series", "stale-sbi"); 3]].concat());
}

#[test]
fn a_preventive_kernel_that_does_not_die_makes_the_demo_fail() {
    let lab = lab(&MACHINE.replace("stack-overflow.log", "finished.log"));
    let outcome = lab.count();
    assert_eq!((outcome, outcome.exit()), (Count { passed: 12, failed: 1, ..Count::default() }, Exit::Failed));
    assert_eq!(lab.results()["runs"][LOOP]["verdict"], "FAIL");
    assert_eq!(lab.results()["runs"][LOOP]["observed"], "pass");
}

#[test]
fn a_qemu_without_the_property_is_an_error_with_results() {
    let script = format!("case \"$*\" in *x-cache*) echo 'qemu: no such property' >&2; exit 1 ;; esac\n{MACHINE}");
    let lab = lab(&script);
    let outcome = lab.count();
    assert_eq!((outcome, outcome.exit()), (Count { passed: 5, failed: 8, errors: 8, skipped: 0 }, Exit::CouldNot));
    let runs = lab.results();
    assert_eq!(runs["runs"][2]["observed"], "QEMU failed: qemu: no such property");
    assert_eq!(runs["runs"][2]["verdict"], "ERROR");
}

#[test]
fn no_qemu_and_no_tests_are_rows_of_errors() {
    let mut lab = lab(MACHINE);
    lab.bench.qemu.binary = lab.path("none");
    assert!(lab.rows().iter().all(|r| r.verdict == Verdict::Error && r.observed.contains("not run") | r.observed.contains("not reached")));
    lab.kernels.series.selftests = lab.path("none");
    assert_eq!(lab.rows()[12].verdict, Verdict::Error);
    assert_eq!(lab.results()["runs"].as_array().unwrap().len(), 13);
}

#[test]
fn a_warning_is_the_failure_of_the_test_that_was_running() {
    for (test, failed) in [("test-ipi", 0), ("test-stack", 1), ("test-trace", 2)] {
        let warning = "[    3.000000] WARNING: CPU: 1 PID: 9 at mm/vmalloc.c:1";
        let warn = format!("sed '/# selftests: .*{test}/a {warning}' \"$logs/finished.log\"");
        let rows = lab(&MACHINE.replace("cat \"$logs/finished.log\"", &warn)).rows();
        let mut expected = [("series", "plain", "pass", Verdict::Pass); 3];
        expected[failed].3 = Verdict::Fail;
        assert_eq!(verdicts(&rows)[4..7], expected);
    }
}

#[test]
fn results_of_an_earlier_run_do_not_survive() {
    let lab = lab(MACHINE);
    fs::create_dir_all(lab.path("")).unwrap();
    fs::write(lab.path("results.json"), "{}").unwrap();
    fs::create_dir(lab.path("preventive-plain.log")).unwrap();
    let rows = lab.rows();
    assert_eq!(rows[0].verdict, Verdict::Error);
    assert!(rows[0].observed.contains("preventive-plain.log"), "{}", rows[0].observed);
    assert_eq!(lab.results()["runs"][3]["verdict"], "PASS");
}

#[test]
fn the_table_is_aligned_and_has_colour_only_if_asked() {
    let seen =
        BootSeen { tests: vec![passed(), with(Status::Fail, &"long ".repeat(30))], counters: Ok(None), ..well() };
    let mut rows = judge::judge(&cell("preventive", "stale"), &died(overflow()));
    rows.extend(judge::judge(&cell("series", "plain"), &seen));
    let text = report::rows_table(&rows, false, 200);
    let expected = "\
kernel      machine  harts  test    expected        observed                                          verdict  seconds  hits
preventive  stale        4  one.sh  pass            pass                                              PASS         1.3    40
preventive  stale        4  two.sh  stack overflow  stack overflow                                    PASS         1.3    40
series      plain        4  one.sh  pass            pass                                              PASS         1.3     -
series      plain        4  two.sh  pass            fail: long long long long long long long long l…  FAIL         1.3     -
";
    assert_eq!(text, expected);
    let colored = report::rows_table(&rows, true, 200);
    assert!(colored.contains('\x1b'));
    let mut plain = colored;
    while let Some(start) = plain.find('\x1b') {
        let end = start + plain[start..].find('m').unwrap();
        plain.replace_range(start..=end, "");
    }
    assert_eq!(plain, expected);
    // In 80 columns: what is the same in every row is said once, what was expected is explained below
    // the table, and a text is cut.
    let expected = "\
in every row: harts 4
kernel      machine  test    observed                      verdict  seconds  hits
preventive  stale    one.sh  pass                          PASS         1.3    40
preventive  stale    two.sh  stack overflow                PASS         1.3    40
series      plain    one.sh  pass                          PASS         1.3     -
series      plain    two.sh  fail: long long long long lo…  FAIL         1.3     -
";
    let narrow = report::rows_table(&rows, false, 80);
    assert!(narrow.lines().all(|line| line.chars().count() <= 80), "{narrow}");
    let words = |text: &str| -> Vec<Vec<String>> {
        let of = |line: &str| line.split_whitespace().map(|w| w.trim_end_matches('…').to_owned()).take(5).collect();
        text.lines().map(of).collect()
    };
    assert_eq!(words(&narrow), words(expected), "{narrow}");
    assert!(narrow.contains('…'), "{narrow}");
}
