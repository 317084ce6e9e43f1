// SPDX-License-Identifier: GPL-2.0-only
//! A kernel's machine code, from its vmlinux: bytes, symbols, alternatives, decoded instructions.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::Path;

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

/// The code and initial data of a kernel.
#[derive(Clone)]
pub struct Image {
    /// Address and bytes of each loaded part.
    segments: Vec<(u64, Vec<u8>)>,
    /// Where the image starts and ends, data without contents included.
    bounds: (u64, u64),
    /// The first address that is neither code nor read-only.
    writable: Vec<(u64, u64)>,
    /// Address and size, by name.
    names: BTreeMap<String, (u64, u64)>,
    /// Address and name of code, in the order of addresses.
    places: Vec<(u64, String)>,
    alternatives: Vec<Alternative>,
    decoded: RefCell<HashMap<u64, Option<(Instruction, u8)>>>,
}

impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Image({:#x}..{:#x})", self.bounds.0, self.bounds.1)
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
        let decoded = RefCell::new(HashMap::new());
        let mut image = Self { segments, bounds, writable, names, places, alternatives: Vec::new(), decoded };
        image.alternatives = image.read_alternatives(&file)?;
        Ok(image)
    }

    /// An image of loose pieces: address and bytes; address, size and name.
    pub fn from_parts(parts: &[(u64, &[u8])], symbols: &[(u64, u64, &str)], writable: &[(u64, u64)]) -> Self {
        let segments: Vec<_> = parts.iter().map(|(at, bytes)| (*at, bytes.to_vec())).collect();
        let starts = segments.iter().map(|s| s.0).chain(writable.iter().map(|w| w.0));
        let ends = segments.iter().map(|s| s.0 + s.1.len() as u64).chain(writable.iter().map(|w| w.1));
        let mut places: Vec<_> = symbols.iter().map(|(at, _, name)| (*at, (*name).to_owned())).collect();
        places.sort();
        Self {
            bounds: (starts.min().unwrap_or(0), ends.max().unwrap_or(0)),
            segments,
            writable: writable.to_vec(),
            names: symbols.iter().map(|(at, size, name)| ((*name).to_owned(), (*at, *size))).collect(),
            places,
            alternatives: Vec::new(),
            decoded: RefCell::new(HashMap::new()),
        }
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
            let new = self.bytes(new, len as usize).ok_or("an alternative outside the image")?;
            found.push(Alternative { old, new: new.to_vec(), vendor, id: word(at + 12) });
        }
        Ok(found)
    }

    /// The alternatives whose old instructions lie between two addresses.
    pub fn alternatives(&self, start: u64, end: u64) -> Vec<Alternative> {
        self.alternatives.iter().filter(|a| (start..end).contains(&a.old)).cloned().collect()
    }

    /// `len` bytes at `address`, if the file has them.
    pub fn bytes(&self, address: u64, len: usize) -> Option<&[u8]> {
        self.segments.iter().find_map(|(start, bytes)| {
            let at = usize::try_from(address.checked_sub(*start)?).ok()?;
            bytes.get(at..at.checked_add(len)?)
        })
    }

    /// The same image with other bytes at `address`. Addresses outside the image are left alone.
    #[must_use]
    pub fn patched(&self, address: u64, new: &[u8]) -> Self {
        let mut image = self.clone();
        image.decoded = RefCell::new(HashMap::new());
        for (start, bytes) in &mut image.segments {
            let Some(at) = address.checked_sub(*start).and_then(|at| usize::try_from(at).ok()) else { continue };
            if let Some(place) = bytes.get_mut(at..at + new.len()) {
                place.copy_from_slice(new);
            }
        }
        image
    }

    /// Keeps the parts that are needed to interpret code between `ranges`, so that a copy of the image
    /// is cheap: reads of other parts find zeroes.
    #[must_use]
    pub fn reduced(&self, ranges: &[(u64, u64)]) -> Self {
        let mut image = self.clone();
        image.decoded = RefCell::new(HashMap::new());
        image.segments = ranges
            .iter()
            .filter_map(|(start, end)| Some((*start, self.bytes(*start, (end - start) as usize)?.to_vec())))
            .collect();
        image
    }

    /// The 64-bit word at `address`, 0 in data without contents; `None` outside the image.
    pub fn word(&self, address: u64) -> Option<u64> {
        if address < self.bounds.0 || address.checked_add(8)? > self.bounds.1 {
            return None;
        }
        let bytes = self.bytes(address, 8).and_then(|b| b.try_into().ok());
        Some(bytes.map_or(0, u64::from_le_bytes))
    }

    /// Whether code may store there.
    pub fn is_writable(&self, address: u64) -> bool {
        self.writable.iter().any(|(start, end)| (*start..*end).contains(&address))
    }

    /// Whether `address` is in the image.
    pub fn contains(&self, address: u64) -> bool {
        (self.bounds.0..self.bounds.1).contains(&address)
    }

    /// The instruction at `pc` and its length in bytes; `None` if it is none that the decoder knows.
    pub fn decode(&self, pc: u64) -> Option<(Instruction, u8)> {
        *self.decoded.borrow_mut().entry(pc).or_insert_with(|| {
            let bytes = self.bytes(pc, 4).or_else(|| self.bytes(pc, 2))?;
            let (instruction, len) = riscv_isa::decode_le_bytes(bytes, &target())?;
            (instruction != Instruction::UNIMP).then_some((instruction, len as u8))
        })
    }

    /// Address and size of a symbol.
    pub fn symbol(&self, name: &str) -> Option<(u64, u64)> {
        self.names.get(name).copied()
    }

    /// Where the code of `name` starts and ends: its size, or the next symbol with another address.
    pub fn code(&self, name: &str) -> Option<(u64, u64)> {
        let (start, size) = self.symbol(name)?;
        let next = self.places.iter().find(|(at, _)| *at > start).map(|(at, _)| *at);
        Some((start, if size > 0 { start + size } else { next? }))
    }

    /// The symbol at exactly `address`.
    pub fn name_at(&self, address: u64) -> Option<&str> {
        let at = self.places.binary_search_by_key(&address, |(at, _)| *at).ok()?;
        Some(&self.places[at].1)
    }

    /// `SYMBOL+0xOFFSET`, or the address.
    pub fn place(&self, pc: u64) -> String {
        let at = self.places.partition_point(|(at, _)| *at <= pc).checked_sub(1);
        match at.map(|at| &self.places[at]) {
            Some((start, name)) if self.contains(pc) => format!("{name}+{:#x}", pc - start),
            _ => format!("{pc:#x}"),
        }
    }

    /// The name of the function that `pc` is in.
    pub fn function(&self, pc: u64) -> Option<&str> {
        let at = self.places.partition_point(|(at, _)| *at <= pc).checked_sub(1)?;
        Some(&self.places[at].1)
    }
}
