// SPDX-License-Identifier: GPL-2.0

//! Traps on a stack of which a page is new.
//!
//! The exception entry saves registers on the kernel stack at a time when it cannot handle another
//! trap. So what a task finds on its stack when it starts to run on a hart must be visible to that
//! hart, not only once it is touched.
//!
//! A task touches the upper page of an area, so the hart may remember that the pages below are not
//! mapped. A worker maps them on the same hart, so the task is switched away and back. Then it
//! moves its stack pointer to just above the page boundary and traps. So the registers are saved
//! across the boundary.
//!
//! Loading the module runs the test, see `kernel::kselftest`.

use core::arch::asm;
use kernel::{
    cpu::CpuId,
    interrupt::local_interrupt_disable,
    kselftest::{
        self,
        pattern,
        Test, //
    },
    page::PAGE_SIZE,
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
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

/// The entry tells an overflow by an address bit, the one above those of an address within a stack.
/// Stacks have 1 to 32 pages; this many above a multiple of twice as much all of these bits are 0.
const ALIGNMENT: usize = 64 * PAGE_SIZE;
const AREA_PAGES: usize = ALIGNMENT / PAGE_SIZE + LOWER_PAGES + 2;

/// Pages that the handler of the trap may use, beside the one that was there before. Only the
/// registers that are saved first have to be above the multiple.
const LOWER_PAGES: usize = 3;

/// Bytes between the page boundary and the stack pointer, less than what a trap saves.
const ABOVE_BOUNDARY: usize = 128;

/// Maps the lower pages of a stack on behalf of the task that is going to use it.
#[pin_data]
struct Mapper {
    area: Arc<SparseArea>,
    first: usize,
    /// CPU that the worker runs on.
    cpu: Atomic<u32>,
    errors: Atomic<i32>,
    #[pin]
    work: Work<Mapper>,
}

impl_has_work! {
    impl HasWork<Self> for Mapper { self.work }
}

impl WorkItem for Mapper {
    type Pointer = Arc<Mapper>;

    fn run(this: Arc<Mapper>) {
        this.cpu.store(CpuId::current().as_u32(), Relaxed);
        for page in this.first..this.first + LOWER_PAGES {
            if this.area.map(page).is_err() {
                this.errors.fetch_add(1, Relaxed);
            }
        }
    }
}

/// Traps with the stack pointer at `stack`, and comes back with the one that it had.
///
/// # Safety
///
/// There must be room for a trap's registers and a page fault handler below `stack`, in memory that
/// nobody else uses. Interrupts must be disabled, so that the task is not switched away while it is
/// on a stack that is not its own.
unsafe fn trap_on(stack: usize) {
    // SAFETY: The load from user address 0 faults, because the kernel does not allow itself such
    // accesses, and the exception table makes execution go on behind it. The rest is the caller's.
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

/// So often a round is tried until the task and the worker are on one CPU.
const ATTEMPTS: u32 = 32;

/// Uses one stack; says whether everything happened on one CPU. Otherwise there was no trap.
fn round(test: &Test) -> kselftest::Result<bool> {
    let area = Arc::new(
        SparseArea::new(AREA_PAGES, |word| pattern(0, word))?,
        GFP_KERNEL,
    )?;
    let start = area.address(LOWER_PAGES).ok_or(EINVAL)?;
    let upper = LOWER_PAGES + (start.next_multiple_of(ALIGNMENT) - start) / PAGE_SIZE + 1;
    let first = upper - LOWER_PAGES;
    let stack = area.address(upper).ok_or(EINVAL)? + ABOVE_BOUNDARY;
    let shared = area.clone();
    let mapper = Arc::pin_init(
        pin_init!(Mapper {
            area: shared,
            first,
            cpu: Atomic::new(u32::MAX),
            errors: Atomic::new(0),
            work <- new_work!("lazy_map_stack::Mapper::work"),
        }),
        GFP_KERNEL,
    )?;

    area.map(upper)?;
    let cpu = CpuId::current();
    let lowest = upper * WORDS_PER_PAGE;
    test.require_eq(
        area.word(lowest).map(|word| word.load(Relaxed)),
        Some(pattern(0, lowest)),
        fmt!("the first word of the upper page"),
    )?;
    // A new work item is on no queue, so there is always room for it. This queue runs it here.
    let _ = workqueue::system().enqueue(mapper.clone());
    mapper.work.flush();
    test.require_eq(
        mapper.errors.load(Relaxed),
        0,
        fmt!("pages that cannot be mapped"),
    )?;
    let interrupts = local_interrupt_disable();
    if CpuId::current() != cpu || mapper.cpu.load(Relaxed) != cpu.as_u32() {
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

fn new_stack_page_used_by_trap(test: &Test) -> kselftest::Result {
    let rounds = u64::from(module_parameters::rounds.value());
    let mut traps = 0u64;
    for _ in 0..rounds {
        // The task moves now and then, above all while others are busy.
        for _ in 0..ATTEMPTS {
            if round(test)? {
                traps += 1;
                break;
            }
        }
    }
    test.report_some("touches", traps);
    test.expect(
        traps >= rounds.div_ceil(2),
        fmt!("a trap in half of {rounds} rounds: the task moves too often"),
    );
    Ok(())
}
