// SPDX-License-Identifier: GPL-2.0-only
//! Boots a RISC-V kernel on a machine that caches invalid translations, and tells whether it copes.
//!
//! One module per concern; [`cli`] is the entry point, [`workbench`] produces everything that a
//! boot needs, [`trial`] boots and judges, [`demo`], [`scenario`] and [`control`] say what,
//! [`hunt`] tells the whole story of each fault.

#![deny(unsafe_code)]
#![warn(missing_docs)]

pub mod apt;
pub mod base;
pub mod check;
pub mod cli;
pub mod cmd;
pub mod console;
pub mod control;
pub mod cost;
pub mod demo;
pub mod error;
pub mod git;
pub mod host;
pub mod hunt;
pub mod initramfs;
pub mod kernel;
pub mod ktap;
pub mod litmus;
pub mod lock;
pub mod machine;
pub mod models;
pub mod progress;
pub mod qemu;
pub mod scenario;
pub mod series;
pub mod stamp;
pub mod tally;
pub mod tree;
pub mod trial;
pub mod workbench;
