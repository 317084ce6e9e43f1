// SPDX-License-Identifier: GPL-2.0-only
//! git, run so that its result depends on neither the machine's nor the user's configuration.

use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::ground::cmd;
use crate::ground::error::{Error, Result};
use crate::ground::files;

/// Identity of the commits that the tool makes; patches keep their own authors.
pub const NAME: &str = "lazymap";
pub const EMAIL: &str = "lazymap@localhost";
/// Date of the commits that the tool makes: fixed, so that the same content gives the same id.
const DATE: &str = "2026-01-01T00:00:00Z";

/// Settings that decide what git prints or does and must not vary between machines. Any directory is
/// safe: the user chose the tree, and it may belong to somebody else (a container's mount).
const SETTINGS: [&str; 12] = [
    "safe.directory=*",
    "core.abbrev=12",
    "core.autocrlf=false",
    "core.fsmonitor=false",
    "core.hooksPath=/dev/null",
    "core.quotePath=false",
    "commit.gpgSign=false",
    "gc.auto=0",
    "maintenance.auto=false",
    "advice.detachedHead=false",
    "diff.algorithm=myers",
    "diff.renames=true",
];

/// A git repository, or a folder in which git is to run.
#[derive(Clone, Debug)]
pub struct Repo {
    dir: PathBuf,
    env: Vec<(OsString, OsString)>,
}

impl Repo {
    /// The repository with the work tree `dir`; checks nothing.
    pub fn at(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), env: Vec::new() }
    }

    /// Folder in which git runs.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The same with a variable, such as `GIT_INDEX_FILE`, set for every command.
    #[must_use]
    pub fn with(&self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        let mut copy = self.clone();
        copy.env.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        copy
    }

    /// `git ARGS`, ready to run.
    pub fn command<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Command {
        let mut command = Command::new("git");
        for (name, _) in std::env::vars_os() {
            if name.as_encoded_bytes().starts_with(b"GIT_") {
                command.env_remove(name);
            }
        }
        command.env("LC_ALL", "C").env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_GLOBAL", "/dev/null");
        for who in ["AUTHOR", "COMMITTER"] {
            command.env(format!("GIT_{who}_NAME"), NAME);
            command.env(format!("GIT_{who}_EMAIL"), EMAIL);
            command.env(format!("GIT_{who}_DATE"), DATE);
        }
        command.envs(self.env.iter().map(|(k, v)| (k, v))).current_dir(&self.dir);
        for setting in SETTINGS {
            command.arg("-c").arg(setting);
        }
        command.args(args).stdin(Stdio::null());
        cmd::ends_with_us(&mut command);
        command
    }

    /// Runs git and returns what it printed, without the final newline.
    ///
    /// # Errors
    /// When git fails; the message has git's own last line.
    pub fn run<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Result<String> {
        let args: Vec<A> = args.into_iter().collect();
        let verb = args.first().map(|a| a.as_ref().to_string_lossy().into_owned()).unwrap_or_default();
        let done = self.command(args).output().map_err(|e| cannot_run(&e))?;
        self.text(&verb, &done)
    }

    /// As [`Repo::run`] with `input` on stdin.
    ///
    /// # Errors
    /// As [`Repo::run`].
    pub fn feed<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>, input: &[u8]) -> Result<String> {
        let args: Vec<A> = args.into_iter().collect();
        let verb = args.first().map(|a| a.as_ref().to_string_lossy().into_owned()).unwrap_or_default();
        let mut child = self
            .command(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| cannot_run(&e))?;
        let stdin = child.stdin.take();
        // A thread feeds git, which may fill the output pipe before it has read all its input.
        let done = std::thread::scope(|scope| {
            scope.spawn(move || stdin.map(|mut s| s.write_all(input)));
            child.wait_with_output()
        })
        .map_err(|e| cannot_run(&e))?;
        self.text(&verb, &done)
    }

    /// Runs git and returns its status and output, for callers that expect it to fail at times.
    ///
    /// # Errors
    /// Only when git cannot be started.
    pub fn attempt<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Result<Output> {
        self.command(args).output().map_err(|e| cannot_run(&e))
    }

    /// The bytes of an object, such as `COMMIT:PATH`.
    ///
    /// # Errors
    /// When the object does not exist.
    pub fn object(&self, kind: &str, name: &str) -> Result<Vec<u8>> {
        let done = self.attempt(["cat-file", kind, name])?;
        if !done.status.success() {
            return Err(self.failed("cat-file", &done));
        }
        Ok(done.stdout)
    }

    /// The id that `name` stands for, if it exists.
    ///
    /// # Errors
    /// Only when git cannot be started.
    pub fn find(&self, name: &str) -> Result<Option<String>> {
        let done = self.attempt(["rev-parse", "--verify", "--quiet", "--end-of-options", name])?;
        let id = String::from_utf8_lossy(&done.stdout).trim().to_owned();
        Ok((done.status.success() && !id.is_empty()).then_some(id))
    }

    fn text(&self, verb: &str, done: &Output) -> Result<String> {
        if !done.status.success() {
            return Err(self.failed(verb, done));
        }
        Ok(String::from_utf8_lossy(&done.stdout).trim_end_matches('\n').to_owned())
    }

    fn failed(&self, verb: &str, done: &Output) -> Error {
        let stderr = String::from_utf8_lossy(&done.stderr);
        // The first line that says why; the lines after it are hints.
        let why = stderr
            .lines()
            .find(|l| l.starts_with("fatal:") || l.starts_with("error:"))
            .or_else(|| stderr.lines().rfind(|l| !l.trim().is_empty()))
            .unwrap_or("no message");
        Error::could_not(format!("`git {verb}` failed in {}: {why}", self.dir.display()))
    }
}

fn cannot_run(error: &std::io::Error) -> Error {
    Error::could_not(format!("cannot run git: {error}; install it (`apt-get install git`)"))
}

/// Makes a repository in the folder `dir`, with the branch `base`.
///
/// # Errors
/// When git or the disk fails.
pub fn init(dir: &Path) -> Result<()> {
    files::create_dir(dir)?;
    Repo::at(dir).run(["init", "--quiet", "--template=", "-b", "base"]).map(drop)
}
