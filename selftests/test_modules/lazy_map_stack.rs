// SPDX-License-Identifier: GPL-2.0

//! Traps on a stack of which a page is new.
//!
//! The exception entry saves registers on the kernel stack at a time when it cannot handle another
//! trap. So what a task finds on its stack when it starts to run on a hart must be visible to that
//! hart, not only once it is touched.
//!
//! A task touches the upper page of an area, so the hart may remember that the pages below are not
//! mapped. Somebody else maps them, and the task sleeps. When it runs again on the same hart, it
//! moves its stack pointer to just above the page boundary and traps. So the registers are saved
//! across the boundary.
//!
//! Loading the module runs the test. It loads only if the test passes.

use core::arch::asm;
use kernel::{
    cpu::CpuId,
    page::PAGE_SIZE,
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc,
        Completion, //
    },
    time::{
        delay::fsleep,
        Delta, //
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

module! {
    type: LazyMapStack,
    name: "lazy_map_stack",
    authors: ["lazymap"],
    description: "Trap on a stack of which a page is new",
    license: "GPL",
    params: {
        rounds: u32 {
            default: 64,
            description: "Stacks that are used one after the other, 1 to 1000000 (default 64)",
        },
    },
}

/// Stacks are told from what overflows them by an address bit, 1 << 14 or above. Below such a
/// boundary all of these bits are 0.
const ALIGNMENT: usize = 1 << 16;
const AREA_PAGES: usize = 2 * ALIGNMENT / PAGE_SIZE;

/// Pages that the handler of the trap may use, beside the one that was there before.
const LOWER_PAGES: usize = 3;

/// Bytes between the page boundary and the stack pointer, less than what a trap saves.
const ABOVE_BOUNDARY: usize = 128;

/// Maps the lower pages of a stack on behalf of the task that is going to use it.
#[pin_data]
struct Mapper {
    area: Arc<SparseArea>,
    first: usize,
    errors: Atomic<i32>,
    #[pin]
    done: Completion,
    #[pin]
    work: Work<Mapper>,
}

impl_has_work! {
    impl HasWork<Self> for Mapper { self.work }
}

impl WorkItem for Mapper {
    type Pointer = Arc<Mapper>;

    fn run(this: Arc<Mapper>) {
        for page in this.first..this.first + LOWER_PAGES {
            if this.area.map(page).is_err() {
                this.errors.fetch_add(1, Relaxed);
            }
        }
        this.done.complete_all();
    }
}

/// Traps with the stack pointer at `stack`, and comes back with the one that it had.
///
/// # Safety
///
/// There must be room for a trap's registers and a page fault handler below `stack`, in memory that
/// nobody else uses.
unsafe fn trap_on(stack: usize) {
    // SAFETY: The load from user address 0 faults, because the kernel does not allow itself such
    // accesses, and the exception table makes execution go on behind it. Interrupts are disabled,
    // so the task is not switched away while it is on a stack that is not its own.
    unsafe {
        asm!(
            "csrrci {status}, sstatus, 2",
            "mv {old}, sp",
            "mv sp, {new}",
            "2: lb zero, 0(zero)",
            "3: mv sp, {old}",
            "andi {status}, {status}, 2",
            "csrs sstatus, {status}",
            ".pushsection __ex_table, \"a\"",
            ".balign 4",
            ".long 2b - .",
            ".long 3b - .",
            ".short 1", // EX_TYPE_FIXUP
            ".short 0",
            ".popsection",
            status = out(reg) _,
            old = out(reg) _,
            new = in(reg) stack,
        )
    };
}

/// What word `index` of an area contains until a trap overwrites it.
fn pattern(index: usize) -> u64 {
    (index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Uses one stack; says whether the task was back on the same CPU, so that the trap counts.
fn round() -> Result<bool> {
    let area = Arc::new(SparseArea::new(AREA_PAGES, pattern)?, GFP_KERNEL)?;
    let start = area.address(0);
    let first = (start.next_multiple_of(ALIGNMENT) - start) / PAGE_SIZE;
    let upper = first + LOWER_PAGES;
    let shared = area.clone();
    let mapper = Arc::pin_init(
        pin_init!(Mapper {
            area: shared,
            first,
            errors: Atomic::new(0),
            done <- Completion::new(),
            work <- new_work!("lazy_map_stack::Mapper::work"),
        }),
        GFP_KERNEL,
    )?;

    area.map(upper)?;
    let cpu = CpuId::current();
    let lowest = upper * WORDS_PER_PAGE;
    if area.word(lowest).map(|word| word.load(Relaxed)) != Some(pattern(lowest)) {
        return Err(EIO);
    }
    // A new work item is on no queue, so there is always room for it.
    let _ = workqueue::system_unbound().enqueue(mapper.clone());
    mapper.done.wait_for_completion();
    // The mapper may have been so quick that there was nothing to wait for.
    fsleep(Delta::from_millis(1));
    if mapper.errors.load(Relaxed) != 0 {
        return Err(ENOMEM);
    }
    if CpuId::current() != cpu {
        return Ok(false);
    }

    // SAFETY: `LOWER_PAGES` pages below have just been mapped, and the area is ours.
    unsafe { trap_on(area.address(upper) + ABOVE_BOUNDARY) };

    // The registers were saved below the boundary as well, or nothing was tested.
    let saved = (lowest - WORDS_PER_PAGE / 2..lowest)
        .filter_map(|index| Some(area.word(index)?.load(Relaxed) != pattern(index)))
        .any(|changed| changed);
    if saved {
        Ok(true)
    } else {
        Err(ENODATA)
    }
}

struct LazyMapStack;

impl kernel::Module for LazyMapStack {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        let rounds = module_parameters::rounds.value();
        if !(1..=1_000_000).contains(&rounds) {
            pr_err!("rounds={rounds}: want 1 to 1000000\n");
            return Err(EINVAL);
        }

        let mut traps = 0;
        for number in 0..rounds {
            match round() {
                Ok(true) => traps += 1,
                Ok(false) => {}
                Err(error) => {
                    pr_err!("round {number}: {error:?}\n");
                    pr_err!("FAIL\n");
                    return Err(error);
                }
            }
        }
        pr_info!("traps: {traps}\n");
        if traps == 0 {
            pr_err!("the task never came back to its CPU\n");
            pr_err!("FAIL\n");
            return Err(ENODATA);
        }
        pr_info!("PASS\n");
        Ok(Self)
    }
}
