// SPDX-License-Identifier: GPL-2.0-only
//! A user's own tree: what is wrong with it is said in one line, and it is never written to.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::common::{Lab, edit, git, said, snapshot, write};

#[test]
fn missing_file_or_no_kernel_tree() {
    let lab = Lab::new();
    let run = |path: &str| said(lab.tool().env("KSRC", lab.dir.path().join(path)).arg("kernels"));
    run("nowhere").fails(64, &["KSRC=", "nowhere", "does not exist"]);
    run("repo/base.toml").fails(64, &["base.toml", "not a folder"]);
    run("repo").fails(64, &["not a kernel tree", "7.3"]);
    fs::remove_dir_all(lab.linux().join("arch")).unwrap();
    run("linux").fails(64, &["not a kernel tree", "arch/riscv"]);
}

#[test]
fn another_version() {
    let lab = Lab::new();
    for (level, version) in [("PATCHLEVEL = 2", "7.2.4"), ("PATCHLEVEL = 30", "7.30.4")] {
        let path = lab.linux().join("Makefile");
        write(&path, &format!("VERSION = 7\n{level}\nSUBLEVEL = 4\n"));
        git(&lab.linux(), &["commit", "-q", "-a", "-m", "other"]);
        lab.with_ksrc(&["kernels"]).fails(2, &["KSRC=", &format!("is Linux {version}"), "for 7.3", "7.3.y"]);
    }
}

#[test]
fn a_second_base_has_patches_of_its_own() {
    let lab = Lab::new();
    let base = lab.repo().join("base.toml");
    let text = fs::read_to_string(&base).unwrap();
    let first = &text[text.find("[[linux]]").unwrap()..text.find("[[qemu]]").unwrap()];
    let second = first.replace("\"7.3\"", "\"7.2\"").replace("patches/linux-7.3", "patches/linux-7.2");
    write(&base, &text.replacen("[[qemu]]", &format!("{second}[[qemu]]"), 1));
    let edited = lab.linux().join("Makefile");
    edit(&edited, "PATCHLEVEL = 3", "PATCHLEVEL = 2");
    git(&lab.linux(), &["commit", "-q", "-a", "-m", "7.2"]);
    let check = |version: &str| {
        let mut tool = lab.tool();
        tool.env("KSRC", lab.linux()).env("BASE", version).arg("series-check");
        said(&mut tool)
    };
    for version in ["", "7.3"] {
        check(version).fails(2, &["is Linux 7.2.4", "for 7.3"]);
    }
    check("7.2").fails(2, &["patches/linux-7.2 has no patches"]);
    fs::rename(lab.patches(), lab.repo().join("patches/linux-7.2")).unwrap();
    check("7.2").passes();
    check("6.1").fails(64, &["BASE=6.1", "7.3 and 7.2"]);
}

#[test]
fn unreadable() {
    let lab = Lab::new();
    let linux = lab.linux();
    fs::set_permissions(&linux, fs::Permissions::from_mode(0o000)).unwrap();
    let root = fs::read_dir(&linux).is_ok();
    let result = lab.with_ksrc(&["series-check"]);
    fs::set_permissions(&linux, fs::Permissions::from_mode(0o755)).unwrap();
    // Nothing is unreadable to root.
    if root { result.passes() } else { result.fails(2, &["KSRC=", "cannot be read"]) }
}

#[test]
fn uncommitted_changes() {
    let lab = Lab::new();
    edit(&lab.linux().join("arch/riscv/Kconfig"), "RISCV", "RISC");
    let before = snapshot(&lab.linux());
    lab.with_ksrc(&["kernels"]).fails(2, &["KSRC=", "not committed", "arch/riscv/Kconfig", "commit or stash"]);
    assert_eq!(before, snapshot(&lab.linux()));
    edit(&lab.linux().join("Makefile"), "# SPDX", "# spdx");
    lab.with_ksrc(&["kernels"]).fails(2, &["and others"]);
    assert_ne!(before, snapshot(&lab.linux()), "the snapshot sees an edit");
    git(&lab.linux(), &["checkout", "-q", "."]);
    // Untracked files are the user's own business.
    write(&lab.linux().join("notes"), "mine");
    lab.with_ksrc(&["series-check"]).passes();
}

#[test]
fn without_commits() {
    let lab = Lab::new();
    fs::remove_dir_all(lab.linux().join(".git")).unwrap();
    git(&lab.linux(), &["init", "-q"]);
    lab.with_ksrc(&["kernels"]).fails(2, &["without commits"]);
}

#[test]
fn a_read_only_clone_is_good_and_stays_untouched() {
    let lab = Lab::new();
    // As after `cp -r`: the index does not fit the files' times, and git would love to refresh it.
    let kconfig = lab.linux().join("arch/riscv/Kconfig");
    let text = fs::read(&kconfig).unwrap();
    fs::write(&kconfig, text).unwrap();
    let read_only = |on: bool| {
        for entry in ["", ".git", ".git/objects", ".git/refs", ".git/index"] {
            let path = lab.linux().join(entry);
            let mode = fs::metadata(&path).unwrap().permissions().mode();
            let mode = if on { mode & !0o222 } else { mode | 0o200 };
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        }
    };
    read_only(true);
    let before = snapshot(&lab.linux());
    let result = lab.with_ksrc(&["series-check"]);
    let after = snapshot(&lab.linux());
    read_only(false);
    result.passes();
    assert_eq!(before, after);
    assert!(lab.out().join("linux-ksrc/Makefile").exists());
}

#[test]
fn an_unpacked_tarball_is_copied() {
    let lab = Lab::new();
    fs::remove_dir_all(lab.linux().join(".git")).unwrap();
    let before = snapshot(&lab.linux());
    lab.with_ksrc(&["series-check"]).passes();
    assert_eq!(before, snapshot(&lab.linux()));
    assert!(lab.out().join("linux-ksrc/.git").is_dir());
    // The same inside somebody's repository: that one is not the tree.
    git(lab.dir.path(), &["init", "-q", "."]);
    lab.with_ksrc(&["series-check"]).passes();
    // A later edit is seen.
    edit(&lab.linux().join("arch/riscv/kernel/entry.S"), "line 10\n", "line X\n");
    let result = lab.with_ksrc(&["series-check"]);
    assert_eq!(result.code, Some(1), "{result:?}");
    assert!(result.out.contains("FAILED series: git am"), "{result:?}");
}

#[test]
fn a_built_tarball_is_cleaned_in_the_copy() {
    let lab = Lab::new();
    fs::remove_dir_all(lab.linux().join(".git")).unwrap();
    write(&lab.linux().join("Makefile"), "VERSION = 7\nPATCHLEVEL = 3\nmrproper:\n\trm -f .config vmlinux\n");
    write(&lab.linux().join(".config"), "CONFIG_X=y\n");
    write(&lab.linux().join("vmlinux"), "built");
    lab.link("make");
    lab.link("rm");
    lab.with_ksrc(&["series-check"]).passes();
    assert!(lab.linux().join("vmlinux").exists(), "the user's tree is as it was");
    assert!(!lab.out().join("linux-ksrc/vmlinux").exists(), "the copy is clean");
}

#[test]
fn a_clone_that_moves_on_touches_only_what_differs() {
    use std::os::unix::fs::MetadataExt;
    let lab = Lab::new();
    lab.script("make", "exit 2");
    lab.with_ksrc(&["kernels"]).fails(2, &["`make", "failed"]);
    let tree = lab.out().join("linux-ksrc");
    let file = |name: &str| {
        let meta = fs::metadata(tree.join(name)).unwrap();
        (meta.ino(), meta.mtime_nsec())
    };
    let (makefile, kconfig) = (file("Makefile"), file("arch/riscv/Kconfig"));
    edit(&lab.linux().join("arch/riscv/Kconfig"), "RISCV", "RISCV64");
    git(&lab.linux(), &["commit", "-q", "-a", "-m", "next"]);
    lab.with_ksrc(&["kernels"]).fails(2, &["`make", "failed"]);
    assert_eq!(file("Makefile"), makefile);
    assert_ne!(file("arch/riscv/Kconfig"), kconfig);
    assert!(fs::read_to_string(tree.join("arch/riscv/Kconfig")).unwrap().contains("RISCV64"));
    assert_eq!(git(&tree, &["rev-parse", "lazymap-base"]), git(&lab.linux(), &["rev-parse", "HEAD"]));
    // Work on the old base is not thrown away.
    git(&tree, &["checkout", "-q", "series"]);
    git(&tree, &["commit", "-q", "--allow-empty", "-m", "mine"]);
    let mine = git(&tree, &["rev-parse", "HEAD"]);
    git(&lab.linux(), &["commit", "-q", "--allow-empty", "-m", "next"]);
    lab.with_ksrc(&["kernels"]).fails(2, &["commits for another base", "linux-ksrc"]);
    assert_eq!(git(&tree, &["rev-parse", "series"]), mine);
    git(&tree, &["reset", "-q", "--hard", "HEAD~1"]);
    edit(&tree.join("arch/riscv/Kconfig"), "RISCV64", "MINE");
    lab.with_ksrc(&["kernels"]).fails(2, &["arch/riscv/Kconfig", "was edited", "save the edit"]);
    assert!(fs::read_to_string(tree.join("arch/riscv/Kconfig")).unwrap().contains("MINE"));
}
