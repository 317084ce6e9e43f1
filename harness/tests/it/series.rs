// SPDX-License-Identifier: GPL-2.0-only
//! `make series`: patches come from sources and commits, the same bytes every time.

use std::fs;
use std::path::PathBuf;

use crate::common::mirror::{Mirror, lab};
use crate::common::{Lab, Said, edit, git, said, write};

fn tool(lab: &Lab, mirror: &Mirror, verb: &str) -> Said {
    said(lab.tool().env("LAZYMAP_MIRROR", &mirror.address).arg(verb))
}

/// A lab whose base is recorded and whose patches are as the tool writes them.
fn settled() -> (Lab, Mirror, PathBuf) {
    let (lab, mirror) = lab();
    let first = tool(&lab, &mirror, "series");
    first.fails(2, &["base.toml records commit", "correct base.toml"]);
    let tree = lab.out().join("linux-7.3");
    let id = git(&tree, &["rev-parse", "lazymap-base"]);
    let base = lab.repo().join("base.toml");
    let text = fs::read_to_string(&base).unwrap();
    let line = text.lines().find(|l| l.starts_with("commit = ")).unwrap();
    write(&base, &text.replace(line, &format!("commit = \"{id}\"")));
    tool(&lab, &mirror, "series").passes();
    (lab, mirror, tree)
}

/// All files of the series with their contents.
fn patches(lab: &Lab) -> Vec<(String, String)> {
    let name = |p: &PathBuf| p.file_name().unwrap().to_str().unwrap().to_owned();
    let entries = fs::read_dir(lab.patches()).unwrap().flatten().map(|e| e.path());
    let mut all: Vec<_> = entries.map(|p| (name(&p), fs::read_to_string(&p).unwrap())).collect();
    all.sort();
    all
}

#[test]
fn the_same_bytes_every_time() {
    let (lab, mirror, tree) = settled();
    let first = patches(&lab);
    let names: Vec<&str> = first.iter().map(|(n, _)| n.as_str()).collect();
    assert_eq!(names, ["0000-cover-letter.txt", "0001-riscv-first.patch", "0002-riscv-switch.patch"]);
    assert!(first[0].1.contains("Subject: [PATCH 0/2] A series\n\nIts text.\n"), "{}", first[0].1);
    assert!(first[0].1.contains("base-commit: ") && first[0].1.contains("\nDate: "), "{}", first[0].1);
    assert!(first[0].1.contains("\nMessage-ID: <lazymap-7.3-0000-"), "{}", first[0].1);
    let mbox = fs::read_to_string(lab.out().join("mail/linux-7.3.mbox")).unwrap();
    assert_eq!(mbox.matches("\nMessage-ID: ").count(), 3, "{mbox}");
    assert!(first[1].1.starts_with("From 0000000000000000000000000000000000000000 "), "{}", first[1].1);
    fs::remove_dir_all(&tree).unwrap();
    tool(&lab, &mirror, "series").passes();
    assert_eq!(patches(&lab), first);
    let check = tool(&lab, &mirror, "series-check");
    check.passes();
    assert!(check.out.contains("what sources and commits give: byte for byte"), "{check:?}");
    // What git am is given in the README: every file that matches.
    let plain = lab.dir.path().join("plain");
    git(lab.dir.path(), &["clone", "-q", "linux", "plain"]);
    let files: Vec<String> = first
        .iter()
        .filter(|(n, _)| n.ends_with(".patch"))
        .map(|(n, _)| lab.patches().join(n).display().to_string())
        .collect();
    let mut args = vec!["am", "-q"];
    args.extend(files.iter().map(String::as_str));
    git(&plain, &args);
    assert_eq!(git(&plain, &["rev-parse", "HEAD^{tree}"]), git(&tree, &["rev-parse", "series^{tree}"]));
}

#[test]
fn a_source_replaces_its_file_from_the_last_commit_that_touches_it() {
    let (lab, mirror, tree) = settled();
    let before = patches(&lab);
    write(&lab.repo().join("arch-riscv/mm/lazy_map.c"), "int lazy;\nint third;\n");
    tool(&lab, &mirror, "series").passes();
    let after = patches(&lab);
    assert_eq!(before[1], after[1], "the first patch has an earlier version of its own");
    assert!(after[2].1.contains("+int third;") && !after[2].1.contains("second"), "{}", after[2].1);
    assert_eq!(git(&tree, &["status", "--porcelain"]), "", "what is checked out is not disturbed");
    // And back: the very same bytes.
    write(&lab.repo().join("arch-riscv/mm/lazy_map.c"), "int lazy;\nint second;\n");
    tool(&lab, &mirror, "series").passes();
    assert_eq!(patches(&lab), before);
    // A commit that becomes empty is no commit.
    write(&lab.repo().join("docs/kernel/x.rst"), "x\n");
    tool(&lab, &mirror, "series")
        .fails(2, &["no commit of the series has Documentation/arch/riscv/x.rst", "docs/kernel/x.rst"]);
    assert_eq!(patches(&lab), before, "a failure changes nothing");
}

#[test]
fn commits_of_the_work_tree_are_taken() {
    let (lab, mirror, tree) = settled();
    git(&tree, &["checkout", "-q", "series"]);
    edit(&tree.join("arch/riscv/kernel/entry.S"), "line 30\n", "line thirty\n");
    write(&tree.join("Documentation/arch/riscv/x.rst"), "");
    git(&tree, &["add", "-A", "-f"]);
    git(&tree, &["commit", "-q", "-m", "Documentation: riscv: third"]);
    write(&lab.repo().join("docs/kernel/x.rst"), "text\n");
    tool(&lab, &mirror, "series").passes();
    let third = patches(&lab)[3].clone();
    assert_eq!(third.0, "0003-Documentation-riscv-third.patch");
    assert!(third.1.contains("+line thirty") && third.1.contains("+text\n"), "{}", third.1);
    assert!(third.1.contains("From: tester <tester@localhost>"), "{}", third.1);
    // Dropping it again removes its file.
    git(&tree, &["checkout", "-q", "series"]);
    git(&tree, &["reset", "-q", "--hard", "HEAD~1"]);
    fs::remove_file(lab.repo().join("docs/kernel/x.rst")).unwrap();
    tool(&lab, &mirror, "series").passes();
    assert_eq!(patches(&lab).len(), 3);
}

#[test]
fn work_is_never_thrown_away() {
    let (lab, mirror, tree) = settled();
    git(&tree, &["checkout", "-q", "series"]);
    edit(&tree.join("arch/riscv/kernel/entry.S"), "line 30\n", "line thirty\n");
    git(&tree, &["commit", "-q", "-a", "-m", "riscv: third"]);
    let mine = git(&tree, &["rev-parse", "HEAD"]);
    // The patches change, too: which of the two is meant?
    let patch = lab.patches().join("0001-riscv-first.patch");
    edit(&patch, "line ten", "line TEN");
    let both = ["have changed", "make series", "update-ref"];
    for verb in ["series", "kernels"] {
        tool(&lab, &mirror, verb).fails(2, &both[..1]);
    }
    assert_eq!(git(&tree, &["rev-parse", "series"]), mine);
    edit(&patch, "line TEN", "line ten");
    // A commit on top of what is checked out, but on no branch.
    git(&tree, &["checkout", "-q", "--detach"]);
    edit(&tree.join("arch/riscv/kernel/entry.S"), "line 40\n", "line forty\n");
    git(&tree, &["commit", "-q", "-a", "-m", "riscv: fourth"]);
    tool(&lab, &mirror, "kernels").fails(2, &["is on no branch", "put it on the branch series"]);
    git(&tree, &["checkout", "-q", "series"]);
    edit(&tree.join("arch/riscv/kernel/entry.S"), "line 40\n", "line forty\n");
    tool(&lab, &mirror, "kernels").fails(2, &["arch/riscv/kernel/entry.S", "not committed"]);
    assert!(fs::read_to_string(tree.join("arch/riscv/kernel/entry.S")).unwrap().contains("line forty"));
    // A merge is not linear.
    git(&tree, &["checkout", "-q", "."]);
    git(&tree, &["checkout", "-q", "-b", "side", "lazymap-base"]);
    git(&tree, &["commit", "-q", "--allow-empty", "-m", "side"]);
    git(&tree, &["checkout", "-q", "series"]);
    git(&tree, &["merge", "-q", "--no-ff", "-m", "merge", "side"]);
    tool(&lab, &mirror, "series").fails(2, &["not a linear series of commits", "rebase"]);
    // Nor is one whose other parent lies before the series.
    git(&tree, &["reset", "-q", "--hard", "HEAD~1"]);
    let files = git(&tree, &["rev-parse", "HEAD^{tree}"]);
    let merge = git(&tree, &["commit-tree", &files, "-p", "HEAD", "-p", "lazymap-base", "-m", "merge"]);
    git(&tree, &["reset", "-q", "--hard", &merge]);
    tool(&lab, &mirror, "series").fails(2, &["not a linear series of commits", "rebase"]);
}

#[test]
fn the_demo_takes_edited_sources_without_writing_patches() {
    let (lab, mirror, tree) = settled();
    let before = patches(&lab);
    // Even if the branch itself is checked out, moving it must not look like an edit by hand.
    git(&tree, &["checkout", "-q", "series"]);
    lab.script("make", "exit 2");
    for text in ["int lazy;\nint third;\n", "int lazy;\nint fourth;\n"] {
        write(&lab.repo().join("arch-riscv/mm/lazy_map.c"), text);
        let result = tool(&lab, &mirror, "kernels");
        assert!(
            result.err.contains("note: sources differ from patches/: testing them; run `make series`"),
            "{result:?}"
        );
        result.fails(2, &["`make", "failed"]);
        assert_eq!(git(&tree, &["show", "series:arch/riscv/mm/lazy_map.c"]), text.trim());
    }
    assert_eq!(patches(&lab), before);
    write(&lab.repo().join("arch-riscv/mm/lazy_map.c"), "int lazy;\nint second;\n");
    let result = tool(&lab, &mirror, "kernels");
    assert!(!result.err.contains("note: sources"), "{result:?}");
    // After a finished check-out an edit by hand is one,
    edit(&tree.join("arch/riscv/Kconfig"), "RISCV", "MINE");
    tool(&lab, &mirror, "kernels").fails(2, &["arch/riscv/Kconfig", "not committed"]);
    // after one that was interrupted half of it is there, and it is done again.
    edit(&tree.join(".git/lazymap.json"), "\"checking_out\": null", "\"checking_out\": \"x\"");
    write(&tree.join(".git/index.lock"), "");
    tool(&lab, &mirror, "kernels").fails(2, &["`make", "failed"]);
    assert!(fs::read_to_string(tree.join("arch/riscv/Kconfig")).unwrap().contains("RISCV"));
}

#[test]
fn each_base_has_its_lines_in_the_table() {
    let (lab, mirror, _) = settled();
    let base = lab.repo().join("base.toml");
    let text = fs::read_to_string(&base).unwrap();
    let first = &text[text.find("[[linux]]").unwrap()..text.find("[[qemu]]").unwrap()];
    // Another version as far as the tool can tell, from the same package.
    let second = first.replace("\"7.3\"", "\"7.3.4\"").replace("patches/linux-7.3", "patches/linux-7.3.4");
    write(&base, &text.replacen("[[qemu]]", &format!("{second}[[qemu]]"), 1));
    let other = lab.repo().join("patches/linux-7.3.4");
    patches(&lab).iter().for_each(|(name, text)| write(&other.join(name), text));
    let check = |base: &str| {
        let mut tool = lab.tool();
        said(tool.env("LAZYMAP_MIRROR", &mirror.address).args(["series-check", "--base", base]))
    };
    let rows = |said: &Said| said.out.lines().filter(|l| l.starts_with("7.3.4  ")).count();
    let all = check("all");
    all.passes();
    assert_eq!(rows(&all), 6, "{all:?}");
    assert!(all.out.contains("ok     series: git am") && all.out.contains("ok     series 7.3.4: git am"), "{all:?}");
    let one = check("7.3.4");
    one.passes();
    assert_eq!(rows(&one), 3, "{one:?}");
    // What was found out is printed even if the next kernel cannot be had.
    fs::remove_dir_all(other).unwrap();
    let half = check("all");
    half.fails(2, &["patches/linux-7.3.4 has no patches"]);
    assert_eq!(rows(&half), 3, "{half:?}");
}

#[test]
fn a_base_may_have_a_part_of_the_topics() {
    let (lab, mirror, _) = settled();
    let base = lab.repo().join("base.toml");
    let text = fs::read_to_string(&base).unwrap();
    let first = &text[text.find("[[linux]]").unwrap()..text.find("[[qemu]]").unwrap()];
    let part = "topics = [\"fixes\"]\nwithout = [\"Kconfig\"]\ncover = \"docs/part.md\"\nsubject_prefix = \"PATCH 7.3.y\"\ntarball = ";
    let second = first.replace("\"7.3\"", "\"7.3.4\"").replace("patches/linux-7.3", "patches/linux-7.3.4");
    write(&base, &text.replacen("[[qemu]]", &format!("{}[[qemu]]", second.replace("tarball = ", part)), 1));
    let letter = lab.repo().join("docs/part.md");
    write(&letter, "A part\n\n1. Fixes, patches 1 to 1.\n");
    write(&lab.repo().join("Kconfig"), "config OTHER\n");
    let folder = lab.repo().join("patches/linux-7.3.4");
    let (name, mail) = &patches(&lab)[1];
    write(&folder.join(name), mail);
    let ask = |verb: &str| said(lab.tool().env("LAZYMAP_MIRROR", &mirror.address).args([verb, "--base", "7.3.4"]));
    ask("series").passes();
    let cover = fs::read_to_string(folder.join("0000-cover-letter.txt")).unwrap();
    assert!(cover.contains("Subject: [PATCH 7.3.y 0/1] A part\n"), "{cover}");
    let check = ask("series-check");
    check.passes();
    let rows: Vec<&str> = check.out.lines().filter(|l| l.starts_with("7.3.4  ")).collect();
    assert!(rows.len() == 2 && rows[0].contains(" fixes ") && rows[1].contains(" all "), "{check:?}");
    // It has a letter of its own, so the numbers in there are its own as well.
    write(&letter, "A part\n\n1. Fixes, patches 1 to 2.\n");
    ask("series").passes();
    let wrong = ask("series-check");
    assert!(wrong.code == Some(1) && wrong.out.contains("it says patches 1 to 2 of the topic fixes"), "{wrong:?}");
    // It has no kernels to show.
    ask("kernels").fails(64, &["BASE=7.3.4: it has a part of the series"]);
    // A source that it lacks has to be named.
    edit(&base, "without = [\"Kconfig\"]\n", "");
    ask("series").fails(2, &["no commit of the series has arch/riscv/mm/Kconfig"]);
    edit(&base, "topics = [\"fixes\"]", "topics = [\"fix\"]");
    ask("series-check").fails(2, &["a kernel has the topic fix, which does not exist"]);
}
