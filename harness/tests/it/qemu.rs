// SPDX-License-Identifier: GPL-2.0-only
//! A QEMU without the property can find nothing: it is refused. Two runs wait for each other, and
//! an interrupted one leaves nothing running.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, Instant};

use lazymap::options::base::Base;

use crate::common::{Lab, said, write};

const WITH: &str = "case $1 in --version) echo 'QEMU emulator version 10.0.13' ;; *) echo '  x-cache-invalid=<bool>  -  (default: false)' ;; esac";

#[test]
fn the_property_is_looked_for() {
    let lab = Lab::new();
    let run = |text: &str| {
        let qemu = lab.script("qemu", text);
        said(lab.tool().env("LAZYMAP_QEMU", qemu).arg("qemu"))
    };
    let good = run(WITH);
    good.passes();
    assert!(good.out.contains("QEMU emulator version 10.0.13"), "{good:?}");
    run(&WITH.replace("x-cache-invalid=", "x-cache-invalid-not="))
        .fails(64, &["no CPU property x-cache-invalid", "10.0.13"]);
    run("exit 3").fails(64, &["does not run", "LAZYMAP_QEMU"]);
    said(lab.tool().env("LAZYMAP_QEMU", "/nowhere/qemu").arg("qemu")).fails(64, &["/nowhere/qemu does not run"]);
}

/// Bytes that look like an `Image`.
fn image() -> Vec<u8> {
    let mut bytes = vec![0; 128];
    bytes[0x38..0x3c].copy_from_slice(b"RSC\x05");
    bytes
}

/// A lab without a toolchain, and without apt: the user names what a hunt needs.
fn without_apt(lab: &Lab) {
    for name in ["clang-22", "rustc", "bindgen", "rustfmt", "dpkg-query", "dpkg", "apt-get", "apt-cache"] {
        std::fs::remove_file(lab.bin().join(name)).unwrap();
    }
    let mut busybox = vec![0; 64];
    busybox[..4].copy_from_slice(b"\x7fELF");
    busybox[18] = 243;
    std::fs::write(lab.dir.path().join("busybox"), busybox).unwrap();
    write(&lab.dir.path().join("firmware"), "x");
}

#[test]
fn a_hunt_in_a_finished_kernel_needs_neither_toolchain_nor_apt() {
    let lab = Lab::new();
    without_apt(&lab);
    let qemu = lab.script("qemu", WITH);
    let kernel = lab.dir.path().join("Image.gz");
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut gzip, &image()).unwrap();
    std::fs::write(&kernel, gzip.finish().unwrap()).unwrap();
    let hunt = |busybox: &str, firmware: &str| {
        let mut tool = lab.tool();
        tool.env_remove("LAZYMAP_RUSTC").env_remove("LAZYMAP_MIRROR").env("LAZYMAP_QEMU", &qemu);
        for (name, file) in [("LAZYMAP_BUSYBOX", busybox), ("LAZYMAP_FIRMWARE", firmware)] {
            if !file.is_empty() {
                tool.env(name, lab.dir.path().join(file));
            }
        }
        said(tool.args(["hunt", "--kernel"]).arg(&kernel))
    };
    hunt("", "firmware").fails(2, &["busybox-static cannot be downloaded", "no apt-get", "LAZYMAP_BUSYBOX"]);
    hunt("busybox", "").fails(2, &["opensbi cannot be downloaded", "no apt-get", "LAZYMAP_FIRMWARE"]);
    hunt("nowhere", "firmware").fails(64, &["LAZYMAP_BUSYBOX=", "nowhere", "unset it"]);
    hunt("busybox", "linux").fails(64, &["LAZYMAP_FIRMWARE=", "is not a file"]);
    hunt("Image.gz", "firmware").fails(2, &["Image.gz is not a RISC-V program", "static busybox"]);
    // This QEMU boots nothing, so there is no result.
    let done = hunt("busybox", "firmware");
    assert_eq!(done.code, Some(2), "{done:?}");
    assert!(lab.out().join("hunt/Image.gz-stale.log").exists(), "{done:?}");
    assert_eq!(std::fs::read(lab.out().join("hunt/Image.gz-stale.Image")).unwrap(), image());
}

#[test]
fn a_hunt_boots_the_user_s_firmware_and_disks() {
    let lab = Lab::new();
    without_apt(&lab);
    let at = |name: &str| lab.dir.path().join(name);
    std::fs::write(at("Image"), image()).unwrap();
    write(&at("fw.bin"), "firmware");
    std::fs::write(at("a,b.qcow2"), b"QFI\xfb\0\0\0\x03").unwrap();
    write(&at("raw"), "QF");
    let mut tool = lab.tool();
    tool.env_remove("LAZYMAP_RUSTC").env_remove("LAZYMAP_MIRROR").env("LAZYMAP_QEMU", lab.script("qemu", WITH));
    tool.env("LAZYMAP_BUSYBOX", at("busybox")).env("LAZYMAP_FIRMWARE", at("firmware"));
    tool.arg("hunt").arg("--kernel").arg(at("Image")).arg("--bios").arg(at("fw.bin"));
    tool.arg("--drive").arg(at("a,b.qcow2")).arg("--drive").arg(at("raw"));
    tool.args(["--no-initrd", "--append", "root=/dev/vda", "--", "-device", "virtio-rng-pci"]);
    // This QEMU boots nothing, so there is no result.
    let done = said(&mut tool);
    assert_eq!(done.code, Some(2), "{done:?}");
    let folder = lab.out().join("hunt/Image-stale-fw.bin-a-b.qcow2-raw");
    assert_eq!(std::fs::read_to_string(folder.join("fw_dynamic.bin")).unwrap(), "firmware");
    let script = std::fs::read_to_string(folder.join("reproduce.sh")).unwrap();
    for words in [
        "-drive if=virtio,snapshot=on,format=qcow2,file=/",
        "/a,,b.qcow2 ",
        "-drive if=virtio,snapshot=on,format=raw,file=/",
        "-device virtio-rng-pci \"$@\"",
        " ${INITRD:+-initrd ",
    ] {
        assert!(script.contains(words), "{words}: {script}");
    }
    assert!(!folder.join("initramfs.cpio.gz").exists());
}

#[test]
fn a_hunt_runs_in_qemu_s_sandbox_if_that_can_be() {
    let lab = Lab::new();
    without_apt(&lab);
    let at = |name: &str| lab.dir.path().join(name);
    std::fs::write(at("Image"), image()).unwrap();
    let hunt = |script: &str, model: &str, more: &[&str]| {
        let mut tool = lab.tool();
        tool.env_remove("LAZYMAP_RUSTC").env_remove("LAZYMAP_MIRROR").env("LAZYMAP_QEMU", lab.script("qemu", script));
        tool.env("LAZYMAP_BUSYBOX", at("busybox")).env("LAZYMAP_FIRMWARE", at("firmware"));
        tool.arg("hunt").arg("--kernel").arg(at("Image")).args(["--poison", "--model", model]).args(more);
        // This QEMU boots nothing, so there is no result.
        let done = said(&mut tool);
        assert_eq!(done.code, Some(2), "{done:?}");
        let script = lab.out().join(format!("hunt/Image-{model}-poison/reproduce.sh"));
        std::fs::read_to_string(script).unwrap()
    };
    let script = hunt(WITH, "stale", &[]);
    assert!(
        script.contains(" -sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny "),
        "{script}"
    );
    assert!(script.contains(" page_poison=1 init_on_free=1 slub_debug=P"), "{script}");
    let script = hunt(WITH, "late", &["--", "-sandbox", "off"]);
    assert!(script.contains("-sandbox off ") && !script.contains("spawn=deny"), "{script}");
    let without =
        format!("[ \"$1\" != -sandbox ] || {{ echo '-sandbox support is not enabled' >&2; exit 1; }}\n{WITH}");
    let script = hunt(&without, "absent", &[]);
    assert!(!script.contains("-sandbox"), "{script}");
}

#[test]
fn without_apt_a_qemu_to_build_needs_programs() {
    let lab = Lab::new();
    without_apt(&lab);
    write(&lab.repo().join("patches/qemu-10.0/README"), "");
    let run = || said(lab.tool().env_remove("LAZYMAP_MIRROR").arg("qemu"));
    let all = "cc, glib-2.0, libfdt.h, make, ninja, pkg-config, python3 cannot be found";
    run().fails(2, &[all, "development files", "docs/ci.md", "LAZYMAP_QEMU"]);
    for name in ["cc", "make", "ninja", "python3"] {
        lab.script(name, "exit 0");
    }
    lab.script("pkg-config", "exit 1");
    run().fails(2, &["lazymap: glib-2.0 cannot be found", "LAZYMAP_QEMU"]);
    lab.script("cc", "exit 1");
    run().fails(2, &["lazymap: glib-2.0, libfdt.h cannot be found"]);
    lab.script("cc", "exit 0");
    lab.script("pkg-config", "exit 0");
    run().fails(2, &["there is no apt-get here", "QSRC"]);
}

#[test]
fn a_source_of_the_user_s() {
    let lab = Lab::new();
    let run = |source: &str| said(lab.tool().env("QSRC", lab.dir.path().join(source)).arg("qemu"));
    run("nowhere").fails(64, &["QSRC=", "nowhere cannot be read", "QEMU 10.0.x"]);
    run("linux").fails(64, &["linux has no VERSION"]);
    let source = lab.dir.path().join("qemu-source");
    write(&source.join("VERSION"), "9.2.0\n");
    run("qemu-source").fails(64, &["is QEMU 9.2.0", "patches are for 10.0;"]);
    write(&source.join("VERSION"), "10.2.2\n");
    run("qemu-source")
        .fails(64, &["is QEMU 10.2.2", "patches are for 10.0 (those for it are selected with --qemu 10.2)"]);
    write(&source.join("VERSION"), "9.2.0\n");
    let tar = |name: &str| {
        let mut tar = std::process::Command::new("tar");
        tar.arg("-cf").arg(lab.dir.path().join(name)).arg("-C").arg(lab.dir.path()).arg("qemu-source");
        assert!(tar.status().unwrap().success());
    };
    tar("old.tar");
    run("old.tar").fails(64, &["is QEMU 9.2.0"]);
    run("repo/base.toml").fails(64, &["base.toml", "give a folder"]);
    // The right one is unpacked and patched; its configure is not there.
    write(&source.join("VERSION"), "10.0.3\n");
    write(&source.join("hw/a.c"), "one\n");
    let patch = "--- a/hw/a.c\n+++ b/hw/a.c\n@@ -1 +1 @@\n-one\n+two\n";
    write(&lab.repo().join("patches/qemu-10.0/0001-x.patch"), patch);
    tar("new.tar");
    for name in ["ninja", "cc", "pkg-config", "python3"] {
        lab.script(name, "exit 0");
    }
    // As if an earlier run had made the Python environment, which takes a network.
    let python = Base::load(&lab.repo()).unwrap().qemu.python.join("\n");
    write(&lab.out().join("tools/venv/stamp"), &python);
    write(&lab.out().join("tools/venv/bin/python3"), "");
    for name in ["qemu-source", "new.tar"] {
        let done = run(name);
        assert_eq!(done.code, Some(2), "{done:?}");
        let src = lab.out().join("qemu/src");
        assert_eq!(std::fs::read_to_string(src.join("hw/a.c")).unwrap(), "two\n", "{done:?}");
        assert_eq!(std::fs::read_to_string(source.join("hw/a.c")).unwrap(), "one\n");
        assert!(std::fs::read_to_string(lab.out().join("qemu/unpacked.json")).unwrap().contains(name), "{name}");
    }
}

#[test]
fn a_second_run_waits_for_the_first() {
    let lab = Lab::new();
    lab.link("sleep");
    let slow = lab.script("slow", &format!("sleep 5; {WITH}"));
    let fast = lab.script("fast", WITH);
    let start = Instant::now();
    let mut first = lab.tool().env("LAZYMAP_QEMU", slow).arg("qemu").stdout(Stdio::null()).spawn().unwrap();
    while !std::fs::read_to_string(lab.out().join("lock")).is_ok_and(|t| t.trim() == first.id().to_string()) {
        assert!(start.elapsed() < Duration::from_secs(30), "the first run never took the lock");
        sleep(Duration::from_millis(10));
    }
    let second = said(lab.tool().env("LAZYMAP_QEMU", fast).arg("qemu"));
    assert!(start.elapsed() > Duration::from_secs(1), "it did not wait");
    second.passes();
    assert!(second.err.contains(&format!("pid {} is working in", first.id())), "{second:?}");
    assert!(first.wait().unwrap().success());
}

/// Whether a process still runs (a zombie does not).
fn runs(pid: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|s| !s.contains(") Z "))
}

#[test]
fn nobody_reads_what_it_prints() {
    let lab = Lab::new();
    lab.link("sleep");
    // The reader of stderr is gone before the first line: no panic, no hang.
    let mut first = lab.tool().env("KSRC", lab.linux()).arg("kernels").stderr(Stdio::piped()).spawn().unwrap();
    drop(first.stderr.take());
    assert_eq!(first.wait().unwrap().code(), Some(2));
    // The same, interrupted while it prints nothing.
    let started = lab.dir.path().join("started");
    let slow = lab.script("slow", &format!("echo $$ > {}; exec sleep 600", started.display()));
    let mut tool = lab.tool();
    let mut child = tool.env("LAZYMAP_QEMU", slow).arg("qemu").stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stderr.take());
    let start = Instant::now();
    let pid = loop {
        let text = std::fs::read_to_string(&started).unwrap_or_default();
        if text.ends_with('\n') {
            break text;
        }
        assert!(start.elapsed() < Duration::from_secs(30), "it never started");
        sleep(Duration::from_millis(10));
    };
    let kill = std::process::Command::new("sh").args(["-c", &format!("kill -TERM {}", child.id())]).status();
    assert!(kill.unwrap().success());
    while child.try_wait().unwrap().is_none() {
        if start.elapsed() > Duration::from_secs(90) {
            child.kill().unwrap();
            panic!("it hangs");
        }
        sleep(Duration::from_millis(20));
    }
    assert_eq!(child.wait().unwrap().code(), Some(143));
    let start = Instant::now();
    while runs(pid.trim()) {
        assert!(start.elapsed() < Duration::from_secs(30), "a QEMU is left behind");
        sleep(Duration::from_millis(20));
    }
}

#[test]
fn an_interrupted_build_leaves_nothing_running() {
    for (signal, code) in [("INT", 130), ("TERM", 143), ("KILL", -1)] {
        let lab = Lab::new();
        lab.link("sleep");
        let (pids, ended) = (lab.dir.path().join("pids"), lab.dir.path().join("ended"));
        // A make that starts a child, as make does, and ends it when it is asked to end, as make does.
        let text = format!(
            "sleep 60 & echo $$ $! > {}; trap 'echo > {}; kill $!; exit 1' TERM; wait",
            pids.display(),
            ended.display()
        );
        lab.script("make", &text);
        let mut child = lab.tool().env("KSRC", lab.linux()).arg("kernels").stderr(Stdio::piped()).spawn().unwrap();
        let start = Instant::now();
        let running = loop {
            let text = std::fs::read_to_string(&pids).unwrap_or_default();
            if text.ends_with('\n') {
                break text;
            }
            assert!(start.elapsed() < Duration::from_secs(20), "the build never started");
            sleep(Duration::from_millis(20));
        };
        let kill = std::process::Command::new("sh").args(["-c", &format!("kill -{signal} {}", child.id())]).status();
        assert!(kill.unwrap().success());
        let status = child.wait().unwrap();
        assert_eq!(status.code().unwrap_or(-1), code, "{signal}");
        if code != -1 {
            let said: Vec<String> =
                BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok).collect();
            assert!(said.iter().any(|l| l.starts_with("lazymap: interrupted")), "{said:?}");
        }
        let start = Instant::now();
        while running.split_whitespace().any(runs) {
            assert!(start.elapsed() < Duration::from_secs(30), "{signal}: {running} still runs");
            sleep(Duration::from_millis(20));
        }
        assert!(ended.exists(), "{signal}: make had no time to clean up");
        // What was begun is continued, not taken for an edit by hand.
        write(&pids, "");
        lab.script("make", "echo 'make failed'; exit 2");
        lab.with_ksrc(&["kernels"]).fails(2, &["`make", "failed", "log"]);
    }
}
