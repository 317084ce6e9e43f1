// SPDX-License-Identifier: GPL-2.0-only
//! Spurious faults that the tests of a boot have counted, compared with what QEMU has counted.
//!
//! A test counts those that its own touches met. QEMU counts all of the boot, so it must have at least as
//! many, and none on a machine whose harts remember nothing. The difference is what the kernel met while it
//! started, loaded modules and switched to new stacks, and what the kernel met for tests that are programs,
//! which cannot count. Where a scenario says how much that may be, more of it means that touches are no
//! longer counted, or no longer meet anything.

use super::seen::TestSeen;

/// How the diagnostics of a case begin that say how many it met.
const COUNTED: &str = "spurious faults: ";

/// Whether a note is a case's count.
pub fn is_count(note: &str) -> bool {
    note.trim().starts_with(COUNTED)
}

/// The sum over the cases of a test; `None` if none of them counts.
fn counted(test: &TestSeen<'_>) -> Option<u64> {
    let numbers = test.notes.iter().filter_map(|note| note.trim().strip_prefix(COUNTED)?.parse::<u64>().ok());
    numbers.fold(None, |sum, number| Some(sum.unwrap_or(0) + number))
}

/// The sum over all tests of a boot; `None` if none of them counts.
pub fn met(tests: &[TestSeen<'_>]) -> Option<u64> {
    tests.iter().filter_map(counted).reduce(|sum, number| sum + number)
}

/// Why the two counts cannot both be right, if so. `stale_hits` is `None` for a machine that has none.
pub fn contradiction(tests: &[TestSeen<'_>], stale_hits: Option<u64>) -> Option<String> {
    let met = met(tests).unwrap_or(0);
    let hits = stale_hits.unwrap_or(0);
    (met > hits).then(|| format!("the tests met {met} spurious faults, but QEMU counted {hits} stale hits"))
}

/// Why the tests met too few, if they met less than `percent` of the stale hits.
pub fn too_few(tests: &[TestSeen<'_>], stale_hits: u64, percent: u8) -> Option<String> {
    let met = met(tests).unwrap_or(0);
    let few = met.saturating_mul(100) < stale_hits.saturating_mul(percent.into());
    few.then(|| format!("the tests met {met} of {stale_hits} stale hits, which is less than {percent} %"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn test(notes: &[&str]) -> TestSeen<'static> {
        TestSeen { notes: notes.iter().map(|&note| note.to_owned()).collect(), ..TestSeen::default() }
    }

    #[test]
    fn cases_are_added_up() {
        let some = test(&["touches: 9", "spurious faults: 3", "in IPIs: 3 of 9 touches", "  spurious faults: 4"]);
        assert_eq!(counted(&some), Some(7));
        let none = test(&["touches: 9", "spurious faults are not counted: 3", "spurious faults met since boot: 12"]);
        assert_eq!(counted(&none), None);
        assert_eq!(counted(&test(&["spurious faults: 0"])), Some(0));
        assert!(is_count(" spurious faults: 3") && !is_count("spurious faults met since boot: 3"));
    }

    #[test]
    fn qemu_counts_all_of_them() {
        let tests = [test(&["spurious faults: 3"]), test(&[]), test(&["spurious faults: 4"])];
        assert_eq!(met(&tests), Some(7));
        assert_eq!(met(&[test(&[])]), None);
        assert_eq!(contradiction(&tests, Some(7)), None);
        assert_eq!(contradiction(&tests, Some(1000)), None);
        assert!(contradiction(&tests, Some(6)).unwrap().contains("met 7 spurious faults"));
        assert!(contradiction(&tests, None).unwrap().contains("counted 0 stale hits"));
        assert_eq!(contradiction(&[test(&["spurious faults: 0"]), test(&[])], None), None);
    }

    #[test]
    fn tests_that_stop_meeting_any_are_noticed() {
        let tests = [test(&["spurious faults: 3"]), test(&["spurious faults: 4"])];
        assert_eq!(too_few(&tests, 14, 50), None);
        assert!(too_few(&tests, 15, 50).unwrap().contains("met 7 of 15 stale hits"));
        assert!(too_few(&[test(&[])], 1, 1).is_some());
        assert_eq!(too_few(&tests, u64::MAX, 0), None);
    }
}
