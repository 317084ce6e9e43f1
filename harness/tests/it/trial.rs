// SPDX-License-Identifier: GPL-2.0-only
//! Trials of machines that are shell scripts, from the boot to the row.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use lazymap::boot::machine::Machine;
use lazymap::boot::models;
use lazymap::build::kernel::{self, Config, Kernel};
use lazymap::build::workbench::Workbench;
use lazymap::ground::error::Error;
use lazymap::options::Options;
use lazymap::trial::expect::{Expect, Observation, Sign};
use lazymap::trial::plan::{Case, Trial};
use lazymap::trial::report;
use lazymap::trial::run::{self, Done};
use lazymap::trial::verdict::Verdict;
use regex_lite::Regex;
use tempfile::TempDir;

use crate::common::options;

/// A workbench with nothing real but the files that have to exist, and a kernel.
pub struct Bench {
    pub dir: TempDir,
    pub bench: Workbench,
    kernel: Kernel,
}

pub const COUNTERS: &str = "echo 'x-cache-invalid: total harts=4 stale_hits=7 fences=8 remembered=9' >&2\n";

impl Bench {
    /// A machine that runs `script`, in which `$logs` is the folder of recorded consoles.
    pub fn new(script: &str) -> Self {
        let dir = TempDir::new().unwrap();
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let at = |name: &str| dir.path().join(name);
        symlink(here.join("tests/fixtures/fake-qemu"), at("qemu")).unwrap();
        let logs = here.join("console/tests/fixtures/console");
        fs::write(at("script"), format!("logs='{}'\n{script}", logs.display())).unwrap();
        let mut elf = b"\x7fELF".to_vec();
        elf.resize(64, 0);
        elf[18] = 243;
        fs::write(at("busybox"), elf).unwrap();
        fs::create_dir(at("tests")).unwrap();
        let options = options(at("out"));
        let mut bench = Workbench::planned(&options);
        bench.qemu.binary = at("qemu");
        bench.busybox = at("busybox");
        let mut kernel = kernel::planned(&options, "series", &Config::default());
        kernel.selftests = at("tests");
        Self { dir, bench, kernel }
    }

    /// Where consoles go.
    pub fn folder(&self) -> PathBuf {
        self.dir.path().join("out/x")
    }

    pub fn run(&self, trial: &Trial) -> Done {
        run::run(&self.bench, trial, Ok(&self.kernel), &self.folder())
    }
}

pub fn stale(tests: &[(&str, Expect)]) -> Trial {
    let tests = tests.iter().map(|(test, expect)| ((*test).to_owned(), expect.clone())).collect();
    Trial::new("series", Machine::new(models::find("stale").unwrap()), tests)
}

pub fn finished() -> String {
    format!("cat \"$logs/finished.log\"\n{COUNTERS}")
}

#[test]
fn a_console_that_lacks_what_the_scenario_is_about_is_an_error() {
    let bench = Bench::new(&finished());
    let mut trial = stale(&[("test-ipi.sh", Expect::Survive)]);
    trial.scenario = Some("x".to_owned());
    trial.require = vec![Regex::new("^Linux version ").unwrap(), Regex::new(r"^Machine model: .*qemu$").unwrap()];
    let done = bench.run(&trial);
    assert_eq!(done.rows[0].verdict, Verdict::Pass, "{done:?}");
    assert_eq!((done.rows[0].scenario.as_deref(), done.report), (Some("x"), None));
    // Not anywhere in a message, if it has to be at its start.
    trial.require.push(Regex::new("^version ").unwrap());
    let done = bench.run(&trial);
    assert_eq!(done.rows[0].verdict, Verdict::Error);
    let report = done.report.unwrap();
    assert!(report.contains("the console lacks") && report.contains("^version "), "{report}");
}

#[test]
fn a_test_that_fails_is_reported_with_its_case_and_its_own_lines() {
    let failed = "/test-stack.sh/,/test-trace.sh/{
        s/# # PASS/# # CPU 2 has not touched page 7/
        s/# ok 1 new/# not ok 1 new/
        s/pass:1 fail:0/pass:0 fail:1/
        s/ok 2 selftests/not ok 2 selftests/
    }";
    let bench = Bench::new(&format!("sed '{failed}' \"$logs/finished.log\"\n{COUNTERS}"));
    let tests: Vec<_> = ["test-ipi.sh", "test-stack.sh"].map(|test| (test, Expect::Survive)).into();
    let done = bench.run(&stale(&tests));
    let row = &done.rows[1];
    assert_eq!((row.observed.as_str(), row.verdict), ("fail", Verdict::Fail), "{done:?}");
    let why = "new_stack_page_used_by_trap: fail: touches: 64; CPU 2 has not touched page 7";
    assert!(row.why.iter().any(|w| w.ends_with(why)), "{:?}", row.why);
    let report = done.report.unwrap();
    assert!(report.contains("the lines before the failure of test-stack.sh in "), "{report}");
    let last = report.lines().rfind(|line| line.contains(" | ")).unwrap();
    assert!(last.ends_with("not ok 1 new_stack_page_used_by_trap"), "{report}");
}

#[test]
fn a_kernel_that_could_not_be_built_is_a_row() {
    let bench = Bench::new(&finished());
    let trial = stale(&[("test-ipi.sh", Expect::Survive), ("test-trace.sh", Expect::Survive)]);
    let done = run::run(&bench.bench, &trial, Err(Error::could_not("no luck")), &bench.dir.path().join("out/x"));
    let seen: Vec<_> = done.rows.iter().map(|r| (r.observed.as_str(), r.verdict)).collect();
    assert_eq!(seen, [("not run: no luck", Verdict::Error), ("not run: no luck", Verdict::Error)]);
}

/// A trial of a control in which one of `signs` has to be seen.
fn caught(signs: &[Sign], symbol: Option<&str>, text: Option<&str>, test: Option<&str>) -> Trial {
    let text = text.map(|t| Regex::new(t).unwrap());
    let observation = Observation { signs: signs.to_vec(), symbol: symbol.map(str::to_owned), text, fails: vec![] };
    match test {
        Some(test) => stale(&[(test, Expect::Caught(observation))]),
        None => Trial { at_boot: Some(observation), ..stale(&[]) },
    }
}

#[test]
fn a_control_is_judged_by_a_whole_console() {
    let overflow = Bench::new(&format!("cat \"$logs/stack-overflow.log\"\n{COUNTERS}"));
    let trace = Some("test-trace.sh");
    let row = |bench: &Bench, trial: Trial| bench.run(&trial).rows.remove(0);
    let seen = row(&overflow, caught(&[Sign::StackOverflow], None, None, trace));
    assert_eq!((seen.verdict, seen.expected.as_str(), seen.stale_hits), (Verdict::Pass, "stack overflow", Some(7)));
    assert_eq!(row(&overflow, caught(&[Sign::Oops], Some("x"), None, trace)).verdict, Verdict::Fail);
    assert_eq!(row(&overflow, caught(&[Sign::BootDeath], None, None, None)).verdict, Verdict::Fail);
    let well = Bench::new(&finished());
    assert_eq!(row(&well, caught(&[Sign::StackOverflow], None, None, trace)).observed, "pass");
    // A message of the boot is none of the test.
    let version = Some("^Linux version");
    assert_eq!(row(&well, caught(&[Sign::Warning], None, version, trace)).verdict, Verdict::Fail);
    assert_eq!(row(&well, caught(&[Sign::Warning], None, version, None)).verdict, Verdict::Pass);
    // Nor is one of the tests any of the boot.
    let done = Some("^lazymap: guest done");
    assert_eq!(row(&well, caught(&[Sign::Warning], None, done, None)).verdict, Verdict::Fail);
    let report = "echo '[    0.100000] Linux version 7.3.4'; echo '[    0.200000] Oops [#1]'
echo '[    0.300000] epc : handle_exception+0xa8/0x130'; echo '[    0.400000]  ra : other+0x1/0x2'\n";
    let oops = Bench::new(&format!("{report}{COUNTERS}"));
    assert_eq!(row(&oops, caught(&[Sign::Oops], Some("handle_exception"), None, None)).verdict, Verdict::Pass);
    assert_eq!(row(&oops, caught(&[Sign::Oops], Some("handle"), None, None)).verdict, Verdict::Fail);
    let silent = Bench::new(COUNTERS);
    assert_eq!(row(&silent, caught(&[Sign::BootDeath], None, None, None)).verdict, Verdict::Error);
}

#[test]
fn scenarios_have_a_column_where_there_are_some() {
    let bench = Bench::new(&finished());
    let plain = bench.run(&stale(&[("test-ipi.sh", Expect::Survive)])).rows;
    assert!(!report::rows_table(&plain, false, 80).contains("scenario"));
    let mut of = stale(&[("test-ipi.sh", Expect::Survive)]);
    of.scenario = Some("sv39".to_owned());
    let mut rows = bench.run(&of).rows;
    rows.extend(plain);
    let text = report::rows_table(&rows, false, 200);
    let starts: Vec<&str> = text.lines().map(|l| l.get(..16).unwrap()).collect();
    assert_eq!(starts, ["scenario  kernel", "sv39      series", "-         series"]);
}

#[test]
fn qemu_says_which_machines_it_takes() {
    let refuse =
        "case \"$*\" in *nonsense*) echo \"qemu: can't apply: Property 'x.nonsense' not found\" >&2; exit 1 ;; esac\n";
    let bench = Bench::new(refuse);
    let mut machine = Machine::new(models::find("stale").unwrap());
    assert_eq!(bench.bench.takes(&machine), Ok(()));
    machine.model.cpu = "nonsense=on".into();
    let why = bench.bench.takes(&machine).unwrap_err();
    assert!(why.contains("'x.nonsense' not found") && why.contains("rv64,nonsense=on"), "{why}");
    machine.model.cpu = "".into();
    machine.core = "nonsense".into();
    let why = bench.bench.takes(&machine).unwrap_err();
    assert!(why.contains("the machine stale-nonsense (-cpu nonsense): "), "{why}");
}

#[test]
fn another_base_has_folders_of_its_own() {
    let mut options = options("/out".into());
    let scenario = Config { name: "x".to_owned(), lines: "CONFIG_X=y\n".to_owned(), ..Config::default() };
    let places = |options: &Options| {
        let kernel = kernel::planned(options, "series", &scenario);
        [
            kernel::o_folder(options, &Config::default()).display().to_string(),
            kernel::o_folder(options, &scenario).display().to_string(),
            kernel.image.display().to_string(),
            options.place("demo").display().to_string(),
        ]
    };
    assert_eq!(places(&options), ["/out/build", "/out/scenarios/x", "/out/kernel/series-x/Image", "/out/demo"]);
    options.base.linux.version = "1.0".to_owned();
    let other = ["/out/build-1.0", "/out/scenarios-1.0/x", "/out/kernel-1.0/series-x/Image", "/out/demo-1.0"];
    assert_eq!(places(&options), other);
    options.ksrc = Some("/linux".into());
    assert_eq!(places(&options)[..2], ["/out/build-ksrc-1.0", "/out/scenarios-ksrc-1.0/x"]);
    // What is about the patches alone is about those of each version.
    let suffixes: Vec<String> = options.every_base().iter().map(|o| o.base.suffix()).collect();
    assert_eq!(suffixes, ["", "-7.2", "-6.12"]);
}

/// Keeps the command lines of a machine.
const CALLS: &str = r#"
case "$*" in
*lazymap.timeout=*) echo "$*" >>calls ;;
esac
"#;

#[test]
fn limits_that_the_user_stretches_reach_the_guest() {
    let mut bench = Bench::new(&format!("{CALLS}{}", finished()));
    let trial = stale(&[("test-ipi.sh", Expect::Survive)]);
    bench.bench.options.asked.slow = Some(3.0);
    let done = bench.run(&trial);
    let boot = done.boot.unwrap();
    assert_eq!((boot.limits.slow, boot.limits.silence, boot.tries), (3.0, 180.0, 1));
    let calls = fs::read_to_string(bench.dir.path().join("calls")).unwrap();
    assert!(calls.contains(" lazymap.timeout=165 ") && calls.contains("rcupdate.rcu_cpu_stall_timeout=63"), "{calls}");
    // What the environment sets is in seconds, whatever the host.
    bench.bench.options.limits.silence = Some(40);
    assert_eq!(bench.run(&trial).boot.unwrap().limits.silence, 40.0);
    bench.bench.options.limits.silence = None;
    bench.bench.options.asked.slow = Some(1.0);
    assert_eq!(bench.run(&trial).boot.unwrap().limits.silence, 60.0);
    let calls = fs::read_to_string(bench.dir.path().join("calls")).unwrap();
    assert!(!calls.lines().last().unwrap().contains("rcu_cpu_stall"), "{calls}");
}

#[test]
fn a_case_is_selected_where_the_module_can_do_that() {
    let bench = Bench::new(&format!("{CALLS}{}", finished()));
    let modules = bench.dir.path().join("tests/test_modules");
    fs::create_dir_all(&modules).unwrap();
    fs::write(modules.join("new.ko"), b"\x7fELF\0parmtype=rounds:uint\0new.parmtype=case:string\0").unwrap();
    fs::write(modules.join("old.ko"), b"\x7fELF\0parmtype=rounds:uint\0").unwrap();
    let case = |module: &str| Case { module: module.to_owned(), name: "one".to_owned() };
    let trial = stale(&[("test-ipi.sh", Expect::Survive)]);
    bench.run(&Trial { cases: vec![case("new"), case("old"), case("none")], ..trial });
    let calls = fs::read_to_string(bench.dir.path().join("calls")).unwrap();
    assert!(calls.contains(" new.case=one ") && !calls.contains("old.case") && !calls.contains("none.case"), "{calls}");
}

#[test]
fn a_suite_that_fails_while_the_kernel_boots_fails_the_trial() {
    let suite = |result: &str| {
        let lines = ["KTAP version 1", "1..1", result].map(|l| format!("echo '[    0.900000] {l}'\n")).concat();
        let script = format!(
            "sed '/lazymap: guest ready/,$d' $logs/finished.log\n{lines}sed -n '/lazymap: guest ready/,$p' $logs/finished.log\n{COUNTERS}"
        );
        Bench::new(&script)
            .run(&stale(&[
                ("test-ipi.sh", Expect::Survive),
                ("test-trace.sh", Expect::Survive),
                ("test-stack.sh", Expect::Survive),
            ]))
            .rows
    };
    for row in suite("not ok 1 some_suite") {
        assert_eq!(row.verdict, Verdict::Fail, "{row:?}");
        assert!(row.why.iter().any(|why| why.contains("some_suite says fail")), "{row:?}");
    }
    for row in suite("not ok 1 some_suite # ERROR x") {
        assert_eq!(row.verdict, Verdict::Error, "{row:?}");
    }
    for row in suite("ok 1 some_suite # SKIP x") {
        assert_eq!(row.verdict, Verdict::Pass, "{row:?}");
    }
}
