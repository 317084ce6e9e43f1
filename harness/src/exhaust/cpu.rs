// SPDX-License-Identifier: GPL-2.0-only
//! A hart: registers, CSRs, and what an instruction does to them. Knows nothing of Linux.
//!
//! RISC-V Instruction Set Manual, Volume I (RV64I, M, A, C, Zicsr) and Volume II (supervisor level).

use riscv_isa::Instruction;

/// A value that is known, or one that only has an identity: a branch on it may go either way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Val {
    /// The bits, or a name for them.
    pub bits: u64,
    pub known: bool,
}

impl Val {
    /// A known value.
    pub const fn of(bits: u64) -> Self {
        Self { bits, known: true }
    }

    /// A value that nobody knows. Equal names are equal values.
    pub const fn named(bits: u64) -> Self {
        Self { bits, known: false }
    }

    fn map(self, f: impl FnOnce(u64) -> u64) -> Self {
        if self.known { Self::of(f(self.bits)) } else { Self::named(mixed(self.bits, f(self.bits))) }
    }

    fn with(self, other: Self, f: impl FnOnce(u64, u64) -> u64) -> Self {
        let bits = f(self.bits, other.bits);
        if self.known && other.known { Self::of(bits) } else { Self::named(mixed(self.bits ^ bits, other.bits)) }
    }
}

/// Another name, for the result of a computation with an unknown value.
fn mixed(a: u64, b: u64) -> u64 {
    (a ^ b.rotate_left(23)).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1
}

/// The integer registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Regs(pub [Val; 32]);

impl Regs {
    /// All zero.
    pub const ZERO: Self = Self([Val::of(0); 32]);

    /// Reads a register.
    pub fn get(&self, register: u32) -> Val {
        self.0[register as usize & 31]
    }

    /// Writes a register; x0 stays zero.
    pub fn set(&mut self, register: u32, value: Val) {
        if register != 0 {
            self.0[register as usize & 31] = value;
        }
    }
}

/// The registers' ABI names.
pub const NAMES: [&str; 32] = [
    "zero", "ra", "sp", "gp", "tp", "t0", "t1", "t2", "s0", "s1", "a0", "a1", "a2", "a3", "a4", "a5", "a6", "a7", "s2",
    "s3", "s4", "s5", "s6", "s7", "s8", "s9", "s10", "s11", "t3", "t4", "t5", "t6",
];
pub const RA: u32 = 1;
pub const SP: u32 = 2;
pub const GP: u32 = 3;
pub const TP: u32 = 4;
pub const S0: u32 = 8;
pub const A0: u32 = 10;
pub const A1: u32 = 11;

/// Whether a function keeps the register (psABI).
pub fn is_saved(register: u32) -> bool {
    matches!(register, 2..=4 | 8 | 9 | 18..=27)
}

pub const SSTATUS: u32 = 0x100;
pub const STVEC: u32 = 0x105;
pub const SSCRATCH: u32 = 0x140;
pub const SEPC: u32 = 0x141;
pub const SCAUSE: u32 = 0x142;
pub const STVAL: u32 = 0x143;
pub const SATP: u32 = 0x180;
/// Shadow stack pointer (Zicfiss).
const SSP: u32 = 0x011;
/// CSRs whose values do not matter here: fflags, frm, fcsr, vstart, vxsat, vxrm, vcsr, vl, vtype, vlenb,
/// senvcfg, srmcfg.
const OPAQUE: [u32; 12] = [0x001, 0x002, 0x003, 0x008, 0x009, 0x00a, 0x00f, 0xc20, 0xc21, 0xc22, 0x10a, 0x181];

/// Bits of sstatus.
pub const SIE: u64 = 1 << 1;
pub const SPIE: u64 = 1 << 5;
pub const SPP: u64 = 1 << 8;
pub const VS: u64 = 3 << 9;
pub const FS: u64 = 3 << 13;
pub const SUM: u64 = 1 << 18;
/// UXL: user mode has 64 bits. Never changes.
pub const UXL: u64 = 2 << 32;

/// sstatus after a trap from user mode, or from the supervisor. (Volume II, "Privilege and Global Interrupt-Enable Stack".)
pub fn status_at_trap(before: u64, user: bool) -> u64 {
    let spie = if before & SIE != 0 { SPIE } else { 0 };
    let spp = if user { 0 } else { SPP };
    before & !(SIE | SPIE | SPP) | spie | spp
}

/// sstatus after SRET.
pub fn status_after_sret(before: u64) -> u64 {
    let sie = if before & SPIE != 0 { SIE } else { 0 };
    before & !(SIE | SPP) | SPIE | sie
}

/// Bit 63 of scause: an interrupt.
pub const INTERRUPT: u64 = 1 << 63;
pub const FETCH_FAULT: u64 = 12;
pub const LOAD_FAULT: u64 = 13;
pub const STORE_FAULT: u64 = 15;

/// The CSRs of the supervisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Csrs {
    pub status: u64,
    pub scratch: Val,
    pub epc: Val,
    pub cause: Val,
    pub tval: Val,
    pub vec: u64,
    pub ssp: Val,
}

/// How an instruction accesses memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    Load,
    Store,
}

/// What an instruction accesses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Touch {
    pub access: Access,
    pub address: Val,
    /// In bytes.
    pub size: u8,
    /// An AMO, LR or SC.
    pub atomic: bool,
}

/// What comes after an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// The next one.
    On,
    /// A jump or a branch that is taken.
    Jump(Val),
    /// A branch on an unknown value: there, or on.
    Either(u64),
    Sret,
    /// `sfence.vma`, with the address if it has one.
    Fence(Option<Val>),
    /// `csrw`/`csrrw` of a CSR, by number.
    Wrote(u32),
    Ebreak,
    /// An SC that may store or not: the address, and what it stores.
    MaySc(u64, Val, u32),
    Wfi,
}

/// What the interpreter does not do; never ignored.
pub type Refused = String;

/// Memory, as an instruction sees it. Words are 64 bits and aligned.
pub trait Memory {
    /// The word at `address`.
    fn word(&self, address: u64) -> Option<Val>;
    /// Stores a word; false if nothing can be stored there.
    fn set_word(&mut self, address: u64, value: Val) -> bool;
}

fn offset(base: Val, by: i32) -> Val {
    base.map(|b| b.wrapping_add_signed(i64::from(by)))
}

/// The access to memory that `instruction` makes.
pub fn touch(instruction: Instruction, regs: &Regs) -> Option<Touch> {
    use Instruction as I;
    let at = |rs1: u32, by: i32| if by == 0 { regs.get(rs1) } else { offset(regs.get(rs1), by) };
    let plain = |access, address, size| Some(Touch { access, address, size, atomic: false });
    let amo = |rs1, size| Some(Touch { access: Access::Store, address: regs.get(rs1), size, atomic: true });
    match instruction {
        I::LB { rs1, offset, .. } | I::LBU { rs1, offset, .. } => plain(Access::Load, at(rs1, offset), 1),
        I::LH { rs1, offset, .. } | I::LHU { rs1, offset, .. } => plain(Access::Load, at(rs1, offset), 2),
        I::LW { rs1, offset, .. } | I::LWU { rs1, offset, .. } => plain(Access::Load, at(rs1, offset), 4),
        I::LD { rs1, offset, .. } | I::FLD { rs1, offset, .. } => plain(Access::Load, at(rs1, offset), 8),
        I::SB { rs1, offset, .. } => plain(Access::Store, at(rs1, offset), 1),
        I::SH { rs1, offset, .. } => plain(Access::Store, at(rs1, offset), 2),
        I::SW { rs1, offset, .. } => plain(Access::Store, at(rs1, offset), 4),
        I::SD { rs1, offset, .. } | I::FSD { rs1, offset, .. } => plain(Access::Store, at(rs1, offset), 8),
        I::LR_W { rs1, .. } => Some(Touch { access: Access::Load, address: regs.get(rs1), size: 4, atomic: true }),
        I::LR_D { rs1, .. } => Some(Touch { access: Access::Load, address: regs.get(rs1), size: 8, atomic: true }),
        I::SC_W { rs1, .. }
        | I::AMOSWAP_W { rs1, .. }
        | I::AMOADD_W { rs1, .. }
        | I::AMOXOR_W { rs1, .. }
        | I::AMOAND_W { rs1, .. }
        | I::AMOOR_W { rs1, .. }
        | I::AMOMIN_W { rs1, .. }
        | I::AMOMAX_W { rs1, .. }
        | I::AMOMINU_W { rs1, .. }
        | I::AMOMAXU_W { rs1, .. } => amo(rs1, 4),
        I::SC_D { rs1, .. }
        | I::AMOSWAP_D { rs1, .. }
        | I::AMOADD_D { rs1, .. }
        | I::AMOXOR_D { rs1, .. }
        | I::AMOAND_D { rs1, .. }
        | I::AMOOR_D { rs1, .. }
        | I::AMOMIN_D { rs1, .. }
        | I::AMOMAX_D { rs1, .. }
        | I::AMOMINU_D { rs1, .. }
        | I::AMOMAXU_D { rs1, .. } => amo(rs1, 8),
        _ => None,
    }
}

/// Whether an instruction is an AMO or an SC.
pub fn is_amo(instruction: Instruction) -> bool {
    touch(instruction, &Regs::ZERO).is_some_and(|t| t.atomic && t.access == Access::Store)
}

/// Reads `size` bytes; they may not cross a word.
pub fn load(memory: &impl Memory, address: u64, size: u8, signed: bool) -> Result<Val, Refused> {
    let (word, within) = (address & !7, address & 7);
    if within + u64::from(size) > 8 {
        return Err(format!("a misaligned access to {address:#x}"));
    }
    let value = memory.word(word).ok_or_else(|| format!("a load from {address:#x}, where nothing is"))?;
    if size == 8 {
        return Ok(value);
    }
    let bits = u32::from(size) * 8;
    Ok(value.map(|v| {
        let v = v >> (within * 8) << (64 - bits);
        if signed { (v as i64 >> (64 - bits)) as u64 } else { v >> (64 - bits) }
    }))
}

/// Writes `size` bytes.
pub fn store(memory: &mut impl Memory, address: u64, size: u8, value: Val) -> Result<(), Refused> {
    let (word, within) = (address & !7, address & 7);
    if within + u64::from(size) > 8 {
        return Err(format!("a misaligned access to {address:#x}"));
    }
    let nowhere = || format!("a store to {address:#x}, where nothing is");
    let new = if size == 8 {
        value
    } else {
        let old = memory.word(word).ok_or_else(nowhere)?;
        let mask = ((1u64 << (u32::from(size) * 8)) - 1) << (within * 8);
        let bits = old.bits & !mask | value.bits << (within * 8) & mask;
        Val { bits, known: old.known && value.known }
    };
    if memory.set_word(word, new) { Ok(()) } else { Err(nowhere()) }
}

fn high(a: i128, b: i128) -> u64 {
    ((a * b) >> 64) as u64
}

fn wide(x: u32) -> u64 {
    i64::from(x as i32) as u64
}

fn divided(a: u64, b: u64) -> u64 {
    if b == 0 { u64::MAX } else { (a as i64).wrapping_div(b as i64) as u64 }
}

fn rest(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { (a as i64).wrapping_rem(b as i64) as u64 }
}

/// Executes one instruction at `pc`. An access that it makes has been granted. For an address that is
/// unknown, `wild` says whether loads from there give an unknown value and stores are dropped; otherwise
/// it is refused.
pub fn execute(
    instruction: Instruction,
    (pc, len): (u64, u8),
    regs: &mut Regs,
    csrs: &mut Csrs,
    memory: &mut impl Memory,
    wild: bool,
) -> Result<Next, Refused> {
    use Instruction as I;
    let after = pc + u64::from(len);
    let branch = |taken: Option<bool>, by: i32| {
        let there = pc.wrapping_add_signed(i64::from(by));
        match taken {
            None => Next::Either(there),
            Some(true) => Next::Jump(Val::of(there)),
            Some(false) => Next::On,
        }
    };
    let compare = |regs: &Regs, a: u32, b: u32, f: fn(u64, u64) -> bool| {
        let (x, y) = (regs.get(a), regs.get(b));
        // Equal names are equal values.
        if a == b || x == y {
            return Some(f(0, 0));
        }
        (x.known && y.known).then(|| f(x.bits, y.bits))
    };
    let mut alu = |rd: u32, value: Val| {
        regs.set(rd, value);
        Ok(Next::On)
    };
    macro_rules! rr {
        ($rd:expr, $rs1:expr, $rs2:expr, $f:expr) => {{
            let value = regs.get($rs1).with(regs.get($rs2), $f);
            regs.set($rd, value);
            Ok(Next::On)
        }};
    }
    macro_rules! ri {
        ($rd:expr, $rs1:expr, $f:expr) => {{
            let value = regs.get($rs1).map($f);
            regs.set($rd, value);
            Ok(Next::On)
        }};
    }
    macro_rules! fetch {
        ($rd:expr, $size:expr, $signed:expr) => {{
            let Some(Touch { address, .. }) = touch(instruction, regs) else { return Err("no access".to_owned()) };
            let value = match address.known {
                true => match load(memory, address.bits, $size, $signed) {
                    Err(_) if wild => Val::named(mixed(address.bits, $size)),
                    other => other?,
                },
                false if wild => Val::named(mixed(address.bits, $size)),
                false => return Err(unknown(address)),
            };
            regs.set($rd, value);
            Ok(Next::On)
        }};
    }
    macro_rules! put {
        ($rs2:expr, $size:expr) => {{
            let Some(Touch { address, .. }) = touch(instruction, regs) else { return Err("no access".to_owned()) };
            match address.known {
                true => match store(memory, address.bits, $size, regs.get($rs2)) {
                    Err(_) if wild => {}
                    other => other?,
                },
                false if wild => {}
                false => return Err(unknown(address)),
            }
            Ok(Next::On)
        }};
    }
    macro_rules! amo {
        ($rd:expr, $rs1:expr, $rs2:expr, $size:expr, $f:expr) => {{
            let address = regs.get($rs1);
            if !address.known {
                if wild {
                    regs.set($rd, Val::named(mixed(address.bits, 3)));
                    return Ok(Next::On);
                }
                return Err(unknown(address));
            }
            let old = load(memory, address.bits, $size, true)?;
            store(memory, address.bits, $size, old.with(regs.get($rs2), $f))?;
            regs.set($rd, old);
            Ok(Next::On)
        }};
    }
    macro_rules! csr {
        ($rd:expr, $csr:expr, $write:expr, $f:expr) => {{
            let old = read_csr(csrs, $csr)?;
            if $write {
                write_csr(csrs, $csr, $f(old))?;
            }
            regs.set($rd, old);
            Ok(if $write { Next::Wrote($csr) } else { Next::On })
        }};
    }
    match instruction {
        I::LUI { rd, imm } => alu(rd, Val::of(wide(imm << 12))),
        I::AUIPC { rd, imm } => alu(rd, Val::of(pc.wrapping_add(wide(imm << 12)))),
        I::JAL { rd, offset } => {
            regs.set(rd, Val::of(after));
            Ok(Next::Jump(Val::of(pc.wrapping_add_signed(i64::from(offset)))))
        }
        I::JALR { rd, rs1, offset: by } => {
            let there = regs.get(rs1).map(|a| a.wrapping_add_signed(i64::from(by)) & !1);
            regs.set(rd, Val::of(after));
            Ok(Next::Jump(there))
        }
        I::BEQ { rs1, rs2, offset } => Ok(branch(compare(regs, rs1, rs2, |a, b| a == b), offset)),
        I::BNE { rs1, rs2, offset } => Ok(branch(compare(regs, rs1, rs2, |a, b| a != b), offset)),
        I::BLT { rs1, rs2, offset } => Ok(branch(compare(regs, rs1, rs2, |a, b| (a as i64) < b as i64), offset)),
        I::BGE { rs1, rs2, offset } => Ok(branch(compare(regs, rs1, rs2, |a, b| a as i64 >= b as i64), offset)),
        I::BLTU { rs1, rs2, offset } => Ok(branch(compare(regs, rs1, rs2, |a, b| a < b), offset)),
        I::BGEU { rs1, rs2, offset } => Ok(branch(compare(regs, rs1, rs2, |a, b| a >= b), offset)),
        I::LB { rd, .. } => fetch!(rd, 1, true),
        I::LH { rd, .. } => fetch!(rd, 2, true),
        I::LW { rd, .. } => fetch!(rd, 4, true),
        I::LBU { rd, .. } => fetch!(rd, 1, false),
        I::LHU { rd, .. } => fetch!(rd, 2, false),
        I::LWU { rd, .. } => fetch!(rd, 4, false),
        I::LD { rd, .. } => fetch!(rd, 8, true),
        I::SB { rs2, .. } => put!(rs2, 1),
        I::SH { rs2, .. } => put!(rs2, 2),
        I::SW { rs2, .. } => put!(rs2, 4),
        I::SD { rs2, .. } => put!(rs2, 8),
        // A move keeps an unknown value's name.
        I::ADDI { rd, rs1, imm: 0 } => {
            let value = regs.get(rs1);
            regs.set(rd, value);
            Ok(Next::On)
        }
        I::ADDI { rd, rs1, imm } => ri!(rd, rs1, |a| a.wrapping_add_signed(i64::from(imm))),
        I::SLTI { rd, rs1, imm } => ri!(rd, rs1, |a| u64::from((a as i64) < i64::from(imm))),
        I::SLTIU { rd, rs1, imm } => ri!(rd, rs1, |a| u64::from(a < i64::from(imm) as u64)),
        I::XORI { rd, rs1, imm } => ri!(rd, rs1, |a| a ^ i64::from(imm) as u64),
        I::ORI { rd, rs1, imm } => ri!(rd, rs1, |a| a | i64::from(imm) as u64),
        I::ANDI { rd, rs1, imm } => ri!(rd, rs1, |a| a & i64::from(imm) as u64),
        I::SLLI { rd, rs1, shamt } => ri!(rd, rs1, |a| a << (shamt & 63)),
        I::SRLI { rd, rs1, shamt } => ri!(rd, rs1, |a| a >> (shamt & 63)),
        I::SRAI { rd, rs1, shamt } => ri!(rd, rs1, |a| (a as i64 >> (shamt & 63)) as u64),
        I::ADD { rd, rs1: 0, rs2: from } | I::ADD { rd, rs1: from, rs2: 0 } => {
            let value = regs.get(from);
            regs.set(rd, value);
            Ok(Next::On)
        }
        I::ADD { rd, rs1, rs2 } => rr!(rd, rs1, rs2, u64::wrapping_add),
        I::SUB { rd, rs1, rs2 } => rr!(rd, rs1, rs2, u64::wrapping_sub),
        I::SLL { rd, rs1, rs2 } => rr!(rd, rs1, rs2, |a, b| a << (b & 63)),
        I::SLT { rd, rs1, rs2 } => rr!(rd, rs1, rs2, |a, b| u64::from((a as i64) < b as i64)),
        I::SLTU { rd, rs1, rs2 } => rr!(rd, rs1, rs2, |a, b| u64::from(a < b)),
        // The idiom for zero.
        I::XOR { rd, rs1, rs2 } if rs1 == rs2 => alu(rd, Val::of(0)),
        I::XOR { rd, rs1, rs2 } => rr!(rd, rs1, rs2, |a, b| a ^ b),
        I::SRL { rd, rs1, rs2 } => rr!(rd, rs1, rs2, |a, b| a >> (b & 63)),
        I::SRA { rd, rs1, rs2 } => rr!(rd, rs1, rs2, |a, b| (a as i64 >> (b & 63)) as u64),
        I::OR { rd, rs1, rs2 } => rr!(rd, rs1, rs2, |a, b| a | b),
        I::AND { rd, rs1, rs2 } => rr!(rd, rs1, rs2, |a, b| a & b),
        I::ADDIW { rd, rs1, imm } => ri!(rd, rs1, |a| wide((a as u32).wrapping_add_signed(imm))),
        I::SLLIW { rd, rs1, shamt } => ri!(rd, rs1, |a| wide((a as u32) << (shamt & 31))),
        I::SRLIW { rd, rs1, shamt } => ri!(rd, rs1, |a| wide(a as u32 >> (shamt & 31))),
        I::SRAIW { rd, rs1, shamt } => ri!(rd, rs1, |a| wide((a as i32 >> (shamt & 31)) as u32)),
        I::ADDW { rd, rs1, rs2 } => rr!(rd, rs1, rs2, |a, b| wide((a as u32).wrapping_add(b as u32))),
        I::SUBW { rd, rs1, rs2 } => rr!(rd, rs1, rs2, |a, b| wide((a as u32).wrapping_sub(b as u32))),
        I::SLLW { rd, rs1, rs2 } => rr!(rd, rs1, rs2, |a, b| wide((a as u32) << (b & 31))),
        I::SRLW { rd, rs1, rs2 } => rr!(rd, rs1, rs2, |a, b| wide(a as u32 >> (b & 31))),
        I::SRAW { rd, rs1, rs2 } => rr!(rd, rs1, rs2, |a, b| wide((a as i32 >> (b & 31)) as u32)),
        I::MUL { rd, rs1, rs2 } => rr!(rd, rs1, rs2, u64::wrapping_mul),
        I::MULH { rd, rs1, rs2 } => rr!(rd, rs1, rs2, |a, b| high(i128::from(a as i64), i128::from(b as i64))),
        I::MULHSU { rd, rs1, rs2 } => rr!(rd, rs1, rs2, |a, b| high(i128::from(a as i64), i128::from(b))),
        I::MULHU { rd, rs1, rs2 } => rr!(rd, rs1, rs2, |a, b| ((u128::from(a) * u128::from(b)) >> 64) as u64),
        I::MULW { rd, rs1, rs2 } => rr!(rd, rs1, rs2, |a, b| wide((a as u32).wrapping_mul(b as u32))),
        I::DIV { rd, rs1, rs2 } => rr!(rd, rs1, rs2, divided),
        I::DIVU { rd, rs1, rs2 } => rr!(rd, rs1, rs2, |a, b| a.checked_div(b).unwrap_or(u64::MAX)),
        I::REM { rd, rs1, rs2 } => rr!(rd, rs1, rs2, rest),
        I::REMU { rd, rs1, rs2 } => rr!(rd, rs1, rs2, |a, b| a.checked_rem(b).unwrap_or(a)),
        I::AMOSWAP_W { rd, rs1, rs2, .. } => amo!(rd, rs1, rs2, 4, |_, b| b),
        I::AMOADD_W { rd, rs1, rs2, .. } => amo!(rd, rs1, rs2, 4, u64::wrapping_add),
        I::AMOXOR_W { rd, rs1, rs2, .. } => amo!(rd, rs1, rs2, 4, |a, b| a ^ b),
        I::AMOAND_W { rd, rs1, rs2, .. } => amo!(rd, rs1, rs2, 4, |a, b| a & b),
        I::AMOOR_W { rd, rs1, rs2, .. } => amo!(rd, rs1, rs2, 4, |a, b| a | b),
        I::AMOSWAP_D { rd, rs1, rs2, .. } => amo!(rd, rs1, rs2, 8, |_, b| b),
        I::AMOADD_D { rd, rs1, rs2, .. } => amo!(rd, rs1, rs2, 8, u64::wrapping_add),
        I::AMOXOR_D { rd, rs1, rs2, .. } => amo!(rd, rs1, rs2, 8, |a, b| a ^ b),
        I::AMOAND_D { rd, rs1, rs2, .. } => amo!(rd, rs1, rs2, 8, |a, b| a & b),
        I::AMOOR_D { rd, rs1, rs2, .. } => amo!(rd, rs1, rs2, 8, |a, b| a | b),
        I::LR_W { rd, .. } => fetch!(rd, 4, true),
        I::LR_D { rd, .. } => fetch!(rd, 8, true),
        I::SC_D { rd, rs1, rs2, .. } => {
            let (address, new) = (regs.get(rs1), regs.get(rs2));
            if !address.known {
                return Err(unknown(address));
            }
            if rd == 0 && load(memory, address.bits, 8, true)? == new {
                return Ok(Next::On);
            }
            Ok(Next::MaySc(address.bits, new, rd))
        }
        I::CSRRW { rd, csr, rs1 } => {
            let new = regs.get(rs1);
            csr!(rd, csr, true, |_| new)
        }
        I::CSRRS { rd, csr, rs1 } => {
            let bits = regs.get(rs1);
            csr!(rd, csr, rs1 != 0, |old: Val| old.with(bits, |a, b| a | b))
        }
        I::CSRRC { rd, csr, rs1 } => {
            let bits = regs.get(rs1);
            csr!(rd, csr, rs1 != 0, |old: Val| old.with(bits, |a, b| a & !b))
        }
        I::CSRRWI { rd, csr, uimm } => csr!(rd, csr, true, |_| Val::of(u64::from(uimm))),
        I::CSRRSI { rd, csr, uimm } => csr!(rd, csr, uimm != 0, |old: Val| old.map(|a| a | u64::from(uimm))),
        I::CSRRCI { rd, csr, uimm } => csr!(rd, csr, uimm != 0, |old: Val| old.map(|a| a & !u64::from(uimm))),
        I::FENCE { .. } | I::FENCE_I => Ok(Next::On),
        // For one address space: it orders nothing that is global, as the kernel's mappings are. (Volume II,
        // "Supervisor Memory-Management Fence Instruction".)
        I::SFENCE_VMA { rs2: 1.., .. } => Ok(Next::On),
        I::SFENCE_VMA { rs1: 0, .. } => Ok(Next::Fence(None)),
        I::SFENCE_VMA { rs1, .. } => Ok(Next::Fence(Some(regs.get(rs1)))),
        I::SRET => Ok(Next::Sret),
        I::EBREAK => Ok(Next::Ebreak),
        I::WFI => Ok(Next::Wfi),
        other => Err(format!("`{other}` is not an instruction that the interpreter executes")),
    }
}

fn unknown(address: Val) -> Refused {
    format!("an access through a register that the kernel does not control ({:#x})", address.bits)
}

fn read_csr(csrs: &Csrs, number: u32) -> Result<Val, Refused> {
    Ok(match number {
        SSTATUS => Val::of(csrs.status),
        STVEC => Val::of(csrs.vec),
        SSCRATCH => csrs.scratch,
        SEPC => csrs.epc,
        SCAUSE => csrs.cause,
        STVAL => csrs.tval,
        SSP => csrs.ssp,
        number if OPAQUE.contains(&number) => Val::named(mixed(u64::from(number), 1)),
        other => return Err(format!("the interpreter does not know CSR {other:#x}")),
    })
}

fn write_csr(csrs: &mut Csrs, number: u32, value: Val) -> Result<(), Refused> {
    match number {
        SSTATUS if value.known => csrs.status = value.bits,
        SSTATUS => return Err("sstatus is written with a value that the kernel does not control".to_owned()),
        STVEC if value.known => csrs.vec = value.bits,
        SSCRATCH => csrs.scratch = value,
        SEPC if value.known => csrs.epc = Val::of(value.bits & !1),
        SEPC => csrs.epc = value,
        SCAUSE => csrs.cause = value,
        STVAL => csrs.tval = value,
        SSP => csrs.ssp = value,
        number if OPAQUE.contains(&number) => {}
        other => return Err(format!("the interpreter does not write CSR {other:#x}")),
    }
    Ok(())
}
