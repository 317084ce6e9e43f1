// SPDX-License-Identifier: GPL-2.0

//! Calling a function on other CPUs.
//!
//! Every function here waits until the call has finished everywhere, so closures may borrow from
//! the caller and nothing is allocated.
//!
//! C header: [`include/linux/smp.h`](srctree/include/linux/smp.h)

use crate::{
    bindings,
    cpu::CpuId,
    error::to_result,
    ffi::c_void,
    prelude::*, //
};

/// Runs `f` once on every online CPU, the calling one included, and waits for all of them.
///
/// `f` gets the CPU that it runs on. On the other CPUs it runs in a hard interrupt, on the calling
/// one with interrupts disabled: it must be short and must not sleep.
///
/// # Context
///
/// Process context with interrupts enabled. A caller that waits with interrupts disabled deadlocks
/// with a second one that waits for it.
///
/// # Errors
///
/// [`EDEADLK`] when called from another context; `f` has not run then.
///
/// # Examples
///
/// ```
/// use kernel::smp;
/// use kernel::sync::atomic::{Atomic, Relaxed};
///
/// let calls = Atomic::new(0i32);
/// smp::on_each_cpu(|_cpu| {
///     calls.fetch_add(1, Relaxed);
/// })?;
/// assert!(calls.load(Relaxed) >= 1);
/// # Ok::<(), Error>(())
/// ```
pub fn on_each_cpu<F: Fn(CpuId) + Sync>(f: F) -> Result {
    may_wait()?;
    // SAFETY: `call::<F>` expects a pointer to an `F` that may be shared between CPUs, and because
    // of `wait`, `f` outlives all calls. A null mask of conditions means no condition, and
    // `cpu_online_mask` is valid at all times.
    unsafe {
        bindings::on_each_cpu_cond_mask(
            None,
            Some(call::<F>),
            info(&f),
            true,
            &raw const bindings::__cpu_online_mask,
        )
    };
    Ok(())
}

/// Runs `f` once on every online CPU but the calling one, and waits for all of them.
///
/// Which CPU is the calling one is decided inside. `f` runs in a hard interrupt.
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
/// smp::call_function(|cpu| pr_debug!("hello from CPU {}\n", cpu.as_u32()))?;
/// # Ok::<(), Error>(())
/// ```
pub fn call_function<F: Fn(CpuId) + Sync>(f: F) -> Result {
    may_wait()?;
    // SAFETY: As in `on_each_cpu()`.
    unsafe { bindings::smp_call_function(Some(call::<F>), info(&f), 1) };
    Ok(())
}

/// Runs `f` on `cpu` and waits for it.
///
/// On the calling CPU it is a plain call with interrupts disabled, on another one it runs in a hard
/// interrupt.
///
/// # Context
///
/// As for [`on_each_cpu()`].
///
/// # Errors
///
/// [`ENXIO`] when `cpu` is offline, and those of [`on_each_cpu()`]; `f` has not run then.
///
/// # Examples
///
/// ```
/// use kernel::cpu::CpuId;
/// use kernel::smp;
///
/// let here = CpuId::current();
/// smp::call_function_single(here, |cpu| assert_eq!(cpu, here))?;
/// # Ok::<(), Error>(())
/// ```
pub fn call_function_single<F: Fn(CpuId) + Sync>(cpu: CpuId, f: F) -> Result {
    may_wait()?;
    // SAFETY: As in `on_each_cpu()`; the C function checks that `cpu` is online.
    to_result(unsafe {
        bindings::smp_call_function_single(cpu.into(), Some(call::<F>), info(&f), true)
    })
}

/// Refuses the contexts in which waiting for another CPU can deadlock.
fn may_wait() -> Result {
    // SAFETY: Both only read the state of the calling CPU.
    if unsafe { bindings::in_task() && !bindings::irqs_disabled() } {
        Ok(())
    } else {
        Err(EDEADLK)
    }
}

fn info<F: Fn(CpuId) + Sync>(f: &F) -> *mut c_void {
    core::ptr::from_ref(f).cast_mut().cast()
}

/// # Safety
///
/// `info` must point to an `F` that stays valid and shareable until this returns.
unsafe extern "C" fn call<F: Fn(CpuId) + Sync>(info: *mut c_void) {
    // SAFETY: By the safety requirements.
    let f = unsafe { &*info.cast_const().cast::<F>() };
    f(CpuId::current());
}
