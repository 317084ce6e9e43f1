// SPDX-License-Identifier: GPL-2.0-only
//! What a boot counted, in each of its workloads: the plugin's file, and what the guest printed.

use std::collections::BTreeMap;

/// The workloads: their numbers in `workloads.c`, their names, and how test_vmalloc calls those that it
/// runs.
pub const WORKLOADS: [(u32, &str, Option<&str>); 10] = [
    (1, "none", None),
    (2, "bpf-maps", None),
    (3, "fork", None),
    (4, "exec", None),
    (5, "module", None),
    (6, "fix-size", Some("fix_size_alloc_test")),
    (7, "full-fit", Some("full_fit_alloc_test")),
    (8, "busy-list", Some("long_busy_list_alloc_test")),
    (9, "vm-map-ram", Some("vm_map_ram_test")),
    (10, "erofs", None),
];
/// Workloads that are left out if they would take too long.
const LONG: [&str; 2] = ["full-fit", "busy-list"];

/// The workloads of a boot, with or without the long ones.
pub fn workloads(long: bool) -> impl Iterator<Item = (u32, &'static str, Option<&'static str>)> {
    WORKLOADS.into_iter().filter(move |(_, name, _)| long || !LONG.contains(name))
}

/// What a hart did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hart {
    /// Executed `sfence.vma` and `sinval.vma`.
    pub fences: u64,
    /// Faults that were retried after a fence.
    pub absorbed: u64,
    /// New mappings that it announced.
    pub announcements: u64,
    /// Interrupts of other harts.
    pub ipis: u64,
    /// Fences of other harts that it asked the firmware for.
    pub remote_fences: u64,
    /// Tasks that it started.
    pub new_tasks: u64,
    /// Tasks that it moved to another hart.
    pub migrations: u64,
}

/// A workload in a boot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Phase {
    /// How many things it did.
    pub amount: u64,
    /// How long that took by the guest's clock.
    pub nanoseconds: u64,
    /// Instructions of all harts.
    pub instructions: u64,
    /// Each hart.
    pub harts: Vec<Hart>,
}

/// All workloads of a boot, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// The workloads.
    pub phases: BTreeMap<&'static str, Phase>,
    /// What all harts did from the reset to the end.
    pub total: Hart,
}

impl Counts {
    /// Reads the plugin's file, the guest's notes, and the lines of the console.
    ///
    /// # Errors
    /// When something is missing, twice there, or not as it has to be.
    pub fn read<'a>(
        file: &str,
        notes: &[&str],
        console: impl Iterator<Item = &'a str>,
        harts: u32,
        long: bool,
    ) -> Result<Self, String> {
        let mut counts = counted(file)?;
        let mut told =
            notes.iter().filter_map(|note| note.strip_prefix("phase ")).map(told).collect::<Result<_, _>>()?;
        let tested: Vec<(&str, u64)> = console.filter_map(tested).collect::<Result<_, _>>()?;
        let mut phases = BTreeMap::new();
        for (number, name, test) in workloads(long) {
            let mut phase = counts.phases.remove(&number).ok_or_else(|| format!("{name} was not counted"))?;
            if phase.harts.len() != harts as usize {
                return Err(format!("{name} has {} harts of {harts}", phase.harts.len()));
            }
            (phase.amount, phase.nanoseconds) = once(&mut told, number, name)?;
            if let Some(test) = test {
                let mut found = tested.iter().filter(|(name, _)| *name == test);
                phase.nanoseconds = match (found.next(), found.next()) {
                    (Some((_, nanoseconds)), None) => *nanoseconds,
                    _ => return Err(format!("test_vmalloc did not report {test} once")),
                };
            }
            phases.insert(name, phase);
        }
        match (counts.phases.keys().next(), told.first()) {
            (None, None) => Ok(Self { phases, total: counts.total }),
            (number, told) => Err(format!("an unknown phase {:?}", number.or(told.map(|(number, _)| number)))),
        }
    }
}

/// Takes what the guest told of a phase.
fn once(told: &mut Vec<(u32, (u64, u64))>, number: u32, name: &str) -> Result<(u64, u64), String> {
    let at = told.iter().position(|(n, _)| *n == number).ok_or_else(|| format!("the guest does not report {name}"))?;
    Ok(told.swap_remove(at).1)
}

/// `2 bpf-maps amount 600 ns 123`: number, amount, nanoseconds.
fn told(note: &str) -> Result<(u32, (u64, u64)), String> {
    let words: Vec<&str> = note.split(' ').collect();
    let read = || match words[..] {
        [number, name, "amount", amount, "ns", nanoseconds] => {
            let number = number.parse().ok()?;
            let known = WORKLOADS.iter().any(|(n, known, _)| *n == number && *known == name);
            known.then_some((number, (amount.parse().ok()?, nanoseconds.parse().ok()?)))
        }
        _ => None,
    };
    read().ok_or_else(|| format!("the guest's line `phase {note}` cannot be understood"))
}

/// What test_vmalloc reports of a test: its name and the nanoseconds that it took.
fn tested(line: &str) -> Option<Result<(&str, u64), String>> {
    let rest = line.strip_prefix("Summary: ")?;
    let words: Vec<&str> = rest.split_whitespace().collect();
    let after = |name: &str| words.iter().position(|word| *word == name).and_then(|at| words.get(at + 1)).copied();
    let read = || {
        let microseconds: u64 = after("avg:")?.parse().ok()?;
        let passed = (after("passed:")?, after("failed:")?, after("xfailed:")?) == ("1", "0", "0");
        passed.then_some((*words.first()?, microseconds * 1000))
    };
    Some(read().ok_or_else(|| format!("test_vmalloc: {line}")))
}

/// The plugin's file.
struct Counted {
    phases: BTreeMap<u32, Phase>,
    total: Hart,
}

fn counted(file: &str) -> Result<Counted, String> {
    let mut lines = file.lines();
    if lines.next() != Some("lazymap-phases 1") {
        return Err("the plugin's file does not start with `lazymap-phases 1`".to_owned());
    }
    let mut counted = Counted { phases: BTreeMap::new(), total: Hart::default() };
    for line in lines.by_ref() {
        if line == "end" {
            return match lines.next() {
                None => Ok(counted),
                Some(line) => Err(format!("the plugin's line `{line}` follows its end")),
            };
        }
        if let Some(why) = line.strip_prefix("wrong ") {
            return Err(why.to_owned());
        }
        add(&mut counted, line).ok_or_else(|| format!("the plugin's line `{line}` cannot be understood"))?;
    }
    Err("the end of the plugin's file is missing".to_owned())
}

fn add(counted: &mut Counted, line: &str) -> Option<()> {
    let (what, rest) = line.split_once(' ')?;
    let fields: BTreeMap<&str, u64> = rest
        .split(' ')
        .map(|w| w.split_once('=').and_then(|(n, v)| Some((n, v.parse().ok()?))))
        .collect::<Option<_>>()?;
    let phase = what.strip_prefix("phase=").map(|number| number.parse::<u32>().ok());
    if !(what == "total" || matches!(phase, Some(Some(_)))) {
        return None;
    }
    let phase = phase.flatten();
    if let Some(&instructions) = fields.get("instructions") {
        // A number that comes twice is a workload that ran twice.
        let new = phase.is_none_or(|number| {
            let phase = Phase { instructions, ..Phase::default() };
            counted.phases.insert(number, phase).is_none()
        });
        return new.then_some(());
    }
    let field = |name: &str| fields.get(name).copied();
    let hart = Hart {
        fences: field("fences")?,
        absorbed: field("absorbed")?,
        announcements: field("announcements")?,
        ipis: field("ipis")?,
        remote_fences: field("remote-fences")?,
        new_tasks: field("new-tasks")?,
        migrations: field("migrations")?,
    };
    match phase {
        Some(number) => {
            let harts = &mut counted.phases.get_mut(&number)?.harts;
            (field("hart")? == harts.len() as u64).then(|| harts.push(hart))
        }
        None => {
            counted.total = counted.total.plus(&hart);
            Some(())
        }
    }
}

impl Hart {
    /// The sum of both.
    pub fn plus(&self, other: &Self) -> Self {
        Self {
            fences: self.fences + other.fences,
            absorbed: self.absorbed + other.absorbed,
            announcements: self.announcements + other.announcements,
            ipis: self.ipis + other.ipis,
            remote_fences: self.remote_fences + other.remote_fences,
            new_tasks: self.new_tasks + other.new_tasks,
            migrations: self.migrations + other.migrations,
        }
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A line of the plugin's for a hart.
    fn hart(what: &str, number: u32, fences: u64, announcements: u64) -> String {
        format!(
            "{what} hart={number} fences={fences} absorbed=1 announcements={announcements} ipis=2 remote-fences=3 \
             new-tasks=4 migrations=5\n"
        )
    }

    fn file(harts: u32, long: bool) -> String {
        let mut file = "lazymap-phases 1\n".to_owned();
        for (number, _, _) in workloads(long) {
            file += &format!("phase={number} instructions=1000\n");
            (0..harts).for_each(|h| file += &hart(&format!("phase={number}"), h, 10 + u64::from(h), 6));
        }
        file += "total instructions=9000\n";
        (0..harts).for_each(|h| file += &hart("total", h, 100, 60));
        file + "end\n"
    }

    fn notes(long: bool) -> Vec<String> {
        workloads(long).map(|(number, name, _)| format!("phase {number} {name} amount 7 ns {number}00")).collect()
    }

    fn console(long: bool) -> Vec<String> {
        let tests = workloads(long).filter_map(|(_, _, test)| test);
        tests.map(|t| format!("Summary: {t} passed: 1 failed: 0 xfailed: 0 repeat: 1 loops: 9 avg: 5 usec")).collect()
    }

    fn read(file: &str, notes: &[String], console: &[String], harts: u32, long: bool) -> Result<Counts, String> {
        let notes: Vec<&str> = notes.iter().map(String::as_str).collect();
        Counts::read(file, &notes, console.iter().map(String::as_str), harts, long)
    }

    #[test]
    fn all_sources_make_counts() {
        let counts = read(&file(2, true), &notes(true), &console(true), 2, true).unwrap();
        assert_eq!((counts.phases.len(), counts.total.fences, counts.total.announcements), (10, 200, 120));
        let phase = &counts.phases["bpf-maps"];
        assert_eq!((phase.amount, phase.nanoseconds, phase.instructions), (7, 200, 1000));
        assert_eq!((phase.harts[1].fences, phase.harts[1].migrations, phase.harts.len()), (11, 5, 2));
        assert_eq!(counts.phases["fix-size"].nanoseconds, 5000, "as test_vmalloc measured it");
        let many = read(&file(8, false), &notes(false), &console(false), 8, false).unwrap();
        assert!(!many.phases.contains_key("full-fit") && many.phases.contains_key("vm-map-ram"));
    }

    #[test]
    fn what_is_missing_or_wrong_is_told() {
        let why = |file: &str, notes: &[String], console: &[String]| read(file, notes, console, 2, true).unwrap_err();
        let (file, notes, console) = (file(2, true), notes(true), console(true));
        assert!(why(&file.replace("end\n", ""), &notes, &console).contains("the end"));
        assert!(why(&file.replace("end\n", "wrong phase 2 did not end\n"), &notes, &console).contains("did not end"));
        assert!(why(&file.replace("lazymap-phases 1", "lazymap-cost 1"), &notes, &console).contains("start with"));
        assert!(why(&file.replacen(" fences=10", " fences=x", 1), &notes, &console).contains("fences=x"));
        assert!(why(&file.replace("phase=4", "phase=3"), &notes, &console).contains("phase=3"));
        assert!(why(&file.replace("phase=4", "phase=44"), &notes, &console).contains("exec was not counted"));
        let one: String = file.lines().filter(|l| !l.starts_with("phase=2 hart=1")).map(|l| format!("{l}\n")).collect();
        assert!(why(&one, &notes, &console).contains("bpf-maps has 1 harts of 2"));
        assert!(why(&file, &notes[1..], &console).contains("does not report none"));
        assert!(why(&file, &[&notes[..], &notes[..1]].concat(), &console).contains("unknown phase"));
        assert!(why(&file, &["phase 2 fork amount 7 ns 1".to_owned()], &console).contains("cannot be understood"));
        assert!(why(&file, &notes, &console[1..]).contains("fix_size_alloc_test"));
        let failed: Vec<String> =
            console.iter().map(|l| l.replace("passed: 1 failed: 0", "passed: 0 failed: 1")).collect();
        assert!(why(&file, &notes, &failed).contains("failed: 1"));
    }

    #[test]
    fn the_guest_has_the_same_list() {
        let source = include_str!("../../boot/guest/bench/workloads.c");
        let list: Vec<String> = WORKLOADS.iter().map(|(number, name, _)| format!("X({number}, \"{name}\")")).collect();
        let there: Vec<&str> = source
            .lines()
            .map(|l| l.trim_end_matches('\\').trim())
            .filter(|l| l.starts_with("X(") && l.contains('"'))
            .collect();
        assert_eq!(there, list);
    }
}
