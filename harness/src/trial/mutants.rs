// SPDX-License-Identifier: GPL-2.0-only
//! What is known of mutants: `harness/mutants.toml`, and a verdict on one.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::ground::error::{Error, Result};
use crate::ground::{files, toml_file};

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
    pub statement: Vec<Survivor>,
}

/// An instruction or a statement of which a mutant may survive.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Survivor {
    /// Its function, or its file.
    #[serde(alias = "function", alias = "file")]
    pub place: String,
    pub old: String,
    pub new: String,
    /// One sentence: why it is equivalent, or what kills it, such as a litmus file.
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
    fn explains(&self, row: &Row) -> bool {
        row.killed.is_none()
            && self.place == row.of()
            && stands_for(&self.old, &row.old)
            && stands_for(&self.new, &row.new)
    }
}

/// Whether `pattern` stands for `text`: they are equal, except that a `*` may be any number.
fn stands_for(pattern: &str, text: &str) -> bool {
    let number = |(before, after): (&str, &str)| text.strip_prefix(before)?.strip_suffix(after)?.parse::<i64>().ok();
    pattern == text || pattern.split_once('*').and_then(number).is_some()
}

/// Fills in why a survivor is allowed.
pub fn explain(rows: &mut [Row], known: &[Survivor]) {
    for row in rows {
        row.why = known.iter().find(|survivor| survivor.explains(row)).map(|survivor| survivor.why.clone());
    }
}

/// Whether each explanation is about one of `rows`, which are all that there are.
///
/// # Errors
/// When one is not needed (exit code 64).
pub fn all_needed(rows: &[Row], known: &[Survivor]) -> Result<()> {
    match known.iter().find(|survivor| !rows.iter().any(|row| survivor.explains(row))) {
        Some(Survivor { place, old, new, .. }) => Err(Error::usage(format!(
            "{FILE}: no mutant of {place} that changes `{old}` into `{new}` survives; drop it from the file"
        ))),
        None => Ok(()),
    }
}

/// Reads [`FILE`].
///
/// # Errors
/// When it cannot be read (exit code 2), or is wrong (64).
pub fn known(root: &Path) -> Result<Known> {
    let file = root.join(FILE);
    let text = files::read_text(&file)?;
    toml_file::parse(&text).map_err(|why| Error::usage(format!("{FILE}{why}; correct the file")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_is_any_number() {
        assert!(stands_for("addi x10, x10, *", "addi x10, x10, -388"));
        assert!(stands_for("lwu x10, *(x10)", "lwu x10, 1520(x10)"));
        for other in ["lwu x10, x2(x10)", "lwu x10, (x10)", "lw x10, 8(x10)", "lwu x10, 8(x11)"] {
            assert!(!stands_for("lwu x10, *(x10)", other), "{other}");
        }
        // C has stars of its own.
        assert!(stands_for("*p = q;", "*p = q;") && !stands_for("*p = q;", "*p = r;"));
    }

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
        let about = |place: &str, new: &str| {
            let text = format!("place = \"{place}\"\nold = \"a();\"\nnew = \"{new}\"\nwhy = \"z\"");
            ["file", "function"].map(|key| toml::from_str::<Survivor>(&text.replacen("place", key, 1)).unwrap())
        };
        for known in about("x/y.c", "") {
            assert!(known.explains(&row("x/y.c:12", None)));
            assert!(!known.explains(&row("x/y.c:12", Some("window-3"))));
            assert!(!known.explains(&row("x/z.c:12", None)));
        }
        assert!(about("x/y.c", "b").iter().all(|known| !known.explains(&row("x/y.c:12", None))));
        assert!(about("f", "").iter().all(|known| known.explains(&row("f+0x4", None))));
        assert!(about("f", "").iter().all(|known| !known.explains(&row("g+0x4", None))));
    }

    #[test]
    fn an_explanation_that_nothing_needs_is_an_error() {
        let known: Known =
            toml::from_str("judges = {}\n[[statement]]\nfile = \"x.c\"\nold = \"a();\"\nnew = \"\"\nwhy = \"z\"\n")
                .unwrap();
        let row = |place: &str| Row {
            place: place.to_owned(),
            kind: String::new(),
            old: "a();".to_owned(),
            new: String::new(),
            killed: None,
            uncertain: None,
            why: None,
            milliseconds: 0,
        };
        let mut rows = [row("x.c:1"), row("y.c:1")];
        explain(&mut rows, &known.statement);
        assert_eq!((rows[0].why.as_deref(), rows[1].why.as_deref()), (Some("z"), None));
        assert!(all_needed(&rows, &known.statement).is_ok());
        assert!(all_needed(&rows[1..], &known.statement).unwrap_err().message.contains("no mutant of x.c"));
    }
}
