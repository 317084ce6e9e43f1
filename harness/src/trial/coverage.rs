// SPDX-License-Identifier: GPL-2.0-only
//! Which control shows that a test case can fail: the table in `selftests/README`.
//!
//! A case that no kernel has ever failed proves nothing. One without a control is an error, unless the
//! list of controls says why; the table shows that as well. So is one that a test reports and nobody has listed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::control::{self, CasesGiven, Control, module_of};
use super::expect::Expect;
use super::record::{CaseResult, CaseRow};
use super::report::{Done, Row};
use super::verdict::Verdict;
use crate::ground::error::{Error, Result};
use crate::ground::files;

/// The file with the table, and the folder with the modules, in the repository.
const README: &str = "selftests/README";
const MODULES: &str = "selftests/test_modules";

/// Between these lines of the file is the table.
const BEGIN: &str = ".. The table is generated from the list of broken kernels; do not edit it.\n";
const END: &str = ".. End of the table.\n";

/// The cases of each module, and of each script that has others, in order.
type Cases = BTreeMap<String, Vec<String>>;

/// Writes the table into the README of the repository `root`; returns whether it changed.
///
/// # Errors
/// When a case has no control, or a file cannot be read or written, or lacks the place of the table.
pub fn update(root: &Path) -> Result<bool> {
    let path = root.join(README);
    if !path.exists() {
        // A series without these tests. That this repository has the table, a test of the tool checks.
        return Ok(false);
    }
    let old = files::read_text(&path)?;
    let given = control::cases_given(root)?;
    let table = table(&cases(root, &given)?, &control::load(root)?, &given.exceptions)?;
    let new = with_table(&old, &table)?;
    if new == old {
        return Ok(false);
    }
    files::write_whole(&path, new)?;
    Ok(true)
}

/// The cases that the sources of the modules list, and those that the list of controls gives for scripts.
fn cases(root: &Path, given: &CasesGiven) -> Result<Cases> {
    let mut cases = given.cases.clone();
    for path in files::list(&root.join(MODULES))? {
        let name = files::name(&path).into_owned();
        let module = name.strip_suffix(".rs").or_else(|| name.strip_suffix(".c"));
        // Others are what a build leaves.
        let Some(module) = module.filter(|n| n.starts_with("lazy_map_") && !n.ends_with(".mod")) else {
            continue;
        };
        let text = files::read_text(&path)?;
        let listed = listed(&text);
        if listed.is_empty() {
            return Err(Error::could_not(format!("{MODULES}/{name} has no tests; add functions with `#[test]`")));
        }
        cases.insert(module.to_owned(), listed);
    }
    Ok(cases)
}

/// The tests of a module: in Rust the functions below `#[test]`, in their order; in C the names at the beginning of
/// the lines of `cases[] = {...};`.
pub fn listed(text: &str) -> Vec<String> {
    if let Some((_, rest)) = text.split_once("} cases[] = {") {
        let table = rest.split_once("};").map_or("", |(table, _)| table);
        let first = |line: &str| Some(line.trim().strip_prefix("{ \"")?.split_once('"')?.0.to_owned());
        return table.lines().filter_map(first).collect();
    }
    let mut lines = text.lines().map(str::trim);
    let mut names = Vec::new();
    while lines.any(|line| line == "#[test]") {
        let name = lines.find_map(|line| line.strip_prefix("fn ")?.split('(').next());
        names.extend(name.map(str::to_owned));
    }
    names
}

/// Turns a pass into an error if the test has reported a case that neither a module nor the list of controls in the
/// repository `root` has: nobody would notice that no control fails it.
///
/// # Errors
/// When a file cannot be read, or is wrong.
pub fn check(root: &Path, done: &mut [Done]) -> Result<()> {
    if !root.join(MODULES).exists() {
        return Ok(());
    }
    let cases = cases(root, &control::cases_given(root)?)?;
    for one in done {
        // Others, such as suites of KUnit, are not in the lists.
        let own = |row: &&mut Row| row.verdict == Verdict::Pass && row.test.ends_with(".sh");
        for row in one.rows.iter_mut().filter(own) {
            let unknown = unlisted(row, &cases);
            if !unknown.is_empty() {
                row.verdict = Verdict::Error;
                row.why.push(format!(
                    "{} is not known to have a control; name it in {}/{}",
                    unknown.join(", "),
                    control::FOLDER,
                    control::FILE
                ));
                one.report = Some(format!("{}: {}", row.test, row.why.join("; ")));
            }
        }
    }
    Ok(())
}

/// The innermost cases of a test that are in none of the lists.
fn unlisted(row: &Row, cases: &Cases) -> Vec<String> {
    // Some scripts run several modules.
    let own = cases.iter().filter(|(of, _)| **of == row.test || !of.ends_with(".sh"));
    let known: BTreeSet<&String> = own.flat_map(|(_, names)| names).collect();
    let innermost = row.cases.iter().flat_map(CaseRow::flat).filter(|(_, case)| case.cases.is_empty());
    // A suite that was skipped as a whole has the name of its module.
    let new = innermost.filter(|(_, case)| case.result != CaseResult::Skip && !known.contains(&case.name));
    new.map(|(_, case)| case.name.clone()).collect()
}

/// The rows for all cases, in the format of the README. Neighbours that the same kernels fail share them.
fn table(cases: &Cases, controls: &[Control], exceptions: &BTreeMap<String, String>) -> Result<String> {
    let mut text = String::new();
    let mut missing = Vec::new();
    let mut excepted = exceptions.clone();
    for (of, names) in cases {
        text.push_str(&format!("{of}\n"));
        let mut before: Vec<String> = Vec::new();
        for name in names {
            let mut seen = seen(of, name, controls);
            // One that is excepted and covered stays in the list, which is an error as well.
            if seen.is_empty() {
                match excepted.remove(&format!("{of}.{name}")) {
                    Some(why) => seen.push(format!("no broken kernel: {why}")),
                    None => missing.push(format!("{of}.{name}")),
                }
            }
            if !before.is_empty() && before != seen {
                before.iter().for_each(|line| text.push_str(&format!("      {line}\n")));
            }
            text.push_str(&format!("  {name}\n"));
            before = seen;
        }
        before.iter().for_each(|line| text.push_str(&format!("      {line}\n")));
        text.push('\n');
    }
    if let Some(name) = excepted.keys().next() {
        return Err(Error::could_not(format!(
            "{name} is a case with a control, or none at all; remove it from `exceptions` in {}/{}",
            control::FOLDER,
            control::FILE
        )));
    }
    if missing.is_empty() {
        return Ok(text);
    }
    Err(Error::could_not(format!(
        "no control fails {}; add one to {}/{}, with `cases` or `fails`",
        missing.join(", "),
        control::FOLDER,
        control::FILE
    )))
}

/// How a case was seen to fail.
fn seen(of: &str, name: &str, controls: &[Control]) -> Vec<String> {
    let mut seen = Vec::new();
    for control in controls {
        for run in &control.runs {
            for (test, expect) in &run.trial.tests {
                let Expect::Caught(observation) = expect else { continue };
                // Programs select a case as modules do.
                let alone = run.case() == Some(name) && (module_of(test) == of || test == of);
                let among = test == of && observation.fails.iter().any(|failing| failing == name);
                if alone || among {
                    let line = format!("{}: {}", run.what.as_ref().unwrap_or(&control.what), expect.name());
                    if !seen.contains(&line) {
                        seen.push(line);
                    }
                }
            }
        }
    }
    seen
}

/// The README with this table.
fn with_table(readme: &str, table: &str) -> Result<String> {
    files::with_part(README, readme, BEGIN, END, table.strip_suffix('\n').unwrap_or(table))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn root() -> &'static Path {
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
    }

    #[test]
    fn lists_are_read() {
        let two = "
            #[test]
            fn one(test: &Test) -> kselftest::Result {
            }
            fn helper() {}
            /// The second one.
            #[test]
            #[cfg(CONFIG_X)]
            fn two(test: &Test) -> kselftest::Result {
        ";
        assert_eq!(listed(two), ["one", "two"]);
        assert!(listed("nothing").is_empty());
    }

    #[test]
    fn lists_in_c_are_read() {
        let text = "static const struct {\n} cases[] = {\n\t{ \"one\", run_one },\n\t/* Last */\n\t{ \"two\", run_two },\n};\n";
        assert_eq!(listed(text), ["one", "two"]);
    }

    fn given() -> CasesGiven {
        control::cases_given(root()).unwrap()
    }

    #[test]
    fn each_case_has_a_control_and_is_in_the_readme() {
        let readme = fs::read_to_string(root().join(README)).unwrap();
        let (controls, given) = (control::load(root()).unwrap(), given());
        let table =
            table(&cases(root(), &given).unwrap(), &controls, &given.exceptions).map_err(|e| e.message).unwrap();
        assert!(with_table(&readme, &table).unwrap() == readme, "{README} is old; run `make series`");
    }

    #[test]
    fn what_controls_fail_is_a_case() {
        let cases = cases(root(), &given()).unwrap();
        for control in control::load(root()).unwrap() {
            for (test, expect) in control.runs.iter().flat_map(|run| &run.trial.tests) {
                let Expect::Caught(observation) = expect else { continue };
                let (script, module) = (cases.get(test), cases.get(&module_of(test)));
                let known = |name: &String| [script, module].into_iter().flatten().flatten().any(|n| n == name);
                let unknown: Vec<&String> = observation.fails.iter().filter(|name| !known(name)).collect();
                assert!(unknown.is_empty(), "{}, {test}: {unknown:?}", control.name);
            }
        }
    }

    #[test]
    fn the_scripts_with_cases_exist() {
        for test in given().cases.keys() {
            assert!(root().join("selftests").join(test).exists(), "{test}");
        }
    }

    #[test]
    fn a_case_without_a_control_is_an_error() {
        let controls = control::load(root()).unwrap();
        let own = Cases::from([("lazy_map_ipi".to_owned(), vec!["nobody_fails_this".to_owned()])]);
        let none = BTreeMap::new();
        let message = table(&own, &controls, &none).unwrap_err().message;
        assert!(message.contains("no control fails lazy_map_ipi.nobody_fails_this"), "{message}");
        // The same name in another module does not count.
        let mut cases = cases(root(), &given()).unwrap();
        let stack = cases.remove("lazy_map_stack").unwrap();
        let of_stack = Cases::from([("lazy_map_stack".to_owned(), stack.clone())]);
        assert!(table(&of_stack, &controls, &none).is_ok());
        assert!(table(&Cases::from([("lazy_map_ipi".to_owned(), stack)]), &controls, &none).is_err());
    }

    #[test]
    fn an_exception_has_a_reason_and_must_be_true() {
        let controls = control::load(root()).unwrap();
        let own = Cases::from([("lazy_map_ipi".to_owned(), vec!["nobody_fails_this".to_owned()])]);
        let excepted = |name: &str| BTreeMap::from([(name.to_owned(), "a reason".to_owned())]);
        let text = table(&own, &controls, &excepted("lazy_map_ipi.nobody_fails_this")).unwrap();
        assert!(text.contains("nobody_fails_this\n      no broken kernel: a reason\n"), "{text}");
        let stack = Cases::from([("lazy_map_stack".to_owned(), vec!["new_stack_page_used_by_trap".to_owned()])]);
        let message = table(&stack, &controls, &excepted("lazy_map_stack.new_stack_page_used_by_trap")).unwrap_err();
        assert!(message.message.contains("remove it from `exceptions`"));
        assert!(given().exceptions.values().all(|why| !why.trim().is_empty()));
    }

    #[test]
    fn a_new_case_is_noticed_when_it_has_run() {
        let case = |name: &str, cases: Vec<CaseRow>| CaseRow {
            name: name.to_owned(),
            result: CaseResult::Pass,
            reason: None,
            notes: Vec::new(),
            seconds: 0.0,
            cases,
        };
        let known = Cases::from([
            ("lazy_map_ipi".to_owned(), vec!["touched".to_owned()]),
            ("test-abi.sh".to_owned(), vec!["registers".to_owned()]),
        ]);
        let row = |test: &str, cases: Vec<CaseRow>| Row {
            scenario: None,
            kernel: "series".to_owned(),
            machine: "stale".to_owned(),
            harts: 4,
            test: test.to_owned(),
            expected: "pass".to_owned(),
            observed: "pass".to_owned(),
            verdict: Verdict::Pass,
            stale_hits: None,
            seconds: 0.0,
            console: String::new(),
            why: Vec::new(),
            repeat: None,
            cases,
        };
        let suite = |name: &str| vec![case("lazy_map_ipi", vec![case(name, Vec::new())])];
        assert!(unlisted(&row("test-ipi.sh", suite("touched")), &known).is_empty());
        assert_eq!(unlisted(&row("test-ipi.sh", suite("new")), &known), ["new"]);
        assert!(unlisted(&row("test-abi.sh", vec![case("registers", Vec::new())]), &known).is_empty());
        assert_eq!(unlisted(&row("test-abi.sh", vec![case("other", Vec::new())]), &known), ["other"]);
        // What is no script of ours, such as a suite of KUnit, has cases of its own.
        let judged = |test: &str| {
            let rows = vec![row(test, suite("new"))];
            let mut done = [Done { rows, report: None, headline: None, ready: true, boot: None }];
            check(root(), &mut done).unwrap();
            done[0].rows[0].verdict
        };
        assert_eq!((judged("test-ipi.sh"), judged("rust_smp")), (Verdict::Error, Verdict::Pass));
    }
}
