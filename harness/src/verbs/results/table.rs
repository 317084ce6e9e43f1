// SPDX-License-Identifier: GPL-2.0-only
//! The table in docs/results.md: what was seen (`harness/results.json`), and how it becomes the rows that
//! `harness/results.toml` asks for.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::ground::error::{Error, Result};
use crate::ground::files;
use crate::trial::results_spec::{Row, SPEC, Spec};

/// In the repository: what was seen, and the page with the table.
const STORE: &str = "harness/results.json";
const PAGE: &str = "docs/results.md";

/// Between these lines of the page is the table.
const BEGIN: &str = "<!-- The table is made by `lazymap results`; do not edit it. -->\n";
const END: &str = "<!-- End of the table. -->\n";

/// A kernel of the table.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Which {
    /// The release.
    Bare,
    /// With the fixes for stable kernels, and nothing else.
    Fixes,
    /// With the series.
    Series,
}

impl Which {
    /// All, in the order of the columns.
    pub const ALL: [Self; 3] = [Self::Bare, Self::Fixes, Self::Series];

    /// The head of its column.
    fn head(self) -> &'static str {
        match self {
            Self::Bare => "bare",
            Self::Fixes => "bare + fixes",
            Self::Series => "series",
        }
    }
}

/// What came out of a boot.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// All tests passed.
    Pass,
    /// A test failed, and the kernel lived.
    Fail,
    /// The kernel died.
    Killed,
    /// It went silent, or never came to its end.
    Hang,
    /// Too little was seen to tell.
    Error,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::Killed => "killed",
            Self::Hang => "hang",
            Self::Error => "error",
        })
    }
}

/// A cell: one kernel in one row.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Cell {
    pub outcome: Outcome,
    /// What happened in which test; empty for a pass.
    pub what: String,
    /// Of the whole boot; null on a machine that does not count.
    pub stale_hits: Option<u64>,
    /// The tests that ran.
    pub tests: Vec<String>,
    /// The day, as RFC 3339 has it, in UTC.
    pub date: String,
    /// Of the kernel, the patches, the machine, the firmware, the compiler and the tool.
    pub versions: String,
    /// The command that repeats it.
    pub command: String,
}

/// All cells, by scenario and kernel.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Store(BTreeMap<String, BTreeMap<Which, Cell>>);

impl Store {
    /// Reads the file of the repository `root`; there need not be one.
    ///
    /// # Errors
    /// When it cannot be read, or is not what the tool has written.
    pub fn load(root: &Path) -> Result<Self> {
        let path = root.join(STORE);
        match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).map_err(|e| Error::could_not(format!("{STORE}: {e}"))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(e) => Err(Error::io("read", &path, e)),
        }
    }

    /// Puts a cell in the place of the one before it.
    pub fn put(&mut self, scenario: &str, kernel: Which, cell: Cell) {
        self.0.entry(scenario.to_owned()).or_default().insert(kernel, cell);
    }

    /// Whether there is a result with the row's tests.
    pub fn has(&self, row: &Row, kernel: Which) -> bool {
        self.get(row, kernel).is_some()
    }

    /// The cell, unless it was never run, or with other tests.
    fn get(&self, row: &Row, kernel: Which) -> Option<&Cell> {
        self.0.get(&row.scenario.name)?.get(&kernel).filter(|cell| cell.tests == row.tests)
    }

    /// Writes the file and the table, without what the table no longer has.
    ///
    /// # Errors
    /// When a file cannot be read or written, or the page has no place for the table.
    pub fn keep(&mut self, root: &Path, spec: &Spec) -> Result<()> {
        self.0.retain(|name, _| spec.rows.iter().any(|row| row.scenario.name == *name));
        files::write_json(&root.join(STORE), self)?;
        write(root, spec, self)
    }
}

/// Writes the table into the page.
///
/// # Errors
/// As [`Store::keep`].
pub fn write(root: &Path, spec: &Spec, store: &Store) -> Result<()> {
    let path = root.join(PAGE);
    let old = files::read_text(&path)?;
    files::write_whole(&path, with_table(&old, &table(spec, store))?)
}

/// Checks that the page has the table that the two files give, and that each difference is explained.
///
/// # Errors
/// What is wrong, in one line.
pub fn check(root: &Path) -> Result<()> {
    let (spec, store) = (Spec::load(root)?, Store::load(root)?);
    let path = root.join(PAGE);
    let old = files::read_text(&path)?;
    if old != with_table(&old, &table(&spec, &store))? {
        return Err(Error::could_not(format!(
            "the table in {PAGE} is not what {SPEC} and {STORE} give; run `lazymap results --table`"
        )));
    }
    match spec.rows.iter().find(|row| differs(row, &store) && row.findings.is_empty()) {
        Some(row) => Err(Error::could_not(format!(
            "{SPEC}: the kernels differ on {}, and no finding says why; write one and name it in the row",
            row.scenario.name
        ))),
        None => Ok(()),
    }
}

/// Whether the series does better or worse than a kernel without it.
fn differs(row: &Row, store: &Store) -> bool {
    let seen = |kernel| store.get(row, kernel).map(|cell| cell.outcome);
    let series = seen(Which::Series);
    series.is_some() && [Which::Bare, Which::Fixes].into_iter().filter_map(seen).any(|other| Some(other) != series)
}

/// The page with this table.
fn with_table(page: &str, table: &str) -> Result<String> {
    files::with_part(PAGE, page, BEGIN, END, table)
}

/// The table, the versions and what is left out, as Markdown.
fn table(spec: &Spec, store: &Store) -> String {
    let heads = Which::ALL.map(Which::head).join(" | ");
    let mut text = String::new();
    let mut never: Vec<String> = Vec::new();
    let mut versions: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for row in &spec.rows {
        let Some(trial) = row.scenario.trial() else { continue };
        let cells: Vec<Option<&Cell>> = Which::ALL.into_iter().map(|kernel| store.get(row, kernel)).collect();
        if cells.iter().all(Option::is_none) {
            never.push(format!("`{}`", row.scenario.name));
            continue;
        }
        if text.is_empty() {
            text = format!("| scenario | machine | harts | {heads} | run on | differs because |\n");
            text.push_str("|---|---|---|---|---|---|---|---|\n");
        }
        let mut dates = BTreeSet::new();
        for cell in cells.iter().flatten() {
            dates.insert(cell.date.as_str());
            versions.entry(cell.versions.as_str()).or_default().insert(row.scenario.name.as_str());
        }
        let dates: Vec<&str> = dates.into_iter().collect();
        let shown: Vec<String> = cells.into_iter().map(shown).collect();
        let why: Vec<String> = row.findings.iter().map(|name| format!("[{name}](findings/{name}.md)")).collect();
        let why = match (differs(row, store), why.is_empty()) {
            (false, _) => "-".to_owned(),
            (true, true) => "**not explained**".to_owned(),
            (true, false) => why.join(", "),
        };
        text.push_str(&format!(
            "| `{}` | {} | {} | {} | {} | {why} |\n",
            row.scenario.name,
            trial.machine,
            trial.machine.harts,
            shown.join(" | "),
            dates.join(", "),
        ));
    }
    let gap = if text.is_empty() { "" } else { "\n" };
    if !never.is_empty() {
        text.push_str(&format!("{gap}Not run yet: {}.\n", never.join(", ")));
    }
    text.push_str("\n`harness/lazymap results --only SCENARIO` runs a row again.\n");
    if !versions.is_empty() {
        text.push_str("\n| versions | rows |\n|---|---|\n");
        for (version, rows) in versions {
            let rows: Vec<String> = rows.into_iter().map(|name| format!("`{name}`")).collect();
            text.push_str(&format!("| {version} | {} |\n", rows.join(", ")));
        }
    }
    if !spec.left_out.is_empty() {
        text.push_str("\n| not in the table | because |\n|---|---|\n");
        spec.left_out.iter().for_each(|row| text.push_str(&format!("| {} | {} |\n", row.what, row.why)));
    }
    text
}

/// A cell as the table shows it.
fn shown(cell: Option<&Cell>) -> String {
    let Some(cell) = cell else { return "not run".to_owned() };
    let what = if cell.what.is_empty() { String::new() } else { format!(": {}", cell.what.replace('|', "\\|")) };
    let hits = match cell.stale_hits {
        Some(1) => ", 1 hit".to_owned(),
        Some(hits) => format!(", {hits} hits"),
        None => String::new(),
    };
    let bold = if cell.outcome == Outcome::Pass { "" } else { "**" };
    format!("{bold}{}{bold}{what}{hits}", cell.outcome)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trial::results_spec::{FINDINGS, LeftOut};
    use crate::trial::scenario;

    fn root() -> &'static Path {
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
    }

    /// The first row of the project's own table, alone.
    fn one() -> Spec {
        let mut spec = Spec::load(root()).unwrap();
        spec.rows.truncate(1);
        spec.rows[0].findings.clear();
        spec.left_out = vec![LeftOut { what: "x".to_owned(), why: "y".to_owned() }];
        spec
    }

    fn cell(spec: &Spec, outcome: Outcome, what: &str) -> Cell {
        Cell {
            outcome,
            what: what.to_owned(),
            stale_hits: Some(7),
            tests: spec.rows[0].tests.clone(),
            date: "2026-11-30".to_owned(),
            versions: "Linux 7.3.4".to_owned(),
            command: "c".to_owned(),
        }
    }

    #[test]
    fn cells_that_were_never_run_say_so() {
        let (spec, mut store) = (one(), Store::default());
        let name = spec.rows[0].scenario.name.clone();
        let text = table(&spec, &store);
        assert!(text.starts_with(&format!("Not run yet: `{name}`.\n")), "{text}");
        assert!(text.ends_with("| x | y |\n"), "{text}");
        store.put(&name, Which::Series, cell(&spec, Outcome::Pass, ""));
        store.put(&name, Which::Bare, Cell { date: "2026-11-29".to_owned(), ..cell(&spec, Outcome::Pass, "") });
        let text = table(&spec, &store);
        assert!(text.contains("| pass, 7 hits | not run | pass, 7 hits | 2026-11-29, 2026-11-30 | - |"), "{text}");
        assert!(text.contains(&format!("| Linux 7.3.4 | `{name}` |")), "{text}");
        // With other tests it is another run.
        store.put(&name, Which::Bare, Cell { tests: Vec::new(), ..cell(&spec, Outcome::Pass, "") });
        assert!(table(&spec, &store).contains("| not run | not run | pass, 7 hits | 2026-11-30 | - |"));
    }

    #[test]
    fn a_difference_needs_a_finding() {
        let (mut spec, mut store) = (one(), Store::default());
        let name = spec.rows[0].scenario.name.clone();
        store.put(&name, Which::Series, cell(&spec, Outcome::Pass, ""));
        assert!(!differs(&spec.rows[0], &store));
        store.put(&name, Which::Bare, cell(&spec, Outcome::Killed, "oops in test-basic.sh"));
        assert!(differs(&spec.rows[0], &store));
        let text = table(&spec, &store);
        assert!(text.contains("| **killed**: oops in test-basic.sh, 7 hits | not run |"), "{text}");
        assert!(text.contains("| **not explained** |"), "{text}");
        spec.rows[0].findings.push("mark-before-pte".to_owned());
        let text = table(&spec, &store);
        assert!(text.contains("| [mark-before-pte](findings/mark-before-pte.md) |"), "{text}");
    }

    #[test]
    fn the_store_is_read_back() {
        let (spec, mut store) = (one(), Store::default());
        store.put(&spec.rows[0].scenario.name, Which::Fixes, cell(&spec, Outcome::Hang, "x"));
        store.put("gone", Which::Bare, cell(&spec, Outcome::Error, "x"));
        let dir = tempfile::tempdir().unwrap();
        let page = dir.path().join(PAGE);
        files::write_whole(&page, format!("a\n{BEGIN}old{END}b\n")).unwrap();
        store.keep(dir.path(), &spec).unwrap();
        assert_eq!(Store::load(dir.path()).unwrap(), store);
        assert!(!store.0.contains_key("gone"));
        let text = fs::read_to_string(&page).unwrap();
        assert!(text.starts_with(&format!("a\n{BEGIN}\n| scenario |")) && text.ends_with(&format!("\n{END}b\n")));
        files::write_whole(&page, "a\n").unwrap();
        assert!(store.keep(dir.path(), &spec).unwrap_err().message.contains("put back"));
    }

    #[test]
    fn the_table_of_the_project_is_up_to_date() {
        check(root()).unwrap();
    }

    /// Each way in which table, list and results can disagree.
    #[test]
    fn what_was_changed_by_hand_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        for path in [SPEC, PAGE] {
            files::write_whole(&dir.path().join(path), fs::read(root().join(path)).unwrap()).unwrap();
        }
        if root().join(STORE).exists() {
            files::write_whole(&dir.path().join(STORE), fs::read(root().join(STORE)).unwrap()).unwrap();
        }
        for folder in [scenario::FOLDER, FINDINGS, "selftests"] {
            files::copy_tree(&root().join(folder), &dir.path().join(folder)).unwrap();
        }
        check(dir.path()).unwrap();
        let change = |path: &str, from: &str, to: &str| {
            let path = dir.path().join(path);
            let old = fs::read_to_string(&path).unwrap();
            assert!(old.contains(from), "{from} is not in {}", path.display());
            files::write_whole(&path, old.replacen(from, to, 1)).unwrap();
            let why = check(dir.path()).unwrap_err();
            files::write_whole(&path, old).unwrap();
            why.message
        };
        assert!(change(PAGE, "| not in the table |", "| missing |").contains("lazymap results --table"));
        let row = "[[row]]\nscenario = \"default\"";
        assert!(change(SPEC, row, "[[row]]\nscenario = \"up\"").contains("lazymap results --table"));
        assert!(change(SPEC, row, "[[row]]\nscenario = \"gcc\"").contains("row gcc: there is no such scenario"));
        assert!(
            change(SPEC, row, &format!("{row}\nfindings = [\"none\"]\n\n{row}")).contains("no docs/findings/none.md")
        );
        assert!(change(SPEC, row, &format!("{row}\n\n{row}")).contains("another row has default"));
        assert!(change(SPEC, row, &format!("{row}\ntests = [\"test-no.sh\"]")).contains("no test `test-no.sh`"));
        assert!(change(SPEC, row, &format!("{row}\ncolour = 1")).contains("colour"));
    }
}
