// SPDX-License-Identifier: GPL-2.0-only
//! `lazymap mutants --statements`: kernels with one C statement of the series wrong, built and booted until something
//! fails.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::build::kernel::{self, Config, Kernel};
use crate::build::workbench::Lab;
use crate::ground::error::{Error, Result};
use crate::ground::files;
use crate::ground::shard::Shard;
use crate::series::statements::{self, Mutant};
use crate::trial::mutants::{FILE, Known, OTHER, Row, all_needed, explain, known};
use crate::trial::report::{self, Done};
use crate::trial::run;
use crate::trial::scenario::{self, Scenario, Which};
use crate::trial::verdict::Verdict;

/// Name of the mutants' kernels. Each replaces the one before.
const KERNEL: &str = "mutant";

/// What to judge.
#[derive(Clone, Copy, Debug)]
pub struct Selected {
    pub shard: Shard,
    /// Only every N-th mutant.
    pub every: u32,
    /// Keep the verdicts of an earlier run.
    pub resume: bool,
}

/// Whether a file has C statements that nothing else judges: `exhaust` covers assembly and lazy_map.c; tests and Rust
/// are not part of the scheme.
fn is_judged(file: &str) -> bool {
    const ELSEWHERE: [&str; 3] = ["tools/", "rust/", "samples/"];
    let is_c = file.ends_with(".c") || file.ends_with(".h");
    is_c && !ELSEWHERE.iter().any(|folder| file.starts_with(folder)) && !file.ends_with("/mm/lazy_map.c")
}

/// A verdict, and what it is for.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct Judged {
    /// The git tree of the mutant.
    tree: String,
    /// The scenarios that judge it.
    judges: Vec<String>,
    #[serde(flatten)]
    row: Row,
}

/// `out/mutants/statements.json`.
#[derive(Default, Deserialize, Serialize)]
struct Results {
    schema: u32,
    mutants: Vec<Judged>,
}

/// Builds and boots the selected mutants. Leaves the series checked out.
///
/// # Errors
/// When the kernel without a mutation fails, or something cannot be built for another reason than the mutation; when
/// `harness/mutants.toml` is wrong (exit code 64).
pub fn judge_all(lab: &mut Lab, selected: &Selected) -> Result<Vec<Row>> {
    let known = known(&lab.options.root)?;
    let judged = judge_selected(lab, selected, &known);
    let tip = lab.tip.clone();
    lab.tree.check_out(&tip)?;
    let mut rows = judged?;
    explain(&mut rows, &known.statement);
    if selected.every == 1 && selected.shard == Shard::default() {
        all_needed(&rows, &known.statement)?;
    }
    Ok(rows)
}

fn judge_selected(lab: &mut Lab, selected: &Selected, known: &Known) -> Result<Vec<Row>> {
    let all: Vec<Mutant> = mutants(lab)?.into_iter().step_by(selected.every as usize).collect();
    let mine = selected.shard.share(all);
    let file = lab.options.place("mutants").join("statements.json");
    let mut kept = if selected.resume { read(&file)? } else { Vec::new() };
    let mut sound = BTreeSet::new();
    let mut rows = Vec::new();
    for (number, mutant) in mine.iter().enumerate() {
        let commit = commit(lab, mutant)?;
        let tree = lab.tree.files(&commit)?;
        let scenarios = judges(lab, known, &mutant.file)?;
        let judges: Vec<String> = scenarios.iter().map(|scenario| scenario.name.clone()).collect();
        let earlier = kept.iter().find(|judged| judged.tree == tree && judged.judges == judges);
        let row = match earlier.filter(|judged| judged.row.uncertain.is_none()) {
            Some(judged) => judged.row.clone(),
            None => {
                for scenario in &scenarios {
                    if sound.insert(scenario.name.clone()) {
                        itself(lab, scenario)?;
                    }
                }
                judge(lab, mutant, &commit, &scenarios)?
            }
        };
        let end = row.killed.as_deref().or(row.uncertain.as_deref()).unwrap_or("survives");
        println!("[{}/{}] {}: {}: `{}`: {end}", number + 1, mine.len(), row.place, row.kind, row.old);
        kept.retain(|judged| judged.tree != tree);
        kept.push(Judged { tree, judges, row: row.clone() });
        write(&file, &kept)?;
        rows.push(row);
    }
    Ok(rows)
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

/// The first report of the kernel decides. Without this, the tests after it wait for a hart that stalls, each until its
/// limit.
const REPORTS_END_IT: &str = " panic_on_warn=1 sysctl.kernel.panic_on_rcu_stall=1";

/// Boots a kernel in a scenario.
fn boot(lab: &Lab, kernel: &Kernel, name: &str, scenario: &Scenario) -> Option<Done> {
    let mut trial = scenario.trial()?.clone();
    trial.name = format!("{name}-{}", scenario.name);
    name.clone_into(&mut trial.kernel);
    trial.append += REPORTS_END_IT;
    Some(run::run(&lab.bench, &trial, Ok(kernel), &lab.options.place("mutants")))
}

/// What is not a pass: a failure before anything else.
fn wrong(rows: &[report::Row]) -> Option<(Verdict, String)> {
    let failed = rows.iter().find(|row| row.verdict == Verdict::Fail);
    let row = failed.or_else(|| rows.iter().find(|row| row.verdict != Verdict::Pass))?;
    // A test may pass in a boot that is not clean.
    let what = row.why.first().filter(|_| row.observed == "pass").unwrap_or(&row.observed);
    Some((row.verdict, format!("{}: {what}", row.test)))
}

/// The series itself must pass, or the failure of a mutant says nothing.
fn itself(lab: &mut Lab, scenario: &Scenario) -> Result<()> {
    let kernel = lab.kernel(&scenario.config)?;
    match boot(lab, &kernel, "series", scenario).as_ref().map(|done| wrong(&done.rows)) {
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
        // What fails from here on is the mutant.
        let tests = lab.kernel(&scenario.config)?.selftests;
        let log = log_of_build(lab, &scenario.config);
        files::remove(&log)?;
        let kernel = match lab.variant(KERNEL, commit, &scenario.config, &tests) {
            Ok(kernel) => kernel,
            Err(_) if is_refused(&std::fs::read(&log).unwrap_or_default()) => {
                row.killed = Some("the compiler".to_owned());
                break;
            }
            Err(error) => return Err(error),
        };
        match boot(lab, &kernel, KERNEL, scenario).as_ref().and_then(|done| wrong(&done.rows)) {
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

/// The log of the last build of a mutant.
fn log_of_build(lab: &Lab, config: &Config) -> PathBuf {
    let name = kernel::planned(&lab.options, KERNEL, config).name;
    lab.options.out.join(format!("log/build-{name}.log"))
}

/// Whether a build failed because the compiler refused a line, or the linker misses a symbol.
fn is_refused(log: &[u8]) -> bool {
    String::from_utf8_lossy(log).lines().any(|line| {
        let at = line.split_once(": error: ").map(|(at, _)| at);
        // FILE:LINE:COLUMN
        let is_line = at.is_some_and(|at| at.rsplit(':').take(2).all(|n| !n.is_empty() && n.parse::<u32>().is_ok()));
        is_line || line.contains("error: undefined symbol: ")
    })
}

/// The verdicts of an earlier run.
fn read(file: &Path) -> Result<Vec<Judged>> {
    let text = match std::fs::read_to_string(file) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        text => text.map_err(|e| Error::io("read", file, e))?,
    };
    let results: Results = serde_json::from_str(&text)
        .map_err(|e| Error::usage(format!("{}: {e}; remove the file, or leave --resume out", file.display())))?;
    Ok(results.mutants)
}

fn write(file: &Path, judged: &[Judged]) -> Result<()> {
    files::write_json(file, &Results { schema: 1, mutants: judged.to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_compiler_kills_without_a_boot() {
        assert!(is_refused(b"x\n../a/b.h:25:3: error: call to undeclared function 'f'\n"));
        assert!(is_refused(b"ld.lld: error: undefined symbol: f\n"));
        for other in [
            "clang: error: unable to execute command: Killed",
            "make: *** Error 2",
            "",
            "a.c:1:2: warning: x",
            "error: x",
        ] {
            assert!(!is_refused(other.as_bytes()), "{other}");
        }
    }

    #[test]
    fn a_failure_counts_before_what_is_not_certain() {
        let row = |test: &str, verdict, observed: &str, why: &[&str]| report::Row {
            scenario: None,
            kernel: "mutant".to_owned(),
            machine: "stale".to_owned(),
            harts: 4,
            test: test.to_owned(),
            expected: "pass".to_owned(),
            observed: observed.to_owned(),
            verdict,
            stale_hits: None,
            seconds: 0.0,
            console: String::new(),
            why: why.iter().map(|&line| line.to_owned()).collect(),
            repeat: None,
            cases: Vec::new(),
        };
        let of = |rows: Vec<report::Row>| wrong(&rows);
        let pass = || row("a.sh", Verdict::Pass, "pass", &[]);
        assert_eq!(of(vec![pass(), pass()]), None);
        assert_eq!(of(Vec::new()), None);
        let hang = || row("b.sh", Verdict::Error, "hang", &["silent for 60 s"]);
        assert_eq!(of(vec![pass(), hang()]), Some((Verdict::Error, "b.sh: hang".to_owned())));
        let oops = || row("c.sh", Verdict::Fail, "oops: NULL", &["line 3"]);
        assert_eq!(of(vec![pass(), hang(), oops()]), Some((Verdict::Fail, "c.sh: oops: NULL".to_owned())));
        // The test passed, and the boot was not clean.
        let unclean = row("d.sh", Verdict::Fail, "pass", &["line 7: WARNING"]);
        assert_eq!(of(vec![unclean]), Some((Verdict::Fail, "d.sh: line 7: WARNING".to_owned())));
    }

    #[test]
    fn files_of_the_kernel_are_judged() {
        assert!(is_judged("arch/riscv/kernel/sbi.c") && is_judged("arch/riscv/include/asm/kfence.h"));
        for other in ["arch/riscv/kernel/entry.S", "arch/riscv/mm/lazy_map.c", "tools/testing/x.c", "rust/helpers/x.c"]
        {
            assert!(!is_judged(other), "{other}");
        }
    }
}
