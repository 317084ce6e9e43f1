// SPDX-License-Identifier: GPL-2.0-only
//! Hunts of which the result is known, for `lazymap check`: the hole that mainline has for the KASAN
//! shadow of vmalloc memory must be named, and a kernel without it must only have hits that it absorbed.

use super::report::Report;
use super::verdict::Outcome;
use super::{Quarry, Quarters, Seat, boot, write};
use crate::cli::Options;
use crate::control;
use crate::error::{Error, Result};
use crate::kernel::{Config, Kernel, SERIES};
use crate::machine::Machine;
use crate::models;
use crate::scenario::{self, Kind, Which};
use crate::trial::Verdict;
use crate::workbench::Lab;

/// The scenario that both kernels are configured as.
const SCENARIO: &str = "kasan-vmalloc";
/// The control that has the hole.
const CONTROL: &str = "mainline";
/// What runs there: new mappings of all kinds. It comes with the series.
const TEST: &str = "test-shapes.sh";
/// The part of the address space that the hole is in.
const REGION: &str = "KASAN shadow of vmalloc";
/// The functions that fall into it.
const VICTIMS: [&str; 2] = ["kasan_poison", "kasan_unpoison"];

/// A result: name, verdict, and why if it is no pass.
pub type Checked = (String, Verdict, String);

/// Hunts in both kernels. What cannot be built or booted is a result as well.
///
/// # Errors
/// When the scenario is wrong, or the tree cannot be left as it was.
pub fn run(lab: &mut Lab, options: &Options) -> Result<Vec<Checked>> {
    let found = scenario::choose(&options.root, &Which::Named(vec![SCENARIO.to_owned()]))?;
    let Some(Kind::Boot(place)) = found.first().map(|s| &s.kind) else {
        return Err(Error::usage(format!("the scenario {SCENARIO} boots nothing")));
    };
    let config = found.first().map(|s| s.config.clone()).unwrap_or_default();
    let machine = Machine::new(models::find("stale")?);
    let limits = place.limits.limits(1, &machine).or_from_env()?;
    let seat = Seat { machine: &machine, append: &place.append, limits };
    let mut all = Vec::new();
    all.extend(of_series(hunted(lab, options, SERIES, &config, &seat)));
    all.extend(of_mainline(hunted(lab, options, CONTROL, &config, &seat)));
    let tip = lab.tip.clone();
    lab.tree.check_out(&tip)?;
    Ok(all)
}

fn hunted(lab: &mut Lab, options: &Options, name: &str, config: &Config, seat: &Seat<'_>) -> Result<Report> {
    let Kernel { name: kernel, image, vmlinux, selftests, .. } = match name {
        SERIES => lab.kernel(options, config)?,
        _ => control::kernel(lab, options, name, config)?,
    };
    let folder = lab.bench.place("hunt");
    let guest = Quarters::Workload(selftests, vec![TEST.to_owned()]);
    let name = format!("check-{kernel}");
    let quarry = Quarry { kernel, image, vmlinux: Some(vmlinux), guest };
    let report = boot(&lab.bench, &quarry, seat, &folder, &name)?;
    write(&report, &folder.join(format!("{name}.json")), &folder.join(format!("{name}.html")))?;
    Ok(report)
}

/// Judges what came of the kernel with the series.
fn of_series(report: Result<Report>) -> Vec<Checked> {
    let named = |what: &str| format!("hunt: series with KASAN: {what}");
    let report = match report {
        Ok(report) => report,
        Err(error) => return vec![(named("hunt"), Verdict::Error, error.message)],
    };
    let counts = report.counts;
    let said = first_line(&report);
    let survived = match report.result {
        Outcome::Survived => Verdict::Pass,
        Outcome::Killed { .. } => Verdict::Fail,
        Outcome::Uncertain { .. } => Verdict::Error,
    };
    vec![
        (named("no stale hit kills it"), survived, said.clone()),
        (named("has stale hits, and absorbs them"), pass(counts.absorbed > 0 && counts.killed == 0), said),
    ]
}

/// Judges what came of the kernel with the hole.
fn of_mainline(report: Result<Report>) -> Vec<Checked> {
    let named = |what: &str| format!("hunt: mainline with KASAN: {what}");
    let report = match report {
        Ok(report) => report,
        Err(error) => return vec![(named("hunt"), Verdict::Error, error.message)],
    };
    let said = first_line(&report);
    let killed = match report.result {
        Outcome::Killed { .. } => Verdict::Pass,
        Outcome::Survived => Verdict::Fail,
        Outcome::Uncertain { .. } => Verdict::Error,
    };
    let calls = report.death.iter().flat_map(|death| &death.calls);
    let in_calls = calls.filter_map(|call| call.split('+').next()).any(|name| VICTIMS.contains(&name));
    let killer = report.killer();
    let victim = killer.is_some_and(|hit| VICTIMS.contains(&hit.touch.by.as_str()) || in_calls);
    let region = killer.is_some_and(|hit| hit.region == REGION);
    let mapper = killer.is_some_and(|hit| hit.store.as_ref().is_some_and(|store| store.by.starts_with("kasan_")));
    vec![
        (named("a stale hit kills it"), killed, said.clone()),
        (named("the victim is kasan_unpoison()"), pass(victim), said.clone()),
        (named("the mapping is the vmalloc shadow"), pass(region), said.clone()),
        (named("it was mapped by KASAN"), pass(mapper), said),
    ]
}

fn pass(yes: bool) -> Verdict {
    if yes { Verdict::Pass } else { Verdict::Fail }
}

fn first_line(report: &Report) -> String {
    let text = report.text();
    let lines = text.lines().take(1).chain(text.lines().filter(|l| l.contains("victim ") || l.contains("touched ")));
    lines.map(str::trim).collect::<Vec<_>>().join("; ")
}
