// SPDX-License-Identifier: GPL-2.0

//! Kernel threads.
//!
//! C header: [`include/linux/kthread.h`](srctree/include/linux/kthread.h)

use crate::{
    bindings,
    cpu::{
        nr_cpu_ids,
        CpuId, //
    },
    cpumask::Cpumask,
    error::from_err_ptr,
    ffi::{
        c_int,
        c_void, //
    },
    prelude::*,
    sync::atomic::{
        Acquire,
        Atomic,
        Release, //
    },
    time::{
        delay::fsleep,
        Delta, //
    },
};
use core::ptr::NonNull;

/// Time between two calls of `watch`, and resolution of the wait.
const POLL: Delta = Delta::from_millis(1);

/// Runs `f` once on every online CPU, each time in a new thread that is bound to it, and waits.
///
/// The threads run at the same time, each on a kernel stack of its own, and may sleep. While they
/// run, the caller calls `watch` about once a millisecond. Waiting cannot be interrupted: if `f`
/// may not return, it is for `watch` to see to it. CPUs do not come or go in the meantime.
///
/// # Context
///
/// Process context. Sleeps.
///
/// # Errors
///
/// [`ENOMEM`] when there is no memory for the threads; `f` has not run then. [`EINTR`] when the
/// caller is being killed.
///
/// # Examples
///
/// ```
/// use kernel::kthread;
/// use kernel::sync::atomic::{Atomic, Relaxed};
///
/// let calls = Atomic::new(0i32);
/// kthread::on_each_cpu(
///     |_cpu| {
///         calls.fetch_add(1, Relaxed);
///     },
///     || {},
/// )?;
/// assert!(calls.load(Relaxed) >= 1);
/// # Ok::<(), Error>(())
/// ```
pub fn on_each_cpu<F: Fn(CpuId) + Sync>(f: F, watch: impl FnMut()) -> Result {
    let _cpus = CpusReadLock::new();
    // SAFETY: The mask is valid at all times, and does not change while the lock is held.
    let online = unsafe { Cpumask::from_raw(&raw const bindings::__cpu_online_mask) };
    run(
        (0..nr_cpu_ids())
            .filter_map(CpuId::from_u32)
            .filter(|cpu| online.test(*cpu)),
        f,
        watch,
    )
}

/// Runs `f` in a new thread that is bound to `cpu`, and waits.
///
/// See [`on_each_cpu()`].
///
/// # Context
///
/// Process context. Sleeps.
///
/// # Errors
///
/// [`ENXIO`] when `cpu` is offline, and those of [`on_each_cpu()`].
///
/// # Examples
///
/// ```
/// use kernel::cpu::CpuId;
/// use kernel::kthread;
///
/// let here = CpuId::current();
/// kthread::on_cpu(here, |cpu| assert_eq!(cpu, CpuId::current()), || {})?;
/// # Ok::<(), Error>(())
/// ```
pub fn on_cpu<F: Fn(CpuId) + Sync>(cpu: CpuId, f: F, watch: impl FnMut()) -> Result {
    let _cpus = CpusReadLock::new();
    // SAFETY: As in `on_each_cpu()`.
    let online = unsafe { Cpumask::from_raw(&raw const bindings::__cpu_online_mask) };
    if !online.test(cpu) {
        return Err(ENXIO);
    }
    run(core::iter::once(cpu), f, watch)
}

/// Runs `f` on all of `cpus`, which must stay online.
fn run<F: Fn(CpuId) + Sync>(
    cpus: impl Iterator<Item = CpuId> + Clone,
    f: F,
    mut watch: impl FnMut(),
) -> Result {
    let count = cpus.clone().count();
    let mut calls = KVec::with_capacity(count, GFP_KERNEL)?;
    for cpu in cpus {
        let done = Atomic::new(0);
        calls.push(Call { f: &f, cpu, done }, GFP_KERNEL)?;
    }
    let mut threads = KVec::with_capacity(count, GFP_KERNEL)?;
    for call in &calls {
        // A thread that is dropped before it was started does not call `f` any more.
        threads.push(Thread::new(call)?, GFP_KERNEL)?;
    }

    for thread in &threads {
        thread.start();
    }
    while calls.iter().any(|call| call.done.load(Acquire) == 0) {
        watch();
        fsleep(POLL);
    }
    Ok(())
}

/// What a thread gets to know.
struct Call<'a, F> {
    f: &'a F,
    cpu: CpuId,
    /// Not 0 once `f` has returned.
    done: Atomic<i32>,
}

/// A thread that calls the function of a [`Call`] when it is started, and is gone when dropped.
///
/// # Invariants
///
/// `task` is a kernel thread that was created for `call::<F>()`, of which we own a reference.
struct Thread<'a, F: Fn(CpuId) + Sync> {
    task: NonNull<bindings::task_struct>,
    _call: &'a Call<'a, F>,
}

impl<'a, F: Fn(CpuId) + Sync> Thread<'a, F> {
    fn new(call_data: &'a Call<'a, F>) -> Result<Self> {
        // SAFETY: `call::<F>()` may be run with the pointer until the thread has been stopped, which
        // `drop()` does within the lifetime of the borrow. This type is private and never leaked.
        // The name fits the format.
        let task = from_err_ptr(unsafe {
            bindings::kthread_create_on_node(
                Some(call::<F>),
                core::ptr::from_ref(call_data).cast_mut().cast(),
                bindings::NUMA_NO_NODE,
                c"rust/%u".as_char_ptr(),
                call_data.cpu.as_u32(),
            )
        })?;
        // SAFETY: The thread was created and does not run yet, so it is there, and can be bound.
        unsafe {
            bindings::get_task_struct(task);
            bindings::kthread_bind(task, call_data.cpu.as_u32());
        }
        // INVARIANT: As above.
        Ok(Self {
            task: NonNull::new(task).ok_or(ENOMEM)?,
            _call: call_data,
        })
    }

    fn start(&self) {
        // SAFETY: By the type invariant.
        unsafe { bindings::wake_up_process(self.task.as_ptr()) };
    }
}

impl<F: Fn(CpuId) + Sync> Drop for Thread<'_, F> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant. Waits until the thread has exited, or keeps it from calling
        // its function if it has not been started.
        unsafe { bindings::kthread_stop_put(self.task.as_ptr()) };
    }
}

/// # Safety
///
/// `data` must point to a `Call<'_, F>` that stays valid until this returns.
unsafe extern "C" fn call<F: Fn(CpuId) + Sync>(data: *mut c_void) -> c_int {
    // SAFETY: By the safety requirements.
    let call = unsafe { &*data.cast_const().cast::<Call<'_, F>>() };
    (call.f)(call.cpu);
    call.done.store(1, Release);
    0
}

/// Keeps CPUs from coming and going.
struct CpusReadLock;

impl CpusReadLock {
    fn new() -> Self {
        // SAFETY: Always safe to call in a context that may sleep.
        unsafe { bindings::cpus_read_lock() };
        Self
    }
}

impl Drop for CpusReadLock {
    fn drop(&mut self) {
        // SAFETY: We hold the lock.
        unsafe { bindings::cpus_read_unlock() };
    }
}
