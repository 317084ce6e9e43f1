// SPDX-License-Identifier: GPL-2.0-only
//! `lazymap mutants --statements`: kernels with one C statement of the series wrong, built and booted until something
//! fails.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::mutants::{Args, FILE, Known, OTHER, Row, known};
use crate::build::kernel::{self, Config, Kernel};
use crate::build::workbench::Lab;
use crate::ground::error::{Error, Result};
use crate::ground::files;
use crate::series::statements::{self, Mutant};
use crate::trial::report::Done;
use crate::trial::run;
use crate::trial::scenario::{self, Scenario, Which};
use crate::trial::verdict::Verdict;

/// Name of the mutants' kernels. One takes the place of the other.
const KERNEL: &str = "mutant";

/// What a compiler says of code that it refuses.
const REFUSED: &str = ": error: ";

/// The files of the series that have statements, and no other judge: what is assembly, or compiled from
/// `arch-riscv/lazy_map.c`, is for `exhaust`. Tests and Rust are no part of the scheme.
fn is_judged(file: &str) -> bool {
    const ELSEWHERE: [&str; 3] = ["tools/", "rust/", "samples/"];
    let is_c = file.ends_with(".c") || file.ends_with(".h");
    is_c && !ELSEWHERE.iter().any(|folder| file.starts_with(folder)) && !file.ends_with("/mm/lazy_map.c")
}

/// A verdict, with what it is for: the tree of files of the mutant.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct Judged {
    tree: String,
    #[serde(flatten)]
    row: Row,
}

/// `out/mutants/statements.json`.
#[derive(Deserialize, Serialize)]
struct Results {
    schema: u32,
    mutants: Vec<Judged>,
}

/// Builds and boots the mutants that `args` selects.
///
/// # Errors
/// When the kernel without a mutation fails, or something cannot be built for another reason than the mutation; when
/// `harness/mutants.toml` is wrong (exit code 64).
pub fn judge_all(lab: &mut Lab, args: &Args) -> Result<Vec<Row>> {
    let known = known(&lab.options.root)?;
    let all: Vec<Mutant> = mutants(lab)?.into_iter().step_by(args.every as usize).collect();
    let mine = args.shard.share(all);
    let file = lab.options.place("mutants").join("statements.json");
    let earlier = if args.resume { read(&file)? } else { BTreeMap::new() };
    let mut sound: BTreeMap<String, ()> = BTreeMap::new();
    let mut judged: Vec<Judged> = Vec::new();
    for (number, mutant) in mine.iter().enumerate() {
        let commit = commit(lab, mutant)?;
        let tree = lab.tree.files(&commit)?;
        let row = match earlier.get(&tree) {
            Some(row) => row.clone(),
            None => {
                let scenarios = judges(lab, &known, &mutant.file)?;
                for scenario in &scenarios {
                    if sound.insert(scenario.name.clone(), ()).is_none() {
                        itself(lab, scenario)?;
                    }
                }
                judge(lab, mutant, &commit, &scenarios)?
            }
        };
        let end = row.killed.as_deref().or(row.uncertain.as_deref()).unwrap_or("survives");
        println!("[{}/{}] {}: {}: `{}`: {end}", number + 1, mine.len(), row.place, row.kind, row.old);
        judged.push(Judged { tree, row });
        write(&file, &judged)?;
    }
    let tip = lab.tip.clone();
    lab.tree.check_out(&tip)?;
    let mut rows: Vec<Row> = judged.into_iter().map(|judged| judged.row).collect();
    explain(&mut rows, &known, args)?;
    Ok(rows)
}

/// Says of survivors why they may.
fn explain(rows: &mut [Row], known: &Known, args: &Args) -> Result<()> {
    let of = |row: &Row| {
        let file = row.place.split(':').next().unwrap_or_default().to_owned();
        known.statement.iter().position(|s| (&s.file, &s.old, &s.new) == (&file, &row.old, &row.new))
    };
    let mut used = vec![false; known.statement.len()];
    for row in rows.iter_mut().filter(|row| row.killed.is_none()) {
        if let Some(at) = of(row) {
            used[at] = true;
            row.why = Some(known.statement[at].why.clone());
        }
    }
    let all = args.every == 1 && args.shard == Default::default();
    match known.statement.iter().zip(&used).find(|(_, used)| all && !**used) {
        Some((s, _)) => Err(Error::usage(format!(
            "{FILE}: no mutant of {} that changes `{}` into `{}` survives; drop it from the file",
            s.file, s.old, s.new
        ))),
        None => Ok(()),
    }
}

/// The mutants of the series, in the order of files and lines.
fn mutants(lab: &Lab) -> Result<Vec<Mutant>> {
    let (base, tip) = (lab.tree.used.commit.clone(), lab.tip.clone());
    let mut all = Vec::new();
    for file in lab.tree.changed(&base, &tip)?.iter().filter(|file| is_judged(file)) {
        let diff = lab.tree.repo.run(["diff", "-U0", "--no-renames", &base, &tip, "--", file])?;
        let text = lab.tree.repo.object("blob", &format!("{tip}:{file}"))?;
        all.extend(statements::mutants(file, &diff, &String::from_utf8_lossy(&text)));
    }
    if all.is_empty() {
        return Err(Error::could_not("the series adds no statement that is known; report this".to_owned()));
    }
    Ok(all)
}

/// The series with one file changed, as a commit.
fn commit(lab: &Lab, mutant: &Mutant) -> Result<String> {
    let repo = &lab.tree.repo;
    let index = repo.dir().join(".git/lazymap-mutant");
    let apart = repo.with("GIT_INDEX_FILE", &index);
    let blob = repo.feed(["hash-object", "-w", "--stdin"], mutant.text.as_bytes())?;
    apart.run(["read-tree", &lab.tip])?;
    apart.run(["update-index", "--cacheinfo", &format!("100644,{blob},{}", mutant.file)])?;
    let tree = apart.run(["write-tree"])?;
    files::remove(&index)?;
    let commit =
        repo.run(["commit-tree", &tree, "-p", &lab.tip, "-m", &format!("{}: {}", mutant.file, mutant.kind)])?;
    lab.tree.keep_scratch(KERNEL, &commit)?;
    Ok(commit)
}

/// The scenarios that judge a file.
fn judges(lab: &Lab, known: &Known, file: &str) -> Result<Vec<Scenario>> {
    let names = known.judges.get(file).or_else(|| known.judges.get(OTHER));
    let names = names.filter(|names| !names.is_empty());
    let names =
        names.ok_or_else(|| Error::usage(format!("{FILE}: no scenario judges {file}; name one in [judges]")))?;
    let mut found = Vec::new();
    for name in names {
        found.extend(scenario::choose(&lab.options.root, &Which::Named(vec![name.clone()]))?);
    }
    Ok(found)
}

/// Boots a kernel in a scenario.
fn boot(lab: &Lab, kernel: &Kernel, name: &str, scenario: &Scenario) -> Option<Done> {
    let mut trial = scenario.trial()?.clone();
    trial.name = format!("{name}-{}", scenario.name);
    name.clone_into(&mut trial.kernel);
    Some(run::run(&lab.bench, &trial, Ok(kernel), &lab.options.place("mutants")))
}

/// The first row that is not a pass.
fn wrong(done: &Done) -> Option<(Verdict, String)> {
    let row = done.rows.iter().find(|row| row.verdict != Verdict::Pass)?;
    // A test may pass in a boot that is not clean.
    let what = row.why.first().filter(|_| row.observed == "pass").unwrap_or(&row.observed);
    Some((row.verdict, format!("{}: {what}", row.test)))
}

/// The series itself must pass, or the failure of a mutant says nothing.
fn itself(lab: &mut Lab, scenario: &Scenario) -> Result<()> {
    let kernel = lab.kernel(&scenario.config)?;
    match boot(lab, &kernel, "series", scenario).as_ref().map(wrong) {
        Some(None) => Ok(()),
        Some(Some((_, what))) => Err(Error::could_not(format!(
            "the series itself fails in the scenario {}: {what}; see {}",
            scenario.name,
            lab.options.place("mutants").display()
        ))),
        None => Err(Error::usage(format!("{FILE}: the scenario {} boots nothing, so it cannot judge", scenario.name))),
    }
}

fn judge(lab: &mut Lab, mutant: &Mutant, commit: &str, scenarios: &[Scenario]) -> Result<Row> {
    let started = Instant::now();
    let mut row = Row {
        place: format!("{}:{}", mutant.file, mutant.line),
        kind: mutant.kind.to_string(),
        old: mutant.old.clone(),
        new: mutant.new.clone(),
        killed: None,
        uncertain: None,
        why: None,
        milliseconds: 0,
    };
    for scenario in scenarios {
        let kernel = match lab.variant(KERNEL, commit, &scenario.config) {
            Ok(kernel) => kernel,
            Err(_) if is_refused(lab, &scenario.config) => {
                row.killed = Some("the compiler".to_owned());
                break;
            }
            Err(error) => return Err(error),
        };
        match boot(lab, &kernel, KERNEL, scenario).as_ref().and_then(wrong) {
            None => {}
            Some((Verdict::Fail, what)) => {
                row.killed = Some(format!("{}: {what}", scenario.name));
                break;
            }
            Some((_, what)) => row.uncertain = Some(format!("{}: {what}", scenario.name)),
        }
    }
    if row.killed.is_some() {
        row.uncertain = None;
    }
    row.milliseconds = started.elapsed().as_millis() as u64;
    Ok(row)
}

/// Whether the last build of a mutant failed because the compiler refused it.
fn is_refused(lab: &Lab, config: &Config) -> bool {
    let name = kernel::planned(&lab.options, KERNEL, config).name;
    let log = std::fs::read(lab.options.out.join(format!("log/build-{name}.log"))).unwrap_or_default();
    String::from_utf8_lossy(&log).contains(REFUSED)
}

/// The verdicts of an earlier run, by tree.
fn read(file: &Path) -> Result<BTreeMap<String, Row>> {
    let text = match std::fs::read_to_string(file) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        text => text.map_err(|e| Error::io("read", file, e))?,
    };
    let results: Results = serde_json::from_str(&text)
        .map_err(|e| Error::usage(format!("{}: {e}; remove the file, or leave --resume out", file.display())))?;
    let certain = results.mutants.into_iter().filter(|judged| judged.row.uncertain.is_none());
    Ok(certain.map(|judged| (judged.tree, judged.row)).collect())
}

fn write(file: &Path, judged: &[Judged]) -> Result<()> {
    let json = serde_json::to_string_pretty(&Results { schema: 1, mutants: judged.to_vec() });
    files::write_whole(file, json.map_err(|e| Error::could_not(e.to_string()))? + "\n")
}
