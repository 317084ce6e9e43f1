// SPDX-License-Identifier: GPL-2.0-only
//! What the console of a guest says about how its run ended.
//!
//! The answer comes from two witnesses, the log and the way in which QEMU ended, and from positive
//! signs only: an empty log is not a clean log.

use std::fmt;
use std::time::Duration;

use crate::log::Log;
use crate::reports::{self, Ends, Meaning};

/// The guest's init is about to run the tests.
pub const READY: &str = "lazymap: guest ready";
/// The guest's init has run the tests and is switching the machine off.
pub const DONE: &str = "lazymap: guest done";
/// The guest's init is about to start another kernel in place of this one.
pub const NEXT: &str = "lazymap: the next kernel starts";
/// Every panic begins with this (kernel/panic.c).
pub const PANIC: &str = "Kernel panic - not syncing:";

/// The panic with which the guest's init does so, if at all (drivers/tty/sysrq.c).
const CRASH: &str = "Kernel panic - not syncing: sysrq triggered crash";

/// The beginnings of the kernel's last message.
const OFF: [&str; 4] = [
    "reboot: Power down",
    "reboot: Power off not available: System halted",
    "reboot: Restarting system",
    "reboot: System halted",
];

/// What firmware and boot loaders print first.
const FIRMWARE: [&str; 3] = ["OpenSBI v", "U-Boot SPL ", "U-Boot 2"];
/// The kind of report for that while a kernel should be running.
const AGAIN: &str = "the machine starts again";

/// How many lines of a log to show when it ended unexpectedly.
const TAIL: usize = 12;
/// How long a line to show when its prefix is not understood, in characters.
const SHOWN: usize = 100;

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
    /// Nobody knows: the console comes from elsewhere.
    Unknown,
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
    /// A kernel printed something, but not in a form that can be read.
    NotUnderstood {
        /// The line with the kernel's first message, from 1.
        line: usize,
        /// That line.
        text: String,
    },
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
            Self::NotUnderstood { line, text } => {
                let short: String = text.chars().take(SHOWN).collect();
                write!(f, "prefix not understood in line {line}: {short}")
            }
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
    /// The kind of report, or what it looks like; see [`reports`].
    pub kind: &'static str,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}: {}", self.line, self.kind, self.text)
    }
}

/// Everything read from a console.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// How the run ended.
    pub end: End,
    /// Reports of the kernel before the run ended, without the one that ended it.
    pub forbidden: Vec<Found>,
    /// What looks like a report and is of no known kind.
    pub unknown: Vec<Found>,
    /// The message that ended the run: of a panic, or of the first report before it.
    pub headline: Option<Found>,
    /// The kernel survived [`Reading::headline`]: the guest ran to its end after it.
    pub went_on: bool,
    /// Whether the guest got as far as running tests; on a console from elsewhere, whether there are results.
    pub ready: bool,
    /// Whether the machine was switched off in the end.
    pub off: bool,
    /// What may help if the run did not end well.
    pub hint: Option<&'static str>,
}

/// Reads a whole console.
///
/// `stderr` is what QEMU printed there.
pub fn read(log: &Log, ending: &Ending, stderr: &str) -> Reading {
    let seen = Seen::collect(log, ending);
    let end = seen.end(ending, stderr, log);
    let headline = seen.first_trouble().cloned();
    let went_on = seen.went_on(headline.as_ref());
    // With a stack overflow the reports of several harts interleave: what follows its first sign says nothing about
    // what came before.
    let trouble = headline.iter().chain(&seen.overflow).filter(|_| !went_on);
    let last = trouble.map(|found| found.line).min().unwrap_or(usize::MAX);
    let before = |found: &[Found]| found.iter().filter(|f| f.line <= last).cloned().collect();
    Reading {
        hint: seen.hint(&end, log),
        forbidden: before(&seen.reports),
        unknown: before(&seen.unknown),
        headline,
        went_on,
        ready: seen.ready || (seen.foreign && seen.results),
        off: *ending == Ending::Exited(0) || seen.off.is_some(),
        end,
    }
}

/// The last of `lines`, without empty ones.
pub fn tail<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let lines: Vec<&str> = lines.map(str::trim_end).filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(TAIL)..].to_vec()
}

/// The signs in a log.
#[derive(Default)]
struct Seen {
    linux: bool,
    /// The console comes from elsewhere, and our guest's marks are not on it.
    foreign: bool,
    ready: bool,
    results: bool,
    /// [`NEXT`] was seen, and no first message of a kernel since.
    next: bool,
    /// The line of [`DONE`].
    done: Option<usize>,
    /// The line in which the kernel switches the machine off.
    off: Option<usize>,
    panic: Option<Found>,
    overflow: Option<Found>,
    oops: Option<Found>,
    /// A report that the kernel survives, unless it was told to panic.
    bug: Option<Found>,
    /// Reports that end nothing.
    reports: Vec<Found>,
    unknown: Vec<Found>,
}

impl Seen {
    fn collect(log: &Log, ending: &Ending) -> Self {
        let foreign = *ending == Ending::Unknown && !log.lines.iter().any(|line| line.text == READY);
        let mut seen = Self { foreign, ..Self::default() };
        let mut reader = reports::Reader::new(log);
        let whole = log.lines.iter().any(|line| is_first(&line.text));
        let banner = log.lines.iter().find(|line| is_first(&line.text) && line.stamp.is_some());
        // The number that die() gave to the current oops; none before it has come that far.
        let mut died = None;
        // A panic that was asked for, while no other kernel has started because of it.
        let mut crash = None;
        for message in &log.lines {
            let (line, text) = (message.number, message.text.as_str());
            let found = |kind: &'static str| Found { line, text: text.trim().to_owned(), kind };
            // /proc/version has the same text, and no stamp.
            let shown = !message.is_kernels(true) && banner.is_some_and(|banner| banner.text == message.text);
            if is_first(text) && !message.copy && !shown {
                if std::mem::take(&mut seen.next) {
                    // The last words of one kernel are not part of a report of the other.
                    reader = reports::Reader::new(log);
                    crash = None;
                } else if seen.linux {
                    seen.unknown.push(found("the kernel starts a second time"));
                }
                seen.linux = true;
            }
            // A kernel that ends on purpose says so.
            let runs = seen.linux && seen.off.is_none() && !seen.next;
            let firmware = !message.is_kernels(true) && FIRMWARE.iter().any(|first| text.starts_with(first));
            if runs && firmware && seen.unknown.iter().all(|found| found.kind != AGAIN) {
                seen.unknown.push(found(AGAIN));
            }
            seen.next |= seen.linux && !seen.ready && text == NEXT;
            seen.ready |= seen.linux && text == READY;
            let may_begin = seen.ready || (seen.foreign && seen.linux);
            seen.results |= may_begin && (text.starts_with("TAP version ") || text.starts_with("KTAP version "));
            if seen.ready && text == DONE {
                seen.done.get_or_insert(line);
            }
            if is_off(text) {
                seen.off.get_or_insert(line);
            }
            // A test that prints about panics has not panicked.
            if is_result(text) {
                if !text.starts_with('#') {
                    reader.end_of_test();
                }
                continue;
            }
            // The firmware and the boot loader print what they like.
            let before = whole && !seen.linux;
            if message.copy || (before && !is_death(text)) {
                continue;
            }
            match reader.next(text, message.stamp.is_some(), message.level) {
                Meaning::Report(row) => match row.ends {
                    Some(Ends::Panic) if seen.next && text.trim() == CRASH => {
                        crash.get_or_insert_with(|| found(&row.name));
                    }
                    Some(Ends::Panic) => {
                        seen.panic.get_or_insert_with(|| found(&row.name));
                        // Then it is the cause, and the panic only a consequence.
                        seen.oops = seen.oops.or_else(|| seen.bug.take());
                    }
                    Some(Ends::StackOverflow) if seen.panic.is_none() => {
                        seen.overflow.get_or_insert_with(|| found(&row.name));
                    }
                    Some(Ends::Oops) if seen.panic.is_none() => {
                        let number = oops_number(text);
                        let same = seen.oops.is_some() && number.is_some() && (died.is_none() || died == number);
                        if !same && seen.oops.is_some() {
                            // The kernel may have survived the first one; that says nothing about this one.
                            seen.reports.push(found(&row.name));
                        }
                        died = number;
                        seen.oops.get_or_insert_with(|| found(&row.name));
                    }
                    Some(_) => {}
                    None => {
                        if seen.panic.is_none() && seen.bug.is_none() && text.starts_with("BUG:") {
                            seen.bug = Some(found(&row.name));
                        }
                        seen.reports.push(found(&row.name));
                    }
                },
                Meaning::Unknown(kind) => seen.unknown.push(found(kind)),
                Meaning::Ignored(_) | Meaning::Part | Meaning::Nothing => {}
            }
        }
        seen.panic = seen.panic.or(crash);
        if *ending == Ending::Unknown
            && let Some((line, text)) = cut_off(log)
        {
            let kind = "the log ends in the middle of a message";
            seen.unknown.push(Found { line, text: text.trim().to_owned(), kind });
        }
        seen
    }

    /// The report before the panic, or the panic.
    fn first_trouble(&self) -> Option<&Found> {
        let whole = self.panic.as_ref().filter(|panic| is_overflow(panic));
        match (&self.overflow, &self.oops) {
            // A stack overflow is reported by handle_bad_stack() in arch/riscv/kernel/traps.c alone. Its panic says
            // so as well, unless it is torn or another hart's comes first.
            (Some(overflow), oops) if oops.as_ref().is_none_or(|oops| oops.line > overflow.line) => {
                whole.or(Some(overflow))
            }
            (_, Some(oops)) => Some(oops),
            _ => self.panic.as_ref(),
        }
    }

    /// Whether the guest ran to its end after `trouble`.
    fn went_on(&self, trouble: Option<&Found>) -> bool {
        let Some(trouble) = trouble.filter(|_| self.panic.is_none() && self.overflow.is_none()) else { return false };
        self.done.or(self.off).is_some_and(|line| line > trouble.line)
    }

    fn end(&self, ending: &Ending, stderr: &str, log: &Log) -> End {
        if let Some(first) = self.first_trouble() {
            let headline = first.text.clone();
            return match (&self.panic, &self.overflow) {
                (_, Some(overflow)) if overflow == first => End::StackOverflow { headline },
                (Some(panic), _) if panic == first && is_overflow(panic) => End::StackOverflow { headline },
                (Some(panic), _) if panic == first => End::Panic { headline },
                _ => End::Oops { headline },
            };
        }
        let never = || match log.not_understood() {
            Some((line, text)) => End::NotUnderstood { line, text: text.to_owned() },
            None => End::NeverBooted,
        };
        match *ending {
            Ending::Exited(0) | Ending::Unknown => {}
            Ending::Exited(code) => return qemu_failed(stderr, &format!("exit code {code}, no message")),
            Ending::Signal(signal) => return qemu_failed(stderr, &format!("ended by signal {signal}, no message")),
            _ if !self.linux => return never(),
            Ending::Silent(time) => return End::Hang(time),
            Ending::TimedOut(time) => return End::Timeout(time),
            // QEMU was ended because of a panic that this log does not have.
            Ending::Panicked => return End::Incomplete { missing: vec!["panic"] },
        }
        if !self.linux {
            return never();
        }
        let marks = [
            (self.ready || self.foreign, READY),
            (self.results, "KTAP version line"),
            (self.done.is_some() || self.foreign, DONE),
            (!self.next, "first message of the next kernel"),
        ];
        let missing: Vec<_> = marks.into_iter().filter(|(seen, _)| !seen).map(|(_, mark)| mark).collect();
        if missing.is_empty() { End::Finished } else { End::Incomplete { missing } }
    }

    /// What may be the reason for a console that ends early.
    fn hint(&self, end: &End, log: &Log) -> Option<&'static str> {
        if let End::Panic { headline } = end {
            let init = ["Attempted to kill init", "No working init found"];
            let found = init.iter().any(|text| headline.contains(text));
            return found.then_some("init ended, or there is none: the messages before the panic say why");
        }
        if !matches!(end, End::NeverBooted | End::Hang(_) | End::Timeout(_) | End::Incomplete { .. }) {
            return None;
        }
        let last = log.lines.iter().rfind(|line| !line.text.trim().is_empty())?;
        if last.text.contains("bootconsole [") && last.text.ends_with("disabled") {
            return Some(
                "the console ends with the boot console, so the kernel may lack a driver for the other: try keep_bootcon",
            );
        }
        (!self.linux).then_some(
            "a kernel without a driver for the console (8250) boots in silence: try earlycon=sbi keep_bootcon",
        )
    }
}

/// Whether a panic says that the stack ended.
fn is_overflow(panic: &Found) -> bool {
    panic.text.starts_with(PANIC) && panic.text.contains("Kernel stack overflow")
}

/// The number that die() gives to an oops whose first line may have come before, as in `Oops [#1]`.
fn oops_number(text: &str) -> Option<u32> {
    let (number, _) = text.split_once("[#")?.1.split_once(']')?;
    number.parse().ok()
}

/// Whether a message is the kernel's last.
fn is_off(text: &str) -> bool {
    OFF.iter().any(|off| text.starts_with(off))
}

/// Whether a message is the kernel's first.
pub fn is_first(text: &str) -> bool {
    text.starts_with("Linux version ")
}

/// The message of the kernel in whose middle the log may end. The last one is whole without a newline: whoever copies
/// a log leaves it out. Results and diagnostics have a plan or totals.
fn cut_off(log: &Log) -> Option<(usize, &str)> {
    let last = log.lines.last().filter(|line| !line.text.is_empty() && line.stamp.is_some())?;
    let whole = is_off(&last.text) || is_result(&last.text);
    (!whole).then_some((last.number, last.text.as_str()))
}

/// Whether a message ends a kernel; the one before the kernel in question may have died.
fn is_death(text: &str) -> bool {
    let rows = reports::table().report.iter().filter(|row| row.ends.is_some());
    rows.flat_map(|row| &row.text).any(|pattern| reports::matches(pattern, text))
}

fn qemu_failed(stderr: &str, otherwise: &str) -> End {
    let last = stderr.lines().map(str::trim).rfind(|l| !l.is_empty() && !l.starts_with("x-cache-invalid:"));
    End::QemuFailed { stderr: last.unwrap_or(otherwise).to_owned() }
}

/// Whether a message is KTAP: a result, a plan or a diagnostic.
pub fn is_result(text: &str) -> bool {
    let text = text.trim_start();
    text.starts_with('#') || text.starts_with("ok ") || text.starts_with("not ok ")
}
