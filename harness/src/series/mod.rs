// SPDX-License-Identifier: GPL-2.0-only
//! The patch series as mails: written, checked, built one by one.

pub mod bots;
pub mod check;
pub mod each;
pub mod rules;
pub mod statements;
pub mod topics;
pub mod upstream;
pub mod write;
