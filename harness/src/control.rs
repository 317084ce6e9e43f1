// SPDX-License-Identifier: GPL-2.0-only
//! Controls: kernels that are broken on purpose, and what has to be seen of each.
//!
//! A control is a patch in `patches/controls` on top of a commit of the series. A suite in which it
//! is not caught cannot tell a good kernel from a bad one.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::path::Path;

use regex_lite::Regex;
use serde::Deserialize;

use crate::cli::Options;
use crate::console;
use crate::error::{Error, Result};
use crate::kernel::{self, Config, Kernel};
use crate::ktap::Status;
use crate::machine::Machine;
use crate::scenario::{self, Kind, MachineFile, Scenario, Which};
use crate::trial::{self, Expect, Judgement, Row, Seen, Sight, Trial, Verdict};
use crate::workbench::{Lab, Workbench};

/// Where the patches are, in the repository.
const FOLDER: &str = "patches/controls";
/// The file that says what they are for, in there.
const FILE: &str = "controls.toml";
/// Stands for the last commit of the series.
const TIP: &str = "tip";
/// The scenario that is meant where none is named.
const DEFAULT: &str = "default";

/// What `observe` says of a kernel that is right, though in another way than the series: there has to be
/// nothing to be seen.
const PASS: &str = "pass";

/// One of the things that can be seen of a control.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    /// The kernel ran out of stack.
    StackOverflow,
    /// It reported a fault, with a symbol that is given.
    Oops,
    /// It panicked with a message that is given.
    Panic,
    /// It died or went silent before any test.
    BootDeath,
    /// It went silent while a test ran, or the test never ended.
    Hang,
    /// A kernel message that is given.
    Warning,
    /// The test said itself that it failed.
    TestFailure,
}

impl Sign {
    /// All of them.
    const ALL: [Self; 7] =
        [Self::StackOverflow, Self::Oops, Self::Panic, Self::BootDeath, Self::Hang, Self::Warning, Self::TestFailure];

    /// As `controls.toml` has it.
    fn word(self) -> &'static str {
        match self {
            Self::StackOverflow => "stack-overflow",
            Self::Oops => "oops",
            Self::Panic => "panic",
            Self::BootDeath => "boot-death",
            Self::Hang => "hang",
            Self::Warning => "warning",
            Self::TestFailure => "test-failure",
        }
    }
}

impl fmt::Display for Sign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.word().replace('-', " "))
    }
}

/// What has to be seen of a control in a boot: one of several signs.
#[derive(Clone, Debug)]
pub struct Observation {
    /// The signs; one of them is enough.
    pub signs: Vec<Sign>,
    /// For [`Sign::Oops`] and [`Sign::Panic`]: where it happened, a function in `epc` or `ra`.
    pub symbol: Option<String>,
    /// For [`Sign::Panic`], [`Sign::Warning`] and [`Sign::TestFailure`]: what is said.
    pub text: Option<Regex>,
}

impl fmt::Display for Observation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let signs: Vec<String> = self.signs.iter().map(ToString::to_string).collect();
        f.write_str(&signs.join(" or "))?;
        self.symbol.iter().try_for_each(|symbol| write!(f, " in {symbol}"))
    }
}

/// `controls.toml` as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    control: Vec<ControlFile>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ControlFile {
    name: String,
    what: String,
    on: String,
    #[serde(default)]
    run: Vec<RunFile>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RunFile {
    scenario: Option<String>,
    /// A name or a table.
    machine: Option<toml::Value>,
    test: Option<String>,
    /// One sign or a list, or [`PASS`].
    observe: toml::Value,
    symbol: Option<String>,
    text: Option<String>,
    #[serde(default)]
    append: String,
    #[serde(default = "yes")]
    check: bool,
}

fn yes() -> bool {
    true
}

/// The signs of `observe`.
fn signs(observe: &toml::Value) -> std::result::Result<Vec<Sign>, String> {
    let words = match observe {
        toml::Value::Array(words) => words.iter().collect(),
        word => vec![word],
    };
    let sign = |word: &toml::Value| {
        let all = || Sign::ALL.map(Sign::word).join(", ");
        let known = word.as_str().and_then(|w| Sign::ALL.into_iter().find(|sign| sign.word() == w));
        known.ok_or_else(|| format!("observe: {word} is none of {}", all()))
    };
    words.into_iter().map(sign).collect()
}

/// The machine that `machine` names or describes.
fn machine(given: toml::Value) -> std::result::Result<Machine, String> {
    let file = match given {
        toml::Value::String(name) => MachineFile::named(&name),
        table => {
            let wrong = |e: toml::de::Error| format!("machine: {}", e.message().lines().next().unwrap_or_default());
            table.try_into().map_err(wrong)?
        }
    };
    file.machine()
}

/// A kernel that is broken on purpose.
#[derive(Clone, Debug)]
pub struct Control {
    /// Its name; the patch is `NAME.patch`.
    pub name: String,
    /// One line about it.
    pub what: String,
    /// Subject of the commit that it applies to, or `tip`.
    pub on: String,
    /// The boots in which it has to be caught.
    pub runs: Vec<ControlRun>,
}

/// A boot in which a control has to be caught.
#[derive(Clone, Debug)]
pub struct ControlRun {
    /// The kernel's configuration.
    pub config: Config,
    /// Whether `make check` runs it.
    pub check: bool,
    /// The trial; limits are the scenario's, or the usual ones of such a boot.
    pub trial: Trial,
}

/// All controls in the repository `root`, in the order of the file.
///
/// # Errors
/// When a file cannot be read (exit code 2), or says something that it must not, or there is a patch
/// that it does not mention (64).
pub fn load(root: &Path) -> Result<Vec<Control>> {
    let path = root.join(FOLDER).join(FILE);
    let text = fs::read_to_string(&path).map_err(|e| Error::io("read", &path, e))?;
    let wrong = |why: String| Error::usage(format!("{FOLDER}/{FILE}{why}; correct the file"));
    let scenarios = scenario::load(root)?;
    let controls = parse(&text, &scenarios).map_err(wrong)?;
    let entries = fs::read_dir(root.join(FOLDER)).map_err(|e| Error::io("read", &path, e))?;
    let names = entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned());
    let patches: BTreeSet<String> = names.filter_map(|n| n.strip_suffix(".patch").map(str::to_owned)).collect();
    if let Some(name) = patches.iter().find(|p| !controls.iter().any(|c| c.name == **p)) {
        return Err(wrong(format!(": {name}.patch is no control of it, so nobody would run it")));
    }
    if let Some(control) = controls.iter().find(|c| !patches.contains(&c.name)) {
        return Err(wrong(format!(": there is no {}.patch", control.name)));
    }
    Ok(controls)
}

/// Reads the file; the error is `:LINE: WHY` or `: WHY`.
fn parse(text: &str, scenarios: &BTreeMap<String, Scenario>) -> std::result::Result<Vec<Control>, String> {
    let file: File = toml::from_str(text).map_err(|e| {
        let line = e.span().map_or(1, |s| text[..s.start.min(text.len())].matches('\n').count() + 1);
        format!(":{line}: {}", e.message().lines().next().unwrap_or("not valid"))
    })?;
    let mut controls: Vec<Control> = Vec::new();
    for control in file.control {
        let name = control.name;
        let say = |why: String| format!(": control {name}: {why}");
        if name.is_empty() || !name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-') {
            return Err(say("its name must have small letters, digits and `-` only".to_owned()));
        }
        if controls.iter().any(|c| c.name == name) {
            return Err(say("there are two of that name".to_owned()));
        }
        if control.what.trim().is_empty() || control.what.contains('\n') {
            return Err(say("what must be one line".to_owned()));
        }
        if control.run.is_empty() {
            return Err(say("it has no run, so nothing could catch it".to_owned()));
        }
        let mut runs: Vec<ControlRun> = Vec::new();
        for run in control.run {
            let run = run.control_run(&name, scenarios).map_err(say)?;
            if runs.iter().any(|other| other.trial.name == run.trial.name) {
                return Err(say(format!("there are two runs {}", run.trial.name)));
            }
            runs.push(run);
        }
        controls.push(Control { name, what: control.what, on: control.on, runs });
    }
    Ok(controls)
}

impl RunFile {
    fn control_run(
        self,
        control: &str,
        scenarios: &BTreeMap<String, Scenario>,
    ) -> std::result::Result<ControlRun, String> {
        let scenario = self.scenario.as_deref().unwrap_or(DEFAULT);
        let Some(Scenario { config, kind: Kind::Boot(seat), .. }) = scenarios.get(scenario) else {
            return Err(format!("there is no scenario `{scenario}` that boots"));
        };
        let machine = match self.machine {
            None => seat.machine.clone(),
            Some(given) => machine(given)?,
        };
        let passes = self.observe.as_str() == Some(PASS);
        if passes && (self.test.is_none() || self.symbol.is_some() || self.text.is_some()) {
            return Err("pass needs a test, and has neither symbol nor text".to_owned());
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
            return Err("boot-death is about the time before any test; leave test out".to_owned());
        }
        if self.test.is_none() && (has(Sign::Hang) || has(Sign::TestFailure)) {
            return Err("hang and test-failure need a test".to_owned());
        }
        if let Some(test) = self.test.as_ref().filter(|t| !seat.tests.contains(t)) {
            return Err(format!("the scenario {scenario} has no test `{test}`"));
        }
        let text = self.text.map(|t| Regex::new(&t).map_err(|e| format!("text: `{t}`: {e}"))).transpose()?;
        let observation = Observation { signs, symbol: self.symbol, text };
        let append = [seat.append.as_str(), self.append.trim()].join(" ").trim().to_owned();
        let short = self.test.as_deref().unwrap_or("boot").trim_start_matches("test-").trim_end_matches(".sh");
        let name = format!("{control}-{scenario}-{machine}-{}-{short}", machine.harts);
        let (tests, at_boot) = match self.test {
            Some(test) if passes => (vec![(test, Expect::Pass)], None),
            Some(test) => (vec![(test, Expect::Caught(observation))], None),
            None => (Vec::new(), Some(observation)),
        };
        let trial = Trial {
            name,
            scenario: Some(scenario.to_owned()),
            append,
            at_boot,
            limits: seat.limits.limits(tests.len(), &machine),
            ..Trial::new(control, machine, tests)
        };
        Ok(ControlRun { config: config.clone(), check: self.check, trial })
    }
}

/// Holds what was seen of a control against what had to be seen.
pub fn judge(wanted: &Observation, trial: &Trial, seen: &Sight, own: &Seen) -> Judgement {
    let end = match &seen.end {
        Err(message) => {
            let observed = format!("not run: {message}");
            return Judgement { observed, verdict: Verdict::Error, why: Vec::new() };
        }
        Ok(end) => end,
    };
    let observed = observed(trial, end, seen, own);
    let mut why = Vec::new();
    let uncertain = match end {
        console::Verdict::NeverBooted | console::Verdict::QemuFailed { .. } => true,
        // A guest that was given no tests ends without results.
        console::Verdict::Incomplete { .. } => !(seen.ready && trial.at_boot.is_some()),
        _ => false,
    };
    if uncertain {
        return Judgement { observed, verdict: Verdict::Error, why };
    }
    let mut caught = false;
    for sign in &wanted.signs {
        match shows(*sign, wanted, trial, end, seen, own) {
            Ok(()) => caught = true,
            Err(reason) => why.push(format!("no {sign}: {reason}")),
        }
    }
    if !caught {
        return Judgement { observed, verdict: Verdict::Fail, why };
    }
    why.clear();
    if !trial.machine.model.stale {
        return Judgement { observed, verdict: Verdict::Pass, why };
    }
    let verdict = match &seen.counters {
        Err(what) => {
            why.push(what.clone());
            Verdict::Error
        }
        Ok(counters) if counters.is_none_or(|c| c.stale_hits == 0) => {
            why.push(trial::NOTHING_STALE.to_owned());
            Verdict::Fail
        }
        Ok(_) => Verdict::Pass,
    };
    Judgement { observed, verdict, why }
}

/// What came of the boot in a word or two.
fn observed(trial: &Trial, end: &console::Verdict, seen: &Sight, own: &Seen) -> String {
    let died = !matches!(end, console::Verdict::Finished | console::Verdict::Incomplete { .. });
    match &own.result {
        Some((status, reason)) if !died => trial::result_text(*status, reason.as_deref()),
        _ if seen.ready && trial.at_boot.is_some() => "the tests were reached".to_owned(),
        _ => trial::described(end, seen.ready),
    }
}

/// Whether a sign was seen, or why not.
fn shows(
    sign: Sign,
    wanted: &Observation,
    trial: &Trial,
    end: &console::Verdict,
    seen: &Sight,
    own: &Seen,
) -> std::result::Result<(), String> {
    use console::Verdict as End;
    let at_boot = trial.at_boot.is_some();
    // Beside another sign boot-death is the death of a boot that does not get as far as the test.
    let early = at_boot || sign == Sign::BootDeath;
    // The boot came to its end at the right time: before any test, or while the test was running.
    let in_time = if early { !seen.ready } else { seen.ready && own.result.is_none() };
    let when = || match (early, seen.ready) {
        (true, _) => "the guest got as far as running tests",
        (false, false) => "the guest did not get as far as running tests",
        (false, true) => "the test had ended",
    };
    let death = |right: bool| match (right, in_time) {
        (true, true) => Ok(()),
        (true, false) => Err(when().to_owned()),
        (false, _) => Err(format!("the boot ended otherwise: {end}")),
    };
    let symbol = || match &wanted.symbol {
        Some(symbol) if !has_symbol(&seen.report, symbol) => Err(format!("{symbol} is not in the report")),
        _ => Ok(()),
    };
    let report = || match &wanted.text {
        Some(text) if !seen.report.iter().any(|line| text.is_match(line)) => {
            Err("nothing in the report matches text".to_owned())
        }
        _ => symbol(),
    };
    let matches = |text: &str| wanted.text.as_ref().is_none_or(|t| t.is_match(text));
    match sign {
        Sign::StackOverflow => death(matches!(end, End::StackOverflow { .. })),
        Sign::Oops => death(matches!(end, End::Oops { .. })).and_then(|()| report()),
        Sign::Panic => {
            let right = matches!(end, End::Panic { headline } if matches(headline));
            death(right).and_then(|()| symbol())
        }
        // Silence has no report.
        Sign::BootDeath if matches!(end, End::Hang(_) | End::Timeout(_)) => death(true),
        Sign::BootDeath => {
            let right = matches!(end, End::StackOverflow { .. } | End::Oops { .. } | End::Panic { .. });
            death(right).and_then(|()| report())
        }
        Sign::Hang => match &own.result {
            // The guest is alive and has ended the test, or tried to.
            Some((Status::Fail, Some(reason))) if reason == TIMEOUT => Ok(()),
            _ => death(matches!(end, End::Hang(_) | End::Timeout(_))),
        },
        Sign::Warning => {
            let messages = if at_boot { &seen.boot } else { &own.messages };
            let found = messages.iter().any(|m| wanted.text.as_ref().is_some_and(|t| t.is_match(&m.text)));
            if found { Ok(()) } else { Err("no message of that time matches text".to_owned()) }
        }
        Sign::TestFailure => match &own.result {
            Some((Status::Fail, reason)) if reason.as_deref() != Some(TIMEOUT) => match &wanted.text {
                Some(text) if !own.notes.iter().any(|n| text.is_match(n)) => {
                    Err("nothing that the test said matches text".to_owned())
                }
                _ => Ok(()),
            },
            _ => Err("the test did not say that it failed".to_owned()),
        },
    }
}

/// What the guest says of a test that it had to end.
const TIMEOUT: &str = "timeout";

/// Whether a report says that it happened in a function, or in what that called last. Its call trace
/// is not looked at: the entry code is in each of them.
fn has_symbol(report: &[String], symbol: &str) -> bool {
    let registers = report.iter().filter_map(|line| line.trim_start().split_once(" : "));
    let mut places = registers.filter(|(name, _)| matches!(*name, "epc" | "ra")).map(|(_, place)| place.trim_start());
    places.any(|place| place.strip_prefix(symbol).is_some_and(|rest| rest.starts_with("+0x")))
}

/// The runs that are meant, control by control.
///
/// # Errors
/// As [`load`], and when a name is unknown (exit code 64).
pub fn choose(root: &Path, which: &Which) -> Result<Vec<Control>> {
    let mut all = load(root)?;
    match which {
        Which::Named(names) if !names.is_empty() => {
            if let Some(name) = names.iter().find(|n| !all.iter().any(|c| c.name == **n)) {
                let there = all.iter().map(|c| c.name.as_str()).collect::<Vec<_>>().join(", ");
                return Err(Error::usage(format!("there is no control `{name}`; there are {there}")));
            }
            all.retain(|c| names.contains(&c.name));
        }
        Which::Check => {
            all.iter_mut().for_each(|c| c.runs.retain(|r| r.check));
            all.retain(|c| !c.runs.is_empty());
        }
        _ => {}
    }
    Ok(all)
}

/// Prints all controls with what they are.
///
/// # Errors
/// As [`load`].
pub fn list(root: &Path) -> Result<()> {
    let all = load(root)?;
    let width = all.iter().map(|c| c.name.len()).max().unwrap_or(0);
    all.iter().for_each(|c| println!("{:width$}  {}", c.name, c.what));
    Ok(())
}

/// Says what [`rows`] would do; builds and boots nothing.
///
/// # Errors
/// As [`load`], and when a name is unknown (exit code 64).
pub fn dry_run(options: &Options, which: &Which) -> Result<()> {
    let bench = Workbench::planned(options)?;
    for control in choose(&options.root, which)? {
        println!("{}: {}", control.name, control.what);
        println!("  apply      {FOLDER}/{}.patch on {}", control.name, control.on);
        for ControlRun { config, trial, .. } in &control.runs {
            println!("  build in   {}", trial::shown(&options.root, &kernel::o_folder(options, config)));
            let test = trial.tests.first().map_or("the boot", |(test, _)| test.as_str());
            let wanted = trial.tests.first().map(|(_, e)| e.name());
            let wanted = wanted.or(trial.at_boot.as_ref().map(ToString::to_string)).unwrap_or_default();
            println!("  expect     {test} ends in {wanted}");
            let kernel = kernel::planned(options, &kernel_name(&control.name), config);
            println!("  boot       {}", trial::command(&bench, trial, &kernel, &bench.place("controls")));
        }
    }
    Ok(())
}

/// What a control's kernel is called.
fn kernel_name(control: &str) -> String {
    format!("control-{control}")
}

/// Builds the kernel of the control called `name` in this configuration.
///
/// # Errors
/// When there is no such control (exit code 64), or it cannot be built.
pub fn kernel(lab: &mut Lab, options: &Options, name: &str, config: &Config) -> Result<Kernel> {
    let controls = choose(&options.root, &Which::Named(vec![name.to_owned()]))?;
    let control = controls.first().ok_or_else(|| Error::usage(format!("there is no control `{name}`")))?;
    build(lab, options, control, config)
}

/// Runs controls, prints the table, and writes `out/controls/results.json`. What is checked out in
/// the end is the series.
///
/// # Errors
/// When they cannot be chosen, or the results not be written. What goes wrong with one of them is
/// a row of the table.
pub fn rows(lab: &mut Lab, options: &Options, which: &Which) -> Result<Vec<Row>> {
    let mut controls = choose(&options.root, which)?;
    for control in &mut controls {
        for run in &mut control.runs {
            run.trial.limits = run.trial.limits.or_from_env()?;
            lab.bench.takes(&run.trial.machine).map_err(|why| {
                Error::usage(format!("{FOLDER}/{FILE}: control {}: {why}; correct the file", control.name))
            })?;
        }
    }
    let folder = lab.bench.place("controls");
    trial::start_results(&folder)?;
    let mut done: Vec<trial::Done> = Vec::new();
    // Those with one configuration together: a change of it is what takes long.
    let configs: BTreeSet<&str> = controls.iter().flat_map(|c| &c.runs).map(|r| r.config.name.as_str()).collect();
    for config in configs {
        for control in &controls {
            let mut kernel: Option<Result<Kernel>> = None;
            for run in control.runs.iter().filter(|r| r.config.name == config) {
                let kernel = kernel.get_or_insert_with(|| build(lab, options, control, &run.config));
                let kernel = kernel.as_ref().map_err(|e| Error::could_not(e.message.clone()));
                done.push(trial::run(&lab.bench, &run.trial, kernel, &folder));
            }
        }
    }
    let tip = lab.tip.clone();
    lab.tree.check_out(&tip)?;
    let reports: Vec<String> = done.iter().filter_map(|d| d.report.clone()).collect();
    let mut rows: Vec<Row> = done.into_iter().flat_map(|d| d.rows).collect();
    let place = |row: &Row| controls.iter().position(|c| c.name == row.kernel);
    rows.sort_by_key(place);
    trial::finish_results(&lab.bench, &folder, &rows, &reports)?;
    println!("Consoles and results: {}", trial::shown(&options.root, &folder));
    Ok(rows)
}

/// Builds a control's kernel.
fn build(lab: &mut Lab, options: &Options, control: &Control, config: &Config) -> Result<Kernel> {
    let patch = options.root.join(FOLDER).join(format!("{}.patch", control.name));
    let on = match control.on.as_str() {
        TIP => lab.tip.clone(),
        subject => lab.tree.by_subject(&lab.tip, subject)?.ok_or_else(|| {
            Error::could_not(format!(
                "{FOLDER}/{FILE}: control {}: no patch of the series has the subject \"{subject}\"; correct `on`",
                control.name
            ))
        })?,
    };
    lab.control(options, &kernel_name(&control.name), &on, &patch, config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_symbol_is_a_whole_name() {
        let has = |line: &str, symbol: &str| has_symbol(&[line.to_owned()], symbol);
        assert!(has("epc : handle_exception+0xa8/0x130", "handle_exception"));
        assert!(has(" ra : kasan_unpoison+0x1c/0x60", "kasan_unpoison"));
        assert!(!has("[<ffffffff80012345>] handle_exception+0x1c/0x60", "handle_exception"));
        assert!(!has("epc : do_handle_exception+0xa8/0x130", "handle_exception"));
        assert!(!has("epc : handle_exception_more+0xa8/0x130", "handle_exception"));
    }
}
