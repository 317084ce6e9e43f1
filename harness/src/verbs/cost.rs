// SPDX-License-Identifier: GPL-2.0-only
//! `lazymap cost`: what the series costs in instructions, counted by a plugin in QEMU, compared with
//! `harness/cost.toml`.
//!
//! Both kernels of the demo boot and run a few tests that cause what is counted. The plugin,
//! `harness/cost-plugin`, counts the instructions of traps, context switches and announcements of new
//! mappings; [`PATHS`] says which of them belong to which line of the budget. A path that was never seen
//! is an error.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::demo::Kernels;
use crate::boot::machine::Machine;
use crate::boot::models;
use crate::build::kernel::{Kernel, PREVENTIVE, SERIES};
use crate::build::workbench::Lab;
use crate::ground::error::{Error, Result};
use crate::ground::progress::Step;
use crate::ground::table::{self, Align, Cell};
use crate::ground::{cargo, cmd, files, toml_file};
use crate::hunt::symbols::Symbols;
use crate::options::Options;
use crate::trial::expect::Expect;
use crate::trial::plan::Trial;
use crate::trial::report::{self, shown};
use crate::trial::run;
use crate::trial::scenario::{self, Kind};
use crate::trial::verdict::Verdict;

/// The budget, in the repository.
const FILE: &str = "harness/cost.toml";
/// The plugin's package and library.
const PLUGIN: (&str, &str) = ("lazymap-cost-plugin", "liblazymap_cost.so");
/// Functions through which a hart disturbs others: one sends an IPI, the other calls the SBI.
const SENDS: [&str; 2] = ["imsic_ipi_send", "__sbi_ecall"];
/// A test of the tool's own, which only causes breakpoints in kernel mode.
const BREAKPOINTS: (&str, &str) = ("test-breakpoint.sh", include_str!("../boot/guest/breakpoint.sh"));
/// The bitmap of marks.
const MARKS: &str = "lazy_map_synced";
/// The scenario with the bitmap of 8 words.
const MANY: &str = "many";

/// What the plugin counted in one boot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Counts {
    traps: Vec<Trap>,
    switches: Vec<i64>,
    announces: Vec<Announce>,
}

/// How the trap entry ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Handler,
    Sret,
}

/// Traps with the same values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Trap {
    cause: u64,
    from_kernel: bool,
    kernel_address: bool,
    end: End,
    instructions: i64,
}

/// Calls of `flush_cache_vmap()` with the same values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Announce {
    marked: bool,
    stores: i64,
    sends: i64,
    times: u64,
}

/// The top bit of `scause`.
const INTERRUPT: u64 = 1 << 63;
/// Values of `scause`.
const ILLEGAL: u64 = 2;
const BREAKPOINT: u64 = 3;
const FETCH: u64 = 12;
const LOAD: u64 = 13;
const STORE: u64 = 15;

impl Counts {
    /// Reads the plugin's file.
    fn parse(text: &str) -> Result<Self, String> {
        let mut counts = Self::default();
        let mut lines = text.lines();
        if lines.next() != Some("lazymap-cost 1") {
            return Err("it does not start with `lazymap-cost 1`".to_owned());
        }
        let mut ended = false;
        for line in lines {
            if ended {
                return Err(format!("`{line}` follows its end"));
            }
            counts.add(line, &mut ended).ok_or_else(|| format!("`{line}` cannot be understood"))?;
        }
        if ended { Ok(counts) } else { Err("its end is missing".to_owned()) }
    }

    fn add(&mut self, line: &str, ended: &mut bool) -> Option<()> {
        let mut words = line.split(' ');
        let kind = words.next()?;
        let fields: BTreeMap<&str, &str> = words.map(|w| w.split_once('=')).collect::<Option<_>>()?;
        let one_of = |name: &str, yes: &str, no: &[&str]| {
            let value = *fields.get(name)?;
            if value == yes { Some(true) } else { no.contains(&value).then_some(false) }
        };
        let number = |name: &str| fields.get(name)?.parse::<u32>().ok();
        match kind {
            "trap" => self.traps.push(Trap {
                cause: u64::from_str_radix(fields.get("cause")?, 16).ok()?,
                from_kernel: one_of("from", "kernel", &["user"])?,
                kernel_address: one_of("address", "kernel", &["user"])?,
                end: if one_of("end", "sret", &["handler"])? { End::Sret } else { End::Handler },
                instructions: number("instructions")?.into(),
            }),
            "switch" => self.switches.push(number("instructions")?.into()),
            "announce" => self.announces.push(Announce {
                marked: one_of("marked", "yes", &["no", "unknown"])?,
                stores: number("stores")?.into(),
                sends: number("sends")?.into(),
                times: number("times")?.into(),
            }),
            "end" => {
                number("cut-short")?;
                *ended = true;
            }
            _ => return None,
        }
        Some(())
    }
}

/// The counts of the kernels to compare.
struct Pair<'a> {
    /// The kernel that flushes every hart.
    before: &'a Counts,
    /// The kernel with the series.
    after: &'a Counts,
}

/// A line of the budget.
struct Counted {
    /// Its key in the file.
    key: &'static str,
    /// Its name in the table.
    title: &'static str,
    /// Computes the count, or says why there is none.
    count: fn(&Pair<'_>) -> Result<i64, String>,
}

/// All lines of the budget.
const PATHS: [Counted; 10] = [
    Counted {
        key: "interrupt",
        title: "interrupt from kernel mode, added",
        count: |pair| pair.added(|trap| trap.from_kernel && trap.cause & INTERRUPT != 0),
    },
    Counted {
        key: "user-address",
        title: "kernel-mode fault on a user address, added",
        count: |pair| pair.added(|t| t.from_kernel && !t.kernel_address && [FETCH, LOAD, STORE].contains(&t.cause)),
    },
    Counted {
        key: "breakpoint",
        title: "kernel-mode ebreak or illegal instruction, added",
        count: |pair| pair.added(|trap| trap.from_kernel && [ILLEGAL, BREAKPOINT].contains(&trap.cause)),
    },
    Counted { key: "absorbed-load", title: "spurious load fault absorbed", count: |pair| pair.absorbed(LOAD) },
    Counted { key: "absorbed-store", title: "spurious store fault absorbed", count: |pair| pair.absorbed(STORE) },
    Counted { key: "absorbed-fetch", title: "spurious fetch fault absorbed", count: |pair| pair.absorbed(FETCH) },
    Counted { key: "user", title: "trap from user mode, added", count: |pair| pair.added(|trap| !trap.from_kernel) },
    Counted { key: "switch", title: "switch to a task that ran here before, added", count: |pair| pair.switched() },
    Counted { key: ANNOUNCE, title: "stores of a flush_cache_vmap(), every hart marked", count: |pair| pair.stored() },
    Counted { key: "disturb", title: "remote fences and IPIs per new mapping", count: |pair| pair.disturbed() },
];

/// The line that is counted for both bitmaps.
const ANNOUNCE: &str = "announce";

impl Pair<'_> {
    /// What the series adds to traps for which a handler is called: for each cause, the longest trap with
    /// the series minus the shortest without it; the maximum over all causes.
    fn added(&self, select: impl Fn(&Trap) -> bool) -> Result<i64, String> {
        let lengths = |counts: &Counts| -> BTreeMap<u64, BTreeSet<i64>> {
            let mut lengths: BTreeMap<u64, BTreeSet<i64>> = BTreeMap::new();
            for trap in counts.traps.iter().filter(|t| t.end == End::Handler && select(t)) {
                lengths.entry(trap.cause).or_default().insert(trap.instructions);
            }
            lengths
        };
        let (before, after) = (lengths(self.before), lengths(self.after));
        for (kernel, lengths) in [(PREVENTIVE, &before), (SERIES, &after)] {
            if lengths.is_empty() {
                return Err(format!("never seen with the kernel {kernel}"));
            }
        }
        let both = after.iter().filter_map(|(cause, after)| Some(after.last()? - before.get(cause)?.first()?));
        both.max().ok_or_else(|| format!("the kernels {PREVENTIVE} and {SERIES} have no trap cause in common"))
    }

    /// The longest spurious fault that ends in the trap entry.
    fn absorbed(&self, cause: u64) -> Result<i64, String> {
        let such = |t: &&Trap| t.end == End::Sret && t.from_kernel && t.kernel_address && t.cause == cause;
        let longest = self.after.traps.iter().filter(such).map(|t| t.instructions).max();
        longest.ok_or_else(|| format!("never seen with the kernel {SERIES}"))
    }

    /// What the series adds to a context switch: the difference of the shortest ones, because with the
    /// series the longer ones are switches to tasks that are new to the hart.
    fn switched(&self) -> Result<i64, String> {
        let shortest = |kernel: &str, counts: &Counts| {
            counts.switches.iter().min().copied().ok_or_else(|| format!("never seen with the kernel {kernel}"))
        };
        Ok(shortest(SERIES, self.after)? - shortest(PREVENTIVE, self.before)?)
    }

    /// The most frequent number of stores of an announcement that found every hart marked. (Another hart
    /// may unmark itself during the announcement, which is a different case.)
    fn stored(&self) -> Result<i64, String> {
        let mut times: BTreeMap<i64, u64> = BTreeMap::new();
        for announce in self.after.announces.iter().filter(|a| a.marked) {
            *times.entry(announce.stores).or_default() += announce.times;
        }
        let most = times.iter().max_by_key(|(stores, times)| (**times, **stores));
        most.map(|(stores, _)| *stores).ok_or_else(|| format!("never seen with the kernel {SERIES}"))
    }

    /// The most times that an announcement disturbed other harts. The kernel that flushes
    /// every hart must do that, or the wrong functions are being watched.
    fn disturbed(&self) -> Result<i64, String> {
        let most = |counts: &Counts| counts.announces.iter().map(|a| a.sends).max();
        match (most(self.before), most(self.after)) {
            (Some(1..), Some(sends)) => Ok(sends),
            (Some(_), Some(_)) => {
                Err(format!("the kernel {PREVENTIVE} disturbs nobody, so the wrong functions are watched"))
            }
            (None, _) => Err(format!("never seen with the kernel {PREVENTIVE}")),
            (_, None) => Err(format!("never seen with the kernel {SERIES}")),
        }
    }
}

/// A path in the file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Figure {
    mainline: String,
    budget: u32,
}

/// `harness/cost.toml`: what each path may cost, by name.
#[derive(Clone, Debug)]
pub struct Budget(BTreeMap<String, Figure>);

impl Budget {
    /// Reads the file in the repository `root`.
    ///
    /// # Errors
    /// When it cannot be read (exit code 2), or does not have exactly the known paths (64).
    pub fn load(root: &Path) -> Result<Self> {
        let file = root.join(FILE);
        let text = files::read_text(&file)?;
        parse_budget(&text).map(Self).map_err(|why| Error::usage(format!("{FILE}{why}; correct the file")))
    }
}

fn parse_budget(text: &str) -> Result<BTreeMap<String, Figure>, String> {
    let budget: BTreeMap<String, Figure> = toml_file::parse(text)?;
    if let Some(key) = budget.keys().find(|key| PATHS.iter().all(|path| path.key != **key)) {
        return Err(format!(": unknown path `{key}`"));
    }
    match PATHS.iter().find(|path| !budget.contains_key(path.key)) {
        Some(path) => Err(format!(": the path `{}` is missing", path.key)),
        None => Ok(budget),
    }
}

/// A path and its count.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Its name in the table.
    pub path: String,
    /// Mainline's figure.
    pub mainline: String,
    /// The most that may be counted.
    pub budget: u32,
    /// What was counted.
    pub counted: Option<i64>,
    /// Whether that is within the budget.
    pub verdict: Verdict,
    /// Why there is no count.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub why: String,
}

impl Row {
    fn new(path: &Counted, figure: &Figure, counted: Result<i64, String>) -> Self {
        let verdict = match &counted {
            Ok(count) if *count <= i64::from(figure.budget) => Verdict::Pass,
            Ok(_) => Verdict::Fail,
            Err(_) => Verdict::Error,
        };
        let (counted, why) = match counted {
            Ok(count) => (Some(count), String::new()),
            Err(why) => (None, why),
        };
        let (path, mainline) = (path.title.to_owned(), figure.mainline.clone());
        Self { path, mainline, budget: figure.budget, counted, verdict, why }
    }

    /// What is wrong with it, in a line.
    pub fn problem(&self) -> String {
        match self.counted {
            Some(count) => format!("{count}, and the budget is {}", self.budget),
            None => self.why.clone(),
        }
    }
}

/// The counts of a boot, or why it has none.
type Boot = Result<Counts, String>;

/// Compares counts with the budget.
fn judge(budget: &BTreeMap<String, Figure>, before: &Boot, after: &Boot) -> Vec<Row> {
    let count = |path: &Counted| match (before, after) {
        (Ok(before), Ok(after)) => (path.count)(&Pair { before, after }),
        (Err(why), _) | (_, Err(why)) => Err(why.clone()),
    };
    let figures = PATHS.iter().filter_map(|path| Some((path, budget.get(path.key)?)));
    figures.map(|(path, figure)| Row::new(path, figure, count(path))).collect()
}

/// Boots both kernels with the plugin, prints the table, and writes `out/cost/results.json`. `full`
/// adds a kernel whose bitmap has several words, which takes minutes.
///
/// # Errors
/// When the budget is wrong (exit code 64), or something cannot be built or written. Problems with
/// a boot are in the rows.
pub fn run(lab: &mut Lab, kernels: &Kernels, full: bool) -> Result<Vec<Row>> {
    let Budget(budget) = Budget::load(&lab.options.root)?;
    let library = build_plugin(&lab.options)?;
    let folder = lab.options.place("cost");
    report::start(&folder)?;
    let counter = Counter { library: &library, folder: &folder };

    let tests = |tests: &[&str], expect: Expect| -> Vec<(String, Expect)> {
        tests.iter().map(|test| ((*test).to_owned(), expect.clone())).collect()
    };
    // Absorbed faults need a machine that causes some.
    let (plain, stale) = (Machine::new(models::find("plain")?), Machine::new(models::find("stale")?));
    let before = tests(&["test-ipi.sh", BREAKPOINTS.0], Expect::Pass);
    let mut after = tests(&["test-ipi.sh", "test-text.sh"], Expect::Survive);
    after.extend(tests(&[BREAKPOINTS.0], Expect::Pass));
    let mut boots = Vec::new();
    for trial in [Trial::new(PREVENTIVE, plain, before), Trial::new(SERIES, stale, after)] {
        let kernel = kernels.named(&trial.kernel).cloned();
        boots.push(counter.boot(lab, trial, kernel));
    }
    let mut rows = judge(&budget, &boots[0], &boots[1]);
    if full && let Some(path) = PATHS.iter().find(|path| path.key == ANNOUNCE) {
        let many = many(lab, &counter)?;
        let counted = many.and_then(|after| (path.count)(&Pair { before: &Counts::default(), after: &after }));
        let mut row = Row::new(path, &budget[path.key], counted);
        row.path.push_str(", NR_CPUS=512");
        rows.push(row);
    }
    files::write_json(&folder.join("results.json"), &rows)?;
    println!("\n{}", rows_table(&rows));
    println!("Consoles and counts: {}", shown(&lab.options.root, &folder));
    Ok(rows)
}

/// The boot of the kernel with a bitmap of several words.
fn many(lab: &mut Lab, counter: &Counter<'_>) -> Result<Boot> {
    let missing = || Error::could_not(format!("there is no scenario `{MANY}` that boots"));
    let scenario = scenario::load(&lab.options.root)?.remove(MANY).ok_or_else(missing)?;
    let Kind::Boot(trial) = scenario.kind else { return Err(missing()) };
    let mut trial = *trial;
    trial.tests.retain(|(test, _)| test == "test-ipi.sh");
    // With icount and so many harts QEMU 10.0.13 fails an assertion in qemu_plugin_scoreboard_find().
    // Without icount the harts wait for the host's CPUs.
    trial.machine.icount = false;
    trial.append += " rcupdate.rcu_cpu_stall_timeout=300";
    let kernel = lab.kernel(&scenario.config);
    Ok(counter.boot(lab, trial, kernel))
}

/// Boots with the plugin.
struct Counter<'a> {
    library: &'a Path,
    folder: &'a Path,
}

impl Counter<'_> {
    /// Runs a trial, and reads what the plugin counted.
    fn boot(&self, lab: &Lab, mut trial: Trial, kernel: Result<Kernel>) -> Boot {
        let out = self.folder.join(format!("{}.counts", trial.name));
        let booted = kernel.and_then(|mut kernel| {
            files::remove(&out)?;
            kernel.selftests = self.tests(&kernel.selftests)?;
            trial.plugin = Some(self.argument(&kernel, &out)?);
            Ok(run::run(&lab.bench, &trial, Ok(&kernel), self.folder))
        });
        let done = booted.map_err(|error| error.message)?;
        if let Some(report) = done.report {
            println!("{report}");
        }
        if let Some(row) = done.rows.iter().find(|row| row.verdict != Verdict::Pass) {
            return Err(format!("{} on {}: {}: {}", row.kernel, row.machine, row.test, row.observed));
        }
        let text = files::read_text(&out).map_err(|e| e.message)?;
        Counts::parse(&text).map_err(|why| format!("{}: {why}", shown(&lab.options.root, &out)))
    }

    /// A folder with the tests in `selftests` and the tool's own.
    fn tests(&self, selftests: &Path) -> Result<PathBuf> {
        let all = self.folder.join("tests");
        files::remove(&all)?;
        files::copy_tree(selftests, &all)?;
        let own = all.join(BREAKPOINTS.0);
        files::write_whole(&own, BREAKPOINTS.1)?;
        files::make_executable(&own)?;
        Ok(all)
    }

    /// QEMU's `-plugin` for a kernel.
    fn argument(&self, kernel: &Kernel, out: &Path) -> Result<String> {
        let symbols = Symbols::load(&kernel.vmlinux)?;
        let mut words = vec![format!("file={}", self.library.display())];
        for (name, symbol) in
            [("entry", "handle_exception"), ("switch", "__schedule"), ("announce", "flush_cache_vmap")]
        {
            let (start, size) = named(&symbols, kernel, symbol)?;
            words.push(format!("{name}={start:x}:{:x}", start + size));
        }
        words.push(format!("switched={:x}", named(&symbols, kernel, "__switch_to")?.0));
        if let Some((start, size)) = symbols.named(MARKS) {
            words.push(format!("marks={start:x}:{:x}", start + size));
        }
        let sends = SENDS.iter().map(|symbol| Ok(format!("{:x}", named(&symbols, kernel, symbol)?.0)));
        words.push(format!("sends={}", sends.collect::<Result<Vec<_>>>()?.join("+")));
        words.push(format!("out={}", out.display()));
        Ok(words.iter().map(|word| cmd::option_value(word)).collect::<Vec<_>>().join(","))
    }
}

/// Builds the plugin, if cargo finds that needed.
///
/// # Errors
/// When it cannot be built.
pub(super) fn build_plugin(options: &Options) -> Result<PathBuf> {
    let target = options.out.join("harness");
    let mut build = cargo::cargo("build");
    build.args(["--release", "--locked", "--package", PLUGIN.0, "--manifest-path"]);
    build.arg(options.root.join("harness/Cargo.toml")).arg("--target-dir").arg(&target);
    let step = Step::start("build the plugin");
    cmd::logged(&mut build, &options.out.join("log/cost-plugin.log"), &step)?;
    step.finish("done");
    Ok(target.join("release").join(PLUGIN.1))
}

/// Address and size of a symbol of `kernel`.
///
/// # Errors
/// When it has none of that name.
pub(super) fn named(symbols: &Symbols, kernel: &Kernel, name: &str) -> Result<(u64, u64)> {
    let found = symbols.named(name);
    found.ok_or_else(|| Error::could_not(format!("{} has no symbol {name}", kernel.vmlinux.display())))
}

/// The rows as a table.
fn rows_table(rows: &[Row]) -> String {
    use Align::{Left, Right};
    let mut lines: Vec<Vec<Cell>> =
        vec![["path", "mainline 7.3", "budget", "counted", "verdict"].map(Cell::from).into()];
    for row in rows {
        let counted = row.counted.map_or_else(|| "-".to_owned(), |count| count.to_string());
        let why = if row.why.is_empty() { String::new() } else { format!(": {}", row.why) };
        lines.push(vec![
            row.path.as_str().into(),
            row.mainline.as_str().into(),
            row.budget.to_string().into(),
            counted.into(),
            format!("{}{why}", row.verdict.name()).into(),
        ]);
    }
    table::text(&[Left, Right, Right, Right, Left], &lines, false)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const BEFORE: &str = "\
lazymap-cost 1
trap cause=2 from=user address=user end=handler instructions=60 times=1
trap cause=3 from=kernel address=kernel end=handler instructions=70 times=40
trap cause=8 from=user address=user end=handler instructions=66 times=900
trap cause=c from=user address=user end=handler instructions=66 times=9
trap cause=d from=kernel address=user end=handler instructions=70 times=7
trap cause=8000000000000005 from=kernel address=user end=handler instructions=64 times=100
switch instructions=50 times=300
announce marked=unknown instructions=9 stores=0 sends=0 times=4
announce marked=unknown instructions=9 stores=0 sends=3 times=12
end cut-short=0
";
    const AFTER: &str = "\
lazymap-cost 1
trap cause=3 from=kernel address=kernel end=handler instructions=75 times=40
trap cause=8 from=user address=user end=handler instructions=66 times=900
trap cause=c from=kernel address=kernel end=sret instructions=26 times=3
trap cause=c from=user address=user end=handler instructions=66 times=9
trap cause=d from=kernel address=user end=handler instructions=72 times=7
trap cause=d from=kernel address=kernel end=handler instructions=93 times=2
trap cause=d from=kernel address=kernel end=sret instructions=26 times=30
trap cause=f from=kernel address=kernel end=sret instructions=26 times=20
trap cause=8000000000000005 from=kernel address=user end=handler instructions=66 times=100
switch instructions=55 times=290
switch instructions=61 times=10
announce marked=no instructions=12 stores=1 sends=0 times=9
announce marked=yes instructions=11 stores=0 sends=0 times=50
announce marked=yes instructions=12 stores=1 sends=0 times=2
end cut-short=5
";

    fn file() -> String {
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("cost.toml")).unwrap()
    }

    /// The rows by the names of their paths, with these counts and the project's budget.
    fn rows(before: &str, after: &str) -> BTreeMap<&'static str, Row> {
        let rows = judge(&parse_budget(&file()).unwrap(), &Counts::parse(before), &Counts::parse(after));
        assert_eq!(rows.len(), PATHS.len());
        PATHS.iter().map(|path| path.key).zip(rows).collect()
    }

    /// The text without the lines that start like this.
    fn without(text: &str, start: &str) -> String {
        assert!(text.lines().any(|line| line.starts_with(start)), "{start}");
        text.lines().filter(|line| !line.starts_with(start)).map(|line| format!("{line}\n")).collect()
    }

    #[test]
    fn each_path_is_counted_from_what_belongs_to_it() {
        let rows = rows(BEFORE, AFTER);
        let counted = |key: &str| rows[key].counted;
        assert_eq!([counted("interrupt"), counted("user-address"), counted("breakpoint")], [Some(2), Some(2), Some(5)]);
        assert_eq!(["absorbed-load", "absorbed-store", "absorbed-fetch"].map(counted), [Some(26); 3]);
        assert_eq!([counted("user"), counted("switch")], [Some(0), Some(5)]);
        assert_eq!([counted("announce"), counted("disturb")], [Some(0), Some(0)]);
        assert!(rows.values().all(|row| row.verdict == Verdict::Pass));
    }

    #[test]
    fn what_is_over_the_budget_fails() {
        for (key, from, to, counted) in [
            ("interrupt", "cause=8000000000000005 from=kernel address=user end=handler instructions=66", "67", 5),
            ("user-address", "cause=d from=kernel address=user end=handler instructions=72", "75", 5),
            ("breakpoint", "cause=3 from=kernel address=kernel end=handler instructions=75", "76", 6),
            ("absorbed-load", "cause=d from=kernel address=kernel end=sret instructions=26", "27", 27),
            ("absorbed-store", "cause=f from=kernel address=kernel end=sret instructions=26", "27", 27),
            ("absorbed-fetch", "cause=c from=kernel address=kernel end=sret instructions=26", "27", 27),
            ("user", "cause=c from=user address=user end=handler instructions=66", "67", 1),
            ("switch", "switch instructions=55", "56", 6),
            ("announce", "announce marked=yes instructions=11 stores=0", "1", 1),
            ("disturb", "announce marked=no instructions=12 stores=1 sends=0", "1", 1),
        ] {
            let worse = format!("{}={to}", from.rsplit_once('=').unwrap().0);
            assert!(AFTER.contains(from), "{from}");
            // Everything of this kind gets worse, so that the shortest does, too.
            let after = match key {
                "interrupt" => AFTER.replace(from, &worse).replace("=67", "=69"),
                _ => AFTER.replace(from, &worse),
            };
            let rows = rows(BEFORE, &after);
            assert_eq!((rows[key].counted, rows[key].verdict), (Some(counted), Verdict::Fail), "{key}");
            let others = rows.iter().filter(|(other, _)| **other != key);
            assert!(others.map(|(_, row)| row.verdict).all(|verdict| verdict == Verdict::Pass), "{key}");
        }
    }

    #[test]
    fn the_longest_of_a_kind_counts() {
        let with =
            |trap: &str| rows(BEFORE, &AFTER.replace("end cut-short", &format!("{trap} times=1\nend cut-short")));
        let counted = |trap: &str| with(trap)["user-address"].counted;
        assert_eq!(counted("trap cause=d from=kernel address=user end=handler instructions=80"), Some(10));
        assert_eq!(counted("trap cause=d from=kernel address=user end=handler instructions=60"), Some(2));
        assert_eq!(counted("trap cause=d from=kernel address=user end=sret instructions=80"), Some(2));
        assert_eq!(
            with("trap cause=d from=kernel address=kernel end=sret instructions=27")["absorbed-load"].counted,
            Some(27)
        );
    }

    #[test]
    fn what_was_never_seen_is_an_error() {
        for (key, start) in [
            ("interrupt", "trap cause=8000000000000005 from=kernel"),
            ("user-address", "trap cause=d from=kernel address=user"),
            ("breakpoint", "trap cause=3 from=kernel"),
            ("user", "trap cause="),
            ("switch", "switch"),
            ("disturb", "announce"),
        ] {
            let rows = rows(&without(BEFORE, start), AFTER);
            assert_eq!((rows[key].counted, rows[key].verdict), (None, Verdict::Error), "{key}");
            assert!(rows[key].problem().contains("never seen with the kernel preventive"), "{}", rows[key].problem());
        }
        for (key, start) in [
            ("interrupt", "trap cause=8000000000000005 from=kernel"),
            ("absorbed-load", "trap cause=d from=kernel address=kernel end=sret"),
            ("absorbed-store", "trap cause=f from=kernel address=kernel end=sret"),
            ("absorbed-fetch", "trap cause=c from=kernel address=kernel end=sret"),
            ("announce", "announce marked=yes"),
            ("disturb", "announce"),
            ("switch", "switch"),
        ] {
            let rows = rows(BEFORE, &without(AFTER, start));
            assert_eq!((rows[key].counted, rows[key].verdict), (None, Verdict::Error), "{key}");
            assert!(rows[key].problem().contains("never seen with the kernel series"), "{}", rows[key].problem());
        }
        let blind = rows(&without(BEFORE, "announce marked=unknown instructions=9 stores=0 sends=3"), AFTER);
        assert_eq!(blind["disturb"].verdict, Verdict::Error);
        let apart = rows(&BEFORE.replace("cause=3 ", "cause=2 "), AFTER);
        assert_eq!(apart["breakpoint"].verdict, Verdict::Error);
    }

    #[test]
    fn counts_that_are_not_whole_are_none() {
        for (end, _) in BEFORE.match_indices('\n').take(BEFORE.lines().count() - 1) {
            assert!(Counts::parse(&BEFORE[..=end]).is_err(), "{}", &BEFORE[..end]);
        }
        for (from, to) in [
            ("lazymap-cost 1", "lazymap-cost 2"),
            ("cause=8 ", "cause=x "),
            ("from=user", "from=guest"),
            ("end=handler", "end=ret"),
            ("switch instructions=50", "switch instructions=-1"),
            ("switch ", "swap "),
            (" sends=3", ""),
            ("end cut-short=0", "end"),
            ("end cut-short=0", "end cut-short=0\nswitch instructions=1 times=1"),
        ] {
            assert!(BEFORE.contains(from));
            assert!(Counts::parse(&BEFORE.replace(from, to)).is_err(), "{to}");
        }
        let rows = judge(&parse_budget(&file()).unwrap(), &Err("no boot".to_owned()), &Counts::parse(AFTER));
        assert!(rows.iter().all(|row| row.verdict == Verdict::Error && row.problem() == "no boot"));
    }

    #[test]
    fn the_budget_names_each_path_and_no_other() {
        let file = file();
        for (from, to, word) in [
            ("[user]", "[guest]", "`guest`"),
            ("[user]\nmainline = \"0\"\nbudget = 0\n", "", "`user` is missing"),
            ("budget = 5", "budget = 5\nlimit = 5", "limit"),
            ("budget = 5", "", "budget"),
            ("budget = 5", "budget = -5", "-5"),
        ] {
            assert!(file.contains(from), "{from}");
            let error = parse_budget(&file.replace(from, to)).unwrap_err();
            assert!(error.contains(word), "{to}: {error}");
        }
    }

    #[test]
    fn the_table_says_it_all() {
        let text =
            rows_table(&rows(BEFORE, &without(AFTER, "trap cause=c from=kernel")).into_values().collect::<Vec<_>>());
        assert_eq!(text.lines().count(), PATHS.len() + 1);
        let line = text.lines().find(|line| line.starts_with("spurious fetch")).unwrap();
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(words[4..8], ["36", "26", "-", "ERROR:"], "{line}");
    }
}
