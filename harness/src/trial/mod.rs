// SPDX-License-Identifier: GPL-2.0-only
//! Trials: what is booted, what is expected, what was seen, and the verdict.

pub mod control;
pub mod coverage;
pub mod expect;
pub mod judge;
pub mod kunit;
pub mod met;
pub mod mutants;
pub mod outputs;
pub mod plan;
pub mod record;
pub mod report;
pub mod results_spec;
pub mod retry;
pub mod run;
pub mod scenario;
pub mod seen;
pub mod select;
pub mod tally;
pub mod verdict;
