// SPDX-License-Identifier: GPL-2.0-only
//! Ends on whole consoles; the logs in `fixtures/console` come from real runs.

use std::fs;
use std::time::Duration;

use lazymap_console::end::{self, End, Ending, Reading};
use lazymap_console::log::Log;

const EXITED: Ending = Ending::Exited(0);
const SILENT: Ending = Ending::Silent(Duration::from_secs(60));
const LATE: Ending = Ending::TimedOut(Duration::from_secs(240));
const OVERFLOW: &str = "Kernel panic - not syncing: Kernel stack overflow";

fn log(name: &str) -> String {
    let path = format!("{}/tests/fixtures/console/{name}.log", env!("CARGO_MANIFEST_DIR"));
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// The log with `line` in front of the first line that holds `before`.
fn with_line(log: &str, before: &str, line: &str) -> String {
    let at = log.find(before).map(|at| log[..at].rfind('\n').map_or(0, |n| n + 1)).unwrap();
    format!("{}{line}\r\n{}", &log[..at], &log[at..])
}

fn without(log: &str, text: &str) -> String {
    assert!(log.contains(text));
    log.lines().filter(|l| !l.contains(text)).map(|l| format!("{l}\n")).collect()
}

/// The log up to the first line that holds `text`, which is left out.
fn up_to(log: &str, text: &str) -> String {
    log.lines().take_while(|l| !l.contains(text)).map(|l| format!("{l}\n")).collect()
}

fn read(log: &str, ending: &Ending) -> Reading {
    end::read(&Log::of(log), ending, "")
}

fn verdict(log: &str, ending: &Ending) -> End {
    read(log, ending).end
}

fn oops(headline: &str) -> End {
    End::Oops { headline: headline.to_owned() }
}

#[test]
fn a_run_to_the_end() {
    let reading = read(&log("finished"), &EXITED);
    assert_eq!(reading.end, End::Finished);
    assert_eq!(reading.forbidden, []);
    assert_eq!(reading.headline, None);
    assert!(reading.ready);
}

#[test]
fn the_last_lines_are_those_with_text() {
    let log = log("finished") + "\n\n  \n";
    let tail = end::tail(log.lines());
    assert_eq!(tail.len(), 12);
    assert!(tail[11].ends_with("reboot: Power down"), "{tail:?}");
    assert_eq!(end::tail("a\n\nb \n".lines()), ["a", "b"]);
    assert_eq!(end::tail("".lines()), [""; 0]);
}

#[test]
fn a_log_without_the_marks_of_a_run_is_not_clean() {
    let all = log("finished");
    for (mark, missing) in [
        (end::READY, vec![end::READY, "KTAP version line", end::DONE]),
        ("TAP version 13", vec!["KTAP version line"]),
        (end::DONE, vec![end::DONE]),
    ] {
        assert_eq!(verdict(&without(&all, mark), &EXITED), End::Incomplete { missing }, "{mark}");
    }
    assert_eq!(verdict(&without(&all, "Linux version"), &EXITED), End::NeverBooted);
    for ending in [EXITED, SILENT, LATE, Ending::Panicked] {
        assert_eq!(verdict("", &ending), End::NeverBooted, "{ending:?}");
    }
    assert_eq!(verdict(&all, &Ending::Panicked), End::Incomplete { missing: vec!["panic"] });
}

#[test]
fn a_test_cannot_fake_the_marks() {
    let text =
        with_line(&without(&log("finished"), end::DONE), "reboot: Power", "[    9.000000] # lazymap: guest done");
    assert!(matches!(verdict(&text, &EXITED), End::Incomplete { .. }));
}

#[test]
fn a_stack_overflow_seen_by_two_harts_at_once() {
    let reading = read(&log("stack-overflow"), &EXITED);
    assert_eq!(reading.end, End::StackOverflow { headline: OVERFLOW.to_owned() });
    assert_eq!(reading.headline.unwrap().text, OVERFLOW);
    assert_eq!(reading.forbidden, []);
    assert!(reading.ready);
    // Whoever ends QEMU then makes no difference, nor does a line that another message runs into.
    let torn = log("stack-overflow")
        .replace(&format!(" {OVERFLOW}"), &format!(" [<ffffffff80013d80>] han[    4.577000] {OVERFLOW}"));
    for ending in [EXITED, Ending::Panicked, SILENT, LATE, Ending::Signal(9)] {
        assert!(matches!(verdict(&log("stack-overflow"), &ending), End::StackOverflow { .. }), "{ending:?}");
        assert!(matches!(verdict(&torn, &ending), End::StackOverflow { .. }), "{ending:?}");
    }
}

#[test]
fn half_a_report_of_an_overflow_is_an_overflow() {
    // Nothing but handle_bad_stack() prints that line, whatever becomes of its panic.
    let first = "Insufficient stack space to handle exception!";
    let only = End::StackOverflow { headline: first.to_owned() };
    assert_eq!(verdict(&without(&log("stack-overflow"), OVERFLOW), &SILENT), only);
    let other = log("stack-overflow").replace(OVERFLOW, "Kernel panic - not syncing: Aiee, killing interrupt handler!");
    assert_eq!(verdict(&other, &EXITED), only);
    let reading = read(&log("overflow-twice"), &SILENT);
    assert_eq!((reading.end, reading.headline.map(|h| h.line)), (only, Some(7)));
}

#[test]
fn a_report_within_a_report_has_the_first_headline() {
    let headline = "Unable to handle kernel paging request at virtual address ff200000006b1000";
    let reading = read(&log("oops-in-exit"), &SILENT);
    assert_eq!((reading.end, reading.went_on), (oops(headline), false));
    assert_eq!(reading.forbidden, []);
}

#[test]
fn what_came_first_is_the_cause() {
    let before = "Insufficient stack space";
    let headline = "Unable to handle kernel paging request at virtual address ff200000006b1000";
    let text = with_line(&log("stack-overflow"), before, &format!("[    4.575000] {headline}"));
    assert_eq!(verdict(&text, &EXITED), oops(headline));
}

#[test]
fn a_panic_that_is_no_stack_overflow() {
    let headline = "Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000300".to_owned();
    let reading = read(&log("panic"), &EXITED);
    assert_eq!(reading.end, End::Panic { headline });
    assert!(!reading.ready);
}

#[test]
fn an_oops_with_the_panic_that_it_leads_to() {
    let booted = up_to(&log("panic"), "Kernel panic");
    let fault = "Unable to handle kernel NULL pointer dereference at virtual address 0000000000000010";
    let text = format!(
        "{booted}[    1.700000] {fault}\n[    1.700010] Oops [#1]\n\
         [    1.700020] [<ffffffff8000de58>] foo+0x28/0x38\n\
         [    1.700030] Kernel panic - not syncing: Fatal exception\n"
    );
    assert_eq!(verdict(&text, &EXITED), oops(fault));
    for line in ["Oops - illegal instruction [#1]", "kernel BUG at mm/vmalloc.c:3160!", "Internal error: x"] {
        assert_eq!(verdict(&format!("{booted}[    1.700000] {line}\n"), &SILENT), oops(line), "{line}");
    }
    // KASAN with panic_on_warn: the report says more than the panic.
    let bug = "BUG: KASAN: vmalloc-out-of-bounds in __memset+0x1/0x2";
    let text =
        format!("{booted}[    1.700000] {bug}\n[    1.700100] Kernel panic - not syncing: kasan.fault=panic set ...\n");
    assert_eq!(verdict(&text, &EXITED), oops(bug));
}

#[test]
fn what_a_test_says_about_panics_is_no_panic() {
    for line in [
        "[    2.100000] # # expects Kernel panic - not syncing: Kernel stack overflow",
        "[    2.100000] # Kernel panic - not syncing: Kernel stack overflow",
        "[    2.100000] # # WARNING: this takes long",
        "[    2.100000] # # looking for BUG: in the log",
        "[    2.100000] not ok 3 no BUG: in the log",
        "[    2.100000] ok 3 Oops [#1]",
    ] {
        let reading = read(&with_line(&log("finished"), "# Totals", line), &EXITED);
        assert_eq!((reading.end, reading.forbidden.len()), (End::Finished, 0), "{line}");
    }
}

#[test]
fn a_firmware_that_starts_nothing() {
    let reading = read(&log("never-booted"), &SILENT);
    assert_eq!(reading.end, End::NeverBooted);
    assert!(!reading.ready);
}

#[test]
fn hang_timeout_and_end_of_qemu_are_told_apart() {
    let text = up_to(&log("finished"), "# selftests: riscv/lazy_map: test-trace.sh");
    assert_eq!(verdict(&text, &SILENT), End::Hang(Duration::from_secs(60)));
    assert_eq!(verdict(&text, &LATE), End::Timeout(Duration::from_secs(240)));
    assert!(matches!(verdict(&text, &EXITED), End::Incomplete { .. }));
    let stderr = "qemu: Property 'rv64-riscv-cpu.x' not found\nx-cache-invalid: total harts=4\n";
    let failed = End::QemuFailed { stderr: "qemu: Property 'rv64-riscv-cpu.x' not found".to_owned() };
    assert_eq!(end::read(&Log::of(""), &Ending::Exited(1), stderr).end, failed);
    assert_eq!(end::read(&Log::of(&text), &Ending::Signal(11), stderr).end, failed);
    let silent = end::read(&Log::of(&log("finished")), &Ending::Signal(11), "").end;
    assert_eq!(silent, End::QemuFailed { stderr: "ended by signal 11, no message".to_owned() });
    // A machine that stays on after the guest has ended is not fine either.
    assert_eq!(verdict(&log("finished"), &SILENT), End::Hang(Duration::from_secs(60)));
}

#[test]
fn forbidden_lines_are_found_and_named() {
    for line in [
        "WARNING: CPU: 1 PID: 30 at kernel/smp.c:815 smp_call_function_many_cond+0x1/0x2",
        "WARNING: possible circular locking dependency detected",
        "------------[ cut here ]------------",
        "BUG: scheduling while atomic: insmod/31/0x00000002",
        "BUG: sleeping function called from invalid context at mm/vmalloc.c:3402",
        "rcu: INFO: rcu_sched detected stalls on CPUs/tasks:",
        "rcu: INFO: rcu_sched self-detected stall on CPU",
        "watchdog: BUG: soft lockup - CPU#2 stuck for 26s! [insmod:31]",
        "INFO: task insmod:31 blocked for more than 120 seconds.",
        "insmod: page allocation failure: order:0, mode:0x40dc0(GFP_KERNEL|__GFP_ZERO), nodemask=(null)",
        "sh[31]: unhandled signal 11 code 0x1 at 0x0000000000000000 in busybox[10000,1a0000]",
    ] {
        let text = with_line(&log("finished"), "# Totals", &format!("[    2.100000] {line}"));
        let reading = read(&text, &EXITED);
        let number = text.lines().position(|l| l.contains(line)).unwrap() + 1;
        let found: Vec<_> = reading.forbidden.iter().map(|f| (f.line, f.text.as_str())).collect();
        assert_eq!(found, [(number, line)]);
    }
}

#[test]
fn what_follows_the_end_is_not_searched() {
    let text = format!("{}[    7.000000] WARNING: CPU: 0 PID: 0 at kernel/panic.c:1\n", log("stack-overflow"));
    assert_eq!(read(&text, &EXITED).forbidden, []);
}

#[test]
fn the_verdict_does_not_depend_on_the_prefix() {
    let lava = |line: &str| {
        let line = serde_json::to_string(line).unwrap();
        format!(r#"- {{"dt": "2026-11-28T19:13:18.123456", "lvl": "target", "msg": {line}}}"#)
    };
    let plain = |line: &str| match line.split_once("] ") {
        Some((stamp, text)) if stamp.starts_with("[ ") => text.to_owned(),
        _ => line.to_owned(),
    };
    let decoded = |line: &str| if line.starts_with("[ ") { format!("kern  :warn  : {line}") } else { line.to_owned() };
    type Form<'a> = &'a dyn Fn(&str) -> String;
    let forms: [(&str, Form<'_>); 14] = [
        ("none", &plain),
        ("date", &|l| format!("2026-11-28T19:13:18.123456 {l}")),
        ("date, then none", &|l| format!("2026-11-28 19:13:18 {}", plain(l))),
        ("clock", &|l| format!("[19:13:18.123] {l}")),
        ("dmesg -T", &|l| format!("[Sat Nov 28 19:13:18 2026] {}", plain(l))),
        ("journal", &|l| format!("Nov 28 19:13:18 board kernel: {}", plain(l))),
        ("rsyslog", &|l| format!("2026-11-28T19:13:18.123456+00:00 board kernel: {l}")),
        ("github", &|l| format!("2026-11-28T19:13:18.1234567Z {l}")),
        ("lava", &lava),
        ("dmesg -x", &decoded),
        ("colour", &|l| format!("\x1b[32m{l}\x1b[0m")),
        ("mail", &|l| format!("> {l}")),
        ("ts -s", &|l| format!("00:00:15.123456 {l}")),
        ("container", &|l| format!("board1  | {l}")),
    ];
    for name in ["finished", "stack-overflow", "panic", "oops-in-exit"] {
        let bare = read(&log(name), &EXITED);
        for (form, prefix) in &forms {
            let text: String = log(name).lines().map(|l| prefix(l.trim_end()) + "\r\n").collect();
            let reading = read(&text, &EXITED);
            assert_eq!((&reading.end, reading.ready), (&bare.end, bare.ready), "{name} with {form}");
            assert_eq!((&reading.forbidden, &reading.unknown), (&bare.forbidden, &bare.unknown), "{name} with {form}");
        }
    }
}

#[test]
fn a_prefix_that_is_not_understood_is_named() {
    let odd: String = log("finished").lines().enumerate().map(|(n, l)| format!("<<{n:x}>> {l}\n")).collect();
    let odd = odd.replace("] Linux version", "]x Linux version");
    let End::NotUnderstood { line, text } = verdict(&odd, &EXITED) else { panic!("{:?}", verdict(&odd, &EXITED)) };
    let number = odd.lines().position(|l| l.contains("Linux version")).unwrap() + 1;
    assert_eq!((line, text.contains("Linux version")), (number, true));
    assert!(verdict(&odd, &SILENT).to_string().contains(&format!("prefix not understood in line {number}: <<")));
}

#[test]
fn a_console_that_falls_silent_gets_a_hint() {
    let hint = |text: &str| read(text, &SILENT).hint.unwrap_or_default();
    assert!(hint(&log("never-booted")).contains("earlycon=sbi keep_bootcon"));
    let gone = "[    0.000000] Linux version 6.6\n[    0.100000] printk: legacy bootconsole [sbi0] disabled\n\n";
    assert!(hint(gone).contains("keep_bootcon"));
    assert_eq!(hint(&up_to(&log("finished"), "# selftests: riscv/lazy_map: test-trace.sh")), "");
    assert_eq!(hint(&log("stack-overflow")), "");
    assert!(hint(&log("panic")).contains("init ended"));
}

#[test]
fn a_console_from_elsewhere_needs_no_marks_of_ours() {
    let foreign: String =
        log("finished").lines().filter(|l| !l.contains("lazymap: guest")).map(|l| format!("{l}\n")).collect();
    let reading = read(&foreign, &Ending::Unknown);
    assert_eq!((reading.end, reading.ready, reading.off), (End::Finished, true, true));
    let none = foreign.replace("TAP version 13", "no tests");
    assert_eq!(verdict(&none, &Ending::Unknown), End::Incomplete { missing: vec!["KTAP version line"] });
    // Where there is one of our marks, there must be the other.
    let cut = without(&log("finished"), end::DONE);
    assert_eq!(verdict(&cut, &Ending::Unknown), End::Incomplete { missing: vec![end::DONE] });
    assert_eq!(verdict("", &Ending::Unknown), End::NeverBooted);
    assert!(matches!(verdict(&log("stack-overflow"), &Ending::Unknown), End::StackOverflow { .. }));
}

/// The last words of a kernel that starts another by a panic.
const CRASH: &str = "[    2.100000] sysrq: Trigger a crash\n\
    [    2.200000] Kernel panic - not syncing: sysrq triggered crash\n\
    [    2.300000] CPU: 1 UID: 0 PID: 1 Comm: init Not tainted 7\n\
    [    2.300000] Call Trace:\n\
    [    2.300000] [<ffffffff80012345>] dump_backtrace+0x1c/0x24\n\
    [    2.400000] Starting crashdump kernel...\n\
    [    2.500000] Bye...\n";

/// A kernel with these last words, up to the start of another one.
fn first_kernel(last_words: &str) -> String {
    format!(
        "[    0.000000] Linux version 7\n[    1.000000] a\n[    2.000000] lazymap: the next kernel starts\n{last_words}"
    )
}

/// A kernel with this message that runs a test.
fn second_kernel(message: &str) -> String {
    format!(
        "[    0.000000] Linux version 7\n[    1.500000] {message}\n[    2.510000] lazymap: guest ready\n\
         [    2.600000] TAP version 13\n[    2.700000] 1..1\n[    2.800000] ok 1 a\n\
         [    2.900000] lazymap: guest done\n[    3.000000] reboot: Power down\n"
    )
}

#[test]
fn a_kernel_may_start_another_one() {
    for last_words in ["", CRASH] {
        let both = format!("{}{}", first_kernel(last_words), second_kernel("b"));
        let reading = read(&both, &EXITED);
        assert_eq!(reading.end, End::Finished, "{both}");
        assert!(reading.forbidden.is_empty() && reading.unknown.is_empty(), "{reading:?}");
        assert!(reading.headline.is_none() && reading.ready && reading.off, "{reading:?}");
        // Only if it said so.
        let silent = both.replace("lazymap: the next kernel starts", "x");
        let reading = read(&silent, &EXITED);
        let is_told = if last_words.is_empty() { !reading.unknown.is_empty() } else { reading.end != End::Finished };
        assert!(is_told, "{reading:?}");
    }
}

#[test]
fn what_goes_wrong_on_the_way_to_the_next_kernel_counts() {
    let both = |last_words: &str, message: &str| format!("{}{}", first_kernel(last_words), second_kernel(message));
    let other = "[    2.200000] Kernel panic - not syncing: Fatal exception\n";
    let headline = "Kernel panic - not syncing: Fatal exception".to_owned();
    assert_eq!(verdict(&both(other, "b"), &EXITED), End::Panic { headline });
    assert!(matches!(verdict(&both("[    2.200000] Oops [#1]\n", "b"), &EXITED), End::Oops { .. }));
    let warning =
        "[    2.450000] WARNING: arch/riscv/kernel/machine_kexec.c:168 at machine_kexec+0x1/0x2, CPU#1: init/1\n";
    assert_eq!(read(&both(warning, "b"), &EXITED).forbidden.len(), 1);
    // The last words of the first kernel cover no report of the second.
    assert_eq!(read(&both(CRASH, "Call Trace:"), &EXITED).unknown.len(), 1);
    // The tests run already.
    let late = second_kernel("b").replace("ok 1 a", "lazymap: the next kernel starts") + CRASH;
    assert!(matches!(verdict(&late, &EXITED), End::Panic { .. }));
}

#[test]
fn a_next_kernel_that_never_starts_is_missed() {
    let headline = "Kernel panic - not syncing: sysrq triggered crash".to_owned();
    assert_eq!(verdict(&first_kernel(CRASH), &EXITED), End::Panic { headline: headline.clone() });
    assert_eq!(verdict(&first_kernel(CRASH), &SILENT), End::Panic { headline });
    assert_eq!(verdict(&first_kernel(""), &SILENT), End::Hang(Duration::from_secs(60)));
    let End::Incomplete { missing } = verdict(&first_kernel(""), &EXITED) else { panic!() };
    assert!(missing.contains(&"first message of the next kernel"), "{missing:?}");
}
