// SPDX-License-Identifier: GPL-2.0-only
//! Builds and boots the kernel at every patch, and each topic on what it needs.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use super::topics::{Applied, Outcome};
use crate::boot::machine::Machine;
use crate::boot::models;
use crate::build::workbench::Lab;
use crate::ground::error::{Error, Result};
use crate::options::Options;
use crate::trial::control;
use crate::trial::expect::Expect;
use crate::trial::plan::Trial;
use crate::trial::run;
use crate::trial::verdict::Verdict;

/// Tests for a kernel that has none yet, in the repository.
const FIXTURES: &str = "harness/tests/fixtures/guest";

/// The one of them that passes.
const FIXTURE: &str = "test-pass.sh";

/// Where what a kernel does not contain is, in a kernel tree.
const OUTSIDE: [&str; 2] = ["tools/testing/selftests/", "Documentation/"];

/// The machines that each patch boots on.
const MODELS: [&str; 2] = ["plain", "stale"];

/// Builds the kernel at every patch, and at the end of each topic that is alone on what it needs, and
/// boots it on harts that forget and on harts that remember. Gives how far each topic got. A patch that changes
/// tests only runs those.
///
/// A topic without the fixes need not survive harts that remember; it has to get as far as its tests.
pub fn each(
    options: &Options,
    tip: &str,
    mails: &[PathBuf],
    topics: &[Applied],
    result: &mut dyn FnMut(String, Result<String, String>),
) -> Result<Vec<Outcome>> {
    let mut lab = Lab::open(options)?;
    let commits = lab.tree.commits(tip)?;
    let mut known = BTreeMap::new();
    for (mail, commit) in mails.iter().zip(&commits) {
        let name = mail.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let short = format!("patch-{}", name.split('-').next().unwrap_or_default());
        let changed = changed_files(&fs::read_to_string(mail).map_err(|e| Error::io("read", mail, e))?);
        known.insert(commit.clone(), kernel(&mut lab, &name, (&short, commit), Some(&changed), true, result)?);
    }
    let mut outcomes = Vec::new();
    for topic in topics {
        let outcome = match known.get(&topic.commit) {
            Some(outcome) => *outcome,
            None => {
                let short = format!("topic-{}", topic.name);
                lab.tree.keep_scratch(&short, &topic.commit)?;
                let name = format!("topic {}", topic.name);
                kernel(&mut lab, &name, (&short, &topic.commit), None, topic.fixed, result)?
            }
        };
        outcomes.push(outcome);
    }
    let tip = lab.tree.tip()?;
    lab.tree.check_out(&tip)?;
    Ok(outcomes)
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

/// Builds and boots one kernel. What its files are called, and its commit; the files that its patch changes, or
/// nothing if it has all tests to pass.
fn kernel(
    lab: &mut Lab,
    name: &str,
    (short, commit): (&str, &str),
    changed: Option<&[String]>,
    fixed: bool,
    result: &mut dyn FnMut(String, Result<String, String>),
) -> Result<Outcome> {
    let folder = lab.options.place("each");
    let fixtures = lab.options.root.join(FIXTURES);
    let built = lab.patch(short, commit, (&fixtures, FIXTURE));
    result(format!("{name} builds"), built.as_ref().map(|_| String::new()).map_err(|e| e.message.clone()));
    let Ok((kernel, tests)) = built else { return Ok(Outcome { builds: Some(false), ..Outcome::default() }) };
    let tests = changed.map_or(tests.clone(), |changed| tests_after(tests, changed));
    let (mut boots, mut passes) = (true, true);
    for model in MODELS {
        let machine = Machine::new(models::find(model)?);
        let must_pass = fixed || !machine.model.stale;
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
    Ok(Outcome { builds: Some(true), boots: Some(boots), tests: Some(passes) })
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
