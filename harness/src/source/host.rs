// SPDX-License-Identifier: GPL-2.0-only
//! What the host must have: disk space, packages, and a toolchain that builds the kernel with Rust.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::ground::cmd::{self, Ended};
use crate::ground::error::{Error, Result};
use crate::ground::files;
use crate::ground::progress::Step;
use crate::options::Options;
use crate::options::base::Base;

/// Packages to install if missing, to build QEMU; the toolchain for kernels has its own lists.
const MACHINE_PACKAGES: [&str; 17] = [
    "ca-certificates",
    "ccache",
    "dpkg-dev",
    "g++",
    "gcc",
    "git",
    "libc6-dev",
    "libfdt-dev",
    "libglib2.0-dev",
    "libseccomp-dev",
    "libslirp-dev",
    "make",
    "ninja-build",
    "pkg-config",
    "python3",
    "python3-venv",
    "xz-utils",
];
/// Those to build kernels and their tests, besides.
const KERNEL_PACKAGES: [&str; 11] = [
    "bc",
    "bison",
    "cpio",
    "device-tree-compiler",
    "flex",
    "kmod",
    "libelf-dev",
    "libssl-dev",
    "patch",
    "perl",
    "rsync",
];

/// What a host without Debian's packages must have.
struct Needs {
    programs: &'static [&'static str],
    /// As pkg-config calls them.
    libraries: &'static [&'static str],
    /// Of libraries that pkg-config may not know.
    headers: &'static [&'static str],
}

/// To build QEMU.
const FOR_MACHINE: Needs = Needs {
    programs: &["cc", "git", "make", "ninja", "pkg-config", "python3"],
    libraries: &["glib-2.0"],
    headers: &["libfdt.h"],
};
/// To build kernels and their tests, besides the toolchain.
const FOR_KERNELS: Needs = Needs {
    programs: &["bc", "bison", "cpio", "flex", "git", "make", "perl", "pkg-config", "python3", "rsync"],
    libraries: &["libcrypto", "libelf"],
    headers: &[],
};

/// LLVM with everything that kbuild and bindgen use of it: bookworm's newest, then any Debian's own.
const LLVM_PACKAGES: [&str; 2] = ["clang-22 lld-22 llvm-22 libclang-22-dev", "clang lld llvm libclang-dev"];
/// rustc and its library's source; bookworm has a new one for web browsers.
const RUST_PACKAGES: [&str; 2] = ["rustc-web rust-web-src", "rustc rust-src"];
/// For `series-check`.
const RUSTFMT_PACKAGES: [&str; 2] = ["rustfmt-web", "rustfmt"];
/// What a new enough distribution has; it is built otherwise.
const BINDGEN_PACKAGE: &str = "bindgen";
/// To build bindgen with.
const CARGO_PACKAGES: [&str; 2] = ["cargo-web", "cargo"];

/// From this libclang on the kernel asks for a newer bindgen (scripts/rust_is_available.sh): older ones
/// lose fields of structures (<https://github.com/rust-lang/rust-bindgen/pull/3278>).
const LIBCLANG_OF_NEW_BINDGEN: &str = "22";
/// That bindgen.
const NEW_BINDGEN: &str = "0.72.1";

/// The LLVM that the series is developed with.
const LLVM_FAVOURITE: u32 = 22;
/// What kbuild's `LLVM=` uses, besides clang itself.
const LLVM_TOOLS: [&str; 7] =
    ["ld.lld", "llvm-ar", "llvm-nm", "llvm-objcopy", "llvm-objdump", "llvm-readelf", "llvm-strip"];

/// Disk space in MiB that each part takes: about one and a half times what was measured.
const DISK: [(&str, u64); 5] = [
    ("linux-7.3/.git/lazymap.json", 3000),
    ("build/vmlinux", 1000),
    ("kernel/series/stamp", 200),
    (DISK_MACHINE, 2000),
    ("tools/bin/bindgen", 1000),
];
/// The part that the machine is.
const DISK_MACHINE: &str = "qemu/stamp";
/// What a run needs when every part exists.
const DISK_SLACK: u64 = 1000;

/// Prefix of the distribution's cross gcc.
pub const GCC_PREFIX: &str = "riscv64-linux-gnu-";
/// The program that makes an EROFS image.
pub const MKFS_EROFS: &str = "mkfs.erofs";

/// A toolchain that is good enough.
#[derive(Clone, Debug)]
pub struct Host {
    /// The value for kbuild's `LLVM=`, such as `-22`.
    pub llvm: String,
    /// The compiler's name, as `LLVM=` makes kbuild call it.
    pub clang: String,
    /// Compiler for target and host code.
    pub rustc: PathBuf,
    /// The one beside `rustc`.
    pub rustdoc: PathBuf,
    /// The formatter, if there is one; need not belong to `rustc`.
    pub rustfmt: Option<PathBuf>,
    /// The library's source, `…/library`.
    pub rust_lib_src: PathBuf,
    /// At least the oldest that the kernel accepts.
    pub bindgen: PathBuf,
    /// Folder with `libclang.so`, unless bindgen finds it.
    pub libclang: Option<PathBuf>,
    pub ccache: bool,
    versions: BTreeMap<String, String>,
}

impl Host {
    /// What Kbuild must be given to use this toolchain: variable and value, in the order of its documentation.
    pub fn variables(&self) -> Vec<(&'static str, String)> {
        let mut all = vec![("LLVM", self.llvm.clone())];
        let paths = [
            ("RUSTC", Some(&self.rustc)),
            ("RUSTDOC", Some(&self.rustdoc)),
            ("HOSTRUSTC", Some(&self.rustc)),
            ("RUSTFMT", self.rustfmt.as_ref()),
            ("BINDGEN", Some(&self.bindgen)),
            ("RUST_LIB_SRC", Some(&self.rust_lib_src)),
        ];
        all.extend(paths.into_iter().filter_map(|(name, path)| Some((name, path?.display().to_string()))));
        all
    }

    /// A PATH in which `rustc` is the kernel's.
    pub fn path(&self) -> OsString {
        let first = self.rustc.parent().map(Path::to_path_buf).into_iter();
        env::join_paths(first.chain(path_folders())).unwrap_or_default()
    }

    /// Commands for a shell, to build a kernel with the series and its tests on this host, with the source tree
    /// as the current folder.
    pub fn commands(&self) -> String {
        let quoted = |(name, value): (&str, String)| format!("{name}={value}");
        let kernel = self.variables().into_iter().map(quoted).collect::<Vec<_>>().join(" ");
        let libclang =
            self.libclang.as_ref().map(|dir| format!("LIBCLANG_PATH={} ", dir.display())).unwrap_or_default();
        // kselftest clears MAKEFLAGS, so RUSTC= does not get through; PATH does.
        let other = in_path("rustc").as_ref() != Some(&self.rustc);
        let folder = self.rustc.parent().unwrap_or(Path::new("/usr/bin")).display();
        let path = if other { format!("PATH={folder}:$PATH ") } else { String::new() };
        let llvm = &self.llvm;
        format!(
            "{libclang}make ARCH=riscv {kernel} O=$BUILD defconfig kselftest-merge\n\
             {libclang}make ARCH=riscv {kernel} O=$BUILD -j$(nproc)\n\
             {path}make ARCH=riscv LLVM={llvm} O=$BUILD TARGETS=riscv/lazy_map INSTALL_PATH=$PWD/tests kselftest-install\n"
        )
    }

    /// Tool to version, for `results.json` and as part of cache keys.
    pub fn versions(&self) -> &BTreeMap<String, String> {
        &self.versions
    }
}

/// Checks the host; installs what is missing if allowed (`install`) and possible (root).
///
/// # Errors
/// The first thing that is missing or too old and could not be installed.
pub fn prepare(options: &Options, install: bool) -> Result<Host> {
    let base = &options.base;
    disk(options, Purpose::Kernels)?;
    packages(options, Purpose::Kernels, install)?;
    let (llvm, clang, clang_version) = llvm(base)?;
    let rust = rust(base)?;
    let rustfmt = rustfmt().ok();
    let libclang = libclang(&clang_version);
    let bindgen = bindgen(options, min_bindgen(base, Some(&clang_version)), install)?;
    let libclang_version = libclang_version(&bindgen, libclang.as_deref(), base)?;
    let bindgen_version = version_of(&bindgen, &["--version"]).unwrap_or_default();
    // LIBCLANG_PATH may name another one than clang's.
    let min = min_bindgen(base, Some(&libclang_version));
    if !at_least(&bindgen_version, min) {
        return Err(Error::could_not(format!(
            "{} {bindgen_version} is too old for libclang {libclang_version}; {min} or newer is needed: name one in \
             LAZYMAP_BINDGEN, or an older libclang in LIBCLANG_PATH",
            bindgen.display()
        )));
    }
    let versions = [
        ("clang", clang_version),
        ("rustc", rust.version),
        ("bindgen", bindgen_version),
        ("libclang", libclang_version),
    ];
    Ok(Host {
        llvm,
        clang,
        rustdoc: rust.rustc.with_file_name("rustdoc"),
        rustc: rust.rustc,
        rustfmt,
        rust_lib_src: rust.library,
        bindgen,
        libclang,
        ccache: in_path("ccache").is_some(),
        versions: versions.into_iter().map(|(k, v)| (k.to_owned(), v)).collect(),
    })
}

/// What the checks of the series need: installs packages, returns the formatter.
///
/// # Errors
/// As [`prepare`].
pub fn for_series(options: &Options) -> Result<PathBuf> {
    disk(options, Purpose::Kernels)?;
    packages(options, Purpose::Kernels, true)?;
    rustfmt()
}

/// What building QEMU needs: installs packages, or names what is missing.
///
/// # Errors
/// As [`prepare`].
pub fn for_machine(options: &Options) -> Result<()> {
    disk(options, Purpose::Machine)?;
    packages(options, Purpose::Machine, true)
}

impl Needs {
    /// Their names, as far as they are not there.
    fn missing(&self) -> BTreeSet<&'static str> {
        let programs = self.programs.iter().copied().filter(|name| in_path(name).is_none());
        let libraries = self.libraries.iter().copied().filter(|name| !has_library(name));
        let headers = self.headers.iter().copied().filter(|name| !has_header(name));
        programs.chain(libraries).chain(headers).collect()
    }
}

/// Whether the host's compiler finds the header `name`.
fn has_header(name: &str) -> bool {
    let mut cc = Command::new("cc");
    cc.args(["-fsyntax-only", "-include", name, "-x", "c", "/dev/null"]).stdout(Stdio::null()).stderr(Stdio::null());
    cc.status().is_ok_and(|status| status.success())
}

/// Names what is missing on a host without dpkg: all of it at once, but QEMU's part alone is left to who builds QEMU.
fn without_packages(purpose: Purpose) -> Result<()> {
    let builds_qemu = env::var_os("LAZYMAP_QEMU").is_none_or(|v| v.is_empty());
    let machine = if builds_qemu { FOR_MACHINE.missing() } else { BTreeSet::new() };
    let kernels = if purpose == Purpose::Kernels { FOR_KERNELS.missing() } else { BTreeSet::new() };
    let (needed, otherwise) = match purpose {
        Purpose::Kernels => (&kernels, ""),
        Purpose::Machine => (&machine, ", or name a finished QEMU in LAZYMAP_QEMU"),
    };
    if needed.is_empty() {
        return Ok(());
    }
    let all: Vec<&str> = kernels.union(&machine).copied().collect();
    Err(Error::could_not(format!(
        "{} cannot be found; install them, libraries with their development files (docs/ci.md has the packages of some \
         distributions){otherwise}",
        all.join(", ")
    )))
}

/// Whether pkg-config knows the library `name`.
pub fn has_library(name: &str) -> bool {
    let asked = Command::new("pkg-config").args(["--exists", name]).status();
    asked.is_ok_and(|status| status.success())
}

/// What the host is prepared for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    /// The machine alone.
    Machine,
    /// Machine and kernels.
    Kernels,
}

/// Compares the free space where `out` is with what the missing parts will take.
///
/// `LAZYMAP_DISK_MIB` overrides the estimate.
fn disk(options: &Options, purpose: Purpose) -> Result<()> {
    let needed = |part: &str| purpose == Purpose::Kernels || part == DISK_MACHINE;
    let there = |part: &str| match part {
        DISK_MACHINE => options.machine_place().join("stamp").exists(),
        part => options.out.join(part).exists(),
    };
    let parts = DISK.iter().filter(|(part, _)| needed(part) && !there(part));
    let missing = parts.map(|(_, mib)| mib);
    let mut need = DISK_SLACK + missing.sum::<u64>();
    if options.ksrc.is_some() && purpose == Purpose::Kernels {
        need += DISK.iter().take(2).map(|(_, mib)| mib).sum::<u64>();
    }
    if let Ok(text) = env::var("LAZYMAP_DISK_MIB") {
        need = text.parse().map_err(|_| Error::usage(format!("LAZYMAP_DISK_MIB={text} is not a number of MiB")))?;
    }
    let space = rustix::fs::statvfs(&options.out)
        .map_err(|e| Error::could_not(format!("cannot get the free space of {}: {e}", options.out.display())))?;
    let free = space.f_bavail.saturating_mul(space.f_frsize) >> 20;
    if free < need {
        return Err(Error::could_not(format!(
            "not enough disk space: {free} MiB free where {} is, {need} MiB needed; make room or give another folder \
             with OUT=",
            options.out.display()
        )));
    }
    Ok(())
}

/// Installs the packages that are missing; without dpkg, names what is.
fn packages(options: &Options, purpose: Purpose, install: bool) -> Result<()> {
    let base = &options.base;
    let Some(installed) = installed()? else {
        return without_packages(purpose);
    };
    let kernels: &[&str] = if purpose == Purpose::Kernels { &KERNEL_PACKAGES } else { &[] };
    let all = MACHINE_PACKAGES.iter().chain(kernels).copied();
    let plain: Vec<&str> = all.filter(|p| !installed.iter().any(|i| i == p)).collect();
    let mut missing: Vec<[&str; 2]> = plain.iter().map(|p| [*p, *p]).collect();
    let mut why = match plain.len() {
        0 => Vec::new(),
        1 => vec![format!("the package {} is missing", plain[0])],
        n => vec![format!("{n} packages are missing")],
    };
    // What the user names explicitly is never replaced by a package.
    let asked = |name: &str| env::var_os(name).is_some_and(|v| !v.is_empty());
    let llvm = llvm(base);
    // Of what is there, or will be installed.
    let of_package = |names: &str| candidate(names.split(' ').next().unwrap_or_default());
    let clang_version = match &llvm {
        Ok((.., version)) => Some(version.clone()),
        Err(_) if purpose == Purpose::Kernels => LLVM_PACKAGES.into_iter().find_map(of_package),
        Err(_) => None,
    };
    let llvm = llvm.and_then(|(.., version)| {
        libclang(&version).map(drop).ok_or_else(|| Error::could_not(format!("libclang {version} is missing")))
    });
    let min_bindgen = min_bindgen(base, clang_version.as_deref());
    let bindgen = bindgen_present(options, min_bindgen);
    let packaged = purpose == Purpose::Kernels
        && bindgen.is_err()
        && !asked("LAZYMAP_BINDGEN")
        && candidate(BINDGEN_PACKAGE).is_some_and(|version| at_least(&version, min_bindgen));
    if packaged {
        missing.push([BINDGEN_PACKAGE, BINDGEN_PACKAGE]);
        why.push("bindgen is missing".to_owned());
    }
    let cargo_for_bindgen = match (bindgen, cargo()) {
        (Err(_), None) if packaged => Ok(()),
        (Err(why), None) => Err(Error::could_not(format!("{why}, and cargo to build it is missing"))),
        _ => Ok(()),
    };
    let toolchain = [
        (llvm, asked("LLVM"), LLVM_PACKAGES),
        (rust(base).map(drop), asked("LAZYMAP_RUSTC"), RUST_PACKAGES),
        (rustfmt().map(drop), false, RUSTFMT_PACKAGES),
        (cargo_for_bindgen, asked("LAZYMAP_BINDGEN"), CARGO_PACKAGES),
    ];
    for (found, asked, names) in toolchain.into_iter().filter(|_| purpose == Purpose::Kernels) {
        match found {
            Err(error) if !asked => {
                missing.push(names);
                why.push(error.message.split(':').next().unwrap_or_default().to_owned());
            }
            _ => {}
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let root = rustix::process::geteuid().is_root();
    if install && root {
        let step = Step::start("install missing packages");
        let log = options.out.join("log/apt.log");
        apt(&["update"], &log)?;
        let names = known(&missing);
        let mut args = vec!["install", "-y", "--no-install-recommends"];
        args.extend(names.iter().map(String::as_str));
        apt(&args, &log)?;
        step.finish(&format!("{} installed", names.len()));
        return Ok(());
    }
    let command = format!("apt-get update && apt-get install -y --no-install-recommends {}", known(&missing).join(" "));
    Err(Error::could_not(format!("{}; run as root: {command}", why.join("; "))))
}

/// Makes sure that the distribution's cross gcc is installed.
///
/// # Errors
/// Why it is not.
pub fn gcc(options: &Options) -> Result<(), String> {
    program(options, &format!("{GCC_PREFIX}gcc"), "gcc-riscv64-linux-gnu")
}

/// The version of pahole, which is installed if it is missing and that is possible.
///
/// # Errors
/// Why it is not there.
pub fn pahole(options: &Options) -> Result<String, String> {
    program(options, "pahole", "dwarves")?;
    let said = cmd::output(cmd::plain("pahole").arg("--version")).map_err(|e| e.message)?;
    Ok(said.trim().trim_start_matches('v').to_owned())
}

/// What the cross gcc says about itself.
///
/// # Errors
/// When it cannot be run.
pub fn gcc_version() -> Result<String> {
    let said = cmd::output(cmd::plain(format!("{GCC_PREFIX}gcc")).arg("--version"))?;
    Ok(said.lines().next().unwrap_or_default().to_owned())
}

/// Makes sure that [`MKFS_EROFS`] is installed.
///
/// # Errors
/// Why it is not.
pub fn mkfs_erofs(options: &Options) -> Result<(), String> {
    program(options, MKFS_EROFS, "erofs-utils")
}

/// Makes sure that these programs for administrators, all from `package`, are there. Users may not have their folder in
/// PATH.
///
/// # Errors
/// Which is not there, and why.
pub fn admin<const N: usize>(options: &Options, names: [&str; N], package: &str) -> Result<[PathBuf; N], String> {
    let find = |name: &str| {
        let folders = ["/usr/sbin", "/sbin"].map(|folder| Path::new(folder).join(name));
        in_path(name).or_else(|| folders.into_iter().find(|path| path.is_file()))
    };
    let mut found = names.map(find);
    for (name, path) in names.iter().zip(&mut found) {
        if path.is_none() {
            program(options, name, package)?;
            *path = find(name);
        }
    }
    Ok(found.map(Option::unwrap_or_default))
}

/// Makes sure that a program that hardly any verb needs is in PATH, from its package.
///
/// # Errors
/// Why it is not.
pub fn program(options: &Options, name: &str, package: &str) -> Result<(), String> {
    let there = || in_path(name).is_some();
    if there() {
        return Ok(());
    }
    if in_path("apt-get").is_none() || !rustix::process::geteuid().is_root() {
        return Err(format!("{name} is missing: apt-get install {package}"));
    }
    let step = Step::start(format!("install {package}"));
    let log = options.out.join(format!("log/apt-{package}.log"));
    let done = apt(&["install", "-y", "--no-install-recommends", package], &log);
    step.finish(if done.is_ok() { "done" } else { "not possible" });
    match done {
        Ok(()) if there() => Ok(()),
        Ok(()) => Err(format!("{package} does not contain {name}")),
        Err(error) => Err(format!("{name} is missing: {}", error.message)),
    }
}

/// `apt-get ARGS`, non-interactive.
fn apt(args: &[&str], log: &Path) -> Result<()> {
    let mut command = Command::new("apt-get");
    // Wait for another apt, such as one that an interrupted run left running.
    command.args(["-q", "-oDPkg::Lock::Timeout=300"]).args(args);
    command.env("LC_ALL", "C").env("DEBIAN_FRONTEND", "noninteractive");
    match cmd::uninterrupted(&mut command, log)? {
        Ended::Well => Ok(()),
        Ended::Badly { tail, what } => {
            let why = tail.iter().rfind(|l| l.starts_with("E: ")).or(tail.last()).cloned().unwrap_or_default();
            Err(Error::could_not(format!(
                "packages cannot be installed: {what}: {why}; check network and apt sources (whole output: {})",
                log.display()
            )))
        }
    }
}

/// The first of each list of alternatives that apt knows, or simply the first.
fn known(missing: &[[&str; 2]]) -> Vec<String> {
    let knows = |names: &str| {
        let all = Command::new("apt-cache").arg("show").args(names.split(' ')).output();
        all.is_ok_and(|done| done.status.success() && done.stderr.is_empty())
    };
    missing
        .iter()
        .map(|names| if names[0] != names[1] && !knows(names[0]) && knows(names[1]) { names[1] } else { names[0] })
        .flat_map(|names| names.split(' '))
        .map(str::to_owned)
        .collect()
}

/// The version of the package `name` that apt would install, as far as it is a number.
fn candidate(name: &str) -> Option<String> {
    let asked = Command::new("apt-cache").args(["policy", name]).env("LC_ALL", "C").output().ok()?;
    let text = String::from_utf8_lossy(&asked.stdout).into_owned();
    number(text.lines().find_map(|l| l.trim().strip_prefix("Candidate: "))?)
}

/// Names of the installed packages, or `None` without dpkg.
fn installed() -> Result<Option<Vec<String>>> {
    if in_path("dpkg-query").is_none() {
        return Ok(None);
    }
    let list = cmd::output(Command::new("dpkg-query").args(["-W", "-f", "${db:Status-Status} ${Package}\n"]))?;
    Ok(Some(list.lines().filter_map(|l| l.strip_prefix("installed ")).map(str::to_owned).collect()))
}

/// The compiler that kernels are built with (`LLVM=` chooses), if one is new enough.
pub fn clang(base: &Base) -> Option<String> {
    llvm(base).ok().map(|(_, clang, _)| clang)
}

/// The LLVM to use: value for `LLVM=`, the compiler's name, its version.
fn llvm(base: &Base) -> Result<(String, String, String)> {
    let min = &base.linux.min_clang;
    let kernel = &base.linux.version;
    if let Some(asked) = env::var("LLVM").ok().filter(|v| !v.is_empty()) {
        return try_llvm(&asked, min).map_err(|why| {
            Error::could_not(format!(
                "{why} (selected with LLVM={asked}); Linux {kernel} with Rust needs clang {min} or newer"
            ))
        });
    }
    let mut majors: Vec<u32> = path_folders()
        .filter_map(|dir| fs::read_dir(dir).ok())
        .flat_map(|entries| entries.flatten())
        .filter_map(|e| e.file_name().to_str()?.strip_prefix("clang-")?.parse().ok())
        .collect();
    majors.sort_unstable_by_key(|&m| (m != LLVM_FAVOURITE, std::cmp::Reverse(m)));
    majors.dedup();
    let mut first = None;
    for value in majors.iter().map(|m| format!("-{m}")).chain(["1".to_owned()]) {
        match try_llvm(&value, min) {
            Ok(found) => return Ok(found),
            Err(why) => first = first.or(Some(why)),
        }
    }
    let why = first.unwrap_or_else(|| "clang is missing".to_owned());
    Err(Error::could_not(format!(
        "{why}; Linux {kernel} with Rust needs clang {min} or newer: install {}",
        LLVM_PACKAGES[0]
    )))
}

/// Checks that the tools that kbuild uses with `LLVM=value` exist and are new enough.
fn try_llvm(value: &str, min: &str) -> Result<(String, String, String), String> {
    let tool = |name: &str| {
        if value.ends_with('/') {
            format!("{value}{name}")
        } else if value.starts_with('-') {
            format!("{name}{value}")
        } else {
            name.to_owned()
        }
    };
    let clang = tool("clang");
    let version = version_of(Path::new(&clang), &["--version"]).ok_or_else(|| format!("{clang} is missing"))?;
    if !at_least(&version, min) {
        return Err(format!("{clang} {version} is too old"));
    }
    for name in LLVM_TOOLS {
        let name = tool(name);
        if in_path(&name).is_none() {
            return Err(format!("{name} is missing (it belongs to {clang})"));
        }
    }
    Ok((value.to_owned(), clang, version))
}

struct Rust {
    rustc: PathBuf,
    library: PathBuf,
    version: String,
}

/// The rustc to use: one that has its library's source.
///
/// The distribution's comes before the one in PATH: a rustup toolchain seldom has the source.
fn rust(base: &Base) -> Result<Rust> {
    let min = &base.linux.min_rustc;
    let candidates: Vec<PathBuf> = match env::var_os("LAZYMAP_RUSTC").filter(|v| !v.is_empty()) {
        Some(asked) => vec![asked.into()],
        None => [Some(PathBuf::from("/usr/bin/rustc")), in_path("rustc")].into_iter().flatten().collect(),
    };
    let mut first = None;
    for rustc in candidates {
        match try_rustc(&rustc, min) {
            Ok(rust) => return Ok(rust),
            Err(why) => first = first.or(why),
        }
    }
    let why = first.unwrap_or_else(|| "rustc is missing".to_owned());
    Err(Error::could_not(format!(
        "{why}; Linux {} needs rustc {min} or newer with its library's source: install {}, or name one in \
         LAZYMAP_RUSTC and RUST_LIB_SRC",
        base.linux.version, RUST_PACKAGES[0]
    )))
}

/// The reason is `None` if there is no such program at all.
fn try_rustc(rustc: &Path, min: &str) -> Result<Rust, Option<String>> {
    let version = version_of(rustc, &["--version"]).ok_or(None)?;
    if !at_least(&version, min) {
        return Err(Some(format!("{} {version} is too old", rustc.display())));
    }
    let sysroot = || {
        let text = cmd::output(Command::new(rustc).args(["--print", "sysroot"])).unwrap_or_default();
        PathBuf::from(text.trim()).join("lib/rustlib/src/rust/library")
    };
    let library = match env::var_os("RUST_LIB_SRC").filter(|v| !v.is_empty()) {
        Some(asked) => PathBuf::from(asked),
        None => {
            let packaged = PathBuf::from(format!("/usr/src/rustc-{version}/library"));
            if packaged.exists() && rustc.starts_with("/usr") { packaged } else { sysroot() }
        }
    };
    if !library.join("core/src/lib.rs").is_file() {
        return Err(Some(format!(
            "the library's source of {} {version} is missing ({} has no core/src/lib.rs)",
            rustc.display(),
            library.display()
        )));
    }
    Ok(Rust { rustc: rustc.to_owned(), library, version })
}

/// The formatter: the selected one, the distribution's, or the one in PATH.
fn rustfmt() -> Result<PathBuf> {
    let asked = env::var_os("LAZYMAP_RUSTFMT").filter(|v| !v.is_empty()).map(PathBuf::from);
    let packaged = Some(PathBuf::from("/usr/bin/rustfmt"));
    [asked, packaged, in_path("rustfmt")]
        .into_iter()
        .flatten()
        .find(|path| path.is_file())
        .ok_or_else(|| Error::could_not(format!("rustfmt is missing: install {}", RUSTFMT_PACKAGES[0])))
}

/// Where the clang's own libclang is: a host may have several.
fn libclang(clang_version: &str) -> Option<PathBuf> {
    if let Some(asked) = env::var_os("LIBCLANG_PATH").filter(|v| !v.is_empty()) {
        return Some(asked.into());
    }
    let major = clang_version.split('.').next()?;
    let dir = PathBuf::from(format!("/usr/lib/llvm-{major}/lib"));
    let mut names = fs::read_dir(&dir).ok()?.flatten().map(|e| e.file_name());
    names.any(|n| n.to_str().is_some_and(|n| n.starts_with("libclang") && n.contains(".so"))).then_some(dir)
}

/// Asks bindgen which libclang it loads, as the kernel's own check does.
fn libclang_version(bindgen: &Path, libclang: Option<&Path>, base: &Base) -> Result<String> {
    let min = &base.linux.min_clang;
    let dir = files::scratch()?;
    let header = dir.path().join("libclang.h");
    fs::write(&header, "#pragma message(\"clang version \" __clang_version__)\n")
        .map_err(|e| Error::io("write", &header, e))?;
    let mut command = Command::new(bindgen);
    command.arg(&header).env("LC_ALL", "C");
    if let Some(dir) = libclang {
        command.env("LIBCLANG_PATH", dir);
    }
    let done = command.output().map_err(|e| Error::could_not(format!("cannot run {}: {e}", bindgen.display())))?;
    let said = String::from_utf8_lossy(&done.stderr);
    let version = said.lines().find_map(|l| number(l.split_once("clang version ")?.1));
    match version {
        Some(version) if at_least(&version, min) => Ok(version),
        Some(version) => Err(Error::could_not(format!(
            "libclang {version}, which bindgen loads, is too old; install libclang-{LLVM_FAVOURITE}-dev or name a \
             folder in LIBCLANG_PATH ({min} or newer)"
        ))),
        None => Err(Error::could_not(format!(
            "libclang is missing: bindgen says \"{}\"; install libclang-{LLVM_FAVOURITE}-dev or name a folder in LIBCLANG_PATH",
            said.lines().map(str::trim).find(|l| l.contains("libclang")).unwrap_or("nothing about it")
        ))),
    }
}

/// The oldest bindgen that the kernel works with, if bindgen loads this libclang.
fn min_bindgen<'a>(base: &'a Base, libclang: Option<&str>) -> &'a str {
    let min = base.linux.min_bindgen.as_str();
    let new = libclang.is_some_and(|version| at_least(version, LIBCLANG_OF_NEW_BINDGEN));
    if new && !at_least(min, NEW_BINDGEN) { NEW_BINDGEN } else { min }
}

/// A bindgen that is new enough: the selected one, in PATH, or installed earlier.
fn bindgen_present(options: &Options, min: &str) -> Result<PathBuf, String> {
    let own = options.out.join("tools/bin/bindgen");
    let asked = env::var_os("LAZYMAP_BINDGEN").filter(|v| !v.is_empty()).map(PathBuf::from);
    let candidates = match asked {
        Some(asked) => vec![asked],
        None => [in_path("bindgen"), Some(own)].into_iter().flatten().collect(),
    };
    let mut why = "bindgen is missing".to_owned();
    for path in candidates {
        match version_of(&path, &["--version"]) {
            Some(version) if at_least(&version, min) => return Ok(path),
            Some(version) => why = format!("{} {version} is too old", path.display()),
            None => {}
        }
    }
    Err(why)
}

/// As [`bindgen_present`], but builds one if there is none.
fn bindgen(options: &Options, min: &str, install: bool) -> Result<PathBuf> {
    let why = match bindgen_present(options, min) {
        Ok(path) => return Ok(path),
        Err(why) => why,
    };
    let wanted = &options.base.host.bindgen;
    let by_hand = format!("cargo install bindgen-cli --version {wanted} --locked");
    let asked = env::var_os("LAZYMAP_BINDGEN").is_some_and(|v| !v.is_empty());
    let (true, false, Some(cargo)) = (install, asked, cargo()) else {
        return Err(Error::could_not(format!("{why}; {min} or newer is needed: {by_hand}")));
    };
    let step = Step::start(format!("build bindgen {wanted}"));
    let log = options.out.join("log/bindgen.log");
    let tools = options.out.join("tools");
    let target = tools.join("bindgen-build");
    let mut command = Command::new(cargo);
    command.args(["install", "bindgen-cli", "--version", wanted, "--locked", "--root"]).arg(&tools);
    command.arg("--target-dir").arg(&target).arg("--jobs").arg(options.jobs.to_string());
    if let Ended::Badly { tail, what } = cmd::captured(&mut command, &log, &step)? {
        let network =
            ["Could not resolve", "Couldn't resolve", "failed to download", "Could not connect", "Timeout was"];
        let offline = tail.iter().any(|l| network.iter().any(|n| l.contains(n)));
        let reason = if offline { "no network" } else { what.as_str() };
        return Err(Error::could_not(format!(
            "{why}, and it could not be installed ({reason}; whole output: {}); {min} or newer is needed: connect and \
             run again, or {by_hand}",
            log.display()
        )));
    }
    crate::ground::files::remove(&target)?;
    step.finish("done");
    bindgen_present(options, min)
        .map_err(|why| Error::could_not(format!("{why} even after cargo installed it; see {}", log.display())))
}

/// The cargo to build bindgen with.
fn cargo() -> Option<PathBuf> {
    let asked = env::var_os("LAZYMAP_CARGO").filter(|v| !v.is_empty()).map(PathBuf::from);
    asked.or_else(|| in_path("cargo"))
}

fn path_folders() -> impl Iterator<Item = PathBuf> {
    let path: OsString = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).collect::<Vec<_>>().into_iter()
}

/// The program `name` in PATH, or `name` itself if it is a path.
pub fn in_path(name: &str) -> Option<PathBuf> {
    if name.contains('/') {
        return Some(PathBuf::from(name)).filter(|p| p.is_file());
    }
    path_folders().map(|dir| dir.join(name)).find(|p| p.is_file())
}

/// The first version number that a program prints.
fn version_of(program: &Path, args: &[&str]) -> Option<String> {
    let done = Command::new(program).args(args).env("LC_ALL", "C").output().ok()?;
    if !done.status.success() {
        return None;
    }
    String::from_utf8_lossy(&done.stdout).lines().find_map(|l| l.split_whitespace().find_map(number))
}

/// `22.1.8` out of `22.1.8-1~deb12u1` or `22.1.8`; `None` if the word does not start like a version.
fn number(word: &str) -> Option<String> {
    let end = word.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(word.len());
    let number = word[..end].trim_end_matches('.');
    (number.contains('.') && number.starts_with(|c: char| c.is_ascii_digit())).then(|| number.to_owned())
}

/// Compares dotted numbers; a missing part counts as 0.
pub fn at_least(version: &str, min: &str) -> bool {
    let parts = |v: &str| -> Vec<u64> { v.split('.').map(|p| p.parse().unwrap_or(0)).collect() };
    let (mut a, mut b) = (parts(version), parts(min));
    let len = a.len().max(b.len());
    a.resize(len, 0);
    b.resize(len, 0);
    a >= b
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_numbers_not_text() {
        assert!(at_least("0.71.1", "0.71.1") && at_least("0.72", "0.71.1") && at_least("22.1.8", "17.0.1"));
        assert!(!at_least("0.60.0", "0.71.1") && !at_least("9.0", "17.0.1") && !at_least("1.84.9", "1.85.0"));
    }

    #[test]
    fn version_numbers_in_words() {
        assert_eq!(number("22.1.8"), Some("22.1.8".into()));
        assert_eq!(number("22.1.8-1~deb12u1"), Some("22.1.8".into()));
        assert_eq!(number("\"22.1.8\""), None);
        assert_eq!(number("clang"), None);
        assert_eq!(number("17"), None);
    }

    #[test]
    fn commands_name_the_toolchain() {
        let at = |name: &str| PathBuf::from("/rust/bin").join(name);
        let mut host = Host {
            llvm: "-22".to_owned(),
            clang: "clang-22".to_owned(),
            rustc: at("rustc"),
            rustdoc: at("rustdoc"),
            rustfmt: None,
            rust_lib_src: "/rust/library".into(),
            bindgen: at("bindgen"),
            libclang: Some("/llvm/lib".into()),
            ccache: false,
            versions: BTreeMap::new(),
        };
        let with = "make ARCH=riscv LLVM=-22 RUSTC=/rust/bin/rustc RUSTDOC=/rust/bin/rustdoc HOSTRUSTC=/rust/bin/rustc \
                    BINDGEN=/rust/bin/bindgen RUST_LIB_SRC=/rust/library O=$BUILD";
        // kselftest does not pass RUSTC= on.
        let tests = "PATH=/rust/bin:$PATH make ARCH=riscv LLVM=-22 O=$BUILD TARGETS=riscv/lazy_map \
                     INSTALL_PATH=$PWD/tests kselftest-install";
        let lines = [
            format!("LIBCLANG_PATH=/llvm/lib {with} defconfig kselftest-merge\n"),
            format!("LIBCLANG_PATH=/llvm/lib {with} -j$(nproc)\n"),
            format!("{tests}\n"),
        ];
        assert_eq!(host.commands(), lines.concat());
        // The first rustc in PATH needs no help, and bindgen finds its own libclang.
        if let Some(rustc) = in_path("rustc") {
            host.rustc = rustc;
            host.libclang = None;
            let text = host.commands();
            assert!(!text.contains("PATH=/") && text.lines().all(|line| line.starts_with("make ")), "{text}");
        }
    }
}
