// SPDX-License-Identifier: GPL-2.0-only
//! Mails with patches: lists and applies them.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::ground::error::{Error, Result};
use crate::ground::files;
use crate::ground::git::{Repo, init};
use crate::ground::key::Key;

/// The mailbox patches in `folder`, in order, without the cover letter; an absent folder has no patches.
///
/// # Errors
/// When the folder cannot be read.
pub fn patches(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut list = files::list_if_there(folder)?;
    list.retain(|path| {
        let name = files::name(path);
        name.ends_with(".patch") && name.starts_with(|c: char| c.is_ascii_digit()) && !name.starts_with("0000-")
    });
    Ok(list)
}

/// Name of a mail without its ending, such as `0001-riscv-mm-x`.
pub fn stem(mail: &Path) -> String {
    mail.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// A hash over names and contents.
///
/// # Errors
/// When a patch cannot be read.
pub fn patches_key(patches: &[PathBuf]) -> Result<String> {
    let mut key = Key::default();
    for patch in patches {
        key = key.file(patch)?;
    }
    Ok(key.finish())
}

/// Runs plain `git am` of `patches` on `base` and returns the last commit.
///
/// Works in a scratch folder that holds only the files the patches touch and shares the objects of
/// `repo`, so that its work tree stays untouched.
///
/// # Errors
/// When a patch does not apply; the error names patch, file, hunk and line. Nothing is left behind.
pub fn am(repo: &Repo, base: &str, patches: &[PathBuf]) -> Result<String> {
    if patches.is_empty() {
        return Ok(base.to_owned());
    }
    let place = repo.dir().join(".git");
    let entries = fs::read_dir(&place).map_err(|e| Error::io("read", &place, e))?;
    for left in entries.flatten().filter(|e| e.file_name().to_string_lossy().starts_with("am-")) {
        // Left by a run that was killed.
        files::remove(&left.path())?;
    }
    let scratch = tempfile::Builder::new()
        .prefix("am-")
        .tempdir_in(&place)
        .map_err(|e| Error::could_not(format!("no scratch folder in {}: {e}", repo.dir().display())))?;
    init(scratch.path())?;
    let objects = repo.run(["rev-parse", "--path-format=absolute", "--git-path", "objects"])?;
    let work = Repo::at(scratch.path()).with("GIT_OBJECT_DIRECTORY", objects);
    // A broken patch does not say which files it touches; `git am` reports it below.
    let mut touched = BTreeSet::new();
    for patch in patches {
        let done =
            work.attempt([std::ffi::OsStr::new("apply"), "--numstat".as_ref(), "-z".as_ref(), patch.as_os_str()])?;
        // A rename is `ADDED\tREMOVED\t`, old name, new name, each ended by a zero byte.
        for field in String::from_utf8_lossy(&done.stdout).split('\0') {
            touched.extend(field.rsplit('\t').next().filter(|f| !f.is_empty()).map(str::to_owned));
        }
        // numstat gives a rename's new name only, but the old file is needed as well.
        touched.extend(
            files::read_lossy(patch)?
                .lines()
                .filter_map(|l| l.strip_prefix("rename from ").or(l.strip_prefix("copy from ")))
                .map(str::to_owned),
        );
    }
    let patterns: String = touched.iter().map(|f| format!("/{}\n", escape(f))).collect();
    files::write_whole(&scratch.path().join(".git/info/sparse-checkout"), patterns)?;
    work.run(["config", "core.sparseCheckout", "true"])?;
    work.run(["config", "core.sparseCheckoutCone", "false"])?;
    work.run(["update-ref", "refs/heads/base", base])?;
    work.run(["read-tree", "-m", "-u", "HEAD"])?;
    let mut args: Vec<std::ffi::OsString> = ["am", "--committer-date-is-author-date", "--"].map(Into::into).into();
    args.extend(patches.iter().map(|p| p.clone().into_os_string()));
    let done = work.attempt(args)?;
    if done.status.success() {
        return work.run(["rev-parse", "HEAD"]);
    }
    let mut said = String::from_utf8_lossy(&done.stdout).into_owned();
    said.push_str(&String::from_utf8_lossy(&done.stderr));
    let next = work.run(["rev-list", "--count", &format!("{base}..HEAD")])?.parse().unwrap_or(0);
    let patch: &Path = patches.get(next).map_or(Path::new("?"), PathBuf::as_path);
    Err(does_not_apply(patch, &said, base))
}

/// A path as a literal pattern of a sparse-checkout file.
fn escape(path: &str) -> String {
    let special = |c| matches!(c, '*' | '?' | '[' | '\\' | '!' | '#' | ' ');
    path.chars().flat_map(|c| special(c).then_some('\\').into_iter().chain([c])).collect()
}

/// Names patch, file and hunk from what `git am` or `git apply` said.
pub fn does_not_apply(patch: &Path, said: &str, base: &str) -> Error {
    let name = files::name(patch);
    let todo = "apply it by hand to see why, or use the base that base.toml names; nothing was changed";
    let failed = said.lines().find_map(|l| l.strip_prefix("error: patch failed: "));
    let place = if let Some((file, line)) = failed.and_then(|f| f.rsplit_once(':')) {
        match hunk(&files::read_lossy(patch).unwrap_or_default(), file, line) {
            Some(n) => format!("{file}, hunk {n} (line {line})"),
            None => format!("{file}, line {line}"),
        }
    } else {
        let why = said
            .lines()
            .find_map(|l| l.strip_prefix("error: "))
            .or_else(|| said.lines().find_map(|l| l.strip_prefix("fatal: ")))
            .or_else(|| said.lines().find(|l| !l.starts_with("Applying:") && !l.starts_with("hint:")))
            .unwrap_or("git gave no reason");
        why.to_owned()
    };
    Error::could_not(format!("{name} does not apply to {base:.12}: {place}; {todo}"))
}

/// Number (from 1) of the hunk of `file` that starts at old line `line`.
fn hunk(patch: &str, file: &str, line: &str) -> Option<usize> {
    let mut here = false;
    let mut count = 0;
    for text in patch.lines() {
        if text.starts_with("diff --git ") {
            here = text.ends_with(&format!(" b/{file}"));
            count = 0;
        } else if here && text.starts_with("@@ -") {
            count += 1;
            let start = text["@@ -".len()..].split([',', ' ']).next();
            if start == Some(line) {
                return Some(count);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mail_without_its_ending() {
        assert_eq!(stem(Path::new("patches/0001-a.patch")), "0001-a");
    }

    #[test]
    fn hunks_are_counted_per_file() {
        let patch = "diff --git a/x b/x\n@@ -1,2 +1,2 @@\n@@ -9 +9 @@\ndiff --git a/y b/y\n@@ -5,1 +5,1 @@\n@@ -9,3 +9,3 @@ f\n";
        assert_eq!(hunk(patch, "y", "9"), Some(2));
        assert_eq!(hunk(patch, "x", "9"), Some(2));
        assert_eq!(hunk(patch, "y", "7"), None);
    }
}
