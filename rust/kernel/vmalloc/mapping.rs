// SPDX-License-Identifier: GPL-2.0

//! Words at new addresses, mapped in each of the ways that the kernel has.
//!
//! Drivers have better interfaces: [`VVec`](crate::alloc::VVec),
//! [`IoMem`](crate::io::mem::IoMem). This module is for tests of the mappings themselves.
//!
//! [`PerCpuWords`] is not an interface to per-CPU data in general: its words are atomics, and those
//! of all CPUs are accessible. `DynamicPerCpu` of [the per-CPU series] can take its place.
//!
//! C headers: [`include/linux/vmalloc.h`](srctree/include/linux/vmalloc.h),
//! [`include/linux/percpu.h`](srctree/include/linux/percpu.h)
//!
//! [the per-CPU series]: https://lore.kernel.org/rust-for-linux/20251105-rust-percpu-v4-0-984b1470adcb@gmail.com/

use crate::{
    bindings,
    cpu::CpuId,
    cpumask::Cpumask,
    page::{
        Page,
        PAGE_SIZE, //
    },
    prelude::*,
    smp,
    sync::atomic::Atomic, //
};
use core::ptr::NonNull;

use super::WORDS_PER_PAGE;

/// Words at their own addresses.
///
/// # Examples
///
/// ```
/// use kernel::sync::atomic::Relaxed;
/// use kernel::vmalloc::{mapping::Mapping, WORDS_PER_PAGE};
///
/// // Two pages, each mapped twice.
/// let mapping = Mapping::vmap(2, 4, |word| word as u64)?;
/// let word = mapping.word(2 * WORDS_PER_PAGE + 5).ok_or(EINVAL)?;
/// assert_eq!(word.load(Relaxed), 5);
/// # Ok::<(), Error>(())
/// ```
///
/// # Invariants
///
/// `words` initialised words are mapped at `start` until `drop()` unmaps them as `by` requires.
pub struct Mapping {
    start: NonNull<u64>,
    words: usize,
    by: Producer,
    /// What is mapped, unless the mapping owns its pages, or nobody does.
    _pages: KVec<Page>,
    /// The same for pages that are next to each other.
    #[cfg(all(CONFIG_HAS_IOMEM, CONFIG_RISCV))]
    _block: Option<Block>,
}

/// What made a mapping.
enum Producer {
    Vmap,
    VmMapRam,
    VmallocHuge,
    #[cfg(all(CONFIG_HAS_IOMEM, CONFIG_RISCV))]
    Ioremap,
    #[cfg(all(CONFIG_HAS_IOMEM, CONFIG_RISCV))]
    Memremap,
}

/// Pages that are next to each other.
///
/// # Invariants
///
/// `page` is the first one of an allocation of that order that we own.
#[cfg(all(CONFIG_HAS_IOMEM, CONFIG_RISCV))]
struct Block {
    page: NonNull<bindings::page>,
    order: u32,
}

#[cfg(all(CONFIG_HAS_IOMEM, CONFIG_RISCV))]
impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: By the type invariant. Nobody uses the pages any more.
        unsafe { bindings::__free_pages(self.page.as_ptr(), self.order) };
    }
}

// SAFETY: Nothing of a mapping belongs to the task that created it.
unsafe impl Send for Mapping {}

// SAFETY: A shared one only gives out its words, which are atomics.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `count` pages with `vmap()`. There are `distinct` pages, mapped over and over again.
    ///
    /// Word `i` of them, before any repetition, is initialised to `fill(i)`.
    ///
    /// # Context
    ///
    /// Process context with interrupts enabled. May sleep.
    ///
    /// # Errors
    ///
    /// [`EDEADLK`] when called from another context, [`EINVAL`] when a number is 0 or too large for
    /// the kernel, [`ENOMEM`] when memory or addresses are exhausted.
    pub fn vmap(distinct: usize, count: usize, fill: impl Fn(usize) -> u64) -> Result<Self> {
        let pages = allocate(distinct, fill)?;
        Self::map(pages, count, Producer::Vmap, |pages, count| {
            // SAFETY: `map()` passes a list of so many pages, which live until they are unmapped.
            unsafe { bindings::vmap_kernel(pages, count) }
        })
    }

    /// Maps `count` pages with `vm_map_ram()`, which has a fast path for few pages.
    ///
    /// See [`Self::vmap()`].
    ///
    /// # Context
    ///
    /// Process context with interrupts enabled. May sleep.
    ///
    /// # Errors
    ///
    /// As for [`Self::vmap()`].
    pub fn vm_map_ram(distinct: usize, count: usize, fill: impl Fn(usize) -> u64) -> Result<Self> {
        let pages = allocate(distinct, fill)?;
        Self::map(pages, count, Producer::VmMapRam, |pages, count| {
            // SAFETY: `map()` passes a list of so many pages, which live until they are unmapped.
            unsafe { bindings::vm_map_ram(pages, count, bindings::NUMA_NO_NODE) }
        })
    }

    /// Allocates `count` pages with `vmalloc_huge()`, which uses large pages if it can. All words
    /// are 0.
    ///
    /// # Context
    ///
    /// Process context with interrupts enabled. May sleep.
    ///
    /// # Errors
    ///
    /// [`EDEADLK`] when called from another context, [`EINVAL`] when `count` is 0 or too large for
    /// an address, [`ENOMEM`] when memory or addresses are exhausted.
    pub fn vmalloc_huge(count: usize) -> Result<Self> {
        smp::may_wait()?;
        let size = count.checked_mul(PAGE_SIZE).ok_or(EINVAL)?;
        if size == 0 {
            return Err(EINVAL);
        }
        let flags = (GFP_KERNEL | __GFP_ZERO).as_raw();
        // SAFETY: The caller may sleep, as was checked. The flags are those of an allocation that
        // may, and the function returns null for a size that it cannot allocate.
        let start =
            unsafe { bindings::vmalloc_huge_node_noprof(size, flags, bindings::NUMA_NO_NODE) };
        // INVARIANT: The memory is ours, and zeroed.
        Ok(Self {
            start: NonNull::new(start.cast()).ok_or(ENOMEM)?,
            words: count * WORDS_PER_PAGE,
            by: Producer::VmallocHuge,
            _pages: KVec::new(),
            #[cfg(all(CONFIG_HAS_IOMEM, CONFIG_RISCV))]
            _block: None,
        })
    }

    /// Maps a page of memory like device registers.
    ///
    /// Other architectures refuse this for memory that the kernel uses, with a warning.
    ///
    /// Word `i` is initialised to `fill(i)`.
    ///
    /// # Context
    ///
    /// Process context with interrupts enabled. May sleep.
    ///
    /// # Errors
    ///
    /// [`EDEADLK`] when called from another context, [`ENOMEM`] when memory or addresses are
    /// exhausted.
    #[cfg(all(CONFIG_HAS_IOMEM, CONFIG_RISCV))]
    pub fn ioremap(fill: impl Fn(usize) -> u64) -> Result<Self> {
        let pages = allocate(1, fill)?;
        Self::map(pages, 1, Producer::Ioremap, |pages, _count| {
            // SAFETY: `map()` passes a list with a page, which lives until it is unmapped.
            unsafe { bindings::ioremap_pages(*pages, 0) }
        })
    }

    /// Maps 2 to the power of `order` pages of memory like device registers. All words are 0.
    ///
    /// The pages are next to each other, so that large ones can be used for the mapping.
    ///
    /// # Context
    ///
    /// Process context with interrupts enabled. May sleep.
    ///
    /// # Errors
    ///
    /// [`EDEADLK`] when called from another context, [`EINVAL`] when these are more than one entry
    /// of the page table above the last one maps, [`ENOMEM`] when there are not so many pages next
    /// to each other, or addresses are exhausted.
    #[cfg(all(CONFIG_HAS_IOMEM, CONFIG_RISCV))]
    pub fn ioremap_block(order: u32) -> Result<Self> {
        smp::may_wait()?;
        if order > WORDS_PER_PAGE.ilog2() {
            return Err(EINVAL);
        }
        let flags = (GFP_KERNEL | __GFP_ZERO).as_raw();
        // SAFETY: The caller may sleep, as was checked.
        let page = unsafe { bindings::alloc_pages(flags, order) };
        // INVARIANT: The pages have just been allocated.
        let block = Block {
            page: NonNull::new(page).ok_or(ENOMEM)?,
            order,
        };
        // SAFETY: There are so many pages.
        let start = unsafe { bindings::ioremap_pages(page, order) };
        // INVARIANT: The pages are zeroed, and kept until the mapping is undone.
        Ok(Self {
            start: NonNull::new(start.cast()).ok_or(ENOMEM)?,
            words: WORDS_PER_PAGE << order,
            by: Producer::Ioremap,
            _pages: KVec::new(),
            _block: Some(block),
        })
    }

    /// Maps `count` pages at a physical address with `memremap()`.
    ///
    /// # Safety
    ///
    /// There must be memory, or something that can be read like it; if it is not memory, no word
    /// may be written. Nothing but mappings of this kind may use it as long as the mapping exists.
    ///
    /// # Context
    ///
    /// Process context with interrupts enabled. May sleep.
    ///
    /// # Errors
    ///
    /// [`EDEADLK`] when called from another context, [`EINVAL`] when the address is not that of a
    /// page, or `count` is 0 or too large, [`EBUSY`] when it is memory that the kernel has in its
    /// linear map, [`ENOMEM`] when addresses are exhausted.
    #[cfg(all(CONFIG_HAS_IOMEM, CONFIG_RISCV))]
    pub unsafe fn memremap(physical: u64, count: usize) -> Result<Self> {
        smp::may_wait()?;
        let size = count.checked_mul(PAGE_SIZE).ok_or(EINVAL)?;
        if size == 0 || physical & (PAGE_SIZE as u64 - 1) != 0 {
            return Err(EINVAL);
        }
        // SAFETY: The caller may sleep, as was checked, and has promised the rest.
        let start = unsafe { bindings::memremap_wb(physical, size) };
        let start = NonNull::new(start).ok_or(ENOMEM)?;
        // INVARIANT: As the caller has promised.
        let mapping = Self {
            start: start.cast(),
            words: count * WORDS_PER_PAGE,
            by: Producer::Memremap,
            _pages: KVec::new(),
            _block: None,
        };
        // SAFETY: The function only compares the address.
        if !unsafe { bindings::is_vmalloc_addr(start.as_ptr()) } {
            return Err(EBUSY);
        }
        Ok(mapping)
    }

    /// Whether the start is mapped by an entry of a page table that is higher than the last one.
    ///
    /// # Context
    ///
    /// Any.
    // Not inlined: `init_mm` is not exported to modules.
    #[cfg(all(CONFIG_HAS_IOMEM, CONFIG_RISCV))]
    #[inline(never)]
    pub fn is_huge(&self) -> bool {
        // SAFETY: The start is mapped, and its page tables stay, as long as `self` exists. No
        // mapping is so large that a P4D or PGD entry maps it.
        unsafe { bindings::is_mapped_huge(self.start.as_ptr().cast()) }
    }

    /// Maps `count` pages with `map`.
    fn map(
        pages: KVec<Page>,
        count: usize,
        by: Producer,
        map: impl FnOnce(*mut *mut bindings::page, u32) -> *mut c_void,
    ) -> Result<Self> {
        // What the C functions do not check themselves.
        if count == 0 || count > i32::MAX as usize / PAGE_SIZE {
            return Err(EINVAL);
        }
        let mut list = KVVec::with_capacity(count, GFP_KERNEL)?;
        for page in pages.iter().cycle().take(count) {
            list.push(page.as_ptr(), GFP_KERNEL)?;
        }
        let start = map(list.as_mut_ptr(), u32::try_from(count)?);
        // INVARIANT: All pages are initialised, and kept until the mapping is undone.
        Ok(Self {
            start: NonNull::new(start.cast()).ok_or(ENOMEM)?,
            words: count * WORDS_PER_PAGE,
            by,
            _pages: pages,
            #[cfg(all(CONFIG_HAS_IOMEM, CONFIG_RISCV))]
            _block: None,
        })
    }

    /// The order of the pages of what [`Self::vmalloc_huge()`] has allocated: 0 if they are of
    /// [`PAGE_SIZE`], or not from there.
    ///
    /// # Context
    ///
    /// Process context.
    // Not inlined: `find_vm_area()` is not exported to modules.
    #[inline(never)]
    pub fn page_order(&self) -> u32 {
        #[cfg(CONFIG_HAVE_ARCH_HUGE_VMALLOC)]
        {
            // SAFETY: The function only looks an address up.
            let area = unsafe { bindings::find_vm_area(self.start.as_ptr().cast()) };
            if !area.is_null() {
                // SAFETY: It is the area of this mapping, and exists as long as `self`.
                return unsafe { (*area).page_order };
            }
        }
        0
    }

    /// Number of words.
    #[inline]
    pub fn words(&self) -> usize {
        self.words
    }

    /// Word `index`, or [`None`] if there are fewer words.
    ///
    /// # Context
    ///
    /// Any.
    #[inline]
    pub fn word(&self, index: usize) -> Option<&Atomic<u64>> {
        if index >= self.words {
            return None;
        }
        // SAFETY: By the type invariant there is such a word, until `self` is dropped. It is
        // aligned, initialised and accessed through atomics only.
        Some(unsafe { Atomic::from_ptr(self.start.as_ptr().add(index)) })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        let start: *mut c_void = self.start.as_ptr().cast();
        // SAFETY: By the type invariant. Nobody can hold a reference to a word any more.
        unsafe {
            match self.by {
                Producer::Vmap => bindings::vunmap(start),
                Producer::VmMapRam => {
                    bindings::vm_unmap_ram(start, (self.words / WORDS_PER_PAGE) as u32)
                }
                Producer::VmallocHuge => bindings::vfree(start),
                #[cfg(all(CONFIG_HAS_IOMEM, CONFIG_RISCV))]
                Producer::Ioremap => bindings::iounmap(start),
                #[cfg(all(CONFIG_HAS_IOMEM, CONFIG_RISCV))]
                Producer::Memremap => bindings::memunmap_wb(start),
            }
        }
    }
}

/// Allocates pages and sets word `i` to `fill(i)`; refuses contexts in which nothing can be mapped.
fn allocate(count: usize, fill: impl Fn(usize) -> u64) -> Result<KVec<Page>> {
    smp::may_wait()?;
    if count == 0 {
        return Err(EINVAL);
    }
    let mut pages = KVec::with_capacity(count, GFP_KERNEL)?;
    for index in 0..count {
        let page = Page::alloc_page(GFP_KERNEL)?;
        for word in 0..WORDS_PER_PAGE {
            let value = fill(index * WORDS_PER_PAGE + word);
            // SAFETY: `value` is valid for reads, and nobody else has the page yet.
            unsafe {
                page.write_raw(
                    (&raw const value).cast(),
                    word * size_of::<u64>(),
                    size_of::<u64>(),
                )
            }?;
        }
        pages.push(page, GFP_KERNEL)?;
    }
    Ok(pages)
}

/// Whether `cpu` has per-CPU memory.
pub(super) fn is_possible(cpu: CpuId) -> bool {
    // SAFETY: The mask is valid at all times, and does not change.
    let possible = unsafe { Cpumask::from_raw(&raw const bindings::__cpu_possible_mask) };
    possible.test(cpu)
}

/// Per-CPU words, for each possible CPU.
///
/// # Examples
///
/// ```
/// use kernel::cpu::CpuId;
/// use kernel::sync::atomic::Relaxed;
/// use kernel::vmalloc::mapping::PerCpuWords;
///
/// let words = PerCpuWords::new(16)?;
/// let word = words.word(CpuId::current(), 3).ok_or(EINVAL)?;
/// assert_eq!(word.load(Relaxed), 0);
/// # Ok::<(), Error>(())
/// ```
///
/// # Invariants
///
/// `start` is a per-CPU allocation of `words` initialised words that we own.
pub struct PerCpuWords {
    start: NonNull<c_void>,
    words: usize,
}

// SAFETY: Nothing of it belongs to the task that created it.
unsafe impl Send for PerCpuWords {}

// SAFETY: A shared one only gives out its words, which are atomics.
unsafe impl Sync for PerCpuWords {}

impl PerCpuWords {
    /// Allocates `words` words for each possible CPU. All are 0.
    ///
    /// # Context
    ///
    /// Process context with interrupts enabled. May sleep.
    ///
    /// # Errors
    ///
    /// [`EDEADLK`] when called from another context, [`EINVAL`] when there are none or more than 32
    /// KiB of them, [`ENOMEM`] when memory is exhausted.
    pub fn new(words: usize) -> Result<Self> {
        smp::may_wait()?;
        let size = words.checked_mul(size_of::<u64>()).ok_or(EINVAL)?;
        // PCPU_MIN_UNIT_SIZE
        if size == 0 || size > 32 << 10 {
            return Err(EINVAL);
        }
        // SAFETY: The caller may sleep, as was checked. The function takes such sizes, and each
        // alignment that is a power of two and not larger than a page.
        let start =
            unsafe { bindings::alloc_percpu_gfp(size, align_of::<u64>(), GFP_KERNEL.as_raw()) };
        // INVARIANT: Per-CPU memory is zeroed.
        Ok(Self {
            start: NonNull::new(start).ok_or(ENOMEM)?,
            words,
        })
    }

    /// Number of pages that the kernel has mapped for the per-CPU memory of all CPUs, used or not.
    ///
    /// # Context
    ///
    /// Any.
    // Not inlined: `pcpu_nr_pages()` is not exported to modules.
    #[inline(never)]
    pub fn mapped_pages() -> usize {
        // SAFETY: The function only reads numbers.
        unsafe { bindings::pcpu_nr_pages() }
    }

    /// Word `index` of `cpu`, or [`None`] if there is no such CPU, or there are fewer words.
    ///
    /// # Context
    ///
    /// Any.
    pub fn word(&self, cpu: CpuId, index: usize) -> Option<&Atomic<u64>> {
        if index >= self.words || !is_possible(cpu) {
            return None;
        }
        // SAFETY: The allocation is ours, and `cpu` is a possible one.
        let start: *mut u64 =
            unsafe { bindings::per_cpu_ptr(self.start.as_ptr(), cpu.as_u32()).cast() };
        // SAFETY: By the type invariant there is such a word, until `self` is dropped. It is
        // aligned, initialised and accessed through atomics only.
        Some(unsafe { Atomic::from_ptr(start.add(index)) })
    }
}

impl Drop for PerCpuWords {
    fn drop(&mut self) {
        // SAFETY: By the type invariant. Nobody can hold a reference to a word any more.
        unsafe { bindings::free_percpu(self.start.as_ptr()) };
    }
}

#[cfg(CONFIG_RUST_VMALLOC_KUNIT_TEST)]
#[macros::kunit_tests(rust_vmalloc_mapping)]
mod tests {
    use super::*;
    use crate::{
        cpu::nr_cpu_ids,
        interrupt::local_interrupt_disable,
        sync::atomic::Relaxed, //
    };

    fn fill(word: usize) -> u64 {
        word as u64 ^ 0x5555
    }

    fn at(mapping: &Mapping, word: usize) -> Option<u64> {
        mapping.word(word).map(|word| word.load(Relaxed))
    }

    #[test]
    fn vmap() -> Result {
        check(&Mapping::vmap(2, 4, fill)?);
        assert_eq!(Mapping::vmap(1, 1, fill)?.page_order(), 0);
        assert_eq!(Mapping::vmap(0, 4, fill).err(), Some(EINVAL));
        assert_eq!(Mapping::vmap(1, 0, fill).err(), Some(EINVAL));
        assert_eq!(Mapping::vmap(1, usize::MAX, fill).err(), Some(EINVAL));
        Ok(())
    }

    /// Checks a mapping of four pages that are really two.
    // Not before the first test: the assertions of KUnit exist only from there on.
    fn check(mapping: &Mapping) {
        assert_eq!(mapping.words(), 4 * WORDS_PER_PAGE);
        for word in [
            0,
            1,
            WORDS_PER_PAGE,
            2 * WORDS_PER_PAGE,
            3 * WORDS_PER_PAGE + 9,
        ] {
            assert_eq!(at(mapping, word), Some(fill(word % (2 * WORDS_PER_PAGE))));
        }
        assert_eq!(at(mapping, 4 * WORDS_PER_PAGE), None);
        // It is the same page.
        if let Some(word) = mapping.word(2 * WORDS_PER_PAGE + 1) {
            word.store(42, Relaxed);
        }
        assert_eq!(at(mapping, 1), Some(42));
    }

    #[test]
    fn vm_map_ram() -> Result {
        check(&Mapping::vm_map_ram(2, 4, fill)?);
        // More than the fast path takes.
        let many = Mapping::vm_map_ram(1, 100, fill)?;
        assert_eq!(at(&many, 99 * WORDS_PER_PAGE + 5), Some(fill(5)));
        assert_eq!(Mapping::vm_map_ram(0, 4, fill).err(), Some(EINVAL));
        assert_eq!(Mapping::vm_map_ram(1, 0, fill).err(), Some(EINVAL));
        Ok(())
    }

    #[test]
    fn vmalloc_huge() -> Result {
        let mapping = Mapping::vmalloc_huge(513)?;
        for page in 0..513 {
            assert_eq!(at(&mapping, page * WORDS_PER_PAGE), Some(0));
        }
        assert_eq!(at(&mapping, 513 * WORDS_PER_PAGE), None);
        assert_eq!(Mapping::vmalloc_huge(1)?.page_order(), 0);
        assert_eq!(Mapping::vmalloc_huge(0).err(), Some(EINVAL));
        assert_eq!(Mapping::vmalloc_huge(usize::MAX).err(), Some(EINVAL));
        Ok(())
    }

    #[test]
    #[cfg(all(CONFIG_HAS_IOMEM, CONFIG_RISCV))]
    fn ioremap() -> Result {
        let (one, other) = (Mapping::ioremap(fill)?, Mapping::ioremap(fill)?);
        assert_eq!(one.words(), WORDS_PER_PAGE);
        assert_eq!(at(&one, WORDS_PER_PAGE - 1), Some(fill(WORDS_PER_PAGE - 1)));
        // They are not the same page.
        if let Some(word) = one.word(3) {
            word.store(42, Relaxed);
        }
        assert_eq!((at(&one, 3), at(&other, 3)), (Some(42), Some(fill(3))));
        Ok(())
    }

    #[test]
    #[cfg(all(CONFIG_HAS_IOMEM, CONFIG_RISCV))]
    fn ioremap_block() -> Result {
        let mapping = Mapping::ioremap_block(2)?;
        assert_eq!(mapping.words(), 4 * WORDS_PER_PAGE);
        assert_eq!(at(&mapping, 4 * WORDS_PER_PAGE - 1), Some(0));
        assert_eq!(at(&mapping, 4 * WORDS_PER_PAGE), None);
        assert!(!mapping.is_huge());
        assert_eq!(Mapping::ioremap_block(64).err(), Some(EINVAL));
        Ok(())
    }

    #[test]
    #[cfg(all(CONFIG_HAS_IOMEM, CONFIG_RISCV))]
    fn memremap_of_nothing() {
        // SAFETY: These are refused.
        let refused = unsafe { [Mapping::memremap(0, 0).err(), Mapping::memremap(1, 1).err()] };
        assert_eq!(refused, [Some(EINVAL); 2]);
    }

    #[test]
    fn refused_with_interrupts_disabled() {
        let interrupts = local_interrupt_disable();
        let refused = [
            Mapping::vmap(1, 1, fill).err(),
            Mapping::vm_map_ram(1, 1, fill).err(),
            Mapping::vmalloc_huge(1).err(),
            PerCpuWords::new(1).err(),
        ];
        drop(interrupts);
        assert_eq!(refused, [Some(EDEADLK); 4]);
    }

    #[test]
    fn each_cpu_has_its_words() -> Result {
        let words = PerCpuWords::new(20)?;
        let possible = || (0..nr_cpu_ids()).filter_map(CpuId::from_u32);
        for cpu in possible() {
            if let Some(word) = words.word(cpu, 19) {
                assert_eq!(word.load(Relaxed), 0);
                word.store(u64::from(cpu.as_u32()) + 1, Relaxed);
            }
            assert!(words.word(cpu, 20).is_none());
        }
        for cpu in possible() {
            let found = words.word(cpu, 19).map(|word| word.load(Relaxed));
            assert!(found.is_none_or(|found| found == u64::from(cpu.as_u32()) + 1));
        }
        assert!(words.word(CpuId::current(), 19).is_some());
        assert!(PerCpuWords::mapped_pages() != 0);
        assert_eq!(PerCpuWords::new(0).err(), Some(EINVAL));
        assert_eq!(PerCpuWords::new(1 << 20).err(), Some(EINVAL));
        Ok(())
    }
}
