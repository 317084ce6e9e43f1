// SPDX-License-Identifier: GPL-2.0-only
//! What is made of a console, tested from outside: one program, so that it is linked once.

mod console;
mod ktap;
mod reports;
mod verdict;
