// SPDX-License-Identifier: GPL-2.0

//! Areas of kernel virtual addresses.
//!
//! To simply allocate memory from there, use [`VVec`](crate::alloc::VVec) and
//! [`VBox`](crate::alloc::VBox).
//!
//! Only for test modules: `get_vm_area()` and `vm_area_map_pages()` are deliberately not exported.
//! So this exists only in kernels with `CONFIG_RUST_KSELFTEST_SUPPORT`.
//!
//! C header: [`include/linux/vmalloc.h`](srctree/include/linux/vmalloc.h)

use crate::{
    bindings,
    error::to_result,
    page::{
        Page,
        PAGE_SIZE, //
    },
    prelude::*,
    smp,
    sync::atomic::{
        Acquire,
        Atomic,
        Full,
        Relaxed,
        Release, //
    }, //
};
use core::ptr::NonNull;

pub mod mapping;
#[cfg(CONFIG_RELAY)]
pub mod relay;

/// Number of 64-bit words in a page.
pub const WORDS_PER_PAGE: usize = PAGE_SIZE / size_of::<u64>();

/// A range of addresses whose pages are mapped one at a time, in any order.
///
/// All addresses are known before anything is mapped there. A page stays mapped until it is
/// unmapped or the area is dropped, which both need exclusive access: that is why a word, once
/// found, can be used without a lock. Behind the last page there is one that is never mapped.
/// Dropping may sleep.
///
/// # Examples
///
/// ```
/// use kernel::sync::atomic::Relaxed;
/// use kernel::vmalloc::SparseArea;
///
/// let mut area = SparseArea::new(2, |word| word as u64)?;
/// assert!(area.word(0).is_none());
/// area.map(0)?;
/// assert_eq!(area.word(3).map(|word| word.load(Relaxed)), Some(3));
/// assert_eq!(area.read_nofault(3), Ok(3));
/// area.unmap(0)?;
/// assert_eq!(area.read_nofault(3), Err(EFAULT));
/// # Ok::<(), Error>(())
/// ```
///
/// # Invariants
///
/// `area` is a sparse area that we own, of exactly `pages.len()` pages. Page `i` of the area is
/// either not mapped or mapped to the page of `pages[i]`. It is not mapped in the state [`UNUSED`],
/// and mapped and announced to all CPUs in the state [`MAPPED`].
pub struct SparseArea {
    area: NonNull<bindings::vm_struct>,
    pages: KVec<SparsePage>,
}

/// A page of a [`SparseArea`].
struct SparsePage {
    page: Page,
    /// One of the states below.
    state: Atomic<i32>,
}

/// Nobody has asked for the page to be mapped.
const UNUSED: i32 = 0;
/// Somebody maps the page; nobody else may.
const CLAIMED: i32 = 1;
/// The page is mapped.
const MAPPED: i32 = 2;

// SAFETY: Nothing in an area belongs to the task that created it.
unsafe impl Send for SparseArea {}

// SAFETY: Each page is mapped by the one caller that claims it, and words are atomics.
unsafe impl Sync for SparseArea {}

impl SparseArea {
    /// Reserves addresses for `count` pages and allocates the pages, but maps nothing.
    ///
    /// Words are counted from the start of the area; word `i` is initialised to `fill(i)`.
    ///
    /// # Context
    ///
    /// Process context with interrupts enabled. May sleep.
    ///
    /// # Errors
    ///
    /// [`EDEADLK`] when called from another context, [`EINVAL`] when `count` is 0 or too large for
    /// an address, [`ENOMEM`] when memory or addresses are exhausted.
    pub fn new(count: usize, fill: impl Fn(usize) -> u64) -> Result<Self> {
        smp::may_wait()?;
        if count == 0 || count.checked_mul(PAGE_SIZE).is_none() {
            return Err(EINVAL);
        }

        let mut pages = KVec::with_capacity(count, GFP_KERNEL)?;
        for index in 0..count {
            let page = Page::alloc_page(GFP_KERNEL | __GFP_ZERO)?;
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
            let state = Atomic::new(UNUSED);
            pages.push(SparsePage { page, state }, GFP_KERNEL)?;
        }

        Self::reserve(pages)
    }

    /// Reserves addresses for `pages`.
    // Not generic and not inlined: `get_vm_area()` is not exported to modules.
    #[inline(never)]
    fn reserve(pages: KVec<SparsePage>) -> Result<Self> {
        // SAFETY: `new()` has checked that it may sleep, and that the size fits into a number. The
        // function returns null if there are no addresses for that many.
        let area =
            unsafe { bindings::get_vm_area(pages.len() * PAGE_SIZE, bindings::VM_SPARSE as usize) };
        // INVARIANT: The area is new, so nothing is mapped there.
        Ok(Self {
            area: NonNull::new(area).ok_or(ENOMEM)?,
            pages,
        })
    }

    /// Number of pages, mapped or not.
    #[inline]
    pub fn pages(&self) -> usize {
        self.pages.len()
    }

    /// Maps page `index` of the area.
    ///
    /// # Context
    ///
    /// Process context with interrupts enabled. May sleep.
    ///
    /// # Errors
    ///
    /// [`EDEADLK`] when called from another context, [`EINVAL`] when the area has no such page,
    /// [`EBUSY`] when the page has been mapped before, [`ENOMEM`] when there is no memory for a
    /// page table; then the page can never be mapped.
    // Not inlined: `vm_area_map_pages()` is not exported to modules.
    #[inline(never)]
    pub fn map(&self, index: usize) -> Result {
        smp::may_wait()?;
        let sparse_page = self.pages.get(index).ok_or(EINVAL)?;
        // Fully ordered: what the page contains comes before its PTE. Pairs with the barrier in
        // `is_mapped()`.
        if sparse_page.state.cmpxchg(UNUSED, CLAIMED, Full).is_err() {
            return Err(EBUSY);
        }

        let start = self.start() as usize + index * PAGE_SIZE;
        let mut page = sparse_page.page.as_ptr();
        // INVARIANT: Only this call claimed the page, so it was not mapped.
        // SAFETY: `start` and its page lie within the area that we own, which is sparse; the page
        // outlives the mapping because `drop()` frees the area first.
        to_result(unsafe {
            bindings::vm_area_map_pages(self.area.as_ptr(), start, start + PAGE_SIZE, &mut page)
        })?;
        // Pairs with the load in `word()`.
        sparse_page.state.store(MAPPED, Release);
        Ok(())
    }

    /// Word `index` of the area, or [`None`] if [`Self::map()`] has not returned for its page yet.
    ///
    /// # Context
    ///
    /// Any.
    #[inline]
    pub fn word(&self, index: usize) -> Option<&Atomic<u64>> {
        let page = self.pages.get(index / WORDS_PER_PAGE)?;
        if page.state.load(Acquire) != MAPPED {
            return None;
        }
        // SAFETY: By the type invariant one of our pages is mapped there, until `self` is dropped.
        // The address is aligned, the memory initialised and accessed through atomics only.
        Some(unsafe { Atomic::from_ptr(self.start().wrapping_add(index)) })
    }

    /// Whether the page table has a valid entry for page `index` of the area.
    ///
    /// It may have one before [`Self::map()`] has returned. Until then the new mapping may not have
    /// been announced to the calling CPU, and an access may fault where nothing makes the kernel
    /// continue behind it. What the page contains is visible to the caller.
    ///
    /// # Context
    ///
    /// Any.
    pub fn is_mapped(&self, index: usize) -> bool {
        let Some(address) = self.address(index) else {
            return false;
        };
        let address = core::ptr::with_exposed_provenance(address);
        // SAFETY: The address lies in the vmalloc range. Page tables of that range are not freed
        // while the area exists, so the walk needs no lock.
        let mapped = !unsafe { bindings::vmalloc_to_page(address) }.is_null();
        // Orders the PTE before what the page contains; pairs with the `cmpxchg()` in `map()`.
        // SAFETY: A barrier has no requirements.
        unsafe { bindings::smp_rmb() };
        mapped
    }

    /// Reads word `index` of the area, whether it is mapped or not.
    ///
    /// The access is made. If it faults and the fault is not just an effect of a stale translation,
    /// the kernel continues behind it by means of the exception table.
    ///
    /// # Context
    ///
    /// Any.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] when the area has no such word, [`ERANGE`] when the kernel may not make
    /// such accesses, [`EFAULT`] when nothing is mapped there.
    pub fn read_nofault(&self, index: usize) -> Result<u64> {
        if index / WORDS_PER_PAGE >= self.pages.len() {
            return Err(EINVAL);
        }
        let mut value = 0u64;
        // SAFETY: `value` is valid for writes of its size. The source may be any address, and in
        // this area there is nothing but memory.
        to_result(unsafe {
            bindings::copy_from_kernel_nofault(
                (&raw mut value).cast(),
                self.start().wrapping_add(index).cast(),
                size_of::<u64>(),
            ) as i32
        })?;
        Ok(value)
    }

    /// Unmaps page `index` of the area, and makes every CPU forget its mapping.
    ///
    /// The page keeps its content and can be mapped again.
    ///
    /// # Context
    ///
    /// Process context with interrupts enabled. May sleep.
    ///
    /// # Errors
    ///
    /// [`EDEADLK`] when called from another context, [`EINVAL`] when the area has no such page,
    /// [`ENOENT`] when it is not mapped.
    // Not inlined: `vm_area_unmap_pages()` is not exported to modules.
    #[inline(never)]
    pub fn unmap(&mut self, index: usize) -> Result {
        smp::may_wait()?;
        let state = &self.pages.get(index).ok_or(EINVAL)?.state;
        if state.load(Relaxed) != MAPPED {
            return Err(ENOENT);
        }
        let start = self.start() as usize + index * PAGE_SIZE;
        // SAFETY: The range lies within the area that we own, which is sparse. Access is exclusive,
        // so nobody has a word of it.
        unsafe { bindings::vm_area_unmap_pages(self.area.as_ptr(), start, start + PAGE_SIZE) };
        // INVARIANT: The page has just been unmapped.
        state.store(UNUSED, Relaxed);
        Ok(())
    }

    /// The address at which page `index` is, or will be, mapped; [`None`] if the area has no such
    /// page.
    #[inline]
    pub fn address(&self, index: usize) -> Option<usize> {
        (index < self.pages.len()).then(|| self.start() as usize + index * PAGE_SIZE)
    }

    /// Word 0 of the area.
    #[inline]
    fn start(&self) -> *mut u64 {
        // SAFETY: By the type invariant the area exists, and its address never changes.
        unsafe { (*self.area.as_ptr()).addr.cast() }
    }
}

impl Drop for SparseArea {
    fn drop(&mut self) {
        // SAFETY: By the type invariant we own the area, and nobody can have a word of it any more.
        // The pages are freed after it.
        unsafe { bindings::free_vm_area(self.area.as_ptr()) };
    }
}

#[cfg(CONFIG_RUST_VMALLOC_KUNIT_TEST)]
#[macros::kunit_tests(rust_vmalloc)]
mod tests {
    use super::*;
    use crate::interrupt::local_interrupt_disable;

    fn fill(word: usize) -> u64 {
        word as u64 ^ 0x5555
    }

    #[test]
    fn wrong_sizes_are_refused() {
        assert_eq!(SparseArea::new(0, fill).err(), Some(EINVAL));
        assert_eq!(SparseArea::new(usize::MAX, fill).err(), Some(EINVAL));
    }

    #[test]
    fn nothing_is_there_at_first() -> Result {
        let area = SparseArea::new(3, fill)?;
        assert_eq!(area.pages(), 3);
        for page in 0..3 {
            let word = page * WORDS_PER_PAGE;
            assert!(area.word(word).is_none());
            assert!(!area.is_mapped(page));
            assert_eq!(area.read_nofault(word), Err(EFAULT));
        }
        Ok(())
    }

    #[test]
    fn pages_are_mapped_in_any_order() -> Result {
        let area = SparseArea::new(3, fill)?;
        for (count, page) in [2, 0, 1].into_iter().enumerate() {
            area.map(page)?;
            let mapped = (0..3)
                .filter(|page| area.word(page * WORDS_PER_PAGE).is_some())
                .filter(|page| area.is_mapped(*page))
                .count();
            assert_eq!(mapped, count + 1);
        }
        for word in 0..3 * WORDS_PER_PAGE {
            let found = area.word(word).map(|word| word.load(Relaxed));
            // Not for each word, which would be slow.
            if found != Some(fill(word)) {
                assert_eq!((word, found), (word, Some(fill(word))));
            }
        }
        assert!(area.word(3 * WORDS_PER_PAGE).is_none());
        assert!(!area.is_mapped(3));
        assert_eq!(area.read_nofault(3 * WORDS_PER_PAGE), Err(EINVAL));
        Ok(())
    }

    #[test]
    fn a_page_is_mapped_once() -> Result {
        let mut area = SparseArea::new(1, fill)?;
        assert_eq!(area.map(1), Err(EINVAL));
        assert_eq!(area.unmap(0), Err(ENOENT));
        assert_eq!(area.map(0), Ok(()));
        assert_eq!(area.map(0), Err(EBUSY));
        assert_eq!(area.unmap(0), Ok(()));
        assert_eq!(area.unmap(0), Err(ENOENT));
        assert_eq!(area.unmap(1), Err(EINVAL));
        Ok(())
    }

    #[test]
    fn refused_with_interrupts_disabled() -> Result {
        let mut area = SparseArea::new(2, fill)?;
        area.map(0)?;
        let interrupts = local_interrupt_disable();
        let made = SparseArea::new(1, fill).err();
        let (mapped, unmapped) = (area.map(1), area.unmap(0));
        drop(interrupts);
        assert_eq!(made, Some(EDEADLK));
        assert_eq!((mapped, unmapped), (Err(EDEADLK), Err(EDEADLK)));
        assert_eq!(area.read_nofault(0), Ok(fill(0)));
        assert_eq!(area.map(1), Ok(()));
        Ok(())
    }

    #[test]
    fn a_page_keeps_its_content() -> Result {
        let mut area = SparseArea::new(1, fill)?;
        area.map(0)?;
        area.word(7).ok_or(ENOENT)?.store(42, Relaxed);
        area.unmap(0)?;
        assert_eq!(area.read_nofault(7), Err(EFAULT));
        area.map(0)?;
        assert_eq!(area.word(7).map(|word| word.load(Relaxed)), Some(42));
        Ok(())
    }

    #[test]
    fn every_cpu_sees_it() -> Result {
        let area = SparseArea::new(2, fill)?;
        let wrong = Atomic::new(0u32);
        let read = |page: usize, expected: Result<u64>| {
            smp::on_each_cpu(|_, _| {
                if area.read_nofault(page * WORDS_PER_PAGE) != expected {
                    wrong.fetch_add(1, Relaxed);
                }
            })
        };
        read(0, Err(EFAULT))?;
        area.map(0)?;
        read(0, Ok(fill(0)))?;
        read(1, Err(EFAULT))?;
        assert_eq!(wrong.load(Relaxed), 0);
        Ok(())
    }

    #[test]
    fn addresses_are_those_of_the_pages() -> Result {
        let area = SparseArea::new(2, fill)?;
        let start = area.address(0).ok_or(EINVAL)?;
        assert_eq!(start % PAGE_SIZE, 0);
        assert_eq!(area.address(1), Some(start + PAGE_SIZE));
        assert_eq!(area.address(2), None);
        area.map(1)?;
        let word = area.word(WORDS_PER_PAGE).ok_or(ENOENT)?;
        assert_eq!(core::ptr::from_ref(word) as usize, start + PAGE_SIZE);
        Ok(())
    }
}
