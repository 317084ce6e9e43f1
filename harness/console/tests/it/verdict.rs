// SPDX-License-Identifier: GPL-2.0-only
//! What a console's messages make of each other: small logs, one rule each.

use std::time::Duration;

use lazymap_console::end::{self, End, Ending, Found, Reading};
use lazymap_console::log::Log;

const EXITED: Ending = Ending::Exited(0);
const FIRST: &str = "Linux version 7.3.4 (lazymap@lazymap)";
const FAULT: &str = "Unable to handle kernel paging request at virtual address ff20000000028000";
const PANIC: &str = "Kernel panic - not syncing: Fatal exception";
const OVERFLOW: &str = "Insufficient stack space to handle exception!";
const WARNING: &str = "WARNING: mm/vmalloc.c:100 at f+0x1/0x2, CPU#0: swapper/0";
const OFF: &str = "reboot: Power down";

/// The kernel's messages, with time stamps.
fn stamped(messages: &[&str]) -> String {
    messages.iter().enumerate().map(|(at, text)| format!("[{:5}.000000] {text}\n", at + 1)).collect()
}

/// A whole run with these messages in its tests.
fn run(messages: &[&str]) -> String {
    let all = [&[FIRST, end::READY, "KTAP version 1"], messages, &[end::DONE, OFF]];
    stamped(&all.concat())
}

fn read(text: &str, ending: &Ending) -> Reading {
    end::read(&Log::of(text), ending, "")
}

fn texts(found: &[Found]) -> Vec<&str> {
    found.iter().map(|found| found.text.as_str()).collect()
}

#[test]
fn a_message_is_told_with_line_and_kind() {
    let found = Found { line: 3, text: "x".to_owned(), kind: "oops" };
    assert_eq!(found.to_string(), "line 3: oops: x");
}

#[test]
fn results_make_a_console_from_elsewhere_ready() {
    let ready = |messages: &[&str]| read(&stamped(messages), &Ending::Unknown).ready;
    assert!(ready(&[FIRST, "KTAP version 1", OFF]));
    assert!(ready(&[FIRST, "TAP version 13", OFF]));
    assert!(!ready(&[FIRST, OFF]));
    // Here the guest says so itself.
    assert!(!read(&stamped(&[FIRST, "KTAP version 1", OFF]), &EXITED).ready);
    assert!(read(&stamped(&[FIRST, end::READY, OFF]), &EXITED).ready);
    // Nor does a mark count that comes before the kernel.
    assert!(!read(&stamped(&[end::READY, FIRST, OFF]), &EXITED).ready);
    assert!(!ready(&["KTAP version 1", FIRST, OFF]));
}

#[test]
fn a_machine_is_off_if_qemu_or_the_kernel_says_so() {
    let off = |messages: &[&str], ending| read(&stamped(messages), &ending).off;
    assert!(off(&[FIRST], EXITED));
    assert!(off(&[FIRST, OFF], Ending::Signal(9)));
    assert!(!off(&[FIRST], Ending::Exited(1)));
    assert!(!off(&[FIRST], Ending::Unknown));
}

#[test]
fn a_result_ends_a_report_and_a_diagnostic_does_not() {
    let unknown = |between: &str| read(&run(&[WARNING, between, "Call Trace:"]), &EXITED).unknown.len();
    assert_eq!(unknown("# note"), 0);
    assert_eq!(unknown("ok 1 test"), 1);
    assert_eq!(unknown("not ok 1 test"), 1);
}

#[test]
fn only_deaths_count_before_the_kernel() {
    let with = |text: &str| read(&(format!("{text}\n") + &run(&[])), &EXITED);
    for warning in [WARNING, stamped(&[WARNING]).trim_end()] {
        assert_eq!(with(warning).forbidden, []);
        assert_eq!(with(warning).unknown, []);
        assert_eq!(with(warning).end, End::Finished);
    }
    assert_eq!(with(PANIC).end, End::Panic { headline: PANIC.to_owned() });
}

#[test]
fn what_is_printed_again_counts_once() {
    let text = run(&[WARNING]);
    assert_eq!(texts(&read(&format!("{text}{text}"), &EXITED).forbidden), [WARNING]);
}

#[test]
fn what_follows_a_panic_is_not_its_cause() {
    let panic = End::Panic { headline: PANIC.to_owned() };
    for text in [OVERFLOW, FAULT, "BUG: sleeping function called from invalid context"] {
        assert_eq!(read(&stamped(&[FIRST, PANIC, text, PANIC]), &EXITED).end, panic, "{text}");
    }
    // What comes before it is, but a warning is not.
    assert_eq!(read(&stamped(&[FIRST, FAULT, PANIC]), &EXITED).end, End::Oops { headline: FAULT.to_owned() });
    assert_eq!(read(&stamped(&[FIRST, WARNING, PANIC]), &EXITED).end, panic);
    let (one, two) = ("BUG: sleeping function called from invalid context", "BUG: scheduling while atomic: x");
    assert_eq!(read(&stamped(&[FIRST, one, two, PANIC]), &EXITED).end, End::Oops { headline: one.to_owned() });
    assert_eq!(read(&stamped(&[FIRST, FAULT, one, PANIC]), &EXITED).end, End::Oops { headline: FAULT.to_owned() });
}

#[test]
fn an_overflow_is_told_from_an_oops_by_what_came_first() {
    let overflow = End::StackOverflow { headline: OVERFLOW.to_owned() };
    assert_eq!(read(&stamped(&[FIRST, OVERFLOW, FAULT]), &EXITED).end, overflow);
    assert_eq!(read(&stamped(&[FIRST, OVERFLOW]), &EXITED).end, overflow);
    assert_eq!(read(&stamped(&[FIRST, FAULT, OVERFLOW]), &EXITED).end, End::Oops { headline: FAULT.to_owned() });
}

#[test]
fn a_kernel_goes_on_only_after_its_trouble() {
    let went_on = |messages: &[&str]| read(&stamped(messages), &EXITED).went_on;
    assert!(went_on(&[FIRST, end::READY, FAULT, end::DONE, OFF]));
    assert!(went_on(&[FIRST, end::READY, FAULT, OFF]));
    assert!(!went_on(&[FIRST, end::READY, end::DONE, FAULT, OFF]));
    assert!(!went_on(&[FIRST, end::READY, FAULT]));
    assert!(!went_on(&[FIRST, end::READY, end::DONE, OFF]));
    for fatal in [PANIC, OVERFLOW] {
        assert!(!went_on(&[FIRST, end::READY, FAULT, fatal, end::DONE, OFF]), "{fatal}");
    }
}

#[test]
fn an_oops_is_one_report_until_its_number_changes() {
    let others = |messages: &[&str]| {
        let reading = read(&run(messages), &EXITED);
        assert!(reading.went_on && matches!(reading.end, End::Oops { .. }), "{reading:?}");
        texts(&reading.forbidden).iter().map(|text| (*text).to_owned()).collect::<Vec<_>>()
    };
    let none: [&str; 0] = [];
    assert_eq!(others(&[FAULT, "Oops [#1]"]), none);
    assert_eq!(others(&["Oops [#1]"]), none);
    assert_eq!(others(&["Oops [#1]", "Oops [#1] SMP"]), none);
    assert_eq!(others(&["Oops [#1]", "Oops [#2]"]), ["Oops [#2]"]);
    let second = FAULT.replace("28000", "29000");
    assert_eq!(others(&[FAULT, "Oops [#1]", &second, "Oops [#2]"]), [second.as_str()]);
    assert_eq!(others(&[FAULT, &second]), [second.as_str()]);
}

#[test]
fn a_log_from_elsewhere_may_end_in_the_middle_of_a_message() {
    let unknown = |text: &str, ending| texts(&read(text, &ending).unknown).len();
    let cut = stamped(&[FIRST, "KTAP version 1", "some mes"]);
    let cut = cut.trim_end();
    assert_eq!(unknown(cut, Ending::Unknown), 1);
    assert_eq!(unknown(cut, EXITED), 0);
    // A last line that is whole, of a program, or ended by a newline.
    for whole in [&format!("{cut}\n"), &stamped(&[FIRST, OFF]).trim_end().to_owned(), &format!("{cut}\nprogram")] {
        assert_eq!(unknown(whole, Ending::Unknown), 0, "{whole}");
    }
    let result = stamped(&[FIRST, "ok 1 test"]);
    assert_eq!(unknown(result.trim_end(), Ending::Unknown), 0);
}

#[test]
fn a_console_that_goes_silent_may_have_a_reason() {
    let hint = |last: &str| read(&stamped(&[FIRST, last]), &Ending::Silent(Duration::from_secs(60))).hint;
    assert!(hint("printk: bootconsole [sbi0] disabled").is_some_and(|hint| hint.contains("keep_bootcon")));
    assert_eq!(hint("printk: bootconsole [sbi0] enabled"), None);
    assert_eq!(hint("nohz: disabled"), None);
}

#[test]
fn the_banner_of_a_running_kernel_starts_nothing() {
    let many: Vec<String> = (0..70).map(|n| format!("message {n}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let text = run(&many);
    let unknown = |line: &str| {
        let text = text.replace("[   73.000000] message 69\n", &format!("{line}\n"));
        assert!(text.contains(line));
        read(&text, &EXITED).unknown.len()
    };
    // As `cat /proc/version` prints it.
    assert_eq!(unknown(FIRST), 0);
    assert_eq!(unknown("Linux version 7.3.5 (lazymap@lazymap)"), 1);
    assert_eq!(unknown(&format!("[   73.500000] {FIRST}")), 1);
}

#[test]
fn the_last_message_may_say_more() {
    let unknown =
        |last: &str| read(stamped(&[FIRST, "KTAP version 1", last]).trim_end(), &Ending::Unknown).unknown.len();
    for last in
        [OFF, "reboot: Restarting system with command 'x'", "reboot: Power off not available: System halted instead"]
    {
        assert_eq!(unknown(last), 0, "{last}");
    }
    assert_eq!(unknown("reboot: Power"), 1);
}

#[test]
fn a_machine_that_starts_again_without_a_word_is_not_clean() {
    let unknown = |text: &str| -> Vec<&'static str> {
        read(text, &Ending::Unknown).unknown.iter().map(|found| found.kind).collect()
    };
    let firmware = "\nU-Boot SPL 2026.01\nOpenSBI v1.6\nU-Boot 2026.01\n";
    let kernel = stamped(&[FIRST, "KTAP version 1"]);
    assert_eq!(unknown(&format!("{kernel}{firmware}")), ["the machine starts again"]);
    for last in ["[    9.000000] reboot: Restarting system\n", "[    9.000000] lazymap: the next kernel starts\n"] {
        assert_eq!(unknown(&format!("{kernel}{last}{firmware}")), [""; 0], "{last}");
    }
    // The first time is no other.
    assert_eq!(unknown(&format!("{firmware}{kernel}")), [""; 0]);
}
