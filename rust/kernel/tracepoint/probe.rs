// SPDX-License-Identifier: GPL-2.0

//! Probes: code that runs whenever a kernel tracepoint is passed.
//!
//! It is the counterpart of [`declare_trace!`](crate::declare_trace), which makes Rust code pass a
//! tracepoint. Nothing like it is known to have been posted. It has the shape of other callbacks of
//! this crate: a scope that borrows, like `ScopedHrTimerPointer`, above a registration whose
//! constructor is unsafe, like [`irq::Registration`](crate::irq::Registration).
//!
//! C header: [`include/linux/tracepoint.h`](srctree/include/linux/tracepoint.h)

use crate::{
    bindings,
    error::to_result,
    ffi::{
        c_char,
        c_int,
        c_uint,
        c_ulong,
        c_void, //
    },
    prelude::*,
    smp,
    str::CStr, //
};
use core::{
    marker::{
        PhantomData,
        PhantomPinned, //
    },
    ptr::{
        self,
        NonNull, //
    },
};

/// A tracepoint that a [`Probe`] can be attached to.
///
/// Implemented by [`declare_tracepoints!`](crate::declare_tracepoints), not by hand.
///
/// # Safety
///
/// What [`Self::callback()`] returns must be callable as a probe of the tracepoint called
/// [`Self::NAME`], with a pointer to a `P` as its data.
pub unsafe trait Tracepoint: Sized {
    /// The tracepoint's name, without `trace_`.
    const NAME: &'static CStr;

    /// What the tracepoint passes to its probes.
    type Args;

    /// A token of what is always true where the tracepoint is, such as
    /// [`&LocalInterruptDisabled`](crate::interrupt::LocalInterruptDisabled). `()` if nothing is.
    type Context<'a>;

    /// The C function to register for the probe type `P`.
    fn callback<P: Probe<Self>>() -> *mut c_void;
}

/// Code to run when the tracepoint `T` is passed.
///
/// [`attached()`] attaches one.
pub trait Probe<T: Tracepoint>: Sync {
    /// Called each time, by the task or interrupt that passes the tracepoint. `context` says what
    /// is always true there.
    ///
    /// # Context
    ///
    /// That of the tracepoint, which may be a hard interrupt or an exception handler: it must not
    /// sleep. Preemption need not be disabled, so the CPU may change while it runs. It may be
    /// entered again on the same CPU while it runs, by an interrupt, or if what it does passes the
    /// tracepoint: a lock that it takes must be one that interrupts are disabled for.
    ///
    /// It may be passed with locks held, as `sched_switch` is with that of the runqueue.
    /// There it can neither wake anybody nor print.
    fn fire(&self, args: &T::Args, context: T::Context<'_>);
}

impl<T: Tracepoint, P: Probe<T>> Probe<T> for &P {
    #[inline]
    fn fire(&self, args: &T::Args, context: T::Context<'_>) {
        (**self).fire(args, context);
    }
}

/// Calls `scope` while `probe` is attached to the tracepoint `T`; returns what `scope` returns.
///
/// The probe is detached when this function returns, and no CPU runs it any more. So it may borrow.
/// What `scope` returns must be [`Send`], so it cannot be a guard that keeps interrupts disabled,
/// or a lock held, while this function waits for that.
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
/// # #[cfg(CONFIG_SMP)] // The tracepoint exists only with SMP.
/// # {
/// use kernel::interrupt::LocalInterruptDisabled;
/// use kernel::smp;
/// use kernel::sync::atomic::{Atomic, Relaxed};
/// use kernel::tracepoint::probe::{attached, CsdFunctionEntry, Probe, Tracepoint};
///
/// struct Count(Atomic<i32>);
///
/// impl Probe<CsdFunctionEntry> for Count {
///     fn fire(
///         &self,
///         _args: &<CsdFunctionEntry as Tracepoint>::Args,
///         _interrupts: &LocalInterruptDisabled,
///     ) {
///         self.0.fetch_add(1, Relaxed);
///     }
/// }
///
/// let count = Count(Atomic::new(0));
/// attached::<CsdFunctionEntry, _, _>(&count, || smp::on_each_cpu(|_, _| {}))??;
/// assert!(count.0.load(Relaxed) > 0);
/// # }
/// # Ok::<(), Error>(())
/// ```
pub fn attached<T: Tracepoint, P: Probe<T>, R: Send>(
    probe: &P,
    scope: impl FnOnce() -> R,
) -> Result<R> {
    // SAFETY: It is dropped when this function returns.
    pin_init::stack_try_pin_init!(let _registration =? unsafe {
        Registration::<T, &P>::new(probe)
    });
    Ok(scope())
}

/// A probe that is attached to the tracepoint `T` as long as this object exists.
///
/// Dropping it detaches the probe and waits until no CPU runs it any more, so neither the probe
/// nor its code can go away under a CPU that is inside it. Dropping sleeps.
///
/// # Invariants
///
/// `T::callback::<P>()` is registered for `tracepoint` with a pointer to `probe` as its data.
#[pin_data(PinnedDrop)]
pub struct Registration<T: Tracepoint, P: Probe<T>> {
    tracepoint: NonNull<bindings::tracepoint>,
    probe: P,
    _declaration: PhantomData<fn(T)>,

    /// The tracepoint keeps the address of `probe`.
    #[pin]
    _pin: PhantomPinned,
}

// SAFETY: A tracepoint can be unregistered from any task, and is never freed, because it belongs to
// the kernel image.
unsafe impl<T: Tracepoint, P: Probe<T> + Send> Send for Registration<T, P> {}

// SAFETY: A shared registration gives access to nothing but a shared `P`, which is `Sync`.
unsafe impl<T: Tracepoint, P: Probe<T>> Sync for Registration<T, P> {}

impl<T: Tracepoint, P: Probe<T>> Registration<T, P> {
    /// Attaches `probe`; it may run before this returns.
    ///
    /// # Safety
    ///
    /// Callers must not `mem::forget()` the registration or otherwise prevent its `Drop`
    /// implementation from running before anything that `probe` borrows is gone, and before a
    /// module to which the code of `probe` belongs is unloaded.
    ///
    /// # Context
    ///
    /// May sleep.
    ///
    /// # Errors
    ///
    /// [`ENOENT`] when the kernel image has no tracepoint with that name: only those are searched,
    /// because one that belongs to a module could vanish with it. [`EDEADLK`] when called with
    /// interrupts disabled or from an interrupt, [`ENOMEM`] when out of memory.
    pub unsafe fn new(probe: P) -> impl PinInit<Self, Error> {
        try_pin_init!(&this in Self {
            tracepoint: smp::may_wait().and_then(|()| find(T::NAME).ok_or(ENOENT))?,
            probe,
            _declaration: PhantomData,
            _pin: PhantomPinned,
            // INVARIANT: Registered as the last step, with the address that `probe` keeps because
            // `Self` is pinned.
            _: {
                // SAFETY: All fields are initialised, so the probe may fire at once. The tracepoint
                // comes from the kernel image, and by the safety requirements of `Tracepoint` the
                // callback fits it. The data stays valid until `drop()` has synchronised.
                to_result(unsafe {
                    bindings::tracepoint_probe_register(
                        tracepoint.as_ptr(),
                        T::callback::<P>(),
                        (&raw mut (*this.as_ptr()).probe).cast(),
                    )
                })?;
            },
        }? Error)
    }

    /// The probe.
    #[inline]
    pub fn probe(&self) -> &P {
        &self.probe
    }
}

#[pinned_drop]
impl<T: Tracepoint, P: Probe<T>> PinnedDrop for Registration<T, P> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the type invariant this very combination is registered. Afterwards no CPU
        // starts the probe, and after the synchronisation none is inside it.
        unsafe {
            bindings::tracepoint_probe_unregister(
                self.tracepoint.as_ptr(),
                T::callback::<P>(),
                ptr::from_ref(&self.probe).cast_mut().cast(),
            );
            bindings::tracepoint_synchronize_unregister();
        }
    }
}

/// Searches the tracepoints of the kernel image.
fn find(name: &CStr) -> Option<NonNull<bindings::tracepoint>> {
    struct Search<'a> {
        name: &'a CStr,
        found: Option<NonNull<bindings::tracepoint>>,
    }

    /// # Safety
    ///
    /// `tracepoint` must be valid, and `search` point to a [`Search`] that nobody else uses.
    unsafe extern "C" fn compare(tracepoint: *mut bindings::tracepoint, search: *mut c_void) {
        // SAFETY: By the safety requirements.
        let search = unsafe { &mut *search.cast::<Search<'_>>() };
        // SAFETY: By the safety requirements; a tracepoint's name is a string that is never freed.
        let name = unsafe { CStr::from_char_ptr((*tracepoint).name.cast::<c_char>()) };
        if name == search.name {
            search.found = NonNull::new(tracepoint);
        }
    }

    let mut search = Search { name, found: None };
    // SAFETY: `compare` is called with the tracepoints of the kernel image only and with the
    // pointer given here, and never after this returns.
    unsafe {
        bindings::for_each_kernel_tracepoint(Some(compare), (&raw mut search).cast::<c_void>())
    };
    search.found
}

/// Declares tracepoints of the kernel image that probes can be attached to.
///
/// The arguments are those of the tracepoint's `TP_PROTO()`. Each declaration is compared with the
/// C prototype when it is compiled, so the header with the `TRACE_EVENT()` must be part of
/// `rust/bindings/bindings_helper.h`.
///
/// `unsafe with interrupts_disabled` after the arguments makes probes get a
/// [`LocalInterruptDisabled`](crate::interrupt::LocalInterruptDisabled). Interrupts must be
/// disabled wherever the kernel passes the tracepoint, and stay so while probes run, and it must
/// not be passed in non-maskable interrupts. A comment has to say why that is so.
///
/// # Examples
///
/// ```ignore
/// kernel::declare_tracepoints! {
///     /// Passed when a page fault in kernel mode is about to be handled.
///     pub enum PageFaultKernel = page_fault_kernel(
///         address: c_ulong, regs: *mut bindings::pt_regs, cause: c_ulong,
///     );
///
///     /// Passed before a function runs that a CPU asked for.
///     // SAFETY: Such functions are called with interrupts disabled.
///     pub enum CsdFunctionEntry = csd_function_entry(
///         func: bindings::smp_call_func_t, csd: *mut bindings::call_single_data_t,
///     ) unsafe with interrupts_disabled;
/// }
/// ```
#[macro_export]
macro_rules! declare_tracepoints {
    (@type $life:lifetime) => {
        ()
    };
    (@type $life:lifetime interrupts_disabled) => {
        &$life $crate::interrupt::LocalInterruptDisabled
    };
    (@token) => {
        ()
    };
    (@token interrupts_disabled) => {
        // SAFETY: Whoever has declared the tracepoint has made sure of it.
        unsafe { $crate::interrupt::LocalInterruptDisabled::assume_disabled() }
    };
    ($(
        $(#[$attr:meta])*
        $vis:vis enum $type:ident = $name:ident($($arg:ident: $arg_type:ty),* $(,)?)
            $(unsafe with $context:ident)?;
    )*) => {$(
        $(#[$attr])*
        $vis enum $type {}

        $crate::macros::paste! {
            const _: unsafe extern "C" fn(*mut $crate::ffi::c_void, $($arg_type),*)
                -> $crate::ffi::c_int = $crate::bindings::[< __traceiter_ $name >];
        }

        // SAFETY: The arguments have just been compared with the C prototype. The callback reads
        // its data as a `P`, as the trait asks.
        unsafe impl $crate::tracepoint::probe::Tracepoint for $type {
            const NAME: &'static $crate::str::CStr = $crate::c_str!(stringify!($name));

            type Args = ($($arg_type,)*);

            type Context<'a> = $crate::declare_tracepoints!(@type 'a $($context)?);

            fn callback<P: $crate::tracepoint::probe::Probe<Self>>() -> *mut $crate::ffi::c_void {
                /// # Safety
                ///
                /// `data` must point to a valid `P` that may be shared.
                unsafe extern "C" fn callback<P: $crate::tracepoint::probe::Probe<$type>>(
                    data: *mut $crate::ffi::c_void,
                    $($arg: $arg_type),*
                ) {
                    // SAFETY: By the safety requirements.
                    let probe = unsafe { &*data.cast_const().cast::<P>() };
                    probe.fire(
                        &($($arg,)*),
                        $crate::declare_tracepoints!(@token $($context)?),
                    );
                }

                callback::<P> as *mut $crate::ffi::c_void
            }
        }
    )*};
}

declare_tracepoints! {
    /// Passed before a function runs that another CPU, or this one, asked for with
    /// `smp_call_function()` and its relatives.
    ///
    /// C header: [`include/trace/events/csd.h`](srctree/include/trace/events/csd.h)
    // SAFETY: Such functions are called with interrupts disabled, see `csd_do_func()`.
    pub enum CsdFunctionEntry = csd_function_entry(
        func: bindings::smp_call_func_t,
        csd: *mut bindings::call_single_data_t,
    ) unsafe with interrupts_disabled;

    /// Passed when a page fault that was taken in kernel mode is about to be handled. The arguments
    /// are the address, the registers and the architecture's error code. riscv and x86 have it.
    ///
    /// Interrupts may be enabled: as they are in the code that faulted, or already enabled for it.
    ///
    /// C header: [`include/trace/events/exceptions.h`](srctree/include/trace/events/exceptions.h)
    pub enum PageFaultKernel = page_fault_kernel(
        address: c_ulong,
        regs: *mut bindings::pt_regs,
        error_code: c_ulong,
    );

    /// Passed before the handler of an interrupt runs. Interrupts from other CPUs have one, too, on
    /// architectures that treat them like any other interrupt.
    ///
    /// Interrupts are disabled, but there is no token of that: on architectures that have them, it
    /// is also passed in non-maskable interrupts, where no lock may be taken.
    ///
    /// C header: [`include/trace/events/irq.h`](srctree/include/trace/events/irq.h)
    pub enum IrqHandlerEntry = irq_handler_entry(
        irq: c_int,
        action: *mut bindings::irqaction,
    );

    /// Passed when a CPU switches from `prev` to `next`, with the lock of its runqueue held.
    ///
    /// C header: [`include/trace/events/sched.h`](srctree/include/trace/events/sched.h)
    // SAFETY: `__schedule()` disables interrupts before it takes that lock.
    pub enum SchedSwitch = sched_switch(
        preempt: bool,
        prev: *mut bindings::task_struct,
        next: *mut bindings::task_struct,
        prev_state: c_uint,
    ) unsafe with interrupts_disabled;

    /// Passed when a task becomes runnable.
    ///
    /// Interrupts may be enabled: a task that wakes itself takes no lock, see `try_to_wake_up()`.
    ///
    /// C header: [`include/trace/events/sched.h`](srctree/include/trace/events/sched.h)
    pub enum SchedWakeup = sched_wakeup(task: *mut bindings::task_struct);

    /// Passed before a worker runs the function of a work item, with interrupts enabled.
    ///
    /// C header: [`include/trace/events/workqueue.h`](srctree/include/trace/events/workqueue.h)
    pub enum WorkqueueExecuteStart = workqueue_execute_start(
        work: *mut bindings::work_struct,
    );
}

#[cfg(CONFIG_RUST_TRACEPOINT_KUNIT_TEST)]
#[macros::kunit_tests(rust_tracepoint_probe)]
mod tests {
    use super::*;
    use crate::{
        interrupt::{
            local_interrupt_disable,
            LocalInterruptDisabled, //
        },
        kthread,
        sync::atomic::{
            Atomic,
            Relaxed, //
        }, //
    };

    /// A tracepoint that does not exist.
    enum Missing {}

    // SAFETY: No tracepoint has this name.
    unsafe impl Tracepoint for Missing {
        const NAME: &'static CStr = c"rust_probe_no_such_tracepoint";

        type Args = ();

        type Context<'a> = ();

        fn callback<P: Probe<Self>>() -> *mut c_void {
            ptr::null_mut()
        }
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

    impl Probe<Missing> for Count {
        fn fire(&self, _args: &(), _context: ()) {}
    }

    impl Probe<SchedSwitch> for Count {
        fn fire(
            &self,
            _args: &<SchedSwitch as Tracepoint>::Args,
            _interrupts: &LocalInterruptDisabled,
        ) {
            // SAFETY: It only reads the state of the calling CPU.
            let disabled = unsafe { bindings::irqs_disabled() };
            // A wrong token results in an impossible number of calls.
            self.0
                .fetch_add(if disabled { 1 } else { 1 << 32 }, Relaxed);
        }
    }

    fn attached_to_switches<R: Send>(count: &Count, scope: impl FnOnce() -> R) -> Result<R> {
        attached::<SchedSwitch, _, _>(count, scope)
    }

    /// Makes the scheduler switch to another task and back.
    fn switch() -> Result {
        kthread::in_thread(|_| {}, || {})
    }

    #[test]
    fn a_missing_one_is_named() {
        let mut ran = false;
        let refused = attached::<Missing, _, _>(&Count::new(), || ran = true);
        assert_eq!((refused, ran), (Err(ENOENT), false));
    }

    #[test]
    fn refused_with_interrupts_disabled() {
        let count = Count::new();
        let interrupts = local_interrupt_disable();
        let refused = attached_to_switches(&count, || {});
        drop(interrupts);
        assert_eq!(refused, Err(EDEADLK));
    }

    // Assertions come after the scopes: one that fails ends the thread without destructors, so what
    // is on its stack would stay registered.

    #[test]
    fn fires_while_attached() -> Result {
        let count = Count::new();
        switch()?;
        assert_eq!(count.get(), 0);
        let grew = attached_to_switches(&count, || -> Result<u32> {
            let mut grew = 0;
            for _ in 0..3 {
                let before = count.get();
                switch()?;
                grew += u32::from(count.get() > before);
            }
            Ok(grew)
        })??;
        let after = count.get();
        assert_eq!(grew, 3);
        switch()?;
        assert_eq!(count.get(), after);
        assert!(after < 1 << 32);
        Ok(())
    }

    #[test]
    fn two_at_once() -> Result {
        let (one, other) = (Count::new(), Count::new());
        let (before, gone) = attached_to_switches(&one, || -> Result<(u64, u64)> {
            attached_to_switches(&other, switch)??;
            let seen = (one.get(), other.get());
            switch()?;
            Ok(seen)
        })??;
        assert!(before > 0 && gone > 0);
        assert_eq!(other.get(), gone);
        assert!(one.get() > before);
        Ok(())
    }

    #[test]
    fn comes_and_goes_while_it_fires() -> Result {
        let count = Count::new();
        kthread::attach_and_detach_while(|| attached_to_switches(&count, || {}), switch)?;
        assert!(count.get() < 1 << 32);
        Ok(())
    }
}
