// SPDX-License-Identifier: GPL-2.0

//! Stack traces.
//!
//! C header: [`include/linux/stacktrace.h`](srctree/include/linux/stacktrace.h)

use crate::bindings;

/// Writes the return addresses of the current stack to `entries`, innermost first; returns those
/// that were written.
///
/// # Context
///
/// Any.
///
/// # Examples
///
/// ```
/// use kernel::stacktrace;
///
/// let mut entries = [0; 16];
/// assert!(!stacktrace::save(&mut entries).is_empty());
/// ```
pub fn save(entries: &mut [usize]) -> &[usize] {
    let size = u32::try_from(entries.len()).unwrap_or(u32::MAX);
    // SAFETY: `entries` has room for so many.
    let count = unsafe { bindings::stack_trace_save(entries.as_mut_ptr(), size, 0) };
    entries.get(..count as usize).unwrap_or(&[])
}
