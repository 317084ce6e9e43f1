// SPDX-License-Identifier: GPL-2.0-only
//! Everything that a boot needs, built in the order in which it is needed.
//!
//! A [`Workbench`] is what a boot needs; a [`Lab`] is a workbench plus what builds kernels for it.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread;

use super::kernel::{self, Builder, Compiled, Config, Kernel};
use super::kunit::{self, Arch, Tested};
use super::qemu::{self, Qemu};
use crate::boot::machine::Machine;
use crate::boot::{efi, initramfs};
use crate::ground::error::{Error, Result};
use crate::ground::{files, key, pace};
use crate::options::Options;
use crate::options::base::{BaseUsed, Package};
use crate::source::apt::{self, Kind};
use crate::source::given::Source;
use crate::source::host::{self, Host};
use crate::source::tree::Tree;
use crate::source::{mailbox, weave};

/// Names of the images of EDK2 in `out/guest`.
const EFI_CODE: &str = "efi-code.fd";
const EFI_VARIABLES: &str = "efi-variables.fd";

/// What a boot needs besides a kernel.
#[derive(Clone, Debug)]
pub struct Workbench {
    /// Where things lie.
    pub options: Options,
    /// What was actually used.
    pub base_used: BaseUsed,
    /// Tool to version line, for `results.json`.
    pub toolchain: BTreeMap<String, String>,
    /// The machine model.
    pub qemu: Qemu,
    /// The guest's static busybox.
    pub busybox: PathBuf,
    /// `fw_dynamic.bin`.
    pub firmware: PathBuf,
}

impl Workbench {
    /// A workbench for showing what would be done; nothing in it need exist.
    pub fn planned(options: &Options) -> Self {
        let guest = options.out.join("guest");
        let linux = &options.base.linux;
        Self {
            options: options.clone(),
            base_used: BaseUsed {
                version: linux.version.clone(),
                source: "package".to_owned(),
                from: linux.package.name.clone(),
                sha256: None,
                commit: linux.commit.clone(),
            },
            toolchain: BTreeMap::new(),
            qemu: qemu::planned(options),
            busybox: guest.join("busybox"),
            firmware: guest.join(options.base.firmware_file(&options.base.firmware)),
        }
    }

    /// Where the firmware `version` is, or will be; the selected one if there is no version. One that the user
    /// names takes the place of each.
    ///
    /// # Errors
    /// When there is no such firmware (exit code 64).
    pub fn planned_firmware(&self, version: Option<&str>) -> Result<PathBuf> {
        let (base, guest) = (&self.options.base, self.options.out.join("guest"));
        Ok(self.other_firmware(version)?.map_or_else(|| self.firmware.clone(), |of| guest.join(base.firmware_file(of))))
    }

    /// The same, downloaded if it is missing.
    ///
    /// # Errors
    /// As [`Workbench::planned_firmware`], and when it cannot be downloaded.
    pub fn firmware_for(&self, version: Option<&str>) -> Result<PathBuf> {
        let other = self.other_firmware(version)?;
        other.map_or_else(|| Ok(self.firmware.clone()), |of| packed_firmware(&self.options, of))
    }

    /// The package with the firmware `version`; none if that is the selected one, or the user names a file.
    fn other_firmware(&self, version: Option<&str>) -> Result<Option<&Package>> {
        match version {
            Some(version) if asked("LAZYMAP_FIRMWARE")?.is_none() => {
                self.options.base.find_firmware(version).map(Some).map_err(Error::usage)
            }
            _ => Ok(None),
        }
    }

    /// Where the images of EDK2 are, or will be.
    pub fn planned_efi(&self) -> efi::Images {
        let guest = self.options.out.join("guest");
        efi::Images { code: guest.join(EFI_CODE), variables: guest.join(EFI_VARIABLES) }
    }

    /// The same, downloaded if they are missing.
    ///
    /// # Errors
    /// When they cannot be downloaded.
    pub fn efi(&self) -> Result<efi::Images> {
        let efi = &self.options.base.guest.efi;
        let image = |path: &str, name: &str| guest_file(&self.options, &efi.package, path, name);
        Ok(efi::Images {
            code: image(&efi.code_path, EFI_CODE)?,
            variables: image(&efi.variables_path, EFI_VARIABLES)?,
        })
    }

    /// How slow the host is: as the user says, or as measured now.
    pub fn host(&self) -> pace::Host {
        self.options.asked.slow.map_or_else(pace::Host::measure, |slow| pace::Host { slow, ..pace::Host::IDLE })
    }

    /// Checks that QEMU accepts a machine with these CPU properties.
    ///
    /// # Errors
    /// QEMU's message.
    pub fn takes(&self, machine: &Machine) -> Result<(), String> {
        self.qemu.takes(machine)
    }
}

/// A workbench, plus what builds kernels for it.
#[derive(Debug)]
pub struct Lab {
    /// Where things lie.
    pub options: Options,
    pub bench: Workbench,
    /// The kernel tree.
    pub tree: Tree,
    /// The last commit of the series, with the sources of the repository.
    pub tip: String,
    host: Host,
}

impl Lab {
    /// Builds everything that is missing or out of date, except kernels.
    ///
    /// # Errors
    /// The first thing that cannot be found or built (exit code 2).
    pub fn open(options: &Options) -> Result<Self> {
        let (source, host) = found(options)?;
        let versions = host.versions().clone();
        // The tree keeps one CPU busy, so the machine is built beside it. If there is no tree, that is said
        // at once: what the thread has started ends with the tool.
        let machine = {
            let options = options.clone();
            thread::spawn(move || bench(&options, versions, Workbench::planned(&options).base_used))
        };
        let mut lab = Self::with_tree(options, &source, host)?;
        let bench = machine.join().unwrap_or_else(|panic| resume_unwind(panic))?;
        lab.bench = Workbench { base_used: lab.tree.used.clone(), ..bench };
        Ok(lab)
    }

    /// The same without the machine, for building kernels only: its workbench is a plan.
    ///
    /// # Errors
    /// As [`Lab::open`].
    pub fn for_kernels(options: &Options) -> Result<Self> {
        let (source, host) = found(options)?;
        Self::with_tree(options, &source, host)
    }

    fn with_tree(options: &Options, source: &Source, host: Host) -> Result<Self> {
        let mut tree = Tree::open_from(source, options)?;
        let tip = weave::current(&mut tree, options)?;
        let bench = Workbench { base_used: tree.used.clone(), ..Workbench::planned(options) };
        Ok(Self { options: options.clone(), bench, tree, tip, host })
    }

    /// Name of the compiler that kernels are built with.
    pub fn clang(&self) -> &str {
        &self.host.clang
    }

    fn builder(&mut self) -> Builder<'_> {
        Builder { tree: &mut self.tree, host: &self.host, options: &self.options }
    }

    /// The kernel with the series in this configuration.
    ///
    /// # Errors
    /// When it cannot be built.
    pub fn kernel(&mut self, config: &Config) -> Result<Kernel> {
        let tip = self.tip.clone();
        kernel::build(self.builder(), kernel::SERIES, &tip, config, None)
    }

    /// The kernel without any patch, or with the series, in this configuration, plus the folder with its
    /// own modules.
    ///
    /// # Errors
    /// When it cannot be built.
    pub fn with_modules(&mut self, name: &str, config: &Config) -> Result<(Kernel, PathBuf)> {
        let commit = if name == kernel::BASE { self.tree.used.commit.clone() } else { self.tip.clone() };
        kernel::build_with_modules(self.builder(), name, &commit, config)
    }

    /// The kernel that results from `patch` on the commit `on`, in this configuration. It gets the
    /// tests of the series if it has the interfaces that they need.
    ///
    /// # Errors
    /// When the patch does not apply, or the kernel cannot be built.
    pub fn control(&mut self, name: &str, on: &str, patch: &Path, config: &Config) -> Result<Kernel> {
        let commit = mailbox::am(&self.tree.repo, on, &[patch.to_owned()])?;
        self.tree.keep_scratch(name, &commit)?;
        let inner = |path: &String| {
            (path.ends_with(".c") || path.ends_with(".S") || path.starts_with("arch/riscv/include/"))
                && !path.starts_with("tools/")
                && !path.starts_with("rust/")
        };
        let changed = self.tree.changed(&self.tip, &commit)?;
        if changed.iter().all(inner) {
            let tests = self.kernel(config)?.selftests;
            if kernel::is_in_module(&tests, &changed)? {
                return kernel::build_with_tests(self.builder(), name, &commit, config, &tests);
            }
            return self.variant(name, &commit, config, &tests);
        }
        kernel::build(self.builder(), name, &commit, config, None)
    }

    /// The kernel at `commit`, which has neither the tests nor the abstractions, with what of the tests runs on any
    /// kernel.
    ///
    /// # Errors
    /// When it cannot be built, or the series cannot.
    pub fn bare(&mut self, name: &str, commit: &str, config: &Config) -> Result<Kernel> {
        let tests = self.kernel(config)?.selftests;
        self.bare_with(name, commit, config, &tests)
    }

    /// As [`Lab::bare`], with the scripts and programs in `tests`.
    ///
    /// # Errors
    /// When it cannot be built.
    pub fn bare_with(&mut self, name: &str, commit: &str, config: &Config, tests: &Path) -> Result<Kernel> {
        kernel::build_bare(self.builder(), name, commit, config, tests)
    }

    /// The kernel at `commit` with `tests` that were built for another one, whose modules must fit it.
    ///
    /// # Errors
    /// When it cannot be built.
    pub fn variant(&mut self, name: &str, commit: &str, config: &Config, tests: &Path) -> Result<Kernel> {
        kernel::build_image(self.builder(), name, commit, config, tests)
    }

    /// The kernel at `commit` of the series, and the names of the tests that it has. If it has none yet,
    /// takes those in the folder `otherwise`.
    ///
    /// # Errors
    /// When it cannot be built.
    pub fn patch(&mut self, name: &str, commit: &str, otherwise: (&Path, &str)) -> Result<(Kernel, Vec<String>)> {
        let own = kernel::tests_of(&self.tree, commit)?;
        let (tests, names) = match own.is_empty() {
            true => (Some(otherwise.0), vec![otherwise.1.to_owned()]),
            false => (None, own),
        };
        let kernel = kernel::build(self.builder(), name, commit, &Config::default(), tests)?;
        Ok((kernel, names))
    }

    /// Runs KUnit's suites of the series on an architecture.
    ///
    /// # Errors
    /// When that could not be tried.
    pub fn kunit(&mut self, arch: Arch) -> Result<Tested> {
        let (tip, qemu, firmware) = (self.tip.clone(), self.bench.qemu.binary.clone(), self.bench.firmware.clone());
        kunit::run(self.builder(), &qemu, &firmware, &tip, arch)
    }

    /// Compiles a few folders of the series.
    ///
    /// # Errors
    /// When compiling could not be tried.
    pub fn compile(&mut self, config: &Config, folders: &[String]) -> Result<Compiled> {
        let tip = self.tip.clone();
        kernel::compile_folders(self.builder(), &tip, config, folders)
    }
}

/// Where the kernel comes from, and the host's toolchain.
fn found(options: &Options) -> Result<(Source, Host)> {
    // Quick checks first: a wrong KSRC should not be reported after a download.
    let source = Source::find(options)?;
    Ok((source, host::prepare(options, true)?))
}

/// The machine, its firmware and the guest's programs, for kernels built elsewhere: no compiler for
/// kernels is looked for.
///
/// # Errors
/// The first thing that cannot be found or built (exit code 2).
pub fn without_kernels(options: &Options) -> Result<Workbench> {
    bench(options, BTreeMap::new(), Workbench::planned(options).base_used)
}

/// Builds the machine, with the firmware where `-bios default` looks.
///
/// # Errors
/// As [`without_kernels`].
pub fn machine(options: &Options) -> Result<Qemu> {
    let qemu = qemu::build(options)?;
    if qemu::is_ours() {
        qemu::add_firmware(options, &firmware(options)?)?;
    }
    Ok(qemu)
}

fn bench(options: &Options, mut toolchain: BTreeMap<String, String>, base_used: BaseUsed) -> Result<Workbench> {
    // What the user names is looked at before anything is built.
    let given = (asked("LAZYMAP_BUSYBOX")?, asked("LAZYMAP_FIRMWARE")?);
    if let Some(busybox) = &given.0 {
        initramfs::check_busybox(busybox)?;
    }
    let qemu = machine(options)?;
    let guest = &options.base.guest;
    let busybox = match given.0 {
        Some(busybox) => busybox,
        None => guest_file(options, &guest.busybox, &guest.busybox_path, "busybox")?,
    };
    let firmware = firmware(options)?;
    toolchain.insert("qemu".to_owned(), qemu.version.clone());
    Ok(Workbench { options: options.clone(), base_used, toolchain, qemu, busybox, firmware })
}

/// OpenSBI: the user's or the selected package's.
fn firmware(options: &Options) -> Result<PathBuf> {
    match asked("LAZYMAP_FIRMWARE")? {
        Some(firmware) => Ok(firmware),
        None => packed_firmware(options, &options.base.firmware),
    }
}

/// OpenSBI from a package.
fn packed_firmware(options: &Options, package: &Package) -> Result<PathBuf> {
    guest_file(options, package, &options.base.guest.firmware_path, &options.base.firmware_file(package))
}

/// The file that the variable `name` names, if it is set.
fn asked(name: &str) -> Result<Option<PathBuf>> {
    let Some(path) = env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from) else { return Ok(None) };
    match fs::metadata(&path) {
        Ok(about) if about.is_file() && about.len() > 0 => Ok(Some(path)),
        Ok(_) => {
            Err(Error::usage(format!("{name}={} is not a file, or empty; name another or unset it", path.display())))
        }
        Err(e) => Err(Error::usage(format!("{name}={}: {e}; name another or unset it", path.display()))),
    }
}

/// A file from a package for the guest, kept as `out/guest/NAME`.
fn guest_file(options: &Options, package: &Package, path: &str, name: &str) -> Result<PathBuf> {
    static UNPACKING: Mutex<()> = Mutex::new(());
    let _unpacking = UNPACKING.lock().unwrap_or_else(PoisonError::into_inner);
    let dir = options.out.join("guest");
    let file = dir.join(name);
    let stamp = dir.join(format!("{name}.stamp"));
    let wanted = format!("{} {} {path}", package.name, package.sha256);
    if file.exists() && key::fresh(&stamp, &wanted) {
        return Ok(file);
    }
    let fetched = apt::fetch(&options.out, package, Kind::Binary, &options.base.guest.arch)?;
    let unpacked = dir.join("unpacked");
    files::remove(&unpacked)?;
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
    files::remove(&unpacked)?;
    files::write_whole(&stamp, wanted)?;
    Ok(file)
}
