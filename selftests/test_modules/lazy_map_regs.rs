// SPDX-License-Identifier: GPL-2.0

//! Registers around a spurious fault.
//!
//! An access to a new mapping may be interrupted by a fault that the kernel absorbs before it saves
//! any register. Whatever the instruction was, it must be executed as if nothing had happened: with
//! a pattern in all registers, the same is there afterwards, and memory and the destination have
//! what the instruction gives them.
//!
//! The pattern is in x1 to x31, sp and gp included, because nothing of the kernel is called and
//! interrupts are disabled. Two registers have a value of their own: tp, by which the kernel finds
//! the current task when it traps, and the one with the address. They are compared as well.
//!
//! On a hart that does not cache invalid translations nothing faults. Whether there was a trap can
//! be told from sstatus: `sret` sets SPIE, which was cleared before. If one kind of access ever
//! faulted, all others must have.
//!
//! Loading the module runs the test, see `kernel::kselftest`.

use core::arch::asm;
use kernel::{
    cpu::CpuId,
    execmem::Text,
    interrupt::local_interrupt_disable,
    kselftest::{
        self,
        pattern,
        Test, //
    },
    kthread,
    page::PAGE_SIZE,
    prelude::*,
    stacktrace,
    sync::atomic::{
        Atomic,
        Relaxed, //
    },
    tracepoint::probe::{
        PageFaultKernel,
        Probe,
        Registration,
        Tracepoint, //
    },
    vmalloc::{
        SparseArea,
        WORDS_PER_PAGE, //
    },
};

kernel::kselftest! {
    cases: [
        registers_kept,
        stack_trace_complete,
    ],
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
    },
}

/// sstatus.SPIE
const SPIE: u64 = 1 << 5;

// Page 0 of an area is in use; its last words, below the new page, hold the registers. Numbers of
// words from the start of the area:
const IN: usize = WORDS_PER_PAGE - 256;
const OUT: usize = WORDS_PER_PAGE - 224;
const KERNEL_SP: usize = WORDS_PER_PAGE - 190;
const STATUS: usize = WORDS_PER_PAGE - 160;
const FP_IN: usize = WORDS_PER_PAGE - 158;
const FP_OUT: usize = WORDS_PER_PAGE - 157;
const NEXT: usize = WORDS_PER_PAGE - 156;

/// Declares a function that fills the registers, executes one instruction and saves the registers.
///
/// All is addressed relative to the end of page 0, which is in x`$base`. The instruction finds its
/// address in a5, or in sp if that is the base, and may use fs0. x`$keep` is not filled.
macro_rules! access {
    ($name:ident, base $base:literal, keep $keep:literal, $instruction:literal) => {
        /// # Safety
        ///
        /// `base` must be the end of a page that the caller owns. Interrupts must be disabled. The
        /// instruction may access what the words at [`IN`] make it access.
        unsafe fn $name(base: usize) {
            // SAFETY: All registers are restored from the page, but for those that are declared as
            // clobbered. The kernel's stack and the FP unit are not used in between. The rest is
            // the caller's.
            unsafe {
                asm!(
                    ".option push",
                    ".option arch, +d, +c",
                    // Keep what belongs to the kernel.
                    ".irp reg, 1, 2, 3, 8, 9, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27",
                    "sd x\\reg, -1536 + 8 * \\reg(a0)",
                    ".endr",
                    // The kernel does not use the FP unit, so its state is some task's that has
                    // been saved already.
                    "li t0, 0x6000",
                    "csrs sstatus, t0",
                    "fsd fs0, -1272(a0)",
                    "fld fs0, -1264(a0)",
                    // Clear SPIE: the next sret sets it.
                    "li t0, 0x20",
                    "csrc sstatus, t0",
                    "lla t0, 9f",
                    "sd t0, -1248(a0)",
                    concat!("mv x", $base, ", a0"),
                    ".irp reg, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, \
                        20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31",
                    concat!(".if (\\reg - ", $base, ") * (\\reg - ", $keep, ")"),
                    concat!("ld x\\reg, -2048 + 8 * \\reg(x", $base, ")"),
                    ".endif",
                    ".endr",
                    $instruction,
                    "9:",
                    ".irp reg, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, \
                        20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31",
                    concat!("sd x\\reg, -1792 + 8 * \\reg(x", $base, ")"),
                    ".endr",
                    concat!("mv a0, x", $base),
                    "csrr t0, sstatus",
                    "sd t0, -1280(a0)",
                    "fsd fs0, -1256(a0)",
                    "fld fs0, -1272(a0)",
                    "li t0, 0x6000",
                    "csrc sstatus, t0",
                    ".irp reg, 1, 2, 3, 8, 9, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27",
                    "ld x\\reg, -1536 + 8 * \\reg(a0)",
                    ".endr",
                    ".option pop",
                    inout("a0") base => _,
                    clobber_abi("C"),
                )
            };
        }
    };
}

access!(load, base "10", keep "4", "ld t0, 0(a5)");
access!(load_byte, base "10", keep "4", "lbu t6, 0(a5)");
access!(store, base "10", keep "4", "sd t1, 0(a5)");
access!(amo, base "10", keep "4", "amoadd.d t3, t4, (a5)");
access!(load_reserved, base "10", keep "4", "lr.d s11, (a5)");
access!(compressed_load, base "10", keep "4", "c.ld a2, 0(a5)");
access!(compressed_store, base "10", keep "4", "c.sd a3, 0(a5)");
access!(stack_load, base "2", keep "4", "c.ldsp a0, 0(sp)");
access!(stack_store, base "2", keep "4", "c.sdsp a1, 0(sp)");
access!(fp_load, base "10", keep "4", "fld fs0, 0(a5)");
access!(fp_store, base "10", keep "4", "fsd fs0, 0(a5)");
access!(compressed_fp_load, base "10", keep "4", "c.fld fs0, 0(a5)");
access!(compressed_fp_store, base "10", keep "4", "c.fsd fs0, 0(a5)");
access!(misaligned_load, base "10", keep "2", "ld t0, 0(a5)");
access!(misaligned_store, base "10", keep "2", "sd t1, 0(a5)");
access!(fetch, base "10", keep "4", "jalr t0, 0(a5)");

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
    LoadFp,
    /// Stores the FP register to the word.
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

    /// Across the boundary between two pages.
    const fn across(mut self, second: bool) -> Self {
        self.offset = PAGE_SIZE - 2;
        self.second = second;
        self
    }
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
    Kind::new("fp_load", fp_load, Effect::LoadFp),
    Kind::new("fp_store", fp_store, Effect::StoreFp),
    Kind::new("compressed_fp_load", compressed_fp_load, Effect::LoadFp),
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
    Text::new(&code)
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

/// A number that is shown in hexadecimal.
#[derive(PartialEq)]
struct Hex(u64);

impl core::fmt::Debug for Hex {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{:#018x}", self.0)
    }
}

/// Makes one access; returns whether there was a trap. What it executes is added to `texts`: to
/// free it makes all CPUs forget their translations.
fn attempt(test: &Test, kind: &Kind, cpu: CpuId, texts: &mut KVec<Text>) -> Result<bool> {
    let area = SparseArea::new(3, |word| pattern(0, word))?;
    let base = area.address(1).ok_or(EINVAL)?;
    let offset = PAGE_SIZE + kind.offset;
    let call = matches!(kind.effect, Effect::Call);

    // This CPU looks at the surroundings, and may remember that nothing is mapped there.
    area.map(0)?;
    write(&area, FP_IN, pattern(0, FP_IN))?;
    for register in 1..32 {
        write(&area, IN + register, pattern(0, IN + register))?;
    }
    write(&area, IN + A5, base as u64 + kind.offset as u64)?;
    if kind.second {
        area.map(1)?;
        read(&area, WORDS_PER_PAGE)?;
    }
    if call {
        let nearby = text(0)?;
        write(&area, IN + A5, nearby.address() as u64)?;
        let interrupts = local_interrupt_disable();
        // SAFETY: `base` is the end of a page of ours, and what is called returns.
        unsafe { (kind.access)(base) };
        drop(interrupts);
        texts.push(nearby, GFP_KERNEL)?;
    }

    // Something new.
    if call {
        let target = text(kind.offset)?;
        let address = target.address() + kind.offset;
        write(&area, IN + A5, address as u64)?;
        texts.push(target, GFP_KERNEL)?;
    } else {
        if !kind.second {
            area.map(1)?;
        }
        area.map(2)?;
    }
    let interrupts = local_interrupt_disable();
    // SAFETY: `base` is the end of a page of ours. What is accessed lies in the pages behind it,
    // and what is called returns.
    unsafe { (kind.access)(base) };
    drop(interrupts);

    // What must have come of it.
    let before = at(offset, |index| Ok(pattern(0, index)))?;
    let mut registers = [0u64; 32];
    for (number, register) in registers.iter_mut().enumerate().skip(1) {
        *register = read(&area, IN + number)?;
    }
    registers[kind.base] = base as u64;
    let mut fp = pattern(0, FP_IN);
    let mut after = before;
    match kind.effect {
        Effect::Load(to) => registers[to] = before,
        Effect::LoadByte(to) => registers[to] = before & 0xff,
        Effect::Store(from) => after = registers[from],
        Effect::Add(to, from) => {
            registers[to] = before;
            after = before.wrapping_add(registers[from]);
        }
        Effect::LoadFp => fp = before,
        Effect::StoreFp => after = fp,
        Effect::Call => registers[T0] = read(&area, NEXT)?,
    }
    registers[4] = current_task();
    if matches!(kind.effect, Effect::Load(_) | Effect::Store(_)) && kind.offset != 0 {
        registers[2] = read(&area, KERNEL_SP)?;
    }

    for (number, register) in registers.iter().enumerate().skip(1) {
        test.expect_eq(
            Hex(read(&area, OUT + number)?),
            Hex(*register),
            fmt!("x{number} after {} on CPU {}", kind.name, cpu.as_u32()),
        );
    }
    test.expect_eq(
        Hex(read(&area, FP_OUT)?),
        Hex(fp),
        fmt!("fs0 after {} on CPU {}", kind.name, cpu.as_u32()),
    );
    if !call {
        test.expect_eq(
            Hex(at(offset, |index| read(&area, index))?),
            Hex(after),
            fmt!("memory after {} on CPU {}", kind.name, cpu.as_u32()),
        );
    }
    Ok(read(&area, STATUS)? & SPIE != 0)
}

/// More accesses on each CPU of a kind that has not faulted yet, while others have. A CPU that has
/// fenced for some other reason after it looked at the surroundings does not fault.
const EXTRA: u32 = 200;

/// Whether some kinds of access have faulted, but not all.
fn incomplete(traps: &[Atomic<u64>]) -> bool {
    let faulted = traps.iter().filter(|traps| traps.load(Relaxed) != 0);
    (1..traps.len()).contains(&faulted.count())
}

/// So much code is kept on each CPU before any is freed.
const TEXTS: usize = 256;

/// An access of each kind on all CPUs, while they all make new mappings.
fn registers_kept(test: &Test) -> kselftest::Result {
    let rounds = module_parameters::rounds.value();
    let touches = Atomic::new(0u64);
    let mut traps = KVec::with_capacity(KINDS.len(), GFP_KERNEL)?;
    for _ in KINDS {
        traps.push(Atomic::new(0u64), GFP_KERNEL)?;
    }

    kthread::on_each_cpu_of_group(
        |member| {
            let cpu = member.cpu;
            // New code interrupts all CPUs, and so takes the longer the more there are.
            let rounds = u32::max(1, rounds.saturating_mul(4) / member.count.max(4));
            let mut texts = KVec::new();
            for round in 0..rounds + EXTRA {
                if round >= rounds && !incomplete(&traps) {
                    break;
                }
                if texts.len() > TEXTS {
                    texts.clear();
                }
                for (kind, traps) in KINDS.iter().zip(&traps) {
                    if round >= rounds && traps.load(Relaxed) != 0 {
                        continue;
                    }
                    match attempt(test, kind, cpu, &mut texts) {
                        Ok(trapped) => {
                            touches.fetch_add(1, Relaxed);
                            traps.fetch_add(trapped.into(), Relaxed);
                        }
                        Err(error) => test.fail(fmt!("{}: {error:?}", kind.name)),
                    }
                }
            }
        },
        || {},
    )?;

    test.report_some("touches", touches.load(Relaxed));
    let spurious = traps.iter().map(|traps| traps.load(Relaxed)).sum();
    test.report("spurious faults", spurious);
    if spurious != 0 {
        for (kind, traps) in KINDS.iter().zip(&traps) {
            test.report_some(kind.name, traps.load(Relaxed));
        }
    }
    Ok(())
}

/// Enough for what calls a module's tests.
const DEPTH: usize = 64;

/// `leaf()` and what it calls to take a trace, `stack_trace_save()` included.
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

    /// All that is above the innermost `skip`.
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
    fn fire(&self, args: &<PageFaultKernel as Tracepoint>::Args) {
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

/// The callers are the same right after a spurious fault, in the handling of a genuine one, and
/// when nothing happened.
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
    let tracer =
        KBox::pin_init(Registration::new(tracer), GFP_KERNEL).map_err(|error| match error {
            ENOENT => test.skip(fmt!("no tracepoint {}", PageFaultKernel::NAME)),
            error => error.into(),
        })?;
    let mut traces = [const { Trace::new() }; 3];

    area.map(0)?;
    let _ = read(&area, 0)?;
    area.map(1)?;
    let values = [WORDS_PER_PAGE, WORDS_PER_PAGE, 2 * WORDS_PER_PAGE];
    let expected = [
        Ok(pattern(0, WORDS_PER_PAGE)),
        Ok(pattern(0, WORDS_PER_PAGE)),
        Err(EFAULT),
    ];
    for ((trace, word), expected) in traces.iter_mut().zip(values).zip(expected) {
        test.expect_eq(branch(&area, word, trace), expected, fmt!("word {word}"));
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
    let count = tracer.probe().count.load(Relaxed);
    let inside = tracer.probe().entries.get(..count).unwrap_or(&[]);
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
    Ok(())
}
