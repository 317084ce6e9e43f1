// SPDX-License-Identifier: GPL-2.0-only
//! Another try for a boot that ran into a limit because others kept the host busy.

use std::fs;
use std::path::{Path, PathBuf};

use lazymap_console::end::{Found, Reading};

use crate::boot::machine::BUSY;
use crate::build::workbench::Workbench;
use crate::ground::error::{Error, Result};
use crate::ground::files;
use crate::ground::pace::Host;
use crate::trial::report;

/// The most by which limits are stretched without being asked.
const MOST_SLOW: f64 = 20.0;

/// Kinds of reports that say no more than that something took long.
const SLOW: [&str; 4] = ["RCU stall", "expedited RCU stall", "stall of RCU tasks", "starved kthread"];

/// Whether the console has no report, or only such as a slow host causes: a kernel that is wrong is wrong on any host,
/// and the next boot may not show it.
pub fn only_slow(reading: &Reading) -> bool {
    let slow = |found: &Found| SLOW.contains(&found.kind);
    reading.forbidden.iter().all(slow) && reading.unknown.is_empty()
}

/// Keeps the console of the first try as `NAME.try1.log`, and returns limits for the second; `None`, with a note, if
/// that is not possible.
pub fn with_longer_limits(bench: &Workbench, name: &str, console: &Path, host: Host, slowed: f64) -> Option<Host> {
    let kept = match keep(console, 1) {
        Ok(kept) => kept,
        // Without the first console nobody could tell what the second one is worth.
        Err(error) => {
            eprintln!("lazymap: note: {name} is not booted again: {error}");
            return None;
        }
    };
    eprintln!(
        "lazymap: note: {name} ended at a limit, but QEMU got {:.0} % of the CPU time that it could use; once more, with \
         longer limits; the first console is {}",
        100.0 / slowed,
        report::shown(&bench.options.root, &kept)
    );
    let longer = |factor: f64| (factor * BUSY).min(MOST_SLOW);
    Some(Host { slow: longer(host.slow), busy: longer(host.busy.max(slowed)) })
}

/// Where the console of a try is kept once another one takes its place.
fn of_try(console: &Path, tries: u32) -> [(PathBuf, PathBuf); 2] {
    ["log", "qemu.log"]
        .map(|ending| (console.with_extension(ending), console.with_extension(format!("try{tries}.{ending}"))))
}

/// Keeps the console of a try, with what QEMU printed, and returns where.
fn keep(console: &Path, tries: u32) -> Result<PathBuf> {
    let [log, qemu] = of_try(console, tries);
    for (from, to) in [&log, &qemu] {
        fs::rename(from, to).map_err(|e| Error::io("rename", from, e))?;
    }
    Ok(log.1)
}

/// Removes what an earlier run has kept of a try.
///
/// # Errors
/// When a file cannot be removed.
pub fn forget(console: &Path, tries: u32) -> Result<()> {
    of_try(console, tries).iter().try_for_each(|(_, kept)| files::remove(kept))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_console_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("x.log"), "first").unwrap();
        fs::write(at("x.qemu.log"), "counters").unwrap();
        let kept = keep(&at("x.log"), 1).unwrap();
        assert_eq!((kept, fs::read_to_string(at("x.try1.log")).unwrap().as_str()), (at("x.try1.log"), "first"));
        assert_eq!(fs::read_to_string(at("x.try1.qemu.log")).unwrap(), "counters");
        assert!(!at("x.log").exists() && !at("x.qemu.log").exists());
        // The next run does not leave what is not its own.
        forget(&at("x.log"), 1).unwrap();
        assert!(!at("x.try1.log").exists() && !at("x.try1.qemu.log").exists());
        forget(&at("x.log"), 1).unwrap();
    }
}
