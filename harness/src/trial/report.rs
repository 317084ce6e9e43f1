// SPDX-License-Identifier: GPL-2.0-only
//! Rows of the table, `results.json`, and what helps to find out why.

use std::collections::BTreeMap;
use std::fs;
use std::io::IsTerminal;
use std::path::Path;

use anstyle::Style;
use serde::Serialize;

use super::seen::Booted;
use super::verdict::Verdict;
use crate::build::workbench::Workbench;
use crate::ground::error::{Error, Result};
use crate::ground::files;
use crate::ground::table::{self, Align, Cell};
use crate::options::base::BaseUsed;

/// Longest text in a column of the table, in characters.
const COLUMN: usize = 48;

/// A test of a trial: a line of the table.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Name of the scenario, if there are several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scenario: Option<String>,
    /// Name of the kernel.
    pub kernel: String,
    /// Name of the machine; `-` if nothing was booted.
    pub machine: String,
    /// Number of harts; 0 if nothing was booted.
    pub harts: u32,
    /// The script; `(boot)` if nothing but the boot is tested.
    pub test: String,
    /// What was expected.
    pub expected: String,
    /// What was observed: a word or two, and after a colon the test's own message.
    pub observed: String,
    pub verdict: Verdict,
    /// Stale hits of the whole boot; `None` on a machine without stale translations.
    pub stale_hits: Option<u64>,
    /// Seconds that the test took.
    pub seconds: f64,
    /// The console's log, relative to `results.json`; empty if nothing was booted.
    pub console: String,
    /// Why the verdict is what it is, if it is not a pass.
    #[serde(skip)]
    pub why: Vec<String>,
}

/// `results.json`.
#[derive(Serialize)]
struct Results<'a> {
    schema: u32,
    runs: &'a [Row],
    base: &'a BaseUsed,
    toolchain: &'a BTreeMap<String, String>,
}

/// Prepares a folder for results and removes those of an earlier run, so that an interrupted run leaves
/// none rather than old ones.
///
/// # Errors
/// When it cannot be made, or old results cannot be removed.
pub fn start(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).map_err(|e| Error::io("create", folder, e))?;
    files::remove(&folder.join("results.json"))
}

/// Writes `FOLDER/results.json` and prints the table and the reports of what was unexpected.
///
/// # Errors
/// When the results cannot be written.
pub fn finish(bench: &Workbench, folder: &Path, rows: &[Row], reports: &[String]) -> Result<()> {
    let results = Results { schema: 1, runs: rows, base: &bench.base_used, toolchain: &bench.toolchain };
    let json = serde_json::to_string_pretty(&results).map_err(|e| Error::could_not(e.to_string()))?;
    files::write_whole(&folder.join("results.json"), json + "\n")?;
    let color = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    println!("\n{}", rows_table(rows, color));
    reports.iter().for_each(|report| println!("{report}"));
    Ok(())
}

/// The table, with a heading, aligned; colour is for terminals. Has a column for scenarios if rows have
/// any.
pub fn rows_table(rows: &[Row], color: bool) -> String {
    use Align::{Left, Right};
    let scenarios = rows.iter().any(|row| row.scenario.is_some());
    let mut columns = vec![Left, Left, Right, Left, Left, Left, Left, Right, Right];
    let heading = ["kernel", "machine", "harts", "test", "expected", "observed", "verdict", "seconds", "stale hits"];
    let bold = |text: &str| Cell { text: text.to_owned(), style: Style::new().bold() };
    let mut lines: Vec<Vec<Cell>> = vec![heading.map(bold).into()];
    for row in rows {
        let harts = if row.harts > 0 { row.harts.to_string() } else { "-".to_owned() };
        lines.push(vec![
            row.kernel.as_str().into(),
            row.machine.as_str().into(),
            harts.into(),
            row.test.as_str().into(),
            clip(&row.expected, COLUMN).into(),
            clip(&row.observed, COLUMN).into(),
            Cell { text: row.verdict.name().to_owned(), style: row.verdict.style() },
            format!("{:.1}", row.seconds).into(),
            row.stale_hits.map_or_else(|| "-".to_owned(), |hits| hits.to_string()).into(),
        ]);
    }
    if scenarios {
        columns.insert(0, Left);
        let names = rows.iter().map(|row| row.scenario.as_deref().unwrap_or("-").into());
        lines.iter_mut().zip(std::iter::once(bold("scenario")).chain(names)).for_each(|(l, n)| l.insert(0, n));
    }
    table::text(&columns, &lines, color)
}

/// At most `length` characters of `text`.
fn clip(text: &str, length: usize) -> String {
    if text.chars().count() <= length {
        return text.to_owned();
    }
    text.chars().take(length - 1).chain(['…']).collect()
}

/// What helps to find out why a boot was not as expected.
pub fn explain(root: &Path, console: &Path, rows: &[Row], booted: Option<&Booted>) -> String {
    let mut text = String::new();
    for row in rows.iter().filter(|r| r.verdict != Verdict::Pass) {
        let scenario = row.scenario.as_ref().map(|s| format!("{s}: ")).unwrap_or_default();
        text.push_str(&format!(
            "{}: {scenario}{} on {}, {}: expected {}, observed {}\n",
            row.verdict.name(),
            row.kernel,
            row.machine,
            row.test,
            row.expected,
            row.observed
        ));
        row.why.iter().for_each(|w| text.push_str(&format!("    {w}\n")));
    }
    let Some(booted) = booted else { return text };
    for problem in booted.report.all_problems().into_iter().take(3) {
        text.push_str(&format!("    results, {problem}\n"));
    }
    if let Some(found) = &booted.run.reading.headline {
        text.push_str(&format!("    line {}: {}\n", found.line, found.text));
    }
    text.push_str(&format!("    the last lines of {}:\n", shown(root, console)));
    // The bar keeps results of the guest from being read as results of whoever prints this.
    booted.run.reading.tail.iter().for_each(|l| text.push_str(&format!("      | {l}\n")));
    text.push_str(&format!("    to repeat this boot: sh {}\n", shown(root, &console.with_extension("cmd"))));
    text
}

/// A path relative to the repository, if it is in there.
pub fn shown(root: &Path, path: &Path) -> String {
    path.strip_prefix(root).unwrap_or(path).display().to_string()
}
