// SPDX-License-Identifier: GPL-2.0-only
//! The table of reports: each row has an example.

use std::fs;
use std::path::Path;

use lazymap_console::end::{self, End, Ending, Reading};
use lazymap_console::log::Log;
use lazymap_console::reports::{self, Ends, Table, table};

/// A clean console with `line` in the middle of a test.
fn with(line: &str) -> (usize, String) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/console/finished.log");
    let clean = fs::read_to_string(path).unwrap();
    let at = clean.lines().position(|l| l.contains("# Totals")).unwrap();
    let lines: Vec<&str> = clean.lines().collect();
    let stamped = format!("[    5.174000] {line}");
    let all = [&lines[..at], &[stamped.as_str()], &lines[at..]].concat();
    (at + 1, all.join("\n") + "\n")
}

fn read(line: &str) -> (usize, Reading) {
    let (at, text) = with(line);
    (at, end::read(&Log::of(&text), &Ending::Exited(0), ""))
}

#[test]
fn the_table_is_valid_toml() {
    let read: Table = toml::from_str(reports::TABLE).unwrap();
    assert!(read.report.len() > 80 && read.ignore.len() > 15 && read.shape.len() > 8);
}

#[test]
fn no_pattern_matches_everything() {
    let texts = table().report.iter().map(|r| &r.text);
    let texts = texts.chain(table().ignore.iter().map(|r| &r.text)).chain(table().shape.iter().map(|r| &r.text));
    for pattern in texts.flatten() {
        assert!(pattern.trim_start_matches('^').split('*').all(|piece| !piece.is_empty()), "{pattern}");
        assert!(!reports::matches(pattern, "random: crng init done"), "{pattern}");
    }
}

#[test]
fn each_report_makes_a_clean_console_unclean() {
    for row in &table().report {
        let (at, reading) = read(&row.example);
        let (name, example) = (row.name.as_str(), row.example.trim());
        match row.ends {
            None => {
                let found: Vec<_> = reading.forbidden.iter().map(|f| (f.line, f.kind, f.text.as_str())).collect();
                assert_eq!(found, [(at, name, example)]);
                assert_eq!(reading.end, End::Finished, "{example}");
            }
            Some(ends) => {
                let headline = reading.headline.as_ref().unwrap();
                assert_eq!((headline.line, headline.kind, headline.text.as_str()), (at, name, example));
                let right = match ends {
                    Ends::Panic => matches!(reading.end, End::Panic { .. }),
                    Ends::Oops => matches!(reading.end, End::Oops { .. }),
                    Ends::StackOverflow => matches!(reading.end, End::StackOverflow { .. }),
                };
                assert!(right, "{example}: {:?}", reading.end);
            }
        }
        assert_eq!(reading.unknown, [], "{example}");
    }
}

#[test]
fn what_is_ignored_leaves_a_console_clean() {
    for row in &table().ignore {
        let (_, reading) = read(&row.example);
        assert_eq!(
            (reading.end, reading.forbidden, reading.unknown),
            (End::Finished, vec![], vec![]),
            "{}",
            row.example
        );
        assert!(row.why.len() > 20, "{}: {}", row.name, row.why);
    }
}

#[test]
fn what_looks_like_a_report_and_is_none_that_is_known_is_named() {
    for row in &table().shape {
        let (at, reading) = read(&row.example);
        let found: Vec<_> = reading.unknown.iter().map(|f| (f.line, f.kind, f.text.as_str())).collect();
        assert_eq!(found, [(at, row.name.as_str(), row.example.as_str())]);
        assert_eq!(reading.forbidden, [], "{}", row.example);
        // Behind the first line of a report that is known, it is a part of that.
        let (_, text) = with(&format!("WARNING: x\n[    5.174001] {}", row.example));
        let reading = end::read(&Log::of(&text), &Ending::Exited(0), "");
        assert_eq!((reading.forbidden.len(), reading.unknown.len()), (1, 0), "{}", row.example);
    }
    // What the kernel itself calls critical is a report, whatever it says.
    let (_, text) = with("x");
    let text = text.replace("[    5.174000] x", "<2>[    5.174000] the sky falls");
    let reading = end::read(&Log::of(&text), &Ending::Exited(0), "");
    assert_eq!(reading.unknown.iter().map(|f| f.kind).collect::<Vec<_>>(), ["a critical message"]);
    // A program may print what it likes.
    let (_, text) = with("x");
    let text = text.replace("[    5.174000] x", "INFO: all is well");
    assert_eq!(end::read(&Log::of(&text), &Ending::Exited(0), "").unknown, []);
}

#[test]
fn a_report_ends_with_its_test() {
    let (_, text) = with("WARNING: x");
    // The next test prints half a report.
    let text = text.replacen("# selftests: riscv/lazy_map: test-trace.sh", "Call Trace:", 1);
    let reading = end::read(&Log::of(&text), &Ending::Exited(0), "");
    assert_eq!(reading.unknown.iter().map(|f| f.kind).collect::<Vec<_>>(), ["a call trace"]);
}

#[test]
fn a_kernel_that_starts_twice_is_not_clean() {
    let (_, text) = with("x");
    // The same messages at other times, except those without a time.
    let later = |line: &str| match line.get(..14) {
        Some(stamp) if stamp.starts_with('[') && stamp.ends_with(']') && stamp != "[    0.000000]" => {
            let digit = if &line[12..13] == "1" { '2' } else { '1' };
            format!("{}{digit}{}\n", &line[..12], &line[13..])
        }
        _ => format!("{line}\n"),
    };
    let again: String = text.lines().map(later).collect();
    let reading = end::read(&Log::of(&format!("{text}{again}")), &Ending::Exited(0), "");
    assert_eq!(reading.unknown.len(), 1, "{:?}", reading.unknown);
    assert!(reading.unknown[0].kind.contains("second time"));
    // One that prints its log again does not.
    let reading = end::read(&Log::of(&format!("{text}{text}")), &Ending::Exited(0), "");
    assert_eq!(reading.unknown, []);
}

#[test]
fn patterns_are_anchored_by_a_caret_and_joined_by_a_star() {
    for (pattern, message, yes) in [
        ("^a", "a b", true),
        ("^a", " a b", true),
        ("^a", "b a", false),
        ("a", "b a", true),
        ("a*c", "xaxc", true),
        ("a*c", "xcxa", false),
        ("^a * (*): ", "a b (c): d", true),
        ("^a * (*): ", "a b c", false),
    ] {
        assert_eq!(reports::matches(pattern, message), yes, "{pattern} {message}");
    }
}

#[test]
fn a_word_ends_with_its_message_or_at_a_stop() {
    for line in [
        "watchdog: CPU1 hogged, system may be hung",
        "vendor: hart 2 is stuck!",
        "vendor: hart 2 is stuck, giving up",
        "vendor: end of the stall.",
    ] {
        let (at, reading) = read(line);
        let found: Vec<_> = reading.unknown.iter().map(|f| (f.line, f.kind)).collect();
        assert_eq!(found, [(at, "a lockup")], "{line}");
    }
    for line in ["vendor: hungry", "vendor: stalling", "vendor: unstuck"] {
        assert_eq!(read(line).1.unknown, [], "{line}");
    }
}

#[test]
fn the_firmware_reports_without_a_time_stamp() {
    let line = "sbi_trap_error: hart0: trap0: illegal instruction handler failed (error -2)";
    let (_, text) = with("x");
    let text = text.replace("[    5.174000] x", &format!("{line}\nsbi_trap_error: hart0: trap0: mcause=0x2"));
    let reading = end::read(&Log::of(&text), &Ending::Exited(0), "");
    assert_eq!(reading.forbidden.iter().map(|f| f.text.as_str()).collect::<Vec<_>>(), [line]);
}

#[test]
fn what_a_program_says_is_no_certain_report() {
    let judged = |line: &str| {
        let (_, text) = with("x");
        let reading = end::read(&Log::of(&text.replace("[    5.174000] x", line)), &Ending::Exited(0), "");
        (reading.end, reading.forbidden.len(), reading.unknown.len())
    };
    for line in
        ["WARNING: apt does not have a stable CLI interface.", "BUG: in the vendor's program", "file corruption"]
    {
        assert_eq!(judged(line), (End::Finished, 0, 1), "{line}");
        assert_eq!(judged(&format!("[    5.174000] {line}")), (End::Finished, 1, 0), "{line}");
    }
    for line in ["Oops, forgot that", "[    5.174000] Oops, forgot that"] {
        assert_eq!(judged(line), (End::Finished, 0, 0), "{line}");
    }
    // What only a kernel says is certain.
    assert_eq!(judged("watchdog: BUG: soft lockup - CPU#2 stuck for 26s! [insmod:31]"), (End::Finished, 1, 0));
    for line in ["Oops [#1]", "Oops - illegal instruction [#1]", "Oops: 0002 [#1]"] {
        assert!(matches!(judged(line).0, End::Oops { .. }), "{line}");
    }
    // systemd writes into the kernel's log.
    for line in
        ["systemd-journald[187]: File x.journal corrupted or uncleanly shut down", "systemd[1]: a is not supported"]
    {
        assert_eq!(judged(&format!("[    5.174000] {line}")), (End::Finished, 0, 0), "{line}");
    }
    assert_eq!(judged("[    5.174000] systemd[1]: file corruption"), (End::Finished, 0, 1));
    assert_eq!(judged("[    5.174000] vendor[1]: a is not supported"), (End::Finished, 0, 1));
    // Without any stamps nobody can tell.
    let (_, text) = with("WARNING: x");
    let plain: String = text
        .lines()
        .map(|l| l.split_once("] ").filter(|_| l.starts_with("[ ")).map_or(l, |(_, t)| t).to_owned() + "\n")
        .collect();
    assert_eq!(end::read(&Log::of(&plain), &Ending::Exited(0), "").forbidden.len(), 1);
}
