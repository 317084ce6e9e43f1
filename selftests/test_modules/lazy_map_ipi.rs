// SPDX-License-Identifier: GPL-2.0

//! Touches new kernel mappings from IPIs, while other CPUs make and remove more of them.
//!
//! Several workers allocate from vmalloc, fill what they got, have other CPUs read it back from an
//! IPI handler, and free it. They do so at the same time, so CPUs call each other in both
//! directions at once.
//!
//! Loading the module runs the test. It loads only if the test passes.

use kernel::{
    cpu::{
        nr_cpu_ids,
        CpuId, //
    },
    prelude::*,
    smp,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc, //
    },
    workqueue::{
        self,
        impl_has_work,
        new_work,
        Work,
        WorkItem, //
    },
};

module! {
    type: LazyMapIpi,
    name: "lazy_map_ipi",
    authors: ["lazymap"],
    description: "Touch new kernel mappings from IPIs",
    license: "GPL",
    params: {
        rounds: u32 {
            default: 60,
            description: "Areas that each worker allocates, 1 to 1000000 (default 60)",
        },
        areas: u32 {
            default: 4,
            description: "Workers, hence areas that exist at once, 1 to 1024 (default 4)",
        },
        size: u32 {
            default: 65536,
            description: "Size of an area in bytes, 4096 to 16777216 (default 65536)",
        },
    },
}

/// One word of each page is read back.
const STEP: usize = kernel::page::PAGE_SIZE / size_of::<u64>();

/// What word `index` of an area must contain.
fn pattern(seed: u64, index: usize) -> u64 {
    (seed + index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// What the workers have in common.
struct Shared {
    /// Words read in an IPI handler.
    touches: Atomic<u64>,
    /// Handlers that ran on another CPU than the one that asked for it.
    crossings: Atomic<u64>,
    corrupt: Atomic<u64>,
    errors: Atomic<u64>,
}

impl Shared {
    /// Reads an area back; runs in an IPI handler.
    fn check(&self, area: &[u64], seed: u64, sender: CpuId, here: CpuId) {
        let words = area.iter().enumerate().step_by(STEP);
        let mut touches = 0;
        for (index, word) in words {
            if *word != pattern(seed, index) {
                self.corrupt.fetch_add(1, Relaxed);
            }
            touches += 1;
        }
        self.touches.fetch_add(touches, Relaxed);
        if here != sender {
            self.crossings.fetch_add(1, Relaxed);
        }
    }
}

/// One worker.
#[pin_data]
struct Worker {
    number: u32,
    rounds: u32,
    words: usize,
    shared: Arc<Shared>,
    #[pin]
    work: Work<Worker>,
}

impl_has_work! {
    impl HasWork<Self> for Worker { self.work }
}

impl Worker {
    fn start(number: u32, rounds: u32, words: usize, shared: &Arc<Shared>) -> Result<Arc<Self>> {
        let shared = shared.clone();
        let worker = Arc::pin_init(
            pin_init!(Worker {
                number,
                rounds,
                words,
                shared,
                work <- new_work!("lazy_map_ipi::Worker::work"),
            }),
            GFP_KERNEL,
        )?;
        // A new work item is on no queue, so there is always room for it.
        let _ = workqueue::system_unbound().enqueue(worker.clone());
        Ok(worker)
    }

    fn round(&self, round: u32) -> Result {
        let seed = u64::from(self.number) << 48 | u64::from(round) << 24;
        let mut area = VVec::with_capacity(self.words, GFP_KERNEL)?;
        for index in 0..self.words {
            area.push(pattern(seed, index), GFP_KERNEL)?;
        }

        let sender = CpuId::current();
        let check = |here| self.shared.check(&area, seed, sender, here);
        match round % 3 {
            0 => smp::on_each_cpu(check),
            1 => smp::call_function(check),
            _ => {
                for cpu in (0..nr_cpu_ids()).filter_map(CpuId::from_u32) {
                    match smp::call_function_single(cpu, check) {
                        // Not every possible CPU is online.
                        Err(ENXIO) => continue,
                        other => other?,
                    }
                }
                Ok(())
            }
        }
    }
}

impl WorkItem for Worker {
    type Pointer = Arc<Worker>;

    fn run(this: Arc<Worker>) {
        for round in 0..this.rounds {
            if let Err(error) = this.round(round) {
                pr_err!("worker {}, round {round}: {error:?}\n", this.number);
                this.shared.errors.fetch_add(1, Relaxed);
                break;
            }
        }
    }
}

struct LazyMapIpi;

impl LazyMapIpi {
    fn test(rounds: u32, areas: u32, words: usize) -> Result {
        let shared = Arc::new(
            Shared {
                touches: Atomic::new(0),
                crossings: Atomic::new(0),
                corrupt: Atomic::new(0),
                errors: Atomic::new(0),
            },
            GFP_KERNEL,
        )?;

        let mut workers = KVec::with_capacity(areas as usize, GFP_KERNEL)?;
        let mut started = Ok(());
        for number in 0..areas {
            started = Worker::start(number, rounds, words, &shared)
                .and_then(|worker| Ok(workers.push(worker, GFP_KERNEL)?));
            if started.is_err() {
                break;
            }
        }
        // Workers run code of the module, so all have to be done before anything returns.
        for worker in &workers {
            worker.work.flush();
        }
        started?;

        let touches = shared.touches.load(Relaxed);
        let crossings = shared.crossings.load(Relaxed);
        pr_info!("touches: {touches}\n");
        pr_info!("crossings: {crossings}\n");
        let corrupt = shared.corrupt.load(Relaxed);
        if corrupt != 0 {
            pr_err!("{corrupt} words read were not what was written\n");
            return Err(EIO);
        }
        if shared.errors.load(Relaxed) != 0 {
            return Err(ENOMEM);
        }
        if touches == 0 || (crossings == 0 && Self::others_online()) {
            pr_err!("nothing was touched from an IPI\n");
            return Err(ENODATA);
        }
        Ok(())
    }

    /// Whether there is a second CPU to touch anything.
    fn others_online() -> bool {
        let calls = Atomic::new(0u32);
        let counted = smp::call_function(|_| {
            calls.fetch_add(1, Relaxed);
        });
        counted.is_ok() && calls.load(Relaxed) > 0
    }
}

impl kernel::Module for LazyMapIpi {
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

        Self::test(rounds, areas, size as usize / size_of::<u64>())
            .inspect_err(|_| pr_err!("FAIL\n"))?;
        pr_info!("PASS\n");
        Ok(Self)
    }
}
