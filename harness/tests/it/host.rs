// SPDX-License-Identifier: GPL-2.0-only
//! What the host lacks is said in one line, with the one command that gets it.

use std::fs;

use crate::common::{Lab, Said, said};

fn host(lab: &Lab) -> Said {
    said(lab.tool().args(["host", "--no-install"]))
}

#[test]
fn a_good_host() {
    let lab = Lab::new();
    let result = host(&lab);
    result.passes();
    assert!(result.out.contains("clang\t22.1.8\n") && result.out.contains("rustc\t1.96.0\n"), "{result:?}");
    assert!(result.out.contains("bindgen\t0.72.1\n") && result.out.contains("libclang\t22.1.8\n"), "{result:?}");
}

#[test]
fn packages() {
    let lab = Lab::new();
    lab.script("apt-cache", "exit 0");
    lab.script("dpkg-query", "echo 'installed make'; echo 'config-files flex'");
    host(&lab).fails(2, &["27 packages are missing", "run as root: apt-get update && apt-get install", " flex "]);
}

#[test]
fn packages_are_installed_and_a_failure_says_why() {
    // Only root is allowed to; everybody else gets the line of the test above.
    if std::fs::metadata("/proc/self").is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) != 0) {
        return;
    }
    let lab = Lab::new();
    lab.script("apt-cache", "exit 0");
    let done = lab.dir.path().join("done");
    let all = "for p in flex make; do echo \"installed $p\"; done";
    lab.script("dpkg-query", all);
    let note = format!("case \"$*\" in *install*) echo \"$*\" > {} ;; esac", done.display());
    lab.script("apt-get", &format!("{note}; echo 'E: Unable to fetch some archives'; exit 100"));
    said(lab.tool().arg("host")).fails(2, &["cannot be installed", "E: Unable to fetch some archives", "apt.log"]);
    lab.script("apt-get", &note);
    said(lab.tool().arg("host")).passes();
    let asked = fs::read_to_string(done).unwrap();
    assert!(asked.contains("--no-install-recommends") && asked.contains(" bc ") && !asked.contains("flex"), "{asked}");
}

#[test]
fn without_dpkg_all_that_is_missing_is_named_at_once() {
    let lab = Lab::new();
    fs::remove_file(lab.bin().join("dpkg-query")).unwrap();
    let all = "bc, bison, cc, cpio, flex, glib-2.0, libcrypto, libelf, libfdt.h, make, ninja, pkg-config, python3, rsync \
               cannot be found";
    host(&lab).fails(2, &[all, "development files", "docs/ci.md"]);
    for name in ["bc", "bison", "cpio", "flex", "make", "pkg-config", "python3"] {
        lab.script(name, "exit 0");
    }
    // What only QEMU needs is not named to who brings one.
    let with_qemu = || said(lab.tool().env("LAZYMAP_QEMU", "/qemu").args(["host", "--no-install"]));
    with_qemu().fails(2, &["lazymap: rsync cannot be found"]);
    lab.script("pkg-config", "[ $2 != libelf ]");
    with_qemu().fails(2, &["lazymap: libelf, rsync cannot be found"]);
    lab.script("pkg-config", "exit 0");
    lab.script("rsync", "exit 0");
    // Building a kernel takes no QEMU.
    host(&lab).passes();
}

#[test]
fn clang() {
    let lab = Lab::new();
    lab.script("apt-cache", "exit 0");
    lab.script("clang-22", "echo 'Debian clang version 14.0.6'");
    host(&lab).fails(2, &["clang-22 14.0.6 is too old", "17.0.1", "apt-get install", "clang-22 lld-22"]);
    fs::remove_file(lab.bin().join("clang-22")).unwrap();
    host(&lab).fails(2, &["clang is missing", "17.0.1", "clang-22 lld-22 llvm-22 libclang-22-dev"]);
    // One that is asked for is not replaced by another.
    lab.script("clang-19", "echo 'clang version 19.1.7'");
    host(&lab).fails(2, &["ld.lld-19 is missing", "clang-19"]);
    said(lab.tool().env("LLVM", "-18").args(["host", "--no-install"])).fails(2, &["clang-18 is missing", "LLVM=-18"]);
    for tool in ["ld.lld", "llvm-ar", "llvm-nm", "llvm-objcopy", "llvm-objdump", "llvm-readelf", "llvm-strip"] {
        lab.script(&format!("{tool}-19"), "exit 0");
    }
    let result = host(&lab);
    result.passes();
    assert!(result.out.contains("clang\t19.1.7\n"), "{result:?}");
}

#[test]
fn rustc_and_its_library() {
    let lab = Lab::new();
    lab.script("rustc", "echo 'rustc 1.84.1 (x)'");
    host(&lab).fails(2, &["rustc 1.84.1 is too old", "1.85.0", "rustc-web", "LAZYMAP_RUSTC"]);
    lab.script("rustc", "echo 'rustc 1.96.0 (x)'");
    fs::remove_dir_all(lab.dir.path().join("library")).unwrap();
    host(&lab).fails(2, &["source of", "rustc 1.96.0 is missing", "rust-web-src", "RUST_LIB_SRC"]);
    fs::remove_file(lab.bin().join("rustc")).unwrap();
    host(&lab).fails(2, &["rustc is missing", "1.85.0"]);
}

#[test]
fn bindgen_and_libclang() {
    let lab = Lab::new();
    lab.script("cargo", "exit 1");
    lab.script("bindgen", "echo 'bindgen 0.60.1'");
    host(&lab).fails(2, &["bindgen 0.60.1 is too old", "0.72.1", "cargo install bindgen-cli --version 0.72.1"]);
    lab.script(
        "bindgen",
        "[ $1 = --version ] && echo 'bindgen 0.72.1' || { echo 'Unable to find libclang' >&2; exit 1; }",
    );
    host(&lab).fails(2, &["libclang is missing", "Unable to find libclang", "LIBCLANG_PATH"]);
    lab.script("bindgen", "[ $1 = --version ] && echo 'bindgen 0.72.1' || echo 'clang version 14.0.6' >&2");
    host(&lab).fails(2, &["libclang 14.0.6", "too old", "17.0.1"]);
    fs::remove_file(lab.bin().join("bindgen")).unwrap();
    host(&lab).fails(2, &["bindgen is missing", "0.72.1"]);
}

#[test]
fn libclang_22_needs_a_newer_bindgen() {
    let lab = Lab::new();
    lab.script("cargo", "exit 1");
    let of =
        |libclang: &str| format!("[ $1 = --version ] && echo 'bindgen 0.71.1' || echo 'clang version {libclang}' >&2");
    lab.script("bindgen", &of("22.1.8"));
    host(&lab).fails(2, &["bindgen 0.71.1 is too old", "0.72.1 or newer is needed"]);
    // The compiler is older, and so is its libclang.
    fs::remove_file(lab.bin().join("clang-22")).unwrap();
    lab.script("clang-19", "echo 'clang version 19.1.7'");
    for tool in ["ld.lld", "llvm-ar", "llvm-nm", "llvm-objcopy", "llvm-objdump", "llvm-readelf", "llvm-strip"] {
        lab.script(&format!("{tool}-19"), "exit 0");
    }
    host(&lab).fails(2, &["bindgen 0.71.1 is too old for libclang 22.1.8", "LIBCLANG_PATH"]);
    lab.script("bindgen", &of("19.1.7"));
    host(&lab).passes();
}

#[test]
fn bindgen_is_installed_and_a_failure_says_why() {
    let lab = Lab::new();
    fs::remove_file(lab.bin().join("bindgen")).unwrap();
    lab.script("cargo", "echo 'error: [6] Could not resolve hostname'; exit 101");
    said(lab.tool().arg("host")).fails(2, &["bindgen is missing", "no network", "bindgen.log"]);
    let place = lab.out().join("tools/bin");
    lab.link("mkdir");
    lab.link("chmod");
    let made = "printf '#!/bin/sh\\n[ $1 = --version ] && echo bindgen 0.72.1 || echo clang version 22.1.8 >&2\\n'";
    lab.script("cargo", &format!("mkdir -p {0} && {made} > {0}/bindgen && chmod +x {0}/bindgen", place.display()));
    said(lab.tool().arg("host")).passes();
    // What was installed is used again.
    lab.script("cargo", "exit 1");
    said(lab.tool().arg("host")).passes();
}

#[test]
fn disk_space() {
    let lab = Lab::new();
    said(lab.tool().env("LAZYMAP_DISK_MIB", "99999999999").args(["host", "--no-install"]))
        .fails(2, &["not enough disk space", "99999999999 MiB needed", "OUT="]);
}

#[test]
fn an_out_folder_that_cannot_be_made() {
    let lab = Lab::new();
    said(lab.tool().env("LAZYMAP_OUT", "/proc/no/out").arg("host")).fails(2, &["cannot create /proc/no/out"]);
}
