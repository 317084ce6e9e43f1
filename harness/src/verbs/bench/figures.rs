// SPDX-License-Identifier: GPL-2.0-only
//! What a kernel costs in a workload: medians of several boots, and ratios to another kernel.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::counts::{Counts, Hart, Phase};

/// A hart maps if it announces more than so many mappings in a workload. The kernel may start a thread
/// on any hart, which takes one or two.
const FEW: u64 = 2;

/// The median of several runs, and how far they are apart.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread<T> {
    /// The lower one of the two in the middle, if there are two.
    pub median: T,
    /// The least of all runs.
    pub least: T,
    /// The most of all runs.
    pub most: T,
}

impl<T: Copy + PartialOrd> Spread<T> {
    /// Of these values, if there are any.
    pub fn new(values: impl Iterator<Item = T>) -> Option<Self> {
        let mut values: Vec<T> = values.collect();
        values.sort_by(|a, b| a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal));
        let (least, most) = (*values.first()?, *values.last()?);
        Some(Self { median: values[(values.len() - 1) / 2], least, most })
    }
}

impl fmt::Display for Spread<u64> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.median)?;
        if self.least < self.most { write!(f, " [{}..{}]", self.least, self.most) } else { Ok(()) }
    }
}

impl fmt::Display for Spread<f64> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2}", self.median)?;
        let (least, most) = (format!("{:.2}", self.least), format!("{:.2}", self.most));
        if least == most { Ok(()) } else { write!(f, " [{least}..{most}]") }
    }
}

/// A part of the harts.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Part {
    /// How many harts these are.
    pub harts: Spread<u64>,
    /// Executed `sfence.vma` and `sinval.vma`.
    pub fences: Spread<u64>,
    /// Spurious faults, each of which is one of these fences.
    pub spurious_faults: Spread<u64>,
}

/// A kernel in a workload.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Figures {
    /// How many things the workload did.
    pub amount: u64,
    /// Announcements of new mappings.
    pub announcements: Spread<u64>,
    /// Harts that map.
    pub mapping: Part,
    /// Harts that do not.
    pub others: Part,
    /// Interrupts of other harts, one for each hart that is interrupted.
    pub ipis: Spread<u64>,
    /// Fences that the firmware was asked for, one for each hart.
    pub remote_fences: Spread<u64>,
    /// Tasks that were started or moved to another hart.
    pub new_tasks: Spread<u64>,
    /// Instructions of all harts.
    pub instructions: Spread<u64>,
    /// Time by the guest's clock.
    pub nanoseconds: Spread<u64>,
    /// Instructions as a multiple of those of [`super::BASE`] in the same run.
    pub instructions_ratio: Option<Spread<f64>>,
    /// The same of the time.
    pub time_ratio: Option<Spread<f64>>,
}

fn sum(phase: &Phase, of: impl Fn(&Hart) -> bool) -> Hart {
    phase.harts.iter().filter(|hart| of(hart)).fold(Hart::default(), |sum, hart| sum.plus(hart))
}

fn maps(hart: &Hart) -> bool {
    hart.announcements > FEW
}

impl Figures {
    /// Of boots of a kernel, and of the kernel to compare with in the same runs, if that was measured.
    fn new(boots: &[&Phase], base: Option<&[&Phase]>) -> Option<Self> {
        let of = |value: &dyn Fn(&Phase) -> u64| Spread::new(boots.iter().map(|phase| value(phase)));
        let part = |mapping: bool| {
            let in_part = move |hart: &Hart| maps(hart) == mapping;
            Some(Part {
                harts: of(&|p| p.harts.iter().filter(|hart| in_part(hart)).count() as u64)?,
                fences: of(&|p| sum(p, in_part).fences)?,
                spurious_faults: of(&|p| sum(p, in_part).absorbed)?,
            })
        };
        let all = |value: fn(&Hart) -> u64| of(&|p| value(&sum(p, |_| true)));
        let ratio = |value: fn(&Phase) -> u64| {
            let pairs = boots.iter().zip(base?).filter(|(_, base)| value(base) > 0);
            Spread::new(pairs.map(|(phase, base)| value(phase) as f64 / value(base) as f64))
        };
        Some(Self {
            amount: boots.first()?.amount,
            announcements: all(|h| h.announcements)?,
            mapping: part(true)?,
            others: part(false)?,
            ipis: all(|h| h.ipis)?,
            remote_fences: all(|h| h.remote_fences)?,
            new_tasks: all(|h| h.new_tasks + h.migrations)?,
            instructions: of(&|p| p.instructions)?,
            nanoseconds: of(&|p| p.nanoseconds)?,
            instructions_ratio: ratio(|p| p.instructions),
            time_ratio: ratio(|p| p.nanoseconds),
        })
    }

    /// Fences of all harts, medians.
    pub fn fences(&self) -> u64 {
        self.mapping.fences.median + self.others.fences.median
    }

    /// Fences of harts that do not map, other than those for their own spurious faults: a hart that takes
    /// one touches what is new.
    pub fn needless(&self) -> u64 {
        self.others.fences.median.saturating_sub(self.others.spurious_faults.median)
    }

    /// The same for each announcement.
    pub fn per_announcement(&self) -> Option<f64> {
        let announcements = self.announcements.median;
        (announcements > 0).then(|| self.needless() as f64 / announcements as f64)
    }
}

/// All workloads of a kernel, by name.
pub type Workloads = BTreeMap<&'static str, Figures>;

/// The figures of all workloads in these boots, compared with those of another kernel.
///
/// # Errors
/// When there is no boot, or they are not alike.
pub fn figures(boots: &[Counts], base: Option<&[Counts]>) -> Result<Workloads, String> {
    let first = boots.first().ok_or("there was no run")?;
    let mut all = BTreeMap::new();
    for name in first.phases.keys().copied() {
        let of =
            |boots: &[Counts]| -> Vec<Phase> { boots.iter().filter_map(|b| b.phases.get(name)).cloned().collect() };
        let (own, base) = (of(boots), base.map(of));
        if own.len() != boots.len() || own.iter().any(|phase| phase.amount != own[0].amount) {
            return Err(format!("{name} is not the same in all runs"));
        }
        let own: Vec<&Phase> = own.iter().collect();
        let base: Option<Vec<&Phase>> = base.as_ref().map(|base| base.iter().collect());
        let figures = Figures::new(&own, base.as_deref()).ok_or("there was no run")?;
        all.insert(name, figures);
    }
    Ok(all)
}

/// A kernel, and its figures or why there are none.
#[derive(Clone, Debug)]
pub struct Measured {
    /// The kernel's name.
    pub kernel: &'static str,
    /// Its figures.
    pub figures: Result<Workloads, String>,
}

/// The kernels on one machine.
#[derive(Clone, Debug)]
pub struct Place {
    /// Number of harts.
    pub harts: u32,
    /// The machine's name.
    pub machine: String,
    /// The kernels.
    pub kernels: Vec<Measured>,
}

impl Place {
    /// The figures of a kernel in a workload.
    pub fn find(&self, kernel: &str, workload: &str) -> Option<&Figures> {
        self.kernels.iter().find(|m| m.kernel == kernel)?.figures.as_ref().ok()?.get(workload)
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A hart with these fences and announcements. Half of the fences of one that maps are for spurious
    /// faults.
    fn hart(fences: u64, announcements: u64) -> Hart {
        let absorbed = if announcements > FEW { fences / 2 } else { 0 };
        Hart { fences, absorbed, announcements, ipis: 1, new_tasks: 1, migrations: 1, ..Hart::default() }
    }

    fn phase(instructions: u64, harts: &[(u64, u64)]) -> Phase {
        let harts = harts.iter().map(|&(fences, announcements)| hart(fences, announcements)).collect();
        Phase { amount: 400, nanoseconds: instructions * 2, instructions, harts }
    }

    fn boot(instructions: u64, harts: &[(u64, u64)]) -> Counts {
        let phases = ["bpf-maps", "fix-size"].map(|name| (name, phase(instructions, harts)));
        Counts { phases: phases.into(), total: Hart::default() }
    }

    /// A kernel that has so many fences on a hart that does not map, and executes so many instructions;
    /// the base executes 1000.
    pub fn measured(kernel: &'static str, fences: u64, instructions: u64) -> Measured {
        let base = [boot(1000, &[(0, 0)])];
        Measured { kernel, figures: figures(&[boot(instructions, &[(fences, 1), (399, 400)])], Some(&base)) }
    }

    /// Kernels on a machine of two harts.
    pub fn place(kernels: Vec<Measured>) -> Place {
        Place { harts: 2, machine: "stale".to_owned(), kernels }
    }

    #[test]
    fn harts_that_map_are_told_from_the_others() {
        let all = figures(&[boot(10, &[(7, 0), (5, 2), (300, 3)])], None).unwrap();
        let figures = &all["bpf-maps"];
        assert_eq!((figures.others.harts.median, figures.others.fences.median), (2, 12));
        assert_eq!((figures.mapping.harts.median, figures.mapping.spurious_faults.median), (1, 150));
        assert_eq!((figures.announcements.median, figures.ipis.median, figures.new_tasks.median), (5, 3, 6));
        assert_eq!((figures.fences(), figures.per_announcement()), (312, Some(2.4)));
        assert_eq!((figures.amount, figures.time_ratio), (400, None));
        let quiet = super::figures(&[boot(10, &[(7, 0)])], None).unwrap();
        assert_eq!(quiet["fix-size"].per_announcement(), None);
    }

    #[test]
    fn several_runs_have_a_median_and_a_spread() {
        let fences = |all: &[u64]| {
            let boots: Vec<Counts> = all.iter().map(|fences| boot(10, &[(*fences, 0)])).collect();
            figures(&boots, None).unwrap()["bpf-maps"].others.fences
        };
        assert_eq!(fences(&[7]).to_string(), "7");
        assert_eq!(fences(&[9, 1, 4]).to_string(), "4 [1..9]");
        assert_eq!(fences(&[9, 1, 4, 5]), Spread { median: 4, least: 1, most: 9 });
        assert!(figures(&[], None).is_err());
        let mut other = boot(10, &[(1, 0)]);
        other.phases.get_mut("fix-size").unwrap().amount = 7;
        assert!(figures(&[boot(10, &[(1, 0)]), other], None).unwrap_err().contains("fix-size"));
    }

    #[test]
    fn ratios_are_of_the_same_run() {
        let own = [boot(100, &[(1, 0)]), boot(300, &[(1, 0)]), boot(130, &[(1, 0)])];
        let base = [boot(100, &[(1, 0)]), boot(100, &[(1, 0)]), boot(104, &[(1, 0)])];
        let ratio = figures(&own, Some(&base)).unwrap()["bpf-maps"].instructions_ratio.unwrap();
        assert_eq!(ratio.to_string(), "1.25 [1.00..3.00]");
        let nothing = [boot(0, &[(1, 0)])];
        assert_eq!(figures(&own[..1], Some(&nothing)).unwrap()["bpf-maps"].time_ratio, None);
    }
}
