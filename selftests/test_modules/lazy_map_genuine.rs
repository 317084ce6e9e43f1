// SPDX-License-Identifier: GPL-2.0

//! Bad accesses on every CPU.
//!
//! Other tests check that a kernel survives faults that the page tables do not justify. But it must
//! not survive by ignoring faults: an access to an unmapped address must be reported, once, on each
//! CPU, whatever its number, right after something else was mapped as well as when nothing was.
//!
//! All accesses are listed in the exception table, so a report is a fixup and not an oops. A fault
//! that is retried forever is ended by mapping the page.
//!
//! Loading the module runs the test, see `kernel::kselftest`.

use core::arch::asm;
use kernel::{
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
    page::PAGE_SIZE,
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
        PageFaultKernel,
        Probe,
        Tracepoint, //
    },
    vmalloc::{
        SparseArea,
        WORDS_PER_PAGE, //
    },
};

#[macro_use]
mod touch;

use touch::{
    prime_here,
    Meeting,
    Met,
    Place, //
};

kernel::kselftest_module! {
    tests: tests,
    name: "lazy_map_genuine",
    authors: ["lazymap"],
    description: "Bad accesses on every CPU",
    license: "GPL",
    params: {
        rounds: u32 {
            default: 8,
            range: 1..=1000000,
            description: "Bad accesses of each kind on each CPU",
        },
        patience: u32 {
            default: 10,
            range: 1..=3600,
            description: "Seconds after which a fault is retried for ever",
        },
    },
}

/// The ways to touch memory that fault differently.
const KINDS: usize = 3;

/// Touches a 64-bit word in one of [`KINDS`] ways; returns whether the access was made.
///
/// # Safety
///
/// If anything is mapped at `address`, nobody else uses it.
unsafe fn touch(address: usize, kind: usize) -> bool {
    macro_rules! access {
        ($instruction:literal) => {{
            let mut made = 0usize;
            // SAFETY: The exception table makes execution continue behind an access that cannot be
            // made. The rest is the caller's.
            unsafe {
                asm!(
                    concat!("2: ", $instruction),
                    "li {made}, 1",
                    "3:",
                    extable!("2b", "3b"),
                    made = inout(reg) made,
                    address = in(reg) address,
                )
            };
            made != 0
        }};
    }
    match kind % KINDS {
        0 => access!("ld zero, 0({address})"),
        1 => access!("sd zero, 0({address})"),
        _ => access!("amoadd.d zero, zero, ({address})"),
    }
}

/// Counts the page faults that the kernel handles in a range of addresses, for each CPU.
struct Faults {
    start: usize,
    size: usize,
    counts: KVec<Atomic<u64>>,
}

impl Faults {
    fn new(start: usize, size: usize) -> Result<Self> {
        let mut counts = KVec::with_capacity(nr_cpu_ids() as usize, GFP_KERNEL)?;
        for _ in 0..nr_cpu_ids() {
            counts.push(Atomic::new(0), GFP_KERNEL)?;
        }
        Ok(Self {
            start,
            size,
            counts,
        })
    }

    /// Runs `scope` while faults are counted, or skips the case.
    fn counted(&self, test: &Test, scope: impl FnOnce() -> kselftest::Result) -> kselftest::Result {
        attached::<PageFaultKernel, _, _>(self, scope).unwrap_or_else(|error| match error {
            ENOENT => Err(test.skip(fmt!("no tracepoint {}", PageFaultKernel::NAME))),
            error => Err(error.into()),
        })
    }

    fn on(&self, cpu: CpuId) -> u64 {
        self.counts
            .get(cpu.as_u32() as usize)
            .map_or(0, |count| count.load(Relaxed))
    }
}

impl Probe<PageFaultKernel> for Faults {
    fn fire(&self, args: &<PageFaultKernel as Tracepoint>::Args, _context: ()) {
        if args.0.wrapping_sub(self.start) < self.size {
            if let Some(count) = self.counts.get(CpuId::current().as_u32() as usize) {
                count.fetch_add(1, Relaxed);
            }
        }
    }
}

/// Makes a new mapping, so that the next fault on each CPU may be a spurious one.
fn map_something() -> Result {
    VVec::<u64>::with_capacity(PAGE_SIZE / size_of::<u64>(), GFP_KERNEL).map(drop)?;
    Ok(())
}

/// Reads the first word of an area, whose page is new, on all CPUs.
fn read_on_all_cpus(test: &Test, met: &Met, area: &SparseArea) -> Result {
    smp::on_each_cpu(|cpu, _| {
        test.expect_eq(
            area.word(0).map(|word| met.touch(Place::Ipi, word)),
            Some(pattern(0, 0)),
            fmt!("read on CPU {}", cpu.as_u32()),
        );
    })
}

/// Makes an area of which only the first page is mapped, and has been read on all CPUs.
///
/// They have not tried it in vain before: on a kernel that retries that for ever, nothing would end
/// it here.
fn new_area(test: &Test, met: &Met, pages: usize) -> Result<SparseArea> {
    let area = SparseArea::new(pages, |word| pattern(0, word))?;
    area.map(0)?;
    read_on_all_cpus(test, met, &area)?;
    Ok(area)
}

/// Whether a bad access had to be ended: others would hang as well.
static STUCK: Atomic<bool> = Atomic::new(false);

/// Skips a case that has no way to end a bad access.
fn not_stuck(test: &Test) -> kselftest::Result {
    if STUCK.load(Relaxed) {
        return Err(test.skip(fmt!("it would never end")));
    }
    Ok(())
}

/// Ends stuck accesses once it has been called for as long as `patience` says.
struct Watchdog<'a> {
    test: &'a Test,
    start: Instant<Monotonic>,
    bitten: bool,
}

impl<'a> Watchdog<'a> {
    fn new(test: &'a Test) -> Self {
        Self {
            test,
            start: Instant::now(),
            bitten: false,
        }
    }

    /// Maps `page` of `area` if it is time.
    fn watch(&mut self, area: &SparseArea, page: usize, cpu: CpuId) {
        let limit = i64::from(module_parameters::patience.value());
        if !self.bitten && self.start.elapsed().as_millis() > limit * 1000 {
            self.bitten = true;
            STUCK.store(true, Relaxed);
            self.test.fail(fmt!(
                "CPU {}: a bad access is still retried after {limit} s, and is ended now",
                cpu.as_u32()
            ));
            if area.map(page).is_err() {
                self.test.fail(fmt!("it cannot be ended"));
            }
        }
    }
}

/// Makes bad accesses to page `page` of `area`, which is not mapped, on one CPU after the other.
fn check_page(test: &Test, area: &SparseArea, page: usize) -> kselftest::Result {
    let address = area.address(page).ok_or(EINVAL)?;
    let faults = Faults::new(address, PAGE_SIZE)?;
    faults.counted(test, || check_accesses(test, area, page, &faults))
}

fn check_accesses(
    test: &Test,
    area: &SparseArea,
    page: usize,
    faults: &Faults,
) -> kselftest::Result {
    let rounds = module_parameters::rounds.value() as usize;
    let mut reported = 0;
    let mut cpus = 0;

    for cpu in (0..nr_cpu_ids()).filter_map(CpuId::from_u32) {
        test.go_on()?;
        let mut dog = Watchdog::new(test);
        // Returns the number of accesses that were made.
        let access = |cpu| {
            for round in 0..rounds * KINDS {
                // The first fault after an announcement, and one that no mapping explains.
                if round % 2 == 0 && map_something().is_err() {
                    test.fail(fmt!("no memory for something new"));
                    break;
                }
                let before = faults.on(cpu);
                // SAFETY: Nothing is mapped there, or words of ours that nobody looks at.
                if unsafe { touch(faults.start, round / 2) } {
                    return 1;
                }
                test.expect_eq(
                    faults.on(cpu) - before,
                    1,
                    fmt!("reports of a bad access on CPU {}", cpu.as_u32()),
                );
            }
            0
        };
        let made = match kthread::on_cpu(cpu, access, || dog.watch(area, page, cpu)) {
            // Not every possible CPU is online.
            Err(ENXIO) => continue,
            other => other?,
        };
        test.require_eq(
            made,
            0,
            fmt!("accesses to nothing that were made on CPU {}", cpu.as_u32()),
        )?;
        cpus += 1;
        reported += faults.on(cpu);
    }
    test.report_some("reported", reported);
    test.expect_eq(
        reported,
        cpus * (rounds * KINDS) as u64,
        fmt!("reports of all bad accesses on {cpus} CPUs"),
    );
    Ok(())
}

#[kselftests]
mod tests {
    use super::*;

    /// A page of a known area that has never been mapped.
    #[test]
    fn unmapped_page_reported(test: &Test) -> kselftest::Result {
        let met = Met::new();
        let area = new_area(test, &met, 2)?;
        check_page(test, &area, 1)?;
        met.report(test);
        Ok(())
    }

    /// The page behind an area.
    #[test]
    fn guard_page_reported(test: &Test) -> kselftest::Result {
        not_stuck(test)?;
        let met = Met::new();
        let area = new_area(test, &met, 1)?;
        let guard = area.address(0).ok_or(EINVAL)? + PAGE_SIZE;
        let faults = Faults::new(guard, PAGE_SIZE)?;
        let made = Atomic::new(0u64);

        map_something()?;
        let access = |cpu: CpuId| {
            for kind in 0..KINDS {
                let before = faults.on(cpu);
                // SAFETY: Nothing is mapped there.
                if unsafe { touch(guard, kind) } {
                    made.fetch_add(1, Relaxed);
                }
                test.expect_eq(
                    faults.on(cpu) - before,
                    1,
                    fmt!("reports of a bad access on CPU {}", cpu.as_u32()),
                );
            }
        };
        faults.counted(test, || Ok(kthread::on_each_cpu(access, || {})?))?;
        test.expect_eq(made.load(Relaxed), 0, fmt!("accesses to a guard page"));
        met.report(test);
        Ok(())
    }

    /// A page that was mapped and that every CPU has used.
    #[test]
    fn page_unmapped_again_reported(test: &Test) -> kselftest::Result {
        not_stuck(test)?;
        let mut area = SparseArea::new(1, |word| pattern(0, word))?;
        let met = Met::new();
        for _ in 0..module_parameters::rounds.value() {
            test.go_on()?;
            // The last round has left every CPU with a read in vain.
            area.map(0)?;
            read_on_all_cpus(test, &met, &area)?;
            area.unmap(0)?;
            map_something()?;
            smp::on_each_cpu(|_, _| prime_here(test, &area, 0))?;
            kthread::on_each_cpu(|_| prime_here(test, &area, 0), || {})?;
        }
        met.report(test);
        Ok(())
    }

    /// A read by the kernel itself that may fault, mapped and unmapped: a new page must be found,
    /// and not be reported.
    #[test]
    fn exception_table_read_reported(test: &Test) -> kselftest::Result {
        not_stuck(test)?;
        let rounds = module_parameters::rounds.value() as usize;
        let area = SparseArea::new(rounds + 1, |word| pattern(0, word))?;
        let met = Met::new();
        let meeting = Meeting::new();
        kthread::on_each_cpu_of_group(
            |member| {
                for page in 0..rounds {
                    prime_here(test, &area, page);
                    if !meeting.meet(2 * page as u64, member.count) {
                        break;
                    }
                    // Nobody gives up the CPU until all have read it.
                    if member.number == 0 {
                        if let Err(error) = area.map(page) {
                            test.fail(fmt!("page {page}: {error:?}"));
                        }
                    }
                    if !meeting.meet(2 * page as u64 + 1, member.count) {
                        break;
                    }
                    test.expect_eq(
                        met.try_touch(Place::Task, &area, page),
                        Some(pattern(0, page * WORDS_PER_PAGE)),
                        fmt!("page {page} on CPU {}", member.cpu.as_u32()),
                    );
                    prime_here(test, &area, rounds);
                }
            },
            || {},
        )?;
        met.report(test);
        Ok(())
    }

    /// In the handler of an IPI, and in a task that has disabled interrupts.
    #[test]
    fn reported_in_interrupt(test: &Test) -> kselftest::Result {
        not_stuck(test)?;
        let met = Met::new();
        let area = new_area(test, &met, 2)?;
        let address = area.address(1).ok_or(EINVAL)?;
        let faults = Faults::new(address, PAGE_SIZE)?;
        let bad_access = |cpu: CpuId| {
            let before = faults.on(cpu);
            // SAFETY: Nothing is mapped there.
            let made = unsafe { touch(address, 0) };
            test.expect(!made, fmt!("not made on CPU {}", cpu.as_u32()));
            test.expect_eq(
                faults.on(cpu) - before,
                1,
                fmt!("reports of a bad access on CPU {}", cpu.as_u32()),
            );
        };
        let in_task = |cpu: CpuId| {
            let interrupts = local_interrupt_disable();
            bad_access(cpu);
            drop(interrupts);
        };

        faults.counted(test, || {
            map_something()?;
            smp::on_each_cpu(|cpu, _| bad_access(cpu))?;
            map_something()?;
            kthread::on_each_cpu(in_task, || {})?;
            Ok(())
        })?;
        met.report(test);
        Ok(())
    }

    /// Each CPU makes its own mapping, so marks come at any time.
    #[test]
    fn reported_while_others_map(test: &Test) -> kselftest::Result {
        not_stuck(test)?;
        let area = SparseArea::new(1, |word| pattern(0, word))?;
        let address = area.address(0).ok_or(EINVAL)?;
        let faults = Faults::new(address, PAGE_SIZE)?;
        let rounds = u64::from(module_parameters::rounds.value()) * KINDS as u64;
        let met = Met::new();

        let map_and_access = |cpu: CpuId| {
            for round in 0..rounds {
                if kthread::should_stop() {
                    break;
                }
                let before = faults.on(cpu);
                let new = VVec::from_elem(round, WORDS_PER_PAGE, GFP_KERNEL);
                // SAFETY: Nothing is mapped there.
                let made = unsafe { touch(address, round as usize) };
                test.expect(!made, fmt!("not made on CPU {}", cpu.as_u32()));
                test.expect_eq(
                    faults.on(cpu) - before,
                    1,
                    fmt!("reports of a bad access on CPU {}", cpu.as_u32()),
                );
                match new {
                    Ok(new) => test.expect_eq(
                        met.read(Place::Task, &new[0]),
                        round,
                        fmt!("what was written"),
                    ),
                    Err(_) => test.expect(false, fmt!("memory for something new")),
                };
            }
        };
        faults.counted(test, || Ok(kthread::on_each_cpu(map_and_access, || {})?))?;
        met.report(test);
        Ok(())
    }
}
