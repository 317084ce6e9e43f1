// SPDX-License-Identifier: GPL-2.0

//! Touches new kernel mappings from IPIs, while other CPUs make and remove more of them.
//!
//! Several workers allocate from vmalloc, fill what they got, have other CPUs read it back from an
//! IPI handler, and free it. They do so at the same time, so CPUs call each other in both
//! directions at once.
//!
//! Loading the module runs the test, see `kernel::kselftest`.

use kernel::{
    cpu::{
        nr_cpu_ids,
        CpuId, //
    },
    kselftest::{
        self,
        Test, //
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

kernel::kselftest! {
    cases: [new_mapping_touched_from_ipi],
    name: "lazy_map_ipi",
    authors: ["lazymap"],
    description: "Touch new kernel mappings from IPIs",
    license: "GPL",
    params: {
        rounds: u32 {
            default: 60,
            range: 1..=1000000,
            description: "Areas that each worker allocates",
        },
        areas: u32 {
            default: 4,
            range: 1..=1024,
            description: "Workers, hence areas that exist at once",
        },
        size: u32 {
            default: 65536,
            range: 4096..=16777216,
            description: "Size of an area in bytes",
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

fn new_mapping_touched_from_ipi(test: &Test) -> kselftest::Result {
    let rounds = module_parameters::rounds.value();
    let areas = module_parameters::areas.value();
    let words = module_parameters::size.value() as usize / size_of::<u64>();

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

    test.report_some("touches", shared.touches.load(Relaxed));
    let crossings = shared.crossings.load(Relaxed);
    if others_online() {
        test.report_some("crossings", crossings);
    } else {
        test.report("crossings", crossings);
    }
    test.expect_eq(
        shared.corrupt.load(Relaxed),
        0,
        fmt!("words that are not what was written"),
    );
    test.expect_eq(shared.errors.load(Relaxed), 0, fmt!("workers that gave up"));
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
