// SPDX-License-Identifier: GPL-2.0-only
//! What results say about themselves: where everything came from, how each boot went, and the cases
//! inside a test. docs/results.md describes the fields.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::thread;

use chrono::{DateTime, SecondsFormat, Utc};
use lazymap_console::ktap::{self, Progress, Status};
use lazymap_console::log::Log;
use serde::Serialize;

use super::control;
use super::plan::Trial;
use super::seen::Booted;
use super::verdict::Verdict;
use crate::boot::machine::Limits;
use crate::boot::reproduce;
use crate::build::kernel::Kernel;
use crate::build::workbench::Workbench;
use crate::ground::error::Result;
use crate::ground::files;
use crate::ground::git::Repo;
use crate::ground::key::{self, Key};
use crate::options::Options;

/// Where results come from.
#[derive(Clone, Debug, Serialize)]
pub struct Provenance {
    /// The tool.
    pub tool: Tool,
    /// Its command line.
    pub command: Vec<String>,
    /// When it was started, as RFC 3339 has it.
    pub started: String,
    /// Seconds since then.
    pub seconds: f64,
    /// For each folder of patches, the hash of those in it; see [`patchset_hash`].
    pub patches: BTreeMap<String, String>,
    /// SHA-256 of programs and firmware, by name; of those that could be read.
    pub sha256: BTreeMap<String, String>,
    /// CPUs of the host that may be used.
    pub host_cpus: usize,
    /// The host's kernel.
    pub host_kernel: String,
}

/// The tool and its repository.
#[derive(Clone, Debug, Serialize)]
pub struct Tool {
    pub version: &'static str,
    /// The repository's commit; null if it is not a git repository.
    pub commit: Option<String>,
    /// Whether files differ from that commit.
    pub modified: bool,
}

impl Tool {
    /// The tool in the repository `root`.
    pub fn of(root: &Path) -> Self {
        let repo = Repo::at(root).with("GIT_OPTIONAL_LOCKS", "0");
        // A checkout inside another repository is not that repository.
        let own = root.join(".git").exists();
        let commit = if own { repo.find("HEAD^{commit}").ok().flatten() } else { None };
        let status = || repo.run(["status", "--porcelain", "--untracked-files=no"]);
        let modified = commit.is_some() && status().is_ok_and(|changes| !changes.is_empty());
        Self { version: env!("CARGO_PKG_VERSION"), commit, modified }
    }
}

impl fmt::Display for Tool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "lazymap {}", self.version)?;
        match &self.commit {
            Some(id) => write!(f, " ({}{})", &id[..id.len().min(12)], if self.modified { ", modified" } else { "" }),
            None => Ok(()),
        }
    }
}

impl Provenance {
    /// What is known now; call it at the end of a run. Without a workbench nothing was booted.
    pub fn of(options: &Options, bench: Option<&Workbench>) -> Self {
        let base = &options.base;
        let folders = [base.linux.patches.as_str(), base.qemu.patches.as_str(), control::FOLDER];
        let hashes =
            folders.into_iter().filter_map(|f| Some((f.to_owned(), patchset_hash(&options.root.join(f)).ok()?)));
        let programs = bench.map(|bench| {
            [("qemu", &bench.qemu.binary), ("busybox", &bench.busybox), ("firmware", &bench.firmware)]
                .map(|(name, path)| Some((name.to_owned(), files::sha256_file(path).ok()?)))
        });
        let asked = &options.asked;
        Self {
            tool: Tool::of(&options.root),
            command: asked.command.clone(),
            started: rfc3339(asked.started),
            seconds: tenths((Utc::now() - asked.started).as_seconds_f64()),
            patches: hashes.collect(),
            sha256: programs.into_iter().flatten().flatten().collect(),
            host_cpus: thread::available_parallelism().map_or(1, usize::from),
            host_kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
        }
    }
}

/// SHA-256 over the lines with the SHA-256 of each patch of a folder, in order: what
/// `sha256sum *.patch | cut -c-64 | sha256sum` prints, and KCIDB's `patchset_hash`.
///
/// # Errors
/// When the folder or a patch cannot be read.
pub fn patchset_hash(folder: &Path) -> Result<String> {
    let mut patches = files::list(folder)?;
    patches.retain(|path| path.extension().is_some_and(|e| e == "patch"));
    let sums: Result<Vec<String>> = patches.iter().map(|path| files::sha256_file(path)).collect();
    Ok(key::sha256(sums?.iter().map(|sum| format!("{sum}\n")).collect::<String>()))
}

/// A time as RFC 3339 has it, in UTC and whole seconds.
pub fn rfc3339(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// A number of seconds, to the tenth.
pub fn tenths(seconds: f64) -> f64 {
    (seconds * 10.0).round() / 10.0
}

/// A boot.
#[derive(Clone, Debug, Serialize)]
pub struct BootRecord {
    /// The name of its files; `console` of its rows is `NAME.log`.
    pub name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scenario: Option<String>,
    /// The kernel's name in `out/kernel`.
    pub kernel: String,
    /// Commit in the kernel tree that it was built from.
    pub kernel_commit: String,
    /// SHA-256 of its `Image` and of its configuration; null if they cannot be read.
    pub image_sha256: Option<String>,
    pub config_sha256: Option<String>,
    /// SHA-256 of the initramfs and of the firmware.
    pub initrd_sha256: Option<String>,
    pub firmware_sha256: Option<String>,
    pub machine: String,
    /// QEMU's `-cpu`.
    pub cpu: String,
    pub harts: u32,
    pub memory_mib: u32,
    pub icount: bool,
    /// The kernel's command line.
    pub append: String,
    pub limits: LimitsUsed,
    /// By how much other work on the host slowed QEMU down, at least 1.
    pub slowed: f64,
    /// How often it was booted: twice if a limit hit on a busy host.
    pub tries: u32,
    /// When it was started, as RFC 3339 has it.
    pub started: String,
    /// How long it took.
    pub seconds: f64,
    /// How it ended; see docs/troubleshooting.md.
    pub end: String,
    /// The line of the console that decided the verdict, if there is one.
    pub deciding: Option<Deciding>,
    /// Stale hits and fences of all harts; null on a machine that does not count them.
    pub stale_hits: Option<u64>,
    pub fences: Option<u64>,
    /// How many of the stale hits the tests' own touches met; null if none of them counts.
    pub spurious_faults_met: Option<u64>,
    /// Files, relative to the folder.
    pub console: String,
    pub reproduce: String,
}

/// Limits of a boot in seconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct LimitsUsed {
    /// Without output.
    pub silence: f64,
    /// For the whole boot.
    pub total: f64,
    /// The factor that is in them.
    pub slow: f64,
    /// A further factor that is in the guest's limit for a test.
    pub busy: f64,
}

/// A line of a console.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Deciding {
    /// From 1.
    pub line: usize,
    pub text: String,
}

impl BootRecord {
    /// What is to be said about a boot; `bad` if not all that its tests showed was expected. The tests met `met` of its
    /// stale hits.
    pub fn of(
        bench: &Workbench,
        trial: &Trial,
        kernel: &Kernel,
        booted: &Booted,
        bad: bool,
        met: Option<u64>,
        tries: u32,
    ) -> Self {
        let run = &booted.run;
        let Limits { silence, total, .. } = trial.limits(bench);
        let counters = run.counters.as_ref().ok().copied().flatten();
        let folder = reproduce::folder(&booted.console);
        let sum = |path: &Path| files::sha256_file(path).ok();
        let now = Utc::now();
        Self {
            name: trial.name.clone(),
            scenario: trial.scenario.clone(),
            kernel: kernel.name.clone(),
            kernel_commit: kernel.commit.clone(),
            image_sha256: sum(&kernel.image),
            config_sha256: sum(&kernel.image.with_file_name("config")),
            initrd_sha256: sum(&folder.join(reproduce::INITRD)),
            firmware_sha256: sum(&folder.join(reproduce::FIRMWARE)),
            machine: trial.machine.name(),
            cpu: trial.machine.cpu(),
            harts: trial.machine.harts,
            memory_mib: trial.machine.memory_mib,
            icount: trial.machine.icount,
            append: booted.append.clone(),
            limits: LimitsUsed {
                silence: tenths(silence.as_secs_f64()),
                total: tenths(total.as_secs_f64()),
                slow: trial.host.slow,
                busy: tenths(trial.host.busy),
            },
            slowed: tenths(run.slowed),
            tries,
            started: rfc3339(now - chrono::Duration::milliseconds((run.log.seconds * 1e3) as i64)),
            seconds: tenths(run.log.seconds),
            end: run.reading.end.to_string(),
            deciding: deciding(booted, bad),
            stale_hits: counters.map(|c| c.stale_hits),
            fences: counters.map(|c| c.fences),
            spurious_faults_met: met,
            console: format!("{}.log", trial.name),
            reproduce: format!("{}/{}", trial.name, reproduce::SCRIPT),
        }
    }
}

/// The line that decided: what killed the kernel, or the first thing that makes a failure of a pass.
fn deciding(booted: &Booted, bad: bool) -> Option<Deciding> {
    let reading = &booted.run.reading;
    let headline = reading.headline.as_ref();
    let first = || reading.forbidden.iter().chain(&reading.unknown).min_by_key(|found| found.line);
    let found = headline.or_else(first).map(|f| Deciding { line: f.line, text: f.text.clone() });
    if found.is_some() || !bad {
        return found;
    }
    let problems = booted.report.all_problems();
    let problem = problems.first().map(|p| Deciding { line: p.line, text: p.what.clone() });
    problem.or_else(|| {
        let bad = booted.report.cases.iter().find_map(worst)?;
        let text = booted.run.log.lines.iter().find(|l| l.number == bad.line)?.text.trim().to_owned();
        Some(Deciding { line: bad.line, text })
    })
}

/// The innermost case that failed first.
fn worst(case: &ktap::Case) -> Option<&ktap::Case> {
    (case.status >= Status::Xpass).then(|| case.cases.iter().find_map(worst).unwrap_or(case))
}

/// A case of a test.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CaseRow {
    pub name: String,
    pub result: CaseResult,
    /// Why, if the test says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What it printed, without `#`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    pub seconds: f64,
    /// The cases inside.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cases: Vec<CaseRow>,
}

/// The result of a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CaseResult {
    Pass,
    Skip,
    /// It failed as it should: the test says so, or the row of the test expects the kernel to fail.
    Xfail,
    /// It passed although the test says that it should fail.
    Xpass,
    Fail,
    /// It began and has no result that can be trusted.
    Error,
    /// It was planned and never began.
    Miss,
}

impl CaseResult {
    /// The word in `results.json`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Skip => "skip",
            Self::Xfail => "xfail",
            Self::Xpass => "xpass",
            Self::Fail => "fail",
            Self::Error => "error",
            Self::Miss => "miss",
        }
    }
}

impl CaseRow {
    /// The cases of a test whose row has this verdict.
    pub fn all(of: &ktap::Case, log: &Log, verdict: Verdict) -> Vec<Self> {
        of.cases.iter().map(|case| Self::of(case, log, verdict)).collect()
    }

    fn of(case: &ktap::Case, log: &Log, verdict: Verdict) -> Self {
        let result = match case.status {
            Status::Pass => CaseResult::Pass,
            Status::Skip => CaseResult::Skip,
            Status::Xfail => CaseResult::Xfail,
            // A test that must fail does not fail the run.
            _ if verdict == Verdict::Pass => CaseResult::Xfail,
            Status::Miss => CaseResult::Miss,
            Status::Xpass => CaseResult::Xpass,
            Status::Fail => CaseResult::Fail,
            Status::Error if case.progress == Progress::NotReached => CaseResult::Miss,
            Status::Error => CaseResult::Error,
        };
        Self {
            name: case.name.clone(),
            result,
            reason: case.reason.clone(),
            notes: case.notes.clone(),
            seconds: tenths((log.at(case.line) - log.at(case.first_line)).max(0.0)),
            cases: Self::all(case, log, verdict),
        }
    }

    /// It and those inside, with their path from the test on: names joined by ` / `.
    pub fn flat(&self) -> Vec<(String, &Self)> {
        let inside = self.cases.iter().flat_map(Self::flat);
        let inside: Vec<_> = inside.map(|(path, case)| (format!("{} / {path}", self.name), case)).collect();
        std::iter::once((self.name.clone(), self)).chain(inside).collect()
    }
}

/// An id that no other run has.
pub fn run_id(about: &Provenance) -> String {
    let commit = about.tool.commit.as_deref().unwrap_or_default();
    let key = Key::default().text("started", &about.started).text("commit", commit);
    key.text("command", about.command.join(" ")).text("process", std::process::id().to_string()).finish()[..16]
        .to_owned()
}

/// The result of a check that boots nothing.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// The part of `lazymap check`, or the verb.
    pub part: String,
    pub name: String,
    pub verdict: Verdict,
    /// Why, if it is not a pass.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub why: String,
    /// Seconds since the result before.
    pub seconds: f64,
}
