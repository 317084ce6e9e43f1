// SPDX-License-Identifier: GPL-2.0-only
//! A plugin for QEMU that counts the instructions which a RISC-V kernel executes in its trap entry, in
//! its context switch and in `flush_cache_vmap()`.
//!
//! Arguments, in hexadecimal, as in the kernel's symbol table:
//!
//! | argument | meaning |
//! |---|---|
//! | `entry=START:END` | `handle_exception` |
//! | `switch=START:END` | `__switch_to` |
//! | `announce=START:END` | `flush_cache_vmap()` |
//! | `marks=START:END` | the bitmap whose words are 0 when every hart is marked; optional |
//! | `sends=ADDRESS+…` | functions that send an IPI or call the SBI, which is how a hart disturbs another |
//! | `out=FILE` | where the counts go when QEMU exits |
//!
//! [`count`] knows what to count and how to write it down, [`plugin`] how to get it from QEMU.

#![warn(missing_docs)]
#![deny(unsafe_op_in_unsafe_fn)]

pub mod count;
// A test program is not a plugin: QEMU's functions are not available there.
#[cfg(not(test))]
pub mod plugin;
