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
//! Loading the module runs the test. It loads only if the test passes.

use kernel::{
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

module! {
    type: LazyMapTrace,
    name: "lazy_map_trace",
    authors: ["lazymap"],
    description: "Touch new kernel mappings from tracepoints",
    license: "GPL",
    params: {
        rounds: u32 {
            default: 4,
            description: "How often new areas are made, 1 to 1000000 (default 4)",
        },
        areas: u32 {
            default: 4,
            description: "Areas that exist at once, 1 to 1024 (default 4)",
        },
        size: u32 {
            default: 32768,
            description: "Size of an area in bytes, 4096 to 16777216 (default 32768)",
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
fn attach<T: Tracepoint>(target: &Arc<Target>) -> Result<Pin<KBox<Registration<T, Tracer>>>>
where
    Tracer: Probe<T>,
{
    KBox::pin_init(Registration::new(Tracer(target.clone())), GFP_KERNEL).inspect_err(|_| {
        pr_err!("cannot attach to the tracepoint {}\n", T::NAME);
    })
}

/// Maps page after page of new areas under the eyes of the tracers; returns the touches.
fn run(round: u32, areas: usize, pages: usize) -> Result<u64> {
    let target = Arc::new(Target::new(round, areas, pages)?, GFP_KERNEL)?;
    let calls = attach::<CsdFunctionEntry>(&target)?;
    let faults = attach::<PageFaultKernel>(&target)?;

    let online = Atomic::new(0u64);
    smp::on_each_cpu(|_| {
        online.fetch_add(1, Relaxed);
    })?;
    let others = u64::max(1, online.load(Relaxed) - 1);
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
            if target.touches.load(Relaxed) == before {
                pr_err!("round {round}, area {number}, page {page}: no probe touched it\n");
                return Err(ENODATA);
            }
        }
    }

    drop((calls, faults));
    match target.corrupt.load(Relaxed) {
        0 => Ok(target.touches.load(Relaxed)),
        corrupt => {
            pr_err!("round {round}: {corrupt} touches read something else than was written\n");
            Err(EIO)
        }
    }
}

struct LazyMapTrace;

impl kernel::Module for LazyMapTrace {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        let rounds = module_parameters::rounds.value();
        let areas = module_parameters::areas.value();
        let size = module_parameters::size.value();
        if !(1..=1_000_000).contains(&rounds) {
            pr_err!("rounds={rounds}: want 1 to 1000000\n");
            return Err(EINVAL);
        }
        if !(1..=1024).contains(&areas) {
            pr_err!("areas={areas}: want 1 to 1024\n");
            return Err(EINVAL);
        }
        if !(4096..=16 << 20).contains(&size) {
            pr_err!("size={size}: want 4096 to 16777216\n");
            return Err(EINVAL);
        }

        let pages = size as usize / PAGE_SIZE;
        let mut touches = 0;
        for round in 0..rounds {
            touches += run(round, areas as usize, pages).inspect_err(|_| pr_err!("FAIL\n"))?;
        }
        pr_info!("touches: {touches}\n");
        pr_info!("PASS\n");
        Ok(Self)
    }
}
