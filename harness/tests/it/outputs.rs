// SPDX-License-Identifier: GPL-2.0-only
//! Results in other programs' forms: what is in them, and that those programs read them.
//!
//! The programs come from PyPI, into a virtual environment beside the tests' other files. Where that is
//! not possible, a line on stderr says so, which `lazymap check` counts as skipped.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use lazymap::ground::error::Error;
use lazymap::options::asked::Outputs;
use lazymap::trial::expect::{Expect, Observation, Sign};
use lazymap::trial::outputs::{self, Told, html, junit, kcidb, tap};
use lazymap::trial::plan::Trial;
use lazymap::trial::record::{self, Check};
use lazymap::trial::report::{self, Done, Ran};
use lazymap::trial::run;
use lazymap::trial::verdict::Verdict;
use serde_json::Value;

use crate::common::{generated, skipped};
use crate::trial::{Bench, COUNTERS, finished, stale};

/// Boots of every kind: one that passes, one that fails, one that dies as it should, one that dies in its
/// first test, and one that never began.
struct All {
    bench: Bench,
    ran: Ran,
    checks: Vec<Check>,
}

const THREE: [&str; 3] = ["test-ipi.sh", "test-stack.sh", "test-trace.sh"];

impl All {
    fn new() -> Self {
        let survive = THREE.map(|test| (test, Expect::Survive));
        let overflow = Observation { signs: vec![Sign::StackOverflow], symbol: None, text: None, fails: vec![] };
        let caught = [(THREE[2], Expect::Caught(overflow))];
        let script = format!(
            "case \"$*\" in\n\
             *test-ipi.sh,test-stack.sh,test-trace.sh*) kind=$(cat kind) ;;\n\
             *) kind=dies ;;\n\
             esac\n\
             case $kind in\n\
             passes) cat \"$logs/finished.log\" ;;\n\
             dies) cat \"$logs/stack-overflow.log\" ;;\n\
             early) sed -n '1,/# selftests: .*test-ipi/p;/Kernel panic/p' \"$logs/stack-overflow.log\" ;;\n\
             esac\n{COUNTERS}"
        );
        let bench = Bench::new(&script);
        let folder = bench.folder();
        report::start(&folder).unwrap();
        let mut done: Vec<Done> = Vec::new();
        for kind in ["passes", "dies", "early"] {
            fs::write(bench.dir.path().join("kind"), kind).unwrap();
            done.push(bench.run(&named(kind, stale(&survive))));
        }
        done.push(bench.run(&named("caught", stale(&caught))));
        let nothing = Err(Error::could_not("cannot compile <x> & \"y\""));
        done.push(run::run(&bench.bench, &named("nothing", stale(&survive)), nothing, &folder));
        let ran = report::finish(&bench.bench, "run", &folder, done).unwrap();
        let check = |name: &str, verdict, why: &str| Check {
            part: "series".to_owned(),
            name: name.to_owned(),
            verdict,
            why: why.to_owned(),
            seconds: 0.5,
        };
        let checks = vec![
            check("it applies #1", Verdict::Pass, ""),
            check("style", Verdict::Fail, "skip: \u{1b}[1mno\u{0}"),
            check("litmus", Verdict::Skip, "no herd7"),
        ];
        Self { bench, ran, checks }
    }

    fn told(&self) -> Told<'_> {
        Told { verb: "check", about: &self.ran.about, parts: std::slice::from_ref(&self.ran), checks: &self.checks }
    }

    /// Writes everything into a new folder.
    fn written(&self) -> PathBuf {
        let folder = self.bench.dir.path().join("written");
        let file = |name: &str| Some(folder.join(name));
        let outputs =
            Outputs { junit: file("junit.xml"), tap: file("tap"), kcidb: file("kcidb.json"), html: file("page.html") };
        outputs::start(&outputs).unwrap();
        outputs::write(&outputs, Path::new("/"), &self.told()).unwrap();
        folder
    }
}

fn named(name: &str, trial: Trial) -> Trial {
    Trial { name: name.to_owned(), scenario: Some(name.to_owned()), ..trial }
}

/// What an output has to say of the boots of [`All`]: 3 + 3 + 3 + 1 + 3 tests, of which the first three
/// and the first two of the second boot pass, and the fourth boot's, which has to die. The cases are one
/// for each test that began.
const PASSED: usize = 3 + 2 + 1;

#[test]
fn results_say_where_they_come_from() {
    let all = All::new();
    let results: Value = serde_json::from_slice(&fs::read(all.ran.folder.join("results.json")).unwrap()).unwrap();
    let about = &results["provenance"];
    for key in ["tool", "command", "started", "seconds", "patches", "sha256", "host_cpus", "host_kernel"] {
        assert!(!about[key].is_null(), "{key}: {about}");
    }
    let git = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.git").exists();
    assert_eq!(about["tool"]["commit"].as_str().map(str::len), git.then_some(40), "{about}");
    assert_eq!(about["sha256"]["busybox"].as_str().unwrap().len(), 64);
    let patches = about["patches"].as_object().unwrap();
    assert!(patches.keys().any(|k| k.starts_with("patches/linux-")) && patches.contains_key("patches/controls"));
    assert_eq!((&results["exit"], &results["totals"]["passed"]), (&1.into(), &PASSED.into()));
    let boots = results["boots"].as_array().unwrap();
    let names: Vec<&str> = boots.iter().map(|b| b["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["passes", "dies", "early", "caught"], "what never began does not count as a boot");
    for boot in boots {
        for key in ["console", "reproduce"] {
            assert!(all.ran.folder.join(boot[key].as_str().unwrap()).is_file(), "{key}: {boot}");
        }
        assert_eq!((&boot["stale_hits"], &boot["cpu"]), (&7.into(), &"rv64,x-cache-invalid=on".into()));
        assert!(boot["append"].as_str().unwrap().contains("lazymap.tests="), "{boot}");
        assert_eq!(boot["limits"]["slow"], 1.0);
    }
    assert_eq!(boots[0]["deciding"], Value::Null);
    assert_eq!(boots[1]["deciding"]["line"], 190, "{}", boots[1]["deciding"]);
    assert!(boots[1]["deciding"]["text"].as_str().unwrap().contains("Kernel stack overflow"));
    let rows = results["runs"].as_array().unwrap();
    assert_eq!(rows[0]["cases"][0]["name"], "new_mapping_touched_from_ipi");
    assert_eq!(rows[0]["cases"][0]["result"], "pass");
    let notes = rows[0]["cases"][0]["notes"].as_array().unwrap();
    assert!(notes.iter().any(|note| note == "touches: 14080"), "{notes:?}");
    assert!(rows[5]["cases"][0]["result"] == "miss" && rows[9]["cases"][0]["result"] == "xfail", "{rows:#?}");
}

#[test]
fn a_patchset_has_the_hash_that_kcidb_asks_for() {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in [("0002-b.patch", "b\n"), ("0001-a.patch", "a\n"), ("0000-cover-letter.txt", "c\n")] {
        fs::write(dir.path().join(name), text).unwrap();
    }
    let shell = Command::new("sh")
        .args(["-c", "sha256sum *.patch | cut -c-64 | sha256sum | cut -c-64"])
        .current_dir(dir.path())
        .output()
        .unwrap();
    let wanted = String::from_utf8(shell.stdout).unwrap();
    assert_eq!(record::patchset_hash(dir.path()).unwrap(), wanted.trim());
}

#[test]
fn tap_has_a_document_for_each_boot_with_its_cases() {
    let all = All::new();
    let documents = tap::documents(&all.told());
    let names: Vec<&str> = documents.iter().map(|(name, _)| name.as_str()).collect();
    let wanted =
        ["run-passes.tap", "run-dies.tap", "run-early.tap", "run-caught.tap", "run-nothing.tap", "check-checks.tap"];
    assert_eq!(names, wanted);
    let text = |at: usize| documents[at].1.as_str();
    assert!(text(0).starts_with("TAP version 13\n1..3\n# written by lazymap\n"), "{}", text(0));
    assert!(
        text(0).contains("\n# TAP version 13\n# 1..1\n")
            && text(0).contains("\n# ok 1 new_mapping_touched_from_ipi\nok 1 ")
    );
    assert!(
        text(1)
            .contains("\nnot ok 3 selftests: riscv/lazy_map: test-trace.sh # expected pass, observed stack overflow\n")
    );
    assert!(text(1).contains("| dies.log:190: Kernel panic - not syncing: Kernel stack overflow\n"), "{}", text(1));
    assert!(
        text(2).contains("\nnot ok 2 selftests: riscv/lazy_map: test-stack.sh # MISS not reached\n"),
        "{}",
        text(2)
    );
    assert!(
        text(3).contains("\nok 1 selftests: riscv/lazy_map: test-trace.sh # XFAIL stack overflow\n"),
        "{}",
        text(3)
    );
    assert!(text(4).contains("# MISS not run: cannot compile"), "{}", text(4));
    // A failure whose reason is a directive's name is not a skip.
    assert!(text(5).contains("\nok 1 it applies 1\nnot ok 2 style # got skip: "), "{}", text(5));
    assert!(text(5).contains("\nok 3 litmus # SKIP no herd7\n"), "{}", text(5));
}

#[test]
fn the_page_has_it_all_and_needs_no_other_file() {
    let all = All::new();
    let page = html::page(all.bench.dir.path(), &all.told());
    for part in [
        "<mark><i>  190</i>",
        "decided by line 190",
        "Seconds of each test",
        "Stale hits of each boot",
        "test-ipi.sh</a><details><summary>1 case</summary>",
        "new_mapping_touched_from_ipi: pass",
        "cannot compile &#60;x&#62; &#38; &#34;y&#34;",
        "reproduce.sh",
        "QEMU=PATH",
        "x-cache-invalid=on",
    ] {
        assert!(page.contains(part), "{part} is missing");
    }
    for wrong in ["http:", "https:", "src=", "<script", "<link", "\u{0}", "\u{1b}"] {
        assert!(!page.contains(wrong), "{wrong}");
    }
    for mark in ["{title}", "{state}", "{count}", "{about}", "{bad}", "{plots}", "{table}", "{boots}"] {
        assert!(!page.contains(mark), "{mark}");
    }
    // Each link leads somewhere.
    for target in page.split("href=\"#").skip(1).map(|rest| rest.split('"').next().unwrap()) {
        assert!(page.contains(&format!("id=\"{target}\"")), "{target}");
    }
    let body = page.split_once("<body>").unwrap().1.split_once("</body>").unwrap().0;
    let mut open: Vec<&str> = Vec::new();
    for tag in body.split('<').skip(1).map(|part| part.split('>').next().unwrap()) {
        let name = tag.trim_start_matches('/').split([' ', '/']).next().unwrap();
        if tag.starts_with('/') {
            assert_eq!(open.pop(), Some(name), "</{name}> closes another element");
        } else if !tag.ends_with('/') {
            open.push(name);
        }
    }
    assert!(open.is_empty(), "{open:?}");
}

#[test]
fn old_outputs_do_not_survive_and_others_files_do() {
    let all = All::new();
    let folder = all.written();
    let (own, other) = (folder.join("tap/run-passes.tap"), folder.join("tap/other.tap"));
    fs::write(&other, "TAP version 13\n1..0\n").unwrap();
    let outputs = Outputs {
        junit: Some(folder.join("junit.xml")),
        tap: Some(folder.join("tap")),
        kcidb: None,
        html: Some(folder.join("page.html")),
    };
    assert!(own.exists() && folder.join("junit.xml").exists());
    outputs::start(&outputs).unwrap();
    let there = [own, other, folder.join("junit.xml"), folder.join("page.html"), folder.join("kcidb.json")];
    assert_eq!(there.map(|path| path.exists()), [false, true, false, false, true]);
}

/// The readers, and the versions that these tests were written with.
const READERS: [&str; 3] = ["junitparser==5.0.3", "kcidb-io==141", "tap.py[yaml]==3.2.1"];

/// A Python that has the readers; otherwise why not.
fn python() -> Result<&'static Path, String> {
    static PYTHON: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let installed = || -> Result<PathBuf, String> {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("consumers");
        let (python, stamp) = (folder.join("bin/python"), folder.join("stamp"));
        if fs::read_to_string(&stamp).is_ok_and(|text| text == READERS.join(" ")) {
            return Ok(python);
        }
        let _ = fs::remove_dir_all(&folder);
        ran(Command::new("python3").args(["-m", "venv"]).arg(&folder))?;
        ran(Command::new(&python)
            .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"])
            .args(READERS))?;
        fs::write(stamp, READERS.join(" ")).map_err(|e| e.to_string())?;
        Ok(python)
    };
    PYTHON.get_or_init(installed).as_deref().map_err(Clone::clone)
}

/// What a program prints, or the last line of what it complains about.
fn ran(command: &mut Command) -> Result<String, String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let done = command.stdin(Stdio::null()).output().map_err(|e| format!("{name}: {e}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    match done.status.success() {
        true => Ok(text(&done.stdout)),
        false => Err(format!("{name}: {}", text(&done.stderr).lines().last().unwrap_or("no message"))),
    }
}

/// What a reader makes of files; `None` if it cannot be installed.
#[track_caller]
fn consumer(what: &str, paths: &[PathBuf]) -> Option<String> {
    let python = match python() {
        Ok(python) => python,
        Err(why) => {
            skipped(&format!("harness, reader of {what}"), &why);
            return None;
        }
    };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/consumers.py");
    Some(ran(Command::new(python).arg(script).arg(what).args(paths)).unwrap())
}

#[test]
fn junitparser_reads_the_junit() {
    let all = All::new();
    let folder = all.written();
    // Failures: the tests that died. Errors: what they kept others from, and the case that had begun.
    // Skipped: the check, and the case that has to die.
    if let Some(count) = consumer("junit", &[folder.join("junit.xml")]) {
        assert_eq!(count, "error=6 failure=3 passed=12 skipped=2");
    }
    let xml = junit::xml(&all.told()).unwrap();
    assert!(xml.contains("name=\"run.dies\"") && xml.contains("classname=\"lazymap.run.dies\""), "{xml}");
    assert!(xml.contains("dies.log:190: Kernel panic - not syncing: Kernel stack overflow"), "{xml}");
}

#[test]
fn kcidb_accepts_the_report() {
    let all = All::new();
    let folder = all.written();
    let report = kcidb::report(&all.told());
    let tests = report["tests"].as_array().unwrap();
    let found = |path: &str| tests.iter().find(|t| t["path"] == path).unwrap_or_else(|| panic!("no {path}"));
    assert_eq!(found("lazymap.run.early.test-stack_sh")["status"], "MISS");
    assert_eq!(found("lazymap.run.caught.test-trace_sh")["status"], "PASS");
    let dies = found("lazymap.run.dies.test-trace_sh");
    assert_eq!((&dies["status"], &dies["number"]["value"]), (&"FAIL".into(), &7.into()));
    assert!(dies["log_excerpt"].as_str().unwrap().contains("dies.log:190"), "{dies}");
    assert_eq!(found("lazymap.run.passes.test-ipi_sh.new_mapping_touched_from_ipi")["status"], "PASS");
    if let Some(count) = consumer("kcidb", &[folder.join("kcidb.json")]) {
        assert_eq!(count, "done=1 fail=2 miss=6 pass=11");
        // The check can fail.
        let wrong = fs::read_to_string(folder.join("kcidb.json")).unwrap().replace("\"MISS\"", "\"MISSED\"");
        fs::write(folder.join("wrong.json"), wrong).unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/consumers.py");
        let mut command = Command::new(python().unwrap());
        assert!(ran(command.arg(script).arg("kcidb").arg(folder.join("wrong.json"))).is_err());
    }
}

#[test]
fn tap_py_reads_the_tap() {
    let all = All::new();
    let folder = all.written();
    let mut files: Vec<PathBuf> = fs::read_dir(folder.join("tap")).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    if let Some(count) = consumer("tap", &files) {
        assert_eq!(count, "failed=8 passed=7 skipped=1");
    }
}

#[test]
fn lava_s_parser_reads_the_tap() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/lava/parse-output.py");
    let python = match python() {
        Ok(python) => python,
        Err(why) => return skipped("harness, LAVA's reader of tap", &why),
    };
    let all = All::new();
    let folder = all.written();
    let results = |name: &str| -> Vec<(String, String)> {
        let input = fs::File::open(folder.join("tap").join(name)).unwrap();
        // It writes the logs of failures to the folder `output`.
        let done = Command::new(python).arg(&script).current_dir(&folder).stdin(input).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        let text = String::from_utf8_lossy(&done.stdout).into_owned();
        let line = |line: &str| line.rsplit_once(' ').map(|(name, what)| (name.to_owned(), what.to_owned()));
        text.lines().filter_map(line).filter(|(_, what)| ["pass", "fail", "skip"].contains(&what.as_str())).collect()
    };
    let count = |name: &str, what: &str| results(name).iter().filter(|(_, result)| result == what).count();
    assert!(count("run-passes.tap", "pass") >= 3 && count("run-passes.tap", "fail") == 0);
    assert!(results("run-dies.tap").iter().any(|(test, what)| test.contains("test-trace") && what == "fail"));
    // What the dead kernel did not reach.
    assert_eq!(count("run-early.tap", "pass"), 0);
    assert_eq!(count("run-early.tap", "fail"), 3);
}

/// `kunit.py` of a kernel tree in `out`, or the one that a variable names.
fn kunit() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("KUNIT_PY") {
        return Some(PathBuf::from(named));
    }
    let mut trees: Vec<PathBuf> = fs::read_dir(generated()).into_iter().flatten().flatten().map(|e| e.path()).collect();
    trees.sort();
    trees.into_iter().map(|tree| tree.join("tools/testing/kunit/kunit.py")).find(|path| path.is_file())
}

#[test]
fn kunit_py_reads_the_tap() {
    let all = All::new();
    let folder = all.written();
    let Some(script) = kunit() else {
        return skipped(
            "harness, kunit.py as reader of tap",
            "there is no kernel tree in the out folder; `make demo` makes one",
        );
    };
    let parse = |name: &str| {
        let input = fs::File::open(folder.join("tap").join(name)).unwrap();
        Command::new("python3").arg(&script).arg("parse").stdin(input).output().unwrap()
    };
    for (name, passes, summary) in [
        ("run-passes.tap", true, "Ran 3 tests: passed: 3"),
        ("run-dies.tap", false, "Ran 3 tests: passed: 2, failed: 1"),
        ("run-early.tap", false, "Ran 3 tests: failed: 3"),
        ("run-caught.tap", true, "Ran 1 tests: passed: 1"),
        ("check-checks.tap", false, "Ran 3 tests: passed: 1, failed: 1, skipped: 1"),
    ] {
        let done = parse(name);
        let text = String::from_utf8_lossy(&done.stdout).into_owned();
        assert!(text.contains(summary), "{name}: {text}");
        assert_eq!(done.status.success(), passes, "{name}: {text}");
    }
}

#[test]
fn what_runs_several_times_is_flaky_or_fails_always() {
    let bench = Bench::new(&finished());
    let trial = stale(&[(THREE[0], Expect::Survive)]);
    let row = |run: u32, verdict| {
        let mut row = bench.run(&trial.repeated(run)).rows.remove(0);
        row.verdict = verdict;
        row
    };
    let rows: Vec<_> =
        (1..=20).map(|run| row(run, if [2, 7, 9].contains(&run) { Verdict::Fail } else { Verdict::Pass })).collect();
    assert_eq!(report::repeats(&rows), ["series on stale, test-ipi.sh: 3 of 20 failed: flaky: run 2, 7, 9"]);
    let always: Vec<_> = (1..=3).map(|run| row(run, Verdict::Error)).collect();
    assert_eq!(report::repeats(&always), ["series on stale, test-ipi.sh: 3 of 3 failed: fails always"]);
    assert_eq!(report::repeats(&rows[..1]), ["series on stale, test-ipi.sh: 0 of 1 failed"]);
    assert!(report::repeats(&bench.run(&trial).rows).is_empty(), "one run is none of several");
    assert!(report::rows_table(&rows[..2], false, 80).contains("  run  "));
}
