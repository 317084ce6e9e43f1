// SPDX-License-Identifier: GPL-2.0-only
//! Every way to get one instruction wrong: mutants of machine code, for the judge.

use std::fmt;

use riscv_isa::Instruction;

use super::cpu::{self, Regs, Val};
use super::image::Image;
use super::layout::operands;

/// One instruction replaced, or two exchanged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mutant {
    pub address: u64,
    /// What is stored there.
    pub bytes: Vec<u8>,
    pub kind: Kind,
    /// The instruction as it is, as the decoder writes it.
    pub old: String,
    /// In its place.
    pub new: String,
}

/// What was done to the instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Deleted,
    /// Exchanged with the next one.
    Exchanged,
    /// Another register is written or read.
    Register,
    /// Operands exchanged.
    Swapped,
    /// The other sense of a branch.
    Sense,
    /// Another operation, of the same form.
    Operation,
    /// Another width.
    Width,
    /// Another bit, constant or offset.
    Number,
    /// Another CSR.
    Csr,
    /// No longer an acquire, or a release instead.
    Order,
    /// A fence for less.
    Fence,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Deleted => "deleted",
            Self::Exchanged => "exchanged with the next",
            Self::Register => "wrong register",
            Self::Swapped => "operands swapped",
            Self::Sense => "other branch sense",
            Self::Operation => "other operation",
            Self::Width => "other width",
            Self::Number => "other number",
            Self::Csr => "other CSR",
            Self::Order => "other order",
            Self::Fence => "fence for less",
        })
    }
}

/// Registers that a mistake is likely to name: those that the entry uses.
const LIKELY: [u32; 4] = [0, 2, 4, 10];
/// CSRs that may be mistaken for each other.
const CSRS: [u32; 5] = [cpu::SSTATUS, cpu::SSCRATCH, cpu::SEPC, cpu::SCAUSE, cpu::STVAL];
const NOP: u32 = 0x0000_0013;
const C_NOP: u16 = 0x0001;
const FENCE_RW_RW: u32 = 0x0330_000f;

/// All mutants of the instructions in a range.
pub fn mutants(image: &Image, (start, end): (u64, u64)) -> Vec<Mutant> {
    let mut all: Vec<Mutant> = Vec::new();
    let mut pc = start;
    while pc < end {
        let Some((instruction, len)) = image.decode(pc) else { break };
        let Some(old) = image.bytes(pc, usize::from(len)) else { break };
        let mut add = |kind: Kind, bytes: Vec<u8>| {
            let changed = image.patched(pc, &bytes);
            let new = match (kind, changed.decode(pc)) {
                (Kind::Deleted, _) => "nothing".to_owned(),
                (_, Some((new, _))) => shown(new, &bytes),
                // Not an instruction: no assembler would take it.
                (_, None) => return,
            };
            let mutant = Mutant { address: pc, bytes, kind, old: shown(instruction, &old), new };
            if mutant.bytes != old && !all.iter().any(|m| m.address == pc && m.bytes == mutant.bytes) {
                all.push(mutant);
            }
        };
        if let Ok(half) = <[u8; 2]>::try_from(old.as_slice()) {
            add(Kind::Deleted, C_NOP.to_le_bytes().to_vec());
            for (kind, new) in of_half(u16::from_le_bytes(half)) {
                add(kind, new.to_le_bytes().to_vec());
            }
        } else if let Ok(word) = <[u8; 4]>::try_from(old.as_slice()) {
            add(Kind::Deleted, NOP.to_le_bytes().to_vec());
            for (kind, new) in of_word(u32::from_le_bytes(word)) {
                add(kind, new.to_le_bytes().to_vec());
            }
        }
        let after = pc + u64::from(len);
        if after < end
            && let Some((second_instruction, next)) = image.decode(after)
            && let Some(second) = image.bytes(after, usize::from(next))
            && !jumps(&old)
            && !jumps(&second)
            && !independent(instruction, second_instruction)
        {
            add(Kind::Exchanged, [second, old.clone()].concat());
        }
        pc = after;
    }
    all
}

/// The instruction as the decoder writes it, with the order of an AMO, which it leaves out.
fn shown(instruction: Instruction, bytes: &[u8]) -> String {
    let text = instruction.to_string();
    let order = match bytes {
        [low, _, _, high, ..] if low & 0x7f == 0x2f => ["", ".rl", ".aq", ".aqrl"][usize::from(high >> 1 & 3)],
        _ => "",
    };
    match text.split_once(' ') {
        Some((name, operands)) => format!("{name}{order} {operands}"),
        None => text,
    }
}

/// Whether an instruction has a target that depends on where it is, or no successor.
fn jumps(bytes: &[u8]) -> bool {
    match *bytes {
        [low, high] => low & 3 == 1 && high >> 5 >= 5,
        [low, _, _, high] => matches!(low & 0x7f, 0x63 | 0x6f | 0x67 | 0x17) || low == 0x73 && high == 0x10,
        _ => true,
    }
}

/// Whether two instructions do the same in either order: neither uses what the other writes, and one of them only
/// computes, or both access different words of the same object.
fn independent(first: Instruction, second: Instruction) -> bool {
    let ((reads, writes), (reads_too, writes_too)) = (operands(first), operands(second));
    // x0 is always 0.
    let apart = |a: u32, b: u32| a & b & !1 == 0;
    if !apart(writes, reads_too | writes_too) || !apart(writes_too, reads) {
        return false;
    }
    let is = |instruction: Instruction, kinds: &[&str]| {
        let text = instruction.to_string();
        kinds.iter().any(|kind| text.starts_with(kind))
    };
    if [first, second].iter().any(|i| is(*i, &["jal", "b", "e", "sret"])) {
        return false;
    }
    let computes = |i: Instruction| cpu::touch(i, &Regs::ZERO).is_none() && !is(i, &["csr", "fence", "sfence", "wfi"]);
    // The upper half of an address tells which register it is based on, as an offset has 12 bits.
    let bases = Regs(std::array::from_fn(|register| Val::of((register as u64) << 32 | 1 << 31)));
    let place = |instruction: Instruction| {
        let touch = cpu::touch(instruction, &bases).filter(|t| !t.atomic)?;
        Some((touch.address.bits >> 32, touch.address.bits, u64::from(touch.size)))
    };
    let apart_in_memory = || match (place(first), place(second)) {
        (Some((base, a, size)), Some((other, b, size_too))) => base == other && (a + size <= b || b + size_too <= a),
        _ => false,
    };
    computes(first) || computes(second) || apart_in_memory()
}

fn field(word: u32, low: u32, bits: u32) -> u32 {
    word >> low & ((1 << bits) - 1)
}

fn with(word: u32, low: u32, bits: u32, value: u32) -> u32 {
    let mask = ((1u32 << bits) - 1) << low;
    word & !mask | value << low & mask
}

/// Compressed branches and constants.
fn of_half(half: u16) -> Vec<(Kind, u16)> {
    let mut all = Vec::new();
    match (half & 3, half >> 13) {
        // c.beqz, c.bnez
        (1, 6 | 7) => all.push((Kind::Sense, half ^ 1 << 13)),
        // c.li, c.addi
        (1, 0 | 2) => {
            all.push((Kind::Number, half ^ 1 << 2));
            all.push((Kind::Number, half ^ 1 << 3));
        }
        _ => {}
    }
    all
}

fn of_word(word: u32) -> Vec<(Kind, u32)> {
    let mut all: Vec<(Kind, u32)> = Vec::new();
    let (opcode, funct3) = (word & 0x7f, field(word, 12, 3));
    let mut registers = |places: &[u32]| {
        for &low in places {
            let old = field(word, low, 5);
            all.extend(LIKELY.iter().filter(|r| **r != old).map(|r| (Kind::Register, with(word, low, 5, *r))));
        }
    };
    match opcode {
        // Branches
        0x63 => {
            registers(&[15]);
            all.push((Kind::Sense, word ^ 1 << 12));
            // Of beq and bne it makes no difference.
            if funct3 > 1 {
                all.push((Kind::Swapped, with(with(word, 15, 5, field(word, 20, 5)), 20, 5, field(word, 15, 5))));
            }
        }
        // Loads
        0x03 => {
            registers(&[7, 15]);
            all.extend([2, 3, 6].map(|width| (Kind::Width, with(word, 12, 3, width))));
            all.extend([8, 16].map(|bit| (Kind::Number, word ^ bit << 20)));
        }
        // Stores
        0x23 => {
            registers(&[15, 20]);
            all.extend([2, 3].map(|width| (Kind::Width, with(word, 12, 3, width))));
            all.extend([8, 16].map(|bit| (Kind::Number, word ^ bit << 7)));
        }
        // Operations with a constant
        0x13 => {
            registers(&[7, 15]);
            all.extend([4, 6, 7].into_iter().filter(|_| funct3 >= 4).map(|f| (Kind::Operation, with(word, 12, 3, f))));
            let number = field(word, 20, 12);
            all.extend([number << 1, number >> 1, 0].map(|n| (Kind::Number, with(word, 20, 12, n))));
        }
        // Operations with two registers
        0x33 => {
            registers(&[7, 15, 20]);
            all.extend([1, 4, 5, 6, 7].map(|f| (Kind::Operation, with(word, 12, 3, f))));
            // Shifts, comparisons and subtraction.
            if matches!(funct3, 1 | 2 | 3 | 5) || word >> 30 & 1 == 1 {
                all.push((Kind::Swapped, with(with(word, 15, 5, field(word, 20, 5)), 20, 5, field(word, 15, 5))));
            }
        }
        // Atomics
        0x2f => {
            registers(&[7, 20]);
            all.push((Kind::Width, word ^ 1 << 12));
            all.extend([0, 1, 4, 8, 12].map(|f| (Kind::Operation, with(word, 27, 5, f))));
            all.push((Kind::Order, word ^ 1 << 26));
            all.push((Kind::Order, with(word, 25, 2, 1)));
        }
        // sfence.vma
        0x73 if word >> 25 == 9 => {
            all.extend(LIKELY.iter().map(|r| (Kind::Fence, with(word, 15, 5, *r))));
            all.extend(LIKELY.iter().map(|r| (Kind::Fence, with(word, 20, 5, *r))));
            all.push((Kind::Fence, FENCE_RW_RW));
        }
        // CSRs
        0x73 if funct3 > 0 && funct3 < 4 => {
            registers(&[7, 15]);
            // With x0, csrrs and csrrc both only read.
            let operations = if field(word, 15, 5) == 0 { [1, 2, 2] } else { [1, 2, 3] };
            all.extend(operations.map(|f| (Kind::Operation, with(word, 12, 3, f))));
            all.extend(CSRS.map(|csr| (Kind::Csr, with(word, 20, 12, csr))));
        }
        _ => {}
    }
    all.retain(|(_, new)| *new != word);
    all
}
