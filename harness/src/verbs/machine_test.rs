// SPDX-License-Identifier: GPL-2.0-only
//! Tests of the machine model without a kernel or firmware.
//!
//! `harness/machine/guest.c` knows for each of its accesses whether the model must let it through. It
//! prints KTAP, and what QEMU's counters must be at the end. This module builds it for 64 and 32 bits, runs
//! it on every machine, and compares its counts with QEMU's. Further tests repeat a run, read its trace,
//! look at it with the monitor, end it with a signal, and ask for machines that QEMU must refuse.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use lazymap_console::ktap::{self, Status};
use lazymap_console::log::Log;
use object::{Object, ObjectSymbol};
use rustix::process::Signal;

use crate::boot::machine;
use crate::build::qemu;
use crate::build::workbench::Workbench;
use crate::ground::cmd::{self, Dialogue, Said};
use crate::ground::error::{Error, Result};
use crate::ground::files;
use crate::ground::progress::Step;
use crate::hunt::trace::{self, Store, What};
use crate::trial::tally::Tally;

/// How the guest is compiled. It runs in M-mode, at the address where QEMU puts a kernel without firmware.
const FLAGS: [&str; 8] =
    ["-mcmodel=medany", "-mno-relax", "-nostdlib", "-ffreestanding", "-fno-builtin", "-O1", "-Wall", "-Wextra"];

/// A size of registers, and what depends on it. The emulator is the same.
struct Width {
    /// What QEMU's names of such CPUs begin with.
    cpu: &'static str,
    flags: [&'static str; 3],
    elf: &'static str,
    /// The lowest page that the guest maps in the upper half of its first mode.
    top: i128,
    pte_size: i128,
}

const RV64: Width = Width {
    cpu: "rv64",
    flags: ["--target=riscv64-unknown-elf", "-march=rv64imac_zicsr_zifencei", "-mabi=lp64"],
    elf: "guest.elf",
    top: 0xffff_ffc0_0000_0000,
    pte_size: 8,
};
const RV32: Width = Width {
    cpu: "rv32",
    flags: ["--target=riscv32-unknown-elf", "-march=rv32imac_zicsr_zifencei", "-mabi=ilp32"],
    elf: "guest32.elf",
    top: 0xc000_0000,
    pte_size: 4,
};

/// Where the program reads what it must see that is among QEMU's own tests.
const OWN_EXPECTED: u64 = 0x8080_0000;
/// It exits with the sum of this and what it has seen, if that is something else.
const OWN_SEEN: i32 = 64;
/// The prefix of the lines with QEMU's counters.
const PROPERTY: &str = "x-cache-invalid";
/// The same for what harts hold of valid translations.
const HELD: &str = "x-cache-valid";
/// The same for stores that walks see late.
const LATE_STORE: &str = "x-late-store";
/// Default number of harts of a run.
const HARTS: u32 = 2;
/// How long a guest may take, on a host that may be busy.
const PATIENCE: Duration = Duration::from_secs(120);
/// The same for shorter runs.
const MINUTE: Duration = Duration::from_secs(60);
/// How long QEMU may take to exit when told to, or to refuse a machine.
const SOON: Duration = Duration::from_secs(20);
/// Most characters of a problem in its check's line.
const SHOWN: usize = 300;
/// Most characters of output in the log of a failed check.
const QUOTED: usize = 2000;

/// The guest's parameters for a CPU with all extensions.
const FULL: &[&str] = &["MODEL", "SVVPTC", "V", "SVINVAL"];
/// That CPU.
const FULL_CPU: &str = "rv64,v=on,svinval=on,x-cache-invalid=on";
/// What makes a hart lose its valid translations: the words of `x-cache-invalid-evict-at`, and the guest's
/// names for them.
const EVENTS: [(&str, &str); 9] = [
    ("trap-s", "TRAP_S"),
    ("trap-u", "TRAP_U"),
    ("sscratch", "SSCRATCH"),
    ("sscratch-set", "SSCRATCH_SET"),
    ("sstatus", "SSTATUS"),
    ("sepc", "SEPC"),
    ("stvec", "STVEC"),
    ("satp", "SATP"),
    ("sret", "SRET"),
];
/// What a CPU needs for shadow stacks.
const SHADOW_STACKS: &str = ",zicfiss=on,zimop=on,zcmop=on";
/// One instruction takes 1 ns, and the harts take turns.
const ONE: &[&str] = &["-icount", "shift=0"];
/// One takes 32 ns: a hart that waits for others has fewer of them in its turn.
const SLOW: &[&str] = &["-icount", "shift=5,sleep=off"];
/// On one host thread, with virtual time, a run depends on nothing but the seeds: what each hart sees, and when.
const REPLAY: &[&str] = &["-icount", "shift=1,sleep=off", "-rtc", "base=2026-01-01,clock=vm", "-seed", "1"];
/// A CPU on which everything can happen.
const STORM_CPU: &str = "rv64,x-cache-invalid=on,x-cache-invalid-scope=all,x-cache-invalid-coexist=any,\
                         x-cache-invalid-choice=random,x-cache-invalid-evict-rate=50";
/// Its number of harts.
const STORM_HARTS: u32 = 4;

/// What QEMU wants with a 128-bit CPU.
const ONE_THREAD: &str = "tcg,thread=single";
/// CPUs that QEMU must refuse with an accelerator, and what it must say.
const REFUSALS: [(&str, &str, &str); 34] = [
    ("x-rv128,x-cache-invalid=on", ONE_THREAD, "'x-cache-invalid' excludes a 128-bit CPU"),
    (
        "rv64,x-cache-invalid=on,x-cache-invalid-coexist=some",
        "tcg",
        "'x-cache-invalid-coexist' has unknown value 'some', not one of none, global, any",
    ),
    (
        "rv64,x-cache-invalid=on,x-cache-invalid-coexist=any,x-cache-invalid-choice=bad",
        "tcg",
        "'x-cache-invalid-choice' has unknown value 'bad', not one of invalid, valid, random",
    ),
    (
        "rv64,x-cache-invalid=on,x-cache-invalid-choice=valid",
        "tcg",
        "'x-cache-invalid-choice=valid' requires 'x-cache-invalid-coexist' to be global or any",
    ),
    (
        "rv64,x-cache-invalid=on,x-cache-invalid-evict-at=sepc+trap",
        "tcg",
        "'x-cache-invalid-evict-at' has unknown value 'trap', not one of trap-s, trap-u, sscratch, sscratch-set, \
         sstatus, sepc, stvec, satp, sret",
    ),
    (
        "rv64,x-cache-invalid=on,x-cache-invalid-evict-at=sepc+",
        "tcg",
        "'x-cache-invalid-evict-at' has unknown value ''",
    ),
    (
        "rv64,x-cache-invalid=on,x-cache-invalid-scope=none",
        "tcg",
        "'x-cache-invalid-scope' has unknown value 'none', not one of access, line, leaf, all",
    ),
    (
        "rv64,x-cache-invalid=on,x-cache-invalid-lifetime=19",
        "tcg",
        "'x-cache-invalid-lifetime' must be 0 or at least 20",
    ),
    ("rv64,x-cache-invalid-lifetime=1000", "tcg", "'x-cache-invalid-lifetime' requires 'x-cache-invalid'"),
    ("rv64,x-cache-invalid-scope=all", "tcg", "'x-cache-invalid-scope' requires 'x-cache-invalid'"),
    ("rv64,x-cache-invalid-user=on,x-late-pte=on", "tcg", "'x-cache-invalid-user' requires 'x-cache-invalid'"),
    ("rv64,x-late-pte=on,x-cache-invalid=on", "tcg", "'x-late-pte' excludes 'x-cache-invalid'"),
    ("x-rv128,x-late-pte=on", ONE_THREAD, "'x-late-pte' excludes a 128-bit CPU"),
    ("rv64,x-late-pte=on", "qtest", "'x-late-pte' requires TCG acceleration"),
    ("rv64,x-cache-invalid-what=on", "tcg", "x-cache-invalid-what"),
    ("rv64,x-cache-invalid-evict-at=sepc", "tcg", "'x-cache-invalid-evict-at' requires 'x-cache-invalid'"),
    (
        "rv64,x-cache-invalid-evict-in=1-2",
        "tcg",
        "'x-cache-invalid-evict-in' requires 'x-cache-invalid' or 'x-cache-valid'",
    ),
    (
        "rv64,x-cache-valid=on,x-cache-invalid-evict-in=2-2",
        "tcg",
        "'x-cache-invalid-evict-in' has value '2-2', which is not START-END",
    ),
    ("rv64,x-cache-invalid-seed=1", "tcg", "'x-cache-invalid-seed' requires 'x-cache-invalid'"),
    ("rv64,x-cache-invalid=on", "qtest", "'x-cache-invalid' requires TCG acceleration"),
    ("x-rv128,x-cache-valid=on", ONE_THREAD, "'x-cache-valid' excludes a 128-bit CPU"),
    ("rv64,x-cache-valid=on", "qtest", "'x-cache-valid' requires TCG acceleration"),
    ("rv64,x-cache-valid-scope=all", "tcg", "'x-cache-valid-scope' requires 'x-cache-valid'"),
    (
        "rv64,x-cache-valid=on,x-cache-valid-denied=never",
        "tcg",
        "'x-cache-valid-denied' has unknown value 'never', not one of fault, walk",
    ),
    ("rv64,x-cache-valid=on,x-cache-valid-size=2000000", "tcg", "'x-cache-valid-size' must not exceed 1048576"),
    (
        "rv64,x-cache-valid=on,x-cache-valid-guest=on",
        "tcg",
        "'x-cache-valid-guest' has unknown value 'on', not one of vs, g, all",
    ),
    ("rv64,x-cache-invalid=on,x-cache-valid-guest=all", "tcg", "'x-cache-valid-guest' requires 'x-cache-valid'"),
    (
        "rv64,x-cache-invalid=on,x-cache-invalid-guest=s",
        "tcg",
        "'x-cache-invalid-guest' has unknown value 's', not one of vs, g, all",
    ),
    ("rv64,x-cache-valid=on,x-cache-invalid-guest=all", "tcg", "'x-cache-invalid-guest' requires 'x-cache-invalid'"),
    ("x-rv128,x-late-store=all", ONE_THREAD, "'x-late-store' excludes a 128-bit CPU"),
    ("rv64,x-late-store=on", "tcg", "'x-late-store' has unknown value 'on', not one of own, others, all"),
    ("rv64,x-late-store=all", "qtest", "'x-late-store' requires TCG acceleration"),
    ("rv32,x-cip-453=on", "tcg", "'x-cip-453' requires a 64-bit CPU"),
    ("rv64,x-cip-453=on", "qtest", "'x-cip-453' requires TCG acceleration"),
];

/// A check and its result.
#[derive(Clone, Debug)]
pub struct Check {
    /// Its unique name.
    pub name: String,
    /// What is wrong; empty if it passed.
    problems: Vec<String>,
    /// More about the check.
    note: String,
    /// The last output of QEMU and the guest, if that can explain a failure.
    said: String,
}

/// A value, or the problems that prevented it.
type Tried<T> = Result<T, Vec<String>>;
/// A note if a check passed, otherwise what is wrong.
type Verdict = Tried<String>;
/// Something read from a trace, or why it cannot be understood.
type Told<T> = Result<T, String>;

impl Check {
    fn new(name: impl Into<String>, verdict: Verdict) -> Self {
        let (note, problems) = match verdict {
            Ok(note) => (note, Vec::new()),
            Err(problems) => (String::new(), problems),
        };
        Self { name: name.into(), problems, note, said: String::new() }
    }

    /// The first problem, on one line; `None` if the check passed.
    pub fn why(&self) -> Option<String> {
        let line = self.problems.first()?.lines().next().unwrap_or_default();
        let rest = if line.chars().count() > SHOWN { "…" } else { "" };
        Some(line.chars().take(SHOWN).chain(rest.chars()).collect())
    }
}

/// The verdict: a note if there are no problems.
fn none_of(problems: Vec<String>, note: impl Into<String>) -> Verdict {
    if problems.is_empty() { Ok(note.into()) } else { Err(problems) }
}

/// An error that prevented a check, as its problem.
fn because(error: Error) -> Vec<String> {
    vec![error.message]
}

/// Runs all checks, with a guest that `clang` compiles, and writes them to `log` as KTAP.
///
/// # Errors
/// When the guest cannot be built, or a file cannot be written.
pub fn run(bench: &Workbench, clang: &str, log: &Path) -> Result<Vec<Check>> {
    let step = Step::start("test the machine");
    files::remove(log)?;
    let rig = Rig::build(bench, clang, &step)?;
    let mut checks = rig.all_runs(&step);
    if bench.options.base.qemu.replays {
        checks.extend(rig.replays(&step));
    }
    checks.push(rig.check("trace", &step, |rig| rig.trace(&RV64)));
    checks.push(rig.check("trace rv32", &step, |rig| rig.trace(&RV32)));
    checks.push(rig.check("trace of page tables", &step, Rig::gone_tables));
    // The source of another QEMU is not here.
    if qemu::is_ours() {
        checks.push(rig.check("test of QEMU", &step, |rig| rig.own_test(bench, clang, &step)));
    }
    checks.push(rig.check("monitor", &step, Rig::monitor));
    checks.push(rig.check("SIGTERM", &step, |rig| rig.ends_with_counters(Signal::TERM)));
    checks.push(rig.check("SIGINT", &step, |rig| rig.ends_with_counters(Signal::INT)));
    for (cpu, accelerator, message) in REFUSALS {
        checks.push(rig.check(&format!("{cpu} {accelerator}"), &step, |rig| rig.refuses(cpu, accelerator, message)));
    }
    if qemu::is_ours() {
        checks.push(rig.check("what vng needs", &step, Rig::serves_vng));
    }
    files::write_whole(log, as_ktap(&checks))?;
    step.finish(if checks.iter().all(|c| c.problems.is_empty()) { "done" } else { "failed" });
    Ok(checks)
}

/// The checks as KTAP, with everything known about those that failed.
fn as_ktap(checks: &[Check]) -> String {
    let mut tally = Tally::kept();
    for check in checks {
        if !check.note.is_empty() {
            tally.note(&check.note);
        }
        match check.why() {
            None => tally.ok(&check.name),
            Some(why) => {
                check.problems.iter().for_each(|problem| tally.quote(problem));
                tally.quote(&check.said);
                tally.not_ok(&check.name, &why);
            }
        }
    }
    tally.finish();
    tally.text().to_owned()
}

/// A run of the guest on a machine.
#[derive(Clone, Debug)]
struct Run {
    /// QEMU's `-cpu`.
    cpu: String,
    /// What the guest must know about the machine: names in guest.c, without `PARAM_`.
    params: Vec<&'static str>,
    harts: u32,
    /// Further arguments of QEMU's.
    extra: &'static [&'static str],
}

impl Run {
    fn new(cpu: impl Into<String>, params: &[&'static str]) -> Self {
        Self { cpu: cpu.into(), params: params.to_vec(), harts: HARTS, extra: &[] }
    }

    /// With valid translations beside invalid ones.
    fn beside(coexist: &str, choice: &str, more: &str) -> Self {
        let cpu =
            format!("rv64,x-cache-invalid=on,x-cache-invalid-coexist={coexist},x-cache-invalid-choice={choice}{more}");
        let run = Self::new(cpu, &["MODEL", "SVVPTC", if coexist == "any" { "ANY" } else { "GLOBAL" }]);
        match choice {
            "valid" => run.and(&["VALID"]),
            "random" => run.and(&["RANDOM"]),
            _ => run,
        }
    }

    /// With valid translations that these events evict.
    fn evicting(events: &[(&str, &'static str)]) -> Self {
        let words: Vec<&str> = events.iter().map(|(word, _)| *word).collect();
        let params: Vec<&'static str> = events.iter().map(|(_, param)| *param).collect();
        Self::beside("any", "valid", &format!(",x-cache-invalid-evict-at={}", words.join("+"))).and(&params)
    }

    /// With valid translations that outlive their PTEs: more CPU properties, and the guest's names for them.
    fn holding(more: &str, params: &[&'static str]) -> Self {
        Self::new(format!("rv64,x-cache-valid=on{more}"), &["MODEL", "SVVPTC", "HELD"]).and(params)
    }

    /// The same with 32 bits.
    fn on_rv32(mut self) -> Self {
        self.cpu = self.cpu.replacen(RV64.cpu, RV32.cpu, 1);
        self
    }

    fn width(&self) -> &'static Width {
        if self.cpu.starts_with(RV32.cpu) { &RV32 } else { &RV64 }
    }

    fn and(mut self, params: &[&'static str]) -> Self {
        self.params.extend_from_slice(params);
        self
    }

    fn harts(self, harts: u32) -> Self {
        Self { harts, ..self }
    }

    fn extra(self, extra: &'static [&'static str]) -> Self {
        Self { extra, ..self }
    }

    fn has(&self, param: &str) -> bool {
        self.params.contains(&param)
    }

    /// What its counters begin with.
    fn property(&self) -> &'static str {
        match (self.has("HELD"), self.has("LATE_STORE")) {
            (true, _) => HELD,
            (false, true) => LATE_STORE,
            (false, false) => PROPERTY,
        }
    }

    fn name(&self) -> String {
        let harts = if self.harts == HARTS { String::new() } else { format!(" -smp {}", self.harts) };
        let extra: String = self.extra.iter().map(|word| format!(" {word}")).collect();
        format!("{}{harts}{extra}", self.cpu)
    }

    /// QEMU's arguments for the machine, without its devices.
    fn arguments(&self) -> Vec<String> {
        let harts = self.harts.to_string();
        let machine = ["-M", "virt", "-cpu", &self.cpu, "-smp", &harts, "-m", "256M", "-display", "none"];
        machine.iter().chain(self.extra).map(|word| (*word).to_owned()).collect()
    }
}

/// Every machine that the guest's tests are run on.
fn runs() -> Vec<Run> {
    let quick = || Run::new(FULL_CPU, FULL).and(&["QUICK"]);
    let thead = "rv64,x-cache-invalid=on,xtheadsync=on,priv_spec=v1.12.0";
    // With each instruction that orders older stores.
    let releasing = || {
        Run::new(format!("rv64,zacas=on{SHADOW_STACKS},x-late-store=all"), &["MODEL", "LATE_STORE", "VIRTUAL"])
            .and(&["ZACAS", "ZICFISS"])
            .extra(SLOW)
    };
    let mut all = vec![
        Run::new("rv64,v=on,svinval=on", &["SVVPTC", "V", "SVINVAL"]),
        Run::new(FULL_CPU, FULL),
        Run::new("rv64,x-cache-invalid=on,svvptc=off", &["MODEL"]),
        Run::new("rv64,x-cache-invalid=on,svade=on,svadu=off", &["MODEL", "SVVPTC", "QUICK"]),
        Run::new(format!("{thead},svvptc=off"), &["MODEL", "THEAD", "QUICK"]),
        Run::new("max,x-cache-invalid=on", FULL).and(&["QUICK"]),
        quick().extra(&["-accel", "tcg,thread=single"]),
        Run::new(FULL_CPU, FULL).and(&["VIRTUAL"]).extra(SLOW),
        quick().extra(&["-accel", "tcg,one-insn-per-tb=on"]),
        quick().harts(1),
        quick().harts(4),
        Run::new(thead, &["MODEL", "THEAD", "QUICK"]).harts(4),
        // Svvptc is newer than that.
        Run::new("rv64,x-cache-invalid=on,priv_spec=v1.12.0", &["MODEL"]),
        Run::new("rv64,x-late-pte=on", &["MODEL", "LATE"]),
        Run::new("rv64,x-late-pte=on", &["MODEL", "LATE"]).harts(4),
        Run::new("rv64,x-cache-invalid=on,x-cache-invalid-scope=all", &["MODEL", "ALL"]),
        Run::new("rv64,x-cache-invalid=on,x-cache-invalid-scope=access", &["MODEL", "ACCESS"]),
        Run::new("rv64,x-cache-invalid=on,x-cache-invalid-scope=line", &["MODEL", "LINE"]),
        Run::new("rv64,x-cache-invalid=on,x-cache-invalid-user=on", &["MODEL", "USER"]),
        Run::new("rv64,x-cache-invalid=on,x-cache-invalid-lifetime=1000", &["MODEL", "LIFETIME"]),
        Run::new("rv64,svvptc=off,x-cache-invalid=on,x-cache-invalid-lifetime=1000", &["MODEL", "LIFETIME", "VIRTUAL"])
            .extra(&["-icount", "shift=1"]),
        Run::new("rv64,x-cip-453=on", &["CIP_453"]),
        Run::new("rv64,x-cip-453=on,x-cache-invalid=on", &["MODEL", "CIP_453"]),
        Run::beside("any", "invalid", ""),
        Run::beside("global", "invalid", ""),
        Run::beside("any", "valid", ""),
        Run::beside("global", "valid", ""),
    ];
    all.extend(EVENTS.iter().map(|event| Run::evicting(&[*event])));
    let rate = || Run::beside("any", "valid", ",x-cache-invalid-evict-rate=1").and(&["RATE"]);
    all.extend([
        Run::evicting(&EVENTS),
        Run::evicting(&EVENTS).extra(ONE),
        rate(),
        rate().extra(ONE),
        Run::beside("any", "random", ""),
        Run::beside("any", "random", "").extra(ONE),
        Run::beside("any", "random", ",x-cache-invalid-seed=1"),
        Run::beside("any", "valid", ",x-cache-invalid-evict-in=0x201000-0x202000").and(&["EVICT_IN"]),
    ]);
    all.extend([
        Run::new("rv64,svinval=on,svnapot=on", &["SVVPTC", "SVINVAL", "HELD", "NAPOT"]),
        Run::holding(",svinval=on,svnapot=on", &["SVINVAL", "NAPOT"]),
        Run::holding("", &[]).harts(4),
        Run::holding("", &[]).extra(&["-accel", "tcg,thread=single"]),
        Run::holding(",svade=on,svadu=off", &["SVADE"]),
        Run::holding(",x-cache-valid-denied=walk", &["HELD_WALK"]),
        Run::holding(",x-cache-valid-scope=all", &["HELD_ALL"]),
        Run::holding(",x-cache-valid-split=on", &["SPLIT"]),
        Run::holding(",svnapot=on,x-cache-valid-napot=page", &["NAPOT", "NAPOT_PAGE"]),
        Run::holding(",x-cache-valid-size=4", &["FEW"]),
        Run::holding(",x-cache-invalid-evict-at=sscratch", &["SSCRATCH"]),
        Run::new(format!("rv64{SHADOW_STACKS}"), &["SVVPTC", "HELD", "ZICFISS"]),
        Run::holding(SHADOW_STACKS, &["ZICFISS"]),
        Run::holding(&format!("{SHADOW_STACKS},x-cache-valid-denied=walk"), &["ZICFISS", "HELD_WALK"]),
        Run::new("rv64", &["SVVPTC", "LATE_STORE", "VIRTUAL"]).extra(SLOW),
        Run::new("rv64,x-late-store=all", &["MODEL", "LATE_STORE"]),
        releasing().harts(4),
        Run::new("rv64,ztso=on,x-late-store=all", &["MODEL", "LATE_STORE", "VIRTUAL", "ZTSO"]).extra(SLOW),
        Run::new("rv64,xtheadsync=on,priv_spec=v1.12.0,x-late-store=all", &["MODEL", "LATE_STORE", "VIRTUAL", "THEAD"])
            .extra(SLOW),
    ]);
    let guests = || {
        [
            Run::new("rv64,h=on,svinval=on", &["SVVPTC", "SVINVAL", "HELD", "GUEST"]),
            Run::holding(",svinval=on,x-cache-valid-guest=all", &["SVINVAL", "GUEST"]),
            Run::new("rv64,svinval=on,x-cache-invalid=on,x-cache-invalid-guest=all", &["MODEL", "SVVPTC", "GUEST"])
                .and(&["SVINVAL"]),
        ]
    };
    all.extend(guests());
    all.extend([
        Run::holding(",x-cache-valid-guest=vs", &["GUEST", "ONLY_VS"]),
        Run::holding(",x-cache-valid-guest=g", &["GUEST", "ONLY_G"]),
        Run::holding(",x-cache-valid-guest=all,x-cache-valid-denied=walk", &["GUEST", "HELD_WALK"]),
        Run::holding(",x-cache-valid-guest=all,x-cache-valid-scope=all", &["GUEST", "HELD_ALL"]),
        Run::new("rv64,x-cache-invalid=on,x-cache-invalid-guest=vs", &["MODEL", "SVVPTC", "GUEST", "ONLY_VS"]),
        Run::new("rv64,x-cache-invalid=on,x-cache-invalid-guest=g", &["MODEL", "SVVPTC", "GUEST", "ONLY_G"]),
        Run::new("rv64,x-cache-invalid=on,x-cache-invalid-guest=all,x-cache-invalid-scope=all", &["MODEL", "ALL"])
            .and(&["SVVPTC", "GUEST"]),
    ]);
    all.extend(guests().map(Run::on_rv32));
    let apart = || {
        let both = "rv64,svvptc=off,x-cache-invalid=on,x-cache-valid=on";
        [
            Run::new(format!("{both},x-cache-valid-guest=all"), &["MODEL", "APART"]),
            Run::new(format!("{both},x-cache-invalid-guest=all"), &["MODEL", "APART", "HELD"]),
        ]
    };
    all.extend(apart());
    all.extend(apart().map(Run::on_rv32));
    let sv32 = [
        Run::new("rv64,svinval=on", &["SVVPTC", "SVINVAL"]),
        Run::new("rv64,svinval=on,x-cache-invalid=on", &["MODEL", "SVVPTC", "SVINVAL"]),
        Run::new("rv64,svinval=on,x-cache-invalid=on", &["MODEL", "SVVPTC", "SVINVAL", "QUICK"]).harts(4),
        Run::new("rv64,x-late-pte=on", &["MODEL", "LATE"]),
        Run::new("rv64,x-cache-invalid=on,x-cache-invalid-scope=all", &["MODEL", "ALL"]),
        Run::new("rv64,x-cache-invalid=on,x-cache-invalid-scope=access", &["MODEL", "ACCESS"]),
        Run::new("rv64,x-cache-invalid=on,x-cache-invalid-scope=line", &["MODEL", "LINE"]),
        Run::new("rv64,x-cache-invalid=on,x-cache-invalid-user=on", &["MODEL", "USER"]),
        Run::evicting(&EVENTS),
        Run::beside("any", "valid", ",x-cache-invalid-evict-in=0xc0401000-0xc0402000").and(&["EVICT_IN"]),
        Run::new("rv64", &["SVVPTC", "HELD"]),
        Run::holding(",svinval=on", &["SVINVAL"]),
        Run::holding(",svade=on,svadu=off", &["SVADE"]),
        Run::holding(",x-cache-valid-denied=walk", &["HELD_WALK"]),
        Run::holding(",x-cache-valid-scope=all", &["HELD_ALL"]),
        Run::holding(",x-cache-valid-split=on", &["SPLIT"]),
        Run::new("rv64,x-late-store=all", &["MODEL", "LATE_STORE"]),
        releasing().harts(4),
    ];
    all.extend(sv32.map(Run::on_rv32));
    all
}

/// The guest's parameter word. Its bits are defined in guest.c and nowhere else.
#[derive(Debug)]
struct Params(BTreeMap<String, u64>);

impl Params {
    fn read(source: &Path) -> Result<Self> {
        Ok(Self::parse(&files::read_text(source)?))
    }

    /// Reads `#define PARAM_NAME VALUE` from C.
    fn parse(source: &str) -> Self {
        let define = |line: &str| {
            let (name, rest) = line.strip_prefix("#define PARAM_")?.split_once(char::is_whitespace)?;
            let value = rest.split("/*").next().unwrap_or_default();
            Some((name.to_owned(), value_in_c(value.trim())?))
        };
        Self(source.lines().filter_map(define).collect())
    }

    fn get(&self, name: &str) -> Result<u64> {
        let value = self.0.get(name).copied();
        value.ok_or_else(|| Error::could_not(format!("guest.c has no usable `#define PARAM_{name}`; add it")))
    }

    /// QEMU's `-device` that loads the word for `run` where the guest expects it.
    fn device(&self, run: &Run) -> Result<String> {
        let shift = self.get("HARTS")?;
        let harts = u32::try_from(shift).ok().and_then(|shift| u64::from(run.harts).checked_shl(shift));
        let mut word = harts.ok_or_else(|| Error::could_not(format!("guest.c: PARAM_HARTS is {shift}; correct it")))?;
        for param in &run.params {
            word |= self.get(param)?;
        }
        Ok(format!("loader,addr={:#x},data={word},data-len=8", self.get("ADDRESS")?))
    }
}

/// `64`, `0x40`, `(1 << 6)` or `(1ull << 48)`.
fn value_in_c(text: &str) -> Option<u64> {
    let shifted = text.strip_prefix("(1 << ").or_else(|| text.strip_prefix("(1ull << "));
    if let Some(bit) = shifted.and_then(|t| t.strip_suffix(')')) {
        return 1u64.checked_shl(bit.trim().parse().ok()?);
    }
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

/// Addresses in the guest by name.
type Symbols = BTreeMap<String, u64>;

fn symbols(elf: &Path) -> Result<Symbols> {
    let data = files::read(elf)?;
    let file = object::File::parse(&*data)
        .map_err(|e| Error::could_not(format!("{}: {e}; remove it and run again", elf.display())))?;
    Ok(file.symbols().filter_map(|s| Some((s.name().ok()?.to_owned(), s.address()))).collect())
}

/// QEMU and the guest.
struct Rig {
    qemu: PathBuf,
    /// The folder with the guests, where QEMU runs.
    folder: PathBuf,
    params: Params,
}

impl Rig {
    fn build(bench: &Workbench, clang: &str, step: &Step) -> Result<Self> {
        let source = bench.options.root.join("harness/machine");
        let folder = bench.options.out.join("machine");
        files::create_dir(&folder)?;
        for width in [&RV64, &RV32] {
            let mut compile = cmd::plain(clang);
            compile.args(width.flags).args(FLAGS).args(["-fuse-ld=lld", "-T"]).arg(source.join("guest.ld"));
            compile.arg(source.join("start.S")).arg(source.join("guest.c")).arg("-o").arg(folder.join(width.elf));
            cmd::logged(&mut compile, &bench.options.out.join("log/machine-guest.log"), step)?;
        }
        // A bare name is looked up in PATH; a path must be absolute, because QEMU runs in another folder.
        let qemu = match bench.qemu.binary.components().count() {
            0 | 1 => bench.qemu.binary.clone(),
            _ => std::path::absolute(&bench.qemu.binary).map_err(|e| Error::io("find", &bench.qemu.binary, e))?,
        };
        Ok(Self { qemu, params: Params::read(&source.join("guest.c"))?, folder })
    }

    /// QEMU with the guest on the machine of `run`; the caller adds serial port and monitor.
    fn guest(&self, run: &Run) -> Result<Command> {
        let mut command = self.qemu(&run.arguments());
        command.args(["-bios", "none", "-kernel", run.width().elf, "-device", &self.params.device(run)?]);
        Ok(command)
    }

    fn qemu(&self, arguments: &[String]) -> Command {
        let mut command = Command::new(&self.qemu);
        command.args(arguments).current_dir(&self.folder);
        command
    }

    /// Runs the guest to its end, with further arguments of QEMU's.
    fn boot(&self, run: &Run, more: &[&str]) -> Result<Said> {
        let mut command = self.guest(run)?;
        cmd::within(command.args(["-monitor", "none", "-serial", "stdio"]).args(more), PATIENCE)
    }

    /// The output of a guest that must end well.
    fn finished(&self, run: &Run, more: &[&str]) -> Tried<Said> {
        let said = self.boot(run, more).map_err(because)?;
        match wrong_ending(&said, PATIENCE) {
            None => Ok(said),
            Some(problem) => Err(vec![problem, end_of(&said)]),
        }
    }

    fn file(&self, name: &str) -> Tried<String> {
        let path = self.folder.join(name);
        files::read_text(&path).map_err(because)
    }

    fn check(&self, name: &str, step: &Step, make: impl FnOnce(&Self) -> Verdict) -> Check {
        step.detail(name);
        Check::new(name, make(self))
    }

    /// The guest's tests on every machine, and a check of the seeds.
    fn all_runs(&self, step: &Step) -> Vec<Check> {
        let runs = runs();
        let mut checks = Vec::new();
        let mut patterns: Vec<Vec<String>> = Vec::new();
        for (run, said) in runs.iter().zip(self.boots(&runs, step)) {
            let mut check = Check::new(run.name(), said.as_ref().map_err(Clone::clone).and_then(|s| judge(run, s)));
            if let Ok(said) = said {
                if run.has("RANDOM") {
                    patterns.push(lines_of(&said.stdout, "pattern ").map(str::to_owned).collect());
                }
                check.said = end_of(&said);
            }
            checks.push(check);
        }
        checks.push(Check::new("seed", chosen_by_seed(&patterns)));
        checks
    }

    /// Boots all of `runs`, as many in parallel as the host has CPUs.
    fn boots(&self, runs: &[Run], step: &Step) -> Vec<Tried<Said>> {
        let cpus = thread::available_parallelism().map_or(1, usize::from);
        let next = AtomicUsize::new(0);
        let mut all: Vec<_> = runs.iter().map(|_| Err(vec!["it was not run".to_owned()])).collect();
        thread::scope(|scope| {
            let (sender, receiver) = mpsc::channel();
            for _ in 0..cpus.min(runs.len()) {
                let (sender, next) = (sender.clone(), &next);
                // Each thread waits for the QEMUs that it starts: they would not outlive it.
                scope.spawn(move || {
                    loop {
                        let at = next.fetch_add(1, Ordering::Relaxed);
                        let Some(run) = runs.get(at) else { break };
                        let said = self.boot(run, &[]).map_err(because);
                        if sender.send((at, said)).is_err() {
                            break;
                        }
                    }
                });
            }
            drop(sender);
            for (at, said) in receiver {
                step.detail(&runs[at].name());
                all[at] = said;
            }
        });
        all
    }

    /// All harts at once, at random; returns all output of QEMU and the guest.
    fn storm(&self, more: &str, extra: &[&str]) -> Tried<String> {
        let run = Run::new(format!("{STORM_CPU}{more}"), &["MODEL", "STORM"]).harts(STORM_HARTS).extra(REPLAY);
        let said = self.finished(&run, extra)?;
        Ok(said.stdout + &said.stderr)
    }

    /// The same with a trace in `name`; also returns the trace.
    fn traced_storm(&self, name: &str) -> Tried<(String, String)> {
        files::remove(&self.folder.join(name)).map_err(because)?;
        let said = self.storm("", &["-D", name, "-trace", trace::EVENTS])?;
        Ok((said, self.file(name)?))
    }

    /// Repeats a run, and checks its trace.
    fn replays(&self, step: &Step) -> Vec<Check> {
        const LOGS: [&str; 2] = ["storm1.log", "storm2.log"];
        step.detail("replay");
        let one = self.storm("", &[]);
        let replay = || {
            let one = one.clone()?;
            repeated(&one, &self.storm("", &[])?, &self.storm(",x-cache-invalid-seed=1", &[])?)
        };
        let replay_traced = || {
            let one = one.clone()?;
            repeated_with_trace(&one, &self.traced_storm(LOGS[0])?, &self.traced_storm(LOGS[1])?)
        };
        vec![
            self.check("replay", step, |_| replay()),
            self.check("replay traced", step, |_| replay_traced()),
            // It reads the log of the check before.
            self.check("trace of 4 harts", step, |rig| stories(&one.clone()?, &rig.file(LOGS[0])?)),
        ]
    }

    /// A single hit and everything that led to it.
    fn trace(&self, width: &Width) -> Verdict {
        const LOG: &str = "trace.log";
        files::remove(&self.folder.join(LOG)).map_err(because)?;
        let symbols = symbols(&self.folder.join(width.elf)).map_err(because)?;
        let run = Run::new(format!("{},x-late-pte=on", width.cpu), &["MODEL", "LATE"]);
        let said = self.finished(&run, &["-D", LOG, "-trace", "riscv_invalid_cache_*"])?;
        story_of_first_hit(width, &self.file(LOG)?, &symbols, &said.stderr).map_err(|why| vec![why])?
    }

    /// The page tables that are gone, and that the hart goes on walking.
    fn gone_tables(&self) -> Verdict {
        const LOG: &str = "tables.log";
        files::remove(&self.folder.join(LOG)).map_err(because)?;
        let run = Run::holding(",x-cache-valid-scope=all", &["HELD_ALL"]);
        let said = self.finished(&run, &["-D", LOG, "-trace", trace::EVENTS])?;
        removed_tables(&said.stderr, &self.file(LOG)?)
    }

    /// The program that the patches add to QEMU's tests, on each of its machines: it ends well if it sees what it is
    /// told to, and otherwise says what it has seen.
    fn own_test(&self, bench: &Workbench, clang: &str, step: &Step) -> Verdict {
        const ELF: &str = "stale.elf";
        let source = bench.options.machine_place().join("src/tests/tcg/riscv64");
        let mut compile = cmd::plain(clang);
        compile
            .args(RV64.flags)
            .args(["-nostdlib", "-mno-relax", "-fuse-ld=lld", "-T"])
            .arg(source.join("semihost.ld"));
        compile.arg(source.join("stale-translations.S")).arg("-o").arg(self.folder.join(ELF));
        cmd::logged(&mut compile, &bench.options.out.join("log/machine-own.log"), step).map_err(because)?;
        let path = source.join("Makefile.softmmu-target");
        let makefile = files::read_text(&path).map_err(because)?;
        let rows = own_rows(&makefile).map_err(|why| vec![why])?;
        let mut problems = Vec::new();
        for (cpu, seen) in &rows {
            for (told, wanted) in [(*seen, 0), (seen ^ 1, OWN_SEEN + seen)] {
                let mut command = self.qemu(&["-M", "virt", "-cpu", cpu.as_str()].map(str::to_owned));
                command.args(["-display", "none", "-monitor", "none", "-serial", "none"]);
                command.args(["-bios", "none", "-semihosting"]);
                command.args(["-device", &format!("loader,addr={OWN_EXPECTED:#x},data-len=8,data={told}")]);
                command.args(["-device", &format!("loader,file={ELF}")]);
                let said = cmd::within(&mut command, PATIENCE).map_err(because)?;
                let code = said.status.and_then(|status| status.code());
                if code != Some(wanted) {
                    problems.push(format!("{cpu}, told {told}: exit code {code:?} instead of {wanted}"));
                    problems.push(end_of(&said));
                }
            }
        }
        none_of(problems, format!("{} machines", rows.len()))
    }

    /// The monitor sees what is in memory, and does not disturb the counters.
    fn monitor(&self) -> Verdict {
        const LOG: &str = "spin.log";
        let log = self.folder.join(LOG);
        files::remove(&log).map_err(because)?;
        let mut command = self.guest(&Run::new("rv64,x-cache-invalid=on", &["MODEL", "SPIN"])).map_err(because)?;
        command.args(["-serial", &format!("file:{LOG}"), "-monitor", "stdio"]);
        let mut talk = Dialogue::start(&mut command).map_err(because)?;
        let spins = |_: &str| fs::read_to_string(&log).is_ok_and(|text| text.contains("spinning"));
        if !talk.wait_until(MINUTE, spins).map_err(because)? {
            let said = talk.end(Duration::ZERO).map_err(because)?;
            return Err(vec!["the guest does not get to where it waits".to_owned(), end_of(&said)]);
        }
        // The guest prints this a moment before it spins.
        thread::sleep(Duration::from_millis(200));
        talk.say("x /1gx 0xffffffc000001000\nx /1gx 0xffffffc000201000\nquit\n");
        let said = talk.end(SOON).map_err(because)?;
        seen_by_monitor(&said, &self.file(LOG)?)
    }

    /// A QEMU that is ended by a signal prints its counters.
    fn ends_with_counters(&self, signal: Signal) -> Verdict {
        let run = Run::new("rv64,x-cache-invalid=on", &[]).harts(3);
        let mut command = self.qemu(&run.arguments());
        command.args(["-bios", "none", "-serial", "none", "-monitor", "stdio"]);
        let mut talk = Dialogue::start(&mut command).map_err(because)?;
        // The prompt shows that it is up.
        if !talk.wait_until(MINUTE, |said| said.contains(')')).map_err(because)? {
            let said = talk.end(Duration::ZERO).map_err(because)?;
            return Err(vec!["no prompt".to_owned(), end_of(&said)]);
        }
        talk.signal(signal);
        counted_at_the_end(&talk.end(SOON).map_err(because)?)
    }

    /// QEMU refuses impossible machines with a message.
    fn refuses(&self, cpu: &str, accelerator: &str, message: &str) -> Verdict {
        let words = ["-M", "virt", "-cpu", cpu, "-accel", accelerator, "-display", "none", "-bios", "none"];
        let mut command = self.qemu(&words.map(str::to_owned));
        refused(&cmd::within(&mut command, SOON).map_err(because)?, message)
    }

    /// virtme-ng takes it in place of the system's QEMU: folders of the host over 9p, a network that needs no rights on
    /// the host, and the firmware that comes with QEMU.
    fn serves_vng(&self) -> Verdict {
        let ask = |words: &[&str]| cmd::output(cmd::plain(&self.qemu).args(words)).map_err(because);
        let mut problems = Vec::new();
        if !ask(&["-M", "none", "-device", "help"])?.contains("\"virtio-9p-pci\"") {
            problems.push("it has no virtio-9p-pci".to_owned());
        }
        let slirp = qemu::has_slirp();
        if slirp && !ask(&["-netdev", "help"])?.lines().any(|line| line.trim() == "user") {
            problems.push("it has no -netdev user although the host has slirp".to_owned());
        }
        let firmware = Path::new(qemu::DEFAULT_BIOS).file_name().unwrap_or_default();
        let folders = ask(&["-L", "help"])?;
        if !folders.lines().any(|folder| Path::new(folder).join(firmware).is_file()) {
            let folders: Vec<&str> = folders.lines().collect();
            problems.push(format!("-bios default finds no {} in {}", firmware.display(), folders.join(", ")));
        }
        none_of(problems, if slirp { "" } else { "no network: the host has no slirp" })
    }
}

/// The end of all output.
fn end_of(said: &Said) -> String {
    let all = format!("{}{}", said.stdout, said.stderr);
    let skip = all.chars().count().saturating_sub(QUOTED);
    all.chars().skip(skip).collect()
}

/// What follows `start` in the lines that begin with it.
fn lines_of<'a>(text: &'a str, start: &str) -> impl Iterator<Item = &'a str> {
    text.lines().filter_map(move |line| line.strip_prefix(start))
}

/// How a run ended, unless it ended well.
fn wrong_ending(said: &Said, limit: Duration) -> Option<String> {
    match said.status {
        None => Some(format!("it did not end within {} s", limit.as_secs())),
        Some(status) if !status.success() => Some(format!("QEMU ended with {status}")),
        Some(_) => None,
    }
}

/// Judges a run.
fn judge(run: &Run, said: &Said) -> Verdict {
    let mut problems: Vec<String> = wrong_ending(said, PATIENCE).into_iter().collect();
    let report = ktap::parse(&Log::of(&said.stdout));
    problems.extend(wrong_results(&report));
    let mut note = format!("{} checks", report.totals().passed);
    if run.has("MODEL") {
        let property = run.property();
        problems.extend(wrong_counters(property, &said.stdout, &said.stderr));
        if let Some(last) = said.stderr.lines().rfind(|line| line.starts_with(property)) {
            note.push_str(&format!(", {last}"));
        }
    } else if !said.stderr.is_empty() {
        // A machine without the model must not count anything.
        problems.push(format!("QEMU said: {}", said.stderr));
    }
    none_of(problems, note)
}

/// What is wrong with the guest's results: each must be a pass, and none may be missing.
fn wrong_results(report: &ktap::Report) -> Vec<String> {
    let failed = report.cases.iter().filter(|case| case.status != Status::Pass).map(|case| {
        let notes = case.all_notes();
        format!("{} of {}: {}", case.status, case.name, notes.last().unwrap_or(&"nothing was said"))
    });
    let mut problems: Vec<String> = failed.chain(report.all_problems().iter().map(ToString::to_string)).collect();
    if problems.is_empty() && report.status() != Status::Pass {
        problems.push(format!("the results as a whole: {}", report.status()));
    }
    problems
}

/// How QEMU's counters differ from what the guest expects, and their total from their sum.
///
/// The guest says what the first counters must be, up to those that depend on QEMU's TLB.
fn wrong_counters(property: &str, stdout: &str, stderr: &str) -> Vec<String> {
    let start = format!("{property}: ");
    let wanted: Vec<&str> = lines_of(stdout, "expect ").collect();
    let counted = |word: &str| lines_of(stderr, &start).filter(|line| line.starts_with(word)).collect::<Vec<&str>>();
    let (harts, totals) = (counted("hart="), counted("total "));
    let mut problems = Vec::new();
    let begins = |(hart, wanted): (&&str, &&str)| {
        hart.strip_prefix(wanted).is_some_and(|rest| rest.is_empty() || (property == HELD && rest.starts_with(' ')))
    };
    if wanted.is_empty() || wanted.len() != harts.len() || !harts.iter().zip(&wanted).all(begins) {
        problems.push(format!("counters: wanted {wanted:?}, got {harts:?}"));
    }
    match total_of(&harts) {
        Some(total) if totals == [total.as_str()] => {}
        Some(total) => problems.push(format!("total: wanted {total:?}, got {totals:?}")),
        None => problems.push(format!("counters that cannot be added up: {harts:?}")),
    }
    problems
}

/// The line with the sums of `hart=N NAME=COUNT NAME=COUNT`; `None` if these differ in more than numbers.
fn total_of(harts: &[&str]) -> Option<String> {
    let mut sums: Vec<(&str, u64)> = Vec::new();
    for (nth, hart) in harts.iter().enumerate() {
        let mut fields = hart.split_whitespace().map(|word| {
            let (name, count) = word.split_once('=')?;
            Some((name, count.parse::<u64>().ok()?))
        });
        fields.next()??;
        let counts = fields.collect::<Option<Vec<_>>>()?;
        if nth == 0 {
            sums = counts;
            continue;
        }
        if counts.len() != sums.len() {
            return None;
        }
        for (sum, (name, count)) in sums.iter_mut().zip(counts) {
            if sum.0 != name {
                return None;
            }
            sum.1 = sum.1.checked_add(count)?;
        }
    }
    let counts: String = sums.iter().map(|(name, sum)| format!(" {name}={sum}")).collect();
    Some(format!("total harts={}{counts}", harts.len()))
}

/// The same seed makes the same choices, another seed makes others: of three random runs, the last has
/// another seed. Each has a pattern for each of the three modes of the MMU.
fn chosen_by_seed(patterns: &[Vec<String>]) -> Verdict {
    match patterns {
        [one, same, other] if one.len() == 3 && one == same && same != other => Ok(String::new()),
        _ => Err(vec![format!("{patterns:?}")]),
    }
}

/// Runs with the same seed are the same; another seed gives another run.
fn repeated(one: &str, again: &str, other: &str) -> Verdict {
    let mut problems = Vec::new();
    if one != again {
        problems.push(format!("the same run differs:\n{one}\n{again}"));
    }
    if again == other {
        problems.push(format!("another seed gives the same run:\n{one}"));
    }
    let hashes = lines_of(one, "hash ").count();
    if hashes != STORM_HARTS as usize {
        problems.push(format!("{hashes} harts have a hash:\n{one}"));
    }
    if !one.contains(&format!("{PROPERTY}: total harts={STORM_HARTS}")) {
        problems.push(format!("no total of {STORM_HARTS} harts:\n{one}"));
    }
    none_of(problems, one.lines().last().unwrap_or_default())
}

/// Tracing does not change the run, and shows the same every time.
fn repeated_with_trace(one: &str, first: &(String, String), second: &(String, String)) -> Verdict {
    let mut problems = Vec::new();
    if first.0 != one {
        problems.push(format!("a run with a trace differs from one without:\n{one}\n{}", first.0));
    }
    if first.0 != second.0 {
        problems.push(format!("two runs with a trace differ:\n{}\n{}", first.0, second.0));
    }
    if first.1 != second.1 {
        problems.push("two traces of the same run differ".to_owned());
    }
    none_of(problems, "")
}

/// A value in a trace.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Value {
    Number(i128),
    Word(String),
}

/// A line of a trace.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Event {
    name: String,
    fields: BTreeMap<String, Value>,
}

impl Event {
    /// An event with these numbers.
    fn of(name: &str, numbers: &[(&str, i128)]) -> Self {
        let fields = numbers.iter().map(|(name, number)| ((*name).to_owned(), Value::Number(*number))).collect();
        Self { name: name.to_owned(), fields }
    }

    /// The same with a kind of access.
    fn of_access(self, access: &str) -> Self {
        self.with("access", access)
    }

    /// The same with a word.
    fn with(mut self, name: &str, word: &str) -> Self {
        self.fields.insert(name.to_owned(), Value::Word(word.to_owned()));
        self
    }

    /// The same without a time.
    fn timeless(mut self) -> Self {
        self.fields.remove("time");
        self
    }

    fn parse(line: &str) -> Option<Self> {
        let mut words = line.strip_prefix(trace::PREFIX)?.split_whitespace();
        let name = words.next()?.to_owned();
        let field = |word: &str| {
            let (name, text) = word.split_once('=')?;
            let value = match text {
                word if word.starts_with(|c: char| c.is_ascii_alphabetic()) || word.contains(',') => {
                    Value::Word(word.to_owned())
                }
                _ => Value::Number(match text.strip_prefix("0x") {
                    Some(digits) => u64::from_str_radix(digits, 16).ok()?.into(),
                    None => text.parse().ok()?,
                }),
            };
            Some((name.to_owned(), value))
        };
        Some(Self { name, fields: words.map(field).collect::<Option<_>>()? })
    }

    fn number(&self, name: &str) -> Told<i128> {
        match self.fields.get(name) {
            Some(Value::Number(number)) => Ok(*number),
            _ => Err(format!("{} has no number {name}: {:?}", self.name, self.fields)),
        }
    }
}

fn events(log: &str) -> Told<Vec<Event>> {
    log.lines().map(|line| Event::parse(line).ok_or_else(|| format!("not an event: {line:?}"))).collect()
}

/// QEMU's sums.
fn total(said: &str) -> Told<machine::Counters> {
    machine::parse_counters(said, PROPERTY)?.ok_or_else(|| format!("QEMU did not print a line `{PROPERTY}: total`"))
}

/// The parts of a hit by name.
type Parts<'a> = BTreeMap<&'a str, &'a Event>;

/// Checks that each stale hit of a storm comes with who made the PTE valid, and that this was after the
/// table was read.
fn stories(said: &str, log: &str) -> Verdict {
    let told = || -> Told<Vec<String>> {
        let events = events(log)?;
        let mut hits: BTreeMap<(i128, i128), Parts<'_>> = BTreeMap::new();
        for event in events.iter().filter(|e| e.name == "stale_hit") {
            hits.insert((event.number("hart")?, event.number("hit")?), Parts::from([("stale_hit", event)]));
        }
        for event in &events {
            if let Some(parts) = hits.get_mut(&(event.number("hart")?, event.number("hit")?)) {
                parts.entry(event.name.as_str()).or_insert(event);
            }
        }
        let total = total(said)?.stale_hits;
        let mut problems = Vec::new();
        // By hart: who made the PTEs valid that it hit.
        let mut pairs = BTreeSet::new();
        let (mut others, mut ended) = (0, 0);
        for ((hart, hit), parts) in &hits {
            match maker(parts) {
                Ok(by) => {
                    pairs.insert((*hart, by));
                    others += u64::from(by != *hart);
                }
                Err(why) => problems.push(format!("hit {hit} of hart {hart} {why}: {parts:?}")),
            }
            ended += u64::from(parts.contains_key("stale_end"));
        }
        let count = hits.len() as u64;
        if count != total || others < total / 4 || ended <= total / 4 || ended > total {
            problems.push(format!("{count} hits of {total}, {others} for PTEs of other harts, {ended} ended"));
        }
        if pairs.len() as u64 != u64::from(STORM_HARTS).pow(2) {
            problems.push(format!("not every hart hit PTEs that each hart made valid: {pairs:?}"));
        }
        Ok(problems)
    };
    none_of(told().map_err(|why| vec![why])?, "")
}

/// The hart that made the PTE of a hit valid, or what is wrong with the parts of that hit.
fn maker(parts: &Parts<'_>) -> Told<i128> {
    let part = |name: &str| parts.get(name).copied().ok_or_else(|| format!("lacks {name}"));
    let (hit, read, store) = (part("stale_hit")?, part("stale_read")?, part("stale_store")?);
    part("stale_fence")?;
    let time = hit.number("time")?;
    let made = store.number("time")?;
    if read.number("time")? > made || made > time {
        return Err("is out of order".to_owned());
    }
    let by = store.number("by")?;
    if !(0..i128::from(STORM_HARTS)).contains(&by) {
        return Err("was made valid by nobody".to_owned());
    }
    if let Some(end) = parts.get("stale_end")
        && end.number("time")? < time
    {
        return Err("ends before it begins".to_owned());
    }
    Ok(by)
}

/// The machines of QEMU's own test, and what it sees on each, from its Makefile.
fn own_rows(makefile: &str) -> Told<Vec<(String, i32)>> {
    let makefile = makefile.replace("\\\n", " ");
    let value = |name: &str| {
        let value = makefile.lines().find_map(|line| line.strip_prefix(name)?.trim_start().strip_prefix('='));
        value.map(str::trim).ok_or_else(|| format!("the Makefile has no `{name}`"))
    };
    let row = |run: &str| -> Told<(String, i32)> {
        let seen = value(&format!("{run}: STALE_SEEN"))?;
        let seen = seen.parse().map_err(|_| format!("the Makefile has {seen} as what {run} sees"))?;
        Ok((value(&format!("{run}: STALE_CPU"))?.to_owned(), seen))
    };
    value("STALE_RUNS")?.split_whitespace().map(row).collect()
}

/// Checks that the trace tells of all walks of page tables that are gone, and who removed each of them. The guest walks
/// one of them three times.
fn removed_tables(stderr: &str, log: &str) -> Verdict {
    let story = trace::read(log).map_err(|why| vec![why])?;
    let gone: Vec<_> = story.uses.iter().filter(|of| of.what == What::Detached).collect();
    let mut problems = Vec::new();
    for of in &gone {
        let read = of.read.map_or(0, |(time, _)| time);
        let removes = |store: &Store| store.by == Some(of.hart) && (read..of.time).contains(&store.time);
        let above = of.held.is_some_and(|(level, ..)| level > 0);
        if read == 0 || !of.store.as_ref().is_some_and(removes) || !above || of.end.is_none() {
            problems.push(format!("not told in full: {of:?}"));
        }
    }
    let walks: u64 = gone.iter().map(|of| of.repeats).sum();
    if !lines_of(stderr, &format!("{HELD}: "))
        .any(|line| line.starts_with("total ") && line.split(' ').any(|word| word == format!("tables={walks}")))
    {
        problems.push(format!("{walks} walks in the trace:\n{stderr}"));
    }
    if !gone.iter().any(|of| of.repeats == 3) {
        problems.push("no page table was walked three times".to_owned());
    }
    if !log.contains(" walks=2\n") {
        problems.push("only the first walk was told of at once".to_owned());
    }
    none_of(problems, format!("{walks} walks of {} page tables", gone.len()))
}

/// The first hit of the guest's tests of `x-late-pte` in full, with the pc of each access: the stubs are
/// where the linker put them.
fn story_of_first_hit(width: &Width, log: &str, symbols: &Symbols, stderr: &str) -> Told<Verdict> {
    let events = events(log)?;
    let at = events.iter().position(|e| e.name == "stale_hit").ok_or("there is no hit")?;
    let part: &[Event; 7] =
        events[at..].first_chunk().ok_or_else(|| format!("{} events from the first hit on", events.len() - at))?;
    let remembered = events.iter().find(|e| e.name == "remember").ok_or("nothing was remembered")?;
    let table = remembered.number("table")?;
    let wanted = first_seven(width, part, table, symbols)?;
    let differs = |(got, wanted): (&Event, &Event)| {
        let got = got.clone().timeless();
        (got != *wanted).then(|| format!("{got:?} instead of {wanted:?}"))
    };
    let mut problems: Vec<String> = part.iter().zip(&wanted).filter_map(differs).collect();

    // C code stores the PTEs: neither a stub, nor what follows the stubs.
    let main = address_of(symbols, "guest_main")?;
    let by = part[2].number("pc")?;
    let stubs = symbols.iter().filter(|(name, _)| name.starts_with("stub_") || name.starts_with("fence_"));
    let is_c = |stub: i128| by < stub || stub <= main;
    if by < main || !stubs.map(|(_, address)| i128::from(*address)).all(is_c) {
        problems.push(format!("stored at {by:#x}"));
    }
    // The PTEs of pages 1 to 6 were made valid in one loop, and the last one was stored to again later.
    let mut makers = BTreeSet::new();
    for event in events.iter().filter(|e| e.name == "stale_store") {
        let pte = event.number("pte")?;
        if pte == table + width.pte_size || pte == table + 6 * width.pte_size {
            makers.insert(event.number("pc")?);
        }
    }
    if makers != BTreeSet::from([by]) {
        problems.push(format!("made valid at {makers:x?}"));
    }
    for caller in [part[0].number("ra")?, part[2].number("ra")?] {
        if caller < main {
            problems.push(format!("called from {caller:#x}"));
        }
    }
    let total = total(stderr)?;
    for (name, counted) in [("stale_hit", total.stale_hits), ("fence", total.fences)] {
        let count = events.iter().filter(|e| e.name == name).count() as u64;
        if count != counted {
            problems.push(format!("{count} events {name}, but QEMU counted {counted}"));
        }
    }
    Ok(none_of(problems, ""))
}

/// What the first seven events from a hit on must be, except for their times. A load and then a store
/// fault, on pages whose PTEs hart 0 made valid after it had read the table. Which PC did that, and who
/// called the stubs, depends on the C compiler, so these come from the events themselves.
fn first_seven(width: &Width, part: &[Event; 7], table: i128, symbols: &Symbols) -> Told<[Event; 7]> {
    let (load, store) = (address_of(symbols, "stub_load")?, address_of(symbols, "stub_store")?);
    // A nop comes first.
    let fence = address_of(symbols, "fence_all")? + 4;
    let told = |nth: usize, name: &str| part[nth].number(name);
    let hit = |number, page: i128, pc, ra| {
        Event::of(
            "stale_hit",
            &[
                ("hart", 0),
                ("hit", number),
                ("mode", 1),
                ("addr", width.top + 4096 * page),
                ("pc", pc),
                ("ra", ra),
                ("asid", 1),
                ("fences", 1),
            ],
        )
    };
    let first = |name: &str, more: &[(&str, i128)]| Event::of(name, &[&[("hart", 0), ("hit", 1)][..], more].concat());
    Ok([
        hit(1, 1, load, told(0, "ra")?).of_access("load"),
        first("stale_read", &[("pc", load), ("addr", width.top), ("level", 0), ("fences", 1)]),
        first(
            "stale_store",
            &[("by", 0), ("pc", told(2, "pc")?), ("ra", told(2, "ra")?), ("pte", table + width.pte_size)],
        ),
        // Of the stub; the store was made in M-mode.
        first("stale_frames", &[("pc", load)]).with("of", "hit").with("frames", "0x1004,0x2008"),
        first("stale_fence", &[("pc", fence), ("addr", 0), ("asid", 0), ("flags", 0)]),
        first("stale_end", &[("pc", load), ("fences", 0)]).with("reason", "late"),
        hit(2, 2, store, told(6, "ra")?).of_access("store"),
    ])
}

fn address_of(symbols: &Symbols, name: &str) -> Told<i128> {
    symbols.get(name).map(|address| i128::from(*address)).ok_or_else(|| format!("the guest has no {name}"))
}

/// The monitor shows the word in both pages, and the counters are as if it had not looked.
fn seen_by_monitor(said: &Said, log: &str) -> Verdict {
    let mut problems = Vec::new();
    if said.status.is_none() {
        problems.push(format!("it did not end within {} s", SOON.as_secs()));
    }
    if said.stdout.matches("0x123456789abcdef0").count() != 2 {
        problems.push("the monitor does not see both words".to_owned());
    }
    match lines_of(log, "expect ").find(|line| line.starts_with("hart=0 ")) {
        Some(wanted) if lines_of(&said.stderr, &format!("{PROPERTY}: ")).any(|line| line == wanted) => {}
        Some(wanted) => problems.push(format!("no counters {wanted}")),
        None => problems.push("the guest does not say what the counters must be".to_owned()),
    }
    if log.contains("not ok") {
        problems.push("a check of the guest failed".to_owned());
    }
    if !problems.is_empty() {
        problems.extend([end_of(said), log.to_owned()]);
    }
    none_of(problems, "")
}

/// The counters of three harts and their total appear exactly once.
fn counted_at_the_end(said: &Said) -> Verdict {
    let count = |start: String| said.stderr.matches(&start).count();
    if said.status.is_none() {
        return Err(vec![format!("it did not end within {} s", SOON.as_secs()), end_of(said)]);
    }
    let seen = (count(format!("{PROPERTY}: hart=")), count(format!("{PROPERTY}: total harts=3 ")));
    match seen {
        (3, 1) => Ok(String::new()),
        (harts, totals) => Err(vec![format!("{harts} harts were counted, and {totals} totals"), end_of(said)]),
    }
}

/// QEMU exited with status 1 and this message.
fn refused(said: &Said, message: &str) -> Verdict {
    let Some(status) = said.status else {
        return Err(vec![format!("it did not end within {} s", SOON.as_secs()), end_of(said)]);
    };
    if status.code() == Some(1) && said.stderr.contains(message) {
        return Ok(String::new());
    }
    Err(vec![format!("{status}: {}", said.stderr.trim())])
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    use super::*;

    const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/machine/guest.c");

    /// What guest.c prints, shortened: a reset, counters, and a hart that did nothing.
    const GUEST: &str = "\
KTAP version 1
ok 1 - sv39 touch the valid neighbour
ok 2 - sv39 load from a page made valid
#   If rs1=x0 and rs2=x0 ... The fence also invalidates all address-translation cache entries, for all address spaces.
# sfence.vma
ok 3 - sv39 is executed
stage 0 failed
ok 4 - sv39 a reset forgets
1..4
expect hart=0 stale_hits=5 fences=7 remembered=3 coexisting=2 chosen_invalid=1 evictions=4
expect hart=1 stale_hits=0 fences=0 remembered=1 coexisting=0 chosen_invalid=0 evictions=0
";
    const COUNTERS: &str = "\
x-cache-invalid: hart=0 stale_hits=5 fences=7 remembered=3 coexisting=2 chosen_invalid=1 evictions=4
x-cache-invalid: hart=1 stale_hits=0 fences=0 remembered=1 coexisting=0 chosen_invalid=0 evictions=0
x-cache-invalid: total harts=2 stale_hits=5 fences=7 remembered=4 coexisting=2 chosen_invalid=1 evictions=4
";

    fn said(code: i32, stdout: &str, stderr: &str) -> Said {
        let status = Some(ExitStatus::from_raw(code << 8));
        Said { status, stdout: stdout.to_owned(), stderr: stderr.to_owned() }
    }

    fn cut_off(stdout: &str, stderr: &str) -> Said {
        Said { status: None, ..said(0, stdout, stderr) }
    }

    /// Changes a text in one place, which must exist.
    fn but(text: &str, from: &str, to: &str) -> String {
        assert!(text.contains(from), "{from}");
        text.replacen(from, to, 1)
    }

    fn modelled() -> Run {
        Run::new(FULL_CPU, FULL)
    }

    #[test]
    fn bits_are_those_of_the_guest() {
        let params = Params::read(Path::new(SOURCE)).unwrap();
        let word = |run: &Run| params.device(run).unwrap();
        let spin = Run::new("rv64", &["MODEL", "SPIN"]);
        assert_eq!(word(&spin), "loader,addr=0x80f00000,data=2199023255585,data-len=8");
        let storm = Run::new("rv64", &["MODEL", "STORM"]).harts(4);
        let number = (4u64 << 40) | (1 << 23) | 1;
        assert_eq!(word(&storm), format!("loader,addr=0x80f00000,data={number},data-len=8"));
        runs().iter().for_each(|run| assert!(word(run).starts_with("loader,"), "{}", run.name()));
        let unknown = params.device(&Run::new("rv64", &["NONE"])).unwrap_err();
        assert!(unknown.message.contains("PARAM_NONE"), "{unknown}");

        // No two share a bit, and none overlaps the number of harts.
        let mut all = 0xfu64 << params.get("HARTS").unwrap();
        for (name, bit) in params.0.iter().filter(|(name, _)| !["ADDRESS", "HARTS"].contains(&name.as_str())) {
            assert_eq!((bit.count_ones(), all & bit), (1, 0), "{name}");
            all |= bit;
        }
    }

    #[test]
    fn values_in_c() {
        let params = Params::parse(
            "#define PARAMS (*(u64 *)1)\n#define PARAM_A\t64\t/* a */\n#define PARAM_B 0x40\n#define PARAM_C (1 << 6)\n\
             #define PARAM_D (1 << 64)\n#define PARAM_E PARAM_A\n",
        );
        let all: Vec<_> = params.0.iter().map(|(name, value)| (name.as_str(), *value)).collect();
        assert_eq!(all, [("A", 64), ("B", 64), ("C", 64)]);
    }

    #[test]
    fn machines_and_their_names() {
        let runs = runs();
        assert_eq!(runs.len(), 98);
        let mut names: BTreeSet<String> = runs.iter().map(Run::name).collect();
        names.extend(REFUSALS.iter().map(|(cpu, accelerator, _)| format!("{cpu} {accelerator}")));
        assert_eq!(names.len(), runs.len() + REFUSALS.len());
        for run in &runs {
            assert!(run.cpu.starts_with(run.width().cpu) || run.cpu.starts_with("max"), "{}", run.name());
            // The parameters must tell the guest what its machine does.
            let models =
                ["x-cache-invalid", "x-late-pte", "x-cache-valid", "x-late-store"].iter().any(|p| run.cpu.contains(p));
            assert_eq!(run.has("MODEL"), models, "{}", run.name());
            assert_eq!(run.has("CIP_453"), run.cpu.contains("x-cip-453"), "{}", run.name());
            assert_eq!(run.has("LATE"), run.cpu.contains("x-late-pte"), "{}", run.name());
            let apart = run.has("APART");
            assert_eq!(apart || (run.has("HELD") && models), run.cpu.contains("x-cache-valid"), "{}", run.name());
            assert_eq!(apart || (run.has("GUEST") && models), run.cpu.contains("-guest="), "{}", run.name());
            assert_eq!(run.has("ONLY_VS"), run.cpu.contains("-guest=vs"), "{}", run.name());
            assert_eq!(run.has("ONLY_G"), run.cpu.contains("-guest=g"), "{}", run.name());
            assert_eq!(run.has("NAPOT"), run.cpu.contains("svnapot"), "{}", run.name());
            assert_eq!(run.has("THEAD"), run.cpu.contains("xtheadsync"), "{}", run.name());
            assert_eq!(run.has("ZACAS"), run.cpu.contains("zacas"), "{}", run.name());
            assert_eq!(run.has("ZTSO"), run.cpu.contains("ztso"), "{}", run.name());
            assert_eq!(run.has("ZICFISS"), run.cpu.contains("zicfiss"), "{}", run.name());
            assert_eq!(run.has("ANY"), run.cpu.contains("coexist=any"), "{}", run.name());
            assert_eq!(run.has("VIRTUAL"), run.extra.contains(&"-icount") && !run.has("ANY"), "{}", run.name());
        }
        assert_eq!(runs.iter().filter(|run| run.has("RANDOM")).count(), 3);
        let all = &runs[36];
        assert!(
            all.cpu.ends_with("-evict-at=trap-s+trap-u+sscratch+sscratch-set+sstatus+sepc+stvec+satp+sret"),
            "{}",
            all.cpu
        );
        assert_eq!(
            all.params[3..],
            ["VALID", "TRAP_S", "TRAP_U", "SSCRATCH", "SSCRATCH_SET", "SSTATUS", "SEPC", "STVEC", "SATP", "SRET"]
        );
        let narrow: Vec<&Run> = runs.iter().filter(|run| run.width().elf == RV32.elf).collect();
        assert_eq!(narrow.len(), 23);
        assert!(narrow.iter().all(|run| !run.has("RANDOM") && !run.has("NAPOT") && !run.has("CIP_453")));
        assert_eq!(runs[10].name(), format!("{FULL_CPU} -smp 4"));
        assert_eq!(
            runs[10].arguments(),
            ["-M", "virt", "-cpu", FULL_CPU, "-smp", "4", "-m", "256M", "-display", "none"]
        );
    }

    #[test]
    fn a_run_that_is_as_it_must_be() {
        let note = judge(&modelled(), &said(0, GUEST, COUNTERS)).unwrap();
        assert!(note.starts_with("4 checks, x-cache-invalid: total harts=2 "), "{note}");
        // QEMU may warn of something.
        assert!(judge(&modelled(), &said(0, GUEST, &format!("qemu: warning\n{COUNTERS}"))).is_ok());
        let plain = Run::new("rv64", &["SVVPTC"]);
        assert_eq!(judge(&plain, &said(0, GUEST, "")).unwrap(), "4 checks");
    }

    #[test]
    fn rows_of_the_own_test_of_qemu() {
        let makefile = "STALE_RUNS = run-stale-none \\\n\trun-stale-line\nEXTRA_RUNS += $(STALE_RUNS)\n\
                        run-stale-none: STALE_CPU = rv64\nrun-stale-none: STALE_SEEN = 0\n\
                        run-stale-line: STALE_CPU = \\\n\trv64,x=on\nrun-stale-line: STALE_SEEN = 3\n";
        assert_eq!(own_rows(makefile).unwrap(), [("rv64".to_owned(), 0), ("rv64,x=on".to_owned(), 3)]);
        for (from, to, problem) in [
            ("STALE_RUNS =", "RUNS =", "no `STALE_RUNS`"),
            ("run-stale-none: STALE_CPU", "x", "no `run-stale-none: STALE_CPU`"),
            ("run-stale-line: STALE_SEEN", "x", "no `run-stale-line: STALE_SEEN`"),
            ("SEEN = 3", "SEEN = all", "all as what run-stale-line sees"),
        ] {
            let why = own_rows(&makefile.replace(from, to)).unwrap_err();
            assert!(why.contains(problem), "{why}");
        }
    }

    #[test]
    fn walks_of_page_tables_that_are_gone() {
        let one = |number: u64, walks: u64| {
            format!(
                "riscv_valid_cache_stale_use hart=0 use={number} time=50 mode=1 access=load addr=0x1000 pc=0x1 ra=0x0 \
                 asid=1 what=detached\n\
                 riscv_valid_cache_stale_read hart=0 use={number} time=10 pc=0x1 level=1 global=0 held=0x1 memory=0x0 \
                 fences=7\n\
                 riscv_valid_cache_stale_store hart=0 use={number} time=20 by=0 pc=0x2 ra=0x0 pte=0x8\n\
                 riscv_valid_cache_stale_walks hart=0 use={number} time=60 pc=0x1 walks=2\n\
                 riscv_valid_cache_stale_end hart=0 use={number} time=90 pc=0x1 uses={walks} reason=fence\n"
            )
        };
        let counted = |tables: u64| format!("x-cache-valid: total harts=2 fences=7 tables={tables} held=9\n");
        let log = one(1, 3) + &one(4, 2);
        assert_eq!(removed_tables(&counted(5), &log).unwrap(), "5 walks of 2 page tables");
        for (count, log, problem) in [
            (6, log.clone(), "5 walks in the trace"),
            (55, log.clone(), "5 walks in the trace"),
            (5, log.replace("by=0", "by=-1"), "not told in full"),
            (5, log.replace("time=20", "time=60"), "not told in full"),
            (5, log.replace("time=10", "time=0"), "not told in full"),
            (5, log.replace("level=1", "level=0"), "not told in full"),
            (4, one(1, 2) + &one(3, 2), "no page table was walked three times"),
            (0, String::new(), "no page table was walked three times"),
            (5, log.replace("walks=2", "walks=4"), "only the first walk was told of at once"),
            (5, log.replace("what=detached", "what=gone"), "what=gone"),
        ] {
            let problems = removed_tables(&counted(count), &log).unwrap_err();
            assert!(problems.iter().any(|p| p.contains(problem)), "{problem}: {problems:?}");
        }
    }

    #[test]
    fn counters_of_what_is_held() {
        let guest = GUEST.replace("expect hart=0 stale_hits=5 fences=7", "expect hart=0 fences=7 unmapped=5");
        let (guest, _) = guest.split_once(" remembered=3").unwrap();
        let counters = "x-cache-valid: hart=0 fences=7 unmapped=5 held=9\nx-cache-valid: total harts=1 fences=7 unmapped=5 held=9\n";
        let run = Run::holding("", &[]);
        assert!(judge(&run, &said(0, guest, counters)).is_ok(), "{:?}", judge(&run, &said(0, guest, counters)));
        for (from, to) in [
            ("unmapped=5 held", "unmapped=6 held"),
            ("unmapped=5 held", "unmapped=51 held"),
            ("x-cache-valid", "x-cache-invalid"),
        ] {
            let problems = judge(&run, &said(0, guest, &counters.replace(from, to))).unwrap_err();
            assert!(problems.iter().any(|p| p.contains("counters: wanted")), "{from}: {problems:?}");
        }
    }

    #[test]
    fn a_run_that_is_not() {
        let failed =
            "# cause 9, wanted 13, tval 0x0000000000000000, va 0xffffffc000001000\nnot ok 2 - sv39 load: wrong trap";
        for (text, problem) in [
            (but(GUEST, "ok 2 - sv39 load from a page made valid", failed), "fail of sv39 load: wrong trap: cause 9"),
            (but(GUEST, "ok 3 - sv39 is executed\n", ""), "test 4 where test 3 was due"),
            (but(GUEST, "1..4\n", ""), "have no plan"),
            (but(GUEST, "1..4", "1..5"), "test 5 is planned and has no result"),
            (but(GUEST, "KTAP version 1\n", ""), "without a line"),
            (but(GUEST, "expect hart=0 stale_hits=5", "expect hart=0 stale_hits=6"), "counters: wanted"),
            (but(GUEST, "expect hart=1", "unexpected hart=1"), "counters: wanted"),
            (GUEST.replace("expect ", "except "), "counters: wanted"),
            (String::new(), "no test results"),
        ] {
            let problems = judge(&modelled(), &said(0, &text, COUNTERS)).unwrap_err();
            assert!(problems.iter().any(|p| p.contains(problem)), "{problem}: {problems:?}");
        }
        for (counters, problem) in [
            (but(COUNTERS, "fences=7", "fences=8"), "counters: wanted"),
            (but(COUNTERS, "remembered=4", "remembered=3"), "total: wanted"),
            (but(COUNTERS, "total harts=2", "total harts=1"), "total: wanted"),
            (but(COUNTERS, "x-cache-invalid: hart=1", "hart=1"), "counters: wanted"),
            (format!("{COUNTERS}x-cache-invalid: total harts=2\n"), "total: wanted"),
            (String::new(), "counters: wanted"),
        ] {
            let problems = judge(&modelled(), &said(0, GUEST, &counters)).unwrap_err();
            assert!(problems.iter().any(|p| p.contains(problem)), "{problem}: {problems:?}");
        }
        let plain = Run::new("rv64", &["SVVPTC"]);
        assert_eq!(judge(&plain, &said(0, GUEST, COUNTERS)).unwrap_err(), [format!("QEMU said: {COUNTERS}")]);
        let status = judge(&modelled(), &said(1, GUEST, COUNTERS)).unwrap_err();
        assert_eq!(status, ["QEMU ended with exit status: 1"]);
        let late = judge(&modelled(), &cut_off(GUEST, COUNTERS)).unwrap_err();
        assert_eq!(late, ["it did not end within 120 s"]);
    }

    #[test]
    fn sums_of_counters() {
        assert_eq!(total_of(&["hart=0 a=1 b=2", "hart=1 a=3 b=4"]), Some("total harts=2 a=4 b=6".to_owned()));
        for harts in [["hart=0 a=1", "hart=1 b=1"], ["hart=0 a=1", "hart=1"], ["hart=0 a=1", "hart=1 a=x"]] {
            assert_eq!(total_of(&harts), None, "{harts:?}");
        }
    }

    #[test]
    fn seeds_make_choices() {
        let pattern = |word: &str| vec![word.to_owned(), "0x2".to_owned(), "0x3".to_owned()];
        let (one, other) = (pattern("0x1"), pattern("0x9"));
        assert!(chosen_by_seed(&[one.clone(), one.clone(), other.clone()]).is_ok());
        assert!(chosen_by_seed(&[one.clone(), one.clone(), one.clone()]).is_err());
        assert!(chosen_by_seed(&[one.clone(), other.clone(), one.clone()]).is_err());
        assert!(chosen_by_seed(&[one.clone(), one.clone()]).is_err());
        assert!(chosen_by_seed(&[one[..2].to_vec(), one[..2].to_vec(), other]).is_err());
    }

    /// What a storm prints.
    fn storm(hash: &str, hits: u64) -> String {
        format!(
            "hash {hash}\nhash 0x2\nhash 0x3\nhash 0x4\n\
             x-cache-invalid: total harts=4 stale_hits={hits} fences=9 remembered=7 coexisting=0 chosen_invalid=0 evictions=0\n"
        )
    }

    #[test]
    fn runs_are_repeated() {
        let (one, other) = (storm("0x1", 16), storm("0x9", 16));
        assert!(repeated(&one, &one, &other).unwrap().starts_with("x-cache-invalid: total"));
        assert!(repeated(&one, &other, &one).is_err());
        assert!(repeated(&one, &one, &one).is_err());
        for (from, to) in [("hash 0x4\n", ""), ("harts=4", "harts=3")] {
            let less = but(&one, from, to);
            assert!(repeated(&less, &less, &other).is_err(), "{from}");
        }
        let (traced, trace_differs) = ((one.clone(), "a".to_owned()), (one.clone(), "b".to_owned()));
        assert!(repeated_with_trace(&one, &traced, &traced).is_ok());
        assert!(repeated_with_trace(&one, &traced, &trace_differs).is_err());
        assert!(repeated_with_trace(&other, &traced, &traced).is_err());
        assert!(repeated_with_trace(&one, &traced, &(other, "a".to_owned())).is_err());
    }

    /// A trace of a storm: each hart meets a PTE of each other one, and of its own.
    fn storm_trace() -> String {
        let mut log = String::new();
        for hart in 0..4 {
            for by in 0..4 {
                let (hit, time) = (by + 1, 1000 * (by + 1));
                log.push_str(&format!(
                    "riscv_invalid_cache_stale_hit hart={hart} hit={hit} time={} mode=1 access=load addr=0xffffffc000001000 pc=0x800001a0 ra=0x80001000 asid=1 fences=1\n\
                     riscv_invalid_cache_stale_read hart={hart} hit={hit} time={} pc=0x800001a0 addr=0xffffffc000000000 level=0 fences=1\n\
                     riscv_invalid_cache_stale_store hart={hart} hit={hit} time={} by={by} pc=0x80002000 ra=0x80001000 pte=0x80105008\n\
                     riscv_invalid_cache_stale_fence hart={hart} hit={hit} time={} pc=0x800001f0 addr=0x0 asid=0 flags=0\n\
                     riscv_invalid_cache_stale_end hart={hart} hit={hit} time={} pc=0x800001a0 fences=0\n",
                    time + 300,
                    time + 100,
                    time + 200,
                    time,
                    time + 400
                ));
            }
        }
        log
    }

    #[test]
    fn each_hit_has_its_story() {
        let said = storm("0x1", 16);
        let log = storm_trace();
        assert_eq!(stories(&said, &log), Ok(String::new()));
        let without = |part: &str| -> String {
            let line = log.lines().find(|line| line.contains(part)).unwrap();
            but(&log, &format!("{line}\n"), "")
        };
        for (log, problem) in [
            (without("stale_read"), "lacks stale_read"),
            (without("stale_store"), "lacks stale_store"),
            (without("stale_fence"), "lacks stale_fence"),
            (but(&log, "time=1100", "time=1201"), "out of order"),
            (but(&log, "time=1200", "time=1301"), "out of order"),
            (but(&log, "time=1400", "time=1299"), "ends before it begins"),
            (but(&log, "by=0", "by=-1"), "made valid by nobody"),
            (but(&log, "by=0", "by=4"), "made valid by nobody"),
            (but(&log, "by=0", "by=1"), "not every hart"),
            (log.replace("stale_end", "stale_ending"), "0 ended"),
            (log.replace("by=1", "by=0"), "not every hart"),
            (but(&log, "hit=1 ", ""), "has no number hit"),
            (but(&log, "hit=1 ", "hit=one "), "has no number hit"),
            (format!("{log}qemu: something else\n"), "not an event"),
            (String::new(), "0 hits of 16"),
        ] {
            let problems = stories(&said, &log).unwrap_err();
            assert!(problems.iter().any(|p| p.contains(problem)), "{problem}: {problems:?}");
        }
        assert!(stories(&storm("0x1", 17), &log).is_err());
        assert!(stories("", &log).is_err());
    }

    /// The trace of the first hits of `x-late-pte`, and the rest that is looked at.
    const TRACE: &str = "\
riscv_invalid_cache_remember hart=0 time=90 addr=0xffffffc000000000 level=0 asid=1 table=0x80105000 pc=0x80000100 fences=1
riscv_invalid_cache_fence hart=0 time=95 pc=0x80000204 addr=0x0 asid=0 flags=0
riscv_invalid_cache_stale_hit hart=0 hit=1 time=120 mode=1 access=load addr=0xffffffc000001000 pc=0x80000100 ra=0x80001004 asid=1 fences=1
riscv_invalid_cache_stale_read hart=0 hit=1 time=90 pc=0x80000100 addr=0xffffffc000000000 level=0 fences=1
riscv_invalid_cache_stale_store hart=0 hit=1 time=110 by=0 pc=0x80001100 ra=0x80001008 pte=0x80105008
riscv_invalid_cache_stale_frames hart=0 hit=1 time=120 pc=0x80000100 of=hit frames=0x1004,0x2008
riscv_invalid_cache_stale_fence hart=0 hit=1 time=80 pc=0x80000204 addr=0x0 asid=0 flags=0
riscv_invalid_cache_stale_end hart=0 hit=1 time=130 pc=0x80000100 fences=0 reason=late
riscv_invalid_cache_stale_hit hart=0 hit=2 time=140 mode=1 access=store addr=0xffffffc000002000 pc=0x80000108 ra=0x8000100c asid=1 fences=1
riscv_invalid_cache_stale_hit hart=0 hit=6 time=190 mode=1 access=load addr=0xffffffc000006000 pc=0x80000100 ra=0x80001004 asid=1 fences=2
riscv_invalid_cache_stale_store hart=0 hit=6 time=118 by=0 pc=0x80001100 ra=0x80001008 pte=0x80105030
";
    const TRACE_COUNTERS: &str =
        "x-cache-invalid: total harts=2 stale_hits=3 fences=1 remembered=1 coexisting=0 chosen_invalid=0 evictions=0\n";

    fn guest_symbols() -> Symbols {
        [
            ("stub_load", 0x8000_0100),
            ("stub_store", 0x8000_0108),
            ("fence_all", 0x8000_0200),
            ("guest_main", 0x8000_1000),
        ]
        .map(|(name, address)| (name.to_owned(), address))
        .into()
    }

    #[test]
    fn the_first_hit_in_full() {
        let symbols = guest_symbols();
        assert_eq!(story_of_first_hit(&RV64, TRACE, &symbols, TRACE_COUNTERS), Ok(Ok(String::new())));
        for (from, to) in [
            ("access=load", "access=store"),
            ("time=120 mode=1", "time=120 mode=0"),
            ("asid=1 fences=1\nriscv_invalid_cache_stale_read", "asid=2 fences=1\nriscv_invalid_cache_stale_read"),
            ("level=0 fences=1\nriscv_invalid_cache_stale_store", "level=1 fences=1\nriscv_invalid_cache_stale_store"),
            ("pte=0x80105008", "pte=0x80105010"),
            ("time=80 pc=0x80000204", "time=80 pc=0x80000200"),
            ("time=130 pc=0x80000100", "time=130 pc=0x80000108"),
            ("reason=late", "reason=fence"),
            ("of=hit", "of=store"),
            ("frames=0x1004,0x2008", "frames=0x1004"),
            ("access=store", "access=load"),
            // Stored by a stub, by another one than that of page 6, called from a stub.
            ("time=110 by=0 pc=0x80001100", "time=110 by=0 pc=0x80000108"),
            ("time=118 by=0 pc=0x80001100", "time=118 by=0 pc=0x80001104"),
            ("ra=0x80001008 pte=0x80105008", "ra=0x80000100 pte=0x80105008"),
            ("riscv_invalid_cache_fence", "riscv_invalid_cache_evict"),
        ] {
            let verdict = story_of_first_hit(&RV64, &but(TRACE, from, to), &symbols, TRACE_COUNTERS);
            assert!(matches!(verdict, Ok(Err(_))), "{from}: {verdict:?}");
        }
        // The same with PTEs of four bytes.
        let narrow =
            TRACE.replace("0xffffffc00000", "0xc000").replace("80105008", "80105004").replace("80105030", "80105018");
        assert_eq!(story_of_first_hit(&RV32, &narrow, &symbols, TRACE_COUNTERS), Ok(Ok(String::new())));
        let extended = but(&narrow, "pc=0x80000100 ra", "pc=0xffffffff80000100 ra");
        assert!(matches!(story_of_first_hit(&RV32, &extended, &symbols, TRACE_COUNTERS), Ok(Err(_))));
        let counted = but(TRACE_COUNTERS, "stale_hits=3", "stale_hits=4");
        assert!(matches!(story_of_first_hit(&RV64, TRACE, &symbols, &counted), Ok(Err(_))));
        // Code of the guest's that would come after the place of the store.
        let mut moved = symbols.clone();
        moved.insert("stub_spin".to_owned(), 0x8000_1050);
        assert!(matches!(story_of_first_hit(&RV64, TRACE, &moved, TRACE_COUNTERS), Ok(Err(_))));

        let first = TRACE.find("riscv_invalid_cache_stale_hit").unwrap();
        for (log, why) in [
            (&TRACE[..first], "there is no hit"),
            (&TRACE[first..], "nothing was remembered"),
            (&TRACE[..TRACE.find("riscv_invalid_cache_stale_end").unwrap()], "5 events from the first hit on"),
        ] {
            assert_eq!(story_of_first_hit(&RV64, log, &symbols, TRACE_COUNTERS), Err(why.to_owned()));
        }
        assert!(story_of_first_hit(&RV64, TRACE, &Symbols::new(), TRACE_COUNTERS).is_err());
        assert!(story_of_first_hit(&RV64, TRACE, &symbols, "").is_err());
    }

    #[test]
    fn the_monitor_looks_and_changes_nothing() {
        const LOG: &str = "ok 1 - sv39 touch the valid neighbour\nok 2 - sv39 before the monitor\n\
                           expect hart=0 stale_hits=1 fences=1\nspinning\n";
        const WORDS: &str = "ffffffc000001000: 0x123456789abcdef0\n(qemu) ffffffc000201000: 0x123456789abcdef0\n";
        const COUNTED: &str = "x-cache-invalid: hart=0 stale_hits=1 fences=1\nx-cache-invalid: hart=1 stale_hits=0\n";
        assert!(seen_by_monitor(&said(0, WORDS, COUNTED), LOG).is_ok());
        for (answer, log) in [
            (cut_off(WORDS, COUNTED), LOG.to_owned()),
            (said(0, &but(WORDS, "abcdef0\n", "abcdef1\n"), COUNTED), LOG.to_owned()),
            (said(0, WORDS, &but(COUNTED, "stale_hits=1", "stale_hits=2")), LOG.to_owned()),
            (said(0, WORDS, &but(COUNTED, "fences=1", "fences=12")), LOG.to_owned()),
            (said(0, WORDS, COUNTED), but(LOG, "ok 2", "not ok 2")),
            (said(0, WORDS, COUNTED), but(LOG, "expect hart=0", "expect hart=1")),
        ] {
            assert!(seen_by_monitor(&answer, &log).is_err(), "{answer:?} {log}");
        }
    }

    #[test]
    fn counters_at_the_end() {
        let hart = |n: u32| format!("x-cache-invalid: hart={n} stale_hits=0\n");
        let three = format!("{}{}{}x-cache-invalid: total harts=3 stale_hits=0\n", hart(0), hart(1), hart(2));
        assert!(counted_at_the_end(&said(0, "", &three)).is_ok());
        assert!(counted_at_the_end(&cut_off("", &three)).is_err());
        assert!(counted_at_the_end(&said(0, "", &but(&three, &hart(1), ""))).is_err());
        assert!(counted_at_the_end(&said(0, "", &three.repeat(2))).is_err());
        assert!(counted_at_the_end(&said(0, "", "")).is_err());
    }

    #[test]
    fn refusals() {
        let stderr = "qemu-system-riscv64: 'x-late-pte' requires a 64-bit CPU\n";
        let message = "'x-late-pte' requires a 64-bit CPU";
        assert!(refused(&said(1, "", stderr), message).is_ok());
        assert!(refused(&said(0, "", stderr), message).is_err());
        assert!(refused(&said(2, "", stderr), message).is_err());
        assert!(refused(&said(1, "", stderr), "'x-cache-invalid' requires a 64-bit CPU").is_err());
        assert!(refused(&cut_off("", stderr), message).is_err());
    }

    #[test]
    fn the_log_is_ktap() {
        let mut failed = Check::new("rv64,x=on", Err(vec!["counters: wanted a".to_owned(), "another".to_owned()]));
        failed.said = GUEST.to_owned();
        let text =
            as_ktap(&[Check::new("seed", Ok(String::new())), failed, Check::new("trace", Ok("1 hit".to_owned()))]);
        let report = ktap::parse(&Log::of(&text));
        assert_eq!(report.all_problems(), Vec::<&ktap::Problem>::new(), "{text}");
        let seen: Vec<_> = report.cases.iter().map(|c| (c.name.as_str(), c.status)).collect();
        assert_eq!(seen, [("seed", Status::Pass), ("rv64,x=on", Status::Fail), ("trace", Status::Pass)]);
        assert_eq!(report.cases[1].reason.as_deref(), Some("counters: wanted a"));
        assert!(report.cases[1].all_notes().iter().any(|n| n.contains("a reset forgets")), "{text}");
        assert_eq!(report.cases[2].notes, ["1 hit"]);

        let long = Check::new("replay", Err(vec![format!("{}\nmore", "x".repeat(1000))]));
        assert_eq!(long.why(), Some(format!("{}…", "x".repeat(SHOWN))));
    }
}
