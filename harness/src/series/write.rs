// SPDX-License-Identifier: GPL-2.0-only
//! Writes `patches/linux-*` from the sources and the commits in the work tree.

use std::fs;
use std::path::{Path, PathBuf};

use crate::ground::error::{Error, Result};
use crate::ground::files;
use crate::ground::key::Key;
use crate::ground::progress::Step;
use crate::options::Options;
use crate::source::tree::{BASE_TAG, Tree};
use crate::source::{host, mailbox, weave};
use crate::trial::coverage;

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
    coverage::update(&options.root)?;
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
    let place = mbox_place(options);
    files::write_whole(&place, mbox(made.path())?)?;
    step.finish(&format!("{} patches, {changed} files changed", mails.len()));
    println!("{}", place.display());
    Ok(())
}

/// Where the whole series is one file, for `b4 am -m` and patchwork.
fn mbox_place(options: &Options) -> PathBuf {
    options.out.join(format!("mail/linux-{}.mbox", options.base.linux.version))
}

/// Cover letter and patches in one file.
///
/// # Errors
/// When a mail cannot be read, or has a line that would begin another mail.
pub fn mbox(folder: &Path) -> Result<String> {
    let mut all = String::new();
    for name in series_files(folder)? {
        let text = files::read_lossy(&folder.join(&name))?;
        if let Some(line) = text.lines().skip(1).find(|line| line.starts_with("From ")) {
            return Err(Error::could_not(format!("{name}: \"{line}\" begins another mail in an mbox; reword it")));
        }
        all.push_str(text.trim_end());
        all.push_str("\n\n");
    }
    Ok(all)
}

/// Names of the files in a folder of patches that belong to the series.
pub fn series_files(folder: &Path) -> Result<Vec<String>> {
    let listed = files::list_if_there(folder)?;
    let names = listed.iter().map(|path| files::name(path).into_owned());
    Ok(names.filter(|n| n == COVER || n.ends_with(".patch")).collect())
}

/// Copies the files of `from` into `to`, and removes stale ones there; returns how many changed.
fn publish(from: &Path, to: &Path) -> Result<usize> {
    files::create_dir(to)?;
    let (new, old) = (series_files(from)?, series_files(to)?);
    let mut changed = 0;
    for name in &new {
        let content = files::read(&from.join(name))?;
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
    let dir = files::scratch()?;
    let commits = tree.commits(tip)?;
    let range = format!("{BASE_TAG}..{tip}");
    let args = [
        "format-patch".to_owned(),
        "--quiet".to_owned(),
        "--zero-commit".to_owned(),
        "--no-signature".to_owned(),
        "--cover-letter".to_owned(),
        format!("--base={}", tree.base),
        format!("--subject-prefix={}", options.base.linux.subject_prefix),
        "--output-directory".to_owned(),
        dir.path().display().to_string(),
        range,
    ];
    tree.repo.run(args)?;
    if commits.len() != mailbox::patches(dir.path())?.len() {
        return Err(Error::could_not("the series has a commit that changes nothing; drop it"));
    }
    let made = dir.path().join("0000-cover-letter.patch");
    let cover = files::read_text(&made)?;
    files::remove(&made)?;
    // The same bytes every time: not who runs the tool, and when.
    let sender = tree.repo.run(["log", "-1", "--format=From: %an <%ae>%nDate: %aD", tip])?;
    files::write_whole(&dir.path().join(COVER), finish_cover(&cover, &text, &sender))?;
    thread(dir.path(), &options.base.linux.version)?;
    Ok(dir)
}

/// Fills in subject and text of the cover letter, and who sends it when, which are the headers `sender`.
fn finish_cover(cover: &str, text: &str, sender: &str) -> String {
    let (subject, body) = text.split_once('\n').unwrap_or((text, ""));
    let subject = subject.trim_start_matches('#').trim();
    let mut head = true;
    let mut out = String::new();
    for line in cover.lines() {
        head &= !line.is_empty();
        if head && (line.starts_with("From: ") || line.starts_with("Date: ")) {
            continue;
        }
        if head && line.starts_with("Subject: ") {
            out.push_str(sender.trim());
            out.push('\n');
        }
        match line {
            "*** BLURB HERE ***" => out.push_str(body.trim()),
            _ => out.push_str(&line.replace("*** SUBJECT HERE ***", subject)),
        }
        out.push('\n');
    }
    out
}

/// Headers that [`thread`] adds.
const THREAD: [&str; 3] = ["Message-ID: ", "In-Reply-To: ", "References: "];

/// Whether a line is one of the headers that tie mails together. They follow from the rest of a mail.
pub fn of_thread(line: &str) -> bool {
    THREAD.iter().any(|name| line.starts_with(name)) && line.contains("@localhost>")
}

/// Gives each mail in `folder` an id made of its contents, and makes the patches replies to the cover letter,
/// as b4 and patchwork expect. Whoever sends the series makes new mails, with ids of their own.
fn thread(folder: &Path, version: &str) -> Result<()> {
    let mut cover = None;
    for name in series_files(folder)? {
        let path = folder.join(&name);
        // Patches are bytes: a file in them may have any encoding.
        let bytes = files::read(&path)?;
        let hash = Key::default().text("mail", &bytes).finish();
        let number = name.split('-').next().unwrap_or_default();
        let id = format!("<lazymap-{version}-{number}-{}@localhost>", &hash[..16]);
        let mut headers = format!("{}{id}\n", THREAD[0]);
        match &cover {
            Some(cover) => headers += &format!("{}{cover}\n{}{cover}\n", THREAD[1], THREAD[2]),
            None => cover = Some(id),
        }
        let subject = b"\nSubject: ";
        let Some(at) = bytes.windows(subject.len()).position(|window| window == subject) else {
            return Err(Error::could_not(format!("{name} has no Subject")));
        };
        let (before, after) = bytes.split_at(at + 1);
        files::write_whole(&path, [before, headers.as_bytes(), after].concat())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cover_letters_have_the_sender_and_the_date_of_the_patches() {
        let cover = "From 0 Mon Sep 17 00:00:00 2001\nFrom: me <x>\nDate: today\nSubject: [PATCH 0/2] *** SUBJECT HERE ***\n\n*** BLURB HERE ***\n\nDate: kept\n";
        let made = finish_cover(cover, "# riscv: a subject\n\nText.\n\nMore.\n", "From: a <b>\nDate: then\n");
        assert_eq!(
            made,
            "From 0 Mon Sep 17 00:00:00 2001\nFrom: a <b>\nDate: then\nSubject: [PATCH 0/2] riscv: a subject\n\nText.\n\nMore.\n\nDate: kept\n"
        );
    }

    #[test]
    fn mails_are_a_thread() {
        let dir = tempfile::tempdir().unwrap();
        let mail = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        mail(COVER, "From 0\nFrom: a\nSubject: [PATCH 0/1] x\n\nText.\n");
        mail("0001-x.patch", "From 0\nFrom: a\nSubject: [PATCH 1/1]\n folded\n\nSubject: y\n\n---\n");
        thread(dir.path(), "7.3").unwrap();
        let read = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
        let (cover, patch) = (read(COVER), read("0001-x.patch"));
        let id = cover.lines().find_map(|l| l.strip_prefix("Message-ID: ")).unwrap();
        assert!(id.starts_with("<lazymap-7.3-0000-") && id.ends_with("@localhost>"), "{id}");
        assert!(patch.starts_with("From 0\nFrom: a\nMessage-ID: <lazymap-7.3-0001-"), "{patch}");
        assert!(patch.contains(&format!("\nIn-Reply-To: {id}\nReferences: {id}\nSubject: [PATCH 1/1]\n folded\n")));
        assert_eq!(patch.lines().filter(|l| of_thread(l)).count(), 3);
        let all = mbox(dir.path()).unwrap();
        assert!(
            all.starts_with("From 0\n") && all.contains("Text.\n\nFrom 0\nFrom: a\nMessage-ID: <lazymap-7.3-0001-"),
            "{all}"
        );
        mail("0001-x.patch", "From 0\nSubject: x\n\nFrom here on.\n");
        assert!(mbox(dir.path()).unwrap_err().message.contains("\"From here on.\""));
    }
}
