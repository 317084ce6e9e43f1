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
//! instruction by means of a kprobe. Each CPU is made to pass that, once for each page. In the last
//! case the buffer itself is replaced all the time.
//!
//! Loading the module runs the test, see `kernel::kselftest`.

use kernel::{
    cpu::{
        nr_cpu_ids,
        CpuId, //
    },
    kselftest::{
        self,
        pattern,
        Test, //
    },
    kthread,
    page::PAGE_SIZE,
    prelude::*,
    revocable::Revocable,
    smp,
    sync::{
        atomic::{
            Acquire,
            Atomic,
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
        CsdFunctionEntry,
        IrqHandlerEntry,
        PageFaultKernel,
        Probe,
        Registration,
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

kernel::kselftest! {
    cases: [
        new_mapping_touched_from_tracepoint,
        touched_from_interrupts,
        touched_from_scheduler,
        touched_from_workqueue,
        touched_from_function_tracer,
        touched_from_kprobes,
        buffer_replaced_while_traced,
    ],
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
struct Target {
    areas: KVec<SparseArea>,
    seed: u64,
    /// The area that is being mapped, and its page.
    area: Atomic<usize>,
    page: Atomic<usize>,
    /// Whether to touch a page before its mapping has been announced; not 0 if so.
    early: Atomic<i32>,
    /// Calls requested by another CPU, or by the same, since the start.
    calls: Atomic<u64>,
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
            early: Atomic::new(0),
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
        let value = if self.early.load(Relaxed) != 0 {
            // SAFETY: The kernel has been seen to call all CPUs for new mappings. One that dies of
            // the fault all the same is what this test looks for.
            unsafe { area.peek(word) }
        } else {
            area.word(word).map(|word| word.load(Relaxed))
        };
        if let Some(value) = value {
            if value != pattern(self.seed, page) {
                self.corrupt.fetch_add(1, Relaxed);
            }
            self.touches.fetch_add(1, Relaxed);
        }
    }
}

struct Tracer(Arc<Target>);

impl Probe<CsdFunctionEntry> for Tracer {
    fn fire(&self, _args: &<CsdFunctionEntry as Tracepoint>::Args) {
        self.0.calls.fetch_add(1, Relaxed);
        self.0.touch();
    }
}

impl Probe<PageFaultKernel> for Tracer {
    fn fire(&self, _args: &<PageFaultKernel as Tracepoint>::Args) {
        self.0.touch();
    }
}

/// Attaches a probe, or says which tracepoint the kernel lacks.
fn attach<T: Tracepoint, P: Probe<T>>(
    test: &Test,
    probe: P,
) -> kselftest::Result<Pin<KBox<Registration<T, P>>>> {
    KBox::pin_init(Registration::new(probe), GFP_KERNEL).map_err(|error| match error {
        ENOENT => test.skip(fmt!("no tracepoint {}", T::NAME)),
        error => error.into(),
    })
}

/// Maps page after page of new areas while tracers watch; returns the number of touches.
fn round(
    test: &Test,
    round: u32,
    areas: usize,
    pages: usize,
    others: u64,
) -> kselftest::Result<u64> {
    let target = Arc::new(Target::new(round, areas, pages)?, GFP_KERNEL)?;
    let calls = attach::<CsdFunctionEntry, _>(test, Tracer(target.clone()))?;
    let faults = attach::<PageFaultKernel, _>(test, Tracer(target.clone()))?;
    let mut told = 0;

    for (number, area) in target.areas.iter().enumerate() {
        for page in 0..pages {
            // The page first: a probe in between sees page 0 of the last area, which is mapped.
            target.page.store(page, Relaxed);
            target.area.store(number, Relaxed);
            let calls = target.calls.load(Relaxed);
            area.map(page)?;
            if target.calls.load(Relaxed) - calls >= others {
                told += 1;
                // Some calls have nothing to do with this. Many are not a coincidence.
                target.early.store(i32::from(told >= ENOUGH), Relaxed);
            } else {
                told = 0;
                target.early.store(0, Relaxed);
            }
            // All CPUs that were not called yet are now, and touch the page for the first time.
            let before = target.touches.load(Relaxed);
            smp::on_each_cpu(|_| {})?;
            test.require(
                target.touches.load(Relaxed) != before,
                fmt!("a probe touched page {page} of area {number} in round {round}"),
            )?;
        }
    }

    drop((calls, faults));
    test.require_eq(
        target.corrupt.load(Relaxed),
        0,
        fmt!("words that are not what was written"),
    )?;
    Ok(target.touches.load(Relaxed))
}

fn new_mapping_touched_from_tracepoint(test: &Test) -> kselftest::Result {
    let rounds = module_parameters::rounds.value();
    let areas = module_parameters::areas.value() as usize;
    let pages = module_parameters::size.value() as usize / PAGE_SIZE;

    let others = u64::max(1, u64::from(smp::num_online_cpus()) - 1);

    let mut touches = 0;
    for number in 0..rounds {
        touches += round(test, number, areas, pages, others)?;
    }
    test.report_some("touches", touches);
    Ok(())
}

/// How long a CPU may take to pass what is traced.
const PATIENCE_MS: i64 = 10_000;

/// An area that is mapped page by page, and what has been read there on each CPU.
struct Pages {
    area: SparseArea,
    seed: u64,
    /// The page that has been mapped last.
    page: Atomic<usize>,
    /// For each CPU the number of pages that it has seen, the last one included.
    seen: KVec<Atomic<usize>>,
    touches: Atomic<u64>,
    corrupt: Atomic<u64>,
}

impl Pages {
    fn new(seed: u64) -> Result<Arc<Self>> {
        let pages = module_parameters::size.value() as usize / PAGE_SIZE;
        let mut seen = KVec::new();
        for _ in 0..nr_cpu_ids() {
            seen.push(Atomic::new(0), GFP_KERNEL)?;
        }
        let area = SparseArea::new(pages, |word| pattern(seed, word / WORDS_PER_PAGE))?;
        let pages = Self {
            area,
            seed,
            page: Atomic::new(0),
            seen,
            touches: Atomic::new(0),
            corrupt: Atomic::new(0),
        };
        Ok(Arc::new(pages, GFP_KERNEL)?)
    }

    /// Reads a word of the last page.
    fn touch(&self) {
        let page = self.page.load(Acquire);
        let Some(word) = self.area.word(page * WORDS_PER_PAGE) else {
            return;
        };
        if word.load(Relaxed) != pattern(self.seed, page) {
            self.corrupt.fetch_add(1, Relaxed);
        }
        self.touches.fetch_add(1, Relaxed);
        if let Some(seen) = self.seen.get(CpuId::current().as_u32() as usize) {
            seen.store(page + 1, Relaxed);
        }
    }

    /// Whether `cpu` has touched the last page.
    fn is_seen(&self, cpu: CpuId) -> bool {
        let seen = self.seen.get(cpu.as_u32() as usize);
        seen.is_some_and(|seen| seen.load(Relaxed) > self.page.load(Relaxed))
    }
}

/// What touches the last page wherever it is called from.
#[derive(Clone)]
struct Toucher(Arc<Pages>);

impl Probe<IrqHandlerEntry> for Toucher {
    fn fire(&self, _args: &<IrqHandlerEntry as Tracepoint>::Args) {
        self.0.touch();
    }
}

impl Probe<SchedSwitch> for Toucher {
    fn fire(&self, _args: &<SchedSwitch as Tracepoint>::Args) {
        self.0.touch();
    }
}

impl Probe<SchedWakeup> for Toucher {
    fn fire(&self, _args: &<SchedWakeup as Tracepoint>::Args) {
        self.0.touch();
    }
}

impl Probe<WorkqueueExecuteStart> for Toucher {
    fn fire(&self, _args: &<WorkqueueExecuteStart as Tracepoint>::Args) {
        self.0.touch();
    }
}

#[cfg(CONFIG_DYNAMIC_FTRACE)]
impl kernel::ftrace::Tracer for Toucher {
    fn enter(&self, _ip: usize, _parent_ip: usize) {
        self.0.touch();
    }
}

#[cfg(CONFIG_KPROBES)]
impl kernel::kprobe::Handler for Toucher {
    fn pre(&self, _address: usize) {
        self.0.touch();
    }
}

/// Maps page after page of new areas while something is traced that each CPU is made to `pass`.
fn touched_by<R>(
    test: &Test,
    trace: impl Fn(Toucher) -> kselftest::Result<R>,
    pass: impl Fn() -> Result + Sync,
) -> kselftest::Result {
    let mut touches = 0;
    // Each CPU needs a new thread for each page.
    for round in 0..module_parameters::rounds.value().div_ceil(4) {
        let pages = Pages::new(u64::from(round) << 32)?;
        let traced = trace(Toucher(pages.clone()))?;
        for page in 0..pages.area.pages() {
            pages.area.map(page)?;
            pages.page.store(page, Release);
            kthread::on_each_cpu(
                |cpu| {
                    let start = Instant::<Monotonic>::now();
                    while !pages.is_seen(cpu) {
                        if let Err(error) = pass() {
                            test.fail(fmt!("CPU {}: {error:?}", cpu.as_u32()));
                            break;
                        }
                        if start.elapsed().as_millis() > PATIENCE_MS {
                            test.fail(fmt!("CPU {} has not touched page {page}", cpu.as_u32()));
                            break;
                        }
                    }
                },
                || {},
            )?;
            test.require(!test.has_failed(), fmt!("round {round}"))?;
        }
        drop(traced);
        test.require_eq(
            pages.corrupt.load(Relaxed),
            0,
            fmt!("words that are not what was written"),
        )?;
        touches += pages.touches.load(Relaxed);
    }
    test.report_some("touches", touches);
    Ok(())
}

/// Makes the scheduler, a timer and its interrupt do something on this CPU.
fn sleep_a_little() -> Result {
    fsleep(Delta::from_micros(100));
    Ok(())
}

fn touched_from_interrupts(test: &Test) -> kselftest::Result {
    touched_by(
        test,
        |toucher| attach::<IrqHandlerEntry, _>(test, toucher),
        // The tick interrupts a CPU that nobody else interrupts.
        || smp::call_function(|_| {}),
    )
}

fn touched_from_scheduler(test: &Test) -> kselftest::Result {
    touched_by(
        test,
        |toucher| attach::<SchedSwitch, _>(test, toucher),
        sleep_a_little,
    )?;
    touched_by(
        test,
        |toucher| attach::<SchedWakeup, _>(test, toucher),
        sleep_a_little,
    )
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

/// Makes a worker of this CPU do something.
fn work_a_little() -> Result {
    let nothing = Arc::pin_init(
        pin_init!(Nothing {
            work <- new_work!("lazy_map_trace::Nothing::work"),
        }),
        GFP_KERNEL,
    )?;
    // A new work item is not on a queue, so queueing it always succeeds.
    let _ = workqueue::system().enqueue(nothing.clone());
    nothing.work.flush();
    Ok(())
}

fn touched_from_workqueue(test: &Test) -> kselftest::Result {
    touched_by(
        test,
        |toucher| attach::<WorkqueueExecuteStart, _>(test, toucher),
        work_a_little,
    )
}

/// What is traced: in a hard interrupt, of the timer or another CPU, and in a task.
#[cfg(any(CONFIG_DYNAMIC_FTRACE, CONFIG_KPROBES))]
const FUNCTIONS: [&CStr; 2] = [c"generic_handle_domain_irq", c"usleep_range_state"];

#[cfg(CONFIG_DYNAMIC_FTRACE)]
fn touched_from_function_tracer(test: &Test) -> kselftest::Result {
    use kernel::ftrace::Registration;

    for function in FUNCTIONS {
        let trace = |toucher| {
            KBox::pin_init(Registration::new(function, toucher), GFP_KERNEL).map_err(|error| {
                match error {
                    ENOENT => test.skip(fmt!("{function} cannot be traced")),
                    error => error.into(),
                }
            })
        };
        touched_by(test, trace, sleep_a_little)?;
    }
    Ok(())
}

#[cfg(not(CONFIG_DYNAMIC_FTRACE))]
fn touched_from_function_tracer(test: &Test) -> kselftest::Result {
    Err(test.skip(fmt!("no CONFIG_DYNAMIC_FTRACE")))
}

/// Length of the function tracer's hook, which must not have a kprobe.
#[cfg(CONFIG_KPROBES)]
const HOOK: u32 = 8;

#[cfg(CONFIG_KPROBES)]
fn touched_from_kprobes(test: &Test) -> kselftest::Result {
    use kernel::kprobe::Registration;

    for function in FUNCTIONS {
        let arm = |offset, toucher| {
            KBox::pin_init(Registration::new(function, offset, toucher), GFP_KERNEL)
        };
        let trace = |toucher: Toucher| {
            arm(0, toucher.clone())
                .or_else(|error| match error {
                    EINVAL => arm(HOOK, toucher),
                    error => Err(error),
                })
                .map_err(|error| match error {
                    ENOENT => test.skip(fmt!("no function {function}")),
                    error => error.into(),
                })
        };
        touched_by(test, trace, sleep_a_little)?;
    }
    Ok(())
}

#[cfg(not(CONFIG_KPROBES))]
fn touched_from_kprobes(test: &Test) -> kselftest::Result {
    Err(test.skip(fmt!("no CONFIG_KPROBES")))
}

/// Buffers that are used one after the other. The previous one is freed.
struct Buffers {
    buffers: KVec<SetOnce<Arc<Revocable<SparseArea>>>>,
    /// How many there have been, including the one in use.
    made: Atomic<usize>,
    touches: Atomic<u64>,
    /// Probes that came too late for the buffer that they had chosen.
    late: Atomic<u64>,
    corrupt: Atomic<u64>,
}

impl Buffers {
    fn new(count: usize) -> Result<Arc<Self>> {
        let mut buffers = KVec::with_capacity(count, GFP_KERNEL)?;
        for _ in 0..count {
            buffers.push(SetOnce::new(), GFP_KERNEL)?;
        }
        let buffers = Self {
            buffers,
            made: Atomic::new(0),
            touches: Atomic::new(0),
            late: Atomic::new(0),
            corrupt: Atomic::new(0),
        };
        Ok(Arc::new(buffers, GFP_KERNEL)?)
    }

    fn seed(number: usize) -> u64 {
        (number as u64 + 1) << 40
    }

    fn is_last(&self) -> bool {
        self.made.load(Relaxed) == self.buffers.len()
    }

    /// Replaces the buffer in use with a new one, and frees it.
    fn replace(&self) -> Result {
        let number = self.made.load(Relaxed);
        let Some(next) = self.buffers.get(number) else {
            return Ok(());
        };
        let pages = module_parameters::size.value() as usize / PAGE_SIZE;
        let seed = Self::seed(number);
        let area = SparseArea::new(pages, |word| pattern(seed, word / WORDS_PER_PAGE))?;
        for page in 0..pages {
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
            if word.map(|word| word.load(Relaxed)) != Some(pattern(Self::seed(number), page)) {
                self.corrupt.fetch_add(1, Relaxed);
            }
            self.touches.fetch_add(1, Relaxed);
        }
    }
}

struct Recorder(Arc<Buffers>);

impl Probe<CsdFunctionEntry> for Recorder {
    fn fire(&self, _args: &<CsdFunctionEntry as Tracepoint>::Args) {
        self.0.touch();
    }
}

impl Probe<IrqHandlerEntry> for Recorder {
    fn fire(&self, _args: &<IrqHandlerEntry as Tracepoint>::Args) {
        self.0.touch();
    }
}

impl Probe<SchedSwitch> for Recorder {
    fn fire(&self, _args: &<SchedSwitch as Tracepoint>::Args) {
        self.0.touch();
    }
}

fn buffer_replaced_while_traced(test: &Test) -> kselftest::Result {
    let buffers = Buffers::new(module_parameters::buffers.value() as usize)?;
    let traced = (
        attach::<CsdFunctionEntry, _>(test, Recorder(buffers.clone()))?,
        attach::<IrqHandlerEntry, _>(test, Recorder(buffers.clone()))?,
        attach::<SchedSwitch, _>(test, Recorder(buffers.clone()))?,
    );
    let mut replaced = Ok(());
    // Not 0 when the last buffer is in use, or none is left.
    let end = Atomic::new(0i32);
    kthread::on_each_cpu(
        |_| {
            while end.load(Relaxed) == 0 {
                let passed = smp::call_function(|_| {}).and_then(|()| sleep_a_little());
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
                end.store(1, Relaxed);
            }
        },
    )?;
    drop(traced);
    replaced?;
    test.report("buffers", buffers.made.load(Relaxed) as u64);
    test.report_some("touches", buffers.touches.load(Relaxed));
    test.report("late probes", buffers.late.load(Relaxed));
    test.expect_eq(
        buffers.corrupt.load(Relaxed),
        0,
        fmt!("words that are not what was written"),
    );
    Ok(())
}
