// SPDX-License-Identifier: GPL-2.0-only
//! Keys: hashes of what something is made from, so that it is made only once.

use std::fs;
use std::path::Path;

use sha2::{Digest, Sha256};

use super::error::{Error, Result};

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

/// Whether the stamp at `path` is `key`.
pub fn fresh(path: &Path, key: &str) -> bool {
    fs::read_to_string(path).is_ok_and(|text| text.trim_end() == key)
}

/// SHA-256 of a text, in hexadecimal.
pub fn sha256(text: impl AsRef<[u8]>) -> String {
    hex(&Sha256::digest(text))
}

pub fn hex(bytes: &[u8]) -> String {
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
}
