// SPDX-License-Identifier: GPL-2.0-only
//! Scenario files: what they may say, and what is made of a console that is not what they say.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::common::{Lab, Said, options, said, write};
use lazymap::boot::machine::Irq;
use lazymap::build::kernel::Compiler;
use lazymap::build::kunit::Arch;
use lazymap::build::workbench::Workbench;
use lazymap::trial::expect::Expect;
use lazymap::trial::plan::Trial;
use lazymap::trial::scenario::{self, Kind, Scenario, Tier, Which};

const DEFAULT: &str = "description = \"d\"\ntier = \"quick\"\n[machine]\nmodel = \"stale\"\n";

/// A repository with the scenario `default`, and `text` as the scenario `x`.
fn lab(text: &str) -> Lab {
    let lab = Lab::without_kernel();
    for test in ["test-ipi.sh", "test-trace.sh"] {
        write(&lab.repo().join("selftests").join(test), "");
    }
    write(&lab.repo().join("harness/scenarios/default.toml"), DEFAULT);
    write(&lab.repo().join("harness/scenarios/x.toml"), text);
    lab
}

fn run(lab: &Lab, args: &[&str]) -> Said {
    said(lab.tool().arg("run").args(args))
}

fn load(text: &str) -> Scenario {
    scenario::load(&lab(text).repo()).unwrap().remove("x").unwrap()
}

fn seat(scenario: &Scenario) -> &Trial {
    match &scenario.kind {
        Kind::Boot(seat) => seat,
        Kind::Compile { .. } | Kind::Kunit(_) => panic!("{} boots nothing", scenario.name),
    }
}

fn tests(trial: &Trial) -> Vec<&str> {
    trial.tests.iter().map(|(test, _)| test.as_str()).collect()
}

fn names(scenarios: &[Scenario]) -> Vec<&str> {
    scenarios.iter().map(|s| s.name.as_str()).collect()
}

#[test]
fn the_scenarios_of_the_project() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let all = scenario::load(root).unwrap();
    let boots: Vec<&str> = all.values().filter(|s| s.boots()).map(|s| s.name.as_str()).collect();
    assert_eq!(
        boots,
        [
            "absent",
            "access",
            "bpf-arena",
            "cip-453",
            "cpus-stale-4",
            "cpus-stale-max-4",
            "cpus-stale-rva23s64-4",
            "cpus-stale-sifive-u54-4",
            "debian",
            "debian-efi",
            "debian-gcc",
            "debian-windows-window-1-4",
            "debian-windows-window-2-4",
            "debian-windows-window-3-4",
            "debian-windows-window-4-4",
            "default",
            "defconfig-stale-4",
            "defconfig-window-1-4",
            "defconfig-window-2-4",
            "defconfig-window-3-4",
            "defconfig-window-4-4",
            "distribution",
            "fedora-debug-absent-sbi-4",
            "fedora-debug-stale-sbi-4",
            "hardened-stale-4",
            "hardened-window-3-4",
            "hotplug",
            "kasan-vmalloc",
            "kcov",
            "kdump",
            "kexec",
            "kfence",
            "kvm",
            "kvm-guest",
            "late",
            "late-store",
            "line",
            "lockdep",
            "lto",
            "many",
            "matrix-plain-16",
            "matrix-plain-4",
            "matrix-plain-sbi-16",
            "matrix-plain-sbi-4",
            "matrix-stale-16",
            "matrix-stale-4",
            "matrix-stale-sbi-16",
            "matrix-stale-sbi-4",
            "matrix-up-plain-1",
            "matrix-up-plain-sbi-1",
            "matrix-up-stale-1",
            "matrix-up-stale-sbi-1",
            "no-vmap-stack",
            "nohz-full",
            "opensbi-1-9",
            "plain",
            "random",
            "reload",
            "rt",
            "sanitizers",
            "sbi-fences",
            "server",
            "server-hotplug-stale-4",
            "server-hotplug-stale-sbi-4",
            "sv39",
            "sv57",
            "torture",
            "tracers",
            "up",
            "valid",
            "valid-all",
            "vmemmap",
            "window-1",
            "window-2",
            "window-3",
            "window-4"
        ]
    );
    let others: Vec<&str> = all.values().filter(|s| !s.boots()).map(|s| s.name.as_str()).collect();
    assert_eq!(others, ["gcc", "kunit", "no-smp", "nommu", "nommu-gcc", "rv32", "rv32-gcc"]);
    assert_eq!(all["kunit"].tier, Tier::Full);
    let harts = |name: &str| seat(&all[name]).machine.harts;
    assert_eq!((harts("up"), harts("default"), harts("many")), (1, 4, 72));
    // A scenario that shows nothing of what it is called after would be another `default`.
    for scenario in all.values().filter(|s| s.boots() && !s.config.lines.is_empty()) {
        let shown = !seat(scenario).require.is_empty() || scenario.name == "no-vmap-stack";
        assert!(shown, "{} requires nothing of its console", scenario.name);
    }
    // On another machine nothing can be seen, which is what `plain` shows.
    let other = |s: &&Scenario| s.boots() && !seat(s).machine.model.stale;
    assert!(all.values().filter(other).all(|s| s.family.starts_with("matrix") || s.name == "plain"));
    let met: Vec<&str> = all.values().filter(|s| s.boots() && seat(s).met.is_some()).map(|s| &*s.name).collect();
    assert_eq!(met, ["access", "default", "late"]);
}

#[test]
fn all_that_a_file_may_say() {
    let x = load(
        "description = \"d\"\nconfig = \"\"\"\n# why\nCONFIG_A=y\n\n# CONFIG_B is not set\n\"\"\"\n\
         append = \"a=1 b\"\ntests = [\"test-trace.sh\"]\nrequire = [\"^x: [0-9]+$\"]\n\
         [machine]\nmodel = \"stale\"\ncpu = \"svvptc=off\"\ncore = \"max\"\nirq = \"sbi\"\nharts = 72\n\
         memory = 4096\nicount = true\n[limits]\nsilence = 100\ntotal = 1000\n",
    );
    assert!(x.tier == Tier::Full && x.boots());
    assert_eq!((x.config.name.as_str(), x.config.lines.as_str()), ("x", "CONFIG_A=y\n# CONFIG_B is not set\n"));
    let seat = seat(&x);
    assert_eq!(tests(seat), ["test-trace.sh"]);
    let machine = &seat.machine;
    assert_eq!((machine.irq, machine.harts, machine.memory_mib), (Irq::Sbi, 72, 4096));
    assert!(machine.arguments().ends_with(&["-icount".to_owned(), "shift=0,sleep=off".to_owned()]));
    assert_eq!(machine.name(), "stale-max-sbi");
    assert_eq!(machine.cpu(), "max,x-cache-invalid=on,svvptc=off");
    let (trial, bench) = (seat, Workbench::planned(&options("/out".into())));
    let limits = trial.limits(&bench);
    assert_eq!((limits.silence, limits.total), (Duration::from_secs(100), Duration::from_secs(1000)));
    assert_eq!((trial.name.as_str(), trial.kernel.as_str(), trial.scenario.as_deref()), ("x", "series", Some("x")));
    assert!(matches!(&trial.tests[..], [(test, Expect::Survive)] if test == "test-trace.sh"));
    assert_eq!(trial.require.len(), 1);
    // The guest ends a test before the machine is taken for dead.
    assert_eq!(trial.command_line(&bench), "a=1 b lazymap.timeout=85 lazymap.tests=test-trace.sh");
    // All tests if none is named, and the kernel that everybody has.
    let plain = load(DEFAULT);
    assert_eq!((self::seat(&plain).tests.len(), plain.config.name.as_str(), plain.tier), (2, "", Tier::Quick));
    let rest = load(&format!("except = [\"test-ipi.sh\"]\n{DEFAULT}"));
    assert_eq!(tests(self::seat(&rest)), ["test-trace.sh"]);
    let compile =
        load("description = \"d\"\nconfig = \"CONFIG_A=y\"\n[compile]\nfolders = [\"mm/\"]\ncompiler = \"gcc\"\n");
    assert!(compile.config.standalone && !compile.boots());
    assert_eq!(compile.config.compiler, Compiler::Gcc);
    assert!(matches!(compile.kind, Kind::Compile { folders } if folders == ["mm/"]));
    let other = load(&format!("firmware = \"1.9\"\n{DEFAULT}"));
    assert_eq!(self::seat(&other).firmware.as_deref(), Some("1.9"));
    // The same lines give another kernel with another compiler.
    let gcc = load(&format!("compiler = \"gcc\"\n{DEFAULT}"));
    assert_eq!((gcc.config.compiler, gcc.config.name.as_str(), gcc.config.lines.as_str()), (Compiler::Gcc, "x", ""));
    // So does another start, also without any line.
    let own = load(&format!("defconfig = true\n{DEFAULT}"));
    assert_eq!((own.config.defconfig, own.config.name.as_str()), (true, "x"));
    let kunit = load("description = \"d\"\n[kunit]\narch = [\"riscv\", \"x86_64\", \"arm64\"]\n");
    assert!(!kunit.boots() && kunit.trial().is_none());
    assert!(matches!(&kunit.kind, Kind::Kunit(archs) if archs == &[Arch::Riscv, Arch::X86, Arch::Arm64]));
}

#[test]
fn a_wrong_file_is_one_line_and_64() {
    let machine = "description = \"d\"\n[machine]\nmodel = \"stale\"\n";
    for (text, words) in [
        ("description = \"d\"\nspeed = 1\n", vec!["x.toml:2:", "speed"]),
        ("tier = \"quick\"\n[machine]\nmodel = \"stale\"\n", vec!["x.toml:1:", "description"]),
        ("description = \"\"\n[machine]\nmodel = \"stale\"\n", vec!["description must be one line"]),
        ("description = \"d\"\n", vec!["none of machine, compile and kunit"]),
        (&format!("{machine}[compile]\nfolders = [\"mm/\"]\n"), vec!["several of machine, compile and kunit"]),
        (&format!("{machine}colour = 1\n"), vec!["x.toml:4:", "colour"]),
        ("description = \"d\"\n[machine]\nmodel = \"old\"\n", vec!["no machine model `old`", "stale"]),
        (&format!("{machine}irq = \"plic\"\n"), vec!["x.toml:4:", "plic"]),
        (&format!("{machine}harts = 0\n"), vec!["harts = 0", "512"]),
        (&format!("{machine}harts = 513\n"), vec!["harts = 513", "512"]),
        (&format!("{machine}memory = 1\n"), vec!["memory = 1", "128"]),
        (&format!("{machine}cpu = \"svvptc\"\n"), vec!["`svvptc`", "NAME=VALUE"]),
        (&format!("{machine}core = \"\"\n"), vec!["`` in core", "-cpu help"]),
        (&format!("{machine}core = \"rv64,v=on\"\n"), vec!["`rv64,v=on` in core", "-cpu help"]),
        (&format!("tests = [\"test-no.sh\"]\n{machine}"), vec!["`test-no.sh`", "selftests/"]),
        (&format!("tests = []\n{machine}"), vec!["no tests"]),
        (&format!("except = [\"test-no.sh\"]\n{machine}"), vec!["`test-no.sh`", "selftests/"]),
        (&format!("except = [\"test-ipi.sh\", \"test-trace.sh\"]\n{machine}"), vec!["no tests"]),
        (&format!("tests = [\"test-ipi.sh\"]\nexcept = [\"test-ipi.sh\"]\n{machine}"), vec!["both tests and except"]),
        (&format!("require = [\"(\"]\n{machine}"), vec!["require", "`(`"]),
        (&format!("met = 0\n{machine}"), vec!["met", "1 to 100"]),
        ("description = \"d\"\nmet = 5\n[machine]\nmodel = \"plain\"\n", vec!["met needs stale hits"]),
        (&format!("{machine}[each]\nharts = [1, 0]\n"), vec!["harts = 0", "512"]),
        (&format!("{machine}[each]\nmemory = [1]\n"), vec!["x.toml:5:", "memory"]),
        (&format!("config_of = \"default\"\n{machine}"), vec!["config_of", "no default.toml with a config"]),
        (&format!("config_of = \"none\"\n{machine}"), vec!["config_of", "no none.toml"]),
        (&format!("config = \"CONFIG_A=y\"\nconfig_of = \"y\"\n{machine}"), vec!["config_of", "no y.toml"]),
        (&format!("{machine}[limits]\nsilence = 0\n"), vec!["positive number of seconds"]),
        (&format!("config = \"CONFIG A=y\"\n{machine}"), vec!["`CONFIG A=y`", "not a Kconfig option"]),
        (&format!("config = \"# CONFIG_A is off\"\n{machine}"), vec!["`# CONFIG_A is off`"]),
        ("description = \"d\"\nappend = \"a\"\n[compile]\nfolders = [\"mm/\"]\n", vec!["need a machine"]),
        ("description = \"d\"\n[each]\nharts = [1]\n[compile]\nfolders = [\"mm/\"]\n", vec!["need a machine"]),
        ("description = \"d\"\nexcept = [\"a\"]\n[compile]\nfolders = [\"mm/\"]\n", vec!["need a machine"]),
        ("description = \"d\"\n[compile]\nfolders = [\"mm\"]\n", vec!["a / at its end"]),
        (&format!("{machine}[kunit]\narch = [\"riscv\"]\n"), vec!["several of machine, compile and kunit"]),
        ("description = \"d\"\n[kunit]\narch = []\n", vec!["lists no architecture"]),
        ("description = \"d\"\n[kunit]\narch = [\"vax\"]\n", vec!["x.toml:3:", "vax"]),
        ("description = \"d\"\ntests = []\n[kunit]\narch = [\"riscv\"]\n", vec!["need a machine"]),
        ("description = \"d\"\nconfig = \"CONFIG_A=y\"\n[kunit]\narch = [\"riscv\"]\n", vec!["no effect on kunit"]),
        ("description = \"d\"\n[compile]\nfolders = [\"mm/\"]\ncompiler = \"icc\"\n", vec!["x.toml:4:", "icc"]),
        ("description = \"d\"\ncompiler = \"gcc\"\n[compile]\nfolders = [\"mm/\"]\n", vec!["need a machine"]),
        ("description = \"d\"\nfirmware = \"1.9\"\n[compile]\nfolders = [\"mm/\"]\n", vec!["need a machine"]),
        ("description = \"d\"\nefi = true\n[compile]\nfolders = [\"mm/\"]\n", vec!["efi and defconfig need a machine"]),
        ("description = \"d\"\ndefconfig = true\n[compile]\nfolders = [\"mm/\"]\n", vec!["need a machine"]),
        (&format!("efi = 1\n{machine}"), vec!["x.toml:1:", "expected a boolean"]),
        (&format!("compiler = \"icc\"\n{machine}"), vec!["x.toml:1:", "icc"]),
    ] {
        let mut words = words;
        words.push("harness/scenarios/x.toml");
        run(&lab(text), &["--list"]).fails(64, &words);
    }
}

#[test]
fn unknown_names_are_64_before_anything_is_made() {
    let lab = lab(DEFAULT);
    for args in [&["none"][..], &["default", "none", "--dry-run"]] {
        run(&lab, args).fails(64, &["no scenario `none`", "default, x"]);
    }
    assert!(!lab.out().join("dl").exists());
}

#[test]
fn a_scenario_may_have_firmware_of_its_own() {
    let lab = lab(&format!("firmware = \"1.9\"\n{DEFAULT}"));
    let said = run(&lab, &["--dry-run"]);
    said.passes();
    let bios = |file: &str| said.out.matches(&format!("out/guest/{file} ")).count();
    assert_eq!((bios("fw_dynamic.bin"), bios("fw_dynamic-1.9-1.bin")), (1, 1), "{said:?}");
    // All others take what is asked for.
    let said = run(&lab, &["--dry-run", "--firmware", "1.9"]);
    assert_eq!(said.out.matches("out/guest/fw_dynamic-1.9-1.bin ").count(), 2, "{said:?}");
    let none = self::lab(&format!("firmware = \"0.9\"\n{DEFAULT}"));
    run(&none, &["--dry-run", "x"]).fails(64, &["firmware 1.6 and 1.9"]);
}

#[test]
fn a_scenario_may_start_through_efi() {
    let lab = lab(&format!("efi = true\n{DEFAULT}"));
    let said = run(&lab, &["--dry-run"]);
    said.passes();
    // The scenario alone.
    for word in [" -machine acpi=off", "readonly=on,file=", "out/guest/efi-code.fd", "out/guest/efi-variables.fd"] {
        assert_eq!(said.out.matches(word).count(), 1, "{word}: {said:?}");
    }
    assert_eq!(said.out.matches("out/guest/fw_dynamic.bin ").count(), 2, "{said:?}");
}

#[test]
fn a_dry_run_makes_nothing_and_shows_the_machine() {
    let text = "description = \"about x\"\nconfig = \"CONFIG_A=y\"\nappend = \"a=1\"\n[machine]\nmodel = \"stale\"\nharts = 3\n";
    let lab = lab(text);
    let said = run(&lab, &["--dry-run", "x"]);
    said.passes();
    for word in ["x: about x", "CONFIG_A=y", "scenarios/x", "-smp 3", "x-cache-invalid=on", "a=1 lazymap.timeout=45"] {
        assert!(said.out.contains(word), "{word}: {said:?}");
    }
    assert!(!said.out.contains("default:"), "{said:?}");
    assert!(!lab.out().exists(), "not even the folder");
    let list = run(&lab, &["--list"]);
    list.passes();
    assert_eq!(list.out, "default  quick  d\nx        full   about x\n");
}

#[test]
fn a_dry_run_of_kunit_shows_the_commands() {
    let lab = lab("description = \"about x\"\n[kunit]\narch = [\"riscv\", \"x86_64\"]\n");
    let said = run(&lab, &["--dry-run", "x"]);
    said.passes();
    let words = ["--arch=riscv", "harness/kunit-riscv.py", "EXECMEM", "--arch=x86_64", "'--qemu_args=-smp 4'"];
    for word in words.into_iter().chain(["kunit.py run", "--kunitconfig=rust/kernel", "--make_options=LLVM=1"]) {
        assert!(said.out.contains(word), "{word}: {said:?}");
    }
    let x86 = said.out.lines().find(|l| l.contains("x86_64")).unwrap_or_default();
    assert!(!x86.contains("EXECMEM") && !x86.contains("qemu_config"), "{x86}");
    assert!(!said.out.contains("kernel.config"), "{said:?}");
}

#[test]
fn a_file_may_have_a_scenario_for_each_of_several_machines() {
    let each = "[each]\nmodel = [\"plain\", \"stale\"]\nirq = [\"imsic\", \"sbi\"]\nharts = [1, 16]\n";
    let lab = lab(&format!("{DEFAULT}memory = 512\n{each}"));
    let chosen = |names: &[&str]| {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        scenario::choose(&lab.repo(), &Which::Named(names)).unwrap()
    };
    let all = chosen(&["x"]);
    assert_eq!(
        names(&all),
        [
            "x-plain-1",
            "x-plain-16",
            "x-plain-sbi-1",
            "x-plain-sbi-16",
            "x-stale-1",
            "x-stale-16",
            "x-stale-sbi-1",
            "x-stale-sbi-16"
        ]
    );
    let machine = &seat(&all[3]).machine;
    assert_eq!((machine.model.stale, machine.irq, machine.harts, machine.memory_mib), (false, Irq::Sbi, 16, 512));
    assert_eq!(names(&chosen(&["x-stale-1", "default"])), ["default", "x-stale-1"]);
    // What it does not list is the machine's.
    let few = self::lab(&format!("{DEFAULT}[each]\nharts = [2]\n"));
    let few = scenario::choose(&few.repo(), &Which::Named(vec!["x".into()])).unwrap();
    assert_eq!(names(&few), ["x-stale-2"]);
    let cores = self::lab(&format!("{DEFAULT}core = \"max\"\n[each]\ncore = [\"rv64\", \"sifive-u54\"]\n"));
    let cores = scenario::choose(&cores.repo(), &Which::Named(vec!["x".into()])).unwrap();
    assert_eq!(names(&cores), ["x-stale-4", "x-stale-sifive-u54-4"]);
    write(&lab.repo().join("harness/scenarios/x-plain-1.toml"), DEFAULT);
    run(&lab, &["--list"]).fails(64, &["x.toml", "another scenario is called `x-plain-1`"]);
}

#[test]
fn scenarios_with_the_same_lines_share_a_kernel() {
    let lab = lab("description = \"d\"\nconfig = \"CONFIG_A=y\"\n[machine]\nmodel = \"stale\"\n");
    let at = |name: &str| lab.repo().join(format!("harness/scenarios/{name}.toml"));
    let same = "description = \"d\"\nconfig = \"# a comment\\n CONFIG_A=y\\n\"\n[machine]\nmodel = \"plain\"\n";
    write(&at("y"), same);
    write(&at("a"), "description = \"d\"\nconfig = \"CONFIG_A=y\"\n[compile]\nfolders = [\"mm/\"]\n");
    write(&at("b"), &same.replace("CONFIG_A", "CONFIG_B"));
    let of_b = "description = \"d\"\nconfig_of = \"b\"\n[machine]\nmodel = \"plain\"\n";
    write(&at("a-of-b"), of_b);
    write(&at("c"), &format!("config = \"CONFIG_BC=m\"\n{of_b}"));
    let all = scenario::load(&lab.repo()).unwrap();
    let lines = |name: &str| all[name].config.lines.as_str();
    assert_eq!((lines("a-of-b"), all["a-of-b"].config.name.as_str()), (lines("b"), "b"));
    assert_eq!((lines("c"), all["c"].config.name.as_str()), ("CONFIG_B=y\nCONFIG_BC=m\n", "c"));
    let config = |name: &str| all[name].config.name.as_str();
    assert_eq!((config("x"), config("y"), config("a"), config("b"), config("default")), ("x", "x", "a", "b", ""));
    // The kernel that everybody has comes first, those with one kernel together, what is only
    // compiled last.
    let chosen = |which| scenario::choose(&lab.repo(), &which).unwrap();
    assert_eq!(names(&chosen(Which::Tier(Tier::Full))), ["default", "a-of-b", "b", "c", "x", "y", "a"]);
    assert_eq!(names(&chosen(Which::Named(vec![]))), ["default", "a-of-b", "b", "c", "x", "y", "a"]);
    assert_eq!(names(&chosen(Which::Named(vec!["y".into(), "default".into()]))), ["default", "y"]);
    assert_eq!(names(&chosen(Which::Tier(Tier::Quick))), ["default"]);
    fs::remove_file(at("default")).unwrap();
    assert_eq!(names(&chosen(Which::Tier(Tier::Quick))), [""; 0]);
    // The same lines on top of something else are another kernel, also for those that name it.
    let on = format!("defconfig = true\n{same}").replace("CONFIG_A", "CONFIG_B");
    write(&at("e"), &on);
    write(&at("e-of-e"), &of_b.replace("\"b\"", "\"e\""));
    let all = scenario::load(&lab.repo()).unwrap();
    let start = |name: &str| (all[name].config.name.as_str(), all[name].config.defconfig);
    assert_eq!((start("b"), start("e"), start("e-of-e")), (("b", false), ("e", true), ("e", true)));
    // What it says itself takes the place of what the other says.
    write(&at("d"), &format!("config = \"# CONFIG_B is not set\"\n{of_b}"));
    assert_eq!(scenario::load(&lab.repo()).unwrap()["d"].config.lines, "# CONFIG_B is not set\n");
    // One file away at most.
    write(&at("d"), &of_b.replace("\"b\"", "\"c\""));
    run(&lab, &["--list"]).fails(64, &["d.toml", "no c.toml with a config of its own"]);
}
