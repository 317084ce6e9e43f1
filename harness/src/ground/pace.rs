// SPDX-License-Identifier: GPL-2.0-only
//! Time as a process sees it that has to share its host.
//!
//! A limit in seconds means something else on a busy host. Linux tells for each thread how long it ran
//! and how long it was ready to run and had to wait (`/proc/PID/task/TID/schedstat`,
//! Documentation/scheduler/sched-stats.rst). Time in which others had the CPUs counts less here.

use std::fs;
use std::hint::black_box;
use std::thread;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// How often the kernel's figures are read.
const PERIOD: Duration = Duration::from_millis(250);
/// However busy the host is, a second of its clock counts as at least this part of one.
const LEAST: f64 = 1.0 / 8.0;
/// A process that wants less than this many CPUs is not held up by a lack of them.
const IDLE: f64 = 0.05;
/// Steps of [`spin`] and the seconds that they take on the host that the limits were chosen on, idle.
const STEPS: u64 = 20_000_000;
const REFERENCE: f64 = 0.05;
/// The most by which a slow host may stretch limits.
const MOST: f64 = 10.0;
/// Hosts that are slower by less than this count as fast enough.
const FAST_ENOUGH: f64 = 1.3;

/// The time of a process: the host's clock, less what the process waited for a CPU because of others.
#[derive(Debug)]
pub struct Pace {
    pid: u32,
    cpus: f64,
    started: Instant,
    last: Instant,
    used: Used,
    passed: Duration,
    /// What a second counts as at present.
    rate: f64,
}

/// What the threads of a process used, in seconds.
#[derive(Clone, Copy, Debug, Default)]
struct Used {
    ran: f64,
    waited: f64,
}

impl Pace {
    /// Starts the clock of process `pid`.
    pub fn start(pid: u32) -> Self {
        let now = Instant::now();
        let cpus = thread::available_parallelism().map_or(1, usize::from) as f64;
        let used = used(pid).unwrap_or_default();
        Self { pid, cpus, started: now, last: now, used, passed: Duration::ZERO, rate: 1.0 }
    }

    /// Looks at the process again, if it is time. Call it often.
    pub fn tick(&mut self) {
        let since = self.last.elapsed();
        if since < PERIOD {
            return;
        }
        // Without figures, seconds are seconds.
        let now = used(self.pid);
        self.rate = now.map_or(1.0, |now| {
            let (ran, waited) = (now.ran - self.used.ran, now.waited - self.used.waited);
            share(ran / since.as_secs_f64(), waited / since.as_secs_f64(), self.cpus)
        });
        self.used = now.unwrap_or(self.used);
        self.passed += since.mul_f64(self.rate);
        self.last += since;
    }

    /// The time that has passed for the process.
    pub fn passed(&self) -> Duration {
        self.passed + self.last.elapsed().mul_f64(self.rate)
    }

    /// By how much others slowed the process down so far, at least 1.
    pub fn slowed(&self) -> f64 {
        let passed = self.passed().as_secs_f64();
        if passed > 0.0 { (self.started.elapsed().as_secs_f64() / passed).max(1.0) } else { 1.0 }
    }
}

/// What a second counts as for a process whose threads ran on `ran` CPUs and were ready to run on
/// `waited` more, on a host with `cpus`. Its threads may be more than the CPUs: waiting for each other is
/// not the host's fault.
fn share(ran: f64, waited: f64, cpus: f64) -> f64 {
    let could_have = (ran.max(0.0) + waited.max(0.0)).min(cpus);
    if could_have < IDLE { 1.0 } else { (ran.max(0.0) / could_have).clamp(LEAST, 1.0) }
}

/// The sum over the threads of a process; `None` if it is gone or the kernel does not tell.
fn used(pid: u32) -> Option<Used> {
    let mut sum = Used::default();
    for thread in fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten() {
        // A thread may end meanwhile.
        let Ok(text) = fs::read_to_string(thread.path().join("schedstat")) else { continue };
        let mut numbers = text.split_whitespace().map(str::parse::<u64>);
        let (Some(Ok(ran)), Some(Ok(waited))) = (numbers.next(), numbers.next()) else { return None };
        sum.ran += ran as f64 / 1e9;
        sum.waited += waited as f64 / 1e9;
    }
    Some(sum)
}

/// How fast the host is, compared with an idle one like that on which limits were chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Host {
    /// By how much its CPUs are slower: 1 to 10.
    pub slow: f64,
    /// By how much other work slows a single thread down right now: 1 to 8.
    pub busy: f64,
}

impl Host {
    /// A host on which limits mean what they say.
    pub const IDLE: Self = Self { slow: 1.0, busy: 1.0 };

    /// Measures, for about a twentieth of a second on an idle host.
    pub fn measure() -> Self {
        let (started, before) = (Instant::now(), thread_seconds());
        black_box(spin(STEPS));
        let (passed, ran) = (started.elapsed().as_secs_f64(), thread_seconds() - before);
        Self { slow: factor(ran), busy: (passed / ran.max(f64::MIN_POSITIVE)).clamp(1.0, 1.0 / LEAST) }
    }
}

/// CPU time of this thread.
fn thread_seconds() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// The factor for a host on which [`spin`] takes so many seconds of CPU time.
fn factor(seconds: f64) -> f64 {
    let times = seconds / REFERENCE;
    if times < FAST_ENOUGH { 1.0 } else { (times * 10.0).round().min(MOST * 10.0) / 10.0 }
}

/// Work in which each step needs the one before, so that only the clock of the CPU matters.
fn spin(steps: u64) -> u64 {
    let mut x: u64 = 0x9e37_79b9_7f4a_7c15;
    for _ in 0..black_box(steps) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
    }
    x
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_others_took_counts() {
        let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-9, "{a} {b}");
        // Alone on the host, with more threads than CPUs.
        close(share(2.0, 2.0, 2.0), 1.0);
        // Asleep, as a guest that waits for an interrupt.
        close(share(0.0, 0.0, 2.0), 1.0);
        close(share(0.01, 0.02, 2.0), 1.0);
        // Two of four threads could run, and got half a CPU.
        close(share(0.5, 3.5, 2.0), 0.25);
        // One thread, and another process that spins on the only CPU.
        close(share(0.5, 0.5, 1.0), 0.5);
        // Starved: time still passes.
        close(share(0.0, 4.0, 2.0), LEAST);
        close(share(-1.0, 4.0, 2.0), LEAST);
    }

    #[test]
    fn a_fast_host_changes_nothing_and_a_slow_one_is_believed_up_to_a_point() {
        assert_eq!([0.01, 0.05, 0.06].map(factor), [1.0; 3]);
        assert_eq!([0.1, 0.2, 9.0].map(factor), [2.0, 4.0, 10.0]);
        let host = Host::measure();
        assert!((1.0..=10.0).contains(&host.slow) && (1.0..=8.0).contains(&host.busy), "{host:?}");
    }

    #[test]
    fn the_kernel_tells_what_a_process_used() {
        // Not this one: threads of other tests end, and take their figures along.
        let mut child = std::process::Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap();
        let (started, before) = (Instant::now(), used(child.id()).unwrap());
        let mut after = before;
        while after.ran <= before.ran && started.elapsed() < Duration::from_secs(60) {
            thread::sleep(Duration::from_millis(20));
            after = used(child.id()).unwrap();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(after.ran > before.ran && after.waited >= before.waited, "{before:?} {after:?}");
        assert!(used(u32::MAX).is_none());
    }

    #[test]
    fn time_passes_for_one_that_sleeps() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        // Until it sleeps, it waits for a CPU as well.
        thread::sleep(Duration::from_secs(1));
        let mut pace = Pace::start(child.id());
        for _ in 0..8 {
            thread::sleep(Duration::from_millis(50));
            pace.tick();
        }
        let passed = pace.passed();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(passed >= Duration::from_millis(300) && pace.slowed() < 2.0, "{pace:?}");
        // Gone: the host's clock goes on.
        thread::sleep(PERIOD);
        pace.tick();
        assert!(pace.passed() >= passed + PERIOD / 2, "{pace:?}");
    }
}
