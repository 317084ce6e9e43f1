// SPDX-License-Identifier: GPL-2.0-only
//! Tells the stale hits that a kernel survived from the one that killed it.
//!
//! The console says whether the kernel died. That a hit killed it is certain only if the report on the
//! console names the same access, or if the hit never ends. A death that no hit explains is neither a
//! clean run nor a finding.

use std::collections::BTreeMap;
use std::fmt;

use lazymap_console::end::{End, Reading};
use lazymap_console::log::Log;
use regex_lite::Regex;
use serde::Serialize;

use super::poison::{Met, Poison};
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

/// An access that faults this often in the last [`LIVELOCK_TIME`] of a run that hangs is what it hangs in: a
/// thousand times a second.
const LIVELOCK: u64 = 5000;
/// In virtual nanoseconds.
const LIVELOCK_TIME: i64 = 5_000_000_000;

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
    /// When, by the kernel's clock, in nanoseconds. That starts later than the machine's, so it was not before this time.
    #[serde(skip)]
    pub time: Option<i64>,
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
    /// Harts walk page tables that are gone.
    Lost {
        /// How we know.
        how: String,
    },
    /// The kernel survived what it met, but part of the workload did not run to its end.
    Incomplete {
        /// Which part, and how it ended.
        why: String,
    },
    /// The result is uncertain.
    Uncertain {
        /// Why.
        why: String,
    },
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Survived => f.write_str("no stale hit killed the kernel"),
            Self::Killed { how, .. } => write!(f, "a stale hit killed the kernel: {how}"),
            Self::Exposed { how, .. } => write!(f, "a hart used a stale translation: {how}"),
            Self::Lost { how } => write!(f, "harts walk page tables that are gone: {how}"),
            Self::Incomplete { why } => write!(f, "survived, but the workload is incomplete: {why}"),
            Self::Uncertain { why } => write!(f, "not certain: {why}"),
        }
    }
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
    let stamp = log.lines.iter().find(|line| line.number == headline.line).and_then(|line| line.stamp);
    Some(Death {
        headline: headline.text.clone(),
        time: stamp.map(|seconds| (seconds * 1e9) as i64),
        // Kernels before 5.11 print `epc: `, those before 5.5 `sepc: ` and `sbadaddr: `.
        epc: find(r"^\s*s?epc ?: ([0-9a-f]{16}) ra :"),
        badaddr: find(r"\bs?badaddr: ([0-9a-f]{16})\b"),
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
            None if let Some((hit, how)) = livelock(&story.hits) => Outcome::Killed { hit, how },
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
/// those that did not end. With `hart`, only those of this hart; with `reported`, the kernel died at that time or later.
fn suspects(hits: &[Hit], hart: Option<u32>, reported: Option<i64>) -> Vec<bool> {
    let events = hits.iter().map(|hit| hit.end.as_ref().map_or(hit.last, |end| end.time));
    let now = events.chain(reported).max().unwrap_or_default();
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
    reported(hits, death, &suspects(hits, death.hart, death.time))
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
    looping(hits, suspects)
}

/// The last hit that never ended.
fn endless(hits: &[Hit]) -> Option<usize> {
    hits.iter().rposition(|hit| hit.end.is_none() && hit.repeats >= ENDLESS)
}

/// An access that faulted again and again up to the end of the run, although each of its hits ended: the first of
/// these hits within [`LIVELOCK_TIME`], and how often.
fn livelock(hits: &[Hit]) -> Option<(usize, String)> {
    let now = hits.iter().map(|hit| hit.last).max()?;
    let mut found: BTreeMap<(u32, u64, u64), (usize, u64)> = BTreeMap::new();
    for (at, hit) in hits.iter().enumerate().filter(|(_, hit)| now - hit.last < LIVELOCK_TIME) {
        let (_, count) = found.entry((hit.hart, hit.pc, hit.page())).or_insert((at, 0));
        *count += hit.repeats;
    }
    let (hit, count) = found.into_values().max_by_key(|(_, count)| *count).filter(|(_, count)| *count >= LIVELOCK)?;
    let seconds = LIVELOCK_TIME / 1_000_000_000;
    Some((hit, format!("a livelock: the access faulted {count} times in the last {seconds} seconds")))
}

/// The first of several hits on one page at the end of a hart's story, each during the handling of the
/// one before. Only a hart whose last hit is one of `suspects` counts.
fn looping(hits: &[Hit], suspects: &[bool]) -> Option<(usize, String)> {
    let mut harts: Vec<u32> = hits.iter().map(|hit| hit.hart).collect();
    harts.sort_unstable();
    harts.dedup();
    let mut found: Option<(usize, usize)> = None;
    for hart in harts {
        let recent: Vec<usize> = (0..hits.len()).rev().filter(|&at| hits[at].hart == hart).take(RECENT).collect();
        let Some(&newest) = recent.first().filter(|&&at| suspects[at]) else { continue };
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

/// Walks from page tables that are gone, in a run; between the change and the fence there may be some.
const WALKS: u64 = 100_000;

/// How we know that harts go on walking page tables that are gone.
pub fn lost(gone_tables: u64) -> Option<String> {
    (gone_tables >= WALKS).then(|| format!("{gone_tables} walks began at one, so no fence ends that"))
}

/// The page table that is gone from which the most walks were told of.
pub fn most_walked(uses: &[Use]) -> Option<usize> {
    let gone = uses.iter().enumerate().filter(|(_, of)| of.what == What::Detached);
    // The first one of those that are equal.
    gone.rev().max_by_key(|(_, of)| of.repeats).map(|(at, _)| at)
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
        // Walks have a limit of their own, see [`lost`].
        !matches!(of.what, What::Upgraded | What::Detached)
            && since.is_some_and(|since| of.end.as_ref().map_or(latest, |end| end.time) - since > LATE)
    };
    let at = uses.iter().position(late)?;
    Some((at, "the page tables had changed more than a second before, and there was no fence for it".to_owned()))
}

/// The use by a program of a page that the kernel had freed already, and how we know. A fence that is still to come
/// does not make that right.
pub fn freed(uses: &[Use], poison: Poison) -> Option<(usize, String)> {
    let met = |of: &Use| {
        // What a program gets, the kernel clears first. In memory of its own, poison may be what nobody has written yet.
        let gone = of.mode == 0 && matches!(of.what, What::Unmapped | What::Remapped);
        let met = poison.met(of.data.as_ref()?)?;
        (gone && met != Met::Zeroes).then_some(met)
    };
    let (at, met) = uses.iter().enumerate().find_map(|(at, of)| Some((at, met(of)?)))?;
    Some((at, format!("a program has met {} there", met.name())))
}

#[cfg(test)]
mod tests {
    use lazymap_console::end::{self, Ending};

    use super::super::trace::{Access, End as Ended, Gone, Owners, Store};
    use super::*;

    const PC: u64 = 0xffff_ffff_8000_1000;
    const ADDR: u64 = 0xff20_0000_0000_5008;

    /// A hit of hart 1 that faulted once, at second `time`, and never ended.
    fn hit(time: i64) -> Hit {
        Hit {
            hart: 1,
            number: 1,
            time: time * 1_000_000_000,
            mode: 1,
            access: Access::Load,
            addr: ADDR,
            pc: PC,
            ra: 0,
            calls: Vec::new(),
            asid: 0,
            fences: 0,
            repeats: 1,
            last: time * 1_000_000_000,
            read: None,
            store: None,
            fence: None,
            end: None,
        }
    }

    /// The same, but the page was used at once.
    fn absorbed(time: i64) -> Hit {
        let end = Ended { time: time * 1_000_000_000, pc: PC, fences: 1, reason: None };
        Hit { end: Some(end), ..hit(time) }
    }

    fn death(epc: Option<u64>, badaddr: Option<u64>) -> Death {
        Death { epc, badaddr, ..Death::default() }
    }

    fn killer(hits: &[Hit], death: &Death) -> Option<usize> {
        culprit(hits, death).map(|(hit, _)| hit)
    }

    #[test]
    fn a_report_tells_its_hart() {
        let of = |boot: u32, cpu: u32| {
            let log = Log::of(&format!("Booting Linux on hartid {boot}\n"));
            reporter(&log, &["Oops [#1]".to_owned(), format!("CPU: {cpu} UID: 0 PID: 1")])
        };
        assert_eq!([of(0, 0), of(0, 1), of(0, 3)], [Some(0), Some(1), Some(3)]);
        assert_eq!([of(2, 0), of(2, 1), of(2, 2), of(2, 3)], [Some(2), Some(0), Some(1), Some(3)]);
        assert_eq!(reporter(&Log::of("no such message\n"), &["CPU: 1 UID: 0".to_owned()]), None);
    }

    #[test]
    fn a_report_tells_its_time() {
        let of = |text: &str| {
            let log = Log::of(text);
            super::death(&log, &end::read(&log, &Ending::Exited(0), "")).and_then(|death| death.time)
        };
        let first = "[    0.000000] Linux version 7\n";
        assert_eq!(of(&format!("{first}[    5.250000] Oops [#1]\n[    9.000000] x\n")), Some(5_250_000_000));
        assert_eq!(of("Linux version 7\nOops [#1]\n"), None);
    }

    #[test]
    fn a_program_runs_if_the_kernel_says_so_in_one_line() {
        let of = |text: &str| started_init(&Log::of(text));
        assert!(of("Linux version 7\nRun /init as init process\n"));
        assert!(!of("Run /init with this: x\nstart /sbin/x as init process\n"));
    }

    #[test]
    fn a_hart_dies_of_its_last_hit_or_one_that_never_ended() {
        let suspect = |hits: &[Hit]| suspects(hits, None, None);
        assert_eq!(suspect(&[absorbed(1), absorbed(1)]), [false, true]);
        assert_eq!(suspect(&[hit(1), absorbed(1)]), [true, true]);
        let other = Hit { hart: 2, ..absorbed(1) };
        assert_eq!(suspect(&[absorbed(1), other.clone()]), [true, true]);
        // Not of one that ended two seconds before everything did.
        assert_eq!(suspect(&[absorbed(1), Hit { hart: 2, ..absorbed(3) }]), [false, true]);
        assert_eq!(suspect(&[absorbed(2), Hit { hart: 2, ..absorbed(3) }]), [true, true]);
        assert_eq!(suspect(&[hit(1), Hit { hart: 2, ..hit(9) }]), [true, true]);
        assert_eq!(suspects(&[hit(1), other], Some(2), None), [false, true]);
        // Nor of one that ended two seconds before the report.
        let at = |nanoseconds: i64| suspects(&[absorbed(1)], None, Some(nanoseconds));
        assert_eq!((at(2_999_999_999), at(3_000_000_000)), (vec![true], vec![false]));
        assert_eq!(suspects(&[hit(1)], None, Some(9_000_000_000)), [true]);
    }

    #[test]
    fn a_report_names_the_access_or_its_page_or_its_instruction() {
        let elsewhere = Hit { pc: PC + 4, addr: ADDR + 0x1000, ..hit(1) };
        let hits = [hit(1), elsewhere.clone()];
        let how =
            |hits: &[Hit], death: &Death| culprit(hits, death).map(|(hit, how)| (hit, how.contains("very access")));
        assert_eq!(how(&hits, &death(Some(PC), Some(ADDR))), Some((0, true)));
        assert_eq!(how(&hits, &death(Some(PC), Some(ADDR + 8))), Some((0, false)));
        assert_eq!(how(&hits, &death(Some(PC + 8), Some(ADDR + 8))), Some((0, false)));
        assert_eq!(how(&hits, &death(Some(PC + 4), Some(ADDR + 0x1008))), Some((1, false)));
        assert_eq!(how(&hits, &death(Some(PC + 8), Some(ADDR + 0x2000))), None);
        assert_eq!(how(&hits, &death(None, Some(ADDR))), None);
        // A page counts only if the hart never used it again.
        let past = [absorbed(1)];
        assert_eq!(how(&past, &death(Some(PC), Some(ADDR))), Some((0, true)));
        assert_eq!(how(&past, &death(Some(PC + 8), Some(ADDR))), None);
        // The instruction, if the report is about its own page, about the hit's, or about none.
        for (bad, is_it) in [(None, true), (Some(PC + 8), true), (Some(ADDR + 8), true), (Some(ADDR + 0x1000), false)] {
            assert_eq!(how(&past, &death(Some(PC), bad)), is_it.then_some((0, false)), "{bad:?}");
        }
        // The last one that fits.
        let twice = [hit(1), Hit { time: 2, ..hit(2) }];
        assert_eq!(how(&twice, &death(Some(PC), Some(ADDR))), Some((1, true)));
        // The page of the same instruction comes before that of another.
        let both = [hit(1), Hit { pc: PC + 4, ..hit(1) }];
        assert_eq!(how(&both, &death(Some(PC), Some(ADDR + 8))), Some((0, false)));
    }

    #[test]
    fn a_few_walks_from_a_table_that_is_gone_are_on_their_way_to_a_fence() {
        assert_eq!(lost(99_999), None);
        assert!(lost(100_000).unwrap().starts_with("100000 walks"));
    }

    #[test]
    fn a_livelock_is_one_access_up_to_the_end() {
        // Seconds and repeats of one access.
        let hits = |all: &[(i64, u64)]| -> Vec<Hit> {
            all.iter().map(|&(time, repeats)| Hit { repeats, ..absorbed(time) }).collect()
        };
        let at = |hits: &[Hit]| livelock(hits).map(|(hit, _)| hit);
        assert_eq!(at(&hits(&[(1, 9000), (10, 2500), (12, 2500)])), Some(1));
        assert_eq!(at(&hits(&[(1, 9000), (10, 2500), (12, 2499)])), None);
        // Five seconds before the last one is too long ago.
        assert_eq!(at(&hits(&[(5, 2500), (10, 2500)])), None);
        assert_eq!(at(&hits(&[(6, 2500), (10, 2500)])), Some(0));
        assert_eq!(at(&[]), None);
        let (_, how) = livelock(&hits(&[(10, 5000)])).unwrap();
        assert_eq!(how, "a livelock: the access faulted 5000 times in the last 5 seconds");
        // Of one hart, one instruction, one page.
        let first = Hit { repeats: 2500, ..absorbed(1) };
        let others = [
            Hit { hart: 2, ..first.clone() },
            Hit { pc: PC + 4, ..first.clone() },
            Hit { addr: ADDR + 0x1000, ..first.clone() },
        ];
        for other in others {
            assert_eq!(at(&[first.clone(), other]), None);
        }
        assert_eq!(at(&[first.clone(), Hit { addr: ADDR + 8, ..first }]), Some(0));
    }

    #[test]
    fn a_thousand_faults_in_a_row_are_endless() {
        let times = |repeats: u64, hit: Hit| Hit { repeats, ..hit };
        let nothing = death(None, None);
        assert_eq!(killer(&[times(999, hit(1))], &nothing), None);
        assert_eq!(killer(&[times(1000, hit(1))], &nothing), Some(0));
        assert_eq!(killer(&[times(1000, absorbed(1))], &nothing), Some(0));
        assert_eq!(endless(&[times(1000, hit(1)), hit(1)]), Some(0));
        assert_eq!(endless(&[times(999, hit(1))]), None);
        assert_eq!(endless(&[times(1000, absorbed(1))]), None);
    }

    #[test]
    fn eight_open_hits_on_the_last_page_are_a_loop() {
        fn looping(hits: &[Hit]) -> Option<(usize, String)> {
            super::looping(hits, &vec![true; hits.len()])
        }
        let other = || Hit { addr: ADDR + 0x1000, ..hit(1) };
        let some = |count: usize| vec![hit(1); count];
        assert_eq!(looping(&some(7)), None);
        assert_eq!(looping(&some(8)).map(|(hit, _)| hit), Some(0));
        assert!(looping(&some(8)).unwrap().1.starts_with("8 accesses"));
        // On the last page, and not ended.
        assert_eq!(looping(&[some(8), vec![other()]].concat()), None);
        assert_eq!(looping(&[vec![other()], some(8)].concat()).map(|(hit, _)| hit), Some(1));
        assert_eq!(looping(&vec![absorbed(1); 8]), None);
        let ended = [some(7), vec![absorbed(1)]].concat();
        assert_eq!(looping(&ended), None);
        // Of one hart, and of several the one with the longest.
        let two: Vec<Hit> = (0..14).map(|at| Hit { hart: at % 2, ..hit(1) }).collect();
        assert_eq!(looping(&two), None);
        let longer = [some(8), vec![Hit { hart: 2, ..hit(1) }; 9]].concat();
        assert_eq!(looping(&longer).map(|(hit, _)| hit), Some(8));
        let shorter = [some(9), vec![Hit { hart: 2, ..hit(1) }; 8]].concat();
        assert_eq!(looping(&shorter).map(|(hit, _)| hit), Some(0));
        let equal = [some(8), vec![Hit { hart: 2, ..hit(1) }; 8]].concat();
        assert_eq!(looping(&equal).map(|(hit, _)| hit), Some(0));
        // As far back as is looked.
        assert_eq!(looping(&some(RECENT + 5)).map(|(hit, _)| hit), Some(5));
        // Of the hart that died, if that is known.
        let died = |hart: u32| killer(&some(8), &Death { hart: Some(hart), ..death(None, None) });
        assert_eq!((died(1), died(2)), (Some(0), None));
    }

    #[test]
    fn a_translation_must_be_forgotten_within_a_second() {
        let stored = |by: Option<u32>| Some(Store { time: 0, by, pc: PC, ra: 0, pte: 0, calls: Vec::new() });
        let of = |what: What, milliseconds: i64| Use {
            hart: 1,
            number: 1,
            time: 0,
            mode: 1,
            access: Access::Store,
            addr: ADDR,
            pc: PC,
            ra: 0,
            calls: Vec::new(),
            asid: 0,
            what,
            held: None,
            read: None,
            store: stored(Some(0)),
            owners: Owners::default(),
            data: None,
            fence: None,
            fences: None,
            end: Some(Gone { time: milliseconds * 1_000_000, pc: PC, uses: 1, reason: "fence".to_owned() }),
            repeats: 1,
            last: 0,
        };
        let which = |uses: &[Use]| exposure(uses).map(|(at, _)| at);
        assert_eq!(which(&[]), None);
        for what in [What::Unmapped, What::Restricted] {
            assert_eq!(which(&[of(what, 1), of(what, 1000)]), None, "{what:?}");
            assert_eq!(which(&[of(what, 1), of(what, 1001)]), Some(1), "{what:?}");
        }
        assert_eq!(which(&[of(What::Upgraded, 1001)]), None);
        // Without an end, until the last event.
        let open = Use { end: None, last: 5, ..of(What::Unmapped, 0) };
        assert_eq!(which(std::slice::from_ref(&open)), None);
        assert_eq!(which(&[open, of(What::Upgraded, 1001)]), Some(0));
        // Nobody knows who changed it.
        assert_eq!(which(&[Use { store: stored(None), ..of(What::Unmapped, 1001) }]), None);
        assert_eq!(which(&[Use { store: None, ..of(What::Unmapped, 1001) }]), None);
        // A page of somebody else counts at once; that of a program before that of the kernel.
        let kernel = || of(What::Remapped, 1);
        let program = || Use { mode: 0, ..kernel() };
        assert_eq!(which(&[of(What::Unmapped, 1001), kernel()]), Some(1));
        assert_eq!(which(&[kernel(), Use { mode: 0, ..of(What::Unmapped, 1) }, program()]), Some(2));
        assert!(exposure(&[kernel(), program()]).unwrap().1.ends_with("2 in all"));
    }

    #[test]
    fn a_kernel_goes_on_after_a_hit_that_its_report_names() {
        let text = "[    0.000000] Linux version 7\n[    1.000000] Oops [#1]\n[    2.000000] reboot: Power down\n";
        let reading = end::read(&Log::of(text), &Ending::Exited(0), "");
        assert!(reading.went_on);
        let story = |hit: Hit| Story { hits: vec![hit], ..Story::default() };
        let named = death(Some(PC), Some(ADDR));
        assert!(went_on(&story(absorbed(1)), &reading, Some(&named)));
        assert!(!went_on(&story(absorbed(1)), &reading, None));
        assert!(!went_on(&story(hit(1)), &reading, Some(&named)));
        assert!(went_on(&story(Hit { repeats: 999, ..absorbed(1) }), &reading, Some(&named)));
        assert!(!went_on(&story(Hit { repeats: 1000, ..absorbed(1) }), &reading, Some(&named)));
        let ended = Reading { went_on: false, ..reading };
        assert!(!went_on(&story(absorbed(1)), &ended, Some(&named)));
        assert_eq!(hinted(&ended, "why"), "why");
        assert_eq!(hinted(&Reading { hint: Some("try"), ..ended }, "why"), "why; try");
    }

    #[test]
    fn fates_have_names() {
        let names = [Fate::Killed, Fate::Absorbed, Fate::Open].map(Fate::name);
        assert_eq!(names, ["killed", "absorbed", "open"]);
    }
}
