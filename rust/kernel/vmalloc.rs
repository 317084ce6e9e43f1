// SPDX-License-Identifier: GPL-2.0

//! Areas of kernel virtual addresses.
//!
//! For memory that is simply allocated from there use [`VVec`](crate::alloc::VVec) and
//! [`VBox`](crate::alloc::VBox).
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
    sync::atomic::{
        Atomic,
        Relaxed, //
    },
};
use core::ptr::NonNull;

/// Number of 64-bit words in a page.
pub const WORDS_PER_PAGE: usize = PAGE_SIZE / size_of::<u64>();

/// A range of addresses whose pages are mapped one at a time, in any order.
///
/// All addresses are known, and can be looked up with [`Self::word()`], before anything is mapped
/// there. What is mapped stays mapped until the area is dropped, which needs exclusive access: that
/// is why a word, once found, can be used without a lock.
///
/// # Examples
///
/// ```
/// use kernel::sync::atomic::Relaxed;
/// use kernel::vmalloc::SparseArea;
///
/// let area = SparseArea::new(2, |word| word as u64)?;
/// assert!(area.word(0).is_none());
/// area.map(0)?;
/// assert_eq!(area.word(3).map(|word| word.load(Relaxed)), Some(3));
/// # Ok::<(), Error>(())
/// ```
///
/// # Invariants
///
/// `area` is a sparse area that we own, of exactly `pages.len()` pages. Page `i` of the area is
/// either not mapped or mapped to the page of `pages[i]`; it is not mapped if that is not claimed.
pub struct SparseArea {
    area: NonNull<bindings::vm_struct>,
    pages: KVec<SparsePage>,
}

/// A page of a [`SparseArea`].
struct SparsePage {
    page: Page,
    /// Not 0 once somebody maps the page; nobody else may then.
    claimed: Atomic<i32>,
}

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
    /// May sleep.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] when `count` is 0 or too large for an address, [`ENOMEM`] when memory or
    /// addresses are exhausted.
    pub fn new(count: usize, fill: impl Fn(usize) -> u64) -> Result<Self> {
        if count == 0 || count.checked_mul(PAGE_SIZE).is_none() {
            return Err(EINVAL);
        }

        let mut pages = KVec::with_capacity(count, GFP_KERNEL)?;
        for index in 0..count {
            let page = Page::alloc_page(GFP_KERNEL | __GFP_ZERO)?;
            for word in 0..WORDS_PER_PAGE {
                let value = fill(index * WORDS_PER_PAGE + word);
                // SAFETY: `value` is valid for reads, and nobody else knows the page yet.
                unsafe {
                    page.write_raw(
                        (&raw const value).cast(),
                        word * size_of::<u64>(),
                        size_of::<u64>(),
                    )
                }?;
            }
            let claimed = Atomic::new(0);
            pages.push(SparsePage { page, claimed }, GFP_KERNEL)?;
        }

        Self::reserve(pages)
    }

    /// Reserves addresses for `pages`.
    // Not generic and not inlined: `get_vm_area()` is not exported to modules.
    #[inline(never)]
    fn reserve(pages: KVec<SparsePage>) -> Result<Self> {
        // SAFETY: Always safe to call in a context that may sleep.
        let area =
            unsafe { bindings::get_vm_area(pages.len() * PAGE_SIZE, bindings::VM_SPARSE as usize) };
        // INVARIANT: The area is new, so nothing is mapped there.
        Ok(Self {
            area: NonNull::new(area).ok_or(ENOMEM)?,
            pages,
        })
    }

    /// Number of pages, mapped or not.
    pub fn pages(&self) -> usize {
        self.pages.len()
    }

    /// Maps page `index` of the area.
    ///
    /// # Context
    ///
    /// May sleep.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] when the area has no such page, [`EBUSY`] when the page has been mapped before,
    /// [`ENOMEM`] when there is no memory for a page table; the page stays unmapped for good then.
    pub fn map(&self, index: usize) -> Result {
        let page = self.pages.get(index).ok_or(EINVAL)?;
        if page.claimed.xchg(1, Relaxed) != 0 {
            return Err(EBUSY);
        }

        let start = self.address(index);
        let mut page = page.page.as_ptr();
        // INVARIANT: Only this call claimed the page, so it was not mapped.
        // SAFETY: `start` and its page lie within the area that we own, which is sparse; the page
        // outlives the mapping because `drop()` frees the area first.
        to_result(unsafe {
            bindings::vm_area_map_pages(self.area.as_ptr(), start, start + PAGE_SIZE, &mut page)
        })
    }

    /// Word `index` of the area, or [`None`] as long as the page table has no valid entry for it.
    ///
    /// That this returns a word does not mean that the CPU already sees the mapping: it may be so
    /// new that the CPU that makes it has not announced it to the others.
    ///
    /// # Context
    ///
    /// Any.
    pub fn word(&self, index: usize) -> Option<&Atomic<u64>> {
        if index / WORDS_PER_PAGE >= self.pages.len() {
            return None;
        }
        let address = self.address(0) + index * size_of::<u64>();
        // SAFETY: The address lies in the vmalloc range. Page tables of that range are never freed,
        // so the walk needs no lock.
        if unsafe { bindings::vmalloc_to_page(address as *const c_void) }.is_null() {
            return None;
        }
        // SAFETY: By the type invariant one of our pages is mapped there, until `self` is dropped.
        // The address is aligned, the memory initialised and accessed through atomics only.
        Some(unsafe { Atomic::from_ptr(address as *mut u64) })
    }

    /// The address at which page `page` is, or will be, mapped.
    pub fn address(&self, page: usize) -> usize {
        // SAFETY: By the type invariant.
        unsafe { (*self.area.as_ptr()).addr as usize + page * PAGE_SIZE }
    }
}

impl Drop for SparseArea {
    fn drop(&mut self) {
        // SAFETY: By the type invariant we own the area, and nobody can have a word of it any more.
        // The pages are freed after it.
        unsafe { bindings::free_vm_area(self.area.as_ptr()) };
    }
}
