// SPDX-License-Identifier: GPL-2.0-only
//! `lazymap exhaust`: interprets the exception entry of built kernels through everything that may happen.

use std::path::{Path, PathBuf};
use std::thread::{self, ScopedJoinHandle};

use serde::Serialize;

use crate::build::kernel::Kernel;
use crate::build::workbench::Lab;
use crate::exhaust::image::Image;
use crate::exhaust::layout::Layout;
use crate::exhaust::report::{self, Report};
use crate::exhaust::{Plan, judge, kvm};
use crate::ground::error::{Error, Exit, Result};
use crate::ground::files;
use crate::hunt::symbols::Symbols;
use crate::options::Options;
use crate::trial::control::{self, Control, Hole};
use crate::trial::scenario::{self, Tier, Which};
use crate::trial::verdict::Verdict;
use crate::verbs::demo::Kernels;

/// What the user gives.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// The vmlinux of each kernel [default: those in out/kernel]
    #[arg(value_name = "VMLINUX")]
    pub vmlinux: Vec<PathBuf>,
    /// Traps that may be nested because C code takes them
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=5))]
    pub depth: u8,
    /// Mappings that another hart makes meanwhile
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=3))]
    pub mappings: u8,
    /// Uses stale translations in the four windows only: fewer states, for kernels that are known to be broken
    #[arg(long)]
    pub patient: bool,
    /// KVM's module, not compressed, of a kernel that has it as one [default: kvm.ko beside the vmlinux, or below it]
    #[arg(long, value_name = "FILE")]
    pub kvm: Option<PathBuf>,
    /// Prints the steps to each finding
    #[arg(long)]
    pub steps: bool,
}

/// `out/exhaust/results.json`.
#[derive(Serialize)]
struct Results<'a> {
    schema: u32,
    kernels: &'a [Report],
}

/// Searches the kernels, prints a report of each, and writes `out/exhaust/results.json`.
///
/// # Errors
/// When there is no kernel (exit code 64), or a file cannot be read or written.
pub fn run(options: &Options, args: &Args) -> Result<Exit> {
    let mut kernels = args.vmlinux.clone();
    if args.kvm.is_some() && kernels.len() != 1 {
        return Err(Error::usage("--kvm is of one kernel: name its vmlinux, and no other".to_owned()));
    }
    if kernels.is_empty() {
        kernels = built(options)?;
    }
    let mut plan = Plan::full();
    plan.bounds.depth = args.depth;
    plan.bounds.mappings = args.mappings;
    plan.bounds.patient = args.patient;
    let mut reports = Vec::new();
    for vmlinux in kernels {
        let report = search(&name(&vmlinux), &vmlinux, args.kvm.as_deref(), &plan)?;
        print!("{}", report.text(args.steps));
        reports.push(report);
    }
    write(options, &reports)?;
    Ok(exit(&reports))
}

/// The exit code. A finding is certain even where the search reached a limit.
fn exit(reports: &[Report]) -> Exit {
    let any = |verdict| reports.iter().any(|report| self::verdict(report) == verdict);
    if any(Verdict::Fail) {
        Exit::Failed
    } else if any(Verdict::Error) {
        Exit::CouldNot
    } else {
        Exit::Pass
    }
}

fn verdict(report: &Report) -> Verdict {
    match (&report.unknown, report.clean) {
        _ if !report.findings.is_empty() => Verdict::Fail,
        (Some(_), _) => Verdict::Error,
        (None, true) => Verdict::Pass,
        (None, false) => Verdict::Fail,
    }
}

fn write(options: &Options, reports: &[Report]) -> Result<()> {
    let results = Results { schema: 1, kernels: reports };
    files::write_json(&options.place("exhaust").join("results.json"), &results)
}

/// The kernels that have been built.
fn built(options: &Options) -> Result<Vec<PathBuf>> {
    let folder = options.place("kernel");
    let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = entries.map(|e| e.path().join("vmlinux")).filter(|p| p.is_file()).collect();
    found.sort();
    if found.is_empty() {
        let folder = folder.display();
        return Err(Error::usage(format!("{folder}: no kernel has been built; name a vmlinux, or run `make kernels`")));
    }
    Ok(found)
}

/// A kernel's name: that of the folder it is in.
fn name(vmlinux: &Path) -> String {
    let folder = vmlinux.parent().and_then(Path::file_name);
    folder.unwrap_or(vmlinux.as_os_str()).to_string_lossy().into_owned()
}

/// Where KVM's module of a kernel that this tool has built is, seen from its vmlinux.
const KVM: [&str; 2] = ["kvm.ko", "kselftest/riscv/lazy_map/modules/kvm.ko"];

/// Searches one kernel, and KVM in it or in a module.
///
/// # Errors
/// When a file cannot be read, or is not what it should be (exit code 64).
pub fn search(name: &str, vmlinux: &Path, kvm: Option<&Path>, plan: &Plan) -> Result<Report> {
    let image = Image::load(vmlinux)?;
    let symbols = Symbols::load(vmlinux)?;
    let layout = Layout::of(&image).map_err(|why| {
        Error::could_not(format!("{}: the exception entry is not understood: {why}", vmlinux.display()))
    })?;
    let verdict = judge(&image, &layout, plan);
    let mut report = report::report(name, &image, &layout, &symbols, plan, &verdict);
    let folder = vmlinux.parent().unwrap_or(Path::new("."));
    let beside = KVM.iter().map(|file| folder.join(file)).find(|file| file.is_file());
    let module = kvm.map(Path::to_path_buf).or(beside).map(|file| Image::load_module(&file)).transpose()?;
    if module.is_some() || kvm::is_in(&image) {
        let found = kvm::search(&image, &layout, module.as_ref());
        report::add_kvm(&mut report, module.as_ref().unwrap_or(&image), &symbols, found);
    }
    Ok(report)
}

/// The scenario whose kernel has vectors and KVM.
const RICH: &str = "debian";

/// A result: name, verdict, and why if it is not a pass.
pub type Checked = (String, Verdict, String);

/// The series must be clean, and the controls must be caught.
///
/// # Errors
/// When the series cannot be checked out again.
pub fn check(lab: &mut Lab, kernels: &Kernels, tier: Tier) -> Result<Vec<Checked>> {
    let root = lab.options.root.clone();
    let scenarios = scenario::choose(&root, &Which::Tier(tier))?;
    // One that this tier does not boot would be built for nothing else.
    let controls = control::choose(&root, &Which::Tier(tier))?;
    let plan = Plan::quick();
    let (patient, impatient) = (Plan::broken(true), Plan::broken(false));
    let (mut all, mut reports) = (Vec::new(), Vec::new());
    // While a kernel is searched, the next one is built.
    thread::scope(|scope| {
        let search = |built: Result<Kernel>, plan| {
            scope.spawn(move || built.and_then(|kernel| search(&kernel.name, &kernel.vmlinux, None, plan)))
        };
        let series = search(Ok(kernels.series.clone()), &plan);
        let rich = scenarios.iter().find(|scenario| scenario.name == RICH);
        let rich = rich.map(|scenario| search(lab.kernel(&scenario.config), &plan));
        let mut searches = Vec::new();
        for control in controls.iter().filter(|control| !control.exhaust.is_empty()) {
            let Some(run) = control.runs.first() else { continue };
            let in_a_window = control.exhaust.iter().any(|hole| matches!(hole, Hole::Window(_)));
            let broken = if in_a_window { &patient } else { &impatient };
            searches.push((control, search(control::build(lab, control, &run.config), broken)));
        }
        all.push(of_series("series", ended(series), &mut reports));
        if let Some(rich) = rich {
            let searched = ended(rich).and_then(|report| match report.kvm {
                Some(_) => Ok(report),
                None => Err(Error::could_not(format!("{}: there is no kvm.ko beside its tests", report.kernel))),
            });
            all.push(of_series(RICH, searched, &mut reports));
        }
        for (control, search) in searches {
            all.push(of_control(control, ended(search), &mut reports));
        }
    });
    let tip = lab.tip.clone();
    lab.tree.check_out(&tip)?;
    write(&lab.options, &reports)?;
    Ok(all)
}

/// What a search has found.
fn ended(search: ScopedJoinHandle<'_, Result<Report>>) -> Result<Report> {
    search.join().unwrap_or_else(|_| Err(Error::could_not("the search of a kernel has panicked; report this")))
}

fn of_series(kernel: &str, searched: Result<Report>, reports: &mut Vec<Report>) -> Checked {
    let name = format!("exhaust: {kernel}: no path breaks a property");
    match searched {
        Err(error) => (name, Verdict::Error, error.message),
        Ok(report) => {
            let verdict = verdict(&report);
            let said = report.text(false);
            reports.push(report);
            (name, verdict, said)
        }
    }
}

fn of_control(control: &Control, searched: Result<Report>, reports: &mut Vec<Report>) -> Checked {
    let name = format!("exhaust: control {}: each hole is found", control.name);
    match searched {
        Err(error) => (name, Verdict::Error, error.message),
        Ok(report) => {
            let found = |hole: &Hole| {
                report.findings.iter().any(|finding| match hole {
                    Hole::Window(window) => finding.window == *window,
                    Hole::Property(property) => finding.property == property,
                })
            };
            let verdict = match &report.unknown {
                _ if control.exhaust.iter().all(found) => Verdict::Pass,
                Some(_) => Verdict::Error,
                None => Verdict::Fail,
            };
            let said = report.text(false);
            reports.push(report);
            (name, verdict, said)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exhaust::report::{Setting, Told};

    fn searched(findings: usize, unknown: Option<&str>) -> Report {
        let setting = || Setting { model: None, properties: None, harts: 4 };
        let told = || Told {
            window: 0,
            property: "x",
            what: String::new(),
            place: String::new(),
            start: String::new(),
            steps: Vec::new(),
            setting: setting(),
        };
        Report {
            kernel: "k".to_owned(),
            clean: findings == 0 && unknown.is_none(),
            unknown: unknown.map(str::to_owned),
            findings: (0..findings).map(|_| told()).collect(),
            bounds: String::new(),
            searches: 1,
            states: 1,
            choices: 1,
            seconds: 0.0,
            kvm: None,
        }
    }

    #[test]
    fn a_finding_is_certain_whatever_the_rest_of_the_search_says() {
        let verdict = |report| of_series("k", Ok(report), &mut Vec::new()).1;
        let limit = Some("the limit of states");
        assert_eq!(verdict(searched(0, None)), Verdict::Pass);
        assert_eq!(verdict(searched(0, limit)), Verdict::Error);
        assert_eq!(verdict(searched(1, None)), Verdict::Fail);
        assert_eq!(verdict(searched(1, limit)), Verdict::Fail);
        assert_eq!(exit(&[searched(0, None)]), Exit::Pass);
        assert_eq!(exit(&[searched(0, None), searched(0, limit)]), Exit::CouldNot);
        assert_eq!(exit(&[searched(1, None), searched(0, limit)]), Exit::Failed);
        assert_eq!(exit(&[searched(1, limit)]), Exit::Failed);
    }
}
