// SPDX-License-Identifier: GPL-2.0-only
//! A kernel built elsewhere: what kind of file it is, and the plain `Image` in it, which QEMU boots.
//!
//! The header of an `Image` is Documentation/arch/riscv/boot-image-header.rst, that of an EFI zboot
//! image drivers/firmware/efi/libstub/zboot-header.S. QEMU's `-kernel` knows neither gzip nor zboot on
//! RISC-V, and it loads an ELF file to where the file says, which for Linux is not where memory is.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use object::LittleEndian;
use object::elf::{EM_RISCV, FileHeader64, PT_LOAD};
use object::read::elf::{FileHeader, ProgramHeader};

use crate::ground::error::{Error, Result};
use crate::ground::files;

/// `magic2` of a RISC-V `Image`, and where it is.
const IMAGE: (usize, &[u8]) = (0x38, b"RSC\x05");
/// The same place in an `Image` for arm64.
const ARM64: (usize, &[u8]) = (0x38, b"ARM\x64");
/// The type of an EFI zboot image, behind `MZ` and two more bytes.
const ZBOOT: (usize, &[u8]) = (4, b"zimg");
/// Offset of the payload's offset and of its size in such an image, 32 bits each.
const ZBOOT_PAYLOAD: (usize, usize) = (8, 12);
/// Where its compression is named, ended by a zero byte.
const ZBOOT_METHOD: std::ops::Range<usize> = 24..56;
const GZIP: &[u8] = b"\x1f\x8b";
const ELF: &[u8] = b"\x7fELF";
/// Bytes that tell the kind of a file.
const HEAD: usize = 64;
/// No kernel is larger, in bytes; what claims to be is damaged.
const LARGEST: u64 = 1 << 30;

/// What a file is, by its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `arch/riscv/boot/Image`.
    Image,
    /// Compressed with gzip: `Image.gz`, and what distributions call vmlinuz.
    Gzip,
    /// `vmlinuz.efi`: a program for EFI with a compressed `Image` in it.
    Zboot,
    /// `vmlinux`.
    Elf,
}

/// What to do about a file that is not one of these.
const WANTED: &str = "give arch/riscv/boot/Image, Image.gz, vmlinuz.efi or vmlinux of a RISC-V kernel";

/// Tells by its first bytes what the file at `path` is.
///
/// # Errors
/// When it is not a kernel for RISC-V (exit code 64), or cannot be read.
pub fn kind(path: &Path) -> Result<Kind> {
    let file =
        File::open(path).map_err(|e| Error::usage(format!("{} cannot be read: {e}; {WANTED}", path.display())))?;
    let mut head = Vec::new();
    file.take(HEAD as u64)
        .read_to_end(&mut head)
        .map_err(|e| Error::usage(format!("{} cannot be read: {e}; {WANTED}", path.display())))?;
    kind_of(&head).map_err(|why| Error::usage(format!("{} {why}; {WANTED}", path.display())))
}

fn kind_of(head: &[u8]) -> Result<Kind, String> {
    let at = |(offset, magic): (usize, &[u8])| head.get(offset..).is_some_and(|rest| rest.starts_with(magic));
    if at(IMAGE) {
        Ok(Kind::Image)
    } else if at((0, GZIP)) {
        Ok(Kind::Gzip)
    } else if at((0, b"MZ")) && at(ZBOOT) {
        Ok(Kind::Zboot)
    } else if at((0, ELF)) {
        match head.get(18..20).map(|machine| u16::from_le_bytes([machine[0], machine[1]])) {
            Some(machine) if machine == EM_RISCV.0 => Ok(Kind::Elf),
            _ => Err("is a program for another machine".to_owned()),
        }
    } else if at(ARM64) {
        Err("is a kernel for arm64".to_owned())
    } else {
        Err("is not a kernel: it has neither RSC\\x05 at byte 0x38 nor the head of gzip, EFI zboot or ELF".to_owned())
    }
}

/// The plain `Image` of the kernel at `path`: the file itself, or what is in it, written to `unpacked`.
///
/// # Errors
/// When it is not a kernel for RISC-V (exit code 64), is damaged, or the program that unpacks it is missing.
pub fn image(path: &Path, unpacked: &Path) -> Result<PathBuf> {
    let kind = kind(path)?;
    if kind == Kind::Image {
        return Ok(path.to_owned());
    }
    let bytes = files::read(path)?;
    let image = plain(kind, &bytes).map_err(|why| Error::usage(format!("{} {why}; {WANTED}", path.display())))?;
    files::write_whole(unpacked, &*image)?;
    Ok(unpacked.to_owned())
}

/// The `Image` in a file of this kind.
fn plain(kind: Kind, bytes: &[u8]) -> Result<Cow<'_, [u8]>, String> {
    let inner = match kind {
        Kind::Image => return Ok(bytes.into()),
        Kind::Gzip => gunzip(bytes)?,
        Kind::Zboot => zboot(bytes)?,
        Kind::Elf => flat(bytes)?,
    };
    match kind_of(&inner) {
        Ok(Kind::Image) => Ok(inner.into()),
        // A compressed vmlinux.
        Ok(Kind::Elf) if kind != Kind::Elf => Ok(plain(Kind::Elf, &inner)?.into_owned().into()),
        _ => Err("has no RISC-V Image in it (RSC\\x05 at byte 0x38)".to_owned()),
    }
}

fn gunzip(bytes: &[u8]) -> Result<Vec<u8>, String> {
    let mut plain = Vec::new();
    // What follows the stream, such as a signature, is ignored.
    let mut stream = flate2::read::GzDecoder::new(bytes).take(LARGEST);
    stream.read_to_end(&mut plain).map_err(|e| format!("is damaged: {e}"))?;
    Ok(plain)
}

fn zboot(bytes: &[u8]) -> Result<Vec<u8>, String> {
    let word = |at: usize| {
        let word = bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_le_bytes);
        word.and_then(|word| usize::try_from(word).ok()).ok_or("is damaged: it ends in its header")
    };
    let (from, size) = (word(ZBOOT_PAYLOAD.0)?, word(ZBOOT_PAYLOAD.1)?);
    let payload =
        from.checked_add(size).and_then(|to| bytes.get(from..to)).ok_or("is damaged: its payload is cut off")?;
    let name = bytes.get(ZBOOT_METHOD).unwrap_or_default();
    let name = String::from_utf8_lossy(name.split(|b| *b == 0).next().unwrap_or_default()).into_owned();
    match name.as_str() {
        "gzip" => gunzip(payload),
        "zstd" => filtered("zstd", &["-dc"], payload),
        // The names that the kernel's Makefile.zboot gives.
        "xzkern" => filtered("xz", &["-dc"], payload),
        "lzma" => filtered("xz", &["--format=lzma", "-dc"], payload),
        "lz4" => filtered("lz4", &["-dc"], payload),
        "lzo" => filtered("lzop", &["-dc"], payload),
        _ => Err(format!("is compressed with `{name}`, which is unknown")),
    }
}

/// The name and the contents of a kernel module, unpacked if distributions' `MODULE_COMPRESS` has packed it; `None` if
/// the file's name is not that of a module.
///
/// # Errors
/// When it cannot be read or unpacked (exit code 64).
pub fn module(path: &Path) -> Result<Option<(String, Vec<u8>)>> {
    let name = files::name(path);
    let packed = [(".ko", None), (".ko.gz", Some("gzip")), (".ko.xz", Some("xz")), (".ko.zst", Some("zstd"))];
    let Some((stem, program)) = packed.into_iter().find_map(|(end, program)| Some((name.strip_suffix(end)?, program)))
    else {
        return Ok(None);
    };
    let bytes = files::read(path)?;
    let plain = match program {
        None => bytes,
        Some("gzip") => gunzip(&bytes).map_err(|why| Error::usage(format!("{} {why}", path.display())))?,
        Some(program) => {
            filtered(program, &["-dc"], &bytes).map_err(|why| Error::usage(format!("{} {why}", path.display())))?
        }
    };
    Ok(Some((format!("{stem}.ko"), plain)))
}

/// What `program` makes of `input`.
fn filtered(program: &str, args: &[&str], input: &[u8]) -> Result<Vec<u8>, String> {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command
        .spawn()
        .map_err(|e| format!("is compressed, and `{program}` cannot be run ({e}): install {program}"))?;
    let stdin = child.stdin.take();
    let done = thread::scope(|scope| {
        // It may end early, which its status tells.
        scope.spawn(move || stdin.map(|mut stdin| io::Write::write_all(&mut stdin, input)));
        child.wait_with_output()
    });
    let done = done.map_err(|e| format!("cannot be unpacked by {program}: {e}"))?;
    if !done.status.success() {
        let why = String::from_utf8_lossy(&done.stderr);
        return Err(format!(
            "cannot be unpacked by {program}: {}",
            why.trim().lines().next_back().unwrap_or("no message")
        ));
    }
    Ok(done.stdout)
}

/// The segments of an ELF file where their physical addresses put them, as `objcopy -O binary` does.
fn flat(bytes: &[u8]) -> Result<Vec<u8>, String> {
    let damaged = |e: object::Error| format!("is damaged: {e}");
    let header = FileHeader64::<LittleEndian>::parse(bytes).map_err(damaged)?;
    let all = header.program_headers(LittleEndian, bytes).map_err(damaged)?;
    let of = |p: &&object::elf::ProgramHeader64<LittleEndian>| {
        p.p_type(LittleEndian) == PT_LOAD && p.p_filesz(LittleEndian) > 0
    };
    let start = all.iter().filter(of).map(|p| p.p_paddr(LittleEndian)).min().ok_or("has nothing to load")?;
    let mut image = Vec::new();
    for segment in all.iter().filter(of) {
        let data = segment.data(LittleEndian, bytes).map_err(|()| "is damaged: a segment is cut off")?;
        let from = segment.p_paddr(LittleEndian) - start;
        let to = from.checked_add(data.len() as u64).filter(|to| *to <= LARGEST);
        let (Ok(from), Some(Ok(to))) = (usize::try_from(from), to.map(usize::try_from)) else {
            return Err("is damaged: its segments are too far apart".to_owned());
        };
        image.resize(image.len().max(to), 0);
        image[from..to].copy_from_slice(data);
    }
    Ok(image)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;

    use super::*;

    /// The start of an `Image`, and something behind it.
    fn an_image() -> Vec<u8> {
        let mut bytes = vec![0; 200];
        bytes[..2].copy_from_slice(b"MZ");
        bytes[0x30..0x35].copy_from_slice(b"RISCV");
        bytes[0x38..0x3c].copy_from_slice(IMAGE.1);
        bytes[199] = 7;
        bytes
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut stream = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        stream.write_all(bytes).unwrap();
        stream.finish().unwrap()
    }

    fn zboot_of(method: &str, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; 100];
        bytes[..2].copy_from_slice(b"MZ");
        bytes[4..8].copy_from_slice(b"zimg");
        bytes[8..12].copy_from_slice(&100_u32.to_le_bytes());
        bytes[12..16].copy_from_slice(&u32::try_from(payload.len()).unwrap().to_le_bytes());
        bytes[24..24 + method.len()].copy_from_slice(method.as_bytes());
        bytes.extend(payload);
        // The rest of the PE file.
        bytes.extend([0; 50]);
        bytes
    }

    #[test]
    fn kinds() {
        assert_eq!(kind_of(&an_image()), Ok(Kind::Image));
        assert_eq!(kind_of(&gzip(&an_image())), Ok(Kind::Gzip));
        assert_eq!(kind_of(&zboot_of("gzip", b"")), Ok(Kind::Zboot));
        assert!(kind_of(b"root:x:0:0:root").unwrap_err().contains("not a kernel"));
        assert!(kind_of(b"").is_err());
        let mut arm = an_image();
        arm[0x38..0x3c].copy_from_slice(ARM64.1);
        assert!(kind_of(&arm).unwrap_err().contains("arm64"));
        let mut elf = vec![0; 64];
        elf[..4].copy_from_slice(ELF);
        elf[18] = 62;
        assert!(kind_of(&elf).unwrap_err().contains("another machine"));
        elf[18] = 243;
        assert_eq!(kind_of(&elf), Ok(Kind::Elf));
    }

    #[test]
    fn the_image_within() {
        let image = an_image();
        assert_eq!(*plain(Kind::Gzip, &gzip(&image)).unwrap(), *image);
        assert_eq!(*plain(Kind::Zboot, &zboot_of("gzip", &gzip(&image))).unwrap(), *image);
        assert!(plain(Kind::Gzip, &gzip(b"a text")).unwrap_err().contains("no RISC-V Image"));
        assert!(plain(Kind::Gzip, &gzip(&image)[..40]).unwrap_err().contains("damaged"));
        assert!(plain(Kind::Zboot, &zboot_of("rar", b"x")).unwrap_err().contains("`rar`"));
        assert!(plain(Kind::Zboot, &zboot_of("gzip", &gzip(&image))[..110]).unwrap_err().contains("cut off"));
        assert!(filtered("no-such-program", &[], b"").unwrap_err().contains("install no-such-program"));
    }

    #[test]
    fn segments_lie_where_their_physical_addresses_say() {
        let image = an_image();
        let segments: [(u64, &[u8]); 2] = [(0x1000, &image[..100]), (0x1000 + 150, &image[150..])];
        let mut elf = vec![0; 64];
        elf[..8].copy_from_slice(b"\x7fELF\x02\x01\x01\0");
        elf[18..20].copy_from_slice(&243_u16.to_le_bytes());
        elf[32..40].copy_from_slice(&64_u64.to_le_bytes());
        elf[54..56].copy_from_slice(&56_u16.to_le_bytes());
        elf[56..58].copy_from_slice(&2_u16.to_le_bytes());
        let mut data = 64 + 2 * 56;
        for (address, bytes) in segments {
            let size = bytes.len() as u64;
            elf.extend(1_u32.to_le_bytes());
            elf.extend(5_u32.to_le_bytes());
            // Offset, virtual address, physical address, size in the file, in memory, alignment.
            for word in [data, 0xffff_ffff_8000_0000 + address, address, size, size, 1] {
                elf.extend(word.to_le_bytes());
            }
            data += size;
        }
        segments.iter().for_each(|(_, bytes)| elf.extend(*bytes));
        assert_eq!(*plain(Kind::Elf, &elf).unwrap(), *image);
        assert_eq!(*plain(Kind::Gzip, &gzip(&elf)).unwrap(), *image);
        assert!(plain(Kind::Elf, &elf[..elf.len() - 10]).unwrap_err().contains("cut off"));
    }

    #[test]
    fn modules_are_unpacked() {
        let folder = tempfile::tempdir().unwrap();
        let made = |name: &str, packer: &[&str]| {
            let path = folder.path().join(name);
            let bytes = match packer {
                [] => b"a module".to_vec(),
                [program, args @ ..] => filtered(program, args, b"a module").unwrap(),
            };
            fs::write(&path, bytes).unwrap();
            module(&path)
        };
        let same = Some(("a-b.ko".to_owned(), b"a module".to_vec()));
        assert_eq!(made("a-b.ko", &[]).unwrap(), same);
        assert_eq!(made("a-b.ko.gz", &["gzip", "-c"]).unwrap(), same);
        assert_eq!(made("a-b.ko.xz", &["xz", "-c"]).unwrap(), same);
        assert_eq!(made("modules.dep", &[]).unwrap(), None);
        assert!(made("bad.ko.xz", &[]).unwrap_err().message.contains("bad.ko.xz cannot be unpacked by xz"));
    }

    #[test]
    fn zboot_images_of_each_compression_that_the_host_has() {
        for (method, program, args) in [
            ("xzkern", "xz", vec!["-c"]),
            ("lzma", "xz", vec!["--format=lzma", "-c"]),
            ("zstd", "zstd", vec!["-c"]),
            ("lz4", "lz4", vec!["-c"]),
            ("lzo", "lzop", vec!["-c"]),
        ] {
            let Ok(payload) = filtered(program, &args, b"an image") else { continue };
            assert_eq!(zboot(&zboot_of(method, &payload)).as_deref(), Ok(b"an image".as_slice()), "{method}");
        }
    }
}
