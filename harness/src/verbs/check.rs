// SPDX-License-Identifier: GPL-2.0-only
//! `lazymap check`: everything that can be checked, as KTAP, and one line that counts it.

use std::collections::BTreeMap;
use std::env;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::build::qemu;
use crate::build::workbench::{self, Lab, Workbench};
use crate::ground::batch;
use crate::ground::cargo::cargo;
use crate::ground::cmd::{self, Ended};
use crate::ground::error::Result;
use crate::ground::files;
use crate::ground::progress::Step;
use crate::ground::shard::Shard;
use crate::ground::table::{self, Align, Cell};
use crate::options::Options;
use crate::series;
use crate::trial::control::{self, Control};
use crate::trial::outputs::{self, Told};
use crate::trial::record::{self, Check, Provenance};
use crate::trial::report::{self, Ran};
use crate::trial::scenario::{self, Scenario, Tier, Which};
use crate::trial::tally::Tally;
use crate::trial::verdict::{Count, Verdict};
use crate::verbs::demo::{self, Kernels};
use crate::verbs::{
    bench, controls, cost, exhaust, guest_check, hunt_check, litmus, machine_test, mutants, run as scenarios,
};

/// So many names of what was not run are printed.
const FEW: usize = 6;

/// What CI has for the tier `ci`. A part that boots and that was not begun by then is skipped: on a slow host the rest
/// of the results is worth more than a job that its CI kills.
const CI_BUDGET: Duration = Duration::from_secs(50 * 60);

/// A part of the check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Part {
    /// The tool's own tests, format and clippy.
    Harness,
    /// The protocol's memory ordering.
    Litmus,
    /// The checks of the patches.
    Series,
    /// The machine model under a guest without a kernel.
    Machine,
    /// The guest's init.
    Guest,
    /// The demo's matrix.
    Demo,
    /// The exception entry, through everything that may happen.
    Exhaust,
    /// The instructions that the series costs.
    Cost,
    /// The cost of new mappings, for several kernels.
    Bench,
    /// Scenarios.
    Run,
    /// Kernels that are broken on purpose.
    Controls,
    /// Hunts with a known result.
    Hunt,
}

impl Part {
    /// All parts, in the order of their results. Those that boot nothing run side by side.
    pub const ALL: [Self; 12] = [
        Self::Harness,
        Self::Litmus,
        Self::Series,
        Self::Machine,
        Self::Guest,
        Self::Demo,
        Self::Exhaust,
        Self::Cost,
        Self::Bench,
        Self::Run,
        Self::Controls,
        Self::Hunt,
    ];

    /// As on the command line, and in results.
    pub fn name(self) -> &'static str {
        match self {
            Self::Harness => "harness",
            Self::Litmus => "litmus",
            Self::Series => "series",
            Self::Machine => "machine",
            Self::Guest => "guest",
            Self::Demo => "demo",
            Self::Exhaust => "exhaust",
            Self::Cost => "cost",
            Self::Bench => "bench",
            Self::Run => "run",
            Self::Controls => "controls",
            Self::Hunt => "hunt",
        }
    }

    /// Whether it needs kernels and the machine.
    fn boots(self) -> bool {
        !matches!(self, Self::Harness | Self::Litmus | Self::Series)
    }
}

/// What to check.
#[derive(Clone, Debug)]
pub struct Plan {
    tier: Tier,
    shard: Shard,
    parts: Vec<Part>,
    scenarios: Vec<Scenario>,
    controls: Vec<Control>,
    /// Names of what the tier leaves out, by kind.
    left_out: BTreeMap<&'static str, Vec<String>>,
}

impl Plan {
    /// Reads scenarios and controls, and selects those of the tier and the shard. An empty list of parts selects all.
    ///
    /// # Errors
    /// When one of these files is wrong (exit code 64).
    pub fn new(options: &Options, tier: Tier, only: &[Part], shard: Shard) -> Result<Self> {
        let root = &options.root;
        let scenarios = scenario::choose(root, &Which::Tier(tier))?;
        let controls = control::choose(root, &Which::Tier(tier))?;
        let mut left_out: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        let all = scenario::choose(root, &Which::Tier(Tier::Full))?;
        let later = all.iter().filter(|s| s.tier > tier).map(|s| s.name.clone());
        left_out.insert("scenarios", later.collect());
        let runs = |controls: &[Control]| -> Vec<String> {
            controls.iter().flat_map(|c| c.runs.iter().map(|r| r.trial.name.clone())).collect()
        };
        let here = runs(&controls);
        let mut rest = runs(&control::choose(root, &Which::Tier(Tier::Full))?);
        rest.retain(|name| !here.contains(name));
        left_out.insert("controls", rest);
        if tier < Tier::Full {
            left_out.insert("hunts", vec!["series and mainline with KASAN".to_owned()]);
        }
        if tier < Tier::Full {
            let others = options.base.all.iter().filter(|l| l.version != options.base.linux.version);
            left_out.insert("kernel versions", others.map(|l| l.version.clone()).collect());
            let others = options.other_machines();
            left_out.insert("QEMU versions", others.iter().map(|o| o.base.qemu.version.clone()).collect());
            left_out.insert("cost", vec!["NR_CPUS=512".to_owned()]);
        }
        match tier {
            Tier::Quick => drop(left_out.insert("mutants", vec!["all".to_owned()])),
            Tier::Ci => drop(
                left_out.insert("mutants", vec!["all but a sample, those of statements and of the tool".to_owned()]),
            ),
            Tier::Full => {}
        }
        left_out.retain(|_, names| !names.is_empty());
        // Asked for by name it runs in any tier.
        let early = |part: Part| part == Part::Bench && tier < Tier::Ci;
        if only.is_empty() && early(Part::Bench) {
            left_out.insert("bench", vec!["cost of new mappings".to_owned()]);
        }
        if tier == Tier::Ci {
            left_out.insert("bench", vec!["other machines than 4 harts with IMSICs".to_owned()]);
        }
        let wanted = |part: Part| if only.is_empty() { !early(part) } else { only.contains(&part) };
        let asked: Vec<Part> = Part::ALL.into_iter().filter(|part| wanted(*part)).collect();
        let single: Vec<Part> =
            shard.share(asked.iter().copied().filter(|p| !matches!(p, Part::Run | Part::Controls)).collect());
        let mut parts = asked;
        parts.retain(|p| matches!(p, Part::Run | Part::Controls) || single.contains(p));
        Ok(Self { tier, shard, parts, scenarios: shard.share(scenarios), controls: shard.share(controls), left_out })
    }
}

/// How long a part took, and its results.
#[derive(Clone, Debug, Serialize)]
struct Phase {
    name: &'static str,
    /// Wall-clock seconds.
    seconds: f64,
    passed: usize,
    failed: usize,
    skipped: usize,
}

impl Phase {
    fn new(name: &'static str, took: Duration, count: Count) -> Self {
        let Count { passed, failed, skipped, .. } = count;
        Self { name, seconds: record::tenths(took.as_secs_f64()), passed, failed, skipped }
    }
}

/// `out/check/results.json`.
#[derive(Serialize)]
struct Results<'a> {
    schema: u32,
    provenance: &'a Provenance,
    tier: String,
    shard: String,
    phases: &'a [Phase],
    passed: usize,
    failed: usize,
    skipped: usize,
    exit: u8,
    checks: &'a [Check],
    not_run: &'a BTreeMap<&'static str, Vec<String>>,
}

/// The state of a running check.
struct Checker<'a> {
    options: &'a Options,
    plan: &'a Plan,
    tally: Tally,
    started: Instant,
    /// Opened once, when the first part needs it, or why that failed.
    lab: Option<Result<(Lab, Kernels), String>>,
    phases: Vec<Phase>,
    /// What was booted and is rows of tables.
    ran: Vec<Ran>,
    /// All other results.
    checks: Vec<Check>,
}

/// Runs the parts of `plan`. The last line of output is `N passed, N failed, N skipped`.
///
/// # Errors
/// When the results cannot be written. Checks that could not run count as failed, with the reason.
pub fn run(options: &Options, plan: &Plan) -> Result<Count> {
    let (phases, ran, checks) = (Vec::new(), Vec::new(), Vec::new());
    let (tally, started) = (Tally::default(), Instant::now());
    let mut checker = Checker { options, plan, tally, started, lab: None, phases, ran, checks };
    if plan.parts.iter().any(|p| p.boots()) {
        // Preparing is its own phase, or the first part would seem slow.
        checker.phase("kernels", |c| c.prepare());
    }
    let (booting, apart): (Vec<Part>, Vec<Part>) = plan.parts.iter().partition(|p| p.boots());
    checker.apart(&apart);
    for part in booting {
        match too_late(plan.tier, part, started.elapsed()) {
            Some(why) => checker.phase(part.name(), |c| c.tally.skip(part.name(), &why)),
            None => checker.phase(part.name(), |c| c.part(part)),
        }
    }
    let count = checker.tally.finish();
    finish(&checker, count)?;
    Ok(count)
}

/// Why `part` is not begun after `elapsed`, if so.
fn too_late(tier: Tier, part: Part, elapsed: Duration) -> Option<String> {
    let minutes = |time: Duration| time.as_secs() / 60;
    (tier == Tier::Ci && elapsed >= CI_BUDGET).then(|| {
        let (now, budget, part) = (minutes(elapsed), minutes(CI_BUDGET), part.name());
        format!("{now} minutes have passed, CI has {budget}; `make check TIER=ci ONLY={part}` runs it")
    })
}

impl Checker<'_> {
    fn phase(&mut self, name: &'static str, work: impl FnOnce(&mut Self)) {
        let (started, before) = (Instant::now(), self.tally.count);
        work(self);
        let now = self.tally.count;
        let rows = ["demo", "run", "controls"].contains(&name) && self.ran.last().is_some_and(|ran| ran.verb == name);
        let told = self.tally.take();
        // Rows of tables say more than the line that counts them.
        self.checks.extend(told.into_iter().filter(|_| !rows).map(|told| Check { part: name.to_owned(), ..told }));
        let count = Count {
            passed: now.passed - before.passed,
            failed: now.failed - before.failed,
            skipped: now.skipped - before.skipped,
            ..Count::default()
        };
        self.phases.push(Phase::new(name, started.elapsed(), count));
    }

    /// Runs the parts that boot nothing, side by side: none of them keeps two CPUs busy for all of its time.
    fn apart(&mut self, parts: &[Part]) {
        let (options, plan) = (self.options, self.plan);
        let done = batch::side_by_side(
            parts,
            options.jobs,
            |_| 1,
            |part| {
                let (started, mut tally) = (Instant::now(), Tally::kept());
                apart(options, plan, *part, &mut tally);
                (tally, started.elapsed())
            },
        );
        for (part, (mut tally, took)) in parts.iter().zip(done) {
            let told = tally.take();
            self.checks.extend(told.into_iter().map(|told| Check { part: part.name().to_owned(), ..told }));
            self.phases.push(Phase::new(part.name(), took, tally.count));
            self.tally.append(tally);
        }
    }

    fn prepare(&mut self) {
        let made = Lab::open(self.options).and_then(|mut lab| {
            let kernels = Kernels::build(&mut lab)?;
            Ok((lab, kernels))
        });
        if let Err(error) = &made {
            self.tally.error("kernels", &error.message);
        }
        self.lab = Some(made.map_err(|e| e.message));
    }

    fn part(&mut self, part: Part) {
        let (plan, tally) = (self.plan, &mut self.tally);
        let (lab, kernels) = match &mut self.lab {
            Some(Ok((lab, kernels))) => (lab, &*kernels),
            // Already counted, with its reason.
            _ => return,
        };
        match part {
            Part::Machine => {
                machine(&lab.bench, lab.clang(), "machine", tally);
                if plan.tier == Tier::Full {
                    other_machines(lab, tally);
                }
            }
            Part::Guest => guest_check::run(&lab.bench, &kernels.series, tally),
            Part::Demo => self.ran.extend(rows(tally, "demo", demo::run(&lab.bench, kernels))),
            Part::Exhaust => {
                match exhaust::check(lab, kernels, plan.tier) {
                    Ok(all) => all.iter().for_each(|(name, verdict, why)| judged(tally, name, *verdict, why)),
                    Err(error) => tally.error("exhaust", &error.message),
                }
                if plan.tier >= Tier::Ci {
                    match mutants::check(&lab.options, &kernels.series.vmlinux, plan.tier) {
                        Ok((name, verdict, why)) => judged(tally, &name, verdict, &why),
                        Err(error) => tally.error("mutants", &error.message),
                    }
                }
                if plan.tier == Tier::Full {
                    match mutants::check_statements(lab) {
                        Ok((name, verdict, why)) => judged(tally, &name, verdict, &why),
                        Err(error) => tally.error("mutants of statements", &error.message),
                    }
                }
            }
            Part::Cost => costs(tally, cost::run(lab, kernels, plan.tier == Tier::Full)),
            Part::Bench => {
                let of_tier = if plan.tier == Tier::Full { bench::Plan::full() } else { bench::Plan::short() };
                compared(tally, bench::run(lab, kernels, &of_tier));
            }
            Part::Run if plan.scenarios.is_empty() => {}
            Part::Run => self.ran.extend(rows(tally, "run", scenarios::run(lab, &plan.scenarios))),
            Part::Controls if plan.controls.is_empty() => {}
            Part::Controls => self.ran.extend(rows(tally, "control", controls::run(lab, &plan.controls))),
            Part::Hunt => match hunt_check::run(lab, plan.tier) {
                Ok(all) => all.iter().for_each(|(name, verdict, why)| judged(tally, name, *verdict, why)),
                Err(error) => tally.error("hunt", &error.message),
            },
            Part::Harness | Part::Litmus | Part::Series => {}
        }
    }
}

/// Runs a part that boots nothing.
fn apart(options: &Options, plan: &Plan, part: Part, tally: &mut Tally) {
    match part {
        Part::Harness => harness(options, plan.tier, tally),
        Part::Litmus => {
            if let Err(error) = litmus::run(options, tally) {
                tally.error("litmus", &error.message);
            }
        }
        _ => {
            // The tree of another base is another download.
            let bases = if plan.tier == Tier::Full { options.every_base() } else { vec![options.clone()] };
            bases.iter().for_each(|options| checks_of_series(options, tally));
        }
    }
}

/// Prints and writes what comes after the last result.
fn finish(checker: &Checker<'_>, count: Count) -> Result<()> {
    let Checker { options, plan, phases, .. } = checker;
    let mut lines: Vec<Vec<Cell>> = vec![["phase", "seconds", "passed", "failed", "skipped"].map(Cell::from).into()];
    for phase in phases {
        let numbers = [phase.passed, phase.failed, phase.skipped].map(|n| n.to_string());
        let mut line: Vec<Cell> = vec![phase.name.into(), format!("{:.1}", phase.seconds).into()];
        line.extend(numbers.map(Cell::from));
        lines.push(line);
    }
    let results_file = options.place("check").join("results.json");
    if !options.asked.quiet {
        let columns = [Align::Left, Align::Right, Align::Right, Align::Right, Align::Right];
        table::text(&columns, &lines, false).lines().for_each(|line| println!("# {line}"));
        for (kind, names) in &plan.left_out {
            println!("# not run in the tier {}: {kind} {}", plan.tier, few(names));
        }
        if plan.left_out.values().any(|names| names.len() > FEW) {
            println!("# all names: `not_run` in {}", report::shown(&options.root, &results_file));
        }
    }
    // Some phases overlap.
    let seconds = checker.started.elapsed().as_secs_f64();
    if plan.tier == Tier::Ci && seconds > CI_BUDGET.as_secs_f64() {
        let budget = CI_BUDGET.as_secs() / 60;
        println!("# warning: {:.0} minutes are more than the {budget} that CI has", seconds / 60.0);
    }
    let bench = checker.lab.as_ref().and_then(|lab| lab.as_ref().ok()).map(|(lab, _)| &lab.bench);
    let about = Provenance::of(options, bench);
    let results = Results {
        schema: 1,
        provenance: &about,
        tier: plan.tier.to_string(),
        shard: plan.shard.to_string(),
        phases,
        passed: count.passed,
        failed: count.failed,
        skipped: count.skipped,
        exit: count.exit() as u8,
        checks: &checker.checks,
        not_run: &plan.left_out,
    };
    files::write_json(&results_file, &results)?;
    let told = Told { verb: "check", about: &about, parts: &checker.ran, checks: &checker.checks };
    outputs::write(&options.asked.outputs, &options.root, &told)?;
    println!("{count}");
    Ok(())
}

/// The first names, and how many more there are.
fn few(names: &[String]) -> String {
    match names.get(FEW..) {
        None | Some([]) => names.join(", "),
        Some(rest) => format!("{} and {} more", names[..FEW].join(", "), rest.len()),
    }
}

/// The checks of the patches for one base.
fn checks_of_series(options: &Options, tally: &mut Tally) {
    match series::check::check(options, None) {
        Ok(checked) if checked.results.is_empty() => tally.error("series", "nothing was checked"),
        Ok(checked) => checked.results.iter().for_each(|r| match r.verdict {
            Verdict::Pass => tally.ok(&r.name),
            Verdict::Skip => tally.skip(&r.name, &r.detail),
            _ => tally.not_ok(&r.name, &r.detail),
        }),
        Err(error) => tally.error("series", &error.message),
    }
}

/// The patches for the other versions of QEMU.
fn other_machines(lab: &Lab, tally: &mut Tally) {
    for options in lab.options.other_machines() {
        let name = format!("machine of QEMU {}", options.base.qemu.version);
        match workbench::machine(&options) {
            Ok(qemu) => machine(&Workbench { options, qemu, ..lab.bench.clone() }, lab.clang(), &name, tally),
            Err(error) => tally.error(&name, &error.message),
        }
    }
}

/// The machine model by itself, under a guest without a kernel.
fn machine(bench: &Workbench, clang: &str, name: &str, tally: &mut Tally) {
    let log = bench.options.out.join(format!("log/machine{}.log", bench.options.base.qemu_suffix()));
    match machine_test::run(bench, clang, &log) {
        Ok(checks) if checks.is_empty() => tally.error(name, "nothing was checked"),
        Ok(checks) => checks.iter().for_each(|check| {
            let name = format!("{name}: {}", check.name);
            match check.why() {
                None => tally.ok(&name),
                Some(why) => tally.not_ok(&name, &format!("{why}; see {}", log.display())),
            }
        }),
        Err(error) => tally.error(name, &error.message),
    }
    if !qemu::is_ours() {
        tally.skip(&format!("{name}: stale-translations"), "LAZYMAP_QEMU names a QEMU without its source");
    }
    let qemu = &bench.options.base.qemu;
    if !qemu.replays {
        tally
            .skip(&format!("{name}: replay"), &format!("QEMU {} does not repeat a run of several harts", qemu.version));
    }
}

/// Records a verdict, with `why` unless it is a pass.
fn judged(tally: &mut Tally, name: &str, verdict: Verdict, why: &str) {
    match verdict {
        Verdict::Pass => tally.ok(name),
        Verdict::Fail => tally.not_ok(name, why),
        Verdict::Error => tally.error(name, why),
        Verdict::Miss => tally.miss(name, why),
        Verdict::Skip => tally.skip(name, why),
    }
}

/// Records the rows of a table.
fn rows(tally: &mut Tally, what: &str, ran: Result<Ran>) -> Option<Ran> {
    match &ran {
        Ok(ran) if ran.rows.is_empty() => tally.error(what, "nothing was booted"),
        Ok(ran) => ran.rows.iter().for_each(|row| {
            let scenario = row.scenario.as_ref().map(|s| format!("{s}: ")).unwrap_or_default();
            let on = if row.harts > 0 { format!(" on {}", row.machine) } else { String::new() };
            let verb = if row.harts > 0 { " ends in" } else { "" };
            let name = format!("{what}: {scenario}{}{on}: {}{verb} {}", row.kernel, row.test, row.expected);
            judged(tally, &name, row.verdict, &row.observed);
        }),
        Err(error) => tally.error(what, &error.message),
    }
    ran.ok().filter(|ran| !ran.rows.is_empty())
}

/// Records the paths whose instructions were counted.
fn costs(tally: &mut Tally, rows: Result<Vec<cost::Row>>) {
    match rows {
        Ok(rows) => rows.iter().for_each(|row| {
            judged(tally, &format!("cost: {}", row.path), row.verdict, &row.problem());
        }),
        Err(error) => tally.error("cost", &error.message),
    }
}

/// Records what the bench compared.
fn compared(tally: &mut Tally, checks: Result<Vec<bench::judge::Check>>) {
    match checks {
        Ok(checks) => checks.iter().for_each(|check| {
            judged(tally, &format!("bench: {}", check.name), check.verdict, &check.why);
        }),
        Err(error) => tally.error("bench", &error.message),
    }
}

/// The tool's own tests, format and clippy; in the full tier, mutants of what reads consoles.
fn harness(options: &Options, tier: Tier, tally: &mut Tally) {
    harness_tests(options, tally);
    let manifest = options.root.join("harness/Cargo.toml");
    let target = options.out.join("harness");
    let at: [&Path; 2] = ["--manifest-path".as_ref(), &manifest];
    let format: [&Path; 2] = ["--all".as_ref(), "--check".as_ref()];
    component(options, tally, "harness: format", "fmt", &[at, format].concat());
    let clippy: [&Path; 9] = [
        "--target-dir".as_ref(),
        &target,
        "--workspace".as_ref(),
        "--all-targets".as_ref(),
        "--locked".as_ref(),
        "--release".as_ref(),
        "--".as_ref(),
        "-D".as_ref(),
        "warnings".as_ref(),
    ];
    component(options, tally, "harness: clippy", "clippy", &[at.as_slice(), clippy.as_slice()].concat());
    if tier == Tier::Full {
        let results = options.out.join("mutants/console");
        let mutants: [&Path; 4] = ["--package".as_ref(), "lazymap-console".as_ref(), "--output".as_ref(), &results];
        let name = "harness: mutants of what reads consoles";
        component(options, tally, name, "mutants", &[at.as_slice(), mutants.as_slice()].concat());
    }
}

/// The tool's unit and fixture tests. The verdict is cargo's exit status.
fn harness_tests(options: &Options, tally: &mut Tally) {
    let name = "harness: tests";
    let log = options.out.join("log/harness-tests.log");
    let mut command = cargo("test");
    command.arg("--manifest-path").arg(options.root.join("harness/Cargo.toml"));
    command.arg("--target-dir").arg(options.out.join("harness"));
    // The tool's own profile, because its dependencies are already compiled.
    command.args(["--workspace", "--locked", "--no-fail-fast", "--release"]);
    // Some look at kernel trees there.
    command.env("LAZYMAP_OUT", &options.out);
    // Many of the tests wait for a limit to pass.
    if env::var_os("RUST_TEST_THREADS").is_none() {
        command.env("RUST_TEST_THREADS", (3 * options.jobs).to_string());
    }
    let step = Step::start("test the harness");
    let ended = cmd::captured(&mut command, &log, &step);
    step.finish(if matches!(ended, Ok(Ended::Well)) { "done" } else { "failed" });
    match ended {
        Ok(Ended::Well) => {
            tally.ok(name);
            let text = files::read_lossy(&log).unwrap_or_default();
            for (name, why) in skipped_tests(&text) {
                tally.skip(name, why);
            }
        }
        Ok(Ended::Badly { what, .. }) => {
            let text = files::read_lossy(&log).unwrap_or_default();
            match failed_tests(&text).as_slice() {
                // It failed before running them.
                [] => tally.error(name, &format!("{what}; see {}", log.display())),
                failed => tally.not_ok(name, &format!("{} failed; see {}", failed.join(", "), log.display())),
            }
        }
        Err(error) => tally.error(name, &error.message),
    }
}

/// Names of the tests that failed.
fn failed_tests(log: &str) -> Vec<&str> {
    log.lines().filter_map(|line| line.trim().strip_prefix("test ")?.strip_suffix(" ... FAILED")).collect()
}

/// What tests did not do, and why: cargo has no word for that, so they print it.
fn skipped_tests(log: &str) -> Vec<(&str, &str)> {
    // The test runner may be in the middle of a line.
    log.lines().filter_map(|line| line.split_once("SKIPPED ")?.1.split_once(": ")).collect()
}

/// A check with a component of the Rust toolchain that may not be installed.
fn component(options: &Options, tally: &mut Tally, name: &str, verb: &str, arguments: &[&Path]) {
    let asked = cargo(verb).arg("--version").stdin(Stdio::null()).output();
    if !asked.is_ok_and(|done| done.status.success()) {
        return tally.skip(name, &format!("`cargo {verb}` is not installed"));
    }
    let log = options.out.join(format!("log/harness-{verb}.log"));
    let step = Step::start(format!("cargo {verb}"));
    let ended = cmd::captured(cargo(verb).args(arguments), &log, &step);
    step.finish(if matches!(ended, Ok(Ended::Well)) { "done" } else { "failed" });
    match ended {
        Ok(Ended::Well) => tally.ok(name),
        Ok(Ended::Badly { what, .. }) => tally.not_ok(name, &format!("{what}; see {}", log.display())),
        Err(error) => tally.error(name, &error.message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lists_are_cut() {
        let names: Vec<String> = (0..9).map(|n| n.to_string()).collect();
        assert_eq!(few(&names[..6]), "0, 1, 2, 3, 4, 5");
        assert_eq!(few(&names), "0, 1, 2, 3, 4, 5 and 3 more");
    }

    #[test]
    fn only_the_tier_ci_runs_out_of_time() {
        let late = |tier, seconds| too_late(tier, Part::Hunt, Duration::from_secs(seconds));
        assert_eq!((late(Tier::Ci, 2999), late(Tier::Quick, 9999), late(Tier::Full, 9999)), (None, None, None));
        let why = "52 minutes have passed, CI has 50; `make check TIER=ci ONLY=hunt` runs it";
        assert_eq!(late(Tier::Ci, 3120).as_deref(), Some(why));
    }

    #[test]
    fn failed_tests_are_named() {
        let log = "\
running 3 tests
test a ... ok
test b - should panic ... FAILED
test c ... FAILED

failures:

---- b stdout ----
note: test did not panic as expected

failures:
    b
    c

test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.11s
";
        assert_eq!(failed_tests(log), ["b - should panic", "c"]);
        let log = "test a ... SKIPPED harness, b: no network: x\nok\ntest c ... ok\n";
        assert_eq!(skipped_tests(log), [("harness, b", "no network: x")]);
        assert_eq!(failed_tests("error: could not compile `lazymap`\n"), [""; 0]);
    }
}
