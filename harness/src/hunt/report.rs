// SPDX-License-Identifier: GPL-2.0-only
//! What a hunt found: for a program, and as text.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::{Serialize, Serializer};

use super::layout::{Layout, Mode};
use super::poison::{Met, Poison};
use super::symbols::{Frame, Symbols};
use super::trace::{Access, Data, Fence, Hit, Store, Story, Use, What};
use super::verdict::{self, Death, Fate, Outcome};
use crate::ground::table::{self, Align, Cell, Fit};

/// Version of the schema: bump it when a field changes its meaning or is removed.
const SCHEMA: u32 = 2;
/// Most hits in the report; `counts` has the number that is left out.
const MOST: usize = 5000;
/// Most functions of a call trace in the text.
const CALLS: usize = 8;
/// Functions that map memory for others. Who called them says more about a mapping than they do.
const ALLOCATORS: &[&str] = &[
    "__apply_to_page_range",
    "__kvmalloc_node_noprof",
    "__vmalloc_area_node",
    "__vmalloc_node_noprof",
    "__vmalloc_node_range_noprof",
    "__vmalloc_noprof",
    "__vmap_pages_range",
    "__vmap_pages_range_noflush",
    "apply_to_page_range",
    "execmem_alloc",
    "execmem_vmalloc",
    "generic_ioremap_prot",
    "ioremap_page_range",
    "ioremap_prot",
    "vm_map_ram",
    "vmalloc_noprof",
    "vmap",
    "vmap_page_range",
    "vmap_pages_range",
    "vmap_pages_range_noflush",
    "vmap_range_noflush",
    "vmap_small_pages_range_noflush",
    "vzalloc_noprof",
];
/// Functions that change mappings for others: the same goes for them.
const CHANGERS: &[&str] = &[
    "__vunmap_range_noflush",
    "__zap_vma_range",
    "change_protection",
    "change_protection_range",
    "change_pte_range",
    "free_unmap_vmap_area",
    "generic_iounmap",
    "iounmap",
    "kvfree",
    "pmdp_huge_clear_flush",
    "ptep_clear_flush",
    "remove_vm_area",
    "rmap_walk",
    "rmap_walk_anon",
    "rmap_walk_file",
    "try_to_migrate_one",
    "try_to_unmap",
    "try_to_unmap_one",
    "unmap_page_range",
    "unmap_single_vma",
    "unmap_vmas",
    "vfree",
    "vunmap",
    "vunmap_range",
    "vunmap_range_noflush",
    "zap_page_range_single",
    "zap_pte_range",
    "zap_vma",
    "zap_vma_range",
];
/// Most groups in the text.
const ROWS: usize = 24;
/// The address translation if nothing tells which one it is.
const UNKNOWN: &str = "unknown";

/// What was hunted, and on what.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Subject {
    /// The kernel's name.
    pub kernel: String,
    /// The kernel's first line on the console.
    pub version: String,
    /// The machine's name.
    pub machine: String,
    /// QEMU's `-cpu`.
    pub cpu: String,
    /// Number of harts.
    pub harts: u32,
    /// Kernel parameters beyond those of every guest.
    pub append: String,
    /// QEMU's command line.
    pub command: String,
    /// Seconds from the start of QEMU to its end.
    pub seconds: f64,
    /// How the run ended.
    pub end: String,
    /// The workload's parts and their results.
    pub workload: Vec<(String, String)>,
    /// When it began, as RFC 3339 has it; if it was a run from elsewhere, when it was judged.
    pub started: String,
    /// The tool's version and commit.
    pub tool: String,
    /// What QEMU says about its version.
    pub qemu: String,
    /// The tool's command line that makes the report once more.
    pub again: String,
    /// What the kernel fills freed memory with, if it was asked to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub poison: Option<Poison>,
}

/// A place in the code.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Place {
    /// When, in virtual nanoseconds.
    pub time: i64,
    /// Which hart; `None` if unknown.
    pub hart: Option<u32>,
    /// The instruction.
    #[serde(serialize_with = "hex")]
    pub pc: u64,
    /// The same as `FUNCTION+OFFSET`.
    pub at: String,
    /// The function, or the caller of a helper such as memset().
    pub by: String,
    /// File and line, if the vmlinux has debug information.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<String>,
    /// The functions that the compiler has put into each other here, the innermost first, each with file and line;
    /// empty if there is only one, or no debug information.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub inlined: Vec<String>,
    /// The functions on its stack, the nearest caller first; empty if the kernel keeps no frame pointers. One that the
    /// compiler has put into the next one is marked with `(inline)`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub calls: Vec<String>,
}

/// As text: JSON's numbers are exact up to 2^53 only.
fn hex<S: Serializer>(address: &u64, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(&format_args!("{address:#x}"))
}

/// A hit, with names.
#[derive(Clone, Debug, Serialize)]
pub struct HitReport {
    /// Its index in order of time, from 0.
    pub index: usize,
    /// The access.
    #[serde(flatten)]
    pub touch: Place,
    /// The kind of access.
    pub access: Access,
    /// The address.
    pub addr: String,
    /// The region of the address.
    pub region: String,
    /// More about the address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// The address space.
    pub asid: u64,
    /// How it ended.
    pub fate: Fate,
    /// How many times it faulted in a row.
    pub repeats: u64,
    /// When it faulted for the last time.
    pub last: i64,
    /// The access that made the hart remember the PTE as invalid.
    pub read: Option<Place>,
    /// The address of that access.
    pub read_addr: Option<String>,
    /// Fences of the hart from then to the hit, none of them for this page.
    pub fences_between: Option<u64>,
    /// The store that made the PTE valid.
    pub store: Option<Place>,
    /// For whom, if that was in an allocator: the nearest caller that is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mapped_for: Option<String>,
    /// The last fence of the hart before the hit.
    pub fence: Option<Place>,
    /// What that fence was for.
    pub fence_for: Option<String>,
    /// The first access that was translated.
    pub end: Option<Place>,
    /// Fences of the hart from the hit until then.
    pub fences_after: Option<u64>,
    /// What ended it: `fence`, or `expired`, `evicted`, `chosen` or `late`, which the kernel has no part in.
    pub reason: Option<String>,
}

/// Hits with the same mapping function, touching function and region.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Group {
    /// The function that made the PTE valid.
    pub mapped_by: String,
    /// For whom, if that is an allocator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mapped_for: Option<String>,
    /// The region of the address.
    pub region: String,
    /// The function that touched it.
    pub touched_by: String,
    /// How they ended.
    pub fate: Fate,
    /// How many hits.
    pub hits: u64,
    /// How many of these were on a hart other than the one that mapped.
    pub remote: u64,
    /// How many faults, with repetitions.
    pub faults: u64,
    /// The kind of access of the first hit.
    pub access: Access,
    /// The first hit, as an index.
    pub first: usize,
}

/// How many there were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Faults, with repetitions.
    pub faults: u64,
    /// Hits: a fault and its repetitions are one.
    pub hits: usize,
    /// Hits that the kernel survived.
    pub absorbed: usize,
    /// Hits that killed the kernel.
    pub killed: usize,
    /// Hits on pages that were not used again.
    pub open: usize,
    /// Hits whose PTE was made valid by an unknown hart.
    pub by_unknown: usize,
    /// Hits that are not in the report's `hits`.
    pub left_out: usize,
    /// Hits that ended only because the hart looked again after some time, as with Svvptc: not by a fence.
    pub expired: usize,
    /// Translations that a hart went on using after the page tables had changed.
    pub uses: usize,
}

/// A translation that a hart went on using after the page tables had changed, with names.
#[derive(Clone, Debug, Serialize)]
pub struct UseReport {
    /// Its index in order of time, from 0.
    pub index: usize,
    /// The first access through it.
    #[serde(flatten)]
    pub touch: Place,
    /// Whether that was a program's own access, not the kernel's.
    pub user: bool,
    /// What the translation was not.
    pub what: What,
    /// The kind of access.
    pub access: Access,
    /// The address.
    pub addr: String,
    /// The region of the address.
    pub region: String,
    /// The address space.
    pub asid: u64,
    /// The level of the PTE above the lowest.
    pub level: Option<u32>,
    /// Whether it is for all address spaces.
    pub global: Option<bool>,
    /// The PTE that the hart held.
    pub held: Option<String>,
    /// The leaf PTE in memory at that time, or 0.
    pub memory: Option<String>,
    /// The physical address that was accessed, by the PTE that was held.
    pub was: Option<String>,
    /// The one that the page tables gave.
    pub now: Option<String>,
    /// The size of the access in bytes.
    pub size: Option<u64>,
    /// What was there before, as a number of that size.
    pub found: Option<String>,
    /// The 16 bytes around it, from a multiple of 16, in the order of their addresses.
    pub bytes: Option<String>,
    /// What a store wrote there.
    pub stored: Option<String>,
    /// The poison of freed memory that was there, if the kernel has any.
    pub poison: Option<Met>,
    /// The store that had mapped the page.
    pub owner: Option<Place>,
    /// The one that has mapped the page that is there now.
    pub new_owner: Option<Place>,
    /// The one that has mapped the page that was used, anywhere, since the hart read the PTE.
    pub page_owner: Option<Place>,
    /// Whether the PTE that was held is in another page table than the one that is there now: that of another program
    /// which has, or had, the same ASID, if it is a user's. None if the owner of either is not known.
    pub other_table: Option<bool>,
    /// The access for which the hart read the PTE.
    pub read: Option<Place>,
    /// Fences of the hart from then to the use, none of them for this page.
    pub fences_between: Option<u64>,
    /// What changed the PTE.
    pub store: Option<Place>,
    /// For whom, if that function changes mappings for others: the nearest caller that does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub changed_for: Option<String>,
    /// The last fence of the hart before the use.
    pub fence: Option<Place>,
    /// What that fence was for.
    pub fence_for: Option<String>,
    /// What ended it: the fence, if `reason` is `fence`.
    pub end: Option<Place>,
    /// `fence`, `evicted` or `walked`.
    pub reason: Option<String>,
    /// How many of its uses were traced, or how many walks began at the page table.
    pub repeats: u64,
}

/// Stale translations with the same kind, and the same functions that changed the PTE and used it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct UseGroup {
    /// What they were not.
    pub what: What,
    /// The function that changed the PTE.
    pub changed_by: String,
    /// For whom, if it changes mappings for others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub changed_for: Option<String>,
    /// The region of the address.
    pub region: String,
    /// The function that used it, or `(user)`.
    pub used_by: String,
    /// What ended them, or `nothing`.
    pub ended_by: String,
    /// How many.
    pub uses: u64,
    /// How many translations of these led to the poison of freed memory.
    pub poisoned: u64,
    /// The longest time from the change to the last use, in virtual nanoseconds.
    pub longest: i64,
    /// The first one, as an index.
    pub first: usize,
}

/// A whole report.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Version of this schema.
    pub schema: u32,
    /// What was hunted.
    pub subject: Subject,
    /// The result.
    pub result: Outcome,
    /// What else has to be said about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// The kernel's own report, if it died.
    pub death: Option<Death>,
    /// `sv39`, `sv48`, `sv57` or `unknown`.
    pub translation: &'static str,
    /// Where the names of regions come from.
    pub layout: &'static str,
    /// How many hits there were.
    pub counts: Counts,
    /// The hits by who mapped and who touched; fatal ones first, then the most frequent.
    pub groups: Vec<Group>,
    /// The hits in order of time: those that did not end, and a sample of the others.
    pub hits: Vec<HitReport>,
    /// Translations that were used after the page tables had changed, by who changed and who used them.
    pub use_groups: Vec<UseGroup>,
    /// These in order of time, and the one that `result` names.
    pub uses: Vec<UseReport>,
}

/// Puts a report together.
pub fn report(
    subject: Subject,
    story: &Story,
    (result, fates): (Outcome, Vec<Fate>),
    death: Option<Death>,
    symbols: &Symbols,
    layout: &Layout,
) -> Report {
    let count = |fate: Fate| fates.iter().filter(|f| **f == fate).count();
    let chosen = choose(&fates);
    let counts = Counts {
        faults: story.total,
        hits: story.hits.len(),
        absorbed: count(Fate::Absorbed),
        killed: count(Fate::Killed),
        open: count(Fate::Open),
        by_unknown: story.hits.iter().filter(|h| h.store.as_ref().is_none_or(|s| s.by.is_none())).count(),
        left_out: story.hits.len() - chosen.len(),
        expired: story.hits.iter().filter(|h| reason(h) == Some("expired")).count(),
        uses: story.uses.len(),
    };
    let culprit = match result {
        Outcome::Exposed { of, .. } => Some(of),
        Outcome::Lost { .. } => verdict::most_walked(&story.uses),
        _ => None,
    };
    let uses = story.uses.iter().enumerate().filter(|(at, _)| *at < MOST || Some(*at) == culprit);
    let poison = subject.poison;
    let uses = uses.map(|(at, of)| tell_use(at, of, poison, symbols, layout)).collect();
    let hits = chosen.into_iter().map(|at| tell(at, &story.hits[at], fates[at], symbols, layout)).collect();
    Report {
        schema: SCHEMA,
        subject,
        result,
        note: None,
        death,
        translation: layout.mode().map_or(UNKNOWN, Mode::name),
        layout: layout.source(),
        counts,
        groups: groups(&story.hits, &fates, symbols, layout),
        hits,
        use_groups: use_groups(&story.uses, poison, symbols, layout),
        uses,
    }
}

fn reason(hit: &Hit) -> Option<&str> {
    hit.end.as_ref()?.reason.as_deref()
}

/// What a fence is for.
fn fence_for(fence: &Fence) -> String {
    match fence.flags & 3 {
        0 => "everything".to_owned(),
        1 => format!("{:#x}", fence.addr),
        2 => format!("ASID {}", fence.asid),
        _ => format!("{:#x}, ASID {}", fence.addr, fence.asid),
    }
}

/// Which hits to list one by one: first those without an end, then a sample of the others, spread
/// evenly.
fn choose(fates: &[Fate]) -> Vec<usize> {
    let (mut kept, rest): (Vec<usize>, Vec<usize>) = (0..fates.len()).partition(|&at| fates[at] != Fate::Absorbed);
    // The last ones tell why a run ended.
    kept.sort_by_key(|&at| (fates[at], std::cmp::Reverse(at)));
    kept.truncate(MOST);
    let room = (MOST - kept.len()).min(rest.len());
    kept.extend((0..room).map(|n| rest[n * rest.len() / room]));
    kept.sort_unstable();
    kept
}

fn function(symbols: &Symbols, layout: &Layout, pc: u64, ra: u64) -> String {
    // Modules and BPF programs are not in the vmlinux: give their region instead.
    symbols.actor(pc, ra).map_or_else(|| format!("({})", layout.region(pc)), str::to_owned)
}

fn caller(symbols: &Symbols, layout: &Layout, ra: u64) -> String {
    symbols.caller(ra).map_or_else(|| format!("({})", layout.region(ra)), str::to_owned)
}

/// The functions on a stack; see [`Place::calls`].
fn calls(symbols: &Symbols, layout: &Layout, pc: u64, ra: u64, stack: &[u64]) -> Vec<String> {
    let names = |ra: u64| {
        // The call is before the address that it returns to. Its own function is named as everywhere else.
        let mut inlined = symbols.inlined(ra.wrapping_sub(1));
        inlined.pop();
        let inlined = inlined.into_iter().map(|frame| format!("{} (inline)", frame.name));
        inlined.chain([caller(symbols, layout, ra)]).collect::<Vec<_>>()
    };
    symbols.callers(pc, ra, stack).into_iter().flat_map(names).collect()
}

/// Whether a function is one of these. The compiler may have added to its name.
fn is_one_of(functions: &[&str], name: &str) -> bool {
    functions.contains(&name.split('.').next().unwrap_or(name))
}

/// For whom a function has stored a PTE that does so for others, as `functions` do: the nearest caller that does not.
fn for_whom(functions: &[&str], store: &Store, symbols: &Symbols, layout: &Layout) -> Option<String> {
    if store.by.is_none() || !is_one_of(functions, &function(symbols, layout, store.pc, store.ra)) {
        return None;
    }
    let callers = symbols.callers(store.pc, store.ra, &store.calls);
    callers.into_iter().map(|ra| caller(symbols, layout, ra)).find(|name| !is_one_of(functions, name))
}

/// For whom a page was mapped; see [`HitReport::mapped_for`].
fn mapped_for(hit: &Hit, symbols: &Symbols, layout: &Layout) -> Option<String> {
    for_whom(ALLOCATORS, hit.store.as_ref()?, symbols, layout)
}

/// For whom a PTE was changed; see [`UseReport::changed_for`].
fn changed_for(of: &Use, symbols: &Symbols, layout: &Layout) -> Option<String> {
    for_whom(CHANGERS, of.store.as_ref()?, symbols, layout)
}

/// A place in the code, with names.
fn place(
    (symbols, layout): (&Symbols, &Layout),
    (time, hart): (i64, Option<u32>),
    (pc, ra): (u64, u64),
    stack: &[u64],
) -> Place {
    Place {
        time,
        hart,
        pc,
        at: symbols.place(pc),
        by: function(symbols, layout, pc, ra),
        line: symbols.line(pc),
        inlined: symbols.inlined(pc).into_iter().map(inlined).collect(),
        calls: calls(symbols, layout, pc, ra, stack),
    }
}

/// A function that the compiler has put into another one.
fn inlined(frame: Frame) -> String {
    frame.line.map_or_else(|| frame.name.clone(), |line| format!("{} ({line})", frame.name))
}

fn tell_use(index: usize, of: &Use, poison: Option<Poison>, symbols: &Symbols, layout: &Layout) -> UseReport {
    let names = (symbols, layout);
    let own = |time: i64, pc: u64| place(names, (time, Some(of.hart)), (pc, 0), &[]);
    let stored = |s: &Store| place(names, (s.time, s.by), (s.pc, s.ra), &s.calls);
    let hex = |number: u64| format!("{number:#x}");
    let data = of.data.as_ref();
    let known = |s: &Option<Store>| s.as_ref().filter(|s| s.by.is_some()).map(stored);
    UseReport {
        index,
        touch: place(names, (of.time, Some(of.hart)), (of.pc, of.ra), &of.calls),
        user: of.mode == 0,
        what: of.what,
        access: of.access,
        addr: hex(of.addr),
        region: layout.region(of.addr),
        asid: of.asid,
        level: of.held.map(|held| held.0),
        global: of.held.map(|held| held.1),
        held: of.held.map(|held| hex(held.2)),
        memory: of.held.map(|held| hex(held.3)),
        was: data.map(|data| hex(data.was)),
        now: data.and_then(|data| data.now).map(hex),
        size: data.map(|data| data.size),
        found: data.and_then(Data::found).map(hex),
        bytes: data.and_then(|data| data.bytes).map(|bytes| format!("{:032x}", u128::from_be_bytes(bytes))),
        stored: data.and_then(|data| data.stored).map(hex),
        poison: met(of, poison),
        owner: known(&of.owners.old),
        new_owner: known(&of.owners.new),
        page_owner: known(&of.owners.page),
        other_table: of.owners.old.as_ref().zip(of.owners.new.as_ref()).map(|(old, new)| old.pte != new.pte),
        read: of.read.map(|(time, pc)| own(time, pc)),
        fences_between: of.fences,
        store: known(&of.store),
        changed_for: changed_for(of, symbols, layout),
        fence: of.fence.as_ref().map(|f| own(f.time, f.pc)),
        fence_for: of.fence.as_ref().map(fence_for),
        end: of.end.as_ref().map(|e| own(e.time, e.pc)),
        reason: of.end.as_ref().map(|e| e.reason.clone()),
        repeats: of.repeats,
    }
}

/// The poison that a use has met.
fn met(of: &Use, poison: Option<Poison>) -> Option<Met> {
    poison?.met(of.data.as_ref()?)
}

fn use_groups(uses: &[Use], poison: Option<Poison>, symbols: &Symbols, layout: &Layout) -> Vec<UseGroup> {
    let mut groups: BTreeMap<(What, [String; 5]), UseGroup> = BTreeMap::new();
    for (first, of) in uses.iter().enumerate() {
        let known = of.store.as_ref().filter(|s| s.by.is_some());
        let changed_by = known.map_or_else(|| "(unknown)".to_owned(), |s| function(symbols, layout, s.pc, s.ra));
        let changed_for = changed_for(of, symbols, layout);
        let used_by = if of.mode == 0 { "(user)".to_owned() } else { function(symbols, layout, of.pc, of.ra) };
        let region = layout.region(of.addr);
        let ended_by = match &of.end {
            Some(end) if end.reason == "fence" => function(symbols, layout, end.pc, 0),
            Some(end) => format!("({})", end.reason),
            None => "(nothing)".to_owned(),
        };
        let whom = changed_for.clone().unwrap_or_default();
        let key = [changed_by.clone(), whom, region.clone(), used_by.clone(), ended_by.clone()];
        let group = groups.entry((of.what, key)).or_insert(UseGroup {
            what: of.what,
            changed_by,
            changed_for,
            region,
            used_by,
            ended_by,
            uses: 0,
            poisoned: 0,
            longest: 0,
            first,
        });
        group.uses += of.repeats;
        group.poisoned += u64::from(met(of, poison).is_some());
        group.longest = group.longest.max(known.map_or(0, |s| of.last - s.time));
    }
    let mut groups: Vec<UseGroup> = groups.into_values().collect();
    groups.sort_by_key(|g| (g.what, std::cmp::Reverse(g.uses)));
    groups
}

fn tell(index: usize, hit: &Hit, fate: Fate, symbols: &Symbols, layout: &Layout) -> HitReport {
    let names = (symbols, layout);
    let own = |time: i64, pc: u64| place(names, (time, Some(hit.hart)), (pc, 0), &[]);
    let stored = |s: &Store| place(names, (s.time, s.by), (s.pc, s.ra), &s.calls);
    let hex = |addr: u64| format!("{addr:#x}");
    HitReport {
        index,
        touch: place(names, (hit.time, Some(hit.hart)), (hit.pc, hit.ra), &hit.calls),
        access: hit.access,
        addr: hex(hit.addr),
        region: layout.region(hit.addr),
        detail: layout.detail(hit.addr),
        asid: hit.asid,
        fate,
        repeats: hit.repeats,
        last: hit.last,
        read: hit.read.as_ref().map(|r| own(r.time, r.pc)),
        read_addr: hit.read.as_ref().map(|r| hex(r.addr)),
        fences_between: hit.read.as_ref().map(|r| hit.fences.saturating_sub(r.fences)),
        store: hit.store.as_ref().filter(|s| s.by.is_some()).map(stored),
        mapped_for: mapped_for(hit, symbols, layout),
        fence: hit.fence.as_ref().map(|f| own(f.time, f.pc)),
        fence_for: hit.fence.as_ref().map(fence_for),
        end: hit.end.as_ref().map(|e| own(e.time, e.pc)),
        fences_after: hit.end.as_ref().map(|e| e.fences),
        reason: reason(hit).map(str::to_owned),
    }
}

fn groups(hits: &[Hit], fates: &[Fate], symbols: &Symbols, layout: &Layout) -> Vec<Group> {
    let mut groups: BTreeMap<(Fate, String, Option<String>, String, String), Group> = BTreeMap::new();
    for (first, (hit, &fate)) in hits.iter().zip(fates).enumerate() {
        let known = hit.store.as_ref().filter(|s| s.by.is_some());
        let mapped_by = known.map_or_else(|| "(unknown)".to_owned(), |s| function(symbols, layout, s.pc, s.ra));
        let mapped_for = mapped_for(hit, symbols, layout);
        let touched_by = function(symbols, layout, hit.pc, hit.ra);
        let region = layout.region(hit.addr);
        let key = (fate, mapped_by.clone(), mapped_for.clone(), region.clone(), touched_by.clone());
        let group = groups.entry(key).or_insert(Group {
            mapped_by,
            mapped_for,
            region,
            touched_by,
            fate,
            hits: 0,
            remote: 0,
            faults: 0,
            access: hit.access,
            first,
        });
        group.hits += 1;
        group.faults += hit.repeats;
        group.remote += u64::from(known.is_some_and(|s| s.by != Some(hit.hart)));
    }
    let mut groups: Vec<Group> = groups.into_values().collect();
    groups.sort_by_key(|g| (g.fate != Fate::Killed, std::cmp::Reverse(g.hits)));
    groups
}

impl Report {
    /// The hit that killed the kernel, if one did.
    pub fn killer(&self) -> Option<&HitReport> {
        self.hits.iter().find(|hit| hit.fate == Fate::Killed)
    }

    /// The stale translation that the result is about, or the page table that is gone and has the most walks.
    pub fn culprit(&self) -> Option<&UseReport> {
        match self.result {
            Outcome::Exposed { of, .. } => self.uses.iter().find(|found| found.index == of),
            Outcome::Lost { .. } => {
                let gone = self.uses.iter().rev().filter(|found| found.what == What::Detached);
                gone.max_by_key(|found| found.repeats)
            }
            _ => None,
        }
    }

    /// The report as text, with whole names.
    pub fn text(&self) -> String {
        self.fitted(usize::MAX)
    }

    /// The same, with tables that fit into `width` characters.
    pub fn fitted(&self, width: usize) -> String {
        let mut out = String::new();
        let subject = &self.subject;
        let mut say = |text: String| {
            // Writing to a String does not fail.
            let _ = writeln!(out, "{text}");
        };
        let harts = if subject.harts == 0 { String::new() } else { format!(", {} harts", subject.harts) };
        let translation = if self.translation == UNKNOWN { "unknown translation" } else { self.translation };
        say(format!("{} on {}{harts}, {translation}: {}", subject.kernel, subject.machine, self.result));
        if !subject.version.is_empty() {
            say(format!("  {}", subject.version));
        }
        if let Some(death) = &self.death {
            say(format!("  {}", death.headline));
        }
        if let Some(note) = &self.note {
            say(format!("  {note}"));
        }
        if let Some(hit) = self.killer() {
            say(String::new());
            killer(hit).into_iter().for_each(&mut say);
            if let Some(death) = self.death.as_ref().filter(|d| !d.calls.is_empty()) {
                let calls: Vec<&str> = death.calls.iter().take(CALLS).map(String::as_str).collect();
                say(format!("  calls       {}", calls.join(" < ")));
            }
        }
        if let Some(of) = self.culprit() {
            say(String::new());
            exposed(of).into_iter().for_each(&mut say);
        }
        let c = &self.counts;
        say(format!(
            "\n{} stale hits ({} faults): {} absorbed, {} killed, {} not tried again",
            c.hits, c.faults, c.absorbed, c.killed, c.open
        ));
        if c.by_unknown > 0 {
            say(format!("of {} it is not known who made the PTE valid", c.by_unknown));
        }
        if c.expired > 0 {
            say(format!("{} ended only because the hart looked again after some time: without a fence", c.expired));
        }
        if !self.groups.is_empty() {
            say(groups_table(&self.groups, width).trim_end().to_owned());
        }
        if c.uses > 0 {
            say(format!("\n{} translations were used after the page tables had changed", c.uses));
            say(uses_table(&self.use_groups, width).trim_end().to_owned());
        }
        match subject.poison {
            None => {}
            Some(poison) if poison == Poison::default() => {
                say("freed memory cannot be recognised: the kernel has neither PAGE_POISONING nor SLUB_DEBUG"
                    .to_owned());
            }
            Some(poison) => {
                let met: u64 = self.use_groups.iter().map(|group| group.poisoned).sum();
                say(format!("{met} of these translations led to freed memory, which has {poison}"));
            }
        }
        for (name, what) in subject.workload.iter().filter(|(_, what)| what != "pass") {
            say(format!("workload {name}: {what}"));
        }
        let Subject { started, tool, qemu, again, .. } = subject;
        let made = [("\nbegan", started), ("tool ", tool), ("qemu ", qemu), ("again", again)];
        for (name, text) in made.into_iter().filter(|(_, text)| !text.is_empty()) {
            say(format!("{name}  {text}"));
        }
        out
    }
}

/// Explains a hit that killed the kernel.
fn killer(hit: &HitReport) -> Vec<String> {
    let before = |then: i64| ago(hit.touch.time - then);
    let mut lines = vec![
        format!("  victim      {}{}", at(&hit.touch), line(&hit.touch)),
        format!(
            "  touched     {} of {}, {}{}, by hart {}",
            hit.access.name(),
            hit.addr,
            hit.region,
            hit.detail.as_ref().map(|d| format!(" ({d})")).unwrap_or_default(),
            hit.touch.hart.unwrap_or_default()
        ),
    ];
    lines.extend(below(&hit.touch));
    match &hit.store {
        Some(store) => lines.extend(stored_by("mapped     ", store, None, hit.touch.time)),
        None => lines.push("  mapped      it is not known by whom".to_owned()),
    }
    if let Some(read) = &hit.read {
        lines.push(format!(
            "  remembered  as invalid since {} before, when {} used {}; {} fences since, none for this page",
            before(read.time),
            read.at,
            hit.read_addr.as_deref().unwrap_or("?"),
            hit.fences_between.unwrap_or_default()
        ));
    }
    lines.push(last_fence(hit.fence.as_ref(), hit.fence_for.as_deref(), hit.touch.time));
    lines
}

/// The line of a store that changed a PTE, for whom, and what is known about its place; the access was at `now`.
fn stored_by(what: &str, place: &Place, whom: Option<&String>, now: i64) -> Vec<String> {
    let whom = whom.map(|whom| format!(" for {whom}")).unwrap_or_default();
    let (hart, before) = (place.hart.unwrap_or_default(), ago(now - place.time));
    let mut lines = vec![format!("  {what} by {}{whom}{}, on hart {hart}, {before} before", at(place), line(place))];
    lines.extend(below(place));
    lines
}

/// The line of the last fence before an access at `now`.
fn last_fence(fence: Option<&Place>, for_what: Option<&str>, now: i64) -> String {
    fence.map_or_else(
        || "  last fence  none".to_owned(),
        |fence| {
            let (before, for_what) = (ago(now - fence.time), for_what.unwrap_or("?"));
            format!("  last fence  {before} before, by {}, for {for_what}", fence.at)
        },
    )
}

/// File and line of a place, if they are known.
fn line(place: &Place) -> String {
    place.line.as_ref().map(|line| format!(" ({line})")).unwrap_or_default()
}

/// Explains the use of a stale translation.
fn exposed(of: &UseReport) -> Vec<String> {
    let who = if of.user { "a program".to_owned() } else { of.touch.at.clone() };
    let mut lines = vec![
        format!("  used        by {who}, on hart {}{}", of.touch.hart.unwrap_or_default(), line(&of.touch)),
        format!(
            "  touched     {} of {}, {}, ASID {}{}",
            of.access.name(),
            of.addr,
            of.region,
            of.asid,
            of.size.map(|size| format!(", {size} bytes")).unwrap_or_default()
        ),
        format!(
            "  held        {}, in memory {}: {}{}",
            of.held.as_deref().unwrap_or("?"),
            of.memory.as_deref().unwrap_or("?"),
            of.what.name(),
            if of.other_table == Some(true) { ", in another page table" } else { "" }
        ),
    ];
    if of.what == What::Detached {
        lines.push(format!("  walked      {} times from the page table that is gone, or more often", of.repeats));
    }
    lines.extend(below(&of.touch));
    if let Some(was) = &of.was {
        lines.push(format!("  physical    {was}; in the page tables {}", of.now.as_deref().unwrap_or("none")));
    }
    if let Some(bytes) = &of.bytes {
        let found = of.found.as_ref().map(|found| format!("{found}, ")).unwrap_or_default();
        let poison = of.poison.map(|met| format!(": {}", met.name())).unwrap_or_default();
        lines.push(format!("  found       {found}in the bytes {bytes}{poison}"));
    }
    if let Some(stored) = &of.stored {
        lines.push(format!("  stored      {stored}"));
    }
    let changed = if of.what == What::Detached { "removed    " } else { "changed    " };
    for (what, place, whom) in [
        ("mapped     ", &of.owner, None),
        (changed, &of.store, of.changed_for.as_ref()),
        ("now mapped ", &of.new_owner, None),
        ("page reused", &of.page_owner, None),
    ] {
        lines.extend(place.iter().flat_map(|place| stored_by(what, place, whom, of.touch.time)));
    }
    if of.store.is_none() {
        lines.push(format!("  {changed} it is not known by whom"));
    }
    if let Some(read) = &of.read {
        lines.push(format!(
            "  read        {} before; {} fences since, none for this page",
            ago(of.touch.time - read.time),
            of.fences_between.unwrap_or_default()
        ));
    }
    lines.push(last_fence(of.fence.as_ref(), of.fence_for.as_deref(), of.touch.time));
    lines.push(match (&of.end, of.reason.as_deref()) {
        (Some(end), Some("fence")) => {
            format!("  ended       {} after, by the fence at {}", ago(end.time - of.touch.time), end.at)
        }
        (Some(end), Some(reason)) => format!("  ended       {} after, {reason}", ago(end.time - of.touch.time)),
        _ => "  ended       never".to_owned(),
    });
    lines
}

/// What else is known about a place, below the line that names it: the functions that the compiler has put together
/// there, and the callers.
fn below(place: &Place) -> Vec<String> {
    let lines = [("inlined as", &place.inlined), ("called by", &place.calls)];
    let lines = lines.into_iter().filter(|(_, names)| !names.is_empty());
    lines.map(|(what, names)| format!("              {what} {}", names.join(" < "))).collect()
}

/// A place, and the caller if that says more.
fn at(place: &Place) -> String {
    match place.at.starts_with(place.by.as_str()) {
        true => place.at.clone(),
        false => format!("{} called by {}", place.at, place.by),
    }
}

/// A time span for humans.
fn ago(nanoseconds: i64) -> String {
    match nanoseconds {
        n if n < 10_000 => format!("{n} ns"),
        n if n < 10_000_000 => format!("{} us", n / 1000),
        n if n < 10_000_000_000 => format!("{} ms", n / 1_000_000),
        n => format!("{} s", n / 1_000_000_000),
    }
}

/// A function, and for whom it did that.
fn with_whom(name: &str, whom: Option<&String>) -> String {
    whom.map_or_else(|| name.to_owned(), |whom| format!("{name} for {whom}"))
}

fn groups_table(groups: &[Group], width: usize) -> String {
    use Align::{Left, Right};
    let row = |group: &Group| {
        let mapped = with_whom(&group.mapped_by, group.mapped_for.as_ref());
        [group.hits.to_string(), group.fate.name().to_owned(), mapped, group.region.clone(), group.touched_by.clone()]
    };
    let heads = ["hits", "fate", "mapped by", "region", "touched by"];
    let texts = [2, 3, 4];
    grouped(heads, (&[Right, Left, Left, Left, Left], &texts, width), groups, row, |group| group.hits)
}

fn uses_table(groups: &[UseGroup], width: usize) -> String {
    use Align::{Left, Right};
    let row = |group: &UseGroup| {
        let UseGroup { what, region, used_by, ended_by, .. } = group;
        let changed = with_whom(&group.changed_by, group.changed_for.as_ref());
        let (uses, after, what) = (group.uses.to_string(), ago(group.longest), what.name().to_owned());
        [uses, what, changed, region.clone(), used_by.clone(), ended_by.clone(), after]
    };
    let heads = ["uses", "what", "changed by", "region", "used by", "ended by", "after"];
    let texts = [2, 3, 4, 5];
    grouped(heads, (&[Right, Left, Left, Left, Left, Left, Right], &texts, width), groups, row, |group| group.uses)
}

/// The first groups as a table with these columns, of which some are texts that may be cut to fit into a width, and how
/// many more groups there are.
fn grouped<G, const N: usize>(
    heads: [&str; N],
    (columns, texts, width): (&[Align; N], &[usize], usize),
    groups: &[G],
    row: impl Fn(&G) -> [String; N],
    count: impl Fn(&G) -> u64,
) -> String {
    let mut rows: Vec<Vec<Cell>> = vec![heads.map(Cell::from).into()];
    rows.extend(groups.iter().take(ROWS).map(|group| Vec::from(row(group).map(Cell::from))));
    let mut text = table::fitted(columns, rows, &Fit::texts(width, texts), false);
    if groups.len() > ROWS {
        let left: u64 = groups[ROWS..].iter().map(count).sum();
        text.push_str(&format!("{left:>4}  in {} more groups, see the JSON", groups.len() - ROWS));
    }
    text
}
