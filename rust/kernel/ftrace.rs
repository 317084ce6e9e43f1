// SPDX-License-Identifier: GPL-2.0

//! Function tracing: code that runs whenever a kernel function is entered.
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
    types::Opaque, //
};

/// Code to run when a traced function is entered.
///
/// A tracer must be `'static`, because a leaked [`Registration`] stays registered.
pub trait Tracer: Sync + 'static {
    /// Called each time, on the CPU that enters the function. `ip` is at its start, `parent_ip`
    /// is where it returns to.
    ///
    /// # Context
    ///
    /// That of the function, which may be a hard interrupt, with preemption disabled: it must not
    /// sleep. Functions that it causes to be entered are not traced.
    fn enter(&self, ip: usize, parent_ip: usize);
}

/// Traces functions as long as it exists.
///
/// Dropping it stops tracing and waits until no CPU runs the tracer any more, so it sleeps. A
/// module must not leak a registration: CPUs would call code that is gone.
///
/// # Examples
///
/// ```
/// use kernel::ftrace::{Registration, Tracer};
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
/// let counting = KBox::pin_init(
///     Registration::new(c"wake_up_process", Count(Atomic::new(0))),
///     GFP_KERNEL,
/// )?;
/// // Starting threads wakes them.
/// kthread::on_any_cpu(2, |_number| {}, || {})?;
/// assert!(counting.tracer().0.load(Relaxed) >= 2);
/// # Ok::<(), Error>(())
/// ```
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
    /// It is a name, or a pattern as in the file `set_ftrace_filter`, see
    /// `Documentation/trace/ftrace.rst`.
    ///
    /// # Context
    ///
    /// May sleep.
    ///
    /// # Errors
    ///
    /// [`ENOENT`] when no traceable function matches, [`EINVAL`] when there is a colon in
    /// the pattern, [`ENODEV`] when tracing has been disabled permanently, [`EBUSY`] when it is
    /// disabled by the sysctl `ftrace_enabled`, [`EDEADLK`] when called with interrupts
    /// disabled or from an interrupt, [`ENOMEM`] when out of memory.
    pub fn new(functions: &CStr, tracer: T) -> impl PinInit<Self, Error> + use<'_, T> {
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
    pub fn tracer(&self) -> &T {
        &self.tracer
    }
}

#[pinned_drop]
impl<T: Tracer> PinnedDrop for Registration<T> {
    fn drop(self: Pin<&mut Self>) {
        let ops = self.ops.get();
        // SAFETY: By the type invariant it is registered. This waits until no CPU is in the tracer;
        // then nobody uses the filter any more.
        unsafe {
            bindings::unregister_ftrace_function(ops);
            bindings::ftrace_free_filter(ops);
        }
    }
}

/// # Safety
///
/// `ops` must be pinned, and zero except for its function, which must be callable until it has been
/// unregistered.
unsafe fn register(ops: *mut bindings::ftrace_ops, functions: &CStr) -> Result {
    smp::may_wait()?;
    // A colon would start a command.
    if functions.to_bytes().contains(&b':') {
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
        sync::{
            atomic::{
                Atomic,
                Relaxed, //
            },
            Arc, //
        }, //
    };

    /// Called for each thread that is started.
    const TARGET: &CStr = c"wake_up_process";

    #[derive(Clone)]
    struct Count(Arc<Atomic<u64>>);

    impl Count {
        fn new() -> Result<Self> {
            Ok(Self(Arc::new(Atomic::new(0), GFP_KERNEL)?))
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

    fn trace(functions: &CStr, count: &Count) -> Result<Pin<KBox<Registration<Count>>>> {
        KBox::pin_init(Registration::new(functions, count.clone()), GFP_KERNEL)
    }

    fn start_threads() -> Result {
        kthread::on_any_cpu(2, |_| {}, || {})
    }

    #[test]
    fn a_missing_function_is_named() -> Result {
        let count = Count::new()?;
        for (functions, error) in [
            (c"lazy_map_no_such_function", ENOENT),
            (c"lazy_map_no_such_*", ENOENT),
            (c"", ENOENT),
            (c"wake_up_process:mod:ext4", EINVAL),
        ] {
            assert_eq!(trace(functions, &count).err(), Some(error));
        }
        Ok(())
    }

    #[test]
    fn refused_with_interrupts_disabled() -> Result {
        let count = Count::new()?;
        let place = KBox::new_uninit(GFP_KERNEL)?;
        let interrupts = local_interrupt_disable();
        let refused = place.write_pin_init(Registration::new(TARGET, count));
        drop(interrupts);
        assert_eq!(refused.err(), Some(EDEADLK));
        Ok(())
    }

    #[test]
    fn fires_while_registered() -> Result {
        let count = Count::new()?;
        start_threads()?;
        assert_eq!(count.get(), 0);
        let traced = trace(TARGET, &count)?;
        for _ in 0..3 {
            let before = count.get();
            start_threads()?;
            assert!(count.get() >= before + 2);
        }
        assert!(traced.tracer().get() >= 6);
        drop(traced);
        let after = count.get();
        start_threads()?;
        assert_eq!(count.get(), after);
        Ok(())
    }

    #[test]
    fn matches_patterns() -> Result {
        let count = Count::new()?;
        let traced = trace(c"wake_up_proces*", &count)?;
        start_threads()?;
        drop(traced);
        assert!(count.get() >= 2);
        Ok(())
    }

    #[test]
    fn two_at_once() -> Result {
        let (one, other) = (Count::new()?, Count::new()?);
        let (first, second) = (trace(TARGET, &one)?, trace(TARGET, &other)?);
        start_threads()?;
        assert!(one.get() >= 2 && other.get() >= 2);
        drop(first);
        let (gone, there) = (one.get(), other.get());
        start_threads()?;
        assert_eq!(one.get(), gone);
        assert!(other.get() >= there + 2);
        drop(second);
        Ok(())
    }

    #[test]
    fn comes_and_goes_while_it_fires() -> Result {
        let count = Count::new()?;
        kthread::attach_and_detach_while(|| trace(TARGET, &count), start_threads)
    }
}
