// SPDX-License-Identifier: GPL-2.0

//! Executes new code on CPUs that have never seen its mapping.
//!
//! Code that one CPU generates is executed on all others at once. This causes page faults of
//! instruction fetches, also in the second half of an instruction that crosses a page boundary.
//! Each page returns its own number.
//!
//! Loading the module runs the test, see `kernel::kselftest`.

use kernel::{
    cpu::CpuId,
    execmem::{
        self,
        Text, //
    },
    kselftest::{
        self,
        kselftests,
        Test, //
    },
    kthread,
    page::PAGE_SIZE,
    prelude::*,
    processor::cpu_relax,
    smp,
    sync::{
        atomic::{
            Acquire,
            Atomic,
            Full,
            Relaxed,
            Release, //
        },
        SetOnce, //
    },
};

mod touch;

use touch::{
    has_extension,
    Met,
    Place, //
};

kernel::kselftest_module! {
    tests: tests,
    name: "lazy_map_text",
    authors: ["lazymap"],
    description: "Execute new code on CPUs that have never seen its mapping",
    license: "GPL",
    params: {
        rounds: u32 {
            default: 16,
            range: 1..=1000000,
            description: "Pieces of code that are made in each context",
        },
        pages: u32 {
            default: 4,
            range: 2..=256,
            description: "Pages of a piece of code",
        },
    },
}

/// Where function `number` is: two for each page but the last, one within, and one with an
/// instruction that continues on the next page. On CPUs without C, where no instruction may do
/// that, its second instruction is on the next page.
fn offset(number: usize) -> usize {
    let before = if has_extension(b'c') { 2 } else { 4 };
    match number % 2 {
        0 => number / 2 * PAGE_SIZE + 64,
        _ => (number / 2 + 1) * PAGE_SIZE - before,
    }
}

/// What function `number` of the code that was made in `round` returns.
fn value(round: u32, number: usize) -> u16 {
    ((round.wrapping_mul(31) + number as u32 * 7 + 1) % 2048) as u16
}

fn functions() -> usize {
    2 * (module_parameters::pages.value() as usize - 1)
}

/// Makes a new piece of code.
fn make(round: u32) -> Result<Text> {
    let pages = module_parameters::pages.value() as usize;
    let mut code = KVVec::from_elem(0u8, pages * PAGE_SIZE, GFP_KERNEL)?;
    for number in 0..functions() {
        let start = offset(number);
        let place = code.get_mut(start..start + 8).ok_or(EINVAL)?;
        place.copy_from_slice(&execmem::returning(value(round, number)));
    }
    // SAFETY: The functions are sound in all contexts, and those who execute them have `text` kept
    // until they are done.
    unsafe { Text::new(&code) }
}

/// Makes a new piece of code where all CPUs have found nothing before.
fn make_new(met: &Met, round: u32) -> Result<Text> {
    let pages = module_parameters::pages.value() as usize;
    met.remade(|| make(round), |text| (text.address(), pages))
}

/// Calls all functions of the code at `address`, starting with a different one on each CPU.
fn execute(test: &Test, met: &Met, place: Place, address: usize, round: u32, cpu: CpuId) {
    for number in 0..functions() {
        let number = (number + cpu.as_u32() as usize) % functions();
        // SAFETY: There is such a function, and it changes only a0.
        let found = unsafe { met.call(place, address + offset(number)) };
        test.expect_eq(
            found,
            u64::from(value(round, number)),
            fmt!("function {number} on CPU {}", cpu.as_u32()),
        );
    }
}

/// Pieces of code that exist at once: freeing one makes all CPUs forget their translations.
const KEPT: usize = 64;

/// Keeps `text`, or frees everything that has been kept.
fn keep(kept: &mut KVec<Text>, text: Text) -> Result {
    if kept.len() == KEPT {
        kept.clear();
    }
    kept.push(text, GFP_KERNEL)?;
    Ok(())
}

#[kselftests]
mod tests {
    use super::*;

    /// Handlers of IPIs execute new code.
    #[test]
    fn executed_in_interrupt(test: &Test) -> kselftest::Result {
        let met = Met::new();
        let mut kept = KVec::new();
        for round in 0..module_parameters::rounds.value() {
            test.go_on()?;
            let text = make_new(&met, round)?;
            let address = text.address();
            smp::call_function(|cpu, _| execute(test, &met, Place::Ipi, address, round, cpu))?;
            // And on this one.
            smp::on_each_cpu(|cpu, _| {
                execute(
                    test,
                    &met,
                    Place::TaskWithoutInterrupts,
                    address,
                    round,
                    cpu,
                )
            })?;
            keep(&mut kept, text)?;
        }
        met.report(test);
        Ok(())
    }

    /// Threads that spin on all CPUs execute new code.
    #[test]
    fn executed_by_running_threads(test: &Test) -> kselftest::Result {
        let rounds = module_parameters::rounds.value();
        let met = Met::new();
        // Where the code is, or 0 if it could not be made.
        let address = Atomic::new(0usize);
        let made = Atomic::new(0u32);
        let done = Atomic::new(0u32);
        // What others may still be executing when the threads are asked to stop.
        let last = SetOnce::new();
        // Whether the threads are still to do something; waits until `ready` says yes.
        let wait = |ready: &dyn Fn() -> bool| {
            while !ready() {
                if kthread::should_stop() {
                    return false;
                }
                cpu_relax();
            }
            true
        };

        kthread::on_each_cpu_of_group(
            |member| {
                let mut kept = KVec::new();
                for round in 0..rounds {
                    let mut text = None;
                    if member.number == 0 {
                        match make_new(&met, round) {
                            Ok(new) => text = Some(new),
                            Err(error) => test.fail(fmt!("no code: {error:?}")),
                        }
                        address.store(text.as_ref().map_or(0, Text::address), Relaxed);
                        // What a CPU learns about here has been announced to it.
                        made.store(round + 1, Release);
                    }
                    if !wait(&|| made.load(Acquire) > round) {
                        break;
                    }
                    match address.load(Relaxed) {
                        0 => {}
                        address => execute(test, &met, Place::Task, address, round, member.cpu),
                    }
                    done.fetch_add(1, Full);
                    if let Some(text) = text {
                        if !wait(&|| done.load(Acquire) >= (round + 1) * member.count) {
                            last.populate(text);
                            break;
                        }
                        if let Err(error) = keep(&mut kept, text) {
                            test.fail(fmt!("{error:?}"));
                        }
                    }
                }
            },
            || {},
        )?;
        met.report(test);
        Ok(())
    }
}
