// SPDX-License-Identifier: GPL-2.0-only
//! The console of a run, split once and borrowed by all its readers.

use std::collections::{HashMap, HashSet};

use crate::prefix::Prefixes;
use crate::printk;

/// A message on the console.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// Line of the console, from 1. Several messages may share one.
    pub number: usize,
    /// Seconds from the start of the run until the console line was complete.
    pub at: f64,
    /// The kernel's time stamp in seconds, if the message has one.
    pub stamp: Option<f64>,
    /// printk's level, 0 to 7, if the message has one.
    pub level: Option<u8>,
    /// The message without prefixes; see [`printk::Piece::text`].
    pub text: String,
    /// Another message follows on the same line: the end of this one may be missing.
    pub torn: bool,
    /// The message was printed before: on another console, by dmesg, or in the output of a test.
    pub copy: bool,
    /// It is in the output of a test that printed the kernel's log.
    pub quoted: bool,
}

impl Line {
    /// Whether the kernel printed it, rather than a program. `stamped` is [`Log::is_stamped`].
    pub fn is_kernels(&self, stamped: bool) -> bool {
        self.stamp.is_some() || self.level.is_some() || !stamped
    }
}

/// A whole console.
#[derive(Clone, Debug, Default)]
pub struct Log {
    /// As it was printed.
    pub raw: String,
    /// Its messages in order.
    pub lines: Vec<Line>,
    /// For each line of the console, when its end arrived.
    ends: Vec<f64>,
    /// Seconds that the run took.
    pub seconds: f64,
}

/// How far apart the same message may be on two consoles, in messages.
const APART: usize = 64;

impl Log {
    /// Splits a console. `ends` has the seconds at which its lines were complete, `seconds` is
    /// the length of the run.
    pub fn new(raw: String, ends: Vec<f64>, seconds: f64) -> Self {
        let time = |number: usize| ends.get(number - 1).copied().unwrap_or(seconds);
        let prefixes = Prefixes::of(&raw);
        let mut lines: Vec<Line> = Vec::new();
        for (at, text) in raw.split('\n').enumerate() {
            let number = at + 1;
            let text = prefixes.strip(text);
            let pieces = printk::pieces(&text);
            // A test that prints the kernel's log quotes it: it tears nothing.
            let quotes = pieces.len() == 2 && is_margin(pieces[0].text) && pieces[0].stamp >= pieces[1].stamp;
            lines.extend(pieces.into_iter().enumerate().map(|(at, piece)| Line {
                number,
                at: time(number),
                stamp: piece.stamp,
                level: piece.level,
                text: piece.text.to_owned(),
                torn: piece.torn && !quotes,
                copy: false,
                quoted: quotes && at == 1,
            }));
        }
        mark_copies(&mut lines);
        Self { raw, lines, ends, seconds }
    }

    /// A console without times.
    pub fn of(text: &str) -> Self {
        Self::new(text.to_owned(), Vec::new(), 0.0)
    }

    /// When line `number` (from 1) of the console was complete, in seconds since the start.
    pub fn at(&self, number: usize) -> f64 {
        number.checked_sub(1).and_then(|i| self.ends.get(i)).copied().unwrap_or(self.seconds)
    }

    /// Whether the kernel's messages have time stamps, unlike those of programs.
    pub fn is_stamped(&self) -> bool {
        self.lines.iter().any(|line| line.stamp.is_some() && line.text.starts_with("Linux version "))
    }

    /// Number of complete lines.
    pub fn complete(&self) -> usize {
        self.ends.len()
    }

    /// The line with the kernel's first message, from 1, if there is no message that begins with it: what stands in
    /// front of it was not understood.
    pub fn not_understood(&self) -> Option<(usize, &str)> {
        const FIRST: &str = "Linux version ";
        if self.lines.iter().any(|line| line.text.starts_with(FIRST)) {
            return None;
        }
        let number = self.lines.iter().find(|line| line.text.contains(FIRST))?.number;
        Some((number, self.raw.split('\n').nth(number - 1)?.trim()))
    }
}

/// Whether a text has nothing but `#` and blanks.
fn is_margin(text: &str) -> bool {
    text.starts_with('#') && text.bytes().all(|b| matches!(b, b'#' | b' ' | b'\t'))
}

/// Finds messages that were printed before: with the same time stamp, or just before and with one of them lacking the
/// time stamp.
fn mark_copies(lines: &mut [Line]) {
    let mut stamped: HashSet<(u64, String)> = HashSet::new();
    // By text: where it was last seen without a copy, with a stamp or without.
    let mut single: HashMap<(bool, String), Vec<usize>> = HashMap::new();
    for at in 0..lines.len() {
        if starts_again(&lines[at..], &stamped) {
            stamped.clear();
            single.clear();
        }
        let line = &mut lines[at];
        if line.text.is_empty() || line.torn {
            continue;
        }
        if let Some(stamp) = line.stamp
            && !stamped.insert((stamp.to_bits(), line.text.clone()))
        {
            line.copy = true;
            continue;
        }
        let has = line.stamp.is_some();
        if let Some(others) = single.get_mut(&(!has, line.text.clone())) {
            others.retain(|other| at - other <= APART);
            if !others.is_empty() {
                others.remove(0);
                line.copy = true;
                continue;
            }
        }
        single.entry((has, line.text.clone())).or_default().push(at);
    }
}

/// Whether a kernel starts here again, although one with the same first message did before: then most time stamps are
/// new, unlike in a log that is only printed again.
fn starts_again(lines: &[Line], stamped: &HashSet<(u64, String)>) -> bool {
    let key = |line: &Line| line.stamp.map(|stamp| (stamp.to_bits(), line.text.clone()));
    let Some(first) = lines.first().filter(|line| line.text.starts_with("Linux version ")) else { return false };
    if !key(first).is_some_and(|key| stamped.contains(&key)) {
        return false;
    }
    let mut next =
        lines.iter().filter(|line| line.stamp.is_some_and(|s| s > 0.0)).filter_map(key).take(APART).peekable();
    // It died before it had a clock, or the log ends.
    if next.peek().is_none() {
        return true;
    }
    let (old, new): (Vec<_>, Vec<_>) = next.partition(|key| stamped.contains(key));
    new.len() > old.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copies(text: &str) -> Vec<usize> {
        Log::of(text).lines.iter().filter(|line| line.copy).map(|line| line.number).collect()
    }

    #[test]
    fn what_was_printed_before_is_a_copy() {
        assert_eq!(copies("[    1.000000] a\na\n[    1.000000] b\nb\n"), [2, 4]);
        assert_eq!(copies("a\n[    1.000000] a\n"), [2]);
        assert_eq!(copies("[    1.000000] a\n[    1.000000] b\n[    1.000000] a\n"), [3]);
        // Each is copied once.
        assert_eq!(copies("[    1.000000] a\na\na\n"), [2]);
        assert_eq!(copies("[    1.000000] a\n[    2.000000] a\na\na\n"), [3, 4]);
        assert_eq!(copies("a\na\n[    1.000000] a\n[    2.000000] a\n"), [3, 4]);
        assert_eq!(copies("[    1.000000] a\n[    2.000000] a\n"), [] as [usize; 0]);
        assert_eq!(copies("a\na\n"), [] as [usize; 0]);
        let far = format!("[    1.000000] a\n{}a\n", "x\n".repeat(APART));
        assert_eq!(copies(&far), [] as [usize; 0]);
        let late = format!("{}[    1.000000] a\na\n", "x\n".repeat(APART));
        assert_eq!(copies(&late), [66]);
        // What is torn may be something else.
        assert_eq!(copies("ab[    1.000000] x\n[    2.000000] ab\n"), [] as [usize; 0]);
    }

    #[test]
    fn a_second_start_is_no_copy() {
        let boot = |time: &str| format!("[    0.000000] Linux version 7\n[    {time}] a\n[    {time}] b\n");
        assert_eq!(copies(&format!("{}{}", boot("1.000000"), boot("1.000001"))), [] as [usize; 0]);
        assert_eq!(copies(&format!("{}{}", boot("1.000000"), boot("1.000000"))), [4, 5, 6]);
        let early = "[    0.000000] Linux version 7\n[    0.000000] x\n";
        assert_eq!(copies(&format!("{early}{}{early}", boot("1.000000"))), [] as [usize; 0]);
        // Half of it was printed before: a log that goes on.
        let half = "[    0.000000] Linux version 7\n[    1.000000] a\n[    2.000000] c\n";
        assert_eq!(copies(&format!("{}{half}", boot("1.000000"))), [4, 5]);
    }

    #[test]
    fn a_quoted_log_tears_nothing() {
        let log = Log::of("[    1.000000] ok 1 a\n[    9.000000] # [    1.000000] ok 1 a\n");
        let last = log.lines.iter().rfind(|line| !line.text.is_empty()).unwrap();
        assert_eq!((last.text.as_str(), last.copy), ("ok 1 a", true));
        assert!(log.lines.iter().all(|line| !line.torn));
        let log = Log::of("[    1.000000] # tou[    1.000100] x\n");
        assert!(log.lines[0].torn);
        // Not a margin, or not printed before: two CPUs at once.
        for line in ["[    2.000000] not o[    1.000000] x", "[    2.000000] # n[    1.000000] x"] {
            let log = Log::of(line);
            assert!(log.lines[0].torn && !log.lines[1].quoted, "{line}");
        }
    }

    #[test]
    fn lines_are_counted_from_one() {
        let log = Log::of("a\n[    1.000000] b\nc[    2.000000] d");
        let lines: Vec<_> = log.lines.iter().map(|line| (line.number, line.text.as_str())).collect();
        assert_eq!(lines, [(1, "a"), (2, "b"), (3, "c"), (3, "d")]);
    }

    #[test]
    fn each_line_has_the_time_at_which_it_was_complete() {
        let log = Log::new("a\nb\nc".to_owned(), vec![0.5, 2.5], 9.0);
        assert_eq!((log.at(1), log.at(2), log.at(3), log.at(0)), (0.5, 2.5, 9.0, 9.0));
        assert_eq!(log.lines.iter().map(|line| line.at).collect::<Vec<_>>(), [0.5, 2.5, 9.0]);
        assert_eq!(log.complete(), 2);
    }

    #[test]
    fn a_stamp_or_a_level_tells_a_kernel_from_a_program() {
        let kernels = |text: &str, stamped| Log::of(text).lines[0].is_kernels(stamped);
        assert!(kernels("[    1.000000] a", true) && kernels("<4>a", true));
        assert!(!kernels("a", true));
        assert!(kernels("a", false));
        assert!(Log::of("[    0.000000] Linux version 7\n").is_stamped());
        assert!(!Log::of("Linux version 7\n[    1.000000] a\n").is_stamped());
    }

    #[test]
    fn a_prefix_that_is_not_understood_is_named() {
        let log = Log::of("<<x1>> Linux version 7\n<<y2>> a\n");
        assert_eq!(log.not_understood(), Some((1, "<<x1>> Linux version 7")));
        assert_eq!(Log::of("2026-11-28 19:13:18 Linux version 7\n").not_understood(), None);
        assert_eq!(Log::of("a\n").not_understood(), None);
    }
}
