// SPDX-License-Identifier: GPL-2.0-only
//! `lazymap judge` on consoles from elsewhere.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::common::{Lab, Said, said, write};

struct Court(Lab);

/// A console of the crate that reads them, or what a hunt left.
fn fixture(name: &str) -> PathBuf {
    let tests = if name.starts_with("console/") { "console/tests" } else { "tests" };
    Path::new(env!("CARGO_MANIFEST_DIR")).join(tests).join("fixtures").join(name)
}

impl Court {
    fn new() -> Self {
        Self(Lab::without_kernel())
    }

    /// Judges a fixture.
    fn judge(&self, name: &str, more: &[&str]) -> Said {
        let path = fixture(name);
        said(self.0.tool().args(["judge", "--console", path.to_str().unwrap()]).args(more))
    }

    /// Judges a text.
    fn text(&self, text: &str, more: &[&str]) -> Said {
        let path = self.0.dir.path().join("console.log");
        write(&path, text);
        said(self.0.tool().args(["judge", "--console", path.to_str().unwrap()]).args(more))
    }
}

/// The clean console without our guest's marks, as from a board.
fn board() -> String {
    let all = fs::read_to_string(fixture("console/finished.log")).unwrap();
    all.lines().filter(|l| !l.contains("lazymap: guest")).map(|l| format!("{l}\n")).collect()
}

/// The board's console with `line` in the first test.
fn with(line: &str) -> String {
    board().replacen("[    5.173353]", &format!("[    5.173000] {line}\n[    5.173353]"), 1)
}

#[track_caller]
fn ends(said: &Said, code: i32, words: &[&str]) {
    assert_eq!(said.code, Some(code), "{said:#?}");
    for word in words {
        assert!(said.out.contains(word), "`{word}` is missing: {said:#?}");
    }
}

#[test]
fn a_clean_console_passes_from_a_file_and_from_a_pipe() {
    let court = Court::new();
    let all = ["ok 1 console\n", "test-trace.sh\n", "1..4\n4 passed, 0 failed, 0 skipped\n"];
    ends(&court.judge("console/finished.log", &[]), 0, &all);
    ends(&court.text(&board(), &[]), 0, &all);
    let mut tool = court.0.tool();
    tool.args(["judge", "--console", "-"]).stdin(File::open(fixture("console/finished.log")).unwrap());
    ends(&said(&mut tool), 0, &all);
    // As LAVA has it.
    let lava = |line: &str| {
        let line = serde_json::to_string(line).unwrap();
        format!("- {{\"dt\": \"2026-11-28T19:13:18.123456\", \"lvl\": \"target\", \"msg\": {line}}}\n")
    };
    ends(&court.text(&board().lines().map(lava).collect::<String>(), &[]), 0, &all);
    // A test that must be there and is not.
    ends(&court.text(&board(), &["--test", "test-other.sh"]), 2, &["not ok 2 test-other.sh # no result"]);
}

#[test]
fn a_report_of_the_kernel_fails_the_run_and_names_the_test() {
    let court = Court::new();
    let refused = "__sbi_rfence_v02_call: hbase = [0] hmask = [0xf] failed (error [-22])";
    let result = court.text(&with(refused), &[]);
    let inside = "(in selftests: riscv/lazy_map: test-ipi.sh/new_mapping_touched_from_ipi)";
    ends(&result, 1, &["remote fence refused", refused, inside, "test-trace.sh\n"]);
    ends(&court.text(&with("INFO: the vendor knows what"), &[]), 2, &["unknown kind of report", "INFO: the vendor"]);
    ends(&court.text(&with("lazy_map_ipi: loading out-of-tree module taints kernel."), &[]), 0, &[]);
}

#[test]
fn what_a_dead_kernel_did_not_reach_is_missed() {
    let court = Court::new();
    let result = court.judge("console/oops-in-exit.log", &[]);
    ends(&result, 1, &["not ok 1 console # oops: Unable to handle kernel paging request", "# MISS: not reached"]);
    assert_eq!(result.out.matches("not ok").count(), 3, "{result:#?}");
    // The command line of our own guest has the names of what was missed.
    let log = fs::read_to_string(fixture("console/oops-in-exit.log")).unwrap();
    let named = log.replacen(
        "\n",
        "\n[    0.000000] Kernel command line: console=ttyS0 lazymap.tests=test-trace.sh,test-stack.sh\n",
        1,
    );
    ends(&court.text(&named, &[]), 1, &["not ok 3 test-stack.sh # MISS: not reached"]);
}

#[test]
fn what_is_expected_can_be_a_death() {
    let court = Court::new();
    let overflow = "console/stack-overflow.log";
    ends(&court.judge(overflow, &[]), 1, &["not ok 1 console # stack overflow"]);
    ends(&court.judge(overflow, &["--expect", "stack-overflow"]), 0, &["1 passed"]);
    ends(&court.judge(overflow, &["--expect", "oops", "--text", "x"]), 1, &["expected oops"]);
    ends(&court.judge("console/finished.log", &["--expect", "stack-overflow"]), 1, &["expected stack overflow"]);
    let oops = ["--expect", "oops", "--symbol", "touch"];
    ends(&court.judge("console/oops-in-exit.log", &oops), 0, &["1 passed"]);
    ends(&court.judge("console/oops-in-exit.log", &["--expect", "oops", "--symbol", "other"]), 1, &["other is not in"]);
    let died = "Attempted to kill init";
    ends(&court.judge("console/panic.log", &["--expect", "boot-death", "--text", died]), 0, &["(boot)"]);
    ends(
        &court.text(&with("WARNING: x"), &["--expect", "warning", "--text", "^WARNING: x", "--test", "test-ipi.sh"]),
        0,
        &[],
    );
}

#[test]
fn what_the_console_does_not_tell_is_an_error() {
    let court = Court::new();
    let none = board().replace("TAP version 13", "no tests");
    ends(&court.text(&none, &[]), 2, &["incomplete: no KTAP version line", "--expect boot"]);
    ends(&court.text(&none, &["--expect", "boot"]), 0, &["ok 1 console\n"]);
    // Nobody asked for the tests, but one failed.
    let failing = board().replacen("] ok 2 selftests", "] not ok 2 selftests", 1);
    ends(&court.text(&failing, &["--expect", "boot"]), 1, &["not ok 1 console # ", "test-stack.sh failed"]);
    let early = &none[..none.find("Run /init").unwrap()];
    ends(&court.text(early, &["--expect", "boot"]), 2, &["nothing shows that the kernel started init"]);
    ends(
        &court.text(&format!("{none}[    9.000000] WARNING: x\n"), &["--expect", "boot"]),
        1,
        &["warning: WARNING: x"],
    );
    // Cut off in the middle.
    let cut = board();
    let cut = &cut[..cut.find("ok 2 selftests").unwrap()];
    ends(&court.text(cut, &[]), 2, &["no result", "MISS"]);
    let odd: String = board().lines().enumerate().map(|(n, l)| format!("<<{n:x}>>{l}\n")).collect();
    ends(&court.text(&odd.replace("] Linux", "]x Linux"), &[]), 2, &["prefix not understood in line", "Linux version"]);
    ends(&court.text("U-Boot 2026.01\n\nStarting kernel ...\n", &[]), 2, &["never booted", "earlycon=sbi"]);
    court.text(" \n", &[]).fails(2, &["console.log: empty"]);
    court.judge("nowhere.log", &[]).fails(2, &["nowhere.log"]);
    // A sum that its parts deny.
    let wrong = board().replacen("pass:1 fail:0", "pass:0 fail:1", 1);
    ends(&court.text(&wrong, &[]), 2, &["the totals say"]);
}

#[test]
fn skipped_is_not_failed() {
    let court = Court::new();
    let results = "[    1.000000] Linux version 7.3.4\nTAP version 13\n1..2\nok 1 a # SKIP no module\n";
    ends(&court.text(&format!("{results}ok 2 b # SKIP\n"), &[]), 4, &["ok 2 a # SKIP no module", "2 skipped"]);
    ends(&court.text(&format!("{results}not ok 2 b # XFAIL known\n"), &[]), 0, &["ok 3 b\n"]);
    ends(&court.text(&format!("{results}not ok 2 b\n"), &[]), 1, &["not ok 3 b # fail"]);
}

#[test]
fn tests_may_be_named_in_any_order() {
    let court = Court::new();
    let order = ["--test", "test-trace.sh", "--test", "test-ipi.sh", "--test", "test-stack.sh"];
    ends(&court.text(&board(), &order), 0, &["ok 2 test-trace.sh\n", "ok 4 test-stack.sh\n", "4 passed"]);
}

#[test]
fn a_trace_says_whether_a_hit_killed() {
    let court = Court::new();
    let trace = |name: &str| fixture(&format!("hunt/{name}.trace")).to_str().unwrap().to_owned();
    let went_on = court.judge("hunt/went-on.log", &["--trace", &trace("went-on")]);
    ends(&went_on, 0, &["ok 1 trace\n", "reported a stale hit on the console, and went on", "1 absorbed, 0 killed"]);
    ends(&court.judge("hunt/went-on.log", &[]), 1, &["not ok 1 console # oops"]);
    // When, with what and how it was judged; the run itself does not say.
    for what in ["| began  20", "| tool   lazymap ", "| qemu   not known", "| again  harness/lazymap "] {
        assert!(went_on.out.contains(what), "{what}: {}", went_on.out);
    }
    assert!(went_on.out.contains("went-on.log on elsewhere, "), "{}", went_on.out);
    let killed = court.judge("hunt/old-epc.log", &["--trace", &trace("old-epc")]);
    ends(&killed, 1, &["not ok 1 trace # a stale hit killed the kernel"]);
    let expected = ["--trace", &trace("old-epc"), "--expect", "oops", "--text", "copy_process"];
    ends(&court.judge("hunt/old-epc.log", &expected), 0, &["ok 1 trace\n", "2 passed"]);
    // A trace of another run explains nothing.
    ends(
        &court.judge("hunt/old-epc.log", &["--trace", &trace("went-on")]),
        1,
        &["not ok 1 trace # the kernel died, but"],
    );
    court
        .judge("hunt/old-epc.log", &["--trace", fixture("hunt/old-epc.log").to_str().unwrap(), "--vmlinux", "/nowhere"])
        .fails(2, &["/nowhere"]);
}

#[test]
fn surviving_needs_a_witness() {
    let court = Court::new();
    let counters = court.0.dir.path().join("x.qemu.log");
    let path = counters.to_str().unwrap().to_owned();
    let survive = ["--expect", "survive", "--counters", &path];
    write(&counters, "x-cache-invalid: total harts=4 stale_hits=7 fences=8 remembered=9\n");
    ends(&court.judge("console/finished.log", &survive), 0, &["4 passed"]);
    write(&counters, "x-cache-invalid: total harts=4 stale_hits=0 fences=8 remembered=9\n");
    ends(&court.judge("console/finished.log", &survive), 1, &["no stale translation was ever used"]);
    court.judge("console/finished.log", &["--expect", "survive"]).fails(64, &["--counters or --trace"]);
    court.judge("console/finished.log", &["--expect", "panic"]).fails(64, &["need --text"]);
    court.judge("console/finished.log", &["--expect", "oops"]).fails(64, &["--symbol or --text"]);
    court.judge("console/finished.log", &["--expect", "oops", "--text", "("]).fails(64, &["--text ("]);
    court.judge("console/finished.log", &["--expect", "hang"]).fails(64, &["hang"]);
    said(court.0.tool().arg("judge")).fails(64, &["--console"]);
}

#[test]
fn what_tests_count_is_believed_unless_qemu_counted_less() {
    let court = Court::new();
    let counters = court.0.dir.path().join("x.qemu.log");
    let path = counters.to_str().unwrap().to_owned();
    let counted = board().replacen("# # touches: 14080", "# # spurious faults: 3", 1);
    ends(&court.text(&counted, &[]), 0, &["4 passed"]);
    write(&counters, "x-cache-invalid: total harts=4 stale_hits=3 fences=8 remembered=9\n");
    ends(&court.text(&counted, &["--counters", &path]), 0, &["4 passed"]);
    write(&counters, "x-cache-invalid: total harts=4 stale_hits=2 fences=8 remembered=9\n");
    ends(&court.text(&counted, &["--counters", &path]), 2, &["met 3 spurious faults, but QEMU counted 2"]);
}

/// The start of a kernel.
const START: &str = "[    0.000000] Linux version 7.3.4 (x)\n[    1.000000] Run /init as init process\n";
/// Its end.
const OFF: &str = "[    9.000000] reboot: Power down\n";

/// A console with `lines` between the start and the end of a kernel.
fn between(lines: &str) -> String {
    format!("{START}{lines}{OFF}")
}

/// The same with two results.
fn two(first: &str, second: &str) -> String {
    between(&format!("TAP version 13\n1..2\n{first}\n{second}\n"))
}

#[test]
fn a_message_between_not_and_ok_is_no_pass() {
    let court = Court::new();
    let torn = "the line is torn by a kernel message";
    for (before, after) in [("not ", "ok 2 b"), ("not", " ok 2 b"), ("no", "t ok 2 b"), ("not o", "k 2 b")] {
        let console = two("ok 1 a", &format!("{before}[    5.000000] random: crng init done\n{after}"));
        ends(&court.text(&console, &[]), 2, &[torn]);
        let inside = format!("# TAP version 13\n# 1..1\n# {before}[    5.000000] random: crng init done\n{after}");
        let console =
            two("ok 1 a", &inside.replace(&after.to_string(), &format!("# {}\nok 2 b", after.replace('2', "1"))));
        ends(&court.text(&console, &[]), 2, &[torn]);
    }
    // Other lines may be torn.
    let console = two("ok 1 a", "# some no[    5.000000] random: crng init done\n# te\nok 2 b");
    ends(&court.text(&console, &[]), 0, &["3 passed"]);
}

#[test]
fn a_document_that_is_not_read_is_not_lost_behind_one_that_is() {
    let court = Court::new();
    let good = "TAP version 13\n1..2\nok 1 a\nok 2 b\n";
    let torn = "KTAP ver[    1.100000] foo\nsion 1\n1..1\nnot ok 1 kunit_suite\n";
    ends(&court.text(&between(&format!("{torn}{good}")), &[]), 2, &["results without a line `TAP version 13`"]);
    let behind = "board sh[30]: KTAP version 1\nboard sh[30]: 1..1\nboard sh[30]: not ok 1 z\n";
    for both in [format!("{behind}{good}"), format!("{good}{behind}")] {
        ends(&court.text(&between(&both), &[]), 2, &["results behind `board sh[30]:`: prefix not understood"]);
    }
    let vendor = "vendor: KTAP version 1\nvendor: 1..1\nvendor: not ok 1 z\n";
    ends(&court.text(&between(&format!("{vendor}{good}")), &[]), 2, &["results behind `vendor:`"]);
    // What this tool quotes is no document.
    let quote = "#   | KTAP version 1\n#   | not ok 1 z\n";
    ends(&court.text(&between(&good.replacen("ok 2", &format!("{quote}ok 2"), 1)), &[]), 0, &["3 passed"]);
}

#[test]
fn a_module_that_fails_must_be_heard_of_again() {
    let court = Court::new();
    let log = "[    2.000000] mod: KTAP version 1\n[    2.000000] mod: 1..2\n[    2.000000] mod: not ok 1 x\n[    2.000000] mod: ok 2 y\n";
    let test = |again: &str, result: &str| {
        court.text(
            &between(&format!(
                "TAP version 13\n1..1\n# selftests: g: t.sh\n{log}{again}{result} 1 selftests: g: t.sh\n"
            )),
            &[],
        )
    };
    let again = "# KTAP version 1\n# 1..2\n# not ok 1 x\n# ok 2 y\n";
    ends(&test(again, "not ok"), 1, &["not ok 2 selftests: g: t.sh # fail"]);
    ends(&test("", "not ok"), 1, &["not ok 2 selftests: g: t.sh # fail"]);
    ends(&test("", "ok"), 2, &["mod says that x failed"]);
    ends(&test(&again.replace("not ok 1 x", "ok 1 x"), "ok"), 2, &["mod says that x failed"]);
    // After the last result nothing can say it again.
    let late = format!("TAP version 13\n1..1\nok 1 a\n{log}");
    ends(&court.text(&between(&late), &[]), 2, &["mod says that x failed"]);
}

#[test]
fn a_second_oops_is_not_about_the_hit_of_the_first() {
    let court = Court::new();
    let trace = fixture("hunt/went-on.trace").to_str().unwrap().to_owned();
    let log = fs::read_to_string(fixture("hunt/went-on.log")).unwrap();
    let with = |lines: &str| {
        let lines: String = lines.lines().map(|l| format!("[    1.500000] {l}\n")).collect();
        court.text(&log.replacen("[    1.900000]", &format!("{lines}[    1.900000]"), 1), &["--trace", &trace])
    };
    let other = "Unable to handle kernel NULL pointer dereference at virtual address 0000000000000008";
    for lines in [
        other.to_owned(),
        format!("{other}\nOops [#2]"),
        format!("Oops [#1]\n{other}"),
        "Oops [#1]\nOops [#2]".to_owned(),
    ] {
        ends(&with(&lines), 1, &["not ok 1 trace # the console has `", "not ok 2 console # oops"]);
    }
    // What die() says is about the same one.
    ends(&with("Oops [#1]"), 0, &["ok 1 trace\n", "ok 2 console\n"]);
}

#[test]
fn a_log_that_ends_in_a_message_is_not_whole() {
    let court = Court::new();
    let console = two("ok 1 a", "ok 2 b");
    let cut = console.replace(OFF, "[    8.000000] Unable to handle kern");
    let what = "the log ends in the middle of a message";
    ends(&court.text(&cut, &[]), 2, &[what]);
    ends(&court.text(&format!("{cut}\n"), &[]), 0, &["3 passed"]);
    // Whoever copies a log leaves out the last newline: these messages are whole, and results are counted.
    ends(&court.text(console.trim_end(), &[]), 0, &["3 passed"]);
    ends(&court.text(console.replace(OFF, "").trim_end(), &[]), 0, &["3 passed"]);
}

#[test]
fn another_kernels_life_is_not_this_ones() {
    let court = Court::new();
    let boots = ["--expect", "boot"];
    let before = "[    1.000000] Run /init as init process\nboard login:\n[    9.000000] reboot: Restarting system\n";
    let early = "[    0.000000] Linux version 7.3.4 (x)\n[    0.500000] a\n";
    ends(&court.text(&format!("{before}{early}"), &boots), 2, &["nothing shows that the kernel started init"]);
    ends(&court.text(&format!("{before}{early}board login:\n"), &boots), 0, &[]);
    // It starts again and dies at once.
    for more in ["", "[    0.000000] Machine model: x\n"] {
        let again = format!("{}[    0.000000] Linux version 7.3.4 (x)\n{more}", two("ok 1 a", "ok 2 b"));
        ends(&court.text(&again, &[]), 2, &["the kernel starts a second time"]);
    }
}

#[test]
fn a_failure_counts_whether_or_not_it_was_named() {
    let court = Court::new();
    let console = two("ok 1 a", "not ok 2 b");
    ends(&court.text(&console, &["--test", "a"]), 1, &["ok 2 a\n", "not ok 3 b # fail"]);
    // Nor does the guest's command line say everything: KUnit runs before it.
    let asked = "[    0.000000] Kernel command line: console=ttyS0 lazymap.tests=a\n";
    let named = console.replacen("[    1.000000]", &format!("{asked}[    1.000000]"), 1);
    ends(&court.text(&named, &[]), 1, &["ok 2 a\n", "not ok 3 b # fail"]);
    ends(&court.text(&named.replace("not ok 2 b", "ok 2 b # XPASS x"), &[]), 1, &["not ok 3 b # got xpass"]);
    ends(&court.text(&named.replace("not ok 2 b", "ok 2 b # SKIP x"), &[]), 0, &["2 passed"]);
    // One that was asked for and never started is not another one.
    let missed = named.replace("lazymap.tests=a", "lazymap.tests=a,b").replace("not ok 2 b\n", "");
    ends(&court.text(&missed, &[]), 2, &["not ok 3 b # no result", "1..3\n"]);
    ends(&court.text(&missed, &["--test", "a"]), 2, &["not ok 3 test 2 # no result", "1..3\n"]);
}

#[test]
fn only_a_trace_is_a_trace() {
    let court = Court::new();
    let console = two("# touches: 3\nok 1 a", "# touches: 3\nok 2 b");
    let at = |name: &str| court.0.dir.path().join(name).to_str().unwrap().to_owned();
    let (trace, counters) = (at("x.trace"), at("x.qemu.log"));
    let judged = |text: &str, more: &[&str]| {
        write(Path::new(&trace), text);
        court.text(&console, &[&["--trace", trace.as_str()], more].concat())
    };
    let counted = |hits: u32| {
        write(Path::new(&counters), &format!("x-cache-invalid: total harts=4 stale_hits={hits} fences=8\n"));
        ["--counters", counters.as_str()]
    };
    for text in [console.as_str(), "\u{fffd}\u{1}\u{2}\n", "riscv_trap hart:0\n"] {
        judged(text, &[]).fails(2, &["x.trace: no line begins with an event of QEMU's trace"]);
        judged(text, &counted(0)).fails(2, &["x.trace: no line begins with an event"]);
    }
    // Nothing was traced, or nothing was there to be traced: only the counters tell.
    for text in ["", "\n"] {
        ends(&judged(text, &[]), 2, &["not ok 1 trace # the trace has no hit", "--counters"]);
        ends(&judged(text, &["--expect", "survive"]), 2, &["not ok 1 trace # the trace has no hit"]);
        ends(&judged(text, &counted(0)), 0, &["ok 1 trace\n"]);
    }
    let used = "riscv_valid_cache_stale_use hart=1 use=1 time=1000 mode=0 access=load addr=0x1000 pc=0x2 ra=0x3 asid=0 what=remapped";
    let found = ["not ok 1 trace # a hart used a stale translation"];
    ends(&judged(&format!("{used}\n"), &[]), 1, &found);
    ends(&judged(&format!("{used}\r\n"), &[]), 1, &found);
    // As QEMU's log has it, and without the last newline.
    ends(&judged(&format!("4711@1700000000.000001:{used}\n"), &[]), 1, &found);
    ends(&judged(used, &[]), 1, &found);
    // Behind what is not understood.
    judged(&format!("{used}\nhost: {used}\n"), &[]).fails(2, &["invalid line: `host: riscv_valid"]);
}

#[test]
fn counters_that_are_not_there_are_an_error() {
    let court = Court::new();
    let console = court.0.dir.path().join("console.log");
    let path = console.to_str().unwrap().to_owned();
    let text = two("ok 1 a", "ok 2 b");
    for expect in ["pass", "survive"] {
        let given = ["--expect", expect, "--counters", &path];
        court.text(&text, &given).fails(2, &["console.log: no line `x-cache-invalid: total`"]);
    }
    let twice = "x-cache-invalid: total harts=4 stale_hits=7 fences=8\n".repeat(2);
    court.text(&(text + &twice), &["--counters", &path]).fails(2, &["console.log: QEMU printed"]);
}

#[test]
fn an_expected_sign_must_be_beyond_doubt() {
    let court = Court::new();
    let fails = ["--expect", "test-failure", "--test", "b"];
    ends(&court.text(&two("ok 1 a", "not ok 2 b"), &fails), 0, &["1 passed"]);
    let no_plan = two("ok 1 a", "not ok 2 b").replace("1..2\n", "");
    ends(&court.text(&no_plan, &fails), 2, &["have no plan"]);
    ends(&court.text(&two("ok 1 a", "not ok 2 b\nBail out! no memory"), &fails), 2, &["bailed out: no memory"]);
    // The kernel has to say it, not a test.
    let warns = ["--expect", "warning", "--text", "the sky", "--test", "b"];
    for line in ["# the sky falls", "ok 2 the sky", "  # # the sky falls", "not ok 2 the sky"] {
        ends(
            &court.text(
                &two("ok 1 a", &format!("{line}\nok 2 b")).replace("ok 2 the sky\nok 2 b", "ok 2 b # the sky"),
                &warns,
            ),
            1,
            &["expected warning"],
        );
    }
    ends(&court.text(&two("ok 1 a", "the sky falls\nok 2 b"), &warns), 1, &["expected warning"]);
    ends(&court.text(&two("ok 1 a", "[    5.000000] the sky falls\nok 2 b"), &warns), 0, &["1 passed"]);
    // A kernel that does not stamp its messages says it, too.
    let plain = two("ok 1 a", "the sky falls\nok 2 b").replace("[    0.000000] ", "").replace("[    1.000000] ", "");
    ends(&court.text(&plain, &warns), 0, &["1 passed"]);
    // Without a test, nothing happens while one runs.
    let overflow = between("[    2.000000] Insufficient stack space to handle exception!\n");
    for sign in ["stack-overflow", "test-failure"] {
        court.text(&overflow, &["--expect", sign]).fails(2, &["console.log: the console names no test"]);
    }
    ends(&court.text(&between("[    2.000000] Oops [#1]\n"), &["--expect", "oops", "--text", "Oops"]), 0, &["(boot)"]);
    // What it died of in the middle of a test needs no plan's end.
    let dead = format!(
        "{START}TAP version 13\n1..2\n# selftests: g: a\n# TAP version 13\n# ok 1 x\n[    2.000000] Insufficient stack space to handle exception!\n"
    );
    ends(&court.text(&dead, &["--expect", "stack-overflow"]), 0, &["1 passed"]);
}

#[test]
fn what_boards_print_while_all_is_well_is_clean() {
    let court = Court::new();
    let board = fs::read_to_string(fixture("judge/board.log")).unwrap();
    let plain = |line: &str| match line.split_once('>') {
        Some((level, rest)) if level.starts_with('<') => format!("{rest}\n"),
        _ => format!("{line}\n"),
    };
    let unstamped = |line: &str| match line.split_once("] ") {
        Some((stamp, rest)) if stamp.starts_with("[ ") && stamp.contains('.') => format!("{rest}\n"),
        _ => format!("{line}\n"),
    };
    let without_levels: String = board.lines().map(plain).collect();
    let without_stamps: String = without_levels.lines().map(unstamped).collect();
    let ends_with_cr = board.replace('\n', "\n\r");
    let kernel = without_stamps.find("Linux version").unwrap();
    let marked = format!("\u{feff}{}", &without_stamps[kernel..]);
    let skip = "ok 3 selftests: riscv/vector: v_initval # SKIP no vectors\n";
    for text in [&board, &without_levels, &without_stamps, &ends_with_cr, &marked] {
        ends(&court.text(text, &[]), 0, &["ok 1 console\n", skip, "2 passed, 0 failed, 1 skipped"]);
        ends(&court.text(text, &["--expect", "boot"]), 0, &["ok 1 console\n"]);
    }
    // The last message may lack its newline.
    ends(&court.text(board.trim_end(), &[]), 0, &["ok 1 console\n"]);
    // What the kernel itself calls critical still counts.
    let critical = board.replace("watchdog0: watchdog did not stop!", "watchdog0: it barks");
    ends(&court.text(&critical, &[]), 2, &["a critical message: watchdog: watchdog0: it barks"]);
}

#[test]
fn a_monotonic_journal_is_understood() {
    let court = Court::new();
    let journal = |text: &str| -> String {
        let line = |line: &str| match line.split_once("] ") {
            Some((stamp, rest)) => format!("{stamp}] board kernel: {rest}\n"),
            None => format!("[    5.000000] board run[31]: {line}\n"),
        };
        text.lines().map(line).collect()
    };
    let console = two("ok 1 a", "ok 2 b");
    ends(&court.text(&journal(&console), &[]), 0, &["3 passed"]);
    let warns =
        console.replace("ok 2 b", "[    4.000000] WARNING: kernel/smp.c:815 at f+0x1/0x2, CPU#1: insmod/30\nok 2 b");
    ends(&court.text(&journal(&warns), &[]), 1, &["warning: WARNING: kernel/smp.c:815"]);
    // A program's line is not the kernel's.
    let program = console.replace("ok 2 b", "INFO: all is well\nok 2 b");
    ends(&court.text(&journal(&program), &[]), 0, &["3 passed"]);
}

#[test]
fn a_report_within_an_escape_sequence_is_seen() {
    let court = Court::new();
    let warning = "[    2.000000] WARNING: kernel/smp.c:815 at f+0x1/0x2, CPU#1: insmod/30\n";
    for (before, after) in [("\x1b]0;root@b", "oard\x07# "), ("\x1b[0;1", "m# "), ("\x1bP+q5", "44e\x1b\\# ")] {
        let console = two("ok 1 a", &format!("{before}{warning}{after}\nok 2 b"));
        ends(&court.text(&console, &[]), 1, &["warning: WARNING: kernel/smp.c:815"]);
    }
}

#[test]
fn lost_messages_may_have_been_reports() {
    let court = Court::new();
    let console = two("ok 1 a", "** 12 printk messages dropped **\nok 2 b");
    ends(&court.text(&console, &[]), 2, &["unknown kind of report: line 6: lost messages"]);
    // All that may be left of a report.
    let rest = two("ok 1 a", "[    2.000000] Use-after-free read at 0x00000000c484ed03 (in kfence-#199):\nok 2 b");
    ends(&court.text(&rest, &[]), 2, &["corrupted memory: Use-after-free read"]);
}

#[test]
fn a_kernel_that_is_to_warn_must_not_die() {
    let court = Court::new();
    let oops = "[    5.000000] Unable to handle kernel paging request at virtual address ff20000000028000\n";
    let fails = ["--expect", "test-failure", "--test", "b"];
    let warns = ["--expect", "warning", "--text", "^WARNING: x", "--test", "b"];
    let console = two("ok 1 a", "[    3.000000] WARNING: x\nnot ok 2 b");
    let dead = console.replace(OFF, oops);
    for expect in [&fails[..], &warns[..]] {
        ends(&court.text(&console, expect), 0, &["1 passed"]);
        ends(&court.text(&dead, expect), 1, &["not ok 1 console # oops: Unable to handle kernel", "1 failed"]);
    }
}
