// SPDX-License-Identifier: GPL-2.0-only
//! A plugin for QEMU that counts the instructions which a RISC-V kernel executes in its trap entry, in
//! its context switch and in `flush_cache_vmap()`.
//!
//! Arguments, in hexadecimal, as they are in the kernel's symbol table:
//!
//! | argument | meaning |
//! |---|---|
//! | `entry=START:END` | `handle_exception` |
//! | `switch=START:END` | `__switch_to` |
//! | `announce=START:END` | `flush_cache_vmap()` |
//! | `marks=START:END` | the bitmap whose words are 0 when nothing is left to be announced; may be left out |
//! | `sends=ADDRESS+…` | functions that send an IPI or call the SBI, which is how a hart disturbs another |
//! | `out=FILE` | where the counts go when QEMU ends |
//!
//! [`count`] knows what is counted and how it is written down, [`plugin`] how QEMU tells of it.

#![warn(missing_docs)]
#![deny(unsafe_op_in_unsafe_fn)]

pub mod count;
// A test program is no plugin: nobody has the functions that QEMU gives to one.
#[cfg(not(test))]
pub mod plugin;
