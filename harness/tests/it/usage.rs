// SPDX-License-Identifier: GPL-2.0-only
//! Wrong usage ends with 64 and one line.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::common::{Lab, edit, said, write};

#[test]
fn wrong_usage_is_64() {
    let lab = Lab::new();
    let run = |args: &[&str]| said(lab.tool().args(args));
    run(&[]).fails(64, &["no verb", "--help"]);
    run(&["frobnicate"]).fails(64, &["frobnicate", "--help"]);
    run(&["demo", "--frob"]).fails(64, &["--frob", "--help"]);
    run(&["dmeo"]).fails(64, &["unrecognized subcommand 'dmeo'", "`demo`"]);
    run(&["demo", "--quite"]).fails(64, &["'--quite'", "`--quiet`"]);
    run(&["check", "--only", "hnut"]).fails(64, &["'hnut'", "`hunt`"]);
    run(&["torture", "--minutes", "0"]).fails(64, &["'0'", "--minutes"]);
    run(&["torture", "--seed", "1", "--resume"]).fails(64, &["--seed", "--resume"]);
    run(&["demo", "--jobs", "0"]).fails(64, &["'0'", "--jobs"]);
    run(&["series", "--ksrc", "/nowhere"]).fails(64, &["leave KSRC out"]);
    run(&["series-check", "--only", "26"]).fails(64, &["--build"]);
    run(&["series-check", "--build", "--only", "3-2"]).fails(64, &["'3-2'", "FIRST-LAST"]);
    run(&["series-check", "--build", "--only", "900"]).fails(64, &["--only 900", "no such part", "patches"]);
    run(&["series-check", "--build", "--only", "fixs"]).fails(64, &["--only fixs", "did you mean `fixes`"]);
    run(&["qemu", "--qemu", "9.2"]).fails(64, &["--qemu 9.2", "10.0 and 10.2"]);
    run(&["qemu", "--firmware", "1.7"]).fails(64, &["--firmware 1.7", "1.6 and 1.9"]);
    said(lab.tool().env("LAZYMAP_FIRMWARE", "/x").args(["qemu", "--firmware", "1.9"])).fails(64, &["LAZYMAP_FIRMWARE"]);
    said(lab.tool().env("BASE", "6.1").arg("demo")).fails(64, &["BASE=6.1", "for 7.3 only"]);
    said(lab.tool().env("LAZYMAP_OUT", "/tmp/a b").arg("demo")).fails(64, &["/tmp/a b", "OUT="]);
    said(lab.tool().env("LAZYMAP_OUT", "/dev/null").arg("demo")).fails(64, &["OUT=/dev/null", "not a folder"]);
    said(lab.tool().env("LAZYMAP_SLOW", "fast").arg("demo")).fails(64, &["fast", "0.1 to 100"]);
    run(&["--root", "/nowhere", "demo"]).fails(64, &["/nowhere/base.toml", "checkout"]);
    said(lab.tool().current_dir("/").arg("demo")).fails(64, &["not in a checkout", "--root"]);
    said(lab.tool().env("LAZYMAP_DISK_MIB", "many").args(["host", "--no-install"]))
        .fails(64, &["LAZYMAP_DISK_MIB=many"]);
}

#[test]
fn a_model_is_printed_as_qemu_takes_it() {
    let lab = Lab::new();
    let run = |args: &[&str]| said(lab.tool().arg("model").args(args));
    assert!(run(&[]).out.lines().any(|line| line == "stale\tx-cache-invalid=on"));
    assert_eq!(run(&["stale"]).out, "-M virt,aia=aplic-imsic -cpu rv64,x-cache-invalid=on -smp 4 -m 1024M\n");
    assert!(run(&["stale-sbi"]).out.starts_with("-M virt -cpu rv64,"));
    run(&["stael"]).fails(64, &["`stael`", "did you mean `stale`"]);
}

#[test]
fn what_a_hunt_cannot_be_about_is_64() {
    let lab = Lab::new();
    std::fs::create_dir_all(lab.repo().join("harness/scenarios")).unwrap();
    let run = |args: &[&str]| said(lab.tool().arg("hunt").args(args));
    run(&[]).fails(64, &["no kernel given", "--tree base", "--help"]);
    run(&["--tree", "elsewhere"]).fails(64, &["`elsewhere`", "base, series"]);
    run(&["--tree", "base", "--scenario", "nowhere"]).fails(64, &["`nowhere`"]);
    run(&["--tree", "base", "--kernel", "Image"]).fails(64, &["--kernel", "--help"]);
    run(&["--kernel", "/nowhere/Image"]).fails(64, &["/nowhere/Image: no such file"]);
    // Looked at before anything is downloaded: no tool is needed to tell what a file is not.
    let text = lab.dir.path().join("text");
    write(&text, "root:x:0:0:root:/root:/bin/sh\n");
    run(&["--kernel", text.to_str().unwrap()]).fails(64, &["is not a kernel", "0x38", "Image.gz"]);
    run(&["--kernel", lab.dir.path().to_str().unwrap()]).fails(64, &["cannot be read", "Image.gz"]);
    run(&["--vmlinux", "vmlinux"]).fails(64, &["--kernel"]);
    run(&["--tree", "base", "--model", "plain"]).fails(64, &["`plain`", "no hit is possible"]);
    run(&["--tree", "base", "--model", "meaner"]).fails(64, &["`meaner`"]);
    run(&["--tree", "base", "--harts", "0"]).fails(64, &["harts = 0"]);
    run(&["--tree", "base", "--cpu", "fast"]).fails(64, &["`fast`"]);
    run(&["--tree", "base", "--seconds", "0"]).fails(64, &["--seconds"]);
    run(&["--tree", "base", "--bios", "/nowhere"]).fails(64, &["/nowhere: no such file"]);
    run(&["--tree", "base", "--bios", "/"]).fails(64, &["--bios /: not a file"]);
    run(&["--tree", "base", "--drive", "/nowhere"]).fails(64, &["--drive /nowhere: cannot be read", "qcow2"]);
    run(&["--tree", "base", "--drive", "/"]).fails(64, &["--drive /: cannot be read"]);
    run(&["--tree", "base", "--drive", "/dev/null"]).fails(64, &["--drive /dev/null: is empty"]);
    run(&["--tree", "base", "--no-initrd"]).fails(64, &["--kernel"]);
    run(&["--kernel", text.to_str().unwrap(), "--no-initrd"]).fails(64, &["--no-initrd needs a disk", "--drive"]);
    run(&["--tree", "base", "--", "-device", "virtio-rng-pci", "-cpu", "max"]).fails(64, &["QEMU's -cpu", "--model"]);
    run(&["--tree", "base", "--model", "late", "--evict-in", "f"]).fails(64, &["x-cache-invalid=on", "`late`"]);
    let image = lab.dir.path().join("Image");
    let mut bytes = [0; 64];
    bytes[0x38..0x3c].copy_from_slice(b"RSC\x05");
    fs::write(&image, bytes).unwrap();
    run(&["--kernel", image.to_str().unwrap(), "--evict-in", "f"]).fails(64, &["--evict-in needs --vmlinux"]);
    run(&["--tree", "base", "--", "--smp", "2"]).fails(64, &["QEMU's -smp", "--harts"]);
    run(&["--tree", "base", "-device", "virtio-rng-pci"]).fails(64, &["-d", "`-- -d`"]);
    run(&["--debian", "../x"]).fails(64, &["--debian ../x", "sid"]);
    run(&["--debian", "sid", "--models", "stale,plain"]).fails(64, &["`plain`", "--models"]);
    run(&["--debian", "--models", "meaner"]).fails(64, &["`meaner`"]);
    run(&["--models", "stale"]).fails(64, &["no kernel given", "--debian"]);
    run(&["--tree", "base", "--models", "stale,meaner"]).fails(64, &["`meaner`"]);
    run(&["--tree", "base", "--models", "stale,plain"]).fails(64, &["`plain`", "--models"]);
    run(&["--tree", "elsewhere", "--models", "stale"]).fails(64, &["`elsewhere`"]);
    run(&["--tree", "base", "--models", "stale", "--model", "valid"]).fails(64, &["--models", "--model"]);
    run(&["--tree", "base", "--models", "stale", "--html", "x.html"]).fails(64, &["--models", "--html"]);
    run(&["--tree", "base", "--qemu", "10.2", "--replay", "1"]).fails(64, &["--replay", "QEMU 10.2 does not repeat"]);
    run(&["--debian", "--tree", "base"]).fails(64, &["--debian", "--tree"]);
}

#[test]
fn a_board_needs_the_folder_of_a_build() {
    let lab = Lab::new();
    let run = |path: &str| said(lab.tool().arg("board").arg("--build").arg(lab.dir.path().join(path)));
    run("nowhere").fails(64, &["nowhere", "cannot be read", "was built"]);
    run("linux").fails(64, &["linux has no .config"]);
    write(&lab.linux().join(".config"), "CONFIG_RUST=y\nCONFIG_RUSTC_VERSION_TEXT=\"rustc 1.95.0 (x)\"\n");
    run("linux").fails(64, &["no Module.symvers", "not built"]);
    write(&lab.linux().join("Module.symvers"), "");
    run("linux").fails(64, &["which has no tools/testing/selftests/riscv/lazy_map"]);
    write(&lab.linux().join("tools/testing/selftests/riscv/lazy_map/Makefile"), "");
    run("linux").fails(2, &["built with rustc 1.95.0", "1.96.0", "LAZYMAP_RUSTC"]);
    write(&lab.linux().join(".config"), "CONFIG_RUST=n\n");
    run("linux").fails(2, &["built without rustc", "CONFIG_RUST"]);
}

#[test]
fn a_distribution_needs_machines_and_a_kernel_with_its_modules() {
    let lab = Lab::new();
    let run = |args: &[&str]| said(lab.tool().arg("distribution").args(args));
    run(&["--model", "plain,meaner"]).fails(64, &["`meaner`"]);
    run(&["--harts", "0"]).fails(64, &["harts = 0"]);
    run(&["--memory", "64"]).fails(64, &["--memory"]);
    run(&["--suite", "../x"]).fails(64, &["--suite ../x", "lower-case"]);
    run(&["--tree", "elsewhere"]).fails(64, &["'elsewhere'"]);
    run(&["--kernel", "Image"]).fails(64, &["--modules"]);
    let text = lab.dir.path().join("text");
    write(&text, "root:x:0:0:root:/root:/bin/sh\n");
    run(&["--kernel", text.to_str().unwrap(), "--modules", "."]).fails(64, &["is not a kernel"]);
}

#[test]
fn quilt_needs_a_source_package_of_this_kernel() {
    let lab = Lab::new();
    let run = |args: &[&str]| said(lab.tool().arg("quilt").arg(lab.dir.path().join("source")).args(args));
    run(&[]).fails(64, &["is not an unpacked source package", "apt-get source linux"]);
    write(&lab.dir.path().join("source/debian/changelog"), "linux (6.12.1-1) sid; urgency=medium\n");
    write(&lab.dir.path().join("source/debian/source/format"), "3.0 (quilt)\n");
    write(&lab.dir.path().join("source/debian/patches/series"), "");
    run(&[]).fails(64, &["is linux 6.12.1-1", "for 7.3", "--base"]);
    write(&lab.dir.path().join("source/debian/changelog"), "linux (7.3.4-1) sid; urgency=medium\n");
    run(&["--base", "all"]).fails(64, &["BASE=all is for series and series-check"]);
    run(&["--topic", "fixse"]).fails(64, &["no topic `fixse`", "`fixes`"]);
}

#[test]
fn a_variable_that_is_set_but_empty_counts_as_not_set() {
    let lab = Lab::new();
    let mut tool = lab.tool();
    tool.env("KSRC", "").env("BASE", "").env("LAZYMAP_OUT", "").args(["host", "--no-install"]);
    said(&mut tool).passes();
    assert!(lab.repo().join("out/lock").exists(), "the default is used");
}

#[test]
fn help_and_version_are_no_errors() {
    let lab = Lab::new();
    let help = said(lab.tool().arg("--help"));
    help.passes();
    assert!(help.out.contains("series-check") && help.out.contains("Exit codes: 0"), "{help:?}");
    let version = said(lab.tool().arg("--version"));
    version.passes();
    assert!(version.out.starts_with(concat!("lazymap ", env!("CARGO_PKG_VERSION"))), "{version:?}");
    said(lab.tool().arg("help")).passes();
}

#[test]
fn a_dry_run_of_the_demo_shows_the_boots_and_makes_nothing() {
    let lab = Lab::new();
    let run = |args: &[&str]| said(lab.tool().args(["demo", "--dry-run"]).args(args));
    let all = run(&[]);
    all.passes();
    let stale = "preventive-stale: test-ipi.sh: pass, test-trace.sh: stack overflow\n  boot ";
    let boots = all.out.lines().filter(|line| line.starts_with("  boot ")).count();
    assert!(all.out.contains(stale) && boots == 5, "{all:?}");
    for word in ["kernel/control-preventive/Image", "kernel/series/Image", "rv64,x-cache-invalid=on"] {
        assert!(all.out.contains(word), "{word}: {all:?}");
    }
    assert!(!lab.out().exists(), "not even the folder");
}

#[test]
fn help_fits_into_80_columns() {
    let lab = Lab::new();
    let help = |verb: &[&str]| said(lab.tool().args(verb).arg("--help")).out;
    let top = help(&[]);
    let (_, verbs) = top.split_once("Commands:\n").unwrap();
    let verbs = verbs.lines().take_while(|line| !line.is_empty()).filter_map(|line| line.strip_prefix("  "));
    let verbs: Vec<&str> = verbs.filter(|line| !line.starts_with(' ')).filter_map(|l| l.split(' ').next()).collect();
    assert!(verbs.len() > 20 && verbs.contains(&"hunt"), "{verbs:?}");
    for verb in verbs.into_iter().filter(|verb| *verb != "help") {
        let text = help(&[verb]);
        assert!(text.contains("Usage: "), "{verb}: {text}");
        let wide = text.lines().find(|line| line.chars().count() > 80);
        assert_eq!(wide, None, "{verb}");
    }
    assert_eq!(top.lines().find(|line| line.chars().count() > 80), None);
}

#[test]
fn a_broken_base_file_names_the_line() {
    let lab = Lab::new();
    edit(&lab.repo().join("base.toml"), "version = \"10.0\"\n", "version = \"10.0\"\nnonsense = 1\n");
    let text = std::fs::read_to_string(lab.repo().join("base.toml")).unwrap();
    let line = text.lines().position(|l| l.starts_with("nonsense")).unwrap() + 1;
    said(lab.tool().arg("demo")).fails(2, &[&format!("base.toml:{line}:"), "nonsense"]);
    edit(&lab.repo().join("base.toml"), "nonsense = 1\n", "");
    edit(&lab.repo().join("base.toml"), "version = \"7.3\"\n", "");
    said(lab.tool().arg("demo")).fails(2, &["base.toml:", "version"]);
}

/// The exit codes that `git bisect run` understands.
#[test]
fn a_bisection_is_told_what_cannot_be_tested() {
    let lab = Lab::new();
    let code = |args: &[&str]| said(lab.tool().args(args)).code;
    assert_eq!(code(&["demo", "--frob", "--bisect"]), Some(128));
    assert_eq!(code(&["--bisect", "frobnicate"]), Some(128));
    let missing = |args: &[&str]| said(lab.tool().env("KSRC", "/nowhere").args(args)).code;
    assert_eq!(missing(&["kernels"]), Some(64));
    fs::remove_dir_all(lab.patches()).unwrap();
    let broken = |args: &[&str]| said(lab.tool().env("KSRC", lab.linux()).args(args)).code;
    assert_eq!((broken(&["kernels"]), broken(&["kernels", "--bisect"])), (Some(2), Some(125)));
}

/// make refuses variables that a target does not take, before anything is built or run.
#[test]
fn make_takes_no_variable_that_it_does_not_know() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let make = |args: &[&str]| {
        let mut command = Command::new("make");
        command.arg("-n").args(args).current_dir(root);
        ["MAKEFLAGS", "MAKELEVEL", "MFLAGS"].iter().for_each(|name| {
            command.env_remove(name);
        });
        let done = command.output().unwrap();
        assert!(done.status.success(), "{done:?}");
        String::from_utf8_lossy(&done.stdout).into_owned()
    };
    for wrong in [
        ["run", "SCENARIOS=sv39"],
        ["check", "FULL=1"],
        ["demo", "TIER=ci"],
        ["controls", "SCENARIO=x"],
        ["demo", "LAZYMAP_SILENT=3"],
        ["clean", "ALL=1"],
    ] {
        let text = make(&wrong);
        let name = wrong[1].split('=').next().unwrap();
        assert!(text.contains(&format!("make {} does not take {name};", wrong[0])), "{text}");
        assert!(text.contains("exit 64") && !text.contains("harness/lazymap"), "{text}");
    }
    for (right, line) in [
        (&["run", "SCENARIO=sv39 lockdep", "LAZYMAP_SILENCE=9"][..], "harness/lazymap run sv39 lockdep"),
        (&["check", "TIER=ci", "SHARD=1/2"], "check --tier ci"),
        (&["cost", "FULL=1", "KSRC=/x", "OUT=/y"], "cost --full"),
        (&["demo", "ARGS=--junit x.xml", "LLVM=-22", "LAZYMAP_SLOW=2"], "demo --junit x.xml"),
        (&["series-check", "BUILD=1", "BASE=all"], "series-check --build"),
        (&["hunt", "HUNT=--tree series"], "hunt --tree series"),
        (&["torture", "SCENARIO=many", "MINUTES=5", "SEED=1"], "torture many --minutes 5 --seed 1"),
    ] {
        let text = make(right);
        assert!(text.contains(line), "{right:?}: {text}");
    }
}
