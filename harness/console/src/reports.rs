// SPDX-License-Identifier: GPL-2.0-only
//! What a kernel message means for the verdict: the table in `harness/console/reports.toml`.

use std::sync::LazyLock;

use aho_corasick::AhoCorasick;
use serde::Deserialize;

use crate::log::Log;

/// The table, as written.
pub const TABLE: &str = include_str!("../reports.toml");

/// A report covers lines such as registers and call traces up to this many messages after its first.
const REPORT: usize = 300;

/// printk's level of critical messages; lower ones are graver (include/linux/kern_levels.h).
const CRITICAL: u8 = 2;

/// The shape of a message that the kernel itself calls critical or worse.
static GRAVE: LazyLock<Shape> = LazyLock::new(|| Shape {
    name: "a critical message".to_owned(),
    text: Vec::new(),
    part: false,
    example: String::new(),
});

/// The longest word of each pattern. Most messages of a console contain none of them, and so match no pattern.
static WORDS: LazyLock<AhoCorasick> = LazyLock::new(|| {
    AhoCorasick::new(table().patterns().map(longest_word))
        .unwrap_or_else(|e| panic!("harness/console/reports.toml: {e}"))
});

/// How a report ends a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ends {
    /// The kernel panics.
    Panic,
    /// A fault or a bug, after which nothing can be trusted.
    Oops,
    /// The kernel ran out of stack.
    #[serde(rename = "stack overflow")]
    StackOverflow,
}

/// A row of `[[report]]`: the run is not clean.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// The kind of report; several rows may share it.
    pub name: String,
    /// Patterns, of which one must match; see [`matches`].
    pub text: Vec<String>,
    /// How it ends the run, if it does.
    pub ends: Option<Ends>,
    /// Programs print such lines as well.
    #[serde(default)]
    pub anybody: bool,
    /// `FILE: FUNCTION` of the kernel.
    pub source: String,
    /// What that file contains.
    pub printk: Vec<String>,
    /// A message without its time stamp.
    pub example: String,
}

/// A row of `[[ignore]]`: a message that is not a report.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ignore {
    /// What it is about.
    pub name: String,
    /// As in [`Report`].
    pub text: Vec<String>,
    /// Why it is ignored.
    pub why: String,
    /// As in [`Report`].
    pub source: String,
    /// As in [`Report`].
    pub printk: Vec<String>,
    /// As in [`Report`].
    pub example: String,
}

/// A row of `[[shape]]`: what a report looks like.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shape {
    /// What it looks like.
    pub name: String,
    /// As in [`Report`].
    pub text: Vec<String>,
    /// It belongs to the report whose first line comes before it.
    #[serde(default)]
    pub part: bool,
    /// As in [`Report`].
    pub example: String,
}

impl Shape {
    /// Whether a message looks like it. A word ends at the end of the message and at a stop as well.
    fn fits(&self, message: &str) -> bool {
        let stop = |c: char| if matches!(c, '.' | ',' | ';' | '!' | '?') { ' ' } else { c };
        let words: String = message.chars().map(stop).chain([' ']).collect();
        any(&self.text, message) || any(&self.text, &words)
    }
}

/// The whole table.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    /// What makes a run unclean.
    pub report: Vec<Report>,
    /// What is ignored on purpose.
    pub ignore: Vec<Ignore>,
    /// What looks like a report.
    pub shape: Vec<Shape>,
}

impl Table {
    /// The patterns of all rows.
    fn patterns(&self) -> impl Iterator<Item = &str> {
        (self.report.iter().flat_map(|row| &row.text))
            .chain(self.ignore.iter().flat_map(|row| &row.text))
            .chain(self.shape.iter().flat_map(|row| &row.text))
            .map(String::as_str)
    }
}

/// What a message means.
#[derive(Clone, Copy, Debug)]
pub enum Meaning {
    /// The run is not clean.
    Report(&'static Report),
    /// Nothing, although it looks like a report.
    Ignored(&'static Ignore),
    /// It looks like a report, of the kind with this name, and may be none.
    Unknown(&'static str),
    /// It is a part of a report that began before.
    Part,
    /// It is an ordinary message.
    Nothing,
}

/// The table.
///
/// # Panics
/// When it is not valid TOML, which a test rules out.
pub fn table() -> &'static Table {
    static TABLE_READ: LazyLock<Table> =
        LazyLock::new(|| toml::from_str(TABLE).unwrap_or_else(|e| panic!("harness/console/reports.toml: {e}")));
    &TABLE_READ
}

/// Whether a pattern matches a message: `^` is its start, `*` any text.
pub fn matches(pattern: &str, message: &str) -> bool {
    let message = message.trim_start();
    let (pattern, anchored) = match pattern.strip_prefix('^') {
        Some(rest) => (rest, true),
        None => (pattern, false),
    };
    let mut pieces = pattern.split('*');
    let first = pieces.next().unwrap_or_default();
    let mut rest = match anchored {
        true => message.strip_prefix(first),
        false => message.find(first).map(|at| &message[at + first.len()..]),
    };
    for piece in pieces {
        rest = rest.and_then(|text| text.find(piece).map(|at| &text[at + piece.len()..]));
    }
    rest.is_some()
}

/// The longest word of a pattern, which each message that matches the pattern contains. Blanks are left out, because
/// those of a shape also match a stop, see [`Shape::fits`].
fn longest_word(pattern: &str) -> &str {
    let pattern = pattern.strip_prefix('^').unwrap_or(pattern);
    pattern.split(['*', ' ']).max_by_key(|word| word.len()).unwrap_or_default()
}

/// Whether a message begins with the name and the number of one of systemd's programs.
fn is_of_systemd(message: &str) -> bool {
    let number = message.strip_prefix("systemd").and_then(|rest| rest.split_once("]: ")?.0.split_once('['));
    number.is_some_and(|(name, number)| !name.contains(' ') && number.bytes().all(|b| b.is_ascii_digit()))
}

fn any(patterns: &[String], message: &str) -> bool {
    patterns.iter().any(|pattern| matches(pattern, message))
}

/// Reads messages in order, and says what each means.
#[derive(Debug, Default)]
pub struct Reader {
    /// Messages since the last first line of a report.
    since: Option<usize>,
    /// Messages with a time stamp or a level are the kernel's, others those of programs.
    stamped: bool,
}

impl Reader {
    /// A reader of `log`.
    pub fn new(log: &Log) -> Self {
        Self { since: None, stamped: log.is_stamped() }
    }

    /// A test has ended: what comes now is not part of a report from before.
    pub fn end_of_test(&mut self) {
        self.since = None;
    }

    /// What the next message means. `stamp` says whether it has a time stamp, `level` is printk's, if known.
    pub fn next(&mut self, message: &str, stamp: bool, level: Option<u8>) -> Meaning {
        let meaning = self.look_up(message, stamp, level);
        self.since = match meaning {
            Meaning::Report(_) | Meaning::Unknown(_) => Some(0),
            _ => self.since.map(|n| n + 1),
        };
        meaning
    }

    fn look_up(&self, message: &str, stamp: bool, level: Option<u8>) -> Meaning {
        let table = table();
        let grave = level.is_some_and(|level| level <= CRITICAL).then(|| &*GRAVE);
        if grave.is_none() && !WORDS.is_match(message) {
            return Meaning::Nothing;
        }
        if let Some(row) = table.ignore.iter().find(|row| any(&row.text, message)) {
            return Meaning::Ignored(row);
        }
        // Programs may print what they like, and systemd does so into the kernel's log.
        let of_kernel = (stamp || level.is_some() || !self.stamped) && !is_of_systemd(message);
        match table.report.iter().find(|row| any(&row.text, message)) {
            Some(row) if row.anybody && !of_kernel => return Meaning::Unknown(&row.name),
            Some(row) => return Meaning::Report(row),
            None => {}
        }
        let covered = self.since.is_some_and(|n| n < REPORT);
        match table.shape.iter().find(|row| row.fits(message)).or(grave) {
            Some(_) if covered => Meaning::Part,
            Some(row) if of_kernel => Meaning::Unknown(&row.name),
            _ => Meaning::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a call trace means so many messages after the start of a report.
    fn after(messages: usize) -> Meaning {
        let mut reader = Reader::default();
        let first = reader.next("WARNING: mm/vmalloc.c:100 at f+0x1/0x2, CPU#0: swapper/0", true, None);
        assert!(matches!(first, Meaning::Report(_)), "{first:?}");
        for _ in 1..messages {
            assert!(matches!(reader.next("x", true, None), Meaning::Nothing));
        }
        reader.next("Call Trace:", true, None)
    }

    #[test]
    fn each_pattern_has_a_word_of_its_own() {
        assert_eq!(longest_word("^BUG: a*longer b"), "longer");
        assert_eq!(longest_word("one"), "one");
        for pattern in table().patterns() {
            assert!(longest_word(pattern).len() > 1, "{pattern}");
        }
    }

    #[test]
    fn systemd_writes_into_the_kernels_log() {
        for message in ["systemd[1]: a", "systemd-journald[187]: a"] {
            assert!(is_of_systemd(message), "{message}");
        }
        for message in ["systemd: a", "systemd x[1]: a", "systemd[x]: a", "systemd[1] a", "[1]: a", "mod[1]: a"] {
            assert!(!is_of_systemd(message), "{message}");
        }
    }

    #[test]
    fn a_report_is_so_many_messages_long() {
        for messages in [1, 2, REPORT] {
            assert!(matches!(after(messages), Meaning::Part), "{messages}");
        }
        for messages in [REPORT + 1, REPORT + 2] {
            assert!(matches!(after(messages), Meaning::Unknown(_)), "{messages}");
        }
    }
}
