// SPDX-License-Identifier: GPL-2.0

//! Touches new kernel mappings from IPIs, while other CPUs make and remove more of them.
//!
//! Several workers allocate from vmalloc, fill what they got, make other CPUs read it back in an
//! IPI handler, and free it. They do so at the same time, so CPUs call each other in both
//! directions at once. Then handlers call other CPUs themselves, as does code that runs with
//! interrupts disabled, and all CPUs call all others at the same moment.
//!
//! Loading the module runs the test, see `kernel::kselftest`.

use kernel::{
    cpu::{
        nr_cpu_ids,
        CpuId, //
    },
    error::to_result,
    interrupt::local_interrupt_disable,
    kselftest::{
        self,
        pattern,
        Test, //
    },
    kthread,
    prelude::*,
    smp::{
        self,
        AsyncCall, //
    },
    sync::{
        atomic::{
            Acquire,
            Atomic,
            Full,
            Relaxed,
            Release, //
        },
        Arc, //
    },
    vmalloc::{
        SparseArea,
        WORDS_PER_PAGE, //
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
    cases: [
        new_mapping_touched_from_ipi,
        touched_from_nested_ipis,
        touched_when_called_with_interrupts_off,
        touched_by_all_from_all,
    ],
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

/// A new area.
fn filled(words: usize, seed: u64) -> Result<VVec<u64>> {
    let mut area = VVec::with_capacity(words, GFP_KERNEL)?;
    for index in 0..words {
        area.push(pattern(seed, index), GFP_KERNEL)?;
    }
    Ok(area)
}

/// What the workers have in common.
struct Shared {
    /// Words read in an IPI handler.
    touches: Atomic<u64>,
    /// Handlers that ran on another CPU than the requester's.
    crossings: Atomic<u64>,
    corrupt: Atomic<u64>,
    errors: Atomic<u64>,
}

impl Shared {
    fn new() -> Result<Arc<Self>> {
        let shared = Self {
            touches: Atomic::new(0),
            crossings: Atomic::new(0),
            corrupt: Atomic::new(0),
            errors: Atomic::new(0),
        };
        Ok(Arc::new(shared, GFP_KERNEL)?)
    }

    /// Prints what has been counted.
    fn report(&self, test: &Test) {
        test.report_some("touches", self.touches.load(Relaxed));
        let crossings = self.crossings.load(Relaxed);
        if smp::num_online_cpus() > 1 {
            test.report_some("crossings", crossings);
        } else {
            test.report("crossings", crossings);
        }
        test.expect_eq(
            self.corrupt.load(Relaxed),
            0,
            fmt!("words that are not what was written"),
        );
        test.expect_eq(self.errors.load(Relaxed), 0, fmt!("workers that gave up"));
    }

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
        // A new work item is not on a queue, so queueing it always succeeds.
        let _ = workqueue::system_unbound().enqueue(worker.clone());
        Ok(worker)
    }

    fn round(&self, round: u32) -> Result {
        let seed = u64::from(self.number) << 48 | u64::from(round) << 24;
        let area = filled(self.words, seed)?;

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

    let shared = Shared::new()?;
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

    shared.report(test);
    Ok(())
}

/// Handlers that call each other, at most.
const DEPTH: usize = 4;

/// An area that is mapped page by page, and what has been read there.
struct Pages {
    area: SparseArea,
    seed: u64,
    /// The page that has been mapped last.
    page: Atomic<usize>,
    /// Words read, for each depth: 0 is the starter of the first calls, the others are handlers.
    touches: [Atomic<u64>; DEPTH],
    /// Calls that were started.
    started: Atomic<u64>,
    /// Calls that were not started, although their CPU is online.
    refused: Atomic<u64>,
    corrupt: Atomic<u64>,
}

impl Pages {
    fn new(seed: u64) -> Result<Arc<Self>> {
        let bytes = module_parameters::size.value() as usize;
        let pages = Self {
            area: SparseArea::new(bytes / kernel::page::PAGE_SIZE, |word| pattern(seed, word))?,
            seed,
            page: Atomic::new(0),
            touches: [const { Atomic::new(0) }; DEPTH],
            started: Atomic::new(0),
            refused: Atomic::new(0),
            corrupt: Atomic::new(0),
        };
        Ok(Arc::new(pages, GFP_KERNEL)?)
    }

    fn map(&self, page: usize) -> Result {
        self.area.map(page)?;
        self.page.store(page, Release);
        Ok(())
    }

    /// Reads a word of the last page.
    fn touch(&self, depth: usize) {
        let index = self.page.load(Acquire) * WORDS_PER_PAGE;
        let word = self.area.word(index).map(|word| word.load(Relaxed));
        if word != Some(pattern(self.seed, index)) {
            self.corrupt.fetch_add(1, Relaxed);
        }
        if let Some(touches) = self.touches.get(depth) {
            touches.fetch_add(1, Relaxed);
        }
    }

    fn count(&self, started: Result) {
        match started {
            Ok(()) => self.started.fetch_add(1, Relaxed),
            Err(ENXIO) => 0,
            Err(_) => self.refused.fetch_add(1, Relaxed),
        };
    }
}

/// A call of each CPU, which handlers can start, too.
struct Calls<F: Fn(CpuId) + Send + Sync + 'static>(KVec<Pin<KBox<AsyncCall<F>>>>);

impl<F: Fn(CpuId) + Send + Sync + 'static> Calls<F> {
    fn new(f: impl Fn() -> F) -> Result<Arc<Self>> {
        let mut calls = KVec::new();
        for _ in 0..nr_cpu_ids() {
            calls.push(KBox::pin_init(AsyncCall::new(f()), GFP_KERNEL)?, GFP_KERNEL)?;
        }
        Ok(Arc::new(Self(calls), GFP_KERNEL)?)
    }

    fn start(&self, cpu: CpuId) -> Result {
        let call = self.0.get(cpu.as_u32() as usize).ok_or(EINVAL)?;
        call.as_ref().start(cpu)
    }

    /// Starts the call of the next online CPU; after the last one comes the first.
    fn start_after(&self, cpu: CpuId) -> Result {
        let behind = (1..=nr_cpu_ids()).map(|step| (cpu.as_u32() + step) % nr_cpu_ids());
        for next in behind.filter_map(CpuId::from_u32) {
            match self.start(next) {
                Err(ENXIO) => continue,
                other => return other,
            }
        }
        Err(ENXIO)
    }

    fn wait(&self) -> Result {
        self.0.iter().try_for_each(|call| call.wait())
    }
}

/// Runs `f` while no CPU goes online or offline.
fn with_all_cpus_kept(f: impl Fn() -> Result + Sync) -> Result {
    let error = Atomic::new(0i32);
    let run = |_: CpuId| {
        if let Err(failed) = f() {
            error.store(failed.to_errno(), Relaxed);
        }
    };
    // It may go offline before it is kept.
    while let Err(failed) = kthread::on_cpu(CpuId::current(), run, || {}) {
        if failed != ENXIO {
            return Err(failed);
        }
    }
    to_result(error.load(Relaxed))
}

fn touched_from_nested_ipis(test: &Test) -> kselftest::Result {
    let pages = Pages::new(1 << 40)?;
    // The innermost one first. Each CPU calls the next one, so each is called once.
    let fourth = Calls::new(|| {
        let pages = pages.clone();
        move |_| pages.touch(3)
    })?;
    let third = Calls::new(|| {
        let (pages, next) = (pages.clone(), fourth.clone());
        move |cpu| {
            pages.count(next.start_after(cpu));
            pages.touch(2);
        }
    })?;
    let second = Calls::new(|| {
        let (pages, next) = (pages.clone(), third.clone());
        move |cpu| {
            pages.touch(1);
            pages.count(next.start_after(cpu));
        }
    })?;

    with_all_cpus_kept(|| {
        for page in 0..pages.area.pages() {
            pages.map(page)?;
            smp::on_each_cpu(|cpu| {
                pages.count(second.start_after(cpu));
                pages.touch(0);
            })?;
            second.wait()?;
            third.wait()?;
            fourth.wait()?;
        }
        Ok(())
    })?;
    report(test, &pages, 3);
    Ok(())
}

fn touched_when_called_with_interrupts_off(test: &Test) -> kselftest::Result {
    let pages = Pages::new(2 << 40)?;
    let calls = Calls::new(|| {
        let pages = pages.clone();
        move |_| pages.touch(1)
    })?;

    for page in 0..pages.area.pages() {
        pages.map(page)?;
        let interrupts = local_interrupt_disable();
        for cpu in (0..nr_cpu_ids()).filter_map(CpuId::from_u32) {
            pages.count(calls.start(cpu));
        }
        pages.touch(0);
        drop(interrupts);
        calls.wait()?;
    }
    report(test, &pages, 1);
    Ok(())
}

/// Prints what [`Pages`] have counted, down to a depth.
fn report(test: &Test, pages: &Pages, depth: usize) {
    let touches = pages.touches.iter().map(|touches| touches.load(Relaxed));
    for (depth, touches) in touches.clone().enumerate().take(depth + 1) {
        test.expect(touches > 0, fmt!("touches at depth {depth}"));
    }
    test.report_some("touches", touches.clone().sum());
    test.expect_eq(
        touches.skip(1).sum::<u64>(),
        pages.started.load(Relaxed),
        fmt!("touches in calls that were started"),
    );
    test.expect_eq(
        pages.refused.load(Relaxed),
        0,
        fmt!("calls that could not be started"),
    );
    test.expect_eq(
        pages.corrupt.load(Relaxed),
        0,
        fmt!("words that are not what was written"),
    );
}

/// Waits until `count` threads have arrived here, for the `round`th time.
fn meet(arrived: &Atomic<u64>, round: u32, count: u32) {
    arrived.fetch_add(1, Full);
    while arrived.load(Acquire) < u64::from(round + 1) * u64::from(count) {
        core::hint::spin_loop();
    }
}

fn touched_by_all_from_all(test: &Test) -> kselftest::Result {
    let words = module_parameters::size.value() as usize / size_of::<u64>();
    let shared = Shared::new()?;
    let arrived = Atomic::new(0u64);
    kthread::on_each_cpu_of_group(
        |member| {
            // All spin until the last one arrives.
            for round in 0..module_parameters::rounds.value().div_ceil(4) {
                let seed = u64::from(member.number) << 48 | u64::from(round) << 24;
                let area = filled(words, seed);
                // Even without memory: the others wait.
                meet(&arrived, round, member.count);
                let called = area.and_then(|area| {
                    smp::call_function(|here| shared.check(&area, seed, member.cpu, here))?;
                    // And by the one who made it, in case that there is nobody else.
                    shared.check(&area, seed, member.cpu, member.cpu);
                    Ok(())
                });
                if let Err(error) = called {
                    test.fail(fmt!("CPU {}: {error:?}", member.cpu.as_u32()));
                }
            }
        },
        || {},
    )?;
    shared.report(test);
    Ok(())
}
