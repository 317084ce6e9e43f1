// SPDX-License-Identifier: GPL-2.0-only
//! What a test bot does with the kselftests of the series, checked without building a kernel: it merges
//! all kselftests' options into defconfig, builds the tests against `O=`, sets no variable in the guest, and
//! flattens the names of results. Each of these must end with the tests that need modules being run, or in
//! red.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use crate::build::kernel::{self, SELFTESTS};
use crate::ground::cmd;
use crate::ground::error::{Error, Result};
use crate::ground::files;
use crate::ground::progress::Step;
use crate::options::Options;
use crate::source::host::{self, Host};
use crate::source::tree::Tree;
use crate::trial::coverage;

/// A module that is built from nothing, to see whether it is installed.
const MADE_UP: &str = "made_up.ko";
/// A symbol that each kernel with the tests' abstractions exports; `kernel::kselftest`, mangled.
const SYMBOL: &str = "0x0\t_RNvNtCs_6kernel9kselftest\tvmlinux\tEXPORT_SYMBOL_GPL\t\n";

/// Checks `tip`, which gets checked out; a series without the tests has nothing to check.
///
/// # Errors
/// When something could not be tried at all.
pub fn check(
    tree: &mut Tree,
    tip: &str,
    options: &Options,
    result: &mut dyn FnMut(String, Result<String, String>),
) -> Result<()> {
    // Each test script needs it.
    if tree.repo.find(&format!("{tip}:{SELFTESTS}/functions.sh"))?.is_none() {
        return Ok(());
    }
    let host = host::prepare(options, true)?;
    tree.check_out(tip)?;
    let top = tree.repo.dir().to_owned();
    let tests = top.join(SELFTESTS);
    let step = Step::start("what a test bot does");
    step.detail("defconfig kselftest-merge");
    result("kselftest-merge keeps what the tests need".to_owned(), merged(&top, &host, options, &step)?);
    step.detail("kselftest-install");
    for (name, problem) in modules(&top)? {
        result(name, problem);
    }
    step.detail("test scripts");
    for (name, problem) in switches(&tests)? {
        result(name, problem);
    }
    result("results have different names inside and outside".to_owned(), names_differ(&tests)?);
    step.finish("done");
    Ok(())
}

/// Whether `make defconfig kselftest-merge` leaves every line of the tests' config.
fn merged(top: &Path, host: &Host, options: &Options, step: &Step) -> Result<Result<String, String>> {
    let o = options.place("bots");
    files::remove(&o)?;
    files::create_dir(&o)?;
    for target in ["defconfig", "kselftest-merge"] {
        let mut make = cmd::plain("make");
        make.arg("-C").arg(top).args(["-s", "ARCH=riscv"]);
        for (name, value) in host.variables() {
            make.arg(format!("{name}={value}"));
        }
        make.arg(format!("O={}", o.display())).arg(target);
        if let Some(dir) = &host.libclang {
            make.env("LIBCLANG_PATH", dir);
        }
        cmd::logged(&mut make, &options.out.join(format!("log/bots-{target}.log")), step)?;
    }
    let (config, wanted) =
        (files::read_text(&o.join(".config"))?, files::read_text(&top.join(SELFTESTS).join("config"))?);
    let has: BTreeSet<&str> = config.lines().collect();
    let lost: Vec<&str> = wanted.lines().filter(|l| l.starts_with("CONFIG_") && !has.contains(l)).collect();
    files::remove(&o)?;
    Ok(match lost.is_empty() {
        true => Ok(format!("{} options", wanted.lines().filter(|l| l.starts_with("CONFIG_")).count())),
        false => Err(format!("{} is gone; add what it depends on to selftests/config", lost.join(", "))),
    })
}

/// The rules for modules in kselftest's own Makefiles, tried on a folder that only looks like a built kernel.
fn modules(top: &Path) -> Result<Vec<(String, Result<String, String>)>> {
    let dir = files::scratch()?;
    let (o, install) = (dir.path().join("o"), dir.path().join("install"));
    let proof = dir.path().join("built");
    files::write_whole(&o.join(".config"), "CONFIG_MODULES=y\nCONFIG_RISCV=y\nCONFIG_RUST=y\n")?;
    files::write_whole(
        &o.join("Makefile"),
        // What is built must be there to be installed, whether or not a kernel was built in this tree before.
        format!(
            "modules:\n\t@echo $@ $(KBUILD_EXTMOD) >> {}; touch $(KBUILD_EXTMOD)/{MADE_UP}\nclean:\n",
            proof.display()
        ),
    )?;
    // No compiler: only the modules matter.
    let make = |more: &[&str]| -> Result<std::process::Output> {
        files::remove(&proof)?;
        files::remove(&install)?;
        let mut make = cmd::plain("make");
        make.arg("-C").arg(top.join("tools/testing/selftests")).args(["-s", "ARCH=riscv", "CC=true", "HOSTCC=true"]);
        make.arg(format!("O={}", o.display())).arg(format!("INSTALL_PATH={}", install.display())).args(more);
        make.env_remove("KDIR").env_remove("REQUIRE_MODULES").arg("install");
        make.output().map_err(|e| Error::could_not(format!("cannot run make: {e}; install the package make")))
    };
    let built = || fs::read_to_string(&proof).is_ok_and(|text| text.contains("riscv/lazy_map/test_modules"));
    // What the installed test of the modules' absence says.
    let absence = |exit: i32, word: &str| -> Result<Result<String, String>> {
        let script = install.join("riscv/test-modules.sh");
        let (code, said) = run(&script, None)?;
        Ok(if code == Some(exit) && said.contains(word) { Ok(String::new()) } else { Err(shown(code, &said)) })
    };
    let mut all = Vec::new();
    // Not built yet.
    let lazy_map = "TARGETS=riscv/lazy_map";
    for (more, exit, word, name) in [
        (
            "REQUIRE_MODULES=0",
            4,
            "# SKIP",
            "without a built kernel test-modules.sh alone says that modules are missing",
        ),
        ("REQUIRE_MODULES=1", 1, "not ok 1 ", "tests built with REQUIRE_MODULES=1 fail without their modules"),
    ] {
        let done = make(&["TARGETS=riscv", "RISCV_SUBTARGETS=lazy_map", more])?;
        let warned = String::from_utf8_lossy(&done.stderr).contains("the modules are left out");
        let problem = match () {
            () if built() => Err("they were built".to_owned()),
            () if !warned => Err("make does not warn".to_owned()),
            () => absence(exit, word)?,
        };
        all.push((name.to_owned(), problem));
    }
    // Built.
    files::write_whole(&o.join("Module.symvers"), SYMBOL)?;
    for targets in [lazy_map, "TARGETS=riscv"] {
        let done = make(&[targets, "RISCV_SUBTARGETS=lazy_map"])?;
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        let why = || said.lines().next_back().unwrap_or("make built no module").to_owned();
        let ok = done.status.success() && built();
        files::remove(&top.join(SELFTESTS).join("test_modules").join(MADE_UP))?;
        all.push((format!("{targets} builds the modules against O="), if ok { Ok(String::new()) } else { Err(why()) }));
    }
    Ok(all)
}

/// Runs a test script on this host, with one of the variables set or with none: its exit code and output.
fn run(script: &Path, variable: Option<&str>) -> Result<(Option<i32>, String)> {
    let mut sh = cmd::plain("sh");
    sh.arg(script).env_remove("ALLOW_CRASH").env_remove("REQUIRE_MODULES");
    if let Some(name) = variable {
        sh.env(name, "1");
    }
    let done = sh.output().map_err(|e| Error::could_not(format!("cannot run sh: {e}")))?;
    Ok((done.status.code(), String::from_utf8_lossy(&done.stdout).into_owned()))
}

fn shown(code: Option<i32>, said: &str) -> String {
    let code = code.map_or("no exit code".to_owned(), |code| format!("exit {code}"));
    format!("{code}: {}", said.trim().replace('\n', " | "))
}

/// What the scripts do when the kernel's command line or the environment asks for it, tried on this host with
/// a command line that is made up.
fn switches(tests: &Path) -> Result<Vec<(String, Result<String, String>)>> {
    // One folder with the scripts and the helpers, as kselftest installs them, but without modules.
    let dir = files::scratch()?;
    let helpers = tests.join("../../kselftest/ktap_helpers.sh");
    files::copy(&helpers, &dir.path().join("ktap_helpers.sh"))?;
    for path in files::list(tests)? {
        let name = path.file_name().unwrap_or_default();
        if name.to_string_lossy().ends_with(".sh") {
            files::copy(&path, &dir.path().join(name))?;
        }
    }
    let cmdline = dir.path().join("cmdline");
    let ask = |script: &str, words: &str, variable: Option<&str>| -> Result<(Option<i32>, String)> {
        files::write_whole(&cmdline, format!("console=ttyS0 {words} quiet\n"))?;
        let from = dir.path().join(script);
        let text = files::read_text(&from)?;
        let functions = dir.path().join("functions.sh");
        let common = files::read_text(&functions)?;
        let fake = |text: &str| text.replace("/proc/cmdline", &cmdline.display().to_string()).replace("$(id -u)", "0");
        let place = dir.path().join("try");
        files::write_whole(&place.join("functions.sh"), fake(&common))?;
        files::write_whole(&place.join(script), fake(&text))?;
        fs::copy(dir.path().join("ktap_helpers.sh"), place.join("ktap_helpers.sh"))
            .map_err(|e| Error::io("copy", &place, e))?;
        run(&place.join(script), variable)
    };
    let skip = Some(4);
    let mut all = Vec::new();
    let (crashy, missing) = ("can crash the machine", "is missing");
    let trial =
        |words: &str, variable: Option<&str>, exit: Option<i32>, word: &str| -> Result<Result<String, String>> {
            let (code, said) = ask("test-trace.sh", words, variable)?;
            Ok(if code == exit && said.contains(word) { Ok(String::new()) } else { Err(shown(code, &said)) })
        };
    let named = |name: &str, problem| (name.to_owned(), problem);
    all.push(named("a test that may crash skips by default", trial("lazy_map.allow_crash=0", None, skip, crashy)?));
    all.push(named("ALLOW_CRASH=1 runs it", trial("", Some("ALLOW_CRASH"), skip, missing)?));
    all.push(named("lazy_map.allow_crash=1 runs it", trial("lazy_map.allow_crash=1", None, skip, missing)?));
    let both = "lazy_map.allow_crash=1 lazy_map.require_modules=1";
    all.push(named(
        "lazy_map.require_modules=1 fails it without its module",
        trial(both, None, Some(1), "not ok 1 lazy_map_trace")?,
    ));
    let one = |words: &str, exit: Option<i32>, word: &str| -> Result<Result<String, String>> {
        let (code, said) = ask("test-modules.sh", words, None)?;
        let lines = said.lines().filter(|l| l.contains(word)).count();
        Ok(if code == exit && lines == 1 { Ok(String::new()) } else { Err(shown(code, &said)) })
    };
    all.push(named("missing modules are one line", one("", skip, "test modules are missing")?));
    all.push(named(
        "lazy_map.require_modules=1 makes it red",
        one("lazy_map.require_modules=1", Some(1), "not ok 1 ")?,
    ));
    Ok(all)
}

/// Whether each result that a script gives a module's run has a name that none of the module's cases has.
fn names_differ(tests: &Path) -> Result<Result<String, String>> {
    let mut cases: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for path in files::list(&tests.join("test_modules"))? {
        let text = match path.extension().and_then(|e| e.to_str()) {
            Some("rs" | "c") => files::read_text(&path)?,
            _ => continue,
        };
        let module = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        cases.insert(module, coverage::listed(&text).into_iter().collect());
    }
    let mut seen = 0;
    for path in files::list(tests)? {
        let name = files::name(&path);
        if !kernel::is_test(&name) {
            continue;
        }
        for line in files::read_text(&path)?.lines().filter_map(|l| l.trim().strip_prefix("run_module ")) {
            let mut words = line.split_whitespace();
            let (Some(outer), Some(module)) = (words.next(), words.next()) else { continue };
            let Some(inner) = cases.get(module).filter(|inner| !inner.is_empty()) else {
                return Ok(Err(format!("{name} runs {module}, whose cases cannot be read")));
            };
            if inner.contains(outer) {
                return Ok(Err(format!("{name} and a case of {module} are both called {outer}")));
            }
            seen += 1;
        }
    }
    Ok(match seen {
        0 => Err("no script runs a module".to_owned()),
        seen => Ok(format!("{seen} runs of modules")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_must_not_have_the_name_of_its_module_s_run() {
        let dir = tempfile::tempdir().unwrap();
        let ask = |outer: &str, cases: &[&str]| {
            files::write_whole(&dir.path().join("test-x.sh"), format!("run_module {outer} lazy_map_x \"$@\"\n"))
                .unwrap();
            let module = dir.path().join("test_modules/lazy_map_x.rs");
            let tests: String =
                cases.iter().map(|name| format!("    #[test]\n    fn {name}(test: &Test) {{}}\n")).collect();
            files::write_whole(&module, format!("#[kselftests]\nmod tests {{\n{tests}}}\n")).unwrap();
            names_differ(dir.path()).unwrap()
        };
        assert_eq!(ask("lazy_map_x", &["one", "two"]).unwrap(), "1 runs of modules");
        assert!(ask("two", &["one", "two"]).unwrap_err().contains("both called two"));
        assert!(ask("lazy_map_x", &[]).unwrap_err().contains("cannot be read"));
        files::remove(&dir.path().join("test_modules/lazy_map_x.rs")).unwrap();
        let module = dir.path().join("test_modules/lazy_map_x.c");
        files::write_whole(&module, "static struct {\n} cases[] = {\n\t{ \"one\", f },\n};\n").unwrap();
        assert!(names_differ(dir.path()).unwrap().is_ok());
        files::write_whole(&dir.path().join("test-x.sh"), "run_module one lazy_map_x\n").unwrap();
        assert!(names_differ(dir.path()).unwrap().unwrap_err().contains("both called one"));
    }
}
