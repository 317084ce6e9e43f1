// SPDX-License-Identifier: GPL-2.0-only
//! `lazymap run`: runs scenarios.

use std::path::Path;
use std::time::Instant;

use crate::build::kernel::{self, Compiled, Compiler, SERIES};
use crate::build::kunit::{self as suites, Arch, Tested};
use crate::build::workbench::{Lab, Workbench};
use crate::ground::error::{Error, Result};
use crate::ground::files;
use crate::options::Options;
use crate::trial::coverage;
use crate::trial::kunit;
use crate::trial::plan::Trial;
use crate::trial::record;
use crate::trial::report::{self, Done, Ran, Row, shown};
use crate::trial::run;
use crate::trial::scenario::{self, FOLDER, Kind, Scenario, Which, choose};
use crate::trial::select::Selection;
use crate::trial::verdict::Verdict;

/// Prints all scenarios with their descriptions.
///
/// # Errors
/// As [`scenario::load`].
pub fn list(root: &Path) -> Result<()> {
    let all = scenario::load(root)?;
    let width = all.keys().map(String::len).max().unwrap_or(0);
    for scenario in all.values() {
        println!("{:width$}  {:5}  {}", scenario.name, scenario.tier.to_string(), scenario.description);
    }
    Ok(())
}

/// Prints what [`run`] would do; builds and boots nothing.
///
/// # Errors
/// As [`choose`].
pub fn dry_run(options: &Options, which: &Which) -> Result<()> {
    let bench = Workbench::planned(options);
    for scenario in choose(&options.root, which)? {
        println!("{}: {}", scenario.name, scenario.description);
        if let Kind::Kunit(archs) = &scenario.kind {
            archs.iter().for_each(|arch| println!("  run        {}", suites::planned(options, *arch)));
            continue;
        }
        let start = match &scenario.config {
            config if config.standalone => "tinyconfig",
            config if config.defconfig => "arch/riscv's defconfig",
            _ => "harness/kernel.config",
        };
        match scenario.config.lines.is_empty() {
            true => println!("  configure  {start}"),
            false => println!("  configure  {start} and {}", scenario.config.lines.trim().replace('\n', ", ")),
        }
        if scenario.config.compiler != Compiler::default() {
            println!("  compiler   {}", scenario.config.compiler);
        }
        println!("  build in   {}", shown(&options.root, &kernel::o_folder(options, &scenario.config)));
        match &scenario.kind {
            Kind::Kunit(_) => {}
            Kind::Compile { folders } => println!("  compile    {}", folders.join(" ")),
            Kind::Boot(trial) => {
                let tests: Vec<&str> = trial.tests.iter().map(|(test, _)| test.as_str()).collect();
                println!("  tests      {}", tests.join(" "));
                trial.require.iter().for_each(|r| println!("  require    {r}"));
                let kernel = kernel::planned(options, SERIES, &scenario.config);
                println!("  boot       {}", run::command(&bench, trial, &kernel, &bench.options.place("run"))?);
            }
        }
    }
    Ok(())
}

/// Runs scenarios, prints the table, and writes `out/run/results.json`.
///
/// # Errors
/// When they cannot be selected, or the results cannot be written. If one of them fails to build or
/// boot, that is a row of the table.
pub fn run(lab: &mut Lab, scenarios: &[Scenario]) -> Result<Ran> {
    // Report wrong files before building anything.
    takes(&lab.bench, scenarios)?;
    let folder = lab.bench.options.place("run");
    report::start(&folder)?;
    let mut all: Vec<Done> = Vec::new();
    // Those that share a kernel stand together.
    for group in scenarios.chunk_by(|a, b| a.boots() && b.boots() && a.config.name == b.config.name) {
        if let [scenario] = group
            && let Kind::Compile { folders } = &scenario.kind
        {
            let row = compile(lab, scenario, folders);
            all.push(Done { report: report_of(&row), rows: vec![row], headline: None, ready: false, boot: None });
            continue;
        }
        if let [scenario] = group
            && let Kind::Kunit(archs) = &scenario.kind
        {
            for arch in archs {
                all.push(kunit_on(lab, scenario, *arch, &folder)?);
            }
            continue;
        }
        let kernel = lab.kernel(&group[0].config);
        let trials: Vec<&Trial> = group.iter().filter_map(Scenario::trial).collect();
        let trials = run::repeated(&lab.bench, &trials);
        all.extend(run::all(&lab.bench, &trials.iter().collect::<Vec<_>>(), &kernel, &folder));
    }
    coverage::check(&lab.options.root, &mut all)?;
    let ran = report::finish(&lab.bench, "run", &folder, all)?;
    println!("Consoles and results: {}", shown(&lab.options.root, &folder));
    Ok(ran)
}

/// Checks that QEMU and `base.toml` have what the scenarios name.
///
/// # Errors
/// When one of them is wrong (exit code 64).
pub fn takes(bench: &Workbench, scenarios: &[Scenario]) -> Result<()> {
    for scenario in scenarios {
        let Some(trial) = scenario.trial() else { continue };
        let firmware =
            trial.firmware.as_deref().map_or(Ok(()), |version| bench.options.base.find_firmware(version).map(|_| ()));
        firmware
            .and_then(|()| bench.takes(&trial.machine))
            .map_err(|why| Error::usage(format!("{FOLDER}/{}.toml: {why}; correct the file", scenario.family)))?;
    }
    Ok(())
}

/// The scenarios with the tests that are meant.
///
/// # Errors
/// When none of them has one (exit code 64).
pub fn narrow(scenarios: Vec<Scenario>, selection: &Selection) -> Result<Vec<Scenario>> {
    if selection.is_all() {
        return Ok(scenarios);
    }
    let narrow = |scenario: Scenario| {
        let trial = selection.narrow(scenario.trial()?)?;
        Some(Scenario { kind: Kind::Boot(Box::new(trial)), ..scenario })
    };
    let left: Vec<Scenario> = scenarios.into_iter().filter_map(narrow).collect();
    if left.is_empty() { Err(selection.nothing()) } else { Ok(left) }
}

/// KUnit's suites on an architecture.
fn kunit_on(lab: &mut Lab, scenario: &Scenario, arch: Arch, folder: &Path) -> Result<Done> {
    let tested = lab.kunit(arch).unwrap_or_else(|error| Tested::NotBooted(error.message));
    let console = format!("{}-{}.log", scenario.name, arch.name());
    match &tested {
        Tested::Booted { console: text, .. } => files::write_whole(&folder.join(&console), text)?,
        _ => files::remove(&folder.join(&console))?,
    }
    Ok(kunit::done(&lab.options.root, &scenario.name, arch, &tested, &console))
}

/// A scenario that boots nothing, as a row.
fn compile(lab: &mut Lab, scenario: &Scenario, folders: &[String]) -> Row {
    let started = Instant::now();
    let (observed, verdict) = match lab.compile(&scenario.config, folders) {
        Ok(Compiled::Yes) => ("compiles".to_owned(), Verdict::Pass),
        Ok(Compiled::No(why)) => (format!("does not compile: {why}"), Verdict::Fail),
        Ok(Compiled::NoCompiler(why)) => (format!("skipped: {why}"), Verdict::Skip),
        Err(error) => (error.message, Verdict::Error),
    };
    Row {
        scenario: Some(scenario.name.clone()),
        kernel: SERIES.to_owned(),
        machine: "-".to_owned(),
        harts: 0,
        test: folders.join(" "),
        expected: "compiles".to_owned(),
        observed,
        verdict,
        stale_hits: None,
        seconds: record::tenths(started.elapsed().as_secs_f64()),
        console: String::new(),
        why: Vec::new(),
        repeat: None,
        cases: Vec::new(),
    }
}

/// The report on a row without a boot.
fn report_of(row: &Row) -> Option<String> {
    let scenario = row.scenario.as_deref().unwrap_or_default();
    (row.verdict != Verdict::Pass).then(|| format!("{scenario}: {}: {}", row.test, row.observed))
}
