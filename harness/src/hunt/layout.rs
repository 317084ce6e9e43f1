// SPDX-License-Identifier: GPL-2.0-only
//! Which part of the kernel's address space an address is in.
//!
//! The kernel prints its layout if it has `CONFIG_DEBUG_VM`. Otherwise use the one of
//! Documentation/arch/riscv/vm-layout.rst (7.3) for the address translation in use; within the last
//! 4 GiB, modules end and the image begins where arch/riscv/include/asm/pgtable.h says
//! (`MODULES_VADDR`, `MODULES_END`).

use lazymap_console::log::Log;

const GIB: u64 = 1 << 30;
/// `MODULES_LOWEST_VADDR`, where the KASAN shadow ends.
const MODULES_LOWEST: u64 = 0xffff_ffff_0000_0000;
/// The highest address of the lower half.
const USER_MOST: u64 = u64::MAX >> 1;
/// `KERNEL_LINK_ADDR`.
const IMAGE: u64 = 0xffff_ffff_8000_0000;
/// `CONFIG_KASAN_SHADOW_OFFSET`: a byte of shadow for 8 bytes, the last one at `KASAN_SHADOW_END`.
const SHADOW_OFFSET: u64 = 0xdfff_ffff_0000_0000;
const SHADOW_SHIFT: u32 = 3;

/// Address translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// 39 bits.
    Sv39,
    /// 48 bits.
    Sv48,
    /// 57 bits.
    Sv57,
}

impl Mode {
    /// The name in `/proc/cpuinfo`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sv39 => "sv39",
            Self::Sv48 => "sv48",
            Self::Sv57 => "sv57",
        }
    }

    /// First address of each region, in the order of addresses: fixmap, PCI I/O, vmemmap, vmalloc, the
    /// linear map, and the KASAN shadow (vm-layout.rst).
    fn starts(self) -> [u64; 6] {
        match self {
            Self::Sv39 => [
                0xffff_ffc4_fea0_0000,
                0xffff_ffc4_ff00_0000,
                0xffff_ffc5_0000_0000,
                0xffff_ffc6_0000_0000,
                0xffff_ffd6_0000_0000,
                0xffff_fff7_0000_0000,
            ],
            Self::Sv48 => [
                0xffff_8d7f_fea0_0000,
                0xffff_8d7f_ff00_0000,
                0xffff_8d80_0000_0000,
                0xffff_8f80_0000_0000,
                0xffff_af80_0000_0000,
                0xffff_ef80_0000_0000,
            ],
            Self::Sv57 => [
                0xff1b_ffff_fea0_0000,
                0xff1b_ffff_ff00_0000,
                0xff1c_0000_0000_0000,
                0xff20_0000_0000_0000,
                0xff60_0000_0000_0000,
                0xffdf_0000_0000_0000,
            ],
        }
    }

    /// The mode that has this kernel address; if it is in the same region of two modes, the one with fewer
    /// bits. None if it has that address in all of them, or if it is a user's.
    fn of(addr: u64) -> Option<Self> {
        Some(match addr {
            0..=USER_MOST | MODULES_LOWEST.. => return None,
            0xffff_ffc0_0000_0000.. => Self::Sv39,
            0xffff_8000_0000_0000.. => Self::Sv48,
            _ => Self::Sv57,
        })
    }
}

/// A kernel's layout.
#[derive(Clone, Debug)]
pub struct Layout {
    mode: Option<Mode>,
    /// First address, last address, name.
    regions: Vec<(u64, u64, &'static str)>,
    /// The pool of KFENCE.
    kfence: Option<(u64, u64)>,
    /// Where the layout comes from.
    source: &'static str,
}

impl Layout {
    /// The layout of the kernel with this console; `addresses` are some that it used, and `image` is where
    /// its image starts and ends.
    pub fn new(console: &Log, addresses: impl Iterator<Item = u64>, image: Option<(u64, u64)>) -> Self {
        let said = console.lines.iter().find_map(|line| match line.text.strip_prefix("lazymap: mmu ")?.trim() {
            "sv39" => Some(Mode::Sv39),
            "sv48" => Some(Mode::Sv48),
            "sv57" => Some(Mode::Sv57),
            _ => None,
        });
        let printed = printed(console);
        // A kernel uses addresses everywhere, so the lowest one shows how many bits there are.
        let used = addresses.chain(printed.iter().map(|(from, ..)| *from));
        let mode = said.or_else(|| Mode::of(used.filter(|a| *a > USER_MOST).min()?));
        let kfence = console.lines.iter().find_map(|line| {
            let (_, range) = line.text.strip_prefix("kfence: initialized")?.rsplit_once(" at ")?;
            let (from, to) = range.trim().split_once('-')?;
            Some((hex(from)?, hex(to)? - 1))
        });
        let source = if printed.is_empty() { "Documentation/arch/riscv/vm-layout.rst" } else { "the kernel's log" };
        let regions = if printed.is_empty() { documented(mode, image) } else { printed };
        Self { mode, regions, kfence, source }
    }

    /// The address translation in use; `None` if neither the console nor an address tells.
    pub fn mode(&self) -> Option<Mode> {
        self.mode
    }

    /// Where the layout comes from, for the report.
    pub fn source(&self) -> &'static str {
        self.source
    }

    /// The region of `addr`, such as `vmalloc` or `KASAN shadow of vmalloc`.
    pub fn region(&self, addr: u64) -> String {
        if addr >> 63 == 0 {
            return "user".to_owned();
        }
        if self.kfence.is_some_and(|(from, to)| (from..=to).contains(&addr)) {
            return "KFENCE pool (linear map)".to_owned();
        }
        match self.named(addr) {
            // The shadow has a shadow, too: an address may even be its own shadow.
            SHADOW if self.named(shadowed(addr)) == SHADOW => format!("{SHADOW} of {SHADOW}"),
            SHADOW => format!("{SHADOW} of {}", self.region(shadowed(addr))),
            name => name.to_owned(),
        }
    }

    fn named(&self, addr: u64) -> &'static str {
        let found = self.regions.iter().find(|(from, to, _)| (*from..=*to).contains(&addr));
        found.map_or("unknown", |(.., name)| name)
    }

    /// More about `addr`: for the KASAN shadow, the address that it is the shadow of.
    pub fn detail(&self, addr: u64) -> Option<String> {
        self.region(addr).starts_with(SHADOW).then(|| format!("shadow of {:#x}", shadowed(addr)))
    }
}

const SHADOW: &str = "KASAN shadow";

/// The address that a byte of shadow is for.
fn shadowed(shadow: u64) -> u64 {
    shadow.wrapping_sub(SHADOW_OFFSET) << SHADOW_SHIFT
}

fn documented(mode: Option<Mode>, image: Option<(u64, u64)>) -> Vec<(u64, u64, &'static str)> {
    let (start, end) = image.unwrap_or((IMAGE, u64::MAX));
    let modules = image.map_or(MODULES_LOWEST, |(_, end)| end.wrapping_sub(2 * GIB).max(MODULES_LOWEST));
    // These are in the same place in all modes.
    let highest = [(modules, start - 1, "modules and BPF"), (start, end, "kernel image")];
    let Some(mode) = mode else { return highest.into() };
    let [fixmap, io, vmemmap, vmalloc, linear, shadow] = mode.starts();
    let lower = [
        (fixmap, io - 1, "fixmap"),
        (io, vmemmap - 1, "PCI I/O"),
        (vmemmap, vmalloc - 1, "vmemmap"),
        (vmalloc, linear - 1, "vmalloc"),
        (linear, shadow - 1, "linear map"),
        (shadow, MODULES_LOWEST - 1, SHADOW),
    ];
    lower.into_iter().chain(highest).collect()
}

/// What print_vm_layout() (arch/riscv/mm/init.c) printed.
fn printed(console: &Log) -> Vec<(u64, u64, &'static str)> {
    const NAMES: &[(&str, &str)] = &[
        ("fixmap", "fixmap"),
        ("pci io", "PCI I/O"),
        ("vmemmap", "vmemmap"),
        ("vmalloc", "vmalloc"),
        ("modules", "modules and BPF"),
        ("lowmem", "linear map"),
        ("kasan", SHADOW),
        ("kernel", "kernel image"),
    ];
    let mut lines = console.lines.iter().map(|line| line.text.as_str());
    if !lines.any(|text| text.starts_with("Virtual kernel memory layout:")) {
        return Vec::new();
    }
    let mut regions = Vec::new();
    for text in lines {
        let Some((name, range)) = text.split_once(" : ") else { break };
        let Some((from, to)) = range.split_once(" - ") else { break };
        let to = to.split_whitespace().next().and_then(hex);
        let (Some(from), Some(to)) = (hex(from), to) else { break };
        if let Some((_, ours)) = NAMES.iter().find(|(theirs, _)| *theirs == name.trim()) {
            regions.push((from, if *ours == "kernel image" { to } else { to - 1 }, *ours));
        }
    }
    regions
}

fn hex(text: &str) -> Option<u64> {
    u64::from_str_radix(text.trim().strip_prefix("0x")?, 16).ok()
}
