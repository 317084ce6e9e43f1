// SPDX-License-Identifier: GPL-2.0-only
//! Configures and builds a variant of the kernel, with its selftests.
//!
//! All variants are built one after the other in one `O=` folder. They differ in a few files, and
//! checking one out touches only these, so the second build is a matter of seconds.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::base::Base;
use crate::cli::Options;
use crate::cmd;
use crate::error::{Error, Result};
use crate::host::Host;
use crate::progress::Step;
use crate::stamp::{self, Key};
use crate::tree::Tree;

/// Name of the variant that flushes every hart: the parent of the switch.
pub const PREVENTIVE: &str = "preventive";
/// Name of the variant with the whole series.
pub const SERIES: &str = "series";

/// The config fragment on top of tinyconfig, in the repository.
const FRAGMENT: &str = "harness/kernel.config";
/// The tests' folder below `tools/testing/selftests`, as kselftest's `TARGETS=` names it.
const TARGET: &str = "riscv/lazy_map";
/// Lines that a full build prints, for the progress bar.
const FULL_BUILD_LINES: u64 = 1400;
/// Counts up when this file builds something else from the same inputs.
const RECIPE: &str = "2";

/// A built variant.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// `preventive` or `series`.
    pub name: String,
    /// `arch/riscv/boot/Image`.
    pub image: PathBuf,
    /// The ELF file with symbols.
    pub vmlinux: PathBuf,
    /// Folder with `test-*.sh` and the modules, as kselftest installs it.
    pub selftests: PathBuf,
    /// The commit that it was built from.
    pub commit: String,
}

/// Builds both variants of the series that ends in `tip`.
///
/// # Errors
/// When there is no switch commit in the series, or a build fails.
pub fn variants(
    tree: &mut Tree,
    tip: &str,
    host: &Host,
    options: &Options,
    base: &Base,
) -> Result<BTreeMap<String, Kernel>> {
    let preventive = before_switch(tree, tip, base)?;
    let mut kernels = BTreeMap::new();
    // In this order: the tip stays checked out for whoever wants to work there.
    for (name, commit) in [(PREVENTIVE, preventive.as_str()), (SERIES, tip)] {
        let kernel = build(tree, name, commit, host, options)?;
        kernels.insert(name.to_owned(), kernel);
    }
    Ok(kernels)
}

/// The parent of the commit that switches to the lazy scheme.
fn before_switch(tree: &Tree, tip: &str, base: &Base) -> Result<String> {
    let wanted = &base.linux.switch;
    let mut parent = tree.base.clone();
    for commit in tree.commits(tip)? {
        if tree.repo.run(["log", "-1", "--format=%s", &commit])? == *wanted {
            return Ok(parent);
        }
        parent = commit;
    }
    Err(Error::could_not(format!(
        "no patch has the subject \"{wanted}\", which base.toml names as the switch; correct `switch` there"
    )))
}

/// Builds `commit` as the variant `name`, unless that was done before.
///
/// # Errors
/// When it cannot be checked out, configured or built.
pub fn build(tree: &mut Tree, name: &str, commit: &str, host: &Host, options: &Options) -> Result<Kernel> {
    let dir = options.out.join("kernel").join(name);
    let kernel = Kernel {
        name: name.to_owned(),
        image: dir.join("Image"),
        vmlinux: dir.join("vmlinux"),
        selftests: dir.join("kselftest").join(TARGET),
        commit: commit.to_owned(),
    };
    let step = Step::start(format!("build kernel {name}"));
    let build = Build { tree_dir: tree.repo.dir().to_owned(), o: o_folder(tree, options), host, options };
    let key = key(tree, commit, &build)?;
    let stamp = dir.join("stamp");
    if stamp::fresh(&stamp, &key) && kernel.image.exists() && kernel.vmlinux.exists() && kernel.selftests.exists() {
        if name == SERIES {
            tree.check_out(commit)?;
        }
        step.finish("unchanged");
        return Ok(kernel);
    }
    stamp::remove(&stamp)?;
    step.detail("check out");
    tree.check_out(commit)?;
    let config = build.configure(tree, commit, name == SERIES, &step)?;
    build.image(name, &step)?;
    fs::create_dir_all(&dir).map_err(|e| Error::io("create", &dir, e))?;
    for (from, to) in [
        (build.o.join("arch/riscv/boot/Image"), &kernel.image),
        (build.o.join("vmlinux"), &kernel.vmlinux),
        (config, &dir.join("config")),
    ] {
        fs::copy(&from, to).map_err(|e| Error::io("copy", &from, e))?;
    }
    build.selftests(name, &dir.join("kselftest"), &kernel.selftests, &step)?;
    stamp::write_whole(&stamp, key)?;
    step.finish("built");
    Ok(kernel)
}

/// Only configures and compiles `commit`: for a look at each patch alone.
///
/// # Errors
/// As [`build`].
pub fn compile(tree: &mut Tree, commit: &str, host: &Host, options: &Options) -> Result<()> {
    let step = Step::start(format!("build {commit:.12}"));
    let build = Build { tree_dir: tree.repo.dir().to_owned(), o: o_folder(tree, options), host, options };
    tree.check_out(commit)?;
    build.configure(tree, commit, false, &step)?;
    build.image("each", &step)?;
    step.finish("built");
    Ok(())
}

/// The `O=` folder: a user's tree has one of its own, or changing over would rebuild everything.
fn o_folder(tree: &Tree, options: &Options) -> PathBuf {
    options.out.join(if tree.used.source == "package" { "build" } else { "build-ksrc" })
}

/// Everything that decides what a build gives.
fn key(tree: &Tree, commit: &str, build: &Build<'_>) -> Result<String> {
    let mut key = Key::default()
        .text("recipe", RECIPE)
        .text("files", tree.files(commit)?)
        .text("llvm", &build.host.llvm)
        .text("o", build.o.as_os_str().as_encoded_bytes())
        .file(&build.options.root.join(FRAGMENT))?;
    for (tool, version) in build.host.versions() {
        key = key.text(tool, version);
    }
    Ok(key.finish())
}

struct Build<'a> {
    tree_dir: PathBuf,
    o: PathBuf,
    host: &'a Host,
    options: &'a Options,
}

impl Build<'_> {
    /// `make` with everything that must be the same for kernel and modules.
    fn make(&self, dir: &Path) -> Command {
        let host = self.host;
        let mut make = cmd::plain("make");
        make.arg("--no-print-directory").arg("-C").arg(dir);
        self.environment(&mut make);
        let variable = |name: &str, value: &Path| {
            let mut word = std::ffi::OsString::from(format!("{name}="));
            word.push(value);
            word
        };
        let compiler = if host.ccache { format!("ccache {}", host.clang) } else { host.clang.clone() };
        make.arg(format!("-j{}", self.options.jobs))
            .args(["ARCH=riscv", &format!("LLVM={}", host.llvm), &format!("CC={compiler}")])
            .arg(variable("RUSTC", &host.rustc))
            .arg(variable("RUSTDOC", &host.rustdoc))
            .arg(variable("HOSTRUSTC", &host.rustc))
            .arg(variable("RUSTFMT", &host.rustfmt))
            .arg(variable("BINDGEN", &host.bindgen))
            .arg(variable("RUST_LIB_SRC", &host.rust_lib_src));
        make
    }

    fn environment(&self, make: &mut Command) {
        if std::env::var_os("CCACHE_DIR").is_none() {
            make.env("CCACHE_DIR", self.options.out.join("ccache"));
        }
        make.env("CCACHE_BASEDIR", &self.options.out);
        if let Some(dir) = &self.host.libclang {
            make.env("LIBCLANG_PATH", dir);
        }
        // The same sources give the same kernel, and no `+` for "not a tagged commit".
        make.env("KBUILD_BUILD_TIMESTAMP", "Thu Jan  1 00:00:00 UTC 2026")
            .env("KBUILD_BUILD_USER", "lazymap")
            .env("KBUILD_BUILD_HOST", "lazymap")
            .env("KBUILD_BUILD_VERSION", "1")
            .env("LOCALVERSION", "");
    }

    fn kbuild(&self) -> Command {
        let mut make = self.make(&self.tree_dir);
        let mut o = std::ffi::OsString::from("O=");
        o.push(&self.o);
        make.arg(o);
        make
    }

    /// Makes `.config` from tinyconfig, the fragment and the tests' needs, and checks that all of
    /// it came true. Done once per set of Kconfig files.
    fn configure(&self, tree: &Tree, commit: &str, whole: bool, step: &Step) -> Result<PathBuf> {
        step.detail("configure");
        let mut fragments = vec![self.options.root.join(FRAGMENT)];
        let tests = self.tree_dir.join("tools/testing/selftests").join(TARGET).join("config");
        fragments.extend(tests.exists().then_some(tests));
        let mut key = Key::default().text("recipe", RECIPE).text("kconfig", kconfig_files(tree, commit)?);
        for fragment in &fragments {
            key = key.file(fragment)?;
        }
        for (tool, version) in self.host.versions() {
            key = key.text(tool, version);
        }
        let kept = self.o.join("configs").join(key.finish());
        let config = self.o.join(".config");
        if !kept.exists() {
            fs::create_dir_all(&self.o).map_err(|e| Error::io("create", &self.o, e))?;
            let log = self.log("config");
            cmd::logged(self.kbuild().arg("tinyconfig"), &log, step)?;
            let mut merge = cmd::plain(self.tree_dir.join("scripts/kconfig/merge_config.sh"));
            merge.args(["-m", "-O"]).arg(&self.o).arg(&config).args(&fragments).current_dir(&self.tree_dir);
            cmd::logged(&mut merge, &log, step)?;
            cmd::logged(self.kbuild().arg("olddefconfig"), &log, step)?;
            let text = fs::read_to_string(&config).map_err(|e| Error::io("read", &config, e))?;
            // A test may need what only the whole series has.
            for fragment in fragments.iter().take(if whole { fragments.len() } else { 1 }) {
                came_true(fragment, &text)?;
            }
            stamp::write_whole(&kept, text)?;
        } else if fs::read(&config).ok() != fs::read(&kept).ok() {
            fs::copy(&kept, &config).map_err(|e| Error::io("write", &config, e))?;
        }
        Ok(kept)
    }

    fn image(&self, name: &str, step: &Step) -> Result<()> {
        if !self.o.join("vmlinux").exists() {
            step.expect_lines(FULL_BUILD_LINES);
        }
        cmd::logged(self.kbuild().args(["Image", "modules"]), &self.log(&format!("build-{name}")), step)
    }

    /// Builds the test modules against this kernel and installs the tests with the kernel's own
    /// kselftest rules; `tests` is the folder of ours in there.
    fn selftests(&self, name: &str, install: &Path, tests: &Path, step: &Step) -> Result<()> {
        step.detail("selftests");
        stamp::remove(install)?;
        let all = self.tree_dir.join("tools/testing/selftests");
        if !all.join(TARGET).join("Makefile").exists() {
            return Err(Error::could_not(format!(
                "the series brings no tools/testing/selftests/{TARGET}/Makefile; add it to selftests/"
            )));
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
        // The guest gets this folder alone; the tests look for their helpers there, too.
        let helpers = install.join("kselftest/ktap_helpers.sh");
        fs::copy(&helpers, tests.join("ktap_helpers.sh")).map_err(|e| Error::io("copy", &helpers, e))?;
        // kselftest leaves modules out without failing when it cannot build them.
        for (dir, ending) in [(tests.to_owned(), ".sh"), (tests.join("test_modules"), ".ko")] {
            let there = fs::read_dir(&dir)
                .is_ok_and(|entries| entries.flatten().any(|e| e.file_name().to_string_lossy().ends_with(ending)));
            if !there {
                return Err(Error::could_not(format!(
                    "the selftests of {name} installed no {ending} file into {}; see {}",
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

/// One hash over all Kconfig files and what tinyconfig is made of, at `commit`.
fn kconfig_files(tree: &Tree, commit: &str) -> Result<String> {
    let list = tree.repo.run(["ls-tree", "-r", commit])?;
    let mut key = Key::default();
    for line in list.lines() {
        let path = line.split_once('\t').map_or("", |(_, path)| path);
        let file = path.rsplit('/').next().unwrap_or(path);
        if file.starts_with("Kconfig")
            || path.starts_with("kernel/configs/tiny")
            || path.starts_with("scripts/kconfig/")
        {
            key = key.text("line", line);
        }
    }
    Ok(key.finish())
}

/// Checks that every line of a fragment is what the configuration says.
fn came_true(fragment: &Path, config: &str) -> Result<()> {
    let lines: std::collections::BTreeSet<&str> = config.lines().collect();
    let text = fs::read_to_string(fragment).map_err(|e| Error::io("read", fragment, e))?;
    for line in text.lines().map(str::trim) {
        let off = line
            .strip_prefix("# CONFIG_")
            .and_then(|l| l.strip_suffix(" is not set"))
            .or_else(|| line.strip_prefix("CONFIG_").and_then(|l| l.strip_suffix("=n")));
        let ok = match off {
            // An option that is off need not be mentioned at all.
            Some(name) => !config.lines().any(|l| l.starts_with(&format!("CONFIG_{name}="))),
            None if line.starts_with("CONFIG_") => lines.contains(line),
            None => true,
        };
        if !ok {
            return Err(Error::could_not(format!(
                "`{line}` of {} did not come true in the kernel's configuration: a dependency is missing or the \
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
    fn fragments_are_asserted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f.config");
        let config = "CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C=m\n";
        let check = |text: &str| {
            fs::write(&path, text).unwrap();
            came_true(&path, config).map_err(|e| e.message)
        };
        assert!(check("# a comment\nCONFIG_A=y\nCONFIG_B=n\n# CONFIG_D is not set\nCONFIG_C=m\n").is_ok());
        assert!(check("CONFIG_C=y\n").unwrap_err().contains("`CONFIG_C=y`"));
        assert!(check("# CONFIG_A is not set\n").unwrap_err().contains("CONFIG_A"));
        assert!(check("CONFIG_D=y\n").unwrap_err().contains("CONFIG_D"));
    }
}
