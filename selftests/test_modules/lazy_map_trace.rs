// SPDX-License-Identifier: GPL-2.0

//! Touches new kernel mappings from tracepoints, as early as they exist.
//!
//! The probes play a tracer whose buffer grows at a known address and is so new that not every
//! hart sees it yet. They sit on the tracepoint of a function call requested by another CPU, which
//! is how TLB flushes reach a hart, and on that of a page fault in kernel mode. On a kernel that
//! flushes every hart for each new mapping, and on a hart that caches invalid translations, the
//! first probe faults, the second one faults on the fault, and so on until the stack is used up.
//!
//! Between the store to a PTE and its announcement no kernel promises anything. So the test finds
//! out first whether the kernel calls all CPUs for a new mapping. If it does, the probes touch a
//! page as soon as its PTE is valid, because their CPU is just being told; otherwise once the
//! mapping has been made.
//!
//! Loading the module runs the test, see `kernel::kselftest`.

use kernel::{
    kselftest::{
        self,
        Test, //
    },
    page::PAGE_SIZE,
    prelude::*,
    smp,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc, //
    },
    tracepoint::probe::{
        CsdFunctionEntry,
        PageFaultKernel,
        Probe,
        Registration,
        Tracepoint, //
    },
    vmalloc::{
        SparseArea,
        WORDS_PER_PAGE, //
    },
};

kernel::kselftest! {
    cases: [new_mapping_touched_from_tracepoint],
    name: "lazy_map_trace",
    authors: ["lazymap"],
    description: "Touch new kernel mappings from tracepoints",
    license: "GPL",
    params: {
        rounds: u32 {
            default: 4,
            range: 1..=1000000,
            description: "How often new areas are made",
        },
        areas: u32 {
            default: 4,
            range: 1..=1024,
            description: "Areas that exist at once",
        },
        size: u32 {
            default: 32768,
            range: 4096..=16777216,
            description: "Size of an area in bytes",
        },
    },
}

/// Mappings in a row that are announced by calling all CPUs, before the next one is expected to be.
const ENOUGH: u32 = 4;

/// What the word at the start of page `page` must contain.
fn pattern(seed: u64, page: usize) -> u64 {
    (seed + page as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1
}

/// New areas, and what the probes found there.
struct Target {
    areas: KVec<SparseArea>,
    seed: u64,
    /// The area that is being mapped, and its page.
    area: Atomic<usize>,
    page: Atomic<usize>,
    /// Whether to touch a page before its mapping has been announced; not 0 if so.
    early: Atomic<i32>,
    /// Calls requested by another CPU, or by the same, since the start.
    calls: Atomic<u64>,
    touches: Atomic<u64>,
    corrupt: Atomic<u64>,
}

impl Target {
    fn new(round: u32, areas: usize, pages: usize) -> Result<Self> {
        let seed = u64::from(round) << 32;
        let mut target = Self {
            areas: KVec::with_capacity(areas, GFP_KERNEL)?,
            seed,
            area: Atomic::new(0),
            page: Atomic::new(0),
            early: Atomic::new(0),
            calls: Atomic::new(0),
            touches: Atomic::new(0),
            corrupt: Atomic::new(0),
        };
        for _ in 0..areas {
            let area = SparseArea::new(pages, |word| pattern(seed, word / WORDS_PER_PAGE))?;
            target.areas.push(area, GFP_KERNEL)?;
        }
        Ok(target)
    }

    fn touch(&self) {
        let page = self.page.load(Relaxed);
        let Some(area) = self.areas.get(self.area.load(Relaxed)) else {
            return;
        };
        let word = page * WORDS_PER_PAGE;
        let value = if self.early.load(Relaxed) != 0 {
            area.peek(word)
        } else {
            area.word(word).map(|word| word.load(Relaxed))
        };
        if let Some(value) = value {
            if value != pattern(self.seed, page) {
                self.corrupt.fetch_add(1, Relaxed);
            }
            self.touches.fetch_add(1, Relaxed);
        }
    }
}

struct Tracer(Arc<Target>);

impl Probe<CsdFunctionEntry> for Tracer {
    fn fire(&self, _args: &<CsdFunctionEntry as Tracepoint>::Args) {
        self.0.calls.fetch_add(1, Relaxed);
        self.0.touch();
    }
}

impl Probe<PageFaultKernel> for Tracer {
    fn fire(&self, _args: &<PageFaultKernel as Tracepoint>::Args) {
        self.0.touch();
    }
}

/// Attaches a tracer, or says which tracepoint the kernel lacks.
fn attach<T: Tracepoint>(
    test: &Test,
    target: &Arc<Target>,
) -> kselftest::Result<Pin<KBox<Registration<T, Tracer>>>>
where
    Tracer: Probe<T>,
{
    let tracer = Registration::new(Tracer(target.clone()));
    KBox::pin_init(tracer, GFP_KERNEL).map_err(|error| match error {
        ENOENT => test.skip(fmt!("no tracepoint {}", T::NAME)),
        error => error.into(),
    })
}

/// Maps page after page of new areas under the eyes of the tracers; returns the touches.
fn round(
    test: &Test,
    round: u32,
    areas: usize,
    pages: usize,
    others: u64,
) -> kselftest::Result<u64> {
    let target = Arc::new(Target::new(round, areas, pages)?, GFP_KERNEL)?;
    let calls = attach::<CsdFunctionEntry>(test, &target)?;
    let faults = attach::<PageFaultKernel>(test, &target)?;
    let mut told = 0;

    for (number, area) in target.areas.iter().enumerate() {
        for page in 0..pages {
            // The page first: a probe in between sees page 0 of the last area, which is mapped.
            target.page.store(page, Relaxed);
            target.area.store(number, Relaxed);
            let calls = target.calls.load(Relaxed);
            area.map(page)?;
            if target.calls.load(Relaxed) - calls >= others {
                told += 1;
                // Some calls have nothing to do with this. Many are no coincidence.
                target.early.store(i32::from(told >= ENOUGH), Relaxed);
            } else {
                told = 0;
                target.early.store(0, Relaxed);
            }
            // All CPUs that were not called yet are now, and touch the page for the first time.
            let before = target.touches.load(Relaxed);
            smp::on_each_cpu(|_| {})?;
            test.require(
                target.touches.load(Relaxed) != before,
                fmt!("a probe touched page {page} of area {number} in round {round}"),
            )?;
        }
    }

    drop((calls, faults));
    test.require_eq(
        target.corrupt.load(Relaxed),
        0,
        fmt!("words that are not what was written"),
    )?;
    Ok(target.touches.load(Relaxed))
}

fn new_mapping_touched_from_tracepoint(test: &Test) -> kselftest::Result {
    let rounds = module_parameters::rounds.value();
    let areas = module_parameters::areas.value() as usize;
    let pages = module_parameters::size.value() as usize / PAGE_SIZE;

    let online = Atomic::new(0u64);
    smp::on_each_cpu(|_| {
        online.fetch_add(1, Relaxed);
    })?;
    let others = u64::max(1, online.load(Relaxed) - 1);

    let mut touches = 0;
    for number in 0..rounds {
        touches += round(test, number, areas, pages, others)?;
    }
    test.report_some("touches", touches);
    Ok(())
}
