// SPDX-License-Identifier: GPL-2.0-only
//! Rows of the table, `results.json`, and what helps to find out why.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use anstyle::Style;
use lazymap_console::end::{self, End};
use lazymap_console::ktap;
use serde::Serialize;

use super::record::{BootRecord, CaseRow, Provenance};
use super::seen::Booted;
use super::verdict::{Count, Verdict};
use crate::boot::reproduce;
use crate::build::workbench::Workbench;
use crate::ground::error::Result;
use crate::ground::files;
use crate::ground::table::{self, Align, Cell, Fit};
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
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub why: Vec<String>,
    /// Which of several runs it is from, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repeat: Option<u32>,
    /// The cases inside the test.
    pub cases: Vec<CaseRow>,
}

impl Row {
    /// The test was planned, and the boot ended before or never began.
    pub fn missed(&self) -> bool {
        self.verdict == Verdict::Miss || (self.verdict == Verdict::Error && self.observed.starts_with("not run: "))
    }
}

/// The result of a trial.
#[derive(Debug)]
pub struct Done {
    /// One for each test.
    pub rows: Vec<Row>,
    /// What helps to find out why, if not all rows passed.
    pub report: Option<String>,
    /// The message that ended the boot.
    pub headline: Option<String>,
    /// Whether the guest got as far as running tests.
    pub ready: bool,
    /// The boot, if there was one.
    pub boot: Option<BootRecord>,
}

/// What a verb ran: `results.json` is made of it, and all other forms of results.
#[derive(Clone, Debug)]
pub struct Ran {
    /// The verb.
    pub verb: &'static str,
    /// Where `results.json` is.
    pub folder: PathBuf,
    pub rows: Vec<Row>,
    pub boots: Vec<BootRecord>,
    pub base: BaseUsed,
    pub toolchain: BTreeMap<String, String>,
    pub about: Provenance,
}

impl Ran {
    /// Its rows, counted.
    pub fn count(&self) -> Count {
        self.rows.iter().map(|row| row.verdict).collect()
    }
}

/// `results.json`; docs/results.md describes it.
#[derive(Serialize)]
struct Results<'a> {
    schema: u32,
    verb: &'a str,
    provenance: &'a Provenance,
    base: &'a BaseUsed,
    toolchain: &'a BTreeMap<String, String>,
    totals: Count,
    exit: u8,
    boots: &'a [BootRecord],
    runs: &'a [Row],
}

/// Prepares a folder for results and removes those of an earlier run, so that an interrupted run leaves
/// none rather than old ones.
///
/// # Errors
/// When it cannot be made, or old results cannot be removed.
pub fn start(folder: &Path) -> Result<()> {
    files::create_dir(folder)?;
    files::remove(&folder.join("results.json"))
}

/// Writes `FOLDER/results.json` and prints the table and the reports of what was unexpected.
///
/// # Errors
/// When the results cannot be written.
pub fn finish(bench: &Workbench, verb: &'static str, folder: &Path, done: Vec<Done>) -> Result<Ran> {
    let reports: Vec<String> = done.iter().filter_map(|d| d.report.clone()).collect();
    let mut ran = Ran {
        verb,
        folder: folder.to_path_buf(),
        rows: Vec::new(),
        boots: Vec::new(),
        base: bench.base_used.clone(),
        toolchain: bench.toolchain.clone(),
        about: Provenance::of(&bench.options, Some(bench)),
    };
    for done in done {
        ran.rows.extend(done.rows);
        ran.boots.extend(done.boot);
    }
    let count = ran.count();
    let results = Results {
        schema: 1,
        verb,
        provenance: &ran.about,
        base: &ran.base,
        toolchain: &ran.toolchain,
        totals: count,
        exit: count.exit() as u8,
        boots: &ran.boots,
        runs: &ran.rows,
    };
    files::write_json(&folder.join("results.json"), &results)?;
    let color = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let quiet = bench.options.asked.quiet;
    let shown: Vec<Row> = ran.rows.iter().filter(|row| !quiet || row.verdict != Verdict::Pass).cloned().collect();
    if !shown.is_empty() {
        println!("\n{}", rows_table(&shown, color, table::width()));
    }
    if !quiet {
        met(&ran.boots).iter().for_each(|line| println!("{line}"));
    }
    reports.iter().for_each(|report| println!("{report}"));
    repeats(&ran.rows).iter().for_each(|line| println!("{line}"));
    Ok(ran)
}

/// For each boot whose tests count the spurious faults that they meet: how many these are, of all.
fn met(boots: &[BootRecord]) -> Vec<String> {
    let line = |boot: &BootRecord| {
        let met = boot.spurious_faults_met?;
        Some(match boot.stale_hits {
            Some(hits) => format!("{}: the tests met {met} of {hits} stale hits", boot.name),
            None => format!("{}: the tests met {met} spurious faults: this machine cannot tell", boot.name),
        })
    };
    boots.iter().filter_map(line).collect()
}

/// For each test that ran several times: how often it was not as expected.
pub fn repeats(rows: &[Row]) -> Vec<String> {
    let mut tests: Vec<(String, Vec<&Row>)> = Vec::new();
    for row in rows.iter().filter(|row| row.repeat.is_some()) {
        let name = [row.scenario.as_deref().map(|s| format!("{s}: ")).unwrap_or_default(), subject(row)].concat();
        match tests.iter_mut().find(|(other, _)| *other == name) {
            Some((_, all)) => all.push(row),
            None => tests.push((name, vec![row])),
        }
    }
    let told = |(name, all): &(String, Vec<&Row>)| {
        let bad: Vec<&&Row> = all.iter().filter(|row| row.verdict != Verdict::Pass).collect();
        let runs: Vec<String> = bad.iter().filter_map(|row| row.repeat).map(|run| run.to_string()).collect();
        let kind = match bad.len() {
            0 => return format!("{name}: 0 of {} failed", all.len()),
            bad if bad == all.len() => "fails always".to_owned(),
            _ => format!("flaky: run {}", runs.join(", ")),
        };
        format!("{name}: {} of {} failed: {kind}", bad.len(), all.len())
    };
    tests.iter().map(told).collect()
}

/// What a row is about.
fn subject(row: &Row) -> String {
    format!("{} on {}, {}", row.kernel, row.machine, row.test)
}

/// The table, with a heading, aligned; colour is for terminals.
///
/// In a table that is wider than `width`, what was expected goes, which is explained for each row where it
/// matters, then harts and kernel if they are the same in every row, which a line above says instead; then
/// what was observed is cut.
pub fn rows_table(rows: &[Row], color: bool, width: usize) -> String {
    let columns = columns(rows);
    let called = |names: &[&str]| -> Vec<usize> {
        names.iter().filter_map(|name| columns.iter().position(|column| column.name == *name)).collect()
    };
    let (spare, same, cut) = (called(&["expected"]), called(&["harts", "kernel"]), called(&["observed"]));
    let bold = |text: &str| Cell { text: text.to_owned(), style: Style::new().bold() };
    let mut lines = vec![columns.iter().map(|column| bold(column.name)).collect::<Vec<_>>()];
    lines.extend((0..rows.len()).map(|at| columns.iter().map(|column| column.cells[at].clone()).collect()));
    let aligns: Vec<Align> = columns.iter().map(|column| column.align).collect();
    table::fitted(&aligns, lines, &Fit { width, spare: &spare, same: &same, cut: &cut }, color)
}

/// A column of the table, without its heading.
struct Column {
    name: &'static str,
    align: Align,
    cells: Vec<Cell>,
}

/// All columns; scenarios and runs only if rows have any.
fn columns(rows: &[Row]) -> Vec<Column> {
    use Align::{Left, Right};
    let column =
        |name, align, cell: &dyn Fn(&Row) -> Cell| Column { name, align, cells: rows.iter().map(cell).collect() };
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let mut all = Vec::new();
    if rows.iter().any(|row| row.scenario.is_some()) {
        all.push(column("scenario", Left, &|row| or_dash(row.scenario.clone()).into()));
    }
    all.push(column("kernel", Left, &|row| row.kernel.as_str().into()));
    all.push(column("machine", Left, &|row| row.machine.as_str().into()));
    all.push(column("harts", Right, &|row| or_dash((row.harts > 0).then(|| row.harts.to_string())).into()));
    if rows.iter().any(|row| row.repeat.is_some()) {
        all.push(column("run", Right, &|row| or_dash(row.repeat.map(|run| run.to_string())).into()));
    }
    all.push(column("test", Left, &|row| row.test.as_str().into()));
    all.push(column("expected", Left, &|row| table::clip(&row.expected, COLUMN).into()));
    all.push(column("observed", Left, &|row| table::clip(&row.observed, COLUMN).into()));
    let verdict = |row: &Row| Cell { text: row.verdict.name().to_owned(), style: row.verdict.style() };
    all.push(column("verdict", Left, &verdict));
    all.push(column("seconds", Right, &|row| format!("{:.1}", row.seconds).into()));
    all.push(column("hits", Right, &|row| or_dash(row.stale_hits.map(|hits| hits.to_string())).into()));
    all
}

/// What helps to find out why a boot was not as expected.
pub fn explain(root: &Path, console: &Path, rows: &[Row], booted: Option<&Booted>) -> String {
    let mut text = String::new();
    for row in rows.iter().filter(|r| r.verdict != Verdict::Pass) {
        let scenario = row.scenario.as_ref().map(|s| format!("{s}: ")).unwrap_or_default();
        let run = row.repeat.map(|run| format!(" (run {run})")).unwrap_or_default();
        text.push_str(&format!(
            "{}: {scenario}{}{run}: expected {}, observed {}\n",
            row.verdict.name(),
            subject(row),
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
    let lines = booted.run.log.raw.lines();
    let (what, until) = match last_of_failed(rows, booted) {
        Some((test, line)) => (format!("the lines before the failure of {test} in"), line),
        None => ("the last lines of".to_owned(), usize::MAX),
    };
    text.push_str(&format!("    {what} {}:\n", shown(root, console)));
    // The bar keeps results of the guest from being read as results of whoever prints this.
    end::tail(lines.take(until)).iter().for_each(|l| text.push_str(&format!("      | {l}\n")));
    let reproducer = reproduce::folder(console).join(reproduce::SCRIPT);
    text.push_str(&format!("    to repeat this boot: sh {}\n", shown(root, &reproducer)));
    text
}

/// Of a boot that went on after a test had failed: the first such test, and the line of its first failure. The end of
/// the console shows other tests.
fn last_of_failed<'a>(rows: &'a [Row], booted: &Booted) -> Option<(&'a str, usize)> {
    if booted.run.reading.end != End::Finished {
        return None;
    }
    rows.iter().filter(|row| row.verdict == Verdict::Fail).find_map(|row| {
        let case = booted.report.find(&row.test).ok()??;
        let inside = ktap::innermost(&case.cases).into_iter();
        let line = inside.map(|(_, case)| case).chain([case]).find(|case| case.has_failed())?.line;
        Some((row.test.as_str(), line))
    })
}

/// A path relative to the repository, if it is in there.
pub fn shown(root: &Path, path: &Path) -> String {
    path.strip_prefix(root).unwrap_or(path).display().to_string()
}
