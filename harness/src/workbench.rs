// SPDX-License-Identifier: GPL-2.0-only
//! Everything that a boot needs, made in the order in which it is needed.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::apt::{self, Kind};
use crate::base::{Base, BaseUsed, Package};
use crate::cli::Options;
use crate::error::{Error, Result};
use crate::host::{self, Host};
use crate::kernel::{self, Kernel};
use crate::qemu::{self, Qemu};
use crate::series;
use crate::stamp;
use crate::tree::{Source, Tree};

/// What the demo boots.
#[derive(Clone, Debug)]
pub struct Workbench {
    /// Top of the repository.
    pub root: PathBuf,
    /// Where everything generated goes.
    pub out: PathBuf,
    /// The base file.
    pub base: Base,
    /// What was really used.
    pub base_used: BaseUsed,
    /// Tool to version line, for `results.json`.
    pub toolchain: BTreeMap<String, String>,
    /// Variants by name: `preventive`, `series`.
    pub kernels: BTreeMap<String, Kernel>,
    /// The machine model.
    pub qemu: Qemu,
    /// The guest's static busybox.
    pub busybox: PathBuf,
    /// `fw_dynamic.bin`.
    pub firmware: PathBuf,
}

/// Makes everything that is missing or out of date.
///
/// # Errors
/// The first thing that could not be had (exit code 2).
pub fn prepare(options: &Options) -> Result<Workbench> {
    let base = Base::load(&options.root)?;
    let (tree, kernels, host) = kernels_for(options, &base)?;
    let qemu = qemu::build(options, &base)?;
    let busybox = guest_file(options, &base, &base.guest.busybox, &base.guest.busybox_path, "busybox")?;
    let firmware = guest_file(options, &base, &base.guest.firmware, &base.guest.firmware_path, "fw_dynamic.bin")?;
    let mut toolchain = host.versions().clone();
    toolchain.insert("qemu".to_owned(), qemu.version.clone());
    Ok(Workbench {
        root: options.root.clone(),
        out: options.out.clone(),
        base,
        base_used: tree.used.clone(),
        toolchain,
        kernels,
        qemu,
        busybox,
        firmware,
    })
}

/// The kernels alone, and the tree that they were built from.
///
/// # Errors
/// As [`prepare`].
pub fn kernels(options: &Options) -> Result<(Tree, BTreeMap<String, Kernel>)> {
    let base = Base::load(&options.root)?;
    kernels_for(options, &base).map(|(tree, kernels, _)| (tree, kernels))
}

fn kernels_for(options: &Options, base: &Base) -> Result<(Tree, BTreeMap<String, Kernel>, Host)> {
    // First what takes no time: a wrong KSRC should not be found out after a download.
    let source = Source::find(options, base)?;
    let host = host::prepare(options, base, true)?;
    let mut tree = Tree::open_from(&source, options, base)?;
    let tip = series::current(&mut tree, options)?;
    let kernels = kernel::variants(&mut tree, &tip, &host, options, base)?;
    Ok((tree, kernels, host))
}

/// One file out of a package for the guest, kept as `out/guest/NAME`.
fn guest_file(options: &Options, base: &Base, package: &Package, path: &str, name: &str) -> Result<PathBuf> {
    let dir = options.out.join("guest");
    let file = dir.join(name);
    let stamp = dir.join(format!("{name}.stamp"));
    let wanted = format!("{} {} {path}", package.name, package.sha256);
    if file.exists() && stamp::fresh(&stamp, &wanted) {
        return Ok(file);
    }
    let fetched = apt::fetch(&options.out, package, Kind::Binary, &base.guest.arch)?;
    let unpacked = dir.join("unpacked");
    stamp::remove(&unpacked)?;
    apt::unpack(&options.out.join("dl").join(&fetched.main().name), &unpacked)?;
    let inside = unpacked.join(path);
    // Debian is moving /bin to /usr/bin package by package.
    let inside = if inside.exists() {
        inside
    } else {
        unpacked.join(Path::new(path).strip_prefix("usr").unwrap_or(Path::new(path)))
    };
    fs::copy(&inside, &file).map_err(|e| {
        Error::could_not(format!("{} {} has no {path}: {e}; correct base.toml", package.name, fetched.version))
    })?;
    stamp::remove(&unpacked)?;
    stamp::write_whole(&stamp, wanted)?;
    Ok(file)
}
