// SPDX-License-Identifier: GPL-2.0

//! Buffers of relay, into which tracers write.
//!
//! This module is for tests of the mappings of the buffers: nobody can read them but the owner.
//!
//! C header: [`include/linux/relay.h`](srctree/include/linux/relay.h)

use crate::{
    bindings,
    cpu::CpuId,
    ffi::{
        c_char,
        c_int, //
    },
    prelude::*,
    smp, //
};
use core::ptr::{
    self,
    NonNull, //
};

use super::mapping::is_possible;

/// A buffer for each CPU, written by that CPU.
///
/// # Examples
///
/// ```
/// use kernel::cpu::CpuId;
/// use kernel::interrupt::local_interrupt_disable;
/// use kernel::vmalloc::relay::Channel;
///
/// let channel = Channel::new(8)?;
/// // So that the CPU does not change.
/// let interrupts = local_interrupt_disable();
/// channel.write(42);
/// let word = channel.word(CpuId::current(), 0);
/// drop(interrupts);
/// assert_eq!(word, Some(42));
/// # Ok::<(), Error>(())
/// ```
///
/// # Invariants
///
/// `channel` is an open channel that we own. Each buffer of it has `words` words, which are
/// initialised.
pub struct Channel {
    channel: NonNull<bindings::rchan>,
    words: usize,
}

// SAFETY: Nothing of a channel belongs to the task that created it.
unsafe impl Send for Channel {}

// SAFETY: Each CPU writes to its own buffer, with interrupts disabled.
unsafe impl Sync for Channel {}

/// What relay asks for. There are no files.
static CALLBACKS: bindings::rchan_callbacks = bindings::rchan_callbacks {
    subbuf_start: None,
    create_buf_file: Some(create_file),
    remove_buf_file: Some(remove_file),
};

/// Without a name there is no file, but relay takes null for an error.
///
/// # Safety
///
/// Nothing is required: the arguments are not used.
unsafe extern "C" fn create_file(
    _name: *const c_char,
    _parent: *mut bindings::dentry,
    _mode: bindings::umode_t,
    _buffer: *mut bindings::rchan_buf,
    _is_global: *mut c_int,
) -> *mut bindings::dentry {
    NonNull::dangling().as_ptr()
}

/// # Safety
///
/// Nothing is required: the argument is not used.
unsafe extern "C" fn remove_file(_file: *mut bindings::dentry) -> c_int {
    0
}

impl Channel {
    /// Makes a buffer of `words` words for each CPU.
    ///
    /// # Context
    ///
    /// Process context with interrupts enabled. May sleep.
    ///
    /// # Errors
    ///
    /// [`EDEADLK`] when called from another context, [`EINVAL`] when there are no words or too
    /// many, [`ENOMEM`] when memory or addresses are exhausted.
    pub fn new(words: usize) -> Result<Self> {
        smp::may_wait()?;
        let size = words.checked_mul(size_of::<u64>()).ok_or(EINVAL)?;
        if size == 0 || size > u32::MAX as usize {
            return Err(EINVAL);
        }
        // SAFETY: The caller may sleep, as was checked. The callbacks exist for ever, as they are
        // part of the kernel image.
        let channel = unsafe { bindings::relay_open_nameless(size, &raw const CALLBACKS) };
        // INVARIANT: The channel has just been opened. Its buffers are zeroed.
        Ok(Self {
            channel: NonNull::new(channel).ok_or(ENOMEM)?,
            words,
        })
    }

    /// Writes a word to the buffer of the current CPU, behind what was written before.
    ///
    /// A word that does not fit is lost.
    ///
    /// # Context
    ///
    /// Any but non-maskable interrupts.
    #[inline]
    pub fn write(&self, word: u64) {
        // SAFETY: By the type invariant the channel is open. Each CPU that is online has a buffer:
        // no CPU was coming online when the channel was opened, and relay makes one for each that
        // comes later. The word is valid for reads of its size.
        unsafe {
            bindings::relay_write(
                self.channel.as_ptr(),
                (&raw const word).cast(),
                size_of::<u64>(),
            )
        };
    }

    /// The address of the buffer of `cpu`, or [`None`] if it has no buffer.
    ///
    /// # Context
    ///
    /// Any.
    pub fn address(&self, cpu: CpuId) -> Option<usize> {
        self.start(cpu).map(|start| start.addr().get())
    }

    /// Word `index` of the buffer of `cpu`, or [`None`] if it has no buffer, or fewer words.
    ///
    /// Words are 0 until they are written. One that its CPU is writing may be read in part.
    ///
    /// # Context
    ///
    /// Any.
    pub fn word(&self, cpu: CpuId, index: usize) -> Option<u64> {
        if index >= self.words {
            return None;
        }
        let start = self.start(cpu)?;
        // SAFETY: By the type invariant there is such a word, until `self` is dropped. The CPU may
        // be writing it, even in parts: what is read is a number all the same.
        Some(unsafe { ptr::read_volatile(start.as_ptr().add(index)) })
    }

    /// Where the buffer of `cpu` is.
    fn start(&self, cpu: CpuId) -> Option<NonNull<u64>> {
        if !is_possible(cpu) {
            return None;
        }
        // SAFETY: By the type invariant the channel is open.
        let buffers = unsafe { (*self.channel.as_ptr()).buf };
        // SAFETY: It is a per-CPU allocation, and `cpu` is a possible one.
        let buffer: *mut *mut bindings::rchan_buf =
            unsafe { bindings::per_cpu_ptr(buffers.cast(), cpu.as_u32()).cast() };
        // SAFETY: The pointer for a CPU is set once, to a buffer that exists as long as the
        // channel.
        let buffer = unsafe { ptr::read_volatile(buffer) };
        if buffer.is_null() {
            return None;
        }
        // SAFETY: It is a buffer of the channel. Its start does not change.
        NonNull::new(unsafe { (*buffer).start.cast() })
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        // SAFETY: By the type invariant we own the channel, and nobody can write to it any more.
        unsafe { bindings::relay_close(self.channel.as_ptr()) };
    }
}

#[cfg(CONFIG_RUST_VMALLOC_KUNIT_TEST)]
#[macros::kunit_tests(rust_vmalloc_relay)]
mod tests {
    use super::*;
    use crate::{
        cpu::nr_cpu_ids,
        interrupt::local_interrupt_disable,
        vmalloc::WORDS_PER_PAGE, //
    };

    #[test]
    fn wrong_sizes_are_refused() {
        assert_eq!(Channel::new(0).err(), Some(EINVAL));
        assert_eq!(Channel::new(1 << 29).err(), Some(EINVAL));
        assert_eq!(Channel::new(usize::MAX).err(), Some(EINVAL));
    }

    #[test]
    fn words_follow_each_other() -> Result {
        let channel = Channel::new(2)?;
        let interrupts = local_interrupt_disable();
        let cpu = CpuId::current();
        channel.write(1);
        channel.write(2);
        // Does not fit.
        channel.write(3);
        let words = [0, 1, 2].map(|index| channel.word(cpu, index));
        drop(interrupts);
        assert_eq!(words, [Some(1), Some(2), None]);
        Ok(())
    }

    #[test]
    fn every_cpu_has_its_buffer() -> Result {
        let channel = Channel::new(2 * WORDS_PER_PAGE)?;
        smp::on_each_cpu(|cpu, _| channel.write(u64::from(cpu.as_u32()) + 1))?;
        let mut found = KVec::from_elem(None, nr_cpu_ids() as usize, GFP_KERNEL)?;
        smp::collect_on_each_cpu(&mut found, |cpu, _| (cpu, channel.word(cpu, 0)))?;
        for (cpu, word) in found.iter().flatten() {
            assert_eq!(*word, Some(u64::from(cpu.as_u32()) + 1));
            assert!(channel.address(*cpu).is_some());
        }
        Ok(())
    }
}
