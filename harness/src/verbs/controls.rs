// SPDX-License-Identifier: GPL-2.0-only
//! `lazymap controls`: runs kernels that are broken on purpose; each must be caught.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::mpsc;
use std::thread;

use crate::build::kernel;
use crate::build::workbench::{Lab, Workbench};
use crate::ground::error::{Error, Result};
use crate::options::Options;
use crate::trial::control::{self, Control, ControlRun, FILE, FOLDER, build, choose, kernel_name};
use crate::trial::report::{self, Done, Ran, shown};
use crate::trial::run;
use crate::trial::scenario::Which;
use crate::trial::select::Selection;

/// Prints all controls with a description.
///
/// # Errors
/// As [`control::load`].
pub fn list(root: &Path) -> Result<()> {
    let all = control::load(root)?;
    let width = all.iter().map(|c| c.name.len()).max().unwrap_or(0);
    all.iter().for_each(|c| println!("{:width$}  {}", c.name, c.what));
    Ok(())
}

/// Prints what [`run`] would do; builds and boots nothing.
///
/// # Errors
/// As [`control::load`], and when a name is unknown (exit code 64).
pub fn dry_run(options: &Options, which: &Which) -> Result<()> {
    let bench = Workbench::planned(options);
    for control in choose(&options.root, which)? {
        println!("{}: {}", control.name, control.what);
        println!("  apply      {FOLDER}/{}.patch on {}", control.name, control.on);
        if let Some(machine) = &control.hunt {
            println!("  hunt on    {machine}, in the full tier of `make check`");
        }
        if !control.exhaust.is_empty() {
            let holes: Vec<String> = control.exhaust.iter().map(ToString::to_string).collect();
            println!("  search for {}, in `make check`", holes.join(", "));
        }
        for ControlRun { config, trial, .. } in &control.runs {
            println!("  build in   {}", shown(&options.root, &kernel::o_folder(options, config)));
            let test = trial.tests.first().map_or("the boot", |(test, _)| test.as_str());
            let wanted = trial.tests.first().map(|(_, e)| e.name());
            let wanted = wanted.or(trial.at_boot.as_ref().map(ToString::to_string)).unwrap_or_default();
            println!("  expect     {test} ends in {wanted}");
            let kernel = kernel::planned(options, &kernel_name(&control.name), config);
            println!("  boot       {}", run::command(&bench, trial, &kernel, &bench.options.place("controls"))?);
        }
    }
    Ok(())
}

/// Runs controls, prints the table, and writes `out/controls/results.json`. Leaves the series checked
/// out.
///
/// # Errors
/// When they cannot be selected, or the results cannot be written. If one of them fails to build or
/// boot, that is a row of the table.
pub fn run(lab: &mut Lab, controls: &[Control]) -> Result<Ran> {
    for control in controls {
        for run in &control.runs {
            lab.bench.takes(&run.trial.machine).map_err(|why| {
                Error::usage(format!("{FOLDER}/{FILE}: control {}: {why}; correct the file", control.name))
            })?;
        }
    }
    let folder = lab.bench.options.place("controls");
    report::start(&folder)?;
    let mut done: Vec<Done> = Vec::new();
    // Group by configuration: changing it is what takes long.
    let configs: BTreeSet<&str> = controls.iter().flat_map(|c| &c.runs).map(|r| r.config.name.as_str()).collect();
    let of = |config: &str, control: &Control| -> Vec<ControlRun> {
        control.runs.iter().filter(|r| r.config.name == config).cloned().collect()
    };
    let groups: Vec<(&Control, Vec<ControlRun>)> = configs
        .iter()
        .flat_map(|config| controls.iter().map(|control| (control, of(config, control))))
        .filter(|(_, runs)| !runs.is_empty())
        .collect();
    let bench = lab.bench.clone();
    thread::scope(|scope| {
        // While a kernel boots, the next one is built, and no more than that.
        let (built, kernels) = mpsc::sync_channel(0);
        let (groups, lab) = (&groups, &mut *lab);
        scope.spawn(move || {
            for (control, runs) in groups {
                // Nobody waits for it after a panic.
                if built.send(build(lab, control, &runs[0].config)).is_err() {
                    break;
                }
            }
        });
        for (_, runs) in groups {
            let kernel =
                kernels.recv().unwrap_or_else(|_| Err(Error::could_not("the build has panicked; report this")));
            for run in runs {
                for trial in run::repeated(&bench, &[&run.trial]) {
                    let kernel = kernel.as_ref().map_err(|e| Error::could_not(e.message.clone()));
                    done.push(run::run(&bench, &trial, kernel, &folder));
                }
            }
        }
    });
    let tip = lab.tip.clone();
    lab.tree.check_out(&tip)?;
    let place = |done: &Done| done.rows.first().and_then(|row| controls.iter().position(|c| c.name == row.kernel));
    done.sort_by_key(place);
    let ran = report::finish(&lab.bench, "controls", &folder, done)?;
    println!("Consoles and results: {}", shown(&lab.options.root, &folder));
    Ok(ran)
}

/// The controls, with those of their runs that have a selected test.
///
/// # Errors
/// When none of them has one (exit code 64).
pub fn narrow(mut controls: Vec<Control>, selection: &Selection) -> Result<Vec<Control>> {
    if selection.is_all() {
        return Ok(controls);
    }
    for control in &mut controls {
        control.runs.retain(|run| run.case().is_none_or(|case| selection.takes_case(case)));
        control.runs.retain_mut(|run| match selection.narrow(&run.trial) {
            Some(trial) => {
                run.trial = trial;
                true
            }
            None => false,
        });
    }
    controls.retain(|control| !control.runs.is_empty());
    if controls.is_empty() { Err(selection.nothing()) } else { Ok(controls) }
}
