// SPDX-License-Identifier: GPL-2.0-only
//! Results in forms that other programs read. docs/results.md says what each of them gets.

pub mod html;
pub mod junit;
pub mod kcidb;
pub mod tap;

use std::fs;
use std::path::Path;

use super::record::{BootRecord, Check, Provenance};
use super::report::{Ran, Row};
use crate::ground::error::{Error, Result};
use crate::ground::files;
use crate::options::asked::Outputs;

/// All that a run of the tool found out.
#[derive(Clone, Copy, Debug)]
pub struct Told<'a> {
    /// The verb.
    pub verb: &'a str,
    pub about: &'a Provenance,
    /// What was booted.
    pub parts: &'a [Ran],
    /// What else was checked.
    pub checks: &'a [Check],
}

/// The rows of one boot, or of one scenario that boots nothing.
#[derive(Clone, Debug)]
pub struct Suite<'a> {
    pub part: &'a Ran,
    /// The name of the boot's files, or of the scenario.
    pub name: &'a str,
    /// None if nothing was booted.
    pub boot: Option<&'a BootRecord>,
    pub rows: Vec<&'a Row>,
}

impl Told<'_> {
    /// All rows, by boot.
    pub fn suites(&self) -> Vec<Suite<'_>> {
        let mut suites: Vec<Suite<'_>> = Vec::new();
        for part in self.parts {
            let first = suites.len();
            for row in &part.rows {
                let name = match row.console.strip_suffix(".log") {
                    Some(name) => name,
                    None => row.scenario.as_deref().unwrap_or(&row.kernel),
                };
                match suites[first..].iter_mut().find(|suite| suite.name == name) {
                    Some(suite) => suite.rows.push(row),
                    None => {
                        let boot = part.boots.iter().find(|boot| boot.name == name);
                        suites.push(Suite { part, name, boot, rows: vec![row] });
                    }
                }
            }
        }
        suites
    }
}

impl Suite<'_> {
    /// A text for people who look at a failure: why, the line that decided, how to repeat it.
    pub fn explained(&self, row: &Row) -> String {
        let mut lines = vec![format!("expected {}, observed {}", row.expected, row.observed)];
        lines.extend(row.why.iter().cloned());
        if let Some(boot) = self.boot {
            lines.extend(boot.deciding.as_ref().map(|d| format!("{}:{}: {}", boot.console, d.line, d.text)));
            lines.push(format!("to repeat this boot: sh {}", self.part.folder.join(&boot.reproduce).display()));
        }
        lines.join("\n")
    }

    /// The console, if it can be read.
    pub fn console(&self) -> Option<String> {
        files::read_lossy(&self.part.folder.join(&self.boot?.console)).ok()
    }
}

/// Removes what an earlier run wrote, so that an interrupted run leaves nothing rather than old results.
///
/// # Errors
/// When something cannot be removed.
pub fn start(outputs: &Outputs) -> Result<()> {
    for file in [&outputs.junit, &outputs.kcidb, &outputs.html].into_iter().flatten() {
        files::remove(file)?;
    }
    let Some(folder) = &outputs.tap else { return Ok(()) };
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        // Only our own: somebody else may keep results there, too.
        let path = entry.path();
        let ours = || fs::read_to_string(&path).is_ok_and(|text| text.lines().nth(2).is_some_and(|l| l == tap::MARK));
        if path.extension().is_some_and(|e| e == "tap") && ours() {
            files::remove(&path)?;
        }
    }
    Ok(())
}

/// Writes what was asked for.
///
/// # Errors
/// When a file cannot be written.
pub fn write(outputs: &Outputs, root: &Path, told: &Told<'_>) -> Result<()> {
    if let Some(path) = &outputs.junit {
        let xml = junit::xml(told).map_err(|e| Error::could_not(format!("cannot write {}: {e}", path.display())))?;
        files::write_whole(path, xml)?;
    }
    if let Some(folder) = &outputs.tap {
        for (name, text) in tap::documents(told) {
            files::write_whole(&folder.join(name), text)?;
        }
    }
    if let Some(path) = &outputs.kcidb {
        files::write_json(path, &kcidb::report(told))?;
    }
    if let Some(path) = &outputs.html {
        files::write_whole(path, html::page(root, told))?;
    }
    Ok(())
}

/// A text as a part of a name: letters, digits, `-` and `_`, anything else as `_`.
fn slug(text: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '-' || c == '_' { c } else { '_' };
    text.chars().map(plain).collect::<String>().trim_matches('_').to_owned()
}
