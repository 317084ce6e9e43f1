// SPDX-License-Identifier: GPL-2.0-only
//! `harness/results.toml`: which rows the table in docs/results.md has, and which tests run on any kernel.

use std::collections::BTreeSet;
use std::path::Path;

use serde::Deserialize;

use super::scenario::{self, Scenario};
use crate::ground::error::{Error, Result};
use crate::ground::{files, toml_file};

/// The file, in the repository.
pub const SPEC: &str = "harness/results.toml";

/// Where findings are, in the repository.
pub const FINDINGS: &str = "docs/findings";

/// [`SPEC`] as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    /// Tests that run on any kernel.
    tests: Vec<String>,
    row: Vec<RowFile>,
    #[serde(default)]
    left_out: Vec<LeftOut>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RowFile {
    /// Of one machine, or of several.
    scenario: String,
    /// In place of those for all rows.
    tests: Option<Vec<String>>,
    /// Files in `docs/findings`, without `.md`, that explain a difference between kernels.
    #[serde(default)]
    findings: Vec<String>,
}

/// What the table does not have, and why.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeftOut {
    pub what: String,
    pub why: String,
}

/// A line of the table.
#[derive(Clone, Debug)]
pub struct Row {
    pub scenario: Scenario,
    pub tests: Vec<String>,
    pub findings: Vec<String>,
}

/// What the table is to have.
#[derive(Clone, Debug)]
pub struct Spec {
    pub rows: Vec<Row>,
    pub left_out: Vec<LeftOut>,
}

impl Spec {
    /// Reads the file of the repository `root`.
    ///
    /// # Errors
    /// When it cannot be read (exit code 2), or names what does not exist (64).
    pub fn load(root: &Path) -> Result<Self> {
        let file = read(root)?;
        let all = scenario::load(root)?;
        let mut spec = Self { rows: Vec::new(), left_out: file.left_out };
        let mut named = BTreeSet::new();
        for row in file.row {
            let say = |why: String| wrong(format!(": row {}: {why}", row.scenario));
            let tests = row.tests.unwrap_or_else(|| file.tests.clone());
            let missing = |test: &&String| !root.join(scenario::TESTS).join(test).exists();
            if let Some(test) = tests.iter().find(missing) {
                return Err(say(format!("there is no test `{test}` in {}/", scenario::TESTS)));
            }
            if tests.is_empty() {
                return Err(say("it has no tests".to_owned()));
            }
            let missing = |name: &&String| !root.join(FINDINGS).join(format!("{name}.md")).exists();
            if let Some(name) = row.findings.iter().find(missing) {
                return Err(say(format!("there is no {FINDINGS}/{name}.md")));
            }
            let own: Vec<&Scenario> = all.values().filter(|s| s.is_called(&row.scenario) && s.boots()).collect();
            if own.is_empty() {
                return Err(say("there is no such scenario that boots".to_owned()));
            }
            for scenario in own {
                if !named.insert(scenario.name.clone()) {
                    return Err(say(format!("another row has {}", scenario.name)));
                }
                let (tests, findings) = (tests.clone(), row.findings.clone());
                spec.rows.push(Row { scenario: scenario.clone(), tests, findings });
            }
        }
        Ok(spec)
    }
}

/// The tests that run on any kernel, as the repository `root` lists them.
///
/// # Errors
/// When the file cannot be read (exit code 2) or is wrong (64). Whether its rows name what exists is not checked.
pub fn tests(root: &Path) -> Result<Vec<String>> {
    read(root).map(|file| file.tests)
}

fn read(root: &Path) -> Result<File> {
    let path = root.join(SPEC);
    let text = files::read_text(&path)?;
    toml_file::parse(&text).map_err(wrong)
}

/// `why` begins with `:`.
fn wrong(why: String) -> Error {
    Error::usage(format!("{SPEC}{why}; correct the file"))
}
