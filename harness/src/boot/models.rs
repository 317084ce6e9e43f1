// SPDX-License-Identifier: GPL-2.0-only
//! `harness/models.toml`: machine models by name.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::boot::machine::Model;
use crate::ground::error::{Error, Result};
use crate::ground::nearest;

/// Built in, because a machine's name in a result must always mean the same.
const MODELS: &str = include_str!("../../models.toml");

/// A table of the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    cpu: String,
    #[serde(default)]
    stale: bool,
}

/// The model called `name`.
///
/// # Errors
/// When it does not exist (exit code 64); the message lists the models.
pub fn find(name: &str) -> Result<Model> {
    let models = parse(MODELS)?;
    let hint = || nearest::hint(name, models.keys().map(String::as_str));
    match models.get(name) {
        Some(table) => Ok(Model { name: name.to_owned().into(), cpu: table.cpu.clone().into(), stale: table.stale }),
        None => Err(Error::usage(format!("there is no machine model `{name}` in harness/models.toml; {}", hint()))),
    }
}

/// Name and CPU properties of each model.
///
/// # Errors
/// When the file is wrong (exit code 64).
pub fn all() -> Result<Vec<(String, String)>> {
    Ok(parse(MODELS)?.into_iter().map(|(name, table)| (name, table.cpu)).collect())
}

fn parse(text: &str) -> Result<BTreeMap<String, Table>> {
    let models: BTreeMap<String, Table> = toml::from_str(text).map_err(|e| wrong(e.message()))?;
    for (name, table) in &models {
        if name.ends_with("-sbi") {
            return Err(wrong(&format!("`{name}` must not end in -sbi, which says how harts are interrupted")));
        }
        properties(&table.cpu).map_err(|why| wrong(&format!("model {name}: {why}")))?;
    }
    Ok(models)
}

fn wrong(why: &str) -> Error {
    let why = why.lines().next().unwrap_or_default();
    Error::usage(format!("harness/models.toml: {why}; correct the file"))
}

/// Checks the form of CPU properties: `NAME=VALUE`, separated by commas.
///
/// # Errors
/// What is wrong with them.
pub fn properties(cpu: &str) -> Result<(), String> {
    let ok = |c: char| c.is_ascii_alphanumeric() || "-_.+".contains(c);
    for property in cpu.split(',').filter(|_| !cpu.is_empty()) {
        let parts = property.split_once('=');
        if parts.is_none_or(|(n, v)| n.is_empty() || v.is_empty() || !n.chars().chain(v.chars()).all(ok)) {
            return Err(format!("`{property}` in cpu is not a property; write NAME=VALUE,NAME=VALUE"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_models_of_the_project() {
        assert_eq!((find("plain").unwrap().cpu, find("plain").unwrap().stale), ("".into(), false));
        assert_eq!((find("stale").unwrap().cpu, find("stale").unwrap().stale), ("x-cache-invalid=on".into(), true));
        let none = find("none").unwrap_err();
        assert!(none.message.contains("`none`") && none.message.contains("plain"), "{none}");
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, word) in [
            ("[a]\n", "cpu"),
            ("[a]\ncpu = \"\"\nspeed = 1\n", "speed"),
            ("[a]\ncpu = \"x\"\n", "`x`"),
            ("[a]\ncpu = \"x=on,,y=on\"\n", "``"),
            ("[a]\ncpu = \"x=o n\"\n", "`x=o n`"),
            ("[a-sbi]\ncpu = \"\"\n", "-sbi"),
        ] {
            let error = parse(text).err().unwrap();
            assert!(error.message.contains(word), "{text}: {error}");
        }
    }
}
