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
//!
//! With `phases=on` it counts instead what harts do in each phase that the guest tells apart:
//! instructions, fences, spurious faults, announcements of new mappings, interrupts of other harts, new
//! and migrated tasks. Other arguments are needed then:
//!
//! | argument | meaning |
//! |---|---|
//! | `entry=START:END` | `handle_exception` |
//! | `announce=ADDRESS` | `flush_cache_vmap()` |
//! | `send=ADDRESS` | a function that sends an IPI to one hart without the SBI |
//! | `sbi=ADDRESS` | the function that calls the SBI |
//! | `new-task=ADDRESS` | a function that is called for each task that starts |
//! | `migrate=ADDRESS` | a function that is called for each task that moves to another hart |
//! | `out=FILE` | where the counts go when QEMU exits |
//!
//! [`phases`] knows what a phase is, [`phases_plugin`] how to get the counts from QEMU.

#![warn(missing_docs)]
#![deny(unsafe_op_in_unsafe_fn)]

pub mod count;
pub mod phases;
// A test program is not a plugin: QEMU's functions are not available there.
#[cfg(not(test))]
pub mod phases_plugin;
#[cfg(not(test))]
pub mod plugin;
