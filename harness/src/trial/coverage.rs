// SPDX-License-Identifier: GPL-2.0-only
//! Which control shows that a test case can fail: the table in `selftests/README`.
//!
//! A case that no kernel has ever failed proves nothing. One without a control is an error, unless the
//! list of controls admits it; the table shows that as well.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use super::control::{self, Control, module_of};
use super::expect::Expect;
use crate::ground::error::{Error, Result};
use crate::ground::files;

/// The file with the table, and the folder with the modules, in the repository.
const README: &str = "selftests/README";
const MODULES: &str = "selftests/test_modules";

/// Between these lines of the file is the table.
const BEGIN: &str = ".. The table is generated from the list of broken kernels; do not edit it.\n";
const END: &str = ".. End of the table.\n";

/// The cases of each module, in its order.
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
    let old = fs::read_to_string(&path).map_err(|e| Error::io("read", &path, e))?;
    let table = table(&cases(root)?, &control::load(root)?, &control::uncovered(root)?)?;
    let new = with_table(&old, &table)?;
    if new == old {
        return Ok(false);
    }
    files::write_whole(&path, new)?;
    Ok(true)
}

/// The cases that the sources of the modules have.
fn cases(root: &Path) -> Result<Cases> {
    let folder = root.join(MODULES);
    let entries = fs::read_dir(&folder).map_err(|e| Error::io("read", &folder, e))?;
    let mut cases = Cases::new();
    for path in entries.flatten().map(|e| e.path()) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Some(module) = name.strip_suffix(".rs").filter(|n| n.starts_with("lazy_map_")) else {
            continue;
        };
        let text = fs::read_to_string(&path).map_err(|e| Error::io("read", &path, e))?;
        let listed = listed(&text);
        if listed.is_empty() {
            return Err(Error::could_not(format!("{MODULES}/{name} has no tests; add functions with `#[test]`")));
        }
        cases.insert(module.to_owned(), listed);
    }
    Ok(cases)
}

/// The tests of a module in Rust, in their order: the functions below `#[test]`.
pub fn listed(text: &str) -> Vec<String> {
    let mut lines = text.lines().map(str::trim);
    let mut names = Vec::new();
    while lines.any(|line| line == "#[test]") {
        let name = lines.find_map(|line| line.strip_prefix("fn ")?.split('(').next());
        names.extend(name.map(str::to_owned));
    }
    names
}

/// The rows for all cases, in the format of the README.
fn table(cases: &Cases, controls: &[Control], uncovered: &BTreeSet<String>) -> Result<String> {
    let mut text = String::from("\n");
    let mut missing = Vec::new();
    let mut admitted = uncovered.clone();
    for (module, names) in cases {
        text.push_str(module);
        text.push('\n');
        for name in names {
            let mut seen = seen(module, name, controls);
            // One that is admitted and covered stays in the list, which is an error as well.
            if seen.is_empty() {
                if admitted.remove(&format!("{module}.{name}")) {
                    seen.push("not seen to fail yet".to_owned());
                } else {
                    missing.push(format!("{module}.{name}"));
                }
            }
            text.push_str(&format!("  {name}\n"));
            seen.iter().for_each(|line| text.push_str(&format!("      {line}\n")));
        }
        text.push('\n');
    }
    if let Some(name) = admitted.first() {
        return Err(Error::could_not(format!(
            "{name} is a case with a control, or none at all; remove it from `uncovered` in {}/{}",
            control::FOLDER,
            control::FILE
        )));
    }
    if missing.is_empty() {
        return Ok(text);
    }
    Err(Error::could_not(format!(
        "no control fails {}; add one to {}/{}, with `cases`",
        missing.join(", "),
        control::FOLDER,
        control::FILE
    )))
}

/// How a case was seen to fail.
fn seen(module: &str, name: &str, controls: &[Control]) -> Vec<String> {
    let mut seen = Vec::new();
    for control in controls {
        for run in control.runs.iter().filter(|run| run.case() == Some(name)) {
            let own = run.trial.tests.iter().filter(|(test, _)| module_of(test) == module);
            for (_, expect) in own.filter(|(_, expect)| matches!(expect, Expect::Caught(_))) {
                seen.push(format!("{}: {}", control.what, expect.name()));
            }
        }
    }
    seen.dedup();
    seen
}

/// The README with this table.
fn with_table(readme: &str, table: &str) -> Result<String> {
    let parts = readme.split_once(BEGIN).and_then(|(before, rest)| Some((before, rest.split_once(END)?.1)));
    let (before, after) = parts.ok_or_else(|| {
        Error::could_not(format!(
            "{README} has no place for the table; put back `{}` and `{}`",
            BEGIN.trim(),
            END.trim()
        ))
    })?;
    Ok(format!("{before}{BEGIN}{table}{END}{after}"))
}

#[cfg(test)]
mod tests {
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
    fn each_case_has_a_control_and_is_in_the_readme() {
        let readme = fs::read_to_string(root().join(README)).unwrap();
        let (controls, uncovered) = (control::load(root()).unwrap(), control::uncovered(root()).unwrap());
        let table = table(&cases(root()).unwrap(), &controls, &uncovered).map_err(|e| e.message).unwrap();
        assert!(with_table(&readme, &table).unwrap() == readme, "{README} is old; run `make series`");
    }

    #[test]
    fn a_case_without_a_control_is_an_error() {
        let controls = control::load(root()).unwrap();
        let own = Cases::from([("lazy_map_ipi".to_owned(), vec!["nobody_fails_this".to_owned()])]);
        let none = BTreeSet::new();
        let message = table(&own, &controls, &none).unwrap_err().message;
        assert!(message.contains("no control fails lazy_map_ipi.nobody_fails_this"), "{message}");
        // The same name in another module does not count.
        let mut cases = cases(root()).unwrap();
        let stack = cases.remove("lazy_map_stack").unwrap();
        let of_stack = Cases::from([("lazy_map_stack".to_owned(), stack.clone())]);
        assert!(table(&of_stack, &controls, &none).is_ok());
        assert!(table(&Cases::from([("lazy_map_ipi".to_owned(), stack)]), &controls, &none).is_err());
    }

    #[test]
    fn an_admission_must_be_true() {
        let controls = control::load(root()).unwrap();
        let own = Cases::from([("lazy_map_ipi".to_owned(), vec!["nobody_fails_this".to_owned()])]);
        let admitted = |name: &str| BTreeSet::from([name.to_owned()]);
        let text = table(&own, &controls, &admitted("lazy_map_ipi.nobody_fails_this")).unwrap();
        assert!(text.contains("nobody_fails_this\n      not seen to fail yet\n"), "{text}");
        let stack = Cases::from([("lazy_map_stack".to_owned(), vec!["new_stack_page_used_by_trap".to_owned()])]);
        let message = table(&stack, &controls, &admitted("lazy_map_stack.new_stack_page_used_by_trap")).unwrap_err();
        assert!(message.message.contains("remove it from `uncovered`"));
    }
}
