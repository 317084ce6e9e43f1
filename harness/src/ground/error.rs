// SPDX-License-Identifier: GPL-2.0-only
//! The one error type: a line for the user and the exit code it leads to.

use std::fmt;

/// What the process tells its caller; see "Exit codes" in the README.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Everything that ran gave the expected result.
    Pass = 0,
    /// A test failed.
    Failed = 1,
    /// Something could not be downloaded, patched, built or booted.
    CouldNot = 2,
    /// Nothing failed, but everything was skipped.
    Skipped = 4,
    /// The command line is wrong.
    Usage = 64,
}

/// A failure as the user reads it: one line that names the thing and what to do about it.
#[derive(Debug)]
pub struct Error {
    /// The exit code of the process if nobody handles the error.
    pub exit: Exit,
    /// `WHAT, WHERE; WHAT TO DO`, without the program's name.
    pub message: String,
}

/// `Result<T, String>` carries the reason alone; its caller adds what and where.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Something that the tool needs is missing or failed (exit code 2).
    pub fn could_not(message: impl Into<String>) -> Self {
        Self { exit: Exit::CouldNot, message: message.into() }
    }

    /// The command line or an environment variable is wrong (exit code 64).
    pub fn usage(message: impl Into<String>) -> Self {
        Self { exit: Exit::Usage, message: message.into() }
    }

    /// Reading or writing `path` failed (exit code 2).
    pub fn io(doing: &str, path: &std::path::Path, error: std::io::Error) -> Self {
        Self::could_not(format!("cannot {doing} {}: {error}", path.display()))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}
