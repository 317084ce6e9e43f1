// SPDX-License-Identifier: GPL-2.0-only
//! `lazymap quilt`: puts the series into the unpacked source package of Debian's kernel.
//!
//! The package's format is `3.0 (quilt)`, see dpkg-source(1). Its patches are in `debian/patches`, in the order of
//! `debian/patches/series`; what their heads look like is DEP-3, <https://dep-team.pages.debian.net/deps/dep3/>.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::ground::error::{Error, Exit, Result};
use crate::ground::{files, nearest};
use crate::options::Options;
use crate::options::base::Topic;
use crate::series::topics;
use crate::source::{host, mailbox};

/// Folder of the patches, below `debian/patches`.
const FOLDER: &str = "lazy-map";
/// What stands above and below them in `debian/patches/series`.
const BEGIN: &str = "# lazymap: spurious faults after new kernel mappings";
const END: &str = "# lazymap: end";

/// What follows the verb.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// The unpacked source package, as `apt-get source linux` leaves it; it is written to
    source: PathBuf,
    /// Only this topic of the series and those that it needs; may be given several times [default: all]
    #[arg(long, value_name = "NAME")]
    topic: Vec<String>,
    /// Checks whether the patches apply, and writes nothing
    #[arg(long)]
    check: bool,
}

/// A patch for `debian/patches`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Patch {
    name: String,
    text: String,
}

/// Checks that the patches apply to the source package without fuzz, and adds them to its quilt series. Those of an
/// earlier run are replaced.
///
/// # Errors
/// When the folder is not a source package of this kernel (exit code 64), or a patch does not apply (2); then nothing
/// is changed.
pub fn run(options: &Options, args: &Args) -> Result<Exit> {
    let source = &args.source;
    let version = package(source, &options.base.linux.version)?;
    let patches = chosen(options, &args.topic)?;
    applies(source, &patches)?;
    println!("{} patches apply to linux {version}", patches.len());
    if args.check {
        return Ok(Exit::Pass);
    }
    let folder = source.join("debian/patches").join(FOLDER);
    files::remove(&folder)?;
    for patch in &patches {
        files::write_whole(&folder.join(&patch.name), &patch.text)?;
    }
    let list = source.join("debian/patches/series");
    let old = files::read_text(&list)?;
    let names: Vec<&str> = patches.iter().map(|patch| patch.name.as_str()).collect();
    files::write_whole(&list, with_ours(&old, &names))?;
    println!("they are in {} and in {}; docs/distributions.md says how to build", folder.display(), list.display());
    Ok(Exit::Pass)
}

/// The version of the source package at `source`, which must be of the kernel `wanted`, such as `7.2`.
fn package(source: &Path, wanted: &str) -> Result<String> {
    let get = "`apt-get source linux` unpacks one";
    let read = |name: &str| {
        let path = source.join(name);
        fs::read_to_string(&path).map_err(|e| {
            let what = format!("{} is not an unpacked source package", source.display());
            Error::usage(format!("{what}: {name} cannot be read: {e}; {get}"))
        })
    };
    let changelog = read("debian/changelog")?;
    let format = read("debian/source/format")?;
    read("debian/patches/series")?;
    let Some((name, version)) = newest(&changelog) else {
        return Err(Error::usage(format!("{}/debian/changelog does not begin with a version", source.display())));
    };
    if name != "linux" || format.trim() != "3.0 (quilt)" {
        return Err(Error::usage(format!(
            "{} is the source package {name}, format {}, not linux, format 3.0 (quilt); {get}",
            source.display(),
            format.trim()
        )));
    }
    if !version.strip_prefix(wanted).is_some_and(|rest| rest.starts_with(['.', '-', '~'])) {
        return Err(Error::usage(format!(
            "{} is linux {version}, but the selected patches are for {wanted}; select others with --base",
            source.display()
        )));
    }
    // Absent if nothing was applied.
    let applied = fs::read_to_string(source.join(".pc/applied-patches")).unwrap_or_default();
    if applied.lines().any(|line| line.starts_with(&format!("{FOLDER}/"))) {
        return Err(Error::usage(format!(
            "the patches in debian/patches/{FOLDER} are applied in {}; take them back with quilt pop",
            source.display()
        )));
    }
    Ok(version.to_owned())
}

/// Name and version in the first line of a `debian/changelog`.
fn newest(changelog: &str) -> Option<(&str, &str)> {
    let (name, rest) = changelog.lines().next()?.split_once(" (")?;
    Some((name, rest.split_once(')')?.0))
}

/// The patches of these topics and those that they need, or all.
fn chosen(options: &Options, names: &[String]) -> Result<Vec<Patch>> {
    let known = || options.base.topics.iter().map(|topic| topic.name.as_str());
    if let Some(name) = names.iter().find(|name| !known().any(|known| known == name.as_str())) {
        let hint = nearest::hint(name, known());
        return Err(Error::usage(format!("the series has no topic `{name}`; {hint}")));
    }
    let mails = mailbox::patches(&options.root.join(&options.base.linux.patches))?;
    let mut all = Vec::new();
    let mut subjects = Vec::new();
    for mail in &mails {
        let text = files::read_text(mail)?;
        let name = files::name(mail).into_owned();
        let (subject, text) = quilted(&text).ok_or_else(|| {
            Error::could_not(format!("{} is not a mail with a patch; run make series", mail.display()))
        })?;
        subjects.push(subject);
        all.push(Patch { name, text });
    }
    let wanted = wanted(&options.base.topics, &subjects, names)?;
    Ok(all.into_iter().zip(wanted).filter_map(|(patch, wanted)| wanted.then_some(patch)).collect())
}

/// For each patch, whether it belongs to one of the topics `names`, or to one that these need; all of them if there
/// are no names.
fn wanted(topics: &[Topic], subjects: &[String], names: &[String]) -> Result<Vec<bool>> {
    if names.is_empty() {
        return Ok(vec![true; subjects.len()]);
    }
    let parts = topics::cut(topics, subjects).map_err(Error::could_not)?;
    let mut wanted = vec![false; subjects.len()];
    for part in parts.iter().filter(|part| names.contains(&part.topic.name)) {
        let needed = part.needs.iter().map(|&at| &parts[at]);
        needed.chain([part]).flat_map(|part| part.patches.clone()).for_each(|at| wanted[at] = true);
    }
    Ok(wanted)
}

/// Subject and text of a mail's patch as `debian/patches` has it: without what belongs to the mail alone.
fn quilted(mail: &str) -> Option<(String, String)> {
    let (head, body) = mail.split_once("\n\n")?;
    let mut fields: Vec<String> = Vec::new();
    for line in head.lines() {
        match fields.last_mut() {
            Some(last) if line.starts_with([' ', '\t']) => *last = format!("{last} {}", line.trim_start()),
            _ => fields.push(line.to_owned()),
        }
    }
    let field = |name: &str| fields.iter().find_map(|field| field.strip_prefix(name)?.strip_prefix(": "));
    let subject = field("Subject")?;
    let subject = subject.strip_prefix("[PATCH").and_then(|rest| rest.split_once("] ")).map_or(subject, |(_, s)| s);
    if !body.contains("\n---\n") || !body.contains("\ndiff --git ") {
        return None;
    }
    let (from, date) = (field("From")?, field("Date")?);
    let text = format!("From: {from}\nDate: {date}\nSubject: {subject}\nForwarded: no\n\n{body}");
    Some((subject.to_owned(), text))
}

/// `debian/patches/series` with these patches at its end, in place of those of an earlier run.
fn with_ours(series: &str, names: &[&str]) -> String {
    let mut kept = String::new();
    let mut ours = false;
    for line in series.lines() {
        ours |= line == BEGIN;
        if !ours {
            kept += &format!("{line}\n");
        }
        ours &= line != END;
    }
    let names: String = names.iter().map(|name| format!("{FOLDER}/{name}\n")).collect();
    format!("{}\n\n{BEGIN}\n{names}{END}\n", kept.trim_end())
}

/// Applies the patches, one after the other, to copies of the files that they change, as dpkg-source would.
fn applies(source: &Path, patches: &[Patch]) -> Result<()> {
    if host::in_path("patch").is_none() {
        return Err(Error::could_not("patch is missing: apt-get install patch"));
    }
    let scratch = files::scratch()?;
    let copy = scratch.path().join("linux");
    files::create_dir(&copy)?;
    for patch in patches {
        for file in patch.text.lines().filter_map(touched) {
            let (from, to) = (source.join(file), copy.join(file));
            if from.is_file() && !to.exists() {
                let parent = to.parent().unwrap_or(&copy);
                files::create_dir(parent)?;
                files::copy(&from, &to)?;
            }
        }
    }
    for patch in patches {
        let file = scratch.path().join(&patch.name);
        fs::write(&file, &patch.text).map_err(|e| Error::io("write", &file, e))?;
        let mut command = Command::new("patch");
        // The options of dpkg-source; -f in place of -t, which takes back what is applied already.
        command.args(["-p1", "-f", "-F0", "-N", "-u", "-E", "-V", "never", "--no-backup-if-mismatch", "-r", "-", "-i"]);
        command.arg(&file).current_dir(&copy).env("LC_ALL", "C");
        let done = command.output().map_err(|e| Error::could_not(format!("cannot run patch: {e}")))?;
        if !done.status.success() {
            let said = String::from_utf8_lossy(&done.stdout);
            return Err(Error::could_not(format!(
                "{} does not apply to {}: {}; use the version that base.toml names",
                patch.name,
                source.display(),
                reason(&said)
            )));
        }
    }
    Ok(())
}

/// The file that a line of a patch names, without the folder in front.
fn touched(line: &str) -> Option<&str> {
    let old = line.strip_prefix("--- a/").or_else(|| line.strip_prefix("+++ b/"));
    let old = old.or_else(|| line.strip_prefix("rename from ")).or_else(|| line.strip_prefix("copy from "))?;
    // Nothing outside of the folder.
    old.split('/').all(|part| part != ".." && !part.is_empty()).then_some(old)
}

/// File and hunk, from what `patch` said.
fn reason(said: &str) -> String {
    let file = said.lines().rfind(|l| l.starts_with("patching file ")).unwrap_or_default();
    let failed = said.lines().find(|l| l.contains("FAILED") || l.contains("can't find file") || l.contains("Reversed"));
    let why = failed.or(said.lines().next_back()).unwrap_or("patch gave no reason");
    if file.is_empty() { why.to_owned() } else { format!("{file}: {why}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAIL: &str = "From 0000 Mon Sep 17 00:00:00 2001\nFrom: A <a@b>\nDate: Sat, 28 Nov 2026 04:00:00 +0000\n\
                        Message-ID: <x@y>\nSubject: [PATCH 01/33] riscv: Do one thing and\n another\n\nText.\n\n\
                        Fixes: 1 (\"x\")\n---\n f | 2 +-\n\ndiff --git a/f b/f\n--- a/f\n+++ b/f\n@@ -1 +1 @@\n-a\n+b\n";

    #[test]
    fn a_mail_becomes_a_patch_with_the_head_of_dep_3() {
        let (subject, text) = quilted(MAIL).unwrap();
        assert_eq!(subject, "riscv: Do one thing and another");
        let head = "From: A <a@b>\nDate: Sat, 28 Nov 2026 04:00:00 +0000\nSubject: riscv: Do one thing and another\n\
                    Forwarded: no\n\nText.\n\nFixes: 1 (\"x\")\n---\n f | 2 +-\n";
        assert!(text.starts_with(head), "{text}");
        assert!(text.ends_with("@@ -1 +1 @@\n-a\n+b\n"));
        assert_eq!(quilted("Subject: x\n\nno patch\n"), None);
    }

    #[test]
    fn the_series_has_ours_once_and_at_the_end() {
        let first = with_ours("debian/a.patch\n# b\nb.patch\n\n", &["1.patch", "2.patch"]);
        let expected = format!("debian/a.patch\n# b\nb.patch\n\n{BEGIN}\nlazy-map/1.patch\nlazy-map/2.patch\n{END}\n");
        assert_eq!(first, expected);
        assert_eq!(with_ours(&first, &["1.patch", "2.patch"]), expected);
        // What was added below stays.
        let later = with_ours(&format!("{first}c.patch\n"), &["3.patch"]);
        assert_eq!(later, format!("debian/a.patch\n# b\nb.patch\n\nc.patch\n\n{BEGIN}\nlazy-map/3.patch\n{END}\n"));
    }

    #[test]
    fn a_topic_comes_with_what_it_needs() {
        let topic = |name: &str, on: &[&str]| Topic {
            name: name.to_owned(),
            first: vec![format!("{name}: first")],
            subjects: vec![format!("{name}: ")],
            on: on.iter().map(|&name| name.to_owned()).collect(),
            list: None,
            stable: false,
            alone: false,
        };
        let topics = [topic("a", &[]), topic("b", &[]), topic("c", &["a"])];
        let subjects = ["a: first", "a: x", "b: first", "c: first"].map(str::to_owned);
        let ask = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
            wanted(&topics, &subjects, &names)
        };
        assert_eq!(ask(&[]).unwrap(), [true; 4]);
        assert_eq!(ask(&["c"]).unwrap(), [true, true, false, true]);
        assert_eq!(ask(&["b"]).unwrap(), [false, false, true, false]);
    }

    /// A source package with the file `f`.
    fn package_of(version: &str, content: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| files::write_whole(&dir.path().join(name), text).unwrap();
        write("debian/changelog", &format!("linux ({version}) unstable; urgency=medium\n"));
        write("debian/source/format", "3.0 (quilt)\n");
        write("debian/patches/series", "debian/a.patch\n");
        write("f", content);
        dir
    }

    #[test]
    fn only_the_right_package_is_taken() {
        let dir = package_of("7.2.13-1", "a\n");
        assert_eq!(package(dir.path(), "7.2").unwrap(), "7.2.13-1");
        let other = package(dir.path(), "7.3").unwrap_err();
        assert!(other.exit == Exit::Usage && other.message.contains("is linux 7.2.13-1"), "{other}");
        assert_eq!(package(dir.path(), "7").unwrap(), "7.2.13-1");
        assert!(package(&dir.path().join("debian"), "7.2").unwrap_err().message.contains("apt-get source"));
        files::write_whole(&dir.path().join(".pc/applied-patches"), "debian/a.patch\nlazy-map/1.patch\n").unwrap();
        assert!(package(dir.path(), "7.2").unwrap_err().message.contains("quilt pop"));
    }

    #[test]
    fn patches_apply_in_order_and_without_fuzz() {
        let (_, first) = quilted(MAIL).unwrap();
        let second = first.replace("-a\n+b\n", "-b\n+c\n");
        let patch = |name: &str, text: &str| Patch { name: name.to_owned(), text: text.to_owned() };
        let both = [patch("1.patch", &first), patch("2.patch", &second)];
        let dir = package_of("7.2.13-1", "a\n");
        applies(dir.path(), &both).unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("f")).unwrap(), "a\n", "the package is as it was");
        let wrong = applies(dir.path(), &both[1..]).unwrap_err();
        assert!(wrong.message.starts_with("2.patch does not apply") && wrong.message.contains("file f"), "{wrong}");
        let applied = package_of("7.2.13-1", "b\n");
        assert!(applies(applied.path(), &both[..1]).is_err(), "it is applied already");
    }

    #[test]
    fn files_of_a_patch() {
        assert_eq!(touched("--- a/mm/x.c"), Some("mm/x.c"));
        assert_eq!(touched("+++ b/mm/x.c"), Some("mm/x.c"));
        assert_eq!(touched("--- /dev/null"), None);
        assert_eq!(touched("--- a/../../x"), None);
    }
}
