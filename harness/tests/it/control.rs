// SPDX-License-Identifier: GPL-2.0-only
//! Controls: what `controls.toml` may say, and what counts as caught.

use std::path::Path;
use std::time::Duration;

use crate::common::{Lab, Said, messages, options, said, write};
use lazymap::boot::machine::{Counters, Limits};
use lazymap::build::workbench::Workbench;
use lazymap::options::asked::Select;
use lazymap::trial::control::{self, Control};
use lazymap::trial::expect::Expect;
use lazymap::trial::judge;
use lazymap::trial::plan::Trial;
use lazymap::trial::report::Row;
use lazymap::trial::scenario::{Tier, Which};
use lazymap::trial::seen::{BootSeen, TestSeen};
use lazymap::trial::select::Selection;
use lazymap::trial::verdict::Verdict;
use lazymap::verbs::controls::narrow;

const SCENARIO: &str = "description = \"d\"\n[machine]\nmodel = \"stale\"\n";

/// A repository with two scenarios, and `text` as its `controls.toml`; there is a patch `a`.
fn lab(text: &str) -> Lab {
    let lab = Lab::without_kernel();
    let at = |name: &str| lab.repo().join(name);
    for test in ["ipi", "a", "b", "c", "d"] {
        write(&at(&format!("selftests/test-{test}.sh")), "");
    }
    write(&at("harness/scenarios/default.toml"), SCENARIO);
    let other = "config = \"CONFIG_A=y\"\nappend = \"own=1\"\n[machine]\nmodel = \"plain\"\nharts = 9\n[limits]\nsilence = 99\n";
    write(&at("harness/scenarios/other.toml"), &format!("description = \"d\"\n{other}"));
    write(&at("harness/scenarios/built.toml"), "description = \"d\"\n[compile]\nfolders = [\"mm/\"]\n");
    write(&at("patches/controls/a.patch"), "");
    write(&at("patches/controls/controls.toml"), text);
    lab
}

fn one(run: &str) -> String {
    format!("[[control]]\nname = \"a\"\nwhat = \"about a\"\non = \"tip\"\n[[control.run]]\n{run}")
}

fn controls(lab: &Lab, args: &[&str]) -> Said {
    said(lab.tool().arg("controls").args(args))
}

fn load(run: &str) -> Control {
    let lab = lab(&one(run));
    control::load(&lab.repo()).unwrap().remove(0)
}

/// The trial of the only run.
fn trial(run: &str) -> Trial {
    load(run).runs.remove(0).trial
}

#[test]
fn the_controls_of_the_project() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let all = control::load(root).unwrap();
    assert!(!all.is_empty());
    for control in &all {
        // What differs in a header that everything includes, or in its configuration, is built for it alone;
        // where it takes luck to see it, it may take minutes; and two are there for `lazymap bench`.
        let late = [
            "address-filter",
            "fence-always",
            "fence-at-any-switch",
            "generation",
            "no-cip-453",
            "no-vmemmap",
            "offline-fences",
            "vcsr-lost",
            "vector-nesting",
        ];
        let late = late.contains(&control.name.as_str());
        let late = late || control.hunt.is_some();
        assert!(late || control.runs.iter().any(|r| r.tier < Tier::Full), "{} is in no `make check`", control.name);
    }
}

#[test]
fn what_a_run_says_and_what_it_takes_from_its_scenario() {
    let plain = load("test = \"test-ipi.sh\"\nobserve = \"stack-overflow\"\n");
    let run = &plain.runs[0];
    assert_eq!((plain.name.as_str(), plain.what.as_str(), plain.on.as_str()), ("a", "about a", "tip"));
    assert_eq!(
        (run.tier, run.config.name.as_str(), run.trial.name.as_str()),
        (Tier::Full, "", "a-default-stale-4-ipi")
    );
    assert_eq!((run.trial.machine.name().as_str(), run.trial.tests.len()), ("stale", 1));
    assert!(plain.exhaust.is_empty());
    let other = load("scenario = \"other\"\nobserve = \"boot-death\"\nappend = \"more=2\"\ntier = \"ci\"\n");
    let run = &other.runs[0];
    assert_eq!((run.tier, run.config.lines.as_str(), run.trial.machine.harts), (Tier::Ci, "CONFIG_A=y\n", 9));
    let bench = Workbench::planned(&options("/out".into()));
    assert_eq!(run.trial.limits.silence, Some(99));
    assert_eq!(run.trial.command_line(&bench), "own=1 more=2 lazymap.timeout=84 lazymap.tests=");
    assert_eq!(run.trial.name, "a-other-plain-9-boot");
    let right = trial("test = \"test-ipi.sh\"\nobserve = \"pass\"\n");
    assert!(matches!(&right.tests[..], [(test, Expect::Pass)] if test == "test-ipi.sh") && right.at_boot.is_none());
    // A boot for one test waits less for it than one of many tests, whatever the scenario runs.
    assert_eq!(plain.runs[0].trial.limits(&bench), Limits::default());
    let named = trial("machine = \"stale-sbi\"\nobserve = \"boot-death\"\n");
    assert_eq!((named.machine.name().as_str(), named.machine.harts), ("stale-sbi", 4));
    let table = trial("machine = { model = \"stale\", harts = 40, cpu = \"svvptc=on\" }\nobserve = \"boot-death\"\n");
    assert_eq!(
        table.limits(&bench),
        Limits::for_boot(&[""; 5], &plain.runs[0].trial.machine),
        "many harts get more time"
    );
    assert_eq!((table.machine.harts, table.machine.model.cpu.as_ref()), (40, "x-cache-invalid=on,svvptc=on"));
}

#[test]
fn a_wrong_file_is_one_line_and_64() {
    let test = "test = \"test-ipi.sh\"\n";
    let exhaust = |hole: &str| {
        let control = one("observe = \"boot-death\"\n");
        control.replace("on = \"tip\"\n", &format!("on = \"tip\"\nexhaust = [\"{hole}\"]\n"))
    };
    for (text, word) in [
        (one("observe = \"death\"\n"), "\"death\" is not one of stack-overflow, oops"),
        (exhaust("window 5"), "there are windows 1 to 4, and no window 5"),
        (
            exhaust("ends").replace("[[control.run]]\nobserve = \"boot-death\"", "hunt = \"valid\"\nculprit = [\"f\"]"),
            "exhaust needs a run",
        ),
        (one("observe = [\"hang\", 1]\n"), "1 is not one of"),
        (one("machine = { model = \"stale\", speed = 1 }\nobserve = \"boot-death\"\n"), "speed"),
        (one("machine = 1\nobserve = \"boot-death\"\n"), "machine"),
        (one("observe = []\n"), "observe is empty"),
        (one("silence = 0\nobserve = \"boot-death\"\n"), "positive number of seconds"),
        (one("observe = \"pass\"\n"), "pass needs a test"),
        (one(&format!("{test}observe = \"pass\"\ntext = \"a\"\n")), "neither symbol nor text"),
        (one(&format!("{test}observe = [\"pass\"]\n")), "\"pass\" is not one of"),
        (one(&format!("{test}observe = \"oops\"\n")), "oops needs symbol"),
        (one(&format!("{test}observe = \"warning\"\n")), "need text"),
        (one(&format!("{test}observe = \"panic\"\n")), "need text"),
        (one(&format!("{test}observe = \"boot-death\"\n")), "leave test out"),
        (one("observe = \"hang\"\n"), "need a test"),
        (one("observe = \"boot-death\"\nfails = [\"a\"]\n"), "fails needs a test"),
        (one(&format!("{test}observe = \"pass\"\nfails = [\"a\"]\n")), "fails needs a test"),
        (one(&format!("{test}observe = \"hang\"\nfails = [\"a\", \"b\"]\n")), "only test-failure"),
        (one(&format!("{test}observe = \"hang\"\ncases = [\"a\"]\nfails = [\"a\"]\n")), "fails needs a test"),
        (one("observe = [\"oops\", \"test-failure\"]\nsymbol = \"x\"\n"), "need a test"),
        (one("test = \"test-no.sh\"\nobserve = \"hang\"\n"), "no test `test-no.sh`"),
        (one("scenario = \"no\"\nobserve = \"boot-death\"\n"), "no scenario `no`"),
        (one("scenario = \"built\"\nobserve = \"boot-death\"\n"), "no scenario `built` that boots"),
        (one("machine = \"old\"\nobserve = \"boot-death\"\n"), "no machine model `old`"),
        (one(&format!("{test}observe = \"warning\"\ntext = \"(\"\n")), "text: `(`"),
        (one("observe = \"boot-death\"\nspeed = 1\n"), "speed"),
        (one(&"observe = \"boot-death\"\n[[control.run]]\n".repeat(2)), "observe"),
        (one("observe = \"boot-death\"\n[[control.run]]\nobserve = \"boot-death\"\n"), "two runs"),
        (one("").replace("[[control.run]]\n", ""), "no run"),
        (one("observe = \"boot-death\"\n").replace("name = \"a\"", "name = \"b\""), "so a.patch never runs"),
        (one("observe = \"boot-death\"\n").repeat(2), "another control has the same name"),
        (one("observe = \"boot-death\"\n").replace("about a", ""), "what must be one line"),
        (one("observe = \"boot-death\"\n").replace("name = \"a\"", "name = \"A\""), "small letters"),
    ] {
        controls(&lab(&text), &["--list"]).fails(64, &["patches/controls/controls.toml", word]);
    }
    let gone = lab(&one("observe = \"boot-death\"\n"));
    std::fs::remove_file(gone.repo().join("patches/controls/a.patch")).unwrap();
    controls(&gone, &["--list"]).fails(64, &["there is no a.patch"]);
}

#[test]
fn list_dry_run_and_unknown_names() {
    let lab = lab(&one("test = \"test-ipi.sh\"\nobserve = [\"stack-overflow\", \"hang\"]\n"));
    let list = controls(&lab, &["--list"]);
    list.passes();
    assert_eq!(list.out, "a  about a\n");
    let dry = controls(&lab, &["--dry-run"]);
    dry.passes();
    for word in ["patches/controls/a.patch on tip", "test-ipi.sh ends in stack overflow or hang", "x-cache-invalid=on"]
    {
        assert!(dry.out.contains(word), "{word}: {dry:?}");
    }
    controls(&lab, &["b"]).fails(64, &["no control `b`", "a"]);
    assert!(!lab.out().exists(), "nothing was made");
    let which = Which::Named(vec!["a".into()]);
    assert_eq!(control::choose(&lab.repo(), &which).unwrap().len(), 1);
}

#[test]
fn a_check_leaves_out_what_is_not_for_it() {
    let two = "test = \"test-ipi.sh\"\nobserve = \"hang\"\n[[control.run]]\ntier = \"ci\"\nobserve = \"boot-death\"\n";
    let runs = |text: &str, which| -> usize {
        control::choose(&lab(text).repo(), &which).unwrap().iter().map(|c| c.runs.len()).sum()
    };
    assert_eq!((runs(&one(two), Which::Tier(Tier::Full)), runs(&one(two), Which::Tier(Tier::Ci))), (2, 1));
    assert_eq!(runs(&one(two), Which::Tier(Tier::Quick)), 0);
    let none = one("test = \"test-ipi.sh\"\nobserve = \"hang\"\n");
    assert_eq!((runs(&none, Which::Tier(Tier::Full)), runs(&none, Which::Tier(Tier::Ci))), (1, 0));
}

/// The guest was ready and ran a test that did not end.
fn during(end: End) -> BootSeen<'static> {
    BootSeen {
        end: Ok(end),
        ready: true,
        tests: vec![TestSeen::default()],
        counters: Ok(Some(Counters { harts: 4, stale_hits: 7, fences: 100, gone_tables: 0 })),
        headline: None,
        hint: None,
        report: &[],
        boot: &[],
        stamped: false,
        lacking: vec![],
        problem: None,
        others: vec![],
    }
}

/// The same before the guest was ready.
fn early(end: End) -> BootSeen<'static> {
    BootSeen { ready: false, ..during(end) }
}

/// The test had this result.
fn result(status: Status, reason: Option<&str>) -> BootSeen<'static> {
    let seen = TestSeen { result: Some((status, reason.map(str::to_owned))), ..TestSeen::default() };
    BootSeen { tests: vec![seen], ..during(End::Finished) }
}

fn judged(trial: &Trial, seen: &BootSeen<'_>) -> Row {
    let mut rows = judge::judge(trial, seen);
    assert_eq!(rows.len(), 1);
    rows.remove(0)
}

#[track_caller]
fn comes_to(trial: &Trial, seen: &BootSeen, verdict: Verdict) {
    let row = judged(trial, seen);
    assert_eq!(row.verdict, verdict, "{row:?}");
}

fn overflow() -> End {
    End::StackOverflow { headline: "Kernel panic - not syncing: Kernel stack overflow".into() }
}

fn oops() -> End {
    End::Oops { headline: "Unable to handle kernel paging request".into() }
}

fn panic(what: &str) -> End {
    End::Panic { headline: format!("Kernel panic - not syncing: {what}") }
}

fn hang() -> End {
    End::Hang(Duration::from_secs(60))
}

use Verdict::{Error, Fail, Pass};
use lazymap_console::end::End;
use lazymap_console::ktap::Status;

#[test]
fn a_control_that_passes_was_not_caught() {
    for observe in ["stack-overflow", "oops", "panic", "hang", "warning", "test-failure"] {
        let trial = trial(&format!("test = \"test-ipi.sh\"\nobserve = \"{observe}\"\nsymbol = \"x\"\ntext = \"x\"\n"));
        let row = judged(&trial, &result(Status::Pass, None));
        assert_eq!((row.verdict, row.observed.as_str()), (Fail, "pass"), "{observe}");
        comes_to(&trial, &result(Status::Skip, None), Fail);
    }
    let boot = trial("observe = \"boot-death\"\n");
    let missing = vec!["KTAP version line"];
    let row = judged(&boot, &BootSeen { tests: vec![], ..during(End::Incomplete { missing: missing.clone() }) });
    assert_eq!((row.verdict, row.observed.as_str(), row.test.as_str()), (Fail, "the tests were reached", "(boot)"));
    // It died later than it had to.
    comes_to(&boot, &BootSeen { tests: vec![], ..during(overflow()) }, Fail);
    comes_to(&boot, &BootSeen { tests: vec![], ..early(End::Incomplete { missing }) }, Error);
}

#[test]
fn the_right_death_at_the_right_time() {
    let trial = trial("test = \"test-ipi.sh\"\nobserve = \"stack-overflow\"\n");
    comes_to(&trial, &during(overflow()), Pass);
    comes_to(&trial, &early(overflow()), Fail);
    let after = BootSeen { end: Ok(overflow()), ..result(Status::Pass, None) };
    comes_to(&trial, &after, Fail);
    for end in [oops(), panic("x"), hang(), End::Timeout(Duration::from_secs(1))] {
        comes_to(&trial, &during(end), Fail);
    }
    for end in [End::NeverBooted, End::QemuFailed { stderr: "x".into() }, End::Incomplete { missing: vec!["x"] }] {
        comes_to(&trial, &during(end), Error);
    }
    let none = BootSeen { end: Err("cannot build".into()), ..during(overflow()) };
    assert_eq!(judged(&trial, &none).observed, "not run: cannot build");
    comes_to(&trial, &none, Error);
}

#[test]
fn at_boot_any_death_will_do() {
    let boot = trial("observe = \"boot-death\"\n");
    for end in [overflow(), oops(), panic("x"), hang(), End::Timeout(Duration::from_secs(1))] {
        comes_to(&boot, &BootSeen { tests: vec![], ..early(end) }, Pass);
    }
    comes_to(&boot, &BootSeen { tests: vec![], ..early(End::NeverBooted) }, Error);
}

#[test]
fn an_oops_has_to_be_in_the_right_place() {
    let trial = trial("test = \"test-ipi.sh\"\nobserve = \"oops\"\nsymbol = \"handle_exception\"\n");
    let with = |line: &str| BootSeen { report: messages(&["Oops [#1]", line]), ..during(oops()) };
    comes_to(&trial, &with("epc : handle_exception+0xa8/0x130"), Pass);
    comes_to(&trial, &with(" ra : handle_exception+0x8/0x130"), Pass);
    comes_to(&trial, &with("epc : other+0xa8/0x130"), Fail);
    // The entry code is in every call trace.
    comes_to(&trial, &with("[<ffffffff80000000>] handle_exception+0x10/0x20"), Fail);
    let other = BootSeen { report: with("epc : handle_exception+0xa8/0x130").report, ..during(panic("x")) };
    comes_to(&trial, &other, Fail);
}

#[test]
fn an_oops_has_to_say_the_right_thing() {
    let trial = trial("test = \"test-ipi.sh\"\nobserve = [\"oops\", \"boot-death\"]\ntext = \"pte=[0-9a-f]+7$\"\n");
    for sight in [during, early] {
        let with = |line: &str| BootSeen { report: messages(&["Oops [#1]", line]), ..sight(oops()) };
        comes_to(&trial, &with("[ff20000000280f68] pmd=0000000020467c01, pte=00000000204ff0e7"), Pass);
        comes_to(&trial, &with("[ff20000000280f68] pmd=0000000020467c01, pte=0000000000000000"), Fail);
    }
    // Each at its own time only.
    comes_to(&trial, &BootSeen { report: messages(&["pte=7"]), ..during(panic("x")) }, Fail);
    comes_to(&trial, &early(hang()), Pass);
    comes_to(&trial, &during(hang()), Fail);
}

#[test]
fn a_death_at_boot_may_have_to_be_in_a_place() {
    let boot = trial("observe = \"boot-death\"\nsymbol = \"f\"\n");
    let at = |place: &str| BootSeen { tests: vec![], report: messages(&[place]), ..early(oops()) };
    comes_to(&boot, &at("epc : f+0x8/0x10"), Pass);
    comes_to(&boot, &at("epc : g+0x8/0x10"), Fail);
}

#[test]
fn a_panic_has_to_say_the_right_thing() {
    let trial = trial("test = \"test-ipi.sh\"\nobserve = \"panic\"\ntext = \"kill init\"\n");
    comes_to(&trial, &during(panic("Attempted to kill init!")), Pass);
    comes_to(&trial, &during(panic("VFS")), Fail);
    comes_to(&trial, &during(overflow()), Fail);
}

#[test]
fn a_hang_is_seen_from_outside_or_by_the_guest() {
    let trial = trial("test = \"test-ipi.sh\"\nobserve = \"hang\"\n");
    comes_to(&trial, &during(hang()), Pass);
    comes_to(&trial, &during(End::Timeout(Duration::from_secs(240))), Pass);
    comes_to(&trial, &result(Status::Fail, Some("timeout")), Pass);
    comes_to(&trial, &result(Status::Fail, Some("exit=1")), Fail);
    comes_to(&trial, &early(hang()), Fail);
    comes_to(&trial, &during(oops()), Fail);
}

#[test]
fn a_warning_comes_while_the_test_runs() {
    let trial = trial("test = \"test-ipi.sh\"\nobserve = [\"warning\", \"hang\"]\ntext = \"^WARNING: .*smp\\\\.c\"\n");
    let warning = || messages(&["WARNING: CPU: 1 at kernel/smp.c:1"]);
    let said = |seen: BootSeen<'static>| {
        let tests = vec![TestSeen { messages: warning(), ..seen.tests[0].clone() }];
        BootSeen { tests, ..seen }
    };
    comes_to(&trial, &said(result(Status::Pass, None)), Pass);
    comes_to(&trial, &said(during(overflow())), Pass);
    comes_to(&trial, &during(hang()), Pass);
    comes_to(&trial, &BootSeen { boot: warning(), ..result(Status::Pass, None) }, Fail);
    let boot = self::trial("observe = \"warning\"\ntext = \"smp\"\n");
    comes_to(&boot, &BootSeen { boot: warning(), tests: vec![], ..early(hang()) }, Pass);
}

#[test]
fn a_test_has_to_fail_by_itself() {
    let trial = trial("test = \"test-ipi.sh\"\nobserve = \"test-failure\"\ntext = \"wrong count\"\n");
    let said = |reason: &str, note: &str| {
        let seen = result(Status::Fail, Some(reason));
        BootSeen { tests: vec![TestSeen { notes: vec![note.into()], ..seen.tests[0].clone() }], ..seen }
    };
    comes_to(&trial, &said("exit=1", "# wrong count: 3"), Pass);
    comes_to(&trial, &said("exit=1", "# no memory"), Fail);
    comes_to(&trial, &said("timeout", "# wrong count: 3"), Fail);
    comes_to(&trial, &during(hang()), Fail);
}

#[test]
fn the_right_cases_have_to_fail_and_no_others() {
    let both = trial("test = \"test-ipi.sh\"\nobserve = \"test-failure\"\nfails = [\"a\", \"b\"]\n");
    let one = trial("test = \"test-ipi.sh\"\nobserve = [\"hang\", \"oops\"]\nsymbol = \"f\"\nfails = [\"a\"]\n");
    assert_eq!(one.name, "a-default-stale-4-ipi-a");
    let (pass, fail) = (Status::Pass, Status::Fail);
    let with = |seen: BootSeen<'static>, cases: &[(&str, Status)]| {
        let cases = cases.iter().map(|&(name, status)| (name.to_owned(), status)).collect();
        BootSeen { tests: vec![TestSeen { cases, ..seen.tests[0].clone() }], ..seen }
    };
    let failed = || result(fail, Some("exit=1"));
    comes_to(&both, &with(failed(), &[("a", fail), ("b", fail), ("c", pass), ("d", Status::Skip)]), Pass);
    for cases in [
        &[("a", fail), ("b", pass)][..],
        &[("a", fail), ("b", Status::Skip)],
        &[("a", fail), ("b", fail), ("c", fail)],
        &[("a", fail)],
    ] {
        comes_to(&both, &with(failed(), cases), Fail);
    }
    // Where the boot ends, the case has no result.
    comes_to(&one, &with(during(hang()), &[("c", pass)]), Pass);
    comes_to(&one, &with(result(fail, Some("timeout")), &[("c", pass)]), Pass);
    comes_to(&one, &with(during(hang()), &[("c", fail)]), Fail);
    comes_to(&one, &with(during(hang()), &[("a", pass)]), Fail);
}

#[test]
fn a_machine_that_had_nothing_to_offer_proves_nothing() {
    let trial = trial("test = \"test-ipi.sh\"\nobserve = \"stack-overflow\"\n");
    let with = |counters| BootSeen { counters, ..during(overflow()) };
    comes_to(&trial, &with(Ok(Some(Counters { harts: 4, stale_hits: 0, fences: 1, gone_tables: 0 }))), Fail);
    comes_to(&trial, &with(Ok(None)), Fail);
    comes_to(&trial, &with(Err("no counters".into())), Error);
    let plain = self::trial("machine = \"plain\"\ntest = \"test-ipi.sh\"\nobserve = \"stack-overflow\"\n");
    comes_to(&plain, &with(Ok(None)), Pass);
}

#[test]
fn a_case_is_named_once_on_the_command_line() {
    let lab = lab(&one("test = \"test-ipi.sh\"\ncases = [\"one\", \"two\"]\nobserve = \"hang\"\n"));
    write(&lab.repo().join("selftests/test-ipi.sh"), "run_module all lazy_map_ipi\n");
    write(&lab.repo().join("selftests/test_modules/lazy_map_ipi.rs"), "fn one(\nfn two(\n");
    let dry = controls(&lab, &["--dry-run"]);
    dry.passes();
    for case in ["lazy_map_ipi.case=one", "lazy_map_ipi.case=two"] {
        assert_eq!(dry.out.matches(case).count(), 1, "{case}: {dry:?}");
    }
    let select = Select { case: vec!["two".into()], ..Select::default() };
    let selection = Selection::new(&lab.repo(), &select).unwrap();
    let all = control::choose(&lab.repo(), &Which::Named(vec!["a".into()])).unwrap();
    let narrowed = narrow(all, &selection).unwrap().remove(0);
    let cases: Vec<_> = narrowed.runs.iter().flat_map(|run| &run.trial.cases).map(|case| &*case.name).collect();
    assert_eq!(cases, ["two"]);
}
