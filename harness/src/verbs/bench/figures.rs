// SPDX-License-Identifier: GPL-2.0-only
//! What a boot counted, and what the announcements in it added.

use std::fmt;

use serde::Serialize;

use crate::boot::machine::{Counters, HartCounters};

/// What a hart does in the workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// It switches between two tasks, and maps nothing.
    Victim,
    /// It makes the maps.
    Producer,
}

/// The counts of one boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Maps that were made, each of which is one announcement.
    pub announcements: u64,
    /// Context switches between the pairs of tasks.
    pub switches: u64,
    /// The hart that makes the maps.
    pub producer: u64,
    /// What QEMU counted on each hart.
    pub harts: Vec<HartCounters>,
}

impl Counts {
    /// Puts together what the guest printed and what QEMU counted.
    ///
    /// # Errors
    /// When something is missing, or the harts do not add up to the total.
    pub fn new(notes: &[&str], harts: Vec<HartCounters>, total: Counters) -> Result<Self, String> {
        let number = |name: &str| {
            let mut found = notes.iter().filter_map(|note| note.strip_prefix(name)?.strip_prefix(": "));
            match (found.next().map(str::parse::<u64>), found.next()) {
                (Some(Ok(number)), None) => Ok(number),
                _ => Err(format!("the guest did not print `{name}: N` once")),
            }
        };
        let (announcements, switches) = (number("announcements")?, number("switches")?);
        let producer = number("producer")?;
        let sum = |of: fn(&HartCounters) -> u64| harts.iter().map(of).sum::<u64>();
        let sums = (harts.len() as u64, sum(|h| h.stale_hits), sum(|h| h.fences));
        if sums != (total.harts, total.stale_hits, total.fences) {
            return Err("the counters of the harts do not add up to QEMU's total".to_owned());
        }
        if !harts.iter().any(|h| h.hart == producer) {
            return Err(format!("the guest makes the maps on hart {producer}, which QEMU does not have"));
        }
        Ok(Self { announcements, switches, producer, harts })
    }

    fn role(&self, hart: u64) -> Role {
        if hart == self.producer { Role::Producer } else { Role::Victim }
    }

    /// The numbers of the harts, and who makes the maps.
    fn places(&self) -> Vec<(u64, Role)> {
        self.harts.iter().map(|h| (h.hart, self.role(h.hart))).collect()
    }
}

/// A boot with announcements and one without, everything else alike.
#[derive(Clone, Debug)]
pub struct Pair {
    /// With them.
    pub with: Counts,
    /// Without.
    pub without: Counts,
}

/// The median of several runs, and how far they are apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Spread {
    /// The lower one of the two in the middle, if there are two.
    pub median: i64,
    /// The least of all runs.
    pub least: i64,
    /// The most of all runs.
    pub most: i64,
}

impl Spread {
    fn new(values: impl Iterator<Item = i64>) -> Self {
        let mut values: Vec<i64> = values.collect();
        values.sort_unstable();
        let at = |place: usize| values.get(place).copied().unwrap_or_default();
        let last = values.len().saturating_sub(1);
        Self { median: at(last / 2), least: at(0), most: at(last) }
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.median)?;
        if self.least < self.most { write!(f, " [{}..{}]", self.least, self.most) } else { Ok(()) }
    }
}

/// What the announcements added.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Added {
    /// Executed `sfence.vma`.
    pub fences: Spread,
    /// Page faults on PTEs that were already valid. Most kernels fence once for each, so these are
    /// among the fences.
    pub spurious_faults: Spread,
}

impl Added {
    /// On all harts that `select` takes.
    fn new(pairs: &[Pair], select: impl Fn(&HartCounters) -> bool) -> Self {
        let added = |of: fn(&HartCounters) -> u64| {
            let sum = |counts: &Counts| counts.harts.iter().filter(|h| select(h)).map(of).sum::<u64>();
            Spread::new(pairs.iter().map(|pair| sum(&pair.with).wrapping_sub(sum(&pair.without)) as i64))
        };
        Self { fences: added(|h| h.fences), spurious_faults: added(|h| h.stale_hits) }
    }
}

/// What they added on one hart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HartFigures {
    /// Its number.
    pub hart: u64,
    /// What it does.
    pub role: Role,
    /// The figures.
    #[serde(flatten)]
    pub added: Added,
}

/// All figures of a kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Figures {
    /// Announcements of a run.
    pub announcements: u64,
    /// Context switches between the pairs of tasks while they were made.
    pub switches: Spread,
    /// One for each hart, in order.
    pub harts: Vec<HartFigures>,
    /// The sum over all harts but the producer.
    pub victims: Added,
}

impl Figures {
    /// The figures of these runs.
    ///
    /// # Errors
    /// When there are none, or they are not alike.
    pub fn new(pairs: &[Pair]) -> Result<Self, String> {
        let first = &pairs.first().ok_or("there was no run")?.with;
        let all = || pairs.iter().flat_map(|pair| [&pair.with, &pair.without]);
        if all().any(|counts| counts.places() != first.places()) {
            return Err("the harts are not the same in all boots".to_owned());
        }
        if pairs.iter().any(|p| p.with.announcements != first.announcements || p.without.announcements != 0) {
            return Err("the announcements are not the same in all runs".to_owned());
        }
        let hart = |(hart, role)| HartFigures { hart, role, added: Added::new(pairs, |h| h.hart == hart) };
        Ok(Self {
            announcements: first.announcements,
            switches: Spread::new(pairs.iter().map(|pair| pair.with.switches as i64)),
            harts: first.places().into_iter().map(hart).collect(),
            victims: Added::new(pairs, |h| h.hart != first.producer),
        })
    }
}

/// A kernel and its figures, or why there are none.
#[derive(Clone, Debug)]
pub struct Measured {
    /// The kernel's name.
    pub kernel: &'static str,
    /// Its figures.
    pub figures: Result<Figures, String>,
}

/// The figures of `kernel`.
pub fn find<'a>(measured: &'a [Measured], kernel: &str) -> Option<&'a Figures> {
    measured.iter().find(|m| m.kernel == kernel)?.figures.as_ref().ok()
}

/// The victims' fences as a multiple of those of another kernel, if that has any.
pub fn ratio(of: &Figures, to: &Figures) -> Option<f64> {
    let [of, to] = [of, to].map(|figures| figures.victims.fences.median);
    (to > 0).then(|| (of as f64 / to as f64 * 100.0).round() / 100.0)
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// The counts of a boot in which harts have these fences and faults; the last one makes the maps.
    fn counts(announcements: u64, harts: &[(u64, u64)]) -> Counts {
        let all = harts.iter().enumerate();
        let harts = all.map(|(hart, &(fences, stale_hits))| HartCounters { hart: hart as u64, stale_hits, fences });
        let harts: Vec<_> = harts.collect();
        Counts { announcements, switches: 6000, producer: harts.len() as u64 - 1, harts }
    }

    /// A kernel with this many fences on each of two victims, and faults on the second.
    pub fn measured(kernel: &'static str, fences: [u64; 2], faults: u64) -> Measured {
        let without = counts(0, &[(1000, 10), (10, 0), (20, 2)]);
        let with = counts(1200, &[(1000 + fences[0], 10), (10 + fences[1], faults), (1220, 1102)]);
        Measured { kernel, figures: Figures::new(&[Pair { with, without }]) }
    }

    #[test]
    fn notes_and_counters_make_counts() {
        let harts = counts(0, &[(3, 1), (4, 0)]).harts;
        let total = Counters { harts: 2, stale_hits: 1, fences: 7 };
        let notes = ["producer: 1", "announcements: 1200", "switches: 60000", "hart: 7"];
        let read = |notes: &[&str], total| Counts::new(notes, harts.clone(), total);
        let read_all = read(&notes, total).unwrap();
        assert_eq!((read_all.announcements, read_all.switches, read_all.producer), (1200, 60000, 1));
        assert_eq!(read_all.places(), [(0, Role::Victim), (1, Role::Producer)]);
        for at in 0..3 {
            let mut less = notes.to_vec();
            let gone = less.remove(at);
            let name = gone.split(':').next().unwrap();
            assert!(read(&less, total).unwrap_err().contains(name), "{gone}");
            assert!(read(&[&notes[..], &[gone]].concat(), total).is_err(), "{gone} twice");
        }
        assert!(read(&["producer: 2", notes[1], notes[2]], total).unwrap_err().contains("hart 2"));
        assert!(read(&["producer: one", notes[1], notes[2]], total).is_err());
        for total in
            [Counters { harts: 3, ..total }, Counters { stale_hits: 2, ..total }, Counters { fences: 8, ..total }]
        {
            assert!(read(&notes, total).unwrap_err().contains("add up"), "{total:?}");
        }
    }

    #[test]
    fn what_a_boot_without_announcements_has_is_subtracted() {
        let figures = measured("series", [70, 5], 4).figures.unwrap();
        assert_eq!((figures.announcements, figures.switches.median, figures.harts.len()), (1200, 6000, 3));
        let hart = |at: usize| (figures.harts[at].added.fences.median, figures.harts[at].added.spurious_faults.median);
        assert_eq!([hart(0), hart(1), hart(2)], [(70, 0), (5, 4), (1200, 1100)]);
        assert_eq!((figures.victims.fences.median, figures.victims.spurious_faults.median), (75, 4));
        assert_eq!(figures.harts.iter().filter(|h| h.role == Role::Producer).map(|h| h.hart).sum::<u64>(), 2);
        // It may be less with them.
        let pair = Pair { with: counts(9, &[(5, 0), (5, 0)]), without: counts(0, &[(8, 0), (5, 0)]) };
        assert_eq!(Figures::new(&[pair]).unwrap().victims.fences.median, -3);
    }

    #[test]
    fn several_runs_have_a_median_and_a_spread() {
        let pair = |fences| Pair { with: counts(9, &[(fences, 0), (9, 0)]), without: counts(0, &[(0, 0), (0, 0)]) };
        let fences = |all: &[u64]| {
            let pairs: Vec<Pair> = all.iter().copied().map(pair).collect();
            Figures::new(&pairs).unwrap().victims.fences
        };
        assert_eq!(fences(&[7]).to_string(), "7");
        assert_eq!(fences(&[9, 1, 4]).to_string(), "4 [1..9]");
        assert_eq!(fences(&[9, 1, 4, 5]), Spread { median: 4, least: 1, most: 9 });
        assert!(Figures::new(&[]).is_err());
        let other = Pair { with: counts(8, &[(0, 0), (9, 0)]), ..pair(1) };
        assert!(Figures::new(&[pair(1), other]).unwrap_err().contains("announcements"));
        let other = Pair { with: counts(9, &[(0, 0), (0, 0), (9, 0)]), ..pair(1) };
        assert!(Figures::new(&[pair(1), other]).unwrap_err().contains("harts"));
    }

    #[test]
    fn ratios_need_something_to_compare_with() {
        let of = |fences| measured("x", fences, 2).figures.unwrap();
        assert_eq!(ratio(&of([100, 50]), &of([50, 50])), Some(1.5));
        assert_eq!(ratio(&of([1, 0]), &of([2, 1])), Some(0.33));
        assert_eq!(ratio(&of([1, 0]), &of([0, 0])), None);
    }
}
