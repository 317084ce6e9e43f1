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
//! The other cases trace what nothing may interrupt: interrupts, the scheduler, work items, and any
//! instruction by means of a kprobe. Each CPU is made to pass that, once for each page. A switch to
//! another task may make a CPU fence, so what passes the place spins on each CPU before the page is
//! mapped, and goes there directly. In the last case the buffer itself is replaced all the time.
//!
//! Loading the module runs the test, see `kernel::kselftest`.

use kernel::{
    cpu::{
        nr_cpu_ids,
        CpuId, //
    },
    interrupt::LocalInterruptDisabled,
    kselftest::{
        self,
        kselftests,
        pattern,
        Test, //
    },
    kthread,
    page::PAGE_SIZE,
    prelude::*,
    processor::cpu_relax,
    revocable::Revocable,
    smp,
    sync::{
        atomic::{
            Acquire,
            Atomic,
            Full,
            Relaxed,
            Release, //
        },
        Arc,
        SetOnce, //
    },
    time::{
        delay::fsleep,
        Delta,
        Instant,
        Monotonic, //
    },
    tracepoint::probe::{
        attached,
        CsdFunctionEntry,
        IrqHandlerEntry,
        PageFaultKernel,
        Probe,
        SchedSwitch,
        SchedWakeup,
        Tracepoint,
        WorkqueueExecuteStart, //
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

mod touch;

use touch::{
    prime,
    prime_here,
    Meeting,
    Met,
    Place, //
};

kernel::kselftest_module! {
    tests: tests,
    name: "lazy_map_trace",
    authors: ["lazymap"],
    description: "Touch new kernel mappings from tracepoints",
    license: "GPL",
    params: {
        rounds: u32 {
            default: 4,
            range: 1..=1000000,
            description: "How often new areas are made",
        },
        areas: u32 {
            default: 4,
            range: 1..=1024,
            description: "Areas that exist at once",
        },
        size: u32 {
            default: 32768,
            range: 4096..=16777216,
            description: "Size of an area in bytes",
        },
        buffers: u32 {
            default: 24,
            range: 2..=100000,
            description: "Buffers that replace each other",
        },
    },
}

/// Mappings in a row that are announced by calling all CPUs, before the next one is expected to be.
const ENOUGH: u32 = 4;

/// New areas, and what the probes found there.
struct Target<'a> {
    met: &'a Met,
    areas: KVec<SparseArea>,
    seed: u64,
    /// The area that is being mapped, and its page.
    area: Atomic<usize>,
    page: Atomic<usize>,
    /// Whether to touch a page before its mapping has been announced.
    early: Atomic<bool>,
    /// Calls requested by another CPU, or by the same, since the start.
    calls: Atomic<u64>,
    touches: Atomic<u64>,
    corrupt: Atomic<u64>,
}

impl<'a> Target<'a> {
    fn new(met: &'a Met, round: u32, areas: usize, pages: usize) -> Result<Self> {
        let seed = u64::from(round) << 32;
        let mut target = Self {
            met,
            areas: KVec::with_capacity(areas, GFP_KERNEL)?,
            seed,
            area: Atomic::new(0),
            page: Atomic::new(0),
            early: Atomic::new(false),
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
        let value = if self.early.load(Relaxed) {
            let exists = area.is_mapped(page);
            exists.then(|| {
                // SAFETY: The page table has the page. The kernel has been seen to call all CPUs
                // for new mappings. One that dies of the fault all the same is what this test looks
                // for.
                unsafe {
                    self.met
                        .peek(Place::Tracepoint, area.address(page).unwrap_or_default())
                }
            })
        } else {
            area.word(word)
                .map(|word| self.met.touch(Place::Tracepoint, word))
        };
        if let Some(value) = value {
            if value != pattern(self.seed, page) {
                self.corrupt.fetch_add(1, Relaxed);
            }
            self.touches.fetch_add(1, Relaxed);
        }
    }

    /// Maps page after page while probes watch.
    fn map_all(&self, test: &Test, others: u64) -> kselftest::Result {
        let mut told = 0;
        for (number, area) in self.areas.iter().enumerate() {
            for page in 0..area.pages() {
                test.go_on()?;
                // The page first: a probe in between sees page 0 of the last area, which is mapped.
                self.page.store(page, Relaxed);
                self.area.store(number, Relaxed);
                prime(test, area, page)?;
                let calls = self.calls.load(Relaxed);
                area.map(page)?;
                if self.calls.load(Relaxed) - calls >= others {
                    told += 1;
                    // Some calls have nothing to do with this. Many are not a coincidence.
                    self.early.store(told >= ENOUGH, Relaxed);
                } else {
                    told = 0;
                    self.early.store(false, Relaxed);
                }
                // All CPUs that were not called yet are now, and touch the page for the first time.
                let before = self.touches.load(Relaxed);
                smp::on_each_cpu(|_, _| {})?;
                test.require(
                    self.touches.load(Relaxed) != before,
                    fmt!("a probe touched page {page} of area {number}"),
                )?;
            }
        }
        Ok(())
    }
}

impl Probe<CsdFunctionEntry> for Target<'_> {
    fn fire(
        &self,
        _args: &<CsdFunctionEntry as Tracepoint>::Args,
        _interrupts: &LocalInterruptDisabled,
    ) {
        self.calls.fetch_add(1, Relaxed);
        self.touch();
    }
}

impl Probe<PageFaultKernel> for Target<'_> {
    fn fire(&self, _args: &<PageFaultKernel as Tracepoint>::Args, _context: ()) {
        self.touch();
    }
}

/// Runs `scope` while a probe is attached, or says which tracepoint the kernel lacks.
fn traced<T: Tracepoint, P: Probe<T>>(
    test: &Test,
    probe: &P,
    scope: impl FnOnce() -> kselftest::Result,
) -> kselftest::Result {
    attached::<T, P, _>(probe, scope).unwrap_or_else(|error| match error {
        ENOENT => Err(test.skip(fmt!("no tracepoint {}", T::NAME))),
        error => Err(error.into()),
    })
}

/// How long a CPU may take to pass what is traced.
const PATIENCE_MS: i64 = 10_000;

/// An area that is mapped page by page, and what has been read there on each CPU.
struct Pages<'a> {
    met: &'a Met,
    place: Place,
    area: Arc<SparseArea>,
    seed: u64,
    /// Number of pages that have been mapped; the last one is touched.
    mapped: Atomic<usize>,
    /// For each CPU the number of pages that it has seen, the last one included.
    seen: KVec<Atomic<usize>>,
    corrupt: Atomic<u64>,
}

impl<'a> Pages<'a> {
    fn new(met: &'a Met, place: Place, round: u32) -> Result<Self> {
        let pages = module_parameters::size.value() as usize / PAGE_SIZE;
        let seed = u64::from(round) << 32;
        let mut seen = KVec::new();
        for _ in 0..nr_cpu_ids() {
            seen.push(Atomic::new(0), GFP_KERNEL)?;
        }
        let area = SparseArea::new(pages, |word| pattern(seed, word / WORDS_PER_PAGE))?;
        Ok(Self {
            met,
            place,
            area: Arc::new(area, GFP_KERNEL)?,
            seed,
            mapped: Atomic::new(0),
            seen,
            corrupt: Atomic::new(0),
        })
    }

    /// Reads a word of the last page.
    fn touch(&self) {
        let mapped = self.mapped.load(Acquire);
        let Some(page) = mapped.checked_sub(1) else {
            return;
        };
        let Some(word) = self.area.word(page * WORDS_PER_PAGE) else {
            return;
        };
        // Where preemption is enabled the touch and the note may be made on different CPUs. Then
        // the first one has to pass here once more.
        let cpu = CpuId::current();
        if self.met.touch(self.place, word) != pattern(self.seed, page) {
            self.corrupt.fetch_add(1, Relaxed);
        }
        if let Some(seen) = self.seen.get(cpu.as_u32() as usize) {
            seen.store(mapped, Relaxed);
        }
    }

    /// Maps the next page.
    fn map(&self, page: usize) -> Result {
        self.area.map(page)?;
        self.mapped.store(page + 1, Release);
        Ok(())
    }

    /// Whether `cpu` has touched the first `pages` pages.
    fn is_seen(&self, cpu: CpuId, pages: usize) -> bool {
        let seen = self.seen.get(cpu.as_u32() as usize);
        seen.is_some_and(|seen| seen.load(Relaxed) >= pages)
    }

    /// Makes `cpu`, which runs this, pass what is traced until it has touched a page.
    fn pass(&self, test: &Test, cpu: CpuId, page: usize, pass: impl Fn(CpuId) -> Result) {
        let start = Instant::<Monotonic>::now();
        while !self.is_seen(cpu, page + 1) && !kthread::should_stop() {
            if let Err(error) = pass(cpu) {
                test.fail(fmt!("CPU {}: {error:?}", cpu.as_u32()));
                break;
            }
            if start.elapsed().as_millis() > PATIENCE_MS {
                test.fail(fmt!("CPU {} has not touched page {page}", cpu.as_u32()));
                break;
            }
        }
    }

    /// Maps page after page while all CPUs spin, and then makes them pass what is traced.
    fn map_all(&self, test: &Test, pass: impl Fn(CpuId) -> Result + Sync) -> kselftest::Result {
        let meeting = Meeting::new();
        kthread::on_each_cpu_of_group(
            |member| {
                for page in 0..self.area.pages() {
                    prime_here(test, &self.area, page);
                    if !meeting.meet(2 * page as u64, member.count) {
                        return;
                    }
                    if member.number == 0 {
                        if let Err(error) = self.map(page) {
                            test.fail(fmt!("page {page}: {error:?}"));
                        }
                    }
                    while self.mapped.load(Acquire) <= page {
                        if kthread::should_stop() || test.has_failed() {
                            return;
                        }
                        cpu_relax();
                    }
                    self.pass(test, member.cpu, page, &pass);
                    // The others still need this CPU to call it.
                    if !meeting.meet(2 * page as u64 + 1, member.count) {
                        return;
                    }
                }
            },
            || {},
        )?;
        test.require(!test.has_failed(), fmt!("all pages"))
    }
}

/// Touches the last page wherever it is called from.
impl<T: Tracepoint> Probe<T> for Pages<'_> {
    fn fire(&self, _args: &T::Args, _context: T::Context<'_>) {
        self.touch();
    }
}

#[cfg(CONFIG_DYNAMIC_FTRACE)]
impl kernel::ftrace::Tracer for Pages<'_> {
    fn enter(&self, _ip: usize, _parent_ip: usize) {
        self.touch();
    }
}

#[cfg(CONFIG_KPROBES)]
impl kernel::kprobe::Handler for Pages<'_> {
    fn pre(&self, _address: usize) {
        self.touch();
    }
}

/// Maps page after page of new areas; `trace` runs its second argument while something is traced.
fn touched_by(
    test: &Test,
    met: &Met,
    place: Place,
    trace: impl Fn(&Pages<'_>, &dyn Fn() -> kselftest::Result) -> kselftest::Result,
    map_all: impl Fn(&Pages<'_>) -> kselftest::Result,
) -> kselftest::Result {
    for round in 0..module_parameters::rounds.value().div_ceil(4) {
        let pages = Pages::new(met, place, round)?;
        trace(&pages, &|| map_all(&pages))?;
        test.require_eq(
            pages.corrupt.load(Relaxed),
            0,
            fmt!("words that are not what was written"),
        )?;
    }
    Ok(())
}

/// Makes the scheduler, a timer and its interrupt do something on this CPU.
fn sleep_a_little(_cpu: CpuId) -> Result {
    fsleep(Delta::from_micros(100));
    Ok(())
}

/// Interrupts all other CPUs. The tick interrupts a CPU that nobody else interrupts.
fn interrupt_others(_cpu: CpuId) -> Result {
    smp::call_function(|_, _| {})
}

/// Work that does nothing.
#[pin_data]
struct Nothing {
    #[pin]
    work: Work<Nothing>,
}

impl_has_work! {
    impl HasWork<Self> for Nothing { self.work }
}

impl WorkItem for Nothing {
    type Pointer = Arc<Nothing>;

    fn run(_this: Arc<Nothing>) {}
}

/// Queues something for a worker of this CPU, which has to be woken up for it.
fn wake_a_worker(_cpu: CpuId) -> Result {
    let nothing = Arc::pin_init(
        pin_init!(Nothing {
            work <- new_work!("lazy_map_trace::Nothing::work"),
        }),
        GFP_KERNEL,
    )?;
    // A new work item is not on a queue, so queueing it always succeeds.
    let _ = workqueue::system_percpu().enqueue(nothing.clone());
    // It runs code of the module.
    nothing.work.flush();
    Ok(())
}

/// A page that workers on all CPUs wait for.
struct Crossing {
    met: Arc<Met>,
    area: Arc<SparseArea>,
    page: usize,
    /// What the first word of the page is.
    value: u64,
    /// Workers that wait, and how many are expected; 0 as long as that is not known.
    waiting: Atomic<u32>,
    expected: Atomic<u32>,
    /// Whether one of them maps the page, and whether it is not to be waited for any more.
    claimed: Atomic<bool>,
    passed: Atomic<bool>,
    /// Work items that have been done.
    done: Atomic<u32>,
    /// Whether the page could not be mapped, or does not have the value.
    failed: Atomic<bool>,
}

impl Crossing {
    fn new(met: &Arc<Met>, pages: &Pages<'_>, page: usize) -> Result<Arc<Self>> {
        let crossing = Self {
            met: met.clone(),
            area: pages.area.clone(),
            page,
            value: pattern(pages.seed, page),
            waiting: Atomic::new(0),
            expected: Atomic::new(0),
            claimed: Atomic::new(false),
            passed: Atomic::new(false),
            done: Atomic::new(0),
            failed: Atomic::new(false),
        };
        Ok(Arc::new(crossing, GFP_KERNEL)?)
    }

    /// Waits for the page. One of those who wait maps it, once all are there.
    fn wait(&self) {
        self.waiting.fetch_add(1, Full);
        while !self.passed.load(Acquire) {
            let expected = self.expected.load(Acquire);
            if expected != 0
                && self.waiting.load(Acquire) >= expected
                && self.claimed.cmpxchg(false, true, Full).is_ok()
            {
                if self.area.map(self.page).is_err() {
                    self.failed.store(true, Relaxed);
                }
                self.passed.store(true, Release);
            }
            cpu_relax();
        }
    }

    /// Reads the first word of the page.
    fn touch(&self) {
        let word = self.area.word(self.page * WORDS_PER_PAGE);
        if word.map(|word| self.met.touch(Place::Work, word)) != Some(self.value) {
            self.failed.store(true, Relaxed);
        }
    }
}

/// Work of a CPU that waits at a crossing, or that comes behind such work.
#[pin_data]
struct Step {
    waits: bool,
    crossing: Arc<Crossing>,
    #[pin]
    work: Work<Step>,
}

impl_has_work! {
    impl HasWork<Self> for Step { self.work }
}

impl Step {
    fn new(waits: bool, crossing: &Arc<Crossing>) -> Result<Arc<Self>> {
        let crossing = crossing.clone();
        Arc::pin_init(
            pin_init!(Step {
                waits,
                crossing,
                work <- new_work!("lazy_map_trace::Step::work"),
            }),
            GFP_KERNEL,
        )
    }
}

impl WorkItem for Step {
    type Pointer = Arc<Step>;

    fn run(this: Arc<Step>) {
        if this.waits {
            this.crossing.wait();
            // Every other page is new to the work itself, the rest to what traces the next item.
            if this.crossing.page % 2 != 0 {
                this.crossing.touch();
            }
        }
        this.crossing.done.fetch_add(1, Release);
    }
}

/// Maps a page while a worker spins on each CPU. It goes on to the next item, which is traced,
/// without a switch.
fn pass_workers(test: &Test, met: &Arc<Met>, pages: &Pages<'_>, page: usize) -> kselftest::Result {
    prime(test, &pages.area, page)?;
    let crossing = Crossing::new(met, pages, page)?;
    let mut steps = KVec::new();
    for _ in 0..nr_cpu_ids() {
        steps.push(
            (Step::new(true, &crossing)?, Step::new(false, &crossing)?),
            GFP_KERNEL,
        )?;
    }
    // It is touched once it is mapped.
    pages.mapped.store(page + 1, Release);
    let queued = Atomic::new(0u32);
    smp::on_each_cpu(|cpu, _| {
        if let Some((waiter, follower)) = steps.get(cpu.as_u32() as usize) {
            // New work items are not on a queue, so queueing them always succeeds.
            let _ = workqueue::system_percpu().enqueue(waiter.clone());
            let _ = workqueue::system_percpu().enqueue(follower.clone());
            queued.fetch_add(1, Relaxed);
        }
    })?;
    let queued = queued.load(Relaxed);
    crossing.expected.store(queued, Release);

    let start = Instant::<Monotonic>::now();
    while crossing.done.load(Acquire) < 2 * queued {
        if start.elapsed().as_millis() > PATIENCE_MS {
            crossing.passed.store(true, Release);
            test.keep_module(fmt!("workers that run its code do not come back"));
            return Err(kselftest::End::Failed);
        }
        fsleep(Delta::from_micros(100));
    }
    // They have been done, but may not have returned.
    for (waiter, follower) in &steps {
        waiter.work.flush();
        follower.work.flush();
    }
    test.require(!crossing.failed.load(Relaxed), fmt!("page {page}"))?;
    let seen = (0..nr_cpu_ids())
        .filter_map(CpuId::from_u32)
        .filter(|cpu| pages.is_seen(*cpu, page + 1))
        .count();
    test.require_eq(seen, queued as usize, fmt!("CPUs that touched page {page}"))
}

/// Does that with page after page.
fn pass_workers_of_all_pages(test: &Test, met: &Arc<Met>, pages: &Pages<'_>) -> kselftest::Result {
    for page in 0..pages.area.pages() {
        test.go_on()?;
        // The work of a CPU that goes offline is done elsewhere, and one that comes online does
        // work that nobody expects.
        kthread::with_cpus_kept(|| pass_workers(test, met, pages, page))??;
    }
    Ok(())
}

/// What is traced, in a hard interrupt and in a task, and how to get there without a switch.
#[cfg(any(CONFIG_DYNAMIC_FTRACE, CONFIG_KPROBES))]
const FUNCTIONS: [(&CStr, fn(CpuId) -> Result); 2] = [
    (c"generic_handle_domain_irq", interrupt_others),
    (c"usleep_range_state", sleep_a_little),
];

/// Length of the function tracer's hook, which must not have a kprobe.
#[cfg(CONFIG_KPROBES)]
const HOOK: u32 = 8;

/// Buffers that are used one after the other. The previous one is freed.
struct Buffers<'a> {
    test: &'a Test,
    met: Met,
    buffers: KVec<SetOnce<Arc<Revocable<SparseArea>>>>,
    /// How many there have been, including the one in use.
    made: Atomic<usize>,
    /// Probes that came too late for the buffer that they had chosen.
    late: Atomic<u64>,
    corrupt: Atomic<u64>,
}

impl<'a> Buffers<'a> {
    fn new(test: &'a Test, count: usize) -> Result<Self> {
        let mut buffers = KVec::with_capacity(count, GFP_KERNEL)?;
        for _ in 0..count {
            buffers.push(SetOnce::new(), GFP_KERNEL)?;
        }
        Ok(Self {
            test,
            met: Met::new(),
            buffers,
            made: Atomic::new(0),
            late: Atomic::new(0),
            corrupt: Atomic::new(0),
        })
    }

    fn seed(number: usize) -> u64 {
        (number as u64 + 1) << 40
    }

    fn is_last(&self) -> bool {
        self.made.load(Relaxed) == self.buffers.len()
    }

    /// Replaces the buffer in use with a new one, and frees it.
    fn replace(&self) -> kselftest::Result {
        let number = self.made.load(Relaxed);
        let Some(next) = self.buffers.get(number) else {
            return Ok(());
        };
        let pages = module_parameters::size.value() as usize / PAGE_SIZE;
        let seed = Self::seed(number);
        let area = SparseArea::new(pages, |word| pattern(seed, word / WORDS_PER_PAGE))?;
        for page in 0..pages {
            prime(self.test, &area, page)?;
            area.map(page)?;
        }
        next.populate(Arc::pin_init(Revocable::new(area), GFP_KERNEL)?);
        self.made.store(number + 1, Release);
        let last = number
            .checked_sub(1)
            .and_then(|last| self.buffers.get(last));
        if let Some(last) = last.and_then(|last| last.as_ref()) {
            // Waits for the probes that use it.
            last.revoke();
        }
        Ok(())
    }

    /// Reads a word of each page of the buffer in use.
    fn touch(&self) {
        let Some(number) = self.made.load(Acquire).checked_sub(1) else {
            return;
        };
        let Some(buffer) = self.buffers.get(number).and_then(|buffer| buffer.as_ref()) else {
            return;
        };
        let Some(area) = buffer.try_access() else {
            self.late.fetch_add(1, Relaxed);
            return;
        };
        for page in 0..area.pages() {
            let word = area.word(page * WORDS_PER_PAGE);
            let value = word.map(|word| self.met.touch(Place::Tracepoint, word));
            if value != Some(pattern(Self::seed(number), page)) {
                self.corrupt.fetch_add(1, Relaxed);
            }
        }
    }
}

impl<T: Tracepoint> Probe<T> for Buffers<'_> {
    fn fire(&self, _args: &T::Args, _context: T::Context<'_>) {
        self.touch();
    }
}

/// Replaces buffers while all CPUs pass what is traced.
fn replace_all(test: &Test, buffers: &Buffers<'_>) -> kselftest::Result {
    let mut replaced = Ok(());
    // Whether the last buffer is in use, or none is left.
    let end = Atomic::new(false);
    kthread::on_each_cpu(
        |cpu| {
            while !end.load(Relaxed) && !kthread::should_stop() {
                let passed = interrupt_others(cpu).and_then(|()| sleep_a_little(cpu));
                if let Err(error) = passed {
                    test.fail(fmt!("{error:?}"));
                    break;
                }
            }
        },
        || {
            if replaced.is_ok() {
                replaced = buffers.replace();
            }
            if replaced.is_err() || buffers.is_last() {
                end.store(true, Relaxed);
            }
        },
    )?;
    replaced
}

#[kselftests]
mod tests {
    use super::*;

    /// Probes of calls and of page faults touch a page as early as it exists.
    #[test]
    fn new_mapping_touched_from_tracepoint(test: &Test) -> kselftest::Result {
        let rounds = module_parameters::rounds.value();
        let areas = module_parameters::areas.value() as usize;
        let pages = module_parameters::size.value() as usize / PAGE_SIZE;

        let others = u64::max(1, u64::from(smp::num_online_cpus()) - 1);

        let met = Met::new();
        for number in 0..rounds {
            let target = Target::new(&met, number, areas, pages)?;
            traced::<CsdFunctionEntry, _>(test, &target, || {
                traced::<PageFaultKernel, _>(test, &target, || target.map_all(test, others))
            })?;
            test.require_eq(
                target.corrupt.load(Relaxed),
                0,
                fmt!("words that are not what was written"),
            )?;
        }
        met.report(test);
        Ok(())
    }

    /// A probe of interrupts touches new pages.
    #[test]
    fn touched_from_interrupts(test: &Test) -> kselftest::Result {
        let met = Met::new();
        touched_by(
            test,
            &met,
            Place::Tracepoint,
            |toucher, scope| traced::<IrqHandlerEntry, _>(test, toucher, scope),
            |pages| pages.map_all(test, interrupt_others),
        )?;
        met.report(test);
        Ok(())
    }

    /// Probes of task switches and of wakeups touch new pages.
    #[test]
    fn touched_from_scheduler(test: &Test) -> kselftest::Result {
        let met = Met::new();
        touched_by(
            test,
            &met,
            Place::Tracepoint,
            |toucher, scope| traced::<SchedSwitch, _>(test, toucher, scope),
            // The tracepoint comes before the switch.
            |pages| pages.map_all(test, sleep_a_little),
        )?;
        touched_by(
            test,
            &met,
            Place::Tracepoint,
            |toucher, scope| traced::<SchedWakeup, _>(test, toucher, scope),
            // Without a switch.
            |pages| pages.map_all(test, wake_a_worker),
        )?;
        met.report(test);
        Ok(())
    }

    /// Work items, and a probe of them, touch new pages.
    #[test]
    fn touched_from_workqueue(test: &Test) -> kselftest::Result {
        let met = Arc::new(Met::new(), GFP_KERNEL)?;
        touched_by(
            test,
            &met,
            Place::Tracepoint,
            |toucher, scope| traced::<WorkqueueExecuteStart, _>(test, toucher, scope),
            |pages| pass_workers_of_all_pages(test, &met, pages),
        )?;
        met.report(test);
        Ok(())
    }

    /// A function tracer touches new pages, in a hard interrupt and in a task.
    #[test]
    #[cfg(CONFIG_DYNAMIC_FTRACE)]
    fn touched_from_function_tracer(test: &Test) -> kselftest::Result {
        let met = Met::new();
        for (function, pass) in FUNCTIONS {
            touched_by(
                test,
                &met,
                Place::FunctionTracer,
                |toucher, scope| {
                    kernel::ftrace::traced(function, toucher, scope).unwrap_or_else(|error| {
                        match error {
                            ENOENT => Err(test.skip(fmt!("{function} cannot be traced"))),
                            error => Err(error.into()),
                        }
                    })
                },
                |pages| pages.map_all(test, pass),
            )?;
        }
        met.report(test);
        Ok(())
    }

    /// A kprobe touches new pages, in a hard interrupt and in a task.
    #[test]
    #[cfg(CONFIG_KPROBES)]
    fn touched_from_kprobes(test: &Test) -> kselftest::Result {
        use kernel::kprobe::armed;

        let met = Met::new();
        for (function, pass) in FUNCTIONS {
            touched_by(
                test,
                &met,
                Place::Kprobe,
                |toucher, scope| {
                    armed(function, 0, toucher, scope)
                        .or_else(|error| match error {
                            EINVAL => armed(function, HOOK, toucher, scope),
                            error => Err(error),
                        })
                        .unwrap_or_else(|error| match error {
                            ENOENT => Err(test.skip(fmt!("no function {function}"))),
                            error => Err(error.into()),
                        })
                },
                |pages| pages.map_all(test, pass),
            )?;
        }
        met.report(test);
        Ok(())
    }

    /// Probes read a buffer that is replaced, and freed, all the time.
    #[test]
    fn buffer_replaced_while_traced(test: &Test) -> kselftest::Result {
        let count = module_parameters::buffers.value() as usize;
        let buffers = Buffers::new(test, count)?;
        traced::<CsdFunctionEntry, _>(test, &buffers, || {
            traced::<IrqHandlerEntry, _>(test, &buffers, || {
                traced::<SchedSwitch, _>(test, &buffers, || replace_all(test, &buffers))
            })
        })?;
        buffers.met.report(test);
        test.report("late probes", buffers.late.load(Relaxed));
        test.expect_eq(
            buffers.made.load(Relaxed),
            count,
            fmt!("buffers that were made"),
        );
        test.expect_eq(
            buffers.corrupt.load(Relaxed),
            0,
            fmt!("words that are not what was written"),
        );
        Ok(())
    }
}
