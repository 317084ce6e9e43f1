// SPDX-License-Identifier: GPL-2.0-only
//! `--test` and `--case`: a part of what trials run.

use std::fs;
use std::path::Path;

use super::plan::{Case, Trial};
use super::scenario::{self, TESTS};
use crate::ground::error::{Error, Result};
use crate::ground::{files, nearest};
use crate::options::asked::Select;

/// The tests to run.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Names of scripts; `None` for all.
    tests: Option<Vec<String>>,
    cases: Vec<Case>,
}

impl Selection {
    /// Finds the scripts that are meant, among those in the repository `root`.
    ///
    /// # Errors
    /// When there is no such test or case (exit code 64).
    pub fn new(root: &Path, select: &Select) -> Result<Self> {
        if select.test.is_empty() && select.case.is_empty() {
            return Ok(Self::default());
        }
        let folder = root.join(TESTS);
        let known = scenario::tests_in(&folder)?;
        let mut tests = Vec::new();
        for name in &select.test {
            let full = script(name);
            if !known.contains(&full) {
                let hint = nearest::hint(&full, known.iter().map(String::as_str));
                return Err(Error::usage(format!("there is no test `{name}` in {TESTS}/; {hint}")));
            }
            tests.push(full);
        }
        let mut cases = Vec::new();
        for name in &select.case {
            let found = scripts_with(&folder, &known, name)?;
            if found.is_empty() {
                return Err(Error::usage(format!(
                    "no test in {TESTS}/ has a case `{name}`; see the functions in {TESTS}/test_modules"
                )));
            }
            for (script, module) in found {
                tests.push(script);
                cases.extend(module.map(|module| Case { module, name: name.clone() }));
            }
        }
        cases.dedup();
        Ok(Self { tests: Some(tests), cases })
    }

    /// Whether everything is selected.
    pub fn is_all(&self) -> bool {
        self.tests.is_none()
    }

    /// The trial with the tests that are meant; `None` if it has none of them.
    pub fn narrow(&self, trial: &Trial) -> Option<Trial> {
        let Some(tests) = &self.tests else { return Some(trial.clone()) };
        let mut narrow = trial.clone();
        // One that runs a case alone keeps to it.
        if narrow.cases.is_empty() {
            narrow.cases.clone_from(&self.cases);
        }
        narrow.tests.retain(|(test, _)| tests.contains(test));
        // Without the tests that count, or those that do not, it is another one.
        narrow.met = None;
        // A trial without tests is about the boot.
        (!narrow.tests.is_empty()).then_some(narrow)
    }

    /// Whether a run of this case alone is meant.
    pub fn takes_case(&self, name: &str) -> bool {
        self.cases.is_empty() || self.cases.iter().any(|case| case.name == name)
    }

    /// The error for trials that have none of the tests.
    pub fn nothing(&self) -> Error {
        let names = self.tests.iter().flatten().map(String::as_str).collect::<Vec<_>>().join(", ");
        Error::usage(format!(
            "nothing that was named runs {names}; leave --test and --case out, or name something else"
        ))
    }
}

/// The file name of a test that may be called without `test-` and `.sh`.
fn script(name: &str) -> String {
    let name = name.rsplit('/').next().unwrap_or_default();
    let short = name.strip_suffix(".sh").unwrap_or(name);
    format!("test-{}.sh", short.strip_prefix("test-").unwrap_or(short))
}

/// The scripts that run the case `name`, each with the module that has it, if it is a module's.
fn scripts_with(folder: &Path, known: &[String], name: &str) -> Result<Vec<(String, Option<String>)>> {
    let mut modules = Vec::new();
    for entry in fs::read_dir(folder.join("test_modules")).into_iter().flatten().flatten() {
        let path = entry.path();
        // In C a table names the cases.
        let has = match path.extension().and_then(|e| e.to_str()) {
            Some("rs") => format!("fn {name}("),
            Some("c") => format!("{{ \"{name}\","),
            _ => continue,
        };
        if files::read_text(&path)?.contains(&has) {
            modules.push(path.file_stem().unwrap_or_default().to_string_lossy().into_owned());
        }
    }
    let mut found = Vec::new();
    for script in known {
        let text = files::read_text(&folder.join(script))?;
        let has = |word: &str| text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').any(|w| w == word);
        let module = modules.iter().find(|module| has(module));
        if module.is_some() || has(name) {
            found.push((script.clone(), module.cloned()));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::machine::Machine;
    use crate::boot::models;
    use crate::trial::expect::Expect;

    #[test]
    fn a_test_has_a_short_name() {
        for name in ["ipi", "test-ipi", "ipi.sh", "test-ipi.sh", "selftests/test-ipi.sh"] {
            assert_eq!(script(name), "test-ipi.sh");
        }
    }

    #[test]
    fn a_trial_keeps_the_tests_that_are_meant() {
        let tests = ["test-a.sh", "test-b.sh", "test-c.sh"].map(|test| (test.to_owned(), Expect::Pass));
        let trial = Trial::new("series", Machine::new(models::find("plain").unwrap()), tests.to_vec());
        let select = |tests: &[&str]| {
            let tests = Some(tests.iter().map(|test| (*test).to_owned()).collect());
            Selection { tests, cases: Vec::new() }.narrow(&trial)
        };
        let left = select(&["test-c.sh", "test-a.sh", "test-d.sh"]).unwrap();
        let left: Vec<&str> = left.tests.iter().map(|(test, _)| test.as_str()).collect();
        assert_eq!(left, ["test-a.sh", "test-c.sh"], "in the trial's order");
        assert!(select(&["test-d.sh"]).is_none());
        assert_eq!(Selection::default().narrow(&trial).unwrap().tests.len(), 3);
    }

    #[test]
    fn cases_are_those_of_the_repository() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let select = |case: &str| Selection::new(root, &Select { case: vec![case.to_owned()], ..Select::default() });
        let ipi = select("new_mapping_touched_from_ipi").unwrap();
        assert!(ipi.tests.as_ref().unwrap().contains(&"test-ipi.sh".to_owned()), "{ipi:?}");
        assert!(ipi.cases.iter().any(|case| case.module == "lazy_map_ipi"), "{ipi:?}");
        let polled = select("polled_while_mapped").unwrap();
        assert!(polled.takes_case("polled_while_mapped") && !polled.takes_case("touched_from_ipi"), "{polled:?}");
        assert!(Selection::default().takes_case("touched_from_ipi"));
        assert!(select("no_such_case").unwrap_err().message.contains("`no_such_case`"));
        let test = Select { test: vec!["ipii".to_owned()], ..Select::default() };
        let error = Selection::new(root, &test).unwrap_err();
        assert!(error.message.contains("did you mean `test-ipi.sh`"), "{error}");
    }
}
