// SPDX-License-Identifier: GPL-2.0-only
//! Tells the stale hits that a kernel survived from the one that killed it.
//!
//! The console says whether the kernel died. That a hit killed it is certain only if the report on the
//! console names the same access, or if the hit never ends. A death that no hit explains is neither a
//! clean run nor a finding.

use lazymap_console::end::{End, Reading};
use lazymap_console::log::Log;
use regex_lite::Regex;
use serde::Serialize;

use super::symbols;
use super::trace::{Hit, Story, Use, What};

/// A hit that faults this often in a row never ends; a kernel that copes needs one or two tries.
const ENDLESS: u64 = 1000;
/// This many hits on one page, out of a hart's last [`RECENT`], are a loop.
const LOOP: usize = 8;
/// How many of a hart's last hits to search for a loop.
const RECENT: usize = 256;
/// A hit that ended this long before the last event of the trace, in virtual nanoseconds, was survived: a
/// kernel that dies of one does so at once, and reports that within this time.
const JUST_NOW: i64 = 2_000_000_000;

/// How a hit ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Fate {
    /// The kernel died of it.
    Killed,
    /// The hart used the page later: the kernel survived it.
    Absorbed,
    /// The hart did not use the page again: the access was abandoned, or the run ended first.
    Open,
}

impl Fate {
    /// The printed name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Killed => "killed",
            Self::Absorbed => "absorbed",
            Self::Open => "open",
        }
    }
}

/// The registers and the call trace in a report on the console.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Death {
    /// Its first message.
    pub headline: String,
    /// Where it happened.
    pub epc: Option<u64>,
    /// What could not be accessed.
    pub badaddr: Option<u64>,
    /// The hart that reported it, if the console tells.
    pub hart: Option<u32>,
    /// The functions on the stack, innermost first, as the kernel names them.
    pub calls: Vec<String>,
    /// The report, up to its end or 60 lines.
    pub lines: Vec<String>,
}

/// How a hunt ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase", tag = "outcome")]
pub enum Outcome {
    /// The kernel ran to the end of its workload.
    Survived,
    /// A stale hit killed or hung it.
    Killed {
        /// Which, as an index into the hits.
        hit: usize,
        /// How we know.
        how: String,
    },
    /// A hart used a translation that it should have been made to forget.
    Exposed {
        /// Which, as an index into the uses.
        #[serde(rename = "use")]
        of: usize,
        /// How we know.
        how: String,
    },
    /// The result is uncertain.
    Uncertain {
        /// Why.
        why: String,
    },
}

/// A page that was unmapped, or that does not permit an access any more, must be fenced for within this time, in
/// virtual nanoseconds. In between a hart may use it: the fence of another hart is on its way.
const LATE: i64 = 1_000_000_000;

/// Whether the guest runs the tool's own init, which prints marks on the console.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guest {
    /// It does.
    Own,
    /// It has the user's initramfs.
    Foreign,
}

/// Reads the report that ended the run according to `reading`.
pub fn death(log: &Log, reading: &Reading) -> Option<Death> {
    let headline = reading.headline.as_ref()?;
    let lines: Vec<String> = log
        .lines
        .iter()
        .filter(|line| line.number >= headline.line)
        .map(|line| line.text.clone())
        .take_while(|text| !text.starts_with("---[ end trace"))
        .take(60)
        .collect();
    let find = |pattern: &str| {
        let pattern = Regex::new(pattern).ok()?;
        let found = lines.iter().find_map(|line| pattern.captures(line))?;
        u64::from_str_radix(found.get(1)?.as_str(), 16).ok()
    };
    // `[<ADDRESS>] FUNCTION+0xOFFSET/0xSIZE [MODULE]`
    let call = |line: &String| {
        let (_, call) = line.trim().strip_prefix("[<")?.split_once(">] ")?;
        let (name, rest) = call.split_once('+')?;
        Some(format!("{}+{rest}", symbols::demangled(name)))
    };
    let calls = lines.iter().filter_map(call);
    Some(Death {
        headline: headline.text.clone(),
        // Kernels before 5.11 print `epc: `.
        epc: find(r"^\s*epc ?: ([0-9a-f]{16}) ra :"),
        badaddr: find(r"\bbadaddr: ([0-9a-f]{16})\b"),
        hart: reporter(log, &lines),
        calls: calls.collect(),
        lines,
    })
}

/// The hart that a report is from. Linux numbers the hart that it booted on 0, and the others in the order of
/// the device tree, which on QEMU's `virt` machine is that of their IDs.
fn reporter(log: &Log, report: &[String]) -> Option<u32> {
    let cpu: u32 = first_number(r"^\s*CPU: (\d+) ", report.iter().map(String::as_str))?;
    let boot = first_number(r"Booting Linux on hartid (\d+)", log.lines.iter().map(|line| line.text.as_str()))?;
    Some(match cpu {
        0 => boot,
        cpu if cpu <= boot => cpu - 1,
        cpu => cpu,
    })
}

/// The number in the first line that matches.
fn first_number<'a>(pattern: &str, mut lines: impl Iterator<Item = &'a str>) -> Option<u32> {
    let regex = Regex::new(pattern).ok()?;
    lines.find_map(|line| regex.captures(line)?.get(1)?.as_str().parse().ok())
}

/// Judges a run: how it ended, and how each hit ended.
pub fn judge(story: &Story, reading: &Reading, death: Option<&Death>, guest: Guest, log: &Log) -> (Outcome, Vec<Fate>) {
    let mut fates: Vec<Fate> =
        story.hits.iter().map(|hit| if hit.end.is_some() { Fate::Absorbed } else { Fate::Open }).collect();
    let outcome = outcome(story, reading, death, guest, log);
    if let Outcome::Killed { hit, .. } = outcome {
        fates[hit] = Fate::Killed;
    }
    (outcome, fates)
}

fn outcome(story: &Story, reading: &Reading, death: Option<&Death>, guest: Guest, log: &Log) -> Outcome {
    let uncertain = |why: String| Outcome::Uncertain { why };
    match &reading.end {
        End::Oops { .. } if went_on(story, reading, death) => Outcome::Survived,
        End::Oops { headline } | End::Panic { headline } | End::StackOverflow { headline } => {
            match death.and_then(|death| culprit(&story.hits, death)) {
                Some((hit, how)) => Outcome::Killed { hit, how },
                None => uncertain(format!("the kernel died, but not of a known stale hit: {headline}")),
            }
        }
        End::Hang(_) | End::Timeout(_) => match endless(&story.hits) {
            Some(hit) => {
                let how = format!("the access faulted {} times, up to the end of the run", story.hits[hit].repeats);
                Outcome::Killed { hit, how }
            }
            None => uncertain(hinted(reading, &format!("{}, but no stale hit explains it", reading.end))),
        },
        End::Finished => Outcome::Survived,
        // It was switched off; only the marks of the tool's own init are missing.
        End::Incomplete { .. } if guest == Guest::Foreign && reading.off && started_init(log) => Outcome::Survived,
        other => uncertain(hinted(reading, &other.to_string())),
    }
}

/// A reason with what may help.
fn hinted(reading: &Reading, why: &str) -> String {
    reading.hint.map_or_else(|| why.to_owned(), |hint| format!("{why}; {hint}"))
}

/// Whether the kernel reported a hit as if it died of it, fenced and went on, as vendors' kernels do: the hart used the
/// page later, and the guest ran to its end.
pub fn went_on(story: &Story, reading: &Reading, death: Option<&Death>) -> bool {
    // The kernel has had other hits since.
    let any = vec![true; story.hits.len()];
    let hit = death.and_then(|death| reported(&story.hits, death, &any)).map(|(hit, _)| &story.hits[hit]);
    reading.went_on && hit.is_some_and(|hit| hit.end.is_some() && hit.repeats < ENDLESS)
}

/// Whether the kernel got as far as starting a program.
fn started_init(log: &Log) -> bool {
    log.lines.iter().any(|line| line.text.starts_with("Run ") && line.text.ends_with(" as init process"))
}

/// Which hits may have killed the kernel: the last one of its hart, if it did not end long before, and
/// those that did not end. With `hart`, only those of this hart.
fn suspects(hits: &[Hit], hart: Option<u32>) -> Vec<bool> {
    let now = hits.iter().map(|hit| hit.end.as_ref().map_or(hit.last, |end| end.time)).max().unwrap_or_default();
    let suspect = |(at, hit): (usize, &Hit)| {
        let latest = !hits[at + 1..].iter().any(|later| later.hart == hit.hart);
        let just_now = hit.end.as_ref().is_none_or(|end| now - end.time < JUST_NOW);
        hart.is_none_or(|hart| hart == hit.hart) && (hit.end.is_none() || (latest && just_now))
    };
    hits.iter().enumerate().map(suspect).collect()
}

/// The hit that a report is about, and how we know. A hit that was absorbed long before does not
/// count, even if it was at the same instruction: memset() has hits in every run.
fn culprit(hits: &[Hit], death: &Death) -> Option<(usize, String)> {
    reported(hits, death, &suspects(hits, death.hart))
}

/// The last of the suspects that a report can be about, and how we know.
fn reported(hits: &[Hit], death: &Death, suspects: &[bool]) -> Option<(usize, String)> {
    let last = |matches: &dyn Fn(&Hit) -> bool| (0..hits.len()).rev().find(|&at| suspects[at] && matches(&hits[at]));
    let page = |address: u64| address >> 12;
    if let (Some(epc), Some(badaddr)) = (death.epc, death.badaddr) {
        if let Some(hit) = last(&|h| h.pc == epc && h.addr == badaddr) {
            return Some((hit, "the report on the console is about this very access".to_owned()));
        }
        // The report of a nested trap may name the access only by its page.
        if let Some(hit) = last(&|h| h.pc == epc && h.page() == page(badaddr) && h.end.is_none()) {
            return Some((hit, "the report on the console is about this instruction and page".to_owned()));
        }
        if let Some(hit) = last(&|h| h.page() == page(badaddr) && h.end.is_none()) {
            return Some((hit, "the report on the console is about this page".to_owned()));
        }
    }
    // The kernel survived the hit, but had lost its own return address or status by then: it continued
    // at the instruction in the wrong mode, or without what it needs. Then what it could not access is the
    // instruction itself, or the page of the hit.
    let fits = |h: &Hit, epc| death.badaddr.is_none_or(|bad| page(bad) == page(epc) || page(bad) == h.page());
    if let Some(epc) = death.epc
        && let Some(hit) = last(&|h| h.pc == epc && fits(h, epc))
    {
        return Some((hit, "the kernel died at this instruction when it was run again".to_owned()));
    }
    // Even if it finally ended: the kernel was at a place where it could not take a fault.
    if let Some(hit) = last(&|h| h.repeats >= ENDLESS) {
        return Some((hit, format!("the access faulted {} times in a row", hits[hit].repeats)));
    }
    looping(hits)
}

/// The last hit that never ended.
fn endless(hits: &[Hit]) -> Option<usize> {
    hits.iter().rposition(|hit| hit.end.is_none() && hit.repeats >= ENDLESS)
}

/// The first of several hits on one page at the end of a hart's story, each during the handling of the
/// one before.
fn looping(hits: &[Hit]) -> Option<(usize, String)> {
    let mut harts: Vec<u32> = hits.iter().map(|hit| hit.hart).collect();
    harts.sort_unstable();
    harts.dedup();
    let mut found: Option<(usize, usize)> = None;
    for hart in harts {
        let recent: Vec<usize> = (0..hits.len()).rev().filter(|&at| hits[at].hart == hart).take(RECENT).collect();
        let Some(&newest) = recent.first() else { continue };
        let same: Vec<usize> = recent.into_iter().filter(|&at| hits[at].page() == hits[newest].page()).collect();
        let open = same.iter().filter(|&&at| hits[at].end.is_none()).count();
        if let Some(&oldest) = same.last()
            && open >= LOOP
            && found.is_none_or(|(_, count)| count < same.len())
        {
            found = Some((oldest, same.len()));
        }
    }
    found.map(|(hit, count)| (hit, format!("{count} accesses to the page faulted, one while the other was handled")))
}

/// The use of a stale translation that no fence can have been about to end, and how we know.
pub fn exposure(uses: &[Use]) -> Option<(usize, String)> {
    // Whoever maps another page at an address has to be sure that nobody uses the old one there.
    let remapped = |of: &Use| of.what == What::Remapped;
    if let Some(at) = uses.iter().position(|of| remapped(of) && of.mode == 0).or_else(|| uses.iter().position(remapped))
    {
        let again = uses.iter().filter(|of| remapped(of)).count();
        return Some((at, format!("the page tables have another page there; {again} in all")));
    }
    let latest = uses.iter().map(|of| of.end.as_ref().map_or(of.last, |end| end.time)).max()?;
    let late = |of: &Use| {
        let since = of.store.as_ref().filter(|store| store.by.is_some()).map(|store| store.time);
        of.what != What::Upgraded
            && since.is_some_and(|since| of.end.as_ref().map_or(latest, |end| end.time) - since > LATE)
    };
    let at = uses.iter().position(late)?;
    Some((at, "the page tables had changed more than a second before, and there was no fence for it".to_owned()))
}
