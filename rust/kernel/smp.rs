// SPDX-License-Identifier: GPL-2.0

//! Calling a function on other CPUs.
//!
//! The functions wait until the call has finished everywhere, so closures may borrow from the
//! caller and nothing is allocated. They refuse to run where a CPU must not wait for others. An
//! [`AsyncCall`] does not wait, and can be started even there.
//!
//! Closures run with interrupts disabled, and get a token of that: with it
//! `SpinLockIrq::lock_with()` takes a lock without disabling them once more.
//!
//! [`call_function_single()`] has the shape of `Cpu::call()` in [an earlier proposal]: a closure
//! that runs once, and what it returns. That proposal had no other functions. Once the online CPUs
//! are in the `cpumask` module, as [proposed there], [`num_online_cpus()`] is their weight.
//!
//! C header: [`include/linux/smp.h`](srctree/include/linux/smp.h)
//!
//! [an earlier proposal]: https://github.com/Rust-for-Linux/linux/pull/851
//! [proposed there]: https://lore.kernel.org/rust-for-linux/20251105-cpumask-iter-v1-0-7536f906d7ed@gmail.com/

use crate::{
    bindings,
    cpu::{
        nr_cpu_ids,
        CpuId, //
    },
    cpumask::Cpumask,
    error::to_result,
    ffi::c_void,
    interrupt::LocalInterruptDisabled,
    prelude::*,
    processor::cpu_relax,
    sync::atomic::{
        Acquire,
        Atomic,
        Release, //
    },
    types::Opaque, //
};
use core::{
    cell::Cell,
    ptr, //
};

/// The number of online CPUs, which changes when one goes online or offline.
///
/// # Context
///
/// Any.
///
/// # Examples
///
/// ```
/// use kernel::cpu::nr_cpu_ids;
/// use kernel::smp;
///
/// assert!((1..=nr_cpu_ids()).contains(&smp::num_online_cpus()));
/// ```
#[inline]
pub fn num_online_cpus() -> u32 {
    online_mask().weight()
}

/// Runs `f` once on every online CPU, including the calling one, and waits for all of them.
///
/// `f` gets the CPU that it runs on, and a token that interrupts are disabled there. On the other
/// CPUs it runs in a hard interrupt, or in a task that is about to give up the CPU; on the calling
/// one it is a plain call. It must be short and must not sleep.
///
/// # Context
///
/// Process context with interrupts enabled. A caller that waits with interrupts disabled deadlocks
/// with another one that waits for it.
///
/// # Errors
///
/// [`EDEADLK`] when called from another context; then `f` has not run.
///
/// # Examples
///
/// ```
/// use kernel::smp;
/// use kernel::sync::atomic::{Atomic, Relaxed};
///
/// let calls = Atomic::new(0i32);
/// smp::on_each_cpu(|_cpu, _interrupts| {
///     calls.fetch_add(1, Relaxed);
/// })?;
/// assert!(calls.load(Relaxed) >= 1);
/// # Ok::<(), Error>(())
/// ```
pub fn on_each_cpu<F: Fn(CpuId, &LocalInterruptDisabled) + Sync>(f: F) -> Result {
    on_each_cpu_mask(online_mask(), f)
}

/// Runs `f` once on every CPU of `mask` that is online, and waits for all of them.
///
/// See [`on_each_cpu()`].
///
/// # Context
///
/// As for [`on_each_cpu()`].
///
/// # Errors
///
/// As for [`on_each_cpu()`].
///
/// # Examples
///
/// ```
/// use kernel::cpu::CpuId;
/// use kernel::cpumask::CpumaskVar;
/// use kernel::smp;
///
/// let mut mask = CpumaskVar::new_zero(GFP_KERNEL)?;
/// mask.set(CpuId::current());
/// smp::on_each_cpu_mask(&mask, |cpu, _| pr_debug!("hello from CPU {}\n", cpu.as_u32()))?;
/// # Ok::<(), Error>(())
/// ```
pub fn on_each_cpu_mask<F: Fn(CpuId, &LocalInterruptDisabled) + Sync>(
    mask: &Cpumask,
    f: F,
) -> Result {
    may_wait()?;
    // SAFETY: `call::<F>` expects a pointer to an `F` that may be shared between CPUs, and because
    // of `wait`, `f` outlives all calls. It is called with interrupts disabled. No function for a
    // condition means no condition. The mask is valid as long as it is borrowed.
    unsafe {
        bindings::on_each_cpu_cond_mask(None, Some(call::<F>), info(&f), true, mask.as_raw())
    };
    Ok(())
}

/// Runs `f` once on every online CPU, waits for all of them, and collects what it returns.
///
/// The result of each CPU is in `results` at the number of that CPU; the rest is [`None`].
/// See [`on_each_cpu()`].
///
/// # Context
///
/// As for [`on_each_cpu()`].
///
/// # Errors
///
/// [`EINVAL`] when `results` has less than [`nr_cpu_ids()`] elements, and those of
/// [`on_each_cpu()`]; then `f` has not run, and `results` is unchanged.
///
/// # Examples
///
/// ```
/// use kernel::cpu::{nr_cpu_ids, CpuId};
/// use kernel::smp;
///
/// let mut results = KVec::from_elem(None, nr_cpu_ids() as usize, GFP_KERNEL)?;
/// smp::collect_on_each_cpu(&mut results, |cpu, _| 2 * cpu.as_u32())?;
/// assert_eq!(results[0], Some(0));
/// # Ok::<(), Error>(())
/// ```
pub fn collect_on_each_cpu<T: Send, F: Fn(CpuId, &LocalInterruptDisabled) -> T + Sync>(
    results: &mut [Option<T>],
    f: F,
) -> Result {
    /// The start of the results, for all CPUs.
    struct Slots<T>(*mut Option<T>);

    // SAFETY: No CPU uses another one's slot.
    unsafe impl<T: Send> Sync for Slots<T> {}

    impl<T> Slots<T> {
        fn of(&self, cpu: CpuId) -> *mut Option<T> {
            self.0.wrapping_add(cpu.as_u32() as usize)
        }
    }

    may_wait()?;
    if results.len() < nr_cpu_ids() as usize {
        return Err(EINVAL);
    }
    results.fill_with(|| None);
    let slots = Slots(results.as_mut_ptr());
    on_each_cpu(|cpu, interrupts| {
        let result = Some(f(cpu, interrupts));
        // SAFETY: There is a slot for each CPU. This slot is in a mutable borrow of ours, is not
        // used by any other CPU, and used by this one only once.
        unsafe { *slots.of(cpu) = result };
    })
}

/// Runs `f` once on every online CPU except the calling one, and waits for all of them.
///
/// This is `smp_call_function()`, which itself determines the calling CPU. See [`on_each_cpu()`].
///
/// # Context
///
/// As for [`on_each_cpu()`].
///
/// # Errors
///
/// As for [`on_each_cpu()`].
///
/// # Examples
///
/// ```
/// use kernel::smp;
///
/// smp::call_function(|cpu, _| pr_debug!("hello from CPU {}\n", cpu.as_u32()))?;
/// # Ok::<(), Error>(())
/// ```
pub fn call_function<F: Fn(CpuId, &LocalInterruptDisabled) + Sync>(f: F) -> Result {
    may_wait()?;
    // SAFETY: `call::<F>` expects a pointer to an `F` that may be shared between CPUs, and because
    // of the last argument `f` outlives all calls. It is called with interrupts disabled.
    unsafe { bindings::smp_call_function(Some(call::<F>), info(&f), 1) };
    Ok(())
}

/// Runs `f` on `cpu`, and waits for what it returns.
///
/// See [`on_each_cpu()`].
///
/// # Context
///
/// As for [`on_each_cpu()`].
///
/// # Errors
///
/// [`ENXIO`] when `cpu` is offline, and those of [`on_each_cpu()`]; then `f` has not run.
///
/// # Examples
///
/// ```
/// use kernel::cpu::CpuId;
/// use kernel::smp;
///
/// let here = CpuId::current();
/// assert_eq!(smp::call_function_single(here, |cpu, _| cpu.as_u32())?, here.as_u32());
/// # Ok::<(), Error>(())
/// ```
#[allow(
    clippy::as_underscore,
    reason = "the last argument is a bool or an int"
)]
pub fn call_function_single<R: Send, F: FnOnce(CpuId, &LocalInterruptDisabled) -> R + Send>(
    cpu: CpuId,
    f: F,
) -> Result<R> {
    may_wait()?;
    let once = Once::new(|(cpu, interrupts): (CpuId, &LocalInterruptDisabled)| f(cpu, interrupts));
    let f = |cpu: CpuId, interrupts: &LocalInterruptDisabled| once.call((cpu, interrupts));
    // SAFETY: The function expects a pointer to a closure that may be shared between CPUs, which
    // it gets, and is called with interrupts disabled. Because of the last argument the C function
    // returns only after it, so `f` outlives the call. The C function checks that `cpu` is online.
    to_result(unsafe {
        bindings::smp_call_function_single(cpu.into(), Some(function_of(&f)), info(&f), true as _)
    })?;
    once.result().ok_or(ENXIO)
}

/// A closure that somebody else calls once while its owner waits, and what it returns.
pub(crate) struct Once<F, R> {
    f: Cell<Option<F>>,
    result: Cell<Option<R>>,
}

// SAFETY: Only this crate uses it, and never two at a time: first one caller, perhaps on another
// CPU or in another thread, and once that has finished the owner. The bounds let both have the
// contents.
unsafe impl<F: Send, R: Send> Sync for Once<F, R> {}

impl<F, R> Once<F, R> {
    pub(crate) fn new(f: F) -> Self {
        Self {
            f: Cell::new(Some(f)),
            result: Cell::new(None),
        }
    }

    /// Calls the closure, the first time.
    pub(crate) fn call<T>(&self, argument: T)
    where
        F: FnOnce(T) -> R,
    {
        if let Some(f) = self.f.take() {
            self.result.set(Some(f(argument)));
        }
    }

    /// What the closure has returned, if it was called.
    pub(crate) fn result(self) -> Option<R> {
        self.result.into_inner()
    }
}

/// Makes `count` asynchronous calls of `f`, none of which is started, for the time that `scope`
/// runs.
///
/// `scope` and what it makes other CPUs do can start them. This function returns what `scope`
/// returns, after all calls that were started have finished. So `f` may borrow. What `scope`
/// returns must be [`Send`], so it cannot be a guard that keeps interrupts disabled, or a lock
/// held, while this function waits.
///
/// # Context
///
/// As for [`on_each_cpu()`].
///
/// # Errors
///
/// [`ENOMEM`] when there is no memory for the calls, and those of [`on_each_cpu()`]; then `scope`
/// has not run.
///
/// # Examples
///
/// ```
/// use kernel::cpu::CpuId;
/// use kernel::smp;
/// use kernel::sync::atomic::{Atomic, Relaxed};
///
/// let calls = Atomic::new(0i32);
/// smp::with_async_calls(
///     1,
///     |_cpu, _interrupts| {
///         calls.fetch_add(1, Relaxed);
///     },
///     |call| call[0].as_ref().start(CpuId::current()),
/// )??;
/// assert_eq!(calls.load(Relaxed), 1);
/// # Ok::<(), Error>(())
/// ```
pub fn with_async_calls<F: Fn(CpuId, &LocalInterruptDisabled) + Sync, R: Send>(
    count: usize,
    f: F,
    scope: impl FnOnce(&[Pin<KBox<AsyncCall<&F>>>]) -> R,
) -> Result<R> {
    may_wait()?;
    let mut calls = KVec::with_capacity(count, GFP_KERNEL)?;
    for _ in 0..count {
        // SAFETY: The calls are dropped below, before `f`, and `scope` cannot move them. None of
        // them is running by then.
        let call = unsafe { AsyncCall::new(&f) };
        calls.push(KBox::pin_init(call, GFP_KERNEL)?, GFP_KERNEL)?;
    }
    let result = scope(&calls);
    for call in &calls {
        call.spin();
    }
    Ok(result)
}

/// A function that runs on another CPU while its caller continues; see [`with_async_calls()`].
///
/// Dropping it waits until the call that was started last has finished.
///
/// # Invariants
///
/// While `state` is [`STARTED`], a CPU may use `csd` and `f`. Otherwise nobody uses `csd`.
#[pin_data(PinnedDrop)]
pub struct AsyncCall<F: Fn(CpuId, &LocalInterruptDisabled) + Sync> {
    f: F,
    /// One of the states below.
    state: Atomic<i32>,
    /// Another CPU finds the call by its address.
    #[pin]
    csd: Opaque<bindings::call_single_data_t>,
}

/// The call has not been started, or has finished.
const IDLE: i32 = 0;
/// The call has been started.
const STARTED: i32 = 1;

// SAFETY: It can be started, waited for and dropped by any task.
unsafe impl<F: Fn(CpuId, &LocalInterruptDisabled) + Sync + Send> Send for AsyncCall<F> {}

// SAFETY: `csd` belongs to the task that changed `state`, and a shared `f` may be called.
unsafe impl<F: Fn(CpuId, &LocalInterruptDisabled) + Sync> Sync for AsyncCall<F> {}

impl<F: Fn(CpuId, &LocalInterruptDisabled) + Sync> AsyncCall<F> {
    /// Makes a call of `f` that has not been started.
    ///
    /// # Safety
    ///
    /// Callers must not `mem::forget()` the call or otherwise prevent its `Drop` implementation
    /// from running before anything that `f` borrows is gone, and before a module to which the code
    /// of `f` belongs is unloaded.
    ///
    /// While the call is running it must only be dropped in process context with interrupts
    /// enabled; in particular not by `f`.
    pub unsafe fn new(f: F) -> impl PinInit<Self> {
        // INVARIANT: Nobody else has it yet.
        pin_init!(Self {
            f,
            state: Atomic::new(IDLE),
            csd <- Opaque::zeroed(),
        })
    }

    /// Makes `f` run on `cpu`, without waiting, in a context like that of [`on_each_cpu()`].
    ///
    /// # Context
    ///
    /// Any except non-maskable interrupts.
    ///
    /// # Errors
    ///
    /// [`EBUSY`] when the call has been started and has not finished, [`ENXIO`] when `cpu` is
    /// offline; then `f` does not run.
    pub fn start(self: Pin<&Self>, cpu: CpuId) -> Result {
        if self.state.cmpxchg(IDLE, STARTED, Acquire).is_err() {
            return Err(EBUSY);
        }
        let csd = self.csd.get();
        // SAFETY: By the type invariant `csd` is ours alone, until it is given away here. It is
        // pinned, and `drop()` waits until it has been used. `finish::<F>` is called with
        // interrupts disabled, and nothing else ends the state.
        let result = to_result(unsafe {
            (*csd).func = Some(finish::<F>);
            (*csd).info = ptr::from_ref(self.get_ref()).cast_mut().cast();
            bindings::smp_call_function_single_async(cpu.into(), csd)
        });
        if result.is_err() {
            // INVARIANT: It was not given away.
            self.state.store(IDLE, Release);
        }
        result
    }

    /// Whether the call has been started and has not finished.
    ///
    /// # Context
    ///
    /// Any.
    #[inline]
    pub fn is_running(&self) -> bool {
        self.state.load(Acquire) == STARTED
    }

    /// Waits until the call has finished, if it has been started.
    ///
    /// # Context
    ///
    /// As for [`on_each_cpu()`].
    ///
    /// # Errors
    ///
    /// [`EDEADLK`] when called from another context.
    pub fn wait(&self) -> Result {
        may_wait()?;
        self.spin();
        Ok(())
    }

    /// Waits even where that may take for ever: a CPU uses `csd` and `f` as long as the call is
    /// running, so to warn and go on would let it use what is gone.
    fn spin(&self) {
        crate::warn_on!(self.is_running() && may_wait().is_err());
        while self.is_running() {
            cpu_relax();
        }
    }
}

#[pinned_drop]
impl<F: Fn(CpuId, &LocalInterruptDisabled) + Sync> PinnedDrop for AsyncCall<F> {
    fn drop(self: Pin<&mut Self>) {
        self.spin();
    }
}

/// # Safety
///
/// `info` must point to an [`AsyncCall<F>`] in the state [`STARTED`], and nothing but this
/// function may end that state. Interrupts must be disabled.
unsafe extern "C" fn finish<F: Fn(CpuId, &LocalInterruptDisabled) + Sync>(info: *mut c_void) {
    // SAFETY: By the safety requirements: as long as it is in this state it is not dropped.
    let call = unsafe { &*info.cast_const().cast::<AsyncCall<F>>() };
    // SAFETY: By the safety requirements. `call.f` cannot enable them, nor keep the reference.
    let interrupts = unsafe { LocalInterruptDisabled::assume_disabled() };
    (call.f)(CpuId::current(), interrupts);
    // INVARIANT: The C code has given `csd` back before it called this function. From here on the
    // object may be gone. What is left of this function runs with interrupts disabled, so a module
    // to which it belongs is still there: unloading waits for an RCU grace period.
    call.state.store(IDLE, Release);
}

/// The online CPUs, which change when one goes online or offline.
pub(crate) fn online_mask() -> &'static Cpumask {
    // SAFETY: The mask is valid at all times.
    unsafe { Cpumask::from_raw(&raw const bindings::__cpu_online_mask) }
}

/// Refuses the contexts in which waiting for another CPU can deadlock.
pub(crate) fn may_wait() -> Result {
    // SAFETY: Both only read the state of the calling CPU.
    if unsafe { bindings::in_task() && !bindings::irqs_disabled() } {
        Ok(())
    } else {
        Err(EDEADLK)
    }
}

/// The C function to call with a pointer to this closure.
fn function_of<F: Fn(CpuId, &LocalInterruptDisabled) + Sync>(
    _f: &F,
) -> unsafe extern "C" fn(*mut c_void) {
    call::<F>
}

fn info<F: Fn(CpuId, &LocalInterruptDisabled) + Sync>(f: &F) -> *mut c_void {
    core::ptr::from_ref(f).cast_mut().cast()
}

/// # Safety
///
/// `info` must point to an `F` that stays valid and shareable until this returns. Interrupts must
/// be disabled.
unsafe extern "C" fn call<F: Fn(CpuId, &LocalInterruptDisabled) + Sync>(info: *mut c_void) {
    // SAFETY: By the safety requirements.
    let f = unsafe { &*info.cast_const().cast::<F>() };
    // SAFETY: By the safety requirements. `f` cannot enable them, nor keep the reference.
    let interrupts = unsafe { LocalInterruptDisabled::assume_disabled() };
    f(CpuId::current(), interrupts);
}

#[cfg(CONFIG_RUST_SMP_KUNIT_TEST)]
#[macros::kunit_tests(rust_smp)]
mod tests {
    use super::*;
    use crate::{
        cpumask::CpumaskVar,
        interrupt::local_interrupt_disable,
        sync::atomic::Relaxed, //
    };

    /// Calls on each CPU, and those on a CPU that was not the one given.
    fn calls() -> Result<KVec<Atomic<u32>>> {
        let mut calls = KVec::new();
        for _ in 0..nr_cpu_ids() {
            calls.push(Atomic::new(0), GFP_KERNEL)?;
        }
        Ok(calls)
    }

    fn online() -> impl Iterator<Item = CpuId> {
        (0..nr_cpu_ids())
            .filter_map(CpuId::from_u32)
            .filter(|cpu| online_mask().test(*cpu))
    }

    fn sum(calls: &[Atomic<u32>]) -> u32 {
        calls.iter().map(|calls| calls.load(Relaxed)).sum()
    }

    #[test]
    fn each_cpu_once() -> Result {
        let calls = calls()?;
        on_each_cpu(|cpu, _| {
            if cpu == CpuId::current() {
                calls[cpu.as_u32() as usize].fetch_add(1, Relaxed);
            }
        })?;
        assert_eq!(sum(&calls), num_online_cpus());
        assert!(calls.iter().all(|calls| calls.load(Relaxed) <= 1));
        Ok(())
    }

    #[test]
    fn others_once() -> Result {
        let calls = calls()?;
        call_function(|cpu, _| {
            calls[cpu.as_u32() as usize].fetch_add(1, Relaxed);
        })?;
        assert_eq!(sum(&calls), num_online_cpus() - 1);
        Ok(())
    }

    #[test]
    fn one_cpu() -> Result {
        for cpu in (0..nr_cpu_ids()).filter_map(CpuId::from_u32) {
            // It may own what it takes and what it returns.
            let number = KBox::new(7, GFP_KERNEL)?;
            let called = call_function_single(cpu, |cpu, _| (cpu, CpuId::current(), number));
            match called {
                Ok((given, there, number)) => {
                    assert_eq!((given, there, *number), (cpu, cpu, 7));
                }
                Err(error) => assert_eq!((error, online_mask().test(cpu)), (ENXIO, false)),
            }
        }
        Ok(())
    }

    #[test]
    fn interrupts_are_disabled() -> Result {
        let (calls, wrong) = (Atomic::new(0u32), Atomic::new(0u32));
        let check = |_: CpuId, _: &LocalInterruptDisabled| {
            calls.fetch_add(1, Relaxed);
            // SAFETY: It only reads the state of the calling CPU.
            if !unsafe { bindings::irqs_disabled() } {
                wrong.fetch_add(1, Relaxed);
            }
        };
        on_each_cpu(check)?;
        call_function(check)?;
        call_function_single(CpuId::current(), check)?;
        with_async_calls(1, check, |call| call[0].as_ref().start(CpuId::current()))??;
        assert_eq!(calls.load(Relaxed), 2 * num_online_cpus() + 1);
        assert_eq!(wrong.load(Relaxed), 0);
        Ok(())
    }

    #[test]
    fn mask_of_cpus() -> Result {
        let calls = calls()?;
        let mut mask = CpumaskVar::new_zero(GFP_KERNEL)?;
        let call = |cpu: CpuId, _: &LocalInterruptDisabled| {
            calls[cpu.as_u32() as usize].fetch_add(1, Relaxed);
        };
        on_each_cpu_mask(&mask, call)?;
        assert_eq!(sum(&calls), 0);
        let last = online().last().ok_or(EINVAL)?;
        mask.set(last);
        on_each_cpu_mask(&mask, call)?;
        assert_eq!(sum(&calls), 1);
        assert_eq!(calls[last.as_u32() as usize].load(Relaxed), 1);
        Ok(())
    }

    #[test]
    fn results_of_each_cpu() -> Result {
        let mut results = KVec::from_elem(Some(0), nr_cpu_ids() as usize, GFP_KERNEL)?;
        collect_on_each_cpu(&mut results, |cpu, _| cpu.as_u32() + 7)?;
        let count = results.iter().flatten().count();
        assert_eq!(count, num_online_cpus() as usize);
        for (cpu, result) in results.iter().enumerate() {
            assert!(result.is_none_or(|result| result == cpu as u32 + 7));
        }
        assert_eq!(
            collect_on_each_cpu(&mut [None], |_, _| ()).is_ok(),
            nr_cpu_ids() == 1
        );
        assert_eq!(collect_on_each_cpu(&mut [], |_, _| ()), Err(EINVAL));
        Ok(())
    }

    #[test]
    fn refused_with_interrupts_disabled() {
        let interrupts = local_interrupt_disable();
        let calls = Atomic::new(0);
        let call = |_: CpuId, _: &LocalInterruptDisabled| {
            calls.fetch_add(1, Relaxed);
        };
        let refused = [
            on_each_cpu(call),
            call_function(call),
            call_function_single(CpuId::current(), call),
            collect_on_each_cpu(&mut [], call),
            with_async_calls(1, call, |_| ()),
        ];
        drop(interrupts);
        assert_eq!(refused, [Err(EDEADLK); 5]);
        assert_eq!(calls.load(Relaxed), 0);
    }

    #[test]
    fn refused_in_interrupt() -> Result {
        let refused = Atomic::new(0);
        let asked = Atomic::new(0);
        call_function(|_, _| {
            asked.fetch_add(1, Relaxed);
            if on_each_cpu(|_, _| {}) == Err(EDEADLK) {
                refused.fetch_add(1, Relaxed);
            }
        })?;
        assert_eq!(asked.load(Relaxed), num_online_cpus() as i32 - 1);
        assert_eq!(refused.load(Relaxed), asked.load(Relaxed));
        Ok(())
    }

    #[test]
    fn not_waited_for() -> Result {
        let calls = Atomic::new(0u32);
        let count = |_: CpuId, _: &LocalInterruptDisabled| {
            calls.fetch_add(1, Relaxed);
        };
        with_async_calls(1, count, |call| -> Result {
            let call = &call[0];
            assert!(!call.is_running());
            for (number, cpu) in online().enumerate() {
                // Where a CPU must not wait for others.
                let interrupts = local_interrupt_disable();
                let (started, waited) = (call.as_ref().start(cpu), call.wait());
                drop(interrupts);
                assert_eq!(started, Ok(()));
                assert_eq!(waited, Err(EDEADLK));
                call.wait()?;
                assert_eq!(calls.load(Relaxed), number as u32 + 1);
            }
            // The end of the scope waits.
            call.as_ref().start(CpuId::current())
        })??;
        assert_eq!(calls.load(Relaxed), num_online_cpus() + 1);
        Ok(())
    }

    #[test]
    fn not_started_twice() -> Result {
        let Some(other) = online().find(|cpu| *cpu != CpuId::current()) else {
            return Ok(());
        };
        let go = Atomic::new(false);
        let wait = |_: CpuId, _: &LocalInterruptDisabled| {
            while !go.load(Relaxed) {
                cpu_relax();
            }
        };
        let (mut first, mut second) = (Err(ENXIO), Ok(()));
        with_async_calls(1, wait, |call| {
            // This task may have moved to that CPU by now; then it is a plain call, which must end.
            let interrupts = local_interrupt_disable();
            if CpuId::current() != other {
                first = call[0].as_ref().start(other);
                second = call[0].as_ref().start(other);
            }
            go.store(true, Relaxed);
            drop(interrupts);
            call[0].wait()
        })??;
        if first != Err(ENXIO) {
            assert_eq!((first, second), (Ok(()), Err(EBUSY)));
        }
        Ok(())
    }
}
