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
    cpumask::CpumaskVar,
    error::{
        from_err_ptr,
        to_result, //
    },
    ffi::{
        c_int,
        c_void, //
    },
    prelude::*,
    smp,
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

/// Time between two calls of `watch`, and the resolution of the wait.
const POLL: Delta = Delta::from_millis(1);

/// Runs `f` once on every online CPU, each time in a new thread that is bound to it, and waits.
///
/// The threads run at the same time, each on its own kernel stack, and may sleep. While they run,
/// the caller calls `watch` about once a millisecond. Waiting cannot be interrupted: if `f` might
/// not return, `watch` must make it return. CPUs do not go online or offline in the meantime.
///
/// # Context
///
/// Process context. Sleeps.
///
/// # Errors
///
/// [`EDEADLK`] when called with interrupts disabled or from an interrupt, [`ENOMEM`] when there is
/// no memory for the threads, [`EINTR`] when the caller is being killed; `f` has not run then.
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
    on_each_cpu_of_group(|member| f(member.cpu), watch)
}

/// One of the threads of [`on_each_cpu_of_group()`].
#[derive(Clone, Copy, Debug)]
pub struct Member {
    /// The CPU that the thread is bound to.
    pub cpu: CpuId,
    /// Its number, from 0.
    pub number: u32,
    /// Number of threads.
    pub count: u32,
}

/// Does what [`on_each_cpu()`] does, and tells each thread how many threads there are.
///
/// For threads that wait for each other. All of them have been created when the first one runs.
///
/// # Context
///
/// Process context. Sleeps.
///
/// # Errors
///
/// As for [`on_each_cpu()`].
///
/// # Examples
///
/// ```
/// use kernel::kthread;
/// use kernel::sync::atomic::{Atomic, Full, Relaxed};
///
/// let arrived = Atomic::new(0u32);
/// kthread::on_each_cpu_of_group(
///     |member| {
///         arrived.fetch_add(1, Full);
///         while arrived.load(Relaxed) < member.count {
///             core::hint::spin_loop();
///         }
///     },
///     || {},
/// )?;
/// # Ok::<(), Error>(())
/// ```
pub fn on_each_cpu_of_group<F: Fn(Member) + Sync>(f: F, watch: impl FnMut()) -> Result {
    smp::may_wait()?;
    let _cpus = CpusReadLock::new();
    // It does not change while the lock is held.
    let online = smp::online_mask();
    let count = online.weight();
    let mut members = KVec::with_capacity(count as usize, GFP_KERNEL)?;
    for cpu in (0..nr_cpu_ids()).filter_map(CpuId::from_u32) {
        if online.test(cpu) {
            let number = members.len() as u32;
            members.push((Member { cpu, number, count }, Some(cpu)), GFP_KERNEL)?;
        }
    }
    run(&members, f, watch)
}

/// Runs `f` once with each number below `count`, each time in a new thread, and waits.
///
/// The threads are not bound to CPUs, and CPUs may go online and offline. Otherwise see
/// [`on_each_cpu()`].
///
/// # Context
///
/// Process context. Sleeps.
///
/// # Errors
///
/// As for [`on_each_cpu()`].
///
/// # Examples
///
/// ```
/// use kernel::kthread;
/// use kernel::sync::atomic::{Atomic, Relaxed};
///
/// let sum = Atomic::new(0u32);
/// kthread::on_any_cpu(
///     4,
///     |number| {
///         sum.fetch_add(number, Relaxed);
///     },
///     || {},
/// )?;
/// assert_eq!(sum.load(Relaxed), 6);
/// # Ok::<(), Error>(())
/// ```
pub fn on_any_cpu<F: Fn(u32) + Sync>(count: u32, f: F, watch: impl FnMut()) -> Result {
    smp::may_wait()?;
    let mut numbers = KVec::with_capacity(count as usize, GFP_KERNEL)?;
    for number in 0..count {
        numbers.push((number, None), GFP_KERNEL)?;
    }
    run(&numbers, f, watch)
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
    smp::may_wait()?;
    let _cpus = CpusReadLock::new();
    if !smp::online_mask().test(cpu) {
        return Err(ENXIO);
    }
    run(&[(cpu, Some(cpu))], f, watch)
}

/// Moves the calling kernel thread to `cpu`.
///
/// It stays there until it is moved again, or until the CPU goes offline: then it continues
/// elsewhere.
///
/// # Context
///
/// A kernel thread that is not bound to a CPU, such as one of [`on_any_cpu()`]. Sleeps. Nobody who
/// waits for the thread may keep CPUs from going online or offline, as [`on_each_cpu()`] does: this
/// function does that itself.
///
/// # Errors
///
/// [`EPERM`] when the calling task is not a kernel thread, [`EINVAL`] when it is bound to a CPU or
/// when `cpu` is offline, [`ENOMEM`] when there is no memory for a mask.
///
/// # Examples
///
/// ```
/// use kernel::cpu::CpuId;
/// use kernel::kthread;
///
/// let here = CpuId::current();
/// kthread::on_any_cpu(
///     1,
///     |_number| {
///         assert!(kthread::migrate_to(here).is_err() || CpuId::current() == here);
///     },
///     || {},
/// )?;
/// # Ok::<(), Error>(())
/// ```
pub fn migrate_to(cpu: CpuId) -> Result {
    // SAFETY: The current task is valid, and these flags do not change once it runs.
    let (task, flags) = unsafe {
        let task = bindings::get_current();
        (task, (*task).flags)
    };
    if flags & bindings::PF_KTHREAD == 0 {
        return Err(EPERM);
    }
    // The C function would move it anyway.
    if flags & bindings::PF_NO_SETAFFINITY != 0 {
        return Err(EINVAL);
    }
    let mut mask = CpumaskVar::new_zero(GFP_KERNEL)?;
    mask.set(cpu);
    // A CPU that starts to go offline meanwhile would be refused only after its mask was set: the
    // thread would run where it is not allowed to.
    let _cpus = CpusReadLock::new();
    // SAFETY: The task is valid, and the mask is not used after this returns.
    to_result(unsafe { bindings::set_cpus_allowed_ptr(task, mask.as_raw()) })
}

/// Runs `f` in a thread for each of `items`: its argument, and the CPU that the thread is bound to,
/// which must stay online.
fn run<T: Copy + Sync, F: Fn(T) + Sync>(
    items: &[(T, Option<CpuId>)],
    f: F,
    mut watch: impl FnMut(),
) -> Result {
    let count = items.len();
    let mut calls = KVec::with_capacity(count, GFP_KERNEL)?;
    for (item, cpu) in items {
        let call = Call {
            f: &f,
            item: *item,
            cpu: *cpu,
            done: Atomic::new(0),
        };
        calls.push(call, GFP_KERNEL)?;
    }
    let mut threads = KVec::with_capacity(count, GFP_KERNEL)?;
    for call in &calls {
        // A thread that is dropped before it was started does not call `f`.
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

/// What a thread is told.
struct Call<'a, T, F> {
    f: &'a F,
    item: T,
    cpu: Option<CpuId>,
    /// Not 0 once `f` has returned.
    done: Atomic<i32>,
}

/// A thread that calls the function of a [`Call`] when it is started, and is gone when dropped.
///
/// # Invariants
///
/// `task` is a kernel thread that was created for `call::<T, F>()`, and we own a reference to it.
struct Thread<'a, T: Copy + Sync, F: Fn(T) + Sync> {
    task: NonNull<bindings::task_struct>,
    _call: &'a Call<'a, T, F>,
}

impl<'a, T: Copy + Sync, F: Fn(T) + Sync> Thread<'a, T, F> {
    fn new(call_data: &'a Call<'a, T, F>) -> Result<Self> {
        // SAFETY: `call::<T, F>()` may be run with the pointer until the thread has been stopped,
        // which `drop()` does within the lifetime of the borrow. This type is private and never
        // leaked. The name is not a format.
        let task = from_err_ptr(unsafe {
            bindings::kthread_create_on_node(
                Some(call::<T, F>),
                core::ptr::from_ref(call_data).cast_mut().cast(),
                bindings::NUMA_NO_NODE,
                c"rust-call".as_char_ptr(),
            )
        })?;
        // SAFETY: The thread was created and does not run yet, so it exists and can be bound.
        unsafe {
            bindings::get_task_struct(task);
            if let Some(cpu) = call_data.cpu {
                bindings::kthread_bind(task, cpu.as_u32());
            }
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

impl<T: Copy + Sync, F: Fn(T) + Sync> Drop for Thread<'_, T, F> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant. This waits until the thread has exited, or keeps it from
        // calling its function if it has not been started.
        unsafe { bindings::kthread_stop_put(self.task.as_ptr()) };
    }
}

/// # Safety
///
/// `data` must point to a `Call<'_, T, F>` that stays valid until this returns.
unsafe extern "C" fn call<T: Copy + Sync, F: Fn(T) + Sync>(data: *mut c_void) -> c_int {
    // SAFETY: By the safety requirements.
    let call = unsafe { &*data.cast_const().cast::<Call<'_, T, F>>() };
    (call.f)(call.item);
    call.done.store(1, Release);
    0
}

/// Keeps CPUs from going online or offline.
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

/// Calls `attach` and drops its result, several times, while another thread keeps calling
/// `pass`.
///
/// For KUnit suites of things that are attached to running code.
///
/// # Context
///
/// Process context. Sleeps.
///
/// # Errors
///
/// One of those of `attach`, `pass` and [`on_any_cpu()`].
#[cfg(any(
    CONFIG_RUST_FTRACE_KUNIT_TEST,
    CONFIG_RUST_KPROBE_KUNIT_TEST,
    CONFIG_RUST_TRACEPOINT_KUNIT_TEST
))]
pub(crate) fn attach_and_detach_while<T>(
    attach: impl Fn() -> Result<T> + Sync,
    pass: impl Fn() -> Result + Sync,
) -> Result {
    let end = Atomic::new(0i32);
    let error = Atomic::new(0i32);
    let note = |result: Result| {
        if let Err(failed) = result {
            error.store(failed.to_errno(), Release);
        }
    };
    on_any_cpu(
        2,
        |number| {
            if number == 0 {
                for _ in 0..8 {
                    note(attach().map(drop));
                }
                end.store(1, Release);
            } else {
                while end.load(Acquire) == 0 {
                    note(pass());
                }
            }
        },
        || {},
    )?;
    to_result(error.load(Acquire))
}

#[cfg(CONFIG_RUST_KTHREAD_KUNIT_TEST)]
#[macros::kunit_tests(rust_kthread)]
mod tests {
    use super::*;
    use crate::{
        interrupt::local_interrupt_disable,
        sync::atomic::{
            Full,
            Relaxed, //
        }, //
    };

    #[test]
    fn each_cpu_has_one() -> Result {
        let calls = Atomic::new(0u32);
        let elsewhere = Atomic::new(0u32);
        on_each_cpu(
            |cpu| {
                calls.fetch_add(1, Relaxed);
                if CpuId::current() != cpu {
                    elsewhere.fetch_add(1, Relaxed);
                }
            },
            || {},
        )?;
        assert_eq!(calls.load(Relaxed), smp::num_online_cpus());
        assert_eq!(elsewhere.load(Relaxed), 0);
        Ok(())
    }

    #[test]
    fn members_meet() -> Result {
        let arrived = Atomic::new(0u32);
        let numbers = Atomic::new(0u32);
        let wrong = Atomic::new(0u32);
        on_each_cpu_of_group(
            |member| {
                numbers.fetch_add(member.number, Relaxed);
                if member.count != smp::num_online_cpus() || member.number >= member.count {
                    wrong.fetch_add(1, Relaxed);
                }
                arrived.fetch_add(1, Full);
                while arrived.load(Relaxed) < member.count {
                    core::hint::spin_loop();
                }
            },
            || {},
        )?;
        let count = smp::num_online_cpus();
        assert_eq!(wrong.load(Relaxed), 0);
        assert_eq!(numbers.load(Relaxed), count * (count - 1) / 2);
        Ok(())
    }

    #[test]
    fn numbers_are_distinct() -> Result {
        let seen = Atomic::new(0u64);
        on_any_cpu(
            20,
            |number| {
                // No second one may clear the bit.
                seen.fetch_add(1 << number, Relaxed);
            },
            || {},
        )?;
        assert_eq!(seen.load(Relaxed), (1 << 20) - 1);
        on_any_cpu(0, |_| {}, || {})
    }

    #[test]
    fn one_cpu() -> Result {
        for cpu in (0..nr_cpu_ids()).filter_map(CpuId::from_u32) {
            let calls = Atomic::new(0u32);
            let ran = on_cpu(
                cpu,
                |cpu| {
                    calls.fetch_add(1 + u32::from(CpuId::current() != cpu), Relaxed);
                },
                || {},
            );
            match ran {
                Ok(()) => assert_eq!(calls.load(Relaxed), 1),
                Err(error) => assert_eq!((error, calls.load(Relaxed)), (ENXIO, 0)),
            }
        }
        Ok(())
    }

    #[test]
    fn watch_ends_a_wait() -> Result {
        let end = Atomic::new(0i32);
        let mut watched = 0;
        on_any_cpu(
            1,
            |_| {
                while end.load(Acquire) == 0 {
                    fsleep(POLL);
                }
            },
            || {
                watched += 1;
                if watched == 3 {
                    end.store(1, Release);
                }
            },
        )?;
        assert!(watched >= 3);
        Ok(())
    }

    #[test]
    fn migrates() -> Result {
        // KUnit's thread is a kernel thread as well, but not ours to move.
        let wrong = Atomic::new(0u32);
        on_any_cpu(
            1,
            |_| {
                for cpu in (0..smp::num_online_cpus()).filter_map(CpuId::from_u32) {
                    if migrate_to(cpu).is_ok() && CpuId::current() != cpu {
                        wrong.fetch_add(1, Relaxed);
                    }
                }
            },
            || {},
        )?;
        assert_eq!(wrong.load(Relaxed), 0);

        let refused = Atomic::new(0u32);
        on_each_cpu(
            |cpu| {
                refused.fetch_add(u32::from(migrate_to(cpu) == Err(EINVAL)), Relaxed);
            },
            || {},
        )?;
        assert_eq!(refused.load(Relaxed), smp::num_online_cpus());
        Ok(())
    }

    #[test]
    fn refused_with_interrupts_disabled() {
        let calls = Atomic::new(0u32);
        let call = || {
            calls.fetch_add(1, Relaxed);
        };
        let interrupts = local_interrupt_disable();
        let refused = [
            on_each_cpu(|_| call(), || {}),
            on_any_cpu(1, |_| call(), || {}),
            on_cpu(CpuId::current(), |_| call(), || {}),
        ];
        drop(interrupts);
        assert_eq!(refused, [Err(EDEADLK); 3]);
        assert_eq!(calls.load(Relaxed), 0);
    }
}
