// SPDX-License-Identifier: GPL-2.0-only
//! Builds and boots the kernel at every patch.

use std::path::PathBuf;

use crate::boot::machine::Machine;
use crate::boot::models;
use crate::build::workbench::Lab;
use crate::ground::error::Result;
use crate::options::Options;
use crate::trial::expect::Expect;
use crate::trial::plan::Trial;
use crate::trial::run;
use crate::trial::verdict::Verdict;

/// Tests for a kernel that has none yet, in the repository.
const FIXTURES: &str = "harness/tests/fixtures/guest";

/// The one of them that passes.
const FIXTURE: &str = "test-pass.sh";

/// The machines that each patch boots on.
const MODELS: [&str; 2] = ["plain", "stale"];

/// Builds the kernel at every patch, and boots it on harts that forget and on harts that remember.
pub fn each(
    options: &Options,
    tip: &str,
    mails: &[PathBuf],
    result: &mut dyn FnMut(String, Result<String, String>),
) -> Result<()> {
    let mut lab = Lab::open(options)?;
    let folder = options.place("each");
    let fixtures = options.root.join(FIXTURES);
    let commits = lab.tree.commits(tip)?;
    for (mail, commit) in mails.iter().zip(&commits) {
        let name = mail.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let short = format!("patch-{}", name.split('-').next().unwrap_or_default());
        let built = lab.patch(&short, commit, (&fixtures, FIXTURE));
        result(format!("{name} builds"), built.as_ref().map(|_| String::new()).map_err(|e| e.message.clone()));
        let Ok((kernel, tests)) = built else { continue };
        for model in MODELS {
            let machine = Machine::new(models::find(model)?);
            let expect = if machine.model.stale { Expect::Survive } else { Expect::Pass };
            let tests: Vec<_> = tests.iter().map(|test| (test.clone(), expect.clone())).collect();
            let names = tests.iter().map(|(test, _)| test.as_str()).collect::<Vec<_>>().join(", ");
            let done = run::run(&lab.bench, &Trial::new(&short, machine, tests), Ok(&kernel), &folder);
            done.report.iter().for_each(|report| println!("{report}"));
            let bad = done.rows.iter().find(|row| row.verdict != Verdict::Pass);
            let ended = bad.map_or(Ok(names), |row| Err(format!("{}: {}", row.test, row.observed)));
            result(format!("{name} boots on {model}"), ended);
        }
    }
    let tip = lab.tree.tip()?;
    lab.tree.check_out(&tip)
}
