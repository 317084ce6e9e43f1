// SPDX-License-Identifier: GPL-2.0

//! Touches new kernel mappings from tracepoints, as early as they exist.
//!
//! The probes play a tracer whose buffer is so new that not every hart sees it yet. They sit on the
//! tracepoint of a function call requested by another CPU, which is how TLB flushes reach a hart,
//! and on that of a page fault in kernel mode. On a kernel that flushes every hart for each new
//! mapping, and on a hart that caches invalid translations, the first probe faults, the second one
//! faults on the fault, and so on until the stack is used up.
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
        let area = self.areas.get(self.area.load(Relaxed));
        if let Some(word) = area.and_then(|area| area.word(page * WORDS_PER_PAGE)) {
            if word.load(Relaxed) != pattern(self.seed, page) {
                self.corrupt.fetch_add(1, Relaxed);
            }
            self.touches.fetch_add(1, Relaxed);
        }
    }
}

struct Tracer(Arc<Target>);

impl Probe<CsdFunctionEntry> for Tracer {
    fn fire(&self, _args: &<CsdFunctionEntry as Tracepoint>::Args) {
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

    for (number, area) in target.areas.iter().enumerate() {
        for page in 0..pages {
            // Probes that see the new area with the old page find it unmapped, or touch it early.
            target.page.store(page, Relaxed);
            target.area.store(number, Relaxed);
            // A kernel that flushes here calls all CPUs, and so fires the first probe.
            area.map(page)?;
            // One that does not is made to: the touch on each CPU is the first one there.
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
