// SPDX-License-Identifier: GPL-2.0-only
//! Reads TOML; errors look the same for every file.

use serde::de::DeserializeOwned;

/// Parses the text of a file; the error is `:LINE: WHY`, to be put after the name of the file.
///
/// # Errors
/// When the text is not TOML, or has unknown or missing fields.
pub fn parse<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    toml::from_str(text).map_err(|e| {
        let line = e.span().map_or(1, |s| text[..s.start.min(text.len())].matches('\n').count() + 1);
        format!(":{line}: {}", e.message().lines().next().unwrap_or("not valid"))
    })
}
