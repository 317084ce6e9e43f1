// SPDX-License-Identifier: GPL-2.0-only
//! `lazymap results`: the kernels that people run, with and without the series, on the machines of the scenarios; the
//! result is the table in docs/results.md.

pub mod table;

use std::path::Path;

use chrono::Utc;
use lazymap_console::end::End;

use self::table::{Cell, Outcome, Store, Which};
use super::run as scenarios;
use crate::build::kernel::{Compiler, Config, Kernel, SERIES};
use crate::build::workbench::Lab;
use crate::ground::error::{Error, Result};
use crate::ground::files;
use crate::ground::nearest;
use crate::options::Options;
use crate::series::topics;
use crate::source::{host, mailbox};
use crate::trial::expect::Expect;
use crate::trial::plan::Trial;
use crate::trial::record::{self, Tool};
use crate::trial::report::{self, Done, shown};
use crate::trial::results_spec::{Row, SPEC, Spec};
use crate::trial::run;
use crate::trial::scenario::Scenario;
use crate::trial::seen::Booted;
use crate::trial::verdict::{Count, Verdict};

/// The topic that goes to stable kernels.
const FIXES: &str = "fixes";
/// How the firmware begins its first line.
const FIRMWARE: &str = "OpenSBI v";

/// What follows the verb.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Only the rows of this scenario; the others keep their results. May be repeated [default: all]
    #[arg(long, value_name = "SCENARIO")]
    pub only: Vec<String>,
    /// Only rows without a result
    #[arg(long)]
    pub missing: bool,
    /// Runs nothing; writes the table anew from the results that there are
    #[arg(long, conflicts_with_all = ["only", "missing", "check"])]
    pub table: bool,
    /// Runs and writes nothing; fails if the table is not what the list and the results give
    #[arg(long, conflicts_with_all = ["only", "missing"])]
    pub check: bool,
}

/// What [`run`] does.
#[derive(Clone, Debug)]
pub struct Plan {
    spec: Spec,
    /// Which rows.
    rows: Vec<usize>,
}

impl Plan {
    /// Reads the list and what is there, and selects rows.
    ///
    /// # Errors
    /// When the list is wrong, a name is unknown, or the kernel is not the table's (exit code 64).
    pub fn new(options: &Options, args: &Args) -> Result<Self> {
        if options.ksrc.is_some() || !options.base.suffix().is_empty() {
            return Err(Error::usage("the table is about the first kernel of base.toml; leave KSRC and BASE out"));
        }
        let spec = Spec::load(&options.root)?;
        let store = Store::load(&options.root)?;
        let called = |name: &String| spec.rows.iter().any(|row| row.scenario.is_called(name));
        if let Some(name) = args.only.iter().find(|name| !called(name)) {
            let hint = nearest::hint(name, spec.rows.iter().map(|row| row.scenario.name.as_str()));
            return Err(Error::usage(format!("{SPEC} has no row `{name}`; {hint}")));
        }
        let asked = |row: &Row| args.only.is_empty() || args.only.iter().any(|name| row.scenario.is_called(name));
        let open = |row: &Row| !args.missing || Which::ALL.into_iter().any(|kernel| !store.has(row, kernel));
        let wanted = spec.rows.iter().enumerate().filter(|(_, row)| asked(row) && open(row));
        let rows: Vec<usize> = wanted.map(|(at, _)| at).collect();
        if rows.is_empty() {
            return Err(Error::usage("all rows have results; leave --missing out"));
        }
        Ok(Self { spec, rows })
    }
}

/// Writes the table from the results that there are.
///
/// # Errors
/// When a file is wrong or cannot be written.
pub fn rewrite(root: &Path) -> Result<()> {
    table::write(root, &Spec::load(root)?, &Store::load(root)?)
}

/// Builds the kernels, boots each row on each of them, and writes what was seen after each boot. Leaves the series checked
/// out.
///
/// # Errors
/// When the machine cannot be built, or a result cannot be written. A kernel that cannot be built is a result.
pub fn run(lab: &mut Lab, plan: &Plan) -> Result<Count> {
    let root = lab.options.root.clone();
    let mut store = Store::load(&root)?;
    let mut rows: Vec<&Row> = plan.rows.iter().map(|&at| &plan.spec.rows[at]).collect();
    let all: Vec<Scenario> = rows.iter().map(|row| row.scenario.clone()).collect();
    scenarios::takes(&lab.bench, &all)?;
    // Those with one kernel stand together: switching is what takes long.
    rows.sort_by_key(|row| row.scenario.config.name.clone());
    let folder = lab.options.place("results");
    files::create_dir(&folder)?;
    // Before this run changes files of the repository itself.
    let tool = Tool::of(&root).to_string();
    let fixes = fixes(lab)?;
    let mut count = Count::default();
    for group in rows.chunk_by(|a, b| a.scenario.config.name == b.scenario.config.name) {
        let config = &group[0].scenario.config;
        for which in Which::ALL {
            let kernel = kernel(lab, which, &fixes, config);
            for row in group {
                let Some(of) = row.scenario.trial() else { continue };
                let trial = trial(of, which, &row.tests);
                let built = kernel.as_ref().map_err(|e| Error::could_not(e.message.clone()));
                let (done, booted) = run::kept(&lab.bench, &trial, built, &folder);
                let (outcome, what) = outcome(&done, booted.as_ref());
                let cell = Cell {
                    outcome,
                    what,
                    stale_hits: done.boot.as_ref().and_then(|boot| boot.stale_hits),
                    tests: row.tests.clone(),
                    date: Utc::now().format("%Y-%m-%d").to_string(),
                    versions: versions(lab, &row.scenario, booted.as_ref(), &tool)?,
                    command: format!("harness/lazymap results --only {}", row.scenario.name),
                };
                let colon = if cell.what.is_empty() { "" } else { ": " };
                println!("{}: {outcome}{colon}{}", trial.name, cell.what);
                if outcome != Outcome::Pass {
                    done.report.iter().filter(|_| !lab.options.asked.quiet).for_each(|report| println!("{report}"));
                }
                count.count(verdict(which, outcome));
                store.put(&row.scenario.name, which, cell);
                store.keep(&root, &plan.spec)?;
            }
        }
    }
    let tip = lab.tip.clone();
    lab.tree.check_out(&tip)?;
    println!("Consoles: {}", shown(&root, &folder));
    Ok(count)
}

/// What a cell counts as: the series has to pass, of the others something has to be known.
fn verdict(which: Which, outcome: Outcome) -> Verdict {
    match outcome {
        Outcome::Error => Verdict::Error,
        Outcome::Pass => Verdict::Pass,
        _ if which == Which::Series => Verdict::Fail,
        _ => Verdict::Pass,
    }
}

/// The commit with the fixes on the bare base.
fn fixes(lab: &Lab) -> Result<String> {
    let base = &lab.options.base;
    let mails = mailbox::patches(&lab.options.root.join(&base.linux.patches))?;
    let commits = lab.tree.commits(&lab.tip)?;
    let parts = topics::cut(&base.topics, &lab.tree.subjects(&commits)?).map_err(Error::could_not)?;
    let at = parts.iter().position(|part| part.topic.name == FIXES);
    let at = at.ok_or_else(|| Error::could_not(format!("base.toml has no topic {FIXES}")))?;
    Ok(topics::apply(&lab.tree.repo, &lab.tree.base, &parts, at, &mails, &commits)?.commit)
}

/// A kernel of the table.
fn kernel(lab: &mut Lab, which: Which, fixes: &str, config: &Config) -> Result<Kernel> {
    match which {
        Which::Series => lab.kernel(config),
        Which::Bare => {
            let commit = lab.tree.base.clone();
            lab.bare(name(which), &commit, config)
        }
        Which::Fixes => {
            lab.tree.keep_scratch(name(which), fixes)?;
            lab.bare(name(which), fixes, config)
        }
    }
}

/// Its name in `out/kernel`.
fn name(which: Which) -> &'static str {
    match which {
        Which::Bare => "bare",
        Which::Fixes => "topic-fixes",
        Which::Series => SERIES,
    }
}

/// The boot of a row: the scenario's, with the tests that each kernel has.
fn trial(of: &Trial, which: Which, tests: &[String]) -> Trial {
    let expect = Expect::on(&of.machine);
    let kernel = name(which);
    Trial {
        name: format!("{}-{kernel}", of.name),
        kernel: kernel.to_owned(),
        tests: tests.iter().map(|test| (test.clone(), expect.clone())).collect(),
        // That is about all tests of the scenario together.
        met: None,
        ..of.clone()
    }
}

/// What came out of a boot, and in which test. If the kernel died, also the tests that failed before.
fn outcome(done: &Done, booted: Option<&Booted>) -> (Outcome, String) {
    let bad = done.rows.iter().filter(|row| row.verdict != Verdict::Pass);
    // Those after the end of the boot were not reached.
    let reached: Vec<_> = bad.filter(|row| row.verdict != Verdict::Miss).collect();
    let Some((last, before)) = reached.split_last() else { return (Outcome::Pass, String::new()) };
    let failed = |rows: &[&report::Row]| {
        let failed = rows.iter().filter(|row| row.verdict == Verdict::Fail);
        failed.map(|row| row.test.as_str()).collect::<Vec<_>>().join(", ")
    };
    let place = match (done.ready, failed(before)) {
        (false, _) => "before any test".to_owned(),
        (true, before) if before.is_empty() => format!("in {}", last.test),
        (true, before) => format!("in {}, after {before} failed", last.test),
    };
    match booted.map(|booted| &booted.run.reading.end) {
        Some(End::StackOverflow { .. }) => (Outcome::Killed, format!("stack overflow {place}")),
        Some(End::Panic { .. }) => (Outcome::Killed, format!("panic {place}")),
        Some(End::Oops { .. }) => (Outcome::Killed, format!("oops {place}")),
        Some(End::Hang(_) | End::Timeout(_)) => (Outcome::Hang, place),
        _ if reached.iter().any(|row| row.verdict == Verdict::Fail) => (Outcome::Fail, failed(&reached)),
        _ => {
            let why = last.why.first().unwrap_or(&last.observed);
            (Outcome::Error, format!("{}: {why}", last.test))
        }
    }
}

/// What took part in a boot.
fn versions(lab: &Lab, scenario: &Scenario, booted: Option<&Booted>, tool: &str) -> Result<String> {
    let options = &lab.options;
    let patches = record::patchset_hash(&options.root.join(&options.base.linux.patches))?;
    let lines = booted.map(|booted| booted.run.log.lines.as_slice()).unwrap_or_default();
    let firmware = lines.iter().find_map(|line| line.text.trim().strip_prefix(FIRMWARE));
    let last = |text: &str| text.rsplit(' ').next().unwrap_or_default().to_owned();
    let compiler = match scenario.config.compiler {
        Compiler::Clang => format!("clang {}", lab.bench.toolchain.get("clang").map_or("", |version| version.as_str())),
        // Where it is missing, nothing was built.
        Compiler::Gcc => format!("gcc {}", host::gcc_version().map(|text| last(&text)).unwrap_or_default()),
    };
    Ok(format!(
        "Linux {}, series {}, {}, OpenSBI {}, QEMU {}, {tool}",
        lab.tree.used.version,
        &patches[..patches.len().min(12)],
        compiler.trim(),
        firmware.unwrap_or("unknown"),
        last(&lab.bench.qemu.version),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::machine::{Machine, Run};
    use crate::boot::models;
    use crate::trial::judge;
    use crate::trial::seen::BootSeen;
    use lazymap_console::end::{self, Ending};
    use lazymap_console::ktap;
    use lazymap_console::log::Log;
    use std::path::PathBuf;

    /// The cell of a boot with these lines, of the tests `a` and `b` on harts that forget.
    fn seen(lines: &str, ending: &Ending) -> (Outcome, String) {
        let log = Log::of(&format!("[    0.000000] Linux version 7\nlazymap: guest ready\n{lines}"));
        let reading = end::read(&log, ending, "");
        let (report, counters) = (ktap::parse(&log), Ok(None));
        let run = Run { log, reading, ending: ending.clone(), counters, harts: Ok(Vec::new()), slowed: 1.0 };
        let booted = Booted { run, report, console: PathBuf::new(), append: String::new() };
        let of = Trial::new(SERIES, Machine::new(models::find("plain").unwrap()), Vec::new());
        assert_eq!(trial(&Trial { met: Some(35), ..of.clone() }, Which::Series, &[]).met, None);
        let trial = trial(&of, Which::Bare, &["a".to_owned(), "b".to_owned()]);
        assert_eq!((trial.name.as_str(), trial.kernel.as_str()), ("series-plain-bare", "bare"));
        let seen = BootSeen::of(&booted, &trial);
        let (rows, ready) = (judge::judge(&trial, &seen), seen.ready);
        outcome(&Done { rows, report: None, headline: None, ready, boot: None }, Some(&booted))
    }

    #[test]
    fn cells_say_what_happened_and_where() {
        let end = "lazymap: guest done\n[    9.000000] reboot: Power down\n";
        let tap = "TAP version 13\n1..2\n";
        let of = |lines: &str, ending: &Ending| seen(&format!("{tap}{lines}"), ending);
        let exited = Ending::Exited(0);
        assert_eq!(of(&format!("ok 1 a\nok 2 b\n{end}"), &exited), (Outcome::Pass, String::new()));
        assert_eq!(of(&format!("not ok 1 a\nok 2 b\n{end}"), &exited), (Outcome::Fail, "a".to_owned()));
        let oops = "[    5.000000] Unable to handle kernel paging request at virtual address ff20000000000000\n\
                    [    5.000000] Oops [#1]\n[    5.100000] Kernel panic - not syncing: Fatal exception\n";
        assert_eq!(of(oops, &exited), (Outcome::Killed, "oops in a".to_owned()));
        assert_eq!(of(&format!("ok 1 a\n{oops}"), &exited), (Outcome::Killed, "oops in b".to_owned()));
        let both = of(&format!("not ok 1 a\n{oops}"), &exited);
        assert_eq!(both, (Outcome::Killed, "oops in b, after a failed".to_owned()));
        let silent = Ending::Silent(std::time::Duration::from_secs(60));
        assert_eq!(of("ok 1 a\n", &silent), (Outcome::Hang, "in b".to_owned()));
        assert_eq!(of("ok 1 a\n", &Ending::Exited(1)).0, Outcome::Error);
    }

    #[test]
    fn only_the_series_has_to_pass() {
        assert_eq!(verdict(Which::Bare, Outcome::Killed), Verdict::Pass);
        assert_eq!(verdict(Which::Series, Outcome::Killed), Verdict::Fail);
        assert_eq!(verdict(Which::Bare, Outcome::Error), Verdict::Error);
        assert_eq!(verdict(Which::Series, Outcome::Pass), Verdict::Pass);
    }
}
