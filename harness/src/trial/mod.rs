// SPDX-License-Identifier: GPL-2.0-only
//! Trials: what is booted, what is expected, what was seen, and the verdict.

pub mod control;
pub mod coverage;
pub mod expect;
pub mod judge;
pub mod met;
pub mod plan;
pub mod report;
pub mod run;
pub mod scenario;
pub mod seen;
pub mod tally;
pub mod verdict;
