// SPDX-License-Identifier: GPL-2.0-only
//! The part of version 4 of QEMU's plugin interface (QEMU 9.2 to 10.0,
//! `include/qemu/qemu-plugin.h`) that is needed here.
//!
//! QEMU reports each translation of a block of guest code. Then the instructions that matter get a
//! callback, with their address as its argument; and each block gets one for a hart that is in the middle
//! of something, which shows where the hart goes.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::fs;
use std::ptr;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use crate::count::{Arguments, Counts, Hart};

/// `sret`, little-endian.
const SRET: [u8; 4] = 0x1020_0073_u32.to_le_bytes();

/// The word that asks for the counts of phases, see [`crate::phases_plugin`].
const PHASES: &str = "phases=on";

/// The version of QEMU's interface that this was written for; QEMU checks it.
#[unsafe(no_mangle)]
#[allow(non_upper_case_globals)]
pub static qemu_plugin_version: c_int = 4;

/// An opaque type of QEMU's.
#[repr(C)]
pub(crate) struct Opaque([u8; 0]);

/// GLib's arrays, of any type.
#[repr(C)]
struct Array {
    data: *mut u8,
    len: c_uint,
}

/// `qemu_plugin_u64`.
#[repr(C)]
#[derive(Clone, Copy)]
struct PerHart {
    score: *mut Opaque,
    offset: usize,
}

// SAFETY: The pointer is only ever handed back to QEMU, from whatever thread.
unsafe impl Send for PerHart {}
// SAFETY: As for `Send`.
unsafe impl Sync for PerHart {}

/// `qemu_plugin_reg_descriptor`.
#[repr(C)]
struct Register {
    handle: *mut Opaque,
    name: *const c_char,
    feature: *const c_char,
}

/// The start of `qemu_info_t`.
#[repr(C)]
pub struct Info {
    target_name: *const c_char,
}

pub(crate) const NO_REGISTERS: c_int = 0;
pub(crate) const READ_REGISTERS: c_int = 1;
const NOT_EQUAL: c_int = 3;
const WRITES: c_int = 2;

pub(crate) type OnHart = extern "C" fn(c_uint, *mut c_void);

unsafe extern "C" {
    pub(crate) fn qemu_plugin_register_vcpu_init_cb(id: u64, callback: extern "C" fn(u64, c_uint));
    pub(crate) fn qemu_plugin_register_vcpu_tb_trans_cb(id: u64, callback: extern "C" fn(u64, *mut Opaque));
    pub(crate) fn qemu_plugin_register_atexit_cb(id: u64, callback: extern "C" fn(u64, *mut c_void), data: *mut c_void);
    pub(crate) fn qemu_plugin_tb_n_insns(block: *const Opaque) -> usize;
    fn qemu_plugin_tb_vaddr(block: *const Opaque) -> u64;
    pub(crate) fn qemu_plugin_tb_get_insn(block: *const Opaque, index: usize) -> *mut Opaque;
    pub(crate) fn qemu_plugin_insn_vaddr(instruction: *const Opaque) -> u64;
    pub(crate) fn qemu_plugin_insn_data(instruction: *const Opaque, data: *mut c_void, length: usize) -> usize;
    pub(crate) fn qemu_plugin_register_vcpu_insn_exec_cb(
        instruction: *mut Opaque,
        callback: OnHart,
        flags: c_int,
        data: *mut c_void,
    );
    pub(crate) fn qemu_plugin_register_vcpu_tb_exec_cb(
        block: *mut Opaque,
        callback: OnHart,
        flags: c_int,
        data: *mut c_void,
    );
    fn qemu_plugin_register_vcpu_tb_exec_cond_cb(
        block: *mut Opaque,
        callback: OnHart,
        flags: c_int,
        condition: c_int,
        entry: PerHart,
        value: u64,
        data: *mut c_void,
    );
    fn qemu_plugin_register_vcpu_mem_cb(
        instruction: *mut Opaque,
        callback: extern "C" fn(c_uint, u32, u64, *mut c_void),
        flags: c_int,
        accesses: c_int,
        data: *mut c_void,
    );
    fn qemu_plugin_scoreboard_new(size: usize) -> *mut Opaque;
    fn qemu_plugin_u64_set(entry: PerHart, hart: c_uint, value: u64);
    fn qemu_plugin_get_registers() -> *mut Array;
    fn qemu_plugin_read_register(register: *mut Opaque, into: *mut Array) -> c_int;
    fn qemu_plugin_read_memory_vaddr(address: u64, into: *mut Array, length: usize) -> bool;
    fn g_byte_array_new() -> *mut Array;
    fn g_byte_array_set_size(array: *mut Array, length: c_uint) -> *mut Array;
}

/// The registers that are read.
#[derive(Clone, Copy)]
enum Name {
    Ra,
    Sp,
    Cause,
    Status,
    Tval,
}

/// As QEMU's debugger stub calls them, in the order of [`Name`].
const NAMES: [&CStr; 5] = [c"ra", c"sp", c"scause", c"sstatus", c"stval"];

/// QEMU's names of registers. They are the same on each hart.
pub(crate) struct Handles<const N: usize>([*mut Opaque; N]);

// SAFETY: The pointers are only ever handed back to QEMU, from whatever thread.
unsafe impl<const N: usize> Send for Handles<N> {}
// SAFETY: As for `Send`.
unsafe impl<const N: usize> Sync for Handles<N> {}

impl<const N: usize> Handles<N> {
    /// Those of these registers; to be called when a hart starts.
    pub(crate) fn find(names: [&CStr; N]) -> Self {
        // SAFETY: This is a hart's callback at its start, which is when QEMU wants to be asked. The
        // array is never freed: there is one.
        let registers = unsafe { &*qemu_plugin_get_registers() };
        // SAFETY: QEMU says that it is an array of these. GLib's elements are aligned for all types.
        let registers =
            unsafe { std::slice::from_raw_parts(registers.data.cast::<Register>(), registers.len as usize) };
        Self(names.map(|name| {
            // SAFETY: QEMU's names are strings that are there as long as QEMU is.
            let named = |r: &&Register| unsafe { CStr::from_ptr(r.name) } == name;
            let found = registers.iter().find(named);
            found.unwrap_or_else(|| die(&format!("QEMU has no register {}", name.to_string_lossy()))).handle
        }))
    }

    /// The register at this place of the hart that runs this callback, which must be one with
    /// [`READ_REGISTERS`].
    pub(crate) fn read(&self, at: usize) -> u64 {
        let read = bytes(8, |array| {
            // SAFETY: The handle is QEMU's, the array is GLib's and empty, and the caller sees to the rest.
            unsafe { qemu_plugin_read_register(self.0[at], array) == 8 }
        });
        let read = read.and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes);
        read.unwrap_or_else(|| die("a register cannot be read"))
    }
}

/// What the callbacks work with.
struct Plugin {
    arguments: Arguments,
    harts: Mutex<Vec<Hart>>,
    /// Not 0 for a hart that is in the middle of something.
    active: PerHart,
    handles: OnceLock<Handles<{ NAMES.len() }>>,
}

static PLUGIN: OnceLock<Plugin> = OnceLock::new();

/// Ends QEMU with a message: without its counts nobody wants the run.
pub(crate) fn die(why: &str) -> ! {
    eprintln!("lazymap-cost: {why}");
    std::process::abort();
}

fn plugin() -> &'static Plugin {
    PLUGIN.get().unwrap_or_else(|| die("a callback before the plugin was installed"))
}

impl Plugin {
    fn harts(&self) -> MutexGuard<'_, Vec<Hart>> {
        self.harts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets `change` happen to a hart.
    fn on(&self, hart: c_uint, change: impl FnOnce(&mut Hart)) {
        let mut harts = self.harts();
        let index = hart as usize;
        if harts.len() <= index {
            harts.resize_with(index + 1, Hart::default);
        }
        let was = harts[index].active();
        change(&mut harts[index]);
        let is = harts[index].active();
        if was != is {
            // SAFETY: The scoreboard is there as long as QEMU is, and `hart` is QEMU's own number.
            unsafe { qemu_plugin_u64_set(self.active, hart, is.into()) };
        }
    }

    /// A register of the hart that runs this callback, which must be one with [`READ_REGISTERS`].
    fn register(&self, name: Name) -> u64 {
        self.handles.get().unwrap_or_else(|| die("no registers")).read(name as usize)
    }

    /// Whether all marks are set, if there are any.
    fn marked(&self) -> Option<bool> {
        let marks = self.arguments.marks.clone()?;
        let length = (marks.end - marks.start) as usize;
        let read = bytes(length, |array| {
            // SAFETY: The array is GLib's, and QEMU makes room in it. This is a hart's callback.
            unsafe { qemu_plugin_read_memory_vaddr(marks.start, array, length) }
        });
        Some(read.unwrap_or_else(|| die("the marks cannot be read")).iter().all(|byte| *byte == 0))
    }
}

/// What `fill` puts into an empty array of GLib's, if it succeeds and that has `length` bytes.
fn bytes(length: usize, fill: impl FnOnce(*mut Array) -> bool) -> Option<Vec<u8>> {
    thread_local! {
        // SAFETY: GLib's function takes nothing. The array lives as long as the thread of the hart.
        static ARRAY: *mut Array = unsafe { g_byte_array_new() };
    }
    ARRAY.with(|&array| {
        // SAFETY: The array came from GLib, and this thread alone uses it.
        unsafe { g_byte_array_set_size(array, 0) };
        if !fill(array) {
            return None;
        }
        // SAFETY: As above; nobody changes it while the reference is there.
        let array = unsafe { &*array };
        if array.len as usize != length {
            return None;
        }
        // SAFETY: GLib's arrays have that many bytes, and `length` is not 0, so there are some.
        Some(unsafe { std::slice::from_raw_parts(array.data, length) }.to_vec())
    })
}

/// An address as a callback's argument.
fn data(address: u64) -> *mut c_void {
    ptr::without_provenance_mut(address as usize)
}

extern "C" fn on_init(_id: u64, _hart: c_uint) {
    plugin().handles.get_or_init(|| Handles::find(NAMES));
}

extern "C" fn on_entry(hart: c_uint, _: *mut c_void) {
    let plugin = plugin();
    let [cause, status, tval] = [Name::Cause, Name::Status, Name::Tval].map(|name| plugin.register(name));
    plugin.on(hart, |hart| hart.trap(cause, status, tval));
}

extern "C" fn on_switch(hart: c_uint, _: *mut c_void) {
    plugin().on(hart, Hart::switch);
}

extern "C" fn on_announce(hart: c_uint, _: *mut c_void) {
    let plugin = plugin();
    let (marked, back, stack) = (plugin.marked(), plugin.register(Name::Ra), plugin.register(Name::Sp));
    plugin.on(hart, |hart| hart.announce(marked, back, stack));
}

extern "C" fn in_entry(hart: c_uint, sret: *mut c_void) {
    plugin().on(hart, |hart| hart.in_entry(!sret.is_null()));
}

extern "C" fn in_switch(hart: c_uint, _: *mut c_void) {
    plugin().on(hart, Hart::in_switch);
}

extern "C" fn in_announce(hart: c_uint, _: *mut c_void) {
    plugin().on(hart, Hart::in_announce);
}

extern "C" fn on_send(hart: c_uint, _: *mut c_void) {
    plugin().on(hart, Hart::send);
}

extern "C" fn on_store(hart: c_uint, _info: u32, address: u64, _: *mut c_void) {
    plugin().on(hart, |hart| hart.store(address));
}

extern "C" fn on_block(hart: c_uint, address: *mut c_void) {
    let plugin = plugin();
    plugin.on(hart, |hart| hart.arrive(address.addr() as u64, &plugin.arguments));
}

extern "C" fn on_translation(_id: u64, block: *mut Opaque) {
    let plugin = plugin();
    let arguments = &plugin.arguments;
    // SAFETY: `block` is good during this callback, and so are its instructions.
    let (start, length) = unsafe { (qemu_plugin_tb_vaddr(block), qemu_plugin_tb_n_insns(block)) };
    // SAFETY: As above, and the scoreboard is there as long as QEMU is. This comes first, so that at the
    // start of a function what went before has ended.
    unsafe {
        qemu_plugin_register_vcpu_tb_exec_cond_cb(
            block,
            on_block,
            NO_REGISTERS,
            NOT_EQUAL,
            plugin.active,
            0,
            data(start),
        );
    }
    for index in 0..length {
        // SAFETY: As above, and there are `length` instructions.
        let instruction = unsafe { qemu_plugin_tb_get_insn(block, index) };
        // SAFETY: As above.
        let address = unsafe { qemu_plugin_insn_vaddr(instruction) };
        let call = |callback: OnHart, flags: c_int, data: *mut c_void| {
            // SAFETY: As above; the callback has the type that QEMU wants.
            unsafe { qemu_plugin_register_vcpu_insn_exec_cb(instruction, callback, flags, data) };
        };
        let none = ptr::null_mut();
        for (range, begin, within) in [
            (&arguments.entry, on_entry as OnHart, in_entry as OnHart),
            (&arguments.switch, on_switch, in_switch),
            (&arguments.announce, on_announce, in_announce),
        ] {
            if !range.contains(&address) {
                continue;
            }
            if address == range.start {
                call(begin, READ_REGISTERS, none);
            }
            let mut code = [0; 4];
            // SAFETY: As above, and that much room is there.
            unsafe { qemu_plugin_insn_data(instruction, code.as_mut_ptr().cast(), code.len()) };
            call(within, NO_REGISTERS, if code == SRET { data(address) } else { none });
        }
        if arguments.announce.contains(&address) {
            // SAFETY: As above.
            unsafe { qemu_plugin_register_vcpu_mem_cb(instruction, on_store, NO_REGISTERS, WRITES, none) };
        }
        if arguments.sends.contains(&address) {
            call(on_send, NO_REGISTERS, none);
        }
    }
}

extern "C" fn on_exit(_id: u64, _: *mut c_void) {
    let plugin = plugin();
    let mut sum = Counts::default();
    plugin.harts().iter().for_each(|hart| sum.add(&hart.counts));
    if let Err(error) = fs::write(&plugin.arguments.out, sum.text()) {
        die(&format!("cannot write {}: {error}", plugin.arguments.out));
    }
}

/// QEMU calls this first.
///
/// # Safety
/// For QEMU alone: `words` must be `count` strings.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qemu_plugin_install(
    id: u64,
    _info: *const Info,
    count: c_int,
    words: *const *const c_char,
) -> c_int {
    let words: Vec<String> = (0..usize::try_from(count).unwrap_or(0))
        // SAFETY: The caller's.
        .map(|at| unsafe { CStr::from_ptr(*words.add(at)) }.to_string_lossy().into_owned())
        .collect();
    let words = words.iter().map(String::as_str);
    if words.clone().any(|word| word == PHASES) {
        return crate::phases_plugin::install(id, words.filter(|word| *word != PHASES));
    }
    let arguments = match Arguments::parse(words) {
        Ok(arguments) => arguments,
        Err(why) => {
            eprintln!("lazymap-cost: {why}");
            return 1;
        }
    };
    // SAFETY: QEMU allows this now, and wants the size of an element.
    let active = PerHart { score: unsafe { qemu_plugin_scoreboard_new(size_of::<u64>()) }, offset: 0 };
    let plugin = Plugin { arguments, harts: Mutex::default(), active, handles: OnceLock::new() };
    if PLUGIN.set(plugin).is_err() {
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
