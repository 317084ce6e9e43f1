// SPDX-License-Identifier: GPL-2.0-only
//! Names of code: functions of a vmlinux, and lines if it has debug information.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use gimli::{EndianRcSlice, LittleEndian};
use object::{Object, ObjectSection, ObjectSymbol, SymbolKind};

use crate::ground::error::{Error, Result};
use crate::ground::files;

type Lines = addr2line::Context<EndianRcSlice<LittleEndian>>;

/// The symbols of a kernel; empty without a vmlinux.
#[derive(Default)]
pub struct Symbols {
    /// Address, size or 0, and name, in the order of addresses; one for each address.
    functions: Vec<(u64, u64, String)>,
    /// Address and size of everything that has a size, by name.
    names: BTreeMap<String, (u64, u64)>,
    /// Where the kernel's image starts and ends.
    image: Option<(u64, u64)>,
    lines: Option<Lines>,
}

impl fmt::Debug for Symbols {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Symbols({})", self.functions.len())
    }
}

/// A function that the compiler has put into another one, or the one that it has put others into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Its name.
    pub name: String,
    /// File and line in it.
    pub line: Option<String>,
}

/// Functions whose caller is more informative than they are. They call no others, so the return address
/// is the caller's.
const HELPERS: &[&str] = &[
    "memset",
    "memcpy",
    "memmove",
    "memcmp",
    "memchr",
    "strlen",
    "strcmp",
    "strncmp",
    "clear_page",
    "copy_page",
    "fallback_scalar_usercopy",
    "__set_pte_at",
    "set_pte",
    "set_ptes",
];

impl Symbols {
    /// Reads `vmlinux`.
    ///
    /// # Errors
    /// When it cannot be read, is not a RISC-V ELF file, or has no functions (exit code 64).
    pub fn load(vmlinux: &Path) -> Result<Self> {
        let data = files::read(vmlinux)?;
        let wrong = |why: &str| Error::usage(format!("{}: {why}; name the kernel's vmlinux", vmlinux.display()));
        let file = object::File::parse(&*data).map_err(|e| wrong(&format!("not an ELF file: {e}")))?;
        if file.architecture() != object::Architecture::Riscv64 {
            return Err(wrong("not for 64-bit RISC-V"));
        }
        let text: Vec<_> =
            file.sections().filter(|s| s.kind() == object::SectionKind::Text).map(|s| s.index()).collect();
        let mut functions: Vec<(u64, u64, String)> = Vec::new();
        let mut names = BTreeMap::new();
        let (mut start, mut end) = (None, None);
        for symbol in file.symbols() {
            let Ok(name) = symbol.name() else { continue };
            if symbol.size() > 0 {
                names.insert(name.to_owned(), (symbol.address(), symbol.size()));
            }
            match name {
                "_start" => start = Some(symbol.address()),
                "_end" => end = Some(symbol.address()),
                _ => {}
            }
            let code = matches!(symbol.kind(), SymbolKind::Text | SymbolKind::Label | SymbolKind::Unknown);
            let inside = symbol.section_index().is_some_and(|s| text.contains(&s));
            // `$x` and `.L` are the assembler's.
            if code && inside && !name.is_empty() && !name.starts_with(['$', '.']) {
                functions.push((symbol.address(), symbol.size(), demangled(name)));
            }
        }
        // If a function has several names, prefer one with a size, then the shortest.
        functions.sort_by(|a, b| (a.0, b.1, a.2.len(), &a.2).cmp(&(b.0, a.1, b.2.len(), &b.2)));
        functions.dedup_by_key(|f| f.0);
        if functions.is_empty() {
            return Err(wrong("it has no functions (was it stripped?)"));
        }
        let lines = lines(&file).filter(|_| file.section_by_name(".debug_info").is_some());
        Ok(Self { functions, names, image: start.zip(end), lines })
    }

    /// Symbols from a list: address, size, name; and where the image starts and ends.
    pub fn from_list(list: &[(u64, u64, &str)], image: Option<(u64, u64)>) -> Self {
        let functions = list.iter().map(|&(address, size, name)| (address, size, name.to_owned())).collect();
        Self { functions, names: BTreeMap::new(), image, lines: None }
    }

    /// Where the kernel's image starts and ends (`_start` and `_end`).
    pub fn image(&self) -> Option<(u64, u64)> {
        self.image
    }

    /// Address and size of the function or variable called `name`, as in the file.
    pub fn named(&self, name: &str) -> Option<(u64, u64)> {
        self.names.get(name).copied()
    }

    /// The function that `pc` is in, and the offset.
    pub fn find(&self, pc: u64) -> Option<(&str, u64)> {
        let at = self.functions.partition_point(|f| f.0 <= pc).checked_sub(1)?;
        let (start, size, name) = &self.functions[at];
        let inside = if *size > 0 { pc - start < *size } else { at + 1 < self.functions.len() };
        inside.then_some((name.as_str(), pc - start))
    }

    /// `FUNCTION+0xOFFSET`, or the address.
    pub fn place(&self, pc: u64) -> String {
        match self.find(pc) {
            Some((name, offset)) => format!("{name}+{offset:#x}"),
            None => format!("{pc:#x}"),
        }
    }

    /// The function that `pc` is in; if that is one of [`HELPERS`], the one that `ra` is in.
    pub fn actor(&self, pc: u64, ra: u64) -> Option<&str> {
        let (name, _) = self.find(pc)?;
        let plain = name.trim_start_matches('_');
        if HELPERS.iter().any(|h| h.trim_start_matches('_') == plain)
            && let Some((caller, _)) = self.find(ra.wrapping_sub(1))
        {
            return Some(caller);
        }
        Some(name)
    }

    /// The return addresses of the callers of the code at `pc`, the nearest first: those from the stack, with `ra`
    /// before them if the function keeps its own there only.
    pub fn callers(&self, pc: u64, ra: u64, stack: &[u64]) -> Vec<u64> {
        let function = |pc: u64| self.find(pc).map(|(name, _)| name);
        let caller = self.caller(ra).filter(|name| function(pc) != Some(*name));
        let missing = caller.is_some() && stack.first().is_some_and(|first| *first != ra);
        missing.then_some(ra).into_iter().chain(stack.iter().copied()).collect()
    }

    /// The function that a call returns to.
    pub fn caller(&self, ra: u64) -> Option<&str> {
        // A call that does not return may be a function's last instruction.
        self.find(ra.wrapping_sub(1)).map(|(name, _)| name)
    }

    /// The functions at `pc` that the compiler has put into each other, the innermost first; the last one is that of
    /// [`Self::find`]. Empty if there is only that one, or no debug information.
    pub fn inlined(&self, pc: u64) -> Vec<Frame> {
        let all = self.frames(pc).unwrap_or_default();
        if all.len() > 1 { all } else { Vec::new() }
    }

    /// All functions at `pc`; `None` if the debug information does not name them.
    fn frames(&self, pc: u64) -> Option<Vec<Frame>> {
        let mut found = self.lines.as_ref()?.find_frames(pc).skip_all_loads().ok()?;
        let mut all = Vec::new();
        while let Some(frame) = found.next().ok()? {
            let name = demangled(&frame.function?.raw_name().ok()?);
            let line = frame.location.and_then(|at| Some(format!("{}:{}", at.file?, at.line?)));
            all.push(Frame { name, line });
        }
        Some(all)
    }

    /// File and line of `pc`, if there is debug information.
    pub fn line(&self, pc: u64) -> Option<String> {
        let found = self.lines.as_ref()?.find_location(pc).ok()??;
        let (file, line) = (found.file?, found.line?);
        Some(format!("{file}:{line}"))
    }
}

/// The name of a function as in its source: Rust mangles them.
pub fn demangled(name: &str) -> String {
    rustc_demangle::try_demangle(name).map_or_else(|_| name.to_owned(), |plain| format!("{plain:#}"))
}

/// A file's debug information.
fn lines(file: &object::File<'_>) -> Option<Lines> {
    let section = |id: gimli::SectionId| -> Result<_, gimli::Error> {
        let data = file.section_by_name(id.name()).and_then(|s| s.uncompressed_data().ok()).unwrap_or_default();
        Ok(EndianRcSlice::new(data.into(), LittleEndian))
    };
    let dwarf = gimli::Dwarf::load(section).ok()?;
    addr2line::Context::from_dwarf(dwarf).ok()
}
