// SPDX-License-Identifier: GPL-2.0-only
//! Configures and builds a variant of the kernel, with its selftests.
//!
//! All variants of one configuration are built one after the other in one `O=` folder. They differ in
//! a few files, and checking one out touches only these, so the second build takes seconds.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;

use crate::ground::cmd::{self, Ended};
use crate::ground::error::{Error, Result};
use crate::ground::files;
use crate::ground::key::{self, Key};
use crate::ground::progress::Step;
use crate::options::Options;
use crate::source::host::{self, Host};
use crate::source::tree::Tree;

/// Name of the variant that flushes every hart: it is the control `preventive`.
pub const PREVENTIVE: &str = "preventive";
/// Name of the variant with the whole series.
pub const SERIES: &str = "series";
/// Name of the variant without any patch.
pub const BASE: &str = "base";

/// The config fragment on top of tinyconfig, in the repository.
const FRAGMENT: &str = "harness/kernel.config";
/// The target that makes the architecture's own configuration.
const DEFCONFIG: &str = "defconfig";
/// Kbuild's list of a kernel's modules.
const ORDER: &str = "modules.order";
/// Where all kselftests are in a kernel tree.
const KSELFTEST: &str = "tools/testing/selftests";
/// Where the tests of the series are.
pub const SELFTESTS: &str = "tools/testing/selftests/riscv/lazy_map";
/// The same below the folder of all kselftests, as their `TARGETS=` names it.
pub const TARGET: &str = "riscv/lazy_map";
/// Lines that a full build prints, for the progress bar.
const FULL_BUILD_LINES: u64 = 1400;
/// What the one module is made of that needs no abstractions, in the repository, and its name.
const BASIC: [&str; 2] = ["selftests/test_modules/Makefile", "selftests/test_modules/lazy_map_basic.c"];
const BASIC_MODULE: &str = "lazy_map_basic.ko";
/// The topic without which a kernel is built without Rust.
const RUST: &str = "rust";
/// Lets pahole describe the kernel's types.
const BTF: &str = "CONFIG_DEBUG_INFO_BTF=y";
/// An older pahole gives two per-CPU variables the same place, and the kernel refuses its whole BTF then ("Invalid
/// offset"). Seen with 1.24, which is in Debian 12; scripts/Makefile.btf does without its options from here on.
const RIGHT_VARIABLES: &str = "1.26";
/// What an older one gets in place of what scripts/Makefile.btf says.
const WITHOUT_VARIABLES: &str = "--btf_gen_floats --lang_exclude=rust --skip_encoding_btf_vars";
/// Bump this when this file builds something else from the same inputs.
const RECIPE: &str = "3";

/// What a kernel is configured with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// Its folder's name; empty for the default configuration.
    pub name: String,
    /// Lines on top of `harness/kernel.config`, which may override it.
    pub lines: String,
    /// The lines go on top of tinyconfig, without `harness/kernel.config`.
    pub standalone: bool,
    /// The lines go on top of the architecture's defconfig instead, without its modules.
    pub defconfig: bool,
    /// What compiles it. With gcc there is no Rust.
    pub compiler: Compiler,
}

/// What compiles the kernel's C.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Compiler {
    /// The LLVM that everything else is built with.
    #[default]
    Clang,
    /// The distribution's cross compiler, without Rust.
    Gcc,
}

impl fmt::Display for Compiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Clang => "clang",
            Self::Gcc => "gcc",
        })
    }
}

/// The result of compiling a part of the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Compiled {
    /// It compiles.
    Yes,
    /// It does not: why, and which file has the whole output.
    No(String),
    /// The compiler is not available.
    NoCompiler(String),
}

/// A built variant.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// `preventive`, `series` or `control-NAME`, followed by `-CONFIG` unless that is the default.
    pub name: String,
    /// `arch/riscv/boot/Image`.
    pub image: PathBuf,
    /// The ELF file with symbols.
    pub vmlinux: PathBuf,
    /// Folder with `test-*.sh` and the test modules, as kselftest installs it, and the kernel's own
    /// modules in `modules`.
    pub selftests: PathBuf,
    /// The commit that it was built from.
    pub commit: String,
}

/// What builds kernels: the tree with their sources, the toolchain, and where things lie.
#[derive(Debug)]
pub struct Builder<'a> {
    /// The kernel tree. Building changes what is checked out there.
    pub tree: &'a mut Tree,
    /// The toolchain.
    pub host: &'a Host,
    /// Where things lie.
    pub options: &'a Options,
}

/// Builds `commit` as the variant `name`, unless that was done before. `tests` is a folder to take the
/// tests from instead of the commit.
///
/// # Errors
/// When it cannot be checked out, configured or built.
pub fn build(on: Builder<'_>, name: &str, commit: &str, config: &Config, tests: Option<&Path>) -> Result<Kernel> {
    build_targets(on, name, commit, config, tests, &["Image", "modules"])
}

/// As [`build`] with `tests` from elsewhere, for a kernel that differs from theirs in nothing that is a module: the
/// kernel's own are there, too.
///
/// # Errors
/// As [`build`].
pub fn build_image(on: Builder<'_>, name: &str, commit: &str, config: &Config, tests: &Path) -> Result<Kernel> {
    build_targets(on, name, commit, config, Some(tests), &["Image"])
}

fn build_targets(
    on: Builder<'_>,
    name: &str,
    commit: &str,
    config: &Config,
    tests: Option<&Path>,
    targets: &[&str],
) -> Result<Kernel> {
    let Builder { tree, host, options } = on;
    if config.compiler == Compiler::Gcc {
        host::gcc(options).map_err(Error::could_not)?;
    }
    let mut kernel = planned(options, name, config);
    commit.clone_into(&mut kernel.commit);
    let dir = folder(options, &kernel.name);
    if let Some(tests) = tests {
        tests.clone_into(&mut kernel.selftests);
    }
    let build = Build::new(tree, config, host, options)?;
    let step = Step::start(format!("build kernel {}", kernel.name));
    let key = key(tree, commit, &build)?;
    let stamp = dir.join("stamp");
    if key::fresh(&stamp, &key) && kernel.image.exists() && kernel.vmlinux.exists() && kernel.selftests.exists() {
        if name == SERIES {
            tree.check_out(commit)?;
        }
        step.finish("unchanged");
        return Ok(kernel);
    }
    files::remove(&stamp)?;
    step.detail("check out");
    tree.check_out(commit)?;
    let kept = build.configure(tree, commit, name == SERIES, &step)?;
    build.image(&kernel.name, targets, &step)?;
    files::create_dir(&dir)?;
    for (from, to) in [
        (build.o.join("arch/riscv/boot/Image"), &kernel.image),
        (build.o.join("vmlinux"), &kernel.vmlinux),
        (kept, &dir.join("config")),
    ] {
        // Reproducers of earlier boots may link to it.
        files::remove(to)?;
        files::copy(&from, to)?;
    }
    if tests.is_none() {
        build.selftests(&kernel.name, &dir.join("kselftest"), &kernel.selftests, &step)?;
    }
    files::write_whole(&stamp, key)?;
    step.finish("built");
    Ok(kernel)
}

/// As [`build`] without tests; also returns the folder with the kernel's own modules.
///
/// # Errors
/// As [`build`], and when a module cannot be copied.
pub fn build_with_modules(on: Builder<'_>, name: &str, commit: &str, config: &Config) -> Result<(Kernel, PathBuf)> {
    let options = on.options;
    let dir = planned(options, name, config).image.with_file_name("");
    let modules = dir.join("modules");
    let (stamp, copied) = (dir.join("stamp"), modules.join("stamp"));
    let same = || fs::read(&stamp).ok().filter(|s| fs::read(&copied).ok().as_ref() == Some(s)).is_some();
    if !same() {
        // Another kernel may have been built in its folder since.
        files::remove(&stamp)?;
    }
    let tests = (name != SERIES).then_some(options.root.as_path());
    let kernel = build(on, name, commit, config, tests)?;
    if !same() {
        files::remove(&modules)?;
        copy_modules(&o_folder(options, config), &modules)?;
        files::copy(&stamp, &copied)?;
    }
    Ok((kernel, modules))
}

/// As [`build_image`], for a kernel that differs in its own modules as well: the tests get those.
///
/// # Errors
/// As [`build_with_modules`].
pub fn build_with_tests(on: Builder<'_>, name: &str, commit: &str, config: &Config, tests: &Path) -> Result<Kernel> {
    let (mut kernel, modules) = build_with_modules(on, name, commit, config)?;
    let own = modules.with_file_name("tests");
    let copied = own.join("modules");
    files::remove(&own)?;
    files::copy_tree(tests, &own)?;
    files::remove(&copied)?;
    files::copy_tree(&modules, &copied)?;
    files::remove(&copied.join("stamp"))?;
    kernel.selftests = own;
    Ok(kernel)
}

/// Whether one of these files of the kernel tree is in the folder of a module of the kernel for which `tests` were built.
/// Yes if nobody knows, as of tests that an earlier version of the tool has left.
///
/// # Errors
/// When the list of modules cannot be read.
pub fn is_in_module(tests: &Path, files: &[String]) -> Result<bool> {
    let modules = tests.join("modules");
    Ok(!modules.join(ORDER).exists() || share_folder(&modules_order(&modules)?, files))
}

/// Whether one of these files is in the folder of a module in this list.
fn share_folder(modules: &str, files: &[String]) -> bool {
    fn folder(path: &str) -> Option<&str> {
        path.rsplit_once('/').map(|(folder, _)| folder)
    }
    let folders: BTreeSet<&str> = modules.lines().filter_map(folder).collect();
    files.iter().filter_map(|path| folder(path)).any(|path| folders.contains(path))
}

/// As [`build`], for a kernel that has neither the tests nor what most of their modules need. It gets the scripts and
/// programs in `tests`, which were built for another kernel in the same configuration, and the module in C.
///
/// # Errors
/// As [`build`], and when the module cannot be built.
pub fn build_bare(on: Builder<'_>, name: &str, commit: &str, config: &Config, tests: &Path) -> Result<Kernel> {
    let Builder { tree, host, options } = on;
    let dir = planned(options, name, config).image.with_file_name("");
    let (stamp, own) = (dir.join("stamp"), dir.join("basic"));
    let key = || -> Result<String> {
        let mut key = Key::default().text("kernel", fs::read(&stamp).unwrap_or_default());
        for file in BASIC {
            key = key.file(&options.root.join(file))?;
        }
        for file in files::list(tests)?.iter().filter(|path| path.is_file()) {
            key = key.file(file)?;
        }
        Ok(key.finish())
    };
    let made = own.join("stamp");
    if !key::fresh(&made, &key()?) {
        // Another kernel may have been built in its folder since.
        files::remove(&stamp)?;
    }
    let kernel = build(Builder { tree: &mut *tree, host, options }, name, commit, config, Some(&own))?;
    let key = key()?;
    if key::fresh(&made, &key) {
        return Ok(kernel);
    }
    let build = Build::new(tree, config, host, options)?;
    let step = Step::start(format!("build {BASIC_MODULE} for {}", kernel.name));
    files::remove(&own)?;
    files::copy_tree(tests, &own)?;
    for other in ["test_modules", "modules"] {
        files::remove(&own.join(other))?;
    }
    copy_modules(&build.o, &own.join("modules"))?;
    let (scratch, modules) = (dir.join("basic-module"), own.join("test_modules"));
    files::remove(&scratch)?;
    for folder in [&scratch, &modules] {
        files::create_dir(folder)?;
    }
    let copy = |from: &Path, to: &Path| {
        let to = to.join(from.file_name().unwrap_or_default());
        files::copy(from, &to)
    };
    BASIC.iter().try_for_each(|file| copy(&options.root.join(file), &scratch))?;
    let mut make = build.make(&scratch);
    let mut kdir = std::ffi::OsString::from("KDIR=");
    kdir.push(&build.o);
    cmd::logged(make.arg(kdir).arg("modules"), &build.log(&format!("basic-{}", kernel.name)), &step)?;
    copy(&scratch.join(BASIC_MODULE), &modules)?;
    files::remove(&scratch)?;
    files::write_whole(&made, key)?;
    step.finish("built");
    Ok(kernel)
}

/// The kernel's own modules as Kbuild lists them in its `O=` folder: `fs/nls/nls_utf8.o`. Nothing if it has none.
fn modules_order(o: &Path) -> Result<String> {
    let order = o.join(ORDER);
    match fs::read_to_string(&order) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(String::new()),
        list => list.map_err(|e| Error::io("read", &order, e)),
    }
}

/// Copies the kernel's own modules, if it has any, and their list from its `O=` folder `o` into one folder.
fn copy_modules(o: &Path, modules: &Path) -> Result<()> {
    let order = modules_order(o)?;
    files::write_whole(&modules.join(ORDER), &order)?;
    for object in order.lines().filter(|l| !l.trim().is_empty()) {
        let from = o.join(object).with_extension("ko");
        let to = modules.join(from.file_name().unwrap_or_default());
        files::copy(&from, &to)?;
    }
    Ok(())
}

/// The kernel that [`build`] would return, without a commit, whether or not it exists.
pub fn planned(options: &Options, name: &str, config: &Config) -> Kernel {
    let name = if config.name.is_empty() { name.to_owned() } else { format!("{name}-{}", config.name) };
    let dir = folder(options, &name);
    Kernel {
        image: dir.join("Image"),
        vmlinux: dir.join("vmlinux"),
        selftests: dir.join("kselftest").join(TARGET),
        commit: String::new(),
        name,
    }
}

/// Whether a file of the tests is a script that runs one.
pub fn is_test(name: &str) -> bool {
    name.starts_with("test-") && name.ends_with(".sh")
}

/// Names of the test scripts that `commit` has.
///
/// # Errors
/// When the commit does not exist.
pub fn tests_of(tree: &Tree, commit: &str) -> Result<Vec<String>> {
    let folder = format!("{SELFTESTS}/");
    let list = tree.repo.run(["ls-tree", "--name-only", commit, "--", &folder])?;
    let names = list.lines().filter_map(|path| path.strip_prefix(&folder));
    Ok(names.filter(|name| is_test(name)).map(str::to_owned).collect())
}

/// Where a kernel is kept.
fn folder(options: &Options, name: &str) -> PathBuf {
    options.place("kernel").join(name)
}

/// Configures and compiles a few folders of `commit`.
///
/// # Errors
/// When it cannot be checked out or configured. Code that does not compile is not an error.
pub fn compile_folders(on: Builder<'_>, commit: &str, config: &Config, folders: &[String]) -> Result<Compiled> {
    let Builder { tree, host, options } = on;
    if config.compiler == Compiler::Gcc
        && let Err(why) = host::gcc(options)
    {
        return Ok(Compiled::NoCompiler(why));
    }
    let build = Build::new(tree, config, host, options)?;
    let step = Step::start(format!("compile {} of {}", folders.join(" "), config.name));
    tree.check_out(commit)?;
    build.configure(tree, commit, true, &step)?;
    // In a single run of make, each folder would prepare the tree, concurrently.
    for folder in folders {
        let log = build.log(&format!("compile-{}-{}", config.name, folder.trim_matches('/').replace('/', "-")));
        match cmd::captured(build.kbuild().arg(folder), &log, &step)? {
            Ended::Well => {}
            Ended::Badly { tail, what } => {
                step.finish("failed");
                let why = tail.iter().find(|l| l.contains("error:")).map_or(what.as_str(), |l| l.trim());
                return Ok(Compiled::No(format!("{folder}: {why}; see {}", log.display())));
            }
        }
    }
    step.finish("compiles");
    Ok(Compiled::Yes)
}

/// The `O=` folder: one per configuration, and separate ones for a user's tree, or each switch would
/// rebuild everything.
pub fn o_folder(options: &Options, config: &Config) -> PathBuf {
    let user = if options.ksrc.is_some() { "-ksrc" } else { "" };
    match config.name.as_str() {
        "" => options.place(&format!("build{user}")),
        name => options.place(&format!("scenarios{user}")).join(name),
    }
}

/// Everything that a build depends on.
fn key(tree: &Tree, commit: &str, build: &Build<'_>) -> Result<String> {
    let mut key = Key::default()
        .text("recipe", RECIPE)
        .text("files", tree.files(commit)?)
        .text("llvm", &build.host.llvm)
        .text("o", build.o.as_os_str().as_encoded_bytes())
        .text("config", &build.config.lines)
        .file(&build.options.root.join(FRAGMENT))?;
    if build.config.compiler == Compiler::Gcc {
        key = key.text("compiler", build.compiler()?);
    }
    if build.config.defconfig {
        key = key.text("start", DEFCONFIG);
    }
    if let Some(version) = &build.pahole {
        key = key.text("pahole", version);
    }
    for (tool, version) in build.host.versions() {
        key = key.text(tool, version);
    }
    Ok(key.finish())
}

/// Gives what builds a kernel the environment for it.
pub(super) fn environment(make: &mut Command, host: &Host, options: &Options) {
    if std::env::var_os("CCACHE_DIR").is_none() {
        make.env("CCACHE_DIR", options.out.join("ccache"));
    }
    make.env("CCACHE_BASEDIR", &options.out);
    if let Some(dir) = &host.libclang {
        make.env("LIBCLANG_PATH", dir);
    }
    // Make builds reproducible, and add no `+` for "not a tagged commit".
    make.env("KBUILD_BUILD_TIMESTAMP", "Thu Jan  1 00:00:00 UTC 2026")
        .env("KBUILD_BUILD_USER", "lazymap")
        .env("KBUILD_BUILD_HOST", "lazymap")
        .env("KBUILD_BUILD_VERSION", "1")
        .env("LOCALVERSION", "");
}

struct Build<'a> {
    tree_dir: PathBuf,
    o: PathBuf,
    config: &'a Config,
    host: &'a Host,
    /// The version of pahole, if the kernel gets BTF.
    pahole: Option<String>,
    options: &'a Options,
}

impl<'a> Build<'a> {
    fn new(tree: &Tree, config: &'a Config, host: &'a Host, options: &'a Options) -> Result<Self> {
        let o = o_folder(options, config);
        let has_btf = config.lines.lines().any(|line| line == BTF);
        let pahole = has_btf.then(|| host::pahole(options)).transpose().map_err(Error::could_not)?;
        Ok(Self { tree_dir: tree.repo.dir().to_owned(), o, config, host, pahole, options })
    }

    /// What compiles the C; for gcc, which is not among the host's versions, with its own version.
    fn compiler(&self) -> Result<String> {
        match self.config.compiler {
            Compiler::Clang => Ok(Compiler::Clang.to_string()),
            Compiler::Gcc => host::gcc_version(),
        }
    }

    /// `make` with everything that must be the same for kernel and modules.
    fn make(&self, dir: &Path) -> Command {
        let host = self.host;
        let mut make = cmd::plain("make");
        make.arg("--no-print-directory").arg("-C").arg(dir);
        environment(&mut make, host, self.options);
        let cached = |name: &str| if host.ccache { format!("ccache {name}") } else { name.to_owned() };
        make.arg(format!("-j{}", self.options.jobs)).arg("ARCH=riscv");
        if self.pahole.as_ref().is_some_and(|version| !host::at_least(version, RIGHT_VARIABLES)) {
            make.arg(format!("PAHOLE_FLAGS={WITHOUT_VARIABLES}"));
        }
        if self.config.compiler == Compiler::Gcc {
            make.arg(format!("CROSS_COMPILE={}", host::GCC_PREFIX));
            make.arg(format!("CC={}", cached(&format!("{}gcc", host::GCC_PREFIX))));
            return make;
        }
        make.arg(format!("CC={}", cached(&host.clang)));
        make.args(host.variables().into_iter().map(|(name, value)| format!("{name}={value}")));
        make
    }

    fn kbuild(&self) -> Command {
        let mut make = self.make(&self.tree_dir);
        let mut o = std::ffi::OsString::from("O=");
        o.push(&self.o);
        make.arg(o);
        make
    }

    /// Makes `.config` from tinyconfig and the fragment, or from defconfig, and the tests' needs, and checks that it has
    /// all of them. Done once per set of Kconfig files.
    fn configure(&self, tree: &Tree, commit: &str, whole: bool, step: &Step) -> Result<PathBuf> {
        step.detail("configure");
        // Each with whether it must come true.
        let mut fragments: Vec<(PathBuf, bool)> = Vec::new();
        if !self.config.standalone {
            // First, so that the other may take back what is for larger configurations only.
            let tests = self.tree_dir.join(SELFTESTS).join("config");
            // Tests may need options that only the whole series has.
            fragments.extend(tests.exists().then_some((tests, whole)));
            // It takes away what a defconfig has.
            if !self.config.defconfig {
                fragments.push((self.options.root.join(FRAGMENT), true));
            }
        }
        let mut key = Key::default()
            .text("recipe", RECIPE)
            .text("kconfig", kconfig_files(tree, commit, self.config.defconfig)?)
            .text("compiler", self.compiler()?)
            .text("own", &self.config.lines);
        if self.config.defconfig {
            key = key.text("start", DEFCONFIG);
        }
        if let Some(version) = &self.pahole {
            key = key.text("pahole", version);
        }
        for (fragment, _) in &fragments {
            key = key.file(fragment)?;
        }
        for (tool, version) in self.host.versions() {
            key = key.text(tool, version);
        }
        let base = &self.options.base;
        let gcc = self.config.compiler == Compiler::Gcc;
        if gcc || (!base.linux.is_whole() && !base.topics.iter().any(|topic| topic.name == RUST)) {
            // The fragments are written for kernels that can be built with Rust. Tests of a series without that
            // topic do not ask for it.
            let of_series = |path: &Path| path.starts_with(&self.tree_dir);
            for (at, (fragment, _)) in fragments.iter_mut().enumerate().filter(|(_, (path, _))| gcc || !of_series(path))
            {
                let text = files::read_text(fragment)?;
                let kept: String = text.lines().filter(|l| !l.contains("RUST")).map(|l| format!("{l}\n")).collect();
                *fragment = self.o.join(format!("without-rust-{at}.config"));
                files::write_whole(fragment, kept)?;
            }
        }
        if !self.config.lines.is_empty() {
            let own = self.o.join("lazymap.config");
            files::write_whole(&own, &self.config.lines)?;
            fragments.push((own, true));
        }
        let kept = self.o.join("configs").join(key.finish());
        let config = self.o.join(".config");
        if !kept.exists() {
            files::create_dir(&self.o)?;
            let log = self.log("config");
            // Drivers in modules would take an hour, and each guest would get all of them.
            let targets: &[&str] = if self.config.defconfig { &[DEFCONFIG, "mod2noconfig"] } else { &["tinyconfig"] };
            for target in targets {
                cmd::logged(self.kbuild().arg(target), &log, step)?;
            }
            let mut merge = cmd::plain(self.tree_dir.join("scripts/kconfig/merge_config.sh"));
            merge.args(["-m", "-O"]).arg(&self.o).arg(&config);
            merge.args(fragments.iter().map(|(path, _)| path)).current_dir(&self.tree_dir);
            cmd::logged(&mut merge, &log, step)?;
            cmd::logged(self.kbuild().arg("olddefconfig"), &log, step)?;
            let text = files::read_text(&config)?;
            let asserted: Vec<&Path> =
                fragments.iter().filter(|(_, asserted)| *asserted).map(|(path, _)| path.as_path()).collect();
            came_true(&asserted, &text)?;
            files::write_whole(&kept, text)?;
        } else if fs::read(&config).ok() != fs::read(&kept).ok() {
            fs::copy(&kept, &config).map_err(|e| Error::io("write", &config, e))?;
        }
        Ok(kept)
    }

    fn image(&self, name: &str, targets: &[&str], step: &Step) -> Result<()> {
        if !self.o.join("vmlinux").exists() {
            step.expect_lines(FULL_BUILD_LINES);
        }
        cmd::logged(self.kbuild().args(targets), &self.log(&format!("build-{name}")), step)
    }

    /// Builds the test modules against this kernel and installs the tests with the kernel's own
    /// kselftest rules; `tests` is our folder in there.
    fn selftests(&self, name: &str, install: &Path, tests: &Path, step: &Step) -> Result<()> {
        step.detail("selftests");
        files::remove(install)?;
        let all = self.tree_dir.join(KSELFTEST);
        if !all.join(TARGET).join("Makefile").exists() {
            return Err(Error::could_not(format!("the series has no {SELFTESTS}/Makefile; add it to selftests/")));
        }
        let mut make = self.make(&all);
        for (variable, value) in [("O=", self.o.as_path()), ("KDIR=", &self.o), ("INSTALL_PATH=", install)] {
            let mut word = std::ffi::OsString::from(variable);
            word.push(value);
            make.arg(word);
        }
        make.arg(format!("TARGETS={TARGET}")).arg("install");
        let log = self.log(&format!("selftests-{name}"));
        cmd::logged(&mut make, &log, step)?;
        // The guest gets only this folder, so the helpers must be in it.
        let helpers = install.join("kselftest/ktap_helpers.sh");
        files::copy(&helpers, &tests.join("ktap_helpers.sh"))?;
        // There is no depmod in the guest; tests that need one of the kernel's modules look here.
        copy_modules(&self.o, &tests.join("modules"))?;
        // kselftest does not fail if it cannot build a module.
        for (dir, ending) in [(tests.to_owned(), ".sh"), (tests.join("test_modules"), ".ko")] {
            let there = fs::read_dir(&dir)
                .is_ok_and(|entries| entries.flatten().any(|e| e.file_name().to_string_lossy().ends_with(ending)));
            if !there {
                return Err(Error::could_not(format!(
                    "installing the selftests of {name} put no {ending} file into {}; see {}",
                    dir.display(),
                    log.display()
                )));
            }
        }
        Ok(())
    }

    fn log(&self, name: &str) -> PathBuf {
        self.options.out.join(format!("log/{name}.log"))
    }
}

/// A hash over all Kconfig files and what tinyconfig, or defconfig, is made of, at `commit`.
fn kconfig_files(tree: &Tree, commit: &str, defconfig: bool) -> Result<String> {
    let list = tree.repo.run(["ls-tree", "-r", commit])?;
    let mut key = Key::default();
    for line in list.lines() {
        let path = line.split_once('\t').map_or("", |(_, path)| path);
        let file = path.rsplit('/').next().unwrap_or(path);
        if file.starts_with("Kconfig")
            || path.starts_with("kernel/configs/tiny")
            || path.starts_with("scripts/kconfig/")
            || (defconfig && path.starts_with("arch/riscv/configs/"))
        {
            key = key.text("line", line);
        }
    }
    Ok(key.finish())
}

/// The option that a line of a fragment is about, and whether the line disables it.
fn option(line: &str) -> Option<(&str, bool)> {
    if let Some(name) = line.strip_prefix("# CONFIG_").and_then(|l| l.strip_suffix(" is not set")) {
        return Some((name, true));
    }
    let (name, value) = line.strip_prefix("CONFIG_")?.split_once('=')?;
    Some((name, value == "n"))
}

/// Checks that the configuration has what the fragments say. The last line about an option wins.
fn came_true(fragments: &[&Path], config: &str) -> Result<()> {
    let lines: BTreeSet<&str> = config.lines().collect();
    let mut texts = Vec::new();
    for fragment in fragments {
        let text = files::read_text(fragment)?;
        texts.push((*fragment, text));
    }
    let mut wanted: BTreeMap<&str, (&str, bool, &Path)> = BTreeMap::new();
    for (fragment, text) in &texts {
        for line in text.lines().map(str::trim) {
            if let Some((name, off)) = option(line) {
                wanted.insert(name, (line, off, fragment));
            }
        }
    }
    for (name, (line, off, fragment)) in wanted {
        // A disabled option need not appear at all.
        let set =
            || config.lines().any(|l| l.strip_prefix("CONFIG_").is_some_and(|l| l.split('=').next() == Some(name)));
        if if off { set() } else { !lines.contains(line) } {
            return Err(Error::could_not(format!(
                "`{line}` of {} did not make it into the kernel's configuration: a dependency is missing or the \
                 option is gone; correct the fragment",
                fragment.display()
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_modules_are_known() {
        let modules = "arch/riscv/kvm/kvm.o\nfs/nls/nls_utf8.o\n";
        let shares = |file: &str| share_folder(modules, &["mm/vmalloc.c".to_owned(), file.to_owned()]);
        assert!(shares("arch/riscv/kvm/mmu.c") && shares("fs/nls/nls_base.c"));
        assert!(!shares("arch/riscv/kernel/entry.S") && !shares("arch/riscv/kvm/tests/x.c"));
        assert!(!share_folder("", &["mm/vmalloc.c".to_owned()]));
    }

    #[test]
    fn fragments_are_asserted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f.config");
        let config = "CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C=m\n";
        let check = |text: &str| {
            fs::write(&path, text).unwrap();
            came_true(&[&path], config).map_err(|e| e.message)
        };
        assert!(check("# a comment\nCONFIG_A=y\nCONFIG_B=n\n# CONFIG_D is not set\nCONFIG_C=m\n").is_ok());
        assert!(check("CONFIG_C=y\n").unwrap_err().contains("`CONFIG_C=y`"));
        assert!(check("# CONFIG_A is not set\n").unwrap_err().contains("CONFIG_A"));
        assert!(check("CONFIG_D=y\n").unwrap_err().contains("CONFIG_D"));
    }

    #[test]
    fn later_fragments_take_the_place_of_earlier_ones() {
        let dir = tempfile::tempdir().unwrap();
        let (first, second) = (dir.path().join("first"), dir.path().join("second"));
        fs::write(&first, "CONFIG_A=y\nCONFIG_B=64\n").unwrap();
        let check = |own: &str, config: &str| {
            fs::write(&second, own).unwrap();
            came_true(&[&first, &second], config).map_err(|e| e.message)
        };
        assert!(check("# CONFIG_A is not set\nCONFIG_B=512\n", "CONFIG_B=512\n").is_ok());
        assert!(check("# CONFIG_A is not set\n", "CONFIG_A=y\nCONFIG_B=64\n").unwrap_err().contains("/second"));
        assert!(check("CONFIG_B=512\n", "CONFIG_A=y\nCONFIG_B=64\n").unwrap_err().contains("CONFIG_B=512"));
        assert!(check("CONFIG_AB=y\n", "CONFIG_AB=y\nCONFIG_B=64\n").unwrap_err().contains("/first"));
    }
}
