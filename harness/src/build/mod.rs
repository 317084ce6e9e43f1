// SPDX-License-Identifier: GPL-2.0-only
//! Builds kernels, their tests and the machine.

pub mod kernel;
pub mod kunit;
pub mod qemu;
pub mod workbench;
