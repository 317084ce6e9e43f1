// SPDX-License-Identifier: GPL-2.0-only
//! The tool, tested from outside: one program, so that it is linked once.

mod common;
mod control;
mod demo;
mod download;
mod exhaust;
mod findings;
mod host;
mod hunt;
mod initramfs;
mod judge;
mod ksrc;
mod machine;
mod outputs;
mod patches;
mod pipelines;
mod qemu;
mod reports;
mod rows;
mod scenario;
mod series;
mod tidy;
mod topics;
mod trial;
mod usage;
