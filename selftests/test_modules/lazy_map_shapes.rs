// SPDX-License-Identifier: GPL-2.0

//! Touches what each producer of kernel mappings makes.
//!
//! Each producer announces its own mappings, so each of them can forget to. A mapping is written by
//! the CPU that asked for it and read on all others at once, at its start, its end and in between.
//!
//! Loading the module runs the test, see `kernel::kselftest`.

use kernel::{
    cpu::{
        nr_cpu_ids,
        CpuId, //
    },
    kselftest::{
        self,
        pattern,
        Test, //
    },
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

kernel::kselftest! {
    cases: [
        vmap,
        vm_map_ram,
        vmalloc,
        vmalloc_huge,
        ioremap,
        percpu_chunks,
    ],
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
    },
}

/// Sizes of mappings in pages: around those where page tables or methods change.
const SIZES: &[usize] = &[
    1, 2, 3, 16, 31, 32, 33, 63, 64, 65, 511, 512, 513, 1024, 4096, 8192, 32768, 131072, 262144,
];

/// The sizes that are not above `mib` MiB.
fn sizes(mib: u32) -> impl Iterator<Item = usize> {
    let limit = (mib as usize) << 20;
    SIZES
        .iter()
        .copied()
        .filter(move |pages| pages * PAGE_SIZE <= limit)
}

/// How many pages of a mapping are touched.
const TOUCHED: usize = 64;

/// The pages of a mapping that are touched: all, or a few and the last one.
fn touched(pages: usize) -> impl Iterator<Item = usize> {
    let step = usize::max(1, pages / TOUCHED);
    Iterator::chain((0..pages).step_by(step), [pages - 1])
}

/// Reads the start of some pages on all CPUs and compares.
fn check(
    test: &Test,
    pages: usize,
    touches: &Atomic<u64>,
    read: impl Fn(CpuId, usize) -> Option<u64> + Sync,
    expected: impl Fn(CpuId, usize) -> u64 + Sync,
) -> Result {
    let compare = |cpu: CpuId| {
        for page in touched(pages) {
            let word = page * WORDS_PER_PAGE;
            test.expect_eq(
                read(cpu, word),
                Some(expected(cpu, word)),
                fmt!("page {page} of {pages} on CPU {}", cpu.as_u32()),
            );
            touches.fetch_add(1, Relaxed);
        }
    };
    // All others first: this CPU has touched it.
    smp::call_function(compare)?;
    smp::on_each_cpu(compare)
}

/// Distinct pages of a mapping.
const DISTINCT: usize = 4;

/// A mapping with pages that are mapped more than once.
fn check_repeated(
    test: &Test,
    limit: u32,
    map: impl Fn(usize) -> Result<Mapping>,
) -> kselftest::Result {
    let touches = Atomic::new(0u64);
    for _ in 0..module_parameters::rounds.value() {
        for pages in sizes(limit) {
            let mapping = map(pages)?;
            check(
                test,
                pages,
                &touches,
                |_, word| mapping.word(word).map(|word| word.load(Relaxed)),
                |_, word| pattern(0, word % (DISTINCT * WORDS_PER_PAGE)),
            )?;
        }
    }
    test.report_some("touches", touches.load(Relaxed));
    Ok(())
}

fn vmap(test: &Test) -> kselftest::Result {
    check_repeated(test, module_parameters::mapped.value(), |pages| {
        Mapping::vmap(DISTINCT, pages, |word| pattern(0, word))
    })
}

fn vm_map_ram(test: &Test) -> kselftest::Result {
    check_repeated(test, module_parameters::mapped.value(), |pages| {
        Mapping::vm_map_ram(DISTINCT, pages, |word| pattern(0, word))
    })
}

fn vmalloc(test: &Test) -> kselftest::Result {
    let touches = Atomic::new(0u64);
    for _ in 0..module_parameters::rounds.value() {
        for pages in sizes(module_parameters::allocated.value()) {
            let mut area = VVec::<u64>::from_elem(0, pages * WORDS_PER_PAGE, GFP_KERNEL)?;
            for page in 0..pages {
                area[page * WORDS_PER_PAGE] = pattern(0, page * WORDS_PER_PAGE);
            }
            check(
                test,
                pages,
                &touches,
                |_, word| area.get(word).copied(),
                |_, word| pattern(0, word),
            )?;
        }
    }
    test.report_some("touches", touches.load(Relaxed));
    Ok(())
}

fn vmalloc_huge(test: &Test) -> kselftest::Result {
    let touches = Atomic::new(0u64);
    for _ in 0..module_parameters::rounds.value() {
        for pages in sizes(module_parameters::allocated.value()) {
            let mapping = Mapping::vmalloc_huge(pages)?;
            for page in 0..pages {
                let index = page * WORDS_PER_PAGE;
                mapping
                    .word(index)
                    .ok_or(EINVAL)?
                    .store(pattern(0, index), Relaxed);
            }
            check(
                test,
                pages,
                &touches,
                |_, word| mapping.word(word).map(|word| word.load(Relaxed)),
                |_, word| pattern(0, word),
            )?;
        }
    }
    test.report_some("touches", touches.load(Relaxed));
    Ok(())
}

fn ioremap(test: &Test) -> kselftest::Result {
    let touches = Atomic::new(0u64);
    for _ in 0..module_parameters::rounds.value() {
        // Keep all of them, so that they have different addresses.
        let mut mappings = KVec::new();
        for number in 0..DISTINCT {
            mappings.push(
                Mapping::ioremap(|word| pattern(0, word + number))?,
                GFP_KERNEL,
            )?;
        }
        for (number, mapping) in mappings.iter().enumerate() {
            check(
                test,
                1,
                &touches,
                |_, word| mapping.word(word).map(|word| word.load(Relaxed)),
                |_, word| pattern(0, word + number),
            )?;
        }
    }
    test.report_some("touches", touches.load(Relaxed));
    Ok(())
}

/// Allocations of per-CPU memory: enough to need new chunks.
const ALLOCATIONS: usize = 32;

/// Pages of each.
const PER_CPU_PAGES: usize = 4;

/// What word `index` of `cpu` contains.
fn own_pattern(cpu: CpuId, index: usize) -> u64 {
    pattern(u64::from(cpu.as_u32()) << 32, index)
}

fn percpu_chunks(test: &Test) -> kselftest::Result {
    let touches = Atomic::new(0u64);
    for _ in 0..module_parameters::rounds.value() {
        let mut allocations = KVec::new();
        for _ in 0..ALLOCATIONS {
            let words = PerCpuWords::new(PER_CPU_PAGES * WORDS_PER_PAGE)?;
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
                &touches,
                |cpu, word| words.word(cpu, word).map(|word| word.load(Relaxed)),
                own_pattern,
            )?;
            allocations.push(words, GFP_KERNEL)?;
        }
    }
    test.report_some("touches", touches.load(Relaxed));
    Ok(())
}
