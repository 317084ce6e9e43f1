// SPDX-License-Identifier: GPL-2.0-only
//! QEMU's trace of stale hits, put together into one story per hit.
//!
//! The events are those of docs/system/riscv/invalid-cache.rst in the patched QEMU. They come from
//! several threads: the fields `hart` and `hit` say what belongs together.

use std::collections::HashMap;

use serde::Serialize;

/// The prefix of the events' names.
pub const PREFIX: &str = "riscv_invalid_cache_";
/// The same for translations that outlive their PTEs.
const VALID_PREFIX: &str = "riscv_valid_cache_";
/// The events that are read, for QEMU's `-trace`.
pub const EVENTS: &str = "riscv_*valid_cache_stale_*";
/// At most this many hits are kept; later ones are only counted.
pub const MOST: usize = 200_000;
/// Bits of an address within a page.
const PAGE_BITS: u32 = 12;

/// How memory was accessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Access {
    /// A load.
    Load,
    /// A store or an atomic.
    Store,
    /// An instruction fetch.
    Fetch,
}

impl Access {
    /// The printed name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Load => "load",
            Self::Store => "store",
            Self::Fetch => "fetch",
        }
    }
}

/// What made the hart remember a PTE as invalid. Times are virtual nanoseconds, here and below.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Read {
    /// When.
    pub time: i64,
    /// The access for which the hart read the page table.
    pub pc: u64,
    /// The address of that access: often a neighbouring page.
    pub addr: u64,
    /// The level of the table above the lowest.
    pub level: u32,
    /// Fences that the hart had executed by then.
    pub fences: u64,
}

/// What later made the PTE valid.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Store {
    /// When.
    pub time: i64,
    /// Which hart; `None` if unknown.
    pub by: Option<u32>,
    /// The store.
    pub pc: u64,
    /// Its return address, which is the caller's if the function calls no other.
    pub ra: u64,
    /// Physical address of the PTE.
    pub pte: u64,
    /// Return addresses from its stack, the nearest first; empty without frame pointers, and in the trace of an
    /// older QEMU.
    pub calls: Vec<u64>,
}

/// The last fence of the hart before the hit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fence {
    /// When.
    pub time: i64,
    /// The fence.
    pub pc: u64,
    /// Its address operand.
    pub addr: u64,
    /// Its ASID operand.
    pub asid: u64,
    /// The sum of 1 for an address, 2 for an ASID, and 4 for SINVAL.VMA.
    pub flags: u32,
}

/// The first access to the page after the hit that was translated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct End {
    /// When.
    pub time: i64,
    /// That access.
    pub pc: u64,
    /// Fences of the hart from the hit up to then.
    pub fences: u64,
    /// What made the difference: `fence`, `expired`, `evicted`, `chosen` or `late`; `None` in the trace of an
    /// older QEMU.
    pub reason: Option<String>,
}

/// What a translation that a hart held was not, or no longer, when it was used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum What {
    /// The page tables map another page there.
    Remapped,
    /// They map nothing there.
    Unmapped,
    /// They do not permit the access.
    Restricted,
    /// They permit it, but what was held did not: the access faulted.
    Upgraded,
    /// They no longer have the page table that was held: a walk began there.
    Detached,
}

impl What {
    /// The printed name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Remapped => "remapped",
            Self::Unmapped => "unmapped",
            Self::Restricted => "restricted",
            Self::Upgraded => "upgraded",
            Self::Detached => "detached",
        }
    }
}

/// What ended a translation that was stale.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Gone {
    /// When.
    pub time: i64,
    /// The fence, if that was it, or the access for which the hart walked.
    pub pc: u64,
    /// How often the translation was used while it was stale, or how many walks began at the page table.
    pub uses: u64,
    /// `fence`, `evicted` or `walked`.
    pub reason: String,
}

/// Bytes of memory in a [`Data`].
const DATA: u64 = 16;

/// What was accessed by the use of a stale translation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Data {
    /// The physical address, by the PTE that the hart held.
    pub was: u64,
    /// The physical address that the page tables give; `None` if they give none.
    pub now: Option<u64>,
    /// The size of the access in bytes.
    pub size: u64,
    /// What was in memory before the access, from the multiple of 16 at or before `was`; `None` if that is not RAM.
    pub bytes: Option<[u8; DATA as usize]>,
    /// What a store wrote, if that is known.
    pub stored: Option<u64>,
}

impl Data {
    /// What was in memory where the access was; `None` if that is not within [`Data::bytes`], or is not a number of up
    /// to eight bytes.
    pub fn found(&self) -> Option<u64> {
        if !(1..=8).contains(&self.size) {
            return None;
        }
        self.number(self.was % DATA, self.size)
    }

    /// The aligned eight bytes in memory in which the access began.
    pub fn word(&self) -> Option<u64> {
        self.number(self.was % DATA / 8 * 8, 8)
    }

    /// A little-endian number of up to eight bytes.
    fn number(&self, start: u64, size: u64) -> Option<u64> {
        let (start, size) = (usize::try_from(start).ok()?, usize::try_from(size).ok()?);
        let bytes = self.bytes.as_ref()?.get(start..start + size)?;
        Some(bytes.iter().rev().fold(0, |number, byte| (number << 8) | u64::from(*byte)))
    }
}

/// Who has mapped the pages of a stale translation, as far as that is known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Owners {
    /// What had made the PTE valid that the hart held.
    pub old: Option<Store>,
    /// What has mapped the page that is there now.
    pub new: Option<Store>,
    /// What has mapped the page that the hart used, anywhere, since the hart had read the PTE.
    pub page: Option<Store>,
}

impl Owners {
    /// The one with QEMU's name for it.
    fn named(&mut self, name: &str) -> Option<&mut Option<Store>> {
        match name {
            "old" => Some(&mut self.old),
            "new" => Some(&mut self.new),
            "page" => Some(&mut self.page),
            _ => None,
        }
    }
}

/// A translation that a hart went on using after the page tables had changed. The uses of one translation are
/// one: the first is described, the others are counted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Use {
    /// The hart.
    pub hart: u32,
    /// The number of its first stale use on this hart, from 1.
    pub number: u64,
    /// When it was first used.
    pub time: i64,
    /// 0 for U-mode, 1 for S-mode.
    pub mode: u32,
    /// How the memory was accessed.
    pub access: Access,
    /// The address.
    pub addr: u64,
    /// The access.
    pub pc: u64,
    /// The return address at that time; see [`Store::ra`].
    pub ra: u64,
    /// See [`Store::calls`].
    pub calls: Vec<u64>,
    /// The address space.
    pub asid: u64,
    /// What it was not.
    pub what: What,
    /// Its level above the lowest, whether it is global, the PTE that was held, and the leaf PTE in memory or 0.
    pub held: Option<(u32, bool, u64, u64)>,
    /// When, and for which access, the hart read the PTE.
    pub read: Option<(i64, u64)>,
    /// What changed the PTE.
    pub store: Option<Store>,
    /// Who mapped the pages; nobody in the trace of an older QEMU.
    pub owners: Owners,
    /// What was accessed; `None` if the access faulted, and in the trace of an older QEMU.
    pub data: Option<Data>,
    /// The last fence before the use.
    pub fence: Option<Fence>,
    /// Fences of the hart from the reading of the PTE to the use.
    pub fences: Option<u64>,
    /// What ended it, if anything.
    pub end: Option<Gone>,
    /// How many uses were traced; of a [`What::Detached`] one, how many walks QEMU has told of: half of them or more.
    pub repeats: u64,
    /// The last of them.
    pub last: i64,
}

/// An access that faulted although the PTE was already valid.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Hit {
    /// The hart.
    pub hart: u32,
    /// Its number on this hart, from 1; the last number if it repeats.
    pub number: u64,
    /// When it faulted for the first time.
    pub time: i64,
    /// 0 for U-mode, 1 for S-mode.
    pub mode: u32,
    /// How the memory was accessed.
    pub access: Access,
    /// The address.
    pub addr: u64,
    /// The access.
    pub pc: u64,
    /// The return address at that time; see [`Store::ra`].
    pub ra: u64,
    /// See [`Store::calls`].
    pub calls: Vec<u64>,
    /// The address space.
    pub asid: u64,
    /// Fences that the hart had executed by then.
    pub fences: u64,
    /// How many times the same access of this hart faulted in a row.
    pub repeats: u64,
    /// When it faulted for the last time.
    pub last: i64,
    /// What made the hart remember the PTE as invalid.
    pub read: Option<Read>,
    /// What made the PTE valid.
    pub store: Option<Store>,
    /// The last fence before the hit.
    pub fence: Option<Fence>,
    /// What ended it, if anything.
    pub end: Option<End>,
}

impl Hit {
    /// Number of the page.
    pub fn page(&self) -> u64 {
        self.addr >> PAGE_BITS
    }

    /// The same access as `other`, to the same page.
    fn repeats(&self, other: &Self) -> bool {
        self.pc == other.pc && self.page() == other.page() && self.access == other.access && self.end.is_none()
    }
}

/// A trace while it is read.
#[derive(Debug, Default)]
pub struct Trace {
    hits: Vec<Hit>,
    /// By hart: the last hit.
    last: HashMap<u32, usize>,
    /// By hart and number: hits without an end so far.
    open: HashMap<(u32, u64), usize>,
    /// All hits, including repetitions and those that are not kept.
    total: u64,
    left_out: u64,
    uses: Vec<Use>,
    /// By hart and page: the translation that is stale there.
    held: HashMap<(u32, u64), usize>,
    /// By hart and number: the uses whose story is being told.
    told: HashMap<(u32, u64), usize>,
    total_uses: u64,
    /// The first line that could not be read.
    problem: Option<String>,
}

/// A trace that has been read.
#[derive(Clone, Debug, Default)]
pub struct Story {
    /// The hits in order of time.
    pub hits: Vec<Hit>,
    /// Number of hits, including repetitions and those that are not kept.
    pub total: u64,
    /// How many of these are not kept.
    pub left_out: u64,
    /// Translations that were used after the page tables had changed, in order of time; at most [`MOST`].
    pub uses: Vec<Use>,
    /// Number of their uses, including repetitions and those that are not kept.
    pub total_uses: u64,
}

/// The fields of a line, each taken by its name.
struct Fields<'a>(HashMap<&'a str, &'a str>);

impl<'a> Fields<'a> {
    fn of(text: &'a str) -> Self {
        Self(text.split_whitespace().filter_map(|word| word.split_once('=')).collect())
    }

    fn text(&self, name: &str) -> Option<&'a str> {
        self.0.get(name).copied()
    }

    fn hex(&self, name: &str) -> Option<u64> {
        u64::from_str_radix(self.text(name)?.strip_prefix("0x")?, 16).ok()
    }

    fn number<T: std::str::FromStr>(&self, name: &str) -> Option<T> {
        self.text(name)?.parse().ok()
    }
}

impl Trace {
    /// Reads a line; ignores anything but these events.
    pub fn line(&mut self, line: &str) {
        let event = without_time(line);
        let part = |prefix: &str| event.strip_prefix(prefix)?.strip_prefix("stale_")?.split_once(' ');
        let read = match (part(PREFIX), part(VALID_PREFIX)) {
            (Some((name, rest)), _) => self.event(name, &Fields::of(rest)),
            (None, Some((name, rest))) => self.valid_event(name, &Fields::of(rest)),
            // Behind something that is not understood, it would get lost.
            (None, None) if [PREFIX, VALID_PREFIX].iter().any(|p| event.contains(&format!("{p}stale_"))) => None,
            (None, None) => return,
        };
        if read.is_none() && self.problem.is_none() {
            self.problem = Some(line.chars().take(200).collect());
        }
    }

    /// Reads an event; `None` if a field is missing or invalid.
    fn event(&mut self, name: &str, fields: &Fields<'_>) -> Option<()> {
        let hart: u32 = fields.number("hart")?;
        let number: u64 = fields.number("hit")?;
        let time: i64 = fields.number("time")?;
        let pc = fields.hex("pc")?;
        if name == "hit" {
            return self.hit(hart, number, time, pc, fields);
        }
        let at = self.open.get(&(hart, number)).copied();
        // The hit is not kept, or it repeats one that already has all this.
        let Some(hit) = at.and_then(|at| self.hits.get_mut(at)) else { return Some(()) };
        match name {
            "frames" => {
                let to = match fields.text("of")? {
                    "hit" => Some(&mut hit.calls),
                    "store" => hit.store.as_mut().map(|store| &mut store.calls),
                    _ => return None,
                };
                took(fields, to)?;
            }
            // Whose translation it is does not matter here: `addr` of the hit is what was accessed.
            "stage" => {}
            "read" => {
                let (level, fences) = (fields.number("level")?, fields.number("fences")?);
                hit.read.get_or_insert(Read { time, pc, addr: fields.hex("addr")?, level, fences });
            }
            "store" => {
                hit.store.get_or_insert(store(fields, time, pc)?);
            }
            "fence" => {
                let (asid, flags) = (fields.number("asid")?, fields.number("flags")?);
                let fence = Fence { time, pc, addr: fields.hex("addr")?, asid, flags };
                if time > 0 {
                    hit.fence.get_or_insert(fence);
                }
            }
            "end" => {
                let reason = fields.text("reason").map(str::to_owned);
                hit.end = Some(End { time, pc, fences: fields.number("fences")?, reason });
                self.open.remove(&(hart, number));
            }
            _ => return None,
        }
        Some(())
    }

    /// Reads an event about a translation that has outlived its PTE.
    fn valid_event(&mut self, name: &str, fields: &Fields<'_>) -> Option<()> {
        let hart: u32 = fields.number("hart")?;
        let number: u64 = fields.number("use")?;
        let time: i64 = fields.number("time")?;
        let pc = fields.hex("pc")?;
        if name == "use" {
            return self.stale_use(hart, number, time, pc, fields);
        }
        let at = self.told.get(&(hart, number)).copied();
        let Some(of) = at.and_then(|at| self.uses.get_mut(at)) else { return Some(()) };
        match name {
            // A later use may have been by a program, or the first one.
            "frames" | "owner" | "data" if of.repeats > 1 => {}
            "frames" => {
                let to = match fields.text("of")? {
                    "use" => Some(&mut of.calls),
                    "store" => of.store.as_mut().map(|store| &mut store.calls),
                    name => of.owners.named(name)?.as_mut().map(|store| &mut store.calls),
                };
                took(fields, to)?;
            }
            "owner" => {
                of.owners.named(fields.text("of")?)?.get_or_insert(store(fields, time, pc)?);
            }
            "data" => of.data = Some(data(fields)?),
            "stage" => {}
            "read" => {
                let global: u32 = fields.number("global")?;
                let held = (fields.number("level")?, global != 0, fields.hex("held")?, fields.hex("memory")?);
                of.held.get_or_insert(held);
                of.read.get_or_insert((time, pc));
                of.fences.get_or_insert(fields.number("fences")?);
            }
            "store" => {
                of.store.get_or_insert(store(fields, time, pc)?);
            }
            "fence" => {
                let (asid, flags, count) =
                    (fields.number("asid")?, fields.number("flags")?, fields.number::<u64>("fences")?);
                let addr = fields.hex("addr")?;
                if of.fence.is_none() && of.repeats == 1 {
                    of.fences = of.fences.map(|before| count.saturating_sub(before));
                    of.fence = (time > 0).then_some(Fence { time, pc, addr, asid, flags });
                }
                // The story of one that repeats is not told again.
                if of.number != number {
                    self.told.remove(&(hart, number));
                }
            }
            "walks" => (of.repeats, of.last) = (fields.number("walks")?, time),
            "end" => {
                let (uses, reason) = (fields.number("uses")?, fields.text("reason")?.to_owned());
                of.end = Some(Gone { time, pc, uses, reason });
                let page = (hart, of.addr >> PAGE_BITS);
                if of.what == What::Detached {
                    of.repeats = uses;
                } else {
                    self.held.remove(&page);
                }
                self.told.remove(&(hart, number));
            }
            _ => return None,
        }
        Some(())
    }

    fn stale_use(&mut self, hart: u32, number: u64, time: i64, pc: u64, fields: &Fields<'_>) -> Option<()> {
        let what = match fields.text("what")? {
            "unmapped" => What::Unmapped,
            "remapped" => What::Remapped,
            "restricted" => What::Restricted,
            "upgraded" => What::Upgraded,
            "detached" => What::Detached,
            _ => return None,
        };
        let addr = fields.hex("addr")?;
        let (mode, ra, asid, access) =
            (fields.number("mode")?, fields.hex("ra")?, fields.number("asid")?, access(fields)?);
        self.total_uses += 1;
        let page = (hart, addr >> PAGE_BITS);
        // QEMU tells of the walks of a page table once, and of the next page table as another one.
        if let Some(&at) = self.held.get(&page)
            && what != What::Detached
            && self.uses[at].what == what
            && self.uses[at].asid == asid
        {
            self.uses[at].repeats += 1;
            self.uses[at].last = time;
            self.told.insert((hart, number), at);
            return Some(());
        }
        if self.uses.len() == MOST {
            return Some(());
        }
        if what != What::Detached {
            self.held.insert(page, self.uses.len());
        }
        self.told.insert((hart, number), self.uses.len());
        self.uses.push(Use {
            hart,
            number,
            time,
            mode,
            access,
            addr,
            pc,
            ra,
            calls: Vec::new(),
            asid,
            what,
            held: None,
            read: None,
            store: None,
            owners: Owners::default(),
            data: None,
            fence: None,
            fences: None,
            end: None,
            repeats: 1,
            last: time,
        });
        Some(())
    }

    fn hit(&mut self, hart: u32, number: u64, time: i64, pc: u64, fields: &Fields<'_>) -> Option<()> {
        let access = access(fields)?;
        let hit = Hit {
            hart,
            number,
            time,
            mode: fields.number("mode")?,
            access,
            addr: fields.hex("addr")?,
            pc,
            ra: fields.hex("ra")?,
            calls: Vec::new(),
            asid: fields.number("asid")?,
            fences: fields.number("fences")?,
            repeats: 1,
            last: time,
            read: None,
            store: None,
            fence: None,
            end: None,
        };
        self.total += 1;
        if let Some(before) = self.last.get(&hart).and_then(|&at| self.hits.get_mut(at))
            && before.repeats(&hit)
        {
            let at = self.open.remove(&(hart, before.number));
            (before.number, before.last) = (number, time);
            before.repeats += 1;
            self.open.extend(at.map(|at| ((hart, number), at)));
            return Some(());
        }
        if self.hits.len() == MOST {
            self.left_out += 1;
            self.last.remove(&hart);
            return Some(());
        }
        self.last.insert(hart, self.hits.len());
        self.open.insert((hart, number), self.hits.len());
        self.hits.push(hit);
        Some(())
    }

    /// What was read. If the machine was stopped in the middle of a line, it is the last one.
    ///
    /// # Errors
    /// An invalid line that is not the last: the trace is not from this QEMU.
    pub fn finish(self) -> Result<Story, String> {
        if let Some(line) = self.problem {
            return Err(format!("QEMU's trace has an invalid line: `{line}`"));
        }
        let (mut hits, total, left_out) = (self.hits, self.total, self.left_out);
        hits.sort_by_key(|hit| (hit.time, hit.hart));
        let (mut uses, total_uses) = (self.uses, self.total_uses);
        uses.sort_by_key(|of| (of.time, of.hart));
        Ok(Story { hits, total, left_out, uses, total_uses })
    }
}

/// Reads a store to a PTE.
fn store(fields: &Fields<'_>, time: i64, pc: u64) -> Option<Store> {
    let by: i64 = fields.number("by")?;
    let (ra, pte) = (fields.hex("ra")?, fields.hex("pte")?);
    Some(Store { time, by: u32::try_from(by).ok(), pc, ra, pte, calls: Vec::new() })
}

/// Reads what was accessed.
fn data(fields: &Fields<'_>) -> Option<Data> {
    let bytes = match fields.text("data")? {
        "none" => None,
        digits if digits.len() as u64 == 2 * DATA => Some(u128::from_str_radix(digits, 16).ok()?.to_be_bytes()),
        _ => return None,
    };
    let stored = match fields.text("stored")? {
        "none" => None,
        _ => Some(fields.hex("stored")?),
    };
    let now = Some(fields.hex("now")?).filter(|now| *now != 0);
    Some(Data { was: fields.hex("was")?, now, size: fields.number("size")?, bytes, stored })
}

/// Keeps the frames of an access or a store that is known; only the first ones, as those of a repetition are of no
/// interest.
fn took(fields: &Fields<'_>, to: Option<&mut Vec<u64>>) -> Option<()> {
    let address = |word: &str| u64::from_str_radix(word.strip_prefix("0x")?, 16).ok();
    let frames = fields.text("frames")?.split(',').map(address).collect::<Option<Vec<u64>>>()?;
    if let Some(to) = to.filter(|to| to.is_empty()) {
        *to = frames;
    }
    Some(())
}

fn access(fields: &Fields<'_>) -> Option<Access> {
    match fields.text("access")? {
        "load" => Some(Access::Load),
        "store" => Some(Access::Store),
        "fetch" => Some(Access::Fetch),
        _ => None,
    }
}

/// A line without what QEMU's log puts in front of it with `-msg timestamp=on`: `PID@SECONDS.MICROSECONDS:`.
fn without_time(line: &str) -> &str {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let event = line.split_once(':').and_then(|(time, event)| {
        let (pid, time) = time.split_once('@')?;
        let (seconds, micros) = time.split_once('.')?;
        (digits(pid) && digits(seconds) && digits(micros)).then_some(event)
    });
    event.unwrap_or(line)
}

/// Whether a line begins with an event of the harts' caches, be it one that is read or another one.
pub fn is_event(line: &str) -> bool {
    let event = without_time(line);
    event.starts_with(PREFIX) || event.starts_with(VALID_PREFIX)
}

/// Reads a whole trace.
///
/// # Errors
/// As [`Trace::finish`].
pub fn read(text: &str) -> Result<Story, String> {
    let mut trace = Trace::default();
    let (whole, last) = text.rsplit_once('\n').unwrap_or(("", text));
    whole.lines().for_each(|line| trace.line(line));
    // A line without a newline may be cut off, and then it says nothing.
    let problem = trace.problem.take();
    trace.line(last);
    trace.problem = problem;
    trace.finish()
}
