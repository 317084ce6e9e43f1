// SPDX-License-Identifier: GPL-2.0-only
//! Whether the distribution has left the files alone that the series changes: then they are those of the
//! kernel's own release, and `git am -3` finds their blobs in any clone that has its tag.

use std::collections::BTreeSet;
use std::process::Command;

use crate::ground::cmd;
use crate::ground::error::Result;
use crate::options::Options;
use crate::source::apt;
use crate::source::tree::Tree;

/// The source package that `linux-source-*` is made from.
const SOURCE: &str = "linux";

/// Compares the files that `tip` changes with those that the distribution's patches change. Returns how many
/// files they are, or why this is not known, or which of them the distribution changes, too.
///
/// # Errors
/// When the distribution's patches cannot be downloaded.
pub fn unchanged(options: &Options, tree: &Tree, tip: &str) -> Result<Result<String, String>> {
    let package = &options.base.linux.package;
    let packaging = apt::packaging(&options.out, package, SOURCE)?;
    let tarball = options.out.join("dl").join(&packaging.main().name);
    let patches = cmd::output(
        Command::new("tar").arg("-xJOf").arg(&tarball).args(["--wildcards", "debian/patches/*"]).env("LC_ALL", "C"),
    );
    let touched = tree.repo.run(["diff", "--name-only", "--no-renames", "--diff-filter=MD", &tree.base, tip]);
    let (patches, touched) = match (patches, touched) {
        (Ok(patches), Ok(touched)) => (patches, touched),
        (Err(error), _) | (_, Err(error)) => return Ok(Err(error.message)),
    };
    let same = if packaging.version == package.version { "" } else { ", another version" };
    Ok(apart(touched.lines(), &patches, &format!("Debian's {SOURCE} {}{same}", packaging.version)))
}

/// Whether no file of `touched` is changed by `patches`, which come from `whence`.
fn apart<'a>(touched: impl Iterator<Item = &'a str>, patches: &str, whence: &str) -> Result<String, String> {
    let theirs: BTreeSet<&str> = patches.lines().filter_map(changed).collect();
    if theirs.is_empty() {
        return Err(format!("{whence} has no patches, so it cannot tell"));
    }
    let touched: Vec<&str> = touched.collect();
    match touched.iter().find(|file| theirs.contains(*file)) {
        Some(file) => {
            Err(format!("{file} differs from the release: {whence} changes it; say so in the text of the cover letter"))
        }
        None => Ok(format!("{} files, none of those that {whence} changes", touched.len())),
    }
}

/// The file that a patch's `---` or `+++` line names, without the folder in front.
fn changed(line: &str) -> Option<&str> {
    let path = line.strip_prefix("--- ").or_else(|| line.strip_prefix("+++ "))?.split(['\t', ' ']).next()?;
    path.split_once('/').map(|(_, rest)| rest).filter(|_| path != "/dev/null")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_both_change_is_named() {
        let patches = "Description: x\n--- a/mm/vmalloc.c\n+++ b/mm/vmalloc.c\t2026-01-01\n@@ -1 +1 @@\n-a\n+b\n\
                       --- /dev/null\n+++ linux/drivers/new.c\n";
        let ask = |touched: &[&str], patches: &str| apart(touched.iter().copied(), patches, "x 1");
        assert_eq!(ask(&["a.c", "vmalloc.c"], patches).unwrap(), "2 files, none of those that x 1 changes");
        assert!(ask(&["a.c", "mm/vmalloc.c"], patches).unwrap_err().starts_with("mm/vmalloc.c differs"));
        assert!(ask(&["drivers/new.c"], patches).is_err());
        assert!(ask(&["a.c"], "no patch").unwrap_err().contains("it cannot tell"));
    }
}
