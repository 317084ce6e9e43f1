// SPDX-License-Identifier: GPL-2.0-only
//! Gets kernel trees, packages and toolchains.

pub mod apt;
pub mod given;
pub mod host;
pub mod mailbox;
pub mod tree;
pub mod weave;
