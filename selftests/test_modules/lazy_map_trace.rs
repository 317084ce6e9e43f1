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
            description: "Number of areas that are used one after the other, 1 to 1000 (default 4)",
        },
        pages: u32 {
            default: 32,
            description: "Pages in each area, 1 to 4096; each is a new mapping (default 32)",
        },
    },
}

/// What the word at the start of page `page` must contain.
fn pattern(round: u32, page: usize) -> u64 {
    (u64::from(round) << 32 | page as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1
}

/// A new area, and what the probes found there.
struct Target {
    area: SparseArea,
    round: u32,
    /// The page that is being mapped.
    page: Atomic<usize>,
    touches: Atomic<u64>,
    corrupt: Atomic<u64>,
}

impl Target {
    fn touch(&self) {
        let page = self.page.load(Relaxed);
        if let Some(word) = self.area.word(page * WORDS_PER_PAGE) {
            if word.load(Relaxed) != pattern(self.round, page) {
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

/// Maps `pages` pages one after the other under the eyes of the tracers; returns the touches.
fn run(round: u32, pages: usize) -> Result<u64> {
    let target = Arc::new(
        Target {
            area: SparseArea::new(pages, |word| pattern(round, word / WORDS_PER_PAGE))?,
            round,
            page: Atomic::new(0),
            touches: Atomic::new(0),
            corrupt: Atomic::new(0),
        },
        GFP_KERNEL,
    )?;
    let calls = attach::<CsdFunctionEntry>(&target)?;
    let faults = attach::<PageFaultKernel>(&target)?;

    for page in 0..pages {
        target.page.store(page, Relaxed);
        // A kernel that flushes here calls all CPUs, and so fires the first probe.
        target.area.map_next()?;
        // One that does not is made to: the touch on each CPU is the first one there.
        let before = target.touches.load(Relaxed);
        smp::on_each_cpu(|_| {})?;
        if target.touches.load(Relaxed) == before {
            pr_err!("round {round}, page {page}: no probe touched the new page\n");
            return Err(ENODATA);
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
        let pages = module_parameters::pages.value();
        if !(1..=1000).contains(&rounds) {
            pr_err!("rounds={rounds}: want 1 to 1000\n");
            return Err(EINVAL);
        }
        if !(1..=4096).contains(&pages) {
            pr_err!("pages={pages}: want 1 to 4096\n");
            return Err(EINVAL);
        }

        let mut touches = 0;
        for round in 0..rounds {
            touches += run(round, pages as usize).inspect_err(|_| pr_err!("FAIL\n"))?;
        }
        pr_info!("touches: {touches}\n");
        pr_info!("PASS\n");
        Ok(Self)
    }
}
