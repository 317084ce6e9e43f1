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
use crate::ground::files;

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

/// Where a module is linked to: within reach of the kernel image, as its loader does it.
pub const MODULE: u64 = 0xffff_ffff_0200_0000;

/// Resolves what a module's text says of itself: its own symbols, and the pointers to them (psABI, "Relocations"). What
/// belongs to others, or is of another kind, becomes an instruction that nothing can decode.
fn link(
    text: &object::Section<'_, '_>,
    symbols: &HashMap<object::SymbolIndex, u64>,
    parts: &mut Vec<(u64, Vec<u8>)>,
) -> Result<(), String> {
    use object::elf::{
        R_RISCV_ALIGN, R_RISCV_CALL, R_RISCV_CALL_PLT, R_RISCV_GOT_HI20, R_RISCV_PCREL_HI20, R_RISCV_PCREL_LO12_I,
        R_RISCV_PCREL_LO12_S, R_RISCV_RELAX,
    };
    let mut pointers: Vec<u8> = Vec::new();
    let table = (MODULE + parts[0].1.len() as u64 + 0xfff) & !0xfff;
    // The upper halves, by their place: what the lower ones add.
    let mut low: HashMap<u64, u32> = HashMap::new();
    let mut later = Vec::new();
    for (at, relocation) in text.relocations() {
        let object::RelocationFlags::Elf { r_type } = relocation.flags() else { continue };
        if r_type == R_RISCV_RELAX || r_type == R_RISCV_ALIGN {
            continue;
        }
        let target = match relocation.target() {
            object::RelocationTarget::Symbol(symbol) => symbols.get(&symbol),
            _ => None,
        };
        let target = target.map(|s| s.wrapping_add_signed(relocation.addend()));
        if r_type == R_RISCV_PCREL_LO12_I || r_type == R_RISCV_PCREL_LO12_S {
            later.push((at, target, r_type == R_RISCV_PCREL_LO12_S));
            continue;
        }
        let is_call = r_type == R_RISCV_CALL || r_type == R_RISCV_CALL_PLT;
        let is_known = is_call || r_type == R_RISCV_PCREL_HI20 || r_type == R_RISCV_GOT_HI20;
        let Some(target) = target.filter(|_| is_known) else {
            set_bits(&mut parts[0].1, at, 0, 0)?;
            continue;
        };
        let target = if r_type == R_RISCV_GOT_HI20 {
            pointers.extend(target.to_le_bytes());
            table + pointers.len() as u64 - 8
        } else {
            target
        };
        let place = MODULE + at;
        let offset = target.wrapping_sub(place) as u32;
        let high = offset.wrapping_add(0x800) & 0xffff_f000;
        low.insert(place, offset.wrapping_sub(high));
        set_bits(&mut parts[0].1, at, 0xfff, high)?;
        if is_call {
            set_bits(&mut parts[0].1, at + 4, 0xf_ffff, offset.wrapping_sub(high) << 20)?;
        }
    }
    for (at, high, is_store) in later {
        match high.and_then(|high| low.get(&high)) {
            Some(offset) if is_store => {
                set_bits(&mut parts[0].1, at, 0x01ff_f07f, (offset >> 5) << 25 | (offset & 31) << 7)?;
            }
            Some(offset) => set_bits(&mut parts[0].1, at, 0xf_ffff, offset << 20)?,
            None => set_bits(&mut parts[0].1, at, 0, 0)?,
        }
    }
    parts.push((table, pointers));
    Ok(())
}

/// Sets the bits of an instruction that `keep` does not keep.
fn set_bits(text: &mut [u8], at: u64, keep: u32, bits: u32) -> Result<(), String> {
    let at = usize::try_from(at).map_err(|e| e.to_string())?;
    let word: &mut [u8; 4] =
        text.get_mut(at..at + 4).and_then(|w| w.try_into().ok()).ok_or("a relocation outside of the text")?;
    *word = (u32::from_le_bytes(*word) & keep | bits).to_le_bytes();
    Ok(())
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
        let data = files::read(vmlinux)?;
        Self::parse(&data)
            .map_err(|why| Error::usage(format!("{}: {why}; name the kernel's vmlinux", vmlinux.display())))
    }

    /// Reads the text of a module, and links it to [`MODULE`] as far as it needs nobody else.
    ///
    /// # Errors
    /// When it cannot be read, or is not a module for 64-bit RISC-V (exit code 64).
    pub fn load_module(module: &Path) -> Result<Self> {
        let data = files::read(module)?;
        Self::parse_module(&data)
            .map_err(|why| Error::usage(format!("{}: {why}; name a .ko, not compressed", module.display())))
    }

    fn parse_module(data: &[u8]) -> Result<Self, String> {
        let file = object::File::parse(data).map_err(|e| format!("not an ELF file: {e}"))?;
        if file.architecture() != object::Architecture::Riscv64 || file.kind() != object::ObjectKind::Relocatable {
            return Err("not a module for 64-bit RISC-V".to_owned());
        }
        let text = file.section_by_name(".text").ok_or("it has no .text")?;
        let bytes = text.data().map_err(|e| e.to_string())?.to_vec();
        let mut parts = vec![(MODULE, bytes)];
        let mut symbols = Vec::new();
        let mut address = HashMap::new();
        for symbol in file.symbols().filter(|s| s.section_index() == Some(text.index())) {
            address.insert(symbol.index(), MODULE + symbol.address());
            if let Ok(name) = symbol.name()
                && !name.is_empty()
                && !name.starts_with(['$', '.'])
            {
                symbols.push((MODULE + symbol.address(), symbol.size(), name.to_owned()));
            }
        }
        link(&text, &address, &mut parts)?;
        let parts: Vec<(u64, &[u8])> = parts.iter().map(|(at, bytes)| (*at, bytes.as_slice())).collect();
        let symbols: Vec<(u64, u64, &str)> = symbols.iter().map(|(at, size, name)| (*at, *size, &**name)).collect();
        Ok(Self::from_parts(&parts, &symbols, &[]))
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

    #[test]
    fn a_module_is_linked_to_itself() {
        use object::write::{Object, Relocation, Symbol, SymbolSection};
        use object::{elf, write};

        let mut module =
            Object::new(object::BinaryFormat::Elf, object::Architecture::Riscv64, object::Endianness::Little);
        let text = module.section_id(write::StandardSection::Text);
        // auipc t0; ld t0 (pointer to it); auipc t1; addi t1 (itself); auipc ra; jalr ra (a call); a call of others.
        let words: [u32; 9] =
            [0x297, 0x0002_b283, 0x317, 0x0003_0313, 0x97, 0x0000_80e7, 0x97, 0x0000_80e7, 0x0000_8067];
        let code: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        module.append_section_data(text, &code, 4);
        let mut symbol = |name: &[u8], value, section| {
            module.add_symbol(Symbol {
                name: name.to_vec(),
                value,
                size: 4,
                kind: SymbolKind::Text,
                scope: object::SymbolScope::Compilation,
                weak: false,
                section,
                flags: object::SymbolFlags::None,
            })
        };
        let here = SymbolSection::Section(text);
        let target = symbol(b"target", 32, here);
        let (first, second) = (symbol(b".Lfirst", 0, here), symbol(b".Lsecond", 8, here));
        let others = symbol(b"others", 0, SymbolSection::Undefined);
        for (offset, symbol, r_type) in [
            (0, target, elf::R_RISCV_GOT_HI20),
            (4, first, elf::R_RISCV_PCREL_LO12_I),
            (8, target, elf::R_RISCV_PCREL_HI20),
            (12, second, elf::R_RISCV_PCREL_LO12_I),
            (16, target, elf::R_RISCV_CALL_PLT),
            (24, others, elf::R_RISCV_CALL_PLT),
        ] {
            let flags = object::RelocationFlags::Elf { r_type };
            module.add_relocation(text, Relocation { offset, symbol, addend: 0, flags }).unwrap();
        }
        let image = Image::parse_module(&module.write().unwrap()).unwrap();
        assert_eq!(image.symbol("target"), Some((MODULE + 32, 4)));
        let pair = |at: u64| match (image.decode(MODULE + at), image.decode(MODULE + at + 4)) {
            (Some((Instruction::AUIPC { imm, .. }, _)), Some((low, _))) => {
                let offset = match low {
                    Instruction::LD { offset, .. } | Instruction::JALR { offset, .. } => offset,
                    Instruction::ADDI { imm, .. } => imm,
                    other => panic!("{other}"),
                };
                (MODULE + at).wrapping_add_signed(i64::from((imm << 12) as i32) + i64::from(offset))
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(image.word(pair(0)), Some(MODULE + 32));
        assert_eq!((pair(8), pair(16)), (MODULE + 32, MODULE + 32));
        // Nobody knows where that leads.
        assert_eq!(image.decode(MODULE + 24), None);
        let executable = Image::parse_module(&[0; 64]).unwrap_err();
        assert!(executable.contains("not an ELF file"), "{executable}");
    }
}
