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
use crate::kernel::{self, Compiled, Compiler, Config, Kernel};
use crate::machine::Machine;
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
    /// What folders of another base than the first are called after their names.
    pub suffix: String,
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

impl Workbench {
    /// The folder for results called `name`, below `out`.
    pub fn place(&self, name: &str) -> PathBuf {
        self.out.join(format!("{name}{}", self.suffix))
    }

    /// What a workbench would have, for showing what would be done; nothing of it need be there.
    ///
    /// # Errors
    /// When the base file is wrong.
    pub fn planned(options: &Options) -> Result<Self> {
        let base = Base::of(options)?;
        let guest = options.out.join("guest");
        Ok(Self {
            root: options.root.clone(),
            out: options.out.clone(),
            suffix: options.suffix(),
            base_used: BaseUsed {
                version: base.linux.version.clone(),
                source: "package".to_owned(),
                from: base.linux.package.name.clone(),
                sha256: None,
                commit: base.linux.commit.clone(),
            },
            base,
            toolchain: BTreeMap::new(),
            kernels: BTreeMap::new(),
            qemu: qemu::planned(options),
            busybox: guest.join("busybox"),
            firmware: guest.join("fw_dynamic.bin"),
        })
    }

    /// Whether QEMU takes a machine with these CPU properties.
    ///
    /// # Errors
    /// What QEMU says against it.
    pub fn takes(&self, machine: &Machine) -> std::result::Result<(), String> {
        self.qemu.takes(machine)
    }
}

/// A workbench without kernels, and what builds them.
#[derive(Debug)]
pub struct Lab {
    /// The workbench.
    pub bench: Workbench,
    /// The kernel tree.
    pub tree: Tree,
    /// The last commit of the series, with the sources of the repository.
    pub tip: String,
    host: Host,
}

impl Lab {
    /// Makes everything that is missing or out of date, but no kernel.
    ///
    /// # Errors
    /// The first thing that could not be had (exit code 2).
    pub fn open(options: &Options) -> Result<Self> {
        let base = Base::of(options)?;
        let (tree, tip, host) = tree_for(options, &base)?;
        let bench = bench(options, base, &host, tree.used.clone())?;
        Ok(Self { bench, tree, tip, host })
    }

    /// Name of the compiler that kernels are built with.
    pub fn clang(&self) -> &str {
        &self.host.clang
    }

    /// The kernel with the series in this configuration.
    ///
    /// # Errors
    /// When it cannot be built.
    pub fn kernel(&mut self, options: &Options, config: &Config) -> Result<Kernel> {
        let tip = self.tip.clone();
        kernel::build_with(&mut self.tree, kernel::SERIES, &tip, config, None, &self.host, options)
    }

    /// The kernel without any patch, or with the series, in this configuration, and the folder with its
    /// own modules.
    ///
    /// # Errors
    /// When it cannot be built.
    pub fn with_modules(&mut self, options: &Options, name: &str, config: &Config) -> Result<(Kernel, PathBuf)> {
        let commit = if name == kernel::BASE { self.tree.used.commit.clone() } else { self.tip.clone() };
        kernel::build_with_modules(&mut self.tree, name, &commit, config, &self.host, options)
    }

    /// The kernel that `patch` on the commit `on` gives, in this configuration. It gets the tests of
    /// the series if it has the interfaces that they are built against.
    ///
    /// # Errors
    /// When the patch does not apply, or the kernel cannot be built.
    pub fn control(
        &mut self,
        options: &Options,
        name: &str,
        on: &str,
        patch: &Path,
        config: &Config,
    ) -> Result<Kernel> {
        let commit = crate::tree::am(&self.tree.repo, on, &[patch.to_owned()])?;
        self.tree.keep_scratch(name, &commit)?;
        let inner = |path: &String| {
            (path.ends_with(".c") || path.ends_with(".S")) && !path.starts_with("tools/") && !path.starts_with("rust/")
        };
        let tests = if self.tree.changed(&self.tip, &commit)?.iter().all(inner) {
            Some(self.kernel(options, config)?.selftests)
        } else {
            None
        };
        kernel::build_with(&mut self.tree, name, &commit, config, tests.as_deref(), &self.host, options)
    }

    /// The kernel at `commit` of the series, with the tests that it brings or, if it has none yet, with
    /// those in the folder `otherwise`; and the names of the tests.
    ///
    /// # Errors
    /// When it cannot be built.
    pub fn patch(
        &mut self,
        options: &Options,
        name: &str,
        commit: &str,
        otherwise: (&Path, &str),
    ) -> Result<(Kernel, Vec<String>)> {
        let own = kernel::tests_of(&self.tree, commit)?;
        let (tests, names) = match own.is_empty() {
            true => (Some(otherwise.0), vec![otherwise.1.to_owned()]),
            false => (None, own),
        };
        let config = Config::default();
        let kernel = kernel::build_with(&mut self.tree, name, commit, &config, tests, &self.host, options)?;
        Ok((kernel, names))
    }

    /// Compiles a few folders of the series.
    ///
    /// # Errors
    /// When that could not be tried.
    pub fn compile(
        &mut self,
        options: &Options,
        config: &Config,
        folders: &[String],
        compiler: Compiler,
    ) -> Result<Compiled> {
        let tip = self.tip.clone();
        kernel::compile_folders(&mut self.tree, &tip, config, folders, compiler, &self.host, options)
    }
}

/// The machine, its firmware and the guest's programs, for kernels that were built elsewhere.
///
/// # Errors
/// The first thing that could not be had (exit code 2).
pub fn without_kernels(options: &Options) -> Result<Workbench> {
    let planned = Workbench::planned(options)?;
    let host = host::prepare(options, &planned.base, true)?;
    bench(options, planned.base, &host, planned.base_used)
}

fn bench(options: &Options, base: Base, host: &Host, base_used: BaseUsed) -> Result<Workbench> {
    let qemu = qemu::build(options, &base)?;
    let busybox = guest_file(options, &base, &base.guest.busybox, &base.guest.busybox_path, "busybox")?;
    let firmware = guest_file(options, &base, &base.guest.firmware, &base.guest.firmware_path, "fw_dynamic.bin")?;
    let mut toolchain = host.versions().clone();
    toolchain.insert("qemu".to_owned(), qemu.version.clone());
    Ok(Workbench {
        root: options.root.clone(),
        out: options.out.clone(),
        suffix: options.suffix(),
        base,
        base_used,
        toolchain,
        kernels: BTreeMap::new(),
        qemu,
        busybox,
        firmware,
    })
}

/// Makes everything that is missing or out of date, with the kernels of the demo.
///
/// # Errors
/// The first thing that could not be had (exit code 2).
pub fn prepare(options: &Options) -> Result<Lab> {
    let mut lab = Lab::open(options)?;
    let tip = lab.tip.clone();
    lab.bench.kernels = kernel::variants(&mut lab.tree, &tip, &lab.host, options, &lab.bench.base)?;
    Ok(lab)
}

/// The kernels alone, and the tree that they were built from.
///
/// # Errors
/// As [`prepare`].
pub fn kernels(options: &Options) -> Result<(Tree, BTreeMap<String, Kernel>)> {
    let base = Base::of(options)?;
    let (mut tree, tip, host) = tree_for(options, &base)?;
    let kernels = kernel::variants(&mut tree, &tip, &host, options, &base)?;
    Ok((tree, kernels))
}

/// The tree with the series, its tip with the sources of the repository, and the toolchain.
fn tree_for(options: &Options, base: &Base) -> Result<(Tree, String, Host)> {
    // First what takes no time: a wrong KSRC should not be found out after a download.
    let source = Source::find(options, base)?;
    let host = host::prepare(options, base, true)?;
    let mut tree = Tree::open_from(&source, options, base)?;
    let tip = series::current(&mut tree, options)?;
    Ok((tree, tip, host))
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
