// SPDX-License-Identifier: GPL-2.0

//! Touches of new mappings that tell whether they met a stale translation.
//!
//! A fault that the kernel absorbs leaves no trace but one: `sret` sets sstatus.SPIE. So a touch
//! clears the bit, with interrupts disabled, makes one access, and looks at it. Interrupts from
//! firmware do not set it. An access that is misaligned might, if the kernel emulates it; all
//! accesses here are aligned.
//!
//! A hart may remember that nothing is mapped at an address because it has tried that very address,
//! or just because it has looked at a neighbour. For the former it must have tried: before anything
//! is mapped, all CPUs that will touch it are made to read there in vain.
//!
//! Used by all test modules.

// No module uses all of it.
#![allow(dead_code)]

use core::arch::asm;
use kernel::{
    bindings,
    cpu::CpuId,
    interrupt::{
        local_interrupt_disable,
        LocalInterruptDisabled, //
    },
    kselftest::{
        self,
        Test, //
    },
    kthread,
    page::PAGE_SIZE,
    prelude::*,
    processor::cpu_relax,
    smp,
    sync::atomic::{
        Acquire,
        Atomic,
        Full,
        Relaxed, //
    },
    vmalloc::{
        SparseArea,
        WORDS_PER_PAGE, //
    },
};

/// For `asm!`: if the access at label `$from` cannot be made, execution continues at label `$to`.
macro_rules! extable {
    ($from:literal, $to:literal) => {
        concat!(
            ".pushsection __ex_table, \"a\"\n",
            ".balign 4\n",
            ".long ",
            $from,
            " - .\n.long ",
            $to,
            " - .\n",
            ".short 1\n", // EX_TYPE_FIXUP
            ".short 0\n",
            ".popsection"
        )
    };
}

/// sstatus.SPIE
const SPIE: usize = 1 << 5;

/// Whether all CPUs have a single-letter extension.
pub(crate) fn has_extension(letter: u8) -> bool {
    // SAFETY: Without a bitmap, what is tested is the one of all CPUs.
    unsafe {
        bindings::__riscv_isa_extension_available(core::ptr::null(), u32::from(letter - b'a'))
    }
}

/// Where a touch is made.
#[derive(Clone, Copy)]
pub(crate) enum Place {
    Task,
    TaskWithoutInterrupts,
    Ipi,
    Softirq,
    Work,
    Tracepoint,
    FunctionTracer,
    Kprobe,
}

/// Their names, in that order.
const PLACES: [&str; 8] = [
    "tasks",
    "tasks with interrupts off",
    "IPIs",
    "softirqs",
    "work items",
    "tracepoints",
    "function tracers",
    "kprobes",
];

/// Disables interrupts, unless they are. The handler of a kprobe runs like one of a non-maskable
/// interrupt, where nobody may ask for that.
fn interrupts_off() -> Option<LocalInterruptDisabled> {
    // SAFETY: This only reads the state of the calling CPU.
    let off = unsafe { bindings::irqs_disabled() };
    (!off).then(local_interrupt_disable)
}

/// Executes one instruction; returns what it leaves in a0, and whether it trapped.
macro_rules! access {
    ($instruction:literal, $address:expr) => {{
        let (value, status): (u64, usize);
        let interrupts = interrupts_off();
        // SAFETY: SPIE is of no use to anybody while interrupts are disabled. The rest is up to the
        // user of this macro.
        unsafe {
            asm!(
                "csrc sstatus, {mask}",
                $instruction,
                "csrr {status}, sstatus",
                mask = in(reg) SPIE,
                address = in(reg) $address,
                status = lateout(reg) status,
                out("a0") value,
                out("ra") _,
            )
        };
        drop(interrupts);
        (value, status & SPIE != 0)
    }};
}

/// Touches of one test case, and the spurious faults among them.
pub(crate) struct Met {
    /// Of each [`Place`]: touches, spurious faults.
    places: [(Atomic<u64>, Atomic<u64>); PLACES.len()],
    /// Mappings of [`Self::remade()`], and those that are where CPUs have tried in vain.
    remade: Atomic<u64>,
    hit: Atomic<u64>,
}

impl Met {
    pub(crate) const fn new() -> Self {
        Self {
            places: [const { (Atomic::new(0), Atomic::new(0)) }; PLACES.len()],
            remade: Atomic::new(0),
            hit: Atomic::new(0),
        }
    }

    /// Counts a touch.
    pub(crate) fn count(&self, place: Place, trapped: bool) {
        if let Some((touches, faults)) = self.places.get(place as usize) {
            touches.fetch_add(1, Relaxed);
            faults.fetch_add(u64::from(trapped), Relaxed);
        }
    }

    /// Reads a word.
    pub(crate) fn touch(&self, place: Place, word: &Atomic<u64>) -> u64 {
        // SAFETY: There is such a word, and it is aligned.
        let (value, trapped) = access!("ld a0, 0({address})", word.as_ptr());
        self.count(place, trapped);
        value
    }

    /// Reads a word that nobody writes.
    pub(crate) fn read(&self, place: Place, word: &u64) -> u64 {
        // SAFETY: There is such a word, and it is aligned.
        let (value, trapped) = access!("ld a0, 0({address})", core::ptr::from_ref(word));
        self.count(place, trapped);
        value
    }

    /// Reads the word at an address, however early that is.
    ///
    /// # Safety
    ///
    /// A word must be mapped there, even if the kernel has not announced it yet. The caller must
    /// know that the kernel may die of the fault.
    pub(crate) unsafe fn peek(&self, place: Place, address: usize) -> u64 {
        let (value, trapped) = access!("ld a0, 0({address})", address);
        self.count(place, trapped);
        value
    }

    /// Calls the function at an address.
    ///
    /// # Safety
    ///
    /// There must be a function that takes nothing, returns a number, changes no register but a0
    /// and ra, and may be called with interrupts disabled.
    pub(crate) unsafe fn call(&self, place: Place, address: usize) -> u64 {
        let (value, trapped) = access!("jalr {address}", address);
        self.count(place, trapped);
        value
    }

    /// Counts a touch that something else makes, like a function of the kernel: all spurious faults
    /// of `touch` as one. It is called with interrupts disabled.
    pub(crate) fn during(&self, place: Place, touch: impl FnOnce()) {
        let interrupts = interrupts_off();
        // SAFETY: SPIE is of no use to anybody while interrupts are disabled.
        unsafe { asm!("csrc sstatus, {mask}", mask = in(reg) SPIE) };
        touch();
        let status: usize;
        // SAFETY: This only reads a register.
        unsafe { asm!("csrr {status}, sstatus", status = out(reg) status) };
        drop(interrupts);
        self.count(place, status & SPIE != 0);
    }

    /// Makes something new where all CPUs have tried in vain, if possible; see [`made_again()`].
    pub(crate) fn remade<T>(
        &self,
        make: impl FnMut() -> Result<T>,
        place: impl Fn(&T) -> (usize, usize),
    ) -> Result<T> {
        let (new, hit) = made_again(make, place, |read| smp::on_each_cpu(|_, _| read()))?;
        self.remade.fetch_add(1, Relaxed);
        self.hit.fetch_add(u64::from(hit), Relaxed);
        Ok(new)
    }

    /// Does what [`Self::remade()`] does for something that has many parts, each of so many pages.
    /// `starts` appends where they are.
    pub(crate) fn remade_in_parts<T>(
        &self,
        pages: usize,
        make: impl Fn() -> Result<T>,
        starts: impl Fn(&T, &mut KVec<usize>) -> Result,
    ) -> Result<T> {
        let (mut before, mut after) = (KVec::new(), KVec::new());
        let first = make()?;
        starts(&first, &mut before)?;
        drop(first);
        // SAFETY: The caller may sleep. Only after this are the addresses free.
        unsafe { bindings::vm_unmap_aliases() };
        smp::on_each_cpu(|_, _| {
            for start in &before {
                (0..pages).for_each(|page| in_vain(start + page * PAGE_SIZE));
            }
        })?;
        let new = make()?;
        starts(&new, &mut after)?;
        self.remade.fetch_add(1, Relaxed);
        if after.iter().any(|start| before.contains(start)) {
            self.hit.fetch_add(1, Relaxed);
        }
        Ok(new)
    }

    /// Makes something new at addresses that CPUs have tried in vain, if it begins where `expected`
    /// says: these are the starts of its parts, each of so many pages. `place` says where its first
    /// part is.
    pub(crate) fn made_at<T>(
        &self,
        expected: &[usize],
        pages: usize,
        make: impl FnOnce() -> Result<T>,
        place: impl Fn(&T) -> usize,
    ) -> Result<T> {
        smp::on_each_cpu(|_, _| {
            for start in expected {
                (0..pages).for_each(|page| in_vain(start + page * PAGE_SIZE));
            }
        })?;
        let new = make()?;
        self.remade.fetch_add(1, Relaxed);
        if expected.first() == Some(&place(&new)) {
            self.hit.fetch_add(1, Relaxed);
        }
        Ok(new)
    }

    /// Number of touches in a place.
    pub(crate) fn touches_in(&self, place: Place) -> u64 {
        self.places
            .get(place as usize)
            .map_or(0, |(touches, _)| touches.load(Relaxed))
    }

    /// Number of all touches.
    pub(crate) fn touches(&self) -> u64 {
        self.places
            .iter()
            .map(|(touches, _)| touches.load(Relaxed))
            .sum()
    }

    /// Number of all spurious faults.
    pub(crate) fn faults(&self) -> u64 {
        self.places
            .iter()
            .map(|(_, faults)| faults.load(Relaxed))
            .sum()
    }

    /// Prints what was counted, and fails if nothing was touched.
    pub(crate) fn report(&self, test: &Test) {
        test.report_some("touches", self.touches());
        test.report("spurious faults", self.faults());
        for ((touches, faults), name) in self.places.iter().zip(PLACES) {
            let (touches, faults) = (touches.load(Relaxed), faults.load(Relaxed));
            if touches != 0 {
                test.note(fmt!("in {name}: {faults} of {touches} touches"));
            }
        }
        let remade = self.remade.load(Relaxed);
        if remade != 0 {
            let hit = self.hit.load(Relaxed);
            test.note(fmt!("tried in vain before: {hit} of {remade} mappings"));
            if hit == 0 {
                // Not a failure: with one CPU the allocator never takes the same address twice.
                test.note(fmt!(
                    "harts that remember only failed accesses are not tested here"
                ));
            }
        }
    }
}

/// How many pages of a mapping are touched.
pub(crate) const TOUCHED: usize = 64;

/// The pages of a mapping that are touched: all, or a few and the last one.
pub(crate) fn touched(pages: usize) -> impl Iterator<Item = usize> {
    let step = usize::max(1, pages / TOUCHED);
    Iterator::chain((0..pages).step_by(step), [pages - 1])
}

/// Makes something new at an address that was tried in vain, if possible; returns whether it is
/// there as well.
///
/// Only the kernel knows where it will be. But when something of the same size is freed, its
/// addresses are likely to be used next. So `make` is called twice. In between, `on_cpus` gets a
/// function that reads where the first one was, and calls it on each CPU that is to try. `place`
/// says where it starts, and how many pages it has.
pub(crate) fn made_again<T>(
    mut make: impl FnMut() -> Result<T>,
    place: impl Fn(&T) -> (usize, usize),
    on_cpus: impl FnOnce(&(dyn Fn() + Sync)) -> Result,
) -> Result<(T, bool)> {
    let first = make()?;
    let (start, pages) = place(&first);
    drop(first);
    // SAFETY: The caller may sleep. Only after this are the addresses free.
    unsafe { bindings::vm_unmap_aliases() };
    // What comes next in a block may be used instead.
    let also = if pages <= TOUCHED { pages } else { 0 };
    on_cpus(&|| {
        for page in Iterator::chain(touched(pages), pages..pages + also) {
            in_vain(start + page * PAGE_SIZE);
        }
    })?;
    let new = make()?;
    let (there, _) = place(&new);
    Ok((new, there.wrapping_sub(start) <= also * PAGE_SIZE))
}

/// Reads at an address, if it is in the vmalloc range and nothing is mapped there.
///
/// Others may map something between that check and the read. A read does not disturb those who use
/// memory. It may disturb a device whose registers are mapped, so the README says to load no
/// drivers meanwhile.
fn in_vain(address: usize) {
    let pointer = core::ptr::with_exposed_provenance(address);
    // SAFETY: The function only compares the address.
    if !unsafe { bindings::is_vmalloc_addr(pointer) } {
        return;
    }
    // SAFETY: The function only reads page tables.
    if unsafe { bindings::vmalloc_to_page(pointer) }.is_null() {
        try_read(address);
    }
}

/// Reads at an address where nothing may be mapped; returns the word if there is one, and whether
/// the access trapped.
fn try_read(address: usize) -> (Option<u64>, bool) {
    let (value, missing, status): (u64, usize, usize);
    let interrupts = interrupts_off();
    // SAFETY: The exception table makes execution continue behind an access that cannot be made.
    // What is read is either in a sparse area, where there is nothing but memory, or what
    // `in_vain()` allows. SPIE is of no use to anybody while interrupts are disabled.
    unsafe {
        asm!(
            "li {missing}, 1",
            "csrc sstatus, {mask}",
            "2: ld {value}, 0({address})",
            "li {missing}, 0",
            "3: csrr {status}, sstatus",
            extable!("2b", "3b"),
            mask = in(reg) SPIE,
            address = in(reg) address,
            missing = out(reg) missing,
            value = out(reg) value,
            status = lateout(reg) status,
        )
    };
    drop(interrupts);
    ((missing == 0).then_some(value), status & SPIE != 0)
}

impl Met {
    /// Reads the first word of a page of an area by an access that is in the exception table;
    /// [`None`] if nothing is mapped there.
    pub(crate) fn try_touch(&self, place: Place, area: &SparseArea, page: usize) -> Option<u64> {
        let (value, trapped) = try_read(area.address(page)?);
        if value.is_some() {
            self.count(place, trapped);
        }
        value
    }
}

/// Makes the calling CPU read the first word of a page in vain.
pub(crate) fn prime_here(test: &Test, area: &SparseArea, page: usize) {
    test.expect_eq(
        area.read_nofault(page * WORDS_PER_PAGE),
        Err(EFAULT),
        fmt!(
            "a read of page {page}, which does not exist yet, on CPU {}",
            CpuId::current().as_u32()
        ),
    );
}

/// Makes all CPUs read the first word of a page in vain.
pub(crate) fn prime(test: &Test, area: &SparseArea, page: usize) -> kselftest::Result {
    smp::on_each_cpu(|_, _| prime_here(test, area, page))?;
    Ok(())
}

/// A place where threads wait for each other, again and again, without giving up their CPUs.
pub(crate) struct Meeting(Atomic<u64>);

impl Meeting {
    pub(crate) const fn new() -> Self {
        Self(Atomic::new(0))
    }

    /// Waits until all `count` threads have arrived for the `time`th time, from 0; returns whether
    /// they have. They have not if the threads are to stop.
    #[must_use]
    pub(crate) fn meet(&self, time: u64, count: u32) -> bool {
        self.0.fetch_add(1, Full);
        while self.0.load(Acquire) < (time + 1) * u64::from(count) {
            if kthread::should_stop() {
                return false;
            }
            cpu_relax();
        }
        true
    }
}
