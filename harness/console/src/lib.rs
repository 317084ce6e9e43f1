// SPDX-License-Identifier: GPL-2.0-only
//! Reads what a guest prints: text in, facts out.

pub mod end;
pub mod ktap;
pub mod log;
pub mod prefix;
pub mod printk;
pub mod reports;
