// SPDX-License-Identifier: GPL-2.0

//! Kernel threads.
//!
//! The functions make threads, wait until they are gone, and then return, so closures may borrow
//! from the caller. A thread that dies, because the kernel oopses in it, does not keep its maker
//! waiting. A maker that is such a thread itself dies as well: what the dead one had registered may
//! use what it has borrowed.
//!
//! [`in_thread()`] is like `Task::spawn()` of [the former `rust` branch], but waits, so that its
//! closure may borrow and return something. The threads of [an earlier proposal] outlive the call
//! that makes them. What is private here does what they would do, and is to be built on them once
//! the tree has them.
//!
//! C header: [`include/linux/kthread.h`](srctree/include/linux/kthread.h)
//!
//! [the former `rust` branch]: https://github.com/Rust-for-Linux/linux/pull/775
//! [an earlier proposal]: https://github.com/Rust-for-Linux/linux/pull/109

use crate::{
    bindings,
    cpu::{
        nr_cpu_ids,
        CpuId, //
    },
    cpumask::CpumaskVar,
    current,
    error::{
        from_err_ptr,
        to_result, //
    },
    ffi::{
        c_int,
        c_void, //
    },
    prelude::*,
    smp::{
        self,
        Once, //
    },
    sync::atomic::{
        atomic_load,
        Acquire,
        Atomic,
        Relaxed,
        Release, //
    },
    time::{
        delay::fsleep,
        Delta, //
    },
    types::NotThreadSafe,
};
use core::ptr::NonNull;

/// Time between two calls of `watch`, and the resolution of the wait.
///
/// The waiter polls, because nobody completes a completion for a thread that has died.
const POLL: Delta = Delta::from_millis(1);

/// Runs `f` once on every online CPU, each time in a new thread that is bound to it, and waits.
///
/// The threads run at the same time, each on its own kernel stack, and may sleep. While they run,
/// the caller calls `watch` about once a millisecond. A request to take a CPU offline or online
/// fails with `EBUSY` in the meantime. No lock is held, so `f` and `watch` may call anything that
/// waits for CPUs or keeps them.
///
/// When the caller is to stop, the threads are asked to: see [`should_stop()`]. What may run for
/// long has to look at it.
///
/// # Context
///
/// Process context. Sleeps.
///
/// # Errors
///
/// [`EDEADLK`] when called with interrupts disabled or from an interrupt, [`ENOMEM`] when there is
/// no memory for the threads; `f` has not run then. [`EINTR`] when the caller got a signal or was
/// asked to stop, [`EOWNERDEAD`] when a thread has died; `f` may have run in part.
///
/// A thread that died does not run destructors. What it had registered stays registered, and locks
/// that it held stay locked. Its stack is kept for ever. A module must not be unloaded after that.
///
/// What stays registered may use what the thread has borrowed. So a caller that is itself a thread
/// made here gets no [`EOWNERDEAD`]: when the other threads are gone, it dies like the first one,
/// and its own maker sees that. Any other caller gets the error, and nothing keeps what it has
/// lent: `f` is dropped, and what is on the caller's stack goes when the caller returns. If `f`
/// registers something, such a caller must lend only what is static, or what it leaks when it gets
/// the error. The compiler does not check that.
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
/// For threads that wait for each other. All of them have been created when the first one runs. One
/// that waits for another one has to look at [`should_stop()`]: the other one may have died.
///
/// # Context
///
/// Process context. Sleeps.
///
/// # Errors
///
/// As for [`on_each_cpu()`], which also says what a caller must not lend.
///
/// # Examples
///
/// ```
/// use kernel::kthread;
/// use kernel::processor::cpu_relax;
/// use kernel::sync::atomic::{Atomic, Full, Relaxed};
///
/// let arrived = Atomic::new(0u32);
/// kthread::on_each_cpu_of_group(
///     |member| {
///         arrived.fetch_add(1, Full);
///         while arrived.load(Relaxed) < member.count && !kthread::should_stop() {
///             cpu_relax();
///         }
///     },
///     || {},
/// )?;
/// # Ok::<(), Error>(())
/// ```
pub fn on_each_cpu_of_group<F: Fn(Member) + Sync>(f: F, watch: impl FnMut()) -> Result {
    smp::may_wait()?;
    let kept = CpusKept::new();
    // It does not change while CPUs are kept.
    let online = smp::online_mask();
    let count = online.weight();
    let mut members = KVec::with_capacity(count as usize, GFP_KERNEL)?;
    for cpu in (0..nr_cpu_ids()).filter_map(CpuId::from_u32) {
        if online.test(cpu) {
            let number = members.len() as u32;
            members.push((Member { cpu, number, count }, Some(cpu)), GFP_KERNEL)?;
        }
    }
    run(&members, f, watch, Some(kept))
}

/// Runs `f` while CPUs go neither offline nor online: requests for that fail.
///
/// For what expects work to be done on the CPU that it was queued on, or counts CPUs. Nobody waits
/// for `f`, so this cannot be part of a deadlock. What `f` returns must be [`Send`], so it cannot
/// be a guard that keeps interrupts disabled, or a lock held, while this function lets CPUs go.
///
/// # Context
///
/// Process context. Sleeps.
///
/// # Errors
///
/// [`EDEADLK`] when called with interrupts disabled.
///
/// # Examples
///
/// ```
/// use kernel::kthread;
/// use kernel::smp;
///
/// let counts = kthread::with_cpus_kept(|| [smp::num_online_cpus(), smp::num_online_cpus()])?;
/// assert_eq!(counts[0], counts[1]);
/// # Ok::<(), Error>(())
/// ```
pub fn with_cpus_kept<R: Send>(f: impl FnOnce() -> R) -> Result<R> {
    smp::may_wait()?;
    let _kept = CpusKept::new();
    Ok(f())
}

/// One of the threads of [`on_any_cpu()`], which may move.
///
/// It belongs to that thread: it can be neither sent nor lent to another one.
pub struct Unbound {
    number: u32,
    _here: NotThreadSafe,
}

impl Unbound {
    /// The number of the thread, from 0.
    #[inline]
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Moves this thread to `cpu`.
    ///
    /// It stays there until it is moved again, or until the CPU goes offline: then it continues
    /// elsewhere.
    ///
    /// # Context
    ///
    /// Process context. Sleeps.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] when `cpu` is offline, [`ENOMEM`] when there is no memory for a mask, [`EDEADLK`]
    /// when called with interrupts disabled.
    ///
    /// # Examples
    ///
    /// ```
    /// use kernel::cpu::CpuId;
    /// use kernel::kthread;
    ///
    /// let here = CpuId::current();
    /// let there = kthread::in_thread(
    ///     |thread| thread.migrate_to(here).map(|()| CpuId::current()),
    ///     || {},
    /// )?;
    /// assert!(there.is_err() || there == Ok(here));
    /// # Ok::<(), Error>(())
    /// ```
    pub fn migrate_to(&self, cpu: CpuId) -> Result {
        smp::may_wait()?;
        let mut mask = CpumaskVar::new_zero(GFP_KERNEL)?;
        mask.set(cpu);
        // A CPU that starts to go offline meanwhile would be refused only after its mask was set:
        // the thread would run where it is not allowed to.
        let _cpus = CpusReadLock::new();
        // SAFETY: The current task is valid. It is a thread that `run()` has made and not bound,
        // so it is ours to move. The mask is not used after this returns.
        to_result(unsafe { bindings::set_cpus_allowed_ptr(bindings::get_current(), mask.as_raw()) })
    }
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
/// As for [`on_each_cpu()`], which also says what a caller must not lend.
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
///     |thread| {
///         sum.fetch_add(thread.number(), Relaxed);
///     },
///     || {},
/// )?;
/// assert_eq!(sum.load(Relaxed), 6);
/// # Ok::<(), Error>(())
/// ```
pub fn on_any_cpu<F: Fn(&Unbound) + Sync>(count: u32, f: F, watch: impl FnMut()) -> Result {
    smp::may_wait()?;
    let mut numbers = KVec::with_capacity(count as usize, GFP_KERNEL)?;
    for number in 0..count {
        numbers.push((number, None), GFP_KERNEL)?;
    }
    run(
        &numbers,
        |number| {
            f(&Unbound {
                number,
                _here: NotThreadSafe,
            })
        },
        watch,
        None,
    )
}

/// Runs `f` in a new thread that is bound to `cpu`, and waits for what it returns.
///
/// It does what `work_on_cpu()` does in C, but not on a worker, which others may need while `f`
/// spins. See [`on_each_cpu()`].
///
/// # Context
///
/// Process context. Sleeps.
///
/// # Errors
///
/// [`ENXIO`] when `cpu` is offline, and those of [`on_each_cpu()`], which also says what a caller
/// must not lend. What `f` owns is kept with the stack of the thread.
///
/// # Examples
///
/// ```
/// use kernel::cpu::CpuId;
/// use kernel::kthread;
///
/// let here = CpuId::current();
/// let there = kthread::on_cpu(here, |_cpu| CpuId::current(), || {})?;
/// assert_eq!(there, here);
/// # Ok::<(), Error>(())
/// ```
pub fn on_cpu<R: Send, F: FnOnce(CpuId) -> R + Send>(
    cpu: CpuId,
    f: F,
    watch: impl FnMut(),
) -> Result<R> {
    smp::may_wait()?;
    let kept = CpusKept::new();
    if !smp::online_mask().test(cpu) {
        return Err(ENXIO);
    }
    let once = Once::new(f);
    run(&[(cpu, Some(cpu))], |cpu| once.call(cpu), watch, Some(kept))?;
    once.result().ok_or(EOWNERDEAD)
}

/// Runs `f` in a new thread, and waits for what it returns.
///
/// See [`on_any_cpu()`].
///
/// # Context
///
/// Process context. Sleeps.
///
/// # Errors
///
/// As for [`on_each_cpu()`], which also says what a caller must not lend. What `f` owns is kept
/// with the stack of the thread.
///
/// # Examples
///
/// ```
/// use kernel::kthread;
/// use kernel::str::CString;
///
/// let text = kthread::in_thread(|_thread| CString::try_from_fmt(fmt!("{}", 5)), || {})??;
/// assert_eq!(text.to_bytes(), b"5");
/// # Ok::<(), Error>(())
/// ```
pub fn in_thread<R: Send, F: FnOnce(&Unbound) -> R + Send>(f: F, watch: impl FnMut()) -> Result<R> {
    smp::may_wait()?;
    let once = Once::new(|()| {
        f(&Unbound {
            number: 0,
            _here: NotThreadSafe,
        })
    });
    run(&[((), None)], |()| once.call(()), watch, None)?;
    once.result().ok_or(EOWNERDEAD)
}

/// Whether the calling thread has been asked to stop, if it is one that a function of this module
/// has made; otherwise false.
///
/// That happens when another thread of its group has died, and when the one who waits for it gets a
/// signal or is asked to stop itself.
///
/// # Context
///
/// Any. In an interrupt the answer is about the interrupted task.
#[inline]
pub fn should_stop() -> bool {
    if !is_own_thread() {
        return false;
    }
    // SAFETY: The current task runs `enter()`, so it has our data. That exists until the thread has
    // announced in `do_exit()` that it ends; before that it sets PF_EXITING itself, so whoever
    // interrupts it later sees that.
    unsafe {
        let data = bindings::kthread_data(bindings::get_current());
        (*data.cast_const().cast::<Control>()).stop.load(Relaxed)
    }
}

/// Whether the calling thread is one that a function of this module has made, and is not exiting.
#[inline]
fn is_own_thread() -> bool {
    // SAFETY: The current task is valid.
    unsafe {
        let task = bindings::get_current();
        (*task).flags & (bindings::PF_KTHREAD | bindings::PF_EXITING) == bindings::PF_KTHREAD
            && bindings::kthread_func(task) == enter as *mut c_void
    }
}

/// How many threads that a function of this module has made have died since the kernel was booted.
///
/// If it grows while a module uses these functions, that module must not be unloaded.
///
/// # Context
///
/// Any.
///
/// # Examples
///
/// ```
/// use kernel::kthread;
///
/// let before = kthread::deaths();
/// kthread::on_any_cpu(2, |_thread| {}, || {})?;
/// assert_eq!(kthread::deaths(), before);
/// # Ok::<(), Error>(())
/// ```
#[inline]
pub fn deaths() -> u32 {
    DEATHS.load(Relaxed)
}

static DEATHS: Atomic<u32> = Atomic::new(0);

/// Runs `f` in a thread for each of `items`: its argument, and the CPU that the thread is bound to,
/// which must stay online; `kept` is dropped when the threads are gone.
fn run<T: Copy + Sync, F: Fn(T) + Sync>(
    items: &[(T, Option<CpuId>)],
    f: F,
    mut watch: impl FnMut(),
    kept: Option<CpusKept>,
) -> Result {
    let count = items.len();
    let mut calls = KVec::with_capacity(count, GFP_KERNEL)?;
    for (item, cpu) in items {
        let call = Call {
            control: Control {
                function: call::<T, F>,
                stop: Atomic::new(false),
                done: Atomic::new(false),
            },
            f: &f,
            item: *item,
            cpu: *cpu,
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
    let mut result = Ok(());
    loop {
        let (mut running, mut died) = (false, false);
        for thread in &threads {
            // In this order, which `is_gone()` keeps: one that ends in between has not died.
            let gone = thread.is_gone();
            if !thread.call.control.done.load(Acquire) {
                died |= gone;
                running |= !gone;
            }
        }
        if died {
            result = Err(EOWNERDEAD);
        } else if running && result.is_ok() && (current!().signal_pending() || should_stop()) {
            result = Err(EINTR);
        }
        if !running {
            break;
        }
        if result.is_err() {
            for call in &calls {
                call.control.stop.store(true, Relaxed);
            }
        }
        watch();
        fsleep(POLL);
    }
    drop(threads);
    drop(kept);
    if result == Err(EOWNERDEAD) && is_own_thread() {
        // What the dead thread had registered may use what it has borrowed: `f`, and what is on
        // this stack or on that of a maker further up. So nothing of it may end.
        // SAFETY: This does not return, so `done` of this thread stays false. Whoever has made it
        // sees that it has died, and keeps the stack.
        unsafe { bindings::do_exit(0) };
    }
    result
}

/// The part of a [`Call`] that does not depend on its types.
struct Control {
    /// Calls the function of the [`Call`].
    function: unsafe fn(*const Control),
    /// Whether the function is to return early.
    stop: Atomic<bool>,
    /// Whether the function has returned.
    done: Atomic<bool>,
}

/// What a thread is told.
#[repr(C)]
struct Call<'a, T, F> {
    control: Control,
    f: &'a F,
    item: T,
    cpu: Option<CpuId>,
}

/// A thread that calls the function of a [`Call`] when it is started, and is gone when dropped.
///
/// # Invariants
///
/// `task` is a kernel thread that was created for `enter()` with a pointer to `call`. We own a
/// reference to it, and if `has_stack` is true one to its stack.
struct Thread<'a, T: Copy + Sync, F: Fn(T) + Sync> {
    task: NonNull<bindings::task_struct>,
    has_stack: bool,
    call: &'a Call<'a, T, F>,
}

impl<'a, T: Copy + Sync, F: Fn(T) + Sync> Thread<'a, T, F> {
    fn new(call: &'a Call<'a, T, F>) -> Result<Self> {
        // SAFETY: `enter()` may be run with the pointer until the thread has been stopped, which
        // `drop()` does within the lifetime of the borrow. This type is private and never leaked.
        // The name is not a format.
        let task = from_err_ptr(unsafe {
            bindings::kthread_create_on_node(
                Some(enter),
                core::ptr::from_ref(call).cast_mut().cast(),
                bindings::NUMA_NO_NODE,
                c"rust-call".as_char_ptr(),
            )
        })?;
        // SAFETY: The thread was created and does not run yet, so it exists, has a stack, and can
        // be bound.
        let has_stack = unsafe {
            bindings::get_task_struct(task);
            if let Some(cpu) = call.cpu {
                bindings::kthread_bind(task, cpu.as_u32());
            }
            !bindings::try_get_task_stack(task).is_null()
        };
        // INVARIANT: The thread was created above, and the references were taken there.
        Ok(Self {
            task: NonNull::new(task).ok_or(ENOMEM)?,
            has_stack,
            call,
        })
    }

    fn start(&self) {
        // SAFETY: By the type invariant the task exists.
        unsafe { bindings::wake_up_process(self.task.as_ptr()) };
    }

    /// Whether the thread has exited, in whichever way. If so, `done` does not change any more.
    fn is_gone(&self) -> bool {
        // Acquire, so that `done` is read later. It pairs with atomic_dec_and_test() in do_exit()
        // and atomic_inc_return() in make_task_dead(): either is a full barrier between the store
        // to `done` and the one to this field.
        // SAFETY: By the type invariant the task exists. The C code expects others to read the
        // field at any time, as wait_consider_task() does.
        unsafe { atomic_load(&raw mut (*self.task.as_ptr()).exit_state, Acquire) != 0 }
    }
}

impl<T: Copy + Sync, F: Fn(T) + Sync> Drop for Thread<'_, T, F> {
    fn drop(&mut self) {
        let task = self.task.as_ptr();
        let gone = self.is_gone();
        if gone && !self.call.control.done.load(Acquire) {
            DEATHS.fetch_add(1, Relaxed);
            // What it has registered may still use what is on its stack, so that is not given back.
            // Nor is the task: the kernel warns about one that is freed before its stack.
            return;
        }
        // One that oopsed again when it was exiting is gone, but nobody completes what
        // kthread_stop() waits for.
        if !gone {
            // SAFETY: By the type invariant the task exists. This waits until the thread has
            // exited, or keeps it from calling its function if it has not been started.
            unsafe { bindings::kthread_stop(task) };
        }
        if self.has_stack {
            // SAFETY: By the type invariant the reference is ours.
            unsafe { bindings::put_task_stack(task) };
        }
        // SAFETY: By the type invariant the reference is ours.
        unsafe { bindings::put_task_struct(task) };
    }
}

/// # Safety
///
/// `control` must be that of a `Call<'_, T, F>` that stays valid until this returns.
unsafe fn call<T: Copy + Sync, F: Fn(T) + Sync>(control: *const Control) {
    // SAFETY: By the safety requirements. The control is the first field.
    let call = unsafe { &*control.cast::<Call<'_, T, F>>() };
    (call.f)(call.item);
}

/// What all threads run; [`should_stop()`] recognises them by it.
///
/// # Safety
///
/// `data` must point to a [`Call`] that stays valid until the thread has exited.
unsafe extern "C" fn enter(data: *mut c_void) -> c_int {
    let control = data.cast_const().cast::<Control>();
    // SAFETY: By the safety requirements. The control is the first field of the call, and its
    // function expects just that.
    unsafe {
        ((*control).function)(control);
        (*control).done.store(true, Release);
    }
    0
}

/// Makes requests to take CPUs offline or online fail as long as it exists.
///
/// Unlike [`CpusReadLock`] it makes nobody wait, so it cannot be part of a deadlock.
struct CpusKept;

impl CpusKept {
    fn new() -> Self {
        // SAFETY: `may_wait()` was asked before, so this may sleep. It waits for a request that is
        // being served.
        unsafe { bindings::cpu_hotplug_disable() };
        Self
    }
}

impl Drop for CpusKept {
    fn drop(&mut self) {
        // SAFETY: It was disabled when the object was made.
        unsafe { bindings::cpu_hotplug_enable() };
    }
}

/// Keeps CPUs from going online or offline; requests for that wait.
struct CpusReadLock;

impl CpusReadLock {
    fn new() -> Self {
        // SAFETY: `may_wait()` was asked before, so this may sleep.
        unsafe { bindings::cpus_read_lock() };
        Self
    }
}

impl Drop for CpusReadLock {
    fn drop(&mut self) {
        // SAFETY: The lock was taken when the object was made, by the same task.
        unsafe { bindings::cpus_read_unlock() };
    }
}

/// Calls `attach`, several times, while another thread keeps calling `pass`.
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
pub(crate) fn attach_and_detach_while(
    attach: impl Fn() -> Result + Sync,
    pass: impl Fn() -> Result + Sync,
) -> Result {
    let end = Atomic::new(false);
    let error = Atomic::new(0i32);
    let note = |result: Result| {
        if let Err(failed) = result {
            error.store(failed.to_errno(), Release);
        }
    };
    on_any_cpu(
        2,
        |thread| {
            if thread.number() == 0 {
                for _ in 0..8 {
                    note(attach());
                }
                end.store(true, Release);
            } else {
                while !end.load(Acquire) && !should_stop() {
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
        processor::cpu_relax,
        sync::atomic::Full, //
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
                while arrived.load(Relaxed) < member.count && !should_stop() {
                    cpu_relax();
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
            |thread| {
                // No second one may clear the bit.
                seen.fetch_add(1 << thread.number(), Relaxed);
            },
            || {},
        )?;
        assert_eq!(seen.load(Relaxed), (1 << 20) - 1);
        on_any_cpu(0, |_| {}, || {})
    }

    #[test]
    fn one_cpu() -> Result {
        for cpu in (0..nr_cpu_ids()).filter_map(CpuId::from_u32) {
            let mut calls = 0;
            let ran = on_cpu(
                cpu,
                |_| {
                    calls += 1;
                    CpuId::current()
                },
                || {},
            );
            if smp::online_mask().test(cpu) {
                assert_eq!((ran, calls), (Ok(cpu), 1));
            } else {
                assert_eq!((ran, calls), (Err(ENXIO), 0));
            }
        }
        Ok(())
    }

    #[test]
    fn one_thread() -> Result {
        let text = KBox::new(7, GFP_KERNEL)?;
        assert_eq!(in_thread(|thread| *text + thread.number(), || {}), Ok(7));
        Ok(())
    }

    #[test]
    fn may_be_nested() -> Result {
        // On each CPU, so that all of them keep CPUs at the same time.
        let calls = Atomic::new(0u32);
        let failed = Atomic::new(0u32);
        on_each_cpu(
            |cpu| {
                let nested = on_cpu(cpu, |_| calls.fetch_add(1, Relaxed), || {});
                failed.fetch_add(u32::from(nested.is_err()), Relaxed);
            },
            || {},
        )?;
        assert_eq!(failed.load(Relaxed), 0);
        assert_eq!(calls.load(Relaxed), smp::num_online_cpus());
        Ok(())
    }

    #[test]
    fn one_that_dies_stops_the_others() -> Result {
        let stopped = Atomic::new(0u32);
        let before = DEATHS.load(Relaxed);
        let ran = on_any_cpu(
            3,
            |thread| {
                if thread.number() == 1 {
                    // As the kernel does to a task that has oopsed.
                    // SAFETY: Nothing that others use is on this stack.
                    unsafe { bindings::do_exit(0) };
                }
                while !should_stop() {
                    fsleep(POLL);
                }
                stopped.fetch_add(1, Relaxed);
            },
            || {},
        );
        assert_eq!(ran, Err(EOWNERDEAD));
        assert_eq!(stopped.load(Relaxed), 2);
        assert_eq!(DEATHS.load(Relaxed), before + 1);
        assert!(!should_stop());
        Ok(())
    }

    #[test]
    fn the_maker_of_one_that_dies_dies_too() -> Result {
        let went_on = Atomic::new(0u32);
        let before = deaths();
        let ran = in_thread(
            |_| {
                let _ = on_any_cpu(
                    1,
                    // SAFETY: Nothing that others use is on this stack.
                    |_| unsafe { bindings::do_exit(0) },
                    || {},
                );
                went_on.fetch_add(1, Relaxed);
            },
            || {},
        );
        assert_eq!(ran, Err(EOWNERDEAD));
        assert_eq!(went_on.load(Relaxed), 0);
        assert_eq!(deaths(), before + 2);
        Ok(())
    }

    #[test]
    fn watch_ends_a_wait() -> Result {
        let end = Atomic::new(false);
        let mut watched = 0;
        on_any_cpu(
            1,
            |_| {
                while !end.load(Acquire) {
                    fsleep(POLL);
                }
            },
            || {
                watched += 1;
                if watched == 3 {
                    end.store(true, Release);
                }
            },
        )?;
        assert!(watched >= 3);
        Ok(())
    }

    #[test]
    fn migrates() -> Result {
        let wrong = Atomic::new(0u32);
        let moves = Atomic::new(0u32);
        on_any_cpu(
            1,
            |thread| {
                for cpu in (0..nr_cpu_ids()).filter_map(CpuId::from_u32) {
                    if thread.migrate_to(cpu).is_ok() {
                        moves.fetch_add(1, Relaxed);
                        wrong.fetch_add(u32::from(CpuId::current() != cpu), Relaxed);
                    }
                }
            },
            || {},
        )?;
        assert_eq!(wrong.load(Relaxed), 0);
        assert_eq!(moves.load(Relaxed), smp::num_online_cpus());
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
            in_thread(|_| call(), || {}),
        ];
        drop(interrupts);
        assert_eq!(refused, [Err(EDEADLK); 4]);
        assert_eq!(calls.load(Relaxed), 0);
    }
}
