// SPDX-License-Identifier: GPL-2.0-only
//! `lazymap mutants`: every single-instruction mutant of the scheme's machine code, and what finds it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use serde::Serialize;

use crate::build::workbench::Lab;
use crate::exhaust::image::Image;
use crate::exhaust::layout::Layout;
use crate::exhaust::mutate::{self, Mutant};
use crate::exhaust::search::Limit;
use crate::exhaust::world::Bounds;
use crate::exhaust::{Plan, Verdict, judge};
use crate::ground::error::{Error, Exit, Result};
use crate::ground::files;
use crate::ground::progress::Step;
use crate::ground::shard::Shard;
use crate::ground::table::{self, Align, Cell};
use crate::options::Options;
use crate::trial::mutants::{Row, all_needed, explain, known};
use crate::trial::scenario::Tier;
use crate::trial::verdict as judgement;
use crate::verbs::statements::{self, Selected};

/// `make check TIER=ci` judges one mutant out of so many.
const SAMPLE: u32 = 28;

/// What the user gives.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// The kernel [default: out/kernel/series/vmlinux]
    #[arg(value_name = "VMLINUX")]
    pub vmlinux: Option<PathBuf>,
    /// The I-th of N shares
    #[arg(long, value_name = "I/N", default_value_t)]
    pub shard: Shard,
    /// Only every N-th mutant
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub every: u32,
    /// Of C statements, which are built and booted; takes minutes
    #[arg(long, conflicts_with_all = ["vmlinux", "depth"])]
    pub statements: bool,
    /// Keeps the verdicts on statements that an earlier run has reached
    #[arg(long, requires = "statements")]
    pub resume: bool,
    /// Traps that may be nested because C code takes them, in the last search
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(2..=4))]
    pub depth: u8,
}

/// `out/mutants/results.json`.
#[derive(Serialize)]
struct Results<'a> {
    schema: u32,
    kernel: String,
    seconds: f64,
    mutants: &'a [Row],
}

/// Judges the mutants, prints the survivors and a table of what killed how many, and writes
/// `out/mutants/results.json`.
///
/// # Errors
/// When there is no kernel, its entry is not understood, or a file is wrong.
pub fn run(options: &Options, args: &Args) -> Result<Exit> {
    let rows = if args.statements {
        let selected = Selected { shard: args.shard, every: args.every, resume: args.resume };
        statements::judge_all(&mut Lab::open(options)?, &selected)?
    } else {
        let vmlinux = args.vmlinux.clone().unwrap_or_else(|| options.place("kernel").join("series/vmlinux"));
        judge_all(options, &vmlinux, args)?
    };
    print(&rows);
    let unexplained = rows.iter().filter(|r| r.is_unexplained()).count();
    let killed = rows.iter().filter(|r| r.killed.is_some()).count();
    println!(
        "{} mutants: {killed} killed, {} explained, {unexplained} unexplained",
        rows.len(),
        rows.len() - killed - unexplained
    );
    Ok(exit(&rows))
}

/// What `make check` does: a sample, or all in the tier `full`. Gives name, verdict and reason.
///
/// # Errors
/// As [`run`].
pub fn check(options: &Options, vmlinux: &Path, tier: Tier) -> Result<(String, judgement::Verdict, String)> {
    let every = if tier == Tier::Full { 1 } else { SAMPLE };
    let args = Args { vmlinux: None, shard: Shard::default(), every, statements: false, resume: false, depth: 2 };
    let rows = judge_all(options, vmlinux, &args)?;
    Ok(told("mutants: each one is killed or explained", &rows))
}

/// The same for all statements.
///
/// # Errors
/// As [`run`].
pub fn check_statements(lab: &mut Lab) -> Result<(String, judgement::Verdict, String)> {
    let rows = statements::judge_all(lab, &Selected { shard: Shard::default(), every: 1, resume: false })?;
    Ok(told("mutants of statements: each one is killed or explained", &rows))
}

fn told(name: &str, rows: &[Row]) -> (String, judgement::Verdict, String) {
    let verdict = match exit(rows) {
        Exit::Pass => judgement::Verdict::Pass,
        Exit::Failed => judgement::Verdict::Fail,
        _ => judgement::Verdict::Error,
    };
    let unexplained = rows.iter().filter(|r| r.is_unexplained()).map(Row::in_words).collect::<Vec<_>>().join("; ");
    let why = if unexplained.is_empty() { format!("{} mutants", rows.len()) } else { unexplained };
    (name.to_owned(), verdict, why)
}

/// Judges those mutants of a kernel that `args` selects.
fn judge_all(options: &Options, vmlinux: &Path, args: &Args) -> Result<Vec<Row>> {
    let started = Instant::now();
    let image = Image::load(vmlinux)?;
    let layout = Layout::of(&image)
        .map_err(|why| Error::could_not(format!("{}: the entry is not understood: {why}", vmlinux.display())))?;
    let known = known(&options.root)?;
    let plans = plans(args.depth);
    let step = Step::start("search the kernel itself");
    let original = searched(&image, &layout, &plans);
    step.finish(if original.is_clean() { "clean" } else { "not clean" });
    if !original.is_clean() {
        let why = original.unknown.or(original.findings.first().map(|f| f.violation.what.clone())).unwrap_or_default();
        return Err(Error::could_not(format!("{}: the kernel itself is not clean: {why}", vmlinux.display())));
    }
    let all: Vec<Mutant> =
        ranges(&image, &layout).into_iter().flat_map(|range| mutate::mutants(&image, range)).collect();
    let all: Vec<Mutant> = all.into_iter().step_by(args.every as usize).collect();
    let mine = args.shard.share(all);
    let mut rows = judged(&image, &layout, &mine, &plans, options.jobs);
    if rows.len() != mine.len() {
        return Err(Error::could_not(format!(
            "{} of {} mutants have no verdict; report this",
            mine.len() - rows.len(),
            mine.len()
        )));
    }
    explain(&mut rows, &known.survivor);
    let results = Results {
        schema: 1,
        kernel: vmlinux.display().to_string(),
        seconds: started.elapsed().as_secs_f64(),
        mutants: &rows,
    };
    files::write_json(&options.place("mutants").join("results.json"), &results)?;
    if args.every == 1 && args.shard == Shard::default() {
        all_needed(&rows, &known.survivor)?;
    }
    Ok(rows)
}

/// The exit code. A mutant that survives is certain, one whose search reached a limit is not; no mutants prove nothing.
fn exit(rows: &[Row]) -> Exit {
    let unexplained = || rows.iter().filter(|r| r.is_unexplained());
    if unexplained().any(|r| r.uncertain.is_none()) {
        Exit::Failed
    } else if rows.is_empty() || unexplained().next().is_some() {
        Exit::CouldNot
    } else {
        Exit::Pass
    }
}

/// Searches from the quickest on; the first one that finds something ends it. Genuine faults take traps that are
/// nested two deep. CPU 35 has its bit in the upper half of a word, and its number has the bit that enables interrupts
/// in sstatus. A new process, with the hart marked and not, reaches all of the scheme; the other starts reach it
/// another way.
fn plans(depth: u8) -> Vec<Plan> {
    let plan = |depth, cpus, starts| Plan {
        bounds: Bounds { depth, mappings: 1, patient: false },
        cpus,
        starts,
        alternatives: false,
        limit: Limit { states: 8_000_000, first: true },
    };
    let mut plans = vec![plan(1, vec![35, 1], usize::MAX), plan(2, vec![35, 1], 2)];
    plans.extend((3..=depth).map(|depth| plan(depth, vec![35], 2)));
    plans
}

/// What the searches say of a kernel.
fn searched(image: &Image, layout: &Layout, plans: &[Plan]) -> Verdict {
    let mut last = Verdict::default();
    for plan in plans {
        last = judge(image, layout, plan);
        if !last.is_clean() {
            break;
        }
    }
    last
}

/// The scheme's code: the head of handle_exception(), what fences at a switch, what announces.
fn ranges(image: &Image, layout: &Layout) -> Vec<(u64, u64)> {
    let head = (layout.vector, layout.saves);
    let mut ranges = vec![head];
    ranges.extend(&layout.syncs);
    ranges.extend(layout.announce);
    ranges.retain(|(start, _)| image.contains(*start));
    ranges
}

/// Judges the mutants side by side.
fn judged(image: &Image, layout: &Layout, mutants: &[Mutant], plans: &[Plan], jobs: usize) -> Vec<Row> {
    let next = AtomicUsize::new(0);
    let work = |image: &Image, ended: &mpsc::Sender<(usize, Row)>| {
        while let Some((at, mutant)) =
            Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|at| Some((at, mutants.get(at)?)))
        {
            let started = Instant::now();
            let verdict = searched(&image.patched(mutant.address, &mutant.bytes), layout, plans);
            let killed = verdict.findings.first().map(|f| f.violation.property.to_owned());
            let row = Row {
                place: image.place(mutant.address),
                kind: mutant.kind.to_string(),
                old: mutant.old.clone(),
                new: mutant.new.clone(),
                uncertain: verdict.unknown.filter(|_| killed.is_none()),
                killed,
                why: None,
                milliseconds: started.elapsed().as_millis() as u64,
            };
            // Nobody listens after an interrupt.
            let _ = ended.send((at, row));
        }
    };
    let step = Step::start(format!("judge {} mutants", mutants.len()));
    let mut rows: Vec<(usize, Row)> = thread::scope(|scope| {
        let (ended, rows) = mpsc::channel();
        let workers: Vec<_> = (0..jobs.max(1))
            .map(|_| {
                let (image, ended, work) = (image.clone(), ended.clone(), &work);
                scope.spawn(move || work(&image, &ended))
            })
            .collect();
        drop(ended);
        let count = |(number, row): (usize, (usize, Row))| {
            step.detail(&format!("[{}/{}] {}", number + 1, mutants.len(), row.1.place));
            row
        };
        let rows = rows.into_iter().enumerate().map(count).collect();
        // A worker that panics leaves a mutant without a verdict, which is told.
        workers.into_iter().for_each(|worker| drop(worker.join()));
        rows
    });
    step.finish("done");
    rows.sort_by_key(|(at, _)| *at);
    rows.into_iter().map(|(_, row)| row).collect()
}

fn print(rows: &[Row]) {
    let mut by: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for row in rows {
        let end = match (&row.killed, &row.why, &row.uncertain) {
            // What killed a statement is the name of a scenario, and what it saw there.
            (Some(property), ..) => property.split(':').next().unwrap_or_default(),
            (None, Some(_), _) => "explained",
            (None, None, Some(_)) => "not certain",
            (None, None, None) => "survives",
        };
        *by.entry((row.kind.as_str(), end)).or_default() += 1;
    }
    let mut lines: Vec<Vec<Cell>> = vec![["mutation", "ends in", "mutants"].map(Cell::from).into()];
    lines.extend(by.into_iter().map(|((kind, end), n)| vec![kind.into(), end.into(), n.to_string().into()]));
    print!("{}", table::text(&[Align::Left, Align::Left, Align::Right], &lines, false));
    rows.iter().filter(|r| r.is_unexplained()).for_each(|row| println!("{}", row.in_words()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mutant_that_may_be_killed_has_not_survived() {
        let row = |killed: bool, uncertain: bool, why: bool| Row {
            place: String::new(),
            kind: String::new(),
            old: String::new(),
            new: String::new(),
            killed: killed.then(|| "x".to_owned()),
            uncertain: uncertain.then(|| "x".to_owned()),
            why: why.then(|| "x".to_owned()),
            milliseconds: 0,
        };
        let (killed, survives, unclear) = (row(true, false, false), row(false, false, false), row(false, true, false));
        let (explained, known) = (row(false, false, true), row(false, true, true));
        assert_eq!(exit(&[]), Exit::CouldNot);
        assert_eq!(exit(std::slice::from_ref(&killed)), Exit::Pass);
        assert_eq!(exit(&[killed, explained, known]), Exit::Pass);
        assert_eq!(exit(std::slice::from_ref(&unclear)), Exit::CouldNot);
        assert_eq!(exit(&[unclear, survives]), Exit::Failed);
    }
}
