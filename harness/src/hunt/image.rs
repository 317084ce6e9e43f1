// SPDX-License-Identifier: GPL-2.0-only
//! Checks that the vmlinux that the user names belongs to the kernel: before a boot, and of a console.

use std::path::Path;

use object::{Object, ObjectSection, ObjectSymbol};

use crate::ground::error::{Error, Result};
use crate::ground::files;

/// Checks that `vmlinux` belongs to the plain `image`, which was made of the file `named`. A distribution's debug file
/// has no banner in it, but a build ID. One with neither is taken as it is.
///
/// # Errors
/// When one cannot be read, or `vmlinux` is that of another kernel (exit code 64).
pub fn check(image: &Path, named: &Path, vmlinux: Option<&Path>) -> Result<()> {
    let Some(vmlinux) = vmlinux else { return Ok(()) };
    let data = files::read(image)?;
    let elf = files::read(vmlinux)?;
    let (id, of) = match (banner(&elf), build_id(&elf)) {
        (Some(banner), _) => (banner.clone(), format!("`{}`", String::from_utf8_lossy(&banner).trim_end())),
        (None, Some(id)) => {
            let hex: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
            (id, format!("the build with the ID {hex}"))
        }
        (None, None) => return Ok(()),
    };
    if contains(&data, &id) {
        return Ok(());
    }
    Err(other(vmlinux, &named.display().to_string(), &of))
}

/// Checks that `vmlinux` belongs to the kernel whose first line on the console is `version`, if both say what they are.
///
/// # Errors
/// As [`check`].
pub fn check_console(version: &str, vmlinux: &Path) -> Result<()> {
    let elf = files::read(vmlinux)?;
    let Some(banner) = banner(&elf) else { return Ok(()) };
    let banner = String::from_utf8_lossy(&banner);
    if version.is_empty() || version.trim_end() == banner.trim_end() {
        return Ok(());
    }
    Err(other(vmlinux, &format!("`{}`", version.trim_end()), &format!("`{}`", banner.trim_end())))
}

fn other(vmlinux: &Path, kernel: &str, of: &str) -> Error {
    let file = vmlinux.display();
    Error::usage(format!("{file} is not the vmlinux of {kernel}: it is of {of}; name the one from the same build"))
}

/// The ID that the linker gave it, which is in the kernel's notes as well.
fn build_id(elf: &[u8]) -> Option<Vec<u8>> {
    object::File::parse(elf).ok()?.build_id().ok().flatten().map(<[u8]>::to_vec)
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
    use std::fs;

    use super::*;

    fn image(text: &str) -> Vec<u8> {
        let mut image = vec![0; 64];
        image[..2].copy_from_slice(b"MZ");
        image[0x38..0x3c].copy_from_slice(b"RSC\x05");
        image.extend_from_slice(text.as_bytes());
        image
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
        assert!(check(&kernel, &kernel, Some(&elf)).is_ok());
        fs::write(&elf, vmlinux("Linux version 7.3.4 (a@b) #2 SMP")).unwrap();
        let error = check(&kernel, &kernel, Some(&elf)).unwrap_err();
        assert!(error.message.contains("#2 SMP") && error.message.contains("same build"), "{error}");
        assert!(check(&kernel, &kernel, None).is_ok());
        assert!(check_console(&format!("{line} "), &elf).is_err());
        assert!(check_console("Linux version 7.3.4 (a@b) #2 SMP", &elf).is_ok());
        assert!(check_console("", &elf).is_ok());
    }
}
