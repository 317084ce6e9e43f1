// SPDX-License-Identifier: GPL-2.0-only
//! What a user asks for: one module per verb of the command line.

pub mod bench;
pub mod board;
pub mod bundle;
pub mod check;
pub mod clean;
pub mod controls;
pub mod cost;
pub mod demo;
pub mod distribution;
pub mod exhaust;
pub mod guest_check;
pub mod hunt_check;
pub mod judge;
pub mod litmus;
pub mod machine_cost;
pub mod machine_test;
pub mod mutants;
pub mod quilt;
pub mod results;
pub mod run;
pub mod shell;
pub mod statements;
pub mod torture;
