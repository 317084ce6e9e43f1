// SPDX-License-Identifier: GPL-2.0-only
//! What other CIs run: each part of the check in one of their jobs, and a summary that tells what happened.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use lazymap::verbs::check::Part;

const PIPELINES: [&str; 2] = [".github/workflows/check.yml", ".gitlab-ci.yml"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the repository").to_owned()
}

fn pipeline(file: &str) -> String {
    fs::read_to_string(root().join(file)).expect(file)
}

/// The parts of the lists behind `only:` or below `ONLY:`, in the file's order.
fn parts_in(text: &str) -> Vec<String> {
    let mut below = false;
    let mut parts = Vec::new();
    for line in text.lines().map(|line| line.trim_start().trim_start_matches("- ").trim_end()) {
        let list = match line.strip_prefix("only: ") {
            Some(list) => list,
            None if line.ends_with("ONLY:") => {
                below = true;
                continue;
            }
            None if below && !line.ends_with(':') => line,
            None => {
                below = false;
                continue;
            }
        };
        parts.extend(list.split(',').map(str::to_owned));
    }
    parts
}

#[test]
fn each_part_of_the_check_is_in_one_job() {
    let mut all: Vec<String> = Part::ALL.iter().map(|part| part.name().to_owned()).collect();
    all.sort_unstable();
    for file in PIPELINES {
        let mut parts = parts_in(&pipeline(file));
        parts.sort_unstable();
        assert_eq!(parts, all, "{file}");
    }
}

#[test]
fn what_each_part_leaves_is_kept() {
    // Folders that differ from the part's name, and parts whose logs are all that they leave.
    for file in PIPELINES {
        let text = pipeline(file);
        for part in Part::ALL {
            let folder = match part {
                Part::Harness | Part::Litmus | Part::Series => "log",
                Part::Guest => "guest-check",
                other => other.name(),
            };
            let kept = |line: &str| line.trim().trim_start_matches("- ") == format!("out/{folder}");
            assert!(text.lines().any(kept), "{file} keeps no out/{folder}");
        }
    }
}

#[test]
fn both_pipelines_do_the_same() {
    for file in PIPELINES {
        let text = pipeline(file);
        for part in [
            "debian:13",
            "make demo",
            "hunt --debian || [ $? -eq 1 ]",
            "-f Containerfile .",
            "make series-check BUILD=1 \"BASE=$BASE\"",
            "ARGS=\"--junit junit.xml\"",
        ] {
            assert!(text.contains(part), "{file} has no {part}");
        }
        assert!(text.lines().any(|line| line.trim().trim_start_matches("- ") == "junit.xml"), "{file}");
    }
    // A cache that nobody writes helps nobody: other branches begin with that of the default branch.
    let gitlab = pipeline(".gitlab-ci.yml");
    assert!(gitlab.contains("    key: out-$CI_COMMIT_REF_SLUG\n    fallback_keys: [out-$CI_DEFAULT_BRANCH]\n"));
    assert!(gitlab.contains("      junit: junit.xml\n"));
}

#[test]
fn the_action_brings_what_the_tool_needs_to_look_at_a_tree() {
    // docs/ci.md names an image that has neither.
    let action = pipeline("action.yml");
    let install = action.find("apt-get install -y --no-install-recommends make git").expect("installs nothing");
    let tool = action.find("harness/lazymap\"").expect("does not run the tool");
    assert!(install < tool, "{action}");
}

/// What `.ci/summary` makes of a command whose output `.ci/logged` kept; and the exit code of the latter.
fn summary(script: &str) -> (String, Option<i32>) {
    let dir = tempfile::tempdir().expect("a folder");
    let log = dir.path().join("check.log");
    let logged = Command::new(root().join(".ci/logged")).arg(&log).args(["sh", "-c", script]).output().expect("logged");
    let page = dir.path().join("page");
    let mut summary = Command::new(root().join(".ci/summary"));
    summary.arg(&log).env("GITHUB_STEP_SUMMARY", &page).env_remove("GITHUB_ACTIONS");
    assert!(summary.status().expect("summary").success());
    (fs::read_to_string(page).unwrap_or_default(), logged.status.code())
}

#[test]
fn the_summary_has_the_count_and_the_exit_code() {
    let (page, code) = summary("echo '# phase  seconds'; echo '# demo   12.0'; echo '3 passed, 0 failed, 1 skipped'");
    assert_eq!(page, "### 3 passed, 0 failed, 1 skipped; exit code 0\n\n```text\nphase  seconds\ndemo   12.0\n```\n");
    assert_eq!(code, Some(0));
}

#[test]
fn the_summary_of_a_run_without_a_count() {
    let (page, code) = summary("echo 'Image on stale: 3 stale hits, all absorbed'");
    assert_eq!((page.as_str(), code), ("### exit code 0\n", Some(0)));
    let (page, code) = summary("echo 'lazymap: note: slow'; echo 'lazymap: no network' >&2; exit 2");
    assert_eq!((page.as_str(), code), ("### exit code 2\n\n```text\nlazymap: no network\n```\n", Some(2)));
}

#[test]
fn the_summary_of_a_run_that_was_killed() {
    let (page, _) = summary("echo 'ok 1 a test'; kill -9 $PPID");
    assert_eq!(page, "### the tool did not get to its end\n");
}
