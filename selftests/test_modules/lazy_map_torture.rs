// SPDX-License-Identifier: GPL-2.0

//! Everything at random, for a given time.
//!
//! Threads move from CPU to CPU and make mappings in every way that the kernel has: in new threads,
//! with interrupts disabled, and while tracers watch. They touch them on all CPUs, keep some for
//! later, and make bad accesses in between. CPUs may go offline and come back in the meantime; the
//! script takes care of that.
//!
//! What a thread does is drawn from the seed, its number and how much it has done, so the same seed
//! makes the same choices; when they take effect is up to the machine.
//!
//! Loading the module runs the test, see `kernel::kselftest`.

use kernel::{
    alloc::Flags,
    cpu::{
        nr_cpu_ids,
        CpuId, //
    },
    execmem::{
        self,
        Text, //
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
    kthread::{
        self,
        Unbound, //
    },
    prelude::*,
    smp,
    sync::atomic::{
        Atomic,
        Relaxed, //
    },
    time::{
        Instant,
        Monotonic, //
    },
    tracepoint::probe::{
        attached,
        CsdFunctionEntry,
        PageFaultKernel,
        Probe,
        Tracepoint, //
    },
    vmalloc::{
        mapping::{
            Mapping,
            PerCpuWords, //
        },
        SparseArea,
        WORDS_PER_PAGE, //
    },
};

mod touch;

use touch::{
    Met,
    Place, //
};

kernel::kselftest_module! {
    tests: tests,
    name: "lazy_map_torture",
    authors: ["lazymap"],
    description: "Make and touch kernel mappings at random",
    license: "GPL",
    params: {
        seconds: u32 {
            default: 10,
            range: 1..=1000000,
            description: "How long the test runs",
        },
        seed: u32 {
            default: 1,
            description: "What the choices are drawn from",
        },
        threads: u32 {
            default: 8,
            range: 1..=1024,
            description: "Threads that do something at the same time",
        },
        memory: u32 {
            default: 64,
            range: 0..=1048576,
            description: "Memory that is kept for later, in MiB",
        },
        interval: u32 {
            default: 5,
            range: 1..=1000000,
            description: "Seconds between statistics",
        },
    },
}

/// What a thread can do next, and how often it does it compared with the others.
const ACTIONS: &[(&str, u64, Action)] = &[
    ("vmalloc", 16, vmalloc),
    ("vmalloc_kept", 8, vmalloc_kept),
    ("vmalloc_atomic", 6, vmalloc_atomic),
    ("vmap", 6, vmap),
    ("vm_map_ram", 6, vm_map_ram),
    ("vmalloc_huge", 2, vmalloc_huge),
    ("ioremap", 4, ioremap),
    ("percpu", 4, percpu),
    ("new_code", 4, new_code),
    ("new_stacks", 4, new_stacks),
    ("bad_access", 6, bad_access),
    ("traced", 1, traced),
];

type Action = fn(&mut Thread<'_>) -> Result;

/// The size of an area that is kept, in pages.
const KEPT_PAGES: usize = 256;
/// Other areas are smaller than this, in pages.
const MOST_PAGES: u64 = 48;
/// An action that is refused this often, and never done, is broken.
const OFTEN: u64 = 64;
/// Distinct pages of mappings that map a page more than once.
const DISTINCT: usize = 4;

/// A stream of numbers (SplitMix64).
struct Random(u64);

impl Random {
    /// The stream of step number `step` of a thread.
    fn new(thread: u32, step: u64) -> Self {
        let seed = u64::from(module_parameters::seed.value());
        let mut random = Self(seed << 32 | u64::from(thread));
        random.0 = random.next() ^ step;
        random
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// A number below `limit`.
    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// An index into [`ACTIONS`].
    fn action(&mut self) -> usize {
        let mut left = self.below(ACTIONS.iter().map(|(_, weight, _)| weight).sum());
        for (index, (_, weight, _)) in ACTIONS.iter().enumerate() {
            match left.checked_sub(*weight) {
                Some(rest) => left = rest,
                None => return index,
            }
        }
        0
    }

    /// A number of pages.
    fn pages(&mut self) -> usize {
        1 + self.below(MOST_PAGES) as usize
    }
}

/// What all threads together have done and seen.
struct Totals {
    /// Times that each action was done, and that it was refused.
    actions: KVec<(Atomic<u64>, Atomic<u64>)>,
    met: Met,
    /// Touches on another CPU than the one that made the mapping.
    crossings: Atomic<u64>,
    /// Threads that moved to another CPU.
    migrations: Atomic<u64>,
    /// Pages that are kept.
    kept: Atomic<u64>,
    corrupt: Atomic<u64>,
    /// Bad accesses that were not reported.
    unreported: Atomic<u64>,
    errors: Atomic<u64>,
}

impl Totals {
    fn new() -> Result<Self> {
        let mut actions = KVec::with_capacity(ACTIONS.len(), GFP_KERNEL)?;
        for _ in ACTIONS {
            actions.push((Atomic::new(0), Atomic::new(0)), GFP_KERNEL)?;
        }
        Ok(Self {
            actions,
            met: Met::new(),
            crossings: Atomic::new(0),
            migrations: Atomic::new(0),
            kept: Atomic::new(0),
            corrupt: Atomic::new(0),
            unreported: Atomic::new(0),
            errors: Atomic::new(0),
        })
    }

    fn actions(&self) -> u64 {
        self.actions
            .iter()
            .map(|(done, _)| done.load(Relaxed))
            .sum()
    }

    /// Actions that ran out of memory, which is not a failure.
    fn refused(&self) -> u64 {
        self.actions
            .iter()
            .map(|(_, refused)| refused.load(Relaxed))
            .sum()
    }

    /// What is wrong, if anything.
    fn failure(&self) -> Option<(u64, &'static str)> {
        [
            (&self.corrupt, "words that are not what was written"),
            (&self.unreported, "bad accesses that were not reported"),
            (&self.errors, "actions that failed"),
        ]
        .into_iter()
        .map(|(count, what)| (count.load(Relaxed), what))
        .find(|(count, _)| *count != 0)
    }
}

/// One thread of the test.
struct Thread<'a> {
    unbound: &'a Unbound,
    test: &'a Test,
    totals: &'a Totals,
    /// For the current step.
    random: Random,
    /// What is kept for later, and the pattern of it.
    kept: KVec<(VVec<u64>, u64)>,
}

impl Thread<'_> {
    /// Acts until the time is up.
    fn run(&mut self, start: Instant<Monotonic>) {
        let number = self.unbound.number();
        let limit = i64::from(module_parameters::seconds.value()) * 1000;
        let mut here = CpuId::current();
        let mut step = 0;
        while start.elapsed().as_millis() < limit && !kthread::should_stop() {
            self.random = Random::new(number, step);
            step += 1;

            let index = self.random.action();
            // An offline CPU refuses.
            if self.random.below(4) == 0 {
                if let Some(cpu) = self.any_cpu() {
                    let _ = self.unbound.migrate_to(cpu);
                }
            }
            if CpuId::current() != here {
                here = CpuId::current();
                self.totals.migrations.fetch_add(1, Relaxed);
            }
            if let (Some((name, _, action)), Some((done, refused))) =
                (ACTIONS.get(index), self.totals.actions.get(index))
            {
                self.act(name, *action, done, refused);
            }
        }
        self.totals
            .kept
            .fetch_sub((self.kept.len() * KEPT_PAGES) as u64, Relaxed);
    }

    fn act(&mut self, name: &str, action: Action, done: &Atomic<u64>, refused: &Atomic<u64>) {
        match action(self) {
            Ok(()) => {
                done.fetch_add(1, Relaxed);
            }
            Err(ENOMEM) => {
                refused.fetch_add(1, Relaxed);
            }
            Err(error) => {
                self.totals.errors.fetch_add(1, Relaxed);
                self.test.fail(fmt!("{name}: {error:?}"));
            }
        }
    }

    /// A CPU that may be offline.
    fn any_cpu(&mut self) -> Option<CpuId> {
        CpuId::from_u32(self.random.below(nr_cpu_ids().into()) as u32)
    }

    /// Reads a word of each page on other CPUs by `read`, which also returns what it should be.
    fn check_each(
        &mut self,
        pages: usize,
        read: impl Fn(Place, CpuId, usize) -> (Option<u64>, u64) + Sync,
    ) -> Result {
        let totals = self.totals;
        let sender = CpuId::current();
        let compare = |place, here: CpuId| {
            for page in 0..pages {
                let (found, expected) = read(place, here, page);
                if found != Some(expected) {
                    totals.corrupt.fetch_add(1, Relaxed);
                }
            }
            if here != sender {
                totals.crossings.fetch_add(1, Relaxed);
            }
        };
        let in_ipi = |here, _: &LocalInterruptDisabled| compare(Place::Ipi, here);
        match self.random.below(4) {
            0 => smp::on_each_cpu(in_ipi),
            1 => smp::call_function(in_ipi),
            2 => match self.any_cpu() {
                Some(cpu) => smp::call_function_single(cpu, in_ipi).or_else(|error| match error {
                    // It is offline.
                    ENXIO => Ok(()),
                    error => Err(error),
                }),
                None => Ok(()),
            },
            _ => {
                compare(Place::Task, sender);
                Ok(())
            }
        }
    }

    fn filled(&self, pages: usize, seed: u64, flags: Flags) -> Result<VVec<u64>> {
        let mut area = VVec::from_elem(0, pages * WORDS_PER_PAGE, flags)?;
        for (page, words) in area.chunks_exact_mut(WORDS_PER_PAGE).enumerate() {
            if let Some(word) = words.first_mut() {
                *word = pattern(seed, page);
            }
        }
        Ok(area)
    }

    fn check_area(&mut self, area: &[u64], seed: u64) -> Result {
        let met = &self.totals.met;
        self.check_each(area.len() / WORDS_PER_PAGE, |place, _, page| {
            let word = area.get(page * WORDS_PER_PAGE);
            (word.map(|word| met.read(place, word)), pattern(seed, page))
        })
    }

    fn check_mapping(&mut self, mapping: &Mapping, seed: u64) -> Result {
        let met = &self.totals.met;
        self.check_each(mapping.words() / WORDS_PER_PAGE, |place, _, page| {
            let word = mapping.word(page * WORDS_PER_PAGE);
            (
                word.map(|word| met.touch(place, word)),
                pattern(seed, page % DISTINCT),
            )
        })
    }
}

fn vmalloc(thread: &mut Thread<'_>) -> Result {
    let (pages, seed) = (thread.random.pages(), thread.random.next());
    let area = thread.filled(pages, seed, GFP_KERNEL)?;
    thread.check_area(&area, seed)
}

/// Puts an area aside, or takes one back that others have not seen for a while.
fn vmalloc_kept(thread: &mut Thread<'_>) -> Result {
    let (put, place, seed) = (
        thread.random.below(2) == 0,
        thread.random.next() as usize,
        thread.random.next(),
    );
    let room = (module_parameters::memory.value() as usize / KEPT_MIB)
        / module_parameters::threads.value() as usize;
    if put && thread.kept.len() < room {
        let area = thread.filled(KEPT_PAGES, seed, GFP_KERNEL)?;
        thread.kept.push((area, seed), GFP_KERNEL)?;
        thread.totals.kept.fetch_add(KEPT_PAGES as u64, Relaxed);
        return Ok(());
    }
    match thread.kept.len() {
        0 => Ok(()),
        length => {
            let (area, seed) = thread.kept.remove(place % length).map_err(|_| EINVAL)?;
            thread.totals.kept.fetch_sub(KEPT_PAGES as u64, Relaxed);
            thread.check_area(&area, seed)
        }
    }
}

/// The size of an area that is kept.
const KEPT_MIB: usize = (KEPT_PAGES * kernel::page::PAGE_SIZE) >> 20;

/// With interrupts disabled, except with PREEMPT_RT: the locks of vmalloc sleep there.
fn vmalloc_atomic(thread: &mut Thread<'_>) -> Result {
    let (pages, seed) = (thread.random.pages(), thread.random.next());
    let interrupts = (!cfg!(CONFIG_PREEMPT_RT)).then(local_interrupt_disable);
    let area = thread.filled(pages, seed, GFP_ATOMIC);
    drop(interrupts);
    thread.check_area(&area?, seed)
}

fn vmap(thread: &mut Thread<'_>) -> Result {
    let (pages, seed) = (thread.random.pages(), thread.random.next());
    let mapping = Mapping::vmap(DISTINCT, pages, |word| pattern(seed, word / WORDS_PER_PAGE))?;
    thread.check_mapping(&mapping, seed)
}

fn vm_map_ram(thread: &mut Thread<'_>) -> Result {
    let (pages, seed) = (thread.random.pages(), thread.random.next());
    let mapping =
        Mapping::vm_map_ram(DISTINCT, pages, |word| pattern(seed, word / WORDS_PER_PAGE))?;
    thread.check_mapping(&mapping, seed)
}

fn vmalloc_huge(thread: &mut Thread<'_>) -> Result {
    let (pages, seed) = (512 + thread.random.pages(), thread.random.next());
    let mapping = Mapping::vmalloc_huge(pages)?;
    for page in 0..pages {
        let word = mapping.word(page * WORDS_PER_PAGE).ok_or(EINVAL)?;
        word.store(pattern(seed, page % DISTINCT), Relaxed);
    }
    thread.check_mapping(&mapping, seed)
}

fn ioremap(thread: &mut Thread<'_>) -> Result {
    let seed = thread.random.next();
    let mapping = Mapping::ioremap(|_| pattern(seed, 0))?;
    thread.check_mapping(&mapping, seed)
}

fn percpu(thread: &mut Thread<'_>) -> Result {
    let pages = 1 + thread.random.below(4) as usize;
    let seed = thread.random.next();
    let words = PerCpuWords::new(pages * WORDS_PER_PAGE)?;
    let own = |cpu: CpuId, page| pattern(seed ^ u64::from(cpu.as_u32()) << 32, page);
    for cpu in (0..nr_cpu_ids()).filter_map(CpuId::from_u32) {
        for page in 0..pages {
            // Not every number is that of a possible CPU.
            if let Some(word) = words.word(cpu, page * WORDS_PER_PAGE) {
                word.store(own(cpu, page), Relaxed);
            }
        }
    }
    let met = &thread.totals.met;
    thread.check_each(pages, |place, cpu, page| {
        let word = words.word(cpu, page * WORDS_PER_PAGE);
        (word.map(|word| met.touch(place, word)), own(cpu, page))
    })
}

/// Code that returns a number.
fn new_code(thread: &mut Thread<'_>) -> Result {
    let number = thread.random.below(2048) as u16;
    // SAFETY: The function is sound in all contexts, and the text is dropped after all calls.
    let text = unsafe { Text::new(&execmem::returning(number)) }?;
    let met = &thread.totals.met;
    thread.check_each(1, |place, _, _| {
        // SAFETY: There is such a function, and it changes only a0.
        let found = unsafe { met.call(place, text.address()) };
        (Some(found), number.into())
    })
}

/// New threads touch a new area, each on its own stack.
fn new_stacks(thread: &mut Thread<'_>) -> Result {
    let (pages, seed) = (thread.random.pages(), thread.random.next());
    let area = thread.filled(pages, seed, GFP_KERNEL)?;
    let totals = thread.totals;
    let touch = || {
        for (page, words) in area.chunks_exact(WORDS_PER_PAGE).enumerate() {
            let word = words.first().map(|word| totals.met.read(Place::Task, word));
            if word != Some(pattern(seed, page)) {
                totals.corrupt.fetch_add(1, Relaxed);
            }
        }
    };
    match thread.random.below(3) {
        0 => kthread::on_each_cpu(|_| touch(), || {}),
        _ => kthread::on_any_cpu(1 + thread.random.below(6) as u32, |_| touch(), || {}),
    }
}

/// An unmapped page, next to a new one.
fn bad_access(thread: &mut Thread<'_>) -> Result {
    let seed = thread.random.next();
    let area = SparseArea::new(2, |_| seed)?;
    // Some CPUs have tried in vain, and some have not.
    let _ = area.read_nofault(0);
    area.map(0)?;
    let totals = thread.totals;
    thread.check_each(1, |place, _, _| {
        if area.read_nofault(WORDS_PER_PAGE) != Err(EFAULT) {
            totals.unreported.fetch_add(1, Relaxed);
        }
        (totals.met.try_touch(place, &area, 0), seed)
    })
}

/// An area that tracers touch as soon as something is mapped there.
struct Target<'a> {
    totals: &'a Totals,
    area: SparseArea,
    seed: u64,
    page: Atomic<usize>,
}

impl Target<'_> {
    fn touch(&self) {
        let page = self.page.load(Relaxed);
        if let Some(word) = self.area.word(page * WORDS_PER_PAGE) {
            let value = self.totals.met.touch(Place::Tracepoint, word);
            if value != pattern(self.seed, page) {
                self.totals.corrupt.fetch_add(1, Relaxed);
            }
        }
    }
}

impl<T: Tracepoint> Probe<T> for Target<'_> {
    fn fire(&self, _args: &T::Args, _context: T::Context<'_>) {
        self.touch();
    }
}

/// Attaches tracers while their tracepoints are passed, and maps what they touch.
fn traced(thread: &mut Thread<'_>) -> Result {
    let (pages, seed) = (thread.random.pages(), thread.random.next());
    let target = Target {
        totals: thread.totals,
        area: SparseArea::new(pages, |word| pattern(seed, word / WORDS_PER_PAGE))?,
        seed,
        page: Atomic::new(0),
    };
    attached::<CsdFunctionEntry, _, _>(&target, || {
        attached::<PageFaultKernel, _, _>(&target, || -> Result {
            for page in 0..pages {
                target.page.store(page, Relaxed);
                target.area.map(page)?;
                smp::on_each_cpu(|_, _| {})?;
            }
            Ok(())
        })
    })???;
    Ok(())
}

/// A number that stands for the first choices, for comparing two runs.
fn first_choices() -> u64 {
    let mut digest = Random(0);
    for thread in 0..module_parameters::threads.value() {
        for step in 0..64 {
            let mut random = Random::new(thread, step);
            digest.0 ^= random.action() as u64 ^ random.next();
            digest.next();
        }
    }
    digest.next()
}

/// Prints statistics.
fn report(test: &Test, totals: &Totals, start: Instant<Monotonic>) {
    test.note(fmt!(
        "after {} s: {} actions, {} crossings, {} migrations, {} refused, {} KiB kept",
        start.elapsed().as_millis() / 1000,
        totals.actions(),
        totals.crossings.load(Relaxed),
        totals.migrations.load(Relaxed),
        totals.refused(),
        totals.kept.load(Relaxed) * kernel::page::PAGE_SIZE as u64 / 1024,
    ));
}

#[kselftests]
mod tests {
    use super::*;

    /// All of it at random, in threads that move while CPUs come and go.
    #[test]
    fn torture(test: &Test) -> kselftest::Result {
        test.report("seed", module_parameters::seed.value().into());
        test.note(fmt!("first choices: {:#018x}", first_choices()));
        let totals = Totals::new()?;
        let alone = smp::num_online_cpus() == 1;
        let start = Instant::<Monotonic>::now();
        let interval = i64::from(module_parameters::interval.value()) * 1000;
        let mut next = interval;

        let ran = kthread::on_any_cpu(
            module_parameters::threads.value(),
            |unbound| {
                let mut thread = Thread {
                    unbound,
                    test,
                    totals: &totals,
                    random: Random::new(unbound.number(), 0),
                    kept: KVec::new(),
                };
                thread.run(start);
            },
            || {
                if start.elapsed().as_millis() >= next {
                    next += interval;
                    report(test, &totals, start);
                }
            },
        );
        report(test, &totals, start);
        totals.met.report(test);
        for ((name, _, _), (done, refused)) in ACTIONS.iter().zip(&totals.actions) {
            test.report(name, done.load(Relaxed));
            // Memory may be short at times, but not every time.
            test.expect(
                done.load(Relaxed) != 0 || refused.load(Relaxed) < OFTEN,
                fmt!("{name} was done, or tried less than {OFTEN} times"),
            );
        }
        if alone {
            test.report("crossings", totals.crossings.load(Relaxed));
        } else {
            test.report_some("crossings", totals.crossings.load(Relaxed));
            test.report_some("migrations", totals.migrations.load(Relaxed));
        }
        if let Some((count, what)) = totals.failure() {
            test.note(fmt!("End of test: FAILURE: {count} {what}"));
            test.fail(fmt!("{count} {what}"));
        } else if let Err(error) = ran {
            test.note(fmt!("End of test: FAILURE: no threads: {error:?}"));
        } else if test.has_failed() {
            test.note(fmt!("End of test: FAILURE: some of it was idle"));
        } else {
            test.note(fmt!("End of test: SUCCESS"));
        }
        ran?;
        Ok(())
    }
}
