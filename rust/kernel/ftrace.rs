// SPDX-License-Identifier: GPL-2.0

//! Function tracing: code that runs whenever a kernel function is entered.
//!
//! Nothing like it is known to have been posted. It has the shape of other callbacks of this crate:
//! a scope that borrows, like `ScopedHrTimerPointer`, above a registration whose constructor is
//! unsafe, like [`irq::Registration`](crate::irq::Registration).
//!
//! C header: [`include/linux/ftrace.h`](srctree/include/linux/ftrace.h)

use crate::{
    bindings,
    container_of,
    error::to_result,
    ffi::{
        c_int,
        c_ulong, //
    },
    prelude::*,
    smp,
    str::CStr,
    time::{
        delay::fsleep,
        Delta, //
    },
    types::Opaque, //
};

/// Code to run when a traced function is entered.
///
/// [`traced()`] makes it run.
pub trait Tracer: Sync {
    /// Called each time, on the CPU that enters the function. `ip` is at its start, `parent_ip`
    /// is where it returns to.
    ///
    /// # Context
    ///
    /// That of the function, which may be a hard interrupt or, on architectures that have them, a
    /// non-maskable one, with preemption disabled: it must not sleep. Functions that it causes to
    /// be entered are not traced.
    ///
    /// There is no token of this context: interrupts are as the function has them.
    fn enter(&self, ip: usize, parent_ip: usize);
}

impl<T: Tracer> Tracer for &T {
    #[inline]
    fn enter(&self, ip: usize, parent_ip: usize) {
        (**self).enter(ip, parent_ip);
    }
}

/// Calls `scope` while `tracer` traces the functions that `functions` matches; returns what `scope`
/// returns.
///
/// Tracing has ended when this function returns, and no CPU runs the tracer any more. So it may
/// borrow. What `scope` returns must be [`Send`], so it cannot be a guard that keeps interrupts
/// disabled, or a lock held, while this function waits for that. See [`Registration::new()`] for
/// `functions`.
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
/// use kernel::ftrace::{traced, Tracer};
/// use kernel::kthread;
/// use kernel::sync::atomic::{Atomic, Relaxed};
///
/// struct Count(Atomic<i32>);
///
/// impl Tracer for Count {
///     fn enter(&self, _ip: usize, _parent_ip: usize) {
///         self.0.fetch_add(1, Relaxed);
///     }
/// }
///
/// let count = Count(Atomic::new(0));
/// // Starting threads wakes them.
/// traced(c"wake_up_process", &count, || kthread::on_any_cpu(2, |_| {}, || {}))??;
/// assert!(count.0.load(Relaxed) >= 2);
/// # Ok::<(), Error>(())
/// ```
pub fn traced<T: Tracer, R: Send>(
    functions: &CStr,
    tracer: &T,
    scope: impl FnOnce() -> R,
) -> Result<R> {
    // SAFETY: It is dropped when this function returns.
    pin_init::stack_try_pin_init!(let _registration =? unsafe {
        Registration::<&T>::new(functions, tracer)
    });
    Ok(scope())
}

/// Traces functions as long as it exists.
///
/// Dropping it stops tracing and waits until no CPU runs the tracer any more, so it sleeps. If the
/// kernel has found its own code to be corrupt, tracing cannot be stopped: then it warns, and
/// sleeps for ever.
///
/// # Invariants
///
/// `ops` is registered, and its function is `call::<T>()`.
#[pin_data(PinnedDrop)]
pub struct Registration<T: Tracer> {
    tracer: T,
    /// The C code keeps its address.
    #[pin]
    ops: Opaque<bindings::ftrace_ops>,
}

// SAFETY: Operations can be unregistered from any task.
unsafe impl<T: Tracer + Send> Send for Registration<T> {}

// SAFETY: A shared registration gives access to nothing but a shared `T`, which is `Sync`.
unsafe impl<T: Tracer> Sync for Registration<T> {}

impl<T: Tracer> Registration<T> {
    /// Traces the functions that `functions` matches; the tracer may run before this returns.
    ///
    /// It is a name, or a pattern with `*`, `?` and `[...]` as in the file `set_ftrace_filter`; see
    /// `Documentation/trace/ftrace.rst`. What that file understands beyond that is refused, because
    /// it can make an empty filter, which matches every function: `!`, the index of a function, and
    /// commands.
    ///
    /// # Safety
    ///
    /// Callers must not `mem::forget()` the registration or otherwise prevent its `Drop`
    /// implementation from running before anything that `tracer` borrows is gone, and before a
    /// module to which the code of `tracer` belongs is unloaded.
    ///
    /// # Context
    ///
    /// May sleep.
    ///
    /// # Errors
    ///
    /// [`ENOENT`] when no traceable function matches, [`EINVAL`] when `functions` is neither a name
    /// nor a pattern, [`ENODEV`] when tracing has been disabled permanently, [`EDEADLK`] when
    /// called with interrupts disabled or from an interrupt, [`ENOMEM`] when out of memory.
    pub unsafe fn new(functions: &CStr, tracer: T) -> impl PinInit<Self, Error> + use<'_, T> {
        // INVARIANT: Registered as the last step, with the address that `ops` keeps because `Self`
        // is pinned.
        try_pin_init!(Self {
            tracer,
            ops <- Opaque::try_ffi_init(move |ops: *mut bindings::ftrace_ops| {
                // SAFETY: `ops` is valid for writes, and zeroes are a valid `struct ftrace_ops`.
                unsafe {
                    ops.write_bytes(0, 1);
                    (*ops).func = Some(call::<T>);
                }
                // SAFETY: `ops` has just been initialised. `tracer` is as well, so it may be called
                // at once; it stays valid until `drop()` has waited for the last call.
                unsafe { register(ops, functions) }
            }),
        }? Error)
    }

    /// The tracer.
    #[inline]
    pub fn tracer(&self) -> &T {
        &self.tracer
    }
}

#[pinned_drop]
impl<T: Tracer> PinnedDrop for Registration<T> {
    fn drop(self: Pin<&mut Self>) {
        let ops = self.ops.get();
        // SAFETY: By the type invariant it is registered. This waits until no CPU is in the tracer.
        let left = unsafe { bindings::unregister_ftrace_function(ops) };
        // It fails only if the kernel has found its own code to be corrupt, and does not touch it
        // any more. Then `ops` is still listed, and the tracer may be called at any time. They are
        // gone as soon as this returns, and so is what the tracer borrows.
        if crate::warn_on!(left != 0) {
            loop {
                fsleep(Delta::from_secs(1));
            }
        }
        // SAFETY: Nobody uses the filter any more.
        unsafe { bindings::ftrace_free_filter(ops) };
    }
}

/// # Safety
///
/// `ops` must be pinned, and zero except for its function, which must be callable until it has been
/// unregistered.
unsafe fn register(ops: *mut bindings::ftrace_ops, functions: &CStr) -> Result {
    smp::may_wait()?;
    let pattern = functions.to_bytes();
    // A colon starts a command, `!` takes functions out of the filter, and a digit stands for the
    // number of a function, not for its name.
    if pattern.contains(&b':')
        || pattern.contains(&b'!')
        || pattern.first().is_some_and(u8::is_ascii_digit)
    {
        return Err(EINVAL);
    }
    // The C code writes to it.
    let mut filter = KVec::new();
    filter.extend_from_slice(functions.to_bytes_with_nul(), GFP_KERNEL)?;
    let length = c_int::try_from(functions.to_bytes().len())?;

    // An empty filter would match everything.
    if length == 0 {
        return Err(ENOENT);
    }
    // SAFETY: By the safety requirements. The filter is terminated, and copied.
    unsafe {
        // Trace neither faults of the tracer itself, nor code that RCU does not watch.
        (*ops).flags = (bindings::FTRACE_OPS_FL_RECURSION | bindings::FTRACE_OPS_FL_RCU) as c_ulong;
        let filtered = bindings::ftrace_set_filter(ops, filter.as_mut_ptr(), length, 0);
        let registered = match to_result(filtered) {
            Ok(()) => to_result(bindings::register_ftrace_function(ops)),
            Err(EINVAL) => Err(ENOENT),
            error => error,
        };
        if registered.is_err() {
            bindings::ftrace_free_filter(ops);
        }
        registered
    }
}

/// # Safety
///
/// `ops` must be that of a [`Registration<T>`] that exists until this returns, and whose
/// `tracer` is initialised.
unsafe extern "C" fn call<T: Tracer>(
    ip: c_ulong,
    parent_ip: c_ulong,
    ops: *mut bindings::ftrace_ops,
    _regs: *mut bindings::ftrace_regs,
) {
    // SAFETY: By the safety requirements. Only `tracer` is borrowed: the C code writes to the rest.
    let tracer = unsafe {
        let registration: *const Registration<T> =
            container_of!(Opaque::cast_from(ops), Registration<T>, ops);
        &(*registration).tracer
    };
    tracer.enter(ip, parent_ip);
}

#[cfg(CONFIG_RUST_FTRACE_KUNIT_TEST)]
#[macros::kunit_tests(rust_ftrace)]
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

    /// Called for each thread that is started.
    const TARGET: &CStr = c"wake_up_process";

    struct Count(Atomic<u64>);

    impl Count {
        const fn new() -> Self {
            Self(Atomic::new(0))
        }

        fn get(&self) -> u64 {
            self.0.load(Relaxed)
        }
    }

    impl Tracer for Count {
        fn enter(&self, ip: usize, parent_ip: usize) {
            if ip != 0 && parent_ip != 0 {
                self.0.fetch_add(1, Relaxed);
            }
        }
    }

    fn start_threads() -> Result {
        kthread::on_any_cpu(2, |_| {}, || {})
    }

    #[test]
    fn a_missing_function_is_named() {
        let count = Count::new();
        for (functions, error) in [
            (c"rust_ftrace_no_such_function", ENOENT),
            (c"rust_ftrace_no_such_*", ENOENT),
            (c"", ENOENT),
            (c"wake_up_process:mod:ext4", EINVAL),
            (c"!wake_up_process", EINVAL),
            (c"!*", EINVAL),
            (c"1", EINVAL),
        ] {
            assert_eq!(traced(functions, &count, || {}), Err(error));
        }
        assert_eq!(count.get(), 0);
    }

    #[test]
    fn refused_with_interrupts_disabled() {
        let count = Count::new();
        let interrupts = local_interrupt_disable();
        let refused = traced(TARGET, &count, || {});
        drop(interrupts);
        assert_eq!(refused, Err(EDEADLK));
    }

    // Assertions come after the scopes: one that fails ends the thread without destructors, so what
    // is on its stack would stay registered.

    #[test]
    fn fires_while_registered() -> Result {
        let count = Count::new();
        start_threads()?;
        assert_eq!(count.get(), 0);
        let grew = traced(TARGET, &count, || -> Result<u32> {
            let mut grew = 0;
            for _ in 0..3 {
                let before = count.get();
                start_threads()?;
                grew += u32::from(count.get() >= before + 2);
            }
            Ok(grew)
        })??;
        let after = count.get();
        assert_eq!(grew, 3);
        start_threads()?;
        assert_eq!(count.get(), after);
        Ok(())
    }

    #[test]
    fn matches_patterns() -> Result {
        let count = Count::new();
        traced(c"wake_up_proces*", &count, start_threads)??;
        assert!(count.get() >= 2);
        Ok(())
    }

    #[test]
    fn two_at_once() -> Result {
        let (one, other) = (Count::new(), Count::new());
        let (before, gone) = traced(TARGET, &one, || -> Result<(u64, u64)> {
            traced(TARGET, &other, start_threads)??;
            let seen = (one.get(), other.get());
            start_threads()?;
            Ok(seen)
        })??;
        assert!(before >= 2 && gone >= 2);
        assert_eq!(other.get(), gone);
        assert!(one.get() >= before + 2);
        Ok(())
    }

    #[test]
    fn comes_and_goes_while_it_fires() -> Result {
        let count = Count::new();
        kthread::attach_and_detach_while(|| traced(TARGET, &count, || {}), start_threads)
    }
}
