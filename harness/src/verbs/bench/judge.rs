// SPDX-License-Identifier: GPL-2.0-only
//! Compares the figures with what they may be: `harness/bench.toml`.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::figures::{Figures, Place};
use super::{ANY_SWITCH, BASE};
use crate::build::kernel::SERIES;
use crate::ground::error::{Error, Result};
use crate::ground::{files, toml_file};
use crate::trial::verdict::Verdict;

/// The budget, in the repository.
const FILE: &str = "harness/bench.toml";
/// Workloads in which one hart maps and all others do something else.
const VICTIMS: [&str; 3] = ["bpf-maps", "vm-map-ram", "erofs"];
/// The workloads of test_vmalloc.
const VMALLOC: [&str; 3] = ["fix-size", "full-fit", "busy-list"];

/// What the series may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Budget {
    /// Fences of harts that map nothing.
    pub victims: Percent,
    /// Instructions and fences of test_vmalloc.
    pub test_vmalloc: Noisy,
    /// How far the kernel that disturbs everybody must stand out.
    pub apart: Apart,
}

/// A part of what another kernel costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Percent {
    /// The part, in percent.
    pub percent: u64,
}

/// A part of what another kernel costs, that differs from run to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Noisy {
    /// The part, in percent.
    pub percent: u64,
    /// By how much more runs of one kernel differ, in percent of it.
    pub noise: u64,
}

/// A least figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Apart {
    /// In percent of another one.
    pub percent: u64,
    /// Whatever the other one is.
    pub least: u64,
}

impl Budget {
    /// Reads the file in the repository `root`.
    ///
    /// # Errors
    /// When it cannot be read (exit code 2), or is wrong (64).
    pub fn load(root: &Path) -> Result<Self> {
        let file = root.join(FILE);
        let text = files::read_text(&file)?;
        toml_file::parse(&text).map_err(|why| Error::usage(format!("{FILE}{why}; correct the file")))
    }
}

/// A figure, compared with what it may be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What is compared.
    pub name: String,
    /// The judgement.
    pub verdict: Verdict,
    /// The figures, or why there are none.
    pub why: String,
}

type Judged = Result<(Verdict, String), String>;

/// Judges all kernels on all machines.
pub fn judge(budget: &Budget, places: &[Place]) -> Vec<Check> {
    let mut checks = Vec::new();
    for place in places {
        let on = format!("on {}, {} hart{}", place.machine, place.harts, if place.harts == 1 { "" } else { "s" });
        let mut check = |name: String, judged: Judged| {
            let (verdict, why) = judged.unwrap_or_else(|why| (Verdict::Error, why));
            checks.push(Check { name: format!("{name} {on}"), verdict, why });
        };
        for measured in &place.kernels {
            let counted = measured.figures.as_ref().map(|all| (Verdict::Pass, format!("{} workloads", all.len())));
            check(format!("counts of {}", measured.kernel), counted.map_err(Clone::clone));
        }
        if place.harts > 1 {
            for workload in VICTIMS {
                let judged =
                    both(place, [SERIES, BASE], workload).and_then(|(series, base)| victims(budget, series, base));
                check(format!("victims of {SERIES} in {workload}"), judged);
            }
        }
        if place.harts > 1 && place.kernels.iter().any(|measured| measured.kernel == ANY_SWITCH) {
            let judged = both(place, [ANY_SWITCH, SERIES], VICTIMS[0]).map(|(any, series)| apart(budget, any, series));
            check(format!("victims of {ANY_SWITCH} in {}", VICTIMS[0]), judged);
        }
        let here = |workload: &&&str| {
            super::counts::workloads(super::long(SERIES, place.harts)).any(|(_, name, _)| name == **workload)
        };
        for workload in VMALLOC.iter().filter(here) {
            let judged = both(place, [SERIES, BASE], workload)
                .and_then(|(series, base)| vmalloc(budget, series, base, place.harts));
            check(format!("{SERIES} in {workload}"), judged);
        }
    }
    if checks.is_empty() {
        let why = "nothing was measured".to_owned();
        checks.push(Check { name: "machines".to_owned(), verdict: Verdict::Error, why });
    }
    checks
}

/// The figures of two kernels.
fn both<'a>(place: &'a Place, kernels: [&str; 2], workload: &str) -> Result<(&'a Figures, &'a Figures), String> {
    let find =
        |kernel: &str| place.find(kernel, workload).ok_or_else(|| format!("the kernel {kernel} was not measured"));
    Ok((find(kernels[0])?, find(kernels[1])?))
}

fn passes(ok: bool) -> Verdict {
    if ok { Verdict::Pass } else { Verdict::Fail }
}

/// The series against the kernel without any fence at the switch. A purge of vmalloc in between makes each victim fence
/// once more.
fn victims(budget: &Budget, series: &Figures, base: &Figures) -> Judged {
    for figures in [series, base] {
        // If the wrong harts count as victims, the comparison is worth nothing.
        if figures.mapping.harts.median != 1 {
            return Err(format!("{} harts map, and one should", figures.mapping.harts));
        }
    }
    let (fences, of) = (series.needless(), base.needless());
    let new = series.new_tasks.median;
    let harts = series.others.harts.median;
    let most = of * budget.victims.percent / 100 + new + harts;
    let why = format!(
        "{fences} fences; at most {most} for {of} of {BASE}, {new} new or migrated tasks, and {harts} for luck"
    );
    Ok((passes(fences <= most), why))
}

/// The kernel that disturbs everybody must stand out, or no kernel would.
fn apart(budget: &Budget, any: &Figures, series: &Figures) -> (Verdict, String) {
    let (any, series) = (any.needless(), series.needless());
    let least = (series * budget.apart.percent / 100).max(budget.apart.least);
    let told = if any >= least { "" } else { ", so the bench cannot tell kernels apart" };
    let verdict = if any >= least { Verdict::Pass } else { Verdict::Error };
    (verdict, format!("{any} fences, at least {least} expected{told}"))
}

/// Instructions, time and fences. One more purge of vmalloc, which makes all harts fence, is a matter of luck, and so are
/// a second one and a spurious fault more on each hart. Whatever costs more shows in the time, and in the instructions: these alone differ by 5 % from one boot
/// to the next, because harts that wait execute some as well.
fn vmalloc(budget: &Budget, series: &Figures, base: &Figures, harts: u32) -> Judged {
    let nothing = || format!("the kernel {BASE} executed nothing");
    let instructions = series.instructions_ratio.ok_or_else(nothing)?.median;
    let time = series.time_ratio.ok_or_else(nothing)?.median;
    let Noisy { percent, noise } = budget.test_vmalloc;
    let limit = (percent + noise) as f64 / 100.0;
    let (fences, of) = (series.fences(), base.fences());
    let most = of * percent / 100 + 3 * u64::from(harts);
    let why = format!(
        "{instructions:.3} × the instructions and {time:.3} × the time, one of them at most {limit:.2}; {fences} fences, at \
         most {most} for {of} of {BASE}"
    );
    Ok((passes(instructions.min(time) <= limit && fences <= most), why))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::figures::Measured;
    use super::super::figures::tests::{measured, place};
    use super::*;

    fn budget() -> Budget {
        Budget::load(Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()).unwrap()
    }

    /// Verdicts by the words that a check's name starts with, for these fences of the victims and
    /// instructions of the series.
    fn verdicts(series: u64, base: u64, any: u64, instructions: u64) -> [Verdict; 3] {
        let kernels =
            vec![measured(SERIES, series, instructions), measured(BASE, base, 1000), measured(ANY_SWITCH, any, 1000)];
        let checks = judge(&budget(), &[place(kernels)]);
        let find = |start: &str, end: &str| {
            let mut found = checks.iter().filter(|c| c.name.starts_with(start) && c.name.contains(end));
            found.next().unwrap_or_else(|| panic!("{start} {end}: {checks:?}")).verdict
        };
        assert_eq!(find("counts of series", ""), Verdict::Pass);
        [find("victims of series", "bpf-maps"), find("victims of fence-at", "bpf-maps"), find("series in", "fix-size")]
    }

    #[test]
    fn the_budget_has_a_few_percent_and_one_for_each_new_task() {
        use Verdict::{Fail, Pass};
        // Two harts, each with a new and a migrated task; one of them is a victim.
        assert_eq!(verdicts(110, 100, 700, 1000), [Pass, Pass, Fail]);
        assert_eq!(verdicts(111, 100, 700, 1000)[0], Fail);
        assert_eq!(verdicts(5, 0, 700, 1000), [Pass, Pass, Pass]);
        assert_eq!(verdicts(6, 0, 700, 1000), [Fail, Pass, Pass]);
        assert_eq!(verdicts(7, 0, 700, 1000), [Fail, Pass, Fail]);
    }

    #[test]
    fn a_hart_may_fence_for_what_it_touches() {
        let touching = |fences: u64, faults: u64| {
            let mut measured = measured(SERIES, fences, 1000);
            for figures in measured.figures.as_mut().unwrap().values_mut() {
                figures.others.spurious_faults.median = faults;
            }
            let checks = judge(&budget(), &[place(vec![measured, measured_base()])]);
            checks.iter().find(|c| c.name.starts_with("victims of series in bpf-maps")).unwrap().verdict
        };
        assert_eq!(touching(105, 100), Verdict::Pass);
        assert_eq!(touching(106, 100), Verdict::Fail);
    }

    fn measured_base() -> Measured {
        measured(BASE, 0, 1000)
    }

    #[test]
    fn test_vmalloc_may_not_execute_more() {
        use Verdict::{Fail, Pass};
        assert_eq!(verdicts(0, 0, 700, 900)[2], Pass);
        assert_eq!(verdicts(0, 0, 700, 1030)[2], Pass);
        assert_eq!(verdicts(0, 0, 700, 1031)[2], Fail);
        // Time is what the test itself measures.
        let mut waiting = measured(SERIES, 0, 1050);
        waiting.figures.as_mut().unwrap().get_mut("fix-size").unwrap().time_ratio.as_mut().unwrap().median = 1.0;
        let checks = judge(&budget(), &[place(vec![waiting, measured_base()])]);
        assert_eq!(checks.iter().find(|c| c.name.starts_with("series in fix-size")).unwrap().verdict, Pass);
    }

    #[test]
    fn a_bench_that_sees_no_difference_is_an_error() {
        use Verdict::{Error, Pass};
        assert_eq!(verdicts(100, 100, 200, 1000)[1], Pass);
        assert_eq!(verdicts(100, 100, 199, 1000)[1], Error);
        // Twice nothing is nothing.
        assert_eq!(verdicts(0, 0, 79, 1000)[1], Error);
        assert_eq!(verdicts(0, 0, 80, 1000)[1], Pass);
    }

    #[test]
    fn what_was_not_measured_is_an_error() {
        let lost = Measured { kernel: BASE, figures: Err("it died".to_owned()) };
        let checks = judge(&budget(), &[place(vec![measured(SERIES, 0, 1000), lost])]);
        let wrong: Vec<&Check> = checks.iter().filter(|check| check.verdict == Verdict::Error).collect();
        assert_eq!((checks.len(), wrong.len()), (8, 7), "{checks:?}");
        assert_eq!(wrong[0].why, "it died");
        assert!(wrong[1].why.contains(BASE) && wrong[1].name.ends_with("on stale, 2 harts"), "{:?}", wrong[1]);
        assert!(judge(&budget(), &[]).iter().all(|check| check.verdict == Verdict::Error));
    }

    #[test]
    fn a_file_that_is_wrong_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Budget::load(dir.path()).is_err());
        fs::create_dir(dir.path().join("harness")).unwrap();
        fs::write(dir.path().join(FILE), "[victims]\npercent = \"all\"\n").unwrap();
        let error = Budget::load(dir.path()).unwrap_err();
        assert!(error.message.starts_with("harness/bench.toml:2:"), "{error}");
    }
}
