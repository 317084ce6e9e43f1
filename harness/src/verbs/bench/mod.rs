// SPDX-License-Identifier: GPL-2.0-only
//! `lazymap bench`: what new kernel mappings cost, for several kernels side by side.
//!
//! Each kernel boots on machines of several sizes, and runs all workloads one after the other. A plugin
//! in QEMU counts what harts do in each of them: [`counts`]. [`figures`] has medians and ratios to
//! mainline, [`judge`] compares them with the budget; [`table`], [`plot`] and [`page`] show them.

pub mod counts;
pub mod figures;
pub mod judge;
pub mod page;
pub mod plot;
pub mod table;

use std::collections::BTreeMap;
use std::path::Path;

use lazymap_console::ktap;
use lazymap_console::log::Log;
use serde::Serialize;

use self::counts::Counts;
use self::figures::{Figures, Measured, Place, Workloads};
use self::judge::{Budget, Check};
use super::cost;
use super::demo::Kernels;
use crate::boot::machine::{self, Irq, LimitsGiven, Machine};
use crate::boot::{models, program};
use crate::build::kernel::{Config, Kernel, PREVENTIVE, SERIES};
use crate::build::workbench::{Lab, Workbench};
use crate::ground::cmd;
use crate::ground::error::{Error, Result};
use crate::ground::files;
use crate::ground::key::{self, Key};
use crate::hunt::symbols::Symbols;
use crate::options::Options;
use crate::options::base::BaseUsed;
use crate::source::host;
use crate::trial::control;
use crate::trial::expect::Expect;
use crate::trial::plan::Trial;
use crate::trial::report::{self, shown};
use crate::trial::run;
use crate::trial::verdict::Verdict;

/// The control that works as mainline does; all others are compared with it.
pub const BASE: &str = "mainline";
/// Mainline's mechanism with the fixes for stable kernels: the series up to the patch that only moves the announcement
/// out of line, where it can be counted.
const FIXES: &str = "fixes";
/// The topic that this patch begins.
const LAZY_MAP: &str = "lazy-map";
/// The control that counts announcements.
const GENERATION: &str = "generation";
/// The control that fences at each context switch that follows an announcement.
pub const ANY_SWITCH: &str = "fence-at-any-switch";
/// The kernels, in the order of the table. The base comes first: it must have booted to compare with it.
const KERNELS: [&str; 6] = [BASE, FIXES, SERIES, GENERATION, PREVENTIVE, ANY_SWITCH];
/// The number of harts with which [`ANY_SWITCH`] boots: it is there to show that the bench can tell
/// kernels apart, and once is enough.
const APART_HARTS: u32 = 4;

/// The long workloads run with up to so many harts: the others are idle then, and the longest one grows
/// with their number. A kernel that interrupts the others for each mapping would take minutes.
const LONG_HARTS: u32 = 4;
/// The preventive kernel boots with up to so many harts: with more, a boot takes five minutes, in which they wait for
/// each other.
const PREVENTIVE_HARTS: u32 = 16;

/// The numbers of harts.
const HARTS: [u32; 6] = [1, 2, 4, 8, 16, 64];
/// Those of machines without IMSICs.
const SBI_HARTS: [u32; 2] = [4, 16];
/// Those of a short run.
const SHORT_HARTS: [u32; 1] = [4];

/// The workloads: a script for the guest's init, a program, and a module of the kernel's.
const SCRIPT: (&str, &str) = ("test-bench.sh", include_str!("../../boot/guest/bench/test-bench.sh"));
const PROGRAM: (&str, &str) = ("workloads", include_str!("../../boot/guest/bench/workloads.c"));
const MODULE: &str = "test_vmalloc.ko";
/// An EROFS image with compressed files, and their names.
const IMAGE: &str = "erofs.img";
const IMAGE_FILES: [&str; 2] = ["0", "1"];
/// The guest is silent while a workload runs: minutes with many harts.
const LIMITS: LimitsGiven = LimitsGiven { silence: Some(600), total: Some(1800) };

/// What is plotted: file, title, value.
const PLOTS: [(&str, &str, plot::Value); 3] = [
    ("fences.svg", "Fences for each new mapping, of harts that neither map nor touch it", Figures::per_announcement),
    ("time.svg", "Time, as a multiple of mainline's", |figures| Some(figures.time_ratio?.median)),
    ("instructions.svg", "Instructions, as a multiple of mainline's", |figures| {
        Some(figures.instructions_ratio?.median)
    }),
];

/// What to measure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Boots of each kernel on each machine, each with other random numbers.
    pub runs: u32,
    /// Numbers of harts, out of all; empty for all of them.
    pub harts: Vec<u32>,
    /// Takes the counts of boots that an earlier run has finished.
    pub resume: bool,
}

impl Plan {
    /// What `make check TIER=ci` runs.
    pub fn short() -> Self {
        Self { runs: 1, harts: SHORT_HARTS.to_vec(), resume: false }
    }

    /// What `make check TIER=full` runs.
    pub fn full() -> Self {
        Self { runs: 1, harts: Vec::new(), resume: false }
    }

    /// Whether it is as short as [`Plan::short`]: then machines without IMSICs are left out, and the kernels that are
    /// there for comparison only.
    fn is_short(&self) -> bool {
        (self.runs, &self.harts[..]) == (1, &SHORT_HARTS)
    }

    /// The machines: numbers of harts, and how they interrupt each other.
    fn places(&self) -> Vec<(u32, Irq)> {
        let all = HARTS.map(|harts| (harts, Irq::Imsic)).into_iter().chain(SBI_HARTS.map(|harts| (harts, Irq::Sbi)));
        let wanted = |harts: u32| self.harts.is_empty() || self.harts.contains(&harts);
        all.filter(|(harts, irq)| wanted(*harts) && !(self.is_short() && *irq == Irq::Sbi)).collect()
    }
}

/// Reads a number of harts for the command line.
///
/// # Errors
/// Which ones there are.
pub fn parse_harts(text: &str) -> std::result::Result<u32, String> {
    let known = HARTS.map(|harts| harts.to_string()).join(", ");
    text.parse().ok().filter(|harts| HARTS.contains(harts)).ok_or_else(|| format!("one of {known}"))
}

/// A kernel in `results.json`.
#[derive(Serialize)]
struct Entry<'a> {
    harts: u32,
    machine: &'a str,
    kernel: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    workloads: Option<&'a Workloads>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

/// `results.json`.
#[derive(Serialize)]
struct Results<'a> {
    schema: u32,
    cpu: String,
    runs: u32,
    budget: Budget,
    kernels: Vec<Entry<'a>>,
    checks: &'a [Check],
    base: &'a BaseUsed,
    toolchain: &'a BTreeMap<String, String>,
}

/// Measures all kernels, prints the tables, and writes `out/bench/results.json`, `index.html` and the plots.
///
/// # Errors
/// When the budget is wrong (exit code 64), the workload cannot be built, or the results cannot be
/// written. Whatever goes wrong with a kernel is in the checks.
pub fn run(lab: &mut Lab, kernels: &Kernels, plan: &Plan) -> Result<Vec<Check>> {
    let budget = Budget::load(&lab.options.root)?;
    let folder = lab.options.place("bench");
    report::start(&folder)?;
    let plugin = cost::build_plugin(&lab.options)?;
    let tests = folder.join("tests");
    workload(lab.clang(), &kernels.series.selftests.join("modules"), &tests)?;
    image(&lab.options, &lab.bench.busybox, &tests)?;
    let names = KERNELS.into_iter().filter(|name| !(plan.is_short() && [FIXES, GENERATION].contains(name)));
    let built: Vec<_> = names.map(|name| (name, build(lab, kernels, name))).collect();
    let tip = lab.tip.clone();
    lab.tree.check_out(&tip)?;
    // Its tasks are laid out in another way, so the module of the others need not fit.
    let own = folder.join("tests-fixes");
    if let Some((_, Ok(kernel))) = built.iter().find(|(name, _)| *name == FIXES) {
        files::copy_tree(&tests, &own)?;
        copy_module(&kernel.selftests.join("modules"), &own)?;
    }
    let rig = Rig {
        bench: &lab.bench,
        tests: &tests,
        own: &own,
        folder: &folder,
        plugin: &plugin,
        same: same(&lab.bench, &tests, &plugin)?,
        resume: plan.resume,
    };
    let quiet = lab.options.asked.quiet;
    let mut places = Vec::new();
    for (harts, irq) in plan.places() {
        let place = rig.place(&built, harts, irq, plan.runs)?;
        if !quiet {
            println!("\n{}", table::text(&place));
        }
        places.push(place);
    }
    let checks = judge::judge(&budget, &places);
    write(&lab.bench, &folder, plan, budget, &places, &checks)?;
    for check in checks.iter().filter(|check| !quiet || check.verdict != Verdict::Pass) {
        println!("{}: {}: {}", check.verdict.name(), check.name, check.why);
    }
    if !quiet {
        println!("Figures and page: {}", shown(&lab.options.root, &folder));
    }
    Ok(checks)
}

fn build(lab: &mut Lab, kernels: &Kernels, name: &str) -> Result<Kernel> {
    match name {
        SERIES | PREVENTIVE => kernels.named(name).cloned(),
        FIXES => with_fixes(lab),
        _ => control::kernel(lab, name, &Config::default()),
    }
}

/// The kernel [`FIXES`].
fn with_fixes(lab: &mut Lab) -> Result<Kernel> {
    let topic = lab.options.base.topics.iter().find(|topic| topic.name == LAZY_MAP);
    let mut commit = None;
    for subject in topic.iter().flat_map(|topic| &topic.first) {
        commit = commit.or(lab.tree.by_subject(&lab.tip, subject)?);
    }
    let missing = || Error::could_not(format!("the series lacks the first patch of the topic {LAZY_MAP} of base.toml"));
    let commit = commit.ok_or_else(missing)?;
    let root = lab.options.root.clone();
    // It has the tests of the series.
    lab.patch(FIXES, &commit, (&root, "")).map(|(kernel, _)| kernel)
}

/// Makes the folder with what runs in the guest; `modules` are those of the series, which fit all its
/// controls.
fn workload(clang: &str, modules: &Path, folder: &Path) -> Result<()> {
    files::remove(folder)?;
    let script = folder.join(SCRIPT.0);
    files::write_whole(&script, SCRIPT.1)?;
    files::make_executable(&script)?;
    program::compile(clang, PROGRAM.1, folder, PROGRAM.0)?;
    copy_module(modules, folder)
}

fn copy_module(modules: &Path, folder: &Path) -> Result<()> {
    let module = modules.join(MODULE);
    files::copy(&module, &folder.join(MODULE))
}

/// Makes [`IMAGE`] in `folder`: copies of `content`, in pieces of 4 KiB when compressed. The same each time.
fn image(options: &Options, content: &Path, folder: &Path) -> Result<()> {
    host::mkfs_erofs(options).map_err(Error::could_not)?;
    let source = files::scratch()?;
    for name in IMAGE_FILES {
        files::copy(content, &source.path().join(name))?;
    }
    let mut mkfs = cmd::plain(host::MKFS_EROFS);
    mkfs.args(["-zlz4hc", "-T0", "-U00000000-0000-0000-0000-000000000000", "--all-root"]);
    mkfs.arg(folder.join(IMAGE)).arg(source.path());
    cmd::output(&mut mkfs).map(drop)
}

/// Harts in lockstep, so that a boot with the same seed replays to the instruction.
fn machine(harts: u32, irq: Irq, seed: u32) -> Result<Machine> {
    Ok(Machine { icount: true, seed: Some(seed), harts, irq, ..Machine::new(models::find("stale")?) })
}

/// What a kernel gets on its command line. Harts other than the first start right before the
/// workloads, and run nothing else, so that the boot and the housekeeping are not on their accounts.
fn parameters(harts: u32) -> String {
    let others: Vec<String> = (1..harts).map(|cpu| cpu.to_string()).collect();
    match others.len() {
        0 => "maxcpus=1".to_owned(),
        last => format!("maxcpus=1 isolcpus=1-{last} lazymap.online={}", others.join(",")),
    }
}

/// Whether a kernel runs the long workloads.
fn long(kernel: &str, harts: u32) -> bool {
    harts <= LONG_HARTS && kernel != PREVENTIVE
}

/// A boot of `kernel` that runs all workloads.
fn trial(kernel: &str, machine: Machine, seed: u32, tests: &Path) -> Trial {
    let script = vec![(SCRIPT.0.to_owned(), Expect::Pass)];
    let long = if long(kernel, machine.harts) { " lazymap.long" } else { "" };
    Trial {
        name: format!("{kernel}-{machine}-{}-{seed}", machine.harts),
        append: parameters(machine.harts) + long,
        selftests: Some(tests.to_owned()),
        limits: LIMITS,
        ..Trial::new(kernel, machine, script)
    }
}

/// What boots need.
struct Rig<'a> {
    bench: &'a Workbench,
    tests: &'a Path,
    /// The same for [`FIXES`].
    own: &'a Path,
    folder: &'a Path,
    plugin: &'a Path,
    /// Of what all boots have in common.
    same: Key,
    resume: bool,
}

/// A key of what the counts of all boots depend on.
fn same(bench: &Workbench, tests: &Path, plugin: &Path) -> Result<Key> {
    let mut key = Key::default();
    for file in [&bench.qemu.binary, &bench.firmware, &bench.busybox, plugin] {
        key = key.file(file)?;
    }
    for name in [SCRIPT.0, PROGRAM.0, MODULE, IMAGE] {
        key = key.file(&tests.join(name))?;
    }
    Ok(key)
}

impl Rig<'_> {
    /// Boots all kernels on machines with so many harts, once for each run.
    fn place(&self, kernels: &[(&'static str, Result<Kernel>)], harts: u32, irq: Irq, runs: u32) -> Result<Place> {
        let name = machine(harts, irq, 1)?.name();
        let mut measured = Vec::new();
        let mut base: Option<Vec<Counts>> = None;
        let here = |name: &str, irq: Irq| match name {
            ANY_SWITCH => harts == APART_HARTS && irq == Irq::Imsic,
            PREVENTIVE => harts <= PREVENTIVE_HARTS,
            _ => true,
        };
        for (kernel, built) in kernels.iter().filter(|(name, _)| here(name, irq)) {
            let boots: Result<Vec<Counts>, String> = match built {
                Ok(built) => (1..=runs).map(|seed| self.boot(kernel, built, harts, irq, seed)).collect(),
                Err(error) => Err(error.message.clone()),
            };
            if *kernel == BASE {
                base = boots.as_ref().ok().cloned();
            }
            let figures = boots.and_then(|boots| figures::figures(&boots, base.as_deref()));
            measured.push(Measured { kernel, figures });
        }
        Ok(Place { harts, machine: name, kernels: measured })
    }

    /// Boots a kernel once, or takes the counts of a boot that would replay.
    fn boot(&self, name: &str, kernel: &Kernel, harts: u32, irq: Irq, seed: u32) -> Result<Counts, String> {
        let machine = machine(harts, irq, seed).map_err(|e| e.message)?;
        let tests = if name == FIXES { self.own } else { self.tests };
        let mut trial = trial(name, machine, seed, tests);
        let out = self.folder.join(format!("{}.counts", trial.name));
        let stamp = self.folder.join(format!("{}.stamp", trial.name));
        let key = self.key(kernel, &trial).map_err(|e| e.message)?;
        if self.resume && key::fresh(&stamp, &key) {
            return self.counted(name, &trial);
        }
        files::remove(&stamp).map_err(|e| e.message)?;
        files::remove(&out).map_err(|e| e.message)?;
        trial.plugin = Some(argument(kernel, self.plugin, &out).map_err(|e| e.message)?);
        let (done, booted) = run::kept(self.bench, &trial, Ok(kernel), self.folder);
        if let Some(report) = done.report {
            println!("{report}");
        }
        if let Some(row) = done.rows.iter().find(|row| row.verdict != Verdict::Pass) {
            return Err(format!("{}: {}", row.test, row.observed));
        }
        booted.ok_or("it was not booted")?.run.counters?;
        let counts = self.counted(name, &trial)?;
        files::write_whole(&stamp, key).map_err(|e| e.message)?;
        Ok(counts)
    }

    /// What the counts of a boot depend on.
    fn key(&self, kernel: &Kernel, trial: &Trial) -> Result<String> {
        let machine = trial.machine.arguments().join(" ");
        let mut key = self.same.clone().text("append", &trial.append).text("machine", machine);
        if trial.kernel == FIXES {
            key = key.file(&self.own.join(MODULE))?;
        }
        Ok(key.file(&kernel.image)?.finish())
    }

    /// The counts of a boot, from what it left in the folder.
    fn counted(&self, name: &str, trial: &Trial) -> Result<Counts, String> {
        let read = |ending: &str| {
            let path = self.folder.join(format!("{}.{ending}", trial.name));
            files::read_lossy(&path).map_err(|e| e.message)
        };
        let harts = trial.machine.harts;
        let log = Log::of(&read("log")?);
        let report = ktap::parse(&log);
        let notes = report.find(SCRIPT.0).ok().flatten().map(|case| case.all_notes()).unwrap_or_default();
        let console = log.lines.iter().map(|line| line.text.as_str());
        let counts = Counts::read(&read("counts")?, &notes, console, harts, long(name, harts))?;
        let property = &self.bench.options.base.qemu.property;
        let machine = machine::parse_counters(&read("qemu.log")?, property)?.ok_or("QEMU counted nothing")?;
        // Two witnesses.
        if counts.total.fences != machine.fences {
            return Err(format!("the plugin saw {} fences, and QEMU {}", counts.total.fences, machine.fences));
        }
        if counts.total.absorbed < machine.stale_hits && name != PREVENTIVE {
            let seen = counts.total.absorbed;
            return Err(format!("the plugin saw {seen} spurious faults, and QEMU {}", machine.stale_hits));
        }
        Ok(counts)
    }
}

/// QEMU's `-plugin` for a kernel.
fn argument(kernel: &Kernel, plugin: &Path, out: &Path) -> Result<String> {
    let symbols = Symbols::load(&kernel.vmlinux)?;
    let (entry, size) = cost::named(&symbols, kernel, "handle_exception")?;
    let mut words = vec![format!("file={}", plugin.display()), "phases=on".to_owned()];
    words.push(format!("entry={entry:x}:{:x}", entry + size));
    for (name, symbol) in [
        ("announce", "flush_cache_vmap"),
        ("send", "imsic_ipi_send"),
        ("sbi", "__sbi_ecall"),
        ("new-task", "wake_up_new_task"),
        ("migrate", "set_task_cpu"),
    ] {
        words.push(format!("{name}={:x}", cost::named(&symbols, kernel, symbol)?.0));
    }
    words.push(format!("out={}", out.display()));
    Ok(words.iter().map(|word| cmd::option_value(word)).collect::<Vec<_>>().join(","))
}

/// Writes `results.json`, the plots and the page.
fn write(
    bench: &Workbench,
    folder: &Path,
    plan: &Plan,
    budget: Budget,
    places: &[Place],
    checks: &[Check],
) -> Result<()> {
    let machine = machine(1, Irq::Imsic, 1)?;
    let entries = places.iter().flat_map(|place| {
        place.kernels.iter().map(move |measured| Entry {
            harts: place.harts,
            machine: &place.machine,
            kernel: measured.kernel,
            workloads: measured.figures.as_ref().ok(),
            error: measured.figures.as_ref().err().map(String::as_str),
        })
    });
    let results = Results {
        schema: 2,
        cpu: machine.cpu(),
        runs: plan.runs,
        budget,
        kernels: entries.collect(),
        checks,
        base: &bench.base_used,
        toolchain: &bench.toolchain,
    };
    files::write_json(&folder.join("results.json"), &results)?;
    let kernels = &KERNELS[..KERNELS.len() - 1];
    let workloads: Vec<&str> =
        counts::workloads(true).map(|(_, name, _)| name).filter(|name| *name != "none").collect();
    let mut plots = Vec::new();
    for (file, title, value) in PLOTS {
        let svg = plot::svg(title, places, kernels, &workloads, value);
        files::write_whole(&folder.join(file), &svg)?;
        plots.push((title, svg));
    }
    let runs = if plan.runs == 1 { "one run".to_owned() } else { format!("{} runs", plan.runs) };
    let about = format!(
        "Linux {} in lockstep (icount) on harts that remember invalid translations (the model {}), {runs}.",
        bench.base_used.version, machine.model.name
    );
    files::write_whole(&folder.join("index.html"), page::page(places, checks, &about, &plots))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::base::Base;

    #[test]
    fn runs_differ_in_the_seed_alone() {
        let of = |seed| trial("series", machine(4, Irq::Imsic, seed).unwrap(), seed, Path::new("/tests"));
        let (one, two) = (of(1), of(2));
        assert_eq!((one.append.as_str(), one.name.as_str()), (two.append.as_str(), "series-stale-4-1"));
        assert_eq!(Machine { seed: one.machine.seed, ..two.machine }, one.machine);
        assert!(one.machine.icount && one.machine.model.stale && two.name != one.name);
        assert_eq!(one.append, "maxcpus=1 isolcpus=1-3 lazymap.online=1,2,3 lazymap.long");
        assert!(!long("series", 8) && !long(PREVENTIVE, 4));
        assert_eq!(parameters(1), "maxcpus=1");
    }

    #[test]
    fn a_plan_has_its_machines() {
        assert_eq!(Plan::short().places(), [(4, Irq::Imsic)]);
        assert_eq!(Plan::full().places().len(), 8);
        let plan = |harts: &[u32]| Plan { runs: 5, harts: harts.to_vec(), resume: false }.places();
        assert_eq!(plan(&[2, 4]), [(2, Irq::Imsic), (4, Irq::Imsic), (4, Irq::Sbi)]);
        assert_eq!(parse_harts("16"), Ok(16));
        assert!(parse_harts("3").is_err() && parse_harts("many").is_err());
    }

    #[test]
    fn the_kernels_are_controls_of_the_project() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let all = control::load(root).unwrap();
        for name in KERNELS.into_iter().filter(|name| ![SERIES, FIXES].contains(name)) {
            assert!(all.iter().any(|control| control.name == name), "{name}");
        }
        assert!(Base::load(root).unwrap().topics.iter().any(|topic| topic.name == LAZY_MAP && !topic.first.is_empty()));
    }
}
