// SPDX-License-Identifier: GPL-2.0

//! Allocates from vmalloc where a CPU must not wait for others.
//!
//! With `GFP_ATOMIC` that is allowed with interrupts disabled and in a softirq. A kernel that makes
//! every CPU flush for a new mapping, and waits for it, deadlocks there as soon as two CPUs do it
//! at once, and warns before.
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
        pattern,
        Test, //
    },
    kthread,
    page::PAGE_SIZE,
    prelude::*,
    smp,
    sync::{
        atomic::{
            Atomic,
            Full,
            Relaxed, //
        },
        Arc,
        SetOnce, //
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
        allocated_with_interrupts_disabled,
        allocated_in_softirq,
    ],
    name: "lazy_map_irqsoff",
    authors: ["lazymap"],
    description: "Allocate from vmalloc where a CPU must not wait for others",
    license: "GPL",
    params: {
        rounds: u32 {
            default: 32,
            range: 1..=1000000,
            description: "Areas that each CPU allocates in each context",
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

const STEP: usize = PAGE_SIZE / size_of::<u64>();

/// Allocates an area full of `word`.
fn allocate(word: u64, flags: Flags) -> Result<VVec<u64>> {
    let words = module_parameters::size.value() as usize / size_of::<u64>();
    Ok(VVec::from_elem(word, words, flags)?)
}

/// What the CPUs have seen of each other's areas.
struct Seen {
    touches: Atomic<u64>,
    corrupt: Atomic<u64>,
}

impl Seen {
    const fn new() -> Self {
        Self {
            touches: Atomic::new(0),
            corrupt: Atomic::new(0),
        }
    }

    /// Reads one word of each page.
    fn read(&self, area: &[u64], word: u64) {
        for found in area.iter().step_by(STEP) {
            if *found != word {
                self.corrupt.fetch_add(1, Relaxed);
            }
            self.touches.fetch_add(1, Relaxed);
        }
    }

    fn report(&self, test: &Test) {
        test.report_some("touches", self.touches.load(Relaxed));
        test.expect_eq(
            self.corrupt.load(Relaxed),
            0,
            fmt!("words that are not what was written"),
        );
    }
}

/// On all CPUs at the same time.
fn allocated_with_interrupts_disabled(test: &Test) -> kselftest::Result {
    let rounds = module_parameters::rounds.value();
    let seen = Seen::new();
    let started = Atomic::new(0u32);

    kthread::on_each_cpu_of_group(
        |member| {
            let cpu = member.cpu;
            for round in 0..rounds {
                let word = own_pattern(cpu, round);
                // CPUs that are in the same round meet with interrupts enabled, so that they are
                // without at the same time.
                started.fetch_add(1, Full);
                while started.load(Relaxed) < (round + 1) * member.count {
                    core::hint::spin_loop();
                }
                let interrupts = local_interrupt_disable();
                let area = allocate(word, GFP_ATOMIC);
                if let Ok(area) = &area {
                    seen.read(area, word);
                }
                drop(interrupts);

                if !test.expect(area.is_ok(), fmt!("memory on CPU {}", cpu.as_u32())) {
                    continue;
                }
                if let Ok(area) = &area {
                    let called = smp::call_function(|_| seen.read(area, word));
                    test.expect_eq(called, Ok(()), fmt!("a call of the other CPUs"));
                }
            }
        },
        || {},
    )?;
    seen.report(test);
    Ok(())
}

/// Allocates in a softirq.
#[pin_data]
struct Softirq {
    word: u64,
    area: SetOnce<VVec<u64>>,
    /// Not 0 if the context was not one in which a CPU must not wait.
    may_wait: Atomic<i32>,
    #[pin]
    work: Work<Softirq>,
}

impl_has_work! {
    impl HasWork<Self> for Softirq { self.work }
}

impl Softirq {
    fn new(word: u64) -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Softirq {
                word,
                area: SetOnce::new(),
                may_wait: Atomic::new(0),
                work <- new_work!("lazy_map_irqsoff::Softirq::work"),
            }),
            GFP_KERNEL,
        )
    }
}

impl WorkItem for Softirq {
    type Pointer = Arc<Softirq>;

    fn run(this: Arc<Softirq>) {
        if smp::on_each_cpu(|_| {}).is_ok() {
            this.may_wait.store(1, Relaxed);
        }
        if let Ok(area) = allocate(this.word, GFP_ATOMIC) {
            this.area.populate(area);
        }
    }
}

/// On all CPUs at the same time.
fn allocated_in_softirq(test: &Test) -> kselftest::Result {
    let seen = Seen::new();
    for round in 0..module_parameters::rounds.value() {
        let mut items = KVec::new();
        for cpu in (0..nr_cpu_ids()).filter_map(CpuId::from_u32) {
            items.push(Softirq::new(own_pattern(cpu, round))?, GFP_KERNEL)?;
        }
        smp::on_each_cpu(|cpu| {
            if let Some(item) = items.get(cpu.as_u32() as usize) {
                // A new work item is on no queue, so there is always room for it. This queue runs
                // it in a softirq of this CPU.
                let _ = workqueue::system_bh().enqueue(item.clone());
            }
        })?;
        // Before anything returns, because they run code of the module.
        for item in &items {
            item.work.flush();
        }

        for item in &items {
            test.expect_eq(item.may_wait.load(Relaxed), 0, fmt!("the context"));
            // Not every possible CPU is online.
            if let Some(area) = item.area.as_ref() {
                smp::on_each_cpu(|_| seen.read(area, item.word))?;
            }
        }
    }
    seen.report(test);
    Ok(())
}
