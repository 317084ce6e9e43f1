// SPDX-License-Identifier: GPL-2.0-only
//! What is known of mutants: `harness/mutants.toml`, and a verdict on one.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::ground::error::{Error, Result};
use crate::ground::toml_file;

/// The file of what may survive.
pub const FILE: &str = "harness/mutants.toml";

/// Stands for the files without judges of their own.
pub const OTHER: &str = "other";

/// [`FILE`]: what is not killed, and why that is right.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Known {
    #[serde(default)]
    pub survivor: Vec<Survivor>,
    /// Names of the scenarios that judge statements, the quickest first: by file, and [`OTHER`].
    pub judges: BTreeMap<String, Vec<String>>,
    #[serde(default)]
    pub statement: Vec<Statement>,
}

/// An instruction of which a mutant may survive.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Survivor {
    /// Its function.
    pub function: String,
    pub old: String,
    pub new: String,
    /// One sentence: why it is equivalent, or which litmus file kills it.
    pub why: String,
}

/// A statement of which a mutant may survive.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Statement {
    pub file: String,
    pub old: String,
    pub new: String,
    /// One sentence: why it is equivalent, or what kills it.
    pub why: String,
}

/// A row of the table.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Row {
    /// `SYMBOL+0xOFFSET`, or `FILE:LINE`.
    pub place: String,
    pub kind: String,
    pub old: String,
    pub new: String,
    /// The property that is broken, or the scenario and what it saw; or nothing.
    pub killed: Option<String>,
    /// Why the search or the boots say nothing.
    pub uncertain: Option<String>,
    /// Why it survives, if that is known.
    pub why: Option<String>,
    pub milliseconds: u64,
}

impl Row {
    /// Whether it survives, or may survive, and nobody says why.
    pub fn is_unexplained(&self) -> bool {
        self.killed.is_none() && self.why.is_none()
    }

    /// The place without offset or line.
    pub fn of(&self) -> &str {
        self.place.split(['+', ':']).next().unwrap_or_default()
    }

    /// A line that says what survives.
    pub fn in_words(&self) -> String {
        let end = self.uncertain.as_ref().map_or("survives".to_owned(), |why| format!("not certain ({why})"));
        format!("{end}: {}: {}: `{}` becomes `{}`", self.place, self.kind, self.old, self.new)
    }
}

impl Survivor {
    /// Whether it is about this row, which survives.
    pub fn explains(&self, row: &Row) -> bool {
        row.killed.is_none() && (&*self.function, &self.old, &self.new) == (row.of(), &row.old, &row.new)
    }
}

impl Statement {
    /// Whether it is about this row, which survives.
    pub fn explains(&self, row: &Row) -> bool {
        row.killed.is_none() && (&*self.file, &self.old, &self.new) == (row.of(), &row.old, &row.new)
    }
}

/// Reads [`FILE`].
///
/// # Errors
/// When it cannot be read (exit code 2), or is wrong (64).
pub fn known(root: &Path) -> Result<Known> {
    let file = root.join(FILE);
    let text = std::fs::read_to_string(&file).map_err(|e| Error::io("read", &file, e))?;
    toml_file::parse(&text).map_err(|why| Error::usage(format!("{FILE}{why}; correct the file")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_explanation_is_for_one_survivor() {
        let row = |place: &str, killed: Option<&str>| Row {
            place: place.to_owned(),
            kind: String::new(),
            old: "a();".to_owned(),
            new: String::new(),
            killed: killed.map(str::to_owned),
            uncertain: None,
            why: None,
            milliseconds: 0,
        };
        let own = str::to_owned;
        let known = Statement { file: own("x/y.c"), old: own("a();"), new: own(""), why: own("z") };
        assert!(known.explains(&row("x/y.c:12", None)));
        assert!(!known.explains(&row("x/y.c:12", Some("window-3"))));
        assert!(!known.explains(&row("x/z.c:12", None)));
        assert!(!Statement { new: own("b"), ..known }.explains(&row("x/y.c:12", None)));
        let known = Survivor { function: own("f"), old: own("a();"), new: own(""), why: own("z") };
        assert!(known.explains(&row("f+0x4", None)) && !known.explains(&row("g+0x4", None)));
    }
}
