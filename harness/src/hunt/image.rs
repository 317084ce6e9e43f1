// SPDX-License-Identifier: GPL-2.0-only
//! Checks what the user names as a kernel before it is booted: that it is an Image, and that the vmlinux
//! belongs to it.

use std::fs;
use std::path::Path;

use object::{Object, ObjectSection, ObjectSymbol};

use crate::ground::error::{Error, Result};

/// Where an Image has its second magic number, and what that is; Documentation/arch/riscv/boot-image-header.rst.
const MAGIC: (usize, &[u8]) = (0x38, b"RSC\x05");
/// How compressed files and other formats begin, and what to do about them.
const OTHERS: &[(&[u8], &str)] = &[
    (b"\x7fELF", "an ELF file: name its arch/riscv/boot/Image, and the ELF file with --vmlinux"),
    (b"\x1f\x8b", "compressed with gzip: decompress it first"),
    (b"\xfd7zXZ\0", "compressed with xz: decompress it first"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd: decompress it first"),
];
/// The same for an EFI program that decompresses a kernel (`CONFIG_EFI_ZBOOT`).
const ZBOOT: (usize, &[u8]) = (4, b"zimg");

/// Checks the files before anything is booted.
///
/// # Errors
/// When one cannot be read, `image` is not an Image, or `vmlinux` is that of another kernel (exit code 64).
pub fn check(image: &Path, vmlinux: Option<&Path>) -> Result<()> {
    let data = fs::read(image).map_err(|e| Error::io("read", image, e))?;
    kind(&data).map_err(|why| Error::usage(format!("{}: {why}", image.display())))?;
    let Some(vmlinux) = vmlinux else { return Ok(()) };
    let elf = fs::read(vmlinux).map_err(|e| Error::io("read", vmlinux, e))?;
    let Some(banner) = banner(&elf) else { return Ok(()) };
    if contains(&data, &banner) {
        return Ok(());
    }
    Err(Error::usage(format!(
        "{} is not the vmlinux of {}: it is of `{}`; name the one from the same build",
        vmlinux.display(),
        image.display(),
        String::from_utf8_lossy(&banner).trim_end()
    )))
}

/// Whether it is an Image, or what it is.
fn kind(data: &[u8]) -> Result<(), String> {
    let at = |(offset, magic): (usize, &[u8])| data.get(offset..).is_some_and(|rest| rest.starts_with(magic));
    if at(ZBOOT) {
        return Err("an EFI program with a compressed kernel in it: name the Image that it was made of".to_owned());
    }
    if at(MAGIC) {
        return Ok(());
    }
    let other = OTHERS.iter().find(|(magic, _)| data.starts_with(magic));
    Err(other.map_or("not a RISC-V kernel: name an arch/riscv/boot/Image", |(_, what)| what).to_owned())
}

/// The line with the version that a kernel prints first, from its vmlinux; `None` if it has none.
fn banner(elf: &[u8]) -> Option<Vec<u8>> {
    let file = object::File::parse(elf).ok()?;
    let symbol = file.symbol_by_name("linux_banner")?;
    let section = file.section_by_index(symbol.section_index()?).ok()?;
    let offset = usize::try_from(symbol.address().checked_sub(section.address())?).ok()?;
    let text = section.data().ok()?.get(offset..)?;
    let end = text.iter().position(|&byte| byte == 0 || byte == b'\n')?;
    (end > 0).then(|| text[..end].to_vec())
}

fn contains(data: &[u8], text: &[u8]) -> bool {
    data.windows(text.len()).any(|window| window[0] == text[0] && window == text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(text: &str) -> Vec<u8> {
        let mut image = vec![0; 64];
        image[..2].copy_from_slice(b"MZ");
        image[0x38..0x3c].copy_from_slice(b"RSC\x05");
        image.extend_from_slice(text.as_bytes());
        image
    }

    #[test]
    fn kinds_of_files() {
        assert_eq!(kind(&image("")), Ok(()));
        let mut zboot = image("");
        zboot[4..8].copy_from_slice(b"zimg");
        for (data, word) in [
            (&b"\x7fELF\x02\x01"[..], "--vmlinux"),
            (b"\x1f\x8b\x08", "gzip"),
            (b"junk", "not a RISC-V kernel"),
            (b"", "not a RISC-V kernel"),
            (&zboot, "compressed kernel"),
        ] {
            let why = kind(data).unwrap_err();
            assert!(why.contains(word), "{why}");
        }
    }

    /// A little ELF file with nothing but a section and `linux_banner` in it.
    fn vmlinux(banner: &str) -> Vec<u8> {
        // What follows them is aligned.
        let mut text = format!("..{banner}\n\0");
        text.extend(std::iter::repeat_n('\0', text.len().next_multiple_of(8) - text.len()));
        let names = b"\0.rodata\0.symtab\0.strtab\0linux_banner\0\0\0";
        let mut elf = Vec::new();
        elf.extend_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
        let half = |v: u16| v.to_le_bytes();
        let word = |v: u32| v.to_le_bytes();
        let long = |v: u64| v.to_le_bytes();
        let (symbols, strings) = (64 + text.len() as u64, 64 + text.len() as u64 + 48);
        let sections = strings + names.len() as u64;
        for part in [&half(2)[..], &half(243), &word(1), &long(0), &long(0), &long(sections), &word(0), &half(64)] {
            elf.extend_from_slice(part);
        }
        for part in [56, 0, 64, 4, 3u16] {
            elf.extend_from_slice(&half(part));
        }
        elf.extend_from_slice(text.as_bytes());
        elf.extend_from_slice(&[0; 24]);
        for part in [&word(25)[..], &[0x11, 0], &half(1), &long(0x1002), &long(text.len() as u64 - 2)] {
            elf.extend_from_slice(part);
        }
        elf.extend_from_slice(names);
        let mut section =
            |name: u32, kind: u32, address: u64, offset: u64, size: u64, link: u32, info: u32, entry: u64| {
                for part in [&word(name)[..], &word(kind), &long(2), &long(address), &long(offset), &long(size)] {
                    elf.extend_from_slice(part);
                }
                for part in [&word(link)[..], &word(info), &long(1), &long(entry)] {
                    elf.extend_from_slice(part);
                }
            };
        section(0, 0, 0, 0, 0, 0, 0, 0);
        section(1, 1, 0x1000, 64, text.len() as u64, 0, 0, 0);
        section(9, 2, 0, symbols, 48, 3, 1, 24);
        section(17, 3, 0, strings, names.len() as u64, 0, 0, 0);
        elf
    }

    #[test]
    fn a_vmlinux_has_the_banner_of_its_image() {
        let folder = tempfile::tempdir().unwrap();
        let (kernel, elf) = (folder.path().join("Image"), folder.path().join("vmlinux"));
        let line = "Linux version 7.3.4 (a@b) #1 SMP";
        fs::write(&kernel, image(&format!("{line}\n"))).unwrap();
        fs::write(&elf, vmlinux(line)).unwrap();
        assert_eq!(banner(&fs::read(&elf).unwrap()).as_deref(), Some(line.as_bytes()));
        assert!(check(&kernel, Some(&elf)).is_ok());
        fs::write(&elf, vmlinux("Linux version 7.3.4 (a@b) #2 SMP")).unwrap();
        let error = check(&kernel, Some(&elf)).unwrap_err();
        assert!(error.message.contains("#2 SMP") && error.message.contains("same build"), "{error}");
        assert!(check(&kernel, None).is_ok());
        assert!(check(&folder.path().join("none"), None).is_err());
    }
}
