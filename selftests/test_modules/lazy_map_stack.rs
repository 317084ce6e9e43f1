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
        pattern,
        End,
        Test, //
    },
    kthread,
    page::PAGE_SIZE,
    prelude::*,
    sync::atomic::{
        Atomic,
        Relaxed, //
    },
    vmalloc::{
        SparseArea,
        WORDS_PER_PAGE, //
    },
};

kernel::kselftest! {
    cases: [new_stack_page_used_by_trap],
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
            ".pushsection __ex_table, \"a\"",
            ".balign 4",
            ".long 2b - .",
            ".long 3b - .",
            ".short 1", // EX_TYPE_FIXUP
            ".short 0",
            ".popsection",
            old = out(reg) _,
            new = in(reg) stack,
        )
    };
}

/// How often to try a round: a CPU may go offline in the meantime.
const ATTEMPTS: u32 = 32;

/// Uses one stack, made on CPU `there` and used on CPU `here`.
///
/// Returns whether the thread was where it should be. Otherwise it did not trap.
fn round(test: &Test, here: CpuId, there: CpuId) -> kselftest::Result<bool> {
    let area = SparseArea::new(AREA_PAGES, |word| pattern(0, word))?;
    let start = area.address(LOWER_PAGES).ok_or(EINVAL)?;
    let upper = LOWER_PAGES + (start.next_multiple_of(ALIGNMENT) - start) / PAGE_SIZE + 1;
    let stack = area.address(upper).ok_or(EINVAL)? + ABOVE_BOUNDARY;
    let lowest = upper * WORDS_PER_PAGE;

    area.map(upper)?;
    if kthread::migrate_to(here).is_err() {
        return Ok(false);
    }
    test.require_eq(
        area.word(lowest).map(|word| word.load(Relaxed)),
        Some(pattern(0, lowest)),
        fmt!("the first word of the upper page"),
    )?;
    if kthread::migrate_to(there).is_err() {
        return Ok(false);
    }
    for page in upper - LOWER_PAGES..upper {
        area.map(page)?;
    }
    if kthread::migrate_to(here).is_err() {
        return Ok(false);
    }
    let interrupts = local_interrupt_disable();
    if CpuId::current() != here {
        return Ok(false);
    }
    // SAFETY: `LOWER_PAGES` pages below have just been mapped, and the area is ours.
    unsafe { trap_on(stack) };
    drop(interrupts);

    // The registers were saved below the boundary as well, or nothing was tested.
    let saved = (lowest - WORDS_PER_PAGE / 2..lowest)
        .filter_map(|index| Some(area.word(index)?.load(Relaxed) != pattern(0, index)))
        .any(|changed| changed);
    test.require(saved, fmt!("the trap saved registers below the boundary"))?;
    Ok(true)
}

/// All rounds, in a thread that can be moved; returns the number of traps.
fn all_rounds(test: &Test) -> kselftest::Result<u64> {
    let mut cpus = KVec::new();
    for cpu in (0..nr_cpu_ids()).filter_map(CpuId::from_u32) {
        if kthread::migrate_to(cpu).is_ok() {
            cpus.push(cpu, GFP_KERNEL)?;
        }
    }
    if cpus.len() < 2 {
        return Err(test.skip(fmt!("a thread has to move, and there is one CPU")));
    }
    let mut traps = 0;
    for number in 0..module_parameters::rounds.value() as usize {
        let here = cpus[number % cpus.len()];
        let there = cpus[(number + 1) % cpus.len()];
        for _ in 0..ATTEMPTS {
            if round(test, here, there)? {
                traps += 1;
                break;
            }
        }
    }
    Ok(traps)
}

fn new_stack_page_used_by_trap(test: &Test) -> kselftest::Result {
    let traps = Atomic::new(0u64);
    let skipped = Atomic::new(0i32);
    kthread::on_any_cpu(
        1,
        |_| match all_rounds(test) {
            Ok(number) => traps.store(number, Relaxed),
            Err(End::Skipped) => skipped.store(1, Relaxed),
            Err(End::Failed) => {}
            Err(End::Error(error)) => test.fail(fmt!("{error:?}")),
        },
        || {},
    )?;
    if skipped.load(Relaxed) != 0 {
        return Err(End::Skipped);
    }
    let rounds = u64::from(module_parameters::rounds.value());
    let traps = traps.load(Relaxed);
    test.expect(
        traps >= rounds.div_ceil(2),
        fmt!("a trap in half of {rounds} rounds: the thread was moved too often"),
    );
    test.report_some("touches", traps);
    Ok(())
}
