// SPDX-License-Identifier: GPL-2.0-only
//! The tool's own sources: imports run downwards only, so that a reader can start anywhere and look
//! down; every file says its licence first.

use std::fs;
use std::path::{Path, PathBuf};

/// The floors from the ground up. A module imports from its own floor and those below.
const FLOORS: [&str; 11] =
    ["ground", "boot", "options", "source", "build", "trial", "series", "hunt", "exhaust", "verbs", "cli"];

/// All sources of the tool, with their path below `src`.
fn sources() -> Vec<(String, String)> {
    sources_in("src")
}

/// All sources in a folder of the harness, with their path below it.
fn sources_in(folder: &str) -> Vec<(String, String)> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut folders = vec![top.clone()];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path: PathBuf = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let name = path.strip_prefix(&top).unwrap().display().to_string();
                found.push((name, fs::read_to_string(path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

fn floor(name: &str) -> Option<usize> {
    FLOORS.iter().position(|f| *f == name)
}

/// The modules at the top of the crate that a line names, in code or in a `use`.
fn named(line: &str) -> impl Iterator<Item = &str> {
    line.split("crate::").skip(1).map(|rest| rest.split(|c: char| !c.is_ascii_lowercase() && c != '_').next().unwrap())
}

#[test]
fn imports_run_downwards() {
    let mut upwards = Vec::new();
    for (file, text) in sources() {
        let own = file.split(['/', '.']).next().unwrap();
        // main.rs and lib.rs stand above all floors.
        let Some(here) = floor(own) else { continue };
        for (number, line) in text.lines().enumerate().filter(|(_, l)| !l.trim_start().starts_with("//")) {
            let braces = line.trim_start().strip_prefix("use crate::{").and_then(|l| l.split_once('}'));
            let listed = braces.map(|(names, _)| names).unwrap_or_default().split(", ").filter(|n| !n.is_empty());
            let wrong =
                named(line).filter(|n| !n.is_empty()).chain(listed).filter(|name| floor(name).is_none_or(|f| f > here));
            upwards.extend(wrong.map(|name| format!("{file}:{}: {name}", number + 1)));
        }
    }
    assert!(upwards.is_empty(), "imports of a higher floor:\n{}", upwards.join("\n"));
}

#[test]
fn no_circle_within_a_floor() {
    // Modules of one folder that import each other, as `super::x` or `crate::folder::x`; of the crate that
    // reads consoles, as `crate::x`.
    let floors = FLOORS.map(|floor| (format!("src/{floor}"), format!("crate::{floor}::")));
    for (folder, own) in floors.iter().chain([&("console/src".to_owned(), "crate::".to_owned())]) {
        // A floor of one file has no folder.
        let files = if folder == "src/cli" { Vec::new() } else { sources_in(folder) };
        let module = |file: &str| file.trim_end_matches(".rs").to_owned();
        let imports = |text: &str, of: &str| {
            let code = text.split("#[cfg(test)]").next().unwrap();
            let uses = code.split("\nuse ").skip(1).map(|rest| rest.split(';').next().unwrap());
            uses.filter_map(|path| path.strip_prefix("super::").or_else(|| path.strip_prefix(own.as_str()))).any(
                |path| {
                    // `x::y`, or `{x, y::z}` in one line or several.
                    let names = path.trim_start_matches('{').split(',');
                    names.map(|name| name.trim().split([':', ' ', '}']).next().unwrap()).any(|name| name == of)
                },
            )
        };
        // Whatever imports nothing that is left can go; a circle never does.
        let mut left: Vec<&(String, String)> =
            files.iter().filter(|(f, _)| !["mod", "lib"].contains(&&*module(f))).collect();
        loop {
            let before = left.len();
            let now = left.clone();
            left.retain(|(file, text)| now.iter().any(|(other, _)| other != file && imports(text, &module(other))));
            if left.len() == before {
                break;
            }
        }
        assert!(left.is_empty(), "a circle among {:?}", left.iter().map(|(f, _)| f).collect::<Vec<_>>());
    }
}

#[test]
fn sources_say_their_licence() {
    for (file, text) in ["src", "console/src", "console/tests", "tests"].iter().flat_map(|folder| sources_in(folder)) {
        assert!(text.starts_with("// SPDX-License-Identifier: GPL-2.0-only\n//! "), "{file}");
    }
}
