// SPDX-License-Identifier: GPL-2.0-only
//! Controls: kernels that are broken on purpose, and how each must be caught.
//!
//! A control is a patch in `patches/controls` on top of a commit of the series. Tests that do not
//! catch it cannot tell a good kernel from a bad one.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

use regex_lite::Regex;
use serde::Deserialize;

use super::expect::{Expect, Observation, Sign};
use super::plan::{Case, Trial};
use super::scenario::{self, DEFAULT, Kind, MachineFile, Scenario, Tier, Which};
use crate::boot::machine::{LimitsGiven, Machine};
use crate::build::kernel::{Config, Kernel};
use crate::build::workbench::Lab;
use crate::ground::error::{Error, Result};
use crate::ground::{files, nearest, toml_file};

/// Where the patches are, in the repository.
pub const FOLDER: &str = "patches/controls";

/// The file in there that describes them.
pub const FILE: &str = "controls.toml";

/// Stands for the last commit of the series.
const TIP: &str = "tip";

/// What `observe` says of a kernel that is correct, but works in another way than the series: no sign
/// may be seen.
const PASS: &str = "pass";

/// `controls.toml` as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    /// Cases, as `TEST.CASE`, that no control fails, each with the reason.
    #[serde(default)]
    exceptions: BTreeMap<String, String>,
    /// The cases of scripts and of the programs that they run.
    #[serde(default)]
    cases: BTreeMap<String, Vec<String>>,
    #[serde(default)]
    control: Vec<ControlFile>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ControlFile {
    name: String,
    what: String,
    on: String,
    hunt: Option<String>,
    #[serde(default)]
    culprit: Vec<String>,
    #[serde(default)]
    exhaust: Vec<String>,
    #[serde(default)]
    run: Vec<RunFile>,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct RunFile {
    scenario: Option<String>,
    /// A name or a table.
    machine: Option<toml::Value>,
    test: Option<String>,
    /// Cases of the test's module or program: a run for each, in which no other case runs.
    #[serde(default)]
    cases: Vec<String>,
    /// The cases that fail, and no others, of a test of which all run.
    #[serde(default)]
    fails: Vec<String>,
    /// What is broken, if not the same in all runs of this kernel.
    what: Option<String>,
    /// Tells runs of the same cases on the same machine apart; a part of their files' names.
    label: Option<String>,
    /// One sign or a list, or [`PASS`].
    observe: toml::Value,
    symbol: Option<String>,
    text: Option<String>,
    #[serde(default)]
    append: String,
    /// Seconds without output after which the boot is given up, for a control that has to hang.
    silence: Option<u32>,
    #[serde(default)]
    tier: Tier,
}

/// The signs of `observe`.
fn signs(observe: &toml::Value) -> Result<Vec<Sign>, String> {
    let words = match observe {
        toml::Value::Array(words) => words.iter().collect(),
        word => vec![word],
    };
    let sign = |word: &toml::Value| {
        let all = || Sign::ALL.map(Sign::word).join(", ");
        let known = word.as_str().and_then(|w| Sign::ALL.into_iter().find(|sign| sign.word() == w));
        known.ok_or_else(|| format!("observe: {word} is not one of {}", all()))
    };
    words.into_iter().map(sign).collect()
}

/// The machine that `machine` names or describes.
fn machine(given: toml::Value) -> Result<Machine, String> {
    let file = match given {
        toml::Value::String(name) => MachineFile::named(&name),
        table => {
            let wrong = |e: toml::de::Error| format!("machine: {}", e.message().lines().next().unwrap_or_default());
            table.try_into().map_err(wrong)?
        }
    };
    file.machine()
}

/// The culprit if no store is to blame: a program uses a page of another one, which had the same ASID.
pub const PROGRAM: &str = "(another program)";

/// A kernel that is broken on purpose.
#[derive(Clone, Debug)]
pub struct Control {
    /// Its name; the patch is `NAME.patch`.
    pub name: String,
    /// One line about it.
    pub what: String,
    /// Subject of the commit that it applies to, or `tip`.
    pub on: String,
    /// The machine on which a hunt must find it, in the full tier.
    pub hunt: Option<Machine>,
    /// Functions: the report of that hunt must say that one of them changed the PTE; or [`PROGRAM`].
    pub culprit: Vec<String>,
    /// What `lazymap exhaust` must find in its machine code, in the configuration of the first run.
    pub exhaust: Vec<Hole>,
    /// The boots in which it must be caught.
    pub runs: Vec<ControlRun>,
}

/// Something that `lazymap exhaust` finds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hole {
    /// A fault is taken in one of the windows 1 to 4.
    Window(u8),
    /// This property is broken.
    Property(String),
}

impl fmt::Display for Hole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Window(number) => write!(f, "window {number}"),
            Self::Property(name) => write!(f, "\"{name}\""),
        }
    }
}

impl Hole {
    fn new(word: &str) -> Result<Self, String> {
        let Some(number) = word.strip_prefix("window ") else { return Ok(Self::Property(word.to_owned())) };
        let window = number.parse().ok().filter(|n| (1..=4).contains(n));
        window.map(Self::Window).ok_or_else(|| format!("exhaust: there are windows 1 to 4, and no {word}"))
    }
}

/// A boot in which a control must be caught.
#[derive(Clone, Debug)]
pub struct ControlRun {
    /// The kernel's configuration.
    pub config: Config,
    /// What is broken in this run, if that differs from the others.
    pub what: Option<String>,
    /// The first tier of `make check` that runs it.
    pub tier: Tier,
    /// The trial, with the scenario's limits or the default ones.
    pub trial: Trial,
}

impl ControlRun {
    /// The case of the test's module or program that runs alone, if there is one.
    pub fn case(&self) -> Option<&str> {
        self.trial.cases.first().map(|case| case.name.as_str())
    }
}

/// All controls in the repository `root`, in the order of the file.
///
/// # Errors
/// When a file cannot be read (exit code 2), or is wrong, or a patch is missing from the file or the
/// folder (64).
pub fn load(root: &Path) -> Result<Vec<Control>> {
    let folder = root.join(FOLDER);
    let text = files::read_text(&folder.join(FILE))?;
    let wrong = |why: String| Error::usage(format!("{FOLDER}/{FILE}{why}; correct the file"));
    let scenarios = scenario::load(root)?;
    let controls = parse(&text, &scenarios).map_err(wrong)?;
    let listed = files::list(&folder)?;
    let names = listed.iter().map(|path| files::name(path));
    let patches: BTreeSet<String> = names.filter_map(|n| n.strip_suffix(".patch").map(str::to_owned)).collect();
    if let Some(name) = patches.iter().find(|p| !controls.iter().any(|c| c.name == **p)) {
        return Err(wrong(format!(": no control is called {name}, so {name}.patch never runs")));
    }
    if let Some(control) = controls.iter().find(|c| !patches.contains(&c.name)) {
        return Err(wrong(format!(": there is no {}.patch", control.name)));
    }
    Ok(controls)
}

/// What the file says about test cases, beside the controls.
#[derive(Clone, Debug, Default)]
pub struct CasesGiven {
    /// Cases, as `TEST.CASE`, that no control fails, each with the reason.
    pub exceptions: BTreeMap<String, String>,
    /// For each test, its cases that are not those of a module.
    pub cases: BTreeMap<String, Vec<String>>,
}

/// What the file in the repository `root` says about test cases.
///
/// # Errors
/// When the file cannot be read (exit code 2), or is wrong (64).
pub fn cases_given(root: &Path) -> Result<CasesGiven> {
    let path = root.join(FOLDER).join(FILE);
    let text = files::read_text(&path)?;
    let file: File =
        toml_file::parse(&text).map_err(|why| Error::usage(format!("{FOLDER}/{FILE}{why}; correct the file")))?;
    Ok(CasesGiven { exceptions: file.exceptions, cases: file.cases })
}

/// Reads the file; the error is `:LINE: WHY` or `: WHY`.
fn parse(text: &str, scenarios: &BTreeMap<String, Scenario>) -> Result<Vec<Control>, String> {
    let file: File = toml_file::parse(text)?;
    let mut controls: Vec<Control> = Vec::new();
    for control in file.control {
        let name = control.name;
        let say = |why: String| format!(": control {name}: {why}");
        if name.is_empty() || !name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-') {
            return Err(say("its name must have small letters, digits and `-` only".to_owned()));
        }
        if controls.iter().any(|c| c.name == name) {
            return Err(say("another control has the same name".to_owned()));
        }
        if control.what.trim().is_empty() || control.what.contains('\n') {
            return Err(say("what must be one line".to_owned()));
        }
        if control.run.is_empty() && control.hunt.is_none() {
            return Err(say("it has no run and no hunt, so nothing could catch it".to_owned()));
        }
        if control.hunt.is_some() == control.culprit.is_empty() {
            return Err(say("hunt and culprit go together: name the functions that may change the PTE".to_owned()));
        }
        let hunt = control.hunt.map(|name| MachineFile::named(&name).machine()).transpose().map_err(say)?;
        let mut runs: Vec<ControlRun> = Vec::new();
        for run in control.run {
            for run in run.control_runs(&name, scenarios).map_err(say)? {
                if runs.iter().any(|other| other.trial.name == run.trial.name) {
                    return Err(say(format!("there are two runs {}", run.trial.name)));
                }
                runs.push(run);
            }
        }
        let exhaust: Vec<Hole> =
            control.exhaust.iter().map(|word| Hole::new(word)).collect::<Result<_, _>>().map_err(say)?;
        if runs.is_empty() && !exhaust.is_empty() {
            return Err(say("exhaust needs a run, which names the configuration".to_owned()));
        }
        let ControlFile { what, on, culprit, .. } = control;
        controls.push(Control { name, what, on, hunt, culprit, exhaust, runs });
    }
    Ok(controls)
}

/// The module of a test's cases.
pub fn module_of(test: &str) -> String {
    format!("lazy_map_{}", short(test).replace('-', "_"))
}

/// What is special in a test's name.
fn short(test: &str) -> &str {
    test.trim_start_matches("test-").trim_end_matches(".sh")
}

impl RunFile {
    /// One run, or one for each of its cases.
    fn control_runs(
        mut self,
        control: &str,
        scenarios: &BTreeMap<String, Scenario>,
    ) -> Result<Vec<ControlRun>, String> {
        let cases = std::mem::take(&mut self.cases);
        if cases.is_empty() {
            return Ok(vec![self.control_run(control, scenarios, None)?]);
        }
        cases.into_iter().map(|case| self.clone().control_run(control, scenarios, Some(case))).collect()
    }

    fn control_run(
        self,
        control: &str,
        scenarios: &BTreeMap<String, Scenario>,
        case: Option<String>,
    ) -> Result<ControlRun, String> {
        let scenario = self.scenario.as_deref().unwrap_or(DEFAULT);
        let Some(Scenario { config, kind: Kind::Boot(of), .. }) = scenarios.get(scenario) else {
            return Err(format!("there is no scenario `{scenario}` that boots"));
        };
        let machine = match self.machine {
            None => of.machine.clone(),
            Some(given) => machine(given)?,
        };
        let passes = self.observe.as_str() == Some(PASS);
        if passes && (self.test.is_none() || self.symbol.is_some() || self.text.is_some()) {
            return Err("pass needs a test, and takes neither symbol nor text".to_owned());
        }
        let signs = if passes { Vec::new() } else { signs(&self.observe)? };
        let has = |sign| signs.contains(&sign);
        if signs.is_empty() && !passes {
            return Err("observe is empty".to_owned());
        }
        if has(Sign::Oops) && self.symbol.is_none() && self.text.is_none() {
            return Err("oops needs symbol, a function that must be in the report, or text".to_owned());
        }
        if (has(Sign::Panic) || has(Sign::Warning)) && self.text.is_none() {
            return Err("panic and warning need text, a regular expression".to_owned());
        }
        if self.test.is_some() && signs == [Sign::BootDeath] {
            return Err("boot-death comes before any test; leave test out".to_owned());
        }
        if self.silence == Some(0) {
            return Err("silence is a positive number of seconds".to_owned());
        }
        if self.test.is_none() && (has(Sign::Hang) || has(Sign::TestFailure)) {
            return Err("hang and test-failure need a test".to_owned());
        }
        if let Some(test) = self.test.as_ref().filter(|t| !of.tests.iter().any(|(own, _)| own == *t)) {
            return Err(format!("the scenario {scenario} has no test `{test}`"));
        }
        if !self.fails.is_empty() && (self.test.is_none() || passes || has(Sign::BootDeath) || case.is_some()) {
            return Err("fails needs a test of which all cases run and some fail".to_owned());
        }
        if self.fails.len() > 1 && signs != [Sign::TestFailure] {
            return Err("only test-failure can fail several cases at once".to_owned());
        }
        let what = self.what.filter(|what| !what.trim().is_empty());
        let text = self.text.map(|t| Regex::new(&t).map_err(|e| format!("text: `{t}`: {e}"))).transpose()?;
        let only = self.fails.first().cloned();
        let observation = Observation { signs, symbol: self.symbol, text, fails: self.fails };
        let alone = match (&case, &self.test) {
            (Some(case), Some(test)) => vec![Case { module: module_of(test), name: case.clone() }],
            (Some(_), None) => return Err("cases need a test".to_owned()),
            (None, _) => Vec::new(),
        };
        let append = [of.append.as_str(), self.append.trim()].join(" ").trim().to_owned();
        let test = self.test.as_deref().map_or("boot", short);
        let case_name = case.as_ref().or(only.as_ref()).map(|case| format!("-{case}")).unwrap_or_default();
        let label = self.label.map(|label| format!("-{label}")).unwrap_or_default();
        let name = format!("{control}-{scenario}-{machine}-{}-{test}{case_name}{label}", machine.harts);
        let (tests, at_boot) = match self.test {
            Some(test) if passes => (vec![(test, Expect::Pass)], None),
            Some(test) => (vec![(test, Expect::Caught(observation))], None),
            None => (Vec::new(), Some(observation)),
        };
        let trial = Trial {
            name,
            scenario: Some(scenario.to_owned()),
            append,
            cases: alone,
            at_boot,
            firmware: of.firmware.clone(),
            efi: of.efi,
            limits: LimitsGiven { silence: self.silence.or(of.limits.silence), ..of.limits },
            ..Trial::new(control, machine, tests)
        };
        Ok(ControlRun { config: config.clone(), what, tier: self.tier, trial })
    }
}

/// The selected controls, with their selected runs.
///
/// # Errors
/// As [`load`], and when a name is unknown (exit code 64).
pub fn choose(root: &Path, which: &Which) -> Result<Vec<Control>> {
    let mut all = load(root)?;
    match which {
        Which::Named(names) if !names.is_empty() => {
            if let Some(name) = names.iter().find(|n| !all.iter().any(|c| c.name == **n)) {
                let hint = nearest::hint(name, all.iter().map(|c| c.name.as_str()));
                return Err(Error::usage(format!("there is no control `{name}`; {hint}")));
            }
            all.retain(|c| names.contains(&c.name));
        }
        Which::Tier(tier) => {
            all.iter_mut().for_each(|c| c.runs.retain(|r| r.tier <= *tier));
            all.retain(|c| !c.runs.is_empty());
        }
        _ => {}
    }
    Ok(all)
}

/// The name of a control's kernel.
pub fn kernel_name(control: &str) -> String {
    format!("control-{control}")
}

/// Builds the kernel of the control called `name` in this configuration.
///
/// # Errors
/// When the control does not exist (exit code 64), or it cannot be built.
pub fn kernel(lab: &mut Lab, name: &str, config: &Config) -> Result<Kernel> {
    let controls = choose(&lab.options.root, &Which::Named(vec![name.to_owned()]))?;
    let control = controls.first().ok_or_else(|| Error::usage(format!("there is no control `{name}`")))?;
    build(lab, control, config)
}

/// Builds a control's kernel.
///
/// # Errors
/// When `on` names no commit of the series, or the kernel cannot be built.
pub fn build(lab: &mut Lab, control: &Control, config: &Config) -> Result<Kernel> {
    let patch = lab.options.root.join(FOLDER).join(format!("{}.patch", control.name));
    let on = match control.on.as_str() {
        TIP => lab.tip.clone(),
        subject => lab.tree.by_subject(&lab.tip, subject)?.ok_or_else(|| {
            Error::could_not(format!(
                "{FOLDER}/{FILE}: control {}: no patch of the series has the subject \"{subject}\"; correct `on`",
                control.name
            ))
        })?,
    };
    lab.control(&kernel_name(&control.name), &on, &patch, config)
}
