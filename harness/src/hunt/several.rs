// SPDX-License-Identifier: GPL-2.0-only
//! Hunts on several machines, and makes one table of them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use chrono::Utc;
use serde::Serialize;

use super::report::{Place, Report};
use super::verdict::Outcome;
use super::{Args, exit, file_name, hunted};
use crate::build::workbench;
use crate::ground::error::{Error, Exit, Result};
use crate::ground::files;
use crate::ground::table::{self, Align, Cell, Fit};
use crate::options::Options;
use crate::trial::record::{self, Tool};
use crate::trial::report::shown;
use crate::trial::scenario::MachineFile;

/// Version of the table's schema: bump it when a field changes its meaning or is removed.
const SCHEMA: u32 = 1;

/// What [`run`] does with one kernel, checked as far as possible without building.
#[derive(Clone, Debug)]
pub struct Plan {
    args: Args,
}

impl Plan {
    /// Checks the command line.
    ///
    /// # Errors
    /// When it makes no sense (exit code 64).
    pub fn new(options: &Options, args: &Args) -> Result<Self> {
        are_models(&args.models)?;
        for model in &args.models {
            super::Plan::new(options, &on(args, model))?;
        }
        Ok(Self { args: args.clone() })
    }

    /// The name of the kernel.
    fn kernel(&self) -> String {
        let file = self.args.kernel.as_ref().map(|image| file_name(image));
        file.or_else(|| self.args.tree.clone()).unwrap_or_default()
    }
}

/// Hunts in a kernel on each machine, prints the table, and writes it to `out/hunt/KERNEL-models.json` (or where `--json`
/// says) and `.md` after each hunt.
///
/// # Errors
/// When the machine cannot be built, or the table cannot be written.
pub fn run(options: &Options, plan: &Plan) -> Result<Exit> {
    let about = About { kernel: plan.kernel(), ..About::default() };
    let mut table = Table::new(options, &format!("{}-models", about.kernel), plan.args.json.as_deref())?;
    for model in &plan.args.models {
        table.add(options, hunt(options, &plan.args, model, &about))?;
    }
    Ok(table.end(options))
}

/// Checks the names of machines.
///
/// # Errors
/// When one does not exist, or no hit is possible there (exit code 64).
pub fn are_models(models: &[String]) -> Result<()> {
    for model in models {
        let machine = MachineFile::named(model).machine().map_err(Error::usage)?;
        if !machine.model.stale {
            return Err(Error::usage(format!(
                "harts of the model `{model}` remember nothing: no hit is possible; name another in --models"
            )));
        }
    }
    Ok(())
}

/// The command line of the hunt on one of these machines.
fn on(args: &Args, model: &str) -> Args {
    Args { model: model.to_owned(), debian: None, models: Vec::new(), write: false, json: None, ..args.clone() }
}

/// Hunts on one machine; what is not possible is a line of the table as well.
pub fn hunt(options: &Options, args: &Args, model: &str, about: &About) -> Row {
    match super::Plan::new(options, &on(args, model)).and_then(|plan| hunted(options, &plan)) {
        Ok((report, _, html)) => Row::of(about, model, &report, shown(&options.root, &html)),
        Err(error) => Row::failed(about, model, &error),
    }
}

/// Which kernel a line of the table is about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct About {
    /// The suite that has it; empty if it is not a distribution's.
    pub suite: String,
    /// The release that `uname -r` prints, or the name of a file or a tree; empty if it could not be downloaded.
    pub kernel: String,
    /// The version of its package, if it is from one.
    pub version: String,
}

/// A hunt's line in the table.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The kernel.
    #[serde(flatten)]
    pub about: About,
    /// The name of the machine.
    pub machine: String,
    /// In a few words; with the place where it died, if it did.
    pub result: String,
    /// Page faults that the page tables did not justify; none if nothing was booted.
    pub hits: Option<usize>,
    /// Translations that were used after the page tables had changed.
    pub uses: Option<usize>,
    /// The exit code of `lazymap hunt`.
    pub exit: u8,
    /// The page with the whole report; none if nothing was booted.
    pub report: Option<String>,
}

impl Row {
    fn of(about: &About, model: &str, report: &Report, html: String) -> Self {
        Self {
            about: about.clone(),
            machine: model.to_owned(),
            result: said(report),
            hits: Some(report.counts.hits),
            uses: Some(report.counts.uses),
            exit: exit(report) as u8,
            report: Some(html),
        }
    }

    /// The line of a hunt that did not take place.
    pub fn failed(about: &About, model: &str, error: &Error) -> Self {
        Self {
            about: about.clone(),
            machine: model.to_owned(),
            result: error.message.clone(),
            hits: None,
            uses: None,
            exit: error.exit as u8,
            report: None,
        }
    }

    fn cells(&self) -> [String; 7] {
        let number = |number: Option<usize>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
        let About { suite, kernel, version } = &self.about;
        let kernel = format!("{kernel} {version}").trim().to_owned();
        let (hits, uses) = (number(self.hits), number(self.uses));
        [suite.clone(), kernel, self.machine.clone(), self.result.clone(), hits, uses, self.exit.to_string()]
    }
}

/// The whole table.
#[derive(Clone, Debug, Serialize)]
pub struct Table {
    /// Version of this schema.
    schema: u32,
    /// When the first hunt began, as RFC 3339 has it.
    started: String,
    tool: String,
    qemu: String,
    /// The command that makes it anew.
    command: String,
    /// Its lines so far.
    pub rows: Vec<Row>,
    /// Where it goes as JSON, and for a page.
    #[serde(skip)]
    files: (PathBuf, PathBuf),
}

/// The heads of its columns; the first one is left out if no kernel is a distribution's.
const HEADS: [&str; 7] = ["suite", "kernel", "machine", "result", "hits", "uses", "exit"];

impl Table {
    /// An empty one, in `out/hunt/NAME.json` (or in `json`) and `NAME.md`.
    ///
    /// # Errors
    /// When the machine cannot be built.
    pub fn new(options: &Options, name: &str, json: Option<&Path>) -> Result<Self> {
        let place = |ending: &str| options.place("hunt").join(format!("{name}.{ending}"));
        Ok(Self {
            schema: SCHEMA,
            started: record::rfc3339(Utc::now()),
            tool: Tool::of(&options.root).to_string(),
            qemu: workbench::without_kernels(options)?.qemu.version,
            command: super::again(&options.asked.command),
            rows: Vec::new(),
            files: (json.map_or_else(|| place("json"), Path::to_owned), place("md")),
        })
    }

    /// Prints a line (unless it is good, and only bad ones are asked for), adds it, and writes the table.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn add(&mut self, options: &Options, row: Row) -> Result<()> {
        if !options.asked.quiet || row.exit != Exit::Pass as u8 {
            println!("{}", row.cells().join("  ").trim_start());
        }
        self.rows.push(row);
        files::write_json(&self.files.0, self)?;
        files::write_whole(&self.files.1, self.markdown())
    }

    /// Prints all of it; returns the exit code of all hunts.
    pub fn end(&self, options: &Options) -> Exit {
        if !options.asked.quiet {
            println!("\n{}", self.text(table::width()));
        }
        println!("table: {}", shown(&options.root, &self.files.0));
        together(self.rows.iter().map(|row| row.exit))
    }

    /// How many columns are left out.
    fn first(&self) -> usize {
        usize::from(self.rows.iter().all(|row| row.about.suite.is_empty()))
    }

    /// For a terminal of this width.
    fn text(&self, width: usize) -> String {
        use Align::{Left, Right};
        let first = self.first();
        let mut rows: Vec<Vec<Cell>> = vec![HEADS.into_iter().skip(first).map(Cell::from).collect()];
        rows.extend(self.rows.iter().map(|row| row.cells().into_iter().skip(first).map(Cell::from).collect()));
        let columns = &[Left, Left, Left, Left, Right, Right, Right][first..];
        table::fitted(columns, rows, &Fit::texts(width, &[1 - first, 3 - first]), false)
    }

    /// For a page.
    pub fn markdown(&self) -> String {
        let first = self.first();
        let heads = &HEADS[first..];
        let mut text = format!("| {} |\n|{}\n", heads.join(" | "), "---|".repeat(heads.len()));
        for row in &self.rows {
            let cells = row.cells().map(|cell| cell.replace('|', "\\|").replace('\n', " "));
            text.push_str(&format!("| {} |\n", cells[first..].join(" | ")));
        }
        let day = self.started.split('T').next().unwrap_or_default();
        text.push_str(&format!("\nSince {day}, with {}, {}: `{}`\n", self.tool, self.qemu, self.command));
        text
    }
}

/// The exit code of all hunts: a kernel that dies counts only if nothing is uncertain.
fn together(exits: impl Iterator<Item = u8>) -> Exit {
    let all: BTreeSet<u8> = exits.collect();
    match all.last() {
        Some(0) => Exit::Pass,
        Some(1) => Exit::Failed,
        _ => Exit::CouldNot,
    }
}

/// The result of a hunt in a few words.
fn said(report: &Report) -> String {
    let at = |place: &Place| match &place.line {
        Some(line) => format!("{} ({line})", place.at),
        None => place.at.clone(),
    };
    match &report.result {
        Outcome::Survived => "survived".to_owned(),
        Outcome::Killed { .. } => match report.killer() {
            Some(hit) => format!("**killed** at {}", at(&hit.touch)),
            None => "**killed**".to_owned(),
        },
        Outcome::Exposed { of, .. } => {
            let found = report.uses.iter().find(|found| found.index == *of);
            let store = found.and_then(|found| found.store.as_ref());
            let by = store.map(|store| format!(", changed by {}", at(store))).unwrap_or_default();
            format!("**stale translation used**{by}")
        }
        Outcome::Lost { how } => format!("**page tables used that are gone**: {how}"),
        Outcome::Incomplete { .. } | Outcome::Uncertain { .. } => report.result.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_exit_code_counts() {
        let of = |exits: &[u8]| together(exits.iter().copied());
        assert_eq!(of(&[0, 0]), Exit::Pass);
        assert_eq!(of(&[0, 1, 0]), Exit::Failed);
        assert_eq!(of(&[0, 1, 2]), Exit::CouldNot);
        assert_eq!(of(&[0, 64]), Exit::CouldNot);
        assert_eq!(of(&[]), Exit::CouldNot);
    }

    fn table(rows: Vec<Row>) -> Table {
        Table {
            schema: SCHEMA,
            started: "2026-12-01T10:00:00Z".to_owned(),
            tool: "lazymap 1".to_owned(),
            qemu: "QEMU 10".to_owned(),
            command: "harness/lazymap hunt --debian".to_owned(),
            rows,
            files: (PathBuf::new(), PathBuf::new()),
        }
    }

    #[test]
    fn the_table_as_text_and_as_a_page() {
        let error = Error::could_not("a|b\nc");
        let about = |suite: &str, kernel: &str, version: &str| About {
            suite: suite.to_owned(),
            kernel: kernel.to_owned(),
            version: version.to_owned(),
        };
        let mut killed = Row::failed(&about("sid", "7.2.13+deb14-riscv64", "7.2.13-1"), "window-1", &error);
        (killed.result, killed.hits, killed.uses, killed.exit) = ("**killed**".to_owned(), Some(7), Some(0), 1);
        let debian = table(vec![killed.clone(), Row::failed(&about("buzz", "", ""), "stale", &error)]);
        assert_eq!(
            debian.markdown(),
            "| suite | kernel | machine | result | hits | uses | exit |\n\
             |---|---|---|---|---|---|---|\n\
             | sid | 7.2.13+deb14-riscv64 7.2.13-1 | window-1 | **killed** | 7 | 0 | 1 |\n\
             | buzz |  | stale | a\\|b c | - | - | 2 |\n\
             \nSince 2026-12-01, with lazymap 1, QEMU 10: `harness/lazymap hunt --debian`\n"
        );
        let text = debian.text(80);
        assert!(text.lines().next().is_some_and(|heads| heads.starts_with("suite  kernel")), "{text}");
        let json = serde_json::to_string(&debian).unwrap();
        assert!(json.contains("\"hits\":null") && json.contains("\"suite\":\"sid\""), "{json}");
        // A kernel of one's own is in no suite.
        killed.about = about("", "Image", "");
        let own = table(vec![killed]);
        assert!(own.markdown().starts_with(
            "| kernel | machine | result | hits | uses | exit |\n|---|---|---|---|---|---|\n| Image | window-1 |"
        ));
        assert!(own.text(80).starts_with("kernel  machine "), "{}", own.text(80));
    }
}
