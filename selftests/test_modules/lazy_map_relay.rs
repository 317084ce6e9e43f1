// SPDX-License-Identifier: GPL-2.0

//! Writes to new buffers of relay from where tracers do.
//!
//! Relay gives each CPU a buffer in vmalloc, as tools like blktrace use them. A tracer writes to it
//! from wherever its probe is called, so from the handler of an IPI, and from that of a page fault,
//! before it has done anything about the fault: if the buffer is so new that the hart does not see
//! it, the fault of the write passes the tracepoint again, and writes again.
//!
//! The probes are attached before the buffers exist. Each CPU writes from the first place that it
//! comes by, and everything is compared at the end.
//!
//! Loading the module runs the test, see `kernel::kselftest`.

use kernel::{
    cpu::{
        nr_cpu_ids,
        CpuId, //
    },
    kselftest::{
        self,
        kselftests,
        pattern,
        Test, //
    },
    prelude::*,
    smp,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        SetOnce, //
    },
    tracepoint::probe::{
        attached,
        CsdFunctionEntry,
        PageFaultKernel,
        Probe,
        Tracepoint, //
    },
    vmalloc::{
        relay::Channel,
        SparseArea,
        WORDS_PER_PAGE, //
    },
};

mod touch;

use touch::{
    Met,
    Place, //
};

kernel::kselftest_module! {
    tests: tests,
    name: "lazy_map_relay",
    authors: ["lazymap"],
    description: "Write to new buffers of relay",
    license: "GPL",
    params: {
        rounds: u32 {
            default: 8,
            range: 1..=1000000,
            description: "How often new buffers are made",
        },
        pages: u32 {
            default: 2,
            range: 1..=1024,
            description: "Size of each CPU's buffer in pages",
        },
    },
}

/// All possible CPUs, and maybe others.
fn cpus() -> impl Iterator<Item = CpuId> {
    (0..nr_cpu_ids()).filter_map(CpuId::from_u32)
}

/// Makes a buffer for each CPU, where all CPUs have tried in vain, if possible.
fn new_channel(met: &Met) -> Result<Channel> {
    let pages = module_parameters::pages.value() as usize;
    met.remade_in_parts(
        pages,
        || Channel::new(pages * WORDS_PER_PAGE),
        |channel, starts| {
            for start in cpus().filter_map(|cpu| channel.address(cpu)) {
                starts.push(start, GFP_KERNEL)?;
            }
            Ok(())
        },
    )
}

/// What the current CPU writes.
fn own(seed: u64) -> u64 {
    pattern(seed, CpuId::current().as_u32() as usize)
}

/// Compares the first word of each buffer; returns how many CPUs have written one.
fn compare(test: &Test, channel: &Channel, seed: u64) -> u64 {
    let mut written = 0;
    for cpu in cpus() {
        match channel.word(cpu, 0) {
            // A CPU that is offline, or has not come by
            None | Some(0) => {}
            word => {
                test.expect_eq(
                    word,
                    Some(pattern(seed, cpu.as_u32() as usize)),
                    fmt!("first word of the buffer of CPU {}", cpu.as_u32()),
                );
                written += 1;
            }
        }
    }
    written
}

/// Fails unless each CPU that was called has written.
fn all_written(test: &Test, written: u64, called: &Atomic<u64>) {
    let called = called.load(Relaxed);
    test.expect(
        called != 0 && written >= called,
        fmt!("{called} CPUs were called, {written} have written"),
    );
}

/// The seed of a round.
fn seed(round: u32) -> u64 {
    u64::from(round + 1) << 32
}

/// Writes to the buffers, as soon as there are any.
struct Tracer<'a> {
    met: &'a Met,
    seed: u64,
    channel: SetOnce<Channel>,
}

impl Tracer<'_> {
    fn write(&self) {
        if let Some(channel) = self.channel.as_ref() {
            self.met
                .during(Place::Tracepoint, || channel.write(own(self.seed)));
        }
    }
}

impl<T: Tracepoint> Probe<T> for Tracer<'_> {
    fn fire(&self, _args: &T::Args, _context: T::Context<'_>) {
        self.write();
    }
}

/// Attaches a probe to `T`, makes buffers, and then has all CPUs call `pass`, which has to pass the
/// tracepoint if being called does not.
fn written_from<T: Tracepoint>(test: &Test, pass: impl Fn() + Sync) -> kselftest::Result {
    let met = Met::new();
    for round in 0..module_parameters::rounds.value() {
        test.go_on()?;
        let called = Atomic::new(0u64);
        let tracer = Tracer {
            met: &met,
            seed: seed(round),
            channel: SetOnce::new(),
        };
        let scope = || -> kselftest::Result {
            tracer.channel.populate(new_channel(&met)?);
            smp::on_each_cpu(|_, _| {
                pass();
                called.fetch_add(1, Relaxed);
            })?;
            Ok(())
        };
        attached::<T, _, _>(&tracer, scope).unwrap_or_else(|error| match error {
            ENOENT => Err(test.skip(fmt!("no tracepoint {}", T::NAME))),
            error => Err(error.into()),
        })?;
        let written = tracer
            .channel
            .as_ref()
            .map_or(0, |channel| compare(test, channel, tracer.seed));
        all_written(test, written, &called);
    }
    met.report(test);
    Ok(())
}

#[kselftests]
mod tests {
    use super::*;

    /// Handlers of IPIs write to buffers that are new.
    #[test]
    fn relay_written_in_ipis(test: &Test) -> kselftest::Result {
        let met = Met::new();
        for round in 0..module_parameters::rounds.value() {
            test.go_on()?;
            let (seed, called) = (seed(round), Atomic::new(0u64));
            let channel = new_channel(&met)?;
            let write = |place| met.during(place, || channel.write(own(seed)));
            smp::call_function(|_, _| write(Place::Ipi))?;
            smp::on_each_cpu(|_, _| {
                write(Place::TaskWithoutInterrupts);
                called.fetch_add(1, Relaxed);
            })?;
            all_written(test, compare(test, &channel, seed), &called);
        }
        met.report(test);
        Ok(())
    }

    /// A probe of handlers of IPIs writes to buffers that are new.
    #[test]
    fn relay_written_from_tracepoint_of_ipis(test: &Test) -> kselftest::Result {
        written_from::<CsdFunctionEntry>(test, || {})
    }

    /// A probe of page faults writes to buffers that are new.
    #[test]
    fn relay_written_from_tracepoint_of_page_faults(test: &Test) -> kselftest::Result {
        // Nothing is ever mapped there.
        let area = SparseArea::new(1, |_| 1)?;
        written_from::<PageFaultKernel>(test, || {
            let _ = area.read_nofault(0);
        })
    }
}
