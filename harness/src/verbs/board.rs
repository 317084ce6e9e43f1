// SPDX-License-Identifier: GPL-2.0-only
//! `lazymap board`: the tests as an archive for a board, built for a kernel that was built elsewhere.

use std::fs;
use std::path::{Path, PathBuf};

use super::bundle::pack;
use crate::build::kernel::{Config, SELFTESTS, TARGET};
use crate::build::workbench::Lab;
use crate::ground::cmd;
use crate::ground::error::{Error, Result};
use crate::ground::files;
use crate::ground::progress::Step;
use crate::options::Options;
use crate::source::host::{self, Host};

/// The archive's only folder.
const NAME: &str = "kselftest";

/// Writes the archive, as `.tar.gz`: for the kernel that was built in the folder `build`, or for the series'
/// own. Returns where.
///
/// # Errors
/// When `build` is not a finished build of a kernel with the series (exit code 64), was built with another
/// rustc than this host's, or the tests cannot be built.
pub fn run(options: &Options, build: Option<&Path>, output: Option<&Path>) -> Result<PathBuf> {
    let place = options.place("board");
    files::remove(&place)?;
    let install = place.join(NAME);
    match build {
        Some(build) => install_from(options, build, &install)?,
        None => {
            let kernel = Lab::for_kernels(options)?.kernel(&Config::default())?;
            // Two levels up is what kselftest's own runner starts from.
            let from = kernel.selftests.ancestors().nth(2).unwrap_or(&kernel.selftests);
            files::copy_tree(from, &install)?;
        }
    }
    let archive = output.map_or_else(|| place.join(format!("{NAME}.tar.gz")), Path::to_path_buf);
    pack(&place, NAME, &archive, "gzip")?;
    Ok(archive)
}

/// Installs the tests for the kernel in `build`.
fn install_from(options: &Options, build: &Path, install: &Path) -> Result<()> {
    let show = build.display();
    let wrong =
        |why: &str| Error::usage(format!("{show} {why}; name the folder in which a kernel with the series was built"));
    // With O= there is a link to the source, otherwise both are one.
    let source = fs::canonicalize(build.join("source"))
        .or_else(|_| fs::canonicalize(build))
        .map_err(|e| wrong(&format!("cannot be read: {e}")))?;
    let build = fs::canonicalize(build).map_err(|e| wrong(&format!("cannot be read: {e}")))?;
    let config = fs::read_to_string(build.join(".config")).map_err(|_| wrong("has no .config"))?;
    if !build.join("Module.symvers").is_file() {
        return Err(wrong("has no Module.symvers: the kernel is configured, but not built"));
    }
    if !source.join(SELFTESTS).join("Makefile").is_file() {
        return Err(wrong(&format!("was built from {}, which has no {SELFTESTS}", source.display())));
    }
    let host = host::prepare(options, true)?;
    same_rustc(&config, &host).map_err(|why| Error::could_not(format!("{show}: {why}")))?;
    let step = Step::start("build the tests");
    let mut make = cmd::plain("make");
    make.arg("-C").arg(&source).args(["ARCH=riscv", &format!("LLVM={}", host.llvm), "REQUIRE_MODULES=1"]);
    for (variable, value) in [("O", &build), ("KDIR", &build), ("INSTALL_PATH", &install.to_path_buf())] {
        make.arg(format!("{variable}={}", value.display()));
    }
    // kselftest clears MAKEFLAGS: RUSTC= would not get through.
    make.env("PATH", host.path()).arg(format!("TARGETS={TARGET}")).arg("kselftest-install");
    let log = options.out.join("log/board.log");
    cmd::logged(&mut make, &log, &step)?;
    let modules = fs::read_dir(install.join(TARGET).join("test_modules"))
        .map_or(0, |all| all.flatten().filter(|e| e.path().extension().is_some_and(|e| e == "ko")).count());
    if modules == 0 {
        return Err(Error::could_not(format!(
            "no test module was built for {show}: its kernel needs CONFIG_RUST and CONFIG_RUST_KSELFTEST_SUPPORT; see {}",
            log.display()
        )));
    }
    step.finish(&format!("{modules} modules"));
    Ok(())
}

/// Whether the kernel with this `.config` was built with the host's rustc: crates of two versions do not mix.
fn same_rustc(config: &str, host: &Host) -> Result<(), String> {
    let ours = host.versions().get("rustc").map_or("", String::as_str);
    let text = config.lines().find_map(|l| l.strip_prefix("CONFIG_RUSTC_VERSION_TEXT=\"rustc "));
    match text.and_then(|text| text.split([' ', '"']).next()) {
        Some(theirs) if theirs == ours => Ok(()),
        Some(theirs) => Err(format!(
            "the kernel was built with rustc {theirs}, and this host's is {ours} ({}); name the other one in LAZYMAP_RUSTC",
            host.rustc.display()
        )),
        None => {
            Err("the kernel was built without rustc; it needs CONFIG_RUST and CONFIG_RUST_KSELFTEST_SUPPORT".to_owned())
        }
    }
}
