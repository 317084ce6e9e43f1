// SPDX-License-Identifier: GPL-2.0

//! Kernel probes: code that runs before an instruction of the kernel is executed.
//!
//! Nothing like it is known to have been posted. It has the shape of other callbacks of this crate:
//! a scope that borrows, like `ScopedHrTimerPointer`, above a registration whose constructor is
//! unsafe, like [`irq::Registration`](crate::irq::Registration).
//!
//! C header: [`include/linux/kprobes.h`](srctree/include/linux/kprobes.h)

use crate::{
    bindings,
    container_of,
    error::to_result,
    ffi::c_int,
    prelude::*,
    smp,
    str::CStr,
    time::{
        delay::fsleep,
        Delta, //
    },
    types::Opaque, //
};

/// Code to run before a probed instruction.
///
/// [`armed()`] puts one before an instruction.
pub trait Handler: Sync {
    /// Called each time, on the CPU that is about to execute the instruction at `address`.
    ///
    /// # Context
    ///
    /// That of the instruction, which may be a hard interrupt or, on architectures that have them,
    /// a non-maskable one, and in addition that of a breakpoint exception: it must not sleep. It
    /// must not depend on the probed function. Probes that are hit on the same CPU in the meantime,
    /// including this one, are missed.
    ///
    /// There is no token of this context: interrupts may be enabled, for instance where an
    /// architecture calls the handler from a jump instead of a breakpoint, as x86 does, or from the
    /// function tracer's hook. Preemption is disabled.
    fn pre(&self, address: usize);
}

impl<H: Handler> Handler for &H {
    #[inline]
    fn pre(&self, address: usize) {
        (**self).pre(address);
    }
}

/// Calls `scope` while `handler` is armed; returns what `scope` returns.
///
/// The probe is disarmed when this function returns, and no CPU runs the handler any more. So the
/// handler may borrow. What `scope` returns must be [`Send`], so it cannot be a guard that keeps
/// interrupts disabled, or a lock held, while this function waits for that. See
/// [`Registration::new()`] for `symbol` and `offset`.
///
/// # Context
///
/// Process context with interrupts enabled. Sleeps.
///
/// # Errors
///
/// As for [`Registration::new()`]; then `scope` has not run.
///
/// # Examples
///
/// ```
/// use kernel::kprobe::{armed, Handler};
/// use kernel::sync::atomic::{Atomic, Relaxed};
///
/// struct Count(Atomic<i32>);
///
/// impl Handler for Count {
///     fn pre(&self, _address: usize) {
///         self.0.fetch_add(1, Relaxed);
///     }
/// }
///
/// #[no_mangle]
/// #[inline(never)]
/// extern "C" fn rust_kprobe_example(number: i32) -> i32 {
///     core::hint::black_box(number) + 1
/// }
///
/// let count = Count(Atomic::new(0));
/// let result = armed(c"rust_kprobe_example", 0, &count, || rust_kprobe_example(4))?;
/// assert_eq!(result, 5);
/// assert_eq!(count.0.load(Relaxed), 1);
/// # Ok::<(), Error>(())
/// ```
pub fn armed<H: Handler, R: Send>(
    symbol: &'static CStr,
    offset: u32,
    handler: &H,
    scope: impl FnOnce() -> R,
) -> Result<R> {
    // SAFETY: It is dropped when this function returns.
    pin_init::stack_try_pin_init!(let _registration =? unsafe {
        Registration::<&H>::new(symbol, offset, handler)
    });
    Ok(scope())
}

/// A probe that is armed as long as this object exists.
///
/// Dropping it disarms the probe and waits until no CPU runs its handler any more, so it sleeps. If
/// the kernel has found its own code to be corrupt, or memory is short, a probe that uses the
/// function tracer's hook cannot be disarmed: then it warns, and sleeps for ever.
///
/// # Invariants
///
/// `kprobe` is registered, and its handler is `pre_handler::<H>()`.
#[pin_data(PinnedDrop)]
pub struct Registration<H: Handler> {
    handler: H,
    /// The C code keeps its address.
    #[pin]
    kprobe: Opaque<bindings::kprobe>,
}

// SAFETY: A probe can be unregistered from any task.
unsafe impl<H: Handler + Send> Send for Registration<H> {}

// SAFETY: A shared registration gives access to a shared `H`, which is `Sync`, and to a counter
// that is only read.
unsafe impl<H: Handler> Sync for Registration<H> {}

impl<H: Handler> Registration<H> {
    /// Arms a probe of the instruction `offset` bytes behind the start of `symbol`; the handler may
    /// run before this returns.
    ///
    /// An architecture may move a probe of the start behind what must be there, as x86 does with
    /// ENDBR. The handler gets the address where the probe is.
    ///
    /// # Safety
    ///
    /// Callers must not `mem::forget()` the registration or otherwise prevent its `Drop`
    /// implementation from running before anything that `handler` borrows is gone, and before a
    /// module to which the code of `handler` belongs is unloaded.
    ///
    /// # Context
    ///
    /// May sleep.
    ///
    /// # Errors
    ///
    /// [`ENOENT`] when no function has that name. [`EINVAL`] or [`EILSEQ`] when the kernel
    /// does not allow a probe there: in the exception entry, in the code of kprobes itself, in the
    /// middle of an instruction or, depending on the architecture, where the function tracer has
    /// its hook. [`EDEADLK`] when called with interrupts disabled or from an interrupt, [`ENOMEM`]
    /// when out of memory.
    pub unsafe fn new(symbol: &'static CStr, offset: u32, handler: H) -> impl PinInit<Self, Error> {
        // INVARIANT: Registered as the last step, with the address that `kprobe` keeps because
        // `Self` is pinned.
        try_pin_init!(Self {
            handler,
            kprobe <- Opaque::try_ffi_init(move |kprobe: *mut bindings::kprobe| {
                smp::may_wait()?;
                // SAFETY: `kprobe` is valid for writes, and zeroes are a valid `struct kprobe`. The
                // name lives forever. `handler` is initialised, so the probe may fire at once; it
                // stays valid until `drop()` has waited for the last call.
                to_result(unsafe {
                    kprobe.write_bytes(0, 1);
                    (*kprobe).symbol_name = symbol.as_char_ptr();
                    (*kprobe).offset = offset;
                    (*kprobe).pre_handler = Some(pre_handler::<H>);
                    bindings::register_kprobe(kprobe)
                })
            }),
        }? Error)
    }

    /// The handler.
    #[inline]
    pub fn handler(&self) -> &H {
        &self.handler
    }

    /// How often the instruction was executed without a call of the handler, because another probe
    /// was being handled on that CPU.
    #[inline]
    pub fn missed(&self) -> usize {
        // SAFETY: By the type invariant the struct is initialised. Other CPUs may count in the
        // meantime.
        unsafe { (&raw const (*self.kprobe.get()).nmissed).read_volatile() }
    }
}

#[pinned_drop]
impl<H: Handler> PinnedDrop for Registration<H> {
    fn drop(self: Pin<&mut Self>) {
        let kprobe = self.kprobe.get();
        // SAFETY: By the type invariant it is registered. This waits until no CPU is in the
        // handler.
        unsafe { bindings::unregister_kprobe(kprobe) };
        // If the probe cannot be disarmed, the C code clears the address, and tells nobody. Then
        // `kprobe` is still listed, and the handler may be called at any time. They are gone as
        // soon as this returns, and so is what the handler borrows.
        // SAFETY: By the type invariant the struct is initialised, and nobody writes to the field
        // any more.
        let left = unsafe { (*kprobe).addr.is_null() };
        if crate::warn_on!(left) {
            loop {
                fsleep(Delta::from_secs(1));
            }
        }
    }
}

/// # Safety
///
/// `kprobe` must be that of a [`Registration<H>`] that exists until this returns, and whose
/// `handler` is initialised.
unsafe extern "C" fn pre_handler<H: Handler>(
    kprobe: *mut bindings::kprobe,
    _regs: *mut bindings::pt_regs,
) -> c_int {
    // SAFETY: By the safety requirements. Only `handler` is borrowed: the C code writes to the
    // rest.
    let (handler, address) = unsafe {
        let registration: *const Registration<H> =
            container_of!(Opaque::cast_from(kprobe), Registration<H>, kprobe);
        (&(*registration).handler, (*kprobe).addr as usize)
    };
    handler.pre(address);
    // Execute the instruction.
    0
}

#[cfg(CONFIG_RUST_KPROBE_KUNIT_TEST)]
#[macros::kunit_tests(rust_kprobe)]
mod tests {
    use super::*;
    use crate::{
        interrupt::local_interrupt_disable,
        kthread,
        sync::atomic::{
            Atomic,
            Relaxed, //
        }, //
    };

    const TARGET: &CStr = c"rust_kprobe_kunit_target";

    /// How far behind the start the probe may be: x86 moves it behind ENDBR.
    const MOVED: usize = 16;

    #[no_mangle]
    #[inline(never)]
    extern "C" fn rust_kprobe_kunit_target(number: c_int) -> c_int {
        core::hint::black_box(number) + 1
    }

    struct Count(Atomic<u64>);

    impl Count {
        const fn new() -> Self {
            Self(Atomic::new(0))
        }

        fn get(&self) -> u64 {
            self.0.load(Relaxed)
        }
    }

    impl Handler for Count {
        fn pre(&self, address: usize) {
            // A wrong address results in an impossible number of calls.
            let start = rust_kprobe_kunit_target as *const () as usize;
            let right = address.wrapping_sub(start) < MOVED;
            self.0.fetch_add(if right { 1 } else { 1 << 32 }, Relaxed);
        }
    }

    #[test]
    fn a_missing_symbol_is_named() {
        let refused = armed(c"rust_kprobe_no_such_function", 0, &Count::new(), || {});
        assert_eq!(refused, Err(ENOENT));
    }

    #[test]
    fn what_handles_probes_is_refused() {
        assert_eq!(armed(c"get_kprobe", 0, &Count::new(), || {}), Err(EINVAL));
    }

    #[test]
    fn refused_with_interrupts_disabled() {
        let count = Count::new();
        let interrupts = local_interrupt_disable();
        let refused = armed(TARGET, 0, &count, || {});
        drop(interrupts);
        assert_eq!(refused, Err(EDEADLK));
    }

    // Assertions come after the scopes: one that fails ends the thread without destructors, so what
    // is on its stack would stay registered.

    #[test]
    fn fires_while_armed() -> Result {
        let count = Count::new();
        assert_eq!(rust_kprobe_kunit_target(1), 2);
        assert_eq!(count.get(), 0);
        let results = armed(TARGET, 0, &count, || {
            [0, 1, 2].map(|number| rust_kprobe_kunit_target(number))
        })?;
        assert_eq!(results, [1, 2, 3]);
        assert_eq!(rust_kprobe_kunit_target(5), 6);
        assert_eq!(count.get(), 3);
        Ok(())
    }

    #[test]
    fn none_is_missed() -> Result {
        let count = Count::new();
        let seen = {
            // SAFETY: It is dropped at the end of this block.
            pin_init::stack_try_pin_init!(let probe =? unsafe {
                Registration::new(TARGET, 0, &count)
            });
            let result = rust_kprobe_kunit_target(1);
            (result, probe.handler().get(), probe.missed())
        };
        assert_eq!(seen, (2, 1, 0));
        Ok(())
    }

    #[test]
    fn fires_in_interrupts() -> Result {
        let count = Count::new();
        let wrong = Atomic::new(0u32);
        armed(TARGET, 0, &count, || {
            smp::on_each_cpu(|cpu, _| {
                let number = cpu.as_u32() as c_int;
                if rust_kprobe_kunit_target(number) != number + 1 {
                    wrong.fetch_add(1, Relaxed);
                }
            })
        })??;
        assert_eq!(wrong.load(Relaxed), 0);
        assert_eq!(count.get(), u64::from(smp::num_online_cpus()));
        Ok(())
    }

    #[test]
    fn two_at_once() -> Result {
        let (one, other) = (Count::new(), Count::new());
        let results = armed(TARGET, 0, &one, || -> Result<[c_int; 2]> {
            let with_both = armed(TARGET, 0, &other, || rust_kprobe_kunit_target(1))?;
            Ok([with_both, rust_kprobe_kunit_target(1)])
        })??;
        assert_eq!(results, [2, 2]);
        assert_eq!((one.get(), other.get()), (2, 1));
        Ok(())
    }

    #[test]
    fn comes_and_goes_while_it_fires() -> Result {
        let count = Count::new();
        let pass = || {
            // Each call is a trap.
            fsleep(Delta::from_micros(20));
            match rust_kprobe_kunit_target(7) {
                8 => Ok(()),
                _ => Err(EIO),
            }
        };
        kthread::attach_and_detach_while(|| armed(TARGET, 0, &count, || {}), pass)?;
        assert!(count.get() < 1 << 32);
        Ok(())
    }
}
