// SPDX-License-Identifier: GPL-2.0-only
//! What everything else is built on: errors, files, processes, git.

pub mod batch;
pub mod cargo;
pub mod cmd;
pub mod error;
pub mod files;
pub mod git;
pub mod html;
pub mod key;
pub mod lock;
pub mod nearest;
pub mod pace;
pub mod progress;
pub mod shard;
pub mod table;
pub mod toml_file;
