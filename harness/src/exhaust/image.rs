// SPDX-License-Identifier: GPL-2.0-only
//! A kernel's machine code, from its vmlinux: bytes, symbols, alternatives, decoded instructions.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use object::{Object, ObjectSection, ObjectSegment, ObjectSymbol, SectionKind, SymbolKind};
use riscv_isa::{Instruction, Target, Xlen};

use crate::ground::error::{Error, Result};

/// The instruction set that the interpreter knows. Floating point is decoded so that a context switch
/// that saves it is not taken for garbage; nothing executes it.
fn target() -> Target {
    Target {
        xlen: Xlen::Rv64,
        privileged: true,
        supervisor_mode: true,
        m: true,
        a: true,
        f: true,
        d: true,
        c: true,
        zicsr: true,
        zifencei: true,
        zba: true,
        zbb: true,
        zbs: true,
        ..Target::default()
    }
}

/// Applies the relocations of a kernel that can run anywhere (CONFIG_RELOCATABLE), for where it is linked to.
fn relocate(file: &object::File<'_>, segments: &mut [(u64, Vec<u8>)]) {
    /// Size of Elf64_Rela: where, what, addend; R_RISCV_RELATIVE (psABI).
    const ENTRY: usize = 24;
    const RELATIVE: u64 = 3;
    let data = file.section_by_name(".rela.dyn").and_then(|s| s.data().ok()).unwrap_or_default();
    for entry in data.chunks_exact(ENTRY) {
        let word = |at: usize| entry[at..at + 8].try_into().map_or(0, u64::from_le_bytes);
        let (place, kind, addend) = (word(0), word(8), word(16));
        if kind != RELATIVE {
            continue;
        }
        for (start, bytes) in segments.iter_mut() {
            let at = place.checked_sub(*start).and_then(|at| usize::try_from(at).ok());
            if let Some(to) = at.and_then(|at| bytes.get_mut(at..at + 8)) {
                to.copy_from_slice(&addend.to_le_bytes());
            }
        }
    }
}

/// Compressed instructions that riscv-isa 0.3.1 decodes wrongly: c.and, and shifts by 32 and more.
/// (Instruction Set Manual, Volume I, "RVC Instruction Set Listings".)
fn compressed(half: u16) -> Option<Instruction> {
    let near = |low: u16| u32::from(half >> low & 7) + 8;
    let shamt = u32::from(half >> 2 & 31) | u32::from(half >> 12 & 1) << 5;
    let rd = near(7);
    match (half & 3, half >> 13, half >> 10 & 3) {
        (1, 4, 0) => Some(Instruction::SRLI { rd, rs1: rd, shamt }),
        (1, 4, 1) => Some(Instruction::SRAI { rd, rs1: rd, shamt }),
        (1, 4, 3) if half >> 12 & 1 == 0 && half >> 5 & 3 == 3 => Some(Instruction::AND { rd, rs1: rd, rs2: near(2) }),
        // Reserved with bit 12 set; riscv-isa takes one of them for c.and.
        (1, 4, 3) if half >> 12 & 1 == 1 && half >> 6 & 1 == 1 => Some(Instruction::UNIMP),
        (2, 0, _) => {
            let rd = u32::from(half >> 7 & 31);
            Some(Instruction::SLLI { rd, rs1: rd, shamt })
        }
        _ => None,
    }
}

/// Instructions that are moved from one address to another: jumps out of them, and calls, still lead to the same place
/// (riscv_alternative_fix_offsets() of `arch/riscv/kernel/alternative.c`).
fn moved(code: &[u8], from: u64, to: u64) -> Vec<u8> {
    let mut words: Vec<u32> = code.chunks_exact(4).filter_map(|b| b.try_into().ok()).map(u32::from_le_bytes).collect();
    let by = from.wrapping_sub(to) as i64;
    for at in 0..words.len() {
        let word = words[at];
        let next = words.get(at + 1).copied();
        let here = at as i64 * 4;
        if word & 0x7f == 0x6f {
            let offset = jump_offset(word);
            if !(0..code.len() as i64).contains(&(here + offset)) {
                words[at] = word & 0xfff | jump_bits(offset + by);
            }
        } else if let Some(call) = next.filter(|next| word & 0xfff == 0x097 && next & 0x7f == 0x67) {
            let high = i64::from((word & 0xffff_f000) as i32);
            let target = high + i64::from(call as i32 >> 20) + by;
            let high = (target + 0x800) & !0xfff;
            words[at] = word & 0xfff | high as u32;
            words[at + 1] = call & 0xf_ffff | ((target - high) as u32) << 20;
        }
    }
    let rest = &code[words.len() * 4..];
    words.iter().flat_map(|word| word.to_le_bytes()).chain(rest.iter().copied()).collect()
}

/// The offset in a JAL. (Instruction Set Manual, Volume I, "Immediate Encoding Variants", J-type.)
fn jump_offset(word: u32) -> i64 {
    let sign = i64::from(word as i32 >> 31) << 20;
    sign | i64::from(word & 0xf_f000) | i64::from(word >> 9 & 0x800) | i64::from(word >> 20 & 0x7fe)
}

/// The bits of a JAL with an offset.
fn jump_bits(offset: i64) -> u32 {
    let offset = offset as u32;
    (offset & 0x10_0000) << 11 | offset & 0xf_f000 | (offset & 0x800) << 9 | (offset & 0x7fe) << 20
}

/// A place where the kernel replaces instructions at boot if a hart has a feature (`struct alt_entry` of
/// `arch/riscv/include/asm/alternative-macros.h`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alternative {
    /// Address of the instructions that are replaced.
    pub old: u64,
    /// The instructions that replace them.
    pub new: Vec<u8>,
    /// 0, or whose erratum it is (mvendorid).
    pub vendor: u16,
    /// Number of the extension (`RISCV_ISA_EXT_*`), or of the erratum.
    pub id: u32,
}

/// The code and initial data of a kernel. A copy is cheap.
#[derive(Clone)]
pub struct Image {
    file: Arc<File>,
    /// Bytes that differ from the file's: address and value.
    patches: BTreeMap<u64, u8>,
    decoded: RefCell<HashMap<u64, Option<(Instruction, u8)>>>,
}

/// What does not change when an instruction is patched.
#[derive(Default)]
struct File {
    /// Address and bytes of each loaded part.
    segments: Vec<(u64, Vec<u8>)>,
    /// Where the image starts and ends, data without contents included.
    bounds: (u64, u64),
    /// What code may store to.
    writable: Vec<(u64, u64)>,
    /// Address and size, by name.
    names: BTreeMap<String, (u64, u64)>,
    /// Address and name of code, in the order of addresses.
    places: Vec<(u64, String)>,
    alternatives: Vec<Alternative>,
}

impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Image({:#x}..{:#x})", self.file.bounds.0, self.file.bounds.1)
    }
}

impl Image {
    /// Reads `vmlinux`.
    ///
    /// # Errors
    /// When it cannot be read, is not a RISC-V ELF file, or has no symbols (exit code 64).
    pub fn load(vmlinux: &Path) -> Result<Self> {
        let data = std::fs::read(vmlinux).map_err(|e| Error::io("read", vmlinux, e))?;
        Self::parse(&data)
            .map_err(|why| Error::usage(format!("{}: {why}; name the kernel's vmlinux", vmlinux.display())))
    }

    fn parse(data: &[u8]) -> Result<Self, String> {
        let file = object::File::parse(data).map_err(|e| format!("not an ELF file: {e}"))?;
        if file.architecture() != object::Architecture::Riscv64 {
            return Err("not for 64-bit RISC-V".to_owned());
        }
        let mut segments = Vec::new();
        let mut bounds = (u64::MAX, 0);
        for segment in file.segments() {
            let bytes = segment.data().map_err(|e| e.to_string())?;
            bounds = (bounds.0.min(segment.address()), bounds.1.max(segment.address() + segment.size()));
            segments.push((segment.address(), bytes.to_vec()));
        }
        let kinds = [SectionKind::Data, SectionKind::UninitializedData];
        let writable = file.sections().filter(|s| kinds.contains(&s.kind()) && s.address() != 0);
        let writable = writable.map(|s| (s.address(), s.address() + s.size())).collect();
        let text: Vec<_> = file.sections().filter(|s| s.kind() == SectionKind::Text).map(|s| s.index()).collect();
        let (mut names, mut places) = (BTreeMap::new(), Vec::new());
        for symbol in file.symbols() {
            let Ok(name) = symbol.name() else { continue };
            let code = matches!(symbol.kind(), SymbolKind::Text | SymbolKind::Label | SymbolKind::Unknown);
            if name.is_empty() || name.starts_with(['$', '.']) {
                continue;
            }
            names.insert(name.to_owned(), (symbol.address(), symbol.size()));
            if code && symbol.section_index().is_some_and(|s| text.contains(&s)) {
                places.push((symbol.address(), symbol.size(), name.to_owned()));
            }
        }
        if places.is_empty() {
            return Err("it has no symbols".to_owned());
        }
        places.sort_by(|a, b| (a.0, b.1, a.2.len(), &a.2).cmp(&(b.0, a.1, b.2.len(), &b.2)));
        places.dedup_by_key(|p| p.0);
        let places = places.into_iter().map(|(address, _, name)| (address, name)).collect();
        relocate(&file, &mut segments);
        let mut parsed = File { segments, bounds, writable, names, places, alternatives: Vec::new() };
        parsed.alternatives = parsed.read_alternatives(&file)?;
        Ok(Self::of(parsed))
    }

    fn of(file: File) -> Self {
        Self { file: Arc::new(file), patches: BTreeMap::new(), decoded: RefCell::default() }
    }

    /// An image of loose pieces: address and bytes; address, size and name.
    pub fn from_parts(parts: &[(u64, &[u8])], symbols: &[(u64, u64, &str)], writable: &[(u64, u64)]) -> Self {
        let segments: Vec<_> = parts.iter().map(|(at, bytes)| (*at, bytes.to_vec())).collect();
        let starts = segments.iter().map(|s| s.0).chain(writable.iter().map(|w| w.0));
        let ends = segments.iter().map(|s| s.0 + s.1.len() as u64).chain(writable.iter().map(|w| w.1));
        let mut places: Vec<_> = symbols.iter().map(|(at, _, name)| (*at, (*name).to_owned())).collect();
        places.sort();
        Self::of(File {
            bounds: (starts.min().unwrap_or(0), ends.max().unwrap_or(0)),
            segments,
            writable: writable.to_vec(),
            names: symbols.iter().map(|(at, size, name)| ((*name).to_owned(), (*at, *size))).collect(),
            places,
            alternatives: Vec::new(),
        })
    }

    /// The alternatives whose old instructions lie between two addresses.
    pub fn alternatives(&self, start: u64, end: u64) -> Vec<Alternative> {
        self.file.alternatives.iter().filter(|a| (start..end).contains(&a.old)).cloned().collect()
    }

    /// `len` bytes at `address`, if the file has them.
    pub fn bytes(&self, address: u64, len: usize) -> Option<Vec<u8>> {
        let mut bytes = self.file.bytes(address, len)?.to_vec();
        for (at, new) in self.patches.range(address..address + len as u64) {
            bytes[(at - address) as usize] = *new;
        }
        Some(bytes)
    }

    /// The same image with other bytes at `address`.
    #[must_use]
    pub fn patched(&self, address: u64, new: &[u8]) -> Self {
        let mut image = Self { file: self.file.clone(), patches: self.patches.clone(), decoded: RefCell::default() };
        image.patches.extend((address..).zip(new.iter().copied()));
        image
    }

    /// The 64-bit word at `address`, 0 in data without contents; `None` outside the image.
    pub fn word(&self, address: u64) -> Option<u64> {
        let bounds = self.file.bounds;
        if address < bounds.0 || address.checked_add(8)? > bounds.1 {
            return None;
        }
        let bytes = self.bytes(address, 8).and_then(|b| b.try_into().ok());
        Some(bytes.map_or(0, u64::from_le_bytes))
    }

    /// Whether code may store there.
    pub fn is_writable(&self, address: u64) -> bool {
        self.file.writable.iter().any(|(start, end)| (*start..*end).contains(&address))
    }

    /// Whether `address` is in the image.
    pub fn contains(&self, address: u64) -> bool {
        (self.file.bounds.0..self.file.bounds.1).contains(&address)
    }

    /// The instruction at `pc` and its length in bytes; `None` if it is none that the decoder knows.
    pub fn decode(&self, pc: u64) -> Option<(Instruction, u8)> {
        *self.decoded.borrow_mut().entry(pc).or_insert_with(|| {
            let bytes = self.bytes(pc, 4).or_else(|| self.bytes(pc, 2))?;
            let (instruction, len) = riscv_isa::decode_le_bytes(&bytes, &target())?;
            let half = u16::from_le_bytes([bytes[0], bytes[1]]);
            let instruction = compressed(half).unwrap_or(instruction);
            (instruction != Instruction::UNIMP).then_some((instruction, len as u8))
        })
    }

    /// Whether the instruction at `pc` is c.unimp, which always traps.
    pub fn is_unimp(&self, pc: u64) -> bool {
        self.bytes(pc, 2).is_some_and(|half| half == [0, 0])
    }

    /// Address and size of a symbol.
    pub fn symbol(&self, name: &str) -> Option<(u64, u64)> {
        self.file.names.get(name).copied()
    }

    /// Where the code of `name` starts and ends: its size, or the next symbol with another address.
    pub fn code(&self, name: &str) -> Option<(u64, u64)> {
        let (start, size) = self.symbol(name)?;
        let next = self.file.places.iter().find(|(at, _)| *at > start).map(|(at, _)| *at);
        Some((start, if size > 0 { start + size } else { next? }))
    }

    /// The symbol at exactly `address`.
    pub fn name_at(&self, address: u64) -> Option<&str> {
        let at = self.file.places.binary_search_by_key(&address, |(at, _)| *at).ok()?;
        Some(&self.file.places[at].1)
    }

    /// `SYMBOL+0xOFFSET`, or the address.
    pub fn place(&self, pc: u64) -> String {
        let at = self.file.places.partition_point(|(at, _)| *at <= pc).checked_sub(1);
        match at.map(|at| &self.file.places[at]) {
            Some((start, name)) if self.contains(pc) => format!("{name}+{:#x}", pc - start),
            _ => format!("{pc:#x}"),
        }
    }

    /// The name of the function that `pc` is in.
    pub fn function(&self, pc: u64) -> Option<&str> {
        let at = self.file.places.partition_point(|(at, _)| *at <= pc).checked_sub(1)?;
        Some(&self.file.places[at].1)
    }
}

impl File {
    fn bytes(&self, address: u64, len: usize) -> Option<&[u8]> {
        self.segments.iter().find_map(|(start, bytes)| {
            let at = usize::try_from(address.checked_sub(*start)?).ok()?;
            bytes.get(at..at.checked_add(len)?)
        })
    }

    fn read_alternatives(&self, file: &object::File<'_>) -> Result<Vec<Alternative>, String> {
        /// Size of `struct alt_entry`: two offsets, vendor, length, patch number.
        const ENTRY: usize = 16;
        let Some(section) = file.section_by_name(".alternative") else { return Ok(Vec::new()) };
        let data = section.data().map_err(|e| e.to_string())?;
        let word = |at: usize| data[at..at + 4].try_into().map(u32::from_le_bytes).unwrap_or_default();
        let mut found = Vec::new();
        for at in (0..data.len() - data.len() % ENTRY).step_by(ENTRY) {
            let here = section.address() + at as u64;
            let old = here.wrapping_add_signed(i64::from(word(at) as i32));
            let new = (here + 4).wrapping_add_signed(i64::from(word(at + 4) as i32));
            let (vendor, len) = (word(at + 8) as u16, word(at + 8) >> 16);
            let bytes = self.bytes(new, len as usize).ok_or("an alternative outside the image")?;
            found.push(Alternative { old, new: moved(bytes, new, old), vendor, id: word(at + 12) });
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jumps_and_calls_lead_to_the_same_place_after_a_move() {
        let target = |code: &[u8], at: u64, pc: u64| {
            let image = Image::from_parts(&[(at, code)], &[], &[]);
            match (image.decode(pc), image.decode(pc + 4)) {
                (Some((Instruction::JAL { offset, .. }, _)), _) => pc.wrapping_add_signed(i64::from(offset)),
                (
                    Some((Instruction::AUIPC { rd: 1, imm }, _)),
                    Some((Instruction::JALR { rd: 1, rs1: 1, offset }, _)),
                ) => {
                    let high = i64::from((imm << 12) as i32);
                    pc.wrapping_add_signed(high + i64::from(offset))
                }
                other => panic!("{other:?}"),
            }
        };
        let (from, to) = (0xffff_ffff_80d0_0ffc, 0xffff_ffff_8001_2344);
        // j .-0x1234; auipc ra, 0xfffff; jalr ra, -4(ra); c.nop
        let code = [0x6f, 0xd0, 0xcf, 0xdc, 0x97, 0xf0, 0xff, 0xff, 0xe7, 0x80, 0xc0, 0xff, 0x01, 0x00];
        let near = moved(&code, from, from - 0x800);
        for pc in [0, 4] {
            assert_eq!(target(&near, from - 0x800, from - 0x800 + pc), target(&code, from, from + pc), "{pc}");
        }
        let far = moved(&code, from, to);
        assert_eq!(target(&far, to, to + 4), target(&code, from, from + 4));
        assert_eq!(far[12..], [0x01, 0x00]);
        // A jump within the alternative stays what it is: j .+4.
        let inside = [0x6f, 0x00, 0x40, 0x00, 0x13, 0x00, 0x00, 0x00];
        assert_eq!(moved(&inside, from, to), inside);
    }
}
