// SPDX-License-Identifier: GPL-2.0-only
//! What a user asks of a run besides what is to be run: which part of it, how often, how patiently, and
//! where results go.

use std::path::PathBuf;

use chrono::{DateTime, Utc};

use crate::ground::error::{Error, Result};

/// Everything that was asked.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The command line, with the program's name.
    pub command: Vec<String>,
    /// When the tool was started.
    pub started: DateTime<Utc>,
    /// Where results go besides the folder in `out`.
    pub outputs: Outputs,
    /// Which part to run, and how often.
    pub select: Select,
    /// Stretches limits; `None` to measure how slow the host is.
    pub slow: Option<f64>,
    /// Only what is not as expected is printed.
    pub quiet: bool,
}

impl Default for Asked {
    fn default() -> Self {
        Self {
            command: Vec::new(),
            started: DateTime::UNIX_EPOCH,
            outputs: Outputs::default(),
            select: Select::default(),
            slow: Some(1.0),
            quiet: false,
        }
    }
}

/// Files for other programs to read; see docs/results.md.
#[derive(clap::Args, Clone, Debug, Default, PartialEq, Eq)]
pub struct Outputs {
    /// Writes the results as JUnit XML
    #[arg(long, value_name = "FILE")]
    pub junit: Option<PathBuf>,
    /// Writes the results as TAP, one file for each boot
    #[arg(long, value_name = "DIR")]
    pub tap: Option<PathBuf>,
    /// Writes the results as KCIDB's JSON, for KernelCI's database
    #[arg(long, value_name = "FILE")]
    pub kcidb: Option<PathBuf>,
    /// Writes the results as a page with tables, plots, consoles and reproducers
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

impl Outputs {
    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Checks what can be checked before hours of work.
    ///
    /// # Errors
    /// When a file is a folder or the other way round (exit code 64).
    pub fn check(&self) -> Result<()> {
        for (option, file) in [("--junit", &self.junit), ("--kcidb", &self.kcidb), ("--html", &self.html)] {
            if let Some(path) = file.as_ref().filter(|path| path.is_dir() || path.file_name().is_none()) {
                return Err(Error::usage(format!("{option} {} is a folder; name a file", path.display())));
            }
        }
        match &self.tap {
            Some(path) if path.exists() && !path.is_dir() => {
                Err(Error::usage(format!("--tap {} is not a folder; name one", path.display())))
            }
            _ => Ok(()),
        }
    }
}

/// Which part of what is named, and how often.
#[derive(clap::Args, Clone, Debug, PartialEq, Eq)]
pub struct Select {
    /// Only this test, such as test-ipi.sh or ipi; may be repeated
    #[arg(long, value_name = "NAME")]
    pub test: Vec<String>,
    /// Only the tests that have this case; the case alone where the modules can select it; may be repeated
    #[arg(long, value_name = "NAME")]
    pub case: Vec<String>,
    /// Boots everything N times, and tells what fails sometimes from what always fails
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub repeat: u32,
}

impl Default for Select {
    fn default() -> Self {
        Self { test: Vec::new(), case: Vec::new(), repeat: 1 }
    }
}

/// Reads the value of `--slow` and `LAZYMAP_SLOW`.
///
/// # Errors
/// What is wrong with it.
pub fn slow(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(factor) if (0.1..=100.0).contains(&factor) => Ok(factor),
        _ => Err("give a factor from 0.1 to 100".to_owned()),
    }
}
