// SPDX-License-Identifier: GPL-2.0-only
//! Starts QEMU, and makes sure that it exits.

pub mod drive;
pub mod efi;
pub mod initramfs;
pub mod kernel_file;
pub mod machine;
pub mod models;
pub mod next;
pub mod program;
pub mod reproduce;
