// SPDX-License-Identifier: GPL-2.0-only
//! `lazymap clean`: removes what the tool has made below `out`, and nothing else.

use std::fs;
use std::path::{Path, PathBuf};

use crate::ground::error::{Error, Result};
use crate::ground::files;
use crate::options::Options;
use crate::source::tree;

/// Folders that are built or measured for one kernel version.
const PER_BASE: &[&str] = &[
    "build",
    "build-ksrc",
    "kernel",
    "demo",
    "distribution",
    "cost",
    "bench",
    "results",
    "run",
    "controls",
    "exhaust",
    "hunt",
    "kunit",
    "mutants",
    "each",
    "board",
    "bots",
    "bundle",
    "check",
    "guest-check",
    "shell",
    "torture",
    "scenarios",
    "scenarios-ksrc",
];
/// Folders that are built or measured for all versions.
const BUILT: &[&str] = &["qemu", "machine", "log", "guest", "mail"];
/// Folders that are downloaded or slow to build again.
const KEPT: &[&str] = &["linux-ksrc", "debian", "dl", "apt", "herd", "tools", "ccache", "harness"];

/// Removes builds and results; with `all`, downloads, the kernel trees and the tool itself as well.
/// Removes `out` itself if nothing is left in it.
///
/// # Errors
/// When a kernel tree has commits or edits that `patches/` lacks; then nothing is removed.
pub fn run(options: &Options, all: bool) -> Result<()> {
    let out = &options.out;
    let mut gone: Vec<PathBuf> = BUILT.iter().map(|name| out.join(name)).collect();
    gone.extend(options.other_machines().iter().map(Options::machine_place));
    for options in options.every_base() {
        gone.extend(PER_BASE.iter().map(|name| options.place(name)));
        let kernel = out.join(format!("linux-{}", options.base.linux.version));
        if all {
            gone.push(kernel);
        }
    }
    if all {
        gone.extend(KEPT.iter().map(|name| out.join(name)));
        gone.iter().try_for_each(|path| may_go(path))?;
    }
    gone.iter().try_for_each(|path| files::remove(path))?;
    if all {
        files::remove(&out.join("lock"))?;
        // The user may keep other things in that folder.
        let _ = fs::remove_dir(out);
    }
    Ok(())
}

/// Refuses to remove a kernel tree with unsaved work.
fn may_go(path: &Path) -> Result<()> {
    match tree::unsaved(path)? {
        true => Err(Error::could_not(format!(
            "{} has work that patches/ lacks; keep it with `make series`, or remove the folder by hand",
            path.display()
        ))),
        false => Ok(()),
    }
}
