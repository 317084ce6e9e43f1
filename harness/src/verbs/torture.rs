// SPDX-License-Identifier: GPL-2.0-only
//! `lazymap torture`: test-torture.sh on one kernel and machine after the other, each time with another seed, until the
//! time is up or something fails.

use std::collections::BTreeMap;
use std::collections::hash_map::RandomState;
use std::fs;
use std::hash::BuildHasher;
use std::path::Path;

use regex_lite::Regex;
use serde::{Deserialize, Serialize};

use super::run as scenarios;
use crate::boot::machine::{LimitsGiven, Machine};
use crate::build::kernel::{Compiler, Kernel};
use crate::build::workbench::Lab;
use crate::ground::error::{Error, Result};
use crate::ground::files;
use crate::options::asked::Outputs;
use crate::trial::expect::Expect;
use crate::trial::plan::Trial;
use crate::trial::report::{self, Done, Ran};
use crate::trial::run;
use crate::trial::scenario::{self, Scenario, Which};
use crate::trial::verdict::Verdict;

/// The scenarios whose kernels and machines take turns if none is named, in this order. The one with many harts, which no
/// other takes the place of, comes first: boots are longer than their tests, so the time may end before the last ones.
const SCENARIOS: [&str; 15] = [
    "many",
    "torture",
    "window-1",
    "window-2",
    "window-3",
    "window-4",
    "absent",
    "random",
    "line",
    "late-store",
    "valid-all",
    "sbi-fences",
    "opensbi-1-9",
    "debian",
    "kfence",
];

const TEST: &str = "test-torture.sh";
/// How the parameters of its module begin on the kernel's command line.
const MODULE: &str = "lazy_map_torture.";
/// What it prints at its end if all is well.
const SUCCESS: &str = "End of test: SUCCESS$";
/// Seconds between its statistics.
const INTERVAL: u32 = 20;

/// The least and the most seconds of a boot.
const SECONDS: (u32, u32) = (60, 600);
/// By how much a second of the guest takes longer where instructions drive the clock and harts take turns, and the
/// least seconds there.
const TURNS: (u32, u32) = (20, 10);
/// Seconds that a boot may be silent, and take, beyond those of the test.
const SPARE: (u32, u32) = (180, 300);

/// The file with the seeds and results so far, in the folder of the results.
const PROGRESS: &str = "torture.json";

/// What follows the verb.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Scenarios whose kernels and machines take turns [default: those in docs/scenarios.md]
    pub scenario: Vec<String>,
    /// How long to go on, without the time for builds; a boot that has begun gets to its end
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=10_080))]
    pub minutes: u32,
    /// How long each test takes [default: the minutes, shared]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub seconds: Option<u32>,
    /// The seed of the first boot; the others count up from it [default: a random number]
    #[arg(long, value_name = "N")]
    pub seed: Option<u32>,
    /// Continues a run that was interrupted, with the next seed
    #[arg(long, conflicts_with = "seed")]
    pub resume: bool,
    #[command(flatten)]
    pub outputs: Outputs,
}

/// What [`run`] does.
#[derive(Clone, Debug)]
pub struct Plan {
    scenarios: Vec<Scenario>,
    minutes: u32,
    seconds: Option<u32>,
    seed: Option<u32>,
    resume: bool,
}

impl Plan {
    /// Reads the scenarios.
    ///
    /// # Errors
    /// When one of them is wrong, unknown, boots nothing or has no modules in Rust (exit code 64).
    pub fn new(root: &Path, args: &Args) -> Result<Self> {
        let names = match args.scenario.as_slice() {
            [] => SCENARIOS.map(str::to_owned).to_vec(),
            names => names.to_vec(),
        };
        let mut scenarios = scenario::choose(root, &Which::Named(names.clone()))?;
        scenarios.sort_by_key(|scenario| names.iter().position(|name| scenario.is_called(name)));
        for scenario in &scenarios {
            if !scenario.boots() {
                return Err(Error::usage(format!("the scenario `{}` boots nothing; name another", scenario.name)));
            }
            if scenario.config.compiler == Compiler::Gcc {
                return Err(Error::usage(format!(
                    "the kernel of the scenario `{}` has no Rust, in which {TEST} is written; name another",
                    scenario.name
                )));
            }
        }
        Ok(Self { scenarios, minutes: args.minutes, seconds: args.seconds, seed: args.seed, resume: args.resume })
    }

    /// Seconds of each test, if not given: the time is for all.
    fn seconds(&self) -> u32 {
        let scenarios = u32::try_from(self.scenarios.len()).unwrap_or(u32::MAX).max(1);
        self.seconds.unwrap_or_else(|| (self.minutes * 60 / scenarios).clamp(SECONDS.0, SECONDS.1))
    }

    fn names(&self) -> Vec<String> {
        self.scenarios.iter().map(|scenario| scenario.name.clone()).collect()
    }

    /// What an earlier run has done, or nothing with a new seed.
    fn progress(&self, folder: &Path) -> Result<Progress> {
        let path = folder.join(PROGRESS);
        if !self.resume {
            files::remove(&path)?;
            let seed = self.seed.unwrap_or_else(|| RandomState::new().hash_one(0) as u32);
            return Ok(Progress { seed, scenarios: self.names(), boots: Vec::new() });
        }
        let text = fs::read(&path)
            .map_err(|e| Error::usage(format!("nothing to resume: cannot read {}: {e}", path.display())))?;
        let progress: Progress = serde_json::from_slice(&text)
            .map_err(|e| Error::could_not(format!("{}: {e}; leave --resume out", path.display())))?;
        if progress.scenarios != self.names() {
            return Err(Error::usage(format!(
                "the run to resume was of {}; name the same or leave --resume out",
                progress.scenarios.join(" ")
            )));
        }
        if let Some(failed) = progress.boots.iter().find(|boot| !boot.passed) {
            return Err(Error::usage(format!(
                "the run to resume has failed: {} with the seed {}; leave --resume out",
                failed.scenario, failed.seed
            )));
        }
        if progress.seconds() >= self.budget() {
            return Err(Error::usage("the run to resume is complete; give more --minutes or leave --resume out"));
        }
        Ok(progress)
    }

    fn budget(&self) -> f64 {
        f64::from(self.minutes) * 60.0
    }
}

/// The contents of [`PROGRESS`].
#[derive(Debug, Deserialize, Serialize)]
struct Progress {
    /// That of the first boot.
    seed: u32,
    /// Names of the scenarios.
    scenarios: Vec<String>,
    boots: Vec<Booted>,
}

/// A boot that has ended.
#[derive(Debug, Deserialize, Serialize)]
struct Booted {
    /// Name of its files.
    name: String,
    scenario: String,
    seed: u32,
    /// How long it took.
    seconds: f64,
    passed: bool,
    /// What was observed of the test.
    observed: String,
    stale_hits: Option<u64>,
}

impl Progress {
    /// How long all boots took.
    fn seconds(&self) -> f64 {
        self.boots.iter().map(|boot| boot.seconds).sum()
    }

    /// The seed of the next boot.
    fn next_seed(&self) -> u32 {
        self.seed.wrapping_add(u32::try_from(self.boots.len()).unwrap_or(u32::MAX))
    }

    fn keep(&self, folder: &Path) -> Result<()> {
        files::write_json(&folder.join(PROGRESS), self)
    }

    /// Names of the scenarios that were not booted.
    fn waiting(&self) -> Vec<&str> {
        let booted = |name: &str| self.boots.iter().any(|boot| boot.scenario == name);
        self.scenarios.iter().map(String::as_str).filter(|name| !booted(name)).collect()
    }

    /// The end in a few lines; `seconds` are those of each test.
    fn summary(&self, seconds: u32) -> String {
        let hits: u64 = self.boots.iter().filter_map(|boot| boot.stale_hits).sum();
        let counts = format!("{} boots in {:.0} s, {hits} stale hits", self.boots.len(), self.seconds());
        match self.boots.last() {
            Some(last) if !last.passed => format!(
                "End of torture: FAILURE: {} with the seed {}: {}; {counts}\n\
                 The same choices on another host: harness/lazymap torture {} --seed {} --seconds {seconds} --minutes 1",
                last.scenario, last.seed, last.observed, last.scenario, last.seed
            ),
            Some(last) => {
                let waiting = self.waiting().join(", ");
                let rest = if waiting.is_empty() { waiting } else { format!("; the time ended before {waiting}") };
                format!("End of torture: SUCCESS: {counts}; seeds {} to {}{rest}", self.seed, last.seed)
            }
            None => "End of torture: nothing was booted".to_owned(),
        }
    }
}

/// Boots one scenario after the other, prints the table, and writes `out/torture/results.json`. Ends at the first failure.
///
/// # Errors
/// When the machine cannot be built, there is nothing to resume, or the results cannot be written. If a kernel fails to
/// build or boot, that is a row of the table.
pub fn run(lab: &mut Lab, plan: &Plan) -> Result<Ran> {
    scenarios::takes(&lab.bench, &plan.scenarios)?;
    let folder = lab.options.place("torture");
    let mut progress = plan.progress(&folder)?;
    report::start(&folder)?;
    let mut kernels: BTreeMap<&str, Result<Kernel>> = BTreeMap::new();
    for scenario in &plan.scenarios {
        kernels.entry(&scenario.config.name).or_insert_with(|| lab.kernel(&scenario.config));
    }
    let mut all: Vec<Done> = Vec::new();
    let mut failed = false;
    while !failed && progress.seconds() < plan.budget() {
        let scenario = &plan.scenarios[progress.boots.len() % plan.scenarios.len()];
        let Some(of) = scenario.trial() else { break };
        let seed = progress.next_seed();
        let trial = trial(of, seed, plan.seconds())?;
        let kernel = match kernels.get(scenario.config.name.as_str()) {
            Some(Ok(kernel)) => Ok(kernel),
            Some(Err(error)) => Err(Error::could_not(error.message.clone())),
            None => break,
        };
        let done = run::run(&lab.bench, &trial, kernel, &folder);
        failed = done.rows.iter().any(|row| row.verdict != Verdict::Pass);
        let booted = Booted {
            name: trial.name.clone(),
            scenario: scenario.name.clone(),
            seed,
            seconds: done.boot.as_ref().map_or(0.0, |boot| boot.seconds),
            passed: !failed,
            observed: done.rows.first().map(|row| row.observed.clone()).unwrap_or_default(),
            stale_hits: done.boot.as_ref().and_then(|boot| boot.stale_hits),
        };
        if !lab.options.asked.quiet {
            let hits = booted.stale_hits.map(|hits| format!(", {hits} stale hits")).unwrap_or_default();
            println!("{}: {}, {:.0} s{hits}", booted.name, booted.observed, booted.seconds);
        }
        progress.boots.push(booted);
        progress.keep(&folder)?;
        all.push(done);
    }
    let ran = report::finish(&lab.bench, "torture", &folder, all)?;
    println!("Consoles, results and seeds: {}", report::shown(&lab.options.root, &folder));
    println!("{}", progress.summary(plan.seconds()));
    Ok(ran)
}

/// The scenario's boot with this test alone.
fn trial(of: &Trial, seed: u32, seconds: u32) -> Result<Trial> {
    let seconds = if of.machine.icount { (seconds / TURNS.0).max(TURNS.1) } else { seconds };
    // insmod takes the last one of several, but the script must know it, too.
    let mut words: Vec<String> = of.append.split_whitespace().map(str::to_owned).collect();
    words.retain(|word| !word.starts_with(MODULE));
    words.push(format!("{MODULE}seconds={seconds}"));
    words.push(format!("{MODULE}seed={seed}"));
    words.push(format!("{MODULE}interval={INTERVAL}"));
    let mut require = of.require.clone();
    require.push(Regex::new(SUCCESS).map_err(|e| Error::could_not(e.to_string()))?);
    let longer = |given: Option<u32>, spare: u32| Some(given.unwrap_or(0).max(seconds + spare));
    let limits = LimitsGiven { silence: longer(of.limits.silence, SPARE.0), total: longer(of.limits.total, SPARE.1) };
    Ok(Trial {
        name: format!("{}-{seed}", of.name),
        append: words.join(" "),
        tests: vec![(TEST.to_owned(), Expect::on(&of.machine))],
        require,
        // That is about all tests of the scenario together.
        met: None,
        limits,
        // It replays to the instruction then.
        machine: Machine { seed: of.machine.icount.then_some(seed), ..of.machine.clone() },
        ..of.clone()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> &'static Path {
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
    }

    fn plan(names: &[&str], minutes: u32, seed: Option<u32>, resume: bool) -> Result<Plan> {
        let scenario = names.iter().map(|name| (*name).to_owned()).collect();
        Plan::new(root(), &Args { scenario, minutes, seconds: None, seed, resume, outputs: Outputs::default() })
    }

    fn booted(seed: u32, seconds: f64, passed: bool) -> Booted {
        let (name, scenario) = (format!("many-{seed}"), "many".to_owned());
        Booted { name, scenario, seed, seconds, passed, observed: "fail: x".to_owned(), stale_hits: Some(7) }
    }

    #[test]
    fn the_time_is_shared() {
        let all = plan(&[], 60, None, false).unwrap();
        assert_eq!(
            (all.names(), all.seconds()),
            (SCENARIOS.map(str::to_owned).to_vec(), 3600 / SCENARIOS.len() as u32)
        );
        assert_eq!(Plan { seconds: Some(257), ..all.clone() }.seconds(), 257);
        assert!(all.scenarios.iter().any(|s| s.trial().is_some_and(|t| t.machine.harts >= 64 && t.machine.icount)));
        assert_eq!(plan(&["torture"], 60, None, false).unwrap().seconds(), SECONDS.1);
        assert_eq!(plan(&[], 1, None, false).unwrap().seconds(), SECONDS.0);
    }

    #[test]
    fn what_cannot_run_the_test_is_refused() {
        let why = |name: &str| plan(&[name], 1, None, false).unwrap_err().message;
        assert!(why("gcc").contains("boots nothing") && why("debian-gcc").contains("has no Rust"));
        assert!(why("debain").contains("did you mean `debian`"));
    }

    #[test]
    fn a_boot_has_the_test_alone_and_its_own_seed() {
        let chosen = plan(&["torture", "many"], 20, None, false).unwrap();
        let of = |name: &str| chosen.scenarios.iter().find(|s| s.name == name).unwrap().trial().unwrap();
        let one = trial(of("torture"), 4711, 300).unwrap();
        assert_eq!(one.append, "lazy_map_torture.seconds=300 lazy_map_torture.seed=4711 lazy_map_torture.interval=20");
        assert_eq!((one.name.as_str(), one.tests.len(), one.machine.seed), ("torture-4711", 1, None));
        // The scenario itself has longer ones.
        assert_eq!((one.limits.silence, one.limits.total), (Some(780), Some(900)));
        let met = Trial { met: Some(35), ..of("torture").clone() };
        assert_eq!(trial(&met, 1, 60).unwrap().met, None);
        let many = trial(of("many"), 8, 600).unwrap();
        assert!(many.append.contains("seconds=30 ") && many.machine.seed == Some(8), "{}", many.append);
        assert!(many.require.len() == of("many").require.len() + 1 && many.limits.total == Some(3600));
    }

    #[test]
    fn it_goes_on_where_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let resume = |names: &[&str], minutes| plan(names, minutes, None, true).unwrap().progress(dir.path());
        assert!(resume(&["many"], 1).unwrap_err().message.contains("nothing to resume"));
        let mut progress = plan(&["many"], 1, Some(u32::MAX), false).unwrap().progress(dir.path()).unwrap();
        assert_eq!(progress.next_seed(), u32::MAX);
        progress.boots.push(booted(u32::MAX, 50.0, true));
        progress.keep(dir.path()).unwrap();
        assert_eq!(resume(&["many"], 1).unwrap().next_seed(), 0);
        assert!(resume(&["torture"], 1).unwrap_err().message.contains("was of many"));
        progress.boots.push(booted(0, 10.0, true));
        progress.keep(dir.path()).unwrap();
        assert!(resume(&["many"], 1).unwrap_err().message.contains("is complete"));
        assert!(resume(&["many"], 2).is_ok());
        progress.boots.push(booted(1, 10.0, false));
        progress.keep(dir.path()).unwrap();
        assert!(resume(&["many"], 9).unwrap_err().message.contains("has failed: many with the seed 1;"));
        // Without --resume everything begins anew.
        plan(&["many"], 1, Some(1), false).unwrap().progress(dir.path()).unwrap();
        assert!(resume(&["many"], 2).is_err());
    }

    #[test]
    fn the_end_says_how_to_repeat_a_failure() {
        let mut progress = Progress { seed: 5, scenarios: vec!["many".to_owned()], boots: vec![booted(5, 61.0, true)] };
        assert_eq!(progress.summary(61), "End of torture: SUCCESS: 1 boots in 61 s, 7 stale hits; seeds 5 to 5");
        progress.boots.push(booted(6, 9.0, false));
        let text = progress.summary(61);
        assert!(text.contains("FAILURE: many with the seed 6: fail: x; 2 boots in 70 s, 14 stale hits"), "{text}");
        assert!(text.ends_with("harness/lazymap torture many --seed 6 --seconds 61 --minutes 1"), "{text}");
        progress.scenarios = ["many", "debian", "kfence"].map(str::to_owned).to_vec();
        progress.boots.pop();
        assert!(progress.summary(61).ends_with("; seeds 5 to 5; the time ended before debian, kfence"));
    }
}
