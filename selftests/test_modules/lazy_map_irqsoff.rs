// SPDX-License-Identifier: GPL-2.0

//! Allocates from vmalloc, and reads new mappings, where a CPU must not wait for others.
//!
//! `GFP_ATOMIC` allows allocations with interrupts disabled. A kernel that makes every CPU flush
//! for a new mapping, and waits for it, deadlocks there as soon as two CPUs do it at once, and
//! warns before. A softirq may not allocate, see `__vmalloc_node_range()`: the locks of vmalloc are
//! also taken with softirqs enabled. But it may read what already exists.
//!
//! What one CPU has allocated is read on all others.
//!
//! Loading the module runs the test, see `kernel::kselftest`.

use kernel::{
    alloc::Flags,
    cpu::{
        nr_cpu_ids,
        CpuId, //
    },
    interrupt::local_interrupt_disable,
    kselftest::{
        self,
        kselftests,
        pattern,
        Test, //
    },
    kthread,
    prelude::*,
    smp,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc, //
    },
    vmalloc::WORDS_PER_PAGE,
    workqueue::{
        self,
        impl_has_work,
        new_work,
        Work,
        WorkItem, //
    },
};

mod touch;

use touch::{
    Meeting,
    Met,
    Place, //
};

kernel::kselftest_module! {
    tests: tests,
    name: "lazy_map_irqsoff",
    authors: ["lazymap"],
    description: "Allocate and read new memory where a CPU must not wait for others",
    license: "GPL",
    params: {
        rounds: u32 {
            default: 32,
            range: 1..=1000000,
            description: "Areas that are allocated for each CPU, in each case",
        },
        size: u32 {
            default: 16384,
            range: 4096..=1048576,
            description: "Size of an area in bytes",
        },
    },
}

/// The word that an area is full of.
fn own_pattern(cpu: CpuId, round: u32) -> u64 {
    pattern(u64::from(cpu.as_u32()) << 32, round as usize)
}

/// Allocates an area full of `word`.
fn allocate(word: u64, flags: Flags) -> Result<VVec<u64>> {
    let words = module_parameters::size.value() as usize / size_of::<u64>();
    Ok(VVec::from_elem(word, words, flags)?)
}

/// Where an area is, and how many pages it has.
fn place(area: &VVec<u64>) -> (usize, usize) {
    (area.as_ptr().addr(), area.len().div_ceil(WORDS_PER_PAGE))
}

/// What the CPUs have seen of each other's areas.
struct Seen {
    met: Met,
    corrupt: Atomic<u64>,
}

impl Seen {
    const fn new() -> Self {
        Self {
            met: Met::new(),
            corrupt: Atomic::new(0),
        }
    }

    /// Reads one word of each page.
    fn read(&self, at: Place, area: &[u64], word: u64) {
        for found in area.iter().step_by(WORDS_PER_PAGE) {
            if self.met.read(at, found) != word {
                self.corrupt.fetch_add(1, Relaxed);
            }
        }
    }

    fn report(&self, test: &Test) {
        self.met.report(test);
        test.expect_eq(
            self.corrupt.load(Relaxed),
            0,
            fmt!("words that are not what was written"),
        );
    }
}

/// An area, and the word that it is full of.
struct Area {
    words: VVec<u64>,
    word: u64,
}

/// Reads areas in a softirq.
#[pin_data]
struct Softirq {
    areas: Arc<KVec<Area>>,
    seen: Arc<Seen>,
    /// Times that it was queued, and that it has run.
    queued: Atomic<u64>,
    ran: Atomic<u64>,
    /// Whether it ran in a context in which a CPU may wait.
    may_wait: Atomic<bool>,
    #[pin]
    work: Work<Softirq>,
}

impl_has_work! {
    impl HasWork<Self> for Softirq { self.work }
}

impl Softirq {
    fn new(areas: Arc<KVec<Area>>, seen: Arc<Seen>) -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Softirq {
                areas,
                seen,
                queued: Atomic::new(0),
                ran: Atomic::new(0),
                may_wait: Atomic::new(false),
                work <- new_work!("lazy_map_irqsoff::Softirq::work"),
            }),
            GFP_KERNEL,
        )
    }
}

impl WorkItem for Softirq {
    type Pointer = Arc<Softirq>;

    fn run(this: Arc<Softirq>) {
        if smp::on_each_cpu(|_, _| {}).is_ok() {
            this.may_wait.store(true, Relaxed);
        }
        for area in this.areas.iter() {
            this.seen.read(Place::Softirq, &area.words, area.word);
        }
        this.ran.fetch_add(1, Relaxed);
    }
}

#[kselftests]
mod tests {
    use super::*;

    /// All CPUs allocate with interrupts disabled at the same time.
    #[test]
    fn allocated_with_interrupts_disabled(test: &Test) -> kselftest::Result {
        if cfg!(CONFIG_PREEMPT_RT) {
            return Err(test.skip(fmt!("the locks of vmalloc sleep on PREEMPT_RT")));
        }
        let seen = Seen::new();
        let meeting = Meeting::new();

        kthread::on_each_cpu_of_group(
            |member| {
                let cpu = member.cpu;
                for round in 0..module_parameters::rounds.value() {
                    let word = own_pattern(cpu, round);
                    // Twice, because it is likely to get the same place again. CPUs in the same
                    // round meet with interrupts enabled, so that they disable them at the same
                    // time.
                    let mut time = 2 * u64::from(round);
                    let mut met = true;
                    let area = seen.met.remade(
                        || {
                            met = met && meeting.meet(time, member.count);
                            time += 1;
                            let interrupts = local_interrupt_disable();
                            let area = allocate(word, GFP_ATOMIC);
                            if let Ok(area) = &area {
                                seen.read(Place::TaskWithoutInterrupts, area, word);
                            }
                            drop(interrupts);
                            area
                        },
                        place,
                    );
                    // The others wait, even if there was no memory.
                    while met && time < 2 * u64::from(round) + 2 {
                        met = meeting.meet(time, member.count);
                        time += 1;
                    }
                    if !met {
                        break;
                    }
                    match area {
                        Ok(area) => {
                            let called =
                                smp::call_function(|_, _| seen.read(Place::Ipi, &area, word));
                            test.expect_eq(called, Ok(()), fmt!("a call of the other CPUs"));
                        }
                        Err(error) => {
                            test.fail(fmt!("no memory on CPU {}: {error:?}", cpu.as_u32()))
                        }
                    }
                }
            },
            || {},
        )?;
        seen.report(test);
        Ok(())
    }

    /// Softirqs on all CPUs read new areas at the same time.
    #[test]
    fn read_in_softirq(test: &Test) -> kselftest::Result {
        let seen = Arc::new(Seen::new(), GFP_KERNEL)?;
        let mut expected = 0;
        for round in 0..module_parameters::rounds.value() {
            test.go_on()?;
            let mut areas = KVec::new();
            for cpu in (0..nr_cpu_ids()).filter_map(CpuId::from_u32) {
                let word = own_pattern(cpu, round);
                let words = seen.met.remade(|| allocate(word, GFP_KERNEL), place)?;
                areas.push(Area { words, word }, GFP_KERNEL)?;
            }
            let pages: usize = areas.iter().map(|area| place(&area.words).1).sum();
            let areas = Arc::new(areas, GFP_KERNEL)?;
            let mut items = KVec::new();
            for _ in 0..nr_cpu_ids() {
                items.push(Softirq::new(areas.clone(), seen.clone())?, GFP_KERNEL)?;
            }
            let cpus = Atomic::new(0u64);
            let queue = |cpu: CpuId| {
                cpus.fetch_add(1, Relaxed);
                if let Some(item) = items.get(cpu.as_u32() as usize) {
                    // A new work item is not on a queue, so queueing it always succeeds. This queue
                    // runs it in a softirq of this CPU.
                    item.queued.fetch_add(1, Relaxed);
                    let _ = workqueue::system_bh().enqueue(item.clone());
                }
            };
            let asked = if cfg!(CONFIG_PREEMPT_RT) {
                // An IPI must not raise one there, see do_softirq_post_smp_call_flush().
                kthread::on_each_cpu(queue, || {})
            } else {
                smp::on_each_cpu(|cpu, _| queue(cpu))
            };
            // Before anything returns, because they run code of the module.
            let mut ran = 0;
            for item in &items {
                item.work.flush();
                test.expect(!item.may_wait.load(Relaxed), fmt!("not in a task"));
                test.expect_eq(
                    item.ran.load(Relaxed),
                    item.queued.load(Relaxed),
                    fmt!("softirqs that have run on a CPU, and that were asked for"),
                );
                ran += item.ran.load(Relaxed);
            }
            asked?;
            test.require_eq(ran, cpus.load(Relaxed), fmt!("softirqs of all CPUs"))?;
            expected += ran * pages as u64;
        }
        seen.report(test);
        test.expect_eq(
            seen.met.touches(),
            expected,
            fmt!("touches of all pages in all softirqs"),
        );
        Ok(())
    }
}
