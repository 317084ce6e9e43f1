// SPDX-License-Identifier: GPL-2.0-only
//! KUnit's suites of the kernel crate, built and booted by the kernel's own `kunit.py`: its command in
//! Documentation/rust/testing.rst, with the options that `rust/kernel/.kunitconfig` lists.

use std::env;
use std::os::unix::fs::symlink;
use std::path::Path;

use serde::Deserialize;

use super::kernel::{self, Builder};
use crate::boot::reproduce::quote;
use crate::ground::cmd::{self, Ended};
use crate::ground::error::{Error, Result};
use crate::ground::files;
use crate::ground::progress::Step;
use crate::options::Options;
use crate::source::host;

/// The program, in the kernel tree.
const KUNIT_PY: &str = "tools/testing/kunit/kunit.py";
/// Where the list of options is, in the kernel tree.
const SUITES: &str = "rust/kernel";
/// `kunit.py`'s description of the machine whose harts cache invalid translations, in the repository.
const STALE: &str = "harness/kunit-riscv.py";
/// What `kunit.py` calls that machine.
const RISCV_QEMU: &str = "qemu-system-riscv64";
/// The longest that a kernel may take for all of its tests, in seconds: each instruction is emulated.
const LIMIT: u64 = 900;
/// CPUs of each machine.
pub const CPUS: u32 = 4;

/// An architecture, as `kunit.py --arch` calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Arch {
    Arm64,
    Riscv,
    #[serde(rename = "x86_64")]
    X86,
}

impl Arch {
    pub fn name(self) -> &'static str {
        match self {
            Self::Arm64 => "arm64",
            Self::Riscv => "riscv",
            Self::X86 => "x86_64",
        }
    }

    /// The emulator and the distribution's package with it; that of riscv is ours.
    fn machine(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Arm64 => Some(("qemu-system-aarch64", "qemu-system-arm")),
            Self::Riscv => None,
            Self::X86 => Some(("qemu-system-x86_64", "qemu-system-x86")),
        }
    }

    /// Options of suites that only this architecture has. `kunit.py` refuses those that do not come true.
    fn options(self) -> &'static [&'static str] {
        match self {
            Self::Riscv => &["CONFIG_RUST_EXECMEM_KUNIT_TEST=y"],
            _ => &[],
        }
    }
}

/// The result of a run of `kunit.py`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tested {
    /// Nothing was tried: why.
    Skipped(String),
    /// No kernel was booted: why.
    NotBooted(String),
    Booted {
        /// What the kernel printed.
        console: String,
        /// Whether `kunit.py` says that no test failed.
        well: bool,
    },
}

/// Builds the kernel at `commit` for an architecture, with suites and documentation examples, and boots it. On riscv
/// that is on `qemu` with `firmware`.
///
/// # Errors
/// When the commit cannot be checked out, or `kunit.py` cannot be run at all.
pub fn run(on: Builder<'_>, qemu: &Path, firmware: &Path, commit: &str, arch: Arch) -> Result<Tested> {
    let Builder { tree, host, options } = on;
    if let Some((program, package)) = arch.machine()
        && let Err(why) = host::program(options, program, package)
    {
        return Ok(Tested::Skipped(why));
    }
    let step = Step::start(format!("KUnit on {}", arch.name()));
    tree.check_out(commit)?;
    let source = tree.repo.dir();
    if !source.join(SUITES).join(".kunitconfig").is_file() {
        step.finish("nothing to do");
        return Ok(Tested::Skipped(format!("this kernel has no {SUITES}/.kunitconfig")));
    }
    let place = options.place("kunit");
    let (dir, bin) = (place.join(arch.name()), place.join("bin"));
    for folder in [&dir, &bin] {
        files::create_dir(folder)?;
    }
    match arch.machine().and_then(|(name, _)| Some((name, host::in_path(name)?))) {
        Some((name, program)) => {
            let script = bin.join(name);
            files::write_whole(&script, emulating(&program))?;
            files::make_executable(&script)?;
        }
        None => {
            // The user's QEMU may have another name.
            let link = bin.join(RISCV_QEMU);
            files::remove(&link)?;
            symlink(qemu, &link).map_err(|e| Error::io("create", &link, e))?;
        }
    }
    // What an earlier run has left would be taken for the result of this one.
    let console = dir.join("test.log");
    files::remove(&console)?;

    let mut variables = host.variables();
    if host.ccache {
        variables.push(("CC", format!("ccache {}", host.clang)));
    }
    let path = env::join_paths([bin].into_iter().chain(env::split_paths(&host.path()))).unwrap_or_default();
    let mut command = cmd::plain("python3");
    command.arg(KUNIT_PY).args(arguments(options, arch, &variables, &dir)).current_dir(source);
    kernel::environment(&mut command, host, options);
    command.env("PATH", path).env("LAZYMAP_FIRMWARE", firmware);
    let log = options.out.join(format!("log/kunit-{}.log", arch.name()));
    let ended = cmd::captured(&mut command, &log, &step)?;
    if !console.exists() {
        step.finish("not booted");
        let what = match ended {
            Ended::Well => "kunit.py booted nothing".to_owned(),
            Ended::Badly { what, .. } => what,
        };
        return Ok(Tested::NotBooted(format!("{what}; whole output in {}", log.display())));
    }
    let console = files::read_lossy(&console)?;
    let well = matches!(ended, Ended::Well);
    step.finish(if well { "passed" } else { "failed" });
    Ok(Tested::Booted { console, well })
}

/// A script that starts QEMU without the host's own virtualization. `kunit.py` prefers that, and where it is there and
/// does not work, no kernel boots.
fn emulating(program: &Path) -> String {
    format!(
        "#!/bin/sh\nfor word; do\n\tshift\n\tcase $word in\n\tkvm | hvf) word=tcg ;;\n\tesac\n\t\
         set -- \"$@\" \"$word\"\ndone\nexec {} \"$@\"\n",
        quote(program)
    )
}

/// What [`run`] would run, for people.
pub fn planned(options: &Options, arch: Arch) -> String {
    let dir = options.place("kunit").join(arch.name());
    let words = arguments(options, arch, &[("LLVM", "1".to_owned())], &dir);
    [KUNIT_PY.to_owned()].into_iter().chain(words.iter().map(quote)).collect::<Vec<_>>().join(" ")
}

/// The arguments of `kunit.py`, given what Kbuild is given.
fn arguments(options: &Options, arch: Arch, variables: &[(&str, String)], dir: &Path) -> Vec<String> {
    let mut all = vec![
        "run".to_owned(),
        format!("--arch={}", arch.name()),
        format!("--kunitconfig={SUITES}"),
        format!("--build_dir={}", dir.display()),
        format!("--jobs={}", options.jobs),
        format!("--timeout={LIMIT}"),
    ];
    all.extend(variables.iter().map(|(name, value)| format!("--make_options={name}={value}")));
    all.extend(arch.options().iter().map(|option| format!("--kconfig_add={option}")));
    all.push(match arch.machine() {
        Some(_) => format!("--qemu_args=-smp {CPUS}"),
        None => format!("--qemu_config={}", options.root.join(STALE).display()),
    });
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_s_own_virtualization_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        let script = dir.path().join("qemu");
        files::write_whole(&script, emulating(Path::new("/bin/echo"))).unwrap();
        let said =
            cmd::output(cmd::plain("sh").arg(&script).args(["-accel", "kvm", "-accel", "tcg", "-append", "a  b"]));
        assert_eq!(said.unwrap().trim_end(), "-accel tcg -accel tcg -append a  b");
    }
}
