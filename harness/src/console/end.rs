// SPDX-License-Identifier: GPL-2.0-only
//! What the console of a guest says about how its run ended.
//!
//! The answer comes from two witnesses, the log and the way in which QEMU ended, and from positive
//! signs only: an empty log is not a clean log.

use std::fmt;
use std::time::Duration;

use super::log::Log;

/// The guest's init is about to run the tests.
pub const READY: &str = "lazymap: guest ready";
/// The guest's init has run the tests and is switching the machine off.
pub const DONE: &str = "lazymap: guest done";
/// Every panic begins with this (kernel/panic.c).
pub const PANIC: &str = "Kernel panic - not syncing:";

/// How many lines of a log to show when it ended unexpectedly.
const TAIL: usize = 12;
/// What must not be on the console of a run that passed.
const FORBIDDEN: &str = include_str!("../../console/forbidden.txt");

/// How QEMU ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// By itself, with this exit code.
    Exited(i32),
    /// By a signal that was not ours.
    Signal(i32),
    /// We ended it: the guest had panicked and the machine stayed on.
    Panicked,
    /// We ended it: the console was silent for so long.
    Silent(Duration),
    /// We ended it: the run took longer than this.
    TimedOut(Duration),
}

/// How a run ended: exactly one of these.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The guest ran to its end and switched the machine off.
    Finished,
    /// The kernel ran out of stack.
    StackOverflow {
        /// The panic's first line.
        headline: String,
    },
    Panic {
        headline: String,
    },
    /// The kernel reported a fault or a bug, whether or not a panic followed.
    Oops {
        headline: String,
    },
    /// No kernel ever printed anything.
    NeverBooted,
    /// The kernel started, then printed nothing for so long.
    Hang(Duration),
    /// The guest kept running, and was ended after so long.
    Timeout(Duration),
    /// QEMU failed; the text is its last line of stderr.
    QemuFailed {
        stderr: String,
    },
    /// The machine was switched off without the marks that a complete run leaves.
    Incomplete {
        /// The marks that are missing.
        missing: Vec<&'static str>,
    },
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Finished => f.write_str("finished"),
            Self::StackOverflow { .. } => f.write_str("stack overflow"),
            Self::Panic { headline } => write!(f, "panic: {headline}"),
            Self::Oops { headline } => write!(f, "oops: {headline}"),
            Self::NeverBooted => f.write_str("never booted"),
            Self::Hang(silence) => write!(f, "hang: no output for {} s", silence.as_secs()),
            Self::Timeout(limit) => write!(f, "timeout after {} s", limit.as_secs()),
            Self::QemuFailed { stderr } => write!(f, "QEMU failed: {stderr}"),
            Self::Incomplete { missing } => write!(f, "incomplete: no {}", missing.join(", no ")),
        }
    }
}

/// A message on the console.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Line of the log, from 1.
    pub line: usize,
    /// The message without its prefix.
    pub text: String,
}

/// Everything read from a console.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// How the run ended.
    pub end: End,
    /// What must not be on the console, before the run ended.
    pub forbidden: Vec<Found>,
    /// The message that ended the run: of a panic, or of the first report before it.
    pub headline: Option<Found>,
    /// Whether the guest got as far as running tests.
    pub ready: bool,
    /// The last lines.
    pub tail: Vec<String>,
}

/// Reads a whole console.
///
/// `stderr` is what QEMU printed there.
pub fn read(log: &Log, ending: &Ending, stderr: &str) -> Reading {
    let seen = Seen::collect(log);
    let tail: Vec<&str> = log.raw.lines().map(str::trim_end).filter(|l| !l.is_empty()).collect();
    Reading {
        end: seen.end(ending, stderr),
        forbidden: seen.forbidden.clone(),
        headline: seen.first_trouble().cloned(),
        ready: seen.ready,
        tail: tail[tail.len().saturating_sub(TAIL)..].iter().map(|&l| l.to_owned()).collect(),
    }
}

/// The signs in a log.
#[derive(Default)]
struct Seen {
    linux: bool,
    ready: bool,
    results: bool,
    done: bool,
    panic: Option<Found>,
    overflow: bool,
    oops: Option<Found>,
    /// A report that the kernel survives, unless it was told to panic.
    bug: Option<Found>,
    forbidden: Vec<Found>,
}

impl Seen {
    fn collect(log: &Log) -> Self {
        let mut seen = Self::default();
        let patterns = forbidden_patterns();
        for message in &log.lines {
            let (line, text) = (message.number, message.text.as_str());
            let found = || Found { line, text: text.trim().to_owned() };
            seen.linux |= text.starts_with("Linux version ");
            seen.ready |= seen.linux && text == READY;
            seen.results |= seen.ready && (text.starts_with("TAP version ") || text.starts_with("KTAP version "));
            seen.done |= seen.ready && text == DONE;
            // A test that prints about panics has not panicked.
            if is_result(text) {
                continue;
            }
            if text.starts_with(PANIC) {
                seen.overflow |= seen.panic.is_none() && text.contains("Kernel stack overflow");
                seen.panic.get_or_insert_with(found);
                // Then it is the cause, and the panic only a consequence.
                seen.oops = seen.oops.or_else(|| seen.bug.take());
            } else if seen.panic.is_none() {
                if seen.oops.is_none() && is_oops(text) {
                    seen.oops = Some(found());
                }
                if seen.bug.is_none() && text.starts_with("BUG:") {
                    seen.bug = Some(found());
                }
                // With a stack overflow the reports of several harts interleave: what follows its first
                // sign says nothing about what came before.
                if seen.oops.as_ref().is_none_or(|o| o.line == line) && patterns.iter().any(|p| p.matches(text)) {
                    seen.forbidden.push(found());
                }
            }
        }
        seen
    }

    /// The report before the panic, or the panic.
    fn first_trouble(&self) -> Option<&Found> {
        match (&self.oops, &self.panic) {
            // The report of a stack overflow begins like this (handle_bad_stack() in
            // arch/riscv/kernel/traps.c).
            (Some(oops), Some(panic)) if self.overflow && is_bad_stack(&oops.text) => Some(panic),
            (Some(oops), _) => Some(oops),
            (None, panic) => panic.as_ref(),
        }
    }

    fn end(&self, ending: &Ending, stderr: &str) -> End {
        if let Some(first) = self.first_trouble() {
            let headline = first.text.clone();
            return match &self.panic {
                Some(panic) if panic == first && self.overflow => End::StackOverflow { headline },
                Some(panic) if panic == first => End::Panic { headline },
                _ => End::Oops { headline },
            };
        }
        match *ending {
            Ending::Exited(0) => {}
            Ending::Exited(code) => return qemu_failed(stderr, &format!("exit code {code}, no message")),
            Ending::Signal(signal) => return qemu_failed(stderr, &format!("ended by signal {signal}, no message")),
            _ if !self.linux => return End::NeverBooted,
            Ending::Silent(time) => return End::Hang(time),
            Ending::TimedOut(time) => return End::Timeout(time),
            // QEMU was ended because of a panic that this log does not have.
            Ending::Panicked => return End::Incomplete { missing: vec!["panic"] },
        }
        if !self.linux {
            return End::NeverBooted;
        }
        let marks = [(self.ready, READY), (self.results, "KTAP version line"), (self.done, DONE)];
        let missing: Vec<_> = marks.into_iter().filter(|(seen, _)| !seen).map(|(_, mark)| mark).collect();
        if missing.is_empty() { End::Finished } else { End::Incomplete { missing } }
    }
}

fn qemu_failed(stderr: &str, otherwise: &str) -> End {
    let last = stderr.lines().map(str::trim).rfind(|l| !l.is_empty() && !l.starts_with("x-cache-invalid:"));
    End::QemuFailed { stderr: last.unwrap_or(otherwise).to_owned() }
}

/// Whether a message is KTAP: a result, a plan or a diagnostic.
fn is_result(text: &str) -> bool {
    let text = text.trim_start();
    text.starts_with('#') || text.starts_with("ok ") || text.starts_with("not ok ")
}

/// The first line of a report after which nothing can be trusted (arch/riscv/kernel/traps.c,
/// arch/riscv/mm/fault.c, lib/bug.c).
fn is_oops(text: &str) -> bool {
    ["Oops", "Unable to handle kernel", "Internal error", "kernel BUG at", "Kernel BUG"]
        .iter()
        .any(|start| text.starts_with(start))
        || is_bad_stack(text)
}

fn is_bad_stack(text: &str) -> bool {
    text.starts_with("Insufficient stack space to handle exception")
}

/// A line of the list of forbidden messages.
struct Pattern {
    start: bool,
    text: &'static str,
}

impl Pattern {
    fn matches(&self, message: &str) -> bool {
        if self.start { message.trim_start().starts_with(self.text) } else { message.contains(self.text) }
    }
}

fn forbidden_patterns() -> Vec<Pattern> {
    let lines = FORBIDDEN.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#'));
    lines
        .map(|l| match l.strip_prefix('^') {
            Some(text) => Pattern { start: true, text },
            None => Pattern { start: false, text: l },
        })
        .collect()
}
