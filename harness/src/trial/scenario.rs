// SPDX-License-Identifier: GPL-2.0-only
//! Scenarios: ways to configure, boot or only compile the kernel with the series, one file each in
//! `harness/scenarios`.
//!
//! A scenario is named after its file, without `.toml`. Scenarios with the same config
//! fragment share a kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::path::Path;

use regex_lite::Regex;
use serde::Deserialize;

use super::expect::Expect;
use super::plan::Trial;
use crate::boot::machine::{Irq, LimitsGiven, Machine};
use crate::boot::models;
use crate::build::kernel::{self, Compiler, Config, SERIES};
use crate::build::kunit::Arch;
use crate::ground::error::{Error, Result};
use crate::ground::{files, nearest, toml_file};

/// Where the files are, in the repository.
pub const FOLDER: &str = "harness/scenarios";

/// The scenario that is meant where none is named.
pub const DEFAULT: &str = "default";

/// Where the tests' sources are, in the repository.
pub const TESTS: &str = "selftests";

/// The most harts that QEMU's `virt` machine takes.
const MOST_HARTS: u32 = 512;

/// The least memory that the guest works with, in MiB.
const LEAST_MEMORY_MIB: u32 = 128;

/// A file as written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    /// One line for `--list`.
    description: String,
    /// The first tier of `make check` that runs it.
    #[serde(default)]
    tier: Tier,
    /// Lines on top of `harness/kernel.config`; for one that is only compiled, on top of tinyconfig.
    #[serde(default)]
    config: String,
    /// The config goes on top of the architecture's defconfig instead, without its modules.
    #[serde(default)]
    defconfig: bool,
    /// Name of the file whose `config` it takes, and what that is on top of; its own comes on top.
    config_of: Option<String>,
    /// A version of the firmware in `base.toml`.
    firmware: Option<String>,
    /// EDK2 starts the kernel.
    #[serde(default)]
    efi: bool,
    /// `clang` (default) or `gcc`; one that is only compiled has it in `compile`.
    compiler: Option<Compiler>,
    /// Added to the kernel's command line.
    #[serde(default)]
    append: String,
    /// Scripts of `selftests`; all of them by default.
    tests: Option<Vec<String>>,
    /// Scripts of `selftests` to leave out.
    #[serde(default)]
    except: Vec<String>,
    /// Regular expressions, each of which a kernel message must match.
    #[serde(default)]
    require: Vec<String>,
    /// Of the stale hits, the percentage that the tests must have met with touches that they count.
    met: Option<u8>,
    machine: Option<MachineFile>,
    /// Values that override those of `machine`: one scenario for each combination.
    each: Option<EachFile>,
    #[serde(default)]
    limits: LimitsGiven,
    compile: Option<CompileFile>,
    kunit: Option<KunitFile>,
}

/// A machine in a file.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MachineFile {
    /// Name in `harness/models.toml`.
    model: String,
    /// CPU properties beyond the model's.
    #[serde(default)]
    pub cpu: String,
    /// QEMU's name of the CPU, default `rv64`.
    pub core: Option<String>,
    /// `imsic` or `sbi`.
    irq: Option<IrqFile>,
    /// 1 to 512, default 4.
    pub harts: Option<u32>,
    /// MiB, default 1024.
    pub memory: Option<u32>,
    /// Instructions drive the clock.
    #[serde(default)]
    pub icount: bool,
}

/// Values that override those of the machine. An empty list keeps the machine's.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EachFile {
    #[serde(default)]
    model: Vec<String>,
    #[serde(default)]
    core: Vec<String>,
    #[serde(default)]
    irq: Vec<IrqFile>,
    #[serde(default)]
    harts: Vec<u32>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum IrqFile {
    Imsic,
    Sbi,
}

/// What is compiled in a scenario that boots nothing.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CompileFile {
    /// Folders of the kernel, each with a `/` at its end, or objects.
    folders: Vec<String>,
    /// `clang` (default) or `gcc`.
    #[serde(default)]
    compiler: Compiler,
}

/// What `kunit.py` runs in a scenario that it boots.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KunitFile {
    /// As `kunit.py --arch` calls them.
    arch: Vec<Arch>,
}

#[derive(Clone, Debug)]
pub struct Scenario {
    pub name: String,
    /// The name of its file. It differs from the scenario's name only if the file has a scenario for
    /// each of several machines.
    pub family: String,
    /// One line about it.
    pub description: String,
    /// The first tier of `make check` that runs it.
    pub tier: Tier,
    /// The kernel's configuration.
    pub config: Config,
    /// What it does with the kernel.
    pub kind: Kind,
}

/// What a scenario does with its kernel.
#[derive(Clone, Debug)]
pub enum Kind {
    /// Boots it and runs tests.
    Boot(Box<Trial>),
    /// Compiles some of its folders.
    Compile {
        /// Each with a `/` at its end, or an object.
        folders: Vec<String>,
    },
    /// Lets `kunit.py` configure, build and boot one for each architecture.
    Kunit(Vec<Arch>),
}

/// All scenarios in the repository `root`, by name.
///
/// # Errors
/// When a file cannot be read (exit code 2) or is wrong (64).
pub fn load(root: &Path) -> Result<BTreeMap<String, Scenario>> {
    let folder = root.join(FOLDER);
    let known = tests_in(&root.join(TESTS))?;
    let mut all: BTreeMap<String, Scenario> = BTreeMap::new();
    for path in files::list(&folder)?.iter().filter(|p| p.extension().is_some_and(|e| e == "toml")) {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let text = files::read_text(path)?;
        let wrong = |why: String| {
            let show = path.strip_prefix(root).unwrap_or(path).display();
            Error::usage(format!("{show}{why}; correct the file"))
        };
        for mut scenario in parse(&name, &text, &known, &folder).map_err(wrong)? {
            // Named after the first scenario that has it: others with the same lines share it.
            let boots = scenario.boots();
            let same = |other: &&Scenario| {
                let (one, two) = (&other.config, &scenario.config);
                let lines = one.lines == two.lines && one.defconfig == two.defconfig;
                boots && other.boots() && lines && one.compiler == two.compiler
            };
            if let Some(other) = all.values().find(same) {
                scenario.config.name.clone_from(&other.config.name);
            }
            if let Some(other) = all.insert(scenario.name.clone(), scenario) {
                return Err(wrong(format!(": another scenario is called `{}`", other.name)));
            }
        }
    }
    Ok(all)
}

/// The names of the test scripts in `folder`, in order; none if the folder does not exist.
///
/// # Errors
/// When it cannot be read (exit code 2).
pub fn tests_in(folder: &Path) -> Result<Vec<String>> {
    let listed = files::list_if_there(folder)?;
    let names = listed.iter().map(|path| files::name(path).into_owned());
    Ok(names.filter(|name| kernel::is_test(name)).collect())
}

/// The scenario file `name` in `folder`, which must have a config fragment.
fn config_of(name: &str, folder: &Path) -> Result<File, String> {
    let none = || format!("config_of: there is no {name}.toml with a config of its own in {FOLDER}");
    let text = fs::read_to_string(folder.join(name).with_extension("toml")).map_err(|_| none())?;
    // What else is wrong with it is reported for itself.
    let file: File = toml_file::parse(&text).map_err(|_| none())?;
    if file.config.is_empty() || file.config_of.is_some() { Err(none()) } else { Ok(file) }
}

/// Reads a file of `folder`; the error is `:LINE: WHY` or `: WHY`.
fn parse(name: &str, text: &str, known: &[String], folder: &Path) -> Result<Vec<Scenario>, String> {
    let mut file: File = toml_file::parse(text)?;
    let say = |why: String| format!(": {why}");
    if !name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-') {
        return Err(say("the name of a scenario may have lower-case letters, digits and `-` only".to_owned()));
    }
    if file.description.trim().is_empty() || file.description.contains('\n') {
        return Err(say("description must be one line".to_owned()));
    }
    let own = config_lines(&file.config).map_err(say)?;
    let other = file.config_of.as_ref().map(|other| config_of(other, folder)).transpose().map_err(say)?;
    let lines = match &other {
        Some(other) => on_top(&config_lines(&other.config).map_err(say)?, &own),
        None => own.clone(),
    };
    let defconfig = file.defconfig || other.is_some_and(|other| other.defconfig);
    let gcc = file.compiler == Some(Compiler::Gcc);
    let config_name = match &file.config_of {
        // A kernel of its own, which others with the same lines do not have.
        _ if gcc || (defconfig && lines.is_empty()) => name.to_owned(),
        _ if lines.is_empty() => String::new(),
        Some(other) if own.is_empty() => other.clone(),
        _ => name.to_owned(),
    };
    let mut compiler = file.compiler.unwrap_or_default();
    let needs_machine = file.each.is_some()
        || file.tests.is_some()
        || !file.except.is_empty()
        || !file.append.is_empty()
        || !file.require.is_empty()
        || file.met.is_some()
        || file.compiler.is_some()
        || file.firmware.is_some()
        || file.efi
        || defconfig;
    let kinds = match (file.compile.take(), file.kunit.take(), file.machine.take()) {
        (None, None, None) => return Err(say("it has none of machine, compile and kunit; add one".to_owned())),
        (Some(_), None, None) | (None, Some(_), None) if needs_machine => {
            let what = "each, tests, except, append, require, met, compiler, firmware, efi and defconfig need a \
                        machine, but the file has none";
            return Err(say(what.to_owned()));
        }
        (None, Some(kunit), None) => {
            if !lines.is_empty() {
                return Err(say("config and config_of have no effect on kunit; remove them".to_owned()));
            }
            if kunit.arch.is_empty() {
                return Err(say("arch lists no architecture".to_owned()));
            }
            vec![Kind::Kunit(kunit.arch)]
        }
        (Some(compile), None, None) => {
            let known = |f: &String| (f.ends_with('/') || f.ends_with(".o")) && !f.starts_with('/');
            if compile.folders.is_empty() || !compile.folders.iter().all(known) {
                let what = "folders must be folders of the kernel, each with a / at its end, or objects";
                return Err(say(what.to_owned()));
            }
            compiler = compile.compiler;
            vec![Kind::Compile { folders: compile.folders }]
        }
        (None, None, Some(machine)) => {
            let trials = trials(name, &file, &machine, known).map_err(say)?;
            trials.into_iter().map(|trial| Kind::Boot(Box::new(trial))).collect()
        }
        _ => return Err(say("it has several of machine, compile and kunit; keep one".to_owned())),
    };
    let scenario = |kind: Kind| {
        let standalone = matches!(kind, Kind::Compile { .. });
        let config_name = if standalone { name.to_owned() } else { config_name.clone() };
        let own = match &kind {
            Kind::Boot(trial) => trial.name.clone(),
            Kind::Compile { .. } | Kind::Kunit(_) => name.to_owned(),
        };
        Scenario {
            name: own,
            family: name.to_owned(),
            description: file.description.clone(),
            tier: file.tier,
            config: Config { name: config_name, lines: lines.clone(), standalone, defconfig, compiler },
            kind,
        }
    };
    Ok(kinds.into_iter().map(scenario).collect())
}

/// What a file with a machine boots: one trial, or one for each of its machines.
fn trials(name: &str, file: &File, machine: &MachineFile, known: &[String]) -> Result<Vec<Trial>, String> {
    if file.tests.is_some() && !file.except.is_empty() {
        return Err("it has both tests and except; keep one".to_owned());
    }
    let mut named = file.tests.iter().flatten().chain(&file.except);
    if let Some(unknown) = named.find(|t| !known.contains(t)) {
        return Err(format!("there is no test `{unknown}` in {TESTS}/"));
    }
    let others = || known.iter().filter(|t| !file.except.contains(t)).cloned().collect();
    let tests: Vec<String> = file.tests.clone().unwrap_or_else(others);
    if tests.is_empty() {
        return Err("it has no tests".to_owned());
    }
    let mut require = Vec::new();
    for pattern in &file.require {
        require.push(Regex::new(pattern).map_err(|e| format!("require: `{pattern}`: {e}"))?);
    }
    let limits = file.limits;
    if [limits.silence, limits.total].contains(&Some(0)) {
        return Err("a limit is a positive number of seconds".to_owned());
    }
    if file.met.is_some_and(|percent| !(1..=100).contains(&percent)) {
        return Err("met is a percentage from 1 to 100".to_owned());
    }
    let trial = |machine: MachineFile| -> Result<Trial, String> {
        let machine = machine.machine()?;
        if file.met.is_some() && !machine.model.stale {
            return Err(format!("met needs stale hits, and {machine} has none"));
        }
        let own = if file.each.is_some() { format!("{name}-{machine}-{}", machine.harts) } else { name.to_owned() };
        let expect = Expect::on(&machine);
        let tests = tests.iter().map(|test| (test.clone(), expect.clone())).collect();
        Ok(Trial {
            name: own.clone(),
            scenario: Some(own),
            append: file.append.trim().to_owned(),
            require: require.clone(),
            met: file.met,
            limits,
            firmware: file.firmware.clone(),
            efi: file.efi,
            ..Trial::new(SERIES, machine, tests)
        })
    };
    let machines = file.each.as_ref().map_or_else(|| vec![machine.clone()], |each| each.machines(machine));
    machines.into_iter().map(trial).collect()
}

impl EachFile {
    /// The machine with each combination of values.
    fn machines(&self, machine: &MachineFile) -> Vec<MachineFile> {
        let mut all = vec![machine.clone()];
        let vary = |all: &mut Vec<MachineFile>, change: &dyn Fn(&MachineFile) -> Vec<MachineFile>| {
            let changed: Vec<_> = all.iter().flat_map(change).collect();
            if !changed.is_empty() {
                *all = changed;
            }
        };
        vary(&mut all, &|m| self.model.iter().map(|model| MachineFile { model: model.clone(), ..m.clone() }).collect());
        vary(&mut all, &|m| {
            self.core.iter().map(|core| MachineFile { core: Some(core.clone()), ..m.clone() }).collect()
        });
        vary(&mut all, &|m| self.irq.iter().map(|irq| MachineFile { irq: Some(*irq), ..m.clone() }).collect());
        vary(&mut all, &|m| self.harts.iter().map(|harts| MachineFile { harts: Some(*harts), ..m.clone() }).collect());
        all
    }
}

/// The lines of a config fragment, without blank lines and comments.
fn config_lines(text: &str) -> Result<String, String> {
    let mut lines = String::new();
    for line in text.lines().map(str::trim).filter(|l| !l.is_empty()) {
        let option = |word: &str| {
            word.strip_prefix("CONFIG_")
                .is_some_and(|n| !n.is_empty() && n.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'))
        };
        let on = line.split_once('=').is_some_and(|(name, value)| option(name) && !value.is_empty());
        let off = line.strip_prefix("# ").and_then(|l| l.strip_suffix(" is not set")).is_some_and(option);
        if on || off {
            lines.push_str(&format!("{line}\n"));
        } else if !line.starts_with('#') || line.starts_with("# CONFIG_") {
            return Err(format!(
                "`{line}` in config is not a Kconfig option; write CONFIG_X=y or # CONFIG_X is not set"
            ));
        }
    }
    Ok(lines)
}

/// The lines of `base` without those about options that `own` has a line about, then `own`.
fn on_top(base: &str, own: &str) -> String {
    fn option(line: &str) -> &str {
        line.trim_start_matches("# ").split(['=', ' ']).next().unwrap_or_default()
    }
    let given: BTreeSet<&str> = own.lines().map(option).collect();
    let kept = base.lines().filter(|line| !given.contains(option(line)));
    kept.chain(own.lines()).map(|line| format!("{line}\n")).collect()
}

impl MachineFile {
    /// A machine of the model `name`, or `NAME-sbi`, with the defaults.
    pub fn named(name: &str) -> Self {
        let (model, irq) = match name.strip_suffix("-sbi") {
            Some(model) => (model, Some(IrqFile::Sbi)),
            None => (name, None),
        };
        Self { model: model.to_owned(), cpu: String::new(), core: None, irq, harts: None, memory: None, icount: false }
    }

    /// The machine.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn machine(&self) -> Result<Machine, String> {
        let mut model = models::find(&self.model).map_err(|e| e.message)?;
        models::properties(&self.cpu)?;
        if !self.cpu.is_empty() {
            let comma = if model.cpu.is_empty() { "" } else { "," };
            model.cpu = format!("{}{comma}{}", model.cpu, self.cpu).into();
        }
        let mut machine = Machine::new(model);
        if let Some(core) = &self.core {
            if core.is_empty() || !core.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-') {
                return Err(format!(
                    "`{core}` in core is not the name of a CPU; write one that QEMU's -cpu help lists"
                ));
            }
            machine.core = core.clone().into();
        }
        if let Some(IrqFile::Sbi) = self.irq {
            machine.irq = Irq::Sbi;
        }
        machine.harts = self.harts.unwrap_or(machine.harts);
        machine.memory_mib = self.memory.unwrap_or(machine.memory_mib);
        machine.icount = self.icount;
        if !(1..=MOST_HARTS).contains(&machine.harts) {
            return Err(format!("harts = {} is not between 1 and {MOST_HARTS}", machine.harts));
        }
        if machine.memory_mib < LEAST_MEMORY_MIB {
            return Err(format!("memory = {} is less than {LEAST_MEMORY_MIB} MiB", machine.memory_mib));
        }
        Ok(machine)
    }
}

impl Scenario {
    /// Whether it boots tests of its own.
    pub fn boots(&self) -> bool {
        matches!(self.kind, Kind::Boot(_))
    }

    /// What boots, if anything does.
    pub fn trial(&self) -> Option<&Trial> {
        match &self.kind {
            Kind::Boot(trial) => Some(trial),
            Kind::Compile { .. } | Kind::Kunit(_) => None,
        }
    }

    /// Whether `name` is its name, or that of its file.
    pub fn is_called(&self, name: &str) -> bool {
        [&self.name, &self.family].iter().any(|own| *own == name)
    }
}

/// How much `make check` runs. Each tier includes those before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    /// Short enough to wait for.
    Quick,
    /// CI runs this for each change.
    Ci,
    /// Everything: hours.
    #[default]
    Full,
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Quick => "quick",
            Self::Ci => "ci",
            Self::Full => "full",
        })
    }
}

/// The selected scenarios or controls.
#[derive(Clone, Debug)]
pub enum Which {
    /// All of a tier of `make check`.
    Tier(Tier),
    /// These; an empty list selects all.
    Named(Vec<String>),
}

/// The selected scenarios, in the order in which they run: those with one kernel together, and those
/// with the default kernel first.
///
/// # Errors
/// As [`load`], and when a name is unknown (exit code 64).
pub fn choose(root: &Path, which: &Which) -> Result<Vec<Scenario>> {
    let all = load(root)?;
    let mut chosen: Vec<Scenario> = match which {
        Which::Named(names) if !names.is_empty() => {
            for name in names {
                if !all.values().any(|s| s.is_called(name)) {
                    let hint = nearest::hint(name, all.keys().map(String::as_str));
                    return Err(Error::usage(format!("there is no scenario `{name}`; {hint}")));
                }
            }
            all.into_values().filter(|s| names.iter().any(|name| s.is_called(name))).collect()
        }
        Which::Tier(tier) => all.into_values().filter(|s| s.tier <= *tier).collect(),
        _ => all.into_values().collect(),
    };
    chosen.sort_by(|a, b| (!a.boots(), &a.config.name, &a.name).cmp(&(!b.boots(), &b.config.name, &b.name)));
    Ok(chosen)
}
