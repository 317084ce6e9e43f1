// SPDX-License-Identifier: GPL-2.0-only
//! The guest's file system, packed and unpacked.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use lazymap::boot::initramfs::{self, Listed};
use lazymap::ground::error::Exit;
use tempfile::TempDir;

/// Something that looks like a RISC-V program.
fn elf() -> Vec<u8> {
    let mut bytes = b"\x7fELF\x02\x01\x01".to_vec();
    bytes.resize(64, 0);
    bytes[18] = 243;
    bytes
}

/// A folder with a busybox and selftests.
fn input(at: &Path) -> (PathBuf, PathBuf) {
    let (busybox, tests) = (at.join("busybox"), at.join("tests"));
    fs::create_dir_all(tests.join("test_modules")).unwrap();
    fs::write(&busybox, elf()).unwrap();
    for (name, mode, text) in [("test-b.sh", 0o755, "#!/bin/sh\n"), ("test-a.sh", 0o700, "a"), ("settings", 0o644, "")]
    {
        fs::write(tests.join(name), text).unwrap();
        fs::set_permissions(tests.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    fs::write(tests.join("test_modules/x.ko"), b"\0\x01\x02").unwrap();
    fs::set_permissions(tests.join("test_modules/x.ko"), fs::Permissions::from_mode(0o644)).unwrap();
    fs::set_permissions(tests.join("test_modules"), fs::Permissions::from_mode(0o755)).unwrap();
    symlink("test-b.sh", tests.join("link")).unwrap();
    (busybox, tests)
}

fn find<'a>(all: &'a [Listed], name: &str) -> &'a Listed {
    all.iter().find(|l| l.name == name).unwrap_or_else(|| panic!("no {name} in {all:?}"))
}

#[test]
fn an_archive_can_follow_another_one() {
    let dir = TempDir::new().unwrap();
    let (_, tests) = input(dir.path());
    let archive = dir.path().join("initrd.img");
    fs::write(&archive, b"").unwrap();
    initramfs::append(&archive, &tests, "usr/lib/modules").unwrap();
    assert_eq!(find(&initramfs::list(&archive).unwrap(), "usr/lib/modules/test_modules/x.ko").bytes, b"\0\x01\x02");
    let first = fs::read(&archive).unwrap();
    initramfs::append(&archive, &tests, "again").unwrap();
    let both = fs::read(&archive).unwrap();
    assert!(both.starts_with(&first) && both.len() > first.len(), "what was there stays");
    fs::write(&archive, &both[first.len()..]).unwrap();
    assert_eq!(find(&initramfs::list(&archive).unwrap(), "again/settings").bytes, b"");
    assert!(initramfs::append(&dir.path().join("none"), &tests, "x").is_err());
}

#[test]
fn what_goes_in_comes_out() {
    let dir = TempDir::new().unwrap();
    let (busybox, tests) = input(dir.path());
    let archive = dir.path().join("new/folder/guest.cpio.gz");
    initramfs::build(&busybox, &tests, &archive).unwrap();
    let all = initramfs::list(&archive).unwrap();
    let names: Vec<_> = all.iter().map(|l| l.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "bin",
            "dev",
            "bin/busybox",
            "init",
            "dev/console",
            "dev/kmsg",
            "dev/null",
            "lazy_map",
            "lazy_map/link",
            "lazy_map/settings",
            "lazy_map/test-a.sh",
            "lazy_map/test-b.sh",
            "lazy_map/test_modules",
            "lazy_map/test_modules/x.ko",
        ]
    );
    assert_eq!(find(&all, "bin/busybox").bytes, elf());
    assert_eq!(find(&all, "bin/busybox").mode, 0o100_755);
    assert!(find(&all, "init").bytes.starts_with(b"#!/bin/busybox sh\n"));
    assert_eq!(find(&all, "init").mode, 0o100_755);
    assert_eq!((find(&all, "dev/console").mode, find(&all, "dev/console").device), (0o20_600, (5, 1)));
    assert_eq!((find(&all, "dev/null").mode, find(&all, "dev/null").device), (0o20_600, (1, 3)));
    assert_eq!(
        (find(&all, "lazy_map/link").mode, &find(&all, "lazy_map/link").bytes[..]),
        (0o120_777, &b"test-b.sh"[..])
    );
    assert_eq!(
        (find(&all, "lazy_map/test-a.sh").mode, &find(&all, "lazy_map/test-a.sh").bytes[..]),
        (0o100_700, &b"a"[..])
    );
    assert_eq!(find(&all, "lazy_map/settings").bytes, b"");
    assert_eq!(find(&all, "lazy_map/test_modules").mode, 0o40_755);
    assert_eq!(find(&all, "lazy_map/test_modules/x.ko").bytes, b"\0\x01\x02");
}

#[test]
fn the_same_input_gives_the_same_bytes() {
    let dir = TempDir::new().unwrap();
    let mut seen = Vec::new();
    for name in ["one", "two"] {
        let (busybox, tests) = input(&dir.path().join(name));
        let archive = dir.path().join(format!("{name}.cpio.gz"));
        initramfs::build(&busybox, &tests, &archive).unwrap();
        seen.push(fs::read(archive).unwrap());
        // Another second, should the time of anything get in.
        thread::sleep(Duration::from_millis(1100));
    }
    assert!(seen[0] == seen[1]);
}

#[test]
fn a_busybox_for_another_machine_is_refused_and_nothing_is_lost() {
    let dir = TempDir::new().unwrap();
    let (busybox, tests) = input(dir.path());
    let archive = dir.path().join("guest.cpio.gz");
    fs::write(&archive, "from before").unwrap();
    let mut x86 = elf();
    x86[18] = 62;
    for bytes in [x86, b"#!/bin/sh\n".to_vec(), Vec::new()] {
        fs::write(&busybox, bytes).unwrap();
        let error = initramfs::build(&busybox, &tests, &archive).unwrap_err();
        assert!(error.message.contains("busybox is not a RISC-V program"), "{error}");
        assert_eq!(error.exit, Exit::CouldNot);
    }
    // One segment, which names a loader: the guest has none.
    let mut dynamic = elf();
    (dynamic[32], dynamic[54], dynamic[56]) = (64, 56, 1);
    dynamic.extend([3_u8].into_iter().chain([0; 55]));
    fs::write(&busybox, &dynamic).unwrap();
    let error = initramfs::build(&busybox, &tests, &archive).unwrap_err();
    assert!(error.message.contains("is linked dynamically; a static busybox"), "{error}");
    fs::remove_file(&busybox).unwrap();
    assert!(initramfs::build(&busybox, &tests, &archive).is_err());
    fs::write(&busybox, elf()).unwrap();
    let error = initramfs::build(&busybox, &dir.path().join("none"), &archive).unwrap_err();
    assert!(error.message.contains("none"), "{error}");
    assert_eq!(fs::read(&archive).unwrap(), b"from before");
    let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 3, "{left:?}");
}

#[test]
fn a_pipe_among_the_tests_is_refused() {
    let dir = TempDir::new().unwrap();
    let (busybox, tests) = input(dir.path());
    let pipe = tests.join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let error = initramfs::build(&busybox, &tests, &dir.path().join("guest.cpio.gz")).unwrap_err();
    assert!(error.message.contains("pipe is neither"), "{error}");
}
