// SPDX-License-Identifier: GPL-2.0-only
//! `lazymap bench`: how much the mappings of one hart disturb the others.
//!
//! Each kernel boots twice, with and without a hart that makes new mappings, while the other harts
//! switch between tasks that touch none of them. The difference is what the mappings added: [`figures`].
//! [`judge`] compares kernels; [`table`] and [`page`] show them.

pub mod figures;
pub mod judge;
pub mod page;
pub mod table;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde::Serialize;

use self::figures::{Counts, Figures, Measured, Pair};
use self::judge::Check;
use super::demo::Kernels;
use crate::boot::machine::{LimitsGiven, Machine};
use crate::boot::{models, program};
use crate::build::kernel::{Config, Kernel, PREVENTIVE, SERIES};
use crate::build::workbench::{Lab, Workbench};
use crate::ground::error::{Error, Result};
use crate::ground::files;
use crate::options::base::BaseUsed;
use crate::trial::control;
use crate::trial::expect::Expect;
use crate::trial::plan::Trial;
use crate::trial::report::{self, shown};
use crate::trial::run;
use crate::trial::verdict::Verdict;

/// The control that never fences at a context switch, like mainline.
pub const FIRST: &str = "first-version";
/// The control that fences at each context switch that follows an announcement.
pub const ANY_SWITCH: &str = "fence-at-any-switch";
/// The kernels, in the order of the table.
const KERNELS: [&str; 4] = [SERIES, FIRST, ANY_SWITCH, PREVENTIVE];

/// The workload: a script for the guest's init, and a program.
const SCRIPT: (&str, &str) = ("test-bench.sh", include_str!("../../boot/guest/bench/test-bench.sh"));
const PROGRAM: (&str, &str) = ("victims", include_str!("../../boot/guest/bench/victims.c"));
/// Maps that are made, each of which is one announcement.
const MAPS: u32 = 1200;
/// Bytes that each pair of tasks exchanges at least, two switches each. That takes as long as the maps.
const ROUNDS: u32 = 10_000;
/// What the kernel gets on its command line. Harts other than the first start right before the
/// workload, and run nothing else, so that the boot and the housekeeping are not on their accounts.
const PARAMETERS: &str = "maxcpus=1 isolcpus=1-3 lazymap.online=1,2,3";
/// The guest is silent while the workload runs, for seconds to a minute.
const LIMITS: LimitsGiven = LimitsGiven { silence: Some(300), total: Some(900) };

/// A kernel in `results.json`.
#[derive(Serialize)]
struct Entry<'a> {
    kernel: &'a str,
    #[serde(flatten)]
    figures: Option<&'a Figures>,
    /// The victims' fences as a multiple of those of [`FIRST`].
    ratio: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

impl<'a> Entry<'a> {
    fn new(measured: &'a Measured, base: Option<&Figures>) -> Self {
        let figures = measured.figures.as_ref().ok();
        let ratio = figures.zip(base).and_then(|(figures, base)| figures::ratio(figures, base));
        Self { kernel: measured.kernel, figures, ratio, error: measured.figures.as_ref().err().map(String::as_str) }
    }
}

/// `results.json`.
#[derive(Serialize)]
struct Results<'a> {
    schema: u32,
    machine: String,
    cpu: String,
    harts: u32,
    runs: u32,
    rounds: u32,
    budget_percent: i64,
    budget_slack: i64,
    kernels: Vec<Entry<'a>>,
    checks: &'a [Check],
    base: &'a BaseUsed,
    toolchain: &'a BTreeMap<String, String>,
}

/// Measures all kernels in this many runs, prints the table, and writes `out/bench/results.json` and
/// `out/bench/index.html`.
///
/// # Errors
/// When the workload cannot be built, or the results cannot be written. Whatever goes wrong with a
/// kernel is in the checks.
pub fn run(lab: &mut Lab, kernels: &Kernels, runs: u32) -> Result<Vec<Check>> {
    let folder = lab.options.place("bench");
    report::start(&folder)?;
    files::remove(&folder.join("index.html"))?;
    let tests = folder.join("tests");
    workload(lab.clang(), &tests)?;
    let built = KERNELS.map(|name| (name, build(lab, kernels, name)));
    let tip = lab.tip.clone();
    lab.tree.check_out(&tip)?;
    let rig = Rig { bench: &lab.bench, tests: &tests, folder: &folder };
    let measure = |(kernel, built): (&'static str, Result<Kernel>)| {
        let figures = built.map_err(|e| e.message).and_then(|kernel| rig.measure(&kernel, runs));
        Measured { kernel, figures }
    };
    let measured: Vec<Measured> = built.into_iter().map(measure).collect();
    let checks = judge::judge(&measured);
    write(&lab.bench, &folder, runs, &measured, &checks)?;
    println!("\n{}", table::text(&measured));
    for check in &checks {
        println!("{}: {}: {}", check.verdict.name(), check.name, check.why);
    }
    println!("Figures and page: {}", shown(&lab.options.root, &folder));
    Ok(checks)
}

fn build(lab: &mut Lab, kernels: &Kernels, name: &str) -> Result<Kernel> {
    match name {
        SERIES | PREVENTIVE => kernels.named(name).cloned(),
        _ => control::kernel(lab, name, &Config::default()),
    }
}

/// Makes the folder with what runs in the guest.
fn workload(clang: &str, folder: &Path) -> Result<()> {
    files::remove(folder)?;
    let script = folder.join(SCRIPT.0);
    files::write_whole(&script, SCRIPT.1)?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).map_err(|e| Error::io("change", &script, e))?;
    program::compile(clang, PROGRAM.1, folder, PROGRAM.0)
}

/// Harts in lockstep, so that a boot with the same seed replays to the instruction.
fn machine(seed: u32) -> Result<Machine> {
    Ok(Machine { icount: true, seed: Some(seed), ..Machine::new(models::find("stale")?) })
}

/// A boot of `kernel` in which so many maps are made.
fn trial(kernel: &str, maps: u32, seed: u32, tests: &Path) -> Result<Trial> {
    let most = MAPS.to_string().len();
    // As long with as without, since the length of the command line shifts what comes after it.
    let append = format!("{PARAMETERS} lazymap.maps={maps:0most$} lazymap.rounds={ROUNDS}");
    let script = vec![(SCRIPT.0.to_owned(), Expect::Pass)];
    Ok(Trial {
        name: format!("{kernel}-{maps}-{seed}"),
        append,
        selftests: Some(tests.to_owned()),
        limits: LIMITS,
        ..Trial::new(kernel, machine(seed)?, script)
    })
}

/// What boots need.
struct Rig<'a> {
    bench: &'a Workbench,
    tests: &'a Path,
    folder: &'a Path,
}

impl Rig<'_> {
    /// Boots a kernel with and without announcements, once for each seed.
    fn measure(&self, kernel: &Kernel, runs: u32) -> Result<Figures, String> {
        let mut pairs = Vec::new();
        for seed in 1..=runs {
            pairs.push(Pair { without: self.boot(kernel, 0, seed)?, with: self.boot(kernel, MAPS, seed)? });
        }
        Figures::new(&pairs)
    }

    /// Boots a kernel once.
    fn boot(&self, kernel: &Kernel, maps: u32, seed: u32) -> Result<Counts, String> {
        let trial = trial(&kernel.name, maps, seed, self.tests).map_err(|e| e.message)?;
        let (done, booted) = run::kept(self.bench, &trial, Ok(kernel), self.folder);
        if let Some(report) = done.report {
            println!("{report}");
        }
        if let Some(row) = done.rows.iter().find(|row| row.verdict != Verdict::Pass) {
            return Err(format!("{}: {}", row.test, row.observed));
        }
        let booted = booted.ok_or("it was not booted")?;
        let notes = booted.report.find(SCRIPT.0).ok().flatten().map(|case| case.all_notes()).unwrap_or_default();
        let total = booted.run.counters?.ok_or("QEMU counted nothing")?;
        let counts = Counts::new(&notes, booted.run.harts?, total)?;
        match counts.announcements == u64::from(maps) {
            true => Ok(counts),
            false => Err(format!("{} of {maps} maps were made", counts.announcements)),
        }
    }
}

/// Writes `results.json` and the page.
fn write(bench: &Workbench, folder: &Path, runs: u32, measured: &[Measured], checks: &[Check]) -> Result<()> {
    let machine = machine(1)?;
    let base = figures::find(measured, FIRST);
    let results = Results {
        schema: 1,
        machine: machine.name(),
        cpu: machine.cpu(),
        harts: machine.harts,
        runs,
        rounds: ROUNDS,
        budget_percent: judge::PERCENT,
        budget_slack: judge::SLACK,
        kernels: measured.iter().map(|m| Entry::new(m, base)).collect(),
        checks,
        base: &bench.base_used,
        toolchain: &bench.toolchain,
    };
    let json = serde_json::to_string_pretty(&results).map_err(|e| Error::could_not(e.to_string()))?;
    files::write_whole(&folder.join("results.json"), json + "\n")?;
    let about = format!(
        "Linux {} on {} harts of the model {machine} in lockstep, {MAPS} BPF maps of 128 KiB, {runs} run{}.",
        bench.base_used.version,
        machine.harts,
        if runs == 1 { "" } else { "s" }
    );
    files::write_whole(&folder.join("index.html"), page::page(measured, checks, &about))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boots_differ_in_nothing_but_the_maps() {
        let of = |maps, seed| trial("series", maps, seed, Path::new("/tests")).unwrap();
        let (without, with) = (of(0, 1), of(MAPS, 1));
        assert_eq!(without.append.len(), with.append.len());
        assert_eq!(without.append.replace("maps=0000", "maps=1200"), with.append);
        assert_eq!(without.machine, with.machine);
        assert!(without.name != with.name && of(0, 2).name != without.name);
        assert!(of(0, 2).machine != without.machine, "each run has a seed of its own");
        assert!(with.machine.icount && with.machine.model.stale);
    }

    #[test]
    fn the_kernels_are_controls_of_the_project() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let all = control::load(root).unwrap();
        for name in KERNELS.into_iter().filter(|name| *name != SERIES) {
            assert!(all.iter().any(|control| control.name == name), "{name}");
        }
    }
}
