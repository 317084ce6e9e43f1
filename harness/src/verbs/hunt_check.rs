// SPDX-License-Identifier: GPL-2.0-only
//! Hunts with a known result: in a kernel with the hole they must name it, and in a kernel without it
//! they must only find hits that it absorbed.

use std::time::Duration;

use crate::boot::machine::{Limits, Machine};
use crate::boot::models;
use crate::build::kernel::{Config, Kernel, SERIES};
use crate::build::workbench::Lab;
use crate::ground::error::{Error, Result};
use crate::hunt::report::{Report, UseReport};
use crate::hunt::trace::What;
use crate::hunt::verdict::Outcome;
use crate::hunt::{self, Target, Workload};
use crate::trial::control;
use crate::trial::scenario::{self, Kind, Tier, Which};
use crate::trial::verdict::Verdict;

/// The scenario that both kernels are configured for.
const SCENARIO: &str = "kasan-vmalloc";
/// The control that has the hole.
const CONTROL: &str = "mainline";
/// What runs there: new mappings of all kinds. The test is part of the series.
const TEST: &str = "test-shapes.sh";
/// The part of the address space that the hole is in.
const REGION: &str = "KASAN shadow of vmalloc";
/// The functions that fall into it.
const VICTIMS: [&str; 2] = ["kasan_poison", "kasan_unpoison"];

/// The machine on which the control dies before any test, and where it dies.
const WINDOW: (&str, &str) = ("window-1", "handle_exception");
/// How the hunt is called in which harts lose translations in all of that function.
const INSIDE: &str = "stale, evicting in handle_exception";

/// The machine on which translations outlive their PTEs, and the part of the workload that changes mappings.
const VALID: (&str, &str) = ("valid", "tlb.sh");

/// Tracing makes a test several times slower: the longest silence of one that has to end, on an idle host.
const PATIENT: Duration = Duration::from_secs(180);
/// The same for a kernel that has to die, which may hang.
const IMPATIENT: Duration = Duration::from_secs(20);

/// A result: name, verdict, and why if it is not a pass.
pub type Checked = (String, Verdict, String);

/// Hunts in kernels with the default configuration, and, in the tier `full`, in kernels with KASAN.
/// What cannot be built or booted is a result as well.
///
/// # Errors
/// When the scenario is wrong, or the series cannot be checked out again.
pub fn run(lab: &mut Lab, tier: Tier) -> Result<Vec<Checked>> {
    let found = scenario::choose(&lab.options.root, &Which::Named(vec![SCENARIO.to_owned()]))?;
    let Some(Kind::Boot(place)) = found.first().map(|s| &s.kind) else {
        return Err(Error::usage(format!("the scenario {SCENARIO} boots nothing")));
    };
    let stale = Machine::new(models::find("stale")?);
    let window = Machine::new(models::find(WINDOW.0)?);
    let plain = Config::default();
    let mut all = of_series("series", hunted(lab, SERIES, &plain, &stale, "", PATIENT));
    all.extend(of_window(WINDOW.0, hunted(lab, CONTROL, &plain, &window, "", IMPATIENT)));
    if tier >= Tier::Full {
        let config = found.first().map(|s| s.config.clone()).unwrap_or_default();
        all.extend(of_series("series with KASAN", hunted(lab, SERIES, &config, &stale, &place.append, PATIENT)));
        all.extend(of_mainline(hunted(lab, CONTROL, &config, &stale, &place.append, PATIENT)));
        all.extend(of_window(INSIDE, inside(lab)));
        let valid = Machine::new(models::find(VALID.0)?);
        all.extend(of_valid(SERIES, &valid, &[], flushes(lab, SERIES, &valid)));
        for control in control::load(&lab.options.root)? {
            if let Some(machine) = &control.hunt {
                let report = flushes(lab, &control.name, machine);
                all.extend(of_valid(&control.name, machine, &control.culprit, report));
            }
        }
    }
    let tip = lab.tip.clone();
    lab.tree.check_out(&tip)?;
    Ok(all)
}

/// Hunts with the series' test of all kinds of mappings.
fn hunted(
    lab: &mut Lab,
    name: &str,
    config: &Config,
    machine: &Machine,
    append: &str,
    silence: Duration,
) -> Result<Report> {
    let kernel = kernel(lab, name, config)?;
    let tests = Workload::Scripts(kernel.selftests.clone(), vec![TEST.to_owned()]);
    boot(lab, kernel, tests, machine, append, silence)
}

/// Hunts on harts that lose their valid translations anywhere in the function that dies.
fn inside(lab: &mut Lab) -> Result<Report> {
    let kernel = kernel(lab, CONTROL, &Config::default())?;
    let machine = hunt::evicting(&Machine::new(models::find("stale")?), &kernel.vmlinux, WINDOW.1)?;
    let tests = Workload::Scripts(kernel.selftests.clone(), vec![TEST.to_owned()]);
    boot(lab, kernel, tests, &machine, "", PATIENT)
}

/// Hunts with the program that changes mappings which other harts have used.
fn flushes(lab: &mut Lab, name: &str, machine: &Machine) -> Result<Report> {
    let kernel = kernel(lab, name, &Config::default())?;
    let folder = lab.options.place("hunt");
    let scripts = hunt::scripts(&folder, Some(lab.clang()))?;
    boot(lab, kernel, Workload::Scripts(scripts, vec![VALID.1.to_owned()]), machine, "", PATIENT)
}

fn kernel(lab: &mut Lab, name: &str, config: &Config) -> Result<Kernel> {
    match name {
        SERIES => lab.kernel(config),
        _ => control::kernel(lab, name, config),
    }
}

fn boot(
    lab: &Lab,
    kernel: Kernel,
    guest: Workload,
    machine: &Machine,
    append: &str,
    silence: Duration,
) -> Result<Report> {
    let Kernel { name: kernel, image, vmlinux, .. } = kernel;
    let folder = lab.options.place("hunt");
    let target = Target {
        name: format!("check-{kernel}-{machine}"),
        kernel,
        image,
        vmlinux: Some(vmlinux),
        guest,
        machine: machine.clone(),
        append: append.to_owned(),
        firmware: None,
        more: Vec::new(),
        limits: lab.options.limits.over(Limits { silence, total: 4 * PATIENT, ..Limits::for_boot(&[], machine) }),
    };
    let report = hunt::boot(&lab.bench, &target, &folder)?;
    let file = |ending: &str| folder.join(format!("{}.{ending}", target.name));
    hunt::write_json(&report, &file("json"))?;
    hunt::write_html(&report, &file("html"))?;
    Ok(report)
}

/// Judges the kernel whose stack may not be visible to the hart.
fn of_window(machine: &str, report: Result<Report>) -> Vec<Checked> {
    let named = |what: &str| format!("hunt: mainline on {machine}: {what}");
    let report = match report {
        Ok(report) => report,
        Err(error) => return vec![(named("hunt"), Verdict::Error, error.message)],
    };
    let killed = match report.result {
        Outcome::Killed { .. } => Verdict::Pass,
        Outcome::Survived | Outcome::Exposed { .. } | Outcome::Lost { .. } => Verdict::Fail,
        Outcome::Incomplete { .. } | Outcome::Uncertain { .. } => Verdict::Error,
    };
    let said = first_line(&report);
    let victim = report.killer().is_some_and(|hit| hit.touch.at.starts_with(WINDOW.1));
    vec![
        (named("a stale hit kills it"), killed, said.clone()),
        (named("the victim is handle_exception()"), certain(&report, victim), said),
    ]
}

/// Judges the kernel with the series.
fn of_series(what: &str, report: Result<Report>) -> Vec<Checked> {
    let named = |check: &str| format!("hunt: {what}: {check}");
    let report = match report {
        Ok(report) => report,
        Err(error) => return vec![(named("hunt"), Verdict::Error, error.message)],
    };
    let counts = report.counts;
    let said = first_line(&report);
    let survived = match report.result {
        Outcome::Survived => Verdict::Pass,
        Outcome::Killed { .. } | Outcome::Exposed { .. } | Outcome::Lost { .. } => Verdict::Fail,
        Outcome::Incomplete { .. } | Outcome::Uncertain { .. } => Verdict::Error,
    };
    let absorbs = certain(&report, counts.absorbed > 0 && counts.killed == 0);
    // Nearly all are by the same function of vmalloc.
    let told = report.groups.iter().any(|group| group.mapped_for.is_some());
    vec![
        (named("no stale hit kills it"), survived, said.clone()),
        (named("has stale hits, and absorbs them"), absorbs, said.clone()),
        (named("knows for whom pages were mapped"), certain(&report, told), said),
    ]
}

/// Judges the kernel with the hole.
fn of_mainline(report: Result<Report>) -> Vec<Checked> {
    let named = |what: &str| format!("hunt: mainline with KASAN: {what}");
    let report = match report {
        Ok(report) => report,
        Err(error) => return vec![(named("hunt"), Verdict::Error, error.message)],
    };
    let said = first_line(&report);
    let killed = match report.result {
        Outcome::Killed { .. } => Verdict::Pass,
        Outcome::Survived | Outcome::Exposed { .. } | Outcome::Lost { .. } => Verdict::Fail,
        Outcome::Incomplete { .. } | Outcome::Uncertain { .. } => Verdict::Error,
    };
    let calls = report.death.iter().flat_map(|death| &death.calls);
    let in_calls = calls.filter_map(|call| call.split('+').next()).any(|name| VICTIMS.contains(&name));
    let killer = report.killer();
    let victim = killer.is_some_and(|hit| VICTIMS.contains(&hit.touch.by.as_str()) || in_calls);
    let region = killer.is_some_and(|hit| hit.region == REGION);
    let mapper = killer.is_some_and(|hit| hit.store.as_ref().is_some_and(|store| store.by.starts_with("kasan_")));
    vec![
        (named("a stale hit kills it"), killed, said.clone()),
        (named("the victim is kasan_unpoison()"), certain(&report, victim), said.clone()),
        (named("the mapping is the vmalloc shadow"), certain(&report, region), said.clone()),
        (named("it was mapped by KASAN"), certain(&report, mapper), said),
    ]
}

/// Judges a kernel that forgets to end translations, because one of the functions `culprit` changes a PTE without what
/// ends them; or one that does not, if there are none.
fn of_valid(name: &str, machine: &Machine, culprit: &[String], report: Result<Report>) -> Vec<Checked> {
    let named = |what: &str| format!("hunt: {name} on {machine}: {what}");
    let report = match report {
        Ok(report) => report,
        Err(error) => return vec![(named("hunt"), Verdict::Error, error.message)],
    };
    let said = first_line(&report);
    if culprit.is_empty() {
        let survived = certain(&report, report.result == Outcome::Survived);
        return vec![(named("no stale translation is used"), survived, said)];
    }
    let stale = matches!(report.result, Outcome::Exposed { .. } | Outcome::Lost { .. });
    let by = report.culprit().and_then(|found| found.store.as_ref()).map(|store| store.by.as_str());
    let exposed = matches!(report.result, Outcome::Exposed { .. });
    let is = |by: &str| culprit.iter().any(|name| name == by);
    let found = by.is_some_and(is) || (is(control::PROGRAM) && exposed && report.culprit().is_some_and(anothers));
    vec![
        (named("a stale translation is used"), certain(&report, stale), said.clone()),
        (
            named(&format!("the culprit is {}", culprit.join(" or "))),
            certain(&report, found),
            format!("{said}; changed by {}", by.unwrap_or("nobody that is known")),
        ),
    ]
}

/// Whether a program has used a page of another one, as far as that is known: what it held is in another page table, or
/// at least nobody has changed the PTE.
fn anothers(used: &UseReport) -> bool {
    used.user && used.what == What::Remapped && used.other_table.unwrap_or(used.store.is_none())
}

/// The verdict on what a hunt must have found. One that is uncertain says nothing by not finding it.
fn certain(report: &Report, found: bool) -> Verdict {
    match report.result {
        Outcome::Incomplete { .. } | Outcome::Uncertain { .. } if !found => Verdict::Error,
        _ => pass(found),
    }
}

fn pass(yes: bool) -> Verdict {
    if yes { Verdict::Pass } else { Verdict::Fail }
}

fn first_line(report: &Report) -> String {
    let text = report.text();
    let lines = text.lines().take(1).chain(text.lines().filter(|l| l.contains("victim ") || l.contains("touched ")));
    lines.map(str::trim).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::machine::Counters;
    use crate::hunt::report::Subject;
    use crate::hunt::symbols::Symbols;
    use lazymap_console::end::{self, Ending};
    use lazymap_console::log::Log;

    /// A report on one use of a stale translation, with more events of its story.
    fn exposed(mode: u32, what: &str, more: &str) -> Report {
        let trace = format!(
            "riscv_valid_cache_stale_use hart=2 use=1 time=9 mode={mode} access=load addr=0x10000000 pc=0x10074 ra=0x0 \
             asid=2 what={what}\n\
             riscv_valid_cache_stale_read hart=2 use=1 time=5 pc=0x10060 level=0 global=0 held=0xcf memory=0x4cf fences=7\n\
             {more}"
        );
        let log = Log::of("[    0.000000] Linux version 7\n");
        let reading = end::read(&log, &Ending::Unknown, "");
        hunt::of_files(Subject::default(), &log, &reading, None, &trace, &Symbols::default()).unwrap()
    }

    #[test]
    fn a_page_of_another_program_is_in_another_page_table() {
        let store = |event: &str, pte: u64, of: &str| {
            format!("riscv_valid_cache_stale_{event} hart=2 use=1 time=7 by=1 pc=0x1 ra=0x0 pte={pte:#x}{of}\n")
        };
        let owners = |old: u64, new: u64| store("owner", old, " of=old") + &store("owner", new, " of=new");
        let changed = store("store", 0x8000_0000, "");
        let machine = Machine::new(models::find("valid").unwrap());
        let verdict = |mode: u32, what: &str, more: &str| {
            let checked = of_valid("x", &machine, &[control::PROGRAM.to_owned()], Ok(exposed(mode, what, more)));
            assert_eq!((checked.len(), checked[0].1), (2, Verdict::Pass), "{checked:?}");
            checked[1].1
        };
        assert_eq!(verdict(0, "remapped", ""), Verdict::Pass);
        assert_eq!(verdict(0, "remapped", &(changed.clone() + &owners(0x8000_0000, 0x8000_1000))), Verdict::Pass);
        // What another hart has replaced, without a fence.
        assert_eq!(verdict(0, "remapped", &changed), Verdict::Fail);
        assert_eq!(verdict(0, "remapped", &(changed + &owners(0x8000_0000, 0x8000_0000))), Verdict::Fail);
        assert_eq!(verdict(1, "remapped", ""), Verdict::Fail);
    }

    #[test]
    fn who_removed_a_page_table_must_be_the_culprit() {
        let log = Log::of("[    0.000000] Linux version 7\n");
        let counters = Counters { harts: 4, stale_hits: 0, fences: 9, gone_tables: 200_000 };
        let trace = "riscv_valid_cache_stale_use hart=2 use=1 time=50 mode=0 access=load addr=0x40000010 pc=0x10074 ra=0x0 \
                     asid=5 what=detached\n\
                     riscv_valid_cache_stale_store hart=2 use=1 time=20 by=1 pc=0xffffffff80001000 ra=0x0 pte=0x80008000\n";
        let report = |trace: &str| {
            let reading = end::read(&log, &Ending::Unknown, "");
            hunt::of_files(Subject::default(), &log, &reading, Some(counters), trace, &Symbols::default())
        };
        let machine = Machine::new(models::find("valid-all").unwrap());
        let verdicts = |culprit: &str, trace: &str| {
            let all = of_valid("x", &machine, &[culprit.to_owned()], report(trace));
            all.into_iter().map(|(_, verdict, _)| verdict).collect::<Vec<_>>()
        };
        let told = report(trace).unwrap();
        assert!(matches!(told.result, Outcome::Lost { .. }));
        let by = &told.culprit().unwrap().store.as_ref().unwrap().by;
        assert_eq!(verdicts(by, trace), [Verdict::Pass, Verdict::Pass]);
        assert_eq!(verdicts("another", trace), [Verdict::Pass, Verdict::Fail]);
        assert_eq!(verdicts(by, ""), [Verdict::Pass, Verdict::Fail]);
        assert_eq!(verdicts(control::PROGRAM, trace), [Verdict::Pass, Verdict::Fail]);
    }

    #[test]
    fn an_uncertain_hunt_fails_nothing() {
        let log = Log::of("[    0.000000] Linux version 7\n");
        let report = || {
            let subject = Subject { kernel: "k".to_owned(), ..Subject::default() };
            hunt::of_files(subject, &log, &end::read(&log, &Ending::Unknown, ""), None, "", &Symbols::default())
        };
        assert!(matches!(report().unwrap().result, Outcome::Uncertain { .. }));
        let machine = Machine::new(models::find("valid").unwrap());
        let valid = |culprit: &[String]| of_valid("x", &machine, culprit, report());
        assert_eq!((valid(&[]).len(), valid(&["f".to_owned()]).len()), (1, 2));
        for checked in [
            of_window("w", report()),
            of_series("x", report()),
            of_mainline(report()),
            valid(&[]),
            valid(&["f".to_owned()]),
        ] {
            for (name, verdict, why) in checked {
                assert_eq!(verdict, Verdict::Error, "{name}: {why}");
            }
        }
    }
}
