// SPDX-License-Identifier: GPL-2.0-only
//! Whether the distribution has left the files alone that the series changes: then they are those of the
//! kernel's own release, and `git am -3` finds their blobs in any clone that has its tag.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;

use crate::ground::cmd;
use crate::ground::error::Result;
use crate::ground::files;
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

/// Compares the files that these mails change with those of the base: `git am -3` and bots look for the blobs that the
/// mails name. Another release may have other files.
///
/// # Errors
/// When a mail cannot be read.
pub fn blobs(options: &Options, tree: &Tree, mails: &[PathBuf]) -> Result<Result<String, String>> {
    let mut seen = BTreeSet::new();
    let (mut known, mut other) = (0, Vec::new());
    for mail in mails {
        let name = files::name(mail).into_owned();
        for (file, blob) in before(&files::read_lossy(mail)?) {
            // Patches build on each other, and some files are new.
            if !seen.insert(file.clone()) || blob.bytes().all(|digit| digit == b'0') {
                continue;
            }
            match tree.repo.find(&format!("{}:{file}", tree.base))? {
                Some(id) if id.starts_with(&blob) => known += 1,
                _ => other.push(format!("{file}, which {name} has as {blob}")),
            }
        }
    }
    let release = options.base.linux.package.upstream();
    Ok(match other.first() {
        None => Ok(format!("{known} files")),
        Some(first) if tree.used.version == release => Err(format!("{} differs: {first}", tree.used.from)),
        Some(first) => Ok(format!("{known} files; {} differ from {release}, such as {first}", other.len())),
    })
}

/// The files that a mail changes, and the blobs from which it does.
fn before(mail: &str) -> Vec<(String, String)> {
    let mut all = Vec::new();
    let mut file = None;
    for line in mail.lines() {
        if let Some(names) = line.strip_prefix("diff --git a/") {
            file = names.split_once(" b/").map(|(old, _)| old.to_owned());
        } else if let Some(ids) = line.strip_prefix("index ")
            && let Some(file) = file.take()
        {
            let blob = ids.split_once("..").map_or(ids, |(old, _)| old);
            all.push((file, blob.to_owned()));
        }
    }
    all
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
    fn a_mail_names_the_blobs_before_it() {
        let mail = "Subject: x\n\nindex of nothing\n---\n a.c | 2 +-\n\ndiff --git a/a.c b/a.c\nindex 0123456789ab..ba9876543210 100644\n\
                    --- a/a.c\n+++ b/a.c\n@@ -1 +1 @@\n-x\n+index 1..2\ndiff --git a/n.c b/n.c\nnew file mode 100644\n\
                    index 000000000000..ba9876543210\n";
        let own = |file: &str, blob: &str| (file.to_owned(), blob.to_owned());
        assert_eq!(before(mail), [own("a.c", "0123456789ab"), own("n.c", "000000000000")]);
    }

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
