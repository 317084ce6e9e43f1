// SPDX-License-Identifier: GPL-2.0-only
//! The kernel tree: where it comes from, its base commit, and the patches on top of it.
//!
//! The tree in `out/` is a git work tree with the tag [`BASE_TAG`] and the branch [`BRANCH`]. Only
//! [`Tree::check_out`] changes what is checked out there, and it touches exactly the files that
//! differ, so that the next build is incremental. Patches are applied elsewhere, in a scratch folder
//! that shares the tree's objects.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::{Deserialize, Serialize};

use super::apt::{self, Kind};
use super::given::{Source, version};
use super::mailbox::{am, patches, patches_key};
use crate::ground::cmd;
use crate::ground::error::{Error, Result};
use crate::ground::files;
use crate::ground::git::{Repo, init};
use crate::ground::progress::Step;
use crate::options::Options;
use crate::options::base::{Base, BaseUsed};

/// Tag of the commit that the patches are applied to.
pub const BASE_TAG: &str = "lazymap-base";

/// Branch with the series; a developer may work on it.
pub const BRANCH: &str = "series";

/// Refs that keep commits outside the series.
const SCRATCH: &str = "refs/lazymap/";

/// The state of a tree, stored in its `.git` folder so that they are removed together.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct State {
    /// What the base commit was made from; if that changes, the base must be made again.
    source: String,
    used: Option<BaseUsed>,
    /// SHA-256 over the patches that `applied` comes from.
    patches: String,
    /// The commit that `git am` of the patches gave.
    applied: String,
    /// Where the tool last put [`BRANCH`]; if it is elsewhere, a developer moved it.
    branch: String,
    /// Contents of the sources that were last woven into the branch, by path in the tree.
    #[serde(default, alias = "worked_in")]
    woven: BTreeMap<String, String>,
    /// The commit that is being checked out; the work tree may be incomplete.
    checking_out: Option<String>,
    /// The commit that the tool last checked out.
    checked_out: String,
}

/// A kernel tree in `out/`.
#[derive(Debug)]
pub struct Tree {
    /// The git work tree.
    pub repo: Repo,
    /// What it was made from.
    pub used: BaseUsed,
    /// Id of the base commit.
    pub base: String,
    state: State,
}

impl Tree {
    /// The tree for `options`, made if it is missing, with the patches on [`BRANCH`].
    ///
    /// # Errors
    /// When the source cannot be downloaded, a patch does not apply, or the tree has a developer's changes
    /// that the tool would have to throw away.
    pub fn open(options: &Options) -> Result<Self> {
        Self::open_from(&Source::find(options)?, options)
    }

    /// As [`Tree::open`] for a source that has been checked already.
    ///
    /// # Errors
    /// As [`Tree::open`].
    pub fn open_from(source: &Source, options: &Options) -> Result<Self> {
        let mut tree = Self::base_only(source, options)?;
        tree.apply(&options.root.join(&options.base.linux.patches))?;
        tree.leave_scratch()?;
        Ok(tree)
    }

    /// The tree with its base commit; ignores the patches.
    ///
    /// # Errors
    /// When the source cannot be downloaded or copied.
    pub fn base_only(source: &Source, options: &Options) -> Result<Self> {
        let base = &options.base;
        let dir = source.folder(&options.out, base);
        let identity = source.identity(base)?;
        let state = match read_state(&dir) {
            Some(state) if state.source == identity && state.used.is_some() => state,
            Some(state) => {
                let show = dir.display();
                if state.branch != current(&dir)? {
                    return Err(Error::could_not(format!(
                        "the branch {BRANCH} in {show} has commits for another base; fetch what you need from there, \
                         then remove the folder"
                    )));
                }
                let half_way = state.checking_out.is_some();
                if !half_way && let Some(file) = edited(&Repo::at(&dir))? {
                    return Err(Error::could_not(format!(
                        "{file} in {show} was edited, and the tree must be made again for another base; save the \
                         edit, then remove the folder"
                    )));
                }
                match source {
                    Source::Clone { path, commit, version } if state.source.starts_with("clone ") => {
                        match move_base(state, &dir, path, commit, version, &identity)? {
                            Some(state) => state,
                            None => make(source, &dir, options, base, identity)?,
                        }
                    }
                    _ => make(source, &dir, options, base, identity)?,
                }
            }
            // Without a state it was never finished.
            None => make(source, &dir, options, base, identity)?,
        };
        let used = state.used.clone().ok_or_else(|| Error::could_not("tree without a base"))?;
        Ok(Self { repo: Repo::at(&dir), base: used.commit.clone(), used, state })
    }

    /// The commit that the patches gave, as last applied.
    pub fn applied(&self) -> &str {
        &self.state.applied
    }

    /// The commit that [`BRANCH`] is at.
    ///
    /// # Errors
    /// When the branch does not exist.
    pub fn tip(&self) -> Result<String> {
        self.repo.run(["rev-parse", "--verify", &format!("refs/heads/{BRANCH}")])
    }

    /// Whether a developer has moved [`BRANCH`] since the tool last did.
    ///
    /// # Errors
    /// When the branch does not exist.
    pub fn moved_by_hand(&self) -> Result<bool> {
        Ok(self.tip()? != self.state.branch)
    }

    /// Puts the patches of `folder` on [`BRANCH`], unless they are there.
    fn apply(&mut self, folder: &Path) -> Result<()> {
        let patches = patches(folder)?;
        let key = patches_key(&patches)?;
        if self.state.patches == key {
            return Ok(());
        }
        if self.moved_by_hand()? {
            let dir = self.repo.dir().display();
            return Err(Error::could_not(format!(
                "both {} and the branch {BRANCH} in {dir} have changed; keep the commits with `make series`, or drop \
                 them with `git -C {dir} update-ref refs/heads/{BRANCH} {}`",
                folder.display(),
                self.state.branch
            )));
        }
        let step = Step::start(format!("git am {} patches", patches.len()));
        let tip = am(&self.repo, &self.base, &patches)?;
        self.move_branch(&tip)?;
        self.state.branch.clone_from(&tip);
        self.state.applied = tip;
        self.state.patches = key;
        self.save()?;
        step.finish("applied");
        Ok(())
    }

    /// Records that [`BRANCH`] and the patches in `folder` are now the same.
    ///
    /// # Errors
    /// When the state cannot be written.
    pub fn record(&mut self, folder: &Path, tip: &str) -> Result<()> {
        self.move_branch(tip)?;
        self.state.patches = patches_key(&patches(folder)?)?;
        self.state.applied = tip.to_owned();
        self.state.branch = tip.to_owned();
        self.save()
    }

    /// Puts [`BRANCH`] at `tip` after the tool has woven sources, with these contents, into its
    /// commits. Remembers whether a developer had moved it before.
    ///
    /// # Errors
    /// When git or the disk fails.
    pub fn weave(&mut self, tip: &str, sources: BTreeMap<String, String>) -> Result<()> {
        if self.tip()? == tip && self.state.woven == sources {
            return Ok(());
        }
        let by_hand = self.moved_by_hand()?;
        self.move_branch(tip)?;
        if !by_hand {
            tip.clone_into(&mut self.state.branch);
        }
        self.state.woven = sources;
        self.save()
    }

    /// Content id of a source when it was last woven into the branch.
    pub fn woven(&self, path: &str) -> Option<&str> {
        self.state.woven.get(path).map(String::as_str)
    }

    /// The commit that the patches gave, or the base before any were applied.
    pub fn applied_or_base(&self) -> &str {
        if self.state.applied.is_empty() { &self.base } else { &self.state.applied }
    }

    /// Moves the branch and leaves the work tree as it is.
    fn move_branch(&mut self, tip: &str) -> Result<()> {
        let attached = self.repo.attempt(["symbolic-ref", "--quiet", "HEAD"])?;
        if String::from_utf8_lossy(&attached.stdout).trim() == format!("refs/heads/{BRANCH}") {
            // Otherwise everything that the move changes would look like a manual edit.
            self.repo.run(["update-ref", "--no-deref", "HEAD", "HEAD"])?;
            // The branch's new commits replace the one that is checked out.
            self.state.checked_out = self.repo.run(["rev-parse", "HEAD"])?;
        }
        self.repo.run(["update-ref", &format!("refs/heads/{BRANCH}"), tip]).map(drop)
    }

    /// Checks `commit` out, touching only the files that differ from what is checked out.
    ///
    /// # Errors
    /// When a tracked file was edited by hand, or a commit was made that is on no branch.
    pub fn check_out(&mut self, commit: &str) -> Result<()> {
        let dir = self.repo.dir().to_owned();
        let half_way = self.state.checking_out.is_some();
        if !half_way {
            if let Some(file) = edited(&self.repo)? {
                return Err(Error::could_not(format!(
                    "{file} in {} was edited but not committed; commit it on the branch {BRANCH} there, or drop it \
                     with `git -C {} checkout -f`",
                    dir.display(),
                    dir.display()
                )));
            }
            let head = self.repo.run(["rev-parse", "HEAD"])?;
            let held = head == self.state.checked_out
                || !self.repo.run(["for-each-ref", "--count=1", "--contains", &head])?.is_empty();
            if !held {
                return Err(Error::could_not(format!(
                    "commit {:.12} in {} is on no branch; put it on the branch {BRANCH} there first",
                    head,
                    dir.display()
                )));
            }
        }
        if half_way {
            // Left by a git that was killed: none can be running while the tool holds its own lock.
            files::remove(&dir.join(".git/index.lock"))?;
        }
        self.state.checking_out = Some(commit.to_owned());
        self.save()?;
        let branch = self.tip()? == commit;
        let target = if branch { BRANCH } else { commit };
        let mut args = vec!["checkout", "--quiet"];
        args.extend(half_way.then_some("--force"));
        args.extend((!branch).then_some("--detach"));
        args.push(target);
        // Without `--`, git could take a name for a file.
        args.push("--");
        self.repo.run(args)?;
        self.state.checking_out = None;
        self.state.checked_out = commit.to_owned();
        self.save()
    }

    /// Keeps `commit`, which is not part of the series, as `name`, until the next one of that name.
    ///
    /// # Errors
    /// When git or the disk fails.
    pub fn keep_scratch(&self, name: &str, commit: &str) -> Result<()> {
        self.repo.run(["update-ref", &format!("{SCRATCH}{name}"), commit]).map(drop)
    }

    /// Checks the series out if an interrupted run left something else: a developer must not find a
    /// kernel there that is broken on purpose.
    fn leave_scratch(&mut self) -> Result<()> {
        let head = self.repo.run(["rev-parse", "HEAD"])?;
        let left = self.repo.run(["for-each-ref", "--count=1", "--points-at", &head, SCRATCH])?;
        if left.is_empty() && self.state.checking_out.is_none() {
            return Ok(());
        }
        let tip = self.tip()?;
        self.check_out(&tip)
    }

    /// The subject of each commit.
    ///
    /// # Errors
    /// When one does not exist.
    pub fn subjects(&self, commits: &[String]) -> Result<Vec<String>> {
        commits.iter().map(|commit| self.repo.run(["log", "-1", "--format=%s", commit])).collect()
    }

    /// The commits of the series, oldest first, up to `tip`.
    ///
    /// # Errors
    /// When they are not a linear sequence on top of the base.
    pub fn commits(&self, tip: &str) -> Result<Vec<String>> {
        let range = format!("{}..{tip}", self.base);
        let list = self.repo.run(["rev-list", "--reverse", "--topo-order", "--parents", &range])?;
        let mut parent = self.base.clone();
        let mut commits = Vec::new();
        for line in list.lines() {
            let mut words = line.split(' ');
            let (commit, first, more) = (words.next().unwrap_or_default(), words.next(), words.next());
            if first != Some(parent.as_str()) || more.is_some() {
                return Err(Error::could_not(format!(
                    "the branch {BRANCH} in {} is not a linear series of commits on {BASE_TAG} (see {:.12}); rebase it",
                    self.repo.dir().display(),
                    commit
                )));
            }
            commit.clone_into(&mut parent);
            commits.push(commit.to_owned());
        }
        if commits.is_empty() && tip != self.base {
            return Err(Error::could_not(format!(
                "the branch {BRANCH} in {} is not based on {BASE_TAG}; rebase it",
                self.repo.dir().display()
            )));
        }
        Ok(commits)
    }

    /// The commit of the series up to `tip` with this subject, if there is one.
    ///
    /// # Errors
    /// As [`Tree::commits`].
    pub fn by_subject(&self, tip: &str, subject: &str) -> Result<Option<String>> {
        for commit in self.commits(tip)? {
            if self.repo.run(["log", "-1", "--format=%s", &commit])? == subject {
                return Ok(Some(commit));
            }
        }
        Ok(None)
    }

    /// Paths of the files that differ between two commits.
    ///
    /// # Errors
    /// When a commit does not exist.
    pub fn changed(&self, from: &str, to: &str) -> Result<Vec<String>> {
        let list = self.repo.run(["diff", "--name-only", "--no-renames", from, to])?;
        Ok(list.lines().map(str::to_owned).collect())
    }

    /// Id of a commit's tree of files.
    ///
    /// # Errors
    /// When the commit does not exist.
    pub fn files(&self, commit: &str) -> Result<String> {
        self.repo.run(["rev-parse", &format!("{commit}^{{tree}}")])
    }

    fn save(&self) -> Result<()> {
        save_state(self.repo.dir(), &self.state)
    }
}

/// Whether `dir` is a kernel tree made by the tool, with commits or edits that `patches/` lacks.
///
/// # Errors
/// When git cannot tell.
pub fn unsaved(dir: &Path) -> Result<bool> {
    let Some(state) = read_state(dir) else { return Ok(false) };
    let tip = current(dir)?;
    Ok(!tip.is_empty() && (tip != state.branch || edited(&Repo::at(dir))?.is_some()))
}

fn state_path(dir: &Path) -> PathBuf {
    dir.join(".git/lazymap.json")
}

fn read_state(dir: &Path) -> Option<State> {
    serde_json::from_str(&fs::read_to_string(state_path(dir)).ok()?).ok()
}

fn save_state(dir: &Path, state: &State) -> Result<()> {
    files::write_json(&state_path(dir), state)
}

/// Where the branch is, or an empty text.
fn current(dir: &Path) -> Result<String> {
    Ok(Repo::at(dir).find(&format!("refs/heads/{BRANCH}"))?.unwrap_or_default())
}

/// The first tracked file with uncommitted changes.
fn edited(repo: &Repo) -> Result<Option<String>> {
    let changes = repo.run(["status", "--porcelain", "--untracked-files=no"])?;
    Ok(changes.lines().next().map(|first| first.get(3..).unwrap_or(first).to_owned()))
}

/// Turns the tree of one commit of a user's clone into that of another, so that only what differs is
/// touched and built again. `None` if the objects of what is checked out are gone.
fn move_base(
    state: State,
    dir: &Path,
    path: &Path,
    commit: &str,
    version: &str,
    identity: &str,
) -> Result<Option<State>> {
    share_objects(dir, path)?;
    let repo = Repo::at(dir);
    if repo.find("HEAD^{tree}")?.is_none() || repo.find(&format!("{commit}^{{tree}}"))?.is_none() {
        return Ok(None);
    }
    repo.run(["update-ref", "--no-deref", "HEAD", "HEAD"])?;
    repo.run(["tag", "--force", BASE_TAG, commit])?;
    repo.run(["update-ref", &format!("refs/heads/{BRANCH}"), commit])?;
    let from = path.display().to_string();
    let state = State {
        source: identity.to_owned(),
        used: Some(BaseUsed {
            version: version.to_owned(),
            source: "ksrc".to_owned(),
            from,
            sha256: None,
            commit: commit.to_owned(),
        }),
        branch: commit.to_owned(),
        checked_out: repo.run(["rev-parse", "HEAD"])?,
        checking_out: state.checking_out,
        ..State::default()
    };
    save_state(dir, &state)?;
    Ok(Some(state))
}

/// Lets the tree read the objects of a user's repository, where they stay. Writes nothing there,
/// not even a lock.
fn share_objects(dir: &Path, path: &Path) -> Result<()> {
    let theirs = Repo::at(path);
    let objects = theirs.run(["rev-parse", "--path-format=absolute", "--git-path", "objects"])?;
    let shallow = theirs.run(["rev-parse", "--path-format=absolute", "--git-path", "shallow"])?;
    let alternates = dir.join(".git/objects/info/alternates");
    let mut list = fs::read_to_string(&alternates).unwrap_or_default();
    if !list.lines().any(|l| l == objects) {
        list.push_str(&format!("{objects}\n"));
    }
    files::write_whole(&alternates, list)?;
    let own = dir.join(".git/shallow");
    files::remove(&own)?;
    if Path::new(&shallow).exists() {
        fs::copy(&shallow, &own).map_err(|e| Error::io("write", &own, e))?;
    }
    Ok(())
}

/// Makes the tree and its base commit from scratch.
fn make(source: &Source, dir: &Path, options: &Options, base: &Base, identity: String) -> Result<State> {
    files::remove(dir)?;
    let used = match source {
        Source::Package => from_package(dir, options, base)?,
        Source::Clone { path, commit, version } => from_clone(dir, path, commit, version)?,
        Source::Folder { path, version } => from_folder(dir, path, version)?,
    };
    let repo = Repo::at(dir);
    repo.run(["tag", "--force", BASE_TAG, &used.commit])?;
    repo.run(["update-ref", &format!("refs/heads/{BRANCH}"), &used.commit])?;
    let state = State {
        source: identity,
        branch: used.commit.clone(),
        checked_out: used.commit.clone(),
        used: Some(used),
        ..State::default()
    };
    save_state(dir, &state)?;
    Ok(state)
}

fn from_package(dir: &Path, options: &Options, base: &Base) -> Result<BaseUsed> {
    let package = &base.linux.package;
    let fetched = apt::fetch(&options.out, package, Kind::Binary, &apt::host_arch()?)?;
    let step = Step::start(format!("unpack {} {}", package.name, fetched.version));
    let deb = options.out.join("dl").join(&fetched.main().name);
    let unpacked = options.out.join("dl/unpacked");
    files::remove(&unpacked)?;
    apt::unpack(&deb, &unpacked)?;
    files::create_dir(dir)?;
    let tarball = unpacked.join(&base.linux.tarball);
    let mut tar = Command::new("tar");
    tar.arg("-C").arg(dir).args(["--no-same-owner", "--strip-components=1", "-xf"]).arg(&tarball);
    cmd::output(&mut tar)?;
    files::remove(&unpacked)?;
    step.finish("done");
    let version = kernel_version(dir)?;
    if !version.starts_with(&format!("{}.", base.linux.version)) && version != base.linux.version {
        return Err(Error::could_not(format!(
            "{} {} is Linux {version}, but the patches are for {}; correct base.toml",
            package.name, fetched.version, base.linux.version
        )));
    }
    let from = format!("{} {}", package.name, fetched.version);
    let commit = commit_all(dir, &format!("Linux {version} ({from})\n"))?;
    if fetched.version == package.version && commit != base.linux.commit {
        eprintln!("lazymap: note: the base commit is {commit}, but base.toml says {}", base.linux.commit);
    }
    Ok(BaseUsed { version, source: "package".to_owned(), from, sha256: Some(fetched.main().sha256.clone()), commit })
}

fn from_clone(dir: &Path, path: &Path, commit: &str, version: &str) -> Result<BaseUsed> {
    let step = Step::start(format!("check out {:.12} of {}", commit, path.display()));
    init(dir)?;
    share_objects(dir, path)?;
    let repo = Repo::at(dir);
    repo.run(["checkout", "--quiet", "--detach", commit])?;
    step.finish("done");
    let from = path.display().to_string();
    Ok(BaseUsed {
        version: version.to_owned(),
        source: "ksrc".to_owned(),
        from,
        sha256: None,
        commit: commit.to_owned(),
    })
}

fn from_folder(dir: &Path, path: &Path, version: &str) -> Result<BaseUsed> {
    let step = Step::start(format!("copy {}", path.display()));
    files::create_dir(dir)?;
    let mut copy = Command::new("cp");
    copy.args(["-a", "--no-preserve=ownership", "--reflink=auto"]).arg(path.join(".")).arg(dir);
    cmd::output(&mut copy)?;
    // The copy of a read-only tree must be writable.
    cmd::output(Command::new("chmod").args(["-R", "u+rwX"]).arg(dir))?;
    files::remove(&dir.join(".git"))?;
    if dir.join(".config").exists() || dir.join("include/generated").exists() || dir.join("include/config").exists() {
        step.detail("clean the copy");
        let mut clean = cmd::plain("make");
        clean.arg("-C").arg(dir).args(["ARCH=riscv", "mrproper"]);
        cmd::output(&mut clean)?;
    }
    step.finish("done");
    let commit = commit_all(dir, &format!("Linux {version} (a folder)\n"))?;
    let from = path.display().to_string();
    Ok(BaseUsed { version: version.to_owned(), source: "ksrc".to_owned(), from, sha256: None, commit })
}

fn kernel_version(dir: &Path) -> Result<String> {
    let makefile = fs::read_to_string(dir.join("Makefile")).unwrap_or_default();
    version(&makefile)
        .ok_or_else(|| Error::could_not(format!("{} is not a kernel tree; remove it and run again", dir.display())))
}

/// Commits everything below `dir`, including ignored files: everything in a tarball belongs there.
///
/// The same files give the same commit id on every machine.
fn commit_all(dir: &Path, message: &str) -> Result<String> {
    let step = Step::start(format!("commit {}", message.trim()));
    init(dir)?;
    let repo = Repo::at(dir);
    // Treat every file as big: big files go straight into one pack instead of 90,000 loose objects.
    repo.run(["-c", "core.bigFileThreshold=1", "-c", "core.compression=1", "add", "--all", "--force"])?;
    let files = repo.run(["write-tree"])?;
    let commit = repo.feed(["commit-tree", &files], message.as_bytes())?;
    repo.run(["update-ref", "refs/heads/base", &commit])?;
    step.finish("done");
    Ok(commit)
}
