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
    interrupt::{
        local_interrupt_disable,
        LocalInterruptDisabled, //
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
    smp::{
        self,
        AsyncCall, //
    },
    sync::atomic::{
        Acquire,
        Atomic,
        Relaxed,
        Release, //
    },
    vmalloc::{
        SparseArea,
        WORDS_PER_PAGE, //
    },
};

mod touch;

use touch::{
    prime,
    Meeting,
    Met,
    Place, //
};

kernel::kselftest_module! {
    tests: tests,
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

/// Words of an area.
fn words() -> usize {
    module_parameters::size.value() as usize / size_of::<u64>()
}

/// A new area.
fn filled(seed: u64) -> Result<VVec<u64>> {
    let mut area = VVec::with_capacity(words(), GFP_KERNEL)?;
    for index in 0..words() {
        area.push(pattern(seed, index), GFP_KERNEL)?;
    }
    Ok(area)
}

/// What the workers have in common.
struct Shared {
    met: Met,
    /// Handlers that ran on another CPU than the requester's.
    crossings: Atomic<u64>,
    corrupt: Atomic<u64>,
}

impl Shared {
    const fn new() -> Self {
        Self {
            met: Met::new(),
            crossings: Atomic::new(0),
            corrupt: Atomic::new(0),
        }
    }

    /// A new area, where all CPUs have found nothing before.
    fn new_area(&self, seed: u64) -> Result<VVec<u64>> {
        self.met.remade(
            || filled(seed),
            |area| {
                (
                    area.as_ptr().addr(),
                    (words() * size_of::<u64>()).div_ceil(PAGE_SIZE),
                )
            },
        )
    }

    /// Prints what has been counted.
    fn report(&self, test: &Test) {
        self.met.report(test);
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
    }

    /// Reads one word of each page of an area back; runs in an IPI handler.
    fn check(&self, area: &[u64], seed: u64, sender: CpuId, here: CpuId) {
        let place = if here == sender {
            Place::TaskWithoutInterrupts
        } else {
            self.crossings.fetch_add(1, Relaxed);
            Place::Ipi
        };
        for (index, word) in area.iter().enumerate().step_by(WORDS_PER_PAGE) {
            if self.met.read(place, word) != pattern(seed, index) {
                self.corrupt.fetch_add(1, Relaxed);
            }
        }
    }

    /// One round of a worker.
    fn round(&self, worker: u32, round: u32) -> Result {
        let seed = u64::from(worker) << 48 | u64::from(round) << 24;
        let area = self.new_area(seed)?;

        let sender = CpuId::current();
        let check = |here, _: &LocalInterruptDisabled| self.check(&area, seed, sender, here);
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

/// Handlers that call each other, at most.
const DEPTH: usize = 4;

/// An area that is mapped page by page, and what has been read there.
struct Pages<'a> {
    test: &'a Test,
    area: SparseArea,
    seed: u64,
    /// The page that has been mapped last.
    page: Atomic<usize>,
    met: Met,
    /// Words read, for each depth: 0 is the starter of the first calls, the others are handlers.
    touches: [Atomic<u64>; DEPTH],
    /// Calls that were started.
    started: Atomic<u64>,
    /// Calls that were not started, although their CPU is online.
    refused: Atomic<u64>,
    corrupt: Atomic<u64>,
}

impl<'a> Pages<'a> {
    fn new(test: &'a Test, seed: u64) -> Result<Self> {
        let pages = module_parameters::size.value() as usize / PAGE_SIZE;
        Ok(Self {
            test,
            area: SparseArea::new(pages, |word| pattern(seed, word))?,
            seed,
            page: Atomic::new(0),
            met: Met::new(),
            touches: [const { Atomic::new(0) }; DEPTH],
            started: Atomic::new(0),
            refused: Atomic::new(0),
            corrupt: Atomic::new(0),
        })
    }

    fn map(&self, page: usize) -> kselftest::Result {
        self.test.go_on()?;
        prime(self.test, &self.area, page)?;
        self.area.map(page)?;
        self.page.store(page, Release);
        Ok(())
    }

    /// Reads a word of the last page.
    fn touch(&self, depth: usize) {
        let index = self.page.load(Acquire) * WORDS_PER_PAGE;
        let place = match depth {
            0 => Place::TaskWithoutInterrupts,
            _ => Place::Ipi,
        };
        let word = self.area.word(index);
        if word.map(|word| self.met.touch(place, word)) != Some(pattern(self.seed, index)) {
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

    /// Prints what has been counted, down to a depth.
    fn report(&self, depth: usize) {
        let test = self.test;
        self.met.report(test);
        let touches = self.touches.iter().map(|touches| touches.load(Relaxed));
        for (depth, touches) in touches.clone().enumerate().take(depth + 1) {
            test.expect(touches > 0, fmt!("touches at depth {depth}"));
        }
        test.expect_eq(
            touches.skip(1).sum::<u64>(),
            self.started.load(Relaxed),
            fmt!("touches in calls that were started"),
        );
        test.expect_eq(
            self.refused.load(Relaxed),
            0,
            fmt!("calls that could not be started"),
        );
        test.expect_eq(
            self.corrupt.load(Relaxed),
            0,
            fmt!("words that are not what was written"),
        );
    }
}

/// A call of each possible CPU.
type Calls<F> = [Pin<KBox<AsyncCall<F>>>];

fn start<F: Fn(CpuId, &LocalInterruptDisabled) + Sync>(calls: &Calls<F>, cpu: CpuId) -> Result {
    let call = calls.get(cpu.as_u32() as usize).ok_or(EINVAL)?;
    call.as_ref().start(cpu)
}

/// Starts the call of the next online CPU; after the last one comes the first.
fn start_after<F: Fn(CpuId, &LocalInterruptDisabled) + Sync>(
    calls: &Calls<F>,
    cpu: CpuId,
) -> Result {
    let behind = (1..=nr_cpu_ids()).map(|step| (cpu.as_u32() + step) % nr_cpu_ids());
    for next in behind.filter_map(CpuId::from_u32) {
        match start(calls, next) {
            Err(ENXIO) => continue,
            other => return other,
        }
    }
    Err(ENXIO)
}

fn wait<F: Fn(CpuId, &LocalInterruptDisabled) + Sync>(calls: &Calls<F>) -> Result {
    calls.iter().try_for_each(|call| call.wait())
}

#[kselftests]
mod tests {
    use super::*;

    /// Workers allocate at the same time, and make other CPUs read what they got.
    #[test]
    fn new_mapping_touched_from_ipi(test: &Test) -> kselftest::Result {
        let shared = Shared::new();
        kthread::on_any_cpu(
            module_parameters::areas.value(),
            |thread| {
                for round in 0..module_parameters::rounds.value() {
                    if kthread::should_stop() {
                        break;
                    }
                    if let Err(error) = shared.round(thread.number(), round) {
                        test.fail(fmt!("worker {}, round {round}: {error:?}", thread.number()));
                        break;
                    }
                }
            },
            || {},
        )?;
        shared.report(test);
        Ok(())
    }

    /// Handlers of IPIs call the next CPU, and touch a new page.
    #[test]
    fn touched_from_nested_ipis(test: &Test) -> kselftest::Result {
        let pages = Pages::new(test, 1 << 40)?;
        let cpus = nr_cpu_ids() as usize;
        // In a bound thread, because CPUs are kept while it exists: two of them would call the same
        // one when another one goes offline.
        let all_pages = |_: CpuId| -> kselftest::Result {
            // The innermost one first. Each CPU calls the next one, so each is called once.
            smp::with_async_calls(
                cpus,
                |_, _| pages.touch(3),
                |fourth| {
                    let third = |cpu, _: &LocalInterruptDisabled| {
                        pages.count(start_after(fourth, cpu));
                        pages.touch(2);
                    };
                    smp::with_async_calls(cpus, third, |third| {
                        let second = |cpu, _: &LocalInterruptDisabled| {
                            pages.touch(1);
                            pages.count(start_after(third, cpu));
                        };
                        smp::with_async_calls(cpus, second, |second| -> kselftest::Result {
                            for page in 0..pages.area.pages() {
                                pages.map(page)?;
                                smp::on_each_cpu(|cpu, _| {
                                    pages.count(start_after(second, cpu));
                                    pages.touch(0);
                                })?;
                                wait(second)?;
                                wait(third)?;
                                wait(fourth)?;
                            }
                            Ok(())
                        })
                    })
                },
            )???
        };
        loop {
            // It may go offline before it is kept.
            match kthread::on_cpu(CpuId::current(), all_pages, || {}) {
                Err(ENXIO) => continue,
                ran => ran??,
            }
            break;
        }
        pages.report(3);
        Ok(())
    }

    /// A CPU with interrupts disabled calls all CPUs, and all touch a new page.
    #[test]
    fn touched_when_called_with_interrupts_off(test: &Test) -> kselftest::Result {
        let pages = Pages::new(test, 2 << 40)?;
        smp::with_async_calls(
            nr_cpu_ids() as usize,
            |_, _| pages.touch(1),
            |calls| -> kselftest::Result {
                for page in 0..pages.area.pages() {
                    pages.map(page)?;
                    let interrupts = local_interrupt_disable();
                    for cpu in (0..nr_cpu_ids()).filter_map(CpuId::from_u32) {
                        pages.count(start(calls, cpu));
                    }
                    pages.touch(0);
                    drop(interrupts);
                    wait(calls)?;
                }
                Ok(())
            },
        )??;
        pages.report(1);
        Ok(())
    }

    /// All CPUs call all others at the same moment.
    #[test]
    fn touched_by_all_from_all(test: &Test) -> kselftest::Result {
        let shared = Shared::new();
        let meeting = Meeting::new();
        kthread::on_each_cpu_of_group(
            |member| {
                // All spin until the last one arrives.
                for round in 0..module_parameters::rounds.value().div_ceil(4) {
                    let seed = u64::from(member.number) << 48 | u64::from(round) << 24;
                    let area = shared.new_area(seed);
                    // Even without memory: the others wait.
                    if !meeting.meet(u64::from(round), member.count) {
                        break;
                    }
                    let called = area.and_then(|area| {
                        smp::call_function(|here, _| shared.check(&area, seed, member.cpu, here))?;
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
}
