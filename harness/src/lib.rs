// SPDX-License-Identifier: GPL-2.0-only
//! Boots a RISC-V kernel on a machine that caches invalid translations, and tells whether it copes.
//!
//! The modules are layered: a module imports only from its own layer and those below it, which
//! `tests/it/tidy.rs` checks. From the top: [`cli`] parses the command line, [`verbs`] does what was
//! asked for, [`exhaust`] interprets the exception entry, [`hunt`] explains each fault, [`series`]
//! writes and checks the mails, [`trial`] boots and judges, [`build`] builds kernels and the machine,
//! [`source`] gets trees, packages and toolchains, [`options`] says where things lie, [`boot`] runs
//! QEMU, and [`ground`] has what everything else is built on. What a guest prints is read by a crate
//! of its own, [`lazymap_console`].

#![deny(unsafe_code)]

pub mod boot;
pub mod build;
pub mod cli;
pub mod exhaust;
pub mod ground;
pub mod hunt;
pub mod options;
pub mod series;
pub mod source;
pub mod trial;
pub mod verbs;
