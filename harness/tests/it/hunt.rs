// SPDX-License-Identifier: GPL-2.0-only
//! Recorded traces and consoles, from the line to the report.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use lazymap::boot::machine::{Limits, Machine};
use lazymap::boot::models;
use lazymap::build::workbench::Workbench;
use lazymap::hunt::layout::{Layout, Mode};
use lazymap::hunt::poison::{Met, Poison};
use lazymap::hunt::report::{self, Report, Subject};
use lazymap::hunt::symbols::{self, Symbols};
use lazymap::hunt::trace::{self, Access, Data, What};
use lazymap::hunt::verdict::{self, Fate, Guest, Outcome};
use lazymap::hunt::{self, Target, Workload};
use lazymap_console::end::{self, Ending};
use lazymap_console::log::Log;
use tempfile::TempDir;

use crate::common::options;

fn fixture(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/hunt").join(name);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The functions of the kernel of `shadow.trace`.
fn symbols() -> Symbols {
    let list = [
        (0xffff_ffff_8031_72fc, 0x3b6, "__vmap_pages_range_noflush"),
        (0xffff_ffff_8034_6a78, 0x138, "kasan_check_range"),
        (0xffff_ffff_8034_7db8, 0x50, "kasan_poison"),
        (0xffff_ffff_8034_8208, 0xc0, "kasan_populate_vmalloc_pte"),
        (0xffff_ffff_8056_be74, 0xfc, "__memset"),
        (0xffff_ffff_8057_b730, 0x158, "handle_exception"),
    ];
    Symbols::from_list(&list, Some((0xffff_ffff_8000_0000, 0xffff_ffff_80c0_0000)))
}

/// What is made of a console and a trace.
fn hunted(log: &str, trace: &str, ending: &Ending, guest: Guest) -> Report {
    let story = trace::read(trace).unwrap();
    let log = &Log::of(log);
    let reading = end::read(log, ending, "");
    let death = verdict::death(log, &reading);
    let judged = verdict::judge(&story, &reading, death.as_ref(), guest, log);
    let layout = Layout::new(log, story.hits.iter().map(|hit| hit.addr), symbols().image());
    report::report(Subject { kernel: "k".to_owned(), ..Subject::default() }, &story, judged, death, &symbols(), &layout)
}

fn shadow() -> Report {
    hunted(&fixture("shadow.log"), &fixture("shadow.trace"), &Ending::Exited(0), Guest::Own)
}

#[test]
fn a_recorded_trace_is_a_story_for_each_hit() {
    let story = trace::read(&fixture("shadow.trace")).unwrap();
    assert_eq!((story.hits.len(), story.total, story.left_out), (10, 10, 0));
    let last = &story.hits[9];
    assert_eq!((last.hart, last.number, last.access, last.mode), (1, 54, Access::Store, 1));
    assert_eq!((last.addr, last.pc), (0xffeb_fffe_fffe_5000, 0xffff_ffff_8056_bed4));
    assert_eq!((last.ra, last.asid, last.fences, last.repeats), (0xffff_ffff_8034_7df4, 49, 322, 1));
    let read = last.read.as_ref().unwrap();
    assert_eq!((read.pc, read.addr, read.fences), (0xffff_ffff_8034_6b42, 0xffeb_fffe_ffff_91a0, 322));
    let store = last.store.as_ref().unwrap();
    assert_eq!((store.by, store.pc, store.pte), (Some(1), 0xffff_ffff_8034_82a8, 0x8261_ef28));
    assert_eq!(last.fence.as_ref().unwrap().pc, 0xffff_ffff_8057_b794);
    assert_eq!(last.end, None);
    assert!(story.hits[..9].iter().all(|hit| hit.end.as_ref().is_some_and(|end| end.fences == 1)));
}

#[test]
fn callers_say_for_whom_a_page_was_mapped() {
    let frames = |trace: &str, hit: u64, of: &str, frames: &str| {
        let fence = format!("riscv_invalid_cache_stale_fence hart=1 hit={hit} ");
        assert_eq!(trace.matches(&fence).count(), 1, "{hit}");
        let line = format!("riscv_invalid_cache_stale_frames hart=1 hit={hit} time=1 pc=0x1 of={of} frames={frames}\n");
        trace.replace(&fence, &format!("{line}{fence}"))
    };
    let mut trace = fixture("shadow.trace");
    // The first one counts.
    trace = frames(&trace, 45, "store", "0xffffffff80317400,0xffffffff80346b00");
    trace = frames(&trace, 45, "store", "0xffffffff8057b740");
    // ra is in kasan_poison(), which memset() has not saved.
    trace = frames(&trace, 54, "hit", "0xffffffff80346b00,0x10");
    trace = frames(&trace, 54, "store", "0xffffffff8057b740");
    let told = |trace: &str| hunted(&fixture("shadow.log"), trace, &Ending::Exited(0), Guest::Own);
    let report = told(&trace);
    let (first, second, last) = (&report.hits[0], &report.hits[1], &report.hits[9]);
    assert_eq!(first.touch.calls, Vec::<String>::new());
    assert_eq!(first.store.as_ref().unwrap().calls, ["__vmap_pages_range_noflush", "kasan_check_range"]);
    assert_eq!(first.mapped_for.as_deref(), Some("kasan_check_range"));
    assert_eq!((second.mapped_for.as_deref(), second.store.as_ref().unwrap().calls.len()), (None, 0));
    assert_eq!(last.touch.calls[..2], ["kasan_poison", "kasan_check_range"]);
    assert!(last.touch.calls.len() == 3 && last.touch.calls[2].starts_with('('), "{:?}", last.touch.calls);
    assert_eq!(last.store.as_ref().unwrap().calls.last().unwrap(), "handle_exception");
    // It was not mapped by an allocator.
    assert_eq!(last.mapped_for, None);
    let text = report.text();
    for part in [
        "__vmap_pages_range_noflush for kasan_check_range",
        "              called by kasan_poison < kasan_check_range < ",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let narrow = report.fitted(80);
    let (_, table) = narrow.split_once("not tried again\n").unwrap();
    assert!(table.lines().all(|line| line.chars().count() <= 80), "{narrow}");
    assert!(
        !table.is_empty() && text.lines().any(|line| line.starts_with("   ") && line.chars().count() > 80),
        "{text}"
    );
    // A caller that is on the stack as well is told once.
    let saved = frames(&fixture("shadow.trace"), 54, "hit", "0xffffffff80347df4");
    assert_eq!(told(&saved).hits[9].touch.calls, ["kasan_poison"]);
    for (of, which) in [("hit", "0x1,x"), ("hit", ""), ("use", "0x1")] {
        assert!(trace::read(&frames(&trace, 54, of, which)).is_err(), "{of} {which}");
    }
}

#[test]
fn a_line_that_is_cut_off_is_no_error_and_nonsense_is() {
    let whole = fixture("shadow.trace");
    let cut = trace::read(&whole[..whole.len() - 20]).unwrap();
    assert_eq!((cut.hits.len(), cut.hits[9].fence.clone()), (10, None));
    let wrong = trace::read(&whole.replacen("access=store", "access=stare", 1)).unwrap_err();
    assert!(wrong.contains("access=stare"), "{wrong}");
    assert!(trace::read(&whole.replacen(" pte=0x", " pt=0x", 1)).is_err());
    // What else QEMU has to say is no event.
    assert_eq!(
        trace::read("warning: x\nriscv_trap hart:0\nriscv_invalid_cache_evict hart=0 time=1 pc=0x1\n").unwrap().total,
        0
    );
}

#[test]
fn an_access_that_faults_again_is_one_hit() {
    let hit = |number: u64, pc: u64| {
        format!(
            "riscv_invalid_cache_stale_hit hart=0 hit={number} time={number} mode=1 access=load addr=0xff20000000001000 \
             pc={pc:#x} ra=0x0 asid=0 fences=3\n\
             riscv_invalid_cache_stale_store hart=0 hit={number} time=0 by=-1 pc=0x0 ra=0x0 pte=0x0\n"
        )
    };
    let end = "riscv_invalid_cache_stale_end hart=0 hit=3 time=9 pc=0x1 fences=1\n";
    let story =
        trace::read(&format!("{}{}{}{end}{}{}", hit(1, 1), hit(2, 1), hit(3, 1), hit(4, 1), hit(5, 2))).unwrap();
    let seen: Vec<_> = story.hits.iter().map(|h| (h.number, h.repeats, h.time, h.last, h.end.is_some())).collect();
    assert_eq!(seen, [(3, 3, 1, 3, true), (4, 1, 4, 4, false), (5, 1, 5, 5, false)]);
    assert_eq!((story.total, story.hits[0].store.as_ref().unwrap().by), (5, None));
}

#[test]
fn the_shadow_hole_names_victim_and_mapping() {
    let report = shadow();
    let Outcome::Killed { hit: 9, how } = &report.result else { panic!("{:?}", report.result) };
    assert!(how.contains("this very access"), "{how}");
    let hit = report.killer().unwrap();
    assert_eq!((hit.touch.at.as_str(), hit.touch.by.as_str()), ("__memset+0x60", "kasan_poison"));
    assert_eq!(hit.region, "KASAN shadow of vmalloc");
    assert_eq!(hit.detail.as_deref(), Some("shadow of 0xff5ffffffff28000"));
    assert_eq!(hit.store.as_ref().unwrap().by, "kasan_populate_vmalloc_pte");
    let c = report.counts;
    assert_eq!((c.hits, c.absorbed, c.killed, c.open, c.left_out), (10, 9, 1, 0, 0));
    let death = report.death.as_ref().unwrap();
    assert_eq!((death.epc, death.badaddr), (Some(0xffff_ffff_8056_bed4), Some(0xffeb_fffe_fffe_5000)));
    assert_eq!(death.calls[1], "kasan_unpoison+0x2a/0x58");
    let first = &report.groups[0];
    assert_eq!((first.fate, first.hits, first.remote), (Fate::Killed, 1, 0));
    let text = report.text();
    for part in [
        "a stale hit killed the kernel",
        "victim      __memset+0x60 called by kasan_poison",
        "KASAN shadow of vmalloc (shadow of 0xff5ffffffff28000), by hart 1",
        "by kasan_populate_vmalloc_pte+0xa0, on hart 1, 79 us before",
        "< kasan_unpoison+0x2a/0x58 <",
        "10 stale hits (10 faults): 9 absorbed, 1 killed, 0 not tried again",
    ] {
        assert!(text.contains(part), "no `{part}` in\n{text}");
    }
}

#[test]
fn a_death_that_no_hit_explains_is_no_finding() {
    let (log, trace) = (fixture("shadow.log"), fixture("shadow.trace"));
    // Another place and another page.
    let log = log.replace("ffffffff8056bed4", "ffffffff8056aed4").replace("ffebfffefffe5000", "ffebfffefffe7000");
    let report = hunted(&log, &trace, &Ending::Exited(0), Guest::Own);
    assert!(
        matches!(&report.result, Outcome::Uncertain { why } if why.contains("not of a known stale hit")),
        "{:?}",
        report.result
    );
    assert_eq!((report.counts.killed, report.counts.open), (0, 1));
    let none = hunted(&fixture("shadow.log"), "", &Ending::Exited(0), Guest::Own);
    assert!(matches!(none.result, Outcome::Uncertain { .. }));
}

#[test]
fn an_oops_is_not_put_down_to_a_hit_that_was_absorbed_long_before() {
    let whole = fixture("shadow.trace");
    // Without the hit that is open, memset() has only hits that were absorbed.
    let at = whole.find("riscv_invalid_cache_stale_hit hart=1 hit=54 ").unwrap();
    let absorbed = &whole[..at];
    let memset = trace::read(absorbed).unwrap().hits.iter().rposition(|h| h.pc == 0xffff_ffff_8056_bef8).unwrap();
    let log = fixture("shadow.log").replace("ffebfffefffe5000", "0000000000000008");
    let log = log.replace("ffffffff8056bed4", "ffffffff8056bef8");
    let report = hunted(&log, absorbed, &Ending::Exited(0), Guest::Own);
    assert!(matches!(&report.result, Outcome::Uncertain { .. }), "hit {memset}: {:?}", report.result);
    // Nor is the same instruction at an address that fits, if the hart has had other hits since.
    let hit = |hart: u32, number: u64, time: u64, pc: &str, addr: &str, end: Option<u64>| {
        let end = end.map(|end| {
            format!("riscv_invalid_cache_stale_end hart={hart} hit={number} time={end} pc={pc} fences=1 reason=fence\n")
        });
        format!(
            "riscv_invalid_cache_stale_hit hart={hart} hit={number} time={time} mode=1 access=load addr={addr} \
             pc={pc} ra=0x0 asid=0 fences=3\n{}",
            end.unwrap_or_default()
        )
    };
    let (pc, other) = ("0xffffffff8056bed4", "0xffffffff8056b000");
    let (here, there) = ("0xff20000000001000", "0xff20000000002000");
    let oops = |cpu: u32| {
        format!(
            "Booting Linux on hartid 1\nLinux version 7\nOops [#1]\nCPU: {cpu} UID: 0 PID: 1\n\
             epc : ffffffff8056bed4 ra : ffffffff8056b000 sp : ff20000000003000\n\
             status: 0 badaddr: ff20000000001000 cause: 000000000000000d\n"
        )
    };
    let judged = |log: &str, trace: String| hunted(log, &trace, &Ending::Exited(0), Guest::Own).result;
    let first = hit(1, 1, 10, pc, here, Some(20));
    assert!(matches!(judged(&oops(0), first.clone()), Outcome::Killed { hit: 0, .. }));
    assert!(matches!(
        judged(&oops(0), first.clone() + &hit(1, 2, 30, other, there, Some(40))),
        Outcome::Uncertain { .. }
    ));
    // CPU 1 is hart 0: it has had no hit at all.
    assert!(matches!(judged(&oops(1), first.clone()), Outcome::Uncertain { .. }));
    // The last event of the trace is three seconds later.
    let later = first + &hit(0, 1, 3_000_000_000, other, there, Some(3_000_000_010));
    assert!(matches!(judged(&oops(0), later), Outcome::Uncertain { .. }));
    // An access that faulted a thousand times, and was absorbed before others of the hart.
    let many: String = (1..=1000).map(|n| hit(2, n, n, pc, here, (n == 1000).then_some(2000))).collect();
    let oops = "Linux version 7\nOops [#1]\n";
    assert!(matches!(judged(oops, many.clone()), Outcome::Killed { .. }));
    assert!(matches!(judged(oops, many + &hit(2, 1001, 3000, other, there, Some(3001))), Outcome::Uncertain { .. }));
}

#[test]
fn a_hit_that_ended_may_kill_at_the_return_from_it() {
    let report = hunted(&fixture("window-3.log"), &fixture("window-3.trace"), &Ending::Exited(0), Guest::Own);
    assert!(
        matches!(&report.result, Outcome::Killed { hit: 0, how } if how.contains("run again")),
        "{:?}",
        report.result
    );
    assert_eq!(report.killer().unwrap().region, "vmalloc");
}

#[test]
fn registers_of_old_kernels_name_the_culprit() {
    // 5.10, and 5.4, which calls them by the names of supervisor mode.
    let (new, trace) = (fixture("old-epc.log"), fixture("old-epc.trace"));
    let names = [(" epc: ", " sepc: "), (" status: ", " sstatus: "), (" badaddr: ", " sbadaddr: ")];
    let old = names.iter().fold(new.clone(), |log, (new, old)| {
        assert!(log.contains(new));
        log.replace(new, old)
    });
    for log in [new, old] {
        let report = hunted(&log, &trace, &Ending::Exited(0), Guest::Own);
        assert!(
            matches!(&report.result, Outcome::Killed { hit: 0, how } if how.contains("this very access")),
            "{:?}",
            report.result
        );
        let death = report.death.unwrap();
        assert_eq!((death.epc, death.badaddr), (Some(0xffff_ffe0_0012_3456), Some(0xffff_ffd0_0021_9008)));
    }
}

#[test]
fn a_kernel_that_reports_a_hit_and_goes_on_has_survived() {
    let (log, trace) = (fixture("went-on.log"), fixture("went-on.trace"));
    let report = hunted(&log, &trace, &Ending::Exited(0), Guest::Own);
    assert_eq!((report.result, report.counts.absorbed, report.counts.killed), (Outcome::Survived, 1, 0));
    // With all of an oops, too: vendors print what they know, and fence then.
    let all = log
        .replace("Modules linked in:", "Oops [#1]\n[    1.200300] Modules linked in:")
        .replace("[    1.900000]", "[    1.201000] ---[ end trace 0000000000000000 ]---\n[    1.900000]");
    let report = hunted(&all, &trace, &Ending::Exited(0), Guest::Own);
    assert_eq!((report.result, report.counts.absorbed, report.counts.killed), (Outcome::Survived, 1, 0), "{all}");
    // Not without a sign that it went on, nor if the hart never used the page.
    let cut = &log[..log.find("[    1.900000]").unwrap()];
    let killed = |log: &str, trace: &str| hunted(log, trace, &Ending::Exited(0), Guest::Own).counts.killed;
    assert_eq!(killed(cut, &trace), 1);
    let open: String = trace.lines().filter(|l| !l.contains("stale_end")).map(|l| format!("{l}\n")).collect();
    assert_eq!(killed(&log, &open), 1);
    let panic = log.replace("reboot: Power down", "Kernel panic - not syncing: Fatal exception");
    assert_eq!(killed(&panic, &trace), 1);
}

#[test]
fn a_run_without_its_marks_is_not_survived() {
    let trace = fixture("shadow.trace");
    let done = "[    0.1] x\nLinux version 7\nRun /init as init process\nlazymap: guest ready\nTAP version 13\n1..0\nlazymap: guest done\n";
    let judged = |log: &str, ending: &Ending, guest: Guest| hunted(log, &trace, ending, guest).result;
    assert_eq!(judged(done, &Ending::Exited(0), Guest::Own), Outcome::Survived);
    let cut = &done[..done.find("TAP").unwrap()];
    assert!(matches!(judged(cut, &Ending::Exited(0), Guest::Own), Outcome::Uncertain { .. }));
    // An initramfs of the user's leaves no marks but its end.
    assert_eq!(judged(cut, &Ending::Exited(0), Guest::Foreign), Outcome::Survived);
    let no_init = "Linux version 7\n";
    assert!(matches!(judged(no_init, &Ending::Exited(0), Guest::Foreign), Outcome::Uncertain { .. }));
    let silent = Ending::Silent(Duration::from_secs(9));
    assert!(matches!(judged(cut, &silent, Guest::Foreign), Outcome::Uncertain { .. }));
    assert!(matches!(judged("", &Ending::Exited(1), Guest::Own), Outcome::Uncertain { .. }));
}

#[test]
fn a_hart_that_faults_without_end_is_a_finding() {
    let line = |n: u64| {
        format!(
            "riscv_invalid_cache_stale_hit hart=2 hit={n} time={n} mode=1 access=fetch addr=0xffffffff00001000 \
             pc=0xffffffff00001000 ra=0x0 asid=0 fences=3\n"
        )
    };
    let many: String = (1..=1000).map(line).collect();
    let hang = Ending::Silent(Duration::from_secs(9));
    let report = hunted("Linux version 7\n", &many, &hang, Guest::Own);
    assert!(matches!(&report.result, Outcome::Killed { how, .. } if how.contains("1000 times")), "{:?}", report.result);
    // A kernel that died later on did so because of that, even if the access succeeded at last.
    let end = "riscv_invalid_cache_stale_end hart=2 hit=1000 time=2000 pc=0x1 fences=1\n";
    let oops = "Linux version 7\nOops [#1]\n";
    let report = hunted(oops, &format!("{many}{end}"), &Ending::Exited(0), Guest::Own);
    assert!(matches!(&report.result, Outcome::Killed { how, .. } if how.contains("1000 times")), "{:?}", report.result);
    let few: String = (1..=10).map(line).collect();
    assert!(matches!(hunted("Linux version 7\n", &few, &hang, Guest::Own).result, Outcome::Uncertain { .. }));
}

#[test]
fn regions_are_those_of_the_documentation() {
    let image = Some((0xffff_ffff_8000_0000, 0xffff_ffff_80c0_0000));
    let layout =
        |mode: &str| Layout::new(&Log::of(&format!("[    1.000000] lazymap: mmu {mode}\n")), std::iter::empty(), image);
    for (mode, addr, region) in [
        ("sv57", 0xff20_0000_0000_0000, "vmalloc"),
        ("sv57", 0xff5f_ffff_ffff_ffff, "vmalloc"),
        ("sv57", 0xff60_0000_0000_0000, "linear map"),
        ("sv57", 0xff1c_0000_0000_0000, "vmemmap"),
        ("sv57", 0xff1b_ffff_feb0_0000, "fixmap"),
        ("sv57", 0xffeb_fffe_fffe_5000, "KASAN shadow of vmalloc"),
        ("sv48", 0xffff_8f80_0000_0000, "vmalloc"),
        ("sv48", 0xffff_af80_0000_0000, "linear map"),
        ("sv39", 0xffff_ffc6_0000_0000, "vmalloc"),
        ("sv39", 0xffff_ffd5_ffff_ffff, "vmalloc"),
        ("sv39", 0xffff_fff7_0000_0000, "KASAN shadow of unknown"),
        // Its own shadow has a shadow, and so on.
        ("sv57", 0xfffb_ffff_e000_0000, "KASAN shadow of KASAN shadow"),
        ("sv39", 0xffff_ffff_00c3_58e8, "modules and BPF"),
        ("sv39", 0xffff_ffff_8000_0000, "kernel image"),
        ("sv39", 0x1000, "user"),
    ] {
        assert_eq!(layout(mode).region(addr), region, "{mode} {addr:#x}");
    }
    // Where nobody says it, the addresses do.
    let of = |addr: u64| Layout::new(&Log::default(), [u64::MAX, addr, 0x1000].into_iter(), image).mode();
    assert_eq!(of(0xff20_0000_0000_0000), Some(Mode::Sv57));
    assert_eq!(of(0xffff_8f80_0000_0000), Some(Mode::Sv48));
    assert_eq!(of(0xffff_ffc6_0000_0000), Some(Mode::Sv39));
    // Each mode has these.
    assert_eq!([of(0x1000), of(0xffff_ffff_8000_0000), of(0xffff_ffff_0000_0000)], [None; 3]);
    let unknown = Layout::new(&Log::default(), std::iter::empty(), image);
    assert_eq!(unknown.region(0xff20_0000_0000_0000), "unknown");
    assert_eq!(unknown.region(0xffff_ffff_8000_0000), "kernel image");
}

#[test]
fn what_the_kernel_prints_comes_first() {
    let log = "[    0.000000] Virtual kernel memory layout:
[    0.000000]       fixmap : 0xff1bfffffea00000 - 0xff1bffffff000000   (6144 kB)
[    0.000000]      vmalloc : 0xff20000000000000 - 0xff20000000400000   (4096 kB)
[    0.000000]       lowmem : 0xff20000000400000 - 0xff60000040000000   (1024 MB)
[    0.000000]       kernel : 0xffffffff80000000 - 0xffffffffffffffff   (2047 MB)
[    0.000000] kfence: initialized - using 2097152 bytes for 255 objects at 0xff6000003fc00000-0xff6000003fe00000
";
    let layout = Layout::new(&Log::of(log), std::iter::empty(), None);
    assert!(layout.source().contains("log"), "{}", layout.source());
    assert_eq!(layout.mode(), Some(Mode::Sv57));
    assert_eq!(layout.region(0xff20_0000_0000_1000), "vmalloc");
    assert_eq!(layout.region(0xff20_0000_0040_0000), "linear map");
    assert_eq!(layout.region(0xff60_0000_3fc0_0000), "KFENCE pool (linear map)");
    assert_eq!(layout.region(0xff60_0000_3fe0_0000), "linear map");
}

#[test]
fn symbols_are_functions() {
    let symbols = symbols();
    assert_eq!(symbols.find(0xffff_ffff_8034_7db8), Some(("kasan_poison", 0)));
    assert_eq!(symbols.find(0xffff_ffff_8034_7e08), None);
    assert_eq!(symbols.place(0x10), "0x10");
    let rust = "_RNvNtCsl7L7n58I0Vr_6kernel9kselftest3run";
    assert_eq!(
        (symbols::demangled(rust).as_str(), symbols::demangled("memset")),
        ("kernel::kselftest::run", "memset".to_owned())
    );
    assert_eq!(symbols.actor(0xffff_ffff_8056_bed4, 0xffff_ffff_8034_7df4), Some("kasan_poison"));
    // Of others the return address says nothing.
    assert_eq!(symbols.actor(0xffff_ffff_8034_82a8, 0xffff_ffff_8034_7df4), Some("kasan_populate_vmalloc_pte"));
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("vmlinux");
    fs::write(&file, "text").unwrap();
    let error = Symbols::load(&file).unwrap_err();
    assert!(error.message.contains("not an ELF file"), "{error}");
}

/// A small ELF file with symbols.
pub fn elf(name: &str) -> Vec<u8> {
    let text = fixture(name);
    let digits: String = text.lines().filter(|line| !line.starts_with('#')).collect();
    let byte = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).unwrap();
    (0..digits.len()).step_by(2).map(byte).collect()
}

/// Its symbols.
fn symbols_of(name: &str) -> Symbols {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("vmlinux");
    fs::write(&file, elf(name)).unwrap();
    Symbols::load(&file).unwrap()
}

#[test]
fn functions_that_the_compiler_has_put_into_others_are_named() {
    let symbols = symbols_of("inlines.elf.hex");
    let inlined = |symbols: &Symbols, pc: u64| -> Vec<(String, String)> {
        symbols.inlined(pc).into_iter().map(|frame| (frame.name, frame.line.unwrap())).collect()
    };
    let named = |names: &[(&str, u32)]| -> Vec<(String, String)> {
        names.iter().map(|(name, line)| ((*name).to_owned(), format!("./inlines.c:{line}"))).collect()
    };
    assert_eq!(inlined(&symbols, 0x10004), named(&[("store", 3), ("store_all", 8), ("map", 14)]));
    assert_eq!(inlined(&symbols, 0x10014), named(&[("store", 3), ("map", 15)]));
    // Alone, outside, and without debug information.
    assert_eq!((inlined(&symbols, 0x1001c), inlined(&symbols, 0x20000)), (Vec::new(), Vec::new()));
    assert!(Symbols::from_list(&[(0x10000, 0x20, "map")], None).inlined(0x10004).is_empty());

    // A call returns behind it.
    let trace = "riscv_invalid_cache_stale_hit hart=0 hit=1 time=1 mode=1 access=store addr=0xff20000000001000 pc=0x10014 \
                 ra=0x0 asid=0 fences=3\nriscv_invalid_cache_stale_frames hart=0 hit=1 time=1 pc=0x10014 of=hit \
                 frames=0x1000c,0x10020\n";
    let story = trace::read(trace).unwrap();
    let layout = Layout::new(&Log::default(), story.hits.iter().map(|hit| hit.addr), None);
    let judged = (Outcome::Survived, vec![Fate::Open]);
    let report = report::report(Subject::default(), &story, judged, None, &symbols, &layout);
    assert_eq!(report.hits[0].touch.inlined, ["store (./inlines.c:3)", "map (./inlines.c:15)"]);
    assert_eq!(report.hits[0].touch.calls, ["store (inline)", "store_all (inline)", "map", "plain"]);
}

#[test]
fn places_have_a_line_if_there_is_debug_information() {
    let symbols = symbols_of("places.elf.hex");
    assert_eq!(
        (symbols.place(0x10004).as_str(), symbols.line(0x10004)),
        ("first+0x4", Some("./places.c:3".to_owned()))
    );
    assert_eq!(
        (symbols.place(0x10014).as_str(), symbols.line(0x10014)),
        ("second+0x8", Some("./places.c:8".to_owned()))
    );
    assert_eq!(symbols.line(0x1002c), None);
}

#[test]
fn the_json_has_its_schema_and_the_page_needs_nothing_else() {
    let mut report = shadow();
    report.death.as_mut().unwrap().lines.push("</script><b>".to_owned());
    let dir = TempDir::new().unwrap();
    let (json, html) = (dir.path().join("x.json"), dir.path().join("x.html"));
    hunt::write_json(&report, &json).unwrap();
    hunt::write_html(&report, &html).unwrap();
    let value: serde_json::Value = serde_json::from_str(&fs::read_to_string(&json).unwrap()).unwrap();
    assert_eq!(value["schema"], 2);
    assert_eq!(value["result"]["outcome"], "killed");
    let hit = &value["hits"][9];
    for field in
        ["index", "time", "hart", "pc", "at", "by", "access", "addr", "region", "fate", "read", "store", "fence"]
    {
        assert!(!hit[field].is_null(), "{field} in {hit}");
    }
    let page = fs::read_to_string(&html).unwrap();
    assert_eq!(page.matches("</script>").count(), 1, "the console ends no script");
    for outside in ["http://", "https://", " src=", "@import", "url("] {
        assert!(!page.contains(outside), "{outside}");
    }
    assert!(page.contains("KASAN shadow of vmalloc") && page.contains("prefers-color-scheme: dark"));
}

/// A machine that is a shell script, which finds its pipe for the trace in `$trace`.
fn on_fake_machine(script: &str) -> lazymap::ground::error::Result<Report> {
    let dir = TempDir::new().unwrap();
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    symlink(here.join("tests/fixtures/fake-qemu"), dir.path().join("qemu")).unwrap();
    let find = "for word; do [ \"$last\" = -D ] && trace=$word; last=$word; done\n";
    let fixtures = here.join("tests/fixtures");
    fs::write(dir.path().join("script"), format!("{find}fixtures='{}'\n{script}", fixtures.display())).unwrap();
    let mut bench = Workbench::planned(&options(dir.path().join("out")));
    bench.qemu.binary = dir.path().join("qemu");
    let image = dir.path().join("Image");
    fs::write(&image, "").unwrap();
    let target = Target {
        name: "x".to_owned(),
        kernel: "k".to_owned(),
        image: image.clone(),
        vmlinux: None,
        guest: Workload::Initrd(image),
        machine: Machine::new(models::find("stale").unwrap()),
        append: String::new(),
        firmware: None,
        more: Vec::new(),
        limits: Limits::default(),
    };
    hunt::boot(&bench, &target, &dir.path().join("out/hunt"))
}

#[test]
fn the_trace_comes_through_a_pipe_and_has_to_be_whole() {
    let counted =
        |hits: u64| format!("echo 'x-cache-invalid: total harts=4 stale_hits={hits} fences=8 remembered=9' >&2\n");
    let run =
        "head -n 45 $fixtures/hunt/shadow.trace >$trace\necho 'Linux version 7'; echo 'Run /init as init process'\n";
    let report = on_fake_machine(&format!("{run}{}", counted(9))).unwrap();
    assert_eq!((report.result, report.counts.hits, report.counts.absorbed), (Outcome::Survived, 9, 9));
    let report = on_fake_machine(&format!("{run}{}", counted(10))).unwrap();
    assert!(matches!(report.result, Outcome::Uncertain { why } if why.contains("counted 10 stale hits and traced 9")));
    let report = on_fake_machine(run).unwrap();
    assert!(matches!(report.result, Outcome::Uncertain { why } if why.contains("did not print a line")));
    // One that never opens the pipe keeps nobody waiting.
    let report = on_fake_machine("exit 1\n").unwrap();
    assert!(matches!(report.result, Outcome::Uncertain { .. }));
    let wrong = on_fake_machine("echo riscv_invalid_cache_stale_hit hart=x >$trace\n").unwrap_err();
    assert!(wrong.message.contains("hart=x"), "{wrong}");
}

/// The events of a translation that was used `uses` times after its PTE had changed.
fn stale_use(number: u64, what: &str, mode: u32, end: Option<u64>, reason: &str) -> String {
    let (page, time) = (0x1000_0000 + number * 0x1000, number * 1_000_000);
    let one = |number: u64, time: u64| {
        format!(
            "riscv_valid_cache_stale_use hart=2 use={number} time={time} mode={mode} access=load addr={page:#x} \
             pc=0x10074 ra=0x0 asid=5 what={what}\n\
             riscv_valid_cache_stale_read hart=2 use={number} time=500 pc=0x10060 level=0 global=0 held=0x20a3c4d7 \
             memory=0x0 fences=7\n\
             riscv_valid_cache_stale_store hart=2 use={number} time=900 by=1 pc=0xffffffff8056beb0 \
             ra=0xffffffff80347df4 pte=0x8261ef28\n\
             riscv_valid_cache_stale_fence hart=2 use={number} time=800 pc=0xffffffff8057b794 addr=0x0 asid=9 flags=2 \
             fences=9\n"
        )
    };
    let end = end.map(|end| {
        format!(
            "riscv_valid_cache_stale_end hart=2 use={number} time={end} pc=0xffffffff8057b794 uses=2 reason={reason}\n"
        )
    });
    one(number, time) + &one(number + 1, time + 10) + &end.unwrap_or_default()
}

#[test]
fn a_translation_that_outlives_its_pte_is_one_story() {
    let story = trace::read(&stale_use(1, "unmapped", 0, Some(2_000_000), "fence")).unwrap();
    assert_eq!((story.uses.len(), story.total_uses, story.hits.len()), (1, 2, 0));
    let of = &story.uses[0];
    assert_eq!((of.hart, of.number, of.what, of.repeats, of.last), (2, 1, What::Unmapped, 2, 1_000_010));
    assert_eq!((of.held, of.read, of.fences), (Some((0, false, 0x20a3_c4d7, 0)), Some((500, 0x10060)), Some(2)));
    assert_eq!((of.store.as_ref().unwrap().by, of.fence.as_ref().unwrap().asid), (Some(1), 9));
    let end = of.end.as_ref().unwrap();
    assert_eq!((end.time, end.uses, end.reason.as_str()), (2_000_000, 2, "fence"));
    let wrong = stale_use(1, "lost", 0, None, "");
    assert!(trace::read(&wrong).unwrap_err().contains("what=lost"));
}

#[test]
fn a_translation_of_a_guest_is_a_story_like_others() {
    let stage = |prefix: &str, name: &str| {
        format!(
            "riscv_{prefix}_cache_stale_stage hart=2 {name}=1 time=1000000 pc=0x10074 stage=g vmid=3 addr=0x80000000\n"
        )
    };
    let uses = stale_use(1, "unmapped", 0, Some(2_000_000), "fence");
    let with_stage = uses.replacen('\n', &format!("\n{}", stage("valid", "use")), 1);
    assert_eq!(trace::read(&with_stage).unwrap().uses, trace::read(&uses).unwrap().uses);
    let hit = "riscv_invalid_cache_stale_hit hart=2 hit=1 time=1000000 mode=1 access=load addr=0xffffffc000001000 \
               pc=0x10074 ra=0x0 asid=0 fences=1\n";
    assert_eq!(trace::read(&(hit.to_owned() + &stage("invalid", "hit"))).unwrap().hits.len(), 1);
}

#[test]
fn a_stale_use_is_a_finding_if_no_fence_is_on_its_way() {
    let found = |text: &str| verdict::exposure(&trace::read(text).unwrap().uses).map(|(at, _)| at);
    let second = 1_000_000_000;
    // The fence comes soon, or the run ends soon.
    assert_eq!(found(""), None);
    assert_eq!(found(&stale_use(1, "unmapped", 1, Some(second), "fence")), None);
    assert_eq!(found(&stale_use(1, "restricted", 0, None, "")), None);
    assert_eq!(found(&stale_use(1, "upgraded", 0, Some(3 * second), "fence")), None);
    // It comes late, or never.
    assert_eq!(found(&stale_use(1, "unmapped", 1, Some(2 * second), "fence")), Some(0));
    let never = stale_use(1, "restricted", 0, None, "") + &stale_use(2000, "unmapped", 0, Some(second * 3), "evicted");
    assert_eq!(found(&never), Some(0));
    // Another page is there: that of a program first.
    let both =
        stale_use(1, "remapped", 1, Some(2_000_000), "fence") + &stale_use(3, "remapped", 0, Some(4_000_000), "fence");
    assert_eq!(found(&both), Some(1));
}

#[test]
fn a_report_names_who_changed_a_page_and_who_used_the_old_one() {
    let story = trace::read(&stale_use(1, "remapped", 0, Some(2_000_000), "fence")).unwrap();
    let (of, how) = verdict::exposure(&story.uses).unwrap();
    let log = Log::of("Linux version 7\n");
    let layout = Layout::new(&log, story.uses.iter().map(|of| of.addr), symbols().image());
    let subject = Subject { kernel: "k".to_owned(), machine: "valid".to_owned(), ..Subject::default() };
    let judged = (Outcome::Exposed { of, how }, Vec::new());
    let report = report::report(subject, &story, judged, None, &symbols(), &layout);
    assert_eq!(hunt::exit(&report) as i32, 1);
    let text = report.text();
    for part in [
        "a hart used a stale translation: the page tables have another page there; 1 in all",
        "used        by a program, on hart 2",
        "held        0x20a3c4d7, in memory 0x0: remapped",
        "changed     by __memset+0x3c called by kasan_poison, on hart 1, 999 us before",
        "2 fences since, none for this page",
        "last fence  999 us before, by handle_exception+0x64, for ASID 9",
        "ended       1000 us after, by the fence at handle_exception+0x64",
        "1 translations were used after the page tables had changed",
    ] {
        assert!(text.contains(part), "no `{part}` in\n{text}");
    }
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!((json["result"]["outcome"].as_str(), json["result"]["use"].as_u64()), (Some("exposed"), Some(0)));
    assert_eq!(json["use_groups"][0]["changed_by"], "kasan_poison");
    // An older QEMU says no more.
    assert!(json["uses"][0]["was"].is_null() && json["uses"][0]["owner"].is_null(), "{json}");
    assert!(!text.contains("physical") && !text.contains("freed memory"), "{text}");
}

/// A stale use with `more` events of its own, and of its repetition.
fn stale_use_with(mode: u32, more: &str) -> String {
    let trace = stale_use(1, "remapped", mode, Some(2_000_000), "fence");
    let mut lines = trace.split_inclusive('\n').map(str::to_owned).collect::<Vec<_>>();
    let fences: Vec<usize> = (0..lines.len()).rev().filter(|&at| lines[at].contains("_stale_fence ")).collect();
    assert_eq!(fences.len(), 2);
    // The later one first, so that the other stays where it is.
    lines.insert(fences[0], more.replace("use=1 ", "use=2 ").replace("size=4", "size=8"));
    lines.insert(fences[1], more.to_owned());
    lines.concat()
}

/// What the patched QEMU says about the pages of a stale use.
const OWNERS: &str = "\
riscv_valid_cache_stale_data hart=2 use=1 time=1000000 pc=0x10074 was=0x828f1678 now=0x82a00678 size=4 \
data=1111111111111111aaaaaaaaaaaaaaaa stored=none
riscv_valid_cache_stale_owner hart=2 use=1 time=400 by=3 pc=0xffffffff8056beb0 ra=0xffffffff80347df4 pte=0x82610018 of=old
riscv_valid_cache_stale_frames hart=2 use=1 time=400 pc=0xffffffff8056beb0 of=old frames=0xffffffff80346b00
riscv_valid_cache_stale_owner hart=2 use=1 time=950 by=1 pc=0xffffffff8056beb0 ra=0xffffffff80347df4 pte=0x82610018 of=new
riscv_valid_cache_stale_owner hart=2 use=1 time=970 by=0 pc=0xffffffff8056beb0 ra=0xffffffff80347df4 pte=0x82620020 of=page
";

#[test]
fn a_report_names_the_old_and_the_new_owner_and_what_was_read() {
    let story = trace::read(&stale_use_with(0, OWNERS)).unwrap();
    let of = &story.uses[0];
    let mut bytes = [0x11; 16];
    bytes[8..].fill(0xaa);
    let data = Data { was: 0x828f_1678, now: Some(0x82a0_0678), size: 4, bytes: Some(bytes), stored: None };
    assert_eq!((story.uses.len(), of.repeats, of.data.as_ref()), (1, 2, Some(&data)));
    assert_eq!((data.found(), data.word()), (Some(0xaaaa_aaaa), Some(0xaaaa_aaaa_aaaa_aaaa)));
    let (old, new, page) =
        (of.owners.old.as_ref().unwrap(), of.owners.new.as_ref().unwrap(), of.owners.page.as_ref().unwrap());
    assert_eq!((old.time, old.by, old.calls.as_slice()), (400, Some(3), [0xffff_ffff_8034_6b00].as_slice()));
    assert_eq!(((new.time, new.by), (page.time, page.by, page.pte)), ((950, Some(1)), (970, Some(0), 0x8262_0020)));

    let layout = Layout::new(&Log::default(), story.uses.iter().map(|of| of.addr), symbols().image());
    let poison = Some(Poison { pages: true, ..Poison::default() });
    let subject = Subject { kernel: "k".to_owned(), poison, ..Subject::default() };
    let judged = (Outcome::Exposed { of: 0, how: "x".to_owned() }, Vec::new());
    let report = report::report(subject, &story, judged, None, &symbols(), &layout);
    let text = report.text();
    for part in [
        ", ASID 5, 4 bytes\n",
        "physical    0x828f1678; in the page tables 0x82a00678\n",
        "found       0xaaaaaaaa, in the bytes 1111111111111111aaaaaaaaaaaaaaaa: poison of a freed page\n",
        "mapped      by __memset+0x3c called by kasan_poison, on hart 3, 999 us before\n",
        "              called by kasan_poison < kasan_check_range\n",
        "now mapped  by __memset+0x3c called by kasan_poison, on hart 1, 999 us before\n",
        "page reused by __memset+0x3c called by kasan_poison, on hart 0, 999 us before\n",
        "\n1 of these translations led to freed memory, which has 0xaa in freed pages\n",
    ] {
        assert!(text.contains(part), "no `{part}` in\n{text}");
    }
    assert!(!text.contains("  stored "), "{text}");
    let json = serde_json::to_value(&report).unwrap();
    let told = &json["uses"][0];
    assert_eq!((told["was"].as_str(), told["now"].as_str()), (Some("0x828f1678"), Some("0x82a00678")));
    assert_eq!((told["found"].as_str(), told["poison"].as_str()), (Some("0xaaaaaaaa"), Some("page")));
    assert_eq!((told["owner"]["hart"].as_u64(), told["page_owner"]["hart"].as_u64()), (Some(3), Some(0)));
    assert_eq!(json["use_groups"][0]["poisoned"], 1);

    // Both owners have stored to the same PTE; another program's is in another page table.
    assert_eq!(told["other_table"], false);
    assert!(!text.contains("another page table"), "{text}");
    let elsewhere = OWNERS.replace("pte=0x82610018 of=new", "pte=0x82630018 of=new");
    let story = trace::read(&stale_use_with(0, &elsewhere)).unwrap();
    let judged = (Outcome::Exposed { of: 0, how: "x".to_owned() }, Vec::new());
    let report = report::report(Subject::default(), &story, judged, None, &symbols(), &layout);
    assert_eq!(report.uses[0].other_table, Some(true));
    assert!(report.text().contains(": remapped, in another page table\n"), "{}", report.text());

    // What was stored, where, and what does not fit.
    let stored = OWNERS.replace("stored=none", "stored=0x2a").replace("now=0x82a00678", "now=0x0");
    let story = trace::read(&stale_use_with(0, &stored)).unwrap();
    assert_eq!(story.uses[0].data.as_ref().map(|data| (data.stored, data.now)), Some((Some(0x2a), None)));
    let beyond = Data { was: 0x828f_167e, ..data.clone() };
    assert_eq!((beyond.found(), beyond.word()), (None, Some(0xaaaa_aaaa_aaaa_aaaa)));
    assert_eq!(Data { size: 64, ..data.clone() }.found(), None);
    assert_eq!(Data { was: 0x828f_1676, ..data.clone() }.found(), Some(0xaaaa_1111));
    let none = OWNERS.replace("data=1111111111111111aaaaaaaaaaaaaaaa", "data=none");
    assert_eq!(trace::read(&stale_use_with(0, &none)).unwrap().uses[0].data.as_ref().unwrap().bytes, None);
    for (right, wrong) in [("data=11", "data="), ("of=new", "of=knew"), ("stored=none", "stored=2a"), (" size=4", "")] {
        assert!(trace::read(&stale_use_with(0, &OWNERS.replace(right, wrong))).is_err(), "{wrong}");
    }
}

#[test]
fn a_program_that_meets_freed_memory_is_a_finding() {
    let pages = Poison { pages: true, ..Poison::default() };
    let uses = |mode: u32, more: &str| trace::read(&stale_use_with(mode, more)).unwrap().uses;
    let (at, how) = verdict::freed(&uses(0, OWNERS), pages).unwrap();
    assert_eq!((at, how.as_str()), (0, "a program has met poison of a freed page there"));
    // The kernel may have memory of its own that it has not written yet.
    assert_eq!(verdict::freed(&uses(1, OWNERS), pages), None);
    assert_eq!(verdict::freed(&uses(0, OWNERS), Poison { objects: true, ..Poison::default() }), None);
    assert_eq!(verdict::freed(&uses(0, ""), pages), None);
    // Many a page has zeroes.
    let zero = OWNERS.replace("aaaaaaaaaaaaaaaa", "0000000000000000");
    let zeroes = Poison { zeroes: true, ..Poison::default() };
    assert_eq!(zeroes.met(uses(0, &zero)[0].data.as_ref().unwrap()), Some(Met::Zeroes));
    assert_eq!(verdict::freed(&uses(0, &zero), zeroes), None);
    let mut restricted = uses(0, OWNERS);
    restricted[0].what = What::Restricted;
    assert_eq!(verdict::freed(&restricted, pages), None);
}

#[test]
fn a_function_that_changes_ptes_for_others_is_told_with_whom() {
    let list = [
        (0xffff_ffff_8000_1000, 0x100, "ptep_clear_flush"),
        (0xffff_ffff_8000_1100, 0x100, "rmap_walk_anon.isra.0"),
        (0xffff_ffff_8000_2000, 0x100, "folio_referenced"),
    ];
    let symbols = Symbols::from_list(&list, None);
    let frames = "riscv_valid_cache_stale_frames hart=2 use=1 time=900 pc=0xffffffff80001010 of=store \
                  frames=0xffffffff80001120,0xffffffff80002010\n";
    let store = "pc=0xffffffff8056beb0 ra=0xffffffff80347df4";
    let trace = stale_use_with(0, frames).replace(store, "pc=0xffffffff80001010 ra=0xffffffff80001020");
    let story = trace::read(&trace).unwrap();
    let layout = Layout::new(&Log::default(), story.uses.iter().map(|of| of.addr), None);
    let judged = (Outcome::Survived, Vec::new());
    let report = report::report(Subject::default(), &story, judged, None, &symbols, &layout);
    assert_eq!(report.uses[0].changed_for.as_deref(), Some("folio_referenced"));
    assert!(report.text().contains("  ptep_clear_flush for folio_referenced  "), "{}", report.text());
}

/// The first walk of a page table that is gone, with what removed it, and how many there were: told of, and at the end.
fn detached(number: u64, store: &str, told: u64, end: Option<u64>) -> String {
    let time = number * 1_000_000;
    let mut text = format!(
        "riscv_valid_cache_stale_use hart=2 use={number} time={time} mode=0 access=load addr=0x40000010 pc=0x10074 ra=0x0 \
         asid=5 what=detached\n\
         riscv_valid_cache_stale_read hart=2 use={number} time=500 pc=0x10060 level=1 global=0 held=0x20a3c401 memory=0x0 \
         fences=7\n\
         riscv_valid_cache_stale_store hart=2 use={number} time=900 {store} pte=0x8261ef28\n\
         riscv_valid_cache_stale_fence hart=2 use={number} time=950 pc=0xffffffff8057b794 addr=0x40000000 asid=5 flags=3 \
         fences=9\n"
    );
    for walks in (1..).map(|bit| 1 << bit).take_while(|walks| *walks <= told) {
        text += &format!(
            "riscv_valid_cache_stale_walks hart=2 use={number} time={} pc=0x10074 walks={walks}\n",
            time + walks
        );
    }
    if let Some(walks) = end {
        text += &format!(
            "riscv_valid_cache_stale_end hart=2 use={number} time={} pc=0x1 uses={walks} reason=fence\n",
            time + 500_000
        );
    }
    text
}

const REMOVER: &str = "by=1 pc=0xffffffff8056beb0 ra=0xffffffff80347df4";

#[test]
fn the_walks_of_a_page_table_that_is_gone_are_one_story() {
    let story = trace::read(&detached(1, REMOVER, 1 << 17, None)).unwrap();
    let of = &story.uses[0];
    assert_eq!((story.uses.len(), of.what, of.repeats, of.last), (1, What::Detached, 131_072, 1_131_072));
    assert_eq!((of.held, of.fences), (Some((1, false, 0x20a3_c401, 0)), Some(2)));
    assert_eq!(of.store.as_ref().map(|store| (store.by, store.pte)), Some((Some(1), 0x8261_ef28)));
    // The end says how many it was exactly. Another page table for the same address is another story.
    let two = detached(1, REMOVER, 4, Some(7)) + &detached(8, REMOVER, 0, None);
    let story = trace::read(&two).unwrap();
    assert_eq!(story.uses.iter().map(|of| of.repeats).collect::<Vec<_>>(), [7, 1]);
    // A page at the same address has a story of its own, which does not end with that of the page table.
    let page = stale_use(1, "unmapped", 0, None, "").replace("0x10001000", "0x40000000");
    let story = trace::read(&(page.clone() + &detached(3, REMOVER, 0, Some(1)) + &page)).unwrap();
    let all: Vec<_> = story.uses.iter().map(|of| (of.what, of.repeats)).collect();
    assert_eq!(all, [(What::Unmapped, 4), (What::Detached, 1)]);
    assert!(trace::read("riscv_valid_cache_stale_walks hart=2 use=1 time=1 pc=0x1\n").is_ok());
    let wrong = detached(1, REMOVER, 2, None).replace("walks=2", "walks=x");
    assert!(trace::read(&wrong).unwrap_err().contains("walks=x"));
}

#[test]
fn a_report_names_who_removed_the_page_table_that_harts_go_on_walking() {
    let text = detached(1, "by=3 pc=0x1 ra=0x0", 2, Some(2)) + &detached(4, REMOVER, 1 << 17, None);
    let lost = |text: &str| {
        let story = trace::read(text).unwrap();
        // One is no finding by itself, however late the fence comes.
        assert_eq!(verdict::exposure(&story.uses), None);
        let log = Log::of("Linux version 7\n");
        let layout = Layout::new(&log, story.uses.iter().map(|of| of.addr), symbols().image());
        let subject = Subject { kernel: "k".to_owned(), machine: "valid-all".to_owned(), ..Subject::default() };
        let how = verdict::lost(140_000).unwrap();
        report::report(subject, &story, (Outcome::Lost { how }, Vec::new()), None, &symbols(), &layout)
    };
    let report = lost(&text);
    assert_eq!(hunt::exit(&report) as i32, 1);
    let found = report.culprit().unwrap();
    assert_eq!((found.index, found.store.as_ref().unwrap().by.as_str()), (1, "kasan_poison"));
    let text = report.text();
    for part in [
        "harts walk page tables that are gone: 140000 walks began at one",
        "used        by a program, on hart 2",
        "touched     load of 0x40000010",
        "held        0x20a3c401, in memory 0x0: detached",
        "walked      131072 times from the page table that is gone, or more often",
        "removed     by __memset+0x3c called by kasan_poison, on hart 1, 3999 us before",
        "last fence  3999 us before, by handle_exception+0x64, for 0x40000000, ASID 5",
        "ended       never",
    ] {
        assert!(text.contains(part), "no `{part}` in\n{text}");
    }
    assert_eq!(serde_json::to_value(&report).unwrap()["use_groups"][0]["changed_by"], "kasan_poison");
    // The first of two that are equal; and nobody, if nobody was seen.
    let equal = lost(&(detached(1, REMOVER, 8, None) + &detached(4, REMOVER, 8, None)));
    assert_eq!(equal.culprit().unwrap().index, 0);
    let unknown = lost(&detached(1, "by=-1 pc=0x0 ra=0x0", 8, None));
    assert!(unknown.culprit().unwrap().store.is_none());
    assert!(unknown.text().contains("removed     it is not known by whom"), "{}", unknown.text());
    assert!(lost("").culprit().is_none());
}
