// SPDX-License-Identifier: GPL-2.0-only
//! Writes `patches/linux-*` from the sources and the commits in the work tree.

use std::fs;
use std::io;
use std::path::Path;

use crate::ground::error::{Error, Result};
use crate::ground::files;
use crate::ground::progress::Step;
use crate::options::Options;
use crate::source::tree::{BASE_TAG, Tree};
use crate::source::{host, mailbox, weave};

/// Name of the cover letter beside the patches. It must not match `*.patch`: `git am` stops at a mail
/// without a patch, and `git am patches/linux-*/*.patch` must work.
pub const COVER: &str = "0000-cover-letter.txt";

/// Writes `patches/linux-*` from the sources and the commits in the work tree.
///
/// # Errors
/// When sources and commits contradict each other, or the base is not the one that `base.toml`
/// records: the patches must say which kernel they are for.
pub fn write(options: &Options) -> Result<()> {
    let base = &options.base;
    if options.ksrc.is_some() {
        return Err(Error::usage("the patches are made against the base that base.toml names; leave KSRC out"));
    }
    host::for_series(options)?;
    let mut tree = Tree::open(options)?;
    if tree.base != base.linux.commit {
        return Err(Error::could_not(format!(
            "the base is {} ({}), but base.toml records commit {}; correct base.toml, or remove {} to get that base",
            tree.base,
            tree.used.from,
            base.linux.commit,
            tree.repo.dir().display()
        )));
    }
    let tip = weave::weave(&mut tree, options)?;
    let folder = options.root.join(&base.linux.patches);
    let step = Step::start("write the patches");
    let made = write_mails(&tree, &tip, options)?;
    // The mails are what gets sent: apply them, and check that nothing got lost.
    let mails = mailbox::patches(made.path())?;
    let applied = mailbox::am(&tree.repo, &tree.base, &mails)?;
    let (before, after) = (tree.commits(&tip)?, tree.commits(&applied)?);
    for (one, other) in before.iter().zip(&after) {
        if tree.files(one)? != tree.files(other)? {
            return Err(Error::could_not(format!(
                "commit {one:.12} changes when it goes through a mail; keep it to plain text"
            )));
        }
    }
    if before.len() != after.len() {
        return Err(Error::could_not("the series has a commit that changes nothing; drop it"));
    }
    let changed = publish(made.path(), &folder)?;
    tree.record(&folder, &applied)?;
    step.finish(&format!("{} patches, {changed} files changed", mails.len()));
    Ok(())
}

/// Names of the files in a folder of patches that belong to the series.
pub fn series_files(folder: &Path) -> Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(|e| Error::io("read", folder, e))?,
    };
    let names = entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned());
    Ok(names.filter(|n| n == COVER || n.ends_with(".patch")).collect())
}

/// Copies the files of `from` into `to`, and removes stale ones there; returns how many changed.
fn publish(from: &Path, to: &Path) -> Result<usize> {
    fs::create_dir_all(to).map_err(|e| Error::io("create", to, e))?;
    let (new, old) = (series_files(from)?, series_files(to)?);
    let mut changed = 0;
    for name in &new {
        let content = fs::read(from.join(name)).map_err(|e| Error::io("read", &from.join(name), e))?;
        if fs::read(to.join(name)).ok().as_ref() != Some(&content) {
            files::write_whole(&to.join(name), content)?;
            changed += 1;
        }
    }
    for name in old.iter().filter(|name| !new.contains(name)) {
        files::remove(&to.join(name))?;
        changed += 1;
    }
    Ok(changed)
}

/// Formats the commits up to `tip` as mails, reproducibly.
pub fn write_mails(tree: &Tree, tip: &str, options: &Options) -> Result<tempfile::TempDir> {
    let text_path = options.root.join(&options.base.linux.cover);
    let text = fs::read_to_string(&text_path).map_err(|e| {
        Error::could_not(format!(
            "cannot read {}: {e}; its first line is the cover letter's subject",
            text_path.display()
        ))
    })?;
    let dir = tempfile::tempdir().map_err(|e| Error::could_not(format!("no temporary folder: {e}")))?;
    let commits = tree.commits(tip)?;
    let range = format!("{BASE_TAG}..{tip}");
    let args = [
        "format-patch".to_owned(),
        "--quiet".to_owned(),
        "--zero-commit".to_owned(),
        "--no-signature".to_owned(),
        "--cover-letter".to_owned(),
        format!("--base={}", tree.base),
        "--output-directory".to_owned(),
        dir.path().display().to_string(),
        range,
    ];
    tree.repo.run(args)?;
    if commits.len() != mailbox::patches(dir.path())?.len() {
        return Err(Error::could_not("the series has a commit that changes nothing; drop it"));
    }
    let made = dir.path().join("0000-cover-letter.patch");
    let cover = fs::read_to_string(&made).map_err(|e| Error::io("read", &made, e))?;
    files::remove(&made)?;
    files::write_whole(&dir.path().join(COVER), finish_cover(&cover, &text))?;
    Ok(dir)
}

/// Fills in subject and text, and drops author and date: they are up to whoever sends it.
fn finish_cover(cover: &str, text: &str) -> String {
    let (subject, body) = text.split_once('\n').unwrap_or((text, ""));
    let subject = subject.trim_start_matches('#').trim();
    let mut head = true;
    let mut out = String::new();
    for line in cover.lines() {
        head &= !line.is_empty();
        if head && (line.starts_with("From: ") || line.starts_with("Date: ")) {
            continue;
        }
        match line {
            "*** BLURB HERE ***" => out.push_str(body.trim()),
            _ => out.push_str(&line.replace("*** SUBJECT HERE ***", subject)),
        }
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cover_letters_have_no_sender_and_no_date() {
        let cover = "From 0 Mon Sep 17 00:00:00 2001\nFrom: lazymap <x>\nDate: today\nSubject: [PATCH 0/2] *** SUBJECT HERE ***\n\n*** BLURB HERE ***\n\nDate: kept\n";
        let made = finish_cover(cover, "# riscv: a subject\n\nText.\n\nMore.\n");
        assert_eq!(
            made,
            "From 0 Mon Sep 17 00:00:00 2001\nSubject: [PATCH 0/2] riscv: a subject\n\nText.\n\nMore.\n\nDate: kept\n"
        );
    }
}
