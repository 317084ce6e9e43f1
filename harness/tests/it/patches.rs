// SPDX-License-Identifier: GPL-2.0-only
//! Patches: how they are applied, checked, and made anew.

use std::fs;
use std::path::{Path, PathBuf};

use crate::common::{Lab, edit, git, write};

/// The only patch whose name has `part`.
fn patch(lab: &Lab, part: &str) -> PathBuf {
    let entries = fs::read_dir(lab.patches()).unwrap().flatten().map(|e| e.path());
    entries.into_iter().find(|p| p.to_str().unwrap().contains(part)).unwrap()
}

#[test]
fn one_that_does_not_apply_is_named_with_file_and_hunk() {
    let lab = Lab::new();
    edit(&lab.linux().join("arch/riscv/kernel/entry.S"), "line 49\n", "line forty-nine\n");
    git(&lab.linux(), &["commit", "-q", "-a", "-m", "other"]);
    let words = ["0002-riscv-switch.patch", "arch/riscv/kernel/entry.S", "hunk 2 (line 47)"];
    lab.with_ksrc(&["kernels"]).fails(2, &words);
    let result = lab.with_ksrc(&["series-check"]);
    assert_eq!(result.code, Some(1), "{result:?}");
    let line = result.out.lines().find(|l| l.starts_with("FAILED series: git am: ")).unwrap();
    assert!(words.iter().all(|w| line.contains(w)), "{line}");
    // Nothing of the attempt is left.
    let tree = lab.out().join("linux-ksrc");
    assert_eq!(git(&tree, &["rev-parse", "series"]), git(&lab.linux(), &["rev-parse", "HEAD"]));
    assert!(
        !fs::read_dir(tree.join(".git")).unwrap().flatten().any(|e| e.file_name().to_str().unwrap().starts_with("am-"))
    );
}

#[test]
fn fuzz_is_no_way_to_apply() {
    let lab = Lab::new();
    // One of three lines of context differs: patch(1) would take it with fuzz 1.
    edit(&lab.linux().join("arch/riscv/kernel/entry.S"), "line 7\n", "line seven\n");
    git(&lab.linux(), &["commit", "-q", "-a", "-m", "other"]);
    lab.with_ksrc(&["kernels"]).fails(2, &["0001-riscv-first.patch", "arch/riscv/kernel/entry.S", "hunk 1 (line 7)"]);
}

#[test]
fn a_file_that_is_gone_and_a_broken_mail_are_named() {
    let lab = Lab::new();
    fs::remove_file(lab.linux().join("arch/riscv/kernel/entry.S")).unwrap();
    git(&lab.linux(), &["commit", "-q", "-a", "-m", "gone"]);
    lab.with_ksrc(&["kernels"]).fails(2, &["0001-riscv-first.patch", "arch/riscv/kernel/entry.S"]);
    let lab = Lab::new();
    edit(&patch(&lab, "0002"), "-line 20\n", "");
    lab.with_ksrc(&["kernels"]).fails(2, &["0002-riscv-switch.patch", "corrupt"]);
    let lab = Lab::new();
    write(&lab.patches().join("0003-none.patch"), "nothing\n");
    lab.with_ksrc(&["kernels"]).fails(2, &["0003-none.patch"]);
}

#[test]
fn applying_gives_what_plain_git_am_gives() {
    let lab = Lab::new();
    lab.with_ksrc(&["series-check"]).passes();
    let tree = lab.out().join("linux-ksrc");
    let plain = lab.dir.path().join("plain");
    git(lab.dir.path(), &["clone", "-q", "linux", "plain"]);
    // The cover letter does not match: this is what the README says to type.
    git(&plain, &["am", "-q", patch(&lab, "0001").to_str().unwrap(), patch(&lab, "0002").to_str().unwrap()]);
    let show = ["log", "--format=%T %an %ae %ad %B", "-2"];
    assert_eq!(git(&plain, &show), git(&tree, &["log", "--format=%T %an %ae %ad %B", "-2", "series"]));
}

#[test]
fn the_check_finds_style_signature_and_format() {
    let failed = |lab: &Lab, start: &str, word: &str| {
        let result = lab.with_ksrc(&["series-check"]);
        assert_eq!(result.code, Some(1), "{result:?}");
        let line = result.out.lines().find(|l| l.starts_with(start)).unwrap_or_else(|| panic!("{start}: {result:?}"));
        assert!(line.contains(word), "{line}");
    };
    let lab = Lab::new();
    edit(&patch(&lab, "0001"), "+line ten\n", "+line ten BADSTYLE\n");
    failed(&lab, "FAILED series: 0001-riscv-first checkpatch", "WARNING:SOME_TYPE: bad");
    let lab = Lab::new();
    edit(&patch(&lab, "0002"), "Subject:", "X-Note: CRASH\nSubject:");
    lab.with_ksrc(&["series-check"]).fails(2, &["checkpatch.pl failed", "broken"]);
    let lab = Lab::new();
    edit(&patch(&lab, "0002"), "\n---\n", "\nSigned-off-by: A Tester <tester@localhost>\n---\n");
    failed(&lab, "FAILED series: 0002-riscv-switch is not signed off", "Signed-off-by: A Tester");
    let lab = Lab::new();
    edit(
        &patch(&lab, "0001"),
        "create mode 100644 arch/riscv/mm/lazy_map.c",
        "create mode 100644 arch/riscv/mm/lazy_map.c\n create mode 100644 rust/kernel/a.rs",
    );
    let added = "diff --git a/rust/kernel/a.rs b/rust/kernel/a.rs\nnew file mode 100644\n--- /dev/null\n+++ b/rust/kernel/a.rs\n@@ -0,0 +1 @@\n+fn  a() {}\n";
    edit(&patch(&lab, "0001"), "diff --git a/arch/riscv/mm", &format!("{added}diff --git a/arch/riscv/mm"));
    write(&lab.repo().join("rust/kernel/a.rs"), "fn  a() {}\n");
    lab.script("rustfmt", "if /bin/grep -q 'fn  a'; then echo 'Diff in <stdin>:1:'; exit 1; fi");
    failed(&lab, "FAILED series: rustfmt", "rust/kernel/a.rs: Diff in");
}

#[test]
fn the_check_compares_with_sources_and_commits() {
    let failed = |lab: &Lab, word: &str| {
        let result = lab.with_ksrc(&["series-check"]);
        assert_eq!(result.code, Some(1), "{result:?}");
        let line = result.out.lines().find(|l| l.starts_with("FAILED series: patches are what")).unwrap();
        assert!(line.contains(word), "{line}");
    };
    // An edited source.
    let lab = Lab::new();
    write(&lab.repo().join("arch-riscv/mm/lazy_map.c"), "int lazy;\nint third;\n");
    failed(&lab, "0002-riscv-switch.patch is not what sources and commits give");
    // A source that no commit has; a file of a commit that has no source.
    let lab = Lab::new();
    write(&lab.repo().join("arch-riscv/mm/new.c"), "int x;\n");
    failed(&lab, "no commit of the series has arch/riscv/mm/new.c");
    let lab = Lab::new();
    fs::remove_file(lab.repo().join("arch-riscv/mm/lazy_map.c")).unwrap();
    failed(&lab, "there is no arch-riscv/mm/lazy_map.c");
    // A commit in the work tree.
    let lab = Lab::new();
    lab.with_ksrc(&["series-check"]).passes();
    let tree = lab.out().join("linux-ksrc");
    git(&tree, &["checkout", "-q", "series"]);
    edit(&tree.join("arch/riscv/kernel/entry.S"), "line 30\n", "line thirty\n");
    git(&tree, &["commit", "-q", "-a", "-m", "riscv: third"]);
    failed(&lab, "is not what sources and commits give");
    // Editing the copy of a source there is a mistake.
    edit(&tree.join("arch/riscv/mm/lazy_map.c"), "second", "other");
    git(&tree, &["commit", "-q", "-a", "-m", "riscv: fourth"]);
    failed(&lab, "whose source is arch-riscv/mm/lazy_map.c");
}

/// Whoever submits them puts a name on them. What git makes up of a machine's name is none.
#[test]
fn the_patches_of_the_project_name_nobody() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut folders: Vec<_> = fs::read_dir(root.join("patches")).unwrap().map(|e| e.unwrap().path()).collect();
    folders.retain(|folder| folder.is_dir());
    let mails = folders.iter().flat_map(|folder| fs::read_dir(folder).unwrap()).map(|e| e.unwrap().path());
    let mails: Vec<_> = mails.filter(|mail| mail.extension().is_some_and(|e| e == "patch")).collect();
    assert!(mails.len() > 60, "{}", mails.len());
    for mail in mails {
        let text = fs::read_to_string(&mail).unwrap();
        let author: Vec<&str> = text.lines().filter(|line| line.starts_with("From:")).collect();
        assert_eq!(author, ["From: lazymap <lazymap@localhost>"], "{}", mail.display());
        assert!(!text.contains("\nSigned-off-by:"), "{}", mail.display());
    }
}

#[test]
fn the_recipe_for_submitting_satisfies_the_bot() {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../CONTRIBUTING.md")).unwrap();
    let recipe = text.lines().map(str::trim).find(|l| l.starts_with("git rebase ")).unwrap().replace("v7.3.4", "base");
    let lab = Lab::new();
    let tree = lab.linux();
    git(&tree, &["tag", "base"]);
    let mut patches: Vec<_> = fs::read_dir(lab.patches()).unwrap().flatten().map(|e| e.path()).collect();
    patches.retain(|p| p.extension().is_some_and(|e| e == "patch"));
    patches.sort();
    let mut am = vec!["-c", "user.name=submitter", "-c", "user.email=submitter@localhost", "am", "-q"];
    am.extend(patches.iter().map(|p| p.to_str().unwrap()));
    git(&tree, &am);
    let mut sh = std::process::Command::new("sh");
    sh.args(["-c", &recipe]).current_dir(&tree).env("GIT_CONFIG_GLOBAL", "/dev/null").env("HOME", lab.dir.path());
    sh.env("EMAIL", "submitter@localhost");
    for who in ["AUTHOR", "COMMITTER"] {
        sh.env(format!("GIT_{who}_NAME"), "submitter").env(format!("GIT_{who}_EMAIL"), "submitter@localhost");
    }
    assert!(sh.status().unwrap().success());
    // What the bot's verify_signedoff.sh asks for: author and committer are among those who sign off.
    let log = git(&tree, &["log", "--format=%ae %ce %(trailers:key=Signed-off-by,separator=%x2C)", "base..HEAD"]);
    let lines: Vec<&str> = log.lines().collect();
    assert_eq!(lines.len(), 2, "{log}");
    let signed = "submitter@localhost submitter@localhost Signed-off-by: submitter <submitter@localhost>";
    assert!(lines.iter().all(|line| *line == signed), "{log}");
}
