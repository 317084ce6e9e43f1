// SPDX-License-Identifier: GPL-2.0-only
//! `lazymap exhaust`: interprets the exception entry of built kernels through everything that may happen.

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::build::workbench::Lab;
use crate::exhaust::image::Image;
use crate::exhaust::layout::Layout;
use crate::exhaust::report::{self, Report};
use crate::exhaust::{Plan, judge};
use crate::ground::error::{Error, Exit, Result};
use crate::ground::files;
use crate::hunt::symbols::Symbols;
use crate::options::Options;
use crate::trial::control::{self, Control, Hole};
use crate::trial::scenario::{Tier, Which};
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
    if kernels.is_empty() {
        kernels = built(options)?;
    }
    let mut plan = Plan::full();
    plan.bounds.depth = args.depth;
    plan.bounds.mappings = args.mappings;
    plan.bounds.patient = args.patient;
    let mut reports = Vec::new();
    for vmlinux in kernels {
        let report = search(&name(&vmlinux), &vmlinux, &plan)?;
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
    let json = serde_json::to_string_pretty(&results).map_err(|e| Error::could_not(e.to_string()))?;
    files::write_whole(&options.place("exhaust").join("results.json"), json + "\n")
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

/// Searches one kernel.
///
/// # Errors
/// When the file cannot be read, or is not a kernel's (exit code 64).
pub fn search(name: &str, vmlinux: &Path, plan: &Plan) -> Result<Report> {
    let image = Image::load(vmlinux)?;
    let symbols = Symbols::load(vmlinux)?;
    let layout = Layout::of(&image).map_err(|why| {
        Error::could_not(format!("{}: the exception entry is not understood: {why}", vmlinux.display()))
    })?;
    let verdict = judge(&image, &layout, plan);
    Ok(report::report(name, &image, &layout, &symbols, plan, &verdict))
}

/// A result: name, verdict, and why if it is not a pass.
pub type Checked = (String, Verdict, String);

/// The series must be clean, and the controls must be caught.
///
/// # Errors
/// When the series cannot be checked out again.
pub fn check(lab: &mut Lab, kernels: &Kernels, tier: Tier) -> Result<Vec<Checked>> {
    let plan = Plan::quick();
    let mut reports = Vec::new();
    let mut all = vec![of_series(search("series", &kernels.series.vmlinux, &plan), &mut reports)];
    // One that this tier does not boot would be built for nothing else.
    let controls = control::choose(&lab.options.root, &Which::Tier(tier))?;
    for control in controls.iter().filter(|control| !control.exhaust.is_empty()) {
        let Some(run) = control.runs.first() else { continue };
        let searched = control::build(lab, control, &run.config)
            .and_then(|kernel| search(&kernel.name, &kernel.vmlinux, &Plan::broken()));
        all.push(of_control(control, searched, &mut reports));
    }
    let tip = lab.tip.clone();
    lab.tree.check_out(&tip)?;
    write(&lab.options, &reports)?;
    Ok(all)
}

fn of_series(searched: Result<Report>, reports: &mut Vec<Report>) -> Checked {
    let name = "exhaust: series: no path breaks a property".to_owned();
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
        }
    }

    #[test]
    fn a_finding_is_certain_whatever_the_rest_of_the_search_says() {
        let verdict = |report| of_series(Ok(report), &mut Vec::new()).1;
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
