// SPDX-License-Identifier: GPL-2.0-only
//! Builds and boots the kernel at every patch, and each topic on what it needs.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::topics::{Applied, Outcome};
use crate::boot::machine::Machine;
use crate::boot::models;
use crate::build::kernel::{self, Config};
use crate::build::workbench::Lab;
use crate::ground::error::{Error, Result};
use crate::ground::{files, nearest};
use crate::options::Options;
use crate::source::mailbox;
use crate::trial::control;
use crate::trial::expect::Expect;
use crate::trial::plan::Trial;
use crate::trial::results_spec;
use crate::trial::run;
use crate::trial::scenario::{self, DEFAULT};
use crate::trial::verdict::Verdict;

/// A test for a kernel in the middle of a topic without tests, in the repository: that it boots.
const FIXTURES: &str = "harness/tests/fixtures/guest";
const FIXTURE: &str = "test-pass.sh";

/// Where what a kernel does not contain is, in a kernel tree.
const OUTSIDE: [&str; 2] = ["tools/testing/selftests/", "Documentation/"];

/// The machines that each patch boots on.
const MODELS: [&str; 2] = ["plain", "stale"];

/// Those on which a kernel with the fixes, and without tests of its own, has to survive as well.
const WINDOWS: [&str; 4] = ["window-1", "window-2", "window-3", "window-4"];

/// Some of what [`each`] builds: `26`, `21-34` or the name of a topic.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Pick {
    /// The patches from one number to another, from 1.
    Patches { first: usize, last: usize },
    /// A topic on what it needs.
    Topic(String),
}

impl FromStr for Pick {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if !text.starts_with(|first: char| first.is_ascii_digit()) {
            return Ok(Self::Topic(text.to_owned()));
        }
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        match (first.parse(), last.parse()) {
            (Ok(first), Ok(last)) if 0 < first && first <= last => Ok(Self::Patches { first, last }),
            _ => Err("write the number of a patch, FIRST-LAST, or a topic".to_owned()),
        }
    }
}

impl fmt::Display for Pick {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Patches { first, last } if first == last => write!(f, "{first}"),
            Self::Patches { first, last } => write!(f, "{first}-{last}"),
            Self::Topic(name) => f.write_str(name),
        }
    }
}

impl Pick {
    /// Whether it means the kernel at `at` of the series, from 0.
    fn has(&self, at: usize, wanted: &Wanted<'_>) -> bool {
        match self {
            Self::Patches { first, last } => wanted.changed.is_some() && (*first..=*last).contains(&(at + 1)),
            Self::Topic(name) => wanted.topic.is_some_and(|topic| topic.name == *name),
        }
    }
}

/// Checks that the series of each of these kernels has these parts.
///
/// # Errors
/// When one of them lacks one (exit code 64).
pub fn exist(only: &[Pick], bases: &[Options]) -> Result<()> {
    if only.is_empty() {
        return Ok(());
    }
    for options in bases {
        let linux = &options.base.linux;
        let patches = mailbox::patches(&options.root.join(&linux.patches))?.len();
        let topics = || options.base.topics.iter().map(|topic| topic.name.as_str());
        for pick in only {
            let why = match pick {
                Pick::Patches { last, .. } if *last > patches => format!("it has {patches} patches"),
                Pick::Topic(name) if !topics().any(|topic| topic == name) => nearest::hint(name, topics()),
                _ => continue,
            };
            return Err(Error::usage(format!(
                "--only {pick}: the series for {} has no such part; {why}",
                linux.version
            )));
        }
    }
    Ok(())
}

/// Builds the kernel at every patch, and at the end of each topic that is alone on what it needs, or those of them that
/// `only` names, and boots it on harts that forget and on harts that remember. Gives how far each topic got. A patch that
/// changes tests only runs those; the last one of a topic runs all. A kernel without tests gets those that run on any
/// kernel.
///
/// A topic without the fixes need not survive harts that remember; it has to get as far as its tests.
pub fn each(
    options: &Options,
    tip: &str,
    mails: &[PathBuf],
    topics: &[Applied],
    only: &[Pick],
    result: &mut dyn FnMut(String, Result<String, String>),
) -> Result<Vec<Outcome>> {
    let mut lab = Lab::open(options)?;
    let commits = lab.tree.commits(tip)?;
    let picked = |(at, one): &(usize, Wanted<'_>)| only.is_empty() || only.iter().any(|pick| pick.has(*at, one));
    let wanted: Vec<_> = wanted(mails, &commits, topics)?.into_iter().enumerate().filter(picked).collect();
    let each_patch = !options.base.linux.is_whole();
    // They take a kernel of their own to build, and only the end of a topic runs them, or each patch of a short series.
    let common = if each_patch || wanted.iter().any(|(_, one)| one.topic.is_some()) {
        let common = Common::build(&mut lab);
        let names = common.as_ref().map(|common| common.names.join(", ")).map_err(|e| e.message.clone());
        result("the tests that run on any kernel build".to_owned(), names);
        common.ok()
    } else {
        None
    };
    let usual = usual(&options.root)?;
    let given = Given { usual: &usual, common: common.as_ref(), each_patch };
    let mut known = BTreeMap::new();
    for (_, one) in wanted {
        if one.changed.is_none() {
            lab.tree.keep_scratch(&one.short, one.commit)?;
        }
        let has_own = !kernel::tests_of(&lab.tree, one.commit)?.is_empty();
        let duty = given.duty(has_own, one.topic, one.changed.as_deref());
        known.insert(one.commit, kernel(&mut lab, &one, &duty, result)?);
    }
    let tip = lab.tree.tip()?;
    lab.tree.check_out(&tip)?;
    Ok(topics.iter().map(|topic| known.get(topic.commit.as_str()).copied().unwrap_or_default()).collect())
}

/// A kernel to build and boot.
struct Wanted<'a> {
    /// For messages.
    name: String,
    /// What its files are called.
    short: String,
    commit: &'a str,
    /// The topic that ends with it.
    topic: Option<&'a Applied>,
    /// The files that its patch changes; nothing for a topic that does not begin the series.
    changed: Option<Vec<String>>,
}

/// Every patch, then the topics that end with none of them.
fn wanted<'a>(mails: &[PathBuf], commits: &'a [String], topics: &'a [Applied]) -> Result<Vec<Wanted<'a>>> {
    let mut all = Vec::new();
    for (mail, commit) in mails.iter().zip(commits) {
        let name = mailbox::stem(mail);
        let short = format!("patch-{}", name.split('-').next().unwrap_or_default());
        let topic = topics.iter().find(|topic| topic.commit == *commit);
        let changed = changed_files(&files::read_lossy(mail)?);
        all.push(Wanted { name, short, commit, topic, changed: Some(changed) });
    }
    for topic in topics {
        if all.iter().any(|wanted| wanted.commit == topic.commit) {
            continue;
        }
        let (name, short) = (format!("topic {}", topic.name), format!("topic-{}", topic.name));
        all.push(Wanted { name, short, commit: &topic.commit, topic: Some(topic), changed: None });
    }
    Ok(all)
}

/// What a kernel without tests of its own runs: programs, and a module in C.
struct Common {
    /// Names of the scripts.
    names: Vec<String>,
    /// Where they and the programs are.
    folder: PathBuf,
}

impl Common {
    /// Takes them from the kernel with the series; a series without tests takes those of the first kernel that has all.
    fn build(lab: &mut Lab) -> Result<Self> {
        let options = lab.options.clone();
        let names = results_spec::tests(&options.root)?;
        let other = options.base.all.iter().find(|linux| linux.is_whole() && !options.base.linux.is_whole());
        let kernel = match other {
            Some(linux) => {
                let other = Options { base: options.base.with(linux), ksrc: None, ..options.clone() };
                Lab::for_kernels(&other)?.kernel(&Config::default())?
            }
            None => lab.kernel(&Config::default())?,
        };
        Ok(Self { names, folder: kernel.selftests })
    }
}

/// The tests of the scenario whose kernel is built here: what it leaves out needs another one.
fn usual(root: &Path) -> Result<Vec<String>> {
    let all = scenario::load(root)?;
    let trial = all.get(DEFAULT).and_then(|scenario| scenario.trial());
    let trial = trial.ok_or_else(|| Error::could_not(format!("there is no scenario {DEFAULT} that boots")))?;
    Ok(trial.tests.iter().map(|(test, _)| test.clone()).collect())
}

/// Which tests a kernel runs.
enum Tests<'a> {
    /// Of those that its commit has, the usual ones; after a patch that changes these files, those that it changes.
    Own { usual: &'a [String], changed: Option<&'a [String]> },
    /// Those that run on any kernel.
    Common(&'a Common),
    /// None.
    Fixture,
}

/// What a kernel has to do.
struct Duty<'a> {
    tests: Tests<'a>,
    /// It has to survive harts that remember.
    fixed: bool,
    /// It boots on [`WINDOWS`] as well.
    windows: bool,
}

/// The tests that there are.
struct Given<'a> {
    /// Those that need no configuration but this one.
    usual: &'a [String],
    /// Those that run on any kernel; nothing if they could not be built.
    common: Option<&'a Common>,
    /// Each patch gets those that run on any kernel, not only the last one of a topic. A long series goes without: it
    /// takes a build of a module each.
    each_patch: bool,
}

impl<'a> Given<'a> {
    /// What a kernel has to do that has tests or not, and is the end of a topic or in the middle of one; `changed` are
    /// the files of its patch.
    fn duty(&self, has_own: bool, topic: Option<&Applied>, changed: Option<&'a [String]>) -> Duty<'a> {
        let tests = match (topic, self.common) {
            // Its other tests need what it lacks.
            (Some(topic), Some(common)) if topic.alone && has_own => Tests::Own { usual: &common.names, changed: None },
            (Some(topic), None) if topic.alone => Tests::Fixture,
            (Some(_), _) if has_own => Tests::Own { usual: self.usual, changed: None },
            (None, _) if has_own => Tests::Own { usual: self.usual, changed },
            (Some(_), Some(common)) => Tests::Common(common),
            (None, Some(common)) if self.each_patch => Tests::Common(common),
            _ => Tests::Fixture,
        };
        let is_common = matches!(tests, Tests::Common(_));
        // In the middle of the fixes, the others are missing.
        let fixed = topic.map_or(!is_common, |topic| topic.fixed);
        Duty { tests, fixed, windows: topic.is_some() && fixed && is_common }
    }
}

/// The files that a patch changes.
fn changed_files(mail: &str) -> Vec<String> {
    let headers = mail.lines().filter_map(|line| line.strip_prefix("diff --git a/"));
    headers.filter_map(|line| line.split_once(" b/")).map(|(_, new)| new.to_owned()).collect()
}

/// The tests to run after a patch: all, unless it changes tests or documentation only; one, if it changes no test.
fn tests_after(mut tests: Vec<String>, changed: &[String]) -> Vec<String> {
    let of = |test: &str, file: &str| {
        let stem = Path::new(file).file_stem().and_then(OsStr::to_str);
        stem == test.strip_suffix(".sh") || stem == Some(&control::module_of(test))
    };
    // What several tests share is code that belongs to none.
    let is_shared = |file: &str| {
        let code = Path::new(file).extension().is_some_and(|e| ["sh", "rs", "h"].iter().any(|known| e == *known));
        code && !tests.iter().any(|test| of(test, file))
    };
    let needs_all = |file: &String| !OUTSIDE.iter().any(|folder| file.starts_with(folder)) || is_shared(file);
    if changed.iter().any(needs_all) {
        return tests;
    }
    let is_changed = |test: &String| changed.iter().any(|file| of(test, file));
    if tests.iter().any(is_changed) {
        tests.retain(is_changed);
    } else {
        tests.truncate(1);
    }
    tests
}

/// Of all tests of a commit those that need no other configuration; after a patch, those that it is about.
fn chosen(all: Vec<String>, usual: &[String], changed: Option<&[String]>) -> Vec<String> {
    let of = |tests: &[String]| -> Vec<String> { tests.iter().filter(|test| usual.contains(test)).cloned().collect() };
    let known = of(&all);
    match changed.map(|changed| of(&tests_after(all, changed))) {
        Some(about) if !about.is_empty() => about,
        // It changes nothing that can be tried here.
        Some(_) => known.into_iter().take(1).collect(),
        None => known,
    }
}

/// Builds and boots one kernel.
fn kernel(
    lab: &mut Lab,
    wanted: &Wanted<'_>,
    duty: &Duty<'_>,
    result: &mut dyn FnMut(String, Result<String, String>),
) -> Result<Outcome> {
    let Wanted { name, short, commit, .. } = wanted;
    let folder = lab.options.place("each");
    let built = match &duty.tests {
        Tests::Common(common) => {
            let kernel = lab.bare_with(short, commit, &Config::default(), &common.folder);
            kernel.map(|kernel| (kernel, common.names.clone()))
        }
        Tests::Own { .. } | Tests::Fixture => {
            let fixtures = lab.options.root.join(FIXTURES);
            lab.patch(short, commit, (&fixtures, FIXTURE))
        }
    };
    if let Err(e) = &built {
        // The results come at the end, hours later, or never.
        println!("FAIL: {short} does not build: {}", e.message.lines().next().unwrap_or_default());
    }
    result(format!("{name} builds"), built.as_ref().map(|_| String::new()).map_err(|e| e.message.clone()));
    let Ok((kernel, mut tests)) = built else { return Ok(Outcome { builds: Some(false), ..Outcome::default() }) };
    if let Tests::Own { usual, changed } = duty.tests {
        tests = chosen(tests, usual, changed);
    }
    let windows = WINDOWS.iter().filter(|_| duty.windows);
    let (mut boots, mut passes) = (true, true);
    for model in MODELS.iter().chain(windows) {
        let machine = Machine::new(models::find(model)?);
        let must_pass = duty.fixed || !machine.model.stale;
        let expect = Expect::on(&machine);
        let tests: Vec<_> = tests.iter().map(|test| (test.clone(), expect.clone())).collect();
        let names = tests.iter().map(|(test, _)| test.as_str()).collect::<Vec<_>>().join(", ");
        let done = run::run(&lab.bench, &Trial::new(short, machine, tests), Ok(&kernel), &folder);
        let bad = done.rows.iter().find(|row| row.verdict != Verdict::Pass);
        let ended = match bad.map(|row| format!("{}: {}", row.test, row.observed)) {
            None => Ok(names),
            Some(what) if !must_pass && done.ready => Ok(format!("as far as the tests; without the fixes {what}")),
            Some(what) => Err(what),
        };
        if ended.is_err() {
            done.report.iter().for_each(|report| println!("{report}"));
        }
        boots &= done.ready;
        passes &= ended.is_ok();
        result(format!("{name} boots on {model}"), ended);
    }
    // A fixture tests nothing.
    let tested = !matches!(duty.tests, Tests::Fixture);
    Ok(Outcome { builds: Some(true), boots: Some(boots), tests: tested.then_some(passes) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_patch_runs_the_tests_that_it_changes() {
        let tests = || ["test-abi.sh", "test-ipi.sh", "test-text.sh"].map(str::to_owned).to_vec();
        let of = |files: &[&str]| {
            let mail: String = files.iter().map(|file| format!("diff --git a/{file} b/{file}\n@@\n+x\n")).collect();
            tests_after(tests(), &changed_files(&mail))
        };
        let folder = "tools/testing/selftests/riscv/lazy_map";
        let module = format!("{folder}/test_modules/lazy_map_ipi.rs");
        assert_eq!(of(&["arch/riscv/mm/lazy_map.c", &module]), tests());
        assert_eq!(of(&[&format!("{folder}/Makefile"), &module]), ["test-ipi.sh"]);
        assert_eq!(of(&[&format!("{folder}/test-abi.sh"), &format!("{folder}/abi.c")]), ["test-abi.sh"]);
        assert_eq!(of(&[&format!("{folder}/test-abi.sh"), &format!("{folder}/functions.sh")]), tests());
        assert_eq!(of(&["Documentation/arch/riscv/lazy-map.rst"]), ["test-abi.sh"]);
    }

    /// Of each kernel: tests, whether it has to survive harts that remember, whether it boots on the windows as well.
    #[test]
    fn a_kernel_has_the_duties_of_its_place() {
        let list = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        let (usual, changed) = (list(&["usual"]), list(&["changed"]));
        let common = Common { names: list(&["common"]), folder: PathBuf::new() };
        let topic = |fixed, alone| Applied { name: "t".to_owned(), commit: "c".to_owned(), fixed, alone };
        let whole = Given { usual: &usual, common: Some(&common), each_patch: false };
        let short = Given { each_patch: true, ..whole };
        let none = Given { common: None, ..whole };
        let told = |given: &Given<'_>, has_own: bool, topic: Option<&Applied>| {
            let duty = given.duty(has_own, topic, Some(&changed));
            let tests = match duty.tests {
                Tests::Own { usual, changed } => {
                    format!("{} {}", usual.join(" "), changed.unwrap_or_default().join(" "))
                }
                Tests::Common(common) => format!("any: {}", common.names.join(" ")),
                Tests::Fixture => "boots".to_owned(),
            };
            (tests, duty.fixed, duty.windows)
        };
        let is = |tests: &str, fixed, windows| (tests.to_owned(), fixed, windows);
        // In the middle of a topic.
        assert_eq!(told(&whole, true, None), is("usual changed", true, false));
        assert_eq!(told(&none, true, None), is("usual changed", true, false));
        assert_eq!(told(&whole, false, None), is("boots", true, false));
        assert_eq!(told(&short, false, None), is("any: common", false, false));
        assert_eq!(told(&none, false, None), is("boots", true, false));
        // At the end of one.
        for fixed in [false, true] {
            let (end, alone) = (topic(fixed, false), topic(fixed, true));
            assert_eq!(told(&whole, true, Some(&end)), is("usual ", fixed, false));
            assert_eq!(told(&whole, false, Some(&end)), is("any: common", fixed, fixed));
            assert_eq!(told(&none, false, Some(&end)), is("boots", fixed, false));
            assert_eq!(told(&whole, true, Some(&alone)), is("common ", fixed, false));
            assert_eq!(told(&whole, false, Some(&alone)), is("any: common", fixed, fixed));
            assert_eq!(told(&none, true, Some(&alone)), is("boots", fixed, false));
        }
    }

    #[test]
    fn each_commit_is_one_kernel() {
        let dir = tempfile::tempdir().unwrap();
        let mails = ["0001-a.patch", "0002-b.patch"].map(|name| dir.path().join(name));
        mails.iter().for_each(|mail| fs::write(mail, "diff --git a/x b/x\n").unwrap());
        let commits = ["one", "two"].map(str::to_owned);
        let topic = |name: &str, commit: &str| Applied {
            name: name.to_owned(),
            commit: commit.to_owned(),
            fixed: false,
            alone: false,
        };
        let topics = [topic("a", "two"), topic("b", "other")];
        let all = wanted(&mails, &commits, &topics).unwrap();
        let told: Vec<_> = all
            .iter()
            .map(|one| (one.short.as_str(), one.commit, one.topic.map(|topic| topic.name.as_str())))
            .collect();
        assert_eq!(
            told,
            [("patch-0001", "one", None), ("patch-0002", "two", Some("a")), ("topic-b", "other", Some("b"))]
        );
        assert_eq!(all.iter().map(|one| one.changed.is_some()).collect::<Vec<_>>(), [true, true, false]);
    }

    #[test]
    fn picks_are_numbers_ranges_and_topics() {
        let pick = |text: &str| text.parse::<Pick>();
        for text in ["1", "26", "21-34", "fixes"] {
            assert_eq!(pick(text).unwrap().to_string(), text);
        }
        assert_eq!(pick("7-7").unwrap().to_string(), "7");
        for text in ["0", "0-3", "3-2", "3-", "1-2-3", "2x"] {
            assert!(pick(text).unwrap_err().contains("FIRST-LAST"), "{text}");
        }
    }

    #[test]
    fn a_pick_names_patches_or_a_topic() {
        let applied = |name: &str| Applied { name: name.to_owned(), commit: "c".to_owned(), fixed: true, alone: false };
        let (fixes, rust) = (applied("fixes"), applied("rust"));
        let kernel = |topic, patch: bool| Wanted {
            name: String::new(),
            short: String::new(),
            commit: "c",
            topic,
            changed: patch.then(Vec::new),
        };
        let all = [kernel(None, true), kernel(Some(&fixes), true), kernel(None, true), kernel(Some(&rust), false)];
        let has = |text: &str| -> Vec<usize> {
            let pick: Pick = text.parse().unwrap();
            (0..all.len()).filter(|&at| pick.has(at, &all[at])).collect()
        };
        assert_eq!(has("2"), [1]);
        assert_eq!(has("2-9"), [1, 2]);
        assert_eq!(has("fixes"), [1]);
        assert_eq!(has("rust"), [3]);
    }

    #[test]
    fn tests_for_other_configurations_are_left_out() {
        let list = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        let all = || list(&["test-abi.sh", "test-ipi.sh", "test-kvm.sh"]);
        let usual = list(&["test-abi.sh", "test-ipi.sh"]);
        let after = |file: &str| {
            let changed = list(&[&format!("tools/testing/selftests/riscv/lazy_map/{file}")]);
            chosen(all(), &usual, Some(&changed))
        };
        assert_eq!(chosen(all(), &usual, None), usual);
        assert_eq!(after("test-ipi.sh"), ["test-ipi.sh"]);
        assert_eq!(after("functions.sh"), usual);
        assert_eq!(after("test-kvm.sh"), ["test-abi.sh"]);
    }
}
