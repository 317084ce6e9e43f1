// SPDX-License-Identifier: GPL-2.0-only
//! A report for KCIDB, the database of KernelCI: schema 5.3, as in the Python package kcidb-io.
//!
//! KCIDB is about kernels: a checkout, its builds, and tests of builds. What `lazymap check` finds out
//! without a kernel is left out.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{Suite, Told, slug};
use crate::ground::key::Key;
use crate::trial::record::{CaseResult, CaseRow, run_id};
use crate::trial::report::{Ran, Row};
use crate::trial::verdict::Verdict;

/// Who reports, in ids; whoever submits the report as another CI system replaces it.
const ORIGIN: &str = "lazymap";
/// The version of the schema.
const MAJOR: u32 = 5;
const MINOR: u32 = 3;
/// The longest excerpt of a log, in characters; the schema has 16384.
const EXCERPT: usize = 16_000;

/// The report.
pub fn report(told: &Told<'_>) -> Value {
    let run = run_id(told.about);
    let checkout = id(&["checkout", &run]);
    let mut builds: BTreeMap<String, Value> = BTreeMap::new();
    let mut tests = Vec::new();
    let mut paths: BTreeMap<String, usize> = BTreeMap::new();
    // An id names one test, whatever the tests call their cases.
    let mut unique = |path: String| {
        let times = paths.entry(path.clone()).and_modify(|times| *times += 1).or_insert(1);
        if *times > 1 { format!("{path}_{times}") } else { path }
    };
    for suite in told.suites() {
        let kernel = suite.boot.map_or_else(|| format!("not-booted-{}", suite.name), |boot| boot.kernel.clone());
        let build_id = id(&["build", &run, &kernel]);
        builds.entry(build_id.clone()).or_insert_with(|| build(&suite, &kernel, &build_id, &checkout));
        for row in &suite.rows {
            let path = unique(["lazymap", suite.part.verb, suite.name, &row.test].map(slug).join("."));
            tests.push(test(&suite, row, &id(&["test", &run, &path]), &build_id, &path));
            for (name, case) in row.cases.iter().flat_map(CaseRow::flat) {
                let names: Vec<String> = name.split(" / ").map(slug).collect();
                let path = unique(format!("{path}.{}", names.join(".")));
                tests.push(inner(&suite, case, &id(&["test", &run, &path]), &build_id, &path));
            }
        }
    }
    let mut report = json!({ "version": { "major": MAJOR, "minor": MINOR } });
    if let (Some(first), Some(report)) = (told.parts.first(), report.as_object_mut()) {
        report.insert("checkouts".to_owned(), json!([checkout_of(first, told, &checkout)]));
        report.insert("builds".to_owned(), builds.into_values().collect());
        report.insert("tests".to_owned(), tests.into());
    }
    report
}

fn id(words: &[&str]) -> String {
    let key = words.iter().fold(Key::default(), |key, word| key.text("word", word)).finish();
    format!("{ORIGIN}:{}", &key[..32])
}

fn checkout_of(part: &Ran, told: &Told<'_>, id: &str) -> Value {
    let base = &part.base;
    let mut checkout = Object::default();
    checkout.put("id", id);
    checkout.put("origin", ORIGIN);
    checkout.put("comment", text(&format!("Linux {} from {}, with the patches of lazymap", base.version, base.from)));
    checkout.put("start_time", &*told.about.started);
    // The commit of an imported package exists nowhere else.
    if base.source == "ksrc" && base.commit.len() == 40 {
        checkout.put("git_commit_hash", &*base.commit);
    }
    let patches = told.about.patches.iter().find(|(folder, _)| folder.starts_with("patches/linux-"));
    if let Some((_, hash)) = patches {
        checkout.put("patchset_hash", &**hash);
    }
    checkout.put("valid", true);
    checkout.put("misc", json!({ "base": base, "provenance": told.about }));
    checkout.into()
}

fn build(suite: &Suite<'_>, kernel: &str, id: &str, checkout: &str) -> Value {
    let mut build = Object::default();
    build.put("id", id);
    build.put("origin", ORIGIN);
    build.put("checkout_id", checkout);
    build.put("architecture", "riscv");
    build.put("config_name", text(kernel));
    if let Some(clang) = suite.part.toolchain.iter().find(|(tool, _)| tool.starts_with("clang")) {
        build.put("compiler", text(clang.1));
    }
    match suite.boot {
        Some(boot) => {
            build.put("comment", text(&format!("kernel {kernel}, commit {}", boot.kernel_commit)));
            build.put("status", "PASS");
            build.put("misc", json!({ "image_sha256": boot.image_sha256, "config_sha256": boot.config_sha256 }));
        }
        None => build.put("comment", text(&format!("{}: nothing was booted", suite.name))),
    }
    build.into()
}

fn test(suite: &Suite<'_>, row: &Row, id: &str, build: &str, path: &str) -> Value {
    let mut test = common(suite, id, build, path);
    test.put("status", status(row));
    test.put("duration", row.seconds);
    test.put("comment", text(&format!("{}: expected {}, observed {}", row.test, row.expected, row.observed)));
    if let Some(hits) = row.stale_hits {
        // Of the whole boot: the machine counts nothing else.
        test.put("number", json!({ "value": hits, "unit": "stale hits" }));
    }
    if row.verdict != Verdict::Pass {
        test.put("log_excerpt", excerpt(suite, row));
    }
    let reproduce = suite.boot.map(|boot| boot.reproduce.clone());
    let misc = json!({ "expected": row.expected, "observed": row.observed, "why": row.why, "reproduce": reproduce });
    test.put("misc", misc);
    test.into()
}

fn inner(suite: &Suite<'_>, case: &CaseRow, id: &str, build: &str, path: &str) -> Value {
    let mut test = common(suite, id, build, path);
    test.put(
        "status",
        match case.result {
            CaseResult::Pass => "PASS",
            CaseResult::Skip => "SKIP",
            // It ran, and says nothing about the kernel that was not expected.
            CaseResult::Xfail => "DONE",
            CaseResult::Fail | CaseResult::Xpass => "FAIL",
            CaseResult::Error => "ERROR",
            CaseResult::Miss => "MISS",
        },
    );
    test.put("duration", case.seconds);
    let reason = case.reason.as_deref().map(|reason| format!(": {reason}")).unwrap_or_default();
    test.put("comment", text(&format!("{}: {}{reason}", case.name, case.result.word())));
    if !case.notes.is_empty() {
        test.put("log_excerpt", tail(&text(&case.notes.join("\n"))));
    }
    test.into()
}

/// What all tests of a boot have.
fn common(suite: &Suite<'_>, id: &str, build: &str, path: &str) -> Object {
    let mut test = Object::default();
    test.put("id", id);
    test.put("origin", ORIGIN);
    test.put("build_id", build);
    test.put("path", path);
    if let Some(boot) = suite.boot {
        test.put("start_time", &*boot.started);
        let comment = text(&format!("QEMU, -cpu {}, {} harts, {} MiB", boot.cpu, boot.harts, boot.memory_mib));
        let misc = json!({ "machine": boot.machine, "limits": boot.limits, "append": boot.append });
        // What QEMU's machine `virt` calls itself in its device tree.
        test.put("environment", json!({ "compatible": ["riscv-virtio"], "comment": comment, "misc": misc }));
    }
    test
}

fn status(row: &Row) -> &'static str {
    match row.verdict {
        Verdict::Pass => "PASS",
        Verdict::Fail => "FAIL",
        _ if row.missed() => "MISS",
        Verdict::Error | Verdict::Miss => "ERROR",
        Verdict::Skip => "SKIP",
    }
}

/// Why a test failed, and the end of its console.
fn excerpt(suite: &Suite<'_>, row: &Row) -> String {
    let why = text(&suite.explained(row));
    let console = suite.console().unwrap_or_default();
    let lines: Vec<&str> = console.lines().map(str::trim_end).collect();
    let end = lines[lines.len().saturating_sub(60)..].join("\n");
    tail(&text(&format!("{why}\n\n{end}")))
}

/// The first part of a text and the last one, if the whole is too long.
fn tail(text: &str) -> String {
    let all: Vec<char> = text.chars().collect();
    if all.len() <= EXCERPT {
        return text.to_owned();
    }
    let half = EXCERPT / 2;
    let (first, last) = (&all[..half], &all[all.len() - half..]);
    first.iter().chain(&['\n', '…', '\n']).chain(last).collect()
}

/// A text without what the schema forbids.
fn text(text: &str) -> String {
    text.replace('\0', "")
}

/// A JSON object in the making.
#[derive(Default)]
struct Object(Map<String, Value>);

impl Object {
    fn put(&mut self, name: &str, value: impl Into<Value>) {
        self.0.insert(name.to_owned(), value.into());
    }
}

impl From<Object> for Value {
    fn from(object: Object) -> Self {
        Self::Object(object.0)
    }
}
