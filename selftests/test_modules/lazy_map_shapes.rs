// SPDX-License-Identifier: GPL-2.0

//! Touches what each producer of kernel mappings makes.
//!
//! Each producer announces its own mappings, so each of them can forget to. A mapping is written by
//! the CPU that asked for it and read on all others at once, at its start, its end and in between.
//!
//! Loading the module runs the test, see `kernel::kselftest`.

use kernel::{
    bindings,
    cpu::{
        nr_cpu_ids,
        CpuId, //
    },
    kselftest::{
        self,
        kselftests,
        pattern,
        Test, //
    },
    kthread,
    page::PAGE_SIZE,
    prelude::*,
    smp,
    sync::atomic::{
        Atomic,
        Relaxed, //
    },
    vmalloc::{
        mapping::{
            Mapping,
            PerCpuWords, //
        },
        WORDS_PER_PAGE, //
    },
};

mod touch;

use touch::{
    touched,
    Met,
    Place, //
};

kernel::kselftest_module! {
    tests: tests,
    name: "lazy_map_shapes",
    authors: ["lazymap"],
    description: "Touch what each producer of kernel mappings makes",
    license: "GPL",
    params: {
        rounds: u32 {
            default: 2,
            range: 1..=1000000,
            description: "How often all is mapped",
        },
        mapped: u32 {
            default: 512,
            range: 1..=1024,
            description: "Largest mapping of pages that are mapped many times, in MiB",
        },
        allocated: u32 {
            default: 32,
            range: 1..=1024,
            description: "Largest mapping of pages of its own, in MiB",
        },
        outside: u32 {
            default: 0,
            range: 0..=67108863,
            description: "Physical address in MiB of memory or ROM that is not the kernel's; or 0",
        },
    },
}

/// Sizes of mappings in pages: around those where page tables or methods change.
const SIZES: &[usize] = &[
    1, 2, 3, 16, 31, 32, 33, 63, 64, 65, 511, 512, 513, 1024, 4096, 8192, 32768, 131072, 262144,
];

/// Pages of memory that the kernel can use. `vmap()` refuses to map more at once.
fn pages_of_machine() -> usize {
    let mut memory = bindings::sysinfo::default();
    // SAFETY: `memory` can be written.
    unsafe { bindings::si_meminfo(&mut memory) };
    memory.totalram
}

/// The sizes that are not above `mib` MiB.
fn sizes(mib: u32) -> impl Iterator<Item = usize> {
    let limit = (mib as usize) << 20;
    SIZES
        .iter()
        .copied()
        .filter(move |pages| pages * PAGE_SIZE <= limit)
}

/// Reads the start of some pages on all CPUs and compares.
fn check<'a>(
    test: &Test,
    pages: usize,
    met: &Met,
    word: impl Fn(CpuId, usize) -> Option<&'a Atomic<u64>> + Sync,
    expected: impl Fn(CpuId, usize) -> u64 + Sync,
) -> kselftest::Result {
    test.go_on()?;
    let compare = |place, cpu: CpuId| {
        for page in touched(pages) {
            let index = page * WORDS_PER_PAGE;
            test.expect_eq(
                word(cpu, index).map(|word| met.touch(place, word)),
                Some(expected(cpu, index)),
                fmt!("page {page} of {pages} on CPU {}", cpu.as_u32()),
            );
        }
    };
    // All others first: this CPU has touched it.
    smp::call_function(|cpu, _| compare(Place::Ipi, cpu))?;
    smp::on_each_cpu(|cpu, _| compare(Place::TaskWithoutInterrupts, cpu))?;
    Ok(())
}

/// Where a mapping is, and how many pages it has.
fn place(mapping: &Mapping) -> (usize, usize) {
    let start = mapping.word(0).map_or(0, |word| word.as_ptr().addr());
    (start, mapping.words() / WORDS_PER_PAGE)
}

/// Distinct pages of a mapping.
const DISTINCT: usize = 4;

/// A mapping with pages that are mapped more than once.
fn check_repeated(
    test: &Test,
    limit: u32,
    map: impl Fn(usize) -> Result<Mapping>,
) -> kselftest::Result {
    let met = Met::new();
    for _ in 0..module_parameters::rounds.value() {
        for pages in sizes(limit) {
            let mapping = match met.remade(|| map(pages), place) {
                Err(ENOMEM) if pages > pages_of_machine() => {
                    test.note(fmt!("{pages} pages are more than this machine has"));
                    break;
                }
                mapping => mapping?,
            };
            check(
                test,
                pages,
                &met,
                |_, word| mapping.word(word),
                |_, word| pattern(0, word % (DISTINCT * WORDS_PER_PAGE)),
            )?;
        }
    }
    met.report(test);
    Ok(())
}

/// Small mappings that a thread makes at first, and later. All CPUs together need many blocks of
/// addresses, which the kernel hands out by the piece.
const PIECES: usize = 256;
const LATER_PIECES: usize = 16;

/// Makes small mappings, leaves holes between them, and has all CPUs read others that fill these.
fn fill_holes(test: &Test, met: &Met, cpu: CpuId) -> kselftest::Result {
    let seed = u64::from(cpu.as_u32()) << 32;
    let make = |pages| Mapping::vm_map_ram(1, pages, |word| pattern(seed, word));
    let mut kept = KVec::new();
    for number in 0..PIECES {
        let mapping = make(1 + number % 32)?;
        if number % 4 == 0 {
            kept.push(mapping, GFP_KERNEL)?;
        }
    }
    for number in 0..LATER_PIECES {
        let pages = 1 + number * 2;
        let mapping = met.remade(|| make(pages), place)?;
        check(
            test,
            pages,
            met,
            |_, word| mapping.word(word),
            |_, word| pattern(seed, word % WORDS_PER_PAGE),
        )?;
    }
    for mapping in &kept {
        let word = mapping
            .word(mapping.words() - 1)
            .map(|word| word.load(Relaxed));
        test.expect_eq(
            word,
            Some(pattern(seed, WORDS_PER_PAGE - 1)),
            fmt!("last word of {} on CPU {}", mapping.words(), cpu.as_u32()),
        );
    }
    Ok(())
}

/// Order of a page that is mapped by one entry of a higher page table. A page table has as many
/// entries as a page has words.
const HUGE_ORDER: u32 = WORDS_PER_PAGE.ilog2();

/// Maps a block, and fills the start of each of its pages by way of the mapping.
fn filled_block(order: u32) -> Result<Mapping> {
    let mapping = Mapping::ioremap_block(order)?;
    for index in (0..mapping.words()).step_by(WORDS_PER_PAGE) {
        let word = mapping.word(index).ok_or(EINVAL)?;
        word.store(pattern(0, index), Relaxed);
    }
    Ok(mapping)
}

/// Blocks of some orders; returns how many were mapped by a higher page table.
fn check_blocks(
    test: &Test,
    met: &Met,
    orders: impl Iterator<Item = u32>,
) -> kselftest::Result<u64> {
    let mut huge = 0;
    for order in orders {
        let mapping = met.remade(|| filled_block(order), place)?;
        huge += u64::from(mapping.is_huge());
        check(
            test,
            1 << order,
            met,
            |_, word| mapping.word(word),
            |_, word| pattern(0, word),
        )?;
    }
    Ok(huge)
}

/// Sizes of mappings of what is not the kernel's memory, in pages.
const OUTSIDE: &[usize] = &[1, 16, 1 << HUGE_ORDER];

/// Allocations of per-CPU memory: enough to need new chunks.
const ALLOCATIONS: usize = 32;

/// Pages of each.
const PER_CPU_PAGES: usize = 4;

/// What word `index` of `cpu` contains.
fn own_pattern(cpu: CpuId, index: usize) -> u64 {
    pattern(u64::from(cpu.as_u32()) << 32, index)
}

/// Where the parts of all CPUs begin.
fn starts(words: &PerCpuWords) -> impl Iterator<Item = usize> + '_ {
    (0..nr_cpu_ids())
        .filter_map(CpuId::from_u32)
        .filter_map(|cpu| words.word(cpu, 0))
        .map(|word| word.as_ptr().addr())
}

#[kselftests]
mod tests {
    use super::*;

    /// Pages that vmap() maps many times.
    #[test]
    fn vmap(test: &Test) -> kselftest::Result {
        check_repeated(test, module_parameters::mapped.value(), |pages| {
            Mapping::vmap(DISTINCT, pages, |word| pattern(0, word))
        })
    }

    /// Pages that vm_map_ram() maps many times.
    #[test]
    fn vm_map_ram(test: &Test) -> kselftest::Result {
        check_repeated(test, module_parameters::mapped.value(), |pages| {
            Mapping::vm_map_ram(DISTINCT, pages, |word| pattern(0, word))
        })
    }

    /// All CPUs map at once. Each of their new pieces makes the kernel take back blocks that are
    /// hardly in use, and flush.
    #[test]
    fn vm_map_ram_under_pressure(test: &Test) -> kselftest::Result {
        let met = Met::new();
        for _ in 0..module_parameters::rounds.value() {
            test.go_on()?;
            kthread::on_each_cpu(
                |cpu| {
                    if fill_holes(test, &met, cpu).is_err() {
                        test.fail(fmt!("CPU {} has not made all pieces", cpu.as_u32()));
                    }
                },
                || {},
            )?;
        }
        met.report(test);
        Ok(())
    }

    /// Memory from vmalloc(), from one page on.
    #[test]
    fn vmalloc(test: &Test) -> kselftest::Result {
        let met = Met::new();
        for _ in 0..module_parameters::rounds.value() {
            for pages in sizes(module_parameters::allocated.value()) {
                let area = met.remade(
                    || -> Result<VVec<u64>> {
                        let mut area = VVec::from_elem(0, pages * WORDS_PER_PAGE, GFP_KERNEL)?;
                        for page in 0..pages {
                            area[page * WORDS_PER_PAGE] = pattern(0, page * WORDS_PER_PAGE);
                        }
                        Ok(area)
                    },
                    |area| (area.as_ptr().addr(), pages),
                )?;
                test.go_on()?;
                let compare = |at, cpu: CpuId| {
                    for page in touched(pages) {
                        let word = page * WORDS_PER_PAGE;
                        test.expect_eq(
                            area.get(word).map(|word| met.read(at, word)),
                            Some(pattern(0, word)),
                            fmt!("page {page} of {pages} on CPU {}", cpu.as_u32()),
                        );
                    }
                };
                smp::call_function(|cpu, _| compare(Place::Ipi, cpu))?;
                smp::on_each_cpu(|cpu, _| compare(Place::TaskWithoutInterrupts, cpu))?;
            }
        }
        met.report(test);
        Ok(())
    }

    /// Memory from vmalloc_huge(), with huge pages among it.
    #[test]
    fn vmalloc_huge(test: &Test) -> kselftest::Result {
        let met = Met::new();
        let mut huge = 0;
        for _ in 0..module_parameters::rounds.value() {
            for pages in sizes(module_parameters::allocated.value()) {
                let mapping = met.remade(
                    || {
                        let mapping = Mapping::vmalloc_huge(pages)?;
                        for page in 0..pages {
                            let index = page * WORDS_PER_PAGE;
                            let word = mapping.word(index).ok_or(EINVAL)?;
                            word.store(pattern(0, index), Relaxed);
                        }
                        Ok(mapping)
                    },
                    place,
                )?;
                huge += u64::from(mapping.page_order() >= HUGE_ORDER);
                check(
                    test,
                    pages,
                    &met,
                    |_, word| mapping.word(word),
                    |_, word| pattern(0, word),
                )?;
            }
        }
        met.report(test);
        test.report("mappings with huge pages", huge);
        if huge == 0 {
            return Err(test.skip(fmt!(
                "no huge page: `nohugevmalloc`, a small `allocated=`, or memory in pieces"
            )));
        }
        Ok(())
    }

    /// A page that ioremap() maps.
    #[test]
    fn ioremap(test: &Test) -> kselftest::Result {
        let met = Met::new();
        for _ in 0..module_parameters::rounds.value() {
            // Keep all of them, so that they have different addresses.
            let mut mappings = KVec::new();
            for number in 0..DISTINCT {
                let make = || Mapping::ioremap(|word| pattern(0, word + number));
                mappings.push(met.remade(make, place)?, GFP_KERNEL)?;
            }
            for (number, mapping) in mappings.iter().enumerate() {
                check(
                    test,
                    1,
                    &met,
                    |_, word| mapping.word(word),
                    |_, word| pattern(0, word + number),
                )?;
            }
        }
        met.report(test);
        Ok(())
    }

    /// Like `ioremap`, with more than one page.
    #[test]
    fn ioremap_block(test: &Test) -> kselftest::Result {
        let met = Met::new();
        for _ in 0..module_parameters::rounds.value() {
            check_blocks(test, &met, 1..HUGE_ORDER)?;
        }
        met.report(test);
        Ok(())
    }

    /// Blocks that `ioremap()` maps with an entry of a higher page table.
    #[test]
    fn ioremap_huge(test: &Test) -> kselftest::Result {
        let met = Met::new();
        let mut huge = 0;
        for _ in 0..module_parameters::rounds.value() {
            huge += check_blocks(test, &met, [HUGE_ORDER].into_iter())?;
        }
        met.report(test);
        test.report("mappings with huge pages", huge);
        if huge == 0 {
            return Err(test.skip(fmt!(
                "no huge page: `nohugeiomap`, or no CONFIG_HAVE_ARCH_HUGE_VMAP"
            )));
        }
        Ok(())
    }

    /// Only reads: it may be a ROM, as flash memory is on many boards.
    #[test]
    fn memremap(test: &Test) -> kselftest::Result {
        let met = Met::new();
        let physical = u64::from(module_parameters::outside.value()) << 20;
        if physical == 0 {
            return Err(test.skip(fmt!(
                "`outside=` does not say where memory is that is not the kernel's"
            )));
        }
        for _ in 0..module_parameters::rounds.value() {
            for &pages in OUTSIDE {
                let make = || {
                    // SAFETY: Whoever sets the parameter has promised that. Nobody writes it.
                    unsafe { Mapping::memremap(physical, pages) }
                };
                let mapping = met.remade(make, place)?;
                // What other CPUs have to find
                let mut found = KVec::with_capacity(pages, GFP_KERNEL)?;
                for page in 0..pages {
                    let word = mapping.word(page * WORDS_PER_PAGE).ok_or(EINVAL)?;
                    found.push(word.load(Relaxed), GFP_KERNEL)?;
                }
                check(
                    test,
                    pages,
                    &met,
                    |_, word| mapping.word(word),
                    |_, word| found.get(word / WORDS_PER_PAGE).copied().unwrap_or(0),
                )?;
            }
        }
        met.report(test);
        Ok(())
    }

    /// Per-CPU memory, in so many allocations that new chunks are needed.
    #[test]
    fn percpu_chunks(test: &Test) -> kselftest::Result {
        let met = Met::new();
        // Allocations for which the kernel had to map something.
        let mut new = 0;
        for _ in 0..module_parameters::rounds.value() {
            let mut allocations = KVec::new();
            // Behind the last one, in the same chunk: there is address space for all of it, but
            // memory only for what is in use, and a few pages more.
            let mut expected: KVec<usize> = KVec::new();
            for _ in 0..ALLOCATIONS {
                let before = PerCpuWords::mapped_pages();
                let words = met.made_at(
                    &expected,
                    PER_CPU_PAGES,
                    || PerCpuWords::new(PER_CPU_PAGES * WORDS_PER_PAGE),
                    |words| starts(words).next().unwrap_or(0),
                )?;
                new += u64::from(PerCpuWords::mapped_pages() > before);
                expected.clear();
                for start in starts(&words) {
                    expected.push(start + PER_CPU_PAGES * PAGE_SIZE, GFP_KERNEL)?;
                }
                for cpu in (0..nr_cpu_ids()).filter_map(CpuId::from_u32) {
                    for page in 0..PER_CPU_PAGES {
                        let index = page * WORDS_PER_PAGE;
                        // Not every number is that of a possible CPU.
                        if let Some(word) = words.word(cpu, index) {
                            word.store(own_pattern(cpu, index), Relaxed);
                        }
                    }
                }
                check(
                    test,
                    PER_CPU_PAGES,
                    &met,
                    |cpu, word| words.word(cpu, word),
                    own_pattern,
                )?;
                allocations.push(words, GFP_KERNEL)?;
            }
        }
        met.report(test);
        test.report_some("allocations with new pages", new);
        Ok(())
    }
}
