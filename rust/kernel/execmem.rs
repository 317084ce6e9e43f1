// SPDX-License-Identifier: GPL-2.0

//! Memory for code that is generated at run time.
//!
//! Only for test modules: `execmem_alloc()` is deliberately not exported, because a module that can
//! have executable memory can execute anything. So this exists only in kernels with
//! `CONFIG_RUST_KSELFTEST_SUPPORT`.
//!
//! C header: [`include/linux/execmem.h`](srctree/include/linux/execmem.h)

use crate::{
    bindings,
    page::PAGE_SIZE,
    prelude::*,
    smp, //
};
use core::ptr::NonNull;

/// Pages of code that can be executed.
///
/// They are mapped executable from the start, like those in which kprobes keep their
/// instructions; the code is written through another mapping. So no CPU has to flush its
/// translations, and a CPU that executes the code may see its mapping for the first time. With
/// `CONFIG_STRICT_MODULE_RWX` the code cannot be written where it is executed.
///
/// # Examples
///
/// ```
/// use kernel::execmem::{self, Text};
///
/// // SAFETY: Nobody executes the code.
/// let text = unsafe { Text::new(&execmem::returning(5)) }?;
/// assert!(text.address() != 0);
/// # Ok::<(), Error>(())
/// ```
///
/// # Invariants
///
/// `start` is memory from `execmem_alloc()` that we own.
pub struct Text {
    start: NonNull<c_void>,
}

// SAFETY: Nothing of it belongs to the task that created it.
unsafe impl Send for Text {}

// SAFETY: A shared one only gives out its address.
unsafe impl Sync for Text {}

impl Text {
    /// Allocates pages and writes `code` to their start. The rest is zeroes, which are not
    /// instructions.
    ///
    /// All CPUs fetch the code from memory afterwards, not what was at the same address before.
    ///
    /// # Safety
    ///
    /// The code is executable as long as the object exists, for anybody who makes the kernel jump
    /// there. So `code` must only come from somebody who may run code in the kernel. What it does
    /// must be sound in the contexts in which it is executed, and it must not be executed once the
    /// object is dropped.
    ///
    /// # Context
    ///
    /// Process context with interrupts enabled. May sleep.
    ///
    /// # Errors
    ///
    /// [`EDEADLK`] when called from another context, [`EINVAL`] when `code` is empty, [`ENOMEM`]
    /// when memory or addresses are exhausted.
    // Not inlined: `execmem_alloc()` is not exported to modules.
    #[inline(never)]
    pub unsafe fn new(code: &[u8]) -> Result<Self> {
        // The code below waits for all CPUs.
        smp::may_wait()?;
        if code.is_empty() {
            return Err(EINVAL);
        }
        let size = code.len().next_multiple_of(PAGE_SIZE);
        // SAFETY: The caller may sleep, as was checked. Each kernel has a range for the type, and
        // the function returns null for a size that it cannot allocate.
        let start =
            unsafe { bindings::execmem_alloc(bindings::execmem_type_EXECMEM_KPROBES, size) };
        // INVARIANT: The function has just allocated it, and nobody else has it.
        let text = Self {
            start: NonNull::new(start).ok_or(ENOMEM)?,
        };

        for offset in (0..size).step_by(PAGE_SIZE) {
            let rest = code.get(offset..).unwrap_or(&[]);
            // SAFETY: The page belongs to memory from vmalloc that we own, and nobody executes it
            // yet. At most a page is written through a mapping of that page that ends here.
            unsafe {
                let page = bindings::vmalloc_to_page(start.wrapping_byte_add(offset));
                let mapping = bindings::kmap_local_page(page).cast::<u8>();
                mapping.write_bytes(0, PAGE_SIZE);
                mapping.copy_from_nonoverlapping(rest.as_ptr(), rest.len().min(PAGE_SIZE));
                bindings::kunmap_local(mapping.cast());
            }
        }
        // SAFETY: The range is that of the memory that we own, and is mapped.
        unsafe { bindings::flush_icache_range(text.address(), text.address() + size) };
        Ok(text)
    }

    /// Where the code starts.
    #[inline]
    pub fn address(&self) -> usize {
        self.start.as_ptr() as usize
    }
}

impl Drop for Text {
    // Not inlined: `execmem_free()` is not exported to modules.
    #[inline(never)]
    fn drop(&mut self) {
        // SAFETY: By the type invariant the memory is ours. By the safety requirements of `new()`
        // nobody executes the code any more.
        unsafe { bindings::execmem_free(self.start.as_ptr()) };
    }
}

/// The code of a function that returns the lower 11 bits of `number`, for tests of where code is.
///
/// It takes no arguments, and changes nothing but a0.
///
/// # Examples
///
/// ```
/// use kernel::execmem;
///
/// assert!(execmem::returning(1) != execmem::returning(2));
/// ```
pub const fn returning(number: u16) -> [u8; 8] {
    // `li a0, number`, `ret`
    let code = 0x0000_0513 | (number as u64 & 0x7ff) << 20 | 0x0000_8067 << 32;
    code.to_le_bytes()
}

#[cfg(CONFIG_RUST_EXECMEM_KUNIT_TEST)]
#[macros::kunit_tests(rust_execmem)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_refused() {
        // SAFETY: There is no code.
        assert_eq!(unsafe { Text::new(&[]) }.err(), Some(EINVAL));
    }

    #[test]
    fn refused_with_interrupts_disabled() {
        let interrupts = crate::interrupt::local_interrupt_disable();
        // SAFETY: Nobody executes it.
        let refused = unsafe { Text::new(&[1]) }.err();
        drop(interrupts);
        assert_eq!(refused, Some(EDEADLK));
    }

    #[test]
    fn has_the_code_and_zeroes() -> Result {
        let mut code = KVec::new();
        for index in 0..PAGE_SIZE + 3 {
            code.push((index % 251) as u8, GFP_KERNEL)?;
        }
        // SAFETY: Nobody executes it.
        let text = unsafe { Text::new(&code) }?;
        let start: *const u8 = core::ptr::with_exposed_provenance(text.address());
        // SAFETY: `text` has two pages, which are mapped for reading as well.
        let found = unsafe { core::slice::from_raw_parts(start, 2 * PAGE_SIZE) };
        assert!(found.starts_with(&code));
        assert!(found.iter().skip(code.len()).all(|byte| *byte == 0));
        Ok(())
    }

    #[test]
    fn runs() -> Result {
        for number in [1, 1000, 2047] {
            // SAFETY: It is called below, and not after the end of this round.
            let text = unsafe { Text::new(&returning(number)) }?;
            // SAFETY: The code is a function of this kind.
            let function: extern "C" fn() -> u64 = unsafe { core::mem::transmute(text.address()) };
            assert_eq!(function(), u64::from(number));
        }
        assert_eq!(returning(2048), returning(0));
        Ok(())
    }

    #[test]
    fn pieces_are_apart() -> Result {
        // SAFETY: Nobody executes it.
        let first = unsafe { Text::new(&[1]) }?;
        // SAFETY: Nobody executes it.
        let second = unsafe { Text::new(&[2]) }?;
        assert!(first.address().abs_diff(second.address()) >= PAGE_SIZE);
        assert_eq!(first.address() % PAGE_SIZE, 0);
        Ok(())
    }
}
