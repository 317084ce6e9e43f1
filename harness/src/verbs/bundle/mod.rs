// SPDX-License-Identifier: GPL-2.0-only
//! `lazymap bundle`: machine, kernel and tests as one archive that runs on any Linux of the same
//! architecture.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::boot::initramfs;
use crate::boot::machine::APPEND;
use crate::boot::models;
use crate::build::kernel::{Config, Kernel};
use crate::build::workbench::{Lab, Workbench};
use crate::ground::cmd;
use crate::ground::error::{Error, Result};
use crate::ground::files;
use crate::ground::progress::Step;
use crate::options::Options;
use crate::source::host;

/// What starts the guest.
const RUN: &str = include_str!("run.sh");
/// The archive's only folder.
const NAME: &str = "lazymap-bundle";
/// Nobody wants to download more, in bytes.
const LARGEST: u64 = 40 << 20;
/// The time of all files in an archive, so that the same contents give the same bytes.
const TIME: &str = "2026-01-01T00:00:00Z";

/// Writes the archive, as `.tar.xz`; returns where.
///
/// # Errors
/// When something cannot be built or packed, or what was packed does not start.
pub fn run(options: &Options, output: Option<&Path>) -> Result<PathBuf> {
    let mut lab = Lab::open(options)?;
    let kernel = lab.kernel(&Config::default())?;
    let place = options.place("bundle");
    let archive = output.map_or_else(|| place.join(format!("{NAME}.tar.xz")), Path::to_path_buf);
    let step = Step::start("bundle");
    let folder = place.join(NAME);
    files::remove(&folder)?;
    fill(&folder, &lab.bench, &kernel, &step)?;
    step.detail("try it");
    // Nothing of the environment may be needed.
    let version =
        cmd::output(Command::new(folder.join("run.sh")).arg("--version").env_clear().env("PATH", "/usr/bin:/bin"))?;
    step.detail("compress");
    pack(&place, NAME, &archive, "xz")?;
    let size = fs::metadata(&archive).map_err(|e| Error::io("read", &archive, e))?.len();
    if size > LARGEST {
        return Err(Error::could_not(format!(
            "{} has {} MiB, more than {}; leave something out",
            archive.display(),
            size >> 20,
            LARGEST >> 20
        )));
    }
    step.finish(&format!(
        "{:.1} MiB, {}",
        size as f64 / f64::from(1 << 20),
        version.lines().next().unwrap_or_default()
    ));
    Ok(archive)
}

/// Puts everything into `folder`.
fn fill(folder: &Path, bench: &Workbench, kernel: &Kernel, step: &Step) -> Result<()> {
    let copy = |from: &Path, to: &str| -> Result<()> {
        let to = folder.join(to);
        let parent = to.parent().unwrap_or(folder);
        files::create_dir(parent)?;
        files::copy(from, &to)
    };
    step.detail("libraries");
    // The tool itself judges the console.
    let tool = env::current_exe().map_err(|e| Error::could_not(format!("the tool does not find itself: {e}")))?;
    for (program, name) in [(&bench.qemu.binary, "qemu-system-riscv64"), (&tool, "lazymap")] {
        copy(program, &format!("bin/{name}"))?;
        if host::in_path("strip").is_some() {
            cmd::output(Command::new("strip").arg(folder.join("bin").join(name)))?;
        }
        for (name, path) in libraries(program)? {
            copy(&path, &format!("lib/{name}"))?;
        }
    }
    copy(&bench.options.root.join("base.toml"), "share/base.toml")?;
    step.detail("guest");
    copy(&kernel.image, "share/Image")?;
    copy(&bench.firmware, "share/fw_dynamic.bin")?;
    initramfs::build(&bench.busybox, &kernel.selftests, &folder.join("share/initramfs.cpio.gz"))?;
    let run = folder.join("run.sh");
    let stale = models::find("stale")?;
    files::write_whole(&run, RUN.replace("@CPU@", &stale.cpu).replace("@APPEND@", APPEND))?;
    files::make_executable(&run)?;
    files::write_whole(&folder.join("README"), about(bench, kernel))
}

/// What the archive is, and what it is made of: its programs are free software, and their licences ask for that.
fn about(bench: &Workbench, kernel: &Kernel) -> String {
    let base = &bench.options.base;
    let (guest, used) = (&base.guest, &bench.base_used);
    format!(
        "A RISC-V machine whose harts remember invalid translations, with a kernel and its tests: ./run.sh\n\
         ./run.sh --help lists the options.\n\n\
         Made by lazymap {}. What is in it, and where its source is:\n\n\
         bin/qemu-system-riscv64   {}, Debian's source package {} {} with {} of lazymap\n\
         bin/lazymap               the tool of lazymap itself\n\
         share/Image               Linux {} with {} of lazymap (commit {}), from {}\n\
         share/fw_dynamic.bin      OpenSBI, Debian's package {} {}\n\
         share/initramfs.cpio.gz   busybox, Debian's package {} {}; tests from the kernel's tools/testing/selftests\n\
         lib/                      libraries of the host that built it\n",
        env!("CARGO_PKG_VERSION"),
        bench.qemu.version,
        base.qemu.package.name,
        base.qemu.package.version,
        base.qemu.patches,
        used.version,
        base.linux.patches,
        kernel.commit,
        used.from,
        base.firmware.name,
        base.firmware.version,
        guest.busybox.name,
        guest.busybox.version,
    )
}

/// The libraries that `program` loads, by file name, with the loader itself as `loader`.
fn libraries(program: &Path) -> Result<BTreeMap<String, PathBuf>> {
    let list = cmd::output(Command::new("ldd").arg(program).env("LC_ALL", "C"))?;
    let found = parse_ldd(&list).map_err(|why| Error::could_not(format!("{}: {why}", program.display())))?;
    if !found.contains_key("loader") {
        return Err(Error::could_not(format!("{} needs no loader; ldd said: {}", program.display(), list.trim())));
    }
    Ok(found)
}

/// Reads `NAME => PATH (ADDRESS)`, and `PATH (ADDRESS)` of the loader, or `PATH => PATH (ADDRESS)` where the program names
/// it by a link.
fn parse_ldd(list: &str) -> Result<BTreeMap<String, PathBuf>, String> {
    let mut found = BTreeMap::new();
    for line in list.lines().map(str::trim).filter(|l| !l.is_empty()) {
        match line.split_once(" => ") {
            Some((name, "not found")) => return Err(format!("the library {name} is missing")),
            Some((name, rest)) => {
                let path = rest.split(" (").next().unwrap_or(rest);
                let name = if name.starts_with('/') { "loader" } else { name };
                found.insert(name.to_owned(), PathBuf::from(path));
            }
            None if line.starts_with('/') => {
                found.insert("loader".to_owned(), PathBuf::from(line.split(" (").next().unwrap_or(line)));
            }
            // linux-vdso is not a file.
            None => {}
        }
    }
    Ok(found)
}

/// Packs the folder `name` in `place` into `archive`; `how` is tar's name of the compression.
///
/// # Errors
/// When tar fails.
pub fn pack(place: &Path, name: &str, archive: &Path, how: &str) -> Result<()> {
    if let Some(parent) = archive.parent() {
        files::create_dir(parent)?;
    }
    let mut tar = cmd::plain("tar");
    tar.args(["--sort=name", "--owner=0", "--group=0", "--numeric-owner"]).arg(format!("--mtime={TIME}"));
    tar.arg(format!("--{how}")).arg("-cf").arg(archive).arg("-C").arg(place).arg(name);
    cmd::output(&mut tar).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ldd_prints() {
        let list = "\tlinux-vdso.so.1 (0x00007fff)\n\tlibz.so.1 => /lib/x86_64-linux-gnu/libz.so.1 (0x00007f)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let found = parse_ldd(list).unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!(found["libz.so.1"], Path::new("/lib/x86_64-linux-gnu/libz.so.1"));
        assert_eq!(found["loader"], Path::new("/lib64/ld-linux-x86-64.so.2"));
        // On arm64 and riscv64, and where /lib64 is a link.
        for (line, loader) in [
            ("/lib/ld-linux-aarch64.so.1 (0x0000ffff)", "/lib/ld-linux-aarch64.so.1"),
            ("/lib/ld-linux-riscv64-lp64d.so.1 (0x00003fff)", "/lib/ld-linux-riscv64-lp64d.so.1"),
            (
                "/lib64/ld-linux-x86-64.so.2 => /usr/lib64/ld-linux-x86-64.so.2 (0x00007f)",
                "/usr/lib64/ld-linux-x86-64.so.2",
            ),
        ] {
            let list = format!("\tlinux-vdso.so.1 (0x00007fff)\n\tlibc.so.6 => /lib/libc.so.6 (0x00007f)\n\t{line}\n");
            let found = parse_ldd(&list).unwrap();
            assert_eq!((found.len(), found["loader"].as_path()), (2, Path::new(loader)), "{line}");
        }
        assert!(parse_ldd("\tlibslirp.so.0 => not found\n").unwrap_err().contains("libslirp.so.0 is missing"));
    }
}
