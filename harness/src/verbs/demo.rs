// SPDX-License-Identifier: GPL-2.0-only
//! The matrix: two kernels on machines whose harts cache different things, and the expected results.
//! [`matrix`] is the only place that says what is expected.

use crate::boot::machine::{Irq, Machine};
use crate::boot::models;
use crate::build::kernel::{self, Config, Kernel, PREVENTIVE, SERIES};
use crate::build::workbench::{Lab, Workbench};
use crate::ground::error::{Error, Result};
use crate::options::Options;
use crate::trial::control;
use crate::trial::expect::Expect;
use crate::trial::plan::Trial;
use crate::trial::report::{self, Ran, Row, shown};
use crate::trial::run;
use crate::trial::select::Selection;
use crate::trial::verdict::Verdict;

const IPI: &str = "test-ipi.sh";
const STACK: &str = "test-stack.sh";
const TRACE: &str = "test-trace.sh";

/// A machine whose harts see a new mapping at once.
///
/// # Errors
/// When `harness/models.toml` has no such model.
pub fn plain() -> Result<Machine> {
    models::find("plain").map(Machine::new)
}

/// What the demo boots, and what is expected. The test that ends a kernel comes last.
///
/// # Errors
/// When `harness/models.toml` lacks a model.
pub fn matrix() -> Result<Vec<Trial>> {
    let plain = plain()?;
    let stale = Machine::new(models::find("stale")?);
    let stale_sbi = Machine { irq: Irq::Sbi, ..stale.clone() };
    let tests = |tests: &[&str], expect: Expect| -> Vec<(String, Expect)> {
        tests.iter().map(|test| ((*test).to_owned(), expect.clone())).collect()
    };
    // A kernel that flushes first is fine wherever nothing is touched before the flush has ended. The
    // test of stacks came after this kernel.
    let looped = [tests(&[IPI], Expect::Pass), tests(&[TRACE], Expect::StackOverflow)].concat();
    let survived = tests(&[IPI, STACK, TRACE], Expect::Survive);
    Ok(vec![
        Trial::new(PREVENTIVE, plain.clone(), tests(&[IPI, TRACE], Expect::Pass)),
        Trial::new(PREVENTIVE, stale.clone(), looped),
        Trial::new(SERIES, plain, tests(&[IPI, STACK, TRACE], Expect::Pass)),
        Trial::new(SERIES, stale, survived.clone()),
        Trial::new(SERIES, stale_sbi, survived),
    ])
}

/// The kernels of the demo.
#[derive(Clone, Debug)]
pub struct Kernels {
    /// With the series, and changed to flush every hart for each new mapping.
    pub preventive: Kernel,
    /// With the series.
    pub series: Kernel,
}

impl Kernels {
    /// Builds them. Leaves the series checked out.
    ///
    /// # Errors
    /// When one of them cannot be built.
    pub fn build(lab: &mut Lab) -> Result<Self> {
        let series = lab.kernel(&Config::default())?;
        let preventive = control::kernel(lab, PREVENTIVE, &Config::default())?;
        let tip = lab.tip.clone();
        lab.tree.check_out(&tip)?;
        Ok(Self { preventive, series })
    }

    /// The kernel called `name` in a row.
    ///
    /// # Errors
    /// When no kernel has that name.
    pub fn named(&self, name: &str) -> Result<&Kernel> {
        match name {
            PREVENTIVE => Ok(&self.preventive),
            SERIES => Ok(&self.series),
            _ => Err(Error::could_not(format!("the demo has no kernel `{name}`"))),
        }
    }
}

/// The selected part of the matrix, and whether that is all of it.
fn chosen(options: &Options) -> Result<(Vec<Trial>, bool)> {
    let selection = Selection::new(&options.root, &options.asked.select)?;
    let chosen: Vec<Trial> = matrix()?.iter().filter_map(|trial| selection.narrow(trial)).collect();
    if chosen.is_empty() { Err(selection.nothing()) } else { Ok((chosen, selection.is_all())) }
}

/// Prints what [`run`] would do; builds and boots nothing.
///
/// # Errors
/// When no test of the demo is selected (exit code 64).
pub fn dry_run(options: &Options) -> Result<()> {
    let (bench, config) = (Workbench::planned(options), Config::default());
    println!("build in {}", shown(&options.root, &kernel::o_folder(options, &config)));
    for trial in chosen(options)?.0 {
        let name = if trial.kernel == SERIES { SERIES.to_owned() } else { control::kernel_name(&trial.kernel) };
        let tests: Vec<String> =
            trial.tests.iter().map(|(test, expect)| format!("{test}: {}", expect.name())).collect();
        println!("{}: {}", trial.name, tests.join(", "));
        let kernel = kernel::planned(options, &name, &config);
        println!("  boot {}", run::command(&bench, &trial, &kernel, &options.place("demo"))?);
    }
    Ok(())
}

/// Boots the matrix, prints the table, and writes `out/demo/results.json`.
///
/// # Errors
/// When the results cannot be written. Problems with a boot become a row of the table.
pub fn run(bench: &Workbench, kernels: &Kernels) -> Result<Ran> {
    let folder = bench.options.place("demo");
    let (chosen, all) = chosen(&bench.options)?;
    report::start(&folder)?;
    let mut done = Vec::new();
    let mut headline = None;
    for trial in run::repeated(bench, &chosen.iter().collect::<Vec<_>>()) {
        let booted = run::run(bench, &trial, kernels.named(&trial.kernel), &folder);
        if trial.tests.iter().any(|(_, expect)| matches!(expect, Expect::StackOverflow)) {
            headline = headline.or(booted.headline.clone());
        }
        done.push(booted);
    }
    let ran = report::finish(bench, "demo", &folder, done)?;
    if all && !bench.options.asked.quiet {
        println!("{}", summary(&ran.rows, headline.as_deref()));
    }
    println!("Consoles and results: {}", shown(&bench.options.root, &folder));
    Ok(ran)
}

/// Explains the result to somebody who sees it for the first time.
fn summary(rows: &[Row], headline: Option<&str>) -> String {
    let bad = rows.iter().filter(|r| r.verdict != Verdict::Pass).count();
    if bad > 0 {
        return format!(
            "{bad} of {} are not as expected: nothing can be concluded from this run but that.",
            rows.len()
        );
    }
    let mut boots: Vec<(&str, &str, u64)> = Vec::new();
    for row in rows.iter().filter(|r| r.kernel == SERIES) {
        let boot = (row.kernel.as_str(), row.machine.as_str(), row.stale_hits.unwrap_or(0));
        if boot.2 > 0 && !boots.contains(&boot) {
            boots.push(boot);
        }
    }
    let faults: u64 = boots.iter().map(|b| b.2).sum();
    format!(
        "Both kernels are fine on harts that forget invalid translations. On harts that remember them, as real\n\
         cores may, the kernel that fences every hart after each new mapping died: \"{}\".\n\
         Its fence is an interrupt that can be traced; the tracer touched the very mapping that was being announced,\n\
         the fault was traced as well, touched it again, and so on until the stack ended. The kernel with the series\n\
         fences at the fault, before anything can be traced: it took {faults} spurious faults on the same machines,\n\
         and passed every test.",
        headline.unwrap_or("no headline")
    )
}
