// SPDX-License-Identifier: GPL-2.0-only
//! The guest's file system: busybox, `/init`, and the selftests in `/lazy_map`.
//!
//! The format is Documentation/driver-api/early-userspace/buffer-format.rst. The same input gives
//! the same bytes: names are sorted, and no times or owners of the host are recorded.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use cpio::newc::{self, ModeFileType};
use flate2::Compression;
use flate2::write::GzEncoder;
use object::LittleEndian;
use object::elf::{FileHeader64, PT_INTERP};
use object::read::elf::{FileHeader, ProgramHeader};

use crate::ground::error::{Error, Result};
use crate::ground::files;

/// The guest's `/init`.
const INIT: &str = include_str!("guest/init.sh");
/// Where the guest finds the selftests.
const SELFTESTS: &str = "lazy_map";
/// `e_machine` of a RISC-V program (elf.h).
const EM_RISCV: u16 = 243;
/// Offset of `e_machine` in an ELF header.
const E_MACHINE: usize = 18;

/// Packs `busybox` and the folder `selftests` into the initramfs `archive` (newc cpio, gzip).
///
/// # Errors
/// When `busybox` is not a RISC-V program, something cannot be read, or the archive cannot be
/// written; then an older archive is left as it was.
pub fn build(busybox: &Path, selftests: &Path, archive: &Path) -> Result<()> {
    let parent = archive.parent().unwrap_or(Path::new("."));
    files::create_dir(parent)?;
    let temporary = tempfile::NamedTempFile::new_in(parent).map_err(|e| Error::io("create a file in", parent, e))?;
    let mut packer = Packer::new(GzEncoder::new(temporary, Compression::fast()), archive);
    for folder in ["bin", "dev"] {
        packer.folder(folder)?;
    }
    packer.program("bin/busybox", &read_busybox(busybox)?)?;
    packer.program("init", INIT.as_bytes())?;
    // For messages before devtmpfs is mounted.
    for (name, major, minor) in [("dev/console", 5, 1), ("dev/kmsg", 1, 11), ("dev/null", 1, 3)] {
        packer.device(name, major, minor)?;
    }
    packer.tree(selftests, SELFTESTS)?;
    let temporary = packer.finish()?;
    temporary.persist(archive).map_err(|e| Error::io("write", archive, e.error))?;
    Ok(())
}

/// Appends the folder `from` to the archive of another tool as `name`, a path without a leading `/` whose upper folders
/// that archive has. The kernel unpacks all of an initramfs's archives, one after the other.
///
/// # Errors
/// When something cannot be read, or the archive cannot be written.
pub fn append(archive: &Path, from: &Path, name: &str) -> Result<()> {
    let file = File::options().append(true).open(archive).map_err(|e| Error::io("write", archive, e))?;
    let mut packer = Packer::new(GzEncoder::new(file, Compression::fast()), archive);
    packer.tree(from, name)?;
    packer.finish().map(drop)
}

/// Checks that `path` is a program that a guest without any library can run.
///
/// # Errors
/// When it is not for RISC-V, needs libraries, or cannot be read.
pub fn check_busybox(path: &Path) -> Result<()> {
    read_busybox(path).map(drop)
}

fn read_busybox(path: &Path) -> Result<Vec<u8>> {
    let bytes = files::read(path)?;
    let wrong =
        |what: &str| Error::could_not(format!("{} {what}; a static busybox for riscv64 is needed", path.display()));
    let machine = bytes.get(E_MACHINE..E_MACHINE + 2).map(|b| u16::from_le_bytes([b[0], b[1]]));
    if !bytes.starts_with(b"\x7fELF") || machine != Some(EM_RISCV) {
        return Err(wrong("is not a RISC-V program"));
    }
    // One that cannot be parsed is left to the guest: it says so.
    let header = FileHeader64::<LittleEndian>::parse(&*bytes);
    let segments = header.and_then(|header| header.program_headers(LittleEndian, &*bytes));
    if segments.is_ok_and(|all| all.iter().any(|segment| segment.p_type(LittleEndian) == PT_INTERP)) {
        return Err(wrong("is linked dynamically"));
    }
    Ok(bytes)
}

/// An archive while it is written.
struct Packer<'a, W: Write> {
    out: W,
    archive: &'a Path,
    /// Two names with one number would be one file to the kernel, if they had more than one link.
    inode: u32,
}

impl<'a, W: Write> Packer<'a, GzEncoder<W>> {
    fn new(out: GzEncoder<W>, archive: &'a Path) -> Self {
        Self { out, archive, inode: 0 }
    }

    fn entry(&mut self, name: &str, kind: ModeFileType, mode: u32, device: (u32, u32), bytes: &[u8]) -> Result<()> {
        self.inode += 1;
        let written = || -> io::Result<()> {
            let size = u32::try_from(bytes.len()).map_err(io::Error::other)?;
            let mut entry = newc::Builder::new(name)
                .ino(self.inode)
                .mode(mode)
                .set_mode_file_type(kind)
                .rdev_major(device.0)
                .rdev_minor(device.1)
                .write(&mut self.out, size);
            entry.write_all(bytes)?;
            entry.finish()?;
            Ok(())
        }();
        written.map_err(|e| Error::could_not(format!("cannot write {} ({name}): {e}", self.archive.display())))
    }

    fn folder(&mut self, name: &str) -> Result<()> {
        self.entry(name, ModeFileType::Directory, 0o755, (0, 0), &[])
    }

    fn program(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        self.entry(name, ModeFileType::Regular, 0o755, (0, 0), bytes)
    }

    fn device(&mut self, name: &str, major: u32, minor: u32) -> Result<()> {
        self.entry(name, ModeFileType::Char, 0o600, (major, minor), &[])
    }

    /// Adds `from` as `name`, with everything in it.
    fn tree(&mut self, from: &Path, name: &str) -> Result<()> {
        let about = fs::symlink_metadata(from).map_err(|e| Error::io("read", from, e))?;
        let mode = about.permissions().mode() & 0o7777;
        if about.is_symlink() {
            let target = fs::read_link(from).map_err(|e| Error::io("read", from, e))?;
            self.entry(name, ModeFileType::Symlink, 0o777, (0, 0), target.as_os_str().as_bytes())
        } else if about.is_dir() {
            self.entry(name, ModeFileType::Directory, mode, (0, 0), &[])?;
            for path in files::list(from)? {
                let Some(last) = path.file_name().and_then(|last| last.to_str()) else {
                    return Err(Error::could_not(format!(
                        "the name of {} is not UTF-8; rename the file",
                        path.display()
                    )));
                };
                self.tree(&path, &format!("{name}/{last}"))?;
            }
            Ok(())
        } else if about.is_file() {
            let bytes = files::read(from)?;
            self.entry(name, ModeFileType::Regular, mode, (0, 0), &bytes)
        } else {
            Err(Error::could_not(format!("{} is neither a file nor a folder nor a link; remove it", from.display())))
        }
    }

    fn finish(self) -> Result<W> {
        let archive = self.archive;
        let done = newc::trailer(self.out).and_then(|mut out| {
            out.flush()?;
            out.finish()
        });
        done.map_err(|e| Error::io("write", archive, e))
    }
}

/// Lists an archive that [`build`] made: name, mode with the file's type, device number, content.
///
/// # Errors
/// When it cannot be read, or is not such an archive.
pub fn list(archive: &Path) -> Result<Vec<Listed>> {
    let wrong = |e: io::Error| Error::io("read", archive, e);
    let file = File::open(archive).map_err(wrong)?;
    let mut source = flate2::read::GzDecoder::new(file);
    let mut all = Vec::new();
    loop {
        let mut reader = newc::Reader::new(source).map_err(wrong)?;
        let entry = reader.entry();
        if entry.is_trailer() {
            return Ok(all);
        }
        let (name, mode) = (entry.name().to_owned(), entry.mode());
        let device = (entry.rdev_major(), entry.rdev_minor());
        let mut bytes = Vec::new();
        io::Read::read_to_end(&mut reader, &mut bytes).map_err(wrong)?;
        all.push(Listed { name, mode, device, bytes });
        source = reader.finish().map_err(wrong)?;
    }
}

/// A file in an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Path without a leading `/`.
    pub name: String,
    /// Type and permissions, as in `st_mode`.
    pub mode: u32,
    /// Major and minor number of a device node.
    pub device: (u32, u32),
    /// Content, or where a symbolic link points.
    pub bytes: Vec<u8>,
}
