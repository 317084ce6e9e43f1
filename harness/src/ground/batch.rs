// SPDX-License-Identifier: GPL-2.0-only
//! Work side by side, packed by the CPUs that each part needs.

use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;

/// Hosts with fewer CPUs do one thing at a time: QEMU has a thread for each hart, and harts that wait for
/// each other make no progress.
const LEAST_CPUS: usize = 8;

/// CPUs that are free.
struct Slots {
    free: Mutex<usize>,
    freed: Condvar,
}

impl Slots {
    fn take(&self, number: usize) {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        while *free < number {
            free = self.freed.wait(free).unwrap_or_else(PoisonError::into_inner);
        }
        *free -= number;
    }

    fn give(&self, number: usize) {
        *self.free.lock().unwrap_or_else(PoisonError::into_inner) += number;
        self.freed.notify_all();
    }
}

/// As [`side_by_side`], for machines: one after the other on a small host.
pub fn packed<T: Sync, R: Send>(
    items: &[T],
    cpus: usize,
    need: impl Fn(&T) -> usize,
    work: impl Fn(&T) -> R + Sync,
) -> Vec<R> {
    if cpus < LEAST_CPUS { items.iter().map(work).collect() } else { side_by_side(items, cpus, need, work) }
}

/// Does `work` for each of `items` on a host with `cpus` CPUs, at least one, of which each item occupies as many as
/// `need` says. Items start in their order, and the results have it, too.
pub fn side_by_side<T: Sync, R: Send>(
    items: &[T],
    cpus: usize,
    need: impl Fn(&T) -> usize,
    work: impl Fn(&T) -> R + Sync,
) -> Vec<R> {
    let cpus = cpus.max(1);
    let slots = Slots { free: Mutex::new(cpus), freed: Condvar::new() };
    let (slots, work) = (&slots, &work);
    thread::scope(|scope| {
        let start = |item| {
            let number = need(item).clamp(1, cpus);
            slots.take(number);
            scope.spawn(move || {
                let result = work(item);
                slots.give(number);
                result
            })
        };
        let threads: Vec<_> = items.iter().map(start).collect();
        // A panic of one of them is one of all.
        threads.into_iter().map(|t| t.join().unwrap_or_else(|e| std::panic::resume_unwind(e))).collect()
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::{Duration, Instant};

    use super::*;

    /// The most that ran at the same time, in CPUs. Each part waits until `together` of them were in use, however
    /// busy the host is, and then a moment longer, so that more would show.
    fn most(cpus: usize, needs: &[usize], together: usize) -> usize {
        let (now, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let results = packed(
            needs,
            cpus,
            |need| *need,
            |need| {
                let number = need.clamp(&1, &cpus);
                most.fetch_max(now.fetch_add(*number, Ordering::SeqCst) + number, Ordering::SeqCst);
                let start = Instant::now();
                while most.load(Ordering::SeqCst) < together && start.elapsed() < Duration::from_secs(60) {
                    thread::sleep(Duration::from_millis(1));
                }
                thread::sleep(Duration::from_millis(300));
                now.fetch_sub(*number, Ordering::SeqCst);
                *need
            },
        );
        assert_eq!(results, needs);
        most.into_inner()
    }

    #[test]
    fn results_keep_the_order_of_the_items() {
        let items: Vec<u32> = (0..7).collect();
        for jobs in [0, 1, 2, 3, 10] {
            assert_eq!(side_by_side(&items, jobs, |_| 1, |n| n * n), [0, 1, 4, 9, 16, 25, 36]);
        }
    }

    #[test]
    fn a_small_host_does_one_thing_at_a_time() {
        assert_eq!(most(4, &[1, 2, 1, 4], 1), 4);
        assert_eq!(most(7, &[1, 1, 1], 1), 1);
    }

    #[test]
    fn a_large_host_is_filled_and_not_overfilled() {
        assert_eq!(most(8, &[4, 4, 4, 4], 8), 8);
        assert_eq!(most(9, &[4, 4, 4], 8), 8);
        // More than there are: alone, then.
        assert_eq!(most(8, &[4, 72, 4], 4), 8);
        assert_eq!(most(8, &[0, 0], 2), 2);
    }
}
