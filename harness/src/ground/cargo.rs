// SPDX-License-Identifier: GPL-2.0-only
//! The cargo that builds this tool.

use std::env;
use std::path::Path;
use std::process::Command;

/// Variables for the run as a whole; the tool's own tests set what they need.
const NOT_FOR_TESTS: &[&str] = &[
    "KSRC",
    "BASE",
    "LAZYMAP_OUT",
    "LAZYMAP_SILENCE",
    "LAZYMAP_SLOW",
    "LAZYMAP_TIMEOUT",
    "MAKEFLAGS",
    "MAKELEVEL",
    "MFLAGS",
];

pub fn cargo(verb: &str) -> Command {
    let named = |name| env::var_os(name).filter(|v| !v.is_empty());
    let cargo = named("LAZYMAP_CARGO").or_else(|| named("CARGO")).unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(&cargo);
    command.arg(verb);
    // With several toolchains, use the rustc that belongs to this cargo.
    if let Some(folder) = Path::new(&cargo).parent().filter(|f| f.is_absolute()) {
        let paths = env::var_os("PATH").unwrap_or_default();
        let all = std::iter::once(folder.to_path_buf()).chain(env::split_paths(&paths));
        if let Ok(path) = env::join_paths(all) {
            command.env("PATH", path);
        }
    }
    for name in NOT_FOR_TESTS {
        command.env_remove(name);
    }
    command
}
