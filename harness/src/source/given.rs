// SPDX-License-Identifier: GPL-2.0-only
//! A kernel tree that the user names with `KSRC`: read, never written.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::ground::error::{Error, Result};
use crate::ground::files;
use crate::ground::git::Repo;
use crate::ground::key::Key;
use crate::options::Options;
use crate::options::base::Base;

/// Where the kernel comes from, checked as far as possible without writing anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The distribution's package.
    Package,
    /// A git clone with this HEAD.
    Clone {
        /// The user's tree.
        path: PathBuf,
        /// Its HEAD commit.
        commit: String,
        /// Its `VERSION.PATCHLEVEL.SUBLEVEL`.
        version: String,
    },
    /// An unpacked tarball.
    Folder {
        /// The user's tree.
        path: PathBuf,
        /// Its `VERSION.PATCHLEVEL.SUBLEVEL`.
        version: String,
    },
}

impl Source {
    /// Looks at `KSRC`.
    ///
    /// # Errors
    /// When the user's tree is missing, unreadable, not a kernel tree, of another version, or has
    /// uncommitted changes.
    pub fn find(options: &Options) -> Result<Self> {
        let Some(path) = &options.ksrc else { return Ok(Self::Package) };
        let show = path.display();
        match fs::read_dir(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(Error::usage(format!("KSRC={show} does not exist; give the top of a kernel tree")));
            }
            Err(e) if e.kind() == io::ErrorKind::NotADirectory => {
                return Err(Error::usage(format!(
                    "KSRC={show} is not a folder; unpack it and give the top of the tree"
                )));
            }
            Err(e) => {
                return Err(Error::could_not(format!(
                    "KSRC={show} cannot be read: {e}; give a tree that you may read"
                )));
            }
            Ok(_) => {}
        }
        let makefile = match fs::read(path.join("Makefile")) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                return Err(Error::could_not(format!(
                    "KSRC={show}: Makefile cannot be read: {e}; give a tree that you may read"
                )));
            }
            Err(_) => String::new(),
        };
        let wanted = &options.base.linux.version;
        let Some(version) = version(&makefile).filter(|_| path.join("arch/riscv").is_dir()) else {
            return Err(Error::usage(format!(
                "KSRC={show} is not a kernel tree (no Makefile with VERSION and PATCHLEVEL, or no arch/riscv); give the \
                 top of a Linux {wanted} tree"
            )));
        };
        if version != *wanted && !version.starts_with(&format!("{wanted}.")) {
            return Err(Error::could_not(format!(
                "KSRC={show} is Linux {version}, but the patches are for {wanted}; check out {wanted}.y there"
            )));
        }
        let path = path.clone();
        let repo = Repo::at(&path);
        let top = repo.attempt(["rev-parse", "--show-toplevel"])?;
        let top = PathBuf::from(String::from_utf8_lossy(&top.stdout).trim());
        let here = fs::canonicalize(&path).map_err(|e| Error::io("read", &path, e))?;
        // A tarball unpacked inside some other repository is not that repository.
        if fs::canonicalize(top).ok() != Some(here) {
            return Ok(Self::Folder { path, version });
        }
        let Some(commit) = repo.find("HEAD^{commit}")? else {
            return Err(Error::could_not(format!("KSRC={show} is a git repository without commits; commit its files")));
        };
        // Do not even refresh the index, so that a read-only tree works.
        let changes = repo.with("GIT_OPTIONAL_LOCKS", "0").run(["status", "--porcelain", "--untracked-files=no"])?;
        if let Some(first) = changes.lines().next() {
            let file = first.get(3..).unwrap_or(first);
            return Err(Error::could_not(format!(
                "KSRC={show} has changes that are not committed ({file}{}); only commits are tested: commit or stash them",
                if changes.lines().count() > 1 { " and others" } else { "" }
            )));
        }
        Ok(Self::Clone { path, commit, version })
    }

    /// Folder of the tree that is made from this, below `out`.
    pub fn folder(&self, out: &Path, base: &Base) -> PathBuf {
        match self {
            Self::Package => out.join(format!("linux-{}", base.linux.version)),
            _ => out.join("linux-ksrc"),
        }
    }

    /// Changes whenever the base must be made again.
    pub fn identity(&self, base: &Base) -> Result<String> {
        Ok(match self {
            // What was unpacked stays until base.toml changes: `make distclean` makes room for a newer
            // point release.
            Self::Package => format!("package {} {}", base.linux.package.name, base.linux.package.version),
            Self::Clone { path, commit, .. } => format!("clone {} {commit}", path.display()),
            Self::Folder { path, .. } => format!("folder {} {}", path.display(), listing(path)?),
        })
    }
}

/// `7.3.4` from the head of a kernel's top Makefile.
pub fn version(makefile: &str) -> Option<String> {
    let value = |name: &str| {
        let line = makefile.lines().take(40).find_map(|l| l.strip_prefix(name)?.trim_start().strip_prefix('='))?;
        line.trim().parse::<u32>().ok()
    };
    let (version, level) = (value("VERSION")?, value("PATCHLEVEL")?);
    Some(match value("SUBLEVEL") {
        Some(sub) if sub > 0 => format!("{version}.{level}.{sub}"),
        _ => format!("{version}.{level}"),
    })
}

/// Names, sizes and times of all files below `top`, as one hash.
///
/// # Errors
/// When a folder cannot be read.
pub fn listing(top: &Path) -> Result<String> {
    let mut key = Key::default();
    let mut folders = vec![top.to_owned()];
    while let Some(dir) = folders.pop() {
        for path in files::list(&dir)? {
            let meta = fs::symlink_metadata(&path).map_err(|e| Error::io("read", &path, e))?;
            key = key.text("path", path.as_os_str().as_encoded_bytes());
            if meta.is_dir() {
                folders.push(path);
            } else {
                key =
                    key.text("file", format!("{} {} {} {}", meta.size(), meta.mtime(), meta.mtime_nsec(), meta.mode()));
            }
        }
    }
    Ok(key.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_makefiles() {
        let head = "# SPDX-License-Identifier: GPL-2.0\nVERSION = 7\nPATCHLEVEL = 3\nSUBLEVEL = 4\nEXTRAVERSION =\n";
        assert_eq!(version(head), Some("7.3.4".into()));
        assert_eq!(version("VERSION = 7\nPATCHLEVEL = 3\nSUBLEVEL = 0\n"), Some("7.3".into()));
        assert_eq!(version("all:\n\techo\n"), None);
    }
}
