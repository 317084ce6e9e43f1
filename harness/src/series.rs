// SPDX-License-Identifier: GPL-2.0-only
//! The patch series: regenerated from sources and commits, and checked.
//!
//! New files of the series are readable sources in the repository. Each replaces the content of its
//! path from the *last* commit of the series that touches this path onwards; an earlier commit may
//! carry an earlier version. Everything else comes from the commits in the work tree.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::base::Base;
use crate::cli::Options;
use crate::error::{Error, Result};
use crate::git::Repo;
use crate::machine::Machine;
use crate::progress::Step;
use crate::tree::{self, BASE_TAG, BRANCH, Source, Tree};
use crate::trial::{self, Expect, Trial, Verdict};
use crate::workbench::Lab;
use crate::{host, models, stamp};

/// Where files of the repository land in the kernel tree; the first match counts.
const MAPPING: [(&str, &str); 6] = [
    ("arch-riscv/", "arch/riscv/"),
    ("rust/kernel/", "rust/kernel/"),
    ("rust/helpers/", "rust/helpers/"),
    ("selftests/", "tools/testing/selftests/riscv/lazy_map/"),
    ("docs/kernel/", "Documentation/arch/riscv/"),
    ("Kconfig", "arch/riscv/mm/Kconfig"),
];

/// What a build leaves beside its sources; never part of the series.
const LEFTOVERS: [&str; 12] =
    [".o", ".ko", ".mod", ".mod.c", ".cmd", ".order", ".symvers", ".rmeta", ".rej", ".orig", ".swp", "~"];

/// Subject (first line) and text of the cover letter.
const COVER_TEXT: &str = "docs/cover-letter.md";
/// Name of the cover letter beside the patches. It must not match `*.patch`: `git am` stops at a
/// mail without a patch, and `git am patches/linux-*/*.patch` has to work as it is.
const COVER: &str = "0000-cover-letter.txt";
/// checkpatch's types that say nothing about this series, each with its reason.
const IGNORED: &str = "harness/checkpatch.ignore";

/// Tests for a kernel that has none yet, in the repository.
const FIXTURES: &str = "harness/tests/fixtures/guest";
/// The one of them that passes.
const FIXTURE: &str = "test-pass.sh";

/// One check of the series.
#[derive(Clone, Debug)]
pub struct CheckResult {
    /// Stable name, such as `series: 0003-selftests-riscv-add-lazy_map checkpatch`.
    pub name: String,
    /// Whether it passed.
    pub ok: bool,
    /// Why it did not pass; a note otherwise.
    pub detail: String,
}

/// A file of the repository that is part of the series.
#[derive(Clone, Debug, PartialEq, Eq)]
struct SourceFile {
    /// Path in the repository.
    here: String,
    /// `100644` or `100755`.
    mode: &'static str,
    /// Id of its content.
    blob: String,
}

/// Writes `patches/linux-*` anew from the sources and the commits in the work tree.
///
/// # Errors
/// When sources and commits contradict each other, or the base is not the one that `base.toml`
/// records: patches made against another would not say what they are for.
pub fn regenerate(options: &Options) -> Result<()> {
    let base = Base::of(options)?;
    if options.ksrc.is_some() {
        return Err(Error::usage("the patches are made against the base that base.toml names; leave KSRC out"));
    }
    host::for_series(options, &base)?;
    let mut tree = Tree::open(options, &base)?;
    if tree.base != base.linux.commit {
        return Err(Error::could_not(format!(
            "the base is {} ({}), base.toml records commit {}; correct base.toml first, or remove {} to get the other",
            tree.base,
            tree.used.from,
            base.linux.commit,
            tree.repo.dir().display()
        )));
    }
    let tip = work_in_sources(&mut tree, options)?;
    let folder = options.root.join(&base.linux.patches);
    let step = Step::start("write the patches");
    let made = format(&tree, &tip, options)?;
    // What the mails carry is what counts: apply them, and see that nothing got lost.
    let mails = tree::patches(made.path())?;
    let applied = tree::am(&tree.repo, &tree.base, &mails)?;
    let (before, after) = (tree.commits(&tip)?, tree.commits(&applied)?);
    for (one, other) in before.iter().zip(&after) {
        if tree.files(one)? != tree.files(other)? {
            return Err(Error::could_not(format!(
                "commit {one:.12} changes when it goes through a mail; rewrite it as text"
            )));
        }
    }
    if before.len() != after.len() {
        return Err(Error::could_not("the series has a commit that changes nothing; drop it"));
    }
    let changed = replace(made.path(), &folder)?;
    tree.settle(&folder, &applied)?;
    step.finish(&format!("{} patches, {changed} files changed", mails.len()));
    Ok(())
}

/// The commit to build: the branch with the sources worked into it. Says so if `patches/` lacks
/// something of it.
///
/// # Errors
/// When sources and commits contradict each other.
pub fn current(tree: &mut Tree, options: &Options) -> Result<String> {
    let by_hand = tree.moved_by_hand()?;
    let tip = work_in_sources(tree, options)?;
    if tip != tree.applied() {
        let what = if by_hand { "sources or commits differ" } else { "sources differ" };
        eprintln!("lazymap: note: {what} from patches/: testing them; run `make series` to write them into patches/");
    }
    Ok(tip)
}

/// Checks the series: up to date, applies, checkpatch, rustfmt, no sign-off; if `options` say so, every
/// patch builds and boots.
///
/// # Errors
/// When a check could not be made at all.
pub fn check(options: &Options) -> Result<Vec<CheckResult>> {
    let base = Base::of(options)?;
    let source = Source::find(options, &base)?;
    let rustfmt = host::for_series(options, &base)?;
    let folder = options.root.join(&base.linux.patches);
    let mails = tree::patches(&folder)?;
    if mails.is_empty() {
        return Err(Error::could_not(format!("{} has no patches; run `make series`", folder.display())));
    }
    let mut tree = Tree::base_only(&source, options, &base)?;
    let mut results = Vec::new();
    let of = options.base.as_ref().map(|version| format!(" {version}")).unwrap_or_default();
    let mut result = |name: String, problem: std::result::Result<String, String>| {
        let ok = problem.is_ok();
        let detail = problem.unwrap_or_else(|why| why);
        results.push(CheckResult { name: format!("series{of}: {name}"), ok, detail });
    };
    // From nothing, every time: what an earlier run applied proves nothing about the files of now.
    let step = Step::start("git am on the base");
    let applied = tree::am(&tree.repo, &tree.base, &mails);
    step.finish(if applied.is_ok() { "applied" } else { "failed" });
    result(
        "git am".to_owned(),
        applied.as_ref().map(|_| format!("on {}", tree.used.from)).map_err(|e| e.message.clone()),
    );
    if applied.is_ok() {
        tree = Tree::open_from(&source, options, &base)?;
        result("patches are what sources and commits give".to_owned(), up_to_date(&mut tree, &folder, options, &base)?);
    }
    let ignored = ignored(&options.root.join(IGNORED))?;
    let step = Step::start("checkpatch");
    for mail in &mails {
        let name = mail.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        step.detail(&name);
        result(format!("{name} checkpatch"), checkpatch(&tree, mail, &ignored)?);
        result(format!("{name} is not signed off"), not_signed(mail)?);
    }
    step.finish("done");
    if let Ok(tip) = &applied {
        result("rustfmt".to_owned(), formatted(&tree, tip, &rustfmt)?);
        if options.build_each {
            drop(tree);
            each(options, tip, &mails, &mut result)?;
        }
    }
    Ok(results)
}

/// Builds and boots the kernel at every patch: on stale harts from the switch on, on plain ones
/// before it.
fn each(
    options: &Options,
    tip: &str,
    mails: &[PathBuf],
    result: &mut dyn FnMut(String, std::result::Result<String, String>),
) -> Result<()> {
    let mut lab = Lab::open(options)?;
    let folder = lab.bench.place("each");
    let switch = lab.tree.by_subject(tip, &lab.bench.base.linux.switch)?;
    let fixtures = options.root.join(FIXTURES);
    let mut model = "plain";
    let commits = lab.tree.commits(tip)?;
    for (mail, commit) in mails.iter().zip(&commits) {
        if switch.as_ref() == Some(commit) {
            model = "stale";
        }
        let name = mail.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let short = format!("patch-{}", name.split('-').next().unwrap_or_default());
        let built = lab.patch(options, &short, commit, (&fixtures, FIXTURE));
        result(format!("{name} builds"), built.as_ref().map(|_| String::new()).map_err(|e| e.message.clone()));
        let Ok((kernel, tests)) = built else { continue };
        let machine = Machine::new(models::find(model)?);
        let expect = if machine.model.stale { Expect::Survive } else { Expect::Pass };
        let tests: Vec<_> = tests.into_iter().map(|test| (test, expect.clone())).collect();
        let names = tests.iter().map(|(test, _)| test.as_str()).collect::<Vec<_>>().join(", ");
        let mut trial = Trial::new(&short, machine, tests);
        trial.limits = trial.limits.or_from_env()?;
        let done = trial::run(&lab.bench, &trial, Ok(&kernel), &folder);
        done.report.iter().for_each(|report| println!("{report}"));
        let bad = done.rows.iter().find(|row| row.verdict != Verdict::Pass);
        result(
            format!("{name} boots on {model}"),
            match bad {
                Some(row) => Err(format!("{}: {}", row.test, row.observed)),
                None => Ok(names),
            },
        );
    }
    let tip = lab.tree.tip()?;
    lab.tree.check_out(&tip)
}

/// Prints one line per check.
pub fn print(results: &[CheckResult]) {
    for result in results {
        let verdict = if result.ok { "ok    " } else { "FAILED" };
        let colon = if result.detail.is_empty() { "" } else { ": " };
        println!("{verdict} {}{colon}{}", result.name, result.detail);
    }
}

/// Whether the files in `folder` are what would be written now.
fn up_to_date(
    tree: &mut Tree,
    folder: &Path,
    options: &Options,
    base: &Base,
) -> Result<std::result::Result<String, String>> {
    let tip = match work_in_sources(tree, options) {
        Ok(tip) => tip,
        Err(error) => return Ok(Err(error.message)),
    };
    let made = format(tree, &tip, options)?;
    // Another point release has other line numbers and ids; the changes themselves must be the same.
    let exact = tree.base == base.linux.commit;
    let differ = |name: &str| {
        let (one, other) = (fs::read(made.path().join(name)), fs::read(folder.join(name)));
        match (one, other) {
            (Ok(one), Ok(other)) => {
                one != other && (exact && !same_but_functions(&one, &other) || !exact && !same_change(&one, &other))
            }
            _ => true,
        }
    };
    let names: BTreeSet<String> = series_files(made.path())?.into_iter().chain(series_files(folder)?).collect();
    Ok(match names.iter().find(|name| differ(name)) {
        Some(name) => Err(format!("{name} is not what sources and commits give; run `make series`")),
        None if exact => Ok("byte for byte".to_owned()),
        None => Ok(format!("up to line numbers: the base is {}, not the recorded one", tree.used.from)),
    })
}

/// Whether two mails differ at most in the function names behind `@@`, which git takes from
/// patterns that may change between its versions.
fn same_but_functions(one: &[u8], other: &[u8]) -> bool {
    let strip = |bytes: &[u8]| -> Vec<String> {
        String::from_utf8_lossy(bytes)
            .lines()
            .map(|l| match l.strip_prefix("@@ ").and_then(|rest| rest.split_once(" @@")) {
                Some((range, _)) => range.to_owned(),
                None => l.to_owned(),
            })
            .collect()
    };
    strip(one) == strip(other)
}

/// Whether two mails make the same change, wherever it is in the file.
fn same_change(one: &[u8], other: &[u8]) -> bool {
    let strip = |bytes: &[u8]| -> Vec<String> {
        let text = String::from_utf8_lossy(bytes);
        let keep = |l: &&str| !l.starts_with("@@ ") && !l.starts_with("index ") && !l.starts_with("base-commit: ");
        text.lines().filter(keep).map(str::to_owned).collect()
    };
    strip(one) == strip(other)
}

/// Names of the files that belong to the series in a folder of patches.
fn series_files(folder: &Path) -> Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(|e| Error::io("read", folder, e))?,
    };
    let names = entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned());
    Ok(names.filter(|n| n == COVER || n.ends_with(".patch")).collect())
}

/// Puts the files of `from` into `to`, and removes what is stale there; returns how many changed.
fn replace(from: &Path, to: &Path) -> Result<usize> {
    fs::create_dir_all(to).map_err(|e| Error::io("create", to, e))?;
    let (new, old) = (series_files(from)?, series_files(to)?);
    let mut changed = 0;
    for name in &new {
        let content = fs::read(from.join(name)).map_err(|e| Error::io("read", &from.join(name), e))?;
        if fs::read(to.join(name)).ok().as_ref() != Some(&content) {
            stamp::write_whole(&to.join(name), content)?;
            changed += 1;
        }
    }
    for name in old.iter().filter(|name| !new.contains(name)) {
        stamp::remove(&to.join(name))?;
        changed += 1;
    }
    Ok(changed)
}

/// Formats the commits up to `tip` as mails, the same bytes at every time and place.
fn format(tree: &Tree, tip: &str, options: &Options) -> Result<tempfile::TempDir> {
    let text_path = options.root.join(COVER_TEXT);
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
    if commits.len() != tree::patches(dir.path())?.len() {
        return Err(Error::could_not("the series has a commit that changes nothing; drop it"));
    }
    let made = dir.path().join("0000-cover-letter.patch");
    let cover = fs::read_to_string(&made).map_err(|e| Error::io("read", &made, e))?;
    stamp::remove(&made)?;
    stamp::write_whole(&dir.path().join(COVER), finish_cover(&cover, &text))?;
    Ok(dir)
}

/// Fills in subject and text, and takes out who wrote it when: that is up to the person who sends it.
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

/// Works the sources of the repository into the commits of the branch, and returns its tip.
fn work_in_sources(tree: &mut Tree, options: &Options) -> Result<String> {
    let sources = sources(&options.root, &tree.repo)?;
    let tip = tree.tip()?;
    let new = work_in(tree, &tip, &sources)?;
    let blobs = sources.into_iter().map(|(path, file)| (path, file.blob)).collect();
    tree.rewrite(&new, blobs)?;
    Ok(new)
}

/// All sources, by their path in the kernel tree.
fn sources(root: &Path, repo: &Repo) -> Result<BTreeMap<String, SourceFile>> {
    let mut files: Vec<(String, String)> = Vec::new();
    for (here, there) in MAPPING {
        if here.ends_with('/') {
            for file in walk(&root.join(here))? {
                files.push((format!("{here}{file}"), format!("{there}{file}")));
            }
        } else if root.join(here).is_file() {
            files.push((here.to_owned(), there.to_owned()));
        }
    }
    let list: String = files.iter().map(|(here, _)| format!("{}\n", root.join(here).display())).collect();
    let blobs = repo.feed(["hash-object", "-w", "--no-filters", "--stdin-paths"], list.as_bytes())?;
    let mut sources = BTreeMap::new();
    for ((here, there), blob) in files.into_iter().zip(blobs.lines()) {
        let path = root.join(&here);
        let meta = fs::metadata(&path).map_err(|e| Error::io("read", &path, e))?;
        let mode = if meta.permissions().mode() & 0o111 == 0 { "100644" } else { "100755" };
        sources.insert(there, SourceFile { here, mode, blob: blob.to_owned() });
    }
    Ok(sources)
}

/// Paths of the files below `dir`, relative to it, without what builds and editors leave.
fn walk(dir: &Path) -> Result<Vec<String>> {
    let mut files = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        let entries = match fs::read_dir(dir.join(&folder)) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(Error::io("read", &dir.join(&folder), e)),
        };
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let hidden = name.starts_with('.') && !matches!(name.as_str(), ".gitignore" | ".kunitconfig");
            let made = LEFTOVERS.iter().any(|ending| name.ends_with(ending)) || name == "modules.order";
            if hidden || made {
                continue;
            }
            let path = folder.join(&name);
            if entry.path().is_dir() {
                folders.push(path);
            } else {
                files.push(path.display().to_string());
            }
        }
    }
    files.sort();
    Ok(files)
}

/// Rewrites the commits up to `tip` so that they end in the sources; returns the new tip.
fn work_in(tree: &Tree, tip: &str, sources: &BTreeMap<String, SourceFile>) -> Result<String> {
    let commits = tree.commits(tip)?;
    let mut last: BTreeMap<String, usize> = BTreeMap::new();
    for (at, commit) in commits.iter().enumerate() {
        let touched = tree.repo.run(["diff-tree", "-r", "--no-commit-id", "--name-only", "--no-renames", commit])?;
        last.extend(touched.lines().map(|path| (path.to_owned(), at)));
    }
    let dir = tree.repo.dir().display();
    let added = tree.repo.run(["diff", "--name-only", "--no-renames", "--diff-filter=A", &tree.base, tip])?;
    for path in added.lines() {
        let mapped =
            MAPPING.iter().find(|(_, there)| path == *there || there.ends_with('/') && path.starts_with(there));
        if let Some((here, there)) = mapped
            && !sources.contains_key(path)
        {
            let source = format!("{here}{}", &path[there.len()..]);
            return Err(Error::could_not(format!(
                "the series adds {path}, but there is no {source}; put the file there, or take it out of the commit in {dir}"
            )));
        }
    }
    let now = blobs(&tree.repo, tip, sources.keys())?;
    let before = blobs(&tree.repo, tree.applied_or_base(), sources.keys())?;
    let mut replaced: BTreeMap<usize, Vec<(&String, &SourceFile)>> = BTreeMap::new();
    for (path, file) in sources {
        let Some(at) = last.get(path) else {
            return Err(Error::could_not(format!(
                "no commit of the series has {path}, so {} has no place; add an empty {path} to the commit in {dir} \
                 that shall introduce it (branch {BRANCH}) and run again",
                file.here
            )));
        };
        let entry = (file.mode.to_owned(), file.blob.clone());
        let in_tip = now.get(path);
        if in_tip == Some(&entry) {
            continue;
        }
        // A commit that changes the copy in the tree would be lost silently.
        let known = in_tip.is_none()
            || !before.contains_key(path)
            || in_tip.map(|e| &e.1) == before.get(path).map(|e| &e.1)
            || in_tip.map(|e| e.1.as_str()) == tree.worked_in(path);
        if !known {
            return Err(Error::could_not(format!(
                "a commit in {dir} changes {path}, whose source is {}; take that change there instead",
                file.here
            )));
        }
        replaced.entry(*at).or_default().push((path, file));
    }
    let Some(&first) = replaced.keys().next() else { return Ok(tip.to_owned()) };
    let index = tree.repo.dir().join(".git/lazymap.index");
    let apart = tree.repo.with("GIT_INDEX_FILE", &index);
    let mut parent = if first == 0 { tree.base.clone() } else { commits[first - 1].clone() };
    let mut active: Vec<(&String, &SourceFile)> = Vec::new();
    for (at, commit) in commits.iter().enumerate().skip(first) {
        active.extend(replaced.get(&at).into_iter().flatten());
        apart.run(["read-tree", commit])?;
        let info: String = active.iter().map(|(path, file)| format!("{} {}\t{path}\n", file.mode, file.blob)).collect();
        apart.feed(["update-index", "--add", "--index-info"], info.as_bytes())?;
        let files = apart.run(["write-tree"])?;
        if files == tree.files(&parent)? {
            return Err(Error::could_not(format!(
                "with the sources as they are, commit {commit:.12} of the series changes nothing; drop it in {dir}"
            )));
        }
        parent = with_tree_and_parent(&tree.repo, commit, &files, &parent)?;
    }
    stamp::remove(&index)?;
    Ok(parent)
}

/// The same commit (author, dates, message) with other files and another parent.
fn with_tree_and_parent(repo: &Repo, commit: &str, files: &str, parent: &str) -> Result<String> {
    let old = repo.object("commit", commit)?;
    let end = old.windows(2).position(|w| w == b"\n\n").unwrap_or(old.len());
    let mut new = Vec::new();
    let mut in_signature = false;
    for line in String::from_utf8_lossy(&old[..end]).lines() {
        // A signature would not fit any more; its later lines start with a blank.
        in_signature = line.starts_with("gpgsig") || in_signature && line.starts_with(' ');
        match line.split(' ').next() {
            _ if in_signature => {}
            Some("tree") => new.extend(format!("tree {files}\n").into_bytes()),
            Some("parent") => new.extend(format!("parent {parent}\n").into_bytes()),
            _ => new.extend(format!("{line}\n").into_bytes()),
        }
    }
    new.extend_from_slice(&old[(end + 1).min(old.len())..]);
    repo.feed(["hash-object", "-t", "commit", "-w", "--stdin"], &new)
}

/// Mode and content id of the given paths in a commit.
fn blobs<'a>(
    repo: &Repo,
    commit: &str,
    paths: impl Iterator<Item = &'a String>,
) -> Result<BTreeMap<String, (String, String)>> {
    let mut args: Vec<String> = ["ls-tree", "-r", commit, "--"].map(str::to_owned).into();
    args.extend(paths.cloned());
    if args.len() == 4 {
        return Ok(BTreeMap::new());
    }
    let list = repo.run(args)?;
    let entry = |line: &str| {
        let (info, path) = line.split_once('\t')?;
        let mut words = info.split(' ');
        let (mode, _, blob) = (words.next()?, words.next()?, words.next()?);
        Some((path.to_owned(), (mode.to_owned(), blob.to_owned())))
    };
    Ok(list.lines().filter_map(entry).collect())
}

/// The types in the file at `path`: one per line, followed by the reason.
fn ignored(path: &Path) -> Result<Vec<String>> {
    let text = fs::read_to_string(path).map_err(|e| Error::io("read", path, e))?;
    let mut types = Vec::new();
    for line in text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')) {
        match line.split_once(char::is_whitespace) {
            Some((name, reason)) if !reason.trim().is_empty() => types.push(name.to_owned()),
            _ => return Err(Error::could_not(format!("{}: {line} has no reason; add one behind it", path.display()))),
        }
    }
    Ok(types)
}

/// The kernel's own style check, strict, except for the sign-off.
fn checkpatch(tree: &Tree, mail: &Path, ignored: &[String]) -> Result<std::result::Result<String, String>> {
    let mut command = Command::new("perl");
    command.arg("scripts/checkpatch.pl").args(["--strict", "--no-signoff", "--terse", "--show-types", "--no-summary"]);
    let ignored: Vec<&str> = match only_selftests(mail)? {
        true => ignored.iter().map(|t| t.strip_prefix(SELFTESTS).unwrap_or(t)).collect(),
        false => ignored.iter().map(String::as_str).filter(|t| !t.starts_with(SELFTESTS)).collect(),
    };
    if !ignored.is_empty() {
        command.args(["--ignore", &ignored.join(",")]);
    }
    command.arg(mail).current_dir(tree.repo.dir()).env("LC_ALL", "C").stdin(Stdio::null());
    let done =
        command.output().map_err(|e| Error::could_not(format!("cannot run perl: {e}; install the package perl")))?;
    let said = String::from_utf8_lossy(&done.stdout);
    let complaints: Vec<&str> =
        said.lines().filter(|l| [": ERROR:", ": WARNING:", ": CHECK:"].iter().any(|k| l.contains(k))).collect();
    let place = |line: &&str| {
        let dir = mail.parent().map(|d| format!("{}/", d.display())).unwrap_or_default();
        line.replace(&dir, "")
    };
    Ok(match (done.status.success(), complaints.first()) {
        (true, None) => Ok(String::new()),
        (_, Some(_)) => Err(complaints.iter().map(place).collect::<Vec<_>>().join("; ")),
        // It must not pass by not running.
        (false, None) => {
            let why = String::from_utf8_lossy(&done.stderr);
            return Err(Error::could_not(format!(
                "checkpatch.pl failed without a complaint ({}): {}",
                done.status,
                why.lines().next_back().unwrap_or("no message")
            )));
        }
    })
}

/// What is before a type that is ignored in kselftests alone.
const SELFTESTS: &str = "selftests/";

/// Whether a patch changes nothing but kselftests, and MAINTAINERS for them.
fn only_selftests(mail: &Path) -> Result<bool> {
    let text = fs::read(mail).map_err(|e| Error::io("read", mail, e))?;
    let text = String::from_utf8_lossy(&text);
    // Both sides: a file that is removed has no new one.
    let mut files = text.lines().filter_map(|l| l.strip_prefix("--- a/").or_else(|| l.strip_prefix("+++ b/")));
    Ok(files.all(|f| f == "MAINTAINERS" || f.starts_with("tools/testing/selftests/")))
}

/// Only the person who submits the series may sign it off.
fn not_signed(mail: &Path) -> Result<std::result::Result<String, String>> {
    let text = fs::read(mail).map_err(|e| Error::io("read", mail, e))?;
    let text = String::from_utf8_lossy(&text);
    Ok(match text.lines().take_while(|l| !l.starts_with("diff --git ")).find(|l| l.starts_with("Signed-off-by:")) {
        Some(line) => Err(format!("it has \"{line}\"; take it out: whoever submits adds it with `git am -s`")),
        None => Ok(String::new()),
    })
}

/// Runs the kernel's rustfmt check over every Rust file that the series touches.
fn formatted(tree: &Tree, tip: &str, rustfmt: &Path) -> Result<std::result::Result<String, String>> {
    let touched = tree.repo.run(["diff", "--name-only", "--no-renames", "--diff-filter=d", &tree.base, tip])?;
    let dir = tempfile::tempdir().map_err(|e| Error::could_not(format!("no temporary folder: {e}")))?;
    let config = dir.path().join(".rustfmt.toml");
    stamp::write_whole(&config, tree.repo.object("blob", &format!("{tip}:.rustfmt.toml"))?)?;
    let mut files = 0;
    for path in touched.lines().filter(|p| p.ends_with(".rs")) {
        let source = tree.repo.object("blob", &format!("{tip}:{path}"))?;
        // Through stdin, because rustfmt follows the `mod` lines of a file that it has by name.
        let mut command = Command::new(rustfmt);
        command.arg("--check").arg("--config-path").arg(dir.path()).env("LC_ALL", "C");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let cannot = |e| Error::could_not(format!("cannot run {}: {e}", rustfmt.display()));
        let mut child = command.spawn().map_err(cannot)?;
        let stdin = child.stdin.take();
        let done = std::thread::scope(|scope| {
            scope.spawn(move || stdin.map(|mut s| s.write_all(&source)));
            child.wait_with_output()
        })
        .map_err(cannot)?;
        if !done.status.success() {
            let why = String::from_utf8_lossy(&done.stderr);
            let said = String::from_utf8_lossy(&done.stdout);
            let line = said.lines().next().or(why.lines().next()).unwrap_or("no message");
            return Ok(Err(format!("{path}: {line}; run rustfmt on its source and `make series`")));
        }
        files += 1;
    }
    Ok(Ok(format!("{files} files")))
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

    #[test]
    fn mails_are_compared_line_by_line() {
        let one = b"x\n@@ -1,2 +1,2 @@ f()\n-a\n+b\n";
        assert!(same_but_functions(one, b"x\n@@ -1,2 +1,2 @@ g()\n-a\n+b\n"));
        assert!(!same_but_functions(one, b"x\n@@ -2,2 +1,2 @@ f()\n-a\n+b\n"));
        assert!(same_change(one, b"x\n@@ -9,2 +9,2 @@ f()\n-a\n+b\n"));
        assert!(!same_change(one, b"x\n@@ -1,2 +1,2 @@ f()\n-a\n+c\n"));
    }

    #[test]
    fn a_patch_of_selftests_changes_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let mail = dir.path().join("m");
        let only = |text: &str| {
            fs::write(&mail, text).unwrap();
            only_selftests(&mail).unwrap()
        };
        let test = "--- /dev/null\n+++ b/tools/testing/selftests/riscv/x.c\n@@ -0,0 +1 @@\n+x\n";
        assert!(only(test));
        assert!(only(&format!("{test}--- a/MAINTAINERS\n+++ b/MAINTAINERS\n")));
        assert!(!only(&format!("{test}--- a/mm/x.c\n+++ b/mm/x.c\n")));
        assert!(!only(&format!("{test}--- a/mm/x.c\n+++ /dev/null\n")));
    }

    #[test]
    fn ignored_types_need_a_reason() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("i");
        fs::write(&path, "# comment\n\nA_TYPE  because\n").unwrap();
        assert_eq!(ignored(&path).unwrap(), ["A_TYPE"]);
        fs::write(&path, "A_TYPE\n").unwrap();
        assert!(ignored(&path).unwrap_err().message.contains("no reason"));
    }
}
