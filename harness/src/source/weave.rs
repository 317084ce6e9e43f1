// SPDX-License-Identifier: GPL-2.0-only
//! Weaves the sources of the repository into the commits of the series.
//!
//! New files of the series are readable sources in the repository. Each replaces the content of its
//! path from the *last* commit of the series that touches this path onwards; an earlier commit may
//! carry an earlier version. Everything else comes from the commits in the work tree.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::tree::{BRANCH, Tree};
use crate::ground::error::{Error, Result};
use crate::ground::files;
use crate::ground::git::Repo;
use crate::options::Options;

/// Where files of the repository land in the kernel tree; the first match wins.
const MAPPING: [(&str, &str); 7] = [
    ("arch-riscv/", "arch/riscv/"),
    ("rust/kernel/", "rust/kernel/"),
    ("rust/helpers/", "rust/helpers/"),
    ("rust/macros/", "rust/macros/"),
    ("selftests/", "tools/testing/selftests/riscv/lazy_map/"),
    ("docs/kernel/", "Documentation/arch/riscv/"),
    ("Kconfig", "arch/riscv/mm/Kconfig"),
];

/// Endings of files that a build leaves beside its sources; never part of the series.
const LEFTOVERS: [&str; 12] =
    [".o", ".ko", ".mod", ".mod.c", ".cmd", ".order", ".symvers", ".rmeta", ".rej", ".orig", ".swp", "~"];

/// A file of the repository that is part of the series.
#[derive(Clone, Debug, PartialEq, Eq)]
struct SourceFile {
    /// Path in the repository.
    here: String,
    /// `100644` or `100755`.
    mode: &'static str,
    blob: String,
}

/// The commit to build: the branch with the sources woven into it. Prints a note if `patches/` is out
/// of date.
///
/// # Errors
/// When sources and commits contradict each other.
pub fn current(tree: &mut Tree, options: &Options) -> Result<String> {
    let by_hand = tree.moved_by_hand()?;
    let tip = weave(tree, options)?;
    if tip != tree.applied() {
        let what = if by_hand { "sources or commits differ" } else { "sources differ" };
        eprintln!("lazymap: note: {what} from patches/: testing them; run `make series` to write them into patches/");
    }
    Ok(tip)
}

/// Weaves the sources of the repository into the commits of the branch, and returns its tip.
pub fn weave(tree: &mut Tree, options: &Options) -> Result<String> {
    let sources = sources(&options.root, &tree.repo, &options.base.linux.without)?;
    let tip = tree.tip()?;
    let new = into_commits(tree, &tip, &sources)?;
    let blobs = sources.into_iter().map(|(path, file)| (path, file.blob)).collect();
    tree.weave(&new, blobs)?;
    Ok(new)
}

/// All sources but those whose path begins with one of `without`, by their path in the kernel tree.
fn sources(root: &Path, repo: &Repo, without: &[String]) -> Result<BTreeMap<String, SourceFile>> {
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
    files.retain(|(here, _)| !without.iter().any(|start| here.starts_with(start.as_str())));
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

/// Paths of the files below `dir`, relative to it, without leftovers of builds and editors.
fn walk(dir: &Path) -> Result<Vec<String>> {
    let mut files = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        for entry in files::list_if_there(&dir.join(&folder))? {
            let name = files::name(&entry).into_owned();
            let hidden = name.starts_with('.') && !matches!(name.as_str(), ".gitignore" | ".kunitconfig");
            let made = LEFTOVERS.iter().any(|ending| name.ends_with(ending)) || name == "modules.order";
            if hidden || made {
                continue;
            }
            let path = folder.join(&name);
            if entry.is_dir() {
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
fn into_commits(tree: &Tree, tip: &str, sources: &BTreeMap<String, SourceFile>) -> Result<String> {
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
                "the series adds {path}, but there is no {source}; add it, or drop {path} from the commit in {dir}"
            )));
        }
    }
    let now = blobs(&tree.repo, tip, sources.keys())?;
    let before = blobs(&tree.repo, tree.applied_or_base(), sources.keys())?;
    let mut replaced: BTreeMap<usize, Vec<(&String, &SourceFile)>> = BTreeMap::new();
    for (path, file) in sources {
        let Some(at) = last.get(path) else {
            return Err(Error::could_not(format!(
                "no commit of the series has {path} for {}; add an empty {path} to the commit in {dir} \
                 that should introduce it (branch {BRANCH}) and run again",
                file.here
            )));
        };
        let entry = (file.mode.to_owned(), file.blob.clone());
        let in_tip = now.get(path);
        if in_tip == Some(&entry) {
            continue;
        }
        // A commit that changes the copy in the tree would silently lose its change.
        let known = in_tip.is_none()
            || !before.contains_key(path)
            || in_tip.map(|e| &e.1) == before.get(path).map(|e| &e.1)
            || in_tip.map(|e| e.1.as_str()) == tree.woven(path);
        if !known {
            return Err(Error::could_not(format!(
                "a commit in {dir} changes {path}, whose source is {}; make the change there instead",
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
    files::remove(&index)?;
    Ok(parent)
}

/// The same commit (author, dates, message) with other files and another parent.
fn with_tree_and_parent(repo: &Repo, commit: &str, files: &str, parent: &str) -> Result<String> {
    let old = repo.object("commit", commit)?;
    let end = old.windows(2).position(|w| w == b"\n\n").unwrap_or(old.len());
    let mut new = Vec::new();
    let mut in_signature = false;
    for line in String::from_utf8_lossy(&old[..end]).lines() {
        // A signature would no longer be valid; its continuation lines start with a space.
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
