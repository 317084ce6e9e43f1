// SPDX-License-Identifier: GPL-2.0-only
//! Counts phases in QEMU.
//!
//! There is a callback for each block of guest code, which counts its instructions, and one for each
//! instruction that matters.
//!
//! With icount QEMU 10.0 tells a callback the hart for which the block was translated, not the one that
//! executes it (gen_cpu_index() in accel/tcg/plugin-gen.c), and its scoreboards go by the same number. So
//! a callback of something rare reads `mhartid`, and instructions are counted for all harts together.

use std::ffi::{CStr, c_uint, c_void};
use std::fs;
use std::ptr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, OnceLock, PoisonError};

use crate::phases::{self, Arguments, Counter, Kind, NAMES, Now, Phases};
use crate::plugin::{
    Handles, NO_REGISTERS, OnHart, Opaque, READ_REGISTERS, die, qemu_plugin_insn_data, qemu_plugin_insn_vaddr,
    qemu_plugin_register_atexit_cb, qemu_plugin_register_vcpu_init_cb, qemu_plugin_register_vcpu_insn_exec_cb,
    qemu_plugin_register_vcpu_tb_exec_cb, qemu_plugin_register_vcpu_tb_trans_cb, qemu_plugin_tb_get_insn,
    qemu_plugin_tb_n_insns,
};

/// As many harts as QEMU's `virt` machine can have.
const HARTS: usize = 512;

/// Where the SBI's arguments and the hart's number are.
const REGISTERS: [&CStr; 4] = [c"a0", c"a1", c"a7", c"mhartid"];

/// Instructions of all harts.
static INSTRUCTIONS: AtomicU64 = AtomicU64::new(0);
/// What each hart has done.
static COUNTS: [[AtomicU64; NAMES.len()]; HARTS] = [const { [const { AtomicU64::new(0) }; NAMES.len()] }; HARTS];
/// Number of harts.
static STARTED: AtomicUsize = AtomicUsize::new(0);
static PHASES: Mutex<Option<Phases>> = Mutex::new(None);
static ARGUMENTS: OnceLock<Arguments> = OnceLock::new();
static HANDLES: OnceLock<Handles<{ REGISTERS.len() }>> = OnceLock::new();

fn arguments() -> &'static Arguments {
    ARGUMENTS.get().unwrap_or_else(|| die("a callback before the plugin was installed"))
}

fn register(at: usize) -> u64 {
    HANDLES.get().unwrap_or_else(|| die("no registers")).read(at)
}

/// Adds to a [`Counter`], by its number, of the hart that executes this callback.
fn add(counter: usize, amount: u64) {
    let counts = usize::try_from(register(3)).ok().and_then(|hart| COUNTS.get(hart));
    let Some(counts) = counts else { die("a hart has a number that is too high") };
    counts[counter].fetch_add(amount, Relaxed);
}

/// What was counted so far.
fn now() -> Now {
    let harts = &COUNTS[..STARTED.load(Relaxed).min(HARTS)];
    let harts = harts.iter().map(|counts| std::array::from_fn(|at| counts[at].load(Relaxed))).collect();
    Now { instructions: INSTRUCTIONS.load(Relaxed), harts }
}

fn with_phases<T>(work: impl FnOnce(&mut Phases) -> T) -> T {
    work(PHASES.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_default())
}

/// A number as a callback's argument.
fn data(number: usize) -> *mut c_void {
    ptr::without_provenance_mut(number)
}

extern "C" fn on_init(_id: u64, hart: c_uint) {
    HANDLES.get_or_init(|| Handles::find(REGISTERS));
    STARTED.fetch_max(hart as usize + 1, Relaxed);
}

extern "C" fn on_block(_hart: c_uint, instructions: *mut c_void) {
    INSTRUCTIONS.fetch_add(instructions.addr() as u64, Relaxed);
}

extern "C" fn on_mark(_hart: c_uint, number: *mut c_void) {
    with_phases(|phases| phases.mark(number.addr() as u32, now()));
}

/// One more of the [`Counter`] whose number is the argument.
extern "C" fn on_count(_hart: c_uint, counter: *mut c_void) {
    add(counter.addr(), 1);
}

extern "C" fn on_sbi(_hart: c_uint, _: *mut c_void) {
    let others = STARTED.load(Relaxed) as u64 - 1;
    if let Some((counter, harts)) = phases::sbi(register(0), register(1), register(2), others) {
        add(counter as usize, harts);
    }
}

extern "C" fn on_translation(_id: u64, block: *mut Opaque) {
    let arguments = arguments();
    let functions: [(u64, OnHart, usize); 5] = [
        (arguments.announce, on_count, Counter::Announcements as usize),
        (arguments.send, on_count, Counter::Ipis as usize),
        (arguments.sbi, on_sbi, 0),
        (arguments.new_task, on_count, Counter::NewTasks as usize),
        (arguments.migrate, on_count, Counter::Migrations as usize),
    ];
    // SAFETY: `block` is good during this callback, and so are its instructions. The callback has the
    // type that QEMU wants.
    let length = unsafe {
        let length = qemu_plugin_tb_n_insns(block);
        qemu_plugin_register_vcpu_tb_exec_cb(block, on_block, NO_REGISTERS, data(length));
        length
    };
    for index in 0..length {
        // SAFETY: As above, and there are `length` instructions.
        let instruction = unsafe { qemu_plugin_tb_get_insn(block, index) };
        // SAFETY: As above.
        let address = unsafe { qemu_plugin_insn_vaddr(instruction) };
        let call = |callback: OnHart, number: usize| {
            // SAFETY: As above.
            unsafe { qemu_plugin_register_vcpu_insn_exec_cb(instruction, callback, READ_REGISTERS, data(number)) };
        };
        for (function, callback, number) in functions {
            if function == address {
                call(callback, number);
            }
        }
        let mut code = [0; 4];
        // SAFETY: As above, and that much room is there.
        let read = unsafe { qemu_plugin_insn_data(instruction, code.as_mut_ptr().cast(), code.len()) };
        match phases::kind(u32::from_le_bytes(code)) {
            // A shorter one is none of those.
            _ if read < code.len() => {}
            Kind::Fence => call(on_count, Counter::Fences as usize),
            Kind::Sret if arguments.entry.contains(&address) => call(on_count, Counter::Absorbed as usize),
            Kind::Mark(number) => call(on_mark, number as usize),
            Kind::Sret | Kind::Other => {}
        }
    }
}

extern "C" fn on_exit(_id: u64, _: *mut c_void) {
    let out = &arguments().out;
    if let Err(error) = fs::write(out, with_phases(|phases| phases.text(&now()))) {
        die(&format!("cannot write {out}: {error}"));
    }
}

/// Starts to count, with these arguments; returns what QEMU wants of an installation.
pub(crate) fn install<'a>(id: u64, words: impl IntoIterator<Item = &'a str>) -> i32 {
    let arguments = match Arguments::parse(words) {
        Ok(arguments) => arguments,
        Err(why) => {
            eprintln!("lazymap-cost: {why}");
            return 1;
        }
    };
    if ARGUMENTS.set(arguments).is_err() {
        eprintln!("lazymap-cost: it is there already");
        return 1;
    }
    // SAFETY: The callbacks have the types that QEMU wants, and are there as long as the plugin is.
    unsafe {
        qemu_plugin_register_vcpu_init_cb(id, on_init);
        qemu_plugin_register_vcpu_tb_trans_cb(id, on_translation);
        qemu_plugin_register_atexit_cb(id, on_exit, ptr::null_mut());
    }
    0
}
