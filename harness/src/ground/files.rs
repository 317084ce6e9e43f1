// SPDX-License-Identifier: GPL-2.0-only
//! Files and folders: errors name them, and files are written whole or not at all.

use std::borrow::Cow;
use std::fs::{self, File, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde::Serialize;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::error::{Error, Result};
use super::key::hex;

/// SHA-256 of a file of any size, in hexadecimal.
///
/// # Errors
/// When it cannot be read.
pub fn sha256_file(path: &Path) -> Result<String> {
    let mut file = File::open(path).map_err(|e| Error::io("read", path, e))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hex(&hash.finalize())),
            Ok(n) => hash.update(&buffer[..n]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(Error::io("read", path, e)),
        }
    }
}

/// The bytes of a file.
///
/// # Errors
/// When it cannot be read.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|e| Error::io("read", path, e))
}

/// The text of a file.
///
/// # Errors
/// When it cannot be read, or is not UTF-8.
pub fn read_text(path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(|e| Error::io("read", path, e))
}

/// The last part of a path, for messages and for files that are recognized by their names; empty if there is none.
pub fn name(path: &Path) -> Cow<'_, str> {
    path.file_name().unwrap_or_default().to_string_lossy()
}

/// Makes a folder and those above it; it may exist.
///
/// # Errors
/// When it cannot be made.
pub fn create_dir(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(|e| Error::io("create", path, e))
}

/// The text of a file of any encoding: what is not UTF-8 is replaced.
///
/// # Errors
/// When it cannot be read.
pub fn read_lossy(path: &Path) -> Result<String> {
    Ok(String::from_utf8_lossy(&read(path)?).into_owned())
}

/// The paths of what is in a folder, in order of their names.
///
/// # Errors
/// When it cannot be read to its end.
pub fn list(folder: &Path) -> Result<Vec<PathBuf>> {
    listed(folder).map_err(|e| Error::io("read", folder, e))
}

/// As [`list`]; a folder that does not exist has nothing in it.
///
/// # Errors
/// When it exists and cannot be read to its end.
pub fn list_if_there(folder: &Path) -> Result<Vec<PathBuf>> {
    match listed(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        all => all.map_err(|e| Error::io("read", folder, e)),
    }
}

fn listed(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder)?.map(|entry| entry.map(|e| e.path()));
    let mut paths = entries.collect::<io::Result<Vec<PathBuf>>>()?;
    paths.sort();
    Ok(paths)
}

/// Writes a file through a temporary name, so that nobody ever reads half of it.
///
/// # Errors
/// When the folder cannot be made or written.
pub fn write_whole(path: &Path, content: impl AsRef<[u8]>) -> Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    create_dir(dir)?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = dir.join(name);
    fs::write(&new, content).map_err(|e| Error::io("write", &new, e))?;
    fs::rename(&new, path).map_err(|e| Error::io("write", path, e))
}

/// Writes `value` as JSON for people as well as programs, as [`write_whole`] does.
///
/// # Errors
/// When it has no form in JSON, or the file cannot be written.
pub fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let json = serde_json::to_string_pretty(value).map_err(|e| Error::could_not(e.to_string()))?;
    write_whole(path, json + "\n")
}

/// Removes a file or a whole folder; it need not exist.
///
/// # Errors
/// When it exists and cannot be removed.
pub fn remove(path: &Path) -> Result<()> {
    let gone = match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(e) => Err(e),
    };
    match gone {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", path, e)),
        _ => Ok(()),
    }
}

/// Makes a file a program that everybody may run and only its owner may change (mode 755).
///
/// # Errors
/// When its mode cannot be changed.
pub fn make_executable(path: &Path) -> Result<()> {
    fs::set_permissions(path, Permissions::from_mode(0o755)).map_err(|e| Error::io("change", path, e))
}

/// A folder for temporary files; dropping it removes it with everything in it.
///
/// # Errors
/// When it cannot be made.
pub fn scratch() -> Result<TempDir> {
    tempfile::tempdir().map_err(|e| Error::could_not(format!("no temporary folder: {e}")))
}

/// The text of `page` with `part` in place of what is between the lines `begin` and `end`.
///
/// # Errors
/// When it lacks one of them.
pub fn with_part(page: &str, text: &str, begin: &str, end: &str, part: &str) -> Result<String> {
    let parts = text.split_once(begin).and_then(|(before, rest)| Some((before, rest.split_once(end)?.1)));
    let (before, after) = parts.ok_or_else(|| {
        let (begin, end) = (begin.trim(), end.trim());
        Error::could_not(format!("{page} has no place for the table; put back `{begin}` and `{end}`"))
    })?;
    Ok(format!("{before}{begin}\n{part}\n{end}{after}"))
}

/// Copies a file with its mode; replaces `to` if there is one.
///
/// # Errors
/// When `from` cannot be read, or `to` cannot be written; either way the message names `from`.
pub fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).map(drop).map_err(|e| Error::io("copy", from, e))
}

/// Copies a folder with everything in it.
///
/// # Errors
/// When something cannot be read or written.
pub fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    create_dir(to)?;
    for source in list(from)? {
        let target = to.join(source.file_name().unwrap_or_default());
        if source.is_dir() {
            copy_tree(&source, &target)?;
        } else {
            copy(&source, &target)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ground::key::fresh;

    #[test]
    fn a_part_of_a_page() {
        let with = |text: &str| with_part("page.md", text, "<b>\n", "<e>\n", "new");
        assert_eq!(with("a\n<b>\nold\n<e>\nc\n").unwrap(), "a\n<b>\n\nnew\n<e>\nc\n");
        let message = "page.md has no place for the table; put back `<b>` and `<e>`";
        for text in ["a\n<b>\n", "<e>\n<b>\n"] {
            assert_eq!(with(text).unwrap_err().message, message);
        }
    }

    #[test]
    fn a_text_may_have_any_encoding() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        write_whole(&path, b"+caf\xe9\n").unwrap();
        assert_eq!(read_lossy(&path).unwrap(), "+caf\u{fffd}\n");
        assert!(read_text(&path).is_err());
    }

    #[test]
    fn a_folder_is_listed_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for name in ["b", "a/inside", "c", ".d"] {
            write_whole(&at(name), "").unwrap();
        }
        assert_eq!(list(dir.path()).unwrap(), [".d", "a", "b", "c"].map(at));
        assert_eq!(list_if_there(&at("none")).unwrap(), Vec::<PathBuf>::new());
        assert!(list_if_there(&at("b")).is_err());
        let message = list(&at("none")).unwrap_err().message;
        assert!(message.starts_with(&format!("cannot read {}: ", at("none").display())), "{message}");
    }

    #[test]
    fn sha256_of_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        write_whole(&path, "abc").unwrap();
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sha256_file(&path).unwrap(), abc);
        assert!(fresh(&path, "abc") && !fresh(&path, "abd"));
        remove(&path).unwrap();
        remove(&path).unwrap();
    }
}
