// SPDX-License-Identifier: GPL-2.0-only
//! JUnit XML: a suite for each boot, a test case for each test and for each case inside it.

use std::time::Duration;

use chrono::{DateTime, FixedOffset};
use quick_junit::{NonSuccessKind, Report, SerializeError, TestCase, TestCaseStatus, TestSuite};

use super::{Suite, Told};
use crate::trial::record::{CaseResult, CaseRow};
use crate::trial::report::Row;
use crate::trial::verdict::Verdict;

/// The document.
///
/// # Errors
/// When it cannot be serialized.
pub fn xml(told: &Told<'_>) -> Result<String, SerializeError> {
    let mut report = Report::new(format!("lazymap {}", told.verb));
    if let Some(started) = time(&told.about.started) {
        report.set_timestamp(started);
    }
    report.set_time(seconds(told.about.seconds));
    for suite in told.suites() {
        report.add_test_suite(boot(&suite, told));
    }
    let mut parts: Vec<&str> = told.checks.iter().map(|check| check.part.as_str()).collect();
    parts.dedup();
    for part in parts {
        let mut suite = TestSuite::new(part);
        for check in told.checks.iter().filter(|check| check.part == part) {
            let mut case = TestCase::new(check.name.as_str(), status(check.verdict, &check.why, &check.why));
            case.set_classname(format!("lazymap.{part}")).set_time(seconds(check.seconds));
            suite.add_test_case(case);
        }
        report.add_test_suite(suite);
    }
    report.to_string()
}

fn boot(of: &Suite<'_>, told: &Told<'_>) -> TestSuite {
    let full = format!("{}.{}", of.part.verb, of.name);
    let mut suite = TestSuite::new(full.as_str());
    if let Some(boot) = of.boot {
        if let Some(started) = time(&boot.started) {
            suite.set_timestamp(started);
        }
        suite.set_time(seconds(boot.seconds));
        let hits = boot.stale_hits.map(|hits| hits.to_string());
        let tool = told.about.tool.commit.clone();
        for (name, value) in [
            ("kernel", Some(boot.kernel.clone())),
            ("kernel_commit", Some(boot.kernel_commit.clone())),
            ("machine", Some(boot.machine.clone())),
            ("cpu", Some(boot.cpu.clone())),
            ("harts", Some(boot.harts.to_string())),
            ("end", Some(boot.end.clone())),
            ("stale_hits", hits),
            ("reproduce", Some(boot.reproduce.clone())),
            ("tool_commit", tool),
        ] {
            if let Some(value) = value {
                suite.add_property((name, value.as_str()));
            }
        }
    }
    for row in &of.rows {
        let class = format!("lazymap.{full}");
        let why = of.explained(row);
        let mut case = TestCase::new(row.test.as_str(), status(row.verdict, &observed(row), &why));
        case.set_classname(class.as_str()).set_time(seconds(row.seconds));
        if row.expected != "pass" {
            case.set_system_out(format!("expected {}, observed {}", row.expected, row.observed));
        }
        suite.add_test_case(case);
        for (path, inner) in row.cases.iter().flat_map(CaseRow::flat) {
            let mut case = TestCase::new(path, inner_status(inner));
            case.set_classname(format!("{class}.{}", row.test.replace('.', "_"))).set_time(seconds(inner.seconds));
            if !inner.notes.is_empty() {
                case.set_system_out(inner.notes.join("\n"));
            }
            suite.add_test_case(case);
        }
    }
    suite
}

fn observed(row: &Row) -> String {
    format!("expected {}, observed {}", row.expected, row.observed)
}

fn status(verdict: Verdict, message: &str, why: &str) -> TestCaseStatus {
    let bad = |kind, word: &str| {
        let mut status = TestCaseStatus::non_success(kind);
        status.set_message(message).set_type(word).set_description(why);
        status
    };
    match verdict {
        Verdict::Pass => TestCaseStatus::success(),
        Verdict::Fail => bad(NonSuccessKind::Failure, "FAIL"),
        Verdict::Error => bad(NonSuccessKind::Error, "ERROR"),
        Verdict::Miss => bad(NonSuccessKind::Error, "MISS"),
        Verdict::Skip => skipped(message),
    }
}

fn inner_status(case: &CaseRow) -> TestCaseStatus {
    let why = case.reason.clone().unwrap_or_default();
    let message = if why.is_empty() { case.result.word().to_owned() } else { why };
    let bad = |kind| {
        let mut status = TestCaseStatus::non_success(kind);
        status.set_message(message.as_str()).set_type(case.result.word().to_uppercase());
        status
    };
    match case.result {
        CaseResult::Pass => TestCaseStatus::success(),
        CaseResult::Skip => skipped(&message),
        CaseResult::Xfail => skipped(&format!("expected to fail: {message}")),
        CaseResult::Fail | CaseResult::Xpass => bad(NonSuccessKind::Failure),
        CaseResult::Error | CaseResult::Miss => bad(NonSuccessKind::Error),
    }
}

fn skipped(message: &str) -> TestCaseStatus {
    let mut status = TestCaseStatus::skipped();
    status.set_message(message);
    status
}

fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or_default()
}

fn time(rfc3339: &str) -> Option<DateTime<FixedOffset>> {
    DateTime::parse_from_rfc3339(rfc3339).ok()
}
