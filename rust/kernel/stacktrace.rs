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
// Not inlined: it is among the entries, wherever it is called from.
#[inline(never)]
pub fn save(entries: &mut [usize]) -> &[usize] {
    let size = u32::try_from(entries.len()).unwrap_or(u32::MAX);
    // SAFETY: `entries` has room for that many.
    let count = unsafe { bindings::stack_trace_save(entries.as_mut_ptr(), size, 0) };
    entries.get(..count as usize).unwrap_or(&[])
}

#[cfg(CONFIG_RUST_STACKTRACE_KUNIT_TEST)]
#[macros::kunit_tests(rust_stacktrace)]
mod tests {
    use super::*;

    #[inline(never)]
    fn deeper(entries: &mut [usize]) -> usize {
        let depth = save(entries).len();
        // Not a tail call.
        core::hint::black_box(depth)
    }

    #[test]
    fn writes_addresses() {
        let mut entries = [0; 32];
        let depth = save(&mut entries).len();
        assert!(depth > 0);
        assert!(entries.iter().take(depth).all(|entry| *entry != 0));
        assert!(entries.iter().skip(depth).all(|entry| *entry == 0));
    }

    #[test]
    fn is_deeper_in_a_call() {
        let (mut here, mut there) = ([0; 64], [0; 64]);
        let depth = save(&mut here).len();
        assert_eq!(deeper(&mut there), depth + 1);
        // The callers of this function are the same; it is elsewhere by now.
        assert_eq!(here[depth - 2..depth], there[depth - 1..depth + 1]);
    }

    #[test]
    fn stays_in_its_bounds() {
        let mut entries = [0; 4];
        assert_eq!(save(&mut entries[..1]).len(), 1);
        assert_eq!(entries[1..], [0; 3]);
        assert!(save(&mut []).is_empty());
    }
}
