// SPDX-License-Identifier: GPL-2.0

//! Registers around a spurious fault.
//!
//! An access to a new mapping may be interrupted by a fault that the kernel absorbs before it saves
//! any register. Whatever the instruction was, it must be executed as if nothing had happened: if
//! all registers contain a pattern, they contain it afterwards, and memory and the destination have
//! what the instruction gives them.
//!
//! The pattern is in x1 to x31, including sp and gp, because no kernel code is called and
//! interrupts are disabled. Two registers have their own values: tp, by which the kernel finds the
//! current task when it traps, and the one with the address. They are compared as well.
//!
//! On a hart that does not cache invalid translations nothing faults. Whether there was a trap can
//! be told from sstatus: `sret` sets SPIE, which was cleared before. If one kind of access ever
//! faulted, all others must have, except misaligned ones that the kernel emulates anyway, and calls
//! of new code that never was where the CPU had tried to read in vain.
//!
//! A fault that the kernel does not absorb leaves the check by its other exit. The handler must
//! find in pt_regs what the registers held, not what the check used them for, and they must hold
//! the same when it has returned. These accesses are to a page that is never mapped, and are listed
//! in the exception table.
//!
//! Loading the module runs the test, see `kernel::kselftest`.

use core::arch::asm;
use kernel::{
    bindings,
    cpu::{
        nr_cpu_ids,
        CpuId, //
    },
    execmem::Text,
    interrupt::local_interrupt_disable,
    kselftest::{
        self,
        kselftests,
        pattern,
        Test, //
    },
    kthread,
    page::PAGE_SIZE,
    prelude::*,
    stacktrace,
    sync::atomic::{
        Acquire,
        Atomic,
        Relaxed,
        Release, //
    },
    tracepoint::probe::{
        attached,
        PageFaultKernel,
        Probe,
        Tracepoint, //
    },
    vmalloc::{
        SparseArea,
        WORDS_PER_PAGE, //
    },
};

#[macro_use]
mod touch;

use touch::{
    has_extension,
    made_again,
    prime_here,
    Met,
    Place, //
};

kernel::kselftest_module! {
    tests: tests,
    name: "lazy_map_regs",
    authors: ["lazymap"],
    description: "Registers around a spurious fault",
    license: "GPL",
    params: {
        rounds: u32 {
            default: 8,
            range: 1..=1000000,
            description: "Accesses of each kind on each of 4 CPUs, less on each of more",
        },
        each: u32 {
            default: 0,
            range: 0..=1,
            description: "1 if each kind of access must trap when any does: one TLB for all",
        },
    },
}

/// sstatus.SPIE
const SPIE: u64 = 1 << 5;

// Page 0 of an area is mapped; its last words, below the new page, hold the registers. Numbers of
// words from the start of the area:
const IN: usize = WORDS_PER_PAGE - 256;
const OUT: usize = WORDS_PER_PAGE - 224;
const KERNEL: usize = WORDS_PER_PAGE - 192;
const STATUS: usize = WORDS_PER_PAGE - 160;
const FP_IN: usize = WORDS_PER_PAGE - 158;
const FP_OUT: usize = WORDS_PER_PAGE - 157;
const NEXT: usize = WORDS_PER_PAGE - 156;
const AT: usize = WORDS_PER_PAGE - 155;

/// Whether the kernel lets anybody use the FP unit.
const FPU: usize = cfg!(CONFIG_FPU) as usize;

/// A register that is never filled: tp.
const TP: usize = 4;

/// The registers that must not be filled if the kernel may handle a trap in C: the stack pointer,
/// and gp where that is the pointer of the shadow call stack.
const SP: usize = 2;
const SHADOW: usize = if cfg!(CONFIG_SHADOW_CALL_STACK) {
    3
} else {
    TP
};

/// Declares a function that fills the registers, executes one instruction and saves the registers.
///
/// Everything is addressed relative to the end of page 0, which is in x`$base`. The instruction
/// finds its address in a5, or in sp if that is the base, and may use fs0.
///
/// An `absorbed` access must not trap, except for what the kernel absorbs. A `handled` one
/// may be emulated by the kernel. A `reported` one is skipped if it cannot be made.
///
/// The assembler may compress what is around the instruction only if the kernel is built for CPUs
/// with C. The instruction itself is `compressed`, or has 32 bits.
macro_rules! access {
    ($name:ident, absorbed, base $base:literal, $instruction:literal) => {
        access!($name, base $base, TP, TP, "0", "norvc", $instruction);
    };
    ($name:ident, absorbed, compressed, base $base:literal, $instruction:literal) => {
        access!($name, base $base, TP, TP, "0", "rvc", $instruction);
    };
    ($name:ident, handled, base $base:literal, $instruction:literal) => {
        access!($name, base $base, SP, SHADOW, "0", "norvc", $instruction);
    };
    ($name:ident, reported, base $base:literal, $instruction:literal) => {
        access!($name, base $base, SP, SHADOW, "1", "norvc", $instruction);
    };
    ($name:ident, reported, compressed, base $base:literal, $instruction:literal) => {
        access!($name, base $base, SP, SHADOW, "1", "rvc", $instruction);
    };
    (
        $name:ident,
        base $base:literal,
        $keep:expr,
        $shadow:expr,
        $fixup:literal,
        $width:literal,
        $instruction:literal
    ) => {
        /// # Safety
        ///
        /// `base` must be the end of a page that the caller owns. Interrupts must be disabled. The
        /// instruction may access what the words at [`IN`] make it access.
        unsafe fn $name(base: usize) {
            // SAFETY: All registers are restored from the page, except those that are declared as
            // clobbered. The kernel's stack and the FP unit are not used in between. The rest is
            // the caller's.
            unsafe {
                asm!(
                    ".option push",
                    ".option arch, +d",
                    // Keep what belongs to the kernel.
                    ".irp reg, 1, 2, 3, 8, 9, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27",
                    "sd x\\reg, -1536 + 8 * \\reg(a0)",
                    ".endr",
                    // The kernel does not use the FP unit, so its state is some task's that has
                    // been saved already.
                    ".if {fpu}",
                    "li t0, 0x6000",
                    "csrs sstatus, t0",
                    "fsd fs0, -1272(a0)",
                    "fld fs0, -1264(a0)",
                    ".endif",
                    // Clear SPIE: the next sret sets it.
                    "li t0, 0x20",
                    "csrc sstatus, t0",
                    "lla t0, 9f",
                    "sd t0, -1248(a0)",
                    "lla t0, 8f",
                    "sd t0, -1240(a0)",
                    concat!("mv x", $base, ", a0"),
                    ".irp reg, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, \
                        20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31",
                    concat!(
                        ".if (\\reg - ",
                        $base,
                        ") * (\\reg - {keep}) * (\\reg - {shadow})"
                    ),
                    concat!("ld x\\reg, -2048 + 8 * \\reg(x", $base, ")"),
                    ".endif",
                    ".endr",
                    ".option push",
                    concat!(".option ", $width),
                    "8:",
                    $instruction,
                    "9:",
                    ".option pop",
                    concat!(".if ", $fixup),
                    extable!("8b", "9b"),
                    ".endif",
                    ".irp reg, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, \
                        20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31",
                    concat!("sd x\\reg, -1792 + 8 * \\reg(x", $base, ")"),
                    ".endr",
                    concat!("mv a0, x", $base),
                    "csrr t0, sstatus",
                    "sd t0, -1280(a0)",
                    ".if {fpu}",
                    "fsd fs0, -1256(a0)",
                    "fld fs0, -1272(a0)",
                    "li t0, 0x6000",
                    "csrc sstatus, t0",
                    ".endif",
                    ".irp reg, 1, 2, 3, 8, 9, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27",
                    "ld x\\reg, -1536 + 8 * \\reg(a0)",
                    ".endr",
                    ".option pop",
                    fpu = const FPU,
                    keep = const $keep,
                    shadow = const $shadow,
                    inout("a0") base => _,
                    clobber_abi("C"),
                )
            };
        }
    };
}

access!(load, absorbed, base "10", "ld t0, 0(a5)");
access!(load_byte, absorbed, base "10", "lbu t6, 0(a5)");
access!(store, absorbed, base "10", "sd t1, 0(a5)");
access!(amo, absorbed, base "10", "amoadd.d t3, t4, (a5)");
access!(load_reserved, absorbed, base "10", "lr.d s11, (a5)");
access!(compressed_load, absorbed, compressed, base "10", "c.ld a2, 0(a5)");
access!(compressed_store, absorbed, compressed, base "10", "c.sd a3, 0(a5)");
access!(stack_load, absorbed, compressed, base "2", "c.ldsp a0, 0(sp)");
access!(stack_store, absorbed, compressed, base "2", "c.sdsp a1, 0(sp)");
#[cfg(CONFIG_FPU)]
access!(fp_load, absorbed, base "10", "fld fs0, 0(a5)");
#[cfg(CONFIG_FPU)]
access!(fp_store, absorbed, base "10", "fsd fs0, 0(a5)");
#[cfg(CONFIG_FPU)]
access!(compressed_fp_load, absorbed, compressed, base "10", "c.fld fs0, 0(a5)");
#[cfg(CONFIG_FPU)]
access!(compressed_fp_store, absorbed, compressed, base "10", "c.fsd fs0, 0(a5)");
access!(misaligned_load, handled, base "10", "ld t0, 0(a5)");
access!(misaligned_store, handled, base "10", "sd t1, 0(a5)");
access!(fetch, absorbed, base "10", "jalr t0, 0(a5)");

// The base is s1, so that a0 is filled.
access!(reported_load, reported, base "9", "ld t0, 0(a5)");
access!(reported_load_a0, reported, base "9", "ld a0, 0(a5)");
access!(reported_store, reported, base "9", "sd a0, 0(a5)");
access!(reported_amo, reported, base "9", "amoadd.d a0, t4, (a5)");
access!(reported_load_reserved, reported, base "9", "lr.d s11, (a5)");
access!(reported_compressed_load, reported, compressed, base "9", "c.ld a2, 0(a5)");
access!(reported_compressed_store, reported, compressed, base "9", "c.sd a3, 0(a5)");
#[cfg(CONFIG_FPU)]
access!(reported_fp_load, reported, base "9", "fld fs0, 0(a5)");
#[cfg(CONFIG_FPU)]
access!(reported_fp_store, reported, base "9", "fsd fs0, 0(a5)");

/// Number of a register that can be a destination.
const T0: usize = 5;
const T1: usize = 6;
const A0: usize = 10;
const A1: usize = 11;
const A2: usize = 12;
const A3: usize = 13;
const A5: usize = 15;
const S11: usize = 27;
const T3: usize = 28;
const T4: usize = 29;
const T6: usize = 31;

/// What an instruction does.
enum Effect {
    /// Loads the word to a register.
    Load(usize),
    /// Loads the low byte of the word to a register.
    LoadByte(usize),
    /// Stores a register to the word.
    Store(usize),
    /// Loads the word to a register and adds another one to it.
    Add(usize, usize),
    /// Loads the word to the FP register.
    #[cfg(CONFIG_FPU)]
    LoadFp,
    /// Stores the FP register to the word.
    #[cfg(CONFIG_FPU)]
    StoreFp,
    /// Calls what is at the address, with the return address in t0.
    Call,
}

/// A kind of access.
struct Kind {
    name: &'static str,
    access: unsafe fn(usize),
    /// Number of the base register.
    base: usize,
    effect: Effect,
    /// Bytes from the start of the first new page.
    offset: usize,
    /// Whether the first of two pages is not new.
    second: bool,
}

impl Kind {
    const fn new(name: &'static str, access: unsafe fn(usize), effect: Effect) -> Self {
        Self {
            name,
            access,
            base: A0,
            effect,
            offset: 0,
            second: false,
        }
    }

    const fn on_stack(mut self) -> Self {
        self.base = 2;
        self
    }

    /// Whether this is an access to data that the kernel may emulate.
    fn is_misaligned(&self) -> bool {
        self.offset != 0 && !matches!(self.effect, Effect::Call)
    }

    /// Whether the CPUs have the instruction.
    fn exists(&self) -> bool {
        exists(self.name)
    }

    /// Across the boundary between two pages.
    const fn across(mut self, second: bool) -> Self {
        self.offset = PAGE_SIZE - 2;
        self.second = second;
        self
    }
}

/// Whether the CPUs have the instructions of a kind of access.
fn exists(name: &str) -> bool {
    // The fetch is of an instruction at an address that is only a multiple of two.
    let compressed = ["compressed", "stack_", "misaligned_fetch"];
    has_extension(b'c') || !compressed.iter().any(|part| name.contains(part))
}

/// Skips a case that uses the FP unit where the kernel could, but the CPUs have none.
fn require_fpu(test: &Test) -> kselftest::Result {
    if FPU != 0 && !has_extension(b'd') {
        return Err(test.skip(fmt!("CPUs without D")));
    }
    Ok(())
}

static KINDS: &[Kind] = &[
    Kind::new("load", load, Effect::Load(T0)),
    Kind::new("load_byte", load_byte, Effect::LoadByte(T6)),
    Kind::new("store", store, Effect::Store(T1)),
    Kind::new("amo", amo, Effect::Add(T3, T4)),
    Kind::new("load_reserved", load_reserved, Effect::Load(S11)),
    Kind::new("compressed_load", compressed_load, Effect::Load(A2)),
    Kind::new("compressed_store", compressed_store, Effect::Store(A3)),
    Kind::new("stack_load", stack_load, Effect::Load(A0)).on_stack(),
    Kind::new("stack_store", stack_store, Effect::Store(A1)).on_stack(),
    #[cfg(CONFIG_FPU)]
    Kind::new("fp_load", fp_load, Effect::LoadFp),
    #[cfg(CONFIG_FPU)]
    Kind::new("fp_store", fp_store, Effect::StoreFp),
    #[cfg(CONFIG_FPU)]
    Kind::new("compressed_fp_load", compressed_fp_load, Effect::LoadFp),
    #[cfg(CONFIG_FPU)]
    Kind::new("compressed_fp_store", compressed_fp_store, Effect::StoreFp),
    Kind::new("misaligned_load", misaligned_load, Effect::Load(T0)).across(false),
    Kind::new("misaligned_store", misaligned_store, Effect::Store(T1)).across(false),
    Kind::new(
        "misaligned_load_second_page",
        misaligned_load,
        Effect::Load(T0),
    )
    .across(true),
    Kind::new(
        "misaligned_store_second_page",
        misaligned_store,
        Effect::Store(T1),
    )
    .across(true),
    Kind::new("fetch", fetch, Effect::Call),
    Kind::new("misaligned_fetch", fetch, Effect::Call).across(false),
];

/// `jr t0`, at `offset` of otherwise empty pages.
fn text(offset: usize) -> Result<Text> {
    let mut code = KVec::from_elem(0u8, offset, GFP_KERNEL)?;
    code.extend_from_slice(&0x0002_8067_u32.to_le_bytes(), GFP_KERNEL)?;
    // SAFETY: The only instruction is sound in all contexts, and is executed while the caller has
    // the text.
    unsafe { Text::new(&code) }
}

fn read(area: &SparseArea, word: usize) -> Result<u64> {
    Ok(area.word(word).ok_or(EINVAL)?.load(Relaxed))
}

fn write(area: &SparseArea, word: usize, value: u64) -> Result {
    area.word(word).ok_or(EINVAL)?.store(value, Relaxed);
    Ok(())
}

/// The 64 bits at byte `offset` of what consists of words.
fn at(offset: usize, word: impl Fn(usize) -> Result<u64>) -> Result<u64> {
    let (index, shift) = (offset / size_of::<u64>(), offset % size_of::<u64>() * 8);
    let low = word(index)? >> shift;
    match shift {
        0 => Ok(low),
        _ => Ok(low | word(index + 1)? << (64 - shift)),
    }
}

/// The value of tp, which the kernel has chosen.
fn current_task() -> u64 {
    let task;
    // SAFETY: It is only read.
    unsafe { asm!("mv {task}, tp", task = out(reg) task, options(nomem, nostack)) };
    task
}

/// Sets those of the expected `registers` that are not filled if the kernel may handle a trap.
fn not_filled(area: &SparseArea, registers: &mut [u64; 32]) -> Result {
    registers[TP] = current_task();
    for register in [SP, SHADOW] {
        if register != TP {
            registers[register] = read(area, KERNEL + register)?;
        }
    }
    Ok(())
}

/// A number that is shown in hexadecimal.
#[derive(PartialEq)]
struct Hex(u64);

impl core::fmt::Debug for Hex {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{:#018x}", self.0)
    }
}

/// Compares the registers that an access has left behind with what must be in them.
fn check_registers(
    test: &Test,
    area: &SparseArea,
    registers: &[u64; 32],
    fp: u64,
    name: &str,
    cpu: CpuId,
) -> Result {
    for (number, register) in registers.iter().enumerate().skip(1) {
        test.expect_eq(
            Hex(read(area, OUT + number)?),
            Hex(*register),
            fmt!("x{number} after {name} on CPU {}", cpu.as_u32()),
        );
    }
    if FPU != 0 {
        test.expect_eq(
            Hex(read(area, FP_OUT)?),
            Hex(fp),
            fmt!("fs0 after {name} on CPU {}", cpu.as_u32()),
        );
    }
    Ok(())
}

/// Makes an access whose address is `at`, on behalf of [`attempt()`].
fn make(kind: &Kind, area: &SparseArea, base: usize, at: usize) -> Result {
    write(area, IN + A5, at as u64)?;
    let interrupts = local_interrupt_disable();
    // SAFETY: `base` is the end of a page of ours. What is accessed is ours, and what is called
    // returns.
    unsafe { (kind.access)(base) };
    drop(interrupts);
    Ok(())
}

/// Whether the access that was made last has trapped.
fn has_trapped(area: &SparseArea) -> Result<bool> {
    Ok(read(area, STATUS)? & SPIE != 0)
}

/// What an access says about new mappings.
enum Outcome {
    /// It trapped.
    Trapped,
    /// It did not, although its CPU had tried the address in vain.
    Quiet,
    /// It did not, but its CPU had not tried the address.
    Untried,
    /// It would trap anyway.
    Emulated,
}

/// Whether a CPU is making code where it has tried in vain.
static TURN: Atomic<bool> = Atomic::new(false);

/// The turn to do that. Code has to be freed for it, which makes all CPUs forget their
/// translations: if all did it at once, none of them would remember any.
struct Turn(());

impl Turn {
    /// Takes the turn, unless another CPU has it.
    fn take() -> Option<Self> {
        TURN.cmpxchg(false, true, Acquire).ok().map(|_| Self(()))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        TURN.store(false, Release);
    }
}

/// Makes one access. Adds what it executes to `texts`, because freeing it makes all CPUs forget
/// their translations.
fn attempt(test: &Test, kind: &Kind, cpu: CpuId, texts: &mut KVec<Text>) -> Result<Outcome> {
    let area = SparseArea::new(3, |word| pattern(0, word))?;
    let base = area.address(1).ok_or(EINVAL)?;
    let offset = PAGE_SIZE + kind.offset;
    let call = matches!(kind.effect, Effect::Call);

    // This CPU reads the surroundings, and may remember that nothing is mapped there.
    area.map(0)?;
    write(&area, FP_IN, pattern(0, FP_IN))?;
    for register in 1..32 {
        write(&area, IN + register, pattern(0, IN + register))?;
    }
    let mut emulated = false;
    if kind.is_misaligned() {
        // Where nothing is new.
        make(kind, &area, base, base - PAGE_SIZE + 2)?;
        emulated = has_trapped(&area)?;
    }
    if kind.second {
        area.map(1)?;
        read(&area, WORDS_PER_PAGE)?;
    }
    let mut address = base + kind.offset;
    if call {
        let nearby = text(0)?;
        make(kind, &area, base, nearby.address())?;
        texts.push(nearby, GFP_KERNEL)?;
    } else {
        // It has tried the new pages in vain as well.
        for page in 1 + usize::from(kind.second)..3 {
            prime_here(test, &area, page);
        }
    }

    // Make the new mapping.
    let turn = if call { Turn::take() } else { None };
    let mut tried = true;
    if call {
        let new_text = || text(kind.offset);
        let pages = (kind.offset + size_of::<u32>()).div_ceil(PAGE_SIZE);
        let place = |text: &Text| (text.address(), pages);
        let (target, again) = if turn.is_some() {
            made_again(new_text, place, |read| {
                read();
                Ok(())
            })?
        } else {
            (new_text()?, false)
        };
        tried = again;
        address = target.address() + kind.offset;
        texts.push(target, GFP_KERNEL)?;
    } else {
        if !kind.second {
            area.map(1)?;
        }
        area.map(2)?;
    }
    make(kind, &area, base, address)?;
    drop(turn);

    // The expected registers.
    let before = at(offset, |index| Ok(pattern(0, index)))?;
    let mut registers = [0u64; 32];
    for (number, register) in registers.iter_mut().enumerate().skip(1) {
        *register = read(&area, IN + number)?;
    }
    registers[kind.base] = base as u64;
    let fp = match kind.effect {
        #[cfg(CONFIG_FPU)]
        Effect::LoadFp => before,
        _ => pattern(0, FP_IN),
    };
    let mut after = before;
    match kind.effect {
        Effect::Load(to) => registers[to] = before,
        Effect::LoadByte(to) => registers[to] = before & 0xff,
        Effect::Store(from) => after = registers[from],
        Effect::Add(to, from) => {
            registers[to] = before;
            after = before.wrapping_add(registers[from]);
        }
        #[cfg(CONFIG_FPU)]
        Effect::LoadFp => {}
        #[cfg(CONFIG_FPU)]
        Effect::StoreFp => after = fp,
        Effect::Call => registers[T0] = read(&area, NEXT)?,
    }
    registers[4] = current_task();
    if matches!(kind.effect, Effect::Load(_) | Effect::Store(_)) && kind.offset != 0 {
        not_filled(&area, &mut registers)?;
    }

    check_registers(test, &area, &registers, fp, kind.name, cpu)?;
    if !call {
        test.expect_eq(
            Hex(at(offset, |index| read(&area, index))?),
            Hex(after),
            fmt!("memory after {} on CPU {}", kind.name, cpu.as_u32()),
        );
    }
    Ok(match has_trapped(&area)? {
        _ if emulated => Outcome::Emulated,
        true => Outcome::Trapped,
        false if tried => Outcome::Quiet,
        false => Outcome::Untried,
    })
}

/// More accesses on each CPU of a kind that has not faulted yet, while others have. A CPU that has
/// fenced for some other reason after it looked at the surroundings does not fault.
const EXTRA: u32 = 200;

/// What was seen of a kind of access.
struct Seen {
    traps: Atomic<u64>,
    /// Whether an access did not trap where its CPU had tried in vain.
    quiet: Atomic<bool>,
    /// Whether an access trapped where nothing was new, so that a trap says nothing.
    emulated: Atomic<bool>,
}

impl Seen {
    const fn new() -> Self {
        Self {
            traps: Atomic::new(0),
            quiet: Atomic::new(false),
            emulated: Atomic::new(false),
        }
    }

    fn add(&self, outcome: Outcome) {
        match outcome {
            Outcome::Trapped => {
                self.traps.fetch_add(1, Relaxed);
            }
            Outcome::Quiet => self.quiet.store(true, Relaxed),
            Outcome::Untried => {}
            Outcome::Emulated => self.emulated.store(true, Relaxed),
        }
    }

    fn traps(&self) -> u64 {
        self.traps.load(Relaxed)
    }

    fn is_emulated(&self) -> bool {
        self.emulated.load(Relaxed)
    }

    /// Whether no access was made where its CPU had tried in vain, as far as one can tell.
    fn is_untried(&self) -> bool {
        self.traps() == 0 && !self.quiet.load(Relaxed)
    }
}

/// Whether some kinds of access have faulted, but not all.
fn incomplete(all: &[Seen]) -> bool {
    let telling = || all.iter().filter(|seen| !seen.is_emulated());
    let faulted = telling().filter(|seen| seen.traps() != 0).count();
    (1..telling().count()).contains(&faulted)
}

/// How much code each CPU keeps before freeing any.
const TEXTS: usize = 256;

/// Makes an access of each of `kinds` by `attempt` on all CPUs, while they all make new mappings.
fn attempt_all<K: Sync>(
    test: &Test,
    kinds: &[K],
    name: impl Fn(&K) -> &'static str + Sync,
    attempt: impl Fn(&K, CpuId, &mut KVec<Text>) -> Result<Outcome> + Sync,
) -> kselftest::Result {
    let rounds = module_parameters::rounds.value();
    let touches = Atomic::new(0u64);
    let mut all = KVec::with_capacity(kinds.len(), GFP_KERNEL)?;
    for _ in kinds {
        all.push(Seen::new(), GFP_KERNEL)?;
    }

    kthread::on_each_cpu_of_group(
        |member| {
            let cpu = member.cpu;
            // New code interrupts all CPUs, so it takes longer the more there are.
            let rounds = u32::max(1, rounds.saturating_mul(4) / member.count.max(4));
            let mut texts = KVec::new();
            for round in 0..rounds + EXTRA {
                if kthread::should_stop() || round >= rounds && !incomplete(&all) {
                    break;
                }
                if texts.len() > TEXTS {
                    texts.clear();
                }
                for (kind, seen) in kinds.iter().zip(&all) {
                    if round >= rounds && (seen.traps() != 0 || seen.is_emulated()) {
                        continue;
                    }
                    match attempt(kind, cpu, &mut texts) {
                        Ok(outcome) => {
                            touches.fetch_add(1, Relaxed);
                            seen.add(outcome);
                        }
                        Err(error) => test.fail(fmt!("{}: {error:?}", name(kind))),
                    }
                }
            }
        },
        || {},
    )?;

    test.report_some("touches", touches.load(Relaxed));
    let spurious = all.iter().map(Seen::traps).sum();
    test.report("spurious faults", spurious);
    for (kind, seen) in kinds.iter().zip(&all) {
        if seen.is_emulated() {
            test.note(fmt!("{}: emulated, so traps say nothing", name(kind)));
        } else if seen.is_untried() {
            test.note(fmt!("{}: never where a CPU had tried in vain", name(kind)));
        } else if module_parameters::each.value() != 0 && spurious != 0 {
            test.report_some(name(kind), seen.traps());
        } else {
            test.report(name(kind), seen.traps());
        }
    }
    Ok(())
}

/// The words of `struct pt_regs` that are compared: sepc, x1 to x31, sstatus, stval and scause.
const PT_REGS: usize = 35;
const PT_EPC: usize = 0;
const PT_STATUS: usize = 32;
const PT_BADADDR: usize = 33;
const PT_CAUSE: usize = 34;

const _: () = {
    use core::mem::offset_of;

    const WORD: usize = size_of::<u64>();
    assert!(offset_of!(bindings::pt_regs, epc) == PT_EPC * WORD);
    assert!(offset_of!(bindings::pt_regs, ra) == WORD);
    assert!(offset_of!(bindings::pt_regs, t6) == 31 * WORD);
    assert!(offset_of!(bindings::pt_regs, status) == PT_STATUS * WORD);
    assert!(offset_of!(bindings::pt_regs, badaddr) == PT_BADADDR * WORD);
    assert!(offset_of!(bindings::pt_regs, cause) == PT_CAUSE * WORD);
};

/// sstatus.SPP
const SPP: u64 = 1 << 8;

/// scause of a load and of a store
const LOAD_PAGE_FAULT: u64 = 13;
const STORE_PAGE_FAULT: u64 = 15;

/// What the handler of a page fault got on one CPU.
struct Report {
    /// Faults at this address are reported.
    address: Atomic<usize>,
    count: Atomic<u64>,
    words: [Atomic<u64>; PT_REGS],
}

/// A report for each CPU.
struct Reports(KVec<Report>);

impl Reports {
    fn new() -> Result<Self> {
        let mut reports = KVec::with_capacity(nr_cpu_ids() as usize, GFP_KERNEL)?;
        for _ in 0..nr_cpu_ids() {
            let report = Report {
                address: Atomic::new(0),
                count: Atomic::new(0),
                words: [const { Atomic::new(0) }; PT_REGS],
            };
            reports.push(report, GFP_KERNEL)?;
        }
        Ok(Self(reports))
    }

    fn on(&self, cpu: CpuId) -> Result<&Report> {
        self.0.get(cpu.as_u32() as usize).ok_or(EINVAL)
    }
}

impl Probe<PageFaultKernel> for Reports {
    fn fire(&self, args: &<PageFaultKernel as Tracepoint>::Args, _context: ()) {
        let (address, registers, _) = *args;
        let Ok(report) = self.on(CpuId::current()) else {
            return;
        };
        if report.address.load(Relaxed) != address {
            return;
        }
        for (index, word) in report.words.iter().enumerate() {
            // SAFETY: The tracepoint passes a valid `struct pt_regs`, which has so many words.
            let value = unsafe { registers.cast::<u64>().add(index).read() };
            word.store(value, Relaxed);
        }
        report.count.fetch_add(1, Relaxed);
    }
}

/// Runs `scope` while `probe` is attached to the page fault, or skips the case.
fn traced<P: Probe<PageFaultKernel>>(
    test: &Test,
    probe: &P,
    scope: impl FnOnce() -> kselftest::Result,
) -> kselftest::Result {
    attached::<PageFaultKernel, P, _>(probe, scope).unwrap_or_else(|error| match error {
        ENOENT => Err(test.skip(fmt!("no tracepoint {}", PageFaultKernel::NAME))),
        error => Err(error.into()),
    })
}

/// An access that cannot be made: name, function, scause. The base register is s1.
struct Reported(&'static str, unsafe fn(usize), u64);

const S1: usize = 9;

static REPORTED: &[Reported] = &[
    Reported("reported_load", reported_load, LOAD_PAGE_FAULT),
    Reported("reported_load_a0", reported_load_a0, LOAD_PAGE_FAULT),
    Reported("reported_store", reported_store, STORE_PAGE_FAULT),
    Reported("reported_amo", reported_amo, STORE_PAGE_FAULT),
    Reported(
        "reported_load_reserved",
        reported_load_reserved,
        LOAD_PAGE_FAULT,
    ),
    Reported(
        "reported_compressed_load",
        reported_compressed_load,
        LOAD_PAGE_FAULT,
    ),
    Reported(
        "reported_compressed_store",
        reported_compressed_store,
        STORE_PAGE_FAULT,
    ),
    #[cfg(CONFIG_FPU)]
    Reported("reported_fp_load", reported_fp_load, LOAD_PAGE_FAULT),
    #[cfg(CONFIG_FPU)]
    Reported("reported_fp_store", reported_fp_store, STORE_PAGE_FAULT),
];

/// Makes one access that cannot be made: after something was mapped, so that it may be retried
/// before it is reported, and again when nothing is new.
fn attempt_reported(
    test: &Test,
    met: &Met,
    kind: &Reported,
    report: &Report,
    cpu: CpuId,
) -> Result {
    let Reported(name, access, cause) = *kind;
    let area = SparseArea::new(3, |word| pattern(0, word))?;
    let base = area.address(1).ok_or(EINVAL)?;

    prime_here(test, &area, 0);
    area.map(0)?;
    test.expect_eq(
        area.word(0).map(|word| met.touch(Place::Task, word)),
        Some(pattern(0, 0)),
        fmt!("word 0 on CPU {}", cpu.as_u32()),
    );
    write(&area, FP_IN, pattern(0, FP_IN))?;
    for register in 1..32 {
        write(&area, IN + register, pattern(0, IN + register))?;
    }
    write(&area, IN + A5, base as u64)?;
    // Not page 1, which is accessed. This CPU may have fenced for page 0 by now.
    area.map(2)?;

    for state in ["new", "old"] {
        report.count.store(0, Relaxed);
        report.address.store(base, Relaxed);
        let interrupts = local_interrupt_disable();
        // SAFETY: `base` is the end of a page of ours. The next page is never mapped, and the
        // exception table has the instruction.
        unsafe { access(base) };
        drop(interrupts);
        report.address.store(0, Relaxed);

        // The access must not have changed anything.
        let mut registers = [0u64; 32];
        for (number, register) in registers.iter_mut().enumerate().skip(1) {
            *register = read(&area, IN + number)?;
        }
        registers[S1] = base as u64;
        not_filled(&area, &mut registers)?;
        check_registers(test, &area, &registers, pattern(0, FP_IN), name, cpu)?;

        let cpu = cpu.as_u32();
        if !test.expect_eq(
            report.count.load(Relaxed),
            1,
            fmt!("reports of {name} beside {state} mappings on CPU {cpu}"),
        ) {
            continue;
        }
        let word = |index: usize| report.words.get(index).map_or(0, |word| word.load(Relaxed));
        registers[PT_EPC] = read(&area, AT)?;
        for (number, register) in registers.iter().enumerate() {
            test.expect_eq(
                Hex(word(number)),
                Hex(*register),
                fmt!(
                    "x{number}, or sepc, in pt_regs of {name} beside {state} mappings on CPU {cpu}"
                ),
            );
        }
        test.expect_eq(
            Hex(word(PT_STATUS) & (SPP | SPIE)),
            Hex(SPP),
            fmt!("sstatus in pt_regs of {name} on CPU {cpu}"),
        );
        test.expect_eq(
            Hex(word(PT_BADADDR)),
            Hex(base as u64),
            fmt!("stval in pt_regs of {name} on CPU {cpu}"),
        );
        test.expect_eq(
            word(PT_CAUSE),
            cause,
            fmt!("scause in pt_regs of {name} on CPU {cpu}"),
        );
    }
    Ok(())
}

/// Vector registers, and the registers that say how far an interrupted vector instruction got.
#[cfg(CONFIG_RISCV_ISA_V)]
mod vector {
    use super::*;

    // There are no bindings for `asm/vector.h`.
    extern "C" {
        static riscv_v_vsize: usize;
        fn kernel_vector_begin();
        fn kernel_vector_end();
    }

    /// Elements of a byte that the instructions are told to access.
    const VL: usize = 13;
    /// The first one that they do access: as if they had been interrupted before.
    const VSTART: usize = 3;
    /// Elements of a byte, registers alone; what is behind [`VL`] is kept.
    const VTYPE: u64 = 0x80;
    /// Rounding mode and saturation.
    const VCSR: u64 = 5;
    /// The register with the data.
    const DATA: usize = 8;
    const REGISTERS: usize = 32;

    /// Permission to use the vector registers.
    struct Unit(());

    impl Unit {
        fn begin() -> Self {
            // SAFETY: This is a thread that does not use them yet, on a CPU that has them.
            unsafe { kernel_vector_begin() };
            Self(())
        }
    }

    impl Drop for Unit {
        fn drop(&mut self) {
            // SAFETY: `begin()` has been called.
            unsafe { kernel_vector_end() };
        }
    }

    /// The control registers after an access.
    struct Control {
        vstart: usize,
        vl: usize,
        vtype: u64,
        vcsr: u64,
        status: u64,
    }

    type Access = unsafe fn(usize, &[u8], &mut [u8]) -> Control;

    /// Declares a function that fills the vector registers, executes one instruction and saves the
    /// vector registers.
    macro_rules! vector_access {
        ($name:ident, $fixup:literal, $instruction:literal) => {
            /// # Safety
            ///
            /// The calling thread must have a [`Unit`], and interrupts disabled. The instruction
            /// may access [`VL`] bytes at `at`. The slices must be as large as all vector
            /// registers.
            unsafe fn $name(at: usize, before: &[u8], after: &mut [u8]) -> Control {
                let (vstart, vl): (usize, usize);
                let (vtype, vcsr, status): (u64, u64, u64);
                // SAFETY: Compiled code does not use the vector registers. The rest is up to the
                // caller.
                unsafe {
                    asm!(
                        ".option push",
                        ".option arch, +v",
                        "csrwi vstart, 0",
                        "csrr {step}, vlenb",
                        "slli {step}, {step}, 3",
                        ".irp reg, 0, 8, 16, 24",
                        "vl8re8.v v\\reg, ({from})",
                        "add {from}, {from}, {step}",
                        ".endr",
                        "vsetivli zero, {count}, e8, m1, tu, ma",
                        "csrwi vcsr, {rounding}",
                        "li {status}, 0x20",
                        "csrc sstatus, {status}",
                        "csrwi vstart, {first}",
                        "2:",
                        $instruction,
                        "3:",
                        concat!(".if ", $fixup),
                        extable!("2b", "3b"),
                        ".endif",
                        "csrr {status}, sstatus",
                        "csrr {vstart}, vstart",
                        "csrr {vl}, vl",
                        "csrr {vtype}, vtype",
                        "csrr {vcsr}, vcsr",
                        "csrwi vstart, 0",
                        ".irp reg, 0, 8, 16, 24",
                        "vs8r.v v\\reg, ({to})",
                        "add {to}, {to}, {step}",
                        ".endr",
                        ".option pop",
                        count = const VL,
                        rounding = const VCSR,
                        first = const VSTART,
                        at = in(reg) at,
                        from = inout(reg) before.as_ptr() => _,
                        to = inout(reg) after.as_mut_ptr() => _,
                        step = out(reg) _,
                        vstart = out(reg) vstart,
                        vl = out(reg) vl,
                        vtype = out(reg) vtype,
                        vcsr = out(reg) vcsr,
                        status = out(reg) status,
                        options(nostack),
                    )
                };
                Control {
                    vstart,
                    vl,
                    vtype,
                    vcsr,
                    status,
                }
            }
        };
    }

    vector_access!(load, "0", "vle8.v v8, ({at})");
    vector_access!(store, "0", "vse8.v v8, ({at})");
    vector_access!(reported_load, "1", "vle8.v v8, ({at})");
    vector_access!(reported_store, "1", "vse8.v v8, ({at})");

    /// A kind of access.
    struct Kind {
        name: &'static str,
        access: Access,
        store: bool,
        /// Bytes from the start of the first new page.
        offset: usize,
        /// Nothing is ever mapped there.
        reported: bool,
    }

    /// There is a page boundary in the middle of the elements, and the second page is new: when the
    /// instruction faults, it has done a part.
    const ACROSS: usize = PAGE_SIZE - VL / 2;

    static KINDS: &[Kind] = &[
        Kind {
            name: "vector_load",
            access: load,
            store: false,
            offset: 0,
            reported: false,
        },
        Kind {
            name: "vector_store",
            access: store,
            store: true,
            offset: 0,
            reported: false,
        },
        Kind {
            name: "vector_load_second_page",
            access: load,
            store: false,
            offset: ACROSS,
            reported: false,
        },
        Kind {
            name: "vector_store_second_page",
            access: store,
            store: true,
            offset: ACROSS,
            reported: false,
        },
        Kind {
            name: "reported_vector_load",
            access: reported_load,
            store: false,
            offset: 0,
            reported: true,
        },
        Kind {
            name: "reported_vector_store",
            access: reported_store,
            store: true,
            offset: 0,
            reported: true,
        },
    ];

    /// A byte that differs from its neighbours and from those of memory.
    fn filling(index: usize) -> u8 {
        (pattern(1, index) >> 8) as u8
    }

    /// Makes one access.
    fn attempt(test: &Test, kind: &Kind, cpu: CpuId, reports: &Reports) -> Result<Outcome> {
        let report = reports.on(cpu)?;
        // SAFETY: It is set when the kernel boots, and only read afterwards.
        let size = unsafe { riscv_v_vsize };
        let length = size / REGISTERS;
        let mut before = KVec::with_capacity(size, GFP_KERNEL)?;
        for index in 0..size {
            before.push(filling(index), GFP_KERNEL)?;
        }
        let mut after = KVec::from_elem(0u8, size, GFP_KERNEL)?;
        let area = SparseArea::new(3, |word| pattern(0, word))?;
        let base = area.address(1).ok_or(EINVAL)?;
        let at = base + kind.offset;

        // Read the surroundings, then make the new mapping.
        area.map(0)?;
        read(&area, 0)?;
        if kind.offset != 0 {
            area.map(1)?;
            read(&area, WORDS_PER_PAGE)?;
            prime_here(test, &area, 2);
            area.map(2)?;
        } else if !kind.reported {
            prime_here(test, &area, 1);
            area.map(1)?;
        }

        report.count.store(0, Relaxed);
        // The first element that is accessed.
        report.address.store(at + VSTART, Relaxed);
        let unit = Unit::begin();
        let interrupts = local_interrupt_disable();
        // SAFETY: The bytes are ours, or the exception table has the instruction. The slices have
        // the size that the kernel allocates for the vector registers.
        let control = unsafe { (kind.access)(at, &before, &mut after) };
        drop(interrupts);
        drop(unit);
        report.address.store(0, Relaxed);

        let (name, cpu) = (kind.name, cpu.as_u32());
        let reported = u64::from(kind.reported);
        test.expect_eq(
            report.count.load(Relaxed),
            reported,
            fmt!("reports of {name} on CPU {cpu}"),
        );
        // An access that is not made is interrupted at its first element; others have ended.
        let vstart = if kind.reported { VSTART } else { 0 };
        test.expect_eq(
            control.vstart,
            vstart,
            fmt!("vstart after {name} on CPU {cpu}"),
        );
        test.expect_eq(control.vl, VL, fmt!("vl after {name} on CPU {cpu}"));
        test.expect_eq(
            Hex(control.vtype),
            Hex(VTYPE),
            fmt!("vtype after {name} on CPU {cpu}"),
        );
        test.expect_eq(
            Hex(control.vcsr),
            Hex(VCSR),
            fmt!("vcsr after {name} on CPU {cpu}"),
        );

        // Elements that the instruction has accessed.
        let accessed = if kind.reported { VL..VL } else { VSTART..VL };
        let offset = PAGE_SIZE + kind.offset;
        for (index, (found, filled)) in after.iter().zip(&before).enumerate() {
            let (register, element) = (index / length, index % length);
            let expected = if register == DATA && !kind.store && accessed.contains(&element) {
                at_byte(offset + element, |word| Ok(pattern(0, word)))?
            } else {
                *filled
            };
            if *found != expected {
                test.fail(fmt!(
                    "{found:#x} != {expected:#x}: byte {element} of v{register}, {name}, CPU {cpu}"
                ));
            }
        }
        if kind.reported {
            return Ok(Outcome::Trapped);
        }
        for element in 0..VL {
            let expected = if kind.store && accessed.contains(&element) {
                filling(DATA * length + element)
            } else {
                at_byte(offset + element, |word| Ok(pattern(0, word)))?
            };
            let found = at_byte(offset + element, |word| read(&area, word))?;
            if found != expected {
                test.fail(fmt!(
                    "{found:#x} != {expected:#x}: byte {element} of memory, {name}, CPU {cpu}"
                ));
            }
        }
        Ok(if control.status & SPIE != 0 {
            Outcome::Trapped
        } else {
            Outcome::Quiet
        })
    }

    /// The byte at `offset` of what consists of words.
    fn at_byte(offset: usize, word: impl Fn(usize) -> Result<u64>) -> Result<u8> {
        let byte = offset % size_of::<u64>();
        Ok((word(offset / size_of::<u64>())? >> (8 * byte)) as u8)
    }

    /// Whether this hart executes the instructions that are tested when vstart is not 0. It may
    /// refuse each value that it would never produce there itself (RISC-V ISA, "Vector Start Index
    /// CSR").
    fn starts_in_the_middle() -> Result<bool> {
        // SAFETY: It is set when the kernel boots, and only read afterwards.
        let size = unsafe { riscv_v_vsize };
        let before = KVec::from_elem(0u8, size, GFP_KERNEL)?;
        let mut after = KVec::from_elem(0u8, size, GFP_KERNEL)?;
        let mut memory = [0u8; VL];
        let at = memory.as_mut_ptr().expose_provenance();
        for access in [reported_load as Access, reported_store] {
            let unit = Unit::begin();
            let interrupts = local_interrupt_disable();
            // SAFETY: The bytes are ours. The slices have the size that the kernel allocates for
            // the vector registers.
            let control = unsafe { access(at, &before, &mut after) };
            drop(interrupts);
            drop(unit);
            // The exception table continues behind it, and vstart stays.
            if control.vstart != 0 {
                return Ok(false);
            }
        }
        Ok(true)
    }

    pub(super) fn registers_kept(test: &Test) -> kselftest::Result {
        // SAFETY: Without a bitmap, what is tested is the one of all CPUs.
        let has_vectors = unsafe {
            bindings::__riscv_isa_extension_available(
                core::ptr::null(),
                bindings::RISCV_ISA_EXT_ZVE32X,
            )
        };
        // SAFETY: It is set when the kernel boots, and only read afterwards.
        let length = unsafe { riscv_v_vsize } / REGISTERS;
        if !has_vectors || length <= VL {
            return Err(test.skip(fmt!("no vector registers of {} bytes or more", VL + 1)));
        }
        if !starts_in_the_middle()? {
            return Err(test.skip(fmt!(
                "this hart starts no load or store of vectors at element {VSTART}"
            )));
        }
        let reports = Reports::new()?;
        let (reported, absorbed): (&[Kind], &[Kind]) = (&KINDS[4..], &KINDS[..4]);
        let report_all = |cpu| {
            for kind in reported {
                if let Err(error) = attempt(test, kind, cpu, &reports) {
                    test.fail(fmt!("{}: {error:?}", kind.name));
                }
            }
        };
        traced(test, &reports, || {
            attempt_all(
                test,
                absorbed,
                |kind| kind.name,
                |kind, cpu, _| attempt(test, kind, cpu, &reports),
            )?;
            kthread::on_each_cpu(report_all, || {})?;
            Ok(())
        })
    }
}

/// Enough for the callers of a module's tests.
const DEPTH: usize = 64;

/// `leaf()` and the functions that it calls to take a trace, `stack_trace_save()` included.
const INNERMOST: usize = 4;

/// A stack trace.
struct Trace {
    entries: [usize; DEPTH],
    count: usize,
}

impl Trace {
    const fn new() -> Self {
        Self {
            entries: [0; DEPTH],
            count: 0,
        }
    }

    #[inline(never)]
    fn take(&mut self) {
        self.count = stacktrace::save(&mut self.entries).len();
    }

    /// Everything above the innermost `skip`.
    fn callers(&self, skip: usize) -> &[usize] {
        self.entries.get(skip..self.count).unwrap_or(&[])
    }
}

/// Takes a stack trace when a page fault at a certain address is handled.
struct Tracer {
    address: usize,
    /// The trace, and how deep it is, once a fault has been handled.
    entries: KVec<Atomic<usize>>,
    count: Atomic<usize>,
}

impl Probe<PageFaultKernel> for Tracer {
    fn fire(&self, args: &<PageFaultKernel as Tracepoint>::Args, _context: ()) {
        if args.0 != self.address {
            return;
        }
        let mut trace = Trace::new();
        trace.take();
        for (to, from) in self.entries.iter().zip(trace.callers(0)) {
            to.store(*from, Relaxed);
        }
        self.count.store(trace.count, Relaxed);
    }
}

/// Reads a word of an area and then takes a trace; one of two words is at a bad address.
#[inline(never)]
fn leaf(area: &SparseArea, word: usize, trace: &mut Trace) -> Result<u64> {
    let value = area.read_nofault(word);
    trace.take();
    value
}

#[inline(never)]
fn branch(area: &SparseArea, word: usize, trace: &mut Trace) -> Result<u64> {
    let value = leaf(area, word, trace);
    // Not a tail call.
    core::hint::black_box(trace).count += 0;
    value
}

fn stack_traces(test: &Test, area: &SparseArea, tracer: &Tracer) -> kselftest::Result {
    let mut traces = [const { Trace::new() }; 3];

    // The reads of `leaf()` are made by a C function, which does not tell what they meet.
    let met = Met::new();
    prime_here(test, area, 0);
    area.map(0)?;
    test.expect_eq(
        area.word(0).map(|word| met.touch(Place::Task, word)),
        Some(pattern(0, 0)),
        fmt!("word 0"),
    );
    prime_here(test, area, 1);
    area.map(1)?;
    let values = [WORDS_PER_PAGE, WORDS_PER_PAGE, 2 * WORDS_PER_PAGE];
    let expected = [
        Ok(pattern(0, WORDS_PER_PAGE)),
        Ok(pattern(0, WORDS_PER_PAGE)),
        Err(EFAULT),
    ];
    for ((trace, word), expected) in traces.iter_mut().zip(values).zip(expected) {
        test.expect_eq(branch(area, word, trace), expected, fmt!("word {word}"));
    }

    let [new, old, bad] = &traces;
    test.report("depth", old.count as u64);
    test.require(
        (5..DEPTH).contains(&old.count),
        fmt!("a stack trace from a module is {} deep", old.count),
    )?;
    test.expect_eq(new.callers(0), old.callers(0), fmt!("after a new mapping"));
    test.expect_eq(bad.callers(0), old.callers(0), fmt!("after a bad access"));

    // Further out than `leaf()`, which is at another place, all must be the same.
    let count = tracer.count.load(Relaxed);
    let inside = tracer.entries.get(..count).unwrap_or(&[]);
    let same = inside
        .iter()
        .rev()
        .zip(old.callers(0).iter().rev())
        .take_while(|(inside, outside)| inside.load(Relaxed) == **outside)
        .count();
    test.expect_eq(
        same.max(old.count - INNERMOST),
        same,
        fmt!("callers that are the same in the handler"),
    );
    met.report(test);
    Ok(())
}

#[kselftests]
mod tests {
    use super::*;

    /// Each kind of access to a new page, with a pattern in all registers.
    #[test]
    fn registers_kept(test: &Test) -> kselftest::Result {
        require_fpu(test)?;
        let mut kinds = KVec::new();
        for kind in KINDS.iter().filter(|kind| kind.exists()) {
            kinds.push(kind, GFP_KERNEL)?;
        }
        attempt_all(
            test,
            &kinds,
            |kind| kind.name,
            |kind, cpu, texts| attempt(test, kind, cpu, texts),
        )
    }

    /// What the handler of a fault that is not absorbed finds, and what it leaves behind.
    #[test]
    fn registers_in_reports(test: &Test) -> kselftest::Result {
        require_fpu(test)?;
        let reports = Reports::new()?;
        let reported = Atomic::new(0u64);
        let met = Met::new();
        let report_all = |cpu| {
            for _ in 0..module_parameters::rounds.value() {
                for kind in REPORTED.iter().filter(|kind| exists(kind.0)) {
                    if kthread::should_stop() {
                        return;
                    }
                    let attempted = reports
                        .on(cpu)
                        .and_then(|report| attempt_reported(test, &met, kind, report, cpu));
                    match attempted {
                        Ok(()) => {
                            reported.fetch_add(1, Relaxed);
                        }
                        Err(error) => test.fail(fmt!("{}: {error:?}", kind.0)),
                    }
                }
            }
        };
        traced(test, &reports, || {
            Ok(kthread::on_each_cpu(report_all, || {})?)
        })?;
        test.report_some("bad accesses", reported.load(Relaxed));
        met.report(test);
        Ok(())
    }

    /// Vector accesses to new and to bad pages, with a pattern in all vector registers.
    #[test]
    #[cfg(CONFIG_RISCV_ISA_V)]
    fn vector_registers_kept(test: &Test) -> kselftest::Result {
        vector::registers_kept(test)
    }

    /// The callers are the same right after a spurious fault, in the handling of a genuine one, and
    /// when nothing happened.
    #[test]
    fn stack_trace_complete(test: &Test) -> kselftest::Result {
        let area = SparseArea::new(3, |word| pattern(0, word))?;
        let mut entries = KVec::with_capacity(DEPTH, GFP_KERNEL)?;
        for _ in 0..DEPTH {
            entries.push(Atomic::new(0), GFP_KERNEL)?;
        }
        let tracer = Tracer {
            address: area.address(2).ok_or(EINVAL)?,
            entries,
            count: Atomic::new(0),
        };
        traced(test, &tracer, || stack_traces(test, &area, &tracer))
    }
}
