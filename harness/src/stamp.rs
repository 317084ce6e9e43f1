// SPDX-License-Identifier: GPL-2.0-only
//! Stamps: small files that say from what something was made, so that it is made only once.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// Collects what something is made from; order matters.
#[derive(Clone, Default)]
pub struct Key(Sha256);

impl Key {
    /// Adds a text under a name; different (name, text) sequences give different keys.
    #[must_use]
    pub fn text(mut self, name: &str, text: impl AsRef<[u8]>) -> Self {
        let text = text.as_ref();
        self.0.update(format!("{name} {} ", text.len()));
        self.0.update(text);
        self
    }

    /// Adds a file's content.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn file(self, path: &Path) -> Result<Self> {
        let bytes = fs::read(path).map_err(|e| Error::io("read", path, e))?;
        Ok(self.text(&path.file_name().unwrap_or_default().to_string_lossy(), bytes))
    }

    /// The key as hexadecimal SHA-256.
    pub fn finish(self) -> String {
        hex(&self.0.finalize())
    }
}

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

/// Whether the stamp at `path` is `key`.
pub fn fresh(path: &Path, key: &str) -> bool {
    fs::read_to_string(path).is_ok_and(|text| text.trim_end() == key)
}

/// Writes a file through a temporary name, so that nobody ever sees half of it.
///
/// # Errors
/// When the folder cannot be made or written.
pub fn write_whole(path: &Path, content: impl AsRef<[u8]>) -> Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(dir).map_err(|e| Error::io("create", dir, e))?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = dir.join(name);
    fs::write(&new, content).map_err(|e| Error::io("write", &new, e))?;
    fs::rename(&new, path).map_err(|e| Error::io("write", path, e))
}

/// Removes a file or a whole folder; that it is not there is no error.
///
/// # Errors
/// When it is there and cannot be removed.
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

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_tell_boundaries_apart() {
        let one = Key::default().text("a", "bc").text("d", "").finish();
        let two = Key::default().text("a", "b").text("cd", "").finish();
        assert_ne!(one, two);
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
