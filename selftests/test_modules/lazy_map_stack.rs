// SPDX-License-Identifier: GPL-2.0

//! Traps on a stack with a new page.
//!
//! The exception entry saves registers on the kernel stack at a time when it cannot handle another
//! trap. So when a task first runs on a hart, its stack must be visible to that hart, not only once
//! it is touched.
//!
//! A thread touches the upper page of an area, so the hart may remember that the pages below are
//! not mapped. Then it maps them on another hart, where a stack might have been made for it, and
//! comes back. It moves its stack pointer to just above the page boundary and traps, so that the
//! registers are saved across the boundary.
//!
//! The exception entry either survives that or not, and does not tell what it met. That the upper
//! page was new when the thread touched it tells whether the hart remembers anything.
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
    kthread::{
        self,
        Unbound, //
    },
    page::PAGE_SIZE,
    prelude::*,
    sync::atomic::Relaxed,
    vmalloc::{
        SparseArea,
        WORDS_PER_PAGE, //
    },
};

#[macro_use]
mod touch;

use touch::{
    prime_here,
    Met,
    Place, //
};

kernel::kselftest_module! {
    tests: tests,
    name: "lazy_map_stack",
    authors: ["lazymap"],
    description: "Trap on a stack of which a page is new",
    license: "GPL",
    params: {
        rounds: u32 {
            default: 64,
            range: 1..=1000000,
            description: "Stacks that are used one after the other",
        },
    },
}

/// The entry detects an overflow by an address bit, the one above those of an address within a
/// stack. Stacks have 1 to 32 pages; this many above a multiple of twice as much all of these bits
/// are 0.
const ALIGNMENT: usize = 64 * PAGE_SIZE;
const AREA_PAGES: usize = ALIGNMENT / PAGE_SIZE + LOWER_PAGES + 2;

/// Pages that the handler of the trap may use, beside the one that was there before. Only the
/// registers that are saved first have to be above the multiple.
const LOWER_PAGES: usize = 3;

/// Bytes between the page boundary and the stack pointer, less than what a trap saves.
const ABOVE_BOUNDARY: usize = 128;

/// Traps with the stack pointer at `stack`, and returns with the old one.
///
/// # Safety
///
/// There must be room for a trap's registers and a page fault handler below `stack`, in memory that
/// nobody else uses. Interrupts must be disabled, so that the task is not switched away while it is
/// on a stack that is not its own.
unsafe fn trap_on(stack: usize) {
    // SAFETY: The load from user address 0 faults, because the kernel does not allow itself such
    // accesses, and the exception table makes execution continue behind it. The rest is the
    // caller's.
    unsafe {
        asm!(
            "mv {old}, sp",
            "mv sp, {new}",
            "2: lb zero, 0(zero)",
            "3: mv sp, {old}",
            extable!("2b", "3b"),
            old = out(reg) _,
            new = in(reg) stack,
        )
    };
}

/// How often to try a round: a CPU may go offline in the meantime.
const ATTEMPTS: u32 = 32;

/// How a round ended.
enum Round {
    /// The thread trapped on the new stack.
    Trapped,
    /// It did not, because a CPU that it should go to was offline.
    Offline,
    /// It did not, because it was no longer where it should be: the CPU has gone offline since.
    Elsewhere,
}

/// Moves the thread to a CPU; returns whether that is online.
fn migrate(thread: &Unbound, cpu: CpuId) -> Result<bool> {
    match thread.migrate_to(cpu) {
        Ok(()) => Ok(true),
        Err(EINVAL) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Uses one stack, made on CPU `there` and used on CPU `here`.
fn round(
    test: &Test,
    met: &Met,
    thread: &Unbound,
    here: CpuId,
    there: CpuId,
) -> kselftest::Result<Round> {
    let area = SparseArea::new(AREA_PAGES, |word| pattern(0, word))?;
    let start = area.address(LOWER_PAGES).ok_or(EINVAL)?;
    let upper = LOWER_PAGES + (start.next_multiple_of(ALIGNMENT) - start) / PAGE_SIZE + 1;
    let stack = area.address(upper).ok_or(EINVAL)? + ABOVE_BOUNDARY;
    let lowest = upper * WORDS_PER_PAGE;

    if !migrate(thread, here)? {
        return Ok(Round::Offline);
    }
    prime_here(test, &area, upper);
    area.map(upper)?;
    test.require_eq(
        area.word(lowest).map(|word| met.touch(Place::Task, word)),
        Some(pattern(0, lowest)),
        fmt!("the first word of the upper page"),
    )?;
    // After that: a spurious fault makes the hart forget what it has tried.
    for page in upper - LOWER_PAGES..upper {
        prime_here(test, &area, page);
    }
    if !migrate(thread, there)? {
        return Ok(Round::Offline);
    }
    for page in upper - LOWER_PAGES..upper {
        area.map(page)?;
    }
    if !migrate(thread, here)? {
        return Ok(Round::Offline);
    }
    let interrupts = local_interrupt_disable();
    if CpuId::current() != here {
        return Ok(Round::Elsewhere);
    }
    // SAFETY: `LOWER_PAGES` pages below have just been mapped, and the area is ours.
    unsafe { trap_on(stack) };
    drop(interrupts);

    // The registers were saved below the boundary as well, or nothing was tested.
    let saved = (lowest - WORDS_PER_PAGE / 2..lowest)
        .filter_map(|index| Some(area.word(index)?.load(Relaxed) != pattern(0, index)))
        .any(|changed| changed);
    test.require(saved, fmt!("the trap saved registers below the boundary"))?;
    Ok(Round::Trapped)
}

/// All rounds, in a thread that can be moved.
fn all_rounds(test: &Test, thread: &Unbound) -> kselftest::Result {
    let mut cpus = KVec::new();
    for cpu in (0..nr_cpu_ids()).filter_map(CpuId::from_u32) {
        if migrate(thread, cpu)? {
            cpus.push(cpu, GFP_KERNEL)?;
        }
    }
    if cpus.len() < 2 {
        return Err(test.skip(fmt!("a thread has to move, and there is one CPU")));
    }
    let rounds = module_parameters::rounds.value() as usize;
    let met = Met::new();
    let (mut traps, mut moved) = (0, 0);
    for number in 0..rounds {
        test.go_on()?;
        let here = cpus[number % cpus.len()];
        let there = cpus[(number + 1) % cpus.len()];
        let (mut trapped, mut offline) = (false, false);
        for _ in 0..ATTEMPTS {
            match round(test, &met, thread, here, there)? {
                Round::Trapped => trapped = true,
                Round::Offline => offline = true,
                Round::Elsewhere => {}
            }
            if trapped {
                break;
            }
        }
        traps += usize::from(trapped);
        moved += usize::from(!trapped);
        test.expect(
            trapped || offline,
            fmt!(
                "a trap on CPU {}, or it or CPU {} is offline",
                here.as_u32(),
                there.as_u32()
            ),
        );
    }
    met.report(test);
    test.report_some("traps", traps as u64);
    test.report(
        "rounds without a trap, because a CPU was offline",
        moved as u64,
    );
    // The trap is made on every machine, whatever the hart remembers.
    test.require(
        2 * traps >= rounds,
        fmt!("traps in at least half of {rounds} rounds"),
    )
}

#[kselftests]
mod tests {
    use super::*;

    /// A trap saves registers across the boundary to a new page.
    #[test]
    fn new_stack_page_used_by_trap(test: &Test) -> kselftest::Result {
        kthread::in_thread(|thread| all_rounds(test, thread), || {})?
    }
}
